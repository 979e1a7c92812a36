//! See `bowline_testkit::client_events`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bowline_testkit::client_events::run(data));
