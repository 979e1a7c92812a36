//! What the fuzzer has found interesting is replayed by every test run, on stable Rust.

use std::{fs, path::Path};

use bowline_testkit::fuzz::TARGETS;

#[test]
fn every_file_of_the_corpus_keeps_the_promises() {
    for (name, run) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
        let files = fs::read_dir(&folder).expect("the corpus is part of the repository");
        let mut replayed = 0;
        for file in files {
            let path = file.expect("the folder can be read").path();
            let data = fs::read(&path).expect("the file can be read");
            let outcome = std::panic::catch_unwind(|| run(&data));
            assert!(outcome.is_ok(), "{} breaks a promise", path.display());
            replayed += 1;
        }
        assert!(replayed >= 20, "only {replayed} files in {}", folder.display());
    }
}
