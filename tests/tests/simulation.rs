//! A few thousand worlds in every test run. For more: the binary `simulate`.

use bowline_core::{Body, ClientConfig, Dialect, Level, Sink};
use bowline_testkit::{
    marks::Counts,
    op::{Micros, Op, OpError, TextError},
    peer::{Desk, Peer},
    run::{Lives, explain, judge, run_in, shrink, tell},
    settings::{Chance, Settings},
    statement::Statement,
    swarm::Dealer,
    trace::Trace,
};
use proptest::prelude::*;

#[test]
fn thousands_of_clients_keep_all_promises() {
    let (mut events, mut marks) = (0, Counts::default());
    for seed in 0..SEEDS {
        let trace = Dealer::deal(seed);
        let outcome = judge(&trace);
        events += outcome.events;
        marks.merge(&outcome.marks);
        if let Some(violation) = outcome.violation {
            panic!("{}", explain(&trace, violation));
        }
    }
    assert!(events > SEEDS * 500, "only {events} events: hardly anything happened");
    let rarest = marks.rarest();
    let never: Vec<_> = rarest.iter().filter(|(_, count)| *count == 0).collect();
    assert!(never.len() * 5 < rarest.len(), "never passed: {never:#?}");
}

#[test]
fn a_trace_makes_the_same_story_each_time() {
    for seed in 0..200 {
        let trace = Dealer::deal(seed);
        assert_eq!(tell(&trace), tell(&trace), "seed {seed}");
    }
}

#[test]
fn what_is_dealt_comes_back_from_its_text() {
    for seed in 0..2_000 {
        let trace = Dealer::deal(seed);
        let text = trace.to_string();
        assert_eq!(text.parse::<Trace>(), Ok(trace), "seed {seed}:\n{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Also for ops that nobody deals.
    #[test]
    fn every_op_comes_back_from_its_text(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let op: Op = arbitrary::Unstructured::new(&bytes).arbitrary().unwrap();
        prop_assert_eq!(op.to_string().parse::<Op>(), Ok(op));
    }

    #[test]
    fn every_duration_comes_back_from_its_text(micros in any::<u64>()) {
        let micros = Micros(micros);
        prop_assert_eq!(micros.to_string().parse::<Micros>(), Ok(micros));
    }
}

#[test]
fn a_text_may_have_comments_and_blanks() {
    let text = "# a story\n\nsettings window=2 language=positional # tiny\n\n  push 3 level=acked ttl=40ms key=a\npass 1500us\nclock jump 100y\n";
    let trace: Trace = text.parse().unwrap();
    assert_eq!(trace.settings.window, 2);
    assert_eq!(trace.ops.len(), 3);
    assert_eq!(
        trace.to_string(),
        "settings language=positional window=2\npush 3 level=acked ttl=40ms key=a\npass 1500us\nclock jump 100y\n",
    );
}

#[test]
fn an_error_names_the_line_and_hands_back_the_word() {
    let wrong = |text: &str| text.parse::<Trace>().unwrap_err();
    assert_eq!(
        wrong("push 1\n\nlink fry"),
        TextError { line: 3, error: OpError::Word("fry".into()) },
    );
    assert_eq!(wrong("pass 3"), TextError { line: 1, error: OpError::Value("3".into()) });
    assert_eq!(
        wrong("peer nack 4 perhaps").to_string(),
        "line 1: \"nack 4 perhaps\" has a value that cannot be read",
    );
    assert_eq!(wrong("settings windw=3").error, OpError::Word("windw".into()));
    assert_eq!(wrong("client start now").error, OpError::Value("now".into()));
}

/// A run with a fault in it is reduced to the ops that the fault needs.
#[test]
fn shrinking_leaves_what_matters() {
    let cut_at = |trace: &Trace| trace.ops.iter().position(|op| op.to_string() == "link cut");
    let fails = |trace: &Trace| {
        cut_at(trace).is_some_and(|at| {
            trace.ops[at..].iter().any(|op| matches!(op, Op::Pass(micros) if micros.0 >= 700))
        })
    };
    let mut trace = Trace { settings: Settings::default(), ops: Dealer::deal(3).ops };
    trace.ops.push("link cut".parse().unwrap());
    trace.ops.push(Op::Pass(Micros::secs(5)));
    assert_eq!(shrink(&trace, fails).to_string(), "settings\nlink cut\npass 700us\n");
}

/// A peer and a dialect that answer each other for ever, a microsecond apart.
#[test]
fn whoever_spins_while_time_crawls_is_a_violation_and_no_hang() {
    let ops = ["client start", "link delay 1us", "pass 2ms", "peer say", "pass 100y"];
    let ops = ops.map(|op| op.parse().unwrap());
    let dice = (Chance::Seeded, 1);
    let outcome = run_in(ClientConfig::default(), Parrot, dice, &ops, Lives::Once, |_| ());
    let violation = outcome.violation.expect("it spins");
    assert_eq!(violation.statement, Statement::L6, "{violation}");
    assert!(outcome.events < 1_000_000, "{}", outcome.events);
}

/// It answers whatever it hears, at either end.
#[derive(Clone, Copy)]
struct Parrot;

impl Dialect for Parrot {
    type Message = Body;
    type Inbound = Body;
    type Credentials = ();
    type Error = core::convert::Infallible;

    const ACKS: bool = false;

    fn encode(message: Body) -> Result<Body, (Body, Self::Error)> {
        Ok(message)
    }

    fn decode(&mut self, frame: Body, sink: &mut Sink<Body>) {
        sink.reply(frame);
    }
}

impl Peer for Parrot {
    type Dialect = Self;

    fn dialect(&self) -> Self {
        *self
    }

    fn body(&self, message: u64, _: usize, _: Level) -> Body {
        Body::text(message.to_string())
    }

    fn message(&self, body: &Body) -> u64 {
        body.as_text().and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    fn read(&self, _: &Body, _: &mut Vec<u64>) {}

    fn take(&mut self, frame: &Body, desk: &mut Desk) {
        desk.answer(frame.clone());
    }
}

const SEEDS: u64 = 1_200;
