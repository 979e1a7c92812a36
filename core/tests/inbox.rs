//! The inbox, rule by rule.

use bowline_core::{
    Answer, Inbox, InboxConfig, InboxState, InboxStats, Lane, MessageId, Nack, NotInProgress,
    Offer, OutboxId, Seq,
};
use proptest::prelude::*;

use Answer::Ack;
use Nack::{Permanent, Transient};
use Offer::{Duplicate, New, Refused, Stale};

// ---- New, done, acknowledged --------------------------------------------------------------------

#[test]
fn an_inbox_is_idle_until_the_sender_connects_and_refusing_until_it_has_gone_back() {
    let mut inbox = Inbox::new(InboxConfig::default()).unwrap();
    assert_eq!(inbox.state(), InboxState::Idle);
    let lane = inbox.connect();
    assert_eq!(inbox.state(), InboxState::Open);
    assert_eq!(inbox.offer(lane, id(A, 1), seq(1)), New);
    assert_eq!(inbox.offer(lane, id(A, 2), seq(1)), New);
    assert_eq!(inbox.refuse(id(A, 1), Transient), Ok(()));
    assert_eq!(inbox.state(), InboxState::Refusing { id: id(A, 1) });
    assert_eq!(inbox.offer(lane, id(A, 1), seq(1)), New);
    assert_eq!(inbox.state(), InboxState::Open);
}

/// H37: a message is recognised by the name that it keeps.
#[test]
fn a_message_is_new_once() {
    let mut end = End::new();
    assert_eq!(end.offer(A, 1), New);
    assert_eq!(end.offer(A, 1), Duplicate);
    end.done(A, 1);
    assert_eq!(end.offer(A, 1), Duplicate);
    assert_eq!(end.offer(A, 2), New);
}

#[test]
fn only_what_is_done_is_acknowledged() {
    let mut end = End::new();
    assert_eq!(end.offer_all(A, 1..=3), [New, New, New]);
    assert_eq!(end.answers(), []);
    end.done(A, 2);
    assert_eq!(end.answers(), [Ack(id(A, 2))]);
    end.done(A, 3);
    assert_eq!(end.answers(), [Ack(id(A, 3))]);
    assert_eq!(end.answers(), []);
}

#[test]
fn one_ack_covers_a_batch() {
    let mut end = End::new();
    for number in 1..=1_000 {
        assert_eq!(end.offer(A, number), New);
        end.done(A, number);
    }
    assert_eq!(end.answers(), [Ack(id(A, 1_000))]);
}

#[test]
fn one_done_covers_all_that_were_new_before_it_whatever_their_outbox() {
    let mut end = End::new();
    end.offer_all(A, 1..=2);
    end.offer_all(B, 3..=4);
    end.done(B, 3);
    assert_eq!(end.answers(), [Ack(id(A, 2)), Ack(id(B, 3))]);
    assert_eq!(end.inbox.in_progress().collect::<Vec<_>>(), [id(B, 4)]);
}

#[test]
fn an_ack_that_was_missed_is_given_again() {
    let mut end = End::new();
    end.offer_all(A, 1..=3);
    end.done(A, 3);
    assert_eq!(end.answers(), [Ack(id(A, 3))]);
    assert_eq!(end.offer(A, 2), Duplicate);
    assert_eq!(end.answers(), [Ack(id(A, 3))]);
}

#[test]
fn a_duplicate_of_what_is_in_progress_owes_no_ack() {
    let mut end = End::new();
    end.offer_all(A, 1..=2);
    end.done(A, 1);
    assert_eq!(end.answers(), [Ack(id(A, 1))]);
    assert_eq!((end.offer(A, 2), end.answers()), (Duplicate, vec![]));
}

#[test]
fn numbers_that_are_missing_are_not_waited_for() {
    let mut end = End::new();
    assert_eq!((end.offer(A, 4), end.offer(A, 9)), (New, New));
    end.done(A, 9);
    assert_eq!(end.answers(), [Ack(id(A, 9))]);
    assert_eq!(end.offer(A, 7), Duplicate);
}

#[test]
fn saying_done_twice_changes_nothing() {
    let mut end = End::new();
    end.offer_all(A, 1..=2);
    end.done(A, 2);
    let before = end.inbox.clone();
    end.done(A, 1);
    end.done(A, 2);
    assert_eq!(end.inbox, before);
}

