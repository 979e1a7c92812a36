//! The outbox, after every single step, against two judges: a model that does the same with plain
//! scans over a list that forgets nothing, and a ledger that knows no rule of the machine and only
//! compares what came out with what went in.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bowline_core::{
    Ack, Amount, Attempt, Body, Deadline, FailReason, Failed, Fate, Instant, Key, Level, MessageId,
    Nack, OnSuspected, Outbox, OutboxConfig, OutboxEvent, OutboxId, OutboxOutput, OutboxState,
    Overflow, PushOptions, Refused, Seq, Snapshot, Timer, Wire, outbox::OutboxView,
};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// S1 S2 S5 S6 S7 S8 S9 S10 S11 S15, X1 X4, R1, L6, D2 D5: the model predicts every output,
    /// the ledger accepts it, and at the end all that was accepted is settled exactly once.
    #[test]
    fn the_outbox_does_what_the_model_says(
        config in any_config(),
        ops in prop::collection::vec(any_op(false), 1..80),
    ) {
        let mut pair = Pair::new(config, Duration::ZERO);
        for op in &ops {
            pair.apply(op);
        }
        pair.finish();
    }

    /// D3, S14: a snapshot that is restored at any step goes on as if nothing had happened but the
    /// end of its attempt; the model does not even notice.
    #[test]
    fn a_restored_outbox_goes_on_as_the_one_before(
        config in any_config(),
        ops in prop::collection::vec(any_op(true), 1..80),
    ) {
        let mut pair = Pair::new(config, Duration::ZERO);
        for op in &ops {
            pair.apply(op);
        }
        pair.finish();
    }

    /// H41: what a forged snapshot without messages says of a head is said of no message.
    #[test]
    fn a_snapshot_without_messages_charges_no_later_one(
        charges in any::<u32>(),
        deaths in any::<u32>(),
        nacks in any::<u32>(),
        config in any_config(),
    ) {
        let outbox = Outbox::new(config.clone(), OutboxId::new(1)).unwrap();
        let forged = Snapshot { charges, deaths, nacks, ..outbox.snapshot() };
        let restored = Outbox::restore(config, OutboxId::new(2), Instant::ZERO, forged);
        let mut outbox = restored.map_err(|refused| refused.reason).unwrap();
        outbox.push(Instant::ZERO, Body::binary(vec![0]), PushOptions::default()).unwrap();
        prop_assert_eq!((outbox.charges(), outbox.suspected()), (0, None));
    }

    /// H41: a pong of a ping that is older than what went again acquits nothing of that: whichever of
    /// the messages behind the head are cancelled, the head is not suspected for the end of the link.
    #[test]
    fn an_outdated_pong_acquits_nothing_that_goes_again(
        cancelled in prop::collection::vec(any::<bool>(), 1..6),
        level in prop::sample::select(vec![Level::Received, Level::Written]),
    ) {
        let config = OutboxConfig { suspect_limit: 1, ..OutboxConfig::default() };
        let resumes = Instant::ZERO + config.nack_delay;
        let mut outbox = Outbox::new(config, OutboxId::new(1)).unwrap();
        let mut push = |level| {
            let options = PushOptions { level: Some(level), ..PushOptions::default() };
            outbox.push(Instant::ZERO, Body::binary(vec![0]), options).unwrap().seq
        };
        let head = push(Level::Acked);
        let behind: Vec<Seq> = cancelled.iter().map(|_| push(level)).collect();
        let last = *behind.last().unwrap();
        let a = Attempt::new(1);
        outbox.handle(Instant::ZERO, OutboxEvent::Up(a));
        while !matches!(outbox.poll(Wire::Ready), OutboxOutput::WaitUntil(_)) {}

        let head_id = MessageId { outbox: OutboxId::new(1), seq: head };
        outbox.handle(Instant::ZERO, OutboxEvent::NackedFrom(a, head_id, Nack::Transient));
        outbox.handle(resumes, OutboxEvent::Tick);
        // They go again, and what would ask about them has not gone yet.
        for _ in 0..=behind.len() {
            let sent = outbox.poll(Wire::Ready);
            prop_assert!(matches!(sent, OutboxOutput::Transmit { .. }), "{sent:?}");
        }
        for (seq, cancelled) in behind.iter().zip(&cancelled) {
            if *cancelled {
                outbox.handle(resumes, OutboxEvent::Cancel(*seq));
            }
        }
        outbox.handle(resumes, OutboxEvent::Ponged(a, last));
        outbox.handle(resumes, OutboxEvent::Down { accused: false });
        prop_assert_eq!(outbox.suspected(), None);
    }

    /// D1, D6: the same inputs later in time give the same outputs as much later.
    #[test]
    fn shifting_the_inputs_in_time_shifts_the_outputs(
        config in any_config(),
        ops in prop::collection::vec(any_op(false), 1..60),
        shift in prop_oneof![Just(0), 1..1_000_000_000_u64],
    ) {
        let shift = Duration::from_micros(shift);
        let mut here = Pair::new(config.clone(), Duration::ZERO);
        let mut there = Pair::new(config, shift);
        for op in &ops {
            here.apply(op);
            there.apply(op);
        }
        let shifted: Vec<OutboxOutput> =
            here.ledger.outputs.iter().cloned().map(|output| later(output, shift)).collect();
        prop_assert_eq!(shifted, there.ledger.outputs.clone());
        prop_assert_eq!(
            format!("{:?}", here.outbox.view()),
            format!("{:?}", there.outbox.view())
        );
    }

    /// L2: whatever happened before, once the link stays up and the peer answers, everything
    /// settles within the time that the settings allow.
    #[test]
    fn with_an_honest_peer_everything_settles(
        config in any_config(),
        ops in prop::collection::vec(any_op(false), 1..60),
    ) {
        let mut pair = Pair::new(config, Duration::ZERO);
        for op in &ops {
            pair.apply(op);
        }
        pair.apply(&Op::Down { accused: false });
        let begun = pair.now;
        let live = pair.model.live() as u32;
        pair.honest_peer();
        prop_assert!(pair.outbox.is_empty());
        // A pause that a nack began, an ack that was being withheld, the repeat of a lost receipt,
        // then at most one round for each message.
        let config = pair.outbox.config();
        let bound = config.nack_delay_cap
            + config.ack_limit
            + config.receipt_repeat_interval * 2
            + ROUND_TRIP * (4 * live + 8);
        prop_assert!(pair.now.since(begun) <= bound, "{:?} > {bound:?}", pair.now.since(begun));
        pair.finish();
    }

    /// X4: a message that kills every connection is the only one that is ever charged or
    /// suspected, and all others arrive. H41
    #[test]
    fn only_the_poison_is_blamed(
        level in any_level(),
        window in 1..8_usize,
        before in 0..6_usize,
        after in 0..6_usize,
        accused in any::<bool>(),
    ) {
        let config = OutboxConfig {
            window_messages: window,
            on_suspected: OnSuspected::Settle,
            suspect_limit: 2,
            retry_budget: 2,
            ..tiny()
        };
        let mut pair = Pair::new(config, Duration::ZERO);
        for _ in 0..before + 1 + after {
            pair.apply(&Op::Push { level, len: 1, key: None, ttl: None });
        }
        let poison = Seq::new(before as u64 + 1);
        let mut failed = Vec::new();
        for _ in 0..200 {
            if pair.outbox.is_empty() {
                break;
            }
            pair.apply(&Op::Up);
            failed.extend(pair.a_link_that_dies_of(poison, accused));
        }
        prop_assert!(pair.outbox.is_empty());
        if level == Level::Written {
            // Nothing but a flush was asked for, and that the poison had.
            prop_assert!(failed.is_empty() || failed == [poison]);
        } else {
            prop_assert_eq!(failed, [poison]);
        }
        pair.finish();
    }
}

