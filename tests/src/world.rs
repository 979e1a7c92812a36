//! A client, a network and a peer, under a clock that is a number.
//!
//! A [`World`] does with a real [`Client`] what a driver does, in the order that
//! [`bowline_core::drive`] asks for: flush, read, tell the time, do what is owed. The network is a
//! [`Pipe`] in each direction, the other end a [`Peer`]. Things happen in two ways only: an
//! [`Op`] is [applied](World::apply), or time passes in one and brings what is due. So the same ops
//! make the same run.
//!
//! Everything that can be seen from outside is said to a [`Witness`]: the oracle, a transcript, or
//! one of yours.

use core::time::Duration;
use std::collections::VecDeque;

use bowline_core::{
    Attempt, Body, Client, ClientConfig, ConfigError, ConnectionState, Dialect, Event, Frame,
    Instant, Key, Loss, Nack, Opened, Output, Phase, Ping, PushOptions, Received, Refusal, Seq,
    Sink, Snapshot, Wire,
};
use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng, TryRng};

use crate::{
    history::{Content, Gauges, Moment, Seen},
    link::{Arrival, Pipe, Trap, Weather, header},
    marks::{Counts, Watch},
    op::{
        AckOp, ClientOp, ClockOp, DenyOp, FrameEndOp, LinkOp, Micros, NackOp, Op, PeerOp, Push,
        RefuseOp, StaleOp, Which,
    },
    oracle::{Oracle, Rules},
    peer::{Desk, Peer},
    settings::Chance,
    statement::{Statement, Violation},
    twice::{Came, Input, Life},
    watched::Watched,
};

/// Whoever sees a run.
pub trait Witness {
    /// Something was seen.
    ///
    /// # Errors
    /// It should not have been.
    fn see(&mut self, moment: &Moment) -> Result<(), Violation>;

    /// An op begins. What is seen until the next one follows from it.
    fn op(&mut self, _: &Op) {}
}

impl Witness for () {
    fn see(&mut self, _: &Moment) -> Result<(), Violation> {
        Ok(())
    }
}

impl Witness for Oracle {
    fn see(&mut self, moment: &Moment) -> Result<(), Violation> {
        Oracle::see(self, moment)
    }
}

/// Two witnesses of one run; the first is asked first.
impl<A: Witness, B: Witness> Witness for (A, B) {
    fn see(&mut self, moment: &Moment) -> Result<(), Violation> {
        self.0.see(moment)?;
        self.1.see(moment)
    }

    fn op(&mut self, op: &Op) {
        self.0.op(op);
        self.1.op(op);
    }
}

/// The random numbers of a client.
#[derive(Clone, Debug)]
pub enum Dice {
    /// Those of a generator.
    Seeded(Box<ChaCha8Rng>),
    /// Always the same, but for the names of outboxes.
    Loaded {
        /// This one.
        number: u64,
        /// Numbers that are left for a name.
        names: [u64; 2],
        /// How many of them were used.
        used: usize,
    },
}

impl Dice {
    /// A fresh one; `life` makes the names of the outboxes of one world differ.
    pub fn new(chance: Chance, seed: u64, life: u64) -> Self {
        let seeded = ChaCha8Rng::seed_from_u64(seed.wrapping_add(life.wrapping_mul(0x9e37_79b9)));
        match chance {
            Chance::Seeded => Self::Seeded(Box::new(seeded)),
            Chance::Zeros => Self::Loaded { number: 0, names: [life, 1], used: 0 },
            Chance::Ones => Self::Loaded { number: u64::MAX, names: [life, 1], used: 0 },
        }
    }
}

