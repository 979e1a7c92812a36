//! The client: what comes out, in which order, and what a dialect can make of it. Each test tells
//! one story as a trace: `dial 1, send hello, send 1:a`.

use std::{fmt::Write as _, time::Duration};

use bowline_core::{
    Ack, Attempt, Backoff, Batch, Beat, Body, Client, ClientConfig, ConnectionConfig, Dialect,
    Event, Frame, Greeting, Instant, Jitter, Level, Loss, Nack, Opened, OutboxConfig, Output,
    Phase, Ping, Plain, PushOptions, Received, Refusal, Refused, Seq, Sink, StopReason, Timer,
    Wire,
};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

// ---- The order of outputs -----------------------------------------------------------------------

#[test]
fn orders_come_first_then_settlements_then_status_then_frames() {
    let mut wire = World::new(Script { greeting: &["hello"], ..Script::default() });
    wire.push_many(2);
    wire.client.handle(wire.now, Event::Cancel(Seq::new(1)));
    wire.client.handle(wire.now, Event::Start);
    assert_eq!(wire.drain_all(), "dial 1, failed 1 Cancelled, status Dialing");
    wire.open();
    wire.hear("challenge x");
    assert_eq!(wire.drain_all(), "status Up, send hello, send response x, send 2:2");
    wire.hear("one 2");
    wire.client.handle(wire.now, Event::Lost(wire.attempt(), Loss::Eof));
    assert_eq!(wire.drain_all(), "delivered 2, status Waiting");
}

#[test]
fn ping_beat_and_data_come_in_this_order() {
    let mut wire = World::new(Script { beat: Some(HOUR), ..Script::default() });
    wire.start();
    wire.push("a", Level::Received);
    assert_eq!(wire.drain(), "send beat, send 1:a, ping 1");
    wire.push("b", Level::Received);
    wire.wait(connection().ping_interval);
    assert_eq!(wire.drain(), "ping 1, send 2:b");

    wire.wait(HOUR - connection().ping_interval);
    assert!(wire.client.status().phase != Phase::Up, "the silence was too long");
}

#[test]
fn a_blocked_wire_gets_no_frame_and_hears_the_rest() {
    let mut wire = World::new(Script { greeting: &["hello"], ..Script::default() });
    wire.push_many(1);
    wire.client.handle(wire.now, Event::Start);
    let _ = wire.drain_all();
    wire.open();
    assert_eq!(wire.drain_with(Wire::Blocked), "status Up");
    assert_eq!(wire.drain(), "send hello, send 1:1");
}

// ---- Greeting -----------------------------------------------------------------------------------

/// H12: a dial that comes back too late is not adopted.
#[test]
fn only_the_dial_that_is_awaited_is_to_be_adopted() {
    let mut wire = World::new(Script::default());
    let [first, second] = [1, 2].map(Attempt::new);
    let dialing = |wire: &World, a| (wire.client.is_dialing(a), wire.client.status().is_stopped());
    assert_eq!(dialing(&wire, first), (false, false));
    wire.client.handle(wire.now, Event::Start);
    assert_eq!((dialing(&wire, first), dialing(&wire, second)), ((true, false), (false, false)));
    // It takes too long, and another begins.
    wire.wait(connection().dial_limit);
    assert_eq!(dialing(&wire, first), (false, false));
    while !wire.client.is_dialing(second) {
        wire.wait(connection().backoff.cap);
    }
    assert_eq!(dialing(&wire, first), (false, false));
    wire.open();
    assert_eq!(dialing(&wire, second), (false, false));
    wire.client.handle(wire.now, Event::Stop);
    let _ = wire.drain_all();
    wire.client.handle(wire.now, Event::Lost(second, Loss::Eof));
    assert_eq!(dialing(&wire, second), (false, true));
}

/// H32: nothing queued is sent before the greeting is done.
#[test]
fn nothing_is_sent_before_the_greeting_is_done() {
    let script =
        Script { greeting: &["hello"], awaits: true, beat: Some(HOUR), ..Script::default() };
    let mut wire = World::new(script);
    wire.push("a", Level::Received);
    wire.start();
    assert_eq!(wire.drain(), "send hello");
    wire.hear("challenge 1");
    assert_eq!(wire.drain(), "send response 1");
    wire.hear("challenge 2");
    assert_eq!(
        (wire.client.status().phase, wire.drain()),
        (Phase::Greeting, "send response 2".into())
    );
    wire.hear("welcome");
    assert_eq!(
        (wire.client.status().phase, wire.drain()),
        (Phase::Up, "send beat, send 1:a, ping 1".into())
    );
}

/// H31: the greeting and its answers go before everything queued, on every connection.
#[test]
fn the_greeting_never_queues_behind_data() {
    let mut wire = World::new(Script { greeting: &["one", "two"], ..Script::default() });
    wire.push_many(3);
    wire.start();
    assert_eq!(wire.drain(), "send one, send two, send 1:1, send 2:2, send 3:3");
    wire.lose(Loss::Eof);
    wire.redial();
    wire.hear("challenge x");
    assert_eq!(wire.drain(), "send one, send two, send response x, ping 0");
}

