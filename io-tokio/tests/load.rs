//! Much traffic over real sockets: every message arrives, in order, and the ledger is balanced.

use std::{
    collections::BTreeMap,
    future::IntoFuture,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bowline_core::{Backoff, Jitter};
use bowline_tokio::{Body, Builder, Fate, Inbound, Plain, ReceiptError, WaitError};
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{WebSocketStream, accept_async, tungstenite::Message};

/// More than anything here should ever take, on however busy a machine.
const LONG: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_producers_in_parallel_keep_their_order_each() {
    const PRODUCERS: u64 = 8;
    const EACH: u64 = 20_000;
    let server = Server::start(|_| Behaviour::Reads { until: usize::MAX }).await;
    // Less room than there are messages, so that producers wait in line.
    let builder = server.builder().capacity(4096);
    let (client, _inbound) = builder.start().expect("good");
    let mut producers = Vec::new();
    for producer in 0..PRODUCERS {
        let client = client.clone();
        producers.push(tokio::spawn(async move {
            let mut last = None;
            for n in 0..EACH {
                // The three ways to send.
                let text = format!("{producer} {n}");
                last = Some(match n % 3 {
                    0 => client.send(text).await.expect("taken"),
                    1 => client.reserve().await.expect("room").send(text).expect("taken"),
                    _ => match client.try_send(text) {
                        Ok(receipt) => receipt,
                        Err(_) => client.send(format!("{producer} {n}")).await.expect("taken"),
                    },
                });
            }
            last.expect("sent").await
        }));
    }
    for producer in producers {
        let last = soon("a producer", producer).await.expect("no panic");
        assert_eq!(last, Ok(()));
    }
    let report = soon("the end", client.close(LONG)).await.expect("the driver lives");
    assert!(report.is_clean(), "{} failures", report.failures.len());

    let got = server.got();
    assert_eq!(
        got.len() as u64,
        PRODUCERS * EACH,
        "the server never resets, so nothing comes twice"
    );
    let mut next = BTreeMap::new();
    for text in &got {
        let (producer, n) = text.split_once(' ').expect("two numbers");
        let next = next.entry(producer.to_owned()).or_insert(0_u64);
        assert_eq!(n.parse(), Ok(*next), "of producer {producer}");
        *next += 1;
    }
    let stats = client.stats().client.outbox;
    assert_eq!(stats.accepted, PRODUCERS * EACH);
    assert_eq!(stats.delivered, PRODUCERS * EACH);
    assert_eq!(stats.transmits - stats.replays, PRODUCERS * EACH);
}

/// H38 H52: connections die all the time, in the middle of a replay too; first arrivals are in
/// order, none is missing, and every receipt is true.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn order_is_kept_over_connections_that_die_under_load() {
    const MESSAGES: usize = 20_000;
    let server = Server::start(|connection| match connection {
        0..40 => Behaviour::Reads { until: 100 + connection * 20 },
        _ => Behaviour::Reads { until: usize::MAX },
    })
    .await;
    let (client, _inbound) = server.builder().start().expect("good");
    let mut receipts = Vec::new();
    for n in 0..MESSAGES {
        receipts.push(soon("room", client.send(n.to_string())).await.expect("taken"));
    }
    for receipt in receipts {
        assert_eq!(soon("a receipt", receipt.into_future()).await, Ok(()));
    }
    assert!(server.connections() > 10, "hardly anything died");
    let mut next = 0;
    for text in server.got() {
        let n: usize = text.parse().expect("a number");
        assert!(n <= next, "{n} came before {next}");
        next = next.max(n + 1);
    }
    assert_eq!(next, MESSAGES);
    let stats = client.stats().client.outbox;
    assert_eq!((stats.accepted, stats.delivered), (MESSAGES as u64, MESSAGES as u64));
}

