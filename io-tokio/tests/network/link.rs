//! An open link: how it is lost, how a lost one is found, and what is not to be taken for lost.

use std::{
    future::IntoFuture,
    io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bowline_tokio::{
    Ask, BuildRefused, Builder, Jitter, Level, Loss, Phase, Plain, PushOptions, ReceiptError,
    Request, SendError, SendRefused, StopReason, Unsent, WaitError, connect::Target,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex},
    sync::mpsc,
    time::{Instant, Sleep, advance, sleep, sleep_until, timeout},
};

use crate::peer::{
    Heard, PING, PONG, TEXT, assert_elapsed, client, close, frame, network, soon, status,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);

// ---- Silence ----------------------------------------------------------------------------------

/// H17: no FIN, no RST, and what we write is taken as if all were well.
#[tokio::test(start_paused = true)]
async fn a_peer_that_vanishes_is_found_and_what_was_in_flight_is_sent_again_in_order() {
    let (client, _inbound, mut net) = client(|_| {});
    let mut vanished = net.link().await;
    let mut receipts = Vec::new();
    for text in ["one", "two", "three"] {
        receipts.push(client.send(text).await.expect("taken"));
    }
    assert_eq!(vanished.hear().await, Some(Heard::Text("one".into())));
    let silent_since = Instant::now();
    let (lost, _) = status(&client, |status| status.last_loss.is_some()).await;
    assert_eq!(lost.last_loss, Some(Loss::PongLimit));
    // `ping_interval` and `pong_limit`: the ping was flushed, so it never came to `write_limit`.
    assert_elapsed(silent_since, 30 * SECOND);

    let mut peer = net.link().await;
    for text in ["one", "two", "three"] {
        assert_eq!(peer.message().await, text);
    }
    peer.serve();
    for receipt in receipts {
        soon(receipt.into_future()).await.expect("delivered");
    }
}

/// H17, H18: a peer that takes no byte is found though the ping cannot leave.
#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_reading_is_found_by_the_write_limit() {
    let (client, _inbound, mut net) = client(|_| {});
    let (ours, theirs) = duplex(1 << 10);
    let mut stalled = net.dial().await.accept_on(theirs, ours);
    stalled.upgrade().await;
    let stalled_since = Instant::now();
    let large = "x".repeat(100_000);
    let receipt = client.send(large.clone()).await.expect("taken");
    let (lost, _) = status(&client, |status| status.last_loss.is_some()).await;
    assert_eq!(lost.last_loss, Some(Loss::WriteLimit));
    assert_elapsed(stalled_since, 40 * SECOND);

    let mut peer = net.link().await;
    assert_eq!(peer.message().await, large);
    peer.serve();
    soon(receipt.into_future()).await.expect("delivered");
}

/// The longest way: silent for `ping_interval`, the last byte is taken at the end of `write_limit`,
/// then `pong_limit`. H17
#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_reading_and_then_takes_all_is_found_within_the_three_limits() {
    let (client, _inbound, mut net) = client(|_| {});
    let (ours, theirs) = duplex(1 << 10);
    let mut peer = net.dial().await.accept_on(theirs, ours);
    peer.upgrade().await;
    let silent_since = Instant::now();
    let text = "x".repeat(10_000);
    client.send(text.clone()).await.expect("taken");
    sleep(39 * SECOND).await;
    assert_eq!(peer.hear().await, Some(Heard::Text(text)));
    let (lost, _) = status(&client, |status| status.last_loss.is_some()).await;
    assert_eq!(lost.last_loss, Some(Loss::PongLimit));
    assert_elapsed(silent_since, 49 * SECOND);
}

/// H18, H66: taking bytes is not hearing the peer, but it holds the verdict.
#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_a_byte_every_fifteen_seconds_is_slow_and_not_dead() {
    let (client, _inbound, mut net) = client(|_| {});
    let (ours, theirs) = duplex(64);
    let mut peer = net.dial().await.accept_on(theirs, ours);
    peer.upgrade().await;
    let text = "x".repeat(200);
    let receipt = client.send(text.clone()).await.expect("taken");
    for _ in 0..40 {
        sleep(15 * SECOND).await;
        peer.sip().await;
    }
    assert!(net.is_quiet());
    assert_eq!(peer.message().await, text);
    peer.serve();
    soon(receipt.into_future()).await.expect("delivered");
    assert_eq!(client.status().borrow().attempt.get(), 1);
}

