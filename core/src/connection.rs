//! Machine 1: the connection. It dials, greets, beats, backs off and gives up.
//!
//! It knows nothing of messages. What it hears of them is one event, [`Overdue`], and what it says
//! to them is one value, [`Link`].
//!
//! **Dialing.** `Start` owes a `Dial`. DNS, TCP, TLS and the upgrade together have `dial_limit`;
//! a dial that succeeds after that is aborted, never adopted.
//!
//! **Greeting.** The transport is open and the dialect introduces itself; `greeting_limit`.
//!
//! **Up.** The link carries messages. After `stable_after` the failures before it are forgotten.
//! Silence for `ping_interval` owes a ping and makes the connection suspect.
//!
//! **Suspect.** Until the ping is flushed, the socket must take a byte every `write_limit`; from
//! then on a byte must be heard within `pong_limit`. Only the peer's bytes clear the suspicion;
//! our own only hold the verdict. A half-open peer is therefore found within
//! `ping_interval + write_limit + pong_limit`, while a slow one that moves bytes is left alone.
//! While the driver is not reading (`Paused`), silence proves nothing and all this rests.
//!
//! Until the first pong ever, hearing the peer does not put a ping off. A peer that is still heard
//! `ping_interval + pong_limit` after that ping was flushed has `pong_limit` more to answer, then
//! it is taken for one that never will: the one loss that is fatal on a link that is up.
//!
//! **Waiting.** The attempt is over and the backoff runs: full jitter below a ceiling that doubles
//! with each failure in a row, or the server's own time if that is longer. `Nudge` (the network
//! came back) shortens a backoff of ours, never a server's.
//!
//! **Closing.** `Stop` sent a Close; the peer has `close_limit` to end the connection.
//!
//! **Stopped.** Asked to, given up, or told that trying again cannot help. Nothing is owed but the
//! destruction of a socket, and nothing happens until `Start`.
//!
//! ```mermaid
//! stateDiagram-v2
//!     [*] --> Idle
//!     Idle --> Dialing: Start
//!     Idle --> Stopped: Stop
//!     Dialing --> Greeting: Opened
//!     Dialing --> Waiting: Lost, Opened, Tick (Dial)
//!     Dialing --> Stopped: Lost, Opened, Stop, Tick (Dial)
//!     Greeting --> Up: Greeted
//!     Greeting --> Waiting: Lost, Refused, Tick (Greeting)
//!     Greeting --> Stopped: Lost, Refused, Stop, Tick (Greeting)
//!     Up --> Suspect: Tick (Ping)
//!     Up --> Waiting: Lost, Overdue, Refused
//!     Up --> Closing: Stop
//!     Up --> Stopped: Lost, Overdue, Refused, Tick (Pong)
//!     Suspect --> Up: Heard, Ponged
//!     Suspect --> Waiting: Lost, Overdue, Refused, Tick (Write), Tick (Pong)
//!     Suspect --> Closing: Stop
//!     Suspect --> Stopped: Lost, Overdue, Refused, Tick (Write), Tick (Pong)
//!     Waiting --> Dialing: Nudge, Tick (Redial)
//!     Waiting --> Stopped: Stop
//!     Closing --> Stopped: Lost, Tick (Close)
//!     Stopped --> Dialing: Start
//! ```
//!
//! | state | event | next | owes |
//! |---|---|---|---|
//! | Idle, Stopped | Start | Dialing | Dial |
//! | Dialing | Opened | Greeting | |
//! | Dialing | Opened after the limit | Waiting | Abort |
//! | Greeting | Greeted | Up | |
//! | Up | Heard, Ponged | Up, silence starts afresh | |
//! | Up | silent for `ping_interval` | Suspect | Ping |
//! | Up | `stable_after` is over | Up, failures forgotten | |
//! | Suspect | Heard, Ponged | Up | |
//! | Suspect | Took, before the ping is flushed | Suspect, write limit afresh | |
//! | Suspect | Flushed with the ping in it | Suspect, pong limit starts | |
//! | Suspect | write or pong limit is over | Waiting | Abort |
//! | Up, Suspect | heard for long though no ping was ever answered | Stopped or Waiting | Abort |
//! | Up, Suspect | Resumed | the same, clocks afresh | |
//! | Up, Suspect | Overdue | Waiting | Abort |
//! | Dialing, Greeting | the limit is over | Waiting | Abort |
//! | Greeting, Up, Suspect | Refused | Waiting | Abort |
//! | Dialing, Greeting, Up, Suspect | Lost | Waiting | |
//! | any that ends in Waiting | fatal, or a limit of attempts or time reached | Stopped | |
//! | Waiting | backoff is over | Dialing | Dial |
//! | Waiting | Nudge | Waiting, shortened | |
//! | Dialing, Greeting | Stop | Stopped | Abort |
//! | Up, Suspect | Stop | Closing | Close |
//! | Idle, Waiting | Stop | Stopped | |
//! | Closing | Lost | Stopped | |
//! | Closing | `close_limit` is over | Stopped | Abort |
//!
//! [`Overdue`]: ConnectionEvent::Overdue

