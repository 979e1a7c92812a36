//! The composition: frames in, frames out.
//!
//! A [`Client`] owns a [`Connection`], an [`Outbox`] and a [`Dialect`], and holds no retry logic
//! of its own. It passes each input to whom it concerns, carries the two arrows between the
//! machines (`Client::relay`, the only place where they meet), and offers what the machines owe
//! in one order: dial, abort, close; settlements; status; greeting and reply; ping; beat; data.

use alloc::{collections::VecDeque, vec::Vec};
use core::time::Duration;

use rand_core::Rng;

use crate::{
    Wire,
    config::ConfigError,
    connection::{
        Connection, ConnectionConfig, ConnectionEvent, ConnectionOutput, ConnectionState,
        ConnectionStats, ConnectionView, Link, StopReason,
    },
    dialect::{Body, Dialect, Frame, Opened, Received, Signal, Sink},
    loss::Loss,
    outbox::{
        Amount, Failed, Outbox, OutboxConfig, OutboxEvent, OutboxId, OutboxOutput, OutboxStats,
        OutboxView, Ping, PushError, PushOptions, Pushed, RestoreError, Seq, Snapshot,
    },
    time::{Attempt, Deadline, Instant, Timer},
};

/// The shortest interval of a dialect's beat.
const SHORTEST_BEAT: Duration = Duration::from_millis(1);

/// The settings of both machines.
///
/// Three settings of the outbox follow from elsewhere and are overwritten:
/// `receipt_repeat_interval` is the connection's `ping_interval`, `can_ping` is the connection's,
/// and `can_ack` is [`Dialect::ACKS`].
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ClientConfig {
    /// Machine 1.
    pub connection: ConnectionConfig,
    /// Machine 2.
    pub outbox: OutboxConfig,
}

impl ClientConfig {
    /// The settings of the outbox of a client with dialect `D`.
    fn outbox_for<D: Dialect>(&self) -> OutboxConfig {
        OutboxConfig {
            receipt_repeat_interval: self.connection.ping_interval,
            can_ping: self.connection.can_ping,
            can_ack: D::ACKS,
            ..self.outbox.clone()
        }
    }

    /// Checks the settings of both machines, as a client with dialect `D` would use them.
    ///
    /// # Errors
    /// Names the first field that is out of its range.
    pub fn validate<D: Dialect>(&self) -> Result<(), ConfigError> {
        self.connection.validate()?;
        self.outbox_for::<D>().validate()
    }
}

/// What happens to a client. I/O events name their attempt; frames of the peer come through
/// [`Client::receive`], messages through [`Client::push`].
#[derive(Clone)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Event<C> {
    /// Connect, or connect again after `Stopped`.
    Start,
    /// The transport is open: the upgrade succeeded.
    Opened(Opened<C>),
    /// Bytes came from the peer; they need not be a whole frame.
    Heard(Attempt),
    /// The socket took bytes.
    Took(Attempt),
    /// Everything handed over so far was flushed to the socket. May be said again.
    Flushed(Attempt),
    /// The driver stopped reading, for want of room.
    Paused(Attempt),
    /// The driver reads again.
    Resumed(Attempt),
    /// The dial failed, or the connection ended.
    Lost(Attempt, Loss),
    /// The network may have come back.
    Nudge,
    /// The message is no longer wanted.
    Cancel(Seq),
    /// Drain: take no more messages, deliver what there is, then stop. What is left is handed back
    /// at the deadline, or as soon as the connection is stopped: nothing would deliver it any more.
    Close {
        /// That deadline; [`Instant::NEVER`] for none.
        deadline: Instant,
    },
    /// Disconnect and stay so until `Start`. Messages stay queued.
    Stop,
    /// Time passed, and there is nothing more to read.
    Tick,
}

