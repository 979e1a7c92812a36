//! Replays the trace of a client and tells it like a story.
//!
//! ```text
//! cargo run -p bowline-testkit --bin replay -- client.trace
//! cargo run -p bowline-testkit --bin replay -- --all client.trace
//! ```
//!
//! On the left is the time since the driver's epoch, in seconds. `->` is what the client did, `==` its
//! state, everything else came from outside. A trace comes from `Builder::record` of bowline-tokio, or
//! from a `Recorder` whose lines were stored as lines of JSON.
//!
//! The exit code is 0 if everything came out as it was recorded, 1 if something came out differently,
//! 2 for arguments that make no sense, 3 if the file is no trace or stops before the client did.

use std::{
    error::Error,
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::PathBuf,
    process::ExitCode,
};

use bowline_core::{
    loss::verdict,
    trace::{Line, Problem, ReplayError, Replayed, Scene, What, replay},
};
use bowline_testkit::story::{Seconds, Story};
use clap::Parser;

/// Replays the trace of a client and tells it like a story.
#[derive(Parser, Debug)]
#[command(name = "replay")]
struct Arguments {
    /// The trace, as lines of JSON; - reads it from the standard input
    file: PathBuf,
    /// Tell every event on a line of its own
    #[arg(long)]
    all: bool,
}

/// Why a line could not be read.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    run(&arguments).unwrap_or_else(|error| {
        eprintln!("replay: {}: {error}", arguments.file.display());
        ExitCode::from(3)
    })
}

fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let input: Box<dyn Read> = match arguments.file.as_os_str() == "-" {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(&arguments.file)?),
    };
    let lines = BufReader::new(input)
        .lines()
        .map(|line| Ok::<Line, Unreadable>(serde_json::from_str(&line?)?));

    let mut out = BufWriter::new(io::stdout().lock());
    let (told, outcome) = tell(lines, arguments.all, &mut out);
    match told {
        // Whoever reads has seen enough; the exit code is still to be right.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        told => told?,
    }
    match outcome {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(ReplayError { problem: Problem::Differs { .. }, .. }) => Ok(ExitCode::FAILURE),
        Err(error) => Err(error.into()),
    }
}

type Outcome = Result<Replayed, ReplayError<Unreadable>>;

/// Tells the story, and how it ends.
fn tell(
    lines: impl Iterator<Item = Result<Line, Unreadable>>,
    all: bool,
    mut out: impl Write,
) -> (io::Result<()>, Outcome) {
    let story = Story::new(&mut out);
    let mut story = if all { story.with_everything() } else { story };
    let (mut version, mut own_verdicts) = (String::new(), false);
    let outcome = replay(lines, verdict, |scene| {
        if let Scene::Line(Line { what: What::Begin(begin), .. }) = scene {
            version.clone_from(&begin.version);
            own_verdicts = begin.own_verdicts;
        }
        story.see(scene);
    });
    let told = story.finish().and_then(|()| match &outcome {
        Ok(replayed) => writeln!(out, "\nThe same as recorded: {} lines.", replayed.lines),
        Err(ReplayError { line, at, problem: Problem::Differs { recorded, came } }) => {
            writeln!(out, "\nDifferent at line {line}, at {} s.", Seconds(*at))?;
            writeln!(out, "  recorded: {recorded}\n  now:      {came}")?;
            if version != env!("CARGO_PKG_VERSION") {
                writeln!(out, "It was recorded by bowline {version}.")?;
            }
            if own_verdicts {
                writeln!(out, "It was recorded with a table of verdicts that is not known here.")?;
            }
            Ok(())
        }
        Err(_) => Ok(()),
    });
    (told.and_then(|()| out.flush()), outcome)
}
