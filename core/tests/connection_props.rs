//! The connection under random events, times and settings: what holds after every single step.
//!
//! Events come in any order, of live, dead and future attempts; the clock stands still, runs
//! backwards and jumps by a century; the machine is polled or not, on a wire that is ready or not.
//! The names in capitals are those of the project's invariants.

use core::{cell::Cell, convert::Infallible, time::Duration};
use std::{collections::BTreeSet, rc::Rc};

use bowline_core::{
    Attempt, Backoff, Connection, ConnectionConfig, ConnectionEvent as Event,
    ConnectionOutput as Output, ConnectionState as State, Instant, Jitter, Link, Loss, Refusal,
    Wire,
};
use proptest::{collection::vec, option, prelude::*, sample::select};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng, TryRng};

proptest! {
    /// L3, L6, S11, S13, D2, D5: after every step of any run.
    #[test]
    fn what_holds_after_every_step(world in worlds(), ops in vec(ops(), 1..80)) {
        let mut world = world;
        for op in ops {
            let before = world.clone();
            let event = world.apply(op);

            // L6: nothing that has passed is waited for.
            let deadline = world.machine.deadline();
            prop_assert!(deadline.is_none_or(|deadline| deadline.at > world.seen));
            // L3: there is something to wait for.
            let waits_for_events = match world.machine.state() {
                State::Idle | State::Stopped { .. } => true,
                State::Up { .. } | State::Suspect { .. } => world.paused || !world.can_ping,
                _ => false,
            };
            prop_assert!(deadline.is_some() || waits_for_events, "{:?}", world.machine.state());

            // D5: a tick without cause is none.
            let mut ticked = world.machine.clone();
            ticked.handle(world.seen, Event::Tick);
            prop_assert_eq!(ticked.view(), world.machine.view());

            let Some(event) = event else { continue };
            // D2: an event from the past is one of now.
            let mut straight = before.machine.clone();
            straight.handle(world.seen, event);
            prop_assert_eq!(straight.view(), world.machine.view());
            // S11: an event of another attempt is nothing but the passing of time.
            if event.attempt().is_some_and(|attempt| attempt != before.machine.attempt()) {
                let mut waited = before.machine.clone();
                waited.handle(world.seen, Event::Tick);
                prop_assert_eq!(waited.view(), world.machine.view());
                prop_assert_eq!(waited.stats().stale + 1, world.machine.stats().stale);
            }
            // S13: stopped is final until Start.
            if let State::Stopped { reason } = before.machine.state() {
                if event != Event::Start {
                    prop_assert_eq!(world.machine.state(), State::Stopped { reason });
                    prop_assert_eq!(deadline, None);
                    let mut drained = before;
                    let _ = drained.drain();
                    prop_assert_eq!(drained.machine.poll(Wire::Ready), Output::WaitUntil(None));
                }
            }
        }
    }

    /// L6: after a drain what comes out is the deadline, the same however often it is asked for.
    #[test]
    fn a_drain_ends_with_the_one_deadline(world in worlds(), ops in vec(ops(), 1..40)) {
        let mut world = world;
        for op in ops {
            world.apply(op);
        }
        prop_assert!(world.drain().len() <= 2, "an order and a ping");
        for wire in [Wire::Ready, Wire::Blocked, Wire::Ready] {
            let deadline = world.machine.deadline();
            prop_assert_eq!(world.machine.poll(wire), Output::WaitUntil(deadline));
        }
    }

    /// D1
    #[test]
    fn the_same_inputs_give_the_same_outputs(world in worlds(), ops in vec(ops(), 1..80)) {
        let (mut one, mut other) = (world.clone(), world);
        for op in ops {
            one.apply(op);
            other.apply(op);
        }
        prop_assert_eq!(one.said, other.said);
        prop_assert_eq!(one.machine.view(), other.machine.view());
        prop_assert_eq!(one.machine.stats(), other.machine.stats());
    }

    /// D6
    #[test]
    fn shifting_all_inputs_in_time_shifts_all_outputs(
        world in worlds(),
        shift in 0..1_000_000_000_000_u64,
        ops in vec(ops(), 1..80),
    ) {
        let (mut here, mut there) = (world.clone(), world);
        // So late that no step back ends at the epoch, where it would be cut short.
        here.clock += 1 << 50;
        there.clock = here.clock + shift;
        here.say(Event::Tick);
        there.say(Event::Tick);
        for op in ops {
            here.apply(op);
            there.apply(op);
            prop_assert_eq!(here.machine.view(), there.machine.view());
        }
        let shifted: Vec<_> = here.said.iter().map(|said| shift_by(*said, shift)).collect();
        prop_assert_eq!(shifted, there.said);
    }

    /// R6: at the end of time a deadline is absent, and nothing overflows or spins.
    #[test]
    fn the_end_of_time_is_legal(
        world in worlds(),
        left in prop_oneof![0..10_u64, 0..100_000_000_000_u64],
        ops in vec(ops(), 1..80),
    ) {
        let mut world = world;
        world.clock = u64::MAX - left;
        for op in ops {
            world.apply(op);
            let deadline = world.machine.deadline();
            prop_assert!(deadline.is_none_or(|deadline| deadline.at > world.seen));
            let _ = world.machine.view();
        }
        world.clock = u64::MAX;
        world.say(Event::Stop);
        world.say(Event::Tick);
        let state = world.machine.state();
        let ended = matches!(state, State::Closing { .. } | State::Stopped { .. });
        prop_assert!(ended, "{state:?}");
    }

    /// L5: whatever came before and whatever comes after, but Start.
    #[test]
    fn stop_ends_stopped_within_the_close_limit(
        world in worlds(),
        before in vec(ops(), 0..40),
        after in vec(ops(), 0..40),
    ) {
        let mut world = world;
        for op in before {
            world.apply(op);
        }
        world.say(Event::Stop);
        let stopped_by = world.seen + world.close_limit;
        for op in after {
            if !matches!(op, Op::Say(What::Start, _)) {
                world.apply(op);
            }
            prop_assert!(world.seen < stopped_by || world.is_stopped());
        }
        world.machine.handle(stopped_by, Event::Tick);
        prop_assert!(world.is_stopped());
        let orders = world.drain();
        prop_assert!(orders.iter().all(|order| matches!(order, Output::Abort(_))), "{orders:?}");
        prop_assert_eq!(world.machine.poll(Wire::Ready), Output::WaitUntil(None));
    }

    /// S12, and no socket is left over: a driver that does as it is told has exactly the socket
    /// that the state speaks of, though it polls late.
    #[test]
    fn the_sockets_of_a_driver_are_those_that_the_state_speaks_of(
        world in worlds(),
        ops in vec(ops(), 1..120),
    ) {
        let mut world = world;
        let mut alive = BTreeSet::<Attempt>::new();
        let mut destroyed = BTreeSet::<Attempt>::new();
        for op in ops {
            let orders = match op {
                Op::Say(what, whose) => {
                    // Only a socket that there is, or was, can have anything to say.
                    let speaker = match whose {
                        Whose::Newest | Whose::Next => alive.last().copied(),
                        Whose::Before | Whose::Number(_) => destroyed.last().copied(),
                    };
                    let event = what.of(speaker.unwrap_or(Attempt::NONE));
                    if event.attempt().is_none() || speaker.is_some() {
                        world.say(event);
                    }
                    if let Event::Lost(lost, _) = event {
                        alive.remove(&lost);
                        destroyed.insert(lost);
                    }
                    Vec::new()
                }
                Op::Drain => world.drain(),
                Op::Wait(_) | Op::Sleep | Op::Poll(_) => {
                    let said = world.said.len();
                    world.apply(op);
                    world.said[said..].iter().map(|(_, order)| *order).collect()
                }
            };
            for order in orders {
                match order {
                    Output::Dial(newest) => {
                        destroyed.append(&mut alive);
                        prop_assert!(!destroyed.contains(&newest), "{newest} is dialed again");
                        alive.insert(newest);
                    }
                    Output::Abort(newest) => {
                        prop_assert!(alive.iter().all(|attempt| *attempt <= newest));
                        destroyed.append(&mut alive);
                    }
                    Output::Close(attempt, _) | Output::Ping(attempt) => {
                        prop_assert!(alive.contains(&attempt), "{order:?} without a socket");
                    }
                    Output::WaitUntil(_) => {
                        let newest = match world.machine.state() {
                            State::Idle | State::Waiting { .. } | State::Stopped { .. } => None,
                            _ => Some(world.machine.attempt()),
                        };
                        // The loss of a socket that was already given up is no news.
                        prop_assert!(alive.iter().copied().eq(newest), "{alive:?}, {newest:?}");
                    }
                }
            }
        }
    }

    /// X2: the schedule of dials is a function of the connection's own events and the seed.
    #[test]
    fn traffic_changes_no_dial_and_draws_no_random_number(
        config in configs(),
        seed: u64,
        steps in vec((0..200_000_u64, select(&LIFE[..]), vec(traffic(), 0..6)), 1..60),
    ) {
        let config = ConnectionConfig { can_ping: false, ..config };
        let mut quiet = Sleeper::new(config.clone(), seed);
        let mut busy = Sleeper::new(config, seed);
        for (wait, what, noise) in steps {
            let until = quiet.now + Duration::from_micros(wait);
            for (part, (what, wire)) in (1..).zip(noise) {
                // Spread over the wait, before the next event of the connection.
                let at = quiet.now + Duration::from_micros(wait * part / 7);
                busy.sleep_until(at);
                busy.say(what.of(busy.machine.attempt()));
                let _ = busy.machine.poll(wire);
            }
            for sleeper in [&mut quiet, &mut busy] {
                sleeper.sleep_until(until);
                sleeper.say(what.of(sleeper.machine.attempt()));
            }
            prop_assert_eq!(quiet.machine.state(), busy.machine.state());
            prop_assert_eq!(quiet.machine.failures(), busy.machine.failures());
        }
        prop_assert_eq!(&quiet.dials, &busy.dials);
        prop_assert_eq!(quiet.draws(), busy.draws());
    }

    /// R2: between a failure and the next dial is at least what the policy says, so the dials in
    /// any window are bounded, whether the server refuses or accepts and drops.
    #[test]
    fn no_dial_comes_before_the_backoff_is_over(
        config in configs(),
        seed: u64,
        fates in vec((0..3_usize, 0..100_000_u64, losses()), 1..60),
    ) {
        let config = ConnectionConfig { max_attempts: None, max_elapsed: None, ..config };
        let backoff = config.backoff;
        let longest = backoff.cap.max(config.retry_after_cap) + Duration::from_micros(1);
        let mut sleeper = Sleeper::new(config, seed);
        sleeper.say(Event::Start);
        for (phases, wait, loss) in fates {
            let attempt = sleeper.machine.attempt();
            for event in [Event::Opened(attempt), Event::Greeted(attempt)].iter().take(phases) {
                sleeper.say(*event);
            }
            sleeper.sleep_until(sleeper.now + Duration::from_micros(wait));
            sleeper.say(Event::Lost(attempt, loss));
            while let State::Waiting { redial_at, .. } = sleeper.machine.state() {
                sleeper.sleep_until(redial_at);
            }
        }
        for (delay, failures) in sleeper.backoffs {
            let ceiling = backoff.ceiling(failures - 1);
            let floor = match backoff.jitter {
                Jitter::None => ceiling,
                Jitter::Equal => ceiling / 2,
                Jitter::Decorrelated => backoff.base,
                _ => Duration::ZERO,
            };
            prop_assert!(floor <= delay && delay <= longest, "{delay:?} after {failures}");
        }
    }

    /// L4: from the last sign of life, on either side, whenever the ping gets out, if it does.
    #[test]
    fn a_half_open_peer_is_found_in_time(
        config in configs(),
        seed: u64,
        chatter in vec((0..100_000_u64, select(&CHATTER[..])), 0..30),
        flush_after in option::of(0..200_000_u64),
        wire in wires(),
    ) {
        let config = ConnectionConfig { can_ping: true, ..config };
        let bound = config.ping_interval + config.write_limit + config.pong_limit;
        let mut sleeper = Sleeper::new(config, seed);
        sleeper.bring_up();
        for (wait, what) in chatter {
            let until = sleeper.now + Duration::from_micros(wait);
            sleeper.sleep_until(until);
            sleeper.say(what.of(Attempt::new(1)));
        }
        // A peer that was too slow, or deaf, is gone already.
        let silent_since = sleeper.now;
        sleeper.wire = wire;
        let mut flush_at = None;
        while sleeper.machine.link() == Link::Up(Attempt::new(1)) {
            if sleeper.drain() {
                flush_at = flush_after.map(|micros| sleeper.now + Duration::from_micros(micros));
            }
            let at = sleeper.machine.deadline().expect("silence has a deadline").at;
            prop_assert!(at <= silent_since + bound, "waits until {at:?}");
            match flush_at.take() {
                Some(flush) if flush < at => {
                    sleeper.now = flush;
                    sleeper.say(Event::Flushed(Attempt::new(1)));
                }
                later => {
                    flush_at = later;
                    sleeper.now = at;
                    sleeper.say(Event::Tick);
                }
            }
        }
    }

    /// L4: a peer that says a byte in every ping interval, on a socket that is slow to take them.
    #[test]
    fn a_slow_peer_that_answers_pings_and_moves_bytes_is_left_alone(
        config in configs(),
        seed: u64,
        signs in vec((any::<u64>(), any::<bool>()), 1..100),
    ) {
        let config = ConnectionConfig { can_ping: true, ..config };
        let mut sleeper = Sleeper::new(config, seed);
        sleeper.bring_up();
        sleeper.say(Event::Ponged(Attempt::new(1)));
        for (random, asks) in signs {
            sleeper.drain();
            let (event, last_moment) = match sleeper.machine.state() {
                // Silent, or not quite.
                State::Up { ping_at, .. } if asks => (Event::Tick, ping_at),
                State::Up { ping_at, .. } => (Event::Heard(Attempt::new(1)), ping_at),
                // The ping is stuck behind a large message.
                State::Suspect { dead_at, .. } if asks => (Event::Took(Attempt::new(1)), dead_at),
                State::Suspect { dead_at, .. } => (Event::Heard(Attempt::new(1)), dead_at),
                state => panic!("{state:?}"),
            };
            let room = last_moment.since(sleeper.now).as_micros() as u64 + 1;
            // The last moment included, and often.
            let early = if event == Event::Tick { 0 } else { (random % (2 * room)).min(room - 1) };
            sleeper.now = Instant::from_micros(last_moment.as_micros() - early);
            sleeper.say(event);
            prop_assert_eq!(sleeper.machine.link(), Link::Up(Attempt::new(1)));
        }
    }
}

