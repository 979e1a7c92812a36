//! The world of the model checker: the real client, a link, a peer, and what they have done.

use core::{convert::Infallible, time::Duration};
use std::{
    collections::VecDeque,
    hash::{Hash, Hasher},
};

use bowline_core::{
    Ack, Attempt, Backoff, Batch, Body, Client, ClientConfig, ConnectionConfig, ConnectionState,
    Dialect, Event, FailReason, Failed, Fate, Frame, Greeting, Instant, Jitter, Level, Link, Loss,
    MessageId, Nack, OnSuspected, Opened, OutboxConfig, OutboxId, OutboxState, Output, Ping,
    PushOptions, Received, Seq, Sink, Snapshot, Wire,
};
use rand_core::TryRng;

use super::{Acks, Scope, bit, named};
use crate::statement::Statement;

/// A client that never stops giving outputs is caught after this many.
const ENDLESS: u32 = 1_000;

/// Every duration is this long or twice as long, so that deadlines meet and the states stay few.
const SECOND: Duration = Duration::from_secs(1);

/// Charges that a head can pay.
pub(super) const RETRY_BUDGET: u32 = 1;

/// Deaths after which a head is settled as suspected.
const SUSPECT_LIMIT: u32 = 2;

/// What can happen next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// The application pushes its next message.
    Push,
    /// The application does not want this message any more.
    Cancel(usize),
    /// The application stores a snapshot.
    Save,
    /// The process dies, and another one starts from the stored snapshot.
    Crash,
    /// The application says stop.
    Stop,
    /// The application says start again.
    Start,
    /// The application closes the client.
    Close,
    /// The dial succeeds.
    Open,
    /// The dial fails.
    Refuse,
    /// One frame goes from the client into the socket.
    Write,
    /// The client is told that all of them were flushed.
    Flush,
    /// The peer takes the next frame, and answers it so.
    Take(Answer),
    /// The client hears the next frame.
    Hear,
    /// The connection dies, and nobody is told.
    Drop,
    /// The client is told that the connection ended.
    Tell {
        /// The peer blamed a message.
        accused: bool,
    },
    /// The time of the next deadline comes.
    Pass,
    /// The client is told the time.
    Tick,
    /// The peer takes so many frames, and what happens then is the end of the connection.
    Last(u8, Last),
}

/// What can end a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Last {
    /// [`Action::Cancel`]
    Cancel(usize),
    /// [`Action::Crash`]
    Crash,
    /// [`Action::Stop`]
    Stop,
    /// [`Action::Start`]
    Start,
    /// [`Action::Close`]
    Close,
    /// [`Action::Drop`]
    Drop,
    /// [`Action::Tell`]
    Tell,
    /// [`Action::Pass`]
    Pass,
    /// [`Action::Tick`]
    Tick,
}

impl Last {
    const fn of(action: Action) -> Option<Self> {
        Some(match action {
            Action::Cancel(index) => Self::Cancel(index),
            Action::Crash => Self::Crash,
            Action::Stop => Self::Stop,
            Action::Start => Self::Start,
            Action::Close => Self::Close,
            Action::Drop => Self::Drop,
            Action::Tell { accused: false } => Self::Tell,
            Action::Pass => Self::Pass,
            Action::Tick => Self::Tick,
            _ => return None,
        })
    }

    const fn action(self) -> Action {
        match self {
            Self::Cancel(index) => Action::Cancel(index),
            Self::Crash => Action::Crash,
            Self::Stop => Action::Stop,
            Self::Start => Action::Start,
            Self::Close => Action::Close,
            Self::Drop => Action::Drop,
            Self::Tell => Action::Tell { accused: false },
            Self::Pass => Action::Pass,
            Self::Tick => Action::Tick,
        }
    }
}

/// What the peer says to a message of level `Acked`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    /// What it should.
    Fair,
    /// It refuses the message for now, and all that comes behind it.
    Later,
    /// It refuses the message for good.
    Never,
    /// It takes it and says nothing any more on this connection.
    Silence,
}

/// How often something may still happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Budget {
    /// Attempts that end for other reasons than the peer's.
    pub drops: u8,
    /// Crashes, and snapshots for them.
    pub crashes: u8,
    /// Snapshots; a world gives itself as many as crashes.
    pub saves: u8,
    /// Messages that are cancelled.
    pub cancels: u8,
    /// Messages that are refused for now.
    pub nacks: u8,
    /// Messages that are refused for good.
    pub rejects: u8,
    /// Connections on which the peer withholds its acks.
    pub mutes: u8,
    /// Drops that blame a message.
    pub accusations: u8,
    /// Stops.
    pub stops: u8,
    /// Closes.
    pub closes: u8,
}

/// The same random number for ever.
#[derive(Clone, Debug)]
pub(super) struct Constant(u64);

impl TryRng for Constant {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0 as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.fill(self.0 as u8);
        Ok(())
    }
}

// ---- The dialect --------------------------------------------------------------------------------

const HELLO: &[u8] = b"hello";
const WELCOME: u8 = 0;
const ACK_NEXT: u8 = 1;
const ACK_ONE: u8 = 2;
const ACK_UP_TO: u8 = 3;
const LATER: u8 = 4;
const NEVER: u8 = 5;

/// A dialect with a greeting that is answered, every kind of ack, and frames that name the message.
#[derive(Clone, Debug)]
pub(super) struct Tiny {
    greets: bool,
}

impl Dialect for Tiny {
    type Message = Body;
    type Inbound = ();
    type Credentials = ();
    type Error = Infallible;

    const ACKS: bool = true;

    fn encode(message: Body) -> Result<Body, (Body, Infallible)> {
        Ok(message)
    }

