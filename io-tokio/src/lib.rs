//! Placeholder.

pub mod connect;
mod race;
mod retry_after;
pub mod tls;
pub mod transport;
mod upgrade;
mod url;