// ---- What happens ---------------------------------------------------------------------------------

/// One step of a run.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// The clock moves.
    Wait(Step),
    /// The clock moves to the deadline exactly, and says so.
    Sleep,
    Say(What, Whose),
    Poll(Wire),
    Drain,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Back(u64),
    Ahead(u64),
    Century,
}

/// An event whose attempt is still open.
#[derive(Clone, Copy, Debug)]
enum What {
    Start,
    Opened,
    Greeted,
    Heard,
    Ponged,
    Flushed,
    Took,
    Paused,
    Resumed,
    Refused(Refusal),
    Overdue,
    Lost(Loss),
    Nudge,
    Stop,
    Tick,
}

#[derive(Clone, Copy, Debug)]
enum Whose {
    Newest,
    Before,
    Next,
    Number(u64),
}

/// The events that make the life of a connection, but for those of its heartbeat.
const LIFE: [What; 10] = [
    What::Start,
    What::Opened,
    What::Greeted,
    What::Opened,
    What::Greeted,
    What::Lost(Loss::Eof),
    What::Lost(Loss::Closed { code: Some(1013) }),
    What::Refused(Refusal::Retry),
    What::Nudge,
    What::Stop,
];

const CHATTER: [What; 4] = [What::Heard, What::Ponged, What::Flushed, What::Took];

