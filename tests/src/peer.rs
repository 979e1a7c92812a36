//! The other end: what a server makes of the frames that reach it.
//!
//! A [`Peer`] is the application. Its WebSocket library, which reads frames and answers pings, is the
//! world's. So a peer is small: it reads the numbers of the messages in a frame, takes the messages
//! in, and answers. Whether a message is refused the world decides; what is taken in the peer says.
//! It keeps no ledger: what arrived and what was taken in is said to the witness, and the
//! [oracle](crate::oracle) writes it down.
//!
//! Four are here: [`PlainPeer`] knows nothing of the client, [`PositionalPeer`] answers each message
//! in its turn, [`NamedPeer`] names what it answers, and [`NumberedPeer`] speaks [`Numbered`]. The last
//! two keep an [`Inbox`](bowline_core::Inbox).

pub use crate::watched::WatchedInbox;

use core::time::Duration;
use std::collections::HashMap;

use bowline_core::{
    Ack, Answer, Batch, Beat, Body, Dialect, Greeting, InboxConfig, Lane, Level, MessageId, Nack,
    Offer, Opened, OutboxId, Plain, Refusal, Seq, Sink,
    numbered::{self, Json, Messages, Numbered, NumberedConfig},
};

/// An application at the other end, and the dialect that the client speaks with it.
pub trait Peer {
    /// The dialect. Its credentials are the default ones on every attempt.
    type Dialect: Dialect<Credentials: Default>;

    /// Whether an answer names nothing, so that one too many or too few shifts all behind it.
    const POSITIONAL: bool = false;

    /// A dialect for a client.
    fn dialect(&self) -> Self::Dialect;

    /// A message with this number in it, of so many bytes or as many as it needs.
    fn body(&self, message: u64, bytes: usize, level: Level) -> Body;

    /// The number in a body that [`body`](Self::body) made.
    fn message(&self, body: &Body) -> u64;

    /// A client connects; what was before is over.
    fn connect(&mut self) {}

    /// The numbers of the messages in a frame; none in a greeting or a beat.
    fn read(&self, frame: &Body, messages: &mut Vec<u64>);

    /// Takes in a frame.
    fn take(&mut self, frame: &Body, desk: &mut Desk);

    /// Comes to a frame that was left of a connection before the newest. Nobody hears what it answers,
    /// and it had better drop it.
    fn take_late(&mut self, _frame: &Body, _desk: &mut Desk) {}

    /// Decides on what it has taken in while its desk was [slow](Desk::is_slow).
    fn finish(&mut self, _desk: &mut Desk) {}

    /// A frame with a message of its own.
    fn say(&self) -> Body {
        Body::from("hello")
    }

    /// A frame that acknowledges what was never sent, just beyond or as far as can be.
    fn lie(&self, _far: bool) -> Option<Body> {
        None
    }

    /// A frame that answers a greeting, if there is such a thing.
    fn greeting(&self) -> Option<Body> {
        None
    }

    /// A frame that refuses the client, if there is such a thing.
    fn refusal(&self, _: Refusal) -> Option<Body> {
        None
    }

    /// A frame that refuses what the peer has taken, or what comes next.
    fn denial(&self, _: Nack) -> Option<Body> {
        None
    }

    /// Whether it would refuse what comes next, for what it has refused before.
    fn is_refusing(&self) -> bool {
        false
    }

    /// Whether it drops what was sent behind a message that it refuses for the moment, so that its
    /// application has the messages in order whatever the window is. One that takes it says no.
    fn refuses_gaps(&self) -> bool {
        true
    }

    /// Whether its application takes each message in only once, whatever is sent again, unless it has
    /// [forgotten](Self::forget) it.
    fn takes_once(&self) -> bool {
        false
    }

    /// Its process dies, and is there again with what it has stored.
    fn restart(&mut self) {}

    /// Loses what it remembers of its clients, stored or not.
    fn forget(&mut self) {}