    fn greet(&mut self, _: &Opened<()>) -> Greeting {
        if !self.greets {
            return Greeting::default();
        }
        Greeting { frames: vec![Body::binary(HELLO)], awaits_answer: true }
    }

    fn frame(&mut self, batch: Batch<'_>) -> (Body, usize) {
        let first = batch.first();
        let body = vec![
            first.body.as_bytes()[0],
            first.id.outbox.get() as u8,
            first.id.seq.get() as u8,
            batch.base().get() as u8,
        ];
        (Body::binary(body), 1)
    }

    fn decode(&mut self, body: Body, sink: &mut Sink<()>) {
        let bytes = body.as_bytes();
        let id = || MessageId { outbox: life(bytes[1].into()), seq: Seq::new(bytes[2].into()) };
        match bytes[0] {
            WELCOME => sink.greeted(),
            ACK_NEXT => sink.ack(Ack::Next),
            ACK_ONE => sink.ack(Ack::OneOf(id())),
            ACK_UP_TO => sink.ack(Ack::UpToOf(id())),
            LATER => sink.nack_from(id(), Nack::Transient),
            NEVER => sink.nack(Ack::OneOf(id()), Nack::Permanent),
            _ => sink.violation(),
        }
    }
}

/// The name of the outbox of the n-th process.
fn life(n: u64) -> OutboxId {
    OutboxId::draw(&mut Constant(n))
}

// ---- The link and the peer ------------------------------------------------------------------------

/// A frame on its way to the peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Up {
    Hello,
    Ping(Ping),
    Message { index: usize, seq: Seq, base: Seq },
}

/// A frame on its way to the client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Down {
    Pong(Ping),
    Frame { kind: u8, index: usize },
}

/// The newest attempt, as the network knows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Line {
    /// There is none, or both ends know that it is over.
    Gone,
    Dialing,
    Alive,
    /// The client has sent a Close.
    Closing,
    /// Dead; the client was not told.
    Cut,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Session {
    line: Line,
    up: VecDeque<Up>,
    down: VecDeque<Down>,
    unflushed: bool,
    /// The peer's answer to the greeting has reached the client.
    greeted: bool,
    /// The peer refuses all behind this one until it comes again.
    gap: Option<Seq>,
    mute: bool,
    /// The client has sent a ping.
    pinged: bool,
    /// The end of this attempt is the peer's doing.
    free: bool,
    /// Messages sent on this attempt, as bits, without those that were refused since.
    sent: u16,
    /// When the link last showed life.
    alive_at: Instant,
}

impl Session {
    fn new(line: Line, now: Instant) -> Self {
        Self {
            line,
            up: VecDeque::new(),
            down: VecDeque::new(),
            unflushed: false,
            greeted: false,
            gap: None,
            mute: false,
            pinged: false,
            free: false,
            sent: 0,
            alive_at: now,
        }
    }
}

/// What the peer has, whatever connection it came on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Ledger {
    /// Its library had it.
    heard: u16,
    /// Its application took it.
    taken: u16,
    /// Its application refused it for good.
    refused: u16,
    /// The last message whose first arrival was taken.
    newest: Option<usize>,
}

// ---- The book -------------------------------------------------------------------------------------

/// What became of a message, as far as the application was told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Outcome {
    Pending,
    Delivered,
    Failed,
    /// Pushed after the snapshot that was restored: nobody will ever know.
    Forgotten,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Note {
    name: MessageId,
    level: Level,
    outcome: Outcome,
    /// It was handed over in some life.
    handed: bool,
    /// It was cancelled while it had never been handed over.
    unsendable: bool,
    cancelled: bool,
    rejected: bool,
    /// It had failed since the snapshot that was restored, and is live again.
    revived: bool,
}

/// One state.
#[derive(Clone)]
pub struct World {
    client: Client<Tiny, Constant>,
    now: Instant,
    /// The last time that the client has seen.
    seen: Instant,
    /// The client was told the time since it last passed.
    told: bool,
    life: u64,
    session: Session,
    ledger: Ledger,
    notes: Vec<Note>,
    saved: Option<(Snapshot, Vec<Note>)>,
    /// Messages that were accepted in an earlier life.
    restored: u64,
    /// Deliveries that the application was not told of in an earlier life, less those that it was
    /// told of in this one.
    unreported: i64,
    left: Budget,
    /// Charges that the peer has given reason for in this life.
    chargeable: u8,
    stop_by: Option<Instant>,
    close_by: Option<Instant>,
    stopped: bool,
    broken: u64,
}

impl core::fmt::Debug for World {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("World")
            .field("now", &self.now)
            .field("connection", &self.client.connection().state())
            .field("outbox", &self.client.outbox().state())
            .field("session", &self.session)
            .field("ledger", &self.ledger)
            .field("notes", &self.notes)
            .field("left", &self.left)
            .field("broken", &named(self.broken))
            .finish_non_exhaustive()
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let ahead = |at: Instant| at.since(self.now);
        self.client.view().hash(state);
        self.unseen().hash(state);
        self.now.since(self.seen).hash(state);
        self.told.hash(state);
        self.life.hash(state);
        let Session { line, up, down, unflushed, greeted, gap, mute, pinged, free, sent, alive_at } =
            &self.session;
        (line, unflushed, greeted, gap, mute, pinged, free, sent).hash(state);
        // Of the attempt that a ping names, only that it is the newest matters.
        let unnamed = |ping: &Ping| Ping { attempt: Attempt::NONE, seq: ping.seq };
        state.write_usize(up.len());
        for frame in up {
            match frame {
                Up::Ping(ping) => Up::Ping(unnamed(ping)).hash(state),
                Up::Hello | Up::Message { .. } => frame.hash(state),
            }
        }
        state.write_usize(down.len());
        for frame in down {
            match frame {
                Down::Pong(ping) => Down::Pong(unnamed(ping)).hash(state),
                Down::Frame { .. } => frame.hash(state),
            }
        }
        (*line == Line::Cut).then(|| self.now.since(*alive_at)).hash(state);
        self.ledger.hash(state);
        self.notes.hash(state);
        self.saved.hash(state);
        (self.restored, self.left).hash(state);
        self.chargeable.hash(state);
        self.stop_by.map(ahead).hash(state);
        self.close_by.map(ahead).hash(state);
        (self.stopped, self.broken).hash(state);
    }
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        let digest = |world: &Self| {
            let mut hasher = std::hash::DefaultHasher::new();
            world.hash(&mut hasher);
            hasher.finish()
        };
        digest(self) == digest(other)
    }
}

