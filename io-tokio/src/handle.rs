//! Handles: how an application sends, waits, looks and closes.

use std::{
    fmt,
    future::{IntoFuture, poll_fn},
    marker::PhantomData,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bowline_core::{Amount, Body, Dialect, Instant, Level, PushOptions, Seq, Snapshot, Status};
use tokio::sync::{oneshot, watch};

use crate::{
    Stats,
    desk::{Command, Desk, Entry, Failure, ReceiptError, SendRefused, WaitError},
    trace::Recorded,
};

/// After this many messages in a row a producer lets other tasks run.
const BREATH: u32 = 512;

/// Sends messages, waits for them, looks at the client, closes it. Cheap to clone.
///
/// When the last handle is dropped, and the inbound half with it, the client goes on for at most
/// `drop_limit` to deliver what it has, then ends. To know what became of everything, end with
/// [`close`](Self::close).
pub struct Handle<D> {
    desk: Arc<Desk>,
    status: watch::Receiver<Status>,
    epoch: tokio::time::Instant,
    level: Level,
    #[cfg_attr(not(feature = "trace"), allow(dead_code, reason = "there is nothing to ask it"))]
    recorded: Recorded,
    in_a_row: AtomicU32,
    dialect: PhantomData<fn() -> D>,
}

/// A message was not taken; here it is.
///
/// `Debug` does not print it.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError<M, E> {
    /// The dialect cannot encode it.
    #[error("the message cannot be encoded: {error}")]
    Encode {
        /// The message.
        message: M,
        /// Why.
        error: E,
    },
    /// It was not taken.
    #[error(transparent)]
    Refused(#[from] Unsent),
}

impl<M, E: fmt::Debug> fmt::Debug for SendError<M, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encode { error, .. } => {
                f.debug_struct("Encode").field("error", error).finish_non_exhaustive()
            }
            Self::Refused(unsent) => f.debug_tuple("Refused").field(unsent).finish(),
        }
    }
}

/// An encoded message that was not taken. [`Handle::send_encoded`] sends it after all.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Unsent {
    /// Why.
    pub reason: SendRefused,
    /// The message as it was encoded.
    pub body: Body,
    /// Its options.
    pub options: PushOptions,
}

/// What was found when messages were waited for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Messages that failed since the last report and whose receipts nobody awaited, oldest first.
    pub failures: Vec<Failure>,
    /// Failures that were too many to be kept until this report.
    pub not_kept: u64,
}

impl Report {
    /// Whether nothing failed.
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty() && self.not_kept == 0
    }
}

impl<D: Dialect> Handle<D> {
    pub(crate) fn new(
        desk: Arc<Desk>,
        status: watch::Receiver<Status>,
        epoch: tokio::time::Instant,
        level: Level,
        recorded: Recorded,
    ) -> Self {
        desk.hold();
        let in_a_row = AtomicU32::new(0);
        Self { desk, status, epoch, level, recorded, in_a_row, dialect: PhantomData }
    }

    // ---- Sending ------------------------------------------------------------------------------

    /// Sends a message at the client's own level, waiting for room. `Ok` means that the client has
    /// it; await the [`Receipt`] to know that it was delivered.
    ///
    /// # Errors
    /// The message is handed back.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is done, the message is dropped with it and was not
    /// sent. To keep it, use [`reserve`](Self::reserve).
    pub async fn send(
        &self,
        message: impl Into<D::Message>,
    ) -> Result<Receipt, SendError<D::Message, D::Error>> {
        self.send_with(message, PushOptions::default()).await
    }

