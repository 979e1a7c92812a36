//! The program `replay`: what it prints, and how it ends.

use std::{
    io::Write,
    ops::ControlFlow,
    process::{Command, Output, Stdio},
    time::Duration,
};

use bowline_core::{
    Attempt, ClientConfig, Event, Instant, Loss, Opened, Output as Out, Plain, PushOptions,
    Received, Verdict, VerdictLimits, Wire,
    trace::{Recorder, Tape},
};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

#[test]
fn a_trace_is_told_like_a_story() {
    let replayed = replay(&trace(ClientConfig::default()), &[]);
    let version = env!("CARGO_PKG_VERSION");
    let begin = format!(
        "      0.000000  a client of bowline {version}, without acks; the trace is without payloads\n"
    );
    let story = "      0.000000  start
      0.000000  -> dial 1
      0.000000  == Dialing
      0.000000  pushed 3 (15 B)
      0.100000  message 2 is cancelled
      0.100000  -> message 2 (5 B) failed, never sent: it was cancelled
      0.200000  connection 1 is open
      0.200000  == Up
      0.200000  -> sent 2 (10 B), received 1 (6 B), -> pings 1, pongs 1, inbound 1, -> delivered 2 (1 to 3)
      0.500000  connection 1 is lost: the stream ended without a close frame
";
    let text = String::from_utf8(replayed.stdout).unwrap();
    let rest = text.strip_prefix(&begin).and_then(|text| text.strip_prefix(story));
    let rest = rest.unwrap_or_else(|| panic!("{text}"));
    assert!(rest.starts_with("      0.500000  == Waiting until "), "{rest}");
    assert!(rest.ends_with("the end\n\nThe same as recorded: 17 lines.\n"), "{rest}");
    assert_eq!(replayed.status.code(), Some(0));
}

#[test]
fn everything_is_told_if_asked_for() {
    let told = |arguments: &[&str]| {
        let replayed = replay(&trace(ClientConfig::default()), arguments);
        String::from_utf8(replayed.stdout).unwrap()
    };
    for aside in ["  -> wait until 15.000000 s (Dial)\n", "  connection 1 is flushed\n"] {
        assert!(told(&["--all"]).contains(aside), "{aside}");
        assert!(!told(&[]).contains(aside), "{aside}");
    }
}

