//! Whoever puts a dialect, a table of verdicts or settings of their own under the kit has to say
//! nothing but that, and is told what is wrong.

use bowline_core::{
    Ack, Body, ClientConfig, ConnectionConfig, Dialect, Greeting, Level, Loss, Opened,
    OutboxConfig, Sink, Verdict,
};
use bowline_testkit::{
    peer::{Desk, Peer, PlainPeer},
    run::{check, check_trace},
    statement::Statement,
    trace::Trace,
};

#[test]
fn that_a_dialect_greets_is_seen_by_the_oracle_itself() {
    check(&acked(), &Server { oks: 1 }, 0..10).unwrap();
}

#[test]
fn a_verdict_of_ones_own_is_judged_by_that() {
    let verdict = |loss, _| match loss {
        Loss::Status { .. } => Verdict::Retry,
        _ => Verdict::Fatal,
    };
    let connection = ConnectionConfig { verdict, ..ConnectionConfig::default() };
    check(&ClientConfig { connection, ..ClientConfig::default() }, &PlainPeer, 0..10).unwrap();
}

#[test]
fn a_peer_that_acknowledges_too_much_is_shrunk_to_a_trace_that_fails_again() {
    let (config, peer) = (acked(), Server { oks: 2 });
    let failure = check(&config, &peer, 0..30).unwrap_err();
    assert_eq!(failure.violation.statement, Statement::S3, "{failure}");
    assert!(failure.trace.ops.len() < 20, "{failure}");
    assert!(failure.story.contains("hears Ack(Next)"), "{failure}");

    let saved: Trace = failure.trace.to_string().parse().unwrap();
    assert_eq!(check_trace(&config, &peer, &saved).unwrap_err(), failure);
    assert_eq!(check_trace(&config, &Server { oks: 1 }, &saved), Ok(()));
}

fn acked() -> ClientConfig {
    let outbox = OutboxConfig { level: Level::Acked, ..OutboxConfig::default() };
    ClientConfig { outbox, ..ClientConfig::default() }
}

/// It greets with a token, awaits `welcome`, and takes `ok` for the ack of the next message.
struct Polite;

#[derive(Default)]
struct Token(String);

impl Dialect for Polite {
    type Message = Body;
    type Inbound = Body;
    type Credentials = Token;
    type Error = core::convert::Infallible;

    const ACKS: bool = true;

    fn encode(message: Body) -> Result<Body, (Body, Self::Error)> {
        Ok(message)
    }

    fn greet(&mut self, opened: &Opened<Token>) -> Greeting {
        let hello = format!("hello {}", opened.credentials.0);
        Greeting { frames: vec![Body::text(hello)], awaits_answer: true }
    }

    fn decode(&mut self, frame: Body, sink: &mut Sink<Body>) {
        match frame.as_text() {
            Some("welcome") => sink.greeted(),
            Some("ok") => sink.ack(Ack::Next),
            _ => drop(sink.inbound(frame)),
        }
    }
}

/// Says `ok` so often to each message.
#[derive(Clone)]
struct Server {
    oks: usize,
}

impl Peer for Server {
    type Dialect = Polite;

    const POSITIONAL: bool = true;

    fn dialect(&self) -> Polite {
        Polite
    }

    fn body(&self, message: u64, bytes: usize, level: Level) -> Body {
        let wants = if level == Level::Acked { "ack" } else { "" };
        Body::text(format!("{message} {wants:bytes$}"))
    }

    fn message(&self, body: &Body) -> u64 {
        body.as_text().and_then(number).expect("a body of the world has a number")
    }

    fn read(&self, frame: &Body, messages: &mut Vec<u64>) {
        messages.extend(frame.as_text().and_then(number));
    }

    fn take(&mut self, frame: &Body, desk: &mut Desk) {
        let text = frame.as_text().unwrap_or_default();
        let Some(message) = number(text) else { return desk.answer("welcome".into()) };
        desk.processed(message);
        if text.contains("ack") {
            for _ in 0..self.oks {
                desk.ack("ok".into());
            }
        }
    }
}

/// The number that a text begins with.
fn number(text: &str) -> Option<u64> {
    text.split(' ').next()?.parse().ok()
}
