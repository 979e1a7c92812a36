//! What was promised, held against what arrived.

use std::time::Duration;

use clap::ValueEnum;

/// How much a client waits for before it reports a message as delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Level {
    /// The server's WebSocket library has it
    Received,
    /// The server's application has written it down, and says so
    Acked,
}

/// A set of message numbers. They are dense, so a flag for each is small enough.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers {
    present: Vec<bool>,
    len: u64,
}

impl Numbers {
    /// Adds `number`; says whether it was new.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        let index = usize::try_from(number).expect("a message number fits into memory");
        if index >= self.present.len() {
            self.present.resize(index + 1, false);
        }
        let new = !std::mem::replace(&mut self.present[index], true);
        self.len += u64::from(new);
        new
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        usize::try_from(number)
            .ok()
            .and_then(|index| self.present.get(index))
            .is_some_and(|&present| present)
    }

    /// In ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        (0..).zip(&self.present).filter(|(_, present)| **present).map(|(number, _)| number)
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }
}

impl Extend<u64> for Numbers {
    fn extend<I: IntoIterator<Item = u64>>(&mut self, numbers: I) {
        for number in numbers {
            self.insert(number);
        }
    }
}

impl FromIterator<u64> for Numbers {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let mut set = Self::default();
        set.extend(numbers);
        set
    }
}

/// What a client says of its own run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reported {
    /// Messages handed to it: the numbers `0..handed`.
    pub(crate) handed: u64,
    /// Numbers that it reported delivered.
    pub(crate) delivered: Numbers,
    /// Numbers that it reported failed.
    pub(crate) failed: Numbers,
    /// Connections that it made after its first.
    pub(crate) reconnects: u64,
}

/// What became of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Audit {
    /// Messages handed to the client.
    pub(crate) sent: u64,
    /// Reported delivered by the client.
    pub(crate) delivered: u64,
    /// Reported failed by the client.
    pub(crate) failed: u64,
    /// Different messages in the ledger.
    pub(crate) arrived: u64,
    /// Handed to the client, neither arrived nor reported failed.
    pub(crate) lost: u64,
    /// Reported delivered and not in the ledger.
    pub(crate) lost_though_delivered: u64,
    /// Of these, what a server process had read and not written down when it was killed.
    pub(crate) lost_with_server: u64,
    /// Handed to the client, which reported neither delivery nor failure, or both.
    pub(crate) without_one_outcome: u64,
    /// Arrivals of a message that had arrived before.
    pub(crate) duplicated: u64,
    /// First arrivals of a message after that of a later one.
    pub(crate) out_of_order: u64,
    /// Arrivals of what was never handed to the client.
    pub(crate) invented: u64,
    /// Connections after the first.
    pub(crate) reconnects: u64,
    /// Different messages that arrived, over the time that the client took for all.
    pub(crate) per_second: u64,
}

impl Audit {
    /// Compares what the client `reported` with the `ledger`, and with what `died` with the server
    /// processes that were killed: they had read it, and had not written it down.
    pub(crate) fn of(reported: &Reported, ledger: &[u64], died: &Numbers, took: Duration) -> Self {
        let mut arrived = Numbers::default();
        let mut latest = None;
        let (mut duplicated, mut out_of_order, mut invented) = (0, 0, 0);
        for &number in ledger {
            if number >= reported.handed {
                invented += 1;
            } else if !arrived.insert(number) {
                duplicated += 1;
            } else if latest.is_some_and(|latest| number < latest) {
                out_of_order += 1;
            } else {
                latest = Some(number);
            }
        }

        let count =
            |is: &dyn Fn(u64) -> bool| (0..reported.handed).filter(|&n| is(n)).count() as u64;
        let never_handed = reported.delivered.len() - count(&|n| reported.delivered.contains(n));
        Self {
            sent: reported.handed,
            delivered: reported.delivered.len(),
            failed: reported.failed.len(),
            arrived: arrived.len(),
            lost: count(&|n| !arrived.contains(n) && !reported.failed.contains(n)),
            lost_though_delivered: never_handed
                + count(&|n| reported.delivered.contains(n) && !arrived.contains(n)),
            lost_with_server: count(&|n| {
                reported.delivered.contains(n) && !arrived.contains(n) && died.contains(n)
            }),
            without_one_outcome: count(&|n| {
                reported.delivered.contains(n) == reported.failed.contains(n)
            }),
            duplicated,
            out_of_order,
            invented,
            reconnects: reported.reconnects,
            per_second: (arrived.len() as f64 / took.as_secs_f64()).round() as u64,
        }
    }