/// H18: our own sends are no sign of life of the peer.
#[tokio::test(start_paused = true)]
async fn sending_does_not_put_the_ping_off() {
    let (client, _inbound, mut net) = client(|_| {});
    let mut peer = net.link().await;
    client.send("one").await.expect("taken");
    assert_eq!(peer.message().await, "one");
    let receipt = peer.ping().await;
    peer.write(&frame(PONG, &receipt)).await;
    let silent_since = Instant::now();
    let sending = async {
        loop {
            let options = PushOptions { level: Some(Level::Written), ..PushOptions::default() };
            client.send_with("tick", options).await.expect("taken");
            sleep(SECOND).await;
        }
    };
    let (lost, _) = tokio::select! {
        lost = status(&client, |status| status.last_loss.is_some()) => lost,
        () = sending => unreachable!(),
    };
    assert_eq!(lost.last_loss, Some(Loss::PongLimit));
    assert_elapsed(silent_since, 30 * SECOND);
}

/// H18: the heartbeat of a lost link does not go on in the next one.
#[tokio::test(start_paused = true)]
async fn a_reconnect_starts_the_heartbeat_afresh() {
    let (client, _inbound, mut net) = client(|_| {});
    let mut first = net.link().await;
    first.ping().await;
    sleep(5 * SECOND).await;
    drop(first);
    let mut second = net.link().await;
    let up_at = Instant::now();
    second.ping().await;
    assert_elapsed(up_at, 20 * SECOND);
    let (lost, _) = status(&client, |status| status.last_loss == Some(Loss::PongLimit)).await;
    assert_elapsed(up_at, 30 * SECOND);
    assert_eq!(lost.attempt.get(), 2);
}

/// H53: half a frame is a sign of life. A peer cannot put a pong into the middle of a frame.
#[tokio::test(start_paused = true)]
async fn a_message_that_comes_byte_by_byte_is_heard_all_the_time() {
    let (client, mut inbound, mut net) = client(|_| {});
    let mut peer = net.link().await;
    let answered = peer.ping().await;
    peer.write(&frame(PONG, &answered)).await;
    let text = "slow".repeat(50);
    for byte in frame(TEXT, text.as_bytes()) {
        sleep(15 * SECOND).await;
        peer.write(&[byte]).await;
    }
    let message = soon(inbound.recv()).await.expect("the client is there");
    assert_eq!(message.as_text(), Some(&*text));
    assert!(net.is_quiet());
    assert_eq!(client.status().borrow().last_loss, None);
}

/// Evidence before verdict: the driver is woken late, and finds the pong and its limit together.
#[tokio::test(start_paused = true)]
async fn a_pong_that_waits_to_be_read_beats_its_limit() {
    let (client, _inbound, mut net) = client(|_| {});
    let mut peer = net.link().await;
    let asked = peer.ping().await;
    peer.try_write(&frame(PONG, &asked)).await.expect("there is room for it at once");
    advance(HOUR).await;
    peer.serve();
    sleep(HOUR).await;
    assert!(net.is_quiet());
    assert_eq!(client.status().borrow().last_loss, None);
}

/// A laptop that was asleep asks first.
#[tokio::test(start_paused = true)]
async fn a_host_that_was_asleep_pings_before_it_takes_the_peer_for_dead() {
    let (client, _inbound, mut net) = client(|_| {});
    net.link().await.serve();
    status(&client, |status| status.phase == Phase::Up).await;
    for _ in 0..10 {
        advance(HOUR).await;
        sleep(SECOND).await;
    }
    assert!(net.is_quiet());
    assert_eq!(client.status().borrow().last_loss, None);
}

// ---- Slow links -------------------------------------------------------------------------------

/// H18, H66: on such a link the message takes 33 s, the ping waits behind it, and every limit is
/// shorter than that.
#[tokio::test(start_paused = true)]
async fn four_mebibytes_on_a_megabit_link_arrive_and_the_link_lives() {
    let (client, _inbound, mut net) = client(|config| config.outbox.max_message_bytes = 4 << 20);
    let (ours, theirs) = duplex(64 << 10);
    let mut peer = net.dial().await.accept_on(Slow::new(theirs, 125_000), ours);
    peer.upgrade().await;
    let began_at = Instant::now();
    let text = "x".repeat(4 << 20);
    let receipt = client.send(text.clone()).await.expect("taken");
    assert_eq!(peer.message().await.len(), text.len());
    peer.serve();
    soon(receipt.into_future()).await.expect("delivered");
    let elapsed = began_at.elapsed();
    assert!((33 * SECOND..35 * SECOND).contains(&elapsed), "{elapsed:?}");
    sleep(HOUR).await;
    assert!(net.is_quiet());
    assert_eq!(client.stats().client.outbox.replays, 0);
}

