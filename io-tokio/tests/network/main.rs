//! The driver on bad networks: whole clients against scripted peers.
//!
//! Where time matters the network is in memory and the clock is paused, so that an hour takes no
//! time and a limit is met to the millisecond. What only a kernel can do (refuse, reset, stop
//! taking bytes) and TLS are on real sockets of this host, where nothing is said about time.

mod dialing;
mod link;
mod peer;
mod sockets;
#[cfg(feature = "rustls")]
mod tls;