#[test]
fn what_is_not_in_progress_can_be_neither_done_nor_refused() {
    let mut end = End::new();
    end.offer_all(A, 2..=3);
    end.done(A, 2);
    let before = end.inbox.clone();
    for stranger in [id(A, 4), id(B, 1), id(A, u64::MAX)] {
        assert_eq!(end.inbox.done(stranger), Err(NotInProgress(stranger)));
    }
    for stranger in [id(A, 1), id(A, 2), id(A, 4), id(B, 1)] {
        assert_eq!(end.inbox.refuse(stranger, Transient), Err(NotInProgress(stranger)));
    }
    assert_eq!(end.inbox, before);
    let error = NotInProgress(id(A, 4)).to_string();
    assert_eq!(error, "message 4 of outbox 0000000000000000000000000000000a is not in progress");
}

// ---- Connections --------------------------------------------------------------------------------

#[test]
fn a_message_in_progress_when_the_connection_dies_is_a_duplicate_on_the_next_one() {
    let mut end = End::new();
    assert_eq!(end.offer(A, 1), New);
    end.connect();
    assert_eq!((end.offer(A, 1), end.answers()), (Duplicate, vec![]));
    end.done(A, 1);
    assert_eq!(end.answers(), [Ack(id(A, 1))]);
}

#[test]
fn what_was_done_between_two_connections_is_acknowledged_on_the_second() {
    let mut end = End::new();
    end.offer_all(A, 1..=1);
    end.connect();
    end.done(A, 1);
    assert_eq!(end.answers(), [Ack(id(A, 1))]);
}

/// H23, H40: what an old connection still brings does not get in between.
#[test]
fn a_message_on_an_older_connection_is_stale() {
    let mut end = End::new();
    let old = end.lane;
    end.connect();
    assert_eq!(end.inbox.offer(old, id(A, 1), seq(1)), Stale);
    assert_eq!(end.offer(A, 1), New);
    end.done(A, 1);
    assert_eq!(end.inbox.poll(old), None);
    assert_eq!(end.answers(), [Ack(id(A, 1))]);
    let stats = InboxStats { new: 1, stale: 1, ..InboxStats::default() };
    assert_eq!(end.inbox.stats(), stats);
}

#[test]
fn a_new_connection_owes_no_ack_before_the_sender_shows_that_it_missed_it() {
    let mut end = End::new();
    end.offer_all(A, 1..=1);
    end.done(A, 1);
    end.connect();
    assert_eq!(end.answers(), []);
    end.offer_all(A, 1..=1);
    assert_eq!(end.answers(), [Ack(id(A, 1))]);
}

// ---- Refusals -----------------------------------------------------------------------------------

#[test]
fn after_a_refusal_nothing_is_taken_until_the_sender_has_gone_back() {
    let mut end = End::new();
    end.offer_all(A, 1..=3);
    end.done(A, 1);
    end.refuse(A, 2, Transient);
    // On their way when the nack was said.
    assert_eq!((end.offer_behind(2, A, 4), end.offer_behind(2, B, 5)), (Refused, Refused));
    assert_eq!(end.answers(), [Ack(id(A, 1)), Answer::Nack(id(A, 2), Transient)]);
    assert_eq!(end.offer_behind(2, A, 6), Refused);
    assert_eq!(end.answers(), []);

    assert_eq!(end.offer_behind(2, A, 2), New);
    assert_eq!((end.offer_behind(2, A, 3), end.offer_behind(2, B, 5)), (New, New));
}

#[test]
fn a_refused_message_that_never_comes_again_is_passed_by_the_base() {
    let mut end = End::new();
    end.offer_all(A, 1..=3);
    end.refuse(A, 1, Permanent);
    assert_eq!(end.answers(), [Answer::Nack(id(A, 1), Permanent)]);
    assert_eq!(end.offer_behind(2, A, 2), New);
    end.done(A, 2);
    assert_eq!(end.answers(), [Ack(id(A, 2))]);
}

/// The refused message was cancelled before its nack was heard. What was dropped behind it is still
/// unsettled, and an ack of a later message would settle it.
#[test]
fn a_base_beyond_the_refused_message_does_not_let_a_later_one_pass_what_was_dropped() {
    let mut end = End::new();
    end.offer_all(A, 1..=1);
    end.refuse(A, 1, Transient);
    assert_eq!(end.offer_behind(1, A, 2), Refused);
    assert_eq!(end.offer_behind(2, A, 3), Refused);
    assert_eq!(end.offer_behind(2, A, 2), New);
}

