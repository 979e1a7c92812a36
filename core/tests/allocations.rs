//! In steady state a message costs no allocation but its own.
//!
//! "Beyond the message itself" is tested with bodies in static memory, so that every allocation
//! that is counted is one of the machine.

use std::time::Duration;

use allocation_counter::measure;
use bowline_core::{
    Ack, Attempt, Body, Client, ClientConfig, Event, Frame, Instant, Level, Opened, Outbox,
    OutboxConfig, OutboxEvent, OutboxId, OutboxOutput, Output, Plain, PushOptions, Received, Wire,
};
use bytes::Bytes;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// What 500 messages allocate on a link that is up. The payload of the pong is the peer's frame, so
/// it is in static memory here too.
macro_rules! allocations_of {
    ($client:ident) => {{
        let (now, a) = (Instant::ZERO, Attempt::new(1));
        $client.handle(now, Event::Start);
        let _ = $client.poll(Wire::Ready);
        $client.handle(now, Event::Opened(Opened::new(a, ())));

        let pongs: Vec<Bytes> = (1..=600_u64)
            .map(|seq| bowline_core::Ping { attempt: a, seq: bowline_core::Seq::new(seq) })
            .map(|ping| Bytes::copy_from_slice(&ping.payload()))
            .collect();
        let mut pongs = pongs.into_iter();
        let mut cycle = || {
            $client.push(now, body(), PushOptions::default()).unwrap();
            let (mut sent, mut delivered) = (0, 0);
            while delivered == 0 {
                match $client.poll(Wire::Ready) {
                    Output::Send(_, Frame::Data(_)) => sent += 1,
                    Output::Send(_, Frame::Ping(_)) => {
                        $client.handle(now, Event::Flushed(a));
                        let pong = Received::Pong(pongs.next().unwrap());
                        let _ = $client.receive(now, a, pong);
                    }
                    Output::Delivered { .. } => delivered += 1,
                    _ => {}
                }
            }
            assert_eq!(sent, 1);
        };
        (0..100).for_each(|_| cycle());
        measure(|| (0..500).for_each(|_| cycle())).count_total
    }};
}

#[test]
fn a_message_from_push_to_delivered_allocates_nothing() {
    let mut wire = World::new();
    for level in [Level::Written, Level::Received, Level::Acked] {
        // Until the buffers have the size that the traffic needs.
        for _ in 0..200 {
            wire.cycle(level, None);
        }
        let counted = measure(|| {
            for _ in 0..1_000 {
                wire.cycle(level, None);
            }
        });
        assert_eq!(counted.count_total, 0, "{level:?}: {counted:?}");
    }
}

#[test]
fn a_window_of_messages_allocates_nothing() {
    let mut wire = World::new();
    let mut burst = || {
        for _ in 0..100 {
            wire.push(Level::Received, None);
        }
        wire.transmit_and_answer(Level::Received);
    };
    for _ in 0..20 {
        burst();
    }
    assert_eq!(measure(|| (0..50).for_each(|_| burst())).count_total, 0);
}

/// A time to live and a key have an index each, whose nodes come and go.
#[test]
fn a_time_to_live_costs_a_bounded_number_of_allocations() {
    let mut wire = World::new();
    for _ in 0..200 {
        wire.cycle(Level::Received, Some(Duration::from_secs(60)));
    }
    let counted = measure(|| {
        for _ in 0..1_000 {
            wire.cycle(Level::Received, Some(Duration::from_secs(60)));
        }
    });
    assert!(counted.count_total <= 5_000, "{counted:?}");
    assert_eq!(counted.count_current, 0, "{counted:?}");
}

/// R5: timers that nobody needs any more are dropped at the cost of the timers, however many messages
/// without one are waiting.
#[test]
fn dropping_timers_costs_the_same_however_many_messages_there_are() {
    let allocated = |waiting| {
        let mut wire = World::new();
        wire.outbox.handle(wire.now, OutboxEvent::Down { accused: false });
        for _ in 0..waiting {
            wire.push(Level::Received, None);
        }
        // In front of the others, so that these are not dropped one by one.
        wire.push(Level::Received, Some(Duration::from_secs(1)));
        let mut churn = || {
            let seq = wire.outbox.next_seq();
            wire.push(Level::Received, Some(Duration::from_secs(60)));
            wire.outbox.handle(wire.now, OutboxEvent::Cancel(seq));
            while !matches!(wire.outbox.poll(Wire::Blocked), OutboxOutput::WaitUntil(_)) {}
        };
        (0..5_000).for_each(|_| churn());
        measure(|| (0..5_000).for_each(|_| churn())).bytes_total
    };
    assert_eq!(allocated(10), allocated(1_000));
}

