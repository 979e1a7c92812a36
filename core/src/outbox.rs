//! Machine 2: the outbox. It queues, transmits and settles messages.
//!
//! It knows nothing of dials, backoff or socket errors. What it hears of the connection is one
//! value, [`Link`](crate::Link), and what it says to it is one event, `Overdue`.
//!
//! **Queued.** [`push`](Outbox::push) takes an encoded message or hands it back; nothing in
//! between. Messages keep the order in which they were pushed, for ever.
//!
//! **In flight.** While the link is up, messages are handed over in that order, as many as the
//! window allows. From then on one may have reached the peer. When the link goes down, all that
//! are in flight are queued again where they stand, and the next link replays them first.
//!
//! **Settled.** Each message has exactly one outcome: delivered, at the level that it asked for,
//! or failed, with its body handed back and a [`Fate`] that says whether it may have arrived.
//!
//! The outbox as a whole:
//!
//! **Down.** There is no link. Time to live runs; nothing is charged.
//!
//! **Open.** Messages are handed over while the window has room.
//!
//! **Probing.** A connection died with messages in flight. One of them may have killed it, so the
//! head goes alone, after a first ping was answered, until the peer has taken it. Only a message
//! that was alone in flight is ever blamed.
//!
//! **Held.** A message was refused for the moment. Nothing is handed over until all in flight are
//! answered and the nack delay is over; the refused one is then the first. A peer that keeps
//! messages in order drops what was sent behind a message that it refused; all of that goes again
//! too, and there is no delay if the refusal was for good.
//!
//! **Draining.** [`Close`](OutboxEvent::Close) was said: pushes are refused, delivery goes on, and
//! at the deadline what is left is handed back. This is not a state beside the others, for a drain
//! is down, probing, open or held like any other outbox.
//!
//! ```mermaid
//! stateDiagram-v2
//!     [*] --> Down
//!     Down --> Open: Up
//!     Down --> Probing: Up
//!     Down --> Held: Up
//!     Open --> Down: Down
//!     Open --> Probing: Up
//!     Open --> Held: Nacked, NackedFrom
//!     Probing --> Down: Down
//!     Probing --> Open: Acked, Flushed, Nacked, NackedFrom, Ponged
//!     Probing --> Held: Nacked, NackedFrom
//!     Held --> Down: Down
//!     Held --> Open: Acked, Cancel, Flushed, Nacked, NackedFrom, Ponged, Tick (Nack), Tick (Expiry), Tick (Drain), Up
//!     Held --> Probing: Tick (Nack), Up
//! ```
//!
//! | state | event | next | effect |
//! |---|---|---|---|
//! | any | Up | Open, Probing or Held | the cursor goes back to the head |
//! | Probing, Open, Held | Down | Down | all in flight are queued again; the head is charged if it was accused alone, suspected if it was alone |
//! | Probing, Open, Held | Ponged | the same; Probing may send its head | all of level Received below it are delivered |
//! | Probing, Open, Held | Flushed | the same | all of level Written handed over are delivered |
//! | Probing, Open, Held | Acked | the same; Probing that made progress: Open | what it names is delivered |
//! | Probing, Open, Held | Nacked, permanent | the same; Probing: Open | what it names is rejected |
//! | Probing, Open, Held | Nacked, transient | Held | what it names is queued again; the head is charged |
//! | Probing, Open, Held | NackedFrom | Held | as Nacked; all that was sent behind it is queued again, for nothing |
//! | Held | delay over, nothing in flight | Open | the cursor goes back to the head |
//! | Probing, Open, Held | the ack of the head is withheld for `ack_limit` | the same | Overdue; the head is charged |
//! | any | Cancel | the same | the message is cancelled |
//! | any | Close | the same | pushes are refused |
//! | any | a time to live is over | the same | the message is expired |
//! | any | the drain's deadline is over | the same | everything left is returned |
//!
//! **Delivery levels.** `Written` settles when the frame is flushed. `Received` settles when a pong
//! comes back to a ping that was sent behind it: frames are ordered and a pong is mandatory
//! (RFC 6455 §5.5.2 and §5.5.3), so it is a cumulative receipt of the peer's WebSocket library.
//! `Acked` settles when the application at the other end says so.
//!
//! **Budget.** `retry_budget` is charged to the head only, and every charge buys one more
//! transmission. What charges: a transient nack of it; its ack withheld for `ack_limit` after a
//! pong showed that the peer has it; a Close that blames a message while it is alone in flight.
//! Silence and being disconnected charge nothing, ever.
//!
//! **Cost.** Every event is O(1) amortised, with two exceptions that are O(log n): a coalescing
//! key, and a lookup by number while numbers are missing in the queue. A million messages that
//! expire at once take one pass, and what is settled behind the head is passed by once, however
//! often a link comes up or a peer refuses the same.

use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    vec::Vec,
};
use core::{fmt, time::Duration};

use bytes::Bytes;
use rand_core::Rng;

use crate::{
    Wire,
    config::{ConfigError, check},
    dialect::Body,
    expiry::Expiry,
    time::{Attempt, Deadline, Instant, Timer},
};

/// The place of a message in one outbox. The first is 1, and no number is used twice; numbers may
/// be missing (cancelled, expired, coalesced messages).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub struct Seq(u64);

impl Seq {
    /// The place with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for OutboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one outbox for ever: drawn at random for each new and each restored outbox.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub struct OutboxId(u128);

impl OutboxId {
    /// The outbox with this number.
    pub const fn new(number: u128) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u128 {
        self.0
    }

    /// A fresh one.
    pub fn draw(rng: &mut impl Rng) -> Self {
        Self(u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64()))
    }
}

/// Names one message for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub struct MessageId {
    /// The outbox that it was pushed to.
    pub outbox: OutboxId,
    /// Its place there.
    pub seq: Seq,
}

/// How much must be known before a message counts as delivered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Level {
    /// The frame was flushed to the socket: the kernel has it.
    Written,
    /// A pong came back to a ping sent behind it: the peer's WebSocket library has it.
    #[default]
    Received,
    /// The application at the other end acknowledged it.
    Acked,
}

/// Which messages an ack or a nack speaks of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Ack {
    /// Positional: the first message of level [`Acked`](Level::Acked), in the order of
    /// transmission on this attempt, that has not been answered.
    Next,
    /// This message.
    One(Seq),
    /// This message and all before it.
    UpTo(Seq),
    /// This message, named with its outbox.
    OneOf(MessageId),
    /// This message and all before it that were pushed to the same outbox.
    UpToOf(MessageId),
}

/// How a message was refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Nack {
    /// Try it again after the nack delay. Charged to the budget of the head.
    Transient,
    /// Never try it again.
    Permanent,
}

/// Messages with the same key are alternatives: a newer one takes the place of an older one that
/// is still queued and was never transmitted. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub struct Key(Arc<[u8]>);

impl Key {
    /// How many bytes it has; they count as bytes of the message.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is empty; an empty key is a key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key({} B)", self.len())
    }
}

impl From<&str> for Key {
    fn from(key: &str) -> Self {
        Self(Arc::from(key.as_bytes()))
    }
}

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Self {
        Self(Arc::from(key))
    }
}

/// What a full outbox does with a push.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Overflow {
    /// Hand the new message back.
    #[default]
    Reject,
    /// Hand the oldest messages back that were never transmitted, as many as need be.
    EvictOldest,
}

/// What happens to a head that died with its connection `suspect_limit` times.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum OnSuspected {
    /// The status names it and it is tried again, for ever: a server that crashes in a loop must
    /// not eat the queue. Cancelling it is the way out.
    #[default]
    Wait,
    /// It fails as [`FailReason::Suspected`].
    Settle,
}

/// The settings of an [`Outbox`]. [`validate`](Self::validate) checks them together.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct OutboxConfig {
    /// Messages that are held at once, queued and in flight. Default 262,144; 1 to 16,777,216.
    pub max_messages: usize,
    /// Their bytes, bodies and keys. Default 64 MiB; `window_bytes` to 64 GiB.
    pub max_bytes: usize,
    /// Bytes of one message, body and key. Default 1 MiB; 1 to `window_bytes`.
    pub max_message_bytes: usize,
    /// Messages in flight at once. Default 65,536; 1 to `max_messages`.
    pub window_messages: usize,
    /// Their bytes. Default 4 MiB; `max_message_bytes` to `max_bytes`.
    pub window_bytes: usize,
    /// What a full outbox does. Default [`Overflow::Reject`].
    pub overflow: Overflow,
    /// The level of a message that names none. Default [`Level::Received`].
    pub level: Level,
    /// How many retransmissions of a head can be charged before it fails as
    /// [`FailReason::Exhausted`]. Default 5, which makes 6 transmissions; 0 to 1,000,000.
    pub retry_budget: u32,
    /// After how many connections in a row that died with it alone in flight a head is suspected.
    /// Default 5; at least 1.
    pub suspect_limit: u32,
    /// What then. Default [`OnSuspected::Wait`].
    pub on_suspected: OnSuspected,
    /// How long the peer may withhold the ack of the head, from the pong that shows that it has
    /// it. Default 30 s; 1 ms to a day.
    pub ack_limit: Duration,
    /// The pause after a transient nack; doubles with each one in a row. Default 0.5 s; 1 ms to
    /// `nack_delay_cap`.
    pub nack_delay: Duration,
    /// The longest such pause. Default 30 s; `nack_delay` to a day.
    pub nack_delay_cap: Duration,
    /// A receipt is asked for after this many messages. Default 256; at least 1.
    pub receipt_interval_messages: usize,
    /// A receipt is asked for after this many bytes. Default 64 KiB; at least 1.
    pub receipt_interval_bytes: usize,
    /// What is not covered by a receipt is asked for again after this long. A client sets it to
    /// the ping interval of its connection. Default 20 s; 1 ms to a day.
    pub receipt_repeat_interval: Duration,
    /// Whether the transport can ping. Without, level `Received` is refused. Default true.
    pub can_ping: bool,
    /// Whether the dialect has acks. Without, level `Acked` is refused. A client sets it from its
    /// dialect. Default true.
    pub can_ack: bool,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self {
            max_messages: 262_144,
            max_bytes: 64 << 20,
            max_message_bytes: 1 << 20,
            window_messages: 65_536,
            window_bytes: 4 << 20,
            overflow: Overflow::Reject,
            level: Level::Received,
            retry_budget: 5,
            suspect_limit: 5,
            on_suspected: OnSuspected::Wait,
            ack_limit: Duration::from_secs(30),
            nack_delay: Duration::from_millis(500),
            nack_delay_cap: Duration::from_secs(30),
            receipt_interval_messages: 256,
            receipt_interval_bytes: 64 << 10,
            receipt_repeat_interval: Duration::from_secs(20),
            can_ping: true,
            can_ack: true,
        }
    }
}

