//! What is recorded replays to the same outputs, and what does not is refused where it differs.
#![cfg(feature = "serde")]

use std::{cell::RefCell, ops::ControlFlow, rc::Rc, time::Duration};

use bowline_core::{
    Ack, Attempt, Backoff, Batch, Beat, Body, ClientConfig, ConnectionConfig, Dialect, Event,
    Greeting, Instant, Jitter, Level, Loss, Nack, Opened, OutboxConfig, Output, Overflow, Ping,
    Plain, PushOptions, Received, Refusal, Seq, Sink, Snapshot, Stats, Verdict, VerdictLimits,
    Wire,
    loss::verdict,
    trace::{
        FromDialect, Line, MAX_BODY_BYTES, MAX_KEY_BYTES, Outcome, Payload, Problem, Recorder,
        ReplayError, Replayed, Scene, Tape, What, replay,
    },
};
use bytes::Bytes;
use proptest::prelude::*;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// D4: whatever happens to a client, its record replays to the same outputs, with payloads and
    /// without, from the beginning and from a snapshot in the middle.
    #[test]
    fn a_record_replays_to_the_same_outputs(
        settings in any_settings(),
        payloads in any::<bool>(),
        before in prop::collection::vec(any_op(), 1..60),
        after in prop::collection::vec(any_op(), 0..60),
    ) {
        let first = World::new(&settings, payloads, None).live(&before);
        let second = World::new(&settings, payloads, Some(&first)).live(&after);
        for run in [first, second] {
            prop_assert!(payloads || !run.trace.contains("_is\""), "a payload is in it");
            let replayed = play(&run.trace);
            prop_assert_eq!(replayed.map(|replayed| replayed.stats), Ok(run.stats));
        }
    }

    /// A client with a recorder does what one without does: it draws the same numbers, and nothing
    /// is done for the record that the client could notice.
    #[test]
    fn being_recorded_changes_nothing(
        settings in any_settings(),
        ops in prop::collection::vec(any_op(), 1..60),
    ) {
        let recorded = World::new(&settings, true, None).live(&ops);
        let mut alone = World::new(&settings, true, None);
        alone.client = Recorder::new(settings.config(), Talker, settings.rng(), None).unwrap();
            alone.trace.borrow_mut().clear();
    let alone = alone.live(&ops);
        prop_assert_eq!(recorded.outputs, alone.outputs);
        prop_assert_eq!(alone.trace, "");
    }

    /// What a trace holds of a drain, a push, the dialect and the generator cannot be changed
    /// unnoticed, and the error names the line.
    #[test]
    fn an_altered_trace_is_refused_at_the_altered_line(
        settings in any_settings(),
        ops in prop::collection::vec(any_op(), 4..60),
        change in prop::sample::select(CHANGES.to_vec()),
        place in any::<prop::sample::Index>(),
    ) {
        // A greeting, a push and a drain there are at least.
        let mut world = World::new(&settings, false, None);
        let opened = [Op::Start, Op::Drain(Wire::Blocked, None), Op::Io(IoEvent::Opened, false)];
        let push = Op::Push { len: 1, text: true, level: None, ttl: None, key: None };
        opened.iter().chain([&push]).for_each(|op| world.op(op));
        let mut lines = parse(&world.live(&ops).trace);
        let altered: Vec<usize> =
            (0..lines.len()).filter(|&n| change(&mut lines[n].clone())).collect();
        let altered = altered[place.index(altered.len())];
        change(&mut lines[altered]);
        let error = play(&print(&lines)).expect_err("it was altered");
        prop_assert_eq!(error.line, altered as u64 + 1);
        prop_assert!(matches!(error.problem, Problem::Differs { .. }), "{}", error);
    }

    /// A file that was damaged is replayed or refused; it never panics.
    #[test]
    fn a_damaged_trace_never_panics(
        settings in any_settings(),
        ops in prop::collection::vec(any_op(), 1..30),
        damages in prop::collection::vec((any::<prop::sample::Index>(), b' '..=b'~'), 1..6),
    ) {
        let mut trace = World::new(&settings, true, None).live(&ops).trace.into_bytes();
        for (place, byte) in damages {
            let place = place.index(trace.len());
            trace[place] = byte;
        }
        let lines = u64::try_from(trace.split(|&byte| byte == b'\n').count()).unwrap();
        if let Err(error) = play(std::str::from_utf8(&trace).unwrap()) {
            prop_assert!((1..=lines).contains(&error.line));
        }
    }

    /// A trace that stops anywhere is refused at the place where it stops.
    #[test]
    fn a_trace_that_stops_is_refused_where_it_stops(
        settings in any_settings(),
        ops in prop::collection::vec(any_op(), 1..30),
        cut in any::<prop::sample::Index>(),
    ) {
        let trace = World::new(&settings, false, None).live(&ops).trace;
        let cut = &trace[..cut.index(trace.len() - 1)];
        let whole = cut.lines().count() as u64;
        let error = play(cut).expect_err("it stops");
        if cut.is_empty() || cut.ends_with(['\n', '}']) && error.line > whole {
            prop_assert_eq!((error.line, error.problem.to_string()), (whole + 1, STOPS.into()));
        } else {
            prop_assert_eq!(error.line, whole);
            prop_assert!(matches!(error.problem, Problem::Unreadable(_)), "{}", error);
        }
    }
}

