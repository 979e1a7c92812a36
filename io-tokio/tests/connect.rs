//! The shipped connector against real sockets on this host.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bowline_core::{Frame, Loss};
use bowline_tokio::{
    connect::{Connect, Connection, Target, TargetError, TcpConnector, TcpSettings, UrlError},
    transport::{Incoming, Transport},
};
use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{accept_async, accept_hdr_async, tungstenite::handshake::server};

#[tokio::test]
async fn a_plain_connection_carries_messages_both_ways() {
    let (listener, url) = listen().await;
    let server = tokio::spawn(async move { echo(accept(&listener).await).await });
    let Connection { mut transport, subprotocol, headers } =
        dial(Target::new(url)).await.expect("a connection");
    assert_eq!(subprotocol, None);
    assert!(headers.iter().any(|(name, value)| name == "upgrade" && value == "websocket"));
    assert_eq!(round_trip(&mut *transport, "hello").await, Ok(Incoming::Data("hello".into())));
    assert!(transport.bytes_read() > 0 && transport.bytes_taken() > 0);
    drop(transport);
    server.await.expect("no panic");
}

#[tokio::test]
async fn the_server_sees_headers_and_subprotocols_and_chooses() {
    let (listener, url) = listen().await;
    let server = tokio::spawn(async move {
        let mut seen = None;
        // The callback's type is tungstenite's.
        #[allow(clippy::result_large_err)]
        let callback = |request: &server::Request, mut response: server::Response| {
            let header = |name| request.headers().get(name).map(|v| v.as_bytes().to_vec());
            seen = Some((header("authorization"), header("sec-websocket-protocol")));
            let chosen = "v2".parse().expect("a header value");
            response.headers_mut().insert("sec-websocket-protocol", chosen);
            Ok(response)
        };
        let socket = accept_hdr_async(accept(&listener).await, callback).await;
        socket.expect("a good request");
        seen.expect("called")
    });
    let target =
        Target::new(url).header("Authorization", "Bearer x").subprotocol("v1").subprotocol("v2");
    let connection = dial(target).await.expect("a connection");
    assert_eq!(connection.subprotocol.as_deref(), Some("v2"));
    let (authorization, offered) = server.await.expect("no panic");
    assert_eq!(authorization.as_deref(), Some(&b"Bearer x"[..]));
    assert_eq!(offered.as_deref(), Some(&b"v1, v2"[..]));
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_a_failure_to_connect() {
    let (listener, url) = listen().await;
    drop(listener);
    assert_eq!(refused(Target::new(url)).await, Loss::Connect);
}

#[tokio::test]
async fn a_server_may_refuse_with_any_status() {
    for status in [401, 404, 403, 500] {
        let loss = Loss::Status { status, retry_after: None };
        assert_eq!(answered(&format!("HTTP/1.1 {status} No\r\n\r\n")).await, loss);
    }
    let retry_after = Some(Duration::from_secs(120));
    for status in [429, 503] {
        let answer = format!("HTTP/1.1 {status} Later\r\nRetry-After: 120\r\n\r\n");
        assert_eq!(answered(&answer).await, Loss::Status { status, retry_after });
    }
}

/// H62
#[tokio::test]
async fn a_redirect_is_a_status_and_is_not_followed() {
    let (elsewhere, url) = listen().await;
    let answer = format!("HTTP/1.1 302 Found\r\nLocation: {url}\r\n\r\n");
    assert_eq!(answered(&answer).await, Loss::Status { status: 302, retry_after: None });
    let mut accept = pin!(elsewhere.accept());
    assert!(accept.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

/// H60
#[tokio::test]
async fn a_server_that_never_upgrades_holds_the_dial_until_it_is_dropped() {
    let (listener, url) = listen().await;
    let mut dialing = connector().connect(Target::new(url));
    let mut accepted = tokio::select! {
        _ = &mut dialing => panic!("nobody has answered"),
        accepted = accept(&listener) => accepted,
    };
    let mut request = vec![0; 4096];
    tokio::select! {
        _ = &mut dialing => panic!("nobody has answered"),
        read = accepted.read(&mut request) => assert!(read.expect("the request") > 0),
    }
    accepted.write_all(b"HTTP/1.1 101").await.expect("the client is there");
    assert!(dialing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(dialing);
    assert!(matches!(accepted.read(&mut request).await, Ok(0) | Err(_)), "the socket is closed");
}

#[tokio::test]
async fn what_cannot_be_dialed_is_known_beforehand() {
    let connector = connector();
    let check = |url: &str| connector.check(&Target::new(url));
    assert_eq!(check("ws://127.0.0.1:1/"), Ok(()));
    assert_eq!(check("ws://a.example/"), Err(TargetError::Url(UrlError::Plaintext)));
    assert_eq!(check("http://a.example/"), Err(TargetError::Url(UrlError::Scheme)));
    assert_eq!(refused(Target::new("ws://a.example/")).await, Loss::BadUrl);
    assert_eq!(refused(Target::new("nonsense")).await, Loss::BadUrl);
    let target = Target::new("ws://127.0.0.1:1/").header("Host", "other");
    assert_eq!(connector.check(&target), Err(TargetError::ReservedHeader { index: 0 }));
    assert_eq!(refused(target).await, Loss::Provider);
}

#[tokio::test]
async fn a_message_above_the_limit_is_too_large() {
    let (listener, url) = listen().await;
    let server = tokio::spawn(async move {
        let mut socket = accept_async(accept(&listener).await).await.expect("a good request");
        let _ = socket.send(vec![0; 2000].into()).await;
    });
    let mut settings = TcpSettings::default();
    settings.limits.inbound = 1999;
    let connector = TcpConnector::new(settings).expect("good settings");
    let mut transport = connector.connect(Target::new(url)).await.expect("open").transport;
    assert_eq!(poll_fn(|cx| transport.poll_receive(cx)).await, Err(Loss::TooLarge));
    server.await.expect("no panic");
}

#[test]
fn settings_are_checked() {
    let field = |settings| TcpConnector::new(settings).expect_err("out of range").field;
    let mut settings = TcpSettings::default();
    settings.limits.inbound = 0;
    assert_eq!(field(settings), "inbound");
    let settings = TcpSettings { address_delay: Duration::ZERO, ..TcpSettings::default() };
    assert_eq!(field(settings), "address_delay");
    let settings = TcpSettings { user_timeout: Some(Duration::ZERO), ..TcpSettings::default() };
    assert_eq!(field(settings), "user_timeout");
    let settings = TcpSettings { notsent_lowat: Some(0), ..TcpSettings::default() };
    assert_eq!(field(settings), "notsent_lowat");
}

/// H63
#[test]
fn debug_shows_no_secret() {
    let target = Target::new("ws://h/?key=hunter2").header("a", "hunter2").subprotocol("hunter2");
    let connector = connector();
    let shown = format!("{target:?} {connector:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

/// H58: a header may claim the whole limit; what it claims is not touched before it comes.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_header_that_claims_16_mib_costs_no_memory() {
    let (listener, url) = listen().await;
    let mut claim = vec![0x82, 127];
    claim.extend_from_slice(&(16_u64 << 20).to_be_bytes());
    let connector = connector();
    let before = resident();
    let mut held = Vec::new();
    for _ in 0..64 {
        let (connection, accepted) = tokio::join!(connector.connect(Target::new(&*url)), async {
            accept_async(accept(&listener).await).await.expect("a good request").into_inner()
        });
        let (mut transport, mut accepted) = (connection.expect("open").transport, accepted);
        accepted.write_all(&claim).await.expect("the client is there");
        let handshake = transport.bytes_read();
        poll_fn(|cx| {
            assert!(transport.poll_receive(cx).is_pending());
            let read = transport.bytes_read() - handshake;
            if read == claim.len() as u64 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        held.push((transport, accepted));
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "1 GiB was claimed, {grown} bytes were taken");
}

/// The resident memory of this process in bytes.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    let kib = line.split_whitespace().nth(1).expect("a number").parse::<usize>();
    kib.expect("a number") * 1024
}

#[cfg(feature = "rustls")]
mod tls {
    use bowline_tokio::tls::Tls;
    use rcgen::{CertificateParams, CertifiedIssuer, KeyPair, date_time_ymd};
    use rustls::pki_types::PrivateKeyDer;

    use super::*;

    /// A certificate authority and a server that it vouches for.
    struct Server {
        root_der: Vec<u8>,
        root_pem: String,
        acceptor: tokio_rustls::TlsAcceptor,
    }

    impl Server {
        fn new(names: &[&str], edit: impl FnOnce(&mut CertificateParams)) -> Self {
            let mut root = CertificateParams::default();
            root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            // A leaf with the name of its issuer looks self-signed to OpenSSL.
            root.distinguished_name.push(rcgen::DnType::CommonName, "root of a test");
            let key = KeyPair::generate().expect("a key");
            let root = CertifiedIssuer::self_signed(root, key).expect("a root");
            let names = names.iter().map(ToString::to_string).collect::<Vec<_>>();
            let mut leaf = CertificateParams::new(names).expect("good names");
            edit(&mut leaf);
            let key = KeyPair::generate().expect("a key");
            let leaf = leaf.signed_by(&key, &root).expect("a certificate");
            let key = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS 8");
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = rustls::ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("ring has them")
                .with_no_client_auth()
                .with_single_cert(vec![leaf.der().clone()], key)
                .expect("they belong together");
            Self {
                root_der: root.der().to_vec(),
                root_pem: root.pem(),
                acceptor: Arc::new(config).into(),
            }
        }

        /// What comes of a connection to this server.
        async fn dialed(&self, tls: Tls) -> Result<Connection, Loss> {
            let (listener, url) = listen().await;
            let acceptor = self.acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(accept(&listener).await).await {
                    echo(stream).await;
                }
            });
            let settings = TcpSettings { tls, ..TcpSettings::default() };
            let connector = TcpConnector::new(settings).expect("good settings");
            let url = url.replace("ws:", "wss:");
            connector.connect(Target::new(url)).await
        }
    }

    /// H64
    #[tokio::test]
    async fn a_server_with_a_root_of_ours_is_trusted() {
        let server = Server::new(&["127.0.0.1"], |_| {});
        for tls in [
            Tls::default().add_root_der(&server.root_der),
            Tls::default().without_public_roots().add_root_pem(server.root_pem.as_bytes()),
        ] {
            let mut transport = server.dialed(tls).await.expect("trusted").transport;
            let incoming = round_trip(&mut *transport, "secret").await;
            assert_eq!(incoming, Ok(Incoming::Data("secret".into())));
        }
    }

    #[tokio::test]
    async fn a_certificate_that_will_not_do_is_said_to_be_at_fault() {
        let good = Server::new(&["127.0.0.1"], |_| {});
        assert_eq!(good.dialed(Tls::default()).await.expect_err("unknown"), Loss::Certificate);
        let other = Server::new(&["other.example"], |_| {});
        let tls = Tls::default().add_root_der(&other.root_der);
        assert_eq!(other.dialed(tls).await.expect_err("wrong name"), Loss::Certificate);
        let old = Server::new(&["127.0.0.1"], |leaf| {
            leaf.not_before = date_time_ymd(2019, 1, 1);
            leaf.not_after = date_time_ymd(2020, 1, 1);
        });
        let tls = Tls::default().add_root_der(&old.root_der);
        assert_eq!(old.dialed(tls).await.expect_err("expired"), Loss::Certificate);
    }

    #[cfg(feature = "native-tls")]
    #[tokio::test]
    async fn the_platforms_tls_tells_the_same() {
        let good = Server::new(&["127.0.0.1"], |_| {});
        let tls = Tls::default().native().add_root_pem(good.root_pem.as_bytes());
        let mut transport = good.dialed(tls).await.expect("trusted").transport;
        let incoming = round_trip(&mut *transport, "secret").await;
        assert_eq!(incoming, Ok(Incoming::Data("secret".into())));
        let tls = Tls::default().native();
        assert_eq!(good.dialed(tls).await.expect_err("unknown"), Loss::Certificate);
        let other = Server::new(&["other.example"], |_| {});
        let tls = Tls::default().native().add_root_der(&other.root_der);
        assert_eq!(other.dialed(tls).await.expect_err("wrong name"), Loss::Certificate);
    }

    #[tokio::test]
    async fn a_server_that_speaks_no_tls_is_a_tls_failure() {
        let (listener, url) = listen().await;
        tokio::spawn(async move {
            let mut stream = accept(&listener).await;
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await
        });
        assert_eq!(refused(Target::new(url.replace("ws:", "wss:"))).await, Loss::Tls);
    }

    #[tokio::test]
    async fn a_server_that_hangs_up_in_the_handshake_is_not_a_tls_failure() {
        let (listener, url) = listen().await;
        tokio::spawn(async move {
            let mut stream = accept(&listener).await;
            let mut hello = [0; 64];
            stream.read_exact(&mut hello).await.expect("a hello");
        });
        let loss = refused(Target::new(url.replace("ws:", "wss:"))).await;
        assert!(matches!(loss, Loss::Eof | Loss::Io), "{loss:?}");
    }

    #[test]
    fn roots_that_cannot_be_read_are_found_before_anything_runs() {
        for tls in [
            Tls::default().add_root_der(b"nonsense"),
            Tls::default().add_root_pem(b"nonsense"),
            Tls::default().add_root_pem(b""),
        ] {
            let settings = TcpSettings { tls, ..TcpSettings::default() };
            assert_eq!(TcpConnector::new(settings).expect_err("unreadable").field, "tls root");
        }
    }

    #[tokio::test]
    async fn a_whole_configuration_can_be_given() {
        let server = Server::new(&["127.0.0.1"], |_| {});
        let mut roots = rustls::RootCertStore::empty();
        roots.add(server.root_der.clone().into()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_root_certificates(roots)
            .with_no_client_auth();
        assert!(server.dialed(Tls::from_rustls(Arc::new(config))).await.is_ok());
    }
}

fn connector() -> TcpConnector {
    TcpConnector::new(TcpSettings::default()).expect("the defaults are good")
}

async fn dial(target: Target) -> Result<Connection, Loss> {
    connector().connect(target).await
}

async fn refused(target: Target) -> Loss {
    dial(target).await.expect_err("no connection")
}

/// What a client makes of this answer to its upgrade.
async fn answered(answer: &str) -> Loss {
    let (listener, url) = listen().await;
    let (loss, ()) = tokio::join!(refused(Target::new(url)), async {
        let mut stream = accept(&listener).await;
        let mut last = [0; 4];
        while last != *b"\r\n\r\n" {
            last.rotate_left(1);
            stream.read_exact(&mut last[3..]).await.expect("the request");
        }
        stream.write_all(answer.as_bytes()).await.expect("the client is there");
    });
    loss
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address: SocketAddr = listener.local_addr().expect("bound");
    (listener, format!("ws://{address}/"))
}

async fn accept(listener: &TcpListener) -> TcpStream {
    let accepted: io::Result<_> = listener.accept().await;
    accepted.expect("a client").0
}

/// Answers each message with itself until the client is gone.
async fn echo(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut socket = accept_async(stream).await.expect("a good request");
    while let Some(Ok(message)) = socket.next().await {
        if message.is_text() {
            socket.send(message).await.expect("the client is there");
        }
    }
}

async fn round_trip(transport: &mut dyn Transport, text: &str) -> Result<Incoming, Loss> {
    poll_fn(|cx| transport.poll_ready(cx)).await?;
    transport.start_send(Frame::Data(text.into()))?;
    poll_fn(|cx| transport.poll_flush(cx)).await?;
    poll_fn(|cx| transport.poll_receive(cx)).await
}