const ROUND_TRIP: Duration = Duration::from_millis(1);

// ---- The two judges, side by side with the machine ------------------------------------------------

struct Pair {
    outbox: Outbox,
    model: Model,
    ledger: Ledger,
    /// What the driver's clock says.
    now: Instant,
    begun: Instant,
    attempts: u64,
    restores: u64,
}

impl Pair {
    fn new(config: OutboxConfig, shift: Duration) -> Self {
        let id = OutboxId::new(1);
        let now = Instant::ZERO + shift;
        Self {
            outbox: Outbox::new(config.clone(), id).unwrap(),
            model: Model::new(config, id),
            ledger: Ledger::default(),
            now,
            begun: now,
            attempts: 0,
            restores: 0,
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Push { level, len, key, ttl } => self.push(*level, *len, *key, *ttl),
            Op::Wait(micros) => {
                self.now = self.now + Duration::from_micros(*micros);
                self.event(OutboxEvent::Tick);
            }
            Op::Back { micros, ttl } => {
                let back = Instant::from_micros(self.now.as_micros().saturating_sub(*micros));
                let now = std::mem::replace(&mut self.now, back.max(self.begun));
                self.event(OutboxEvent::Tick);
                self.push(Level::Acked, 1, None, *ttl);
                self.now = now;
            }
            Op::Up => {
                self.attempts += 1;
                self.event(OutboxEvent::Up(Attempt::new(self.attempts)));
            }
            Op::UpAgain(back) => {
                let attempt = self.attempts.saturating_sub(u64::from(*back));
                self.event(OutboxEvent::Up(Attempt::new(attempt)));
            }
            Op::Down { accused } => self.event(OutboxEvent::Down { accused: *accused }),
            Op::Flushed(whose) => self.event(OutboxEvent::Flushed(self.attempt(*whose))),
            Op::Ponged(whose, pick) => {
                let seq = match pick {
                    Pick::Last => self.model.pinged.unwrap_or_default(),
                    pick => self.pick(*pick),
                };
                self.event(OutboxEvent::Ponged(self.attempt(*whose), seq));
            }
            Op::Acked(whose, how, pick) => {
                self.event(OutboxEvent::Acked(self.attempt(*whose), self.ack(*how, *pick)));
            }
            Op::Nacked(whose, how, pick, nack) => {
                let ack = self.ack(*how, *pick);
                self.event(OutboxEvent::Nacked(self.attempt(*whose), ack, *nack));
            }
            Op::NackedFrom(whose, pick, nack) => {
                let seq = self.pick(*pick);
                // What was never sent nobody can refuse, and a snapshot need not know whose it was.
                let is_sent = |index: usize| self.model.messages[index].sent > 0;
                if self.ledger.restored && !self.model.index(seq).is_some_and(is_sent) {
                    return;
                }
                let id = MessageId { outbox: self.model.outbox_of(seq), seq };
                self.event(OutboxEvent::NackedFrom(self.attempt(*whose), id, *nack));
            }
            Op::Paused(whose) => self.event(OutboxEvent::Paused(self.attempt(*whose))),
            Op::Resumed(whose) => self.event(OutboxEvent::Resumed(self.attempt(*whose))),
            Op::Cancel(pick) => self.event(OutboxEvent::Cancel(self.pick(*pick))),
            Op::Close(micros) => {
                let deadline = self.now + Duration::from_micros(*micros);
                self.event(OutboxEvent::Close { deadline });
            }
            Op::Poll(times, wire) => {
                for _ in 0..*times {
                    let _ = self.poll(*wire);
                }
            }
            Op::Drain(wire) => drop(self.drain(*wire)),
            Op::Restore => self.restore(),
        }
    }

    fn push(&mut self, level: Level, len: usize, key: Option<u8>, ttl: Option<u8>) {
        let body = Body::binary(vec![self.ledger.pushes as u8; len]);
        let options = PushOptions {
            level: Some(level),
            ttl: ttl.map(|nth| TTLS[usize::from(nth)]),
            key: key.map(|key| Key::from(&[key][..])),
        };
        self.ledger.pushes += 1;
        let view = self.settled_view();
        let result = self.outbox.push(self.now, body.clone(), options.clone());
        let expected = self.model.push(self.now, body.clone(), options.clone());
        match result {
            Ok(pushed) => {
                let displaced: Vec<_> =
                    pushed.displaced.into_iter().map(|d| (d.seq, d.body, d.coalesced)).collect();
                assert_eq!(Ok((pushed.seq, displaced.clone())), expected);
                self.ledger.accept(pushed.seq, &displaced);
            }
            Err(error) => {
                assert_eq!(Err(error.reason), expected);
                assert_eq!((error.body, error.options), (body, options));
                assert_eq!(view, self.settled_view(), "S9: a refused push changed something");
            }
        }
        self.check();
    }

    fn event(&mut self, event: OutboxEvent) {
        let view = self.settled_view();
        let answers = |outbox: &Outbox| {
            let stats = outbox.stats();
            (stats.duplicates + stats.violations, stats.stale)
        };
        let before = answers(&self.outbox);
        let transmits = self.ledger.transmits.clone();
        self.outbox.handle(self.now, event);
        let effect = self.model.handle(self.now, event);
        let after = answers(&self.outbox);
        match effect {
            Effect::Normal => {}
            Effect::Stale => {
                assert_eq!(after, (before.0, before.1 + 1), "{event:?}");
                assert_eq!(view, self.settled_view(), "S11: {event:?} changed something");
            }
            Effect::Illegal => {
                assert_eq!(after, (before.0 + 1, before.1), "{event:?}");
                assert_eq!(view, self.settled_view(), "S7: {event:?} changed something");
            }
        }
        if event == OutboxEvent::Tick {
            let view = self.outbox.view();
            self.outbox.handle(self.now, event);
            assert_eq!(view, self.outbox.view(), "D5: a second tick changed something");
        }
        if let OutboxEvent::Nacked(..) | OutboxEvent::NackedFrom(..) = event {
            self.ledger.nacked = true;
        }
        if let OutboxEvent::Cancel(seq) = event {
            let known = self.ledger.accepted.contains_key(&seq);
            if known && !transmits.contains_key(&seq) {
                self.ledger.cancelled.insert(seq);
            }
        }
        self.check();
    }

    /// The state once the clock has been looked at, so that only the event itself can change it.
    fn settled_view(&self) -> OutboxView {
        let mut outbox = self.outbox.clone();
        outbox.handle(self.now, OutboxEvent::Tick);
        outbox.view()
    }

    fn poll(&mut self, wire: Wire) -> OutboxOutput {
        let output = self.outbox.poll(wire);
        self.model.poll(wire, &output);
        self.ledger.note(&output, wire, self.model.attempt, self.outbox.config());
        self.check();
        output
    }

    fn drain(&mut self, wire: Wire) -> Vec<OutboxOutput> {
        let mut outputs = Vec::new();
        loop {
            match self.poll(wire) {
                OutboxOutput::WaitUntil(deadline) => {
                    if wire == Wire::Ready {
                        let seen = self.model.now;
                        assert!(deadline.is_none_or(|d| d.at > seen), "L6: {deadline:?}");
                    }
                    return outputs;
                }
                output => outputs.push(output),
            }
            assert!(outputs.len() < 10_000, "L6: a drain without end");
        }
    }

