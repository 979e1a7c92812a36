//! A trace told like a story: when what came in, what the client made of it, what went out.
//!
//! Traffic is summed up between two things that are worth a line of their own: a change of state, a
//! loss, an order about a socket, a failure, a command. So a run of a hundred thousand messages is as
//! long as it was eventful.

use std::{
    fmt::{self, Display},
    io::{self, Write},
};

use bowline_core::{
    Failed, Fate, Frame, Instant, Output, Phase, Seq, Signal, Status,
    trace::{Begin, FromDialect, Line, Outcome, Push, Scene, What},
};

/// Tells what [`replay`](bowline_core::trace::replay) shows.
#[derive(Debug)]
pub struct Story<W> {
    out: W,
    /// Everything gets a line of its own.
    all: bool,
    at: Instant,
    /// What happened since the last line, and since when.
    traffic: Traffic,
    since: Instant,
    /// Once writing has failed, nothing more is written.
    failed: Option<io::Error>,
}

impl<W: Write> Story<W> {
    /// A story that is written to `out`.
    pub fn new(out: W) -> Self {
        let (at, traffic) = (Instant::ZERO, Traffic::default());
        Self { out, all: false, at, traffic, since: at, failed: None }
    }

    /// Leaves nothing out and sums nothing up.
    pub fn with_everything(self) -> Self {
        Self { all: true, ..self }
    }

    /// Tells the next scene.
    pub fn see(&mut self, scene: Scene<'_>) {
        match scene {
            Scene::Line(line) => self.line(line),
            Scene::Output(output) => self.output(output),
        }
    }

    /// Tells what was not told yet.
    ///
    /// # Errors
    /// Of the first write that failed.
    pub fn finish(mut self) -> io::Result<()> {
        self.tell_traffic();
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.out.flush(),
        }
    }

    fn line(&mut self, line: &Line) {
        if self.all {
            self.tell_traffic();
        }
        self.at = line.at;
        let traffic = &mut self.traffic;
        match &line.what {
            What::Begin(begin) => self.begin(begin),
            What::Push(push) => traffic.push(push),
            What::Pong(..) => traffic.pongs += 1,
            What::Data(_, payload) => {
                traffic.received.add(payload.len());
                for answer in &line.dialect {
                    self.answer(answer);
                }
            }
            What::Drain(_) => {}
            What::Heard(a) => self.aside(format_args!("bytes came on connection {a}")),
            What::Took(a) => self.aside(format_args!("the socket of connection {a} took bytes")),
            What::Flushed(a) => self.aside(format_args!("connection {a} is flushed")),
            What::Tick => self.aside(format_args!("the clock is looked at")),
            What::Start => self.tell("start"),
            What::Stop => self.tell("stop"),
            What::Nudge => self.tell("nudge: the network may be back"),
            What::Cancel(seq) => self.tell(format_args!("message {seq} is cancelled")),
            What::Close(Instant::NEVER) => self.tell("close, without a deadline"),
            What::Close(deadline) => {
                self.tell(format_args!("close, by {} s", Seconds(*deadline)));
            }
            What::Opened(a) => self.tell(format_args!("connection {a} is open")),
            What::Lost(a, loss) => self.tell(format_args!("connection {a} is lost: {loss}")),
            What::Paused(a) => self.tell(format_args!("reading of connection {a} pauses")),
            What::Resumed(a) => self.tell(format_args!("connection {a} is read again")),
            What::Cut(reason) => self.tell(format_args!("the trace is cut: {reason}")),
            What::End(_) => self.tell("the end"),
        }
    }

    fn begin(&mut self, begin: &Begin) {
        let Begin { version, acks, payloads, own_verdicts, messages, .. } = begin;
        self.tell(format_args!(
            "a client of bowline {version}, with{} acks{}{}; the trace is with{} payloads",
            if *acks { "" } else { "out" },
            if *own_verdicts { ", with a table of verdicts of its own" } else { "" },
            Restored(messages.len()),
            if *payloads { "" } else { "out" },
        ));
    }

    fn answer(&mut self, answer: &FromDialect) {
        let FromDialect::Decoded { signals, inbound, reply } = answer else { return };
        self.traffic.inbound += usize::from(*inbound);
        for signal in signals {
            match signal {
                Signal::Ack(_) => self.traffic.acks += 1,
                Signal::Nack(which, nack) => {
                    self.tell(format_args!("the peer refuses {which:?}: {nack:?}"));
                }
                Signal::NackFrom(id, nack) => {
                    let seq = id.seq;
                    self.tell(format_args!("the peer refuses {seq} and all behind it: {nack:?}"));
                }
                Signal::Greeted => self.tell("the greeting is done"),
                Signal::Refused(refusal) => {
                    self.tell(format_args!("the greeting is refused: {refusal:?}"));
                }
                Signal::Violation => self.tell("a frame breaks the protocol"),
            }
        }
        if let (Some(reply), true) = (reply, self.all) {
            self.tell(format_args!("the dialect answers with {} B", reply.len()));
        }
    }

    fn output(&mut self, output: &Output) {
        match output {
            Output::Send(_, Frame::Data(body)) => self.traffic.sent.add(body.len()),
            Output::Send(_, Frame::Ping(_)) => self.traffic.pings += 1,
            Output::Delivered { first, last } => self.traffic.deliver(*first, *last),
            Output::Dial(a) => self.tell(format_args!("-> dial {a}")),
            Output::Abort(a) => self.tell(format_args!("-> abort {a}")),
            Output::Close(a, code) => self.tell(format_args!("-> close {a} with code {code}")),
            Output::Failed(Failed { id, reason, fate, body }) => {
                let (seq, bytes) = (id.seq, body.len());
                let fate = match fate {
                    Fate::NotSent => "never sent",
                    Fate::MaybeDelivered => "may have arrived",
                };
                self.tell(format_args!("-> message {seq} ({bytes} B) failed, {fate}: {reason}"));
            }
            Output::Status(status) => self.tell(Told(status)),
            Output::WaitUntil(deadline) => match deadline {
                None => self.aside(format_args!("-> wait")),
                Some(deadline) => {
                    let (at, timer) = (Seconds(deadline.at), deadline.timer);
                    self.aside(format_args!("-> wait until {at} s ({timer:?})"));
                }
            },
        }
    }

    /// A line that is only of interest if everything is.
    fn aside(&mut self, words: fmt::Arguments<'_>) {
        if self.all {
            self.tell(words);
        }
    }

    fn tell(&mut self, words: impl Display) {
        self.tell_traffic();
        self.write(self.at, words);
        self.since = self.at;
    }

    fn tell_traffic(&mut self) {
        let traffic = std::mem::take(&mut self.traffic);
        if traffic != Traffic::default() {
            self.write(self.since, traffic);
            self.since = self.at;
        }
    }

    fn write(&mut self, at: Instant, words: impl Display) {
        if self.failed.is_none() {
            self.failed = writeln!(self.out, "{:>14}  {words}", Seconds(at).to_string()).err();
        }
    }
}