/// H57: each ping owes a pong, and the pongs cannot leave.
#[tokio::test(start_paused = true)]
async fn a_ping_flood_while_our_writes_are_blocked_is_held_back_and_the_peer_is_found() {
    let (client, _inbound, mut net) = client(|_| {});
    let (ours, theirs) = duplex(4 << 10);
    let mut peer = net.dial().await.accept_on(theirs, ours);
    peer.upgrade().await;
    let ping = frame(PING, &[7; 125]);
    let mut taken = 0;
    while timeout(SECOND, peer.try_write(&ping)).await.is_ok_and(|written| written.is_ok()) {
        taken += 1;
        assert!(taken < 1_300, "1,024 unanswered, and what the buffers between hold");
    }
    let (lost, _) = status(&client, |status| status.last_loss.is_some()).await;
    assert_eq!(lost.last_loss, Some(Loss::WriteLimit));
    let receipt = client.send("one").await.expect("taken");
    net.link().await.serve();
    soon(receipt.into_future()).await.expect("delivered");
}

// ---- Pongs ------------------------------------------------------------------------------------

/// H72
#[tokio::test(start_paused = true)]
async fn a_peer_that_sends_but_never_pongs_is_told_so_within_a_bounded_time() {
    let (client, inbound, mut net) = client(|_| {});
    drop(inbound);
    let mut peer = net.link().await;
    let up_at = Instant::now();
    let receipt = client.send("one").await.expect("taken");
    let speaking = async {
        loop {
            peer.write(&frame(TEXT, b"news")).await;
            sleep(SECOND).await;
        }
    };
    let error = tokio::select! {
        error = soon(receipt.into_future()) => error.expect_err("there is no receipt"),
        () = speaking => unreachable!(),
    };
    let never = WaitError::Stopped(StopReason::Fatal(Loss::NeverPonged));
    assert_eq!(error, ReceiptError::Wait(never));
    assert!(error.to_string().contains("has never answered a ping"), "{error}");
    // Silence counts from the beginning, as the peer is heard all the time: `ping_interval` to the
    // first ping, the same and twice `pong_limit` for its answer.
    assert!(up_at.elapsed() <= 62 * SECOND, "{:?}", up_at.elapsed());
    sleep(HOUR).await;
    assert!(net.is_quiet());
}

/// H65: what a peer says after its Close is not heard, and a library may answer pings then that
/// its application never sees.
#[tokio::test(start_paused = true)]
async fn a_pong_after_the_peers_close_is_no_receipt() {
    let (client, _inbound, mut net) = client(|_| {});
    let mut peer = net.link().await;
    let receipt = client.send("one").await.expect("taken");
    assert_eq!(peer.hear().await, Some(Heard::Text("one".into())));
    let asked = peer.ping().await;
    peer.write(&[close(Some(1001)), frame(PONG, &asked)].concat()).await;
    let mut next = net.link().await;
    assert_eq!(next.message().await, "one");
    next.serve();
    soon(receipt.into_future()).await.expect("delivered");
    assert_eq!(client.stats().client.outbox.replays, 1);
}

/// H23, H40: a peer may send pongs that nobody asked for (RFC 6455 §5.5.3), and an old one.
#[tokio::test(start_paused = true)]
async fn only_the_pong_to_a_ping_of_this_link_is_a_receipt() {
    let (client, mut inbound, mut net) = client(|_| {});
    let mut first = net.link().await;
    let receipt = client.send("one").await.expect("taken");
    assert_eq!(first.hear().await, Some(Heard::Text("one".into())));
    let old = first.ping().await;
    drop(first);

    let mut second = net.link().await;
    // The message waits until this link has answered a first ping.
    let probe = second.ping().await;
    second.write(&frame(PONG, &probe)).await;
    assert_eq!(second.hear().await, Some(Heard::Text("one".into())));
    let asked = second.ping().await;
    let mut delivery = receipt.into_future();
    let beyond = [&asked[..8], &[0xff; 8]].concat();
    let ahead = [&[0xff; 8], &asked[8..]].concat();
    let longer = [&asked[..], b"x"].concat();
    for payload in [b"".as_slice(), b"unasked", &old, &beyond, &ahead, &longer] {
        second.write(&frame(PONG, payload)).await;
        second.write(&frame(TEXT, b"next")).await;
        soon(inbound.recv()).await.expect("what is behind the pong");
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut delivery).poll(&mut context).is_pending(), "{payload:?}");
    }
    second.write(&frame(PONG, &asked)).await;
    soon(delivery).await.expect("delivered");
    assert!(net.is_quiet());
}

