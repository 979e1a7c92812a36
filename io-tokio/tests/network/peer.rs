//! The other side: a network in memory whose every dial arrives at the test, and a peer that does
//! what the test says, byte by byte.

use std::{future::Future, io, time::Duration};

use bowline_tokio::{
    Builder, Config, Handle, Inbound, Loss, Plain, Status,
    connect::{Connect, Connecting, Target, upgrade},
    core::Body,
    transport::Limits,
};
use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

pub(crate) const TEXT: u8 = 1;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// Fails a test that waits for something which does not come. Far above what any of them needs: a
/// busy host must not fail one, and a paused clock spends it in no time.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(400), future).await.expect("what is waited for has to come")
}

/// Waits until the status is as it should be.
pub(crate) async fn status(
    client: &Handle<Plain>,
    is: impl FnMut(&Status) -> bool,
) -> (Status, Instant) {
    let mut watch = client.status();
    let status = *soon(watch.wait_for(is)).await.expect("the driver is there");
    (status, Instant::now())
}

/// Asserts that `expected` has passed since `since` on a paused clock, whose timers are at most a
/// few milliseconds late.
#[track_caller]
pub(crate) fn assert_elapsed(since: Instant, expected: Duration) {
    let elapsed = since.elapsed();
    let late = expected + Duration::from_millis(10);
    assert!((expected..=late).contains(&elapsed), "{elapsed:?} instead of {expected:?}");
}

// ---- The network ------------------------------------------------------------------------------

/// Any stream that a peer may be at the end of.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}
type Boxed = Box<dyn Stream>;

/// The client's side of a network in memory.
pub(crate) struct Wire {
    dials: mpsc::UnboundedSender<Dialed>,
    pub(crate) limits: Limits,
    pub(crate) can_ping: bool,
}

/// The servers' side of it.
pub(crate) struct Net {
    dials: mpsc::UnboundedReceiver<Dialed>,
}

/// A dial that waits to be answered. Dropped, it is never answered.
pub(crate) struct Dialed {
    pub(crate) at: Instant,
    pub(crate) target: Target,
    answer: oneshot::Sender<Result<Boxed, Loss>>,
}

pub(crate) fn network() -> (Wire, Net) {
    let (arrive, dials) = mpsc::unbounded_channel();
    (Wire { dials: arrive, limits: Limits::default(), can_ping: true }, Net { dials })
}

/// A client on a network in memory.
pub(crate) fn client(change: impl FnOnce(&mut Config)) -> (Handle<Plain>, Inbound<Body>, Net) {
    let (wire, net) = network();
    let builder = Builder::new("ws://peer.example/").connector(wire).seed(1).configure(change);
    let (client, inbound) = builder.start().expect("a good configuration");
    (client, inbound, net)
}

impl Connect for Wire {
    fn can_ping(&self) -> bool {
        self.can_ping
    }

    fn connect(&self, target: Target) -> Connecting {
        let (answer, answered) = oneshot::channel();
        let dialed = Dialed { at: Instant::now(), target: target.clone(), answer };
        let arrived = self.dials.send(dialed);
        let limits = self.limits;
        Box::pin(async move {
            arrived.map_err(|_| Loss::Connect)?;
            match answered.await {
                Ok(stream) => upgrade(stream?, &target, limits).await,
                Err(_) => std::future::pending().await,
            }
        })
    }
}

impl Net {
    /// The next dial.
    pub(crate) async fn dial(&mut self) -> Dialed {
        soon(self.dials.recv()).await.expect("the client is there")
    }

    /// The next dial, answered with an open connection.
    pub(crate) async fn link(&mut self) -> Peer {
        self.dial().await.open().await
    }

    /// Waits until the client is done; whether it did so without another dial.
    pub(crate) async fn has_ended(&mut self) -> bool {
        soon(self.dials.recv()).await.is_none()
    }

    /// Whether nobody has dialed since.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.dials.try_recv().is_err()
    }
}

impl Dialed {
    /// No connection, for this reason.
    pub(crate) fn refuse(self, loss: Loss) {
        // The client may have given up in the meantime.
        let _ = self.answer.send(Err(loss));
    }

    /// A connection, on which the upgrade is still to come.
    pub(crate) fn accept(self) -> Peer {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        self.accept_on(theirs, ours)
    }

    /// A connection over a stream whose two ends are given.
    pub(crate) fn accept_on(
        self,
        theirs: impl Stream + 'static,
        ours: impl Stream + 'static,
    ) -> Peer {
        // The client may have given up in the meantime.
        let _ = self.answer.send(Ok(Box::new(theirs)));
        Peer::new(ours)
    }

    pub(crate) async fn open(self) -> Peer {
        let mut peer = self.accept();
        peer.upgrade().await;
        peer
    }

    /// Refuses the upgrade with this answer.
    pub(crate) async fn answer(self, answer: &str) {
        let mut peer = self.accept();
        peer.request().await;
        peer.write(answer.as_bytes()).await;
    }

    /// Waits until the client drops the dial.
    pub(crate) async fn dropped(&mut self) {
        soon(self.answer.closed()).await;
    }
}

// ---- The peer ---------------------------------------------------------------------------------

/// A WebSocket server that does nothing by itself: it answers no ping and no Close.
pub(crate) struct Peer {
    stream: Boxed,
    buffer: BytesMut,
}