impl TryRng for Dice {
    type Error = core::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        self.try_next_u64().map(|number| (number >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(match self {
            Self::Seeded(rng) => rng.next_u64(),
            Self::Loaded { number, names, used } => match names.get(*used) {
                Some(name) => {
                    *used += 1;
                    *name
                }
                None => *number,
            },
        })
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for chunk in bytes.chunks_mut(8) {
            let number = self.try_next_u64()?.to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
        Ok(())
    }
}

/// What travels to the peer.
#[derive(Clone, Debug)]
enum Up {
    Data(Body),
    /// With its place among all pings.
    Ping(Bytes, u64),
    Close,
}

/// What travels to the client.
#[derive(Clone, Debug)]
enum Down {
    Data {
        body: Body,
        honest: bool,
        is_ack: bool,
    },
    /// With the place of the ping that it answers, if there was one.
    Pong(Bytes, Option<u64>),
    Close(u16),
    Eof,
}

/// One connection, both ends.
#[derive(Debug)]
struct Connection {
    attempt: Attempt,
    up: Pipe<Up>,
    down: Pipe<Down>,
    /// Whether the peer's end takes anything in.
    peer_open: bool,
    /// Bytes were handed to the socket that the client was not told about.
    unflushed: bool,
    paused: bool,
    /// The peer's answers are not what they seem: one too many or too few, a lie, a withheld one.
    tainted: bool,
    /// Frames that the library has and the application has not looked at.
    basket: Vec<Body>,
    /// Acks that are withheld.
    withheld: Vec<(Body, bool)>,
}

/// What an aborted connection has left on its way to the peer.
#[derive(Debug)]
struct Rest {
    attempt: Attempt,
    up: Pipe<Up>,
}

/// What the peer's process does.
#[derive(Clone, Debug, Default)]
struct Manners {
    accept_then_drop: bool,
    silent: bool,
    status: Option<(u16, Option<Duration>)>,
    ignores_close: bool,
    no_pongs: bool,
    holds: bool,
    acks_late: bool,
    skips: u32,
    poison: Vec<u64>,
    accused: Vec<u64>,
}

/// How the network treats dials.
#[derive(Clone, Copy, Debug)]
struct Dialing {
    takes: u64,
    refuses: bool,
    /// How the next one fails.
    fails: Option<Loss>,
    hangs: bool,
    lingers: bool,
}

impl Default for Dialing {
    fn default() -> Self {
        Self { takes: 1_000, refuses: false, fails: None, hangs: false, lingers: false }
    }
}

/// The clock that the client is told.
#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    /// How far it is behind the world's own; wraps around.
    behind: u64,
    frozen_at: Option<u64>,
}

impl Clock {
    fn told(self, now: u64) -> u64 {
        self.frozen_at.unwrap_or(now.saturating_sub(self.behind))
    }
}

/// More turns than this in one moment are a client that spins.
const SPIN: u32 = 10_000;

/// More events than this within a second are a client that spins while time crawls. One that dials
/// each millisecond, or is sent a backlog byte by byte, has a quarter of them.
const EVENTS_A_SECOND: u64 = 200_000;

/// More events than this after the faults have ended are one that does not settle.
const QUIET_EVENTS: u64 = 200_000;

/// A client, a network and a peer; see the [module docs](self).
pub struct World<P: Peer, W> {
    config: ClientConfig,
    chance: Chance,
    seed: u64,
    client: Client<Watched<P::Dialect>, Dice>,
    peer: P,
    witness: W,
    desk: Desk,
    manners: Manners,
    toward: Weather,
    back: Weather,
    dialing: Dialing,
    clock: Clock,
    now: u64,
    /// The latest time that was told, to a client or to the witness.
    latest: u64,
    dial: Option<(Attempt, u64)>,
    link: Option<Connection>,
    rest: Option<Rest>,
    /// What the peer's application has not looked at of connections before the newest.
    leftover: VecDeque<(Attempt, Body)>,
    /// Processes of the client that have ended.
    lives: u64,
    /// The newest snapshot, and the name for what is pushed after it.
    saved: Snapshot,
    /// The number of the next message.
    next_message: u64,
    /// The driver does not run.
    busy: bool,
    /// Outputs after which it is interrupted; it was, so more may be owed.
    half: Option<u64>,
    interrupted: bool,
    newest_ack: Option<Body>,
    newest_ping: Option<Ping>,
    /// The last ping of the attempt before.
    old_ping: Option<Ping>,
    greeting_left: usize,
    numbers: Vec<u64>,
    /// Messages that the peer had when it died, and had not answered.
    unanswered: Vec<u64>,
    events: u64,
    watch: Watch,
    /// What is said to the client, if it is to be judged by [`twice`](crate::twice).
    life: Option<Life>,
    violation: Option<Violation>,
}

impl<P: Peer, W: Witness> World<P, W> {
    /// A world in which nothing has happened. The witness is told by which rules it is to be judged.
    ///
    /// # Errors
    /// A setting of the client is out of its range.
    pub fn new(
        config: ClientConfig,
        peer: P,
        (chance, seed): (Chance, u64),
        witness: impl FnOnce(Rules) -> W,
    ) -> Result<Self, ConfigError> {
        let dialect = Watched::new(peer.dialect());
        let client = Client::new(config.clone(), dialect, Dice::new(chance, seed, 0))?;
        let saved = client.outbox().snapshot();
        let rules = Rules {
            refuses_gaps: peer.refuses_gaps(),
            takes_once: peer.takes_once(),
            fair: chance == Chance::Seeded,
            ..Rules::new(config.clone(), client.outbox().id())
        };
        let mut world = Self {
            witness: witness(rules),
            watch: Watch::new(&config),
            config,
            chance,
            seed,
            client,
            peer,
            desk: Desk::default(),
            manners: Manners::default(),
            toward: Weather::default(),
            back: Weather::default(),
            dialing: Dialing::default(),
            clock: Clock::default(),
            now: 0,
            latest: 0,
            dial: None,
            link: None,
            rest: None,
            leftover: VecDeque::new(),
            lives: 0,
            saved,
            next_message: 1,
            busy: false,
            half: None,
            interrupted: false,
            newest_ack: None,
            newest_ping: None,
            old_ping: None,
            greeting_left: 0,
            numbers: Vec::new(),
            unanswered: Vec::new(),
            events: 0,
            life: None,
            violation: None,
        };
        world.see(Seen::Snapshot);
        Ok(world)
    }

    /// Plays each life of the client a second time when it has ended, and judges the statements
    /// about two runs; see [`twice`](crate::twice). To be said before the first op.
    #[must_use]
    pub fn twice(self) -> Self {
        let life = Life::new(self.config.clone(), Dice::new(self.chance, self.seed, 0));
        Self { life: Some(life), ..self }
    }

    /// Lets an op happen, and all that follows from it at once.
    ///
    /// # Errors
    /// The witness has seen what should not be.
    pub fn apply(&mut self, op: &Op) -> Result<(), Violation> {
        self.witness.op(op);
        if core::mem::take(&mut self.interrupted) {
            self.watch.in_a_drain(&self.client, op);
            // No driver sleeps before it was told for how long.
            let sleeps = matches!(
                op,
                Op::Pass(_) | Op::Clock(ClockOp::Jump(_)) | Op::Client(ClientOp::Busy)
            );
            if sleeps {
                self.turn();
            }
        }
        match *op {
            Op::Push(push) => self.push(push),
            Op::Pass(micros) => self.pass(micros.0),
            Op::Link(op) => self.link(op),
            Op::Peer(op) => self.peer(op),
            Op::Client(op) => self.client(op),
            Op::Clock(op) => self.clock(op),
            Op::Stale(op) => self.stale(op),
        }
        if !self.busy && !self.interrupted {
            self.turn();
        }
        self.judged()
    }

    /// Ends the faults, gives the client the time to settle everything, and ends the run.
    ///
    /// # Errors
    /// The witness has seen what should not be.
    pub fn quiet(&mut self) -> Result<(), Violation> {
        self.end_faults();
        self.judged()?;
        let before = self.events;
        let mut idle = 0;
        while idle < 4 {
            let Some(next) = self.next_at() else { break };
            self.now = self.now.max(next);
            self.turn();
            self.judged()?;
            let settled = self.client.outbox().is_empty();
            idle += u32::from(settled);
            if self.events - before > QUIET_EVENTS {
                self.object(Statement::L2, "the client does not come to rest");
                return self.judged();
            }
        }
        self.watch.end(&self.client);
        self.see(Seen::Ended);
        self.judge_life();
        self.judged()
    }

    /// Inputs to the client and outputs polled, so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Which marks were passed so far.
    pub fn marks(&self) -> &Counts {
        self.watch.counts()
    }

    /// The time that the client is told.
    pub fn time(&self) -> Instant {
        self.told()
    }

    /// The client.
    pub fn client_ref(&self) -> &Client<impl Dialect, Dice> {
        &self.client
    }

    /// The witness.
    pub fn witness(&self) -> &W {
        &self.witness
    }

    /// The witness, when the run is over.
    pub fn into_witness(self) -> W {
        self.witness
    }

    fn judged(&mut self) -> Result<(), Violation> {
        if let Some(text) = self.watch.take_fault() {
            self.object(Statement::X3, &text);
        }
        self.violation.take().map_or(Ok(()), Err)
    }

    fn told(&self) -> Instant {
        Instant::from_micros(self.clock.told(self.now))
    }

    /// The time that the client is told now.
    fn tell_time(&mut self) -> Instant {
        let told = self.told();
        self.latest = self.latest.max(told.as_micros());
        told
    }

