//! Record what happens to a client, and let it happen again.
//!
//! A client is determined: the same settings, inputs and answers give the same outputs. Answers come
//! from outside at two seams only, the [`Dialect`] and the random generator. A [`Recorder`] is a
//! [`Client`] with a listener in each of them: it writes every input with its time, beside it what
//! the dialect answered and what was drawn, and one line for each drain: whether the wire took
//! frames, what came out, in short, and a digest of it. [`replay`] puts a prompter in the place of
//! both, plays the inputs to a real client, and compares each drain. So a trace from production is a
//! bug report that reproduces, without the server, the network, the dialect or the payloads.
//!
//! A client that is not recorded knows nothing of this; a [`Recorder`] without a [`Tape`] is one
//! that looks once at each input whether it has one.
//!
//! # What a trace holds
//!
//! Times, lengths and numbers; attempts, losses, acks; the settings; of a restored snapshot all but
//! bodies and keys. Credentials, headers, URLs and coalescing keys are never in it. Bodies are in it
//! only [if asked for](Tape::with_payloads), and then frames and failures are compared byte for
//! byte; else by kind, length and numbers. The table of verdicts is code and not in it: whoever
//! replays hands it in.
//!
//! # How it looks
//!
//! A [`Line`] is a value for serde; how it is stored is up to who writes it. As lines of JSON:
//!
//! ```json
//! {"at":0,"what":{"begin":{"format":1,"config":…}},"draws":[1403,5928]}
//! {"at":0,"what":"start"}
//! {"at":0,"what":{"drain":{"wire":"Blocked","polls":3,"out":"dial 1, Dialing, Dial at 15000000","digest":"…"}}}
//! {"at":51200,"what":{"opened":1},"dialect":[{"greeting":{"frames":[],"awaits_answer":false}}]}
//! {"at":51200,"what":{"push":{"body":{"text":100},"outcome":{"taken":1}}}}
//! ```
//!
//! Nothing bounds a trace but who writes it. In that form it grows by 25 to 45 bytes for an event, 80
//! for a push, 60 for a pong, 110 and what it said for a frame of the peer, 100 for an opening; by 30
//! for each frame that the dialect made, 20 for each draw and 140 for a drain; by 1.2 kB once, and
//! 150 for each restored message. A driver drains more than once for a message that comes alone: a
//! run of `chaos` takes 420 bytes a message. Payloads, if asked for, come on top as often as they are
//! pushed, framed and received: text as it is, binary as numbers, up to 4 bytes for each.
//!
//! ```
//! use bowline_core::{
//!     Client, ClientConfig, Event, Instant, Output, Plain, Wire, loss::verdict,
//!     trace::{Recorder, Tape, replay},
//! };
//! use core::{convert::Infallible, ops::ControlFlow};
//! # use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
//!
//! let mut lines = Vec::new();
//! let tape = Tape::new(|line| {
//!     lines.push(line);
//!     ControlFlow::Continue(())
//! });
//! let rng = ChaCha8Rng::seed_from_u64(1);
//! let mut client = Recorder::new(ClientConfig::default(), Plain, rng, Some(tape))?;
//! client.handle(Instant::ZERO, Event::Start);
//! while !matches!(client.poll(Wire::Blocked), Output::WaitUntil(_)) {}
//! client.finish();
//! drop(client);
//!
//! let lines = lines.into_iter().map(Ok::<_, Infallible>);
//! assert_eq!(replay(lines, verdict, |_| {})?.lines, 4);
//! # Ok::<_, Box<dyn core::error::Error>>(())
//! ```

use alloc::{
    borrow::ToOwned,
    boxed::Box,
    collections::{BTreeSet, VecDeque},
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};
use core::{
    convert::Infallible,
    fmt::{Debug, Write as _},
    hash::{Hash, Hasher},
    mem,
    ops::{ControlFlow, Deref},
    time::Duration,
};

use bytes::Bytes;
use rand_core::{Rng, TryRng, utils::fill_bytes_via_next_word};
use serde::{Deserialize, Serialize};

use crate::{
    Wire,
    client::{Client, ClientConfig, Event, Output, Phase, Stats},
    config::ConfigError,
    connection::ConnectionConfig,
    dialect::{Beat, Body, Dialect, Frame, Greeting, Opened, Received, Signal, Sink},
    loss::{Loss, VerdictFn},
    outbox::{
        Batch, Key, Level, Ping, PushError, PushOptions, Pushed, RestoreError, RestoreRefused,
        SavedMessage, Seq, Snapshot,
    },
    time::{Attempt, Instant},
};

/// The form of the lines. Raised whenever a line comes to mean something else.
pub const FORMAT: u32 = 1;

/// The longest body that [`replay`] makes up where a trace has only its length: 256 MiB.
pub const MAX_BODY_BYTES: usize = 256 << 20;

/// The longest coalescing key that [`replay`] makes up.
pub const MAX_KEY_BYTES: usize = 64 << 10;

// ---- Lines --------------------------------------------------------------------------------------

/// One line of a trace: what happened, and what the client was answered meanwhile.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The time that was said with it; of a drain, the time of the input before.
    pub at: Instant,
    /// What happened.
    pub what: What,
    /// What the dialect answered meanwhile, in that order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dialect: Vec<FromDialect>,
    /// What the generator gave meanwhile, in that order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub draws: Vec<u64>,
}

