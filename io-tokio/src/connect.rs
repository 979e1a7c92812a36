//! From "dial this target" to an open [`Transport`].
//!
//! A [`Connect`] makes one connection each time that it is asked. The shipped one is
//! [`TcpConnector`]: the host's name is resolved, its addresses race (RFC 8305), then TLS for
//! `wss://`, then the HTTP upgrade (RFC 6455 §4.1). Redirects are not followed: they would take the
//! headers of a [`Target`] to another host. None of the steps has a time limit of its own; whoever
//! waits drops the future when its patience is over, and with it go all sockets.
//!
//! Another way to the server (a proxy, a Unix socket, a tunnel) is a [`Connect`] that opens its own
//! stream and then calls [`upgrade`], or
//! [`WebSocket::from_upgraded`](crate::transport::WebSocket::from_upgraded) where nothing is to
//! upgrade.

use std::{fmt, io, pin::Pin, sync::Arc, time::Duration};

use bowline_core::{
    Loss,
    config::{ConfigError, check},
};
use bytes::Bytes;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
};

use crate::{
    race::race,
    tls::{Connector, Tls},
    transport::{Counted, Counts, Limits, Transport},
    upgrade::Request,
    url::{Endpoint, is_loopback},
};
pub use crate::{upgrade::TargetError, url::UrlError};

/// What to dial: the URL of a server and what to tell it.
///
/// `Debug` prints how many headers and subprotocols there are, and no text.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// `ws://host[:port]/path` or `wss://host[:port]/path`.
    pub url: String,
    /// Headers for the upgrade request, as they are. Those of the upgrade itself cannot be set:
    /// Host, Connection, Upgrade, Sec-WebSocket-*, and those that announce a body.
    pub headers: Vec<(String, Bytes)>,
    /// The subprotocols to offer, best first (RFC 6455 §1.9). If there are any, the server has to
    /// choose one.
    pub subprotocols: Vec<String>,
}

impl Target {
    /// A target without headers and subprotocols.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), headers: Vec::new(), subprotocols: Vec::new() }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Offers one more subprotocol.
    #[must_use]
    pub fn subprotocol(mut self, name: impl Into<String>) -> Self {
        self.subprotocols.push(name.into());
        self
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("headers", &self.headers.len())
            .field("subprotocols", &self.subprotocols.len())
            .finish_non_exhaustive()
    }
}

/// An open transport and what its handshake brought.
///
/// `Debug` prints the subprotocol and how many headers there are.
pub struct Connection {
    /// The transport.
    pub transport: Box<dyn Transport>,
    /// The subprotocol that the server chose: one of those that were offered.
    pub subprotocol: Option<String>,
    /// The headers of the server's response in their order, names in lower case.
    pub headers: Vec<(String, Bytes)>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("subprotocol", &self.subprotocol)
            .field("headers", &self.headers.len())
            .finish_non_exhaustive()
    }
}

/// The future of a [`Connect`].
pub type Connecting = Pin<Box<dyn Future<Output = Result<Connection, Loss>> + Send>>;

/// Makes connections.
pub trait Connect: Send + Sync + 'static {
    /// Whether its transports send pings and report pongs. The default is that they do.
    fn can_ping(&self) -> bool {
        true
    }

    /// What is wrong with a target, as far as can be seen without dialing it. The default finds
    /// nothing.
    ///
    /// # Errors
    /// The first fault.
    fn check(&self, target: &Target) -> Result<(), TargetError> {
        let _ = target;
        Ok(())
    }

    /// Dials the target, once.
    ///
    /// # Errors
    /// The future ends in why there is no connection.
    ///
    /// # Cancel safety
    /// Dropping the future must close whatever it has opened.
    fn connect(&self, target: Target) -> Connecting;
}

/// The settings of a [`TcpConnector`].
///
/// ```
/// use bowline_tokio::connect::{TcpConnector, TcpSettings};
///
/// let settings = TcpSettings { allow_plaintext: true, ..TcpSettings::default() };
/// let connector = TcpConnector::new(settings)?;
/// # Ok::<_, bowline_core::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct TcpSettings {
    /// Whether `ws://` may leave this host. Default false: then it is for `localhost`, 127.0.0.0/8
    /// and `::1` only.
    pub allow_plaintext: bool,
    /// Whom `wss://` trusts.
    pub tls: Tls,
    /// What the transports accept and keep in memory.
    pub limits: Limits,
    /// The time from the start of one address to that of the next (RFC 8305 §5, Connection Attempt
    /// Delay). Default 250 ms, at least 10 ms, at most 10 s.
    pub address_delay: Duration,
    /// After this long without an ack for what was sent, the kernel breaks the connection
    /// (TCP_USER_TIMEOUT, RFC 5482), on Linux and Android. Default 60 s, at least 1 s, at most a
    /// day; `None` leaves the system's, about 15 minutes on Linux.
    ///
    /// The default is above the 50 s that the heartbeat needs at most, so the kernel does not
    /// decide first; it ends sockets that nobody watches any more, such as one with an unread Close.
    pub user_timeout: Option<Duration>,
    /// How many bytes the kernel takes beyond what it can send at once (TCP_NOTSENT_LOWAT), on
    /// Linux and Android. Default 64 KiB, at least 1 KiB, at most 1 GiB; `None` leaves the
    /// system's, which is the whole send buffer, often megabytes.
    ///
    /// With it, "flushed" means "about to be sent", so a ping does not wait behind megabytes that
    /// only seem to be sent, and a stalled peer shows within this many bytes. What is in flight is
    /// not limited, hence neither is the throughput.
    pub notsent_lowat: Option<u32>,
}