impl World {
    /// A client that was started.
    pub fn new(scope: &Scope) -> Self {
        let left = Budget { saves: scope.budget.crashes, ..scope.budget };
        let rng = Constant(1);
        let client = match Client::new(scope.config(), Tiny { greets: scope.greets }, rng) {
            Ok(client) => client,
            Err(error) => panic!("the scope makes no client: {error}"),
        };
        let mut world = Self {
            client,
            now: Instant::ZERO,
            seen: Instant::ZERO,
            told: true,
            life: 1,
            session: Session::new(Line::Gone, Instant::ZERO),
            ledger: Ledger::default(),
            notes: Vec::new(),
            saved: None,
            restored: 0,
            unreported: 0,
            left,
            chargeable: 0,
            stop_by: None,
            close_by: None,
            stopped: false,
            broken: 0,
        };
        world.say(scope, Event::Start);
        world
    }

    /// The statements that were broken on the way here, as bits.
    pub fn broken(&self) -> u64 {
        self.broken
    }

    /// What the client and its application can tell of the state, and what the peer has once it takes
    /// nothing more on this connection.
    pub fn known(&self) -> impl Hash + use<> {
        let open = matches!(self.session.line, Line::Alive | Line::Closing);
        let ledger = (!open).then_some(self.ledger);
        (self.client.view(), self.notes.clone(), self.told, self.life, self.broken, ledger)
    }

    /// Whether every message has its outcome, or will never have one for a good reason.
    pub fn is_done(&self) -> bool {
        let settled = self.notes.iter().all(|note| note.outcome != Outcome::Pending);
        let over = self.close_by.is_none() || self.client.is_over();
        settled && over || self.stopped && self.close_by.is_none()
    }

    /// What the view leaves out because it only counts, and what is checked here all the same.
    fn unseen(&self) -> (u64, u64, i64) {
        let stats = self.client.outbox().stats();
        let settled = stats.delivered + stats.failed.iter().sum::<u64>();
        let balance = (settled + self.live()).wrapping_sub(stats.accepted);
        (stats.charges, balance, self.unreported + stats.delivered as i64)
    }

    fn live(&self) -> u64 {
        (self.client.outbox().queued() + self.client.outbox().in_flight().messages) as u64
    }

    fn pending(&self) -> u64 {
        self.notes.iter().filter(|note| note.outcome == Outcome::Pending).count() as u64
    }

    // ---- Actions ----------------------------------------------------------------------------------

    /// Everything that can happen now.
    pub fn actions(&self, scope: &Scope, actions: &mut Vec<Action>) {
        let Budget { drops, crashes, saves, cancels, nacks, rejects, mutes, .. } = self.left;
        let alive = self.session.line == Line::Alive;
        self.healthy(scope, actions);
        if self.session.line != Line::Gone && self.session.line != Line::Dialing {
            if !scope.late && self.takes() {
                actions.push(Action::Take(Answer::Fair));
                if self.answers_next() {
                    let kinds = [
                        (nacks, Answer::Later),
                        (rejects, Answer::Never),
                        (mutes, Answer::Silence),
                    ];
                    actions.extend(
                        kinds.iter().filter(|(left, _)| *left > 0).map(|(_, a)| Action::Take(*a)),
                    );
                }
            }
            if self.can_hear(scope) {
                actions.push(Action::Hear);
            }
        }
        if self.session.line == Line::Dialing && drops > 0 {
            actions.push(Action::Refuse);
        }
        if alive && drops > 0 {
            actions.push(Action::Drop);
        }
        if self.session.line == Line::Cut && self.left.accusations > 0 {
            actions.push(Action::Tell { accused: true });
        }
        if !self.told {
            actions.push(Action::Tick);
        } else if self.can_pass(scope) {
            actions.push(Action::Pass);
        }
        if self.notes.len() < scope.messages && !self.client.outbox().is_closed() {
            actions.push(Action::Push);
        }
        if cancels > 0 {
            let pending = |(_, note): &(usize, &Note)| note.outcome == Outcome::Pending;
            let indexes = self.notes.iter().enumerate().filter(pending).map(|(index, _)| index);
            actions.extend(indexes.map(Action::Cancel));
        }
        if saves > 0 {
            actions.push(Action::Save);
        }
        if crashes > 0 && self.saved.is_some() {
            actions.push(Action::Crash);
        }
        if self.left.stops > 0 {
            actions.push(Action::Stop);
        }
        if self.stopped && self.is_stopped() && !self.client.outbox().is_closed() {
            actions.push(Action::Start);
        }
        if self.left.closes > 0 {
            actions.push(Action::Close);
        }
        if scope.late && self.takes() {
            let lasts: Vec<Last> = actions.iter().copied().filter_map(Last::of).collect();
            for last in lasts {
                if self.is_last(scope, last) {
                    let frames = u8::try_from(self.session.up.len()).unwrap_or(u8::MAX);
                    actions.extend((1..=frames).map(|frames| Action::Last(frames, last)));
                }
            }
        }
        let mut seen = 0;
        for at in 0..actions.len() {
            if !actions[..seen].contains(&actions[at]) {
                actions.swap(seen, at);
                seen += 1;
            }
        }
        actions.truncate(seen);
    }