#[test]
fn a_greeting_that_was_not_sent_dies_with_its_connection() {
    let mut wire = World::new(Script { greeting: &["hello"], awaits: true, ..Script::default() });
    wire.start();
    wire.hear("challenge x");
    wire.lose(Loss::Eof);
    assert_eq!(wire.drain(), "");
    wire.redial();
    assert_eq!(wire.drain(), "send hello");
}

#[test]
fn an_ack_before_the_greeting_is_done_settles_nothing() {
    let mut wire = World::new(Script { awaits: true, ..Script::default() });
    wire.push_many(1);
    wire.start();
    wire.hear("next;upto 1");
    assert_eq!((wire.drain(), wire.client.stats().outbox.delivered), (String::new(), 0));
}

#[test]
fn credentials_come_with_each_opening() {
    let mut wire = World::new(Script { greeting: &["token"], ..Script::default() });
    wire.credentials = "first";
    wire.start();
    assert_eq!(wire.drain(), "send token first");
    wire.lose(Loss::Eof);
    wire.credentials = "second";
    wire.redial();
    assert_eq!(wire.drain(), "send token second");
}

#[test]
fn a_refused_greeting_carries_its_own_verdict() {
    let refused = |words: &str| {
        let mut wire = World::new(Script { awaits: true, ..Script::default() });
        wire.start();
        wire.hear(words);
        assert_eq!(wire.drain(), "abort 1");
        (wire.client.status().phase, wire)
    };
    let (phase, _) = refused("refuse retry");
    assert!(matches!(phase, Phase::Waiting { .. }));
    let (phase, wire) = refused("refuse after 7");
    let Phase::Waiting { redial_at } = phase else { panic!("{phase:?}") };
    // With a quarter of spread, so that clients which were told the same do not meet.
    let told = Duration::from_secs(7);
    assert!((told..=told * 5 / 4).contains(&redial_at.since(wire.now)));
    let (phase, _) = refused("refuse fatal");
    let reason = StopReason::Fatal(Loss::Refused(Refusal::Fatal));
    assert_eq!(phase, Phase::Stopped { reason });

    let (phase, mut wire) = refused("refuse renew");
    assert!(matches!(phase, Phase::Waiting { .. }));
    wire.redial();
    wire.hear("refuse renew");
    let reason = StopReason::Fatal(Loss::Refused(Refusal::Renew));
    assert_eq!(wire.client.status().phase, Phase::Stopped { reason });
}

#[test]
fn what_a_frame_says_after_its_refusal_is_ignored() {
    let mut wire = World::new(Script::default());
    wire.push_many(1);
    wire.start();
    assert_eq!(wire.drain(), "send 1:1");
    wire.hear("refuse retry;next;challenge x");
    assert_eq!(wire.drain(), "abort 1");
    assert_eq!(wire.client.stats().outbox.delivered, 0);
}

// ---- Dialects -----------------------------------------------------------------------------------

#[test]
fn plain_sends_bodies_as_they_are_and_hands_over_what_comes() {
    let rng = ChaCha8Rng::seed_from_u64(1);
    let mut client = Client::new(ClientConfig::default(), Plain, rng).unwrap();
    let acked = PushOptions { level: Some(Level::Acked), ..PushOptions::default() };
    let error = client.push(NOW, "a".into(), acked).unwrap_err();
    assert!(matches!(error.reason, Refused::Level { level: Level::Acked, .. }));
    let body = Plain::encode(Body::binary(vec![0, 255])).unwrap();
    client.push(NOW, body.clone(), PushOptions::default()).unwrap();
    client.handle(NOW, Event::Start);
    client.handle(NOW, Event::Opened(Opened::new(Attempt::new(1), ())));
    let mut frames = Vec::new();
    loop {
        match client.poll(Wire::Ready) {
            Output::Send(_, frame) => frames.push(frame),
            Output::WaitUntil(_) => break,
            _ => {}
        }
    }
    let ping = Ping { attempt: Attempt::new(1), seq: Seq::new(1) };
    assert_eq!(frames, [Frame::Data(body), Frame::Ping(ping)]);
    let inbound = client.receive(NOW, Attempt::new(1), Received::Data("hi".into()));
    assert_eq!(inbound, Some("hi".into()));
    let pong = Received::Pong(ping.payload());
    assert_eq!(client.receive(NOW, Attempt::new(1), pong), None);
    let seq = Seq::new(1);
    assert_eq!(client.poll(Wire::Ready), Output::Delivered { first: seq, last: seq });
}

#[test]
fn acks_by_number_cumulative_and_positional() {
    let mut wire = World::new(Script::default());
    wire.push_many(6);
    wire.start();
    wire.drain();
    wire.hear("one 1");
    assert_eq!(wire.drain(), "delivered 1");
    wire.hear("upto 3");
    assert_eq!(wire.drain(), "delivered 2-3");
    wire.hear("next;next");
    assert_eq!(wire.drain(), "delivered 4-5");
    wire.hear("one 99;junk;junk");
    let stats = wire.client.stats();
    assert_eq!((stats.outbox.violations, stats.violations), (1, 2));
}

#[test]
fn nacks_hold_or_reject() {
    let mut wire = World::new(Script::default());
    wire.push_many(2);
    wire.start();
    wire.drain();
    wire.hear("reject 1");
    assert_eq!(wire.drain(), "failed 1 Rejected");
    wire.hear("nack 2");
    assert_eq!(wire.drain(), "");
    wire.wait(OutboxConfig::default().nack_delay);
    assert_eq!(wire.drain(), "send 2:2");
}

