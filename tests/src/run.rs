//! Runs traces: one, or all that a range of seeds makes.

use core::{fmt, ops::Range};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bowline_core::ClientConfig;
use proptest::{
    strategy::{NewTree, Strategy, ValueTree},
    test_runner::{Config, TestRng, TestRunner},
};

use crate::{
    marks::Counts,
    op::Op,
    oracle::{Oracle, Rules},
    peer::{NamedPeer, NumberedPeer, Peer, PlainPeer, PositionalPeer},
    settings::{Chance, Language, Settings},
    statement::{Statement, Violation},
    swarm::Dealer,
    trace::Trace,
    transcript::Transcript,
    world::{Witness, World},
};

/// How a run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome<W> {
    /// Inputs to the client and outputs polled.
    pub events: u64,
    /// Which marks were passed.
    pub marks: Counts,
    /// What should not have been seen, if there was something.
    pub violation: Option<Violation>,
    /// The witness.
    pub witness: W,
}

/// A statement that did not hold, and the least that shows it.
///
/// Its `Debug` is its `Display`, so that a test which unwraps it tells the story.
#[derive(Clone, PartialEq, Eq)]
pub struct Failure {
    /// What should not have been seen.
    pub violation: Violation,
    /// What had to happen for that: the ops that are left after shrinking. Of a client of yours the
    /// settings say only where its random numbers came from.
    pub trace: Trace,
    /// What was seen.
    pub story: String,
}

/// The seed and the violation; the trace, in the form in which it can be saved; the story.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { violation, trace, story } = self;
        write!(f, "seed {}: {violation}\n\n{trace}\n{story}", trace.settings.seed)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::error::Error for Failure {}

/// Whether the lives of a run are played a second time when they have ended, for the statements
/// about [two runs](crate::twice). That takes several times as long as the run itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lives {
    /// They are not.
    Once,
    /// They are.
    Twice,
}

/// Runs a client of yours in the worlds of these seeds, which are made to the measure of its ping
/// interval, with a peer of yours or one from [`peer`](crate::peer). Its lives are played twice.
///
/// # Errors
/// The first statement that does not hold, shrunk and with its story.
///
/// # Panics
/// The settings are out of their ranges.
pub fn check<P: Peer + Clone>(
    config: &ClientConfig,
    peer: &P,
    mut seeds: Range<u64>,
) -> Result<(), Box<Failure>> {
    seeds.try_for_each(|seed| {
        let settings = Settings { seed, ..Settings::default() };
        let ops = Dealer::deal_ops(seed, config.connection.ping_interval);
        check_trace(config, peer, &Trace { settings, ops })
    })
}

/// Runs a client of yours through one trace, as [`check`] does: that of a [`Failure`], say, which you
/// have saved. Of the trace's settings only those of the generator count.
///
/// # Errors
/// A statement does not hold.
///
/// # Panics
/// The settings are out of their ranges.
pub fn check_trace<P: Peer + Clone>(
    config: &ClientConfig,
    peer: &P,
    trace: &Trace,
) -> Result<(), Box<Failure>> {
    let tell = |Trace { settings, ops }: &Trace| {
        let dice = (settings.chance, settings.seed);
        told(run_in(config.clone(), peer.clone(), dice, ops, Lives::Twice, teller))
    };
    tell(trace).0.map_or(Ok(()), |violation| Err(Box::new(reduce(trace, violation, tell))))
}

/// Shrinks a trace of a built-in [`Language`] which has come to this violation, and tells what is left.
pub fn explain(trace: &Trace, violation: Violation) -> Failure {
    reduce(trace, violation, tell)
}

fn reduce(
    trace: &Trace,
    violation: Violation,
    tell: impl Fn(&Trace) -> (Option<Violation>, String),
) -> Failure {
    let statement = violation.statement;
    let trace = shrink(trace, |trace| tell(trace).0.is_some_and(|v| v.statement == statement));
    let (again, story) = tell(&trace);
    Failure { violation: again.unwrap_or(violation), trace, story }
}

/// Runs a trace before a witness, who is made with the rules of that world.
pub fn run<W: Witness>(
    trace: &Trace,
    lives: Lives,
    witness: impl FnOnce(Rules) -> W,
) -> Outcome<W> {
    let Trace { settings, ops } = trace;
    let config = settings.config();
    let dice = (settings.chance, settings.seed);
    match settings.language {
        Language::Plain => run_in(config, PlainPeer, dice, ops, lives, witness),
        Language::Positional => {
            let peer = PositionalPeer::new(settings.greets).takes_gaps(settings.takes_gaps);
            run_in(config, peer, dice, ops, lives, witness)
        }
        Language::Named => {
            let peer = NamedPeer::new(settings.greets)
                .takes_gaps(settings.takes_gaps)
                .beats(settings.beat.map(Into::into));
            run_in(config, peer, dice, ops, lives, witness)
        }
        Language::Numbered => run_in(config, NumberedPeer::default(), dice, ops, lives, witness),
    }
}