/// What happened to a client: an [`Event`], a frame, a push, a drain.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The client was made. The first line, and only that.
    Begin(Box<Begin>),
    /// [`Event::Start`].
    Start,
    /// [`Event::Opened`], without what the handshake brought.
    Opened(Attempt),
    /// [`Event::Heard`].
    Heard(Attempt),
    /// [`Event::Took`].
    Took(Attempt),
    /// [`Event::Flushed`].
    Flushed(Attempt),
    /// [`Event::Paused`].
    Paused(Attempt),
    /// [`Event::Resumed`].
    Resumed(Attempt),
    /// [`Event::Lost`].
    Lost(Attempt, Loss),
    /// [`Event::Nudge`].
    Nudge,
    /// [`Event::Cancel`].
    Cancel(Seq),
    /// [`Event::Close`], with its deadline.
    Close(Instant),
    /// [`Event::Stop`].
    Stop,
    /// [`Event::Tick`].
    Tick,
    /// [`Received::Pong`], none if it answers no ping of ours.
    Pong(Attempt, Option<Ping>),
    /// [`Received::Data`]. What it said is beside it, unless it came too late to be decoded.
    Data(Attempt, Payload),
    /// A message was pushed.
    Push(Push),
    /// The client was polled.
    Drain(Drain),
    /// The recording was given up, and why. The last line, if it could be written.
    Cut(String),
    /// The client came to its end, with these counters. The last line.
    End(Box<Stats>),
}

/// How a client was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begin {
    /// [`FORMAT`].
    pub format: u32,
    /// The version of this crate.
    pub version: String,
    /// [`Dialect::ACKS`].
    pub acks: bool,
    /// Whether bodies are in the trace.
    pub payloads: bool,
    /// The table of verdicts is not the one of this crate.
    pub own_verdicts: bool,
    /// The settings.
    pub config: ClientConfig,
    /// The snapshot that it goes on from, without its messages.
    pub restored: Option<Snapshot>,
    /// The messages of that snapshot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Saved>,
}

/// One message of a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// All but its body and key.
    pub message: SavedMessage,
    /// Its body, unless it was delivered.
    pub body: Option<Payload>,
    /// The length of its key.
    pub key: Option<usize>,
}

/// A push and its outcome.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// The message.
    pub body: Payload,
    /// [`PushOptions::level`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// [`PushOptions::ttl`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
    /// [`PushOptions::key`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<SameKey>,
    /// What became of it.
    pub outcome: Outcome,
}

/// A coalescing key, without its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SameKey {
    /// Its length.
    pub len: usize,
    /// The message that has the same one and was never transmitted.
    pub of: Option<Seq>,
}

/// What became of a push.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was taken; it has this place.
    Taken(Seq),
    /// It was taken, and these had to go for it.
    Displaced(Seq, Vec<Seq>),
    /// It was refused, and why.
    Refused(String),
}

/// A number of polls, all with the same wire: until an input came, or there was nothing more to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// What each of them was told of the wire.
    pub wire: Wire,
    /// How many there were.
    pub polls: u64,
    /// What came out, in short and in order.
    pub out: String,
    /// The digest of what came out, all of it: 64 bits of FNV-1a in hexadecimal digits.
    pub digest: String,
}

/// A body: only its length, or all of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// So many bytes of text.
    Text(usize),
    /// So many bytes.
    Binary(usize),
    /// This text.
    TextIs(String),
    /// These bytes.
    BinaryIs(Bytes),
}

