//! Time as the machines see it: instants that the driver hands in, and deadlines that it gets back.
//!
//! The core has no clock. An [`Instant`] is a number of microseconds since an epoch that the driver
//! chose (process start, say); only differences matter, so two drivers need not agree. Time moves
//! forward only: a machine takes `max(seen, now)`, so a clock that stands still or runs backwards
//! is legal. Arithmetic saturates, and a deadline that would saturate is no deadline.

use core::time::Duration;

/// A point in time: microseconds since an epoch that the driver chose.
///
/// ```
/// use bowline_core::Instant;
/// use core::time::Duration;
///
/// let at = Instant::from_micros(5) + Duration::from_micros(7);
/// assert_eq!(at.as_micros(), 12);
/// assert_eq!(at + Duration::MAX, Instant::NEVER);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub struct Instant(u64);

impl Instant {
    /// The epoch itself.
    pub const ZERO: Self = Self(0);

    /// The end of time: what saturating arithmetic ends in. A deadline at `NEVER` does not exist.
    pub const NEVER: Self = Self(u64::MAX);

    /// The instant `micros` microseconds after the epoch.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the epoch.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`, zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// Whether a deadline at `self` has passed at `now`. [`NEVER`](Self::NEVER) never passes.
    pub const fn has_passed(self, now: Self) -> bool {
        self.0 != u64::MAX && self.0 <= now.0
    }
}

impl core::ops::Add<Duration> for Instant {
    type Output = Self;

    /// `self + delay`, [`NEVER`](Self::NEVER) where that does not fit. Parts of a microsecond are
    /// rounded up: a deadline may come late by one, never early.
    fn add(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(micros_ceil(delay)))
    }
}

/// Whole microseconds in `delay`, rounded up, saturating.
pub(crate) fn micros_ceil(delay: Duration) -> u64 {
    u64::try_from(delay.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX)
}

/// One dial and the connection that came of it. Every I/O event names its attempt; an event of any
/// other attempt is stale and changes nothing. The first attempt is 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub struct Attempt(u64);

impl Attempt {
    /// Before the first dial.
    pub const NONE: Self = Self(0);

    /// The attempt with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The attempt after this one.
    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl core::fmt::Display for Attempt {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

/// When a machine next needs to be told the time, and which of its timers wants that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Deadline {
    /// When to say `Tick`.
    pub at: Instant,
    /// Why.
    pub timer: Timer,
}

impl Deadline {
    /// A deadline, or none at [`Instant::NEVER`].
    pub(crate) fn new(at: Instant, timer: Timer) -> Option<Self> {
        (at != Instant::NEVER).then_some(Self { at, timer })
    }

    /// The earlier of two deadlines.
    pub(crate) fn earlier(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

/// The reason of a [`Deadline`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Timer {
    /// A dial has taken too long.
    Dial,
    /// A greeting has taken too long.
    Greeting,
    /// The peer has been silent: a ping is due.
    Ping,
    /// The socket has not taken a byte of what waits in front of the ping.
    Write,
    /// The ping went out and no byte came back.
    Pong,
    /// The link was up for long enough to forget earlier failures.
    Stable,
    /// The backoff is over.
    Redial,
    /// The peer did not answer our Close.
    Close,
    /// The application's own heartbeat is due.
    Beat,
    /// What is still not covered by a receipt is asked for again.
    Receipt,
    /// The peer has the head message and withholds its ack.
    Ack,
    /// The pause after a transient nack is over.
    Nack,
    /// A message outlives its time to live.
    Expiry,
    /// A drain has taken too long.
    Drain,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_that_does_not_fit_is_never() {
        let late = Instant::from_micros(u64::MAX - 1);
        assert_eq!(late + Duration::from_micros(1), Instant::NEVER);
        assert_eq!(Instant::ZERO + Duration::MAX, Instant::NEVER);
        assert!(Deadline::new(Instant::NEVER, Timer::Dial).is_none());
    }

    #[test]
    fn never_does_not_pass_even_at_the_end_of_time() {
        assert!(!Instant::NEVER.has_passed(Instant::NEVER));
        assert!(Instant::ZERO.has_passed(Instant::ZERO));
        assert!(!Instant::from_micros(2).has_passed(Instant::from_micros(1)));
    }

    #[test]
    fn a_part_of_a_microsecond_makes_a_deadline_later_not_earlier() {
        assert_eq!((Instant::ZERO + Duration::from_nanos(1)).as_micros(), 1);
        assert_eq!((Instant::ZERO + Duration::from_nanos(1_000)).as_micros(), 1);
        assert_eq!((Instant::ZERO + Duration::from_nanos(1_001)).as_micros(), 2);
    }

    #[test]
    fn the_earlier_deadline_wins_and_none_loses() {
        let early = Deadline::new(Instant::from_micros(1), Timer::Ping);
        let late = Deadline::new(Instant::from_micros(2), Timer::Dial);
        assert_eq!(Deadline::earlier(early, late), early);
        assert_eq!(Deadline::earlier(late, early), early);
        assert_eq!(Deadline::earlier(None, late), late);
        assert_eq!(Deadline::earlier(early, None), early);
    }
}