    /// What happens by itself where nothing is at fault: frames arrive, the peer answers, and time
    /// passes when there is nothing else.
    pub fn healthy(&self, scope: &Scope, actions: &mut Vec<Action>) {
        match self.session.line {
            Line::Dialing => actions.push(Action::Open),
            Line::Cut | Line::Closing => actions.push(Action::Tell { accused: false }),
            Line::Alive => {
                if scope.stepwise && self.owes_frame() {
                    actions.push(Action::Write);
                } else if self.session.unflushed {
                    actions.push(Action::Flush);
                }
                if !scope.late && !self.session.up.is_empty() {
                    actions.push(Action::Take(Answer::Fair));
                }
                if self.can_hear(scope) {
                    actions.push(Action::Hear);
                }
            }
            Line::Gone => {}
        }
        if actions.is_empty() {
            if !self.told {
                actions.push(Action::Tick);
            } else if self.can_pass(scope) {
                actions.push(Action::Pass);
            }
        }
    }

    /// Whether there is a frame for the peer to take.
    fn takes(&self) -> bool {
        let open = matches!(self.session.line, Line::Alive | Line::Closing);
        open && !self.session.up.is_empty()
    }

    /// Whether there is an answer for the client to hear, or will be once the peer takes its frames.
    fn can_hear(&self, scope: &Scope) -> bool {
        let is_answered = |frame: &Up| match *frame {
            Up::Hello | Up::Ping(_) => true,
            Up::Message { index, .. } => self.notes[index].level == Level::Acked,
        };
        !self.session.down.is_empty()
            || scope.late && self.takes() && self.session.up.iter().any(is_answered)
    }

    /// Whether after this the peer takes nothing more of what is on its way now.
    fn is_last(&self, scope: &Scope, last: Last) -> bool {
        self.next(scope, last.action()).is_some_and(|next| {
            let open = matches!(next.session.line, Line::Alive | Line::Closing);
            !open || next.life != self.life || next.attempt() != self.attempt()
        })
    }

    /// Whether the next frame is one that the peer may answer in several ways.
    fn answers_next(&self) -> bool {
        match self.session.up.front() {
            Some(&Up::Message { index, .. }) => {
                self.notes[index].level == Level::Acked
                    && !self.session.mute
                    && self.session.gap.is_none()
                    && (self.ledger.taken | self.ledger.refused) & 1 << index == 0
                    && self.session.line == Line::Alive
            }
            Some(Up::Hello | Up::Ping(_)) | None => false,
        }
    }

    fn owes_frame(&self) -> bool {
        matches!(self.client.clone().poll(Wire::Ready), Output::Send(..))
    }

    /// Time passes only to a deadline, and not to one that ends more attempts than may end.
    fn can_pass(&self, scope: &Scope) -> bool {
        let Some(deadline) = self.client.deadline() else { return false };
        if deadline.at <= self.now {
            return false;
        }
        if self.left.drops > 0 || matches!(self.session.line, Line::Cut | Line::Closing) {
            return true;
        }
        let mut later = self.clone();
        later.now = deadline.at;
        later.say(scope, Event::Tick);
        later.losses() == self.losses() || self.session.free
    }

    fn losses(&self) -> u64 {
        self.client.connection().stats().losses.iter().sum()
    }

    /// The state after an action; none if it would take what is not left.
    pub fn next(&self, scope: &Scope, action: Action) -> Option<Self> {
        let mut world = self.clone();
        let line = world.session.line;
        match action {
            Action::Push => world.push(scope),
            Action::Cancel(index) => {
                world.left.cancels -= 1;
                world.cancel(scope, index);
            }
            Action::Save => {
                world.left.saves -= 1;
                world.saved = Some((world.client.outbox().snapshot(), world.notes.clone()));
            }
            Action::Crash => {
                world.left.crashes -= 1;
                world.crash(scope);
                return Some(world);
            }
            Action::Stop => {
                world.left.stops -= 1;
                world.stop(scope);
            }
            Action::Start => {
                world.stopped = false;
                world.stop_by = None;
                world.say(scope, Event::Start);
            }
            Action::Close => {
                world.left.closes -= 1;
                world.close_by = Some(world.now + 2 * SECOND);
                world.say(scope, Event::Close { deadline: world.now + 2 * SECOND });
            }
            Action::Open => {
                world.session.line = Line::Alive;
                world.session.alive_at = world.now;
                world.session.greeted = !scope.greets;
                let attempt = world.attempt();
                world.say(scope, Event::Opened(Opened::new(attempt, ())));
            }
            Action::Refuse => {
                world.session.line = Line::Gone;
                let attempt = world.attempt();
                world.say(scope, Event::Lost(attempt, Loss::Connect));
            }
            Action::Write => world.write(scope),
            Action::Flush => world.flush(scope),
            Action::Take(answer) => world.take(scope, answer),
            Action::Hear => {
                while world.session.down.is_empty() && world.takes() {
                    world.take(scope, Answer::Fair);
                }
                world.hear(scope);
            }
            Action::Last(frames, last) => {
                for _ in 0..frames {
                    world.take(scope, Answer::Fair);
                }
                return world.next(scope, last.action());
            }
            Action::Drop => {
                world.left.drops -= 1;
                world.cut();
            }
            Action::Tell { accused } => {
                world.left.accusations -= u8::from(accused);
                world.session.line = Line::Gone;
                // Only a message that is alone in flight can be charged, so this is once at most.
                world.chargeable += u8::from(accused);
                let code = if accused { 1007 } else { 1000 };
                let attempt = world.attempt();
                world.say(scope, Event::Lost(attempt, Loss::Closed { code: Some(code) }));
            }
            Action::Pass => {
                world.now = world.client.deadline().map_or(world.now, |deadline| deadline.at);
                world.told = false;
                if scope.prompt {
                    world.say(scope, Event::Tick);
                }
            }
            Action::Tick => world.say(scope, Event::Tick),
        }
        let ended = world.losses() > self.losses();
        if ended && !matches!(line, Line::Cut | Line::Closing) && !self.session.free {
            world.left.drops = world.left.drops.checked_sub(1)?;
        }
        Some(world)
    }