    /// Says a frame.
    fn say_frame(&mut self, now: Instant, attempt: Attempt, frame: Received) {
        let noted = self.life.is_some().then(|| Input::Receive(attempt, frame.clone()));
        let inbound = self.client.receive(now, attempt, frame).is_some();
        if let (Some(life), Some(input)) = (&mut self.life, noted) {
            life.note(now, input, Came::Inbound(inbound));
        }
    }

    /// A life of the client has ended: judges what can be judged by two runs of it.
    fn judge_life(&mut self) {
        let Some(life) = self.life.take().filter(|_| self.violation.is_none()) else { return };
        self.violation = life.judge(&self.client, || Watched::new(self.peer.dialect())).err();
    }

    fn see(&mut self, seen: Seen) {
        if self.violation.is_none() {
            let moment = Moment::new(self.tell_time(), seen);
            self.violation = self.witness.see(&moment).err();
        }
    }

    fn object(&mut self, statement: Statement, text: &str) {
        let at = self.told();
        self.violation.get_or_insert(Violation { statement, at, text: text.into() });
    }

    /// Says an event, and that it was said.
    fn say(&mut self, seen: Seen, event: Event<()>) {
        self.see(seen);
        self.tell(event);
    }

    /// Says that an attempt is open, and that it was said. How the dialect greets is seen only then.
    fn say_opened(&mut self, attempt: Attempt) {
        self.tell(Event::Opened(Opened::new(attempt, ())));
        let awaits_answer = self.client.dialect().notes().awaits_answer;
        self.see(Seen::Opened { attempt, awaits_answer });
    }

    fn tell(&mut self, event: Event<()>) {
        self.events += 1;
        let now = self.tell_time();
        self.watch.say(&self.client, now, &event);
        if let Some(life) = &mut self.life {
            life.note(now, Input::Event(event.clone()), Came::Nothing);
        }
        self.client.handle(now, event);
        self.watch.after(&self.client, now);
    }

    // ---- Time -----------------------------------------------------------------------------------

    fn pass(&mut self, micros: u64) {
        let until = self.now.saturating_add(micros);
        if !self.busy {
            let (mut second, mut before) = (self.now, self.events);
            while let Some(next) = self.next_at().filter(|at| *at <= until) {
                self.now = self.now.max(next);
                if self.now - second >= 1_000_000 {
                    (second, before) = (self.now, self.events);
                }
                if self.events - before > EVENTS_A_SECOND {
                    return self.object(Statement::L6, "the client spins, and time hardly goes on");
                }
                self.turn();
                if self.violation.is_some() || self.interrupted {
                    return;
                }
            }
        }
        self.busy = false;
        self.now = until;
    }

    /// When something happens next by itself: on the link, a dial, or a deadline of the client.
    fn next_at(&self) -> Option<u64> {
        let mut next = self.dial.map_or(u64::MAX, |(_, at)| at);
        if let Some(link) = &self.link {
            next = next.min(link.up.next_at(&self.toward));
            if !link.paused {
                next = next.min(link.down.next_at(&self.back));
            }
        }
        if let Some(rest) = &self.rest {
            next = next.min(rest.up.next_at(&self.toward));
        }
        if self.clock.frozen_at.is_none()
            && let Some(deadline) = self.client.deadline()
        {
            next = next.min(deadline.at.as_micros().saturating_add(self.clock.behind));
        }
        (next != u64::MAX).then_some(next)
    }

    // ---- The driver -----------------------------------------------------------------------------

    /// What a driver does when it runs, until there is nothing more to do at this moment.
    fn turn(&mut self) {
        for _ in 0..SPIN {
            self.dialed();
            self.flush();
            self.carry();
            self.read();
            self.say(Seen::Tick, Event::Tick);
            let moved = self.drain();
            if self.violation.is_some() || !moved || self.interrupted {
                return;
            }
        }
        self.object(Statement::L6, "the client always has something to do");
    }

    /// The same, and nothing interrupts it.
    fn whole_turn(&mut self) {
        (self.half, self.interrupted) = (None, false);
        self.turn();
    }

    /// The dial that is under way ends.
    fn dialed(&mut self) {
        let Some((attempt, _)) = self.dial.filter(|(_, at)| *at <= self.now) else { return };
        self.dial = None;
        let refused = self.dialing.refuses.then_some(Loss::Connect);
        let status =
            self.manners.status.map(|(status, retry_after)| Loss::Status { status, retry_after });
        if let Some(loss) = self.dialing.fails.take().or(refused).or(status) {
            return self.say(Seen::Lost(attempt, loss), Event::Lost(attempt, loss));
        }
        // The peer sees that the client is back, so it drops what it has of before.
        self.rest = None;
        self.see(Seen::PeerOpened(attempt));
        self.peer.connect();
        let mut link = Connection {
            attempt,
            up: Pipe::default(),
            down: Pipe::default(),
            peer_open: true,
            unflushed: false,
            paused: false,
            tainted: false,
            basket: Vec::new(),
            withheld: Vec::new(),
        };
        if self.manners.accept_then_drop {
            link.down.write(1, Down::Eof);
            link.peer_open = false;
        }
        let dropped = !link.peer_open;
        self.link = Some(link);
        if dropped {
            self.see(Seen::PeerClosed(attempt));
        }
        self.say_opened(attempt);
        self.greeting_left = core::mem::take(&mut self.client.dialect().notes().greeting);
    }

    /// The socket takes what it has room for.
    fn flush(&mut self) {
        let Some(link) = &mut self.link else { return };
        let attempt = link.attempt;
        let took = link.up.take(&self.toward) > 0;
        link.up.depart(self.now, &self.toward);
        // What has left makes room.
        let took = link.up.take(&self.toward) > 0 || took;
        let flushed = link.unflushed && link.up.unwritten() == 0;
        link.unflushed &= !flushed;
        if took {
            self.say(Seen::Took(attempt), Event::Took(attempt));
        }
        if flushed {
            self.say(Seen::Flushed(attempt), Event::Flushed(attempt));
        }
    }