impl Default for TcpSettings {
    fn default() -> Self {
        Self {
            allow_plaintext: false,
            tls: Tls::default(),
            limits: Limits::default(),
            address_delay: Duration::from_millis(250),
            user_timeout: Some(Duration::from_secs(60)),
            notsent_lowat: Some(64 << 10),
        }
    }
}

/// Connects by TCP, with TLS for `wss://`. Cheap to clone.
#[derive(Clone)]
pub struct TcpConnector {
    settings: Arc<TcpSettings>,
    tls: Connector,
}

impl fmt::Debug for TcpConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpConnector").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl TcpConnector {
    /// Checks the settings and reads the certificates.
    ///
    /// # Errors
    /// The first setting that is out of its range, or a certificate that cannot be read.
    pub fn new(settings: TcpSettings) -> Result<Self, ConfigError> {
        settings.limits.validate()?;
        check(
            "address_delay",
            settings.address_delay,
            Duration::from_millis(10)..=Duration::from_secs(10),
        )?;
        if let Some(user_timeout) = settings.user_timeout {
            let allowed = Duration::from_secs(1)..=Duration::from_secs(86_400);
            check("user_timeout", user_timeout, allowed)?;
        }
        if let Some(notsent_lowat) = settings.notsent_lowat {
            check("notsent_lowat", notsent_lowat, 1 << 10..=1 << 30)?;
        }
        let tls = settings.tls.connector()?;
        Ok(Self { settings: Arc::new(settings), tls })
    }

    async fn dial(self, target: Target) -> Result<Connection, Loss> {
        let endpoint = Endpoint::parse(&target.url).map_err(|_| Loss::BadUrl)?;
        endpoint.check(self.settings.allow_plaintext).map_err(|_| Loss::BadUrl)?;
        let request = Request::new(&endpoint, &target).map_err(TargetError::loss)?;
        let counts = Arc::default();
        let stream = Counted::new(self.tcp(&endpoint).await?, Arc::clone(&counts));
        let limits = self.settings.limits;
        if endpoint.tls {
            let stream = self.tls.connect(&endpoint.host, stream).await?;
            request.upgrade(stream, counts, limits).await
        } else {
            request.upgrade(stream, counts, limits).await
        }
    }

    async fn tcp(&self, endpoint: &Endpoint) -> Result<TcpStream, Loss> {
        // A lookup that is given up leaves its thread in the resolver until that has an answer.
        let found = lookup_host((endpoint.host.as_str(), endpoint.port)).await;
        let mut addresses: Vec<_> = found.map_err(|_| Loss::Dns)?.collect();
        if addresses.is_empty() {
            return Err(Loss::Dns);
        }
        if !endpoint.tls && !self.settings.allow_plaintext {
            // A resolver can say anything of `localhost`.
            addresses.retain(|address| is_loopback(address.ip()));
        }
        let stream = race(addresses, self.settings.address_delay, TcpStream::connect).await;
        let stream = stream.ok_or(Loss::Connect)?;
        self.tune(&stream).map_err(|_| Loss::Io)?;
        Ok(stream)
    }

    fn tune(&self, stream: &TcpStream) -> io::Result<()> {
        let socket = SockRef::from(stream);
        // Frames are gathered here already, so Nagle's algorithm could only add delay.
        socket.set_tcp_nodelay(true)?;
        #[cfg(any(target_os = "android", target_os = "linux"))]
        {
            if let Some(timeout) = self.settings.user_timeout {
                socket.set_tcp_user_timeout(Some(timeout))?;
            }
            if let Some(lowat) = self.settings.notsent_lowat {
                socket.set_tcp_notsent_lowat(lowat)?;
            }
        }
        Ok(())
    }
}

impl Connect for TcpConnector {
    fn check(&self, target: &Target) -> Result<(), TargetError> {
        let endpoint = Endpoint::parse(&target.url)?;
        endpoint.check(self.settings.allow_plaintext)?;
        Request::new(&endpoint, target).map(drop)
    }

    fn connect(&self, target: Target) -> Connecting {
        Box::pin(self.clone().dial(target))
    }
}

/// Upgrades a stream that leads to the target's server, RFC 6455 §4: a tunnel, a Unix socket, a
/// stream in a test. The scheme of the URL does not matter here; its host is what the Host header
/// says.
///
/// # Errors
/// [`Loss::BadUrl`] and [`Loss::Provider`] for a target that cannot be dialed (see [`TargetError`]);
/// [`Loss::Status`] when the server refuses or redirects; [`Loss::Subprotocol`] when it chooses
/// none of the subprotocols, or one that was not offered; [`Loss::BadUpgrade`] when its answer is
/// malformed, has more than 124 headers or is longer than 64 KiB; [`Loss::Eof`], [`Loss::Io`] and
/// [`Loss::Tls`] when the stream ended or broke.
///
/// # Cancel safety
/// Dropping the future drops the stream. There is no time limit in it.
pub async fn upgrade<S>(stream: S, target: &Target, limits: Limits) -> Result<Connection, Loss>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let endpoint = Endpoint::parse(&target.url).map_err(|_| Loss::BadUrl)?;
    let request = Request::new(&endpoint, target).map_err(TargetError::loss)?;
    let counts: Arc<Counts> = Arc::default();
    request.upgrade(Counted::new(stream, Arc::clone(&counts)), counts, limits).await
}
