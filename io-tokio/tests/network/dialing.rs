//! From the first dial to an open link: limits, refusals, backoff, giving up.

use std::{
    future::{IntoFuture, pending},
    time::Duration,
};

use bowline_tokio::{
    Ask, Builder, Config, Jitter, Loss, Phase, Plain, ReceiptError, Request, SendError,
    SendRefused, StopReason, Unsent, WaitError, connect::Target,
};
use tokio::{
    sync::mpsc,
    time::{Instant, advance, sleep},
};

use crate::peer::{accept, assert_elapsed, client, network, soon, status};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// H22: the first connect is retried like every later one.
#[tokio::test(start_paused = true)]
async fn a_server_that_is_not_there_yet_is_dialed_until_it_is() {
    let (client, _inbound, mut net) = client(|_| {});
    let receipt = client.send("early").await.expect("taken");
    for loss in [Loss::Connect, Loss::Dns, Loss::Tls] {
        net.dial().await.refuse(loss);
    }
    let mut peer = net.link().await;
    assert_eq!(peer.message().await, "early");
    peer.serve();
    soon(receipt.into_future()).await.expect("delivered");
    let stats = client.stats().client.connection;
    assert_eq!((stats.attempts, stats.lost_dialing, stats.lost_links), (4, 3, 0));
}

// ---- Limits -----------------------------------------------------------------------------------

/// H11: a dial that comes to nothing (a packet filter that drops everything).
#[tokio::test(start_paused = true)]
async fn a_dial_that_hangs_is_dropped_at_the_dial_limit() {
    let (client, _inbound, mut net) = client(|_| {});
    let mut dial = net.dial().await;
    dial.dropped().await;
    assert_elapsed(dial.at, 15 * SECOND);
    net.dial().await;
    assert_eq!(client.status().borrow().last_loss, Some(Loss::DialLimit));
}

/// H11, H60
#[tokio::test(start_paused = true)]
async fn a_server_that_never_upgrades_is_given_up_at_the_dial_limit() {
    let (client, _inbound, mut net) = client(|_| {});
    let dial = net.dial().await;
    let dialed_at = dial.at;
    let mut peer = dial.accept();
    peer.request().await;
    peer.gone().await;
    assert_elapsed(dialed_at, 15 * SECOND);
    net.dial().await;
    assert_eq!(client.status().borrow().last_loss, Some(Loss::DialLimit));
}

/// H60: each byte is progress, and the handshake is one for ever.
#[tokio::test(start_paused = true)]
async fn a_dripped_handshake_is_given_up_at_the_dial_limit() {
    let (client, _inbound, mut net) = client(|_| {});
    let dial = net.dial().await;
    let dialed_at = dial.at;
    let mut peer = dial.accept();
    let answer = accept(&peer.request().await);
    for byte in answer.as_bytes() {
        sleep(SECOND / 4).await;
        if peer.try_write(&[*byte]).await.is_err() {
            break;
        }
    }
    // The drip notices at its next byte.
    let elapsed = dialed_at.elapsed();
    assert!((15 * SECOND..16 * SECOND).contains(&elapsed), "{elapsed:?}");
    net.dial().await;
    assert_eq!(client.status().borrow().last_loss, Some(Loss::DialLimit));
}

/// H11, H20
#[tokio::test(start_paused = true)]
async fn a_request_provider_that_hangs_is_covered_by_the_dial_limit() {
    let (wire, mut net) = network();
    let (client, _inbound) = Builder::with_provider(Plain, |ask: Ask| async move {
        if ask.attempt.get() == 1 {
            pending::<()>().await;
        }
        assert_eq!(ask.last_loss, Some(Loss::DialLimit));
        Ok::<_, std::io::Error>(Target::new("ws://peer.example/").into())
    })
    .connector(wire)
    .start()
    .expect("a good configuration");
    let started_at = Instant::now();
    let (_, at) = status(&client, |status| status.last_loss.is_some()).await;
    assert_eq!(at - started_at, 15 * SECOND);
    net.link().await;
}

