//! What the server process does.
//!
//! **Direct.** It reads a frame, writes the number of its message into the [ledger](crate::ledger),
//! and only then reads the next. A ping is a frame like any other, and its pong leaves with the read
//! after it: when a ping is answered, all that was sent before it is in the ledger.
//!
//! **Reading ahead.** What is read goes into a queue without a bound, as with Node's `ws` and a
//! handler that awaits something. One handler takes from it, in order, at a pace of its own: twice as
//! fast as messages are sent, so that it keeps up although the process is away for a third of the
//! time, but needs a while to work off what comes at once after an outage. A pong then says only that the message is in the queue. What is
//! put there is recorded first, so that when the process is killed it is known what died with it.
//!
//! **Acknowledging** (level `Acked`). Messages come in frames of `Numbered`, and an [`Inbox`] says
//! which are new. One is done, and is acknowledged, once its line is in the ledger, by whichever of
//! the two ways it gets there. A line is the effect and the mark at once, and a process that starts
//! takes the marks from the ledger. So each message is there exactly once.

use std::{
    io::{self, Write},
    iter,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use bowline_core::{
    Body, Inbox, InboxConfig, Lane, MessageId, Offer,
    numbered::{Messages, reply},
};
use futures_util::{SinkExt, StreamExt};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_tungstenite::{accept_async, tungstenite::Message};

use crate::{
    Result,
    audit::Level,
    ledger::{self, Ledger},
    port,
    server::{Kind, LEDGER, READ_AHEAD, READY, Setup},
    workload,
};

/// By how much a handler that was held up may hurry.
const HURRY: Duration = Duration::from_millis(20);

/// Serves until stdin ends, the last connection is over and the last message is written down. Stdin
/// ends when the supervisor has finished, or has died: no orphan stays.
#[tokio::main]
pub(crate) async fn serve(port: u16, folder: &Path, setup: Setup) -> Result<()> {
    let (application, mut queue) = Application::open(folder, setup)?;
    let application = Arc::new(application);
    let listener = port::listen(port)?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    println!("{READY}");
    io::stdout().flush()?;

    let (finish, mut finished) = oneshot::channel();
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = finish.send(());
    });
    let connections = async {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Ok((stream, _)) = listener.accept() => {
                    let application = Arc::clone(&application);
                    // A connection that breaks is what this program is about.
                    connections.spawn(async move { drop(receive(stream, &application).await) });
                }
                Some(_) = connections.join_next() => {}
                _ = &mut finished => break,
            }
        }
        while connections.join_next().await.is_some() {}
        application.close_queue();
        Ok(())
    };
    tokio::try_join!(connections, handle(&mut queue, &application, setup.rate))?;
    Ok(())
}

/// A message that is new.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    number: u64,
    /// Its name, at level `Acked`.
    name: Option<MessageId>,
}

type Queue = mpsc::UnboundedReceiver<Arrival>;

/// What connections share.
struct Application {
    setup: Setup,
    ledger: Ledger,
    /// That of the one client.
    inbox: Mutex<Inbox>,
    /// Something was done.
    done: watch::Sender<()>,
    read_ahead: Ledger,
    /// To the handler; none once nothing more will come.
    queue: Mutex<Option<mpsc::UnboundedSender<Arrival>>>,
}

impl Application {
    fn open(folder: &Path, setup: Setup) -> Result<(Self, Queue)> {
        let path = folder.join(LEDGER);
        let ledger = Ledger::open(&path)?;
        let (sender, queue) = mpsc::unbounded_channel();
        let application = Self {
            setup,
            ledger,
            inbox: Mutex::new(Inbox::restore(InboxConfig::default(), ledger::names(&path)?)?),
            done: watch::Sender::new(()),
            read_ahead: Ledger::open(&folder.join(READ_AHEAD))?,
            queue: Mutex::new(Some(sender)),
        };
        Ok((application, queue))
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().expect("no holder of this lock panics")
    }

