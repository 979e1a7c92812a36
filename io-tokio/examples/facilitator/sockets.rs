//! Counts connections: the shipped connector, watched. From the start of a dial to the drop of its
//! transport a connection is alive, and no two may be.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bowline_tokio::{
    Loss,
    connect::{Connect, Connecting, Connection, Target, TargetError, TcpConnector},
    core::Frame,
    transport::{Incoming, Transport},
};

/// How many connections are alive, and how many were at most.
#[derive(Clone, Default, Debug)]
pub(crate) struct Sockets(Arc<Counts>);

#[derive(Default, Debug)]
struct Counts {
    alive: AtomicUsize,
    most: AtomicUsize,
}

impl Sockets {
    pub(crate) fn most(&self) -> usize {
        self.0.most.load(Relaxed)
    }

    fn enter(&self) -> Alive {
        let alive = self.0.alive.fetch_add(1, Relaxed) + 1;
        self.0.most.fetch_max(alive, Relaxed);
        Alive(Arc::clone(&self.0))
    }
}

struct Alive(Arc<Counts>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Relaxed);
    }
}

/// A connector whose connections are counted.
pub(crate) struct Watched {
    pub(crate) connector: TcpConnector,
    pub(crate) sockets: Sockets,
}

impl Connect for Watched {
    fn check(&self, target: &Target) -> Result<(), TargetError> {
        self.connector.check(target)
    }

    fn connect(&self, target: Target) -> Connecting {
        let alive = self.sockets.enter();
        let connecting = self.connector.connect(target);
        Box::pin(async move {
            let connection = connecting.await?;
            let transport = Box::new(Counted { transport: connection.transport, _alive: alive });
            Ok(Connection { transport, ..connection })
        })
    }
}

struct Counted {
    transport: Box<dyn Transport>,
    _alive: Alive,
}

impl Transport for Counted {
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming, Loss>> {
        self.transport.poll_receive(cx)
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Loss>> {
        self.transport.poll_ready(cx)
    }

    fn start_send(&mut self, frame: Frame) -> Result<(), Loss> {
        self.transport.start_send(frame)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Loss>> {
        self.transport.poll_flush(cx)
    }

    fn start_close(&mut self, code: u16) -> Result<(), Loss> {
        self.transport.start_close(code)
    }

    fn bytes_read(&self) -> u64 {
        self.transport.bytes_read()
    }

    fn bytes_taken(&self) -> u64 {
        self.transport.bytes_taken()
    }
}
