//! Exactly once, end to end: a `Client` with the dialect `Numbered` at one end, an `Inbox` with a
//! database at the other, a network between them that fails, and both ends crashing at every step.
//!
//! What holds after every step: no effect takes place twice, and effects take place in the order of
//! the pushes. What is reported delivered has had its effect; what is reported as not sent, or as
//! rejected, has had none. When the faults are over, everything that did not fail has had its
//! effect.
//!
//! The sender comes in two kinds. A careful one stores a snapshot after each push and each failure,
//! before the next poll: all of the above holds. A careless one stores snapshots now and then; what it
//! pushed since takes effect at most once, and what failed since it takes for live.
#![cfg(feature = "json")]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bowline_core::{
    Attempt, Backoff, Body, Client, ClientConfig, ConnectionConfig, Dialect, Event, FailReason,
    Fate, Frame, Inbox, InboxConfig, Instant, Jitter, Json, Key, Lane, Level, Loss, MessageId,
    Nack, Numbered, NumberedConfig, Offer, Opened, OutboxConfig, Output, PushOptions, Received,
    Seq, Snapshot, Wire,
    numbered::{Messages, reply},
};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

// ---- At every step ------------------------------------------------------------------------------

/// H37, H39: the session is lost at either end, once and twice, at every step of a conversation with
/// a refusal, messages cancelled, expired and replaced, and a window of 3.
#[test]
fn every_step_may_be_the_last_of_either_end() {
    let crashes: [fn(&mut World); 3] =
        [World::crash_sender, World::crash_receiver, |world| world.cut()];
    let steps = 3 * STORY.len();
    let mut total = Tally::default();
    for first in 0..steps {
        for second in first..steps {
            // All pairs of crashes, one pair for each pair of steps.
            let pair = first + second;
            let (one, other) = (crashes[pair % 3], crashes[pair / 3 % 3]);
            let mut world = World::calm();
            for step in 0..steps {
                if step == first {
                    one(&mut world);
                }
                if step == second {
                    other(&mut world);
                }
                STORY[step % STORY.len()](&mut world);
                world.check();
            }
            world.finish();
            total.add(world.tally);
        }
    }
    assert!(total.refusals > 500 && total.duplicates > 500 && total.dropped > 100, "{total:?}");
    assert!(total.holes > 500 && total.lost == 0, "{total:?}");
}

const STORY: [fn(&mut World); 32] = [
    World::push,
    World::push,
    World::push,
    World::push,
    World::drive,
    World::connect,
    World::hear,
    World::drive,
    World::drive,
    World::arrive,
    |world| world.refuse(Nack::Transient),
    World::arrive,
    World::arrive,
    World::commit,
    World::say_done,
    World::answer,
    World::hear,
    World::push,
    World::cancel,
    World::drive,
    World::pass_time,
    World::drive,
    World::arrive,
    World::hear,
    World::arrive,
    World::commit,
    World::answer,
    World::say_done,
    World::answer,
    World::hear,
    World::notice,
    World::drive,
];

// ---- At random ----------------------------------------------------------------------------------

/// H37, H39, H40, H68: every message takes effect exactly once and in order, whatever crashes.
#[test]
fn every_effect_takes_place_exactly_once_and_in_order_whatever_crashes() {
    let mut total = Tally::default();
    for seed in 0..400 {
        total.add(World::run(seed));
    }
    // The faults did happen.
    assert!(total.sender_crashes > 500 && total.receiver_crashes > 500, "{total:?}");
    assert!(total.refusals > 500 && total.duplicates > 500, "{total:?}");
    assert!(total.dropped > 100 && total.stale > 10 && total.holes > 500, "{total:?}");
}

#[test]
#[ignore = "takes minutes: cargo test --release --all-features --test exactly_once -- --ignored --nocapture"]
fn a_hundred_thousand_crashes_change_nothing() {
    let mut total = Tally::default();
    let mut seed = 1_000_000;
    while total.sender_crashes + total.receiver_crashes < 100_000 {
        total.add(World::run(seed));
        seed += 1;
    }
    println!("{total:#?}");
}

/// Says which world it was in which something went wrong.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

// ---- The world ----------------------------------------------------------------------------------