    /// A frame with messages has come.
    fn read(&self, lane: Lane, frame: Message) -> Result<()> {
        // Until all of it is where it belongs: a newer connection must not overtake this one.
        let mut inbox = self.inbox();
        if self.setup.level == Level::Received {
            let number = workload::number(&frame.into_data());
            return self.arrived(&mut inbox, number, None);
        }
        let frame = Body::text(frame.into_text()?.as_str());
        let Messages { outbox, base, messages } = Messages::parse(&frame)?;
        for (seq, data) in messages {
            let name = MessageId { outbox, seq };
            match inbox.offer(lane, name, base) {
                Offer::New => {
                    let number = data.to::<&str>().ok();
                    let number = number.and_then(|text| workload::number(text.as_bytes()));
                    self.arrived(&mut inbox, number, Some(name))?;
                }
                Offer::Duplicate | Offer::Refused => {}
                Offer::Stale => return Err("there is a newer connection".into()),
            }
        }
        Ok(())
    }

    fn arrived(
        &self,
        inbox: &mut Inbox,
        number: Option<u64>,
        name: Option<MessageId>,
    ) -> Result<()> {
        // No message has the number that stands for a payload nobody sent.
        let arrival = Arrival { number: number.unwrap_or(u64::MAX), name };
        match self.setup.kind {
            Kind::Direct => self.write_down(inbox, arrival),
            Kind::Readahead => {
                self.read_ahead.record(arrival.number, arrival.name)?;
                let queue = self.queue.lock().expect("no holder of this lock panics");
                let queue = queue.as_ref().ok_or("the handler has finished")?;
                Ok(queue.send(arrival)?)
            }
        }
    }

    /// The effect of a message.
    fn write_down(&self, inbox: &mut Inbox, Arrival { number, name }: Arrival) -> Result<()> {
        self.ledger.record(number, name)?;
        if let Some(name) = name {
            inbox.done(name)?;
            self.done.send_replace(());
        }
        Ok(())
    }

    fn close_queue(&self) {
        self.queue.lock().expect("no holder of this lock panics").take();
    }
}

/// One connection.
async fn receive(stream: TcpStream, application: &Application) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut socket = accept_async(stream).await?;
    let lane = application.inbox().connect();
    let mut done = application.done.subscribe();
    loop {
        tokio::select! {
            // This read sends the pong that is owed for a ping of the read before.
            frame = socket.next() => match frame {
                Some(Ok(frame)) if frame.is_text() || frame.is_binary() => {
                    application.read(lane, frame)?;
                }
                Some(frame) => drop(frame?),
                None => return Ok(()),
            },
            Ok(()) = done.changed() => {}
        }
        let answer = reply(iter::from_fn(|| application.inbox().poll(lane)), None);
        if let Some(answer) = answer.as_ref().and_then(Body::as_text) {
            socket.send(Message::text(answer)).await?;
        }
    }
}

