//! R5: what an event costs does not depend on how many messages there are. The outbox counts the
//! slots and timers that it looks at; here they are held against what it was asked.

use std::time::Duration;

use bowline_core::{
    Ack, Attempt, Body, Instant, Key, Level, MessageId, Nack, Outbox, OutboxConfig, OutboxEvent,
    OutboxId, OutboxOutput, Overflow, PushOptions, Seq, Wire,
};
use proptest::prelude::*;

/// What a call may look at, on average over all calls that end in a drain. Of the calls of one
/// message, that which hands it over pays for a flush, a pong and an answer that pass by it on this
/// link, that which reports it for what passes by its place until that is gone.
const EACH: u64 = 6;

/// What may be due at the beginning: what is in flight then was paid for before.
const DUE: u64 = 4;

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// R5, amortised: thousands of messages, and a head that nobody acknowledges.
    #[test]
    fn an_event_costs_the_same_however_many_messages_there_are(
        messages in 200..3_000_usize,
        window in prop::sample::select(vec![4, 64, 10_000]),
        overflow in prop::sample::select(vec![Overflow::Reject, Overflow::EvictOldest]),
        is_restored in any::<bool>(),
        weights in prop::collection::vec(0..8_u32, 11),
        ops in prop::collection::vec((any::<prop::sample::Index>(), any::<u16>()), 500..2_000),
    ) {
        // Pushes always, others often or never.
        let mut kinds = vec![0];
        for (kind, weight) in weights.into_iter().enumerate() {
            kinds.extend((0..weight).map(|_| kind));
        }
        let mut meter = Meter::new(messages, window, overflow, is_restored);
        for (kind, place) in ops {
            meter.apply(*kind.get(&kinds), place);
        }
        meter.drain(Wire::Ready);
    }
}

struct Meter {
    outbox: Outbox,
    now: Instant,
    attempts: u64,
    /// Up to where cumulative acks have gone.
    acked_to: u64,
    /// Calls of the outbox, and what they may look at altogether.
    calls: u64,
    due: u64,
}

impl Meter {
    /// An outbox that is full, and up.
    fn new(messages: usize, window: usize, overflow: Overflow, is_restored: bool) -> Self {
        let config = OutboxConfig {
            max_messages: messages,
            window_messages: window.min(messages),
            overflow,
            retry_budget: 1_000_000,
            level: Level::Acked,
            can_ack: true,
            ..OutboxConfig::default()
        };
        let outbox = Outbox::new(config.clone(), OutboxId::new(1)).unwrap();
        let mut meter =
            Self { outbox, now: Instant::ZERO, attempts: 0, acked_to: 1, calls: 0, due: u64::MAX };
        meter.push(None, None);
        if is_restored {
            // Acks of the new outbox do not name what the old one left.
            let snapshot = meter.outbox.snapshot();
            let restored = Outbox::restore(config, OutboxId::new(2), meter.now, snapshot);
            meter.outbox = restored.map_err(|refused| refused.reason).unwrap();
        }
        for _ in 1..messages {
            meter.push(None, None);
        }
        meter.up();
        meter.drain(Wire::Ready);
        meter.calls = 0;
        meter.due = meter.outbox.steps() + DUE * messages as u64 + 100;
        meter
    }

    fn apply(&mut self, kind: usize, place: u16) {
        let attempt = Attempt::new(self.attempts);
        let (head, next) = (self.outbox.watermark().get(), self.outbox.next_seq().get());
        // Anywhere behind the head.
        let seq = Seq::new(head + 1 + u64::from(place) * (next - head).saturating_sub(1) / 65_536);
        let id = MessageId { outbox: self.outbox.id(), seq };
        match kind {
            0 => {
                let ttl = Duration::from_millis(100 + u64::from(place % 64) * 50);
                let key = (place % 3 == 0).then(|| Key::from(&place.to_le_bytes()[..1]));
                self.push((place % 2 == 0).then_some(ttl), key);
            }
            1 => self.event(OutboxEvent::Cancel(seq)),
            2 => self.event(OutboxEvent::Acked(attempt, Ack::OneOf(id))),
            3 => {
                self.acked_to += 1 + u64::from(place % 2);
                let seq = Seq::new(self.acked_to);
                let id = MessageId { seq, ..id };
                self.event(OutboxEvent::Acked(attempt, Ack::UpToOf(id)));
            }
            4 => self.event(OutboxEvent::Flushed(attempt)),
            5 => self.event(OutboxEvent::Ponged(attempt, seq)),
            6 => {
                self.now = self.now + Duration::from_millis(u64::from(place % 16));
                self.event(OutboxEvent::Tick);
            }
            7 => self.drain(if place % 2 == 0 { Wire::Ready } else { Wire::Blocked }),
            8 => self.event(OutboxEvent::NackedFrom(attempt, id, Nack::Transient)),
            9 => self.event(OutboxEvent::Nacked(attempt, Ack::UpTo(seq), Nack::Transient)),
            _ if place % 4 == 0 => {
                self.event(OutboxEvent::Down { accused: false });
                self.up();
            }
            _ if place % 4 == 1 => {
                self.event(OutboxEvent::Nacked(attempt, Ack::OneOf(id), Nack::Transient));
            }
            _ => self.event(OutboxEvent::Nacked(attempt, Ack::OneOf(id), Nack::Permanent)),
        }
    }

    fn push(&mut self, ttl: Option<Duration>, key: Option<Key>) {
        let options = PushOptions { ttl, key, level: None };
        // It may be full.
        let _ = self.outbox.push(self.now, Body::binary(vec![0]), options);
        self.calls += 1;
    }

    fn event(&mut self, event: OutboxEvent) {
        self.outbox.handle(self.now, event);
        self.calls += 1;
    }

    fn up(&mut self) {
        self.attempts += 1;
        self.event(OutboxEvent::Up(Attempt::new(self.attempts)));
    }

    fn drain(&mut self, wire: Wire) {
        loop {
            let output = self.outbox.poll(wire);
            self.calls += 1;
            match output {
                // A report of many.
                OutboxOutput::Delivered { first, last } => self.calls += last.get() - first.get(),
                OutboxOutput::WaitUntil(_) => break,
                _ => {}
            }
        }
        let steps = self.outbox.steps();
        let (calls, bound) = (self.calls, self.due.saturating_add(EACH * self.calls));
        assert!(steps <= bound, "{steps} looks in {calls} calls, at most {bound} were expected");
    }
}
