//! Model checking at the size of your choice; the suite `model` runs a small one.
//!
//! ```sh
//! cargo run --release -p bowline-testkit --bin model -- --messages 5 --window 3 --drops 3 --crashes 1 --cancels 1
//! ```
#![allow(unreachable_pub, reason = "a binary has no public interface")]

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    time::Instant,
};

use bowline_core::Level;
use bowline_testkit::model::{Acks, Budget, Scope, progress};
use clap::{Parser, ValueEnum};
use stateright::{Checker, HasDiscoveries, Model};

/// Runs the real client through every interleaving of a small world, and looks at every state.
#[derive(Parser)]
struct Args {
    /// Messages that are pushed; 1 to 16.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    messages: u8,
    /// Messages in flight at once; 1 to --messages.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    window: u8,
    /// Attempts that end, by whatever fault.
    #[arg(long, default_value_t = 2)]
    drops: u8,
    /// Crashes, each with a restore from the last snapshot.
    #[arg(long, default_value_t = 0)]
    crashes: u8,
    /// Messages that are cancelled.
    #[arg(long, default_value_t = 0)]
    cancels: u8,
    /// Messages that the peer refuses for now.
    #[arg(long, default_value_t = 0)]
    nacks: u8,
    /// Messages that the peer refuses for good.
    #[arg(long, default_value_t = 0)]
    rejects: u8,
    /// Connections on which the peer withholds its acks.
    #[arg(long, default_value_t = 0)]
    mutes: u8,
    /// Drops that blame a message.
    #[arg(long, default_value_t = 0)]
    accusations: u8,
    /// Stops.
    #[arg(long, default_value_t = 0)]
    stops: u8,
    /// Closes.
    #[arg(long, default_value_t = 0)]
    closes: u8,
    /// The delivery levels of the messages, in turn.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Promise::Received])]
    levels: Vec<Promise>,
    /// How messages of level acked are acknowledged.
    #[arg(long, value_enum, default_value_t = How::Positional)]
    acks: How,
    /// A greeting has to be answered before messages go.
    #[arg(long)]
    greeting: bool,
    /// Write and flush each frame in a step of its own.
    #[arg(long)]
    stepwise: bool,
    /// Tell the client the time as soon as it passes.
    #[arg(long)]
    prompt: bool,
    /// Let the peer take frames only when something depends on it: the same clients in fewer states.
    #[arg(long, conflicts_with_all = ["nacks", "rejects", "mutes", "accusations", "poison"])]
    late: bool,
    /// Leave out what is asked of each state: stale events, illegal acks, cancel, stop.
    #[arg(long)]
    unasked: bool,
    /// This message kills each connection on which it arrives; 0 is the first.
    #[arg(long)]
    poison: Option<u8>,
    /// Threads that look at states.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
    /// Stop after so many states, repeats included.
    #[arg(long)]
    states: Option<usize>,
    /// Leave out the search for runs in which a message is never settled.
    #[arg(long)]
    no_progress: bool,
    /// States that this search visits at most.
    #[arg(long, default_value_t = 50_000_000)]
    progress_states: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Promise {
    Written,
    Received,
    Acked,
}

#[derive(Clone, Copy, ValueEnum)]
enum How {
    Positional,
    Single,
    Cumulative,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let scope = args.scope();
    let properties = scope.properties().len();
    let began = Instant::now();
    let mut builder = scope
        .clone()
        .checker()
        .threads(args.threads.into())
        .finish_when(HasDiscoveries::AnyFailures);
    if let Some(states) = args.states {
        builder = builder.target_state_count(states);
    }
    let mut checker = builder.spawn_dfs();
    if io::stderr().is_terminal() {
        checker = checker.report(&mut stateright::report::WriteReporter::new(&mut io::stderr()));
    }
    let checker = checker.join();
    let elapsed = began.elapsed();
    let complete = args.states.is_none_or(|states| checker.state_count() < states);
    let discoveries = checker.discoveries();

    println!("scope       {scope:?}");
    println!(
        "states      {} ({} with repeats)",
        checker.unique_state_count(),
        checker.state_count()
    );
    println!("depth       {}", checker.max_depth());
    println!("complete    {}", if complete { "yes" } else { "no, these were as many as wanted" });
    println!("time        {:.1} s", elapsed.as_secs_f64());
    println!("properties  {properties}, {} broken", discoveries.len());
    for (property, path) in &discoveries {
        println!("\nBROKEN: {property}");
        for action in path.clone().into_actions() {
            println!("    {action:?}");
        }
        println!("{:?}", path.last_state());
    }
    let mut kept = discoveries.is_empty();

    if !args.no_progress && kept {
        let began = Instant::now();
        let found = progress::search(&scope, args.progress_states);
        println!(
            "progress    {} states{}, {} steps without a fault, {} cycles, {:.1} s",
            found.states,
            if found.complete { "" } else { " (not all)" },
            found.steps,
            found.cycles,
            began.elapsed().as_secs_f64()
        );
        kept &= found.stuck.is_none();
        for action in found.stuck.iter().flatten() {
            println!("    {action:?}");
        }
        if let Some(path) = &found.stuck {
            println!("{:?}", progress::replay(&scope, path));
        }
        println!(
            "stuck       {}",
            if kept { "no state" } else { "the state that the steps above lead to" }
        );
    }
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Args {
    fn scope(&self) -> Scope {
        Scope {
            messages: self.messages.into(),
            window: self.window.min(self.messages).into(),
            levels: self
                .levels
                .iter()
                .map(|level| match level {
                    Promise::Written => Level::Written,
                    Promise::Received => Level::Received,
                    Promise::Acked => Level::Acked,
                })
                .collect(),
            acks: match self.acks {
                How::Positional => Acks::Positional,
                How::Single => Acks::Single,
                How::Cumulative => Acks::Cumulative,
            },
            greets: self.greeting,
            stepwise: self.stepwise,
            prompt: self.prompt,
            late: self.late,
            unasked: self.unasked,
            poison: self.poison.map(usize::from),
            budget: self.budget(),
            ..Scope::default()
        }
    }

    fn budget(&self) -> Budget {
        Budget {
            drops: self.drops,
            crashes: self.crashes,
            cancels: self.cancels,
            nacks: self.nacks,
            rejects: self.rejects,
            mutes: self.mutes,
            accusations: self.accusations,
            stops: self.stops,
            closes: self.closes,
            ..Budget::default()
        }
    }
}