/// H12, H23: the upgrade and the end of the dial limit come in one wake-up.
#[tokio::test(start_paused = true)]
async fn a_dial_that_succeeds_after_its_limit_is_dropped_and_not_adopted() {
    let (client, _inbound, mut net) = client(|_| {});
    let mut late = net.dial().await.accept();
    let answer = accept(&late.request().await);
    late.try_write(answer.as_bytes()).await.expect("there is room for it at once");
    advance(20 * SECOND).await;
    late.gone().await;
    let mut peer = net.link().await;
    client.send("one").await.expect("taken");
    assert_eq!(peer.message().await, "one");
    assert_eq!(client.status().borrow().last_loss, Some(Loss::DialLimit));
    assert_eq!(client.stats().client.connection.links, 1);
}

/// H12: closing races connecting.
#[tokio::test(start_paused = true)]
async fn closing_in_the_middle_of_a_dial_leaves_no_socket_behind() {
    let (client, _inbound, mut net) = client(|_| {});
    let mut hanging = net.dial().await;
    soon(client.close(Duration::ZERO)).await.expect("closed");
    hanging.dropped().await;

    let (client, _inbound, mut net) = self::client(|_| {});
    let mut upgrading = net.dial().await.accept();
    let answer = accept(&upgrading.request().await);
    let (closed, ()) = tokio::join!(client.close(Duration::ZERO), async {
        // Either the dial is dropped already, or its success is.
        let _ = upgrading.try_write(answer.as_bytes()).await;
        upgrading.gone().await;
    });
    closed.expect("closed");
    assert!(net.has_ended().await);
}

// ---- Answers ----------------------------------------------------------------------------------

