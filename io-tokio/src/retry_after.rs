//! Retry-After, RFC 9110 §10.2.3: how long a server asks us to stay away.

use std::{
    str,
    time::{Duration, SystemTime},
};

use httpdate::parse_http_date;

/// The delay that a response asks for, counted from now, or `None` where it asks for none that can
/// be understood.
///
/// `values` are the values of every Retry-After header; of several the longest counts. A value is
/// a number of seconds, which saturates, or an HTTP-date. A date is taken relative to the
/// response's own Date header where that is valid, so that a wrong clock on either side does no
/// harm, else relative to `now`; one in the past is a delay of zero.
pub(crate) fn retry_after<'a>(
    values: impl Iterator<Item = &'a [u8]>,
    date: Option<&[u8]>,
    now: SystemTime,
) -> Option<Duration> {
    let from = date.and_then(http_date).unwrap_or(now);
    values.filter_map(|value| delay(value, from)).max()
}

fn delay(value: &[u8], from: SystemTime) -> Option<Duration> {
    let value = value.trim_ascii();
    if !value.is_empty() && value.iter().all(u8::is_ascii_digit) {
        let text = str::from_utf8(value).ok()?;
        // All digits: the only way to fail is to be too large.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let until = http_date(value)?;
    Some(until.duration_since(from).unwrap_or(Duration::ZERO))
}

fn http_date(value: &[u8]) -> Option<SystemTime> {
    parse_http_date(str::from_utf8(value).ok()?.trim_ascii()).ok()
}

/// What the fuzz target `retry_after` runs: the first line of `data` is the Date header, each other
/// one a Retry-After; a line that is empty is a header that is not there.
///
/// # Panics
/// What is asked for depends on the order of the headers or on one that cannot be understood, or a
/// client would not stay away for as long as it may.
#[cfg(any(test, fuzzing))]
pub fn fuzz(data: &[u8]) {
    use bowline_core::{Loss, Verdict, VerdictLimits, loss::verdict};

    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_778_846_400);
    let mut lines =
        data.split(|byte| *byte == b'\n').map(|line| Some(line).filter(|l| !l.is_empty()));
    let date = lines.next().flatten();
    let values: Vec<&[u8]> = lines.flatten().collect();
    let asked = retry_after(values.iter().copied(), date, now);
    assert_eq!(asked, retry_after(values.iter().rev().copied(), date, now), "the order counts");

    let from = date.and_then(http_date).unwrap_or(now);
    let mut longest = None;
    for value in values {
        let alone = retry_after([value].into_iter(), date, now);
        longest = longest.max(alone);
        let spaced = [b" \t", value, b"\t "].concat();
        assert_eq!(
            alone,
            retry_after([spaced.as_slice()].into_iter(), date, now),
            "a space counts"
        );
        let text = str::from_utf8(value).unwrap_or_default().trim_ascii();
        let digits = text.trim_start_matches('0');
        match alone {
            // A sum that saturates as the delay does, digit by digit.
            _ if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                let seconds = digits.bytes().fold(0_u64, |sum, digit| {
                    sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
                });
                assert_eq!(alone, Some(Duration::from_secs(seconds)));
            }
            // The date that is meant, written again, asks for the same; one in the past for nothing.
            Some(delay) => {
                let until = httpdate::fmt_http_date(from + delay);
                let again = retry_after([until.as_bytes()].into_iter(), date, now);
                assert_eq!(again, alone, "{text} is not {until}");
            }
            None => assert!(http_date(value).is_none()),
        }
    }
    assert_eq!(asked, longest);

    let limits = VerdictLimits {
        retry_after_cap: Duration::from_secs(300),
        backoff_cap: Duration::from_secs(30),
    };
    if let Verdict::RetryAfter(range) =
        verdict(Loss::Status { status: 429, retry_after: asked }, limits)
    {
        let least = asked.unwrap_or_default().min(limits.retry_after_cap);
        assert!(*range.start() >= least && *range.end() <= limits.retry_after_cap);
    } else {
        assert_eq!(asked, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// H61: what the fuzzer has found interesting.
    #[test]
    fn every_file_of_the_corpus_keeps_the_promises() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/retry_after");
        let mut replayed = 0;
        for file in std::fs::read_dir(folder).expect("the corpus is part of the repository") {
            let path = file.expect("the folder can be read").path();
            let data = std::fs::read(&path).expect("the file can be read");
            let outcome = std::panic::catch_unwind(|| fuzz(&data));
            assert!(outcome.is_ok(), "{} breaks a promise", path.display());
            replayed += 1;
        }
        assert!(replayed >= 20, "only {replayed} files");
    }

    const NOW: &str = "Fri, 15 May 2026 12:00:00 GMT";

    fn at(date: &str) -> SystemTime {
        parse_http_date(date).expect("a valid date")
    }

    fn asked(values: &[&str], date: Option<&str>) -> Option<Duration> {
        let values = values.iter().map(|value| value.as_bytes());
        retry_after(values, date.map(str::as_bytes), at(NOW))
    }

    fn seconds(n: u64) -> Option<Duration> {
        Some(Duration::from_secs(n))
    }

    #[test]
    fn seconds_are_a_delay() {
        assert_eq!(asked(&["120"], None), seconds(120));
        assert_eq!(asked(&[" 0 "], None), seconds(0));
        assert_eq!(asked(&["007"], None), seconds(7));
    }

    /// H61
    #[test]
    fn too_many_seconds_saturate() {
        assert_eq!(asked(&["100000000000000000000"], None), seconds(u64::MAX));
    }

    /// H61
    #[test]
    fn what_cannot_be_understood_asks_for_nothing() {
        for value in ["", " ", "-1", "+1", "1.5", "1e3", "soon", "0x10", "1, 2", "٣", "Fri, 15 May"]
        {
            assert_eq!(asked(&[value], None), None, "{value:?}");
        }
        assert_eq!(retry_after([&b"\xff\xfe"[..]].into_iter(), None, at(NOW)), None);
        assert_eq!(asked(&[], None), None);
    }

    #[test]
    fn a_date_is_relative_to_the_clock() {
        assert_eq!(asked(&["Fri, 15 May 2026 12:01:30 GMT"], None), seconds(90));
        // The two obsolete forms that RFC 9110 §5.6.7 still wants understood.
        assert_eq!(asked(&["Friday, 15-May-26 12:01:30 GMT"], None), seconds(90));
        assert_eq!(asked(&["Fri May 15 12:01:30 2026"], None), seconds(90));
    }

    #[test]
    fn a_date_is_relative_to_the_servers_own_date() {
        let server = Some("Thu, 14 May 2026 12:00:00 GMT");
        assert_eq!(asked(&["Thu, 14 May 2026 12:00:30 GMT"], server), seconds(30));
        assert_eq!(asked(&["Fri, 15 May 2026 12:00:30 GMT"], Some("yesterday")), seconds(30));
    }

    /// H61
    #[test]
    fn a_date_in_1970_is_no_delay_and_one_in_9999_a_long_one() {
        assert_eq!(asked(&["Thu, 01 Jan 1970 00:00:00 GMT"], None), seconds(0));
        let long = asked(&["Fri, 31 Dec 9999 23:59:59 GMT"], None).expect("a delay");
        assert!(long > Duration::from_secs(7_000 * 365 * 86_400));
    }

    /// H61
    #[test]
    fn of_several_the_longest_counts() {
        assert_eq!(asked(&["5", "Fri, 15 May 2026 12:01:30 GMT", "60"], None), seconds(90));
        assert_eq!(asked(&["never", "5"], None), seconds(5));
    }
}
