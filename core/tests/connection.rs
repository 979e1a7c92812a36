//! The connection in sentences: its transition table row by row, then what it promises about
//! heartbeats, backoff, limits and the end.
//!
//! Times are in milliseconds since the epoch. Unless a test says otherwise the settings are the
//! defaults without jitter, so that every instant is known: the first dial begins at 0, the
//! transport is open at 1,000, the link is up at 2,000, a ping is owed at 22,000.

use core::time::Duration;

use bowline_core::{
    Attempt, Backoff, Connection, ConnectionConfig, ConnectionEvent as Event,
    ConnectionOutput as Output, ConnectionState as State, Instant, Jitter, Link, Loss, Refusal,
    StopReason, Timer, Verdict, VerdictLimits, Wire, connection::ConnectionView,
};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

// ---- The table, row by row ------------------------------------------------------------------------

/// H22
#[test]
fn start_dials_and_the_first_dial_is_retried_like_any_other() {
    let mut world = World::idle();
    assert_eq!(world.say(0, Event::Start), [Output::Dial(a(1))]);
    assert_eq!(world.state(), State::Dialing { give_up_at: ms(15_000) });

    assert_eq!(world.say(1_000, Event::Lost(a(1), Loss::Connect)), []);
    assert_eq!(world.say(2_000, Event::Tick), [Output::Dial(a(2))]);
}

/// H10
#[test]
fn start_begins_again_after_whatever_stopped_it() {
    for reason in [Event::Stop, Event::Lost(a(1), Loss::BadUrl)] {
        let mut world = World::dialing();
        world.say(1_000, reason);
        assert!(world.is_stopped());
        assert_eq!(world.say(5_000, Event::Start), [Output::Dial(a(2))]);
        assert_eq!(world.state(), State::Dialing { give_up_at: ms(20_000) });
    }
}

/// H10: no loss of any kind leaves a connection that neither dials nor can be started.
#[test]
fn every_loss_in_every_phase_ends_in_waiting_or_in_a_stop_that_start_ends() {
    for loss in every_loss() {
        for mut world in [World::dialing(), World::greeting(), World::up(), World::suspect()] {
            let now = world.now + 500;
            world.say(now, Event::Lost(a(1), loss));
            match world.state() {
                State::Waiting { .. } => assert_eq!(world.sleep(), [Output::Dial(a(2))], "{loss}"),
                State::Stopped { .. } => {
                    assert_eq!(world.say(now, Event::Start), [Output::Dial(a(2))], "{loss}");
                }
                state => panic!("{loss} leads to {state:?}"),
            }
        }
    }
}

#[test]
fn an_open_transport_begins_the_greeting() {
    let mut world = World::dialing();
    assert_eq!(world.say(1_000, Event::Opened(a(1))), []);
    assert_eq!(world.state(), State::Greeting { give_up_at: ms(11_000) });
    assert_eq!(world.link(), Link::Down { accused: false });
}

/// H12
#[test]
fn a_dial_that_succeeds_after_its_limit_is_aborted_and_never_adopted() {
    let mut world = World::dialing();
    assert_eq!(world.say(15_000, Event::Opened(a(1))), [Output::Abort(a(1))]);
    assert_eq!(world.state(), waiting_until(16_000));
    assert_eq!(world.machine.last_loss(), Some(Loss::DialLimit));

    // The clock had already spoken: the late success is nothing but stale.
    let mut world = World::dialing();
    assert_eq!(world.say(15_000, Event::Tick), [Output::Abort(a(1))]);
    assert_eq!(world.say(15_001, Event::Opened(a(1))), []);
    assert_eq!(world.machine.stats().stale, 1);
    assert_eq!(world.say(16_000, Event::Tick), [Output::Dial(a(2))]);
    assert_eq!(world.say(16_001, Event::Opened(a(1))), []);
    assert_eq!(world.state(), State::Dialing { give_up_at: ms(31_000) });
}

#[test]
fn a_dial_that_succeeds_just_inside_its_limit_is_adopted() {
    let mut world = World::dialing();
    assert_eq!(world.say(14_999, Event::Opened(a(1))), []);
    assert_eq!(world.state(), State::Greeting { give_up_at: ms(24_999) });
}

#[test]
fn a_greeting_that_is_done_brings_the_link_up() {
    let mut world = World::greeting();
    assert_eq!(world.say(2_000, Event::Greeted(a(1))), []);
    assert_eq!(world.state(), State::Up { ping_at: ms(22_000), stable_at: ms(32_000) });
    assert_eq!(world.link(), Link::Up(a(1)));
    assert_eq!(world.machine.stats().links, 1);
}

#[test]
fn hearing_the_peer_starts_the_silence_afresh() {
    for heard in [Event::Heard(a(1)), Event::Ponged(a(1))] {
        let mut world = World::up();
        world.say(10_000, heard);
        assert_eq!(world.state(), State::Up { ping_at: ms(30_000), stable_at: ms(32_000) });
    }
}

/// H17
#[test]
fn silence_owes_a_ping_and_makes_the_connection_suspect() {
    let mut world = World::up();
    assert_eq!(world.say(21_999, Event::Tick), []);
    assert_eq!(world.say(22_000, Event::Tick), [Output::Ping(a(1))]);
    assert_eq!(world.state(), State::Suspect { dead_at: ms(42_000), stable_at: ms(32_000) });
    assert_eq!(world.link(), Link::Up(a(1)), "suspicion stops no message");
}

#[test]
fn a_link_that_was_up_for_stable_after_forgets_earlier_failures() {
    let mut world = World::up_after_failures(3);
    let up_at = world.now;
    world.say(up_at + 19_000, Event::Heard(a(4)));
    world.say(up_at + 29_999, Event::Tick);
    assert_eq!(world.machine.failures(), 3);
    world.say(up_at + 30_000, Event::Tick);
    assert_eq!(world.machine.failures(), 0);
    let forgiven = State::Up { ping_at: ms(up_at + 39_000), stable_at: Instant::NEVER };
    assert_eq!(world.state(), forgiven);
}

#[test]
fn a_suspect_peer_that_is_heard_is_up_again() {
    for heard in [Event::Heard(a(1)), Event::Ponged(a(1))] {
        let mut world = World::suspect();
        world.say(23_000, heard);
        assert_eq!(world.state(), State::Up { ping_at: ms(43_000), stable_at: ms(32_000) });
    }
}

#[test]
fn bytes_that_the_socket_takes_before_the_ping_is_flushed_restart_the_write_limit() {
    let mut world = World::suspect();
    world.say(41_999, Event::Took(a(1)));
    assert_eq!(world.state(), State::Suspect { dead_at: ms(61_999), stable_at: ms(32_000) });
    assert_eq!(world.deadline(), Some((61_999, Timer::Write)));
}

#[test]
fn the_pong_clock_starts_when_the_ping_is_flushed() {
    let mut world = World::suspect();
    world.say(30_000, Event::Flushed(a(1)));
    assert_eq!(world.state(), State::Suspect { dead_at: ms(40_000), stable_at: ms(32_000) });
    assert_eq!(world.deadline(), Some((40_000, Timer::Pong)));
}

#[test]
fn a_flush_while_the_ping_is_still_owed_starts_no_pong_clock() {
    let mut world = World::up();
    world.machine.handle(ms(22_000), Event::Tick);
    world.machine.handle(ms(23_000), Event::Flushed(a(1)));
    assert_eq!(world.deadline(), Some((42_000, Timer::Write)));
}

/// H17
#[test]
fn a_socket_that_takes_no_byte_for_the_write_limit_is_dead() {
    let mut world = World::suspect();
    assert_eq!(world.say(41_999, Event::Tick), []);
    assert_eq!(world.say(42_000, Event::Tick), [Output::Abort(a(1))]);
    assert_eq!(world.state(), waiting_until(43_000));
    assert_eq!(world.machine.last_loss(), Some(Loss::WriteLimit));
    assert_eq!(world.link(), Link::Down { accused: false });
}

/// H17
#[test]
fn a_peer_that_is_silent_for_the_pong_limit_after_the_flush_is_dead() {
    let mut world = World::suspect();
    world.say(22_000, Event::Flushed(a(1)));
    assert_eq!(world.say(31_999, Event::Tick), []);
    assert_eq!(world.say(32_000, Event::Tick), [Output::Abort(a(1))]);
    assert_eq!(world.state(), waiting_until(33_000));
    assert_eq!(world.machine.last_loss(), Some(Loss::PongLimit));
}

#[test]
fn resuming_starts_the_clocks_afresh() {
    let mut world = World::up();
    world.say(10_000, Event::Paused(a(1)));
    world.say(50_000, Event::Resumed(a(1)));
    assert_eq!(world.deadline(), Some((70_000, Timer::Ping)));

    let mut world = World::suspect();
    world.say(23_000, Event::Paused(a(1)));
    world.say(50_000, Event::Resumed(a(1)));
    assert_eq!(world.deadline(), Some((70_000, Timer::Write)));

    let mut world = World::suspect();
    world.say(22_000, Event::Flushed(a(1)));
    world.say(23_000, Event::Paused(a(1)));
    world.say(50_000, Event::Resumed(a(1)));
    assert_eq!(world.deadline(), Some((60_000, Timer::Pong)));
}

