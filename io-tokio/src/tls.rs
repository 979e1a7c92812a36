//! TLS for `wss://`: whom to trust, and what its failures mean.

#[cfg(feature = "rustls")]
use std::sync::Arc;
use std::{fmt, io};

use bowline_core::{Loss, config::ConfigError};
use tokio::io::{AsyncRead, AsyncWrite};

#[cfg(any(feature = "rustls", feature = "native-tls"))]
use crate::transport::loss_of_io;

/// Whom a `wss://` connection trusts.
///
/// The default is the public web: with feature `rustls` the root certificates of Mozilla as of the
/// build (`webpki-roots`), else with `native-tls` those of the platform. Roots are added to it:
///
/// ```
/// # use bowline_tokio::tls::Tls;
/// # fn f(company_ca: &[u8]) -> Tls {
/// Tls::default().without_public_roots().add_root_pem(company_ca)
/// # }
/// ```
///
/// The host name is always verified, and there is no switch that turns verification off. No process
/// default is needed or touched: the crypto provider is chosen here (ring).
///
/// `Debug` prints how many roots were added, and nothing of them.
#[derive(Clone)]
pub struct Tls {
    public_roots: bool,
    roots: Vec<Root>,
    backend: Backend,
}

// Without a TLS feature there is nobody to read them.
#[cfg_attr(not(any(feature = "rustls", feature = "native-tls")), allow(dead_code))]
#[derive(Clone)]
enum Root {
    Der(Vec<u8>),
    Pem(Vec<u8>),
}

#[derive(Clone)]
enum Backend {
    #[cfg(feature = "rustls")]
    Rustls,
    #[cfg(feature = "rustls")]
    RustlsConfig(Arc<rustls::ClientConfig>),
    #[cfg(feature = "native-tls")]
    Native,
    #[cfg(not(any(feature = "rustls", feature = "native-tls")))]
    None,
}

impl Default for Backend {
    #[cfg(feature = "rustls")]
    fn default() -> Self {
        Self::Rustls
    }

    #[cfg(all(feature = "native-tls", not(feature = "rustls")))]
    fn default() -> Self {
        Self::Native
    }

