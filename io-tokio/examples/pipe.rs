//! Sends lines from stdin to a WebSocket and prints what the server sends, through bad connections.
//!
//! ```text
//! tail -F app.log | cargo run --example pipe -- wss://host/feed --leftover undelivered.txt
//! ```
//!
//! - **A message is a line** without its `\n`. One that is UTF-8 is sent as a text frame, any other
//!   as a binary frame, so no byte is ever changed. What the server sends is printed as it is, with
//!   a `\n` behind each message.
//! - **Stdin is not read ahead**: while `--capacity` messages are on their way the next line stays
//!   where it is, but for one buffer of [`READ_BUFFER`] bytes.
//! - **The end of stdin** waits until everything is delivered, however long the server is away,
//!   unless `--give-up` says otherwise; then the connection is closed. Answers that come later than
//!   that are not printed: whoever wants them keeps stdin open.
//! - **Ctrl-C, SIGTERM** and a reader of stdout that has gone end the program: it delivers what it
//!   has for at most `--close-limit`; a second signal ends that, too.
//! - **What was read and not delivered** goes to the file `--leftover`, without it to stderr: each
//!   message on a line, in order, exactly as it was. The file must not exist or be empty, for it
//!   may hold what an earlier run left, or even be the stdin of this one. A line longer than a
//!   message may be (1 MiB) is never sent and ends up there, too.
//! - **Stderr** says when the connection comes and goes, and how it went in the end.
//!
//! The exit code is 0 if everything that was read was delivered, 1 if not or if the client gave up,
//! 2 if the arguments make no sense.

use std::{
    collections::BTreeMap,
    error::Error,
    fmt::Display,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use bowline_tokio::{
    Body, Builder, Failure, Fate, Handle, Inbound, Level, Phase, Plain, ReceiptError, Report,
    SendError, Seq, Status, Unsent, tls::Tls,
};
use clap::{Parser, ValueEnum};
use futures_util::FutureExt;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, BufWriter, Stdin},
    sync::{mpsc, watch},
    time::{Instant, timeout},
};

/// How much of stdin is read at once.
const READ_BUFFER: usize = 8 << 10;

/// Sends lines from stdin to a WebSocket and prints what the server sends.
// No `Debug`: headers are secrets.
#[derive(Parser)]
#[command(name = "pipe")]
struct Arguments {
    /// ws://host[:port]/path or wss://host[:port]/path
    url: String,
    /// A header for the upgrade request, as NAME: VALUE; may be repeated
    // Read by hand, for the parser would print a wrong one.
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// A subprotocol to offer; may be repeated, best first
    #[arg(long = "subprotocol", value_name = "NAME")]
    subprotocols: Vec<String>,
    /// When a message counts as delivered
    #[arg(long, value_enum, default_value_t = Until::Received)]
    level: Until,
    /// How many messages may be on their way
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    capacity: usize,
    /// Give up when connecting has failed for this long: 90s, 10m, 1h [default: never]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    give_up: Option<Duration>,
    /// How long to go on delivering after Ctrl-C
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    close_limit: Duration,
    /// Where to put what was not delivered [default: stderr]
    #[arg(long, value_name = "FILE")]
    leftover: Option<PathBuf>,
    /// Trust the root certificates in this PEM file, and no others
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Let ws:// leave this host, where all can be read on the way
    #[arg(long)]
    allow_plaintext: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Until {
    /// It was written to the socket
    Written,
    /// The server's WebSocket library has it
    Received,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the system has a runtime to give");
    let code = runtime.block_on(run(arguments)).unwrap_or_else(|error| {
        say(error);
        ExitCode::from(2)
    });
    // A read of stdin cannot be interrupted, and is not worth waiting for.
    runtime.shutdown_background();
    code
}

async fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let (sent, queue) = mpsc::channel(arguments.capacity.clamp(1, 1 << 24));
    let mut ledger = Ledger::new(queue, arguments.open_leftover()?);
    let mut input = Input::default();
    let mut signals = Signals::new()?;
    let (client, inbound) = arguments.builder()?.start()?;
    tokio::spawn(watch_status(client.clone()));
    let mut printer = tokio::spawn(print(inbound));