#[test]
fn a_difference_is_told_with_both_sides() {
    let trace = trace(ClientConfig::default()).replace(r#"[1,"Eof"]"#, r#"[1,"Io"]"#);
    let replayed = replay(&trace, &[]);
    let text = String::from_utf8(replayed.stdout).unwrap();
    let (_, difference) = text.split_once("\nDifferent at line 16, at 0.500000 s.\n").unwrap();
    let (recorded, now) = difference.split_once('\n').unwrap();
    assert!(recorded.starts_with("  recorded: Waiting, for the stream ended"), "{recorded}");
    assert!(now.starts_with("  now:      Waiting, for the connection broke"), "{now}");
    assert_eq!(replayed.status.code(), Some(1));
}

#[test]
fn a_table_of_verdicts_that_is_not_known_is_named() {
    fn hopeless(_: Loss, _: VerdictLimits) -> Verdict {
        Verdict::RetryAfter(Duration::from_secs(7)..=Duration::from_secs(7))
    }
    let mut config = ClientConfig::default();
    config.connection.verdict = hopeless;
    let replayed = replay(&trace(config), &[]);
    let text = String::from_utf8(replayed.stdout).unwrap();
    assert!(text.ends_with("with a table of verdicts that is not known here.\n"), "{text}");
    assert_eq!(replayed.status.code(), Some(1));
}

#[test]
fn what_is_no_trace_or_stops_is_told_by_line() {
    let whole = trace(ClientConfig::default());
    let half: String = whole.lines().take(5).map(|line| format!("{line}\n")).collect();
    for (text, error) in [
        (half.as_str(), "line 6, at 0 µs: the trace stops before the client did"),
        (&whole[..whole.len() / 2], "it is not a line of a trace: EOF while parsing"),
        ("{ a letter }\n", "line 1, at 0 µs: it is not a line of a trace: key must be a string"),
        ("a letter\n", "line 1: \"a\" means nothing here"),
        ("", "line 1, at 0 µs: the trace stops before the client did"),
    ] {
        let replayed = replay(text, &[]);
        let told = String::from_utf8(replayed.stderr).unwrap();
        assert!(told.starts_with("replay: -: line ") && told.contains(error), "{told}");
        assert_eq!(replayed.status.code(), Some(3));
    }
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let output = Command::new(env!("CARGO_BIN_EXE_replay")).arg("no such file").output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("replay: no such file: "));
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn a_trace_of_the_simulation_is_run_again_in_its_world() {
    let story = "# two messages\nsettings seed=2 language=plain\nclient start\npush 2\npass 1s\n";
    let replayed = replay(story, &[]);
    let text = String::from_utf8(replayed.stdout).unwrap();
    assert!(text.starts_with("settings seed=2\n"), "{text}");
    for line in ["\n> push 2\n", "dials 1\n", "1 to 2 delivered\n"] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(text.ends_with("\nEvery promise was kept.\n"), "{text}");
    assert_eq!(replayed.status.code(), Some(0));
}

#[test]
fn ops_and_settings_that_cannot_be_are_told() {
    for (text, error) in [
        ("client start\nlink fry\n", "line 2: \"fry\" means nothing here"),
        ("settings window=0\n", "window_messages is 0, allowed is 1 to 262144"),
    ] {
        let replayed = replay(text, &[]);
        let told = String::from_utf8(replayed.stderr).unwrap();
        assert_eq!(told, format!("replay: -: {error}\n"));
        assert_eq!(replayed.status.code(), Some(3));
    }
}

// ---- Helpers ------------------------------------------------------------------------------------

/// Three messages, of which one is cancelled, and a connection that ends.
fn trace(config: ClientConfig) -> String {
    let mut trace = String::new();
    let tape = Tape::new(|line| {
        trace += &serde_json::to_string(&line).unwrap();
        trace.push('\n');
        ControlFlow::Continue(())
    });
    let rng = ChaCha8Rng::seed_from_u64(1);
    let mut client = Recorder::new(config, Plain, rng, Some(tape)).unwrap();
    let (a, at) = (Attempt::new(1), Instant::from_micros);
    let drain = |client: &mut Recorder<_, _, _>, wire| {
        while !matches!(client.poll(wire), Out::WaitUntil(_)) {}
    };
    client.handle(at(0), Event::Start);
    drain(&mut client, Wire::Blocked);
    for text in ["one..", "two..", "three"] {
        client.push(at(0), text.into(), PushOptions::default()).unwrap();
    }
    client.handle(at(100_000), Event::Cancel(bowline_core::Seq::new(2)));
    drain(&mut client, Wire::Blocked);
    client.handle(at(200_000), Event::Opened(Opened::new(a, ())));
    drain(&mut client, Wire::Ready);
    client.handle(at(200_000), Event::Flushed(a));
    let ping = bowline_core::Ping { attempt: a, seq: bowline_core::Seq::new(3) };
    let pong = Received::Pong(ping.payload().to_vec().into());
    assert_eq!(client.receive(at(300_000), a, pong), None);
    assert!(client.receive(at(400_000), a, Received::Data("answer".into())).is_some());
    drain(&mut client, Wire::Ready);
    client.handle(at(500_000), Event::Lost(a, Loss::Eof));
    drain(&mut client, Wire::Blocked);
    client.finish();
    drop(client);
    trace
}

fn replay(trace: &str, arguments: &[&str]) -> Output {
    let mut replay = Command::new(env!("CARGO_BIN_EXE_replay"))
        .arg("-")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It stops to read at the first line that is none.
    let _ = replay.stdin.take().unwrap().write_all(trace.as_bytes());
    replay.wait_with_output().unwrap()
}
