//! The outbox, rule by rule. Each test tells one story; what the outbox does is written down as a
//! trace of the wire: `send 1, send 2, ping 2`.

use std::{fmt::Write as _, time::Duration};

use bowline_core::{
    Ack, Amount, Attempt, Body, Deadline, FailReason, Fate, Instant, Key, Level, MessageId, Nack,
    OnSuspected, Outbox, OutboxConfig, OutboxEvent, OutboxId, OutboxOutput, OutboxState, Overflow,
    Ping, PushOptions, Refused, Seq, Snapshot, Timer, Wire,
    outbox::{RestoreRefused, SavedOutcome},
};

use Level::{Acked, Received, Written};

// ---- Push ---------------------------------------------------------------------------------------

/// H27: neither the oldest nor the newest goes silently.
#[test]
fn a_full_outbox_hands_the_message_back_and_uses_no_number() {
    let mut wire = World::with(OutboxConfig { max_messages: 2, window_messages: 2, ..small() });
    wire.push("a", Received);
    wire.push("b", Received);
    let options = PushOptions { ttl: Some(MINUTE), ..PushOptions::default() };
    let error = wire.outbox.push(wire.now, "c".into(), options.clone()).unwrap_err();
    assert_eq!((error.reason, error.body, error.options), (Refused::Full, "c".into(), options));
    assert_eq!((wire.outbox.next_seq(), wire.outbox.queued()), (seq(3), 2));
}

/// H36: bytes are bounded too, keys included.
#[test]
fn bytes_are_bounded_as_messages_are() {
    let mut wire = World::with(OutboxConfig { max_bytes: 16, window_bytes: 16, ..small() });
    wire.push("12345678", Received);
    wire.push("1", Received);
    let keyed = |key: &str| PushOptions { key: Some(Key::from(key)), ..PushOptions::default() };
    let refused = wire.outbox.push(wire.now, "1234".into(), keyed("abcd")).unwrap_err();
    assert_eq!(refused.reason, Refused::Full);
    wire.outbox.push(wire.now, "1234".into(), keyed("abc")).unwrap();
    assert_eq!(wire.outbox.held(), Amount { messages: 3, bytes: 16 });
    assert_eq!(wire.outbox.room(), Amount { messages: 125, bytes: 0 });
}

#[test]
fn a_message_that_there_is_room_for_is_taken_and_no_other() {
    let full = OutboxConfig { max_messages: 2, window_messages: 2, ..small() };
    let short = OutboxConfig { max_bytes: 12, window_bytes: 12, ..small() };
    let evicting = OutboxConfig { overflow: Overflow::EvictOldest, ..full.clone() };
    for config in [small(), full, short, evicting] {
        for close in [false, true] {
            let mut wire = World::with(config.clone());
            for bytes in [0, 8, 9, 5, 4, 1, 1, 0] {
                let body = Body::text("x".repeat(bytes));
                let has_room = wire.outbox.has_room_for(bytes);
                let taken = wire.outbox.push(wire.now, body, PushOptions::default()).is_ok();
                assert_eq!(has_room, taken, "{bytes} bytes, {config:?}");
            }
            if close {
                wire.outbox.handle(wire.now, OutboxEvent::Close { deadline: Instant::NEVER });
            }
            assert!(!(close && wire.outbox.has_room_for(0)));
        }
    }
}

#[test]
fn a_message_above_the_limit_is_refused_with_its_size() {
    let mut wire = World::new();
    let key = PushOptions { key: Some(Key::from("key")), ..PushOptions::default() };
    let error = wire.outbox.push(wire.now, "1234567".into(), key).unwrap_err();
    assert_eq!(error.reason, Refused::TooLarge { size: 10, limit: 8 });
    assert_eq!(
        error.to_string(),
        "the message has 10 bytes with its key, the limit is 8 (max_message_bytes)"
    );
}

#[test]
fn a_level_that_is_not_to_be_had_is_refused() {
    let level = |wire: &mut World, level| {
        let options = PushOptions { level: Some(level), ..PushOptions::default() };
        wire.outbox.push(wire.now, "a".into(), options).map_err(|error| error.reason)
    };
    let mut mute = World::with(OutboxConfig { can_ping: false, level: Written, ..small() });
    let missing = "Written or Acked, for the transport cannot ping";
    assert_eq!(level(&mut mute, Received), Err(Refused::Level { level: Received, missing }));
    assert!(level(&mut mute, Acked).is_ok());

    let mut plain = World::with(OutboxConfig { can_ack: false, ..small() });
    let missing = "Written or Received, for the dialect has no acks";
    assert_eq!(level(&mut plain, Acked), Err(Refused::Level { level: Acked, missing }));
    assert!(level(&mut plain, Received).is_ok());
}

#[test]
fn a_default_level_that_is_not_to_be_had_is_a_wrong_setting() {
    let config = OutboxConfig { can_ping: false, ..small() };
    assert_eq!(Outbox::new(config, ID).unwrap_err().field, "level");
}

#[test]
fn one_message_fits_the_window_and_the_window_fits_the_queue() {
    let field = |config: OutboxConfig| config.validate().unwrap_err().field;
    assert_eq!(field(OutboxConfig { max_message_bytes: 513, ..small() }), "max_message_bytes");
    assert_eq!(field(OutboxConfig { window_bytes: 2_049, ..small() }), "window_bytes");
    assert_eq!(field(OutboxConfig { window_messages: 129, ..small() }), "window_messages");
    assert_eq!(field(OutboxConfig { window_messages: 0, ..small() }), "window_messages");
}

#[test]
fn a_queued_message_is_replaced_in_place_by_one_of_its_key() {
    let mut wire = World::new();
    wire.push_keyed("old", "k");
    wire.push("b", Received);
    let pushed = wire.push_keyed("new", "k");
    assert_eq!(pushed, (seq(1), vec![(seq(1), "old".into(), true)]));
    // It has used up a number all the same.
    assert_eq!(wire.push("c", Received), seq(4));
    wire.up();
    assert_eq!(wire.bodies(), ["new", "b", "c"]);
}

#[test]
fn a_transmitted_message_is_not_replaced() {
    let mut wire = World::new();
    wire.up();
    wire.push_keyed("old", "k");
    assert_eq!(wire.drain(), "send 1, ping 1");
    wire.down();
    assert_eq!(wire.push_keyed("new", "k"), (seq(2), vec![]));
    assert_eq!(wire.push_keyed("newer", "k"), (seq(2), vec![(seq(2), "new".into(), true)]));
    wire.up();
    wire.answer_first_ping();
    assert_eq!(wire.bodies(), ["old"]);
    wire.pong(1);
    assert_eq!(wire.bodies(), ["newer"]);
}

#[test]
fn a_replaced_message_takes_over_the_time_to_live_and_the_level_of_the_new_one() {
    let mut wire = World::new();
    let keyed = |ttl, level| PushOptions { level: Some(level), ttl, key: Some(Key::from("k")) };
    wire.outbox.push(wire.now, "a".into(), keyed(Some(SECOND), Acked)).unwrap();
    wire.outbox.push(wire.now, "b".into(), keyed(None, Written)).unwrap();
    wire.wait(MINUTE);
    wire.up();
    assert_eq!(wire.drain(), "send 1");
    wire.flushed();
    assert_eq!(wire.drain(), "delivered 1");
}

#[test]
fn a_full_outbox_may_evict_the_oldest_that_was_never_transmitted() {
    let config = OutboxConfig {
        max_messages: 3,
        window_messages: 1,
        overflow: Overflow::EvictOldest,
        ..small()
    };
    let mut wire = World::with(config);
    wire.up();
    for body in ["a", "b", "c"] {
        wire.push(body, Received);
    }
    assert_eq!(wire.drain(), "send 1, ping 1");
    let pushed = wire.outbox.push(wire.now, "d".into(), PushOptions::default()).unwrap();
    assert_eq!(displaced(pushed), (seq(4), vec![(seq(2), "b".into(), false)]));
    wire.pong(1);
    assert_eq!(wire.drain(), "delivered 1, send 3, ping 3");
    wire.pong(3);
    assert_eq!(wire.drain(), "delivered 3, send 4, ping 4");
}

#[test]
fn as_many_are_evicted_as_the_new_one_has_bytes() {
    let config = OutboxConfig {
        max_bytes: 32,
        window_bytes: 32,
        overflow: Overflow::EvictOldest,
        ..small()
    };
    let mut wire = World::with(config);
    for body in ["1234", "1234", "12345678", "12345678", "12345678"] {
        wire.push(body, Received);
    }
    let pushed = wire.outbox.push(wire.now, "12345".into(), PushOptions::default()).unwrap();
    assert_eq!(pushed.displaced.iter().map(|d| d.seq).collect::<Vec<_>>(), [seq(1), seq(2)]);
    assert_eq!(wire.outbox.room(), Amount { messages: 128, bytes: 32 });
}

#[test]
fn what_a_replaced_message_weighed_is_no_room_any_more() {
    let config = OutboxConfig { overflow: Overflow::EvictOldest, ..small() };
    let mut wire = World::with(config);
    wire.push_keyed("1234567", "k");
    wire.push_keyed("1", "k");
    assert_eq!(wire.outbox.room(), Amount { messages: 128, bytes: 2_048 }, "all would make way");
    wire.up();
    assert_eq!(wire.drain(), "send 1, ping 1");
    assert_eq!(wire.outbox.room(), Amount { messages: 127, bytes: 2_046 });
}

#[test]
fn what_was_transmitted_is_never_evicted() {
    let config = OutboxConfig {
        max_messages: 1,
        window_messages: 1,
        overflow: Overflow::EvictOldest,
        ..small()
    };
    let mut wire = World::with(config);
    wire.up();
    wire.push("a", Received);
    wire.drain();
    wire.down();
    let error = wire.outbox.push(wire.now, "b".into(), PushOptions::default()).unwrap_err();
    assert_eq!((error.reason, wire.outbox.room().messages), (Refused::Full, 0));
}

#[test]
fn room_is_there_as_soon_as_a_failure_is_reported() {
    let mut wire = World::with(OutboxConfig { max_messages: 1, window_messages: 1, ..small() });
    wire.push("a", Received);
    wire.cancel(1);
    assert_eq!(wire.try_push("b"), Err(Refused::Full));
    assert_eq!(wire.drain(), "failed 1 Cancelled NotSent");
    assert_eq!(wire.try_push("b"), Ok(seq(2)));
}

// ---- Window and order ---------------------------------------------------------------------------

#[test]
fn the_window_bounds_messages_in_flight() {
    let mut wire = World::with(OutboxConfig { window_messages: 2, ..small() });
    wire.push_many(3, Acked);
    wire.up();
    assert_eq!(wire.drain(), "send 1, send 2");
    wire.acked(Ack::One(seq(1)));
    assert_eq!(wire.drain(), "delivered 1, send 3");
}

#[test]
fn the_window_bounds_bytes_in_flight() {
    let mut wire = World::with(OutboxConfig { window_bytes: 15, ..small() });
    wire.push("12345678", Acked);
    wire.push("12345678", Acked);
    wire.push("1", Acked);
    wire.up();
    // The third would fit, but order is order.
    assert_eq!(wire.drain(), "send 1");
    wire.acked(Ack::One(seq(1)));
    assert_eq!(wire.drain(), "delivered 1, send 2, send 3");
}

/// H52: one after the other, never each on its own.
#[test]
fn a_window_of_one_sends_one_at_a_time() {
    let mut wire = World::with(OutboxConfig { window_messages: 1, ..small() });
    wire.push_many(2, Received);
    wire.up();
    assert_eq!(wire.drain(), "send 1, ping 1");
    wire.pong(1);
    assert_eq!(wire.drain(), "delivered 1, send 2, ping 2");
}

#[test]
fn what_was_acked_out_of_order_takes_up_window_until_it_is_reported() {
    let mut wire = World::with(OutboxConfig { window_messages: 2, ..small() });
    wire.push_many(3, Acked);
    wire.up();
    assert_eq!(wire.drain(), "send 1, send 2");
    wire.acked(Ack::One(seq(2)));
    assert_eq!(wire.drain(), "");
    wire.acked(Ack::One(seq(1)));
    assert_eq!(wire.drain(), "delivered 1-2, send 3");
}

#[test]
fn a_blocked_wire_gets_no_frame_and_everything_else_comes() {
    let mut wire = World::new();
    wire.push_many(2, Received);
    wire.up();
    wire.cancel(1);
    assert_eq!(wire.drain_blocked(), "failed 1 Cancelled NotSent");
    assert_eq!(wire.drain(), "send 2, ping 2");
}

/// H49: the link is gone between the event and the poll, so nothing is owed to it.
#[test]
fn what_was_not_polled_before_the_link_died_is_not_sent() {
    let mut wire = World::new();
    wire.push_many(3, Received);
    wire.up();
    assert_eq!(wire.poll(Wire::Ready), "send 1");
    wire.down();
    assert_eq!(wire.drain(), "");
    assert_eq!(wire.outbox.state(), OutboxState::Down);
}

// ---- Reconnect ----------------------------------------------------------------------------------

/// H28: what was being sent when the link died is still here.
#[test]
fn a_reconnect_replays_in_order_before_anything_new() {
    let mut wire = World::new();
    wire.push_many(3, Received);
    wire.up();
    assert_eq!(wire.drain(), "send 1, send 2, send 3, ping 3");
    wire.down();
    wire.push("new", Received);
    assert_eq!((wire.outbox.queued(), wire.outbox.in_flight().messages), (4, 0));
    wire.up();
    wire.answer_first_ping();
    assert_eq!(wire.drain(), "send 1, ping 1");
    wire.pong(1);
    assert_eq!(wire.drain(), "delivered 1, send 2, send 3, send 4, ping 4");
}

