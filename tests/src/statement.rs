//! What the test kit checks, by number: the statements that hold after every single step.
//!
//! Most are judged by the [`Oracle`](crate::oracle::Oracle) from one history. Some speak of two runs:
//! when a client's life is over, [`twice`](crate::twice) plays its inputs again with a change that must
//! make no difference. Two cannot be seen in a history at all; [`Statement::judge`] says which and where
//! they are tested instead.

use core::fmt;

use bowline_core::Instant;

/// One statement. Its documentation says how it is judged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Statement {
    /// Accepted = queued + in flight + settled. The oracle counts pushes, and for each message what
    /// must have settled it by now; the client's gauges must agree. What is sent or handed back
    /// carries the number of the message that was pushed under that name.
    S1,
    /// Each message settles once. The oracle knows which event settles a message first (answer,
    /// cancel, expiry) and refuses a second report, one that contradicts it, and one that is still
    /// missing when the drain ends. And an application that keeps an inbox takes each in once.
    S2,
    /// Delivered means that the peer had it. Two halves: there must be evidence (a flush, a pong to
    /// a ping sent behind it, an ack that names it, each on the attempt that is up), and the peer's
    /// ledger must have the message. The ledger half is left out where the peer lied.
    S3,
    /// First deliveries are in push order, at the peer's library and in its application. Where the
    /// window is above 1 and the peer takes what was sent behind a message that it has refused for
    /// the moment, its application is left out; and what still arrives through a connection that the
    /// peer has seen replaced is not in any order, but for an application that keeps an inbox.
    S4,
    /// On one attempt numbers rise, except after a nack; a message that waits is not passed over.
    S5,
    /// Nothing is sent twice on one attempt, except after a nack and its delay.
    S6,
    /// An answer that no honest peer can give changes nothing: judged by the settlements that
    /// follow it and have no other cause.
    S7,
    /// A message that was handed over fails as `MaybeDelivered`, one that was not as `NotSent`, and
    /// only the latter may be displaced.
    S8,
    /// A refused push uses no number, and is refused for a reason: accepted pushes are counted, and
    /// so is the room.
    S9,
    /// Frames go out only on a wire that takes them; messages and pings only once the greeting is
    /// done, while the attempt lives.
    S10,
    /// Events of another attempt are no-ops: judged by the settlements that follow them and have
    /// no other cause, and by the end of an attempt that has none.
    S11,
    /// A dial comes after the end of the attempt before it, with a higher number, and frames go out
    /// on the newest only.
    S12,
    /// Once stopped: no dial, no frame, and no deadline but those of messages, until `Start`. The
    /// same for a client that has reached its limit of attempts, or of time.
    S13,
    /// After a restore messages keep their names and come first; new ones have a new outbox.
    S14,
    /// What was cancelled or has expired is not sent.
    S15,
    /// A budget is charged for nacks, withheld acks and accusations only. The oracle counts for
    /// each message the causes that there may have been and must have been; `Exhausted` needs more
    /// than the budget of the first and as many transmissions, and no message is sent with more of
    /// the second.
    X1,
    /// Traffic does not change the backoff. The life is played to a client that is told of no message,
    /// up to `Close` or the first `Overdue`: whenever both wait, they wait until the same time, so both
    /// have drawn the same numbers.
    X2,
    /// Two arrows only. Of the connection: in that pair of clients it gives the same orders and is in
    /// the same state, with the same counters. Of the messages: an outbox whose link flaps whenever it
    /// is down, on a wire that takes nothing, says the same as one that stays down, and has charged as
    /// much. And a machine that takes a step which is not on the [pictures](crate::marks).
    X3,
    /// Only a message that was alone in flight is blamed for the end of a connection, and after one
    /// that ended with messages in flight the head goes alone.
    X4,
    /// Expiry and cancel work in every state: on time, never early, reported in the same drain.
    X5,
    /// Up within what is left of the attempt before, the longest delay, the dial limit and the
    /// greeting limit: judged in the quiet phase, from the last command. And no dial or greeting is
    /// given up before its limit.
    L1,
    /// Settled within a bound made of the settings and the round trip: judged in the quiet phase,
    /// from the last push or command. Only for a client that stays started.
    L2,
    /// A client that is not stopped has a deadline, or waits for a peer that it may not ping.
    L3,
    /// A peer that moves no byte is found within `ping_interval + write_limit + pong_limit` (each
    /// byte that the socket takes extends it, and so does a driver that is late); one that does is
    /// not given up.
    L4,
    /// Stop ends within `close_limit`, a drain by its deadline or with the stop.
    L5,
    /// After a tick and a drain the deadline is later than now.
    L6,
    /// A ping that is due goes before the next message, and so does what a dialect answers.
    L7,
    /// No public wait outlives its limit: there are no waits in a history. Tested where they are, in
    /// `io-tokio/tests`.
    L8,
    /// Messages, bytes, window, dead slots and timers within their limits: the client's gauges, and
    /// the oracle's own count of what is held and in flight.
    R1,
    /// Dials in a window of time: no dial comes before the policy's shortest delay for the failures
    /// that the oracle has counted, nudges have their floor, and where the generator is fair the
    /// delays together are not shorter than chance allows (one false alarm in 10^15).
    R2,
    /// No delay is longer than the policy's longest for that count of failures.
    R3,
    /// A server's delay is kept, and none is above the cap.
    R4,
    /// O(1) amortised: what the outbox has looked at in all its walks, by its own count, against the
    /// number of inputs and outputs. Properties in `core/tests` do the same with thousands of messages;
    /// and a call that never returns is what `simulate` finds by the clock on the wall.
    R5,
    /// Counters do not run backwards, those of attempts add up, and no deadline is at the end of time;
    /// and the build that is simulated checks for overflow.
    R6,
    /// Same inputs, same outputs: the life is played to a new client, which says the same and comes to
    /// the same state and counters.
    D1,
    /// A clock that stands or runs backwards is as good as one that stands: each time that is no later
    /// than one before is replaced by another such time, and nothing changes.
    D2,
    /// Restore and go on equals go on: an outbox that is taken apart and restored whenever its link
    /// is down says the same as one that is not. Not judged once messages are to expire in another
    /// order than they were pushed.
    D3,
    /// A record replays to the same outputs: the life is recorded, and the record replayed from its
    /// text.
    D4,
    /// Spurious ticks change nothing: in the middle of drains, after each, and just before each
    /// deadline another tick is said. It makes no output, and the others stay the same.
    D5,
    /// Shifting the inputs in time shifts the outputs: everything happens a few years later.
    D6,
}