/// Without pings there are no receipts of the library, and silence proves nothing.
#[tokio::test(start_paused = true)]
async fn a_transport_without_pings_refuses_received_at_build_and_carries_written() {
    let (mut wire, _net) = network();
    wire.can_ping = false;
    let refused = Builder::new("ws://peer.example/").connector(wire).start();
    let reason = refused.expect_err("Received is the default").reason;
    assert!(matches!(&reason, BuildRefused::Config(error) if error.field == "level"), "{reason}");

    let (mut wire, mut net) = network();
    wire.can_ping = false;
    let builder = Builder::new("ws://peer.example/").connector(wire).level(Level::Written);
    let (client, _inbound) = builder.start().expect("a good configuration");
    let mut peer = net.link().await;
    let receipt = client.send("one").await.expect("taken");
    soon(receipt.into_future()).await.expect("flushed");
    assert_eq!(peer.hear().await, Some(Heard::Text("one".into())));
    let options = PushOptions { level: Some(Level::Received), ..PushOptions::default() };
    match client.send_with("two", options).await {
        Err(SendError::Refused(Unsent { reason, .. })) => {
            assert_eq!(reason, SendRefused::Level(Level::Received));
        }
        other => panic!("{other:?}"),
    }
    sleep(HOUR).await;
    assert!(net.is_quiet());
    client.send("three").await.expect("taken");
    // And no ping was before it.
    assert_eq!(peer.hear().await, Some(Heard::Text("three".into())));
}

// ---- Ends -------------------------------------------------------------------------------------

/// H2
#[tokio::test(start_paused = true)]
async fn a_peer_that_hangs_up_without_a_close_is_dialed_again() {
    let (client, _inbound, mut net) = client(|_| {});
    let mut peer = net.link().await;
    let receipt = client.send("one").await.expect("taken");
    assert_eq!(peer.hear().await, Some(Heard::Text("one".into())));
    drop(peer);
    let (lost, _) = status(&client, |status| status.last_loss.is_some()).await;
    assert_eq!(lost.last_loss, Some(Loss::Eof));
    assert!(matches!(lost.phase, Phase::Waiting { .. }), "{lost:?}");
    net.link().await.serve();
    soon(receipt.into_future()).await.expect("delivered");
}

/// H59
#[tokio::test(start_paused = true)]
async fn a_close_ends_the_attempt_though_the_peer_keeps_its_socket_open() {
    let (client, _inbound, mut net) = client(without_jitter);
    let mut peer = net.link().await;
    let closed_at = Instant::now();
    peer.write(&close(Some(1000))).await;
    assert_eq!(peer.hear().await, Some(Heard::Close(Some(1000))));
    assert_eq!(peer.hear().await, None);
    assert_elapsed(closed_at, Duration::ZERO);
    let _next = net.link().await;
    assert_elapsed(closed_at, SECOND);
    let loss = Loss::Closed { code: Some(1000) };
    assert_eq!(client.status().borrow().last_loss, Some(loss));
}

