//! Signatures as Substrate chains make them: sr25519, in the context `substrate`.

use std::fmt::Write;

use schnorrkel::{ExpansionMode, Keypair, MiniSecretKey, PublicKey, Signature};

const CONTEXT: &[u8] = b"substrate";

/// A validator's key. No `Debug`: it is a secret.
#[derive(Clone)]
pub(crate) struct Key(Keypair);

impl Key {
    /// The key that a chain's tools derive from this seed.
    pub(crate) fn from_seed(seed: [u8; 32]) -> Self {
        let secret = MiniSecretKey::from_bytes(&seed).expect("every 32 bytes are a seed");
        Self(secret.expand_to_keypair(ExpansionMode::Ed25519))
    }

    /// Its public half, hexadecimal.
    pub(crate) fn public(&self) -> String {
        hex(&self.0.public.to_bytes())
    }

    /// The signature of the public half's bytes: what the facilitator wants to see first.
    pub(crate) fn sign_itself(&self) -> String {
        self.sign(&self.0.public.to_bytes())
    }

    /// A signature, hexadecimal with the prefix `0x`. Two of the same message are not alike.
    pub(crate) fn sign(&self, message: &[u8]) -> String {
        format!("0x{}", hex(&self.0.sign_simple(CONTEXT, message).to_bytes()))
    }
}

/// Whether `signature` is one of `message` by the holder of the key, all as text.
pub(crate) fn verify(public: &str, message: &[u8], signature: &str) -> bool {
    let check = || {
        let public = PublicKey::from_bytes(&unhex(public)?).ok()?;
        let signature = Signature::from_bytes(&unhex(signature.strip_prefix("0x")?)?).ok()?;
        public.verify_simple(CONTEXT, message, &signature).ok()
    };
    check().is_some()
}

/// Whether `signature` is that of the key over its own bytes.
pub(crate) fn verify_itself(public: &str, signature: &str) -> bool {
    unhex(public).is_some_and(|bytes| verify(public, &bytes, signature))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let digit = |digit: u8| char::from(digit).to_digit(16);
    (digits.len() % 2 == 0)
        .then(|| digits.chunks(2).map(|pair| Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8)))?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_key_and_message_only() {
        let (key, other) = (Key::from_seed([7; 32]), Key::from_seed([8; 32]));
        let signature = key.sign(b"message");
        assert!(verify(&key.public(), b"message", &signature));
        assert!(!verify(&key.public(), b"messages", &signature));
        assert!(!verify(&other.public(), b"message", &signature));
        assert!(verify_itself(&key.public(), &key.sign_itself()));
        assert_ne!(key.sign(b"message"), signature, "each is made afresh");
    }

    /// The public key of Substrate's well-known development account `//Alice`, from its seed.
    #[test]
    fn keys_are_those_of_a_chain() {
        let seed =
            unhex("e5be9a5092b81bca64be81d212e7f2f9eba183bb7a90954f7b76361f6edb5c0a").unwrap();
        let key = Key::from_seed(seed.try_into().unwrap());
        assert_eq!(
            key.public(),
            "d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d"
        );
    }

    #[test]
    fn what_is_no_hexadecimal_text_verifies_nothing() {
        for text in ["", "0x", "0xé", "0x1", "0xzz", "12"] {
            assert!(!verify(text, b"", text));
        }
    }
}
