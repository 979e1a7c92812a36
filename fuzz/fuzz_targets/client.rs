//! See `bowline_testkit::fuzz::client`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    // A panic of the client is to be caught, and told as a trace.
    init: drop(std::panic::take_hook()),
    |data: &[u8]| bowline_testkit::fuzz::client::run(data)
);