use core::time::Duration;

use rand_core::Rng;

use crate::{
    Wire,
    backoff::{Backoff, Jitter, uniform},
    config::{ConfigError, check},
    loss::{Loss, Refusal, Verdict, VerdictFn, VerdictLimits, verdict},
    time::{Attempt, Deadline, Instant, Timer},
};

/// A first ping may go unanswered for this many times `ping_interval + pong_limit` while the peer is
/// heard. The verdict is final, and a pong may be late for a good reason: it travels behind all that
/// the peer has sent before. At the defaults this is 150 s, in which a link of 1 Mbit/s carries
/// 18 MB, more than the largest inbound message.
const DEAF_AFTER: u32 = 5;

/// The settings of a [`Connection`]. [`validate`](Self::validate) checks them together.
///
/// Every duration is from 1 ms to a day, unless it says otherwise.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ConnectionConfig {
    /// DNS, TCP, TLS and upgrade together. Default 15 s.
    pub dial_limit: Duration,
    /// From the upgrade to the end of the greeting. Default 10 s.
    pub greeting_limit: Duration,
    /// Silence after which a ping is owed. Default 20 s.
    pub ping_interval: Duration,
    /// From the flush of that ping to the first byte heard. Default 10 s.
    pub pong_limit: Duration,
    /// Until that ping is flushed, the longest time in which the socket takes no byte. Default 20 s.
    pub write_limit: Duration,
    /// From our Close to the end of the connection. Default 5 s.
    pub close_limit: Duration,
    /// How long a link must be up before earlier failures are forgotten. Default 30 s.
    pub stable_after: Duration,
    /// Nudges have an effect at most once in this time. Default 1 s.
    pub nudge_floor: Duration,
    /// The longest delay that a server may ask for. Default 5 min.
    pub retry_after_cap: Duration,
    /// Give up after this many dials in a row that did not become a stable link, the first one
    /// included: 6 means the first and 5 retries. Default none; at least 1.
    pub max_attempts: Option<u32>,
    /// Give up when the next dial would begin later than this after the first failure in a row.
    /// Default none; at least 1 ms.
    pub max_elapsed: Option<Duration>,
    /// The delay between dials.
    pub backoff: Backoff,
    /// Whether the transport can ping. If not, silence is legal and nothing but an I/O error or
    /// `Overdue` ends a link. Default true.
    pub can_ping: bool,
    /// What follows from a loss. Default [`verdict`]. It is code: a config that is stored leaves it
    /// out, and one that is read has the default.
    #[cfg_attr(feature = "serde", serde(skip, default = "default_verdict"))]
    pub verdict: VerdictFn,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            dial_limit: Duration::from_secs(15),
            greeting_limit: Duration::from_secs(10),
            ping_interval: Duration::from_secs(20),
            pong_limit: Duration::from_secs(10),
            write_limit: Duration::from_secs(20),
            close_limit: Duration::from_secs(5),
            stable_after: Duration::from_secs(30),
            nudge_floor: Duration::from_secs(1),
            retry_after_cap: Duration::from_secs(300),
            max_attempts: None,
            max_elapsed: None,
            backoff: Backoff::default(),
            can_ping: true,
            verdict,
        }
    }
}

#[cfg(feature = "serde")]
fn default_verdict() -> VerdictFn {
    verdict
}

impl ConnectionConfig {
    /// Checks every field; the error names the first that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let range = Duration::from_millis(1)..=Duration::from_secs(24 * 60 * 60);
        check("dial_limit", self.dial_limit, range.clone())?;
        check("greeting_limit", self.greeting_limit, range.clone())?;
        check("ping_interval", self.ping_interval, range.clone())?;
        check("pong_limit", self.pong_limit, range.clone())?;
        check("write_limit", self.write_limit, range.clone())?;
        check("close_limit", self.close_limit, range.clone())?;
        check("stable_after", self.stable_after, range.clone())?;
        check("nudge_floor", self.nudge_floor, range.clone())?;
        check("retry_after_cap", self.retry_after_cap, range)?;
        if let Some(attempts) = self.max_attempts {
            check("max_attempts", attempts, 1..=u32::MAX)?;
        }
        if let Some(elapsed) = self.max_elapsed {
            check("max_elapsed", elapsed, Duration::from_millis(1)..=Duration::MAX)?;
        }
        self.backoff.validate()
    }
}

