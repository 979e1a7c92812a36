//! `wss://` from the builder to the message.

use std::{future::IntoFuture, sync::Arc};

use bowline_tokio::{
    Builder, Handle, Inbound, Loss, Phase, Plain, StopReason, core::Body, tls::Tls,
};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::{ServerConfig, crypto::CryptoProvider, pki_types::PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{
    peer::{Peer, soon, status},
    sockets::{accept, address, listen, quick},
};

/// H64: there is no provider of cryptography for the whole process, and none is needed or set.
#[tokio::test]
async fn a_message_is_delivered_over_tls_with_a_root_of_ours() {
    let server = Server::new("127.0.0.1").await;
    let tls = Tls::default().without_public_roots().add_root_der(&server.root);
    let (client, _inbound) = server.client(tls);
    let receipt = client.send("secret").await.expect("taken");
    // The second link is as good as the first.
    for _ in 0..2 {
        let mut peer = server.link().await;
        assert_eq!(peer.message().await, "secret");
    }
    server.link().await.serve();
    soon(receipt.into_future()).await.expect("delivered");
    assert!(CryptoProvider::get_default().is_none());
}

#[tokio::test]
async fn a_certificate_of_an_unknown_issuer_stops_the_client() {
    let server = Server::new("127.0.0.1").await;
    let (client, _inbound) = server.client(Tls::default());
    server.is_refused(&client).await;
}

#[tokio::test]
async fn a_certificate_of_another_name_stops_the_client() {
    let server = Server::new("other.example").await;
    let (client, _inbound) = server.client(Tls::default().add_root_der(&server.root));
    server.is_refused(&client).await;
}

/// A server and the authority that vouches for it.
struct Server {
    root: Vec<u8>,
    acceptor: TlsAcceptor,
    listener: TcpListener,
}

impl Server {
    async fn new(name: &str) -> Self {
        let mut root = CertificateParams::default();
        root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        root.distinguished_name.push(rcgen::DnType::CommonName, "root of a test");
        let key = KeyPair::generate().expect("a key");
        let root = CertifiedIssuer::self_signed(root, key).expect("a root");
        let leaf = CertificateParams::new([name.to_owned()]).expect("a good name");
        let key = KeyPair::generate().expect("a key");
        let leaf = leaf.signed_by(&key, &root).expect("a certificate");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS 8");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .expect("they belong together");
        Self {
            root: root.der().to_vec(),
            acceptor: Arc::new(config).into(),
            listener: listen().await,
        }
    }

    fn client(&self, tls: Tls) -> (Handle<Plain>, Inbound<Body>) {
        let url = format!("wss://{}/", address(&self.listener));
        Builder::new(url).tls(tls).configure(quick).start().expect("a good configuration")
    }

    async fn link(&self) -> Peer {
        let stream = accept(&self.listener).await;
        let mut peer = Peer::new(soon(self.acceptor.accept(stream)).await.expect("a handshake"));
        peer.upgrade().await;
        peer
    }

    async fn is_refused(&self, client: &Handle<Plain>) {
        let stream = accept(&self.listener).await;
        soon(self.acceptor.accept(stream)).await.map(drop).expect_err("not to be trusted");
        let reason = StopReason::Fatal(Loss::Certificate);
        status(client, |status| status.phase == Phase::Stopped { reason }).await;
    }
}
