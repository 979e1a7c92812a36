//! From a URL to a running client.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use bowline_core::{
    Amount, Attempt, Backoff, ClientConfig, ConfigError, ConnectionConfig, Dialect, Level, Loss,
    OutboxConfig, Plain, RestoreError, Snapshot, Status, config::check, outbox::RestoreRefused,
};
use bytes::Bytes;
use getrandom::SysRng;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use tokio::sync::watch;

use crate::{
    Driver, Handle, Inbound,
    connect::{Connect, Connection, Target, TargetError, TcpConnector, TcpSettings},
    desk::{Desk, Rules},
    inbound::Inbox,
    tls::Tls,
    trace::{self, Recording},
};

/// All settings of a client. The defaults are meant to be left alone; each is checked, and all of
/// them together, before anything runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Dialing, heartbeat, backoff, giving up.
    pub connection: ConnectionConfig,
    /// Queue, window, budgets, receipts.
    pub outbox: OutboxConfig,
    /// TCP, TLS and the limits of frames; of no effect with a connector of your own.
    pub tcp: TcpSettings,
    /// How many inbound messages are buffered before reading pauses. Default 1,024; at least 1.
    pub inbound_messages: usize,
    /// How many bytes of inbound messages are buffered before reading pauses; the message that
    /// reaches the limit is still buffered whole. Default 16 MiB; at least 1.
    pub inbound_bytes: usize,
    /// For how long reading may be paused before waits end with
    /// [`WaitError::Stalled`](crate::WaitError::Stalled). Default 30 s; 1 ms to a day.
    pub stall_limit: Duration,
    /// How long a client goes on delivering after its last handle was dropped. Default 5 s; at
    /// most a day.
    pub drop_limit: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connection: ConnectionConfig::default(),
            outbox: OutboxConfig::default(),
            tcp: TcpSettings::default(),
            inbound_messages: 1024,
            inbound_bytes: 16 << 20,
            stall_limit: Duration::from_secs(30),
            drop_limit: Duration::from_secs(5),
        }
    }
}

impl Config {
    fn validate(&self) -> Result<(), ConfigError> {
        let day = Duration::from_secs(24 * 60 * 60);
        check("inbound_messages", self.inbound_messages, 1..=usize::MAX)?;
        check("inbound_bytes", self.inbound_bytes, 1..=usize::MAX)?;
        check("stall_limit", self.stall_limit, Duration::from_millis(1)..=day)?;
        check("drop_limit", self.drop_limit, Duration::ZERO..=day)?;
        let outbound = self.tcp.limits.outbound;
        check("tcp.limits.outbound", outbound, self.outbox.max_message_bytes..=usize::MAX)
    }
}

/// What a request provider is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Ask {
    /// The attempt that the request is for; the first is 1.
    pub attempt: Attempt,
    /// Why the attempt before ended: a status 401, say, which asks for a fresh token.
    pub last_loss: Option<Loss>,
}

/// What a request provider makes, afresh for each attempt. No `Debug`: it holds secrets.
#[derive(Clone)]
pub struct Request<C> {
    /// Where to dial, and with which headers.
    pub target: Target,
    /// What the dialect's greeting needs.
    pub credentials: C,
}

impl<C: Default> From<Target> for Request<C> {
    fn from(target: Target) -> Self {
        Self { target, credentials: C::default() }
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Requesting<C> = Pin<Box<dyn Future<Output = Result<Request<C>, BoxError>> + Send>>;
type Provider<C> = Arc<dyn Fn(Ask) -> Requesting<C> + Send + Sync>;

/// A dial under way.
pub(crate) type Dialing<C> = Pin<Box<dyn Future<Output = Result<(Connection, C), Loss>> + Send>>;

/// Makes attempts: asks the provider, then dials.
pub(crate) struct Dial<C> {
    provider: Provider<C>,
    connector: Arc<dyn Connect>,
    /// What every target gets besides.
    extra: Arc<Target>,
}

impl<C: Send + 'static> Dial<C> {
    pub(crate) fn start(&self, attempt: Attempt, last_loss: Option<Loss>) -> Dialing<C> {
        let request = (self.provider)(Ask { attempt, last_loss });
        let connector = Arc::clone(&self.connector);
        let extra = Arc::clone(&self.extra);
        Box::pin(async move {
            // What went wrong is the provider's to log: it may hold a secret.
            let Request { mut target, credentials } = request.await.map_err(|_| Loss::Provider)?;
            target.headers.extend(extra.headers.iter().cloned());
            target.subprotocols.extend(extra.subprotocols.iter().cloned());
            Ok((connector.connect(target).await?, credentials))
        })
    }
}

/// A client cannot be built.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct BuildError {
    /// Why.
    pub reason: BuildRefused,
    /// The snapshot that was to be restored, if there was one.
    pub snapshot: Option<Box<Snapshot>>,
}

