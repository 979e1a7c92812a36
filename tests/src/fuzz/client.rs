//! Any events in any order, at any time, made of the bytes that a fuzzer invents.
//!
//! [`run`] drives a real client with them and panics if a promise is broken: a client never panics,
//! holds no more than it may, gives each message one outcome, and once drained has nothing to do
//! before its deadline. The fuzz target `client` calls it, and so does the test that replays the
//! corpus which the target has gathered.

use core::time::Duration;

use arbitrary::Arbitrary;
use bowline_core::{
    Ack, Body, Client, ClientConfig, Dialect, Event, Frame, Instant, Level, Loss, Nack, Opened,
    OutboxConfig, Output, Overflow, PushOptions, Received, Refusal, Seq, Sink, Wire,
};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use super::{Passes, Which, read};

/// Reads events from `data` and lets a client live through them.
///
/// # Panics
/// A promise is broken.
pub fn run(data: &[u8]) {
    if let Some(input) = read(data) {
        live(input);
    }
}

#[derive(Arbitrary, Debug)]
struct Input {
    seed: u64,
    messages: u8,
    window: u8,
    evict: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
struct Step {
    /// Time that passes first.
    passes: Passes,
    op: Op,
    /// How many outputs are taken afterwards, mostly all of them, and whether the wire takes frames.
    polls: u8,
    ready: bool,
}

#[derive(Arbitrary, Debug)]
enum Op {
    Push {
        len: u8,
        level: u8,
        ttl: Option<u32>,
        key: Option<u8>,
    },
    Start,
    Stop,
    Close {
        after: u32,
    },
    Nudge,
    Cancel(u8),
    Opened(Which),
    Heard(Which),
    Took(Which),
    Flushed(Which),
    Paused(Which),
    Resumed(Which),
    Lost(Which, u8, u16),
    Pong(Which, u8),
    Frame(Which, Vec<u8>),
    Tick,
    /// For this many rounds the network works and the peer is honest.
    Honest {
        rounds: u8,
        acks: bool,
    },
}

/// A dialect in which a frame is a list of pairs: what is said, and of which message.
struct Pairs;

impl Dialect for Pairs {
    type Message = Body;
    type Inbound = ();
    type Credentials = ();
    type Error = ();

    const ACKS: bool = true;

    fn encode(message: Body) -> Result<Body, (Body, ())> {
        Ok(message)
    }

