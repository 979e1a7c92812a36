//! An open connection, as the driver sees it: frames in, frames out, bytes counted.
//!
//! [`Transport`] is what the driver needs; [`WebSocket`] is the one that is shipped, over anything
//! that reads and writes. A tunnel or a test makes one with [`WebSocket::from_upgraded`], or with
//! [`upgrade`](crate::connect::upgrade) where the HTTP handshake is still to come.
//!
//! # What the log may hold
//!
//! This crate logs no header, URL or payload. The framing library below it does log payloads
//! through the `log` crate, whole frames at level TRACE and the reason text of a Close at DEBUG,
//! under the target `tungstenite`. Keep that target at INFO where payloads are secret.

use std::{
    fmt, io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bowline_core::{
    Body, Frame, Loss,
    config::{ConfigError, check},
};
use bytes::Bytes;
use futures_util::{FutureExt, Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        error::{CapacityError, ProtocolError},
        protocol::{
            CloseFrame, Role, WebSocketConfig,
            frame::{
                self, Utf8Bytes,
                coding::{Data, OpCode},
            },
        },
    },
};

/// What a peer sent.
///
/// `Debug` prints kinds and lengths, never payloads.
#[derive(Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A whole data message.
    Data(Body),
    /// A ping. The transport has answered it already (RFC 6455 §5.5.2), or will as soon as the
    /// socket takes bytes.
    Ping,
    /// A pong, with the payload that it echoes.
    Pong(Bytes),
    /// A Close, with its code if it had one. Nothing comes after it. The transport has answered it
    /// if we had not closed before (RFC 6455 §5.5.1). A code that must not be sent is reported as
    /// 1002, and the reason text is dropped.
    Close(Option<u16>),
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(body) => write!(f, "Data({body:?})"),
            Self::Ping => f.write_str("Ping"),
            Self::Pong(payload) => write!(f, "Pong({} B)", payload.len()),
            Self::Close(code) => write!(f, "Close({code:?})"),
        }
    }
}

/// An open connection to a peer. Dropping it closes the socket.
///
/// All calls come from one task. Each `poll_…` wakes the task that polled last, and may be given up
/// and called again at any time without losing anything. A `poll_…` that is `Pending` may be
/// blocked on reading or on writing, so after a wake-up all that the driver still wants is polled
/// again.
///
/// **Before sleeping, poll [`poll_flush`](Self::poll_flush)**, also with nothing to send and when
/// not reading: pongs and the answer to a Close may wait for the socket.
///
/// **A write that fails does not end reading.** What the peer sent before, its Close with the
/// reason for it above all, still comes from [`poll_receive`](Self::poll_receive): read until
/// there is nothing more before believing the error of a write.
pub trait Transport: Send + Unpin + 'static {
    /// The next thing that the peer sent.
    ///
    /// # Errors
    /// [`Loss::Eof`] when the stream ended without a Close, [`Loss::Io`] when it broke,
    /// [`Loss::TooLarge`] for a message above the inbound limit, [`Loss::Protocol`] when the peer
    /// broke RFC 6455, [`Loss::Tls`] when it broke TLS, [`Loss::Closed`] when called again after
    /// [`Incoming::Close`]. An error is final: later calls repeat it.
    ///
    /// # Cancel safety
    /// A message of which a part has arrived is kept for the next call.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming, Loss>>;

    /// Waits until there is room for one more frame.
    ///
    /// # Errors
    /// As [`poll_flush`](Self::poll_flush).
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Loss>>;

    /// Takes one frame. Call it only after [`poll_ready`](Self::poll_ready) was `Ready`, once for
    /// each time. Ok means that the frame is queued here, not that the socket has it.
    ///
    /// # Errors
    /// [`Loss::TooLarge`] for a frame above the transport's own outbound limit; [`Loss::Io`] when
    /// the connection broke, or after [`start_close`](Self::start_close); [`Loss::Closed`] after
    /// the peer's Close.
    fn start_send(&mut self, frame: Frame) -> Result<(), Loss>;

    /// Waits until the socket has taken all that was queued: frames, pongs, the Close.
    ///
    /// # Errors
    /// [`Loss::Io`], [`Loss::Eof`] or [`Loss::Tls`] when the connection broke. An error is final:
    /// later calls repeat it.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Loss>>;

    /// Queues a Close frame behind all frames. Go on with [`poll_flush`](Self::poll_flush), and
    /// with [`poll_receive`](Self::poll_receive) until the peer's Close or an error. A second call
    /// does nothing, nor does one after the peer's Close.
    ///
    /// # Errors
    /// As [`poll_flush`](Self::poll_flush).
    fn start_close(&mut self, code: u16) -> Result<(), Loss>;

    /// How many bytes have come from the peer so far: bytes, not whole messages, and with TLS the
    /// encrypted ones, so that a slow peer in the middle of a long message is heard.
    fn bytes_read(&self) -> u64;

    /// How many bytes the socket has taken so far.
    fn bytes_taken(&self) -> u64;
}