impl Payload {
    fn of(body: &Body, keep: bool) -> Self {
        match (body.as_text().filter(|_| keep), body.is_text()) {
            (Some(text), _) => Self::TextIs(text.to_owned()),
            (None, true) => Self::Text(body.len()),
            (None, false) if keep => Self::BinaryIs(body.as_bytes().clone()),
            (None, false) => Self::Binary(body.len()),
        }
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(len) | Self::Binary(len) => *len,
            Self::TextIs(text) => text.len(),
            Self::BinaryIs(bytes) => bytes.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a dialect answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FromDialect {
    /// [`Dialect::greet`].
    Greeting {
        /// The first frames.
        frames: Vec<Payload>,
        /// Whether an answer must come.
        awaits_answer: bool,
    },
    /// [`Dialect::frame`]: the frame, and how many messages are in it.
    Frame(Payload, usize),
    /// [`Dialect::decode`].
    Decoded {
        /// What the frame said.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        signals: Vec<Signal>,
        /// Whether a message for the application was in it.
        inbound: bool,
        /// The frame to answer with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reply: Option<Payload>,
    },
    /// [`Dialect::beat`].
    Beat(Option<(Duration, Payload)>),
}

impl FromDialect {
    fn payloads(&self) -> &[Payload] {
        match self {
            Self::Greeting { frames, .. } => frames,
            Self::Frame(body, _) | Self::Beat(Some((_, body))) => core::slice::from_ref(body),
            Self::Decoded { reply, .. } => reply.as_slice(),
            Self::Beat(None) => &[],
        }
    }
}

impl<C> From<&Event<C>> for What {
    fn from(event: &Event<C>) -> Self {
        match event {
            Event::Start => Self::Start,
            Event::Opened(opened) => Self::Opened(opened.attempt),
            Event::Heard(a) => Self::Heard(*a),
            Event::Took(a) => Self::Took(*a),
            Event::Flushed(a) => Self::Flushed(*a),
            Event::Paused(a) => Self::Paused(*a),
            Event::Resumed(a) => Self::Resumed(*a),
            Event::Lost(a, loss) => Self::Lost(*a, *loss),
            Event::Nudge => Self::Nudge,
            Event::Cancel(seq) => Self::Cancel(*seq),
            Event::Close { deadline } => Self::Close(*deadline),
            Event::Stop => Self::Stop,
            Event::Tick => Self::Tick,
        }
    }
}

impl From<&Result<Pushed, PushError>> for Outcome {
    fn from(result: &Result<Pushed, PushError>) -> Self {
        match result {
            Ok(pushed) if pushed.displaced.is_empty() => Self::Taken(pushed.seq),
            Ok(pushed) => {
                let displaced = pushed.displaced.iter().map(|displaced| displaced.seq);
                Self::Displaced(pushed.seq, displaced.collect())
            }
            Err(refused) => Self::Refused(refused.reason.to_string()),
        }
    }
}

/// What came out of polls with the same wire.
struct Polls {
    wire: Wire,
    count: u64,
    out: String,
    /// Data frames in a row that are not in `out` yet: how many, and their bytes.
    frames: (usize, usize),
    /// Failures in a row that are not in `out` yet.
    failed: usize,
    digest: Digest,
}

impl Polls {
    fn new(wire: Wire) -> Self {
        let digest = Digest(Digest::START);
        Self { wire, count: 0, out: String::new(), frames: (0, 0), failed: 0, digest }
    }

    fn add(&mut self, output: &Output, payloads: bool) {
        self.count += 1;
        self.digest.take_in(output, payloads);
        match output {
            Output::Send(_, Frame::Data(body)) => {
                self.tell_failed();
                self.frames = (self.frames.0 + 1, self.frames.1.saturating_add(body.len()));
            }
            Output::Failed(_) => {
                self.tell_frames();
                self.failed += 1;
            }
            Output::Send(_, Frame::Ping(ping)) => {
                self.tell(format_args!("ping behind {}", ping.seq));
            }
            Output::Dial(a) => self.tell(format_args!("dial {a}")),
            Output::Close(a, code) => self.tell(format_args!("close {a} with {code}")),
            Output::Abort(a) => self.tell(format_args!("abort {a}")),
            Output::Delivered { first, last } => {
                self.tell(format_args!("delivered {first} to {last}"));
            }
            Output::Status(status) => match status.phase {
                Phase::Waiting { .. } => match status.last_loss {
                    Some(loss) => self.tell(format_args!("Waiting, for {loss}")),
                    None => self.tell(format_args!("Waiting")),
                },
                Phase::Stopped { reason } => self.tell(format_args!("Stopped: {reason}")),
                Phase::Idle
                | Phase::Dialing
                | Phase::Greeting
                | Phase::Up
                | Phase::Suspect
                | Phase::Closing => self.tell(format_args!("{:?}", status.phase)),
            },
            Output::WaitUntil(None) => self.tell(format_args!("wait")),
            Output::WaitUntil(Some(deadline)) => {
                let at = deadline.at.as_micros();
                self.tell(format_args!("{:?} at {at}", deadline.timer));
            }
        }
    }

    fn tell(&mut self, words: core::fmt::Arguments<'_>) {
        self.tell_frames();
        self.tell_failed();
        let comma = if self.out.is_empty() { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(self.out, "{comma}{words}");
    }

    fn tell_frames(&mut self) {
        let (count, bytes) = mem::take(&mut self.frames);
        if count > 0 {
            self.tell(format_args!("{count} data ({bytes} B)"));
        }
    }

    fn tell_failed(&mut self) {
        let failed = mem::take(&mut self.failed);
        if failed > 0 {
            self.tell(format_args!("{failed} failed"));
        }
    }

    fn finish(mut self) -> Drain {
        self.tell_frames();
        self.tell_failed();
        let digest = format!("{:016x}", self.digest.finish());
        Drain { wire: self.wire, polls: self.count, out: self.out, digest }
    }
}

/// FNV-1a, 64 bits. Numbers count in their widest form, low byte first, so that all machines agree.
struct Digest(u64);

impl Digest {
    const START: u64 = 0xcbf2_9ce4_8422_2325;

    fn take_in(&mut self, output: &Output, payloads: bool) {
        match output {
            Output::Dial(a) => (0, a).hash(self),
            Output::Send(a, Frame::Data(body)) => {
                (1, a).hash(self);
                self.take_in_body(body, payloads);
            }
            Output::Send(a, Frame::Ping(ping)) => (2, a, ping).hash(self),
            Output::Close(a, code) => (3, a, code).hash(self),
            Output::Abort(a) => (4, a).hash(self),
            Output::Delivered { first, last } => (5, first, last).hash(self),
            Output::Failed(failed) => {
                (6, failed.id, failed.reason, failed.fate).hash(self);
                self.take_in_body(&failed.body, payloads);
            }
            Output::Status(status) => (7, status).hash(self),
            Output::WaitUntil(deadline) => (8, deadline).hash(self),
        }
    }

    fn take_in_body(&mut self, body: &Body, payloads: bool) {
        (body.is_text(), body.len()).hash(self);
        if payloads {
            self.write(body.as_bytes());
        }
    }
}

impl Hasher for Digest {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.write(&number.to_le_bytes());
    }

    fn write_u128(&mut self, number: u128) {
        self.write(&number.to_le_bytes());
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_i32(&mut self, number: i32) {
        self.write_u64(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }
}

// ---- Recording ----------------------------------------------------------------------------------

/// Where a trace goes.
pub struct Tape<W> {
    write: W,
    payloads: bool,
}

impl<W: FnMut(Line) -> ControlFlow<()>> Tape<W> {
    /// A tape without payloads. `write` is called for every line; a `Break` ends the recording, and
    /// the client goes on.
    pub fn new(write: W) -> Self {
        Self { write, payloads: false }
    }

    /// Keeps bodies too: what is pushed, framed, sent and received.
    pub fn with_payloads(self) -> Self {
        Self { payloads: true, ..self }
    }
}

/// A [`Client`] that is recorded. Its inputs are those of a client; for the rest it derefs to one.
pub struct Recorder<D: Dialect, R, W> {
    client: Client<Listener<D>, Dice<R>>,
    tape: Option<Tape<W>>,
    /// The time of the last input.
    at: Instant,
    /// Polls that are not written yet.
    polls: Option<Polls>,
}

impl<D: Dialect, R: Rng, W: FnMut(Line) -> ControlFlow<()>> Recorder<D, R, W> {
    /// A client that waits for `Start`, as [`Client::new`]; without a tape it is not recorded.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn new(
        config: ClientConfig,
        dialect: D,
        rng: R,
        tape: Option<Tape<W>>,
    ) -> Result<Self, ConfigError> {
        let begin = tape.as_ref().map(|tape| Begin::new::<D>(&config, tape.payloads));
        let (listener, dice) = (Listener::new(dialect, &tape), Dice::new(rng, &tape));
        let client = Client::new(config, listener, dice)?;
        Ok(Self::begun(client, tape, Instant::ZERO, begin))
    }

    /// A client that goes on with the messages of a snapshot, as [`Client::restore`].
    ///
    /// # Errors
    /// A setting of the connection is out of its range; or, with the snapshot handed back, it does
    /// not fit.
    pub fn restore(
        config: ClientConfig,
        dialect: D,
        rng: R,
        now: Instant,
        snapshot: Snapshot,
        tape: Option<Tape<W>>,
    ) -> Result<Self, RestoreError> {
        let begin =
            tape.as_ref().map(|tape| Begin::new::<D>(&config, tape.payloads).restoring(&snapshot));
        let (listener, dice) = (Listener::new(dialect, &tape), Dice::new(rng, &tape));
        let client = Client::restore(config, listener, dice, now, snapshot)?;
        Ok(Self::begun(client, tape, now, begin))
    }

    fn begun(
        client: Client<Listener<D>, Dice<R>>,
        tape: Option<Tape<W>>,
        at: Instant,
        begin: Option<Begin>,
    ) -> Self {
        let mut recorder = Self { client, tape, at, polls: None };
        if let Some(begin) = begin {
            recorder.write(What::Begin(Box::new(begin)));
        }
        recorder
    }

    /// [`Client::handle`].
    pub fn handle(&mut self, now: Instant, event: Event<D::Credentials>) {
        if self.tape.is_none() {
            return self.client.handle(now, event);
        }
        let what = What::from(&event);
        self.record(now, |client| client.handle(now, event), |()| what);
    }

    /// [`Client::receive`].
    pub fn receive(&mut self, now: Instant, a: Attempt, frame: Received) -> Option<D::Inbound> {
        let Some(tape) = &self.tape else { return self.client.receive(now, a, frame) };
        let what = match &frame {
            Received::Pong(payload) => What::Pong(a, Ping::parse(payload)),
            Received::Data(body) => What::Data(a, Payload::of(body, tape.payloads)),
        };
        self.record(now, |client| client.receive(now, a, frame), |_| what)
    }

    /// [`Client::push`].
    ///
    /// # Errors
    /// The message is handed back, nothing has changed and no number was used.
    pub fn push(
        &mut self,
        now: Instant,
        body: Body,
        options: PushOptions,
    ) -> Result<Pushed, PushError> {
        let Some(tape) = &self.tape else { return self.client.push(now, body, options) };
        let payload = Payload::of(&body, tape.payloads);
        let (level, ttl) = (options.level, options.ttl);
        let key = options
            .key
            .as_ref()
            .map(|key| SameKey { len: key.len(), of: self.client.outbox().queued_under(key) });
        self.record(
            now,
            |client| client.push(now, body, options),
            |result| What::Push(Push { body: payload, level, ttl, key, outcome: result.into() }),
        )
    }

    /// [`Client::poll`].
    pub fn poll(&mut self, wire: Wire) -> Output {
        let Some(tape) = &self.tape else { return self.client.poll(wire) };
        let payloads = tape.payloads;
        if self.polls.as_ref().is_some_and(|polls| polls.wire != wire) {
            self.write_polls();
        }
        let output = self.client.poll(wire);
        self.polls.get_or_insert_with(|| Polls::new(wire)).add(&output, payloads);
        if let Output::WaitUntil(_) = output {
            self.write_polls();
        }
        output
    }

    /// Writes the last line. The client may go on; nothing more is recorded.
    pub fn finish(&mut self) {
        self.write_polls();
        self.write(What::End(Box::new(self.client.stats())));
        self.stop();
    }

    /// [`Client::into_snapshot`]; writes the last line before.
    pub fn into_snapshot(mut self) -> Snapshot {
        self.finish();
        self.client.into_snapshot()
    }

    /// [`Client::dialect`].
    pub fn dialect(&self) -> &D {
        &self.client.dialect().dialect
    }

    /// Writes the polls before, does it, and writes what that was.
    fn record<T>(
        &mut self,
        now: Instant,
        input: impl FnOnce(&mut Client<Listener<D>, Dice<R>>) -> T,
        what: impl FnOnce(&T) -> What,
    ) -> T {
        self.write_polls();
        self.at = now;
        let result = input(&mut self.client);
        self.write(what(&result));
        result
    }

    fn write_polls(&mut self) {
        if let Some(polls) = self.polls.take() {
            self.write(What::Drain(polls.finish()));
        }
    }

    /// Writes a line, with what was answered since the last one.
    fn write(&mut self, what: What) {
        let Some(tape) = &mut self.tape else { return };
        let (listener, dice) = self.client.seams();
        let dialect = mem::take(&mut listener.heard);
        let draws = mem::take(&mut dice.seen);
        if (tape.write)(Line { at: self.at, what, dialect, draws }).is_break() {
            self.stop();
        }
    }

    fn stop(&mut self) {
        self.tape = None;
        self.polls = None;
        let (listener, dice) = self.client.seams();
        (listener.listens, dice.looks) = (false, false);
    }
}

impl<D: Dialect, R, W> Deref for Recorder<D, R, W> {
    type Target = Client<Listener<D>, Dice<R>>;

    fn deref(&self) -> &Self::Target {
        &self.client
    }
}

impl Begin {
    fn new<D: Dialect>(config: &ClientConfig, payloads: bool) -> Self {
        let ours = ConnectionConfig::default().verdict;
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            acks: D::ACKS,
            payloads,
            own_verdicts: !core::ptr::fn_addr_eq(config.connection.verdict, ours),
            config: config.clone(),
            restored: None,
            messages: Vec::new(),
        }
    }

    fn restoring(self, snapshot: &Snapshot) -> Self {
        let messages = snapshot.messages.iter().map(|saved| Saved {
            message: SavedMessage { body: None, key: None, ..saved.clone() },
            body: saved.body.as_ref().map(|body| Payload::of(body, self.payloads)),
            key: saved.key.as_ref().map(Key::len),
        });
        Self {
            messages: messages.collect(),
            restored: Some(Snapshot { messages: Vec::new(), ..snapshot.clone() }),
            ..self
        }
    }
}

/// A dialect and an ear for what it answers.
pub struct Listener<D> {
    dialect: D,
    listens: bool,
    payloads: bool,
    heard: Vec<FromDialect>,
}

impl<D> Listener<D> {
    fn new<W>(dialect: D, tape: &Option<Tape<W>>) -> Self {
        let payloads = tape.as_ref().is_some_and(|tape| tape.payloads);
        Self { dialect, listens: tape.is_some(), payloads, heard: Vec::new() }
    }
}

impl<D: Dialect> Dialect for Listener<D> {
    type Message = D::Message;
    type Inbound = D::Inbound;
    type Credentials = D::Credentials;
    type Error = D::Error;

    const ACKS: bool = D::ACKS;

    fn encode(message: D::Message) -> Result<Body, (D::Message, D::Error)> {
        D::encode(message)
    }

    fn greet(&mut self, opened: &Opened<D::Credentials>) -> Greeting {
        let greeting = self.dialect.greet(opened);
        if self.listens {
            let frames = greeting.frames.iter().map(|body| Payload::of(body, self.payloads));
            self.heard.push(FromDialect::Greeting {
                frames: frames.collect(),
                awaits_answer: greeting.awaits_answer,
            });
        }
        greeting
    }

    fn frame(&mut self, batch: Batch<'_>) -> (Body, usize) {
        let (body, taken) = self.dialect.frame(batch);
        if self.listens {
            self.heard.push(FromDialect::Frame(Payload::of(&body, self.payloads), taken));
        }
        (body, taken)
    }

    fn decode(&mut self, body: Body, sink: &mut Sink<D::Inbound>) {
        self.dialect.decode(body, sink);
        if self.listens {
            self.heard.push(FromDialect::Decoded {
                signals: sink.signals.clone(),
                inbound: sink.inbound.is_some(),
                reply: sink.reply.as_ref().map(|body| Payload::of(body, self.payloads)),
            });
        }
    }

    fn beat(&mut self) -> Option<Beat> {
        let beat = self.dialect.beat();
        if self.listens {
            let told =
                beat.as_ref().map(|beat| (beat.interval, Payload::of(&beat.body, self.payloads)));
            self.heard.push(FromDialect::Beat(told));
        }
        beat
    }
}

/// A generator and an eye on what it gives.
pub struct Dice<R> {
    rng: R,
    looks: bool,
    seen: Vec<u64>,
}

impl<R> Dice<R> {
    fn new<W>(rng: R, tape: &Option<Tape<W>>) -> Self {
        Self { rng, looks: tape.is_some(), seen: Vec::new() }
    }
}

impl<R: Rng> TryRng for Dice<R> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        // The machines draw numbers of 64 bits, and nothing else.
        self.try_next_u64().map(|drawn| drawn as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let drawn = self.rng.next_u64();
        if self.looks {
            self.seen.push(drawn);
        }
        Ok(drawn)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        fill_bytes_via_next_word(bytes, || self.try_next_u64())
    }
}

// ---- Replaying ----------------------------------------------------------------------------------

/// What [`replay`] shows while it goes on.
#[derive(Clone, Copy, Debug)]
pub enum Scene<'a> {
    /// This line is played now.
    Line(&'a Line),
    /// The client did this.
    Output(&'a Output),
}

/// A trace was played to its end, and all came out as it was recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replayed {
    /// Lines played.
    pub lines: u64,
    /// The counters of the client in the end.
    pub stats: Stats,
}

/// Where a replay ended, and why.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}, at {} µs: {problem}", at.as_micros())]
pub struct ReplayError<E> {
    /// The number of the line; the first is 1. Where there is none left, the one that is missing.
    pub line: u64,
    /// Its time; of a line that cannot be read, that of the line before.
    pub at: Instant,
    /// Why.
    pub problem: Problem<E>,
}

/// Why a replay ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem<E> {
    /// It is not a line of a trace.
    #[error("it is not a line of a trace: {0}")]
    Unreadable(E),
    /// The first line, and only that, has to say how the client was made.
    #[error("the first line of a trace, and only that, says how the client was made")]
    Begin,
    /// It is of another version.
    #[error("the trace has format {0}, this is for format {FORMAT}")]
    Format(u32),
    /// Its settings are none.
    #[error("the settings are out of their ranges: {0}")]
    Config(ConfigError),
    /// Its snapshot is none.
    #[error("the snapshot cannot be restored: {0}")]
    Restore(RestoreRefused),
    /// A body or a key is longer than what is made up: [`MAX_BODY_BYTES`], [`MAX_KEY_BYTES`].
    #[error("it has a body or a key of {0} B, which is longer than what is made up for a replay")]
    TooLong(usize),
    /// It has more keys of this length than there are.
    #[error("there are not so many keys of {0} B")]
    Keys(usize),
    /// The client did something else than what was recorded.
    #[error("recorded was: {recorded}; now it is: {came}")]
    Differs {
        /// What was recorded.
        recorded: String,
        /// What came.
        came: String,
    },
    /// The trace stops before its client did. What there is of it was the same.
    #[error("the trace stops before the client did{}", because(.0))]
    CutShort(Option<String>),
}

