//! What has to follow from the end of a connection, written a second time.
//!
//! The [oracle](crate::oracle) does not ask the core's own table, or a mistake in that would be none.
//! This one is made from the other side: from the page of the design, RFC 9110 §10.2.3 (a client
//! ought to wait for as long as Retry-After says) and §15, RFC 6455 §7.4.

use core::time::Duration;

use bowline_core::{ConnectionConfig, Loss, Refusal, Verdict, VerdictFn, VerdictLimits};

/// The table to judge a client by: its own, if its settings name another than the default.
pub fn table_of(config: &ConnectionConfig) -> VerdictFn {
    let is_default = core::ptr::fn_addr_eq(config.verdict, ConnectionConfig::default().verdict);
    if is_default { verdict } else { config.verdict }
}

/// What a client without a table of its own has to make of a loss.
pub fn verdict(loss: Loss, limits: VerdictLimits) -> Verdict {
    let seconds = Duration::from_secs;
    match loss {
        Loss::Closed { code: Some(1008) }
        | Loss::Status { status: 401 | 403, .. }
        | Loss::Refused(Refusal::Renew) => Verdict::Renew,

        Loss::Closed { code: Some(1012) } => waits(seconds(5), seconds(30), limits),
        Loss::Closed { code: Some(1013) } => {
            waits(limits.backoff_cap / 2, limits.backoff_cap, limits)
        }
        Loss::Status { status: 429 | 503, retry_after: Some(delay) }
        | Loss::Refused(Refusal::RetryAfter(delay)) => waits(delay, spread(delay), limits),

        Loss::Status { status: 408 | 425 | 429, .. } => Verdict::Retry,
        Loss::Status { status: 100..500, .. }
        | Loss::Closed { code: Some(1010) }
        | Loss::Subprotocol
        | Loss::Certificate
        | Loss::BadUrl
        | Loss::NeverPonged
        | Loss::Refused(Refusal::Fatal) => Verdict::Fatal,

        // The rest says nothing of the next attempt.
        _ => Verdict::Retry,
    }
}

/// Clients that were told the same delay come back within a quarter of it, or a second.
fn spread(delay: Duration) -> Duration {
    delay.saturating_add(Duration::max(delay / 4, Duration::from_secs(1)))
}

fn waits(from: Duration, to: Duration, limits: VerdictLimits) -> Verdict {
    let cap = limits.retry_after_cap;
    Verdict::RetryAfter(from.min(cap)..=to.min(cap))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_the_table_of_the_core() {
        let limits = VerdictLimits {
            retry_after_cap: Duration::from_secs(300),
            backoff_cap: Duration::from_secs(30),
        };
        let delays = [None, Some(0), Some(7), Some(299), Some(301), Some(u64::MAX)];
        let statuses = (0..=700_u16).flat_map(|status| {
            delays.map(|delay| Loss::Status { status, retry_after: delay.map(Duration::from_secs) })
        });
        let codes = (0..=5_000).map(Some).chain([None]).map(|code| Loss::Closed { code });
        let refusals = [
            Refusal::Retry,
            Refusal::RetryAfter(Duration::from_secs(9)),
            Refusal::RetryAfter(Duration::MAX),
            Refusal::Renew,
            Refusal::Fatal,
        ];
        let others = [
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
        ];
        let all = statuses.chain(codes).chain(refusals.map(Loss::Refused)).chain(others);
        for loss in all {
            assert_eq!(
                verdict(loss, limits),
                bowline_core::loss::verdict(loss, limits),
                "{loss:?}"
            );
        }
    }
}
