//! The pictures of the machines, drawn by walking through the real code.
//!
//! [`connection`], [`outbox`] and [`inbox`] drive a machine from every state that it can reach, within the
//! bounds that they name, with every event, and collect what leads from one state to another.
//! [`Edges::mermaid`] draws that; a test compares it with README and the module docs. A simulation
//! can ask of each step that it sees whether it is [explained](Edges::explain) by the picture, and
//! which edges it never went.

use core::{convert::Infallible, hash::Hash, time::Duration};
use std::collections::{BTreeMap, BTreeSet, HashSet};

use bowline_core::{
    Ack, Attempt, Backoff, Body, Connection, ConnectionConfig, ConnectionEvent, ConnectionOutput,
    ConnectionState, Deadline, Inbox, InboxConfig, InboxState, Instant, Jitter, Lane, Level, Loss,
    MessageId, Nack, Offer, Outbox, OutboxConfig, OutboxEvent, OutboxId, OutboxOutput, OutboxState,
    PushOptions, Refusal, Seq, Timer, Wire,
};
use rand_core::TryRng;

/// The event of time that passes, whichever timer has run out.
pub const TICK: &str = "Tick";

/// A step from one state to another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Edge {
    /// The state that it leads from.
    pub from: &'static str,
    /// The event, named as in the code.
    pub event: &'static str,
    /// For [`TICK`], the timer that has run out.
    pub timer: Option<Timer>,
    /// The state that it leads to.
    pub to: &'static str,
}

/// All steps of a machine that lead to another state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Edges {
    /// The states as they are drawn; a machine begins in the first.
    order: &'static [&'static str],
    edges: BTreeSet<Edge>,
    states: usize,
}

impl Edges {
    fn new(order: &'static [&'static str]) -> Self {
        Self { order, edges: BTreeSet::new(), states: 0 }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Edge> {
        self.edges.iter()
    }

    /// How many states were walked through.
    pub fn states(&self) -> usize {
        self.states
    }

    /// The edges that lead from one state to another on an event: the event's own, if there is one,
    /// and then those of timers that had run out as well, for a machine looks at its clock after
    /// each event. None if the picture has no such way.
    pub fn explain(&self, from: &str, event: &str, to: &str) -> Option<Vec<Edge>> {
        let mut ways: Vec<(&str, Vec<Edge>)> = Vec::new();
        for edge in self.edges.iter().filter(|edge| edge.from == from && edge.event == event) {
            ways.push((edge.to, vec![*edge]));
        }
        ways.push((from, Vec::new()));
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut next = 0;
        while let Some((at, way)) = ways.get(next).cloned() {
            next += 1;
            if at == to {
                return Some(way);
            }
            if !seen.insert(at) {
                continue;
            }
            for edge in self.edges.iter().filter(|edge| edge.from == at && edge.event == TICK) {
                let mut longer = way.clone();
                longer.push(*edge);
                ways.push((edge.to, longer));
            }
        }
        None
    }

    /// The picture as a Mermaid `stateDiagram-v2`: one arrow between two states, with all events
    /// that go along it.
    pub fn mermaid(&self) -> String {
        let place = |state: &str| self.order.iter().position(|&other| other == state);
        let mut arrows: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for edge in &self.edges {
            let label = match edge.timer {
                Some(timer) => format!("{TICK} ({timer:?})"),
                None => edge.event.to_owned(),
            };
            let arrow = (place(edge.from), place(edge.to), edge.from, edge.to);
            arrows.entry(arrow).or_default().push(label);
        }
        let mut picture = format!("stateDiagram-v2\n    [*] --> {}\n", self.order[0]);
        for ((.., from, to), labels) in arrows {
            picture += &format!("    {from} --> {to}: {}\n", labels.join(", "));
        }
        picture
    }
}

// ---- Connection -----------------------------------------------------------------------------------

/// The states of the connection, in the order in which they are drawn.
pub const CONNECTION_STATES: [&str; 8] =
    ["Idle", "Dialing", "Greeting", "Up", "Suspect", "Waiting", "Closing", "Stopped"];

/// The events of the connection, in the order in which they are declared.
pub const CONNECTION_EVENTS: [&str; 15] = [
    "Start", "Opened", "Greeted", "Heard", "Ponged", "Flushed", "Took", "Paused", "Resumed",
    "Refused", "Overdue", "Lost", "Nudge", "Stop", TICK,
];

/// The place of a state in [`CONNECTION_STATES`].
pub const fn connection_state_place(state: ConnectionState) -> usize {
    match state {
        ConnectionState::Idle => 0,
        ConnectionState::Dialing { .. } => 1,
        ConnectionState::Greeting { .. } => 2,
        ConnectionState::Up { .. } => 3,
        ConnectionState::Suspect { .. } => 4,
        ConnectionState::Waiting { .. } => 5,
        ConnectionState::Closing { .. } => 6,
        ConnectionState::Stopped { .. } => 7,
    }
}

