//! Which tests of Bowline show which hazards.
//!
//! A hazard is something that real reconnecting clients get wrong; each has a number for ever. A
//! test that shows one carries its number, `H7` say, in its doc comment. What counts as a test is a
//! function under `#[test]` or `#[tokio::test]`, or one in a `proptest!` block, that is not
//! ignored: what nobody runs shows nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where tests are looked for, from the root of the workspace.
const FOLDERS: [&str; 3] = ["core", "io-tokio", "tests"];

/// A test that shows hazards.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// Its file, from the root of the workspace.
    pub file: PathBuf,
    /// Its line there.
    pub line: usize,
    /// The name of its function.
    pub name: String,
    /// The hazards.
    pub hazards: Vec<u32>,
}

/// All tests of the workspace that show hazards.
///
/// # Errors
/// A source cannot be read.
pub fn shown_by_tests(root: &Path) -> io::Result<Vec<Shown>> {
    let mut all = Vec::new();
    for file in sources(root)? {
        let source = fs::read_to_string(&file)?;
        let file = file.strip_prefix(root).unwrap_or(&file);
        all.extend(tests_in(&source).into_iter().map(|(line, name, hazards)| Shown {
            file: file.to_owned(),
            line,
            name,
            hazards,
        }));
    }
    Ok(all)
}

/// The names of the properties in a source: of the functions in its `proptest!` blocks.
pub fn properties_in(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    scan(source, |_, name, _, in_proptest| {
        if in_proptest {
            names.push(name.to_owned());
        }
    });
    names
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

/// The tests in `source` that show hazards: line, name, numbers.
fn tests_in(source: &str) -> Vec<(usize, String, Vec<u32>)> {
    let mut shown = Vec::new();
    scan(source, |line, name, numbers, _| {
        if !numbers.is_empty() {
            shown.push((line, name.to_owned(), numbers));
        }
    });
    shown
}

/// Finds the tests in `source`: line, name, hazards, and whether it is in a `proptest!` block.
///
/// Reads lines, not Rust: it relies on the layout that rustfmt gives to the code.
fn scan(source: &str, mut found: impl FnMut(usize, &str, Vec<u32>, bool)) {
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
        if let Some(name) = function(line).filter(|_| (test || in_proptest) && !ignored) {
            found(index + 1, name, numbers, in_proptest);
        }
    }
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

/// The name of the function that begins on this line.
fn function(line: &str) -> Option<&str> {
    let starts = ["fn ", "async fn ", "pub fn ", "pub async fn "];
    let rest = starts.iter().find_map(|start| line.strip_prefix(start))?;
    rest.split(['(', '<']).next()
}

/// The numbers of the words `H1`, `H2`, … in `text`.
fn hazards_named(text: &str) -> impl Iterator<Item = u32> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter_map(|word| word.strip_prefix('H'))
        .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))
        .filter_map(|digits| digits.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    // The sources below are lists of lines so that no line of this file starts like one of them, and
    // the scanner finds nothing here.

    fn numbers(lines: &[&str]) -> Vec<u32> {
        tests_in(&lines.join("\n")).into_iter().flat_map(|(.., numbers)| numbers).collect()
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
        assert_eq!(
            numbers(&["/// H2", "#[tokio::test(start_paused = true)]", "async fn t() {}"]),
            [2]
        );
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
    fn a_property_is_a_function_in_a_proptest_block() {
        let lines =
            ["proptest! {", "    #[test]", "    fn p(x in 0..9u8) {}", "}", "#[test]", "fn t() {}"];
        assert_eq!(properties_in(&lines.join("\n")), ["p"]);
    }

    #[test]
    fn what_is_not_a_test_does_not_count() {
        assert_eq!(numbers(&["/// H1", "fn helper() {}"]), [0_u32; 0]);
        assert_eq!(numbers(&["/// H1", "pub struct S;", "#[test]", "fn t() {}"]), [0_u32; 0]);
        assert_eq!(numbers(&["/// H1", "#[cfg(test)]", "mod tests {"]), [0_u32; 0]);
        assert_eq!(numbers(&["/// H1", "#[test_only]", "fn t() {}"]), [0_u32; 0]);
        assert_eq!(numbers(&["//! H1", "#[test]", "fn t() {}"]), [0_u32; 0]);
    }

    #[test]
    fn an_ignored_test_does_not_count() {
        assert_eq!(
            numbers(&["/// H1", "#[test]", "#[ignore = \"slow\"]", "fn t() {}"]),
            [0_u32; 0]
        );
    }

    #[test]
    fn only_the_doc_comment_of_the_test_itself_counts() {
        assert_eq!(numbers(&["// H1", "#[test]", "fn t() {}"]), [0_u32; 0]);
        assert_eq!(numbers(&["/// H1", "", "#[test]", "fn t() {}"]), [0_u32; 0]);
        assert_eq!(
            numbers(&["#[test]", "fn h1_H1() {", "    // H1", "    let s = \"H1\";"]),
            [0_u32; 0]
        );
        assert_eq!(numbers(&["/// H1", "#[test]", "fn t() {}", "#[test]", "fn u() {}"]), [1]);
    }

    #[test]
    fn a_number_is_a_whole_word() {
        let lines = ["/// H, H2O, XH3, H_4, 5H, h6, HH7, H8-bit and H9.", "#[test]", "fn t() {}"];
        assert_eq!(numbers(&lines), [8, 9]);
    }
}
