//! Any events in any order, at any time, for a connection; every other one on the newest attempt.

use core::time::Duration;

use arbitrary::Arbitrary;
use bowline_core::{
    Attempt, Backoff, Connection, ConnectionConfig, ConnectionEvent, ConnectionOutput,
    ConnectionState, Instant, Jitter, Link, Wire,
};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use super::{Passes, Which, read};

#[derive(Arbitrary, Debug)]
struct Input {
    seed: u64,
    max_attempts: Option<u8>,
    jitter: u8,
    base: u16,
    cap: u32,
    can_ping: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
struct Step {
    passes: Passes,
    event: ConnectionEvent,
    which: Option<Which>,
    wire: Wire,
}

/// Reads events from `data` and lets a connection live through them.
///
/// # Panics
/// A promise is broken: more than one attempt, an order of a stopped connection, a drain without
/// end, a deadline in the past, a delay above the cap, a stale event that changed something.
pub fn run(data: &[u8]) {
    if let Some(input) = read(data) {
        live(input);
    }
}

fn live(input: Input) {
    let base = Duration::from_micros(u64::from(input.base) + 1);
    let config = ConnectionConfig {
        max_attempts: input.max_attempts.map(|most| u32::from(most) + 1),
        can_ping: input.can_ping,
        backoff: Backoff {
            base,
            cap: base + Duration::from_micros(input.cap.into()),
            jitter: [Jitter::Full, Jitter::Equal, Jitter::Decorrelated, Jitter::None]
                [usize::from(input.jitter % 4)],
            ..Backoff::default()
        },
        ..ConnectionConfig::default()
    };
    let cap = config.backoff.cap.max(config.retry_after_cap);
    // A base below what is accepted is refused, and that is all.
    let Ok(mut connection) = Connection::new(config, ChaCha8Rng::seed_from_u64(input.seed)) else {
        return;
    };
    let mut now = Instant::ZERO;
    let mut dialed = Attempt::NONE;
    for Step { passes, event, which, wire } in input.steps {
        now = passes.since(now);
        let newest = connection.attempt();
        let event = which.map_or(event, |which| with_attempt(event, which.of(newest)));
        let stale = event.attempt().is_some_and(|attempt| attempt != newest);
        let before = (connection.view(), connection.stats().stale);
        connection.handle(now, event);
        if stale && before.0 == connection.view() {
            assert!(connection.stats().stale > before.1, "a stale event was not counted");
        }

        for poll in 0.. {
            assert!(poll < 10, "a drain does not end");
            match connection.poll(wire) {
                ConnectionOutput::Dial(attempt) => {
                    assert!(attempt > dialed, "an attempt was dialed twice");
                    assert!(is_dialing(&connection), "a dial in another state");
                    dialed = attempt;
                }
                ConnectionOutput::Ping(attempt) => {
                    assert_eq!(wire, Wire::Ready);
                    assert_eq!(connection.link(), Link::Up(attempt), "a ping without a link");
                    assert_eq!(attempt, dialed);
                    connection.handle(now, ConnectionEvent::Flushed(attempt));
                }
                ConnectionOutput::Close(attempt, _) => {
                    assert_eq!(attempt, dialed);
                    assert!(matches!(connection.state(), ConnectionState::Closing { .. }));
                }
                ConnectionOutput::Abort(attempt) => assert!(attempt <= dialed),
                ConnectionOutput::WaitUntil(deadline) => {
                    if event == ConnectionEvent::Tick {
                        assert!(deadline.is_none_or(|deadline| deadline.at > now));
                    }
                    check(&connection, now, cap, deadline.is_some());
                    break;
                }
            }
        }
    }
}

fn check(connection: &Connection<ChaCha8Rng>, now: Instant, cap: Duration, has_deadline: bool) {
    match connection.state() {
        ConnectionState::Stopped { .. } | ConnectionState::Idle => {
            assert!(!has_deadline, "a deadline of a connection at rest");
            assert!(matches!(connection.link(), Link::Down { .. }));
        }
        ConnectionState::Waiting { redial_at, .. } => {
            // A part of a microsecond is rounded up.
            let latest = now + cap + Duration::from_micros(1);
            assert!(has_deadline && redial_at <= latest, "a delay above the cap");
        }
        ConnectionState::Dialing { .. }
        | ConnectionState::Greeting { .. }
        | ConnectionState::Closing { .. } => {
            assert!(has_deadline, "nothing ends this");
            assert!(matches!(connection.link(), Link::Down { .. }));
        }
        ConnectionState::Up { .. } | ConnectionState::Suspect { .. } => {
            assert_eq!(connection.link(), Link::Up(connection.attempt()));
        }
    }
}

fn is_dialing(connection: &Connection<ChaCha8Rng>) -> bool {
    matches!(connection.state(), ConnectionState::Dialing { .. })
}

fn with_attempt(event: ConnectionEvent, attempt: Attempt) -> ConnectionEvent {
    use ConnectionEvent as E;
    match event {
        E::Opened(_) => E::Opened(attempt),
        E::Greeted(_) => E::Greeted(attempt),
        E::Heard(_) => E::Heard(attempt),
        E::Ponged(_) => E::Ponged(attempt),
        E::Flushed(_) => E::Flushed(attempt),
        E::Took(_) => E::Took(attempt),
        E::Paused(_) => E::Paused(attempt),
        E::Resumed(_) => E::Resumed(attempt),
        E::Refused(_, refusal) => E::Refused(attempt, refusal),
        E::Overdue(_) => E::Overdue(attempt),
        E::Lost(_, loss) => E::Lost(attempt, loss),
        E::Start | E::Nudge | E::Stop | E::Tick => event,
    }
}
