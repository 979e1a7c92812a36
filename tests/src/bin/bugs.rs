//! Seeds one bug after the other into a copy of the workspace, and says which check noticed it.
//!
//! ```sh
//! cargo run --release -p bowline-testkit --bin bugs
//! cargo run --release -p bowline-testkit --bin bugs -- --only jitter-comes-on-top-of-the-cap
//! ```
//!
//! First the simulation: some seeds, the traces that were saved, then ever more seeds. If that has
//! noticed nothing, the properties of the core; if they have not either, its other tests. Then the
//! tests that carry the number of a hazard which the bug brings back: one of them must fail for each.
//! The rows of `tests/bugs/README.md` are written anew for all bugs that were seeded.
//!
//! The exit code is 1 if some check noticed nothing that should have.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fs,
    io::{self, Read, Seek},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use bowline_testkit::{
    bugs::{self, Bug, List, Row, TABLE},
    hazards::{Shown, properties_in, shown_by_tests},
};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

/// A suite whose tests run random worlds, and so are properties though proptest does not run them.
const WORLDS: &str = "exactly_once";

/// A check that has not ended by then hangs, and has noticed something.
const PATIENCE: Duration = Duration::from_secs(120);

/// So that each build is quick, and panics when a number overflows. The build takes longer than what it
/// is asked: with more optimisation a bug would take twice as long.
const PROFILE: [&str; 6] = [
    "profile.dev.debug=0",
    "profile.dev.incremental=true",
    "profile.release.debug=0",
    "profile.release.incremental=true",
    "profile.release.opt-level=1",
    "profile.release.overflow-checks=true",
];

#[derive(Parser)]
#[command(about = "Seeds bugs, and says which check noticed each")]
struct Options {
    /// Seed this bug only; may be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Seed only the bugs that have no row in the table yet.
    #[arg(long)]
    new: bool,
    /// How many seeds a bug may survive.
    #[arg(long, default_value_t = 20_000)]
    seeds: u64,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bugs: {error}");
            ExitCode::from(2)
        }
    }
}

/// Tests by suite; none stands for all.
type Suites = BTreeMap<String, Vec<String>>;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn run(options: &Options) -> Outcome<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let list = List::read(&root)?;
    if let Some(name) = options.only.iter().find(|name| list.bugs.iter().all(|b| b.name != **name))
    {
        return Err(format!("there is no bug {name}").into());
    }
    let known: BTreeSet<String> = bugs::rows(&root).into_iter().map(|row| row.name).collect();
    let wanted: Vec<&Bug> = list
        .bugs
        .iter()
        .filter(|bug| options.only.is_empty() || options.only.contains(&bug.name))
        .filter(|bug| !options.new || !known.contains(&bug.name))
        .collect();

    let lab = Lab::new(&root, options.seeds)?;
    // Else what is no bug would seem to notice all of them.
    if let Some((statement, world)) = lab.simulate()?.into_iter().next() {
        return Err(format!("without any bug {statement} is broken, world {world}").into());
    }
    let bar = ProgressBar::new(wanted.len() as u64)
        .with_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")?);
    let mut good = true;
    for bug in wanted {
        bar.set_message(bug.name.clone());
        let row = lab.try_out(bug)?;
        bar.suspend(|| println!("{row}"));
        good &= row.is_good();
        // After each, so that a run which is interrupted was not in vain.
        write_table(&root, &list, row)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(good)
}

/// A copy of the workspace to seed bugs into, and what is built from it.
struct Lab {
    /// Destroys the copy at the end.
    copy: tempfile::TempDir,
    target: PathBuf,
    tests: Vec<Shown>,
    seeds: u64,
}

impl Lab {
    fn new(root: &Path, seeds: u64) -> Outcome<Self> {
        let copy = tempfile::tempdir()?;
        copy_folder(root, copy.path())?;
        let tests = shown_by_tests(root)?;
        Ok(Self { copy, target: root.join("target/bugs"), tests, seeds })
    }

