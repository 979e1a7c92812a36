//! A WebSocket client on tokio whose messages survive bad connections.
//!
//! Every message that is handed to it ends in exactly one known outcome, in order, whatever the
//! network does: delivered, or failed and handed back with the reason.
//!
//! **What it does not promise.** At the default level, [`Level::Received`], a message counts as
//! delivered when the server's WebSocket *library* has it, as a pong has shown. What that library
//! has read ahead is lost if the server's process dies; a gateway may answer pings itself; after a
//! reconnect a message may arrive twice. So: *at least once, first arrivals in order, no loss by
//! the network*. Where the server's process may die, use [`Level::Acked`] with a dialect that has
//! acks.
//!
//! ```no_run
//! use bowline_tokio::Builder;
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (client, mut inbound) = Builder::new("wss://example.com/feed").start()?;
//! tokio::spawn(async move {
//!     while let Some(message) = inbound.recv().await {
//!         println!("{:?}", message.as_text());
//!     }
//! });
//! client.send("hello").await?; // the client has it
//! client.send("and this").await?.await?; // the server has it
//! let report = client.close(Duration::from_secs(10)).await.map_err(|(error, _)| error)?;
//! assert!(report.is_clean());
//! # Ok(()) }
//! ```
//!
//! - [`Builder`] makes a client from a URL, or from a request provider that is asked before every
//!   attempt; it checks all settings before anything runs.
//! - [`Handle`] sends, waits, looks and closes. `Ok` of [`Handle::send`] means that the client has
//!   the message; its [`Receipt`] says when it was delivered.
//! - [`Inbound`] is the stream of the server's messages. Read it in a task of its own or drop it:
//!   while it is full, nothing is read, acks and pongs included.
//! - [`Driver`] is the one future behind them.
//!
//! Every decision is made by the state machines of [`core`], which do no I/O and are tested
//! without it. This crate moves bytes and time.
//!
//! # Where waits end
//!
//! [`Handle::send`] waits for room, [`Handle::flush`] and receipts for settlements, for as long as
//! the server is away. They end with a [`WaitError`] when there is no use in waiting: the client is
//! stopped (it gave up, or cannot connect), inbound messages block the acks, or the driver is gone.
//! Put a `tokio::time::timeout` around them for a limit of your own; dropping them loses nothing.
//!
//! # Traces
//!
//! With feature `trace`, `Builder::record` records a client in production, and `core::trace::replay`
//! lets all of it happen again on any machine, to the same outputs.
//!
//! # Logs
//!
//! With feature `tracing`, one event for each change of state, target `bowline`. No log line, error
//! or `Debug` of this crate holds a header, URL, token or payload. The framing library below logs
//! payloads at `TRACE` and the reason of a Close at `DEBUG` through the `log` crate: keep its target
//! `tungstenite` at `INFO` where payloads are secret.

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
mod trace;
mod upgrade;
mod url;

pub use bowline_core as core;
pub use bowline_core::{
    Attempt, Backoff, Body, Dialect, FailReason, Fate, Jitter, Key, Level, Loss, Phase, Plain,
    PushOptions, Seq, Snapshot, Status, StopReason,
};
#[cfg(feature = "json")]
pub use bowline_core::{Json, Numbered, NumberedConfig};
pub use builder::{Ask, BuildError, BuildRefused, Builder, Config, Request};
pub use desk::{Failure, FailureReason, ReceiptError, SendRefused, WaitError};
pub use driver::Driver;
#[cfg(feature = "json")]
pub use handle::JsonError;
pub use handle::{Delivery, Handle, Permit, Receipt, Report, SendError, Unsent};
pub use inbound::Inbound;
/// For the fuzz target `retry_after` and the test that replays its corpus; in no other build.
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub use retry_after::fuzz as fuzz_retry_after;
#[cfg(feature = "trace")]
pub use trace::TraceError;

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

/// The examples of README compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
