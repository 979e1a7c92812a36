//! What goes wrong, and when: a function of the seed and the length of the run.

use std::{fmt, io, time::Duration};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use tokio::time::{Instant, sleep_until};

use crate::{
    facilitator::Command,
    network::{Break, Direction, Network},
    progress::Progress,
    supervisor::Process,
};

/// The first fault comes once jobs are flowing.
const WARM_UP: Duration = Duration::from_secs(1);

/// Between two faults, in milliseconds: long enough for a client to be back.
const GAP_MS: (u64, u64) = (500, 900);

/// How late answers are, in milliseconds.
const LATE_MS: u64 = 100;

/// How late they are when the process is killed between storing a status and answering it, and
/// how long before the kill.
const TOO_LATE_MS: u64 = 700;
const BEFORE_KILL: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// SIGKILL, and another process later.
    Kill,
    /// SIGKILL after a status was stored and before it was answered.
    KillBeforeAnswer,
    /// The validator is off the list: 3001.
    Forget,
    /// The process is replaced, and answers 403 until the deploy is done.
    Deploy,
    Late,
    /// The handler of a status fails, so that nothing is stored and nothing answered.
    NoAnswer,
    Wire(Break),
}

impl Fault {
    /// How long it lasts, in milliseconds.
    fn range_ms(self) -> (u64, u64) {
        match self {
            Self::Kill => (200, 600),
            Self::KillBeforeAnswer => (500, 900),
            Self::Forget => (1_000, 1_600),
            Self::Deploy => (800, 1_400),
            Self::Late => (800, 1_200),
            // Until it is noticed: by `ack_limit`, by the heartbeat.
            Self::NoAnswer => (1_700, 2_000),
            Self::Wire(Break::Silence(_)) => (1_700, 2_200),
            Self::Wire(Break::Reset | Break::Tear(_)) => (0, 0),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "facilitator killed",
            Self::KillBeforeAnswer => "killed before it answered",
            Self::Forget => "validator not found",
            Self::Deploy => "deploy, 403",
            Self::Late => "answers late",
            Self::NoAnswer => "a handler fails",
            Self::Wire(Break::Reset) => "reset",
            Self::Wire(Break::Tear(_)) => "cut in the middle of a frame",
            Self::Wire(Break::Silence(_)) => "silence in one direction",
        })
    }
}

/// One fault of a script.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    /// Since the start of the run.
    pub(crate) at: Duration,
    pub(crate) fault: Fault,
    pub(crate) lasts: Duration,
}

/// The faults of a run in which jobs come in for `span`: all of them, shuffled, over and over, but
/// for `without`. They do not overlap. There is at least one round, however short the run.
pub(crate) fn steps(seed: u64, span: Duration, without: Option<Fault>) -> Vec<Step> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut steps = Vec::new();
    let mut at = WARM_UP;
    loop {
        let first = steps.is_empty();
        for fault in round(&mut rng).into_iter().filter(|&fault| Some(fault) != without) {
            let lasts = between(&mut rng, fault.range_ms());
            if at + lasts > span && !first {
                return steps;
            }
            steps.push(Step { at, fault, lasts });
            at += lasts + between(&mut rng, GAP_MS);
        }
    }
}

fn round(rng: &mut ChaCha8Rng) -> Vec<Fault> {
    let side =
        if rng.next_u64() % 2 == 0 { Direction::ToFacilitator } else { Direction::ToValidator };
    let mut faults = vec![
        Fault::Kill,
        Fault::KillBeforeAnswer,
        Fault::Forget,
        Fault::Deploy,
        Fault::Late,
        Fault::NoAnswer,
        Fault::Wire(Break::Reset),
        Fault::Wire(Break::Tear(Direction::ToFacilitator)),
        Fault::Wire(Break::Tear(Direction::ToValidator)),
        Fault::Wire(Break::Silence(side)),
    ];
    for last in (1..faults.len()).rev() {
        faults.swap(last, (rng.next_u64() % (last as u64 + 1)) as usize);
    }
    faults
}

fn between(rng: &mut ChaCha8Rng, (low, high): (u64, u64)) -> Duration {
    Duration::from_millis(low + rng.next_u64() % (high - low + 1))
}

/// Plays `steps`. Afterwards all is well.
pub(crate) async fn play(
    steps: &[Step],
    start: Instant,
    network: &Network,
    process: &mut Process,
    progress: &Progress,
) -> io::Result<()> {
    for step in steps {
        sleep_until(start + step.at).await;
        progress.fault(Some(step.fault));
        let end = start + step.at + step.lasts;
        match step.fault {
            Fault::Kill => {
                process.kill().await?;
                sleep_until(end).await;
                process.restart(false).await?;
            }
            Fault::KillBeforeAnswer => {
                process.tell(Command::Late(TOO_LATE_MS)).await?;
                sleep_until(start + step.at + BEFORE_KILL).await;
                process.kill().await?;
                sleep_until(end).await;
                process.restart(false).await?;
            }
            Fault::Forget => {
                process.tell(Command::Know(false)).await?;
                sleep_until(end).await;
                process.tell(Command::Know(true)).await?;
            }
            Fault::Deploy => {
                process.kill().await?;
                process.restart(true).await?;
                sleep_until(end).await;
                process.tell(Command::Deploy(false)).await?;
            }
            Fault::Late => {
                process.tell(Command::Late(LATE_MS)).await?;
                sleep_until(end).await;
                process.tell(Command::Late(0)).await?;
            }
            Fault::NoAnswer => {
                process.tell(Command::Fail(1)).await?;
                sleep_until(end).await;
                process.tell(Command::Fail(0)).await?;
            }
            Fault::Wire(fault) => {
                network.strike(fault);
                sleep_until(end).await;
            }
        }
        progress.fault(None);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(20);

    #[test]
    fn a_script_is_a_function_of_its_seed() {
        assert_eq!(steps(7, SPAN, None), steps(7, SPAN, None));
        assert_ne!(steps(7, SPAN, None), steps(8, SPAN, None));
    }

    #[test]
    fn every_run_has_a_bit_of_all_and_no_two_at_once() {
        for seed in 0..200 {
            for span in [Duration::ZERO, SPAN, 3 * SPAN] {
                let steps = steps(seed, span, None);
                assert!(steps.len() >= 10);
                for pair in steps.windows(2) {
                    assert!(pair[0].at + pair[0].lasts < pair[1].at, "seed {seed}");
                }
            }
            let last = *steps(seed, SPAN, None).last().unwrap();
            assert!(last.at + last.lasts < Duration::from_secs(25), "seed {seed}: {last:?}");
        }
    }

    #[test]
    fn a_fault_may_be_left_out() {
        let steps = steps(1, SPAN, Some(Fault::NoAnswer));
        assert!(steps.iter().all(|step| step.fault != Fault::NoAnswer));
    }
}
