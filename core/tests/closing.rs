//! How a client ends: what a driver is told, and when it may go home.

use std::time::Duration;

use bowline_core::{
    Attempt, Client, ClientConfig, Event, FailReason, Fate, Instant, Loss, Opened, Output, Phase,
    Plain, PushOptions, Wire,
};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

type Plainly = Client<Plain, ChaCha8Rng>;

const MINUTE: Instant = Instant::from_micros(60_000_000);

/// H67
#[test]
fn a_client_that_is_stopped_for_good_hands_back_at_once_what_it_is_asked_to_drain() {
    let mut client = client_with_a_message();
    client.handle(Instant::ZERO, Event::Lost(Attempt::new(1), Loss::BadUrl));
    drain(&mut client);
    assert!(matches!(client.status().phase, Phase::Stopped { .. }));
    assert_eq!(client.outbox().held().messages, 1, "nobody has asked to close");

    client.handle(Instant::ZERO, Event::Close { deadline: MINUTE });
    assert_returned(&drain(&mut client));
    assert!(client.is_over());
}

/// H67
#[test]
fn a_drain_ends_at_once_when_the_connection_is_stopped_for_good() {
    let mut client = client_with_a_message();
    client.handle(Instant::ZERO, Event::Close { deadline: MINUTE });
    assert_eq!(drain(&mut client).len(), 0);
    assert!(!client.is_over());

    client.handle(Instant::ZERO, Event::Lost(Attempt::new(1), Loss::BadUrl));
    assert_returned(&drain(&mut client));
    assert!(client.is_over());
}

#[test]
fn a_stop_in_a_drain_hands_back_what_is_left() {
    let mut client = client_with_a_message();
    client.handle(Instant::ZERO, Event::Close { deadline: Instant::NEVER });
    client.handle(Instant::ZERO, Event::Stop);
    assert_returned(&drain(&mut client));
    assert!(client.is_over());
}

#[test]
fn at_the_end_of_time_a_stop_hands_back_what_is_left_too() {
    let mut client = client_with_a_message();
    client.handle(Instant::NEVER, Event::Stop);
    client.handle(Instant::NEVER, Event::Close { deadline: Instant::NEVER });
    assert_returned(&drain(&mut client));
    assert!(client.is_over());
}

#[test]
fn a_drain_goes_on_while_the_connection_only_waits_to_dial_again() {
    let mut client = client_with_a_message();
    client.handle(Instant::ZERO, Event::Close { deadline: MINUTE });
    client.handle(Instant::ZERO, Event::Lost(Attempt::new(1), Loss::Connect));
    assert_eq!(drain(&mut client).len(), 0);
    assert!(!client.is_over());

    client.handle(MINUTE, Event::Tick);
    assert_returned(&drain(&mut client));
}

#[test]
fn a_client_is_over_only_when_all_that_it_has_to_say_was_polled() {
    let mut client = client_with_a_message();
    let a = Attempt::new(1);
    client.handle(Instant::ZERO, Event::Opened(Opened::new(a, ())));
    drain(&mut client);
    client.handle(Instant::ZERO, Event::Close { deadline: Instant::ZERO });

    let mut outputs = Vec::new();
    while !client.is_over() {
        match client.poll(Wire::Blocked) {
            // The peer never answers our Close.
            Output::WaitUntil(Some(deadline)) => client.handle(deadline.at, Event::Tick),
            Output::WaitUntil(None) => panic!("it is not over and waits for nothing"),
            output => outputs.push(output),
        }
    }
    assert!(matches!(
        outputs[..],
        [
            Output::Close(..),
            Output::Failed(_),
            Output::Status(_),
            Output::Abort(_),
            Output::Status(_)
        ]
    ));
    assert_eq!(client.poll(Wire::Blocked), Output::WaitUntil(None));
}

#[test]
fn a_client_that_is_only_stopped_is_not_over() {
    let mut client = client_with_a_message();
    client.handle(Instant::ZERO, Event::Stop);
    drain(&mut client);
    assert!(!client.is_over(), "Start makes it go on");
}

/// A client in its first dial, with one message.
fn client_with_a_message() -> Plainly {
    let mut config = ClientConfig::default();
    config.connection.close_limit = Duration::from_secs(5);
    let mut client = Client::new(config, Plain, ChaCha8Rng::seed_from_u64(1)).unwrap();
    client.handle(Instant::ZERO, Event::Start);
    client.push(Instant::ZERO, "message".into(), PushOptions::default()).unwrap();
    assert_eq!(drain(&mut client).len(), 0);
    client
}

/// Polls until there is nothing more to do, and returns the settlements.
fn drain(client: &mut Plainly) -> Vec<Output> {
    let mut settlements = Vec::new();
    loop {
        match client.poll(Wire::Blocked) {
            Output::WaitUntil(_) => return settlements,
            settled @ (Output::Delivered { .. } | Output::Failed(_)) => settlements.push(settled),
            Output::Dial(_)
            | Output::Send(..)
            | Output::Close(..)
            | Output::Abort(_)
            | Output::Status(_) => {}
        }
    }
}

fn assert_returned(settlements: &[Output]) {
    let [Output::Failed(failed)] = settlements else { panic!("{settlements:?}") };
    assert_eq!((failed.reason, failed.fate), (FailReason::Returned, Fate::NotSent));
}