/// The place of an event in [`CONNECTION_EVENTS`].
pub const fn connection_event_place(event: ConnectionEvent) -> usize {
    match event {
        ConnectionEvent::Start => 0,
        ConnectionEvent::Opened(_) => 1,
        ConnectionEvent::Greeted(_) => 2,
        ConnectionEvent::Heard(_) => 3,
        ConnectionEvent::Ponged(_) => 4,
        ConnectionEvent::Flushed(_) => 5,
        ConnectionEvent::Took(_) => 6,
        ConnectionEvent::Paused(_) => 7,
        ConnectionEvent::Resumed(_) => 8,
        ConnectionEvent::Refused(..) => 9,
        ConnectionEvent::Overdue(_) => 10,
        ConnectionEvent::Lost(..) => 11,
        ConnectionEvent::Nudge => 12,
        ConnectionEvent::Stop => 13,
        ConnectionEvent::Tick => 14,
    }
}

/// The name of a state of the connection.
pub const fn connection_state(state: ConnectionState) -> &'static str {
    CONNECTION_STATES[connection_state_place(state)]
}

/// The name of an event of the connection.
pub const fn connection_event(event: ConnectionEvent) -> &'static str {
    CONNECTION_EVENTS[connection_event_place(event)]
}

/// The steps of the connection, with and without a limit of attempts, and where there are no
/// pings. Time moves only to the next deadline; the durations are such that no two meet, so that
/// each step of time is that of one timer.
pub fn connection() -> Edges {
    let second = Duration::from_secs(1);
    let endless = ConnectionConfig {
        dial_limit: second,
        greeting_limit: second,
        ping_interval: Duration::from_millis(2_300),
        pong_limit: Duration::from_millis(1_010),
        write_limit: Duration::from_millis(1_100),
        close_limit: second,
        stable_after: Duration::from_millis(3_001),
        nudge_floor: second,
        backoff: Backoff { base: second, cap: second, jitter: Jitter::None, ..Backoff::default() },
        ..ConnectionConfig::default()
    };
    let limited = ConnectionConfig { max_attempts: Some(2), ..endless.clone() };
    let pingless = ConnectionConfig { can_ping: false, ..endless.clone() };
    let mut edges = Edges::new(&CONNECTION_STATES);
    for config in [endless, limited, pingless] {
        let first = match Connection::new(config, Zero) {
            Ok(first) => first,
            Err(error) => panic!("{error}"),
        };
        walk(
            &mut edges,
            (first, Instant::ZERO),
            |(machine, _)| machine.view(),
            |(machine, _)| connection_state(machine.state()),
            connection_steps,
        );
    }
    edges
}

type Walked<M> = (M, Instant);
type Step<S> = (&'static str, Option<Timer>, S);

fn connection_steps(
    (machine, now): &Walked<Connection<Zero>>,
) -> Vec<Step<Walked<Connection<Zero>>>> {
    use ConnectionEvent as E;
    let a = machine.attempt();
    let events = [
        E::Start,
        E::Opened(a),
        E::Greeted(a),
        E::Heard(a),
        E::Ponged(a),
        E::Flushed(a),
        E::Took(a),
        E::Paused(a),
        E::Resumed(a),
        E::Refused(a, Refusal::Retry),
        E::Refused(a, Refusal::Renew),
        E::Refused(a, Refusal::Fatal),
        E::Overdue(a),
        E::Lost(a, Loss::Eof),
        E::Lost(a, Loss::Status { status: 404, retry_after: None }),
        E::Lost(a, Loss::Status { status: 503, retry_after: Some(Duration::from_secs(2)) }),
        E::Nudge,
        E::Stop,
    ];
    let told = |event, now, timer| {
        let mut machine = machine.clone();
        machine.handle(now, event);
        (connection_event(event), timer, (machine, now))
    };
    let mut steps: Vec<_> = events.into_iter().map(|event| told(event, *now, None)).collect();
    if let Some(Deadline { at, timer }) = machine.deadline() {
        steps.push(told(E::Tick, at, Some(timer)));
        // The one event that finds its deadline over before the clock does.
        if let ConnectionState::Dialing { .. } = machine.state() {
            steps.push(told(E::Opened(a), at, None));
        }
    }
    let mut polled = machine.clone();
    while !matches!(polled.poll(Wire::Ready), ConnectionOutput::WaitUntil(_)) {}
    steps.push(("", None, (polled, *now)));
    steps
}

// ---- Outbox ---------------------------------------------------------------------------------------

/// The states of the outbox, in the order in which they are drawn.
pub const OUTBOX_STATES: [&str; 4] = ["Down", "Open", "Probing", "Held"];

/// The events of the outbox, in the order in which they are declared.
pub const OUTBOX_EVENTS: [&str; 12] = [
    "Up",
    "Down",
    "Flushed",
    "Ponged",
    "Acked",
    "Nacked",
    "NackedFrom",
    "Paused",
    "Resumed",
    "Cancel",
    "Close",
    TICK,
];

/// The place of a state in [`OUTBOX_STATES`].
pub const fn outbox_state_place(state: OutboxState) -> usize {
    match state {
        OutboxState::Down => 0,
        OutboxState::Open => 1,
        OutboxState::Probing { .. } => 2,
        OutboxState::Held { .. } => 3,
    }
}

/// The place of an event in [`OUTBOX_EVENTS`].
pub const fn outbox_event_place(event: OutboxEvent) -> usize {
    match event {
        OutboxEvent::Up(_) => 0,
        OutboxEvent::Down { .. } => 1,
        OutboxEvent::Flushed(_) => 2,
        OutboxEvent::Ponged(..) => 3,
        OutboxEvent::Acked(..) => 4,
        OutboxEvent::Nacked(..) => 5,
        OutboxEvent::NackedFrom(..) => 6,
        OutboxEvent::Paused(_) => 7,
        OutboxEvent::Resumed(_) => 8,
        OutboxEvent::Cancel(_) => 9,
        OutboxEvent::Close { .. } => 10,
        OutboxEvent::Tick => 11,
    }
}

/// The name of a state of the outbox.
pub const fn outbox_state(state: OutboxState) -> &'static str {
    OUTBOX_STATES[outbox_state_place(state)]
}