/// H38: neither reversed nor at the end of the queue.
#[test]
fn a_second_disconnect_in_the_middle_of_a_replay_keeps_the_order() {
    let mut wire = World::new();
    wire.push_many(5, Acked);
    wire.up();
    assert_eq!(wire.drain(), "send 1, send 2, send 3, send 4, send 5");
    for _ in 0..2 {
        wire.down();
        wire.up();
        wire.answer_first_ping();
        assert_eq!(wire.poll(Wire::Ready), "send 1");
        wire.acked(Ack::UpTo(seq(0)));
    }
    wire.acked(Ack::One(seq(1)));
    assert_eq!(wire.poll(Wire::Ready), "delivered 1");
    assert_eq!(wire.poll(Wire::Ready), "send 2");
    assert_eq!(wire.poll(Wire::Ready), "send 3");
    wire.down();
    wire.push("new", Acked);
    wire.up();
    wire.answer_first_ping();
    assert_eq!(wire.drain(), "send 2");
    wire.acked(Ack::One(seq(2)));
    assert_eq!(wire.drain(), "delivered 2, send 3, send 4, send 5, send 6");
}

/// H44: while the link is up, an answer that is late is waited for; nothing is sent a second time.
#[test]
fn nothing_is_transmitted_twice_on_one_attempt() {
    let mut wire = World::new();
    wire.push_many(2, Acked);
    wire.up();
    assert_eq!(wire.drain(), "send 1, send 2");
    wire.wait(HOUR);
    assert_eq!(wire.drain(), "ping 2");
    wire.wait(HOUR);
    // The ack is read in the same wake-up in which the clock runs out: it counts.
    wire.acked(Ack::UpTo(seq(2)));
    assert_eq!(wire.drain(), "delivered 1-2");
}

#[test]
fn an_attempt_that_is_over_does_not_come_up_again() {
    let mut wire = World::new();
    wire.push("a", Acked);
    wire.up();
    wire.drain();
    wire.down();
    wire.event(OutboxEvent::Up(wire.attempt));
    assert_eq!((wire.outbox.state(), wire.outbox.stats().stale), (OutboxState::Down, 1));
    wire.event(OutboxEvent::Acked(wire.attempt, Ack::One(seq(1))));
    assert_eq!(wire.drain(), "");
    wire.up();
    wire.event(OutboxEvent::Up(Attempt::new(1)));
    wire.answer_first_ping();
    assert_eq!(wire.drain(), "send 1");
    wire.cancel(1);
    assert_eq!(wire.drain(), "failed 1 Cancelled MaybeDelivered");
}

#[test]
fn an_attempt_that_is_up_may_be_said_to_be_up_again() {
    let mut wire = World::new();
    wire.push("a", Acked);
    wire.up();
    wire.drain();
    let before = wire.outbox.view();
    wire.event(OutboxEvent::Up(wire.attempt));
    assert_eq!((wire.outbox.view(), wire.outbox.stats().stale), (before, 0));
}

/// H41
#[test]
fn a_pong_acquits_what_was_settled_before_its_ping_and_the_next_head_is_blamed_again() {
    let mut wire = World::with(OutboxConfig { suspect_limit: 1, ..small() });
    wire.push("a", Written);
    wire.push("b", Received);
    wire.up();
    assert_eq!(wire.drain(), "send 1, send 2, ping 2");
    wire.flushed();
    wire.pong_last();
    assert_eq!(wire.drain(), "delivered 1-2");
    wire.push("c", Received);
    assert_eq!(wire.drain(), "send 3, ping 3");
    wire.down();
    assert_eq!(wire.outbox.suspected(), Some(seq(3)));
}

/// X1: a peer may say a pong twice. The second says nothing of what was sent again since the first.
#[test]
fn a_pong_that_comes_twice_starts_no_ack_clock_of_what_was_sent_between() {
    let mut wire = World::new();
    wire.push("a", Acked);
    wire.up();
    assert_eq!(wire.drain(), "send 1");
    wire.wait(small().receipt_repeat_interval);
    assert_eq!(wire.drain(), "ping 1");
    wire.pong(1);
    wire.nacked(Ack::Next, Nack::Transient);
    wire.wait(small().nack_delay);
    wire.pong(1);
    assert_eq!(wire.drain(), "send 1");
    assert_eq!(wire.deadline().map(|(_, timer)| timer), Some(Timer::Receipt));
}

/// X1: as many pongs are outdated as pings were on the way when the message was called back.
#[test]
fn each_ping_before_a_retransmission_has_a_pong_that_says_nothing_of_it() {
    let mut wire = World::new();
    wire.push("a", Acked);
    wire.up();
    assert_eq!(wire.drain(), "send 1");
    for _ in 0..2 {
        wire.wait(small().receipt_repeat_interval);
        assert_eq!(wire.drain(), "ping 1");
    }
    wire.nacked(Ack::Next, Nack::Transient);
    wire.wait(small().nack_delay);
    assert_eq!(wire.drain(), "send 1");
    let timer = |wire: &World| wire.deadline().map(|(_, timer)| timer);
    for _ in 0..2 {
        wire.pong(1);
        assert_eq!(timer(&wire), Some(Timer::Receipt));
    }
    wire.wait(small().receipt_repeat_interval);
    assert_eq!(wire.drain(), "ping 1");
    wire.pong(1);
    assert_eq!(timer(&wire), Some(Timer::Ack));
}

/// L4: a pong that comes late takes nothing back of what a later one has shown.
#[test]
fn a_pong_of_an_older_ping_does_not_stop_the_ack_clock() {
    let mut wire = World::new();
    wire.push("a", Received);
    wire.up();
    assert_eq!(wire.drain(), "send 1, ping 1");
    wire.push("b", Acked);
    assert_eq!(wire.drain(), "send 2");
    wire.wait(small().receipt_repeat_interval);
    assert_eq!(wire.drain(), "ping 2");
    wire.pong(2);
    let clock = Some((wire.now + small().ack_limit, Timer::Ack));
    assert_eq!(wire.deadline(), clock);
    wire.pong(1);
    assert_eq!(wire.deadline(), clock);
}

/// L2
#[test]
fn a_ping_whose_number_is_of_a_message_that_is_gone_is_a_receipt_of_what_goes_again() {
    let mut wire = World::with(large());
    wire.push_many(67, Received);
    wire.up();
    assert!(wire.drain().ends_with("send 67, ping 67"));
    wire.nacked_from(1, Nack::Transient);
    for gone in 2..=67 {
        wire.cancel(gone);
    }
    assert_eq!(wire.count_failed(), 66);
    assert_eq!(wire.outbox.footprint().0, 1, "not even their places are left");
    wire.wait(large().nack_delay);
    wire.pong(67);
    assert_eq!(wire.drain(), "send 1, ping 67");
    wire.pong(67);
    assert_eq!(wire.drain(), "delivered 1");
}

/// L2: what is in flight behind a refused message is waited for, so its receipt must count.
#[test]
fn a_ping_in_the_pause_after_a_second_refusal_is_a_receipt_of_what_is_in_flight() {
    let mut wire = World::new();
    for level in [Acked, Received, Acked, Acked] {
        wire.push("x", level);
    }
    wire.up();
    assert_eq!(wire.drain(), "send 1, send 2, send 3, send 4, ping 4");
    wire.nacked_from(1, Nack::Transient);
    wire.pong(4);
    wire.wait(small().nack_delay);
    for sent in ["send 1", "send 2", "send 3"] {
        assert_eq!(wire.poll(Wire::Ready), sent);
    }
    wire.acked(Ack::One(seq(1)));
    wire.nacked(Ack::One(seq(3)), Nack::Transient);
    assert_eq!(wire.drain(), "delivered 1, ping 4");
    wire.pong(4);
    assert_eq!(wire.drain(), "delivered 2");
}

/// H41: while the head of a probing link is asked after, what comes behind it does not go.
#[test]
fn a_probe_that_goes_on_after_a_refusal_waits_for_its_pong_again() {
    let mut wire = World::new();
    wire.push_many(2, Received);
    wire.up();
    assert_eq!(wire.drain(), "send 1, send 2, ping 2");
    wire.down();
    wire.up();
    wire.answer_first_ping();
    assert_eq!(wire.drain(), "send 1, ping 1");
    wire.cancel(1);
    wire.nacked_from(1, Nack::Transient);
    assert_eq!(wire.drain(), "failed 1 Cancelled MaybeDelivered");
    assert_eq!(wire.outbox.state(), OutboxState::Probing { answered: false });
    wire.pong_last();
    assert_eq!(wire.drain(), "send 2, ping 2");
}

/// H40: an ack, a nack and a pong of an old connection say nothing of the new one.
#[test]
fn events_of_another_attempt_change_nothing() {
    let mut wire = World::new();
    wire.push_many(2, Acked);
    wire.up();
    wire.drain();
    let old = wire.attempt;
    wire.down();
    wire.up();
    wire.answer_first_ping();
    assert_eq!(wire.drain(), "send 1");
    let before = wire.outbox.view();
    for attempt in [old, Attempt::NONE, Attempt::new(9)] {
        wire.event(OutboxEvent::Acked(attempt, Ack::Next));
        wire.event(OutboxEvent::Nacked(attempt, Ack::Next, Nack::Permanent));
        wire.event(OutboxEvent::Ponged(attempt, seq(2)));
        wire.event(OutboxEvent::Flushed(attempt));
        wire.event(OutboxEvent::Paused(attempt));
        wire.event(OutboxEvent::Resumed(attempt));
    }
    assert_eq!((wire.outbox.view(), wire.outbox.stats().stale), (before, 18));
}

// ---- Budget -------------------------------------------------------------------------------------

/// H24: not being connected costs a message nothing.
#[test]
fn ten_hours_of_outage_charge_nothing() {
    for level in [Written, Received, Acked] {
        let mut wire = World::with(OutboxConfig { retry_budget: 0, ..small() });
        wire.push_many(3, level);
        for _ in 0..600 {
            wire.up();
            wire.answer_first_ping();
            assert!(wire.drain().starts_with("send 1"));
            wire.down();
            wire.wait(MINUTE);
        }
        assert_eq!(wire.outbox.stats().charges, 0);
        wire.up();
        wire.answer_first_ping();
        wire.run_honestly();
        assert_eq!(wire.outbox.stats().delivered, 3, "{level:?}");
    }
}

/// H25: a link that flaps all the time spends no budget either, whatever the ack limit.
#[test]
fn a_peer_that_upgrades_and_then_is_silent_charges_nothing() {
    let mut wire = World::with(OutboxConfig { retry_budget: 1, ..small() });
    wire.push("a", Acked);
    for _ in 0..100 {
        wire.up();
        wire.drain();
        wire.wait(HOUR);
        assert!(!wire.drain().contains("overdue"));
        wire.down();
    }
    assert_eq!((wire.outbox.charges(), wire.outbox.is_settled()), (0, false));
}

/// H16, H26: the last failure says that it is the last, why, and what may have become of the message.
#[test]
fn a_budget_of_five_makes_six_transmissions() {
    let mut wire = World::with(OutboxConfig { retry_budget: 5, ..small() });
    wire.push("a", Acked);
    wire.up();
    for charges in 1..=5 {
        assert_eq!(wire.drain(), "send 1");
        wire.nacked(Ack::One(seq(1)), Nack::Transient);
        assert_eq!(wire.outbox.charges(), charges);
        wire.wait(small().nack_delay_cap);
    }
    assert_eq!(wire.drain(), "send 1");
    wire.nacked(Ack::One(seq(1)), Nack::Transient);
    assert_eq!(wire.drain(), "failed 1 Exhausted MaybeDelivered");
    assert_eq!((wire.outbox.stats().transmits, wire.outbox.stats().replays), (6, 5));
}

#[test]
fn the_next_head_starts_with_a_whole_budget() {
    let mut wire = World::with(OutboxConfig { retry_budget: 1, ..small() });
    wire.push_many(2, Acked);
    wire.up();
    wire.drain();
    wire.nacked(Ack::One(seq(1)), Nack::Transient);
    wire.acked(Ack::UpTo(seq(1)));
    assert_eq!((wire.outbox.watermark(), wire.outbox.charges()), (seq(2), 0));
    wire.nacked(Ack::One(seq(2)), Nack::Transient);
    assert_eq!((wire.drain(), wire.outbox.charges()), ("delivered 1".into(), 1));
}

/// H44: the message goes again on the next link, never a second time on this one.
#[test]
fn an_ack_withheld_after_the_pong_charges_the_head_and_ends_the_attempt() {
    let mut wire = World::with(OutboxConfig { retry_budget: 1, ..small() });
    wire.push_many(2, Acked);
    for charges in [0, 1] {
        wire.up();
        assert_eq!(wire.drain(), "send 1, send 2", "an end of our own making is no suspicion");
        wire.wait(small().receipt_repeat_interval);
        assert_eq!(wire.drain(), "ping 2");
        wire.wait(HOUR);
        assert_eq!(wire.drain(), "ping 2", "silence proves nothing");
        wire.pong_last();
        assert_eq!(wire.deadline(), Some((wire.now + small().ack_limit, Timer::Ack)));
        wire.wait(small().ack_limit - MILLISECOND);
        assert_eq!((wire.drain(), wire.outbox.charges()), (String::new(), charges));
        wire.wait(MILLISECOND);
        if charges == 0 {
            assert_eq!((wire.drain(), wire.outbox.charges()), ("overdue".into(), 1));
            wire.down();
        }
    }
    assert_eq!(wire.drain(), "overdue, failed 1 Exhausted MaybeDelivered");
}

/// The peer may have nacked the first transmission long before it answered the ping behind it.
#[test]
fn a_pong_of_a_ping_before_a_retransmission_says_nothing_of_it() {
    let mut wire = World::new();
    wire.push("a", Acked);
    wire.up();
    wire.drain();
    wire.wait(small().receipt_repeat_interval);
    assert_eq!(wire.drain(), "ping 1");
    wire.nacked(Ack::Next, Nack::Transient);
    wire.wait(small().nack_delay);
    assert_eq!(wire.drain(), "send 1");
    wire.pong_last();
    assert_ne!(wire.deadline().map(|(_, timer)| timer), Some(Timer::Ack));
    wire.wait(small().receipt_repeat_interval);
    assert_eq!((wire.drain(), wire.outbox.charges()), ("ping 1".into(), 1));
    wire.pong_last();
    assert_eq!(wire.deadline(), Some((wire.now + small().ack_limit, Timer::Ack)));
}