/// The next thing to do for a client.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Output {
    /// Destroy every earlier socket and dial; then say `Opened` or `Lost`.
    Dial(Attempt),
    /// Send this frame. From now on the peer may have what is in it.
    Send(Attempt, Frame),
    /// Send a Close with this code, go on reading, and say `Lost` when the connection ends.
    Close(Attempt, u16),
    /// Destroy the socket or the dial at once, and every earlier one: the newest order is the only
    /// one that is owed. Say nothing more of it.
    Abort(Attempt),
    /// All messages from the first to the last were delivered. Ranges come in order.
    Delivered {
        /// The first.
        first: Seq,
        /// The last.
        last: Seq,
    },
    /// A message failed, and here it is.
    Failed(Failed),
    /// The state as it is now. A level, not an event: what came between was overtaken.
    Status(Status),
    /// Nothing until this deadline. One that has passed means: say `Tick`.
    WaitUntil(Option<Deadline>),
}

/// What a client is doing, for people and logs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Status {
    /// The newest attempt.
    pub attempt: Attempt,
    /// What the connection is doing.
    pub phase: Phase,
    /// Why the attempt before ended, or this one if it has.
    pub last_loss: Option<Loss>,
    /// The message that connections keep dying with, if there is one. Cancelling it is the way
    /// out.
    pub suspected: Option<Seq>,
}

impl Status {
    /// Whether nothing happens until `Start`.
    pub fn is_stopped(&self) -> bool {
        matches!(self.phase, Phase::Stopped { .. })
    }
}

/// What the connection is doing; see [`ConnectionState`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Phase {
    /// Never started.
    #[default]
    Idle,
    /// A dial is under way.
    Dialing,
    /// The transport is open, the greeting is not done.
    Greeting,
    /// Messages flow.
    Up,
    /// The peer is silent; a ping asks whether it lives.
    Suspect,
    /// A Close was sent.
    Closing,
    /// The backoff runs.
    Waiting {
        /// When the next dial begins.
        redial_at: Instant,
    },
    /// Nothing happens until `Start`.
    Stopped {
        /// Why.
        reason: StopReason,
    },
}

impl From<ConnectionState> for Phase {
    fn from(state: ConnectionState) -> Self {
        match state {
            ConnectionState::Idle => Self::Idle,
            ConnectionState::Dialing { .. } => Self::Dialing,
            ConnectionState::Greeting { .. } => Self::Greeting,
            ConnectionState::Up { .. } => Self::Up,
            ConnectionState::Suspect { .. } => Self::Suspect,
            ConnectionState::Closing { .. } => Self::Closing,
            ConnectionState::Waiting { redial_at, .. } => Self::Waiting { redial_at },
            ConnectionState::Stopped { reason } => Self::Stopped { reason },
        }
    }
}

/// Counters since the beginning, and gauges of now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Stats {
    /// Of machine 1.
    pub connection: ConnectionStats,
    /// Of machine 2.
    pub outbox: OutboxStats,
    /// Inbound messages.
    pub inbound: u64,
    /// Frames that broke the dialect's protocol.
    pub violations: u64,
    /// Frames of a dead attempt; ignored.
    pub stale_frames: u64,
    /// Messages queued now.
    pub queued: usize,
    /// Messages in flight now.
    pub in_flight: Amount,
    /// What takes up room now.
    pub held: Amount,
}

/// Both machines and a dialect; see the [module docs](self).
#[derive(Clone)]
pub struct Client<D: Dialect, R> {
    connection: Connection<R>,
    outbox: Outbox,
    dialect: D,
    now: Instant,
    /// The link that the outbox knows of.
    told: Option<Attempt>,
    /// Frames of the greeting that were not sent.
    greeting: VecDeque<Body>,
    /// The newest answer of the dialect.
    reply: Option<Body>,
    /// When the dialect's beat is due.
    beat_at: Instant,
    /// The status that was reported.
    reported: Status,
    /// Kept for its buffer.
    sink: Sink<D::Inbound>,
    inbound: u64,
    violations: u64,
    stale_frames: u64,
}

