//! Coverage marks: what a simulation must have come across before its silence says anything.
//!
//! A mark is a place that a run can pass, and a count of how often it was passed:
//!
//! - a **cell**: a machine in a state, and an event that reaches it there. `Stale` is any event of
//!   another attempt. `Tick` is the clock being looked at.
//! - an **edge** of the machines' [pictures](crate::diagram): a step from one state to another.
//! - a **rare** conjunction, such as a link that is lost in the middle of a replay: see [`Rare`].
//! - a **loss**: a kind of end of an attempt, as the client counts it.
//!
//! Some cells and edges cannot be reached where the machines live in a client. Each is
//! [listed](Mark::impossible) with the reason, and a run that reaches one all the same has failed. So
//! has one that goes a step which is not on the pictures, and one in which a machine has counted
//! another number of stale events than the marks have: something reached it that nobody said.
//!
//! Counts of many runs are [added](Counts::merge). [`list`] names all marks.

use std::sync::LazyLock;

use bowline_core::{
    Ack, Attempt, Client, ClientConfig, ConnectionEvent, ConnectionState, Dialect, Event,
    FailReason, Fate, Instant, Loss, Nack, OutboxEvent, OutboxOutput, OutboxState, OutboxStats,
    Overflow, Ping, Refused, Seq, Signal, Snapshot, StopReason, Timer, Wire,
};
use rand_core::Rng;

use crate::{
    diagram::{
        self, CONNECTION_EVENTS, CONNECTION_STATES, Edges, INBOX_EVENTS, INBOX_STATES,
        OUTBOX_EVENTS, OUTBOX_STATES, connection_event_place, connection_state_place,
        outbox_event_place, outbox_state_place,
    },
    op::{ClientOp, Op},
    watched::InboxStep,
};

/// One place that a run can pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// What it is called.
    pub name: String,
    /// What it means, where the name does not say all.
    pub about: &'static str,
    /// Why no run can pass it, if none can.
    pub impossible: Option<&'static str>,
}

macro_rules! rare {
    ($($(#[doc = $about:literal])+ $name:ident,)*) => {
        /// A rare conjunction. Each is seen from outside, by what the client shows.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Rare {
            $($(#[doc = $about])+ $name,)*
        }

        impl Rare {
            /// All of them, with what each means.
            pub const ALL: &[(Self, &str)] = &[$((Self::$name, concat!($($about),+)),)*];
        }
    };
}

rare! {
    /// The link was lost again before all that had been transmitted was sent again.
    SecondLossInAReplay,
    /// The link was lost before the replay began.
    LossBeforeTheReplay,
    /// The link was lost while the outbox drained.
    LossInADrain,
    /// The link was lost with no room left in the queue.
    LossWithAFullQueue,
    /// A Close blamed a message, and one was in flight alone.
    AccusedAlone,
    /// A Close blamed a message, and several were in flight.
    AccusedWithOthers,
    /// An ack came on an old attempt that would have settled a message on this one.
    StaleAckThatWouldMatch,
    /// A pong came on an old attempt that would have settled a message on this one.
    StalePongThatWouldMatch,
    /// The pong to a ping of an old attempt came on this one, and its number would have been good.
    EchoThatWouldMatch,
    /// A pong came to a ping that was sent before a nack called messages back, when one of these was
    /// in flight again.
    PongToAnOutdatedPing,
    /// An ack settled a message when a time to live had run out and the clock was not looked at.
    AckAndExpiryAtOnce,
    /// A delivery and an expiry were reported in one drain.
    DeliveredAndExpiredInOneDrain,
    /// An ack settled a message though an earlier one was not settled.
    AckOutOfOrder,
    /// An answer came to a message that was settled already.
    AnswerToASettledMessage,
    /// An answer came that no honest peer can give.
    IllegalAnswer,
    /// An ack settled a message that an earlier process had pushed.
    AckOfAFormerLife,
    /// What ended a suspicion was an ack that settled a message.
    AckAfterSuspicion,
    /// A suspected head made progress after all.
    SuspectedAndDelivered,
    /// A nack for the moment came while the outbox drained.
    NackInADrain,
    /// A message other than the head was refused for the moment.
    NackOfAnotherThanTheHead,
    /// The head was cancelled in flight.
    CancelOfTheHeadInFlight,
    /// A message was cancelled that was in flight on an earlier attempt only.
    CancelBeforeItsReplay,
    /// A nudge found no backoff of its own but a server's Retry-After.
    NudgeAgainstRetryAfter,
    /// A nudge shortened a backoff, but no further than its floor.
    NudgeAtTheFloor,
    /// A nudge dialed at once.
    NudgeThatDials,
    /// Reading stopped with messages in flight and others behind them.
    PauseInABatch,
    /// The peer was heard when the verdict on it was due, before the clock was looked at.
    HeardAtTheLastMoment,
    /// `Stop` came with messages in flight.
    StopWithMessagesInFlight,
    /// `Stop` came while the outbox drained.
    StopInADrain,
    /// `Start` came after a stop, with messages that had been transmitted.
    StartWithABacklog,
    /// The client gave up.
    GaveUp,
    /// A loss was fatal.
    Fatal,
    /// An HTTP status that would have been fatal was not, because a link was up before.
    FatalNotBelieved,
    /// A server asked for a longer delay than its cap.
    RetryAfterAboveTheCap,
    /// The wire was blocked while a suspect connection waited for its ping or pong.
    BlockedWhileSuspect,
    /// The client was told an earlier time than before.
    TimeRanBackwards,
    /// A message took the place of one with its key.
    CoalescedOntoAQueuedOne,
    /// A message was evicted, and one in front of it was spared because it had been transmitted.
    EvictionSparedATransmittedOne,
    /// An outbox that evicts had nothing to evict.
    NothingToEvict,
    /// A push was refused because the outbox was full.
    RefusedFull,
    /// A push was refused because of its size.
    RefusedTooLarge,
    /// A push was refused because the outbox was closed.
    RefusedClosed,
    /// A push was refused because of its level.
    RefusedLevel,
    /// The process died with messages in flight that its snapshot had.
    RestoreWithMessagesInFlight,
    /// The process died in the middle of a replay.
    CrashInAReplay,
    /// The process died in the pause after a nack.
    RestoreInANackPause,
    /// The process died with a message transmitted that no snapshot had.
    CrashWithAnUnsavedMessageSent,
    /// A message failed: its budget was used up.
    ExhaustedMaybeDelivered,
    /// A message failed: the peer refused it for good.
    RejectedMaybeDelivered,
    /// A message expired that was never sent.
    ExpiredNotSent,
    /// A message expired that was sent.
    ExpiredMaybeDelivered,
    /// A message was cancelled that was never sent.
    CancelledNotSent,
    /// A message was cancelled that was sent.
    CancelledMaybeDelivered,
    /// A message failed because connections died with it.
    SuspectedMaybeDelivered,
    /// `Stop` came in the middle of a drain, with a message left to hand over.
    StopBetweenTwoSends,
    /// `Close` came in the middle of a drain, with a message left to hand over.
    CloseBetweenTwoSends,
    /// A message was cancelled in the middle of a drain, with a message left to hand over.
    CancelBetweenTwoSends,
    /// The process died in the middle of a drain, with a message left to hand over.
    CrashBetweenTwoSends,
    /// `Stop` came with no room left in the queue, on a wire that was blocked.
    StopWithAFullQueueAndABlockedWire,
    /// The stream ended in the middle of a frame.
    EofInAFrame,
    /// The connection was reset in the middle of a frame.
    ResetInAFrame,
    /// The stream ended, or the connection was reset, right behind a frame.
    EndBehindAFrame,
    /// The peer died when an ack of its had not reached the client.
    AckThenCrash,
    /// The peer acknowledged a message that it had when it died, and had not answered then.
    CrashThenAck,
    /// An ack settled a message behind one that was refused for the moment, in the pause after that.
    AckBehindANack,
    /// A beat of the dialect went.
    Beat,
    /// A beat of the dialect went on a link with messages in flight and others behind them.
    BeatInABatch,
    /// A link came up on a transport that cannot ping.
    UpWithoutPings,
    /// An answer was overdue on a transport that cannot ping.
    OverdueWithoutPings,
    /// A drain returned a message that was never sent.
    ReturnedNotSent,
    /// A drain returned a message that was sent.
    ReturnedMaybeDelivered,
}

/// The column of events of another attempt.
const STALE: &str = "Stale";
const CONNECTION_COLUMNS: usize = CONNECTION_EVENTS.len() + 1;
const OUTBOX_COLUMNS: usize = OUTBOX_EVENTS.len() + 1;
const INBOX_COLUMNS: usize = INBOX_EVENTS.len() + 1;
const CONNECTION_STALE: usize = CONNECTION_EVENTS.len();
const OUTBOX_STALE: usize = OUTBOX_EVENTS.len();
const INBOX_STALE: usize = INBOX_EVENTS.len();

const OUTBOX_CELLS: usize = CONNECTION_STATES.len() * CONNECTION_COLUMNS;
const INBOX_CELLS: usize = OUTBOX_CELLS + OUTBOX_STATES.len() * OUTBOX_COLUMNS;
const RARE: usize = INBOX_CELLS + INBOX_STATES.len() * INBOX_COLUMNS;
const LOSSES: usize = RARE + Rare::ALL.len();

/// Why the event never reaches the connection in the state.
fn impossible_for_connection(state: &str, event: &str) -> Option<&'static str> {
    match (state, event) {
        (
            "Idle" | "Dialing" | "Waiting" | "Closing" | "Stopped",
            "Ponged" | "Greeted" | "Refused",
        ) => Some("a client drops the frames of a connection that is not open"),
        ("Idle" | "Dialing" | "Greeting" | "Waiting" | "Closing" | "Stopped", "Overdue") => {
            Some("the outbox asks only for the end of a link that is up")
        }
        ("Suspect", "Ponged") => {
            Some("a driver says that bytes came before it reads a frame, which ends the suspicion")
        }
        ("Suspect", "Greeted" | "Refused") => {
            Some("a client says that the peer was heard before it reads what was said")
        }
        ("Idle", STALE) => Some("an idle client has not dialed: there is no other attempt"),
        _ => None,
    }
}

/// Why the event never reaches the outbox in the state.
fn impossible_for_outbox(state: &str, event: &str) -> Option<&'static str> {
    match (state, event) {
        ("Down", "Down") => Some("a client says that a link is down once, after it was up"),
        ("Open" | "Probing" | "Held", "Up") => {
            Some("a client says that a link is down before the next one can be up")
        }
        ("Down", "Flushed" | "Ponged") => {
            Some("a client passes flushes and pongs on only while its outbox has a link")
        }
        ("Down", STALE) => Some("a link that is down has no attempt: the event's own cell counts"),
        _ => None,
    }
}

/// Why an inbox is never told this in the state.
fn impossible_for_inbox(state: &str, event: &str) -> Option<&'static str> {
    match (state, event) {
        ("Idle", "Offer" | STALE) => Some("a lane comes with a connection"),
        ("Idle", "Done" | "Refuse") => Some("nothing is in progress before a first connection"),
        _ => None,
    }
}

