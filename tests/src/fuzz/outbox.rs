//! Any events in any order, at any time, for an outbox, among them acks of any kind.

use core::time::Duration;

use arbitrary::Arbitrary;
use bowline_core::{
    Attempt, Body, Instant, Outbox, OutboxConfig, OutboxEvent, OutboxId, OutboxOutput, Overflow,
    PushOptions, Seq, Wire,
};

use super::{Passes, Which, read};

/// Reads events from `data` and lets an outbox live through them.
///
/// # Panics
/// A promise is broken: a message without a place or with two, more than there may be, a
/// transmission without a link or out of order, a drain without end, a deadline in the past.
pub fn run(data: &[u8]) {
    if let Some(input) = read(data) {
        live(input);
    }
}

#[derive(Arbitrary, Debug)]
struct Input {
    messages: u8,
    window: u8,
    budget: u8,
    evict: bool,
    settle: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
struct Step {
    passes: Passes,
    op: Op,
    which: Which,
    wire: Wire,
    polls: u8,
}

#[derive(Arbitrary, Debug)]
enum Op {
    Push(u8, PushOptions),
    Up,
    Event(OutboxEvent),
}

fn live(input: Input) {
    let messages = usize::from(input.messages % 8) + 1;
    let config = OutboxConfig {
        max_messages: messages,
        max_bytes: 256,
        window_bytes: 128,
        max_message_bytes: 64,
        window_messages: usize::from(input.window) % messages + 1,
        retry_budget: u32::from(input.budget % 4),
        overflow: if input.evict { Overflow::EvictOldest } else { Overflow::Reject },
        on_suspected: if input.settle {
            bowline_core::OnSuspected::Settle
        } else {
            bowline_core::OnSuspected::Wait
        },
        can_ack: true,
        ..OutboxConfig::default()
    };
    let id = OutboxId::new(1);
    let mut outbox = Outbox::new(config, id).expect("the settings are in their ranges");
    let mut now = Instant::ZERO;
    let mut newest = Attempt::NONE;
    let (mut settled, mut displaced) = (0_u64, 0_u64);
    // What was transmitted last on this attempt, and since the last nack.
    let mut last_sent = Seq::new(0);
    let mut sent_to = Seq::new(0);
    for Step { passes, op, which, wire, polls } in input.steps {
        now = passes.since(now);
        match op {
            Op::Push(len, options) => {
                let offered = options.clone();
                match outbox.push(now, Body::binary(vec![0; len.into()]), options) {
                    Ok(pushed) => {
                        displaced += pushed.displaced.len() as u64;
                        settled += pushed.displaced.len() as u64;
                    }
                    Err(refused) => {
                        assert!(refused.body.len() == usize::from(len));
                        assert_eq!(refused.options, offered);
                    }
                }
            }
            Op::Up => {
                newest = Attempt::new(newest.get() + 1);
                last_sent = Seq::new(0);
                outbox.handle(now, OutboxEvent::Up(newest));
            }
            Op::Event(event) => {
                let event = with_attempt(event, which.of(newest));
                if let OutboxEvent::Up(attempt) = event {
                    newest = newest.max(attempt);
                }
                if let OutboxEvent::Nacked(..) | OutboxEvent::NackedFrom(..) | OutboxEvent::Up(_) =
                    event
                {
                    last_sent = Seq::new(0);
                }
                outbox.handle(now, event);
            }
        }

        let whole = polls > 60;
        if whole {
            outbox.handle(now, OutboxEvent::Tick);
        }
        for poll in 0_u32.. {
            if !whole && poll >= polls.into() {
                break;
            }
            assert!(poll < 1_000, "a drain does not end");
            match outbox.poll(wire) {
                OutboxOutput::Transmit { id, .. } => {
                    assert_eq!(wire, Wire::Ready);
                    assert!(id.seq > last_sent, "out of order, or twice");
                    last_sent = id.seq;
                    sent_to = sent_to.max(id.seq);
                }
                OutboxOutput::Delivered { first, last } => {
                    assert!(last <= sent_to, "delivered, but never sent");
                    settled += last.get() - first.get() + 1;
                }
                OutboxOutput::Failed(_) => settled += 1,
                OutboxOutput::Ping(ping) => assert_eq!(ping.attempt, newest),
                OutboxOutput::Overdue(attempt) => assert_eq!(attempt, newest),
                OutboxOutput::WaitUntil(deadline) => {
                    assert!(!whole || deadline.is_none_or(|deadline| deadline.at > now));
                    break;
                }
            }
        }
        let stats = outbox.stats();
        assert!(outbox.held().messages <= messages && outbox.held().bytes <= 256);
        let ended = stats.delivered + stats.failed.iter().sum::<u64>() + displaced;
        let alive = (outbox.queued() + outbox.in_flight().messages) as u64;
        assert_eq!(stats.accepted, ended + alive, "a message has no place, or two");
        assert!(settled <= ended, "an outcome was reported twice");
        if outbox.is_empty() {
            assert_eq!(settled, ended, "an outcome was not reported");
        }
        let (slots, timers) = outbox.footprint();
        assert!(slots <= 2 * messages + 64 && timers <= 2 * messages + 64, "{slots}, {timers}");
    }
    // In the end a drain hands everything back.
    outbox.handle(now, OutboxEvent::Close { deadline: now });
    outbox.handle(now + Duration::from_secs(1), OutboxEvent::Tick);
    while !matches!(outbox.poll(Wire::Blocked), OutboxOutput::WaitUntil(_)) {}
    assert!(outbox.is_empty(), "a drain has left something behind");
}

fn with_attempt(event: OutboxEvent, attempt: Attempt) -> OutboxEvent {
    use OutboxEvent as E;
    match event {
        E::Flushed(_) => E::Flushed(attempt),
        E::Ponged(_, seq) => E::Ponged(attempt, seq),
        E::Acked(_, ack) => E::Acked(attempt, ack),
        E::Nacked(_, ack, nack) => E::Nacked(attempt, ack, nack),
        E::NackedFrom(_, id, nack) => E::NackedFrom(attempt, id, nack),
        E::Paused(_) => E::Paused(attempt),
        E::Resumed(_) => E::Resumed(attempt),
        // A far jump would leave no attempt for later.
        E::Up(_) => E::Up(attempt),
        E::Down { .. } | E::Cancel(_) | E::Close { .. } | E::Tick => event,
    }
}
