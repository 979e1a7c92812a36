//! The oracle: judges a client by its [history](crate::history), one moment at a time.
//!
//! It keeps books of its own: which messages were pushed, where each was handed over, what the
//! peer's answers prove, which attempt is alive and when it may be given up, what the peer has. It
//! never asks the client what is right. What it cannot know to the microsecond (a message expires
//! up to 1/32 of its time to live late; an attempt that has run into a limit ends at the next look
//! at the clock) it leaves open, and then it accepts either outcome. So a violation is one.
//!
//! ```
//! use bowline_core::{Attempt, ClientConfig, Instant, OutboxId};
//! use bowline_testkit::{
//!     history::{Moment, Seen},
//!     oracle::{Oracle, Rules},
//!     statement::Statement,
//! };
//!
//! let rules = Rules::new(ClientConfig::default(), OutboxId::new(1));
//! let mut oracle = Oracle::new(rules);
//! let mut see = |seen| oracle.see(&Moment::new(Instant::ZERO, seen));
//! see(Seen::Start).unwrap();
//! see(Seen::Dials(Attempt::new(1))).unwrap();
//! // Nothing has ended the first attempt.
//! let violation = see(Seen::Dials(Attempt::new(2))).unwrap_err();
//! assert_eq!(violation.statement, Statement::S12);
//! ```

use core::{cmp::Reverse, ops::RangeInclusive, time::Duration};
use std::collections::{BinaryHeap, HashMap, VecDeque};

use bowline_core::{
    Ack, Attempt, ClientConfig, Deadline, FailReason, Fate, Instant, Jitter, Level, Loss,
    MessageId, Nack, OnSuspected, OutboxId, Phase, Ping, Refusal, Refused, Seq, Signal, Status,
    Timer, Verdict, VerdictLimits, Wire,
};

use crate::{
    history::{Content, Gauges, Moment, Seen},
    statement::{Statement, Violation},
    verdicts,
};

/// What the outbox may look at for each input and output, on average; and at once, dead ones most of
/// all.
const STEPS: (u64, u64) = (2, 64);

/// What the oracle must be told, for no history shows it.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The client's settings.
    pub config: ClientConfig,
    /// The name of its first outbox.
    pub outbox: OutboxId,
    /// Whether the peer drops what was sent behind a message that it refuses for the moment
    /// ([`Signal::NackFrom`]). If not, the order in which its application has messages is judged
    /// only where the window is 1. Default yes.
    pub refuses_gaps: bool,
    /// Whether the peer's application takes each message in only once, unless it has forgotten it
    /// ([`Seen::Forgot`]), and all in order, whatever connection they come on. Default no.
    pub takes_once: bool,
    /// Whether the peer's ledger is part of the history. Without it S3 is judged by the evidence
    /// alone, and S4 not at all. Default yes.
    pub ledger: bool,
    /// Whether the client's generator is a fair one: then delays that are too short to be chance
    /// are a violation of R2. Default no.
    pub fair: bool,
}

impl Rules {
    /// The defaults.
    pub fn new(config: ClientConfig, outbox: OutboxId) -> Self {
        Self { config, outbox, refuses_gaps: true, takes_once: false, ledger: true, fair: false }
    }
}

/// What has become of a message, as far as the oracle can tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// It is queued or in flight.
    Live,
    /// It was delivered; the report is to come.
    Delivered,
    /// It failed; the report is to come.
    Failed(FailReason),
    /// It was reported or displaced, or its number was used up.
    Gone,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    message: u64,
    outbox: OutboxId,
    size: usize,
    level: Level,
    /// It does not expire before,
    expires_at: Instant,
    /// and has expired once the clock was looked at from here on.
    expired_at: Instant,
    stage: Stage,
    /// The stage is one of several that are possible: it may be settled, or in another way.
    loose: bool,
    /// There is evidence that it was delivered.
    proved: bool,
    /// That evidence is the word of a liar.
    doubtful: bool,
    may_expire: bool,
    /// It may have been handed back at the end of a drain.
    may_return: bool,
    /// It is loose for another reason than that.
    otherwise: bool,
    was_cancelled: bool,
    was_rejected: bool,
    /// The newest attempt on which it was handed over,
    sent_on: Attempt,
    /// how many messages had been before it first was there,
    sent_as: u64,
    /// whether a nack has taken it back there,
    recalled: bool,
    /// and whether the application has answered it there.
    answered: bool,
    /// Handed over at least once, or by a client that has gone on after the snapshot.
    handed_over: bool,
    /// Whether it counts as handed over is open: it may have failed before the snapshot.
    either_fate: bool,
    /// Of an earlier life, and not handed over in this one.
    restored: bool,
    transmissions: u32,
    /// Causes to charge it: those that must have, and those that may have.
    must_charge: u32,
    may_charge: u32,
    /// An accusation while it was not alone in flight.
    accused_in_company: bool,
    /// Connections that died while it may have been alone in flight.
    lonely_deaths: u32,
}

impl Entry {
    fn is_live(&self) -> bool {
        self.stage == Stage::Live
    }

    fn is_surely_live(&self) -> bool {
        self.is_live() && !self.loose
    }

    /// Whether it is in flight on this attempt, if it is live.
    fn is_on(&self, attempt: Attempt) -> bool {
        attempt != Attempt::NONE && self.sent_on == attempt && !self.recalled
    }
}

/// What the peer has.
#[derive(Clone, Copy, Debug, Default)]
struct Ledger {
    life: u32,
    seq: u64,
    arrived: bool,
    processed: bool,
    /// It was taken in since the peer forgot for the last time.
    taken: bool,
    /// It was reported as cancelled or expired.
    void: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LinkPhase {
    /// No attempt, or one that is over.
    Over,
    Dialing,
    Greeting,
    Up,
    Closing,
}

/// The newest attempt.
#[derive(Clone, Debug)]
struct Link {
    attempt: Attempt,
    phase: LinkPhase,
    /// Since when, at the earliest.
    since: Instant,
    /// When its dial was polled.
    dialed_at: Instant,
    heard_at: Instant,
    took_at: Instant,
    paused: bool,
    /// When the driver read again, if nothing was heard since.
    resumed_at: Option<Instant>,
    /// Earlier failures may be forgotten; they are.
    may_forgive: bool,
    must_forgive: bool,
    /// How much later than due the clock was looked at.
    lateness: Duration,
    /// The attempt may be over already: it has run into a limit.
    doubt: bool,
    /// When a nudge was said first that means something if it is.
    nudged_at: Option<Instant>,
    /// `Start` was said when the attempt may have failed, and the client have given up.
    started_at: Option<Instant>,
    /// When a Close that is not answered ends.
    cut_at: Instant,
    /// The dialect has refused what the peer said.
    refused: Option<Refusal>,
    ponged: bool,
    /// A ping was handed over and not flushed.
    ping_unflushed: bool,
    /// When the newest ping was flushed of which no byte was heard since.
    ping_flushed_at: Option<Instant>,
    first_ping_flushed_at: Option<Instant>,
    /// While the peer has never answered a ping: since when it was not asked whether it does, whether
    /// that is due, whether the ping that asks is on its way, and when it was flushed.
    unasked_since: Instant,
    asks: bool,
    ask_unflushed: bool,
    asked_at: Option<Instant>,
    /// It was heard long after that, and is given up then.
    deaf_at: Option<Instant>,
    heartbeat_owed: bool,
    reply_owed: bool,
    /// Since when an ack may have been waited for.
    acks_awaited_at: Option<Instant>,
    /// Pings that were not answered: what they name, how many messages had been before them, and
    /// whether none of what they name was to be sent again at that time, or has been since.
    pings: VecDeque<(u64, u64, bool)>,
    pinged: Option<u64>,
    since_ping: (usize, usize),
    /// Messages handed over on it.
    sent: u64,
    /// The last number handed over since the cursor went back to the head, and the first that may be.
    order: u64,
    order_from: u64,
    /// The highest number handed over on it.
    highest: u64,
    /// What is below was looked at when it was flushed, covered, answered in turn.
    flushed: u64,
    covered: u64,
    awaited: u64,
    /// The last number that was settled without a word of the peer: surely, and perhaps.
    unheard: (u64, u64),
    /// Surely in flight: messages, bytes, and those of level Received.
    in_flight: (usize, usize, usize),
    /// The head goes alone, surely.
    probing: bool,
    /// It was given up while there was a socket, which somebody must close.
    left: bool,
}

impl Link {
    fn new(attempt: Attempt, since: Instant) -> Self {
        Self {
            attempt,
            phase: LinkPhase::Dialing,
            since,
            dialed_at: since,
            heard_at: since,
            took_at: since,
            paused: false,
            resumed_at: None,
            may_forgive: false,
            must_forgive: false,
            lateness: Duration::ZERO,
            doubt: false,
            nudged_at: None,
            started_at: None,
            cut_at: Instant::NEVER,
            refused: None,
            ponged: false,
            ping_unflushed: false,
            ping_flushed_at: None,
            first_ping_flushed_at: None,
            unasked_since: since,
            asks: false,
            ask_unflushed: false,
            asked_at: None,
            deaf_at: None,
            heartbeat_owed: false,
            reply_owed: false,
            acks_awaited_at: None,
            pings: VecDeque::new(),
            pinged: None,
            since_ping: (0, 0),
            sent: 0,
            order: 0,
            order_from: 0,
            highest: 0,
            flushed: 0,
            covered: 0,
            awaited: 0,
            unheard: (0, 0),
            in_flight: (0, 0, 0),
            probing: false,
            left: false,
        }
    }

    fn none() -> Self {
        Self { phase: LinkPhase::Over, ..Self::new(Attempt::NONE, Instant::ZERO) }
    }

    fn is_alive(&self) -> bool {
        self.phase != LinkPhase::Over
    }

    fn is_open(&self) -> bool {
        matches!(self.phase, LinkPhase::Greeting | LinkPhase::Up)
    }
}

/// Whether the client runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Run {
    Idle,
    Running,
    /// It runs, or it is stopped.
    Unsure,
    /// `Stop` was said; by then it is over.
    Stopping(Instant),
    Stopped,
}

/// When the next dial is due.
#[derive(Clone, Copy, Debug)]
struct Due {
    /// Not before,
    earliest: Instant,
    /// not after.
    latest: Instant,
    /// A part of it is the server's.
    server: bool,
    /// A nudge may shorten it.
    nudgeable: bool,
    /// When the first one was said.
    nudged_at: Option<Instant>,
    /// For R2: when it began, and the longest delay of the policy.
    drawn: Option<(Instant, Duration)>,
    /// The client may stop instead; it must.
    may_stop: bool,
    must_stop: bool,
    /// What the status said.
    shown: Option<Instant>,
}

/// What is stored.
#[derive(Clone, Debug)]
struct Saved {
    at: Instant,
    looked_at: Instant,
    hold_until: Option<Instant>,
    may_be_held: bool,
    entries: VecDeque<Entry>,
    base: u64,
    next: u64,
    sent_to: u64,
}

/// Judges a history; see the [module docs](self).
#[derive(Clone, Debug)]
pub struct Oracle {
    rules: Rules,
    /// The time that was told, and that at which the clock was last looked at.
    now: Instant,
    looked_at: Instant,
    /// Nothing but looks at the clock since the last I/O event.
    looked: bool,
    /// When a look at the clock came first since the last drain.
    first_look: Option<Instant>,

    // The outbox.
    /// `entries[0]` has the number `base`.
    entries: VecDeque<Entry>,
    base: u64,
    next: u64,
    /// The outboxes of what was restored, with the first number that was and the last that each gave
    /// out, then the own one.
    epochs: Vec<(RangeInclusive<u64>, OutboxId)>,
    outboxes: Vec<OutboxId>,
    /// The last number that may have been transmitted.
    sent_to: u64,
    /// No entry below is live; none below is surely live.
    possible: u64,
    definite: u64,
    /// Sure and unsure ones.
    live: usize,
    loose: usize,
    /// What may be held, at most.
    held: (usize, usize),
    accepted: u64,
    displaced: u64,
    /// Live messages that were loaded: surely, and perhaps.
    loaded: (u64, u64),
    loaded_slots: usize,
    /// Failed for sure, not reported.
    unreported: usize,
    reported_to: u64,
    vacant: Option<u64>,
    deadlines: BinaryHeap<Reverse<(Instant, u64, bool)>>,
    closing: Option<Instant>,
    /// A message was refused for the moment, and none was handed over since: the pause has begun with
    /// that, until then; it may have begun.
    hold_until: Option<Instant>,
    may_be_held: bool,
    probe: bool,
    charged: u64,
    saved: Option<Saved>,
    life: u32,
    /// For the name of a violation: since the last drain there was an answer that means nothing.
    stale: bool,
    illegal: bool,

