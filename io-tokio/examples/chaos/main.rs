//! Sends messages through a network that breaks, and counts what arrives.
//!
//! ```text
//! cargo run --release --example chaos
//! cargo run --release --example chaos -- --script kill --seed 7
//! cargo run --release --example chaos -- --script kill --server readahead --level acked
//! cargo run --release --example chaos -- --exec target/release/examples/blocking --only blocking
//! cargo run --release -p bowline-tokio --features trace --example chaos -- --record bowline.trace
//! ```
//!
//! Each contender sends the same messages at the same rate to a server of its own, a process that
//! writes every message that arrives into a ledger. Between them is a proxy with a round trip's
//! delay, so that there is always something in flight. A script of faults, decided by its name and
//! a seed, happens to both at the same time: the server is killed, connections are reset, silenced,
//! slowed down, refused. In the end the ledger is held against what each client reported.
//!
//! With `--level acked` Bowline asks for more than a pong: it speaks `Numbered`, and a message is
//! delivered when the server says that it is in the ledger. The usual loop knows no such thing, and
//! stays as it is. With `--server readahead` the servers have an asynchronous handler; see [`serve`].
//!
//! With `--exec` another contender joins, a program of its own; [`exec`] says what it has to do.
//!
//! With `--record` all that happens to bowline is written to a file, and
//! `cargo run -p bowline-testkit --bin replay -- FILE` tells it and lets it happen again.
//!
//! The exit code is 1 if a contender that is judged, which all are but the usual loop, broke a
//! promise of its level, 2 for arguments that make no sense, 3 if the experiment itself failed, 130
//! if it was interrupted. Judged is ([`Audit::kept`]):
//!
//! - at both levels, that each message has one outcome and that it is true, that first arrivals are
//!   in order, and that nothing arrives that was never sent;
//! - at `received`, no more. A message may arrive twice; and one that is reported delivered may be
//!   missing if a server process that was killed had read it, which is proved by a record that the
//!   process keeps of what it reads. These are counted in a line of their own;
//! - at `acked`, also that no message is in the ledger twice. No loss is excused.

mod audit;
mod bowline;
mod exec;
mod faults;
mod ledger;
mod port;
mod progress;
mod proxy;
mod report;
mod script;
mod serve;
mod server;
mod usual;
mod workload;

use std::{
    error::Error, ffi::OsStr, path::PathBuf, pin::Pin, process::ExitCode, sync::Arc, time::Duration,
};

use clap::{CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind, value_parser};
use futures_util::future::try_join_all;
use indicatif::ProgressBar;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    audit::{Audit, Level, Reported},
    progress::Progress,
    proxy::Proxy,
    script::{Script, Step},
    server::{Kind, Server, Setup},
    workload::Schedule,
};

/// How long a client may go on after the last message was handed to it.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// Sends messages through a network that breaks, and counts what arrives.
#[derive(Parser, Debug)]
#[command(name = "chaos", disable_help_subcommand = true)]
struct Arguments {
    /// Decides when what goes wrong
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Messages that each contender is to deliver
    #[arg(long, default_value_t = 27_000, value_parser = value_parser!(u64).range(1..=100_000_000))]
    messages: u64,
    /// Messages a second
    #[arg(long, default_value_t = 1_500, value_parser = value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// What goes wrong
    #[arg(long, default_value_t = Script::Mixed)]
    script: Script,
    /// The network's round trip, in milliseconds
    #[arg(long, default_value_t = 50, value_parser = value_parser!(u64).range(0..=10_000))]
    delay_ms: u64,
    /// When Bowline counts a message as delivered
    #[arg(long, default_value = "received")]
    level: Level,
    /// What the servers are like
    #[arg(long, default_value = "direct")]
    server: Kind,
    /// Let this program run too, under its file name; it gets URL, MESSAGES and RATE as arguments
    #[arg(long, value_name = "PROGRAM")]
    exec: Option<PathBuf>,
    /// Let only this contender run: usual, bowline, or the name of the program
    #[arg(long, value_name = "CONTENDER")]
    only: Option<String>,
    /// Write the trace of bowline to this file, to be replayed; needs feature trace
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Print nothing but the audits, as one line of JSON
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand, Debug)]
enum Role {
    /// What this program runs of itself as the server
    #[command(hide = true)]
    Server { port: u16, folder: PathBuf, level: Level, kind: Kind, rate: u64 },
}

