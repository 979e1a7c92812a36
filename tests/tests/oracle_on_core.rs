//! The oracle watches the real client on a bad network, and has nothing to say.
//!
//! The simulation does the same at a larger scale. This world is kept for what that one lacks: a
//! transport that cannot ping, where acks alone show that the peer lives. And it writes the history
//! that the oracle reads with another pen, so that a slip of the simulation's own shows.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bowline_core::{
    Ack, Attempt, Backoff, Batch, Body, Client, ClientConfig, ConnectionConfig, Dialect, Event,
    Frame, Greeting, Instant, Jitter, Level, Loss, MessageId, Nack, OnSuspected, Opened,
    OutboxConfig, Output, Overflow, PushOptions, Received, Seq, Signal, Sink, Snapshot, Wire,
};
use bowline_testkit::{
    history::{Content, Gauges, Moment, Seen},
    oracle::{Oracle, Rules},
    statement::Violation,
};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

#[test]
fn a_client_on_a_bad_network_keeps_every_promise() {
    let seeds = std::env::var("SEEDS").map_or(300, |seeds| seeds.parse().expect("a number"));
    let first = std::env::var("SEED").map_or(0, |seed| seed.parse().expect("a number"));
    let (mut moments, mut settled) = (0, 0);
    for seed in first..first + seeds {
        let mut world = World::new(seed);
        if let Err(violation) = world.live() {
            let last: Vec<_> = world.last.iter().map(ToString::to_string).collect();
            panic!("seed {seed}: {violation}\n{}\n{:#?}", last.join("\n"), world.config);
        }
        moments += world.moments;
        settled += world.settled;
    }
    println!("{seeds} seeds, {moments} moments, {settled} messages settled");
    assert!(settled > seeds, "nothing happens in these worlds");
}

// ---- A dialect ----------------------------------------------------------------------------------

/// A frame is `m` with outbox, place, payload and level of a message, an answer is a verb and a name.
struct Words;

impl Dialect for Words {
    type Message = Body;
    type Inbound = ();
    type Credentials = ();
    type Error = std::convert::Infallible;

    const ACKS: bool = true;

    fn encode(message: Body) -> Result<Body, (Body, Self::Error)> {
        Ok(message)
    }

    fn greet(&mut self, _: &Opened<()>) -> Greeting {
        Greeting { frames: vec!["hello".into()], awaits_answer: true }
    }

    fn frame(&mut self, batch: Batch<'_>) -> (Body, usize) {
        let item = batch.first();
        let (outbox, seq) = (item.id.outbox.get(), item.id.seq);
        let body = item.body.as_text().expect("every payload is a number").trim();
        (Body::text(format!("m {outbox} {seq} {body} {:?}", item.level)), 1)
    }

    fn decode(&mut self, body: Body, sink: &mut Sink<()>) {
        sink.signals.extend(signal_of(body.as_text().expect("the peer writes text")));
    }
}

fn signal_of(said: &str) -> Option<Signal> {
    let words: Vec<&str> = said.split(' ').collect();
    let number = |place: usize| words.get(place).map_or(0, |word| word.parse().expect("a number"));
    let seq = Seq::new(number(1) as u64);
    let id = MessageId { outbox: bowline_core::OutboxId::new(number(2)), seq };
    Some(match words[0] {
        "welcome" => Signal::Greeted,
        "refuse" => Signal::Refused(bowline_core::Refusal::Retry),
        "one" => Signal::Ack(Ack::One(seq)),
        "upto" => Signal::Ack(Ack::UpTo(seq)),
        "oneof" => Signal::Ack(Ack::OneOf(id)),
        "uptoof" => Signal::Ack(Ack::UpToOf(id)),
        "next" => Signal::Ack(Ack::Next),
        "nack" => Signal::Nack(Ack::One(seq), Nack::Transient),
        "reject" => Signal::Nack(Ack::One(seq), Nack::Permanent),
        "nackfrom" => Signal::NackFrom(id, Nack::Transient),
        "rejectfrom" => Signal::NackFrom(id, Nack::Permanent),
        _ => return None,
    })
}