const STOPS: &str = "the trace stops before the client did";

// ---- Single traces ------------------------------------------------------------------------------

#[test]
fn no_line_of_a_story_can_be_left_out_unnoticed() {
    let trace = story(false).0;
    let lines = parse(&trace);
    // A drain asks what is owed, and may be left out; an input may not.
    let is_input = |line: &Line| !matches!(line.what, What::Drain(_));
    let mut unnoticed = Vec::new();
    for (n, left_out) in lines.iter().enumerate() {
        let mut rest = lines.clone();
        rest.remove(n);
        if is_input(left_out) && play(&print(&rest)).is_ok() {
            unnoticed.push(left_out);
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:?}");
}

#[test]
fn the_first_difference_is_told_with_its_line_and_time_and_both_sides() {
    let (trace, _) = story(false);
    let altered = trace.replace(r#""lost":[1,"Eof"]"#, r#""lost":[1,"Io"]"#);
    assert_ne!(altered, trace);
    let error = play(&altered).unwrap_err();
    let line = trace.lines().position(|line| line.contains(r#""lost""#)).unwrap() as u64 + 1;
    // Both are retried after the same delay; the status says which it was.
    assert_eq!((error.line, error.at), (line + 1, Instant::from_micros(900_000)));
    let Problem::Differs { recorded, came } = error.problem else { panic!("{error}") };
    let told = |loss| format!("Waiting, for {loss}, Redial at 1055596 (digest ");
    assert!(recorded.starts_with(&told(Loss::Eof)), "{recorded}");
    assert!(came.starts_with(&told(Loss::Io)), "{came}");
}

#[test]
fn a_trace_is_read_like_a_story() {
    let (trace, _) = story(false);
    let told: Vec<String> = parse(&trace)
        .into_iter()
        .filter_map(|line| match line.what {
            What::Drain(drain) => Some(drain.out),
            _ => None,
        })
        .collect();
    assert_eq!(told[0], "dial 1, Dialing, Dial at 15000000");
    assert_eq!(told[1], "Greeting, 1 data (7 B), Greeting at 10200000");
    assert_eq!(
        told[2],
        "Up, 2 data (10 B), ping behind 1, 1 data (6 B), ping behind 2, Beat at 7300000"
    );
}

#[test]
fn a_drain_that_stops_in_the_middle_is_told_as_far_as_it_went() {
    let mut world = World::new(&Settings::default(), false, None);
    world.push(Instant::ZERO, "one", None);
    world.handle(Instant::ZERO, Event::Cancel(Seq::new(1)));
    assert!(matches!(world.client.poll(Wire::Ready), Output::Failed(_)));
    let lines = parse(&world.end().trace);
    let What::Drain(drain) = &lines[lines.len() - 2].what else { panic!("{lines:?}") };
    assert_eq!((drain.polls, drain.out.as_str()), (1, "1 failed"));
}

#[test]
fn nothing_secret_is_in_a_trace_without_payloads() {
    let (trace, _) = story(false);
    for secret in ["hunter2", "Bearer", "hello", "secret", "the key", "inbound words"] {
        assert!(!trace.contains(secret), "{secret} is in {trace}");
    }
    let (trace, _) = story(true);
    for kept in ["hello", "secret", "inbound words"] {
        assert!(trace.contains(kept), "{kept} is not in {trace}");
    }
    for secret in ["hunter2", "Bearer", "the key"] {
        assert!(!trace.contains(secret), "{secret} is in {trace}");
    }
}

/// H63: a snapshot has them, and goes into the first line.
#[test]
fn bodies_and_keys_of_restored_messages_are_not_in_a_trace() {
    let settings = Settings::default();
    let mut world = World::new(&settings, false, None);
    world.push(Instant::ZERO, "secret", Some("the key"));
    let saved = world.end();
    let trace = World::new(&settings, false, Some(&saved)).end().trace;
    let What::Begin(begin) = &parse(&trace)[0].what else { panic!("{trace}") };
    let saved = &begin.messages[0];
    assert_eq!((&saved.body, saved.key), (&Some(Payload::Text(6)), Some(7)));
    assert_eq!((&saved.message.body, &saved.message.key), (&None, &None));
    assert_eq!(begin.restored.as_ref().map(|snapshot| snapshot.messages.len()), Some(0));
}

#[test]
fn a_push_that_displaced_others_says_so_and_which() {
    let settings = Settings { evict: true, window: 1, ..Settings::default() };
    let mut world = World::new(&settings, false, None);
    for text in ["one", "two", "three"] {
        world.push(Instant::ZERO, text, None);
    }
    let outcomes: Vec<Outcome> = parse(&world.end().trace)
        .into_iter()
        .filter_map(|line| match line.what {
            What::Push(push) => Some(push.outcome),
            _ => None,
        })
        .collect();
    let seq = Seq::new;
    assert_eq!(
        outcomes,
        [Outcome::Taken(seq(1)), Outcome::Taken(seq(2)), Outcome::Displaced(seq(3), vec![seq(1)])]
    );
}

#[test]
fn a_payload_says_how_long_it_is() {
    let payloads = [
        (Payload::Text(3), 3),
        (Payload::Binary(0), 0),
        (Payload::TextIs("knot".into()), 4),
        (Payload::BinaryIs(Bytes::new()), 0),
    ];
    for (payload, len) in payloads {
        assert_eq!((payload.len(), payload.is_empty()), (len, len == 0));
    }
}

/// The words of a drain sum frames up; its digest is of each.
#[test]
fn frames_are_compared_one_by_one() {
    let (trace, _) = story(false);
    let beat = r#"{"text":4}]},{"frame":[{"text":6},1]}"#;
    let altered = trace.replace(beat, r#"{"text":5}]},{"frame":[{"text":5},1]}"#);
    assert_ne!(altered, trace);
    let error = play(&altered).unwrap_err();
    let Problem::Differs { recorded, came } = error.problem else { panic!("{error}") };
    let words = |told: &str| told.split(" (digest").next().unwrap().to_owned();
    assert_eq!(words(&recorded), words(&came));
    assert_ne!(recorded, came);
}

/// Whoever changes a digest raises `FORMAT`: traces of before are refused then, not misjudged.
#[test]
fn a_digest_is_of_every_part_of_an_output_and_the_same_on_every_machine() {
    let digests = single_outputs(false);
    let digests: Vec<(&str, &str)> = digests.iter().map(|(out, d)| (&**out, &**d)).collect();
    assert_eq!(
        digests,
        [
            ("dial 1", "692558b056101a44"),
            ("Dialing", "43b38d587e0ae282"),
            ("Dial at 15000000", "71e1d9d5902bb5e3"),
            (
                "Waiting, for the server answered the upgrade with status 503 and Retry-After 9 s",
                "8c1912ee7113464a",
            ),
            ("Redial at 10453992", "0946a361cf78de34"),
            ("Stopped: stopped on request", "888dab54775e943d"),
            ("wait", "0010cdf9f9a8266d"),
            ("dial 2", "c615adcb76ddf8a7"),
            ("Dialing", "14b1f5468de5b9ec"),
            ("Dial at 15000003", "beb172dd3e7c2ff0"),
            ("Greeting", "2487246fc5ac6bf7"),
            ("1 data (7 B)", "8fbf1605d8b3c342"),
            ("Greeting at 10000004", "7fe7949aa707af63"),
            ("Up", "5f99e759f07e6392"),
            ("1 data (4 B)", "70c44efccdc47921"),
            ("1 data (5 B)", "51c987f3c2d52f00"),
            ("ping behind 1", "48e5885533de8846"),
            ("1 data (3 B)", "3a4a4eba59f76171"),
            ("ping behind 2", "29eac14c28ef3e25"),
            ("Beat at 7000005", "4af80f6c4aa47ebe"),
            ("1 failed", "e713adf6e5bc202b"),
            ("delivered 1 to 1", "f08f406b55505d40"),
            ("Beat at 7000005", "4af80f6c4aa47ebe"),
            ("close 2 with 1000", "31a4498b425aea9d"),
            ("Closing", "3aa5ad3b59618f38"),
            ("Close at 5000007", "9bb824ee37a50395"),
            ("abort 2", "8a1d56ab2a8997a3"),
            ("Stopped: stopped on request", "a28fe63e476a2ebe"),
            ("wait", "0010cdf9f9a8266d"),
        ]
    );
}

/// A frame and a message that failed have bodies, and nothing else has.
#[test]
fn with_payloads_the_digest_is_of_bodies_too() {
    let differing: Vec<String> = single_outputs(false)
        .into_iter()
        .zip(single_outputs(true))
        .filter(|(without, with)| without != with)
        .map(|(without, _)| without.0)
        .collect();
    let bodies = ["1 data (7 B)", "1 data (4 B)", "1 data (5 B)", "1 data (3 B)", "1 failed"];
    assert_eq!(differing, bodies);
}

#[test]
fn with_payloads_frames_are_compared_byte_for_byte() {
    let (trace, _) = story(true);
    let altered = trace
        .replace(r#"{"frame":[{"text_is":"secret"},1]}"#, r#"{"frame":[{"text_is":"Secret"},1]}"#);
    assert_ne!(altered, trace);
    let error = play(&altered).unwrap_err();
    assert!(matches!(error.problem, Problem::Differs { .. }), "{error}");
}

#[test]
fn a_tape_that_is_full_ends_the_recording_and_not_the_client() {
    let mut lines = Vec::new();
    let tape = Tape::new(|line: Line| {
        lines.push(line);
        if lines.len() == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let mut client =
        Recorder::new(ClientConfig::default(), Plain, ChaCha8Rng::seed_from_u64(1), Some(tape))
            .unwrap();
    for n in 0..10 {
        client.push(Instant::ZERO, "a".into(), PushOptions::default()).unwrap();
        client.handle(Instant::from_micros(n), Event::Tick);
        while !matches!(client.poll(Wire::Ready), Output::WaitUntil(_)) {}
    }
    client.finish();
    assert_eq!(client.stats().outbox.accepted, 10);
    drop(client);
    assert_eq!(lines.len(), 4);
    let error = play(&print(&lines)).unwrap_err();
    assert_eq!((error.line, error.problem.to_string()), (5, STOPS.into()));
}

#[test]
fn a_table_of_verdicts_comes_from_who_replays() {
    fn stubborn(_: Loss, _: VerdictLimits) -> Verdict {
        Verdict::Retry
    }
    let config = ClientConfig {
        connection: ConnectionConfig { verdict: stubborn, ..ConnectionConfig::default() },
        ..ClientConfig::default()
    };
    let mut lines = Vec::new();
    let tape = Tape::new(|line| {
        lines.push(line);
        ControlFlow::Continue(())
    });
    let rng = ChaCha8Rng::seed_from_u64(1);
    let mut client = Recorder::new(config, Plain, rng, Some(tape)).unwrap();
    client.handle(Instant::ZERO, Event::Start);
    let _ = client.poll(Wire::Blocked);
    client.handle(Instant::ZERO, Event::Lost(Attempt::new(1), Loss::Certificate));
    while !matches!(client.poll(Wire::Blocked), Output::WaitUntil(_)) {}
    client.finish();
    drop(client);
    let What::Begin(begin) = &lines[0].what else { panic!("{:?}", lines[0]) };
    assert!(begin.own_verdicts);
    let trace = print(&lines);
    assert!(replay(self::lines(&trace), stubborn, |_| {}).is_ok());
    assert!(matches!(
        play(&trace),
        Err(ReplayError { line: 4, problem: Problem::Differs { .. }, .. })
    ));
}

#[test]
fn what_cannot_be_a_trace_is_refused_by_line() {
    let (trace, _) = story(false);
    let refused = |trace: &str| {
        let error = play(trace).unwrap_err();
        (error.line, error.problem.to_string())
    };
    assert_eq!(refused(""), (1, STOPS.into()));
    let (begin, rest) = trace.split_once('\n').unwrap();
    let only_first = "the first line of a trace, and only that, says how the client was made";
    assert_eq!(refused(rest), (1, only_first.into()));
    assert_eq!(refused(&format!("{begin}\n{trace}")), (2, only_first.into()));
    let newer = trace.replace(r#""format":1"#, r#""format":2"#);
    assert_eq!(refused(&newer), (1, "the trace has format 2, this is for format 1".into()));
    let no_window = trace.replace(r#""window_messages":3"#, r#""window_messages":0"#);
    let (line, problem) = refused(&no_window);
    assert!(line == 1 && problem.contains("window_messages is 0"), "{problem}");
    let cut = format!("{begin}\n{}\n", r#"{"at":7,"what":{"cut":"the disk is full"}}"#);
    assert_eq!(refused(&cut), (2, format!("{STOPS}: the disk is full")));

    let push = |push: &str| {
        refused(&format!(
            "{begin}\n{{\"at\":0,\"what\":{{\"push\":{{{push},\"outcome\":{{\"taken\":1}}}}}}}}"
        ))
    };
    let (line, problem) = push(&format!(r#""body":{{"text":{}}}"#, MAX_BODY_BYTES + 1));
    assert!(line == 2 && problem.contains("longer than what is made up"), "{problem}");
    let (line, problem) = push(r#""body":{"text":1},"key":{"len":70000,"of":null}"#);
    assert!(line == 2 && problem.contains("longer than what is made up"), "{problem}");
    let (line, problem) = push(r#""body":{"text":1},"key":{"len":7,"of":9}"#);
    assert!(line == 2 && problem.contains("message 9 waits, with a key of 7 B"), "{problem}");
    let (line, problem) = push(r#""body":{"text":1},"kay":7"#);
    assert!(line == 2 && problem.contains("unknown field"), "{problem}");
}

#[test]
fn an_answer_of_the_dialect_that_is_too_long_is_refused_by_line() {
    let trace = story(false).0;
    let long = || Payload::Text(MAX_BODY_BYTES + 1);
    let answers = [
        FromDialect::Greeting { frames: vec![Payload::Text(1), long()], awaits_answer: false },
        FromDialect::Frame(long(), 1),
        FromDialect::Decoded { signals: Vec::new(), inbound: false, reply: Some(long()) },
        FromDialect::Beat(Some((Duration::ZERO, long()))),
    ];
    for answer in answers {
        let mut lines = parse(&trace);
        lines[1].dialect = vec![answer];
        let error = play(&print(&lines)).unwrap_err();
        assert_eq!((error.line, error.problem), (2, Problem::TooLong(MAX_BODY_BYTES + 1)));
    }
}

#[test]
fn the_longest_body_and_the_longest_key_are_made_up() {
    let trace = story(false).0;
    let begin = trace.lines().next().unwrap();
    let played = |push: &str, size: usize| {
        let size = format!("the message has {size} bytes with its key");
        let refused = format!("{size}, the limit is 60 (max_message_bytes)");
        let outcome = format!(r#""outcome":{{"refused":"{refused}"}}"#);
        let push = format!(r#"{{"at":0,"what":{{"push":{{{push},{outcome}}}}}}}"#);
        let error = play(&format!("{begin}\n{push}\n")).unwrap_err();
        assert_eq!((error.line, error.problem.to_string()), (3, STOPS.into()));
    };
    played(&format!(r#""body":{{"text":{MAX_BODY_BYTES}}}"#), MAX_BODY_BYTES);
    let key = format!(r#""key":{{"len":{MAX_KEY_BYTES},"of":null}}"#);
    played(&format!(r#""body":{{"text":0}},{key}"#), MAX_KEY_BYTES);
}

#[test]
fn a_client_that_waits_is_polled_no_more_whatever_the_trace_says() {
    let mut lines = parse(&story(false).0);
    let What::Drain(drain) = &mut lines[2].what else { panic!("{:?}", lines[2]) };
    let polls = drain.polls;
    drain.polls += 1_000;
    let mut came = 0;
    let error = replay(self::lines(&print(&lines)), verdict, |scene| {
        came += u64::from(matches!(scene, Scene::Output(_)));
    });
    assert_eq!((error.unwrap_err().line, came), (3, polls));
}

/// A failed message that was not reported and a queued one may have the same key, and of the key of
/// no bytes there is only one.
#[test]
fn a_key_that_two_saved_messages_have_can_be_made_up() {
    let settings = Settings { saved_last: true, ..Settings::default() };
    let mut world = World::new(&settings, false, None);
    world.push(Instant::ZERO, "cancelled", Some(""));
    world.handle(Instant::ZERO, Event::Cancel(Seq::new(1)));
    world.push(Instant::ZERO, "queued", Some(""));
    let saved = world.end();
    let mut world = World::new(&settings, false, Some(&saved));
    world.push(Instant::ZERO, "newer", Some(""));
    world.drain(Wire::Blocked);
    let run = world.end();
    assert_eq!(run.stats.outbox.coalesced, 1);
    assert_eq!(play(&run.trace).map(|replayed| replayed.stats), Ok(run.stats));
}

#[test]
fn more_keys_than_there_are_is_an_error() {
    let (trace, _) = story(false);
    let begin = trace.lines().next().unwrap();
    let mut lines = vec![begin.replace(r#""max_messages":6"#, r#""max_messages":300"#)];
    lines[0] = lines[0].replace(r#""max_bytes":200"#, r#""max_bytes":2000"#);
    for n in 1..=257 {
        lines.push(format!(
            r#"{{"at":0,"what":{{"push":{{"body":{{"text":1}},"key":{{"len":1,"of":null}},"outcome":{{"taken":{n}}}}}}}}}"#,
        ));
    }
    let error = play(&lines.join("\n")).unwrap_err();
    assert_eq!((error.line, error.problem), (258, Problem::Keys(1)));
}

#[test]
fn a_replay_shows_every_line_and_every_output() {
    let (trace, outputs) = story(false);
    let (mut lines, mut came) = (0, Vec::new());
    replay(self::lines(&trace), verdict, |scene| match scene {
        Scene::Line(_) => lines += 1,
        Scene::Output(output) => came.push(output.clone()),
    })
    .unwrap();
    assert_eq!(lines, trace.lines().count());
    // Without payloads, a body that failed has its length and no more.
    assert_eq!(came.len(), outputs.len());
}

// ---- A story ------------------------------------------------------------------------------------

/// Connect with credentials, send two messages, replace a third, hear something, lose the link and
/// come back. The trace, and what came out.
fn story(payloads: bool) -> (String, Vec<Output>) {
    let mut world = World::new(&Settings::default(), payloads, None);
    let at = Instant::from_micros;
    let first = Attempt::new(1);
    world.handle(at(0), Event::Start);
    world.drain(Wire::Blocked);

    world.push(at(100_000), "secret", None);
    world.push(at(150_000), "second", None);
    world.handle(at(200_000), Event::Opened(credentials(first)));
    world.drain(Wire::Ready);
    world.say(at(300_000), first, "welcome");
    world.drain(Wire::Ready);
    world.say(at(400_000), first, "inbound words;one 1");
    world.drain(Wire::Blocked);
    world.push(at(500_000), "old", Some("the key"));
    world.push(at(600_000), "new", Some("the key"));
    world.drain(Wire::Blocked);
    world.handle(at(700_000), Event::Cancel(Seq::new(3)));
    world.drain(Wire::Blocked);
    world.handle(at(900_000), Event::Lost(first, Loss::Eof));
    world.drain(Wire::Blocked);
    let deadline = world.client.deadline().unwrap().at;
    world.handle(deadline, Event::Tick);
    world.drain(Wire::Blocked);
    let run = world.end();
    (run.trace, run.outputs)
}

/// A life with every kind of output in it, each drained alone: what is told of it, and its digest.
fn single_outputs(payloads: bool) -> Vec<(String, String)> {
    let mut world = World::new(&Settings::default(), payloads, None);
    let at = Instant::from_micros;
    let (first, second) = (Attempt::new(1), Attempt::new(2));
    world.drain_singly(at(0), Event::Start);
    let retry_after = Some(Duration::from_millis(9_500));
    world.drain_singly(at(1), Event::Lost(first, Loss::Status { status: 503, retry_after }));
    world.drain_singly(at(2), Event::Stop);
    world.push(at(3), "first", None);
    world.client.push(at(3), vec![7; 3].into(), PushOptions::default()).unwrap();
    world.drain_singly(at(3), Event::Start);
    world.drain_singly(at(4), Event::Opened(credentials(second)));
    world.say(at(5), second, "welcome");
    world.drain_singly(at(5), Event::Tick);
    world.say(at(6), second, "upto 1;reject 2");
    world.drain_singly(at(6), Event::Tick);
    world.drain_singly(at(7), Event::Close { deadline: at(7) });
    world.drain_singly(at(9_000_000), Event::Tick);
    parse(&world.end().trace)
        .into_iter()
        .filter_map(|line| match line.what {
            What::Drain(drain) => Some((drain.out, drain.digest)),
            _ => None,
        })
        .collect()
}

fn credentials(attempt: Attempt) -> Opened<&'static str> {
    let authorization = ("authorization".to_owned(), Bytes::from("Bearer hunter2"));
    Opened { headers: vec![authorization], ..Opened::new(attempt, "hunter2") }
}

// ---- A world ------------------------------------------------------------------------------------

/// Says everything that a dialect can say, as words with `;` between.
struct Talker;

impl Dialect for Talker {
    type Message = Body;
    type Inbound = Body;
    type Credentials = &'static str;
    type Error = std::convert::Infallible;

    const ACKS: bool = true;

    fn encode(message: Body) -> Result<Body, (Body, Self::Error)> {
        Ok(message)
    }

    fn greet(&mut self, opened: &Opened<&'static str>) -> Greeting {
        let greeting = format!("hello {}", opened.credentials.len());
        Greeting { frames: vec![greeting.into()], awaits_answer: true }
    }

    /// Packs two into one now and then.
    fn frame(&mut self, batch: Batch<'_>) -> (Body, usize) {
        let first = batch.first();
        match batch.iter().nth(1) {
            Some(second) if first.id.seq.get() % 3 == 0 => {
                let both = [first.body.as_bytes().as_ref(), second.body.as_bytes()].concat();
                (Body::binary(both), 2)
            }
            _ => (first.body.clone(), 1),
        }
    }

    fn decode(&mut self, body: Body, sink: &mut Sink<Body>) {
        for said in body.as_text().unwrap().split(';') {
            let mut words = said.split(' ');
            let verb = words.next().unwrap();
            let seq = words.next().and_then(|word| word.parse().ok()).map_or(Seq::new(0), Seq::new);
            match verb {
                "welcome" => sink.greeted(),
                "refuse" => sink.refused(Refusal::RetryAfter(Duration::from_secs(3))),
                "one" => sink.ack(Ack::One(seq)),
                "upto" => sink.ack(Ack::UpTo(seq)),
                "next" => sink.ack(Ack::Next),
                "nack" => sink.nack(Ack::One(seq), Nack::Transient),
                "reject" => sink.nack(Ack::One(seq), Nack::Permanent),
                "reply" => sink.reply(format!("reply {seq}")),
                "nonsense" => sink.violation(),
                _ => drop(sink.inbound(said.into())),
            }
        }
    }

    fn beat(&mut self) -> Option<Beat> {
        Some(Beat { interval: Duration::from_secs(7), body: "beat".into() })
    }
}

#[derive(Clone, Debug)]
struct Settings {
    seed: u64,
    window: usize,
    evict: bool,
    jitter: Jitter,
    /// The client does nothing after its snapshot.
    saved_last: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { seed: 1, window: 3, evict: false, jitter: Jitter::Full, saved_last: false }
    }
}

impl Settings {
    fn config(&self) -> ClientConfig {
        ClientConfig {
            connection: ConnectionConfig {
                backoff: Backoff { jitter: self.jitter, ..Backoff::default() },
                ..ConnectionConfig::default()
            },
            outbox: OutboxConfig {
                max_messages: self.window * 2,
                window_messages: self.window,
                max_bytes: 200,
                window_bytes: 100,
                max_message_bytes: 60,
                overflow: if self.evict { Overflow::EvictOldest } else { Overflow::Reject },
                retry_budget: 1,
                ..OutboxConfig::default()
            },
        }
    }

    fn rng(&self) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(self.seed)
    }
}

fn any_settings() -> impl Strategy<Value = Settings> {
    let jitter = prop::sample::select(vec![Jitter::Full, Jitter::Equal, Jitter::Decorrelated]);
    (any::<u64>(), 1..5_usize, any::<bool>(), jitter, any::<bool>()).prop_map(
        |(seed, window, evict, jitter, saved_last)| Settings {
            seed,
            window,
            evict,
            jitter,
            saved_last,
        },
    )
}

#[derive(Clone, Debug)]
enum Op {
    Start,
    Stop,
    Nudge,
    Tick,
    /// Time passes: microseconds.
    Wait(u64),
    Close(u64),
    Cancel(u64),
    /// I/O events, of this attempt or of the one before.
    Io(IoEvent, bool),
    Push {
        len: usize,
        text: bool,
        level: Option<Level>,
        ttl: Option<u64>,
        key: Option<usize>,
    },
    /// So many polls, or as many as there are.
    Drain(Wire, Option<u8>),
}

#[derive(Clone, Debug)]
enum IoEvent {
    Opened,
    Heard,
    Took,
    Flushed,
    Paused,
    Resumed,
    Lost(Loss),
    Pong(Option<u64>),
    Said(&'static str),
}

/// Of the same length, or of none.
const KEYS: [&str; 4] = ["", "a", "b", "longer"];

fn any_op() -> impl Strategy<Value = Op> {
    let losses = prop::sample::select(vec![
        Loss::Eof,
        Loss::Closed { code: Some(1007) },
        Loss::Closed { code: Some(1008) },
        Loss::Status { status: 503, retry_after: Some(Duration::from_secs(9)) },
        Loss::Status { status: 404, retry_after: None },
    ]);
    let said = prop::sample::select(vec![
        "welcome",
        "one 1;words",
        "upto 3",
        "next;next",
        "nack 1",
        "reject 2;reply 2",
        "refuse",
        "nonsense;upto 18446744073709551615",
    ]);
    let io = prop_oneof![
        6 => Just(IoEvent::Opened),
        1 => Just(IoEvent::Heard),
        1 => Just(IoEvent::Took),
        3 => Just(IoEvent::Flushed),
        1 => Just(IoEvent::Paused),
        1 => Just(IoEvent::Resumed),
        3 => losses.prop_map(IoEvent::Lost),
        3 => prop::option::of(0..9_u64).prop_map(IoEvent::Pong),
        8 => said.prop_map(IoEvent::Said),
    ];
    let level = prop::sample::select(vec![Level::Written, Level::Received, Level::Acked]);
    let push = (
        0..70_usize,
        any::<bool>(),
        prop::option::of(level),
        prop::option::weighted(0.3, 0..20_000_000_u64),
        prop::option::weighted(0.5, 0..KEYS.len()),
    );
    let wire = prop_oneof![4 => Just(Wire::Ready), 1 => Just(Wire::Blocked)];
    prop_oneof![
        3 => Just(Op::Start),
        1 => Just(Op::Stop),
        1 => Just(Op::Nudge),
        3 => Just(Op::Tick),
        5 => (0..40_000_000_u64).prop_map(Op::Wait),
        1 => (0..20_000_000_u64).prop_map(Op::Close),
        1 => (0..9_u64).prop_map(Op::Cancel),
        20 => (io, prop::bool::weighted(0.1)).prop_map(|(event, stale)| Op::Io(event, stale)),
        10 => push.prop_map(|(len, text, level, ttl, key)| Op::Push { len, text, level, ttl, key }),
        10 => (wire, prop::option::weighted(0.3, 1..5_u8)).prop_map(|(w, n)| Op::Drain(w, n)),
    ]
}

type Write = Box<dyn FnMut(Line) -> ControlFlow<()>>;

struct World {
    client: Recorder<Talker, ChaCha8Rng, Write>,
    now: Instant,
    trace: Rc<RefCell<String>>,
    outputs: Vec<Output>,
    saved_last: bool,
}

/// What there was of a world.
struct Run {
    trace: String,
    outputs: Vec<Output>,
    stats: Stats,
    snapshot: Snapshot,
    now: Instant,
}

impl World {
    /// A world of its own, or one that goes on where another one was left.
    fn new(settings: &Settings, payloads: bool, before: Option<&Run>) -> Self {
        let trace = Rc::new(RefCell::new(String::new()));
        let written = Rc::clone(&trace);
        let write: Write = Box::new(move |line| {
            written.borrow_mut().push_str(&print(&[line]));
            ControlFlow::Continue(())
        });
        let tape = Tape::new(write);
        let tape = Some(if payloads { tape.with_payloads() } else { tape });
        let (config, rng) = (settings.config(), settings.rng());
        let now = before.map_or(Instant::ZERO, |run| run.now);
        let client = match before {
            None => Recorder::new(config, Talker, rng, tape).unwrap(),
            Some(run) => {
                let seed = settings.seed.wrapping_add(1);
                let rng = ChaCha8Rng::seed_from_u64(seed);
                Recorder::restore(config, Talker, rng, now, run.snapshot.clone(), tape).unwrap()
            }
        };
        let saved_last = settings.saved_last;
        Self { client, now, trace, outputs: Vec::new(), saved_last }
    }

    fn live(mut self, ops: &[Op]) -> Run {
        for op in ops {
            self.op(op);
        }
        self.end()
    }

    fn end(mut self) -> Run {
        let stats = self.client.stats();
        let snapshot = if self.saved_last {
            self.client.into_snapshot()
        } else {
            self.client.finish();
            self.client.outbox().snapshot()
        };
        Run { trace: self.trace.take(), outputs: self.outputs, stats, snapshot, now: self.now }
    }

    fn op(&mut self, op: &Op) {
        let now = self.now;
        match op {
            Op::Start => self.handle(now, Event::Start),
            Op::Stop => self.handle(now, Event::Stop),
            Op::Nudge => self.handle(now, Event::Nudge),
            Op::Tick => self.handle(now, Event::Tick),
            Op::Wait(micros) => {
                self.now = self.now + Duration::from_micros(*micros);
                self.handle(self.now, Event::Tick);
            }
            Op::Close(after) => {
                let deadline = now + Duration::from_micros(*after);
                self.handle(now, Event::Close { deadline });
            }
            Op::Cancel(seq) => self.handle(now, Event::Cancel(Seq::new(*seq))),
            Op::Io(event, stale) => {
                let newest = self.client.connection().attempt();
                let a = Attempt::new(newest.get().saturating_sub(u64::from(*stale)));
                self.io(a, event);
            }
            Op::Push { len, text, level, ttl, key } => {
                let body = if *text { "x".repeat(*len).into() } else { vec![255; *len].into() };
                let options = PushOptions {
                    level: *level,
                    ttl: ttl.map(Duration::from_micros),
                    key: key.map(|key| KEYS[key].into()),
                };
                let _ = self.client.push(now, body, options);
            }
            Op::Drain(wire, polls) => match polls {
                None => self.drain(*wire),
                Some(polls) => {
                    for _ in 0..*polls {
                        self.outputs.push(self.client.poll(*wire));
                    }
                }
            },
        }
    }

    fn io(&mut self, a: Attempt, event: &IoEvent) {
        let now = self.now;
        match event {
            IoEvent::Opened => self.handle(now, Event::Opened(credentials(a))),
            IoEvent::Heard => self.handle(now, Event::Heard(a)),
            IoEvent::Took => self.handle(now, Event::Took(a)),
            IoEvent::Flushed => self.handle(now, Event::Flushed(a)),
            IoEvent::Paused => self.handle(now, Event::Paused(a)),
            IoEvent::Resumed => self.handle(now, Event::Resumed(a)),
            IoEvent::Lost(loss) => self.handle(now, Event::Lost(a, *loss)),
            IoEvent::Pong(seq) => {
                let pong = seq.map(|seq| Ping { attempt: a, seq: Seq::new(seq) }.payload());
                let pong = pong.map_or_else(|| "stray".into(), |pong| pong.to_vec().into());
                let _ = self.client.receive(now, a, Received::Pong(pong));
            }
            IoEvent::Said(words) => self.say(now, a, words),
        }
    }

    fn handle(&mut self, now: Instant, event: Event<&'static str>) {
        self.client.handle(now, event);
    }

    fn say(&mut self, now: Instant, a: Attempt, words: &str) {
        let _ = self.client.receive(now, a, Received::Data(words.into()));
    }

    fn push(&mut self, now: Instant, text: &str, key: Option<&str>) {
        let options = PushOptions { key: key.map(Into::into), ..PushOptions::default() };
        self.client.push(now, text.into(), options).unwrap();
    }

    /// Drains with an input after each poll.
    fn drain_singly(&mut self, now: Instant, event: Event<&'static str>) {
        self.handle(now, event);
        while !matches!(self.client.poll(Wire::Ready), Output::WaitUntil(_)) {
            self.handle(now, Event::Tick);
        }
    }

    fn drain(&mut self, wire: Wire) {
        loop {
            let output = self.client.poll(wire);
            let last = matches!(output, Output::WaitUntil(_));
            self.outputs.push(output);
            if last {
                return;
            }
        }
    }
}

// ---- Traces as text -----------------------------------------------------------------------------

fn print(lines: &[Line]) -> String {
    lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect()
}

fn parse(trace: &str) -> Vec<Line> {
    trace.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn play(trace: &str) -> Result<Replayed, ReplayError<String>> {
    replay(lines(trace), verdict, |_| {})
}

fn lines(trace: &str) -> impl Iterator<Item = Result<Line, String>> {
    trace.lines().map(|line| serde_json::from_str(line).map_err(|error| error.to_string()))
}

/// Changes that nobody may make to a line, if they can be made to it.
const CHANGES: [fn(&mut Line) -> bool; 8] = [
    // One output more or less, or another one.
    |line| match &mut line.what {
        What::Drain(drain) => {
            drain.polls += 1;
            true
        }
        _ => false,
    },
    |line| match &mut line.what {
        What::Drain(drain) => {
            drain.polls -= 1;
            true
        }
        _ => false,
    },
    |line| match &mut line.what {
        What::Drain(drain) => {
            drain.digest = format!("{:016x}", u64::from_str_radix(&drain.digest, 16).unwrap() ^ 1);
            true
        }
        _ => false,
    },
    // Another place of a message.
    |line| match &mut line.what {
        What::Push(push) => match &mut push.outcome {
            Outcome::Taken(seq) | Outcome::Displaced(seq, _) => {
                *seq = Seq::new(seq.get() + 1);
                true
            }
            Outcome::Refused(reason) => {
                *reason = String::new();
                true
            }
        },
        _ => false,
    },
    // An answer of the dialect, or a draw, too little or too much.
    |line| line.dialect.pop().is_some(),
    |line| {
        line.dialect.push(FromDialect::Beat(None));
        true
    },
    |line| line.draws.pop().is_some(),
    |line| {
        line.draws.push(7);
        true
    },
];
