//! Sans-IO state machines that make messages survive bad connections.
//!
//! A [`Client`] takes events, frames and the time, and says what to do: dial, send, close, wait.
//! Every message that is pushed into it ends in exactly one known outcome, in order, whatever the
//! network does. It does no I/O, has no clock and no randomness of its own, never blocks and never
//! calls back, so that everything it does can be replayed, property-tested, fuzzed and checked by a
//! model checker. For a client that runs as it is, see the crate `bowline-tokio`.
//!
//! # What it promises, and what it does not
//!
//! At level [`Received`](Level::Received), with any peer that follows RFC 6455: *at least once,
//! first arrivals in order, no loss by the network*. A pong that answers a ping sent behind a
//! message is a receipt of the peer's WebSocket **library**. What that library has read ahead is
//! lost if the peer's process dies, although it was reported delivered; a gateway may answer pings
//! itself; after a reconnect a message may arrive twice. Where the peer's process may die, use
//! level [`Acked`](Level::Acked) with a dialect that has acks. With an [`Inbox`] at the other end
//! that makes *exactly once, in order*.
//!
//! # The parts
//!
//! - [`connection`]: machine 1. Dials, greets, beats, backs off, gives up.
//! - [`outbox`]: machine 2. Queues, transmits, settles.
//! - [`inbox`]: machine 3, for the receiving end. Says what is new, so that an effect can take place
//!   exactly once.
//! - [`client`]: composes them with a [`dialect`]: frames in, frames out.
//! - `trace`, with feature `serde`: records what happens to a client, and lets it happen again.
//! - [`drive`]: how to run a client, for whoever writes a driver.
//! - [`backoff`] and [`loss`]: how long to wait, and what follows from the end of a connection.
//!
//! Two arrows lead between the machines, and nothing else: the connection tells the outbox whether
//! there is a [`Link`], and the outbox tells the connection when an answer is overdue. So being
//! disconnected charges no message, and no message's failure stops the connection.
//!
//! # The contract
//!
//! - **One way in, one way out.** `handle(now, event)` and `poll(wire)`. Poll until it returns
//!   `WaitUntil`: the last thing that a drain yields is when to come back.
//! - **What is polled is handed over.** Ask the transport before each poll whether it takes a
//!   frame, and say [`Wire::Ready`] only then. With [`Wire::Blocked`] everything but frames comes.
//! - **Evidence before verdict.** Read until there is nothing more, then say [`Event::Tick`].
//! - **Time moves forward only.** A clock that stands still or runs backwards is legal.
//! - **Drained means quiet.** After a tick and a drain the deadline is absent or in the future.
//! - **Determined.** The same settings, seed and inputs give the same outputs.
//! - **Bounded** in messages and in bytes, by the settings.
//!
//! # Drive it yourself
//!
//! [`drive`] tells how, with a whole program. The example `blocking`, one file, does it with threads,
//! a poller and no async.
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
// The derive of `Arbitrary` writes `std`.
#[cfg(feature = "arbitrary")]
extern crate std;

pub mod backoff;
pub mod client;
pub mod config;
pub mod connection;
pub mod dialect;
pub mod drive;
mod expiry;
pub mod inbox;
pub mod loss;
#[cfg(feature = "json")]
pub mod numbered;
pub mod outbox;
mod time;
#[cfg(feature = "serde")]
pub mod trace;

pub use backoff::{Backoff, Jitter};
pub use client::{Client, ClientConfig, Event, Output, Phase, Stats, Status};
pub use config::ConfigError;
pub use connection::{
    Connection, ConnectionConfig, ConnectionEvent, ConnectionOutput, ConnectionState,
    ConnectionStats, Link, StopReason,
};
pub use dialect::{Beat, Body, Dialect, Frame, Greeting, Opened, Plain, Received, Signal, Sink};
pub use inbox::{Answer, Inbox, InboxConfig, InboxState, InboxStats, Lane, NotInProgress, Offer};
pub use loss::{Loss, Refusal, Verdict, VerdictFn, VerdictLimits};
#[cfg(feature = "json")]
pub use numbered::{Json, Numbered, NumberedConfig};
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
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Wire {
    /// It does.
    Ready,
    /// It does not, or there is none. No frame is offered, it stays owed; everything else comes.
    Blocked,
}
