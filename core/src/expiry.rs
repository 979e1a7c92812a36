//! Which message outlives its time to live next: an index that is exact where deadlines rise, and
//! late by at most 1/32 of the time to live elsewhere. Never early.
//!
//! Times to live that differ by less than 1/32 share a class, and a class is a first-in-first-out
//! queue. With one time to live for all, which is the usual case, that is one queue. Inside a
//! class a deadline is raised to the one before it, if that is later; so the queue is sorted, and
//! insertion, removal and the million that expire at once each cost O(1) a message. Classes are
//! relative durations: shifting all inputs in time shifts all deadlines by as much.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use core::time::Duration;

use crate::{
    outbox::Seq,
    time::{Instant, micros_ceil},
};

/// Deadlines of messages, soonest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expiry {
    /// Sorted queues by class.
    classes: BTreeMap<u64, VecDeque<(Instant, Seq)>>,
    /// The head of each queue.
    heads: BTreeSet<(Instant, u64)>,
    len: usize,
}

impl Expiry {
    /// Adds a message that may live for `ttl` from `now`, and says when it will expire.
    pub(crate) fn insert(&mut self, now: Instant, ttl: Duration, seq: Seq) -> Instant {
        let exact = now + ttl;
        if exact == Instant::NEVER {
            return exact;
        }
        let class = class(micros_ceil(ttl));
        let queue = self.classes.entry(class).or_default();
        let at = queue.back().map_or(exact, |&(last, _)| exact.max(last));
        queue.push_back((at, seq));
        if queue.len() == 1 {
            self.heads.insert((at, class));
        }
        self.len += 1;
        at
    }

    /// The soonest deadline, and its message.
    pub(crate) fn peek(&self) -> Option<(Instant, Seq)> {
        let (_, class) = self.heads.first()?;
        self.classes.get(class)?.front().copied()
    }

    /// Removes what [`peek`](Self::peek) shows.
    pub(crate) fn pop(&mut self) {
        let Some((_, class)) = self.heads.pop_first() else { return };
        let Some(queue) = self.classes.get_mut(&class) else { return };
        queue.pop_front();
        self.len -= 1;
        match queue.front() {
            Some(&(at, _)) => {
                self.heads.insert((at, class));
            }
            None => {
                self.classes.remove(&class);
            }
        }
    }

    /// How many entries there are, stale ones included.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Drops every entry that `keep` refuses, in one pass.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(Instant, Seq) -> bool) {
        self.heads.clear();
        self.len = 0;
        let (heads, len) = (&mut self.heads, &mut self.len);
        self.classes.retain(|&class, queue| {
            queue.retain(|&(at, seq)| keep(at, seq));
            *len += queue.len();
            if let Some(&(at, _)) = queue.front() {
                heads.insert((at, class));
            }
            !queue.is_empty()
        });
    }
}

/// The class of a time to live: rounded down to its six leading bits.
fn class(micros: u64) -> u64 {
    let dropped = (u64::BITS - micros.leading_zeros()).saturating_sub(6);
    micros >> dropped << dropped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Instant {
        Instant::from_micros(micros)
    }

    #[test]
    fn a_class_is_narrower_than_a_32nd() {
        for micros in (1..5_000).chain([u64::MAX / 3, u64::MAX - 1]) {
            assert!(class(micros) <= micros);
            assert!(micros - class(micros) <= micros / 32, "{micros}");
        }
    }

    #[test]
    fn deadlines_that_rise_are_exact() {
        let mut expiry = Expiry::default();
        for n in 0..1_000 {
            let ttl = Duration::from_micros(1_000 + n);
            assert_eq!(expiry.insert(at(n), ttl, Seq::new(n)), at(n) + ttl);
        }
        for n in 0..1_000 {
            assert_eq!(expiry.peek(), Some((at(1_000 + 2 * n), Seq::new(n))));
            expiry.pop();
        }
        assert_eq!((expiry.peek(), expiry.len()), (None, 0));
    }

    #[test]
    fn a_deadline_may_be_late_by_a_32nd_and_is_never_early() {
        let mut expiry = Expiry::default();
        for n in 0..1_000_u64 {
            let micros = 320_000 - n * 7;
            let ttl = Duration::from_micros(micros);
            let late = expiry.insert(at(n), ttl, Seq::new(n)).since(at(n) + ttl);
            assert!(expiry.insert(at(n), ttl, Seq::new(n)) >= at(n) + ttl);
            assert!(late <= ttl / 32, "{late:?} of {ttl:?}");
        }
    }

    #[test]
    fn the_soonest_of_all_classes_comes_first() {
        let mut expiry = Expiry::default();
        expiry.insert(at(0), Duration::from_secs(60), Seq::new(1));
        expiry.insert(at(0), Duration::from_millis(5), Seq::new(2));
        expiry.insert(at(0), Duration::from_secs(1), Seq::new(3));
        let mut order = alloc::vec::Vec::new();
        while let Some((_, seq)) = expiry.peek() {
            order.push(seq.get());
            expiry.pop();
        }
        assert_eq!(order, [2, 3, 1]);
    }

    #[test]
    fn retain_keeps_the_order_and_forgets_empty_classes() {
        let mut expiry = Expiry::default();
        for n in 0..100 {
            expiry.insert(at(n), Duration::from_secs(1 + n % 3 * 10), Seq::new(n));
        }
        expiry.retain(|_, seq| seq.get() % 3 == 1);
        assert_eq!((expiry.len(), expiry.classes.len(), expiry.heads.len()), (33, 1, 1));
        assert_eq!(expiry.peek().map(|(_, seq)| seq), Some(Seq::new(1)));
    }

    #[test]
    fn a_deadline_beyond_time_is_none() {
        let mut expiry = Expiry::default();
        assert_eq!(expiry.insert(at(1), Duration::MAX, Seq::new(1)), Instant::NEVER);
        assert_eq!(expiry.len(), 0);
    }
}
