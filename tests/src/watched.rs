//! A dialect that notes what goes through it, so that a run can be told from outside.

use core::cell::{Cell, RefCell};

use bowline_core::{Batch, Beat, Body, Dialect, Greeting, MessageId, Opened, Signal, Sink};

/// What went through a dialect since it was last looked at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Notes {
    /// What the frames of the peer said.
    pub signals: Vec<Signal>,
    /// The messages in the frame that was made.
    pub sent: Vec<(MessageId, Body)>,
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
