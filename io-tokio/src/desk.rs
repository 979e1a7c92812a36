//! The desk between the handles and the driver: one short mutex.
//!
//! A handle leaves encoded messages here and takes a number for each; the driver takes them all at
//! once by swapping the vector, and leaves room, the watermark and failures. Nobody encodes, does
//! I/O or wakes anyone while holding the lock.
//!
//! Numbers are the outbox's own: the n-th message accepted here is the n-th push there, so a
//! receipt is nothing but a number, and waiting for one is waiting for the watermark to pass it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bowline_core::{Amount, Body, FailReason, Fate, Level, PushOptions, Seq, Snapshot, StopReason};
use tokio::sync::oneshot;

use crate::Stats;

/// Why a message was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendRefused {
    /// It is larger than one may be.
    #[error("the message has {size} bytes with its key, the limit is {limit} (max_message_bytes)")]
    TooLarge {
        /// Its bytes, key included.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The transport or the dialect cannot do what its level needs.
    #[error(
        "level {0:?} is not to be had here: Received needs pings, Acked needs a dialect with acks"
    )]
    Level(Level),
    /// There is no room. Only `try_send` says so, the others wait.
    #[error("the outbox is full; use send, which waits for room, or allow it to hold more")]
    Full,
    /// The client is being closed, or is.
    #[error("the client is closed")]
    Closed,
    /// See [`WaitError`].
    #[error(transparent)]
    Wait(#[from] WaitError),
}

/// Why waiting was ended: what was waited for cannot come now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The client does not connect any more. Messages stay queued: `start` goes on with them,
    /// `close` hands them back.
    #[error("the client is stopped: {0}")]
    Stopped(StopReason),
    /// Inbound messages fill their buffer and nobody takes them, so acks are not read either.
    #[error(
        "inbound messages are not taken and block the acks behind them; read the inbound half in \
         another task, or drop it"
    )]
    Stalled,
    /// The driver was dropped before it was done: its task was aborted, or its runtime ended.
    #[error("the driver is gone: its task was aborted or its runtime ended")]
    Gone,
}

/// A message that failed, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The number that its receipt had.
    pub seq: Seq,
    /// Why it failed.
    pub reason: FailureReason,
    /// Whether it may have arrived.
    pub fate: Fate,
    /// The message, as it was encoded.
    pub body: Body,
}

/// Why a message failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FailureReason {
    /// The outbox settled it.
    #[error(transparent)]
    Settled(#[from] FailReason),
    /// A newer message with the same key took its place.
    #[error("a newer message of its key took its place")]
    Replaced,
    /// It had to make room for newer messages.
    #[error("it was evicted for newer messages")]
    Evicted,
}

/// Why there is no receipt.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// The message failed, and here it is.
    #[error("message {} failed: {}", .0.seq, .0.reason)]
    Failed(Failure),
    /// The message failed, and a report of `flush` or `close` has handed it out.
    #[error("message {0} failed, and a report has handed it out")]
    Reported(Seq),
    /// What became of the message was not kept until somebody asked.
    #[error("what became of message {0} was not kept; await receipts sooner, or call flush")]
    Forgotten(Seq),
    /// See [`WaitError`]. The message is not settled, and may be awaited again.
    #[error(transparent)]
    Wait(#[from] WaitError),
}

/// A message on its way to the driver.
pub(crate) struct Entry {
    pub(crate) body: Body,
    pub(crate) options: PushOptions,
}

impl Entry {
    pub(crate) fn size(&self) -> usize {
        self.body.len() + self.options.key.as_ref().map_or(0, bowline_core::Key::len)
    }
}

/// What a handle asks of the driver, besides sending.
pub(crate) enum Command {
    Start,
    Nudge,
    Cancel(Seq),
    Close(tokio::time::Instant),
    Snapshot(oneshot::Sender<Snapshot>),
}

/// Why everybody who waits is sent away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Halt {
    /// Nobody is.
    None,
    Stalled,
    Stopped(StopReason),
    /// The driver was dropped before it was done.
    Gone,
    /// The driver is done.
    Done,
}

