//! A dialect and an inbox that note what goes through them, so that a run can be told from outside.

use core::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use bowline_core::{
    Answer, Batch, Beat, Body, ConfigError, Dialect, Greeting, Inbox, InboxConfig, Lane, MessageId,
    Nack, NotInProgress, Offer, Opened, Seq, Signal, Sink,
};

use crate::diagram::inbox_state_place;

/// What went through a dialect since it was last looked at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Notes {
    /// What the frames of the peer said.
    pub signals: Vec<Signal>,
    /// The messages in the frame that was made.
    pub sent: Vec<(MessageId, Body)>,
    /// A frame of the peer was answered.
    pub replied: bool,
    /// A beat was made.
    pub beat: bool,
    /// Frames of the greeting that were made.
    pub greeting: usize,
    /// Whether the newest greeting awaits an answer.
    pub awaits_answer: bool,
}

/// A dialect with [`Notes`]. Its credentials are the default ones, always.
#[derive(Clone, Debug)]
pub(crate) struct Watched<D> {
    dialect: D,
    notes: RefCell<Notes>,
    noted: Cell<bool>,
}

impl<D> Watched<D> {
    pub(crate) fn new(dialect: D) -> Self {
        Self { dialect, notes: RefCell::default(), noted: Cell::new(false) }
    }

    /// Whether there is anything new.
    pub(crate) fn take_noted(&self) -> bool {
        self.noted.replace(false)
    }

    pub(crate) fn notes(&self) -> core::cell::RefMut<'_, Notes> {
        self.notes.borrow_mut()
    }
}

impl<D: Dialect<Credentials: Default>> Dialect for Watched<D> {
    type Message = D::Message;
    type Inbound = D::Inbound;
    type Credentials = ();
    type Error = D::Error;

    const ACKS: bool = D::ACKS;

    fn encode(message: D::Message) -> Result<Body, (D::Message, D::Error)> {
        D::encode(message)
    }

    fn greet(&mut self, opened: &Opened<()>) -> Greeting {
        let greeting = self.dialect.greet(&Opened::new(opened.attempt, D::Credentials::default()));
        let notes = self.notes.get_mut();
        notes.greeting = greeting.frames.len();
        notes.awaits_answer = greeting.awaits_answer;
        greeting
    }

    fn frame(&mut self, batch: Batch<'_>) -> (Body, usize) {
        let (body, taken) = self.dialect.frame(batch);
        let notes = self.notes.get_mut();
        notes.sent.extend(batch.iter().take(taken).map(|item| (item.id, item.body.clone())));
        self.noted.set(true);
        (body, taken)
    }

    fn decode(&mut self, body: Body, sink: &mut Sink<D::Inbound>) {
        // The client hands over a sink without signals.
        self.dialect.decode(body, sink);
        if !sink.signals.is_empty() {
            self.notes.get_mut().signals.extend_from_slice(&sink.signals);
            self.noted.set(true);
        }
        if sink.reply.is_some() {
            self.notes.get_mut().replied = true;
            self.noted.set(true);
        }
    }

    fn beat(&mut self) -> Option<Beat> {
        let beat = self.dialect.beat();
        if beat.is_some() {
            self.notes.get_mut().beat = true;
            self.noted.set(true);
        }
        beat
    }
}

/// What an inbox was told, in which state, and where that has led.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct InboxStep {
    /// As in [`INBOX_STATES`](crate::diagram::INBOX_STATES).
    pub from: usize,
    /// As in [`INBOX_EVENTS`](crate::diagram::INBOX_EVENTS); none if that was on a lane that is dead.
    pub event: Option<usize>,
    pub to: usize,
}

/// An [`Inbox`] that notes its steps for the [marks](crate::marks).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchedInbox {
    inbox: Inbox,
    /// How often each was taken.
    steps: BTreeMap<InboxStep, u64>,
}

impl WatchedInbox {
    /// As [`Inbox::new`].
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn new(config: InboxConfig) -> Result<Self, ConfigError> {
        Inbox::new(config).map(|inbox| Self { inbox, steps: BTreeMap::new() })
    }

    /// Goes on from its own marks, as [`Inbox::restore`] does: what was in progress is forgotten.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn restart(&mut self, config: InboxConfig) -> Result<(), ConfigError> {
        self.inbox = Inbox::restore(config, self.inbox.marks())?;
        Ok(())
    }

    /// As [`Inbox::connect`].
    pub fn connect(&mut self) -> Lane {
        self.note(Inbox::connect, |_| Some(0))
    }

    /// As [`Inbox::offer`].
    pub fn offer(&mut self, lane: Lane, id: MessageId, base: Seq) -> Offer {
        self.note(
            |inbox| inbox.offer(lane, id, base),
            |offer| (*offer != Offer::Stale).then_some(1),
        )
    }

    /// As [`Inbox::done`].
    ///
    /// # Errors
    /// The message is not in progress.
    pub fn done(&mut self, id: MessageId) -> Result<(), NotInProgress> {
        self.note(|inbox| inbox.done(id), |_| Some(2))
    }

    /// As [`Inbox::refuse`].
    ///
    /// # Errors
    /// The message is not in progress.
    pub fn refuse(&mut self, id: MessageId, nack: Nack) -> Result<(), NotInProgress> {
        self.note(|inbox| inbox.refuse(id, nack), |_| Some(3))
    }

    /// As [`Inbox::poll`].
    pub fn poll(&mut self, lane: Lane) -> Option<Answer> {
        self.inbox.poll(lane)
    }

    /// What was noted since this was last asked for, and how often.
    pub(crate) fn steps(&mut self) -> BTreeMap<InboxStep, u64> {
        core::mem::take(&mut self.steps)
    }

    fn note<T>(
        &mut self,
        tell: impl FnOnce(&mut Inbox) -> T,
        event: impl FnOnce(&T) -> Option<usize>,
    ) -> T {
        let from = inbox_state_place(self.inbox.state());
        let answer = tell(&mut self.inbox);
        let to = inbox_state_place(self.inbox.state());
        *self.steps.entry(InboxStep { from, event: event(&answer), to }).or_default() += 1;
        answer
    }
}
