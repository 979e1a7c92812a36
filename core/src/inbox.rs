//! Machine 3: the inbox, for the receiving end. It says of each message that arrives whether it is
//! new, so that its effect can happen exactly once.
//!
//! The sender's [`Outbox`](crate::Outbox) sends a message again until it is acknowledged, under the
//! same name: (outbox id, [`Seq`]). An inbox remembers of each outbox how far it got, one number
//! that is called its mark. Keep one inbox for each **sender**: for what names a client across its
//! connections and restarts, be it an account's device or a client id in the URL.
//!
//! **Connected.** [`connect`](Inbox::connect) for each connection of the sender gives a [`Lane`].
//! Only the newest is alive: a client has one connection at a time, so an older one is dead
//! although nobody noticed, and what still arrives on it is [`Offer::Stale`].
//!
//! **Offered.** [`offer`](Inbox::offer) each message in the order of arrival. What is
//! [`Offer::New`] is *in progress* from then on. It stays so when the connection dies: offered
//! again on the next one it is a duplicate, and is acknowledged once it is done.
//!
//! **Done.** Store the effect and the mark in one transaction, commit, then say
//! [`done`](Inbox::done). Only what is done is acknowledged.
//!
//! **Refused.** What cannot be done now, or ever, is [refused](Inbox::refuse). From then on nothing
//! is taken, whatever its outbox, until the sender has gone back (go-back-N): so no message
//! overtakes a refused one. A refusal is not stored. If its nack is lost, the message comes again as
//! new and is refused again.
//!
//! **Answered.** [`poll`](Inbox::poll) gives the acks and the nack that are owed. They are derived
//! from what is done: one cumulative ack for each outbox, however many messages it covers.
//!
//! ```mermaid
//! stateDiagram-v2
//!     [*] --> Idle
//!     Idle --> Open: Connect
//!     Open --> Refusing: Offer, Refuse
//!     Refusing --> Open: Connect, Offer
//! ```
//!
//! | event | what happens |
//! |---|---|
//! | connect | older lanes are dead; no refusal; nothing is owed but for what is done from now on |
//! | offer on a dead lane | `Stale` |
//! | offer after a refusal, not its own base | `Refused` |
//! | offer of what is done | `Duplicate`; its ack is owed again |
//! | offer of what is in progress | `Duplicate` |
//! | offer of anything else | `New` |
//! | done | it and all that were new before it are done; their ack is owed |
//! | refuse | it and all that were new behind it are given up; its nack is owed |
//!
//! # Exactly once
//!
//! The mark of an outbox is the [`MessageId`] of its last message that is done, so what goes into
//! the transaction is the name of the message itself: `marks[id.outbox] = id.seq`.
//!
//! ```
//! use bowline_core::{Answer, Inbox, InboxConfig, MessageId, Offer, OutboxId, Seq};
//! use std::collections::BTreeMap;
//!
//! #[derive(Default)]
//! struct Database {
//!     total: u64,
//!     marks: BTreeMap<OutboxId, Seq>,
//! }
//!
//! let mut database = Database::default();
//! let marks = database.marks.iter().map(|(&outbox, &seq)| MessageId { outbox, seq });
//! let mut inbox = Inbox::restore(InboxConfig::default(), marks)?;
//!
//! let id = MessageId { outbox: OutboxId::new(7), seq: Seq::new(1) };
//! for _ in 0..2 {
//!     // The message arrives twice, on one connection each.
//!     let lane = inbox.connect();
//!     if inbox.offer(lane, id, id.seq) == Offer::New {
//!         // One transaction:
//!         database.total += 100;
//!         database.marks.insert(id.outbox, id.seq);
//!         // Committed:
//!         inbox.done(id)?;
//!     }
//!     assert_eq!(inbox.poll(lane), Some(Answer::Ack(id)));
//! }
//! assert_eq!(database.total, 100);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! After a crash, [`restore`](Inbox::restore) takes the stored marks. If it came before the commit,
//! there is neither effect nor mark, and the message is new when it comes again; if after, there
//! are both, and it is a duplicate.
//!
//! The example `server` of `bowline-tokio` is a whole server with an embedded store.
//!
//! Effects take place in the order of the offers. Several messages may be in progress, so a frame
//! of many is one transaction: the effects of all, the last mark of each outbox, and one `done`
//! for the last message. They cannot be done out of order: two transactions that run at the same
//! time would overwrite each other's mark.
//!
//! # What is asked of the sender
//!
//! What an [`Outbox`](crate::Outbox) does: on each connection it sends all that is unsettled, in
//! order. Numbers may be missing for ever (cancelled, expired, replaced by a newer message). After a
//! nack it goes back: it sends nothing before all in front of the refused message is answered, and
//! then what is unsettled, in order, from the first. That first one is known by its *base*, the
//! sender's lowest unsettled number: it is its own base. (It need not be the refused message, which
//! may have been cancelled meanwhile. That the base has passed the refused message would say too
//! little: what was dropped behind it is still to come.)
//!
//! # Forgetting
//!
//! A sender draws a new outbox id with each restart, and an inbox remembers `max_outboxes` of them.
//! Beyond that it forgets the one that it has not heard of for longest. A message of a forgotten
//! outbox that comes again is new again: its effect takes place twice. For that a sender must be
//! restarted `max_outboxes` times and use each outbox, while a message from before the first of them
//! is unsettled. What is no more in [`marks`](Inbox::marks) may be deleted from storage.