/// What happened, in numbers.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    worlds: u64,
    pushes: u64,
    effects: u64,
    sender_crashes: u64,
    receiver_crashes: u64,
    connections: u64,
    refusals: u64,
    /// Messages that arrived again.
    duplicates: u64,
    /// Messages that were dropped behind a refused one.
    dropped: u64,
    /// Messages that arrived on a connection that was dead.
    stale: u64,
    /// Messages that were cancelled, expired, displaced, rejected.
    holes: u64,
    /// Messages that a careless sender lost in a crash.
    lost: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.worlds += other.worlds;
        self.pushes += other.pushes;
        self.effects += other.effects;
        self.sender_crashes += other.sender_crashes;
        self.receiver_crashes += other.receiver_crashes;
        self.connections += other.connections;
        self.refusals += other.refusals;
        self.duplicates += other.duplicates;
        self.dropped += other.dropped;
        self.stale += other.stale;
        self.holes += other.holes;
        self.lost += other.lost;
    }
}

/// Which faults there are.
struct Faults {
    careless: bool,
    sender_crashes: bool,
    receiver_crashes: bool,
    cuts: bool,
    transient: bool,
    permanent: bool,
    cancels: bool,
    expiry: bool,
    keys: bool,
}

impl Faults {
    fn none() -> Self {
        Self {
            careless: false,
            sender_crashes: false,
            receiver_crashes: false,
            cuts: false,
            transient: false,
            permanent: false,
            cancels: false,
            expiry: false,
            keys: false,
        }
    }
}

/// What the sender has stored.
#[derive(Clone)]
struct Disk {
    snapshot: Snapshot,
    live: BTreeMap<Seq, u64>,
}

struct Sender {
    client: Client<Numbered, ChaCha8Rng>,
    /// The payloads of the messages that are not settled.
    live: BTreeMap<Seq, u64>,
    dialing: Option<Attempt>,
}

/// One transport. What is in it may still arrive after its sender is gone.
struct Pipe {
    attempt: Attempt,
    lane: Lane,
    to_receiver: VecDeque<Frame>,
    to_sender: VecDeque<Received>,
    /// Nothing that is put in comes out.
    cut: bool,
    /// The client has it, and does not know that it is cut if it is.
    held: bool,
}

struct Receiver {
    inbox: Inbox,
    /// What is in progress, with its payload. As many of the first as `committed` says are in the
    /// database, but `done` was not said.
    work: VecDeque<(MessageId, u64)>,
    committed: usize,
}

/// Effects and marks. Whatever changes, changes in one transaction.
#[derive(Default)]
struct Database {
    effects: Vec<u64>,
    marks: Vec<MessageId>,
}

struct World {
    rng: ChaCha8Rng,
    faults: Faults,
    config: ClientConfig,
    packing: NumberedConfig,
    now: Instant,
    disk: Disk,
    sender: Option<Sender>,
    /// The transport that the client has, then older ones.
    pipes: VecDeque<Pipe>,
    receiver: Option<Receiver>,
    database: Database,
    /// The place of each payload in the order of the pushes: its own, or that of the one that it
    /// replaced.
    places: BTreeMap<u64, u64>,
    took_effect: BTreeSet<u64>,
    /// The place of the last one that took effect.
    newest: u64,
    /// Payloads that need not take effect.
    excused: BTreeSet<u64>,
    tally: Tally,
}

impl World {
    fn run(seed: u64) -> Tally {
        let _named = Named(seed);
        let mut world = Self::new(seed);
        for _ in 0..1_000 {
            world.step();
            world.check();
        }
        world.finish();
        world.tally
    }

