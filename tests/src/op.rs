//! What can happen in a simulated world, as one type with a text form.
//!
//! A property test, the simulator, the fuzzer and a saved trace all speak in [`Op`]s. One op is one
//! line, made of words that a person can read and change:
//!
//! ```text
//! push 3 level=acked ttl=40ms key=a
//! pass 1500us
//! link reset-after 17
//! peer status 503 retry-after=20s
//! client cancel 2
//! ```
//!
//! The text outlives the generator that made it: a line means tomorrow what it means today.

use core::{fmt, str::FromStr, time::Duration};

use arbitrary::{Arbitrary, Unstructured};
use bowline_core::{Level, Loss, Nack};

/// One thing that happens.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Arbitrary)]
pub enum Op {
    /// Messages are pushed.
    Push(Push),
    /// Time passes, and with it everything that is due.
    Pass(Micros),
    /// The network.
    Link(LinkOp),
    /// The other end.
    Peer(PeerOp),
    /// The user, or the process that the client lives in.
    Client(ClientOp),
    /// The clock that the client is told.
    Clock(ClockOp),
    /// An event that comes too late, or once too often.
    Stale(StaleOp),
}

/// A group of ops: an enum whose variants are a word, or a word with a value.
macro_rules! ops {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$variant_doc:meta])* $variant:ident $(($value:ty))? = $word:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Arbitrary)]
        pub enum $name {
            $($(#[$variant_doc])* $variant $(($value))?,)*
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(ops!(@pattern $variant, value $(, $value)?) => {
                        f.write_str($word)?;
                        $(write!(f, " {}", ops!(@value value, $value))?;)?
                        Ok(())
                    })*
                }
            }
        }

        impl FromStr for $name {
            type Err = OpError;

            fn from_str(text: &str) -> Result<Self, OpError> {
                let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
                match word {
                    $($word => ops!(@parse $variant, rest, text $(, $value)?),)*
                    _ => Err(OpError::Word(word.into())),
                }
            }
        }
    };
    (@pattern $variant:ident, $binding:ident) => { Self::$variant };
    (@pattern $variant:ident, $binding:ident, $value:ty) => { Self::$variant($binding) };
    (@value $binding:ident, $value:ty) => { $binding };
    (@parse $variant:ident, $rest:ident, $text:ident) => {
        if $rest.is_empty() { Ok(Self::$variant) } else { Err(OpError::Value($rest.into())) }
    };
    (@parse $variant:ident, $rest:ident, $text:ident, $value:ty) => {
        $rest.parse::<$value>().map(Self::$variant).map_err(|_| OpError::Value($text.into()))
    };
}

ops! {
    /// What the network does. All but `cut`, `eof`, `fail`, the `after`s and `frame-end` last until
    /// `heal`.
    LinkOp {
        /// The connection is reset: what is under way is lost, both ends see an I/O error.
        Cut = "cut",
        /// The peer's end goes away without a Close: what it has sent comes, then the end.
        Eof = "eof",
        /// The connection is reset when so many more bytes have reached the peer.
        ResetAfter(u64) = "reset-after",
        /// The connection is reset when so many more bytes have reached the client.
        ResetBackAfter(u64) = "reset-back-after",
        /// After so many more bytes, nothing that the client sends arrives, and nobody is told.
        HoleAfter(u64) = "hole-after",
        /// After so many more bytes, nothing that the peer sends arrives.
        HoleBackAfter(u64) = "hole-back-after",
        /// The peer's end goes away without a Close when so many more bytes have reached it.
        EofAfter(u64) = "eof-after",
        /// The stream ends without a Close when so many more bytes have reached the client.
        EofBackAfter(u64) = "eof-back-after",
        /// One of these, at the end of the next frame.
        FrameEnd(FrameEndOp) = "frame-end",
        /// No byte leaves the client's socket, so its buffer fills.
        Stall = "stall",
        /// No byte leaves the peer's socket.
        StallBack = "stall-back",
        /// What the client sends is taken and lost: silence in one direction.
        Mute = "mute",
        /// What the peer sends is lost: silence in the other direction.
        Deaf = "deaf",
        /// How long a byte travels, in each direction.
        Delay(Micros) = "delay",
        /// Bytes a second, in each direction; 0 is no limit.
        Bandwidth(u64) = "bandwidth",
        /// Bytes that arrive together at most; 0 is no limit.
        Chunk(u64) = "chunk",
        /// Bytes that the client's socket holds.
        Buffer(u64) = "buffer",
        /// Dials are refused.
        Refuse = "refuse",
        /// The connection that is open ends in this way, or else the next dial.
        Fail(FailOp) = "fail",
        /// Dials are not answered.
        Hang = "hang",
        /// How long a dial takes.
        DialTakes(Micros) = "dial-takes",
        /// What a client sent before it aborted still arrives, until the peer sees its next dial.
        Linger = "linger",
        /// The network works: no stall, no silence, no limit.
        Heal = "heal",
    }
}

