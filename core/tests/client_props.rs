//! The client as a whole: what the two machines may not learn of each other, and what a lossy link
//! and an honest peer with a ledger make of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bowline_core::{
    Ack, Attempt, Backoff, Batch, Body, Client, ClientConfig, ConnectionConfig, Dialect, Event,
    FailReason, Frame, Greeting, Instant, Level, Loss, Nack, Opened, OutboxConfig, Output, Phase,
    Ping, PushOptions, Received, Seq, Sink, Wire,
};
use proptest::prelude::*;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// X2, X3: the same connection events give the same dials at the same times, whatever messages
    /// are pushed, acked, refused and cancelled meanwhile. (`Overdue` is taken out: it is the one
    /// thing that traffic may do to a connection.)
    #[test]
    fn traffic_does_not_change_the_dial_schedule(
        seed in any::<u64>(),
        events in prop::collection::vec(any_wire_event(), 1..80),
        traffic in prop::collection::vec(any_traffic(), 80),
    ) {
        let mut busy = Pair::new(seed);
        let mut idle = Pair::new(seed);
        for (event, traffic) in events.iter().zip(&traffic) {
            busy.traffic(traffic);
            busy.wire_event(event, &traffic.said);
            idle.wire_event(event, "quiet");
        }
        prop_assert!(busy.orders.len() == idle.orders.len() && busy.orders == idle.orders);
        prop_assert_eq!(busy.client.stats().connection, idle.client.stats().connection);
    }

    /// X1, X3: the same answers of the peer charge the same budgets, however often the link flaps
    /// between them and however long it is down.
    #[test]
    fn flaps_do_not_change_the_budgets(
        refusals in prop::collection::vec(0..5_u32, 1..8),
        flaps in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let rounds = refusals.iter().sum::<u32>() as usize + refusals.len();
        let flaps: BTreeSet<usize> = flaps.iter().map(|index| index.index(rounds)).collect();
        let calm = settle_all(&refusals, &BTreeSet::new());
        let stormy = settle_all(&refusals, &flaps);
        prop_assert_eq!(&calm, &stormy);
        // 2 charges buy 2 retransmissions; the third refusal is the last.
        for (seq, reason) in (1..).zip(&refusals) {
            let failed = calm.failed.get(&Seq::new(seq));
            prop_assert_eq!(failed, (*reason > 2).then_some(&FailReason::Exhausted));
        }
        prop_assert_eq!(calm.charges, refusals.iter().map(|n| u64::from(*n.min(&2))).sum::<u64>());
    }

    /// S3, S4, S12, L1, L2: over a link that loses, delays, resets and goes silent, all that is
    /// reported was there; when the faults end, the link is up and everything settles in time.
    #[test]
    fn what_is_reported_as_delivered_was_delivered(
        seed in any::<u64>(),
        window in 1..6_usize,
        messages in 1..30_u64,
        rates in (0..40_u32, 0..40_u32, 0..30_u32, 0..30_u32),
    ) {
        let (cut, silence, refused_dial, nack) = rates;
        let faults = Faults { cut, silence, refused_dial, nack: if window == 1 { nack } else { 0 } };
        let mut sim = Simulation::new(seed, window, faults);
        sim.run_for(messages, Duration::from_secs(20));
        sim.faults = Faults::default();
        let config = sim.config.connection.clone();
        let detect = config.ping_interval + config.write_limit + config.pong_limit;
        let up = detect + config.backoff.cap + config.dial_limit + config.greeting_limit;
        let off = sim.now;
        sim.run_until(off + up, |sim| sim.is_up_and_live());
        prop_assert!(sim.is_up_and_live(), "L1: {:?}", sim.client.status());
        // One round trip for each message, after what was under way when the faults ended.
        let outbox = &sim.config.outbox;
        let bound = outbox.nack_delay_cap * 2
            + outbox.ack_limit * 2
            + config.ping_interval * 4
            + (DELAY * 8) * (messages as u32 + 4);
        let off = sim.now;
        sim.run_until(off + bound, |sim| sim.client.outbox().is_empty());
        prop_assert!(sim.client.outbox().is_empty(), "L2: {:?}", sim.client.stats());
        let settled: u64 = sim.settled.values().map(|n| u64::from(*n)).sum();
        prop_assert_eq!(settled, messages, "S1 S2");
        prop_assert!(sim.settled.values().all(|n| *n == 1), "S2: {:?}", sim.settled);
    }
}

