//! The HTTP upgrade, client side: RFC 6455 §4.1.
//!
//! The request is written and its answer read here, because the handshake of tungstenite logs the
//! whole request, tokens and all.

use std::{str, sync::Arc, time::SystemTime};

use bowline_core::Loss;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{
    handshake::{client::generate_key, derive_accept_key},
    http::{HeaderName, HeaderValue},
};

use crate::{
    connect::{Connection, Target},
    retry_after::retry_after,
    transport::{Counts, Limits, WebSocket, loss_of_io},
    url::{Endpoint, UrlError},
};

/// The longest answer to an upgrade that is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;
/// The most headers that an answer may have.
const MAX_HEADERS: usize = 124;

/// Why a target cannot be dialed. No text of the target is in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The URL is at fault.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The name of a header is not a token (RFC 9110 §5.1).
    #[error("header {index} has a name that is not an HTTP token")]
    HeaderName {
        /// Which one, counted from 0.
        index: usize,
    },
    /// The value of a header has bytes that HTTP forbids, such as a line break (RFC 9110 §5.5).
    #[error("header {index} has a value that HTTP forbids; a line break at its end, perhaps")]
    HeaderValue {
        /// Which one, counted from 0.
        index: usize,
    },
    /// The header belongs to the upgrade itself, which sets it.
    #[error(
        "header {index} is one that the upgrade sets itself (Host, Connection, Upgrade, \
         Sec-WebSocket-*, Content-Length, Transfer-Encoding); remove it, and set subprotocols as \
         such"
    )]
    ReservedHeader {
        /// Which one, counted from 0.
        index: usize,
    },
    /// A subprotocol is not a token, or is there twice (RFC 6455 §4.1).
    #[error("subprotocol {index} is not an HTTP token, or is offered twice")]
    Subprotocol {
        /// Which one, counted from 0.
        index: usize,
    },
}

impl TargetError {
    /// What it means at dial time, when the target comes from a request provider.
    pub(crate) fn loss(self) -> Loss {
        match self {
            Self::Url(_) => Loss::BadUrl,
            Self::HeaderName { .. }
            | Self::HeaderValue { .. }
            | Self::ReservedHeader { .. }
            | Self::Subprotocol { .. } => Loss::Provider,
        }
    }
}

/// An upgrade request that is ready to be sent.
pub(crate) struct Request {
    head: Vec<u8>,
    key: String,
    subprotocols: Vec<String>,
}

impl Request {
    pub(crate) fn new(endpoint: &Endpoint, target: &Target) -> Result<Self, TargetError> {
        let key = generate_key();
        let mut head = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n",
            endpoint.path, endpoint.host_header,
        )
        .into_bytes();
        let subprotocols = &target.subprotocols;
        for (index, subprotocol) in subprotocols.iter().enumerate() {
            let is_token = HeaderName::from_bytes(subprotocol.as_bytes()).is_ok();
            if !is_token || subprotocols[..index].contains(subprotocol) {
                return Err(TargetError::Subprotocol { index });
            }
        }
        if !subprotocols.is_empty() {
            let offer = format!("Sec-WebSocket-Protocol: {}\r\n", subprotocols.join(", "));
            head.extend_from_slice(offer.as_bytes());
        }
        for (index, (name, value)) in target.headers.iter().enumerate() {
            let token = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| TargetError::HeaderName { index })?;
            if is_reserved(token.as_str()) {
                return Err(TargetError::ReservedHeader { index });
            }
            HeaderValue::from_bytes(value).map_err(|_| TargetError::HeaderValue { index })?;
            // In the caller's spelling: there are servers that mind it.
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        Ok(Self { head, key, subprotocols: subprotocols.clone() })
    }

    /// Sends the request and reads the answer.
    pub(crate) async fn upgrade<S>(
        self,
        mut stream: S,
        counts: Arc<Counts>,
        limits: Limits,
    ) -> Result<Connection, Loss>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let sent = async {
            stream.write_all(&self.head).await?;
            stream.flush().await
        };
        // A server may refuse and hang up before it has read all: its answer says more than that.
        let sent = sent.await;
        let (answer, rest) = match (read_answer(&mut stream).await, sent) {
            (Ok(answer), _) => answer,
            (Err(_), Err(error)) => return Err(loss_of_io(&error)),
            (Err(loss), Ok(())) => return Err(loss),
        };
        let subprotocol = self.verify(&answer)?;
        let transport = Box::new(WebSocket::new(stream, counts, rest, limits));
        Ok(Connection { transport, subprotocol, headers: answer.headers })
    }

    /// The subprotocol that was agreed on, if the answer is a valid one: RFC 6455 §4.1, the list at
    /// its end.
    fn verify(&self, answer: &Answer) -> Result<Option<String>, Loss> {
        if answer.status != 101 {
            let retry_after =
                retry_after(answer.values("retry-after"), answer.only("date"), SystemTime::now());
            return Err(Loss::Status { status: answer.status, retry_after });
        }
        let accepted = answer.only("sec-websocket-accept").map(<[u8]>::trim_ascii)
            == Some(derive_accept_key(self.key.as_bytes()).as_bytes());
        // No extension was offered, so none may be in use.
        if !answer.is_http_1_1
            || !answer.has_token("upgrade", "websocket")
            || !answer.has_token("connection", "upgrade")
            || !accepted
            || answer.values("sec-websocket-extensions").next().is_some()
        {
            return Err(Loss::BadUpgrade);
        }
        let mut chosen = answer.values("sec-websocket-protocol");
        match (chosen.next(), chosen.next()) {
            (None, _) if self.subprotocols.is_empty() => Ok(None),
            (Some(chosen), None) => {
                let chosen = chosen.trim_ascii();
                let offered = self.subprotocols.iter().find(|name| name.as_bytes() == chosen);
                offered.cloned().map(Some).ok_or(Loss::Subprotocol)
            }
            (None, _) | (Some(_), Some(_)) => Err(Loss::Subprotocol),
        }
    }
}

