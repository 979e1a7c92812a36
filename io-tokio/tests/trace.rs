//! What a production client records replays to the same outputs, and whatever becomes of the writer,
//! the client goes on.
#![cfg(feature = "trace")]

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use bowline_core::trace::{Line, Problem, ReplayError, Replayed, What, replay};
use bowline_tokio::{
    Backoff, Builder, Handle, Plain, PushOptions, TraceError, core::loss::verdict,
};
use futures_util::{SinkExt, StreamExt};
use peer::{Peer, soon, until};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{accept_async, tungstenite::Message};

mod peer;

// ---- Replaying ----------------------------------------------------------------------------------

/// D4: real sockets, whose server drops and resets connections and refuses some.
#[tokio::test]
async fn a_run_on_real_sockets_replays_to_the_same_outputs() {
    const MESSAGES: usize = 3_000;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/?token=hunter2", listener.local_addr().unwrap());
    let server = tokio::spawn(unreliable(listener));
    let paper = Paper::default();
    let backoff = Backoff {
        base: Duration::from_millis(1),
        cap: Duration::from_millis(20),
        ..Backoff::default()
    };
    let builder = Builder::new(url).backoff(backoff).configure(|config| {
        config.outbox.window_messages = 64;
    });
    let (client, mut inbound) = builder.record(paper.clone()).start().unwrap();
    let reader = tokio::spawn(async move {
        let mut read = 0;
        while inbound.recv().await.is_some() {
            read += 1;
        }
        read
    });
    for n in 0..MESSAGES {
        client.send(format!("{n:.<100}").as_str()).await.unwrap();
    }
    assert!(soon("a flush", client.flush()).await.unwrap().is_clean());
    assert!(soon("a close", client.close(Duration::from_secs(60))).await.unwrap().is_clean());
    soon("the trace", client.recorded()).await.unwrap();
    server.abort();
    let read = soon("the reader", reader).await.unwrap();

    let stats = client.stats().client;
    assert!(stats.connection.links > 3, "nothing has happened: {stats:?}");
    assert!(stats.outbox.replays > 0 && read > 0, "nothing has happened: {stats:?}");
    let replayed = play(&paper.text()).unwrap();
    assert_eq!(replayed.stats, stats);
    assert!(replayed.lines > MESSAGES as u64);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_on_from_a_snapshot_replays() {
    let (peer, first, second) = (Peer::default(), Paper::default(), Paper::default());
    peer.goes_away();
    let (client, _inbound) = peer.builder().record(first.clone()).start().unwrap();
    for key in ["a key", "another", "a key"] {
        let options = PushOptions { key: Some(key.into()), ..PushOptions::default() };
        client.send_with(key, options).await.unwrap();
    }
    let snapshot = client.snapshot().await.unwrap();
    assert_eq!(client.close(Duration::ZERO).await.unwrap().failures.len(), 3);
    client.recorded().await.unwrap();
    play(&first.text()).unwrap();

    peer.comes_back();
    let builder = peer.builder().restore(snapshot).record(second.clone());
    let (client, _inbound) = builder.start().unwrap();
    close(&client).await;
    client.recorded().await.unwrap();
    assert_eq!(peer.got(), ["a key", "another"]);
    assert_eq!(play(&second.text()).unwrap().stats.outbox.delivered, 2);
}

/// What a driver does when its task is aborted is in the trace too.
#[tokio::test(start_paused = true)]
async fn a_client_whose_driver_is_dropped_has_a_trace_with_an_end() {
    let (peer, paper) = (Peer::default(), Paper::default());
    peer.now(|peer| peer.mute = true);
    let (client, _inbound, driver) = peer.builder().record(paper.clone()).build().unwrap();
    let driver = tokio::spawn(driver);
    client.send("in flight").await.unwrap();
    until("it is sent", || peer.got().len() == 1).await;
    driver.abort();
    client.recorded().await.unwrap();
    let replayed = play(&paper.text()).unwrap();
    assert_eq!(replayed.stats.outbox.failed.iter().sum::<u64>(), 1);
}

// ---- Secrets ------------------------------------------------------------------------------------

#[tokio::test]
async fn nothing_secret_is_in_the_trace_unless_payloads_are_asked_for() {
    for payloads in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/?token=hunter2", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            serve(stream, usize::MAX).await
        });
        let paper = Paper::default();
        let builder = Builder::new(url).header("authorization", "Bearer 123");
        let builder = if payloads {
            builder.record_with_payloads(paper.clone())
        } else {
            builder.record(paper.clone())
        };
        let (client, mut inbound) = builder.start().unwrap();
        let options = PushOptions { key: Some("a private key".into()), ..PushOptions::default() };
        client.send_with("a private message", options).await.unwrap();
        let echo = soon("an echo", inbound.recv()).await.unwrap();
        assert_eq!(echo.as_text(), Some("an answer to a private message"));
        close(&client).await;
        client.recorded().await.unwrap();
        let trace = paper.text();
        for secret in ["hunter2", "token", "Bearer", "authorization", "127.0.0.1", "private key"] {
            assert!(!trace.contains(secret), "{secret} is in {trace}");
        }
        for payload in ["a private message", "an answer"] {
            assert_eq!(trace.contains(payload), payloads, "{payload} in {trace}");
        }
        play(&trace).unwrap();
    }
}