#[test]
fn an_overdue_answer_ends_the_attempt_and_nothing_heard_later_cancels_that() {
    for mut world in [World::up(), World::suspect()] {
        let now = world.now + 1_000;
        world.machine.handle(ms(now), Event::Overdue(a(1)));
        world.machine.handle(ms(now), Event::Heard(a(1)));
        world.machine.handle(ms(now), Event::Ponged(a(1)));
        world.now = now;
        assert_eq!(world.drain(), [Output::Abort(a(1))]);
        assert_eq!(world.state(), waiting_until(now + 1_000));
        assert_eq!(world.machine.last_loss(), Some(Loss::Overdue));
    }
}

/// H11, H60: bytes that drip in, and bytes that go out, do not stretch the limit.
#[test]
fn a_dial_and_a_greeting_that_take_too_long_are_aborted_whatever_drips_in() {
    for (mut world, limit, loss) in [
        (World::dialing(), 15_000, Loss::DialLimit),
        (World::greeting(), 11_000, Loss::GreetingLimit),
    ] {
        for now in (2_000..limit).step_by(100) {
            for event in [Event::Heard(a(1)), Event::Took(a(1)), Event::Flushed(a(1))] {
                assert_eq!(world.say(now, event), []);
            }
        }
        assert_eq!(world.say(limit, Event::Heard(a(1))), [Output::Abort(a(1))]);
        assert_eq!(world.state(), waiting_until(limit + 1_000));
        assert_eq!(world.machine.last_loss(), Some(loss));
    }
}

#[test]
fn a_refused_greeting_ends_the_attempt_with_the_verdict_of_the_dialect() {
    let refuse = |mut world: World, refusal| {
        let now = world.now;
        assert_eq!(world.say(now, Event::Refused(a(1), refusal)), [Output::Abort(a(1))]);
        assert_eq!(world.machine.last_loss(), Some(Loss::Refused(refusal)));
        world.state()
    };
    let later = Refusal::RetryAfter(Duration::from_secs(7));
    let fatal = StopReason::Fatal(Loss::Refused(Refusal::Fatal));
    assert_eq!(refuse(World::greeting(), Refusal::Retry), waiting_until(2_000));
    let State::Waiting { redial_at, nudgeable: false } = refuse(World::greeting(), later) else {
        panic!("it waits for the dialect's time")
    };
    assert!((ms(8_000)..=ms(9_750)).contains(&redial_at), "{redial_at:?}");
    assert_eq!(refuse(World::greeting(), Refusal::Renew), waiting_until(2_000));
    assert_eq!(refuse(World::greeting(), Refusal::Fatal), State::Stopped { reason: fatal });
    assert_eq!(refuse(World::up(), Refusal::Retry), waiting_until(3_000));
    assert_eq!(refuse(World::suspect(), Refusal::Retry), waiting_until(23_000));
}

/// H2
#[test]
fn a_loss_takes_the_link_down_and_waits_for_the_next_dial_without_an_abort() {
    for mut world in [World::dialing(), World::greeting(), World::up(), World::suspect()] {
        let now = world.now + 100;
        assert_eq!(world.say(now, Event::Lost(a(1), Loss::Io)), []);
        assert_eq!(world.state(), waiting_until(now + 1_000));
        assert_eq!(world.link(), Link::Down { accused: false });
        assert_eq!(world.say(now + 1_000, Event::Tick), [Output::Dial(a(2))]);
    }
}

/// H56: the deadline says when, so whoever sleeps up to it misses nothing.
#[test]
fn the_end_of_the_backoff_dials() {
    let mut world = World::waiting();
    assert_eq!(world.say(1_999, Event::Tick), []);
    assert_eq!(world.deadline(), Some((2_000, Timer::Redial)));
    assert_eq!(world.say(2_000, Event::Tick), [Output::Dial(a(2))]);
    assert_eq!(world.state(), State::Dialing { give_up_at: ms(17_000) });
}

/// H12
#[test]
fn stop_while_dialing_or_greeting_aborts_and_a_late_success_opens_nothing() {
    for mut world in [World::dialing(), World::greeting()] {
        let now = world.now + 100;
        assert_eq!(world.say(now, Event::Stop), [Output::Abort(a(1))]);
        assert_eq!(world.state(), State::Stopped { reason: StopReason::Requested });
        assert_eq!(world.say(now, Event::Opened(a(1))), []);
        assert_eq!(world.say(now, Event::Greeted(a(1))), []);
        assert_eq!(world.state(), State::Stopped { reason: StopReason::Requested });
        assert_eq!(world.machine.stats().stale, 2);
        assert_eq!(world.deadline(), None);
    }
}

#[test]
fn stop_while_up_sends_a_close_and_waits_for_the_end_at_most_the_close_limit() {
    for mut world in [World::up(), World::suspect()] {
        let now = world.now + 100;
        assert_eq!(world.say(now, Event::Stop), [Output::Close(a(1), 1000)]);
        assert_eq!(world.state(), State::Closing { cut_at: ms(now + 5_000) });
        assert_eq!(world.link(), Link::Down { accused: false });
        assert_eq!(world.say(now + 4_999, Event::Heard(a(1))), []);
        assert_eq!(world.say(now + 5_000, Event::Heard(a(1))), [Output::Abort(a(1))]);
        assert_eq!(world.state(), State::Stopped { reason: StopReason::Requested });
    }
}

#[test]
fn a_connection_that_ends_while_closing_is_stopped_without_an_abort() {
    for loss in every_loss() {
        let mut world = World::closing();
        assert_eq!(world.say(3_500, Event::Lost(a(1), loss)), []);
        assert_eq!(world.state(), State::Stopped { reason: StopReason::Requested });
        assert_eq!(world.deadline(), None);
    }
}

/// H12: no dial follows that could leave a socket behind.
#[test]
fn stop_while_there_is_no_attempt_stops_at_once() {
    for mut world in [World::idle(), World::waiting()] {
        let now = world.now + 100;
        assert_eq!(world.say(now, Event::Stop), []);
        assert_eq!(world.state(), State::Stopped { reason: StopReason::Requested });
        assert_eq!(world.say(now + 1_000_000, Event::Tick), []);
    }
}

/// H8: the whole table at a glance, including all that must not happen.
///
/// `x` acts, `.` is ignored, `#` is ignored and counted as stale. All events are of the newest
/// attempt and come 10 ms after the last thing that happened.
#[test]
fn what_is_not_in_the_table_changes_nothing() {
    // The columns: Start, Opened, Greeted, Heard, Ponged, Flushed, Took, Paused, Resumed, Refused,
    // Overdue, Lost, Nudge, Stop, Tick. A Resumed that undoes no pause shows only where a clock
    // runs.
    let table = [
        (World::idle(), "x###########.x."),
        (World::dialing(), ".x#....####x.x."),
        (World::greeting(), ".#x....x.x#x.x."),
        (World::up(), ".##xx..xxxxx.x."),
        (World::suspect(), ".##xxxxxxxxx.x."),
        (World::closing(), ".##......##x..."),
        (World::waiting(), ".###########xx."),
        (World::stopped(), "x###########..."),
    ];
    for (world, row) in table {
        let events = every_event(world.machine.attempt());
        assert_eq!(row.len(), events.len());
        for (event, expected) in events.into_iter().zip(row.chars()) {
            let now = world.now + 10;
            let mut before = world.clone();
            before.say(now, Event::Tick);
            let mut after = world.clone();
            let owed = after.say(now, event);

            let acted = !owed.is_empty() || after.view() != before.view();
            let counted = after.machine.stats().stale - before.machine.stats().stale;
            let seen = match (acted, counted) {
                (true, 0) => 'x',
                (false, 0) => '.',
                (false, 1) => '#',
                (acted, counted) => panic!("{event:?}: acted {acted}, counted {counted}"),
            };
            assert_eq!(seen, expected, "{event:?} in {:?}", world.state());
        }
    }
}

/// H23
#[test]
fn an_event_of_another_attempt_changes_nothing_and_is_counted() {
    let mut dialing = World::waiting();
    dialing.say(2_000, Event::Tick);
    let mut greeting = dialing.clone();
    greeting.say(3_000, Event::Opened(a(2)));
    let mut up = greeting.clone();
    up.say(4_000, Event::Greeted(a(2)));
    let mut suspect = up.clone();
    assert_eq!(suspect.say(24_000, Event::Tick), [Output::Ping(a(2))]);
    let mut closing = up.clone();
    closing.say(5_000, Event::Stop);

    for world in [dialing, greeting, up, suspect, closing] {
        for other in [a(0), a(1), a(3), a(u64::MAX)] {
            for event in every_event(other) {
                if event.attempt().is_none() {
                    continue;
                }
                let mut after = world.clone();
                assert_eq!(after.say(world.now, event), [], "{event:?}");
                assert_eq!(after.view(), world.view(), "{event:?}");
                assert_eq!(after.machine.stats().stale, world.machine.stats().stale + 1);
            }
        }
    }
}

