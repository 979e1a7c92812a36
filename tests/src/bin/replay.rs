//! Replays a trace and tells it like a story: that of a client, or one of the simulation.
//!
//! ```text
//! cargo run -p bowline-testkit --bin replay -- client.trace
//! cargo run -p bowline-testkit --bin replay -- --all client.trace
//! cargo run -p bowline-testkit --bin replay -- tests/traces/blamed-alone.ops
//! ```
//!
//! On the left is the time since the driver's epoch, in seconds. `->` is what the client did, `==` its
//! state, everything else came from outside. A trace comes from `Builder::record` of bowline-tokio, or
//! from a `Recorder` whose lines were stored as lines of JSON.
//!
//! A trace of the simulation has settings and ops in place of these lines; the binary `simulate` saves
//! one for each run that fails. It is run again in its world, each op after a `>`, before the oracle.
//!
//! The exit code is 0 if everything came out as it was recorded, or as was promised; 1 if not; 2 for
//! arguments that make no sense; 3 if the file is no trace or stops before the client did.

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
use bowline_testkit::{
    run,
    statement::Violation,
    story::{Seconds, Story},
    trace::Trace,
};
use clap::Parser;

/// Replays a trace and tells it like a story.
#[derive(Parser, Debug)]
#[command(name = "replay")]
struct Arguments {
    /// The trace, as lines of JSON or of ops; - reads it from the standard input
    file: PathBuf,
    /// Tell every event of a client on a line of its own
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
    let mut input = BufReader::new(input);
    let mut out = BufWriter::new(io::stdout().lock());
    // A line of JSON begins with a brace, and nothing in a trace of ops does.
    if input.fill_buf()?.trim_ascii_start().first().is_some_and(|&first| first != b'{') {
        let mut text = String::new();
        input.read_to_string(&mut text)?;
        let trace: Trace = text.parse()?;
        trace.settings.validate()?;
        let (told, kept) = tell_ops(&trace, &mut out);
        written(told)?;
        return Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }

    let lines = input.lines().map(|line| Ok::<Line, Unreadable>(serde_json::from_str(&line?)?));
    let (told, outcome) = tell(lines, arguments.all, &mut out);
    written(told)?;
    match outcome {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(ReplayError { problem: Problem::Differs { .. }, .. }) => Ok(ExitCode::FAILURE),
        Err(error) => Err(error.into()),
    }
}

/// Whoever reads may have seen enough; the exit code is to be right all the same.
fn written(told: io::Result<()>) -> io::Result<()> {
    match told {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        told => told,
    }
}

/// Runs a trace of the simulation, tells its story, and says whether every promise was kept.
fn tell_ops(trace: &Trace, mut out: impl Write) -> (io::Result<()>, bool) {
    let (violation, story) = run::tell(trace);
    let told = writeln!(out, "{}\n{story}\n{}", trace.settings, ending(violation.as_ref()));
    (told.and_then(|()| out.flush()), violation.is_none())
}

fn ending(violation: Option<&Violation>) -> String {
    match violation {
        None => "Every promise was kept.".to_owned(),
        Some(violation) => format!("BROKEN {violation}"),
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

#[cfg(test)]
mod tests {
    use bowline_core::Instant;
    use bowline_testkit::statement::Statement;

    use super::*;

    #[test]
    fn a_broken_promise_is_named_at_the_end() {
        let text = "4 goes after 5".to_owned();
        let violation =
            Violation { statement: Statement::S5, at: Instant::from_micros(1_500_000), text };
        assert_eq!(
            ending(Some(&violation)),
            "BROKEN S5: on one attempt numbers rise, and the replay comes first \
             (4 goes after 5, at 1.500000)"
        );
    }
}
