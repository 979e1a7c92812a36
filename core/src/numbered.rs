//! The dialect [`Numbered`]: JSON frames with numbered messages, acks and nacks.
//!
//! Everything a server needs to know is on this page. Frames are WebSocket text frames (RFC 6455
//! §5.6) that hold one JSON object each (RFC 8259). Fields that are not named here are ignored.
//!
//! # From the sender
//!
//! ```json
//! {"id":"0f1e2d3c4b5a69788796a5b4c3d2e1f0","base":7,"messages":[{"seq":7,"data":{"any":"JSON"}},{"seq":9,"data":[1,2]}]}
//! ```
//!
//! - `id`: the outbox that the messages were pushed to, 32 lower-case hexadecimal digits. (`id`,
//!   `seq`) names a message for ever; it is sent again under the same name until it is settled.
//! - `messages`: one or more. `seq` is an integer from 1, and rises within the frame. Numbers may
//!   be missing: those messages were cancelled, expired or replaced, and never come. (Numbers stay
//!   below 2^53, where JavaScript is exact, for longer than anybody sends.)
//! - `base`: the lowest number that the sender has not settled, at most the first `seq`. A `seq` is
//!   never below it, so nothing in front of a message with `seq` = `base` will be sent again.
//!
//! Each connection carries all that is unsettled, in the order of `seq`, from `base` on. A sender
//! that was restarted sends what it restored under the old `id`, then goes on counting under a fresh
//! one.
//!
//! # From the receiver
//!
//! ```json
//! {"acks":[{"id":"0f1e2d3c4b5a69788796a5b4c3d2e1f0","seq":9}],"nacks":[{"id":"0f1e2d3c4b5a69788796a5b4c3d2e1f0","seq":10,"reason":"transient"}],"data":{"any":"JSON"}}
//! ```
//!
//! Each field may be left out. They take effect in this order:
//!
//! - `acks`: the message `seq` and **all before it** with this `id` are done. One ack for a batch
//!   is enough. An ack may be repeated, and may name a message of an earlier connection.
//! - `nacks`: the message `seq` is refused: `"transient"`, it is to be tried again after a pause; or
//!   `"permanent"`, never. What was sent behind it on this connection was **dropped**, whatever its
//!   `id`, and is sent again. It is not nacked by itself.
//! - `data`: a message of the server to the application, any JSON.
//!
//! # What a server does
//!
//! It keeps for each sender, in its storage, `mark[id]`: the last `seq` that is done. On each
//! connection it begins with `refusing = false`. For each message:
//!
//! 1. If `refusing` and `seq` ≠ `base`: drop it. Else `refusing = false`. (After a nack the sender
//!    waits until all in front of the refused message is answered. The next thing that it sends is
//!    its lowest unsettled message, which is its own `base`.)
//! 2. If `seq` ≤ `mark[id]`: it is a duplicate. Ack `mark[id]` again.
//! 3. Run its effect and set `mark[id] = seq`, in one transaction; then ack `seq`. If that cannot be
//!    done: nack, and `refusing = true`.
//!
//! A server that answers before it has processed a message also remembers what is in progress; in
//! Rust, [`Inbox`](crate::Inbox) does all of this:
//!
//! ```
//! use bowline_core::{Body, Inbox, InboxConfig, MessageId, Offer};
//! use bowline_core::numbered::{Messages, reply};
//!
//! let mut inbox = Inbox::new(InboxConfig::default())?;
//! let lane = inbox.connect();
//! let frame = Body::text(
//!     r#"{"id":"0f1e2d3c4b5a69788796a5b4c3d2e1f0","base":7,"messages":[{"seq":7,"data":"hello"}]}"#,
//! );
//!
//! let Messages { outbox, base, messages } = Messages::parse(&frame)?;
//! for (seq, data) in messages {
//!     let id = MessageId { outbox, seq };
//!     if inbox.offer(lane, id, base) == Offer::New {
//!         let text: String = data.to()?;
//!         assert_eq!(text, "hello");
//!         // Its effect and the mark (outbox, seq) in one transaction; then:
//!         inbox.done(id)?;
//!     }
//! }
//! let answer = reply(std::iter::from_fn(|| inbox.poll(lane)), None);
//! assert_eq!(
//!     answer,
//!     Some(r#"{"acks":[{"id":"0f1e2d3c4b5a69788796a5b4c3d2e1f0","seq":7}]}"#.into()),
//! );
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! # Delivery levels
//!
//! Push at level [`Acked`](crate::Level::Acked): set it in
//! [`OutboxConfig::level`](crate::OutboxConfig::level). A message of a lower level travels in the
//! same frames, but is settled before the server has looked at it, and is lost if the server drops
//! it behind a refused one.

