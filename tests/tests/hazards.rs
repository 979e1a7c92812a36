//! Every known hazard has a test that shows Bowline not to have it.
//!
//! A hazard is something that real reconnecting clients get wrong; each has a number for ever. A
//! test that shows one carries its number, `H7` say, in its doc comment. What counts as a test is a
//! function under `#[test]` or `#[tokio::test]`, or one in a `proptest!` block, that is not
//! ignored: what nobody runs shows nothing.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

/// The numbers given out so far.
const HAZARDS: RangeInclusive<u32> = 1..=72;

/// Where tests are looked for, from the root of the workspace.
const FOLDERS: [&str; 3] = ["core", "io-tokio", "tests"];

#[test]
fn every_hazard_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut shown = BTreeMap::<u32, String>::new();
    for file in sources(&root).expect("the sources of the workspace can be read") {
        let source = fs::read_to_string(&file).expect("a source is a text file");
        let name = file.strip_prefix(&root).unwrap_or(&file).display();
        for (line, number) in hazards_shown(&source) {
            shown.entry(number).or_insert_with(|| format!("{name}:{line}"));
        }
    }

    let complaints = complaints(&shown);
    assert!(complaints.is_empty(), "\n{complaints}");
}

/// What is wrong with this set of hazards and the places where each is shown, one thing a line.
fn complaints(shown: &BTreeMap<u32, String>) -> String {
    let missing: Vec<String> = HAZARDS
        .filter(|number| !shown.contains_key(number))
        .map(|number| format!("H{number}"))
        .collect();

    let mut text = String::new();
    if !missing.is_empty() {
        let _ = writeln!(text, "{} hazards have no test: {}", missing.len(), missing.join(", "));
    }
    for (number, place) in shown {
        if !HAZARDS.contains(number) {
            let _ = writeln!(text, "{place}: there is no H{number}");
        }
    }
    text
}

/// All Rust files in [`FOLDERS`] but what was built.
fn sources(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = FOLDERS.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                if entry.file_name() != "target" {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The hazards that the tests in `source` show, each with the line of its test.
///
/// Reads lines, not Rust: it relies on the layout that rustfmt gives to the code.
fn hazards_shown(source: &str) -> Vec<(usize, u32)> {
    let mut shown = Vec::new();
    let mut proptest_indent = None;
    let mut head = Head::default();

    for (index, full) in source.lines().enumerate() {
        let line = full.trim();
        let indent = full.len() - full.trim_start().len();
        if line.starts_with("proptest! {") || line.starts_with("proptest::proptest! {") {
            proptest_indent = Some(indent);
        } else if proptest_indent == Some(indent) && line.starts_with('}') {
            proptest_indent = None;
        }

        if head.take(line) {
            continue;
        }
        let Head { numbers, test, ignored, .. } = std::mem::take(&mut head);
        let in_proptest = proptest_indent.is_some_and(|outer| indent == outer + 4);
        if is_function(line) && (test || in_proptest) && !ignored {
            shown.extend(numbers.into_iter().map(|number| (index + 1, number)));
        }
    }
    shown
}

/// What stands above an item: its doc comment and its attributes.
#[derive(Default)]
struct Head {
    numbers: Vec<u32>,
    test: bool,
    ignored: bool,
    /// In the middle of an attribute of several lines.
    open: bool,
}

impl Head {
    /// Whether `line` belongs to the head of an item.
    fn take(&mut self, line: &str) -> bool {
        if self.open {
            self.open = !line.ends_with(']');
            return true;
        }
        if let Some(doc) = line.strip_prefix("///") {
            self.numbers.extend(hazards_named(doc));
            return true;
        }
        let Some(attribute) = line.strip_prefix("#[") else { return false };
        match attribute.split(['(', ']', ' ', '=']).next() {
            Some("test" | "tokio::test") => self.test = true,
            Some("ignore") => self.ignored = true,
            _ => {}
        }
        self.open = !line.ends_with(']');
        true
    }
}

fn is_function(line: &str) -> bool {
    ["fn ", "async fn ", "pub fn ", "pub async fn "].iter().any(|start| line.starts_with(start))
}

/// The numbers of the words `H1`, `H2`, … in `text`.
fn hazards_named(text: &str) -> impl Iterator<Item = u32> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter_map(|word| word.strip_prefix('H'))
        .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))
        .filter_map(|digits| digits.parse().ok())
}