/// Why a client never goes along an edge of the outbox.
fn impossible_edge_of_outbox(edge: &diagram::Edge) -> Option<&'static str> {
    let evidence = ["Acked", "Flushed", "Nacked", "NackedFrom", "Ponged"];
    if edge.event == "Up" && edge.from != "Down" {
        return impossible_for_outbox(edge.from, "Up");
    }
    // A refusal of all behind a message always holds, if only until the clock is looked at.
    let pause_ends = (edge.from, edge.event) == ("Probing", "NackedFrom") && edge.to == "Open";
    if edge.from == "Held" && evidence.contains(&edge.event) || pause_ends {
        return Some(
            "a client looks at no clock before all is read: the tick that follows does it",
        );
    }
    // `look_at_clock` relays until nothing moves: settled and closed is stopped, and so down.
    (edge.from == "Held" && edge.timer == Some(Timer::Drain)).then_some(
        "the end of a drain settles all, which stops the client before anything is seen of it",
    )
}

/// An edge by places.
#[derive(Clone, Copy, Debug)]
struct Step {
    from: usize,
    event: usize,
    timer: Option<Timer>,
    to: usize,
    mark: usize,
}

#[derive(Debug)]
struct Book {
    marks: Vec<Mark>,
    /// Those that cannot be passed.
    impossible: Vec<usize>,
    connection: Vec<Step>,
    outbox: Vec<Step>,
    inbox: Vec<Step>,
}

static BOOK: LazyLock<Book> = LazyLock::new(Book::new);