    fn attempt(&self) -> Attempt {
        self.client.connection().attempt()
    }

    fn cut(&mut self) {
        self.session.line = Line::Cut;
        self.session.up.clear();
        self.session.alive_at = self.now;
    }

    /// Tells the client something, and does what it wants done.
    fn say(&mut self, scope: &Scope, event: Event<()>) {
        // Commands and the time are followed by a look at the clock; what a socket says is not.
        let looks = !matches!(
            event,
            Event::Opened(_)
                | Event::Heard(_)
                | Event::Took(_)
                | Event::Flushed(_)
                | Event::Paused(_)
                | Event::Resumed(_)
                | Event::Lost(..)
        );
        self.told |= looks;
        self.client.handle(self.now, event);
        self.drain(scope, looks);
    }

    fn push(&mut self, scope: &Scope) {
        let index = self.notes.len();
        let level = scope.levels[index % scope.levels.len()];
        let options = PushOptions { level: Some(level), ..PushOptions::default() };
        let name = MessageId { outbox: life(self.life), seq: self.client.outbox().next_seq() };
        let body = Body::binary(vec![index as u8]);
        match self.client.push(self.now, body, options) {
            Ok(pushed) => self.expect(Statement::S9, pushed.seq == name.seq),
            Err(_) => self.expect(Statement::S9, false),
        }
        self.notes.push(Note {
            name,
            level,
            outcome: Outcome::Pending,
            handed: false,
            unsendable: false,
            cancelled: false,
            rejected: false,
            revived: false,
        });
        self.drain(scope, false);
    }

    fn cancel(&mut self, scope: &Scope, index: usize) {
        self.notes[index].cancelled = true;
        self.notes[index].unsendable = !self.notes[index].handed;
        self.say(scope, Event::Cancel(self.notes[index].name.seq));
    }

    fn stop(&mut self, scope: &Scope) {
        self.stop_by.get_or_insert(self.now + SECOND);
        self.stopped = true;
        self.say(scope, Event::Stop);
    }

    fn crash(&mut self, scope: &Scope) {
        let Some((snapshot, notes)) = self.saved.clone() else { return };
        self.life += 1;
        let dialect = Tiny { greets: scope.greets };
        let rng = Constant(self.life);
        let restored = Client::restore(scope.config(), dialect, rng, self.now, snapshot);
        self.client = match restored {
            Ok(client) => client,
            Err(error) => panic!("a snapshot cannot be restored: {error}"),
        };
        self.session = Session::new(Line::Gone, self.now);
        let saved = notes.len();
        for (note, before) in self.notes.iter_mut().zip(notes) {
            let revived = note.outcome == Outcome::Failed && before.outcome == Outcome::Pending;
            *note = Note { handed: note.handed, revived, ..before };
        }
        for note in &mut self.notes[saved..] {
            if note.outcome == Outcome::Pending {
                note.outcome = Outcome::Forgotten;
            }
        }
        self.restored = self.live();
        self.unreported = self.pending() as i64 - self.live() as i64;
        self.chargeable = 0;
        self.stop_by = None;
        self.close_by = None;
        self.stopped = false;
        self.told = true;
        self.say(scope, Event::Start);
    }

    // ---- The peer ---------------------------------------------------------------------------------

    fn take(&mut self, scope: &Scope, answer: Answer) {
        let Some(frame) = self.session.up.pop_front() else { return };
        self.session.alive_at = self.now;
        match frame {
            Up::Hello => self.reply(WELCOME, 0),
            Up::Ping(ping) => self.session.down.push_back(Down::Pong(ping)),
            Up::Message { index, seq, base } => self.receive(scope, index, seq, base, answer),
        }
    }

    fn reply(&mut self, kind: u8, index: usize) {
        self.session.down.push_back(Down::Frame { kind, index });
    }

    fn receive(&mut self, scope: &Scope, index: usize, seq: Seq, base: Seq, answer: Answer) {
        let bit = 1 << index;
        let acked = self.notes[index].level == Level::Acked;
        if scope.lies {
            return;
        }
        if scope.poison == Some(index) {
            self.session.free = true;
            return self.cut();
        }
        self.ledger.heard |= bit;
        if self.session.gap.is_some_and(|gap| seq != gap && base <= gap) {
            return;
        }
        self.session.gap = None;
        if acked && self.ledger.refused & bit != 0 {
            return self.reply(NEVER, index);
        }
        match answer {
            Answer::Later => {
                self.left.nacks -= 1;
                self.session.gap = Some(seq);
                return self.reply(LATER, index);
            }
            Answer::Never => {
                self.left.rejects -= 1;
                self.ledger.refused |= bit;
                return self.reply(NEVER, index);
            }
            Answer::Silence => {
                self.left.mutes -= 1;
                self.session.mute = true;
                self.session.free = true;
                self.chargeable += 1;
            }
            Answer::Fair => {}
        }
        if self.ledger.taken & bit == 0 {
            let later = self.ledger.newest.is_none_or(|newest| newest < index);
            self.expect(Statement::S4, later || self.notes[index].revived);
            self.ledger.newest = self.ledger.newest.max(Some(index));
        }
        self.ledger.taken |= bit;
        if acked && !self.session.mute {
            self.reply(
                match scope.acks {
                    Acks::Positional => ACK_NEXT,
                    Acks::Single => ACK_ONE,
                    Acks::Cumulative => ACK_UP_TO,
                },
                index,
            );
        }
    }