    /// The network carries bytes to the peer, which answers.
    fn carry(&mut self) {
        if let Some(rest) = &mut self.rest {
            rest.up.depart(self.now, &self.toward);
            while let Some(Arrival::Bytes(_)) = rest.up.arrive(self.now) {}
            let attempt = rest.attempt;
            while let Some(frame) = self.rest.as_mut().and_then(|rest| rest.up.read()) {
                // Its library has it. Its application comes to it when the next connection is open.
                if let Up::Data(body) = frame {
                    self.arrive(attempt, &body);
                    self.leftover.push_back((attempt, body));
                }
            }
        }
        let Some(link) = &mut self.link else { return };
        link.up.depart(self.now, &self.toward);
        while let Some(arrival) = self.link.as_mut().and_then(|link| link.up.arrive(self.now)) {
            match arrival {
                Arrival::Bytes(_) => {}
                Arrival::Reset => {
                    self.watch_break(Loss::Io, |link| link.up.is_in_a_frame());
                    return self.lose(Loss::Io);
                }
                Arrival::Eof => {
                    self.watch_break(Loss::Eof, |link| link.up.is_in_a_frame());
                    return self.peer_end_goes();
                }
            }
            while let Some(frame) = self.link.as_mut().and_then(|link| link.up.read()) {
                self.served(frame);
            }
        }
    }

    /// The peer's library reads a frame.
    fn served(&mut self, frame: Up) {
        let Some(link) = self.link.as_mut().filter(|link| link.peer_open) else { return };
        let attempt = link.attempt;
        match frame {
            Up::Ping(payload, place) => {
                if !self.manners.no_pongs && !self.manners.silent {
                    self.reply(Down::Pong(payload, Some(place)), Ping::LEN);
                }
            }
            Up::Close => {
                if !self.manners.ignores_close && !self.manners.silent {
                    self.peer_closes(1000);
                }
            }
            Up::Data(body) => {
                let killed = self.arrive(attempt, &body);
                match killed {
                    Some(Killed::Poisoned) => return self.peer_crashes(),
                    Some(Killed::Accused) => return self.peer_closes(1009),
                    None => {}
                }
                if self.manners.holds || self.manners.silent {
                    if let Some(link) = &mut self.link {
                        link.basket.push(body);
                    }
                } else {
                    self.process(attempt, &body);
                }
            }
        }
    }

    /// The messages of a frame have arrived; says whether one of them ends the connection.
    fn arrive(&mut self, attempt: Attempt, body: &Body) -> Option<Killed> {
        self.numbers.clear();
        self.peer.read(body, &mut self.numbers);
        let mut killed = None;
        for place in 0..self.numbers.len() {
            let message = self.numbers[place];
            self.see(Seen::Arrived { attempt, message });
            if self.manners.poison.contains(&message) {
                killed = killed.or(Some(Killed::Poisoned));
            } else if self.manners.accused.contains(&message) {
                killed = killed.or(Some(Killed::Accused));
            }
        }
        killed
    }

    /// The peer's application looks at a frame, and then at one that it has of a connection before.
    fn process(&mut self, attempt: Attempt, body: &Body) {
        self.work(attempt, |peer, desk| peer.take(body, desk));
        if let Some((before, body)) = self.leftover.pop_front() {
            self.work(before, |peer, desk| peer.take_late(&body, desk));
        }
    }

    /// The peer's application works on what came on an attempt.
    fn work(&mut self, attempt: Attempt, work: impl FnOnce(&mut P, &mut Desk)) {
        work(&mut self.peer, &mut self.desk);
        if let Some(inbox) = self.peer.inbox() {
            inbox.steps().into_iter().for_each(|(step, times)| self.watch.inbox(step, times));
        }
        let processed = core::mem::take(&mut self.desk.processed);
        let mut answers = core::mem::take(&mut self.desk.answers);
        for &message in &processed {
            self.see(Seen::Processed { attempt, message });
            if let Some(place) = self.unanswered.iter().position(|other| *other == message) {
                self.unanswered.swap_remove(place);
                self.watch.answered_after_death(answers.iter().any(|(_, is_ack)| *is_ack));
            }
        }
        self.desk.processed = processed;
        self.desk.processed.clear();
        for (body, is_ack) in answers.drain(..) {
            let link = self.link.as_mut().filter(|link| link.attempt == attempt);
            let Some(link) = link.filter(|link| link.peer_open) else { break };
            if is_ack && self.manners.skips > 0 {
                self.manners.skips -= 1;
                link.tainted = true;
            } else if self.manners.acks_late {
                link.withheld.push((body, is_ack));
            } else {
                self.answer(body, is_ack);
            }
        }
        self.desk.answers = answers;
    }

    fn answer(&mut self, body: Body, is_ack: bool) {
        let honest = !P::POSITIONAL || self.link.as_ref().is_none_or(|link| !link.tainted);
        if is_ack {
            self.newest_ack = Some(body.clone());
        }
        let len = body.len();
        self.reply(Down::Data { body, honest, is_ack }, len);
    }

    /// The peer sends a frame.
    fn reply(&mut self, frame: Down, payload: usize) {
        let now = self.now;
        let back = Weather { buffer: u64::MAX, ..self.back };
        let Some(link) = &mut self.link else { return };
        link.down.write(header(payload, false) + payload as u64, frame);
        link.down.take(&back);
        link.down.depart(now, &back);
    }

    fn peer_closes(&mut self, code: u16) {
        self.reply(Down::Close(code), 2);
        self.peer_end_shuts();
    }

    fn peer_end_shuts(&mut self) {
        if let Some(link) = self.link.as_mut().filter(|link| link.peer_open) {
            link.peer_open = false;
            link.basket.clear();
            link.withheld.clear();
            let attempt = link.attempt;
            self.see(Seen::PeerClosed(attempt));
        }
    }

    fn watch_break(&mut self, loss: Loss, in_a_frame: impl FnOnce(&Connection) -> bool) {
        if let Some(link) = &self.link {
            self.watch.broke(loss, in_a_frame(link));
        }
    }

    /// The peer's end goes away without a Close.
    fn peer_end_goes(&mut self) {
        self.reply(Down::Eof, 0);
        self.peer_end_shuts();
    }

    fn peer_crashes(&mut self) {
        let Some(link) = &self.link else { return };
        let acks = link.down.frames().any(|frame| matches!(frame, Down::Data { is_ack: true, .. }));
        self.watch.peer_dies(acks);
        self.numbers.clear();
        let withheld = link.basket.iter();
        withheld.for_each(|body| self.peer.read(body, &mut self.numbers));
        self.unanswered.append(&mut self.numbers);
        self.peer.restart();
        self.lose(Loss::Io);
        self.leftover.clear();
    }

