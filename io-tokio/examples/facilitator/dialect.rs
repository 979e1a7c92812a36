//! What goes over the wire between a validator and a facilitator, and the validator's [`Dialect`]
//! of it. Nothing here does I/O.
//!
//! The protocol has no numbers. A status update is answered by one [`Response`], machine specs and
//! heartbeats by none, and the first answer on a connection is that to the authentication. So the
//! acks are positional, and four rules make them safe:
//!
//! - **Only statuses are awaited.** [`Update::options`] sends them at level `Acked` and specs at
//!   `Received`, and the outbox gives positional acks to messages of level `Acked` only. What goes
//!   between two statuses takes no ack from them.
//! - **Only an answer to a status is an ack**: success, `job.not_found`, `job.integrity_error`. An
//!   error of another type says that a frame was not understood, and not which.
//! - **A repeated status is a success**: `job.integrity_error` says that the facilitator has it, so
//!   the answer to its first transmission was lost.
//! - **One status in flight.** When a handler of the facilitator fails, it logs that and answers
//!   nothing. With two statuses in flight the answer to the second would be taken for that of the
//!   first; with one, the answer is simply missing, `ack_limit` ends the connection, and the status
//!   is sent again. [`WINDOW`] is therefore 1.

use std::time::Duration;

use bowline_tokio::{
    Body, Dialect, Key, Level, Loss, PushOptions,
    core::{
        Ack, Beat, Greeting, Nack, Opened, Refusal, Sink, Verdict, VerdictLimits,
        loss::verdict as usual_verdict,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Messages in flight at once; see the [module docs](self).
pub(crate) const WINDOW: usize = 1;

/// Close code: the signature is not that of the key.
pub(crate) const CLOSE_SIGNATURE_INVALID: u16 = 3000;

/// Close code: the key is none of an active validator, or the channel was silent for too long.
pub(crate) const CLOSE_NOT_FOUND: u16 = 3001;

/// Before the next try of a validator that is not on the list. The list is renewed every five
/// minutes.
const NOT_FOUND_DELAY: Duration = Duration::from_secs(150);

/// All that a validator says. The facilitator refuses unknown fields.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "message_type", deny_unknown_fields)]
pub(crate) enum Request {
    /// The first frame of a connection.
    #[serde(rename = "V0AuthenticationRequest")]
    Authenticate {
        /// Hexadecimal, without a prefix.
        public_key: String,
        /// Of the key's bytes, by the key. Hexadecimal, with the prefix `0x`.
        signature: String,
    },
    #[serde(rename = "V0Heartbeat")]
    Heartbeat {},
    #[serde(rename = "V0MachineSpecsUpdate")]
    MachineSpecs {
        miner_hotkey: String,
        validator_hotkey: String,
        specs: Map<String, Value>,
        batch_id: String,
    },
    #[serde(rename = "V0JobStatusUpdate")]
    JobStatus { uuid: String, status: Status, metadata: Option<Metadata> },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Sent,
    Received,
    Accepted,
    ExecutorReady,
    StreamingReady,
    VolumesReady,
    ExecutionDone,
    Completed,
    Rejected,
    Failed,
    HordeFailed,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Metadata {
    pub(crate) comment: String,
}

/// The facilitator's answer to an authentication and to a status update, and to whatever it does
/// not understand.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Response {
    pub(crate) status: Outcome,
    #[serde(default)]
    pub(crate) errors: Vec<Error>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Success,
    Error,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Error {
    pub(crate) msg: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) help: Option<String>,
}

/// What the facilitator says of its own accord. Unknown fields are left alone.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(tag = "message_type")]
pub(crate) enum Order {
    V2JobRequest(Box<JobRequest>),
    V0JobCheated(JobCheated),
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct JobRequest {
    pub(crate) uuid: String,
    pub(crate) job_namespace: Option<String>,
    pub(crate) executor_class: String,
    pub(crate) docker_image: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: Map<String, Value>,
    pub(crate) use_gpu: bool,
    pub(crate) volume: Option<Value>,
    pub(crate) output_upload: Option<Value>,
    pub(crate) artifacts_dir: Option<String>,
    pub(crate) on_trusted_miner: bool,
    pub(crate) download_time_limit: u64,
    pub(crate) execution_time_limit: u64,
    pub(crate) upload_time_limit: u64,
    pub(crate) streaming_start_time_limit: u64,
    pub(crate) streaming_details: Option<Value>,
    pub(crate) signature: Option<JobSignature>,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct JobCheated {
    pub(crate) job_uuid: String,
    pub(crate) trusted_job_uuid: String,
    pub(crate) details: Option<Value>,
    pub(crate) signature: Option<JobSignature>,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub(crate) struct JobSignature {
    pub(crate) signature_type: String,
    pub(crate) signatory: String,
    pub(crate) timestamp_ns: u64,
    pub(crate) signature: String,
    pub(crate) signature_scope: String,
}

/// A frame of the facilitator.
#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Response(Response),
    Order(Order),
}

/// What a validator queues. The other two requests cannot be queued: the authentication is the
/// greeting, and a heartbeat is sent when it is due or not at all.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Update {
    JobStatus {
        uuid: String,
        status: Status,
        metadata: Option<Metadata>,
    },
    MachineSpecs {
        miner_hotkey: String,
        validator_hotkey: String,
        specs: Map<String, Value>,
        batch_id: String,
    },
}

impl Update {
    /// How it wants to be delivered: a status when the facilitator says that it has it; specs when
    /// they are received, and newer ones of a miner instead of older ones that are still queued.
    pub(crate) fn options(&self) -> PushOptions {
        match self {
            Self::JobStatus { .. } => {
                PushOptions { level: Some(Level::Acked), ..PushOptions::default() }
            }
            Self::MachineSpecs { miner_hotkey, .. } => PushOptions {
                level: Some(Level::Received),
                key: Some(Key::from(&*format!("specs {miner_hotkey}"))),
                ..PushOptions::default()
            },
        }
    }
}

impl From<Update> for Request {
    fn from(update: Update) -> Self {
        match update {
            Update::JobStatus { uuid, status, metadata } => {
                Self::JobStatus { uuid, status, metadata }
            }
            Update::MachineSpecs { miner_hotkey, validator_hotkey, specs, batch_id } => {
                Self::MachineSpecs { miner_hotkey, validator_hotkey, specs, batch_id }
            }
        }
    }
}

/// Who a validator is, signed afresh for each attempt. No `Debug`: it is a secret.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) public_key: String,
    pub(crate) signature: String,
}

/// The validator's side of the protocol.
#[derive(Clone, Debug)]
pub(crate) struct Facilitator {
    heartbeat_interval: Duration,
    /// The authentication of this connection was answered.
    authenticated: bool,
}

impl Facilitator {
    /// With this time from one heartbeat to the next: a minute, in production.
    pub(crate) fn new(heartbeat_interval: Duration) -> Self {
        Self { heartbeat_interval, authenticated: false }
    }
}

impl Dialect for Facilitator {
    type Message = Update;
    type Inbound = Order;
    type Credentials = Credentials;
    type Error = serde_json::Error;

    const ACKS: bool = true;

    fn encode(message: Update) -> Result<Body, (Update, serde_json::Error)> {
        match serde_json::to_string(&Request::from(message.clone())) {
            Ok(text) => Ok(Body::text(text)),
            Err(error) => Err((message, error)),
        }
    }

    fn greet(&mut self, opened: &Opened<Credentials>) -> Greeting {
        self.authenticated = false;
        let Credentials { public_key, signature } = opened.credentials.clone();
        let request = Request::Authenticate { public_key, signature };
        Greeting { frames: vec![text(&request)], awaits_answer: true }
    }

    fn decode(&mut self, body: Body, sink: &mut Sink<Order>) {
        match serde_json::from_slice(body.as_bytes()) {
            Ok(Said::Response(response)) if self.authenticated => answered(&response, sink),
            Ok(Said::Response(response)) => {
                self.authenticated = greeted(&response, sink);
            }
            Ok(Said::Order(order)) => {
                // A fresh sink is empty, so this cannot be refused.
                let _ = sink.inbound(order);
            }
            Err(_) => sink.violation(),
        }
    }

    fn beat(&mut self) -> Option<Beat> {
        let body = text(&Request::Heartbeat {});
        Some(Beat { interval: self.heartbeat_interval, body })
    }
}

fn text(request: &Request) -> Body {
    Body::text(serde_json::to_string(request).expect("it has string keys only"))
}

/// The answer to the authentication; says whether it succeeded.
fn greeted(response: &Response, sink: &mut Sink<Order>) -> bool {
    match kind(response) {
        None => sink.greeted(),
        Some("auth.signature_invalid") => sink.refused(Refusal::Fatal),
        Some("auth.validator_not_found") => sink.refused(Refusal::RetryAfter(NOT_FOUND_DELAY)),
        Some(_) => sink.refused(Refusal::Retry),
    }
    response.status == Outcome::Success
}

/// An answer after that.
fn answered(response: &Response, sink: &mut Sink<Order>) {
    match kind(response) {
        None | Some("job.integrity_error") => sink.ack(Ack::Next),
        Some("job.not_found") => sink.nack(Ack::Next, Nack::Permanent),
        // It does not know any more who we are, so all that is sent from here on is for nothing.
        Some(kind) if kind.starts_with("auth.") => sink.refused(Refusal::Retry),
        Some(_) => sink.violation(),
    }
}

/// What kind of error a response is, if it is one.
fn kind(response: &Response) -> Option<&str> {
    match response.status {
        Outcome::Success => None,
        Outcome::Error => Some(response.errors.first().map_or("", |error| &error.kind)),
    }
}

/// The usual table, and the protocol's own close codes. A channel may be closed with 3001 without
/// a word before it.
pub(crate) fn verdict(loss: Loss, limits: VerdictLimits) -> Verdict {
    match loss {
        Loss::Closed { code: Some(CLOSE_SIGNATURE_INVALID) } => Verdict::Fatal,
        Loss::Closed { code: Some(CLOSE_NOT_FOUND) } => {
            usual_verdict(Loss::Refused(Refusal::RetryAfter(NOT_FOUND_DELAY)), limits)
        }
        _ => usual_verdict(loss, limits),
    }
}
