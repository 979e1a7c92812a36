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
//! # A program
//!
//! One client and one peer, in memory, with a network that fails once:
//!
//! ```
//! use bowline_core::{
//!     Client, ClientConfig, Event, Frame, Instant, Loss, Opened, Output, Plain, PushOptions,
//!     Received, Wire,
//! };
//! use rand_core::SeedableRng;
//! use std::collections::VecDeque;
//!
//! let rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
//! let mut client = Client::new(ClientConfig::default(), Plain, rng)?;
//! let mut now = Instant::ZERO;
//! client.handle(now, Event::Start);
//! client.push(now, "hello".into(), PushOptions::default())?;
//!
//! // What the peer got, and what it has sent.
//! let (mut ledger, mut pongs) = (Vec::new(), VecDeque::new());
//! let mut connected = None;
//! 'run: loop {
//!     // Read until there is nothing more, then tell the time.
//!     if let Some(attempt) = connected {
//!         while let Some(pong) = pongs.pop_front() {
//!             let _message = client.receive(now, attempt, Received::Pong(pong));
//!         }
//!     }
//!     client.handle(now, Event::Tick);
//!
//!     // Do what is owed.
//!     let deadline = loop {
//!         let wire = if connected.is_some() { Wire::Ready } else { Wire::Blocked };
//!         match client.poll(wire) {
//!             // The first dial fails; the core backs off by itself.
//!             Output::Dial(a) if a.get() == 1 => client.handle(now, Event::Lost(a, Loss::Connect)),
//!             Output::Dial(a) => {
//!                 connected = Some(a);
//!                 client.handle(now, Event::Opened(Opened::new(a, ())));
//!             }
//!             Output::Send(_, Frame::Data(body)) => ledger.push(body),
//!             Output::Send(_, Frame::Ping(ping)) => pongs.push_back(ping.payload().to_vec().into()),
//!             Output::Delivered { first, last } => {
//!                 assert_eq!((first.get(), last.get()), (1, 1));
//!                 break 'run;
//!             }
//!             Output::Failed(failed) => panic!("{:?}", failed.reason),
//!             Output::Close(..) | Output::Abort(_) => connected = None,
//!             Output::Status(_) => {}
//!             Output::WaitUntil(deadline) => break deadline,
//!         }
//!     };
//!     if let Some(attempt) = connected {
//!         client.handle(now, Event::Flushed(attempt));
//!     }
//!     // Sleep until the deadline, or until there is something to read.
//!     if let (true, Some(deadline)) = (pongs.is_empty(), deadline) {
//!         now = deadline.at;
//!     }
//! }
//! assert_eq!(ledger, ["hello".into()]);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
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
pub mod inbox;
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
pub use inbox::{Answer, Inbox, InboxConfig, InboxStats, Lane, NotInProgress, Offer};
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