#[test]
fn a_reconnect_allocates_nothing() {
    let mut wire = World::new();
    for _ in 0..100 {
        wire.push(Level::Acked, None);
    }
    let mut flap = |attempt| {
        wire.attempt = Attempt::new(attempt);
        wire.outbox.handle(wire.now, OutboxEvent::Up(wire.attempt));
        wire.drain();
        wire.outbox.handle(wire.now, OutboxEvent::Down { accused: false });
    };
    flap(2);
    assert_eq!(measure(|| (3..100).for_each(&mut flap)).count_total, 0);
}

#[test]
fn a_client_adds_no_allocation_of_its_own() {
    let rng = ChaCha8Rng::seed_from_u64(1);
    let mut client = Client::new(ClientConfig::default(), Plain, rng).unwrap();
    assert_eq!(allocations_of!(client), 0);
}

#[cfg(feature = "serde")]
#[test]
fn a_recorder_without_a_tape_adds_none_either() {
    use bowline_core::trace::{Line, Recorder, Tape};
    use std::ops::ControlFlow;

    let rng = ChaCha8Rng::seed_from_u64(1);
    let tape = None::<Tape<fn(Line) -> ControlFlow<()>>>;
    let mut client = Recorder::new(ClientConfig::default(), Plain, rng, tape).unwrap();
    assert_eq!(allocations_of!(client), 0);
}

#[cfg(feature = "serde")]
#[test]
fn a_recorder_whose_tape_is_full_keeps_nothing() {
    use bowline_core::trace::{Recorder, Tape};
    use std::ops::ControlFlow;

    let rng = ChaCha8Rng::seed_from_u64(1);
    let tape = Some(Tape::new(|_| ControlFlow::Break(())));
    let mut client = Recorder::new(ClientConfig::default(), Plain, rng, tape).unwrap();
    assert_eq!(allocations_of!(client), 0);
}

// ---- Helpers ------------------------------------------------------------------------------------

fn body() -> Body {
    Body::binary(Bytes::from_static(b"a message in static memory"))
}

struct World {
    outbox: Outbox,
    now: Instant,
    attempt: Attempt,
}

impl World {
    fn new() -> Self {
        let outbox = Outbox::new(OutboxConfig::default(), OutboxId::new(1)).unwrap();
        let attempt = Attempt::new(1);
        let mut wire = Self { outbox, now: Instant::ZERO, attempt };
        wire.outbox.handle(wire.now, OutboxEvent::Up(attempt));
        wire
    }

    fn push(&mut self, level: Level, ttl: Option<Duration>) {
        let options = PushOptions { level: Some(level), ttl, key: None };
        self.outbox.push(self.now, body(), options).unwrap();
    }

    fn cycle(&mut self, level: Level, ttl: Option<Duration>) {
        self.push(level, ttl);
        self.transmit_and_answer(level);
    }

    /// Pushes are transmitted, flushed, answered and reported.
    fn transmit_and_answer(&mut self, level: Level) {
        self.now = self.now + Duration::from_millis(1);
        while !self.outbox.is_empty() {
            let pinged = self.drain();
            self.outbox.handle(self.now, OutboxEvent::Flushed(self.attempt));
            if let Some(ping) = pinged {
                self.outbox.handle(self.now, OutboxEvent::Ponged(self.attempt, ping.seq));
            }
            if level == Level::Acked {
                self.outbox.handle(self.now, OutboxEvent::Acked(self.attempt, Ack::Next));
            }
            self.drain();
        }
    }

    fn drain(&mut self) -> Option<bowline_core::Ping> {
        let mut pinged = None;
        loop {
            match self.outbox.poll(Wire::Ready) {
                OutboxOutput::Ping(ping) => pinged = Some(ping),
                OutboxOutput::WaitUntil(_) => return pinged,
                _ => {}
            }
        }
    }
}