    // The connection.
    link: Link,
    run: Run,
    due: Option<Due>,
    /// The client may have been up; it surely has.
    been_up: bool,
    surely_been_up: bool,
    ever_ponged: bool,
    /// Failures in a row, at least and at most, and when the first of them was, at the earliest and
    /// at the latest.
    failures: (u32, u32),
    failing_since: (Instant, Instant),
    /// `Renew` verdicts in a row, at least and at most.
    renewals: (u32, u32),
    /// Delays that ended in a dial: how many; and how many would be expected in the time that was
    /// waited, also for those that did not.
    drawn: (u32, f64),
    /// The next nudge takes effect then, at the earliest.
    nudge_free_at: Instant,
    last_deadline: Option<Deadline>,
    gauges: Gauges,
    /// What the life of now has seen: inputs and outputs, those of them that stand for more walks than
    /// one more than once, and messages that it began with.
    seen: u64,

    // The peer.
    ledger: HashMap<u64, Ledger>,
    peer_attempt: Attempt,
    library_to: u64,
    application_to: u64,

    // The quiet phase.
    quiet: Option<Duration>,
    up_by: Instant,
    settled_by: Instant,
}

type Judged = Result<(), Violation>;

impl Oracle {
    /// An oracle for a client that was made with these settings and has seen nothing yet.
    pub fn new(rules: Rules) -> Self {
        let outbox = rules.outbox;
        Self {
            rules,
            now: Instant::ZERO,
            looked_at: Instant::ZERO,
            looked: false,
            first_look: None,
            entries: VecDeque::new(),
            base: 1,
            next: 1,
            epochs: vec![(1..=u64::MAX, outbox)],
            outboxes: vec![outbox],
            sent_to: 0,
            possible: 1,
            definite: 1,
            live: 0,
            loose: 0,
            held: (0, 0),
            accepted: 0,
            displaced: 0,
            loaded: (0, 0),
            loaded_slots: 0,
            unreported: 0,
            reported_to: 0,
            vacant: None,
            deadlines: BinaryHeap::new(),
            closing: None,
            hold_until: None,
            may_be_held: false,
            probe: false,
            charged: 0,
            saved: None,
            life: 0,
            stale: false,
            illegal: false,
            link: Link::none(),
            run: Run::Idle,
            due: None,
            been_up: false,
            surely_been_up: false,
            ever_ponged: false,
            failures: (0, 0),
            failing_since: (Instant::ZERO, Instant::ZERO),
            renewals: (0, 0),
            drawn: (0, 0.0),
            nudge_free_at: Instant::ZERO,
            last_deadline: None,
            gauges: Gauges::default(),
            seen: 0,
            ledger: HashMap::new(),
            peer_attempt: Attempt::NONE,
            library_to: 0,
            application_to: 0,
            quiet: None,
            up_by: Instant::NEVER,
            settled_by: Instant::NEVER,
        }
    }

    /// Takes in the next moment.
    ///
    /// # Errors
    /// A statement does not hold. Go no further: what comes after means nothing.
    pub fn see(&mut self, moment: &Moment) -> Judged {
        self.seen += match moment.seen {
            Seen::Delivered { first, last } => last.get().saturating_sub(first.get()) + 1,
            // Looked at to hand it over, when that is flushed, when a pong covers it, to call it back,
            // and because it is awaited no more: for each time that it goes.
            Seen::Sends { content: Content::Message { .. }, .. } => 3,
            _ => 1,
        };
        match moment.seen {
            Seen::Displaced { message, seq, coalesced } => {
                self.displaced(message, seq.get(), coalesced)
            }
            Seen::Pushed { message, seq, size, level, ttl } => {
                self.tell(moment.at);
                self.pushed(message, seq.get(), size, level, ttl)?;
                self.look_at_messages();
                if self.link.is_alive() && self.may_be_overdue() {
                    self.link.doubt = true;
                    self.first_look.get_or_insert(self.now);
                }
                Ok(())
            }
            Seen::Refused { size, reason } => {
                self.tell(moment.at);
                self.refused(size, reason)
            }
            Seen::Start => {
                self.tell(moment.at);
                self.start();
                self.look(moment.at);
                Ok(())
            }
            Seen::Stop => {
                self.tell(moment.at);
                self.stop();
                self.look(moment.at);
                Ok(())
            }
            Seen::Nudge => {
                self.tell(moment.at);
                self.nudge();
                self.look(moment.at);
                Ok(())
            }
            // The message first, then the clock.
            Seen::Cancel(seq) => {
                self.tell(moment.at);
                self.cancel(seq.get());
                self.look(moment.at);
                Ok(())
            }
            Seen::Close { deadline } => {
                self.tell(moment.at);
                self.closing = Some(self.closing.map_or(deadline, |before| before.min(deadline)));
                self.look(moment.at);
                self.extend_quiet();
                Ok(())
            }
            Seen::Tick => {
                self.look(moment.at);
                Ok(())
            }
            Seen::Snapshot => {
                self.save(true);
                Ok(())
            }
            Seen::Retired => {
                self.save(false);
                Ok(())
            }
            Seen::Crashed => Ok(()),
            Seen::Restored { outbox } => self.restored(moment.at, outbox),

            Seen::Opened { attempt, awaits_answer } => {
                self.hear_of(moment.at);
                self.opened(attempt, awaits_answer);
                Ok(())
            }
            Seen::Heard(a) => {
                self.hear_of(moment.at);
                if self.is_current(a) {
                    self.heard();
                }
                Ok(())
            }
            Seen::Took(a) => {
                self.hear_of(moment.at);
                if self.is_current(a) {
                    self.link.took_at = self.now;
                }
                Ok(())
            }
            Seen::Flushed(a) => {
                self.hear_of(moment.at);
                if self.is_current(a) {
                    self.flushed();
                }
                Ok(())
            }
            Seen::Paused(a) => {
                self.hear_of(moment.at);
                if self.is_current(a) && self.link.is_open() {
                    self.link.paused = true;
                }
                Ok(())
            }
            Seen::Resumed(a) => {
                self.hear_of(moment.at);
                if self.is_current(a) && self.link.is_open() {
                    self.resumed();
                }
                Ok(())
            }
            Seen::Lost(a, loss) => {
                self.hear_of(moment.at);
                self.lost(a, loss);
                Ok(())
            }
            Seen::Ponged(a, ping) => {
                self.hear_of(moment.at);
                self.ponged(a, ping);
                Ok(())
            }
            Seen::Signalled { attempt, signal, honest } => {
                self.hear_of(moment.at);
                self.signalled(attempt, signal, honest);
                Ok(())
            }

            Seen::ReplyDue(a) => {
                self.link.reply_owed |= a == self.link.attempt && self.link.is_open();
                Ok(())
            }

            Seen::Dials(a) => self.dials(a),
            Seen::Sends { attempt, content, wire } => self.sends(attempt, content, wire),
            Seen::Closes(a) => self.closes(a),
            Seen::Aborts(a) => self.aborts(a),
            Seen::Delivered { first, last } => self.delivered(first.get(), last.get()),
            Seen::Failed { message, id, reason, fate } => self.failed(message, id, reason, fate),
            Seen::Status(status) => self.status(status),
            Seen::Waits { wire, deadline } => self.waits(wire, deadline),
            Seen::Gauges(gauges) => self.gauges(gauges),

            Seen::PeerOpened(a) => {
                self.peer_attempt = self.peer_attempt.max(a);
                Ok(())
            }
            Seen::PeerClosed(_) => Ok(()),
            Seen::Arrived { attempt, message } => self.arrived(attempt, message, false),
            Seen::Processed { attempt, message } => self.arrived(attempt, message, true),
            Seen::Forgot => {
                self.ledger.values_mut().for_each(|ledger| ledger.taken = false);
                Ok(())
            }

            Seen::Quiet { trip } => {
                self.quiet = Some(trip);
                self.extend_quiet();
                Ok(())
            }
            Seen::Ended => self.ended(),
        }
    }

    fn violation(&self, statement: Statement, text: String) -> Violation {
        Violation { statement, at: self.now, text }
    }

    // ---- Time ----------------------------------------------------------------------------------

    /// The client was told the time.
    fn tell(&mut self, at: Instant) {
        self.now = self.now.max(at);
    }

    /// An I/O event: the client does not look at its clock.
    fn hear_of(&mut self, at: Instant) {
        self.tell(at);
        self.looked = false;
    }

    /// The client looks at its clock.
    fn look(&mut self, at: Instant) {
        self.tell(at);
        self.looked = true;
        self.first_look.get_or_insert(self.now);
        let passed = self.last_deadline.filter(|deadline| deadline.at.has_passed(self.now));
        if let Some(deadline) = passed {
            let late = self.now.since(deadline.at);
            self.link.lateness = self.link.lateness.saturating_add(late);
            self.last_deadline = None;
        }
        if self.link.is_alive() && self.may_end() {
            self.link.doubt = true;
        }
        self.look_for_heartbeat();
        self.look_for_stability();
        self.look_at_messages();
        self.relay();
    }

    /// What has outlived its time.
    fn look_at_messages(&mut self) {
        self.looked_at = self.now;
        self.look_for_withheld_ack();
        while let Some(&Reverse((at, seq, surely))) = self.deadlines.peek() {
            if !at.has_passed(self.now) {
                break;
            }
            self.deadlines.pop();
            let Some(entry) = self.entry(seq).copied() else { continue };
            let own = if surely { entry.expired_at } else { entry.expires_at };
            if !entry.is_live() || own != at {
                continue;
            }
            if surely && !entry.otherwise {
                self.has_expired(seq);
            } else if !surely {
                self.may_expire(seq);
            }
        }
        if self.closing.is_some_and(|at| at.has_passed(self.now)) {
            self.return_all(true);
        }
    }

    /// A message may run out of its time, or the drain of its own, and of its budget in one look at
    /// the clock: either may come first.
    fn look_for_withheld_ack(&mut self) {
        if self.link.phase != LinkPhase::Up || !self.may_be_overdue() {
            return;
        }
        let (now, budget) = (self.now, self.rules.config.outbox.retry_budget);
        let Some(seq) = self.first_awaited().filter(|&seq| self.may_be_head(seq)) else { return };
        let drained = self.closing.is_some_and(|deadline| deadline.has_passed(now));
        let both = |entry: &Entry| {
            (drained || entry.expires_at.has_passed(now)) && entry.may_charge >= budget
        };
        if self.entry(seq).is_some_and(|entry| entry.is_live() && both(entry)) {
            self.loosen(seq);
        }
    }

    /// At the end of a drain everything left is handed back, or has outlived its time.
    fn return_all(&mut self, surely: bool) {
        for seq in self.possible..self.next {
            let Some(entry) = self.entry_mut(seq).filter(|entry| entry.is_live()) else { continue };
            entry.may_return = true;
            let entry = *entry;
            if entry.expires_at.has_passed(self.now) {
                self.may_expire(seq);
                self.loosen(seq);
            } else if surely && entry.is_surely_live() {
                self.settle(seq, Stage::Failed(FailReason::Returned));
            } else {
                self.loosen(seq);
            }
        }
    }

    fn look_for_heartbeat(&mut self) {
        let config = &self.rules.config.connection;
        let link = &mut self.link;
        let silent_at = link.heard_at.max(link.resumed_at.unwrap_or(Instant::ZERO));
        let due = silent_at + config.ping_interval;
        if config.can_ping
            && link.phase == LinkPhase::Up
            && !link.doubt
            && !link.paused
            && !link.ping_unflushed
            && link.ping_flushed_at.is_none()
            && due.has_passed(self.now)
        {
            link.heartbeat_owed = true;
        }
        // Whether the peer answers pings is asked even if it is never silent.
        let due = link.unasked_since + config.ping_interval;
        if config.can_ping
            && !self.ever_ponged
            && link.phase == LinkPhase::Up
            && !link.doubt
            && !link.paused
            && due.has_passed(self.now)
        {
            link.asks = true;
            link.heartbeat_owed |= link.pinged.is_none();
        }
    }

    // ---- Entries -------------------------------------------------------------------------------

    fn entry(&self, seq: u64) -> Option<&Entry> {
        let place = usize::try_from(seq.checked_sub(self.base)?).ok()?;
        self.entries.get(place)
    }

    fn entry_mut(&mut self, seq: u64) -> Option<&mut Entry> {
        let place = usize::try_from(seq.checked_sub(self.base)?).ok()?;
        self.entries.get_mut(place)
    }

    /// The number of the first message that may be live.
    fn first_possible(&mut self) -> u64 {
        self.possible = self.possible.max(self.base);
        while self.possible < self.next && !self.entry(self.possible).is_some_and(Entry::is_live) {
            self.possible += 1;
        }
        self.possible
    }

    /// The number of the first message that is surely live.
    fn first_definite(&mut self) -> u64 {
        self.definite = self.definite.max(self.first_possible());
        while self.definite < self.next
            && !self.entry(self.definite).is_some_and(Entry::is_surely_live)
        {
            self.definite += 1;
        }
        self.definite
    }

    fn may_be_head(&mut self, seq: u64) -> bool {
        seq <= self.first_definite()
    }

    fn is_surely_head(&mut self, seq: u64) -> bool {
        seq == self.first_possible() && seq == self.first_definite()
    }