// ---- The contract of every machine ----------------------------------------------------------------

#[test]
fn a_pong_and_its_expired_deadline_in_one_wake_up_do_not_disconnect() {
    for late in [32_000, 32_001, 4_000_000_000] {
        let mut world = World::suspect();
        world.say(22_000, Event::Flushed(a(1)));
        assert_eq!(world.deadline(), Some((32_000, Timer::Pong)));
        assert_eq!(world.say(late, Event::Ponged(a(1))), []);
        assert_eq!(world.say(late, Event::Tick), []);
        assert_eq!(world.link(), Link::Up(a(1)));
    }
}

#[test]
fn bytes_taken_and_the_expired_write_limit_in_one_wake_up_do_not_disconnect() {
    let mut world = World::suspect();
    assert_eq!(world.say(42_000, Event::Took(a(1))), []);
    assert_eq!(world.link(), Link::Up(a(1)));

    let mut world = World::suspect();
    assert_eq!(world.say(42_000, Event::Flushed(a(1))), []);
    assert_eq!(world.deadline(), Some((52_000, Timer::Pong)));
}

#[test]
fn time_only_moves_forward() {
    let mut world = World::suspect();
    for event in [Event::Tick, Event::Took(a(1)), Event::Flushed(a(1))] {
        let mut straight = world.clone();
        straight.machine.handle(ms(22_000), event);
        world.machine.handle(ms(0), event);
        assert_eq!(world.view(), straight.view());
    }
    assert_eq!(world.deadline(), Some((32_000, Timer::Pong)), "counted from the latest time seen");
}

#[test]
fn a_clock_that_stands_still_is_legal() {
    let mut world = World::idle();
    for event in [Event::Start, Event::Opened(a(1)), Event::Greeted(a(1)), Event::Stop] {
        world.say(0, event);
    }
    assert_eq!(world.state(), State::Closing { cut_at: ms(5_000) });
}

#[test]
fn a_jump_of_a_hundred_years_lets_one_clock_run_out_and_then_all_is_quiet() {
    let century = 100 * 365 * 24 * 60 * 60 * 1_000;
    for (mut world, owed) in [
        (World::dialing(), Output::Abort(a(1))),
        (World::greeting(), Output::Abort(a(1))),
        (World::up(), Output::Ping(a(1))),
        (World::suspect(), Output::Abort(a(1))),
        (World::closing(), Output::Abort(a(1))),
        (World::waiting(), Output::Dial(a(2))),
    ] {
        assert_eq!(world.say(century, Event::Tick), [owed]);
        assert_eq!(world.say(century, Event::Tick), []);
    }
}

#[test]
fn the_newest_order_is_the_only_one_owed() {
    // A dead link, the end of the backoff and a stop before anybody polls.
    let mut world = World::suspect();
    world.machine.handle(ms(42_000), Event::Tick);
    world.machine.handle(ms(43_000), Event::Tick);
    world.now = 43_000;
    assert_eq!(world.state(), State::Dialing { give_up_at: ms(58_000) });
    let mut stopped = world.clone();
    assert_eq!(world.drain(), [Output::Dial(a(2))], "it replaces every socket before it");

    stopped.machine.handle(ms(43_000), Event::Stop);
    assert_eq!(stopped.drain(), [Output::Abort(a(2))], "and so does this");
}

#[test]
fn an_order_for_an_attempt_that_ended_by_itself_is_not_owed_any_more() {
    let mut world = World::idle();
    world.machine.handle(ms(0), Event::Start);
    world.machine.handle(ms(0), Event::Lost(a(1), Loss::Io));
    assert_eq!(world.drain(), []);

    let mut world = World::up();
    world.machine.handle(ms(3_000), Event::Stop);
    world.machine.handle(ms(3_000), Event::Lost(a(1), Loss::Eof));
    assert_eq!(world.drain(), []);
}

#[test]
fn a_ping_of_a_link_that_died_is_not_owed_any_more() {
    let mut world = World::up();
    world.machine.handle(ms(22_000), Event::Tick);
    assert_eq!(world.say(22_000, Event::Lost(a(1), Loss::Io)), []);
    world.say(23_000, Event::Tick);
    world.say(23_000, Event::Opened(a(2)));
    assert_eq!(world.say(23_000, Event::Greeted(a(2))), []);
}

#[test]
fn a_blocked_wire_lets_orders_and_deadlines_through_but_no_ping() {
    let mut world = World::idle();
    world.machine.handle(ms(0), Event::Start);
    assert_eq!(world.machine.poll(Wire::Blocked), Output::Dial(a(1)));
    world.machine.handle(ms(0), Event::Stop);
    assert_eq!(world.machine.poll(Wire::Blocked), Output::Abort(a(1)));

    let mut world = World::up();
    world.machine.handle(ms(22_000), Event::Tick);
    for _ in 0..3 {
        let Output::WaitUntil(Some(deadline)) = world.machine.poll(Wire::Blocked) else {
            panic!("a deadline and nothing else")
        };
        assert_eq!((deadline.at, deadline.timer), (ms(42_000), Timer::Write));
    }
    let mut closed = world.clone();
    closed.machine.handle(ms(22_000), Event::Stop);
    assert_eq!(closed.machine.poll(Wire::Blocked), Output::Close(a(1), 1000));

    assert_eq!(world.machine.poll(Wire::Ready), Output::Ping(a(1)), "it stayed owed");
    assert!(matches!(world.machine.poll(Wire::Ready), Output::WaitUntil(Some(_))), "once");
}

#[test]
fn drained_means_quiet() {
    for mut world in World::every_state() {
        let now = world.now;
        for _ in 0..1_000 {
            assert_eq!(world.say(now, Event::Tick), [], "in {:?}", world.state());
        }
    }
}

// ---- At most one attempt --------------------------------------------------------------------------

/// H1
#[test]
fn a_connection_that_is_up_dials_no_second_one() {
    let mut world = World::greeting();
    assert_eq!(world.say(2_000, Event::Greeted(a(1))), []);
    world.say(2_000, Event::Ponged(a(1)));
    for now in (2_000..3_600_000).step_by(1_000) {
        for event in [Event::Heard(a(1)), Event::Start, Event::Nudge, Event::Tick] {
            assert_eq!(world.say(now, event), []);
        }
    }
    assert_eq!(world.machine.stats().attempts, 1);
}

/// H8
#[test]
fn only_the_clock_or_a_nudge_ends_a_backoff() {
    for event in every_event(a(1)) {
        let mut world = World::waiting();
        let owed = world.say(1_500, event);
        let expected: &[Output] = if event == Event::Nudge { &[Output::Dial(a(2))] } else { &[] };
        assert_eq!(owed, expected, "{event:?}");
    }
}

#[test]
fn attempts_are_numbered_from_one_and_never_reused() {
    let mut world = World::idle();
    assert_eq!(world.say(0, Event::Start), [Output::Dial(a(1))]);
    for n in 1..=20 {
        let now = world.now;
        // A stop between two attempts takes no number and gives none back.
        let restart = if n % 3 == 0 { [Event::Stop, Event::Start] } else { [Event::Tick; 2] };
        world.say(now, Event::Lost(a(n), Loss::Dns));
        let mut dials = Vec::new();
        for event in restart {
            dials.extend(world.say(now + 60_000, event));
        }
        assert_eq!(dials, [Output::Dial(a(n + 1))]);
    }
    assert_eq!(world.machine.stats().attempts, 21);
}

// ---- The heartbeat --------------------------------------------------------------------------------

/// H17: whatever the driver could hand over and flush.
#[test]
fn a_half_open_peer_is_found_within_ping_interval_write_limit_and_pong_limit() {
    for (wire, flushed_at, loss) in [
        (Wire::Ready, Some(22_000), Loss::PongLimit),
        (Wire::Ready, Some(41_999), Loss::PongLimit),
        (Wire::Ready, None, Loss::WriteLimit),
        (Wire::Blocked, None, Loss::WriteLimit),
    ] {
        let mut world = World::up();
        world.machine.handle(ms(22_000), Event::Tick);
        while !matches!(world.machine.poll(wire), Output::WaitUntil(_)) {}
        if let Some(flushed_at) = flushed_at {
            world.machine.handle(ms(flushed_at), Event::Flushed(a(1)));
        }
        while world.link() == Link::Up(a(1)) {
            let (at, _) = world.deadline().expect("a link that can be silent has a deadline");
            assert!(at <= 2_000 + 20_000 + 20_000 + 10_000, "still up until {at}");
            world.sleep();
        }
        assert_eq!(world.machine.last_loss(), Some(loss));
    }
}

