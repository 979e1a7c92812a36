//! Statements about two runs: a client's life is noted, and played again with something changed.
//!
//! A [`Life`] is all that was said to one client from its making to its end, and all that came out.
//! A client is determined by what it is told, so no network and no peer are needed to play it: the
//! inputs are played as they stand, whatever comes of them. That is enough, for in each comparison
//! both runs are given the same inputs but for one change that must make no difference:
//!
//! | | the other run | must be the same |
//! |---|---|---|
//! | D1 | nothing is changed | every output, the state and the counters in the end |
//! | D2 | a time that is no news is replaced by an earlier one | the same |
//! | D4 | it is recorded, and the record is replayed from its text | the same |
//! | D5 | ticks come in between, at once and just before each deadline | the same, and a tick makes no output |
//! | D6 | all times are later by a few years | the same, as much later |
//! | X2, X3 | without messages: no push, no cancel, no answer that names one; until `Close` or the first `Overdue` | what the connection orders, its state, and so its delays (X2: only these differ) |
//! | X3 | the outbox alone; whenever the link is down it comes up and goes down again, on a wire that takes nothing | every output, and the charges |
//! | D3 | the outbox alone; whenever the link is down it is taken apart and restored | the same, but for the names of what is pushed afterwards |
//!
//! In the last two the outbox is told by hand what the client would tell it, with the clock looked
//! at after each event. Where the time to live of one message ends before that of an earlier one, its
//! end may come up to 1/32 late, and how late depends on what else waits: D3 is not judged from there,
//! nor from where two of different lengths end together.

use core::{cell::RefCell, ops::ControlFlow, time::Duration};
use std::{collections::BTreeMap, rc::Rc};

use bowline_core::{
    Ack, Attempt, Batch, Beat, Body, Client, ClientConfig, ConnectionState, Deadline, Dialect,
    Event, Failed, Greeting, Instant, Link, Loss, MessageId, Opened, Outbox, OutboxEvent, OutboxId,
    OutboxOutput, OutboxState, Output, Phase, Ping, PushError, PushOptions, Pushed, Received, Seq,
    Signal, Sink, Snapshot, Stats, Status, Wire,
    client::View,
    trace::{Line, Recorder, Tape, What, replay},
};
use rand_core::Rng;

use crate::{
    statement::{Statement, Violation},
    world::Dice,
};

/// D6: a number with no zeros at its end, so that no clock that is coarser than ours fits.
const LATER: Duration = Duration::from_micros(100_000_007_654_321);

/// X3: how often the link flaps where it is down.
const FLAPS: u64 = 3;

/// X3: attempt n of a life is this many times n where the link flaps: room for others between.
const APART: u64 = 1 << 20;

/// More outputs than this after one input are a client that spins.
const SPIN: usize = 10_000;

/// So much of a life is noted; what comes later is not judged. The usual one is a tenth of that.
const STEPS: usize = 100_000;

/// All that was said to one client, and all that came of it.
#[derive(Clone, Debug)]
pub struct Life {
    config: ClientConfig,
    dice: Dice,
    restored: Option<(Instant, Snapshot)>,
    steps: Vec<Step>,
    /// Not all of it is there.
    cut: bool,
}

/// One input and what came of it.
#[derive(Clone, Debug)]
struct Step {
    /// The time that was told; of a poll, the last one before.
    at: Instant,
    input: Input,
    came: Came,
}

/// What is said to a client.
#[derive(Clone)]
pub enum Input {
    /// [`Client::handle`].
    Event(Event<()>),
    /// [`Client::receive`].
    Receive(Attempt, Received),
    /// [`Client::push`].
    Push(Box<(Body, PushOptions)>),
    /// [`Client::poll`].
    Poll(Wire),
}

/// What comes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Came {
    /// Of an event.
    Nothing,
    /// Of a frame: whether a message for the application was in it.
    Inbound(bool),
    /// Of a push.
    Pushed(Box<Result<Pushed, PushError>>),
    /// Of a poll.
    Output(Output),
}

impl core::fmt::Debug for Input {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Event(event) => What::from(event).fmt(f),
            Self::Receive(a, Received::Data(body)) => write!(f, "Receive({a}, {body:?})"),
            Self::Receive(a, Received::Pong(payload)) => match Ping::parse(payload) {
                Some(ping) => write!(f, "Receive({a}, pong behind {})", ping.seq),
                None => write!(f, "Receive({a}, pong)"),
            },
            Self::Push(push) => write!(f, "Push({:?}, {:?})", push.0, push.1),
            Self::Poll(wire) => write!(f, "Poll({wire:?})"),
        }
    }
}

impl Life {
    /// The life of a client that is made with these. Note every input from then on.
    pub fn new(config: ClientConfig, dice: Dice) -> Self {
        Self { config, dice, restored: None, steps: Vec::new(), cut: false }
    }

    /// The life of a client that goes on from a snapshot.
    pub fn restored(config: ClientConfig, dice: Dice, at: Instant, snapshot: Snapshot) -> Self {
        Self { restored: Some((at, snapshot)), ..Self::new(config, dice) }
    }

    /// Notes an input, with the time that was said with it, and what came of it.
    pub fn note(&mut self, at: Instant, input: Input, came: Came) {
        self.cut |= self.steps.len() == STEPS;
        if !self.cut {
            self.steps.push(Step { at, input, came });
        }
    }

    /// Notes a poll.
    pub fn note_poll(&mut self, wire: Wire, output: Output) {
        let at = self.steps.last().map_or(Instant::ZERO, |step| step.at);
        self.note(at, Input::Poll(wire), Came::Output(output));
    }

    /// Judges all statements about two runs by the life that has ended, of which this is the client.
    /// `dialect` makes a dialect as that client was given.
    ///
    /// # Errors
    /// The first statement that does not hold.
    pub fn judge<D: Dialect<Credentials = ()>>(
        &self,
        client: &Client<impl Dialect, impl Rng>,
        dialect: impl Fn() -> D,
    ) -> Result<(), Violation> {
        let mut again = self.client(dialect())?;
        self.play(&mut again, Change::Nothing)?;
        if !self.cut {
            self.same_end(Statement::D1, &look(client), &look(&again))?;
        }
        // What a machine was not told yet, the tick tells it.
        self.tick(&mut again, Duration::ZERO);
        let end = look(&again);

        for change in [Change::OlderTimes, Change::MoreTicks, Change::Later] {
            let by = change.by();
            let too_late = change == Change::Later && !self.may_come_later();
            if too_late || self.last_at() + by == Instant::NEVER {
                continue;
            }
            let mut other = match &self.restored {
                Some((at, snapshot)) => self.restore(dialect(), *at + by, snapshot)?,
                None => self.client(dialect())?,
            };
            self.play(&mut other, change)?;
            self.tick(&mut other, by);
            self.same_end(change.statement(), &end, &look(&other))?;
        }
        self.record(dialect())?;
        self.play_apart(dialect())
    }