#[test]
fn a_pong_of_a_ping_between_retransmissions_says_nothing_of_those_behind_it() {
    let mut wire = World::new();
    wire.push_many(2, Acked);
    wire.up();
    wire.drain();
    wire.wait(small().receipt_repeat_interval);
    assert_eq!(wire.drain(), "ping 2");
    wire.pong_last();
    wire.nacked_from(1, Nack::Transient);
    wire.wait(small().nack_delay);
    assert_eq!(wire.poll(Wire::Ready), "send 1");
    wire.wait(small().receipt_repeat_interval);
    assert_eq!(wire.drain(), "ping 2, send 2");
    wire.acked(Ack::Next);
    wire.pong_last();
    assert_ne!(wire.deadline().map(|(_, timer)| timer), Some(Timer::Ack));
}

#[test]
fn nothing_is_sent_on_an_attempt_whose_end_was_asked_for() {
    let mut wire = World::with(OutboxConfig { window_messages: 1, ..small() });
    wire.push("a", Acked);
    wire.up();
    wire.drain();
    wire.wait(small().receipt_repeat_interval);
    wire.drain();
    wire.pong_last();
    wire.wait(small().ack_limit);
    wire.acked(Ack::Next);
    wire.push("b", Acked);
    assert_eq!(wire.drain(), "overdue, delivered 1");
    wire.wait(HOUR);
    assert_eq!(wire.drain(), "");
}

#[test]
fn one_transmission_is_charged_once() {
    let overdue = || {
        let mut wire = World::new();
        wire.push("a", Acked);
        wire.up();
        wire.drain();
        wire.wait(small().receipt_repeat_interval);
        wire.drain();
        wire.pong_last();
        wire.wait(small().ack_limit);
        assert_eq!(wire.outbox.charges(), 1);
        wire
    };
    let mut nacked = overdue();
    nacked.nacked(Ack::Next, Nack::Transient);
    assert_eq!(nacked.outbox.charges(), 1);
    let mut accused = overdue();
    accused.event(OutboxEvent::Down { accused: true });
    assert_eq!(accused.outbox.charges(), 1);
    let mut dead = overdue();
    dead.down();
    assert_eq!((dead.outbox.charges(), dead.outbox.suspected()), (1, None));
}

#[test]
fn where_nothing_can_ping_acks_that_do_not_move_end_the_attempt_without_a_charge() {
    let config = OutboxConfig { can_ping: false, level: Acked, retry_budget: 0, ..small() };
    let mut wire = World::with(config);
    wire.push_many(2, Acked);
    wire.up();
    assert_eq!(wire.drain(), "send 1, send 2");
    wire.wait(small().ack_limit - MILLISECOND);
    wire.acked(Ack::Next);
    assert_eq!(wire.drain(), "delivered 1");
    wire.wait(small().ack_limit - MILLISECOND);
    assert_eq!(wire.drain(), "");
    wire.wait(MILLISECOND);
    assert_eq!(wire.drain(), "overdue");
    assert_eq!((wire.outbox.charges(), wire.outbox.stats().charges), (0, 0));
}

/// H53: a driver that does not read cannot hear acks, so their absence proves nothing.
#[test]
fn pausing_stops_the_ack_clock() {
    let mut wire = World::new();
    wire.push("a", Acked);
    wire.up();
    wire.drain();
    wire.wait(small().receipt_repeat_interval);
    wire.drain();
    wire.pong_last();
    wire.wait(small().ack_limit - MILLISECOND);
    wire.event(OutboxEvent::Paused(wire.attempt));
    wire.wait(HOUR);
    assert_eq!(wire.drain().replace("ping 1", ""), "");
    wire.event(OutboxEvent::Resumed(wire.attempt));
    wire.wait(small().ack_limit - MILLISECOND);
    assert!(!wire.drain().contains("overdue"));
    wire.wait(MILLISECOND);
    assert!(wire.drain().contains("overdue"));
}

#[test]
fn an_accusation_charges_a_head_that_was_alone() {
    let mut wire = World::with(OutboxConfig { retry_budget: 1, ..small() });
    wire.push("a", Acked);
    wire.up();
    wire.drain();
    wire.event(OutboxEvent::Down { accused: true });
    assert_eq!((wire.outbox.charges(), wire.drain()), (1, String::new()));
    wire.up();
    wire.answer_first_ping();
    assert_eq!(wire.drain(), "send 1");
    wire.event(OutboxEvent::Down { accused: true });
    assert_eq!(wire.drain(), "failed 1 Exhausted MaybeDelivered");
}

#[test]
fn an_accusation_with_others_in_flight_charges_nobody() {
    let mut wire = World::with(OutboxConfig { retry_budget: 0, ..small() });
    wire.push_many(2, Acked);
    wire.up();
    wire.drain();
    wire.event(OutboxEvent::Down { accused: true });
    assert_eq!((wire.outbox.stats().charges, wire.drain()), (0, String::new()));
}

/// H41: a message that is settled may still be the one that kills the connection.
#[test]
fn a_head_is_not_blamed_while_something_settled_is_on_the_same_wire() {
    let settle: [fn(&mut World); 4] = [
        |wire| wire.flushed(),
        |wire| wire.cancel(1),
        |wire| wire.wait(SECOND),
        |wire| drop(wire.drain()),
    ];
    for (index, settle) in settle.iter().enumerate() {
        for level in [Written, Received, Acked] {
            for accused in [true, false] {
                let config = OutboxConfig {
                    retry_budget: 0,
                    suspect_limit: 1,
                    on_suspected: OnSuspected::Settle,
                    ..small()
                };
                let mut wire = World::with(config);
                wire.push_mortal("poison", SECOND, level);
                wire.push("innocent", Acked);
                wire.up();
                wire.drain();
                settle(&mut wire);
                wire.event(OutboxEvent::Down { accused });
                let drained = wire.drain();
                assert!(!drained.contains("failed 2"), "{index} {level:?}: {drained}");
                assert_eq!(wire.outbox.suspected(), None);
            }
        }
    }
}

/// H41: what goes again after a nack is not alone on the wire with what went before.
#[test]
fn a_head_is_not_blamed_for_what_was_settled_before_it_was_sent_again() {
    for accused in [true, false] {
        let config = OutboxConfig {
            retry_budget: 1,
            suspect_limit: 1,
            on_suspected: OnSuspected::Settle,
            ..small()
        };
        let mut wire = World::with(config);
        wire.push("innocent", Acked);
        wire.push("poison", Written);
        wire.up();
        assert_eq!(wire.drain(), "send 1, send 2");
        wire.nacked(Ack::One(seq(1)), Nack::Transient);
        wire.flushed();
        wire.wait(small().nack_delay);
        assert_eq!(wire.drain(), "send 1");
        wire.event(OutboxEvent::Down { accused });
        assert_eq!(wire.drain(), "", "{accused}");
    }
}

#[test]
fn a_pong_acquits_what_was_settled_before() {
    let mut wire = World::with(OutboxConfig { suspect_limit: 1, ..small() });
    wire.push("a", Received);
    wire.up();
    assert_eq!(wire.drain(), "send 1, ping 1");
    wire.cancel(1);
    wire.push("b", Acked);
    assert_eq!(wire.drain(), "failed 1 Cancelled MaybeDelivered, send 2");
    wire.pong(1);
    wire.down();
    assert_eq!(wire.outbox.suspected(), Some(seq(2)));
}

/// H41: the pong of a ping that is older than what went again acquits nothing of that.
#[test]
fn a_pong_of_a_ping_before_a_retransmission_acquits_nothing_of_it() {
    let mut wire = World::with(OutboxConfig { suspect_limit: 1, ..small() });
    wire.push("innocent", Acked);
    wire.push("poison", Received);
    wire.up();
    assert_eq!(wire.drain(), "send 1, send 2, ping 2");
    wire.nacked_from(1, Nack::Transient);
    wire.wait(small().nack_delay);
    assert_eq!(wire.poll(Wire::Ready), "send 1");
    assert_eq!(wire.poll(Wire::Ready), "send 2");
    wire.cancel(2);
    wire.pong(2);
    wire.down();
    assert_eq!(wire.outbox.suspected(), None);
}

// ---- Nacks --------------------------------------------------------------------------------------

/// H30: a permanent error is not retried.
#[test]
fn a_permanent_nack_rejects_at_once() {
    let mut wire = World::new();
    wire.push_many(2, Acked);
    wire.up();
    wire.drain();
    wire.nacked(Ack::Next, Nack::Permanent);
    assert_eq!(wire.drain(), "failed 1 Rejected MaybeDelivered");
    assert_eq!((wire.outbox.state(), wire.outbox.stats().charges), (OutboxState::Open, 0));
    wire.acked(Ack::Next);
    assert_eq!(wire.drain(), "delivered 2");
}

/// H30: a refusal for the moment is retried after a pause. H44: but not while answers are out.
#[test]
fn after_a_transient_nack_nothing_goes_until_all_are_answered_and_the_delay_is_over() {
    let mut wire = World::with(OutboxConfig { window_messages: 3, ..small() });
    wire.push_many(4, Acked);
    wire.up();
    assert_eq!(wire.drain(), "send 1, send 2, send 3");
    wire.nacked(Ack::Next, Nack::Transient);
    let resume_at = wire.now + small().nack_delay;
    assert_eq!(wire.outbox.state(), OutboxState::Held { resume_at });
    assert_eq!(wire.deadline(), Some((resume_at, Timer::Nack)));
    wire.wait(small().nack_delay);
    assert_eq!(wire.drain(), "", "two are not answered");
    wire.acked(Ack::One(seq(2)));
    assert_eq!(wire.drain(), "");
    wire.acked(Ack::One(seq(3)));
    assert_eq!(wire.drain(), "send 1");
    wire.acked(Ack::One(seq(1)));
    assert_eq!(wire.drain(), "delivered 1-3, send 4");
}

/// H44: the peer may still come to what was cancelled in flight.
#[test]
fn after_a_transient_nack_nothing_goes_until_what_was_cancelled_is_answered_too() {
    let mut wire = World::with(OutboxConfig { window_messages: 3, ..small() });
    wire.push_many(4, Acked);
    wire.up();
    assert_eq!(wire.drain(), "send 1, send 2, send 3");
    wire.nacked(Ack::One(seq(2)), Nack::Transient);
    wire.cancel(3);
    assert_eq!(wire.drain(), "failed 3 Cancelled MaybeDelivered");
    wire.wait(small().nack_delay);
    assert_eq!(wire.drain(), "", "one message and one that was cancelled are not answered");
    wire.acked(Ack::One(seq(1)));
    assert_eq!(wire.drain(), "delivered 1");
    wire.acked(Ack::One(seq(3)));
    assert_eq!(wire.drain(), "send 2, send 4");
}

#[test]
fn the_nack_delay_doubles_up_to_its_cap_and_starts_afresh_with_the_next_head() {
    let mut wire = World::with(OutboxConfig { retry_budget: 9, ..small() });
    wire.push("a", Acked);
    wire.up();
    for delay in [10, 20, 40, 40, 40] {
        assert_eq!(wire.drain(), "send 1");
        wire.nacked(Ack::Next, Nack::Transient);
        wire.wait(Duration::from_millis(delay) - Duration::from_micros(1));
        assert_eq!(wire.drain(), "", "{delay}");
        wire.wait(Duration::from_micros(1));
    }
    assert_eq!(wire.drain(), "send 1");
    wire.acked(Ack::Next);
    wire.push("b", Acked);
    assert_eq!(wire.drain(), "delivered 1, send 2");
    wire.nacked(Ack::Next, Nack::Transient);
    wire.wait(Duration::from_millis(10));
    assert_eq!(wire.drain(), "send 2");
}

#[test]
fn a_nack_of_another_than_the_head_charges_nobody_and_the_nacked_one_goes_first() {
    let mut wire = World::with(OutboxConfig { retry_budget: 0, window_messages: 2, ..small() });
    wire.push_many(3, Acked);
    wire.up();
    wire.drain();
    wire.nacked(Ack::One(seq(2)), Nack::Transient);
    wire.nacked(Ack::One(seq(2)), Nack::Transient);
    wire.acked(Ack::One(seq(1)));
    wire.wait(small().nack_delay);
    assert_eq!(wire.drain(), "delivered 1, send 2, send 3");
    assert_eq!(wire.outbox.stats().charges, 0);
}

#[test]
fn the_delay_outlives_the_link() {
    let mut wire = World::new();
    wire.push("a", Acked);
    wire.up();
    wire.drain();
    wire.nacked(Ack::Next, Nack::Transient);
    let resume_at = wire.now + small().nack_delay;
    wire.down();
    wire.up();
    assert_eq!(wire.outbox.state(), OutboxState::Held { resume_at });
    assert_eq!(wire.drain(), "");
    wire.wait(small().nack_delay);
    assert_eq!(wire.drain(), "send 1");
}

#[test]
fn an_answer_to_a_settled_message_is_a_duplicate() {
    let mut wire = World::new();
    wire.push_many(2, Acked);
    wire.up();
    wire.drain();
    wire.acked(Ack::One(seq(1)));
    for _ in 0..2 {
        wire.acked(Ack::One(seq(1)));
        wire.nacked(Ack::One(seq(1)), Nack::Transient);
        wire.nacked(Ack::UpTo(seq(1)), Nack::Permanent);
    }
    assert_eq!((wire.outbox.stats().duplicates, wire.outbox.stats().violations), (6, 0));
    assert_eq!(wire.drain(), "delivered 1");
}

// ---- Suspicion ----------------------------------------------------------------------------------

#[test]
fn after_a_death_the_head_goes_alone_once_a_first_ping_was_answered() {
    let mut wire = World::new();
    wire.push_many(3, Acked);
    wire.up();
    assert_eq!(wire.drain(), "send 1, send 2, send 3");
    wire.down();
    wire.up();
    assert_eq!(wire.outbox.state(), OutboxState::Probing { answered: false });
    assert_eq!(wire.drain(), "ping 0");
    wire.wait(small().receipt_repeat_interval);
    assert_eq!(wire.drain(), "ping 0", "it is asked again, and the head waits");
    wire.pong_last();
    assert_eq!(wire.drain(), "send 1");
    wire.acked(Ack::Next);
    assert_eq!(wire.outbox.state(), OutboxState::Open);
    assert_eq!(wire.drain(), "delivered 1, send 2, send 3");
}

#[test]
fn a_death_with_nothing_in_flight_is_no_suspicion() {
    let mut wire = World::new();
    wire.up();
    wire.push("a", Acked);
    wire.down();
    wire.up();
    assert_eq!(wire.outbox.state(), OutboxState::Open);
}