/// What the handles may know without the driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) max_message_bytes: usize,
    pub(crate) max_kept: Amount,
    pub(crate) can_ping: bool,
    pub(crate) can_ack: bool,
}

/// Who waits for which message, told apart by ticket.
type Waiters = BTreeMap<(Seq, u64), Waker>;

pub(crate) struct Desk {
    pub(crate) rules: Rules,
    state: Mutex<State>,
}

pub(crate) struct State {
    // ---- From the handles to the driver.
    batch: VecDeque<Entry>,
    batch_size: Amount,
    commands: Vec<Command>,
    /// The number of the next message.
    next: Seq,
    /// Set aside for permits.
    reserved: Amount,
    closing: bool,
    /// The driver is being dropped: it has taken what there was, and will take no more.
    shut: bool,
    /// The driver, while it sleeps.
    driver: Option<Waker>,
    /// Handles and the inbound half.
    holders: usize,

    // ---- From the driver to the handles.
    room: Amount,
    watermark: Seq,
    halt: Halt,
    failures: Failures,
    stats: Stats,

    // ---- Who waits.
    /// For room, in the order in which they came.
    producers: VecDeque<(u64, Waker)>,
    /// For the settlement of one message.
    receipts: Waiters,
    /// For the settlement of a message and of all before it, or for the end.
    flushes: Waiters,
    next_waiter: u64,
}

