//! The validator: takes jobs, works on them, and says how they go.
//!
//! This is what an application of the library looks like. It sends each update once and awaits its
//! receipt; that is all it knows of the network. A job may arrive twice, for the facilitator sends
//! it on every channel that it believes in, so jobs are told apart by their uuid.

use std::{
    collections::HashSet,
    future::pending,
    time::{Duration, SystemTime, SystemTimeError, UNIX_EPOCH},
};

use bowline_tokio::{
    Ask, Backoff, Builder, FailureReason, Handle, Inbound, Level, Receipt, ReceiptError, Request,
    Stats,
    connect::{Target, TcpConnector, TcpSettings},
};
use serde_json::{Map, Value, json};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::{
    dialect::{Credentials, Facilitator, Order, Status, Update, verdict},
    progress::Progress,
    sockets::{Sockets, Watched},
    sr25519::Key,
    workload::{KEY_SEED, SPECS_INTERVAL, chain, miner, stages},
};

/// How long the client may take for what is left at the end.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// What a validator is to do.
#[derive(Debug)]
pub(crate) struct Run {
    /// Of the facilitator.
    pub(crate) url: String,
    /// It is done when it has worked on so many.
    pub(crate) jobs: u64,
    pub(crate) heartbeat: Duration,
    pub(crate) window: usize,
    pub(crate) progress: Progress,
}

/// What it says of its own run.
#[derive(Clone, Debug)]
pub(crate) struct Reported {
    /// Arrivals of jobs that were taken up before.
    pub(crate) jobs_again: u64,
    /// Statuses that were reported delivered.
    pub(crate) statuses: Vec<(String, Status)>,
    /// Statuses that failed.
    pub(crate) statuses_failed: u64,
    /// Specs that were handed to the client: the batches `1..=specs`.
    pub(crate) specs: u64,
    /// Batches that were reported delivered.
    pub(crate) specs_delivered: Vec<u64>,
    /// Specs that newer ones of their miner took the place of.
    pub(crate) specs_replaced: u64,
    /// Specs that failed for any other reason.
    pub(crate) specs_failed: u64,
    /// Connections that were alive at the same time.
    pub(crate) most_sockets: usize,
    pub(crate) stats: Stats,
}

/// One update that was handed to the client.
enum Told {
    Status { uuid: String, status: Status, last: bool },
    Specs { batch: u64 },
}

type Receipts = mpsc::UnboundedSender<(Told, Receipt)>;

/// Connects, works until all jobs are done, and disconnects.
pub(crate) async fn run(run: Run) -> Reported {
    let Run { url, jobs, heartbeat, window, progress } = run;
    let sockets = Sockets::default();
    let key = Key::from_seed(KEY_SEED);
    let public = key.public();
    let (client, inbound) = Builder::with_provider(Facilitator::new(heartbeat), move |_: Ask| {
        let request = request(&url, &key);
        async move { request }
    })
    .connector(Watched {
        connector: TcpConnector::new(TcpSettings::default()).expect("the defaults are valid"),
        sockets: sockets.clone(),
    })
    .level(Level::Acked)
    // Faults come about once a second here; in production these are the defaults.
    .backoff(Backoff {
        base: Duration::from_millis(50),
        cap: Duration::from_millis(400),
        ..Backoff::default()
    })
    .configure(|config| {
        config.outbox.window_messages = window;
        config.outbox.ack_limit = Duration::from_secs(1);
        config.connection.verdict = verdict;
        config.connection.retry_after_cap = Duration::from_millis(800);
        config.connection.dial_limit = Duration::from_secs(2);
        config.connection.greeting_limit = Duration::from_secs(1);
        config.connection.ping_interval = Duration::from_millis(300);
        config.connection.pong_limit = Duration::from_millis(600);
        config.connection.write_limit = Duration::from_secs(1);
    })
    .start()
    .expect("the settings are valid");

    let (receipts, settled) = mpsc::unbounded_channel();
    let work = async {
        let mut specs = 0;
        let jobs_again = tokio::select! {
            again = take_jobs(&client, inbound, jobs, &progress, receipts.clone()) => again,
            () = report_specs(&client, &public, &mut specs, &receipts) => unreachable!("it never ends"),
        };
        drop(receipts);
        (jobs_again, specs)
    };
    let finish = async {
        let ((jobs_again, specs), mut reported) = tokio::join!(work, settle(settled, &progress));
        let closed = client.close(DRAIN_LIMIT).await;
        assert!(closed.is_ok_and(|report| report.is_clean()), "every receipt was awaited");
        (reported.jobs_again, reported.specs) = (jobs_again, specs);
        reported
    };
    let reported = tokio::select! {
        reported = finish => reported,
        () = watch(&client, &progress) => unreachable!("it never ends"),
    };
    Reported { most_sockets: sockets.most(), stats: client.stats(), ..reported }
}