    fn hear(&mut self, scope: &Scope) {
        let Some(frame) = self.session.down.pop_front() else { return };
        self.session.alive_at = self.now;
        let attempt = self.attempt();
        let received = match frame {
            Down::Pong(ping) => Received::Pong(ping.payload().to_vec().into()),
            Down::Frame { kind, index } => {
                let name = self.notes.get(index).map(|note| note.name);
                match kind {
                    WELCOME => self.session.greeted = true,
                    LATER => {
                        self.chargeable += 1;
                        for (at, note) in self.notes.iter().enumerate() {
                            if name.is_some_and(|name| note.name.seq >= name.seq) {
                                self.session.sent &= !(1 << at);
                            }
                        }
                    }
                    NEVER => self.notes[index].rejected = true,
                    _ => {}
                }
                let (outbox, seq) =
                    name.map_or((0, 0), |name| (name.outbox.get() as u8, name.seq.get() as u8));
                Received::Data(Body::binary(vec![kind, outbox, seq]))
            }
        };
        let _ = self.client.receive(self.now, attempt, received);
        self.drain(scope, false);
    }

    // ---- Outputs ----------------------------------------------------------------------------------

    fn expect(&mut self, statement: Statement, holds: bool) {
        if !holds {
            self.broken |= bit(statement);
        }
    }

    fn write(&mut self, scope: &Scope) {
        if let Output::Send(attempt, frame) = self.client.poll(Wire::Ready) {
            self.sent(scope, attempt, frame);
        }
        self.drain(scope, false);
    }

    fn flush(&mut self, scope: &Scope) {
        self.session.unflushed = false;
        let attempt = self.attempt();
        self.say(scope, Event::Flushed(attempt));
    }

    /// Does everything that the client wants done, and looks at the state that it comes to.
    fn drain(&mut self, scope: &Scope, looked: bool) {
        self.seen = self.now;
        self.outputs(scope, looked);
        if !scope.stepwise && self.session.unflushed {
            self.session.unflushed = false;
            let attempt = self.attempt();
            self.client.handle(self.now, Event::Flushed(attempt));
            self.outputs(scope, looked);
        }
        if !scope.stepwise && matches!(self.session.line, Line::Alive | Line::Cut) {
            self.expect(Statement::L7, !self.waits_unasked());
        }
        self.look(scope, looked);
    }

    /// Whether messages wait on a link that is up, though nothing was sent on it that could be
    /// answered, and no refusal holds them back.
    fn waits_unasked(&self) -> bool {
        let outbox = self.client.outbox();
        let up = self.client.connection().link() == Link::Up(self.attempt());
        let held = matches!(outbox.state(), OutboxState::Held { .. });
        let asked = self.session.pinged || self.session.sent != 0;
        up && outbox.queued() > 0 && !held && !asked
    }

    fn outputs(&mut self, scope: &Scope, looked: bool) {
        for _ in 0..ENDLESS {
            let writable = matches!(self.session.line, Line::Alive | Line::Cut);
            let wire = if writable && !scope.stepwise { Wire::Ready } else { Wire::Blocked };
            match self.client.poll(wire) {
                Output::Dial(attempt) => {
                    self.expect(Statement::S13, !self.is_stopped());
                    self.expect(Statement::S12, attempt == self.attempt());
                    self.session = Session::new(Line::Dialing, self.now);
                }
                Output::Abort(attempt) => {
                    self.expect(Statement::S12, attempt == self.attempt());
                    self.session.line = Line::Gone;
                }
                Output::Close(attempt, _) => {
                    self.expect(Statement::S12, attempt == self.attempt());
                    self.stop_by.get_or_insert(self.now + SECOND);
                    if self.session.line == Line::Alive {
                        self.session.line = Line::Closing;
                    }
                }
                Output::Send(attempt, frame) => self.sent(scope, attempt, frame),
                Output::Delivered { first, last } => {
                    for seq in first.get()..=last.get() {
                        self.delivered(Seq::new(seq));
                    }
                }
                Output::Failed(failed) => self.failed(scope, &failed),
                Output::Status(_) => {}
                Output::WaitUntil(deadline) => {
                    let later = deadline.is_none_or(|deadline| deadline.at > self.now);
                    self.expect(Statement::L6, later || !looked);
                    return;
                }
            }
        }
        self.expect(Statement::L6, false);
    }

    fn is_stopped(&self) -> bool {
        matches!(self.client.connection().state(), ConnectionState::Stopped { .. })
    }

    fn sent(&mut self, scope: &Scope, attempt: Attempt, frame: Frame) {
        let open = matches!(self.session.line, Line::Alive | Line::Cut);
        self.expect(Statement::S10, open && attempt == self.attempt());
        self.expect(Statement::S13, !self.is_stopped());
        self.session.unflushed = true;
        let up = match frame {
            Frame::Ping(ping) => {
                self.expect(Statement::S10, self.session.greeted);
                self.session.pinged = true;
                Up::Ping(ping)
            }
            Frame::Data(body) if body.as_bytes()[..] == *HELLO => Up::Hello,
            Frame::Data(body) => {
                let bytes = body.as_bytes();
                let index = usize::from(bytes[0]);
                let name =
                    MessageId { outbox: life(bytes[1].into()), seq: Seq::new(bytes[2].into()) };
                self.transmitted(index, name);
                Up::Message { index, seq: name.seq, base: Seq::new(bytes[3].into()) }
            }
        };
        // What goes into a dead socket goes nowhere.
        if self.session.line == Line::Alive {
            self.session.up.push_back(up);
        }
        let in_flight = self.client.outbox().in_flight();
        self.expect(Statement::R1, in_flight.messages <= scope.window);
    }

