//! A run as a story: what was done to the world, and under it what was seen.

use std::fmt::Write as _;

use crate::{
    history::{Moment, Seen},
    op::Op,
    statement::Violation,
    world::Witness,
};

/// A witness that writes everything down but what is said again and again.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    text: String,
    /// The newest line that says what is waited for, if nothing has come since.
    waits: Option<String>,
}

impl Transcript {
    /// The story so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The whole story.
    pub fn into_text(self) -> String {
        self.text
    }
}

impl Witness for Transcript {
    fn see(&mut self, moment: &Moment) -> Result<(), Violation> {
        match moment.seen {
            // They say nothing that is new.
            Seen::Tick | Seen::Gauges(_) => return Ok(()),
            Seen::Waits { .. } => {
                self.waits = Some(moment.to_string());
                return Ok(());
            }
            _ => {}
        }
        if let Some(waits) = self.waits.take() {
            let _ = writeln!(self.text, "{waits}");
        }
        let _ = writeln!(self.text, "{moment}");
        Ok(())
    }

    fn op(&mut self, op: &Op) {
        let _ = writeln!(self.text, "> {op}");
    }
}
