//! Losses and their verdicts, row by row against a second table that was written apart from the
//! code; and the settings of the connection, each with its range.

use core::{ops::RangeInclusive, time::Duration};
use std::collections::BTreeSet;

use bowline_core::{
    ConnectionConfig, Loss, Refusal, Verdict, VerdictLimits, loss::verdict as judge,
};
use proptest::prelude::*;

const LIMITS: VerdictLimits = VerdictLimits {
    retry_after_cap: Duration::from_secs(300),
    backoff_cap: Duration::from_secs(30),
};

// ---- Verdicts -------------------------------------------------------------------------------------

/// H9: a table with a row for every status, so that none is retried or believed by accident.
#[test]
fn every_status_has_its_verdict() {
    use Verdict::{Fatal, Renew, Retry};
    let table = [
        (0..=99, Retry), // not HTTP
        (100..=199, Fatal),
        (200..=299, Fatal),
        (300..=399, Fatal),
        (400..=400, Fatal),
        (401..=401, Renew), // unauthorized
        (402..=402, Fatal),
        (403..=403, Renew), // forbidden
        (404..=407, Fatal),
        (408..=408, Retry), // request timeout
        (409..=424, Fatal),
        (425..=425, Retry), // too early
        (426..=428, Fatal),
        (429..=429, Retry), // too many requests
        (430..=499, Fatal),
        (500..=599, Retry),
        (600..=u16::MAX, Retry), // not HTTP
    ];
    let some = Some(Duration::from_secs(8));
    for (status, expected) in rows(&table) {
        assert_eq!(judge(Loss::Status { status, retry_after: None }, LIMITS), expected, "{status}");
        // Retry-After means something on two statuses only.
        let expected = match status {
            429 | 503 => Verdict::RetryAfter(secs(8)..=secs(10)),
            _ => expected,
        };
        assert_eq!(judge(Loss::Status { status, retry_after: some }, LIMITS), expected, "{status}");
    }
}

/// H61: the seconds saturate, and what makes no sense asks for nothing.
#[test]
fn a_refused_upgrade_carries_the_seconds_of_its_retry_after() {
    let after = |value: &str| match Loss::from_status(503_u16, Some(value)) {
        Loss::Status { status: 503, retry_after } => retry_after,
        loss => panic!("{loss:?}"),
    };
    for (value, seconds) in
        [("120", 120), (" 0 ", 0), ("007", 7), ("100000000000000000000", u64::MAX)]
    {
        assert_eq!(after(value), Some(Duration::from_secs(seconds)), "{value:?}");
    }
    let date = "Fri, 15 May 2026 12:00:00 GMT";
    for value in ["", " ", "-1", "+1", "1.5", "1e3", "soon", "0x10", "1, 2", "٣", date] {
        assert_eq!(after(value), None, "{value:?}");
    }
    let none = Loss::Status { status: 404, retry_after: None };
    assert_eq!(Loss::from_status(404_u16, None::<&str>), none);
}

/// H21: a table with a row for every close code; a clean end is retried like any other.
#[test]
fn every_close_code_has_its_verdict() {
    use Verdict::{Fatal, Renew, Retry, RetryAfter};
    let table = [
        (0..=1007, Retry),
        (1008..=1008, Renew), // policy violation: expired credentials, in practice
        (1009..=1009, Retry),
        (1010..=1010, Fatal), // an extension that we would have to offer
        (1011..=1011, Retry),
        (1012..=1012, RetryAfter(secs(5)..=secs(30))), // service restart
        (1013..=1013, RetryAfter(secs(15)..=secs(30))), // try again later
        (1014..=u16::MAX, Retry),
    ];
    for (code, expected) in rows(&table) {
        assert_eq!(judge(Loss::Closed { code: Some(code) }, LIMITS), expected, "{code}");
        let accuses = [1003, 1007, 1009].contains(&code);
        assert_eq!(Loss::Closed { code: Some(code) }.accuses_a_message(), accuses, "{code}");
    }
    assert_eq!(judge(Loss::Closed { code: None }, LIMITS), Retry);
    assert!(!Loss::Closed { code: None }.accuses_a_message());
}

/// H9
#[test]
fn every_other_loss_has_its_verdict() {
    let fatal = [Loss::Subprotocol, Loss::Certificate, Loss::BadUrl, Loss::NeverPonged];
    let mut judged = 0;
    for loss in plain_losses() {
        let expected = if fatal.contains(&loss) { Verdict::Fatal } else { Verdict::Retry };
        assert_eq!(judge(loss, LIMITS), expected, "{loss}");
        assert!(!loss.accuses_a_message(), "{loss}");
        judged += 1;
    }
    assert_eq!(judged, Loss::KINDS.len() - 3, "all but closed, status and refused");
}