#[test]
fn any_answer_to_the_head_ends_the_suspicion() {
    for nack in [Nack::Permanent, Nack::Transient] {
        let mut wire = World::new();
        wire.push_many(2, Acked);
        wire.up();
        wire.drain();
        wire.down();
        wire.up();
        wire.answer_first_ping();
        assert_eq!(wire.drain(), "send 1");
        wire.nacked(Ack::Next, nack);
        wire.wait(small().nack_delay);
        assert!(wire.drain().ends_with("send 2"), "{nack:?}");
    }
}

/// H41: the poison at the head is named, and nothing is thrown away for it unless one says so.
#[test]
fn a_head_that_connections_keep_dying_with_is_suspected_and_waited_for() {
    let mut wire = World::with(OutboxConfig { suspect_limit: 3, retry_budget: 0, ..small() });
    wire.push_many(2, Acked);
    wire.up();
    wire.drain();
    wire.down();
    for death in 1..=5 {
        wire.up();
        wire.answer_first_ping();
        assert_eq!(wire.drain(), "send 1");
        wire.down();
        assert_eq!(wire.outbox.suspected(), (death >= 3).then_some(seq(1)), "{death}");
    }
    assert_eq!(wire.outbox.stats().charges, 0);
    wire.cancel(1);
    assert_eq!(wire.outbox.suspected(), None);
    assert_eq!(wire.drain(), "failed 1 Cancelled MaybeDelivered");
    wire.up();
    wire.answer_first_ping();
    assert_eq!(wire.drain(), "send 2");
}

/// H41: or it is settled, and it alone.
#[test]
fn a_suspected_head_may_be_settled() {
    let config = OutboxConfig { suspect_limit: 2, on_suspected: OnSuspected::Settle, ..small() };
    let mut wire = World::with(config);
    wire.push_many(3, Acked);
    wire.up();
    wire.drain();
    wire.down();
    for _ in 0..2 {
        wire.up();
        wire.answer_first_ping();
        assert_eq!(wire.drain(), "send 1");
        wire.down();
    }
    assert_eq!(wire.drain(), "failed 1 Suspected MaybeDelivered");
    wire.up();
    wire.answer_first_ping();
    assert_eq!(wire.drain(), "send 2");
    wire.acked(Ack::Next);
    assert_eq!(wire.drain(), "delivered 2, send 3");
}

#[test]
fn deaths_before_the_head_was_sent_do_not_count() {
    let mut wire = World::with(OutboxConfig { suspect_limit: 1, ..small() });
    wire.push_many(2, Acked);
    wire.up();
    wire.drain();
    for _ in 0..10 {
        wire.down();
        wire.up();
        assert_eq!(wire.drain(), "ping 0");
    }
    assert_eq!(wire.outbox.suspected(), None);
}

// ---- Settlements --------------------------------------------------------------------------------

#[test]
fn deliveries_are_reported_as_ranges_in_order() {
    let mut wire = World::new();
    wire.push_many(5, Acked);
    wire.up();
    wire.drain();
    wire.acked(Ack::One(seq(3)));
    wire.acked(Ack::One(seq(2)));
    assert_eq!(wire.drain(), "", "reported when those before it are settled");
    wire.cancel(1);
    assert_eq!(wire.drain(), "failed 1 Cancelled MaybeDelivered, delivered 2-3");
    wire.cancel(4);
    wire.acked(Ack::One(seq(5)));
    assert_eq!(wire.drain(), "failed 4 Cancelled MaybeDelivered, delivered 5");
}

#[test]
fn a_failure_comes_at_once_and_with_its_body() {
    let mut wire = World::new();
    wire.push_many(2, Acked);
    wire.cancel(2);
    let OutboxOutput::Failed(failed) = wire.outbox.poll(Wire::Blocked) else { panic!() };
    assert_eq!(failed.id, name(ID, 2));
    assert_eq!((failed.reason, failed.fate), (FailReason::Cancelled, Fate::NotSent));
    assert_eq!(failed.body, "2".into());
}

/// H43: acked, expired and cancelled in one and the same moment.
#[test]
fn a_message_settles_once_whatever_comes_together() {
    type Cause = fn(&mut World);
    let causes: [Cause; 5] = [
        |wire| wire.acked(Ack::UpTo(seq(1))),
        |wire| wire.cancel(1),
        |wire| wire.wait(SECOND),
        |wire| wire.nacked(Ack::One(seq(1)), Nack::Permanent),
        |wire| wire.event(OutboxEvent::Close { deadline: wire.now }),
    ];
    for first in causes {
        for second in causes {
            for third in causes {
                let mut wire = World::new();
                wire.push_mortal("a", SECOND, Acked);
                wire.up();
                wire.drain();
                for cause in [first, second, third] {
                    cause(&mut wire);
                }
                wire.wait(HOUR);
                wire.event(OutboxEvent::Close { deadline: wire.now });
                let drained = wire.drain();
                let settled =
                    drained.matches("failed").count() + drained.matches("delivered").count();
                assert_eq!(settled, 1, "{drained}");
            }
        }
    }
}

/// S1: also if the three mean the same message.
#[test]
fn evicting_expiring_and_cancelling_in_one_tick_loses_no_message_and_counts_none_twice() {
    type Cause = fn(&mut World, u64) -> usize;
    let evict: Cause = |wire, _| {
        // What has failed keeps its room until it is reported, so there may be nothing to evict.
        let pushed = wire.outbox.push(wire.now, "new".into(), PushOptions::default());
        pushed.map_or(0, |pushed| pushed.displaced.len())
    };
    let expire: Cause = |wire, _| {
        wire.event(OutboxEvent::Tick);
        0
    };
    let cancel: Cause = |wire, victim| {
        wire.cancel(victim);
        0
    };
    let orders = [
        [evict, expire, cancel],
        [evict, cancel, expire],
        [expire, evict, cancel],
        [expire, cancel, evict],
        [cancel, evict, expire],
        [cancel, expire, evict],
    ];
    for (order, victim) in orders.into_iter().flat_map(|order| [1, 2, 3].map(|n| (order, n))) {
        for drains in [false, true] {
            let config = OutboxConfig {
                max_messages: 3,
                window_messages: 3,
                overflow: Overflow::EvictOldest,
                ..small()
            };
            let mut wire = World::with(config);
            wire.push_mortal("mortal", SECOND, Received);
            wire.push("oldest", Received);
            wire.push_mortal("twin", SECOND, Received);
            wire.now = wire.now + SECOND;
            let (mut displaced, mut failed) = (0, 0);
            for cause in order {
                displaced += cause(&mut wire, victim);
                failed += if drains { wire.count_failed() } else { 0 };
                let stats = wire.outbox.stats();
                let settled = stats.failed.iter().sum::<u64>() + stats.evicted;
                assert_eq!(stats.accepted, settled + wire.outbox.queued() as u64);
            }
            failed += wire.count_failed();
            let stats = wire.outbox.stats();
            assert_eq!(stats.evicted, displaced as u64);
            let settled = displaced + failed;
            assert_eq!(stats.accepted as usize, settled + wire.outbox.queued());
            assert_eq!(wire.outbox.held().messages, wire.outbox.queued());
        }
    }
}

/// H54: a message that was handed over fails as one that may have arrived.
#[test]
fn the_fate_tells_what_may_have_arrived() {
    let mut wire = World::with(OutboxConfig { window_messages: 1, ..small() });
    wire.push_many(2, Received);
    wire.up();
    wire.drain();
    wire.down();
    wire.cancel(1);
    wire.cancel(2);
    assert_eq!(wire.drain(), "failed 1 Cancelled MaybeDelivered, failed 2 Cancelled NotSent");
}

// ---- Time to live -------------------------------------------------------------------------------

/// H35: it runs while disconnected, exactly, and never early, each message's for itself.
#[test]
fn a_time_to_live_runs_while_disconnected() {
    let mut wire = World::new();
    wire.push_mortal("a", SECOND, Received);
    assert_eq!(wire.deadline(), Some((wire.now + SECOND, Timer::Expiry)));
    wire.wait(SECOND - Duration::from_micros(1));
    wire.push_mortal("b", SECOND, Received);
    assert_eq!(wire.drain(), "");
    wire.wait(Duration::from_micros(1));
    assert_eq!(wire.drain(), "failed 1 Expired NotSent");
    wire.wait(SECOND - Duration::from_micros(2));
    assert_eq!(wire.drain(), "");
    wire.wait(Duration::from_micros(1));
    assert_eq!(wire.drain(), "failed 2 Expired NotSent");
    assert_eq!(wire.deadline(), None);
}

/// H35: a clock that runs backwards neither expires nor revives.
#[test]
fn a_clock_that_runs_backwards_is_taken_as_standing_still() {
    let mut wire = World::new();
    wire.wait(HOUR);
    wire.push_mortal("a", SECOND, Received);
    let now = std::mem::replace(&mut wire.now, Instant::ZERO);
    wire.event(OutboxEvent::Tick);
    wire.push_mortal("b", MINUTE, Received);
    wire.event(OutboxEvent::Tick);
    assert_eq!(
        (wire.drain(), wire.deadline()),
        (String::new(), Some((now + SECOND, Timer::Expiry)))
    );
    wire.now = now + SECOND;
    wire.event(OutboxEvent::Tick);
    assert_eq!(wire.drain(), "failed 1 Expired NotSent");
    assert_eq!(wire.deadline(), Some((now + MINUTE, Timer::Expiry)));
}

#[test]
fn deadlines_that_fall_may_come_late_by_a_32nd_and_never_early() {
    let mut wire = World::with(OutboxConfig { max_messages: 100, max_bytes: 999, ..small() });
    let ttl = |n: u64| Duration::from_micros(1_000_000 - n * 517);
    for n in 0..100 {
        wire.push_mortal("a", ttl(n), Received);
    }
    let begun = wire.now;
    let mut expired = 0;
    while let Some((at, _)) = wire.deadline() {
        wire.now = at;
        wire.event(OutboxEvent::Tick);
        for failed in wire.drain().split(", ") {
            let n: u64 = failed.split(' ').nth(1).unwrap().parse().unwrap();
            let lived = at.since(begun);
            assert!(lived >= ttl(n - 1) && lived <= ttl(n - 1) * 33 / 32, "{n}: {lived:?}");
            expired += 1;
        }
    }
    assert_eq!(expired, 100);
}

#[test]
fn one_in_flight_that_expires_settles_at_once_as_maybe_delivered() {
    let mut wire = World::new();
    wire.push_mortal("a", SECOND, Received);
    wire.up();
    wire.drain();
    wire.wait(SECOND);
    assert_eq!(wire.drain(), "failed 1 Expired MaybeDelivered");
    wire.pong(1);
    assert_eq!(wire.drain(), "");
}

#[test]
fn a_queued_message_that_expires_or_is_cancelled_is_never_sent() {
    let mut wire = World::new();
    wire.push_mortal("a", SECOND, Received);
    wire.push_many(2, Received);
    wire.cancel(2);
    wire.wait(SECOND);
    wire.drain();
    wire.up();
    assert_eq!(wire.drain(), "send 3, ping 3");
}

#[test]
fn a_million_years_are_no_time_to_live() {
    let mut wire = World::new();
    wire.push_mortal("a", Duration::MAX, Received);
    assert_eq!(wire.deadline(), None);
    wire.now = Instant::NEVER;
    wire.event(OutboxEvent::Tick);
    assert_eq!(wire.drain(), "");
}

// ---- Positional acks and ghosts -----------------------------------------------------------------

#[test]
fn a_positional_ack_counts_only_messages_of_level_acked_in_the_order_of_transmission() {
    let mut wire = World::new();
    for level in [Written, Acked, Received, Acked] {
        wire.push("a", level);
    }
    wire.up();
    assert_eq!(wire.drain(), "send 1, send 2, send 3, send 4, ping 4");
    wire.flushed();
    assert_eq!(wire.drain(), "delivered 1");
    wire.acked(Ack::Next);
    assert_eq!(wire.drain(), "delivered 2");
    wire.pong(4);
    wire.acked(Ack::Next);
    assert_eq!(wire.drain(), "delivered 3-4");
}

/// H42
#[test]
fn a_cancelled_message_in_flight_keeps_its_place_for_positional_acks() {
    let mut wire = World::new();
    wire.push_many(2, Acked);
    wire.up();
    wire.drain();
    wire.cancel(1);
    assert_eq!(wire.drain(), "failed 1 Cancelled MaybeDelivered");
    wire.acked(Ack::Next);
    assert_eq!((wire.drain(), wire.outbox.stats().duplicates), (String::new(), 1));
    wire.acked(Ack::Next);
    assert_eq!(wire.drain(), "delivered 2");
}

#[test]
fn a_ghost_counts_for_the_window_until_it_is_answered() {
    let mut wire = World::with(OutboxConfig { window_messages: 1, ..small() });
    wire.push_many(2, Acked);
    wire.up();
    wire.drain();
    wire.cancel(1);
    assert_eq!(wire.drain(), "failed 1 Cancelled MaybeDelivered");
    wire.nacked(Ack::Next, Nack::Transient);
    assert_eq!(wire.drain(), "send 2", "nobody is held up by a nack of what nobody wants");
}

#[test]
fn a_ghost_is_gone_with_its_attempt() {
    let mut wire = World::new();
    wire.push_many(2, Acked);
    wire.up();
    wire.drain();
    wire.cancel(1);
    wire.drain();
    wire.down();
    wire.up();
    wire.answer_first_ping();
    assert_eq!(wire.drain(), "send 2");
    wire.acked(Ack::Next);
    assert_eq!(wire.drain(), "delivered 2");
}

#[test]
fn a_ghost_that_is_never_answered_ends_the_attempt_without_a_charge() {
    let mut wire = World::with(OutboxConfig { window_messages: 1, retry_budget: 0, ..small() });
    wire.push_many(2, Acked);
    wire.up();
    wire.drain();
    wire.cancel(1);
    wire.drain();
    wire.wait(small().receipt_repeat_interval);
    assert_eq!(wire.drain(), "ping 1");
    wire.pong_last();
    wire.wait(small().ack_limit);
    assert_eq!((wire.drain(), wire.outbox.stats().charges), ("overdue".into(), 0));
}

