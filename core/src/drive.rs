//! Drive it yourself: how to run a [`Client`](crate::Client) without `bowline-tokio`.
//!
//! A driver owns what the core must not have: a socket, a clock, a source of chance, a way to sleep.
//! It decides nothing. It tells the client what happened, asks what to do, does that, and sleeps
//! until something happens or the client's deadline comes.
//!
//! # The loop
//!
//! One turn, in this order:
//!
//! 1. **Flush** what the socket did not take before; say `Took` and `Flushed`.
//! 2. **Read** until there is nothing more, or for as long as is fair to the rest; say `Heard`, pass
//!    frames to [`receive`](crate::Client::receive).
//! 3. **Tell the time**: [`Tick`](crate::Event::Tick), but only if there was nothing more to read. A
//!    pong that lies in the kernel's buffer is evidence, and a verdict must not come before it.
//! 4. **Take** messages from whoever sends, as long as there is
//!    [room](crate::Outbox::has_room_for) for the next.
//! 5. **Do what is owed**: [`poll`](crate::Client::poll), once or until it says `WaitUntil`, each
//!    time with what the socket would do with a frame now.
//! 6. **Sleep**, if nothing of all this moved anything, until the socket, a dial, a message or the
//!    deadline. If something moved, take another turn: what you have just said may have made
//!    something owed.
//!
//! It ends when [`is_over`](crate::Client::is_over) says so, after a [`Close`](crate::Event::Close).
//!
//! # A program
//!
//! One client and one peer, in memory, with a network that fails once. The clock is a number, so
//! sleeping until a deadline is an assignment.
//!
//! ```
//! use bowline_core::{
//!     Client, ClientConfig, Event, Frame, Instant, Loss, Opened, Output, Plain, PushOptions,
//!     Received, Wire,
//! };
//! use rand_core::SeedableRng;
//! use std::collections::VecDeque;
//!
//! let rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
//! let mut client = Client::new(ClientConfig::default(), Plain, rng)?;
//! let mut now = Instant::ZERO;
//! client.handle(now, Event::Start);
//! client.push(now, "hello".into(), PushOptions::default())?;
//! client.handle(now, Event::Close { deadline: Instant::NEVER });
//!
//! // What the peer has got, and what it has sent that is not read yet.
//! let (mut ledger, mut sent) = (Vec::new(), VecDeque::new());
//! let mut delivered = None;
//! // The attempt whose socket is open.
//! let mut socket = None;
//!
//! while !client.is_over() {
//!     // This socket takes everything at once.
//!     if let Some(a) = socket {
//!         client.handle(now, Event::Took(a));
//!         client.handle(now, Event::Flushed(a));
//!     }
//!     if let (Some(a), Some(pong)) = (socket, sent.pop_front()) {
//!         client.handle(now, Event::Heard(a));
//!         let _message = client.receive(now, a, Received::Pong(pong));
//!         continue;
//!     }
//!     client.handle(now, Event::Tick);
//!
//!     let wire = if socket.is_some() { Wire::Ready } else { Wire::Blocked };
//!     match client.poll(wire) {
//!         // The first dial fails; the client backs off by itself.
//!         Output::Dial(a) if a.get() == 1 => client.handle(now, Event::Lost(a, Loss::Connect)),
//!         Output::Dial(a) => {
//!             socket = Some(a);
//!             client.handle(now, Event::Opened(Opened::new(a, ())));
//!         }
//!         Output::Send(_, Frame::Data(body)) => ledger.push(body),
//!         Output::Send(_, Frame::Ping(ping)) => sent.push_back(ping.payload()),
//!         Output::Close(a, _code) => {
//!             socket = None;
//!             client.handle(now, Event::Lost(a, Loss::Closed { code: Some(1000) }));
//!         }
//!         Output::Abort(_) => socket = None,
//!         Output::Delivered { first, last } => delivered = Some((first.get(), last.get())),
//!         Output::Failed(failed) => panic!("{:?}", failed.reason),
//!         Output::Status(_) => {}
//!         // Everything was said already, so nothing but time can bring something new.
//!         Output::WaitUntil(Some(deadline)) => now = now.max(deadline.at),
//!         Output::WaitUntil(None) => panic!("it is not over and waits for nothing"),
//!     }
//! }
//! assert_eq!(delivered, Some((1, 1)));
//! assert_eq!(ledger, ["hello".into()]);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! # The clock and the seed
//!
//! An [`Instant`](crate::Instant) is a number of microseconds since an epoch of your choice. Take a
//! monotonic clock, note where it stood at the start, and make each `now` as
//! `Instant::ZERO + start.elapsed()`. Sleep for `deadline.at.since(now)`. A sleep that ends early is
//! legal: the clock decides whether a deadline has passed, not the timer that woke you. A clock that
//! jumps ahead makes deadlines pass, so a wall clock will not do.
//!
//! The generator names the outbox and draws the jitter. Seed it from the system for each client: with
//! one seed for all, a thousand clients dial again in the same moment, and two outboxes have the same
//! name. In a test a fixed seed makes every run the same.
//!
//! # What each output wants
//!
//! | [`Output`](crate::Output) | do | then say |
//! |---|---|---|
//! | `Dial(a)` | destroy every earlier socket and dial; begin to connect, without blocking the loop | `Opened` or `Lost` |
//! | `Send(a, frame)` | give it to the socket; comes only if the wire was `Ready` | `Took`, `Flushed` when it happens |
//! | `Close(a, code)` | queue a Close frame, also on a wire that is blocked; go on reading | `Lost` when the connection ends |
//! | `Abort(a)` | destroy the socket or the dial at once | nothing |
//! | `Delivered { first, last }` | tell whoever sent them | nothing |
//! | `Failed(failed)` | tell whoever sent it; the body is in it | nothing |
//! | `Status(status)` | show it. It is the newest state, not one of a sequence | `Start` if it [is stopped](crate::Status::is_stopped) and you can mend why; else `Close` |
//! | `WaitUntil(deadline)` | sleep if nothing else is to be done | `Tick`, if there is nothing to read |
//!
//! Nobody but you stops a dial that never ends: the client gives it up after its limit and says
//! `Abort`, but a thread that hangs in `connect` goes on hanging without a limit of its own.
//!
//! # What each event means
//!
//! | [`Event`](crate::Event) | say it when |
//! |---|---|
//! | `Opened` | the upgrade is done (not: TCP is connected), and the client [still dials](crate::Client::is_dialing) that attempt |
//! | `Heard(a)` | bytes came, be they a whole frame or not, or a large message on a slow link looks like a dead peer. Count them below the framing; or say it when a poller finds the socket readable |
//! | `Took(a)` | the kernel took bytes: it keeps a slow write from being taken for a dead one. Count them; or say it when a poller finds that a socket that was blocked is writable |
//! | `Flushed(a)` | nothing handed over waits in your buffers. Saying it again is harmless; saying it early starts the pong clock too soon and, at level `Written`, settles what the kernel does not have |
//! | `Paused(a)`, `Resumed(a)` | you stop reading for want of room for inbound messages, and read again. In between silence proves nothing |
//! | `Lost(a, loss)` | the dial failed ([`from_status`](crate::Loss::from_status) for an answer other than 101) or the connection ended. The peer's Close counts as the end: answer it, say `Loss::Closed`, drop the socket |
//! | `Tick` | time passed and there is nothing to read |
//! | `Start`, `Stop`, `Nudge`, `Cancel`, `Close` | the user wants it |
//!
//! A write that fails is not yet a loss: the peer's Close, with the reason for it, may lie in the read
//! buffer. Stop writing, read until there is nothing more, then say `Lost`.
//!
//! # Mistakes
//!
//! These do not compile, or do no harm:
//!
//! - **Sleeping on things to do.** The deadline comes out of the same `poll` as they do, and last.
//! - **An output forgotten.** [`Output`](crate::Output) is to be matched in full.
//! - **A message lost on a refused push.** The error hands it back.
//! - **An event that comes late**, of an attempt that is over, or twice: it names its attempt, and is
//!   counted as stale.
//! - **Two calls in the wrong order.** Every event is legal in every state, also in mid-drain.
//!
//! These no type prevents:
//!
//! - **`Ready` said for a socket that is not.** What is polled counts as handed over. Ask before each
//!   poll, and bound your own buffers.
//! - **Adopting a dial that was aborted.** Its `Opened` is stale and the client ignores it; the socket
//!   is then nobody's and stays open. When a dial comes back, ask
//!   [`is_dialing`](crate::Client::is_dialing).
//! - **`Tick` before everything is read.** A link that lives is given up.
//! - **Sleeping after an event without a poll.** `Flushed` may settle messages, a pong may open the
//!   window. [`deadline`](crate::Client::deadline) knows timers, not debts.
//! - **Waiting for the wire only while there is something to send.** Your framing has pongs to send
//!   too; flush in every turn.
//! - **Leaving messages in your own queue.** Room comes back with every settlement, not with the next
//!   message: look into the queue again before you sleep.
//! - **Reading for ever.** A peer that floods you keeps you from sending. Bound what is read in one
//!   turn.
//! - **Leaving before it is over.** Without `Close` and a loop until
//!   [`is_over`](crate::Client::is_over) nobody learns what became of the rest.
