//! A server where each message takes effect exactly once, whoever is killed in between:
//! `cargo run --example server -- 127.0.0.1:9001 server.redb`
//!
//! A client names itself in the URL, `ws://127.0.0.1:9001/alice`, where a real one would prove who
//! it is. It speaks `Numbered` at level `Acked`, and sends strings. The effect is a line in a log.
use std::{collections::HashMap, error::Error, process::exit, sync::Arc, sync::Mutex};

use bowline_core::numbered::{Messages, reply};
use bowline_core::{Body, Inbox, InboxConfig, Lane, MessageId, Nack, Offer, OutboxId, Seq};
use futures_util::{SinkExt, StreamExt};
use redb::{Database, ReadableTable, TableDefinition};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{accept_hdr_async, tungstenite};
use tungstenite::{Message, handshake::server::Request};

/// Who said what.
const LOG: TableDefinition<u64, (&str, &str)> = TableDefinition::new("log");
/// Of each client, the last message that is done of each of its outboxes, the latest outbox last.
const MARKS: TableDefinition<&str, Marks> = TableDefinition::new("marks");

type Marks = Vec<(u128, u64)>;
type Lines = [(MessageId, String)];
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

struct Server {
    store: Database,
    inboxes: HashMap<String, Inbox>,
}

impl Server {
    /// A client has connected. After a restart of this server its inbox goes on from the store.
    fn connect(&mut self, client: &str) -> Result<Lane> {
        if !self.inboxes.contains_key(client) {
            let id = |(id, seq)| MessageId { outbox: OutboxId::new(id), seq: Seq::new(seq) };
            let transaction = self.store.begin_write()?; // one that may create the table
            let table = transaction.open_table(MARKS)?;
            let marks = table.get(client)?.map_or(Vec::new(), |marks| marks.value());
            let inbox = Inbox::restore(InboxConfig::default(), marks.into_iter().map(id))?;
            self.inboxes.insert(client.to_owned(), inbox);
        }
        Ok(self.inboxes.get_mut(client).ok_or("it was put there")?.connect())
    }

    /// A frame has come: what is new in it takes effect. Gives the answer, if one is owed.
    fn receive(&mut self, client: &str, lane: Lane, frame: &Body) -> Result<Option<Body>> {
        let inbox = self.inboxes.get_mut(client).ok_or("it has not connected")?;
        let Messages { outbox, base, messages } = Messages::parse(frame)?;
        let mut lines = Vec::new();
        for (seq, data) in messages {
            let id = MessageId { outbox, seq };
            match (inbox.offer(lane, id, base), data.to::<String>()) {
                (Offer::New, Ok(line)) => lines.push((id, line)),
                (Offer::New, Err(_)) => inbox.refuse(id, Nack::Permanent)?, // it is no string
                (Offer::Duplicate | Offer::Refused, _) => {}
                (Offer::Stale, _) => return Err("the client has a newer connection".into()),
            }
        }
        if let Some(&(last, _)) = lines.last() {
            let others = inbox.marks().filter(|mark| mark.outbox != outbox);
            let marks = others.chain([last]).map(|id| (id.outbox.get(), id.seq.get())).collect();
            store(&self.store, client, &lines, marks).unwrap_or_else(|error| {
                eprintln!("{error}");
                exit(1) // Whether it was committed only the store knows: start again from there.
            });
            inbox.done(last)?;
        }
        Ok(reply(std::iter::from_fn(|| inbox.poll(lane)), None))
    }
}

/// The effects and the marks, in one transaction.
fn store(store: &Database, client: &str, lines: &Lines, marks: Marks) -> Result<()> {
    let transaction = store.begin_write()?;
    let mut log = transaction.open_table(LOG)?;
    let end = log.last()?.map_or(0, |(last, _)| last.value() + 1);
    for (number, (_, line)) in (end..).zip(lines) {
        log.insert(number, (client, line.as_str()))?;
    }
    transaction.open_table(MARKS)?.insert(client, marks)?;
    drop(log);
    Ok(transaction.commit()?)
}

#[allow(clippy::result_large_err)] // What a callback returns is not ours to choose.
async fn serve(stream: TcpStream, server: Arc<Mutex<Server>>) -> Result<()> {
    let mut client = String::new();
    let callback = |request: &Request, response| {
        client = request.uri().path().to_owned();
        Ok(response)
    };
    let mut socket = accept_hdr_async(stream, callback).await?;
    let lane = server.lock().expect("no panic").connect(&client)?;
    while let Some(message) = socket.next().await {
        let Message::Text(text) = message? else { continue };
        let body = Body::text(text.as_str());
        let receive = || server.lock().expect("no panic").receive(&client, lane, &body);
        if let Some(answer) = tokio::task::block_in_place(receive)? {
            socket.send(Message::text(answer.as_text().unwrap_or_default())).await?;
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let argument = |n, default: &str| std::env::args().nth(n).unwrap_or(default.to_owned());
    let store = Database::create(argument(2, "server.redb"))?;
    let server = Arc::new(Mutex::new(Server { store, inboxes: HashMap::new() }));
    let listener = TcpListener::bind(argument(1, "127.0.0.1:9001")).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let serving = serve(listener.accept().await?.0, Arc::clone(&server));
        tokio::spawn(async { serving.await.inspect_err(|error| eprintln!("{error}")) });
    }
}
