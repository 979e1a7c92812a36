//! How long to wait before the next dial: a policy, a number of failures, a random number.
//!
//! The default is exponential backoff with **full jitter inside the cap**,
//! `delay = uniform(0 ..= min(cap, base · factor^n))`: clients that lost the same server spread
//! over the whole interval instead of coming back together, and no delay is ever above the cap.
//! Everything is integer arithmetic that saturates, so each policy is defined for every count of
//! failures, and unbiased: a delay is drawn by rejection, not by a remainder.

use core::time::Duration;

use rand_core::Rng;

use crate::{
    config::{ConfigError, check},
    time::micros_ceil,
};

/// The longest cap that is accepted: a day.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// A policy that turns a count of failures in a row into a delay.
///
/// ```
/// use bowline_core::{Backoff, Jitter};
/// use core::time::Duration;
///
/// let backoff = Backoff {
///     base: Duration::from_millis(200),
///     cap: Duration::from_secs(10),
///     ..Backoff::default()
/// };
/// assert_eq!(backoff.ceiling(0), Duration::from_millis(200));
/// assert_eq!(backoff.ceiling(3), Duration::from_millis(1_600));
/// assert_eq!(backoff.ceiling(u32::MAX), Duration::from_secs(10));
/// assert_eq!(backoff.jitter, Jitter::Full);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Backoff {
    /// The ceiling of the first delay. Default 1 s; from 1 ms to `cap`.
    pub base: Duration,
    /// What the ceiling is multiplied by after each failure. Default 2; from 1 to 1,000.
    pub factor: u32,
    /// No delay is above it. Default 30 s; from `base` to a day.
    pub cap: Duration,
    /// How the delay is drawn below its ceiling. Default [`Jitter::Full`].
    pub jitter: Jitter,
}

/// How a delay is drawn below its ceiling, `min(cap, base · factor^n)`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Jitter {
    /// Anywhere from zero to the ceiling.
    Full,
    /// Anywhere in the upper half of that.
    Equal,
    /// From `base` to `factor + 1` times the last delay, at most `cap`; the count does not matter.
    Decorrelated,
    /// The ceiling itself. Clients that lost the same server come back in the same moment: for
    /// tests, and for a client that is alone.
    None,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            factor: 2,
            cap: Duration::from_secs(30),
            jitter: Jitter::Full,
        }
    }
}

impl Backoff {
    /// The largest delay after `failures` failures before this one: `min(cap, base · factor^failures)`.
    pub fn ceiling(&self, failures: u32) -> Duration {
        let grown = u64::from(self.factor)
            .checked_pow(failures)
            .and_then(|power| micros_ceil(self.base).checked_mul(power))
            .unwrap_or(u64::MAX);
        Duration::from_micros(grown).min(self.cap)
    }

    /// The delay after `failures` failures before this one. `last` is the delay drawn before, zero
    /// if none; only [`Jitter::Decorrelated`] looks at it.
    pub fn delay(&self, failures: u32, last: Duration, rng: &mut impl Rng) -> Duration {
        let ceiling = self.ceiling(failures);
        match self.jitter {
            Jitter::Full => uniform(Duration::ZERO, ceiling, rng),
            Jitter::Equal => uniform(ceiling / 2, ceiling, rng),
            Jitter::Decorrelated => {
                let grown = last.max(self.base).saturating_mul(self.factor.saturating_add(1));
                // A base of parts of a microsecond is rounded up, and must not pass the cap.
                uniform(self.base, grown.min(self.cap), rng).min(self.cap)
            }
            Jitter::None => ceiling,
        }
    }

    /// Checks the ranges that the fields state.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        check("backoff.cap", self.cap, Duration::from_millis(1)..=LONGEST)?;
        check("backoff.base", self.base, Duration::from_millis(1)..=self.cap)?;
        check("backoff.factor", self.factor, 1..=1_000)
    }
}

/// A duration drawn evenly from `low ..= high`, to the microsecond.
pub(crate) fn uniform(low: Duration, high: Duration, rng: &mut impl Rng) -> Duration {
    let low = micros_ceil(low);
    let high = u64::try_from(high.as_micros()).unwrap_or(u64::MAX).max(low);
    let Some(count) = (high - low).checked_add(1) else {
        return Duration::from_micros(rng.next_u64());
    };
    // Draws from the top, incomplete multiple of `count` are thrown away, or small values would
    // come more often. At most every second draw is, but a generator that is stuck must not hang
    // its machine: after 64 it is taken as it is.
    let whole = u64::MAX - u64::MAX % count;
    let mut drawn = rng.next_u64();
    for _ in 0..64 {
        if drawn < whole {
            break;
        }
        drawn = rng.next_u64();
    }
    Duration::from_micros(low + drawn % count)
}