    /// The inbox that it keeps, if it does, for the [marks](crate::marks).
    fn inbox(&mut self) -> Option<&mut WatchedInbox> {
        None
    }
}

/// Where an application decides and answers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Desk {
    /// Messages to be refused: after how many others, and how.
    pub(crate) refusals: Vec<(u64, Nack)>,
    pub(crate) slow: bool,
    pub(crate) processed: Vec<u64>,
    /// Each with whether it is an ack.
    pub(crate) answers: Vec<(Body, bool)>,
}

impl Desk {
    /// Whether this message is to be refused. Ask for each message that is new.
    pub fn judge(&mut self) -> Option<Nack> {
        let due = self.refusals.iter().position(|(after, _)| *after == 0);
        for (after, _) in &mut self.refusals {
            *after = after.saturating_sub(1);
        }
        due.map(|place| self.refusals.swap_remove(place).1)
    }

    /// Whether what is taken in now is better left in progress, until it is told to
    /// [finish](Peer::finish).
    pub fn is_slow(&self) -> bool {
        self.slow
    }

    /// The message is taken in.
    pub fn processed(&mut self, message: u64) {
        self.processed.push(message);
    }

    /// Acknowledges.
    pub fn ack(&mut self, frame: Body) {
        self.answers.push((frame, true));
    }

    /// Says something else.
    pub fn answer(&mut self, frame: Body) {
        self.answers.push((frame, false));
    }
}

/// A body with a number in it, and what else is to be known.
fn numbered_body(message: u64, bytes: usize, mark: u8) -> Body {
    let mut body = Vec::with_capacity(bytes.max(9));
    body.extend_from_slice(&message.to_le_bytes());
    body.push(mark);
    body.resize(bytes.max(9), 0);
    Body::binary(body)
}

fn u64_at(bytes: &[u8], from: usize) -> Option<u64> {
    bytes.get(from..from + 8)?.try_into().ok().map(u64::from_le_bytes)
}

fn message_in(body: &Body) -> u64 {
    u64_at(body.as_bytes(), 0).unwrap_or(u64::MAX)
}

// ---- Plain --------------------------------------------------------------------------------------

/// A server that takes everything and answers nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PlainPeer;

impl Peer for PlainPeer {
    type Dialect = Plain;

    fn dialect(&self) -> Plain {
        Plain
    }

    fn body(&self, message: u64, bytes: usize, _: Level) -> Body {
        numbered_body(message, bytes, 0)
    }

    fn message(&self, body: &Body) -> u64 {
        message_in(body)
    }

    fn read(&self, frame: &Body, messages: &mut Vec<u64>) {
        messages.push(message_in(frame));
    }

    fn take(&mut self, frame: &Body, desk: &mut Desk) {
        desk.processed(message_in(frame));
    }
}

// ---- Greeting -----------------------------------------------------------------------------------

/// The first words of a dialect that greets: it says `hello` and awaits `w`.
fn hello(greets: bool) -> Greeting {
    if greets {
        Greeting { frames: vec!["hello".into()], awaits_answer: true }
    } else {
        Greeting::default()
    }
}

const WELCOME: &[u8] = b"w";

/// The frame that refuses a client: `t`, with microseconds if it is to wait, `c` for other
/// credentials, `f` for good.
fn refusal_frame(refusal: Refusal) -> Option<Body> {
    match refusal {
        Refusal::Retry => Some(static_frame(b"t")),
        Refusal::RetryAfter(delay) => {
            let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
            Some(Body::binary([&b"t"[..], &micros.to_le_bytes()].concat()))
        }
        Refusal::Renew => Some(static_frame(b"c")),
        Refusal::Fatal => Some(static_frame(b"f")),
        _ => None,
    }
}

