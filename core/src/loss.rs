//! Why a connection ended, and what follows from it.
//!
//! The driver says what happened as a [`Loss`]; [`verdict`] turns it into a [`Verdict`]: try again,
//! try again not before the server's own time, ask for fresh credentials, or give up. The table is
//! a plain function: replace it with one of your own through
//! [`ConnectionConfig::verdict`](crate::ConnectionConfig::verdict).
//!
//! | verdict | on |
//! |---|---|
//! | [`Retry`](Verdict::Retry) | I/O, DNS, EOF or reset without a Close, every time limit, a malformed upgrade, 408, 425, 429 and 503 without Retry-After, every other 5xx, every close code that is not named below |
//! | [`RetryAfter`](Verdict::RetryAfter) | 429 and 503 with Retry-After; close 1012 (5 to 30 s) and 1013 (at least half the backoff's cap) |
//! | [`Renew`](Verdict::Renew) | 401, 403, close 1008: credentials are asked for again; the second in a row is fatal |
//! | [`Fatal`](Verdict::Fatal) | other 4xx, any 3xx (redirects are not followed), 1xx and 2xx other than 101, a certificate or URL that will not do, a subprotocol refused, close 1010, a peer that sends but has never answered a ping |
//!
//! `Fatal` stops a client that has never been up. One that has been up before tries again at the
//! cap of its backoff, for a 404 or a captive portal during a deploy must not strand a client that
//! nobody watches. (The exception is [`Loss::NeverPonged`], which only a link that is up can show.)
//!
//! Close codes: RFC 6455 §7.4 and the IANA registry of WebSocket close codes. Statuses: RFC 9110
//! §15, RFC 8470 §5.2 (425), RFC 6585 §4 (429). Retry-After: RFC 9110 §10.2.3.

use core::{fmt, ops::RangeInclusive, time::Duration};

/// Why an attempt ended. Small, and free of secrets: no URL, header or payload is in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Loss {
    /// The host's name could not be resolved.
    Dns,
    /// No connection could be made to any address: refused, unreachable.
    Connect,
    /// The connection broke: reset, broken pipe, any other I/O error.
    Io,
    /// The stream ended without a Close frame.
    Eof,
    /// The peer sent a Close frame; the code is `None` where the frame had none (RFC 6455's 1005).
    Closed {
        /// The close code, RFC 6455 §7.4.
        code: Option<u16>,
    },
    /// The server answered the upgrade with a status other than 101.
    Status {
        /// The HTTP status.
        status: u16,
        /// The response's Retry-After, as a delay from now.
        retry_after: Option<Duration>,
    },
    /// The server's answer to the upgrade was not a valid one.
    BadUpgrade,
    /// The server chose none of the offered subprotocols, or one that was not offered.
    Subprotocol,
    /// The peer broke the WebSocket protocol.
    Protocol,
    /// A message was larger than the transport's limit: of the peer, or a frame of the dialect.
    TooLarge,
    /// The TLS handshake failed for a reason other than the certificate.
    Tls,
    /// The server's certificate was refused: unknown issuer, wrong name, expired.
    Certificate,
    /// The URL cannot be dialed.
    BadUrl,
    /// The request provider failed to produce a request.
    Provider,
    /// DNS, TCP, TLS and upgrade together took longer than the dial limit.
    DialLimit,
    /// The greeting took longer than its limit.
    GreetingLimit,
    /// The socket did not take a byte for the write limit.
    WriteLimit,
    /// A ping went out and nothing was heard for the pong limit.
    PongLimit,
    /// The peer sends, but has never answered a ping (RFC 6455 §5.5.2 makes a pong mandatory).
    NeverPonged,
    /// The outbox said that an answer it is owed is overdue.
    Overdue,
    /// The dialect refused the peer's greeting, with a verdict of its own.
    Refused(Refusal),
}

