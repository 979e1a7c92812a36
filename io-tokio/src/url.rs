//! Which URLs can be dialed, and what is wrong with the others.

use std::net::IpAddr;

use tokio_tungstenite::tungstenite::http::Uri;

/// Why a URL cannot be dialed.
///
/// The texts say what to do, and hold no part of the URL: its path and query may be secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// Not a URL at all, or one without a host.
    #[error(
        "the URL cannot be parsed; expected ws://host[:port]/path or wss://host[:port]/path, \
         percent-encoded, an international host name in its xn-- form"
    )]
    Malformed,
    /// The scheme is neither `ws` nor `wss`.
    #[error("the URL's scheme is not ws or wss; use ws for http and wss for https")]
    Scheme,
    /// The port is not a number from 1 to 65535.
    #[error("the URL's port is not a number from 1 to 65535")]
    Port,
    /// There is a user name or password in the URL.
    #[error("the URL holds a user name or password; send them in an Authorization header instead")]
    UserInfo,
    /// There is a fragment, which a WebSocket URL must not have (RFC 6455 §3).
    #[error("the URL has a fragment; RFC 6455 section 3 forbids it, write # as %23")]
    Fragment,
    /// `ws://` to a host other than this one, which has to be allowed.
    #[error(
        "the URL is ws:// to a host that is not this one, where all can be read on the way; use \
         wss://, or set allow_plaintext"
    )]
    Plaintext,
    /// `wss://` without a TLS implementation.
    #[error("the URL is wss:// but bowline-tokio is built without feature rustls or native-tls")]
    NoTls,
}

/// Where a URL leads to.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) tls: bool,
    /// Without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The value of the Host header: the port only where it is not the default.
    pub(crate) host_header: String,
    /// Path and query.
    pub(crate) path: String,
}

impl Endpoint {
    /// Reads a URL, RFC 6455 §3.
    pub(crate) fn parse(url: &str) -> Result<Self, UrlError> {
        // `Uri` drops a fragment without a word.
        if url.contains('#') {
            return Err(UrlError::Fragment);
        }
        let uri = Uri::try_from(url).map_err(|_| UrlError::Malformed)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(UrlError::Malformed);
        };
        let tls = scheme.eq_ignore_ascii_case("wss");
        if !tls && !scheme.eq_ignore_ascii_case("ws") {
            return Err(UrlError::Scheme);
        }
        let authority = authority.as_str();
        if authority.contains('@') {
            return Err(UrlError::UserInfo);
        }
        let (name, rest) = if authority.starts_with('[') {
            let end = authority.find(']').ok_or(UrlError::Malformed)? + 1;
            authority.split_at(end)
        } else {
            authority.split_at(authority.find(':').unwrap_or(authority.len()))
        };
        let default = if tls { 443 } else { 80 };
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => default,
            None => return Err(UrlError::Malformed),
            // `parse` would take a plus sign.
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                port.parse().ok().filter(|port| *port != 0).ok_or(UrlError::Port)?
            }
            Some(_) => return Err(UrlError::Port),
        };
        let host = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
            Some(address) => {
                address.parse::<std::net::Ipv6Addr>().map_err(|_| UrlError::Malformed)?;
                address
            }
            None => name,
        };
        if host.is_empty() {
            return Err(UrlError::Malformed);
        }
        let host_header = if port == default { name.to_owned() } else { format!("{name}:{port}") };
        let path = match uri.path_and_query().map(|path| path.as_str()) {
            None | Some("") => "/".to_owned(),
            Some(path) if path.starts_with('/') => path.to_owned(),
            Some(query) => format!("/{query}"),
        };
        Ok(Self { tls, host: host.to_owned(), port, host_header, path })
    }

    /// Refuses `wss://` that cannot be done, and `ws://` to another host that was not allowed.
    pub(crate) fn check(&self, allow_plaintext: bool) -> Result<(), UrlError> {
        if self.tls {
            let built_in = cfg!(any(feature = "rustls", feature = "native-tls"));
            return if built_in { Ok(()) } else { Err(UrlError::NoTls) };
        }
        if allow_plaintext || self.is_loopback() { Ok(()) } else { Err(UrlError::Plaintext) }
    }

    fn is_loopback(&self) -> bool {
        match self.host.parse() {
            Ok(address) => is_loopback(address),
            Err(_) => self.host.eq_ignore_ascii_case("localhost"),
        }
    }
}