#[test]
fn illegal_acks_change_nothing_and_are_counted() {
    let mut wire = World::with(OutboxConfig { window_messages: 1, ..small() });
    wire.push_many(2, Acked);
    wire.up();
    wire.drain();
    let before = wire.outbox.view();
    let acks = [
        Ack::One(seq(0)),
        Ack::One(seq(2)),
        Ack::One(seq(3)),
        Ack::One(seq(u64::MAX)),
        Ack::UpTo(seq(2)),
        Ack::UpTo(seq(u64::MAX)),
        Ack::OneOf(name(ID, 2)),
        Ack::UpToOf(name(ID, u64::MAX)),
    ];
    for ack in acks {
        wire.acked(ack);
        wire.nacked(ack, Nack::Permanent);
        wire.nacked(ack, Nack::Transient);
    }
    wire.event(OutboxEvent::Ponged(wire.attempt, seq(1)));
    assert_eq!((wire.outbox.view(), wire.outbox.stats().violations), (before, 25));
    assert_eq!(wire.outbox.stats().duplicates, 0);

    let foreign = name(OutboxId::new(77), 1);
    wire.acked(Ack::UpToOf(foreign));
    assert_eq!((wire.drain(), wire.outbox.stats().duplicates), (String::new(), 1));
    wire.acked(Ack::Next);
    assert_eq!(wire.drain(), "delivered 1, send 2");
}

#[test]
fn a_positional_ack_with_nothing_awaited_is_a_violation() {
    let mut wire = World::new();
    wire.push("a", Received);
    wire.push("b", Acked);
    wire.up();
    assert_eq!(wire.poll(Wire::Ready), "send 1");
    wire.acked(Ack::Next);
    assert_eq!((wire.outbox.stats().violations, wire.outbox.stats().delivered), (1, 0));
    assert_eq!(wire.drain(), "send 2, ping 2");
    wire.acked(Ack::Next);
    wire.acked(Ack::Next);
    assert_eq!((wire.outbox.stats().violations, wire.outbox.stats().delivered), (2, 1));
}

#[test]
fn a_peer_that_remembers_may_ack_what_was_sent_before() {
    let mut wire = World::new();
    wire.push_many(3, Acked);
    wire.up();
    wire.drain();
    wire.down();
    wire.up();
    wire.acked(Ack::UpTo(seq(2)));
    wire.acked(Ack::Next);
    assert_eq!(wire.outbox.stats().violations, 1, "by position only what is in flight");
    assert_eq!(wire.drain(), "delivered 1-2, send 3");
}

// ---- Levels and receipts ------------------------------------------------------------------------

/// H29: the kernel has it, nothing more; a receipt says more.
#[test]
fn written_settles_on_the_flush_and_received_on_the_pong() {
    let mut wire = World::new();
    wire.push("a", Written);
    wire.push("b", Received);
    wire.push("c", Acked);
    wire.up();
    assert_eq!(wire.drain(), "send 1, send 2, send 3, ping 3");
    wire.flushed();
    assert_eq!(wire.drain(), "delivered 1");
    wire.pong(3);
    assert_eq!(wire.drain(), "delivered 2");
    wire.acked(Ack::Next);
    assert_eq!(wire.drain(), "delivered 3");
}

#[test]
fn a_flush_says_nothing_of_what_was_handed_over_after_it() {
    let mut wire = World::new();
    wire.push_many(2, Written);
    wire.up();
    assert_eq!(wire.poll(Wire::Ready), "send 1");
    wire.flushed();
    assert_eq!(wire.drain(), "delivered 1, send 2");
    wire.down();
    assert_eq!(wire.outbox.queued(), 1);
}

#[test]
fn a_receipt_is_asked_for_when_nothing_more_can_be_transmitted() {
    let mut wire = World::new();
    wire.push_many(2, Received);
    wire.up();
    assert_eq!(wire.drain(), "send 1, send 2, ping 2");
    wire.push("more", Received);
    assert_eq!(wire.drain(), "send 3", "one ping is outstanding");
    wire.pong(2);
    assert_eq!(wire.drain(), "delivered 1-2, ping 3");
}

#[test]
fn a_receipt_is_asked_for_after_the_interval_while_none_is_outstanding() {
    let config = OutboxConfig { receipt_interval_messages: 3, ..window_of(1_000) };
    let mut wire = World::with(config);
    wire.push_many(8, Received);
    wire.up();
    assert_eq!(
        wire.drain(),
        "send 1, send 2, send 3, ping 3, send 4, send 5, send 6, send 7, send 8"
    );
    wire.pong(3);
    assert_eq!(wire.drain(), "delivered 1-3, ping 8");
}

#[test]
fn a_receipt_is_asked_for_after_the_interval_in_bytes() {
    let config = OutboxConfig { receipt_interval_bytes: 8, ..window_of(1_000) };
    let mut wire = World::with(config);
    for _ in 0..3 {
        wire.push("12345", Received);
    }
    wire.up();
    assert_eq!(wire.drain(), "send 1, send 2, ping 2, send 3");
}

#[test]
fn a_receipt_is_asked_for_after_a_sixteenth_of_the_window_in_any_case() {
    let mut wire = World::with(window_of(64));
    wire.push_many(10, Received);
    wire.up();
    let drained = wire.drain();
    assert!(drained.contains("send 4, ping 4") && drained.contains("send 8, ping 8"), "{drained}");
    wire.pong(8);
    assert!(wire.drain().starts_with("delivered 1-8, ping 10"), "the latest answers all below it");
}

#[test]
fn a_receipt_is_asked_for_after_a_sixteenth_of_the_window_in_bytes_in_any_case() {
    let config = OutboxConfig { window_messages: 128, window_bytes: 256, ..small() };
    let mut wire = World::with(config);
    for _ in 0..5 {
        wire.push("12345678", Received);
    }
    wire.up();
    assert_eq!(wire.drain(), "send 1, send 2, ping 2, send 3, send 4, ping 4, send 5");
}

#[test]
fn what_is_not_covered_is_asked_for_again() {
    let mut wire = World::new();
    wire.push("a", Received);
    wire.up();
    assert_eq!(wire.drain(), "send 1, ping 1");
    for _ in 0..3 {
        assert_eq!(
            wire.deadline(),
            Some((wire.now + small().receipt_repeat_interval, Timer::Receipt))
        );
        wire.wait(small().receipt_repeat_interval);
        assert_eq!(wire.drain(), "ping 1");
    }
    wire.pong(1);
    assert_eq!((wire.drain(), wire.deadline()), ("delivered 1".into(), None));
}

#[test]
fn a_pong_of_an_old_ping_covers_only_what_was_in_front_of_it() {
    let mut wire = World::new();
    wire.push("a", Received);
    wire.up();
    wire.drain();
    wire.push("b", Received);
    assert_eq!(wire.drain(), "send 2");
    wire.pong(1);
    assert_eq!(wire.drain(), "delivered 1, ping 2");
}

#[test]
fn a_ping_payload_names_attempt_and_number() {
    let ping = Ping { attempt: Attempt::new(3), seq: seq(u64::MAX - 1) };
    assert_eq!(ping.payload().len(), Ping::LEN);
    assert_eq!(Ping::parse(&ping.payload()), Some(ping));
    assert_eq!(Ping::parse(&ping.payload()[1..]), None);
    assert_eq!(Ping::parse(&[]), None);
    assert_eq!(Ping::parse(&[0; 17]), None);
}

// ---- Drain --------------------------------------------------------------------------------------

/// H34: a drain delivers what it can, ends when it must, and hands back the rest.
#[test]
fn a_drain_refuses_pushes_delivers_on_and_hands_back_the_rest_at_its_deadline() {
    let mut wire = World::with(OutboxConfig { window_messages: 2, ..small() });
    wire.push_many(3, Acked);
    wire.up();
    wire.event(OutboxEvent::Close { deadline: wire.now + SECOND });
    assert_eq!(wire.try_push("late"), Err(Refused::Closed));
    assert_eq!(wire.deadline(), Some((wire.now + SECOND, Timer::Drain)));
    assert_eq!(wire.drain(), "send 1, send 2");
    wire.acked(Ack::Next);
    assert_eq!(wire.drain(), "delivered 1, send 3");
    wire.wait(SECOND);
    assert_eq!(wire.drain(), "failed 2 Returned MaybeDelivered, failed 3 Returned MaybeDelivered");
    assert!(wire.outbox.is_empty());
}

#[test]
fn a_drain_without_a_deadline_waits() {
    let mut wire = World::new();
    wire.push("a", Received);
    wire.event(OutboxEvent::Close { deadline: Instant::NEVER });
    wire.wait(HOUR * 1_000);
    assert_eq!((wire.drain(), wire.deadline()), (String::new(), None));
}

#[test]
fn the_sooner_of_two_deadlines_of_a_drain_counts() {
    let mut wire = World::new();
    wire.push("a", Received);
    for deadline in [wire.now + HOUR, wire.now + SECOND, Instant::NEVER] {
        wire.event(OutboxEvent::Close { deadline });
    }
    wire.wait(SECOND);
    assert_eq!(wire.drain(), "failed 1 Returned NotSent");
}

// ---- A peer that goes back ----------------------------------------------------------------------

#[test]
fn what_was_dropped_behind_a_refused_message_goes_again_behind_it() {
    let mut wire = World::new();
    wire.push_many(3, Acked);
    wire.up();
    assert_eq!(wire.drain(), "send 1, send 2, send 3");
    wire.nacked_from(1, Nack::Transient);
    assert_eq!((wire.drain(), wire.outbox.in_flight().messages), (String::new(), 0));
    wire.wait(small().nack_delay);
    assert_eq!(wire.drain(), "send 1, send 2, send 3");
}

/// H41: what stands behind it could otherwise never pay for what is not its fault.
#[test]
fn only_the_refused_message_is_charged_not_what_was_dropped_behind_it() {
    let mut wire = World::with(OutboxConfig { retry_budget: 1, ..small() });
    wire.push_many(3, Acked);
    wire.up();
    wire.drain();
    wire.nacked_from(1, Nack::Transient);
    assert_eq!(wire.outbox.charges(), 1);
    wire.wait(small().nack_delay);
    wire.drain();
    wire.nacked_from(1, Nack::Transient);
    assert_eq!(wire.drain(), "failed 1 Exhausted MaybeDelivered");
    wire.wait(small().nack_delay_cap);
    assert_eq!((wire.drain(), wire.outbox.charges()), ("send 2, send 3".into(), 0));
}

#[test]
fn a_message_refused_for_good_lets_what_was_dropped_behind_it_go_at_once() {
    let mut wire = World::with(OutboxConfig { retry_budget: 0, ..small() });
    wire.push_many(3, Acked);
    wire.up();
    wire.drain();
    wire.nacked_from(1, Nack::Permanent);
    assert_eq!(wire.drain(), "failed 1 Rejected MaybeDelivered, send 2, send 3");
}

#[test]
fn nothing_goes_again_before_all_in_front_of_the_refused_message_is_answered() {
    let mut wire = World::new();
    wire.push_many(4, Acked);
    wire.up();
    wire.drain();
    wire.nacked_from(3, Nack::Permanent);
    assert_eq!(wire.drain(), "failed 3 Rejected MaybeDelivered");
    wire.acked(Ack::UpTo(seq(1)));
    assert_eq!(wire.drain(), "delivered 1");
    // A second refusal, further in front.
    wire.nacked_from(2, Nack::Transient);
    wire.wait(small().nack_delay);
    assert_eq!(wire.drain(), "send 2, send 4");
}

#[test]
fn what_was_cancelled_in_flight_may_be_refused_and_may_be_dropped() {
    let mut wire = World::new();
    wire.push_many(4, Acked);
    wire.up();
    wire.drain();
    wire.cancel(1);
    wire.cancel(3);
    assert_eq!(
        wire.drain(),
        "failed 1 Cancelled MaybeDelivered, failed 3 Cancelled MaybeDelivered"
    );
    wire.nacked_from(1, Nack::Transient);
    assert_eq!(wire.drain(), "send 2, send 4");
}

#[test]
fn a_refusal_with_all_behind_it_names_what_was_sent_since_the_last_one() {
    let mut wire = World::new();
    wire.push_many(3, Acked);
    wire.up();
    wire.nacked_from(1, Nack::Permanent);
    wire.drain();
    for number in [0, 4, u64::MAX] {
        wire.nacked_from(number, Nack::Permanent);
    }
    let stranger = name(OutboxId::new(9), 1);
    wire.event(OutboxEvent::NackedFrom(wire.attempt, stranger, Nack::Permanent));
    let stale = name(ID, 1);
    wire.event(OutboxEvent::NackedFrom(Attempt::new(9), stale, Nack::Permanent));
    assert_eq!((wire.outbox.stats().violations, wire.outbox.stats().stale), (5, 1));
    assert_eq!((wire.drain(), wire.outbox.state()), (String::new(), OutboxState::Open));

    wire.nacked_from(1, Nack::Permanent);
    wire.drain();
    wire.nacked_from(1, Nack::Permanent);
    assert_eq!((wire.outbox.stats().violations, wire.outbox.in_flight().messages), (6, 2));
}

/// What the peer dropped behind it is sent again, though nothing else is left of its outbox.
#[test]
fn a_refused_message_may_be_settled_and_its_outbox_forgotten() {
    let mut wire = World::new();
    wire.push("restored", Received);
    let snapshot = wire.outbox.snapshot();
    let mut wire = wire.restored(OutboxId::new(2), snapshot).unwrap();
    wire.push("new", Acked);
    wire.up();
    wire.answer_first_ping();
    assert_eq!(wire.drain(), "send 1, send 2, ping 2");
    wire.cancel(1);
    assert_eq!(wire.drain(), "failed 1 Cancelled MaybeDelivered");
    wire.nacked_from(1, Nack::Transient);
    assert_eq!((wire.drain(), wire.outbox.stats().violations), ("send 2".into(), 0));
}