use alloc::collections::VecDeque;

use crate::{
    config::{ConfigError, check},
    outbox::{MessageId, Nack, OutboxId, Seq},
};

/// The settings of an [`Inbox`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct InboxConfig {
    /// How many outboxes of the sender are remembered. Default 64; 1 to 1,024.
    pub max_outboxes: usize,
    /// How many messages may be in progress. More are refused for the moment; better not to read
    /// more. Default 65,536; 1 to 16,777,216.
    pub max_in_progress: usize,
}

impl Default for InboxConfig {
    fn default() -> Self {
        Self { max_outboxes: 64, max_in_progress: 65_536 }
    }
}

impl InboxConfig {
    /// Checks every field; the error names the first that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check("max_outboxes", self.max_outboxes, 1..=1_024)?;
        check("max_in_progress", self.max_in_progress, 1..=1 << 24)
    }
}

/// One connection of the sender, as its inbox counts them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lane(u64);

/// What to do with a message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[must_use]
pub enum Offer {
    /// Process it, then say [`done`](Inbox::done), or [`refuse`](Inbox::refuse) it.
    New,
    /// Drop it: it is done, or in progress. It is acknowledged once it is done.
    Duplicate,
    /// Drop it: it comes again, behind one that was refused.
    Refused,
    /// Drop it and the connection: the sender has opened a newer one.
    Stale,
}

/// What the sender is to be told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    /// This message and all before it of the same outbox are done.
    Ack(MessageId),
    /// This message was refused, and all that was sent behind it was dropped.
    Nack(MessageId, Nack),
}

/// The message is not in progress: it was never new, or was given up when one before it was
/// refused. It comes again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[error("message {} of outbox {} is not in progress", .0.seq, .0.outbox)]
pub struct NotInProgress(pub MessageId);

/// Counters of an inbox, all saturating.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct InboxStats {
    /// Messages that were new.
    pub new: u64,
    /// Messages that were done or in progress.
    pub duplicates: u64,
    /// Messages that were dropped behind a refused one.
    pub refused: u64,
    /// Messages on a lane that is dead.
    pub stale: u64,
}

/// What an inbox as a whole is doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum InboxState {
    /// The sender has not connected yet. [`connect`](Inbox::connect) ends it.
    Idle,
    /// Messages are taken.
    Open,
    /// A message was refused, and nothing is taken until the sender has gone back.
    Refusing {
        /// The first message that is to come again.
        id: MessageId,
    },
}

/// What is known of one outbox.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Known {
    id: OutboxId,
    /// The mark: all that was new up to here is done.
    done: Seq,
    /// The highest that was new, and not given up. Those above `done` are in progress.
    offered: Seq,
    /// The last one that was taken on this lane, 0 if none.
    heard: Seq,
    /// The sender was told so on this lane.
    acked: Seq,
}