/// Why a client cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildRefused {
    /// A setting is out of its range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A URL, header or subprotocol cannot be dialed.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The snapshot cannot be restored.
    #[error("the snapshot cannot be restored: {0}")]
    Restore(RestoreRefused),
    /// There is no tokio runtime to spawn the driver on.
    #[error(
        "there is no tokio runtime here; call start inside of one, or build and spawn yourself"
    )]
    NoRuntime,
    /// The system has no randomness to give.
    #[error("the system's random generator failed; set a seed")]
    NoRandomness,
}

/// Builds clients.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use bowline_tokio::{Builder, Level};
/// use std::time::Duration;
///
/// let (client, inbound) = Builder::new("ws://localhost:9001/feed")
///     .header("authorization", "Bearer 123")
///     .level(Level::Received)
///     .give_up_after(Duration::from_secs(600))
///     .start()
///     .expect("a valid configuration");
/// # drop((client, inbound));
/// # }
/// ```
#[must_use]
pub struct Builder<D: Dialect = Plain> {
    dialect: D,
    provider: Provider<D::Credentials>,
    /// The URLs, where they are known in advance, to be checked.
    urls: Vec<String>,
    /// What every target gets besides.
    extra: Target,
    connector: Option<Arc<dyn Connect>>,
    config: Config,
    snapshot: Option<Snapshot>,
    seed: Option<u64>,
    recording: Recording,
}

impl Builder<Plain> {
    /// A client of the server at this URL, which sends and receives plain frames.
    pub fn new(url: impl Into<String>) -> Self {
        Self::with_dialect([url.into()], Plain, ())
    }
}