impl Book {
    fn new() -> Self {
        let mut marks = Vec::new();
        let mut cells = |machine: &str,
                         states: &[&str],
                         events: &[&'static str],
                         why: fn(&str, &str) -> Option<&'static str>| {
            for state in states {
                for event in events.iter().copied().chain([STALE]) {
                    let name = format!("{machine}: {state} × {event}");
                    marks.push(Mark { name, about: "", impossible: why(state, event) });
                }
            }
        };
        cells("Connection", &CONNECTION_STATES, &CONNECTION_EVENTS, impossible_for_connection);
        cells("Outbox", &OUTBOX_STATES, &OUTBOX_EVENTS, impossible_for_outbox);
        cells("Inbox", &INBOX_STATES, &INBOX_EVENTS, impossible_for_inbox);
        for (rare, about) in Rare::ALL {
            marks.push(Mark { name: format!("{rare:?}"), about: about.trim(), impossible: None });
        }
        for kind in Loss::KINDS {
            marks.push(Mark { name: format!("Loss: {kind}"), about: "", impossible: None });
        }
        let mut steps = |machine: &str,
                         edges: &Edges,
                         states: &[&str],
                         events: &[&str],
                         why: fn(&diagram::Edge) -> Option<&'static str>| {
            let place = |names: &[&str], name| {
                names.iter().position(|other| *other == name).expect("a name of the machine")
            };
            edges
                .iter()
                .map(|edge| {
                    let timer = edge.timer.map_or(String::new(), |timer| format!(" ({timer:?})"));
                    let name =
                        format!("{machine}: {} → {} on {}{timer}", edge.from, edge.to, edge.event);
                    let mark = marks.len();
                    marks.push(Mark { name, about: "", impossible: why(edge) });
                    Step {
                        from: place(states, edge.from),
                        event: place(events, edge.event),
                        timer: edge.timer,
                        to: place(states, edge.to),
                        mark,
                    }
                })
                .collect()
        };
        let connection = steps(
            "Connection",
            &diagram::connection(),
            &CONNECTION_STATES,
            &CONNECTION_EVENTS,
            |edge| impossible_for_connection(edge.from, edge.event),
        );
        let outbox = steps(
            "Outbox",
            &diagram::outbox(),
            &OUTBOX_STATES,
            &OUTBOX_EVENTS,
            impossible_edge_of_outbox,
        );
        let inbox = steps("Inbox", &diagram::inbox(), &INBOX_STATES, &INBOX_EVENTS, |_| None);
        let is_impossible = |mark: &usize| marks[*mark].impossible.is_some();
        let impossible = (0..marks.len()).filter(is_impossible).collect();
        Self { marks, impossible, connection, outbox, inbox }
    }
}

/// All marks, in a fixed order: cells, rare conjunctions, losses, edges.
pub fn list() -> &'static [Mark] {
    &BOOK.marks
}

/// How often each mark was passed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counts(Box<[u64]>);

impl Default for Counts {
    /// None was passed.
    fn default() -> Self {
        Self(vec![0; list().len()].into())
    }
}

impl Counts {
    /// Adds the counts of another run.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine += theirs;
        }
    }

    /// Each mark with its count.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Mark, u64)> {
        list().iter().zip(self.0.iter().copied())
    }

    /// The marks that can be passed, the rarest first.
    pub fn rarest(&self) -> Vec<(&'static Mark, u64)> {
        let mut marks: Vec<_> = self.iter().filter(|(mark, _)| mark.impossible.is_none()).collect();
        marks.sort_by_key(|(_, count)| *count);
        marks
    }

    /// How often a rare conjunction was seen.
    pub fn of(&self, rare: Rare) -> u64 {
        self.0[RARE + rare as usize]
    }
}

/// What the connection counts as stale besides events of another attempt.
const fn is_stale_row(state: usize, event: usize) -> bool {
    let (io, opened, greeted) = (event >= 1 && event <= 11, event == 1, event == 2);
    match state {
        // Idle, Waiting, Stopped.
        0 | 5 | 7 => io,
        // Dialing: Greeted, Paused, Resumed, Refused, Overdue.
        1 => greeted || event >= 7 && event <= 10,
        // Greeting: Opened, Overdue.
        2 => opened || event == 10,
        // Up, Suspect.
        3 | 4 => opened || greeted,
        // Closing: Opened, Greeted, Refused, Overdue.
        _ => opened || greeted || event == 9 || event == 10,
    }
}

const fn bit(event: usize) -> u32 {
    1 << event
}

const C_GREETED: usize = connection_event_place(ConnectionEvent::Greeted(Attempt::NONE));
const C_OVERDUE: usize = connection_event_place(ConnectionEvent::Overdue(Attempt::NONE));
const C_STOP: usize = connection_event_place(ConnectionEvent::Stop);
const C_HEARD: usize = connection_event_place(ConnectionEvent::Heard(Attempt::NONE));
const O_UP: usize = outbox_event_place(OutboxEvent::Up(Attempt::NONE));
const O_DOWN: usize = outbox_event_place(OutboxEvent::Down { accused: false });
const O_TICK: usize = outbox_event_place(OutboxEvent::Tick);
/// The place of the state `Down` of the outbox.
const DOWN: usize = 0;
const UP: usize = 3;
const WAITING: usize = 5;
const STOPPED: usize = 7;
const SUSPECT: usize = 4;

/// What is about to be seen.
#[derive(Clone, Copy, Debug, Default)]
enum Pending {
    #[default]
    Nothing,
    /// The backoff before a nudge: when it ends, and whether it can be shortened.
    Nudge(Instant, bool),
    /// A message is cancelled: whether it is the head, messages in flight, whether it was sent.
    Cancel { is_head: bool, in_flight: usize, sent: bool, failed: u64 },
    /// Messages in flight at a loss.
    Lost(usize, Loss),
}

/// Watches one client. Say each thing before it happens, and [`after`](Self::after) it did.
#[derive(Debug)]
pub(crate) struct Watch {
    counts: Counts,
    book: &'static Book,
    retry_after_cap: core::time::Duration,
    connection: usize,
    outbox: usize,
    /// Events that may be the cause of the next steps, as bits.
    causes: (u32, u32),
    /// The outbox's own timer that has run out first, if that matters.
    timer: Option<Timer>,
    /// A nack delay has run out too.
    resumes: bool,
    pending: Pending,
    /// The attempt of the link that the outbox has.
    told: Attempt,
    /// Stale events that each machine must have counted.
    stale: (u64, u64),
    latest: Instant,
    /// The last message that was transmitted on any attempt of this life.
    ever_sent: Seq,
    /// The last one that was transmitted before this link came up, 0 if all of it was settled.
    backlog_to: Seq,
    /// The last one transmitted on this link since the cursor went back.
    sent: Seq,
    /// Pings that were sent in this life.
    pings: u64,
    /// How many of them were sent before a nack called messages back, the last of these messages,
    /// and the last of them that was sent again.
    outdated: (u64, Seq, Seq),
    /// The peer was heard again after a suspicion, in this turn.
    cleared: bool,
    delivered: bool,
    expired: bool,
    /// The wire was blocked at the end of the last drain.
    blocked: bool,
    fault: Option<String>,
}

