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

#[cfg(test)]
mod tests {
    use super::*;

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