    /// The driver reads what is there.
    fn read(&mut self) {
        let Some(link) = &mut self.link else { return };
        if link.paused {
            return;
        }
        let attempt = link.attempt;
        let back = Weather { buffer: u64::MAX, ..self.back };
        link.down.take(&back);
        link.down.depart(self.now, &back);
        while let Some(arrival) = self.link.as_mut().and_then(|link| link.down.arrive(self.now)) {
            match arrival {
                Arrival::Bytes(_) => {}
                Arrival::Reset => {
                    self.watch_break(Loss::Io, |link| link.down.is_in_a_frame());
                    return self.lose(Loss::Io);
                }
                Arrival::Eof => {
                    self.watch_break(Loss::Eof, |link| link.down.is_in_a_frame());
                    return self.lose(Loss::Eof);
                }
            }
            self.say(Seen::Heard(attempt), Event::Heard(attempt));
            while let Some(frame) = self.link.as_mut().and_then(|link| link.down.read()) {
                match frame {
                    Down::Data { body, honest, .. } => self.receive(attempt, body, honest),
                    Down::Pong(payload, place) => self.receive_pong(attempt, payload, place),
                    Down::Close(code) => return self.lose(Loss::Closed { code: Some(code) }),
                    Down::Eof => return self.lose(Loss::Eof),
                }
            }
        }
    }

    fn receive(&mut self, attempt: Attempt, body: Body, honest: bool) {
        self.events += 1;
        let now = self.told();
        let before = self.watch.receive(&self.client, now, attempt);
        self.say_frame(now, attempt, Received::Data(body));
        self.see(Seen::Heard(attempt));
        if self.client.dialect().take_noted() {
            let mut signals = core::mem::take(&mut self.client.dialect().notes().signals);
            for (place, signal) in signals.drain(..).enumerate() {
                self.see(Seen::Signalled { attempt, signal, honest });
                if let Some(before) = &before {
                    self.watch.signalled(&self.client, attempt, before, place, signal);
                }
            }
            self.client.dialect().notes().signals = signals;
            if core::mem::take(&mut self.client.dialect().notes().replied) {
                self.see(Seen::ReplyDue(attempt));
            }
        }
        self.watch.after(&self.client, now);
    }

    fn receive_pong(&mut self, attempt: Attempt, payload: Bytes, place: Option<u64>) {
        self.events += 1;
        let now = self.told();
        let ping = Ping::parse(&payload);
        match ping {
            Some(ping) => self.see(Seen::Ponged(attempt, ping)),
            None => self.see(Seen::Heard(attempt)),
        }
        self.watch.pong(&self.client, now, attempt, ping, place);
        self.say_frame(now, attempt, Received::Pong(payload));
        self.watch.after(&self.client, now);
    }

    /// Does what is owed; says whether there was anything that another turn could go on from.
    fn drain(&mut self) -> bool {
        let mut moved = false;
        for _ in 0..SPIN {
            let ready = self.link.as_ref().is_some_and(|link| {
                // A framing buffer holds what the socket does not take, but no more than that.
                link.up.unwritten() == 0 || link.up.unwritten() < self.toward.buffer.min(1_024)
            });
            let wire = if ready { Wire::Ready } else { Wire::Blocked };
            self.events += 1;
            self.watch.poll();
            let output = self.client.poll(wire);
            if let Some(life) = &mut self.life {
                life.note_poll(wire, output.clone());
            }
            self.watch.after(&self.client, self.told());
            match output {
                Output::Dial(attempt) => {
                    self.hang_up();
                    self.see(Seen::Dials(attempt));
                    let at = self.now.saturating_add(self.dialing.takes);
                    self.dial = Some((attempt, if self.dialing.hangs { u64::MAX } else { at }));
                }
                Output::Send(attempt, frame) => {
                    self.send(attempt, frame, wire);
                    moved = true;
                }
                Output::Close(attempt, _) => {
                    self.see(Seen::Closes(attempt));
                    if let Some(link) = &mut self.link {
                        link.up.write(header(2, true) + 2, Up::Close);
                    }
                    moved = true;
                }
                Output::Abort(attempt) => {
                    self.see(Seen::Aborts(attempt));
                    self.hang_up();
                }
                Output::Delivered { first, last } => {
                    self.watch.delivered();
                    self.see(Seen::Delivered { first, last });
                }
                Output::Failed(failed) => {
                    let message = self.peer.message(&failed.body);
                    let (id, reason, fate) = (failed.id, failed.reason, failed.fate);
                    self.watch.failed(reason, fate);
                    self.see(Seen::Failed { message, id, reason, fate });
                    self.store();
                }
                Output::Status(status) => self.see(Seen::Status(status)),
                Output::WaitUntil(deadline) => {
                    self.see(Seen::Waits { wire, deadline });
                    self.see(Seen::Gauges(Gauges::of(&self.client)));
                    self.watch.rests(&self.client);
                    self.watch.drained();
                    self.watch.wire(wire);
                    return moved;
                }
            }
            if self.violation.is_some() || self.watch.has_fault() {
                return false;
            }
            if let Some(left) = &mut self.half {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    self.half = None;
                    self.interrupted = true;
                    return moved;
                }
            }
        }
        self.object(Statement::L6, "a drain does not end");
        false
    }

    fn send(&mut self, attempt: Attempt, frame: Frame, wire: Wire) {
        let payload = frame.payload_len();
        let frame = match frame {
            Frame::Ping(ping) => {
                if self.newest_ping.is_some_and(|old| old.attempt != ping.attempt) {
                    self.old_ping = self.newest_ping;
                }
                self.newest_ping = Some(ping);
                let place = self.watch.ping_sent();
                self.see(Seen::Sends { attempt, content: Content::Ping(ping), wire });
                Up::Ping(ping.payload(), place)
            }
            Frame::Data(body) => {
                self.see_data(attempt, wire);
                Up::Data(body)
            }
        };
        match &mut self.link {
            Some(link) => {
                link.up.write(header(payload, true) + payload as u64, frame);
                link.unflushed = true;
            }
            None => self.object(Statement::S10, "a frame was sent on no connection"),
        }
    }

    fn see_data(&mut self, attempt: Attempt, wire: Wire) {
        let see = |world: &mut Self, content| world.see(Seen::Sends { attempt, content, wire });
        if self.client.dialect().take_noted() {
            let mut sent = core::mem::take(&mut self.client.dialect().notes().sent);
            let beat = core::mem::take(&mut self.client.dialect().notes().beat);
            if beat {
                self.watch.beat(&self.client);
                see(self, Content::Beat);
            }
            for (place, (id, body)) in sent.drain(..).enumerate() {
                let message = self.peer.message(&body);
                self.watch.message_sent(id.seq);
                see(self, Content::Message { id, message, first: place == 0 });
            }
            self.client.dialect().notes().sent = sent;
        } else if self.greeting_left > 0 {
            self.greeting_left -= 1;
            see(self, Content::Greeting);
        } else {
            see(self, Content::Reply);
        }
    }