    /// The time that was told first.
    fn begins_at(&self) -> Instant {
        self.restored.as_ref().map_or(Instant::ZERO, |(at, _)| *at)
    }

    /// The latest time that was told.
    fn last_at(&self) -> Instant {
        self.steps.iter().map(|step| step.at).fold(self.begins_at(), Instant::max)
    }

    /// Whether no time that is named in it comes to the end of time, where there are no deadlines,
    /// only because all times come later.
    fn may_come_later(&self) -> bool {
        let fits = |at: Instant, ttl: Duration| {
            // An end may be up to 1/32 late, and a little for parts of a microsecond.
            let latest = at + ttl + ttl / 32 + Duration::from_micros(2) + LATER;
            at + ttl == Instant::NEVER || latest != Instant::NEVER
        };
        let stored = self.restored.iter().flat_map(|(at, snapshot)| {
            snapshot.messages.iter().filter_map(|message| Some((*at, message.ttl?)))
        });
        let mut clock = self.begins_at();
        let said = self.steps.iter().filter_map(|step| {
            clock = clock.max(step.at);
            match &step.input {
                Input::Push(push) => Some((clock, push.1.ttl?)),
                Input::Event(Event::Close { deadline }) => Some((*deadline, Duration::ZERO)),
                Input::Event(_) | Input::Receive(..) | Input::Poll(_) => None,
            }
        });
        stored.chain(said).all(|(at, ttl)| fits(at, ttl))
    }

    fn client<D: Dialect>(&self, dialect: D) -> Result<Client<D, Dice>, Violation> {
        match &self.restored {
            Some((at, snapshot)) => self.restore(dialect, *at, snapshot),
            None => Client::new(self.config.clone(), dialect, self.dice.clone())
                .map_err(|error| self.unmade(Statement::D1, &error)),
        }
    }

    fn restore<D: Dialect>(
        &self,
        dialect: D,
        at: Instant,
        snapshot: &Snapshot,
    ) -> Result<Client<D, Dice>, Violation> {
        let (config, dice) = (self.config.clone(), self.dice.clone());
        Client::restore(config, dialect, dice, at, snapshot.clone())
            .map_err(|error| self.unmade(Statement::D1, &error))
    }

    fn unmade(&self, statement: Statement, error: &dyn core::fmt::Display) -> Violation {
        let at = self.steps.first().map_or(Instant::ZERO, |step| step.at);
        Violation { statement, at, text: format!("the client cannot be made again: {error}") }
    }

    fn tick(&self, client: &mut impl Subject, by: Duration) {
        client.tell(self.last_at() + by, &Input::Event(Event::Tick));
    }

    fn same_end(
        &self,
        statement: Statement,
        first: &(Stats, View),
        again: &(Stats, View),
    ) -> Result<(), Violation> {
        if first == again {
            return Ok(());
        }
        let (first, again) = difference(&format!("{first:?}"), &format!("{again:?}"));
        let text = format!("in the end first {first}, then {again}");
        Err(Violation { statement, at: self.last_at(), text })
    }

    /// Plays the life to another client, which must do the same.
    fn play(&self, client: &mut impl Subject, change: Change) -> Result<(), Violation> {
        let statement = change.statement();
        let (mut clock, mut ticked) = (self.begins_at(), false);
        for (number, step) in self.steps.iter().enumerate() {
            let differs = |after: &str, first: &dyn core::fmt::Debug, again: &Came| {
                let text = format!(
                    "input {} of this life, {:?}: first {first:?}, then {after}{again:?}",
                    number + 1,
                    step.input
                );
                Err(Violation { statement, at: step.at, text })
            };
            let before = clock;
            clock = clock.max(step.at);
            let came = match change {
                Change::Nothing | Change::MoreTicks => client.tell(step.at, &step.input),
                Change::OlderTimes => client.tell(older(number, step.at, before), &step.input),
                Change::Later => client.tell(step.at + LATER, &later(&step.input)),
            };
            let same = match change {
                Change::Later => came == later_output(&step.came),
                Change::Nothing | Change::OlderTimes | Change::MoreTicks => came == step.came,
            };
            if !same {
                return differs("", &step.came, &came);
            }
            if change != Change::MoreTicks {
                continue;
            }
            let Input::Poll(wire) = step.input else {
                ticked = looks_at_clock(&step.input);
                continue;
            };
            let Came::Output(Output::WaitUntil(deadline)) = &step.came else {
                // In the middle of a drain.
                if ticked && number % 4 == 0 {
                    client.tell(step.at, &Input::Event(Event::Tick));
                }
                continue;
            };
            if !ticked {
                continue;
            }
            let next = self.steps.get(number + 1).map_or(clock, |next| next.at.max(clock));
            let before = deadline.map_or(next, |deadline| just_before(deadline).min(next));
            for at in [step.at, before.max(clock)] {
                client.tell(at, &Input::Event(Event::Tick));
                let came = client.tell(at, &Input::Poll(wire));
                if came != step.came {
                    return differs("after another tick ", &step.came, &came);
                }
            }
        }
        Ok(())
    }

    /// D4: plays the life to a client that is recorded, then its record.
    fn record<D: Dialect<Credentials = ()>>(&self, dialect: D) -> Result<(), Violation> {
        let statement = Statement::D4;
        let mut lines: Vec<Line> = Vec::new();
        let tape = Tape::new(|line| {
            lines.push(line);
            ControlFlow::Continue(())
        });
        // With and without payloads, half of the lives each.
        let tape = if self.steps.len().is_multiple_of(2) { tape } else { tape.with_payloads() };
        let (config, dice) = (self.config.clone(), self.dice.clone());
        let mut recorder = match &self.restored {
            Some((at, snapshot)) => {
                Recorder::restore(config, dialect, dice, *at, snapshot.clone(), Some(tape))
                    .map_err(|error| self.unmade(statement, &error))?
            }
            None => Recorder::new(config, dialect, dice, Some(tape))
                .map_err(|error| self.unmade(statement, &error))?,
        };
        self.play(&mut recorder, Change::Nothing)
            .map_err(|violation| Violation { statement, ..violation })?;
        recorder.finish();
        drop(recorder);
        let lines = lines.iter().map(|line| serde_json::from_str(&serde_json::to_string(line)?));
        match replay(lines, self.config.connection.verdict, |_| {}) {
            Ok(_) => Ok(()),
            Err(error) => {
                let text = format!("the record does not replay: {error}");
                Err(Violation { statement, at: error.at, text })
            }
        }
    }