#[test]
fn a_refusal_gives_up_all_that_was_new_behind_it() {
    let mut end = End::new();
    end.offer_all(A, 1..=3);
    end.offer_all(B, 4..=4);
    end.refuse(A, 2, Transient);
    assert_eq!(end.inbox.in_progress().collect::<Vec<_>>(), [id(A, 1)]);
    assert_eq!(end.inbox.done(id(A, 3)), Err(NotInProgress(id(A, 3))));
    end.done(A, 1);
    assert_eq!(end.offer_behind(2, A, 2), New);
    assert_eq!((end.offer_behind(2, A, 3), end.offer_behind(2, B, 4)), (New, New));
}

/// The sender was restored from a snapshot in which a message is live that failed later on.
#[test]
fn a_message_that_was_missing_is_not_in_progress_because_a_later_one_was_refused() {
    let mut end = End::new();
    end.offer_all(A, 1..=1);
    end.offer_all(A, 3..=3);
    end.refuse(A, 3, Transient);
    end.connect();
    assert_eq!((end.offer_behind(1, A, 1), end.offer_behind(1, A, 2)), (Duplicate, New));
}

#[test]
fn of_two_refusals_the_one_further_in_front_is_said() {
    let mut end = End::new();
    end.offer_all(A, 1..=3);
    end.refuse(A, 3, Permanent);
    end.refuse(A, 2, Transient);
    assert_eq!(end.answers(), [Answer::Nack(id(A, 2), Transient)]);
    end.refuse(A, 1, Transient);
    assert_eq!(end.answers(), [Answer::Nack(id(A, 1), Transient)]);
}

#[test]
fn a_refusal_can_be_refused_again() {
    let mut end = End::new();
    for _ in 0..3 {
        assert_eq!(end.offer(A, 1), New);
        end.refuse(A, 1, Transient);
        assert_eq!(end.answers(), [Answer::Nack(id(A, 1), Transient)]);
    }
}

#[test]
fn a_refusal_ends_with_its_connection() {
    let mut end = End::new();
    end.offer_all(A, 1..=2);
    end.refuse(A, 1, Permanent);
    end.connect();
    assert_eq!(end.answers(), []);
    assert_eq!((end.offer_behind(1, A, 1), end.offer_behind(1, A, 2)), (New, New));
}

#[test]
fn a_refusal_is_said_where_the_message_has_come_again_and_not_where_it_has_not() {
    let mut end = End::new();
    end.offer_all(A, 1..=2);
    end.connect();
    let mut not_yet = end.clone();
    not_yet.refuse(A, 1, Transient);
    assert_eq!(not_yet.answers(), []);
    assert_eq!((not_yet.offer_behind(1, A, 1), not_yet.offer_behind(1, A, 2)), (New, New));

    assert_eq!(end.offer_behind(1, A, 1), Duplicate);
    end.refuse(A, 1, Transient);
    assert_eq!(end.offer_behind(1, A, 2), Refused);
    assert_eq!(end.answers(), [Answer::Nack(id(A, 1), Transient)]);
}

/// The sender was restored from a snapshot without A's last message, which is still in progress.
#[test]
fn what_came_behind_a_message_of_the_past_is_asked_for_again() {
    let mut end = End::new();
    end.offer_all(A, 1..=2);
    end.connect();
    assert_eq!((end.offer_behind(1, A, 1), end.offer_behind(1, B, 2)), (Duplicate, New));
    end.refuse(A, 2, Permanent);
    assert_eq!(end.answers(), [Answer::Nack(id(B, 2), Transient)]);
    end.done(A, 1);
    assert_eq!(end.offer_behind(2, B, 2), New);
}

// ---- Restored -----------------------------------------------------------------------------------

#[test]
fn an_inbox_is_restored_from_the_marks_that_were_stored_with_the_effects() {
    let mut end = End::new();
    end.offer_all(A, 1..=5);
    end.offer_all(B, 6..=6);
    let mut stored = Vec::new();
    for (outbox, number) in [(A, 1), (A, 2)] {
        stored.retain(|mark: &MessageId| mark.outbox != outbox);
        stored.push(id(outbox, number));
    }
    // It dies before it says done.
    let mut end = End::restored(stored);
    assert_eq!(end.inbox.mark(A), Some(seq(2)));
    let offers: Vec<_> = (1..=5).map(|number| end.offer_behind(1, A, number)).collect();
    assert_eq!(offers, [Duplicate, Duplicate, New, New, New]);
    assert_eq!(end.answers(), [Ack(id(A, 2))]);
    assert_eq!(end.offer_behind(1, B, 6), New);
}