    /// The client's end of the connection, or the dial, is destroyed.
    fn hang_up(&mut self) {
        self.dial = None;
        let Some(link) = self.link.take() else { return };
        if link.peer_open {
            self.leftover.extend(link.basket.into_iter().map(|body| (link.attempt, body)));
            if self.dialing.lingers {
                self.rest = Some(Rest { attempt: link.attempt, up: link.up });
            } else {
                self.see(Seen::PeerClosed(link.attempt));
            }
        }
    }

    /// The connection ends by itself.
    fn lose(&mut self, loss: Loss) {
        let Some(attempt) = self.link.as_ref().map(|link| link.attempt) else { return };
        self.hang_up();
        self.say(Seen::Lost(attempt, loss), Event::Lost(attempt, loss));
    }

    // ---- Ops ------------------------------------------------------------------------------------

    fn push(&mut self, push: Push) {
        let level = push.level.unwrap_or(self.config.outbox.level);
        for _ in 0..push.count {
            let message = self.next_message;
            let body = self.peer.body(message, push.bytes.into(), level);
            let options = PushOptions {
                level: push.level,
                ttl: push.ttl.map(Into::into),
                key: push.key.map(|key| key.encode_utf8(&mut [0; 4]).as_bytes().into()),
            };
            let size = body.len() + options.key.as_ref().map_or(0, Key::len);
            self.events += 1;
            let now = self.told();
            let head = self.client.outbox().watermark();
            self.watch.push(&self.client, now);
            let noted = self.life.is_some().then(|| Box::new((body.clone(), options.clone())));
            let result = self.client.push(now, body, options);
            if let (Some(life), Some(push)) = (&mut self.life, noted) {
                life.note(now, Input::Push(push), Came::Pushed(Box::new(result.clone())));
            }
            self.watch.after(&self.client, now);
            match result {
                Ok(pushed) => {
                    self.next_message += 1;
                    let displaces = !pushed.displaced.is_empty();
                    for displaced in pushed.displaced {
                        let message = self.peer.message(&displaced.body);
                        let (seq, coalesced) = (displaced.seq, displaced.coalesced);
                        self.watch.displaced(head, seq, coalesced);
                        self.see(Seen::Displaced { message, seq, coalesced });
                    }
                    let ttl = push.ttl.map(Into::into);
                    self.see(Seen::Pushed { message, seq: pushed.seq, size, level, ttl });
                    if displaces {
                        self.store();
                    }
                }
                Err(refused) => {
                    if self.peer.message(&refused.body) != message {
                        self.object(Statement::S9, "another message was handed back");
                    }
                    self.watch.refused(refused.reason, self.config.outbox.overflow);
                    self.see(Seen::Refused { size, reason: refused.reason });
                }
            }
        }
    }

    fn trap(&mut self, set: impl FnOnce(&mut Connection)) {
        if let Some(link) = &mut self.link {
            set(link);
        }
    }

    fn link(&mut self, op: LinkOp) {
        match op {
            LinkOp::Cut => self.lose(Loss::Io),
            LinkOp::Eof => self.peer_end_goes(),
            LinkOp::ResetAfter(bytes) => self.trap(|link| link.up.trap(bytes, Trap::Reset)),
            LinkOp::ResetBackAfter(bytes) => self.trap(|link| link.down.trap(bytes, Trap::Reset)),
            LinkOp::HoleAfter(bytes) => self.trap(|link| link.up.trap(bytes, Trap::Hole)),
            LinkOp::HoleBackAfter(bytes) => self.trap(|link| link.down.trap(bytes, Trap::Hole)),
            LinkOp::EofAfter(bytes) => self.trap(|link| link.up.trap(bytes, Trap::Eof)),
            LinkOp::EofBackAfter(bytes) => self.trap(|link| link.down.trap(bytes, Trap::Eof)),
            LinkOp::FrameEnd(op) => self.trap(|link| match op {
                FrameEndOp::Reset(bytes) => link.up.trap_at_frame_end(bytes, Trap::Reset),
                FrameEndOp::ResetBack(bytes) => link.down.trap_at_frame_end(bytes, Trap::Reset),
                FrameEndOp::Hole(bytes) => link.up.trap_at_frame_end(bytes, Trap::Hole),
                FrameEndOp::HoleBack(bytes) => link.down.trap_at_frame_end(bytes, Trap::Hole),
                FrameEndOp::Eof(bytes) => link.up.trap_at_frame_end(bytes, Trap::Eof),
                FrameEndOp::EofBack(bytes) => link.down.trap_at_frame_end(bytes, Trap::Eof),
            }),
            LinkOp::Fail(op) => match self.link {
                Some(_) => self.lose(op.into()),
                None => self.dialing.fails = Some(op.into()),
            },
            LinkOp::Stall => self.toward.stalled = true,
            LinkOp::StallBack => self.back.stalled = true,
            LinkOp::Mute => self.toward.silent = true,
            LinkOp::Deaf => self.back.silent = true,
            LinkOp::Delay(micros) => {
                self.toward.delay = micros.0;
                self.back.delay = micros.0;
            }
            LinkOp::Bandwidth(bytes) => {
                self.toward.bandwidth = bytes;
                self.back.bandwidth = bytes;
            }
            LinkOp::Chunk(bytes) => {
                self.toward.chunk = bytes;
                self.back.chunk = bytes;
            }
            LinkOp::Buffer(bytes) => self.toward.buffer = bytes.max(1),
            LinkOp::Refuse => self.dialing.refuses = true,
            LinkOp::Hang => self.dialing.hangs = true,
            // A policy that waits for nothing is legal, a dial that takes no time is not.
            LinkOp::DialTakes(micros) => self.dialing.takes = micros.0.max(1_000),
            LinkOp::Linger => self.dialing.lingers = true,
            LinkOp::Heal => {
                self.toward = Weather::default();
                self.back = Weather::default();
                self.dialing = Dialing::default();
            }
        }
    }

