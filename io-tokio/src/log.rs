//! What goes to the log, with feature `tracing`: one event for each change of state, and one for
//! what is left at the end. No header, URL or payload is ever in it.

use bowline_core::Status;

/// A change of state: from, to, cause, attempt.
#[cfg(feature = "tracing")]
pub(crate) fn status(from: &Status, to: &Status) {
    use bowline_core::Phase;

    let attempt = to.attempt.get();
    let cause = to.last_loss.map(|loss| loss.to_string());
    let cause = cause.as_deref().unwrap_or("none");
    match to.phase {
        // Only what is known about it has changed.
        _ if (from.phase, from.attempt) == (to.phase, to.attempt) => {}
        Phase::Stopped { reason } => {
            tracing::warn!(target: "bowline", from = ?from.phase, to = "Stopped", %reason, attempt);
        }
        Phase::Waiting { .. } => {
            tracing::info!(target: "bowline", from = ?from.phase, to = "Waiting", cause, attempt);
        }
        to => tracing::debug!(target: "bowline", from = ?from.phase, ?to, cause, attempt),
    }
    if let (None, Some(seq)) = (from.suspected, to.suspected) {
        tracing::warn!(
            target: "bowline",
            seq = seq.get(),
            "connections keep dying with this message alone in flight"
        );
    }
}

/// Failures that nobody awaits.
#[cfg(feature = "tracing")]
pub(crate) fn unawaited(messages: usize) {
    if messages > 0 {
        tracing::warn!(
            target: "bowline",
            messages,
            "messages failed and nobody awaits their receipts"
        );
    }
}

/// The driver is done; `left` messages were not delivered.
#[cfg(feature = "tracing")]
pub(crate) fn end(left: usize) {
    if left > 0 {
        tracing::warn!(target: "bowline", left, "the client ended with messages undelivered");
    }
}

/// The client is not recorded any more.
#[cfg(all(feature = "tracing", feature = "trace"))]
pub(crate) fn untraced(error: &crate::TraceError) {
    tracing::warn!(target: "bowline", %error, "the client goes on without being recorded");
}

#[cfg(not(feature = "tracing"))]
pub(crate) fn status(_from: &Status, _to: &Status) {}

#[cfg(not(feature = "tracing"))]
pub(crate) fn unawaited(_messages: usize) {}

#[cfg(not(feature = "tracing"))]
pub(crate) fn end(_left: usize) {}

#[cfg(all(not(feature = "tracing"), feature = "trace"))]
pub(crate) fn untraced(_error: &crate::TraceError) {}
