//! Hostile snapshots: refused and handed back, or restored and lived to the end.

use core::time::Duration;

use arbitrary::Arbitrary;
use bowline_core::{
    Body, Instant, MessageId, Outbox, OutboxConfig, OutboxEvent, OutboxId, OutboxOutput,
    PushOptions, Seq, Snapshot, Wire,
};

use super::read;

/// Reads a snapshot from `data`, restores it if it will, and lives it to the end: each message
/// that is alive in it has one outcome, and so has one that is pushed afterwards.
///
/// # Panics
/// A refused snapshot is not handed back as it was, or a promise is broken by a restored one.
pub fn run(data: &[u8]) {
    if let Some(input) = read(data) {
        live(input);
    }
}

#[derive(Arbitrary, Debug)]
struct Input {
    snapshot: Snapshot,
    /// Make the numbers rise, so that not only the checks are tried.
    tidy: bool,
    small: bool,
    drop_each: u8,
    can_ack: bool,
}

fn live(input: Input) {
    let mut snapshot = input.snapshot;
    if input.tidy {
        tidy(&mut snapshot);
    }
    let stored = snapshot.clone();
    let id = OutboxId::new(u128::MAX);
    let mut config = OutboxConfig { can_ack: input.can_ack, ..OutboxConfig::default() };
    if input.small {
        config.max_messages = 4;
        config.window_messages = 2;
    }
    let mut now = Instant::from_micros(7);
    let mut outbox = match Outbox::restore(config.clone(), id, now, snapshot) {
        Ok(outbox) => outbox,
        Err(refused) => return assert_eq!(*refused.snapshot, stored, "it was altered"),
    };
    let again = outbox.snapshot();
    let is_fresh = |id: &OutboxId| again.messages.iter().all(|saved| saved.id.outbox != *id);
    let fresh = (0..).map(OutboxId::new).find(is_fresh).expect("few names are in use");
    assert!(Outbox::restore(config, fresh, now, again).is_ok());

    let mut owed: Vec<Seq> = stored.messages.iter().map(|saved| saved.id.seq).collect();
    if let Ok(pushed) = outbox.push(now, Body::text("new"), PushOptions::default()) {
        assert!(pushed.seq >= stored.next_seq && pushed.displaced.is_empty());
        owed.push(pushed.seq);
    }
    let mut attempt = bowline_core::Attempt::NONE;
    let mut settled = Vec::new();
    for round in 0.. {
        assert!(round < 1_000, "nothing moves");
        if outbox.is_empty() {
            break;
        }
        // Every so many rounds the link breaks.
        if round % (u64::from(input.drop_each) + 2) == 0 {
            outbox.handle(now, OutboxEvent::Down { accused: false });
            attempt = bowline_core::Attempt::new(round + 1);
            outbox.handle(now, OutboxEvent::Up(attempt));
        }
        for poll in 0.. {
            assert!(poll < 10_000, "a drain does not end");
            match outbox.poll(Wire::Ready) {
                OutboxOutput::Transmit { id, .. } => {
                    outbox.handle(now, OutboxEvent::Flushed(attempt));
                    if input.can_ack {
                        let ack = bowline_core::Ack::OneOf(id);
                        outbox.handle(now, OutboxEvent::Acked(attempt, ack));
                    }
                }
                OutboxOutput::Ping(ping) => {
                    outbox.handle(now, OutboxEvent::Ponged(attempt, ping.seq));
                }
                OutboxOutput::Delivered { first, last } => {
                    settled.extend(owed.iter().filter(|&&seq| first <= seq && seq <= last));
                }
                OutboxOutput::Failed(failed) => settled.push(failed.id.seq),
                OutboxOutput::Overdue(_) => {}
                OutboxOutput::WaitUntil(deadline) => {
                    if let Some(deadline) = deadline {
                        now = now.max(deadline.at);
                    } else {
                        now = now + Duration::from_millis(1);
                    }
                    outbox.handle(now, OutboxEvent::Tick);
                    break;
                }
            }
        }
    }
    settled.sort();
    assert_eq!(settled, owed, "an outcome is missing, or came twice");
    assert_eq!(outbox.stats().violations, 0);
}

/// Makes a snapshot that contradicts itself less.
fn tidy(snapshot: &mut Snapshot) {
    let mut number = 0;
    for saved in &mut snapshot.messages {
        number += 1 + saved.id.seq.get() % 3;
        saved.id.seq = Seq::new(number);
        saved.id.outbox = OutboxId::new(u128::from(number / 4));
        let delivered = saved.outcome == Some(bowline_core::outbox::SavedOutcome::Delivered);
        if delivered {
            saved.body = None;
        } else if saved.body.is_none() {
            saved.body = Some(Body::text("a body"));
        }
    }
    snapshot.next_seq = Seq::new(number + 1 + snapshot.next_seq.get() % 3);
    let runs = snapshot.messages.chunk_by(|a, b| a.id.outbox == b.id.outbox);
    let mut runs = runs.map(|run| (run[0].id.seq, run[run.len() - 1].id)).peekable();
    let mut ends = Vec::new();
    while let Some((_, last)) = runs.next() {
        let next = runs.peek().map_or(snapshot.next_seq, |&(first, _)| first);
        let forged = snapshot.ends.get(ends.len());
        // The last outbox may lack.
        if let (None, None) = (runs.peek(), forged) {
            break;
        }
        let behind = forged.map_or(0, |end| end.seq.get()) % (next.get() - last.seq.get());
        ends.push(MessageId { seq: Seq::new(last.seq.get() + behind), ..last });
    }
    snapshot.ends = ends;
    snapshot.sent_to = Seq::new(snapshot.sent_to.get() % snapshot.next_seq.get());
}