    fn peer(&mut self, op: PeerOp) {
        match op {
            PeerOp::AcceptThenDrop => self.manners.accept_then_drop = true,
            PeerOp::SilentAfterUpgrade => self.manners.silent = true,
            PeerOp::Status(answer) => {
                // The longest stands for what no clock can hold.
                let retry_after = answer.retry_after.map(|delay| match delay {
                    Micros(u64::MAX) => Duration::MAX,
                    delay => delay.into(),
                });
                self.manners.status = Some((answer.status, retry_after));
            }
            PeerOp::Close(code) => {
                if self.link.as_ref().is_some_and(|link| link.peer_open) {
                    self.peer_closes(code);
                }
            }
            PeerOp::IgnoreClose => self.manners.ignores_close = true,
            PeerOp::NoPongs => self.manners.no_pongs = true,
            PeerOp::Hold => self.manners.holds = true,
            PeerOp::Slow => self.desk.slow = true,
            PeerOp::Go => self.go(),
            PeerOp::Nack(NackOp { after, nack }) => self.desk.refusals.push((after, nack)),
            PeerOp::Ack(op) => self.ack(op),
            PeerOp::Forget => {
                self.peer.forget();
                self.see(Seen::Forgot);
                // An honest server drops the connections of a session that it has lost.
                self.peer_crashes();
            }
            PeerOp::Crash => self.peer_crashes(),
            PeerOp::Poison(message) => self.manners.poison.push(message),
            PeerOp::Accuse(message) => self.manners.accused.push(message),
            PeerOp::Say => {
                let body = self.peer.say();
                self.volunteer(Down::Data { body, honest: true, is_ack: false });
            }
            PeerOp::Garble => {
                let body = Body::binary(&b"?"[..]);
                self.volunteer(Down::Data { body, honest: true, is_ack: false });
            }
            PeerOp::Pong => {
                self.volunteer(Down::Pong(Bytes::from_static(b"nobody asked"), None));
            }
            PeerOp::Behave => self.behave(),
            PeerOp::Greet => {
                if let Some(body) = self.peer.greeting() {
                    self.volunteer(Down::Data { body, honest: true, is_ack: false });
                }
            }
            PeerOp::Refuse(op) => {
                let refusal = match op {
                    RefuseOp::Retry => Refusal::Retry,
                    RefuseOp::RetryAfter(delay) => Refusal::RetryAfter(delay.into()),
                    RefuseOp::Renew => Refusal::Renew,
                    RefuseOp::Fatal => Refusal::Fatal,
                };
                if let Some(body) = self.peer.refusal(refusal) {
                    self.volunteer(Down::Data { body, honest: true, is_ack: false });
                }
            }
            PeerOp::Deny(op) => {
                let nack = match op {
                    DenyOp::Transient => Nack::Transient,
                    DenyOp::Permanent => Nack::Permanent,
                };
                if let Some(body) = self.peer.denial(nack) {
                    self.lie(body, true);
                }
            }
            PeerOp::PongAhead => {
                if let Some(link) = &self.link {
                    let ping = Ping { attempt: link.attempt, seq: Seq::new(0) };
                    self.volunteer(Down::Pong(ping.payload(), None));
                }
            }
        }
    }

    /// The peer sends what nobody asked for.
    fn volunteer(&mut self, frame: Down) {
        let speaks = self.link.as_ref().is_some_and(|link| link.peer_open);
        if speaks && !self.manners.silent {
            self.reply(frame, 8);
        }
    }

    fn go(&mut self) {
        self.manners.holds = false;
        let link = self.link.as_mut().filter(|link| link.peer_open);
        let (attempt, basket) = link.map_or((Attempt::NONE, Vec::new()), |link| {
            (link.attempt, core::mem::take(&mut link.basket))
        });
        if core::mem::take(&mut self.desk.slow) {
            self.work(attempt, P::finish);
        }
        for body in basket {
            self.process(attempt, &body);
        }
    }

    fn ack(&mut self, op: AckOp) {
        match op {
            AckOp::Late => self.manners.acks_late = true,
            AckOp::Now => {
                self.manners.acks_late = false;
                let withheld = self.link.as_mut().map(|link| core::mem::take(&mut link.withheld));
                for (body, is_ack) in withheld.unwrap_or_default() {
                    self.answer(body, is_ack);
                }
            }
            AckOp::Twice => {
                if let Some(body) = self.newest_ack.clone() {
                    self.lie(body, P::POSITIONAL);
                }
            }
            AckOp::TooHigh | AckOp::Max => {
                if let Some(body) = self.peer.lie(op == AckOp::Max) {
                    self.lie(body, true);
                }
            }
            AckOp::Skipped => self.manners.skips += 1,
        }
    }

    fn lie(&mut self, body: Body, is_lie: bool) {
        if self.manners.silent {
            return;
        }
        let Some(link) = self.link.as_mut().filter(|link| link.peer_open) else { return };
        link.tainted |= is_lie;
        let len = body.len();
        self.reply(Down::Data { body, honest: !is_lie, is_ack: false }, len);
    }

    fn behave(&mut self) {
        let silent = self.manners.silent;
        let withholds = self.manners.acks_late;
        self.manners = Manners::default();
        self.desk.refusals.clear();
        if withholds {
            self.ack(AckOp::Now);
        }
        self.go();
        if let Some(link) = self.link.as_mut().filter(|_| silent) {
            // It has not answered what it should have.
            link.tainted = true;
        }
    }

    fn client(&mut self, op: ClientOp) {
        match op {
            ClientOp::Start => self.say(Seen::Start, Event::Start),
            ClientOp::Stop => self.say(Seen::Stop, Event::Stop),
            ClientOp::Nudge => self.say(Seen::Nudge, Event::Nudge),
            ClientOp::Cancel(seq) => {
                let seq = Seq::new(seq);
                self.say(Seen::Cancel(seq), Event::Cancel(seq));
            }
            ClientOp::Close(micros) => {
                let deadline = self.told() + micros.into();
                self.say(Seen::Close { deadline }, Event::Close { deadline });
            }
            ClientOp::Snapshot => {
                self.whole_turn();
                self.store();
            }
            ClientOp::Crash => {
                self.see(Seen::Crashed);
                self.watch.dies(&self.client, &self.saved);
                let twice = self.life.is_some();
                self.judge_life();
                self.restore(twice);
            }
            ClientOp::Retire => {
                self.whole_turn();
                self.watch.end(&self.client);
                let twice = self.life.is_some();
                self.judge_life();
                let dialect = Watched::new(self.peer.dialect());
                let stub =
                    Client::new(self.config.clone(), dialect, Dice::new(Chance::Zeros, 0, 0));
                let Ok(stub) = stub else { unreachable!("the settings were checked") };
                self.saved = core::mem::replace(&mut self.client, stub).into_snapshot();
                self.see(Seen::Retired);
                self.restore(twice);
                // From now on what is in it may be transmitted, and such a snapshot says that.
                self.store();
            }
            ClientOp::Pause => self.pause(true),
            ClientOp::Resume => self.pause(false),
            ClientOp::Busy => self.busy = true,
            ClientOp::HalfDrain(outputs) => self.half = Some(outputs),
            ClientOp::Tick => self.say(Seen::Tick, Event::Tick),
        }
    }

    /// Stores a snapshot. A user who wants no message to come back from the dead does so whenever
    /// one has failed or made way for another.
    fn store(&mut self) {
        self.saved = self.client.outbox().snapshot();
        self.see(Seen::Snapshot);
    }