    /// Like [`send`](Self::send), with a level, a time to live or a coalescing key of its own.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn send_with(
        &self,
        message: impl Into<D::Message>,
        options: PushOptions,
    ) -> Result<Receipt, SendError<D::Message, D::Error>> {
        let body = encode::<D>(message.into())?;
        Ok(self.send_encoded(body, options).await?)
    }

    /// Like [`send_with`](Self::send_with), of a message that was encoded before.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn send_encoded(&self, body: Body, options: PushOptions) -> Result<Receipt, Unsent> {
        self.breathe().await;
        let entry = match self.push(Entry { body, options }) {
            Err((entry, SendRefused::Full)) => entry,
            other => return self.receipt(other),
        };
        let bytes = entry.size();
        match self.room(bytes).await {
            Ok(()) => self.receipt(self.desk.push_reserved(entry, bytes)),
            Err(refused) => self.receipt(Err((entry, refused))),
        }
    }

    /// Sends a message if there is room now.
    ///
    /// # Errors
    /// The message is handed back; [`SendRefused::Full`] if there is no room, or others wait for
    /// it.
    pub fn try_send(
        &self,
        message: impl Into<D::Message>,
    ) -> Result<Receipt, SendError<D::Message, D::Error>> {
        self.try_send_with(message, PushOptions::default())
    }

    /// Like [`try_send`](Self::try_send), with options.
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send).
    pub fn try_send_with(
        &self,
        message: impl Into<D::Message>,
        options: PushOptions,
    ) -> Result<Receipt, SendError<D::Message, D::Error>> {
        let body = encode::<D>(message.into())?;
        Ok(self.receipt(self.push(Entry { body, options }))?)
    }

    /// Waits for room for one message of any size. The permit then sends without waiting: the
    /// cancel-safe form of [`send`](Self::send), for use in `select!`.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// # Cancel safety
    /// Dropping the future gives up its place in the line, nothing else.
    pub async fn reserve(&self) -> Result<Permit<'_, D>, SendRefused> {
        self.breathe().await;
        let bytes = self.desk.rules.max_message_bytes;
        self.room(bytes).await?;
        Ok(Permit { handle: self, bytes })
    }

    /// Sends a value as JSON text. The dialect's message is [`Body`](crate::Body), `String`, or
    /// another that [`Json`](crate::core::Json) converts into: `Json` itself with `Numbered`.
    ///
    /// # Errors
    /// As [`send`](Self::send), or the value cannot be serialized.
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    #[cfg(feature = "json")]
    pub async fn send_json<T: serde::Serialize + ?Sized>(
        &self,
        value: &T,
    ) -> Result<Receipt, JsonError<D::Message, D::Error>>
    where
        D::Message: From<bowline_core::Json>,
    {
        let json = bowline_core::Json::new(value).map_err(JsonError::Json)?;
        self.send(json).await.map_err(JsonError::Send)
    }

    fn push(&self, entry: Entry) -> Result<Seq, (Entry, SendRefused)> {
        let level = entry.options.level.unwrap_or(self.level);
        match self.desk.admit(&entry, level) {
            Ok(()) => self.desk.try_push(entry),
            Err(refused) => Err((entry, refused)),
        }
    }

    fn receipt(&self, pushed: Result<Seq, (Entry, SendRefused)>) -> Result<Receipt, Unsent> {
        match pushed {
            Ok(seq) => Ok(Receipt { desk: Arc::clone(&self.desk), seq }),
            Err((Entry { body, options }, reason)) => Err(Unsent { reason, body, options }),
        }
    }

    async fn room(&self, bytes: usize) -> Result<(), SendRefused> {
        let mut line = InLine { desk: &self.desk, ticket: None };
        let size = Amount { messages: 1, bytes };
        poll_fn(|cx| line.desk.poll_room(cx, &mut line.ticket, size)).await
    }

    /// Lets other tasks run from time to time: sending never waits while there is room, so it
    /// would not do so by itself.
    async fn breathe(&self) {
        let sent = self.in_a_row.load(Relaxed).wrapping_add(1);
        self.in_a_row.store(sent, Relaxed);
        if sent % BREATH == 0 {
            tokio::task::yield_now().await;
        }
    }

    // ---- Waiting ------------------------------------------------------------------------------

    /// Waits until every message sent before is settled, and reports which failed.
    ///
    /// There is no limit to how long a server may be away: put a `tokio::time::timeout` around it
    /// where there should be one.
    ///
    /// # Errors
    /// See [`WaitError`]. The failures until then are kept for the next report.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn flush(&self) -> Result<Report, WaitError> {
        let next = self.desk.next();
        let seq = Seq::new(next.get().saturating_sub(1));
        let mut waiting = Waiting { desk: &self.desk, seq, ticket: None };
        poll_fn(|cx| waiting.desk.poll_watermark(cx, &mut waiting.ticket, next)).await?;
        Ok(self.report())
    }

    /// Waits until the message with this number is delivered; what a [`Receipt`] does.
    ///
    /// # Errors
    /// The message failed, or see [`WaitError`].
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn delivered(&self, seq: Seq) -> Result<(), ReceiptError> {
        Delivery { desk: Arc::clone(&self.desk), seq, ticket: None }.await
    }

    fn report(&self) -> Report {
        let (failures, not_kept) = self.desk.take_failures();
        Report { failures, not_kept }
    }

    // ---- Looking ------------------------------------------------------------------------------

    /// What the client is doing, now and from now on.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// An instant of a [`Status`] as one of tokio's clock.
    pub fn time_of(&self, at: Instant) -> tokio::time::Instant {
        self.epoch + Duration::from_micros(at.as_micros())
    }

    /// Counters and gauges, as of the driver's last turn.
    pub fn stats(&self) -> Stats {
        self.desk.stats()
    }

    /// All messages that are not settled, as a value that can be stored, for
    /// [`Builder::restore`](crate::Builder::restore) after a crash.
    ///
    /// # Errors
    /// The driver is done or gone.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn snapshot(&self) -> Result<Snapshot, WaitError> {
        let (reply, snapshot) = oneshot::channel();
        self.desk.command(Command::Snapshot(reply));
        snapshot.await.map_err(|_| WaitError::Gone)
    }

    /// Waits until the recording has ended and all of it is written: after a
    /// [`close`](Self::close), say.
    ///
    /// # Errors
    /// Why the trace has no end; or the client is not recorded.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    #[cfg(feature = "trace")]
    pub async fn recorded(&self) -> Result<(), crate::TraceError> {
        self.recorded.end().await
    }

    // ---- Commanding ---------------------------------------------------------------------------

    /// Cancels a message. If it is not settled yet it fails as `Cancelled`, and its fate says
    /// whether it may have arrived.
    pub fn cancel(&self, seq: Seq) {
        self.desk.command(Command::Cancel(seq));
    }

    /// The network may have come back: dial now instead of waiting for the backoff. Has an effect
    /// at most once in `nudge_floor`, and none on a delay that the server asked for.
    pub fn nudge(&self) {
        self.desk.command(Command::Nudge);
    }

    /// Connects again after the client has stopped by itself.
    pub fn start(&self) {
        self.desk.command(Command::Start);
    }

    /// Takes no more messages, delivers what there is for at most `limit`, disconnects, and
    /// reports what failed, with what was left at the end as `Returned`.
    ///
    /// Takes at most `limit` and the connection's `close_limit`. A client that is stopped returns
    /// what it has at once.
    ///
    /// # Errors
    /// The driver is gone; the report holds what it left.
    ///
    /// # Cancel safety
    /// The client goes on closing. Call it again for the report.
    pub async fn close(&self, limit: Duration) -> Result<Report, (WaitError, Report)> {
        let deadline =
            tokio::time::Instant::now() + limit.min(Duration::from_secs(u32::MAX.into()));
        self.desk.command(Command::Close(deadline));
        let mut waiting = Waiting { desk: &self.desk, seq: Seq::new(u64::MAX), ticket: None };
        match poll_fn(|cx| waiting.desk.poll_done(cx, &mut waiting.ticket)).await {
            Ok(()) => Ok(self.report()),
            Err(error) => Err((error, self.report())),
        }
    }

    /// Whether [`close`](Self::close) was called on any handle.
    pub fn is_closed(&self) -> bool {
        self.desk.is_closing()
    }
}

