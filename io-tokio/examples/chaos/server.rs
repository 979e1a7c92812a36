//! The server as its supervisor sees it: a process of its own, so that it can be killed. What the
//! process does is in [`serve`](crate::serve).

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use clap::ValueEnum;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::{
    audit::{Level, Numbers},
    ledger::Tail,
    port::Port,
    value_name,
};

/// What the process prints once connections are accepted.
pub(crate) const READY: &str = "ready";

/// The ledger's name in the server's folder.
pub(crate) const LEDGER: &str = "ledger";

/// The name of the record of what was read ahead, in the form of a ledger.
pub(crate) const READ_AHEAD: &str = "read";

/// How long the process may take to start.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How long the process may take to finish with what it was sent.
const FINISH_LIMIT: Duration = Duration::from_secs(60);

/// How a server deals with what it reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Kind {
    /// Each message is written down before the next frame is read
    Direct,
    /// The library reads and answers pings while a handler behind a queue is still busy
    Readahead,
}

/// What a server is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// At `Acked` it speaks `Numbered`, at `Received` plain frames.
    pub(crate) level: Level,
    pub(crate) kind: Kind,
    /// Messages a second that are sent to it.
    pub(crate) rate: u64,
}

/// The server process as its supervisor sees it.
#[derive(Debug)]
pub(crate) struct Server {
    port: Port,
    folder: PathBuf,
    setup: Setup,
    child: Child,
    read_ahead: (Tail, Numbers),
    written_down: (Tail, Numbers),
    /// What a process had read, and had not written down when it was killed.
    died: Numbers,
}

impl Server {
    /// Starts a server on a port of its own, which keeps its files in `folder`.
    pub(crate) async fn start(folder: &Path, setup: Setup) -> io::Result<Self> {
        let port = Port::reserve()?;
        let child = spawn(port.address().port(), folder, setup).await?;
        let read_ahead = Tail::open(&folder.join(READ_AHEAD))?;
        let written_down = Tail::open(&folder.join(LEDGER))?;
        Ok(Self {
            port,
            folder: folder.to_owned(),
            setup,
            child,
            read_ahead: (read_ahead, Numbers::default()),
            written_down: (written_down, Numbers::default()),
            died: Numbers::default(),
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Kills the process; it has no chance to do anything about it.
    pub(crate) async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await?;
        for (tail, numbers) in [&mut self.read_ahead, &mut self.written_down] {
            numbers.extend(tail.read()?);
        }
        let (read, written) = (&self.read_ahead.1, &self.written_down.1);
        self.died.extend(read.iter().filter(|&number| !written.contains(number)));
        Ok(())
    }

    /// Starts it again after [`kill`](Self::kill), on the same port and with the same ledger.
    pub(crate) async fn restart(&mut self) -> io::Result<()> {
        self.child = spawn(self.port.address().port(), &self.folder, self.setup).await?;
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

    /// Waits until every connection has ended and all that came on it is in the ledger. Gives what
    /// was read and not written down by those that were killed.
    pub(crate) async fn finish(mut self) -> io::Result<Numbers> {
        drop(self.child.stdin.take());
        let status = timeout(FINISH_LIMIT, self.child.wait())
            .await
            .map_err(|_| io::Error::other("the server does not finish"))??;
        if status.success() {
            Ok(self.died)
        } else {
            Err(io::Error::other(format!("the server failed: {status}")))
        }
    }
}

async fn spawn(port: u16, folder: &Path, setup: Setup) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    // A process group of its own: should the supervisor die while the server is stopped, the kernel
    // wakes it with SIGHUP, for the group is orphaned then (POSIX, `_exit`).
    #[cfg(unix)]
    command.process_group(0);
    let mut child = command
        .arg("server")
        .arg(port.to_string())
        .arg(folder)
        .args([value_name(setup.level), value_name(setup.kind), setup.rate.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let mut line = String::new();
    timeout(START_LIMIT, BufReader::new(stdout).read_line(&mut line))
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