/// What the connection is doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ConnectionState {
    /// Never started. `Start` ends it.
    Idle,
    /// A dial is under way. Its success, its loss or `give_up_at` ends it.
    Dialing {
        /// When the dial is aborted.
        give_up_at: Instant,
    },
    /// The transport is open, the greeting is not done. Its end, a loss or `give_up_at` ends it.
    Greeting {
        /// When the attempt is aborted.
        give_up_at: Instant,
    },
    /// The link carries messages and the peer was heard lately.
    Up {
        /// When silence becomes suspect.
        ping_at: Instant,
        /// When earlier failures are forgotten; `NEVER` once they are.
        stable_at: Instant,
    },
    /// The link carries messages, but the peer is silent and a ping is owed or out.
    Suspect {
        /// When the attempt is aborted.
        dead_at: Instant,
        /// As in `Up`; looked at when the peer is heard again.
        stable_at: Instant,
    },
    /// We sent a Close. The end of the connection or `cut_at` ends it.
    Closing {
        /// When the socket is aborted.
        cut_at: Instant,
    },
    /// No attempt is alive. `redial_at` ends it.
    Waiting {
        /// When the next dial begins.
        redial_at: Instant,
        /// Whether a nudge may shorten it: the delay is ours and not the server's.
        nudgeable: bool,
    },
    /// Nothing happens until `Start`.
    Stopped {
        /// Why.
        reason: StopReason,
    },
}

/// Why a connection is stopped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum StopReason {
    /// `Stop` was said.
    #[error("stopped on request")]
    Requested,
    /// The limit of attempts or of time was reached; this was the last loss.
    #[error("gave up: {0}")]
    GaveUp(Loss),
    /// Trying again cannot help.
    #[error("cannot connect: {0}")]
    Fatal(Loss),
}

/// What happens to a connection. I/O events name their attempt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum ConnectionEvent {
    /// Begin, or begin again after `Stopped`.
    Start,
    /// The transport is open: the upgrade succeeded.
    Opened(Attempt),
    /// The greeting is done.
    Greeted(Attempt),
    /// Bytes came from the peer; they need not be a whole message.
    Heard(Attempt),
    /// A pong to a ping of this attempt came.
    Ponged(Attempt),
    /// Everything handed over so far was flushed to the socket.
    Flushed(Attempt),
    /// The socket took bytes.
    Took(Attempt),
    /// The driver stopped reading, for want of room.
    Paused(Attempt),
    /// The driver reads again.
    Resumed(Attempt),
    /// The dialect refused what the peer said in the greeting, or later.
    Refused(Attempt, Refusal),
    /// An answer that the peer owes is overdue. Ends the attempt; nothing heard later cancels it.
    Overdue(Attempt),
    /// The dial failed, or the connection ended.
    Lost(Attempt, Loss),
    /// The network may have come back.
    Nudge,
    /// End what there is and stay stopped.
    Stop,
    /// Time passed.
    Tick,
}

impl ConnectionEvent {
    /// The attempt that an I/O event belongs to.
    pub fn attempt(self) -> Option<Attempt> {
        match self {
            Self::Opened(a)
            | Self::Greeted(a)
            | Self::Heard(a)
            | Self::Ponged(a)
            | Self::Flushed(a)
            | Self::Took(a)
            | Self::Paused(a)
            | Self::Resumed(a)
            | Self::Refused(a, _)
            | Self::Overdue(a)
            | Self::Lost(a, _) => Some(a),
            Self::Start | Self::Nudge | Self::Stop | Self::Tick => None,
        }
    }
}

/// The next thing to do for a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[must_use]
pub enum ConnectionOutput {
    /// Destroy every earlier socket and dial.
    Dial(Attempt),
    /// Send a ping.
    Ping(Attempt),
    /// Send a Close with this code, go on reading, and say `Lost` when the connection ends.
    Close(Attempt, u16),
    /// Destroy the socket or the dial at once, and every earlier one: the newest order is the only
    /// one that is owed. Say nothing more of it.
    Abort(Attempt),
    /// Nothing until this deadline.
    WaitUntil(Option<Deadline>),
}

/// What the connection says to the outbox, the first of the two arrows between them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Link {
    /// The transport is open and the greeting is done.
    Up(Attempt),
    /// Everything else.
    Down {
        /// The peer blamed a message for the end of the last attempt (close 1003, 1007, 1009).
        accused: bool,
    },
}

/// How far the heartbeat's ping is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Heartbeat {
    /// None is out that could be waited for.
    Quiet,
    /// To be handed over.
    Owed,
    /// Handed over, not flushed.
    Written,
    /// Flushed: the pong clock runs.
    Flushed,
}

/// Counters of a connection, all saturating.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ConnectionStats {
    /// Dials begun.
    pub attempts: u64,
    /// Links that came up.
    pub links: u64,
    /// Attempts that failed before their link was up.
    pub lost_dialing: u64,
    /// Links lost.
    pub lost_links: u64,
    /// All of these by kind, in the order of [`Loss::KINDS`].
    pub losses: [u64; Loss::KINDS.len()],
    /// Events of a dead attempt, or out of their order; ignored.
    pub stale: u64,
}

