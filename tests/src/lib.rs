//! The test kit of Bowline: what its own suites are made of, for your policies and runtimes too.

pub mod client_events;
pub mod history;
pub mod link;
pub mod op;
pub mod oracle;
pub mod peer;
pub mod run;
pub mod settings;
pub mod statement;
pub mod swarm;
pub mod trace;
pub mod transcript;
pub mod twice;
mod watched;
pub mod world;
