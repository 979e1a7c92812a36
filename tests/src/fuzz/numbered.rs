//! Hostile frames for both ends of the dialect `Numbered`.

use core::time::Duration;

use arbitrary::Arbitrary;
use bowline_core::{
    Body, Client, ClientConfig, Dialect, Event, Frame, Inbox, InboxConfig, Instant, Json, Level,
    MessageId, Nack, Numbered, NumberedConfig, Offer, Opened, OutboxConfig, Output, PushOptions,
    Received, Wire,
    numbered::{Messages, reply},
};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use super::read;

/// Reads frames from `data`, and gives them to a receiver with an inbox and to a sender whose
/// messages were handed over.
///
/// # Panics
/// A frame that is accepted breaks the format, something settles that was not sent, or the sender
/// does not get on with an honest receiver afterwards.
pub fn run(data: &[u8]) {
    if let Some(input) = read::<Input>(data) {
        receive(&input.frames);
        send(&input);
    }
}

#[derive(Arbitrary, Debug)]
struct Input {
    messages: u8,
    packed: u8,
    frames: Vec<Hostile>,
}

/// A frame: mostly of the right form, at times with anything in it.
#[derive(Arbitrary, Debug)]
enum Hostile {
    Bytes(Vec<u8>),
    Text(String),
    Messages { id: Id, base: u64, messages: Vec<(u64, bool)> },
    Reply { acks: Vec<(Id, u64)>, nacks: Vec<(Id, u64, bool)>, data: Option<bool> },
}

/// The name of an outbox: the sender's own, another one, or no name at all.
#[derive(Arbitrary, Debug)]
enum Id {
    Own,
    Other(u8),
    None(String),
}

impl Hostile {
    fn frame(&self, own: &str) -> Body {
        let id = |id: &Id| match id {
            Id::Own => own.to_owned(),
            Id::Other(other) => format!("{other:032x}"),
            Id::None(text) => text.clone(),
        };
        match self {
            Self::Bytes(bytes) => Body::binary(bytes.clone()),
            Self::Text(text) => Body::text(text.clone()),
            Self::Messages { id: name, base, messages } => {
                let messages: Vec<_> = messages
                    .iter()
                    .map(|(seq, data)| serde_json::json!({"seq": seq, "data": data}))
                    .collect();
                let frame = serde_json::json!({
                    "id": id(name), "base": base, "messages": messages
                });
                Body::text(frame.to_string())
            }
            Self::Reply { acks, nacks, data } => {
                let acks: Vec<_> = acks
                    .iter()
                    .map(|(name, seq)| serde_json::json!({"id": id(name), "seq": seq}))
                    .collect();
                let nacks: Vec<_> = nacks
                    .iter()
                    .map(|(name, seq, permanent)| {
                        let reason = if *permanent { "permanent" } else { "transient" };
                        serde_json::json!({"id": id(name), "seq": seq, "reason": reason})
                    })
                    .collect();
                let mut frame = serde_json::json!({"acks": acks, "nacks": nacks});
                if let Some(data) = data {
                    frame["data"] = (*data).into();
                }
                Body::text(frame.to_string())
            }
        }
    }
}

fn receive(frames: &[Hostile]) {
    let config = InboxConfig { max_outboxes: 3, max_in_progress: 4 };
    let mut inbox = Inbox::new(config).expect("the settings are in their ranges");
    let lane = inbox.connect();
    let own = format!("{:032x}", 1);
    for frame in frames.iter().map(|frame| frame.frame(&own)) {
        let Ok(Messages { outbox, base, messages }) = Messages::parse(&frame) else { continue };
        assert!(!messages.is_empty());
        assert!(messages.is_sorted_by(|(one, _), (other, _)| one < other));
        assert!(base.get() > 0 && base <= messages[0].0);
        for (seq, data) in messages {
            assert!(Json::from_text(data.as_str()).is_ok());
            let id = MessageId { outbox, seq };
            if inbox.offer(lane, id, base) == Offer::New {
                // Every third is refused.
                let outcome = match seq.get() % 3 {
                    0 => inbox.refuse(id, Nack::Transient),
                    _ => inbox.done(id),
                };
                outcome.expect("what is new is in progress");
            }
        }
        assert!(inbox.marks().count() <= 3);
        let answer = reply(std::iter::from_fn(|| inbox.poll(lane)), None);
        assert!(answer.is_none_or(|answer| answer.as_text().is_some()));
    }
}