/// What a [`WebSocket`] accepts and keeps in memory, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Limits {
    /// The largest message of the peer, in one frame or in many; a larger one ends the connection
    /// with [`Loss::TooLarge`]. Default 16 MiB.
    ///
    /// A frame's header makes its whole length reserved, as address space: memory is touched only
    /// as bytes arrive.
    pub inbound: usize,
    /// The largest frame of ours. Default 16 MiB. Nothing is allocated for it in advance.
    pub outbound: usize,
    /// The read buffer, allocated with the connection; it grows for a larger frame. Default 4 KiB.
    pub read_buffer: usize,
    /// How much is gathered before it is written without being flushed. Default 64 KiB. While the
    /// socket is blocked the write buffer holds this, one frame and 140 KiB of pongs at most,
    /// however many pings the peer sends: after 1,024 it is not read until it has read.
    pub write_buffer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { inbound: 16 << 20, outbound: 16 << 20, read_buffer: 4 << 10, write_buffer: 64 << 10 }
    }
}

/// The longest header of a frame of ours: 2 bytes, 8 of extended length, 4 of mask (RFC 6455 §5.2).
const FRAME_HEADER: usize = 14;
/// While this many pongs wait for the socket, nothing more is read. A peer that reads is answered
/// long before: one ping a second on a link that is blocked for 17 minutes.
const MAX_UNANSWERED: usize = 1024;
/// Room for those pongs and a Close, at most 125 bytes of payload each (RFC 6455 §5.5).
const CONTROL_ROOM: usize = (MAX_UNANSWERED + 1) * (FRAME_HEADER + 125);

impl Limits {
    /// Checks each limit: `inbound` and `outbound` from 125 bytes (the largest control frame) to
    /// 1 GiB, `read_buffer` from 128 bytes and `write_buffer` from 0, both to 16 MiB.
    ///
    /// # Errors
    /// The first that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check("inbound", self.inbound, 125..=1 << 30)?;
        check("outbound", self.outbound, 125..=1 << 30)?;
        check("read_buffer", self.read_buffer, 128..=16 << 20)?;
        check("write_buffer", self.write_buffer, 0..=16 << 20)
    }

    /// The most that the write buffer can hold. `poll_ready` says that there is room while no more
    /// than `write_buffer` of frames waits, so that the next frame always fits.
    fn write_buffer_cap(&self) -> usize {
        self.write_buffer.saturating_add(self.outbound).saturating_add(FRAME_HEADER + CONTROL_ROOM)
    }

    fn config(&self) -> WebSocketConfig {
        WebSocketConfig::default()
            .read_buffer_size(self.read_buffer)
            .write_buffer_size(self.write_buffer.min(self.write_buffer_cap() - 1))
            .max_write_buffer_size(self.write_buffer_cap())
            .max_message_size(Some(self.inbound))
            .max_frame_size(Some(self.inbound))
    }
}

/// The shipped [`Transport`]: a WebSocket (RFC 6455, client side) over `S`.
///
/// ```
/// use bowline_tokio::transport::{Limits, Transport, WebSocket};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let (ours, _theirs) = tokio::io::duplex(1024);
/// let socket = WebSocket::from_upgraded(ours, Limits::default());
/// assert_eq!(socket.bytes_read(), 0);
/// # }
/// ```
pub struct WebSocket<S> {
    stream: WebSocketStream<S>,
    counts: Arc<Counts>,
    limits: Limits,
    /// How many pings have come since the write buffer was last empty, each with its pong in it.
    unanswered: usize,
    /// We have sent a Close.
    closing: bool,
    /// Why there is nothing more to read.
    deaf: Option<Loss>,
    /// Why nothing more can be written.
    mute: Option<Loss>,
}

