//! The delays between dials: inside their bounds for every count, every accepted setting and any
//! dice, and spread as evenly as the docs say.

use core::{convert::Infallible, time::Duration};

use bowline_core::{Backoff, ConfigError, ConnectionConfig, Jitter};
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_core::{SeedableRng, TryRng};

const DAY: Duration = Duration::from_secs(86_400);
const JITTERS: [Jitter; 4] = [Jitter::Full, Jitter::Equal, Jitter::Decorrelated, Jitter::None];

// ---- Bounds ---------------------------------------------------------------------------------------

/// H4: jitter is inside the cap, not on top of it.
#[test]
fn the_highest_draw_is_the_ceiling_and_the_highest_ceiling_the_cap() {
    let cap = Duration::from_secs(60);
    for failures in 0..64 {
        let full = Backoff { cap, ..Backoff::default() };
        let ceiling = full.ceiling(failures);
        assert_eq!(full.delay(failures, cap, &mut highest_of(Duration::ZERO, ceiling)), ceiling);
        let equal = Backoff { jitter: Jitter::Equal, ..full };
        assert_eq!(equal.delay(failures, cap, &mut highest_of(ceiling / 2, ceiling)), ceiling);
        let decorrelated = Backoff { jitter: Jitter::Decorrelated, ..full };
        assert_eq!(decorrelated.delay(failures, cap, &mut highest_of(full.base, cap)), cap);
    }
}

/// H5
#[test]
fn the_delay_is_defined_for_every_count_of_failures() {
    for jitter in JITTERS {
        let backoff = Backoff { jitter, ..Backoff::default() };
        for failures in (0..2_000).chain([1 << 16, 1 << 31, u32::MAX - 1, u32::MAX]) {
            assert!(backoff.delay(failures, backoff.cap, &mut seeded(1)) <= backoff.cap);
            if failures >= 5 {
                assert_eq!(backoff.ceiling(failures), backoff.cap);
            }
        }
    }
}

#[test]
fn the_ceiling_doubles_from_the_base_to_the_cap() {
    let backoff = Backoff::default();
    let seconds: Vec<_> = (0..8).map(|failures| backoff.ceiling(failures).as_secs()).collect();
    assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30, 30]);

    let tripled = Backoff { factor: 3, base: Duration::from_millis(7), ..backoff };
    let millis: Vec<_> = (0..9).map(|failures| tripled.ceiling(failures).as_millis()).collect();
    assert_eq!(millis, [7, 21, 63, 189, 567, 1_701, 5_103, 15_309, 30_000]);

    let constant = Backoff { factor: 1, ..backoff };
    assert_eq!(constant.ceiling(u32::MAX), Duration::from_secs(1));
}

