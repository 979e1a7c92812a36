//! The bad network: a relay of bytes between client and server, with a delay and faults.
//!
//! Each direction of a connection is a delay line: bytes are read, wait for half of a round trip,
//! and are written. What waits in the line is in flight, and a reset destroys it. The line is
//! bounded; when it is full nothing more is read, and TCP slows the sender down.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    port::{self, Port, SOCKET_BUFFER_BYTES},
    script::Direction,
};

/// The most that is read at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// The most chunks that a delay line holds (so 8 MiB at most).
const LINE_CHUNKS: usize = 512;

/// A slow link is written to in pieces of this size, about a packet each.
const PACKET_BYTES: usize = 1_400;

/// How long a connection lives that is accepted while the network flaps: enough to upgrade and to
/// send something.
const FLAP_LIFE: Duration = Duration::from_millis(150);

/// How long an orderly close waits for the other side's.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// How long connections have to end once the client has finished.
const FINISH_LIMIT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cut {
    /// RST to both sides.
    Reset,
    /// FIN to both sides, and nothing of what they send is heard any more.
    Close,
}

/// What the network is like right now.
#[derive(Clone, Copy, Debug)]
struct Weather {
    /// Whether anybody listens on the proxy's port.
    open: bool,
    flapping: bool,
    silent: Option<Direction>,
    bytes_per_second: Option<f64>,
    /// How often all connections were cut: one that saw another number when it began is dead.
    cuts: u64,
    cut: Cut,
    finishing: bool,
}

const FAIR: Weather = Weather {
    open: true,
    flapping: false,
    silent: None,
    bytes_per_second: None,
    cuts: 0,
    cut: Cut::Reset,
    finishing: false,
};

type Forecast = watch::Receiver<Weather>;

/// A proxy. Dropped, it resets what it relays.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    serving: JoinSet<io::Result<()>>,
}

impl Proxy {
    /// Relays to `server`, with a `delay` in each direction.
    pub(crate) fn start(server: SocketAddr, delay: Duration) -> io::Result<Self> {
        let port = Port::reserve()?;
        let address = port.address();
        let listener = listen(&port)?;
        let (weather, forecast) = watch::channel(FAIR);
        let mut serving = JoinSet::new();
        serving.spawn(serve(port, listener, server, delay, forecast));
        Ok(Self { address, weather, serving })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets every connection.
    pub(crate) fn reset(&self) {
        self.cut(Cut::Reset);
    }

    /// Ends every connection in order.
    pub(crate) fn close(&self) {
        self.cut(Cut::Close);
    }

    /// Closes the port, or opens it again. Connections go on.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.weather.send_modify(|weather| weather.open = !refuse);
    }

    /// Swallows what goes in a direction.
    pub(crate) fn silence(&self, silent: Option<Direction>) {
        self.weather.send_modify(|weather| weather.silent = silent);
    }

    /// Limits what goes in each direction of each connection.
    pub(crate) fn slow(&self, bytes_per_second: Option<f64>) {
        self.weather.send_modify(|weather| weather.bytes_per_second = bytes_per_second);
    }

    /// Drops whatever is accepted from now on after a moment.
    pub(crate) fn flap(&self, flapping: bool) {
        self.weather.send_modify(|weather| weather.flapping = flapping);
    }

    /// Accepts nothing more and returns when the last connection has ended and all that it carried
    /// was delivered. A connection that does not end is reset.
    pub(crate) async fn finish(mut self) -> io::Result<()> {
        self.weather.send_modify(|weather| weather.finishing = true);
        let served = match timeout(FINISH_LIMIT, self.serving.join_next()).await {
            Ok(served) => served,
            Err(_) => {
                self.reset();
                self.serving.join_next().await
            }
        };
        served.expect("one task serves").map_err(io::Error::other)?
    }

    fn cut(&self, cut: Cut) {
        self.weather.send_modify(|weather| {
            weather.cuts += 1;
            weather.cut = cut;
        });
    }
}