    let mut failed = None;
    let work = async {
        let (read, ()) = tokio::join!(input.pump(&client, sent), ledger.settle(&client));
        read
    };
    tokio::select! {
        read = work => failed = read.err().map(|error| format!("stdin cannot be read: {error}")),
        () = stopped(client.status()) => {}
        () = signals.next() => say("interrupted"),
        printed = &mut printer => {
            if let Ok(Err(error)) = printed {
                say(format_args!("stdout cannot be written: {error}"));
            }
        }
    }
    if let Phase::Stopped { reason } = client.status().borrow().phase {
        failed = Some(reason.to_string());
    }
    if let Some(failed) = &failed {
        say(failed);
    }

    let report = tokio::select! {
        report = client.close(arguments.close_limit) => report,
        () = signals.next() => client.close(Duration::ZERO).await,
    };
    // What is inbound is in order up to here; a stdout that nobody reads is not waited for.
    if !printer.is_finished() {
        let _ = timeout(arguments.close_limit, printer).await;
    }
    ledger.finish(&client, report.unwrap_or_else(|(_, report)| report)).await;
    ledger.leave(&input.rest());
    let all = ledger.sum_up(arguments.leftover.as_ref());
    Ok(ExitCode::from(u8::from(failed.is_some() || !all)))
}

impl Arguments {
    fn builder(&self) -> Result<Builder, Box<dyn Error>> {
        let mut builder = Builder::new(&self.url).capacity(self.capacity).level(match self.level {
            Until::Written => Level::Written,
            Until::Received => Level::Received,
        });
        for header in &self.headers {
            let (name, value) =
                header.split_once(':').ok_or("a --header is not of the form NAME: VALUE")?;
            builder = builder.header(name.trim(), value.trim().to_owned());
        }
        for subprotocol in &self.subprotocols {
            builder = builder.subprotocol(subprotocol);
        }
        if let Some(give_up) = self.give_up {
            builder = builder.give_up_after(give_up);
        }
        if let Some(path) = &self.ca {
            let pem =
                std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
            builder = builder.tls(Tls::default().without_public_roots().add_root_pem(&pem));
        }
        if self.allow_plaintext {
            builder = builder.allow_plaintext();
        }
        // Whoever reads our stdout may take as long as a human does.
        Ok(builder.configure(|config| config.stall_limit = Duration::from_secs(24 * 60 * 60)))
    }

    /// Opened before anything is sent: afterwards it would be too late to find that it cannot be.
    fn open_leftover(&self) -> Result<Option<File>, String> {
        let Some(path) = &self.leftover else { return Ok(None) };
        let open = || {
            let file = OpenOptions::new().append(true).create(true).open(path)?;
            let empty = file.metadata()?.len() == 0;
            Ok::<_, io::Error>((file, empty))
        };
        match open() {
            Ok((file, true)) => Ok(Some(file)),
            Ok((_, false)) => Err(format!(
                "{} is not empty: it may hold what an earlier run left; move it away",
                path.display()
            )),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }
}

/// Says something on stderr, if anybody listens.
fn say(what: impl Display) {
    let _ = writeln!(io::stderr(), "pipe: {what}");
}

// ---- From stdin to the client -----------------------------------------------------------------

/// What became of a line.
enum Sent {
    /// The client took it, under this number.
    Taken(Seq),
    /// It did not.
    Refused(Unsent),
}

/// Stdin, by lines.
struct Input {
    reader: BufReader<Stdin>,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    /// Bytes may have been read that are not in the reader's buffer.
    reading: bool,
}

impl Default for Input {
    fn default() -> Self {
        let reader = BufReader::with_capacity(READ_BUFFER, tokio::io::stdin());
        Self { reader, line: Vec::new(), reading: false }
    }
}

impl Input {
    /// Sends lines until stdin ends or the client takes no more. May be dropped at any time without
    /// losing anything: room is reserved before a line is taken, and nothing is awaited after.
    async fn pump(&mut self, client: &Handle<Plain>, sent: mpsc::Sender<Sent>) -> io::Result<()> {
        loop {
            let Ok(place) = sent.reserve().await else { return Ok(()) };
            // Why there is no room the status says.
            let Ok(permit) = client.reserve().await else { return Ok(()) };
            let Some(line) = self.next_line().await? else { return Ok(()) };
            let body = Body::text_from_utf8(line.into()).unwrap_or_else(Body::binary);
            place.send(match permit.send(body) {
                Ok(receipt) => Sent::Taken(receipt.seq()),
                Err(SendError::Refused(unsent)) => Sent::Refused(unsent),
                Err(SendError::Encode { error, .. }) => match error {},
            });
        }
    }