/// The handler behind the queue, until that is closed.
async fn handle(queue: &mut Queue, application: &Application, rate: u64) -> Result<()> {
    let pace = Duration::from_secs_f64(1.0 / (2.0 * rate as f64));
    let mut free_at = Instant::now();
    while let Some(arrival) = queue.recv().await {
        free_at = (free_at + pace).max(Instant::now() - HURRY);
        sleep_until(free_at).await;
        application.write_down(&mut application.inbox(), arrival)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bowline_core::{OutboxId, Seq};
    use tempfile::TempDir;
    use tokio_tungstenite::{WebSocketStream, client_async};

    use super::*;
    use crate::ledger::Tail;

    const MESSAGES: u64 = 1_000;

    #[tokio::test]
    async fn a_pong_says_that_all_before_the_ping_is_in_the_ledger() {
        let (mut socket, _, folder) = connected(Level::Received, Kind::Direct).await;
        send_and_ping(&mut socket).await;
        assert!(numbers(&folder, LEDGER).into_iter().eq(0..MESSAGES));
    }

    #[tokio::test]
    async fn a_pong_of_a_server_that_reads_ahead_says_that_all_before_the_ping_was_read() {
        let (mut socket, mut queue, folder) = connected(Level::Received, Kind::Readahead).await;
        send_and_ping(&mut socket).await;
        assert!(numbers(&folder, READ_AHEAD).into_iter().eq(0..MESSAGES));
        assert!(numbers(&folder, LEDGER).is_empty(), "the handler has not begun");
        assert!((0..MESSAGES).all(|number| queue.try_recv().unwrap().number == number));
    }

    #[tokio::test]
    async fn an_ack_says_that_a_message_and_all_before_it_are_in_the_ledger() {
        let (mut socket, _, folder) = connected(Level::Acked, Kind::Direct).await;
        socket.send(numbered(1, [(1, 0), (3, 1)])).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), ack(3));
        assert_eq!(numbers(&folder, LEDGER), [0, 1]);
    }

    #[tokio::test]
    async fn a_server_that_reads_ahead_acknowledges_what_its_handler_has_done() {
        let (mut socket, mut queue, folder) = connected(Level::Acked, Kind::Readahead).await;
        socket.send(numbered(1, [(1, 0), (2, 1)])).await.unwrap();
        socket.send(Message::Ping("read".into())).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("read".into()));
        assert!(numbers(&folder, LEDGER).is_empty(), "the handler has not begun");
        let first = queue.recv().await.unwrap();
        let application = &socket.application;
        application.write_down(&mut application.inbox(), first).unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), ack(1));
        assert_eq!(numbers(&folder, LEDGER), [0]);
    }

    #[tokio::test]
    async fn a_server_that_is_started_again_knows_from_the_ledger_what_is_done() {
        let (mut socket, _, folder) = connected(Level::Acked, Kind::Direct).await;
        socket.send(numbered(1, [(1, 0), (2, 1)])).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), ack(2));
        let (mut socket, _) = connected_in(&folder, Level::Acked, Kind::Direct).await;
        socket.send(numbered(1, [(1, 0), (2, 1), (3, 2)])).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), ack(3));
        assert_eq!(numbers(&folder, LEDGER), [0, 1, 2]);
    }

    // ---- The client of a server without a handler ----------------------------------------------

    struct Socket {
        stream: WebSocketStream<TcpStream>,
        application: Arc<Application>,
    }

    impl std::ops::Deref for Socket {
        type Target = WebSocketStream<TcpStream>;

        fn deref(&self) -> &Self::Target {
            &self.stream
        }
    }

    impl std::ops::DerefMut for Socket {
        fn deref_mut(&mut self) -> &mut Self::Target {
            &mut self.stream
        }
    }

    async fn connected(level: Level, kind: Kind) -> (Socket, Queue, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let (socket, queue) = connected_in(&folder, level, kind).await;
        (socket, queue, folder)
    }

    async fn connected_in(folder: &TempDir, level: Level, kind: Kind) -> (Socket, Queue) {
        let setup = Setup { level, kind, rate: 1_000 };
        let (application, queue) = Application::open(folder.path(), setup).unwrap();
        let application = Arc::new(application);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let served = Arc::clone(&application);
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let _ = receive(stream, &served).await;
        });
        let (stream, _) = client_async("ws://localhost/", stream).await.unwrap();
        (Socket { stream, application }, queue)
    }

    async fn send_and_ping(socket: &mut Socket) {
        for number in 0..MESSAGES {
            socket.feed(Message::text(workload::payload(number))).await.unwrap();
        }
        socket.send(Message::Ping("receipt".into())).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("receipt".into()));
    }

    /// A frame with these messages: seq and number.
    fn numbered<const N: usize>(base: u64, messages: [(u64, u64); N]) -> Message {
        let messages = messages.map(
            |(seq, number)| serde_json::json!({ "seq": seq, "data": workload::payload(number) }),
        );
        let id = OutboxId::new(7).to_string();
        let frame = serde_json::json!({ "id": id, "base": base, "messages": messages.to_vec() });
        Message::text(frame.to_string())
    }

    fn ack(seq: u64) -> Message {
        let id = MessageId { outbox: OutboxId::new(7), seq: Seq::new(seq) };
        let body = reply([bowline_core::Answer::Ack(id)], None).unwrap();
        Message::text(body.as_text().unwrap())
    }

    fn numbers(folder: &TempDir, name: &str) -> Vec<u64> {
        Tail::open(&folder.path().join(name)).unwrap().read().unwrap()
    }
}