proptest! {
    /// H4: whatever was accepted, whatever the dice.
    #[test]
    fn every_delay_is_between_its_floor_and_its_ceiling(
        backoff in accepted(),
        failures in counts(),
        last in prop_oneof![Just(Duration::ZERO), Just(Duration::MAX), durations(DAY)],
        mut dice in dice(),
    ) {
        let ceiling = backoff.ceiling(failures);
        let delay = backoff.delay(failures, last, &mut dice);
        prop_assert!(ceiling <= backoff.cap);
        prop_assert!(delay <= backoff.cap, "{delay:?}");
        match backoff.jitter {
            Jitter::Full => prop_assert!(delay <= ceiling),
            Jitter::Equal => prop_assert!(ceiling / 2 <= delay && delay <= ceiling),
            Jitter::Decorrelated => prop_assert!(backoff.base <= delay),
            Jitter::None => prop_assert_eq!(delay, ceiling),
            other => panic!("a jitter without a test: {other:?}"),
        }
    }

    /// H19: the smallest number that can be drawn gives the shortest delay that the jitter promises,
    /// so nobody waits for the ceiling each time.
    #[test]
    fn the_smallest_draw_gives_the_floor(backoff in accepted(), failures in counts()) {
        let ceiling = backoff.ceiling(failures);
        let delay = backoff.delay(failures, Duration::ZERO, &mut Dice::repeating([0]));
        let floor = match backoff.jitter {
            Jitter::Full => Duration::ZERO,
            Jitter::Equal => Duration::from_micros((ceiling.as_micros() / 2) as u64),
            Jitter::Decorrelated => backoff.base,
            _ => ceiling,
        };
        prop_assert!(delay.abs_diff(floor) <= Duration::from_micros(1), "{delay:?}, not {floor:?}");
    }

    /// H15: what is accepted makes sense, and what makes sense is accepted.
    #[test]
    fn a_policy_is_accepted_if_its_base_is_within_a_millisecond_and_the_cap(
        base in prop_oneof![Just(Duration::ZERO), durations(2 * DAY)],
        cap in prop_oneof![Just(Duration::ZERO), durations(2 * DAY)],
        factor in 0..4_u32,
    ) {
        let accepted = validate(Backoff { base, cap, factor, ..Backoff::default() }).is_ok();
        let makes_sense = base >= Duration::from_millis(1) && base <= cap && cap <= DAY;
        prop_assert_eq!(accepted, makes_sense && factor > 0);
    }

    /// H5
    #[test]
    fn the_ceiling_is_the_smaller_of_the_cap_and_the_power(
        backoff in accepted(),
        failures in counts(),
    ) {
        // In nanoseconds, one factor at a time.
        let cap = backoff.cap.as_nanos();
        let mut grown = backoff.base.as_nanos().div_ceil(1_000) * 1_000;
        for _ in 0..failures.min(100_000) {
            if grown >= cap || backoff.factor == 1 {
                break;
            }
            grown *= u128::from(backoff.factor);
        }
        prop_assert_eq!(backoff.ceiling(failures).as_nanos(), grown.min(cap));
    }

    #[test]
    fn a_decorrelated_delay_is_at_most_factor_and_one_times_the_last(
        backoff in accepted(),
        last in durations(DAY),
        mut dice in dice(),
    ) {
        let backoff = Backoff { jitter: Jitter::Decorrelated, ..backoff };
        let delay = backoff.delay(0, last, &mut dice);
        let most = last.max(backoff.base).saturating_mul(backoff.factor + 1);
        // Delays are whole microseconds.
        prop_assert!(delay <= most + Duration::from_micros(1));
    }
}

// ---- Dice -----------------------------------------------------------------------------------------

/// H19: no interval of time gets more than its share of the clients.
#[test]
fn full_jitter_covers_the_range_evenly() {
    const BUCKETS: usize = 100;
    const DRAWS: u32 = 100_000;
    let backoff = Backoff::default();
    let mut rng = seeded(19);
    let (mut least, mut most) = (backoff.cap, Duration::ZERO);
    let mut counts = [0_u32; BUCKETS];
    let mut sum = Duration::ZERO;
    for _ in 0..DRAWS {
        let delay = backoff.delay(u32::MAX, Duration::ZERO, &mut rng);
        (least, most) = (least.min(delay), most.max(delay));
        sum += delay;
        let bucket = delay.as_micros() * 100 / (backoff.cap.as_micros() + 1);
        counts[bucket as usize] += 1;
    }
    assert!(least < Duration::from_millis(10), "{least:?}");
    assert!(most > backoff.cap - Duration::from_millis(10), "{most:?}");
    let mean = sum / DRAWS;
    assert!(mean.abs_diff(backoff.cap / 2) < Duration::from_millis(200), "{mean:?}");
    // With 99 degrees of freedom 99 is expected; above 170 is one seed in 100,000.
    let expected = f64::from(DRAWS) / BUCKETS as f64;
    let chi_squared: f64 =
        counts.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
    assert!(chi_squared < 170.0, "{chi_squared}");
}