fn listen(port: &Port) -> io::Result<TcpListener> {
    let listener = port::listen(port.address().port())?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn serve(
    port: Port,
    first: TcpListener,
    server: SocketAddr,
    delay: Duration,
    mut forecast: Forecast,
) -> io::Result<()> {
    let mut relays = JoinSet::new();
    let mut listener = Some(first);
    loop {
        let weather = *forecast.borrow_and_update();
        if weather.finishing {
            break;
        }
        listener = match listener {
            _ if !weather.open => None,
            None => Some(listen(&port)?),
            open => open,
        };
        tokio::select! {
            accepted = accept(listener.as_ref()) => {
                // Accepting fails where the connection is gone already: there is nothing to relay.
                if let Ok((client, _)) = accepted {
                    let born = *forecast.borrow();
                    relays.spawn(relay(client, server, delay, born, forecast.clone()));
                }
            }
            Some(_) = relays.join_next() => {}
            _ = forecast.changed() => {}
        }
    }
    drop(listener);
    while relays.join_next().await.is_some() {}
    Ok(())
}

/// The next connection; never, where nobody listens.
async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// The life of one connection, accepted when the weather was `born`.
async fn relay(
    mut client: TcpStream,
    server: SocketAddr,
    delay: Duration,
    born: Weather,
    forecast: Forecast,
) {
    let Ok(mut server) = connect(server).await else {
        return reset(client);
    };
    // Delays are the delay line's, not Nagle's.
    if client.set_nodelay(true).is_err() || server.set_nodelay(true).is_err() {
        return reset(client);
    }

    let cut = {
        let (client_reads, client_writes) = client.split();
        let (server_reads, server_writes) = server.split();
        let to_server = carry(Direction::ToServer, client_reads, server_writes, delay, &forecast);
        let to_client = carry(Direction::ToClient, server_reads, client_writes, delay, &forecast);
        let mut changes = forecast.clone();
        tokio::select! {
            carried = async { tokio::try_join!(to_server, to_client) } => match carried {
                // Both sides have closed and were told so by the other.
                Ok(_) => return,
                Err(_) => Cut::Reset,
            },
            cut = cut(born, &mut changes) => cut,
        }
    };
    match cut {
        Cut::Reset => {
            reset(client);
            reset(server);
        }
        Cut::Close => {
            tokio::join!(close(client), close(server));
        }
    }
}

async fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES as u32)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES as u32)?;
    socket.connect(server).await
}

/// Waits for the end that the network has in store for a connection.
async fn cut(born: Weather, forecast: &mut Forecast) -> Cut {
    let cut = async {
        match forecast.wait_for(|weather| weather.cuts != born.cuts).await {
            Ok(weather) => weather.cut,
            Err(_) => Cut::Reset,
        }
    };
    if born.flapping { timeout(FLAP_LIFE, cut).await.unwrap_or(Cut::Reset) } else { cut.await }
}

/// Ends a connection with RST: whatever the kernel still holds of it is thrown away.
fn reset(stream: TcpStream) {
    // It fails only for a connection that is gone already.
    let _ = stream.set_zero_linger();
}

/// Ends a connection with FIN. What still comes is read and dropped, for to close a socket with
/// unread bytes in it is to reset it.
async fn close(mut stream: TcpStream) {
    let _ = timeout(CLOSE_LIMIT, async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    })
    .await;
}

/// What is under way: bytes, the end of the stream (no bytes), or a reset.
struct Chunk {
    due_at: Instant,
    bytes: io::Result<Bytes>,
}

/// Carries one direction to its end.
async fn carry(
    direction: Direction,
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    delay: Duration,
    forecast: &Forecast,
) -> io::Result<()> {
    let (line, arriving) = mpsc::channel(LINE_CHUNKS);
    tokio::try_join!(take(from, line, delay), deliver(direction, arriving, to, forecast))?;
    Ok(())
}

async fn take(
    mut from: ReadHalf<'_>,
    line: mpsc::Sender<Chunk>,
    delay: Duration,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let read = from.read(&mut buffer).await;
        let last = !matches!(read, Ok(1..));
        let chunk = Chunk {
            due_at: Instant::now() + delay,
            bytes: read.map(|len| Bytes::copy_from_slice(&buffer[..len])),
        };
        if line.send(chunk).await.is_err() || last {
            return Ok(());
        }
    }
}

async fn deliver(
    direction: Direction,
    mut line: mpsc::Receiver<Chunk>,
    mut to: WriteHalf<'_>,
    forecast: &Forecast,
) -> io::Result<()> {
    let (mut broken, mut has_hole) = (false, false);
    while let Some(chunk) = line.recv().await {
        sleep_until(chunk.due_at).await;
        // No TCP stream goes on behind a hole, so nothing follows one, not even if the silence is
        // over a moment before the connection is cut.
        has_hole = has_hole || forecast.borrow().silent == Some(direction);
        if has_hole {
            continue;
        }
        let bytes = chunk.bytes?;
        if bytes.is_empty() {
            // It fails where the receiver is gone, which the other direction tells the sender.
            let _ = to.shutdown().await;
            return Ok(());
        }
        // Where the receiver is gone, the news of it travels behind what it sent before; until it
        // is there, the sender goes on talking to nobody.
        broken = broken || write(&mut to, &bytes, forecast).await.is_err();
    }
    // The end of the stream was swallowed: the receiver never learns of it.
    std::future::pending().await
}

