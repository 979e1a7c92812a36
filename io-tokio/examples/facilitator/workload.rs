//! What there is to do: jobs, the chain of statuses of each, and miners with their specs. All of it
//! follows from a seed, so that the facilitator, the validator and the audit agree without a word.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::dialect::Status;

/// Jobs a second.
pub(crate) const RATE: u64 = 50;

/// Miners whose specs are reported.
pub(crate) const MINERS: u64 = 8;

/// A new set of specs comes from one miner after the other, this often.
pub(crate) const SPECS_INTERVAL: Duration = Duration::from_millis(40);

/// The shortest and the longest time, in milliseconds, that a job takes from one status to the next.
const STAGE_MS: (u64, u64) = (5, 150);

/// The seed of the validator's key: of no worth anywhere else.
pub(crate) const KEY_SEED: [u8; 32] = *b"a validator that is only a test.";

/// For how long jobs come in.
pub(crate) fn span(jobs: u64) -> Duration {
    Duration::from_millis(jobs * 1_000 / RATE)
}

/// The name of job `number` of a run.
pub(crate) fn uuid(seed: u64, number: u64) -> String {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(number);
    let (high, low) = (rng.next_u64(), rng.next_u64());
    // Version 4, variant 1 (RFC 9562 §5.4).
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 48 & 0x3fff | 0x8000,
        low & 0xffff_ffff_ffff,
    )
}

/// The generator of what a job does.
fn fate(uuid: &str) -> ChaCha8Rng {
    let seed =
        uuid.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(131).wrapping_add(byte.into()));
    ChaCha8Rng::seed_from_u64(seed)
}

/// What a validator has to say of a job, from taking it to its end. (`sent` is the facilitator's
/// own.)
pub(crate) fn chain(uuid: &str) -> Vec<Status> {
    use Status as S;
    match fate(uuid).next_u64() % 10 {
        0 => vec![S::Received, S::Rejected],
        1 => vec![S::Received, S::HordeFailed],
        2 => vec![S::Received, S::Accepted, S::ExecutorReady, S::Failed],
        3 | 4 => vec![
            S::Received,
            S::Accepted,
            S::ExecutorReady,
            S::StreamingReady,
            S::VolumesReady,
            S::ExecutionDone,
            S::Completed,
        ],
        _ => vec![
            S::Received,
            S::Accepted,
            S::ExecutorReady,
            S::VolumesReady,
            S::ExecutionDone,
            S::Completed,
        ],
    }
}

/// How long a job takes before each of its statuses.
pub(crate) fn stages(uuid: &str) -> impl Iterator<Item = Duration> + use<> {
    let mut rng = fate(uuid);
    std::iter::repeat_with(move || {
        let (low, high) = STAGE_MS;
        Duration::from_millis(low + rng.next_u64() % (high - low + 1))
    })
    .skip(1)
}

/// The name of a miner.
pub(crate) fn miner(number: u64) -> String {
    format!("miner-{}", number % MINERS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_job_has_a_name_of_its_own_and_a_chain_that_ends() {
        let uuids: BTreeSet<_> = (0..1_000).map(|number| uuid(1, number)).collect();
        assert_eq!(uuids.len(), 1_000);
        let mut ends = BTreeSet::new();
        for uuid in &uuids {
            let parts: Vec<_> = uuid.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12], "{uuid}");
            let chain = chain(uuid);
            assert_eq!(chain[0], Status::Received);
            ends.insert(format!("{:?}", chain.last().unwrap()));
        }
        assert_eq!(ends.len(), 4, "{ends:?}");
    }
}
