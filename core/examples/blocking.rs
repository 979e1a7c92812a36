//! A client without async: threads, a poller and plain tungstenite. Run it with
//! `cargo run -p bowline-core --example blocking -- ws://127.0.0.1:9001/ MESSAGES RATE`.
//!
//! One thread produces messages, one lives for as long as a dial, and the main thread drives the
//! client over a socket that does not block. It prints what `chaos --exec` wants to know.
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "a driver has a clock")]

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant as Clock};
use std::{error, io, thread};

use bowline_core::{Attempt, Client, ClientConfig, Event, Frame, Instant, Loss, Opened};
use bowline_core::{Output, Plain, PushOptions, Received, Wire};
use mio::{Events, Interest, Poll, Token, Waker};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Error, HandshakeError, Message, WebSocket, client, http::Uri};

/// How long every message is: its number in decimal, padded.
const MESSAGE_BYTES: usize = 100;
const DRAIN_LIMIT: Duration = Duration::from_secs(60);
const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);
type Socket = WebSocket<mio::net::TcpStream>;

fn main() -> Result<(), Box<dyn error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [url, total, rate] = &arguments[..] else { return Err("URL MESSAGES RATE".into()) };
    let (url, total, rate): (Uri, u64, f64) = (url.parse()?, total.parse()?, rate.parse()?);
    let (Some("ws"), Some(_)) = (url.scheme_str(), url.host()) else { return Err("no ws".into()) };
    let epoch = Clock::now();
    let now = move || Instant::ZERO + epoch.elapsed();
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(8));
    // A socket's token is the number of its attempt, and there is no attempt 0.
    let waker = Arc::new(Waker::new(poll.registry(), Token(0))?);
    let (producer, messages) = mpsc::sync_channel(1024);
    let (dialed, dials) = mpsc::channel::<(Attempt, Result<Socket, Loss>)>();

    let wake = waker.clone();
    thread::spawn(move || {
        // The messages, each when it is due, and then none. A full channel holds this thread back.
        for number in 0..=total {
            let due = Duration::from_secs_f64(number as f64 / rate);
            thread::sleep(due.saturating_sub(epoch.elapsed()));
            let _ = producer.send((number < total).then(|| format!("{number:.<MESSAGE_BYTES$}")));
            let _ = wake.wake();
        }
    });

    let mut config = ClientConfig::default();
    let dial_limit = config.connection.dial_limit;
    config.connection.ping_interval = Duration::from_secs(1);
    config.connection.pong_limit = Duration::from_secs(2);
    config.connection.backoff.base = Duration::from_millis(100);
    config.connection.backoff.cap = Duration::from_millis(500);
    let mut client = Client::new(config, Plain, ChaCha8Rng::try_from_rng(&mut getrandom::SysRng)?)?;
    let mut open: Option<(Attempt, Socket)> = None;
    let (mut delivered, mut failed) = (Vec::new(), Vec::new());
    client.handle(now(), Event::Start);
    // A turn does each thing once, so that nothing starves. If it moves nothing, it ends in sleep.
    while !client.is_over() {
        let (mut wire, mut moved) = (Wire::Blocked, false);
        if let Some((a, socket)) = &mut open {
            let (a, flushed) = (*a, socket.flush());
            if flushed.is_ok() {
                wire = Wire::Ready;
                client.handle(now(), Event::Flushed(a));
            }
            // A write that failed is believed only when all that the peer said before was read.
            let read = read(socket).map_err(|loss| loss.or_else(|| loss_of(&flushed.err()?)));
            moved = read != Err(None);
            match read {
                // What the server says is of no interest to this client.
                Ok(Some(frame)) => drop(client.receive(now(), a, frame)),
                Ok(None) | Err(None) => {}
                Err(Some(loss)) => {
                    let _ = socket.flush(); // the answer to a Close
                    open = None;
                    client.handle(now(), Event::Lost(a, loss));
                }
            }
        }
        if !moved {
            client.handle(now(), Event::Tick);
        }
        for (a, outcome) in dials.try_iter() {
            match outcome {
                Ok(mut socket) if client.is_dialing(a) => {
                    poll.registry().register(socket.get_mut(), Token(a.get() as usize), BOTH)?;
                    open = Some((a, socket));
                    client.handle(now(), Event::Opened(Opened::new(a, ())));
                }
                Ok(_given_up) => {}
                Err(loss) => client.handle(now(), Event::Lost(a, loss)),
            }
        }
        if client.outbox().has_room_for(MESSAGE_BYTES) {
            match messages.try_recv() {
                Ok(Some(text)) => {
                    moved = true;
                    client.push(now(), text.into(), PushOptions::default())?;
                }
                Ok(None) => client.handle(now(), Event::Close { deadline: now() + DRAIN_LIMIT }),
                Err(_) => {}
            }
        }
        let mut wait = Some(Duration::ZERO);
        match client.poll(wire) {
            Output::WaitUntil(deadline) if !moved => wait = deadline.map(|it| it.at.since(now())),
            Output::Dial(a) => {
                open = None;
                let (url, dialed, waker) = (url.clone(), dialed.clone(), waker.clone());
                thread::spawn(move || {
                    let lost = |error| loss_of(&error).unwrap_or(Loss::DialLimit);
                    let _ = dialed.send((a, dial(&url, dial_limit).map_err(lost)));
                    let _ = waker.wake();
                });
            }
            Output::Abort(_) => open = None,
            // What the kernel does not take goes out with a later flush.
            Output::Send(_, frame) => {
                let Some((_, socket)) = &mut open else { continue };
                let _ = socket.send(match frame {
                    Frame::Ping(ping) => Message::Ping(ping.payload()),
                    Frame::Data(body) => Message::text(body.as_text().expect("we push text only")),
                });
            }
            Output::Close(_, code) => {
                let Some((_, socket)) = &mut open else { continue };
                let _ = socket.close(Some(CloseFrame { code: code.into(), reason: "".into() }));
            }
            Output::Delivered { first, last } => delivered.push([first.get() - 1, last.get() - 1]),
            Output::Failed(it) => failed.push([it.id.seq.get() - 1; 2]), // Seq begins at 1
            // Nobody is here who could mend it and start again.
            Output::Status(status) if status.is_stopped() => {
                client.handle(now(), Event::Close { deadline: now() });
            }
            Output::Status(_) | Output::WaitUntil(_) => {}
        }
        match poll.poll(&mut events, wait) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        for event in &events {
            let a = Attempt::new(event.token().0 as u64);
            if event.is_readable() {
                client.handle(now(), Event::Heard(a));
            }
            if event.is_writable() {
                client.handle(now(), Event::Took(a));
            }
        }
    }
    let reconnects = client.stats().connection.links.saturating_sub(1);
    println!(r#"{{"delivered": {delivered:?}, "failed": {failed:?}, "reconnects": {reconnects}}}"#);
    Ok(())
}