fn encode<D: Dialect>(message: D::Message) -> Result<Body, SendError<D::Message, D::Error>> {
    D::encode(message).map_err(|(message, error)| SendError::Encode { message, error })
}

impl<D: Dialect> Clone for Handle<D> {
    fn clone(&self) -> Self {
        let (desk, status) = (Arc::clone(&self.desk), self.status.clone());
        Self::new(desk, status, self.epoch, self.level, self.recorded.clone())
    }
}

impl<D> Drop for Handle<D> {
    fn drop(&mut self) {
        self.desk.let_go();
    }
}

impl<D> fmt::Debug for Handle<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("status", &*self.status.borrow()).finish_non_exhaustive()
    }
}

/// Room for one message of any size. Dropping it gives the room back.
#[must_use = "a permit that is dropped sends nothing"]
pub struct Permit<'a, D: Dialect> {
    handle: &'a Handle<D>,
    /// What is reserved; none once it is used.
    bytes: usize,
}

impl<D: Dialect> Permit<'_, D> {
    /// Sends a message in this room.
    ///
    /// # Errors
    /// The message is handed back: it cannot be encoded, is too large or of a level that is not
    /// to be had; or the client was closed or stopped since.
    pub fn send(
        self,
        message: impl Into<D::Message>,
    ) -> Result<Receipt, SendError<D::Message, D::Error>> {
        self.send_with(message, PushOptions::default())
    }

    /// Like [`send`](Self::send), with options.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_with(
        self,
        message: impl Into<D::Message>,
        options: PushOptions,
    ) -> Result<Receipt, SendError<D::Message, D::Error>> {
        let entry = Entry { body: encode::<D>(message.into())?, options };
        let handle = self.handle;
        let level = entry.options.level.unwrap_or(handle.level);
        if let Err(refused) = handle.desk.admit(&entry, level) {
            return Ok(handle.receipt(Err((entry, refused)))?);
        }
        let bytes = self.bytes;
        // The desk takes over what was reserved.
        std::mem::forget(self);
        Ok(handle.receipt(handle.desk.push_reserved(entry, bytes))?)
    }
}