impl What {
    fn of(self, attempt: Attempt) -> Event {
        match self {
            Self::Start => Event::Start,
            Self::Opened => Event::Opened(attempt),
            Self::Greeted => Event::Greeted(attempt),
            Self::Heard => Event::Heard(attempt),
            Self::Ponged => Event::Ponged(attempt),
            Self::Flushed => Event::Flushed(attempt),
            Self::Took => Event::Took(attempt),
            Self::Paused => Event::Paused(attempt),
            Self::Resumed => Event::Resumed(attempt),
            Self::Refused(refusal) => Event::Refused(attempt, refusal),
            Self::Overdue => Event::Overdue(attempt),
            Self::Lost(loss) => Event::Lost(attempt, loss),
            Self::Nudge => Event::Nudge,
            Self::Stop => Event::Stop,
            Self::Tick => Event::Tick,
        }
    }
}

fn ops() -> impl Strategy<Value = Op> {
    let step = prop_oneof![
        4 => log_uniform(40).prop_map(Step::Ahead),
        1 => Just(Step::Ahead(0)),
        1 => log_uniform(40).prop_map(Step::Back),
        1 => Just(Step::Century),
    ];
    let whose = prop_oneof![
        12 => Just(Whose::Newest),
        2 => Just(Whose::Before),
        1 => Just(Whose::Next),
        1 => any::<u64>().prop_map(Whose::Number),
    ];
    prop_oneof![
        3 => step.prop_map(Op::Wait),
        3 => Just(Op::Sleep),
        8 => (whats(), whose).prop_map(|(what, whose)| Op::Say(what, whose)),
        2 => wires().prop_map(Op::Poll),
        2 => Just(Op::Drain),
    ]
}

