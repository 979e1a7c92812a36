//! What only a kernel can do, on sockets of this host. Nothing is said about time here: a busy
//! host may take any.

use std::{future::IntoFuture, net::SocketAddr, time::Duration};

use bowline_tokio::{Builder, Config, Handle, Inbound, Loss, Phase, Plain, StopReason, core::Body};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::peer::{Heard, Peer, close, soon, status};

/// H22: a port that refuses, until somebody listens there.
#[tokio::test]
async fn a_client_may_be_started_before_its_server() {
    // Bound and not listening: nobody else can take the port, and connections are refused.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = socket.local_addr().expect("bound");
    let (client, _inbound) = client(address);
    let receipt = client.send("early").await.expect("taken");
    status(&client, |status| status.last_loss == Some(Loss::Connect) && status.attempt.get() > 2)
        .await;
    let listener = socket.listen(16).expect("the port is ours");
    let mut peer = link(&listener).await;
    assert_eq!(peer.message().await, "early");
    peer.serve();
    soon(receipt.into_future()).await.expect("delivered");
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_is_tried_again() {
    // A label of more than 63 bytes (RFC 1035 §2.3.4): no resolver asks anybody for it.
    let url = format!("ws://{}.invalid/", "a".repeat(64));
    let builder = Builder::new(url).allow_plaintext().configure(quick);
    let (client, _inbound) = builder.start().expect("a good configuration");
    let third = |status: &bowline_tokio::Status| status.attempt.get() >= 3;
    let (status, _) = status(&client, third).await;
    assert_eq!(status.last_loss, Some(Loss::Dns));
}

/// H24, H38: after each reset all that was in flight comes again, in its order.
#[tokio::test]
async fn a_peer_that_resets_its_connections_gets_everything_in_order_at_last() {
    let listener = listen().await;
    let (client, _inbound) = client(address(&listener));
    let texts: Vec<String> = (0..100).map(|n| format!("message {n}")).collect();
    let mut receipts = Vec::new();
    for text in &texts {
        receipts.push(client.send(text.as_str()).await.expect("taken"));
    }
    for attempt in 1..=3 {
        let stream = accept(&listener).await;
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a TCP socket");
        let mut peer = Peer::new(stream);
        peer.upgrade().await;
        assert_eq!(peer.message().await, texts[0]);
        drop(peer);
        let next = |status: &bowline_tokio::Status| status.attempt.get() > attempt;
        let (status, _) = status(&client, next).await;
        assert_eq!(status.last_loss, Some(Loss::Io));
    }
    let mut peer = link(&listener).await;
    for text in &texts {
        assert_eq!(peer.message().await, *text);
    }
    let serving = peer.serve();
    for receipt in receipts {
        soon(receipt.into_future()).await.expect("delivered");
    }
    soon(client.close(Duration::from_secs(60))).await.expect("closed");
    // No message came twice on this link.
    assert_eq!(soon(serving).await.expect("no panic"), [""; 0]);
}

#[tokio::test]
async fn a_peer_that_stops_reading_in_the_middle_of_a_message_is_left() {
    let socket = TcpSocket::new_v4().expect("a socket");
    // Much less than a message, whatever the kernel makes of it.
    socket.set_recv_buffer_size(4 << 10).expect("a TCP socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let listener = socket.listen(16).expect("a listener");
    let builder = Builder::new(url(address(&listener))).configure(|config| {
        quick(config);
        config.connection.ping_interval = Duration::from_millis(100);
        config.connection.write_limit = Duration::from_millis(500);
        config.outbox.max_message_bytes = 4 << 20;
    });
    let (client, _inbound) = builder.start().expect("a good configuration");
    let receipt = client.send("x".repeat(4 << 20)).await.expect("taken");
    let mut stalled = link(&listener).await;
    let (lost, _) = status(&client, |status| status.last_loss.is_some()).await;
    assert_eq!(lost.last_loss, Some(Loss::WriteLimit));
    stalled.gone().await;
    // On a busy host a link may be taken for dead once more. Each dial has a peer of its own.
    let serving = tokio::spawn(async move {
        loop {
            link(&listener).await.serve();
        }
    });
    soon(receipt.into_future()).await.expect("delivered");
    serving.abort();
}

/// H11, H60
#[tokio::test]
async fn a_server_that_accepts_and_is_silent_has_its_socket_closed_at_the_dial_limit() {
    let listener = listen().await;
    let builder = Builder::new(url(address(&listener))).configure(|config| {
        quick(config);
        config.connection.dial_limit = Duration::from_millis(200);
    });
    let (client, _inbound) = builder.start().expect("a good configuration");
    let mut silent = Peer::new(accept(&listener).await);
    silent.gone().await;
    status(&client, |status| status.last_loss == Some(Loss::DialLimit)).await;
    accept(&listener).await;
}

/// H59
#[tokio::test]
async fn a_server_that_closes_and_keeps_tcp_open_is_left() {
    let listener = listen().await;
    let (client, _inbound) = client(address(&listener));
    let mut peer = link(&listener).await;
    peer.write(&close(Some(1001))).await;
    assert_eq!(peer.hear().await, Some(Heard::Close(Some(1001))));
    assert_eq!(peer.hear().await, None);
    let _next = link(&listener).await;
    let up = |status: &bowline_tokio::Status| status.phase == Phase::Up;
    let (status, _) = status(&client, up).await;
    assert_eq!(status.last_loss, Some(Loss::Closed { code: Some(1001) }));
}

/// H62: the other host is never dialed, so it gets no header.
#[tokio::test]
async fn a_redirect_stops_the_client_and_takes_its_headers_nowhere() {
    let (listener, elsewhere) = (listen().await, listen().await);
    let builder =
        Builder::new(url(address(&listener))).header("Authorization", "Bearer x").configure(quick);
    let (client, _inbound) = builder.start().expect("a good configuration");
    let mut peer = Peer::new(accept(&listener).await);
    assert!(peer.request().await.contains("Bearer x"));
    let location = url(address(&elsewhere));
    let answer = format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {location}\r\n\r\n");
    peer.write(answer.as_bytes()).await;
    let loss = Loss::Status { status: 307, retry_after: None };
    let reason = StopReason::Fatal(loss);
    status(&client, |status| status.phase == Phase::Stopped { reason }).await;
    // Connections are accepted in the order in which they were made: had the client been there,
    // it would come first.
    let ours = TcpStream::connect(address(&elsewhere)).await.expect("somebody listens");
    let (_, first) = soon(elsewhere.accept()).await.expect("a connection");
    assert_eq!(first, ours.local_addr().expect("connected"));
}

fn client(address: SocketAddr) -> (Handle<Plain>, Inbound<Body>) {
    Builder::new(url(address)).configure(quick).start().expect("a good configuration")
}

/// Dials again at once, and has the patience that a busy host needs.
pub(crate) fn quick(config: &mut Config) {
    config.connection.dial_limit = Duration::from_secs(60 * 60);
    config.connection.backoff.base = Duration::from_millis(10);
    config.connection.backoff.cap = Duration::from_millis(10);
}

pub(crate) async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a port")
}

pub(crate) fn address(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().expect("bound")
}

fn url(address: SocketAddr) -> String {
    format!("ws://{address}/")
}

pub(crate) async fn accept(listener: &TcpListener) -> TcpStream {
    soon(listener.accept()).await.expect("a client").0
}

/// The next connection, open.
async fn link(listener: &TcpListener) -> Peer {
    let mut peer = Peer::new(accept(listener).await);
    peer.upgrade().await;
    peer
}