impl OutboxConfig {
    /// Checks every field, and that one message fits into the window and the window into the
    /// queue; the error names the first field that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let ms = Duration::from_millis(1);
        let day = Duration::from_secs(24 * 60 * 60);
        check("max_messages", self.max_messages, 1..=1 << 24)?;
        check("max_bytes", self.max_bytes as u64, 1..=64 << 30)?;
        check("window_messages", self.window_messages, 1..=self.max_messages)?;
        check("window_bytes", self.window_bytes, 1..=self.max_bytes)?;
        check("max_message_bytes", self.max_message_bytes, 1..=self.window_bytes)?;
        check("retry_budget", self.retry_budget, 0..=1_000_000)?;
        check("suspect_limit", self.suspect_limit, 1..=u32::MAX)?;
        check("ack_limit", self.ack_limit, ms..=day)?;
        check("nack_delay_cap", self.nack_delay_cap, ms..=day)?;
        check("nack_delay", self.nack_delay, ms..=self.nack_delay_cap)?;
        check("receipt_interval_messages", self.receipt_interval_messages, 1..=usize::MAX)?;
        check("receipt_interval_bytes", self.receipt_interval_bytes, 1..=usize::MAX)?;
        check("receipt_repeat_interval", self.receipt_repeat_interval, ms..=day)?;
        if let Err(missing) = self.supports(self.level) {
            return Err(ConfigError::new("level", alloc::format!("{:?}", self.level), missing));
        }
        Ok(())
    }

    /// What is missing for a level.
    fn supports(&self, level: Level) -> Result<(), &'static str> {
        match level {
            Level::Received if !self.can_ping => {
                Err("Written or Acked, for the transport cannot ping")
            }
            Level::Acked if !self.can_ack => {
                Err("Written or Received, for the dialect has no acks")
            }
            Level::Written | Level::Received | Level::Acked => Ok(()),
        }
    }
}

/// How one message wants to be treated.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub struct PushOptions {
    /// When it counts as delivered; the outbox's own level if none.
    pub level: Option<Level>,
    /// How long it may stay unsettled, connected or not; for ever if none.
    pub ttl: Option<Duration>,
    /// Its coalescing key.
    pub key: Option<Key>,
}

/// A push was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pushed {
    /// The place of the message. A coalesced one has the place of the message that it replaced;
    /// it uses up a number all the same, so that the n-th accepted push always has number n and
    /// a producer may count by itself.
    pub seq: Seq,
    /// Messages that had to go for it: this is their settlement.
    pub displaced: Vec<Displaced>,
}

/// A message that was settled by the push of another one. It was never transmitted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Displaced {
    /// Its place.
    pub seq: Seq,
    /// Its body.
    pub body: Body,
    /// Whether a message of the same key took its place; else it was evicted.
    pub coalesced: bool,
}

/// A push was refused; nothing has changed and no number was used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct PushError {
    /// Why.
    pub reason: Refused,
    /// The message.
    pub body: Body,
    /// Its options.
    pub options: PushOptions,
}

/// Why a push was refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Refused {
    /// As many messages or bytes are held as may be.
    #[error("the outbox is full; wait until messages are settled, or allow it to hold more")]
    Full,
    /// The message is larger than one may be.
    #[error("the message has {size} bytes with its key, the limit is {limit} (max_message_bytes)")]
    TooLarge {
        /// Its bytes, key included.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The outbox is being drained.
    #[error("the outbox is closed")]
    Closed,
    /// The transport or the dialect cannot do what the level needs.
    #[error("level {level:?} is not to be had here: {missing}")]
    Level {
        /// The level.
        level: Level,
        /// What is missing.
        missing: &'static str,
    },
}

/// Why a message failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum FailReason {
    /// Its retry budget is used up.
    #[error("its retry budget is used up")]
    Exhausted,
    /// The peer refused it for good.
    #[error("the peer refused it")]
    Rejected,
    /// Its time to live is over.
    #[error("its time to live is over")]
    Expired,
    /// It was cancelled.
    #[error("it was cancelled")]
    Cancelled,
    /// Connections kept dying with it alone in flight.
    #[error("connections keep dying with it in flight")]
    Suspected,
    /// The drain's deadline was over.
    #[error("it was not delivered before the end of the drain")]
    Returned,
}

/// What is known about where a failed message got to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Fate {
    /// It was never handed over: the peer does not have it.
    NotSent,
    /// It was handed over at least once: the peer may have it.
    MaybeDelivered,
}

/// A message failed: its one settlement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failed {
    /// Its name.
    pub id: MessageId,
    /// Why.
    pub reason: FailReason,
    /// Whether it may have arrived.
    pub fate: Fate,
    /// The message itself.
    pub body: Body,
}

/// The one shape of every ping: it asks for a receipt of all messages up to `seq`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub struct Ping {
    /// The attempt on which it is sent.
    pub attempt: Attempt,
    /// The last message handed over on it before the ping; 0 if none.
    pub seq: Seq,
}

impl Ping {
    /// The length of its payload in bytes; RFC 6455 §5.5 allows 125.
    pub const LEN: usize = 16;

    /// The payload: attempt and seq, big endian.
    pub fn payload(self) -> Bytes {
        let mut payload = [0; Self::LEN];
        payload[..8].copy_from_slice(&self.attempt.get().to_be_bytes());
        payload[8..].copy_from_slice(&self.seq.get().to_be_bytes());
        Bytes::copy_from_slice(&payload)
    }

    /// The ping that a pong answers, none if the payload is not one of ours. A peer may send
    /// pongs that nobody asked for (RFC 6455 §5.5.3).
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let payload: &[u8; Self::LEN] = payload.try_into().ok()?;
        let number = |from: usize| {
            payload[from..from + 8].iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
        };
        Some(Self { attempt: Attempt::new(number(0)), seq: Seq::new(number(8)) })
    }
}

/// What the outbox as a whole is doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OutboxState {
    /// There is no link. `Up` ends it.
    Down,
    /// The head goes alone, because a connection died with messages in flight. Progress ends it.
    Probing {
        /// The first ping of this link was answered, so the head may go.
        answered: bool,
    },
    /// Messages are handed over while the window has room.
    Open,
    /// A message was refused for the moment. The answers of all in flight and `resume_at` end it.
    Held {
        /// When the nack delay is over.
        resume_at: Instant,
    },
}

/// What happens to an outbox. I/O events name their attempt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum OutboxEvent {
    /// The link is up: the first arrow.
    Up(Attempt),
    /// The link is down: the first arrow.
    Down {
        /// The peer blamed a message.
        accused: bool,
    },
    /// Everything handed over so far was flushed to the socket.
    Flushed(Attempt),
    /// A pong came to a ping that was sent behind this message.
    Ponged(Attempt, Seq),
    /// The peer acknowledged messages.
    Acked(Attempt, Ack),
    /// The peer refused messages.
    Nacked(Attempt, Ack, Nack),
    /// The peer refused this message and dropped all that was sent behind it (go-back-N).
    NackedFrom(Attempt, MessageId, Nack),
    /// The driver stopped reading: acks cannot be heard.
    Paused(Attempt),
    /// The driver reads again.
    Resumed(Attempt),
    /// The message is no longer wanted.
    Cancel(Seq),
    /// Take no more messages, and hand back at the deadline what is not settled by then.
    Close {
        /// That deadline; `NEVER` for none.
        deadline: Instant,
    },
    /// Time passed.
    Tick,
}

impl OutboxEvent {
    /// The attempt that an I/O event belongs to.
    pub fn attempt(self) -> Option<Attempt> {
        match self {
            Self::Flushed(a)
            | Self::Ponged(a, _)
            | Self::Acked(a, _)
            | Self::Nacked(a, ..)
            | Self::NackedFrom(a, ..)
            | Self::Paused(a)
            | Self::Resumed(a) => Some(a),
            Self::Up(_) | Self::Down { .. } | Self::Cancel(_) | Self::Close { .. } | Self::Tick => {
                None
            }
        }
    }
}

/// The next thing to do for an outbox.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum OutboxOutput {
    /// Tell the connection that this attempt's answer is overdue: the second arrow.
    Overdue(Attempt),
    /// All from the first to the last were delivered. Ranges come in the order of the messages.
    Delivered {
        /// The first.
        first: Seq,
        /// The last.
        last: Seq,
    },
    /// A message failed.
    Failed(Failed),
    /// Send a ping with this payload.
    Ping(Ping),
    /// Send this message; from now on the peer may have it.
    Transmit {
        /// Its name.
        id: MessageId,
        /// Its body.
        body: Body,
    },
    /// Nothing until this deadline.
    WaitUntil(Option<Deadline>),
}

/// How many messages and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Amount {
    /// Messages.
    pub messages: usize,
    /// Their bytes, bodies and keys.
    pub bytes: usize,
}

impl Amount {
    fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.messages -= 1;
        self.bytes -= bytes;
    }
}

/// Counters of an outbox, all saturating.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct OutboxStats {
    /// Pushes taken.
    pub accepted: u64,
    /// Of these, those that replaced an earlier message of their key.
    pub coalesced: u64,
    /// Messages evicted for newer ones.
    pub evicted: u64,
    /// Messages handed over, replays included.
    pub transmits: u64,
    /// Messages handed over again.
    pub replays: u64,
    /// Receipts asked for.
    pub pings: u64,
    /// Messages delivered.
    pub delivered: u64,
    /// Messages failed, by [`FailReason`] in the order of its variants.
    pub failed: [u64; 6],
    /// Charges to the budgets of heads.
    pub charges: u64,
    /// Answers to messages that were settled already.
    pub duplicates: u64,
    /// Answers that no honest peer can give: never sent, not awaited.
    pub violations: u64,
    /// Events of a dead attempt; ignored.
    pub stale: u64,
}

fn count(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}

/// A message as a dialect sees it at transmission.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// Its name.
    pub id: MessageId,
    /// Its delivery level.
    pub level: Level,
    /// Its body.
    pub body: &'a Body,
}

/// The messages that may be transmitted now, first to last; never empty.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    outbox: &'a Outbox,
    first: Item<'a>,
    place: usize,
}

impl<'a> Batch<'a> {
    /// The first message.
    pub fn first(&self) -> Item<'a> {
        self.first
    }

    /// All of them, as far as the window has room.
    pub fn iter(&self) -> impl Iterator<Item = Item<'a>> + use<'a> {
        let outbox = self.outbox;
        let mut room = outbox.window_room();
        core::iter::successors(Some(self.place), |place| Some(outbox.open_from(place + 1)))
            .map_while(|place| outbox.slots.get(place))
            .filter(|slot| slot.stage == Stage::Live)
            .take(outbox.alone().unwrap_or(usize::MAX))
            .map_while(move |slot| {
                let body = slot.body.as_ref()?;
                room.messages = room.messages.checked_sub(1)?;
                room.bytes = room.bytes.checked_sub(slot.size())?;
                Some(Item { id: outbox.id_of(slot.seq), level: slot.level, body })
            })
    }

    /// The lowest message that is not settled, whichever outbox it was pushed to: nothing below it
    /// will be sent again. The first message after a nack, and the first one of a connection, is
    /// its own base.
    pub fn base(&self) -> Seq {
        self.outbox.head
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// What is still owed for a message that has a slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
enum Stage {
    /// Its settlement.
    Live,
    /// The report that it was delivered.
    Delivered,
    /// The report that it failed, with the body.
    Failed(FailReason, Fate),
    /// Nothing. The slot is kept only while a positional ack may still count it.
    Gone,
}

#[derive(Clone, Debug)]
struct Slot {
    seq: Seq,
    /// Present while the message is live, or failed and not reported.
    body: Option<Body>,
    key: Option<Key>,
    expires_at: Instant,
    /// The attempt on which it is in flight. Of a slot that is gone: on which an answer to it is
    /// still to come.
    sent_on: Attempt,
    level: Level,
    stage: Stage,
    /// Of a slot that is not open: none from here to before this number is. 0 if nobody has looked.
    closed_to: Seq,
}

impl Epoch {
    /// That of a new outbox, which goes on for ever.
    fn new(first: Seq, id: OutboxId) -> Self {
        Self { first, last: Seq::new(u64::MAX), id, refused_to: Seq::new(0) }
    }
}

impl Slot {
    fn size(&self) -> usize {
        self.body.as_ref().map_or(0, Body::len) + self.key.as_ref().map_or(0, Key::len)
    }
}

/// The messages that were pushed to one outbox: those from `first` to the next epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Epoch {
    first: Seq,
    /// Its own last number; numbers between it and the next epoch were used by others and are gone.
    last: Seq,
    id: OutboxId,
    /// The first that no cumulative refusal has called back since the cursor last went back.
    refused_to: Seq,
}