fn whats() -> impl Strategy<Value = What> {
    prop_oneof![
        4 => Just(What::Start),
        8 => Just(What::Opened),
        8 => Just(What::Greeted),
        4 => select(&CHATTER[..]),
        2 => select(&[What::Paused, What::Resumed][..]),
        1 => refusals().prop_map(What::Refused),
        1 => Just(What::Overdue),
        3 => losses().prop_map(What::Lost),
        1 => Just(What::Nudge),
        1 => Just(What::Stop),
        2 => Just(What::Tick),
    ]
}

/// What is no business of the dials. The attempt may be right or wrong: it is the newest.
fn traffic() -> impl Strategy<Value = (What, Wire)> {
    const REST: [What; 3] = [What::Paused, What::Resumed, What::Tick];
    (prop_oneof![select(&CHATTER[..]), select(&REST[..])], wires())
}

fn wires() -> impl Strategy<Value = Wire> {
    select(&[Wire::Ready, Wire::Blocked][..])
}

fn refusals() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        Just(Refusal::Retry),
        any::<Duration>().prop_map(Refusal::RetryAfter),
        Just(Refusal::Renew),
        Just(Refusal::Fatal),
    ]
}

fn losses() -> impl Strategy<Value = Loss> {
    let plain = [
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
    ];
    let delay =
        option::of(prop_oneof![any::<Duration>(), log_uniform(30).prop_map(Duration::from_micros)]);
    prop_oneof![
        4 => select(plain.to_vec()),
        2 => option::of(1000..1016_u16).prop_map(|code| Loss::Closed { code }),
        1 => (select(&[401, 403, 404, 429, 500, 503][..]), delay)
            .prop_map(|(status, retry_after)| Loss::Status { status, retry_after }),
        1 => refusals().prop_map(Loss::Refused),
    ]
}

