//! The oracle is alive: for each statement there is a history that it refuses with exactly that
//! statement, and one beside it, with the fault taken out, that it accepts.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use bowline_core::{
    Ack, Amount, Attempt, Backoff, ClientConfig, ConnectionConfig, Deadline, FailReason, Fate,
    Instant, Jitter, Level, Loss, MessageId, Nack, OnSuspected, OutboxConfig, OutboxId, Phase,
    Ping, Refusal, Refused, Seq, Signal, Status, StopReason, Timer, Verdict, Wire,
};
use bowline_testkit::{
    history::{Content, Gauges, Moment, Seen},
    oracle::{Oracle, Rules},
    statement::{Judge, Statement, Violation},
};

type Judged = Result<(), Violation>;

#[test]
fn every_statement_has_a_history_that_is_refused_with_it_and_one_that_is_not() {
    for statement in Statement::ALL {
        match statement.judge() {
            Judge::Oracle => {
                assert_eq!(judge(&good(statement)), Ok(()), "{statement}");
                let refused = judge(&bad(statement)).map_err(|violation| violation.statement);
                assert_eq!(refused, Err(statement), "{:?}", judge(&bad(statement)));
            }
            // Its own tests put a fault into one of the two runs.
            Judge::Twice => {
                let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/twice.rs");
                let text = fs::read_to_string(&file).expect("the file is there");
                let number = format!("/// {statement:?}\n    #[test]");
                assert!(text.contains(&number), "no test in {} has {number}", file.display());
            }
            Judge::Tests(folder) => {
                let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
                let name = format!("{statement:?}");
                let names_it = fs::read_dir(&folder).expect("the folder is there").any(|file| {
                    let path = file.expect("the folder can be read").path();
                    let text = fs::read_to_string(path).unwrap_or_default();
                    text.split(|c: char| !c.is_alphanumeric()).any(|word| word == name)
                });
                assert!(names_it, "no test in {} is named {name}", folder.display());
            }
        }
    }
}

#[test]
fn all_statements_are_listed_and_no_two_say_the_same() {
    let texts: BTreeSet<&str> = Statement::ALL.iter().map(|statement| statement.text()).collect();
    let numbers: BTreeSet<Statement> = Statement::ALL.into_iter().collect();
    assert_eq!((texts.len(), numbers.len()), (Statement::ALL.len(), Statement::ALL.len()));
    let s4 = Statement::S4.to_string();
    assert_eq!(s4, "S4: first deliveries are a subsequence of the push order");
}

// ---- What a late driver does not see ------------------------------------------------------------

#[test]
fn the_floor_of_nudges_counts_from_when_each_took_effect_and_not_from_its_late_dial() {
    let nudged = || {
        let late = Story::dialed().lost(Loss::Io).waiting(1_000).see(Seen::Nudge).later(9).dial(2);
        late.lost(Loss::Io).waiting(1_500).see(Seen::Nudge)
    };
    assert_eq!(judge(&nudged().later(991).dial(3)), Ok(()));
    let refused = judge(&nudged().later(990).dial(3)).map_err(|violation| violation.statement);
    assert_eq!(refused, Err(Statement::R2));
}

#[test]
fn a_nudge_shortens_the_backoff_of_an_attempt_whose_end_is_still_to_be_polled() {
    let dialing = || Story::dialed().waits_until(15_000, Timer::Dial);
    let dials_at_once = |story: Story| judge(&story.later(1).dial(2));
    assert_eq!(dials_at_once(dialing().later(15_000).see(Seen::Nudge)), Ok(()));
    // One that came when the attempt was alive for sure has shortened nothing.
    let early = dialing().later(14_999).see(Seen::Nudge);
    let refused = dials_at_once(early).map_err(|violation| violation.statement);
    assert_eq!(refused, Err(Statement::R2));
}

#[test]
fn a_start_begins_anew_for_a_client_whose_giving_up_is_still_to_be_polled() {
    let dials_at_once = |after: u64| {
        let mut story = Story::dialed().later(after).see(Seen::Start).lost(Loss::Io).dial(2);
        story.rules.config.connection.max_attempts = Some(1);
        judge(&story)
    };
    assert_eq!(dials_at_once(15_000), Ok(()));
    // One that came when the attempt was alive for sure means nothing.
    assert_eq!(dials_at_once(14_999).map_err(|v| v.statement), Err(Statement::S13));
}

