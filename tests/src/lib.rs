//! The test kit of Bowline, for what you put into it: a policy, settings, a dialect, a runtime.
//!
//! A real client lives in a [`world`]: a [link] that fails at any byte, a [peer], a clock that is a
//! number. [Ops](op) happen in it, and the [oracle] judges by numbered [statements](statement) what
//! is [seen from outside](history). A seed makes all of it; see [`swarm`]. [`run::check`] does that
//! for a range of seeds.
//!
//! # Your policy
//!
//! A [`Backoff`](bowline_core::Backoff) is four values. What follows from the end of a connection is
//! a function, and the oracle goes by the one that the settings name.
//!
//! ```
//! use bowline_core::{
//!     Backoff, ClientConfig, ConnectionConfig, Jitter, Loss, Verdict, VerdictLimits, loss,
//! };
//! use bowline_testkit::{peer::PlainPeer, run};
//! use std::time::Duration;
//!
//! fn verdict(loss: Loss, limits: VerdictLimits) -> Verdict {
//!     match loss {
//!         Loss::Status { status: 404, .. } => Verdict::Retry, // It is being deployed.
//!         other => loss::verdict(other, limits),
//!     }
//! }
//! let backoff =
//!     Backoff { base: Duration::from_millis(100), jitter: Jitter::Equal, ..Backoff::default() };
//! let connection = ConnectionConfig { backoff, verdict, ..ConnectionConfig::default() };
//! let config = ClientConfig { connection, ..ClientConfig::default() };
//! run::check(&config, &PlainPeer, 0..20)?;
//! # Ok::<(), Box<run::Failure>>(())
//! ```
//!
//! # Your settings
//!
//! ```
//! use bowline_core::{ClientConfig, Level, OutboxConfig, Overflow};
//! use bowline_testkit::{peer::NumberedPeer, run};
//!
//! let outbox = OutboxConfig {
//!     level: Level::Acked,
//!     max_messages: 10,
//!     window_messages: 3,
//!     overflow: Overflow::EvictOldest,
//!     ..OutboxConfig::default()
//! };
//! let config = ClientConfig { outbox, ..ClientConfig::default() };
//! run::check(&config, &NumberedPeer::default(), 0..20)?;
//! # Ok::<(), Box<run::Failure>>(())
//! ```
//!
//! # Your dialect
//!
//! It comes with a [`Peer`](peer::Peer): what a server makes of its frames. A message of the world
//! has a number, and the peer says where in a body that is.
//!
//! ```
//! use bowline_core::{Ack, Body, ClientConfig, Dialect, Level, OutboxConfig, Sink};
//! use bowline_testkit::{peer::{Desk, Peer}, run};
//!
//! /// A server that says `ok` to one message after the other.
//! struct Okay;
//!
//! impl Dialect for Okay {
//!     type Message = Body;
//!     type Inbound = Body;
//!     type Credentials = ();
//!     type Error = core::convert::Infallible;
//!     const ACKS: bool = true;
//!
//!     fn encode(message: Body) -> Result<Body, (Body, Self::Error)> {
//!         Ok(message)
//!     }
//!
//!     fn decode(&mut self, frame: Body, sink: &mut Sink<Body>) {
//!         match frame.as_text() {
//!             Some("ok") => sink.ack(Ack::Next),
//!             _ => drop(sink.inbound(frame)),
//!         }
//!     }
//! }
//!
//! #[derive(Clone)]
//! struct Server;
//!
//! impl Peer for Server {
//!     type Dialect = Okay;
//!     const POSITIONAL: bool = true;
//!
//!     fn dialect(&self) -> Okay {
//!         Okay
//!     }
//!
//!     fn body(&self, message: u64, bytes: usize, level: Level) -> Body {
//!         let wants = if level == Level::Acked { "ack" } else { "" };
//!         Body::text(format!("{message} {wants:bytes$}"))
//!     }
//!
//!     fn message(&self, body: &Body) -> u64 {
//!         let text = body.as_text().unwrap_or_default();
//!         text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(u64::MAX)
//!     }
//!
//!     fn read(&self, frame: &Body, messages: &mut Vec<u64>) {
//!         messages.push(self.message(frame));
//!     }
//!
//!     fn take(&mut self, frame: &Body, desk: &mut Desk) {
//!         desk.processed(self.message(frame));
//!         if frame.as_text().is_some_and(|text| text.contains("ack")) {
//!             desk.ack("ok".into());
//!         }
//!     }
//! }
//!
//! let outbox = OutboxConfig { level: Level::Acked, ..OutboxConfig::default() };
//! let config = ClientConfig { outbox, ..ClientConfig::default() };
//! run::check(&config, &Server, 0..20)?;
//! # Ok::<(), Box<run::Failure>>(())
//! ```
//!
//! # When it fails
//!
//! The [`Failure`](run::Failure) has the [trace](trace::Trace) of the fewest ops that still show it,
//! and the story of what was seen. Keep the text of the trace, and run it again with
//! [`run::check_trace`].
//!
//! # Your runtime
//!
//! Say to an [`Oracle`](oracle::Oracle) what your driver tells the client, what the client says and
//! what your peer gets, as [moments](history::Moment). Or put the clients of the kit under a
//! [`Witness`](world::Witness) of your own.
//!
//! The binary `simulate` does all this for the kit's own worlds, by the million:
//!
//! ```sh
//! cargo run --release -p bowline-testkit --bin simulate -- --seeds 100000 --save
//! ```

pub mod peer;
pub mod run;

pub mod history;
pub mod oracle;
pub mod statement;

pub mod link;
pub mod marks;
pub mod op;
pub mod settings;
pub mod swarm;
pub mod trace;
pub mod transcript;
pub mod world;

pub mod story;

// What the suites and binaries of this package, and the fuzz targets, are made of.
#[doc(hidden)]
pub mod bugs;
#[doc(hidden)]
pub mod diagram;
#[doc(hidden)]
pub mod fuzz;
#[doc(hidden)]
pub mod hazards;
#[doc(hidden)]
pub mod model;
mod scenes;
pub mod twice;
pub mod verdicts;
mod watched;