    fn pause(&mut self, paused: bool) {
        let Some(link) = self.link.as_mut().filter(|link| link.paused != paused) else { return };
        link.paused = paused;
        let attempt = link.attempt;
        if paused {
            self.say(Seen::Paused(attempt), Event::Paused(attempt));
        } else {
            self.say(Seen::Resumed(attempt), Event::Resumed(attempt));
        }
    }

    /// A new process goes on from the newest snapshot.
    fn restore(&mut self, twice: bool) {
        self.lives += 1;
        self.hang_up();
        if let Some(rest) = &mut self.rest {
            rest.attempt = Attempt::NONE;
        }
        self.newest_ping = None;
        self.old_ping = None;
        // The clock of a process may stand or run backwards, that of the world does not.
        self.clock.frozen_at = None;
        self.clock.behind = self.now.saturating_sub(self.latest);
        let dialect = Watched::new(self.peer.dialect());
        let dice = Dice::new(self.chance, self.seed, self.lives);
        let saved = self.saved.clone();
        if twice {
            let (config, dice, saved) = (self.config.clone(), dice.clone(), saved.clone());
            self.life = Some(Life::restored(config, dice, self.told(), saved));
        }
        match Client::restore(self.config.clone(), dialect, dice, self.told(), saved) {
            Ok(client) => {
                self.client = client;
                self.watch.lives(&self.client, &self.saved);
                let outbox = self.client.outbox().id();
                self.see(Seen::Restored { outbox });
                self.say(Seen::Start, Event::Start);
            }
            Err(error) => self.object(Statement::S14, &error.to_string()),
        }
    }

    fn clock(&mut self, op: ClockOp) {
        let told = self.clock.told(self.now);
        match op {
            ClockOp::Freeze => self.clock.frozen_at = Some(told),
            ClockOp::Run => {
                if self.clock.frozen_at.take().is_some() {
                    self.clock.behind = self.now.saturating_sub(told);
                }
            }
            ClockOp::Back(micros) => {
                let told = told.saturating_sub(micros.0);
                self.clock.behind = self.now.saturating_sub(told);
                self.clock.frozen_at = self.clock.frozen_at.map(|_| told);
            }
            ClockOp::Jump(micros) => {
                self.now = self.now.saturating_add(micros.0);
                self.clock.frozen_at = self.clock.frozen_at.map(|at| at.saturating_add(micros.0));
            }
        }
    }

    fn stale(&mut self, op: StaleOp) {
        let alive = match self.client.connection().state() {
            ConnectionState::Dialing { .. }
            | ConnectionState::Greeting { .. }
            | ConnectionState::Up { .. }
            | ConnectionState::Suspect { .. }
            | ConnectionState::Closing { .. } => true,
            ConnectionState::Idle
            | ConnectionState::Waiting { .. }
            | ConnectionState::Stopped { .. } => false,
        };
        let newest = self.client.connection().attempt();
        let dialing = self.dial.is_some_and(|(attempt, _)| attempt == newest);
        let before = Attempt::new(newest.get().saturating_sub(1));
        let late = |which| if which == Which::Newest && !alive { newest } else { before };
        // What means nothing before an attempt is open.
        let early = |which| if which == Which::Newest && dialing { newest } else { late(which) };
        match op {
            StaleOp::Opened(which) => self.say_opened(late(which)),
            StaleOp::OpenedTwice => {
                if self.link.is_some() {
                    self.say_opened(newest);
                }
            }
            StaleOp::Heard(which) => {
                let old = early(which);
                self.say(Seen::Heard(old), Event::Heard(old));
            }
            StaleOp::Took(which) => {
                let old = early(which);
                self.say(Seen::Took(old), Event::Took(old));
            }
            StaleOp::Flushed(which) => {
                let old = early(which);
                self.say(Seen::Flushed(old), Event::Flushed(old));
            }
            StaleOp::Paused(which) => {
                let old = early(which);
                self.say(Seen::Paused(old), Event::Paused(old));
            }
            StaleOp::Resumed(which) => {
                let old = early(which);
                self.say(Seen::Resumed(old), Event::Resumed(old));
            }
            StaleOp::Lost(which) => {
                let old = late(which);
                self.say(Seen::Lost(old, Loss::Io), Event::Lost(old, Loss::Io));
            }
            StaleOp::Pong(which) => {
                if let Some(ping) = self.newest_ping {
                    self.receive_pong(late(which), ping.payload(), None);
                }
            }
            StaleOp::Echo => {
                if let (Some(ping), Some(link)) = (self.old_ping, &self.link) {
                    let attempt = link.attempt;
                    self.receive_pong(attempt, ping.payload(), None);
                }
            }
            StaleOp::Ack(which) => {
                if let Some(body) = self.newest_ack.clone() {
                    let mut sink = Sink::default();
                    self.peer.dialect().decode(body.clone(), &mut sink);
                    self.watch.stale_signals(&self.client, self.told(), &sink.signals);
                    self.receive(late(which), body, true);
                }
            }
        }
    }

    /// The network and the peer do what they should; what they have spoiled ends.
    fn end_faults(&mut self) {
        let mute = self.toward.silent || self.back.silent;
        self.toward = Weather::default();
        self.back = Weather::default();
        let was_hanging = self.dialing.hangs;
        self.dialing = Dialing::default();
        if let Some((attempt, _)) = self.dial.filter(|_| was_hanging) {
            self.dial = Some((attempt, self.now.saturating_add(self.dialing.takes)));
        }
        if let Some((_, at)) = &mut self.dial {
            *at = (*at).min(self.now.saturating_add(Dialing::default().takes));
        }
        let no_pongs = self.manners.no_pongs;
        self.behave();
        if self.clock.frozen_at.is_some() {
            self.clock(ClockOp::Run);
        }
        self.busy = false;
        self.pause(false);
        let refusing = self.peer.is_refusing();
        let spoiled = self.link.as_ref().is_some_and(|link| {
            let whole = link.up.is_whole() && link.down.is_whole();
            !whole || link.tainted || !link.peer_open || no_pongs || mute || refusing
        });
        if spoiled {
            self.lose(Loss::Io);
        }
        self.rest = None;
        let stopped = matches!(self.client.status().phase, Phase::Stopped { .. } | Phase::Idle);
        if stopped && !self.client.outbox().is_closed() {
            self.say(Seen::Start, Event::Start);
        }
        self.whole_turn();
        self.see(Seen::Quiet { trip: TRIP });
    }
}

/// A round trip when the faults have ended.
const TRIP: Duration = Duration::from_millis(3);

/// How a message ends its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Killed {
    Poisoned,
    Accused,
}