impl Desk {
    pub(crate) fn new(rules: Rules, next: Seq, watermark: Seq, room: Amount) -> Self {
        Self {
            rules,
            state: Mutex::new(State {
                batch: VecDeque::new(),
                batch_size: Amount::default(),
                commands: Vec::new(),
                next,
                reserved: Amount::default(),
                closing: false,
                shut: false,
                driver: None,
                holders: 0,
                room,
                watermark,
                halt: Halt::None,
                failures: Failures::default(),
                stats: Stats::default(),
                producers: VecDeque::new(),
                receipts: Waiters::new(),
                flushes: Waiters::new(),
                next_waiter: 0,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- For handles: pushing -----------------------------------------------------------------

    /// Whether a message may ever be taken.
    pub(crate) fn admit(&self, entry: &Entry, level: Level) -> Result<(), SendRefused> {
        let (size, limit) = (entry.size(), self.rules.max_message_bytes);
        if size > limit {
            return Err(SendRefused::TooLarge { size, limit });
        }
        match level {
            Level::Received if !self.rules.can_ping => Err(SendRefused::Level(level)),
            Level::Acked if !self.rules.can_ack => Err(SendRefused::Level(level)),
            Level::Written | Level::Received | Level::Acked => Ok(()),
        }
    }

    /// Takes a message if there is room and nobody waits for it.
    pub(crate) fn try_push(&self, entry: Entry) -> Result<Seq, (Entry, SendRefused)> {
        let size = Amount { messages: 1, bytes: entry.size() };
        let mut state = self.lock();
        if let Err(refused) = state.is_open() {
            return Err((entry, refused));
        }
        if !state.producers.is_empty() || !fits(size, state.room) {
            return Err((entry, SendRefused::Full));
        }
        state.take(size);
        let (seq, wake) = state.push(entry);
        drop(state);
        wake_all(wake);
        Ok(seq)
    }

    /// Waits in line for room.
    pub(crate) fn poll_room(
        &self,
        cx: &mut Context<'_>,
        ticket: &mut Option<u64>,
        size: Amount,
    ) -> Poll<Result<(), SendRefused>> {
        let mut state = self.lock();
        if let Err(refused) = state.is_open() {
            let next = state.leave_line(ticket);
            drop(state);
            wake_all(next);
            return Poll::Ready(Err(refused));
        }
        let first = match (state.producers.front(), *ticket) {
            (Some((front, _)), Some(mine)) => *front == mine,
            (Some(_), None) => false,
            (None, _) => true,
        };
        if first && fits(size, state.room) {
            state.take(size);
            state.reserved.messages += 1;
            state.reserved.bytes += size.bytes;
            let next = state.leave_line(ticket);
            drop(state);
            wake_all(next);
            return Poll::Ready(Ok(()));
        }
        if state.halt == Halt::Stalled {
            let next = state.leave_line(ticket);
            drop(state);
            wake_all(next);
            return Poll::Ready(Err(WaitError::Stalled.into()));
        }
        state.stand_in_line(ticket, cx.waker());
        Poll::Pending
    }

    /// Gives up a place in line.
    pub(crate) fn leave_line(&self, ticket: &mut Option<u64>) {
        if ticket.is_some() {
            let next = self.lock().leave_line(ticket);
            wake_all(next);
        }
    }

    /// Pushes a message for which room was reserved, and gives back what was reserved too much.
    pub(crate) fn push_reserved(
        &self,
        entry: Entry,
        reserved: usize,
    ) -> Result<Seq, (Entry, SendRefused)> {
        let size = entry.size();
        let mut state = self.lock();
        if let Err(refused) = state.is_open() {
            let next = state.release(reserved);
            drop(state);
            wake_all(next);
            return Err((entry, refused));
        }
        state.reserved.messages -= 1;
        state.reserved.bytes -= reserved;
        state.room.bytes += reserved.saturating_sub(size);
        let (seq, wake) = state.push(entry);
        let next = if reserved > size { state.first_in_line() } else { None };
        drop(state);
        wake_all(wake);
        wake_all(next);
        Ok(seq)
    }

    /// Gives reserved room back.
    pub(crate) fn release(&self, reserved: usize) {
        let next = self.lock().release(reserved);
        wake_all(next);
    }

    // ---- For handles: waiting -----------------------------------------------------------------

    /// Waits until a message is settled.
    pub(crate) fn poll_receipt(
        &self,
        cx: &mut Context<'_>,
        ticket: &mut Option<u64>,
        seq: Seq,
    ) -> Poll<Result<(), ReceiptError>> {
        let mut state = self.lock();
        if let Some(failure) = state.failures.take(seq) {
            state.leave_receipts(seq, ticket);
            return Poll::Ready(Err(ReceiptError::Failed(failure)));
        }
        let outcome = if state.failures.reported(seq) {
            Err(ReceiptError::Reported(seq))
        } else if seq >= state.watermark {
            // Not settled, as far as is known.
            if let Some(error) = state.wait_error() {
                Err(error.into())
            } else {
                let id = state.ticket(ticket);
                state.receipts.insert((seq, id), cx.waker().clone());
                return Poll::Pending;
            }
        } else if seq < state.failures.horizon {
            Err(ReceiptError::Forgotten(seq))
        } else {
            Ok(())
        };
        state.leave_receipts(seq, ticket);
        Poll::Ready(outcome)
    }

    /// Gives up waiting for a message.
    pub(crate) fn leave_receipts(&self, seq: Seq, ticket: &mut Option<u64>) {
        if ticket.is_some() {
            self.lock().leave_receipts(seq, ticket);
        }
    }

    /// Waits until all messages before `next` are settled.
    pub(crate) fn poll_watermark(
        &self,
        cx: &mut Context<'_>,
        ticket: &mut Option<u64>,
        next: Seq,
    ) -> Poll<Result<(), WaitError>> {
        let mut state = self.lock();
        if state.watermark >= next {
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = state.wait_error() {
            return Poll::Ready(Err(error));
        }
        // For the last of them: a number below `next`, for the watermark is below it.
        let id = state.ticket(ticket);
        state.flushes.insert((Seq::new(next.get() - 1), id), cx.waker().clone());
        Poll::Pending
    }

    /// Waits until the driver is done.
    pub(crate) fn poll_done(
        &self,
        cx: &mut Context<'_>,
        ticket: &mut Option<u64>,
    ) -> Poll<Result<(), WaitError>> {
        let end = Seq::new(u64::MAX);
        let mut state = self.lock();
        match state.halt {
            Halt::Done => Poll::Ready(Ok(())),
            Halt::Gone => Poll::Ready(Err(WaitError::Gone)),
            Halt::None | Halt::Stalled | Halt::Stopped(_) => {
                let id = state.ticket(ticket);
                state.flushes.insert((end, id), cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Gives up waiting for all messages up to one, or for the end.
    pub(crate) fn leave_flushes(&self, seq: Seq, ticket: &mut Option<u64>) {
        if let Some(id) = ticket.take() {
            self.lock().flushes.remove(&(seq, id));
        }
    }

    /// The failures that nobody awaits, and how many were not kept.
    pub(crate) fn take_failures(&self) -> (Vec<Failure>, u64) {
        self.lock().failures.take_unclaimed()
    }

    pub(crate) fn next(&self) -> Seq {
        self.lock().next
    }

    pub(crate) fn stats(&self) -> Stats {
        self.lock().stats
    }

    pub(crate) fn command(&self, command: Command) {
        let mut state = self.lock();
        let mut sent_away = Vec::new();
        if let Command::Close(_) = command {
            state.closing = true;
            sent_away.extend(state.producers.drain(..).map(|(_, waker)| waker));
        }
        if let (Command::Start, Halt::Stopped(_)) = (&command, state.halt) {
            // Whoever starts and then sends is not to hear that the client is stopped.
            state.halt = Halt::None;
        }
        if !state.shut && !matches!(state.halt, Halt::Gone | Halt::Done) {
            state.commands.push(command);
            sent_away.extend(state.driver.take());
        }
        drop(state);
        wake_all(sent_away);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.lock().closing
    }

    // ---- For handles: counting ----------------------------------------------------------------

    pub(crate) fn hold(&self) {
        self.lock().holders += 1;
    }

    pub(crate) fn let_go(&self) {
        let mut state = self.lock();
        state.holders -= 1;
        let driver = if state.holders == 0 { state.driver.take() } else { None };
        drop(state);
        wake_all(driver);
    }

    // ---- For the driver -----------------------------------------------------------------------

    /// Leaves news and takes what was left here; with a waker, also where to find the driver. Says
    /// how many of the failures nobody awaits.
    pub(crate) fn exchange(
        &self,
        news: News<'_>,
        taken: &mut Taken,
        driver: Option<&Waker>,
    ) -> usize {
        let mut wake = Vec::new();
        let mut unawaited = 0;
        let mut state = self.lock();

        for failure in news.failures.drain(..) {
            let seq = failure.seq;
            let claimed = state.wake_receipts(seq, &mut wake);
            unawaited += usize::from(!claimed);
            state.failures.keep(failure, claimed, self.rules.max_kept);
        }
        if news.watermark > state.watermark {
            state.watermark = news.watermark;
            let state = &mut *state;
            for waiters in [&mut state.receipts, &mut state.flushes] {
                let later = waiters.split_off(&(news.watermark, 0));
                wake.extend(core::mem::replace(waiters, later).into_values());
            }
        }
        let starts = state.commands.iter().any(|command| matches!(command, Command::Start));
        let halt = match news.halt {
            Halt::Stopped(_) if starts => Halt::None,
            halt => halt,
        };
        if halt != state.halt {
            state.halt = halt;
            // Whoever may go on waiting stands in line again.
            wake.extend(core::mem::take(&mut state.receipts).into_values());
            wake.extend(core::mem::take(&mut state.flushes).into_values());
            wake.extend(state.producers.drain(..).map(|(_, waker)| waker));
        }
        state.stats = news.stats;
        state.room = Amount {
            messages: news
                .room
                .messages
                .saturating_sub(state.batch_size.messages + state.reserved.messages),
            bytes: news.room.bytes.saturating_sub(state.batch_size.bytes + state.reserved.bytes),
        };
        if state.room.messages > 0 {
            wake.extend(state.first_in_line());
        }

        core::mem::swap(&mut state.batch, &mut taken.batch);
        core::mem::swap(&mut state.commands, &mut taken.commands);
        state.batch_size = Amount::default();
        taken.abandoned = state.holders == 0;
        if let Some(driver) = driver {
            if !state.driver.as_ref().is_some_and(|known| known.will_wake(driver)) {
                state.driver = Some(driver.clone());
            }
        }
        drop(state);
        wake_all(wake);
        unawaited
    }

    /// Takes what was left here, and refuses everything from now on. What became of it is for a
    /// last exchange to say.
    pub(crate) fn shut(&self, taken: &mut Taken) {
        let mut state = self.lock();
        state.shut = true;
        core::mem::swap(&mut state.batch, &mut taken.batch);
        state.batch_size = Amount::default();
    }
}

/// What the driver leaves.
pub(crate) struct News<'a> {
    pub(crate) failures: &'a mut Vec<Failure>,
    pub(crate) watermark: Seq,
    /// Room in the outbox, less what the driver has taken and not pushed.
    pub(crate) room: Amount,
    pub(crate) halt: Halt,
    pub(crate) stats: Stats,
}

/// What the driver takes. Its vectors are empty when it comes, for they are left here.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) batch: VecDeque<Entry>,
    pub(crate) commands: Vec<Command>,
    /// Nobody holds a handle or the inbound half.
    pub(crate) abandoned: bool,
}

fn fits(size: Amount, room: Amount) -> bool {
    size.messages <= room.messages && size.bytes <= room.bytes
}

fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

impl State {
    /// Whether messages are taken at all.
    fn is_open(&self) -> Result<(), SendRefused> {
        if self.closing {
            return Err(SendRefused::Closed);
        }
        if self.shut {
            return Err(WaitError::Gone.into());
        }
        match self.halt {
            Halt::None | Halt::Stalled => Ok(()),
            Halt::Stopped(reason) => Err(WaitError::Stopped(reason).into()),
            Halt::Gone => Err(WaitError::Gone.into()),
            Halt::Done => Err(SendRefused::Closed),
        }
    }

    /// Why there is no use in waiting for a settlement.
    fn wait_error(&self) -> Option<WaitError> {
        match self.halt {
            Halt::None => None,
            Halt::Stalled => Some(WaitError::Stalled),
            Halt::Stopped(reason) => Some(WaitError::Stopped(reason)),
            Halt::Gone | Halt::Done => Some(WaitError::Gone),
        }
    }

    fn take(&mut self, size: Amount) {
        self.room.messages -= size.messages;
        self.room.bytes -= size.bytes;
    }

    /// Queues a message whose room is taken; wakes the driver if it may be asleep.
    fn push(&mut self, entry: Entry) -> (Seq, Option<Waker>) {
        let seq = self.next;
        self.next = Seq::new(seq.get() + 1);
        self.batch_size.messages += 1;
        self.batch_size.bytes += entry.size();
        self.batch.push_back(entry);
        let wake = if self.batch.len() == 1 { self.driver.take() } else { None };
        (seq, wake)
    }

    fn release(&mut self, reserved: usize) -> Option<Waker> {
        self.reserved.messages -= 1;
        self.reserved.bytes -= reserved;
        self.room.messages += 1;
        self.room.bytes += reserved;
        self.first_in_line()
    }

    fn first_in_line(&self) -> Option<Waker> {
        self.producers.front().map(|(_, waker)| waker.clone())
    }

    fn stand_in_line(&mut self, ticket: &mut Option<u64>, waker: &Waker) {
        let place = ticket.and_then(|id| self.place_in_line(id));
        match place {
            Some(place) => self.producers[place].1.clone_from(waker),
            None => {
                *ticket = Some(self.next_waiter);
                self.producers.push_back((self.next_waiter, waker.clone()));
                self.next_waiter += 1;
            }
        }
    }

    /// Leaves the line, and says who is first now, if that has changed or there is room left.
    fn leave_line(&mut self, ticket: &mut Option<u64>) -> Option<Waker> {
        let place = self.place_in_line(ticket.take()?)?;
        self.producers.remove(place);
        if place == 0 && self.room.messages > 0 { self.first_in_line() } else { None }
    }

    fn place_in_line(&self, id: u64) -> Option<usize> {
        self.producers.binary_search_by_key(&id, |&(id, _)| id).ok()
    }

    /// Who waits, for ever the same; drawn when he waits for the first time.
    fn ticket(&mut self, ticket: &mut Option<u64>) -> u64 {
        *ticket.get_or_insert_with(|| {
            self.next_waiter += 1;
            self.next_waiter
        })
    }

    fn leave_receipts(&mut self, seq: Seq, ticket: &mut Option<u64>) {
        if let Some(id) = ticket.take() {
            self.receipts.remove(&(seq, id));
            // Whoever was woken for a failure and leaves without it leaves it to the next report.
            self.failures.unclaim(seq);
        }
    }

    /// Wakes who waits for exactly this message; says whether anybody does.
    fn wake_receipts(&mut self, seq: Seq, wake: &mut Vec<Waker>) -> bool {
        let before = wake.len();
        while let Some((&at, _)) = self.receipts.range((seq, 0)..=(seq, u64::MAX)).next() {
            wake.extend(self.receipts.remove(&at));
        }
        wake.len() > before
    }
}

/// Failures that were not handed out yet, and the numbers of those that were.
#[derive(Default)]
struct Failures {
    kept: BTreeMap<Seq, Kept>,
    amount: Amount,
    /// Numbers of failures that a report has handed out, as ranges: first to last.
    reported: BTreeMap<Seq, Seq>,
    /// Of settled messages below it is not known what became of them.
    horizon: Seq,
    /// Failures that were not kept.
    dropped: u64,
}

struct Kept {
    failure: Failure,
    /// A receipt was woken for it.
    claimed: bool,
}

/// How many ranges of reported failures are remembered.
const MAX_RANGES: usize = 4096;

impl Failures {
    fn keep(&mut self, failure: Failure, claimed: bool, max: Amount) {
        self.amount.messages += 1;
        self.amount.bytes += failure.body.len();
        self.kept.insert(failure.seq, Kept { failure, claimed });
        while self.amount.messages > max.messages || self.amount.bytes > max.bytes {
            let Some((seq, old)) = self.kept.pop_first() else { return };
            self.amount.messages -= 1;
            self.amount.bytes -= old.failure.body.len();
            self.dropped += 1;
            self.horizon = self.horizon.max(Seq::new(seq.get() + 1));
        }
    }

    fn take(&mut self, seq: Seq) -> Option<Failure> {
        let kept = self.kept.remove(&seq)?;
        self.amount.messages -= 1;
        self.amount.bytes -= kept.failure.body.len();
        self.remember(seq);
        Some(kept.failure)
    }

    fn unclaim(&mut self, seq: Seq) {
        if let Some(kept) = self.kept.get_mut(&seq) {
            kept.claimed = false;
        }
    }

    fn take_unclaimed(&mut self) -> (Vec<Failure>, u64) {
        let claimed = self.kept.iter().filter(|(_, kept)| kept.claimed).count();
        let mut taken = Vec::with_capacity(self.kept.len() - claimed);
        for (seq, kept) in core::mem::take(&mut self.kept) {
            if kept.claimed {
                self.kept.insert(seq, kept);
            } else {
                self.amount.messages -= 1;
                self.amount.bytes -= kept.failure.body.len();
                self.remember(seq);
                taken.push(kept.failure);
            }
        }
        (taken, core::mem::take(&mut self.dropped))
    }

    fn reported(&self, seq: Seq) -> bool {
        self.reported.range(..=seq).next_back().is_some_and(|(_, &last)| seq <= last)
    }

    /// Remembers that a failure was handed out, in as few ranges as will do. Of too many, the
    /// oldest goes.
    fn remember(&mut self, seq: Seq) {
        let before = Seq::new(seq.get() - 1);
        let after = Seq::new(seq.get() + 1);
        let last = self.reported.remove(&after).unwrap_or(seq);
        match self.reported.range_mut(..=before).next_back() {
            Some((_, end)) if *end == before => *end = last,
            _ => {
                self.reported.insert(seq, last);
            }
        }
        if self.reported.len() > MAX_RANGES {
            if let Some((_, last)) = self.reported.pop_first() {
                self.horizon = self.horizon.max(Seq::new(last.get() + 1));
            }
        }
    }
}