/// What judges a statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judge {
    /// The oracle, from one history.
    Oracle,
    /// A second run of the same life.
    Twice,
    /// Tests in this folder, which name the statement.
    Tests(&'static str),
}

impl Statement {
    /// All of them.
    pub const ALL: [Self; 40] = {
        use Statement::*;
        [
            S1, S2, S3, S4, S5, S6, S7, S8, S9, S10, S11, S12, S13, S14, S15, X1, X2, X3, X4, X5,
            L1, L2, L3, L4, L5, L6, L7, L8, R1, R2, R3, R4, R5, R6, D1, D2, D3, D4, D5, D6,
        ]
    };

    /// What judges it.
    pub const fn judge(self) -> Judge {
        match self {
            Self::X2 | Self::X3 => Judge::Twice,
            Self::D1 | Self::D2 | Self::D3 | Self::D4 | Self::D5 | Self::D6 => Judge::Twice,
            Self::L8 => Judge::Tests("io-tokio/tests"),
            _ => Judge::Oracle,
        }
    }

    /// What it says.
    pub const fn text(self) -> &'static str {
        match self {
            Self::S1 => "accepted = queued + in flight + settled",
            Self::S2 => "each accepted message settles exactly once",
            Self::S3 => "delivered implies that the peer had it",
            Self::S4 => "first deliveries are a subsequence of the push order",
            Self::S5 => "on one attempt numbers rise, and the replay comes first",
            Self::S6 => "nothing is transmitted twice on one attempt, except after a nack",
            Self::S7 => "an illegal ack changes nothing but a counter",
            Self::S8 => "what was handed over and not confirmed fails only as MaybeDelivered",
            Self::S9 => "a refused push changes nothing and uses no Seq",
            Self::S10 => "nothing is sent unless the link is up on this attempt",
            Self::S11 => "events of another attempt are no-ops",
            Self::S12 => "at most one attempt is alive",
            Self::S13 => "stopped is final until Start",
            Self::S14 => "a restored outbox keeps its names and sends its messages first",
            Self::S15 => "a cancelled or expired message is never sent",
            Self::X1 => "a budget is charged for nacks, withheld acks and accusations only",
            Self::X2 => "backoff is a function of connection events alone",
            Self::X3 => "two arrows only",
            Self::X4 => "a poison message is contained",
            Self::X5 => "expiry and cancel work in every connection state",
            Self::L1 => "up within cap, dial limit and greeting limit",
            Self::L2 => "every accepted message settles within a bound",
            Self::L3 => "not stopped implies a deadline or an awaited event",
            Self::L4 => "a half-open peer is found in time, and a slow one is left alone",
            Self::L5 => "stop and close end by their deadline",
            Self::L6 => "drained implies that the deadline is later than now",
            Self::L7 => "heartbeats and receipts go before queued data",
            Self::L8 => "no public wait outlives its stated limit",
            Self::R1 => "messages and bytes are within their limits",
            Self::R2 => "dials are at most those of the backoff",
            Self::R3 => "a delay is in 0 to cap",
            Self::R4 => "a server's delay is kept, within 0 to cap",
            Self::R5 => "each event is O(1) amortised",
            Self::R6 => "nothing overflows",
            Self::D1 => "same settings, seed and inputs give the same outputs",
            Self::D2 => "time running backwards or standing still is legal",
            Self::D3 => "restore and go on equals go on",
            Self::D4 => "a record replays to the same outputs",
            Self::D5 => "spurious ticks change nothing",
            Self::D6 => "shifting the inputs in time shifts the outputs",
        }
    }
}

/// `S4: first deliveries are a subsequence of the push order`
impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}: {}", self.text())
    }
}

/// A statement that does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which.
    pub statement: Statement,
    /// When that came to light.
    pub at: Instant,
    /// What was seen and what should have been.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.at.as_micros();
        let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
        write!(f, "{} ({}, at {seconds}.{micros:06})", self.statement, self.text)
    }
}

impl std::error::Error for Violation {}