#[test]
fn a_dialect_may_pack_several_messages_into_a_frame() {
    let mut wire = World::new(Script { pack: 3, ..Script::default() });
    wire.config.outbox.window_messages = 5;
    wire.remake();
    wire.push_many(7);
    wire.start();
    assert_eq!(wire.drain(), "send 1:1|2:2|3:3, send 4:4|5:5");
    assert_eq!(wire.client.stats().in_flight.messages, 5);
    wire.client.handle(wire.now, Event::Cancel(Seq::new(6)));
    wire.hear("upto 4");
    assert_eq!(wire.drain(), "failed 6 Cancelled, delivered 1-4, send 7:7");
}

/// H63
#[test]
fn a_batch_shows_which_messages_are_in_it_and_no_payload() {
    struct Telltale;
    impl Dialect for Telltale {
        type Message = Body;
        type Inbound = ();
        type Credentials = ();
        type Error = std::convert::Infallible;
        const ACKS: bool = false;

        fn encode(message: Body) -> Result<Body, (Body, Self::Error)> {
            Ok(message)
        }

        fn frame(&mut self, batch: Batch<'_>) -> (Body, usize) {
            (Body::text(format!("{batch:?}")), batch.iter().count())
        }

        fn decode(&mut self, _: Body, _: &mut Sink<()>) {}
    }
    let rng = ChaCha8Rng::seed_from_u64(1);
    let mut client = Client::new(ClientConfig::default(), Telltale, rng).unwrap();
    for body in ["secret", "more"] {
        client.push(NOW, body.into(), PushOptions::default()).unwrap();
    }
    client.handle(NOW, Event::Start);
    client.handle(NOW, Event::Opened(Opened::new(Attempt::new(1), ())));
    let shown = loop {
        if let Output::Send(_, Frame::Data(body)) = client.poll(Wire::Ready) {
            break body;
        }
    };
    let shown = shown.as_text().unwrap();
    for part in ["Seq(1)", "text(6 B)", "Seq(2)", "text(4 B)"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("secret"), "{shown}");
}

#[test]
fn a_dialect_that_claims_more_than_there_is_has_taken_all() {
    let mut wire = World::new(Script { pack: 2, claims: 1_000, ..Script::default() });
    wire.push_many(2);
    wire.start();
    assert_eq!(wire.drain(), "send 1:1|2:2");
    assert_eq!((wire.client.stats().in_flight.messages, wire.client.stats().queued), (2, 0));
}

/// Counting what a dialect takes must not walk the whole window for each frame.
#[test]
fn packing_a_full_queue_costs_the_same_for_each_frame() {
    const MESSAGES: u64 = 60_000;
    let mut wire = World::new(Script { pack: 2, ..Script::default() });
    wire.push_many(MESSAGES);
    wire.start();
    let mut frames = 0;
    while let Output::Send(..) = wire.poll_past_status() {
        frames += 1;
    }
    assert_eq!((frames, wire.client.stats().in_flight.messages as u64), (MESSAGES / 2, MESSAGES));
}

#[test]
fn a_packed_replay_after_a_death_takes_the_head_alone() {
    let mut wire = World::new(Script { pack: 3, ..Script::default() });
    wire.push_many(3);
    wire.start();
    assert_eq!(wire.drain(), "send 1:1|2:2|3:3");
    wire.lose(Loss::Io);
    wire.redial();
    assert_eq!(wire.drain(), "ping 0");
    wire.pong();
    assert_eq!(wire.drain(), "send 1:1");
    wire.hear("next");
    assert_eq!(wire.drain(), "delivered 1, send 2:2|3:3");
}

#[test]
fn of_two_replies_the_latest_wins() {
    let mut wire = World::new(Script::default());
    wire.start();
    wire.hear("challenge 1");
    wire.hear("challenge 2;challenge 3");
    assert_eq!(wire.drain(), "send response 3");
}

#[test]
fn a_second_inbound_message_in_a_frame_is_a_violation() {
    let mut wire = World::new(Script::default());
    wire.start();
    assert_eq!(wire.hear("say a;say b"), Some("a".to_owned()));
    assert_eq!((wire.client.stats().inbound, wire.client.stats().violations), (1, 1));
}

// ---- Beat and receipts --------------------------------------------------------------------------

/// H33, H56: however long the wire was blocked, one beat is owed; and one that is owed already wakes
/// nobody.
#[test]
fn at_most_one_beat_is_owed_and_it_is_never_queued() {
    let mut wire = World::new(Script { beat: Some(SECOND), ..Script::default() });
    wire.start();
    assert_eq!(wire.drain(), "send beat");
    for _ in 0..15 {
        wire.wait(SECOND);
        assert_eq!(wire.drain_with(Wire::Blocked), "");
    }
    assert_eq!(wire.drain(), "send beat");
    wire.wait(SECOND);
    assert_eq!(wire.client.deadline().map(|d| d.timer), Some(Timer::Ping));
    wire.lose(Loss::Eof);
    assert_eq!(wire.drain(), "", "the beat of a link dies with it");
    wire.redial();
    assert_eq!(wire.drain(), "send beat");
}