// ---- Writers ------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_writer_that_fails_ends_the_recording_and_not_the_client() {
    let (peer, paper) = (Peer::default(), Paper::default());
    paper.0.lock().unwrap().room = Some(4_000);
    let (client, _inbound) = peer.builder().record(paper.clone()).start().unwrap();
    for n in 0..1_000 {
        client.send(n.to_string().as_str()).await.unwrap();
    }
    close(&client).await;
    assert_eq!(peer.got().len(), 1_000);
    let error = client.recorded().await.unwrap_err();
    assert_eq!(error.to_string(), "the trace cannot be written: no room");

    // What could be written is a trace that stops.
    let trace = paper.text();
    assert_eq!(trace.len(), 4_000);
    let error = play(&trace).unwrap_err();
    assert_eq!(error.line, trace.lines().count() as u64, "{error}");
    assert!(matches!(error.problem, Problem::Unreadable(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_panics_ends_the_recording_and_not_the_client() {
    struct Panics;

    impl Write for Panics {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            panic!("the writer panics, as this test wants it to");
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let peer = Peer::default();
    let (client, _inbound) = peer.builder().record(Panics).start().unwrap();
    client.send("all the same").await.unwrap();
    close(&client).await;
    assert!(matches!(client.recorded().await, Err(TraceError::Panicked)));
    assert_eq!(peer.got(), ["all the same"]);
}

/// The client is done before the writer has taken anything; then the writer takes what was kept for
/// it, which says that it stops and is the same up to there.
#[tokio::test(start_paused = true)]
async fn a_writer_that_is_too_slow_is_not_waited_for() {
    let (peer, paper) = (Peer::default(), Paper::default());
    let (release, released) = mpsc::channel();
    let slow = Slow { released, paper: paper.clone() };
    let (client, _inbound) = peer.builder().record_with_payloads(slow).start().unwrap();
    let large = "x".repeat(100_000);
    for _ in 0..200 {
        client.send(large.as_str()).await.unwrap();
    }
    close(&client).await;
    assert_eq!((peer.got().len(), paper.text().len()), (200, 0));

    drop(release);
    assert!(matches!(client.recorded().await, Err(TraceError::FellBehind)));
    let trace = paper.text();
    assert!((8_000_000..17_000_000).contains(&trace.len()), "{} bytes", trace.len());
    let error = play(&trace).unwrap_err();
    assert_eq!(error.line, trace.lines().count() as u64);
    let reason = "the trace stops before the client did: the writer of the trace fell behind";
    assert_eq!(error.problem.to_string(), reason);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_not_recorded_says_so() {
    let (client, _inbound) = Peer::default().start();
    assert!(matches!(client.recorded().await, Err(TraceError::NotRecorded)));
}

// ---- Helpers ------------------------------------------------------------------------------------

async fn close(client: &Handle<Plain>) {
    assert!(client.close(Duration::from_secs(60)).await.unwrap().is_clean());
}

fn play(trace: &str) -> Result<Replayed, ReplayError<String>> {
    let line = |line| serde_json::from_str::<Line>(line).map_err(|error| error.to_string());
    let mut ended = false;
    let lines = trace.lines().map(line).inspect(|line| {
        assert!(!ended, "there is a line after the end");
        ended = line.as_ref().is_ok_and(|line| matches!(line.what, What::End(_)));
    });
    replay(lines, verdict, |_| {})
}

/// What is written on it can be read all the time. It has so much room, if that is limited.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Sheet>>);

#[derive(Default)]
struct Sheet {
    written: Vec<u8>,
    room: Option<usize>,
}

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().written.clone()).unwrap()
    }
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sheet = self.0.lock().unwrap();
        let room = sheet.room.map_or(usize::MAX, |room| room - sheet.written.len());
        let taken = bytes.len().min(room);
        if taken == 0 {
            return Err(io::Error::other("no room"));
        }
        sheet.written.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes nothing before it is released.
struct Slow {
    released: mpsc::Receiver<()>,
    paper: Paper,
}

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // An error is the release.
        let _ = self.released.recv();
        self.paper.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Each connection lives for a random number of messages, some end before the upgrade; in the end
/// they live for ever.
async fn unreliable(listener: TcpListener) {
    let mut chance = ChaCha8Rng::seed_from_u64(1);
    for connection in 0.. {
        let (stream, _) = listener.accept().await.unwrap();
        let lives = if connection < 20 { chance.next_u64() as usize % 300 } else { usize::MAX };
        if connection < 20 && connection % 5 == 3 {
            continue;
        }
        if connection % 3 == 0 {
            // Ends with a reset.
            stream.set_zero_linger().unwrap();
        }
        serve(stream, lives).await;
    }
}

/// Answers so many messages, pings as they come, then drops the connection.
async fn serve(stream: TcpStream, messages: usize) {
    let Ok(mut socket) = accept_async(stream).await else { return };
    let mut served = 0;
    while served < messages {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => {
                served += 1;
                if socket.send(format!("an answer to {text}").into()).await.is_err() {
                    return;
                }
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return,
        }
    }
}