/// Connects and upgrades. Blocks, first of all while a name is looked up, so it needs a thread.
fn dial(url: &Uri, limit: Duration) -> Result<Socket, Error> {
    let address = format!("{}:{}", url.host().unwrap_or(""), url.port_u16().unwrap_or(80));
    let connect = |address| TcpStream::connect_timeout(&address, limit).ok();
    let stream = address.to_socket_addrs()?.find_map(connect);
    let stream = stream.ok_or(Error::Io(io::ErrorKind::ConnectionRefused.into()))?;
    stream.set_nodelay(true).and(stream.set_read_timeout(Some(limit)))?;
    let same = stream.try_clone()?;
    // Room for our largest frame, but not for the pongs to a flood of pings.
    let config = WebSocketConfig::default().max_write_buffer_size(2 << 20);
    match client::client_with_config(url, mio::net::TcpStream::from_std(stream), Some(config)) {
        Ok((socket, _)) => same.set_nonblocking(true).map(|()| socket).map_err(Error::Io),
        Err(HandshakeError::Failure(error)) => Err(error),
        Err(HandshakeError::Interrupted(_)) => Err(Error::Io(io::ErrorKind::WouldBlock.into())),
    }
}

/// What the peer sent, if it is for the client. The error is none if there is nothing for now.
fn read(socket: &mut Socket) -> Result<Option<Received>, Option<Loss>> {
    match socket.read().map_err(|error| loss_of(&error))? {
        Message::Text(text) => Ok(Some(Received::Data(text.as_str().into()))),
        Message::Binary(bytes) => Ok(Some(Received::Data(bytes.into()))),
        Message::Pong(payload) => Ok(Some(Received::Pong(payload))),
        // Tungstenite answers it with the next flush.
        Message::Ping(_) | Message::Frame(_) => Ok(None),
        Message::Close(frame) => Err(Some(Loss::Closed { code: frame.map(|it| it.code.into()) })),
    }
}

/// Why a call failed; none if it would have had to wait.
fn loss_of(error: &Error) -> Option<Loss> {
    match error {
        Error::Io(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Error::Io(_) => Some(Loss::Io),
        Error::ConnectionClosed | Error::Protocol(ResetWithoutClosingHandshake) => Some(Loss::Eof),
        Error::Capacity(_) => Some(Loss::TooLarge),
        Error::Http(it) => Some(Loss::from_status(it.status(), it.headers().get("retry-after"))),
        _ => Some(Loss::Protocol),
    }
}