#[test]
fn the_beat_has_a_deadline_of_its_own() {
    let mut wire = World::new(Script { beat: Some(SECOND), ..Script::default() });
    wire.start();
    wire.drain();
    let deadline = wire.client.deadline().unwrap();
    assert_eq!((deadline.at, deadline.timer), (wire.now + SECOND, Timer::Beat));
}

#[test]
fn a_heartbeat_is_a_receipt() {
    let mut wire = World::new(Script::default());
    wire.start();
    wire.drain();
    wire.wait(connection().ping_interval - SECOND);
    wire.push("a", Level::Acked);
    assert_eq!(wire.drain(), "send 1:a");
    wire.wait(SECOND);
    assert_eq!(wire.drain(), "ping 1", "one ping for both");
    wire.flush();
    wire.push("b", Level::Received);
    assert_eq!(wire.drain(), "send 2:b", "one ping is outstanding");
    wire.pong();
    assert_eq!((wire.drain(), wire.client.status().phase), ("ping 2".into(), Phase::Up));
    wire.pong();
    wire.hear("next");
    assert_eq!(wire.drain(), "delivered 1-2");
}

#[test]
fn a_pong_that_is_not_ours_proves_life_and_nothing_else() {
    let mut wire = World::new(Script::default());
    wire.start();
    wire.push("a", Level::Received);
    wire.drain();
    wire.wait(connection().ping_interval);
    wire.drain();
    let a = wire.attempt();
    let other = Ping { attempt: Attempt::new(9), seq: Seq::new(1) };
    for payload in [vec![], vec![7; 3], other.payload().to_vec()] {
        let _ = wire.client.receive(wire.now, a, Received::Pong(payload.into()));
    }
    wire.wait(Duration::ZERO);
    assert_eq!((wire.client.status().phase, wire.drain()), (Phase::Up, String::new()));
    assert_eq!(wire.client.stats().outbox.delivered, 0);
}

// ---- The two arrows -----------------------------------------------------------------------------

#[test]
fn overdue_ends_the_attempt() {
    let mut wire = World::new(Script::default());
    wire.start();
    wire.push("a", Level::Acked);
    wire.drain();
    wire.wait(connection().ping_interval);
    assert_eq!(wire.drain(), "ping 1");
    wire.flush();
    wire.pong();
    // Something is heard all the time, but not the ack.
    for _ in 0..OutboxConfig::default().ack_limit.as_secs() - 1 {
        wire.wait(SECOND);
        wire.hear("say hi");
        wire.drain();
    }
    assert_eq!(wire.client.outbox().charges(), 0);
    wire.wait(SECOND);
    assert_eq!(wire.drain(), "abort 1");
    assert_eq!(wire.client.status().last_loss, Some(Loss::Overdue));
    assert_eq!(wire.client.outbox().charges(), 1);
    wire.redial();
    assert_eq!(wire.drain(), "send 1:a");
}

/// The outbox is not there yet when the driver stops reading, and learns it with the link.
#[test]
fn a_pause_during_the_greeting_holds_the_ack_clock() {
    let mut wire = World::new(Script { awaits: true, ..Script::default() });
    wire.config.connection.can_ping = false;
    wire.config.outbox.level = Level::Acked;
    wire.remake();
    wire.start();
    wire.push("a", Level::Acked);
    wire.client.handle(wire.now, Event::Paused(wire.attempt()));
    wire.hear("welcome");
    assert_eq!(wire.drain(), "send 1:a");
    wire.wait(HOUR);
    assert_eq!(wire.drain(), "");
    wire.client.handle(wire.now, Event::Resumed(wire.attempt()));
    wire.wait(OutboxConfig::default().ack_limit);
    assert_eq!(wire.drain(), "abort 1");
}

/// D2: that it is later only the connection has heard, and the outbox goes by the same clock.
#[test]
fn a_time_to_live_begins_at_the_latest_time_that_either_machine_was_told() {
    let mut wire = World::new(Script::default());
    wire.start();
    let later = wire.now + HOUR;
    wire.client.handle(later, Event::Heard(wire.attempt()));
    let options = PushOptions { ttl: Some(SECOND), ..PushOptions::default() };
    wire.client.push(wire.now, "a".into(), options).unwrap();
    wire.now = later;
    wire.wait(Duration::ZERO);
    assert_eq!(wire.drain(), "ping 0, send 1:a");
    wire.wait(SECOND);
    assert_eq!(wire.drain(), "failed 1 Expired");
}

/// D2: the outbox was told it, and the connection goes by the same clock.
#[test]
fn a_restored_client_goes_on_from_the_time_of_its_restore() {
    let mut wire = World::new(Script::default());
    let snapshot = wire.client.outbox().snapshot();
    let (config, script) = (wire.config.clone(), wire.script.clone());
    let rng = ChaCha8Rng::seed_from_u64(2);
    let restored_at = wire.now + HOUR;
    wire.client = Client::restore(config, script, rng, restored_at, snapshot).unwrap();
    wire.client.handle(wire.now, Event::Start);
    assert_eq!(wire.drain(), "dial 1");
    let give_up_at = restored_at + connection().dial_limit;
    assert_eq!(wire.client.deadline().unwrap().at, give_up_at);
}

