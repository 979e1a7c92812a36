use bowline_core::{Attempt, Ping, Seq};
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
};

use futures_util::task::noop_waker_ref;
use tokio::io::duplex;
use tokio_tungstenite::tungstenite::{
    Error,
    error::{SubProtocolError, TlsError, UrlError},
    http,
};

use super::*;

#[test]
fn a_data_frame_goes_out_masked_and_comes_in_plain() {
    let mut link = Link::open(Limits::default());
    link.send(Frame::Data("hi".into()));
    assert!(link.flush().is_ready());
    assert_eq!(link.wire().sent(), [(0x81, b"hi".to_vec())]);
    link.wire().arrives(&frame(0x81, b"hey"));
    link.wire().arrives(&frame(0x82, b"\xff"));
    assert_eq!(link.receive(), Poll::Ready(Ok(Incoming::Data("hey".into()))));
    assert_eq!(link.receive(), Poll::Ready(Ok(Incoming::Data(vec![0xff].into()))));
    assert_eq!(link.receive(), Poll::Pending);
}

#[test]
fn our_ping_is_echoed_by_a_pong() {
    let mut link = Link::open(Limits::default());
    let ping = Ping { attempt: Attempt::new(1), seq: Seq::new(2) };
    link.send(Frame::Ping(ping));
    assert!(link.flush().is_ready());
    assert_eq!(link.wire().sent(), [(0x89, ping.payload().to_vec())]);
    link.wire().arrives(&frame(0x8a, &ping.payload()));
    let echo = ping.payload();
    assert_eq!(link.receive(), Poll::Ready(Ok(Incoming::Pong(echo))));
}

#[test]
fn a_ping_is_answered_before_anybody_reads_on() {
    let mut link = Link::open(Limits::default());
    link.wire().arrives(&frame(0x89, b"yo"));
    assert_eq!(link.receive(), Poll::Ready(Ok(Incoming::Ping)));
    assert_eq!(link.wire().sent(), [(0x8a, b"yo".to_vec())]);
}

#[test]
fn a_pong_that_was_blocked_goes_with_the_next_flush() {
    let mut link = Link::open(Limits::default());
    link.wire().writable = false;
    link.wire().arrives(&frame(0x89, b"yo"));
    assert_eq!(link.receive(), Poll::Ready(Ok(Incoming::Ping)));
    assert!(link.flush().is_pending());
    link.wire().writable = true;
    assert!(link.flush().is_ready());
    assert_eq!(link.wire().sent(), [(0x8a, b"yo".to_vec())]);
}

/// H57
#[test]
fn a_ping_flood_on_a_blocked_socket_is_not_read_without_end() {
    let mut link = Link::open(Limits::default());
    link.wire().writable = false;
    link.wire().floods = frame(0x89, &[b'x'; 125]);
    for _ in 0..MAX_UNANSWERED {
        assert_eq!(link.receive(), Poll::Ready(Ok(Incoming::Ping)));
    }
    for _ in 0..10_000 {
        assert_eq!(link.receive(), Poll::Pending);
    }
    let pings = (MAX_UNANSWERED * 127) as u64;
    let read = link.socket.bytes_read();
    assert!((pings..pings + 4096).contains(&read), "{read}");

    // What was held for the socket is not more than said, and there is still room for a frame.
    link.send(Frame::Data(vec![7; 1 << 20].into()));
    link.wire().floods.clear();
    link.wire().writable = true;
    assert!(link.flush().is_ready());
    let pongs = link.wire().sent();
    assert_eq!(pongs.iter().filter(|frame| frame.0 == 0x8a).count(), MAX_UNANSWERED);
    assert!(link.socket.bytes_taken() <= (CONTROL_ROOM + (1 << 20) + FRAME_HEADER) as u64);
    link.wire().arrives(&frame(0x81, b"at last"));
    assert_eq!(link.receive(), Poll::Ready(Ok(Incoming::Data("at last".into()))));
}

#[test]
fn the_largest_frame_fits_whatever_waits_already() {
    let limits = Limits { outbound: 1000, write_buffer: 300, ..Limits::default() };
    let mut link = Link::open(limits);
    link.wire().writable = false;
    for size in [200, 80] {
        link.send(Frame::Data(vec![1; size].into()));
    }
    link.wire().arrives(&frame(0x89, b"ping").repeat(MAX_UNANSWERED));
    while link.receive().is_ready() {}
    link.send(Frame::Data(vec![2; 1000].into()));
    assert!(link.ready().is_pending());
    let close = link.socket.start_close(1000);
    assert_eq!(close, Ok(()));
    link.wire().writable = true;
    assert!(link.flush().is_ready());
    let sent: Vec<_> = link.wire().sent().into_iter().filter(|frame| frame.0 != 0x8a).collect();
    let sizes: Vec<_> = sent.iter().map(|frame| (frame.0, frame.1.len())).collect();
    assert_eq!(sizes, [(0x82, 200), (0x82, 80), (0x82, 1000), (0x88, 2)]);
}

