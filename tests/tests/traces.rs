//! Every run that once showed a fault is run again by every test run, for ever.

use std::{fs, path::Path};

use bowline_testkit::{
    run::{judge, tell},
    trace::Trace,
};

#[test]
fn every_trace_keeps_the_promises() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces");
    let mut replayed = 0;
    for file in fs::read_dir(&folder).expect("the traces are part of the repository") {
        let path = file.expect("the folder can be read").path();
        if path.extension().is_none_or(|extension| extension != "ops") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a trace is a text");
        let trace: Trace =
            text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if let Some(violation) = judge(&trace).violation {
            let (_, story) = tell(&trace);
            panic!("{}: {violation}\n\n{story}", path.display());
        }
        replayed += 1;
    }
    assert!(replayed > 0, "no trace in {}", folder.display());
}
