//! What goes wrong, and when: a function of the script's name, the seed and the length of the run.

use std::{fmt, time::Duration};

use clap::ValueEnum;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// The first fault comes once messages are flowing.
const WARM_UP: Duration = Duration::from_secs(1);

/// After the last fault messages are still produced for at least this long, on a good network.
const QUIET: Duration = Duration::from_secs(1);

/// Between two faults, in milliseconds: long enough for a client to be back and in full flow.
const GAP_MS: (u64, u64) = (700, 1_000);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    ToServer,
    ToClient,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The server process is killed (SIGKILL) and started again when the fault ends.
    Kill,
    /// Every connection is reset; what is in flight is gone.
    Reset,
    /// Bytes in one direction vanish without a trace. In the end the connections are reset.
    Silence(Direction),
    /// The server process stands still (SIGSTOP) and goes on (SIGCONT) when the fault ends.
    Freeze,
    /// The server process stands still, and whoever watches over it kills it and starts it again.
    Hang,
    /// Connections are accepted, live for a moment, and are reset.
    Flap,
    /// The link carries half of what the messages need.
    Slow,
    /// Every connection is reset, and the port is closed.
    Refuse,
    /// Every connection is ended in order (FIN) by something that reads no further.
    Close,
}

impl Fault {
    /// How long it lasts, in milliseconds.
    fn range_ms(self) -> (u64, u64) {
        match self {
            Fault::Kill => (300, 700),
            Fault::Reset | Fault::Close => (0, 0),
            Fault::Silence(_) => (3_000, 3_000),
            Fault::Freeze | Fault::Hang => (400, 800),
            Fault::Flap => (800, 1_200),
            Fault::Slow => (1_000, 1_500),
            Fault::Refuse => (400, 900),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Kill => "server killed",
            Fault::Reset => "reset",
            Fault::Silence(Direction::ToServer) => "silence to the server",
            Fault::Silence(Direction::ToClient) => "silence to the client",
            Fault::Freeze => "server frozen",
            Fault::Hang => "server frozen, then killed",
            Fault::Flap => "flapping",
            Fault::Slow => "slow link",
            Fault::Refuse => "refusing",
            Fault::Close => "closed",
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

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Script {
    /// The server process is killed and restarted
    Kill,
    /// Connections are reset, what is in flight is gone
    Reset,
    /// Three seconds of one-way silence, then a reset
    Silence,
    /// The server process stands still, and goes on or is killed
    Freeze,
    /// Connections are accepted and dropped after a moment
    Flap,
    /// The link carries half of what is needed
    Slow,
    /// Connections are reset and new ones refused
    Refuse,
    /// Connections are ended in order
    Close,
    /// All of these, shuffled
    Mixed,
}

impl Script {
    /// The faults of a run in which messages are produced for `span`. The steps do not overlap; a
    /// longer run has the same first steps; a run too short for any fault still has one.
    pub(crate) fn steps(self, seed: u64, span: Duration) -> Vec<Step> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut steps = Vec::new();
        let mut at = WARM_UP;
        loop {
            for fault in self.round(&mut rng) {
                let lasts = between(&mut rng, fault.range_ms());
                if at + lasts + QUIET > span && !steps.is_empty() {
                    return steps;
                }
                steps.push(Step { at, fault, lasts });
                at += lasts + between(&mut rng, GAP_MS);
            }
        }
    }

    /// Each fault of the script once, in an order that the seed decides.
    fn round(self, rng: &mut impl Rng) -> Vec<Fault> {
        let mut faults = match self {
            Script::Kill => vec![Fault::Kill],
            Script::Reset => vec![Fault::Reset],
            Script::Silence => {
                vec![Fault::Silence(Direction::ToServer), Fault::Silence(Direction::ToClient)]
            }
            Script::Freeze => vec![Fault::Freeze, Fault::Hang],
            Script::Flap => vec![Fault::Flap],
            Script::Slow => vec![Fault::Slow],
            Script::Refuse => vec![Fault::Refuse],
            Script::Close => vec![Fault::Close],
            Script::Mixed => {
                let pick = |rng: &mut _, a, b| if below(rng, 2) == 0 { a } else { b };
                vec![
                    Fault::Kill,
                    Fault::Reset,
                    pick(
                        rng,
                        Fault::Silence(Direction::ToServer),
                        Fault::Silence(Direction::ToClient),
                    ),
                    pick(rng, Fault::Freeze, Fault::Hang),
                    Fault::Flap,
                    Fault::Slow,
                    Fault::Refuse,
                    Fault::Close,
                ]
            }
        };
        for last in (1..faults.len()).rev() {
            faults.swap(last, below(rng, last as u64 + 1) as usize);
        }
        faults
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("no script is skipped");
        f.write_str(value.get_name())
    }
}

fn between(rng: &mut impl Rng, (low, high): (u64, u64)) -> Duration {
    Duration::from_millis(low + below(rng, high - low + 1))
}

/// A number below `bound`. The bias of the remainder does not matter for small bounds.
fn below(rng: &mut impl Rng, bound: u64) -> u64 {
    rng.next_u64() % bound
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(18);

    #[test]
    fn a_script_is_a_function_of_its_name_and_seed() {
        for script in Script::value_variants() {
            assert_eq!(script.steps(7, SPAN), script.steps(7, SPAN));
            assert_ne!(script.steps(7, SPAN), script.steps(8, SPAN), "{script}");
        }
    }

    #[test]
    fn steps_do_not_overlap_and_leave_a_quiet_end() {
        for script in Script::value_variants() {
            for seed in 0..100 {
                let steps = script.steps(seed, SPAN);
                for pair in steps.windows(2) {
                    assert!(pair[0].at + pair[0].lasts < pair[1].at, "{script} {seed}");
                }
                let last = steps.last().unwrap();
                assert!(last.at + last.lasts + QUIET <= SPAN, "{script} {seed}");
            }
        }
    }

    #[test]
    fn a_mixed_run_of_default_length_has_a_bit_of_all() {
        for seed in 0..1_000 {
            let steps = Script::Mixed.steps(seed, SPAN);
            assert!(steps.len() >= 8, "seed {seed}: {steps:?}");
        }
    }

    #[test]
    fn the_shortest_run_has_a_fault() {
        for script in Script::value_variants() {
            assert_eq!(script.steps(1, Duration::ZERO).len(), 1);
        }
    }
}