    fn restore(&mut self) {
        self.event(OutboxEvent::Down { accused: false });
        self.restores += 1;
        let fresh = OutboxId::new(1 + u128::from(self.restores));
        let snapshot = self.outbox.clone().into_snapshot();
        let config = self.outbox.config().clone();
        self.outbox = Outbox::restore(config, fresh, self.model.now, snapshot).unwrap();
        self.model.restored(fresh);
        self.ledger.restored = true;
        self.ledger.attempt = None;
        self.check();
    }

    /// What both can be asked for is the same, and within the limits.
    fn check(&mut self) {
        let (outbox, model) = (&self.outbox, &self.model);
        let config = outbox.config();
        assert_eq!(outbox.state(), model.state);
        assert_eq!(outbox.queued(), model.live() - model.in_flight().messages);
        assert_eq!(outbox.in_flight(), model.in_flight());
        assert_eq!(outbox.held(), model.held());
        assert_eq!(outbox.watermark(), model.head().unwrap_or(model.next));
        assert_eq!(outbox.next_seq(), model.next);
        assert_eq!(outbox.charges(), model.charges);
        assert_eq!(outbox.suspected(), model.suspected());
        assert_eq!(outbox.is_settled(), model.live() == 0);
        assert_eq!(outbox.is_empty(), model.live() == 0 && !model.owes_report());

        // R1
        let (held, in_flight) = (outbox.held(), outbox.in_flight());
        assert!(held.messages <= config.max_messages && held.bytes <= config.max_bytes);
        assert!(in_flight.messages <= config.window_messages);
        assert!(in_flight.bytes <= config.window_bytes);
        let (slots, timers) = outbox.footprint();
        let useful = model.messages.iter().filter(|m| m.has_slot()).count();
        assert!(slots <= 2 * useful + 64, "{slots} slots for {useful} messages");
        assert!(timers <= 2 * model.live() + 64, "{timers} timers for {} messages", model.live());

        // S1
        let stats = outbox.stats();
        if !self.ledger.restored {
            let failed: u64 = stats.failed.iter().sum();
            let settled = stats.delivered + failed + stats.coalesced + stats.evicted;
            assert_eq!(stats.accepted, settled + model.live() as u64);
        }
        // X1: every charge of the head has bought a retransmission or is about to.
        if let Some(head) = model.head() {
            let sent = self.ledger.transmits.get(&head).copied().unwrap_or(0);
            assert!(outbox.charges() <= sent, "{} charges, {sent} transmissions", outbox.charges());
        }
    }

    /// Ends it: what is left is handed back, and nothing was lost on the way.
    fn finish(mut self) {
        self.apply(&Op::Close(0));
        self.drain(Wire::Ready);
        assert!(self.outbox.is_empty());
        assert_eq!(self.ledger.accepted, self.ledger.settled, "S1 S2");
        assert_eq!(self.outbox.held(), Amount::default());
    }

    /// Everything handed over is flushed and answered in order, one round trip at a time.
    fn honest_peer(&mut self) {
        for _ in 0..500 {
            if self.outbox.state() == OutboxState::Down {
                self.apply(&Op::Up);
            }
            let mut answers = Vec::new();
            let mut overdue = false;
            for output in self.drain(Wire::Ready) {
                match output {
                    OutboxOutput::Transmit { id, .. } => answers.push(Ok(id.seq)),
                    OutboxOutput::Ping(ping) => answers.push(Err(ping)),
                    OutboxOutput::Overdue(_) => overdue = true,
                    OutboxOutput::Delivered { .. }
                    | OutboxOutput::Failed(_)
                    | OutboxOutput::WaitUntil(_) => {}
                }
            }
            if overdue {
                self.apply(&Op::Down { accused: false });
                continue;
            }
            let attempt = self.attempt(Whose::Current);
            let quiet = answers.is_empty();
            self.event(OutboxEvent::Flushed(attempt));
            for answer in answers {
                self.event(match answer {
                    Ok(seq) => OutboxEvent::Acked(attempt, Ack::One(seq)),
                    Err(ping) => OutboxEvent::Ponged(attempt, ping.seq),
                });
            }
            if self.outbox.is_empty() {
                return;
            }
            let deadline = match self.poll(Wire::Blocked) {
                OutboxOutput::WaitUntil(deadline) => deadline,
                _ => None,
            };
            self.now = match deadline {
                Some(deadline) if quiet => deadline.at.max(self.now),
                _ => self.now + ROUND_TRIP,
            };
            self.event(OutboxEvent::Tick);
        }
    }

    /// A link with an honest peer that dies the moment it gets this message. Gives back what
    /// failed, having looked that nothing else was charged.
    fn a_link_that_dies_of(&mut self, poison: Seq, accused: bool) -> Vec<Seq> {
        let attempt = self.attempt(Whose::Current);
        let mut failed = Vec::new();
        for _ in 0..50 {
            let mut dead = false;
            let mut answers = Vec::new();
            for output in self.drain(Wire::Ready) {
                match output {
                    OutboxOutput::Transmit { id, .. } => {
                        dead |= id.seq == poison;
                        if !dead {
                            answers.push(OutboxEvent::Acked(attempt, Ack::One(id.seq)));
                        }
                    }
                    OutboxOutput::Ping(ping) if !dead => {
                        answers.push(OutboxEvent::Ponged(attempt, ping.seq));
                    }
                    OutboxOutput::Failed(message) => failed.push(message.id.seq),
                    OutboxOutput::Ping(_)
                    | OutboxOutput::Delivered { .. }
                    | OutboxOutput::Overdue(_)
                    | OutboxOutput::WaitUntil(_) => {}
                }
            }
            self.event(OutboxEvent::Flushed(attempt));
            // A connection that breaks takes the answers with it that were on their way.
            if dead {
                self.event(OutboxEvent::Down { accused });
            }
            for answer in answers {
                self.event(answer);
            }
            let head = self.outbox.watermark();
            let blamed = self.outbox.charges() > 0 || self.outbox.suspected().is_some();
            assert!(!blamed || head == poison, "X4: {head} is blamed for {poison}");
            if dead || self.outbox.is_empty() {
                break;
            }
            self.apply(&Op::Wait(1_000));
        }
        for output in self.drain(Wire::Blocked) {
            if let OutboxOutput::Failed(message) = output {
                failed.push(message.id.seq);
            }
        }
        failed
    }

    fn attempt(&self, whose: Whose) -> Attempt {
        Attempt::new(match whose {
            Whose::Current => self.model.attempt.map_or(self.attempts, Attempt::get),
            Whose::Old => self.attempts.saturating_sub(1),
            Whose::Coming => self.attempts + 1,
        })
    }

    fn pick(&self, pick: Pick) -> Seq {
        let head = self.outbox.watermark().get();
        let next = self.outbox.next_seq().get();
        Seq::new(match pick {
            Pick::Zero => 0,
            Pick::FromHead(n) => head + n,
            Pick::BeforeHead(n) => head.saturating_sub(n),
            Pick::Last => self.model.last_sent().get(),
            Pick::Newest => next - 1,
            Pick::Beyond(n) => next + n,
            Pick::Max => u64::MAX,
        })
    }