/// H19: clients that a restarted server refused for the same time do not come back together.
#[test]
fn a_refused_greeting_carries_its_own_verdict() {
    for (refusal, expected) in [
        (Refusal::Retry, Verdict::Retry),
        (Refusal::RetryAfter(secs(2)), Verdict::RetryAfter(secs(2)..=secs(3))),
        (Refusal::RetryAfter(secs(8)), Verdict::RetryAfter(secs(8)..=secs(10))),
        (Refusal::RetryAfter(Duration::MAX), Verdict::RetryAfter(secs(300)..=secs(300))),
        (Refusal::Renew, Verdict::Renew),
        (Refusal::Fatal, Verdict::Fatal),
    ] {
        assert_eq!(judge(Loss::Refused(refusal), LIMITS), expected);
        assert!(!Loss::Refused(refusal).accuses_a_message());
    }
}

#[test]
fn clients_that_were_told_the_same_time_are_spread_by_a_quarter_and_at_least_a_second() {
    for (told, range) in [
        (Duration::ZERO, secs(0)..=secs(1)),
        (secs(1), secs(1)..=secs(2)),
        (secs(4), secs(4)..=secs(5)),
        (secs(100), secs(100)..=secs(125)),
        (secs(280), secs(280)..=secs(300)),
        (secs(300), secs(300)..=secs(300)),
        (secs(u64::MAX), secs(300)..=secs(300)),
        (Duration::MAX, secs(300)..=secs(300)),
    ] {
        for status in [429, 503] {
            let loss = Loss::Status { status, retry_after: Some(told) };
            assert_eq!(judge(loss, LIMITS), Verdict::RetryAfter(range.clone()), "{told:?}");
        }
    }
}

proptest! {
    #[test]
    fn no_range_of_delays_is_above_its_cap_or_upside_down(
        told in prop_oneof![Just(Duration::MAX), any::<Duration>(), (0..600_000_u64).prop_map(Duration::from_millis)],
        caps in (1..86_400_000_u64, 1..86_400_000_u64),
    ) {
        let limits = VerdictLimits {
            retry_after_cap: Duration::from_millis(caps.0),
            backoff_cap: Duration::from_millis(caps.1),
        };
        for loss in [
            Loss::Status { status: 429, retry_after: Some(told) },
            Loss::Status { status: 503, retry_after: Some(told) },
            Loss::Closed { code: Some(1012) },
            Loss::Closed { code: Some(1013) },
            Loss::Refused(Refusal::RetryAfter(told)),
        ] {
            let Verdict::RetryAfter(range) = judge(loss, limits) else {
                panic!("{loss} has a time of its own")
            };
            prop_assert!(range.start() <= range.end());
            prop_assert!(*range.end() <= limits.retry_after_cap);
            if let Loss::Status { .. } | Loss::Refused(_) = loss {
                let told = told.min(limits.retry_after_cap);
                prop_assert_eq!(*range.start(), told);
                // H19: not all at once.
                let spread = (told / 4).max(secs(1));
                prop_assert_eq!(*range.end(), (told + spread).min(limits.retry_after_cap));
            }
        }
    }
}

// ---- Names ----------------------------------------------------------------------------------------

#[test]
fn the_kind_of_each_loss_is_the_index_of_its_name() {
    let mut seen = BTreeSet::new();
    for loss in every_loss() {
        let debug = format!("{loss:?}");
        let name: String = debug.chars().take_while(|c| c.is_alphanumeric()).collect();
        assert_eq!(Loss::KINDS[loss.kind()], snake_case(&name));
        seen.insert(loss.kind());
    }
    assert_eq!(seen.len(), Loss::KINDS.len(), "each kind once, none left over");
}

#[test]
fn each_loss_says_something_short_of_its_own() {
    let mut texts = BTreeSet::new();
    for loss in every_loss() {
        let text = loss.to_string();
        assert!((10..250).contains(&text.len()), "{text}");
        assert!(text.starts_with(|c: char| c.is_lowercase()), "{text}");
        assert!(!text.ends_with('.') && text.chars().all(|c| (' '..='~').contains(&c)), "{text}");
        assert!(texts.insert(text), "two losses say the same: {loss}");
    }
}

/// What a loss carries are numbers, so there is nothing secret that it could print. This holds as
/// long as it is as small as this, and `Copy`.
#[test]
fn a_loss_has_no_room_for_a_secret() {
    fn is_copy<T: Copy + 'static>() {}
    is_copy::<Loss>();
    assert!(size_of::<Loss>() <= 24, "{} bytes", size_of::<Loss>());
    for loss in every_loss() {
        for text in [loss.to_string(), format!("{loss:?}")] {
            for secret in ["://", "?", "@", "=", "Bearer", "Cookie", "Authorization"] {
                assert!(!text.contains(secret), "{text}");
            }
        }
    }
}

