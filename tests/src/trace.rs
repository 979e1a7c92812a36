//! A run as a text: the settings of a world and the ops that happened in it.

use core::{fmt, str::FromStr};

use crate::{
    op::{Op, TextError, lines},
    settings::Settings,
};

/// Settings and ops. In its text form one line each; `#` begins a comment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trace {
    /// What the world is made of.
    pub settings: Settings,
    /// What happens in it, before the faults end and it becomes quiet.
    pub ops: Vec<Op>,
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.settings)?;
        self.ops.iter().try_for_each(|op| writeln!(f, "{op}"))
    }
}

impl FromStr for Trace {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let mut trace = Self::default();
        for (place, (line, text)) in lines(text).enumerate() {
            let at = |error| TextError { line, error };
            if place == 0 && text.split(' ').next() == Some("settings") {
                trace.settings = text.parse().map_err(at)?;
            } else {
                trace.ops.push(text.parse().map_err(at)?);
            }
        }
        Ok(trace)
    }
}
