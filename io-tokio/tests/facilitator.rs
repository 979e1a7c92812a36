//! The dialect of the facilitator example, driven without a socket: positional acks in a protocol
//! where most messages have none, and the answers to an authentication.

// The facilitator itself needs more of it than is tested here.
#[allow(dead_code)]
#[path = "../examples/facilitator/dialect.rs"]
mod dialect;

use std::time::Duration;

use bowline_tokio::{
    Attempt, Body, Dialect, Loss, Phase, StopReason,
    core::{
        Client, ClientConfig, ConnectionConfig, Event, FailReason, Failed, Frame, Instant, Opened,
        OutboxConfig, Output, Ping, Received, Refusal, Verdict, VerdictLimits, Wire,
    },
};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use serde_json::{Map, Value, json};

use crate::dialect::{Credentials, Facilitator, Order, Request, Status, Update, verdict};

const SUCCESS: &str = r#"{"status":"success","errors":[]}"#;

// ---- Positional acks --------------------------------------------------------------------------

/// H42: specs and heartbeats have no answer, so the answers belong to the statuses around them.
#[test]
fn an_ack_belongs_to_the_next_status_whatever_was_sent_between() {
    let mut peer = Peer::authenticated(64);
    peer.push(specs("miner", 1));
    peer.push(status(Status::Received));
    peer.push(specs("miner", 2));
    peer.push(specs("other", 3));
    peer.push(status(Status::Accepted));
    peer.push(specs("miner", 4));
    peer.drain();
    assert_eq!(peer.sent_kinds(), ["specs", "received", "specs", "specs", "accepted", "specs"]);
    peer.after(HEARTBEAT);
    assert_eq!(peer.sent_kinds(), ["heartbeat"]);
    assert!(peer.settled().is_empty(), "nothing was answered");

    // Delivered is reported in the order of the messages: the first specs hold the rest back.
    peer.says(SUCCESS);
    peer.pongs();
    assert_eq!(peer.settled(), [(1, None), (2, None), (3, None), (4, None)]);
    peer.says(SUCCESS);
    assert_eq!(peer.settled(), [(5, None), (6, None)]);
}

