//! The test kit of Bowline: what its own suites are made of, for your policies and runtimes too.

pub mod bugs;
pub mod fuzz;
pub mod hazards;
pub mod story;
