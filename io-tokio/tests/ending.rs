//! How things end: a client that stops, closes, is dropped or crashes, with messages in it and
//! futures waiting for it. Nothing waits for ever, and everything gets an outcome.

use std::{
    future::IntoFuture,
    pin::pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bowline_core::{Loss, StopReason};
use bowline_tokio::{
    Ask, Builder, FailReason, FailureReason, Fate, Handle, Level, Phase, Plain, ReceiptError,
    Report, Request, SendError, SendRefused, Seq, WaitError, connect::Target,
};
use peer::{Inquisitive, LONG, Peer, settle, soon, until};
use tokio::time::Instant;

mod peer;

const STOPPED: WaitError = WaitError::Stopped(StopReason::GaveUp(Loss::Connect));
const SECOND: Duration = Duration::from_secs(1);

// ---- Stopped ------------------------------------------------------------------------------------

/// L8 H67 H26: nothing waits for a client that has stopped, whether it began before or after.
#[tokio::test(start_paused = true)]
async fn a_client_that_stops_sends_everybody_away_with_the_reason_and_the_message() {
    let peer = Peer::default();
    peer.now(|peer| peer.refuses = Some(Loss::Connect));
    let (client, _inbound) = peer.builder().capacity(1).max_attempts(2).start().expect("good");
    let receipt = client.send("0").await.expect("room");
    let seq = receipt.seq();
    let waiting = {
        let (one, two, three) = (client.clone(), client.clone(), client.clone());
        (
            tokio::spawn(async move { one.send("1").await.map(|_| ()) }),
            tokio::spawn(async move { two.reserve().await.map(|_| ()) }),
            tokio::spawn(async move { three.flush().await }),
            tokio::spawn(receipt.into_future()),
        )
    };
    let unsent = |outcome: Result<(), SendError<_, _>>, body: &str| {
        let Err(SendError::Refused(unsent)) = outcome else { panic!("taken") };
        assert_eq!((unsent.reason, unsent.body), (STOPPED.into(), body.into()));
    };
    unsent(soon("a send", waiting.0).await.expect("no panic"), "1");
    let refused: SendRefused = STOPPED.into();
    assert_eq!(soon("a reserve", waiting.1).await.expect("no panic"), Err(refused));
    assert_eq!(soon("a flush", waiting.2).await.expect("no panic"), Err(STOPPED));
    let outcome = soon("a receipt", waiting.3).await.expect("no panic");
    assert_eq!(outcome, Err(ReceiptError::Wait(STOPPED)));

    unsent(soon("a send", client.send("2")).await.map(|_| ()), "2");
    assert_eq!(soon("a flush", client.flush()).await, Err(STOPPED));

    // The message that it has is still there, and start goes on with it.
    peer.comes_back();
    client.start();
    let second = Inquisitive::new({
        let client = client.clone();
        async move { client.send("3").await.map(|receipt| receipt.seq()).map_err(|_| "sent away") }
    });
    until("it is taken", || second.outcome().is_some()).await;
    let second = second.outcome().expect("just seen").expect("taken as soon as it is started");
    assert_eq!(soon("a receipt", client.delivered(seq)).await, Ok(()));
    assert_eq!(soon("a receipt", client.delivered(second)).await, Ok(()));
    assert_eq!(peer.got(), ["0", "3"]);
}

// ---- Close --------------------------------------------------------------------------------------

/// H34: close ends by its deadline in every state, and what is left comes back.
#[tokio::test(start_paused = true)]
async fn close_ends_in_every_state_and_hands_back_what_is_left() {
    for state in ["not driven", "dialing", "waiting", "up", "up, silent", "stopped"] {
        let peer = Peer::default();
        peer.now(|peer| match state {
            "dialing" => peer.hangs = true,
            "waiting" | "stopped" => peer.refuses = Some(Loss::Connect),
            "up, silent" => (peer.mute, peer.ignores_close) = (true, true),
            _ => {}
        });
        let mut builder = peer.builder();
        if state == "stopped" {
            builder = builder.max_attempts(1);
        }
        let (client, _inbound, driver) = builder.build().expect("good");
        let receipt = client.send("m").await.expect("room");
        let driver = async move {
            if state == "not driven" {
                tokio::time::sleep(5 * SECOND).await;
            }
            driver.await;
        };
        let driver = tokio::spawn(driver);
        until("it is so far", || {
            let (phase, sent) = (client.status().borrow().phase, peer.got().len());
            match state {
                "dialing" => phase == Phase::Dialing,
                "waiting" => matches!(phase, Phase::Waiting { .. }),
                "stopped" => matches!(phase, Phase::Stopped { .. }),
                "not driven" => true,
                _ => sent == 1,
            }
        })
        .await;
        let began = Instant::now();
        let limit = 10 * SECOND;
        let report = soon("the end", client.close(limit)).await.expect("the driver lives");
        let took = began.elapsed();
        match state {
            "not driven" | "up" => {
                assert!(report.is_clean(), "{state}: {report:?}");
                assert_eq!(receipt.await, Ok(()), "{state}");
                assert!(took <= 6 * SECOND, "{state}: took {took:?}");
            }
            _ => {
                let fate = if state == "up, silent" { Fate::MaybeDelivered } else { Fate::NotSent };
                assert_eq!(returned(&report), [("m".into(), fate)], "{state}");
                assert_eq!(report.failures[0].seq, receipt.seq());
                // The deadline, and close_limit for a peer that does not answer.
                assert!(took <= limit + 6 * SECOND, "{state}: took {took:?}");
                assert_eq!(took < limit, state == "stopped", "{state}: took {took:?}");
            }
        }
        soon("the driver", driver).await.expect("no panic");
        assert!(client.is_closed());
        let Err(SendError::Refused(unsent)) = client.send("late").await else { panic!("taken") };
        assert_eq!((unsent.reason, unsent.body), (SendRefused::Closed, "late".into()));
        assert_eq!(client.reserve().await.map(|_| ()), Err(SendRefused::Closed));
    }
}

/// H34: each message that comes back says whether it may have arrived.
#[tokio::test(start_paused = true)]
async fn what_close_hands_back_says_whether_it_may_have_arrived() {
    let peer = Peer::default();
    peer.now(|peer| peer.mute = true);
    let builder = peer.builder().configure(|config| config.outbox.window_messages = 2);
    let (client, _inbound) = builder.start().expect("good");
    let awaited = client.send("0").await.expect("room");
    for n in 1..4 {
        client.send(n.to_string()).await.expect("room");
    }
    until("the window is full", || peer.lock().got.len() == 2).await;
    let waiting = tokio::spawn(awaited.into_future());
    let blocked = tokio::spawn({
        let client = client.clone();
        async move { client.flush().await }
    });
    settle().await;
    let report = soon("the end", client.close(SECOND)).await.expect("the driver lives");
    let left = [
        ("1".to_owned(), Fate::MaybeDelivered),
        ("2".to_owned(), Fate::NotSent),
        ("3".to_owned(), Fate::NotSent),
    ];
    let Err(ReceiptError::Failed(failure)) = waiting.await.expect("no panic") else {
        panic!("delivered")
    };
    assert_eq!((failure.body, failure.fate), ("0".into(), Fate::MaybeDelivered));
    // The flush was woken first or second; one of the two reports has them.
    let flushed = blocked.await.expect("no panic").expect("everything is settled");
    let mut both = returned(&flushed);
    both.extend(returned(&report));
    assert_eq!(both, left);
}

#[tokio::test(start_paused = true)]
async fn close_is_said_twice_and_by_two_handles_and_the_sooner_deadline_counts() {
    let peer = Peer::default();
    peer.now(|peer| peer.hangs = true);
    let (client, _inbound) = peer.start();
    client.send("m").await.expect("room");
    let began = Instant::now();
    let patient = tokio::spawn({
        let client = client.clone();
        async move { client.close(60 * SECOND).await }
    });
    settle().await;
    let hasty = soon("the end", client.close(SECOND)).await.expect("the driver lives");
    assert!(began.elapsed() < 2 * SECOND);
    let patient = soon("the end", patient).await.expect("no panic").expect("the driver lives");
    let mut both = returned(&hasty);
    both.extend(returned(&patient));
    assert_eq!(both, [("m".to_owned(), Fate::NotSent)], "handed out once");
    assert!(soon("the end", client.close(SECOND)).await.expect("it is over").is_clean());
}

/// H14: close does not wait for itself, wherever it is called.
#[tokio::test(start_paused = true)]
async fn close_may_be_called_by_whoever_the_client_itself_runs() {
    // The task that reads inbound messages.
    let peer = Peer::default();
    let (client, mut inbound) = peer.start();
    until("it is up", || client.status().borrow().phase == Phase::Up).await;
    peer.says("bye");
    let reader = tokio::spawn(async move {
        assert_eq!(inbound.recv().await, Some("bye".into()));
        let report = client.close(SECOND).await.expect("the driver lives");
        assert!(report.is_clean());
        assert_eq!(inbound.recv().await, None);
    });
    soon("the reader", reader).await.expect("no panic");

    // The request provider, which the driver itself polls.
    let cell: Arc<OnceLock<Handle<Plain>>> = Arc::default();
    let handle = Arc::clone(&cell);
    let provider = move |_: Ask| {
        let handle = Arc::clone(&handle);
        async move {
            let _ = handle.get().expect("set").close(SECOND).await;
            Ok::<Request<()>, String>(Target::new("ws://peer").into())
        }
    };
    let builder = Builder::with_provider(Plain, provider).connector(Peer::default());
    let (client, _inbound, driver) = builder.build().expect("good");
    assert!(cell.set(client.clone()).is_ok());
    soon("the driver", tokio::spawn(driver)).await.expect("no panic");
    assert!(client.is_closed());
}

/// H46: a peer that never stops sending does not keep the clock from being looked at.
#[tokio::test]
async fn a_flood_does_not_outlast_a_close() {
    let peer = Peer::default();
    peer.now(|peer| (peer.mute, peer.ignores_close) = (true, true));
    let builder = peer.builder().configure(|config| {
        config.connection.close_limit = Duration::from_millis(50);
    });
    let (client, inbound) = builder.start().expect("good");
    drop(inbound);
    client.send("m").await.expect("room");
    until("it is in flight", || peer.lock().got.len() == 1).await;
    peer.now(|peer| peer.floods = Some("more".into()));
    let report = soon("the end", client.close(Duration::from_millis(50))).await;
    assert_eq!(returned(&report.expect("the driver lives")), [("m".into(), Fate::MaybeDelivered)]);
}

/// A receipt is never told Ok of a message that comes back, in whichever moment it looks.
#[tokio::test(start_paused = true)]
async fn a_client_that_gives_up_while_it_closes_says_ok_of_nothing() {
    let peer = Peer::default();
    peer.now(|peer| peer.refuses = Some(Loss::Connect));
    let (client, _inbound) = peer.builder().max_attempts(3).start().expect("good");
    let receipt = client.send("m").await.expect("room");
    let seen = Inquisitive::new(receipt.into_future());
    let report = soon("the end", client.close(60 * SECOND)).await.expect("the driver lives");
    assert!(report.is_clean(), "the receipt was awaited");
    let seen = seen.outcome().expect("woken");
    let Err(ReceiptError::Failed(failure)) = seen else { panic!("{seen:?}") };
    assert_eq!(failure.reason, FailureReason::Settled(FailReason::Returned));
}

// ---- Dropped ------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_client_whose_handles_are_dropped_delivers_what_it_has() {
    let peer = Peer::default();
    let (client, inbound, driver) = peer.builder().build().expect("good");
    let driver = tokio::spawn(driver);
    for n in 0..1000 {
        client.send(n.to_string()).await.expect("room");
    }
    drop((client.clone(), client, inbound));
    let began = Instant::now();
    soon("the end", driver).await.expect("no panic");
    assert_eq!(peer.lock().got.len(), 1000);
    assert!(began.elapsed() < 5 * SECOND, "it waited for its limit");
}

