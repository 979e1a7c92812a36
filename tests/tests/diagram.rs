//! README and the module docs show the machines as they are.
//!
//! `BOWLINE_WRITE_DIAGRAMS=1 cargo test -p bowline-testkit --test diagram` draws them anew.

use std::{env, fs, path::Path};

use bowline_testkit::diagram::{self, Edges, TICK};

#[test]
fn the_pictures_of_the_connection_show_the_code() {
    all_shown(&diagram::connection(), [("core/src/connection.rs", 0), ("README.md", 0)]);
}

#[test]
fn the_pictures_of_the_outbox_show_the_code() {
    all_shown(&diagram::outbox(), [("core/src/outbox.rs", 0), ("README.md", 1)]);
}

#[test]
fn the_pictures_of_the_inbox_show_the_code() {
    all_shown(&diagram::inbox(), [("core/src/inbox.rs", 0), ("README.md", 2)]);
}

#[test]
fn a_step_is_explained_by_its_event_and_the_timers_that_ran_out_with_it() {
    let edges = diagram::connection();
    let way = |from, event, to| edges.explain(from, event, to).map(|way| way.len());
    assert_eq!(way("Idle", "Start", "Dialing"), Some(1));
    assert_eq!(way("Idle", "Start", "Waiting"), Some(2));
    assert_eq!(way("Up", "Heard", "Up"), Some(0));
    assert_eq!(way("Up", TICK, "Waiting"), Some(2));
    assert_eq!(way("Idle", TICK, "Dialing"), None);
    assert_eq!(way("Stopped", "Nudge", "Dialing"), None);
}

/// Compares the picture of a machine that was walked through with those at these places.
fn all_shown(edges: &Edges, places: [(&str, usize); 2]) {
    assert!((500..90_000).contains(&edges.states()), "{} states", edges.states());
    for (file, nth) in places {
        shown(file, nth, &edges.mermaid());
    }
}

/// Compares a picture with the n-th one in a file, or puts it there.
fn shown(file: &str, nth: usize, picture: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    let text = fs::read_to_string(&path).expect("the file is there");
    let prefix = if file.ends_with(".rs") { "//! " } else { "" };
    let begin = format!("{prefix}```mermaid\n");
    let (before, _) = text.match_indices(&begin).nth(nth).expect("a place for the picture");
    let from = before + begin.len();
    let end = format!("{prefix}```\n");
    let to = from + text[from..].find(&end).expect("the end of the picture");
    let drawn: String = picture.lines().map(|line| format!("{prefix}{line}\n")).collect();
    if env::var_os("BOWLINE_WRITE_DIAGRAMS").is_some() {
        fs::write(path, format!("{}{drawn}{}", &text[..from], &text[to..])).expect("it is written");
    } else {
        assert_eq!(
            text[from..to],
            drawn,
            "{file} shows another machine; BOWLINE_WRITE_DIAGRAMS=1 draws it anew"
        );
    }
}
