//! A validator and its facilitator: the system that the library was made for, while it breaks.
//!
//! ```text
//! cargo run --release --example facilitator
//! cargo run --release --example facilitator -- --seed 7 --json
//! ```
//!
//! A ComputeHorde validator keeps one WebSocket to a facilitator. Through it come jobs, and through
//! it go the statuses of each job, the specs of miners, and heartbeats. Here a validator does 1,000
//! jobs while its facilitator is killed, killed between storing a status and answering it, replaced
//! and answering 403, has forgotten who the validator is, answers late or not at all, and while the
//! network between them resets connections, cuts them in the middle of frames and swallows one
//! direction. Seed and number of jobs decide what goes wrong and when.
//!
//! In the end the facilitator's database is held against what the validator reported: see
//! [`Audit`](crate::audit::Audit). Then every job has its statuses, in order and once; at no moment
//! were there two connections; no heartbeat had waited in a queue; every set of specs arrived or was
//! replaced by a newer one of its miner; and no outage cost a status one of its retries.
//!
//! # The parts
//!
//! | of the analysis that the library began with | here |
//! |---|---|
//! | `ConnectionManager` | `bowline_core::connection`, which has never heard of a message |
//! | `MessageQueueManager` | `bowline_core::outbox`, which has never heard of a dial |
//! | `FacilitatorClient` | [`validator`]: no loop, no retry, no state of the connection |
//! | `AbstractTransport` | the traits `Connect` and `Transport`; [`sockets`] counts with them |
//! | the protocol, spread over all of them | [`dialect`], one file, which does no I/O |
//!
//! The README in this folder takes every class, callback and risk of that analysis and names its
//! part here, and the test that shows its claim.
//!
//! # One status in flight
//!
//! The protocol's acks have no number, and a handler of the facilitator that fails answers nothing.
//! With two statuses in flight, the answer to the second would then be taken for that of the first,
//! which is lost and reported delivered; no client can see that. So the window is 1. Try
//! `--window 64`: the audit finds the lost status. With `--answer-all` too, it finds nothing, and
//! positional acks are put to the test with specs between 64 statuses in flight.
//!
//! The exit code is 1 if a promise was broken, 2 for arguments that make no sense, 3 if the
//! experiment itself failed, 130 if it was interrupted.

mod audit;
mod database;
mod dialect;
mod facilitator;
mod network;
#[path = "../chaos/port.rs"]
mod port;
mod progress;
mod script;
mod sockets;
mod sr25519;
mod supervisor;
mod validator;
mod workload;

use std::{
    error::Error,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Parser, Subcommand, value_parser};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    audit::Audit, facilitator::Settings, network::Network, progress::Progress, script::Fault,
    supervisor::Process,
};

/// From one heartbeat to the next. In production, a minute.
const HEARTBEAT: Duration = Duration::from_millis(200);

/// How long the validator may go on after the last job came in.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// A validator and a facilitator that is killed, redeployed, forgetful, late and cut off.
#[derive(Parser, Debug)]
#[command(name = "facilitator", disable_help_subcommand = true)]
struct Arguments {
    /// Decides when what goes wrong, and what the jobs do
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Jobs that the validator is to do, 50 a second
    #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u64).range(1..=1_000_000))]
    jobs: u64,
    /// Messages in flight at once. With more than one, an answer that a handler withholds goes
    /// unnoticed and a status is lost; see --answer-all
    #[arg(long, default_value_t = dialect::WINDOW as u64, value_parser = value_parser!(u64).range(1..=4_096))]
    window: u64,
    /// Let no handler of the facilitator fail, so that every status is answered
    #[arg(long)]
    answer_all: bool,
    /// Print nothing but the audit, as one line of JSON
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand, Debug)]
enum Role {
    /// What this program runs of itself as the facilitator
    #[command(hide = true)]
    Facilitator(Settings),
}

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.role {
        Some(Role::Facilitator(settings)) => {
            facilitator::serve(settings).map(|()| ExitCode::SUCCESS).map_err(Into::into)
        }
        None => run(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("facilitator: {error}");
        ExitCode::from(3)
    })
}

#[tokio::main]
async fn run(arguments: &Arguments) -> Result<ExitCode> {
    tokio::select! {
        audit = play(arguments) => {
            let audit = audit?;
            if arguments.json {
                let run = json!({
                    "seed": arguments.seed,
                    "window": arguments.window,
                });
                println!("{}", audit.line(run.as_object().expect("it is an object").clone()));
            } else {
                println!("seed {}\n\n{}", arguments.seed, audit.table());
            }
            Ok(if audit.kept() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        // The facilitator and its database go with the future that is dropped here.
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(130)),
    }
}

/// Lets the validator work while everything breaks, and audits what is left.
async fn play(arguments: &Arguments) -> Result<Audit> {
    let folder = tempfile::Builder::new().prefix("facilitator-").tempdir()?;
    let database = folder.path().join("database");
    let span = workload::span(arguments.jobs);
    let without = arguments.answer_all.then_some(Fault::NoAnswer);
    let steps = script::steps(arguments.seed, span, without);

    let start = Instant::now();
    let mut process = Process::start(Settings {
        port: 0,
        database: database.clone(),
        seed: arguments.seed,
        jobs: arguments.jobs,
        since_ms: SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis().try_into()?,
        heartbeat_ms: HEARTBEAT.as_millis().try_into()?,
        deploying: false,
    })
    .await?;
    let network = Network::start(process.address())?;
    let progress = Progress::default();
    let bar = progress::bar(arguments.jobs, !arguments.json);

    // A task of its own, so that it shares no turn with the network; it ends with the set.
    let mut tasks = JoinSet::new();
    tasks.spawn(validator::run(validator::Run {
        url: format!("ws://{}/ws/v0/", network.address()),
        jobs: arguments.jobs,
        heartbeat: HEARTBEAT,
        window: usize::try_from(arguments.window)?,
        progress: progress.clone(),
    }));
    let work = async {
        let limit = span + SETTLE_LIMIT;
        let reported = timeout(limit, tasks.join_next()).await.map_err(|_| "it does not finish")?;
        let reported = reported.expect("a task was spawned")?;
        Ok((reported, start.elapsed()))
    };
    let faults = async {
        script::play(&steps, start, &network, &mut process, &progress).await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    };
    let ((reported, took), ()) = tokio::select! {
        outcome = async { tokio::try_join!(work, faults) } => outcome?,
        never = progress.draw(&bar) => match never {},
    };
    bar.finish_and_clear();
    process.finish().await?;

    let jobs: Vec<_> =
        (0..arguments.jobs).map(|number| workload::uuid(arguments.seed, number)).collect();
    let records = database::read(&database)?;
    Ok(Audit::of(&jobs, &records, &reported, HEARTBEAT, took))
}