impl Loss {
    /// The server answered the upgrade with this status, other than 101, and perhaps a Retry-After
    /// header with this value.
    ///
    /// Of the two forms of Retry-After (RFC 9110 §10.2.3) this reads the number of seconds, which
    /// saturates. The other, an HTTP-date, needs a calendar clock, which the core does not have: turn
    /// it into a delay and make a [`Loss::Status`]. Here it counts as no Retry-After, as does
    /// whatever makes no sense.
    ///
    /// ```
    /// use bowline_core::Loss;
    /// use core::time::Duration;
    ///
    /// let retry_after = Some(Duration::from_secs(120));
    /// assert_eq!(Loss::from_status(503_u16, Some("120")), Loss::Status { status: 503, retry_after });
    /// ```
    pub fn from_status(status: impl Into<u16>, retry_after: Option<impl AsRef<[u8]>>) -> Self {
        let seconds = retry_after.and_then(|value| {
            let value = value.as_ref().trim_ascii();
            let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let add = |sum: u64, digit: &u8| {
                sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
            };
            is_number.then(|| value.iter().fold(0, add))
        });
        Self::Status { status: status.into(), retry_after: seconds.map(Duration::from_secs) }
    }

    /// The names of the kinds of losses, for counters; [`kind`](Self::kind) is the index.
    pub const KINDS: [&'static str; 21] = [
        "dns",
        "connect",
        "io",
        "eof",
        "closed",
        "status",
        "bad_upgrade",
        "subprotocol",
        "protocol",
        "too_large",
        "tls",
        "certificate",
        "bad_url",
        "provider",
        "dial_limit",
        "greeting_limit",
        "write_limit",
        "pong_limit",
        "never_ponged",
        "overdue",
        "refused",
    ];

    /// Which kind of loss it is: an index into [`KINDS`](Self::KINDS).
    pub fn kind(self) -> usize {
        match self {
            Self::Dns => 0,
            Self::Connect => 1,
            Self::Io => 2,
            Self::Eof => 3,
            Self::Closed { .. } => 4,
            Self::Status { .. } => 5,
            Self::BadUpgrade => 6,
            Self::Subprotocol => 7,
            Self::Protocol => 8,
            Self::TooLarge => 9,
            Self::Tls => 10,
            Self::Certificate => 11,
            Self::BadUrl => 12,
            Self::Provider => 13,
            Self::DialLimit => 14,
            Self::GreetingLimit => 15,
            Self::WriteLimit => 16,
            Self::PongLimit => 17,
            Self::NeverPonged => 18,
            Self::Overdue => 19,
            Self::Refused(_) => 20,
        }
    }

    /// Whether the peer blamed a message for the end of the connection: close 1003 (cannot accept
    /// this type of data), 1007 (data not consistent with its type), 1009 (too big).
    pub fn accuses_a_message(self) -> bool {
        matches!(self, Self::Closed { code: Some(1003 | 1007 | 1009) })
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "the host name could not be resolved",
            Self::Connect => "no address accepted a connection",
            Self::Io => "the connection broke",
            Self::Eof => "the stream ended without a close frame",
            Self::Closed { code: Some(code) } => {
                return write!(f, "the peer closed with code {code}");
            }
            Self::Closed { code: None } => "the peer closed without a code",
            Self::Status { status, retry_after: None } => {
                return write!(f, "the server answered the upgrade with status {status}");
            }
            Self::Status { status, retry_after: Some(delay) } => {
                return write!(
                    f,
                    "the server answered the upgrade with status {status} and Retry-After {} s",
                    delay.as_secs()
                );
            }
            Self::BadUpgrade => "the server's answer to the upgrade was malformed",
            Self::Subprotocol => "the server chose no subprotocol that was offered",
            Self::Protocol => "the peer broke the WebSocket protocol",
            Self::TooLarge => "a message was above the limit of the transport",
            Self::Tls => "the TLS handshake failed",
            Self::Certificate => "the server's certificate was refused",
            Self::BadUrl => "the URL cannot be dialed",
            Self::Provider => "the request provider failed",
            Self::DialLimit => "the dial took longer than its limit",
            Self::GreetingLimit => "the greeting took longer than its limit",
            Self::WriteLimit => "the socket took no byte for the write limit",
            Self::PongLimit => "the peer was silent for the pong limit after a ping",
            Self::NeverPonged => {
                "the peer sends but has never answered a ping; use delivery level Written or Acked \
                 and a transport that cannot ping, or mend the peer (RFC 6455 section 5.5.2)"
            }
            Self::Overdue => "an answer that the peer owes is overdue",
            Self::Refused(refusal) => return write!(f, "the greeting was refused: {refusal:?}"),
        })
    }
}