    /// An entry is surely in flight no more.
    fn uncount_in_flight(&mut self, seq: u64) {
        let attempt = self.link.attempt;
        let phase = self.link.phase;
        if let Some(entry) = self.entry(seq).copied()
            && phase == LinkPhase::Up
            && entry.is_surely_live()
            && entry.is_on(attempt)
        {
            let (messages, bytes, received) = &mut self.link.in_flight;
            *messages -= 1;
            *bytes -= entry.size;
            *received -= usize::from(entry.level == Level::Received);
        }
    }

    /// A live message is settled.
    fn settle(&mut self, seq: u64, stage: Stage) {
        self.uncount_in_flight(seq);
        let (attempt, up) = (self.link.attempt, self.link.phase == LinkPhase::Up);
        let Some(entry) = self.entry_mut(seq) else { return };
        debug_assert!(entry.is_live());
        let (loose, size) = (entry.loose, entry.size);
        let unheard = up && entry.level != Level::Acked && entry.is_on(attempt);
        entry.stage = stage;
        if loose {
            self.loose -= 1;
        } else {
            self.live -= 1;
        }
        match stage {
            Stage::Failed(_) => {
                self.unreported += usize::from(!loose);
                if unheard {
                    self.link.unheard.1 = self.link.unheard.1.max(seq);
                    if !loose {
                        self.link.unheard.0 = self.link.unheard.0.max(seq);
                    }
                }
            }
            Stage::Delivered if loose => {}
            Stage::Delivered | Stage::Gone | Stage::Live => {
                self.held.0 -= 1;
                self.held.1 -= size;
            }
        }
    }

    /// A live message may be settled from now on.
    fn loosen(&mut self, seq: u64) {
        self.open(seq, |entry| entry.otherwise = true);
    }

    fn may_expire(&mut self, seq: u64) {
        self.open(seq, |entry| entry.may_expire = true);
    }

    fn open(&mut self, seq: u64, also: impl FnOnce(&mut Entry)) {
        self.uncount_in_flight(seq);
        let (attempt, up) = (self.link.attempt, self.link.phase == LinkPhase::Up);
        let Some(entry) = self.entry_mut(seq) else { return };
        also(entry);
        let unheard = up && entry.level != Level::Acked && entry.is_on(attempt);
        if !entry.loose {
            entry.loose = true;
            self.live -= 1;
            self.loose += 1;
        }
        if unheard {
            self.link.unheard.1 = self.link.unheard.1.max(seq);
        }
    }

    /// A live message has expired, if it was not settled before.
    fn has_expired(&mut self, seq: u64) {
        let (attempt, up) = (self.link.attempt, self.link.phase == LinkPhase::Up);
        let Some(entry) = self.entry_mut(seq) else { return };
        if !entry.loose {
            return self.settle(seq, Stage::Failed(FailReason::Expired));
        }
        entry.stage = Stage::Failed(FailReason::Expired);
        entry.loose = false;
        let unheard = up && entry.level != Level::Acked && entry.is_on(attempt);
        self.loose -= 1;
        self.unreported += 1;
        if unheard {
            self.link.unheard.0 = self.link.unheard.0.max(seq);
        }
    }

    /// There is evidence that a live message was delivered.
    fn prove(&mut self, seq: u64, honest: bool) {
        let sure = self.is_sure();
        let Some(entry) = self.entry_mut(seq) else { return };
        entry.proved = true;
        entry.doubtful |= !honest;
        entry.answered = true;
        if sure && !entry.loose {
            self.settle(seq, Stage::Delivered);
        } else {
            self.loosen(seq);
        }
        self.progress();
    }

    /// The peer has answered: no connection dies of its messages any more.
    fn progress(&mut self) {
        self.link.probing = false;
        self.probe = false;
    }

    /// Forgets what nothing can be said of any more.
    fn tidy(&mut self) {
        while let Some(entry) = self.entries.front() {
            let ghost = entry.level == Level::Acked
                && entry.sent_on == self.link.attempt
                && self.link.phase == LinkPhase::Up
                && !entry.answered
                && !entry.recalled;
            if entry.stage != Stage::Gone || ghost {
                break;
            }
            self.entries.pop_front();
            self.base += 1;
        }
    }

    // ---- The user ------------------------------------------------------------------------------

    fn displaced(&mut self, message: u64, seq: u64, coalesced: bool) -> Judged {
        let Some(entry) = self.entry(seq).copied().filter(|entry| entry.message == message) else {
            let text = format!("message {message} was never {seq}");
            return Err(self.violation(Statement::S1, text));
        };
        if !entry.is_live() {
            let text = format!("message {message} is displaced after it was settled");
            return Err(self.violation(Statement::S2, text));
        }
        if entry.handed_over {
            let text = format!("message {message} is displaced though it was handed over");
            return Err(self.violation(Statement::S8, text));
        }
        self.settle(seq, Stage::Gone);
        self.displaced += 1;
        if coalesced {
            self.vacant = Some(seq);
        }
        Ok(())
    }

    fn pushed(
        &mut self,
        message: u64,
        seq: u64,
        size: usize,
        level: Level,
        ttl: Option<Duration>,
    ) -> Judged {
        let limits = &self.rules.config.outbox;
        let expected = self.vacant.take().unwrap_or(self.next);
        if seq != expected {
            let text = format!("message {message} is {seq} and not {expected}");
            return Err(self.violation(Statement::S9, text));
        }
        if self.closing.is_some() {
            let text = format!("message {message} is taken during a drain");
            return Err(self.violation(Statement::L5, text));
        }
        if size > limits.max_message_bytes {
            let text = format!("message {message} of {size} B is taken");
            return Err(self.violation(Statement::R1, text));
        }
        let (max_messages, max_bytes) = (limits.max_messages, limits.max_bytes);
        let (expires_at, expired_at) = match ttl {
            Some(ttl) => (self.now + ttl, self.now + late(ttl)),
            None => (Instant::NEVER, Instant::NEVER),
        };
        let outbox = self.epochs.last().map_or(self.rules.outbox, |(_, id)| *id);
        let entry = Entry {
            message,
            outbox,
            size,
            level,
            expires_at,
            expired_at,
            stage: Stage::Live,
            loose: false,
            proved: false,
            doubtful: false,
            may_expire: false,
            may_return: false,
            otherwise: false,
            was_cancelled: false,
            was_rejected: false,
            sent_on: Attempt::NONE,
            sent_as: 0,
            recalled: false,
            answered: false,
            handed_over: false,
            either_fate: false,
            restored: false,
            transmissions: 0,
            must_charge: 0,
            may_charge: 0,
            accused_in_company: false,
            lonely_deaths: 0,
        };
        if seq == self.next {
            self.entries.push_back(entry);
        } else {
            // It has used up a number all the same.
            let used_up = Entry { stage: Stage::Gone, ..entry };
            self.entries.push_back(used_up);
            if let Some(place) = self.entry_mut(seq) {
                *place = Entry { outbox: place.outbox, ..entry };
            }
            self.possible = self.possible.min(seq);
            self.definite = self.definite.min(seq);
        }
        self.next += 1;
        self.accepted += 1;
        self.live += 1;
        self.held.0 += 1;
        self.held.1 += size;
        if expires_at != Instant::NEVER {
            self.deadlines.push(Reverse((expires_at, seq, false)));
            self.deadlines.push(Reverse((expired_at, seq, true)));
        }
        let ledger = Ledger { life: self.life, seq, ..Ledger::default() };
        if self.ledger.insert(message, ledger).is_some() {
            let text = format!("the history has two messages {message}");
            return Err(self.violation(Statement::S1, text));
        }
        if self.live > max_messages || self.held_surely_above(max_bytes) {
            let text = format!("{} messages are live after a push", self.live);
            return Err(self.violation(Statement::R1, text));
        }
        self.extend_settled();
        Ok(())
    }

    /// Whether what is held is above the limit, whatever is still open.
    fn held_surely_above(&self, max_bytes: usize) -> bool {
        self.loose == 0 && self.held.1 > max_bytes
    }

    fn refused(&mut self, size: usize, reason: Refused) -> Judged {
        let limits = &self.rules.config.outbox;
        let unfounded = match reason {
            Refused::Closed => self.closing.is_none(),
            Refused::TooLarge { .. } => size <= limits.max_message_bytes,
            Refused::Full => {
                self.held.0 < limits.max_messages
                    && self.held.1.saturating_add(size) <= limits.max_bytes
            }
            // Only the dialect and the transport know.
            Refused::Level { .. } => false,
        };
        if unfounded {
            let text = format!("{size} B are refused for nothing: {reason}");
            return Err(self.violation(Statement::S9, text));
        }
        Ok(())
    }

    fn cancel(&mut self, seq: u64) {
        let Some(entry) = self.entry_mut(seq).filter(|entry| entry.is_live()) else { return };
        entry.was_cancelled = true;
        if entry.loose {
            entry.otherwise = true;
            return;
        }
        self.settle(seq, Stage::Failed(FailReason::Cancelled));
    }

    fn save(&mut self, goes_on: bool) {
        self.saved = Some(Saved {
            at: self.now,
            looked_at: self.looked_at,
            hold_until: self.hold_until,
            may_be_held: self.may_be_held,
            entries: self.entries.clone(),
            base: self.base,
            next: self.next,
            sent_to: if goes_on { self.next - 1 } else { self.sent_to },
        });
    }

    fn restored(&mut self, at: Instant, outbox: OutboxId) -> Judged {
        if self.outboxes.contains(&outbox) {
            let text = format!("outbox {outbox} was there before");
            return Err(self.violation(Statement::S14, text));
        }
        let saved = self.saved.take().unwrap_or(Saved {
            at,
            looked_at: at,
            hold_until: None,
            may_be_held: false,
            entries: VecDeque::new(),
            base: 1,
            next: 1,
            sent_to: 0,
        });
        self.waited();
        let mut next = Self::new(self.rules.clone());
        next.outboxes = core::mem::take(&mut self.outboxes);
        next.outboxes.push(outbox);
        next.now = self.now.max(at);
        next.looked_at = next.now;
        next.life = self.life + 1;
        next.ledger = core::mem::take(&mut self.ledger);
        next.drawn = self.drawn;
        next.quiet = self.quiet;
        next.hold_until = saved.hold_until.map(|until| next.now + until.since(saved.at));
        next.may_be_held = saved.may_be_held;
        (next.base, next.next, next.sent_to) = (saved.base, saved.next, saved.sent_to);
        (next.possible, next.definite) = (saved.base, saved.base);
        next.epochs.clear();
        for (place, mut entry) in saved.entries.clone().into_iter().enumerate() {
            let seq = saved.base + place as u64;
            // Attempts begin at 1 again, also for those that are gone.
            entry.sent_on = Attempt::NONE;
            entry.recalled = false;
            entry.answered = false;
            match next.epochs.last_mut().filter(|(_, id)| *id == entry.outbox) {
                Some((numbers, _)) => *numbers = *numbers.start()..=seq,
                None if entry.stage == Stage::Gone => {}
                None => next.epochs.push((seq..=seq, entry.outbox)),
            }
            if entry.stage != Stage::Gone {
                // What had failed before the snapshot was not sent after it.
                let failed = matches!(entry.stage, Stage::Failed(_)) && !entry.loose;
                if seq <= saved.sent_to && !entry.handed_over && !failed {
                    entry.handed_over = true;
                    entry.either_fate = false;
                    entry.either_fate = entry.loose;
                }
                entry.restored = true;
                // The time that remained when it was stored.
                if entry.expires_at != Instant::NEVER && entry.is_live() {
                    entry.expires_at = next.now + entry.expires_at.since(saved.at);
                    let left = entry.expired_at.since(saved.looked_at);
                    entry.expired_at = next.now + late(left);
                    next.deadlines.push(Reverse((entry.expires_at, seq, false)));
                    next.deadlines.push(Reverse((entry.expired_at, seq, true)));
                }
                match entry.stage {
                    Stage::Live if entry.loose => next.loose += 1,
                    Stage::Live => next.live += 1,
                    Stage::Failed(_) => next.unreported += usize::from(!entry.loose),
                    Stage::Delivered | Stage::Gone => {}
                }
                if entry.stage != Stage::Delivered || entry.loose {
                    next.held.0 += 1;
                    next.held.1 += entry.size;
                }
                if let Some(ledger) = next.ledger.get_mut(&entry.message) {
                    (ledger.life, ledger.seq) = (next.life, seq);
                }
            }
            next.entries.push_back(entry);
        }
        next.loaded_slots = next.entries.len();
        next.seen = next.loaded_slots as u64;
        next.loaded = (next.live as u64, (next.live + next.loose) as u64);
        next.epochs.push((saved.next..=u64::MAX, outbox));
        next.saved = Some(saved);
        next.look_at_messages();
        *self = next;
        self.extend_quiet();
        Ok(())
    }

    // ---- The network ---------------------------------------------------------------------------

    /// Whether an event of this attempt means anything; notes it if not.
    fn is_current(&mut self, a: Attempt) -> bool {
        let current = a == self.link.attempt && self.link.is_alive();
        self.stale |= !current;
        current
    }