    /// X2, X3, D3: plays the life to the client and to its parts.
    fn play_apart<D: Dialect<Credentials = ()>>(&self, dialect: D) -> Result<(), Violation> {
        let mut parts = Parts::new(self, dialect)?;
        self.steps.iter().try_for_each(|step| parts.step(step))
    }
}

/// How the other run differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    /// D1.
    Nothing,
    /// D2.
    OlderTimes,
    /// D5.
    MoreTicks,
    /// D6.
    Later,
}

impl Change {
    fn statement(self) -> Statement {
        match self {
            Self::Nothing => Statement::D1,
            Self::OlderTimes => Statement::D2,
            Self::MoreTicks => Statement::D5,
            Self::Later => Statement::D6,
        }
    }

    fn by(self) -> Duration {
        if self == Self::Later { LATER } else { Duration::ZERO }
    }
}

/// D2: a time as good as this one where `clock` was told before.
fn older(number: usize, at: Instant, clock: Instant) -> Instant {
    match number % 4 {
        _ if at > clock => at,
        0 => Instant::ZERO,
        1 => Instant::from_micros(clock.as_micros() / 2),
        2 => clock,
        _ => at,
    }
}

fn just_before(deadline: Deadline) -> Instant {
    Instant::from_micros(deadline.at.as_micros().saturating_sub(1))
}

/// Whether the client looks at the clock after this input.
fn looks_at_clock(input: &Input) -> bool {
    match input {
        Input::Event(event) => match event {
            Event::Start
            | Event::Nudge
            | Event::Cancel(_)
            | Event::Close { .. }
            | Event::Stop
            | Event::Tick => true,
            Event::Opened(_)
            | Event::Heard(_)
            | Event::Took(_)
            | Event::Flushed(_)
            | Event::Paused(_)
            | Event::Resumed(_)
            | Event::Lost(..) => false,
        },
        Input::Receive(..) | Input::Push(_) | Input::Poll(_) => false,
    }
}

/// D6: what names a time names a later one.
fn later(input: &Input) -> Input {
    match input {
        Input::Event(Event::Close { deadline }) => {
            Input::Event(Event::Close { deadline: *deadline + LATER })
        }
        input => input.clone(),
    }
}

fn later_output(came: &Came) -> Came {
    match came {
        Came::Output(Output::WaitUntil(Some(Deadline { at, timer }))) => {
            let at = *at + LATER;
            let deadline = (at != Instant::NEVER).then_some(Deadline { at, timer: *timer });
            Came::Output(Output::WaitUntil(deadline))
        }
        Came::Output(Output::Status(Status { phase: Phase::Waiting { redial_at }, .. })) => {
            let Came::Output(Output::Status(status)) = came else { return came.clone() };
            let phase = Phase::Waiting { redial_at: *redial_at + LATER };
            Came::Output(Output::Status(Status { phase, ..*status }))
        }
        came => came.clone(),
    }
}

/// A client, recorded or not.
trait Subject {
    fn tell(&mut self, at: Instant, input: &Input) -> Came;
}

macro_rules! subject {
    ($client:ident, $at:ident, $input:ident) => {
        match $input.clone() {
            Input::Event(event) => {
                $client.handle($at, event);
                Came::Nothing
            }
            Input::Receive(a, frame) => Came::Inbound($client.receive($at, a, frame).is_some()),
            Input::Push(push) => {
                let (body, options) = *push;
                Came::Pushed(Box::new($client.push($at, body, options)))
            }
            Input::Poll(wire) => Came::Output($client.poll(wire)),
        }
    };
}

impl<D: Dialect<Credentials = ()>, R: Rng> Subject for Client<D, R> {
    fn tell(&mut self, at: Instant, input: &Input) -> Came {
        subject!(self, at, input)
    }
}

impl<D, R, W> Subject for Recorder<D, R, W>
where
    D: Dialect<Credentials = ()>,
    R: Rng,
    W: FnMut(Line) -> ControlFlow<()>,
{
    fn tell(&mut self, at: Instant, input: &Input) -> Came {
        subject!(self, at, input)
    }
}

/// Two long texts from the field in which they begin to differ.
fn difference(one: &str, other: &str) -> (String, String) {
    let common = one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    let common = (0..=common).rev().find(|at| one.is_char_boundary(*at)).unwrap_or_default();
    let from = one[..common].rfind(", ").map_or(0, |comma| comma + 2);
    let cut = |text: &str| text[from..].chars().take(160).collect();
    (cut(one), cut(other))
}

fn look<D: Dialect, R: Rng>(client: &Client<D, R>) -> (Stats, View) {
    (client.stats(), client.view())
}

// ---- A client and its parts ---------------------------------------------------------------------

/// A life is played to a client, to one without messages, and to outboxes without a connection.
struct Parts<D: Dialect> {
    whole: Client<Overheard<D>, Dice>,
    said: Rc<RefCell<Said>>,
    /// X2: told of no message; none once the other one may differ.
    idle: Option<Client<Overheard<D>, Dice>>,
    orders: Vec<Output>,
    idle_orders: Vec<Output>,
    /// The link that the outboxes know of.
    link: Option<Attempt>,
    outboxes: Outboxes,
}

impl<D: Dialect<Credentials = ()>> Parts<D> {
    fn new(life: &Life, dialect: D) -> Result<Self, Violation> {
        let said = Rc::<RefCell<Said>>::default();
        let whole = life.client(Overheard { dialect: Some(dialect), said: said.clone() })?;
        let repeats = Overheard { dialect: None, said: said.clone() };
        let idle = Client::new(life.config.clone(), repeats, life.dice.clone());
        let idle = idle.map_err(|error| life.unmade(Statement::X2, &error))?;
        let outboxes = Outboxes::new(life, whole.outbox())?;
        Ok(Self {
            whole,
            said,
            idle: Some(idle),
            orders: Vec::new(),
            idle_orders: Vec::new(),
            link: None,
            outboxes,
        })
    }