    fn decode(&mut self, body: Body, sink: &mut Sink<()>) {
        for pair in body.as_bytes().chunks_exact(2) {
            let seq = Seq::new(pair[1].into());
            match pair[0] % 12 {
                0 => sink.ack(Ack::Next),
                1 => sink.ack(Ack::One(seq)),
                2 => sink.ack(Ack::UpTo(seq)),
                3 => sink.nack(Ack::Next, Nack::Transient),
                4 => sink.nack(Ack::One(seq), Nack::Transient),
                5 => sink.nack(Ack::One(seq), Nack::Permanent),
                6 => sink.nack(Ack::UpTo(seq), Nack::Transient),
                7 => sink.greeted(),
                8 => sink.refused(Refusal::Renew),
                9 => sink.violation(),
                10 => sink.reply("reply"),
                _ => drop(sink.inbound(())),
            }
        }
    }
}

fn loss(kind: u8, code: u16) -> Loss {
    match kind % 6 {
        0 => Loss::Io,
        1 => Loss::Eof,
        2 => Loss::Connect,
        3 => Loss::Closed { code: Some(code) },
        4 => Loss::Status { status: code, retry_after: None },
        _ => Loss::Status { status: code, retry_after: Some(Duration::from_secs(code.into())) },
    }
}

fn live(input: Input) {
    let messages = usize::from(input.messages % 8) + 1;
    let outbox = OutboxConfig {
        max_messages: messages,
        max_bytes: 256,
        window_bytes: 128,
        max_message_bytes: 64,
        window_messages: usize::from(input.window) % messages + 1,
        overflow: if input.evict { Overflow::EvictOldest } else { Overflow::Reject },
        ..OutboxConfig::default()
    };
    let config = ClientConfig { outbox, ..ClientConfig::default() };
    let rng = ChaCha8Rng::seed_from_u64(input.seed);
    let mut client = Client::new(config, Pairs, rng).expect("the settings are in their ranges");
    let mut now = Instant::ZERO;
    let (mut settled, mut displaced) = (0, 0);

    for step in input.steps {
        now = step.passes.since(now);
        let newest = client.connection().attempt();
        match step.op {
            Op::Push { len, level, ttl, key } => {
                let options = PushOptions {
                    level: [None, Some(Level::Written), Some(Level::Received), Some(Level::Acked)]
                        [usize::from(level % 4)],
                    ttl: ttl.map(|ttl| Duration::from_micros(ttl.into())),
                    key: key.map(|key| [key % 3].as_slice().into()),
                };
                match client.push(now, Body::binary(vec![0; len.into()]), options) {
                    Ok(pushed) => {
                        displaced += pushed.displaced.len() as u64;
                        settled += pushed.displaced.len() as u64;
                    }
                    Err(refused) => assert_eq!(refused.body.len(), usize::from(len)),
                }
            }
            Op::Start => client.handle(now, Event::Start),
            Op::Stop => client.handle(now, Event::Stop),
            Op::Close { after } => {
                let deadline = now + Duration::from_micros(after.into());
                client.handle(now, Event::Close { deadline });
            }
            Op::Nudge => client.handle(now, Event::Nudge),
            Op::Cancel(seq) => client.handle(now, Event::Cancel(Seq::new(seq.into()))),
            Op::Opened(which) => {
                client.handle(now, Event::Opened(Opened::new(which.of(newest), ())));
            }
            Op::Heard(which) => client.handle(now, Event::Heard(which.of(newest))),
            Op::Took(which) => client.handle(now, Event::Took(which.of(newest))),
            Op::Flushed(which) => client.handle(now, Event::Flushed(which.of(newest))),
            Op::Paused(which) => client.handle(now, Event::Paused(which.of(newest))),
            Op::Resumed(which) => client.handle(now, Event::Resumed(which.of(newest))),
            Op::Lost(which, kind, code) => {
                client.handle(now, Event::Lost(which.of(newest), loss(kind, code)));
            }
            Op::Pong(which, seq) => {
                let seq = Seq::new(seq.into());
                let ping = bowline_core::Ping { attempt: newest, seq };
                let pong = Received::Pong(ping.payload());
                let _ = client.receive(now, which.of(newest), pong);
            }
            Op::Frame(which, bytes) => {
                let frame = Received::Data(Body::binary(bytes));
                let _ = client.receive(now, which.of(newest), frame);
            }
            Op::Tick => client.handle(now, Event::Tick),
            Op::Honest { rounds, acks } => {
                for _ in 0..rounds % 8 {
                    settled += honest_round(&mut client, &mut now, acks);
                }
            }
        }

        // The time is told before a drain that goes to the end.
        let whole = step.polls > 60;
        if whole {
            client.handle(now, Event::Tick);
        }
        let wire = if step.ready { Wire::Ready } else { Wire::Blocked };
        for poll in 0_u32.. {
            if !whole && poll >= step.polls.into() {
                break;
            }
            assert!(poll < 1_000, "a drain does not end");
            match client.poll(wire) {
                Output::Delivered { first, last } => {
                    settled += last.get() - first.get() + 1;
                }
                Output::Failed(_) => settled += 1,
                Output::WaitUntil(deadline) => {
                    if whole {
                        assert!(deadline.is_none_or(|deadline| deadline.at > now));
                    }
                    break;
                }
                Output::Dial(_)
                | Output::Send(..)
                | Output::Close(..)
                | Output::Abort(_)
                | Output::Status(_) => {}
            }
        }
        let stats = client.stats();
        assert!(stats.held.messages <= messages && stats.held.bytes <= 256);
        let outbox = stats.outbox;
        let ended = outbox.delivered + outbox.failed.iter().sum::<u64>() + displaced;
        let alive = (stats.queued + stats.in_flight.messages) as u64;
        assert_eq!(outbox.accepted, ended + alive, "a message has no place, or two");
        assert!(settled <= ended, "an outcome was reported twice");
        if client.outbox().is_empty() {
            assert_eq!(settled, ended, "an outcome was not reported");
            assert_eq!((stats.held, stats.in_flight), Default::default());
        }
    }
}

/// The network works for a while and the peer does what it should; says how many were settled.
fn honest_round(client: &mut Client<Pairs, ChaCha8Rng>, now: &mut Instant, acks: bool) -> u64 {
    let mut settled = 0;
    let attempt = client.connection().attempt();
    client.handle(*now, Event::Opened(Opened::new(attempt, ())));
    client.handle(*now, Event::Tick);
    loop {
        match client.poll(Wire::Ready) {
            Output::Send(attempt, Frame::Ping(ping)) => {
                let pong = Received::Pong(ping.payload());
                let _ = client.receive(*now, attempt, pong);
            }
            Output::Send(attempt, Frame::Data(_)) if acks => {
                // Says "acked" of the next in order; more often than is right, which is legal.
                let _ = client.receive(*now, attempt, Received::Data(Body::binary(vec![0, 0])));
            }
            Output::Send(..) | Output::Status(_) => {}
            Output::Delivered { first, last } => {
                settled += last.get() - first.get() + 1;
            }
            Output::Failed(_) => settled += 1,
            Output::Dial(attempt) => {
                client.handle(*now, Event::Opened(Opened::new(attempt, ())));
            }
            Output::Close(attempt, _) => {
                client.handle(*now, Event::Lost(attempt, Loss::Closed { code: None }));
            }
            Output::Abort(_) => {}
            Output::WaitUntil(deadline) => {
                client.handle(*now, Event::Flushed(client.connection().attempt()));
                if let Some(deadline) = deadline {
                    *now = deadline.at.max(*now);
                }
                client.handle(*now, Event::Tick);
                return settled;
            }
        }
    }
}