    fn ack(&self, how: How, pick: Pick) -> Ack {
        let seq = self.pick(pick);
        let outbox = self.model.outbox_of(seq);
        match how {
            How::Next => Ack::Next,
            How::One => Ack::One(seq),
            How::UpTo => Ack::UpTo(seq),
            How::OneOf => Ack::OneOf(MessageId { outbox, seq }),
            How::UpToOf => Ack::UpToOf(MessageId { outbox, seq }),
            How::OneOfNewest => Ack::OneOf(MessageId { outbox: self.outbox.id(), seq }),
            How::Foreign => Ack::UpToOf(MessageId { outbox: OutboxId::new(99), seq }),
        }
    }
}

fn later(output: OutboxOutput, shift: Duration) -> OutboxOutput {
    match output {
        OutboxOutput::WaitUntil(Some(deadline)) => {
            OutboxOutput::WaitUntil(Some(Deadline { at: deadline.at + shift, ..deadline }))
        }
        output => output,
    }
}

// ---- The ledger: what went in and what came out ---------------------------------------------------

#[derive(Default)]
struct Ledger {
    pushes: u64,
    accepted: BTreeMap<Seq, u32>,
    /// How often each number was settled.
    settled: BTreeMap<Seq, u32>,
    transmits: BTreeMap<Seq, u32>,
    cancelled: BTreeSet<Seq>,
    attempt: Option<Attempt>,
    sent_on_attempt: Vec<Seq>,
    last_delivered: Seq,
    nacked: bool,
    restored: bool,
    outputs: Vec<OutboxOutput>,
}

impl Ledger {
    fn accept(&mut self, seq: Seq, displaced: &[(Seq, Body, bool)]) {
        *self.accepted.entry(seq).or_default() += 1;
        for (seq, ..) in displaced {
            assert!(
                !self.transmits.contains_key(seq),
                "{seq} was displaced after its transmission"
            );
            *self.settled.entry(*seq).or_default() += 1;
        }
    }

    fn note(
        &mut self,
        output: &OutboxOutput,
        wire: Wire,
        link: Option<Attempt>,
        config: &OutboxConfig,
    ) {
        self.outputs.push(output.clone());
        match output {
            OutboxOutput::Delivered { first, last } => {
                assert!(*first > self.last_delivered && last >= first, "out of order");
                self.last_delivered = *last;
                for seq in first.get()..=last.get() {
                    let seq = Seq::new(seq);
                    assert!(self.transmits.contains_key(&seq), "{seq} delivered, never sent");
                    *self.settled.entry(seq).or_default() += 1;
                }
            }
            OutboxOutput::Failed(failed) => {
                let seq = failed.id.seq;
                *self.settled.entry(seq).or_default() += 1;
                let sent = self.transmits.get(&seq).copied().unwrap_or(0);
                let fate = if sent > 0 { Fate::MaybeDelivered } else { Fate::NotSent };
                assert_eq!(failed.fate, fate, "S8: {seq}");
                if failed.reason == FailReason::Exhausted {
                    assert!(sent > config.retry_budget, "X1: {seq} exhausted after {sent}");
                }
            }
            OutboxOutput::Transmit { id, .. } => {
                let seq = id.seq;
                assert_eq!(wire, Wire::Ready, "S10");
                assert!(link.is_some(), "S10: {seq} transmitted while down");
                assert!(!self.cancelled.contains(&seq), "S15: {seq} was cancelled");
                if self.attempt != link {
                    self.attempt = link;
                    self.sent_on_attempt.clear();
                    self.nacked = false;
                }
                if !self.nacked {
                    let rises = self.sent_on_attempt.last().is_none_or(|last| *last < seq);
                    assert!(rises, "S5 S6: {seq} after {:?}", self.sent_on_attempt);
                }
                self.sent_on_attempt.push(seq);
                // S4: first transmissions keep the order of the pushes.
                if !self.transmits.contains_key(&seq) {
                    let newest = self.transmits.last_key_value();
                    assert!(newest.is_none_or(|(last, _)| *last < seq), "S4: {seq}");
                }
                *self.transmits.entry(seq).or_default() += 1;
            }
            OutboxOutput::Ping(_) => assert!(wire == Wire::Ready && link.is_some(), "S10"),
            OutboxOutput::Overdue(attempt) => assert_eq!(Some(*attempt), link),
            OutboxOutput::WaitUntil(_) => {}
        }
    }
}

// ---- The model: a list that forgets nothing, and scans ---------------------------------------------

#[derive(Clone, Copy, PartialEq, Debug)]
enum Stage {
    Live,
    /// Delivered, not reported.
    Delivered,
    /// Failed, not reported.
    Failed,
    /// Settled and reported.
    Done,
}

#[derive(Clone, Debug)]
struct Message {
    id: MessageId,
    body: Body,
    key: Option<Key>,
    level: Level,
    expires_at: Instant,
    /// Its time to live, and the number of the push that gave it: the order of those that expire
    /// in the same moment.
    armed: (Option<Duration>, Seq),
    stage: Stage,
    sent: u32,
    /// Handed over on this attempt, and not answered.
    out: bool,
    /// A pong has come to a ping behind it, on this attempt.
    covered: bool,
    /// Handed over on this attempt, and settled without a word of the peer; no answer is awaited.
    mute: bool,
}

impl Message {
    fn size(&self) -> usize {
        self.body.len() + self.key.as_ref().map_or(0, Key::len)
    }
    fn in_flight(&self) -> bool {
        self.stage == Stage::Live && self.out
    }
    fn is_ghost(&self) -> bool {
        self.awaited() && self.stage != Stage::Live
    }
    fn awaited(&self) -> bool {
        self.out && self.level == Level::Acked && self.stage != Stage::Delivered
    }
    fn has_slot(&self) -> bool {
        self.stage != Stage::Done || self.is_ghost()
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Overdue {
    No,
    Owed,
    Told,
}

/// What the model expects of an event.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Effect {
    Normal,
    /// Counted as stale; nothing else.
    Stale,
    /// Counted as a violation or duplicate; nothing else.
    Illegal,
}

struct Model {
    config: OutboxConfig,
    now: Instant,
    messages: Vec<Message>,
    /// Names of outboxes, from which number on.
    outboxes: Vec<(Seq, OutboxId)>,
    next: Seq,
    failed: VecDeque<Failed>,
    closing: Option<Instant>,
    state: OutboxState,
    attempt: Option<Attempt>,
    newest: Attempt,
    probe: bool,
    hold_until: Instant,
    pinged: Option<Seq>,
    ping_outstanding: bool,
    /// Pings behind `pinged` that were not answered.
    pings_out: u32,
    /// The pongs of so many pings behind this message say nothing of what was sent again.
    outdated: (Seq, u32),
    since_ping: Amount,
    ask_at: Instant,
    subject: Option<Seq>,
    overdue_at: Instant,
    overdue: Overdue,
    paused: bool,
    head_before: Option<Seq>,
    /// Handed over since the link came up or a pause was over: from, and to before.
    sent: (Seq, Seq),
    charges: u32,
    deaths: u32,
    nacks: u32,
}

impl Model {
    fn new(config: OutboxConfig, id: OutboxId) -> Self {
        Self {
            config,
            now: Instant::ZERO,
            messages: Vec::new(),
            outboxes: vec![(Seq::new(0), id)],
            next: Seq::new(1),
            failed: VecDeque::new(),
            closing: None,
            state: OutboxState::Down,
            attempt: None,
            newest: Attempt::NONE,
            probe: false,
            hold_until: Instant::ZERO,
            pinged: None,
            ping_outstanding: false,
            pings_out: 0,
            outdated: (Seq::new(0), 0),
            since_ping: Amount::default(),
            ask_at: Instant::NEVER,
            subject: None,
            overdue_at: Instant::NEVER,
            overdue: Overdue::No,
            paused: false,
            head_before: None,
            sent: (Seq::new(1), Seq::new(1)),
            charges: 0,
            deaths: 0,
            nacks: 0,
        }
    }

