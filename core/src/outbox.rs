//! Machine 2: the outbox.

use core::fmt;

use rand_core::Rng;

use crate::dialect::Body;

/// The place of a message in one outbox. The first is 1, and no number is used twice; numbers may
/// be missing (cancelled, expired, coalesced messages).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
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

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one outbox for ever: drawn at random for each new and each restored outbox.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
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
pub struct MessageId {
    /// The outbox that it was pushed to.
    pub outbox: OutboxId,
    /// Its place there.
    pub seq: Seq,
}

/// How much must be known before a message counts as delivered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
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
pub enum Nack {
    /// Try it again after the nack delay. Charged to the budget of the head.
    Transient,
    /// Never try it again.
    Permanent,
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
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    first: Item<'a>,
}

impl<'a> Batch<'a> {
    /// The first message.
    pub fn first(&self) -> Item<'a> {
        self.first
    }
}