impl Watch {
    pub(crate) fn new(config: &ClientConfig) -> Self {
        Self {
            counts: Counts::default(),
            book: &BOOK,
            retry_after_cap: config.connection.retry_after_cap,
            connection: 0,
            outbox: 0,
            causes: (0, 0),
            timer: None,
            resumes: false,
            pending: Pending::Nothing,
            told: Attempt::NONE,
            stale: (0, 0),
            latest: Instant::ZERO,
            ever_sent: Seq::new(0),
            backlog_to: Seq::new(0),
            sent: Seq::new(0),
            pings: 0,
            outdated: (0, Seq::new(0), Seq::new(0)),
            cleared: false,
            delivered: false,
            expired: false,
            blocked: false,
            fault: None,
        }
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What should not have been reached, if something was.
    pub(crate) fn take_fault(&mut self) -> Option<String> {
        self.fault.take()
    }

    pub(crate) fn has_fault(&self) -> bool {
        self.fault.is_some()
    }

    fn hit(&mut self, mark: usize) {
        self.counts.0[mark] += 1;
    }

    fn rare(&mut self, rare: Rare) {
        self.counts.0[RARE + rare as usize] += 1;
    }

    fn rare_if(&mut self, seen: bool, rare: Rare) {
        self.counts.0[RARE + rare as usize] += u64::from(seen);
    }

    /// An event reaches the connection.
    fn connection<D: Dialect, R: Rng>(&mut self, client: &Client<D, R>, event: ConnectionEvent) {
        let place = connection_event_place(event);
        if event.attempt().is_some_and(|a| a != client.connection().attempt()) {
            self.stale.0 += 1;
            return self.hit(self.connection * CONNECTION_COLUMNS + CONNECTION_STALE);
        }
        self.stale.0 += u64::from(is_stale_row(self.connection, place));
        self.causes.0 |= bit(place);
        self.hit(self.connection * CONNECTION_COLUMNS + place);
    }

    /// An event reaches the outbox.
    fn outbox(&mut self, event: OutboxEvent) {
        let place = outbox_event_place(event);
        let cells = OUTBOX_CELLS + self.outbox * OUTBOX_COLUMNS;
        if let Some(attempt) = event.attempt() {
            if self.outbox == DOWN {
                self.stale.1 += 1;
            } else if attempt != self.told {
                self.stale.1 += 1;
                return self.hit(cells + OUTBOX_STALE);
            }
        }
        self.causes.1 |= bit(place);
        self.hit(cells + place);
    }

    /// The peer's inbox was told something.
    pub(crate) fn inbox(&mut self, InboxStep { from, event, to }: InboxStep, times: u64) {
        let cell = INBOX_CELLS + from * INBOX_COLUMNS + event.unwrap_or(INBOX_STALE);
        self.counts.0[cell] += times;
        if from == to {
            return;
        }
        let fits = |step: &&Step| (step.from, Some(step.event), step.to) == (from, event, to);
        match self.book.inbox.iter().find(fits) {
            Some(step) => self.counts.0[step.mark] += times,
            None => {
                let causes = event.map_or(0, bit);
                let (from, to) = (INBOX_STATES[from], INBOX_STATES[to]);
                self.off_the_picture("Inbox", from, to, causes, &INBOX_EVENTS);
            }
        }
    }

    // ---- Before -----------------------------------------------------------------------------------

    /// An event is said.
    pub(crate) fn say<D: Dialect, R: Rng>(
        &mut self,
        client: &Client<D, R>,
        now: Instant,
        event: &Event<D::Credentials>,
    ) {
        use ConnectionEvent as C;
        use OutboxEvent as O;
        self.causes = (0, 0);
        self.rare_if(now < self.latest, Rare::TimeRanBackwards);
        self.latest = self.latest.max(now);
        match event {
            Event::Tick => self.cleared = false,
            Event::Heard(a) => {
                if self.connection == SUSPECT
                    && *a == client.connection().attempt()
                    && client.connection().deadline().is_some_and(|d| d.at.has_passed(self.latest))
                {
                    self.rare(Rare::HeardAtTheLastMoment);
                }
                return self.connection(client, C::Heard(*a));
            }
            Event::Took(a) => return self.connection(client, C::Took(*a)),
            Event::Flushed(a) => {
                self.connection(client, C::Flushed(*a));
                if self.outbox != DOWN {
                    self.outbox(O::Flushed(*a));
                }
                return;
            }
            Event::Opened(opened) => {
                self.connection(client, C::Opened(opened.attempt));
                // What greets nobody is greeted at once.
                self.causes.0 |= bit(C_GREETED);
                return;
            }
            Event::Paused(a) => {
                let outbox = client.outbox();
                let batch = outbox.in_flight().messages > 0 && outbox.queued() > 0;
                self.rare_if(batch && *a == self.told, Rare::PauseInABatch);
                self.connection(client, C::Paused(*a));
                return self.outbox(O::Paused(*a));
            }
            Event::Resumed(a) => {
                self.connection(client, C::Resumed(*a));
                return self.outbox(O::Resumed(*a));
            }
            Event::Lost(a, loss) => {
                if *a == client.connection().attempt() {
                    self.pending = Pending::Lost(client.outbox().in_flight().messages, *loss);
                }
                return self.connection(client, C::Lost(*a, *loss));
            }
            Event::Start => {
                let outbox = client.outbox();
                let backlog = outbox.queued() > 0 && outbox.watermark() <= self.ever_sent;
                self.rare_if(backlog && self.connection == STOPPED, Rare::StartWithABacklog);
                self.connection(client, C::Start);
            }
            Event::Nudge => {
                if let ConnectionState::Waiting { redial_at, nudgeable } =
                    client.connection().state()
                {
                    self.pending = Pending::Nudge(redial_at, nudgeable);
                }
                self.connection(client, C::Nudge);
            }
            Event::Stop => {
                let outbox = client.outbox();
                self.rare_if(outbox.in_flight().messages > 0, Rare::StopWithMessagesInFlight);
                self.rare_if(outbox.is_closed() && !outbox.is_settled(), Rare::StopInADrain);
                let full = outbox.held().messages == outbox.config().max_messages;
                let stuck = self.blocked && self.outbox != DOWN;
                self.rare_if(full && stuck, Rare::StopWithAFullQueueAndABlockedWire);
                self.connection(client, C::Stop);
            }
            Event::Cancel(seq) => {
                let outbox = client.outbox();
                self.pending = Pending::Cancel {
                    is_head: *seq == outbox.watermark(),
                    in_flight: outbox.in_flight().messages,
                    sent: *seq <= self.ever_sent,
                    failed: outbox.stats().failed[FailReason::Cancelled as usize],
                };
                self.outbox(O::Cancel(*seq));
            }
            Event::Close { deadline } => self.outbox(O::Close { deadline: *deadline }),
        }
        // These look at the clock.
        self.connection(client, C::Tick);
        self.outbox(O::Tick);
        self.holds(client);
    }

    /// The outbox is about to look at the clock: what may end its pause.
    fn holds<D: Dialect, R: Rng>(&mut self, client: &Client<D, R>) {
        if let OutboxState::Held { resume_at } = client.outbox().state() {
            let due = client.outbox().deadline().filter(|d| d.at.has_passed(self.latest));
            self.timer = due.map(|deadline| deadline.timer);
            self.resumes = resume_at.has_passed(self.latest);
        }
    }

    /// A frame of data is received; says what the outbox has counted so far, if it reaches the
    /// machines.
    pub(crate) fn receive<D: Dialect, R: Rng>(
        &mut self,
        client: &Client<D, R>,
        now: Instant,
        attempt: Attempt,
    ) -> Option<Before> {
        self.latest = self.latest.max(now);
        self.causes = (0, 0);
        if !self.is_open(client, attempt) {
            return None;
        }
        self.connection(client, ConnectionEvent::Heard(attempt));
        let outbox = client.outbox();
        let expiring = outbox
            .deadline()
            .is_some_and(|due| due.timer == Timer::Expiry && due.at.has_passed(now));
        Some(Before {
            stats: outbox.stats(),
            head: outbox.watermark(),
            suspected: outbox.suspected(),
            expiring,
            outbox: self.outbox,
        })
    }

    /// The frame said this.
    pub(crate) fn signalled<D: Dialect, R: Rng>(
        &mut self,
        client: &Client<D, R>,
        attempt: Attempt,
        before: &Before,
        place: usize,
        signal: Signal,
    ) {
        use ConnectionEvent as C;
        use OutboxEvent as O;
        // Of later signals in a frame that has moved the outbox, nobody knows what they met.
        let moved = outbox_state_place(client.outbox().state()) != before.outbox;
        let event = match signal {
            Signal::Greeted => return self.connection(client, C::Greeted(attempt)),
            Signal::Refused(refusal) => {
                return self.connection(client, C::Refused(attempt, refusal));
            }
            Signal::Violation => return,
            Signal::Ack(ack) => O::Acked(attempt, ack),
            Signal::Nack(which, nack) => O::Nacked(attempt, which, nack),
            Signal::NackFrom(id, nack) => O::NackedFrom(attempt, id, nack),
        };
        if place == 0 || !moved || self.outbox == DOWN {
            self.outbox(event);
        } else {
            self.causes.1 |= bit(outbox_event_place(event));
        }
        let (was, is) = (&before.stats, client.outbox().stats());
        let settles = is.delivered > was.delivered;
        if place == 0 {
            self.rare_if(is.duplicates > was.duplicates, Rare::AnswerToASettledMessage);
            self.rare_if(is.violations > was.violations, Rare::IllegalAnswer);
            self.rare_if(settles && before.expiring, Rare::AckAndExpiryAtOnce);
            self.rare_if(settles && self.cleared, Rare::AckAfterSuspicion);
            let out_of_order = settles && client.outbox().watermark() == before.head;
            self.rare_if(out_of_order, Rare::AckOutOfOrder);
            let held = OUTBOX_STATES[before.outbox] == "Held";
            self.rare_if(out_of_order && held, Rare::AckBehindANack);
            let progress = before.suspected.is_some_and(|seq| seq < client.outbox().watermark());
            self.rare_if(settles && progress, Rare::SuspectedAndDelivered);
        }
        match signal {
            Signal::Ack(Ack::OneOf(id) | Ack::UpToOf(id)) if place == 0 => {
                let former = id.outbox != client.outbox().id();
                self.rare_if(settles && former, Rare::AckOfAFormerLife);
            }
            Signal::Nack(_, Nack::Transient) | Signal::NackFrom(_, Nack::Transient) => {
                let held = OUTBOX_STATES[outbox_state_place(client.outbox().state())] == "Held";
                self.rare_if(held && client.outbox().is_closed(), Rare::NackInADrain);
                let other = is.charges == was.charges && is.failed == was.failed;
                self.rare_if(held && moved && other, Rare::NackOfAnotherThanTheHead);
            }
            _ => {}
        }
    }

    /// An ack comes on an old attempt, and this is what it says.
    pub(crate) fn stale_signals<D: Dialect, R: Rng>(
        &mut self,
        client: &Client<D, R>,
        now: Instant,
        signals: &[Signal],
    ) {
        let acks = signals.iter().filter_map(|signal| match signal {
            Signal::Ack(ack) => Some(*ack),
            _ => None,
        });
        for ack in acks {
            let event = OutboxEvent::Acked(client.connection().attempt(), ack);
            self.rare_if(would_settle(client, now, event), Rare::StaleAckThatWouldMatch);
        }
    }

    /// A pong is received.
    pub(crate) fn pong<D: Dialect, R: Rng>(
        &mut self,
        client: &Client<D, R>,
        now: Instant,
        attempt: Attempt,
        ping: Option<Ping>,
        place: Option<u64>,
    ) {
        self.latest = self.latest.max(now);
        self.causes = (0, 0);
        let current = client.connection().attempt();
        if !self.is_open(client, attempt) {
            if let Some(ping) = ping.filter(|ping| ping.attempt == current && attempt != current) {
                let event = OutboxEvent::Ponged(current, ping.seq);
                self.rare_if(would_settle(client, now, event), Rare::StalePongThatWouldMatch);
            }
            return;
        }
        let Some(ping) = ping.filter(|ping| ping.attempt == attempt) else {
            if let Some(ping) = ping {
                let event = OutboxEvent::Ponged(current, ping.seq);
                self.rare_if(would_settle(client, now, event), Rare::EchoThatWouldMatch);
            }
            return self.connection(client, ConnectionEvent::Heard(attempt));
        };
        self.connection(client, ConnectionEvent::Ponged(attempt));
        if self.outbox != DOWN {
            let (before, _, again) = self.outdated;
            let outdated = place.is_some_and(|place| place <= before);
            let in_flight =
                client.outbox().in_flight().messages > 0 && client.outbox().watermark() <= again;
            self.rare_if(outdated && in_flight, Rare::PongToAnOutdatedPing);
            self.outbox(OutboxEvent::Ponged(attempt, ping.seq));
        }
    }

    fn is_open<D: Dialect, R: Rng>(&self, client: &Client<D, R>, attempt: Attempt) -> bool {
        attempt == client.connection().attempt()
            && matches!(
                client.connection().state(),
                ConnectionState::Greeting { .. }
                    | ConnectionState::Up { .. }
                    | ConnectionState::Suspect { .. }
            )
    }

    /// A message is pushed, or a poll begins: nothing but time and the arrows.
    pub(crate) fn poll(&mut self) {
        self.causes = (0, 0);
    }

    /// A push looks at the outbox's clock.
    pub(crate) fn push<D: Dialect, R: Rng>(&mut self, client: &Client<D, R>, now: Instant) {
        self.latest = self.latest.max(now);
        self.causes = (0, bit(O_TICK));
        self.holds(client);
    }

    // ---- What is seen -------------------------------------------------------------------------------

    pub(crate) fn message_sent(&mut self, seq: Seq) {
        self.ever_sent = self.ever_sent.max(seq);
        self.sent = seq;
        if seq <= self.outdated.1 {
            self.outdated.2 = seq;
        }
    }

    /// A ping is sent; says its place among those of this life.
    pub(crate) fn ping_sent(&mut self) -> u64 {
        self.pings += 1;
        self.pings
    }

    /// The wire as it was when the drain was over.
    pub(crate) fn wire(&mut self, wire: Wire) {
        self.blocked = wire == Wire::Blocked;
        let suspect = self.connection == SUSPECT;
        self.rare_if(self.blocked && suspect, Rare::BlockedWhileSuspect);
    }

    pub(crate) fn displaced(&mut self, head: Seq, seq: Seq, coalesced: bool) {
        self.rare_if(coalesced, Rare::CoalescedOntoAQueuedOne);
        let spared = !coalesced && head < seq && head <= self.ever_sent;
        self.rare_if(spared, Rare::EvictionSparedATransmittedOne);
    }

    pub(crate) fn refused(&mut self, reason: Refused, overflow: Overflow) {
        self.rare(match reason {
            Refused::Full => Rare::RefusedFull,
            Refused::TooLarge { .. } => Rare::RefusedTooLarge,
            Refused::Closed => Rare::RefusedClosed,
            Refused::Level { .. } => Rare::RefusedLevel,
        });
        let evicts = reason == Refused::Full && overflow == Overflow::EvictOldest;
        self.rare_if(evicts, Rare::NothingToEvict);
    }

    pub(crate) fn delivered(&mut self) {
        self.delivered = true;
    }

    pub(crate) fn failed(&mut self, reason: FailReason, fate: Fate) {
        let mark = match (reason, fate) {
            (FailReason::Exhausted, Fate::MaybeDelivered) => Rare::ExhaustedMaybeDelivered,
            (FailReason::Rejected, Fate::MaybeDelivered) => Rare::RejectedMaybeDelivered,
            (FailReason::Suspected, Fate::MaybeDelivered) => Rare::SuspectedMaybeDelivered,
            (FailReason::Expired, Fate::NotSent) => Rare::ExpiredNotSent,
            (FailReason::Expired, Fate::MaybeDelivered) => Rare::ExpiredMaybeDelivered,
            (FailReason::Cancelled, Fate::NotSent) => Rare::CancelledNotSent,
            (FailReason::Cancelled, Fate::MaybeDelivered) => Rare::CancelledMaybeDelivered,
            (FailReason::Returned, Fate::NotSent) => Rare::ReturnedNotSent,
            (FailReason::Returned, Fate::MaybeDelivered) => Rare::ReturnedMaybeDelivered,
            (
                FailReason::Exhausted | FailReason::Rejected | FailReason::Suspected,
                Fate::NotSent,
            ) => {
                let text = format!("{reason:?} is impossible for what was never sent");
                self.fault.get_or_insert(text);
                return;
            }
        };
        self.rare(mark);
        self.expired |= reason == FailReason::Expired;
    }

    /// This op comes in the middle of a drain.
    pub(crate) fn in_a_drain<D: Dialect, R: Rng>(&mut self, client: &Client<D, R>, op: &Op) {
        let mark = match op {
            Op::Client(ClientOp::Stop) => Rare::StopBetweenTwoSends,
            Op::Client(ClientOp::Close(_)) => Rare::CloseBetweenTwoSends,
            Op::Client(ClientOp::Cancel(_)) => Rare::CancelBetweenTwoSends,
            Op::Client(ClientOp::Crash) => Rare::CrashBetweenTwoSends,
            _ => return,
        };
        let next = client.outbox().clone().poll(Wire::Ready);
        self.rare_if(matches!(next, OutboxOutput::Transmit { .. }), mark);
    }

    /// A beat is sent.
    pub(crate) fn beat<D: Dialect, R: Rng>(&mut self, client: &Client<D, R>) {
        self.rare(Rare::Beat);
        let outbox = client.outbox();
        let batch = outbox.in_flight().messages > 0 && outbox.queued() > 0;
        self.rare_if(batch, Rare::BeatInABatch);
    }

    /// The connection broke in the middle of a frame, or behind one.
    pub(crate) fn broke(&mut self, loss: Loss, in_a_frame: bool) {
        self.rare(match (loss, in_a_frame) {
            (Loss::Eof, true) => Rare::EofInAFrame,
            (_, true) => Rare::ResetInAFrame,
            (_, false) => Rare::EndBehindAFrame,
        });
    }

    /// The peer's process dies: whether an ack of its is under way.
    pub(crate) fn peer_dies(&mut self, acks: bool) {
        self.rare_if(acks, Rare::AckThenCrash);
    }

    /// The peer takes a message that it had when it died: whether it acknowledges that.
    pub(crate) fn answered_after_death(&mut self, acks: bool) {
        self.rare_if(acks, Rare::CrashThenAck);
    }

    /// A drain is over.
    pub(crate) fn drained(&mut self) {
        self.rare_if(self.delivered && self.expired, Rare::DeliveredAndExpiredInOneDrain);
        self.delivered = false;
        self.expired = false;
    }

    /// The life of a client ends: its machines have counted as many stale events as were said.
    pub(crate) fn end<D: Dialect, R: Rng>(&mut self, client: &Client<D, R>) {
        for (kind, count) in client.connection().stats().losses.iter().enumerate() {
            self.counts.0[LOSSES + kind] += *count;
        }
        let counted = (client.connection().stats().stale, client.outbox().stats().stale);
        if counted != self.stale {
            let text = format!("the machines counted {counted:?} stale events of {:?}", self.stale);
            self.fault.get_or_insert(text);
        }
        for &mark in &self.book.impossible {
            let Mark { name, impossible: Some(reason), .. } = &self.book.marks[mark] else {
                continue;
            };
            if self.counts.0[mark] > 0 {
                let text = format!("\"{name}\" is impossible: {reason}");
                self.fault.get_or_insert(text);
            }
        }
    }

    /// The process died, and a new one goes on from a snapshot.
    pub(crate) fn dies<D: Dialect, R: Rng>(&mut self, client: &Client<D, R>, saved: &Snapshot) {
        self.end(client);
        let in_flight = client.outbox().in_flight().messages > 0;
        let kept = saved.messages.first().is_some_and(|first| first.id.seq <= self.ever_sent);
        self.rare_if(in_flight && kept, Rare::RestoreWithMessagesInFlight);
        let replaying = self.outbox != DOWN && self.sent < self.backlog_to;
        self.rare_if(replaying && self.sent != Seq::new(0), Rare::CrashInAReplay);
        self.rare_if(!saved.hold.is_zero(), Rare::RestoreInANackPause);
        self.rare_if(self.ever_sent >= saved.next_seq, Rare::CrashWithAnUnsavedMessageSent);
    }

    /// A new client is there.
    pub(crate) fn lives<D: Dialect, R: Rng>(&mut self, client: &Client<D, R>, saved: &Snapshot) {
        self.connection = connection_state_place(client.connection().state());
        self.outbox = outbox_state_place(client.outbox().state());
        self.told = Attempt::NONE;
        self.stale = (client.connection().stats().stale, client.outbox().stats().stale);
        self.ever_sent = saved.sent_to;
        self.sent = Seq::new(0);
        self.outdated = (0, Seq::new(0), Seq::new(0));
        self.pending = Pending::Nothing;
        // Its clock begins anew.
        self.latest = Instant::ZERO;
    }

    // ---- After --------------------------------------------------------------------------------------

    /// It has happened: the steps that the machines made because of it.
    #[inline]
    pub(crate) fn after<D: Dialect, R: Rng>(&mut self, client: &Client<D, R>, now: Instant) {
        let connection = connection_state_place(client.connection().state());
        let outbox = outbox_state_place(client.outbox().state());
        if connection != self.connection {
            self.connection_moved(client, connection);
        }
        if outbox != self.outbox {
            self.outbox_moved(client, outbox);
        } else if outbox != DOWN && self.told != client.connection().attempt() {
            self.hit(OUTBOX_CELLS + outbox * OUTBOX_COLUMNS + O_UP);
        }
        match core::mem::take(&mut self.pending) {
            Pending::Nothing => {}
            pending => self.settle(client, now, pending),
        }
        (self.timer, self.resumes) = (None, false);
    }

    /// What a poll left: the machines agree on the link.
    pub(crate) fn rests<D: Dialect, R: Rng>(&mut self, client: &Client<D, R>) {
        let up = matches!(client.connection().link(), bowline_core::Link::Up(_));
        if up != (self.outbox != DOWN) {
            let name = OUTBOX_STATES[self.outbox];
            let text = format!("the outbox is {name} while the link is up: {up}");
            self.fault.get_or_insert(text);
        }
    }

    fn connection_moved<D: Dialect, R: Rng>(&mut self, client: &Client<D, R>, to: usize) {
        let loss = client.connection().last_loss();
        let mut causes = self.causes.0;
        if loss == Some(Loss::Overdue) {
            causes |= bit(C_OVERDUE);
        }
        if client.outbox().is_closed() {
            causes |= bit(C_STOP);
        }
        let fits = |step: &Step| {
            causes & bit(step.event) != 0
                && match step.timer {
                    Some(Timer::Dial) => loss == Some(Loss::DialLimit),
                    Some(Timer::Greeting) => loss == Some(Loss::GreetingLimit),
                    Some(Timer::Write) => loss == Some(Loss::WriteLimit),
                    Some(Timer::Pong) => {
                        matches!(loss, Some(Loss::PongLimit | Loss::NeverPonged))
                    }
                    _ => true,
                }
        };
        let from = core::mem::replace(&mut self.connection, to);
        self.cleared = from == SUSPECT && causes & bit(C_HEARD) != 0;
        match way(&self.book.connection, from, to, fits) {
            Some(way) => {
                for step in way {
                    self.hit(step.mark);
                    if self.causes.0 & bit(step.event) == 0 || step.event == C_GREETED {
                        self.hit(step.from * CONNECTION_COLUMNS + step.event);
                    }
                }
            }
            None => self.off_the_picture(
                "Connection",
                CONNECTION_STATES[from],
                CONNECTION_STATES[to],
                causes,
                &CONNECTION_EVENTS,
            ),
        }
        let overdue = loss == Some(Loss::Overdue) && matches!(from, UP | SUSPECT);
        self.rare_if(overdue && !client.outbox().config().can_ping, Rare::OverdueWithoutPings);
        if let ConnectionState::Stopped { reason } = client.connection().state() {
            self.rare_if(matches!(reason, StopReason::GaveUp(_)), Rare::GaveUp);
            self.rare_if(matches!(reason, StopReason::Fatal(_)), Rare::Fatal);
        }
    }

    fn outbox_moved<D: Dialect, R: Rng>(&mut self, client: &Client<D, R>, to: usize) {
        let from = core::mem::replace(&mut self.outbox, to);
        let mut causes = self.causes.1;
        causes |= if to == DOWN { bit(O_DOWN) } else { 0 };
        causes |= if self.told != client.connection().attempt() { bit(O_UP) } else { 0 };
        let by = |timer: Option<Timer>| {
            way(&self.book.outbox, from, to, |step| {
                causes & bit(step.event) != 0 && (step.timer.is_none() || step.timer == timer)
            })
        };
        // In one look at the clock that comes late, several may have run out.
        let on_time = by(self.timer);
        match on_time.or_else(|| by(Some(Timer::Nack)).filter(|_| self.resumes)) {
            Some(way) => {
                for step in way {
                    self.hit(step.mark);
                    if self.causes.1 & bit(step.event) == 0 {
                        self.hit(OUTBOX_CELLS + step.from * OUTBOX_COLUMNS + step.event);
                    }
                }
            }
            None => self.off_the_picture(
                "Outbox",
                OUTBOX_STATES[from],
                OUTBOX_STATES[to],
                causes,
                &OUTBOX_EVENTS,
            ),
        }
        let outbox = client.outbox();
        if to == DOWN {
            let backlog = outbox.watermark() <= self.backlog_to && outbox.queued() > 0;
            let begun = self.sent != Seq::new(0);
            self.rare_if(
                backlog && begun && self.sent < self.backlog_to,
                Rare::SecondLossInAReplay,
            );
            self.rare_if(backlog && !begun, Rare::LossBeforeTheReplay);
            self.rare_if(outbox.is_closed() && !outbox.is_settled(), Rare::LossInADrain);
            let room = outbox.config().max_messages - outbox.held().messages;
            self.rare_if(room == 0, Rare::LossWithAFullQueue);
            self.told = Attempt::NONE;
        } else if from == DOWN {
            self.told = client.connection().attempt();
            self.rare_if(!outbox.config().can_ping, Rare::UpWithoutPings);
            let backlog = outbox.queued() > 0 && outbox.watermark() <= self.ever_sent;
            self.backlog_to = if backlog { self.ever_sent } else { Seq::new(0) };
            self.sent = Seq::new(0);
            self.outdated = (0, Seq::new(0), Seq::new(0));
        } else if OUTBOX_STATES[from] == "Held" {
            self.outdated = (self.pings, self.sent.max(self.outdated.1), Seq::new(0));
            self.sent = Seq::new(0);
        }
    }

    fn off_the_picture(
        &mut self,
        machine: &str,
        from: &str,
        to: &str,
        causes: u32,
        events: &[&str],
    ) {
        let causes: Vec<_> = (0..events.len()).filter(|place| causes & bit(*place) != 0).collect();
        let causes: Vec<_> = causes.into_iter().map(|place| events[place]).collect();
        let causes = causes.join(", ");
        self.fault.get_or_insert_with(|| {
            format!("{machine}: {from} → {to} on {causes} is not on the picture")
        });
    }

    fn settle<D: Dialect, R: Rng>(
        &mut self,
        client: &Client<D, R>,
        now: Instant,
        pending: Pending,
    ) {
        match pending {
            Pending::Nothing => {}
            Pending::Nudge(before, nudgeable) => {
                self.rare_if(!nudgeable, Rare::NudgeAgainstRetryAfter);
                match client.connection().state() {
                    ConnectionState::Waiting { redial_at, .. } => {
                        let shorter = redial_at < before && redial_at > now;
                        self.rare_if(shorter, Rare::NudgeAtTheFloor);
                    }
                    ConnectionState::Dialing { .. } => {
                        self.rare_if(before > now, Rare::NudgeThatDials);
                    }
                    _ => {}
                }
            }
            Pending::Cancel { is_head, in_flight, sent, failed } => {
                let outbox = client.outbox();
                let cancelled = outbox.stats().failed[FailReason::Cancelled as usize] > failed;
                let was_in_flight = outbox.in_flight().messages < in_flight;
                let head = cancelled && was_in_flight && is_head;
                self.rare_if(head, Rare::CancelOfTheHeadInFlight);
                let again = cancelled && !was_in_flight && sent;
                self.rare_if(again, Rare::CancelBeforeItsReplay);
            }
            Pending::Lost(in_flight, loss) => {
                let accuses = matches!(loss, Loss::Closed { code: Some(1003 | 1007 | 1009) });
                self.rare_if(accuses && in_flight == 1, Rare::AccusedAlone);
                self.rare_if(accuses && in_flight > 1, Rare::AccusedWithOthers);
                if let Loss::Status { status, retry_after } = loss {
                    let hopeless = matches!(status, 300..=499)
                        && !matches!(status, 401 | 403 | 408 | 425 | 429);
                    let believed = self.connection != WAITING;
                    self.rare_if(hopeless && !believed, Rare::FatalNotBelieved);
                    let capped = matches!(status, 429 | 503)
                        && retry_after.is_some_and(|delay| delay > self.retry_after_cap);
                    self.rare_if(capped, Rare::RetryAfterAboveTheCap);
                }
            }
        }
    }
}

/// What there was before a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    stats: OutboxStats,
    head: Seq,
    suspected: Option<Seq>,
    expiring: bool,
    outbox: usize,
}