    fn step(&mut self, step: &Step) -> Result<(), Violation> {
        *self.said.borrow_mut() = Said::default();
        let came = self.whole.tell(step.at, &step.input);
        let rests = matches!(came, Came::Output(Output::WaitUntil(_)));
        if let Came::Output(Output::Dial(_) | Output::Close(..) | Output::Abort(_)) = &came {
            let Came::Output(order) = came else { return Ok(()) };
            self.orders.push(order);
        }
        self.step_idle(step, rests)?;
        self.step_outboxes(step, rests)
    }

    /// X2, X3: the same for the connection without messages.
    fn step_idle(&mut self, step: &Step, rests: bool) -> Result<(), Violation> {
        let overdue = self.whole.stats().connection.losses[Loss::Overdue.kind()] > 0;
        if overdue || matches!(step.input, Input::Event(Event::Close { .. })) {
            self.idle = None;
        }
        let Some(idle) = &mut self.idle else { return Ok(()) };
        match &step.input {
            // What comes of no attempt tells the time and nothing else.
            Input::Push(_) => {
                let stale = Received::Pong(Vec::new().into());
                idle.receive(step.at, Attempt::NONE, stale);
                return Ok(());
            }
            Input::Event(Event::Cancel(_)) => {
                idle.tell(step.at, &Input::Event(Event::Tick));
                return Ok(());
            }
            Input::Event(_) | Input::Receive(..) => {
                idle.tell(step.at, &step.input);
                return Ok(());
            }
            Input::Poll(wire) => {
                for _ in 0..if rests { SPIN } else { 1 } {
                    match idle.poll(*wire) {
                        order @ (Output::Dial(_) | Output::Close(..) | Output::Abort(_)) => {
                            self.idle_orders.push(order);
                        }
                        Output::WaitUntil(_) => break,
                        Output::Send(..)
                        | Output::Delivered { .. }
                        | Output::Failed(_)
                        | Output::Status(_) => {}
                    }
                }
            }
        }
        if !rests {
            return Ok(());
        }
        let differs = |statement, with: String, without: String| {
            let text = format!("with messages {with}, without {without}");
            Err(Violation { statement, at: step.at, text })
        };
        let (one, other) = (self.whole.connection(), idle.connection());
        if let (ConnectionState::Waiting { .. }, ConnectionState::Waiting { .. }) =
            (one.state(), other.state())
            && one.state() != other.state()
        {
            let (with, without) = (format!("{:?}", one.state()), format!("{:?}", other.state()));
            return differs(Statement::X2, with, without);
        }
        if self.orders != self.idle_orders {
            let (with, without) = (&self.orders, &self.idle_orders);
            return differs(Statement::X3, format!("{with:?}"), format!("{without:?}"));
        }
        let all = |connection: &bowline_core::Connection<Dice>| {
            (connection.state(), connection.failures(), connection.stats())
        };
        if all(one) != all(other) {
            let (with, without) = (format!("{:?}", all(one)), format!("{:?}", all(other)));
            return differs(Statement::X3, with, without);
        }
        self.orders.clear();
        self.idle_orders.clear();
        Ok(())
    }

    /// X3, D3: says to the outboxes what the client says to its own.
    fn step_outboxes(&mut self, step: &Step, rests: bool) -> Result<(), Violation> {
        use OutboxEvent as E;
        let at = step.at;
        let link = self.whole.connection().link();
        // What a frame says comes behind the greeting that is in it, and before the end.
        if let (Link::Up(a), true) = (link, self.link.is_none()) {
            self.link = Some(a);
            self.outboxes.say(at, E::Up(a));
        }
        match &step.input {
            Input::Event(event) => match event {
                Event::Cancel(seq) => self.outboxes.say(at, E::Cancel(*seq)),
                Event::Close { deadline } => {
                    self.outboxes.say(at, E::Close { deadline: *deadline });
                }
                Event::Flushed(a) => self.outboxes.say(at, E::Flushed(*a)),
                Event::Paused(a) => self.outboxes.say(at, E::Paused(*a)),
                Event::Resumed(a) => self.outboxes.say(at, E::Resumed(*a)),
                Event::Tick => self.outboxes.say(at, E::Tick),
                Event::Start
                | Event::Opened(_)
                | Event::Heard(_)
                | Event::Took(_)
                | Event::Lost(..)
                | Event::Nudge
                | Event::Stop => {}
            },
            Input::Receive(a, Received::Pong(payload)) => {
                if let Some(ping) = Ping::parse(payload).filter(|ping| ping.attempt == *a) {
                    self.outboxes.say(at, E::Ponged(*a, ping.seq));
                }
            }
            Input::Receive(a, Received::Data(_)) => {
                for signal in &self.said.borrow().signals {
                    match *signal {
                        Signal::Ack(ack) => self.outboxes.say(at, E::Acked(*a, unnamed(ack))),
                        Signal::Nack(which, nack) => {
                            self.outboxes.say(at, E::Nacked(*a, unnamed(which), nack));
                        }
                        Signal::NackFrom(id, nack) => {
                            self.outboxes.say(at, E::NackedFrom(*a, id, nack));
                        }
                        Signal::Greeted | Signal::Refused(_) | Signal::Violation => {}
                    }
                }
            }
            Input::Push(push) => self.outboxes.push(at, push)?,
            Input::Poll(_) => {}
        }
        match (self.link, link) {
            (Some(_), Link::Down { accused }) => {
                self.link = None;
                self.outboxes.say(at, E::Down { accused });
            }
            (Some(before), Link::Up(a)) if before != a => {
                self.link = Some(a);
                self.outboxes.say(at, E::Down { accused: false });
                self.outboxes.say(at, E::Up(a));
            }
            (_, Link::Up(_) | Link::Down { .. }) => {}
        }
        let Input::Poll(wire) = step.input else { return Ok(()) };
        // One frame may have had several messages in it, and there may be a ping between them here.
        let mut framed = self.said.borrow().framed;
        for _ in 0..SPIN {
            match self.outboxes.poll(at, wire)? {
                OutboxOutput::WaitUntil(_) => break,
                OutboxOutput::Transmit { .. } => framed = framed.saturating_sub(1),
                _ => {}
            }
            if !rests && framed == 0 {
                break;
            }
        }
        if rests { self.outboxes.disturb(at) } else { Ok(()) }
    }
}