fn send(input: &Input) {
    let config = ClientConfig {
        outbox: OutboxConfig {
            level: Level::Acked,
            window_messages: 3,
            retry_budget: 1_000_000,
            nack_delay: Duration::from_millis(1),
            nack_delay_cap: Duration::from_millis(1),
            ..OutboxConfig::default()
        },
        ..ClientConfig::default()
    };
    let packing = NumberedConfig {
        max_frame_messages: usize::from(input.packed % 4) + 1,
        ..NumberedConfig::default()
    };
    let dialect = Numbered::new(packing).expect("the settings are in their ranges");
    let mut client = Client::new(config, dialect, ChaCha8Rng::seed_from_u64(0))
        .expect("the settings are in their ranges");
    let mut now = Instant::ZERO;
    let own = client.outbox().id().to_string();
    let pushed = u64::from(input.messages % 8);
    for number in 0..pushed {
        let json = Json::new(&number).expect("a number has a form in JSON");
        let Ok(body) = Numbered::encode(json);
        client.push(now, body, PushOptions::default()).expect("there is room");
    }
    client.handle(now, Event::Start);
    let mut peer = Peer { sent: 0, settled: 0, refused: 0 };
    peer.drain(&mut client, &mut now, None);
    for frame in &input.frames {
        let attempt = client.connection().attempt();
        let _message = client.receive(now, attempt, Received::Data(frame.frame(&own)));
        client.handle(now, Event::Tick);
        peer.drain(&mut client, &mut now, None);
        assert!(peer.settled <= peer.sent, "a message settled that was never sent");
    }

    // An honest receiver settles what is left.
    let mut inbox = Inbox::new(InboxConfig::default()).expect("the settings are in their ranges");
    for round in 0.. {
        if client.outbox().is_empty() {
            break;
        }
        assert!(round < 100, "the sender does not get on");
        let attempt = client.connection().attempt();
        client.handle(now, Event::Lost(attempt, bowline_core::Loss::Io));
        peer.drain(&mut client, &mut now, Some(&mut inbox));
    }
    assert_eq!(peer.settled + peer.refused, pushed);
}

/// The other end, and how far things got.
struct Peer {
    sent: u64,
    settled: u64,
    refused: u64,
}

impl Peer {
    /// Does what the client wants until it waits for more than its next deadline.
    fn drain(
        &mut self,
        client: &mut Client<Numbered, ChaCha8Rng>,
        now: &mut Instant,
        mut inbox: Option<&mut Inbox>,
    ) {
        let lane = inbox.as_mut().map(|inbox| inbox.connect());
        let mut waits = 0;
        while waits < 10 {
            match client.poll(Wire::Ready) {
                Output::Dial(attempt) => {
                    client.handle(*now, Event::Opened(Opened::new(attempt, ())));
                }
                Output::Send(attempt, Frame::Ping(ping)) => {
                    let pong = Received::Pong(ping.payload().to_vec().into());
                    let _ = client.receive(*now, attempt, pong);
                }
                Output::Send(attempt, Frame::Data(frame)) => {
                    let Messages { outbox, base, messages } =
                        Messages::parse(&frame).expect("the sender is honest");
                    self.sent = self.sent.max(messages.last().map_or(0, |(seq, _)| seq.get()));
                    let (Some(inbox), Some(lane)) = (inbox.as_mut(), lane) else { continue };
                    for (seq, _) in messages {
                        let id = MessageId { outbox, seq };
                        if inbox.offer(lane, id, base) == Offer::New {
                            inbox.done(id).expect("what is new is in progress");
                        }
                    }
                    let answer = reply(std::iter::from_fn(|| inbox.poll(lane)), None);
                    if let Some(answer) = answer {
                        let _ = client.receive(*now, attempt, Received::Data(answer));
                    }
                }
                Output::Delivered { first, last } => self.settled += last.get() - first.get() + 1,
                Output::Failed(failed) => {
                    assert_eq!(failed.reason, bowline_core::FailReason::Rejected);
                    self.refused += 1;
                }
                Output::Close(attempt, _) => {
                    client.handle(*now, Event::Lost(attempt, bowline_core::Loss::Eof));
                }
                Output::Abort(_) | Output::Status(_) => {}
                Output::WaitUntil(deadline) => {
                    waits += 1;
                    client.handle(*now, Event::Flushed(client.connection().attempt()));
                    // Pauses end, and dials begin; heartbeats may wait.
                    if let Some(deadline) = deadline {
                        *now = (*now).max(deadline.at);
                    }
                    client.handle(*now, Event::Tick);
                }
            }
        }
    }
}
