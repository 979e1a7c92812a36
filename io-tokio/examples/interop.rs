//! The client of the interop tests: sends numbered messages and says what became of each.
//!
//! ```text
//! cargo run --release --example interop -- ws://localhost:9001/ --level acked --messages 3000 --rate 1500 --capacity 250 </dev/null
//! ```
//!
//! Message n is the JSON `{"number":n}`: at level `received` a frame of its own, at `acked` the data
//! of the dialect `Numbered`. Stdout gets one JSON object a line: `{"status":…}` whenever the
//! connection's state changes, `{"number":n,"outcome":…}` for each message, and `{"done":…}` last.
//! `tests/interop/run` reads them, breaks things meanwhile, and compares with the server's ledger. It
//! holds stdin open until it has broken everything: so each fault meets a stream that still runs.

use std::{io, thread, time::Duration};

use bowline_tokio::{
    Backoff, Builder, Dialect, Handle, Level, Loss, Phase, Plain, Receipt, ReceiptError,
    core::{Json, Numbered},
};
use clap::{Parser, ValueEnum};
use serde_json::json;
use tokio::{
    sync::{
        mpsc,
        oneshot::{self, error::TryRecvError},
    },
    time::{MissedTickBehavior, interval},
};

/// Sends numbered messages and prints what became of each.
#[derive(Parser)]
#[command(name = "interop")]
struct Arguments {
    /// ws://host:port/
    url: String,
    /// When a message counts as delivered
    #[arg(long, value_enum)]
    level: Until,
    /// How many messages to send at least; more follow until stdin ends
    #[arg(long, value_name = "N")]
    messages: u64,
    /// How many of them in a second, rounded up to hundreds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// How many may be on their way; then sending waits
    #[arg(long, value_name = "N")]
    capacity: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Until {
    /// The server's WebSocket library has it
    Received,
    /// The server's application has acknowledged it
    Acked,
}

/// Messages are sent so often, a hundredth of `--rate` at a time.
const TICK: Duration = Duration::from_millis(10);

/// How long the client may take for what is left at the end.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments = Arguments::parse();
    let text = |number: u64| json!({ "number": number }).to_string();
    match arguments.level {
        Until::Received => run(&arguments, Plain, Level::Received, |n| text(n).into()).await,
        Until::Acked => {
            let json = |n| Json::from_text(text(n)).expect("it is JSON");
            run(&arguments, Numbered::default(), Level::Acked, json).await;
        }
    }
}

async fn run<D>(
    arguments: &Arguments,
    dialect: D,
    level: Level,
    message: impl Fn(u64) -> D::Message,
) where
    D: Dialect<Credentials = ()> + Send + 'static,
    D::Inbound: Send + 'static,
{
    // Faults come about once a second here, so the limits are shorter than the defaults.
    let (client, inbound) = Builder::with_dialect([&arguments.url], dialect, ())
        .level(level)
        .capacity(arguments.capacity)
        .backoff(Backoff {
            base: Duration::from_millis(50),
            cap: Duration::from_millis(250),
            ..Backoff::default()
        })
        .configure(|config| {
            config.connection.dial_limit = Duration::from_millis(500);
            config.connection.ping_interval = Duration::from_millis(250);
            config.connection.pong_limit = Duration::from_millis(500);
        })
        .start()
        .unwrap_or_else(|error| panic!("{error}"));
    // These servers say nothing but acks.
    drop(inbound);
    tokio::spawn(print_status(client.clone()));

    let (ended, mut stdin) = oneshot::channel();
    thread::spawn(move || {
        io::copy(&mut io::stdin().lock(), &mut io::sink()).expect("stdin can be read");
        ended.send(())
    });
    let (keep, mut receipts) = mpsc::unbounded_channel::<(u64, Receipt)>();
    let produce = async {
        // What could not be sent during a fault is not caught up on: the stream goes on as before.
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut number = 0;
        while number < arguments.messages || stdin.try_recv() == Err(TryRecvError::Empty) {
            if number % u64::from(arguments.rate.div_ceil(100)) == 0 {
                ticks.tick().await;
            }
            match client.send(message(number)).await {
                Ok(receipt) => keep.send((number, receipt)).expect("the receiver is below"),
                Err(_) => panic!("message {number} was not taken"),
            }
            number += 1;
        }
        drop(keep);
        number
    };
    let settle = async {
        while let Some((number, receipt)) = receipts.recv().await {
            match receipt.await {
                Ok(()) => println!("{}", json!({ "number": number, "outcome": "delivered" })),
                Err(ReceiptError::Failed(failure)) => {
                    let reason = failure.reason.to_string();
                    println!(
                        "{}",
                        json!({ "number": number, "outcome": "failed", "reason": reason })
                    );
                }
                Err(error) => panic!("message {number} has no outcome: {error}"),
            }
        }
    };
    let (messages, ()) = tokio::join!(produce, settle);
    let report = client.close(DRAIN_LIMIT).await.unwrap_or_else(|(error, _)| panic!("{error}"));
    assert!(report.is_clean(), "every failure was awaited");
    let stats = client.stats().client;
    println!("{}", json!({ "done": { "messages": messages, "links": stats.connection.links } }));
}

/// Says when the connection comes and goes.
async fn print_status<D: Dialect>(client: Handle<D>) {
    let mut status = client.status();
    let mut said = None;
    loop {
        let now = *status.borrow_and_update();
        let up = matches!(now.phase, Phase::Up | Phase::Suspect);
        if said != Some((now.attempt, up)) {
            said = Some((now.attempt, up));
            let loss = now.last_loss.map(|loss| Loss::KINDS[loss.kind()]);
            let status = json!({ "attempt": now.attempt.get(), "up": up, "last_loss": loss });
            println!("{}", json!({ "status": status }));
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}