ops! {
    /// What happens so many bytes behind the end of the next frame, or before it if that is negative.
    FrameEndOp {
        /// The connection is reset, in the frame to the peer.
        Reset(i8) = "reset",
        /// The connection is reset, in the frame to the client.
        ResetBack(i8) = "reset-back",
        /// Nothing that comes behind arrives at the peer.
        Hole(i8) = "hole",
        /// Nothing that comes behind arrives at the client.
        HoleBack(i8) = "hole-back",
        /// The peer's end goes away without a Close.
        Eof(i8) = "eof",
        /// The stream to the client ends without a Close.
        EofBack(i8) = "eof-back",
    }
}

ops! {
    /// How a dial fails, or a connection, other than by what the peer says.
    FailOp {
        /// The name is not resolved.
        Dns = "dns",
        /// The connection breaks.
        Io = "io",
        /// The stream ends.
        Eof = "eof",
        /// There is no secure channel.
        Tls = "tls",
        /// The certificate is refused.
        Certificate = "certificate",
        /// The URL cannot be dialed.
        BadUrl = "bad-url",
        /// No subprotocol is agreed on.
        Subprotocol = "subprotocol",
        /// The answer to the upgrade is not valid.
        BadUpgrade = "bad-upgrade",
        /// The peer breaks the WebSocket protocol.
        Protocol = "protocol",
        /// It sends more than may be.
        TooLarge = "too-large",
        /// The request provider fails.
        Provider = "provider",
    }
}

impl From<FailOp> for Loss {
    fn from(op: FailOp) -> Self {
        match op {
            FailOp::Dns => Self::Dns,
            FailOp::Io => Self::Io,
            FailOp::Eof => Self::Eof,
            FailOp::Tls => Self::Tls,
            FailOp::Certificate => Self::Certificate,
            FailOp::BadUrl => Self::BadUrl,
            FailOp::Subprotocol => Self::Subprotocol,
            FailOp::BadUpgrade => Self::BadUpgrade,
            FailOp::Protocol => Self::Protocol,
            FailOp::TooLarge => Self::TooLarge,
            FailOp::Provider => Self::Provider,
        }
    }
}

ops! {
    /// What the peer does. All but what says "now" or "next" lasts until `behave`.
    PeerOp {
        /// It accepts and drops the connection at once.
        AcceptThenDrop = "accept-then-drop",
        /// It upgrades, and is never heard again.
        SilentAfterUpgrade = "silent-after-upgrade",
        /// It does not answer the upgrade with 101.
        Status(HttpStatus) = "status",
        /// It closes with this code now.
        Close(u16) = "close",
        /// It does not answer a Close.
        IgnoreClose = "ignore-close",
        /// It never answers a ping.
        NoPongs = "no-pongs",
        /// Its application does not look at what its library has read.
        Hold = "hold",
        /// Its application takes messages in and does not decide on them, until `go`.
        Slow = "slow",
        /// Its application goes on.
        Go = "go",
        /// It refuses a message.
        Nack(NackOp) = "nack",
        /// What becomes of its acks.
        Ack(AckOp) = "ack",
        /// It loses all that it remembers of its clients now.
        Forget = "forget",
        /// Its process dies now, and is there again.
        Crash = "crash",
        /// The message with this number kills its process each time that it arrives.
        Poison(u64) = "poison",
        /// It closes with 1009 when the message with this number arrives.
        Accuse(u64) = "accuse",
        /// It sends a message of its own now.
        Say = "say",
        /// It sends what makes no sense in its protocol now.
        Garble = "garble",
        /// It sends a pong that nobody asked for now.
        Pong = "pong",
        /// It does what it should.
        Behave = "behave",
        /// It answers a greeting now, whether there was one or not.
        Greet = "greet",
        /// It refuses the client now, in the words of its protocol.
        Refuse(RefuseOp) = "refuse",
        /// It refuses a message now that it has not been asked about, which is a lie.
        Deny(DenyOp) = "deny",
        /// It sends the pong to a first ping now that it has not seen.
        PongAhead = "pong-ahead",
    }
}

