//! A peer on strings: the other end of each connection of one client, without a socket, so that it
//! works in paused time and does at each moment what the test wants.

#![allow(dead_code, reason = "each suite pulls other strings")]

use std::{
    collections::VecDeque,
    future::ready,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bowline_core::{Ack, Body, Dialect, Frame, Loss, Nack, Seq, Sink};
use bowline_tokio::{
    Builder, Handle, Inbound, Plain,
    connect::{Connect, Connecting, Connection, Target},
    transport::{Incoming, Transport},
};

/// More than any wait here should ever take.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(LONG, waiting).await;
    assert!(waited.is_ok(), "still waiting: {what}");
}

/// Waits for a future that must end.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(LONG, future).await {
        Ok(output) => output,
        Err(_) => panic!("still waiting: {what}"),
    }
}

/// Lets everything run that can run now. Only for current-thread runtimes.
pub(crate) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// The strings.
#[derive(Clone, Default)]
pub(crate) struct Peer {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
pub(crate) struct State {
    /// How dials end, if they fail.
    pub(crate) refuses: Option<Loss>,
    /// Dials never end.
    pub(crate) hangs: bool,
    /// Pings are not answered.
    pub(crate) mute: bool,
    /// Messages come back.
    pub(crate) echoes: bool,
    /// The socket takes nothing.
    pub(crate) blocked: bool,
    /// Whatever is written fails, and reading says nothing of it.
    pub(crate) broken: bool,
    /// It breaks after so many more looks at the writing side.
    pub(crate) breaks_in: Option<usize>,
    /// A Close is not answered.
    pub(crate) ignores_close: bool,
    /// The connection dies of this message.
    pub(crate) poison: Option<Body>,
    /// There is always one more of these to read.
    pub(crate) floods: Option<Body>,
    /// Every message that was sent, on whichever connection.
    pub(crate) got: Vec<Body>,
    /// Pings that were sent.
    pub(crate) pings: usize,
    /// Data frames that the client has read.
    pub(crate) read: usize,
    dials: usize,
    incoming: VecDeque<Incoming>,
    lost: Option<Loss>,
    bytes_read: u64,
    bytes_taken: u64,
    driver: Option<Waker>,
}

impl Peer {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it pulls a string")
    }

    /// Changes what the peer does, and lets the client notice.
    pub(crate) fn now(&self, change: impl FnOnce(&mut State)) {
        let driver = {
            let mut state = self.lock();
            change(&mut state);
            state.driver.take()
        };
        driver.into_iter().for_each(Waker::wake);
    }

    /// Sends something to the client.
    pub(crate) fn says(&self, body: impl Into<Body>) {
        self.now(|state| state.incoming.push_back(Incoming::Data(body.into())));
    }

    /// Ends the connection that there is.
    pub(crate) fn hangs_up(&self) {
        self.now(|state| state.lost = Some(Loss::Eof));
    }

    /// Is away from now on.
    pub(crate) fn goes_away(&self) {
        self.now(|state| {
            state.refuses = Some(Loss::Connect);
            state.lost = Some(Loss::Eof);
        });
    }

    pub(crate) fn comes_back(&self) {
        self.now(|state| state.refuses = None);
    }

    /// What it got, as text.
    pub(crate) fn got(&self) -> Vec<String> {
        let text = |body: &Body| body.as_text().unwrap_or("(binary)").to_owned();
        self.lock().got.iter().map(text).collect()
    }

    pub(crate) fn dials(&self) -> usize {
        self.lock().dials
    }

    /// A client of this peer.
    pub(crate) fn builder(&self) -> Builder<Plain> {
        Builder::new("ws://peer").connector(self.clone())
    }

    /// A client of this peer that speaks a dialect with acks.
    pub(crate) fn acking(&self) -> Builder<Acking> {
        Builder::with_dialect(["ws://peer"], Acking, ()).connector(self.clone())
    }

    pub(crate) fn start(&self) -> (Handle<Plain>, Inbound<Body>) {
        self.builder().start().expect("a good configuration")
    }
}

impl Connect for Peer {
    fn connect(&self, _: Target) -> Connecting {
        let mut state = self.lock();
        state.dials += 1;
        state.incoming.clear();
        state.lost = None;
        if state.hangs {
            return Box::pin(std::future::pending());
        }
        if let Some(loss) = state.refuses {
            return Box::pin(ready(Err(loss)));
        }
        let transport = Box::new(Strings { peer: self.clone(), dial: state.dials });
        Box::pin(ready(Ok(Connection { transport, subprotocol: None, headers: Vec::new() })))
    }
}

/// One connection.
struct Strings {
    peer: Peer,
    dial: usize,
}

