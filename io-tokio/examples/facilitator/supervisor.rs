//! The facilitator's process as the run sees it: started, told, killed, started again.

use std::{io, net::SocketAddr, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command as Program},
    time::timeout,
};

use crate::{
    facilitator::{Command, READY, Settings},
    port::Port,
};

/// How long the process may take to start, or to end.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Process {
    port: Port,
    settings: Settings,
    child: Child,
}

impl Process {
    /// Starts a facilitator on a port of its own, whatever the settings say.
    pub(crate) async fn start(settings: Settings) -> io::Result<Self> {
        let port = Port::reserve()?;
        let settings = Settings { port: port.address().port(), ..settings };
        let child = spawn(&settings).await?;
        Ok(Self { port, settings, child })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// SIGKILL: it has no chance to do anything about it.
    pub(crate) async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// Starts it again after [`kill`](Self::kill), on the same port and with the same database.
    pub(crate) async fn restart(&mut self, deploying: bool) -> io::Result<()> {
        self.child = spawn(&Settings { deploying, ..self.settings.clone() }).await?;
        Ok(())
    }

    pub(crate) async fn tell(&mut self, command: Command) -> io::Result<()> {
        let stdin = self.child.stdin.as_mut().expect("stdin is piped");
        stdin.write_all(command.line().as_bytes()).await
    }

    /// Lets it end.
    pub(crate) async fn finish(mut self) -> io::Result<()> {
        drop(self.child.stdin.take());
        let status = timeout(LIMIT, self.child.wait())
            .await
            .map_err(|_| io::Error::other("the facilitator does not end"))??;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("the facilitator failed: {status}")))
        }
    }
}

async fn spawn(settings: &Settings) -> io::Result<Child> {
    let mut program = Program::new(std::env::current_exe()?);
    program
        .arg("facilitator")
        .arg(settings.port.to_string())
        .arg(&settings.database)
        .args(["--seed", &settings.seed.to_string()])
        .args(["--jobs", &settings.jobs.to_string()])
        .args(["--since-ms", &settings.since_ms.to_string()])
        .args(["--heartbeat-ms", &settings.heartbeat_ms.to_string()]);
    if settings.deploying {
        program.arg("--deploying");
    }
    let mut child =
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let mut line = String::new();
    timeout(LIMIT, BufReader::new(stdout).read_line(&mut line))
        .await
        .map_err(|_| io::Error::other("the facilitator does not start"))??;
    if line.trim_end() == READY {
        Ok(child)
    } else {
        Err(io::Error::other("the facilitator did not start"))
    }
}