// ---- A dialect ----------------------------------------------------------------------------------

/// Frames are `seq`, answers are words with `;` between.
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
        (Body::text(format!("{} {:?}", item.id.seq, item.level)), 1)
    }

    fn decode(&mut self, body: Body, sink: &mut Sink<()>) {
        for said in body.as_text().unwrap().split(';') {
            let mut words = said.split(' ');
            let verb = words.next().unwrap();
            let seq = Seq::new(words.next().map_or(0, |word| word.parse().unwrap()));
            match verb {
                "welcome" => sink.greeted(),
                "one" => sink.ack(Ack::One(seq)),
                "upto" => sink.ack(Ack::UpTo(seq)),
                "next" => sink.ack(Ack::Next),
                "nack" => sink.nack(Ack::One(seq), Nack::Transient),
                "reject" => sink.nack(Ack::One(seq), Nack::Permanent),
                "reply" => sink.reply("reply"),
                _ => {}
            }
        }
    }
}

type TestClient = Client<Words, ChaCha8Rng>;

fn client(config: &ClientConfig, seed: u64) -> TestClient {
    Client::new(config.clone(), Words, ChaCha8Rng::seed_from_u64(seed)).unwrap()
}

// ---- X3: the dial schedule ----------------------------------------------------------------------

#[derive(Clone, Debug)]
enum WireEvent {
    Start,
    Stop,
    Nudge,
    Wait(u64),
    Opened,
    Welcome,
    Said,
    Ponged,
    Flushed,
    Took,
    Lost(Loss),
}

#[derive(Clone, Debug)]
struct Traffic {
    pushes: u64,
    cancel: Option<u64>,
    said: String,
}

fn any_wire_event() -> impl Strategy<Value = WireEvent> {
    let losses = vec![
        Loss::Eof,
        Loss::Io,
        Loss::Closed { code: Some(1007) },
        Loss::Closed { code: Some(1012) },
        Loss::Closed { code: Some(1008) },
        Loss::Status { status: 503, retry_after: Some(Duration::from_secs(9)) },
    ];
    prop_oneof![
        3 => Just(WireEvent::Start),
        1 => Just(WireEvent::Stop),
        1 => Just(WireEvent::Nudge),
        8 => (0..40_000_000_u64).prop_map(WireEvent::Wait),
        8 => Just(WireEvent::Opened),
        8 => Just(WireEvent::Welcome),
        4 => Just(WireEvent::Said),
        3 => Just(WireEvent::Ponged),
        3 => Just(WireEvent::Flushed),
        1 => Just(WireEvent::Took),
        4 => prop::sample::select(losses).prop_map(WireEvent::Lost),
    ]
}

fn any_traffic() -> impl Strategy<Value = Traffic> {
    let said = prop::sample::select(vec![
        "one 1",
        "upto 3",
        "next",
        "next;next",
        "nack 1",
        "nack 2;nack 3",
        "reject 2",
        "reply",
        "upto 18446744073709551615",
    ]);
    (0..3_u64, prop::option::weighted(0.2, 1..9_u64), said)
        .prop_map(|(pushes, cancel, said)| Traffic { pushes, cancel, said: said.to_owned() })
}