/// H66: the ping waits behind the message, and so must the clock that waits for the pong.
#[test]
fn a_message_of_4_mib_on_a_link_of_1_mbit_is_not_killed() {
    let mut world = World::suspect();
    let chunk_millis = 64 * 1024 * 8 / 1_000;
    let mut now = 22_000;
    for _ in 0..64 {
        now += chunk_millis;
        assert_eq!(world.say(now, Event::Took(a(1))), []);
    }
    assert!(now > 22_000 + 30_000, "longer than the write and the pong limit together");
    assert_eq!(world.say(now, Event::Flushed(a(1))), []);
    assert_eq!(world.say(now + 9_999, Event::Ponged(a(1))), []);
    assert_eq!(world.link(), Link::Up(a(1)));
    assert_eq!(world.machine.stats().lost_links, 0);
}

/// H66: one byte in every write limit is enough.
#[test]
fn a_socket_that_takes_a_byte_just_inside_the_write_limit_lives() {
    let mut world = World::suspect();
    for n in 1..=1_000 {
        assert_eq!(world.say(22_000 + n * 19_999, Event::Took(a(1))), []);
    }
    assert_eq!(world.link(), Link::Up(a(1)));
}

/// H18
#[test]
fn a_reconnect_restarts_the_heartbeat_clock() {
    // The old link was one millisecond short of being suspect, and then of being dead.
    for (mut world, lost_at) in [(World::up(), 21_999), (World::suspect(), 41_999)] {
        world.say(lost_at, Event::Lost(a(1), Loss::Eof));
        let redial_at = lost_at + 1_000;
        assert_eq!(world.say(redial_at, Event::Tick), [Output::Dial(a(2))]);
        world.say(redial_at, Event::Opened(a(2)));
        assert_eq!(world.say(redial_at, Event::Greeted(a(2))), []);
        assert_eq!(world.deadline(), Some((redial_at + 20_000, Timer::Ping)));
        // The ping of the old link serves the new one neither before nor after a flush.
        let mut flushed = world.clone();
        flushed.say(redial_at + 1, Event::Flushed(a(2)));
        assert_eq!(flushed.say(redial_at + 20_000, Event::Tick), [Output::Ping(a(2))]);
        assert_eq!(world.say(redial_at + 20_000, Event::Tick), [Output::Ping(a(2))]);
    }
}

/// H18
#[test]
fn our_own_sends_do_not_count_as_hearing_the_peer() {
    let mut world = World::up();
    for now in (2_000..22_000).step_by(100) {
        world.say(now, Event::Took(a(1)));
        world.say(now, Event::Flushed(a(1)));
    }
    assert_eq!(world.say(22_000, Event::Took(a(1))), [Output::Ping(a(1))]);

    // Once the ping is flushed they do not even hold the verdict.
    for now in (22_000..32_000).step_by(100) {
        world.say(now, Event::Flushed(a(1)));
        world.say(now, Event::Took(a(1)));
    }
    assert_eq!(world.say(32_000, Event::Took(a(1))), [Output::Abort(a(1))]);
}

/// H18: what we write clears no suspicion, it only holds the verdict.
#[test]
fn bytes_that_the_socket_takes_leave_the_peer_suspect() {
    let mut world = World::suspect();
    for event in [Event::Took(a(1)), Event::Flushed(a(1)), Event::Took(a(1))] {
        world.say(25_000, event);
        assert!(matches!(world.state(), State::Suspect { .. }), "{event:?}");
    }
}

#[test]
fn a_ping_that_is_flushed_after_the_peer_was_heard_does_not_stand_for_the_next_one() {
    let mut world = World::suspect();
    world.say(23_000, Event::Heard(a(1)));
    world.say(24_000, Event::Flushed(a(1)));
    assert_eq!(world.say(43_000, Event::Tick), [Output::Ping(a(1))]);
}

#[test]
fn a_ping_on_its_way_out_serves_the_next_silence_too() {
    // The peer speaks while the ping is stuck behind a large message, and falls silent again.
    let mut world = World::suspect();
    world.say(23_000, Event::Heard(a(1)));
    assert_eq!(world.say(43_000, Event::Tick), [], "one is on its way already");
    assert_eq!(world.deadline(), Some((63_000, Timer::Write)));
    world.say(44_000, Event::Flushed(a(1)));
    assert_eq!(world.deadline(), Some((54_000, Timer::Pong)));
}

#[test]
fn a_driver_that_does_not_read_proves_nothing_about_the_peer() {
    for mut world in [World::up(), World::suspect()] {
        let paused_at = world.now;
        world.say(paused_at, Event::Paused(a(1)));
        while world.deadline().is_some() {
            assert_eq!(world.sleep(), []);
        }
        let resumed_at = paused_at + 10_000_000;
        assert_eq!(world.say(resumed_at, Event::Took(a(1))), []);
        assert_eq!(world.link(), Link::Up(a(1)));
        world.say(resumed_at, Event::Resumed(a(1)));
        assert_eq!(world.deadline().map(|(at, _)| at), Some(resumed_at + 20_000));
    }
}

#[test]
fn a_pause_belongs_to_its_attempt() {
    let mut world = World::up();
    world.say(3_000, Event::Paused(a(1)));
    world.say(3_000, Event::Lost(a(1), Loss::Eof));
    world.say(4_000, Event::Tick);
    world.say(4_000, Event::Opened(a(2)));
    world.say(4_000, Event::Greeted(a(2)));
    assert_eq!(world.deadline(), Some((24_000, Timer::Ping)));
}

#[test]
fn a_transport_that_cannot_ping_may_be_silent_for_ever() {
    let mut world = World::of(ConnectionConfig { can_ping: false, ..config() });
    world.bring_up(1);
    assert_eq!(world.deadline(), Some((32_000, Timer::Stable)));
    assert_eq!(world.say(32_000, Event::Tick), []);
    assert_eq!(world.deadline(), None);
    assert_eq!(world.say(3_600_000, Event::Heard(a(1))), []);
    assert_eq!(world.say(3_600_000, Event::Resumed(a(1))), []);
    assert_eq!(world.say(7_200_000, Event::Tick), []);
    assert_eq!(world.link(), Link::Up(a(1)));
}

#[test]
fn a_tick_while_paused_ends_nothing_and_owes_nothing() {
    for mut world in [World::up(), World::suspect()] {
        let now = world.now;
        world.say(now, Event::Paused(a(1)));
        let suspect = matches!(world.state(), State::Suspect { .. });
        assert_eq!(world.say(now + 25_000, Event::Tick), []);
        assert_eq!(world.link(), Link::Up(a(1)));
        assert_eq!(matches!(world.state(), State::Suspect { .. }), suspect);
    }
}

// ---- A peer that never answers pings --------------------------------------------------------------

/// H72: with an error that says so, and not by dialing the same deaf peer for ever.
#[test]
fn a_peer_that_talks_and_never_answers_a_ping_ends_in_an_error_that_says_so() {
    let mut world = World::up_and_not_ponged();
    let mut died_at = None;
    for now in (2_000..302_000).step_by(1_000) {
        for owed in world.say(now, Event::Heard(a(1))) {
            match owed {
                Output::Ping(_) => {
                    world.say(now, Event::Flushed(a(1)));
                }
                owed => {
                    assert_eq!(owed, Output::Abort(a(1)));
                    died_at.get_or_insert(now);
                }
            }
        }
    }
    let reason = StopReason::Fatal(Loss::NeverPonged);
    assert_eq!(world.state(), State::Stopped { reason }, "though it has been up");
    // Not before the peer was heard five ping intervals and pong limits after the first ping.
    assert!(died_at.is_some_and(|at| (172_000..=182_000).contains(&at)), "{died_at:?}");
    assert!(reason.to_string().contains("never answered a ping"));
}

#[test]
fn a_peer_that_is_silent_from_the_first_ping_on_is_half_open_and_not_deaf() {
    let mut world = World::up_and_not_ponged();
    world.say(21_000, Event::Heard(a(1)));
    assert_eq!(world.say(22_000, Event::Tick), [Output::Ping(a(1))]);
    world.say(22_000, Event::Flushed(a(1)));
    assert_eq!(world.say(32_000, Event::Tick), [Output::Abort(a(1))]);
    assert_eq!(world.machine.last_loss(), Some(Loss::PongLimit));
    assert!(!world.is_stopped());
}

#[test]
fn a_peer_that_ever_answered_a_ping_is_not_taken_for_deaf_on_any_later_link() {
    let mut world = World::up();
    world.say(3_000, Event::Lost(a(1), Loss::Eof));
    world.say(4_000, Event::Tick);
    world.say(4_000, Event::Opened(a(2)));
    world.say(4_000, Event::Greeted(a(2)));
    for round in 0..50 {
        // Silent for just long enough to be asked, and then it talks without an answer.
        let asked_at = 24_000 + round * 21_000;
        assert_eq!(world.say(asked_at, Event::Tick), [Output::Ping(a(2))]);
        world.say(asked_at, Event::Flushed(a(2)));
        assert_eq!(world.say(asked_at + 1_000, Event::Heard(a(2))), []);
    }
    assert_eq!(world.link(), Link::Up(a(2)));
}