/// Headers by which a caller could contradict the upgrade, or put a second request into it.
fn is_reserved(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "connection"
            | "upgrade"
            | "content-length"
            | "transfer-encoding"
            | "te"
            | "trailer"
    ) || name.starts_with("sec-websocket-")
}

/// The head of an HTTP response.
struct Answer {
    status: u16,
    is_http_1_1: bool,
    /// Names in lower case.
    headers: Vec<(String, Bytes)>,
}

impl Answer {
    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.headers.iter().filter(move |(n, _)| n == name).map(|(_, value)| &value[..])
    }

    /// The value of a header that is there once.
    fn only(&self, name: &str) -> Option<&[u8]> {
        let mut values = self.values(name);
        let value = values.next()?;
        values.next().is_none().then_some(value)
    }

    /// Whether a header that is a list of tokens has this one, in any case.
    fn has_token(&self, name: &str, token: &str) -> bool {
        self.values(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Reads the head of a response, blank line included.
    fn parse(head: &[u8]) -> Result<Self, Loss> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(head) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) | Err(_) => return Err(Loss::BadUpgrade),
        }
        let (Some(status), Some(version)) = (response.code, response.version) else {
            return Err(Loss::BadUpgrade);
        };
        let headers = response
            .headers
            .iter()
            .map(|header| (header.name.to_ascii_lowercase(), Bytes::copy_from_slice(header.value)));
        Ok(Self { status, is_http_1_1: version == 1, headers: headers.collect() })
    }
}

/// The final answer to a request, and what came behind it. Interim ones are skipped (RFC 9110
/// §15.2).
async fn read_answer<S>(stream: &mut S) -> Result<(Answer, Vec<u8>), Loss>
where
    S: AsyncRead + Unpin,
{
    let mut bytes = Vec::with_capacity(1024);
    // Where the current answer begins, and up to where it has no blank line.
    let (mut start, mut searched) = (0, 0);
    loop {
        // The parser is asked only once the head is complete: it starts over each time, so a
        // dripped answer would be slow.
        while let Some(end) = blank_line(&bytes, searched) {
            let answer = Answer::parse(&bytes[start..end])?;
            (start, searched) = (end, end);
            if !(100..=199).contains(&answer.status) || answer.status == 101 {
                bytes.drain(..end);
                return Ok((answer, bytes));
            }
        }
        searched = searched.max(bytes.len().saturating_sub(2));
        if bytes.len() >= MAX_ANSWER {
            return Err(Loss::BadUpgrade);
        }
        match stream.read_buf(&mut bytes).await {
            Ok(0) => return Err(Loss::Eof),
            Ok(_) => {}
            Err(error) => return Err(loss_of_io(&error)),
        }
    }
}