#[test]
fn a_start_after_a_stop_means_nothing_if_the_attempt_was_not_over_and_begins_anew_if_it_was() {
    let restarted = || {
        let late = Story::up().pinged(0).flushed().later(30_000);
        late.see(Seen::Stop).see(Seen::Start)
    };
    let closed = |story: Story| story.see(Seen::Closes(A1));
    assert_eq!(judge(&restarted().dial(2)), Ok(()));
    assert_eq!(judge(&closed(restarted())), Ok(()));
    assert_eq!(judge(&closed(restarted().see(Seen::Stop))), Ok(()));
    // Once it closes there is no doubt any more: it is not dialed, and it is cut.
    let dialed = judge(&closed(restarted()).dial(2));
    assert_eq!(dialed.map_err(|v| v.statement), Err(Statement::S13));
    let open = judge(&closed(restarted()).later(5_000).waits());
    assert_eq!(open.map_err(|v| v.statement), Err(Statement::L5));
    // Nobody closes without a stop.
    let late = Story::up().pinged(0).flushed().later(30_000);
    let unasked = judge(&closed(late.see(Seen::Start)));
    assert_eq!(unasked.map_err(|v| v.statement), Err(Statement::X5));
}

#[test]
fn an_attempt_that_nobody_asked_for_in_time_may_have_failed() {
    let given_up = |before: Story| {
        let mut story = before;
        story.rules.config.connection.max_attempts = Some(2);
        judge(&story.lost(Loss::Io).stopped(Loss::Io))
    };
    assert_eq!(given_up(Story::new().see(Seen::Start).later(16_000).dial(2)), Ok(()));
    let refused = given_up(Story::new().see(Seen::Start).later(14_000).dial(1));
    assert_eq!(refused.map_err(|violation| violation.statement), Err(Statement::X5));
}

#[test]
fn an_abort_of_the_next_attempt_is_the_end_of_the_one_before() {
    let silent = |before: Story| before.pinged(1).flushed().later(30_000);
    let suspected = |story: Story| {
        let aborted = story.see(Seen::Aborts(Attempt::new(2)));
        judge(&aborted.failed(1, FailReason::Suspected, Fate::MaybeDelivered))
    };
    let one = || Story::settling().opened().greeted().push(1).send(1);
    assert_eq!(suspected(silent(one())), Ok(()));
    let two = one().push(2).send(2);
    assert_eq!(suspected(silent(two)).map_err(|v| v.statement), Err(Statement::X4));
    assert_eq!(suspected(one()).map_err(|v| v.statement), Err(Statement::S12));
}

// ---- What may be this or that -------------------------------------------------------------------

#[test]
fn a_message_that_runs_out_of_its_time_and_its_budget_at_once_fails_of_either() {
    let withheld = |late: u64| {
        let mut story = Story::up().push_acked(1, Duration::from_secs(40)).send(1);
        story.rules.config.outbox.retry_budget = 0;
        story.pinged(1).flushed().ponged(1).later(late).aborts()
    };
    let exhausted =
        |story: Story| judge(&story.failed(1, FailReason::Exhausted, Fate::MaybeDelivered));
    assert_eq!(exhausted(withheld(42_000)), Ok(()));
    let expired = withheld(42_000).failed(1, FailReason::Expired, Fate::MaybeDelivered);
    assert_eq!(judge(&expired), Ok(()));
    // With a budget of one more it can only have expired.
    let mut rich = withheld(42_000);
    rich.rules.config.outbox.retry_budget = 1;
    assert_eq!(exhausted(rich).map_err(|v| v.statement), Err(Statement::X1));
}

#[test]
fn a_message_whose_budget_is_used_up_when_a_drain_ends_fails_of_either() {
    let drained = |deadline: u64, late: u64, reason: FailReason| {
        let mut story = Story::up().push_acked(1, Duration::from_secs(100)).send(1);
        story.rules.config.outbox.retry_budget = 0;
        let deadline = Instant::from_micros(deadline * 1_000);
        let story = story.pinged(1).flushed().ponged(1).see(Seen::Close { deadline });
        judge(&story.later(late).aborts().failed(1, reason, Fate::MaybeDelivered))
    };
    assert_eq!(drained(30_000, 42_000, FailReason::Exhausted), Ok(()));
    assert_eq!(drained(30_000, 42_000, FailReason::Returned), Ok(()));
    // An ack that is not overdue yet costs nothing.
    let early = drained(10_000, 20_000, FailReason::Exhausted);
    assert_eq!(early.map_err(|v| v.statement), Err(Statement::X1));
}

#[test]
fn a_client_that_is_refused_late_may_blame_what_was_alone_in_flight() {
    let refused = |others: u64| {
        let mut story = Story::settling().opened().greeted();
        story = story.push_acked(1, Duration::from_millis(35_000)).send(1);
        for seq in 2..2 + others {
            story = story.push(seq).send(seq);
        }
        // By now the attempt may have run into a limit, and the message may not have expired.
        let mut story = story.later(32_000);
        story.now = story.now + Duration::from_secs(10);
        let attempt = story.attempt;
        let signal = Signal::Refused(Refusal::Retry);
        let story = story.see(Seen::Signalled { attempt, signal, honest: true });
        judge(&story.later(0).aborts().failed(1, FailReason::Suspected, Fate::MaybeDelivered))
    };
    assert_eq!(refused(0), Ok(()));
    assert_eq!(refused(1).map_err(|v| v.statement), Err(Statement::X4));
}

