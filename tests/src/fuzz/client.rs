//! A world made of the bytes that a fuzzer invents, judged as the simulator judges its own.
//!
//! The first bytes choose [`Settings`], the rest is [`Op`]s until it runs out. So the fuzzer looks
//! for what the simulator's dice would not throw, guided by the code that it reaches, and what it
//! finds is a [`Trace`] like any other: it is shrunk, printed, and can stand in `tests/traces`.
//!
//! For a seed that is a multiple of 16, lives are played twice.
//!
//! A run is short: so many ops at most, and together they let no more time pass than a few hundred of
//! the client's deadlines; less if its dice let it redial every millisecond of it.

use arbitrary::{Arbitrary, Unstructured};
use bowline_core::Jitter;

use crate::{
    op::{ClientOp, ClockOp, LinkOp, Micros, Op},
    oracle::Oracle,
    run::{Failure, Lives, Outcome, explain, judge_lives},
    settings::{Chance, Settings},
    trace::Trace,
};

/// Ops of one run.
const OPS: usize = 200;
/// What passes in one run, in ping intervals.
const INTERVALS: u64 = 50;
/// What passes at most in the run of a client that redials at once, in microseconds: a refused dial
/// takes a thousand of them.
const AT_ONCE: u64 = 10_000_000;

/// Reads a trace from `data` and lets the oracle judge it.
///
/// # Panics
/// A statement does not hold. The text of the panic is the trace, shrunk, which begins with the
/// violation as a comment.
pub fn run(data: &[u8]) {
    let trace = read(data);
    let Some(violation) = judge(&trace).violation else { return };
    let Failure { violation, trace, .. } = explain(&trace, violation);
    panic!("for tests/traces/NAME.ops:\n# {violation}\n{trace}");
}

fn judge(trace: &Trace) -> Outcome<Oracle> {
    let twice = trace.settings.seed.is_multiple_of(16);
    judge_lives(trace, if twice { Lives::Twice } else { Lives::Once })
}

/// The trace that the bytes make; bytes that run out are zeros.
fn read(data: &[u8]) -> Trace {
    let mut bytes = Unstructured::new(data);
    let settings = Settings::arbitrary(&mut bytes).unwrap_or_default();
    let mut ops = vec![Op::Client(ClientOp::Start)];
    let at_once = settings.chance == Chance::Zeros && settings.jitter == Jitter::Full;
    let longest = if at_once { AT_ONCE } else { u64::MAX };
    let mut left = (settings.ping_interval.0 * INTERVALS).min(longest);
    while ops.len() < OPS && !bytes.is_empty() {
        let Ok(op) = Op::arbitrary(&mut bytes) else { break };
        let op = tame(op, left);
        if let Op::Pass(time) = op {
            left -= time.0;
        }
        ops.push(op);
    }
    Trace { settings, ops }
}

/// The op with a number of a size that matters: small ones are as likely as large ones, and times
/// are no longer than what is left of the run.
fn tame(mut op: Op, left: u64) -> Op {
    let longest = match op {
        Op::Pass(_) | Op::Link(LinkOp::Delay(_) | LinkOp::DialTakes(_)) => left,
        Op::Clock(ClockOp::Back(_) | ClockOp::Jump(_)) => Micros::years(100).0,
        _ => u64::MAX,
    };
    if let Some(number) = op.number() {
        // The lowest bits say how many of the others count.
        *number = (*number >> (*number % 64)).min(longest);
    }
    op
}

#[cfg(test)]
mod tests {
    use rand_chacha::{
        ChaCha8Rng,
        rand_core::{Rng, SeedableRng},
    };

    use super::*;

    #[test]
    fn in_the_run_of_a_client_that_redials_at_once_little_time_passes() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (mut runs, mut longest) = (0, 0);
        for _ in 0..1_000 {
            let mut bytes = vec![0; 2_000];
            rng.fill_bytes(&mut bytes);
            let Trace { settings, ops } = read(&bytes);
            if (settings.chance, settings.jitter) != (Chance::Zeros, Jitter::Full) {
                continue;
            }
            let passes = ops.iter().map(|op| if let Op::Pass(time) = op { time.0 } else { 0 });
            runs += 1;
            longest = longest.max(passes.sum());
        }
        assert!(runs > 10 && longest <= AT_ONCE, "{runs} runs, {longest} microseconds");
    }
}
