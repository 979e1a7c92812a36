//! The dialect `Numbered`: its frames, letter by letter, and what it makes of hostile ones.
#![cfg(feature = "json")]

use std::time::Duration;

use bowline_core::{
    Ack, Answer, Attempt, Body, Client, ClientConfig, Dialect, Event, Frame, Instant, Json, Level,
    MessageId, Nack, Numbered, NumberedConfig, Opened, OutboxConfig, OutboxId, Output, PushOptions,
    Received, Seq, Sink, Wire,
    dialect::Signal,
    numbered::{Malformed, Messages, reply},
};
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

// ---- From the sender ----------------------------------------------------------------------------

#[test]
fn a_lone_message_leaves_in_a_frame_of_its_own() {
    let mut end = End::new();
    end.push(&json("hello"));
    let id = end.id();
    assert_eq!(
        end.frames(),
        [format!(r#"{{"id":"{id}","base":1,"messages":[{{"seq":1,"data":"hello"}}]}}"#)]
    );
}

#[test]
fn messages_that_wait_are_packed_into_one_frame() {
    let mut end = End::new();
    for number in 1..=3 {
        end.push(&json(&number));
    }
    end.cancel(2);
    let id = end.id();
    assert_eq!(
        end.frames(),
        [format!(
            r#"{{"id":"{id}","base":1,"messages":[{{"seq":1,"data":1}},{{"seq":3,"data":3}}]}}"#
        )]
    );
}

#[test]
fn a_frame_is_bounded_in_messages() {
    let mut end = End::with(NumberedConfig { max_frame_messages: 2, ..Default::default() });
    for number in 1..=5 {
        end.push(&json(&number));
    }
    assert_eq!(end.numbers(), [vec![1, 2], vec![3, 4], vec![5]]);
}

#[test]
fn a_frame_is_bounded_in_bytes_but_takes_one_message_of_any_size() {
    for max_frame_bytes in [1, 100, 150, 200, 300, 1_000] {
        let mut end = End::with(NumberedConfig { max_frame_bytes, ..Default::default() });
        for len in [3, 400, 10, 10, 40, 1, 1, 1, 1, 90] {
            end.push(&json(&"x".repeat(len)));
        }
        let frames = end.frames();
        for frame in &frames {
            let messages = parse(frame).messages;
            assert!(frame.len() <= max_frame_bytes || messages.len() == 1);
        }
        let all: Vec<u64> = frames.iter().flat_map(|frame| numbers(frame)).collect();
        assert!(all.into_iter().eq(1..=10), "{max_frame_bytes}");
    }
}

#[test]
fn a_frame_is_filled_as_far_as_the_longest_number_would_fit() {
    let frames = |max_frame_bytes| {
        let mut end = End::with(NumberedConfig { max_frame_bytes, ..Default::default() });
        end.push(&json("a"));
        end.push(&json("b"));
        end.frames()
    };
    let longest = frames(1_000)[0].len() - "2".len() + u64::MAX.to_string().len();
    assert_eq!(frames(longest).len(), 1);
    assert_eq!(frames(longest - 1).len(), 2);
}

#[test]
fn a_frame_of_one_message_is_larger_than_it_by_the_overhead_at_most() {
    let mut end = End::new();
    end.push(&json("hello"));
    assert!(end.frames()[0].len() <= "\"hello\"".len() + Numbered::OVERHEAD);
    // With the largest numbers that there are:
    let id = "f".repeat(32);
    let max = u64::MAX;
    let frame = format!(r#"{{"id":"{id}","base":{max},"messages":[{{"seq":{max},"data":0}}]}}"#);
    assert_eq!((parse(&frame).messages.len(), frame.len() - 1), (1, Numbered::OVERHEAD));
}

#[test]
fn the_base_is_the_lowest_message_that_is_not_settled() {
    let mut end = End::with(NumberedConfig { max_frame_messages: 1, ..Default::default() });
    for number in 1..=3 {
        end.push(&json(&number));
    }
    assert_eq!(end.bases(), [1, 1, 1]);
    let id = MessageId { outbox: end.id(), seq: seq(2) };
    end.hear(reply([Answer::Ack(id)], None).unwrap());
    end.push(&json(&4));
    assert_eq!(end.bases(), [3]);
}

/// H37, H68: the name says which life of the sender it was.
#[test]
fn a_frame_holds_messages_of_one_outbox_and_the_base_of_all() {
    let mut end = End::new();
    end.push(&json(&1));
    end.push(&json(&2));
    let old = end.id();
    end.restart();
    end.push(&json(&3));
    let fresh = end.id();
    assert_ne!(old, fresh);
    assert_eq!(
        end.frames(),
        [
            format!(
                r#"{{"id":"{old}","base":1,"messages":[{{"seq":1,"data":1}},{{"seq":2,"data":2}}]}}"#
            ),
            format!(r#"{{"id":"{fresh}","base":1,"messages":[{{"seq":3,"data":3}}]}}"#),
        ]
    );
}

#[test]
fn a_body_that_is_no_text_goes_as_null() {
    let mut end = End::new();
    end.push_body(Body::binary(vec![0xFF, 0xFE]));
    assert!(end.frames()[0].ends_with(r#"[{"seq":1,"data":null}]}"#));
}

#[test]
fn settings_out_of_range_are_refused() {
    let error = |config| Numbered::new(config).unwrap_err().to_string();
    assert_eq!(
        error(NumberedConfig { max_frame_messages: 0, ..Default::default() }),
        "max_frame_messages is 0, allowed is 1 to 65536"
    );
    assert_eq!(
        error(NumberedConfig { max_frame_bytes: 0, ..Default::default() }),
        format!("max_frame_bytes is 0, allowed is 1 to {}", usize::MAX)
    );
}

// ---- From the receiver --------------------------------------------------------------------------

#[test]
fn an_answer_says_acks_and_nacks_and_a_message_in_one_frame() {
    let frame = reply(
        [
            Answer::Ack(id(0xA, 9)),
            Answer::Ack(id(0xB, 12)),
            Answer::Nack(id(0xB, 13), Nack::Transient),
        ],
        Some(&json(&[1, 2])),
    );
    assert_eq!(
        frame.unwrap().as_text().unwrap(),
        concat!(
            r#"{"acks":[{"id":"0000000000000000000000000000000a","seq":9},"#,
            r#"{"id":"0000000000000000000000000000000b","seq":12}],"#,
            r#""nacks":[{"id":"0000000000000000000000000000000b","seq":13,"reason":"transient"}],"#,
            r#""data":[1,2]}"#,
        )
    );
    let frame = reply([Answer::Nack(id(0xA, 1), Nack::Permanent)], None).unwrap();
    assert_eq!(
        frame.as_text().unwrap(),
        r#"{"nacks":[{"id":"0000000000000000000000000000000a","seq":1,"reason":"permanent"}]}"#
    );
    assert_eq!(reply([], None), None);
}

#[test]
fn what_the_receiver_says_is_what_the_sender_hears() {
    let sink = decode(
        reply(
            [Answer::Ack(id(0xA, 9)), Answer::Nack(id(0xB, 13), Nack::Permanent)],
            Some(&json(&"hi")),
        )
        .unwrap(),
    );
    assert_eq!(
        sink.signals,
        [Signal::Ack(Ack::UpToOf(id(0xA, 9))), Signal::NackFrom(id(0xB, 13), Nack::Permanent)]
    );
    assert_eq!(sink.inbound, Some(json("hi")));
}

#[test]
fn a_message_of_the_server_may_be_any_json_null_included() {
    for text in ["null", "0", r#""""#, "[]", r#"{"a":{"b":[1,2,3]}}"#, r#""\u0000é\ud83d\ude00""#]
    {
        let sink = decode(format!(r#"{{"data":{text}}}"#).into());
        assert_eq!(sink.inbound.unwrap().as_str(), text);
        assert_eq!(sink.signals, []);
    }
}

#[test]
fn fields_that_are_not_known_are_ignored() {
    let sink = decode(
        r#"{"then":1,"acks":[{"x":[],"id":"0000000000000000000000000000000a","seq":1}]}"#.into(),
    );
    assert_eq!(sink.signals, [Signal::Ack(Ack::UpToOf(id(0xA, 1)))]);
    assert_eq!(decode("{}".into()), Sink::default());
    let frame = r#"{"id":"0000000000000000000000000000000a","v":2,"base":1,"messages":[{"seq":1,"data":1,"at":0}]}"#;
    assert_eq!(parse(frame).messages, [(seq(1), json(&1))]);
}

/// An encoder may write any character of a string as an escape (RFC 8259 §7).
#[test]
fn an_id_is_read_with_escapes_too() {
    let sink =
        decode(r#"{"acks":[{"id":"0000000000000000000000000000000\u0061","seq":1}]}"#.into());
    assert_eq!(sink.signals, [Signal::Ack(Ack::UpToOf(id(0xA, 1)))]);
}

/// The outbox decides what an ack may name; the story of both ends is in `exactly_once.rs`.
#[test]
fn a_refused_message_is_sent_again_and_what_was_dropped_behind_it_too() {
    let mut end = End::with(NumberedConfig { max_frame_messages: 1, ..Default::default() });
    for number in 1..=3 {
        end.push(&json(&number));
    }
    assert_eq!(end.numbers(), [[1], [2], [3]]);
    let nack = |seq, nack| Answer::Nack(MessageId { outbox: end.id(), seq }, nack);
    let (for_now, for_good) = (nack(seq(1), Nack::Transient), nack(seq(1), Nack::Permanent));
    end.hear(reply([for_now], None).unwrap());
    assert_eq!(end.numbers(), Vec::<Vec<u64>>::new());
    end.wait(OutboxConfig::default().nack_delay);
    assert_eq!(end.numbers(), [[1], [2], [3]]);
    end.hear(reply([for_good], None).unwrap());
    assert_eq!(end.numbers(), [[2], [3]]);
}

// ---- Hostile frames -----------------------------------------------------------------------------

#[test]
fn a_frame_that_breaks_the_format_is_a_violation_and_changes_nothing() {
    let good = r#"{"id":"0000000000000000000000000000000a","seq":1}"#;
    let deep = format!(r#"{{"acks":{}"#, "[".repeat(100_000));
    let long = format!(r#"{{"acks":[{good}],"nacks":[{good}]}}"#);
    for text in [
        "",
        " ",
        "null",
        "[]",
        "1",
        "{",
        "{}{}",
        "\u{feff}{}",
        r#"{"acks":null}"#,
        r#"{"acks":{}}"#,
        r#"{"acks":[1]}"#,
        r#"{"acks":[{"id":"0000000000000000000000000000000a"}]}"#,
        r#"{"acks":[{"seq":1}]}"#,
        r#"{"acks":[{"id":"0000000000000000000000000000000a","seq":-1}]}"#,
        r#"{"acks":[{"id":"0000000000000000000000000000000a","seq":1.0}]}"#,
        r#"{"acks":[{"id":"0000000000000000000000000000000a","seq":"1"}]}"#,
        r#"{"acks":[{"id":"0000000000000000000000000000000a","seq":18446744073709551616}]}"#,
        r#"{"acks":[{"id":"0000000000000000000000000000000A","seq":1}]}"#,
        r#"{"acks":[{"id":"000000000000000000000000000000a","seq":1}]}"#,
        r#"{"acks":[{"id":"00000000000000000000000000000000a","seq":1}]}"#,
        r#"{"acks":[{"id":"+000000000000000000000000000000a","seq":1}]}"#,
        r#"{"acks":[{"id":"é00000000000000000000000000000","seq":1}]}"#,
        r#"{"acks":[{"id":10,"seq":1}]}"#,
        r#"{"acks":[],"acks":[]}"#,
        r#"{"data":}"#,
        r#"{"data":tru}"#,
        r#"{"data":1} x"#,
        r#"{"nacks":[{"id":"0000000000000000000000000000000a","seq":1,"reason":"later"}]}"#,
        &deep,
        &long,
    ] {
        let sink = decode(text.into());
        assert_eq!(sink.signals, [Signal::Violation], "{}", &text[..text.len().min(80)]);
        assert_eq!((sink.inbound, sink.reply), (None, None));
    }
    let sink = decode(Body::binary(b"{}".to_vec()));
    assert_eq!(sink.signals, [Signal::Violation]);
}

/// H40: neither another outbox's ack nor one of what was never sent settles anything.
#[test]
fn an_ack_of_what_was_not_sent_settles_nothing() {
    let mut end = End::with(NumberedConfig { max_frame_messages: 1, ..Default::default() });
    end.push(&json(&1));
    assert_eq!(end.numbers(), [[1]]);
    let own = end.id();
    for (outbox, number) in [(own, 0), (own, 2), (own, u64::MAX), (OutboxId::new(0), 1)] {
        let id = MessageId { outbox, seq: seq(number) };
        end.hear(reply([Answer::Ack(id)], None).unwrap());
        end.hear(reply([Answer::Nack(id, Nack::Permanent)], None).unwrap());
    }
    let stats = end.client.stats().outbox;
    assert_eq!((stats.delivered, stats.failed.iter().sum::<u64>()), (0, 0));
    assert_eq!(end.client.stats().in_flight.messages, 1);
}

#[test]
fn a_frame_that_no_honest_sender_makes_is_malformed() {
    let id = r#""id":"0000000000000000000000000000000a""#;
    let with = |base: &str, messages: &str| {
        let text = format!(r#"{{{id},"base":{base},"messages":[{messages}]}}"#);
        Messages::parse(&text.into()).unwrap_err()
    };
    let message = |seq: u64| format!(r#"{{"seq":{seq},"data":1}}"#);
    let both = |one, other| format!("{},{}", message(one), message(other));
    assert_eq!(with("1", ""), Malformed::Empty);
    assert_eq!(with("0", &message(1)), Malformed::Order(seq(1)));
    assert_eq!(with("0", &message(0)), Malformed::Order(seq(0)));
    assert_eq!(with("2", &message(1)), Malformed::Order(seq(1)));
    assert_eq!(with("1", &both(2, 2)), Malformed::Order(seq(2)));
    assert_eq!(with("1", &both(3, 2)), Malformed::Order(seq(2)));
    assert_eq!(with("1", &both(u64::MAX, u64::MAX)), Malformed::Order(seq(u64::MAX)));
    assert_eq!(with("-1", &message(1)), Malformed::Form);
    assert_eq!(with("1", r#"{"seq":1}"#), Malformed::Form);
    assert_eq!(with("1", r#"{"data":1}"#), Malformed::Form);
    assert_eq!(Messages::parse(&Body::binary(b"{}".to_vec())), Err(Malformed::Binary));
    for text in ["", "{}", "null", &format!(r#"{{{id},"base":1}}"#)] {
        assert_eq!(Messages::parse(&text.into()), Err(Malformed::Form));
    }
    assert_eq!(Malformed::Order(seq(2)).to_string(), "number 2 is out of order");
}

#[test]
fn a_message_may_be_nested_as_deep_as_its_frame_is_long() {
    let depth = 500_000;
    let data = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let frame = format!(
        r#"{{"id":"0000000000000000000000000000000a","base":1,"messages":[{{"seq":1,"data":{data}}}]}}"#
    );
    let messages = parse(&frame).messages;
    assert_eq!(messages[0].1.as_str().len(), 2 * depth);
    // To make a value of it is another matter.
    assert!(messages[0].1.to::<serde_json::Value>().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// No frame makes either end panic or allocate out of proportion.
    #[test]
    fn no_frame_is_too_strange(frame in strange()) {
        let sink = decode(frame.as_str().into());
        prop_assert!(sink.signals.len() <= frame.len() / 40 + 1);
        if let Ok(parsed) = Messages::parse(&frame.as_str().into()) {
            prop_assert!(parsed.messages.len() <= frame.len() / 18 + 1);
            prop_assert!(parsed.messages.is_sorted_by_key(|(seq, _)| *seq));
            prop_assert!(parsed.base <= parsed.messages[0].0);
        }
    }

    /// What the one end writes is what the other reads.
    #[test]
    fn a_frame_carries_what_was_put_in(texts in prop::collection::vec(".{0,20}", 1..20)) {
        let mut end = End::with(NumberedConfig { max_frame_bytes: 200, ..Default::default() });
        for text in &texts {
            end.push(&json(text));
        }
        let mut read = Vec::new();
        for frame in end.frames() {
            for (_, data) in parse(&frame).messages {
                read.push(data.to::<String>().unwrap());
            }
        }
        prop_assert_eq!(read, texts);
    }
}

/// Frames of both ends with something wrong in them, and no frames at all.
fn strange() -> impl Strategy<Value = String> {
    let frames = prop::sample::select(vec![
        r#"{"id":"0f1e2d3c4b5a69788796a5b4c3d2e1f0","base":7,"messages":[{"seq":7,"data":{"a":"b"}},{"seq":9,"data":[1,2]}]}"#,
        r#"{"acks":[{"id":"0f1e2d3c4b5a69788796a5b4c3d2e1f0","seq":9}],"nacks":[{"id":"0f1e2d3c4b5a69788796a5b4c3d2e1f0","seq":10,"reason":"transient"}],"data":{"any":"JSON"}}"#,
    ]);
    let pieces = prop::sample::select(vec![
        "",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "0",
        "-",
        "1e9",
        "null",
        "\\u",
        "é",
        "\0",
        " ",
        "18446744073709551615",
        "18446744073709551616",
        "\"seq\":1",
        "\"id\":\"\"",
    ]);
    let broken = (frames, prop::collection::vec((0..200_usize, 0..4_usize, pieces), 0..4))
        .prop_map(|(frame, edits)| {
            let mut frame: Vec<char> = frame.chars().collect();
            for (at, removed, piece) in edits {
                let at = at.min(frame.len());
                let end = (at + removed).min(frame.len());
                frame.splice(at..end, piece.chars());
            }
            frame.into_iter().collect()
        });
    prop_oneof![4 => broken, 1 => ".{0,100}"]
}

// ---- Json ---------------------------------------------------------------------------------------

#[test]
fn json_is_made_of_any_value_or_of_text_that_is_json() {
    #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
    struct Reading<'a> {
        sensor: &'a str,
        value: f64,
    }
    let reading = Reading { sensor: "t1", value: 21.5 };
    let made = Json::new(&reading).unwrap();
    assert_eq!(made.as_str(), r#"{"sensor":"t1","value":21.5}"#);
    assert_eq!(made.to::<Reading<'_>>().unwrap(), reading);

    let text = "{ \"spread\":\n [over, \"lines\"] }".replace("over", "1");
    assert_eq!(Json::from_text(text.as_str()).unwrap().as_str(), text);
    for text in ["", "{", "1 2", "nul", "'a'", "\"\u{1}\"", "[1,]"] {
        assert_eq!(Json::from_text(text), Err(text.to_owned()));
    }
    let keys = std::collections::BTreeMap::from([((1, 2), 3)]);
    assert!(Json::new(&keys).is_err());
}

#[test]
fn json_is_taken_apart_into_its_text() {
    assert_eq!(String::from(json(&[1, 2])), "[1,2]");
}

#[test]
fn debug_shows_no_payload() {
    let frame = reply([], Some(&json("secret"))).unwrap();
    assert_eq!(format!("{:?}", json("secret")), "json(8 B)");
    assert!(!format!("{:?}", decode(frame)).contains("secret"));
    let hostile = r#"{"id":"secret","base":1,"messages":[]}"#;
    let error = Messages::parse(&hostile.into()).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("secret"));
}

// ---- Helpers ------------------------------------------------------------------------------------

fn seq(number: u64) -> Seq {
    Seq::new(number)
}

fn id(outbox: u128, number: u64) -> MessageId {
    MessageId { outbox: OutboxId::new(outbox), seq: seq(number) }
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> Json {
    Json::new(value).unwrap()
}

fn decode(frame: Body) -> Sink<Json> {
    let mut sink = Sink::default();
    Numbered::default().decode(frame, &mut sink);
    sink
}

fn parse(frame: &str) -> Messages {
    Messages::parse(&frame.into()).unwrap()
}

fn numbers(frame: &str) -> Vec<u64> {
    parse(frame).messages.iter().map(|(seq, _)| seq.get()).collect()
}

/// A client that is up.
struct End {
    client: Client<Numbered, ChaCha8Rng>,
    packing: NumberedConfig,
    now: Instant,
    attempt: Attempt,
}

impl End {
    fn new() -> Self {
        Self::with(NumberedConfig::default())
    }

    fn config() -> ClientConfig {
        let outbox = OutboxConfig { level: Level::Acked, ..OutboxConfig::default() };
        ClientConfig { outbox, ..ClientConfig::default() }
    }

    fn with(packing: NumberedConfig) -> Self {
        let dialect = Numbered::new(packing.clone()).unwrap();
        let rng = ChaCha8Rng::seed_from_u64(1);
        let client = Client::new(Self::config(), dialect, rng).unwrap();
        let mut end = Self { client, packing, now: Instant::ZERO, attempt: Attempt::NONE };
        end.open();
        end
    }

    /// Another process goes on from a snapshot.
    fn restart(&mut self) {
        let snapshot = self.client.outbox().snapshot();
        let dialect = Numbered::new(self.packing.clone()).unwrap();
        let rng = ChaCha8Rng::seed_from_u64(2);
        self.client = Client::restore(Self::config(), dialect, rng, self.now, snapshot).unwrap();
        self.open();
    }

    fn open(&mut self) {
        self.client.handle(self.now, Event::Start);
        loop {
            match self.client.poll(Wire::Blocked) {
                Output::Dial(attempt) => self.attempt = attempt,
                Output::WaitUntil(_) => break,
                _ => {}
            }
        }
        self.client.handle(self.now, Event::Opened(Opened::new(self.attempt, ())));
    }

    fn id(&self) -> OutboxId {
        self.client.outbox().id()
    }

    fn push(&mut self, message: &Json) {
        let Ok(body) = Numbered::encode(message.clone());
        self.push_body(body);
    }

    fn push_body(&mut self, body: Body) {
        self.client.push(self.now, body, PushOptions::default()).unwrap();
    }

    fn cancel(&mut self, number: u64) {
        self.client.handle(self.now, Event::Cancel(seq(number)));
    }

    fn hear(&mut self, frame: Body) {
        let _message = self.client.receive(self.now, self.attempt, Received::Data(frame));
        self.client.handle(self.now, Event::Tick);
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.client.handle(self.now, Event::Tick);
    }

    /// The data frames that are sent now.
    fn frames(&mut self) -> Vec<String> {
        let mut frames = Vec::new();
        loop {
            match self.client.poll(Wire::Ready) {
                Output::Send(_, Frame::Data(body)) => {
                    frames.push(body.as_text().unwrap().to_owned());
                }
                Output::WaitUntil(_) => return frames,
                _ => {}
            }
        }
    }

    fn numbers(&mut self) -> Vec<Vec<u64>> {
        self.frames().iter().map(|frame| numbers(frame)).collect()
    }

    fn bases(&mut self) -> Vec<u64> {
        self.frames().iter().map(|frame| parse(frame).base.get()).collect()
    }
}