// ---- The world ----------------------------------------------------------------------------------

enum InTransit {
    Dialed(Option<Loss>),
    ToPeer(Frame),
    ToClient(Received, bool),
    Ends(Loss),
}

struct World {
    chance: ChaCha8Rng,
    config: ClientConfig,
    client: Client<Words, ChaCha8Rng>,
    oracle: Oracle,
    snapshot: Option<Snapshot>,
    /// A fault is on if its rate is not 0: per mille.
    rates: [u32; 24],
    now: Instant,
    transit: BTreeMap<(Instant, u64), (Attempt, InTransit)>,
    sent: u64,
    /// The socket that lives, and whether it is silent.
    socket: Option<(Attempt, bool)>,
    blocked: bool,
    pushed: u64,
    seqs: u64,
    application: BTreeSet<u64>,
    moments: u64,
    settled: u64,
    last: VecDeque<Moment>,
}

const DELAY: Duration = Duration::from_millis(20);

impl World {
    fn new(seed: u64) -> Self {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let mut below = |n: u64| chance.next_u64() % n;
        let ms = |ms: u64| Duration::from_millis(ms);
        let mut rates = [0; 24];
        for rate in &mut rates {
            if below(2) == 0 {
                *rate = 1 << below(7);
            }
        }
        let messages = 1 + below(8) as usize;
        let config = ClientConfig {
            connection: ConnectionConfig {
                dial_limit: ms(50 + below(3000)),
                greeting_limit: ms(50 + below(3000)),
                ping_interval: ms(30 + below(3000)),
                pong_limit: ms(60 + below(1000)),
                write_limit: ms(50 + below(1000)),
                close_limit: ms(50 + below(1000)),
                stable_after: ms(50 + below(3000)),
                nudge_floor: ms(1 + below(300)),
                retry_after_cap: ms(1 + below(3000)),
                max_attempts: [None, Some(1 + below(5) as u32)][usize::from(below(5) == 0)],
                max_elapsed: [None, Some(ms(1 + below(9000)))][usize::from(below(9) == 0)],
                backoff: Backoff {
                    base: ms(1 + below(100)),
                    cap: ms(100 + below(3000)),
                    factor: 1 + below(3) as u32,
                    jitter: [Jitter::Full, Jitter::Equal, Jitter::Decorrelated, Jitter::None]
                        [below(4) as usize],
                },
                can_ping: below(5) != 0,
                ..ConnectionConfig::default()
            },
            outbox: OutboxConfig {
                max_messages: messages,
                max_bytes: 200,
                max_message_bytes: 30,
                window_messages: 1 + below(messages as u64) as usize,
                window_bytes: 30 + below(170) as usize,
                overflow: [Overflow::Reject, Overflow::EvictOldest][below(2) as usize],
                level: Level::Written,
                retry_budget: below(4) as u32,
                suspect_limit: 1 + below(3) as u32,
                on_suspected: [OnSuspected::Wait, OnSuspected::Settle][below(2) as usize],
                ack_limit: ms(50 + below(2000)),
                nack_delay: ms(1 + below(100)),
                nack_delay_cap: ms(100 + below(1000)),
                receipt_interval_messages: 1 + below(9) as usize,
                ..OutboxConfig::default()
            },
        };
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let client = Client::new(config.clone(), Words, rng).expect("settings in their ranges");
        let mut rules = Rules::new(config.clone(), client.outbox().id());
        rules.refuses_gaps = false;
        rules.fair = true;
        Self {
            chance,
            oracle: Oracle::new(rules),
            config,
            client,
            snapshot: None,
            rates,
            now: Instant::ZERO,
            transit: BTreeMap::new(),
            sent: 0,
            socket: None,
            blocked: false,
            pushed: 0,
            seqs: 0,
            application: BTreeSet::new(),
            moments: 0,
            settled: 0,
            last: VecDeque::new(),
        }
    }

