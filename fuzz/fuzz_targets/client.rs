//! See `bowline_testkit::fuzz::client`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bowline_testkit::fuzz::client::run(data));
