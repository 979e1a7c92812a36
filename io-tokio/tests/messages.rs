//! What becomes of messages that go through handles: receipts, reports, permits, fairness, keys,
//! eviction, cancelling.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bowline_core::{Backoff, Jitter, outbox::Overflow};
use bowline_tokio::{
    Body, Builder, Dialect, FailReason, Failure, FailureReason, Fate, Handle, Level, Phase, Plain,
    PushOptions, Receipt, ReceiptError, SendError, SendRefused, Seq,
};
use peer::{Peer, settle, soon, until};
use tokio::time::Instant;

mod peer;

// ---- Receipts and reports ---------------------------------------------------------------------

/// H29: Ok of a send says that the client has the message, and nothing of the peer.
#[tokio::test(start_paused = true)]
async fn ok_of_a_send_is_not_a_receipt() {
    let peer = Peer::default();
    peer.now(|peer| peer.mute = true);
    let (client, _inbound) = peer.start();
    let mut receipts = Vec::new();
    for n in 0..2000 {
        receipts.push(sent(&client, n.to_string()).await.into_future());
    }
    until("all are handed over", || peer.lock().got.len() == 2000).await;
    for receipt in &mut receipts {
        assert!(poll_once(receipt).is_pending(), "the peer has not said that it has them");
    }
    peer.hangs_up();
    peer.now(|peer| peer.mute = false);
    for receipt in receipts {
        assert_eq!(soon("receipts of the replay", receipt).await, Ok(()));
    }
    // What was sent once came twice; nobody was told otherwise.
    assert_eq!(client.stats().client.outbox.replays, 2000);
    assert_eq!(client.stats().client.outbox.delivered, 2000);
}

#[tokio::test(start_paused = true)]
async fn a_receipt_may_be_awaited_early_late_or_never() {
    let peer = Peer::default();
    let (client, _inbound) = peer.start();
    let early = sent(&client, "early").await;
    assert_eq!(soon("a receipt", early.into_future()).await, Ok(()));
    let late = sent(&client, "late").await;
    drop(sent(&client, "never").await);
    assert!(soon("a flush", client.flush()).await.expect("up").is_clean());
    assert_eq!(poll_once(&mut late.into_future()), Poll::Ready(Ok(())));
    assert_eq!(peer.got(), ["early", "late", "never"]);
}

/// H56: a driver that sleeps is woken by the first message, and each leaves without waiting for
/// more.
#[tokio::test(start_paused = true)]
async fn a_lone_message_leaves_at_once() {
    let peer = Peer::default();
    let (client, _inbound) = peer.start();
    until("it is up", || client.status().borrow().phase == Phase::Up).await;
    for n in 0..100 {
        settle().await;
        let began = Instant::now();
        let receipt = sent(&client, n.to_string()).await;
        assert_eq!(soon("a receipt", receipt.into_future()).await, Ok(()));
        assert_eq!(began.elapsed(), Duration::ZERO, "no timer has to run out for it");
    }
}

/// H26: a failure is handed out once: to its receipt if that is awaited, else in one report.
#[tokio::test(start_paused = true)]
async fn a_failure_is_handed_out_once() {
    let peer = Peer::default();
    peer.now(|peer| peer.hangs = true);
    let (client, _inbound) = peer.start();
    let awaited = sent(&client, "awaited").await;
    let unawaited = sent(&client, "unawaited").await;
    let (first, second) = (awaited.seq(), unawaited.seq());
    let waiting = tokio::spawn(awaited.into_future());
    settle().await;
    client.cancel(first);
    client.cancel(second);
    let report = soon("a flush", client.flush()).await.expect("not stopped");
    assert_eq!(report.failures, [cancelled(second, "unawaited")]);
    let failed = ReceiptError::Failed(cancelled(first, "awaited"));
    assert_eq!(waiting.await.expect("no panic"), Err(failed));

    assert!(client.flush().await.expect("not stopped").is_clean(), "reported twice");
    assert_eq!(unawaited.into_future().await, Err(ReceiptError::Reported(second)));
    assert_eq!(client.delivered(first).await, Err(ReceiptError::Reported(first)));
}

