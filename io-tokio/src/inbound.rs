//! Inbound messages: a bounded buffer between the driver and the application.
//!
//! While it is full the driver does not read, so a slow consumer slows the peer down through TCP
//! instead of filling memory. That also stops acks and pongs; see
//! [`WaitError::Stalled`](crate::WaitError::Stalled).

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures_util::Stream;

use crate::desk::Desk;

/// The inbound half of a client: a stream of what the peer's messages decode to. It ends when the
/// client is done.
///
/// Read it in a task of its own, or drop it if the peer sends nothing of interest: then inbound
/// messages are decoded, for the acks in them, and thrown away.
///
/// It counts as a handle: while it lives, so does the client.
pub struct Inbound<T> {
    inbox: Arc<Inbox<T>>,
    desk: Arc<Desk>,
}

impl<T> Inbound<T> {
    pub(crate) fn new(inbox: Arc<Inbox<T>>, desk: Arc<Desk>) -> Self {
        desk.hold();
        Self { inbox, desk }
    }

    /// The next message; none when the client is done.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| self.inbox.poll_take(cx)).await
    }
}

impl<T> Stream for Inbound<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.inbox.poll_take(cx)
    }
}

impl<T> Drop for Inbound<T> {
    fn drop(&mut self) {
        self.inbox.abandon();
        self.desk.let_go();
    }
}

impl<T> std::fmt::Debug for Inbound<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbound").finish_non_exhaustive()
    }
}

/// What both sides of the buffer share.
pub(crate) struct Inbox<T> {
    max_messages: usize,
    max_bytes: usize,
    state: Mutex<State<T>>,
}

struct State<T> {
    messages: VecDeque<(T, usize)>,
    bytes: usize,
    consumer: Option<Waker>,
    /// The driver, while it waits for room.
    driver: Option<Waker>,
    /// Nobody will ever take a message again.
    abandoned: bool,
    /// The driver is done.
    ended: bool,
}

impl<T> State<T> {
    fn is_full(&self, inbox: &Inbox<T>) -> bool {
        self.bytes >= inbox.max_bytes || self.messages.len() >= inbox.max_messages
    }
}

impl<T> Inbox<T> {
    pub(crate) fn new(max_messages: usize, max_bytes: usize) -> Self {
        Self {
            max_messages,
            max_bytes,
            state: Mutex::new(State {
                messages: VecDeque::new(),
                bytes: 0,
                consumer: None,
                driver: None,
                abandoned: false,
                ended: false,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code that holds the lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.lock();
        let Some((message, size)) = state.messages.pop_front() else {
            if state.ended {
                return Poll::Ready(None);
            }
            state.consumer = Some(cx.waker().clone());
            return Poll::Pending;
        };
        state.bytes -= size;
        // Woken at half, not at every message: a driver that reads one message for each that is
        // taken would switch tasks for each.
        let low =
            state.messages.len() <= self.max_messages / 2 && state.bytes <= self.max_bytes / 2;
        let driver = if low { state.driver.take() } else { None };
        drop(state);
        driver.into_iter().for_each(Waker::wake);
        Poll::Ready(Some(message))
    }

    fn abandon(&self) {
        let mut state = self.lock();
        state.abandoned = true;
        let messages = std::mem::take(&mut state.messages);
        state.bytes = 0;
        let driver = state.driver.take();
        drop(state);
        drop(messages);
        driver.into_iter().for_each(Waker::wake);
    }

    /// How many more messages may be read, at least one whenever any may; with none, the driver is
    /// woken when there is room again.
    pub(crate) fn room(&self, driver: &Waker) -> usize {
        let mut state = self.lock();
        if state.abandoned {
            return usize::MAX;
        }
        if state.is_full(self) {
            state.driver = Some(driver.clone());
            return 0;
        }
        state.driver = None;
        self.max_messages - state.messages.len()
    }

    /// Whether there is no room for another message.
    pub(crate) fn is_full(&self) -> bool {
        let state = self.lock();
        !state.abandoned && state.is_full(self)
    }

    /// Leaves a message of `size` bytes. Says whether there is room for another; without, an
    /// insistent driver's next message is thrown away.
    pub(crate) fn put(&self, message: T, size: usize, insist: bool) -> bool {
        let mut state = self.lock();
        if state.abandoned {
            return true;
        }
        if insist && state.is_full(self) {
            return true;
        }
        state.messages.push_back((message, size));
        state.bytes += size;
        let room = !state.is_full(self);
        let consumer = state.consumer.take();
        drop(state);
        consumer.into_iter().for_each(Waker::wake);
        room || insist
    }

    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        let consumer = state.consumer.take();
        drop(state);
        consumer.into_iter().for_each(Waker::wake);
    }
}