/// Reads what a peer says of the client and not of messages; says whether it was that.
fn greeted_or_refused(frame: &[u8], sink: &mut Sink<Body>) -> bool {
    match frame {
        b"w" => sink.greeted(),
        b"t" => sink.refused(Refusal::Retry),
        b"c" => sink.refused(Refusal::Renew),
        b"f" => sink.refused(Refusal::Fatal),
        [b't', delay @ ..] if delay.len() == 8 => {
            let micros = u64_at(delay, 0).unwrap_or_default();
            sink.refused(Refusal::RetryAfter(Duration::from_micros(micros)));
        }
        _ => return false,
    }
    true
}

// ---- Positional ---------------------------------------------------------------------------------

/// A dialect whose answers name nothing: `a` is an ack of the next message in turn, `n` and `r`
/// refuse it, for the moment and for good. With a greeting it says `hello` and awaits `w`; `t`, `c`
/// and `f` refuse the client: it is to come again, with other credentials, never.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Positional {
    /// Whether it greets.
    pub greets: bool,
}

impl Dialect for Positional {
    type Message = Body;
    type Inbound = Body;
    type Credentials = ();
    type Error = core::convert::Infallible;

    const ACKS: bool = true;

    fn encode(message: Body) -> Result<Body, (Body, Self::Error)> {
        Ok(message)
    }

    fn greet(&mut self, _: &Opened<()>) -> Greeting {
        hello(self.greets)
    }

    fn decode(&mut self, body: Body, sink: &mut Sink<Body>) {
        if greeted_or_refused(body.as_bytes(), sink) {
            return;
        }
        match body.as_bytes().as_ref() {
            b"a" => sink.ack(Ack::Next),
            b"n" => sink.nack(Ack::Next, Nack::Transient),
            b"r" => sink.nack(Ack::Next, Nack::Permanent),
            b"?" => {
                sink.violation();
                sink.reply("what?");
            }
            _ => drop(sink.inbound(body)),
        }
    }
}

/// A message that wants an ack.
const WANTS_ACK: u8 = 1;

fn static_frame(letter: &'static [u8]) -> Body {
    Body::binary(bytes::Bytes::from_static(letter))
}

/// A server that answers each message of level `Acked` in its turn. Behind one that it refuses for
/// the moment it refuses everything, until the sender has gone back; unless it
/// [takes gaps](Self::takes_gaps).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PositionalPeer {
    greets: bool,
    takes_gaps: bool,
    /// The messages that were refused since the sender last went back. It has gone back when one of
    /// them comes again.
    refusing: Vec<u64>,
    /// What was refused for good, and stays so.
    rejected: Vec<u64>,
}

impl PositionalPeer {
    /// A server that awaits a greeting, or not.
    pub fn new(greets: bool) -> Self {
        Self { greets, ..Self::default() }
    }

    /// Whether it takes what comes behind a message that it has refused for the moment.
    #[must_use]
    pub fn takes_gaps(self, takes_gaps: bool) -> Self {
        Self { takes_gaps, ..self }
    }
}

impl Peer for PositionalPeer {
    type Dialect = Positional;

    const POSITIONAL: bool = true;

    fn dialect(&self) -> Positional {
        Positional { greets: self.greets }
    }

    fn body(&self, message: u64, bytes: usize, level: Level) -> Body {
        numbered_body(message, bytes, u8::from(level == Level::Acked))
    }

    fn message(&self, body: &Body) -> u64 {
        message_in(body)
    }

    fn connect(&mut self) {
        self.refusing.clear();
    }

    fn read(&self, frame: &Body, messages: &mut Vec<u64>) {
        if frame.len() >= 9 {
            messages.push(message_in(frame));
        }
    }

    fn refuses_gaps(&self) -> bool {
        !self.takes_gaps
    }