/// S6: what called nothing back made no pause, so a refusal behind it does.
#[test]
fn a_refusal_behind_one_of_a_settled_message_makes_a_pause() {
    for permanently in [false, true] {
        let mut wire = World::new();
        wire.push_many(4, Acked);
        wire.up();
        assert_eq!(wire.drain(), "send 1, send 2, send 3, send 4");
        if permanently {
            wire.nacked_from(4, Nack::Permanent);
            assert_eq!(wire.drain(), "failed 4 Rejected MaybeDelivered");
        } else {
            wire.cancel(4);
            assert_eq!(wire.drain(), "failed 4 Cancelled MaybeDelivered");
            wire.nacked_from(4, Nack::Transient);
        }
        wire.nacked_from(1, Nack::Transient);
        assert_eq!(wire.drain(), "");
        wire.wait(small().nack_delay - MILLISECOND);
        assert_eq!(wire.drain(), "");
        wire.wait(MILLISECOND);
        assert_eq!(wire.drain(), "send 1, send 2, send 3");
    }
}

/// The same by a name that no message had, which was once believed where the true one was forgotten.
#[test]
fn a_refusal_by_a_name_that_no_message_had_calls_nothing_back() {
    let mut wire = World::new();
    wire.push("restored", Received);
    let snapshot = wire.outbox.snapshot();
    let mut wire = wire.restored(OutboxId::new(2), snapshot).unwrap();
    wire.push("new", Acked);
    wire.up();
    wire.answer_first_ping();
    wire.drain();
    wire.pong_last();
    assert_eq!(wire.drain(), "delivered 1");
    let stranger = name(OutboxId::new(9), 1);
    wire.event(OutboxEvent::NackedFrom(wire.attempt, stranger, Nack::Transient));
    assert_eq!((wire.drain(), wire.outbox.stats().violations), (String::new(), 1));
    // The true one is known until something else is sent from the head on.
    wire.nacked_from(1, Nack::Transient);
    assert_eq!((wire.drain(), wire.outbox.stats().violations), ("send 2".into(), 1));
    wire.nacked_from(1, Nack::Transient);
    assert_eq!((wire.drain(), wire.outbox.stats().violations), (String::new(), 2));
}

#[test]
fn a_peer_that_refuses_all_but_the_head_for_ever_runs_into_the_ack_clock() {
    let mut wire = World::new();
    wire.push_many(2, Acked);
    wire.up();
    wire.push("r", Received);
    wire.drain();
    wire.pong_last();
    wire.nacked_from(2, Nack::Transient);
    wire.wait(wire.config.ack_limit);
    assert_eq!((wire.drain(), wire.outbox.charges()), ("overdue".into(), 1));
}

// ---- Snapshots ----------------------------------------------------------------------------------

/// H68: what is pushed after a restore is named with a fresh outbox id.
#[test]
fn a_restored_outbox_sends_its_own_first_under_their_old_names() {
    let mut wire = World::with(OutboxConfig { window_messages: 2, ..small() });
    wire.push_many(3, Received);
    wire.up();
    wire.drain();
    let snapshot = wire.outbox.snapshot();
    // The process goes on for a while before it dies, and uses the numbers that follow.
    assert_eq!(wire.push("lost", Received), seq(4));

    let fresh = OutboxId::new(2);
    let mut wire = wire.restored(fresh, snapshot).unwrap();
    assert_eq!(wire.push("d", Received), seq(4));
    wire.up();
    wire.answer_first_ping();
    let mut names = Vec::new();
    for _ in 0..20 {
        match wire.outbox.poll(Wire::Ready) {
            OutboxOutput::Transmit { id, .. } => names.push((id.outbox, id.seq.get())),
            OutboxOutput::Ping(ping) => wire.event(OutboxEvent::Ponged(ping.attempt, ping.seq)),
            _ => {}
        }
    }
    assert_eq!(names, [(ID, 1), (ID, 2), (ID, 3), (fresh, 4)]);
}

/// H35: what is stored is the time that remains, so another clock does not lengthen it.
#[test]
fn a_snapshot_keeps_what_remains_of_times_charges_and_pauses() {
    let mut wire = World::new();
    wire.push_mortal("a", MINUTE, Acked);
    wire.up();
    wire.drain();
    wire.nacked(Ack::Next, Nack::Transient);
    wire.wait(MILLISECOND * 4);
    let snapshot = wire.outbox.snapshot();
    // Another process, another clock.
    wire.now = Instant::ZERO + HOUR;
    let mut wire = wire.restored(OutboxId::new(2), snapshot).unwrap();
    assert_eq!(wire.outbox.charges(), 1);
    assert_eq!(wire.deadline(), Some((wire.now + (MINUTE - MILLISECOND * 4), Timer::Expiry)));
    wire.up();
    assert_eq!(
        wire.outbox.state(),
        OutboxState::Held { resume_at: wire.now + (small().nack_delay - MILLISECOND * 4) }
    );
}

#[test]
fn what_was_settled_and_not_reported_is_reported_after_a_restore() {
    let mut wire = World::new();
    wire.push_many(3, Acked);
    wire.up();
    wire.drain();
    wire.acked(Ack::One(seq(2)));
    wire.cancel(3);
    let snapshot = wire.outbox.snapshot();
    let mut wire = wire.restored(OutboxId::new(2), snapshot).unwrap();
    assert_eq!(wire.drain(), "failed 3 Cancelled MaybeDelivered");
    wire.up();
    wire.answer_first_ping();
    assert_eq!(wire.drain(), "send 1");
    wire.acked(Ack::One(seq(1)));
    assert_eq!(wire.drain(), "delivered 1-2");
}

#[test]
fn a_cumulative_ack_may_name_what_was_settled_before_the_snapshot() {
    let mut wire = World::new();
    wire.push_many(2, Acked);
    wire.up();
    wire.drain();
    wire.cancel(2);
    wire.drain();
    let snapshot = wire.outbox.snapshot();
    let mut wire = wire.restored(OutboxId::new(2), snapshot).unwrap();
    wire.up();
    wire.acked(Ack::UpToOf(name(ID, 2)));
    assert_eq!(wire.drain(), "delivered 1");
    assert_eq!(wire.outbox.stats().violations, 0);
}

#[test]
fn an_ack_of_what_the_former_life_had_settled_is_no_fault_of_the_peer() {
    let mut wire = World::new();
    wire.push_many(2, Acked);
    wire.up();
    assert_eq!(wire.drain(), "send 1, send 2");
    wire.acked(Ack::One(seq(1)));
    assert_eq!(wire.drain(), "delivered 1");
    let snapshot = wire.outbox.snapshot();
    let fresh = OutboxId::new(2);
    let mut wire = wire.restored(fresh, snapshot).unwrap();
    wire.up();
    wire.acked(Ack::OneOf(name(ID, 1)));
    wire.acked(Ack::UpToOf(name(ID, 1)));
    assert_eq!((wire.outbox.stats().duplicates, wire.outbox.stats().violations), (2, 0));
    // It never had a number as low as that itself.
    wire.acked(Ack::OneOf(name(fresh, 1)));
    assert_eq!((wire.outbox.stats().duplicates, wire.outbox.stats().violations), (2, 1));
}

/// H68: the peer acknowledges all that it has of the old outbox, and that may be more than was
/// restored.
#[test]
fn an_ack_of_what_the_former_life_sent_after_the_snapshot_settles_what_was_restored() {
    let mut wire = World::new();
    wire.push_many(2, Acked);
    let snapshot = wire.outbox.snapshot();
    // The former life goes on up to 9.
    let fresh = OutboxId::new(2);
    let mut wire = wire.restored(fresh, snapshot).unwrap();
    wire.push("new", Acked);
    wire.up();
    wire.acked(Ack::OneOf(name(ID, 9)));
    assert_eq!((wire.outbox.stats().delivered, wire.outbox.stats().duplicates), (0, 1));
    wire.acked(Ack::UpToOf(name(ID, 9)));
    assert_eq!((wire.outbox.stats().delivered, wire.outbox.watermark()), (2, seq(3)));
    assert_eq!(wire.outbox.stats().violations, 0);
    // Of its own numbers the outbox knows the end.
    wire.acked(Ack::UpToOf(name(fresh, 9)));
    assert_eq!(wire.outbox.stats().violations, 1);
}

/// H68: between the old messages and the next that are left, a number may be missing that the former
/// life had used as well.
#[test]
fn an_ack_of_what_the_former_life_sent_settles_what_was_restored_twice() {
    let mut wire = World::new();
    wire.push_many(2, Acked);
    let snapshot = wire.outbox.snapshot();
    // The former life goes on up to 3; this one gives 3 to a message that does not stay.
    let mut wire = wire.restored(OutboxId::new(2), snapshot).unwrap();
    wire.push("gone", Acked);
    wire.push("new", Acked);
    wire.cancel(3);
    wire.drain();
    let snapshot = wire.outbox.clone().into_snapshot();
    let mut wire = wire.restored(OutboxId::new(3), snapshot).unwrap();
    wire.up();
    wire.acked(Ack::UpToOf(name(ID, 3)));
    assert_eq!((wire.outbox.stats().delivered, wire.outbox.watermark()), (2, seq(4)));
    assert_eq!(wire.outbox.stats().violations, 0);
}

/// H68: what an outbox never sent before its orderly end, nobody can have.
#[test]
fn an_ack_of_what_an_old_outbox_gave_a_number_and_never_sent_is_a_violation() {
    let mut wire = World::new();
    wire.push_many(3, Acked);
    wire.cancel(3);
    wire.drain();
    let snapshot = wire.outbox.clone().into_snapshot();
    let mut wire = wire.restored(OutboxId::new(2), snapshot).unwrap();
    wire.push("new", Acked);
    let snapshot = wire.outbox.clone().into_snapshot();
    let mut wire = wire.restored(OutboxId::new(3), snapshot).unwrap();
    wire.up();
    wire.acked(Ack::UpToOf(name(ID, 3)));
    assert_eq!((wire.outbox.stats().delivered, wire.outbox.stats().violations), (0, 1));
}

#[test]
fn an_ack_of_an_outbox_that_is_not_known_any_more_is_no_fault_of_the_peer() {
    let wire = World::new();
    let empty = wire.outbox.snapshot();
    let mut wire = wire.restored(OutboxId::new(2), empty).unwrap();
    wire.push("a", Acked);
    wire.up();
    wire.drain();
    wire.acked(Ack::UpToOf(name(ID, 9)));
    wire.acked(Ack::UpToOf(name(OutboxId::new(3), 1)));
    assert_eq!((wire.outbox.stats().duplicates, wire.outbox.stats().violations), (2, 0));
    assert_eq!(wire.outbox.stats().delivered, 0);
}

#[test]
fn an_ack_that_names_the_fresh_outbox_does_not_settle_an_old_message() {
    let mut wire = World::new();
    wire.push("a", Acked);
    wire.up();
    wire.drain();
    let fresh = OutboxId::new(2);
    let snapshot = wire.outbox.snapshot();
    let mut wire = wire.restored(fresh, snapshot).unwrap();
    wire.up();
    wire.acked(Ack::UpToOf(name(fresh, 1)));
    wire.acked(Ack::OneOf(name(fresh, 1)));
    assert_eq!((wire.outbox.stats().violations, wire.outbox.stats().delivered), (2, 0));
    wire.acked(Ack::OneOf(name(ID, 1)));
    assert_eq!(wire.outbox.stats().delivered, 1);
}

#[test]
fn a_restore_into_a_smaller_window_still_sends_its_head() {
    let mut wire = World::with(OutboxConfig { window_messages: 3, ..small() });
    wire.push_many(4, Acked);
    wire.up();
    wire.drain();
    wire.acked(Ack::One(seq(2)));
    wire.acked(Ack::One(seq(3)));
    let snapshot = wire.outbox.snapshot();
    wire.config = OutboxConfig { window_messages: 1, ..small() };
    let mut wire = wire.restored(OutboxId::new(2), snapshot).unwrap();
    wire.up();
    wire.answer_first_ping();
    assert_eq!(wire.drain(), "send 1");
    wire.acked(Ack::One(seq(1)));
    assert_eq!(wire.drain(), "delivered 1-3, send 4");
}

#[test]
fn a_key_that_was_restored_after_an_orderly_end_still_coalesces() {
    let mut wire = World::new();
    wire.push_keyed("old", "k");
    let snapshot = wire.outbox.clone().into_snapshot();
    let mut wire = wire.restored(OutboxId::new(2), snapshot).unwrap();
    assert_eq!(wire.push_keyed("new", "k"), (seq(1), vec![(seq(1), "old".into(), true)]));
}

/// H37, H68: the peer may have the old body under this very name, and would take the new one for a
/// duplicate.
#[test]
fn what_a_crash_left_in_a_snapshot_is_not_replaced_for_it_may_have_been_transmitted() {
    let mut wire = World::new();
    wire.push_keyed("old", "k");
    let snapshot = wire.outbox.snapshot();
    // The process goes on for a while before it dies.
    wire.up();
    assert_eq!(wire.drain(), "send 1, ping 1");

    let mut wire = wire.restored(OutboxId::new(2), snapshot).unwrap();
    assert_eq!(wire.push_keyed("new", "k"), (seq(2), vec![]));
    wire.cancel(1);
    assert_eq!(wire.drain(), "failed 1 Cancelled MaybeDelivered");
}

#[test]
fn what_was_restored_after_an_orderly_end_and_never_transmitted_is_known_not_to_be() {
    let mut wire = World::new();
    wire.push("a", Acked);
    let snapshot = wire.outbox.clone().into_snapshot();
    let mut wire = wire.restored(OutboxId::new(2), snapshot).unwrap();
    wire.cancel(1);
    assert_eq!(wire.drain(), "failed 1 Cancelled NotSent");
}