/// An answer by number alone: what was restored has another name in each outbox.
fn unnamed(ack: Ack) -> Ack {
    match ack {
        Ack::OneOf(id) => Ack::One(id.seq),
        Ack::UpToOf(id) => Ack::UpTo(id.seq),
        Ack::Next | Ack::One(_) | Ack::UpTo(_) => ack,
    }
}

/// What a dialect answered to one input.
#[derive(Clone, Debug, Default)]
struct Said {
    greeting: Greeting,
    signals: Vec<Signal>,
    reply: Option<Body>,
    beat: Option<Beat>,
    /// Messages in the frame that was made.
    framed: usize,
}

/// A dialect that is listened to; or, without one, what repeats that and knows of no message.
struct Overheard<D> {
    dialect: Option<D>,
    said: Rc<RefCell<Said>>,
}

impl<D: Dialect> Dialect for Overheard<D> {
    type Message = D::Message;
    type Inbound = D::Inbound;
    type Credentials = D::Credentials;
    type Error = D::Error;

    const ACKS: bool = D::ACKS;

    fn encode(message: D::Message) -> Result<Body, (D::Message, D::Error)> {
        D::encode(message)
    }

    fn greet(&mut self, opened: &Opened<D::Credentials>) -> Greeting {
        let mut said = self.said.borrow_mut();
        if let Some(dialect) = &mut self.dialect {
            said.greeting = dialect.greet(opened);
        }
        said.greeting.clone()
    }

    fn frame(&mut self, batch: Batch<'_>) -> (Body, usize) {
        match &mut self.dialect {
            Some(dialect) => {
                let (body, taken) = dialect.frame(batch);
                self.said.borrow_mut().framed = batch.iter().take(taken.max(1)).count();
                (body, taken)
            }
            None => (batch.first().body.clone(), 1),
        }
    }

    fn decode(&mut self, body: Body, sink: &mut Sink<D::Inbound>) {
        let mut said = self.said.borrow_mut();
        match &mut self.dialect {
            Some(dialect) => {
                dialect.decode(body, sink);
                said.signals.clone_from(&sink.signals);
                said.reply.clone_from(&sink.reply);
            }
            None => {
                let of_connection = |signal: &&Signal| {
                    matches!(signal, Signal::Greeted | Signal::Refused(_) | Signal::Violation)
                };
                sink.signals.extend(said.signals.iter().filter(of_connection));
                sink.reply.clone_from(&said.reply);
            }
        }
    }

    fn beat(&mut self) -> Option<Beat> {
        let mut said = self.said.borrow_mut();
        if let Some(dialect) = &mut self.dialect {
            said.beat = dialect.beat();
        }
        said.beat.clone()
    }
}

/// The same outbox three times: undisturbed, restored now and then, and with a link that flaps.
struct Outboxes {
    plain: Outbox,
    /// None once the order of its deadlines does not say when they are.
    restored: Option<Restored>,
    flapping: Outbox,
    /// When the last time to live is over, how long it is, and the last message that had one.
    last_expiry: (Instant, Duration, Seq),
    clock: Instant,
    /// How often the outbox has come to rest with its link down, since that went down.
    rests: u32,
    /// The newest attempt that the flapping link was up on.
    newest: u64,
}

/// An outbox that was restored, maybe more than once.
struct Restored {
    outbox: Outbox,
    /// Its names, and the first number of each.
    names: Vec<(Seq, OutboxId)>,
    /// The number of each ping of this attempt, there and here: between two messages that it is
    /// behind and before, it depends on settled ones that are still there.
    pings: BTreeMap<Seq, Seq>,
}

impl Outboxes {
    fn new(life: &Life, outbox: &Outbox) -> Result<Self, Violation> {
        let (config, id) = (outbox.config().clone(), outbox.id());
        let mut last_expiry = (Instant::ZERO, Duration::ZERO, Seq::new(0));
        let mut rises = true;
        let plain = match &life.restored {
            None => Outbox::new(config, id).map_err(|error| life.unmade(Statement::D3, &error))?,
            Some((at, snapshot)) => {
                for message in &snapshot.messages {
                    let Some(ttl) = message.ttl else { continue };
                    rises &= *at + ttl >= last_expiry.0;
                    last_expiry = last_expiry.max((*at + ttl, ttl, message.id.seq));
                }
                Outbox::restore(config, id, *at, snapshot.clone())
                    .map_err(|error| life.unmade(Statement::D3, &error))?
            }
        };
        let restored = Restored {
            outbox: plain.clone(),
            names: vec![(plain.next_seq(), id)],
            pings: BTreeMap::new(),
        };
        let flapping = plain.clone();
        let restored = Some(restored).filter(|_| rises);
        let clock = life.begins_at();
        Ok(Self { plain, restored, flapping, last_expiry, clock, rests: 0, newest: 0 })
    }

    fn say(&mut self, at: Instant, event: OutboxEvent) {
        self.clock = self.clock.max(at);
        if let OutboxEvent::Up(a) = event {
            self.newest = a.get().saturating_mul(APART);
        }
        self.plain.handle(at, event);
        self.flapping.handle(at, apart(event));
        if let Some(restored) = &mut self.restored {
            let event = match event {
                OutboxEvent::NackedFrom(a, id, nack) if id.outbox == self.plain.id() => {
                    let known = restored.names.iter().rev().find(|(first, _)| *first <= id.seq);
                    let outbox = known.map_or(id.outbox, |(_, name)| *name);
                    OutboxEvent::NackedFrom(a, MessageId { outbox, seq: id.seq }, nack)
                }
                OutboxEvent::Ponged(a, seq) => {
                    OutboxEvent::Ponged(a, restored.pings.get(&seq).copied().unwrap_or(seq))
                }
                OutboxEvent::Up(_) => {
                    restored.pings.clear();
                    event
                }
                event => event,
            };
            restored.outbox.handle(at, event);
        }
    }