ops! {
    /// What the client is to do that the peer refuses.
    RefuseOp {
        /// Dial again.
        Retry = "retry",
        /// Dial again, but not before this time is over.
        RetryAfter(Micros) = "retry-after",
        /// Dial again with fresh credentials.
        Renew = "renew",
        /// Give up.
        Fatal = "fatal",
    }
}

ops! {
    /// How the peer refuses a message that it has not been asked about.
    DenyOp {
        /// For the moment.
        Transient = "transient",
        /// For good.
        Permanent = "permanent",
    }
}

ops! {
    /// What becomes of the peer's acks.
    AckOp {
        /// They are withheld from now on, until `now`.
        Late = "late",
        /// Those that were withheld are sent.
        Now = "now",
        /// The newest is sent again now.
        Twice = "twice",
        /// A message is acknowledged now that was never sent.
        TooHigh = "too-high",
        /// All there can be are acknowledged now.
        Max = "max",
        /// The next ack is not sent.
        Skipped = "skipped",
    }
}

ops! {
    /// What the user does, or what befalls the process of the client.
    ClientOp {
        /// Connect.
        Start = "start",
        /// Disconnect and stay so.
        Stop = "stop",
        /// The network may have come back.
        Nudge = "nudge",
        /// The message in this place is no longer wanted.
        Cancel(u64) = "cancel",
        /// Drain, for this long at most.
        Close(Micros) = "close",
        /// A snapshot is stored.
        Snapshot = "snapshot",
        /// The process dies, and starts again from the newest snapshot.
        Crash = "crash",
        /// The client ends in good order, and a new one goes on from its last snapshot.
        Retire = "retire",
        /// The driver does not read.
        Pause = "pause",
        /// The driver reads again.
        Resume = "resume",
        /// The driver does not run until the next `pass` is over.
        Busy = "busy",
        /// The next drain that comes to so many outputs is interrupted behind them: that is the end of
        /// the op, and the driver goes on when the next one has happened.
        HalfDrain(u64) = "half-drain",
        /// A tick that nothing asked for.
        Tick = "tick",
    }
}

ops! {
    /// What the clock does that the client is told.
    ClockOp {
        /// It stands still.
        Freeze = "freeze",
        /// It goes on from where it stood.
        Run = "run",
        /// It goes back.
        Back(Micros) = "back",
        /// It jumps ahead, and nothing happens meanwhile.
        Jump(Micros) = "jump",
    }
}

ops! {
    /// An event of an attempt that is over, or one that comes once too often.
    StaleOp {
        /// An upgrade succeeds that nobody waits for any more.
        Opened(Which) = "opened",
        /// The attempt that is open is opened again.
        OpenedTwice = "opened-twice",
        /// Bytes come.
        Heard(Which) = "heard",
        /// Bytes are taken.
        Took(Which) = "took",
        /// Everything is flushed.
        Flushed(Which) = "flushed",
        /// Reading stops.
        Paused(Which) = "paused",
        /// Reading goes on.
        Resumed(Which) = "resumed",
        /// The connection is lost.
        Lost(Which) = "lost",
        /// A pong comes on an old attempt, to the newest ping of the new one.
        Pong(Which) = "pong",
        /// The pong to the last ping of an old attempt comes on the new one.
        Echo = "echo",
        /// The newest ack comes again, on an old attempt.
        Ack(Which) = "ack",
    }
}

ops! {
    /// The attempt that an event is too late for.
    Which {
        /// The one before the newest.
        Before = "before",
        /// The newest, where it is over or the event comes too early for it; else the one before.
        Newest = "newest",
    }
}

/// Messages that are pushed, all alike.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Push {
    /// How many.
    pub count: u8,
    /// Bytes of each; what the number of the message needs if that is more.
    pub bytes: u16,
    /// The delivery level; the outbox's own if none.
    pub level: Option<Level>,
    /// The time to live.
    pub ttl: Option<Micros>,
    /// The coalescing key, a letter.
    pub key: Option<char>,
}