/// The verdict that a dialect gives when it refuses the peer's greeting.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Refusal {
    /// Try again after the usual backoff.
    Retry,
    /// Try again, but not before this delay.
    RetryAfter(Duration),
    /// Ask the request provider for fresh credentials; the second in a row is fatal.
    Renew,
    /// Trying again cannot help.
    Fatal,
}

/// What follows from a [`Loss`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// Dial again after the backoff.
    Retry,
    /// Dial again after a delay drawn evenly from this range, and not before the backoff is over.
    RetryAfter(RangeInclusive<Duration>),
    /// Dial again after the backoff, with fresh credentials; the second in a row is fatal.
    Renew,
    /// Give up, unless the client has been up before.
    Fatal,
}

/// What a table of verdicts may know besides the loss.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub struct VerdictLimits {
    /// The longest delay that a server may ask for; longer ones are clamped to it.
    pub retry_after_cap: Duration,
    /// The cap of the backoff.
    pub backoff_cap: Duration,
}

/// A table of verdicts: [`verdict`], or one of your own.
pub type VerdictFn = fn(Loss, VerdictLimits) -> Verdict;

/// The default table of verdicts; see the [module docs](self).
pub fn verdict(loss: Loss, limits: VerdictLimits) -> Verdict {
    let within = |from: Duration, to: Duration| {
        let cap = limits.retry_after_cap;
        Verdict::RetryAfter(from.min(cap)..=to.min(cap))
    };
    // A quarter more, and at least a second, so that clients which were told the same time do not
    // come back in the same moment.
    let told = |delay: Duration| {
        let spread = (delay / 4).max(Duration::from_secs(1));
        within(delay, delay.saturating_add(spread))
    };
    match loss {
        Loss::Dns
        | Loss::Connect
        | Loss::Io
        | Loss::Eof
        | Loss::BadUpgrade
        | Loss::Protocol
        | Loss::TooLarge
        | Loss::Tls
        | Loss::Provider
        | Loss::DialLimit
        | Loss::GreetingLimit
        | Loss::WriteLimit
        | Loss::PongLimit
        | Loss::Overdue => Verdict::Retry,
        Loss::Subprotocol | Loss::Certificate | Loss::BadUrl | Loss::NeverPonged => Verdict::Fatal,
        Loss::Closed { code } => match code {
            Some(1008) => Verdict::Renew,
            Some(1010) => Verdict::Fatal,
            Some(1012) => within(Duration::from_secs(5), Duration::from_secs(30)),
            Some(1013) => within(limits.backoff_cap / 2, limits.backoff_cap),
            Some(_) | None => Verdict::Retry,
        },
        Loss::Status { status, retry_after } => match (status, retry_after) {
            (429 | 503, Some(delay)) => told(delay),
            (408 | 425 | 429 | 500..=599, _) => Verdict::Retry,
            (401 | 403, _) => Verdict::Renew,
            (100..=499, _) => Verdict::Fatal,
            // Not an HTTP status at all: the answer was garbled, as any upgrade may be.
            (_, _) => Verdict::Retry,
        },
        Loss::Refused(refusal) => match refusal {
            Refusal::Retry => Verdict::Retry,
            Refusal::RetryAfter(delay) => told(delay),
            Refusal::Renew => Verdict::Renew,
            Refusal::Fatal => Verdict::Fatal,
        },
    }
}
