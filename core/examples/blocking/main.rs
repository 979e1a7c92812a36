//! A client without async: threads, a poller and plain tungstenite. Run it with
//! `cargo run -p bowline-core --example blocking -- ws://127.0.0.1:9001/ MESSAGES RATE`.
//!
//! One thread produces messages, one lives for as long as a dial, and the main thread drives a
//! [`Client`] over a socket that does not block; it sleeps until the socket, another thread or the
//! client's own deadline wakes it. At the end it prints which messages were delivered, which failed,
//! and how often it connected again: what `chaos` asks of a contender (see its `--exec`).
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "a driver has a clock")]

mod driver;
mod socket;

use std::{
    error::Error,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use bowline_core::{Attempt, Client, ClientConfig, Plain};
use getrandom::SysRng;
use mio::{Poll, Token, Waker};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::json;

use crate::driver::{Driver, Link};

/// How long every message is: its number in decimal, padded.
const MESSAGE_BYTES: usize = 100;
const DIAL_LIMIT: Duration = Duration::from_secs(5);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [url, messages, rate] = &arguments[..] else { return Err("URL MESSAGES RATE".into()) };
    let (total, rate): (u64, f64) = (messages.parse()?, rate.parse()?);
    let (start, poll) = (Instant::now(), Poll::new()?);
    let waker = Arc::new(Waker::new(poll.registry(), Token(0))?);

    let (producer, messages) = mpsc::sync_channel(1024);
    let wake = waker.clone();
    thread::spawn(move || {
        for number in 0..total {
            let due = Duration::from_secs_f64(number as f64 / rate);
            thread::sleep(due.saturating_sub(start.elapsed()));
            if producer.send(format!("{number:.<MESSAGE_BYTES$}")).is_err() {
                break;
            }
            let _ = wake.wake();
        }
        drop(producer);
        let _ = wake.wake();
    });

    let mut config = ClientConfig::default();
    config.connection.dial_limit = DIAL_LIMIT;
    config.connection.ping_interval = Duration::from_secs(1);
    config.connection.pong_limit = Duration::from_secs(2);
    config.connection.backoff.base = Duration::from_millis(100);
    config.connection.backoff.cap = Duration::from_millis(500);
    let client = Client::new(config, Plain, ChaCha8Rng::try_from_rng(&mut SysRng)?)?;
    let mut driver = Driver {
        client,
        epoch: Instant::now(),
        poll,
        waker,
        url: url.clone(),
        messages,
        dials: mpsc::channel(),
        attempt: Attempt::NONE,
        link: Link::None,
        delivered: Vec::new(),
        failed: Vec::new(),
    };
    driver.run()?;
    // The first message has Seq 1.
    let numbers = |seqs: &[(u64, u64)]| -> Vec<_> {
        seqs.iter().map(|(first, last)| (first - 1, last - 1)).collect()
    };
    let reconnects = driver.client.stats().connection.links.saturating_sub(1);
    let delivered = numbers(&driver.delivered);
    let failed = numbers(&driver.failed);
    println!("{}", json!({ "delivered": delivered, "failed": failed, "reconnects": reconnects }));
    Ok(())
}
