//! What a client does not do: work while there is none, and tell secrets.

use std::time::Duration;

use bowline_core::{Backoff, Jitter, Loss};
use bowline_tokio::{Builder, Phase, connect::Target};
#[cfg(feature = "tracing")]
use bowline_tokio::{Handle, Plain};
use peer::{Peer, until};

mod peer;

const MINUTE: Duration = Duration::from_secs(60);

/// H47 H56
#[tokio::test(start_paused = true)]
async fn an_idle_connection_costs_a_heartbeat_and_nothing_else() {
    let peer = Peer::default();
    let (client, _inbound) = peer.start();
    until("it is up", || client.status().borrow().phase == Phase::Up).await;
    tokio::time::sleep(MINUTE).await;
    let (polls, pings) = (client.stats().polls, peer.lock().pings);
    tokio::time::sleep(10 * MINUTE).await;
    let (polls, pings) = (client.stats().polls - polls, peer.lock().pings - pings);
    assert!((29..=31).contains(&pings), "{pings} pings in 10 minutes at one every 20 s");
    assert!(polls <= 4 * pings as u64, "{polls} polls for {pings} pings");
}

/// H47
#[tokio::test(start_paused = true)]
async fn waiting_to_dial_costs_nothing_but_the_dials() {
    let peer = Peer::default();
    peer.now(|peer| peer.refuses = Some(Loss::Connect));
    let backoff = Backoff { base: MINUTE, factor: 1, cap: MINUTE, jitter: Jitter::None };
    let (client, _inbound) = peer.builder().backoff(backoff).start().expect("good");
    client.send("m").await.expect("room");
    tokio::time::sleep(MINUTE / 2).await;
    let (polls, dials) = (client.stats().polls, peer.dials());
    tokio::time::sleep(60 * MINUTE).await;
    let (polls, dials) = (client.stats().polls - polls, peer.dials() - dials);
    assert_eq!(dials, 60);
    assert!(polls <= 4 * dials as u64, "{polls} polls for {dials} dials");
}

/// H47 H56: also while a message waits for a socket that takes nothing, in a dial that does not
/// end, with a full inbound buffer, and stopped.
#[tokio::test(start_paused = true)]
async fn whoever_is_waited_for_nothing_spins() {
    for state in ["dialing", "paused", "stopped"] {
        let peer = Peer::default();
        peer.now(|peer| match state {
            "dialing" => peer.hangs = true,
            "stopped" => peer.refuses = Some(Loss::Connect),
            _ => {}
        });
        let builder = peer.builder().max_attempts(1).configure(|config| {
            config.connection.dial_limit = 60 * MINUTE;
            config.inbound_messages = 1;
        });
        let (client, _inbound) = builder.start().expect("good");
        if state == "paused" {
            until("it is up", || client.status().borrow().phase == Phase::Up).await;
            for _ in 0..10 {
                peer.says("m");
            }
        }
        client.send("m").await.expect("room");
        tokio::time::sleep(2 * MINUTE).await;
        let polls = client.stats().polls;
        tokio::time::sleep(30 * MINUTE).await;
        let polls = client.stats().polls - polls;
        // A heartbeat goes out while reading is paused; nothing else is to be done.
        let bound = if state == "paused" { 4 * 3 * 30 } else { 0 };
        assert!(polls <= bound, "{state}: {polls} polls in half an hour");
    }
}

/// H47: a writer that is blocked is waited for, not asked.
#[tokio::test(start_paused = true)]
async fn a_blocked_writer_is_not_asked_again_and_again() {
    let peer = Peer::default();
    let builder = peer.builder().configure(|config| {
        config.connection.write_limit = Duration::from_secs(600);
    });
    let (client, _inbound) = builder.start().expect("good");
    until("it is up", || client.status().borrow().phase == Phase::Up).await;
    peer.now(|peer| peer.blocked = true);
    client.send("m").await.expect("room");
    tokio::time::sleep(MINUTE).await;
    let polls = client.stats().polls;
    tokio::time::sleep(5 * MINUTE).await;
    let polls = client.stats().polls - polls;
    assert!(polls <= 5 * 3 * 4, "{polls} polls in five minutes");
    assert_eq!(peer.dials(), 1);
}

