//! Every interleaving of small worlds, run on the real client.
//!
//! The binary `model` does the same at the size of your choice.

use bowline_core::Level::{self, Acked, Received, Written};
use bowline_testkit::model::{Acks, Action, Answer, Budget, Scope, progress};
use stateright::{Checker, HasDiscoveries, Model};

/// S1–S6, S8–S13, X1, X5, L3–L6, R1; and S7, S11, D5 in each state.
#[test]
fn every_interleaving_of_two_messages_and_a_drop_keeps_every_statement() {
    check(Scope { greets: true, ..scope(2, [Received]) }, 5_000);
}

/// S3, S6: what was flushed, and what was not, when a blocked wire breaks.
#[test]
fn every_place_at_which_a_frame_can_wait_keeps_every_statement() {
    let scope = Scope { messages: 1, window: 1, stepwise: true, ..scope(1, [Written]) };
    check(scope, 1_000);
}

/// S7, X1: acks in each form, refusals for now and for good, and acks withheld.
#[test]
fn every_answer_of_the_application_keeps_every_statement() {
    for acks in [Acks::Positional, Acks::Single, Acks::Cumulative] {
        let mut scope = Scope { acks, ..scope(1, [Acked]) };
        scope.budget.drops = 0;
        scope.budget.nacks = 1;
        scope.budget.rejects = 1;
        scope.budget.mutes = 1;
        check(scope, 300);
    }
}

/// S14: the names of what was restored, and of what is pushed afterwards.
#[test]
fn a_crash_and_a_restore_at_any_moment_keep_every_statement() {
    let mut scope = scope(2, [Received]);
    scope.budget.drops = 0;
    scope.budget.crashes = 1;
    check(scope, 5_000);
}

/// S2, S15: cancelled while queued, in flight, delivered.
#[test]
fn a_cancel_at_any_moment_keeps_every_statement() {
    let mut scope = scope(2, [Acked, Received]);
    scope.budget.drops = 0;
    scope.budget.cancels = 1;
    check(scope, 1_000);
}

/// S13, L5: stop and close end what there is, in every state.
#[test]
fn a_stop_and_a_close_at_any_moment_keep_every_statement() {
    let mut scope = scope(1, [Received]);
    scope.budget.drops = 0;
    scope.budget.stops = 1;
    scope.budget.closes = 1;
    check(scope, 1_000);
}

/// X4: a message that kills each connection on which it arrives takes no other with it.
#[test]
fn only_the_poison_message_is_suspected() {
    let scope = Scope { poison: Some(1), ..scope(2, [Received]) };
    check(scope, 1_000);
}

/// X1: a Close that blames a message charges it only when it was alone.
#[test]
fn an_accusation_is_charged_to_nobody_else() {
    let mut scope = scope(2, [Acked]);
    scope.prompt = true;
    scope.budget.accusations = 1;
    check(scope, 1_000);
}

/// The search is worth something only if states with equal views behave alike.
#[test]
fn states_with_equal_views_behave_alike() {
    let mut crashing = scope(1, [Received]);
    crashing.budget.crashes = 1;
    let mut answering = Scope { greets: true, ..scope(1, [Acked]) };
    answering.budget.nacks = 1;
    answering.budget.cancels = 1;
    for scope in [crashing, answering] {
        match progress::twins(&scope, 4_000) {
            Ok(compared) => assert!(compared > 5_000, "{compared}"),
            Err(twins) => panic!("{:?} tells them apart: {:#?}", twins.action, twins.states),
        }
    }
}

/// A peer that takes its frames late leads the client to no other states, and to all of them.
#[test]
fn a_late_peer_hides_nothing() {
    let mut ending = scope(1, [Acked]);
    ending.budget.stops = 1;
    ending.budget.closes = 1;
    let mut crashing = scope(1, [Received]);
    crashing.budget.crashes = 1;
    let falling = Scope { window: 1, ..scope(2, [Acked]) };
    let stepwise = Scope { stepwise: true, ..scope(1, [Written]) };
    for scope in [ending, crashing, falling, stepwise] {
        let scope = Scope { unasked: true, ..scope };
        let late = Scope { late: true, ..scope.clone() };
        let (clients, of_late) = (progress::clients(&scope), progress::clients(&late));
        assert!(clients.len() > 100, "only {} clients", clients.len());
        assert!(clients == of_late, "{} and {} clients", clients.len(), of_late.len());
        let states = |scope: Scope| scope.checker().spawn_dfs().join().unique_state_count();
        assert!(states(late) < states(scope));
    }
}

// ---- The checker looks -----------------------------------------------------------------------------

#[test]
fn a_window_that_is_larger_than_it_should_be_is_found() {
    let lying = Scope { window: 1, window_of_client: Some(2), ..scope(2, [Received]) };
    let path = broken(lying, "R1");
    assert!(path.contains(&Action::Push), "{path:?}");
}

/// A peer that answers pings and never hears its messages: the receipt is a lie.
#[test]
fn a_peer_that_lies_in_its_pongs_is_found() {
    let lying = Scope { lies: true, ..scope(1, [Received]) };
    let path = broken(lying, "S3");
    assert!(path.contains(&Action::Take(Answer::Fair)), "{path:?}");
}

/// Nobody gets out of a world in which the poison message is tried for ever.
#[test]
fn a_message_that_is_never_settled_is_found() {
    let endless = Scope { poison: Some(0), waits: true, ..scope(1, [Received]) };
    let found = progress::search(&endless, 100_000);
    let path = found.stuck.expect("a cycle without progress");
    assert!(!progress::replay(&endless, &path).is_done());
}

fn scope<const N: usize>(messages: usize, levels: [Level; N]) -> Scope {
    Scope {
        messages,
        window: messages,
        levels: levels.to_vec(),
        budget: Budget { drops: 1, ..Budget::default() },
        ..Scope::default()
    }
}

/// All properties in all states, and no way into a state that a message never gets out of.
fn check(scope: Scope, at_least: usize) {
    let checker = scope.clone().checker().finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_dfs().join();
    if let Some((property, path)) = checker.discoveries().into_iter().next() {
        let state = format!("{:#?}", path.last_state());
        panic!("{property}: {:#?}\n{state}", path.into_actions());
    }
    let states = checker.unique_state_count();
    assert!(states >= at_least, "only {states} states");
    let found = progress::search(&scope, usize::MAX);
    assert_eq!((found.states, found.stuck), (states, None));
}

/// The way to a state in which the statement with this number does not hold.
fn broken(scope: Scope, number: &str) -> Vec<Action> {
    let checker = scope.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let discoveries = checker.discoveries();
    let found = discoveries.into_iter().find(|(property, _)| property.starts_with(number));
    found.unwrap_or_else(|| panic!("{number} seems to hold")).1.into_actions()
}
