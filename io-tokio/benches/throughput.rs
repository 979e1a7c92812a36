//! What Bowline costs, as a share of what the same machine does without it.
//!
//! ```text
//! cargo bench -p bowline-tokio --bench throughput
//! cargo bench -p bowline-tokio --bench throughput -- --rounds 30 --only direct,received
//! ```
//!
//! Contenders take turns, round by round, on one thread, against a server on another. A round of a
//! contender is compared with the round of `direct` next to it, so whatever else the machine does
//! hits both. A message counts once the server has read it; a round of Bowline is over only when
//! `flush` says so, too, so the settling of messages is paid for by the round that sent them.
//!
//! Two ratios are printed for throughput, each as the median of all rounds with the lowest and the
//! highest: of messages by the clock on the wall, and of messages by the CPU time of the client's
//! thread. The second is the one to compare on a machine that has other things to do. Rates depend
//! on the machine and are printed as information only.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use bowline_tokio::{Body, Builder, Handle, Level, Phase, Plain};
use bytes::Bytes;
use clap::Parser;
use futures_util::SinkExt;
use tokio::sync::mpsc;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{self, Message},
};

/// Messages that `direct` feeds before it flushes: what Bowline's driver does at most.
const BATCH: usize = 256;
/// How many messages wait in front of the task of `channel`.
const CHANNEL: usize = 1024;
/// Lone messages in a round.
const LONE: usize = 50;
/// The time between two of them: longer than a round trip, so that each really is alone.
const PAUSE: Duration = Duration::from_millis(1);

/// Measures throughput and latency, as ratios.
#[derive(Parser)]
struct Arguments {
    /// How often every contender has its turn
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Bytes sent in a round, as far as the number of messages stays within 20,000 and 400,000
    #[arg(long, default_value_t = 20_000_000)]
    bytes: usize,
    /// Only these contenders
    #[arg(long, value_delimiter = ',', default_values_t = NAMES.map(String::from))]
    only: Vec<String>,
    /// Only this payload size
    #[arg(long)]
    size: Option<usize>,
    /// Cargo says this to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

const NAMES: [&str; 4] = ["direct", "channel", "written", "received"];

fn main() {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("there is a runtime").block_on(async {
        let sizes = arguments.size.map_or(vec![64, 1024], |size| vec![size]);
        for size in sizes {
            let messages = (arguments.bytes / size).clamp(20_000, 400_000);
            println!("throughput, {messages} messages of {size} B a round");
            let mut lanes = Lane::open(&arguments.only, messages).await;
            compare(&mut lanes, arguments.rounds, Comparison::Throughput { messages, size }).await;
        }
        println!("latency of a lone message of 64 B, median of {LONE} a round");
        let mut lanes = Lane::open(&arguments.only, 1).await;
        compare(&mut lanes, arguments.rounds, Comparison::Latency).await;
    });
}

#[derive(Clone, Copy)]
enum Comparison {
    Throughput { messages: usize, size: usize },
    Latency,
}

/// Lets every lane have its turn, round by round, and prints how they did.
async fn compare(lanes: &mut [Lane], rounds: u32, what: Comparison) {
    let mut wall = vec![Vec::new(); lanes.len()];
    let mut cpu = vec![Vec::new(); lanes.len()];
    // The first round is a rehearsal: buffers grow, the allocator fills its pools.
    for round in 0..=rounds as usize {
        for turn in 0..lanes.len() {
            // Nobody always comes after the same one.
            let index = (turn + round) % lanes.len();
            let before = cpu_time();
            let took = match what {
                Comparison::Throughput { messages, size } => {
                    lanes[index].crowd(messages, size).await
                }
                Comparison::Latency => lanes[index].alone().await,
            };
            if round > 0 {
                wall[index].push(took.as_secs_f64());
                cpu[index].push((cpu_time() - before).as_secs_f64());
            }
        }
    }
    for (index, lane) in lanes.iter().enumerate() {
        let name = format!("{}/{}", lane.name, lanes[0].name);
        let (_, time, _) = spread(wall[index].clone());
        match what {
            Comparison::Throughput { messages, .. } => {
                let by_wall = ratio(&wall[0], &wall[index]);
                let by_cpu = ratio(&cpu[0], &cpu[index]);
                let rate = messages as f64 / time;
                println!("  {name:<16} {by_wall}   by CPU {by_cpu}   {rate:>9.0} messages/s");
            }
            Comparison::Latency => {
                let by_wall = ratio(&wall[index], &wall[0]);
                println!("  {name:<16} {by_wall}   {:.1} µs", time * 1e6);
            }
        }
    }
}

/// The ratio of each pair: median, lowest, highest.
fn ratio(dividends: &[f64], divisors: &[f64]) -> String {
    let ratios = dividends.iter().zip(divisors).map(|(dividend, divisor)| dividend / divisor);
    let (low, median, high) = spread(ratios.collect());
    format!("{median:.2} ({low:.2}–{high:.2})")
}

/// Lowest, median, highest.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[0], values[values.len() / 2], values[values.len() - 1])
}