    fn take(&mut self, frame: &Body, desk: &mut Desk) {
        match frame.as_bytes().as_ref() {
            b"hello" => return desk.answer(static_frame(WELCOME)),
            b"what?" => return,
            _ => {}
        }
        let message = message_in(frame);
        let wants_ack = frame.as_bytes()[8] == WANTS_ACK;
        if !self.refusing.is_empty() && !self.refusing.contains(&message) {
            self.refusing.push(message);
            if wants_ack {
                desk.answer(static_frame(b"n"));
            }
            return;
        }
        self.refusing.clear();
        // What awaits no answer cannot be refused.
        let again = self.rejected.contains(&message).then_some(Nack::Permanent);
        match if wants_ack { again.or_else(|| desk.judge()) } else { None } {
            None => {
                desk.processed(message);
                if wants_ack {
                    desk.ack(static_frame(b"a"));
                }
            }
            Some(Nack::Transient) => {
                if !self.takes_gaps {
                    self.refusing.push(message);
                }
                desk.answer(static_frame(b"n"));
            }
            Some(Nack::Permanent) => {
                self.rejected.push(message);
                desk.answer(static_frame(b"r"));
            }
        }
    }

    fn say(&self) -> Body {
        static_frame(b"say")
    }

    fn greeting(&self) -> Option<Body> {
        Some(static_frame(WELCOME))
    }

    fn refusal(&self, refusal: Refusal) -> Option<Body> {
        refusal_frame(refusal)
    }

    fn denial(&self, nack: Nack) -> Option<Body> {
        Some(static_frame(match nack {
            Nack::Transient => b"n",
            Nack::Permanent => b"r",
        }))
    }

    fn is_refusing(&self) -> bool {
        !self.refusing.is_empty()
    }

    fn lie(&self, _: bool) -> Option<Body> {
        Some(static_frame(b"a"))
    }
}

// ---- Reception ----------------------------------------------------------------------------------

/// An application with an inbox. What is new is in progress until it is decided on, all at once.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Reception {
    inbox: WatchedInbox,
    /// The newest connection, and the one before.
    lanes: [Option<Lane>; 2],
    /// With the number of each message.
    in_progress: Vec<(MessageId, u64)>,
}

impl Default for Reception {
    fn default() -> Self {
        let inbox = WatchedInbox::new(Self::CONFIG).expect("the settings are in their ranges");
        Self { inbox, lanes: [None; 2], in_progress: Vec::new() }
    }
}

impl Reception {
    /// A frame has no more messages than may be in progress: only a slow application is ever full.
    const CONFIG: InboxConfig =
        InboxConfig { max_outboxes: 64, max_in_progress: NumberedPeer::FRAME_MESSAGES };

    fn connect(&mut self) {
        self.lanes = [Some(self.inbox.connect()), self.lanes[0]];
    }

    fn restart(&mut self) {
        self.inbox.restart(Self::CONFIG).expect("the settings are in their ranges");
        self.lanes = [None; 2];
        self.in_progress.clear();
    }

    /// A message comes on the newest connection, or late, on the one before.
    fn offer(&mut self, late: bool, id: MessageId, base: Seq, message: u64) {
        let Some(lane) = self.lanes[usize::from(late)] else { return };
        if self.inbox.offer(lane, id, base) == Offer::New {
            self.in_progress.push((id, message));
        }
    }

    /// Takes in what is in progress, up to the first message that is refused, in one transaction;
    /// unless its desk is slow.
    fn decide(&mut self, desk: &mut Desk) {
        if desk.is_slow() {
            return;
        }
        let (mut last, mut refused) = (None, None);
        for (id, message) in self.in_progress.drain(..) {
            if let Some(nack) = desk.judge() {
                refused = Some((id, nack));
                break;
            }
            desk.processed(message);
            last = Some(id);
        }
        let inbox = &mut self.inbox;
        let stored = last.map_or(Ok(()), |id| inbox.done(id));
        let refused = refused.map_or(Ok(()), |(id, nack)| inbox.refuse(id, nack));
        stored.and(refused).expect("what is new is in progress");
    }

    /// Decides, and answers.
    fn answers<'a>(&'a mut self, desk: &mut Desk) -> impl Iterator<Item = Answer> + use<'a> {
        self.decide(desk);
        core::iter::from_fn(|| self.inbox.poll(self.lanes[0]?))
    }
}

// ---- Named --------------------------------------------------------------------------------------

