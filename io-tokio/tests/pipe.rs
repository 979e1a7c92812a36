//! The example `pipe` as a process, against real servers on this host.
//!
//! `cargo test` builds examples, but not when it is told which targets to test: then
//! `cargo build --example pipe` has to come first.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
    },
};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn lines_arrive_in_order_although_the_server_restarts() {
    let (listener, url) = listen().await;
    let address = listener.local_addr().expect("it is bound");
    let mut pipe = pipe(&[&url]);
    let lines: Vec<String> = (0..500).map(|n| format!("line {n}")).collect();
    feed(&mut pipe, format!("{}\n", lines.join("\n")).as_bytes()).await;
    let (mut socket, _) = accept(&listener).await;
    let mut arrived = Vec::new();
    while arrived.len() < 3 {
        arrived.extend(text(&mut socket).await);
    }
    // Whatever else came is lost, as when a process dies.
    drop((socket, listener));
    let listener = TcpListener::bind(address).await.expect("the port is free again");
    let (mut socket, _) = accept(&listener).await;
    while let Some(line) = text(&mut socket).await {
        if !arrived.contains(&line) {
            arrived.push(line);
        }
    }
    let output = end(pipe).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(arrived, lines);
    assert!(said(&output).contains("pipe: 500 delivered"), "{}", said(&output));
}

#[tokio::test]
async fn headers_and_lines_arrive_as_they_are_and_answers_are_printed() {
    let (listener, url) = listen().await;
    let mut pipe = pipe(&[&url, "--header", "Authorization: Bearer 1:2", "--subprotocol", "chat"]);
    let mut stdin = pipe.stdin.take().expect("it is piped");
    stdin.write_all(b"\n two words \r\n\xff\xfe\nno newline").await.expect("it reads");
    let (mut socket, headers) = accept(&listener).await;
    assert_eq!(headers, ("Bearer 1:2".to_owned(), "chat".to_owned()));
    socket.send("an answer".into()).await.expect("it is open");
    let mut stdout = BufReader::new(pipe.stdout.take().expect("it is piped"));
    let mut answer = String::new();
    stdout.read_line(&mut answer).await.expect("it is text");
    assert_eq!(answer, "an answer\n");
    drop(stdin);
    let mut arrived = Vec::new();
    while let Some(message) = data(&mut socket).await {
        arrived.push(message);
    }
    let binary = Message::Binary(b"\xff\xfe".as_slice().into());
    assert_eq!(arrived, ["".into(), " two words \r".into(), binary, "no newline".into()]);
    let output = end(pipe).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(!said(&output).contains("Bearer"), "{}", said(&output));
}