/// Lets ops happen in a world with a client's settings and a peer, then the quiet phase.
///
/// # Panics
/// The settings are out of their ranges.
pub fn run_in<P: Peer, W: Witness>(
    config: ClientConfig,
    peer: P,
    dice: (Chance, u64),
    ops: &[Op],
    lives: Lives,
    witness: impl FnOnce(Rules) -> W,
) -> Outcome<W> {
    let mut world = match World::new(config, peer, dice, witness) {
        Ok(world) => world,
        Err(error) => panic!("{error}"),
    };
    if lives == Lives::Twice {
        world = world.twice();
    }
    let mut at = None;
    let ended = catch_unwind(AssertUnwindSafe(|| {
        for op in ops {
            at = Some(*op);
            world.apply(op)?;
        }
        at = None;
        world.quiet()
    }));
    let violation = match ended {
        Ok(ended) => ended.err(),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default();
            let place = at.map_or("in the quiet phase".to_owned(), |op| format!("at \"{op}\""));
            let text = format!("a panic {place}: {text}");
            Some(Violation { statement: Statement::R6, at: world.time(), text })
        }
    };
    let events = world.events();
    let marks = world.marks().clone();
    Outcome { events, marks, violation, witness: world.into_witness() }
}

/// Runs a trace before the oracle, its lives twice.
pub fn judge(trace: &Trace) -> Outcome<Oracle> {
    judge_lives(trace, Lives::Twice)
}

/// Runs a trace before the oracle.
pub fn judge_lives(trace: &Trace, lives: Lives) -> Outcome<Oracle> {
    run(trace, lives, Oracle::new)
}

/// Runs a trace before the oracle and writes it down.
pub fn tell(trace: &Trace) -> (Option<Violation>, String) {
    told(run(trace, Lives::Twice, teller))
}

fn teller(rules: Rules) -> (Transcript, Oracle) {
    (Transcript::default(), Oracle::new(rules))
}

fn told(outcome: Outcome<(Transcript, Oracle)>) -> (Option<Violation>, String) {
    (outcome.violation, outcome.witness.0.into_text())
}

/// The smallest part of a trace that can be found which fails as the whole does: ops are left out,
/// numbers made smaller.
pub fn shrink(trace: &Trace, mut fails: impl FnMut(&Trace) -> bool) -> Trace {
    let mut best = trace.clone();
    loop {
        let before = best.ops.clone();
        let mut runner = TestRunner::new_with_rng(
            Config::default(),
            TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
        );
        let given: Vec<Given> = best.ops.iter().map(|op| Given(*op)).collect();
        let Ok(mut tree) = given.new_tree(&mut runner) else { return best };
        let mut more = tree.simplify();
        while more {
            let ops = tree.current().into_iter().flatten().collect();
            let smaller = Trace { ops, ..best.clone() };
            if fails(&smaller) {
                best = smaller;
                more = tree.simplify();
            } else {
                more = tree.complicate();
            }
        }
        if best.ops == before {
            return best;
        }
    }
}

/// The strategy of one op that is given: it shrinks to none, else to a smaller number.
#[derive(Clone, Copy, Debug)]
struct Given(Op);

impl Strategy for Given {
    type Tree = OpTree;
    type Value = Option<Op>;

    fn new_tree(&self, _: &mut TestRunner) -> NewTree<Self> {
        Ok(OpTree { op: self.0, there: true, tried: false, number: None })
    }
}

#[derive(Clone, Copy, Debug)]
struct OpTree {
    op: Op,
    there: bool,
    tried: bool,
    number: Option<proptest::num::u64::BinarySearch>,
}

impl ValueTree for OpTree {
    type Value = Option<Op>;

    fn current(&self) -> Option<Op> {
        let mut op = self.op;
        if let (Some(place), Some(number)) = (op.number(), &self.number) {
            *place = number.current();
        }
        self.there.then_some(op)
    }

    fn simplify(&mut self) -> bool {
        if !self.tried {
            self.tried = true;
            self.there = false;
            return true;
        }
        if !self.there {
            return false;
        }
        let mut op = self.op;
        let Some(place) = op.number() else { return false };
        self.number.get_or_insert_with(|| proptest::num::u64::BinarySearch::new(*place)).simplify()
    }

    fn complicate(&mut self) -> bool {
        if !self.there {
            // It is needed.
            self.there = true;
            return true;
        }
        self.number.as_mut().is_some_and(|number| number.complicate())
    }
}