    /// Every seed has its own faults and settings.
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut coin = |percent| rng.next_u32() % 100 < percent;
        let faults = Faults {
            careless: coin(30),
            sender_crashes: coin(70),
            receiver_crashes: coin(70),
            cuts: coin(70),
            transient: coin(60),
            permanent: coin(40),
            cancels: coin(50),
            expiry: coin(40),
            keys: coin(40),
        };
        let retry_budget = if coin(70) { 1_000_000 } else { 2 };
        let window = [1, 3, 3, 6][rng.next_u32() as usize % 4];
        let packed = [1, 2, 256][rng.next_u32() as usize % 3];
        Self::with(rng, faults, window, packed, retry_budget)
    }

    /// A careful sender, and nothing but what the story brings.
    fn calm() -> Self {
        let faults = Faults { expiry: true, keys: true, ..Faults::none() };
        Self::with(ChaCha8Rng::seed_from_u64(0), faults, 3, 2, 1_000_000)
    }

    fn with(
        mut rng: ChaCha8Rng,
        faults: Faults,
        window_messages: usize,
        max_frame_messages: usize,
        retry_budget: u32,
    ) -> Self {
        let config = ClientConfig {
            connection: ConnectionConfig {
                backoff: Backoff {
                    base: Duration::from_millis(1),
                    cap: Duration::from_millis(8),
                    jitter: Jitter::Full,
                    ..Backoff::default()
                },
                ..ConnectionConfig::default()
            },
            outbox: OutboxConfig {
                level: Level::Acked,
                window_messages,
                retry_budget,
                ack_limit: Duration::from_secs(2),
                nack_delay: Duration::from_millis(5),
                nack_delay_cap: Duration::from_millis(20),
                ..OutboxConfig::default()
            },
        };
        let packing = NumberedConfig { max_frame_messages, ..NumberedConfig::default() };
        let sender = Self::first_sender(&config, &packing, rng.next_u64());
        let disk = Disk { snapshot: sender.client.outbox().snapshot(), live: BTreeMap::new() };
        Self {
            rng,
            faults,
            config,
            packing,
            now: Instant::ZERO,
            disk,
            sender: Some(sender),
            pipes: VecDeque::new(),
            receiver: Some(Receiver::start(&Database::default())),
            database: Database::default(),
            places: BTreeMap::new(),
            took_effect: BTreeSet::new(),
            newest: 0,
            excused: BTreeSet::new(),
            tally: Tally { worlds: 1, ..Tally::default() },
        }
    }

    fn first_sender(config: &ClientConfig, packing: &NumberedConfig, seed: u64) -> Sender {
        let dialect = Numbered::new(packing.clone()).unwrap();
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let mut client = Client::new(config.clone(), dialect, rng).unwrap();
        client.handle(Instant::ZERO, Event::Start);
        Sender { client, live: BTreeMap::new(), dialing: None }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.rng.next_u32() as usize % limit.max(1)
    }

    fn coin(&mut self, percent: u32) -> bool {
        self.rng.next_u32() % 100 < percent
    }

    /// One thing happens.
    fn step(&mut self) {
        self.now = self.now + Duration::from_micros(u64::from(self.rng.next_u32() % 2_000));
        match self.below(1_000) {
            0..120 => self.push(),
            120..130 if self.faults.cancels => self.cancel(),
            130..150 => self.store(),
            150..158 if self.faults.sender_crashes => self.crash_sender(),
            158..166 if self.faults.receiver_crashes => self.crash_receiver(),
            166..176 if self.faults.cuts => self.cut(),
            176..226 if self.faults.transient => self.refuse(Nack::Transient),
            226..246 if self.faults.permanent => self.refuse(Nack::Permanent),
            246..266 => self.pass_time(),
            266..306 => self.notice(),
            306..366 => self.connect(),
            366..530 => self.drive(),
            530..690 => self.arrive(),
            690..750 => self.commit(),
            750..830 => self.say_done(),
            830..900 => self.answer(),
            900..1_000 => self.hear(),
            _ => {}
        }
    }

    // ---- The sender ---------------------------------------------------------------------------

    fn push(&mut self) {
        let payload = self.tally.pushes + 1;
        let key = self.faults.keys && self.coin(30);
        let options = PushOptions {
            ttl: (self.faults.expiry && self.coin(10)).then_some(Duration::from_millis(40)),
            key: key.then(|| Key::from(if self.coin(50) { "a" } else { "b" })),
            ..PushOptions::default()
        };
        let Some(sender) = &mut self.sender else { return };
        let body = Numbered::encode(Json::new(&payload).unwrap()).unwrap();
        let pushed = sender.client.push(self.now, body, options).unwrap();
        self.tally.pushes += 1;
        let replaced = sender.live.insert(pushed.seq, payload);
        let place = replaced.map_or(payload, |old| self.places[&old]);
        self.places.insert(payload, place);
        assert_eq!(replaced.is_some(), !pushed.displaced.is_empty());
        if let Some(old) = replaced {
            assert!(!self.took_effect.contains(&old), "{old} was replaced after its effect");
            self.excuse(old);
        }
        if !self.faults.careless {
            self.store();
        }
    }

    fn excuse(&mut self, payload: u64) {
        self.tally.holes += 1;
        self.excused.insert(payload);
    }

    fn cancel(&mut self) {
        let nth = self.below(4);
        let Some(sender) = &mut self.sender else { return };
        if let Some((&seq, _)) = sender.live.iter().nth(nth) {
            sender.client.handle(self.now, Event::Cancel(seq));
        }
    }

    fn store(&mut self) {
        if let Some(sender) = &self.sender {
            let snapshot = sender.client.outbox().snapshot();
            self.disk = Disk { snapshot, live: sender.live.clone() };
        }
    }

    fn crash_sender(&mut self) {
        let Some(sender) = self.sender.take() else { return self.start_sender() };
        self.tally.sender_crashes += 1;
        for (seq, payload) in sender.live {
            if self.disk.live.get(&seq) != Some(&payload) {
                assert!(self.faults.careless);
                self.tally.lost += 1;
                self.excused.insert(payload);
            }
        }
        self.drop_pipe();
    }

    fn start_sender(&mut self) {
        if self.sender.is_some() {
            return;
        }
        let Disk { snapshot, live } = self.disk.clone();
        let dialect = Numbered::new(self.packing.clone()).unwrap();
        let rng = ChaCha8Rng::seed_from_u64(self.rng.next_u64());
        let config = self.config.clone();
        let mut client = Client::restore(config, dialect, rng, self.now, snapshot).unwrap();
        client.handle(self.now, Event::Start);
        self.sender = Some(Sender { client, live, dialing: None });
    }

    /// The driver does what is owed, or a part of it.
    fn drive(&mut self) {
        self.start_sender();
        let limit = if self.coin(50) { 2 } else { 50 };
        let Some(mut sender) = self.sender.take() else { return };
        sender.client.handle(self.now, Event::Tick);
        for _ in 0..limit {
            let held = self.pipes.front().is_some_and(|pipe| pipe.held);
            let wire = if held { Wire::Ready } else { Wire::Blocked };
            match sender.client.poll(wire) {
                Output::Dial(attempt) => {
                    self.drop_pipe();
                    sender.dialing = Some(attempt);
                }
                Output::Close(..) | Output::Abort(_) => {
                    self.drop_pipe();
                    sender.dialing = None;
                }
                Output::Send(attempt, frame) => {
                    let pipe = self.pipes.front_mut().unwrap();
                    assert_eq!(pipe.attempt, attempt);
                    if !pipe.cut {
                        pipe.to_receiver.push_back(frame);
                    }
                    sender.client.handle(self.now, Event::Flushed(attempt));
                }
                Output::Delivered { first, last } => {
                    for seq in first.get()..=last.get() {
                        let payload = sender.live.remove(&Seq::new(seq)).unwrap();
                        assert!(self.had_effect(payload), "{payload} is only reported");
                    }
                }
                Output::Failed(failed) => {
                    let payload = sender.live.remove(&failed.id.seq).unwrap();
                    assert_ne!(failed.reason, FailReason::Returned, "nobody has closed it");
                    let took_effect = self.took_effect.contains(&payload);
                    if failed.fate == Fate::NotSent || failed.reason == FailReason::Rejected {
                        assert!(!took_effect, "{payload} took effect: {failed:?}");
                    }
                    self.excuse(payload);
                    if !self.faults.careless {
                        break;
                    }
                }
                Output::Status(_) => {}
                Output::WaitUntil(_) => break,
            }
        }
        self.sender = Some(sender);
        if !self.faults.careless {
            self.store();
        }
    }

    /// Whether a message may be reported delivered. A careless sender forgets in a crash that a
    /// message has failed, and that it has replaced one; the receiver has passed the former, and may
    /// have got the latter under their common name.
    fn had_effect(&self, payload: u64) -> bool {
        let place = self.places[&payload];
        let replaced = || self.database.effects.iter().any(|other| self.places[other] == place);
        let forgotten = || self.excused.contains(&payload) || replaced();
        self.took_effect.contains(&payload) || self.faults.careless && forgotten()
    }

    /// The client has no transport any more. What is in it may still arrive.
    fn drop_pipe(&mut self) {
        if let Some(pipe) = self.pipes.front_mut() {
            pipe.cut = true;
            pipe.held = false;
        }
    }

    fn pass_time(&mut self) {
        let Some(sender) = &mut self.sender else { return };
        if let Some(deadline) = sender.client.deadline() {
            self.now = self.now.max(deadline.at);
        }
        self.drive();
    }

    // ---- The network --------------------------------------------------------------------------

    fn connect(&mut self) {
        let fails = self.faults.cuts && self.coin(30);
        let Some(sender) = &mut self.sender else { return };
        let Some(attempt) = sender.dialing.take() else { return };
        let Some(receiver) = self.receiver.as_mut().filter(|_| !fails) else {
            return sender.client.handle(self.now, Event::Lost(attempt, Loss::Connect));
        };
        self.tally.connections += 1;
        let lane = receiver.inbox.connect();
        self.pipes.push_front(Pipe {
            attempt,
            lane,
            to_receiver: VecDeque::new(),
            to_sender: VecDeque::new(),
            cut: false,
            held: true,
        });
        self.pipes.truncate(3);
        sender.client.handle(self.now, Event::Opened(Opened::new(attempt, ())));
    }

    fn cut(&mut self) {
        let kept = self.below(4);
        if let Some(pipe) = self.pipes.front_mut() {
            pipe.cut = true;
            pipe.to_receiver.truncate(kept);
            pipe.to_sender.clear();
        }
    }

    /// The client notices that its transport is gone.
    fn notice(&mut self) {
        let Some(sender) = &mut self.sender else { return };
        if let Some(pipe) = self.pipes.front_mut().filter(|pipe| pipe.cut && pipe.held) {
            pipe.held = false;
            sender.client.handle(self.now, Event::Lost(pipe.attempt, Loss::Io));
        }
    }

    /// A frame arrives at the receiver, mostly on the newest transport.
    fn arrive(&mut self) {
        let pipe = if self.coin(80) { 0 } else { self.below(3) };
        let Some(receiver) = &mut self.receiver else { return };
        let Some(pipe) = self.pipes.get_mut(pipe) else { return };
        match pipe.to_receiver.pop_front() {
            Some(Frame::Ping(ping)) if !pipe.cut => {
                let payload = ping.payload().to_vec();
                pipe.to_sender.push_back(Received::Pong(payload.into()));
            }
            Some(Frame::Ping(_)) | None => {}
            Some(Frame::Data(body)) => {
                receiver.take(&body, pipe.lane, &mut self.tally);
            }
        }
    }

    /// A frame arrives at the client.
    fn hear(&mut self) {
        let Some(sender) = &mut self.sender else { return };
        let Some(pipe) = self.pipes.front_mut().filter(|pipe| pipe.held) else { return };
        if let Some(frame) = pipe.to_sender.pop_front() {
            let _message = sender.client.receive(self.now, pipe.attempt, frame);
        }
    }

    // ---- The receiver -------------------------------------------------------------------------

    /// One transaction: the effects of some messages, and their marks.
    fn commit(&mut self) {
        let most = 1 + self.below(3);
        let Some(receiver) = &mut self.receiver else { return };
        let rest: Vec<_> = receiver.work.range(receiver.committed..).take(most).copied().collect();
        receiver.committed += rest.len();
        for (id, payload) in rest {
            assert!(self.took_effect.insert(payload), "{payload} took effect twice");
            // What a careless sender takes for live although it has failed may come late.
            if !(self.faults.careless && self.excused.contains(&payload)) {
                let place = self.places[&payload];
                assert!(self.newest < place, "{payload} took effect out of order");
                self.newest = place;
            }
            self.database.effects.push(payload);
            self.database.marks.retain(|mark| mark.outbox != id.outbox);
            self.database.marks.push(id);
        }
    }

    fn say_done(&mut self) {
        let Some(receiver) = &mut self.receiver else { return };
        let done: Vec<_> = receiver.work.drain(..receiver.committed).collect();
        receiver.committed = 0;
        if let Some((last, _)) = done.last() {
            receiver.inbox.done(*last).unwrap();
        }
    }

    fn refuse(&mut self, nack: Nack) {
        let nth = self.below(3);
        let Some(receiver) = &mut self.receiver else { return };
        let place = receiver.committed + nth;
        if let Some(&(id, _)) = receiver.work.get(place) {
            self.tally.refusals += 1;
            receiver.inbox.refuse(id, nack).unwrap();
            receiver.work.truncate(place);
        }
    }

    fn answer(&mut self) {
        let own = self.coin(30).then(|| Json::new("a message of the server's own").unwrap());
        let Some(receiver) = &mut self.receiver else { return };
        let Some(pipe) = self.pipes.front_mut() else { return };
        let answers = std::iter::from_fn(|| receiver.inbox.poll(pipe.lane));
        if let Some(frame) = reply(answers, own.as_ref()).filter(|_| !pipe.cut) {
            pipe.to_sender.push_back(Received::Data(frame));
        }
    }

    fn crash_receiver(&mut self) {
        if self.receiver.take().is_none() {
            return self.start_receiver();
        }
        self.tally.receiver_crashes += 1;
        for pipe in &mut self.pipes {
            pipe.cut = true;
            pipe.to_receiver.clear();
        }
    }

    fn start_receiver(&mut self) {
        if self.receiver.is_none() {
            self.receiver = Some(Receiver::start(&self.database));
        }
    }

    // ---- What holds ---------------------------------------------------------------------------

    fn check(&self) {
        if let Some(receiver) = &self.receiver {
            assert!(receiver.inbox.in_progress().eq(receiver.work.iter().map(|(id, _)| *id)));
        }
        if let Some(sender) = &self.sender {
            let stats = sender.client.stats();
            assert_eq!((stats.violations, stats.outbox.violations), (0, 0));
        }
    }

    /// The faults are over: everything is settled, and what did not fail has had its effect.
    fn finish(&mut self) {
        self.faults = Faults { careless: self.faults.careless, ..Faults::none() };
        self.start_receiver();
        self.start_sender();
        for round in 0.. {
            assert!(round < 2_000, "nothing moves: {:?}", self.sender.as_ref().unwrap().live);
            self.drive();
            self.connect();
            self.notice();
            for _ in 0..8 {
                self.arrive();
                self.commit();
                self.say_done();
                self.answer();
                self.hear();
            }
            self.drive();
            self.check();
            let settled = self.sender.as_ref().is_some_and(|s| s.client.outbox().is_empty());
            if settled {
                break;
            }
            if round % 3 == 0 {
                self.pass_time();
            }
        }
        assert!(self.sender.as_ref().is_some_and(|sender| sender.live.is_empty()));
        self.tally.effects = self.database.effects.len() as u64;
        for payload in 1..=self.tally.pushes {
            let took_effect = self.took_effect.contains(&payload);
            assert!(took_effect || self.excused.contains(&payload), "{payload} had no effect");
        }
    }
}

impl Receiver {
    fn start(database: &Database) -> Self {
        let config = InboxConfig { max_outboxes: 64, max_in_progress: 16 };
        let inbox = Inbox::restore(config, database.marks.iter().copied()).unwrap();
        Self { inbox, work: VecDeque::new(), committed: 0 }
    }

    fn take(&mut self, body: &Body, lane: Lane, tally: &mut Tally) {
        let Messages { outbox, base, messages } = Messages::parse(body).unwrap();
        for (seq, data) in messages {
            let id = MessageId { outbox, seq };
            match self.inbox.offer(lane, id, base) {
                Offer::New => self.work.push_back((id, data.to().unwrap())),
                Offer::Duplicate => tally.duplicates += 1,
                Offer::Refused => tally.dropped += 1,
                Offer::Stale => tally.stale += 1,
            }
        }
    }
}