/// H66: a ping that has not left yet cannot have been ignored.
#[test]
fn a_peer_behind_a_slow_link_is_not_taken_for_deaf_while_the_first_ping_waits() {
    let mut world = World::up_and_not_ponged();
    let mut pings = 0;
    for now in (2_000..1_000_000).step_by(1_000) {
        for owed in world.say(now, Event::Heard(a(1))) {
            assert_eq!(owed, Output::Ping(a(1)));
            pings += 1;
        }
        world.say(now, Event::Took(a(1)));
    }
    assert_eq!(pings, 1);
    assert_eq!(world.say(1_000_000, Event::Flushed(a(1))), []);
    assert_eq!(world.say(1_005_000, Event::Ponged(a(1))), []);
    assert_eq!(world.link(), Link::Up(a(1)));
}

/// H72
#[test]
fn hearing_the_peer_does_not_put_off_the_first_ping() {
    let mut world = World::up_and_not_ponged();
    for now in (2_000..22_000).step_by(1_000) {
        assert_eq!(world.say(now, Event::Heard(a(1))), []);
    }
    assert_eq!(world.say(22_000, Event::Heard(a(1))), [Output::Ping(a(1))]);
}

/// H72: a wire that is blocked whenever the peer speaks does not hide that it never answers.
#[test]
fn the_first_ping_stays_owed_though_the_peer_is_heard_before_the_wire_takes_it() {
    let mut world = World::up_and_not_ponged();
    world.machine.handle(ms(22_000), Event::Tick);
    assert!(matches!(world.machine.poll(Wire::Blocked), Output::WaitUntil(_)));
    assert_eq!(world.say(22_001, Event::Heard(a(1))), [Output::Ping(a(1))]);
}

#[test]
fn a_ping_that_waits_for_the_wire_is_dropped_if_a_peer_that_answers_pings_is_heard() {
    let mut world = World::up();
    world.machine.handle(ms(22_000), Event::Tick);
    assert_eq!(world.say(22_001, Event::Heard(a(1))), []);
}

#[test]
fn a_first_pong_in_the_same_wake_up_as_the_bytes_that_condemn_the_peer_acquits_it() {
    let mut world = World::up_and_not_ponged();
    assert_eq!(world.say(22_000, Event::Tick), [Output::Ping(a(1))]);
    world.say(22_000, Event::Flushed(a(1)));
    for now in (23_000..172_000).step_by(1_000) {
        world.say(now, Event::Heard(a(1)));
        world.say(now, Event::Flushed(a(1)));
    }
    assert_eq!(world.say(172_000, Event::Heard(a(1))), []);
    assert_eq!(world.say(172_000, Event::Ponged(a(1))), []);
    assert_eq!(world.say(1_000_000, Event::Heard(a(1))), []);
    assert_eq!(world.link(), Link::Up(a(1)));
}

/// H53: a consumer too slow for the first pong to be read must not condemn the peer for good.
#[test]
fn a_first_pong_behind_what_a_paused_driver_left_unread_is_waited_for() {
    let mut world = World::up_and_not_ponged();
    assert_eq!(world.say(22_000, Event::Tick), [Output::Ping(a(1))]);
    world.say(22_000, Event::Flushed(a(1)));
    world.say(22_100, Event::Paused(a(1)));
    assert_eq!(world.say(190_000, Event::Heard(a(1))), [], "what was read before the pause");
    world.say(200_000, Event::Resumed(a(1)));
    for now in (200_000..230_000).step_by(1_000) {
        for owed in world.say(now, Event::Heard(a(1))) {
            assert_eq!(owed, Output::Ping(a(1)));
        }
    }
    assert_eq!(world.say(230_000, Event::Ponged(a(1))), []);
    assert_eq!(world.link(), Link::Up(a(1)));
}

// ---- Backoff --------------------------------------------------------------------------------------

/// H7: a server that accepts and drops is a server that fails.
#[test]
fn a_link_that_was_not_stable_is_not_forgiven() {
    let mut world = World::dialing();
    let mut delays = Vec::new();
    for n in 1..=7 {
        let now = world.now;
        world.say(now, Event::Opened(a(n)));
        world.say(now, Event::Greeted(a(n)));
        let lost_at = now + 19_999;
        world.say(lost_at, Event::Lost(a(n), Loss::Closed { code: Some(1000) }));
        let (at, timer) = world.deadline().expect("it dials again");
        assert_eq!(timer, Timer::Redial);
        delays.push((at - lost_at) / 1_000);
        world.sleep();
    }
    assert_eq!(delays, [1, 2, 4, 8, 16, 30, 30]);
}

/// H7: with the default jitter too, whatever the dice, and whatever goes over the link before it is
/// dropped.
#[test]
fn an_accept_then_drop_server_gets_few_dials() {
    for seed in 0..50 {
        let mut machine = machine(ConnectionConfig::default(), seed);
        let hour = Instant::ZERO + Duration::from_secs(3_600);
        let mut now = Instant::ZERO;
        machine.handle(now, Event::Start);
        while now < hour {
            let newest = machine.attempt();
            machine.handle(now, Event::Opened(newest));
            machine.handle(now, Event::Greeted(newest));
            for talk in [Event::Took(newest), Event::Flushed(newest), Event::Ponged(newest)] {
                machine.handle(now, talk);
            }
            machine.handle(now, Event::Lost(newest, Loss::Eof));
            now = machine.deadline().expect("it dials again").at;
            machine.handle(now, Event::Tick);
        }
        // 240 are expected: one in half the cap.
        let dials = machine.stats().attempts;
        assert!((180..=320).contains(&dials), "{dials} dials in an hour");
    }
}

/// H70
#[test]
fn pings_do_not_restart_the_stability_clock() {
    let mut world = World::up_after_failures(3);
    let up_at = world.now;
    assert_eq!(world.say(up_at + 20_000, Event::Tick), [Output::Ping(a(4))]);
    world.say(up_at + 20_000, Event::Flushed(a(4)));
    world.say(up_at + 25_000, Event::Ponged(a(4)));
    world.say(up_at + 29_999, Event::Tick);
    assert_eq!(world.machine.failures(), 3);
    world.say(up_at + 30_000, Event::Tick);
    assert_eq!(world.machine.failures(), 0);
}

/// H70: with a heartbeat more frequent than `stable_after`, for weeks.
#[test]
fn a_client_with_a_limit_of_attempts_survives_any_number_of_single_drops() {
    let mut world = World::of(ConnectionConfig { max_attempts: Some(3), ..config() });
    world.say(0, Event::Start);
    for n in 1..=100 {
        let mut now = world.now;
        world.say(now, Event::Opened(a(n)));
        world.say(now, Event::Greeted(a(n)));
        for _ in 0..4 {
            now += 20_000;
            assert_eq!(world.say(now, Event::Tick), [Output::Ping(a(n))]);
            world.say(now, Event::Flushed(a(n)));
            world.say(now, Event::Ponged(a(n)));
        }
        world.say(now, Event::Lost(a(n), Loss::Closed { code: Some(1001) }));
        assert_eq!(world.state(), waiting_until(now + 1_000));
        assert_eq!(world.say(now + 1_000, Event::Tick), [Output::Dial(a(n + 1))]);
    }
}

#[test]
fn suspicion_does_not_forgive_until_the_peer_is_heard() {
    let mut world = World::up_after_failures(2);
    let up_at = world.now;
    assert_eq!(world.say(up_at + 20_000, Event::Tick), [Output::Ping(a(3))]);
    world.say(up_at + 39_999, Event::Tick);
    assert_eq!(world.machine.failures(), 2);
    let mut heard = world.clone();
    heard.say(up_at + 39_999, Event::Heard(a(3)));
    assert_eq!(heard.machine.failures(), 0);
    world.say(up_at + 40_000, Event::Tick);
    assert_eq!(world.machine.failures(), 3, "it was never seen to be stable");
}

/// H21
#[test]
fn a_clean_close_by_the_server_is_followed_by_a_redial() {
    for code in [None, Some(1000), Some(1001), Some(1005), Some(1006), Some(4_000)] {
        let mut world = World::up();
        world.say(50_000, Event::Ponged(a(1)));
        world.say(50_000, Event::Lost(a(1), Loss::Closed { code }));
        assert_eq!(world.say(51_000, Event::Tick), [Output::Dial(a(2))]);
    }
}

#[test]
fn a_peers_close_ends_the_attempt_and_no_pong_after_it_counts() {
    for mut world in [World::up(), World::suspect()] {
        let now = world.now;
        world.say(now, Event::Lost(a(1), Loss::Closed { code: Some(1001) }));
        let before = world.view();
        world.say(now, Event::Ponged(a(1)));
        world.say(now, Event::Heard(a(1)));
        assert_eq!(world.view(), before);
        assert_eq!(world.machine.stats().stale, 2);
    }
}

