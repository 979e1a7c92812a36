//! The test kit of Bowline: what its own suites are made of, for your policies and runtimes too.
//!
//! A real client lives in a [`world`]: a [link] that fails at any byte, a [peer] with its own
//! ledger, a clock that is a number. [Ops](op) happen in it, and the [oracle] judges by numbered
//! [statements](statement) what is [seen from outside](history). A seed makes all of it: see
//! [`swarm`].
//!
//! # Put your settings under it
//!
//! ```
//! use bowline_core::{Backoff, ClientConfig, ConnectionConfig, Jitter};
//! use bowline_testkit::{
//!     oracle::{Oracle, Rules}, peer::PlainPeer, run::{self, Lives}, settings::Chance, swarm::Dealer,
//! };
//! use std::time::Duration;
//!
//! let backoff = Backoff { base: Duration::from_millis(100), jitter: Jitter::Equal, ..Backoff::default() };
//! let connection = ConnectionConfig { backoff, ..ConnectionConfig::default() };
//! let config = ClientConfig { connection, ..ClientConfig::default() };
//! for seed in 0..50 {
//!     let ops = Dealer::deal_ops(seed, config.connection.ping_interval);
//!     let judge = |outbox| Oracle::new(Rules::new(config.clone(), outbox));
//!     let dice = (Chance::Seeded, seed);
//!     let outcome = run::run_in(config.clone(), PlainPeer, dice, &ops, Lives::Twice, judge);
//!     assert_eq!(outcome.violation, None, "seed {seed}");
//! }
//! ```
//!
//! A dialect of your own comes with a [`Peer`](peer::Peer) that speaks it: what the server makes of
//! a frame, in place of `PlainPeer`. A [`Witness`](world::Witness) of your own can look on as well.
//!
//! # When it fails
//!
//! The binary `simulate` does that for the kit's own worlds, by the million; it [shrinks](run::shrink)
//! what fails, prints it with its story, and saves it as a [`trace`] that every test run replays:
//!
//! ```sh
//! cargo run --release -p bowline-testkit --bin simulate -- --seeds 100000 --save
//! ```

pub mod bugs;
pub mod diagram;
pub mod fuzz;
pub mod hazards;
pub mod history;
pub mod link;
pub mod marks;
pub mod model;
pub mod op;
pub mod oracle;
pub mod peer;
pub mod run;
pub mod settings;
pub mod statement;
pub mod story;
pub mod swarm;
pub mod trace;
pub mod transcript;
pub mod twice;
pub mod verdicts;
mod watched;
pub mod world;
