//! Drives a client: the loop, the clock, and what each output wants.

use std::{
    io, mem,
    net::TcpStream,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant as Clock},
};

use bowline_core::{
    Attempt, Client, Event, Instant, Loss, Opened, Output, Phase, Plain, PushOptions, Wire,
};
use mio::{Events, Poll, Waker};
use rand_chacha::ChaCha8Rng;

use crate::socket::{self, Socket, Upgrade, Upgraded};

pub(crate) struct Driver {
    pub(crate) client: Client<Plain, ChaCha8Rng>,
    pub(crate) epoch: Clock,
    pub(crate) poll: Poll,
    pub(crate) waker: Arc<Waker>,
    pub(crate) url: String,
    pub(crate) messages: mpsc::Receiver<String>,
    pub(crate) dials: (mpsc::Sender<Dial>, mpsc::Receiver<Dial>),
    /// The attempt that is alive, if one is, and how far it has come.
    pub(crate) attempt: Attempt,
    pub(crate) link: Link,
    /// The first and the last of each range of numbers.
    pub(crate) delivered: Vec<(u64, u64)>,
    pub(crate) failed: Vec<(u64, u64)>,
}

pub(crate) type Dial = (Attempt, Result<TcpStream, Loss>);

#[derive(Default)]
pub(crate) enum Link {
    /// There is nothing, or a dial in its thread.
    #[default]
    None,
    Upgrading(Upgrade),
    Open(Socket),
}

impl Driver {
    fn now(&self) -> Instant {
        Instant::ZERO + self.epoch.elapsed()
    }

    fn handle(&mut self, event: Event<()>) {
        self.client.handle(self.now(), event);
    }

    /// Each turn flushes, reads one frame, takes one message and does one thing that is owed, so
    /// that nothing starves; when there was none of these, it sleeps.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(8);
        self.handle(Event::Start);
        while !self.client.is_over() {
            self.flush();
            let read = self.read();
            if !read {
                self.handle(Event::Tick);
            }
            let idle = !(read | self.take_message() | self.take_dial());
            let wire = match &self.link {
                Link::Open(socket) if socket.is_writable() => Wire::Ready,
                Link::Open(_) | Link::Upgrading(_) | Link::None => Wire::Blocked,
            };
            match self.client.poll(wire) {
                Output::WaitUntil(deadline) if idle => {
                    let wait = deadline.map(|deadline| deadline.at.since(self.now()));
                    match self.poll.poll(&mut events, wait) {
                        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error)?,
                        Ok(()) | Err(_) => {}
                    }
                }
                Output::WaitUntil(_) => {}
                Output::Dial(attempt) => self.dial(attempt),
                // Should a dial succeed yet, its attempt is not ours any more.
                Output::Abort(_) => (self.attempt, self.link) = (Attempt::NONE, Link::None),
                Output::Send(_, frame) => self.socket(|socket| socket.send(frame)),
                Output::Close(_, code) => self.socket(|socket| socket.close(code)),
                Output::Delivered { first, last } => self.delivered.push((first.get(), last.get())),
                Output::Failed(it) => self.failed.push((it.id.seq.get(), it.id.seq.get())),
                Output::Status(status) => {
                    // Nobody is here who could mend it and start again.
                    if let Phase::Stopped { .. } = status.phase {
                        self.handle(Event::Close { deadline: Instant::ZERO });
                    }
                }
            }
        }
        Ok(())
    }

    fn socket(&mut self, act: impl FnOnce(&mut Socket)) {
        if let Link::Open(socket) = &mut self.link {
            act(socket);
        }
    }

    fn flush(&mut self) {
        let Link::Open(socket) = &mut self.link else { return };
        let (flushed, took) = (socket.flush(), socket.took());
        if took {
            self.handle(Event::Took(self.attempt));
        }
        if flushed {
            self.handle(Event::Flushed(self.attempt));
        }
    }

    /// Reads a frame; says whether there was one, or the end of all.
    fn read(&mut self) -> bool {
        let Link::Open(socket) = &mut self.link else { return false };
        let (read, heard) = (socket.read(), socket.heard());
        if heard {
            self.handle(Event::Heard(self.attempt));
        }
        match read {
            Ok(None) => return false,
            // What the server says is of no interest to this client.
            Ok(Some(frame)) => drop(self.client.receive(self.now(), self.attempt, frame)),
            Err(loss) => self.lose(loss),
        }
        true
    }

    /// Takes a message if there is room for it; the bounded channel holds the producer back.
    fn take_message(&mut self) -> bool {
        let (room, now) = (self.client.outbox().room(), self.now());
        if room.messages == 0
            || room.bytes < crate::MESSAGE_BYTES
            || self.client.outbox().is_closed()
        {
            return false;
        }
        match self.messages.try_recv() {
            Ok(text) => {
                let pushed = self.client.push(now, text.into(), PushOptions::default());
                pushed.expect("there is room for it");
            }
            Err(mpsc::TryRecvError::Disconnected) => {
                self.handle(Event::Close { deadline: now + Duration::from_secs(60) });
            }
            Err(mpsc::TryRecvError::Empty) => return false,
        }
        true
    }

    fn dial(&mut self, attempt: Attempt) {
        (self.attempt, self.link) = (attempt, Link::None);
        let (url, sender, waker) = (self.url.clone(), self.dials.0.clone(), self.waker.clone());
        thread::spawn(move || {
            let _ = sender.send((attempt, socket::dial(&url)));
            let _ = waker.wake();
        });
    }

    /// Goes on with an attempt that is not open yet; says whether it came to something.
    fn take_dial(&mut self) -> bool {
        let upgraded = match mem::take(&mut self.link) {
            Link::Upgrading(upgrade) => upgrade.go_on(),
            link @ (Link::Open(_) | Link::None) => {
                self.link = link;
                match self.dials.1.try_recv() {
                    // Its socket, if there is one, ends here.
                    Ok((attempt, _)) if attempt != self.attempt => return true,
                    Ok((_, Ok(stream))) => Upgrade::begin(&self.url, stream, self.poll.registry()),
                    Ok((_, Err(loss))) => Upgraded::Failed(loss),
                    Err(_) => return false,
                }
            }
        };
        match upgraded {
            Upgraded::Not(upgrade) => {
                self.link = Link::Upgrading(upgrade);
                return false;
            }
            Upgraded::Done(socket) => {
                self.link = Link::Open(socket);
                self.handle(Event::Opened(Opened::new(self.attempt, ())));
            }
            Upgraded::Failed(loss) => self.lose(loss),
        }
        true
    }

    fn lose(&mut self, loss: Loss) {
        self.link = Link::None;
        let attempt = mem::replace(&mut self.attempt, Attempt::NONE);
        self.handle(Event::Lost(attempt, loss));
    }
}