/// H44: the ack that sits in the read buffer when its limit runs out is read first, also where its
/// frame comes in parts.
#[test]
fn evidence_comes_before_the_verdict() {
    let mut wire = World::new(Script::default());
    wire.start();
    wire.push("a", Level::Acked);
    wire.drain();
    wire.wait(connection().ping_interval);
    wire.drain();
    wire.flush();
    wire.pong();
    wire.now = wire.now + OutboxConfig::default().ack_limit + HOUR;
    wire.client.handle(wire.now, Event::Heard(wire.attempt()));
    wire.hear("next");
    wire.wait(Duration::ZERO);
    assert!(wire.drain().starts_with("delivered 1"));
    assert_eq!((wire.client.stats().outbox.charges, wire.client.stats().outbox.transmits), (0, 1));
}

#[test]
fn an_accusation_of_an_earlier_attempt_is_not_held_against_a_message_of_a_later_one() {
    let mut wire = World::new(Script::default());
    wire.start();
    wire.lose(Loss::Closed { code: Some(1007) });
    wire.redial();
    wire.push("a", Level::Acked);
    assert_eq!(wire.drain(), "send 1:a");
    wire.client.handle(wire.now, Event::Stop);
    assert_eq!(wire.drain(), "close 2");
    assert_eq!(wire.client.outbox().charges(), 0);
}

#[test]
fn an_accusation_charges_the_head_that_was_alone() {
    for code in [1003, 1007, 1009] {
        let mut wire = World::new(Script::default());
        wire.start();
        wire.push("a", Level::Acked);
        wire.drain();
        wire.lose(Loss::Closed { code: Some(code) });
        assert_eq!(wire.client.outbox().charges(), 1, "{code}");
    }
}

/// H65: after the peer's Close a pong and an ack come from something that is going away.
#[test]
fn nothing_counts_after_the_end_of_the_connection() {
    let mut wire = World::new(Script::default());
    wire.start();
    wire.push("a", Level::Received);
    wire.push("b", Level::Acked);
    assert_eq!(wire.drain(), "send 1:a, send 2:b, ping 2");
    wire.lose(Loss::Closed { code: Some(1001) });
    wire.pong();
    wire.hear("upto 2");
    assert_eq!((wire.drain(), wire.client.stats().stale_frames), (String::new(), 2));
    assert_eq!(wire.client.stats().queued, 2);
}

#[test]
fn frames_of_another_attempt_are_stale() {
    let mut wire = World::new(Script::default());
    wire.start();
    wire.push("a", Level::Acked);
    wire.drain();
    wire.lose(Loss::Eof);
    wire.redial();
    for old in [0, 1, 3] {
        let frame = Received::Data("next;welcome;say hi;challenge x".into());
        assert_eq!(wire.client.receive(wire.now, Attempt::new(old), frame), None);
    }
    wire.client.handle(wire.now, Event::Lost(Attempt::new(1), Loss::Eof));
    assert_eq!((wire.drain(), wire.client.stats().stale_frames), ("ping 0".into(), 3));
    assert_eq!(wire.client.status().phase, Phase::Up);
}

// ---- One way to connect, one limit at a time ----------------------------------------------------

/// H8, H50: a message that is sent while there is no link dials nothing, and the link that comes is
/// greeted like the first one.
#[test]
fn a_message_sent_while_disconnected_waits_for_the_backoff_and_the_greeting() {
    let mut wire = World::new(Script { greeting: &["hello"], awaits: true, ..Script::default() });
    wire.start();
    assert_eq!(wire.drain(), "send hello");
    wire.hear("welcome");
    wire.lose(Loss::Eof);
    let redial_at = wire.client.deadline().map(|deadline| deadline.at);
    wire.push("a", Level::Received);
    assert_eq!(wire.drain(), "");
    assert_eq!(wire.client.deadline().map(|deadline| deadline.at), redial_at);
    wire.redial();
    assert_eq!(wire.drain(), "send hello");
    wire.hear("welcome");
    assert_eq!(wire.drain(), "send 1:a, ping 1");
}

/// H51: each phase has one limit of its own, which begins with the phase and goes with it; no limit
/// runs around another, so none can cut short what another allows.
#[test]
fn the_limit_of_a_phase_begins_with_the_phase_and_ends_with_it() {
    let limits = connection();
    let almost = Duration::from_millis(1);
    let mut wire = World::new(Script { greeting: &["hello"], awaits: true, ..Script::default() });
    let next = |wire: &World| wire.client.deadline().map(|at| (at.timer, at.at.since(wire.now)));

    wire.client.handle(wire.now, Event::Start);
    assert_eq!(next(&wire), Some((Timer::Dial, limits.dial_limit)));
    wire.drain();
    wire.wait(limits.dial_limit - almost);
    wire.open();
    wire.drain();
    assert_eq!(next(&wire), Some((Timer::Greeting, limits.greeting_limit)));
    wire.wait(limits.greeting_limit - almost);
    wire.hear("welcome");
    wire.push("a", Level::Received);
    wire.drain();
    assert_eq!(wire.client.status().phase, Phase::Up);
    assert_eq!(next(&wire), Some((Timer::Ping, limits.ping_interval)));
}

// ---- Stop and close -----------------------------------------------------------------------------