/// H6: each delay is its own draw, and a range of one microsecond is no division by zero.
#[test]
fn delays_come_from_the_dice_and_the_smallest_range_is_legal() {
    let backoff = Backoff::default();
    let mut rng = seeded(6);
    let mut delays: Vec<_> = (0..1_000).map(|_| backoff.delay(9, backoff.cap, &mut rng)).collect();
    delays.sort_unstable();
    delays.dedup();
    assert!(delays.len() > 990, "{} different delays of 1,000", delays.len());

    let millis = Duration::from_millis(1);
    for jitter in JITTERS {
        let smallest = Backoff { base: millis, cap: millis, factor: 1, jitter };
        assert!(smallest.delay(0, Duration::ZERO, &mut rng) <= millis);
    }
}

#[test]
fn a_draw_from_the_incomplete_multiple_at_the_top_is_thrown_away() {
    // By remainder alone the first draw would be taken, and small delays come more often.
    let backoff = Backoff::default();
    let delay = backoff.delay(0, Duration::ZERO, &mut Dice::repeating([u64::MAX, 5]));
    assert_eq!(delay, Duration::from_micros(5));
}

#[test]
fn no_draw_is_thrown_away_but_those_from_the_incomplete_multiple() {
    let backoff = Backoff::default();
    let count = backoff.ceiling(0).as_micros() as u64 + 1;
    let whole = u64::MAX - u64::MAX % count;
    for (first, delay) in [(whole - 1, count - 1), (whole, 5)] {
        let mut dice = Dice::repeating([first, 5]);
        assert_eq!(backoff.delay(0, Duration::ZERO, &mut dice), Duration::from_micros(delay));
    }
}

#[test]
fn a_generator_that_is_stuck_does_not_hang_the_machine() {
    for jitter in JITTERS {
        let backoff = Backoff { jitter, ..Backoff::default() };
        for stuck in [0, 1, u64::MAX, u64::MAX - 1, 1 << 63] {
            for failures in [0, 1, 5, u32::MAX] {
                let mut dice = Dice::repeating([stuck]);
                assert!(backoff.delay(failures, Duration::ZERO, &mut dice) <= backoff.cap);
                assert!(dice.drawn <= 100, "{} draws", dice.drawn);
            }
        }
    }
}

#[test]
fn no_jitter_draws_nothing() {
    let backoff = Backoff { jitter: Jitter::None, ..Backoff::default() };
    let mut dice = Dice::repeating([7]);
    assert_eq!(backoff.delay(3, Duration::ZERO, &mut dice), Duration::from_secs(8));
    assert_eq!(dice.drawn, 0);
}

#[test]
fn decorrelated_delays_reach_the_cap_and_come_back() {
    let backoff = Backoff { jitter: Jitter::Decorrelated, ..Backoff::default() };
    let mut rng = seeded(3);
    let mut last = Duration::ZERO;
    let delays: Vec<_> = (0..1_000)
        .map(|failures| {
            last = backoff.delay(failures, last, &mut rng);
            last
        })
        .collect();
    assert!(delays[0] <= 3 * backoff.base);
    assert!(delays.iter().any(|delay| *delay > backoff.cap * 9 / 10));
    assert!(delays[500..].iter().any(|delay| *delay < backoff.cap / 4));
}

// ---- Settings -------------------------------------------------------------------------------------