    fn push(
        &mut self,
        at: Instant,
        (body, options): &(Body, PushOptions),
    ) -> Result<(), Violation> {
        self.clock = self.clock.max(at);
        let push = |outbox: &mut Outbox| outbox.push(at, body.clone(), options.clone());
        let plain = push(&mut self.plain);
        same(Statement::X3, at, &plain, &push(&mut self.flapping))?;
        if let (Some(ttl), Ok(pushed)) = (options.ttl, &plain) {
            // One that is replaced keeps its place, in front of those whose time began before its own;
            // and times of different lengths that end together are over in any order.
            let ends = self.clock + ttl;
            let (last, length, seq) = self.last_expiry;
            if ends < last || pushed.seq < seq || ends == last && ttl != length {
                self.restored = None;
            }
            if ends >= last {
                (self.last_expiry.0, self.last_expiry.1) = (ends, ttl);
            }
            self.last_expiry.2 = seq.max(pushed.seq);
        }
        match &mut self.restored {
            Some(restored) => same(Statement::D3, at, &plain, &push(&mut restored.outbox)),
            None => Ok(()),
        }
    }

    /// Polls all; says what comes of it.
    fn poll(&mut self, at: Instant, wire: Wire) -> Result<OutboxOutput, Violation> {
        let plain = nameless(self.plain.poll(wire), 1);
        let flapping = nameless(self.flapping.poll(wire), APART);
        same(Statement::X3, at, &plain, &flapping)?;
        if let Some(restored) = &mut self.restored {
            let mut output = nameless(restored.outbox.poll(wire), 1);
            if let (OutboxOutput::Ping(there), OutboxOutput::Ping(here)) = (&plain, &mut output) {
                restored.pings.insert(there.seq, here.seq);
                here.seq = there.seq;
            }
            same(Statement::D3, at, &plain, &output)?;
        }
        Ok(plain)
    }

    /// Where the link is down, restores one and lets the link of the other flap.
    fn disturb(&mut self, at: Instant) -> Result<(), Violation> {
        let budgets = |outbox: &Outbox| (outbox.charges(), outbox.suspected());
        same(Statement::X3, at, &budgets(&self.plain), &budgets(&self.flapping))?;
        if let Some(restored) = &self.restored {
            same(Statement::D3, at, &budgets(&self.plain), &budgets(&restored.outbox))?;
        }
        if self.plain.state() != OutboxState::Down || self.plain.is_closed() {
            self.rests = 0;
            return Ok(());
        }
        self.rests += 1;
        // Whenever the link has gone down, and now and then while it stays so.
        if !self.rests.is_power_of_two() {
            return Ok(());
        }
        self.flap(at)?;
        self.restore(at)
    }

    fn flap(&mut self, at: Instant) -> Result<(), Violation> {
        for flap in 1..=FLAPS {
            self.newest += 1;
            self.flapping.handle(at, OutboxEvent::Up(Attempt::new(self.newest)));
            match self.flapping.poll(Wire::Blocked) {
                OutboxOutput::WaitUntil(_) => {}
                output => {
                    let text = format!("a link on which nothing was sent made {output:?}");
                    return Err(Violation { statement: Statement::X3, at, text });
                }
            }
            self.flapping.handle(at, OutboxEvent::Down { accused: flap % 2 == 0 });
        }
        Ok(())
    }

    fn restore(&mut self, at: Instant) -> Result<(), Violation> {
        let Some(Restored { outbox, mut names, pings }) = self.restored.take() else {
            return Ok(());
        };
        // As good as a fresh one: no other in this life is near.
        let count = names.len() as u128;
        let id = OutboxId::new(self.plain.id().get().wrapping_add(count << 32));
        let config = outbox.config().clone();
        let snapshot = outbox.into_snapshot();
        match Outbox::restore(config, id, self.clock, snapshot) {
            Ok(outbox) => {
                names.push((outbox.next_seq(), id));
                self.restored = Some(Restored { outbox, names, pings });
                Ok(())
            }
            Err(error) => Err(Violation { statement: Statement::D3, at, text: error.to_string() }),
        }
    }
}

fn same<T: PartialEq + core::fmt::Debug>(
    statement: Statement,
    at: Instant,
    plain: &T,
    other: &T,
) -> Result<(), Violation> {
    if plain == other {
        return Ok(());
    }
    let how = if statement == Statement::D3 { "restored" } else { "with a link that flaps" };
    let text = format!("undisturbed {plain:?}, {how} {other:?}");
    Err(Violation { statement, at, text })
}

/// The event with attempts that leave room for others between them.
fn apart(event: OutboxEvent) -> OutboxEvent {
    use OutboxEvent as E;
    let far = |a: Attempt| Attempt::new(a.get().saturating_mul(APART));
    match event {
        E::Up(a) => E::Up(far(a)),
        E::Flushed(a) => E::Flushed(far(a)),
        E::Ponged(a, seq) => E::Ponged(far(a), seq),
        E::Acked(a, ack) => E::Acked(far(a), ack),
        E::Nacked(a, which, nack) => E::Nacked(far(a), which, nack),
        E::NackedFrom(a, id, nack) => E::NackedFrom(far(a), id, nack),
        E::Paused(a) => E::Paused(far(a)),
        E::Resumed(a) => E::Resumed(far(a)),
        E::Down { .. } | E::Cancel(_) | E::Close { .. } | E::Tick => event,
    }
}

/// The output without names of outboxes, attempts as close as they were.
fn nameless(output: OutboxOutput, apart: u64) -> OutboxOutput {
    let near = |a: Attempt| Attempt::new(a.get() / apart);
    let nameless = |id: MessageId| MessageId { outbox: OutboxId::new(0), ..id };
    match output {
        OutboxOutput::Overdue(a) => OutboxOutput::Overdue(near(a)),
        OutboxOutput::Ping(Ping { attempt, seq }) => {
            OutboxOutput::Ping(Ping { attempt: near(attempt), seq })
        }
        OutboxOutput::Failed(failed) => {
            OutboxOutput::Failed(Failed { id: nameless(failed.id), ..failed })
        }
        OutboxOutput::Transmit { id, body } => OutboxOutput::Transmit { id: nameless(id), body },
        OutboxOutput::Delivered { .. } | OutboxOutput::WaitUntil(_) => output,
    }
}

#[cfg(test)]
mod tests {
    //! A comparison that never fails shows nothing: each finds the fault that is put into one of the
    //! two runs, and nothing without it.

    use core::{
        convert::Infallible,
        sync::atomic::{AtomicU32, Ordering},
    };