/// H42: what the facilitator does not understand is answered by an error of another type. It is
/// counted, and takes no ack from the status before or behind it.
#[test]
fn an_error_of_another_type_is_no_ack() {
    let mut peer = Peer::authenticated(64);
    peer.push(status(Status::Received));
    peer.push(specs("miner", 1));
    peer.push(status(Status::Accepted));
    peer.drain();
    for kind in ["extra_forbidden", "missing", "union_tag_invalid", "job.something_new"] {
        peer.says(&error(kind));
    }
    peer.says(r#"{"status":"error","errors":[]}"#);
    assert!(peer.settled().is_empty());
    assert_eq!(peer.client.stats().violations, 5);
    peer.says(SUCCESS);
    peer.pongs();
    assert_eq!(peer.settled(), [(1, None), (2, None)]);
    peer.says(SUCCESS);
    assert_eq!(peer.settled(), [(3, None)]);
    assert_eq!(peer.client.stats().outbox.violations, 0);
}

#[test]
fn a_repeated_status_is_a_success() {
    let mut peer = Peer::authenticated(64);
    peer.push(status(Status::Received));
    peer.drain();
    peer.reconnect();
    assert_eq!(peer.sent_kinds(), ["received"], "the answer was lost with the connection");
    peer.says(&error("job.integrity_error"));
    assert_eq!(peer.settled(), [(1, None)]);
    assert_eq!(peer.client.stats().outbox.charges, 0);
}

#[test]
fn a_status_of_an_unknown_job_is_rejected_and_the_next_one_takes_the_next_answer() {
    let mut peer = Peer::authenticated(64);
    peer.push(status(Status::Received));
    peer.push(status(Status::Accepted));
    peer.drain();
    peer.says(&error("job.not_found"));
    peer.says(SUCCESS);
    assert_eq!(peer.settled(), [(1, Some(FailReason::Rejected)), (2, None)]);
}

/// H42: the handler of a status failed and nothing was answered. With one status in flight no
/// other answer can be taken for the missing one.
#[test]
fn a_missing_answer_ends_the_connection_and_settles_nothing() {
    let mut peer = Peer::authenticated(dialect::WINDOW);
    peer.push(status(Status::Received));
    peer.push(status(Status::Accepted));
    peer.drain();
    assert_eq!(peer.sent_kinds(), ["received"], "one at a time");
    peer.after(Duration::from_secs(20));
    peer.pongs();
    let attempt = peer.attempt;
    peer.after(Duration::from_secs(30));
    assert!(peer.settled().is_empty());
    assert_eq!(peer.client.status().last_loss, Some(Loss::Overdue));
    peer.dialed_again(attempt);
    assert_eq!(peer.sent_kinds(), ["received"]);
    peer.says(SUCCESS);
    assert_eq!(peer.sent_kinds(), ["accepted"]);
    peer.says(SUCCESS);
    assert_eq!(peer.settled(), [(1, None), (2, None)]);
}

// ---- What is queued ---------------------------------------------------------------------------

/// H33: heartbeats are no messages. However long there was no link, one is due when it is up.
#[test]
fn no_heartbeat_waits_for_a_link() {
    let mut peer = Peer::authenticated(64);
    peer.after(HEARTBEAT);
    assert_eq!(peer.sent_kinds(), ["heartbeat"]);
    peer.client.handle(peer.now, Event::Lost(peer.attempt, Loss::Io));
    peer.drain();
    let attempt = peer.attempt;
    peer.now = peer.now + 100 * HEARTBEAT;
    // It authenticates and sends a single one.
    peer.dialed_again(attempt);
    assert!(peer.sent_kinds().is_empty());
}

#[test]
fn of_the_specs_of_a_miner_that_are_queued_only_the_newest_are_sent() {
    let mut peer = Peer::new(64);
    peer.push(specs("miner", 1));
    peer.push(specs("other", 2));
    peer.push(status(Status::Received));
    for batch in 3..100 {
        peer.push(specs("miner", batch));
    }
    assert_eq!(peer.client.stats().queued, 3);
    peer.open();
    peer.says(SUCCESS);
    let requests: Vec<_> =
        peer.sent.iter().map(|body| body.as_text().unwrap_or_default()).collect();
    let places = ["authentication", "heartbeat", "specs", "specs", "received"];
    assert!(requests[2].contains(r#""batch_id":"99""#), "{}", requests[2]);
    assert_eq!(peer.sent_kinds(), places);
}

// ---- The greeting -----------------------------------------------------------------------------

/// H31, H32: nothing queued goes before the answer to the authentication.
#[test]
fn the_first_answer_is_that_to_the_authentication() {
    let mut peer = Peer::new(64);
    peer.push(status(Status::Received));
    peer.open();
    assert_eq!(peer.sent_kinds(), ["authentication"]);
    peer.says(SUCCESS);
    assert_eq!(peer.sent_kinds(), ["heartbeat", "received"]);
    assert!(peer.settled().is_empty());
    peer.says(SUCCESS);
    assert_eq!(peer.settled(), [(1, None)]);
}

#[test]
fn an_unknown_validator_comes_back_slowly_and_a_bad_signature_never() {
    let mut peer = Peer::new(64);
    peer.open();
    peer.says(&error("auth.validator_not_found"));
    let Phase::Waiting { redial_at } = peer.client.status().phase else { panic!("it waits") };
    let wait = redial_at.since(peer.now);
    assert!((150..=188).contains(&wait.as_secs()), "{wait:?}");

    let mut peer = Peer::new(64);
    peer.open();
    peer.says(&error("auth.signature_invalid"));
    let reason = StopReason::Fatal(Loss::Refused(Refusal::Fatal));
    assert_eq!(peer.client.status().phase, Phase::Stopped { reason });
}

#[test]
fn a_facilitator_that_has_forgotten_who_we_are_is_told_again() {
    let mut peer = Peer::authenticated(64);
    peer.push(status(Status::Received));
    peer.drain();
    peer.says(&error("auth.not_authenticated"));
    assert!(matches!(peer.client.status().phase, Phase::Waiting { .. }));
    assert_eq!(peer.client.stats().outbox.charges, 0);
    assert_eq!(peer.client.stats().queued, 1);
}

#[test]
fn the_close_codes_of_the_protocol_have_their_verdicts() {
    let limits = VerdictLimits {
        retry_after_cap: Duration::from_secs(300),
        backoff_cap: Duration::from_secs(30),
    };
    let judge = |code| verdict(Loss::Closed { code: Some(code) }, limits);
    assert_eq!(judge(3000), Verdict::Fatal);
    let slowly = Duration::from_secs(150)..=Duration::from_millis(187_500);
    assert_eq!(judge(3001), Verdict::RetryAfter(slowly));
    assert_eq!(judge(1006), Verdict::Retry);
}

// ---- The wire ---------------------------------------------------------------------------------

#[test]
fn requests_look_as_the_protocol_says() {
    let text = |request: Request| serde_json::to_value(request).unwrap();
    let authentication =
        Request::Authenticate { public_key: "ab".into(), signature: "0xcd".into() };
    assert_eq!(
        text(authentication),
        json!({"message_type": "V0AuthenticationRequest", "public_key": "ab", "signature": "0xcd"})
    );
    assert_eq!(text(Request::Heartbeat {}), json!({"message_type": "V0Heartbeat"}));
    assert_eq!(
        text(status(Status::HordeFailed).into()),
        json!({
            "message_type": "V0JobStatusUpdate",
            "uuid": "job",
            "status": "horde_failed",
            "metadata": null,
        })
    );
    assert_eq!(
        text(specs("miner", 7).into()),
        json!({
            "message_type": "V0MachineSpecsUpdate",
            "miner_hotkey": "miner",
            "validator_hotkey": "validator",
            "specs": {"cpu": {"count": 8}},
            "batch_id": "7",
        })
    );
}

#[test]
fn a_request_with_an_unknown_field_is_refused() {
    for request in [
        json!({"message_type": "V0Heartbeat"}),
        json!({"message_type": "V0JobStatusUpdate", "uuid": "u", "status": "failed", "metadata": {"comment": "c"}}),
    ] {
        let read = |value: &Value| serde_json::from_str::<Request>(&value.to_string());
        assert!(read(&request).is_ok(), "{request}");
        let mut more = request;
        more["more"] = json!(1);
        assert!(read(&more).is_err(), "{more}");
    }
}

#[test]
fn jobs_come_through_and_nonsense_is_counted() {
    let mut peer = Peer::authenticated(64);
    let job = json!({
        "type": "job.new", "message_type": "V2JobRequest", "uuid": "u", "job_namespace": "n",
        "executor_class": "always_on.gpu-24gb", "docker_image": "i", "args": ["a"], "env": {"K": "v"},
        "use_gpu": true, "volume": null, "output_upload": null, "artifacts_dir": "/a",
        "on_trusted_miner": false, "download_time_limit": 1, "execution_time_limit": 2,
        "upload_time_limit": 3, "streaming_start_time_limit": 4, "streaming_details": null,
        "signature": {"signature_type": "t", "signatory": "s", "timestamp_ns": 5, "signature": "x",
            "signature_scope": "full"},
    });
    assert!(
        matches!(peer.receive(&job.to_string()), Some(Order::V2JobRequest(job)) if job.uuid == "u")
    );
    let cheated = json!({
        "type": "job.cheated", "message_type": "V0JobCheated", "job_uuid": "u",
        "trusted_job_uuid": "t", "details": {}, "signature": null,
    });
    assert!(matches!(peer.receive(&cheated.to_string()), Some(Order::V0JobCheated(_))));
    for nonsense in ["", "{}", "[]", r#"{"status":"maybe"}"#, r#"{"message_type":"V9"}"#] {
        assert!(peer.receive(nonsense).is_none());
    }
    assert_eq!(peer.client.stats().violations, 5);
}

// ---- Helpers ----------------------------------------------------------------------------------

const HEARTBEAT: Duration = Duration::from_secs(60);

fn status(status: Status) -> Update {
    Update::JobStatus { uuid: "job".into(), status, metadata: None }
}

fn specs(miner: &str, batch: u64) -> Update {
    let specs = json!({"cpu": {"count": 8}});
    Update::MachineSpecs {
        miner_hotkey: miner.into(),
        validator_hotkey: "validator".into(),
        specs: specs.as_object().cloned().unwrap_or_else(Map::new),
        batch_id: batch.to_string(),
    }
}

fn error(kind: &str) -> String {
    json!({"status": "error", "errors": [{"msg": "m", "type": kind, "help": "h"}]}).to_string()
}

/// A client and the facilitator at the other end of its wire.
struct Peer {
    client: Client<Facilitator, ChaCha8Rng>,
    now: Instant,
    attempt: Attempt,
    sent: Vec<Body>,
    pings: Vec<Ping>,
    /// Numbers, and why those failed that did.
    settled: Vec<(u64, Option<FailReason>)>,
}

impl Peer {
    fn new(window: usize) -> Self {
        let config = ClientConfig {
            connection: ConnectionConfig { verdict, ..ConnectionConfig::default() },
            outbox: OutboxConfig { window_messages: window, ..OutboxConfig::default() },
        };
        let rng = ChaCha8Rng::seed_from_u64(1);
        let client = Client::new(config, Facilitator::new(HEARTBEAT), rng).expect("valid settings");
        let mut peer = Self {
            client,
            now: Instant::ZERO,
            attempt: Attempt::NONE,
            sent: Vec::new(),
            pings: Vec::new(),
            settled: Vec::new(),
        };
        peer.client.handle(peer.now, Event::Start);
        peer.drain();
        peer
    }

    /// One that is past its greeting and its first heartbeat.
    fn authenticated(window: usize) -> Self {
        let mut peer = Self::new(window);
        peer.open();
        peer.says(SUCCESS);
        assert_eq!(peer.sent_kinds(), ["authentication", "heartbeat"]);
        peer
    }

    fn open(&mut self) {
        let credentials = Credentials { public_key: "ab".into(), signature: "0xcd".into() };
        self.client.handle(self.now, Event::Opened(Opened::new(self.attempt, credentials)));
        self.drain();
    }

    /// The connection breaks, and the next one gets to where messages flow.
    fn reconnect(&mut self) {
        let attempt = self.attempt;
        self.client.handle(self.now, Event::Lost(attempt, Loss::Io));
        self.drain();
        self.dialed_again(attempt);
    }

    /// Lets the client dial and authenticate, and answers its first ping.
    fn dialed_again(&mut self, before: Attempt) {
        self.after(Duration::from_secs(30));
        assert!(self.attempt > before, "it dials by itself");
        self.sent.clear();
        self.pings.clear();
        self.open();
        self.says(SUCCESS);
        self.pongs();
        let greeting = self.sent_kinds_of(2);
        assert_eq!(greeting, ["authentication", "heartbeat"]);
    }

    fn push(&mut self, update: Update) {
        let options = update.options();
        let body = Facilitator::encode(update).expect("it is JSON");
        self.client.push(self.now, body, options).expect("there is room");
        // While there is a link they are in flight at once, so that no specs replace others.
        self.drain();
    }

    fn says(&mut self, text: &str) {
        assert!(self.receive(text).is_none());
    }

    fn receive(&mut self, text: &str) -> Option<Order> {
        let frame = Received::Data(Body::text(text));
        let order = self.client.receive(self.now, self.attempt, frame);
        self.client.handle(self.now, Event::Tick);
        self.drain();
        order
    }

    /// Answers every ping.
    fn pongs(&mut self) {
        for ping in std::mem::take(&mut self.pings) {
            let pong = Received::Pong(ping.payload());
            assert!(self.client.receive(self.now, self.attempt, pong).is_none());
        }
        self.client.handle(self.now, Event::Tick);
        self.drain();
    }

    fn after(&mut self, time: Duration) {
        self.now = self.now + time;
        self.client.handle(self.now, Event::Tick);
        self.drain();
    }

    fn drain(&mut self) {
        loop {
            match self.client.poll(Wire::Ready) {
                Output::Dial(attempt) => self.attempt = attempt,
                Output::Send(_, Frame::Data(body)) => self.sent.push(body),
                Output::Send(_, Frame::Ping(ping)) => self.pings.push(ping),
                Output::Failed(Failed { id, reason, .. }) => {
                    self.settled.push((id.seq.get(), Some(reason)));
                }
                Output::Delivered { first, last } => {
                    self.settled.extend((first.get()..=last.get()).map(|number| (number, None)));
                }
                Output::Close(..) | Output::Abort(_) | Output::Status(_) => {}
                Output::WaitUntil(_) => break,
            }
        }
        self.client.handle(self.now, Event::Flushed(self.attempt));
    }

    /// What was settled since the last call.
    fn settled(&mut self) -> Vec<(u64, Option<FailReason>)> {
        std::mem::take(&mut self.settled)
    }

    /// What was sent since the last call.
    fn sent_kinds(&mut self) -> Vec<String> {
        self.sent_kinds_of(self.sent.len())
    }

    /// The first of these.
    fn sent_kinds_of(&mut self, count: usize) -> Vec<String> {
        let kind = |body: Body| match serde_json::from_slice(body.as_bytes()).expect("a request") {
            Request::Authenticate { .. } => "authentication".to_owned(),
            Request::Heartbeat {} => "heartbeat".to_owned(),
            Request::MachineSpecs { .. } => "specs".to_owned(),
            Request::JobStatus { status, .. } => {
                serde_json::to_value(status).unwrap().as_str().expect("a name").to_owned()
            }
        };
        self.sent.drain(..count).map(kind).collect()
    }
}
