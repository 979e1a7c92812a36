//! Proof that `bowline-core` needs no `std`.
//!
//! This crate brings what `std` would bring: a panic handler and an allocator. If anything that it
//! links pulls `std` in, there are two of the first, and the build fails with "found duplicate lang
//! item `panic_impl`". That it builds is the whole test; nothing here is run.
#![no_std]

extern crate alloc;

use alloc::vec::Vec;
use core::{
    alloc::{GlobalAlloc, Layout},
    cell::UnsafeCell,
    convert::Infallible,
    hint::spin_loop,
    panic::PanicInfo,
    ptr::null_mut,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bowline_core::{
    Attempt, Backoff, Body, Client, ClientConfig, Dialect, Event, Frame, Inbox, InboxConfig,
    Instant, Loss, MessageId, Offer, OutboxId, Output, Plain, PushOptions, Sink, Snapshot,
    VerdictLimits, Wire,
    loss::verdict,
    numbered::{Messages, reply},
};
use rand_core::TryRng;

/// A client that pushes, is stored, and goes on.
fn clients(seed: u64) -> u64 {
    let config = ClientConfig::default();
    let Ok(mut client) = Client::new(config.clone(), Plain, Counter(seed)) else { return 0 };
    let mut now = Instant::ZERO;
    client.handle(now, Event::Start);
    let taken = client.push(now, "no std".into(), PushOptions::default()).is_ok();
    while let Output::Dial(_) | Output::Status(_) = client.poll(Wire::Blocked) {}
    if let Some(deadline) = client.deadline() {
        now = deadline.at;
    }
    client.handle(now, Event::Tick);
    let snapshot = serde_json::to_vec(&client.outbox().snapshot()).unwrap_or_default();
    let restored = serde_json::from_slice::<Snapshot>(&snapshot)
        .is_ok_and(|snapshot| Client::restore(config, Plain, Counter(seed), now, snapshot).is_ok());
    client.stats().queued as u64 + u64::from(taken) + u64::from(restored)
}

/// The receiving end of a numbered frame.
fn received(mut inbox: Inbox, frame: &Body) -> bool {
    let lane = inbox.connect();
    let Ok(Messages { outbox, base, messages }) = Messages::parse(frame) else { return false };
    for (seq, data) in messages {
        let id = MessageId { outbox, seq };
        if data.to::<u32>().is_ok() && inbox.offer(lane, id, base) == Offer::New {
            let _ = inbox.done(id);
        }
    }
    reply(core::iter::from_fn(|| inbox.poll(lane)), None).is_some()
}

/// Calls into every part of the core.
#[unsafe(no_mangle)]
pub extern "C" fn bowline_no_std(seed: u64) -> u64 {
    let mut rng = Counter(seed);
    let backoff = Backoff::default();
    let delay = backoff.delay(3, Duration::ZERO, &mut rng);
    let at = Instant::from_micros(seed) + delay;

    let limits = VerdictLimits { retry_after_cap: delay, backoff_cap: backoff.cap };
    let lost = Loss::Status { status: 503, retry_after: Some(delay) };
    let verdict = alloc::format!("{lost}: {:?}", verdict(lost, limits));

    let Ok(body) = Plain::encode(Body::text(verdict));
    let mut sink = Sink::default();
    Plain.decode(body.clone(), &mut sink);
    let frame = Frame::Data(body.clone());

    let stored = serde_json::to_vec(&(OutboxId::draw(&mut rng), at)).unwrap_or_default();
    let restored: Result<(OutboxId, Instant), _> = serde_json::from_slice(&stored);
    let signals: Vec<_> = sink.signals;

    let inbox = Inbox::new(InboxConfig::default());
    let answered = inbox.is_ok_and(|inbox| received(inbox, &body));

    clients(seed)
        + at.as_micros()
        + Attempt::new(seed).get()
        + frame.payload_len() as u64
        + signals.len() as u64
        + u64::from(restored.is_ok())
        + u64::from(answered)
}

struct Counter(u64);

impl TryRng for Counter {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|n| n as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0 = self.0.wrapping_add(1);
        Ok(self.0)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.fill(self.0 as u8);
        Ok(())
    }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        spin_loop();
    }
}

const ARENA: usize = 64 * 1024;

/// Hands out an arena from its start to its end and takes nothing back.
struct Bump {
    arena: UnsafeCell<[u8; ARENA]>,
    used: AtomicUsize,
}

#[global_allocator]
static BUMP: Bump = Bump { arena: UnsafeCell::new([0; ARENA]), used: AtomicUsize::new(0) };

// SAFETY: the arena is reached only through `alloc`, which gives each byte away at most once: `used`
// only grows, in one atomic step for each allocation.
unsafe impl Sync for Bump {}

// SAFETY: what is returned is aligned, inside of the arena, and shared with no other allocation.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = self.arena.get().cast::<u8>();
        // With room for the worst padding, so that one addition reserves everything.
        let Some(room) = layout.size().checked_add(layout.align()) else { return null_mut() };
        let reserve = |used: usize| used.checked_add(room).filter(|end| *end <= ARENA);
        let Ok(used) = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reserve) else {
            return null_mut();
        };
        // SAFETY: `used + room` is at most `ARENA`.
        let free = unsafe { start.add(used) };
        let padding = free.align_offset(layout.align());
        if padding > layout.align() {
            return null_mut();
        }
        // SAFETY: `padding + size` is at most `room`.
        unsafe { free.add(padding) }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}