impl Strings {
    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.peer.lock();
        assert_eq!(state.dials, self.dial, "a connection is used after the next dial");
        state
    }
}

impl Transport for Strings {
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming, Loss>> {
        let mut state = self.state();
        let flood = state.floods.clone().map(Incoming::Data);
        if let Some(incoming) = state.incoming.pop_front().or(flood) {
            state.bytes_read += 1;
            state.read += usize::from(matches!(incoming, Incoming::Data(_)));
            return Poll::Ready(Ok(incoming));
        }
        if let Some(loss) = state.lost {
            return Poll::Ready(Err(loss));
        }
        state.driver = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Loss>> {
        self.poll_flush(cx)
    }

    fn start_send(&mut self, frame: Frame) -> Result<(), Loss> {
        let mut state = self.state();
        state.bytes_taken += 1;
        match frame {
            Frame::Data(body) => {
                if state.echoes && state.lost.is_none() {
                    state.incoming.push_back(Incoming::Data(body.clone()));
                }
                if state.poison.as_ref() == Some(&body) {
                    state.incoming.clear();
                    state.lost = Some(Loss::Eof);
                }
                state.got.push(body);
            }
            Frame::Ping(ping) => {
                state.pings += 1;
                if !state.mute && state.lost.is_none() {
                    let payload = ping.payload();
                    state.incoming.push_back(Incoming::Pong(payload));
                }
            }
        }
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Loss>> {
        let mut state = self.state();
        if let Some(looks) = &mut state.breaks_in {
            *looks = looks.saturating_sub(1);
            state.broken |= *looks == 0;
        }
        if state.broken {
            return Poll::Ready(Err(Loss::Io));
        }
        if state.blocked {
            state.driver = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn start_close(&mut self, code: u16) -> Result<(), Loss> {
        let mut state = self.state();
        if !state.ignores_close {
            state.incoming.push_back(Incoming::Close(Some(code)));
        }
        Ok(())
    }

    fn bytes_read(&self) -> u64 {
        self.peer.lock().bytes_read
    }

    fn bytes_taken(&self) -> u64 {
        self.peer.lock().bytes_taken
    }
}

/// A dialect with acks, as a person would type it: `ack 3` (and all before), `one 3`, `no 3`,
/// `later 3`. Everything else is inbound.
pub(crate) struct Acking;

impl Dialect for Acking {
    type Message = Body;
    type Inbound = Body;
    type Credentials = ();
    type Error = &'static str;

    const ACKS: bool = true;

    fn encode(message: Body) -> Result<Body, (Body, Self::Error)> {
        match message.as_text() {
            Some("unspeakable") => Err((message, "that cannot be said")),
            _ => Ok(message),
        }
    }

    fn decode(&mut self, body: Body, sink: &mut Sink<Body>) {
        let command = body.as_text().and_then(|text| {
            let (verb, seq) = text.split_once(' ')?;
            Some((verb, Seq::new(seq.parse().ok()?)))
        });
        match command {
            Some(("ack", seq)) => sink.ack(Ack::UpTo(seq)),
            Some(("one", seq)) => sink.ack(Ack::One(seq)),
            Some(("no", seq)) => sink.nack(Ack::One(seq), Nack::Permanent),
            Some(("later", seq)) => sink.nack(Ack::One(seq), Nack::Transient),
            _ => {
                // A fresh sink is empty, so this cannot be refused.
                let _ = sink.inbound(body);
            }
        }
    }
}

/// Polls a future in the very moment in which it is woken, from inside of whoever wakes it: it
/// sees what another thread could see in that moment.
pub(crate) struct Inquisitive<F: Future> {
    future: Mutex<Option<Pin<Box<F>>>>,
    outcome: Mutex<Option<F::Output>>,
}

impl<F> Inquisitive<F>
where
    F: Future + Send + 'static,
    F::Output: Clone + Send + 'static,
{
    pub(crate) fn new(future: F) -> Arc<Self> {
        let this = Arc::new(Self {
            future: Mutex::new(Some(Box::pin(future))),
            outcome: Mutex::new(None),
        });
        Arc::clone(&this).wake();
        assert!(this.outcome().is_none(), "it should wait");
        this
    }

    pub(crate) fn outcome(&self) -> Option<F::Output> {
        self.outcome.lock().expect("no panic").clone()
    }
}

impl<F> Wake for Inquisitive<F>
where
    F: Future + Send + 'static,
    F::Output: Clone + Send + 'static,
{
    fn wake(self: Arc<Self>) {
        let waker = Waker::from(Arc::clone(&self));
        let Some(mut future) = self.future.lock().expect("no panic").take() else { return };
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => *self.outcome.lock().expect("no panic") = Some(output),
            Poll::Pending => *self.future.lock().expect("no panic") = Some(future),
        }
    }
}
