//! The facilitator: a process of its own, so that it can be killed. It behaves like the real one,
//! with the real one's habits that hurt:
//!
//! - the first frame of a channel must authenticate it, by an sr25519 signature of the key over
//!   itself; a validator that is not on the list is closed with 3001, a bad signature with 3000,
//!   and anything else before that is answered with `auth.not_authenticated`;
//! - status updates are answered one by one, without a number; nothing else is answered, but for
//!   frames that are not understood, whoever sent them and whatever they were;
//! - a status that is there already is answered with `job.integrity_error`;
//! - a handler that fails says nothing at all;
//! - jobs go to *every* channel with a fresh heartbeat; a channel that has had none for long is
//!   closed with 3001.
//!
//! One thing is kinder than the real one: a job of which the validator has said nothing yet is
//! offered again to the next channel. The real one sends a job once, and what is under test here is
//! the validator.

use std::{
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Instant, interval, sleep, sleep_until},
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request as Upgrade, Response as Upgraded},
        http::StatusCode,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use crate::{
    database::{Database, Record},
    dialect::{
        CLOSE_NOT_FOUND, CLOSE_SIGNATURE_INVALID, Error, Outcome, Request, Response, Status,
    },
    port,
    sr25519::{Key, verify, verify_itself},
    workload::{KEY_SEED, RATE, uuid},
};

/// What the process prints once it accepts connections.
pub(crate) const READY: &str = "ready";

/// Jobs go to channels whose last heartbeat is at most this many intervals old. (In the real one,
/// three minutes at one a minute.)
const FRESH_BEATS: u32 = 3;

/// A channel whose last heartbeat is older than this many intervals is closed. (Ten minutes.)
const DEAD_BEATS: u32 = 10;

/// How old the time stamp of an upgrade may be, and how far ahead.
const STAMP_AGE: Duration = Duration::from_secs(60);
const STAMP_AHEAD: Duration = Duration::from_secs(5);

/// How often customers are asked for new jobs.
const CUSTOMERS_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Args, Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) port: u16,
    pub(crate) database: std::path::PathBuf,
    #[arg(long)]
    pub(crate) seed: u64,
    #[arg(long)]
    pub(crate) jobs: u64,
    /// When the first job comes, in milliseconds since 1970
    #[arg(long)]
    pub(crate) since_ms: u64,
    #[arg(long)]
    pub(crate) heartbeat_ms: u64,
    /// Begin with a deploy: answer 403
    #[arg(long)]
    pub(crate) deploying: bool,
}

/// What the process is told on stdin, one a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    /// Whether the validator is on the list.
    Know(bool),
    /// Whether upgrades are answered with 403.
    Deploy(bool),
    /// How long a stored status waits for its answer, in milliseconds.
    Late(u64),
    /// The handlers of this many statuses fail.
    Fail(u64),
}

impl Command {
    pub(crate) fn line(self) -> String {
        match self {
            Self::Know(on) => format!("know {}\n", u64::from(on)),
            Self::Deploy(on) => format!("deploy {}\n", u64::from(on)),
            Self::Late(ms) => format!("late {ms}\n"),
            Self::Fail(count) => format!("fail {count}\n"),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let (name, value) = line.split_once(' ')?;
        let value: u64 = value.parse().ok()?;
        match name {
            "know" => Some(Self::Know(value != 0)),
            "deploy" => Some(Self::Deploy(value != 0)),
            "late" => Some(Self::Late(value)),
            "fail" => Some(Self::Fail(value)),
            _ => None,
        }
    }
}

/// What all channels share.
struct Facilitator {
    database: Mutex<Database>,
    /// How many jobs there are.
    jobs: watch::Sender<usize>,
    /// Whether the validator is on the list.
    known: watch::Sender<bool>,
    mode: Mutex<Mode>,
    validator: String,
    heartbeat: Duration,
}

#[derive(Clone, Copy, Default, Debug)]
struct Mode {
    deploying: bool,
    late: Duration,
    failing: u64,
}

/// What the process does until stdin ends: when the supervisor has finished, or has died. No orphan
/// stays.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn serve(settings: &Settings) -> io::Result<()> {
    let facilitator = Arc::new(Facilitator::open(settings)?);
    let listener = port::listen(settings.port)?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    println!("{READY}");
    io::stdout().flush()?;

    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    let mut customers = interval(CUSTOMERS_INTERVAL);
    loop {
        tokio::select! {
            line = commands.next_line() => match line? {
                Some(line) => facilitator.command(&line)?,
                None => return Ok(()),
            },
            _ = customers.tick() => facilitator.take_jobs(settings)?,
            accepted = listener.accept() => {
                // Accepting fails where the connection is gone already.
                if let Ok((stream, _)) = accepted {
                    let facilitator = Arc::clone(&facilitator);
                    tokio::spawn(async move {
                        // A connection that breaks is what this program is about.
                        let _ = Channel::serve(&facilitator, stream).await;
                    });
                }
            }
        }
    }
}