impl<'a> Arbitrary<'a> for Push {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(Self {
            count: u.int_in_range(1..=9)?,
            bytes: u.int_in_range(0..=99)?,
            level: *u.choose(&[
                None,
                Some(Level::Written),
                Some(Level::Received),
                Some(Level::Acked),
            ])?,
            ttl: u.arbitrary()?,
            key: *u.choose(&[None, Some('a'), Some('b'), Some('c')])?,
        })
    }
}

/// An HTTP status with its Retry-After.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Arbitrary)]
pub struct HttpStatus {
    /// The status.
    pub status: u16,
    /// The Retry-After.
    pub retry_after: Option<Micros>,
}

/// A refusal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NackOp {
    /// Which message: the one that its application comes to after so many others.
    pub after: u64,
    /// How.
    pub nack: Nack,
}

impl<'a> Arbitrary<'a> for NackOp {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let nack = if u.arbitrary()? { Nack::Transient } else { Nack::Permanent };
        Ok(Self { after: u.int_in_range(0..=7)?, nack })
    }
}

/// A duration of whole microseconds. Its text is a number with a unit: `us`, `ms`, `s`, `y` (of
/// 365 days).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Arbitrary)]
pub struct Micros(pub u64);

impl Micros {
    const UNITS: [(&'static str, u64); 4] =
        [("y", 365 * 86_400 * 1_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

    /// So many seconds.
    pub const fn secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000))
    }

    /// So many years of 365 days.
    pub const fn years(years: u64) -> Self {
        Self(years.saturating_mul(365 * 86_400 * 1_000_000))
    }

    /// So many milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000))
    }
}

impl From<Micros> for Duration {
    fn from(micros: Micros) -> Self {
        Self::from_micros(micros.0)
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, size) = Self::UNITS
            .into_iter()
            .find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size))
            .unwrap_or(("us", 1));
        write!(f, "{}{unit}", self.0 / size)
    }
}

impl FromStr for Micros {
    type Err = OpError;

    fn from_str(text: &str) -> Result<Self, OpError> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = &text[digits.len()..];
        let size = Self::UNITS.into_iter().find(|(name, _)| *name == unit).map(|(_, size)| size);
        digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(size?))
            .map(Self)
            .ok_or_else(|| OpError::Value(text.into()))
    }
}

const LEVELS: [(&str, Level); 3] =
    [("written", Level::Written), ("received", Level::Received), ("acked", Level::Acked)];
const NACKS: [(&str, Nack); 2] = [("transient", Nack::Transient), ("permanent", Nack::Permanent)];

/// The word for a value.
pub(crate) fn word<T: PartialEq>(table: &[(&'static str, T)], value: &T) -> &'static str {
    table.iter().find(|(_, other)| other == value).map_or("?", |(word, _)| word)
}

/// The value for a word.
pub(crate) fn value<T: Copy>(table: &[(&str, T)], word: &str) -> Result<T, OpError> {
    let found = table.iter().find(|(other, _)| *other == word);
    found.map(|(_, value)| *value).ok_or_else(|| OpError::Value(word.into()))
}

fn number<T: FromStr>(text: &str) -> Result<T, OpError> {
    text.parse().map_err(|_| OpError::Value(text.into()))
}

impl fmt::Display for Push {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.count)?;
        if self.bytes != 0 {
            write!(f, " bytes={}", self.bytes)?;
        }
        if let Some(level) = self.level {
            write!(f, " level={}", word(&LEVELS, &level))?;
        }
        if let Some(ttl) = self.ttl {
            write!(f, " ttl={ttl}")?;
        }
        self.key.map_or(Ok(()), |key| write!(f, " key={key}"))
    }
}

impl FromStr for Push {
    type Err = OpError;

    fn from_str(text: &str) -> Result<Self, OpError> {
        let mut words = text.split(' ');
        let count = number(words.next().unwrap_or_default())?;
        let mut push = Self { count, bytes: 0, level: None, ttl: None, key: None };
        for option in words {
            let (name, given) = option.split_once('=').unwrap_or((option, ""));
            match name {
                "bytes" => push.bytes = number(given)?,
                "level" => push.level = Some(value(&LEVELS, given)?),
                "ttl" => push.ttl = Some(given.parse()?),
                "key" => push.key = Some(number(given)?),
                _ => return Err(OpError::Word(name.into())),
            }
        }
        Ok(push)
    }
}

impl fmt::Display for HttpStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        self.retry_after.map_or(Ok(()), |delay| write!(f, " retry-after={delay}"))
    }
}

