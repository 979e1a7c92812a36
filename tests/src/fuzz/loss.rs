//! Any loss, any limits: the verdict is a range within the cap.

use core::time::Duration;

use arbitrary::Arbitrary;
use bowline_core::{Loss, Refusal, Verdict, VerdictLimits, loss::verdict};

use super::read;

/// Reads a loss and limits from `data` and looks at the verdict.
///
/// # Panics
/// The delay is above the cap or its range is empty, the name of the loss is missing, or its text
/// is empty.
pub fn run(data: &[u8]) {
    if let Some(input) = read(data) {
        judge(input);
    }
}

#[derive(Arbitrary, Debug)]
struct Input {
    loss: Loss,
    limits: VerdictLimits,
}

fn judge(Input { loss, limits }: Input) {
    assert!(!Loss::KINDS[loss.kind()].is_empty() && !loss.to_string().is_empty());
    let asked = match loss {
        Loss::Status { status: 429 | 503, retry_after } => retry_after,
        Loss::Refused(Refusal::RetryAfter(delay)) => Some(delay),
        _ => None,
    };
    match verdict(loss, limits) {
        Verdict::RetryAfter(range) => {
            assert!(range.start() <= range.end(), "an empty range");
            assert!(*range.end() <= limits.retry_after_cap, "a delay above the cap");
            let asked = asked.unwrap_or(Duration::ZERO).min(limits.retry_after_cap);
            assert!(*range.start() >= asked, "sooner than the server asked for");
        }
        other => assert_eq!(asked, None, "{other:?} does not heed the server's delay"),
    }
}