// The sources below are lists of lines so that no line of this file starts like one of them, and
// the scanner finds nothing here.

fn numbers(lines: &[&str]) -> Vec<u32> {
    hazards_shown(&lines.join("\n")).into_iter().map(|(_, number)| number).collect()
}

#[test]
fn a_test_counts_for_every_hazard_that_its_doc_comment_names() {
    assert_eq!(numbers(&["/// Redials once, H1 and (H2).", "#[test]", "fn t() {}"]), [1, 2]);
    assert_eq!(numbers(&["/// H3: a story", "/// of H4.", "#[test]", "fn t() {}"]), [3, 4]);
    assert_eq!(numbers(&["    /// H5", "    #[test]", "    fn t() {"]), [5]);
}

#[test]
fn a_tokio_test_counts_with_and_without_arguments() {
    assert_eq!(numbers(&["/// H1", "#[tokio::test]", "async fn t() {}"]), [1]);
    assert_eq!(numbers(&["/// H2", "#[tokio::test(start_paused = true)]", "async fn t() {}"]), [2]);
    let long = ["/// H3", "#[tokio::test(", "    worker_threads = 2", ")]", "async fn t() {}"];
    assert_eq!(numbers(&long), [3]);
}

#[test]
fn other_attributes_may_stand_around_that_of_the_test() {
    let lines = ["/// H1", "#[cfg(unix)]", "#[test]", "#[should_panic = \"no\"]", "fn t() {}"];
    assert_eq!(numbers(&lines), [1]);
}

#[test]
fn a_function_in_a_proptest_block_counts_with_and_without_attribute() {
    let lines = [
        "proptest! {",
        "    #![proptest_config(cases(64))]",
        "",
        "    /// H1",
        "    #[test]",
        "    fn one(x in 0..9u8) {",
        "        /// H2",
        "        fn inner() {}",
        "    }",
        "",
        "    /// H3",
        "    fn two(x in 0..9u8) {}",
        "}",
        "/// H4",
        "fn after() {}",
    ];
    assert_eq!(numbers(&lines), [1, 3]);
}

#[test]
fn what_is_not_a_test_does_not_count() {
    assert_eq!(numbers(&["/// H1", "fn helper() {}"]), []);
    assert_eq!(numbers(&["/// H1", "pub struct S;", "#[test]", "fn t() {}"]), []);
    assert_eq!(numbers(&["/// H1", "#[cfg(test)]", "mod tests {"]), []);
    assert_eq!(numbers(&["/// H1", "#[test_only]", "fn t() {}"]), []);
    assert_eq!(numbers(&["//! H1", "#[test]", "fn t() {}"]), []);
}

#[test]
fn an_ignored_test_does_not_count() {
    assert_eq!(numbers(&["/// H1", "#[test]", "#[ignore = \"slow\"]", "fn t() {}"]), []);
}

#[test]
fn only_the_doc_comment_of_the_test_itself_counts() {
    assert_eq!(numbers(&["// H1", "#[test]", "fn t() {}"]), []);
    assert_eq!(numbers(&["/// H1", "", "#[test]", "fn t() {}"]), []);
    assert_eq!(numbers(&["#[test]", "fn h1_H1() {", "    // H1", "    let s = \"H1\";"]), []);
    assert_eq!(numbers(&["/// H1", "#[test]", "fn t() {}", "#[test]", "fn u() {}"]), [1]);
}

#[test]
fn a_number_is_a_whole_word() {
    let lines = ["/// H, H2O, XH3, H_4, 5H, h6, HH7, H8-bit and H9.", "#[test]", "fn t() {}"];
    assert_eq!(numbers(&lines), [8, 9]);
}

#[test]
fn the_complaint_lists_everything_at_once() {
    let all_but = |left_out: &[u32]| -> BTreeMap<u32, String> {
        HAZARDS
            .filter(|number| !left_out.contains(number))
            .map(|number| (number, "a.rs:1".to_owned()))
            .collect()
    };
    assert_eq!(complaints(&all_but(&[])), "");

    let mut shown = all_but(&[3, 72]);
    shown.insert(73, "b.rs:9".to_owned());
    assert_eq!(
        complaints(&shown),
        "2 hazards have no test: H3, H72\n\
         b.rs:9: there is no H73\n"
    );
}