/// How long this thread, which is all of the client, has been running.
#[cfg(unix)]
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("it is positive")
}

/// Without that clock, the ratio by CPU is that by the wall.
#[cfg(not(unix))]
fn cpu_time() -> Duration {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    START.elapsed()
}

/// A contender with a connection and a server of its own.
struct Lane {
    name: String,
    client: Client,
    /// When the server had read another round.
    arrived: mpsc::UnboundedReceiver<Instant>,
}

enum Client {
    /// One task that feeds and flushes: nothing can be faster with this WebSocket library.
    Direct(Box<WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>>),
    /// A bounded channel in front of such a task: what is usually written.
    Channel(mpsc::Sender<Bytes>),
    /// Bowline, at a level.
    Bowline(Handle<Plain>),
}

impl Lane {
    async fn open(names: &[String], every: usize) -> Vec<Self> {
        let mut lanes = Vec::new();
        for name in names {
            let (url, arrived) = serve(every);
            let client = match name.as_str() {
                "direct" => Client::Direct(Box::new(connect(&url).await)),
                "channel" => Client::Channel(channel(connect(&url).await)),
                "written" => Client::Bowline(bowline(url, Level::Written).await),
                "received" => Client::Bowline(bowline(url, Level::Received).await),
                name => panic!("{name} is none of {NAMES:?}"),
            };
            lanes.push(Self { name: name.clone(), client, arrived });
        }
        lanes
    }

    /// The time that many messages take.
    async fn crowd(&mut self, messages: usize, size: usize) -> Duration {
        let start = Instant::now();
        match &mut self.client {
            Client::Direct(socket) => {
                for first in (0..messages).step_by(BATCH) {
                    for _ in first..messages.min(first + BATCH) {
                        socket.feed(Message::Binary(payload(size))).await.expect("it is open");
                    }
                    socket.flush().await.expect("it is open");
                }
            }
            Client::Channel(sender) => {
                for _ in 0..messages {
                    sender.send(payload(size)).await.expect("the task lives");
                }
            }
            Client::Bowline(handle) => {
                for _ in 0..messages {
                    handle.send(Body::binary(payload(size))).await.expect("the client runs");
                }
                let report = handle.flush().await.expect("the client runs");
                assert!(report.is_clean(), "all were delivered");
            }
        }
        let settled = Instant::now();
        let arrived = self.arrived.recv().await.expect("the server reads");
        match self.client {
            Client::Direct(_) | Client::Channel(_) => arrived - start,
            Client::Bowline(_) => arrived.max(settled) - start,
        }
    }

    /// The median time from sending a message while nothing else is going on until the server has
    /// it.
    async fn alone(&mut self) -> Duration {
        let mut times = Vec::with_capacity(LONE);
        for _ in 0..LONE {
            tokio::time::sleep(PAUSE).await;
            let start = Instant::now();
            match &mut self.client {
                Client::Direct(socket) => {
                    socket.send(Message::Binary(payload(64))).await.expect("it is open");
                }
                Client::Channel(sender) => sender.send(payload(64)).await.expect("the task lives"),
                Client::Bowline(handle) => {
                    handle.send(Body::binary(payload(64))).await.expect("the client runs");
                }
            }
            times.push(self.arrived.recv().await.expect("the server reads") - start);
        }
        times.sort();
        times[LONE / 2]
    }
}

