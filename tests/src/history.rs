//! A run as it is seen from outside: what was said to a client, what it said, and what the peer got.
//!
//! A history is a sequence of [`Moment`]s, in the order in which they happened. Whoever drives a
//! client says each of them once: a simulation, or a runtime of yours. The
//! [`Oracle`](crate::oracle::Oracle) takes them one at a time and needs nothing else.
//!
//! All of it is `Copy`, so saying a moment costs no allocation.
//!
//! Messages have two names here. The library's own is [`Seq`] (with the outbox, [`MessageId`]). The
//! test's own is a number that is written into the payload, so that it can be read wherever the
//! payload comes out again: at the peer, and in a failure that hands the message back.

use core::{fmt, time::Duration};

use bowline_core::{
    Amount, Attempt, Client, Deadline, Dialect, FailReason, Fate, Instant, Level, Loss, MessageId,
    OutboxId, Ping, Refused, Seq, Signal, Status, Wire,
};
use rand_core::Rng;

/// Something that was seen, and when.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Moment {
    /// The time that the client was told, or would have been.
    pub at: Instant,
    /// What was seen.
    pub seen: Seen,
}

/// What can be seen of a client from outside.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Seen {
    // ---- The user ------------------------------------------------------------------------------
    /// A message had to go for the push that is seen next. Comes before its
    /// [`Pushed`](Seen::Pushed), once for each.
    Displaced {
        /// The number in the body that was handed back.
        message: u64,
        /// Its place.
        seq: Seq,
        /// Whether the newer one takes its place.
        coalesced: bool,
    },
    /// A push was taken.
    Pushed {
        /// The number in its payload; no two pushes have the same.
        message: u64,
        /// The place that it was given.
        seq: Seq,
        /// Bytes of body and key.
        size: usize,
        /// Its level, the default filled in.
        level: Level,
        /// Its time to live.
        ttl: Option<Duration>,
    },
    /// A push was refused.
    Refused {
        /// Bytes of body and key.
        size: usize,
        /// Why.
        reason: Refused,
    },
    /// `Start` was said.
    Start,
    /// `Stop` was said.
    Stop,
    /// `Nudge` was said.
    Nudge,
    /// `Cancel` was said.
    Cancel(Seq),
    /// `Close` was said: drain until this deadline.
    Close {
        /// That deadline.
        deadline: Instant,
    },
    /// `Tick` was said.
    Tick,
    /// A snapshot was taken and stored; the client goes on.
    Snapshot,
    /// The client came to an orderly end: its last snapshot (`into_snapshot`) was stored.
    Retired,
    /// The process died.
    Crashed,
    /// A new client goes on from the newest snapshot. Its attempts begin at 1 again.
    Restored {
        /// The name for what is pushed from now on.
        outbox: OutboxId,
    },

    // ---- The network, as the client is told of it -------------------------------------------------
    /// The upgrade succeeded, and the dialect has greeted if it was asked to.
    Opened {
        /// The attempt.
        attempt: Attempt,
        /// Whether the greeting awaits an answer ([`Greeting::awaits_answer`]). Of an attempt that
        /// is not taken for open it means nothing.
        ///
        /// [`Greeting::awaits_answer`]: bowline_core::Greeting::awaits_answer
        awaits_answer: bool,
    },
    /// Bytes came. Also for each frame that is received.
    Heard(Attempt),
    /// The socket took bytes.
    Took(Attempt),
    /// Everything handed over was flushed.
    Flushed(Attempt),
    /// The driver stopped reading.
    Paused(Attempt),
    /// The driver reads again.
    Resumed(Attempt),
    /// The attempt is over.
    Lost(Attempt, Loss),
    /// A pong was received on this attempt, with the payload of this ping.
    Ponged(Attempt, Ping),
    /// A data frame was received on this attempt and the dialect read this in it. Once for each
    /// signal, in their order, before the next poll.
    Signalled {
        /// The attempt.
        attempt: Attempt,
        /// What the frame said.
        signal: Signal,
        /// Whether it is true: a peer that lies acknowledges what it does not have.
        honest: bool,
    },
    /// A data frame was received on this attempt, and the dialect has answered it.
    ReplyDue(Attempt),

    // ---- What the client says, one for each poll --------------------------------------------------
    /// `Dial`.
    Dials(Attempt),
    /// `Send`. For a frame that holds several messages, once for each.
    Sends {
        /// The attempt.
        attempt: Attempt,
        /// What is in the frame.
        content: Content,
        /// What the poll was told of the wire.
        wire: Wire,
    },
    /// `Close`.
    Closes(Attempt),
    /// `Abort`.
    Aborts(Attempt),
    /// `Delivered`.
    Delivered {
        /// The first.
        first: Seq,
        /// The last.
        last: Seq,
    },
    /// `Failed`.
    Failed {
        /// The number in the body that was handed back.
        message: u64,
        /// Its name.
        id: MessageId,
        /// Why.
        reason: FailReason,
        /// Where it got to.
        fate: Fate,
    },
    /// `Status`.
    Status(Status),
    /// `WaitUntil`: the end of a drain.
    Waits {
        /// What the poll was told of the wire.
        wire: Wire,
        /// When to say `Tick`.
        deadline: Option<Deadline>,
    },
    /// What the client's getters say. Once after a drain is enough, and it may be left out.
    Gauges(Gauges),

    // ---- The peer's own ledger --------------------------------------------------------------------
    /// The peer's end of an attempt is open.
    PeerOpened(Attempt),
    /// The peer's end is closed: nothing arrives on it any more.
    PeerClosed(Attempt),
    /// The peer's library has a message, for the first time or again.
    Arrived {
        /// The attempt it came through; `NONE` if that was one of a process that has died.
        attempt: Attempt,
        /// The number in its payload.
        message: u64,
    },
    /// The peer's application has taken a message in, for the first time or again.
    Processed {
        /// As in [`Arrived`](Seen::Arrived); `NONE` also if no connection was open.
        attempt: Attempt,
        /// The number in its payload.
        message: u64,
    },
    /// The peer has forgotten what it had taken in.
    Forgot,

    // ---- The simulation ---------------------------------------------------------------------------
    /// The faults are off from now on and the peer answers: the statements of liveness hold.
    Quiet {
        /// The longest time from a frame that is handed over to the answer that is received.
        trip: Duration,
    },
    /// The run is over.
    Ended,
}