/// How far the second arrow is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Overdue {
    No,
    Owed,
    /// Said; the link will go down.
    Told,
}

/// Machine 2; see the [module docs](self).
#[derive(Clone, Debug)]
pub struct Outbox {
    config: OutboxConfig,
    now: Instant,
    state: OutboxState,
    /// `NONE` while the link is down.
    attempt: Attempt,
    /// The last attempt that was up. What was sent on it is still marked with it, so no link comes
    /// up on it again.
    newest: Attempt,
    /// The drain's deadline; pushes are refused while there is one.
    closing: Option<Instant>,

    /// In the order of `seq`. Numbers may be missing.
    slots: VecDeque<Slot>,
    epochs: VecDeque<Epoch>,
    next: Seq,
    /// Queued messages that were never transmitted, by key.
    keys: BTreeMap<Key, Seq>,
    expiry: Expiry,
    /// Failed messages that were not reported.
    failed: VecDeque<Seq>,

    // How much there is.
    /// Bodies held: live ones, and failed ones that were not reported.
    held: Amount,
    /// Live and never transmitted.
    fresh: Amount,
    in_flight: Amount,
    in_flight_received: usize,
    /// Live messages that may expire.
    mortal: usize,
    live: usize,
    /// Gone, but still to be answered on this attempt.
    ghosts: usize,
    /// Of these, those whose failure was not reported.
    ghosts_unreported: usize,
    /// Delivered, but not reported.
    unreported: usize,
    /// Gone for good.
    dead: usize,

    // Cursors: each is the first message that ... Settled messages below one are skipped lazily.
    /// is live,
    head: Seq,
    /// is not reported,
    report: Seq,
    /// was never transmitted,
    fresh_from: Seq,
    /// makes way for newer ones,
    evict_from: Seq,
    /// was not handed over on this attempt,
    cursor: Seq,
    /// was not covered by a flush of this attempt,
    flushed_to: Seq,
    /// was not covered by a pong of this attempt,
    covered_to: Seq,
    /// awaits a positional ack on this attempt.
    awaited: Seq,

    /// What was handed over since the cursor last went back to the head: from, and to before.
    sent: (Seq, Seq),

    // Of the head.
    charges: u32,
    /// Connections that died with it alone in flight.
    deaths: u32,
    /// Pauses that transient nacks have made.
    nacks: u32,

    /// The next link sends the head alone.
    probe: bool,
    hold_until: Instant,

    // Of this attempt.
    /// The last message that a ping was sent behind.
    pinged: Option<Seq>,
    /// Whether that ping was not answered yet.
    ping_outstanding: bool,
    /// How many pings were sent behind that message and not answered.
    pings_out: u32,
    /// What `pinged` and `pings_out` were when a ping last went out, or was out, before all that a
    /// nack has called back was sent again: the pongs of these pings say nothing of that.
    outdated: (Seq, u32),
    since_ping: Amount,
    /// The last message that was handed over and settled without a word of the peer: flushed,
    /// cancelled, expired. Until a pong covers it, it may be what kills the connection. (One of
    /// level Acked is a ghost until it is answered.)
    unheard: Option<Seq>,
    /// When to ask again for what is not covered.
    ask_at: Instant,
    /// The message whose ack is waited for, and until when.
    ack_subject: Option<Seq>,
    overdue_at: Instant,
    overdue: Overdue,
    paused: bool,

    stats: OutboxStats,
    /// How many slots and timers all walks have looked at.
    steps: u64,
}

impl Outbox {
    /// An empty outbox. `id` must be fresh: [`OutboxId::draw`].
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn new(config: OutboxConfig, id: OutboxId) -> Result<Self, ConfigError> {
        config.validate()?;
        let first = Seq::new(1);
        Ok(Self {
            config,
            now: Instant::ZERO,
            state: OutboxState::Down,
            attempt: Attempt::NONE,
            newest: Attempt::NONE,
            closing: None,
            slots: VecDeque::new(),
            epochs: VecDeque::from([Epoch::new(first, id)]),
            next: first,
            keys: BTreeMap::new(),
            expiry: Expiry::default(),
            failed: VecDeque::new(),
            held: Amount::default(),
            fresh: Amount::default(),
            in_flight: Amount::default(),
            in_flight_received: 0,
            mortal: 0,
            live: 0,
            ghosts: 0,
            ghosts_unreported: 0,
            unreported: 0,
            dead: 0,
            head: first,
            report: first,
            fresh_from: first,
            evict_from: first,
            cursor: first,
            flushed_to: first,
            covered_to: first,
            awaited: first,
            sent: (first, first),
            charges: 0,
            deaths: 0,
            probe: false,
            nacks: 0,
            hold_until: Instant::ZERO,
            pinged: None,
            ping_outstanding: false,
            pings_out: 0,
            outdated: (Seq::new(0), 0),
            since_ping: Amount::default(),
            unheard: None,
            ask_at: Instant::NEVER,
            ack_subject: None,
            overdue_at: Instant::NEVER,
            overdue: Overdue::No,
            paused: false,
            stats: OutboxStats::default(),
            steps: 0,
        })
    }

    // ---- Getters ------------------------------------------------------------------------------

    /// What the outbox as a whole is doing.
    pub fn state(&self) -> OutboxState {
        self.state
    }

    /// The time as this machine knows it.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// The name of this outbox, for what is pushed from now on.
    pub fn id(&self) -> OutboxId {
        match self.epochs.back() {
            Some(epoch) => epoch.id,
            // The newest epoch is made with the outbox and never dropped.
            None => unreachable!("an outbox without an epoch"),
        }
    }

    /// The number that the next accepted push gets.
    pub fn next_seq(&self) -> Seq {
        self.next
    }

    /// The lowest message that is not settled; [`next_seq`](Self::next_seq) if there is none.
    pub fn watermark(&self) -> Seq {
        self.head
    }

    /// Live messages that are not in flight.
    pub fn queued(&self) -> usize {
        self.live - self.in_flight.messages
    }

    /// What is in flight.
    pub fn in_flight(&self) -> Amount {
        self.in_flight
    }

    /// What takes up room: live messages, and failed ones until they are reported.
    pub fn held(&self) -> Amount {
        self.held
    }

    /// What may still be pushed. With [`Overflow::EvictOldest`] what was never transmitted counts
    /// as room, for it would make way.
    pub fn room(&self) -> Amount {
        let mut room = Amount {
            messages: self.config.max_messages - self.held.messages,
            bytes: self.config.max_bytes - self.held.bytes,
        };
        if self.config.overflow == Overflow::EvictOldest {
            room.messages += self.fresh.messages;
            room.bytes += self.fresh.bytes;
        }
        room
    }

    /// Whether a push of this many bytes, key included, would be taken now: the outbox is not
    /// closed, and neither full nor too small for it. Ask before taking a message from whoever
    /// sends, so that none has to be handed back.
    pub fn has_room_for(&self, bytes: usize) -> bool {
        let room = self.room();
        !self.is_closed()
            && bytes <= self.config.max_message_bytes
            && room.messages > 0
            && bytes <= room.bytes
    }

    /// The head, if connections kept dying with it alone in flight `suspect_limit` times.
    pub fn suspected(&self) -> Option<Seq> {
        (self.deaths >= self.config.suspect_limit).then_some(self.head)
    }

    /// How often the head was charged.
    pub fn charges(&self) -> u32 {
        self.charges
    }

    /// The message that is queued under this key and was never transmitted.
    #[cfg(feature = "serde")]
    pub(crate) fn queued_under(&self, key: &Key) -> Option<Seq> {
        self.keys.get(key).copied()
    }

    /// The key under which this message is queued.
    #[cfg(feature = "serde")]
    pub(crate) fn queued_key(&self, seq: Seq) -> Option<Key> {
        let key = self.slots.get(self.find(seq)?)?.key.as_ref()?;
        (self.queued_under(key) == Some(seq)).then(|| key.clone())
    }

    /// Whether pushes are refused.
    pub fn is_closed(&self) -> bool {
        self.closing.is_some()
    }

    /// Whether everything is settled; some of it may not be reported yet.
    pub fn is_settled(&self) -> bool {
        self.live == 0
    }

    /// Whether everything is settled and reported.
    pub fn is_empty(&self) -> bool {
        self.live == 0 && self.failed.is_empty() && self.unreported == 0
    }

    /// Counters since the beginning.
    pub fn stats(&self) -> OutboxStats {
        self.stats
    }

    /// How many slots and timers there are, dead ones included: for tests of the bound on memory.
    #[doc(hidden)]
    pub fn footprint(&self) -> (usize, usize) {
        (self.slots.len(), self.expiry.len())
    }

    /// How many slots and timers were looked at since the beginning, in all that goes over more than
    /// one: for tests of the bound on work.
    #[doc(hidden)]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The settings.
    pub fn config(&self) -> &OutboxConfig {
        &self.config
    }

    // ---- Push ---------------------------------------------------------------------------------

    /// Queues an encoded message.
    ///
    /// # Errors
    /// The message is handed back, nothing has changed and no number was used.
    pub fn push(
        &mut self,
        now: Instant,
        body: Body,
        options: PushOptions,
    ) -> Result<Pushed, PushError> {
        self.now = self.now.max(now);
        match self.admit(&body, &options) {
            Ok(level) => {
                let pushed = self.insert(body, options, level);
                // One more at the end leaves everything in order.
                if !pushed.displaced.is_empty() {
                    self.tidy();
                }
                self.look_at_clock(now);
                Ok(pushed)
            }
            Err(reason) => Err(PushError { reason, body, options }),
        }
    }