    // Counting.
    fn sum(&self, which: impl Fn(&Message) -> bool) -> Amount {
        let chosen = self.messages.iter().filter(|m| which(m));
        chosen.fold(Amount::default(), |sum, m| Amount {
            messages: sum.messages + 1,
            bytes: sum.bytes + m.size(),
        })
    }
    fn live(&self) -> usize {
        self.sum(|m| m.stage == Stage::Live).messages
    }
    fn in_flight(&self) -> Amount {
        self.sum(Message::in_flight)
    }
    fn held(&self) -> Amount {
        self.sum(|m| matches!(m.stage, Stage::Live | Stage::Failed))
    }
    fn out(&self) -> usize {
        self.sum(|m| m.in_flight() || m.is_ghost()).messages
    }
    fn owes_report(&self) -> bool {
        self.messages.iter().any(|m| matches!(m.stage, Stage::Delivered | Stage::Failed))
    }
    fn head(&self) -> Option<Seq> {
        self.messages.iter().find(|m| m.stage == Stage::Live).map(|m| m.id.seq)
    }
    fn last_sent(&self) -> Seq {
        self.messages.iter().rfind(|m| m.sent > 0).map_or(Seq::new(0), |m| m.id.seq)
    }
    fn index(&self, seq: Seq) -> Option<usize> {
        self.messages.iter().position(|m| m.id.seq == seq)
    }
    fn suspected(&self) -> Option<Seq> {
        self.head().filter(|_| self.deaths >= self.config.suspect_limit)
    }
    fn outbox_of(&self, seq: Seq) -> OutboxId {
        self.outboxes.iter().rfind(|(first, _)| *first <= seq).unwrap().1
    }

    #[allow(clippy::type_complexity)]
    fn push(
        &mut self,
        now: Instant,
        body: Body,
        options: PushOptions,
    ) -> Result<(Seq, Vec<(Seq, Body, bool)>), Refused> {
        self.now = self.now.max(now);
        let level = options.level.unwrap();
        let size = body.len() + options.key.as_ref().map_or(0, Key::len);
        let limit = self.config.max_message_bytes;
        if self.closing.is_some() {
            return Err(Refused::Closed);
        }
        if level == Level::Received && !self.config.can_ping {
            let missing = "Written or Acked, for the transport cannot ping";
            return Err(Refused::Level { level, missing });
        }
        if size > limit {
            return Err(Refused::TooLarge { size, limit });
        }
        let fresh = |m: &Message| m.stage == Stage::Live && m.sent == 0;
        let replaced = options.key.as_ref().and_then(|key| {
            self.messages.iter().position(|m| fresh(m) && m.key.as_ref() == Some(key))
        });
        // What would be held if all that can make way made way.
        let evict = self.config.overflow == Overflow::EvictOldest;
        let stays = self.messages.iter().enumerate().filter(|(index, m)| {
            matches!(m.stage, Stage::Live | Stage::Failed)
                && Some(*index) != replaced
                && !(evict && fresh(m))
        });
        let (mut count, mut bytes) = (1, size);
        for (_, m) in stays {
            count += 1;
            bytes += m.size();
        }
        if count > self.config.max_messages || bytes > self.config.max_bytes {
            return Err(Refused::Full);
        }

        let number = self.next;
        self.next = Seq::new(number.get() + 1);
        let expires_at = options.ttl.map_or(Instant::NEVER, |ttl| self.now + ttl);
        let armed = (options.ttl, number);
        let mut displaced = Vec::new();
        let index = if let Some(index) = replaced {
            let message = &mut self.messages[index];
            let old = std::mem::replace(&mut message.body, body);
            message.level = level;
            // With the same deadline, the timer of the one before goes off for it.
            if (message.expires_at, message.armed.0) != (expires_at, armed.0) {
                message.expires_at = expires_at;
                message.armed = armed;
            }
            displaced.push((message.id.seq, old, true));
            index
        } else {
            self.messages.push(Message {
                id: MessageId { outbox: self.outbox_of(number), seq: number },
                body,
                key: options.key,
                level,
                expires_at,
                armed,
                stage: Stage::Live,
                sent: 0,
                out: false,
                covered: false,
                mute: false,
            });
            self.messages.len() - 1
        };
        for old in 0..self.messages.len() {
            let held = self.held();
            if held.messages <= self.config.max_messages && held.bytes <= self.config.max_bytes {
                break;
            }
            if old != index && fresh(&self.messages[old]) {
                self.messages[old].stage = Stage::Done;
                displaced.push((self.messages[old].id.seq, self.messages[old].body.clone(), false));
            }
        }
        self.tidy();
        self.look_at_clock();
        Ok((self.messages[index].id.seq, displaced))
    }

    fn handle(&mut self, now: Instant, event: OutboxEvent) -> Effect {
        use OutboxEvent as E;
        self.now = self.now.max(now);
        let effect = match event {
            _ if event.attempt().is_some() && event.attempt() != self.attempt => Effect::Stale,
            E::Up(attempt) => self.link_up(attempt),
            E::Down { accused } => self.link_down(accused),
            E::Flushed(_) => {
                self.deliver_where(|m| m.level == Level::Written);
                Effect::Normal
            }
            E::Ponged(_, seq) => self.ponged(seq),
            E::Acked(_, ack) => self.acked(ack),
            E::Nacked(_, ack, nack) => self.nacked(ack, nack),
            E::NackedFrom(_, id, nack) => self.nacked_from(id, nack),
            E::Paused(_) => {
                self.paused = true;
                Effect::Normal
            }
            E::Resumed(_) => {
                self.paused = false;
                Effect::Normal
            }
            E::Cancel(seq) => {
                if let Some(index) = self.index(seq) {
                    self.fail(index, FailReason::Cancelled);
                }
                Effect::Normal
            }
            E::Close { deadline } => {
                self.closing = Some(self.closing.map_or(deadline, |before| before.min(deadline)));
                Effect::Normal
            }
            E::Tick => Effect::Normal,
        };
        self.tidy();
        self.look_at_clock();
        effect
    }

    fn link_up(&mut self, attempt: Attempt) -> Effect {
        if self.attempt == Some(attempt) {
            return Effect::Normal;
        }
        if attempt <= self.newest {
            return Effect::Stale;
        }
        self.link_down(false);
        self.newest = attempt;
        self.attempt = Some(attempt);
        self.ask_at = self.now + self.config.receipt_repeat_interval;
        self.state = self.state_of_link();
        self.go_back();
        Effect::Normal
    }

    fn state_of_link(&self) -> OutboxState {
        if self.hold_until > self.now {
            OutboxState::Held { resume_at: self.hold_until }
        } else if self.probe {
            let ponged = self.pinged.is_some() && !self.ping_outstanding;
            OutboxState::Probing { answered: ponged || !self.config.can_ping }
        } else {
            OutboxState::Open
        }
    }