impl Known {
    fn new(id: OutboxId, mark: Seq) -> Self {
        Self { id, done: mark, offered: mark, heard: Seq::new(0), acked: mark }
    }
}

/// A refusal that the sender has not answered by going back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Refusal {
    id: MessageId,
    nack: Nack,
    said: bool,
}

/// Machine 3; see the [module docs](self).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Inbox {
    config: InboxConfig,
    lane: Lane,
    /// The least recently heard of first.
    known: VecDeque<Known>,
    /// In the order of the offers.
    in_progress: VecDeque<MessageId>,
    refusal: Option<Refusal>,
    stats: InboxStats,
}

impl Inbox {
    /// An inbox that has never heard of anything.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn new(config: InboxConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            lane: Lane(0),
            known: VecDeque::new(),
            in_progress: VecDeque::new(),
            refusal: None,
            stats: InboxStats::default(),
        })
    }

    /// An inbox that goes on from stored marks. If there are more than `max_outboxes`, the last
    /// ones are kept: give them in the order in which they were stored.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn restore(
        config: InboxConfig,
        marks: impl IntoIterator<Item = MessageId>,
    ) -> Result<Self, ConfigError> {
        let mut inbox = Self::new(config)?;
        for MessageId { outbox, seq } in marks {
            // Nothing is in progress, so there is always one to forget.
            if let Some(known) = inbox.meet(outbox) {
                *known = Known::new(outbox, known.done.max(seq));
            }
        }
        Ok(inbox)
    }

    // ---- In -----------------------------------------------------------------------------------

    /// The sender has opened a connection.
    pub fn connect(&mut self) -> Lane {
        self.lane = Lane(self.lane.0.saturating_add(1));
        // On a new connection the sender begins with what is unsettled, so it goes back by itself
        // and whatever it does not know to be done comes again.
        self.refusal = None;
        for known in &mut self.known {
            known.heard = Seq::new(0);
            known.acked = known.done;
        }
        self.lane
    }

    /// A message has arrived. `base` is the sender's lowest unsettled number, of whichever outbox.
    pub fn offer(&mut self, lane: Lane, id: MessageId, base: Seq) -> Offer {
        let offer = self.take(lane, id, base);
        let counter = match offer {
            Offer::New => &mut self.stats.new,
            Offer::Duplicate => &mut self.stats.duplicates,
            Offer::Refused => &mut self.stats.refused,
            Offer::Stale => &mut self.stats.stale,
        };
        *counter = counter.saturating_add(1);
        offer
    }

    fn take(&mut self, lane: Lane, id: MessageId, base: Seq) -> Offer {
        if lane != self.lane {
            return Offer::Stale;
        }
        if self.refusal.is_some() && id.seq != base {
            return Offer::Refused;
        }
        self.refusal = None;
        let full = self.in_progress.len() >= self.config.max_in_progress;
        let Some(known) = self.meet(id.outbox).filter(|known| id.seq <= known.offered || !full)
        else {
            self.refusal = Some(Refusal { id, nack: Nack::Transient, said: false });
            return Offer::Refused;
        };
        known.heard = id.seq;
        if id.seq <= known.offered {
            // Of what is done, the sender has missed the ack.
            known.acked = known.acked.min(before(id.seq));
            return Offer::Duplicate;
        }
        known.offered = id.seq;
        self.in_progress.push_back(id);
        Offer::New
    }

    /// The effect of a message is stored, and its mark with it: it is done, and so are all that
    /// were new before it. Says nothing new of what is done already.
    ///
    /// # Errors
    /// The message is not in progress; nothing has changed.
    pub fn done(&mut self, id: MessageId) -> Result<(), NotInProgress> {
        if self.mark(id.outbox).is_some_and(|mark| id.seq <= mark) {
            return Ok(());
        }
        let place = self.place(id)?;
        for _ in 0..=place {
            if let Some(id) = self.in_progress.pop_front() {
                if let Some(known) = self.find(id.outbox) {
                    known.done = id.seq;
                }
            }
        }
        Ok(())
    }

    /// A message in progress cannot be done, now or ever, and had no effect. It is given up, and so
    /// is everything that was new after it: that had better not take effect, for it comes again.
    ///
    /// # Errors
    /// The message is not in progress; nothing has changed.
    pub fn refuse(&mut self, id: MessageId, nack: Nack) -> Result<(), NotInProgress> {
        let place = self.place(id)?;
        let mut first_heard = None;
        while self.in_progress.len() > place {
            let Some(given_up) = self.in_progress.pop_back() else { break };
            if let Some(known) = self.find(given_up.outbox) {
                known.offered = known.done;
                if given_up.seq <= known.heard {
                    first_heard = Some(given_up);
                }
            }
        }
        for id in &self.in_progress {
            if let Some(known) = self.known.iter_mut().rfind(|known| known.id == id.outbox) {
                known.offered = id.seq;
            }
        }
        // What was new on an earlier lane and has not come again on this one is still to come, and
        // the sender would not understand a nack of it.
        if let Some(first) = first_heard {
            let nack = if first == id { nack } else { Nack::Transient };
            self.refusal = Some(Refusal { id: first, nack, said: false });
        }
        Ok(())
    }

    // ---- Out ----------------------------------------------------------------------------------

    /// The next thing to tell the sender, on this lane; none when there is nothing more.
    ///
    /// Poll after offers, and after `done` and `refuse` too, wherever they were said from.
    pub fn poll(&mut self, lane: Lane) -> Option<Answer> {
        if lane != self.lane {
            return None;
        }
        // Acks before the nack: once they are settled, the refused message is the sender's first,
        // and only the first is ever charged.
        if let Some(known) = self.known.iter_mut().find(|known| known.acked < known.done) {
            known.acked = known.done;
            return Some(Answer::Ack(MessageId { outbox: known.id, seq: known.done }));
        }
        let refusal = self.refusal.as_mut().filter(|refusal| !refusal.said)?;
        refusal.said = true;
        Some(Answer::Nack(refusal.id, refusal.nack))
    }

    // ---- Getters ------------------------------------------------------------------------------

    /// What the inbox as a whole is doing.
    pub fn state(&self) -> InboxState {
        match self.refusal {
            Some(Refusal { id, .. }) => InboxState::Refusing { id },
            None if self.lane == Lane(0) => InboxState::Idle,
            None => InboxState::Open,
        }
    }

    /// The last message of an outbox that is done; none if none is, or the outbox is not known.
    pub fn mark(&self, outbox: OutboxId) -> Option<Seq> {
        let known = self.known.iter().rfind(|known| known.id == outbox)?;
        (known.done > Seq::new(0)).then_some(known.done)
    }

    /// All marks, that of the least recently heard outbox first.
    pub fn marks(&self) -> impl Iterator<Item = MessageId> + '_ {
        let marks = self.known.iter().filter(|known| known.done > Seq::new(0));
        marks.map(|known| MessageId { outbox: known.id, seq: known.done })
    }

    /// The messages in progress, in the order of their offers.
    pub fn in_progress(&self) -> impl ExactSizeIterator<Item = MessageId> + '_ {
        self.in_progress.iter().copied()
    }

    /// Counters since the beginning.
    pub fn stats(&self) -> InboxStats {
        self.stats
    }

    // ---- Finding ------------------------------------------------------------------------------

    /// An outbox that is heard of now. None if it is unknown and all that could be forgotten for it
    /// have messages in progress.
    fn meet(&mut self, id: OutboxId) -> Option<&mut Known> {
        // Whoever speaks usually spoke last.
        let known = match self.known.iter().rposition(|known| known.id == id) {
            Some(place) => self.known.remove(place)?,
            None => {
                if self.known.len() >= self.config.max_outboxes {
                    let idle = self.known.iter().position(|known| known.offered == known.done)?;
                    self.known.remove(idle);
                }
                Known::new(id, Seq::new(0))
            }
        };
        self.known.push_back(known);
        self.known.back_mut()
    }

    fn find(&mut self, id: OutboxId) -> Option<&mut Known> {
        self.known.iter_mut().rfind(|known| known.id == id)
    }

    fn place(&self, id: MessageId) -> Result<usize, NotInProgress> {
        self.in_progress.iter().position(|&other| other == id).ok_or(NotInProgress(id))
    }
}

fn before(seq: Seq) -> Seq {
    Seq::new(seq.get().saturating_sub(1))
}