    /// Whether a message may come in, and at which level.
    fn admit(&self, body: &Body, options: &PushOptions) -> Result<Level, Refused> {
        let level = options.level.unwrap_or(self.config.level);
        let size = body.len() + options.key.as_ref().map_or(0, Key::len);
        let limit = self.config.max_message_bytes;
        if self.is_closed() {
            return Err(Refused::Closed);
        }
        self.config.supports(level).map_err(|missing| Refused::Level { level, missing })?;
        if size > limit {
            return Err(Refused::TooLarge { size, limit });
        }
        let mut room = self.room();
        if let Some(replaced) = options.key.as_ref().and_then(|key| self.slot_with(key)) {
            // Its place is free to take, and its bytes too; where they count as room already, they
            // must not be counted twice.
            room.messages = 1;
            if self.config.overflow == Overflow::Reject {
                room.bytes += replaced.size();
            }
        }
        if room.messages == 0 || room.bytes < size {
            return Err(Refused::Full);
        }
        Ok(level)
    }

    /// The message that one with this key would replace.
    fn slot_with(&self, key: &Key) -> Option<&Slot> {
        self.find(*self.keys.get(key)?).and_then(|place| self.slots.get(place))
    }

    fn insert(&mut self, body: Body, options: PushOptions, level: Level) -> Pushed {
        count(&mut self.stats.accepted);
        let PushOptions { ttl, key, .. } = options;
        let size = body.len() + key.as_ref().map_or(0, Key::len);
        let number = self.next;
        self.next = self.next.next();
        let mut displaced = Vec::new();

        let replaced = key.as_ref().and_then(|key| self.keys.get(key).copied());
        if let Some((seq, place)) = replaced.and_then(|seq| Some((seq, self.find(seq)?))) {
            count(&mut self.stats.coalesced);
            let old_size = self.slots[place].size();
            self.held.bytes = self.held.bytes - old_size + size;
            self.fresh.bytes = self.fresh.bytes - old_size + size;
            self.mortal -= usize::from(self.slots[place].expires_at != Instant::NEVER);
            let expires_at = self.expiry_of(ttl, seq);
            let slot = &mut self.slots[place];
            slot.level = level;
            slot.expires_at = expires_at;
            displaced.extend(slot.body.replace(body).map(|body| Displaced {
                seq,
                body,
                coalesced: true,
            }));
            self.make_room(Some(seq), &mut displaced);
            return Pushed { seq, displaced };
        }

        if let Some(key) = &key {
            self.keys.insert(key.clone(), number);
        }
        let expires_at = self.expiry_of(ttl, number);
        self.held.add(size);
        self.fresh.add(size);
        self.live += 1;
        if self.live == 1 {
            self.head = number;
        }
        self.slots.push_back(Slot {
            seq: number,
            body: Some(body),
            key,
            expires_at,
            sent_on: Attempt::NONE,
            level,
            stage: Stage::Live,
            closed_to: Seq::default(),
        });
        self.make_room(Some(number), &mut displaced);
        Pushed { seq: number, displaced }
    }

    fn expiry_of(&mut self, ttl: Option<Duration>, seq: Seq) -> Instant {
        let at = ttl.map_or(Instant::NEVER, |ttl| self.expiry.insert(self.now, ttl, seq));
        self.mortal += usize::from(at != Instant::NEVER);
        at
    }

    /// Evicts the oldest messages that were never transmitted until the limits hold. `admit` has
    /// made sure that they can.
    fn make_room(&mut self, newest: Option<Seq>, displaced: &mut Vec<Displaced>) {
        let mut place = self.next_live(self.evict_from.max(self.fresh_from));
        self.evict_from = self.seq_at(place);
        while self.held.messages > self.config.max_messages
            || self.held.bytes > self.config.max_bytes
        {
            count(&mut self.steps);
            let Some(slot) = self.slots.get(place) else { return };
            if slot.stage == Stage::Live && Some(slot.seq) != newest {
                let seq = slot.seq;
                count(&mut self.stats.evicted);
                self.release(place, Stage::Gone);
                self.slots[place].key = None;
                let body = self.slots[place].body.take();
                displaced.extend(body.map(|body| Displaced { seq, body, coalesced: false }));
            }
            place += 1;
        }
    }

    // ---- Events -------------------------------------------------------------------------------

    /// Takes in an event, then looks at the clock. Never fails; an event that has no meaning in
    /// the current state changes nothing.
    pub fn handle(&mut self, now: Instant, event: OutboxEvent) {
        self.take_in(now, event);
        self.look_at_clock(now);
    }

    /// Takes in an event without a verdict of the clock: there may be more to read.
    pub(crate) fn take_in(&mut self, now: Instant, event: OutboxEvent) {
        self.now = self.now.max(now);
        match event.attempt() {
            Some(attempt) if attempt != self.attempt => count(&mut self.stats.stale),
            Some(_) | None => self.step(event),
        }
        self.tidy();
    }

    /// Says `Tick` to every timer that has run out.
    pub(crate) fn look_at_clock(&mut self, now: Instant) {
        self.now = self.now.max(now);
        while self.deadline().is_some_and(|deadline| deadline.at.has_passed(self.now)) {
            self.step(OutboxEvent::Tick);
            self.tidy();
        }
    }

    /// The whole transition table.
    fn step(&mut self, event: OutboxEvent) {
        use OutboxEvent as E;
        use OutboxState as S;
        let now = self.now;
        match (self.state, event) {
            (S::Down, E::Up(attempt)) if attempt > self.newest => self.link_up(attempt),
            // A link that comes up anew was down between.
            (S::Probing { .. } | S::Open | S::Held { .. }, E::Up(attempt))
                if attempt > self.newest =>
            {
                self.link_down(false);
                self.link_up(attempt);
            }
            (S::Probing { .. } | S::Open | S::Held { .. }, E::Down { accused }) => {
                self.link_down(accused);
            }

            (S::Probing { .. } | S::Open | S::Held { .. }, E::Flushed(_)) => self.flushed(),
            (S::Probing { .. } | S::Open | S::Held { .. }, E::Ponged(_, seq)) => self.ponged(seq),
            (S::Probing { .. } | S::Open | S::Held { .. }, E::Acked(_, ack)) => self.acked(ack),
            (S::Probing { .. } | S::Open | S::Held { .. }, E::Nacked(_, which, nack)) => {
                self.nacked(which, nack);
            }
            (S::Probing { .. } | S::Open | S::Held { .. }, E::NackedFrom(_, id, nack)) => {
                self.nacked_from(id, nack);
            }
            (S::Probing { .. } | S::Open | S::Held { .. }, E::Paused(_)) => self.paused = true,
            (S::Probing { .. } | S::Open | S::Held { .. }, E::Resumed(_)) => self.paused = false,
            (S::Held { resume_at }, E::Tick)
                if resume_at.has_passed(now) && self.in_flight.messages + self.ghosts == 0 =>
            {
                self.resume();
                self.expire();
            }
            (S::Probing { .. } | S::Open | S::Held { .. }, E::Tick)
                if self.overdue_at.has_passed(now) =>
            {
                self.ack_withheld();
                self.expire();
            }

            (S::Down | S::Probing { .. } | S::Open | S::Held { .. }, E::Cancel(seq)) => {
                if let Some(place) = self.find(seq) {
                    self.fail(place, FailReason::Cancelled);
                }
            }
            (S::Down | S::Probing { .. } | S::Open | S::Held { .. }, E::Close { deadline }) => {
                let sooner = self.closing.map_or(deadline, |before| before.min(deadline));
                self.closing = Some(sooner);
            }
            (S::Down | S::Probing { .. } | S::Open | S::Held { .. }, E::Tick) => self.expire(),

            // Ignored: already so.
            (S::Down, E::Down { .. }) => {}
            (S::Probing { .. } | S::Open | S::Held { .. }, E::Up(attempt))
                if attempt == self.attempt => {}
            // Ignored and counted: an attempt that is over does not come back.
            (S::Down | S::Probing { .. } | S::Open | S::Held { .. }, E::Up(_)) => {
                count(&mut self.stats.stale);
            }
            // Ignored and counted: there is no attempt that could say so.
            (
                S::Down,
                E::Flushed(_)
                | E::Ponged(..)
                | E::Acked(..)
                | E::Nacked(..)
                | E::NackedFrom(..)
                | E::Paused(_)
                | E::Resumed(_),
            ) => count(&mut self.stats.stale),
        }
    }

    fn link_up(&mut self, attempt: Attempt) {
        self.attempt = attempt;
        self.newest = attempt;
        self.state = self.state_of_link();
        self.ask_at = self.now + self.config.receipt_repeat_interval;
        self.unheard = None;
        self.rewind();
    }

    /// What a link that is up may do now.
    fn state_of_link(&self) -> OutboxState {
        if !self.hold_until.has_passed(self.now) {
            return OutboxState::Held { resume_at: self.hold_until };
        }
        if self.probe {
            // Where there are no pings, the transport itself must do as a sign of life.
            let answered = !self.config.can_ping || self.pinged.is_some() && !self.ping_outstanding;
            return OutboxState::Probing { answered };
        }
        OutboxState::Open
    }

    /// The next message to hand over is the head again.
    fn rewind(&mut self) {
        self.sent = (self.head, self.head);
        self.cursor = self.head;
        self.flushed_to = self.head;
        self.covered_to = self.head;
        self.awaited = self.head;
        for epoch in &mut self.epochs {
            epoch.refused_to = Seq::default();
        }
    }

    fn link_down(&mut self, accused: bool) {
        let head = self.find(self.head).filter(|&place| self.is_in_flight(place));
        let others = self.in_flight.messages + self.ghosts > 1 || self.unheard.is_some();
        let alone = head.filter(|_| !others);
        self.probe |= self.in_flight.messages > 0 && self.overdue == Overdue::No;

        // Nothing is in flight on no attempt: all of it is queued again where it stands.
        self.attempt = Attempt::NONE;
        self.state = OutboxState::Down;
        self.in_flight = Amount::default();
        self.in_flight_received = 0;
        self.dead += self.ghosts - self.ghosts_unreported;
        self.ghosts = 0;
        self.ghosts_unreported = 0;
        self.pinged = None;
        self.ping_outstanding = false;
        self.pings_out = 0;
        self.outdated = (Seq::new(0), 0);
        self.since_ping = Amount::default();
        self.ask_at = Instant::NEVER;
        self.paused = false;
        let by_us = core::mem::replace(&mut self.overdue, Overdue::No) != Overdue::No;

        // An end that the outbox asked for blames nobody: what there was to charge has been charged.
        let Some(head) = alone.filter(|_| !by_us) else { return };
        if accused {
            self.charge(head);
        } else {
            self.deaths = self.deaths.saturating_add(1);
            if self.suspected().is_some() && self.config.on_suspected == OnSuspected::Settle {
                self.fail(head, FailReason::Suspected);
            }
        }
    }

    fn flushed(&mut self) {
        self.each_open(self.flushed_to, self.cursor, |outbox, place| {
            let slot = &outbox.slots[place];
            if slot.level == Level::Written && outbox.is_in_flight(place) {
                outbox.unheard = outbox.unheard.max(Some(slot.seq));
                outbox.deliver(place);
            }
        });
        self.flushed_to = self.cursor;
    }