impl Facilitator {
    fn open(settings: &Settings) -> io::Result<Self> {
        let mut database = Database::open(Path::new(&settings.database))?;
        database.record(Record::Started)?;
        let mode = Mode { deploying: settings.deploying, ..Mode::default() };
        Ok(Self {
            jobs: watch::Sender::new(database.jobs().len()),
            database: Mutex::new(database),
            known: watch::Sender::new(true),
            mode: Mutex::new(mode),
            validator: Key::from_seed(KEY_SEED).public(),
            heartbeat: Duration::from_millis(settings.heartbeat_ms),
        })
    }

    fn database(&self) -> MutexGuard<'_, Database> {
        self.database.lock().expect("no holder of this lock panics")
    }

    fn mode(&self) -> MutexGuard<'_, Mode> {
        self.mode.lock().expect("no holder of this lock panics")
    }

    fn command(&self, line: &str) -> io::Result<()> {
        match Command::parse(line).ok_or_else(|| io::Error::other("an unknown command"))? {
            Command::Know(known) => {
                self.known.send_replace(known);
            }
            Command::Deploy(deploying) => self.mode().deploying = deploying,
            Command::Late(ms) => self.mode().late = Duration::from_millis(ms),
            Command::Fail(count) => self.mode().failing = count,
        }
        Ok(())
    }

    /// Stores the jobs that customers have asked for by now.
    fn take_jobs(&self, settings: &Settings) -> io::Result<()> {
        let since = since_1970().as_millis().saturating_sub(settings.since_ms.into());
        let due = u64::try_from(since).unwrap_or(u64::MAX).saturating_mul(RATE) / 1_000;
        let mut database = self.database();
        let stored = database.jobs().len();
        for number in stored as u64..due.min(settings.jobs) {
            database.record(Record::Job { uuid: uuid(settings.seed, number) })?;
        }
        self.jobs.send_if_modified(|jobs| {
            *jobs = database.jobs().len();
            *jobs != stored
        });
        Ok(())
    }

    /// The answer to an upgrade.
    fn upgrade(&self, channel: u64, upgrade: &Upgrade) -> io::Result<Result<(), StatusCode>> {
        let header = |name| upgrade.headers().get(name).and_then(|value| value.to_str().ok());
        if self.mode().deploying {
            self.database().record(Record::Forbidden)?;
            return Ok(Err(StatusCode::FORBIDDEN));
        }
        let signed = || {
            let (stamp, key) = (header("x-timestamp")?, header("x-public-key")?);
            let signature = header("x-signature")?;
            let (then, now) = (Duration::from_secs(stamp.parse().ok()?), since_1970());
            let fresh = now <= then + STAMP_AGE && then <= now + STAMP_AHEAD;
            (fresh && key == self.validator && verify(key, stamp.as_bytes(), signature))
                .then(|| signature.to_owned())
        };
        match signed() {
            Some(signature) => {
                self.database().record(Record::Upgraded { channel, signature })?;
                Ok(Ok(()))
            }
            None => {
                self.database().record(Record::BadHeaders)?;
                Ok(Err(StatusCode::UNAUTHORIZED))
            }
        }
    }

    /// Does what a status update asks for; the answer, unless the handler fails.
    fn update(&self, uuid: String, status: Status) -> io::Result<Option<Response>> {
        let mut database = self.database();
        let mut mode = self.mode();
        if mode.failing > 0 {
            mode.failing -= 1;
            database.record(Record::Unanswered { uuid, status })?;
            return Ok(None);
        }
        if !database.has_job(&uuid) {
            database.record(Record::Unknown { uuid })?;
            return Ok(Some(error("job.not_found", "Job not found")));
        }
        if database.has_status(&uuid, status) {
            database.record(Record::Repeated { uuid, status })?;
            return Ok(Some(error("job.integrity_error", "Integrity error")));
        }
        database.record(Record::Status { uuid, status })?;
        Ok(Some(success()))
    }
}