/// Writes at the speed that the link has at the moment.
async fn write(to: &mut WriteHalf<'_>, mut bytes: &[u8], forecast: &Forecast) -> io::Result<()> {
    while !bytes.is_empty() {
        let limit = forecast.borrow().bytes_per_second;
        let len = match limit {
            Some(_) => bytes.len().min(PACKET_BYTES),
            None => bytes.len(),
        };
        to.write_all(&bytes[..len]).await?;
        bytes = &bytes[len..];
        if let Some(bytes_per_second) = limit {
            sleep(Duration::from_secs_f64(len as f64 / bytes_per_second)).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(20);

    /// A proxy with a connection through it, known to work: the client's and the server's end.
    async fn connected() -> (Proxy, TcpStream, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(server.local_addr().unwrap(), DELAY).unwrap();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut server, _) = server.accept().await.unwrap();
        server.write_u8(b'!').await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'!');
        (proxy, client, server)
    }

    #[tokio::test]
    async fn bytes_arrive_unchanged_and_late() {
        let (proxy, mut client, mut server) = connected().await;
        let sent: Vec<u8> = (0..1_000_000u32).map(|i| (i / 7) as u8).collect();
        let began = Instant::now();
        let read = async {
            let mut received = vec![0; 1];
            server.read_exact(&mut received).await.unwrap();
            assert!(began.elapsed() >= DELAY);
            server.read_to_end(&mut received).await.unwrap();
            received
        };
        let write = async {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let (received, ()) = tokio::join!(read, write);
        assert!(received == sent);
        drop((client, server));
        proxy.finish().await.unwrap();
    }

    #[tokio::test]
    async fn a_reset_destroys_what_is_in_flight() {
        let (proxy, mut client, mut server) = connected().await;
        client.write_all(b"gone").await.unwrap();
        proxy.reset();
        let mut received = Vec::new();
        let error = client.read_to_end(&mut received).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let error = server.read_to_end(&mut received).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(received.is_empty());
    }

    #[tokio::test]
    async fn what_the_dead_sent_before_arrives_before_the_news() {
        let (_proxy, mut client, mut server) = connected().await;
        server.write_all(b"last words").await.unwrap();
        server.set_zero_linger().unwrap();
        drop(server);
        // The proxy may be told of the death by a write, too.
        client.write_all(b"hello?").await.unwrap();
        let mut received = [0; 10];
        client.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"last words");
        assert!(matches!(client.read(&mut received).await, Ok(0) | Err(_)));
    }

    #[tokio::test]
    async fn a_close_is_orderly() {
        let (proxy, mut client, mut server) = connected().await;
        proxy.close();
        let mut received = Vec::new();
        assert_eq!(client.read_to_end(&mut received).await.unwrap(), 0);
        assert_eq!(server.read_to_end(&mut received).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn silence_in_one_direction_leaves_the_other() {
        let (proxy, mut client, mut server) = connected().await;
        proxy.silence(Some(Direction::ToServer));
        client.write_all(b"unheard").await.unwrap();
        server.write_all(b"heard").await.unwrap();
        let mut received = [0; 5];
        client.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"heard");
        proxy.reset();
        assert!(server.read_exact(&mut received).await.is_err());
    }

    #[tokio::test]
    async fn nothing_is_carried_behind_a_hole() {
        let (proxy, mut client, mut server) = connected().await;
        proxy.silence(Some(Direction::ToServer));
        client.write_all(b"unheard").await.unwrap();
        sleep(DELAY * 3).await;
        proxy.silence(None);
        client.write_all(b"behind").await.unwrap();
        assert!(timeout(DELAY * 5, server.read_u8()).await.is_err());
    }

    #[tokio::test]
    async fn a_closed_port_refuses_and_opens_again() {
        let (proxy, client, _server) = connected().await;
        proxy.refuse(true);
        // The port closes a moment after it is told to.
        loop {
            match TcpStream::connect(proxy.address()).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => break,
                _ => tokio::task::yield_now().await,
            }
        }
        proxy.refuse(false);
        while TcpStream::connect(proxy.address()).await.is_err() {
            tokio::task::yield_now().await;
        }
        drop(client);
    }

    #[tokio::test]
    async fn while_it_flaps_a_connection_is_accepted_and_reset() {
        let (proxy, ..) = connected().await;
        proxy.flap(true);
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let error = client.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