#[test]
fn a_message_whose_time_is_over_when_a_drain_ends_has_expired() {
    let ended = |late: u64, reason: FailReason| {
        let stopping = Story::up().see(Seen::Stop).see(Seen::Closes(A1));
        let pushed = stopping.push_acked(1, Duration::from_millis(2));
        let draining = pushed.see(Seen::Close { deadline: Instant::from_micros(10_000_000) });
        // The loss is read before the clock is looked at.
        let mut ended = draining;
        ended.now = ended.now + Duration::from_millis(late);
        judge(&ended.lost(Loss::Eof).failed(1, reason, Fate::NotSent))
    };
    assert_eq!(ended(2, FailReason::Expired), Ok(()));
    assert_eq!(ended(1, FailReason::Returned), Ok(()));
    assert_eq!(ended(1, FailReason::Expired).map_err(|v| v.statement), Err(Statement::X5));
}

#[test]
fn a_driver_that_looks_at_the_clock_long_after_it_reads_again_finds_a_silent_peer_as_late() {
    let resumed = || {
        let probed = Story::up().probed().see(Seen::Paused(A1)).waits_for_nothing();
        probed.see(Seen::Resumed(A1))
    };
    assert_eq!(judge(&resumed().later(90_000).waits_until(110_000, Timer::Write)), Ok(()));
    let on_time = resumed().later(20_000).waits_until(40_000, Timer::Write);
    let too_late = on_time.later(19_999).waits_until(60_000, Timer::Write).later(10_002);
    let refused = judge(&too_late.waits_until(110_000, Timer::Write));
    assert_eq!(refused.map_err(|v| v.statement), Err(Statement::L4));
}

#[test]
fn an_answer_to_a_message_that_is_settled_is_progress_too() {
    let probing = || {
        let lost = Story::up().push(1).send(1).lost(Loss::Io).redial().probed();
        let lost = lost.cancel(1).failed(1, FailReason::Cancelled, Fate::MaybeDelivered);
        let again = lost.push_acked(2, Duration::MAX).send(2).cancel(2);
        let settled = again.failed(2, FailReason::Cancelled, Fate::MaybeDelivered);
        settled.push(3).push(4).send(3)
    };
    assert_eq!(judge(&probing().nack_next().send(4)), Ok(()));
    assert_eq!(judge(&probing().send(4)).map_err(|v| v.statement), Err(Statement::X4));
}

// ---- What the core's own word is not taken for ---------------------------------------------------

#[test]
fn a_servers_own_delay_is_kept_unless_the_settings_name_another_table() {
    let refused = || {
        let story = Story::dialed();
        let retry_after = Some(Duration::from_secs(8));
        story.lost(Loss::Status { status: 503, retry_after })
    };
    let dials_after = |story: Story, millis| judge(&story.later(millis).dial(2));
    assert_eq!(dials_after(refused(), 8_000), Ok(()));
    let early = dials_after(refused(), 7_999);
    assert_eq!(early.map_err(|violation| violation.statement), Err(Statement::R4));
    // A quarter later at most.
    assert_eq!(judge(&refused().waits_until(10_000, Timer::Redial)), Ok(()));
    let late = judge(&refused().waits_until(10_001, Timer::Redial));
    assert_eq!(late.map_err(|violation| violation.statement), Err(Statement::R4));
    let mut own = refused();
    own.rules.config.connection.verdict = |_, _| Verdict::Retry;
    assert_eq!(dials_after(own, 1_000), Ok(()));
}

#[test]
fn what_no_other_attempt_can_mend_ends_a_client_that_was_never_up() {
    let again = |loss| judge(&Story::dialed().lost(loss).later(1_000).dial(2));
    assert_eq!(again(Loss::Tls), Ok(()));
    let hopeless = again(Loss::Certificate);
    assert_eq!(hopeless.map_err(|violation| violation.statement), Err(Statement::S13));
    let been_up = Story::up().lost(Loss::Certificate).redial_after(30_000);
    assert_eq!(judge(&been_up), Ok(()));
}

#[test]
fn a_peer_that_talks_is_asked_all_the_same_whether_it_answers_pings() {
    let talks = || Story::up().later(10_000).see(Seen::Heard(A1));
    assert_eq!(judge(&talks().later(9_999).waits()), Ok(()));
    assert_eq!(judge(&talks().later(10_000).pinged(0).waits()), Ok(()));
    let unasked = judge(&talks().later(10_000).waits());
    assert_eq!(unasked.map_err(|violation| violation.statement), Err(Statement::L7));
    // One that has answered is asked when it is silent.
    let answered = Story::up().probed().later(10_000).see(Seen::Heard(A1));
    assert_eq!(judge(&answered.later(10_000).waits()), Ok(()));
}