    fn below(&mut self, n: u64) -> u64 {
        self.chance.next_u64() % n
    }

    fn happens(&mut self, fault: usize) -> bool {
        self.below(1000) < self.rates[fault].into()
    }

    fn see(&mut self, seen: Seen) -> Result<(), Violation> {
        let moment = Moment::new(self.now, seen);
        self.moments += 1;
        if self.last.len() > 120 {
            self.last.pop_front();
        }
        if !matches!(seen, Seen::Gauges(_)) {
            self.last.push_back(moment);
        }
        self.oracle.see(&moment)
    }

    fn live(&mut self) -> Result<(), Violation> {
        self.say(Seen::Start, Event::Start)?;
        for _ in 0..400 {
            self.step()?;
        }
        self.rates = [0; 24];
        self.blocked = false;
        self.transit.retain(|_, (_, it)| !matches!(it, InTransit::Ends(_)));
        if let Some((a, _)) = self.socket.take() {
            self.say(Seen::Lost(a, Loss::Io), Event::Lost(a, Loss::Io))?;
        }
        self.say(Seen::Start, Event::Start)?;
        let attempt = self.client.connection().attempt();
        self.say(Seen::Resumed(attempt), Event::Resumed(attempt))?;
        self.see(Seen::Quiet { trip: DELAY * 4 })?;
        for _ in 0..1500 {
            self.step()?;
        }
        self.see(Seen::Ended)
    }

    fn say(&mut self, seen: Seen, event: Event<()>) -> Result<(), Violation> {
        self.see(seen)?;
        self.client.handle(self.now, event);
        if self.below(4) != 0 || seen == Seen::Tick {
            self.drain()?;
        }
        Ok(())
    }