    fn transmitted(&mut self, index: usize, name: MessageId) {
        let bit = 1 << index;
        let note = self.notes[index];
        let link = self.client.connection().link() == Link::Up(self.attempt());
        self.expect(Statement::S10, self.session.greeted && link);
        self.expect(Statement::S14, note.name == name);
        self.expect(Statement::S15, !note.unsendable);
        self.expect(Statement::S2, note.outcome == Outcome::Pending);
        self.expect(Statement::S6, self.session.sent & bit == 0);
        // Every earlier message that is not settled was sent on this attempt.
        let skips = self.notes[..index]
            .iter()
            .enumerate()
            .any(|(at, note)| note.outcome == Outcome::Pending && self.session.sent & 1 << at == 0);
        self.expect(Statement::S5, !skips);
        self.session.sent |= bit;
        self.notes[index].handed = true;
    }

    fn delivered(&mut self, seq: Seq) {
        let found = self
            .notes
            .iter()
            .position(|note| note.name.seq == seq && note.outcome == Outcome::Pending);
        let Some(index) = found else { return self.expect(Statement::S2, false) };
        let note = self.notes[index];
        let there = match note.level {
            Level::Written => note.handed,
            Level::Received => self.ledger.heard & 1 << index != 0,
            Level::Acked => self.ledger.taken & 1 << index != 0,
        };
        self.expect(Statement::S3, there);
        self.notes[index].outcome = Outcome::Delivered;
        self.unreported -= 1;
    }

    fn failed(&mut self, scope: &Scope, failed: &Failed) {
        let found = self
            .notes
            .iter()
            .position(|note| note.name == failed.id && note.outcome == Outcome::Pending);
        let Some(index) = found else { return self.expect(Statement::S2, false) };
        let note = self.notes[index];
        self.expect(Statement::S1, failed.body.as_bytes()[..] == [index as u8]);
        self.expect(Statement::S8, failed.fate == Fate::MaybeDelivered || !note.handed);
        match failed.reason {
            FailReason::Cancelled => self.expect(Statement::S2, note.cancelled),
            FailReason::Rejected => self.expect(Statement::S7, note.rejected),
            FailReason::Returned => self.expect(Statement::L5, self.close_by.is_some()),
            FailReason::Exhausted => {
                self.expect(Statement::X1, u32::from(self.chargeable) > RETRY_BUDGET);
            }
            FailReason::Suspected => self.expect(Statement::X4, scope.poison == Some(index)),
            FailReason::Expired => self.expect(Statement::S2, false),
        }
        self.notes[index].outcome = Outcome::Failed;
    }

    // ---- What holds in every state ------------------------------------------------------------------

    fn look(&mut self, scope: &Scope, looked: bool) {
        let outbox = self.client.outbox();
        let (_, balance, unreported) = self.unseen();
        let conserved = balance == self.restored;
        let known = self.live() as i64 + unreported == self.pending() as i64;
        let (slots, timers) = outbox.footprint();
        let bounded = outbox.held().messages <= scope.messages
            && outbox.in_flight().messages <= scope.window
            && slots <= 2 * scope.messages + 64
            && timers <= 2 * scope.messages + 64;
        let charges =
            outbox.charges() <= RETRY_BUDGET && outbox.stats().charges <= self.chargeable.into();
        let state = self.client.connection().state();
        let deadline = self.client.deadline();
        // What was heard may have uncovered a deadline that is over.
        self.told &= deadline.is_none_or(|deadline| deadline.at > self.now);
        let past = |by: Option<Instant>| looked && by.is_some_and(|by| by <= self.now);
        let drained = !past(self.close_by) || outbox.is_settled();
        let stopped = !past(self.stop_by) || self.is_stopped();
        let found = self.session.line != Line::Cut
            || !looked
            || self.now.since(self.session.alive_at) <= 3 * SECOND;
        let stops = self.is_stopped() && !self.stopped && self.close_by.is_none();

        self.expect(Statement::S1, conserved && known);
        self.expect(Statement::R1, bounded);
        self.expect(Statement::X1, charges);
        self.expect(Statement::X5, !stops);
        self.expect(Statement::S13, !self.is_stopped() || deadline.is_none());
        let idle = matches!(state, ConnectionState::Idle | ConnectionState::Stopped { .. });
        self.expect(Statement::L3, idle || deadline.is_some());
        self.expect(Statement::L4, found);
        self.expect(Statement::L5, drained && stopped);
    }

    // ---- What every state answers -------------------------------------------------------------------

    /// S11: events of an attempt that is not the newest change nothing.
    pub fn stale_events_change_nothing(&self) -> bool {
        if !self.told {
            return true;
        }
        let newest = self.attempt();
        let old = Attempt::new(newest.get().wrapping_sub(1));
        let next = Attempt::new(newest.get() + 1);
        [old, next].into_iter().all(|a| {
            let events = [
                Event::Opened(Opened::new(a, ())),
                Event::Heard(a),
                Event::Took(a),
                Event::Flushed(a),
                Event::Paused(a),
                Event::Resumed(a),
                Event::Lost(a, Loss::Eof),
            ];
            let last = Seq::new(self.client.outbox().next_seq().get() - 1);
            let ping = Ping { attempt: a, seq: last }.payload().to_vec();
            let ack =
                |kind| Received::Data(Body::binary(vec![kind, self.life as u8, last.get() as u8]));
            let frames =
                [Received::Pong(ping.clone().into()), ack(ACK_NEXT), ack(ACK_UP_TO), ack(LATER)];
            events.into_iter().all(|event| self.ignores(|client, now| client.handle(now, event)))
                && frames.into_iter().all(|frame| {
                    self.ignores(|client, now| {
                        client.receive(now, a, frame);
                    })
                })
        })
    }