/// A message of its own for each send, as an application would make.
fn payload(size: usize) -> Bytes {
    Bytes::from(vec![b'.'; size])
}

async fn connect(url: &str) -> WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>> {
    let no_delay = true;
    let (socket, _) =
        connect_async_with_config(url, None, no_delay).await.expect("it is listening");
    socket
}

/// The usual task: it feeds what there is and flushes when there is no more.
fn channel<S>(mut sink: S) -> mpsc::Sender<Bytes>
where
    S: SinkExt<Message, Error = tungstenite::Error> + Unpin + Send + 'static,
{
    let (sender, mut queue) = mpsc::channel(CHANNEL);
    tokio::spawn(async move {
        while let Some(bytes) = queue.recv().await {
            sink.feed(Message::Binary(bytes)).await.expect("it is open");
            while let Ok(bytes) = queue.try_recv() {
                sink.feed(Message::Binary(bytes)).await.expect("it is open");
            }
            sink.flush().await.expect("it is open");
        }
    });
    sender
}

async fn bowline(url: String, level: Level) -> Handle<Plain> {
    let (handle, inbound) = Builder::new(url).level(level).start().expect("the settings are valid");
    // The server says nothing but pongs.
    drop(inbound);
    let up = |status: &bowline_tokio::Status| status.phase == Phase::Up;
    handle.status().wait_for(up).await.expect("the client runs");
    handle
}

// ---- The server -------------------------------------------------------------------------------

/// Starts a server for one connection, which says when it has read another `every` messages.
fn serve(every: usize) -> (String, mpsc::UnboundedReceiver<Instant>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a loopback interface");
    let url = format!("ws://{}", listener.local_addr().expect("it is bound"));
    let (done, arrived) = mpsc::unbounded_channel();
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client comes");
        stream.set_nodelay(true).expect("it is TCP");
        let socket = tungstenite::accept(stream).expect("it is a WebSocket");
        // The client has sent nothing before the answer, so there is nothing in its buffer.
        // A connection that ends is the end of the comparison.
        let _ = read(socket.into_inner(), every, &done);
    });
    (url, arrived)
}

/// Reads frames and answers pings. It looks at headers only: a server that took longer than the
/// clients would measure itself.
fn read(
    mut stream: TcpStream,
    every: usize,
    done: &mpsc::UnboundedSender<Instant>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let (mut filled, mut left) = (0, every);
    loop {
        let read = stream.read(&mut buffer[filled..])?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let mut rest = &buffer[..filled];
        while let Some((opcode, payload, after)) = frame(rest) {
            match opcode {
                0x8 => return Ok(()),
                0x9 => {
                    let mut pong = vec![0x8a, payload.len() as u8 - 4];
                    let (mask, masked) = payload.split_at(4);
                    pong.extend(masked.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
                    stream.write_all(&pong)?;
                }
                _ => left -= 1,
            }
            if left == 0 {
                left = every;
                let _ = done.send(Instant::now());
            }
            rest = after;
        }
        let kept = filled - rest.len();
        buffer.copy_within(kept..filled, 0);
        filled -= kept;
    }
}

/// The first frame, if it is there as a whole (RFC 6455 §5.2): opcode, mask and payload, the rest.
fn frame(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[first, second], rest) = bytes.split_first_chunk()?;
    let (length, rest) = match second & 0x7f {
        126 => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        127 => {
            let (length, rest) = rest.split_first_chunk()?;
            (u64::from_be_bytes(*length) as usize, rest)
        }
        length => (usize::from(length), rest),
    };
    let (payload, rest) = rest.split_at_checked(4 + length)?;
    Some((first & 0x0f, payload, rest))
}
