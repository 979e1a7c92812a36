//! Simulates clients on faulty networks with faulty peers, by the million, and asks the oracle of
//! each whether all promises were kept.
//!
//! ```sh
//! cargo run --release -p bowline-testkit --bin simulate -- --seeds 100000
//! ```
//!
//! Each seed makes a world of its own; see [`bowline_testkit::swarm`]. A violation is shrunk to the
//! few ops that matter and printed with its story.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bowline_core::Instant as CoreInstant;
use bowline_testkit::{
    marks::{self, Counts},
    run::{Failure, Lives, explain, judge_lives},
    statement::{Statement, Violation},
    swarm::Dealer,
};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

#[derive(Parser)]
#[command(about = "Simulates clients by the million and judges each of them")]
struct Options {
    /// How many seeds.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first one.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// Save the shrunk ops of each violation that is printed into this folder.
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, default_missing_value = "tests/traces")]
    save: Option<PathBuf>,
    /// How many violations are shrunk and printed.
    #[arg(long, default_value_t = 3)]
    show: usize,
    /// Threads; all cores if not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Play the lives of one run in so many a second time, for the statements about two runs; 1 is
    /// every run, 0 none.
    #[arg(long, value_name = "N", default_value_t = 16)]
    twice: u64,
    /// Fail if a mark that can be passed was passed less often than this.
    #[arg(long, value_name = "N", default_value_t = 0)]
    marks: u64,
    /// A run that has not ended after so many seconds has a call in it that does not return. That is
    /// reported as R5 with its seed, and ends the simulation.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,
    /// Print how often each mark was passed, not only the rarest ten.
    #[arg(long)]
    all_marks: bool,
    /// Print what the marks are, and simulate nothing.
    #[arg(long)]
    list_marks: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.list_marks {
        for mark in marks::list() {
            match (mark.impossible, mark.about) {
                (Some(reason), _) => println!("{}: impossible, {reason}", mark.name),
                (None, "") => println!("{}", mark.name),
                (None, about) => println!("{}: {about}", mark.name),
            }
        }
        return ExitCode::SUCCESS;
    }
    // A panic is a violation like any other: it is reported with its seed, once.
    std::panic::set_hook(Box::new(|_| {}));
    let result = simulate(&options);
    let _ = std::panic::take_hook();
    if options.json {
        println!("{}", result.json());
    } else {
        result.print(options.all_marks);
    }
    let marks = result.marks.iter().flat_map(Counts::rarest);
    let rare = marks.filter(|(_, count)| *count < options.marks).count();
    if rare > 0 {
        eprintln!("{rare} marks were passed less than {} times", options.marks);
    }
    if result.violations.is_empty() && rare == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a run over many seeds has come to.
#[derive(Default)]
struct Outcome {
    seeds: u64,
    events: u64,
    seconds: f64,
    /// None if it has come to no end.
    marks: Option<Counts>,
    /// How many there were, by statement.
    violations: BTreeMap<String, u64>,
    /// The first seed of each of these, by its number.
    first: BTreeMap<String, u64>,
    shown: Vec<Failure>,
}

/// What the threads share.
#[derive(Default)]
struct Shared {
    next: AtomicU64,
    events: AtomicU64,
    failed: Mutex<Vec<(u64, Violation)>>,
    /// None until a thread has some: who makes the list of marks walks through the machines, and may
    /// never come back.
    marks: Mutex<Option<Counts>>,
    /// The seed that each thread is at, and since when.
    running: Vec<Mutex<Option<(u64, Instant)>>>,
}

impl Shared {
    fn work(&self, thread: usize, end: u64, twice: u64, bar: &ProgressBar) {
        loop {
            let first = self.next.fetch_add(64, Ordering::Relaxed);
            if first >= end {
                return;
            }
            let begins = |seed| *lock(&self.running[thread]) = Some((seed, Instant::now()));
            begins(first);
            let mut passed = Counts::default();
            for seed in first..end.min(first + 64) {
                begins(seed);
                let is_twice = twice > 0 && seed.is_multiple_of(twice);
                let lives = if is_twice { Lives::Twice } else { Lives::Once };
                let outcome = judge_lives(&Dealer::deal(seed), lives);
                self.events.fetch_add(outcome.events, Ordering::Relaxed);
                passed.merge(&outcome.marks);
                if let Some(violation) = outcome.violation {
                    lock(&self.failed).push((seed, violation));
                }
            }
            *lock(&self.running[thread]) = None;
            lock(&self.marks).get_or_insert_default().merge(&passed);
            bar.inc(64.min(end - first));
        }
    }