impl<D> Builder<D>
where
    D: Dialect + Send + 'static,
    D::Inbound: Send + 'static,
    D::Credentials: Send + 'static,
{
    /// A client that speaks a dialect, with the same credentials for every attempt. With several
    /// URLs, each attempt dials the next of them.
    pub fn with_dialect(
        urls: impl IntoIterator<Item = impl Into<String>>,
        dialect: D,
        credentials: D::Credentials,
    ) -> Self
    where
        D::Credentials: Clone + Sync,
    {
        let urls: Vec<String> = urls.into_iter().map(Into::into).collect();
        let known = urls.clone();
        let provider = move |ask: Ask| {
            let turn = usize::try_from(ask.attempt.get().saturating_sub(1)).unwrap_or(usize::MAX);
            let url = known.get(turn.checked_rem(known.len()).unwrap_or(0));
            let request = url.map(|url| Request {
                target: Target::new(url.clone()),
                credentials: credentials.clone(),
            });
            async move { request.ok_or_else(|| BoxError::from("there is no URL")) }
        };
        Self { urls, ..Self::with_provider(dialect, provider) }
    }

    /// A client that asks for a request before every attempt: for fresh tokens and signatures, or
    /// endpoints that change. The provider is told why the attempt before ended. Its error ends
    /// the attempt with [`Loss::Provider`], and is not logged; the dial limit covers it.
    pub fn with_provider<F, E>(
        dialect: D,
        provider: impl Fn(Ask) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Request<D::Credentials>, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let provider: Provider<D::Credentials> = Arc::new(move |ask| {
            let request = provider(ask);
            Box::pin(async move { request.await.map_err(Into::into) })
        });
        Self {
            dialect,
            provider,
            urls: Vec::new(),
            extra: Target::new(""),
            connector: None,
            config: Config::default(),
            snapshot: None,
            seed: None,
            recording: Recording::NONE,
        }
    }

    /// Sends a header with every upgrade request.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.extra = self.extra.header(name, value);
        self
    }

    /// Offers a subprotocol; the server has to choose one of those that are offered.
    pub fn subprotocol(mut self, name: impl Into<String>) -> Self {
        self.extra = self.extra.subprotocol(name);
        self
    }

    /// Whom to trust for `wss://`. Default: the public web roots.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.config.tcp.tls = tls;
        self
    }

    /// Lets `ws://` leave this host, where all can be read on the way.
    pub fn allow_plaintext(mut self) -> Self {
        self.config.tcp.allow_plaintext = true;
        self
    }

    /// Connects by other means than TCP.
    pub fn connector(mut self, connector: impl Connect) -> Self {
        self.connector = Some(Arc::new(connector));
        self
    }

    /// The delivery level of messages that name none. Default [`Level::Received`].
    pub fn level(mut self, level: Level) -> Self {
        self.config.outbox.level = level;
        self
    }

    /// How many messages are held at once. Shrinks the window to it, if need be.
    pub fn capacity(mut self, messages: usize) -> Self {
        let outbox = &mut self.config.outbox;
        outbox.max_messages = messages;
        outbox.window_messages = outbox.window_messages.min(messages);
        self
    }

    /// The delay between dials.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.config.connection.backoff = backoff;
        self
    }

    /// Gives up when connecting has failed for this long. Default: never.
    pub fn give_up_after(mut self, elapsed: Duration) -> Self {
        self.config.connection.max_elapsed = Some(elapsed);
        self
    }

    /// Gives up after this many dials in a row that did not become a stable link. Default: never.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.config.connection.max_attempts = Some(attempts);
        self
    }

    /// Changes any of the settings.
    ///
    /// ```
    /// # use bowline_tokio::Builder;
    /// # use std::time::Duration;
    /// let builder = Builder::new("ws://localhost:9001").configure(|config| {
    ///     config.connection.ping_interval = Duration::from_secs(5);
    ///     config.outbox.retry_budget = 10;
    /// });
    /// ```
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Goes on with the messages of [`Handle::snapshot`]. They keep their names; what is sent from
    /// now on is named anew.
    pub fn restore(mut self, snapshot: Snapshot) -> Self {
        self.snapshot = Some(snapshot);
        self
    }

    /// Seeds the generator of backoff delays and of the outbox's name, for runs that can be
    /// repeated. Two clients must not share a seed against the same server. Default: the system's
    /// randomness.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Records what happens to the client, as lines of JSON: every input with its time, and a digest
    /// of what came of it. [`core::trace`](crate::core::trace) says what is in a trace, how fast it
    /// grows, and how to replay it; payloads, headers, URLs, credentials and keys are not in it.
    ///
    /// A thread of its own writes and flushes. The client never waits for it, and no failure of it
    /// reaches the client: the recording ends, and the client goes on. That is so if the writer
    /// fails or panics, and if it is so slow that more than 8 MiB wait for it; the last line then
    /// says so. [`Handle::recorded`] tells how the recording ended; feature `tracing` logs it.
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use bowline_tokio::Builder;
    /// # use std::{fs::File, time::Duration};
    /// let trace = File::create("client.trace")?;
    /// let (client, inbound) = Builder::new("wss://example.com/feed").record(trace).start()?;
    /// # drop(inbound);
    /// client.send("hello").await?;
    /// client.close(Duration::from_secs(10)).await.map_err(|(error, _)| error)?;
    /// client.recorded().await?; // everything is written
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "trace")]
    pub fn record(mut self, writer: impl std::io::Write + Send + 'static) -> Self {
        self.recording = Recording::to(writer, false);
        self
    }

    /// Records as [`record`](Self::record) does, with the payloads of all messages, in and out.
    #[cfg(feature = "trace")]
    pub fn record_with_payloads(mut self, writer: impl std::io::Write + Send + 'static) -> Self {
        self.recording = Recording::to(writer, true);
        self
    }

    /// Starts the client on the current runtime.
    ///
    /// # Errors
    /// Something cannot be as it is set, or there is no runtime; nothing was started.
    pub fn start(self) -> Result<(Handle<D>, Inbound<D::Inbound>), BuildError> {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return Err(BuildError {
                reason: BuildRefused::NoRuntime,
                snapshot: self.snapshot.map(Box::new),
            });
        };
        let (handle, inbound, driver) = self.build()?;
        runtime.spawn(driver);
        Ok((handle, inbound))
    }

    /// Makes the parts of a client. It does nothing until its [`Driver`] is spawned or awaited.
    ///
    /// # Errors
    /// Something cannot be as it is set.
    ///
    /// # Panics
    /// Outside of a tokio runtime with time enabled, as tokio's timers do.
    #[allow(clippy::type_complexity)]
    pub fn build(mut self) -> Result<(Handle<D>, Inbound<D::Inbound>, Driver<D>), BuildError> {
        let snapshot = self.snapshot.take();
        match self.check() {
            Ok((connector, rng)) => self.assemble(connector, rng, snapshot),
            Err(reason) => Err(BuildError { reason, snapshot: snapshot.map(Box::new) }),
        }
    }

    /// Checks all settings together.
    fn check(&mut self) -> Result<(Arc<dyn Connect>, ChaCha8Rng), BuildRefused> {
        self.config.validate()?;
        let connector: Arc<dyn Connect> = match self.connector.take() {
            Some(connector) => connector,
            None => Arc::new(TcpConnector::new(self.config.tcp.clone())?),
        };
        self.config.connection.can_ping = connector.can_ping();
        self.client_config().validate::<D>()?;
        for url in &self.urls {
            connector.check(&Target { url: url.clone(), ..self.extra.clone() })?;
        }
        let rng = match self.seed {
            Some(seed) => ChaCha8Rng::seed_from_u64(seed),
            None => {
                ChaCha8Rng::try_from_rng(&mut SysRng).map_err(|_| BuildRefused::NoRandomness)?
            }
        };
        Ok((connector, rng))
    }

    fn client_config(&self) -> ClientConfig {
        ClientConfig {
            connection: self.config.connection.clone(),
            outbox: self.config.outbox.clone(),
        }
    }

    #[allow(clippy::type_complexity)]
    fn assemble(
        self,
        connector: Arc<dyn Connect>,
        rng: ChaCha8Rng,
        snapshot: Option<Snapshot>,
    ) -> Result<(Handle<D>, Inbound<D::Inbound>, Driver<D>), BuildError> {
        let config = self.client_config();
        let (tape, recorded) = self.recording.start();
        let built = match snapshot {
            None => trace::make(config, self.dialect, rng, tape)
                .map_err(|error| BuildError { reason: error.into(), snapshot: None }),
            Some(snapshot) => trace::restore(config, self.dialect, rng, snapshot, tape).map_err(
                |RestoreError { reason, snapshot }| BuildError {
                    reason: BuildRefused::Restore(reason),
                    snapshot: Some(snapshot),
                },
            ),
        };
        let mut client = built?;
        client.handle(bowline_core::Instant::ZERO, bowline_core::Event::Start);

        let outbox = client.outbox();
        let rules = Rules {
            max_message_bytes: outbox.config().max_message_bytes,
            max_kept: Amount {
                messages: outbox.config().max_messages,
                bytes: outbox.config().max_bytes,
            },
            can_ping: outbox.config().can_ping,
            can_ack: outbox.config().can_ack,
        };
        let level = outbox.config().level;
        let desk = Arc::new(Desk::new(rules, outbox.next_seq(), outbox.watermark(), outbox.room()));
        let inbox = Arc::new(Inbox::new(self.config.inbound_messages, self.config.inbound_bytes));
        let (status, watcher) = watch::channel(Status::default());
        let epoch = tokio::time::Instant::now();
        let handle = Handle::new(Arc::clone(&desk), watcher, epoch, level, recorded);
        let inbound = Inbound::new(Arc::clone(&inbox), Arc::clone(&desk));
        let dial = Dial { provider: self.provider, connector, extra: Arc::new(self.extra) };
        let driver = Driver::new(
            client,
            desk,
            inbox,
            status,
            dial,
            epoch,
            self.config.stall_limit,
            self.config.drop_limit,
        );
        Ok((handle, inbound, driver))
    }
}

impl<D: Dialect> fmt::Debug for Builder<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("config", &self.config).finish_non_exhaustive()
    }
}