    fn ponged(&mut self, seq: Seq) {
        // A pong answers a ping that was sent, and no ping is sent behind what was not.
        let Some(pinged) = self.pinged.filter(|&pinged| seq <= pinged) else {
            return count(&mut self.stats.violations);
        };
        if seq == pinged {
            self.ping_outstanding = false;
            self.pings_out = self.pings_out.saturating_sub(1);
        }
        if let OutboxState::Probing { answered } = &mut self.state {
            *answered = true;
        }
        let (last, left) = &mut self.outdated;
        if *left > 0 && seq <= *last {
            *left -= u32::from(seq == *last);
            return;
        }
        self.unheard = self.unheard.filter(|&unheard| unheard > seq);
        let end = seq.next().min(self.cursor);
        self.each_open(self.covered_to, end, |outbox, place| {
            if outbox.slots[place].level != Level::Acked && outbox.is_in_flight(place) {
                outbox.deliver(place);
            }
        });
        self.covered_to = self.covered_to.max(end);
    }

    fn acked(&mut self, ack: Ack) {
        let answered = self.answer(ack, true, |outbox, place| {
            if outbox.slots[place].stage == Stage::Live {
                outbox.deliver(place);
            } else {
                outbox.lay(place);
                count(&mut outbox.stats.duplicates);
            }
        });
        match answered {
            Answered::Some => {}
            Answered::None => count(&mut self.stats.duplicates),
            Answered::Violation => count(&mut self.stats.violations),
        }
    }

    fn nacked(&mut self, which: Ack, nack: Nack) {
        let mut hold = false;
        let settles = nack == Nack::Permanent;
        let answered = self.answer(which, settles, |outbox, place| {
            if outbox.slots[place].stage != Stage::Live {
                outbox.lay(place);
                return count(&mut outbox.stats.duplicates);
            }
            let in_flight = outbox.is_in_flight(place);
            match nack {
                Nack::Permanent => {
                    outbox.recall(place);
                    outbox.fail(place, FailReason::Rejected);
                }
                Nack::Transient if in_flight => {
                    hold = true;
                    outbox.recall(place);
                    // Once the end of the attempt was asked for, this transmission is paid for.
                    if outbox.slots[place].seq == outbox.head && outbox.overdue == Overdue::No {
                        outbox.charge(place);
                    }
                }
                // It waits for its turn already.
                Nack::Transient => {}
            }
        });
        match answered {
            Answered::Some => {
                // The peer lives and answers: whatever killed a connection before, it is not here.
                self.probe = false;
                if let OutboxState::Probing { .. } = self.state {
                    self.state = OutboxState::Open;
                }
            }
            Answered::None => count(&mut self.stats.duplicates),
            Answered::Violation => count(&mut self.stats.violations),
        }
        // A refusal in a pause does not make it longer.
        if hold && self.hold_until.has_passed(self.now) {
            let doubled = 1_u32.checked_shl(self.nacks).unwrap_or(u32::MAX);
            let delay = self.config.nack_delay.saturating_mul(doubled);
            self.nacks = self.nacks.saturating_add(1).min(31);
            self.hold_until = self.now + delay.min(self.config.nack_delay_cap);
            self.state = OutboxState::Held { resume_at: self.hold_until };
        }
    }

    /// A message was refused, and the peer has not looked at what was sent behind it.
    ///
    /// It may be settled already (cancelled, expired), but it was sent since the cursor last went
    /// back: so a peer that says this again and again either lets messages be settled or keeps
    /// the head waiting, and for that there is the ack clock.
    fn nacked_from(&mut self, id: MessageId, nack: Nack) {
        let sent = self.sent.0..self.sent.1;
        if !sent.contains(&id.seq) || self.id_of(id.seq) != id {
            return count(&mut self.stats.violations);
        }
        self.nacked(Ack::OneOf(id), nack);
        self.each_open(id.seq.next(), self.cursor, |outbox, place| {
            outbox.lay(place);
            outbox.recall(place);
        });
        // So the next refusal does not look at them again.
        self.cursor = self.cursor.min(id.seq.next());
        if !matches!(self.state, OutboxState::Held { .. }) {
            self.state = OutboxState::Held { resume_at: self.now };
        }
    }

    /// Does something with each message that an answer names. What it may name: messages that
    /// were transmitted, on whichever attempt, for the peer may remember; by position only those
    /// that were transmitted on this one. `settles` says that all of it is done with afterwards.
    fn answer(
        &mut self,
        which: Ack,
        settles: bool,
        mut each: impl FnMut(&mut Self, usize),
    ) -> Answered {
        let (outbox, mut last, up_to) = match which {
            Ack::Next => {
                self.skip_to_awaited();
                let Some(place) = self.find(self.awaited).filter(|&place| self.is_awaited(place))
                else {
                    return Answered::Violation;
                };
                each(self, place);
                return Answered::Some;
            }
            Ack::One(seq) => (None, seq, false),
            Ack::UpTo(seq) => (None, seq, true),
            Ack::OneOf(id) => (Some(id.outbox), id.seq, false),
            Ack::UpToOf(id) => (Some(id.outbox), id.seq, true),
        };
        if let Some(outbox) = outbox {
            let Some(index) = self.epochs.iter().position(|epoch| epoch.id == outbox) else {
                // All messages of an outbox that is not known here are settled, or never were.
                return Answered::None;
            };
            // Of its own numbers an outbox knows where they begin and end. Of those that were
            // restored, earlier ones may be settled, and the former life may have used later ones.
            let epoch = self.epochs[index];
            let is_former = index + 1 < self.epochs.len();
            if last < epoch.first {
                return if is_former { Answered::None } else { Answered::Violation };
            }
            if last > epoch.last && !up_to {
                return Answered::None;
            }
            last = last.min(epoch.last);
        }
        if last >= self.fresh_from || last == Seq::new(0) {
            return Answered::Violation;
        }
        if !up_to {
            let Some(place) = self.find(last).filter(|&place| self.is_open(place)) else {
                return Answered::None;
            };
            each(self, place);
            return Answered::Some;
        }
        let mut answered = Answered::None;
        for index in 0..self.epochs.len() {
            let epoch = self.epochs[index];
            if epoch.first > last || outbox.is_some_and(|outbox| outbox != epoch.id) {
                continue;
            }
            let first = self.next_open(self.place(epoch.first));
            let (mut from, mut end) = (self.seq_at(first), last.min(epoch.last).next());
            if from < end {
                answered = Answered::Some;
            }
            if !settles {
                // Nothing behind the cursor is in flight, nor what was called back before.
                (from, end) = (from.max(epoch.refused_to), end.min(self.cursor));
                self.epochs[index].refused_to = epoch.refused_to.max(end);
            }
            self.each_open(from, end, &mut each);
        }
        answered
    }

    /// Charges the head; it is retransmitted for it, or fails if it cannot pay.
    fn charge(&mut self, place: usize) {
        if self.charges >= self.config.retry_budget {
            return self.fail(place, FailReason::Exhausted);
        }
        self.charges += 1;
        count(&mut self.stats.charges);
    }

    /// The peer has the message, as a pong has shown, and does not answer it.
    fn ack_withheld(&mut self) {
        self.overdue_at = Instant::NEVER;
        self.overdue = Overdue::Owed;
        let subject = self.ack_subject.filter(|&seq| seq == self.head && self.config.can_ping);
        if let Some(place) = subject.and_then(|seq| self.find(seq)) {
            if self.slots[place].stage == Stage::Live {
                self.charge(place);
            }
        }
    }

    fn resume(&mut self) {
        self.state = self.state_of_link();
        self.rewind();
        self.outdated = (self.pinged.unwrap_or_default(), self.pings_out);
    }

    /// Settles what has outlived its time: messages, and with the drain all of them.
    fn expire(&mut self) {
        while let Some((at, seq)) = self.expiry.peek().filter(|(at, _)| at.has_passed(self.now)) {
            count(&mut self.steps);
            self.expiry.pop();
            if let Some(place) = self.find(seq).filter(|&p| self.slots[p].expires_at == at) {
                self.fail(place, FailReason::Expired);
            }
        }
        if !self.is_settled() && self.closing.is_some_and(|at| at.has_passed(self.now)) {
            for place in 0..self.slots.len() {
                count(&mut self.steps);
                self.fail(place, FailReason::Returned);
            }
        }
    }

    // ---- What happens to one message ----------------------------------------------------------

    /// Whether it was handed over on this attempt, and not called back.
    fn is_out(&self, slot: &Slot) -> bool {
        self.attempt != Attempt::NONE && slot.sent_on == self.attempt
    }

    fn is_in_flight(&self, place: usize) -> bool {
        let slot = &self.slots[place];
        slot.stage == Stage::Live && self.is_out(slot)
    }

    /// Whether an answer of the application is still to come on this attempt.
    fn is_awaited(&self, place: usize) -> bool {
        let slot = &self.slots[place];
        slot.level == Level::Acked && self.is_out(slot) && slot.stage != Stage::Delivered
    }

    /// Whether an answer to it would change anything.
    fn is_open(&self, place: usize) -> bool {
        self.slots[place].stage == Stage::Live || self.is_awaited(place)
    }

    /// A message is in flight no more.
    fn recall(&mut self, place: usize) {
        if self.is_in_flight(place) {
            let slot = &mut self.slots[place];
            slot.sent_on = Attempt::NONE;
            self.in_flight.remove(slot.size());
            self.in_flight_received -= usize::from(slot.level == Level::Received);
        }
    }

    /// A message is live no more. Its body stays for the caller to take.
    fn release(&mut self, place: usize, stage: Stage) {
        let ghost = self.is_in_flight(place) && self.slots[place].level == Level::Acked;
        let attempt = self.attempt;
        self.recall(place);
        let slot = &mut self.slots[place];
        slot.stage = stage;
        self.live -= 1;
        if ghost && stage != Stage::Delivered {
            slot.sent_on = attempt;
        }
        let size = slot.size();
        self.mortal -= usize::from(slot.expires_at != Instant::NEVER);
        if slot.seq >= self.fresh_from {
            self.fresh.remove(size);
            if let Some(key) = &slot.key {
                self.keys.remove(key);
            }
        }
        match stage {
            // Only what was never transmitted goes without a report.
            Stage::Gone => {
                self.held.remove(size);
                self.dead += 1;
            }
            Stage::Delivered => {
                self.held.remove(size);
                self.unreported += 1;
            }
            Stage::Failed(..) | Stage::Live => {
                self.ghosts += usize::from(ghost);
                self.ghosts_unreported += usize::from(ghost);
            }
        }
    }

    fn deliver(&mut self, place: usize) {
        self.release(place, Stage::Delivered);
        self.slots[place].body = None;
        self.slots[place].key = None;
        count(&mut self.stats.delivered);
        self.probe = false;
        if let OutboxState::Probing { .. } = self.state {
            self.state = OutboxState::Open;
        }
    }

    fn fail(&mut self, place: usize, reason: FailReason) {
        let slot = &self.slots[place];
        if slot.stage != Stage::Live {
            return;
        }
        let seq = slot.seq;
        let fate = if seq < self.fresh_from { Fate::MaybeDelivered } else { Fate::NotSent };
        if self.is_in_flight(place) && slot.level != Level::Acked {
            self.unheard = self.unheard.max(Some(seq));
        }
        self.release(place, Stage::Failed(reason, fate));
        self.failed.push_back(seq);
        count(&mut self.stats.failed[reason as usize]);
    }