/// The name of an event of the outbox.
pub const fn outbox_event(event: OutboxEvent) -> &'static str {
    OUTBOX_EVENTS[outbox_event_place(event)]
}

/// The events of one walk of the outbox, for it has no end. Eight show the same edges.
const STEPS: usize = 7;

/// The steps of the outbox that two messages of any levels make, in up to 7 events.
pub fn outbox() -> Edges {
    let mut edges = Edges::new(&OUTBOX_STATES);
    for level in [Level::Acked, Level::Received, Level::Written] {
        let config = OutboxConfig {
            max_messages: 2,
            window_messages: 2,
            retry_budget: 1,
            suspect_limit: 2,
            ack_limit: Duration::from_millis(1_010),
            nack_delay: Duration::from_millis(1_100),
            nack_delay_cap: Duration::from_millis(1_100),
            receipt_repeat_interval: Duration::from_millis(1_001),
            level,
            ..OutboxConfig::default()
        };
        let first = match Outbox::new(config, OutboxId::new(1)) {
            Ok(first) => first,
            Err(error) => panic!("{error}"),
        };
        walk(
            &mut edges,
            Walker { machine: first, now: Instant::ZERO, ups: 0, pinged: Seq::new(0), left: STEPS },
            |walker| (walker.machine.view(), walker.pinged, walker.left),
            |walker| outbox_state(walker.machine.state()),
            Walker::steps,
        );
    }
    edges
}

#[derive(Clone)]
struct Walker {
    machine: Outbox,
    now: Instant,
    ups: u64,
    /// The last message that the newest ping was sent behind.
    pinged: Seq,
    left: usize,
}

impl Walker {
    fn steps(&self) -> Vec<Step<Self>> {
        use OutboxEvent as E;
        if self.left == 0 {
            return Vec::new();
        }
        let a = Attempt::new(self.ups);
        let head = self.machine.watermark();
        let mut events = vec![
            E::Up(Attempt::new(self.ups + 1)),
            E::Down { accused: false },
            E::Down { accused: true },
            E::Flushed(a),
            E::Ponged(a, self.pinged),
            E::Acked(a, Ack::Next),
            E::Nacked(a, Ack::One(head), Nack::Transient),
            E::Nacked(a, Ack::One(head), Nack::Permanent),
            E::NackedFrom(a, MessageId { outbox: OutboxId::new(1), seq: head }, Nack::Transient),
            E::NackedFrom(a, MessageId { outbox: OutboxId::new(1), seq: head }, Nack::Permanent),
            E::Cancel(head),
            E::Close { deadline: self.now + Duration::from_secs(9) },
            E::Paused(a),
            E::Resumed(a),
        ];
        let mut steps = Vec::new();
        if let Some(Deadline { at, timer }) = self.machine.deadline() {
            steps.push(self.told(E::Tick, at, Some(timer)));
        }
        steps.extend(events.drain(..).map(|event| self.told(event, self.now, None)));
        for ttl in [None, Some(Duration::from_millis(1_700))] {
            let mut pushed = Self { left: self.left - 1, ..self.clone() };
            let options = PushOptions { ttl, ..PushOptions::default() };
            if pushed.machine.push(self.now, Body::binary(vec![0]), options).is_ok() {
                steps.push(("", None, pushed));
            }
        }
        steps
    }