/// A dialect in which an answer is a list of letters with a number: `o` is an ack of that one, `u`
/// of all up to it, `g` refuses it for the moment with all that was sent behind it, `n` alone, `r`
/// refuses it for good with all behind it, `x` alone. It greets, and is refused, as [`Positional`] does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Named {
    /// Whether it greets.
    pub greets: bool,
    /// How often it sends a `beat` of its own, if it does.
    pub beat: Option<Duration>,
}

const NAME: usize = 24;

fn name_in(bytes: &[u8]) -> Option<MessageId> {
    let outbox: [u8; 16] = bytes.get(..16)?.try_into().ok()?;
    let seq = u64_at(bytes, 16)?;
    Some(MessageId { outbox: OutboxId::new(u128::from_le_bytes(outbox)), seq: Seq::new(seq) })
}

/// What a client sends: the name of a message, its base and its number.
fn named_message(bytes: &[u8]) -> Option<(MessageId, Seq, u64)> {
    let base = Seq::new(u64_at(bytes, NAME)?);
    Some((name_in(bytes)?, base, u64_at(bytes, NAME + 8)?))
}

fn named(letter: u8, id: MessageId) -> Body {
    let mut frame = Vec::with_capacity(1 + NAME);
    frame.push(letter);
    put_name(&mut frame, id);
    Body::binary(frame)
}

fn put_name(frame: &mut Vec<u8>, id: MessageId) {
    frame.extend_from_slice(&id.outbox.get().to_le_bytes());
    frame.extend_from_slice(&id.seq.get().to_le_bytes());
}

impl Dialect for Named {
    type Message = Body;
    type Inbound = Body;
    type Credentials = ();
    type Error = core::convert::Infallible;

    const ACKS: bool = true;

    fn encode(message: Body) -> Result<Body, (Body, Self::Error)> {
        Ok(message)
    }

    fn greet(&mut self, _: &Opened<()>) -> Greeting {
        hello(self.greets)
    }

    fn frame(&mut self, batch: Batch<'_>) -> (Body, usize) {
        let item = batch.first();
        let mut frame = Vec::with_capacity(NAME + 8 + item.body.len());
        put_name(&mut frame, item.id);
        frame.extend_from_slice(&batch.base().get().to_le_bytes());
        frame.extend_from_slice(item.body.as_bytes());
        (Body::binary(frame), 1)
    }

    fn decode(&mut self, body: Body, sink: &mut Sink<Body>) {
        if body.as_bytes().first() == Some(&b's') {
            return drop(sink.inbound(body));
        }
        if greeted_or_refused(body.as_bytes(), sink) {
            return;
        }
        for said in body.as_bytes().chunks(1 + NAME) {
            let Some(id) = name_in(&said[1..]) else { return sink.violation() };
            match said[0] {
                b'o' => sink.ack(Ack::OneOf(id)),
                b'u' => sink.ack(Ack::UpToOf(id)),
                b'g' => sink.nack_from(id, Nack::Transient),
                b'n' => sink.nack(Ack::OneOf(id), Nack::Transient),
                b'r' => sink.nack_from(id, Nack::Permanent),
                b'x' => sink.nack(Ack::OneOf(id), Nack::Permanent),
                _ => sink.violation(),
            }
        }
    }

    fn beat(&mut self) -> Option<Beat> {
        self.beat.map(|interval| Beat { interval, body: static_frame(b"beat") })
    }
}

/// A server that answers messages by name: one in two for itself, the others up to it. Behind one
/// that it refuses it drops everything, until the sender has gone back; unless it
/// [takes gaps](Self::takes_gaps).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedPeer {
    greets: bool,
    beat: Option<Duration>,
    reception: Reception,
    newest: Option<MessageId>,
    /// Instead of the inbox, if it takes gaps: whether it took a message, or has refused it for good.
    answered: Option<HashMap<MessageId, bool>>,
}