    use bowline_core::{Frame, Level, Nack, Verdict, VerdictLimits, loss::verdict};

    use super::*;
    use crate::settings::Chance;

    #[test]
    fn a_life_that_is_played_again_is_the_same() {
        let (driver, life) = lived(ClientConfig::default());
        assert_eq!(life.judge(&driver.client, || Words), Ok(()));
        let stats = driver.client.stats();
        assert_eq!((stats.outbox.charges, stats.connection.lost_links), (1, 2), "{stats:?}");
    }

    /// D1
    #[test]
    fn another_output_is_found_and_so_is_another_state_in_the_end() {
        let (driver, mut life) = lived(ClientConfig::default());
        if let Some(last) = life.steps.last_mut() {
            last.came = Came::Output(Output::WaitUntil(None));
        }
        assert_eq!(broken(life.judge(&driver.client, || Words)), Some(Statement::D1));

        let (mut driver, life) = lived(ClientConfig::default());
        driver.client.handle(life.last_at(), Event::Stop);
        assert_eq!(broken(life.judge(&driver.client, || Words)), Some(Statement::D1));
    }

    /// D2
    #[test]
    fn a_client_that_believes_an_older_time_is_found() {
        let fault = |told: &[Instant], came: Came| match (told, came) {
            ([.., before, now], Came::Output(Output::WaitUntil(_))) if now < before => {
                Came::Output(Output::WaitUntil(None))
            }
            (_, came) => came,
        };
        assert_eq!(with_fault(fault, Change::OlderTimes), Some(Statement::D2));
    }

    /// D5
    #[test]
    fn a_tick_that_does_something_is_found() {
        let fault = |told: &[Instant], came| later_by(told.len() as u64, came);
        assert_eq!(with_fault(fault, Change::MoreTicks), Some(Statement::D5));
    }

    /// D6
    #[test]
    fn a_deadline_on_a_grid_that_begins_at_the_epoch_is_found() {
        let fault = |_: &[Instant], came: Came| match came {
            Came::Output(Output::WaitUntil(Some(Deadline { at, .. }))) => {
                let micros = at.as_micros();
                later_by(micros.next_multiple_of(1_000) - micros, came)
            }
            came => came,
        };
        assert_eq!(with_fault(fault, Change::Later), Some(Statement::D6));
    }

    #[test]
    fn a_time_that_is_short_of_the_end_of_time_only_if_it_comes_earlier_is_not_compared() {
        let lived = |input: Input| {
            let (client, life) = newborn(ClientConfig::default());
            let mut driver = Driver::new(client, life);
            driver.tell(input);
            driver.turn();
            assert_eq!(driver.life.judge(&driver.client, || Words), Ok(()));
            driver.life.may_come_later()
        };
        let push = |ttl: Duration| {
            let options = PushOptions { ttl: Some(ttl), ..PushOptions::default() };
            lived(Input::Push(Box::new(("body".into(), options))))
        };
        let close = |deadline| lived(Input::Event(Event::Close { deadline }));
        assert!(!push(Duration::from_micros(u64::MAX) - LATER));
        assert!(!close(Instant::from_micros(u64::MAX - 1)));
        // There is a deadline in both runs, or in none.
        assert!(push(Duration::from_secs(90)) && push(Duration::MAX));
        assert!(close(Instant::from_micros(9)) && close(Instant::NEVER));
    }

    /// D4
    #[test]
    fn a_client_that_is_not_the_one_of_the_record_is_found() {
        static LOSSES: AtomicU32 = AtomicU32::new(0);
        /// A life has two losses. The third time it is played is the replay.
        fn learns(loss: Loss, limits: VerdictLimits) -> Verdict {
            match LOSSES.fetch_add(1, Ordering::Relaxed) {
                0..4 => verdict(loss, limits),
                _ => Verdict::RetryAfter(Duration::from_secs(1)..=Duration::from_secs(2)),
            }
        }
        let mut config = ClientConfig::default();
        config.connection.verdict = learns;
        let (_, life) = lived(config);
        assert_eq!(LOSSES.load(Ordering::Relaxed), 2);
        assert_eq!(broken(life.record(Words)), Some(Statement::D4));
        assert_eq!(LOSSES.load(Ordering::Relaxed), 5);
    }

    /// X2
    #[test]
    fn a_backoff_that_messages_have_moved_is_found() {
        let other_numbers = |parts: &mut Parts<Words>| {
            let repeats = Overheard { dialect: None, said: parts.said.clone() };
            let dice = Dice::new(Chance::Ones, 0, 0);
            parts.idle = Client::new(ClientConfig::default(), repeats, dice).ok();
        };
        assert_eq!(with_parts(|_| false, other_numbers), None);
        assert_eq!(with_parts(|_| true, other_numbers), Some(Statement::X2));
    }

    /// X3
    #[test]
    fn a_connection_that_messages_have_moved_is_found() {
        let stop = |parts: &mut Parts<Words>| {
            let idle = parts.idle.as_mut().expect("it is compared to the end");
            idle.handle(Instant::ZERO, Event::Stop);
        };
        assert_eq!(with_parts(is_in_flight, stop), Some(Statement::X3));
    }

    /// X3
    #[test]
    fn a_flap_that_charges_a_message_is_found() {
        let charge = |parts: &mut Parts<Words>| {
            let a = Attempt::new(parts.outboxes.newest);
            let refused = OutboxEvent::Nacked(a, Ack::One(Seq::new(1)), Nack::Transient);
            parts.outboxes.flapping.handle(Instant::ZERO, refused);
        };
        assert_eq!(with_parts(is_in_flight, charge), Some(Statement::X3));
    }

    /// D3
    #[test]
    fn a_restore_that_forgets_a_message_is_found() {
        let forget = |parts: &mut Parts<Words>| {
            let restored = parts.outboxes.restored.as_mut().expect("nothing expires out of order");
            restored.outbox.handle(Instant::ZERO, OutboxEvent::Cancel(Seq::new(2)));
        };
        assert_eq!(with_parts(is_in_flight, forget), Some(Statement::D3));
    }

    // ---- Faults -------------------------------------------------------------------------------

    fn broken(judged: Result<(), Violation>) -> Option<Statement> {
        judged.err().map(|violation| violation.statement)
    }