    /// Whether the link is up beyond doubt.
    fn is_sure(&self) -> bool {
        self.link.phase == LinkPhase::Up && !self.link.doubt
    }

    /// Whether the client may have found by now that the attempt has run into a limit. Each
    /// condition is a necessary one.
    fn may_end(&self) -> bool {
        let config = &self.rules.config.connection;
        let link = &self.link;
        let since = |at: Instant, limit: Duration| (at + limit).has_passed(self.now);
        if link.refused.is_some() {
            return true;
        }
        match link.phase {
            LinkPhase::Over => true,
            LinkPhase::Closing => match self.run {
                Run::Stopping(by) => by.has_passed(self.now),
                Run::Idle | Run::Running | Run::Unsure | Run::Stopped => true,
            },
            LinkPhase::Dialing => since(link.since, config.dial_limit),
            LinkPhase::Greeting => since(link.since, config.greeting_limit),
            LinkPhase::Up => self.may_be_dead() || self.may_be_deaf() || self.may_be_overdue(),
        }
    }

    fn may_be_dead(&self) -> bool {
        let config = &self.rules.config.connection;
        let link = &self.link;
        if link.paused || !config.can_ping {
            return false;
        }
        let since = |at: Instant, limit: Duration| (at + limit).has_passed(self.now);
        // Before the first pong, and when reading begins again, the ping may be out already.
        let silent_at = link.heard_at.max(link.resumed_at.unwrap_or(Instant::ZERO));
        let early = !self.ever_ponged || link.resumed_at.is_some();
        let suspect_at = silent_at + if early { Duration::ZERO } else { config.ping_interval };
        since(suspect_at.max(link.took_at), config.write_limit)
            || since(suspect_at, config.pong_limit)
                && link.ping_flushed_at.is_some_and(|at| since(at, config.pong_limit))
    }

    /// How long a peer that talks may take for its first pong.
    fn patience(&self) -> Duration {
        let config = &self.rules.config.connection;
        config.ping_interval.saturating_add(config.pong_limit).saturating_mul(5)
    }

    fn may_be_deaf(&self) -> bool {
        let patience = self.patience();
        !self.ever_ponged
            && !self.link.paused
            && self
                .link
                .first_ping_flushed_at
                .is_some_and(|at| (at + patience).has_passed(self.now))
    }

    fn may_be_overdue(&self) -> bool {
        let limit = self.rules.config.outbox.ack_limit;
        !self.link.paused
            && self.link.acks_awaited_at.is_some_and(|at| (at + limit).has_passed(self.now))
    }

    fn look_for_stability(&mut self) {
        let config = &self.rules.config.connection;
        let link = &mut self.link;
        let stable_at = link.since + config.stable_after;
        if link.phase == LinkPhase::Up && stable_at.has_passed(self.now) {
            link.may_forgive = true;
            let suspect_at = link.heard_at + config.ping_interval;
            let surely_up = !config.can_ping || self.ever_ponged && suspect_at > self.now;
            link.must_forgive |= surely_up && !link.doubt;
        }
    }

    fn opened(&mut self, a: Attempt, awaits_answer: bool) {
        if !self.is_current(a) || self.link.phase != LinkPhase::Dialing {
            self.stale = true;
            return;
        }
        let limit = self.rules.config.connection.dial_limit;
        // Too late: it is aborted.
        if (self.link.dialed_at + limit).has_passed(self.now) {
            self.link.doubt = true;
            return;
        }
        self.link.doubt |= (self.link.since + limit).has_passed(self.now);
        self.link.phase = LinkPhase::Greeting;
        self.link.since = self.now;
        if !awaits_answer {
            self.up();
        }
    }

    fn up(&mut self) {
        let probing = self.probe;
        let link = &mut self.link;
        link.phase = LinkPhase::Up;
        link.since = self.now;
        link.heard_at = self.now;
        link.took_at = self.now;
        link.resumed_at = None;
        link.unasked_since = self.now;
        link.probing = probing;
        self.been_up = true;
        self.surely_been_up |= !link.doubt;
        let from = self.first_possible();
        let link = &mut self.link;
        (link.order, link.order_from) = (0, from);
        let before = from - 1;
        (link.flushed, link.covered, link.awaited) = (before, before, before);
        self.up_by = Instant::NEVER;
    }

    fn heard(&mut self) {
        let patience = self.patience();
        let link = &mut self.link;
        let asked = link.asked_at.is_some_and(|at| (at + patience).has_passed(self.now));
        if asked && !self.ever_ponged && !link.paused {
            link.deaf_at.get_or_insert(self.now + self.rules.config.connection.pong_limit);
        }
        link.heard_at = self.now;
        link.resumed_at = None;
        link.ping_flushed_at = None;
        link.heartbeat_owed &= !self.ever_ponged && link.pinged.is_none();
    }

    fn resumed(&mut self) {
        // What it would wait for, if it were asked now.
        let at = self.now + self.rules.config.connection.ping_interval;
        if self.last_deadline.is_none_or(|deadline| at < deadline.at) {
            self.last_deadline = Some(Deadline { at, timer: Timer::Ping });
        }
        let link = &mut self.link;
        link.resumed_at = Some(self.now);
        link.unasked_since = self.now;
        link.asked_at = link.asked_at.map(|_| self.now);
        link.deaf_at = None;
        link.heartbeat_owed = false;
        if let Some(at) = &mut link.ping_flushed_at {
            *at = self.now;
        }
        if let Some(at) = &mut link.first_ping_flushed_at {
            *at = self.now;
        }
        if core::mem::take(&mut link.paused) {
            link.acks_awaited_at = link.acks_awaited_at.map(|_| self.now);
        }
    }

    fn flushed(&mut self) {
        let link = &mut self.link;
        if core::mem::take(&mut link.ping_unflushed) {
            link.ping_flushed_at.get_or_insert(self.now);
            link.first_ping_flushed_at.get_or_insert(self.now);
        }
        if core::mem::take(&mut link.ask_unflushed) {
            link.asked_at.get_or_insert(self.now);
        }
        if link.phase != LinkPhase::Up {
            return;
        }
        let attempt = link.attempt;
        for seq in link.flushed + 1..=link.highest {
            let written = self.entry(seq).is_some_and(|entry| {
                entry.is_live() && entry.is_on(attempt) && entry.level == Level::Written
            });
            if written {
                // Settled without a word of the peer.
                self.link.unheard.1 = self.link.unheard.1.max(seq);
                if self.is_sure() && self.entry(seq).is_some_and(Entry::is_surely_live) {
                    self.link.unheard.0 = self.link.unheard.0.max(seq);
                }
                self.prove(seq, true);
            }
        }
        self.link.flushed = self.link.order.max(self.link.flushed);
    }

    fn ponged(&mut self, a: Attempt, ping: Ping) {
        if !self.is_current(a) || !self.link.is_open() {
            self.stale = true;
            return;
        }
        self.heard();
        if ping.attempt != a {
            self.stale = true;
            return;
        }
        if self.link.phase != LinkPhase::Up {
            return;
        }
        self.ever_ponged = true;
        self.link.first_ping_flushed_at = None;
        self.link.deaf_at = None;
        self.link.heartbeat_owed = false;
        let seq = ping.seq.get();
        if self.link.pinged.is_none_or(|pinged| seq > pinged) {
            self.illegal = true;
            return;
        }
        self.link.ponged = true;
        // What was handed over before the first ping of that name.
        let (mut before, mut sure) = (0, true);
        while let Some(&(pinged, sent, is_sure)) =
            self.link.pings.front().filter(|ping| ping.0 <= seq)
        {
            self.link.pings.pop_front();
            if pinged == seq {
                (before, sure) = (sent, is_sure);
                break;
            }
        }
        if before == 0 && seq > self.link.covered {
            // No ping named it: it proves what the pings before it would prove, which is unknown.
            return;
        }
        for covered in self.link.covered + 1..=seq.min(self.link.highest) {
            let is_proved = self.entry(covered).is_some_and(|entry| {
                entry.is_live()
                    && entry.is_on(a)
                    && entry.level != Level::Acked
                    && entry.sent_as < before
            });
            if is_proved && sure {
                self.prove(covered, true);
            } else if is_proved {
                // It is true, but a client that tells pings by their name may not know.
                if let Some(entry) = self.entry_mut(covered) {
                    entry.proved = true;
                }
                self.loosen(covered);
            }
        }
        let link = &mut self.link;
        if sure {
            link.covered = link.covered.max(seq.min(link.order));
        }
        if link.unheard.0 <= seq {
            link.unheard.0 = 0;
        }
        if link.unheard.1 <= seq {
            link.unheard.1 = 0;
        }
    }

    fn signalled(&mut self, a: Attempt, signal: Signal, honest: bool) {
        if !self.is_current(a) || !self.link.is_open() {
            self.stale = true;
            return;
        }
        match signal {
            Signal::Greeted if self.link.phase == LinkPhase::Greeting => {
                return self.up();
            }
            Signal::Greeted | Signal::Violation => return,
            Signal::Refused(refusal) => {
                self.link.refused = Some(refusal);
                if self.link.doubt {
                    return self.may_die_alone();
                }
                self.end(None, self.now);
                return self.relay();
            }
            Signal::Ack(_) | Signal::Nack(..) | Signal::NackFrom(..) => {}
        }
        if self.link.phase != LinkPhase::Up {
            self.illegal = true;
            return;
        }
        match signal {
            Signal::Ack(ack) => {
                self.answer(ack, |oracle, seq, live| {
                    if live {
                        oracle.prove(seq, honest);
                    }
                });
            }
            Signal::Nack(which, nack) => self.nacked(which, nack),
            Signal::NackFrom(id, nack) => self.nacked_from(id, nack),
            Signal::Greeted | Signal::Refused(_) | Signal::Violation => {}
        }
    }

    /// The number of the first message that awaits an answer by position.
    fn first_awaited(&mut self) -> Option<u64> {
        let attempt = self.link.attempt;
        let awaits =
            |entry: &Entry| entry.level == Level::Acked && entry.is_on(attempt) && !entry.answered;
        while self.link.awaited < self.link.highest {
            let seq = self.link.awaited + 1;
            if self.entry(seq).is_some_and(awaits) {
                return Some(seq);
            }
            self.link.awaited = seq;
        }
        None
    }

    /// Does something with each message that a legal answer names and that is not answered yet;
    /// says with it whether it may be live.
    fn answer(&mut self, which: Ack, mut each: impl FnMut(&mut Self, u64, bool)) {
        let subject = self.first_awaited();
        let (outbox, last, up_to) = match which {
            Ack::Next => match subject {
                Some(seq) => (None, seq, false),
                None => {
                    self.illegal = true;
                    return;
                }
            },
            Ack::One(seq) => (None, seq.get(), false),
            Ack::UpTo(seq) => (None, seq.get(), true),
            Ack::OneOf(id) => (Some(id.outbox), id.seq.get(), false),
            Ack::UpToOf(id) => (Some(id.outbox), id.seq.get(), true),
        };
        let Some(last) = self.legal(outbox, last, up_to) else { return };
        let attempt = self.link.attempt;
        let from = if up_to { self.base } else { last };
        for seq in from..=last {
            let Some(entry) = self.entry(seq).copied() else { continue };
            if outbox.is_some_and(|outbox| outbox != entry.outbox) {
                continue;
            }
            let awaited = entry.level == Level::Acked && entry.is_on(attempt) && !entry.answered;
            if !entry.is_live() && !awaited {
                continue;
            }
            // Also of one that is settled: the connection has outlived it.
            self.progress();
            each(self, seq, entry.is_live());
            if let Some(entry) = self.entry_mut(seq) {
                entry.answered = true;
            }
            if subject == Some(seq) {
                self.link.acks_awaited_at = Some(self.now);
            }
        }
    }

    /// The last number that a legal answer names; none if it is illegal, or names what is long over.
    fn legal(&mut self, outbox: Option<OutboxId>, last: u64, up_to: bool) -> Option<u64> {
        let mut last = last;
        if let Some(outbox) = outbox {
            let index = self.epochs.iter().position(|&(_, id)| id == outbox)?;
            let numbers = self.epochs[index].0.clone();
            if last < *numbers.start() {
                self.illegal |= index + 1 == self.epochs.len();
                return None;
            }
            if last > *numbers.end() && !up_to {
                return None;
            }
            last = last.min(*numbers.end());
        }
        if last == 0 || last > self.sent_to {
            self.illegal = true;
            return None;
        }
        Some(last)
    }