#[test]
fn a_peer_that_talks_and_never_answers_a_ping_is_given_up() {
    let talks = || {
        let asked = Story::up().later(10_000).see(Seen::Heard(A1)).later(10_000);
        let asked = asked.pinged(0).flushed();
        (0..30).fold(asked, |story, _| story.later(5_000).see(Seen::Heard(A1)))
    };
    assert_eq!(judge(&talks().later(10_000).aborts()), Ok(()));
    assert_eq!(judge(&talks().later(9_999).waits()), Ok(()));
    let endless = judge(&talks().later(10_000).waits());
    assert_eq!(endless.map_err(|violation| violation.statement), Err(Statement::L2));
    // A first pong acquits it, however late.
    assert_eq!(judge(&talks().ponged(0).later(10_000).waits()), Ok(()));
}

#[test]
fn whoever_waits_for_a_first_pong_asks_for_it() {
    let probing = || Story::sent().lost(Loss::Io).redial();
    assert_eq!(judge(&probing().pinged(0).waits()), Ok(()));
    let silent = judge(&probing().waits());
    assert_eq!(silent.map_err(|violation| violation.statement), Err(Statement::L7));
}

#[test]
fn a_stop_in_a_dial_or_a_greeting_leaves_no_socket() {
    for story in [Story::dialed, || Story::dialed().opened()] {
        let stopped = || story().see(Seen::Stop);
        assert_eq!(judge(&stopped().aborts().waits_for_nothing()), Ok(()));
        assert_eq!(judge(&stopped().see(Seen::Start).dial(2).waits()), Ok(()), "it replaces it");
        let left = judge(&stopped().waits_for_nothing());
        assert_eq!(left.map_err(|violation| violation.statement), Err(Statement::S12));
    }
}

#[test]
fn a_limit_of_time_counts_from_the_first_failure_in_a_row() {
    let gives_up = |up_for: u64| {
        let mut story = Story::up();
        story.rules.config.connection.max_elapsed = Some(Duration::from_secs(30));
        let again = story.probed().later(1_000).lost(Loss::Io).redial().probed().later(15_000);
        let heard = again.see(Seen::Heard(Attempt::new(2))).later(up_for - 15_000);
        judge(&heard.lost(Loss::Io).stopped(Loss::Io))
    };
    assert_eq!(gives_up(29_000), Ok(()));
    let early = gives_up(26_000).map_err(|violation| violation.statement);
    assert_eq!(early, Err(Statement::X5));
    // What failed before a link that was stable is forgotten.
    let forgiven = gives_up(30_000).map_err(|violation| violation.statement);
    assert_eq!(forgiven, Err(Statement::X5));
}

#[test]
fn what_a_drain_has_handed_back_is_reported_by_the_next_process_if_this_one_dies() {
    let restored = |deadline: u64, fate: Fate| {
        let deadline = Instant::from_micros(deadline);
        let closed = Story::up().push(1).see(Seen::Close { deadline }).later(1_000);
        let crashed = closed.see(Seen::Snapshot).see(Seen::Crashed);
        let restored = crashed.see(Seen::Restored { outbox: OutboxId::new(8) }).see(Seen::Start);
        judge(&restored.failed(1, FailReason::Returned, fate))
    };
    assert_eq!(restored(1_000_000, Fate::NotSent), Ok(()));
    // When it died there was still time.
    let early = restored(1_000_001, Fate::MaybeDelivered);
    assert_eq!(early.map_err(|violation| violation.statement), Err(Statement::L5));
}

#[test]
fn a_client_that_has_run_out_of_its_time_does_not_dial_again() {
    let failed = |at: u64| {
        let mut story = Story::dialed();
        story.rules.config.connection.max_elapsed = Some(Duration::from_secs(10));
        // The next dial begins a second later at the earliest.
        story.lost(Loss::Io).later(1_000).dial(2).later(at - 1_000).lost(Loss::Io)
    };
    assert_eq!(judge(&failed(9_000).later(1_000).dial(3)), Ok(()));
    let late = judge(&failed(9_001).later(1_000).dial(3));
    assert_eq!(late.map_err(|violation| violation.statement), Err(Statement::S13));
    assert_eq!(judge(&failed(9_001).stopped(Loss::Io)), Ok(()));
    // A link that was stable begins another row.
    let stable = failed(9_000).later(1_000).dial(3).opened().greeted().probed().later(15_000);
    let stable = stable.see(Seen::Heard(Attempt::new(3))).later(15_000).lost(Loss::Io);
    assert_eq!(judge(&stable.redial()), Ok(()));
}