#[test]
fn a_frame_above_the_outbound_limit_is_refused() {
    let mut link = Link::open(Limits { outbound: 1000, ..Limits::default() });
    assert!(link.ready().is_ready());
    let frame = Frame::Data(vec![0; 1001].into());
    assert_eq!(link.socket.start_send(frame), Err(Loss::TooLarge));
    link.send(Frame::Data(vec![0; 1000].into()));
}

#[test]
fn a_socket_that_blocks_in_the_middle_of_a_frame_makes_the_next_one_wait() {
    let mut link = Link::open(Limits { write_buffer: 0, ..Limits::default() });
    link.wire().writable = false;
    link.send(Frame::Data("one".into()));
    assert!(link.ready().is_pending());
    link.wire().writable = true;
    assert!(link.ready().is_ready());
    assert_eq!(link.wire().sent(), [(0x81, b"one".to_vec())]);
}

/// H65
#[test]
fn nothing_comes_after_the_peers_close() {
    let mut link = Link::open(Limits::default());
    link.wire().arrives(&frame(0x88, b"\x03\xe9bye"));
    link.wire().arrives(&frame(0x8a, b"late"));
    assert_eq!(link.receive(), Poll::Ready(Ok(Incoming::Close(Some(1001)))));
    assert_eq!(link.wire().sent(), [(0x88, b"\x03\xe9bye".to_vec())], "answered at once");
    let closed = Loss::Closed { code: Some(1001) };
    assert_eq!(link.receive(), Poll::Ready(Err(closed)));
    assert_eq!(link.receive(), Poll::Ready(Err(closed)));
    assert_eq!(link.socket.start_send(Frame::Data("x".into())), Err(closed));
    assert_eq!(link.socket.start_close(1000), Ok(()));
    assert!(link.flush().is_ready());
    assert_eq!(link.wire().sent(), []);
}

#[test]
fn a_close_without_a_code_or_with_a_forbidden_one_is_a_close() {
    for (payload, code) in [(&b""[..], None), (b"\x03\xed", Some(1002)), (b"\x0f\xa0", Some(4000))]
    {
        let mut link = Link::open(Limits::default());
        link.wire().arrives(&frame(0x88, payload));
        assert_eq!(link.receive(), Poll::Ready(Ok(Incoming::Close(code))));
    }
}

#[test]
fn after_our_close_the_peer_is_still_heard_until_its_own() {
    let mut link = Link::open(Limits::default());
    link.send(Frame::Data("last".into()));
    assert_eq!(link.socket.start_close(1000), Ok(()));
    assert_eq!(link.socket.start_close(1001), Ok(()), "the first one counts");
    assert_eq!(link.socket.start_send(Frame::Data("x".into())), Err(Loss::Io));
    assert!(link.flush().is_ready());
    assert_eq!(link.wire().sent(), [(0x81, b"last".to_vec()), (0x88, b"\x03\xe8".to_vec())]);
    link.wire().arrives(&frame(0x81, b"meanwhile"));
    link.wire().arrives(&frame(0x88, b"\x03\xe8"));
    assert_eq!(link.receive(), Poll::Ready(Ok(Incoming::Data("meanwhile".into()))));
    assert_eq!(link.receive(), Poll::Ready(Ok(Incoming::Close(Some(1000)))));
    assert!(link.flush().is_ready());
    assert_eq!(link.wire().sent(), [], "a close is answered once");
}

#[test]
fn a_write_that_fails_does_not_hide_why_the_peer_closed() {
    let mut link = Link::open(Limits::default());
    link.wire().arrives(&frame(0x88, b"\x03\xf0"));
    link.wire().broken = true;
    link.send(Frame::Data("x".into()));
    assert_eq!(link.flush(), Poll::Ready(Err(Loss::Io)));
    assert_eq!(link.flush(), Poll::Ready(Err(Loss::Io)));
    assert_eq!(link.receive(), Poll::Ready(Ok(Incoming::Close(Some(1008)))));
}