    fn told(&self, event: OutboxEvent, now: Instant, timer: Option<Timer>) -> Step<Self> {
        let mut walker = Self { now, left: self.left - 1, ..self.clone() };
        if let OutboxEvent::Up(attempt) = event {
            walker.ups = attempt.get();
        }
        walker.machine.handle(now, event);
        // What is to be sent costs no step: it is sent as soon as it may be.
        loop {
            match walker.machine.poll(Wire::Ready) {
                OutboxOutput::Ping(ping) => walker.pinged = ping.seq,
                OutboxOutput::WaitUntil(_) => break,
                OutboxOutput::Overdue(_)
                | OutboxOutput::Delivered { .. }
                | OutboxOutput::Failed(_)
                | OutboxOutput::Transmit { .. } => {}
            }
        }
        (outbox_event(event), timer, walker)
    }
}

// ---- Inbox ----------------------------------------------------------------------------------------

/// The states of the inbox, in the order in which they are drawn.
pub const INBOX_STATES: [&str; 3] = ["Idle", "Open", "Refusing"];

/// What an inbox is told, in the order in which it is declared.
pub const INBOX_EVENTS: [&str; 4] = ["Connect", "Offer", "Done", "Refuse"];

/// The place of a state in [`INBOX_STATES`].
pub const fn inbox_state_place(state: InboxState) -> usize {
    match state {
        InboxState::Idle => 0,
        InboxState::Open => 1,
        InboxState::Refusing { .. } => 2,
    }
}

/// The events of one walk of the inbox. Seven show the same edges.
const INBOX_STEPS: usize = 5;

/// The steps of an inbox with room for one message of one outbox, in up to 5 events.
pub fn inbox() -> Edges {
    let mut edges = Edges::new(&INBOX_STATES);
    let config = InboxConfig { max_outboxes: 1, max_in_progress: 1 };
    let first = match Inbox::new(config) {
        Ok(first) => first,
        Err(error) => panic!("{error}"),
    };
    walk(
        &mut edges,
        (first, None, INBOX_STEPS),
        Clone::clone,
        |(machine, ..)| INBOX_STATES[inbox_state_place(machine.state())],
        inbox_steps,
    );
    edges
}

type Receiver = (Inbox, Option<Lane>, usize);

fn inbox_steps((machine, lane, left): &Receiver) -> Vec<Step<Receiver>> {
    if *left == 0 {
        return Vec::new();
    }
    let mut steps = Vec::new();
    let mut told = |event, tell: &dyn Fn(&mut Inbox) -> Option<Lane>| {
        let mut machine = machine.clone();
        let newest = tell(&mut machine).or(*lane);
        steps.push((event, None, (machine, newest, left - 1)));
    };
    told("Connect", &|inbox| Some(inbox.connect()));
    for (outbox, seq) in [(1, 1), (1, 2), (2, 1)] {
        let id = MessageId { outbox: OutboxId::new(outbox), seq: Seq::new(seq) };
        for base in [Seq::new(1), id.seq] {
            told("Offer", &|inbox| {
                let _: Option<Offer> = lane.map(|lane| inbox.offer(lane, id, base));
                None
            });
        }
        // What is not in progress is refused, and changes nothing.
        told("Done", &|inbox| inbox.done(id).err().and(None));
        for nack in [Nack::Transient, Nack::Permanent] {
            told("Refuse", &|inbox| inbox.refuse(id, nack).err().and(None));
        }
    }
    if let Some(lane) = *lane {
        told("", &|inbox| inbox.poll(lane).and(None));
    }
    steps
}

// ---- Walking --------------------------------------------------------------------------------------

/// More states than this are not walked through: a machine that has them counts something for ever, and
/// its picture would never be drawn.
const MOST: usize = 100_000;

/// Takes every step out of every state that is reached, and keeps those that lead to another one.
/// A step without a name is no event.
fn walk<S: Clone, V: Eq + Hash>(
    edges: &mut Edges,
    first: S,
    view: impl Fn(&S) -> V,
    name: impl Fn(&S) -> &'static str,
    steps: impl Fn(&S) -> Vec<Step<S>>,
) {
    let mut seen = HashSet::from([view(&first)]);
    let mut pending = vec![first];
    while let Some(state) = pending.pop() {
        for (event, timer, next) in steps(&state) {
            let (from, to) = (name(&state), name(&next));
            if from != to && !event.is_empty() {
                edges.edges.insert(Edge { from, event, timer, to });
            }
            if seen.len() < MOST && seen.insert(view(&next)) {
                pending.push(next);
            }
        }
    }
    edges.states += seen.len();
}

/// A generator that draws nothing but zero.
#[derive(Clone, Debug)]
struct Zero;

impl TryRng for Zero {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(0)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(0)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.fill(0);
        Ok(())
    }
}