    fn link_down(&mut self, accused: bool) -> Effect {
        if self.attempt.is_none() {
            return Effect::Normal;
        }
        let others = self.messages.iter().any(|m| m.is_ghost() || m.mute && !m.covered);
        let alone = self.in_flight().messages == 1 && !others;
        let head = self.head().and_then(|seq| self.index(seq));
        let blamed = head.filter(|&index| alone && self.messages[index].in_flight());
        let by_us = self.overdue != Overdue::No;
        self.probe |= self.in_flight().messages > 0 && !by_us;
        for message in &mut self.messages {
            message.out = false;
            message.covered = false;
            message.mute = false;
        }
        self.attempt = None;
        self.state = OutboxState::Down;
        self.pinged = None;
        self.ping_outstanding = false;
        self.pings_out = 0;
        self.outdated = (Seq::new(0), 0);
        self.since_ping = Amount::default();
        self.ask_at = Instant::NEVER;
        self.paused = false;
        self.overdue = Overdue::No;
        // An end that we brought about blames nobody: what was to be charged has been.
        if let Some(head) = blamed.filter(|_| !by_us) {
            if accused {
                self.charge(head);
            } else {
                self.deaths += 1;
                if self.suspected().is_some() && self.config.on_suspected == OnSuspected::Settle {
                    self.fail(head, FailReason::Suspected);
                }
            }
        }
        Effect::Normal
    }

    fn ponged(&mut self, seq: Seq) -> Effect {
        if self.pinged.is_none_or(|pinged| seq > pinged) {
            return Effect::Illegal;
        }
        if self.pinged == Some(seq) {
            self.ping_outstanding = false;
            self.pings_out = self.pings_out.saturating_sub(1);
        }
        if let OutboxState::Probing { answered } = &mut self.state {
            *answered = true;
        }
        let (last, left) = self.outdated;
        if left > 0 && seq <= last {
            self.outdated.1 -= u32::from(seq == last);
            return Effect::Normal;
        }
        for message in self.messages.iter_mut().filter(|m| (m.out || m.mute) && m.id.seq <= seq) {
            message.covered = true;
        }
        self.deliver_where(|m| m.level != Level::Acked && m.id.seq <= seq);
        Effect::Normal
    }

    fn deliver_where(&mut self, which: impl Fn(&Message) -> bool) {
        for index in 0..self.messages.len() {
            if self.messages[index].in_flight() && which(&self.messages[index]) {
                self.messages[index].mute = true;
                self.deliver(index);
            }
        }
    }

    fn acked(&mut self, ack: Ack) -> Effect {
        let named = self.named(ack);
        for &index in &named {
            if self.messages[index].stage == Stage::Live {
                self.deliver(index);
            } else {
                self.messages[index].out = false;
            }
        }
        if named.is_empty() { Effect::Illegal } else { Effect::Normal }
    }

    fn nacked(&mut self, ack: Ack, nack: Nack) -> Effect {
        let named = self.named(ack);
        let head = self.head();
        let mut hold = false;
        for &index in &named {
            let was_in_flight = self.messages[index].in_flight();
            self.messages[index].out = false;
            self.messages[index].covered &= self.messages[index].stage != Stage::Live;
            match nack {
                _ if self.messages[index].stage != Stage::Live => {}
                Nack::Permanent => self.fail(index, FailReason::Rejected),
                Nack::Transient if was_in_flight => {
                    hold = true;
                    let last_word = self.overdue != Overdue::No;
                    if Some(self.messages[index].id.seq) == head && !last_word {
                        self.charge(index);
                    }
                }
                Nack::Transient => {}
            }
        }
        if named.is_empty() {
            return Effect::Illegal;
        }
        self.progress();
        if hold && self.hold_until <= self.now {
            let delay = self.config.nack_delay * 2_u32.pow(self.nacks.min(20));
            self.nacks += 1;
            self.hold_until = self.now + delay.min(self.config.nack_delay_cap);
            self.state = OutboxState::Held { resume_at: self.hold_until };
        }
        Effect::Normal
    }

    fn nacked_from(&mut self, id: MessageId, nack: Nack) -> Effect {
        let sent = self.sent.0 <= id.seq && id.seq < self.sent.1;
        if !sent || self.outbox_of(id.seq) != id.outbox {
            return Effect::Illegal;
        }
        self.nacked(Ack::OneOf(id), nack);
        for message in self.messages.iter_mut().filter(|m| m.id.seq > id.seq && m.out) {
            message.out = false;
            message.covered = false;
        }
        if !matches!(self.state, OutboxState::Held { .. }) {
            self.state = OutboxState::Held { resume_at: self.now };
        }
        Effect::Normal
    }

    /// What an ack or nack speaks of and would change.
    fn named(&self, ack: Ack) -> Vec<usize> {
        let indices = 0..self.messages.len();
        let open = |index: &usize| {
            let message = &self.messages[*index];
            message.stage == Stage::Live || message.awaited()
        };
        let (outbox, mut last, first) = match ack {
            Ack::Next => {
                return indices.filter(|&index| self.messages[index].awaited()).take(1).collect();
            }
            Ack::One(seq) => (None, seq, seq),
            Ack::UpTo(seq) => (None, seq, Seq::new(0)),
            Ack::OneOf(id) => (Some(id.outbox), id.seq, id.seq),
            Ack::UpToOf(id) => (Some(id.outbox), id.seq, Seq::new(0)),
        };
        // A cumulative ack of a restored outbox may name more than was restored.
        let after = outbox.and_then(|id| {
            let index = self.outboxes.iter().position(|(_, other)| *other == id)?;
            self.outboxes.get(index + 1)
        });
        if let Some((after, _)) = after.filter(|(after, _)| *after <= last && first.get() == 0) {
            last = Seq::new(after.get().saturating_sub(1));
        }
        if last > self.last_sent() || outbox.is_some_and(|id| self.outbox_of(last) != id) {
            return Vec::new();
        }
        indices
            .filter(|&index| (first..=last).contains(&self.messages[index].id.seq))
            .filter(|&index| outbox.is_none_or(|id| self.messages[index].id.outbox == id))
            .filter(open)
            .collect()
    }

    fn charge(&mut self, index: usize) {
        if self.charges >= self.config.retry_budget {
            self.fail(index, FailReason::Exhausted);
        } else {
            self.charges += 1;
        }
    }

    fn deliver(&mut self, index: usize) {
        self.messages[index].out = false;
        self.messages[index].stage = Stage::Delivered;
        self.progress();
    }

    /// The peer got on with something: no message kills connections now.
    fn progress(&mut self) {
        self.probe = false;
        if let OutboxState::Probing { .. } = self.state {
            self.state = OutboxState::Open;
        }
    }

    fn fail(&mut self, index: usize, reason: FailReason) {
        let message = &mut self.messages[index];
        if message.stage != Stage::Live {
            return;
        }
        message.mute |= message.out && message.level != Level::Acked;
        message.out &= message.level == Level::Acked;
        message.stage = Stage::Failed;
        let fate = if message.sent > 0 { Fate::MaybeDelivered } else { Fate::NotSent };
        let (id, body) = (message.id, message.body.clone());
        self.failed.push_back(Failed { id, reason, fate, body });
    }