/// H19
#[test]
fn clients_that_lost_the_same_server_do_not_come_back_in_the_same_moment() {
    let mut dials: Vec<u64> = (0..1_000)
        .map(|seed| {
            let mut world = World::with_seed(ConnectionConfig::default(), seed);
            world.bring_up(1);
            world.say(10_000, Event::Lost(a(1), Loss::Closed { code: Some(1012) }));
            world.deadline().expect("it dials again").0
        })
        .collect();
    dials.sort_unstable();
    // A restart of the service asks for 5 to 30 s. No tenth of that gets even twice its share.
    assert!(dials[0] >= 15_000 && dials[999] <= 40_000, "{} to {}", dials[0], dials[999]);
    for tenth in 0..10 {
        let range = 15_000 + tenth * 2_500..15_000 + (tenth + 1) * 2_500;
        let share = dials.iter().filter(|at| range.contains(*at)).count();
        assert!((50..=200).contains(&share), "{share} of 1,000 in {range:?}");
    }
}

#[test]
fn the_servers_own_time_is_waited_for_if_it_is_longer_than_the_backoff() {
    let busy = |secs| Loss::Status { status: 503, retry_after: Some(Duration::from_secs(secs)) };
    let mut world = World::dialing();
    world.say(1_000, Event::Lost(a(1), busy(60)));
    let (at, _) = world.deadline().expect("it dials again");
    assert!((61_000..=76_000).contains(&at), "{at}");

    // After nine failures the backoff is the longer one.
    let mut world = World::after_failures(9);
    let (now, newest) = (world.now, world.machine.attempt());
    world.say(now, Event::Lost(newest, busy(1)));
    assert_eq!(world.deadline(), Some((now + 30_000, Timer::Redial)));
}

#[test]
fn a_servers_own_time_is_clamped_to_its_cap() {
    for delay in [Duration::from_secs(301), Duration::from_secs(u64::MAX), Duration::MAX] {
        let mut world = World::dialing();
        world.say(1_000, Event::Lost(a(1), Loss::Status { status: 429, retry_after: Some(delay) }));
        assert_eq!(world.deadline(), Some((301_000, Timer::Redial)));
    }
}

#[test]
fn a_table_of_verdicts_of_ones_own_replaces_the_default_and_is_clamped_too() {
    fn never_again(_: Loss, _: VerdictLimits) -> Verdict {
        Verdict::Fatal
    }
    fn much_later(_: Loss, _: VerdictLimits) -> Verdict {
        Verdict::RetryAfter(Duration::from_secs(10_000)..=Duration::MAX)
    }
    let mut world = World::of(ConnectionConfig { verdict: never_again, ..config() });
    world.say(0, Event::Start);
    world.say(0, Event::Lost(a(1), Loss::Io));
    assert_eq!(world.state(), State::Stopped { reason: StopReason::Fatal(Loss::Io) });

    let mut world = World::of(ConnectionConfig { verdict: much_later, ..config() });
    world.say(0, Event::Start);
    world.say(0, Event::Lost(a(1), Loss::Io));
    assert_eq!(world.deadline(), Some((300_000, Timer::Redial)));
}

// ---- Nudge ----------------------------------------------------------------------------------------

#[test]
fn a_nudge_ends_a_backoff_of_ours_and_forgives_nothing() {
    let mut world = World::after_failures(9);
    let (now, newest) = (world.now, world.machine.attempt());
    world.say(now, Event::Lost(newest, Loss::Connect));
    assert_eq!(world.say(now + 10, Event::Nudge), [Output::Dial(a(11))]);
    assert_eq!(world.machine.failures(), 10);
}

#[test]
fn nudges_dial_at_most_once_in_the_nudge_floor() {
    let mut world = World::after_failures(9);
    let mut dials = Vec::new();
    let start = world.now;
    // The network is back, says somebody every 10 ms, and every dial fails at once.
    for now in (start..start + 10_000).step_by(10) {
        let newest = world.machine.attempt();
        for event in [Event::Lost(newest, Loss::Connect), Event::Nudge, Event::Nudge] {
            dials.extend(world.say(now, event).into_iter().map(|_| now - start));
        }
    }
    assert_eq!(dials, (0..10).map(|n| n * 1_000).collect::<Vec<_>>());
}

#[test]
fn a_nudge_inside_the_floor_is_remembered_and_shortens_the_wait_to_its_end() {
    let mut world = World::after_failures(9);
    let (now, newest) = (world.now, world.machine.attempt());
    world.say(now, Event::Lost(newest, Loss::Connect));
    assert_eq!(world.say(now, Event::Nudge), [Output::Dial(a(11))]);
    world.say(now + 100, Event::Lost(a(11), Loss::Connect));
    for nudged_at in [now + 200, now + 300] {
        assert_eq!(world.say(nudged_at, Event::Nudge), []);
        assert_eq!(world.deadline(), Some((now + 1_000, Timer::Redial)));
    }
}

#[test]
fn a_nudge_never_makes_a_wait_longer() {
    let hour = Duration::from_secs(3_600);
    let mut world = World::of(ConnectionConfig { nudge_floor: hour, ..config() });
    world.say(0, Event::Start);
    world.say(0, Event::Lost(a(1), Loss::Connect));
    assert_eq!(world.say(500, Event::Nudge), [Output::Dial(a(2))]);
    world.say(500, Event::Lost(a(2), Loss::Connect));
    assert_eq!(world.say(600, Event::Nudge), []);
    assert_eq!(world.deadline(), Some((2_500, Timer::Redial)));
}

#[test]
fn a_nudge_that_shortens_nothing_does_not_put_off_the_next_one() {
    let floor = Duration::from_secs(3);
    let mut world = World::of(ConnectionConfig { nudge_floor: floor, ..config() });
    world.say(0, Event::Start);
    world.say(0, Event::Lost(a(1), Loss::Connect));
    assert_eq!(world.say(500, Event::Nudge), [Output::Dial(a(2))]);
    world.say(500, Event::Lost(a(2), Loss::Connect));
    assert_eq!(world.say(600, Event::Nudge), []);
    assert_eq!(world.say(2_500, Event::Tick), [Output::Dial(a(3))], "as if nobody had nudged");
    world.say(2_500, Event::Lost(a(3), Loss::Connect));
    assert_eq!(world.say(3_500, Event::Nudge), [Output::Dial(a(4))], "the floor after the first");
}

#[test]
fn a_nudge_does_not_shorten_the_servers_own_time() {
    for loss in [
        Loss::Status { status: 503, retry_after: Some(Duration::from_secs(60)) },
        Loss::Closed { code: Some(1012) },
        Loss::Closed { code: Some(1013) },
        Loss::Refused(Refusal::RetryAfter(Duration::from_secs(60))),
    ] {
        let mut world = World::dialing();
        world.say(1_000, Event::Lost(a(1), loss));
        let redial = world.deadline();
        assert_eq!(world.say(1_500, Event::Nudge), []);
        assert_eq!(world.deadline(), redial, "{loss}");
    }
}

// ---- Limits ---------------------------------------------------------------------------------------

/// H16: six attempts are the first and five retries.
#[test]
fn a_limit_of_six_attempts_dials_six_times_and_gives_up() {
    let mut world = World::of(ConnectionConfig { max_attempts: Some(6), ..config() });
    assert_eq!(dials_until_stopped(&mut world), 6);
    let reason = StopReason::GaveUp(Loss::Connect);
    assert_eq!(world.state(), State::Stopped { reason });
}

/// H16
#[test]
fn a_limit_of_one_attempt_dials_once() {
    let mut world = World::of(ConnectionConfig { max_attempts: Some(1), ..config() });
    assert_eq!(dials_until_stopped(&mut world), 1);
}

/// H3
#[test]
fn after_giving_up_nothing_is_dialed_until_start_and_then_the_limit_is_whole_again() {
    let mut world = World::of(ConnectionConfig { max_attempts: Some(3), ..config() });
    assert_eq!(dials_until_stopped(&mut world), 3);
    for _ in 0..1_000 {
        let later = world.now + 1_000;
        for event in [Event::Tick, Event::Nudge, Event::Stop, Event::Lost(a(3), Loss::Io)] {
            assert_eq!(world.say(later, event), []);
        }
        assert_eq!(world.deadline(), None);
    }
    assert_eq!(dials_until_stopped(&mut world), 3);
}

#[test]
fn a_limit_of_time_ends_it_when_the_next_dial_would_begin_too_late() {
    // Dials begin 1, 1 + 2, 1 + 2 + 4 s after the first failure if each fails at once.
    for (limit, dials) in [(999, 1), (1_000, 2), (2_999, 2), (3_000, 3), (6_999, 3), (7_000, 4)] {
        let max_elapsed = Some(Duration::from_millis(limit));
        let mut world = World::of(ConnectionConfig { max_elapsed, ..config() });
        assert_eq!(dials_until_stopped(&mut world), dials, "limit {limit} ms");
        assert_eq!(world.state(), State::Stopped { reason: StopReason::GaveUp(Loss::Connect) });
    }
}