/// Machine 1; see the [module docs](self).
#[derive(Clone, Debug)]
pub struct Connection<R> {
    config: ConnectionConfig,
    rng: R,
    now: Instant,
    state: ConnectionState,
    attempt: Attempt,
    /// At most one thing to do with sockets; the newest replaces the one before.
    owed: Option<ConnectionOutput>,
    /// Losses in a row without a stable link between.
    failures: u32,
    /// The first of them.
    failing_since: Option<Instant>,
    /// `Renew` verdicts in a row.
    renewals: u32,
    last_delay: Duration,
    last_loss: Option<Loss>,
    /// The last loss blamed a message, and no link came up since.
    accused: bool,
    nudge_free_at: Instant,
    /// A link was up before: fatal losses are not believed any more.
    been_up: bool,
    /// A pong has come before, on any attempt: the peer answers pings.
    answers_pings: bool,
    // Of the current attempt:
    heartbeat: Heartbeat,
    /// The flush of its first ping that no pong has followed.
    unanswered_since: Option<Instant>,
    /// When the verdict falls on a peer that was heard so long after that ping that it must have
    /// seen it; `NEVER` if it was not.
    deaf_at: Instant,
    paused: bool,
    stats: ConnectionStats,
}

impl<R: Rng> Connection<R> {
    /// A connection that waits for `Start`.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn new(config: ConnectionConfig, rng: R) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            rng,
            now: Instant::ZERO,
            state: ConnectionState::Idle,
            attempt: Attempt::NONE,
            owed: None,
            failures: 0,
            failing_since: None,
            renewals: 0,
            last_delay: Duration::ZERO,
            last_loss: None,
            accused: false,
            nudge_free_at: Instant::ZERO,
            been_up: false,
            answers_pings: false,
            heartbeat: Heartbeat::Quiet,
            unanswered_since: None,
            deaf_at: Instant::NEVER,
            paused: false,
            stats: ConnectionStats::default(),
        })
    }

    /// Takes in an event, then looks at the clock. Never fails; an event that has no meaning in
    /// the current state changes nothing.
    pub fn handle(&mut self, now: Instant, event: ConnectionEvent) {
        self.take_in(now, event);
        self.look_at_clock(now);
    }

    /// Takes in an event without a verdict of the clock: there may be more to read.
    pub(crate) fn take_in(&mut self, now: Instant, event: ConnectionEvent) {
        self.now = self.now.max(now);
        match event.attempt() {
            Some(attempt) if attempt != self.attempt => self.ignore(event),
            Some(_) | None => self.step(event),
        }
    }

    /// Says `Tick` to every timer that has run out.
    pub(crate) fn look_at_clock(&mut self, now: Instant) {
        self.now = self.now.max(now);
        while self.deadline().is_some_and(|deadline| deadline.at.has_passed(self.now)) {
            self.step(ConnectionEvent::Tick);
        }
    }

    /// The next thing to do; after the last one, when to say `Tick`.
    pub fn poll(&mut self, wire: Wire) -> ConnectionOutput {
        if let Some(order) = self.take_order() {
            return order;
        }
        if wire == Wire::Ready && self.owes_ping() {
            self.ping_handed_over();
            return ConnectionOutput::Ping(self.attempt);
        }
        ConnectionOutput::WaitUntil(self.deadline())
    }

    pub(crate) fn take_order(&mut self) -> Option<ConnectionOutput> {
        self.owed.take()
    }

    pub(crate) fn owes_ping(&self) -> bool {
        self.heartbeat == Heartbeat::Owed
    }

    /// A ping goes out, whoever wanted it.
    pub(crate) fn ping_handed_over(&mut self) {
        if self.heartbeat == Heartbeat::Owed {
            self.heartbeat = Heartbeat::Written;
        }
    }

    /// Whether the driver is not reading.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// The first arrow: whether messages may be sent.
    pub fn link(&self) -> Link {
        match self.state {
            ConnectionState::Up { .. } | ConnectionState::Suspect { .. } => Link::Up(self.attempt),
            ConnectionState::Idle
            | ConnectionState::Dialing { .. }
            | ConnectionState::Greeting { .. }
            | ConnectionState::Closing { .. }
            | ConnectionState::Waiting { .. }
            | ConnectionState::Stopped { .. } => Link::Down { accused: self.accused },
        }
    }

    /// When the machine next needs to be told the time.
    pub fn deadline(&self) -> Option<Deadline> {
        match self.state {
            ConnectionState::Idle | ConnectionState::Stopped { .. } => None,
            ConnectionState::Dialing { give_up_at } => Deadline::new(give_up_at, Timer::Dial),
            ConnectionState::Greeting { give_up_at } => Deadline::new(give_up_at, Timer::Greeting),
            ConnectionState::Up { stable_at, .. } if self.paused => {
                Deadline::new(stable_at, Timer::Stable)
            }
            ConnectionState::Up { ping_at, stable_at } => [
                Deadline::new(ping_at, Timer::Ping),
                Deadline::new(stable_at, Timer::Stable),
                Deadline::new(self.deaf_at, Timer::Pong),
            ]
            .into_iter()
            .fold(None, Deadline::earlier),
            ConnectionState::Suspect { .. } if self.paused => None,
            ConnectionState::Suspect { dead_at, .. } => {
                let timer = match self.heartbeat {
                    Heartbeat::Flushed => Timer::Pong,
                    Heartbeat::Quiet | Heartbeat::Owed | Heartbeat::Written => Timer::Write,
                };
                Deadline::earlier(
                    Deadline::new(dead_at, timer),
                    Deadline::new(self.deaf_at, Timer::Pong),
                )
            }
            ConnectionState::Closing { cut_at } => Deadline::new(cut_at, Timer::Close),
            ConnectionState::Waiting { redial_at, .. } => Deadline::new(redial_at, Timer::Redial),
        }
    }

    #[cfg(feature = "serde")]
    pub(crate) fn rng(&mut self) -> &mut R {
        &mut self.rng
    }

    /// What the connection is doing.
    pub fn state(&self) -> ConnectionState {
        self.state
    }

    /// The newest attempt.
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// The time as this machine knows it.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// Why the last attempt ended.
    pub fn last_loss(&self) -> Option<Loss> {
        self.last_loss
    }

    /// Losses in a row without a stable link between.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Counters since the beginning.
    pub fn stats(&self) -> ConnectionStats {
        self.stats
    }

    /// The whole transition table.
    fn step(&mut self, event: ConnectionEvent) {
        use ConnectionEvent as E;
        use ConnectionState as S;
        let now = self.now;
        match (self.state, event) {
            (S::Idle | S::Stopped { .. }, E::Start) => {
                self.failures = 0;
                self.failing_since = None;
                self.renewals = 0;
                self.last_delay = Duration::ZERO;
                self.dial();
            }

            (S::Dialing { give_up_at }, E::Opened(_)) if give_up_at.has_passed(now) => {
                self.abort(Loss::DialLimit);
            }
            (S::Dialing { .. }, E::Opened(_)) => {
                self.state = S::Greeting { give_up_at: now + self.config.greeting_limit };
            }
            (S::Dialing { give_up_at }, E::Tick) if give_up_at.has_passed(now) => {
                self.abort(Loss::DialLimit);
            }

            (S::Greeting { .. }, E::Greeted(_)) => {
                self.been_up = true;
                self.accused = false;
                self.stats.links = self.stats.links.saturating_add(1);
                self.state =
                    S::Up { ping_at: self.ping_at(), stable_at: now + self.config.stable_after };
            }
            (S::Greeting { give_up_at }, E::Tick) if give_up_at.has_passed(now) => {
                self.abort(Loss::GreetingLimit);
            }

            (S::Up { .. } | S::Suspect { .. }, E::Ponged(_)) => {
                self.answers_pings = true;
                self.unanswered_since = None;
                self.deaf_at = Instant::NEVER;
                self.hear();
            }
            // Until the first pong ever, hearing the peer does not put the ping off: whether it
            // answers pings must come to light even if it is never silent.
            (S::Up { ping_at, .. }, E::Heard(_)) if !self.answers_pings => {
                self.hear();
                if let S::Up { ping_at: later, .. } = &mut self.state {
                    *later = ping_at;
                }
            }
            (S::Up { .. } | S::Suspect { .. }, E::Heard(_)) => self.hear(),
            (S::Up { stable_at, .. }, E::Tick) if stable_at.has_passed(now) => self.forgive(),
            (S::Up { ping_at, stable_at }, E::Tick) if !self.paused && ping_at.has_passed(now) => {
                if self.heartbeat != Heartbeat::Written {
                    self.heartbeat = Heartbeat::Owed;
                }
                self.state = S::Suspect { dead_at: now + self.config.write_limit, stable_at };
            }

            (S::Suspect { stable_at, .. }, E::Took(_)) if self.heartbeat != Heartbeat::Flushed => {
                self.state = S::Suspect { dead_at: now + self.config.write_limit, stable_at };
            }
            (S::Suspect { stable_at, .. }, E::Flushed(_))
                if self.heartbeat == Heartbeat::Written =>
            {
                self.ping_flushed();
                self.state = S::Suspect { dead_at: now + self.config.pong_limit, stable_at };
            }
            // Heard while its ping was still on the way out.
            (S::Up { .. }, E::Flushed(_)) if self.heartbeat == Heartbeat::Written => {
                self.ping_flushed();
            }
            (S::Suspect { dead_at, .. }, E::Tick) if !self.paused && dead_at.has_passed(now) => {
                self.abort(match self.heartbeat {
                    Heartbeat::Flushed => Loss::PongLimit,
                    Heartbeat::Quiet | Heartbeat::Owed | Heartbeat::Written => Loss::WriteLimit,
                });
            }

            // Bytes came long after a ping that was never answered, and none ever was: this peer
            // does not speak the whole protocol, and no reconnect will teach it.
            (S::Up { .. } | S::Suspect { .. }, E::Tick)
                if !self.paused && self.deaf_at.has_passed(now) =>
            {
                self.abort(Loss::NeverPonged);
            }

            (S::Greeting { .. } | S::Up { .. } | S::Suspect { .. }, E::Paused(_)) => {
                self.paused = true;
            }
            (S::Greeting { .. }, E::Resumed(_)) => self.paused = false,
            (S::Up { stable_at, .. }, E::Resumed(_)) => {
                self.resume();
                self.state = S::Up { ping_at: self.ping_at(), stable_at };
            }
            (S::Suspect { stable_at, .. }, E::Resumed(_)) => {
                self.resume();
                let limit = match self.heartbeat {
                    Heartbeat::Flushed => self.config.pong_limit,
                    Heartbeat::Quiet | Heartbeat::Owed | Heartbeat::Written => {
                        self.config.write_limit
                    }
                };
                self.state = S::Suspect { dead_at: now + limit, stable_at };
            }

            (S::Up { .. } | S::Suspect { .. }, E::Overdue(_)) => {
                self.abort(Loss::Overdue);
            }
            (S::Greeting { .. } | S::Up { .. } | S::Suspect { .. }, E::Refused(_, refusal)) => {
                self.abort(Loss::Refused(refusal));
            }
            (
                S::Dialing { .. } | S::Greeting { .. } | S::Up { .. } | S::Suspect { .. },
                E::Lost(_, loss),
            ) => {
                self.end(loss);
            }

            (S::Waiting { redial_at, .. }, E::Tick) if redial_at.has_passed(now) => self.dial(),
            (S::Waiting { redial_at, nudgeable: true }, E::Nudge) => {
                let sooner = redial_at.min(self.nudge_free_at.max(now));
                if sooner < redial_at {
                    self.nudge_free_at = sooner + self.config.nudge_floor;
                }
                self.state = S::Waiting { redial_at: sooner, nudgeable: true };
            }

            (S::Dialing { .. } | S::Greeting { .. }, E::Stop) => {
                self.owed = Some(ConnectionOutput::Abort(self.attempt));
                self.stop(StopReason::Requested);
            }
            (S::Up { .. } | S::Suspect { .. }, E::Stop) => {
                self.rest();
                self.owed = Some(ConnectionOutput::Close(self.attempt, 1000));
                self.state = S::Closing { cut_at: now + self.config.close_limit };
            }
            (S::Idle | S::Waiting { .. }, E::Stop) => {
                self.stop(StopReason::Requested);
            }
            (S::Closing { .. }, E::Lost(..)) => {
                self.owed = None;
                self.stop(StopReason::Requested);
            }
            (S::Closing { cut_at }, E::Tick) if cut_at.has_passed(now) => {
                self.owed = Some(ConnectionOutput::Abort(self.attempt));
                self.stop(StopReason::Requested);
            }

            // Ignored: a peer that is being closed may still say things.
            (
                S::Closing { .. },
                E::Heard(_)
                | E::Ponged(_)
                | E::Flushed(_)
                | E::Took(_)
                | E::Paused(_)
                | E::Resumed(_),
            )
            // Ignored: bytes of the handshake and of the greeting.
            | (
                S::Dialing { .. } | S::Greeting { .. },
                E::Heard(_) | E::Flushed(_) | E::Took(_) | E::Ponged(_),
            )
            // Ignored: of no interest while there is no ping on the way out.
            | (S::Up { .. } | S::Suspect { .. }, E::Flushed(_) | E::Took(_))
            // Ignored: nothing has run out.
            | (
                S::Idle
                | S::Dialing { .. }
                | S::Greeting { .. }
                | S::Up { .. }
                | S::Suspect { .. }
                | S::Closing { .. }
                | S::Waiting { .. }
                | S::Stopped { .. },
                E::Tick,
            )
            // Ignored: there is no backoff that a nudge could shorten.
            | (
                S::Idle
                | S::Dialing { .. }
                | S::Greeting { .. }
                | S::Up { .. }
                | S::Suspect { .. }
                | S::Closing { .. }
                | S::Waiting { .. }
                | S::Stopped { .. },
                E::Nudge,
            )
            // Ignored: already so.
            | (
                S::Dialing { .. }
                | S::Greeting { .. }
                | S::Up { .. }
                | S::Suspect { .. }
                | S::Closing { .. }
                | S::Waiting { .. },
                E::Start,
            )
            | (S::Closing { .. } | S::Stopped { .. }, E::Stop) => {}

            // Ignored and counted: no such thing can come from an attempt in this state.
            (
                S::Idle | S::Waiting { .. } | S::Stopped { .. },
                E::Opened(_)
                | E::Greeted(_)
                | E::Heard(_)
                | E::Ponged(_)
                | E::Flushed(_)
                | E::Took(_)
                | E::Paused(_)
                | E::Resumed(_)
                | E::Refused(..)
                | E::Overdue(_)
                | E::Lost(..),
            )
            | (
                S::Dialing { .. },
                E::Greeted(_)
                | E::Paused(_)
                | E::Resumed(_)
                | E::Refused(..)
                | E::Overdue(_),
            )
            | (
                S::Greeting { .. } | S::Up { .. } | S::Suspect { .. } | S::Closing { .. },
                E::Opened(_),
            )
            | (S::Up { .. } | S::Suspect { .. } | S::Closing { .. }, E::Greeted(_))
            | (S::Greeting { .. }, E::Overdue(_))
            | (S::Closing { .. }, E::Refused(..) | E::Overdue(_)) => self.ignore(event),
        }
    }

    fn ignore(&mut self, _event: ConnectionEvent) {
        self.stats.stale = self.stats.stale.saturating_add(1);
    }

    fn dial(&mut self) {
        self.rest();
        self.attempt = self.attempt.next();
        self.stats.attempts = self.stats.attempts.saturating_add(1);
        self.owed = Some(ConnectionOutput::Dial(self.attempt));
        self.state = ConnectionState::Dialing { give_up_at: self.now + self.config.dial_limit };
    }

    /// The peer was heard: the silence starts afresh.
    fn hear(&mut self) {
        // The first pong may be behind these bytes, so the verdict waits for the clock.
        if self.deaf_at == Instant::NEVER && self.seems_deaf_to_pings() {
            self.deaf_at = self.now + self.config.pong_limit;
        }
        self.heartbeat = match self.heartbeat {
            Heartbeat::Written => Heartbeat::Written,
            // A wire that is blocked whenever the peer speaks must not hide that it is deaf.
            Heartbeat::Owed if !self.answers_pings => Heartbeat::Owed,
            Heartbeat::Quiet | Heartbeat::Owed | Heartbeat::Flushed => Heartbeat::Quiet,
        };
        if let ConnectionState::Up { stable_at, .. } | ConnectionState::Suspect { stable_at, .. } =
            self.state
        {
            self.state = ConnectionState::Up { ping_at: self.ping_at(), stable_at };
        }
    }

    fn ping_at(&self) -> Instant {
        if self.config.can_ping { self.now + self.config.ping_interval } else { Instant::NEVER }
    }

    fn ping_flushed(&mut self) {
        self.heartbeat = Heartbeat::Flushed;
        self.unanswered_since.get_or_insert(self.now);
    }

    /// The driver reads again: what the peer said meanwhile, the first pong too, is still to come.
    fn resume(&mut self) {
        self.paused = false;
        self.deaf_at = Instant::NEVER;
        if let Some(since) = &mut self.unanswered_since {
            *since = self.now;
        }
    }

    /// Whether the peer had all the time that it could need to answer a first ping, and did not.
    fn seems_deaf_to_pings(&self) -> bool {
        !self.answers_pings
            && !self.paused
            && self
                .unanswered_since
                .is_some_and(|since| (since + self.patience()).has_passed(self.now))
    }

    fn patience(&self) -> Duration {
        let silence = self.config.ping_interval.saturating_add(self.config.pong_limit);
        silence.saturating_mul(DEAF_AFTER)
    }

    /// The link was up for long enough: what failed before is forgotten.
    fn forgive(&mut self) {
        self.failures = 0;
        self.failing_since = None;
        self.renewals = 0;
        self.last_delay = Duration::ZERO;
        if let ConnectionState::Up { stable_at, .. } = &mut self.state {
            *stable_at = Instant::NEVER;
        }
    }

    /// Ends an attempt whose socket still lives.
    fn abort(&mut self, loss: Loss) {
        self.end(loss);
        self.owed = Some(ConnectionOutput::Abort(self.attempt));
    }

    /// Ends an attempt, and waits or stops.
    fn end(&mut self, loss: Loss) {
        self.count(loss);
        self.rest();
        self.owed = None;
        self.last_loss = Some(loss);
        self.accused = loss.accuses_a_message();
        self.failures = self.failures.saturating_add(1);
        let failing_since = *self.failing_since.get_or_insert(self.now);

        let limits = VerdictLimits {
            retry_after_cap: self.config.retry_after_cap,
            backoff_cap: self.config.backoff.cap,
        };
        let verdict = (self.config.verdict)(loss, limits);
        self.renewals = match verdict {
            Verdict::Renew => self.renewals.saturating_add(1),
            Verdict::Retry | Verdict::RetryAfter(_) | Verdict::Fatal => 0,
        };
        let hopeless = verdict == Verdict::Fatal || self.renewals >= 2;
        if hopeless && (!self.been_up || loss == Loss::NeverPonged) {
            return self.stop(StopReason::Fatal(loss));
        }
        if self.config.max_attempts.is_some_and(|max| self.failures >= max) {
            return self.stop(StopReason::GaveUp(loss));
        }

        let backoff = self.config.backoff;
        // Each policy is at its cap after the longest delay and any number of failures.
        let (before, last) =
            if hopeless { (u32::MAX, backoff.cap) } else { (self.failures - 1, self.last_delay) };
        let ours = backoff.delay(before, last, &mut self.rng);
        self.last_delay = ours;
        let theirs = match verdict {
            Verdict::RetryAfter(range) => {
                let cap = self.config.retry_after_cap;
                uniform(*range.start(), *range.end(), &mut self.rng).min(cap)
            }
            Verdict::Retry | Verdict::Renew | Verdict::Fatal => Duration::ZERO,
        };
        let redial_at = self.now + ours.max(theirs);
        let too_late = |max| redial_at > failing_since + max;
        if self.config.max_elapsed.is_some_and(too_late) {
            return self.stop(StopReason::GaveUp(loss));
        }
        self.state = ConnectionState::Waiting { redial_at, nudgeable: theirs == Duration::ZERO };
    }

    fn count(&mut self, loss: Loss) {
        let phase = match self.link() {
            Link::Up(_) => &mut self.stats.lost_links,
            Link::Down { .. } => &mut self.stats.lost_dialing,
        };
        *phase = phase.saturating_add(1);
        let kind = &mut self.stats.losses[loss.kind()];
        *kind = kind.saturating_add(1);
    }

    fn stop(&mut self, reason: StopReason) {
        self.rest();
        self.state = ConnectionState::Stopped { reason };
    }

    /// Forgets what belongs to one attempt only.
    fn rest(&mut self) {
        self.heartbeat = Heartbeat::Quiet;
        self.unanswered_since = None;
        self.deaf_at = Instant::NEVER;
        self.paused = false;
    }
}