    #[cfg(not(any(feature = "rustls", feature = "native-tls")))]
    fn default() -> Self {
        Self::None
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self { public_roots: true, roots: Vec::new(), backend: Backend::default() }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("public_roots", &self.public_roots)
            .field("added_roots", &self.roots.len())
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Trusts only the roots that are added.
    #[must_use]
    pub fn without_public_roots(mut self) -> Self {
        self.public_roots = false;
        self
    }

    /// Trusts one more root certificate, in DER form. Read when the connector is made.
    #[must_use]
    pub fn add_root_der(mut self, certificate: &[u8]) -> Self {
        self.roots.push(Root::Der(certificate.to_vec()));
        self
    }

    /// Trusts the root certificates of a PEM file, one or many. Read when the connector is made.
    #[must_use]
    pub fn add_root_pem(mut self, file: &[u8]) -> Self {
        self.roots.push(Root::Pem(file.to_vec()));
        self
    }

    /// Uses the platform's TLS and roots although rustls is built in, too.
    #[cfg(feature = "native-tls")]
    #[must_use]
    pub fn native(mut self) -> Self {
        self.backend = Backend::Native;
        self
    }

    /// **Escape hatch:** takes a whole configuration of rustls, for client certificates, verifiers
    /// or a crypto provider of your own. All else that is set here is ignored. It ties you to the
    /// version of rustls that this crate is built with.
    #[cfg(feature = "rustls")]
    #[must_use]
    pub fn from_rustls(config: Arc<rustls::ClientConfig>) -> Self {
        Self { backend: Backend::RustlsConfig(config), ..Self::default() }
    }

    /// Makes what connections are made with; what is wrong with the settings is found here.
    pub(crate) fn connector(&self) -> Result<Connector, ConfigError> {
        match &self.backend {
            #[cfg(feature = "rustls")]
            Backend::Rustls => Ok(Connector::Rustls(self.rustls_config()?.into())),
            #[cfg(feature = "rustls")]
            Backend::RustlsConfig(config) => Ok(Connector::Rustls(Arc::clone(config).into())),
            #[cfg(feature = "native-tls")]
            Backend::Native => Ok(Connector::Native(self.native_connector()?)),
            #[cfg(not(any(feature = "rustls", feature = "native-tls")))]
            Backend::None => Ok(Connector::None),
        }
    }

    #[cfg(feature = "rustls")]
    fn rustls_config(&self) -> Result<Arc<rustls::ClientConfig>, ConfigError> {
        use rustls::pki_types::{CertificateDer, pem::PemObject};

        let mut roots = rustls::RootCertStore::empty();
        if self.public_roots {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        let mut add = |root| roots.add(root).map_err(|_| bad_root());
        for root in &self.roots {
            match root {
                Root::Der(der) => add(der.clone().into())?,
                Root::Pem(file) => {
                    let mut found = Err(bad_root());
                    for root in CertificateDer::pem_slice_iter(file) {
                        found = add(root.map_err(|_| bad_root())?);
                    }
                    found?;
                }
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has cipher suites for TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }

    #[cfg(feature = "native-tls")]
    fn native_connector(&self) -> Result<tokio_native_tls::TlsConnector, ConfigError> {
        use tokio_native_tls::native_tls::{self, Certificate};

        let mut builder = native_tls::TlsConnector::builder();
        builder.disable_built_in_roots(!self.public_roots);
        let read = |root: &Root| match root {
            Root::Der(der) => Ok(vec![Certificate::from_der(der)?]),
            Root::Pem(file) => Certificate::stack_from_pem(file),
        };
        for root in &self.roots {
            let certificates = read(root).ok().filter(|some| !some.is_empty());
            for certificate in certificates.ok_or_else(bad_root)? {
                builder.add_root_certificate(certificate);
            }
        }
        let connector = builder.build().map_err(|_| {
            ConfigError::new("tls", "refused by the platform's TLS", "settings that it supports")
        })?;
        Ok(connector.into())
    }
}

#[cfg(any(feature = "rustls", feature = "native-tls"))]
fn bad_root() -> ConfigError {
    ConfigError::new("tls root", "unreadable", "X.509 certificates in DER or PEM form")
}

/// What TLS connections are made with.
#[derive(Clone)]
pub(crate) enum Connector {
    #[cfg(feature = "rustls")]
    Rustls(tokio_rustls::TlsConnector),
    #[cfg(feature = "native-tls")]
    Native(tokio_native_tls::TlsConnector),
    #[cfg(not(any(feature = "rustls", feature = "native-tls")))]
    None,
}

/// A stream whose TLS is nobody's business any more.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Connector {
    /// Does the TLS handshake, and verifies that the peer is `host`.
    ///
    /// # Errors
    /// [`Loss::Certificate`] when the certificate was refused, [`Loss::Tls`] for all else that went
    /// wrong in TLS, [`Loss::Eof`] and [`Loss::Io`] when the stream below ended or broke.
    pub(crate) async fn connect<S>(&self, host: &str, stream: S) -> Result<Box<dyn Stream>, Loss>
    where
        S: Stream + 'static,
    {
        match self {
            #[cfg(feature = "rustls")]
            Self::Rustls(connector) => {
                let name = rustls::pki_types::ServerName::try_from(host.to_owned())
                    .map_err(|_| Loss::BadUrl)?;
                match connector.connect(name, stream).await {
                    Ok(stream) => Ok(Box::new(stream)),
                    Err(error) => Err(loss_of_io(&error)),
                }
            }
            #[cfg(feature = "native-tls")]
            Self::Native(connector) => match connector.connect(host, stream).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(loss_of_native(&error)),
            },
            #[cfg(not(any(feature = "rustls", feature = "native-tls")))]
            Self::None => {
                let _ = (host, stream);
                Err(Loss::BadUrl)
            }
        }
    }
}

/// What an I/O error means if it is one of TLS in disguise.
pub(crate) fn loss_of(error: &io::Error) -> Option<Loss> {
    let inner = error.get_ref()?;
    #[cfg(feature = "rustls")]
    if let Some(error) = inner.downcast_ref::<rustls::Error>() {
        return Some(match error {
            rustls::Error::InvalidCertificate(_) => Loss::Certificate,
            _ => Loss::Tls,
        });
    }
    #[cfg(feature = "native-tls")]
    if let Some(error) = inner.downcast_ref::<tokio_native_tls::native_tls::Error>() {
        return Some(loss_of_native(error));
    }
    let _ = inner;
    None
}

/// The platforms' errors have no common kinds. Their texts name a certificate when it is at fault,
/// OpenSSL's "certificate verify failed" as well as Apple's and Microsoft's.
#[cfg(feature = "native-tls")]
fn loss_of_native(error: &tokio_native_tls::native_tls::Error) -> Loss {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return loss_of_io(error);
        }
        source = error.source();
    }
    if error.to_string().contains("certificate") { Loss::Certificate } else { Loss::Tls }
}