    fn nacked(&mut self, which: Ack, nack: Nack) {
        let attempt = self.link.attempt;
        let (mut holds, mut recalls) = (false, false);
        self.answer(which, |oracle, seq, live| {
            let Some(entry) = oracle.entry(seq).copied().filter(|_| live) else { return };
            match nack {
                Nack::Permanent => {
                    let sure = oracle.is_sure() && !entry.loose;
                    if let Some(entry) = oracle.entry_mut(seq) {
                        entry.was_rejected = true;
                    }
                    if sure {
                        oracle.recall(seq);
                        oracle.settle(seq, Stage::Failed(FailReason::Rejected));
                    } else {
                        oracle.loosen(seq);
                    }
                }
                Nack::Transient if entry.is_on(attempt) => {
                    recalls = true;
                    holds |= oracle.is_sure() && !entry.loose;
                    let (may, must) =
                        (oracle.may_be_head(seq), oracle.is_surely_head(seq) && oracle.is_sure());
                    oracle.recall(seq);
                    oracle.charge(seq, may, must);
                }
                Nack::Transient => {}
            }
        });
        if recalls {
            self.rewind();
        }
        // A refusal in a pause does not make it longer.
        if holds && !self.may_be_held {
            self.hold_until = Some(self.now + self.rules.config.outbox.nack_delay);
        }
        self.may_be_held |= recalls;
    }

    fn nacked_from(&mut self, id: MessageId, nack: Nack) {
        let seq = id.seq.get();
        let known = self.epochs.iter().find(|(numbers, _)| numbers.contains(&seq));
        let outbox = known.map(|(_, outbox)| *outbox);
        let sent = self.link.order_from..=self.link.highest;
        if !sent.contains(&seq) || outbox.is_some_and(|outbox| outbox != id.outbox) {
            self.illegal = true;
            return;
        }
        let highest = self.link.highest;
        self.nacked(Ack::OneOf(id), nack);
        for behind in seq + 1..=highest {
            if let Some(entry) = self.entry_mut(behind) {
                entry.answered = true;
            }
            self.recall(behind);
        }
        self.rewind();
    }

    /// A nack has taken a message back.
    fn recall(&mut self, seq: u64) {
        self.uncount_in_flight(seq);
        let attempt = self.link.attempt;
        if let Some(entry) = self.entry_mut(seq).filter(|entry| entry.is_on(attempt)) {
            entry.recalled = true;
        }
    }

    /// What is handed over next begins with the head again.
    fn rewind(&mut self) {
        let link = &mut self.link;
        link.order = 0;
        link.pings.iter_mut().for_each(|ping| ping.2 = false);
        let before = self.base - 1;
        (link.flushed, link.covered, link.awaited) = (before, before, before);
    }

    /// There was a cause to charge a message.
    fn charge(&mut self, seq: u64, may: bool, must: bool) {
        let budget = self.rules.config.outbox.retry_budget;
        let Some(entry) = self.entry_mut(seq) else { return };
        entry.may_charge += u32::from(may);
        entry.must_charge += u32::from(must);
        let (sure, perhaps) = (entry.must_charge > budget, entry.may_charge > budget);
        let (live, loose) = (entry.is_live(), entry.loose);
        self.charged += u64::from(may);
        if live && sure && !loose {
            self.settle(seq, Stage::Failed(FailReason::Exhausted));
        } else if live && perhaps && may {
            self.loosen(seq);
        }
    }

    fn lost(&mut self, a: Attempt, loss: Loss) {
        if !self.is_current(a) {
            return;
        }
        self.end(Some(loss), self.now);
        self.relay();
    }

    // ---- The end of an attempt -----------------------------------------------------------------

    /// The attempt is over, now at the latest; `from` at the earliest.
    fn end(&mut self, loss: Option<Loss>, from: Instant) {
        let from = if self.link.doubt { self.first_look.unwrap_or(from).min(from) } else { from };
        let phase = self.link.phase;
        let losses = self.losses(loss);
        if phase == LinkPhase::Up {
            self.down(loss);
        }
        self.link.phase = LinkPhase::Over;
        if let Run::Stopping(_) = self.run {
            self.run = Run::Stopped;
            return;
        }
        if matches!(self.run, Run::Stopped | Run::Idle) {
            return;
        }
        if phase == LinkPhase::Closing {
            // It was started when its close may have been over. Nobody waits before that.
            return self.starts_over(self.run);
        }
        if phase == LinkPhase::Up && self.link.may_forgive {
            (self.failures.0, self.renewals.0) = (0, 0);
            if self.link.must_forgive {
                (self.failures.1, self.renewals.1) = (0, 0);
            }
        }
        if self.failures.1 == 0 {
            self.failing_since.0 = from;
        }
        if self.failures.0 == 0 {
            self.failing_since.1 = self.now;
        }
        self.failures = (self.failures.0.saturating_add(1), self.failures.1.saturating_add(1));
        self.due = Some(self.due_after(&losses, from));
        if let Some(at) = self.link.nudged_at.take() {
            self.nudged(at);
        }
        if let Some(at) = self.link.started_at.take() {
            self.may_start_over(at);
        }
        self.up_by = Instant::NEVER;
        self.extend_up();
    }

    /// What the client may take for the cause.
    fn losses(&self, said: Option<Loss>) -> Vec<Loss> {
        if let (Some(loss), false) = (said, self.link.doubt) {
            return vec![loss];
        }
        if let (Some(refusal), false) = (self.link.refused, self.link.doubt) {
            return vec![Loss::Refused(refusal)];
        }
        let mut losses: Vec<Loss> = said.into_iter().collect();
        losses.extend(self.link.refused.map(Loss::Refused));
        match self.link.phase {
            LinkPhase::Dialing => losses.push(Loss::DialLimit),
            LinkPhase::Greeting => losses.push(Loss::GreetingLimit),
            LinkPhase::Up => {
                losses.extend([Loss::WriteLimit, Loss::PongLimit, Loss::Overdue]);
                if self.may_be_deaf() {
                    losses.push(Loss::NeverPonged);
                }
            }
            LinkPhase::Over | LinkPhase::Closing => losses.push(Loss::Io),
        }
        losses
    }

    fn due_after(&mut self, losses: &[Loss], from: Instant) -> Due {
        let config = self.rules.config.connection.clone();
        let backoff = config.backoff;
        let limits =
            VerdictLimits { retry_after_cap: config.retry_after_cap, backoff_cap: backoff.cap };
        let mut due = Due {
            earliest: Instant::NEVER,
            latest: Instant::ZERO,
            server: false,
            nudgeable: false,
            nudged_at: None,
            drawn: None,
            may_stop: false,
            must_stop: config.max_attempts.is_some_and(|max| self.failures.0 >= max),
            shown: None,
        };
        due.may_stop |= config.max_attempts.is_some_and(|max| self.failures.1 >= max);
        let verdict_of = verdicts::table_of(&config);
        let before = self.renewals;
        let mut renewals: Option<(u32, u32)> = None;
        let mut ends = true;
        for &loss in losses {
            let verdict = verdict_of(loss, limits);
            let renewed = match verdict {
                Verdict::Renew => (before.0.saturating_add(1), before.1.saturating_add(1)),
                _ => (0, 0),
            };
            let (low, high) = renewals.unwrap_or(renewed);
            renewals = Some((low.min(renewed.0), high.max(renewed.1)));
            let fatal = verdict == Verdict::Fatal;
            let (may, must) = (fatal || renewed.1 >= 2, fatal || renewed.0 >= 2);
            let never_ponged = loss == Loss::NeverPonged;
            due.may_stop |= may && (never_ponged || !self.surely_been_up);
            ends &= must && (never_ponged || !self.been_up);

            let few = if must { u32::MAX } else { self.failures.0.saturating_sub(1) };
            let many = if may { u32::MAX } else { self.failures.1.saturating_sub(1) };
            let longest = backoff.ceiling(many);
            let (low, high) = match backoff.jitter {
                Jitter::Full => (Duration::ZERO, longest),
                Jitter::Equal => (backoff.ceiling(few) / 2, longest),
                Jitter::None => (backoff.ceiling(few), longest),
                Jitter::Decorrelated => (backoff.base, backoff.cap),
                _ => (Duration::ZERO, backoff.cap),
            };
            let cap = config.retry_after_cap;
            let (theirs_low, theirs_high) = match &verdict {
                Verdict::RetryAfter(range) => {
                    due.server = true;
                    (*range.start().min(&cap), *range.end().min(&cap))
                }
                _ => (Duration::ZERO, Duration::ZERO),
            };
            due.nudgeable |= theirs_low == Duration::ZERO;
            due.earliest = due.earliest.min(from + low.max(theirs_low));
            due.latest = due.latest.max(self.now + high.max(theirs_high));
            // Where a delay that is too long is the end, those that are waited for are not drawn evenly.
            let evenly = backoff.jitter == Jitter::Full && config.max_elapsed.is_none();
            if evenly && verdict == Verdict::Retry && from == self.now {
                due.drawn = Some((from, backoff.ceiling(few)));
            }
        }
        self.renewals = renewals.unwrap_or((0, 0));
        if let Some(max) = config.max_elapsed {
            due.may_stop |= due.latest > self.failing_since.0 + max;
            due.must_stop |= due.earliest > self.failing_since.1 + max;
        }
        due.must_stop |= ends && !losses.is_empty();
        due
    }

    /// An attempt that may be over already ends now if it is not, before the clock is looked at: with
    /// one message in flight, that one may be blamed before its time is over.
    fn may_die_alone(&mut self) {
        let config = &self.rules.config.outbox;
        let (settles, limit) = (config.on_suspected == OnSuspected::Settle, config.suspect_limit);
        let (attempt, head) = (self.link.attempt, self.first_possible());
        let in_flight = |entry: &Entry| entry.is_surely_live() && entry.is_on(attempt);
        let others = (head + 1..self.next).any(|seq| self.entry(seq).is_some_and(in_flight));
        let Some(entry) = self.entry_mut(head).filter(|entry| in_flight(entry)) else { return };
        if settles && !others && entry.lonely_deaths.saturating_add(1) >= limit {
            entry.lonely_deaths = entry.lonely_deaths.saturating_add(1);
            self.loosen(head);
        }
    }

    /// The link is down: what was in flight is queued again, and somebody may be blamed.
    fn down(&mut self, loss: Option<Loss>) {
        let attempt = self.link.attempt;
        let (mut sure, mut perhaps, mut sure_ghosts, mut ghosts) = (0, 0, 0, 0);
        let mut candidates = Vec::new();
        for seq in self.base..=self.link.highest.min(self.next - 1) {
            let Some(entry) = self.entry(seq).copied().filter(|e| e.is_on(attempt)) else {
                continue;
            };
            if entry.is_live() {
                sure += usize::from(!entry.loose);
                perhaps += usize::from(entry.loose);
                candidates.push((seq, !entry.loose));
            } else if entry.level == Level::Acked && !entry.answered {
                sure_ghosts += usize::from(!entry.loose);
                ghosts += usize::from(entry.loose);
            }
        }
        let doubt = self.link.doubt;
        let overdue = self.may_be_overdue();
        if overdue && let Some(seq) = self.first_awaited() {
            let may = self.may_be_head(seq);
            self.charge(seq, may, false);
        }
        // A push may have told the outbox that the ack is overdue. Then the end is its own.
        if sure > 0 && loss.is_some() && !doubt && !overdue {
            self.probe = true;
        }
        let accused = loss.is_some_and(Loss::accuses_a_message);
        let crowd = sure + sure_ghosts + usize::from(self.link.unheard.0 > 0);
        let alone = sure == 1 && perhaps + sure_ghosts + ghosts == 0 && self.link.unheard.1 == 0;
        let settles = self.rules.config.outbox.on_suspected == OnSuspected::Settle;
        let limit = self.rules.config.outbox.suspect_limit;
        for (seq, surely) in candidates {
            let others = crowd - usize::from(surely);
            let may = others == 0 && self.may_be_head(seq);
            if accused {
                let must = alone && !doubt && self.is_surely_head(seq);
                if let Some(entry) = self.entry_mut(seq) {
                    entry.accused_in_company |= !may;
                }
                self.charge(seq, may, must);
            } else if may {
                let Some(entry) = self.entry_mut(seq) else { continue };
                entry.lonely_deaths = entry.lonely_deaths.saturating_add(1);
                if settles && entry.lonely_deaths >= limit && entry.is_live() {
                    self.loosen(seq);
                }
            }
        }
        let link = &mut self.link;
        link.in_flight = (0, 0, 0);
        link.unheard = (0, 0);
        link.heartbeat_owed = false;
    }

    // ---- Starting and stopping -----------------------------------------------------------------

    fn start(&mut self) {
        match self.run {
            Run::Idle | Run::Stopped => self.starts_over(Run::Running),
            Run::Running => {
                if self.link.doubt {
                    self.link.started_at.get_or_insert(self.now);
                }
                self.may_start_over(self.now);
            }
            // While it closes this is ignored.
            Run::Stopping(by) if by.has_passed(self.now) || self.link.doubt => {
                self.starts_over(Run::Unsure);
            }
            Run::Stopping(_) | Run::Unsure => {}
        }
        self.extend_quiet();
    }