    /// A seed whose run does not end.
    fn hangs(&self, patience: Duration) -> Option<u64> {
        let running = self.running.iter().filter_map(|running| *lock(running));
        running.filter(|(_, since)| since.elapsed() > patience).map(|(seed, _)| seed).min()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics")
}

fn simulate(options: &Options) -> Outcome {
    let end = options.first.saturating_add(options.seeds);
    let bar = bar(options.seeds);
    let begun = Instant::now();
    let threads =
        options.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    let shared = Arc::new(Shared {
        next: options.first.into(),
        running: (0..threads).map(|_| Mutex::default()).collect(),
        ..Shared::default()
    });
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            let (shared, bar, twice) = (Arc::clone(&shared), bar.clone(), options.twice);
            thread::spawn(move || shared.work(thread, end, twice, &bar))
        })
        .collect();
    let patience = Duration::from_secs(options.patience);
    let mut hangs = None;
    // A thread that hangs ends with the process.
    while hangs.is_none() && !workers.iter().all(JoinHandle::is_finished) {
        thread::sleep(Duration::from_millis(10));
        hangs = shared.hangs(patience);
    }
    let fault = |statement, text| Violation { statement, at: CoreInstant::ZERO, text };
    let mut lost = Vec::new();
    if let Some(seed) = hangs {
        let text = format!("a call has not returned for {patience:?}");
        lost.push((seed, fault(Statement::R5, text)));
    }
    for (worker, running) in workers.into_iter().zip(&shared.running) {
        // A panic in a run is a violation like any other. This one is in what comes before all runs.
        if worker.is_finished() && worker.join().is_err() {
            let seed = lock(running).map_or(options.first, |(seed, _)| seed);
            lost.push((seed, fault(Statement::R6, "a machine panics when it is drawn".into())));
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let mut failed = core::mem::take(&mut *lock(&shared.failed));
    let unshrinkable = !lost.is_empty();
    failed.extend(lost);
    failed.sort_by_key(|(seed, _)| *seed);

    let mut outcome = Outcome {
        seeds: options.seeds,
        events: shared.events.load(Ordering::Relaxed),
        seconds,
        marks: lock(&shared.marks).take().filter(|_| !unshrinkable),
        ..Outcome::default()
    };
    for (seed, violation) in failed {
        let count = outcome.violations.entry(format!("{:?}", violation.statement)).or_default();
        *count += 1;
        outcome.first.entry(format!("{:?}", violation.statement)).or_insert(seed);
        // One of each statement is shown before a second one of any.
        if *count == 1 && outcome.shown.len() < options.show {
            outcome.shown.push(show(seed, violation, unshrinkable, options));
        }
    }
    outcome
}

fn show(seed: u64, violation: Violation, unshrinkable: bool, options: &Options) -> Failure {
    let trace = Dealer::deal(seed);
    let failure = if unshrinkable {
        // It would not come to its end the next time either.
        Failure { violation, trace, story: String::new() }
    } else {
        explain(&trace, violation)
    };
    if let Some(folder) = &options.save {
        let Failure { violation, trace, .. } = &failure;
        let name = format!("{:?}-{seed}.ops", violation.statement).to_lowercase();
        let text = format!("# {violation}\n{trace}");
        let saved =
            std::fs::create_dir_all(folder).and_then(|()| std::fs::write(folder.join(&name), text));
        match saved {
            Ok(()) => eprintln!("saved {}", folder.join(name).display()),
            Err(error) => eprintln!("{}: {error}", folder.join(name).display()),
        }
    }
    failure
}

fn bar(seeds: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left");
    let bar = ProgressBar::new(seeds);
    bar.enable_steady_tick(Duration::from_millis(200));
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

impl Outcome {
    fn rate(&self) -> f64 {
        self.events as f64 / self.seconds
    }

    fn print(&self, all_marks: bool) {
        for failure in &self.shown {
            println!("{failure}");
        }
        println!("{:>14} events", self.events);
        println!("{:>14} seeds", self.seeds);
        println!("{:>14.1} s, {:.0} events a second", self.seconds, self.rate());
        if self.violations.is_empty() {
            println!("{:>14} violations", 0);
        }
        for (statement, count) in &self.violations {
            println!("{count:>14} violations of {statement}");
        }
        let Some(marks) = self.marks.as_ref().map(Counts::rarest) else { return };
        let (never, passed): (Vec<_>, Vec<_>) = marks.iter().partition(|(_, count)| *count == 0);
        println!("{:>14} marks, {} of them never passed", marks.len(), never.len());
        for (mark, _) in never {
            println!("{:>14} {}", 0, mark.name);
        }
        println!("{}:", if all_marks { "the others" } else { "the rarest of the others" });
        for (mark, count) in passed.iter().take(if all_marks { usize::MAX } else { 10 }) {
            println!("{count:>14} {}", mark.name);
        }
    }

    fn json(&self) -> serde_json::Value {
        let shown: Vec<_> = self
            .shown
            .iter()
            .map(|shown| {
                serde_json::json!({
                    "seed": shown.trace.settings.seed,
                    "statement": format!("{:?}", shown.violation.statement),
                    "text": shown.violation.text,
                    "ops": shown.trace.to_string(),
                    "transcript": shown.story,
                })
            })
            .collect();
        let marks = self.marks.iter().flat_map(Counts::rarest);
        let marks: BTreeMap<_, _> =
            marks.map(|(mark, count)| (mark.name.as_str(), count)).collect();
        serde_json::json!({
            "seeds": self.seeds,
            "events": self.events,
            "seconds": self.seconds,
            "events_per_second": self.rate(),
            "violations": self.violations,
            "marks": marks,
            "first": self.first,
            "shown": shown,
        })
    }
}