    /// A ghost was answered.
    fn lay(&mut self, place: usize) {
        if self.is_awaited(place) && self.slots[place].stage != Stage::Live {
            let slot = &mut self.slots[place];
            slot.sent_on = Attempt::NONE;
            self.ghosts -= 1;
            match slot.stage {
                Stage::Failed(..) => self.ghosts_unreported -= 1,
                Stage::Live | Stage::Delivered | Stage::Gone => self.dead += 1,
            }
        }
    }

    // ---- Finding messages ---------------------------------------------------------------------

    /// The index of the first slot from `seq` on. O(1) while no number is missing.
    fn place(&self, seq: Seq) -> usize {
        let Some(front) = self.slots.front() else { return 0 };
        let guess = seq.get().saturating_sub(front.seq.get());
        let guess = usize::try_from(guess).unwrap_or(usize::MAX).min(self.slots.len());
        if self.slots.get(guess).is_some_and(|slot| slot.seq == seq) {
            return guess;
        }
        let fits = |place: usize| self.slots.get(place).is_none_or(|slot| slot.seq >= seq);
        if fits(guess) && (guess == 0 || !fits(guess - 1)) {
            return guess;
        }
        self.slots.partition_point(|slot| slot.seq < seq)
    }

    fn find(&self, seq: Seq) -> Option<usize> {
        let place = self.place(seq);
        self.slots.get(place).is_some_and(|slot| slot.seq == seq).then_some(place)
    }

    /// The number at a place, or behind all.
    fn seq_at(&self, place: usize) -> Seq {
        self.slots.get(place).map_or(self.next, |slot| slot.seq)
    }

    /// The first place from this one on where a message is open.
    fn open_from(&self, place: usize) -> usize {
        let mut end = place;
        while let Some(further) = self.pass_by(end) {
            end = further;
        }
        end
    }

    /// The same. What lies between is never open again, so the next walk from any place there goes
    /// straight to the end, as with the paths of a union-find.
    fn next_open(&mut self, place: usize) -> usize {
        let end = self.open_from(place);
        if end == place {
            return end;
        }
        let closed_to = self.seq_at(end);
        let mut place = place;
        while let Some(further) = self.pass_by(place) {
            count(&mut self.steps);
            self.slots[place].closed_to = closed_to;
            place = further;
        }
        end
    }

    /// Where to look next if there is nothing open at this place.
    fn pass_by(&self, place: usize) -> Option<usize> {
        let slot = self.slots.get(place)?;
        (!self.is_open(place)).then(|| self.place(slot.closed_to).max(place + 1))
    }

    /// Does something with each open message from one number on and before another.
    fn each_open(&mut self, from: Seq, end: Seq, mut each: impl FnMut(&mut Self, usize)) {
        let mut place = self.next_open(self.place(from));
        while self.seq_at(place) < end {
            count(&mut self.steps);
            each(self, place);
            place = self.next_open(place + 1);
        }
    }

    /// The first place from a number on where a message is live.
    fn next_live(&mut self, seq: Seq) -> usize {
        let mut place = self.next_open(self.place(seq));
        while self.slots.get(place).is_some_and(|slot| slot.stage != Stage::Live) {
            count(&mut self.steps);
            place = self.next_open(place + 1);
        }
        place
    }

    fn epoch_of(&self, seq: Seq) -> usize {
        self.epochs.partition_point(|epoch| epoch.first <= seq).saturating_sub(1)
    }

    fn id_of(&self, seq: Seq) -> MessageId {
        let epoch = self.epochs.get(self.epoch_of(seq));
        MessageId { outbox: epoch.map_or(self.id(), |epoch| epoch.id), seq }
    }

    fn skip_to_awaited(&mut self) {
        let mut place = self.next_open(self.place(self.awaited));
        while self.seq_at(place) < self.cursor && !self.is_awaited(place) {
            count(&mut self.steps);
            place = self.next_open(place + 1);
        }
        self.awaited = self.seq_at(place).min(self.cursor);
    }

    /// Puts the cursor on the next message that can be handed over.
    fn skip_to_live(&mut self) {
        let place = self.next_live(self.cursor.max(self.head));
        self.cursor = self.seq_at(place);
    }

    /// Restores what must hold after every event: the head is live, the ack clock runs for the
    /// right message, and what is dead does not outgrow what is alive.
    fn tidy(&mut self) {
        let place = self.next_live(self.head);
        let head = self.seq_at(place);
        if self.head != head {
            self.head = head;
            self.charges = 0;
            self.deaths = 0;
            self.nacks = 0;
        }
        self.skip_to_live();
        self.watch_acks();

        while self.expiry.peek().is_some_and(|(at, seq)| !self.expires(at, seq)) {
            count(&mut self.steps);
            self.expiry.pop();
        }
        if self.expiry.len() > 2 * self.mortal + 64 {
            let mut expiry = core::mem::take(&mut self.expiry);
            // A message that was replaced without a change of its deadline has several.
            let mut have_one = BTreeSet::new();
            expiry.retain(|at, seq| {
                count(&mut self.steps);
                self.expires(at, seq) && have_one.insert(seq)
            });
            self.expiry = expiry;
        }

        while self.slots.front().is_some_and(|slot| self.is_dead(slot)) {
            count(&mut self.steps);
            self.slots.pop_front();
            self.dead -= 1;
        }
        if self.dead > self.slots.len() - self.dead + 64 {
            let mut slots = core::mem::take(&mut self.slots);
            slots.retain(|slot| {
                count(&mut self.steps);
                !self.is_dead(slot)
            });
            self.slots = slots;
            self.dead = 0;
        }
        // Names of outboxes of which nothing is left.
        let first = self.first_named();
        while self.epochs.get(1).is_some_and(|second| second.first <= first) {
            self.epochs.pop_front();
        }
    }

    /// The first message whose name matters: it is still there, or a refusal may speak of it.
    fn first_named(&self) -> Seq {
        self.seq_at(0).min(self.sent.0)
    }

    fn is_dead(&self, slot: &Slot) -> bool {
        let ghost = slot.level == Level::Acked && self.is_out(slot);
        slot.stage == Stage::Gone && !ghost
    }

    fn expires(&self, at: Instant, seq: Seq) -> bool {
        self.find(seq).is_some_and(|place| {
            self.slots[place].stage == Stage::Live && self.slots[place].expires_at == at
        })
    }

    /// Runs the ack clock for the first message whose ack is awaited, from the pong that shows
    /// that the peer has it, or from its transmission where there are no pings.
    fn watch_acks(&mut self) {
        if !self.config.can_ack {
            return;
        }
        self.skip_to_awaited();
        let subject = self.find(self.awaited).filter(|&place| self.is_awaited(place));
        let subject = subject.map(|place| self.slots[place].seq);
        if subject != self.ack_subject {
            self.ack_subject = subject;
            self.overdue_at = Instant::NEVER;
        }
        let covered = |seq: Seq| !self.config.can_ping || seq < self.covered_to;
        let runs = subject.is_some_and(covered) && !self.paused && self.overdue == Overdue::No;
        if !runs {
            self.overdue_at = Instant::NEVER;
        } else if self.overdue_at == Instant::NEVER {
            self.overdue_at = self.now + self.config.ack_limit;
        }
    }

    // ---- Outputs ------------------------------------------------------------------------------

    /// The next thing to do; after the last one, when to say `Tick`.
    pub fn poll(&mut self, wire: Wire) -> OutboxOutput {
        if let Some(attempt) = self.take_overdue() {
            return OutboxOutput::Overdue(attempt);
        }
        if let Some(settlement) = self.take_settlement() {
            return settlement;
        }
        if wire == Wire::Ready {
            if self.owes_ping() {
                return OutboxOutput::Ping(self.ping_handed_over());
            }
            let mut output = None;
            self.transmit(|batch| {
                let Item { id, body, .. } = batch.first();
                output = Some(OutboxOutput::Transmit { id, body: body.clone() });
                1
            });
            if let Some(output) = output {
                return output;
            }
        }
        OutboxOutput::WaitUntil(self.deadline())
    }

    pub(crate) fn take_overdue(&mut self) -> Option<Attempt> {
        (self.overdue == Overdue::Owed).then(|| {
            self.overdue = Overdue::Told;
            self.attempt
        })
    }

    /// The next report of what became of messages: failures first, for they are settled already
    /// where deliveries behind them are waiting.
    pub(crate) fn take_settlement(&mut self) -> Option<OutboxOutput> {
        let output = self.take_failed().map(OutboxOutput::Failed).or_else(|| self.take_delivered());
        if output.is_some() {
            self.tidy();
        }
        output
    }

    fn take_failed(&mut self) -> Option<Failed> {
        let seq = self.failed.pop_front()?;
        let id = self.id_of(seq);
        let place = self.find(seq)?;
        let Stage::Failed(reason, fate) = self.slots[place].stage else { return None };
        let slot = &mut self.slots[place];
        self.held.remove(slot.size());
        slot.stage = Stage::Gone;
        slot.key = None;
        let body = slot.body.take()?;
        if self.is_awaited(place) {
            self.ghosts_unreported -= 1;
        } else {
            self.dead += 1;
        }
        Some(Failed { id, reason, fate, body })
    }

    fn take_delivered(&mut self) -> Option<OutboxOutput> {
        if self.unreported == 0 {
            return None;
        }
        let mut range: Option<(Seq, Seq)> = None;
        let mut place = self.place(self.report);
        while let Some(slot) = self.slots.get_mut(place) {
            match (slot.stage, &mut range) {
                (Stage::Live | Stage::Failed(..), _) => break,
                (Stage::Gone, None) => {}
                (Stage::Gone, Some(_)) => break,
                (Stage::Delivered, None) => range = Some((slot.seq, slot.seq)),
                (Stage::Delivered, Some((_, last))) if slot.seq == last.next() => *last = slot.seq,
                (Stage::Delivered, Some(_)) => break,
            }
            count(&mut self.steps);
            self.report = slot.seq.next();
            if slot.stage == Stage::Delivered {
                slot.stage = Stage::Gone;
                slot.sent_on = Attempt::NONE;
                self.unreported -= 1;
                self.dead += 1;
            }
            place += 1;
        }
        range.map(|(first, last)| OutboxOutput::Delivered { first, last })
    }

    /// Whether a receipt is to be asked for now.
    pub(crate) fn owes_ping(&self) -> bool {
        if !self.config.can_ping || self.attempt == Attempt::NONE {
            return false;
        }
        if self.ask_at.has_passed(self.now) && self.wants_receipt() {
            return true;
        }
        if matches!(self.state, OutboxState::Probing { answered: false }) {
            return self.pinged.is_none();
        }
        if self.in_flight_received == 0 {
            return false;
        }
        let config = &self.config;
        let since = self.since_ping;
        let sixteenth = since.messages >= (config.window_messages / 16).max(1)
            || since.bytes >= (config.window_bytes / 16).max(1);
        let interval = since.messages >= config.receipt_interval_messages
            || since.bytes >= config.receipt_interval_bytes;
        sixteenth || !self.ping_outstanding && (interval || self.transmittable().is_none())
    }