    fn look_at_clock(&mut self) {
        loop {
            if let OutboxState::Held { resume_at } = self.state {
                if resume_at <= self.now && self.out() == 0 {
                    self.state = self.state_of_link();
                    self.go_back();
                    self.outdated = (self.pinged.unwrap_or_default(), self.pings_out);
                    self.tidy();
                    continue;
                }
            }
            if self.overdue_at.has_passed(self.now) {
                self.overdue_at = Instant::NEVER;
                self.overdue = Overdue::Owed;
                let head = self.head().filter(|&seq| Some(seq) == self.subject);
                if let Some(index) = head.and_then(|seq| self.index(seq)) {
                    if self.config.can_ping {
                        self.charge(index);
                    }
                }
                self.tidy();
                continue;
            }
            let mut due: Vec<(Instant, usize)> = (0..self.messages.len())
                .filter(|&i| self.messages[i].stage == Stage::Live)
                .map(|i| (self.messages[i].expires_at, i))
                .filter(|(at, _)| at.has_passed(self.now))
                .collect();
            due.sort_by_key(|&(at, index)| (at, self.messages[index].armed));
            for &(_, index) in &due {
                self.fail(index, FailReason::Expired);
            }
            if self.closing.is_some_and(|at| at.has_passed(self.now)) {
                for index in 0..self.messages.len() {
                    self.fail(index, FailReason::Returned);
                }
            }
            self.tidy();
            let resumes = matches!(self.state, OutboxState::Held { resume_at } if resume_at <= self.now)
                && self.out() == 0;
            if !resumes && !self.overdue_at.has_passed(self.now) {
                return;
            }
        }
    }

    fn go_back(&mut self) {
        let head = self.head().unwrap_or(self.next);
        self.sent = (head, head);
    }

    fn tidy(&mut self) {
        if self.head() != self.head_before {
            self.head_before = self.head();
            self.charges = 0;
            self.deaths = 0;
            self.nacks = 0;
        }
        let awaited = self.messages.iter().find(|m| m.awaited());
        let subject = awaited.map(|m| m.id.seq);
        let covered = awaited.is_some_and(|m| m.covered || !self.config.can_ping);
        if subject != self.subject {
            self.subject = subject;
            self.overdue_at = Instant::NEVER;
        }
        if !covered || self.paused || self.overdue != Overdue::No {
            self.overdue_at = Instant::NEVER;
        } else if self.overdue_at == Instant::NEVER {
            self.overdue_at = self.now + self.config.ack_limit;
        }
    }

    fn restored(&mut self, fresh: OutboxId) {
        self.outboxes.push((self.next, fresh));
        self.closing = None;
        self.newest = Attempt::NONE;
        self.failed.make_contiguous().sort_by_key(|failed| failed.id.seq);
    }

    // What is owed.

    fn received_in_flight(&self) -> bool {
        self.messages.iter().any(|m| m.in_flight() && m.level == Level::Received)
    }

    fn wants_receipt(&self) -> bool {
        let subject = self.subject.and_then(|seq| self.index(seq));
        self.received_in_flight()
            || subject.is_some_and(|index| !self.messages[index].covered)
            || self.state == OutboxState::Probing { answered: false }
    }

    fn owes_ping(&self) -> bool {
        if !self.config.can_ping || self.attempt.is_none() {
            return false;
        }
        if self.wants_receipt() && self.ask_at.has_passed(self.now) {
            return true;
        }
        if self.state == (OutboxState::Probing { answered: false }) {
            return self.pinged.is_none();
        }
        let (since, config) = (self.since_ping, &self.config);
        self.received_in_flight()
            && (since.messages >= (config.window_messages / 16).max(1)
                || since.bytes >= (config.window_bytes / 16).max(1)
                || !self.ping_outstanding
                    && (since.messages >= config.receipt_interval_messages
                        || since.bytes >= config.receipt_interval_bytes
                        || self.next_to_send().is_none()))
    }

    fn next_to_send(&self) -> Option<usize> {
        let may = match self.state {
            OutboxState::Down
            | OutboxState::Held { .. }
            | OutboxState::Probing { answered: false } => false,
            OutboxState::Probing { answered: true } => self.in_flight().messages == 0,
            OutboxState::Open => true,
        };
        let next = self.messages.iter().position(|m| m.stage == Stage::Live && !m.out)?;
        let unreported = self.sum(|m| m.stage == Stage::Delivered).messages;
        let bytes = self.in_flight().bytes + self.messages[next].size();
        let room = self.out() + unreported < self.config.window_messages || self.out() == 0;
        (may && self.overdue == Overdue::No && room && bytes <= self.config.window_bytes)
            .then_some(next)
    }

    fn delivered(&self) -> Option<(Seq, Seq)> {
        let first = self.messages.iter().position(|m| m.stage != Stage::Done)?;
        let mut run = self.messages[first..].iter().take_while(|m| m.stage == Stage::Delivered);
        let first = run.next()?.id.seq;
        let last = run.fold(
            first,
            |last, m| {
                if m.id.seq.get() == last.get() + 1 { m.id.seq } else { last }
            },
        );
        Some((first, last))
    }

    fn deadline(&self) -> Option<Deadline> {
        let mut all = vec![(self.overdue_at, Timer::Ack)];
        if let OutboxState::Held { resume_at } = self.state {
            if resume_at > self.now {
                all.push((resume_at, Timer::Nack));
            }
        }
        if self.config.can_ping && self.wants_receipt() && self.ask_at > self.now {
            all.push((self.ask_at, Timer::Receipt));
        }
        for message in self.messages.iter().filter(|m| m.stage == Stage::Live) {
            all.push((message.expires_at, Timer::Expiry));
            all.extend(self.closing.map(|at| (at, Timer::Drain)));
        }
        let all = all.into_iter().filter(|(at, _)| *at != Instant::NEVER);
        all.map(|(at, timer)| Deadline { at, timer }).min()
    }

