//! Bowline's own seeded bugs: what is in `tests/bugs/bugs.toml`, and what became of each.
//!
//! A check that never fails shows nothing. So there is a list of mistakes, one or two lines each,
//! that somebody could make in the core; the binary `bugs` makes them one by one and says which
//! check noticed. They stand beside the core and not in it, so that who reads it reads what runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::Path,
};

use serde::Deserialize;

use crate::hazards::Shown;

/// The list, from the root of the workspace.
pub const LIST: &str = "tests/bugs/bugs.toml";

/// The table of what noticed each, from the root of the workspace.
pub const TABLE: &str = "tests/bugs/README.md";

/// The list of seeded bugs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// The bugs.
    #[serde(rename = "bug")]
    pub bugs: Vec<Bug>,
    /// Hazards and statements that no bug of the core can break, each with the reason.
    pub elsewhere: BTreeMap<String, String>,
}

/// A mistake of one or two lines.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bug {
    /// What it does, as a phrase.
    pub name: String,
    /// The hazards (`H7`) that the core then has, and the statements (`S3`) that do not hold.
    pub breaks: Vec<String>,
    /// Its file in `core/src`.
    pub file: String,
    /// A text that stands there once.
    pub find: String,
    /// What takes its place.
    pub replace: String,
}

/// The list cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// There is no such file.
    #[error("{LIST}: {0}")]
    Io(#[from] io::Error),
    /// It is no such list.
    #[error("{LIST}: {0}")]
    Toml(#[from] toml::de::Error),
}

impl List {
    /// The list in the workspace at `root`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(root: &Path) -> Result<Self, Unreadable> {
        Ok(toml::from_str(&fs::read_to_string(root.join(LIST))?)?)
    }

    /// All that some bug breaks.
    pub fn broken(&self) -> BTreeSet<&str> {
        self.bugs.iter().flat_map(|bug| &bug.breaks).map(String::as_str).collect()
    }
}

impl Bug {
    /// The numbers of the hazards among what it breaks.
    pub fn hazards(&self) -> impl Iterator<Item = u32> + '_ {
        self.breaks.iter().filter_map(|what| what.strip_prefix('H')?.parse().ok())
    }

    /// The source with the bug in it; none unless `find` stands there exactly once.
    pub fn seed(&self, source: &str) -> Option<String> {
        (source.matches(&self.find).count() == 1)
            .then(|| source.replacen(&self.find, &self.replace, 1))
    }

    /// The tests that carry the number of a hazard which it brings back.
    pub fn told_by<'a>(&'a self, tests: &'a [Shown]) -> impl Iterator<Item = &'a Shown> + 'a {
        let hazards: BTreeSet<u32> = self.hazards().collect();
        tests.iter().filter(move |test| test.hazards.iter().any(|number| hazards.contains(number)))
    }
}

/// What became of a bug: a row of the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// What it breaks.
    pub breaks: String,
    /// The statement or test that noticed it first; none if nothing did.
    pub killed_by: Option<String>,
    /// The other statements that the same seeds found broken, in the order in which they were.
    pub also: Vec<String>,
    /// How many seeds the simulation needed, or the trace, if it was the simulation.
    pub seeds: Option<String>,
    /// The tests with the numbers of its hazards that failed; none if it has no hazard.
    pub told_by: Option<String>,
}

impl Row {
    const SURVIVES: &'static str = "**survives**";
    const MISSED: &'static str = "**none**";

    /// Whether every check noticed it that should have.
    pub fn is_good(&self) -> bool {
        self.killed_by.is_some() && self.told_by.as_deref() != Some(Self::MISSED)
    }

    /// What stands for a property that noticed a bug.
    pub fn by_property(test: String) -> String {
        format!("{test}, a property")
    }

    /// Whether it was a property.
    pub fn is_by_property(&self) -> bool {
        self.killed_by.as_ref().is_some_and(|by| by.ends_with(", a property"))
    }

    /// What stands for no test where there should be one.
    pub fn missed() -> String {
        Self::MISSED.to_owned()
    }

    /// Reads a row of the table.
    pub fn read(line: &str) -> Option<Self> {
        let mut cells = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ");
        let name = cells.next()?.strip_suffix('`')?.to_owned();
        let breaks = cells.next()?.to_owned();
        let killed_by = Some(cells.next()?.to_owned()).filter(|by| by != Self::SURVIVES);
        let also =
            cells.next()?.split(' ').filter(|what| *what != "-").map(str::to_owned).collect();
        let seeds = Some(cells.next()?.to_owned()).filter(|seeds| seeds != "-");
        let told_by = Some(cells.next()?.to_owned()).filter(|by| by != "-");
        Some(Self { name, breaks, killed_by, also, seeds, told_by })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, breaks, .. } = self;
        let killed_by = self.killed_by.as_deref().unwrap_or(Self::SURVIVES);
        let also = if self.also.is_empty() { "-".to_owned() } else { self.also.join(" ") };
        let seeds = self.seeds.as_deref().unwrap_or("-");
        let told_by = self.told_by.as_deref().unwrap_or("-");
        write!(f, "| `{name}` | {breaks} | {killed_by} | {also} | {seeds} | {told_by} |")
    }
}

/// The rows of the table in the workspace at `root`; none if there is no table yet.
pub fn rows(root: &Path) -> Vec<Row> {
    let text = fs::read_to_string(root.join(TABLE)).unwrap_or_default();
    text.lines().filter_map(Row::read).collect()
}