/// What is summed up.
#[derive(PartialEq, Debug, Default)]
struct Traffic {
    pushed: Heap,
    refused: usize,
    displaced: usize,
    sent: Heap,
    pings: usize,
    pongs: usize,
    received: Heap,
    acks: usize,
    inbound: usize,
    /// The first and the last, and how many.
    delivered: Option<(Seq, Seq, u64)>,
}

/// How many, and their bytes.
#[derive(PartialEq, Debug, Default)]
struct Heap {
    count: usize,
    bytes: usize,
}

impl Heap {
    fn add(&mut self, bytes: usize) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

impl Traffic {
    fn push(&mut self, push: &Push) {
        match &push.outcome {
            Outcome::Taken(_) => self.pushed.add(push.body.len()),
            Outcome::Displaced(_, displaced) => {
                self.pushed.add(push.body.len());
                self.displaced += displaced.len();
            }
            Outcome::Refused(_) => self.refused += 1,
        }
    }

    fn deliver(&mut self, first: Seq, last: Seq) {
        let more = last.get().saturating_sub(first.get()).saturating_add(1);
        self.delivered = Some(match self.delivered {
            None => (first, last, more),
            Some((first, _, count)) => (first, last, count.saturating_add(more)),
        });
    }
}

impl Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let mut heap = |what, heap: &Heap| {
            if heap.count > 0 {
                parts.push(format!("{what} {} ({} B)", heap.count, heap.bytes));
            }
        };
        heap("pushed", &self.pushed);
        heap("-> sent", &self.sent);
        heap("received", &self.received);
        let counts = [
            ("pushes refused", self.refused),
            ("-> displaced", self.displaced),
            ("-> pings", self.pings),
            ("pongs", self.pongs),
            ("acks", self.acks),
            ("inbound", self.inbound),
        ];
        for (what, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            parts.push(format!("{what} {count}"));
        }
        if let Some((first, last, count)) = self.delivered {
            parts.push(format!("-> delivered {count} ({first} to {last})"));
        }
        f.write_str(&parts.join(", "))
    }
}

/// A status, as a line.
struct Told<'a>(&'a Status);

impl Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.phase, self.0.last_loss) {
            (Phase::Waiting { redial_at }, Some(loss)) => {
                write!(f, "== Waiting until {} s: {loss}", Seconds(redial_at))
            }
            (Phase::Waiting { redial_at }, None) => {
                write!(f, "== Waiting until {} s", Seconds(redial_at))
            }
            (Phase::Stopped { reason }, _) => write!(f, "== Stopped: {reason}"),
            (phase, _) => write!(f, "== {phase:?}"),
        }?;
        match self.0.suspected {
            Some(seq) => write!(f, "; message {seq} is suspected"),
            None => Ok(()),
        }
    }
}

struct Restored(usize);

impl Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            messages => write!(f, ", with {messages} messages of a snapshot"),
        }
    }
}

/// An instant, in seconds.
pub struct Seconds(pub Instant);

impl Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        write!(f, "{}.{:06}", micros / 1_000_000, micros % 1_000_000)
    }
}
