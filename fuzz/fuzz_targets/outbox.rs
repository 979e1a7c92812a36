//! See `bowline_testkit::fuzz::outbox`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bowline_testkit::fuzz::outbox::run(data));