    /// Whether something is not covered by a receipt and would be by one.
    fn wants_receipt(&self) -> bool {
        self.in_flight_received > 0
            || self.ack_subject.is_some_and(|seq| seq >= self.covered_to)
            || matches!(self.state, OutboxState::Probing { answered: false })
    }

    /// A ping goes out, whoever wanted it: it is a receipt for all that was handed over.
    pub(crate) fn ping_handed_over(&mut self) -> Ping {
        // The cursor is behind the last message handed over, unless all before it were refused.
        let last = Seq::new(self.cursor.get().min(self.fresh_from.get()).saturating_sub(1));
        let seq = self.pinged.map_or(last, |before| before.max(last));
        let before = if self.pinged == Some(seq) { self.pings_out } else { 0 };
        self.pings_out = before.saturating_add(1);
        let held = matches!(self.state, OutboxState::Held { .. });
        if !held && self.is_to_go_again(seq) {
            self.outdated = (seq, self.pings_out);
        }
        self.pinged = Some(seq);
        self.ping_outstanding = true;
        self.since_ping = Amount::default();
        self.ask_at = self.now + self.config.receipt_repeat_interval;
        count(&mut self.stats.pings);
        Ping { attempt: self.attempt, seq }
    }

    /// Whether something up to this message, which was handed over once, is yet to be again.
    fn is_to_go_again(&self, last: Seq) -> bool {
        let rest = self.slots.range(self.place(self.cursor)..);
        rest.take_while(|slot| slot.seq <= last).any(|slot| slot.stage == Stage::Live)
    }

    /// How many messages may be in flight at once, if that is not for the window to say.
    fn alone(&self) -> Option<usize> {
        matches!(self.state, OutboxState::Probing { .. }).then_some(1)
    }

    /// What the window has room for. What was answered out of order counts until the messages
    /// before it are settled, or it could grow without bound behind a head that is not.
    fn window_room(&self) -> Amount {
        let out = self.in_flight.messages + self.ghosts;
        let room = self.config.window_messages.saturating_sub(out + self.unreported);
        Amount {
            // A head that waits for nobody may always go: it is what the answered ones wait for,
            // and a smaller window than theirs may have been restored.
            messages: room.max(usize::from(out == 0)),
            bytes: self.config.window_bytes.saturating_sub(self.in_flight.bytes),
        }
    }

    /// The place of the message that may be handed over now.
    fn transmittable(&self) -> Option<usize> {
        match self.state {
            OutboxState::Down
            | OutboxState::Held { .. }
            | OutboxState::Probing { answered: false } => return None,
            OutboxState::Probing { answered: true } if self.in_flight.messages > 0 => return None,
            OutboxState::Probing { answered: true } | OutboxState::Open => {}
        }
        if self.overdue != Overdue::No || self.queued() == 0 {
            return None;
        }
        let place = self.place(self.cursor);
        let room = self.window_room();
        let fits = room.messages > 0 && self.slots.get(place)?.size() <= room.bytes;
        fits.then_some(place)
    }

    /// Hands over as many of the first messages as `frame` takes, if any may go.
    pub(crate) fn transmit(&mut self, frame: impl FnOnce(Batch<'_>) -> usize) {
        let Some(place) = self.transmittable() else { return };
        let slot = &self.slots[place];
        let Some(body) = &slot.body else { return };
        let first = Item { id: self.id_of(slot.seq), level: slot.level, body };
        let batch = Batch { outbox: self, first, place };
        let taken = frame(batch);
        let taken = batch.iter().take(taken.max(1)).count();

        let mut left = taken;
        let mut place = place;
        while left > 0 {
            count(&mut self.steps);
            if self.slots[place].stage == Stage::Live {
                self.hand_over(place);
                left -= 1;
            }
            place = self.next_open(place + 1);
        }
        self.skip_to_live();
        self.watch_acks();
    }

    fn hand_over(&mut self, place: usize) {
        let slot = &mut self.slots[place];
        let size = slot.size();
        slot.sent_on = self.attempt;
        if self.sent.0 == self.sent.1 {
            self.sent.0 = slot.seq;
        }
        self.cursor = slot.seq.next();
        self.sent.1 = self.cursor;
        count(&mut self.stats.transmits);
        if slot.seq < self.fresh_from {
            count(&mut self.stats.replays);
        } else {
            self.fresh_from = slot.seq.next();
            self.fresh.remove(size);
            if let Some(key) = &slot.key {
                self.keys.remove(key);
            }
        }
        self.in_flight.add(size);
        self.in_flight_received += usize::from(slot.level == Level::Received);
        self.since_ping.add(size);
    }

    /// When the machine next needs to be told the time.
    pub fn deadline(&self) -> Option<Deadline> {
        let ahead = |at: Instant, timer| {
            Deadline::new(at, timer).filter(|deadline| !deadline.at.has_passed(self.now))
        };
        let nack = match self.state {
            // Once it is over, what is waited for is the answers, not the clock.
            OutboxState::Held { resume_at } if self.in_flight.messages + self.ghosts > 0 => {
                ahead(resume_at, Timer::Nack)
            }
            OutboxState::Held { resume_at } => Deadline::new(resume_at, Timer::Nack),
            OutboxState::Down | OutboxState::Probing { .. } | OutboxState::Open => None,
        };
        let receipt = if self.config.can_ping && self.wants_receipt() {
            ahead(self.ask_at, Timer::Receipt)
        } else {
            None
        };
        let drain = self.closing.filter(|_| self.live > 0);
        [
            nack,
            receipt,
            Deadline::new(self.overdue_at, Timer::Ack),
            self.expiry.peek().and_then(|(at, _)| Deadline::new(at, Timer::Expiry)),
            drain.and_then(|at| Deadline::new(at, Timer::Drain)),
        ]
        .into_iter()
        .fold(None, Deadline::earlier)
    }
}

/// What an answer of the peer came to.
enum Answered {
    /// It named messages that were waiting for it.
    Some,
    /// All that it named was settled before.
    None,
    /// It named what was never sent.
    Violation,
}

/// An outbox as a value that can be stored: what is not settled and reported yet, with durations
/// that remain instead of instants. [`Outbox::restore`] brings it back.
///
/// Store it only when the outbox is drained ([`Outbox::poll`] returned `WaitUntil`), or what was
/// settled but not reported is reported after the restore.
///
/// A message is safe from a crash as soon as a snapshot with it is stored. If effects must take place
/// exactly once, store one after each push and each failure, before the next poll. What was pushed
/// after the last snapshot and transmitted may have arrived, and nobody will ever know; what failed
/// after it, or was replaced by a newer message of its key, is live again, and counts as delivered
/// if the peer has got further meanwhile.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub struct Snapshot {
    /// The number that the next push would have got; the restored outbox goes on from it.
    pub next_seq: Seq,
    /// The last number that may have been transmitted by the time of the restore, 0 if none; the
    /// message may be settled since. What was transmitted comes first, so this says of each
    /// message whether it may have been, and which answers of the peer are legal.
    pub sent_to: Seq,
    /// The messages in their order.
    pub messages: Vec<SavedMessage>,
    /// The last number that each outbox gave out of which there are messages here; the one whose
    /// snapshot this is may lack, as its last is the one before `next_seq`. An ack of all up to a
    /// number behind it is of what that outbox transmitted after its own snapshot.
    pub ends: Vec<MessageId>,
    /// Charges to the budget of the head.
    pub charges: u32,
    /// Connections that died with the head alone in flight.
    pub deaths: u32,
    /// Pauses that nacks of the head have made.
    pub nacks: u32,
    /// What remains of such a pause.
    pub hold: Duration,
    /// The next link sends the head alone.
    pub probe: bool,
}

/// One message of a [`Snapshot`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub struct SavedMessage {
    /// Its name, which it keeps.
    pub id: MessageId,
    /// Its body; none once it is delivered.
    pub body: Option<Body>,
    /// Its delivery level.
    pub level: Level,
    /// What remains of its time to live.
    pub ttl: Option<Duration>,
    /// Its coalescing key.
    pub key: Option<Key>,
    /// Its outcome, if it has one that was not reported.
    pub outcome: Option<SavedOutcome>,
}

/// An outcome that was not reported when the snapshot was taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum SavedOutcome {
    /// It was delivered, before a message in front of it was settled.
    Delivered,
    /// It failed.
    Failed {
        /// Why.
        reason: FailReason,
        /// Whether it may have arrived.
        fate: Fate,
    },
}

/// A snapshot cannot be restored; it is handed back.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the snapshot cannot be restored: {reason}")]
pub struct RestoreError {
    /// Why.
    pub reason: RestoreRefused,
    /// The snapshot.
    pub snapshot: Box<Snapshot>,
}

/// Why a snapshot cannot be restored.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RestoreRefused {
    /// The settings of the new outbox are out of their ranges.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The messages do not fit; restore with limits at least as large as before.
    #[error("message {0} does not fit into the limits")]
    TooMuch(Seq),
    /// A message is of a level that the transport or dialect cannot do.
    #[error("message {0} is of a level that is not to be had here")]
    Level(Seq),
    /// It is not what a snapshot can be: numbers that do not rise or were never given out, a body
    /// missing.
    #[error("it contradicts itself at message {0}")]
    Inconsistent(Seq),
}

