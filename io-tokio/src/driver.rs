//! The driver: one future that moves bytes and time between the core, a socket and the handles.
//!
//! A **turn** does each thing once, in this order: leave news on the desk and take what handles
//! left there; look after the dial; read; tell the time; do what the core owes; flush. As long as
//! a turn has moved something, another follows; when one moves nothing, everything that can wake
//! the driver has been asked to, and it sleeps. Reading comes before the time is told, so what the
//! peer said is heard before a verdict falls; it is bounded, so that writing is not starved, and
//! so is writing.
//!
//! Batching comes from load by itself: frames are fed while the transport is ready and flushed
//! once, so a lone message leaves at once and many leave together.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bowline_core::{
    Amount, Attempt, Dialect, Event, FailReason, Fate, Frame, Instant, Loss, MessageId, Opened,
    Output, Phase, Received, Seq, Snapshot, Status, Wire, outbox::SavedMessage,
};
use tokio::{sync::watch, time::Sleep};

use crate::{
    Stats,
    builder::{Dial, Dialing},
    connect::Connection,
    desk::{Command, Desk, Entry, Failure, FailureReason, Halt, News, Taken},
    inbound::Inbox,
    trace::Machine,
    transport::{Incoming, Transport},
};

/// Frames and bytes that are read, or fed, before the other direction gets its turn.
const MAX_FRAMES: usize = 256;
const MAX_BYTES: usize = 64 << 10;
/// Room for messages on their way from the handles that is kept while there are none: somewhat more
/// than a producer leaves before it takes a breath.
const MAX_KEPT: usize = 1024;
/// Turns before other tasks of the runtime get theirs.
const MAX_TURNS: u32 = 32;

const RETURNED: FailureReason = FailureReason::Settled(FailReason::Returned);

/// The future that drives a client; [`Builder::start`](crate::Builder::start) spawns it, whoever
/// calls [`Builder::build`](crate::Builder::build) does so himself. It is done when the client is
/// closed. Dropping it before disconnects at once and reports what was left to the handles.
#[must_use = "a client does nothing unless its driver is spawned or awaited"]
pub struct Driver<D>
where
    D: Dialect,
    D::Credentials: Send + 'static,
{
    client: Machine<D>,
    desk: Arc<Desk>,
    inbox: Arc<Inbox<D::Inbound>>,
    status: watch::Sender<Status>,
    dial: Dial<D::Credentials>,
    stall_limit: Duration,
    drop_limit: Duration,

    epoch: tokio::time::Instant,
    now: Instant,
    sleep: Pin<Box<Sleep>>,
    /// When the timer will fire; none if it has or was never set.
    armed: Option<tokio::time::Instant>,

    dialing: Option<(Attempt, Dialing<D::Credentials>)>,
    socket: Option<Socket>,

    taken: Taken,
    /// Taken from the desk, but the outbox has no room yet: with eviction, room may be gone again
    /// when what was to be evicted is transmitted.
    backlog: VecDeque<Entry>,
    failures: Vec<Failure>,
    /// Coalesced messages: the number that a sender got, and the place that its message has.
    place_of: BTreeMap<Seq, Seq>,
    /// And back: the newest number of each such place.
    number_of: BTreeMap<Seq, Seq>,
    /// Numbers of messages in the backlog that are to be cancelled once they have a place.
    unwanted: BTreeSet<Seq>,
    /// By when it must be over, once the client is being closed. The outbox is told when there is
    /// no backlog any more.
    closing: Option<Instant>,
    /// Messages that were handed back because the client ended.
    returned: usize,
    /// Of these, those that never had a place in the outbox.
    unplaced: u64,
    /// Since when inbound messages are not taken.
    full_since: Option<Instant>,
    /// Turns since the core was told the time.
    unticked: u32,
    polls: u64,
    done: bool,
}

/// An open transport.
struct Socket {
    attempt: Attempt,
    transport: Box<dyn Transport>,
    read: u64,
    taken: u64,
    /// Something was fed since the last complete flush.
    unflushed: bool,
    /// Writing failed; what the peer said before is still read.
    broken: Option<Loss>,
    paused: bool,
}