/// A client that is put to the test.
struct Contender {
    /// Its name on the command line and in JSON.
    key: String,
    /// Its name for people.
    name: String,
    /// What it waits for, and what is expected of its server.
    level: Level,
    /// Whether it claims to lose, reorder and misreport nothing, and is judged by that.
    judged: bool,
    run: Box<dyn Fn(Run) -> Running>,
}

type Running = Pin<Box<dyn Future<Output = Result<Reported>> + Send>>;

/// Those that the arguments ask for.
fn contenders(arguments: &Arguments) -> Vec<Contender> {
    let level = arguments.level;
    let mut contenders = vec![
        Contender {
            key: "usual".to_owned(),
            name: "usual loop".to_owned(),
            level: Level::Received,
            judged: false,
            run: Box::new(|run| Box::pin(async { Ok(usual::run(run).await) })),
        },
        Contender {
            key: "bowline".to_owned(),
            name: "bowline".to_owned(),
            level,
            judged: true,
            run: {
                let record = arguments.record.clone();
                Box::new(move |run| Box::pin(bowline::run(run, level, record.clone())))
            },
        },
    ];
    if let Some(program) = &arguments.exec {
        let name = program.file_stem().unwrap_or(program.as_os_str()).to_string_lossy();
        let program: Arc<OsStr> = program.as_os_str().into();
        contenders.push(Contender {
            key: name.clone().into_owned(),
            name: name.into_owned(),
            level: Level::Received,
            judged: true,
            run: Box::new(move |run| {
                let program = Arc::clone(&program);
                Box::pin(async move { exec::run(&program, run).await })
            }),
        });
    }
    if let Some(only) = &arguments.only {
        contenders.retain(|contender| contender.key == *only);
        if contenders.is_empty() {
            let unknown = format!("there is no contender {only}");
            Arguments::command().error(ErrorKind::InvalidValue, unknown).exit();
        }
    }
    contenders
}

/// What a contender is asked to do: send the messages of the schedule to the server, each when it is
/// due and with the text that [`workload::payload`] gives it, and return when all are settled and
/// the connection is closed.
struct Run {
    url: String,
    schedule: Schedule,
    progress: Progress,
}

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.record.is_some() && !cfg!(feature = "trace") {
        let without = "this was built without --features trace, which --record needs";
        Arguments::command().error(ErrorKind::InvalidValue, without).exit();
    }
    let outcome = match &arguments.role {
        Some(Role::Server { port, folder, level, kind, rate }) => {
            let setup = Setup { level: *level, kind: *kind, rate: *rate };
            serve::serve(*port, folder, setup).map(|()| ExitCode::SUCCESS)
        }
        None => run(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("chaos: {error}");
        ExitCode::from(3)
    })
}