    fn later_by(micros: u64, came: Came) -> Came {
        match came {
            Came::Output(Output::WaitUntil(Some(Deadline { at, timer }))) => {
                let at = at + Duration::from_micros(micros);
                Came::Output(Output::WaitUntil(Some(Deadline { at, timer })))
            }
            came => came,
        }
    }

    /// The statement that the life of a faulty client breaks when it is played with a change, and
    /// does not break without.
    fn with_fault(
        fault: impl Fn(&[Instant], Came) -> Came + Copy,
        change: Change,
    ) -> Option<Statement> {
        let faulty = || {
            let (client, _) = newborn(ClientConfig::default());
            Faulty { client, told: Vec::new(), fault }
        };
        let (_, life) = newborn(ClientConfig::default());
        let mut driver = Driver::new(faulty(), life);
        driver.live();
        assert_eq!(driver.life.play(&mut faulty(), Change::Nothing), Ok(()));
        broken(driver.life.play(&mut faulty(), change))
    }

    struct Faulty<F> {
        client: Client<Words, Dice>,
        told: Vec<Instant>,
        fault: F,
    }

    impl<F: Fn(&[Instant], Came) -> Came> Subject for Faulty<F> {
        fn tell(&mut self, at: Instant, input: &Input) -> Came {
            if !matches!(input, Input::Poll(_)) {
                self.told.push(at);
            }
            (self.fault)(&self.told, self.client.tell(at, input))
        }
    }

    /// What is broken by a fault that comes into the parts as soon as `when` is so.
    fn with_parts(
        when: impl Fn(&Parts<Words>) -> bool,
        fault: impl Fn(&mut Parts<Words>),
    ) -> Option<Statement> {
        let (_, life) = lived(ClientConfig::default());
        let mut parts = Parts::new(&life, Words).expect("the settings are good");
        let mut sound = true;
        for step in &life.steps {
            if sound && when(&parts) {
                fault(&mut parts);
                sound = false;
            }
            if let Err(violation) = parts.step(step) {
                return Some(violation.statement);
            }
        }
        None
    }

    fn is_in_flight(parts: &Parts<Words>) -> bool {
        parts.outboxes.plain.in_flight().messages > 1
    }

    // ---- A life -------------------------------------------------------------------------------

    /// Says `ack 3` or `nack 3`.
    struct Words;

    impl Dialect for Words {
        type Message = Body;
        type Inbound = ();
        type Credentials = ();
        type Error = Infallible;

        const ACKS: bool = true;

        fn encode(message: Body) -> Result<Body, (Body, Infallible)> {
            Ok(message)
        }

        fn frame(&mut self, batch: Batch<'_>) -> (Body, usize) {
            (batch.first().body.clone(), 1)
        }

        fn decode(&mut self, body: Body, sink: &mut Sink<()>) {
            let words = body.as_text().and_then(|text| text.split_once(' '));
            match words.and_then(|(verb, seq)| Some((verb, Seq::new(seq.parse().ok()?)))) {
                Some(("ack", seq)) => sink.ack(Ack::UpTo(seq)),
                Some((_, seq)) => sink.nack(Ack::One(seq), Nack::Transient),
                None => sink.violation(),
            }
        }
    }

    fn newborn(config: ClientConfig) -> (Client<Words, Dice>, Life) {
        let life = Life::new(config, Dice::new(Chance::Seeded, 1, 0));
        let client = life.client(Words).expect("the settings are good");
        (client, life)
    }

    fn lived(config: ClientConfig) -> (Driver<Client<Words, Dice>>, Life) {
        let (client, life) = newborn(config);
        let mut driver = Driver::new(client, life);
        driver.live();
        let life = driver.life.clone();
        (driver, life)
    }

    /// Says inputs and notes them.
    struct Driver<S> {
        client: S,
        life: Life,
        now: Instant,
        attempt: Attempt,
        deadline: Option<Deadline>,
    }

    impl<S: Subject> Driver<S> {
        fn new(client: S, life: Life) -> Self {
            let now = Instant::from_micros(7);
            Self { client, life, now, attempt: Attempt::NONE, deadline: None }
        }

        /// Three messages; the first is refused once, and two connections are lost on the way.
        fn live(&mut self) {
            self.say(Event::Start);
            self.open();
            for _ in 0..3 {
                self.push(None);
            }
            self.hear("nack 1");
            self.hear("ack 3");
            self.lose();
            self.open();
            self.hear("ack 1");
            self.push(Some(Duration::from_secs(90)));
            self.say(Event::Cancel(Seq::new(3)));
            self.lose();
            self.open();
            self.hear("ack 4");
            self.wait();
        }

        fn say(&mut self, event: Event<()>) {
            self.tell(Input::Event(event));
            self.turn();
        }

        fn open(&mut self) {
            self.say(Event::Opened(Opened::new(self.attempt, ())));
            self.say(Event::Flushed(self.attempt));
        }

        fn lose(&mut self) {
            self.say(Event::Lost(self.attempt, Loss::Io));
            let before = self.attempt;
            while self.attempt == before {
                self.wait();
            }
        }

        fn hear(&mut self, text: &str) {
            self.tell(Input::Receive(self.attempt, Received::Data(text.into())));
            self.turn();
        }

        fn push(&mut self, ttl: Option<Duration>) {
            let options = PushOptions { level: Some(Level::Acked), ttl, key: None };
            self.tell(Input::Push(Box::new(("body".into(), options))));
            self.turn();
        }

        /// Until the next deadline.
        fn wait(&mut self) {
            self.now = self.deadline.map_or(self.now, |deadline| deadline.at.max(self.now));
            self.turn();
        }

        fn turn(&mut self) {
            self.now = self.now + Duration::from_micros(3);
            // Two inputs at one time: that of the second one is no news.
            self.tell(Input::Event(Event::Took(self.attempt)));
            self.tell(Input::Event(Event::Tick));
            loop {
                match self.tell(Input::Poll(Wire::Ready)) {
                    Came::Output(Output::Dial(a)) => self.attempt = a,
                    Came::Output(Output::Send(a, Frame::Ping(ping))) => {
                        self.tell(Input::Receive(a, Received::Pong(ping.payload())));
                    }
                    Came::Output(Output::WaitUntil(deadline)) => {
                        self.deadline = deadline;
                        return;
                    }
                    _ => {}
                }
            }
        }

        fn tell(&mut self, input: Input) -> Came {
            let came = self.client.tell(self.now, &input);
            self.life.note(self.now, input, came.clone());
            came
        }
    }
}