    /// S7: acks that no honest peer can give change nothing.
    pub fn illegal_acks_change_nothing(&self) -> bool {
        // Any frame says that the peer lives, so the outbox is asked alone.
        let outbox = self.client.outbox();
        let unsent = |note: &&Note| {
            note.outcome == Outcome::Pending && !note.handed && note.name.outbox == life(self.life)
        };
        let first = self.notes.iter().find(unsent).map_or(outbox.next_seq(), |note| note.name.seq);
        let a = self.attempt();
        let acks = [first, outbox.next_seq(), Seq::new(u64::MAX), Seq::new(0)]
            .into_iter()
            .flat_map(|seq| [Ack::One(seq), Ack::UpTo(seq)]);
        acks.into_iter().all(|ack| {
            use bowline_core::OutboxEvent::{Acked, Nacked};
            [Acked(a, ack), Nacked(a, ack, Nack::Permanent), Nacked(a, ack, Nack::Transient)]
                .into_iter()
                .all(|event| {
                    let mut asked = outbox.clone();
                    asked.handle(self.now, event);
                    let mut unasked = outbox.clone();
                    unasked.handle(self.now, bowline_core::OutboxEvent::Tick);
                    asked.view() == unasked.view()
                })
        })
    }

    /// S9: a push that is refused changes nothing.
    pub fn a_refused_push_changes_nothing(&self) -> bool {
        !self.told
            || self.ignores(|client, now| {
                let refused = client.push(now, Body::binary(vec![0; 9]), PushOptions::default());
                assert!(refused.is_err_and(|refused| refused.body.len() == 9));
            })
    }

    /// D5: a tick before its time changes nothing.
    pub fn a_spurious_tick_changes_nothing(&self) -> bool {
        !self.told || self.ignores(|client, now| client.handle(now, Event::Tick))
    }

    /// X5: whatever the connection does, a message can be cancelled, and the connection goes on.
    pub fn a_message_can_be_cancelled_in_every_state(&self) -> bool {
        self.notes.iter().all(|note| {
            // One that is delivered may have to wait for its report.
            let (.., unreported) = self.unseen();
            if note.outcome != Outcome::Pending || unreported > 0 {
                return true;
            }
            let mut client = self.client.clone();
            client.handle(self.now, Event::Cancel(note.name.seq));
            let went_on = self.told
                && client.connection().state() != self.client.connection().state()
                && !client.outbox().is_closed();
            let mut failed = 0;
            for _ in 0..ENDLESS {
                match client.poll(Wire::Blocked) {
                    Output::Failed(message) if message.reason == FailReason::Cancelled => {
                        failed += u32::from(message.id == note.name);
                    }
                    Output::WaitUntil(_) => break,
                    Output::Failed(_)
                    | Output::Dial(_)
                    | Output::Send(..)
                    | Output::Close(..)
                    | Output::Abort(_)
                    | Output::Delivered { .. }
                    | Output::Status(_) => {}
                }
            }
            failed == 1 && !went_on
        })
    }

    /// S13, L5: whatever the client does, a stop ends it in time.
    pub fn a_stop_ends_it_in_every_state(&self) -> bool {
        let mut client = self.client.clone();
        client.handle(self.now, Event::Stop);
        match client.connection().state() {
            ConnectionState::Stopped { .. } => client.connection().deadline().is_none(),
            ConnectionState::Closing { cut_at } => {
                client.handle(cut_at, Event::Tick);
                let stopped =
                    matches!(client.connection().state(), ConnectionState::Stopped { .. });
                cut_at <= self.now + SECOND && stopped
            }
            ConnectionState::Idle
            | ConnectionState::Dialing { .. }
            | ConnectionState::Greeting { .. }
            | ConnectionState::Up { .. }
            | ConnectionState::Suspect { .. }
            | ConnectionState::Waiting { .. } => false,
        }
    }

    fn ignores(&self, input: impl FnOnce(&mut Client<Tiny, Constant>, Instant)) -> bool {
        let mut client = self.client.clone();
        input(&mut client, self.now);
        let quiet = matches!(client.poll(Wire::Blocked), Output::WaitUntil(_));
        quiet && client.view() == self.client.view()
    }
}

impl Scope {
    fn config(&self) -> ClientConfig {
        ClientConfig {
            connection: ConnectionConfig {
                dial_limit: SECOND,
                greeting_limit: SECOND,
                ping_interval: SECOND,
                pong_limit: SECOND,
                write_limit: SECOND,
                close_limit: SECOND,
                stable_after: 2 * SECOND,
                nudge_floor: SECOND,
                backoff: Backoff {
                    base: SECOND,
                    cap: SECOND,
                    jitter: Jitter::None,
                    ..Backoff::default()
                },
                ..ConnectionConfig::default()
            },
            outbox: OutboxConfig {
                max_messages: self.messages,
                max_bytes: self.messages,
                max_message_bytes: 1,
                window_messages: self.window_of_client.unwrap_or(self.window),
                window_bytes: self.window_of_client.unwrap_or(self.window),
                retry_budget: RETRY_BUDGET,
                suspect_limit: SUSPECT_LIMIT,
                on_suspected: if self.poison.is_some() && !self.waits {
                    OnSuspected::Settle
                } else {
                    OnSuspected::Wait
                },
                ack_limit: SECOND,
                nack_delay: SECOND,
                nack_delay_cap: SECOND,
                ..OutboxConfig::default()
            },
        }
    }
}