#[tokio::test(start_paused = true)]
async fn a_flush_that_waits_for_the_same_message_leaves_the_failure_to_its_receipt() {
    let peer = Peer::default();
    peer.now(|peer| peer.hangs = true);
    let (client, _inbound) = peer.start();
    let receipt = sent(&client, "last").await;
    let seq = receipt.seq();
    let mut waiting = receipt.into_future();
    let mut flushing = Box::pin(client.flush());
    assert!(poll_once(&mut waiting).is_pending() && poll_once(&mut flushing).is_pending());
    client.cancel(seq);
    // Both are woken, and the flush is the first to look.
    assert!(soon("a flush", flushing).await.expect("not stopped").is_clean());
    let failed = ReceiptError::Failed(cancelled(seq, "last"));
    assert_eq!(waiting.await, Err(failed));
}

#[tokio::test(start_paused = true)]
async fn a_receipt_that_is_dropped_while_it_waits_leaves_its_failure_to_the_report() {
    let peer = Peer::default();
    peer.now(|peer| peer.hangs = true);
    let (client, _inbound) = peer.start();
    for wake_first in [false, true] {
        let receipt = sent(&client, "m").await;
        let seq = receipt.seq();
        let mut waiting = receipt.into_future();
        assert!(poll_once(&mut waiting).is_pending());
        if wake_first {
            client.cancel(seq);
            until("it failed", || client.stats().client.outbox.failed.iter().sum::<u64>() == 2)
                .await;
        }
        drop(waiting);
        client.cancel(seq);
        let report = soon("a flush", client.flush()).await.expect("not stopped");
        assert_eq!(report.failures, [cancelled(seq, "m")]);
    }
}

#[tokio::test(start_paused = true)]
async fn failures_are_forgotten_only_when_they_are_too_many_to_keep() {
    let peer = Peer::default();
    peer.now(|peer| peer.mute = true);
    let (client, _inbound) = peer.builder().capacity(4).start().expect("good");
    let head = sent(&client, "head").await;
    until("it is in flight", || peer.lock().got.len() == 1).await;
    let mut later = Vec::new();
    for n in 0..6 {
        let receipt = sent(&client, n.to_string()).await;
        client.cancel(receipt.seq());
        later.push(receipt);
    }
    until("all failed", || client.stats().client.outbox.failed.iter().sum::<u64>() == 6).await;
    settle().await;
    let mut head = head.into_future();
    assert!(poll_once(&mut head).is_pending(), "it is not settled, so there is nothing to forget");
    peer.hangs_up();
    peer.now(|peer| peer.mute = false);
    let report = soon("a flush", client.flush()).await.expect("up");
    assert_eq!(report.not_kept, 2);
    let kept: Vec<Seq> = report.failures.iter().map(|failure| failure.seq).collect();
    let expected: Vec<Seq> = later[2..].iter().map(Receipt::seq).collect();
    assert_eq!(kept, expected);
    let forgotten = later.remove(0);
    let seq = forgotten.seq();
    assert_eq!(forgotten.into_future().await, Err(ReceiptError::Forgotten(seq)));
}

