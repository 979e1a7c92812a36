//! The small values that a driver or a dialect passes around: names, bodies, keys, frames.

use core::convert::Infallible;

use bowline_core::{Attempt, Body, Frame, Key, OutboxId, Ping, Seq};
use bytes::Bytes;
use proptest::prelude::*;
use rand_core::TryRng;

/// H68: with fewer bits, two outboxes of a large fleet would soon have one name.
#[test]
fn the_name_of_an_outbox_is_drawn_from_all_128_bits() {
    let id = OutboxId::draw(&mut Counting(0));
    assert_eq!(id.get(), 1 << 64 | 2);
}

#[test]
fn a_body_gives_back_the_bytes_that_it_was_made_of() {
    let bytes = Bytes::from_static(b"knot");
    let body = Body::binary(bytes.clone());
    assert!(!body.is_empty());
    assert_eq!(body.into_bytes(), bytes);
    assert!(Body::text("").is_empty());
}

#[test]
fn a_frame_says_how_long_its_payload_is() {
    assert_eq!(Frame::Data(Body::text("knot")).payload_len(), 4);
    let ping = Ping { attempt: Attempt::new(1), seq: Seq::new(2) };
    assert_eq!(Frame::Ping(ping).payload_len(), ping.payload().len());
}

#[test]
fn a_ping_is_read_back_with_its_numbers() {
    let ping = Ping { attempt: Attempt::new(7), seq: Seq::new(9) };
    let read = Ping::parse(&ping.payload()).unwrap();
    assert_eq!((read.attempt.get(), read.seq.get()), (7, 9));
}

#[test]
fn an_empty_key_is_a_key_and_is_empty() {
    assert!(Key::from("").is_empty());
    assert!(!Key::from("a").is_empty());
}

/// H63
#[test]
fn bodies_and_keys_show_their_kind_and_size_and_nothing_else() {
    assert_eq!(format!("{:?}", Body::text("secret")), "text(6 B)");
    assert_eq!(format!("{:?}", Body::binary(vec![1, 2])), "binary(2 B)");
    assert_eq!(format!("{:?}", Key::from("secret")), "key(6 B)");
}

proptest! {
    /// H63: whatever is in them, two of one size look the same.
    #[test]
    fn no_byte_of_a_body_or_a_key_is_shown(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let other = vec![0; bytes.len()];
        let shown = |bytes: &[u8]| {
            format!("{:?} {:?}", Body::binary(bytes.to_vec()), Key::from(bytes))
        };
        prop_assert_eq!(shown(&bytes), shown(&other));
    }
}

/// A generator that draws 1, 2, 3.
struct Counting(u64);

impl TryRng for Counting {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|number| number as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0 += 1;
        Ok(self.0)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for byte in bytes {
            *byte = self.try_next_u64()? as u8;
        }
        Ok(())
    }
}