    async fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            self.reading = true;
            let chunk = self.reader.fill_buf().await?;
            self.reading = false;
            let end = chunk.iter().position(|&byte| byte == b'\n');
            let taken = end.unwrap_or(chunk.len());
            self.line.extend_from_slice(&chunk[..taken]);
            let last = chunk.is_empty();
            self.reader.consume(taken + usize::from(end.is_some()));
            if end.is_some() || last && !self.line.is_empty() {
                return Ok(Some(std::mem::take(&mut self.line)));
            }
            if last {
                return Ok(None);
            }
        }
    }

    /// What was read and never sent.
    fn rest(mut self) -> Vec<u8> {
        let chunk = match self.reading {
            // The read may have ended since.
            true => self.reader.fill_buf().now_or_never().and_then(Result::ok).unwrap_or_default(),
            false => self.reader.buffer(),
        };
        self.line.extend_from_slice(chunk);
        self.line
    }
}

// ---- What became of it ------------------------------------------------------------------------

/// Awaits the outcome of each line, in order.
struct Ledger {
    queue: mpsc::Receiver<Sent>,
    /// Taken from the queue, and without an outcome yet.
    front: Option<Sent>,
    leftover: Option<File>,
    delivered: u64,
    lost: u64,
    /// Of these, those that may have arrived.
    maybe: u64,
}

impl Ledger {
    fn new(queue: mpsc::Receiver<Sent>, leftover: Option<File>) -> Self {
        Self { queue, front: None, leftover, delivered: 0, lost: 0, maybe: 0 }
    }

    /// Returns when there is nothing more to wait for. May be dropped at any time.
    async fn settle(&mut self, client: &Handle<Plain>) {
        loop {
            if self.front.is_none() {
                self.front = self.queue.recv().await;
            }
            match &self.front {
                Some(Sent::Taken(seq)) => match client.delivered(*seq).await {
                    Ok(()) => self.delivered += 1,
                    Err(ReceiptError::Failed(failure)) => self.fail(&failure),
                    // The client has stopped; closing it will bring the outcome.
                    Err(_) => return,
                },
                Some(Sent::Refused(_)) => {}
                None => return,
            }
            if let Some(Sent::Refused(unsent)) = self.front.take() {
                self.refuse(&unsent);
            }
        }
    }

    /// The client is closed, so every outcome is known: the rest of the failures are in its report.
    async fn finish(&mut self, client: &Handle<Plain>, report: Report) {
        let failures = report.failures.into_iter().map(|failure| (failure.seq, failure));
        let mut failures: BTreeMap<Seq, Failure> = failures.collect();
        while let Some(sent) = self.front.take().or_else(|| self.queue.try_recv().ok()) {
            let seq = match sent {
                Sent::Taken(seq) => seq,
                Sent::Refused(unsent) => {
                    self.refuse(&unsent);
                    continue;
                }
            };
            let outcome = match failures.remove(&seq) {
                Some(failure) => Err(ReceiptError::Failed(failure)),
                None => client.delivered(seq).await,
            };
            match outcome {
                Ok(()) => self.delivered += 1,
                Err(ReceiptError::Failed(failure)) => self.fail(&failure),
                // The driver panicked. There is nothing left to write down.
                Err(error) => {
                    say(format_args!("message {seq}: {error}"));
                    self.lost += 1;
                    self.maybe += 1;
                }
            }
        }
    }