struct Pair {
    client: TestClient,
    now: Instant,
    orders: Vec<(Instant, String)>,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let mut config = ClientConfig::default();
        // Longer than any case: Overdue is taken out.
        config.outbox.ack_limit = Duration::from_secs(24 * 60 * 60);
        config.outbox.window_messages = 3;
        Self { client: client(&config, seed), now: Instant::ZERO, orders: Vec::new() }
    }

    fn traffic(&mut self, traffic: &Traffic) {
        for n in 0..traffic.pushes {
            let level = [Level::Written, Level::Received, Level::Acked][(n % 3) as usize];
            let options = PushOptions { level: Some(level), ..PushOptions::default() };
            self.client.push(self.now, "body".into(), options).unwrap();
        }
        if let Some(seq) = traffic.cancel {
            self.client.handle(self.now, Event::Cancel(Seq::new(seq)));
        }
        self.drain();
    }

    fn wire_event(&mut self, event: &WireEvent, said: &str) {
        let a = self.client.connection().attempt();
        let data = |said: &str| Received::Data(said.to_owned().into());
        match event {
            WireEvent::Start => self.client.handle(self.now, Event::Start),
            WireEvent::Stop => self.client.handle(self.now, Event::Stop),
            WireEvent::Nudge => self.client.handle(self.now, Event::Nudge),
            // A driver wakes at each deadline, of which traffic has some of its own.
            WireEvent::Wait(micros) => {
                let until = self.now + Duration::from_micros(*micros);
                while let Some(at) = self.client.deadline().map(|d| d.at).filter(|at| *at < until) {
                    self.now = self.now.max(at);
                    self.client.handle(self.now, Event::Tick);
                    self.drain();
                }
                self.now = until;
            }
            WireEvent::Opened => self.client.handle(self.now, Event::Opened(Opened::new(a, ()))),
            WireEvent::Welcome => drop(self.client.receive(self.now, a, data("welcome"))),
            WireEvent::Said => drop(self.client.receive(self.now, a, data(said))),
            WireEvent::Ponged => {
                let ping = Ping { attempt: a, seq: Seq::new(0) };
                let pong = Received::Pong(ping.payload());
                let _ = self.client.receive(self.now, a, pong);
            }
            WireEvent::Flushed => self.client.handle(self.now, Event::Flushed(a)),
            WireEvent::Took => self.client.handle(self.now, Event::Took(a)),
            WireEvent::Lost(loss) => self.client.handle(self.now, Event::Lost(a, *loss)),
        }
        self.client.handle(self.now, Event::Tick);
        self.drain();
    }

    fn drain(&mut self) {
        loop {
            match self.client.poll(Wire::Ready) {
                order @ (Output::Dial(_) | Output::Abort(_) | Output::Close(..)) => {
                    self.orders.push((self.now, format!("{order:?}")));
                }
                Output::WaitUntil(_) => return,
                Output::Send(..)
                | Output::Delivered { .. }
                | Output::Failed(_)
                | Output::Status(_) => {}
            }
        }
    }
}

// ---- X3: the budgets ----------------------------------------------------------------------------

#[derive(PartialEq, Debug, Default)]
struct Settled {
    delivered: u64,
    failed: BTreeMap<Seq, FailReason>,
    charges: u64,
}

/// Message n is refused `refusals[n]` times, then acked. Before some of the answers the link dies,
/// for anything from a moment to hours, and the answer with it.
fn settle_all(refusals: &[u32], flaps: &BTreeSet<usize>) -> Settled {
    let mut config = ClientConfig::default();
    config.outbox.retry_budget = 2;
    config.outbox.window_messages = 1;
    let mut client = client(&config, 7);
    let mut now = Instant::ZERO;
    for _ in refusals {
        let options = PushOptions { level: Some(Level::Acked), ..PushOptions::default() };
        client.push(now, "body".into(), options).unwrap();
    }
    client.handle(now, Event::Start);

    let mut settled = Settled::default();
    let mut refused = vec![0; refusals.len()];
    let (mut round, mut flapped) = (0, BTreeSet::new());
    for _ in 0..2_000 {
        let a = client.connection().attempt();
        match client.poll(Wire::Ready) {
            Output::Dial(a) => client.handle(now, Event::Opened(Opened::new(a, ()))),
            Output::Send(_, Frame::Ping(ping)) => {
                let pong = Received::Pong(ping.payload());
                let _ = client.receive(now, a, pong);
            }
            Output::Send(_, Frame::Data(body)) if body.as_text() == Some("hello") => {
                let _ = client.receive(now, a, Received::Data("welcome".into()));
            }
            Output::Send(_, Frame::Data(body)) => {
                if flaps.contains(&round) && flapped.insert(round) {
                    client.handle(now, Event::Lost(a, Loss::Io));
                    now = now + Duration::from_secs(3_600 * round as u64);
                    client.handle(now, Event::Tick);
                    continue;
                }
                round += 1;
                let seq: usize =
                    body.as_text().unwrap().split(' ').next().unwrap().parse().unwrap();
                let refuse = refused[seq - 1] < refusals[seq - 1];
                refused[seq - 1] += u32::from(refuse);
                let said = if refuse { format!("nack {seq}") } else { format!("one {seq}") };
                let _ = client.receive(now, a, Received::Data(said.into()));
            }
            Output::Delivered { first, last } => settled.delivered += last.get() - first.get() + 1,
            Output::Failed(failed) => {
                settled.failed.insert(failed.id.seq, failed.reason);
            }
            Output::WaitUntil(_) if client.outbox().is_empty() => break,
            Output::WaitUntil(deadline) => {
                now = deadline.unwrap().at.max(now);
                client.handle(now, Event::Tick);
            }
            Output::Abort(_) | Output::Close(..) | Output::Status(_) => {}
        }
    }
    assert!(client.outbox().is_empty(), "{:?}", client.stats());
    settled.charges = client.stats().outbox.charges;
    settled
}

