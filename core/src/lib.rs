//! Sans-IO state machines that make messages survive bad connections.
#![no_std]
#![forbid(unsafe_code)]
#![warn(
    clippy::wildcard_enum_match_arm,
    clippy::std_instead_of_core,
    clippy::alloc_instead_of_core,
    clippy::std_instead_of_alloc,
    clippy::iter_over_hash_type
)]

extern crate alloc;

pub mod backoff;
pub mod client;
pub mod config;
pub mod connection;
pub mod dialect;
mod expiry;
pub mod loss;
pub mod outbox;
mod time;

pub use backoff::{Backoff, Jitter};
pub use client::{Client, ClientConfig, Event, Output, Phase, Stats, Status};
pub use config::ConfigError;
pub use connection::{
    Connection, ConnectionConfig, ConnectionEvent, ConnectionOutput, ConnectionState,
    ConnectionStats, Link, StopReason,
};
pub use dialect::{Beat, Body, Dialect, Frame, Greeting, Opened, Plain, Received, Signal, Sink};
pub use loss::{Loss, Refusal, Verdict, VerdictFn, VerdictLimits};
pub use outbox::{
    Ack, Amount, Batch, Displaced, FailReason, Failed, Fate, Item, Key, Level, MessageId, Nack,
    OnSuspected, Outbox, OutboxConfig, OutboxEvent, OutboxId, OutboxOutput, OutboxState,
    OutboxStats, Overflow, Ping, PushError, PushOptions, Pushed, Refused, RestoreError, Seq,
    Snapshot,
};
pub use time::{Attempt, Deadline, Instant, Timer};

/// Whether the transport takes a frame now.
///
/// Ask before every poll: what a poll returns counts as handed over.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Wire {
    /// It does.
    Ready,
    /// It does not, or there is none. No frame is offered, it stays owed; everything else comes.
    Blocked,
}
