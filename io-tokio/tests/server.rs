//! The example `server` as a process that is killed, and a client of it that is killed too.
//!
//! `cargo test` builds examples, but not when it is told which targets to test: then
//! `cargo build --example server` has to come first.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use bowline_core::{Json, Numbered, NumberedConfig};
use bowline_tokio::{
    Ask, Backoff, Builder, FailReason, FailureReason, Handle, Level, Receipt, ReceiptError,
    Request, Snapshot, connect::Target,
};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const LOG: TableDefinition<u64, (&str, &str)> = TableDefinition::new("log");

/// Messages in one frame, so in one transaction.
const FRAME: usize = 8;

#[tokio::test]
async fn each_effect_is_stored_once_and_in_order_although_both_ends_are_killed() {
    let mut server = Server::start().await;
    let (mut client, driver) = start(&server, "alice", None);
    let mut receipts = send(&client, 0..400).await;
    for round in 1..=6 {
        // One more frame is done. The server is busy with those behind it, and that is when it dies.
        for receipt in receipts.drain(..FRAME + 3) {
            delivered(receipt).await;
        }
        server.kill().await;
        receipts.extend(send(&client, 400 * round..400 * (round + 1)).await);
        server.restart().await;
    }
    // Now the client dies too, and what it sends after its restart is of another outbox.
    server.kill().await;
    receipts.extend(send(&client, 2_800..2_900).await);
    let snapshot = client.snapshot().await.expect("it runs");
    assert!(snapshot.messages.len() >= 100, "it dies in the middle");
    server.restart().await;
    // What happens between the snapshot and its death the client does not remember.
    delivered(receipts.swap_remove(receipts.len() - 50)).await;
    driver.abort();
    (client, _) = start(&server, "alice", Some(snapshot));
    let later = send(&client, 2_900..3_000).await;
    server.kill().await;
    server.restart().await;
    for receipt in later {
        delivered(receipt).await;
    }
    assert!(client.flush().await.expect("it runs").is_clean());
    server.kill().await;
    assert!(server.log("/alice").into_iter().eq((0..3_000).map(line)));
}

#[tokio::test]
async fn two_clients_have_an_inbox_each() {
    let mut server = Server::start().await;
    let (alice, _alice) = start(&server, "alice", None);
    let (bob, _bob) = start(&server, "bob", None);
    let (hers, his) = tokio::join!(send(&alice, 0..300), send(&bob, 1_000..1_300));
    server.kill().await;
    server.restart().await;
    for receipt in hers.into_iter().chain(his) {
        delivered(receipt).await;
    }
    server.kill().await;
    assert!(server.log("/alice").into_iter().eq((0..300).map(line)));
    assert!(server.log("/bob").into_iter().eq((1_000..1_300).map(line)));
}

#[tokio::test]
async fn what_is_no_string_comes_back_and_those_around_it_are_stored() {
    let mut server = Server::start().await;
    let (client, _driver) = start(&server, "alice", None);
    let before = send(&client, 0..20).await;
    let refused = client.send(Json::new(&42).expect("it is JSON")).await.expect("there is room");
    let behind = send(&client, 20..40).await;
    for receipt in before.into_iter().chain(behind) {
        delivered(receipt).await;
    }
    let outcome = timeout(PATIENCE, refused.into_future()).await.expect("it is settled");
    let Err(ReceiptError::Failed(failure)) = outcome else { panic!("it was taken: {outcome:?}") };
    assert_eq!(failure.reason, FailureReason::Settled(FailReason::Rejected));
    server.kill().await;
    assert!(server.log("/alice").into_iter().eq((0..40).map(line)));
}

// ---- The client -------------------------------------------------------------------------------

type Client = Handle<Numbered>;

/// A client, and its driver: aborted, it is as dead as if its process was killed.
fn start(server: &Server, name: &str, snapshot: Option<Snapshot>) -> (Client, JoinHandle<()>) {
    let config = NumberedConfig { max_frame_messages: FRAME, ..NumberedConfig::default() };
    let dialect = Numbered::new(config).expect("it is valid");
    let (address, name) = (server.address.subscribe(), name.to_owned());
    let mut builder = Builder::with_provider(dialect, move |_: Ask| {
        let url = format!("ws://{}/{name}", *address.borrow());
        async move { Ok::<_, std::io::Error>(Request::from(Target::new(url))) }
    })
    .level(Level::Acked)
    .backoff(Backoff {
        base: Duration::from_millis(10),
        cap: Duration::from_millis(100),
        ..Backoff::default()
    });
    if let Some(snapshot) = snapshot {
        builder = builder.restore(snapshot);
    }
    let (client, inbound, driver) = builder.build().expect("it is valid");
    drop(inbound);
    (client, tokio::spawn(driver))
}

async fn send(client: &Client, numbers: std::ops::Range<usize>) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    for number in numbers {
        let message = Json::new(&line(number)).expect("it is JSON");
        receipts.push(client.send(message).await.expect("there is room"));
    }
    receipts
}

async fn delivered(receipt: Receipt) {
    timeout(PATIENCE, receipt.into_future()).await.expect("it is settled").expect("it is taken");
}

fn line(number: usize) -> String {
    format!("message {number}")
}

// ---- The server -------------------------------------------------------------------------------

struct Server {
    child: Child,
    /// Where it listens, which is elsewhere after each restart.
    address: watch::Sender<String>,
    folder: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (child, address) = spawn(&folder.path().join("store")).await;
        Self { child, address: watch::Sender::new(address), folder }
    }

    /// SIGKILL, where there are signals.
    async fn kill(&mut self) {
        self.child.kill().await.expect("it runs");
    }

    async fn restart(&mut self) {
        let (child, address) = spawn(&self.store()).await;
        self.child = child;
        self.address.send_replace(address);
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// What the client has said, in the order of the log. The server must be dead.
    fn log(&self, client: &str) -> Vec<String> {
        let store = Database::open(self.store()).expect("it is a store");
        let log = store.begin_read().expect("it can be read").open_table(LOG).expect("it is there");
        let rows = log.iter().expect("it can be read").map(|row| row.expect("it can be read").1);
        let own = rows.filter(|row| row.value().0 == client);
        own.map(|row| row.value().1.to_owned()).collect()
    }
}

async fn spawn(store: &Path) -> (Child, String) {
    let mut command = Command::new(program());
    command.arg("127.0.0.1:0").arg(store).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("it can be run");
    let stdout = child.stdout.take().expect("it is piped");
    let mut line = String::new();
    let mut stdout = BufReader::new(stdout);
    let read = timeout(PATIENCE, stdout.read_line(&mut line)).await.expect("it starts");
    read.expect("it is text");
    let address = line.trim_end().strip_prefix("listening on ").expect("it says where");
    (child, address.to_owned())
}

/// Examples are next to the folder of the tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("this is a program");
    let target = test.parent().and_then(Path::parent).expect("cargo made it");
    let program = target.join("examples").join(format!("server{}", std::env::consts::EXE_SUFFIX));
    assert!(program.exists(), "it is not built: cargo build -p bowline-tokio --example server");
    program
}