#[test]
fn delays_that_are_too_short_to_be_chance_are_refused_and_those_that_were_cut_short_count() {
    let again = |story: Story| {
        let next = story.attempt.get() + 1;
        story.lost(Loss::Io).later(30).dial(next)
    };
    let cut_short = |story: Story| {
        let next = story.attempt.get() + 1;
        story.lost(Loss::Io).later(30).see(Seen::Stop).see(Seen::Start).dial(next)
    };
    let dials = |cut: usize, fair: bool| {
        let mut story = Story::dialed();
        story.rules.config.connection.backoff = Backoff::default();
        story.rules.fair = fair;
        judge(&(0..20).fold(story, |story, _| again((0..cut).fold(story, |s, _| cut_short(s)))))
    };
    // Of 30 delays of up to a second about one is over after 30 ms.
    assert_eq!(dials(30, true), Ok(()));
    assert_eq!(dials(1, true).map_err(|violation| violation.statement), Err(Statement::R2));
    assert_eq!(dials(1, false), Ok(()));
}

#[test]
fn a_refusal_in_a_pause_makes_it_no_longer_and_no_shorter() {
    let sends_after = |millis| {
        let story = Story::up().push(1).push(2).send(1).send(2);
        judge(&story.nack(1).later(100).nack(2).later(millis).send(1))
    };
    assert_eq!(sends_after(400), Ok(()));
    assert_eq!(sends_after(399).map_err(|violation| violation.statement), Err(Statement::S6));
}

#[test]
fn a_refusal_by_a_name_that_nobody_had_calls_nothing_back() {
    let goes_on_after = |outbox| {
        let story = Story::sent().pinged_and_ponged().delivered(1).push(2).send(2);
        let id = MessageId { outbox, seq: Seq::new(1) };
        let signal = Signal::NackFrom(id, Nack::Transient);
        let heard = Seen::Signalled { attempt: story.attempt, signal, honest: false };
        judge(&story.see(heard).push(3).send(3))
    };
    assert_eq!(goes_on_after(OutboxId::new(99)), Ok(()));
    let refused = goes_on_after(OUTBOX).map_err(|violation| violation.statement);
    assert_eq!(refused, Err(Statement::S5), "2 has to go again before it");
}

#[test]
fn what_a_dialect_answers_goes_before_the_next_message_or_not_at_all() {
    let asked = || Story::up().see(Seen::ReplyDue(A1)).push(1);
    let sends = |content| Seen::Sends { attempt: A1, content, wire: Wire::Ready };
    let judge = |story: Story| judge(&story).map_err(|violation| violation.statement);
    assert_eq!(judge(asked().see(sends(Content::Reply)).send(1)), Ok(()));
    assert_eq!(judge(asked().send(1)), Err(Statement::L7));
    assert_eq!(judge(asked().lost(Loss::Io).redial().probed().send(1)), Ok(()));
}

#[test]
fn an_application_that_takes_each_message_in_once_does_so_until_it_forgets() {
    let mut story = Story::up().push(1).push(2).send(1).send(2).arrives(1).arrives(2);
    let processed = |attempt, message| Seen::Processed { attempt, message };
    let judge = |story: Story| judge(&story).map_err(|violation| violation.statement);
    let twice = |story: Story| story.see(processed(A1, 1)).see(processed(A1, 1));
    assert_eq!(judge(twice(story.clone())), Ok(()), "whoever promises nothing");
    story.rules.takes_once = true;
    assert_eq!(judge(twice(story.clone())), Err(Statement::S2));
    let forgets = story.clone().see(processed(A1, 1)).see(Seen::Forgot).see(processed(A1, 1));
    assert_eq!(judge(forgets), Ok(()));

    // In order, whichever connection they come on.
    let again = story.lost(Loss::Io).redial().probed().send(1).arrives(1);
    let newest = again.attempt;
    let late = |story: Story| story.see(processed(newest, 2)).see(processed(A1, 1));
    assert_eq!(judge(late(again.clone())), Err(Statement::S4));
    let mut again = again;
    again.rules.takes_once = false;
    assert_eq!(judge(late(again)), Ok(()));
}

// ---- Histories that are refused -----------------------------------------------------------------