/// Where the first blank line that begins at or after `from` ends.
fn blank_line(bytes: &[u8], from: usize) -> Option<usize> {
    (from..bytes.len()).find_map(|at| match &bytes[at..] {
        [b'\n', b'\n', ..] => Some(at + 2),
        [b'\n', b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    fn request(target: &Target) -> Result<Request, TargetError> {
        Request::new(&Endpoint::parse(&target.url).expect("a good URL"), target)
    }

    fn target() -> Target {
        Target::new("ws://h.example:81/a?b=c")
    }

    /// A good answer to the request, with more headers.
    fn yes(request: &Request, more: &str) -> String {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n{more}\r\n",
            derive_accept_key(request.key.as_bytes()),
        )
    }

    /// What comes of a target when the server says `answer` to it and then hangs up.
    async fn answered(
        target: &Target,
        answer: impl FnOnce(&Request) -> Vec<u8>,
    ) -> Result<Connection, Loss> {
        let request = request(target).expect("a good target");
        let (ours, mut theirs) = duplex(1 << 20);
        theirs.write_all(&answer(&request)).await.expect("there is room");
        theirs.shutdown().await.expect("not shut down yet");
        let connection = request.upgrade(ours, Arc::default(), Limits::default()).await;
        drop(theirs);
        connection
    }

    async fn refused(answer: impl FnOnce(&Request) -> Vec<u8>) -> Loss {
        answered(&target(), answer).await.expect_err("no valid upgrade")
    }

    #[test]
    fn the_request_says_what_rfc_6455_wants() {
        let target = target().header("X-Token", "t").subprotocol("one").subprotocol("two");
        let request = request(&target).expect("a good target");
        assert_eq!(
            str::from_utf8(&request.head).expect("text"),
            format!(
                "GET /a?b=c HTTP/1.1\r\nHost: h.example:81\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n\
                 Sec-WebSocket-Protocol: one, two\r\nX-Token: t\r\n\r\n",
                request.key
            )
        );
    }

    #[test]
    fn what_would_break_the_request_is_refused() {
        let refused = |target: Target| request(&target).map(drop).expect_err("a bad target");
        for name in ["", "a b", "a:", "a\r\nb", "ü"] {
            let error = refused(target().header("ok", "v").header(name, "v"));
            assert_eq!(error, TargetError::HeaderName { index: 1 }, "{name:?}");
            assert_eq!(error.loss(), Loss::Provider);
        }
        for value in ["a\r\nHost: b", "a\n", "\0"] {
            let error = refused(target().header("a", value));
            assert_eq!(error, TargetError::HeaderValue { index: 0 }, "{value:?}");
        }
        for name in ["host", "Connection", "UPGRADE", "Sec-WebSocket-Key", "Content-Length"] {
            let error = refused(target().header(name, "v"));
            assert_eq!(error, TargetError::ReservedHeader { index: 0 }, "{name:?}");
        }
        for name in ["", "a, b", "a b", "one"] {
            let error = refused(target().subprotocol("one").subprotocol(name));
            assert_eq!(error, TargetError::Subprotocol { index: 1 }, "{name:?}");
        }
    }

    #[tokio::test]
    async fn a_good_answer_opens_the_connection() {
        let connection =
            answered(&target(), |request| yes(request, "X-Id:  7 \r\nSERVER: s\r\n").into()).await;
        let connection = connection.expect("a good answer");
        assert_eq!(connection.subprotocol, None);
        let headers: Vec<_> = connection.headers.iter().map(|(name, v)| (&name[..], v)).collect();
        assert_eq!(headers[3..], [("x-id", &Bytes::from("7")), ("server", &Bytes::from("s"))]);
    }

    #[tokio::test]
    async fn tokens_may_stand_in_lists_and_in_any_case() {
        let answer = |request: &Request| {
            let answer = yes(request, "").replace("Upgrade\r", "keep-alive, upgrade\r");
            answer.replace("websocket", "WebSocket").into()
        };
        assert!(answered(&target(), answer).await.is_ok());
    }

    #[tokio::test]
    async fn interim_answers_are_skipped() {
        let answer = |request: &Request| {
            let hints = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
            format!("HTTP/1.1 100 Continue\r\n\r\n{hints}{}", yes(request, "")).into()
        };
        assert!(answered(&target(), answer).await.is_ok());
    }

    #[tokio::test]
    async fn a_status_is_reported_whatever_the_version() {
        let status = |status| Loss::Status { status, retry_after: None };
        let old = |_: &Request| b"HTTP/1.0 503 Service Unavailable\r\n\r\n<html>".to_vec();
        assert_eq!(refused(old).await, status(503));
        let bare = |_: &Request| b"HTTP/1.1 404 Not Found\nA: b\n\n".to_vec();
        assert_eq!(refused(bare).await, status(404));
        let fine = |_: &Request| b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        assert_eq!(refused(fine).await, status(200));
    }

    #[tokio::test]
    async fn retry_after_comes_with_the_status() {
        let answer = |_: &Request| {
            b"HTTP/1.1 429 Slow Down\r\nDate: Fri, 15 May 2026 12:00:00 GMT\r\n\
              Retry-After: 5\r\nRetry-After: Fri, 15 May 2026 12:01:00 GMT\r\n\r\n"
                .to_vec()
        };
        let retry_after = Some(std::time::Duration::from_secs(60));
        assert_eq!(refused(answer).await, Loss::Status { status: 429, retry_after });
    }

    #[tokio::test]
    async fn a_malformed_answer_is_a_bad_upgrade() {
        let spoilt = |from: &'static str, to: &'static str| {
            move |request: &Request| yes(request, "").replacen(from, to, 1).into_bytes()
        };
        for (from, to) in [
            ("HTTP/1.1", "HTTP/1.0"),
            ("HTTP/1.1", "\r\n\r\nHTTP/1.1"),
            ("HTTP/1.1", "SSH-2.0"),
            ("Upgrade: websocket", "Upgrade: h2c"),
            ("Upgrade: websocket\r\n", ""),
            ("Connection: Upgrade", "Connection: close"),
            ("Connection: Upgrade\r\n", ""),
            ("Sec-WebSocket-Accept: ", "Sec-WebSocket-Accept: x"),
            ("Sec-WebSocket-Accept: ", "Sec-WebSocket-Accept: x\r\nSec-WebSocket-Accept: "),
            ("Sec-WebSocket-Accept", "Accept"),
            ("Connection", "Sec-WebSocket-Extensions: permessage-deflate\r\nConnection"),
        ] {
            assert_eq!(refused(spoilt(from, to)).await, Loss::BadUpgrade, "{from:?} as {to:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_or_cut_short_ends_the_dial() {
        let many = |request: &Request| yes(request, &"A: b\r\n".repeat(125)).into_bytes();
        assert_eq!(refused(many).await, Loss::BadUpgrade);
        let endless = |_: &Request| b"HTTP/1.1 101 ".repeat(10_000);
        assert_eq!(refused(endless).await, Loss::BadUpgrade);
        let cut = |request: &Request| yes(request, "").as_bytes()[..60].to_vec();
        assert_eq!(refused(cut).await, Loss::Eof);
    }

    #[tokio::test]
    async fn the_subprotocol_must_be_one_that_was_offered() {
        let offer = || target().subprotocol("one").subprotocol("two");
        let with = |header: &'static str| move |r: &Request| yes(r, header).into_bytes();
        let two = answered(&offer(), with("Sec-WebSocket-Protocol: two\r\n")).await;
        assert_eq!(two.expect("offered").subprotocol.as_deref(), Some("two"));
        for (target, header) in [
            (offer(), ""),
            (offer(), "Sec-WebSocket-Protocol: three\r\n"),
            (offer(), "Sec-WebSocket-Protocol: one, two\r\n"),
            (offer(), "Sec-WebSocket-Protocol: one\r\nSec-WebSocket-Protocol: two\r\n"),
            (target(), "Sec-WebSocket-Protocol: one\r\n"),
        ] {
            let loss = answered(&target, with(header)).await.expect_err("not agreed on");
            assert_eq!(loss, Loss::Subprotocol, "{header:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_may_come_byte_by_byte() {
        use std::future::poll_fn;

        use crate::transport::Incoming;

        let request = request(&target()).expect("a good target");
        let answer = yes(&request, "");
        let (ours, mut theirs) = duplex(1);
        let upgrade = request.upgrade(ours, Arc::default(), Limits::default());
        let (connection, ()) = tokio::join!(upgrade, async {
            let mut last = [0; 4];
            while last != *b"\r\n\r\n" {
                last.rotate_left(1);
                theirs.read_exact(&mut last[3..]).await.expect("the request");
            }
            theirs.write_all(answer.as_bytes()).await.expect("it is read");
        });
        let mut transport = connection.expect("a good answer").transport;
        let receive = poll_fn(|cx| transport.poll_receive(cx));
        let (incoming, written) = tokio::join!(receive, theirs.write_all(b"\x82\x02hi"));
        written.expect("it is read");
        assert_eq!(incoming, Ok(Incoming::Data(Bytes::from("hi").into())));
    }

    #[tokio::test]
    async fn a_frame_in_the_same_read_as_the_answer_is_not_lost() {
        use std::future::poll_fn;

        use crate::transport::Incoming;

        let answer = |request: &Request| {
            let mut bytes = yes(request, "").into_bytes();
            bytes.extend_from_slice(b"\x82\x02hi");
            bytes
        };
        let mut transport = answered(&target(), answer).await.expect("a good answer").transport;
        let incoming = poll_fn(|cx| transport.poll_receive(cx)).await;
        assert_eq!(incoming, Ok(Incoming::Data(Bytes::from("hi").into())));
        assert_eq!(poll_fn(|cx| transport.poll_receive(cx)).await, Err(Loss::Eof));
    }
}
