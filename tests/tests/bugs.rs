//! The list of seeded bugs is whole, and each of them is one that the sources still have room for.
//! What noticed each is in `tests/bugs/README.md`; the binary `bugs` finds that out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use bowline_testkit::{
    bugs::{List, Row, rows},
    hazards::shown_by_tests,
    statement::{Judge, Statement},
};

#[test]
fn the_text_that_a_bug_replaces_stands_in_its_file_once() {
    let mut sources = BTreeMap::new();
    let lost: Vec<String> = list()
        .bugs
        .into_iter()
        .filter(|bug| {
            let source = sources.entry(bug.file.clone()).or_insert_with(|| {
                fs::read_to_string(root().join("core/src").join(&bug.file)).unwrap_or_default()
            });
            bug.seed(source).is_none_or(|seeded| seeded == *source)
        })
        .map(|bug| bug.name)
        .collect();
    assert!(lost.is_empty(), "these find nothing to replace, or more than one place: {lost:?}");
}

#[test]
fn there_are_sixty_bugs_and_each_has_a_name_of_its_own() {
    let list = list();
    let names: BTreeSet<&str> = list.bugs.iter().map(|bug| bug.name.as_str()).collect();
    assert_eq!(names.len(), list.bugs.len());
    assert!(names.len() >= 60, "{}", names.len());
    assert!(list.bugs.iter().all(|bug| !bug.breaks.is_empty()));
}

#[test]
fn every_hazard_and_statement_is_broken_by_a_bug_or_it_is_said_why_not() {
    let list = list();
    let tests = shown_by_tests(&root()).expect("the sources of the workspace can be read");
    let hazards = tests.iter().flat_map(|test| &test.hazards).map(|number| format!("H{number}"));
    let statements = Statement::ALL.iter().map(|statement| format!("{statement:?}"));
    let all: BTreeSet<String> = hazards.chain(statements).collect();

    let named: BTreeSet<String> = list
        .broken()
        .into_iter()
        .map(str::to_owned)
        .chain(list.elsewhere.keys().cloned())
        .collect();
    assert_eq!(named, all);
    let both = list.elsewhere.keys().find(|what| list.broken().contains(what.as_str()));
    assert_eq!(both, None, "it can be broken here after all");
}

#[test]
fn a_bug_whose_text_stands_there_twice_is_not_seeded() {
    let bug = &list().bugs[0];
    let once = format!("a {} b", bug.find);
    assert_eq!(bug.seed(&once), Some(format!("a {} b", bug.replace)));
    assert_eq!(bug.seed(&format!("{once}{once}")), None);
    assert_eq!(bug.seed(""), None);
}

#[test]
fn a_row_of_the_table_reads_as_it_was_written() {
    let killed = Row {
        name: "a-b".into(),
        breaks: "H1 S2".into(),
        killed_by: Some("S2".into()),
        also: vec!["S3".into(), "R1".into()],
        seeds: Some("12".into()),
        told_by: Some("`t` and 2 more".into()),
    };
    let replayed = Row { seeds: Some("trace `a-b`".into()), ..killed.clone() };
    let survives =
        Row { killed_by: None, also: vec![], seeds: None, told_by: None, ..killed.clone() };
    for row in [killed, replayed, survives] {
        assert_eq!(Row::read(&row.to_string()), Some(row));
    }
    assert_eq!(Row::read("|---|---|---|---|---|---|"), None);
}

#[test]
fn every_bug_in_the_list_has_a_row_in_the_table_and_none_survives() {
    let listed: Vec<_> =
        list().bugs.into_iter().map(|bug| (bug.name, bug.breaks.join(" "))).collect();
    let rows = rows(&root());
    let bad: Vec<&Row> = rows.iter().filter(|row| !row.is_good()).collect();
    assert!(bad.is_empty(), "not every check has noticed these that should have: {bad:#?}");
    let shown: Vec<_> = rows.into_iter().map(|row| (row.name, row.breaks)).collect();
    assert_eq!(shown, listed, "the table is not that of the list");
}

/// Not only that some check notices each bug: that each check notices one.
#[test]
fn every_statement_that_is_judged_in_the_simulation_has_noticed_a_bug() {
    let rows = rows(&root());
    let noticed: BTreeSet<&str> = rows
        .iter()
        .flat_map(|row| row.killed_by.iter().chain(&row.also))
        .map(String::as_str)
        .collect();
    let idle: Vec<Statement> = Statement::ALL
        .into_iter()
        .filter(|statement| !matches!(statement.judge(), Judge::Tests(_)))
        .filter(|statement| !noticed.contains(format!("{statement:?}").as_str()))
        .collect();
    assert!(idle.is_empty(), "no seeded bug was noticed by {idle:?}");
}

fn list() -> List {
    List::read(&root()).unwrap_or_else(|error| panic!("{error}"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
