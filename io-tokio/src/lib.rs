//! A WebSocket client on tokio whose messages survive bad connections.

pub mod connect;
pub mod tls;
pub mod transport;

mod builder;
mod desk;
mod driver;
mod handle;
mod inbound;
mod log;
mod race;
mod retry_after;
mod upgrade;
mod url;

pub use bowline_core as core;
pub use bowline_core::{
    Attempt, Backoff, Body, Dialect, FailReason, Fate, Jitter, Key, Level, Loss, Phase, Plain,
    PushOptions, Seq, Snapshot, Status, StopReason,
};
pub use builder::{Ask, BuildError, BuildRefused, Builder, Config, Request};
pub use desk::{Failure, FailureReason, ReceiptError, SendRefused, WaitError};
pub use driver::Driver;
#[cfg(feature = "json")]
pub use handle::JsonError;
pub use handle::{Delivery, Handle, Permit, Receipt, Report, SendError, Unsent};
pub use inbound::Inbound;

/// Counters since the beginning, and gauges of now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Stats {
    /// Of the core.
    pub client: bowline_core::Stats,
    /// Messages that the driver has taken and the outbox has no room for yet.
    pub backlog: usize,
    /// How often the driver was polled.
    pub polls: u64,
}