    /// `Start` was said then, and it may have given up before.
    fn may_start_over(&mut self, at: Instant) {
        if self.due.is_some_and(|due| due.may_stop) {
            self.waited();
        }
        if let Some(due) = self.due.as_mut().filter(|due| due.may_stop) {
            due.earliest = due.earliest.min(at);
            due.must_stop = false;
            self.run = Run::Unsure;
            self.failures.0 = 0;
            self.renewals.0 = 0;
        }
    }

    fn starts_over(&mut self, run: Run) {
        self.run = run;
        self.failures = (0, 0);
        self.renewals = (0, 0);
        self.due = Some(Due {
            earliest: self.now,
            latest: self.now,
            server: false,
            nudgeable: false,
            nudged_at: None,
            drawn: None,
            may_stop: false,
            must_stop: false,
            shown: None,
        });
    }

    fn stop(&mut self) {
        match self.run {
            Run::Stopping(_) | Run::Stopped => return,
            Run::Idle | Run::Running | Run::Unsure => {}
        }
        self.stops();
        self.extend_quiet();
    }

    /// The connection was told to stop.
    fn stops(&mut self) {
        let by = self.now + self.rules.config.connection.close_limit;
        self.waited();
        self.due = None;
        match self.link.phase {
            LinkPhase::Up => {
                self.down(None);
                self.link.phase = LinkPhase::Closing;
                self.link.cut_at = by;
                self.run = Run::Stopping(by);
            }
            // It still closes, if it was not over.
            LinkPhase::Closing => self.run = Run::Stopping(self.link.cut_at),
            LinkPhase::Dialing | LinkPhase::Greeting | LinkPhase::Over => {
                let open = matches!(self.link.phase, LinkPhase::Dialing | LinkPhase::Greeting);
                self.link.left = open && !self.link.doubt;
                self.link.phase = LinkPhase::Over;
                self.run = Run::Stopped;
            }
        }
    }

    fn nudge(&mut self) {
        if !matches!(self.run, Run::Running | Run::Unsure) {
            return;
        }
        if self.link.phase == LinkPhase::Over {
            self.nudged(self.now);
        } else if self.link.doubt {
            self.link.nudged_at.get_or_insert(self.now);
        }
    }

    /// The next dial may have been shortened by a nudge that was said then.
    fn nudged(&mut self, at: Instant) {
        if self.due.is_some_and(|due| due.nudgeable) {
            self.waited();
        }
        if let Some(due) = self.due.as_mut().filter(|due| due.nudgeable) {
            due.earliest = due.earliest.min(at);
            due.nudged_at.get_or_insert(at);
        }
    }

    /// What a drain does to the connection, and a stopped connection to the drain.
    fn relay(&mut self) {
        if self.closing.is_none() {
            return;
        }
        let may_have_stopped = match self.run {
            Run::Stopped => {
                self.return_all(true);
                return;
            }
            Run::Idle => false,
            Run::Unsure => true,
            Run::Stopping(_) => self.link.doubt,
            Run::Running => {
                let due = self.due.is_some_and(|due| due.may_stop);
                let is_last = self.may_be_deaf() || self.may_give_up();
                due && self.link.phase == LinkPhase::Over || self.link.doubt && is_last
            }
        };
        if may_have_stopped {
            self.return_all(false);
        }
        if matches!(self.run, Run::Stopping(_)) {
            return;
        }
        if self.live + self.loose == 0 {
            self.stops();
        } else if self.live == 0 {
            self.link.doubt = true;
        }
    }

    /// Whether the client may give up if this attempt ends.
    fn may_give_up(&self) -> bool {
        let config = &self.rules.config.connection;
        let attempts = self.failures.1.saturating_add(1);
        config.max_elapsed.is_some() || config.max_attempts.is_some_and(|max| attempts >= max)
    }

    // ---- What the client says ------------------------------------------------------------------

    fn dials(&mut self, a: Attempt) -> Judged {
        self.relay();
        match self.run {
            Run::Idle | Run::Stopped | Run::Stopping(_) => {
                let text = format!("dials {a} while it is stopped");
                return Err(self.violation(Statement::S13, text));
            }
            Run::Running | Run::Unsure => {}
        }
        if a <= self.link.attempt {
            let text = format!("dials {a} after {}", self.link.attempt);
            return Err(self.violation(Statement::S12, text));
        }
        self.replaces(a, "dials")?;
        if let Some(due) = self.due {
            if due.must_stop && self.run == Run::Running {
                let text = format!("dials {a} after its last attempt");
                return Err(self.violation(Statement::S13, text));
            }
            if self.now < due.earliest {
                let early = due.earliest.since(self.now);
                let text = format!("dials {a} {early:?} early");
                let statement = if due.server { Statement::R4 } else { Statement::R2 };
                return Err(self.violation(statement, text));
            }
            self.judge_nudge(a, due)?;
            self.judge_draw(a)?;
        }
        self.run = Run::Running;
        self.due = None;
        self.skip_to(a.get() - 1);
        self.link = Link::new(a, self.first_look.unwrap_or(self.now));
        self.link.dialed_at = self.now;
        Ok(())
    }

    /// An order for another attempt is the end of the newest one: it replaces the abort of that.
    fn replaces(&mut self, a: Attempt, order: &str) -> Judged {
        if !self.link.is_alive() {
            return Ok(());
        }
        if !self.may_end() && !self.link.doubt {
            let text = format!("{order} {a} while {} is alive", self.link.attempt);
            let statement = if self.stale { Statement::S11 } else { Statement::S12 };
            return Err(self.violation(statement, text));
        }
        self.link.doubt = true;
        self.end(None, self.now);
        Ok(())
    }

    /// Attempts that a late driver never asked for: each may have run into its dial limit.
    fn skip_to(&mut self, last: u64) {
        let skipped = last - self.link.attempt.get();
        if skipped > 0 {
            if self.failures.1 == 0 {
                self.failing_since.0 = Instant::ZERO;
            }
            let more = u32::try_from(skipped).unwrap_or(u32::MAX);
            self.failures.1 = self.failures.1.saturating_add(more);
            self.renewals.0 = 0;
        }
    }

    /// A nudge takes effect when it is said, or a floor after the one before it did. A driver that
    /// is late dials later than that, so what counts is when each took effect at the earliest.
    fn judge_nudge(&mut self, a: Attempt, due: Due) -> Judged {
        let shortened = due.shown.is_some_and(|shown| self.now < shown);
        let Some(nudged_at) = due.nudged_at.filter(|_| shortened) else { return Ok(()) };
        let floor = self.rules.config.connection.nudge_floor;
        if self.now < self.nudge_free_at {
            let text = format!("dials {a}, nudged twice within {floor:?}");
            return Err(self.violation(Statement::R2, text));
        }
        self.nudge_free_at = self.nudge_free_at.max(nudged_at) + floor;
        Ok(())
    }

    /// Whether the delays so far can be chance. With a fair generator each is evenly drawn from zero
    /// to its longest, so of those that are not over after the part p of that, −ln(1 − p) have been
    /// expected to end in a dial. That counts for what is cut short too, or short delays, which are
    /// not, would seem to be all there are. Of dials of which s are expected there are n or more with
    /// a chance of at most sⁿ/n!.
    fn judge_draw(&mut self, a: Attempt) -> Judged {
        if !self.waited() || !self.rules.fair {
            return Ok(());
        }
        self.drawn.0 += 1;
        let (n, sum) = (f64::from(self.drawn.0), self.drawn.1.max(f64::MIN_POSITIVE));
        // Stirling's lower bound of n!.
        let log_factorial = n * n.ln() - n;
        let log_chance = n * sum.ln() - log_factorial;
        if sum < n && self.drawn.0 >= 16 && log_chance < -34.5 {
            let text = format!("dials {a}: {n} delays, and {sum:.2} are to be expected");
            return Err(self.violation(Statement::R2, text));
        }
        Ok(())
    }

    /// A delay that was drawn is waited for no longer; says whether there was one.
    fn waited(&mut self) -> bool {
        let drawn = self.due.as_mut().and_then(|due| due.drawn.take());
        if let Some((from, longest)) = drawn {
            let part = self.now.since(from).as_secs_f64() / longest.as_secs_f64();
            self.drawn.1 -= (-part.min(1.0)).ln_1p().max(-100.0);
        }
        drawn.is_some()
    }

    fn sends(&mut self, a: Attempt, content: Content, wire: Wire) -> Judged {
        self.relay();
        if wire == Wire::Blocked {
            return Err(self.violation(Statement::S10, "a frame for a blocked wire".into()));
        }
        match self.run {
            Run::Idle | Run::Stopped | Run::Stopping(_) => {
                let text = format!("sends on {a} while it is stopped");
                return Err(self.violation(Statement::S13, text));
            }
            Run::Running | Run::Unsure => {}
        }
        if a != self.link.attempt {
            let text = format!("sends on {a}, the newest is {}", self.link.attempt);
            return Err(self.violation(Statement::S12, text));
        }
        let allowed = match content {
            Content::Greeting | Content::Reply => self.link.is_open(),
            Content::Ping(_) | Content::Beat | Content::Message { .. } => {
                self.link.phase == LinkPhase::Up
            }
        };
        if !allowed {
            let text = format!("sends {content:?} on {a}, {:?}", self.link.phase);
            let statement = if self.stale { Statement::S11 } else { Statement::S10 };
            return Err(self.violation(statement, text));
        }
        match content {
            Content::Greeting | Content::Beat => Ok(()),
            Content::Reply => {
                self.link.reply_owed = false;
                Ok(())
            }
            Content::Ping(ping) => {
                self.pings(ping.seq.get());
                Ok(())
            }
            Content::Message { id, message, first } => self.transmits(id, message, first),
        }
    }

    fn pings(&mut self, seq: u64) {
        let mut again = (self.link.order + 1).max(self.base)..=seq;
        let sure = !again.any(|seq| self.entry(seq).is_some_and(Entry::is_live));
        let link = &mut self.link;
        link.pings.push_back((seq, link.sent + 1, sure));
        link.pinged = link.pinged.max(Some(seq));
        link.since_ping = (0, 0);
        link.ping_unflushed = true;
        link.ask_unflushed |= link.asks;
        link.heartbeat_owed = false;
    }

    fn transmits(&mut self, id: MessageId, message: u64, first: bool) -> Judged {
        let seq = id.seq.get();
        let attempt = self.link.attempt;
        let limits = self.rules.config.outbox.clone();
        let Some(entry) = self.entry(seq).copied() else {
            if (1..self.base).contains(&seq) {
                let void = self.ledger.get(&message).is_some_and(|ledger| ledger.void);
                let statement = if void { Statement::S15 } else { Statement::S2 };
                return Err(self.violation(statement, format!("{seq} goes after it was settled")));
            }
            let text = format!("message {message} goes as {seq}, which is nobody's name");
            return Err(self.violation(Statement::S1, text));
        };
        if entry.outbox != id.outbox {
            let text = format!("{seq} of {} goes as of {}", entry.outbox, id.outbox);
            return Err(self.violation(Statement::S14, text));
        }
        if entry.message != message {
            let text = format!("message {message} goes as {seq}, which is {}", entry.message);
            return Err(self.violation(Statement::S1, text));
        }
        match entry.stage {
            Stage::Live => {}
            Stage::Failed(FailReason::Cancelled | FailReason::Expired) => {
                let text = format!("{seq} goes after it was cancelled, or has expired");
                return Err(self.violation(Statement::S15, text));
            }
            Stage::Gone if entry.was_cancelled || entry.may_expire => {
                let text = format!("{seq} goes after it was cancelled, or has expired");
                return Err(self.violation(Statement::S15, text));
            }
            Stage::Failed(FailReason::Exhausted) => {
                let text = format!("{seq} goes again though its budget is used up");
                return Err(self.violation(Statement::X1, text));
            }
            Stage::Delivered | Stage::Failed(_) | Stage::Gone => {
                let text = format!("{seq} goes after it was settled");
                return Err(self.violation(Statement::S2, text));
            }
        }
        if entry.is_on(attempt) {
            let text = format!("{seq} goes twice on {attempt}");
            return Err(self.violation(Statement::S6, text));
        }
        if self.hold_until.is_some_and(|until| self.now < until) {
            let text = format!("{seq} goes before the nack delay is over");
            return Err(self.violation(Statement::S6, text));
        }
        if seq <= self.link.order {
            let text = format!("{seq} goes after {}", self.link.order);
            return Err(self.violation(Statement::S5, text));
        }
        for passed in self.link.order.max(self.link.order_from.saturating_sub(1)) + 1..seq {
            let Some(over) = self.entry(passed).filter(|entry| entry.is_surely_live()) else {
                continue;
            };
            if self.hold_until.is_some() && over.is_on(attempt) {
                let text = format!("{seq} goes behind a nack while {passed} is not answered");
                return Err(self.violation(Statement::S5, text));
            }
            if !over.is_on(attempt) {
                let text = format!("{seq} goes before {passed}");
                let statement = if over.restored { Statement::S14 } else { Statement::S5 };
                return Err(self.violation(statement, text));
            }
        }
        if self.link.probing {
            let unasked = self.rules.config.connection.can_ping && !self.link.ponged;
            if unasked || self.link.in_flight.0 > 0 {
                let text = format!("{seq} goes, though messages in flight may kill connections");
                return Err(self.violation(Statement::X4, text));
            }
        }
        if first {
            self.judge_debts(seq)?;
        }
        let (messages, bytes, _) = self.link.in_flight;
        let full = messages >= limits.window_messages || bytes + entry.size > limits.window_bytes;
        if full && messages > 0 {
            let text = format!("{seq} goes with {messages} messages, {bytes} B in flight");
            return Err(self.violation(Statement::R1, text));
        }

        if self.link.order == 0 {
            self.link.order_from = seq;
        }
        (self.hold_until, self.may_be_held) = (None, false);
        self.link.sent += 1;
        let sent = self.link.sent;
        if let Some(entry) = self.entry_mut(seq) {
            if entry.sent_on != attempt {
                entry.sent_as = sent;
            }
            entry.sent_on = attempt;
            entry.recalled = false;
            entry.answered = false;
            entry.handed_over = true;
            entry.either_fate = false;
            entry.restored = false;
            entry.transmissions = entry.transmissions.saturating_add(1);
        }
        self.sent_to = self.sent_to.max(seq);
        let link = &mut self.link;
        link.order = seq;
        // What comes again is looked at again.
        for looked_at in [&mut link.flushed, &mut link.covered, &mut link.awaited] {
            *looked_at = (*looked_at).min(seq - 1);
        }
        link.highest = link.highest.max(seq);
        link.since_ping.0 += 1;
        link.since_ping.1 += entry.size;
        if !entry.loose {
            link.in_flight.0 += 1;
            link.in_flight.1 += entry.size;
            link.in_flight.2 += usize::from(entry.level == Level::Received);
        }
        if entry.level == Level::Acked {
            link.acks_awaited_at.get_or_insert(self.now);
        }
        Ok(())
    }