/// 127.0.0.0/8, ::1, and the former written as IPv6.
pub(crate) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> (bool, String, u16, String, String) {
        let Endpoint { tls, host, port, host_header, path } =
            Endpoint::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        (tls, host, port, host_header, path)
    }

    fn expected(
        tls: bool,
        host: &str,
        port: u16,
        header: &str,
        path: &str,
    ) -> (bool, String, u16, String, String) {
        (tls, host.into(), port, header.into(), path.into())
    }

    #[test]
    fn ports_default_to_80_and_443() {
        assert_eq!(parsed("ws://a.example"), expected(false, "a.example", 80, "a.example", "/"));
        assert_eq!(
            parsed("wss://a.example/x"),
            expected(true, "a.example", 443, "a.example", "/x")
        );
        assert_eq!(
            parsed("wss://a.example:443/"),
            expected(true, "a.example", 443, "a.example", "/")
        );
        assert_eq!(
            parsed("WSS://A.example:80/"),
            expected(true, "A.example", 80, "A.example:80", "/")
        );
    }

    #[test]
    fn the_query_goes_along_even_without_a_path() {
        assert_eq!(parsed("ws://h/a/b?c=d&e").4, "/a/b?c=d&e");
        assert_eq!(parsed("ws://h?c=d").4, "/?c=d");
    }

    #[test]
    fn an_ipv6_address_loses_its_brackets_but_not_in_the_host_header() {
        assert_eq!(parsed("ws://[::1]:8080/"), expected(false, "::1", 8080, "[::1]:8080", "/"));
        assert_eq!(parsed("ws://[::1]"), expected(false, "::1", 80, "[::1]", "/"));
    }

    #[test]
    fn what_cannot_be_dialed_is_refused_with_its_reason() {
        for (url, error) in [
            ("", UrlError::Malformed),
            ("/chat", UrlError::Malformed),
            ("a.example", UrlError::Malformed),
            ("ws://", UrlError::Malformed),
            ("ws:///x", UrlError::Malformed),
            ("ws://:80/", UrlError::Malformed),
            ("ws://a b/", UrlError::Malformed),
            ("ws://h/a b", UrlError::Malformed),
            ("ws://münchen.example/", UrlError::Malformed),
            ("ws://[::1", UrlError::Malformed),
            ("ws://[::1]x/", UrlError::Malformed),
            ("ws://[fe80::1%25eth0]/", UrlError::Malformed),
            ("ws://h/\r\nX: y", UrlError::Malformed),
            ("http://h/", UrlError::Scheme),
            ("https://h/", UrlError::Scheme),
            ("ftp://h/", UrlError::Scheme),
            ("ws://h:0/", UrlError::Port),
            ("ws://h:/", UrlError::Port),
            ("ws://h:65536/", UrlError::Port),
            ("ws://h:99999999/", UrlError::Port),
            ("ws://user:pass@h/", UrlError::UserInfo),
            ("ws://token@h/", UrlError::UserInfo),
            ("ws://h/#top", UrlError::Fragment),
        ] {
            assert_eq!(Endpoint::parse(url).map(|_| ()).unwrap_err(), error, "{url}");
        }
    }

    /// H63
    #[test]
    fn no_error_repeats_the_url() {
        for url in ["ws://u:hunter2@h/", "x://h/?hunter2", "ws://h:hunter2/", "ws://h/#hunter2"] {
            let error = Endpoint::parse(url).map(|_| ()).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }

    #[test]
    fn plaintext_leaves_this_host_only_when_allowed() {
        let check = |url: &str, allow| Endpoint::parse(url).and_then(|e| e.check(allow));
        for url in ["ws://localhost/", "ws://LocalHost:1/", "ws://127.9.9.9/", "ws://[::1]/"]
            .iter()
            .chain(&["ws://[::ffff:127.0.0.1]/"])
        {
            assert_eq!(check(url, false), Ok(()), "{url}");
        }
        for url in
            ["ws://a.example/", "ws://10.0.0.1/", "ws://localhost.a.example/", "ws://[fe80::1]/"]
        {
            assert_eq!(check(url, false), Err(UrlError::Plaintext), "{url}");
            assert_eq!(check(url, true), Ok(()), "{url}");
        }
    }
}
