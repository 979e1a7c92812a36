//! Both directions at once: a consumer that is slow, fails or is not there, and senders that do not
//! stop.

use std::{
    future::IntoFuture,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bowline_tokio::{Handle, Level, Phase, Plain, ReceiptError, WaitError};
use peer::{Inquisitive, Peer, settle, soon, until};

mod peer;

const SECOND: Duration = Duration::from_secs(1);

/// H53: a consumer that takes nothing makes neither memory grow nor the peer seem dead.
#[tokio::test(start_paused = true)]
async fn a_consumer_that_takes_nothing_costs_neither_memory_nor_the_connection() {
    let peer = Peer::default();
    let builder = peer.builder().configure(|config| config.inbound_messages = 8);
    let (client, mut inbound) = builder.start().expect("good");
    until("it is up", || client.status().borrow().phase == Phase::Up).await;
    for n in 0..1000 {
        peer.says(n.to_string());
    }
    tokio::time::sleep(600 * SECOND).await;
    assert_eq!(peer.lock().read, 8, "no more is read than there is room for");
    assert_eq!(peer.dials(), 1, "the peer was taken for dead");
    for n in 0..1000 {
        assert_eq!(soon("a message", inbound.recv()).await, Some(n.to_string().into()));
    }
    assert_eq!(peer.dials(), 1);
}

/// H53: bounded by bytes too.
#[tokio::test(start_paused = true)]
async fn large_inbound_messages_fill_the_buffer_by_their_bytes() {
    let peer = Peer::default();
    let builder = peer.builder().configure(|config| config.inbound_bytes = 1000);
    let (client, mut inbound) = builder.start().expect("good");
    until("it is up", || client.status().borrow().phase == Phase::Up).await;
    for _ in 0..100 {
        peer.says("x".repeat(300));
    }
    tokio::time::sleep(SECOND).await;
    assert_eq!(peer.lock().read, 4, "the one that reaches the limit is the last");
    for _ in 0..100 {
        assert!(soon("a message", inbound.recv()).await.is_some());
    }
}

/// H67: what waits for acks that cannot be read ends with a reason, and goes on when they can.
#[tokio::test(start_paused = true)]
async fn waits_end_as_stalled_while_nobody_takes_inbound_messages() {
    let peer = Peer::default();
    peer.now(|peer| peer.echoes = true);
    let builder = peer.builder().capacity(50).configure(|config| config.inbound_messages = 8);
    let (client, mut inbound) = builder.start().expect("good");
    until("it is up", || client.status().borrow().phase == Phase::Up).await;
    let mut first = None;
    let mut sent = 0;
    let began = tokio::time::Instant::now();
    let unsent = loop {
        match soon("a send", client.send(sent.to_string())).await {
            Ok(receipt) => {
                first.get_or_insert(receipt);
                sent += 1;
            }
            Err(error) => break error,
        }
        assert!(sent < 1000, "nothing is bounded here");
    };
    assert!(began.elapsed() >= 30 * SECOND, "stall_limit is 30 s");
    assert_eq!(unsent.to_string(), WaitError::Stalled.to_string());
    assert!(unsent.to_string().contains("another task"), "it says what to do");
    assert_eq!(soon("a flush", client.flush()).await, Err(WaitError::Stalled));
    // The receipts of the first few may have come before the echoes; not the last one's.
    let last = client.delivered(bowline_tokio::Seq::new(sent));
    assert_eq!(soon("a receipt", last).await, Err(ReceiptError::Wait(WaitError::Stalled)));

    let reader = tokio::spawn(async move {
        let mut taken = 0;
        while inbound.recv().await.is_some() {
            taken += 1;
        }
        taken
    });
    until("the stall is over", || peer.lock().read as u64 == sent).await;
    assert!(soon("a flush", client.flush()).await.expect("not stalled any more").is_clean());
    client.close(SECOND).await.expect("the driver lives");
    assert_eq!(soon("the reader", reader).await.expect("no panic"), sent);
    assert_eq!(peer.dials(), 1);
}

/// H53: slow is not stalled.
#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_slow_is_not_stalled() {
    let peer = Peer::default();
    let builder = peer.acking().level(Level::Acked).configure(|config| {
        config.inbound_messages = 8;
    });
    let (client, mut inbound) = builder.start().expect("good");
    let receipt = client.send("m").await.expect("room");
    until("it is in flight", || peer.lock().got.len() == 1).await;
    for n in 0..40 {
        peer.says(n.to_string());
    }
    peer.says("ack 1");
    let waiting = Inquisitive::new(receipt.into_future());
    for _ in 0..40 {
        tokio::time::sleep(20 * SECOND).await;
        assert!(inbound.recv().await.is_some());
    }
    until("the ack is read", || waiting.outcome().is_some()).await;
    assert_eq!(waiting.outcome(), Some(Ok(())));
}