/// H21: the limit of time counts from the first failure in a row, not from the start.
#[test]
fn a_limit_of_time_does_not_end_a_client_at_its_first_late_drop() {
    let max_elapsed = Some(Duration::from_secs(60));
    let mut world = World::of(ConnectionConfig { max_elapsed, ..config() });
    world.say(0, Event::Start);
    world.say(0, Event::Lost(a(1), Loss::Connect));
    world.say(1_000, Event::Tick);
    world.say(1_000, Event::Opened(a(2)));
    world.say(1_000, Event::Greeted(a(2)));
    for now in (1_000..86_400_000).step_by(15_000) {
        world.say(now, Event::Ponged(a(2)));
    }
    world.say(86_400_000, Event::Lost(a(2), Loss::Eof));
    assert_eq!(world.state(), waiting_until(86_401_000));
}

// ---- Verdicts -------------------------------------------------------------------------------------

/// H9
#[test]
fn what_cannot_succeed_is_not_retried_for_ever() {
    for loss in [
        Loss::BadUrl,
        Loss::Certificate,
        Loss::Subprotocol,
        Loss::Status { status: 404, retry_after: None },
        Loss::Status { status: 302, retry_after: None },
        Loss::Closed { code: Some(1010) },
    ] {
        let mut world = World::dialing();
        world.say(1_000, Event::Lost(a(1), loss));
        assert_eq!(world.state(), State::Stopped { reason: StopReason::Fatal(loss) });
    }
}

/// H9
#[test]
fn credentials_are_renewed_once_and_the_second_refusal_in_a_row_is_fatal() {
    let unauthorized = Loss::Status { status: 401, retry_after: None };
    let mut world = World::dialing();
    world.say(1_000, Event::Lost(a(1), unauthorized));
    assert_eq!(world.say(2_000, Event::Tick), [Output::Dial(a(2))]);
    let mut mixed = world.clone();
    world.say(2_500, Event::Lost(a(2), Loss::Closed { code: Some(1008) }));
    let reason = StopReason::Fatal(Loss::Closed { code: Some(1008) });
    assert_eq!(world.state(), State::Stopped { reason });

    // Another loss between makes it two first ones.
    mixed.say(2_500, Event::Lost(a(2), Loss::Connect));
    mixed.say(4_500, Event::Tick);
    mixed.say(4_500, Event::Lost(a(3), unauthorized));
    assert!(matches!(mixed.state(), State::Waiting { .. }));
}

/// H20
#[test]
fn a_provider_that_fails_is_asked_again() {
    let mut world = World::dialing();
    for n in 1..=50 {
        let now = world.now;
        world.say(now, Event::Lost(a(n), Loss::Provider));
        assert_eq!(world.sleep(), [Output::Dial(a(n + 1))]);
    }
}

/// H69
#[test]
fn a_fatal_loss_after_having_been_up_is_retried_at_the_cap_and_never_stops_the_client() {
    for loss in [
        Loss::Status { status: 404, retry_after: None },
        Loss::Status { status: 403, retry_after: None },
        Loss::Status { status: 302, retry_after: None },
        Loss::Certificate,
        Loss::Refused(Refusal::Fatal),
    ] {
        let mut world = World::up();
        world.say(3_000, Event::Lost(a(1), Loss::Eof));
        world.say(4_000, Event::Tick);
        for n in 2..=20 {
            let now = world.now;
            world.say(now, Event::Lost(a(n), loss));
            let (at, _) = world.deadline().unwrap_or_else(|| panic!("stopped by {loss}"));
            // The first 403 in a row is worth fresh credentials, at the pace of any failure.
            let renews = n == 2 && matches!(loss, Loss::Status { status: 403, .. });
            assert_eq!(at - now, if renews { 2_000 } else { 30_000 }, "{loss}");
            assert_eq!(world.sleep(), [Output::Dial(a(n + 1))]);
        }
        let now = world.now;
        world.say(now, Event::Opened(a(21)));
        world.say(now, Event::Greeted(a(21)));
        assert_eq!(world.link(), Link::Up(a(21)));
    }
}

/// H69: whatever the jitter, the ceiling is the cap.
#[test]
fn a_fatal_loss_after_having_been_up_is_retried_at_the_cap_with_any_jitter() {
    let not_found = Loss::Status { status: 404, retry_after: None };
    for jitter in [Jitter::Full, Jitter::Equal, Jitter::Decorrelated, Jitter::None] {
        let backoff = Backoff { jitter, ..Backoff::default() };
        let longest = (0..200).map(|seed| {
            let mut world = World::with_seed(ConnectionConfig { backoff, ..config() }, seed);
            world.bring_up(1);
            world.say(3_000, Event::Lost(a(1), not_found));
            world.deadline().expect("it dials again").0 - 3_000
        });
        let longest = longest.max();
        assert!(longest.is_some_and(|delay| delay > 25_000), "{jitter:?}: {longest:?}");
    }
}

#[test]
fn a_stop_and_start_do_not_forget_that_it_has_been_up() {
    let mut world = World::up();
    world.say(3_000, Event::Stop);
    world.say(3_000, Event::Lost(a(1), Loss::Eof));
    world.say(4_000, Event::Start);
    world.say(4_000, Event::Lost(a(2), Loss::Status { status: 404, retry_after: None }));
    assert_eq!(world.state(), waiting_until(34_000));
}

// ---- What the outbox hears ------------------------------------------------------------------------

#[test]
fn a_peer_that_blames_a_message_accuses_and_no_other_loss_does() {
    let up = World::up();
    for code in 0..=u16::MAX {
        let mut world = up.clone();
        world.machine.handle(ms(3_000), Event::Lost(a(1), Loss::Closed { code: Some(code) }));
        let accused = matches!(code, 1003 | 1007 | 1009);
        assert_eq!(world.link(), Link::Down { accused }, "{code}");
    }
    for loss in every_loss().filter(|loss| !matches!(loss, Loss::Closed { .. })) {
        let mut world = up.clone();
        world.machine.handle(ms(3_000), Event::Lost(a(1), loss));
        assert_eq!(world.link(), Link::Down { accused: false }, "{loss}");
    }
}

#[test]
fn an_accusation_is_not_repeated_at_the_end_of_a_later_link() {
    let mut world = World::up();
    world.say(3_000, Event::Lost(a(1), Loss::Closed { code: Some(1009) }));
    assert_eq!(world.link(), Link::Down { accused: true });
    world.say(4_000, Event::Tick);
    world.say(4_000, Event::Opened(a(2)));
    assert_eq!(world.link(), Link::Down { accused: true }, "until the next link is up");
    world.say(4_000, Event::Greeted(a(2)));
    world.say(5_000, Event::Stop);
    assert_eq!(world.link(), Link::Down { accused: false });
    world.say(5_000, Event::Lost(a(2), Loss::Eof));
    assert_eq!(world.link(), Link::Down { accused: false });
}

/// H13
#[test]
fn a_failed_dial_and_a_lost_link_are_counted_apart() {
    let mut world = World::dialing();
    world.say(1_000, Event::Lost(a(1), Loss::Connect));
    world.say(2_000, Event::Tick);
    world.say(2_000, Event::Opened(a(2)));
    world.say(2_000, Event::Lost(a(2), Loss::Eof));
    world.say(4_000, Event::Tick);
    world.say(4_000, Event::Opened(a(3)));
    world.say(4_000, Event::Greeted(a(3)));
    world.say(4_000, Event::Lost(a(3), Loss::Eof));

    let stats = world.machine.stats();
    assert_eq!((stats.attempts, stats.links), (3, 1));
    assert_eq!((stats.lost_dialing, stats.lost_links), (2, 1));
    assert_eq!(stats.losses[Loss::Connect.kind()], 1);
    assert_eq!(stats.losses[Loss::Eof.kind()], 2);
    assert_eq!(stats.losses.iter().sum::<u64>(), 3);
}

// ---- Stop -----------------------------------------------------------------------------------------

#[test]
fn stop_in_every_state_ends_stopped_within_the_close_limit_and_nothing_is_owed_after_it() {
    for mut world in World::every_state() {
        let now = world.now;
        let newest = world.machine.attempt();
        world.say(now, Event::Stop);
        if !world.is_stopped() {
            let (at, timer) = world.deadline().expect("a close has a deadline");
            assert_eq!(timer, Timer::Close);
            assert!(at <= now + 5_000);
            assert_eq!(world.sleep(), [Output::Abort(newest)]);
        }
        assert!(world.is_stopped());
        assert_eq!(world.deadline(), None);
        for event in every_event(newest).into_iter().filter(|event| *event != Event::Start) {
            assert_eq!(world.say(now + 100_000, event), [], "{event:?}");
            assert!(world.is_stopped());
        }
    }
}

#[test]
fn a_second_stop_does_not_put_off_the_end() {
    let mut world = World::closing();
    world.say(7_000, Event::Stop);
    assert_eq!(world.deadline(), Some((8_000, Timer::Close)));
}