use alloc::{borrow::Cow, string::String, vec::Vec};
use core::{convert::Infallible, fmt, fmt::Write as _};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::value::RawValue;

use crate::{
    config::{ConfigError, check},
    dialect::{Body, Dialect, Sink},
    inbox::Answer,
    outbox::{Ack, Batch, MessageId, Nack, OutboxId, Seq},
};

/// Text that is valid JSON. Cheap to clone.
///
/// `Debug` prints the length, never the text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Json(Bytes);

impl Json {
    /// The JSON of a value.
    ///
    /// # Errors
    /// The value has no form in JSON: a map whose keys are not strings, or an error of its own.
    pub fn new<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_vec(value).map(|text| Self(text.into()))
    }

    /// Text that is JSON already.
    ///
    /// # Errors
    /// It is not one whole JSON value; it is handed back.
    pub fn from_text(text: impl Into<String>) -> Result<Self, String> {
        let text = text.into();
        match serde_json::from_str::<&RawValue>(&text) {
            Ok(_) => Ok(Self(text.into())),
            Err(_) => Err(text),
        }
    }

    /// A part of a frame, without a copy.
    fn part(frame: &Bytes, part: &RawValue) -> Self {
        Self(frame.slice_ref(part.get().as_bytes()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        match core::str::from_utf8(&self.0) {
            Ok(text) => text,
            // It came from a `String`, from serde_json, or from a text frame.
            Err(_) => unreachable!("JSON that is not UTF-8"),
        }
    }

    /// The value.
    ///
    /// # Errors
    /// The JSON is not that of a `T`.
    pub fn to<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.0)
    }
}

impl From<Json> for Body {
    /// A text frame, without a copy.
    fn from(json: Json) -> Self {
        match Self::text_from_utf8(json.0) {
            Ok(body) => body,
            Err(_) => unreachable!("JSON that is not UTF-8"),
        }
    }
}

impl From<Json> for String {
    fn from(json: Json) -> Self {
        json.as_str().into()
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "json({} B)", self.0.len())
    }
}

/// The settings of [`Numbered`]: how far messages are packed into one frame when there is a queue.
/// A lone message leaves at once in a frame of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NumberedConfig {
    /// Messages in one frame. Default 256; 1 to 65,536. With 1 there is no packing.
    pub max_frame_messages: usize,
    /// Bytes of one frame. Default 64 KiB; at least 1. A message that is larger travels alone, in
    /// a frame that has up to [`OVERHEAD`](Numbered::OVERHEAD) bytes more than the message.
    pub max_frame_bytes: usize,
}

impl Default for NumberedConfig {
    fn default() -> Self {
        Self { max_frame_messages: 256, max_frame_bytes: 64 << 10 }
    }
}

impl NumberedConfig {
    /// Checks every field; the error names the first that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check("max_frame_messages", self.max_frame_messages, 1..=65_536)?;
        check("max_frame_bytes", self.max_frame_bytes, 1..=usize::MAX)
    }
}

/// JSON with numbers and cumulative acks; see the [module docs](self) for the format.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Numbered {
    config: NumberedConfig,
}