/// What is in a frame that the client sends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Content {
    /// A frame of the greeting.
    Greeting,
    /// The dialect's answer to a frame.
    Reply,
    /// A ping.
    Ping(Ping),
    /// The dialect's own heartbeat.
    Beat,
    /// A message.
    Message {
        /// The name under which it goes.
        id: MessageId,
        /// The number in its payload.
        message: u64,
        /// Whether it is the first one in its frame.
        first: bool,
    },
}

/// What the getters of a client say.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Gauges {
    /// Pushes taken.
    pub accepted: u64,
    /// Messages that were coalesced or evicted.
    pub displaced: u64,
    /// Messages delivered.
    pub delivered: u64,
    /// Messages failed.
    pub failed: u64,
    /// Charges to the budgets of all heads.
    pub charges: u64,
    /// Messages queued now.
    pub queued: usize,
    /// What is in flight now.
    pub in_flight: Amount,
    /// What takes up room now.
    pub held: Amount,
    /// Charges to the budget of the head of now.
    pub head_charges: u32,
    /// The head, if it is suspected.
    pub suspected: Option<Seq>,
    /// Slots and timers in memory, dead ones included.
    pub footprint: (usize, usize),
    /// Slots and timers that the outbox has looked at, in all its walks.
    pub steps: u64,
    /// Dials begun, those that failed, links that came up, those that were lost.
    pub attempts: [u64; 4],
}

impl Gauges {
    /// What the getters of this client say now.
    pub fn of<D: Dialect, R: Rng>(client: &Client<D, R>) -> Self {
        let outbox = client.outbox();
        let stats = outbox.stats();
        let connection = client.connection().stats();
        Self {
            accepted: stats.accepted,
            displaced: stats.coalesced + stats.evicted,
            delivered: stats.delivered,
            failed: stats.failed.iter().sum(),
            charges: stats.charges,
            queued: outbox.queued(),
            in_flight: outbox.in_flight(),
            held: outbox.held(),
            head_charges: outbox.charges(),
            suspected: outbox.suspected(),
            footprint: outbox.footprint(),
            steps: outbox.steps(),
            attempts: [
                connection.attempts,
                connection.lost_dialing,
                connection.links,
                connection.lost_links,
            ],
        }
    }
}

impl Moment {
    /// What was seen at this time.
    pub const fn new(at: Instant, seen: Seen) -> Self {
        Self { at, seen }
    }
}