    fn fail(&mut self, failure: &Failure) {
        self.maybe += u64::from(failure.fate == Fate::MaybeDelivered);
        self.lose(failure.body.as_bytes());
    }

    fn refuse(&mut self, unsent: &Unsent) {
        say(unsent.reason);
        self.lose(unsent.body.as_bytes());
    }

    /// Lines that were never sent.
    fn leave(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            let lines = rest.strip_suffix(b"\n").unwrap_or(rest);
            lines.split(|&byte| byte == b'\n').for_each(|line| self.lose(line));
        }
    }

    fn lose(&mut self, line: &[u8]) {
        self.lost += 1;
        let line = [line, b"\n"].concat();
        if let Some(file) = &mut self.leftover {
            match file.write_all(&line) {
                Ok(()) => return,
                Err(error) => {
                    say(format_args!("the leftovers follow here, not in the file: {error}"))
                }
            }
            self.leftover = None;
        }
        let _ = io::stderr().write_all(&line);
    }

    /// Says how it went, and whether all was delivered.
    fn sum_up(&self, path: Option<&PathBuf>) -> bool {
        let Self { delivered, lost, maybe, .. } = self;
        if *lost == 0 {
            say(format_args!("{delivered} delivered"));
            return true;
        }
        let place = match (&self.leftover, path) {
            (Some(file), Some(path)) => {
                if let Err(error) = file.sync_all() {
                    say(format_args!("{} may not be on the disk: {error}", path.display()));
                }
                format!("in {}", path.display())
            }
            (None, _) | (_, None) => "above".into(),
        };
        say(format_args!(
            "{delivered} delivered, {lost} not (see {place}), \
             {maybe} of these may have arrived all the same"
        ));
        false
    }
}

// ---- From the client to stdout ----------------------------------------------------------------

/// Prints what comes until there is no more, or nobody reads it.
async fn print(mut inbound: Inbound<Body>) -> io::Result<()> {
    let mut stdout = BufWriter::new(tokio::io::stdout());
    let print = async {
        while let Some(message) = inbound.recv().await {
            let mut next = Some(message);
            while let Some(message) = next {
                stdout.write_all(message.as_bytes()).await?;
                stdout.write_all(b"\n").await?;
                next = inbound.recv().now_or_never().flatten();
            }
            stdout.flush().await?;
        }
        Ok::<_, io::Error>(())
    };
    match print.await {
        // Whoever read it has had enough, which is no fault.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

// ---- What goes on -----------------------------------------------------------------------------

/// Waits until the client has stopped by itself.
async fn stopped(mut status: watch::Receiver<Status>) {
    // The sender lives as long as the driver, and the driver until the client is closed.
    let _ = status.wait_for(|status| matches!(status.phase, Phase::Stopped { .. })).await;
}

/// Says when the connection comes and goes.
async fn watch_status(client: Handle<Plain>) {
    let mut status = client.status();
    let mut said = String::new();
    let mut suspected = None;
    loop {
        let now = *status.borrow_and_update();
        let text = match now.phase {
            Phase::Idle | Phase::Stopped { .. } => String::new(),
            Phase::Dialing | Phase::Greeting => format!("dialing (attempt {})", now.attempt.get()),
            // A heartbeat is no news.
            Phase::Up | Phase::Suspect => "connected".into(),
            Phase::Closing => "closing".into(),
            Phase::Waiting { redial_at } => {
                let delay = client.time_of(redial_at).saturating_duration_since(Instant::now());
                let delay = Duration::from_millis(delay.as_millis() as u64 / 100 * 100);
                let delay = humantime::format_duration(delay);
                match now.last_loss {
                    Some(loss) => format!("{loss}; dialing again in {delay}"),
                    None => format!("dialing again in {delay}"),
                }
            }
        };
        if text != said && !text.is_empty() {
            say(&text);
        }
        said = text;
        if let (Some(seq), true) = (now.suspected, now.suspected != suspected) {
            say(format_args!("connections keep dying with message {seq} alone on its way"));
        }
        suspected = now.suspected;
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// Ctrl-C, and SIGTERM where there is such a thing.
struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    #[cfg(not(unix))]
    fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}