/// A [`Connection`] as a value, for a model checker to hash: deadlines are microseconds from now,
/// and what only counts or draws is left out, or makes no difference under these settings.
///
/// Connections with the same settings and equal views, given the same inputs and the same random
/// numbers, do the same for ever.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ConnectionView {
    state: ConnectionState,
    owed: Option<ConnectionOutput>,
    failures: Option<u32>,
    ceiling: Duration,
    failing_for: Option<Duration>,
    renewals: u32,
    last_delay: Duration,
    last_loss: Option<Loss>,
    accused: bool,
    nudge_free_in: Duration,
    been_up: bool,
    answers_pings: bool,
    heartbeat: Heartbeat,
    unanswered_for: Option<Duration>,
    deaf_in: Instant,
    paused: bool,
}

impl<R: Rng> Connection<R> {
    /// The state as a value; see [`ConnectionView`].
    pub fn view(&self) -> ConnectionView {
        use ConnectionState as S;
        let ahead = |at: Instant| match at {
            Instant::NEVER => Instant::NEVER,
            at => Instant::from_micros(at.as_micros().saturating_sub(self.now.as_micros())),
        };
        ConnectionView {
            state: match self.state {
                S::Dialing { give_up_at } => S::Dialing { give_up_at: ahead(give_up_at) },
                S::Greeting { give_up_at } => S::Greeting { give_up_at: ahead(give_up_at) },
                S::Up { ping_at, stable_at } => {
                    S::Up { ping_at: ahead(ping_at), stable_at: ahead(stable_at) }
                }
                S::Suspect { dead_at, stable_at } => {
                    S::Suspect { dead_at: ahead(dead_at), stable_at: ahead(stable_at) }
                }
                S::Closing { cut_at } => S::Closing { cut_at: ahead(cut_at) },
                S::Waiting { redial_at, nudgeable } => {
                    S::Waiting { redial_at: ahead(redial_at), nudgeable }
                }
                state @ (S::Idle | S::Stopped { .. }) => state,
            },
            // Of the attempt that an order names, only that it is the newest matters.
            owed: self.owed.map(|owed| match owed {
                ConnectionOutput::Dial(_) => ConnectionOutput::Dial(Attempt::NONE),
                ConnectionOutput::Ping(_) => ConnectionOutput::Ping(Attempt::NONE),
                ConnectionOutput::Close(_, code) => ConnectionOutput::Close(Attempt::NONE, code),
                ConnectionOutput::Abort(_) => ConnectionOutput::Abort(Attempt::NONE),
                ConnectionOutput::WaitUntil(at) => ConnectionOutput::WaitUntil(at),
            }),
            // Without a limit, all that failures do is to raise the delay up to its cap.
            failures: self.config.max_attempts.map(|_| self.failures),
            ceiling: self.config.backoff.ceiling(self.failures),
            failing_for: self
                .failing_since
                .filter(|_| self.config.max_elapsed.is_some())
                .map(|since| self.now.since(since)),
            // The second is as good as any later one.
            renewals: self.renewals.min(2),
            last_delay: match self.config.backoff.jitter {
                Jitter::Decorrelated => self.last_delay,
                Jitter::None | Jitter::Full | Jitter::Equal => Duration::ZERO,
            },
            last_loss: self.last_loss,
            accused: self.accused,
            nudge_free_in: self.nudge_free_at.since(self.now),
            been_up: self.been_up,
            answers_pings: self.answers_pings,
            heartbeat: self.heartbeat,
            unanswered_for: self
                .unanswered_since
                .filter(|_| !self.answers_pings)
                .map(|since| self.now.since(since).min(self.patience())),
            deaf_in: ahead(self.deaf_at),
            paused: self.paused,
        }
    }
}
