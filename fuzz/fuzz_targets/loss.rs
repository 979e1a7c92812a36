//! See `bowline_testkit::fuzz::loss`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bowline_testkit::fuzz::loss::run(data));