impl NamedPeer {
    /// A server that awaits a greeting, or not.
    pub fn new(greets: bool) -> Self {
        let reception = Reception::default();
        Self { greets, beat: None, reception, newest: None, answered: None }
    }

    /// How often the client sends a beat, if it does.
    #[must_use]
    pub fn beats(self, beat: Option<Duration>) -> Self {
        Self { beat, ..self }
    }

    /// Whether it takes what comes behind a message that it has refused for the moment.
    #[must_use]
    pub fn takes_gaps(self, takes_gaps: bool) -> Self {
        Self { answered: takes_gaps.then(HashMap::new), ..self }
    }

    fn answer(&mut self, desk: &mut Desk) {
        let answers = self.reception.answers(desk);
        let only_one = desk.processed.len() == 1;
        for answer in answers {
            match answer {
                Answer::Ack(id) => {
                    // Of a duplicate the sender may have missed the acks of others too.
                    let alone = only_one && id.seq.get() % 2 == 0;
                    let letter = if alone { b'o' } else { b'u' };
                    desk.ack(named(letter, id));
                }
                Answer::Nack(id, Nack::Transient) => desk.answer(named(b'g', id)),
                Answer::Nack(id, Nack::Permanent) => desk.answer(named(b'r', id)),
            }
        }
    }
}

impl Default for NamedPeer {
    fn default() -> Self {
        Self::new(false)
    }
}

impl Peer for NamedPeer {
    type Dialect = Named;

    fn dialect(&self) -> Named {
        Named { greets: self.greets, beat: self.beat }
    }

    fn body(&self, message: u64, bytes: usize, level: Level) -> Body {
        numbered_body(message, bytes, u8::from(level == Level::Acked))
    }

    fn message(&self, body: &Body) -> u64 {
        message_in(body)
    }

    fn connect(&mut self) {
        self.reception.connect();
    }

    fn read(&self, frame: &Body, messages: &mut Vec<u64>) {
        messages.extend(u64_at(frame.as_bytes(), NAME + 8));
    }

    fn refuses_gaps(&self) -> bool {
        self.answered.is_none()
    }

    fn take(&mut self, frame: &Body, desk: &mut Desk) {
        let bytes = frame.as_bytes();
        if bytes.as_ref() == b"hello" {
            return desk.answer(static_frame(WELCOME));
        }
        let Some((id, base, message)) = named_message(bytes) else { return };
        self.newest = Some(id);
        if let Some(answered) = &mut self.answered {
            let known = answered.get(&id).copied();
            let refused = match known {
                None => desk.judge(),
                Some(took) => (!took).then_some(Nack::Permanent),
            };
            return match refused {
                None => {
                    if known.is_none() {
                        answered.insert(id, true);
                        desk.processed(message);
                    }
                    desk.ack(named(b'o', id));
                }
                Some(Nack::Transient) => desk.answer(named(b'n', id)),
                Some(Nack::Permanent) => {
                    answered.insert(id, false);
                    desk.answer(named(b'x', id));
                }
            };
        }
        self.reception.offer(false, id, base, message);
        self.answer(desk);
    }

    fn take_late(&mut self, frame: &Body, desk: &mut Desk) {
        let Some((id, base, message)) = named_message(frame.as_bytes()) else { return };
        if self.answered.is_none() {
            self.reception.offer(true, id, base, message);
            self.answer(desk);
        }
    }

    fn finish(&mut self, desk: &mut Desk) {
        self.answer(desk);
    }

    fn takes_once(&self) -> bool {
        self.answered.is_none()
    }

    fn restart(&mut self) {
        self.reception.restart();
    }

    fn inbox(&mut self) -> Option<&mut WatchedInbox> {
        Some(&mut self.reception.inbox)
    }

    fn say(&self) -> Body {
        static_frame(b"say")
    }

    fn lie(&self, far: bool) -> Option<Body> {
        self.newest.map(|id| named(b'u', beyond(id, far)))
    }

    fn greeting(&self) -> Option<Body> {
        Some(static_frame(WELCOME))
    }

