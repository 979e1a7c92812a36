//! The server: a process of its own, so that it can be killed.
//!
//! It reads a frame, writes the message's number to the [ledger](crate::ledger), and only then
//! reads the next. A ping is a frame like any other, and its pong leaves with the read after it:
//! when a ping is answered, all that was sent before it is in the ledger.

use std::{
    io::{self, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};
use tokio_tungstenite::tungstenite;

use crate::{
    ledger::Ledger,
    port::{self, Port},
    workload,
};

/// What the process prints once connections are accepted.
const READY: &str = "ready";

/// How long the process may take to start, or to finish with what it was sent.
const LIMIT: Duration = Duration::from_secs(10);

/// The server process as its supervisor sees it.
#[derive(Debug)]
pub(crate) struct Server {
    port: Port,
    ledger: PathBuf,
    child: Child,
}

impl Server {
    /// Starts a server on a port of its own, with the ledger at `ledger`.
    pub(crate) async fn start(ledger: PathBuf) -> io::Result<Self> {
        let port = Port::reserve()?;
        let child = spawn(port.address().port(), &ledger).await?;
        Ok(Self { port, ledger, child })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Kills the process; it has no chance to do anything about it.
    pub(crate) async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// Starts it again after [`kill`](Self::kill), on the same port and with the same ledger.
    pub(crate) async fn restart(&mut self) -> io::Result<()> {
        self.child = spawn(self.port.address().port(), &self.ledger).await?;
        Ok(())
    }

    /// Stops the process where it stands. Its sockets stay open, its kernel goes on taking bytes.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        signal::send(&self.child, signal::Signal::STOP)
    }

    /// Lets it go on after [`freeze`](Self::freeze).
    pub(crate) fn thaw(&self) -> io::Result<()> {
        signal::send(&self.child, signal::Signal::CONT)
    }

    /// Waits until every connection has ended and all that came on it is in the ledger.
    pub(crate) async fn finish(mut self) -> io::Result<()> {
        drop(self.child.stdin.take());
        let status = timeout(LIMIT, self.child.wait())
            .await
            .map_err(|_| io::Error::other("the server still has connections"))??;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("the server failed: {status}")))
        }
    }
}

async fn spawn(port: u16, ledger: &Path) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    // A process group of its own: should the supervisor die while the server is stopped, the kernel
    // wakes it with SIGHUP, for the group is orphaned then (POSIX, `_exit`).
    #[cfg(unix)]
    command.process_group(0);
    let mut child = command
        .arg("server")
        .arg(port.to_string())
        .arg(ledger)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let mut line = String::new();
    timeout(LIMIT, BufReader::new(stdout).read_line(&mut line))
        .await
        .map_err(|_| io::Error::other("the server does not start"))??;
    if line.trim_end() == READY {
        Ok(child)
    } else {
        Err(io::Error::other("the server did not start"))
    }
}

#[cfg(unix)]
mod signal {
    use std::io;

    pub(super) use rustix::process::Signal;
    use rustix::process::{Pid, kill_process};
    use tokio::process::Child;

    pub(super) fn send(child: &Child, signal: Signal) -> io::Result<()> {
        let pid = child
            .id()
            .and_then(|id| Pid::from_raw(id.try_into().ok()?))
            .ok_or_else(|| io::Error::other("the server is not running"))?;
        Ok(kill_process(pid, signal)?)
    }
}

#[cfg(not(unix))]
mod signal {
    use std::io;

    use tokio::process::Child;

    pub(super) enum Signal {
        STOP,
        CONT,
    }

    pub(super) fn send(_: &Child, _: Signal) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "freezing a process needs Unix signals"))
    }
}

/// What the server process does: one thread for each connection, until stdin ends and the last
/// connection is over. Stdin ends when the supervisor has finished, or has died: no orphan stays.
pub(crate) fn serve(port: u16, ledger: &Path) -> io::Result<()> {
    let ledger = Arc::new(Ledger::open(ledger)?);
    let listener = port::listen(port)?;
    let live = Arc::new(Live::default());
    thread::spawn({
        let live = Arc::clone(&live);
        move || {
            for stream in listener.incoming().flatten() {
                let connection = Live::enter(&live);
                let ledger = Arc::clone(&ledger);
                thread::spawn(move || {
                    // A connection that breaks is what this program is about.
                    let _ = receive(stream, &ledger);
                    drop(connection);
                });
            }
        }
    });
    println!("{READY}");
    io::stdout().flush()?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    live.wait_for_none();
    Ok(())
}

fn receive(stream: TcpStream, ledger: &Ledger) -> Result<(), Box<dyn std::error::Error>> {
    stream.set_nodelay(true)?;
    let mut socket = tungstenite::accept(stream)?;
    loop {
        // This read sends the pong that is owed for a ping of the read before.
        let message = socket.read()?;
        if message.is_text() || message.is_binary() {
            // No message has the number that stands for a payload nobody sent.
            let number = workload::number(&message.into_data()).unwrap_or(u64::MAX);
            ledger.record(number)?;
        }
    }
}

/// How many connections are alive.
#[derive(Debug, Default)]
struct Live {
    count: Mutex<usize>,
    ended: Condvar,
}

struct Connection(Arc<Live>);

impl Live {
    fn enter(live: &Arc<Self>) -> Connection {
        *live.count.lock().expect("no holder of this lock panics") += 1;
        Connection(Arc::clone(live))
    }

    fn wait_for_none(&self) {
        let count = self.count.lock().expect("no holder of this lock panics");
        drop(
            self.ended
                .wait_while(count, |count| *count > 0)
                .expect("no holder of this lock panics"),
        );
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        *self.0.count.lock().expect("no holder of this lock panics") -= 1;
        self.0.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tokio_tungstenite::tungstenite::Message;

    use super::*;
    use crate::ledger::Tail;

    #[test]
    fn a_pong_says_that_all_before_the_ping_is_in_the_ledger() {
        const MESSAGES: u64 = 1_000;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let ledger = Ledger::open(&path).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let _ = receive(stream, &ledger);
        });

        let (mut socket, _) = tungstenite::client("ws://localhost/", stream).unwrap();
        for number in 0..MESSAGES {
            let text = Message::text(workload::payload(number));
            socket.write(text).unwrap();
        }
        socket.send(Message::Ping("receipt".into())).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Pong("receipt".into()));
        let arrived = Tail::open(&path).unwrap().read().unwrap();
        assert!(arrived.into_iter().eq(0..MESSAGES));
    }
}
