//! A WebSocket that never blocks: it says what came, takes frames, and notices whether bytes move.

use std::io::{self, Error as IoError, ErrorKind};
use std::mem::take;
use std::net::{TcpStream as Dialed, ToSocketAddrs};

use bowline_core::{Frame, Loss, Received};
use mio::{Interest, Registry, Token, net::TcpStream};
use tungstenite::handshake::{HandshakeError, MidHandshake, client::ClientHandshake};
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket, client, error::ProtocolError, http::Uri};

/// Connects. Blocks, first of all while a name is looked up, so it needs a thread of its own.
pub(crate) fn dial(url: &str) -> Result<Dialed, Loss> {
    let url: Uri = url.parse().map_err(|_| Loss::BadUrl)?;
    let address = (url.host().ok_or(Loss::BadUrl)?, url.port_u16().unwrap_or(80));
    let addresses = address.to_socket_addrs().map_err(|_| Loss::Dns)?;
    addresses
        .filter_map(|address| Dialed::connect_timeout(&address, crate::DIAL_LIMIT).ok())
        .find(|stream| stream.set_nodelay(true).and(stream.set_nonblocking(true)).is_ok())
        .ok_or(Loss::Connect)
}

/// A handshake under way.
pub(crate) struct Upgrade(MidHandshake<ClientHandshake<Counted>>);

/// How far a handshake came.
pub(crate) enum Upgraded {
    Not(Upgrade),
    Done(Socket),
    Failed(Loss),
}

impl Upgrade {
    pub(crate) fn begin(url: &str, stream: Dialed, registry: &Registry) -> Upgraded {
        let mut stream = TcpStream::from_std(stream);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if registry.register(&mut stream, Token(1), interest).is_err() {
            return Upgraded::Failed(Loss::Io);
        }
        let stream = Counted { stream, heard: false, took: false };
        // Room for our largest frame, but not for the pongs to a flood of pings.
        let config = WebSocketConfig::default().max_write_buffer_size(2 << 20);
        Self::upgraded(client::client_with_config(url, stream, Some(config)))
    }

    pub(crate) fn go_on(self) -> Upgraded {
        Self::upgraded(self.0.handshake())
    }

    fn upgraded<T>(
        outcome: Result<(WebSocket<Counted>, T), HandshakeError<ClientHandshake<Counted>>>,
    ) -> Upgraded {
        match outcome {
            Ok((stream, _)) => Upgraded::Done(Socket { stream, blocked: false, broken: None }),
            Err(HandshakeError::Interrupted(upgrade)) => Upgraded::Not(Self(upgrade)),
            Err(HandshakeError::Failure(error)) => {
                Upgraded::Failed(loss_of(&error).unwrap_or(Loss::Io))
            }
        }
    }
}

/// An open connection.
pub(crate) struct Socket {
    stream: WebSocket<Counted>,
    /// The kernel takes no more for now.
    blocked: bool,
    /// Writing failed; what the peer said before is still to be read.
    broken: Option<Loss>,
}

impl Socket {
    /// The next frame that is for the client; none if there is nothing more for now. A loss is
    /// final.
    pub(crate) fn read(&mut self) -> Result<Option<Received>, Loss> {
        loop {
            return match self.stream.read() {
                Ok(Message::Text(text)) => Ok(Some(Received::Data(text.as_str().into()))),
                Ok(Message::Binary(bytes)) => Ok(Some(Received::Data(bytes.into()))),
                Ok(Message::Pong(payload)) => Ok(Some(Received::Pong(payload))),
                // Tungstenite answers it with the next read.
                Ok(Message::Ping(_) | Message::Frame(_)) => continue,
                Ok(Message::Close(frame)) => {
                    self.flush();
                    Err(Loss::Closed { code: frame.map(|frame| frame.code.into()) })
                }
                Err(error) => loss_of(&error).or(self.broken).map_or(Ok(None), Err),
            };
        }
    }

    /// Whether a frame may be sent.
    pub(crate) fn is_writable(&self) -> bool {
        !self.blocked
    }

    pub(crate) fn send(&mut self, frame: Frame) {
        self.write(match frame {
            Frame::Data(body) => match body.as_text() {
                Some(text) => Message::text(text),
                None => Message::binary(body.into_bytes()),
            },
            Frame::Ping(ping) => Message::Ping(ping.payload().to_vec().into()),
        });
    }

    pub(crate) fn close(&mut self, code: u16) {
        self.write(Message::Close(Some(CloseFrame { code: code.into(), reason: "".into() })));
    }

    /// Flushes; says whether nothing is left to flush.
    pub(crate) fn flush(&mut self) -> bool {
        let flushed = self.stream.flush();
        self.wrote(flushed);
        !self.blocked
    }

    /// Whether bytes came since this was last asked, be they a whole frame or not.
    pub(crate) fn heard(&mut self) -> bool {
        take(&mut self.stream.get_mut().heard)
    }

    /// Whether the kernel took bytes since this was last asked.
    pub(crate) fn took(&mut self) -> bool {
        take(&mut self.stream.get_mut().took)
    }

    /// A frame that the kernel does not take is kept, and goes out with a later flush.
    fn write(&mut self, message: Message) {
        let sent = self.stream.send(message);
        self.wrote(sent);
    }

    fn wrote(&mut self, written: Result<(), Error>) {
        self.blocked = written.is_err();
        self.broken = self.broken.or(written.err().and_then(|error| loss_of(&error)));
    }
}

/// What an error means; nothing if the kernel only has no more for now.
fn loss_of(error: &Error) -> Option<Loss> {
    Some(match error {
        Error::Io(error) if error.kind() == ErrorKind::WouldBlock => return None,
        Error::Io(_) => Loss::Io,
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Loss::Eof,
        Error::Protocol(ProtocolError::HandshakeIncomplete) => Loss::Eof,
        Error::Http(it) => Loss::Status { status: it.status().as_u16(), retry_after: None },
        Error::Capacity(_) => Loss::TooLarge,
        _ => Loss::Protocol,
    })
}

/// A stream that notices whether bytes move.
pub(crate) struct Counted {
    stream: TcpStream,
    heard: bool,
    took: bool,
}

impl io::Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, IoError> {
        self.stream.read(buffer).inspect(|&read| self.heard |= read > 0)
    }
}

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, IoError> {
        self.stream.write(bytes).inspect(|&taken| self.took |= taken > 0)
    }

    fn flush(&mut self) -> Result<(), IoError> {
        self.stream.flush()
    }
}