#[test]
fn a_hostile_snapshot_is_refused_and_handed_back() {
    type Forgery = fn(&mut Snapshot);
    let forgeries: [(&str, Forgery); 16] = [
        ("no next number", |s| s.next_seq = seq(0)),
        ("numbers used up", |s| s.next_seq = seq(u64::MAX)),
        ("a number to come", |s| s.messages[2].id.seq = seq(4)),
        ("sent what is to come", |s| s.sent_to = seq(4)),
        ("number zero", |s| s.messages[0].id.seq = seq(0)),
        ("numbers that fall", |s| s.messages.swap(0, 1)),
        ("a number twice", |s| s.messages[1].id.seq = seq(1)),
        ("an id that is not fresh", |s| s.messages[2].id.outbox = OutboxId::new(2)),
        ("an outbox that comes back", |s| {
            s.messages[1].id.outbox = OutboxId::new(9);
            s.ends = vec![s.messages[0].id, s.messages[1].id];
        }),
        ("an outbox without an end", |s| s.messages[0].id.outbox = OutboxId::new(9)),
        ("an end before the last message", |s| s.ends = vec![s.messages[1].id]),
        ("an end that is to come", |s| {
            s.ends = vec![MessageId { seq: seq(4), ..s.messages[2].id }]
        }),
        ("the end of another", |s| {
            s.ends = vec![MessageId { outbox: OutboxId::new(9), ..s.messages[2].id }];
        }),
        ("two ends", |s| s.ends = vec![s.messages[2].id, s.messages[2].id]),
        ("a live message without body", |s| s.messages[0].body = None),
        ("a delivered one with a body", |s| {
            s.messages[0].outcome = Some(SavedOutcome::Delivered);
        }),
    ];
    let mut wire = World::new();
    wire.push_many(3, Acked);
    let honest = wire.outbox.clone().into_snapshot();
    assert!(wire.clone().restored(OutboxId::new(2), honest.clone()).is_ok());
    for (name, forge) in forgeries {
        let mut forged = honest.clone();
        forge(&mut forged);
        let error = wire.clone().restored(OutboxId::new(2), forged.clone()).map(drop).unwrap_err();
        assert!(matches!(error.reason, RestoreRefused::Inconsistent(_)), "{name}");
        assert_eq!(*error.snapshot, forged, "{name}");
    }

    let mut twins = honest.clone();
    twins.messages[0].key = Some(Key::from("k"));
    twins.messages[1].key = Some(Key::from("k"));
    let error = wire.clone().restored(OutboxId::new(2), twins).map(drop).unwrap_err();
    assert_eq!(error.reason, RestoreRefused::Inconsistent(seq(2)));
}

/// H41
#[test]
fn what_a_forged_snapshot_without_messages_says_of_a_head_is_said_of_no_message() {
    let wire = World::new();
    let forged = Snapshot { charges: 5, deaths: 5, nacks: 3, ..wire.outbox.snapshot() };
    let mut wire = wire.restored(OutboxId::new(2), forged).unwrap();
    assert_eq!(wire.outbox.suspected(), None);
    wire.push("a", Acked);
    assert_eq!((wire.outbox.charges(), wire.outbox.suspected()), (0, None));
}

#[test]
fn a_snapshot_that_does_not_fit_is_refused_and_handed_back() {
    let mut wire = World::new();
    wire.push_many(3, Acked);
    let snapshot = wire.outbox.snapshot();
    let refused = |config: OutboxConfig| {
        let error = Outbox::restore(config, OutboxId::new(2), wire.now, snapshot.clone());
        let error = error.map(drop).unwrap_err();
        assert_eq!(*error.snapshot, snapshot);
        error.reason
    };
    let few = OutboxConfig { max_messages: 2, window_messages: 1, ..small() };
    assert_eq!(refused(few), RestoreRefused::TooMuch(seq(3)));
    let deaf = OutboxConfig { can_ack: false, ..small() };
    assert_eq!(refused(deaf), RestoreRefused::Level(seq(1)));
    let wrong = OutboxConfig { max_messages: 0, ..small() };
    assert!(matches!(refused(wrong), RestoreRefused::Config(_)));
}

#[test]
fn a_snapshot_that_fits_to_the_last_byte_message_and_number_is_restored() {
    let mut wire = World::new();
    for _ in 0..3 {
        wire.push("12345678", Acked);
    }
    let snapshot = wire.outbox.snapshot();
    let exact = OutboxConfig {
        max_messages: 3,
        max_bytes: 24,
        max_message_bytes: 8,
        window_messages: 1,
        window_bytes: 8,
        ..small()
    };
    let restore = |config: OutboxConfig, snapshot: &Snapshot| {
        Outbox::restore(config, OutboxId::new(2), wire.now, snapshot.clone())
            .map(drop)
            .map_err(|error| error.reason)
    };
    assert_eq!(restore(exact.clone(), &snapshot), Ok(()));
    let too_much = Err(RestoreRefused::TooMuch(seq(3)));
    assert_eq!(restore(OutboxConfig { max_bytes: 23, ..exact.clone() }, &snapshot), too_much);
    assert_eq!(restore(OutboxConfig { max_messages: 2, ..exact.clone() }, &snapshot), too_much);
    let small_ones = OutboxConfig { max_message_bytes: 7, ..exact.clone() };
    assert_eq!(restore(small_ones, &snapshot), Err(RestoreRefused::TooMuch(seq(1))));

    let half = seq(u64::MAX / 2);
    let last = Snapshot { next_seq: half, ..snapshot.clone() };
    assert_eq!(restore(exact.clone(), &last), Ok(()));
    let beyond = Snapshot { next_seq: seq(half.get() + 1), ..snapshot };
    let inconsistent = Err(RestoreRefused::Inconsistent(beyond.next_seq));
    assert_eq!(restore(exact, &beyond), inconsistent);
}

#[test]
fn a_key_counts_in_a_snapshot_as_it_did_before() {
    let mut wire = World::new();
    wire.push_keyed("1234", "keys");
    wire.up();
    assert_eq!(wire.drain(), "send 1, ping 1");
    // The first was transmitted, so it has left its key to the next one.
    wire.push_keyed("5678", "keys");
    let snapshot = wire.outbox.clone().into_snapshot();
    assert_eq!(snapshot.sent_to, seq(1));
    assert!(wire.clone().restored(OutboxId::new(2), snapshot.clone()).is_ok());

    wire.config.max_message_bytes = 7;
    let error = wire.restored(OutboxId::new(2), snapshot).map(drop).unwrap_err();
    assert_eq!(error.reason, RestoreRefused::TooMuch(seq(1)));
}

#[test]
fn a_view_tells_which_message_was_called_back() {
    let [second, third] = [2, 3].map(|refused| {
        let mut wire = World::new();
        wire.push_many(3, Acked);
        wire.up();
        assert_eq!(wire.drain(), "send 1, send 2, send 3");
        wire.nacked(Ack::One(seq(refused)), Nack::Transient);
        wire.outbox.view()
    });
    assert_ne!(second, third);
}

#[test]
fn a_view_counts_what_was_sent_since_a_ping_as_far_as_it_makes_a_difference() {
    let view = |config: &OutboxConfig, count: u64, body: &str| {
        let mut wire = World::with(config.clone());
        wire.up();
        for _ in 1..count {
            wire.push(body, Written);
            wire.drain();
            wire.flushed();
            wire.drain();
        }
        // What may be refused begins again with the head, or it would tell them apart.
        wire.push(body, Acked);
        wire.drain();
        wire.nacked(Ack::Next, Nack::Transient);
        wire.wait(config.nack_delay);
        wire.outbox.view()
    };
    // A sixteenth of the window is 4 messages or 32 bytes.
    let messages = OutboxConfig { receipt_interval_messages: 2, ..small() };
    assert_ne!(view(&messages, 3, ""), view(&messages, 4, ""));
    assert_eq!(view(&messages, 4, ""), view(&messages, 5, ""));
    let bytes = OutboxConfig {
        receipt_interval_messages: 1,
        receipt_interval_bytes: 16,
        window_messages: 16,
        ..small()
    };
    assert_ne!(view(&bytes, 3, "12345678"), view(&bytes, 4, "12345678"));
    assert_eq!(view(&bytes, 4, "12345678"), view(&bytes, 5, "12345678"));
}

#[cfg(feature = "serde")]
#[test]
fn a_snapshot_survives_storage() {
    let mut wire = World::new();
    wire.push_keyed("a", "k");
    wire.push_mortal("b", MINUTE, Acked);
    wire.up();
    wire.drain();
    wire.cancel(1);
    let snapshot = wire.outbox.snapshot();
    let stored = serde_json::to_string(&snapshot).unwrap();
    assert_eq!(serde_json::from_str::<Snapshot>(&stored).unwrap(), snapshot);
}

// ---- Cost ---------------------------------------------------------------------------------------

/// R5.
#[test]
fn a_million_messages_that_expire_at_once_take_one_pass() {
    let mut wire = World::with(large());
    for _ in 0..MILLION {
        wire.push_mortal("", MINUTE, Received);
    }
    wire.wait(MINUTE);
    assert_eq!(wire.count_failed(), MILLION);
    assert_eq!(wire.outbox.footprint(), (0, 0));
    let steps = wire.outbox.steps();
    assert!((MILLION as u64..=4 * MILLION as u64).contains(&steps), "{steps}");
}

#[test]
fn a_million_times_push_and_cancel_behind_a_blocked_head_stay_small() {
    let mut wire = World::with(large());
    wire.push("head", Acked);
    wire.up();
    assert_eq!(wire.drain(), "send 1");
    for n in 0..MILLION as u64 {
        wire.push_mortal("", MINUTE, Received);
        wire.cancel(n + 2);
        assert_eq!(wire.count_failed(), 1);
    }
    let (slots, timers) = wire.outbox.footprint();
    assert!(slots <= 66 && timers <= 66, "{slots} slots, {timers} timers");
}

#[test]
fn a_million_cancels_behind_a_blocked_head_stay_small() {
    let mut wire = World::with(large());
    for _ in 0..MILLION / 10 {
        wire.push("", Received);
    }
    wire.up();
    assert_eq!(wire.poll(Wire::Ready), "send 1");
    for n in (2..=MILLION as u64 / 10).rev() {
        wire.cancel(n);
        assert_eq!(wire.count_failed(), 1);
        let (slots, _) = wire.outbox.footprint();
        assert!(slots <= 2 * wire.outbox.queued() + 66, "{slots}");
        // Half of them are swept at once.
        assert!(wire.outbox.steps() <= 2 * MILLION as u64 / 10, "{}", wire.outbox.steps());
    }
}

/// R1
#[test]
fn of_dead_slots_at_most_64_more_than_live_ones_are_kept() {
    let mut wire = World::new();
    wire.push("head", Received);
    for dead in 1..=66 {
        let last = wire.push("x", Received);
        wire.cancel(last.get());
        assert_eq!(wire.count_failed(), 1);
        let kept = if dead <= 65 { dead } else { 0 };
        assert_eq!(wire.outbox.footprint().0, 1 + kept);
    }
}

/// R1: behind a timer that is needed, one that is not needed any more waits for its turn.
#[test]
fn of_stale_timers_at_most_64_more_than_needed_are_kept_and_the_needed_ones_go_off() {
    let mut wire = World::with(large());
    wire.push_mortal("a", MINUTE, Received);
    wire.push_mortal("b", HOUR, Received);
    for stale in 1..=67 {
        wire.push_mortal("x", HOUR, Received);
        wire.cancel(wire.outbox.next_seq().get() - 1);
        assert_eq!(wire.count_failed(), 1);
        let kept = if stale <= 66 { stale } else { 0 };
        assert_eq!(wire.outbox.footprint().1, 2 + kept);
    }
    wire.wait(MINUTE);
    assert_eq!(wire.drain(), "failed 1 Expired NotSent");
    wire.wait(HOUR);
    assert_eq!(wire.drain(), "failed 2 Expired NotSent");
}

/// R5: what is acknowledged piles up behind a head that is not, and is not looked at again by each
/// ack.
#[test]
fn a_million_cumulative_acks_behind_a_head_that_has_none_take_one_pass() {
    let mut wire = World::with(OutboxConfig { window_messages: MILLION + 1, ..large() });
    wire.push("", Acked);
    let snapshot = wire.outbox.snapshot();
    let fresh = OutboxId::new(2);
    let mut wire = wire.restored(fresh, snapshot).unwrap();
    for _ in 0..MILLION {
        wire.push("", Acked);
    }
    wire.up();
    while !wire.poll(Wire::Ready).is_empty() {}
    for number in 2..2 + MILLION as u64 {
        wire.acked(Ack::UpToOf(name(fresh, number)));
        assert!(wire.outbox.steps() <= 4 * MILLION as u64, "{}", wire.outbox.steps());
    }
    assert_eq!(wire.outbox.stats().delivered, MILLION as u64);
    assert_eq!((wire.outbox.stats().violations, wire.outbox.stats().duplicates), (0, 0));
    assert_eq!((wire.outbox.queued(), wire.outbox.in_flight().messages), (0, 1));
}

/// R5: what is settled behind the head is passed by once, and not by each link that comes up.
#[test]
fn a_thousand_links_pass_by_what_is_settled_once() {
    let config = OutboxConfig { can_ping: false, level: Acked, ..large() };
    for cancels in [true, false] {
        let mut wire = World::with(config.clone());
        wire.push_many(10_000, Acked);
        if cancels {
            for number in 2..=5_000 {
                wire.cancel(number);
                assert_eq!(wire.count_failed(), 1);
            }
        }
        wire.up();
        wire.drain();
        for number in 2..=5_000 {
            wire.acked(Ack::One(seq(number)));
        }
        let begun = wire.outbox.steps();
        for _ in 0..1_000 {
            wire.down();
            wire.up();
            assert_eq!(wire.drain(), "send 1");
            wire.flushed();
            let steps = wire.outbox.steps() - begun;
            assert!(steps <= 30_000, "{steps}");
        }
    }
}

/// R5: a peer that refuses the same again and again is told so by nobody, but costs little.
#[test]
fn a_thousand_refusals_of_the_same_cost_one_pass() {
    for nack in [Nack::Transient, Nack::Permanent] {
        for from in [true, false] {
            let mut wire = World::with(large());
            wire.push_many(10_000, Acked);
            wire.up();
            wire.drain();
            // What is still in flight keeps the others from going again.
            let begun = wire.outbox.steps();
            for _ in 0..1_000 {
                match from {
                    true => wire.nacked_from(2, nack),
                    false => wire.nacked(Ack::UpTo(seq(9_999)), nack),
                }
                let steps = wire.outbox.steps() - begun;
                assert!(steps <= 50_000, "{steps}");
            }
            assert_eq!(wire.outbox.in_flight().messages, 1);
        }
    }
}