/// H67: a hundred thousand messages to a server that echoes each, and nobody reads: sending goes on,
/// waiting ends with a reason, and reading later delivers it all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_is_sent_to_an_echo_before_anything_is_read() {
    const MESSAGES: usize = 100_000;
    let server = Server::start(|_| Behaviour::Echoes).await;
    let builder = server.builder().configure(|config| {
        config.stall_limit = Duration::from_millis(200);
        config.inbound_messages = 100;
    });
    let (client, mut inbound) = builder.start().expect("good");
    // Large enough that the kernel's buffers cannot hold all the echoes.
    let text = |n: usize| format!("{n:0300}");
    for n in 0..MESSAGES {
        soon("room", client.send(text(n))).await.expect("there is room for them all");
    }
    assert_eq!(soon("a flush", client.flush()).await, Err(WaitError::Stalled));
    let reader = tokio::spawn(async move {
        for n in 0..MESSAGES {
            assert_eq!(inbound.recv().await, Some(Body::text(text(n))));
        }
        inbound
    });
    let inbound: Inbound<Body> = soon("the echoes", reader).await.expect("no panic");
    // Stalled for a moment more, until the driver has seen that all is read.
    let flushed = soon("the end of the stall", async {
        loop {
            match client.flush().await {
                Err(WaitError::Stalled) => tokio::time::sleep(Duration::from_millis(1)).await,
                flushed => return flushed,
            }
        }
    });
    let report = flushed.await.expect("the driver lives");
    assert!(report.is_clean());
    drop(inbound);
    client.close(LONG).await.expect("the driver lives");
}

/// H29: the kernel takes what a server never reads, and nobody calls that delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_never_reads_confirms_nothing() {
    let server = Server::start(|_| Behaviour::NeverReads).await;
    let builder = server.builder().capacity(2000).configure(|config| {
        config.connection.close_limit = Duration::from_millis(200);
    });
    let (client, _inbound) = builder.start().expect("good");
    let mut receipts = Vec::new();
    for n in 0..2000 {
        receipts.push(client.send(n.to_string()).await.expect("taken"));
    }
    let handed_over = || client.stats().client.outbox.transmits == 2000;
    soon("all are written", async {
        while !handed_over() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let waiting: Vec<_> =
        receipts.into_iter().map(|receipt| tokio::spawn(receipt.into_future())).collect();
    let report = soon("the end", client.close(Duration::from_millis(200))).await;
    let failures = report.expect("the driver lives").failures.len();
    let mut awaited = 0;
    for receipt in waiting {
        match soon("a receipt", receipt).await.expect("no panic") {
            Err(ReceiptError::Failed(failure)) => {
                assert_eq!(failure.fate, Fate::MaybeDelivered);
                awaited += 1;
            }
            Err(ReceiptError::Reported(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(failures + awaited, 2000);
    assert_eq!(server.got().len(), 0);
}

// ---- Helpers ------------------------------------------------------------------------------------

#[derive(Clone, Copy)]
enum Behaviour {
    /// Reads so many messages, then drops the connection without a Close.
    Reads {
        until: usize,
    },
    Echoes,
    NeverReads,
}

/// A server on this host.
struct Server {
    address: SocketAddr,
    got: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// What it does may differ from connection to connection; they are counted from 0.
    async fn start(behaviour: impl Fn(usize) -> Behaviour + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (got, connections) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
        let task = tokio::spawn({
            let (got, connections) = (Arc::clone(&got), Arc::clone(&connections));
            async move {
                loop {
                    let (stream, _) = listener.accept().await.expect("a connection");
                    let behaviour = behaviour(connections.fetch_add(1, Relaxed));
                    let got = Arc::clone(&got);
                    tokio::spawn(async move {
                        // A client may leave whenever it likes.
                        if let Ok(socket) = accept_async(stream).await {
                            serve(socket, behaviour, &got).await;
                        }
                    });
                }
            }
        });
        Self { address, got, connections, task }
    }

    fn builder(&self) -> Builder<Plain> {
        let soon = Duration::from_millis(1);
        let backoff = Backoff { base: soon, factor: 1, cap: soon, jitter: Jitter::None };
        Builder::new(format!("ws://{}", self.address)).backoff(backoff)
    }

    fn got(&self) -> Vec<String> {
        self.got.lock().expect("no panic").clone()
    }

    fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut socket: WebSocketStream<TcpStream>,
    behaviour: Behaviour,
    got: &Mutex<Vec<String>>,
) {
    match behaviour {
        Behaviour::NeverReads => std::future::pending().await,
        Behaviour::Reads { until } => {
            let mut read = 0;
            while let Some(Ok(message)) = socket.next().await {
                if let Message::Text(text) = message {
                    got.lock().expect("no panic").push(text.to_string());
                    read += 1;
                }
                if read >= until {
                    return;
                }
            }
        }
        Behaviour::Echoes => {
            while let Some(Ok(message)) = socket.next().await {
                if message.is_text() && socket.send(message).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(LONG, future).await {
        Ok(output) => output,
        Err(_) => panic!("still waiting: {what}"),
    }
}