/// The fault is in the last moments.
fn bad(statement: Statement) -> Story {
    use Statement::*;
    match statement {
        S1 => Story::up().push(1).send_as(1, 2),
        S2 => Story::sent().pinged_and_ponged().delivered(1).delivered(1),
        S3 => Story::sent().delivered(1),
        S4 => Story::up().push(1).push(2).send(1).send(2).arrives(2).arrives(1),
        S5 => Story::up().push(1).push(2).send(2),
        S6 => Story::sent().send(1),
        S7 => Story::sent().hear(Ack::UpTo(Seq::new(u64::MAX))).delivered(1),
        S8 => Story::sent().cancel(1).failed(1, FailReason::Cancelled, Fate::NotSent),
        S9 => Story::up().push(1).refused().push_as(2, 3),
        S10 => Story::dialed().push(1).opened().send(1),
        S11 => {
            let replayed = Story::sent().lost(Loss::Io).redial().probed().send(1);
            replayed.pong_of(1).delivered(1)
        }
        S12 => Story::up().dial(2),
        S13 => Story::up().see(Seen::Stop).see(Seen::Closes(A1)).lost(Loss::Eof).dial(2),
        S14 => Story::restored().push(2).send_of(1, OutboxId::new(8)),
        S15 => {
            let cancelled = Story::up().push(1).cancel(1);
            cancelled.failed(1, FailReason::Cancelled, Fate::NotSent).send(1)
        }
        X1 => Story::sent().lost(Loss::Io).failed(1, FailReason::Exhausted, Fate::MaybeDelivered),
        X4 => {
            let two = Story::settling().up_again().push(1).push(2).send(1).send(2).lost(Loss::Io);
            two.failed(1, FailReason::Suspected, Fate::MaybeDelivered)
        }
        X5 => Story::up().push(1).cancel(1).waits(),
        L1 => Story::dialed().opened().greeted_never().later(2_000).see(Seen::Aborts(A1)),
        L2 => Story::up().push(1).quiet().later(10_000_000).see(Seen::Ended),
        L3 => Story::dialed().see(Seen::Waits { wire: Wire::Ready, deadline: None }),
        L4 => Story::up().later(1_000).see(Seen::Aborts(A1)),
        L5 => Story::up().see(Seen::Stop).see(Seen::Closes(A1)).later(5_000).waits(),
        L6 => Story::up().later(10).waits_until(10, Timer::Stable),
        L7 => Story::up().probed().push(1).later(20_000).send(1),
        R1 => Story::up().push(1).gauges(|gauges| gauges.held.messages = 100),
        R5 => Story::up().push(1).gauges(|gauges| gauges.steps = 1_000),
        R2 => Story::up().lost(Loss::Io).redial_after(400),
        R3 => Story::up().lost(Loss::Io).waits_until(3_000, Timer::Redial),
        R4 => Story::up().lost(Loss::Closed { code: Some(1012) }).redial_after(4_000),
        R6 => Story::up().see(Seen::Waits {
            wire: Wire::Ready,
            deadline: Some(Deadline { at: Instant::NEVER, timer: Timer::Ping }),
        }),
        X2 | X3 | L8 | D1 | D2 | D3 | D4 | D5 | D6 => unreachable!("not the oracle's"),
    }
}

/// The same without the fault.
fn good(statement: Statement) -> Story {
    use Statement::*;
    match statement {
        S1 => Story::up().push(1).send_as(1, 1),
        S2 | S3 => Story::sent().pinged_and_ponged().delivered(1),
        S4 => Story::up().push(1).push(2).send(1).send(2).arrives(1).arrives(2).arrives(1),
        S5 => Story::up().push(1).push(2).send(1).send(2),
        S6 => Story::sent().nack(1).later(500).send(1),
        S7 => Story::sent().hear(Ack::UpTo(Seq::new(u64::MAX))).waits_pinged(),
        S8 => Story::sent().cancel(1).failed(1, FailReason::Cancelled, Fate::MaybeDelivered),
        S9 => Story::up().push(1).refused().push_as(2, 2),
        S10 => Story::dialed().push(1).opened().greeted().send(1),
        S11 => Story::sent().lost(Loss::Io).redial().probed().send(1).pong_of(1),
        S12 => Story::up().lost(Loss::Io).redial(),
        S13 => {
            let stopped = Story::up().see(Seen::Stop).see(Seen::Closes(A1)).lost(Loss::Eof);
            stopped.see(Seen::Start).dial(2)
        }
        S14 => Story::restored().push(2).send(1),
        S15 => Story::up().push(1).cancel(1).failed(1, FailReason::Cancelled, Fate::NotSent),
        X1 => Story::exhausted(),
        X4 => {
            let one = Story::settling().up_again().push(1).send(1).lost(Loss::Io);
            one.failed(1, FailReason::Suspected, Fate::MaybeDelivered)
        }
        X5 => {
            let cancelled = Story::up().push(1).cancel(1);
            cancelled.failed(1, FailReason::Cancelled, Fate::NotSent).waits()
        }
        L1 => Story::dialed().opened().greeted_never().later(10_000).see(Seen::Aborts(A1)),
        L2 => {
            let quiet = Story::up().push(1).quiet().send(1).pinged_and_ponged().delivered(1);
            quiet.later(10_000_000).see(Seen::Ended)
        }
        L3 => Story::dialed().waits(),
        L4 => Story::up().pinged(0).flushed().later(30_000).see(Seen::Aborts(A1)),
        L5 => Story::up()
            .see(Seen::Stop)
            .see(Seen::Closes(A1))
            .later(5_000)
            .aborts()
            .waits_for_nothing(),
        L6 => Story::up().later(10).waits_until(11, Timer::Stable),
        L7 => Story::up().probed().push(1).later(20_000).pinged(0).send(1),
        R1 => Story::up().push(1).gauges(|_| {}),
        R5 => Story::up().push(1).gauges(|gauges| gauges.steps = 50),
        R2 => Story::up().lost(Loss::Io).redial_after(500),
        R3 => Story::up().lost(Loss::Io).waits_until(1_000, Timer::Redial),
        R4 => Story::up().lost(Loss::Closed { code: Some(1012) }).redial_after(5_000),
        R6 => Story::up().waits(),
        X2 | X3 | L8 | D1 | D2 | D3 | D4 | D5 | D6 => unreachable!("not the oracle's"),
    }
}

