//! See `bowline_testkit::fuzz::connection`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bowline_testkit::fuzz::connection::run(data));