/// H34: stopping keeps what is queued, and starting again sends it.
#[test]
fn start_after_stop_keeps_the_messages() {
    let mut wire = World::new(Script::default());
    wire.push_many(2);
    wire.start();
    assert_eq!(wire.drain(), "send 1:1, send 2:2");
    wire.client.handle(wire.now, Event::Stop);
    wire.push_many(1);
    assert_eq!(wire.drain(), "close 1");
    wire.lose(Loss::Closed { code: Some(1000) });
    assert_eq!(wire.client.status().phase, Phase::Stopped { reason: StopReason::Requested });
    assert_eq!((wire.client.stats().queued, wire.client.deadline()), (3, None));
    wire.start();
    assert_eq!(wire.drain(), "ping 0");
    wire.pong();
    assert_eq!(wire.drain(), "send 1:1");
    wire.hear("upto 1");
    assert_eq!(wire.drain(), "delivered 1, send 2:2, send 3:3");
}

#[test]
fn close_drains_and_then_stops() {
    let mut wire = World::new(Script::default());
    wire.push_many(2);
    wire.start();
    wire.client.handle(wire.now, Event::Close { deadline: wire.now + HOUR });
    assert_eq!(wire.drain(), "send 1:1, send 2:2");
    let late = wire.client.push(wire.now, "late".into(), PushOptions::default());
    assert_eq!(late.unwrap_err().reason, Refused::Closed);
    wire.hear("upto 1");
    assert_eq!(wire.drain(), "delivered 1");
    wire.hear("upto 2");
    assert_eq!(wire.drain(), "close 1, delivered 2");
    wire.wait(connection().close_limit);
    assert_eq!(wire.drain(), "abort 1");
    assert_eq!(wire.client.status().phase, Phase::Stopped { reason: StopReason::Requested });
}

/// H34: a drain ends at its deadline, whatever the network does.
#[test]
fn a_close_ends_at_its_deadline_in_every_state() {
    let stories: [fn(&mut World); 4] = [
        |_| {},
        |wire| wire.client.handle(wire.now, Event::Start),
        |wire| wire.start(),
        |wire| {
            wire.start();
            wire.lose(Loss::Io);
        },
    ];
    for story in stories {
        let mut wire = World::new(Script::default());
        story(&mut wire);
        wire.push_many(1);
        wire.drain();
        wire.client.handle(wire.now, Event::Close { deadline: wire.now + SECOND });
        wire.wait(SECOND);
        assert!(wire.drain().contains("failed 1 Returned"));
        wire.wait(connection().close_limit);
        let _ = wire.drain();
        assert_eq!(wire.client.status().phase, Phase::Stopped { reason: StopReason::Requested });
        assert_eq!(wire.client.deadline(), None);
    }
}

#[test]
fn messages_settle_while_the_client_is_stopped() {
    let mut wire = World::new(Script::default());
    let mortal = PushOptions { ttl: Some(SECOND), ..PushOptions::default() };
    wire.client.push(wire.now, "a".into(), mortal).unwrap();
    wire.push_many(1);
    wire.client.handle(wire.now, Event::Stop);
    wire.client.handle(wire.now, Event::Cancel(Seq::new(2)));
    assert_eq!(wire.drain(), "failed 2 Cancelled");
    wire.wait(SECOND);
    assert_eq!(wire.drain(), "failed 1 Expired");
}

#[test]
fn a_restored_client_goes_on_where_the_other_stopped() {
    let mut wire = World::new(Script::default());
    wire.push_many(2);
    wire.start();
    wire.drain();
    let snapshot = wire.client.outbox().snapshot();
    let rng = ChaCha8Rng::seed_from_u64(99);
    let (config, dialect) = (wire.config.clone(), wire.script.clone());
    wire.client = Client::restore(config, dialect, rng, wire.now, snapshot).unwrap();
    wire.start();
    assert_eq!(wire.drain(), "ping 0");
    wire.pong();
    assert_eq!(wire.drain(), "send 1:1");
}

#[test]
fn a_client_is_built_only_from_settings_that_hold() {
    let build = |config: ClientConfig| {
        Client::new(config, Plain, ChaCha8Rng::seed_from_u64(1)).map(drop).unwrap_err().field
    };
    let mut acked = ClientConfig::default();
    acked.outbox.level = Level::Acked;
    assert_eq!(build(acked), "level");
    let mut mute = ClientConfig::default();
    mute.connection.can_ping = false;
    assert_eq!(build(mute), "level");
    let mut hasty = ClientConfig::default();
    hasty.connection.dial_limit = Duration::ZERO;
    assert_eq!(build(hasty), "dial_limit");
}

#[test]
fn settings_can_be_checked_before_there_is_a_client() {
    let mut config = ClientConfig::default();
    assert_eq!(config.validate::<Plain>(), Ok(()));
    config.outbox.level = Level::Acked;
    assert_eq!(config.validate::<Script>(), Ok(()));
    assert_eq!(config.validate::<Plain>().unwrap_err().field, "level");
    config.connection.dial_limit = Duration::ZERO;
    assert_eq!(config.validate::<Script>().unwrap_err().field, "dial_limit");
}