#[tokio::main]
async fn run(arguments: &Arguments) -> Result<ExitCode> {
    tokio::select! {
        kept = chaos(arguments) => Ok(if kept? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        // The servers and the ledgers go with the future that is dropped here.
        () = interrupted() => Ok(ExitCode::from(130)),
    }
}

/// Runs the contenders side by side and prints the audits. Says whether the judged ones kept their
/// promises.
async fn chaos(arguments: &Arguments) -> Result<bool> {
    let schedule =
        Schedule { start: Instant::now(), messages: arguments.messages, rate: arguments.rate };
    let steps = arguments.script.steps(arguments.seed, schedule.span());
    let delay = Duration::from_millis(arguments.delay_ms) / 2;

    let contenders = contenders(arguments);
    let screen = progress::screen(!arguments.json);
    let trials = contenders.iter().map(|contender| {
        let bar = progress::bar(&screen, &contender.name, arguments.messages);
        let setup = Setup { level: contender.level, kind: arguments.server, rate: arguments.rate };
        trial(contender, setup, schedule, &steps, delay, bar)
    });
    let audits = try_join_all(trials).await?;
    screen.clear()?;

    let named = |name: fn(&Contender) -> &str| -> Vec<_> {
        contenders.iter().map(name).zip(audits.iter().copied()).collect()
    };
    if arguments.json {
        let run = json!({
            "script": arguments.script.to_string(),
            "level": value_name(arguments.level),
            "server": value_name(arguments.server),
            "seed": arguments.seed,
            "messages": arguments.messages,
            "rate": arguments.rate,
            "delay_ms": arguments.delay_ms,
            "faults": steps.len(),
        });
        let run = run.as_object().expect("it is an object").clone();
        println!("{}", report::line(run, &named(|contender| &contender.key)));
    } else {
        println!(
            "script {}, level {}, server {}, seed {}:\n\
             {} faults, {} messages, {} a second, round trip {} ms\n\n{}",
            arguments.script,
            value_name(arguments.level),
            value_name(arguments.server),
            arguments.seed,
            steps.len(),
            arguments.messages,
            arguments.rate,
            arguments.delay_ms,
            report::table(&named(|contender| &contender.name)),
        );
    }
    let kept = |(contender, audit): (&Contender, &Audit)| audit.kept(contender.level);
    Ok(contenders.iter().zip(&audits).filter(|(contender, _)| contender.judged).all(kept))
}

/// What a value is called on the command line.
fn value_name(value: impl ValueEnum) -> String {
    value.to_possible_value().expect("no value is skipped").get_name().to_owned()
}

/// Runs one contender against a server and a proxy of its own.
async fn trial(
    contender: &Contender,
    setup: Setup,
    schedule: Schedule,
    steps: &[Step],
    delay: Duration,
    bar: ProgressBar,
) -> Result<Audit> {
    let folder = tempfile::Builder::new().prefix("chaos-").tempdir()?;
    let mut server = Server::start(folder.path(), setup).await?;
    let ledger = folder.path().join(server::LEDGER);
    let proxy = Proxy::start(server.address(), delay)?;
    let progress = Progress::new();

    let (reported, took) = tokio::select! {
        outcome = async {
            tokio::try_join!(
                client(contender, &proxy, schedule, &progress),
                async {
                    faults::play(steps, schedule, &proxy, &mut server, &progress).await?;
                    Ok(())
                },
            )
        } => outcome?.0,
        Err(error) = progress.draw(bar, &ledger) => return Err(error.into()),
    };
    proxy.finish().await?;
    let died = server.finish().await?;

    let arrivals = ledger::Tail::open(&ledger)?.read()?;
    Ok(Audit::of(&reported, &arrivals, &died, took))
}

/// Lets the contender run. Says what it reports, and how long it took.
async fn client(
    contender: &Contender,
    proxy: &Proxy,
    schedule: Schedule,
    progress: &Progress,
) -> Result<(Reported, Duration)> {
    // A task of its own, so that it shares no turn with the proxy; it ends with the set.
    let mut tasks = JoinSet::new();
    tasks.spawn((contender.run)(Run {
        url: format!("ws://{}/", proxy.address()),
        schedule,
        progress: progress.clone(),
    }));
    let limit = schedule.span() + SETTLE_LIMIT;
    let reported = timeout(limit, tasks.join_next())
        .await
        .map_err(|_| format!("{} does not finish", contender.name))?
        .expect("a task was spawned")
        .unwrap_or_else(|error| Err(error.into()))
        .map_err(|error| format!("{}: {error}", contender.name))?;
    Ok((reported, schedule.start.elapsed()))
}

/// Returns when the user, or whoever started this process, wants it to end.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminated) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
