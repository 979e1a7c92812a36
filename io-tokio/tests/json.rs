//! Values that are sent as JSON.
#![cfg(feature = "json")]

use std::collections::HashMap;

use bowline_tokio::{
    Builder, JsonError, Level,
    core::{
        Inbox, InboxConfig, MessageId, Numbered, Offer,
        numbered::{Messages, reply},
    },
};
use peer::{Peer, soon, until};

mod peer;

#[tokio::test(start_paused = true)]
async fn a_value_is_sent_as_the_text_of_its_json() {
    let peer = Peer::default();
    let (client, _inbound) = peer.start();
    let receipt = client.send_json(&("a", 1)).await.expect("taken");
    assert_eq!(soon("a receipt", receipt.into_future()).await, Ok(()));
    assert_eq!(peer.got(), [r#"["a",1]"#]);
}

#[tokio::test(start_paused = true)]
async fn a_value_is_the_data_of_a_message_of_numbered() {
    let peer = Peer::default();
    let builder = Builder::with_dialect(["ws://peer"], Numbered::default(), ());
    let (client, _inbound) =
        builder.level(Level::Acked).connector(peer.clone()).start().expect("it is valid");
    let receipt = client.send_json(&("a", 1)).await.expect("taken");
    until("it is sent", || !peer.lock().got.is_empty()).await;
    let frame = peer.lock().got[0].clone();
    let Messages { outbox, base, messages } = Messages::parse(&frame).expect("it is a frame");
    let [(seq, data)] = &messages[..] else { panic!("{} messages", messages.len()) };
    assert_eq!(data.as_str(), r#"["a",1]"#);

    let mut inbox = Inbox::new(InboxConfig::default()).expect("it is valid");
    let lane = inbox.connect();
    let id = MessageId { outbox, seq: *seq };
    assert_eq!(inbox.offer(lane, id, base), Offer::New);
    inbox.done(id).expect("it was offered");
    let answer = std::iter::from_fn(|| inbox.poll(lane));
    peer.says(reply(answer, None).expect("an ack"));
    assert_eq!(soon("a receipt", receipt.into_future()).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_value_that_has_no_json_is_refused() {
    let (client, _inbound) = Peer::default().start();
    let refused = client.send_json(&HashMap::from([((), 1)])).await;
    assert!(matches!(refused, Err(JsonError::Json(_))));
}