    fn try_out(&self, bug: &Bug) -> Outcome<Row> {
        let file = self.copy.path().join("core/src").join(&bug.file);
        let source = fs::read_to_string(&file)?;
        let seeded = bug
            .seed(&source)
            .ok_or_else(|| format!("{}: what it replaces is not there once", bug.name))?;
        fs::write(&file, seeded)?;
        let row = self.check(bug).map_err(|error| format!("{}: {error}", bug.name));
        fs::write(&file, source)?;
        Ok(row?)
    }

    fn check(&self, bug: &Bug) -> Outcome<Row> {
        let found = self.simulate()?;
        let seeds = found.first().map(|(_, world)| world.clone());
        let mut also: Vec<String> = Vec::new();
        for (statement, _) in found {
            if !also.contains(&statement) {
                also.push(statement);
            }
        }
        let mut killed_by = (!also.is_empty()).then(|| also.remove(0));
        let told: Vec<&Shown> = bug.told_by(&self.tests).collect();
        let failed = self.fail(&told)?;
        if killed_by.is_none() {
            killed_by = self.first_failure(&self.properties()?)?.map(Row::by_property);
        }
        if killed_by.is_none() {
            let all = files(&self.copy.path().join("core/tests"), "rs")?;
            killed_by = self.first_failure(&all.iter().map(|it| (name(it), vec![])).collect())?;
        }
        // Each of its hazards must be told.
        let missed = bug.hazards().any(|number| {
            !told.iter().any(|test| test.hazards.contains(&number) && failed.contains(&test.name))
        });
        let told_by = if missed {
            Some(Row::missed())
        } else {
            let first = told.iter().find(|test| failed.contains(&test.name));
            first.map(|test| match failed.len() {
                1 => format!("`{}`", test.name),
                more => format!("`{}` and {} more", test.name, more - 1),
            })
        };
        let (name, breaks) = (bug.name.clone(), bug.breaks.join(" "));
        Ok(Row { name, breaks, killed_by, also, seeds, told_by })
    }

    /// What the simulation found broken: the statements, each with the trace that broke it or how many
    /// seeds it took, in their order.
    fn simulate(&self) -> Outcome<Vec<(String, String)>> {
        let args = ["build", "--release", "-p", "bowline-testkit", "--bin", "simulate"];
        self.cargo(&[&args[..], &["--bin", "replay"]].concat())?;
        let (mut found, mut traced) = (Vec::new(), false);
        let (mut first, mut count) = (0, self.seeds.min(100));
        while found.is_empty() && first < self.seeds {
            let hangs = || vec![("the simulation hangs".to_owned(), (first + 1).to_string())];
            found = self.broken(first, count, PATIENCE)?.unwrap_or_else(hangs);
            if found.is_empty() {
                first += count;
                count = (count * 10).min(self.seeds - first);
            }
            // A thousand seeds take less time than all the traces.
            if found.is_empty() && !traced && (first > 1_000 || first == self.seeds) {
                (found, traced) = (self.replayed()?, true);
            }
        }
        // A few seeds or a trace say little of what else it breaks; more may take for ever.
        if !found.is_empty() {
            let more = self.broken(first, count.max(1_000), PATIENCE / 12)?;
            found.extend(more.unwrap_or_default());
        }
        Ok(found)
    }

    /// The same for the traces that were saved.
    fn replayed(&self) -> Outcome<Vec<(String, String)>> {
        let mut found = Vec::new();
        for path in files(&self.copy.path().join("tests/traces"), "ops")? {
            let mut command = Command::new(self.target.join("release/replay"));
            let Some(output) = output(command.arg(&path), PATIENCE / 12)? else { continue };
            let broken = output.lines().find_map(|line| line.strip_prefix("BROKEN "));
            if let Some((statement, _)) = broken.and_then(|what| what.split_once(':')) {
                found.push((statement.to_owned(), format!("trace `{}`", name(&path))));
            }
        }
        Ok(found)
    }