#[test]
fn what_is_stored_is_what_the_inbox_knows() {
    let mut end = End::new();
    end.offer_all(A, 1..=3);
    end.offer_all(B, 4..=4);
    end.offer_all(C, 5..=5);
    end.done(B, 4);
    assert_eq!(end.inbox.marks().collect::<Vec<_>>(), [id(A, 3), id(B, 4)]);
    assert_eq!((end.inbox.mark(C), end.inbox.mark(OutboxId::new(9))), (None, None));
    let restored = End::restored(end.inbox.marks());
    assert!(restored.inbox.marks().eq(end.inbox.marks()));
}

#[test]
fn of_two_marks_of_one_outbox_the_higher_counts() {
    for marks in [[id(A, 3), id(A, 5)], [id(A, 5), id(A, 3)]] {
        assert_eq!(End::restored(marks).inbox.mark(A), Some(seq(5)));
    }
}

// ---- Bounds -------------------------------------------------------------------------------------

#[test]
fn the_outbox_that_was_not_heard_of_for_longest_is_forgotten() {
    let mut end = End::with(InboxConfig { max_outboxes: 2, ..InboxConfig::default() });
    for outbox in [A, B, A, C] {
        let number = end.inbox.mark(outbox).map_or(1, |mark| mark.get() + 1);
        assert_eq!(end.offer(outbox, number), New);
        end.done(outbox, number);
    }
    assert_eq!(end.inbox.marks().collect::<Vec<_>>(), [id(A, 2), id(C, 1)]);
    // What forgetting means.
    assert_eq!(end.offer(B, 1), New);
}

#[test]
fn an_outbox_with_a_message_in_progress_is_not_forgotten() {
    let mut end = End::with(InboxConfig { max_outboxes: 2, ..InboxConfig::default() });
    assert_eq!((end.offer(A, 1), end.offer(B, 2)), (New, New));
    assert_eq!(end.offer(C, 3), Refused);
    assert_eq!(end.offer_behind(1, C, 4), Refused);
    assert_eq!(end.answers(), [Answer::Nack(id(C, 3), Transient)]);
    end.done(A, 1);
    assert_eq!(end.offer(C, 3), New);
    assert_eq!((end.inbox.mark(A), end.offer(B, 2)), (None, Duplicate));
}

#[test]
fn more_marks_than_are_remembered_leave_the_last_ones() {
    let config = InboxConfig { max_outboxes: 2, ..InboxConfig::default() };
    let inbox = Inbox::restore(config, [id(A, 1), id(B, 1), id(C, 1)]).unwrap();
    assert_eq!(inbox.marks().collect::<Vec<_>>(), [id(B, 1), id(C, 1)]);
}

#[test]
fn more_messages_than_may_be_in_progress_are_refused_for_the_moment() {
    let mut end = End::with(InboxConfig { max_in_progress: 2, ..InboxConfig::default() });
    assert_eq!(end.offer_all(A, 1..=4), [New, New, Refused, Refused]);
    assert_eq!(end.answers(), [Answer::Nack(id(A, 3), Transient)]);
    end.connect();
    // What is in progress is so however full it is.
    assert_eq!(end.offer_behind(1, A, 2), Duplicate);
    end.done(A, 1);
    assert_eq!((end.offer_behind(2, A, 3), end.offer_behind(2, A, 4)), (New, Refused));
}

#[test]
fn settings_out_of_range_are_refused() {
    let field = |config: InboxConfig| Inbox::new(config).unwrap_err().to_string();
    let fine = InboxConfig::default();
    assert_eq!(
        field(InboxConfig { max_outboxes: 0, ..fine.clone() }),
        "max_outboxes is 0, allowed is 1 to 1024"
    );
    assert_eq!(
        field(InboxConfig { max_in_progress: 0, ..fine }),
        "max_in_progress is 0, allowed is 1 to 16777216"
    );
}

#[test]
fn the_ends_of_the_numbers_are_numbers() {
    let mut end = End::new();
    assert_eq!(end.offer(A, 0), Duplicate);
    assert_eq!(end.answers(), []);
    assert_eq!(end.offer(A, u64::MAX), New);
    end.done(A, u64::MAX);
    assert_eq!(end.answers(), [Ack(id(A, u64::MAX))]);
    assert_eq!(end.offer(A, u64::MAX), Duplicate);
    assert_eq!(end.answers(), [Ack(id(A, u64::MAX))]);
}