/// R5: a peer may refuse what it has acknowledged, one after the other, while all that is answered waits
/// for the head.
#[test]
fn a_thousand_refusals_of_what_is_settled_cost_one_pass() {
    let mut wire = World::with(large());
    wire.push_many(10_000, Acked);
    wire.up();
    wire.drain();
    for number in 2..10_000 {
        wire.acked(Ack::One(seq(number)));
    }
    let begun = wire.outbox.steps();
    for number in 2..1_002 {
        wire.nacked_from(number, Nack::Transient);
        let steps = wire.outbox.steps() - begun;
        assert!(steps <= 20_000, "{steps}");
    }
    assert_eq!(wire.outbox.stats().violations, 0);
}

/// R5: cumulative acks pass by what has failed once, also while the reports of it are taken one by one.
#[test]
fn an_ack_before_each_of_ten_thousand_reports_costs_the_same() {
    let mut wire = World::with(large());
    for _ in 0..10_000 {
        wire.push_mortal("", MINUTE, Received);
    }
    wire.push("", Acked);
    wire.up();
    while !wire.poll(Wire::Ready).is_empty() {}
    wire.wait(MINUTE);
    let begun = wire.outbox.steps();
    for _ in 0..10_000 {
        wire.acked(Ack::UpTo(seq(10_000)));
        assert!(wire.poll(Wire::Blocked).starts_with("failed"));
        let steps = wire.outbox.steps() - begun;
        assert!(steps <= 50_000, "{steps}");
    }
}

/// A cumulative refusal counts for what it found in flight: not for what goes after it on the same
/// attempt, and what it called back can still be refused for good.
#[test]
fn a_cumulative_refusal_may_be_followed_by_another_of_the_same_messages() {
    let config = OutboxConfig { can_ping: false, level: Acked, ..OutboxConfig::default() };
    let mut wire = World::with(config.clone());
    wire.push_many(3, Acked);
    let both = Ack::UpTo(seq(2));
    wire.up();
    assert_eq!(wire.drain(), "send 1, send 2, send 3");
    wire.down();
    wire.up();
    // The peer speaks of the last attempt.
    wire.nacked(both, Nack::Transient);
    assert_eq!(wire.drain(), "send 1, send 2, send 3");
    wire.nacked(both, Nack::Transient);
    assert_eq!((wire.outbox.charges(), wire.outbox.in_flight().messages), (1, 1));
    wire.nacked(Ack::One(seq(3)), Nack::Transient);
    wire.wait(config.nack_delay);
    assert_eq!(wire.drain(), "send 1, send 2, send 3");
    wire.nacked(both, Nack::Transient);
    assert_eq!((wire.outbox.charges(), wire.outbox.in_flight().messages), (2, 1));
    wire.nacked(both, Nack::Permanent);
    let rejected = "failed 1 Rejected MaybeDelivered, failed 2 Rejected MaybeDelivered";
    assert_eq!(wire.drain(), rejected);
}

#[test]
fn one_key_pushed_ten_thousand_times_behind_a_live_head_is_one_message() {
    let mut wire = World::with(large());
    wire.push("head", Acked);
    wire.up();
    wire.drain();
    for n in 0..10_000 {
        let options =
            PushOptions { ttl: Some(MINUTE + SECOND * n), key: Some(Key::from("k")), level: None };
        wire.outbox.push(wire.now, "x".into(), options).unwrap();
        let (slots, timers) = wire.outbox.footprint();
        assert!(slots == 2 - usize::from(slots == 1) && timers <= 66, "{slots}, {timers}");
        if n == 0 {
            wire.event(OutboxEvent::Paused(wire.attempt));
        }
    }
}

/// R1: shortened a thousandfold, for in a minute a million a second are sixty million: of what is
/// delivered, evicted or cancelled long before its time is over, hardly a slot or timer is left.
#[test]
fn a_million_pushes_a_second_that_live_for_a_minute_leave_no_slots_or_timers_behind() {
    const LIVES: Duration = MILLISECOND.saturating_mul(60);
    const ROOM: usize = 5_000;
    let config = OutboxConfig {
        max_messages: ROOM,
        window_messages: ROOM,
        overflow: Overflow::EvictOldest,
        ..large()
    };
    for up in [true, false] {
        let mut wire = World::with(config.clone());
        if up {
            wire.up();
        }
        // Three times as long as a message lives.
        for _ in 0..180 {
            for n in 0..1_000 {
                wire.push_mortal("", LIVES, Written);
                if n % 10 == 0 {
                    wire.cancel(wire.outbox.next_seq().get() - 1);
                }
            }
            wire.wait(MILLISECOND);
            let wire_is = if up { Wire::Ready } else { Wire::Blocked };
            while !matches!(wire.outbox.poll(wire_is), OutboxOutput::WaitUntil(_)) {}
            wire.flushed();
            while !matches!(wire.outbox.poll(wire_is), OutboxOutput::WaitUntil(_)) {}
            let (slots, timers) = wire.outbox.footprint();
            let held = wire.outbox.held().messages;
            assert!(held <= ROOM && slots <= 2 * held + 64, "{slots} slots for {held}");
            assert!(timers <= 2 * held + 64, "{timers} timers for {held}");
            assert!(!up || held == 0);
        }
        assert_eq!(wire.outbox.stats().failed[FailReason::Expired as usize], 0);
    }
}

#[test]
fn a_message_that_is_replaced_with_the_same_deadline_has_one_timer() {
    let mut wire = World::with(large());
    for _ in 0..10_000 {
        let options = PushOptions { ttl: Some(MINUTE), key: Some(Key::from("k")), level: None };
        wire.outbox.push(wire.now, "x".into(), options).unwrap();
        let (slots, timers) = wire.outbox.footprint();
        assert!(slots == 1 && timers <= 66, "{slots}, {timers}");
    }
}

#[test]
fn evicting_a_full_queue_behind_a_blocked_head_costs_the_same_each_time() {
    const ROOM: usize = 50_000;
    let config = OutboxConfig {
        max_messages: ROOM,
        window_messages: ROOM,
        overflow: Overflow::EvictOldest,
        ..large()
    };
    let mut wire = World::with(config);
    wire.push("head", Acked);
    wire.up();
    assert_eq!(wire.drain(), "send 1");
    wire.down();
    for n in 0..4 * ROOM {
        let pushed = wire.outbox.push(wire.now, "".into(), PushOptions::default()).unwrap();
        assert_eq!(pushed.displaced.len(), usize::from(n + 1 >= ROOM));
        let (slots, _) = wire.outbox.footprint();
        assert!(slots <= 2 * ROOM + 64);
    }
}

// ---- Helpers ------------------------------------------------------------------------------------

const ID: OutboxId = OutboxId::new(1);
const MILLION: usize = 1_000_000;
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

fn seq(number: u64) -> Seq {
    Seq::new(number)
}

fn name(outbox: OutboxId, number: u64) -> MessageId {
    MessageId { outbox, seq: seq(number) }
}

fn small() -> OutboxConfig {
    OutboxConfig {
        max_messages: 128,
        max_bytes: 2_048,
        max_message_bytes: 8,
        window_messages: 64,
        window_bytes: 512,
        nack_delay: Duration::from_millis(10),
        nack_delay_cap: Duration::from_millis(40),
        // A receipt only where a test wants one.
        receipt_interval_messages: 100,
        receipt_interval_bytes: 1_000,
        ..OutboxConfig::default()
    }
}

fn window_of(messages: usize) -> OutboxConfig {
    OutboxConfig {
        max_messages: messages,
        window_messages: messages,
        max_bytes: 16_000,
        window_bytes: 16_000,
        ..small()
    }
}

fn large() -> OutboxConfig {
    OutboxConfig { max_messages: MILLION + 1, ..OutboxConfig::default() }
}

type Displacements = Vec<(Seq, Body, bool)>;

fn displaced(pushed: bowline_core::Pushed) -> (Seq, Displacements) {
    let displaced = pushed.displaced.into_iter().map(|d| (d.seq, d.body, d.coalesced)).collect();
    (pushed.seq, displaced)
}

/// An outbox, a clock and a link.
#[derive(Clone)]
struct World {
    outbox: Outbox,
    config: OutboxConfig,
    now: Instant,
    attempt: Attempt,
    /// The last ping that came out.
    pinged: Option<Ping>,
}

impl World {
    fn new() -> Self {
        Self::with(small())
    }

    fn with(config: OutboxConfig) -> Self {
        let outbox = Outbox::new(config.clone(), ID).unwrap();
        Self { outbox, config, now: Instant::ZERO, attempt: Attempt::NONE, pinged: None }
    }

    fn restored(
        self,
        id: OutboxId,
        snapshot: Snapshot,
    ) -> Result<Self, bowline_core::RestoreError> {
        let outbox = Outbox::restore(self.config.clone(), id, self.now, snapshot)?;
        Ok(Self { outbox, attempt: Attempt::NONE, pinged: None, ..self })
    }

    fn event(&mut self, event: OutboxEvent) {
        self.outbox.handle(self.now, event);
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.event(OutboxEvent::Tick);
    }

    fn up(&mut self) {
        self.attempt = Attempt::new(self.attempt.get() + 1);
        self.event(OutboxEvent::Up(self.attempt));
    }

    fn down(&mut self) {
        self.event(OutboxEvent::Down { accused: false });
    }

    fn flushed(&mut self) {
        self.event(OutboxEvent::Flushed(self.attempt));
    }

    fn pong(&mut self, number: u64) {
        self.event(OutboxEvent::Ponged(self.attempt, seq(number)));
    }

    fn pong_last(&mut self) {
        let ping = self.pinged.expect("a ping came out");
        self.event(OutboxEvent::Ponged(ping.attempt, ping.seq));
    }

    /// The ping that a link owes after a death, and its pong.
    fn answer_first_ping(&mut self) {
        if let OutboxState::Probing { answered: false } = self.outbox.state() {
            let drained = self.drain();
            assert!(drained.contains("ping") && !drained.contains("send"), "{drained}");
            self.pong_last();
        }
    }

    fn acked(&mut self, ack: Ack) {
        self.event(OutboxEvent::Acked(self.attempt, ack));
    }

    fn nacked(&mut self, ack: Ack, nack: Nack) {
        self.event(OutboxEvent::Nacked(self.attempt, ack, nack));
    }

    fn nacked_from(&mut self, number: u64, nack: Nack) {
        let id = name(ID, number);
        self.event(OutboxEvent::NackedFrom(self.attempt, id, nack));
    }

    fn cancel(&mut self, number: u64) {
        self.event(OutboxEvent::Cancel(seq(number)));
    }

    fn push(&mut self, body: &str, level: Level) -> Seq {
        let options = PushOptions { level: Some(level), ..PushOptions::default() };
        self.outbox.push(self.now, body.into(), options).unwrap().seq
    }

    fn try_push(&mut self, body: &str) -> Result<Seq, Refused> {
        let pushed = self.outbox.push(self.now, body.into(), PushOptions::default());
        pushed.map(|pushed| pushed.seq).map_err(|error| error.reason)
    }

    /// Messages whose bodies are their numbers.
    fn push_many(&mut self, count: u64, level: Level) {
        for _ in 0..count {
            let number = self.outbox.next_seq().to_string();
            self.push(&number, level);
        }
    }

    fn push_mortal(&mut self, body: &str, ttl: Duration, level: Level) {
        let options = PushOptions { level: Some(level), ttl: Some(ttl), key: None };
        self.outbox.push(self.now, body.into(), options).unwrap();
    }

    fn push_keyed(&mut self, body: &str, key: &str) -> (Seq, Displacements) {
        let options = PushOptions { key: Some(Key::from(key)), ..PushOptions::default() };
        displaced(self.outbox.push(self.now, body.into(), options).unwrap())
    }

    /// Flushes, pongs and acks until everything is settled.
    fn run_honestly(&mut self) {
        for _ in 0..50 {
            self.drain();
            self.flushed();
            if self.pinged.is_some_and(|ping| ping.attempt == self.attempt) {
                self.pong_last();
            }
            if self.outbox.in_flight().messages > 0 {
                let head = self.outbox.watermark();
                self.acked(Ack::One(head));
            }
        }
    }

    /// One output as text; nothing for a deadline.
    fn poll(&mut self, wire: Wire) -> String {
        match self.outbox.poll(wire) {
            OutboxOutput::Overdue(attempt) => {
                assert_eq!(attempt, self.attempt);
                "overdue".into()
            }
            OutboxOutput::Delivered { first, last } if first == last => {
                format!("delivered {first}")
            }
            OutboxOutput::Delivered { first, last } => format!("delivered {first}-{last}"),
            OutboxOutput::Failed(failed) => {
                format!("failed {} {:?} {:?}", failed.id.seq, failed.reason, failed.fate)
            }
            OutboxOutput::Ping(ping) => {
                assert_eq!(ping.attempt, self.attempt);
                self.pinged = Some(ping);
                format!("ping {}", ping.seq)
            }
            OutboxOutput::Transmit { id, .. } => format!("send {}", id.seq),
            OutboxOutput::WaitUntil(_) => String::new(),
        }
    }

    fn drain(&mut self) -> String {
        self.drain_with(Wire::Ready)
    }

    fn drain_blocked(&mut self) -> String {
        self.drain_with(Wire::Blocked)
    }

    fn drain_with(&mut self, wire: Wire) -> String {
        let mut drained = String::new();
        loop {
            let did = self.poll(wire);
            if did.is_empty() {
                return drained;
            }
            let comma = if drained.is_empty() { "" } else { ", " };
            write!(drained, "{comma}{did}").unwrap();
        }
    }

    /// The bodies that are transmitted now.
    fn bodies(&mut self) -> Vec<String> {
        let mut bodies = Vec::new();
        loop {
            match self.outbox.poll(Wire::Ready) {
                OutboxOutput::Transmit { body, .. } => {
                    bodies.push(body.as_text().unwrap().to_owned());
                }
                OutboxOutput::WaitUntil(_) => return bodies,
                _ => {}
            }
        }
    }

    fn count_failed(&mut self) -> usize {
        let mut count = 0;
        while let OutboxOutput::Failed(_) = self.outbox.poll(Wire::Blocked) {
            count += 1;
        }
        count
    }

    fn deadline(&self) -> Option<(Instant, Timer)> {
        self.outbox.deadline().map(|Deadline { at, timer }| (at, timer))
    }
}