    /// The same for these seeds, with the simulation that was built; none if it hangs.
    fn broken(
        &self,
        first: u64,
        count: u64,
        patience: Duration,
    ) -> Outcome<Option<Vec<(String, String)>>> {
        let mut command = Command::new(self.target.join("release/simulate"));
        command.args(["--json", "--show=0", "--patience=10", &format!("--first={first}")]);
        command.arg(format!("--seeds={count}"));
        let Some(output) = output(&mut command, patience)? else { return Ok(None) };
        let Ok(result) = serde_json::from_str::<serde_json::Value>(output.trim()) else {
            let crash = ("the simulation crashes".to_owned(), (first + 1).to_string());
            return Ok(Some(vec![crash]));
        };
        let seeds: BTreeMap<String, u64> = serde_json::from_value(result["first"].clone())?;
        let mut found: Vec<_> = seeds.into_iter().collect();
        found.sort_by_key(|(_, seed)| *seed);
        let found = found.into_iter().map(|(what, seed)| (what, (seed + 1).to_string()));
        Ok(Some(found.collect()))
    }

    /// Those of the tests that fail, by name. Those of the core first; the others only for hazards
    /// that these do not tell.
    fn fail(&self, tests: &[&Shown]) -> Outcome<BTreeSet<String>> {
        let mut failed = BTreeSet::new();
        for package in ["core", "io-tokio", "tests"] {
            let mut suites = BTreeMap::<String, Vec<&str>>::new();
            // Not the unit tests in `src`.
            let folder = Path::new(package).join("tests");
            for test in tests.iter().filter(|test| test.file.starts_with(&folder)) {
                let told = |n: &u32| {
                    tests.iter().any(|t| t.hazards.contains(n) && failed.contains(&t.name))
                };
                if !test.hazards.iter().all(told) || package == "core" {
                    suites.entry(suite(&test.file)).or_default().push(&test.name);
                }
            }
            let binaries = self.binaries(package, &suites.keys().cloned().collect())?;
            for (name, wanted) in &suites {
                let Some(binary) = binaries.get(name) else { continue };
                failed.extend(self.failures(package, binary, wanted)?);
            }
        }
        Ok(failed.into_iter().filter(|name| tests.iter().any(|t| t.name == *name)).collect())
    }

    /// The properties of the core, by suite.
    fn properties(&self) -> Outcome<Suites> {
        let mut suites = Suites::new();
        for file in files(&self.copy.path().join("core/tests"), "rs")? {
            let names = properties_in(&fs::read_to_string(&file)?);
            if !names.is_empty() || name(&file) == WORLDS {
                suites.insert(name(&file), names);
            }
        }
        Ok(suites)
    }

    /// A test of the core that fails, of these or, where none is named, of the whole suite.
    fn first_failure(&self, suites: &Suites) -> Outcome<Option<String>> {
        let binaries = self.binaries("core", &suites.keys().cloned().collect())?;
        for (name, binary) in binaries {
            let wanted: Vec<&str> = suites[&name].iter().map(String::as_str).collect();
            if let Some(test) = self.failures("core", &binary, &wanted)?.first() {
                return Ok(Some(format!("`{name}::{test}`")));
            }
        }
        Ok(None)
    }

    /// The tests of a suite that fail, those named or all. One that hangs fails.
    fn failures(&self, package: &str, binary: &Path, names: &[&str]) -> Outcome<BTreeSet<String>> {
        let mut command = Command::new(binary);
        command.args(names).current_dir(self.copy.path().join(package));
        // What proptest finds is not to be kept.
        command.env("PROPTEST_FAILURE_PERSISTENCE", "off");
        let Some(output) = output(&mut command, PATIENCE)? else {
            return Ok(match names {
                [] => BTreeSet::from(["some test hangs".to_owned()]),
                names => names.iter().map(|name| (*name).to_owned()).collect(),
            });
        };
        let failed = output.lines().filter_map(|line| {
            let path = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
            path.split(' ').next()?.rsplit("::").next().map(str::to_owned)
        });
        Ok(failed.collect())
    }

