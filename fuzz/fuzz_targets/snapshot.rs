//! See `bowline_testkit::fuzz::snapshot`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bowline_testkit::fuzz::snapshot::run(data));