/// A number with up to this many bits, small ones as often as large ones.
fn log_uniform(bits: u32) -> impl Strategy<Value = u64> {
    (1..=bits, any::<u64>()).prop_map(|(bits, value)| value >> (64 - bits))
}

/// Legal settings, most of them tiny, so that everything happens often.
fn configs() -> impl Strategy<Value = ConnectionConfig> {
    let limit = || {
        let day = Duration::from_secs(86_400);
        let least = Duration::from_millis(1);
        prop_oneof![
            6 => (1..50_000_000_u64).prop_map(move |nanos| Duration::from_nanos(nanos).max(least)),
            1 => log_uniform(37).prop_map(move |us| Duration::from_micros(us).clamp(least, day)),
        ]
    };
    let limits = [(); 9].map(|()| limit());
    let jitters = [Jitter::Full, Jitter::Equal, Jitter::Decorrelated, Jitter::None];
    let backoff = (limit(), limit(), 1..5_u32, select(jitters.to_vec())).prop_map(
        |(a, b, factor, jitter)| Backoff { base: a.min(b), cap: a.max(b), factor, jitter },
    );
    let ends = (option::weighted(0.2, 1..6_u32), option::weighted(0.2, limit()));
    (limits, backoff, ends, any::<bool>()).prop_map(
        |(limits, backoff, (max_attempts, max_elapsed), can_ping)| {
            let [dial, greeting, ping, pong, write, close, stable, nudge, retry_after] = limits;
            let config = ConnectionConfig {
                dial_limit: dial,
                greeting_limit: greeting,
                ping_interval: ping,
                pong_limit: pong,
                write_limit: write,
                close_limit: close,
                stable_after: stable,
                nudge_floor: nudge,
                retry_after_cap: retry_after,
                max_attempts,
                max_elapsed,
                backoff,
                can_ping,
                ..ConnectionConfig::default()
            };
            assert_eq!(config.validate(), Ok(()));
            config
        },
    )
}