    /// Builds suites of a package.
    fn binaries(
        &self,
        package: &str,
        suites: &BTreeSet<String>,
    ) -> Outcome<BTreeMap<String, PathBuf>> {
        if suites.is_empty() {
            return Ok(BTreeMap::new());
        }
        let name = match package {
            "core" => "bowline-core",
            "io-tokio" => "bowline-tokio",
            _ => "bowline-testkit",
        };
        let mut args = vec!["test", "--no-run", "--message-format=json", "-p", name];
        if package == "core" {
            args.push("--all-features");
        }
        for suite in suites {
            args.extend(["--test", suite]);
        }
        let output = self.cargo(&args)?;
        let mut binaries = BTreeMap::new();
        for line in output.lines() {
            let message: serde_json::Value = serde_json::from_str(line)?;
            let suite = message["target"]["name"].as_str().unwrap_or_default();
            if let (Some(binary), true) = (message["executable"].as_str(), suites.contains(suite)) {
                binaries.insert(suite.to_owned(), binary.into());
            }
        }
        Ok(binaries)
    }

    fn cargo(&self, args: &[&str]) -> Outcome<String> {
        let mut command = Command::new(env!("CARGO"));
        command.args(args).arg("--target-dir").arg(&self.target).current_dir(self.copy.path());
        for setting in PROFILE {
            command.args(["--config", setting]);
        }
        let output = command.env_remove("RUSTFLAGS").output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(format!("it does not build:\n{text}").into());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// What a command prints; none if it does not end in time.
fn output(command: &mut Command, patience: Duration) -> io::Result<Option<String>> {
    let mut file = tempfile::tempfile()?;
    let mut child =
        command.stdout(file.try_clone()?).stderr(Stdio::null()).stdin(Stdio::null()).spawn()?;
    let begun = Instant::now();
    while child.try_wait()?.is_none() {
        if begun.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(10));
    }
    let mut text = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut text)?;
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

/// The suite that a file in `tests` belongs to: itself, or its folder.
fn suite(file: &Path) -> String {
    // core/tests/outbox.rs, io-tokio/tests/network/link.rs, tests/tests/replay.rs
    let first = file.iter().nth(2).unwrap_or_default().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// The files in a folder whose names end like this, in order.
fn files(folder: &Path, extension: &str) -> io::Result<BTreeSet<PathBuf>> {
    let mut paths = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        paths.insert(entry?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|it| it == extension));
    Ok(paths)
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Copies all but what was built and what git keeps.
fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "target" && entry.file_name() != ".git" {
                fs::create_dir(&target)?;
                copy_folder(&entry.path(), &target)?;
            }
        } else if entry.file_name() != ".git" {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

fn write_table(root: &Path, list: &List, row: Row) -> io::Result<()> {
    let mut rows: BTreeMap<String, Row> =
        bugs::rows(root).into_iter().map(|row| (row.name.clone(), row)).collect();
    rows.insert(row.name.clone(), row);
    let rows: Vec<&Row> = list.bugs.iter().filter_map(|bug| rows.get(&bug.name)).collect();
    let simulated = rows.iter().filter(|row| row.seeds.is_some()).count();
    let properties = rows.iter().filter(|row| row.is_by_property()).count();
    let nothing = rows.iter().filter(|row| row.killed_by.is_none()).count();
    let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
    let text = format!(
        "# Seeded bugs\n\n\
         A check that never fails shows nothing. [`bugs.toml`](bugs.toml) lists mistakes that somebody \
         could make in the core; this table says which check notices each. It is written by\n\n    \
         cargo run --release -p bowline-testkit --bin bugs\n\n\
         *Killed by* is the statement that the simulation found broken first, *seeds* how many seeds \
         that took, or the saved trace that told it where 1,100 seeds did not, and *also* what others \
         of these and of a thousand seeds found broken first; where the simulation noticed nothing, it is a \
         property of the core that failed, or else another test of it. *Test with the number* is a test that carries the number \
         of a hazard which the bug brings back (`/// H7`), and failed; a bug counts only if that is so \
         for each of its hazards.\n\n\
         {} of {} bugs were seeded: {simulated} are noticed by the simulation, {properties} only by \
         properties, {} only by other tests, {nothing} by nothing.\n\n\
         | bug | breaks | killed by | also | seeds | test with the number |\n\
         |---|---|---|---|---|---|\n{}\n",
        rows.len(),
        list.bugs.len(),
        rows.len() - simulated - properties - nothing,
        lines.join("\n"),
    );
    fs::write(root.join(TABLE), text)
}
