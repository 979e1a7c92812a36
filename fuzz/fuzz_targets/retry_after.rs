//! See `bowline_tokio`'s `src/retry_after.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bowline_tokio::fuzz_retry_after(data));