#[test]
fn the_end_of_the_stream_is_said_again_and_again() {
    let mut link = Link::open(Limits::default());
    link.wire().arrives(&frame(0x82, b"partial")[..5]);
    link.wire().ended = true;
    assert_eq!(link.receive(), Poll::Ready(Err(Loss::Eof)));
    assert_eq!(link.receive(), Poll::Ready(Err(Loss::Eof)));
}

#[test]
fn bytes_of_an_unfinished_message_count() {
    let mut link = Link::open(Limits::default());
    let message = frame(0x82, &[1; 10_000]);
    for (n, part) in message.chunks(1000).enumerate() {
        let before = n as u64 * 1000;
        assert_eq!((link.receive(), link.socket.bytes_read()), (Poll::Pending, before));
        link.wire().arrives(part);
    }
    assert_eq!(link.receive(), Poll::Ready(Ok(Incoming::Data(vec![1; 10_000].into()))));
    assert_eq!(link.socket.bytes_read(), message.len() as u64);
}

#[test]
fn bytes_are_taken_when_the_socket_takes_them() {
    let mut link = Link::open(Limits::default());
    link.send(Frame::Data("four".into()));
    assert_eq!(link.socket.bytes_taken(), 0);
    assert!(link.flush().is_ready());
    assert_eq!(link.socket.bytes_taken(), 2 + 4 + 4);
}

#[test]
fn a_message_above_the_inbound_limit_is_too_large() {
    let limits = Limits { inbound: 1000, ..Limits::default() };
    let mut whole = Link::open(limits);
    whole.wire().arrives(&frame(0x82, &[0; 1001]));
    assert_eq!(whole.receive(), Poll::Ready(Err(Loss::TooLarge)));

    let mut fragments = Link::open(limits);
    fragments.wire().arrives(&frame(0x02, &[0; 600]));
    fragments.wire().arrives(&frame(0x00, &[0; 401]));
    assert_eq!(fragments.receive(), Poll::Ready(Err(Loss::TooLarge)));

    let mut exact = Link::open(limits);
    exact.wire().arrives(&frame(0x82, &[0; 1000]));
    assert!(matches!(exact.receive(), Poll::Ready(Ok(Incoming::Data(_)))));
}

/// H58
#[test]
fn a_header_that_claims_too_much_is_refused_at_once() {
    let mut link = Link::open(Limits::default());
    link.wire().arrives(&[0x82, 127, 0, 0, 0, 0, 1, 0, 0, 1]);
    assert_eq!(link.receive(), Poll::Ready(Err(Loss::TooLarge)));
    let mut link = Link::open(Limits::default());
    link.wire().arrives(&[0x82, 127, 0x7f, 255, 255, 255, 255, 255, 255, 255]);
    assert_eq!(link.receive(), Poll::Ready(Err(Loss::TooLarge)));
}