    /// Pings that are due go before messages.
    fn judge_debts(&self, seq: u64) -> Judged {
        let limits = &self.rules.config.outbox;
        let link = &self.link;
        if link.heartbeat_owed {
            return Err(self.violation(Statement::L7, format!("{seq} goes before the heartbeat")));
        }
        if link.reply_owed && !link.doubt {
            return Err(self.violation(Statement::L7, format!("{seq} goes before the reply")));
        }
        let (messages, bytes) = link.since_ping;
        let due = messages >= (limits.window_messages / 16).max(1)
            || bytes >= (limits.window_bytes / 16).max(1);
        if self.rules.config.connection.can_ping && link.in_flight.2 > 0 && due {
            let text = format!("{seq} goes, {messages} messages after the last ping");
            return Err(self.violation(Statement::L7, text));
        }
        Ok(())
    }

    fn closes(&mut self, a: Attempt) -> Judged {
        self.relay();
        if a != self.link.attempt {
            let text = format!("closes {a}, the newest is {}", self.link.attempt);
            return Err(self.violation(Statement::S12, text));
        }
        match (self.run, self.link.phase) {
            (Run::Stopping(_), _) => Ok(()),
            // So it was not over when it was stopped, and a start has meant nothing since.
            (Run::Unsure, LinkPhase::Closing) => {
                self.run = Run::Stopping(self.link.cut_at);
                self.due = None;
                Ok(())
            }
            // The last one may have been settled, and then the drain is over.
            (Run::Running | Run::Unsure, LinkPhase::Up)
                if self.closing.is_some() && self.live == 0 =>
            {
                self.stops();
                Ok(())
            }
            (Run::Running | Run::Unsure | Run::Idle | Run::Stopped, _) => {
                let text = format!("closes {a} for no cause");
                Err(self.violation(Statement::X5, text))
            }
        }
    }

    fn aborts(&mut self, a: Attempt) -> Judged {
        self.relay();
        if a < self.link.attempt {
            let text = format!("aborts {a}, the newest is {}", self.link.attempt);
            return Err(self.violation(Statement::S12, text));
        }
        self.link.left = false;
        if a > self.link.attempt {
            // It was to be dialed and nobody asked for it in time.
            self.replaces(a, "aborts")?;
            self.skip_to(a.get());
            self.link = Link { phase: LinkPhase::Over, ..Link::new(a, self.now) };
            self.waited();
            if let Some(due) = &mut self.due {
                due.latest = Instant::NEVER;
                due.may_stop = true;
            }
            return Ok(());
        }
        let phase = self.link.phase;
        if phase == LinkPhase::Over {
            return Ok(());
        }
        let stopped = matches!(self.run, Run::Stopping(_) | Run::Stopped);
        let drained = self.closing.is_some() && self.live == 0;
        let may_end = self.may_end() || self.link.doubt;
        if !stopped && !drained && !may_end {
            let text = format!("aborts {a}, {phase:?} since {:?}", self.now.since(self.link.since));
            let statement = match phase {
                _ if self.stale => Statement::S11,
                LinkPhase::Up | LinkPhase::Closing | LinkPhase::Over => Statement::L4,
                LinkPhase::Dialing | LinkPhase::Greeting => Statement::L1,
            };
            return Err(self.violation(statement, text));
        }
        if !stopped && drained && !may_end {
            self.stops();
            return Ok(());
        }
        self.link.doubt |= !stopped;
        self.end(None, self.now);
        self.relay();
        Ok(())
    }

    fn delivered(&mut self, first: u64, last: u64) -> Judged {
        if first > last || last >= self.next || first <= self.reported_to {
            let text = format!("{first} to {last} are delivered, after {}", self.reported_to);
            return Err(self.violation(Statement::S2, text));
        }
        self.reported_to = last;
        for seq in first..=last {
            let Some(entry) = self.entry(seq).copied() else {
                let text = format!("{seq} is delivered after it was settled");
                return Err(self.violation(Statement::S2, text));
            };
            let unproved = !entry.proved;
            match entry.stage {
                Stage::Live | Stage::Delivered if unproved => {
                    let text = format!("{seq} is delivered without evidence");
                    return Err(self.violation(self.unfounded(Statement::S3), text));
                }
                Stage::Live | Stage::Delivered => {}
                Stage::Failed(reason) => {
                    let text = format!("{seq} is delivered, but had failed: {reason}");
                    return Err(self.violation(Statement::S2, text));
                }
                Stage::Gone => {
                    let text = format!("{seq} is delivered after it was settled");
                    return Err(self.violation(Statement::S2, text));
                }
            }
            let ledger = self.ledger.get(&entry.message).copied().unwrap_or_default();
            let there = match entry.level {
                Level::Written => true,
                Level::Received => ledger.arrived,
                Level::Acked => ledger.processed,
            };
            if self.rules.ledger && !entry.doubtful && !there {
                let text =
                    format!("message {} is delivered and the peer has it not", entry.message);
                return Err(self.violation(Statement::S3, text));
            }
            if self.link.phase == LinkPhase::Up && entry.is_on(self.link.attempt) {
                self.progress();
            }
            self.report(seq);
        }
        self.tidy();
        Ok(())
    }

    /// What a settlement without a cause comes from.
    fn unfounded(&self, otherwise: Statement) -> Statement {
        match (self.illegal, self.stale) {
            (true, _) => Statement::S7,
            (false, true) => Statement::S11,
            (false, false) => otherwise,
        }
    }

    /// A settlement is reported.
    fn report(&mut self, seq: u64) {
        let Some(entry) = self.entry(seq).copied() else { return };
        match entry.stage {
            Stage::Live => {
                self.settle(seq, Stage::Gone);
            }
            Stage::Failed(_) => {
                self.unreported -= usize::from(!entry.loose);
                self.held.0 -= 1;
                self.held.1 -= entry.size;
            }
            Stage::Delivered if entry.loose => {
                self.held.0 -= 1;
                self.held.1 -= entry.size;
            }
            Stage::Delivered | Stage::Gone => {}
        }
        if let Some(entry) = self.entry_mut(seq) {
            entry.stage = Stage::Gone;
        }
    }

    fn failed(&mut self, message: u64, id: MessageId, reason: FailReason, fate: Fate) -> Judged {
        self.relay();
        let seq = id.seq.get();
        let Some(entry) = self.entry(seq).copied() else {
            let text = format!("{seq} fails after it was settled");
            return Err(self.violation(Statement::S2, text));
        };
        if entry.stage == Stage::Gone {
            let text = format!("{seq} fails after it was settled");
            return Err(self.violation(Statement::S2, text));
        }
        if entry.outbox != id.outbox {
            let text = format!("{seq} of {} fails as of {}", entry.outbox, id.outbox);
            return Err(self.violation(Statement::S14, text));
        }
        if entry.message != message {
            let text = format!("{seq} fails with message {message}, it is {}", entry.message);
            return Err(self.violation(Statement::S1, text));
        }
        let right = if entry.handed_over { Fate::MaybeDelivered } else { Fate::NotSent };
        if fate != right && !entry.either_fate {
            let text = format!("{seq} fails as {fate:?}, it is {right:?}");
            return Err(self.violation(Statement::S8, text));
        }
        let limits = &self.rules.config.outbox;
        let (caused, statement) = match reason {
            FailReason::Exhausted => (
                entry.may_charge > limits.retry_budget && entry.transmissions > limits.retry_budget,
                if entry.accused_in_company { Statement::X4 } else { Statement::X1 },
            ),
            FailReason::Rejected => (entry.was_rejected, self.unfounded(Statement::S7)),
            FailReason::Expired => (entry.may_expire, Statement::X5),
            FailReason::Cancelled => (entry.was_cancelled, Statement::X5),
            FailReason::Suspected => (
                limits.on_suspected == OnSuspected::Settle
                    && entry.lonely_deaths >= limits.suspect_limit,
                Statement::X4,
            ),
            // Also if that was in a drain of the process before.
            FailReason::Returned => (entry.may_return || self.may_return(), Statement::L5),
        };
        if !caused {
            let text = format!("{seq} fails for no cause: {reason}");
            return Err(self.violation(statement, text));
        }
        match entry.stage {
            Stage::Failed(due) if due != reason => {
                let text = format!("{seq} fails: {reason}; but before that, {due}");
                return Err(self.violation(Statement::S2, text));
            }
            Stage::Delivered => {
                let text = format!("{seq} fails: {reason}; but was delivered before");
                return Err(self.violation(Statement::S2, text));
            }
            Stage::Live | Stage::Failed(_) | Stage::Gone => {}
        }
        if let Some(ledger) = self.ledger.get_mut(&message) {
            ledger.void = matches!(reason, FailReason::Cancelled | FailReason::Expired);
        }
        self.report(seq);
        self.tidy();
        Ok(())
    }

    /// Whether a drain may be over.
    fn may_return(&self) -> bool {
        self.closing.is_some_and(|deadline| {
            deadline.has_passed(self.now)
                || match self.run {
                    Run::Stopped | Run::Unsure => true,
                    Run::Stopping(_) => self.link.doubt || self.link.phase == LinkPhase::Over,
                    Run::Running => self.due.is_some_and(|due| due.may_stop),
                    Run::Idle => false,
                }
        })
    }

    fn status(&mut self, status: Status) -> Judged {
        self.relay();
        self.suspected(status.suspected)?;
        match status.phase {
            Phase::Stopped { reason } => {
                let may_stop = match self.run {
                    Run::Running => {
                        self.due.is_some_and(|due| due.may_stop || due.must_stop)
                            || self.closing.is_some() && self.live == 0
                    }
                    Run::Idle => false,
                    Run::Stopping(_) => !self.link.is_alive() || self.link.doubt,
                    Run::Unsure | Run::Stopped => true,
                };
                if !may_stop {
                    let text = format!("is stopped for no cause: {reason}");
                    return Err(self.violation(Statement::X5, text));
                }
                self.run = Run::Stopped;
                self.waited();
                self.due = None;
                self.link.phase = LinkPhase::Over;
                self.relay();
            }
            Phase::Waiting { redial_at } => {
                if self.run == Run::Unsure {
                    self.run = Run::Running;
                }
                if let Some(due) = self.due.as_mut() {
                    due.shown = Some(redial_at).max(due.shown);
                }
                if let Some(due) = self.due.filter(|_| self.link.phase == LinkPhase::Over) {
                    self.judge_delay(due, redial_at)?;
                }
            }
            Phase::Up | Phase::Suspect => self.surely_been_up = true,
            Phase::Idle | Phase::Dialing | Phase::Greeting | Phase::Closing => {}
        }
        Ok(())
    }

    fn judge_delay(&self, due: Due, redial_at: Instant) -> Judged {
        if redial_at > due.latest {
            let late = redial_at.since(due.latest);
            let statement = if due.server { Statement::R4 } else { Statement::R3 };
            let text = format!("waits {late:?} longer than may be");
            return Err(self.violation(statement, text));
        }
        Ok(())
    }