fn worlds() -> impl Strategy<Value = World> {
    (configs(), any::<u64>(), log_uniform(50)).prop_map(|(config, seed, clock)| World {
        can_ping: config.can_ping,
        close_limit: config.close_limit,
        machine: Connection::new(config, ChaCha8Rng::seed_from_u64(seed)).expect("a legal config"),
        clock,
        seen: Instant::ZERO,
        paused: false,
        said: Vec::new(),
    })
}

// ---- Who runs it ----------------------------------------------------------------------------------

/// A machine among any events.
#[derive(Clone, Debug)]
struct World {
    machine: Connection<ChaCha8Rng>,
    can_ping: bool,
    close_limit: Duration,
    /// What the clock says; it may run backwards.
    clock: u64,
    /// The latest time that the machine was told.
    seen: Instant,
    /// The newest attempt is paused.
    paused: bool,
    /// All that came out of the machine, and when.
    said: Vec<(Instant, Output)>,
}

impl World {
    /// Does one step; the event, if it was one.
    fn apply(&mut self, op: Op) -> Option<Event> {
        let event = match op {
            Op::Wait(Step::Ahead(micros)) => {
                self.clock = self.clock.saturating_add(micros);
                return None;
            }
            Op::Wait(Step::Back(micros)) => {
                self.clock = self.clock.saturating_sub(micros);
                return None;
            }
            Op::Wait(Step::Century) => {
                self.clock = self.clock.saturating_add(100 * 365 * 86_400 * 1_000_000);
                return None;
            }
            Op::Poll(wire) => {
                let _ = self.poll(wire);
                return None;
            }
            Op::Drain => {
                let _ = self.drain();
                return None;
            }
            Op::Sleep => {
                let deadline = self.machine.deadline()?;
                self.clock = deadline.at.as_micros();
                Event::Tick
            }
            Op::Say(what, whose) => {
                let newest = self.machine.attempt().get();
                what.of(Attempt::new(match whose {
                    Whose::Newest => newest,
                    Whose::Before => newest.wrapping_sub(1),
                    Whose::Next => newest + 1,
                    Whose::Number(number) => number,
                }))
            }
        };
        self.say(event);
        Some(event)
    }

    fn say(&mut self, event: Event) {
        let now = Instant::from_micros(self.clock);
        self.seen = self.seen.max(now);
        let before = self.machine.attempt();
        if event.attempt() == Some(before) {
            let greets = matches!(self.machine.state(), State::Greeting { .. });
            match event {
                Event::Paused(_) => self.paused = greets || self.machine.link() == Link::Up(before),
                Event::Resumed(_) => self.paused = false,
                _ => {}
            }
        }
        self.machine.handle(now, event);
        self.paused &= self.machine.attempt() == before;
    }

    fn drain(&mut self) -> Vec<Output> {
        let mut orders = Vec::new();
        loop {
            let output = self.poll(Wire::Ready);
            if let Output::WaitUntil(_) = output {
                return orders;
            }
            orders.push(output);
        }
    }

    /// Polls, and checks that what comes out goes with what came before: each attempt is dialed
    /// once, in order, closed once at most, aborted once at most, and nothing is owed after that.
    fn poll(&mut self, wire: Wire) -> Output {
        let output = self.machine.poll(wire);
        let newest = self.machine.attempt();
        let aborted = |order: &Output| matches!(order, Output::Abort(a) if *a >= newest);
        let mut earlier = self.said.iter().map(|(_, order)| order);
        match output {
            Output::Dial(attempt) => {
                assert_eq!(attempt, newest);
                assert!(earlier.all(|order| named(*order) < Some(newest)), "dialed too late");
            }
            Output::Close(attempt, _) => {
                assert_eq!(attempt, newest);
                let closed = |order| matches!(order, &Output::Close(a, _) if a >= newest);
                assert!(!earlier.any(|order| closed(order) || aborted(order)));
            }
            Output::Ping(attempt) => {
                assert_eq!(attempt, newest);
                assert_eq!(self.machine.link(), Link::Up(newest));
                assert_eq!(wire, Wire::Ready);
                assert!(!earlier.any(aborted));
            }
            Output::Abort(attempt) => {
                assert_eq!(attempt, newest);
                assert!(!earlier.any(aborted));
            }
            Output::WaitUntil(deadline) => assert_eq!(deadline, self.machine.deadline()),
        }
        self.said.push((self.seen, output));
        output
    }