impl Outbox {
    /// The outbox as a value, to be restored after a crash.
    ///
    /// The outbox goes on meanwhile and may transmit everything in it. So after the restore each
    /// message counts as transmitted: it is neither evicted nor replaced by one of its key, for
    /// the peer may have it under its name, and it fails as [`Fate::MaybeDelivered`].
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { sent_to: Seq::new(self.next.get() - 1), ..self.save() }
    }

    /// The outbox as a value, once it has done its last: nothing in it is transmitted before it is
    /// restored, and what was never transmitted is still known not to be.
    ///
    /// Restore it once. Store a [`snapshot`](Self::snapshot) of the restored outbox in its place before
    /// that is polled: what the restored one transmits, this value still calls never transmitted, so
    /// that an ack of it would not be believed.
    pub fn into_snapshot(self) -> Snapshot {
        self.save()
    }

    fn save(&self) -> Snapshot {
        let messages = self.slots.iter().filter_map(|slot| {
            let outcome = match slot.stage {
                Stage::Live => None,
                Stage::Delivered => Some(SavedOutcome::Delivered),
                Stage::Failed(reason, fate) => Some(SavedOutcome::Failed { reason, fate }),
                Stage::Gone => return None,
            };
            Some(SavedMessage {
                id: self.id_of(slot.seq),
                body: slot.body.clone(),
                level: slot.level,
                ttl: (slot.expires_at != Instant::NEVER).then(|| slot.expires_at.since(self.now)),
                key: slot.key.clone(),
                outcome,
            })
        });
        let messages: Vec<SavedMessage> = messages.collect();
        let mut ends: Vec<MessageId> = Vec::new();
        for run in runs(&messages) {
            let id = run[0].id;
            let epoch = self.epochs[self.epoch_of(id.seq)];
            if epoch.id != self.id() {
                ends.push(MessageId { seq: epoch.last, ..id });
            }
        }
        Snapshot {
            next_seq: self.next,
            sent_to: Seq::new(self.fresh_from.get() - 1),
            messages,
            ends,
            charges: self.charges,
            deaths: self.deaths,
            nacks: self.nacks,
            hold: self.hold_until.since(self.now),
            probe: self.probe || self.in_flight.messages > 0,
        }
    }

    /// An outbox that goes on where a snapshot was taken. Its messages keep their names and come
    /// first, in order; what is pushed from now on is named with `id`, which must be fresh, for
    /// the process that took the snapshot may have used the numbers after it.
    ///
    /// # Errors
    /// The snapshot is handed back if it contradicts itself or does not fit into the settings.
    pub fn restore(
        config: OutboxConfig,
        id: OutboxId,
        now: Instant,
        snapshot: Snapshot,
    ) -> Result<Self, RestoreError> {
        let refuse = |reason, snapshot| RestoreError { reason, snapshot: Box::new(snapshot) };
        let mut outbox = match Self::new(config, id) {
            Ok(outbox) => outbox,
            Err(error) => return Err(refuse(error.into(), snapshot)),
        };
        if let Err(reason) = outbox.check_snapshot(&snapshot, id) {
            return Err(refuse(reason, snapshot));
        }
        outbox.now = now;
        outbox.next = snapshot.next_seq;
        outbox.epochs.clear();
        let first = snapshot.messages.first().map_or(snapshot.next_seq, |saved| saved.id.seq);
        outbox.head = first;
        outbox.report = first;
        outbox.fresh_from = snapshot.sent_to.next();
        for (index, run) in runs(&snapshot.messages).enumerate() {
            let end = snapshot
                .ends
                .get(index)
                .map_or(Seq::new(snapshot.next_seq.get() - 1), |end| end.seq);
            let epoch = Epoch { last: end, ..Epoch::new(run[0].id.seq, run[0].id.outbox) };
            outbox.epochs.push_back(epoch);
        }
        for saved in snapshot.messages {
            outbox.load(saved);
        }
        outbox.epochs.push_back(Epoch::new(snapshot.next_seq, id));
        outbox.rewind();
        outbox.tidy();
        // They are of the head, and where there is none the next message must not inherit them.
        if outbox.live > 0 {
            outbox.charges = snapshot.charges;
            outbox.deaths = snapshot.deaths;
            outbox.nacks = snapshot.nacks.min(31);
        }
        outbox.hold_until = now + snapshot.hold.min(outbox.config.nack_delay_cap);
        outbox.probe = snapshot.probe;
        outbox.look_at_clock(now);
        Ok(outbox)
    }

    fn check_snapshot(&self, snapshot: &Snapshot, fresh: OutboxId) -> Result<(), RestoreRefused> {
        // Half of all numbers are left for what is to come.
        if snapshot.next_seq.get() == 0 || snapshot.next_seq.get() > u64::MAX / 2 {
            return Err(RestoreRefused::Inconsistent(snapshot.next_seq));
        }
        if snapshot.sent_to >= snapshot.next_seq {
            return Err(RestoreRefused::Inconsistent(snapshot.sent_to));
        }
        let mut before: Option<&SavedMessage> = None;
        let mut held = Amount::default();
        if let Err(id) = check_ends(snapshot, fresh) {
            return Err(RestoreRefused::Inconsistent(id.seq));
        }
        let mut keys = BTreeSet::new();
        for saved in &snapshot.messages {
            let seq = saved.id.seq;
            let inconsistent = Err(RestoreRefused::Inconsistent(seq));
            let least = before.map_or(Seq::new(1), |before| before.id.seq.next());
            if seq < least || seq >= snapshot.next_seq {
                return inconsistent;
            }
            if saved.body.is_none() != (saved.outcome == Some(SavedOutcome::Delivered)) {
                return inconsistent;
            }
            if let (Some(key), None) = (&saved.key, saved.outcome) {
                if seq > snapshot.sent_to && !keys.insert(key) {
                    return inconsistent;
                }
            }
            if let Some(body) = &saved.body {
                let size = body.len() + saved.key.as_ref().map_or(0, Key::len);
                held.add(size);
                if size > self.config.max_message_bytes
                    || held.bytes > self.config.max_bytes
                    || held.messages > self.config.max_messages
                {
                    return Err(RestoreRefused::TooMuch(seq));
                }
                if saved.outcome.is_none() && self.config.supports(saved.level).is_err() {
                    return Err(RestoreRefused::Level(seq));
                }
            }
            before = Some(saved);
        }
        Ok(())
    }

    fn load(&mut self, saved: SavedMessage) {
        let SavedMessage { id: MessageId { seq, .. }, body, level, ttl, key, .. } = saved;
        let (stage, expires_at) = match saved.outcome {
            None => (Stage::Live, self.expiry_of(ttl, seq)),
            Some(SavedOutcome::Delivered) => (Stage::Delivered, Instant::NEVER),
            Some(SavedOutcome::Failed { reason, fate }) => {
                (Stage::Failed(reason, fate), Instant::NEVER)
            }
        };
        let (sent_on, closed_to) = (Attempt::NONE, Seq::default());
        let slot = Slot { seq, body, key, expires_at, sent_on, level, stage, closed_to };
        let size = slot.size();
        match stage {
            Stage::Live => {
                self.live += 1;
                self.held.add(size);
                if seq >= self.fresh_from {
                    self.fresh.add(size);
                    if let Some(key) = &slot.key {
                        self.keys.insert(key.clone(), seq);
                    }
                }
            }
            Stage::Delivered => self.unreported += 1,
            Stage::Failed(..) | Stage::Gone => {
                self.held.add(size);
                self.failed.push_back(seq);
            }
        }
        self.slots.push_back(slot);
    }
}

/// The messages of each outbox.
fn runs(messages: &[SavedMessage]) -> impl Iterator<Item = &[SavedMessage]> {
    messages.chunk_by(|a, b| a.id.outbox == b.id.outbox)
}

/// Whether each outbox comes once, is not the one to be restored, and ends behind its last message
/// and before the next one's first.
fn check_ends(snapshot: &Snapshot, fresh: OutboxId) -> Result<(), MessageId> {
    let mut outboxes = BTreeSet::from([fresh]);
    let mut ends = snapshot.ends.iter();
    let mut runs = runs(&snapshot.messages).peekable();
    while let Some(run) = runs.next() {
        let (first, last) = (&run[0], &run[run.len() - 1]);
        if !outboxes.insert(first.id.outbox) {
            return Err(first.id);
        }
        let next = runs.peek().map_or(snapshot.next_seq, |run| run[0].id.seq);
        match ends.next() {
            None if runs.peek().is_none() => {}
            Some(end) if end.outbox == last.id.outbox && (last.id.seq..next).contains(&end.seq) => {
            }
            Some(_) | None => return Err(last.id),
        }
    }
    ends.next().map_or(Ok(()), |end| Err(*end))
}

/// An [`Outbox`] as a value, for a model checker to hash: deadlines are microseconds from now,
/// numbers count from the head, and what only counts is left out.
///
/// It leaves nothing else out: outboxes with the same settings and equal views, given the same
/// inputs, do the same for ever, with the same numbers counted from the head.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct OutboxView {
    state: OutboxState,
    closing_in: Option<Instant>,
    slots: Vec<SlotView>,
    /// First and last number of each, as far as they are not behind all slots.
    epochs: Vec<(i64, i64)>,
    failed: Vec<i64>,
    /// Next, fresh, sent from, sent to, cursor, pinged, unheard, ack subject.
    cursors: [Option<i64>; 8],
    /// Report, flushed, covered.
    lagging: [i64; 3],
    head: [u32; 3],
    probe: bool,
    hold_in: Duration,
    ping_outstanding: bool,
    pings_out: u32,
    outdated: (i64, u32),
    since_ping: Amount,
    ask_in: Instant,
    overdue_in: Instant,
    overdue: Overdue,
    paused: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct SlotView {
    seq: i64,
    body: Option<Body>,
    key: Option<Key>,
    expires_in: Instant,
    is_out: bool,
    level: Level,
    stage: Stage,
}

impl Outbox {
    /// The state as a value; see [`OutboxView`].
    pub fn view(&self) -> OutboxView {
        let ahead = |at: Instant| match at {
            Instant::NEVER => Instant::NEVER,
            at => Instant::from_micros(at.as_micros().saturating_sub(self.now.as_micros())),
        };
        let from_head = |seq: Seq| seq.get().wrapping_sub(self.head.get()) as i64;
        // These are only the places where something goes on: one that lags behind the first slot
        // does so by any number, and means the same.
        let floor = self.seq_at(0);
        // More of it makes no difference.
        let enough = Amount {
            messages: self.config.receipt_interval_messages.max(self.config.window_messages / 16),
            bytes: self.config.receipt_interval_bytes.max(self.config.window_bytes / 16),
        };
        let slot = |slot: &Slot| SlotView {
            seq: from_head(slot.seq),
            body: slot.body.clone(),
            key: slot.key.clone(),
            expires_in: ahead(slot.expires_at),
            is_out: self.is_out(slot),
            level: slot.level,
            stage: slot.stage,
        };
        OutboxView {
            state: match self.state {
                OutboxState::Held { resume_at } => {
                    OutboxState::Held { resume_at: ahead(resume_at) }
                }
                state @ (OutboxState::Down | OutboxState::Probing { .. } | OutboxState::Open) => {
                    state
                }
            },
            closing_in: self.closing.map(ahead),
            slots: self.slots.iter().filter(|slot| !self.is_dead(slot)).map(slot).collect(),
            epochs: (self.epochs.iter())
                .map(|epoch| {
                    let first = epoch.first.max(self.first_named());
                    (from_head(first), from_head(epoch.last.min(self.next)))
                })
                .collect(),
            failed: self.failed.iter().copied().map(from_head).collect(),
            cursors: [
                Some(self.next),
                Some(self.fresh_from),
                Some(self.sent.0),
                Some(self.sent.1),
                Some(self.cursor),
                self.pinged,
                self.unheard,
                self.ack_subject,
            ]
            .map(|cursor| cursor.map(from_head)),
            lagging: [self.report, self.flushed_to, self.covered_to]
                .map(|cursor| from_head(cursor.max(floor))),
            head: [self.charges, self.deaths.min(self.config.suspect_limit), self.nacks],
            probe: self.probe,
            hold_in: self.hold_until.since(self.now),
            ping_outstanding: self.ping_outstanding,
            pings_out: self.pings_out,
            // Once they are answered, their number says nothing.
            outdated: match self.outdated {
                (_, 0) => (0, 0),
                (last, left) => (from_head(last), left),
            },
            since_ping: Amount {
                messages: self.since_ping.messages.min(enough.messages),
                bytes: self.since_ping.bytes.min(enough.bytes),
            },
            ask_in: ahead(self.ask_at),
            overdue_in: ahead(self.overdue_at),
            overdue: self.overdue,
            paused: self.paused,
        }
    }
}