/// H15: a jitter cannot be negative, not a number or above one, for it is none of these; and what
/// can be wrong is refused before anything runs.
#[test]
fn a_policy_that_makes_no_sense_is_refused_with_its_field_value_and_range() {
    let fine = Backoff::default();
    let millis = Duration::from_millis;
    let nanos = Duration::from_nanos;
    for (backoff, message) in [
        (Backoff { base: Duration::ZERO, ..fine }, "backoff.base is 0ns, allowed is 1ms to 30s"),
        (
            Backoff { base: nanos(999_999), ..fine },
            "backoff.base is 999.999µs, allowed is 1ms to 30s",
        ),
        (
            Backoff { base: millis(30_001), ..fine },
            "backoff.base is 30.001s, allowed is 1ms to 30s",
        ),
        (
            Backoff { base: Duration::MAX, ..fine },
            "backoff.base is 18446744073709551615.999999999s, allowed is 1ms to 30s",
        ),
        (Backoff { cap: Duration::ZERO, ..fine }, "backoff.cap is 0ns, allowed is 1ms to 86400s"),
        (
            Backoff { cap: DAY + nanos(1), ..fine },
            "backoff.cap is 86400.000000001s, allowed is 1ms to 86400s",
        ),
        (Backoff { cap: millis(999), ..fine }, "backoff.base is 1s, allowed is 1ms to 999ms"),
        (Backoff { factor: 0, ..fine }, "backoff.factor is 0, allowed is 1 to 1000"),
        (Backoff { factor: 1_001, ..fine }, "backoff.factor is 1001, allowed is 1 to 1000"),
        (
            Backoff { factor: u32::MAX, ..fine },
            "backoff.factor is 4294967295, allowed is 1 to 1000",
        ),
    ] {
        assert_eq!(validate(backoff).unwrap_err().to_string(), message);
    }
}

#[test]
fn the_ends_of_the_allowed_ranges_are_allowed() {
    let millis = Duration::from_millis(1);
    for jitter in JITTERS {
        for (base, cap) in [(millis, millis), (millis, DAY), (DAY, DAY)] {
            for factor in [1, 1_000] {
                assert_eq!(validate(Backoff { base, factor, cap, jitter }), Ok(()));
            }
        }
    }
}

// ---- Helpers --------------------------------------------------------------------------------------

fn validate(backoff: Backoff) -> Result<(), ConfigError> {
    ConnectionConfig { backoff, ..ConnectionConfig::default() }.validate()
}

/// Policies that are accepted, the extreme ones often.
fn accepted() -> impl Strategy<Value = Backoff> {
    let factor = prop_oneof![Just(1), Just(2), Just(1_000), 1..=1_000_u32];
    let policy = (durations(DAY), durations(DAY), factor, proptest::sample::select(&JITTERS[..]));
    policy.prop_map(|(a, b, factor, jitter)| {
        let backoff = Backoff { base: a.min(b), cap: a.max(b), factor, jitter };
        assert_eq!(validate(backoff), Ok(()));
        backoff
    })
}

/// From a millisecond up, as often short as long, and not whole microseconds.
fn durations(most: Duration) -> impl Strategy<Value = Duration> {
    let least = Duration::from_millis(1);
    prop_oneof![
        Just(least),
        Just(least + Duration::from_nanos(1)),
        Just(most),
        (20..47_u32, any::<u64>()).prop_map(move |(bits, value)| {
            Duration::from_nanos(value >> (64 - bits)).clamp(least, most)
        }),
    ]
}

fn counts() -> impl Strategy<Value = u32> {
    prop_oneof![0..64_u32, any::<u32>(), Just(u32::MAX), Just(1_025)]
}

fn dice() -> impl Strategy<Value = Dice> {
    let number = prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), u64::MAX - 100_000_000_000..];
    proptest::collection::vec(number, 1..4).prop_map(|numbers| Dice { numbers, drawn: 0 })
}

fn seeded(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// Dice whose number is drawn as the highest of a range of whole microseconds.
fn highest_of(low: Duration, high: Duration) -> Dice {
    let count = (high - low).as_micros() as u64 + 1;
    Dice::repeating([u64::MAX - u64::MAX % count - 1])
}

/// A generator that shows these numbers over and over.
#[derive(Debug)]
struct Dice {
    numbers: Vec<u64>,
    drawn: usize,
}

impl Dice {
    fn repeating<const N: usize>(numbers: [u64; N]) -> Self {
        Self { numbers: numbers.to_vec(), drawn: 0 }
    }
}

impl TryRng for Dice {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.try_next_u64()? >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let number = self.numbers[self.drawn % self.numbers.len()];
        self.drawn += 1;
        Ok(number)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let number = self.try_next_u64()?.to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
        Ok(())
    }
}