// ---- Whatever the sender does -------------------------------------------------------------------

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// No sender, however hostile, makes a message new twice while it is in progress or done and
    /// remembered, gets an ack of what is not done, or takes memory beyond the limits.
    #[test]
    fn a_hostile_sender_harms_nobody_but_itself(
        steps in prop::collection::vec((0..8_u8, 0..5_u128, 0..6_u64, 0..6_u64), 1..200)
    ) {
        let config = InboxConfig { max_outboxes: 3, max_in_progress: 4 };
        let mut end = End::with(config);
        let mut done = Vec::<MessageId>::new();
        for (step, outbox, number, base) in steps {
            let message = id(OutboxId::new(outbox), number);
            let in_progress: Vec<_> = end.inbox.in_progress().collect();
            match step {
                0 => end.connect(),
                1 => {
                    let place = in_progress.iter().position(|&other| other == message);
                    if end.inbox.done(message).is_ok() {
                        done.extend(&in_progress[..place.map_or(0, |place| place + 1)]);
                    }
                }
                2 => {
                    let result = end.inbox.refuse(message, Transient);
                    prop_assert_eq!(result.is_ok(), in_progress.contains(&message));
                }
                3 => {
                    for answer in end.answers() {
                        if let Ack(acked) = answer {
                            prop_assert!(done.contains(&acked), "{acked:?} is not done");
                            let covered = |other: &MessageId| {
                                other.outbox == acked.outbox && other.seq <= acked.seq
                            };
                            prop_assert!(!in_progress.iter().any(covered), "{acked:?}");
                        }
                    }
                }
                _ => {
                    let remembered = end.inbox.mark(message.outbox);
                    if end.inbox.offer(end.lane, message, seq(base)) == New {
                        prop_assert!(!in_progress.contains(&message));
                        prop_assert!(remembered.is_none_or(|mark| mark < message.seq));
                    }
                }
            }
            prop_assert!(end.inbox.in_progress().len() <= 4);
            prop_assert!(end.inbox.marks().count() <= 3);
        }
    }
}

// ---- Helpers ------------------------------------------------------------------------------------

const A: OutboxId = OutboxId::new(0xA);
const B: OutboxId = OutboxId::new(0xB);
const C: OutboxId = OutboxId::new(0xC);

fn seq(number: u64) -> Seq {
    Seq::new(number)
}

fn id(outbox: OutboxId, number: u64) -> MessageId {
    MessageId { outbox, seq: seq(number) }
}

/// An inbox and the connection that it has.
#[derive(Clone)]
struct End {
    inbox: Inbox,
    lane: Lane,
}

impl End {
    fn new() -> Self {
        Self::with(InboxConfig::default())
    }

    fn with(config: InboxConfig) -> Self {
        let mut inbox = Inbox::new(config).unwrap();
        Self { lane: inbox.connect(), inbox }
    }

    fn restored(marks: impl IntoIterator<Item = MessageId>) -> Self {
        let mut inbox = Inbox::restore(InboxConfig::default(), marks).unwrap();
        Self { lane: inbox.connect(), inbox }
    }

    fn connect(&mut self) {
        self.lane = self.inbox.connect();
    }

    /// A message that is its own base.
    fn offer(&mut self, outbox: OutboxId, number: u64) -> Offer {
        self.offer_behind(number, outbox, number)
    }

    fn offer_behind(&mut self, base: u64, outbox: OutboxId, number: u64) -> Offer {
        self.inbox.offer(self.lane, id(outbox, number), seq(base))
    }

    fn offer_all(
        &mut self,
        outbox: OutboxId,
        numbers: std::ops::RangeInclusive<u64>,
    ) -> Vec<Offer> {
        let base = *numbers.start();
        numbers.map(|number| self.offer_behind(base, outbox, number)).collect()
    }

    fn done(&mut self, outbox: OutboxId, number: u64) {
        self.inbox.done(id(outbox, number)).unwrap();
    }

    fn refuse(&mut self, outbox: OutboxId, number: u64, nack: Nack) {
        self.inbox.refuse(id(outbox, number), nack).unwrap();
    }

    fn answers(&mut self) -> Vec<Answer> {
        std::iter::from_fn(|| self.inbox.poll(self.lane)).collect()
    }
}