impl<S> fmt::Debug for WebSocket<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl<S> WebSocket<Counted<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// A WebSocket over a stream on which the HTTP upgrade is done: a tunnel, a stream in a test.
    /// Limits out of their range are brought to the nearest that works.
    pub fn from_upgraded(stream: S, limits: Limits) -> Self {
        let counts = Arc::default();
        let stream = Counted::new(stream, Arc::clone(&counts));
        Self::new(stream, counts, Vec::new(), limits)
    }
}

impl<S> WebSocket<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// A WebSocket over an upgraded stream from which `head`, its first bytes, is read already.
    pub(crate) fn new(stream: S, counts: Arc<Counts>, head: Vec<u8>, limits: Limits) -> Self {
        let config = Some(limits.config());
        let stream = WebSocketStream::from_partially_read(stream, head, Role::Client, config)
            .now_or_never()
            .expect("without a handshake there is nothing to wait for");
        Self { stream, counts, limits, unanswered: 0, closing: false, deaf: None, mute: None }
    }

    fn mute(&mut self, error: tungstenite::Error) -> Loss {
        let loss = loss_of(error);
        self.mute = Some(loss);
        loss
    }
}

impl<S> Transport for WebSocket<S>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming, Loss>> {
        if let Some(loss) = self.deaf {
            return Poll::Ready(Err(loss));
        }
        // Their sender does not read the answers: let TCP hold it back. An error of this flush is
        // kept for the next write, and what came before it is still to be read.
        if self.unanswered >= MAX_UNANSWERED && self.poll_flush(cx).is_pending() {
            return Poll::Pending;
        }
        loop {
            let incoming = match ready!(Pin::new(&mut self.stream).poll_next(cx)) {
                Some(Ok(Message::Text(text))) => match Body::text_from_utf8(text.into()) {
                    Ok(body) => Incoming::Data(body),
                    Err(_) => return Poll::Ready(Err(*self.deaf.insert(Loss::Protocol))),
                },
                Some(Ok(Message::Binary(bytes))) => Incoming::Data(Body::binary(bytes)),
                Some(Ok(Message::Ping(_))) => {
                    self.unanswered += 1;
                    // The pong goes out now, not when the driver reads again: it may have paused.
                    let _ = self.poll_flush(cx);
                    Incoming::Ping
                }
                Some(Ok(Message::Pong(payload))) => Incoming::Pong(payload),
                Some(Ok(Message::Close(frame))) => {
                    let code = frame.map(|frame| frame.code.into());
                    self.deaf = Some(Loss::Closed { code });
                    // The answer goes now, as far as the socket takes it: the driver may be done.
                    let _ = self.poll_flush(cx);
                    Incoming::Close(code)
                }
                // Only ever written, never read.
                Some(Ok(Message::Frame(_))) => continue,
                Some(Err(error)) => {
                    let loss = loss_of(error);
                    return Poll::Ready(Err(*self.deaf.insert(loss)));
                }
                None => return Poll::Ready(Err(*self.deaf.insert(Loss::Eof))),
            };
            return Poll::Ready(Ok(incoming));
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Loss>> {
        if let Some(loss) = self.mute {
            return Poll::Ready(Err(loss));
        }
        let ready = ready!(Pin::new(&mut self.stream).poll_ready(cx));
        Poll::Ready(ready.map_err(|error| self.mute(error)))
    }

    fn start_send(&mut self, frame: Frame) -> Result<(), Loss> {
        if let Some(loss) = self.mute {
            return Err(loss);
        }
        if let Some(closed @ Loss::Closed { .. }) = self.deaf {
            return Err(closed);
        }
        if self.closing {
            return Err(Loss::Io);
        }
        if frame.payload_len() > self.limits.outbound {
            return Err(Loss::TooLarge);
        }
        Pin::new(&mut self.stream).start_send(message(frame)).map_err(|error| self.mute(error))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Loss>> {
        if let Some(loss) = self.mute {
            return Poll::Ready(Err(loss));
        }
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        self.unanswered = 0;
        Poll::Ready(flushed.map_err(|error| self.mute(error)))
    }

    fn start_close(&mut self, code: u16) -> Result<(), Loss> {
        if let Some(loss) = self.mute {
            return Err(loss);
        }
        if self.closing || self.deaf.is_some() {
            return Ok(());
        }
        self.closing = true;
        let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::from_static("") };
        Pin::new(&mut self.stream)
            .start_send(Message::Close(Some(frame)))
            .map_err(|error| self.mute(error))
    }

    fn bytes_read(&self) -> u64 {
        self.counts.read.load(Relaxed)
    }

    fn bytes_taken(&self) -> u64 {
        self.counts.taken.load(Relaxed)
    }
}

/// The frame as tungstenite takes it. Neither copied nor looked at: a text body is UTF-8 by its
/// type.
fn message(frame: Frame) -> Message {
    match frame {
        Frame::Data(body) => {
            let data = if body.is_text() { Data::Text } else { Data::Binary };
            Message::Frame(frame::Frame::message(body.into_bytes(), OpCode::Data(data), true))
        }
        Frame::Ping(ping) => Message::Frame(frame::Frame::ping(ping.payload())),
    }
}

/// What an error of an open WebSocket means. The text of the error is dropped: it may hold payload.
pub(crate) fn loss_of(error: tungstenite::Error) -> Loss {
    use tungstenite::Error;
    match error {
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(
            ProtocolError::ResetWithoutClosingHandshake | ProtocolError::HandshakeIncomplete,
        ) => Loss::Eof,
        Error::Io(error) => loss_of_io(&error),
        Error::Tls(_) => Loss::Tls,
        Error::Capacity(CapacityError::MessageTooLong { .. }) => Loss::TooLarge,
        Error::Protocol(ProtocolError::SendAfterClosing) | Error::WriteBufferFull(_) => Loss::Io,
        Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(_)) => Loss::Subprotocol,
        Error::Protocol(
            ProtocolError::WrongHttpMethod
            | ProtocolError::WrongHttpVersion
            | ProtocolError::MissingConnectionUpgradeHeader
            | ProtocolError::MissingUpgradeWebSocketHeader
            | ProtocolError::MissingSecWebSocketVersionHeader
            | ProtocolError::MissingSecWebSocketKey
            | ProtocolError::InvalidSecWebSocketKey
            | ProtocolError::SecWebSocketAcceptKeyMismatch
            | ProtocolError::JunkAfterRequest
            | ProtocolError::CustomResponseSuccessful
            | ProtocolError::InvalidHeader(_)
            | ProtocolError::HttparseError(_),
        )
        | Error::Capacity(CapacityError::TooManyHeaders)
        | Error::AttackAttempt
        | Error::HttpFormat(_) => Loss::BadUpgrade,
        Error::Http(response) => {
            Loss::Status { status: response.status().as_u16(), retry_after: None }
        }
        Error::Url(_) => Loss::BadUrl,
        Error::Utf8(_)
        | Error::Protocol(
            ProtocolError::ReceivedAfterClosing
            | ProtocolError::NonZeroReservedBits
            | ProtocolError::UnmaskedFrameFromClient
            | ProtocolError::MaskedFrameFromServer
            | ProtocolError::FragmentedControlFrame
            | ProtocolError::ControlFrameTooBig
            | ProtocolError::UnknownControlFrameType(_)
            | ProtocolError::UnknownDataFrameType(_)
            | ProtocolError::UnexpectedContinueFrame
            | ProtocolError::ExpectedFragment(_)
            | ProtocolError::InvalidOpcode(_)
            | ProtocolError::InvalidCloseSequence,
        ) => Loss::Protocol,
    }
}

/// What an I/O error of a stream means, TLS streams included: they wrap their own errors in it.
pub(crate) fn loss_of_io(error: &io::Error) -> Loss {
    if let Some(loss) = crate::tls::loss_of(error) {
        return loss;
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Loss::Eof,
        _ => Loss::Io,
    }
}

/// How many bytes went over a stream. Shared, because with TLS the stream is far below the
/// WebSocket.
#[derive(Default)]
pub(crate) struct Counts {
    read: AtomicU64,
    taken: AtomicU64,
}

/// A stream that counts the bytes which it gives and takes.
pub struct Counted<S> {
    stream: S,
    counts: Arc<Counts>,
}

impl<S> Counted<S> {
    pub(crate) fn new(stream: S, counts: Arc<Counts>) -> Self {
        Self { stream, counts }
    }

    fn count(&self, taken: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = taken {
            // usize is at most 64 bits wide.
            self.counts.taken.fetch_add(n as u64, Relaxed);
        }
        taken
    }
}

impl<S> fmt::Debug for Counted<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counted").finish_non_exhaustive()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.counts.read.fetch_add((buf.filled().len() - before) as u64, Relaxed);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let taken = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.count(taken)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let taken = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.count(taken)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests;
