//! The usual loop: what everybody writes first, and written with care.
//!
//! It connects with a time limit, reads while it writes (so pings are answered and a Close is
//! seen), dials again at once after a loss and backs off while dialing fails, takes a message from
//! its queue only once `send().await` is Ok, and ends with a closing handshake. Its one mistake is
//! to believe that Ok.

use std::time::Duration;

use futures_util::{SinkExt, Stream, StreamExt};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{self, Message},
};

use crate::{
    Run,
    audit::{Numbers, Reported},
    progress::{Link, Progress},
    workload::payload,
};

const DIAL_LIMIT: Duration = Duration::from_secs(5);
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
const BACKOFF_BASE: Duration = Duration::from_millis(100);
const BACKOFF_CAP: Duration = Duration::from_millis(500);

pub(crate) async fn run(run: Run) -> Reported {
    let Run { url, schedule, progress } = run;
    let (producer, mut queue) = mpsc::unbounded_channel();
    let produce = async {
        for number in 0..schedule.messages {
            schedule.due(number).await;
            progress.sent();
            if producer.send(number).is_err() {
                return;
            }
        }
        drop(producer);
    };
    let deliver = async {
        let mut outgoing =
            Outgoing { head: None, queue: &mut queue, delivered: Numbers::default() };
        let mut connections = 0;
        loop {
            let (mut sink, mut stream) = dial(&url, &progress).await.split();
            connections += 1;
            tokio::select! {
                sent = outgoing.send_all(&mut sink) => if sent.is_ok() {
                    // Nothing is left to send; a peer that does not say goodbye changes nothing.
                    let _ = timeout(CLOSE_LIMIT, async {
                        sink.close().await?;
                        listen(&mut stream).await;
                        Ok::<_, tungstenite::Error>(())
                    })
                    .await;
                    break;
                },
                () = listen(&mut stream) => {}
            }
        }
        progress.link(Link::Done);
        (outgoing.delivered, connections - 1)
    };
    let ((), (delivered, reconnects)) = tokio::join!(produce, deliver);
    Reported { handed: schedule.messages, delivered, failed: Numbers::default(), reconnects }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Connects, however long it takes.
async fn dial(url: &str, progress: &Progress) -> Socket {
    let mut backoff = BACKOFF_BASE;
    loop {
        progress.link(Link::Dialing);
        let no_delay = true;
        let dialed = timeout(DIAL_LIMIT, connect_async_with_config(url, None, no_delay)).await;
        if let Ok(Ok((socket, _))) = dialed {
            progress.link(Link::Up);
            return socket;
        }
        let redial_at = Instant::now() + backoff;
        progress.link(Link::Waiting { redial_at });
        sleep_until(redial_at).await;
        backoff = (backoff * 2).min(BACKOFF_CAP);
    }
}

/// Reads until the connection is over.
async fn listen(stream: &mut (impl Stream<Item = tungstenite::Result<Message>> + Unpin)) {
    while let Some(Ok(_)) = stream.next().await {}
}

struct Outgoing<'a> {
    /// Taken from the queue, and not yet sent with an Ok.
    head: Option<u64>,
    queue: &'a mut mpsc::UnboundedReceiver<u64>,
    delivered: Numbers,
}

impl Outgoing<'_> {
    /// Sends until the queue has ended. Dropped in the middle of a send, it keeps the message, for
    /// the next connection to send again.
    async fn send_all<S>(&mut self, sink: &mut S) -> tungstenite::Result<()>
    where
        S: SinkExt<Message, Error = tungstenite::Error> + Unpin,
    {
        loop {
            if self.head.is_none() {
                self.head = self.queue.recv().await;
            }
            let Some(number) = self.head else {
                return Ok(());
            };
            sink.send(Message::text(payload(number))).await?;
            self.delivered.insert(number);
            self.head = None;
        }
    }
}