/// One connection.
struct Channel<'a> {
    facilitator: &'a Facilitator,
    number: u64,
    socket: WebSocketStream<TcpStream>,
    authenticated_at: Option<Instant>,
    heartbeat_at: Instant,
    /// Jobs before this one were offered, or taken up.
    offered: usize,
}

type Ended = Box<dyn std::error::Error + Send + Sync>;

impl<'a> Channel<'a> {
    async fn serve(facilitator: &'a Facilitator, stream: TcpStream) -> Result<(), Ended> {
        stream.set_nodelay(true)?;
        let number = facilitator.database().next_channel();
        // The type of the refusal is tungstenite's.
        #[allow(clippy::result_large_err)]
        let upgrade = |upgrade: &Upgrade, upgraded: Upgraded| match facilitator
            .upgrade(number, upgrade)
            .unwrap_or(Err(StatusCode::INTERNAL_SERVER_ERROR))
        {
            Ok(()) => Ok(upgraded),
            Err(status) => {
                let mut refusal = ErrorResponse::new(None);
                *refusal.status_mut() = status;
                Err(refusal)
            }
        };
        let socket = accept_hdr_async(stream, upgrade).await?;
        let mut channel = Self {
            facilitator,
            number,
            socket,
            authenticated_at: None,
            heartbeat_at: Instant::now(),
            offered: 0,
        };
        let ended = channel.run().await;
        if channel.authenticated_at.is_some() {
            facilitator.database().record(Record::Ended { channel: number })?;
        }
        ended
    }

    async fn run(&mut self) -> Result<(), Ended> {
        let facilitator = self.facilitator;
        let mut jobs = facilitator.jobs.subscribe();
        let mut known = facilitator.known.subscribe();
        loop {
            // One frame after the other: while a handler works, nothing else is read.
            tokio::select! {
                frame = self.socket.next() => match frame.transpose()? {
                    Some(Message::Text(text)) => {
                        if !self.request(text.as_str()).await? {
                            return self.end().await;
                        }
                        self.offer().await?;
                    }
                    // Pings are answered by tungstenite, with the next read: a pong says that all
                    // before it was handled.
                    Some(_) => {}
                    None => return Ok(()),
                },
                changed = jobs.changed() => {
                    changed?;
                    self.offer().await?;
                }
                changed = known.changed() => {
                    changed?;
                    if !*known.borrow_and_update() && self.authenticated_at.is_some() {
                        self.close(CLOSE_NOT_FOUND).await?;
                        return self.end().await;
                    }
                }
                () = sleep_until(self.heartbeat_at + DEAD_BEATS * facilitator.heartbeat) => {
                    facilitator.database().record(Record::CutOff { channel: self.number })?;
                    self.close(CLOSE_NOT_FOUND).await?;
                    return self.end().await;
                }
            }
        }
    }

    /// Handles a frame; says whether the channel goes on.
    async fn request(&mut self, text: &str) -> Result<bool, Ended> {
        let facilitator = self.facilitator;
        let request = match serde_json::from_str::<Request>(text) {
            Ok(request) => request,
            Err(trouble) => {
                let text = text.to_owned();
                facilitator.database().record(Record::Unparsable { text })?;
                self.answer(&error("invalid", &trouble.to_string())).await?;
                return Ok(true);
            }
        };
        match (request, self.authenticated_at) {
            (Request::Authenticate { .. }, Some(_)) => {
                self.answer(&error("auth.already_authenticated", "Already authenticated")).await?;
            }
            (Request::Authenticate { public_key, signature }, None) => {
                return self.authenticate(&public_key, &signature).await;
            }
            (
                Request::Heartbeat {} | Request::MachineSpecs { .. } | Request::JobStatus { .. },
                None,
            ) => self.answer(&error("auth.not_authenticated", "Not authenticated")).await?,
            (Request::Heartbeat {}, Some(authenticated_at)) => {
                self.heartbeat_at = Instant::now();
                let after_ms = authenticated_at.elapsed().as_millis().try_into()?;
                let beat = Record::Heartbeat { channel: self.number, after_ms };
                facilitator.database().record(beat)?;
            }
            (Request::MachineSpecs { miner_hotkey, batch_id, .. }, Some(_)) => {
                let batch = batch_id.parse()?;
                facilitator.database().record(Record::Specs { miner: miner_hotkey, batch })?;
            }
            (Request::JobStatus { uuid, status, .. }, Some(_)) => {
                if let Some(answer) = facilitator.update(uuid, status)? {
                    let late = facilitator.mode().late;
                    if !late.is_zero() {
                        sleep(late).await;
                    }
                    self.answer(&answer).await?;
                }
            }
        }
        Ok(true)
    }