    /// Whether the promises of this level were kept: every message ends in exactly one outcome that
    /// is true, and first arrivals are in order.
    ///
    /// At `Received` a message may arrive twice, for at least once is the promise; and what a
    /// server process had read and took with it when it was killed may be reported delivered. At
    /// `Acked` neither is allowed: the server has an inbox, and acknowledges what it wrote down.
    pub(crate) fn kept(&self, level: Level) -> bool {
        let (allowed_losses, allowed_duplicates) = match level {
            Level::Received => (self.lost_with_server, u64::MAX),
            Level::Acked => (0, 0),
        };
        self.lost == allowed_losses
            && self.lost_though_delivered == allowed_losses
            && self.duplicated <= allowed_duplicates
            && self.without_one_outcome == 0
            && self.out_of_order == 0
            && self.invented == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_delivered(handed: u64) -> Reported {
        Reported { handed, delivered: (0..handed).collect(), ..Reported::default() }
    }

    fn audit(reported: &Reported, ledger: &[u64]) -> Audit {
        Audit::of(reported, ledger, &Numbers::default(), Duration::from_secs(2))
    }

    fn kept_at_both_levels(audit: Audit) -> bool {
        assert_eq!(audit.kept(Level::Received), audit.kept(Level::Acked));
        audit.kept(Level::Received)
    }

    #[test]
    fn a_perfect_history_keeps_the_promises() {
        let audit = audit(&all_delivered(4), &[0, 1, 2, 3]);
        assert!(kept_at_both_levels(audit));
        assert_eq!((audit.sent, audit.delivered, audit.arrived), (4, 4, 4));
        assert_eq!((audit.lost, audit.duplicated), (0, 0));
        assert_eq!(audit.per_second, 2);
    }

    #[test]
    fn a_message_that_never_arrived_is_lost_though_reported() {
        let audit = audit(&all_delivered(4), &[0, 1, 3]);
        assert_eq!((audit.lost, audit.lost_though_delivered), (1, 1));
        assert!(!kept_at_both_levels(audit));
    }

    #[test]
    fn a_message_without_any_outcome_is_flagged_whether_it_arrived_or_not() {
        let mut reported = all_delivered(2);
        reported.handed = 4;
        let audit = audit(&reported, &[0, 1, 2]);
        assert_eq!((audit.lost, audit.lost_though_delivered), (1, 0));
        assert_eq!(audit.without_one_outcome, 2);
        assert!(!kept_at_both_levels(audit));
    }

    #[test]
    fn a_failure_that_is_reported_is_not_a_loss() {
        let mut reported = all_delivered(2);
        reported.handed = 4;
        reported.failed = (2..4).collect();
        let audit = audit(&reported, &[0, 1, 3]);
        assert_eq!((audit.failed, audit.lost), (2, 0));
        assert!(kept_at_both_levels(audit), "a failed message may have arrived");
    }

    #[test]
    fn two_outcomes_for_one_message_are_flagged() {
        let mut reported = all_delivered(2);
        reported.failed.insert(1);
        let audit = audit(&reported, &[0, 1]);
        assert_eq!(audit.without_one_outcome, 1);
        assert!(!kept_at_both_levels(audit));
    }

    #[test]
    fn a_duplicate_is_counted_and_allowed_at_received_only() {
        let audit = audit(&all_delivered(3), &[0, 1, 0, 1, 2, 2]);
        assert_eq!((audit.arrived, audit.duplicated), (3, 3));
        assert_eq!(audit.out_of_order, 0, "a replay is not a reordering");
        assert!(audit.kept(Level::Received));
        assert!(!audit.kept(Level::Acked));
    }

    #[test]
    fn a_first_arrival_after_a_later_one_is_out_of_order() {
        let audit = audit(&all_delivered(5), &[0, 3, 1, 2, 4]);
        assert_eq!((audit.lost, audit.out_of_order), (0, 2));
        assert!(!kept_at_both_levels(audit));
    }

    #[test]
    fn an_arrival_of_what_was_never_sent_is_flagged() {
        let audit = audit(&all_delivered(2), &[0, 1, 2, u64::MAX]);
        assert_eq!((audit.arrived, audit.invented), (2, 2));
        assert!(!kept_at_both_levels(audit));
    }

    #[test]
    fn a_report_of_what_was_never_sent_is_a_false_report() {
        let mut reported = all_delivered(2);
        reported.delivered.insert(7);
        let audit = audit(&reported, &[0, 1]);
        assert_eq!((audit.lost, audit.lost_though_delivered), (0, 1));
        assert!(!kept_at_both_levels(audit));
    }

    #[test]
    fn an_empty_run_is_sound() {
        assert!(kept_at_both_levels(audit(&Reported::default(), &[])));
    }

    #[test]
    fn what_died_with_the_server_is_lost_and_allowed_at_received_only() {
        let died = [1, 2].into_iter().collect();
        let audit = Audit::of(&all_delivered(4), &[0, 2, 3], &died, Duration::from_secs(2));
        assert_eq!((audit.lost, audit.lost_though_delivered), (1, 1));
        assert_eq!(audit.lost_with_server, 1, "2 has come again");
        assert!(audit.kept(Level::Received));
        assert!(!audit.kept(Level::Acked));
    }

    #[test]
    fn what_died_with_the_server_excuses_no_other_loss() {
        let died = [1].into_iter().collect();
        let audit = Audit::of(&all_delivered(4), &[0, 3], &died, Duration::from_secs(2));
        assert_eq!((audit.lost_though_delivered, audit.lost_with_server), (2, 1));
        assert!(!kept_at_both_levels(audit));

        let mut reported = all_delivered(4);
        reported.delivered = [0, 2, 3].into_iter().collect();
        let audit = Audit::of(&reported, &[0, 2, 3], &died, Duration::from_secs(2));
        assert_eq!((audit.lost, audit.lost_with_server), (1, 0), "it has no outcome");
        assert!(!kept_at_both_levels(audit));
    }
}