impl<D: Dialect, R: Rng> Client<D, R> {
    /// A client that waits for `Start`. The generator names the outbox, then belongs to the
    /// connection.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn new(config: ClientConfig, dialect: D, mut rng: R) -> Result<Self, ConfigError> {
        let outbox = Outbox::new(config.outbox_for::<D>(), OutboxId::draw(&mut rng))?;
        Self::with_outbox(config, dialect, rng, outbox)
    }

    /// A client that goes on with the messages of a snapshot.
    ///
    /// # Errors
    /// A setting of the connection is out of its range; or, with the snapshot handed back, it does
    /// not fit.
    pub fn restore(
        config: ClientConfig,
        dialect: D,
        mut rng: R,
        now: Instant,
        snapshot: Snapshot,
    ) -> Result<Self, RestoreError> {
        if let Err(error) = config.connection.validate() {
            return Err(RestoreError {
                reason: error.into(),
                snapshot: alloc::boxed::Box::new(snapshot),
            });
        }
        let id = OutboxId::draw(&mut rng);
        let outbox = Outbox::restore(config.outbox_for::<D>(), id, now, snapshot)?;
        match Self::with_outbox(config, dialect, rng, outbox) {
            Ok(client) => Ok(client),
            // All settings were checked above.
            Err(error) => unreachable!("{error}"),
        }
    }

    fn with_outbox(
        config: ClientConfig,
        dialect: D,
        rng: R,
        outbox: Outbox,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            connection: Connection::new(config.connection, rng)?,
            now: outbox.now(),
            outbox,
            dialect,
            told: None,
            greeting: VecDeque::new(),
            reply: None,
            beat_at: Instant::NEVER,
            reported: Status::default(),
            sink: Sink::default(),
            inbound: 0,
            violations: 0,
            stale_frames: 0,
        })
    }

    // ---- In -----------------------------------------------------------------------------------

    /// Takes in an event. Never fails, blocks or calls back.
    ///
    /// The clock is looked at after `Tick` and after commands. What a socket says is evidence and
    /// brings no verdict with it, for there may be more to read: read until there is nothing more,
    /// then say `Tick`.
    pub fn handle(&mut self, now: Instant, event: Event<D::Credentials>) {
        use ConnectionEvent as C;
        use OutboxEvent as O;
        let now = self.advance(now);
        match event {
            Event::Opened(opened) => return self.open(&opened),
            Event::Heard(a) => return self.connection.take_in(now, C::Heard(a)),
            Event::Took(a) => return self.connection.take_in(now, C::Took(a)),
            Event::Flushed(a) => {
                self.connection.take_in(now, C::Flushed(a));
                if self.told.is_some() {
                    self.outbox.take_in(now, O::Flushed(a));
                }
                return;
            }
            Event::Paused(a) => {
                self.connection.take_in(now, C::Paused(a));
                return self.outbox.take_in(now, O::Paused(a));
            }
            Event::Resumed(a) => {
                self.connection.take_in(now, C::Resumed(a));
                return self.outbox.take_in(now, O::Resumed(a));
            }
            Event::Lost(a, loss) => {
                self.connection.take_in(now, C::Lost(a, loss));
                self.relay();
                return;
            }
            Event::Start => self.connection.take_in(now, C::Start),
            Event::Nudge => self.connection.take_in(now, C::Nudge),
            Event::Cancel(seq) => self.outbox.take_in(now, O::Cancel(seq)),
            Event::Close { deadline } => self.outbox.take_in(now, O::Close { deadline }),
            Event::Stop => self.connection.take_in(now, C::Stop),
            Event::Tick => {}
        }
        self.look_at_clock();
    }

    /// Takes in a frame of the peer, and gives back the message for the application in it. Looks
    /// at no clock: call it while there is something to read, then say `Tick`.
    ///
    /// The message is not stored, so call this only while there is room for one.
    pub fn receive(&mut self, now: Instant, a: Attempt, frame: Received) -> Option<D::Inbound> {
        let now = self.advance(now);
        if a != self.connection.attempt() || !self.is_open() {
            self.stale_frames = self.stale_frames.saturating_add(1);
            return None;
        }
        match frame {
            Received::Pong(payload) => {
                // A pong that nobody asked for is legal, and says nothing but that the peer lives
                // (RFC 6455 §5.5.3).
                match Ping::parse(&payload).filter(|ping| ping.attempt == a) {
                    Some(ping) => {
                        self.connection.take_in(now, ConnectionEvent::Ponged(a));
                        if self.told.is_some() {
                            self.outbox.take_in(now, OutboxEvent::Ponged(a, ping.seq));
                        }
                    }
                    None => self.connection.take_in(now, ConnectionEvent::Heard(a)),
                }
                None
            }
            Received::Data(body) => {
                self.connection.take_in(now, ConnectionEvent::Heard(a));
                self.decode(a, body)
            }
        }
    }

    /// Queues a message, encoded by [`Dialect::encode`].
    ///
    /// # Errors
    /// The message is handed back, nothing has changed and no number was used.
    pub fn push(
        &mut self,
        now: Instant,
        body: Body,
        options: PushOptions,
    ) -> Result<Pushed, PushError> {
        let now = self.advance(now);
        self.relay();
        self.outbox.push(now, body, options)
    }

    /// The time that both machines go by, although each hears only of what concerns it.
    fn advance(&mut self, now: Instant) -> Instant {
        self.now = self.now.max(now);
        self.now
    }

    fn open(&mut self, opened: &Opened<D::Credentials>) {
        let a = opened.attempt;
        let dialing = matches!(self.connection.state(), ConnectionState::Dialing { .. });
        self.connection.take_in(self.now, ConnectionEvent::Opened(a));
        let greeting = matches!(self.connection.state(), ConnectionState::Greeting { .. });
        if !(dialing && greeting) {
            return;
        }
        let greeting = self.dialect.greet(opened);
        self.greeting = greeting.frames.into();
        if !greeting.awaits_answer {
            self.connection.take_in(self.now, ConnectionEvent::Greeted(a));
            self.relay();
        }
    }

    fn decode(&mut self, a: Attempt, body: Body) -> Option<D::Inbound> {
        let now = self.now;
        self.dialect.decode(body, &mut self.sink);
        let mut signals = core::mem::take(&mut self.sink.signals);
        for signal in signals.drain(..) {
            match signal {
                Signal::Ack(ack) => self.outbox.take_in(now, OutboxEvent::Acked(a, ack)),
                Signal::Nack(which, nack) => {
                    self.outbox.take_in(now, OutboxEvent::Nacked(a, which, nack));
                }
                Signal::NackFrom(id, nack) => {
                    self.outbox.take_in(now, OutboxEvent::NackedFrom(a, id, nack));
                }
                Signal::Greeted => {
                    self.connection.take_in(now, ConnectionEvent::Greeted(a));
                    self.relay();
                }
                Signal::Refused(refusal) => {
                    self.connection.take_in(now, ConnectionEvent::Refused(a, refusal));
                    self.relay();
                }
                Signal::Violation => self.violations = self.violations.saturating_add(1),
            }
        }
        self.sink.signals = signals;
        if let Some(reply) = self.sink.reply.take().filter(|_| self.is_open()) {
            self.reply = Some(reply);
        }
        let inbound = self.sink.inbound.take();
        self.inbound = self.inbound.saturating_add(u64::from(inbound.is_some()));
        inbound
    }

    /// Whether frames may go either way.
    fn is_open(&self) -> bool {
        match self.connection.state() {
            ConnectionState::Greeting { .. }
            | ConnectionState::Up { .. }
            | ConnectionState::Suspect { .. } => true,
            ConnectionState::Idle
            | ConnectionState::Dialing { .. }
            | ConnectionState::Closing { .. }
            | ConnectionState::Waiting { .. }
            | ConnectionState::Stopped { .. } => false,
        }
    }

    /// Carries the two arrows between the machines until both are at rest; says whether there was
    /// anything to carry.
    fn relay(&mut self) -> bool {
        let now = self.now;
        let mut moved = false;

        // Connection ──▶ Outbox: the link.
        match (self.told, self.connection.link()) {
            (Some(told), Link::Up(a)) if told == a => {}
            (_, Link::Up(a)) => {
                self.outbox.take_in(now, OutboxEvent::Up(a));
                if self.connection.is_paused() {
                    self.outbox.take_in(now, OutboxEvent::Paused(a));
                }
                self.told = Some(a);
                self.beat_at = now;
                moved = true;
            }
            (Some(_), Link::Down { accused }) => {
                self.outbox.take_in(now, OutboxEvent::Down { accused });
                self.told = None;
                self.beat_at = Instant::NEVER;
                moved = true;
            }
            (None, Link::Down { .. }) => {}
        }
        // Outbox ──▶ Connection: overdue.
        if let Some(a) = self.outbox.take_overdue() {
            self.connection.take_in(now, ConnectionEvent::Overdue(a));
            moved = true;
        }
        // The user's close: a drain that is done stops the connection.
        if self.outbox.is_closed() {
            if self.outbox.is_settled() && !self.is_stopping() {
                self.connection.take_in(now, ConnectionEvent::Stop);
                moved = true;
            }
            if !self.outbox.is_settled() && self.is_stopped() {
                let deadline = Instant::ZERO;
                self.outbox.handle(now, OutboxEvent::Close { deadline });
                moved = true;
            }
        }
        if !self.is_open() {
            self.greeting.clear();
            self.reply = None;
        }
        moved
    }

    fn is_stopping(&self) -> bool {
        matches!(
            self.connection.state(),
            ConnectionState::Closing { .. } | ConnectionState::Stopped { .. }
        )
    }

    fn is_stopped(&self) -> bool {
        matches!(self.connection.state(), ConnectionState::Stopped { .. })
    }

    fn look_at_clock(&mut self) {
        loop {
            while self.relay() {}
            self.connection.look_at_clock(self.now);
            self.outbox.look_at_clock(self.now);
            if !self.relay() {
                return;
            }
        }
    }

    // ---- Out ----------------------------------------------------------------------------------

    /// The next thing to do; after the last one, when to say `Tick`.
    pub fn poll(&mut self, wire: Wire) -> Output {
        while self.relay() {}
        if let Some(order) = self.connection.take_order() {
            match order {
                ConnectionOutput::Dial(a) => return Output::Dial(a),
                ConnectionOutput::Close(a, code) => return Output::Close(a, code),
                ConnectionOutput::Abort(a) => return Output::Abort(a),
                // Neither is an order about a socket.
                ConnectionOutput::Ping(_) | ConnectionOutput::WaitUntil(_) => {}
            }
        }
        match self.outbox.take_settlement() {
            Some(OutboxOutput::Delivered { first, last }) => {
                return Output::Delivered { first, last };
            }
            Some(OutboxOutput::Failed(failed)) => return Output::Failed(failed),
            // None of these is a settlement.
            None
            | Some(
                OutboxOutput::Overdue(_)
                | OutboxOutput::Ping(_)
                | OutboxOutput::Transmit { .. }
                | OutboxOutput::WaitUntil(_),
            ) => {}
        }
        let status = self.status();
        if status != self.reported {
            self.reported = status;
            return Output::Status(status);
        }
        if wire == Wire::Ready && self.is_open() {
            if let Some(frame) = self.next_frame() {
                return Output::Send(self.connection.attempt(), frame);
            }
        }
        Output::WaitUntil(self.deadline())
    }

    fn next_frame(&mut self) -> Option<Frame> {
        if let Some(body) = self.greeting.pop_front().or_else(|| self.reply.take()) {
            return Some(Frame::Data(body));
        }
        self.told?;
        // One ping serves both: a heartbeat is a receipt.
        if self.connection.owes_ping() || self.outbox.owes_ping() {
            self.connection.ping_handed_over();
            return Some(Frame::Ping(self.outbox.ping_handed_over()));
        }
        if self.beat_at.has_passed(self.now) {
            let beat = self.dialect.beat();
            self.beat_at = match &beat {
                Some(beat) => self.now + beat.interval.max(SHORTEST_BEAT),
                None => Instant::NEVER,
            };
            if let Some(beat) = beat {
                return Some(Frame::Data(beat.body));
            }
        }
        let mut frame = None;
        let dialect = &mut self.dialect;
        self.outbox.transmit(|batch| {
            let (body, taken) = dialect.frame(batch);
            frame = Some(Frame::Data(body));
            taken
        });
        frame
    }

    /// When the client next needs to be told the time.
    pub fn deadline(&self) -> Option<Deadline> {
        let beat = Some(self.beat_at).filter(|at| self.told.is_some() && !at.has_passed(self.now));
        [
            self.connection.deadline(),
            self.outbox.deadline(),
            beat.and_then(|at| Deadline::new(at, Timer::Beat)),
        ]
        .into_iter()
        .fold(None, Deadline::earlier)
    }

    // ---- Getters ------------------------------------------------------------------------------

    /// What the client is doing.
    pub fn status(&self) -> Status {
        Status {
            attempt: self.connection.attempt(),
            phase: self.connection.state().into(),
            last_loss: self.connection.last_loss(),
            suspected: self.outbox.suspected(),
        }
    }

    /// Whether this attempt is being dialed. A dial that comes back when it is not any more was given
    /// up meanwhile: drop its socket, which would otherwise stay open and be nobody's.
    pub fn is_dialing(&self, a: Attempt) -> bool {
        a == self.connection.attempt()
            && matches!(self.connection.state(), ConnectionState::Dialing { .. })
    }

    /// Whether the client was closed and its driver may end: the connection is stopped, every
    /// message is settled, and all of that has been polled.
    pub fn is_over(&self) -> bool {
        // An order is polled before the status that came with it, and no two attempts have the same.
        self.is_stopped()
            && self.outbox.is_closed()
            && self.outbox.is_empty()
            && self.reported == self.status()
    }

    /// Counters and gauges.
    pub fn stats(&self) -> Stats {
        Stats {
            connection: self.connection.stats(),
            outbox: self.outbox.stats(),
            inbound: self.inbound,
            violations: self.violations,
            stale_frames: self.stale_frames,
            queued: self.outbox.queued(),
            in_flight: self.outbox.in_flight(),
            held: self.outbox.held(),
        }
    }

    /// Machine 1, to look at.
    pub fn connection(&self) -> &Connection<R> {
        &self.connection
    }

    /// Machine 2, to look at.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The outbox as a value, once the client has done its last; see [`Outbox::into_snapshot`].
    /// While it goes on, [`Outbox::snapshot`].
    pub fn into_snapshot(self) -> Snapshot {
        self.outbox.into_snapshot()
    }

    /// The two that are asked for what the client cannot know: where [`trace`](crate::trace) listens
    /// and prompts.
    #[cfg(feature = "serde")]
    pub(crate) fn seams(&mut self) -> (&mut D, &mut R) {
        (&mut self.dialect, self.connection.rng())
    }

    /// The dialect, to look at.
    pub fn dialect(&self) -> &D {
        &self.dialect
    }

    /// The state as a value; see [`View`].
    pub fn view(&self) -> View {
        let behind = |machine: Instant| self.now.since(machine);
        View {
            connection: self.connection.view(),
            outbox: self.outbox.view(),
            behind: [behind(self.connection.now()), behind(self.outbox.now())],
            told: self.told.is_some(),
            greeting: self.greeting.iter().cloned().collect(),
            reply: self.reply.clone(),
            beat_in: match self.beat_at {
                Instant::NEVER => None,
                at => Some(at.since(self.now)),
            },
            reported: self.reported_view(),
        }
    }

    /// The status that was reported, seen from now.
    fn reported_view(&self) -> (Status, Option<i64>) {
        let Status { attempt, phase, last_loss, suspected } = self.reported;
        let ago = self.connection.attempt().get() - attempt.get();
        let phase = match phase {
            Phase::Waiting { redial_at } => {
                let ahead = redial_at.since(self.now);
                Phase::Waiting { redial_at: Instant::ZERO + ahead }
            }
            Phase::Idle
            | Phase::Dialing
            | Phase::Greeting
            | Phase::Up
            | Phase::Suspect
            | Phase::Closing
            | Phase::Stopped { .. } => phase,
        };
        let head = self.outbox.watermark();
        let suspected = suspected.map(|seq| seq.get().wrapping_sub(head.get()) as i64);
        (Status { attempt: Attempt::new(ago), phase, last_loss, suspected: None }, suspected)
    }
}

/// A [`Client`] as a value, for a model checker to hash: deadlines are relative to now and numbers
/// to the head; counters, the generator and the dialect are left out.
///
/// Clients with the same settings and equal views, and dialects and generators in equal states,
/// given the same inputs do the same for ever.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct View {
    connection: ConnectionView,
    outbox: OutboxView,
    /// How far the clock of each machine is behind: it stands still until the machine is told.
    behind: [Duration; 2],
    told: bool,
    greeting: Vec<Body>,
    reply: Option<Body>,
    beat_in: Option<Duration>,
    reported: (Status, Option<i64>),
}