// ---- A lossy link and an honest peer ------------------------------------------------------------

const DELAY: Duration = Duration::from_millis(20);

/// In per mille of frames or dials.
#[derive(Clone, Copy, Default)]
struct Faults {
    cut: u32,
    silence: u32,
    refused_dial: u32,
    nack: u32,
}

enum InTransit {
    Dialed { ok: bool },
    ToPeer(Frame),
    ToClient(Received),
    Ends(Loss),
}

struct Simulation {
    client: TestClient,
    config: ClientConfig,
    chance: ChaCha8Rng,
    faults: Faults,
    now: Instant,
    /// By time, then by the order in which they were sent.
    transit: BTreeMap<(Instant, u64), (Attempt, InTransit)>,
    sent: u64,
    /// The socket that lives, and whether it has gone silent.
    socket: Option<(Attempt, bool)>,
    pushed: BTreeMap<Seq, Level>,
    settled: BTreeMap<Seq, u32>,
    /// What the peer's library has read, and what its application has taken, first arrivals first.
    library: Vec<Seq>,
    application: BTreeSet<Seq>,
}

impl Simulation {
    fn new(seed: u64, window: usize, faults: Faults) -> Self {
        let config = ClientConfig {
            connection: ConnectionConfig {
                dial_limit: Duration::from_millis(500),
                greeting_limit: Duration::from_millis(500),
                ping_interval: Duration::from_millis(400),
                pong_limit: Duration::from_millis(200),
                write_limit: Duration::from_millis(300),
                stable_after: Duration::from_millis(500),
                backoff: Backoff {
                    base: Duration::from_millis(50),
                    cap: Duration::from_millis(400),
                    ..Backoff::default()
                },
                ..ConnectionConfig::default()
            },
            outbox: OutboxConfig {
                window_messages: window,
                ack_limit: Duration::from_millis(500),
                nack_delay: Duration::from_millis(20),
                nack_delay_cap: Duration::from_millis(100),
                retry_budget: 1_000,
                ..OutboxConfig::default()
            },
        };
        let mut client = client(&config, seed);
        client.handle(Instant::ZERO, Event::Start);
        Self {
            client,
            config,
            chance: ChaCha8Rng::seed_from_u64(seed ^ 0x5eed),
            faults,
            now: Instant::ZERO,
            transit: BTreeMap::new(),
            sent: 0,
            socket: None,
            pushed: BTreeMap::new(),
            settled: BTreeMap::new(),
            library: Vec::new(),
            application: BTreeSet::new(),
        }
    }

    fn happens(&mut self, per_mille: u32) -> bool {
        self.chance.next_u32() % 1_000 < per_mille
    }

    fn is_up_and_live(&self) -> bool {
        let up = matches!(self.client.status().phase, Phase::Up | Phase::Suspect);
        up && self.socket.is_some_and(|(_, silent)| !silent)
    }

    /// Pushes messages at random times, for a while.
    fn run_for(&mut self, messages: u64, time: Duration) {
        let begun = self.now;
        for n in 1..=messages {
            let at = begun + time / messages as u32 * n as u32;
            self.run_until(at, |_| false);
            let levels = [Level::Written, Level::Received, Level::Received, Level::Acked];
            let level = levels[self.chance.next_u32() as usize % levels.len()];
            let options = PushOptions { level: Some(level), ..PushOptions::default() };
            let pushed = self.client.push(self.now, "body".into(), options).unwrap();
            self.pushed.insert(pushed.seq, level);
            self.drain();
        }
    }

    fn run_until(&mut self, end: Instant, done: impl Fn(&Self) -> bool) {
        self.drain();
        while !done(self) {
            let next = self.transit.first_key_value().map(|((at, _), _)| *at);
            let deadline = self.client.deadline().map(|deadline| deadline.at);
            let next = [next, deadline].into_iter().flatten().min().unwrap_or(Instant::NEVER);
            if next > end {
                self.now = self.now.max(end);
                return;
            }
            self.now = self.now.max(next);
            // All that has arrived is read before the clock is looked at.
            while let Some(((at, order), _)) = self.transit.first_key_value() {
                if *at > self.now {
                    break;
                }
                let key = (*at, *order);
                let (attempt, what) = self.transit.remove(&key).unwrap();
                self.arrive(attempt, what);
            }
            self.client.handle(self.now, Event::Tick);
            self.drain();
        }
    }