/// What a client sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    Text(String),
    Ping(Bytes),
    Pong(Bytes),
    Close(Option<u16>),
}

/// A frame of a server: final and unmasked (RFC 6455 §5.2).
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        n @ 0..=125 => frame.push(n as u8),
        n @ 126..=0xffff => {
            frame.push(126);
            frame.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            frame.push(127);
            frame.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

/// A Close with this code, or with none.
pub(crate) fn close(code: Option<u16>) -> Vec<u8> {
    frame(CLOSE, &code.map(u16::to_be_bytes).map_or(Vec::new(), |code| code.to_vec()))
}

impl Peer {
    pub(crate) fn new(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: BytesMut::new() }
    }

    /// Reads more; whether there was any.
    async fn more(&mut self) -> bool {
        matches!(soon(self.stream.read_buf(&mut self.buffer)).await, Ok(1..))
    }

    /// The upgrade request.
    pub(crate) async fn request(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = self.buffer.split_to(end + 4);
                return String::from_utf8(head.to_vec()).expect("a head of text");
            }
            assert!(self.more().await, "a request");
        }
    }

    /// Reads the upgrade request and accepts it; returns the request.
    pub(crate) async fn upgrade(&mut self) -> String {
        let request = self.request().await;
        self.write(accept(&request).as_bytes()).await;
        request
    }

    /// Writes bytes as they are, and says whether they were taken.
    pub(crate) async fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        soon(self.try_write(bytes)).await.expect("the client is there");
    }

    /// The next frame of the client, or none if it is gone.
    pub(crate) async fn hear(&mut self) -> Option<Heard> {
        loop {
            if let Some(heard) = self.parse() {
                return Some(heard);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Takes a single byte.
    pub(crate) async fn sip(&mut self) {
        let byte = soon(self.stream.read_u8()).await.expect("a byte");
        self.buffer.extend_from_slice(&[byte]);
    }

    /// The next message, with all pings before it answered.
    pub(crate) async fn message(&mut self) -> String {
        loop {
            match self.hear().await.expect("the client is there") {
                Heard::Text(text) => return text,
                Heard::Ping(payload) => self.write(&frame(PONG, &payload)).await,
                heard @ (Heard::Pong(_) | Heard::Close(_)) => panic!("{heard:?}"),
            }
        }
    }

    /// The next ping, left unanswered, and nothing before it.
    pub(crate) async fn ping(&mut self) -> Bytes {
        match self.hear().await {
            Some(Heard::Ping(payload)) => payload,
            heard => panic!("{heard:?}"),
        }
    }

    /// Is as a server should be, until the client is gone; then all messages that came.
    pub(crate) fn serve(mut self) -> JoinHandle<Vec<String>> {
        tokio::spawn(async move {
            let mut messages = Vec::new();
            loop {
                // Not by `hear`, which would lose patience with a client that has nothing to say.
                while let Some(heard) = self.parse() {
                    let answer = match heard {
                        Heard::Text(text) => {
                            messages.push(text);
                            continue;
                        }
                        Heard::Ping(payload) => frame(PONG, &payload),
                        Heard::Pong(_) => continue,
                        Heard::Close(code) => close(code),
                    };
                    // A client that is gone is found by the next read.
                    let _ = self.stream.write_all(&answer).await;
                }
                if !matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..)) {
                    return messages;
                }
            }
        })
    }

    /// Waits until the client has closed its socket.
    pub(crate) async fn gone(&mut self) {
        while self.more().await {
            self.buffer.clear();
        }
    }

    /// A whole frame of the client, masked and final as all of ours are.
    fn parse(&mut self) -> Option<Heard> {
        let head = &self.buffer[..];
        let (&first, &second) = (head.first()?, head.get(1)?);
        assert!(first & 0x70 == 0 && first & 0x80 != 0, "a final frame without extensions");
        assert!(second & 0x80 != 0, "masked");
        let (start, length) = match second & 0x7f {
            126 => (4, head.get(2..4)?.iter().fold(0, |n, &b| n << 8 | usize::from(b))),
            127 => (10, head.get(2..10)?.iter().fold(0, |n, &b| n << 8 | usize::from(b))),
            n => (2, usize::from(n)),
        };
        let mask: [u8; 4] = head.get(start..start + 4)?.try_into().ok()?;
        if head.len() < start + 4 + length {
            return None;
        }
        self.buffer.advance(start + 4);
        let mut payload = self.buffer.split_to(length);
        for (at, byte) in payload.iter_mut().enumerate() {
            *byte ^= mask[at % 4];
        }
        let payload = payload.freeze();
        Some(match first & 0x0f {
            TEXT => Heard::Text(String::from_utf8(payload.to_vec()).expect("text is UTF-8")),
            CLOSE => Heard::Close(
                payload
                    .get(..2)
                    .map(|code| u16::from_be_bytes(code.try_into().expect("two bytes"))),
            ),
            PING => Heard::Ping(payload),
            PONG => Heard::Pong(payload),
            opcode => panic!("opcode {opcode}"),
        })
    }
}

/// The answer that accepts an upgrade request.
pub(crate) fn accept(request: &str) -> String {
    let key = request
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
        .map(|(_, key)| derive_accept_key(key.as_bytes()))
        .expect("a key");
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {key}\r\n\r\n"
    )
}
