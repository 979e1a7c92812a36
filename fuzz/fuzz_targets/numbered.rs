//! See `bowline_testkit::fuzz::numbered`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bowline_testkit::fuzz::numbered::run(data));