    fn post(&mut self, attempt: Attempt, delay: Duration, what: InTransit) {
        self.sent += 1;
        self.transit.insert((self.now + delay, self.sent), (attempt, what));
    }

    fn arrive(&mut self, attempt: Attempt, what: InTransit) {
        let lives = self.socket.is_some_and(|(socket, _)| socket == attempt);
        let silent = self.socket.is_some_and(|(_, silent)| silent);
        match what {
            // The dial of an attempt that was given up meanwhile reports all the same.
            InTransit::Dialed { ok: true } => {
                if attempt == self.client.connection().attempt() {
                    self.socket = Some((attempt, false));
                }
                self.client.handle(self.now, Event::Opened(Opened::new(attempt, ())));
            }
            InTransit::Dialed { ok: false } => {
                self.client.handle(self.now, Event::Lost(attempt, Loss::Connect));
            }
            InTransit::Ends(loss) => {
                if lives {
                    self.socket = None;
                }
                self.client.handle(self.now, Event::Lost(attempt, loss));
            }
            InTransit::ToClient(frame) if lives && !silent => {
                let _ = self.client.receive(self.now, attempt, frame);
            }
            InTransit::ToPeer(frame) if lives && !silent => {
                if self.happens(self.faults.cut) {
                    // Whatever is on the way is lost with the connection, either way.
                    self.socket = None;
                    return self.post(attempt, DELAY, InTransit::Ends(Loss::Io));
                }
                if self.happens(self.faults.silence) {
                    self.socket = Some((attempt, true));
                    return;
                }
                if let Some(answer) = self.peer(frame) {
                    self.post(attempt, DELAY, InTransit::ToClient(answer));
                }
            }
            // Lost on the way.
            InTransit::ToClient(_) | InTransit::ToPeer(_) => {}
        }
    }

    /// The peer: reads in order, answers in order.
    fn peer(&mut self, frame: Frame) -> Option<Received> {
        let body = match frame {
            Frame::Ping(ping) => return Some(Received::Pong(ping.payload())),
            Frame::Data(body) => body,
        };
        let mut words = body.as_text().unwrap().split(' ');
        let Ok(number) = words.next().unwrap().parse() else {
            return Some(Received::Data("welcome".into()));
        };
        let (seq, acked) = (Seq::new(number), words.next() == Some("Acked"));
        if acked && self.happens(self.faults.nack) {
            return Some(Received::Data(format!("nack {seq}").into()));
        }
        if !self.library.contains(&seq) {
            let newest = self.library.iter().max().copied().unwrap_or_default();
            assert!(seq > newest, "S4: {seq} arrived first after {newest}");
            self.library.push(seq);
        }
        self.application.insert(seq);
        acked.then(|| Received::Data(format!("one {seq}").into()))
    }

    fn drain(&mut self) {
        let mut handed_over = None;
        loop {
            match self.client.poll(Wire::Ready) {
                Output::Dial(a) => {
                    self.socket = None;
                    let ok = !self.happens(self.faults.refused_dial);
                    self.post(a, DELAY, InTransit::Dialed { ok });
                }
                Output::Send(a, frame) => {
                    assert_eq!(self.client.connection().attempt(), a, "S12");
                    handed_over = Some(a);
                    self.post(a, DELAY, InTransit::ToPeer(frame));
                }
                Output::Close(a, _) => {
                    self.post(a, DELAY, InTransit::Ends(Loss::Closed { code: Some(1000) }));
                }
                Output::Abort(a) => {
                    self.socket = self.socket.filter(|(socket, _)| *socket != a);
                }
                Output::Delivered { first, last } => {
                    for seq in (first.get()..=last.get()).map(Seq::new) {
                        *self.settled.entry(seq).or_default() += 1;
                        let there = match self.pushed[&seq] {
                            Level::Written => true,
                            Level::Received => self.library.contains(&seq),
                            Level::Acked => self.application.contains(&seq),
                        };
                        assert!(there, "S3: {seq} is reported and never arrived");
                    }
                }
                Output::Failed(failed) => panic!("nothing gives cause: {failed:?}"),
                Output::Status(_) => {}
                Output::WaitUntil(_) => match handed_over.take() {
                    Some(a) => self.client.handle(self.now, Event::Flushed(a)),
                    None => return,
                },
            }
        }
    }
}