/// Whether the outbox would settle a message if this reached it.
fn would_settle<D: Dialect, R: Rng>(
    client: &Client<D, R>,
    now: Instant,
    event: OutboxEvent,
) -> bool {
    let mut outbox = client.outbox().clone();
    outbox.handle(now, event);
    outbox.stats().delivered > client.outbox().stats().delivered
}

/// The shortest way from one state to another on steps that fit.
fn way(steps: &[Step], from: usize, to: usize, fits: impl Fn(&Step) -> bool) -> Option<Vec<Step>> {
    let direct = steps.iter().find(|step| step.from == from && step.to == to && fits(step));
    if let Some(step) = direct {
        return Some(vec![*step]);
    }
    let mut ways = vec![(from, Vec::new())];
    let mut next = 0;
    while let Some((at, way)) = ways.get(next).cloned() {
        next += 1;
        for step in steps.iter().filter(|step| step.from == at && fits(step)) {
            if step.to == from || ways.iter().any(|(seen, _)| *seen == step.to) {
                continue;
            }
            let mut longer = way.clone();
            longer.push(*step);
            if step.to == to {
                return Some(longer);
            }
            ways.push((step.to, longer));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use bowline_core::Plain;

    use super::*;
    use crate::world::Dice;

    fn client() -> Client<Plain, Dice> {
        let dice = Dice::new(crate::settings::Chance::Zeros, 0, 0);
        Client::new(ClientConfig::default(), Plain, dice).unwrap()
    }

    fn mark(name: &str) -> usize {
        list().iter().position(|mark| mark.name == name).unwrap()
    }

    #[test]
    fn counts_of_two_runs_are_added() {
        let (mut one, mut other) = (Watch::new(&ClientConfig::default()), Counts::default());
        one.rare(Rare::GaveUp);
        other.0[RARE + Rare::GaveUp as usize] = 2;
        other.0[RARE + Rare::Fatal as usize] = 5;
        other.merge(one.counts());
        assert_eq!((other.of(Rare::GaveUp), other.of(Rare::Fatal)), (3, 5));
        assert_eq!(other.iter().map(|(_, count)| count).sum::<u64>(), 8);
    }

    #[test]
    fn a_cell_and_an_edge_are_counted() {
        let (mut client, mut watch) = (client(), Watch::new(&ClientConfig::default()));
        watch.say(&client, Instant::ZERO, &Event::Start);
        client.handle(Instant::ZERO, Event::Start);
        watch.after(&client, Instant::ZERO);
        watch.end(&client);
        assert_eq!(watch.take_fault(), None);
        assert_eq!(watch.counts.0[mark("Connection: Idle × Start")], 1);
        assert_eq!(watch.counts.0[mark("Connection: Idle → Dialing on Start")], 1);
        assert_eq!(watch.counts.0[mark("Connection: Idle → Stopped on Stop")], 0);
    }

    #[test]
    fn an_impossible_cell_that_is_passed_is_a_fault() {
        let mut watch = Watch::new(&ClientConfig::default());
        watch.hit(mark("Outbox: Down × Ponged"));
        watch.end(&client());
        let fault = watch.take_fault().unwrap();
        assert!(fault.starts_with("\"Outbox: Down × Ponged\" is impossible: "), "{fault}");
    }

    #[test]
    fn a_step_that_is_not_on_the_picture_is_a_fault() {
        let (mut client, mut watch) = (client(), Watch::new(&ClientConfig::default()));
        watch.say(&client, Instant::ZERO, &Event::Nudge);
        client.handle(Instant::ZERO, Event::Start);
        watch.after(&client, Instant::ZERO);
        let fault = watch.take_fault().unwrap();
        assert_eq!(fault, "Connection: Idle → Dialing on Nudge, Tick is not on the picture");
    }

    #[test]
    fn a_stale_event_that_nobody_said_is_a_fault() {
        let (mut client, watch) = (client(), &mut Watch::new(&ClientConfig::default()));
        client.handle(Instant::ZERO, Event::Heard(Attempt::new(7)));
        watch.end(&client);
        let fault = watch.take_fault().unwrap();
        assert_eq!(fault, "the machines counted (1, 0) stale events of (0, 0)");
    }
}