/// H45 H48: a handler that waits, is slow or fails stalls nothing but itself.
#[tokio::test(start_paused = true)]
async fn a_handler_that_hangs_or_fails_does_not_keep_messages_from_being_sent() {
    for fails in [false, true] {
        let peer = Peer::default();
        let builder = peer.builder().configure(|config| config.inbound_messages = 2);
        let (client, mut inbound) = builder.start().expect("good");
        until("it is up", || client.status().borrow().phase == Phase::Up).await;
        let handler = tokio::spawn(async move {
            let message = inbound.recv().await;
            assert!(!fails, "a handler that fails: {message:?}");
            std::future::pending::<()>().await;
            drop(inbound);
        });
        for n in 0..10 {
            peer.says(n.to_string());
        }
        settle().await;
        assert_eq!(handler.is_finished(), fails);
        for n in 0..1000 {
            soon("room", client.send(n.to_string())).await.expect("taken");
        }
        until("all are sent", || peer.lock().got.len() == 1000).await;
        if fails {
            // Its half went with it, so reading goes on.
            assert!(soon("a flush", client.flush()).await.expect("up").is_clean());
        }
        handler.abort();
    }
}

/// H46: however much is sent, what comes is read, and acks with it.
#[tokio::test(start_paused = true)]
async fn steady_sending_does_not_starve_reading() {
    let peer = Peer::default();
    peer.now(|peer| peer.echoes = true);
    let (client, mut inbound) = peer.start();
    let sender = tokio::spawn({
        let client = client.clone();
        async move {
            let mut first = client.send("first").await.expect("room").into_future();
            for sent in 0..10_000_000_u64 {
                client.send("more").await.expect("room");
                if poll_once(&mut first) == Poll::Ready(Ok(())) {
                    return sent;
                }
            }
            panic!("no receipt came");
        }
    });
    for n in 0..500 {
        let message = soon("an echo", inbound.recv()).await;
        assert_eq!(message, Some(if n == 0 { "first".into() } else { "more".into() }));
    }
    soon("the receipt", sender).await.expect("no panic");
}

/// H46: and the other way round.
#[tokio::test]
async fn a_flood_does_not_starve_sending() {
    let peer = Peer::default();
    peer.now(|peer| peer.floods = Some("more".into()));
    let (client, mut inbound) = peer.builder().level(Level::Written).start().expect("good");
    let reader = tokio::spawn(async move { while inbound.recv().await.is_some() {} });
    for n in 0..1000 {
        soon("room", client.send(n.to_string())).await.expect("taken");
    }
    assert!(soon("a flush", client.flush()).await.expect("up").is_clean());
    assert_eq!(peer.lock().got.len(), 1000);
    client.close(SECOND).await.expect("the driver lives");
    soon("the reader", reader).await.expect("no panic");
}

/// H53: the buffer outlives the connection that filled it.
#[tokio::test(start_paused = true)]
async fn a_reconnect_with_a_full_buffer_loses_nothing_that_was_read() {
    let peer = Peer::default();
    let builder = peer.builder().configure(|config| config.inbound_messages = 2);
    let (client, mut inbound) = builder.start().expect("good");
    until("it is up", || client.status().borrow().phase == Phase::Up).await;
    peer.says("0");
    peer.says("1");
    settle().await;
    peer.now(|peer| peer.broken = true);
    client.send("m").await.expect("room");
    until("it has noticed", || peer.dials() > 1 || is_down(&client)).await;
    peer.now(|peer| peer.broken = false);
    until("it is up again", || client.status().borrow().phase == Phase::Up).await;
    peer.says("2");
    for n in 0..3 {
        assert_eq!(soon("a message", inbound.recv()).await, Some(n.to_string().into()));
    }
    assert!(soon("a flush", client.flush()).await.expect("up").is_clean());
}

/// H56: a write that fails is noticed at once, also when reading says nothing of it.
#[tokio::test(start_paused = true)]
async fn a_write_that_fails_ends_the_connection_at_once() {
    // In whichever of its looks at the socket the driver finds it out.
    for looks in 1..10 {
        let peer = Peer::default();
        let (client, _inbound) = peer.start();
        until("it is up", || client.status().borrow().phase == Phase::Up).await;
        peer.now(|peer| peer.blocked = true);
        client.send("m").await.expect("room");
        settle().await;
        let began = tokio::time::Instant::now();
        peer.now(|peer| peer.breaks_in = Some(looks));
        settle().await;
        if peer.lock().broken {
            until("it is down", || is_down(&client)).await;
            assert!(began.elapsed() < 5 * SECOND, "{looks}: a heartbeat found it out");
        } else {
            assert!(looks > 2, "the driver does not look");
        }
    }
}

// ---- Helpers ------------------------------------------------------------------------------------

fn is_down(client: &Handle<Plain>) -> bool {
    client.status().borrow().phase != Phase::Up
}

/// Polls a future once, for nobody.
fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}