    async fn authenticate(&mut self, key: &str, signature: &str) -> Result<bool, Ended> {
        let facilitator = self.facilitator;
        let (refusal, code) = if key != facilitator.validator || !*facilitator.known.borrow() {
            ("auth.validator_not_found", CLOSE_NOT_FOUND)
        } else if !verify_itself(key, signature) {
            ("auth.signature_invalid", CLOSE_SIGNATURE_INVALID)
        } else {
            facilitator.database().record(Record::Authenticated { channel: self.number })?;
            self.authenticated_at = Some(Instant::now());
            // A new channel counts as fresh.
            self.heartbeat_at = Instant::now();
            self.answer(&success()).await?;
            return Ok(true);
        };
        facilitator.database().record(Record::Refused { kind: refusal.to_owned() })?;
        self.answer(&error(refusal, "Authentication failed")).await?;
        self.close(code).await?;
        Ok(false)
    }

    /// Sends the jobs that were not offered on this channel and that nobody has taken up.
    async fn offer(&mut self) -> Result<(), Ended> {
        let facilitator = self.facilitator;
        let fresh = self.heartbeat_at.elapsed() <= FRESH_BEATS * facilitator.heartbeat;
        if self.authenticated_at.is_none() || !fresh {
            return Ok(());
        }
        loop {
            let job = {
                let mut database = facilitator.database();
                let Some(uuid) = database.jobs().get(self.offered).cloned() else { return Ok(()) };
                self.offered += 1;
                if database.is_taken_up(&uuid) {
                    continue;
                }
                let offered = Record::Offered { channel: self.number, uuid: uuid.clone() };
                database.record(offered)?;
                job(&uuid)
            };
            self.socket.send(Message::text(job)).await?;
        }
    }

    async fn answer(&mut self, response: &Response) -> Result<(), Ended> {
        Ok(self.socket.send(Message::text(serde_json::to_string(response)?)).await?)
    }

    async fn close(&mut self, code: u16) -> Result<(), Ended> {
        let frame = CloseFrame { code: CloseCode::from(code), reason: "".into() };
        Ok(self.socket.close(Some(frame)).await?)
    }

    /// Reads until the peer has answered the Close, or is gone.
    async fn end(&mut self) -> Result<(), Ended> {
        while let Some(frame) = self.socket.next().await {
            frame?;
        }
        Ok(())
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn success() -> Response {
    Response { status: Outcome::Success, errors: Vec::new() }
}

fn error(kind: &str, msg: &str) -> Response {
    let error = Error { msg: msg.to_owned(), kind: kind.to_owned(), help: None };
    Response { status: Outcome::Error, errors: vec![error] }
}

/// The frame that offers a job.
fn job(uuid: &str) -> String {
    json!({
        "type": "job.new",
        "message_type": "V2JobRequest",
        "uuid": uuid,
        "job_namespace": "SN12.0",
        "executor_class": "always_on.gpu-24gb",
        "docker_image": "example/image:1",
        "args": ["--input", "/volume/in"],
        "env": {},
        "use_gpu": true,
        "volume": null,
        "output_upload": null,
        "artifacts_dir": "/artifacts",
        "on_trusted_miner": false,
        "download_time_limit": 10,
        "execution_time_limit": 60,
        "upload_time_limit": 10,
        "streaming_start_time_limit": 5,
        "streaming_details": null,
        "signature": null,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_survives_its_line() {
        for command in [
            Command::Know(false),
            Command::Know(true),
            Command::Deploy(true),
            Command::Late(150),
            Command::Fail(2),
        ] {
            assert_eq!(Command::parse(command.line().trim_end()), Some(command));
        }
        assert_eq!(Command::parse("late soon"), None);
    }
}