#[tokio::test]
async fn what_a_server_that_is_gone_does_not_get_is_left_in_the_file() {
    let (listener, url) = listen().await;
    drop(listener);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("leftovers");
    let mut pipe = pipe(&[&url, "--give-up", "1s", "--leftover", path_text(&path)]);
    let input = b"one\n\xff\r\n\nthree".as_slice();
    feed(&mut pipe, input).await;
    let output = end(pipe).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(std::fs::read(&path).expect("it is there"), b"one\n\xff\r\n\nthree\n");
    let said = said(&output);
    assert!(said.contains("gave up"), "{said}");
    assert!(said.contains("0 delivered, 4 not"), "{said}");
    assert!(said.contains("0 of these may have arrived"), "{said}");
    assert!(!said.contains("three"), "leftovers are in the file only: {said}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_signal_leaves_all_that_was_read_and_not_delivered() {
    use rustix::process::{Pid, Signal, kill_process};

    let (listener, url) = listen().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("leftovers");
    let leftover = path_text(&path);
    let mut pipe =
        pipe(&[&url, "--capacity", "2", "--close-limit", "100ms", "--leftover", leftover]);
    let mut stdin = pipe.stdin.take().expect("it is piped");
    stdin.write_all(b"1\n2\n3\n4\nhalf a line").await.expect("it reads");
    // Accepted by the kernel and never answered.
    let (stream, _) = listener.accept().await.expect("it dials");
    // With two on their way the others stay in the buffer. Nothing tells when they are there.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let id = pipe.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)).expect("it runs");
    kill_process(id, Signal::TERM).expect("it is ours");
    let output = end(pipe).await;
    drop((stdin, stream));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(std::fs::read(&path).expect("it is there"), b"1\n2\n3\n4\nhalf a line\n");
}

#[tokio::test]
async fn a_reader_of_stdout_that_leaves_ends_it() {
    let (listener, url) = listen().await;
    let mut pipe = pipe(&[&url]);
    let stdin = pipe.stdin.take();
    drop(pipe.stdout.take());
    let (mut socket, _) = accept(&listener).await;
    socket.send("to nobody".into()).await.expect("it is open");
    assert_eq!(data(&mut socket).await, None);
    let output = end(pipe).await;
    drop(stdin);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

#[tokio::test]
async fn what_makes_no_sense_is_said_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let full = folder.path().join("full");
    std::fs::write(&full, "of before\n").expect("it is ours");
    let url = "ws://127.0.0.1:9";
    for arguments in [
        &["http://localhost"][..],
        &["ws://192.0.2.1"],
        &[url, "--header", "secret"],
        &[url, "--capacity", "0"],
        &[url, "--give-up", "soon"],
        &[url, "--ca", "no such file"],
        &[url, "--leftover", path_text(&full)],
    ] {
        let output = end(pipe(arguments)).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert!(!output.stderr.is_empty());
        assert!(!said(&output).contains("secret"), "{}", said(&output));
    }
    assert_eq!(std::fs::read(&full).expect("it is there"), b"of before\n");
}

// ---- The program ------------------------------------------------------------------------------

fn pipe(arguments: &[&str]) -> Child {
    let mut command = Command::new(program());
    command.args(arguments).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("it can be run")
}

/// Examples are next to the folder of the tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("this is a program");
    let target = test.parent().and_then(Path::parent).expect("cargo made it");
    let program = target.join("examples").join(format!("pipe{}", std::env::consts::EXE_SUFFIX));
    assert!(program.exists(), "it is not built: cargo build -p bowline-tokio --example pipe");
    program
}

/// Writes all of stdin, and ends it.
async fn feed(pipe: &mut Child, input: &[u8]) {
    let mut stdin = pipe.stdin.take().expect("it is piped");
    stdin.write_all(input).await.expect("it reads");
}

async fn end(pipe: Child) -> Output {
    timeout(PATIENCE, pipe.wait_with_output()).await.expect("it ends").expect("it ran")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn path_text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder has a plain name")
}

// ---- The server -------------------------------------------------------------------------------

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a loopback interface");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    (listener, url)
}

/// A WebSocket, and the authorization and the subprotocols that were asked for.
async fn accept(listener: &TcpListener) -> (WebSocketStream<TcpStream>, (String, String)) {
    let (stream, _) = timeout(PATIENCE, listener.accept()).await.expect("it dials").expect("open");
    let mut seen = (String::new(), String::new());
    // The type of the error is not ours to choose.
    #[allow(clippy::result_large_err)]
    let callback = |request: &Request, mut response: Response| {
        let header = |name| {
            let value = request.headers().get(name);
            value.map_or("", |value| value.to_str().expect("it is text")).to_owned()
        };
        seen = (header("authorization"), header("sec-websocket-protocol"));
        if seen.1 == "chat" {
            let chosen = "chat".parse().expect("a header value");
            response.headers_mut().insert("sec-websocket-protocol", chosen);
        }
        Ok(response)
    };
    let socket = accept_hdr_async(stream, callback).await.expect("a good request");
    (socket, seen)
}

/// The next message; none when the connection has ended.
async fn data(socket: &mut WebSocketStream<TcpStream>) -> Option<Message> {
    loop {
        match timeout(PATIENCE, socket.next()).await.expect("something comes")? {
            Ok(message) if message.is_text() || message.is_binary() => return Some(message),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

async fn text(socket: &mut WebSocketStream<TcpStream>) -> Option<String> {
    data(socket).await.map(|message| message.to_text().expect("it is text").to_owned())
}