#[tokio::test(start_paused = true)]
async fn written_settles_without_a_word_of_the_peer() {
    let peer = Peer::default();
    peer.now(|peer| (peer.mute, peer.blocked) = (true, true));
    let (client, _inbound) = peer.builder().level(Level::Written).start().expect("good");
    let mut receipt = sent(&client, "m").await.into_future();
    settle().await;
    assert!(poll_once(&mut receipt).is_pending(), "the socket has not taken it");
    peer.now(|peer| peer.blocked = false);
    assert_eq!(soon("a receipt", receipt).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn an_ack_settles_and_a_refusal_fails_at_once() {
    let peer = Peer::default();
    let (client, _inbound) = peer.acking().level(Level::Acked).start().expect("good");
    let (one, two, three) =
        (sent(&client, "1").await, sent(&client, "2").await, sent(&client, "3").await);
    until("all are handed over", || peer.lock().got.len() == 3).await;
    peer.says("no 2");
    let failure = soon("a refusal", two.into_future()).await;
    let Err(ReceiptError::Failed(failure)) = failure else { panic!("{failure:?}") };
    assert_eq!(failure.reason, FailureReason::Settled(FailReason::Rejected));
    assert_eq!(failure.fate, Fate::MaybeDelivered);
    let mut three = three.into_future();
    assert!(poll_once(&mut three).is_pending());
    peer.says("ack 3");
    assert_eq!(soon("an ack", one.into_future()).await, Ok(()));
    assert_eq!(soon("an ack", three).await, Ok(()));
}

// ---- What is not taken ------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn what_cannot_be_taken_is_handed_back() {
    let peer = Peer::default();
    peer.now(|peer| peer.hangs = true);
    let builder = peer.acking().capacity(1).configure(|config| {
        config.outbox.max_message_bytes = 10;
    });
    let (client, _inbound) = builder.start().expect("good");

    let SendError::Refused(unsent) = client.send("more than ten bytes").await.unwrap_err() else {
        panic!("encoded")
    };
    assert_eq!(unsent.reason, SendRefused::TooLarge { size: 19, limit: 10 });
    assert_eq!(unsent.body, "more than ten bytes".into());

    let key = PushOptions { key: Some("12345678".into()), ..PushOptions::default() };
    let error = client.send_with("123", key).await.unwrap_err();
    let SendError::Refused(unsent) = error else { panic!("encoded") };
    assert_eq!(unsent.reason, SendRefused::TooLarge { size: 11, limit: 10 });

    let SendError::Encode { message, error } = client.send("unspeakable").await.unwrap_err() else {
        panic!("encoded")
    };
    assert_eq!((message, error), ("unspeakable".into(), "that cannot be said"));

    client.try_send("fits").expect("room");
    let SendError::Refused(unsent) = client.try_send("full").unwrap_err() else {
        panic!("encoded")
    };
    assert_eq!((unsent.reason, unsent.body), (SendRefused::Full, "full".into()));

    let plain = peer.builder().start().expect("good").0;
    let acked = PushOptions { level: Some(Level::Acked), ..PushOptions::default() };
    let SendError::Refused(unsent) = plain.send_with("m", acked).await.unwrap_err();
    assert_eq!(unsent.reason, SendRefused::Level(Level::Acked));
    assert_eq!(unsent.body, "m".into());
}

// ---- Room -------------------------------------------------------------------------------------

/// H36: bounded in messages; whoever waits for room waits for nobody else's harm.
#[tokio::test(start_paused = true)]
async fn a_send_waits_for_room_while_the_writer_is_blocked_and_others_go_on() {
    let (stuck, fine) = (Peer::default(), Peer::default());
    stuck.now(|peer| peer.blocked = true);
    let (one, _inbound) = stuck.builder().capacity(2).start().expect("good");
    let (other, _inbound2) = fine.start();
    for n in 0..2 {
        sent(&one, n.to_string()).await;
    }
    let mut third = pin!(one.send("2"));
    assert!(poll_once(&mut third).is_pending());
    for n in 0..1000 {
        sent(&other, n.to_string()).await;
    }
    assert!(soon("the other client", other.flush()).await.expect("up").is_clean());
    assert!(poll_once(&mut third).is_pending(), "there is no room yet");
    stuck.now(|peer| peer.blocked = false);
    let receipt = soon("room", third).await.expect("taken");
    assert_eq!(soon("a receipt", receipt.into_future()).await, Ok(()));
    assert_eq!(stuck.got(), ["0", "1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn producers_are_served_in_the_order_in_which_they_came_and_large_ones_too() {
    let peer = Peer::default();
    peer.now(|peer| peer.blocked = true);
    let builder = peer.builder().configure(|config| {
        config.outbox.max_bytes = 100;
        config.outbox.window_bytes = 100;
        config.outbox.max_message_bytes = 100;
    });
    let (client, _inbound) = builder.start().expect("good");
    sent(&client, "x".repeat(60)).await;
    let large = "L".repeat(100);
    let mut producers = Vec::new();
    for message in [large.clone(), "small".to_owned(), "other".to_owned()] {
        let client = client.clone();
        producers.push(tokio::spawn(async move { client.send(message).await.map(|_| ()) }));
        settle().await;
    }
    let SendError::Refused(unsent) = client.try_send("pushy").unwrap_err();
    assert_eq!(unsent.reason, SendRefused::Full, "there is room for it, but others came before");
    peer.now(|peer| peer.blocked = false);
    for producer in producers {
        soon("a place in the line", producer).await.expect("no panic").expect("taken");
    }
    client.flush().await.expect("up");
    assert_eq!(peer.got()[1..], [large, "small".to_owned(), "other".to_owned()]);
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_leaves_the_line_passes_its_turn_on() {
    let peer = Peer::default();
    peer.now(|peer| peer.blocked = true);
    let (client, _inbound) = peer.builder().capacity(1).start().expect("good");
    sent(&client, "0").await;
    let (mut second, began) = {
        let mut first = Box::pin(client.send("first"));
        assert!(poll_once(&mut first).is_pending());
        let second = tokio::spawn({
            let client = client.clone();
            async move { client.send("second").await.map(|_| ()) }
        });
        settle().await;
        // It is woken, for there is room, and leaves without taking it.
        peer.now(|peer| peer.blocked = false);
        until("there is room", || client.stats().client.outbox.delivered == 1).await;
        drop(first);
        (second, Instant::now())
    };
    soon("the turn of the second", &mut second).await.expect("no panic").expect("taken");
    assert!(began.elapsed() < Duration::from_secs(5), "a heartbeat woke it by chance");
    client.flush().await.expect("up");
    assert_eq!(peer.got(), ["0", "second"]);
}

#[tokio::test(start_paused = true)]
async fn a_permit_holds_room_until_it_is_used_or_dropped() {
    let peer = Peer::default();
    peer.now(|peer| peer.hangs = true);
    let builder = peer.acking().capacity(1).configure(|config| {
        config.outbox.max_message_bytes = 10;
    });
    let (client, _inbound) = builder.start().expect("good");
    for _ in 0..3 {
        let permit = soon("room", client.reserve()).await.expect("room");
        let Err(SendError::Refused(unsent)) = client.try_send("m") else { panic!("taken") };
        assert_eq!(unsent.reason, SendRefused::Full);
        drop(permit);
    }
    // What a permit does not send gives its room back.
    let error =
        soon("room", client.reserve()).await.expect("room").send("much too large").unwrap_err();
    let SendError::Refused(unsent) = error else { panic!("encoded") };
    assert_eq!(unsent.reason, SendRefused::TooLarge { size: 14, limit: 10 });
    let error =
        soon("room", client.reserve()).await.expect("room").send("unspeakable").unwrap_err();
    assert!(matches!(error, SendError::Encode { .. }));
    soon("room", client.reserve()).await.expect("room").send("m").expect("taken");
    assert!(poll_once(&mut pin!(client.reserve())).is_pending(), "it is used");
}

/// H28 H55: a future that is dropped at any of its await points loses nothing but its own message,
/// and keeps no room.
#[tokio::test(start_paused = true)]
async fn futures_that_are_dropped_lose_nothing_and_keep_no_room() {
    let peer = Peer::default();
    peer.now(|peer| peer.blocked = true);
    let (client, mut inbound) = peer.builder().capacity(3).start().expect("good");
    let mut taken = Vec::new();
    for round in 0..200 {
        peer.now(|peer| peer.blocked = round % 7 != 0);
        let mut send = Some(Box::pin(client.send(round.to_string())));
        let mut reserve = Some(Box::pin(client.reserve()));
        let mut flush = Some(Box::pin(client.flush()));
        let mut snapshot = Some(Box::pin(client.snapshot()));
        for _ in 0..round % 3 + 1 {
            if let Some(receipt) = poll_until_done(&mut send) {
                taken.push(round.to_string());
                let _ = poll_once(&mut receipt.expect("taken").into_future());
            }
            if let Some(permit) = poll_until_done(&mut reserve) {
                drop(permit.expect("room"));
            }
            let _ = poll_until_done(&mut flush);
            let _ = poll_until_done(&mut snapshot);
            let _ = poll_once(&mut pin!(inbound.recv()));
            settle().await;
        }
    }
    peer.now(|peer| peer.blocked = false);
    assert!(soon("a flush", client.flush()).await.expect("up").is_clean());
    assert!(taken.len() > 10, "next to nothing was sent");
    assert_eq!(peer.got(), taken);
    let mut permits = Vec::new();
    for _ in 0..3 {
        permits.push(soon("room that was lost", client.reserve()).await.expect("up"));
    }
    // A close that is dropped goes on.
    drop(permits);
    assert!(poll_once(&mut pin!(client.close(Duration::from_secs(1)))).is_pending());
    until("it is over", || matches!(client.status().borrow().phase, Phase::Stopped { .. })).await;
}

/// H49: whether the link is up is nobody's business: what is sent while it goes down is delivered
/// over the next one.
#[tokio::test(start_paused = true)]
async fn a_link_that_goes_down_between_looking_and_sending_loses_nothing() {
    let peer = Peer::default();
    let (client, _inbound) = peer.start();
    for n in 0..50 {
        until("it is up", || client.status().borrow().phase == Phase::Up).await;
        peer.hangs_up();
        sent(&client, n.to_string()).await;
    }
    assert!(soon("a flush", client.flush()).await.expect("not stopped").is_clean());
    let mut got = peer.got();
    got.dedup();
    let sent: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    assert_eq!(got, sent);
}

// ---- Cancelling, keys, time to live, eviction ---------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_message_is_cancelled_queued_or_in_flight() {
    let peer = Peer::default();
    peer.now(|peer| (peer.mute, peer.blocked) = (true, true));
    let (client, _inbound) = peer.start();
    let queued = sent(&client, "queued").await;
    settle().await;
    client.cancel(queued.seq());
    let seq = queued.seq();
    let failed = ReceiptError::Failed(cancelled(seq, "queued"));
    assert_eq!(soon("a receipt", queued.into_future()).await, Err(failed));

    peer.now(|peer| peer.blocked = false);
    let in_flight = sent(&client, "in flight").await;
    until("it is in flight", || peer.lock().got.len() == 1).await;
    client.cancel(in_flight.seq());
    let seq = in_flight.seq();
    let failure = Failure { fate: Fate::MaybeDelivered, ..cancelled(seq, "in flight") };
    let failed = ReceiptError::Failed(failure);
    assert_eq!(soon("a receipt", in_flight.into_future()).await, Err(failed));
    assert_eq!(peer.got(), ["in flight"]);
}

#[tokio::test(start_paused = true)]
async fn the_newest_of_a_key_arrives_and_the_receipts_of_the_others_say_replaced() {
    let peer = Peer::default();
    peer.now(|peer| peer.blocked = true);
    let (client, _inbound) = peer.start();
    let mut receipts = Vec::new();
    for n in 0..4 {
        receipts.push(client.send_with(format!("k{n}"), keyed("k")).await.expect("room"));
        receipts.push(sent(&client, n.to_string()).await);
    }
    peer.now(|peer| peer.blocked = false);
    for (index, receipt) in receipts.into_iter().enumerate() {
        let seq = receipt.seq();
        assert_eq!(seq.get(), index as u64 + 1);
        let outcome = soon("a receipt", receipt.into_future()).await;
        if index % 2 == 1 || index == 6 {
            assert_eq!(outcome, Ok(()), "message {seq}");
        } else {
            let body = format!("k{}", index / 2).into();
            let reason = FailureReason::Replaced;
            let failure = Failure { seq, reason, fate: Fate::NotSent, body };
            assert_eq!(outcome, Err(ReceiptError::Failed(failure)));
        }
    }
    assert_eq!(peer.got(), ["k3", "0", "1", "2", "3"]);
    assert!(client.flush().await.expect("up").is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_coalesced_message_is_cancelled_by_its_own_number_alone() {
    let peer = Peer::default();
    peer.now(|peer| peer.blocked = true);
    let (client, _inbound) = peer.start();
    let old = client.send_with("old", keyed("k")).await.expect("room");
    let new = client.send_with("new", keyed("k")).await.expect("room");
    settle().await;
    client.cancel(old.seq());
    settle().await;
    let mut waiting = new.into_future();
    assert!(poll_once(&mut waiting).is_pending(), "the old number is not the new message");
    client.cancel(Seq::new(2));
    let failed = ReceiptError::Failed(cancelled(Seq::new(2), "new"));
    assert_eq!(soon("a receipt", waiting).await, Err(failed));
    let replaced = soon("a receipt", old.into_future()).await;
    let Err(ReceiptError::Failed(replaced)) = replaced else { panic!("{replaced:?}") };
    assert_eq!((replaced.seq, replaced.reason), (Seq::new(1), FailureReason::Replaced));
    sent(&client, "next").await;
    peer.now(|peer| peer.blocked = false);
    client.flush().await.expect("up");
    assert_eq!(peer.got(), ["next"]);
}

/// H41: the way out is to cancel the message that the status names.
#[tokio::test(start_paused = true)]
async fn a_suspected_message_is_named_by_the_number_that_cancels_it() {
    let peer = Peer::default();
    peer.now(|peer| peer.poison = Some("poison".into()));
    peer.goes_away();
    let builder = peer
        .builder()
        .backoff(Backoff { jitter: Jitter::None, ..Backoff::default() })
        .configure(|config| {
            config.outbox.suspect_limit = 2;
        });
    let (client, _inbound) = builder.start().expect("good");
    client.send_with("old", keyed("k")).await.expect("room");
    let poison = client.send_with("poison", keyed("k")).await.expect("room");
    let after = sent(&client, "after").await;
    let mut status = client.status();
    peer.comes_back();
    let suspected = soon("suspicion", status.wait_for(|status| status.suspected.is_some()));
    let suspected = suspected.await.expect("alive").suspected.expect("waited for");
    assert_eq!(suspected, poison.seq());
    client.cancel(suspected);
    let outcome = soon("the way out", poison.into_future()).await;
    assert!(matches!(outcome, Err(ReceiptError::Failed(_))), "{outcome:?}");
    assert_eq!(soon("the next one", after.into_future()).await, Ok(()));
}

/// H35
#[tokio::test(start_paused = true)]
async fn a_time_to_live_ends_a_message_connected_or_not() {
    let peer = Peer::default();
    peer.now(|peer| peer.refuses = Some(bowline_core::Loss::Connect));
    let (client, _inbound) = peer.start();
    let mortal = PushOptions { ttl: Some(Duration::from_secs(60)), ..PushOptions::default() };
    let sent_at = tokio::time::Instant::now();
    let mortal = client.send_with("mortal", mortal).await.expect("room");
    let immortal = sent(&client, "immortal").await;
    let failed = mortal.into_future().await;
    let Err(ReceiptError::Failed(failure)) = failed else { panic!("{failed:?}") };
    assert_eq!(failure.reason, FailureReason::Settled(FailReason::Expired));
    let lived = sent_at.elapsed();
    assert!(lived >= Duration::from_secs(60) && lived < Duration::from_secs(63), "{lived:?}");
    peer.comes_back();
    assert_eq!(soon("a receipt", immortal.into_future()).await, Ok(()));
    assert_eq!(peer.got(), ["immortal"]);
}

/// H27: what is evicted is reported, each message once.
#[tokio::test(start_paused = true)]
async fn eviction_is_reported() {
    let peer = Peer::default();
    peer.now(|peer| peer.blocked = true);
    let (client, _inbound) = evicting(&peer, 3).start().expect("good");
    for n in 0..10 {
        soon("room is made", client.send(n.to_string())).await.expect("taken");
        settle().await;
    }
    peer.now(|peer| peer.blocked = false);
    let report = soon("a flush", client.flush()).await.expect("up");
    let evicted: Vec<_> = report.failures.iter().map(|f| (f.seq.get(), f.reason)).collect();
    // The report keeps as many as the outbox may hold.
    let reason = FailureReason::Evicted;
    assert_eq!((evicted, report.not_kept), (vec![(5, reason), (6, reason), (7, reason)], 4));
    assert_eq!(peer.got(), ["7", "8", "9"]);
}

/// Everything in the outbox is transmitted, so nothing can be evicted, and what was taken meanwhile
/// waits behind it.
#[tokio::test(start_paused = true)]
async fn messages_that_wait_behind_an_outbox_without_anything_to_evict_are_not_forgotten() {
    for end in ["delivered", "cancelled", "drained", "closed", "stopped", "dropped", "saved"] {
        let peer = Peer::default();
        peer.now(|peer| (peer.mute, peer.ignores_close) = (true, true));
        let builder = evicting(&peer, 2).max_attempts(1);
        let (client, inbound, driver) = builder.build().expect("good");
        let driver = tokio::spawn(driver);
        until("it is up", || client.status().borrow().phase == Phase::Up).await;
        // All in one breath: two are in the outbox when permits for two more are given, because
        // what was not transmitted yet counts as room.
        peer.now(|peer| peer.blocked = true);
        sent(&client, "0").await;
        sent(&client, "1").await;
        settle().await;
        let permits =
            (client.reserve().await.expect("room"), client.reserve().await.expect("room"));
        peer.now(|peer| peer.blocked = false);
        until("both are in flight", || peer.lock().got.len() == 2).await;
        let two = permits.0.send("2").expect("taken");
        let three = permits.1.send("3").expect("taken");
        until("they wait", || client.stats().backlog == 2).await;

        let (two_seq, three_seq) = (two.seq(), three.seq());
        match end {
            "delivered" | "cancelled" => {
                if end == "cancelled" {
                    client.cancel(two_seq);
                    settle().await;
                }
                peer.now(|peer| peer.mute = false);
                let pong_is_late = client.delivered(Seq::new(2));
                assert_eq!(soon("a receipt by the heartbeat", pong_is_late).await, Ok(()));
                let two = soon("an outcome", two.into_future()).await;
                assert_eq!(two.is_ok(), end == "delivered", "{two:?}");
                assert_eq!(soon("an outcome", three.into_future()).await, Ok(()));
            }
            "drained" => {
                let closing = tokio::spawn({
                    let client = client.clone();
                    async move { client.close(Duration::from_secs(60)).await }
                });
                settle().await;
                peer.now(|peer| peer.mute = false);
                let report = soon("the end", closing).await.expect("no panic");
                assert!(report.expect("the driver lives").is_clean());
                assert_eq!(peer.got(), ["0", "1", "2", "3"]);
            }
            "closed" | "stopped" => {
                if end == "stopped" {
                    peer.goes_away();
                    until("it gives up", || {
                        matches!(client.status().borrow().phase, Phase::Stopped { .. })
                    })
                    .await;
                }
                let report = soon("the end", client.close(Duration::from_secs(1))).await;
                let report = report.expect("the driver lives");
                let left: Vec<_> = report.failures.iter().map(|f| (f.seq.get(), f.fate)).collect();
                assert_eq!(report.not_kept, 2, "{end}");
                assert_eq!(left, [(3, Fate::NotSent), (4, Fate::NotSent)], "{end}");
                assert!(client.flush().await.expect("all is settled").is_clean());
            }
            "dropped" => {
                driver.abort();
                let (_, report) = soon("the end", client.close(Duration::ZERO)).await.unwrap_err();
                let left: Vec<_> = report.failures.iter().map(|f| f.seq).collect();
                assert_eq!(left, [two_seq, three_seq]);
                assert_eq!(report.not_kept, 2);
            }
            _ => {
                let snapshot = client.snapshot().await.expect("the driver lives");
                let saved: Vec<_> = snapshot.messages.iter().map(|m| m.id.seq.get()).collect();
                assert_eq!((saved, snapshot.next_seq), (vec![1, 2, 3, 4], Seq::new(5)));
                let after = Peer::default();
                let restored = after.builder().restore(snapshot).start();
                let (restored, _inbound) = restored.expect("larger limits");
                assert!(soon("a flush", restored.flush()).await.expect("up").is_clean());
                assert_eq!(after.got(), ["0", "1", "2", "3"]);
            }
        }
        drop(inbound);
    }
}

// ---- Helpers ------------------------------------------------------------------------------------

async fn sent<D: Dialect>(client: &Handle<D>, text: impl Into<String>) -> Receipt
where
    D::Message: From<String>,
    D::Error: std::fmt::Debug,
{
    client.send(text.into()).await.expect("taken")
}

fn cancelled(seq: Seq, body: &str) -> Failure {
    let reason = FailureReason::Settled(FailReason::Cancelled);
    Failure { seq, reason, fate: Fate::NotSent, body: Body::from(body) }
}

fn keyed(key: &str) -> PushOptions {
    PushOptions { key: Some(key.into()), ..PushOptions::default() }
}

fn evicting(peer: &Peer, capacity: usize) -> Builder<Plain> {
    peer.builder().capacity(capacity).configure(|config| {
        config.outbox.overflow = Overflow::EvictOldest;
    })
}

/// Polls a future once, unless it is done already.
fn poll_until_done<F: Future + Unpin>(future: &mut Option<F>) -> Option<F::Output> {
    match poll_once(future.as_mut()?) {
        Poll::Ready(output) => {
            *future = None;
            Some(output)
        }
        Poll::Pending => None,
    }
}

/// Polls a future once, for nobody.
fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}