/// The request of one attempt: a time stamp of now, and signatures made for it.
fn request(url: &str, key: &Key) -> Result<Request<Credentials>, SystemTimeError> {
    let stamp = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs().to_string();
    let signature = key.sign(stamp.as_bytes());
    let target = Target::new(url)
        .header("X-Validator-Version", env!("CARGO_PKG_VERSION"))
        .header("X-Validator-Runner-Version", env!("CARGO_PKG_VERSION"))
        .header("X-Timestamp", stamp)
        .header("X-Public-Key", key.public())
        .header("X-Signature", signature);
    let credentials = Credentials { public_key: key.public(), signature: key.sign_itself() };
    Ok(Request { target, credentials })
}

/// Takes jobs and works on them, until `jobs` of them are done. Says how many came again.
async fn take_jobs(
    client: &Handle<Facilitator>,
    mut inbound: Inbound<Order>,
    jobs: u64,
    progress: &Progress,
    receipts: Receipts,
) -> u64 {
    let mut taken = HashSet::new();
    let mut again = 0;
    let mut at_work = JoinSet::new();
    while (taken.len() as u64) < jobs || !at_work.is_empty() {
        tokio::select! {
            order = inbound.recv() => match order.expect("the client is not closed yet") {
                Order::V2JobRequest(job) => {
                    if taken.insert(job.uuid.clone()) {
                        progress.taken();
                        at_work.spawn(work_on(job.uuid, client.clone(), receipts.clone()));
                    } else {
                        again += 1;
                    }
                }
                Order::V0JobCheated(_) => {}
            },
            Some(done) = at_work.join_next() => done.expect("no job panics"),
        }
    }
    again
}

/// Works on a job. That it goes on does not depend on the facilitator being there.
async fn work_on(uuid: String, client: Handle<Facilitator>, receipts: Receipts) {
    let chain = chain(&uuid);
    let end = chain.len() - 1;
    for ((place, status), stage) in chain.into_iter().enumerate().zip(stages(&uuid)) {
        tokio::time::sleep(stage).await;
        let update = Update::JobStatus { uuid: uuid.clone(), status, metadata: None };
        let told = Told::Status { uuid: uuid.clone(), status, last: place == end };
        send(&client, update, told, &receipts).await;
    }
}

/// Reports what the miners have, one after the other, for ever.
async fn report_specs(
    client: &Handle<Facilitator>,
    validator: &str,
    batch: &mut u64,
    receipts: &Receipts,
) {
    let mut ticks = interval(SPECS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        *batch += 1;
        let update = Update::MachineSpecs {
            miner_hotkey: miner(*batch),
            validator_hotkey: validator.to_owned(),
            specs: specs(),
            batch_id: batch.to_string(),
        };
        send(client, update, Told::Specs { batch: *batch }, receipts).await;
    }
}

async fn send(client: &Handle<Facilitator>, update: Update, told: Told, receipts: &Receipts) {
    let options = update.options();
    let receipt = client.send_with(update, options).await.expect("the client takes messages");
    receipts.send((told, receipt)).expect("receipts are awaited until the end");
}

/// Awaits every receipt.
async fn settle(
    mut settled: mpsc::UnboundedReceiver<(Told, Receipt)>,
    progress: &Progress,
) -> Reported {
    let mut reported = Reported {
        jobs_again: 0,
        statuses: Vec::new(),
        statuses_failed: 0,
        specs: 0,
        specs_delivered: Vec::new(),
        specs_replaced: 0,
        specs_failed: 0,
        most_sockets: 0,
        stats: Stats::default(),
    };
    while let Some((told, receipt)) = settled.recv().await {
        match (told, receipt.await) {
            (Told::Status { uuid, status, last }, Ok(())) => {
                progress.acknowledged(last);
                reported.statuses.push((uuid, status));
            }
            (Told::Status { .. }, Err(_)) => reported.statuses_failed += 1,
            (Told::Specs { batch }, Ok(())) => reported.specs_delivered.push(batch),
            (Told::Specs { .. }, Err(ReceiptError::Failed(failure)))
                if failure.reason == FailureReason::Replaced =>
            {
                reported.specs_replaced += 1;
            }
            (Told::Specs { .. }, Err(_)) => reported.specs_failed += 1,
        }
    }
    reported
}

/// Shows what the connection does.
async fn watch(client: &Handle<Facilitator>, progress: &Progress) {
    let mut status = client.status();
    loop {
        progress.phase(status.borrow_and_update().phase);
        if status.changed().await.is_err() {
            // The client is done, and so is this in a moment.
            return pending().await;
        }
    }
}

/// What a miner has, of about the size that the real ones send.
fn specs() -> Map<String, Value> {
    let specs = json!({
        "cpu": {"model": "Example 9000", "count": 64, "frequency_mhz": 3_400},
        "gpu": {"count": 8, "details": vec![json!({"name": "Example 24GB", "capacity": 24_576}); 8]},
        "ram": {"total": 528_000_000, "free": 400_000_000},
        "hard_disk": {"total": 4_000_000_000_u64, "free": 1_000_000_000},
        "os": "Example 24.04",
    });
    match specs {
        Value::Object(specs) => specs,
        _ => unreachable!("it is an object"),
    }
}