/// One line of a transcript, `12.000345 sends message 7 as 3 on 2`.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.at.as_micros();
        write!(f, "{:>6}.{:06} ", micros / 1_000_000, micros % 1_000_000)?;
        match self.seen {
            Seen::Displaced { message, seq, coalesced } => {
                let how = if coalesced { "replaced" } else { "evicted" };
                write!(f, "message {message}, {seq}, is {how}")
            }
            Seen::Pushed { message, seq, size, level, ttl } => {
                write!(f, "message {message} is pushed as {seq}, {size} B, {level:?}")?;
                ttl.map_or(Ok(()), |ttl| write!(f, ", lives {ttl:?}"))
            }
            Seen::Refused { size, reason } => write!(f, "a push of {size} B is refused: {reason}"),
            Seen::Start => f.write_str("start"),
            Seen::Stop => f.write_str("stop"),
            Seen::Nudge => f.write_str("nudge"),
            Seen::Cancel(seq) => write!(f, "cancel {seq}"),
            Seen::Close { deadline: Instant::NEVER } => f.write_str("close"),
            Seen::Close { deadline } => {
                write!(f, "close, in {:?} at the latest", deadline.since(self.at))
            }
            Seen::Tick => f.write_str("tick"),
            Seen::Snapshot => f.write_str("a snapshot is stored"),
            Seen::Retired => f.write_str("the last snapshot is stored"),
            Seen::Crashed => f.write_str("the process dies"),
            Seen::Restored { outbox } => write!(f, "restored; new messages are of {outbox}"),
            Seen::Opened { attempt, .. } => write!(f, "{attempt} is open"),
            Seen::Heard(a) => write!(f, "{a} hears the peer"),
            Seen::Took(a) => write!(f, "{a} took bytes"),
            Seen::Flushed(a) => write!(f, "{a} is flushed"),
            Seen::Paused(a) => write!(f, "{a} is not read"),
            Seen::Resumed(a) => write!(f, "{a} is read again"),
            Seen::Lost(a, loss) => write!(f, "{a} is lost: {loss}"),
            Seen::Ponged(a, ping) => write!(f, "{a} hears a pong for {}", Named(ping)),
            Seen::Signalled { attempt, signal, honest } => {
                let lie = if honest { "" } else { ", a lie" };
                write!(f, "{attempt} hears {signal:?}{lie}")
            }
            Seen::ReplyDue(a) => write!(f, "{a} hears what is to be answered"),
            Seen::Dials(a) => write!(f, "    dials {a}"),
            Seen::Sends { attempt, content, wire } => {
                let blocked = if wire == Wire::Blocked { ", blocked" } else { "" };
                f.write_str("    sends ")?;
                match content {
                    Content::Greeting => f.write_str("a greeting")?,
                    Content::Reply => f.write_str("a reply")?,
                    Content::Ping(ping) => write!(f, "a ping for {}", Named(ping))?,
                    Content::Beat => f.write_str("a beat")?,
                    Content::Message { id, message, first } => {
                        let packed = if first { "" } else { " in the same frame" };
                        write!(f, "message {message} as {}{packed}", id.seq)?;
                    }
                }
                write!(f, " on {attempt}{blocked}")
            }
            Seen::Closes(a) => write!(f, "    closes {a}"),
            Seen::Aborts(a) => write!(f, "    aborts {a}"),
            Seen::Delivered { first, last } if first == last => write!(f, "    {first} delivered"),
            Seen::Delivered { first, last } => write!(f, "    {first} to {last} delivered"),
            Seen::Failed { message, id, reason, fate } => {
                write!(f, "    message {message}, {}, failed: {reason}, {fate:?}", id.seq)
            }
            Seen::Status(status) => write!(f, "    is {:?} on {}", status.phase, status.attempt),
            Seen::Waits { wire, deadline } => {
                f.write_str("    waits")?;
                if wire == Wire::Blocked {
                    f.write_str(" for the wire")?;
                }
                deadline.map_or(Ok(()), |deadline| {
                    write!(f, " {:?} for {:?}", deadline.at.since(self.at), deadline.timer)
                })
            }
            Seen::Gauges(gauges) => write!(
                f,
                "    has {} queued, {} in flight, {} held",
                gauges.queued, gauges.in_flight.messages, gauges.held.messages
            ),
            Seen::PeerOpened(a) => write!(f, "        the peer opens {a}"),
            Seen::PeerClosed(a) => write!(f, "        the peer has closed {a}"),
            Seen::Arrived { attempt, message } => {
                write!(f, "        message {message} arrives on {attempt}")
            }
            Seen::Processed { attempt, message } => {
                write!(f, "        message {message} is processed on {attempt}")
            }
            Seen::Forgot => f.write_str("        the peer forgets all that it has taken in"),
            Seen::Quiet { trip } => write!(f, "the faults end; a round trip takes {trip:?}"),
            Seen::Ended => f.write_str("the end"),
        }
    }
}

/// A ping by what it names.
struct Named(Ping);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.0.seq, self.0.attempt)
    }
}