fn because(reason: &Option<String>) -> String {
    reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default()
}

/// Plays a trace to a client and compares what comes out. Lines after the last one are not looked
/// at.
///
/// `verdict` is the table that the client had, [`loss::verdict`](crate::loss::verdict) for most; if
/// it is another one, [`Begin::own_verdicts`] says so, and the replay may differ.
///
/// # Errors
/// At the first line that is none or that differs. A hostile trace makes an error, or a client that
/// does what it says; never a panic.
pub fn replay<E>(
    lines: impl IntoIterator<Item = Result<Line, E>>,
    verdict: VerdictFn,
    mut see: impl FnMut(Scene<'_>),
) -> Result<Replayed, ReplayError<E>> {
    let mut lines = lines.into_iter();
    let at = Instant::ZERO;
    let error = |at, problem| ReplayError { line: 1, at, problem };
    let first = match lines.next() {
        None => return Err(error(at, Problem::CutShort(None))),
        Some(Err(unreadable)) => return Err(error(at, Problem::Unreadable(unreadable))),
        Some(Ok(first)) => first,
    };
    see(Scene::Line(&first));
    let Line { at, what: What::Begin(mut begin), dialect, draws } = first else {
        return Err(error(first.at, Problem::Begin));
    };
    begin.config.connection.verdict = verdict;
    if begin.acks {
        let stage = Stage::<true>::new(*begin, at, dialect, draws);
        stage.map_err(|problem| error(at, problem))?.play_all(at, lines, see)
    } else {
        let stage = Stage::<false>::new(*begin, at, dialect, draws);
        stage.map_err(|problem| error(at, problem))?.play_all(at, lines, see)
    }
}

/// Where a trace is played. Whether a dialect has acks is part of its type.
struct Stage<const ACKS: bool> {
    client: Client<Prompter<ACKS>, LoadedDice>,
    /// Bodies are in the trace.
    payloads: bool,
    filler: Filler,
    keys: Keys,
}

impl<const ACKS: bool> Stage<ACKS> {
    fn new<E>(
        begin: Begin,
        at: Instant,
        dialect: Vec<FromDialect>,
        draws: Vec<u64>,
    ) -> Result<Self, Problem<E>> {
        let Begin { format, payloads, config, restored, messages, .. } = begin;
        if format != FORMAT {
            return Err(Problem::Format(format));
        }
        let (mut filler, mut keys) = (Filler::default(), Keys::default());
        let prompter = Prompter { answers: dialect.into(), ..Prompter::default() };
        let dice = LoadedDice { draws: draws.into(), ..LoadedDice::default() };
        let client = match restored {
            None => Client::new(config, prompter, dice).map_err(Problem::Config)?,
            Some(mut snapshot) => {
                let mut used = BTreeSet::new();
                for Saved { message, body, key } in messages {
                    let body = body.map(|body| filler.body(body)).transpose()?;
                    // Only what is still to be transmitted has its key to itself.
                    let fresh = message.outcome.is_none() && message.id.seq > snapshot.sent_to;
                    let key = key.map(|len| keys.fresh(len, |key| used.contains(key)));
                    let key = key.transpose()?;
                    used.extend(key.clone().filter(|_| fresh));
                    snapshot.messages.push(SavedMessage { body, key, ..message });
                }
                Client::restore(config, prompter, dice, at, snapshot)
                    .map_err(|error| Problem::Restore(error.reason))?
            }
        };
        let mut stage = Self { client, payloads, filler, keys };
        stage.compare_answers()?;
        Ok(stage)
    }

    fn play_all<E>(
        mut self,
        mut at: Instant,
        lines: impl Iterator<Item = Result<Line, E>>,
        mut see: impl FnMut(Scene<'_>),
    ) -> Result<Replayed, ReplayError<E>> {
        let mut number = 1;
        for line in lines {
            number += 1;
            let error = |at, problem| ReplayError { line: number, at, problem };
            let line = line.map_err(|unread| error(at, Problem::Unreadable(unread)))?;
            at = line.at;
            see(Scene::Line(&line));
            let ends = matches!(line.what, What::End(_));
            self.play(line, &mut see).map_err(|problem| error(at, problem))?;
            if ends {
                return Ok(Replayed { lines: number, stats: self.client.stats() });
            }
        }
        Err(ReplayError { line: number + 1, at, problem: Problem::CutShort(None) })
    }

    fn play<E>(&mut self, line: Line, see: &mut impl FnMut(Scene<'_>)) -> Result<(), Problem<E>> {
        let Line { at, what, dialect, draws } = line;
        for payload in dialect.iter().flat_map(FromDialect::payloads) {
            check_body(payload)?;
        }
        let (prompter, dice) = self.client.seams();
        prompter.answers = dialect.into();
        dice.draws = draws.into();
        let client = &mut self.client;
        match what {
            What::Begin(_) => return Err(Problem::Begin),
            What::Start => client.handle(at, Event::Start),
            What::Opened(a) => client.handle(at, Event::Opened(Opened::new(a, ()))),
            What::Heard(a) => client.handle(at, Event::Heard(a)),
            What::Took(a) => client.handle(at, Event::Took(a)),
            What::Flushed(a) => client.handle(at, Event::Flushed(a)),
            What::Paused(a) => client.handle(at, Event::Paused(a)),
            What::Resumed(a) => client.handle(at, Event::Resumed(a)),
            What::Lost(a, loss) => client.handle(at, Event::Lost(a, loss)),
            What::Nudge => client.handle(at, Event::Nudge),
            What::Cancel(seq) => client.handle(at, Event::Cancel(seq)),
            What::Close(deadline) => client.handle(at, Event::Close { deadline }),
            What::Stop => client.handle(at, Event::Stop),
            What::Tick => client.handle(at, Event::Tick),
            What::Pong(a, ping) => {
                let payload = ping.map(|ping| Bytes::copy_from_slice(&ping.payload()));
                let _ = client.receive(at, a, Received::Pong(payload.unwrap_or_default()));
            }
            What::Data(a, payload) => {
                let body = self.filler.body(payload)?;
                let _ = client.receive(at, a, Received::Data(body));
            }
            What::Push(push) => self.push(at, push)?,
            What::Drain(drain) => self.drain(drain, see)?,
            What::Cut(reason) => return Err(Problem::CutShort(Some(reason))),
            What::End(stats) => same(&*stats, &client.stats())?,
        }
        self.compare_answers()
    }

    fn push<E>(&mut self, at: Instant, push: Push) -> Result<(), Problem<E>> {
        let Push { body, level, ttl, key, outcome } = push;
        let body = self.filler.body(body)?;
        let outbox = self.client.outbox();
        let key = match key {
            None => None,
            Some(SameKey { len, of: Some(seq) }) => match outbox.queued_key(seq) {
                Some(key) => Some(key),
                None => {
                    return Err(Problem::Differs {
                        recorded: format!("message {seq} waits, with a key of {len} B"),
                        came: "it does not".to_owned(),
                    });
                }
            },
            Some(SameKey { len, of: None }) => {
                Some(self.keys.fresh(len, |key| outbox.queued_under(key).is_some())?)
            }
        };
        let result = self.client.push(at, body, PushOptions { level, ttl, key });
        same(&outcome, &Outcome::from(&result))
    }

    fn drain<E>(
        &mut self,
        recorded: Drain,
        see: &mut impl FnMut(Scene<'_>),
    ) -> Result<(), Problem<E>> {
        let mut polls = Polls::new(recorded.wire);
        while polls.count < recorded.polls {
            let output = self.client.poll(recorded.wire);
            see(Scene::Output(&output));
            polls.add(&output, self.payloads);
            // The last thing that a drain yields; and who is not prompted goes on for ever.
            if matches!(output, Output::WaitUntil(_)) || self.client.seams().0.asked_too_much {
                break;
            }
        }
        let came = polls.finish();
        if came == recorded {
            return Ok(());
        }
        let told = |drain: Drain| match drain.out.as_str() {
            "" => "nothing".to_owned(),
            out => format!("{out} (digest {})", drain.digest),
        };
        Err(Problem::Differs { recorded: told(recorded), came: told(came) })
    }

    /// Everything that was answered then has been asked for now, and nothing else.
    fn compare_answers<E>(&mut self) -> Result<(), Problem<E>> {
        let (prompter, dice) = self.client.seams();
        let differs = |recorded: &str, came: &str| {
            Err(Problem::Differs { recorded: recorded.to_owned(), came: came.to_owned() })
        };
        if prompter.asked_too_much {
            return differs("no such answer of the dialect", "the dialect is asked for one");
        }
        if let Some(answer) = prompter.answers.front() {
            return differs(&format!("{answer:?}"), "the dialect is not asked");
        }
        if dice.drawn_too_much {
            return differs("no further draw", "a number is drawn");
        }
        if let Some(draw) = dice.draws.front() {
            return differs(&format!("{draw} was drawn"), "it is not");
        }
        Ok(())
    }
}

fn same<T: PartialEq + Debug, E>(recorded: &T, came: &T) -> Result<(), Problem<E>> {
    if recorded == came {
        return Ok(());
    }
    Err(Problem::Differs { recorded: format!("{recorded:?}"), came: format!("{came:?}") })
}

/// A dialect that answers what was answered before.
#[derive(Default)]
struct Prompter<const ACKS: bool> {
    answers: VecDeque<FromDialect>,
    /// It was asked for something that it was not asked for before.
    asked_too_much: bool,
    filler: Filler,
}

impl<const ACKS: bool> Prompter<ACKS> {
    /// The next answer, if it is one to this question.
    fn prompt<T>(&mut self, right: impl FnOnce(FromDialect) -> Option<T>) -> Option<T> {
        let answer = self.answers.pop_front().and_then(right);
        self.asked_too_much |= answer.is_none();
        answer
    }

    /// Its length was checked when the line was read.
    fn body(&mut self, payload: Payload) -> Body {
        self.filler.body::<Infallible>(payload).unwrap_or_else(|_| Body::binary(Bytes::new()))
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "there is one right answer to each question")]
impl<const ACKS: bool> Dialect for Prompter<ACKS> {
    type Message = Body;
    type Inbound = ();
    type Credentials = ();
    type Error = Infallible;

    const ACKS: bool = ACKS;

    fn encode(message: Body) -> Result<Body, (Body, Infallible)> {
        Ok(message)
    }

    fn greet(&mut self, _: &Opened<()>) -> Greeting {
        let answer = self.prompt(|answer| match answer {
            FromDialect::Greeting { frames, awaits_answer } => Some((frames, awaits_answer)),
            _ => None,
        });
        let (frames, awaits_answer) = answer.unwrap_or_default();
        let frames = frames.into_iter().map(|frame| self.body(frame)).collect();
        Greeting { frames, awaits_answer }
    }

    fn frame(&mut self, _: Batch<'_>) -> (Body, usize) {
        let answer = self.prompt(|answer| match answer {
            FromDialect::Frame(body, taken) => Some((body, taken)),
            _ => None,
        });
        let (body, taken) = answer.unwrap_or((Payload::Binary(0), 1));
        (self.body(body), taken)
    }

    fn decode(&mut self, _: Body, sink: &mut Sink<()>) {
        let answer = self.prompt(|answer| match answer {
            FromDialect::Decoded { signals, inbound, reply } => Some((signals, inbound, reply)),
            _ => None,
        });
        let (signals, inbound, reply) = answer.unwrap_or_default();
        sink.signals = signals;
        sink.inbound = inbound.then_some(());
        sink.reply = reply.map(|reply| self.body(reply));
    }

    fn beat(&mut self) -> Option<Beat> {
        let answer = self.prompt(|answer| match answer {
            FromDialect::Beat(beat) => Some(beat),
            _ => None,
        });
        let (interval, body) = answer.flatten()?;
        Some(Beat { interval, body: self.body(body) })
    }
}

/// A generator that gives what was drawn before.
#[derive(Default)]
struct LoadedDice {
    draws: VecDeque<u64>,
    /// It was asked for more than before.
    drawn_too_much: bool,
}

impl TryRng for LoadedDice {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|drawn| drawn as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let draw = self.draws.pop_front();
        self.drawn_too_much |= draw.is_none();
        Ok(draw.unwrap_or_default())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        fill_bytes_via_next_word(bytes, || self.try_next_u64())
    }
}

fn check_body<E>(payload: &Payload) -> Result<(), Problem<E>> {
    match payload {
        Payload::Text(len) | Payload::Binary(len) if *len > MAX_BODY_BYTES => {
            Err(Problem::TooLong(*len))
        }
        Payload::Text(_) | Payload::Binary(_) | Payload::TextIs(_) | Payload::BinaryIs(_) => Ok(()),
    }
}

/// Makes up bodies: all of them share one stretch of zeros.
#[derive(Default)]
struct Filler(Bytes);

impl Filler {
    fn body<E>(&mut self, payload: Payload) -> Result<Body, Problem<E>> {
        check_body(&payload)?;
        Ok(match payload {
            Payload::TextIs(text) => Body::text(text),
            Payload::BinaryIs(bytes) => Body::binary(bytes),
            Payload::Text(len) => Body::zeros(self.zeros(len), true),
            Payload::Binary(len) => Body::zeros(self.zeros(len), false),
        })
    }

    fn zeros(&mut self, len: usize) -> Bytes {
        if self.0.get(..len).is_none() {
            self.0 = vec![0; len.next_power_of_two()].into();
        }
        self.0.slice(..len)
    }
}

/// Makes up keys.
#[derive(Default)]
struct Keys {
    made: u64,
}

impl Keys {
    /// A key of this length that is not taken.
    fn fresh<E>(&mut self, len: usize, taken: impl Fn(&Key) -> bool) -> Result<Key, Problem<E>> {
        if len > MAX_KEY_BYTES {
            return Err(Problem::TooLong(len));
        }
        let count = len.min(8);
        let there_are = 256_u64.saturating_pow(count as u32);
        let mut bytes = vec![0; len];
        for _ in 0..there_are {
            self.made = self.made.wrapping_add(1);
            bytes[..count].copy_from_slice(&self.made.to_le_bytes()[..count]);
            let key = Key::from(bytes.as_slice());
            if !taken(&key) {
                return Ok(key);
            }
        }
        Err(Problem::Keys(len))
    }
}