#[test]
fn a_stop_keeps_the_reason_of_a_connection_that_is_stopped_already() {
    let mut world = World::stopped();
    let state = world.state();
    world.say(9_000, Event::Stop);
    assert_eq!(world.state(), state);
}

#[test]
fn a_close_that_nobody_polled_in_time_is_overtaken_by_the_abort() {
    let mut world = World::up();
    world.machine.handle(ms(3_000), Event::Stop);
    assert_eq!(world.say(8_000, Event::Tick), [Output::Abort(a(1))]);
}

#[test]
fn a_view_tells_since_when_a_first_ping_is_unanswered() {
    // The rest is the same: silence begins again with what is heard.
    let [early, late] = [22_000, 23_000].map(|flushed_at| {
        let mut world = World::up_and_not_ponged();
        assert_eq!(world.say(22_000, Event::Tick), [Output::Ping(a(1))]);
        world.say(flushed_at, Event::Flushed(a(1)));
        world.say(24_000, Event::Heard(a(1)));
        world
    });
    assert_eq!(early.deadline(), late.deadline());
    assert_ne!(early.view(), late.view());
}

// ---- Helpers --------------------------------------------------------------------------------------

/// A connection and the time of its last event, in milliseconds.
#[derive(Clone)]
struct World {
    machine: Connection<ChaCha8Rng>,
    now: u64,
}

impl World {
    fn of(config: ConnectionConfig) -> Self {
        Self::with_seed(config, 0)
    }

    fn with_seed(config: ConnectionConfig, seed: u64) -> Self {
        Self { machine: machine(config, seed), now: 0 }
    }

    fn idle() -> Self {
        Self::of(config())
    }

    fn dialing() -> Self {
        let mut world = Self::idle();
        world.say(0, Event::Start);
        world
    }

    fn greeting() -> Self {
        let mut world = Self::dialing();
        world.say(1_000, Event::Opened(a(1)));
        world
    }

    fn up_and_not_ponged() -> Self {
        let mut world = Self::greeting();
        world.say(2_000, Event::Greeted(a(1)));
        world
    }

    /// Up, and known to answer pings.
    fn up() -> Self {
        let mut world = Self::up_and_not_ponged();
        world.say(2_000, Event::Ponged(a(1)));
        world
    }

    /// With the ping handed over, not flushed.
    fn suspect() -> Self {
        let mut world = Self::up();
        assert_eq!(world.say(22_000, Event::Tick), [Output::Ping(a(1))]);
        world
    }

    fn closing() -> Self {
        let mut world = Self::up();
        world.say(3_000, Event::Stop);
        world
    }

    fn waiting() -> Self {
        let mut world = Self::dialing();
        world.say(1_000, Event::Lost(a(1), Loss::Connect));
        world
    }

    fn stopped() -> Self {
        let mut world = Self::dialing();
        world.say(1_000, Event::Lost(a(1), Loss::BadUrl));
        world
    }

    fn every_state() -> [Self; 8] {
        [
            Self::idle(),
            Self::dialing(),
            Self::greeting(),
            Self::up(),
            Self::suspect(),
            Self::closing(),
            Self::waiting(),
            Self::stopped(),
        ]
    }

    /// Dialing, after this many dials that failed.
    fn after_failures(failures: u64) -> Self {
        let mut world = Self::dialing();
        for n in 1..=failures {
            let now = world.now;
            world.say(now, Event::Lost(a(n), Loss::Connect));
            assert_eq!(world.sleep(), [Output::Dial(a(n + 1))]);
        }
        world
    }

    /// Up, after this many dials that failed.
    fn up_after_failures(failures: u64) -> Self {
        let mut world = Self::after_failures(failures);
        let (now, newest) = (world.now, world.machine.attempt());
        world.say(now, Event::Opened(newest));
        world.say(now, Event::Greeted(newest));
        world.say(now, Event::Ponged(newest));
        assert_eq!(u64::from(world.machine.failures()), failures);
        world
    }

    /// From Idle to Up at 2,000.
    fn bring_up(&mut self, n: u64) {
        self.say(0, Event::Start);
        self.say(1_000, Event::Opened(a(n)));
        self.say(2_000, Event::Greeted(a(n)));
        assert_eq!(self.link(), Link::Up(a(n)));
    }

    /// Says that this happened, and drains: the orders that come out.
    fn say(&mut self, now: u64, event: Event) -> Vec<Output> {
        self.now = now;
        self.machine.handle(ms(now), event);
        self.drain()
    }

    /// Sleeps exactly to the deadline, says so, and drains.
    fn sleep(&mut self) -> Vec<Output> {
        let (at, _) = self.deadline().expect("there is something to wait for");
        // A deadline with parts of a millisecond, as jitter makes them, has passed at the next.
        let event = Event::Tick;
        let at = if self.machine.deadline().is_some_and(|d| d.at > ms(at)) { at + 1 } else { at };
        self.say(at, event)
    }

    /// All that is owed while the wire is ready. Afterwards the deadline is absent or later.
    fn drain(&mut self) -> Vec<Output> {
        let mut orders = Vec::new();
        loop {
            match self.machine.poll(Wire::Ready) {
                Output::WaitUntil(deadline) => {
                    assert_eq!(deadline, self.machine.deadline());
                    assert!(deadline.is_none_or(|deadline| deadline.at > ms(self.now)));
                    return orders;
                }
                order => orders.push(order),
            }
            assert!(orders.len() < 10, "a drain has an end");
        }
    }

    fn state(&self) -> State {
        self.machine.state()
    }

    fn link(&self) -> Link {
        self.machine.link()
    }

    fn view(&self) -> ConnectionView {
        self.machine.view()
    }

    fn is_stopped(&self) -> bool {
        matches!(self.state(), State::Stopped { .. })
    }

    fn deadline(&self) -> Option<(u64, Timer)> {
        self.machine.deadline().map(|deadline| (deadline.at.as_micros() / 1_000, deadline.timer))
    }
}

fn machine(config: ConnectionConfig, seed: u64) -> Connection<ChaCha8Rng> {
    Connection::new(config, ChaCha8Rng::seed_from_u64(seed)).expect("a legal config")
}

/// The defaults without jitter.
fn config() -> ConnectionConfig {
    let backoff = Backoff { jitter: Jitter::None, ..Backoff::default() };
    ConnectionConfig { backoff, ..ConnectionConfig::default() }
}

fn ms(millis: u64) -> Instant {
    Instant::from_micros(millis * 1_000)
}

fn a(number: u64) -> Attempt {
    Attempt::new(number)
}

fn waiting_until(millis: u64) -> State {
    State::Waiting { redial_at: ms(millis), nudgeable: true }
}

/// Each event once, the I/O events as those of this attempt.
fn every_event(attempt: Attempt) -> [Event; 15] {
    [
        Event::Start,
        Event::Opened(attempt),
        Event::Greeted(attempt),
        Event::Heard(attempt),
        Event::Ponged(attempt),
        Event::Flushed(attempt),
        Event::Took(attempt),
        Event::Paused(attempt),
        Event::Resumed(attempt),
        Event::Refused(attempt, Refusal::Retry),
        Event::Overdue(attempt),
        Event::Lost(attempt, Loss::Io),
        Event::Nudge,
        Event::Stop,
        Event::Tick,
    ]
}

/// A loss of each kind, and of the kinds with details those that matter.
fn every_loss() -> impl Iterator<Item = Loss> {
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
        Loss::DialLimit,
        Loss::GreetingLimit,
        Loss::WriteLimit,
        Loss::PongLimit,
        Loss::NeverPonged,
        Loss::Overdue,
    ];
    let codes = [None, Some(0), Some(1000), Some(1008), Some(1010), Some(1012), Some(1013)];
    let statuses = [0, 101, 200, 301, 401, 403, 404, 408, 425, 429, 500, 503, 599, 600, u16::MAX];
    let refusals = [
        Refusal::Retry,
        Refusal::RetryAfter(Duration::from_secs(7)),
        Refusal::Renew,
        Refusal::Fatal,
    ];
    let answers = statuses.into_iter().flat_map(|status| {
        [None, Some(Duration::from_secs(3))].map(|retry_after| Loss::Status { status, retry_after })
    });
    plain
        .into_iter()
        .chain(codes.map(|code| Loss::Closed { code }))
        .chain(answers)
        .chain(refusals.map(Loss::Refused))
}

/// Starts, lets every dial fail at once, and counts the dials until it gives up.
fn dials_until_stopped(world: &mut World) -> usize {
    let now = world.now;
    let mut dials = world.say(now, Event::Start).len();
    while !world.is_stopped() {
        let (now, newest) = (world.now, world.machine.attempt());
        world.say(now, Event::Lost(newest, Loss::Connect));
        if !world.is_stopped() {
            dials += world.sleep().len();
        }
        assert!(dials < 100, "it gives up in the end");
    }
    dials
}