    /// The next thing that happens in the world, be it of the network or of the user.
    fn step(&mut self) -> Result<(), Violation> {
        for fault in 0..12 {
            if self.happens(fault) {
                self.user(fault)?;
            }
        }
        let attempt = self.client.connection().attempt();
        if self.happens(12) {
            let attempts = [attempt.get().saturating_sub(1), attempt.get()];
            let a = Attempt::new(attempts[self.below(2) as usize]);
            self.noise(a)?;
        }
        if self.happens(13) {
            self.blocked = !self.blocked;
        }
        // Nobody sleeps before all is done.
        self.drain()?;
        let next = self.transit.first_key_value().map(|(&(at, _), _)| at);
        let wake = self.client.deadline().map(|deadline| deadline.at);
        let at = match (next, wake) {
            (Some(next), Some(wake)) => next.min(wake),
            (next, wake) => next.or(wake).unwrap_or(self.now + Duration::from_millis(100)),
        };
        // Sometimes the machine sleeps too long.
        let late =
            if self.happens(14) { Duration::from_millis(self.below(5000)) } else { Duration::ZERO };
        self.now = self.now.max(at.min(self.now + Duration::from_secs(20))) + late;
        while let Some(entry) = self.transit.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (a, it) = entry.remove();
            self.arrive(a, it)?;
        }
        self.say(Seen::Tick, Event::Tick)
    }

    fn user(&mut self, what: usize) -> Result<(), Violation> {
        let a = self.client.connection().attempt();
        match what {
            0..=3 => {
                for _ in 0..=self.below(3) {
                    self.push()?;
                }
                self.drain()
            }
            4 => self.say(Seen::Stop, Event::Stop),
            5 | 6 => self.say(Seen::Start, Event::Start),
            7 => self.say(Seen::Nudge, Event::Nudge),
            8 => {
                let seq = Seq::new(self.below(self.seqs + 2));
                self.say(Seen::Cancel(seq), Event::Cancel(seq))
            }
            9 if self.below(8) == 0 => {
                let deadline = self.now + Duration::from_millis(self.below(5000));
                self.say(Seen::Close { deadline }, Event::Close { deadline })
            }
            9 => {
                self.drain()?;
                self.see(Seen::Snapshot)?;
                self.snapshot = Some(self.client.outbox().snapshot());
                Ok(())
            }
            10 if self.snapshot.is_some() => self.restore(),
            11 if self.below(2) == 0 => self.say(Seen::Paused(a), Event::Paused(a)),
            11 => self.say(Seen::Resumed(a), Event::Resumed(a)),
            _ => Ok(()),
        }
    }

    fn restore(&mut self) -> Result<(), Violation> {
        self.see(Seen::Crashed)?;
        self.socket = None;
        self.transit.clear();
        self.now = self.now + Duration::from_millis(self.below(1000));
        let rng = ChaCha8Rng::seed_from_u64(self.chance.next_u64());
        let snapshot = self.snapshot.clone().expect("asked for above");
        let restored = Client::restore(self.config.clone(), Words, rng, self.now, snapshot);
        self.client = restored.expect("what was stored fits");
        let outbox = self.client.outbox().id();
        self.see(Seen::Restored { outbox })?;
        self.say(Seen::Start, Event::Start)
    }

    fn push(&mut self) -> Result<(), Violation> {
        self.pushed += 1;
        let message = self.pushed;
        let body = format!("{message:width$}", width = 1 + self.below(28) as usize);
        let levels = [None, Some(Level::Written), Some(Level::Received), Some(Level::Acked)];
        let mut level = levels[self.below(4) as usize];
        if level == Some(Level::Received) && !self.config.connection.can_ping {
            level = Some(Level::Acked);
        }
        let ttl =
            [None, Some(Duration::from_millis(self.below(3000)))][usize::from(self.below(4) == 0)];
        let key = ["a", "b"][self.below(2) as usize].into();
        let key = (self.below(4) == 0).then_some(key);
        let options = PushOptions { level, ttl, key };
        let size = body.len() + options.key.as_ref().map_or(0, bowline_core::Key::len);
        match self.client.push(self.now, body.into(), options) {
            Ok(pushed) => {
                self.seqs = self.client.outbox().next_seq().get();
                for gone in &pushed.displaced {
                    let message = number(&gone.body);
                    let (seq, coalesced) = (gone.seq, gone.coalesced);
                    self.settled += 1;
                    self.see(Seen::Displaced { message, seq, coalesced })?;
                }
                let level = level.unwrap_or(Level::Written);
                self.see(Seen::Pushed { message, seq: pushed.seq, size, level, ttl })
            }
            Err(error) => self.see(Seen::Refused { size, reason: error.reason }),
        }
    }

    /// Something that makes no sense, or comes too late.
    fn noise(&mut self, a: Attempt) -> Result<(), Violation> {
        // An attempt has no events before it is dialed.
        self.drain()?;
        let seq = self.below(self.seqs + 3);
        let outbox = self.client.outbox().id();
        let current = a == self.client.connection().attempt();
        match self.below(12) {
            0 if !current => self.say(Seen::Lost(a, Loss::Io), Event::Lost(a, Loss::Io)),
            1 => self.say(
                Seen::Opened { attempt: a, awaits_answer: true },
                Event::Opened(Opened::new(a, ())),
            ),
            2 => self.say(Seen::Flushed(a), Event::Flushed(a)),
            3 => {
                let attempt = if self.below(2) == 0 { a } else { Attempt::new(a.get() + 1) };
                let ping = bowline_core::Ping { attempt, seq: Seq::new(seq) };
                if current && attempt == a {
                    return Ok(());
                }
                let payload = ping.payload().to_vec().into();
                self.receive(a, Received::Pong(payload), false)
            }
            4 => self.hear(a, "upto 18446744073709551615", false),
            5 => self.hear(a, &format!("one {seq}"), false),
            6 => self.hear(a, "next", false),
            7 => self.hear(a, &format!("uptoof {seq} {}", outbox.get()), false),
            8 => self.hear(a, &format!("nack {seq}"), false),
            9 => self.hear(a, &format!("reject {seq}"), false),
            10 => self.hear(a, &format!("nackfrom {seq} {}", outbox.get()), false),
            _ => self.hear(a, "welcome", false),
        }
    }

    fn hear(&mut self, a: Attempt, said: &str, honest: bool) -> Result<(), Violation> {
        self.receive(a, Received::Data(said.to_owned().into()), honest)
    }

    fn receive(&mut self, a: Attempt, frame: Received, honest: bool) -> Result<(), Violation> {
        match &frame {
            Received::Pong(payload) => {
                if let Some(ping) = bowline_core::Ping::parse(payload) {
                    self.see(Seen::Ponged(a, ping))?;
                }
            }
            Received::Data(body) => {
                self.see(Seen::Heard(a))?;
                if let Some(signal) = signal_of(body.as_text().expect("text")) {
                    self.see(Seen::Signalled { attempt: a, signal, honest })?;
                }
            }
        }
        let _ = self.client.receive(self.now, a, frame);
        if self.below(3) == 0 {
            self.drain()?;
        }
        Ok(())
    }

    fn post(&mut self, a: Attempt, it: InTransit) {
        self.sent += 1;
        self.transit.insert((self.now + DELAY, self.sent), (a, it));
    }

    fn arrive(&mut self, a: Attempt, it: InTransit) -> Result<(), Violation> {
        match it {
            InTransit::Dialed(Some(loss)) => self.say(Seen::Lost(a, loss), Event::Lost(a, loss)),
            InTransit::Dialed(None) => {
                if a != self.client.connection().attempt() {
                    return Ok(());
                }
                let silent = self.happens(15);
                self.socket = Some((a, silent));
                self.see(Seen::PeerOpened(a))?;
                self.say(
                    Seen::Opened { attempt: a, awaits_answer: true },
                    Event::Opened(Opened::new(a, ())),
                )
            }
            InTransit::Ends(loss) => {
                if self.socket.is_some_and(|(socket, _)| socket == a) {
                    self.socket = None;
                }
                self.say(Seen::Lost(a, loss), Event::Lost(a, loss))
            }
            InTransit::ToPeer(frame) => match self.socket {
                Some((socket, false)) if socket == a => self.peer(a, frame),
                Some(_) | None => Ok(()),
            },
            InTransit::ToClient(frame, honest) => match self.socket {
                Some((socket, false)) if socket == a => self.receive(a, frame, honest),
                Some(_) | None => Ok(()),
            },
        }
    }

    /// The peer reads in order, and answers in order, mostly.
    fn peer(&mut self, a: Attempt, frame: Frame) -> Result<(), Violation> {
        if self.happens(16) {
            let losses = [
                Loss::Io,
                Loss::Closed { code: Some(1007) },
                Loss::Closed { code: Some(1012) },
                Loss::Closed { code: Some(1008) },
            ];
            let loss = losses[self.below(4) as usize];
            self.post(a, InTransit::Ends(loss));
            self.socket = None;
            return Ok(());
        }
        if self.happens(17) {
            self.socket = Some((a, true));
            return Ok(());
        }
        let body = match frame {
            Frame::Ping(ping) => {
                let pong = Received::Pong(ping.payload().to_vec().into());
                self.post(a, InTransit::ToClient(pong, true));
                return Ok(());
            }
            Frame::Data(body) => body,
        };
        let words: Vec<&str> = body.as_text().expect("text").split(' ').collect();
        let say = |said: String| InTransit::ToClient(Received::Data(said.into()), true);
        if words[0] == "hello" {
            let said = if self.happens(18) { "refuse" } else { "welcome" };
            self.post(a, say(said.into()));
            return Ok(());
        }
        let (outbox, seq, message) = (words[1], words[2], words[3].parse().expect("a number"));
        self.see(Seen::Arrived { attempt: a, message })?;
        if words[4] != "Acked" {
            return Ok(());
        }
        if self.happens(19) {
            self.post(a, say(format!("nack {seq}")));
            return Ok(());
        }
        if self.happens(20) {
            self.post(a, say(format!("reject {seq}")));
            return Ok(());
        }
        self.application.insert(message);
        self.see(Seen::Processed { attempt: a, message })?;
        if self.happens(21) {
            return Ok(());
        }
        let said =
            if self.below(2) == 0 { format!("one {seq}") } else { format!("oneof {seq} {outbox}") };
        self.post(a, say(said));
        Ok(())
    }

    fn drain(&mut self) -> Result<(), Violation> {
        let mut handed_over = None;
        loop {
            let open = self.socket.is_some() && !self.blocked;
            let wire = if open { Wire::Ready } else { Wire::Blocked };
            match self.client.poll(wire) {
                Output::Dial(a) => {
                    self.see(Seen::Dials(a))?;
                    self.socket = None;
                    let losses = [
                        Loss::Connect,
                        Loss::Status { status: 503, retry_after: Some(Duration::from_millis(700)) },
                        Loss::Status { status: 404, retry_after: None },
                        Loss::Status { status: 401, retry_after: None },
                    ];
                    let loss = losses[self.below(4) as usize];
                    let lost = (self.happens(22) || self.happens(22)).then_some(loss);
                    if !self.happens(23) {
                        self.post(a, InTransit::Dialed(lost));
                    }
                }
                Output::Send(a, frame) => {
                    let content = content_of(&frame);
                    self.see(Seen::Sends { attempt: a, content, wire })?;
                    handed_over = Some(a);
                    self.post(a, InTransit::ToPeer(frame));
                }
                Output::Close(a, _) => {
                    self.see(Seen::Closes(a))?;
                    if self.below(3) != 0 {
                        self.post(a, InTransit::Ends(Loss::Closed { code: Some(1000) }));
                    }
                }
                Output::Abort(a) => {
                    self.see(Seen::Aborts(a))?;
                    self.socket = self.socket.filter(|(socket, _)| *socket != a);
                }
                Output::Delivered { first, last } => {
                    self.settled += last.get() - first.get() + 1;
                    self.see(Seen::Delivered { first, last })?;
                }
                Output::Failed(failed) => {
                    self.settled += 1;
                    let message = number(&failed.body);
                    let (id, reason, fate) = (failed.id, failed.reason, failed.fate);
                    self.see(Seen::Failed { message, id, reason, fate })?;
                }
                Output::Status(status) => self.see(Seen::Status(status))?,
                Output::WaitUntil(deadline) => {
                    self.see(Seen::Waits { wire, deadline })?;
                    self.see(Seen::Gauges(Gauges::of(&self.client)))?;
                    match handed_over.take() {
                        Some(a) => {
                            self.see(Seen::Took(a))?;
                            self.client.handle(self.now, Event::Took(a));
                            self.see(Seen::Flushed(a))?;
                            self.client.handle(self.now, Event::Flushed(a));
                        }
                        None => return Ok(()),
                    }
                }
            }
        }
    }
}

fn number(body: &Body) -> u64 {
    body.as_text().expect("every payload is a number").trim().parse().expect("a number")
}

fn content_of(frame: &Frame) -> Content {
    let body = match frame {
        Frame::Ping(ping) => return Content::Ping(*ping),
        Frame::Data(body) => body.as_text().expect("text"),
    };
    let words: Vec<&str> = body.split(' ').collect();
    if words[0] == "hello" {
        return Content::Greeting;
    }
    let outbox = bowline_core::OutboxId::new(words[1].parse().expect("a number"));
    let seq = Seq::new(words[2].parse().expect("a number"));
    let message = words[3].parse().expect("a number");
    Content::Message { id: MessageId { outbox, seq }, message, first: true }
}