/// H63
#[tokio::test(start_paused = true)]
async fn no_secret_is_in_what_can_be_printed() {
    let secret = "hunter2";
    let peer = Peer::default();
    peer.now(|peer| peer.refuses = Some(Loss::Status { status: 401, retry_after: None }));
    let url = format!("ws://user@peer/path?token={secret}");
    let builder = || {
        Builder::with_dialect([url.clone()], peer::Acking, ())
            .header("authorization", format!("Bearer {secret}"))
            .subprotocol(secret)
            .connector(peer.clone())
            .capacity(1)
            .configure(|config| config.outbox.max_message_bytes = 20)
    };
    let mut shown = format!("{:?}", builder());
    let (client, inbound, driver) = builder().build().expect("good");
    shown += &format!("{client:?} {inbound:?} {driver:?}");
    let driver = tokio::spawn(driver);
    until("it is stopped", || matches!(client.status().borrow().phase, Phase::Stopped { .. }))
        .await;
    let unsent = client.send(secret).await.unwrap_err();
    shown += &format!("{unsent:?} {unsent} {:?}", client.status().borrow());
    client.start();
    let receipt = client.send(secret).await.expect("taken");
    shown += &format!("{receipt:?}");
    let options = bowline_tokio::PushOptions { key: Some(secret.into()), ..Default::default() };
    let full = client.try_send_with(secret, options.clone()).unwrap_err();
    shown += &format!("{full:?} {full} {options:?}");
    let large = client.try_send(secret.repeat(10)).unwrap_err();
    shown += &format!("{large:?} {large}");
    let unspeakable = client.try_send("unspeakable").unwrap_err();
    shown += &format!("{unspeakable:?}").replace("unspeakable", secret);
    let snapshot = client.snapshot().await.expect("the driver lives");
    shown += &format!("{snapshot:?}");
    let report = client.close(Duration::ZERO).await.expect("the driver lives");
    shown += &format!("{report:?} {:?}", client.stats());
    let error = receipt.await.unwrap_err();
    shown += &format!("{error:?} {error}");
    driver.await.expect("no panic");

    let bad = Builder::new(format!("ws://peer.example/{secret}?token={secret}")).build();
    let error = bad.expect_err("plain text to another host");
    shown += &format!("{error:?} {error}");
    let bad = Builder::new("ws://localhost").header(secret, format!("{secret}\r\n")).build();
    let error = bad.expect_err("not a header");
    shown += &format!("{error:?}").replace(&format!("\"{secret}\""), "the name of the header");
    shown += &format!("{:?}", Target::new(url.clone()).header("a", secret));
    assert!(!shown.contains(secret), "{shown}");
}

/// H63 H13: one event for each change of state, with from, to, cause and attempt, and no secret.
#[cfg(feature = "tracing")]
#[tokio::test(start_paused = true)]
async fn the_log_has_one_event_for_each_transition_and_no_secret() {
    let log = log::Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let secret = "hunter2";
    let peer = Peer::default();
    let builder = Builder::new(format!("ws://peer/?token={secret}"))
        .header("authorization", secret)
        .connector(peer.clone());
    let (client, _inbound) = builder.start().expect("good");
    wait_for(&client, |phase| phase == Phase::Up).await;
    peer.says(secret);
    client.send(secret).await.expect("room");
    client.flush().await.expect("up");
    // Nothing changes for a while but heartbeats.
    peer.goes_away();
    wait_for(&client, |phase| matches!(phase, Phase::Waiting { .. })).await;
    let failed = client.send(secret).await.expect("room");
    client.cancel(failed.seq());
    client.flush().await.expect("not stopped");
    client.send(secret).await.expect("room");
    client.close(Duration::ZERO).await.expect("the driver lives");

    let events = log.events();
    assert!(!events.iter().any(|event| event.contains(secret)), "{events:#?}");
    let changes: Vec<&str> =
        events.iter().filter_map(|event| event.split(" to=").nth(1)?.split(' ').next()).collect();
    assert_eq!(changes, ["Dialing", "Up", "Waiting", "Stopped"], "{events:#?}");
    assert!(events[2].contains("attempt=1") && events[2].contains("cause="), "{events:#?}");
    let unawaited = "messages failed and nobody awaits their receipts";
    assert!(events.iter().any(|event| event.contains(unawaited)), "{events:#?}");
    let left = events.last().expect("events");
    assert!(left.contains("left=1") && left.contains("undelivered"), "{events:#?}");
}

/// H34: also of what was handed back some time before the end.
#[cfg(feature = "tracing")]
#[tokio::test(start_paused = true)]
async fn the_log_says_how_many_were_left() {
    let log = log::Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let peer = Peer::default();
    peer.now(|peer| (peer.mute, peer.ignores_close) = (true, true));
    let (client, inbound, driver) = peer.builder().build().expect("good");
    let driver = tokio::spawn(driver);
    for n in 0..3 {
        client.send(n.to_string()).await.expect("room");
    }
    until("they are in flight", || peer.lock().got.len() == 3).await;
    drop((client, inbound));
    peer::soon("the end", driver).await.expect("no panic");
    let events = log.events();
    assert!(events.last().expect("events").contains("left=3"), "{events:#?}");
}

#[cfg(feature = "tracing")]
async fn wait_for(client: &Handle<Plain>, is_it: impl Fn(Phase) -> bool) {
    let mut status = client.status();
    let reached = status.wait_for(|status| is_it(status.phase));
    peer::soon("a phase", reached).await.expect("the driver lives");
}

#[cfg(feature = "tracing")]
mod log {
    use std::{
        fmt::{Debug, Write},
        sync::{Arc, Mutex},
    };

    use tracing::{
        Event, Metadata, Subscriber,
        field::{Field, Visit},
        span::{Attributes, Id, Record},
    };

    /// Keeps every event of this crate as a line.
    #[derive(Clone, Default)]
    pub(crate) struct Log {
        lines: Arc<Mutex<Vec<String>>>,
    }

    impl Log {
        pub(crate) fn events(&self) -> Vec<String> {
            self.lines.lock().expect("no panic").clone()
        }
    }

    impl Subscriber for Log {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "bowline"
        }

        fn event(&self, event: &Event<'_>) {
            let mut line = Line(event.metadata().level().to_string());
            event.record(&mut line);
            self.lines.lock().expect("no panic").push(line.0);
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            write!(self.0, " {field}={value:?}").expect("a string takes everything");
        }

        fn record_str(&mut self, field: &Field, value: &str) {
            write!(self.0, " {field}={value}").expect("a string takes everything");
        }
    }
}
