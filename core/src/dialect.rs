//! How messages, acks and the greeting look on the wire.
//!
//! A [`Dialect`] is pure: bytes in, bytes out, no I/O, no clock, no queue. The client calls it in
//! the order of a connection's life:
//!
//! 1. **Greeting.** [`greet`](Dialect::greet) gives the first frames of a connection from the
//!    credentials that came with the handshake. Nothing of the outbox is sent before the greeting
//!    is done: at once, or when [`decode`](Dialect::decode) says [`Sink::greeted`]. A greeting of
//!    several round trips answers through [`Sink::reply`].
//! 2. **Sending.** [`encode`](Dialect::encode) once for each message, at push, so that sizes are
//!    known and a replay sends the same bytes; [`frame`](Dialect::frame) at each transmission.
//! 3. **Receiving.** [`decode`](Dialect::decode) turns a frame into acks, nacks, at most one
//!    inbound message and at most one reply.
//! 4. **Beating.** [`beat`](Dialect::beat), if the application has a heartbeat of its own.

use alloc::{string::String, vec::Vec};
use core::{fmt, time::Duration};

use bytes::Bytes;

use crate::{
    loss::Refusal,
    outbox::{Ack, Batch, MessageId, Nack, Ping},
    time::Attempt,
};

/// The payload of one data frame: what a message is encoded to, and what a peer's message arrives
/// as. Cheap to clone.
///
/// `Debug` prints the kind and the length, never the bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Body {
    bytes: Bytes,
    text: bool,
}

impl Body {
    /// A text frame (RFC 6455 opcode 1).
    pub fn text(text: impl Into<String>) -> Self {
        Self { bytes: Bytes::from(text.into()), text: true }
    }

    /// A binary frame (RFC 6455 opcode 2).
    pub fn binary(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), text: false }
    }

    /// A text frame from bytes, handed back if they are not UTF-8.
    pub fn text_from_utf8(bytes: Bytes) -> Result<Self, Bytes> {
        match core::str::from_utf8(&bytes) {
            Ok(_) => Ok(Self { bytes, text: true }),
            Err(_) => Err(bytes),
        }
    }

    /// Whether this is a text frame.
    pub fn is_text(&self) -> bool {
        self.text
    }

    /// The text, if this is a text frame.
    pub fn as_text(&self) -> Option<&str> {
        if self.text { core::str::from_utf8(&self.bytes).ok() } else { None }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The bytes, without a copy.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.text { "text" } else { "binary" };
        write!(f, "{kind}({} B)", self.len())
    }
}

impl From<&str> for Body {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::binary(bytes)
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::binary(bytes)
    }
}

#[cfg(feature = "arbitrary")]
impl<'a> arbitrary::Arbitrary<'a> for Body {
    fn arbitrary(bytes: &mut arbitrary::Unstructured<'a>) -> arbitrary::Result<Self> {
        if bytes.arbitrary()? {
            Ok(Self::text(String::arbitrary(bytes)?))
        } else {
            Ok(Self::binary(Vec::<u8>::arbitrary(bytes)?))
        }
    }
}

/// A frame that the client wants sent.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Frame {
    /// A whole data message.
    Data(Body),
    /// A ping with [this payload](Ping::payload).
    Ping(Ping),
}

impl Frame {
    /// How many bytes of payload there are.
    pub fn payload_len(&self) -> usize {
        match self {
            Self::Data(body) => body.len(),
            Self::Ping(_) => Ping::LEN,
        }
    }
}

/// A frame that the peer sent. The transport answers the peer's pings by itself (RFC 6455 §5.5.2),
/// and the driver says a peer's Close as a [`Loss`](crate::Loss).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Received {
    /// A whole data message.
    Data(Body),
    /// A pong, with the payload that it echoes.
    Pong(Bytes),
}

/// What the handshake brought: the input of a greeting.
///
/// No `Debug`: credentials and headers are secrets.
#[derive(Clone)]
pub struct Opened<C> {
    /// The attempt whose transport is open.
    pub attempt: Attempt,
    /// The subprotocol that the server chose, if one was offered.
    pub subprotocol: Option<String>,
    /// The headers of the server's response, names in lower case.
    pub headers: Vec<(String, Bytes)>,
    /// What the request provider made for this attempt: tokens, signatures.
    pub credentials: C,
}

impl<C> Opened<C> {
    /// A handshake of which nothing is known but that it succeeded.
    pub fn new(attempt: Attempt, credentials: C) -> Self {
        Self { attempt, subprotocol: None, headers: Vec::new(), credentials }
    }
}

#[cfg(feature = "arbitrary")]
impl<'a> arbitrary::Arbitrary<'a> for Received {
    fn arbitrary(bytes: &mut arbitrary::Unstructured<'a>) -> arbitrary::Result<Self> {
        if bytes.arbitrary()? {
            Ok(Self::Data(bytes.arbitrary()?))
        } else {
            Ok(Self::Pong(Vec::<u8>::arbitrary(bytes)?.into()))
        }
    }
}

#[cfg(feature = "arbitrary")]
impl<'a, C: arbitrary::Arbitrary<'a>> arbitrary::Arbitrary<'a> for Opened<C> {
    fn arbitrary(bytes: &mut arbitrary::Unstructured<'a>) -> arbitrary::Result<Self> {
        let headers = Vec::<(String, Vec<u8>)>::arbitrary(bytes)?;
        Ok(Self {
            attempt: bytes.arbitrary()?,
            subprotocol: bytes.arbitrary()?,
            headers: headers.into_iter().map(|(name, value)| (name, value.into())).collect(),
            credentials: bytes.arbitrary()?,
        })
    }
}