impl Numbered {
    /// By how many bytes at most a frame of one message is larger than the message.
    pub const OVERHEAD: usize = concat!(
        r#"{"id":"ffffffffffffffffffffffffffffffff","base":18446744073709551615,"messages":["#,
        r#"{"seq":18446744073709551615,"data":}"#,
        "]}",
    )
    .len();

    /// A dialect with these settings.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn new(config: NumberedConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self { config })
    }
}

// The parts of a frame.
const HEAD: &str = r#"{"id":""#;
const BASE: &str = r#"","base":"#;
const LIST: &str = r#","messages":["#;
const SEQ: &str = r#"{"seq":"#;
const DATA: &str = r#","data":"#;
const TAIL: &str = "]}";
/// What a message takes up in a frame at most besides its data, comma included.
const EACH: usize = r#",{"seq":18446744073709551615,"data":}"#.len();

impl Dialect for Numbered {
    type Message = Json;
    type Inbound = Json;
    type Credentials = ();
    type Error = Infallible;

    const ACKS: bool = true;

    fn encode(message: Json) -> Result<Body, (Json, Infallible)> {
        Ok(message.into())
    }

    fn frame(&mut self, batch: Batch<'_>) -> (Body, usize) {
        let outbox = batch.first().id.outbox;
        let mut text = String::with_capacity(batch.first().body.len() + Self::OVERHEAD);
        put(&mut text, format_args!("{HEAD}{outbox}{BASE}{}{LIST}", batch.base()));
        let mut taken = 0;
        let together = batch.iter().take_while(|item| item.id.outbox == outbox);
        for item in together.take(self.config.max_frame_messages) {
            let size = text.len() + EACH + item.body.len() + TAIL.len();
            if taken > 0 && size > self.config.max_frame_bytes {
                break;
            }
            let comma = if taken > 0 { "," } else { "" };
            // Only a body that `encode` did not make is no text, and it has no place in a frame.
            let data = item.body.as_text().unwrap_or("null");
            put(&mut text, format_args!("{comma}{SEQ}{}{DATA}", item.id.seq));
            text.push_str(data);
            text.push('}');
            taken += 1;
        }
        text.push_str(TAIL);
        (Body::text(text), taken)
    }

    fn decode(&mut self, body: Body, sink: &mut Sink<Json>) {
        let text = body.as_text().unwrap_or_default();
        let Some(reply) = object::<Reply<'_>>(text) else {
            return sink.violation();
        };
        for ack in reply.acks {
            sink.ack(Ack::UpToOf(name(&ack.id, ack.seq)));
        }
        for nack in reply.nacks {
            sink.nack_from(name(&nack.id, nack.seq), nack.reason.into());
        }
        if let Some(data) = reply.data {
            // A fresh sink is empty, so this cannot be refused.
            let _ = sink.inbound(Json::part(body.as_bytes(), data));
        }
    }
}

fn name(id: &Hex, seq: u64) -> MessageId {
    MessageId { outbox: id.0, seq: Seq::new(seq) }
}

fn put(text: &mut String, arguments: fmt::Arguments<'_>) {
    // A `String` takes everything.
    let _ = text.write_fmt(arguments);
}

/// A frame of the sender, as the receiver reads it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Messages {
    /// The outbox that the messages were pushed to.
    pub outbox: OutboxId,
    /// The lowest number that the sender has not settled.
    pub base: Seq,
    /// The messages, in order. They share the memory of the frame.
    pub messages: Vec<(Seq, Json)>,
}

/// A frame that no honest sender makes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Malformed {
    /// It is not a text frame.
    #[error("it is not a text frame")]
    Binary,
    /// It is not JSON, or lacks a field, or a field has the wrong form.
    #[error("it is not a JSON object with id, base and messages")]
    Form,
    /// There is no message in it.
    #[error("there is no message in it")]
    Empty,
    /// A number is zero, does not rise, or is below the base.
    #[error("number {0} is out of order")]
    Order(Seq),
}