// ---- Telling a story ----------------------------------------------------------------------------

const A1: Attempt = Attempt::new(1);
const OUTBOX: OutboxId = OutboxId::new(7);

/// A history that is being told. Messages are of level Received; a message is its own place.
#[derive(Clone)]
struct Story {
    rules: Rules,
    now: Instant,
    attempt: Attempt,
    outbox: OutboxId,
    moments: Vec<Moment>,
}

fn judge(story: &Story) -> Judged {
    let mut oracle = Oracle::new(story.rules.clone());
    story.moments.iter().try_for_each(|moment| oracle.see(moment))
}

impl Story {
    fn new() -> Self {
        let backoff = Backoff { jitter: Jitter::Equal, ..Backoff::default() };
        let config = ClientConfig {
            connection: ConnectionConfig { backoff, ..ConnectionConfig::default() },
            outbox: OutboxConfig {
                max_messages: 50,
                window_messages: 50,
                retry_budget: 1,
                suspect_limit: 1,
                ..OutboxConfig::default()
            },
        };
        let rules = Rules::new(config, OUTBOX);
        let moments = Vec::new();
        Self { rules, now: Instant::ZERO, attempt: A1, outbox: OUTBOX, moments }
    }

    fn dialed() -> Self {
        Self::new().see(Seen::Start).see(Seen::Dials(A1))
    }

    fn up() -> Self {
        Self::dialed().opened().greeted()
    }

    /// Message 1 is in flight.
    fn sent() -> Self {
        Self::up().push(1).send(1)
    }

    /// Restored with message 1 in flight.
    fn restored() -> Self {
        let mut story = Self::sent().see(Seen::Snapshot).see(Seen::Crashed);
        story.outbox = OutboxId::new(8);
        let outbox = story.outbox;
        let story = story.see(Seen::Restored { outbox }).see(Seen::Start).see(Seen::Dials(A1));
        story.opened().greeted()
    }

    fn settling() -> Self {
        let mut story = Self::new();
        story.rules.config.outbox.on_suspected = OnSuspected::Settle;
        story.see(Seen::Start).see(Seen::Dials(A1))
    }

    /// With a budget of 1, refused twice.
    fn exhausted() -> Self {
        let twice = Self::sent().nack(1).later(500).send(1).nack(1);
        twice.failed(1, FailReason::Exhausted, Fate::MaybeDelivered)
    }

    fn see(mut self, seen: Seen) -> Self {
        self.moments.push(Moment::new(self.now, seen));
        self
    }

    /// Milliseconds pass.
    fn later(mut self, millis: u64) -> Self {
        self.now = self.now + Duration::from_millis(millis);
        self.see(Seen::Tick)
    }

    fn opened(self) -> Self {
        let attempt = self.attempt;
        self.see(Seen::PeerOpened(attempt)).see(Seen::Opened { attempt, awaits_answer: true })
    }

    fn greeted(self) -> Self {
        let (attempt, signal) = (self.attempt, Signal::Greeted);
        self.see(Seen::Signalled { attempt, signal, honest: true })
    }

    fn greeted_never(self) -> Self {
        let a = self.attempt;
        let content = Content::Greeting;
        self.see(Seen::Sends { attempt: a, content, wire: Wire::Ready })
    }

    fn up_again(self) -> Self {
        self.opened().greeted()
    }

    fn lost(self, loss: Loss) -> Self {
        let a = self.attempt;
        self.see(Seen::Lost(a, loss))
    }

    fn dial(mut self, attempt: u64) -> Self {
        self.attempt = Attempt::new(attempt);
        let a = self.attempt;
        self.see(Seen::Dials(a))
    }

    fn waiting(self, redial_at_millis: u64) -> Self {
        let redial_at = Instant::from_micros(redial_at_millis * 1_000);
        self.phase(Phase::Waiting { redial_at })
    }

    fn stopped(self, loss: Loss) -> Self {
        self.phase(Phase::Stopped { reason: StopReason::GaveUp(loss) })
    }

    fn phase(self, phase: Phase) -> Self {
        let attempt = self.attempt;
        self.see(Seen::Status(Status { attempt, phase, ..Status::default() }))
    }

    /// The next attempt, as late as it may be, up.
    fn redial(self) -> Self {
        self.redial_after(1_000)
    }

    fn redial_after(self, millis: u64) -> Self {
        let next = self.attempt.get() + 1;
        self.later(millis).dial(next).opened().greeted()
    }

    /// The first ping of a link was answered.
    fn probed(self) -> Self {
        self.pinged(0).flushed().ponged(0)
    }

