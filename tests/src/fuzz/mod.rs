//! What the fuzz targets run: each module's `run` takes the bytes that a fuzzer invents, lives
//! through what they say, and panics if a promise is broken.
//!
//! The targets in `fuzz/` are one line each. The corpus that they have gathered is replayed by
//! `cargo test` on stable Rust. For targets of your own, the feature `arbitrary` of `bowline-core`
//! makes events, frames and snapshots out of bytes.

pub mod client;
pub mod connection;
pub mod loss;
pub mod numbered;
pub mod outbox;
pub mod snapshot;

use core::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use bowline_core::{Attempt, Instant};

/// One target: its name, which is that of its file in `fuzz/fuzz_targets` and of its folder in
/// `fuzz/corpus`, and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// Every target whose bytes are read by this crate.
pub const TARGETS: [Target; 6] = [
    ("client", client::run),
    ("connection", connection::run),
    ("loss", loss::run),
    ("numbered", numbered::run),
    ("outbox", outbox::run),
    ("snapshot", snapshot::run),
];

/// What the bytes make. Bytes that run out make the values that they still make; none at all make
/// nothing.
fn read<'a, T: Arbitrary<'a>>(data: &'a [u8]) -> Option<T> {
    T::arbitrary_take_rest(Unstructured::new(data)).ok()
}

/// Time that passes: microseconds up to 2^47 (four years), short ones as likely as long ones.
#[derive(Arbitrary, Debug, Clone, Copy)]
struct Passes {
    micros: u16,
    shift: u8,
}

impl Passes {
    fn since(self, before: Instant) -> Instant {
        before + Duration::from_micros(u64::from(self.micros) << (self.shift % 32))
    }
}

/// An attempt: mostly the newest, at times the one before or one that is yet to come.
#[derive(Arbitrary, Debug, Clone, Copy)]
struct Which(u8);

impl Which {
    fn of(self, newest: Attempt) -> Attempt {
        match self.0 {
            0 => Attempt::new(newest.get().saturating_sub(1)),
            255 => Attempt::new(newest.get() + 1),
            _ => newest,
        }
    }
}