    fn refusal(&self, refusal: Refusal) -> Option<Body> {
        refusal_frame(refusal)
    }

    fn denial(&self, nack: Nack) -> Option<Body> {
        let letter = match (nack, self.answered.is_some()) {
            (Nack::Transient, false) => b'g',
            (Nack::Permanent, false) => b'r',
            (Nack::Transient, true) => b'n',
            (Nack::Permanent, true) => b'x',
        };
        self.newest.map(|id| named(letter, id))
    }

    fn forget(&mut self) {
        self.reception = Reception::default();
        if let Some(answered) = &mut self.answered {
            answered.clear();
        }
    }
}

fn beyond(id: MessageId, far: bool) -> MessageId {
    let seq = if far { u64::MAX } else { id.seq.get().saturating_add(1_000_000) };
    MessageId { seq: Seq::new(seq), ..id }
}

// ---- Numbered -----------------------------------------------------------------------------------

/// A server that speaks [`Numbered`] and keeps an inbox.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NumberedPeer {
    reception: Reception,
    newest: Option<MessageId>,
}

impl NumberedPeer {
    const FRAME_MESSAGES: usize = 3;

    fn offer(&mut self, late: bool, frame: &Body) {
        let Ok(Messages { outbox, base, messages }) = Messages::parse(frame) else { return };
        for (seq, data) in messages {
            let id = MessageId { outbox, seq };
            if !late {
                self.newest = Some(id);
            }
            self.reception.offer(late, id, base, json_number(data.as_str()));
        }
    }

    fn answer(&mut self, desk: &mut Desk) {
        let mut only_acks = true;
        let answers = self
            .reception
            .answers(desk)
            .inspect(|answer| only_acks &= matches!(answer, Answer::Ack(_)));
        if let Some(reply) = numbered::reply(answers, None) {
            desk.answers.push((reply, only_acks));
        }
    }
}

impl Peer for NumberedPeer {
    type Dialect = Numbered;

    fn dialect(&self) -> Numbered {
        let config = NumberedConfig {
            max_frame_messages: Self::FRAME_MESSAGES,
            ..NumberedConfig::default()
        };
        Numbered::new(config).expect("the settings are in their ranges")
    }

    fn body(&self, message: u64, bytes: usize, _: Level) -> Body {
        Body::text(format!("{message:<bytes$}"))
    }

    fn message(&self, body: &Body) -> u64 {
        json_number(body.as_text().unwrap_or_default())
    }

    fn connect(&mut self) {
        self.reception.connect();
    }

    fn read(&self, frame: &Body, messages: &mut Vec<u64>) {
        if let Ok(frame) = Messages::parse(frame) {
            messages.extend(frame.messages.iter().map(|(_, data)| json_number(data.as_str())));
        }
    }

    fn take(&mut self, frame: &Body, desk: &mut Desk) {
        self.offer(false, frame);
        self.answer(desk);
    }

    fn take_late(&mut self, frame: &Body, desk: &mut Desk) {
        self.offer(true, frame);
        self.answer(desk);
    }

    fn finish(&mut self, desk: &mut Desk) {
        self.answer(desk);
    }

    fn takes_once(&self) -> bool {
        true
    }

    fn restart(&mut self) {
        self.reception.restart();
    }

    fn inbox(&mut self) -> Option<&mut WatchedInbox> {
        Some(&mut self.reception.inbox)
    }

    fn say(&self) -> Body {
        let json = Json::from_text("true").ok();
        numbered::reply([], json.as_ref()).unwrap_or_else(|| Body::from("{}"))
    }

    fn lie(&self, far: bool) -> Option<Body> {
        let id = beyond(self.newest?, far);
        numbered::reply([Answer::Ack(id)], None)
    }

    fn denial(&self, nack: Nack) -> Option<Body> {
        numbered::reply([Answer::Nack(self.newest?, nack)], None)
    }

    fn forget(&mut self) {
        self.reception = Reception::default();
    }
}

fn json_number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(u64::MAX)
}
