//! Every known hazard has a test that shows Bowline not to have it; see [`bowline_testkit::hazards`].

use std::{collections::BTreeMap, fmt::Write as _, ops::RangeInclusive, path::Path};

use bowline_testkit::hazards::shown_by_tests;

/// The numbers given out so far.
const HAZARDS: RangeInclusive<u32> = 1..=72;

#[test]
fn every_hazard_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut shown = BTreeMap::<u32, String>::new();
    for test in shown_by_tests(&root).expect("the sources of the workspace can be read") {
        for number in test.hazards {
            let place = format!("{}:{}", test.file.display(), test.line);
            shown.entry(number).or_insert(place);
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