/// The first frames of a connection.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Greeting {
    /// Sent in this order before everything else.
    pub frames: Vec<Body>,
    /// Whether an answer must come ([`Sink::greeted`]) before the outbox may send.
    pub awaits_answer: bool,
}

/// The application's own heartbeat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Beat {
    /// The time from one beat to the next. The first is due as soon as the link is up.
    pub interval: Duration,
    /// What is sent.
    pub body: Body,
}

/// One thing that a frame of the peer said; see [`Sink`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Signal {
    /// Messages are acknowledged.
    Ack(Ack),
    /// A message is refused.
    Nack(Ack, Nack),
    /// A message is refused, and all that was sent behind it was dropped.
    NackFrom(MessageId, Nack),
    /// The greeting is done.
    Greeted,
    /// The greeting is refused.
    Refused(Refusal),
    /// The frame breaks the application's protocol.
    Violation,
}

/// Where [`Dialect::decode`] puts what a frame said. Any number of acks and nacks, at most one
/// inbound message, at most one reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sink<I> {
    /// In the order in which they were said.
    pub signals: Vec<Signal>,
    /// The message for the application.
    pub inbound: Option<I>,
    /// The frame to answer with. One slot: the latest wins. It goes before everything queued, and
    /// is allowed while greeting.
    pub reply: Option<Body>,
}

impl<I> Default for Sink<I> {
    fn default() -> Self {
        Self { signals: Vec::new(), inbound: None, reply: None }
    }
}

impl<I> Sink<I> {
    /// The peer acknowledges messages.
    pub fn ack(&mut self, ack: Ack) {
        self.signals.push(Signal::Ack(ack));
    }

    /// The peer refuses the messages that `which` names.
    pub fn nack(&mut self, which: Ack, nack: Nack) {
        self.signals.push(Signal::Nack(which, nack));
    }

    /// The peer refuses this message and has dropped all that was sent behind it: go-back-N.
    /// What was dropped is transmitted again, and charged to nobody.
    pub fn nack_from(&mut self, id: MessageId, nack: Nack) {
        self.signals.push(Signal::NackFrom(id, nack));
    }

    /// The greeting is done: the link is up.
    pub fn greeted(&mut self) {
        self.signals.push(Signal::Greeted);
    }

    /// The peer refused the greeting; the attempt ends with this verdict.
    pub fn refused(&mut self, refusal: Refusal) {
        self.signals.push(Signal::Refused(refusal));
    }

    /// The frame makes no sense in this protocol. Counted, nothing else.
    pub fn violation(&mut self) {
        self.signals.push(Signal::Violation);
    }

    /// A message for the application. A frame holds at most one: a second one is a violation and
    /// is handed back.
    pub fn inbound(&mut self, message: I) -> Result<(), I> {
        if self.inbound.is_some() {
            self.violation();
            return Err(message);
        }
        self.inbound = Some(message);
        Ok(())
    }

    /// Answers the peer.
    pub fn reply(&mut self, body: impl Into<Body>) {
        self.reply = Some(body.into());
    }
}

/// How messages, acks and the greeting look on the wire; see the [module docs](self).
pub trait Dialect {
    /// What the application sends.
    type Message;
    /// What the application receives.
    type Inbound;
    /// What the request provider makes afresh for each attempt, for the greeting to use.
    type Credentials;
    /// Why a message cannot be encoded.
    type Error;

    /// Whether the protocol has acks: without them, level [`Acked`](crate::Level::Acked) is refused.
    const ACKS: bool;

    /// The body of a message. Called once, at push. On an error the message is handed back.
    fn encode(message: Self::Message) -> Result<Body, (Self::Message, Self::Error)>;

    /// The first frames of a connection. The default is none, and no answer is awaited.
    fn greet(&mut self, opened: &Opened<Self::Credentials>) -> Greeting {
        let _ = opened;
        Greeting::default()
    }

    /// One frame out of the first messages of the batch, and how many were taken, at least one.
    /// Must be a function of its arguments. The default sends each body as it is.
    fn frame(&mut self, batch: Batch<'_>) -> (Body, usize) {
        (batch.first().body.clone(), 1)
    }

    /// What a data frame of the peer says.
    fn decode(&mut self, body: Body, sink: &mut Sink<Self::Inbound>);

    /// The application's own heartbeat, asked for each time that one is due. The default is none.
    fn beat(&mut self) -> Option<Beat> {
        None
    }
}

/// Frames as they are, text or binary: no greeting, no acks. For a server that knows nothing of
/// Bowline, at level [`Written`](crate::Level::Written) or
/// [`Received`](crate::Level::Received).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Plain;

impl Dialect for Plain {
    type Message = Body;
    type Inbound = Body;
    type Credentials = ();
    type Error = core::convert::Infallible;

    const ACKS: bool = false;

    fn encode(message: Body) -> Result<Body, (Body, Self::Error)> {
        Ok(message)
    }

    fn decode(&mut self, body: Body, sink: &mut Sink<Body>) {
        // A fresh sink is empty, so this cannot be refused.
        let _ = sink.inbound(body);
    }
}
