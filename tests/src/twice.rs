//! Statements about two runs: what must be the same in both.
//!
//! Each comparison takes two whole [histories](crate::history) and the statement that is at stake.
//! How the two runs have to differ is for whoever makes them: other traffic (X2, X3), other flaps
//! (X3), a clock that is held instead of set back (D2), a restore (D3), a replay (D4), more ticks
//! (D5), another epoch (D6), nothing at all (D1).

use core::time::Duration;
use std::collections::BTreeMap;

use bowline_core::{Deadline, FailReason, Instant, Phase, Status};

use crate::{
    history::{Moment, Seen},
    statement::{Statement, Violation},
};

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It was delivered.
    Delivered,
    /// It failed.
    Failed(FailReason),
    /// It made way for another one.
    Displaced,
}

/// The same dials, aborts and closes at the same times.
///
/// # Errors
/// They are not the same.
pub fn same_dials(statement: Statement, one: &[Moment], other: &[Moment]) -> Result<(), Violation> {
    let orders = |history: &[Moment]| {
        let is_order =
            |seen: &Seen| matches!(seen, Seen::Dials(_) | Seen::Closes(_) | Seen::Aborts(_));
        history.iter().copied().filter(|moment| is_order(&moment.seen)).collect::<Vec<_>>()
    };
    same(statement, &orders(one), &orders(other))
}

/// The same outputs in the same order at the same times. How often a drain came to its end does not
/// matter, only what came out; so let both runs drain after each input.
///
/// # Errors
/// They are not the same.
pub fn same_outputs(
    statement: Statement,
    one: &[Moment],
    other: &[Moment],
) -> Result<(), Violation> {
    same(statement, &outputs(one, Duration::ZERO), &outputs(other, Duration::ZERO))
}

/// The outputs of the other run are those of the one, later by so much.
///
/// # Errors
/// They are not.
pub fn shifted_outputs(
    statement: Statement,
    one: &[Moment],
    other: &[Moment],
    by: Duration,
) -> Result<(), Violation> {
    same(statement, &outputs(one, by), &outputs(other, Duration::ZERO))
}

/// The same messages have come to the same end, whenever; and where both histories say how many
/// charges there were, as many.
///
/// # Errors
/// They have not.
pub fn same_fates(statement: Statement, one: &[Moment], other: &[Moment]) -> Result<(), Violation> {
    let (mine, theirs) = (endings(one), endings(other));
    let differs = mine.iter().find(|(message, ending)| theirs.get(message) != Some(ending));
    let missing = theirs.iter().find(|(message, _)| !mine.contains_key(message));
    if let Some((message, _)) = differs.or(missing) {
        let text = format!(
            "message {message}: {:?} in one run, {:?} in the other",
            mine.get(message),
            theirs.get(message)
        );
        return Err(Violation { statement, at: end(one), text });
    }
    match (charges(one), charges(other)) {
        (Some(mine), Some(theirs)) if mine != theirs => {
            let text = format!("{mine} charges in one run, {theirs} in the other");
            Err(Violation { statement, at: end(one), text })
        }
        (_, _) => Ok(()),
    }
}

/// What became of each message, by the number in its payload. What was restored and settled again
/// counts as it was settled last.
pub fn endings(history: &[Moment]) -> BTreeMap<u64, Ending> {
    let mut places = BTreeMap::new();
    let mut endings = BTreeMap::new();
    for moment in history {
        match moment.seen {
            Seen::Pushed { message, seq, .. } => {
                places.insert(seq, message);
            }
            Seen::Displaced { message, .. } => {
                endings.insert(message, Ending::Displaced);
            }
            Seen::Failed { message, reason, .. } => {
                endings.insert(message, Ending::Failed(reason));
            }
            Seen::Delivered { first, last } => {
                for (_, &message) in places.range(first..=last) {
                    endings.insert(message, Ending::Delivered);
                }
            }
            _ => {}
        }
    }
    endings
}

fn charges(history: &[Moment]) -> Option<u64> {
    history.iter().rev().find_map(|moment| match moment.seen {
        Seen::Gauges(gauges) => Some(gauges.charges),
        _ => None,
    })
}

/// What the client has said, each shifted in time.
fn outputs(history: &[Moment], by: Duration) -> Vec<Moment> {
    let shift = |at: Instant| if at == Instant::NEVER { at } else { at + by };
    let mut now = Instant::ZERO;
    let mut outputs = Vec::new();
    for moment in history {
        now = now.max(moment.at);
        let seen = match moment.seen {
            Seen::Status(Status {
                phase: Phase::Waiting { redial_at },
                attempt,
                last_loss,
                suspected,
            }) => {
                let phase = Phase::Waiting { redial_at: shift(redial_at) };
                Seen::Status(Status { phase, attempt, last_loss, suspected })
            }
            seen @ (Seen::Dials(_)
            | Seen::Sends { .. }
            | Seen::Closes(_)
            | Seen::Aborts(_)
            | Seen::Delivered { .. }
            | Seen::Failed { .. }
            | Seen::Status(_)) => seen,
            // The last deadline before something else is what it was waiting for.
            Seen::Waits { wire, deadline } => {
                let deadline = deadline.map(|d| Deadline { at: shift(d.at), timer: d.timer });
                let seen = Seen::Waits { wire, deadline };
                if let Some(Moment { seen: Seen::Waits { .. }, .. }) = outputs.last() {
                    outputs.pop();
                }
                outputs.push(Moment::new(Instant::ZERO, seen));
                continue;
            }
            _ => continue,
        };
        outputs.push(Moment::new(shift(now), seen));
    }
    outputs
}

fn same(statement: Statement, one: &[Moment], other: &[Moment]) -> Result<(), Violation> {
    let mut pairs = one.iter().zip(other);
    if let Some((mine, theirs)) = pairs.find(|(mine, theirs)| mine != theirs) {
        let text = format!("one run says{mine}, the other says{theirs}");
        return Err(Violation { statement, at: mine.at, text });
    }
    let more = one.get(other.len()).or(other.get(one.len()));
    match more {
        Some(more) => {
            let text = format!("only one run says{more}");
            Err(Violation { statement, at: more.at, text })
        }
        None => Ok(()),
    }
}

fn end(history: &[Moment]) -> Instant {
    history.last().map_or(Instant::ZERO, |moment| moment.at)
}