impl FromStr for HttpStatus {
    type Err = OpError;

    fn from_str(text: &str) -> Result<Self, OpError> {
        let (status, retry_after) = match text.split_once(" retry-after=") {
            Some((status, delay)) => (status, Some(delay.parse()?)),
            None => (text, None),
        };
        Ok(Self { status: number(status)?, retry_after })
    }
}

impl fmt::Display for NackOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.after, word(&NACKS, &self.nack))
    }
}

impl FromStr for NackOp {
    type Err = OpError;

    fn from_str(text: &str) -> Result<Self, OpError> {
        let (after, nack) = text.split_once(' ').unwrap_or((text, ""));
        Ok(Self { after: number(after)?, nack: value(&NACKS, nack)? })
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Push(push) => write!(f, "push {push}"),
            Self::Pass(micros) => write!(f, "pass {micros}"),
            Self::Link(op) => write!(f, "link {op}"),
            Self::Peer(op) => write!(f, "peer {op}"),
            Self::Client(op) => write!(f, "client {op}"),
            Self::Clock(op) => write!(f, "clock {op}"),
            Self::Stale(op) => write!(f, "stale {op}"),
        }
    }
}

impl FromStr for Op {
    type Err = OpError;

    fn from_str(line: &str) -> Result<Self, OpError> {
        let (group, rest) = line.split_once(' ').unwrap_or((line, ""));
        match group {
            "push" => rest.parse().map(Self::Push),
            "pass" => rest.parse().map(Self::Pass),
            "link" => rest.parse().map(Self::Link),
            "peer" => rest.parse().map(Self::Peer),
            "client" => rest.parse().map(Self::Client),
            "clock" => rest.parse().map(Self::Clock),
            "stale" => rest.parse().map(Self::Stale),
            _ => Err(OpError::Word(group.into())),
        }
    }
}

/// A line is not an op.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpError {
    /// This word means nothing here.
    #[error("\"{0}\" means nothing here")]
    Word(String),
    /// This is not a value that can stand here.
    #[error("\"{0}\" has a value that cannot be read")]
    Value(String),
}

/// A text is not a list of ops.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {error}")]
pub struct TextError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub error: OpError,
}

impl Op {
    /// The number in it, which may be made smaller without making it another op.
    pub(crate) fn number(&mut self) -> Option<&mut u64> {
        match self {
            Self::Pass(Micros(number))
            | Self::Link(
                LinkOp::ResetAfter(number)
                | LinkOp::ResetBackAfter(number)
                | LinkOp::HoleAfter(number)
                | LinkOp::HoleBackAfter(number)
                | LinkOp::EofAfter(number)
                | LinkOp::EofBackAfter(number)
                | LinkOp::Delay(Micros(number))
                | LinkOp::Bandwidth(number)
                | LinkOp::Chunk(number)
                | LinkOp::Buffer(number)
                | LinkOp::DialTakes(Micros(number)),
            )
            | Self::Peer(
                PeerOp::Status(HttpStatus { retry_after: Some(Micros(number)), .. })
                | PeerOp::Nack(NackOp { after: number, .. })
                | PeerOp::Poison(number)
                | PeerOp::Accuse(number)
                | PeerOp::Refuse(RefuseOp::RetryAfter(Micros(number))),
            )
            | Self::Client(
                ClientOp::Cancel(number)
                | ClientOp::HalfDrain(number)
                | ClientOp::Close(Micros(number)),
            )
            | Self::Clock(ClockOp::Back(Micros(number)) | ClockOp::Jump(Micros(number))) => {
                Some(number)
            }
            Self::Push(Push { ttl: Some(Micros(number)), .. }) => Some(number),
            Self::Push(_)
            | Self::Link(_)
            | Self::Peer(_)
            | Self::Client(_)
            | Self::Clock(_)
            | Self::Stale(_) => None,
        }
    }
}

/// The lines of a text that mean something, counted from 1: without comments and blanks.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    (1..).zip(lines).filter(|(_, line)| !line.is_empty())
}