#[test]
fn a_transport_that_says_twice_that_it_is_open_is_greeted_once() {
    let script = Script { greeting: &["hello"], awaits: true, ..Script::default() };
    let mut wire = World::new(script);
    wire.start();
    assert_eq!(wire.drain(), "send hello");
    wire.open();
    assert_eq!(wire.drain(), "");
}

#[test]
fn a_receipt_that_does_not_come_is_asked_for_again_every_ping_interval() {
    let mut wire = World::new(Script::default());
    wire.config.connection.ping_interval = 7 * SECOND;
    wire.remake();
    wire.start();
    wire.push("a", Level::Received);
    assert_eq!(wire.drain(), "send 1:a, ping 1");
    wire.flush();
    wire.pong();
    assert_eq!(wire.drain(), "delivered 1");

    wire.push("b", Level::Received);
    assert_eq!(wire.drain(), "send 2:b, ping 2");
    wire.flush();
    // What the peer says puts the heartbeat off, and is no receipt.
    wire.wait(4 * SECOND);
    wire.hear("say hi");
    wire.wait(3 * SECOND);
    assert_eq!(wire.drain(), "ping 2");
}

#[test]
fn a_view_is_relative_to_now_to_the_newest_attempt_and_to_the_head() {
    let [mut young, mut old] = [2, 3].map(|lives| {
        let mut world = World::new(Script::default());
        let backoff = Backoff { jitter: Jitter::None, ..Backoff::default() };
        world.config.connection.backoff = backoff;
        world.remake();
        world.start();
        for life in 0..lives {
            if life > 0 {
                world.redial();
            }
            world.push_many(2);
            world.drain();
            world.hear("next;next");
            // Long enough for what failed before to be forgotten.
            world.wait(HOUR);
            world.drain();
            world.lose(Loss::Io);
        }
        world
    });
    assert_eq!(young.client.view(), old.client.view(), "waiting");
    for world in [&mut young, &mut old] {
        world.drain();
        world.push("a", Level::Acked);
        world.push("b", Level::Acked);
        world.now = world.client.deadline().unwrap().at;
        world.client.handle(world.now, Event::Tick);
    }
    assert_eq!(young.client.view(), old.client.view(), "with a dial that nobody was told of");
    for world in [&mut young, &mut old] {
        world.drain();
        world.open();
        world.drain();
        world.hear("one 99");
    }
    assert_eq!(young.client.view(), old.client.view(), "with messages in flight");
    assert_ne!(young.attempt(), old.attempt());
}

#[test]
fn a_view_tells_which_status_was_reported() {
    let mut world = World::new(Script::default());
    world.client.handle(NOW, Event::Start);
    assert_eq!(world.client.poll(Wire::Ready), Output::Dial(Attempt::new(1)));
    let before = world.client.view();
    assert!(matches!(world.client.poll(Wire::Ready), Output::Status(_)));
    assert_ne!(world.client.view(), before);
}

// ---- Helpers ------------------------------------------------------------------------------------

const NOW: Instant = Instant::ZERO;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

fn connection() -> ConnectionConfig {
    ConnectionConfig::default()
}

/// A dialect of words. The peer says `next`, `one 3`, `upto 3`, `nack 3`, `reject 3`, `welcome`,
/// `refuse …`, `challenge x`, `say hi`, several in a frame with `;` between.
#[derive(Clone, Default)]
struct Script {
    greeting: &'static [&'static str],
    awaits: bool,
    /// Messages in a frame.
    pack: usize,
    /// How many it says it has packed, if that is not the truth.
    claims: usize,
    beat: Option<Duration>,
}

impl Dialect for Script {
    type Message = Body;
    type Inbound = String;
    type Credentials = &'static str;
    type Error = std::convert::Infallible;

    const ACKS: bool = true;

    fn encode(message: Body) -> Result<Body, (Body, Self::Error)> {
        Ok(message)
    }

    fn greet(&mut self, opened: &Opened<&'static str>) -> Greeting {
        let say = |word: &&str| Body::text(format!("{word} {}", opened.credentials).trim_end());
        Greeting { frames: self.greeting.iter().map(say).collect(), awaits_answer: self.awaits }
    }

    fn frame(&mut self, batch: Batch<'_>) -> (Body, usize) {
        let items: Vec<String> = batch
            .iter()
            .take(self.pack.max(1))
            .map(|item| format!("{}:{}", item.id.seq, item.body.as_text().unwrap()))
            .collect();
        (Body::text(items.join("|")), self.claims.max(items.len()))
    }

    fn decode(&mut self, body: Body, sink: &mut Sink<String>) {
        for said in body.as_text().unwrap().split(';') {
            let words: Vec<&str> = said.split(' ').collect();
            let number = |word: &str| Seq::new(word.parse().unwrap());
            match words[..] {
                ["next"] => sink.ack(Ack::Next),
                ["one", seq] => sink.ack(Ack::One(number(seq))),
                ["upto", seq] => sink.ack(Ack::UpTo(number(seq))),
                ["nack", seq] => sink.nack(Ack::One(number(seq)), Nack::Transient),
                ["reject", seq] => sink.nack(Ack::One(number(seq)), Nack::Permanent),
                ["welcome"] => sink.greeted(),
                ["refuse", "retry"] => sink.refused(Refusal::Retry),
                ["refuse", "renew"] => sink.refused(Refusal::Renew),
                ["refuse", "fatal"] => sink.refused(Refusal::Fatal),
                ["refuse", "after", seconds] => {
                    let delay = Duration::from_secs(seconds.parse().unwrap());
                    sink.refused(Refusal::RetryAfter(delay));
                }
                ["challenge", word] => sink.reply(format!("response {word}")),
                ["say", word] => drop(sink.inbound(word.to_owned())),
                _ => sink.violation(),
            }
        }
    }

