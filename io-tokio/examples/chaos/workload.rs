//! What is sent, and when: the same for every contender.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How long every message is. A payload is its number in decimal, padded.
pub(crate) const PAYLOAD_BYTES: usize = 100;

/// What one message takes on the wire: payload, a four byte header, a mask (RFC 6455 §5.2).
pub(crate) const FRAME_BYTES: usize = PAYLOAD_BYTES + 4;

/// The messages of a run: number n exists from `start + n / rate` on, whatever the network does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pub(crate) start: Instant,
    pub(crate) messages: u64,
    pub(crate) rate: u64,
}

impl Schedule {
    /// Waits until message `number` exists. Cancel safe.
    pub(crate) async fn due(&self, number: u64) {
        sleep_until(self.start + after(number, self.rate)).await;
    }

    /// For how long messages are produced.
    pub(crate) fn span(&self) -> Duration {
        after(self.messages, self.rate)
    }
}

fn after(number: u64, rate: u64) -> Duration {
    Duration::from_secs_f64(number as f64 / rate as f64)
}

/// The text of message `number`.
pub(crate) fn payload(number: u64) -> String {
    format!("{number:.<PAYLOAD_BYTES$}")
}

/// The number of the message with this text.
pub(crate) fn number(payload: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(payload).ok()?;
    text.trim_end_matches('.').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_its_length_and_names_its_number() {
        for n in [0, 7, 10, 123_456_789, u64::MAX] {
            let text = payload(n);
            assert_eq!(text.len(), PAYLOAD_BYTES);
            assert_eq!(number(text.as_bytes()), Some(n));
        }
        assert_eq!(number(b"...."), None);
    }
}