    fn push(self, message: u64) -> Self {
        self.push_as(message, message)
    }

    fn push_as(self, message: u64, seq: u64) -> Self {
        let (seq, level) = (Seq::new(seq), Level::Received);
        self.see(Seen::Pushed { message, seq, size: 10, level, ttl: None })
    }

    fn push_acked(self, message: u64, ttl: Duration) -> Self {
        let (seq, level, ttl) = (Seq::new(message), Level::Acked, Some(ttl));
        self.see(Seen::Pushed { message, seq, size: 10, level, ttl })
    }

    fn refused(self) -> Self {
        let size = 10_000_000;
        let reason = Refused::TooLarge { size, limit: 1 << 20 };
        self.see(Seen::Refused { size, reason })
    }

    fn cancel(self, seq: u64) -> Self {
        self.see(Seen::Cancel(Seq::new(seq)))
    }

    fn send(self, seq: u64) -> Self {
        self.send_as(seq, seq)
    }

    fn send_as(self, seq: u64, message: u64) -> Self {
        let id = MessageId { outbox: OUTBOX, seq: Seq::new(seq) };
        self.sends(Content::Message { id, message, first: true })
    }

    fn send_of(self, seq: u64, outbox: OutboxId) -> Self {
        let id = MessageId { outbox, seq: Seq::new(seq) };
        self.sends(Content::Message { id, message: seq, first: true })
    }

    fn sends(self, content: Content) -> Self {
        let attempt = self.attempt;
        self.see(Seen::Sends { attempt, content, wire: Wire::Ready })
    }

    fn pinged(self, seq: u64) -> Self {
        let ping = Ping { attempt: self.attempt, seq: Seq::new(seq) };
        self.sends(Content::Ping(ping))
    }

    fn ponged(self, seq: u64) -> Self {
        let ping = Ping { attempt: self.attempt, seq: Seq::new(seq) };
        let a = self.attempt;
        self.see(Seen::Ponged(a, ping))
    }

    fn pinged_and_ponged(self) -> Self {
        self.pinged(1).arrives(1).ponged(1)
    }

    /// A pong of the first attempt for message 1, late.
    fn pong_of(self, attempt: u64) -> Self {
        let a = Attempt::new(attempt);
        self.see(Seen::Ponged(a, Ping { attempt: a, seq: Seq::new(1) }))
    }

    fn flushed(self) -> Self {
        let a = self.attempt;
        self.see(Seen::Flushed(a))
    }

    fn hear(self, ack: Ack) -> Self {
        let (attempt, signal) = (self.attempt, Signal::Ack(ack));
        self.see(Seen::Signalled { attempt, signal, honest: false })
    }

    fn nack(self, seq: u64) -> Self {
        let signal = Signal::Nack(Ack::One(Seq::new(seq)), Nack::Transient);
        let attempt = self.attempt;
        self.see(Seen::Signalled { attempt, signal, honest: true })
    }

    fn nack_next(self) -> Self {
        let signal = Signal::Nack(Ack::Next, Nack::Transient);
        let attempt = self.attempt;
        self.see(Seen::Signalled { attempt, signal, honest: true })
    }

    fn arrives(self, message: u64) -> Self {
        let attempt = self.attempt;
        self.see(Seen::Arrived { attempt, message })
    }

    fn delivered(self, seq: u64) -> Self {
        let (first, last) = (Seq::new(seq), Seq::new(seq));
        self.see(Seen::Delivered { first, last })
    }

    fn failed(self, seq: u64, reason: FailReason, fate: Fate) -> Self {
        let id = MessageId { outbox: OUTBOX, seq: Seq::new(seq) };
        self.see(Seen::Failed { message: seq, id, reason, fate })
    }

    fn aborts(self) -> Self {
        let a = self.attempt;
        self.see(Seen::Aborts(a))
    }

    fn quiet(self) -> Self {
        self.see(Seen::Quiet { trip: Duration::from_millis(40) })
    }

    fn waits(self) -> Self {
        let millis = self.now.as_micros() / 1_000 + 1;
        self.waits_until(millis, Timer::Ping)
    }

    fn waits_until(self, millis: u64, timer: Timer) -> Self {
        let at = Instant::from_micros(millis * 1_000);
        let deadline = Some(Deadline { at, timer });
        self.see(Seen::Waits { wire: Wire::Ready, deadline })
    }

    fn waits_pinged(self) -> Self {
        self.pinged(1).waits()
    }

    fn waits_for_nothing(self) -> Self {
        self.see(Seen::Waits { wire: Wire::Ready, deadline: None })
    }

    /// The gauges of one queued message, or something else.
    fn gauges(self, also: impl FnOnce(&mut Gauges)) -> Self {
        let held = Amount { messages: 1, bytes: 10 };
        let mut gauges = Gauges { accepted: 1, queued: 1, held, ..Gauges::default() };
        also(&mut gauges);
        self.see(Seen::Gauges(gauges))
    }
}