    fn beat(&mut self) -> Option<Beat> {
        self.beat.map(|interval| Beat { interval, body: "beat".into() })
    }
}

/// A client, a clock and a peer that is played by hand.
struct World {
    client: Client<Script, ChaCha8Rng>,
    config: ClientConfig,
    script: Script,
    credentials: &'static str,
    now: Instant,
    pinged: Option<Ping>,
}

impl World {
    fn new(script: Script) -> Self {
        let config = ClientConfig::default();
        let rng = ChaCha8Rng::seed_from_u64(1);
        let client = Client::new(config.clone(), script.clone(), rng).unwrap();
        Self { client, config, script, credentials: "", now: NOW, pinged: None }
    }

    fn remake(&mut self) {
        let rng = ChaCha8Rng::seed_from_u64(1);
        self.client = Client::new(self.config.clone(), self.script.clone(), rng).unwrap();
    }

    fn attempt(&self) -> Attempt {
        self.client.connection().attempt()
    }

    /// `Start`, and the transport is open.
    fn start(&mut self) {
        self.client.handle(self.now, Event::Start);
        let drained = self.drain();
        assert!(drained.starts_with("dial "), "{drained}");
        self.open();
    }

    fn open(&mut self) {
        let opened = Opened::new(self.attempt(), self.credentials);
        self.client.handle(self.now, Event::Opened(opened));
    }

    fn lose(&mut self, loss: Loss) {
        self.client.handle(self.now, Event::Lost(self.attempt(), loss));
    }

    /// Waits for the next dial, and the transport is open.
    fn redial(&mut self) {
        let deadline = self.client.deadline().unwrap();
        assert_eq!(deadline.timer, Timer::Redial);
        self.now = deadline.at;
        self.client.handle(self.now, Event::Tick);
        let drained = self.drain();
        assert!(drained.contains("dial "), "{drained}");
        self.open();
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.client.handle(self.now, Event::Tick);
    }

    fn hear(&mut self, said: &str) -> Option<String> {
        self.client.receive(self.now, self.attempt(), Received::Data(said.into()))
    }

    fn pong(&mut self) {
        let ping = self.pinged.expect("a ping came out");
        let pong = Received::Pong(ping.payload());
        let _ = self.client.receive(self.now, ping.attempt, pong);
    }

    fn flush(&mut self) {
        self.client.handle(self.now, Event::Flushed(self.attempt()));
    }

    fn push(&mut self, body: &str, level: Level) {
        let options = PushOptions { level: Some(level), ..PushOptions::default() };
        self.client.push(self.now, body.into(), options).unwrap();
    }

    /// Messages of level Acked whose bodies are their numbers.
    fn push_many(&mut self, count: u64) {
        for _ in 0..count {
            let number = self.client.outbox().next_seq().to_string();
            self.push(&number, Level::Acked);
        }
    }

    fn poll_past_status(&mut self) -> Output {
        loop {
            let output = self.client.poll(Wire::Ready);
            if !matches!(output, Output::Status(_)) {
                return output;
            }
        }
    }

    fn drain_all(&mut self) -> String {
        self.trace(Wire::Ready, true)
    }

    fn drain_with(&mut self, wire: Wire) -> String {
        self.trace(wire, wire == Wire::Blocked && self.client.status().phase == Phase::Up)
            .replace("status Suspect", "")
    }

    fn drain(&mut self) -> String {
        self.trace(Wire::Ready, false)
    }

    fn trace(&mut self, wire: Wire, statuses: bool) -> String {
        let mut trace = String::new();
        loop {
            let did = match self.client.poll(wire) {
                Output::Dial(a) => format!("dial {a}"),
                Output::Send(_, Frame::Data(body)) => format!("send {}", body.as_text().unwrap()),
                Output::Send(_, Frame::Ping(ping)) => {
                    self.pinged = Some(ping);
                    format!("ping {}", ping.seq)
                }
                Output::Close(a, code) => {
                    assert_eq!(code, 1000);
                    format!("close {a}")
                }
                Output::Abort(a) => format!("abort {a}"),
                Output::Delivered { first, last } if first == last => format!("delivered {first}"),
                Output::Delivered { first, last } => format!("delivered {first}-{last}"),
                Output::Failed(failed) => format!("failed {} {:?}", failed.id.seq, failed.reason),
                Output::Status(_) if !statuses => continue,
                Output::Status(status) => {
                    let phase = format!("{:?}", status.phase);
                    format!("status {}", phase.split(' ').next().unwrap())
                }
                Output::WaitUntil(deadline) => {
                    let quiet = deadline.is_none_or(|deadline| deadline.at > self.now);
                    assert!(quiet || wire == Wire::Blocked, "drained is not quiet: {deadline:?}");
                    return trace;
                }
            };
            let comma = if trace.is_empty() { "" } else { ", " };
            write!(trace, "{comma}{did}").unwrap();
        }
    }
}