#[test]
fn what_breaks_rfc_6455_is_a_protocol_loss() {
    for (what, bytes) in [
        ("a reserved bit", frame(0xc1, b"x")),
        ("a reserved opcode", frame(0x83, b"x")),
        ("a masked frame", vec![0x81, 0x81, 0, 0, 0, 0, b'x']),
        ("a continuation of nothing", frame(0x80, b"x")),
        ("a new message inside of another", [frame(0x01, b"x"), frame(0x81, b"x")].concat()),
        ("a ping in fragments", frame(0x09, b"x")),
        ("a long ping", frame(0x89, &[0; 126])),
        ("text that is none", frame(0x81, b"\xff")),
        ("half a close code", frame(0x88, b"\x03")),
    ] {
        let mut link = Link::open(Limits::default());
        link.wire().arrives(&bytes);
        assert_eq!(link.receive(), Poll::Ready(Err(Loss::Protocol)), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_ends_of_a_pipe_can_talk() {
    use std::future::poll_fn;

    let (ours, theirs) = duplex(64);
    let mut ours = WebSocket::from_upgraded(ours, Limits::default());
    let server = tokio::spawn(async move {
        use futures_util::{SinkExt, StreamExt};
        let mut server = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
        while let Some(Ok(message)) = server.next().await {
            if message.is_binary() {
                server.send(message).await.expect("the client is there");
            }
        }
    });
    let body = Body::binary(vec![9; 100_000]);
    poll_fn(|cx| ours.poll_ready(cx)).await.expect("room");
    ours.start_send(Frame::Data(body.clone())).expect("room");
    let echoed = poll_fn(|cx| {
        let _ = ours.poll_flush(cx)?;
        ours.poll_receive(cx)
    });
    assert_eq!(echoed.await, Ok(Incoming::Data(body)));
    ours.start_close(1000).expect("open");
    let closed = poll_fn(|cx| {
        let _ = ours.poll_flush(cx)?;
        ours.poll_receive(cx)
    });
    assert_eq!(closed.await, Ok(Incoming::Close(Some(1000))));
    server.await.expect("no panic");
}

#[test]
fn limits_are_checked() {
    assert_eq!(Limits::default().validate(), Ok(()));
    let field = |limits: Limits| limits.validate().expect_err("out of range").field;
    assert_eq!(field(Limits { inbound: 124, ..Limits::default() }), "inbound");
    assert_eq!(field(Limits { outbound: usize::MAX, ..Limits::default() }), "outbound");
    assert_eq!(field(Limits { read_buffer: 0, ..Limits::default() }), "read_buffer");
    assert_eq!(field(Limits { write_buffer: usize::MAX, ..Limits::default() }), "write_buffer");
    // Whatever they are, making a socket does not panic.
    let worst = usize::MAX;
    Link::open(Limits { inbound: 0, outbound: worst, read_buffer: 0, write_buffer: worst });
}

/// H63
#[test]
fn debug_shows_no_payload() {
    let shown = format!(
        "{:?} {:?}",
        Incoming::Data("hunter2".into()),
        Incoming::Pong(Bytes::from_static(b"hunter2"))
    );
    assert_eq!(shown, "Data(text(7 B)) Pong(7 B)");
}

#[test]
fn every_error_of_the_framing_library_has_its_loss() {
    use ProtocolError as P;

    let io = |kind: io::ErrorKind| Error::Io(kind.into());
    let response = http::Response::builder().status(418).body(None).expect("a response");
    let too_long = CapacityError::MessageTooLong { size: 2, max_size: 1 };
    let no_name = SubProtocolError::NoSubProtocol;
    let header = http::header::HOST;
    let _: fn(TlsError) -> Error = Error::Tls;
    for (error, loss) in [
        (Error::ConnectionClosed, Loss::Eof),
        (Error::AlreadyClosed, Loss::Eof),
        (io(io::ErrorKind::ConnectionReset), Loss::Io),
        (io(io::ErrorKind::BrokenPipe), Loss::Io),
        (io(io::ErrorKind::UnexpectedEof), Loss::Eof),
        (Error::Capacity(too_long), Loss::TooLarge),
        (Error::Capacity(CapacityError::TooManyHeaders), Loss::BadUpgrade),
        (Error::WriteBufferFull(Box::new(Message::Ping(Bytes::new()))), Loss::Io),
        (Error::Utf8(String::new()), Loss::Protocol),
        (Error::AttackAttempt, Loss::BadUpgrade),
        (Error::Url(UrlError::NoHostName), Loss::BadUrl),
        (Error::Http(Box::new(response)), Loss::Status { status: 418, retry_after: None }),
        (Error::HttpFormat(http::StatusCode::from_u16(0).unwrap_err().into()), Loss::BadUpgrade),
        (Error::Protocol(P::WrongHttpMethod), Loss::BadUpgrade),
        (Error::Protocol(P::WrongHttpVersion), Loss::BadUpgrade),
        (Error::Protocol(P::MissingConnectionUpgradeHeader), Loss::BadUpgrade),
        (Error::Protocol(P::MissingUpgradeWebSocketHeader), Loss::BadUpgrade),
        (Error::Protocol(P::MissingSecWebSocketVersionHeader), Loss::BadUpgrade),
        (Error::Protocol(P::MissingSecWebSocketKey), Loss::BadUpgrade),
        (Error::Protocol(P::InvalidSecWebSocketKey), Loss::BadUpgrade),
        (Error::Protocol(P::SecWebSocketAcceptKeyMismatch), Loss::BadUpgrade),
        (Error::Protocol(P::SecWebSocketSubProtocolError(no_name)), Loss::Subprotocol),
        (Error::Protocol(P::JunkAfterRequest), Loss::BadUpgrade),
        (Error::Protocol(P::CustomResponseSuccessful), Loss::BadUpgrade),
        (Error::Protocol(P::InvalidHeader(Box::new(header))), Loss::BadUpgrade),
        (Error::Protocol(P::HandshakeIncomplete), Loss::Eof),
        (Error::Protocol(P::HttparseError(httparse::Error::Token)), Loss::BadUpgrade),
        (Error::Protocol(P::SendAfterClosing), Loss::Io),
        (Error::Protocol(P::ReceivedAfterClosing), Loss::Protocol),
        (Error::Protocol(P::NonZeroReservedBits), Loss::Protocol),
        (Error::Protocol(P::UnmaskedFrameFromClient), Loss::Protocol),
        (Error::Protocol(P::MaskedFrameFromServer), Loss::Protocol),
        (Error::Protocol(P::FragmentedControlFrame), Loss::Protocol),
        (Error::Protocol(P::ControlFrameTooBig), Loss::Protocol),
        (Error::Protocol(P::UnknownControlFrameType(11)), Loss::Protocol),
        (Error::Protocol(P::UnknownDataFrameType(3)), Loss::Protocol),
        (Error::Protocol(P::UnexpectedContinueFrame), Loss::Protocol),
        (Error::Protocol(P::ExpectedFragment(Data::Text)), Loss::Protocol),
        (Error::Protocol(P::ResetWithoutClosingHandshake), Loss::Eof),
        (Error::Protocol(P::InvalidOpcode(3)), Loss::Protocol),
        (Error::Protocol(P::InvalidCloseSequence), Loss::Protocol),
    ] {
        let name = format!("{error:?}");
        assert_eq!(loss_of(error), loss, "{name}");
    }
}

/// A socket and the wire below it.
struct Link {
    socket: WebSocket<Counted<Pipe>>,
    wire: Arc<Mutex<Wire>>,
}

impl Link {
    fn open(limits: Limits) -> Self {
        let wire = Arc::new(Mutex::new(Wire { writable: true, ..Wire::default() }));
        Self { socket: WebSocket::from_upgraded(Pipe(Arc::clone(&wire)), limits), wire }
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().expect("no test panics while it holds the wire")
    }

    fn receive(&mut self) -> Poll<Result<Incoming, Loss>> {
        self.socket.poll_receive(&mut Context::from_waker(noop_waker_ref()))
    }

    fn ready(&mut self) -> Poll<Result<(), Loss>> {
        self.socket.poll_ready(&mut Context::from_waker(noop_waker_ref()))
    }

    fn flush(&mut self) -> Poll<Result<(), Loss>> {
        self.socket.poll_flush(&mut Context::from_waker(noop_waker_ref()))
    }

    fn send(&mut self, frame: Frame) {
        assert_eq!(self.ready(), Poll::Ready(Ok(())));
        assert_eq!(self.socket.start_send(frame), Ok(()));
    }
}

#[derive(Default)]
struct Wire {
    inbound: VecDeque<u8>,
    /// Comes in again and again.
    floods: Vec<u8>,
    ended: bool,
    writable: bool,
    broken: bool,
    outbound: Vec<u8>,
}

impl Wire {
    fn arrives(&mut self, bytes: &[u8]) {
        self.inbound.extend(bytes);
    }

    /// The frames that went out since the last call: first byte and payload, unmasked.
    fn sent(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut frames = Vec::new();
        let mut rest = &self.outbound[..];
        while let [first, second, tail @ ..] = rest {
            assert_eq!(second & 0x80, 0x80, "a client masks what it sends");
            let (len, tail) = match second & 0x7f {
                126 => (usize::from(u16::from_be_bytes([tail[0], tail[1]])), &tail[2..]),
                127 => {
                    let len = u64::from_be_bytes(tail[..8].try_into().expect("eight"));
                    (usize::try_from(len).expect("a small frame"), &tail[8..])
                }
                len => (usize::from(len), tail),
            };
            let (mask, tail) = tail.split_at(4);
            let payload = tail[..len].iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m).collect();
            frames.push((*first, payload));
            rest = &tail[len..];
        }
        self.outbound.clear();
        frames
    }
}

struct Pipe(Arc<Mutex<Wire>>);

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut wire = self.0.lock().expect("no panic");
        if !wire.floods.is_empty() {
            while buf.remaining() >= wire.floods.len() {
                buf.put_slice(&wire.floods);
            }
            return Poll::Ready(Ok(()));
        }
        if wire.inbound.is_empty() && !wire.ended {
            return Poll::Pending;
        }
        let n = buf.remaining().min(wire.inbound.len());
        buf.put_slice(&wire.inbound.drain(..n).collect::<Vec<_>>());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut wire = self.0.lock().expect("no panic");
        if wire.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if !wire.writable {
            return Poll::Pending;
        }
        wire.outbound.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A frame as a server sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(u8::try_from(len).expect("small")),
        len => {
            bytes.push(126);
            bytes.extend(u16::try_from(len).expect("small").to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    bytes
}