// ---- Settings -------------------------------------------------------------------------------------

#[test]
fn the_defaults_are_allowed() {
    assert_eq!(ConnectionConfig::default().validate(), Ok(()));
}

#[test]
fn each_duration_out_of_its_range_is_refused_with_its_field_value_and_range() {
    type Field = fn(&mut ConnectionConfig) -> &mut Duration;
    let fields: [(&str, Field); 9] = [
        ("dial_limit", |config| &mut config.dial_limit),
        ("greeting_limit", |config| &mut config.greeting_limit),
        ("ping_interval", |config| &mut config.ping_interval),
        ("pong_limit", |config| &mut config.pong_limit),
        ("write_limit", |config| &mut config.write_limit),
        ("close_limit", |config| &mut config.close_limit),
        ("stable_after", |config| &mut config.stable_after),
        ("nudge_floor", |config| &mut config.nudge_floor),
        ("retry_after_cap", |config| &mut config.retry_after_cap),
    ];
    let nano = Duration::from_nanos(1);
    let (least, most) = (Duration::from_millis(1), secs(86_400));
    for (name, field) in fields {
        let with = |value| {
            let mut config = ConnectionConfig::default();
            *field(&mut config) = value;
            config.validate()
        };
        for refused in [Duration::ZERO, least - nano, most + nano, Duration::MAX] {
            let error = with(refused).unwrap_err();
            assert_eq!(error.field, name);
            let message = format!("{name} is {refused:?}, allowed is 1ms to 86400s");
            assert_eq!(error.to_string(), message);
        }
        for allowed in [least, most] {
            assert_eq!(with(allowed), Ok(()), "{name}");
        }
    }
}

#[test]
fn each_limit_out_of_its_range_is_refused_with_its_field_value_and_range() {
    let attempts = |max| ConnectionConfig { max_attempts: Some(max), ..Default::default() };
    let elapsed = |max| ConnectionConfig { max_elapsed: Some(max), ..Default::default() };

    let error = attempts(0).validate().unwrap_err();
    assert_eq!(error.to_string(), "max_attempts is 0, allowed is 1 to 4294967295");
    let error = elapsed(Duration::from_nanos(999_999)).validate().unwrap_err();
    let most = "18446744073709551615.999999999s";
    assert_eq!(error.to_string(), format!("max_elapsed is 999.999µs, allowed is 1ms to {most}"));

    for allowed in [attempts(1), attempts(u32::MAX), elapsed(Duration::MAX)] {
        assert_eq!(allowed.validate(), Ok(()));
    }
}

// ---- Helpers --------------------------------------------------------------------------------------

/// A table of ranges as one row for each number. The ranges leave no gap and do not overlap.
fn rows(table: &[(RangeInclusive<u16>, Verdict)]) -> Vec<(u16, Verdict)> {
    let rows: Vec<_> = table
        .iter()
        .flat_map(|(range, verdict)| range.clone().map(|number| (number, verdict.clone())))
        .collect();
    assert!(rows.iter().map(|(number, _)| *number).eq(0..=u16::MAX));
    rows
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// The losses without details.
fn plain_losses() -> [Loss; 18] {
    [
        Loss::Dns,
        Loss::Connect,
        Loss::Io,
        Loss::Eof,
        Loss::BadUpgrade,
        Loss::Subprotocol,
        Loss::Protocol,
        Loss::TooLarge,
        Loss::Tls,
        Loss::Certificate,
        Loss::BadUrl,
        Loss::Provider,
        Loss::DialLimit,
        Loss::GreetingLimit,
        Loss::WriteLimit,
        Loss::PongLimit,
        Loss::NeverPonged,
        Loss::Overdue,
    ]
}

/// A loss of each kind, and of the kinds with details several.
fn every_loss() -> impl Iterator<Item = Loss> {
    let refusals = [Refusal::Retry, Refusal::RetryAfter(secs(7)), Refusal::Renew, Refusal::Fatal];
    plain_losses()
        .into_iter()
        .chain([None, Some(1000), Some(u16::MAX)].map(|code| Loss::Closed { code }))
        .chain([
            Loss::Status { status: 404, retry_after: None },
            Loss::Status { status: 503, retry_after: Some(Duration::MAX) },
        ])
        .chain(refusals.map(Loss::Refused))
}

/// `BadUrl` as `bad_url`.
fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    snake
}