/// H21: no Close of a server is the end of a client.
#[tokio::test(start_paused = true)]
async fn after_a_close_with_any_code_the_client_dials_again_in_its_time() {
    for (code, least, most) in [
        (None, 1, 1),
        (Some(1000), 1, 1),
        (Some(1001), 1, 1),
        (Some(1002), 1, 1),
        (Some(1003), 1, 1),
        (Some(1007), 1, 1),
        (Some(1008), 1, 1),
        (Some(1009), 1, 1),
        // A client that was never up would be stopped by this one.
        (Some(1010), 30, 30),
        (Some(1011), 1, 1),
        // Restarting: all its clients come back, over half a minute.
        (Some(1012), 5, 30),
        // Try again later.
        (Some(1013), 15, 30),
        (Some(3000), 1, 1),
        (Some(4999), 1, 1),
    ] {
        let (client, _inbound, mut net) = client(without_jitter);
        let mut peer = net.link().await;
        let closed_at = Instant::now();
        peer.write(&close(code)).await;
        let dial = net.dial().await;
        let late = most * SECOND + Duration::from_millis(10);
        let delay = dial.at - closed_at;
        assert!((least * SECOND..=late).contains(&delay), "{code:?}: {delay:?}");
        assert_eq!(client.status().borrow().last_loss, Some(Loss::Closed { code }));
        let _peer = dial.open().await;
        status(&client, |status| status.phase == Phase::Up).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_for_policy_has_the_provider_told_and_asked_for_other_credentials() {
    let (wire, mut net) = network();
    let (asked, mut asks) = mpsc::unbounded_channel();
    let (_client, _inbound) = Builder::with_provider(Plain, move |ask: Ask| {
        asked.send(ask.last_loss).expect("the test is there");
        let token = format!("Bearer token-{}", ask.attempt);
        let target = Target::new("ws://peer.example/").header("Authorization", token);
        async { Ok::<Request<()>, io::Error>(target.into()) }
    })
    .connector(wire)
    .start()
    .expect("a good configuration");
    let policy = Some(Loss::Closed { code: Some(1008) });
    for (attempt, told) in [(1, None), (2, policy), (3, policy), (4, policy)] {
        let mut peer = net.dial().await.accept();
        let request = peer.upgrade().await;
        assert!(request.contains(&format!("Bearer token-{attempt}\r\n")), "{request}");
        assert_eq!(asks.recv().await, Some(told));
        peer.write(&close(Some(1008))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_above_the_limit_ends_the_attempt_and_not_the_client() {
    let (mut wire, mut net) = network();
    wire.limits.inbound = 1_000;
    let builder = Builder::new("ws://peer.example/").connector(wire);
    let (client, mut inbound) = builder.start().expect("a good configuration");
    // In one frame, which is refused by its header, and in many.
    let in_one = frame(TEXT, &[b'x'; 1_001])[..4].to_vec();
    let mut first = frame(TEXT, &[b'x'; 600]);
    first[0] &= 0x7f;
    let in_two = [first, frame(0, &[b'x'; 600])].concat();
    for large in [in_one, in_two] {
        let mut peer = net.link().await;
        peer.write(&large).await;
        peer.gone().await;
        status(&client, |status| status.last_loss == Some(Loss::TooLarge)).await;
    }
    let mut peer = net.link().await;
    peer.write(&frame(TEXT, &[b'x'; 1_000])).await;
    assert_eq!(soon(inbound.recv()).await.map(|message| message.len()), Some(1_000));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_breaks_the_protocol_is_left_and_dialed_again() {
    let masked = [0x81, 0x81, 0, 0, 0, 0, b'x'];
    for nonsense in [
        // A frame is looked at when it is whole; this one would have 84 bytes.
        [*b"HTTP/1.1 400 Bad Request\r\n\r\n"; 4].as_flattened(),
        &masked,
        // A reserved bit, a reserved opcode, a continuation of nothing.
        &[0xc1, 0],
        &[0x83, 0],
        &[0x80, 0],
        // Text that is not UTF-8, a ping in two frames, a Close of one byte.
        &[0x81, 1, 0xff],
        &[0x09, 0],
        &[0x88, 1, 3],
    ] {
        let (client, _inbound, mut net) = client(|_| {});
        let mut peer = net.link().await;
        peer.write(nonsense).await;
        peer.gone().await;
        let (lost, _) = status(&client, |status| status.last_loss.is_some()).await;
        assert_eq!(lost.last_loss, Some(Loss::Protocol), "{nonsense:?}");
        let _peer = net.link().await;
        status(&client, |status| status.phase == Phase::Up).await;
    }
}

/// Delays that a test can name: 1, 2, 4, 8, 16, 30, 30, …
fn without_jitter(config: &mut bowline_tokio::Config) {
    config.connection.backoff.jitter = Jitter::None;
}

/// A stream that takes so many bytes a second, in steps of 10 ms.
struct Slow {
    stream: DuplexStream,
    step: usize,
    free: Pin<Box<Sleep>>,
}

impl Slow {
    fn new(stream: DuplexStream, bytes_per_second: usize) -> Self {
        let free = Box::pin(sleep_until(Instant::now()));
        Self { stream, step: bytes_per_second / 100, free }
    }
}

impl AsyncRead for Slow {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Slow {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.free.as_mut().poll(cx));
        let step = self.step.min(buf.len());
        let taken = ready!(Pin::new(&mut self.stream).poll_write(cx, &buf[..step]))?;
        let free_at = Instant::now() + Duration::from_millis(10);
        self.free.as_mut().reset(free_at);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