impl Messages {
    /// Reads a frame. What is allocated is in proportion to the frame; how large that may be is for
    /// the WebSocket library to limit.
    ///
    /// # Errors
    /// No honest sender makes such a frame: close the connection, with 1007 (RFC 6455 §7.4.1), say.
    pub fn parse(frame: &Body) -> Result<Self, Malformed> {
        let text = frame.as_text().ok_or(Malformed::Binary)?;
        let parsed: Parcel<'_> = object(text).ok_or(Malformed::Form)?;
        let base = parsed.base;
        let mut messages = Vec::with_capacity(parsed.messages.len());
        let mut before = None;
        for Entry { seq, data } in parsed.messages {
            if base == 0 || seq < base || before.is_some_and(|before| seq <= before) {
                return Err(Malformed::Order(Seq::new(seq)));
            }
            before = Some(seq);
            messages.push((Seq::new(seq), Json::part(frame.as_bytes(), data)));
        }
        if messages.is_empty() {
            return Err(Malformed::Empty);
        }
        Ok(Self { outbox: parsed.id.0, base: Seq::new(base), messages })
    }
}

/// One frame with these answers and a message of the server's own; none if there is neither.
pub fn reply(answers: impl IntoIterator<Item = Answer>, data: Option<&Json>) -> Option<Body> {
    let mut reply = Reply::default();
    for answer in answers {
        match answer {
            Answer::Ack(MessageId { outbox, seq }) => {
                reply.acks.push(Done { id: Hex(outbox), seq: seq.get() });
            }
            Answer::Nack(MessageId { outbox, seq }, nack) => {
                let reason = nack.into();
                reply.nacks.push(Refused { id: Hex(outbox), seq: seq.get(), reason });
            }
        }
    }
    // What is taken from a `Json` is JSON.
    reply.data = data.and_then(|data| serde_json::from_str(data.as_str()).ok());
    if reply.acks.is_empty() && reply.nacks.is_empty() && reply.data.is_none() {
        return None;
    }
    // Strings and integers all have a form in JSON.
    serde_json::to_string(&reply).ok().map(Body::text)
}

/// A JSON object. (Without a look at the brace, an array would do for one, field by field.)
fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    let is_object = text.trim_ascii_start().starts_with('{');
    serde_json::from_str(text).ok().filter(|_| is_object)
}

// ---- The frames, field by field -----------------------------------------------------------------

/// From the sender.
#[derive(Deserialize)]
struct Parcel<'a> {
    id: Hex,
    base: u64,
    #[serde(borrow)]
    messages: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    seq: u64,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// From the receiver.
#[derive(Serialize, Deserialize, Default)]
struct Reply<'a> {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    acks: Vec<Done>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    nacks: Vec<Refused>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none", deserialize_with = "some")]
    data: Option<&'a RawValue>,
}

/// A field that is there, though it be `null`.
fn some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

#[derive(Serialize, Deserialize)]
struct Done {
    id: Hex,
    seq: u64,
}

#[derive(Serialize, Deserialize)]
struct Refused {
    id: Hex,
    seq: u64,
    reason: Reason,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reason {
    Transient,
    Permanent,
}

impl From<Nack> for Reason {
    fn from(nack: Nack) -> Self {
        match nack {
            Nack::Transient => Self::Transient,
            Nack::Permanent => Self::Permanent,
        }
    }
}

impl From<Reason> for Nack {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Transient => Self::Transient,
            Reason::Permanent => Self::Permanent,
        }
    }
}

/// An outbox id on the wire.
struct Hex(OutboxId);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Text(text) = Text::deserialize(deserializer)?;
        // Only one spelling, so that the text itself can be a key in other languages.
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.bytes().all(digit) {
            return Err(D::Error::custom("not an id"));
        }
        u128::from_str_radix(&text, 16).map(|id| Self(OutboxId::new(id))).map_err(D::Error::custom)
    }
}

/// A string, without a copy unless it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