impl<D> Driver<D>
where
    D: Dialect,
    D::Credentials: Send + 'static,
{
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        client: Machine<D>,
        desk: Arc<Desk>,
        inbox: Arc<Inbox<D::Inbound>>,
        status: watch::Sender<Status>,
        dial: Dial<D::Credentials>,
        epoch: tokio::time::Instant,
        stall_limit: Duration,
        drop_limit: Duration,
    ) -> Self {
        Self {
            client,
            desk,
            inbox,
            status,
            dial,
            stall_limit,
            drop_limit,
            epoch,
            now: Instant::ZERO,
            sleep: Box::pin(tokio::time::sleep_until(epoch)),
            armed: None,
            dialing: None,
            socket: None,
            taken: Taken::default(),
            backlog: VecDeque::new(),
            failures: Vec::new(),
            place_of: BTreeMap::new(),
            number_of: BTreeMap::new(),
            unwanted: BTreeSet::new(),
            closing: None,
            returned: 0,
            unplaced: 0,
            full_since: None,
            unticked: 0,
            polls: 0,
            done: false,
        }
    }

    fn clock(&self) -> Instant {
        self.core_time(tokio::time::Instant::now())
    }

    fn core_time(&self, at: tokio::time::Instant) -> Instant {
        let since = at.saturating_duration_since(self.epoch).as_micros();
        Instant::from_micros(u64::try_from(since).unwrap_or(u64::MAX))
    }

    /// Does everything once; says whether anything moved. `idle` says that the last turn moved
    /// nothing, so that the driver is about to sleep.
    fn turn(&mut self, cx: &mut Context<'_>, idle: bool) -> bool {
        self.now = self.clock();
        let mut moved = self.exchange(cx, idle);
        moved |= self.poll_dial(cx);
        let (read, more) = self.poll_read(cx);
        moved |= read;
        self.unticked = if more { self.unticked + 1 } else { MAX_TURNS };
        if self.unticked >= MAX_TURNS {
            // With this much read in a row, the peer sends faster than can be read: deadlines must
            // not wait for the end of it.
            self.unticked = 0;
            self.client.handle(self.now, Event::Tick);
        }
        self.watch_inbound();
        self.watch_close();
        moved |= self.drain(cx);
        moved |= self.poll_flush(cx);
        // A write that failed does not wake the reader, which has to find out what the peer said.
        moved | self.socket.as_ref().is_some_and(|socket| socket.broken.is_some())
    }

    // ---- The desk -----------------------------------------------------------------------------

    fn exchange(&mut self, cx: &mut Context<'_>, idle: bool) -> bool {
        let waiting = self.backlog.iter().fold(Amount::default(), |sum, entry| Amount {
            messages: sum.messages + 1,
            bytes: sum.bytes + entry.size(),
        });
        let halt = self.halt();
        let outbox = self.client.outbox();
        let room = outbox.room();
        let news = News {
            failures: &mut self.failures,
            watermark: outbox.watermark(),
            room: Amount {
                messages: room.messages.saturating_sub(waiting.messages),
                bytes: room.bytes.saturating_sub(waiting.bytes),
            },
            halt,
            stats: Stats {
                client: self.client.stats(),
                backlog: waiting.messages,
                polls: self.polls,
            },
        };
        let watermark = news.watermark;
        let unawaited = self.desk.exchange(news, &mut self.taken, idle.then_some(cx.waker()));
        crate::log::unawaited(unawaited);
        while self.number_of.first_key_value().is_some_and(|(&place, _)| place < watermark) {
            if let Some((_, number)) = self.number_of.pop_first() {
                self.place_of.remove(&number);
            }
        }

        let mut moved = !self.taken.batch.is_empty() || !self.taken.commands.is_empty();
        if self.backlog.is_empty() {
            std::mem::swap(&mut self.backlog, &mut self.taken.batch);
        } else {
            self.backlog.append(&mut self.taken.batch);
        }
        moved |= self.push_backlog();
        if idle && self.taken.batch.capacity() > MAX_FRAMES {
            // The vector that is not on the desk; the other one comes back with the next exchange.
            self.taken.batch = VecDeque::new();
        }
        let mut commands = std::mem::take(&mut self.taken.commands);
        for command in commands.drain(..) {
            self.command(command);
        }
        self.taken.commands = commands;
        if self.taken.abandoned && self.closing.is_none() {
            moved = true;
            self.close(self.now + self.drop_limit);
        }
        moved
    }

    /// Pushes what handles left, in its order.
    fn push_backlog(&mut self) -> bool {
        let mut moved = false;
        while let Some(Entry { body, options }) = self.backlog.pop_front() {
            let number = self.client.outbox().next_seq();
            match self.client.push(self.now, body, options) {
                Ok(pushed) => {
                    moved = true;
                    for displaced in pushed.displaced {
                        let reason = if displaced.coalesced {
                            FailureReason::Replaced
                        } else {
                            FailureReason::Evicted
                        };
                        self.fail(displaced.seq, reason, Fate::NotSent, displaced.body);
                    }
                    if pushed.seq != number {
                        self.number_of.insert(pushed.seq, number);
                        self.place_of.insert(number, pushed.seq);
                    }
                    if self.unwanted.remove(&number) {
                        self.cancel(number);
                    }
                }
                // The desk has checked all else, and the outbox is closed only after this.
                Err(refused) => {
                    self.backlog.push_front(Entry { body: refused.body, options: refused.options });
                    break;
                }
            }
        }
        if self.backlog.is_empty() && self.backlog.capacity() > MAX_KEPT {
            self.backlog = VecDeque::new();
        }
        moved
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Start => self.client.handle(self.now, Event::Start),
            Command::Nudge => self.client.handle(self.now, Event::Nudge),
            Command::Cancel(number) => self.cancel(number),
            Command::Close(deadline) => self.close(self.core_time(deadline)),
            Command::Snapshot(reply) => {
                // Whoever asked may have gone.
                let _ = reply.send(self.snapshot());
            }
        }
    }

    fn cancel(&mut self, number: Seq) {
        let outbox = self.client.outbox();
        if number >= outbox.next_seq() {
            if number.get() - outbox.next_seq().get() < self.backlog.len() as u64 {
                self.unwanted.insert(number);
            }
            return;
        }
        let seq = self.place_of.get(&number).copied().unwrap_or(number);
        // The number of a message that was replaced is not the message in its place.
        if self.number_of.get(&seq).is_none_or(|&newest| newest == number) {
            self.client.handle(self.now, Event::Cancel(seq));
        }
    }

    /// All that is not settled: what the outbox holds, and behind it what has no place yet.
    fn snapshot(&self) -> Snapshot {
        let outbox = self.client.outbox();
        let mut snapshot = outbox.snapshot();
        for Entry { body, options } in &self.backlog {
            snapshot.messages.push(SavedMessage {
                id: MessageId { outbox: outbox.id(), seq: snapshot.next_seq },
                body: Some(body.clone()),
                level: options.level.unwrap_or(outbox.config().level),
                ttl: options.ttl,
                key: options.key.clone(),
                outcome: None,
            });
            snapshot.next_seq = Seq::new(snapshot.next_seq.get() + 1);
        }
        snapshot
    }

    // ---- Closing ------------------------------------------------------------------------------

    fn close(&mut self, deadline: Instant) {
        self.closing = Some(self.closing.map_or(deadline, |before| before.min(deadline)));
        if self.backlog.is_empty() {
            self.client.handle(self.now, Event::Close { deadline });
        }
    }

    /// Goes on with a close that waits for something. What it hands back is reported in this turn:
    /// before the next one tells the handles that everything is settled.
    fn watch_close(&mut self) {
        let Some(deadline) = self.closing else { return };
        // Nothing will be delivered any more, so there is no use in waiting for the deadline.
        let deadline = if self.is_stopped() { self.now } else { deadline };
        if deadline.has_passed(self.now) {
            self.return_backlog();
        }
        let outbox = self.client.outbox();
        let told = if self.is_stopped() { outbox.is_settled() } else { outbox.is_closed() };
        if self.backlog.is_empty() && !told {
            self.client.handle(self.now, Event::Close { deadline });
        }
    }

    /// Hands back what never had a place in the outbox.
    fn return_backlog(&mut self) {
        while let Some(Entry { body, .. }) = self.backlog.pop_front() {
            let seq = Seq::new(self.client.outbox().next_seq().get() + self.unplaced);
            self.unplaced += 1;
            self.fail(seq, RETURNED, Fate::NotSent, body);
        }
    }

    fn is_stopped(&self) -> bool {
        matches!(self.client.status().phase, Phase::Stopped { .. })
    }

    /// A message failed: it is reported under the number that its sender has.
    fn fail(&mut self, place: Seq, reason: FailureReason, fate: Fate, body: bowline_core::Body) {
        self.returned += usize::from(reason == RETURNED);
        let number = self.number_of.remove(&place);
        if let Some(number) = number {
            self.place_of.remove(&number);
        }
        let seq = number.unwrap_or(place);
        self.failures.push(Failure { seq, reason, fate, body });
    }

    /// The status, with the suspected message under the number that its sender has.
    fn named(&self, status: Status) -> Status {
        let number = |place| self.number_of.get(&place).copied().unwrap_or(place);
        Status { suspected: status.suspected.map(number), ..status }
    }

    fn halt(&self) -> Halt {
        if let Phase::Stopped { reason } = self.client.status().phase {
            return Halt::Stopped(reason);
        }
        // A slow consumer may have made room, but not enough of it for the driver to be woken.
        let stalled = self.full_since.is_some_and(|since| (since + self.stall_limit) <= self.now)
            && self.inbox.is_full();
        if stalled { Halt::Stalled } else { Halt::None }
    }

    // ---- The dial -----------------------------------------------------------------------------

    fn poll_dial(&mut self, cx: &mut Context<'_>) -> bool {
        let Some((attempt, future)) = &mut self.dialing else { return false };
        let attempt = *attempt;
        let Poll::Ready(outcome) = future.as_mut().poll(cx) else { return false };
        self.dialing = None;
        match outcome {
            Ok((connection, credentials)) => {
                let Connection { transport, subprotocol, headers } = connection;
                self.socket = Some(Socket {
                    attempt,
                    read: transport.bytes_read(),
                    taken: transport.bytes_taken(),
                    transport,
                    unflushed: false,
                    broken: None,
                    paused: false,
                });
                let opened = Opened { attempt, subprotocol, headers, credentials };
                self.client.handle(self.now, Event::Opened(opened));
            }
            Err(loss) => self.client.handle(self.now, Event::Lost(attempt, loss)),
        }
        true
    }

    // ---- Reading ------------------------------------------------------------------------------

    /// Reads what there is, within bounds: whether anything came, and whether there may be more.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> (bool, bool) {
        let Some(socket) = &mut self.socket else { return (false, false) };
        let attempt = socket.attempt;
        let (mut frames, mut bytes, mut moved) = (0, 0, false);
        let mut lost = None;
        let mut room = self.inbox.room(cx.waker()) > 0 || self.closing.is_some();
        let mut more = room;
        while room && frames < MAX_FRAMES && bytes < MAX_BYTES {
            match socket.transport.poll_receive(cx) {
                Poll::Pending => {
                    more = false;
                    lost = socket.broken;
                    break;
                }
                Poll::Ready(Err(loss)) => {
                    lost = Some(loss);
                    break;
                }
                Poll::Ready(Ok(Incoming::Close(code))) => {
                    // The answer goes out if the socket takes it now; the peer ends the rest.
                    let _ = socket.transport.poll_flush(cx);
                    lost = Some(Loss::Closed { code });
                    break;
                }
                Poll::Ready(Ok(Incoming::Ping)) => frames += 1,
                Poll::Ready(Ok(Incoming::Pong(payload))) => {
                    frames += 1;
                    let received = Received::Pong(payload);
                    let _ = self.client.receive(self.now, attempt, received);
                }
                Poll::Ready(Ok(Incoming::Data(body))) => {
                    frames += 1;
                    bytes += body.len();
                    let size = body.len();
                    let received = Received::Data(body);
                    if let Some(message) = self.client.receive(self.now, attempt, received) {
                        room = self.inbox.put(message, size, self.closing.is_some());
                        // There was room for it, so the consumer is not stalled.
                        self.full_since = None;
                    }
                }
            }
            moved = true;
        }
        if !room {
            // Asks to be woken, or finds that there is room again.
            room = self.inbox.room(cx.waker()) > 0;
            more = room;
            // Room that came just now wakes nobody, so there has to be another turn.
            moved |= room;
            // What is written into a socket that is not read can still show that it is broken.
            lost = lost.or(socket.broken.filter(|_| !room));
        }

        let read = socket.transport.bytes_read();
        if read != socket.read {
            socket.read = read;
            moved = true;
            self.client.handle(self.now, Event::Heard(attempt));
        }
        if let Some(loss) = lost {
            self.socket = None;
            self.client.handle(self.now, Event::Lost(attempt, loss));
            return (true, false);
        }
        if room == socket.paused {
            socket.paused = !room;
            let event = if room { Event::Resumed(attempt) } else { Event::Paused(attempt) };
            self.client.handle(self.now, event);
        }
        (moved, more)
    }

    /// Measures how long inbound messages have not been taken.
    fn watch_inbound(&mut self) {
        let full = self.socket.as_ref().is_some_and(|socket| socket.paused);
        self.full_since = full.then(|| self.full_since.unwrap_or(self.now));
    }

    // ---- What the core owes -------------------------------------------------------------------

    fn drain(&mut self, cx: &mut Context<'_>) -> bool {
        let (mut frames, mut bytes, mut moved) = (0, 0, false);
        loop {
            let full = frames >= MAX_FRAMES || bytes >= MAX_BYTES;
            let wire = match &mut self.socket {
                Some(socket) if !full && socket.broken.is_none() => socket.wire(cx),
                Some(_) | None => Wire::Blocked,
            };
            match self.client.poll(wire) {
                Output::WaitUntil(_) => return moved,
                Output::Send(_, frame) => {
                    frames += 1;
                    bytes += frame.payload_len();
                    if let Some(socket) = &mut self.socket {
                        socket.send(frame);
                    }
                }
                Output::Dial(attempt) => {
                    self.socket = None;
                    let last_loss = self.client.status().last_loss;
                    self.dialing = Some((attempt, self.dial.start(attempt, last_loss)));
                }
                Output::Abort(_) => {
                    self.socket = None;
                    self.dialing = None;
                }
                Output::Close(_, code) => {
                    if let Some(socket) = &mut self.socket {
                        socket.close(code);
                    }
                }
                Output::Delivered { .. } => {}
                Output::Failed(failed) => {
                    let reason = FailureReason::Settled(failed.reason);
                    self.fail(failed.id.seq, reason, failed.fate, failed.body);
                }
                Output::Status(status) => {
                    let status = self.named(status);
                    crate::log::status(&self.status.borrow(), &status);
                    self.status.send_replace(status);
                }
            }
            moved = true;
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(socket) = &mut self.socket else { return false };
        if socket.broken.is_some() {
            return false;
        }
        let attempt = socket.attempt;
        let flushed = match socket.transport.poll_flush(cx) {
            Poll::Ready(Ok(())) => std::mem::take(&mut socket.unflushed),
            Poll::Ready(Err(loss)) => {
                socket.broken = Some(loss);
                return true;
            }
            Poll::Pending => false,
        };
        let taken = socket.transport.bytes_taken();
        if taken != socket.taken {
            socket.taken = taken;
            self.client.handle(self.now, Event::Took(attempt));
        }
        if flushed {
            self.client.handle(self.now, Event::Flushed(attempt));
        }
        flushed
    }

    // ---- Sleeping -----------------------------------------------------------------------------

    /// Sets the timer if it would fire too late; says whether it has fired.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let stalled_at = self.full_since.map(|since| since + self.stall_limit);
        let deadline = [
            self.client.deadline().map(|deadline| deadline.at),
            stalled_at.filter(|&at| at > self.now),
            self.closing.filter(|_| !self.backlog.is_empty()),
        ];
        let deadline = deadline.into_iter().flatten().min();
        let Some(deadline) = deadline else { return false };
        let at = self.epoch + Duration::from_micros(deadline.as_micros());
        if self.armed.is_none_or(|armed| at < armed) {
            self.sleep.as_mut().reset(at);
            self.armed = Some(at);
        }
        if self.sleep.as_mut().poll(cx).is_ready() {
            // Perhaps for a deadline that has moved since: the clock will tell.
            self.armed = None;
            return true;
        }
        false
    }

    /// Whether nothing is left to do, ever.
    fn is_over(&self) -> bool {
        self.client.is_over() && self.backlog.is_empty()
    }

    /// Leaves the last news.
    fn leave(&mut self, halt: Halt) {
        self.done = true;
        self.socket = None;
        self.dialing = None;
        crate::log::end(self.returned);
        let end = self.client.outbox().next_seq().get() + self.unplaced;
        let news = News {
            failures: &mut self.failures,
            watermark: Seq::new(end),
            room: Amount::default(),
            halt,
            stats: Stats { client: self.client.stats(), backlog: 0, polls: self.polls },
        };
        self.desk.exchange(news, &mut self.taken, None);
        // Whoever waits for the answer to a command that came too late is told so now.
        self.taken = Taken::default();
        self.inbox.end();
        crate::trace::finish(&mut self.client);
        self.status.send_replace(self.named(self.client.status()));
    }
}