impl<D: Dialect> Drop for Permit<'_, D> {
    fn drop(&mut self) {
        self.handle.desk.release(self.bytes);
    }
}

impl<D: Dialect> fmt::Debug for Permit<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}

/// Says what became of a message, to who awaits it. May be dropped: the message goes its way, and
/// if it fails the next [`flush`](Handle::flush) or [`close`](Handle::close) reports it.
///
/// Await receipts before calling `flush`: a failure is handed out once.
pub struct Receipt {
    desk: Arc<Desk>,
    seq: Seq,
}

impl Receipt {
    /// The number of the message, for [`Handle::cancel`] and [`Handle::delivered`].
    pub fn seq(&self) -> Seq {
        self.seq
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receipt").field(&self.seq).finish()
    }
}

impl IntoFuture for Receipt {
    type Output = Result<(), ReceiptError>;
    type IntoFuture = Delivery;

    fn into_future(self) -> Delivery {
        Delivery { desk: self.desk, seq: self.seq, ticket: None }
    }
}

/// The future of a [`Receipt`]: done when the message is delivered, or has failed.
///
/// # Cancel safety
/// Dropping it loses nothing: a failure goes into the next report.
#[must_use = "futures do nothing unless awaited"]
pub struct Delivery {
    desk: Arc<Desk>,
    seq: Seq,
    ticket: Option<u64>,
}

impl Future for Delivery {
    type Output = Result<(), ReceiptError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.desk.poll_receipt(cx, &mut this.ticket, this.seq)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.desk.leave_receipts(self.seq, &mut self.ticket);
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Delivery").field(&self.seq).finish()
    }
}

/// A value was not sent as JSON.
#[cfg(feature = "json")]
#[derive(Debug, thiserror::Error)]
pub enum JsonError<M, E> {
    /// It cannot be serialized.
    #[error("the value cannot be serialized: {0}")]
    Json(serde_json::Error),
    /// Its text was not taken, and is handed back.
    #[error(transparent)]
    Send(SendError<M, E>),
}

/// A place in the line for room; given up when dropped.
struct InLine<'a> {
    desk: &'a Desk,
    ticket: Option<u64>,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.desk.leave_line(&mut self.ticket);
    }
}

/// Somebody who waits for all messages up to one, or for the end; forgotten when dropped.
struct Waiting<'a> {
    desk: &'a Desk,
    seq: Seq,
    ticket: Option<u64>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.desk.leave_flushes(self.seq, &mut self.ticket);
    }
}