    fn suspected(&mut self, suspected: Option<Seq>) -> Judged {
        let Some(seq) = suspected.map(Seq::get) else { return Ok(()) };
        let limit = self.rules.config.outbox.suspect_limit;
        let deaths = self.entry(seq).map_or(0, |entry| entry.lonely_deaths);
        // What was blamed before a restore is stored with it.
        if deaths < limit && self.life == 0 {
            let text = format!("{seq} is suspected after {deaths} deaths");
            return Err(self.violation(Statement::X4, text));
        }
        Ok(())
    }

    // ---- The end of a drain --------------------------------------------------------------------

    fn waits(&mut self, wire: Wire, deadline: Option<Deadline>) -> Judged {
        self.relay();
        // Whatever had come to an end would have been said by now.
        self.link.doubt = false;
        self.link.nudged_at = None;
        self.link.started_at = None;
        self.judge_deadline(deadline)?;
        self.judge_reports()?;
        self.judge_link(wire)?;
        self.judge_stop()?;
        self.judge_quiet()?;
        self.last_deadline = deadline;
        self.first_look = None;
        self.stale = false;
        self.illegal = false;
        self.tidy();
        Ok(())
    }

    fn judge_deadline(&self, deadline: Option<Deadline>) -> Judged {
        let config = &self.rules.config.connection;
        let Some(deadline) = deadline else {
            let needs = match self.link.phase {
                LinkPhase::Over => {
                    self.run == Run::Running && self.due.is_some_and(|due| !due.may_stop)
                }
                LinkPhase::Dialing | LinkPhase::Greeting => true,
                LinkPhase::Up => config.can_ping && !self.link.paused,
                LinkPhase::Closing => true,
            };
            // At the end of time there are no deadlines.
            let ends = self.now + Duration::from_secs(365 * 24 * 60 * 60) == Instant::NEVER;
            if needs && !ends && !self.link.doubt {
                let text = format!("waits for nothing, {:?}", self.link.phase);
                return Err(self.violation(Statement::L3, text));
            }
            return Ok(());
        };
        if deadline.at == Instant::NEVER {
            return Err(self.violation(Statement::R6, "waits for the end of time".into()));
        }
        if self.looked && deadline.at <= self.now {
            let text = format!("waits for {:?}, which has passed", deadline.timer);
            return Err(self.violation(Statement::L6, text));
        }
        if self.run == Run::Stopped && !matches!(deadline.timer, Timer::Expiry | Timer::Drain) {
            let text = format!("waits for {:?} while it is stopped", deadline.timer);
            return Err(self.violation(Statement::S13, text));
        }
        if let Some(due) = self.due.filter(|due| self.run == Run::Running && !due.may_stop)
            && self.link.phase == LinkPhase::Over
        {
            self.judge_delay(due, deadline.at)?;
        }
        Ok(())
    }

    fn judge_reports(&mut self) -> Judged {
        if self.unreported > 0 {
            let base = self.base;
            let owed = self.entries.iter().zip(base..).find_map(|(entry, seq)| match entry.stage {
                Stage::Failed(reason) if !entry.loose => Some((seq, reason)),
                _ => None,
            });
            if let Some((seq, reason)) = owed {
                let statement = match reason {
                    FailReason::Cancelled | FailReason::Expired => Statement::X5,
                    FailReason::Returned => Statement::L5,
                    FailReason::Exhausted => Statement::X1,
                    FailReason::Rejected | FailReason::Suspected => Statement::S2,
                };
                let text = format!("{seq} is not reported: {reason}");
                return Err(self.violation(statement, text));
            }
        }
        let first = self.entries.iter().zip(self.base..).find(|(e, _)| e.stage != Stage::Gone);
        if let Some((entry, seq)) = first
            && entry.stage == Stage::Delivered
            && !entry.loose
        {
            let text = format!("{seq} is delivered and not reported");
            return Err(self.violation(Statement::S2, text));
        }
        Ok(())
    }

    fn judge_link(&mut self, wire: Wire) -> Judged {
        let config = &self.rules.config.connection;
        let link = &self.link;
        if link.is_open() && !link.doubt && link.reply_owed && wire == Wire::Ready {
            let text = "a reply is due and does not go".into();
            return Err(self.violation(Statement::L7, text));
        }
        if link.phase != LinkPhase::Up || link.doubt || !config.can_ping {
            return Ok(());
        }
        if wire == Wire::Ready {
            if link.heartbeat_owed {
                let text = "the heartbeat is due and does not go".into();
                return Err(self.violation(Statement::L7, text));
            }
            if link.in_flight.2 > 0 && link.pings.is_empty() && link.refused.is_none() {
                let text = "nobody asks for a receipt".into();
                return Err(self.violation(Statement::L7, text));
            }
            let asked = link.ponged || !link.pings.is_empty() || link.refused.is_some();
            if link.probing && self.live > 0 && !asked && !self.may_be_held {
                let text = "messages wait for a first pong, and nobody asks for it".into();
                return Err(self.violation(Statement::L7, text));
            }
        }
        if !link.paused && self.looked && link.deaf_at.is_some_and(|at| at.has_passed(self.now)) {
            let text = "the peer talks and answers no ping, and is not given up".into();
            return Err(self.violation(Statement::L2, text));
        }
        if !link.paused && self.looked {
            let heard_at = link.heard_at.max(link.resumed_at.unwrap_or(Instant::ZERO));
            let alive_at = (heard_at + config.ping_interval).max(link.took_at);
            let found_by = alive_at + config.write_limit + config.pong_limit + link.lateness;
            if self.now > found_by {
                let text = format!("the peer is silent since {:?}", self.now.since(heard_at));
                return Err(self.violation(Statement::L4, text));
            }
        }
        Ok(())
    }

    fn judge_stop(&self) -> Judged {
        if self.link.left {
            let text = format!("the socket of {} is left", self.link.attempt);
            return Err(self.violation(Statement::S12, text));
        }
        if let Run::Stopping(by) = self.run
            && self.looked
            && by.has_passed(self.now)
            && self.link.is_alive()
        {
            let text = "the connection is not cut".into();
            return Err(self.violation(Statement::L5, text));
        }
        Ok(())
    }

    // ---- Gauges --------------------------------------------------------------------------------

    fn gauges(&mut self, gauges: Gauges) -> Judged {
        let before = core::mem::replace(&mut self.gauges, gauges);
        let falls = gauges.accepted < before.accepted
            || gauges.displaced < before.displaced
            || gauges.delivered < before.delivered
            || gauges.failed < before.failed
            || gauges.charges < before.charges;
        if falls {
            return Err(self.violation(Statement::R6, format!("{before:?} became {gauges:?}")));
        }
        let [attempts, lost_dialing, links, lost_links] = gauges.attempts;
        if lost_links > links || lost_dialing + links > attempts {
            let text = format!(
                "of {attempts} attempts {lost_dialing} failed, of {links} links {lost_links} were lost"
            );
            return Err(self.violation(Statement::R6, text));
        }
        let limits = &self.rules.config.outbox;
        let window = limits.window_messages;
        let slots = gauges.held.messages + window + 1 + self.loaded_slots;
        let fits = gauges.held.messages <= limits.max_messages
            && gauges.held.bytes <= limits.max_bytes
            && gauges.in_flight.messages <= window
            && gauges.in_flight.bytes <= limits.window_bytes
            && gauges.footprint.0 <= 2 * slots + 64
            && gauges.footprint.1 <= 2 * gauges.held.messages + 64;
        if !fits {
            return Err(self.violation(Statement::R1, format!("{gauges:?}")));
        }
        if gauges.steps > STEPS.0 * self.seen + STEPS.1 {
            let text = format!("{} looks at messages in {} moments", gauges.steps, self.seen);
            return Err(self.violation(Statement::R5, text));
        }
        let live = gauges.queued + gauges.in_flight.messages;
        let counted = gauges.accepted == self.accepted
            && gauges.displaced == self.displaced
            && (self.live..=self.live + self.loose).contains(&live);
        let ended = gauges.displaced + gauges.delivered + gauges.failed + live as u64;
        let (low, high) = self.loaded;
        let conserved = (gauges.accepted + low..=gauges.accepted + high).contains(&ended);
        if !counted || !conserved {
            let text = format!(
                "{} accepted, {} displaced, {} live and {} perhaps; the client has {gauges:?}",
                self.accepted, self.displaced, self.live, self.loose
            );
            return Err(self.violation(Statement::S1, text));
        }
        if gauges.charges > self.charged {
            let text = format!("{} charges, {} causes", gauges.charges, self.charged);
            return Err(self.violation(Statement::X1, text));
        }
        let heads = self.first_possible()..=self.first_definite();
        let causes = heads.filter_map(|seq| self.entry(seq)).map(|entry| entry.may_charge).max();
        if gauges.head_charges > causes.unwrap_or(0) {
            let text = format!("the head has {} charges, {causes:?} causes", gauges.head_charges);
            return Err(self.violation(Statement::X1, text));
        }
        self.suspected(gauges.suspected)
    }

    // ---- The peer ------------------------------------------------------------------------------

    fn arrived(&mut self, attempt: Attempt, message: u64, processed: bool) -> Judged {
        let one_by_one = self.rules.config.outbox.window_messages == 1;
        let in_order = !processed || self.rules.refuses_gaps || one_by_one;
        let Some(ledger) = self.ledger.get_mut(&message) else {
            let text = format!("the peer has message {message}, which nobody has pushed");
            return Err(self.violation(Statement::S1, text));
        };
        let known = core::mem::replace(
            if processed { &mut ledger.processed } else { &mut ledger.arrived },
            true,
        );
        ledger.arrived = true;
        let again = processed && core::mem::replace(&mut ledger.taken, true);
        let ledger = *ledger;
        if self.rules.takes_once && self.rules.ledger && again {
            let text = format!("the peer's application takes message {message} in twice");
            return Err(self.violation(Statement::S2, text));
        }
        let replaced = attempt == Attempt::NONE || attempt < self.peer_attempt;
        let replaced = replaced && !(processed && self.rules.takes_once);
        if known || replaced || ledger.life != self.life || !self.rules.ledger {
            return Ok(());
        }
        self.peer_attempt = self.peer_attempt.max(attempt);
        let newest = if processed { &mut self.application_to } else { &mut self.library_to };
        if ledger.seq > *newest {
            *newest = ledger.seq;
        } else if in_order {
            let text = format!("{} comes first after {newest}", ledger.seq);
            return Err(self.violation(Statement::S4, text));
        }
        Ok(())
    }

    // ---- The quiet phase -----------------------------------------------------------------------

    /// From now on the link must come up and all must be settled.
    fn extend_quiet(&mut self) {
        self.up_by = Instant::NEVER;
        self.settled_by = Instant::NEVER;
        self.extend_up();
        self.extend_settled();
    }

    fn extend_up(&mut self) {
        let Some(trip) = self.quiet else { return };
        if self.link.phase == LinkPhase::Up && !self.link.doubt && self.up_by == Instant::NEVER {
            // It may be half-open.
            let config = &self.rules.config.connection;
            let found = config.ping_interval + config.write_limit + config.pong_limit;
            self.up_by = self.now + found + self.longest_dial(trip) * 2;
        } else if self.up_by == Instant::NEVER {
            self.up_by = self.now + self.longest_dial(trip) * 2;
        }
    }

    fn longest_dial(&self, trip: Duration) -> Duration {
        let config = &self.rules.config.connection;
        let longest = config.backoff.cap.max(config.retry_after_cap);
        longest + config.dial_limit + config.greeting_limit + trip * 2
    }

    fn extend_settled(&mut self) {
        let Some(trip) = self.quiet else { return };
        let connection = &self.rules.config.connection;
        let outbox = &self.rules.config.outbox;
        let found = connection.ping_interval + connection.write_limit + connection.pong_limit;
        let messages = u32::try_from(self.live + self.loose).unwrap_or(u32::MAX);
        let bound = found
            + self.longest_dial(trip) * 2
            + outbox.nack_delay_cap * 2
            + outbox.ack_limit * 2
            + connection.ping_interval * 4
            + trip.saturating_mul(8).saturating_mul(messages.saturating_add(4));
        self.settled_by = self.now + bound;
    }

    fn judge_quiet(&self) -> Judged {
        let running = self.run == Run::Running && self.closing.is_none();
        let stays = self.due.is_none_or(|due| !due.may_stop);
        if self.quiet.is_none() || !running || !stays {
            return Ok(());
        }
        let late = self.link.lateness;
        if self.link.phase != LinkPhase::Up && (self.up_by + late).has_passed(self.now) {
            let text = format!("is {:?} in the quiet phase", self.link.phase);
            return Err(self.violation(Statement::L1, text));
        }
        if self.live > 0 && (self.settled_by + late).has_passed(self.now) {
            let text = format!("{} messages are not settled in the quiet phase", self.live);
            return Err(self.violation(Statement::L2, text));
        }
        Ok(())
    }

    fn ended(&mut self) -> Judged {
        self.judge_quiet()
    }
}

/// At the latest so long after a push a time to live is over, for whoever looks at the clock: 1/32
/// late, and a little for parts of a microsecond.
fn late(ttl: Duration) -> Duration {
    ttl.saturating_add(ttl / 32).saturating_add(Duration::from_micros(2))
}