impl Socket {
    fn wire(&mut self, cx: &mut Context<'_>) -> Wire {
        match self.transport.poll_ready(cx) {
            Poll::Ready(Ok(())) => Wire::Ready,
            Poll::Ready(Err(loss)) => {
                self.broken = Some(loss);
                Wire::Blocked
            }
            Poll::Pending => Wire::Blocked,
        }
    }

    fn send(&mut self, frame: Frame) {
        self.unflushed = true;
        if let Err(loss) = self.transport.start_send(frame) {
            self.broken = Some(loss);
        }
    }

    fn close(&mut self, code: u16) {
        self.unflushed = true;
        if let Err(loss) = self.transport.start_close(code) {
            self.broken = Some(loss);
        }
    }
}

// Nothing in it is pinned in place: futures are boxed.
impl<D> Unpin for Driver<D>
where
    D: Dialect,
    D::Credentials: Send + 'static,
{
}

impl<D> Future for Driver<D>
where
    D: Dialect,
    D::Credentials: Send + 'static,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.done {
            return Poll::Ready(());
        }
        this.polls += 1;
        let mut idle = false;
        for _ in 0..MAX_TURNS {
            let moved = this.turn(cx, idle);
            if this.is_over() {
                this.leave(Halt::Done);
                return Poll::Ready(());
            }
            if !moved && idle && !this.poll_timer(cx) {
                return Poll::Pending;
            }
            idle = !moved;
        }
        // There is more to do, but others want to run too.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<D> Drop for Driver<D>
where
    D: Dialect,
    D::Credentials: Send + 'static,
{
    /// Gives an outcome to everything that has none.
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let now = self.now;
        // What is on the desk comes too. Nobody is told before everything has its outcome.
        self.desk.shut(&mut self.taken);
        self.backlog.extend(self.taken.batch.drain(..));
        self.push_backlog();
        self.return_backlog();
        self.client.handle(now, Event::Close { deadline: now });
        loop {
            match self.client.poll(Wire::Blocked) {
                Output::Failed(failed) => {
                    let reason = FailureReason::Settled(failed.reason);
                    self.fail(failed.id.seq, reason, failed.fate, failed.body);
                }
                Output::WaitUntil(_) => break,
                Output::Dial(_)
                | Output::Send(..)
                | Output::Close(..)
                | Output::Abort(_)
                | Output::Delivered { .. }
                | Output::Status(_) => {}
            }
        }
        self.leave(Halt::Gone);
    }
}

impl<D> std::fmt::Debug for Driver<D>
where
    D: Dialect,
    D::Credentials: Send + 'static,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("status", &self.client.status()).finish_non_exhaustive()
    }
}