    /// Compares an output with what is owed, and takes it as done.
    fn poll(&mut self, wire: Wire, output: &OutboxOutput) {
        if self.overdue == Overdue::Owed {
            self.overdue = Overdue::Told;
            return assert_eq!(*output, OutboxOutput::Overdue(self.attempt.unwrap()));
        }
        if let Some(failed) = self.failed.pop_front() {
            let index = self.index(failed.id.seq).unwrap();
            self.messages[index].stage = Stage::Done;
            assert_eq!(*output, OutboxOutput::Failed(failed));
            return self.tidy();
        }
        if let Some((first, last)) = self.delivered() {
            for message in &mut self.messages {
                if (first..=last).contains(&message.id.seq) {
                    message.stage = Stage::Done;
                }
            }
            assert_eq!(*output, OutboxOutput::Delivered { first, last });
            return self.tidy();
        }
        if wire == Wire::Ready && self.owes_ping() {
            let OutboxOutput::Ping(ping) = output else { panic!("a ping is owed, not {output:?}") };
            assert_eq!(Some(ping.attempt), self.attempt);
            // It stands behind all that was handed over, and in front of all that was not.
            let behind = self.messages.iter().rfind(|m| m.out).map(|m| m.id.seq);
            let before = self.messages.iter().find(|m| m.stage == Stage::Live && m.sent == 0);
            assert!(behind.is_none_or(|seq| seq <= ping.seq) && ping.seq < self.next);
            assert!(before.is_none_or(|m| ping.seq < m.id.seq));
            assert!(self.pinged.is_none_or(|pinged| pinged <= ping.seq));
            let before = if self.pinged == Some(ping.seq) { self.pings_out } else { 0 };
            self.pings_out = before + 1;
            let called_back = |m: &Message| m.stage == Stage::Live && !m.out;
            let held = matches!(self.state, OutboxState::Held { .. });
            if !held && self.messages.iter().any(|m| m.id.seq <= ping.seq && called_back(m)) {
                self.outdated = (ping.seq, self.pings_out);
            }
            self.pinged = Some(ping.seq);
            self.ping_outstanding = true;
            self.since_ping = Amount::default();
            self.ask_at = self.now + self.config.receipt_repeat_interval;
            return;
        }
        if let Some(index) = self.next_to_send().filter(|_| wire == Wire::Ready) {
            let message = &mut self.messages[index];
            let (id, body) = (message.id, message.body.clone());
            assert_eq!(*output, OutboxOutput::Transmit { id, body });
            message.out = true;
            message.sent += 1;
            if self.sent.0 == self.sent.1 {
                self.sent.0 = id.seq;
            }
            self.sent.1 = Seq::new(id.seq.get() + 1);
            self.since_ping.messages += 1;
            self.since_ping.bytes += self.messages[index].size();
            return self.tidy();
        }
        assert_eq!(*output, OutboxOutput::WaitUntil(self.deadline()));
    }
}

// ---- Where cases come from ------------------------------------------------------------------------

const TTLS: [Duration; 3] =
    [Duration::from_millis(5), Duration::from_millis(60), Duration::from_secs(1)];

#[derive(Clone, Debug)]
enum Op {
    Push {
        level: Level,
        len: usize,
        key: Option<u8>,
        ttl: Option<u8>,
    },
    Wait(u64),
    /// A tick and a push from a clock that has gone back by so many microseconds.
    Back {
        micros: u64,
        ttl: Option<u8>,
    },
    Up,
    UpAgain(u8),
    Down {
        accused: bool,
    },
    Flushed(Whose),
    Ponged(Whose, Pick),
    Acked(Whose, How, Pick),
    Nacked(Whose, How, Pick, Nack),
    NackedFrom(Whose, Pick, Nack),
    Paused(Whose),
    Resumed(Whose),
    Cancel(Pick),
    Close(u64),
    Poll(u8, Wire),
    Drain(Wire),
    Restore,
}

#[derive(Clone, Copy, Debug)]
enum Whose {
    Current,
    Old,
    Coming,
}

#[derive(Clone, Copy, Debug)]
enum Pick {
    Zero,
    FromHead(u64),
    BeforeHead(u64),
    /// The last message transmitted; of pings, the last ping.
    Last,
    Newest,
    Beyond(u64),
    Max,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Next,
    One,
    UpTo,
    OneOf,
    UpToOf,
    OneOfNewest,
    Foreign,
}

fn tiny() -> OutboxConfig {
    OutboxConfig {
        max_messages: 16,
        max_bytes: 64,
        max_message_bytes: 4,
        window_messages: 8,
        window_bytes: 32,
        ack_limit: Duration::from_millis(100),
        nack_delay: Duration::from_millis(10),
        nack_delay_cap: Duration::from_millis(40),
        receipt_interval_messages: 3,
        receipt_interval_bytes: 10,
        receipt_repeat_interval: Duration::from_millis(70),
        ..OutboxConfig::default()
    }
}

fn any_config() -> impl Strategy<Value = OutboxConfig> {
    let sizes = prop_oneof![
        3 => (1..=4_usize, 1..=3_usize, 4..=12_usize),
        1 => (5..=20_usize, 1..=20_usize, 12..=80_usize),
    ];
    let switches = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.85));
    (sizes, 0..=3_u32, 1..=3_u32, switches).prop_map(
        |((queue, window, bytes), retry_budget, suspect_limit, (evict, settle, can_ping))| {
            OutboxConfig {
                max_messages: queue,
                window_messages: window.min(queue),
                max_bytes: bytes,
                window_bytes: bytes.min(4.max(bytes / 2)),
                retry_budget,
                suspect_limit,
                overflow: if evict { Overflow::EvictOldest } else { Overflow::Reject },
                on_suspected: if settle { OnSuspected::Settle } else { OnSuspected::Wait },
                level: Level::Acked,
                can_ping,
                ..tiny()
            }
        },
    )
}

fn any_level() -> impl Strategy<Value = Level> {
    prop_oneof![1 => Just(Level::Written), 2 => Just(Level::Received), 3 => Just(Level::Acked)]
}

fn any_op(restores: bool) -> impl Strategy<Value = Op> {
    let whose =
        || prop_oneof![9 => Just(Whose::Current), 1 => Just(Whose::Old), 1 => Just(Whose::Coming)];
    let pick = || {
        prop_oneof![
            12 => (0..4_u64).prop_map(Pick::FromHead),
            2 => (1..4_u64).prop_map(Pick::BeforeHead),
            4 => Just(Pick::Last),
            1 => Just(Pick::Newest),
            1 => Just(Pick::Zero),
            1 => (0..3_u64).prop_map(Pick::Beyond),
            1 => Just(Pick::Max),
        ]
    };
    let how = || {
        prop_oneof![
            4 => Just(How::Next),
            4 => Just(How::One),
            2 => Just(How::UpTo),
            1 => Just(How::OneOf),
            1 => Just(How::UpToOf),
            1 => Just(How::OneOfNewest),
            1 => Just(How::Foreign),
        ]
    };
    let nack = || prop_oneof![3 => Just(Nack::Transient), 1 => Just(Nack::Permanent)];
    let wire = || prop_oneof![4 => Just(Wire::Ready), 1 => Just(Wire::Blocked)];
    let micros = prop_oneof![
        8 => prop::sample::select(vec![0, 1, 1_000, 5_000, 10_000, 25_000, 60_000, 100_000]),
        1 => prop::sample::select(vec![500_000, 2_000_000, 36_000_000_000]),
    ];
    // Times to live that are restored may come late by a 32nd; the model is exact.
    let ttl = if restores {
        Just(None).boxed()
    } else {
        prop_oneof![4 => Just(None), 1 => (0..3_u8).prop_map(Some)].boxed()
    };
    let back = (0..200_000_u64, ttl.clone()).prop_map(|(micros, ttl)| Op::Back { micros, ttl });
    let key = prop_oneof![3 => Just(None), 1 => (0..2_u8).prop_map(Some)];
    let push = (any_level(), 0..=5_usize, key, ttl).prop_map(|(level, len, key, ttl)| Op::Push {
        level,
        len,
        key,
        ttl,
    });
    let restore = if restores { Just(Op::Restore) } else { Just(Op::Drain(Wire::Ready)) };
    prop_oneof![
        18 => push,
        10 => micros.prop_map(Op::Wait),
        1 => back,
        10 => Just(Op::Up),
        1 => (0..3_u8).prop_map(Op::UpAgain),
        5 => prop::bool::weighted(0.4).prop_map(|accused| Op::Down { accused }),
        5 => whose().prop_map(Op::Flushed),
        9 => (whose(), prop_oneof![3 => Just(Pick::Last), 1 => pick()])
            .prop_map(|(whose, pick)| Op::Ponged(whose, pick)),
        10 => (whose(), how(), pick()).prop_map(|(whose, how, pick)| Op::Acked(whose, how, pick)),
        8 => (whose(), how(), pick(), nack())
            .prop_map(|(whose, how, pick, nack)| Op::Nacked(whose, how, pick, nack)),
        4 => (whose(), pick(), nack())
            .prop_map(|(whose, pick, nack)| Op::NackedFrom(whose, pick, nack)),
        1 => whose().prop_map(Op::Paused),
        1 => whose().prop_map(Op::Resumed),
        6 => pick().prop_map(Op::Cancel),
        1 => prop_oneof![Just(0), Just(50_000), Just(u64::MAX)].prop_map(Op::Close),
        8 => (1..4_u8, wire()).prop_map(|(times, wire)| Op::Poll(times, wire)),
        22 => wire().prop_map(Op::Drain),
        3 => restore,
    ]
}