    fn is_stopped(&self) -> bool {
        matches!(self.machine.state(), State::Stopped { .. })
    }
}

/// The attempt that an order names.
fn named(order: Output) -> Option<Attempt> {
    match order {
        Output::Dial(a) | Output::Ping(a) | Output::Close(a, _) | Output::Abort(a) => Some(a),
        Output::WaitUntil(_) => None,
    }
}

/// An order and its time, this many microseconds later.
fn shift_by((at, output): (Instant, Output), shift: u64) -> (Instant, Output) {
    let later = |at: Instant| Instant::from_micros(at.as_micros() + shift);
    let output = match output {
        Output::WaitUntil(Some(mut deadline)) => {
            deadline.at = later(deadline.at);
            Output::WaitUntil(Some(deadline))
        }
        output => output,
    };
    (later(at), output)
}

/// A machine with a driver that sleeps exactly to each deadline.
struct Sleeper {
    machine: Connection<CountedRng>,
    draws: Rc<Cell<u64>>,
    now: Instant,
    wire: Wire,
    dials: Vec<(Instant, Attempt)>,
    /// When the last attempt ended and how many failures in a row that made.
    ended: Option<(Instant, u32)>,
    /// How long each wait for a redial was, and after how many failures.
    backoffs: Vec<(Duration, u32)>,
}

impl Sleeper {
    fn new(config: ConnectionConfig, seed: u64) -> Self {
        let draws = Rc::new(Cell::new(0));
        let rng = CountedRng { draws: draws.clone(), rng: ChaCha8Rng::seed_from_u64(seed) };
        Self {
            draws,
            machine: Connection::new(config, rng).expect("a legal config"),
            now: Instant::ZERO,
            wire: Wire::Ready,
            dials: Vec::new(),
            ended: None,
            backoffs: Vec::new(),
        }
    }

    fn bring_up(&mut self) {
        self.say(Event::Start);
        self.say(Event::Opened(Attempt::new(1)));
        self.say(Event::Greeted(Attempt::new(1)));
    }

    fn say(&mut self, event: Event) {
        let (before, losses) = (self.machine.attempt(), self.losses());
        self.machine.handle(self.now, event);
        if self.losses() != losses {
            self.ended = Some((self.now, self.machine.failures()));
        }
        if self.machine.attempt() != before {
            self.dials.push((self.now, self.machine.attempt()));
            let ended = self.ended.take();
            self.backoffs.extend(ended.map(|(at, failures)| (self.now.since(at), failures)));
        }
    }

    fn sleep_until(&mut self, until: Instant) {
        while let Some(deadline) = self.machine.deadline().filter(|deadline| deadline.at <= until) {
            self.now = deadline.at;
            self.say(Event::Tick);
        }
        self.now = until;
    }

    /// Drains; whether a ping was among it.
    fn drain(&mut self) -> bool {
        let mut pinged = false;
        loop {
            match self.machine.poll(self.wire) {
                Output::WaitUntil(_) => return pinged,
                output => pinged |= matches!(output, Output::Ping(_)),
            }
        }
    }

    fn losses(&self) -> u64 {
        self.machine.stats().losses.iter().sum()
    }

    /// How many random numbers the machine has drawn.
    fn draws(&self) -> u64 {
        self.draws.get()
    }
}

/// A generator that counts what was drawn.
struct CountedRng {
    draws: Rc<Cell<u64>>,
    rng: ChaCha8Rng,
}

impl CountedRng {
    fn count(&self) {
        self.draws.set(self.draws.get() + 1);
    }
}

impl TryRng for CountedRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.count();
        Ok(self.rng.next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.count();
        Ok(self.rng.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.count();
        self.rng.fill_bytes(bytes);
        Ok(())
    }
}