/// H9: what cannot be helped by trying again is not retried for ever, and everybody is told.
#[tokio::test(start_paused = true)]
async fn a_fatal_answer_to_the_first_dial_stops_the_client_and_tells_everybody_why() {
    for code in [204, 302, 400, 404, 410] {
        let (client, _inbound, mut net) = client(|_| {});
        let receipt = client.send("queued").await.expect("taken");
        let answer = format!("HTTP/1.1 {code} No\r\nRetry-After: 1\r\n\r\n");
        net.dial().await.answer(&answer).await;
        let error = soon(receipt.into_future()).await.expect_err("it cannot be delivered");
        let ReceiptError::Wait(why @ WaitError::Stopped(StopReason::Fatal(loss))) = error else {
            panic!("{error}");
        };
        assert!(matches!(loss, Loss::Status { status, .. } if status == code), "{loss:?}");
        assert_eq!(soon(client.flush()).await, Err(why));
        let refused = SendRefused::Wait(why);
        match soon(client.send("late")).await {
            Err(SendError::Refused(Unsent { reason, body, .. })) => {
                assert_eq!((reason, body.as_text()), (refused, Some("late")));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(soon(client.reserve()).await.map(drop), Err(refused));
        sleep(HOUR).await;
        assert!(net.is_quiet());
        // The message is still there, and comes back.
        let left = soon(client.close(HOUR)).await.expect("closed").failures;
        assert_eq!(left.iter().map(|f| f.body.as_text()).collect::<Vec<_>>(), [Some("queued")]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_a_url_or_a_subprotocol_that_will_not_do_stops_a_client_that_was_never_up() {
    for loss in [Loss::Certificate, Loss::BadUrl, Loss::Subprotocol] {
        let (client, _inbound, mut net) = client(|_| {});
        net.dial().await.refuse(loss);
        let reason = StopReason::Fatal(loss);
        status(&client, |status| status.phase == Phase::Stopped { reason }).await;
        sleep(HOUR).await;
        assert!(net.is_quiet());
    }
}

/// H69: three seconds of a deploy, or a captive portal, do not strand a client that was up.
#[tokio::test(start_paused = true)]
async fn a_client_that_was_up_sits_out_every_refusal_at_the_cap_of_its_backoff() {
    let (client, _inbound, mut net) = client(without_jitter);
    drop(net.link().await);
    let receipt = client.send("kept").await.expect("taken");
    let mut lost_at = Instant::now();
    // The first 403 asks for credentials, and is no refusal yet.
    for (code, delay) in [(404, 1), (302, 30), (400, 30), (403, 30), (403, 16), (401, 30)] {
        let dial = net.dial().await;
        assert_elapsed(lost_at, delay * SECOND);
        dial.answer(&format!("HTTP/1.1 {code} No\r\n\r\n")).await;
        lost_at = Instant::now();
    }
    let dial = net.dial().await;
    assert_elapsed(lost_at, 30 * SECOND);
    dial.open().await.serve();
    soon(receipt.into_future()).await.expect("delivered");
}

/// Also H9.
#[tokio::test(start_paused = true)]
async fn a_401_has_the_provider_asked_again_and_the_second_in_a_row_is_fatal() {
    for code in [401, 403] {
        let (wire, mut net) = network();
        let (asked, mut asks) = mpsc::unbounded_channel();
        let (client, _inbound) = Builder::with_provider(Plain, move |ask: Ask| {
            asked.send(ask).expect("the test is there");
            let token = format!("Bearer token-{}", ask.attempt);
            let target = Target::new("ws://peer.example/").header("Authorization", token);
            async { Ok::<_, std::io::Error>(target.into()) }
        })
        .connector(wire)
        .start()
        .expect("a good configuration");
        let refusal = format!("HTTP/1.1 {code} No\r\n\r\n");
        let loss = Loss::Status { status: code, retry_after: None };
        for (attempt, last_loss) in [(1, None), (2, Some(loss))] {
            let mut peer = net.dial().await.accept();
            let request = peer.request().await;
            assert!(request.contains(&format!("Bearer token-{attempt}\r\n")), "{request}");
            peer.write(refusal.as_bytes()).await;
            let ask = asks.recv().await.expect("asked");
            assert_eq!((ask.attempt.get(), ask.last_loss), (attempt, last_loss));
        }
        let reason = StopReason::Fatal(loss);
        status(&client, |status| status.phase == Phase::Stopped { reason }).await;
        sleep(HOUR).await;
        assert!(net.is_quiet());
        assert!(asks.try_recv().is_err());
    }
}

/// H61: what a server asks for is granted up to a cap; what makes no sense is not there.
#[tokio::test(start_paused = true)]
async fn a_servers_own_retry_after_is_kept_and_no_nudge_shortens_it() {
    for (code, retry_after, least, most) in [
        (429, "120", 120 * SECOND, 150 * SECOND),
        (503, "120", 120 * SECOND, 150 * SECOND),
        (503, "100000000000000000000", 300 * SECOND, 300 * SECOND),
        (503, "Fri, 31 Dec 9999 23:59:59 GMT", 300 * SECOND, 300 * SECOND),
        (429, "0", Duration::ZERO, SECOND),
    ] {
        let (client, _inbound, mut net) = client(|_| {});
        let answer = format!("HTTP/1.1 {code} Later\r\nRetry-After: {retry_after}\r\n\r\n");
        net.dial().await.answer(&answer).await;
        let (_, lost_at) = status(&client, |status| status.last_loss.is_some()).await;
        if least > SECOND {
            client.nudge();
        }
        let delay = net.dial().await.at - lost_at;
        let late = most + Duration::from_millis(10);
        assert!((least..=late).contains(&delay), "{retry_after}: {delay:?}");
    }
    for (code, retry_after) in [(503, "-5"), (429, "soon"), (500, "120")] {
        let (client, _inbound, mut net) = client(without_jitter);
        let answer = format!("HTTP/1.1 {code} Later\r\nRetry-After: {retry_after}\r\n\r\n");
        net.dial().await.answer(&answer).await;
        let (_, lost_at) = status(&client, |status| status.last_loss.is_some()).await;
        net.dial().await;
        assert_elapsed(lost_at, SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_no_upgrade_is_retried() {
    for answer in [
        "SSH-2.0-OpenSSH_9.9\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 502 Bad Gateway\r\n\r\n",
        "",
    ] {
        let (client, _inbound, mut net) = client(|_| {});
        net.dial().await.answer(answer).await;
        let _peer = net.link().await;
        let (up, _) = status(&client, |status| status.phase == Phase::Up).await;
        assert_eq!(up.attempt.get(), 2);
    }
}

/// H20
#[tokio::test(start_paused = true)]
async fn a_request_provider_that_fails_is_asked_again_after_the_backoff() {
    let (wire, mut net) = network();
    let (client, _inbound) = Builder::with_provider(Plain, |ask: Ask| async move {
        match (ask.attempt.get(), ask.last_loss) {
            (1, None) | (2, Some(Loss::Provider)) => Err("the token service is away"),
            (3, Some(Loss::Provider)) => Ok(Request::from(Target::new("ws://peer.example/"))),
            other => panic!("{other:?}"),
        }
    })
    .connector(wire)
    .start()
    .expect("a good configuration");
    let _peer = net.link().await;
    let (up, _) = status(&client, |status| status.phase == Phase::Up).await;
    assert_eq!((up.attempt.get(), up.last_loss), (3, Some(Loss::Provider)));
}

#[tokio::test(start_paused = true)]
async fn endpoints_take_turns_and_all_get_the_headers() {
    let (wire, mut net) = network();
    let urls = ["ws://a.example/", "ws://b.example/", "ws://c.example/"];
    let (_client, _inbound) = Builder::with_dialect(urls, Plain, ())
        .header("X-Name", "value")
        .connector(wire)
        .start()
        .expect("a good configuration");
    for url in urls.iter().chain(&urls) {
        let dial = net.dial().await;
        assert_eq!((&*dial.target.url, dial.target.headers.len()), (*url, 1));
        let mut peer = dial.accept();
        assert!(peer.request().await.contains("X-Name: value\r\n"));
    }
}

// ---- How often --------------------------------------------------------------------------------

/// H1, H8, H47, H56: an hour of an idle link is one dial and a heartbeat every 20 s. Polling every
/// 10 ms would be 360,000 polls.
#[tokio::test(start_paused = true)]
async fn a_link_that_is_up_is_left_alone() {
    let (client, _inbound, mut net) = client(|_| {});
    net.link().await.serve();
    sleep(HOUR).await;
    assert!(net.is_quiet());
    assert_eq!(client.status().borrow().phase, Phase::Up);
    let polls = client.stats().polls;
    assert!((180..=180 * 8).contains(&polls), "{polls} polls for 180 heartbeats");
}

/// H7: a server that accepts and drops at once is a failure like any other.
#[tokio::test(start_paused = true)]
async fn a_flapping_server_is_dialed_ever_more_rarely() {
    let (_client, _inbound, mut net) = client(without_jitter);
    let mut dialed_at = net.dial().await;
    for delay in [1, 2, 4, 8, 16, 30, 30, 30] {
        let before = dialed_at.at;
        drop(dialed_at.open().await);
        dialed_at = net.dial().await;
        assert_elapsed(before, delay * SECOND);
    }
}

/// H4, H7: with the default jitter, 15 s between two dials on average.
#[tokio::test(start_paused = true)]
async fn an_hour_of_flapping_is_some_hundred_dials_and_not_thousands() {
    let (_client, _inbound, mut net) = client(|_| {});
    let (began_at, mut dials, mut last_at) = (Instant::now(), 0, Instant::now());
    while began_at.elapsed() < HOUR {
        let dial = net.dial().await;
        assert!(dial.at - last_at <= 30 * SECOND + Duration::from_millis(10));
        last_at = dial.at;
        drop(dial.open().await);
        dials += 1;
    }
    assert!((150..400).contains(&dials), "{dials}");
}

/// H21, H70: a link that was up for `stable_after` has forgotten the failures before it, however
/// often it was pinged; a shorter one has not.
#[tokio::test(start_paused = true)]
async fn after_a_stable_link_the_backoff_begins_anew() {
    let (_client, _inbound, mut net) = client(|config| {
        without_jitter(config);
        config.connection.ping_interval = 5 * SECOND;
        config.connection.max_attempts = Some(4);
    });
    let mut dial = net.dial().await;
    for (up_for, delay) in [(0, 1), (29, 2), (0, 4), (31, 1), (29, 2), (31, 1), (31, 1), (31, 1)] {
        let serving = dial.open().await.serve();
        sleep(up_for * SECOND).await;
        serving.abort();
        let lost_at = Instant::now();
        dial = net.dial().await;
        assert_elapsed(lost_at, delay * SECOND);
    }
}

/// H3, H10, H16
#[tokio::test(start_paused = true)]
async fn after_giving_up_nothing_is_dialed_until_start_is_called() {
    let (client, _inbound, mut net) = client(|config| config.connection.max_attempts = Some(3));
    let receipt = client.send("patient").await.expect("taken");
    for _ in 0..2 {
        for _ in 0..3 {
            net.dial().await.refuse(Loss::Connect);
        }
        let reason = StopReason::GaveUp(Loss::Connect);
        status(&client, |status| status.phase == Phase::Stopped { reason }).await;
        assert_eq!(soon(client.flush()).await, Err(WaitError::Stopped(reason)));
        let polls = client.stats().polls;
        sleep(HOUR).await;
        assert!(net.is_quiet());
        // Nothing but a timer that was set before has woken it.
        assert!(client.stats().polls <= polls + 1);
        client.start();
    }
    net.link().await.serve();
    soon(receipt.into_future()).await.expect("delivered");
}

/// H3
#[tokio::test(start_paused = true)]
async fn a_client_gives_up_when_its_time_is_over() {
    let (client, _inbound, mut net) = client(|config| {
        without_jitter(config);
        config.connection.max_elapsed = Some(60 * SECOND);
    });
    let began_at = Instant::now();
    // 0, 1, 3, 7, 15 and 31 s; the next would be at 61 s.
    for _ in 0..6 {
        net.dial().await.refuse(Loss::Connect);
    }
    let reason = StopReason::GaveUp(Loss::Connect);
    status(&client, |status| status.phase == Phase::Stopped { reason }).await;
    assert_elapsed(began_at, 31 * SECOND);
    sleep(HOUR).await;
    assert!(net.is_quiet());
}

#[tokio::test(start_paused = true)]
async fn a_nudge_dials_now_and_a_second_one_waits_for_the_floor() {
    let (client, _inbound, mut net) = client(|config| {
        without_jitter(config);
        config.connection.backoff.base = 20 * SECOND;
    });
    let waiting = |status: &bowline_tokio::Status| matches!(status.phase, Phase::Waiting { .. });
    net.dial().await.refuse(Loss::Connect);
    let (_, lost_at) = status(&client, waiting).await;
    sleep(5 * SECOND).await;
    client.nudge();
    let dial = net.dial().await;
    assert_elapsed(lost_at, 5 * SECOND);

    let nudged_at = Instant::now();
    dial.refuse(Loss::Connect);
    status(&client, waiting).await;
    for _ in 0..10 {
        client.nudge();
    }
    net.dial().await.refuse(Loss::Connect);
    assert_elapsed(nudged_at, SECOND);
    // Without one, the backoff is as long as it was.
    let lost_at = Instant::now();
    net.dial().await;
    assert_elapsed(lost_at, 30 * SECOND);
}

/// H2, H13: the status tells a failed dial from a lost link, and each loss once.
#[tokio::test(start_paused = true)]
async fn the_status_shows_every_state_in_its_order() {
    let (client, _inbound, mut net) = client(|_| {});
    let mut watch = client.status();
    let seen = tokio::spawn(async move {
        let mut seen = Vec::new();
        while watch.changed().await.is_ok() {
            let status = *watch.borrow_and_update();
            seen.push((status.attempt.get(), name(status.phase), status.last_loss));
        }
        seen
    });
    net.dial().await.refuse(Loss::Connect);
    let peer = net.link().await;
    status(&client, |status| status.phase == Phase::Up).await;
    drop(peer);
    net.link().await.serve();
    status(&client, |status| status.phase == Phase::Up && status.attempt.get() == 3).await;
    soon(client.close(SECOND)).await.expect("closed");
    drop(client);
    let (connect, eof) = (Some(Loss::Connect), Some(Loss::Eof));
    let seen = seen.await.expect("no panic");
    let expected = [
        (1, "Dialing", None),
        (1, "Waiting", connect),
        (2, "Dialing", connect),
        (2, "Up", connect),
        (2, "Waiting", eof),
        (3, "Dialing", eof),
        (3, "Up", eof),
        (3, "Closing", eof),
        (3, "Stopped", eof),
    ];
    assert_eq!(seen, expected);
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Idle => "Idle",
        Phase::Dialing => "Dialing",
        Phase::Greeting => "Greeting",
        Phase::Up => "Up",
        Phase::Suspect => "Suspect",
        Phase::Closing => "Closing",
        Phase::Waiting { .. } => "Waiting",
        Phase::Stopped { .. } => "Stopped",
    }
}

/// Delays that a test can name: 1, 2, 4, 8, 16, 30, 30, …
fn without_jitter(config: &mut Config) {
    config.connection.backoff.jitter = Jitter::None;
}