/// H67: not for ever.
#[tokio::test(start_paused = true)]
async fn a_client_whose_handles_are_dropped_ends_after_a_while_without_a_server() {
    let peer = Peer::default();
    peer.now(|peer| peer.refuses = Some(Loss::Connect));
    let (client, inbound, driver) = peer.builder().build().expect("good");
    let driver = tokio::spawn(driver);
    let receipt = client.send("m").await.expect("room");
    tokio::time::sleep(10 * SECOND).await;
    drop((client, inbound));
    let began = Instant::now();
    let waiting = tokio::spawn(receipt.into_future());
    soon("the end", driver).await.expect("no panic");
    let took = began.elapsed();
    assert!(took >= 5 * SECOND && took < 6 * SECOND, "drop_limit is 5 s, took {took:?}");
    let Err(ReceiptError::Failed(failure)) = waiting.await.expect("no panic") else {
        panic!("delivered")
    };
    assert_eq!(failure.fate, Fate::NotSent);
}

#[tokio::test(start_paused = true)]
async fn the_inbound_half_counts_as_a_handle() {
    let peer = Peer::default();
    let (client, mut inbound, driver) = peer.builder().build().expect("good");
    let driver = tokio::spawn(driver);
    drop(client);
    tokio::time::sleep(60 * SECOND).await;
    peer.says("still there");
    assert_eq!(soon("a message", inbound.recv()).await, Some("still there".into()));
    drop(inbound);
    soon("the end", driver).await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn without_the_inbound_half_acks_are_still_read() {
    let peer = Peer::default();
    let builder = peer.acking().level(Level::Acked).configure(|config| {
        config.inbound_messages = 4;
    });
    let (client, inbound) = builder.start().expect("good");
    let receipt = client.send("m").await.expect("room");
    until("it is in flight", || peer.lock().got.len() == 1).await;
    for n in 0..100 {
        peer.says(format!("noise{n}"));
    }
    peer.says("ack 1");
    let mut waiting = receipt.into_future();
    settle().await;
    assert!(poll_once(&mut waiting).is_pending(), "the noise is before the ack");
    drop(inbound);
    assert_eq!(soon("an ack", waiting).await, Ok(()));
}

// ---- Gone ---------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_driver_that_is_dropped_gives_everything_an_outcome() {
    for driven in [false, true] {
        let peer = Peer::default();
        peer.now(|peer| peer.mute = true);
        let (client, mut inbound, driver) = peer.builder().capacity(3).build().expect("good");
        let driver = tokio::spawn(async move {
            if !driven {
                std::future::pending::<()>().await;
            }
            driver.await;
        });
        let awaited = client.send("0").await.expect("room");
        client.send("1").await.expect("room");
        let permit = client.reserve().await.expect("room");
        if driven {
            until("they are in flight", || peer.lock().got.len() == 2).await;
        }
        let awaited = tokio::spawn(awaited.into_future());
        let stuck = {
            let (one, two, three) = (client.clone(), client.clone(), client.clone());
            (
                tokio::spawn(async move { one.send("2").await.map(|_| ()) }),
                tokio::spawn(async move { two.flush().await }),
                tokio::spawn(async move { three.close(LONG).await }),
            )
        };
        // Only the send and the flush before the close: it refuses what comes after it.
        stuck.2.abort();
        settle().await;
        driver.abort();

        let Err(ReceiptError::Failed(failure)) =
            soon("a receipt", awaited).await.expect("no panic")
        else {
            panic!("delivered")
        };
        let fate = if driven { Fate::MaybeDelivered } else { Fate::NotSent };
        assert_eq!((failure.body, failure.fate), ("0".into(), fate));
        let Err(SendError::Refused(unsent)) = soon("a send", stuck.0).await.expect("no panic")
        else {
            panic!("taken")
        };
        assert_eq!((unsent.reason, unsent.body), (WaitError::Gone.into(), "2".into()));
        let report = soon("a flush", stuck.1).await.expect("no panic").expect("all is settled");
        assert_eq!(returned(&report), [("1".to_owned(), fate)]);
        let Err(SendError::Refused(unsent)) = permit.send("3") else { panic!("taken") };
        assert_eq!(unsent.reason, WaitError::Gone.into());
        assert_eq!(client.snapshot().await.map(|_| ()), Err(WaitError::Gone));
        assert_eq!(client.delivered(Seq::new(9)).await, Err(ReceiptError::Wait(WaitError::Gone)));
        let (error, report) = client.close(LONG).await.unwrap_err();
        assert!(error == WaitError::Gone && report.is_clean());
        assert_eq!(soon("the end of inbound", inbound.recv()).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_that_hears_that_the_driver_is_gone_reports_what_it_left() {
    let peer = Peer::default();
    peer.now(|peer| peer.hangs = true);
    let (client, _inbound, driver) = peer.builder().build().expect("good");
    client.send("m").await.expect("room");
    let closing = Box::pin({
        let client = client.clone();
        async move { client.close(LONG).await }
    });
    let seen = Inquisitive::new(closing);
    drop(driver);
    let (error, report) = seen.outcome().expect("woken").unwrap_err();
    assert_eq!(error, WaitError::Gone);
    assert_eq!(returned(&report), [("m".to_owned(), Fate::NotSent)]);
}

#[test]
fn handles_outlive_their_runtime() {
    let first = tokio::runtime::Runtime::new().expect("a runtime");
    let peer = Peer::default();
    peer.now(|peer| peer.hangs = true);
    let (client, mut inbound) = first.block_on(async { peer.start() });
    let receipt = first.block_on(client.send("m")).expect("room");
    drop(first);

    let second = tokio::runtime::Runtime::new().expect("a runtime");
    second.block_on(async {
        let Err(ReceiptError::Failed(failure)) = soon("a receipt", receipt.into_future()).await
        else {
            panic!("delivered")
        };
        assert_eq!(failure.body, "m".into());
        assert_eq!(soon("inbound", inbound.recv()).await, None);
        let (error, _) = soon("a close", client.close(SECOND)).await.unwrap_err();
        assert_eq!(error, WaitError::Gone);
    });
}

/// H68: after a crash the messages of a snapshot keep their names and go first; new ones are named
/// anew, and none is lost.
#[tokio::test(start_paused = true)]
async fn a_snapshot_outlives_a_crash() {
    let peer = Peer::default();
    peer.now(|peer| peer.mute = true);
    let builder = peer.builder().configure(|config| config.outbox.window_messages = 2);
    let (client, inbound, driver) = builder.build().expect("good");
    let driver = tokio::spawn(driver);
    for n in 0..4 {
        client.send(n.to_string()).await.expect("room");
    }
    until("two are in flight", || peer.lock().got.len() == 2).await;
    let snapshot = soon("a snapshot", client.snapshot()).await.expect("the driver lives");
    let old = snapshot.messages[0].id.outbox;
    client.send("lost with the process").await.expect("room");
    driver.abort();
    soon("the end", driver).await.unwrap_err();
    drop((client, inbound));

    peer.now(|peer| (peer.mute, peer.hangs) = (false, true));
    let (client, _inbound) = peer.builder().restore(snapshot).start().expect("it fits");
    let new = client.send("4").await.expect("room");
    assert_eq!(new.seq(), Seq::new(5));
    let again = soon("a snapshot", client.snapshot()).await.expect("the driver lives");
    let names: Vec<_> =
        again.messages.iter().map(|m| (m.id.outbox == old, m.id.seq.get())).collect();
    assert_eq!(names, [(true, 1), (true, 2), (true, 3), (true, 4), (false, 5)]);
    drop(client.close(Duration::ZERO).await);

    let (client, _inbound) = Peer::restored(&peer, again);
    assert!(soon("a flush", client.flush()).await.expect("up").is_clean());
    assert_eq!(peer.got(), ["0", "1", "0", "1", "2", "3", "4"]);
}

// ---- Helpers ------------------------------------------------------------------------------------

impl Peer {
    /// A client that goes on with a snapshot, and is answered.
    fn restored(
        &self,
        snapshot: bowline_tokio::Snapshot,
    ) -> (Handle<Plain>, bowline_tokio::Inbound<bowline_tokio::Body>) {
        self.now(|peer| peer.hangs = false);
        self.builder().restore(snapshot).start().expect("it fits")
    }
}

fn returned(report: &Report) -> Vec<(String, Fate)> {
    assert_eq!(report.not_kept, 0);
    let each = report.failures.iter().map(|failure| {
        assert_eq!(failure.reason, FailureReason::Settled(FailReason::Returned));
        (failure.body.as_text().unwrap_or("(binary)").to_owned(), failure.fate)
    });
    each.collect()
}

/// Polls a future once, for nobody.
fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}
