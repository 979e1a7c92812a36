//! Sans-IO state machines that make messages survive bad connections.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod backoff;
pub mod config;
pub mod dialect;
pub mod loss;
mod outbox;
mod time;

pub use backoff::{Backoff, Jitter};
pub use config::ConfigError;
pub use dialect::{Beat, Body, Dialect, Frame, Greeting, Opened, Plain, Signal, Sink};
pub use loss::{Loss, Refusal, Verdict, VerdictFn, VerdictLimits};
pub use outbox::{Ack, Batch, Item, Level, MessageId, Nack, OutboxId, Seq};
pub use time::{Attempt, Deadline, Instant, Timer};
