//! Which worlds there are, and what happens in them: a seed makes a trace.
//!
//! In the manner of swarm testing (Groce et al., ISSTA 2012) each seed switches each kind of op on
//! with one half, and draws how often it comes, log-uniformly: a fault that is everywhere hides what
//! one alone would show. Limits are tiny more often than not, so that windows and queues fill. Nearly
//! half of the seeds also play scenes: ops that must come close together to be seen at all.

use core::time::Duration;

use arbitrary::Unstructured;
use bowline_core::{Jitter, Level, Nack, OnSuspected, Overflow};
use proptest::prelude::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::{
    op::{
        AckOp, ClientOp, ClockOp, DenyOp, FailOp, FrameEndOp, HttpStatus, LinkOp, Micros, NackOp,
        Op, PeerOp, Push, RefuseOp, StaleOp, Which,
    },
    scenes::{self, Scene},
    settings::{Chance, Language, Settings},
    trace::Trace,
};

/// A kind of op.
type Draw = fn(&mut Dealer) -> Op;

/// What there is without being asked for, and how often.
const ALWAYS: [(Draw, f64); 3] =
    [(|d| d.push(), 1.0), (|d| Op::Pass(d.pause()), 1.6), (|_| Op::Client(ClientOp::Start), 0.02)];

/// What a seed switches on or off.
const KINDS: &[Draw] = &[
    |_| Op::Link(LinkOp::Cut),
    |_| Op::Link(LinkOp::Cut),
    |_| Op::Link(LinkOp::Eof),
    |d| Op::Link(LinkOp::ResetAfter(d.bytes())),
    |d| Op::Link(LinkOp::ResetBackAfter(d.bytes())),
    |d| Op::Link(LinkOp::HoleAfter(d.bytes())),
    |d| Op::Link(LinkOp::HoleBackAfter(d.bytes())),
    |d| Op::Link(LinkOp::EofAfter(d.bytes())),
    |d| Op::Link(LinkOp::EofBackAfter(d.bytes())),
    |d| Op::Link(LinkOp::FrameEnd(d.frame_end())),
    |d| Op::Link(LinkOp::FrameEnd(d.frame_end())),
    |d| Op::Link(LinkOp::Fail(d.fail())),
    |_| Op::Link(LinkOp::Stall),
    |_| Op::Link(LinkOp::StallBack),
    |_| Op::Link(LinkOp::Mute),
    |_| Op::Link(LinkOp::Deaf),
    |d| Op::Link(LinkOp::Delay(d.pause())),
    |d| Op::Link(LinkOp::Bandwidth(d.log(1, 100_000))),
    |d| Op::Link(LinkOp::Chunk(d.log(1, 40))),
    |d| Op::Link(LinkOp::Buffer(d.log(1, 400))),
    |_| Op::Link(LinkOp::Refuse),
    |_| Op::Link(LinkOp::Hang),
    |d| Op::Link(LinkOp::DialTakes(d.pause())),
    |_| Op::Link(LinkOp::Linger),
    |_| Op::Peer(PeerOp::AcceptThenDrop),
    |_| Op::Peer(PeerOp::SilentAfterUpgrade),
    |d| Op::Peer(PeerOp::Status(d.status())),
    |d| Op::Peer(PeerOp::Close(d.code())),
    |_| Op::Peer(PeerOp::IgnoreClose),
    |_| Op::Peer(PeerOp::NoPongs),
    |_| Op::Peer(PeerOp::Hold),
    |_| Op::Peer(PeerOp::Slow),
    |d| Op::Peer(PeerOp::Nack(d.nack())),
    |d| Op::Peer(PeerOp::Nack(d.nack())),
    |_| Op::Peer(PeerOp::Ack(AckOp::Late)),
    |_| Op::Peer(PeerOp::Ack(AckOp::Now)),
    |_| Op::Peer(PeerOp::Ack(AckOp::Twice)),
    |_| Op::Peer(PeerOp::Ack(AckOp::TooHigh)),
    |_| Op::Peer(PeerOp::Ack(AckOp::Max)),
    |_| Op::Peer(PeerOp::Ack(AckOp::Skipped)),
    |_| Op::Peer(PeerOp::Forget),
    |_| Op::Peer(PeerOp::Crash),
    |d| Op::Peer(PeerOp::Poison(d.message())),
    |d| Op::Peer(PeerOp::Accuse(d.message())),
    |_| Op::Peer(PeerOp::Say),
    |_| Op::Peer(PeerOp::Garble),
    |_| Op::Peer(PeerOp::Pong),
    |_| Op::Peer(PeerOp::Greet),
    |d| Op::Peer(PeerOp::Refuse(d.refusal())),
    |d| Op::Peer(PeerOp::Deny(d.pick(&[DenyOp::Transient, DenyOp::Transient, DenyOp::Permanent]))),
    |_| Op::Peer(PeerOp::PongAhead),
    |_| Op::Client(ClientOp::Stop),
    |_| Op::Client(ClientOp::Nudge),
    |d| Op::Client(ClientOp::Cancel(d.message())),
    |d| Op::Client(ClientOp::Cancel(d.message())),
    |d| Op::Client(ClientOp::Close(d.pause())),
    |_| Op::Client(ClientOp::Snapshot),
    |_| Op::Client(ClientOp::Crash),
    |_| Op::Client(ClientOp::Retire),
    |_| Op::Client(ClientOp::Pause),
    |_| Op::Client(ClientOp::Busy),
    |d| Op::Client(ClientOp::HalfDrain(d.log(1, 4))),
    |_| Op::Client(ClientOp::Tick),
    |_| Op::Clock(ClockOp::Freeze),
    |d| Op::Clock(ClockOp::Back(d.pause())),
    |d| Op::Clock(ClockOp::Jump(d.jump())),
    |d| Op::Stale(d.stale()),
    |d| Op::Stale(d.stale()),
    |d| Op::Stale(StaleOp::Ack(d.which())),
    |d| Op::Stale(StaleOp::Pong(d.which())),
    |_| Op::Stale(StaleOp::Echo),
];

/// What may come before the first start.
const EARLY: [Op; 13] = [
    Op::Link(LinkOp::Fail(FailOp::Certificate)),
    Op::Link(LinkOp::Fail(FailOp::Subprotocol)),
    Op::Link(LinkOp::Fail(FailOp::Provider)),
    Op::Client(ClientOp::Nudge),
    Op::Client(ClientOp::Stop),
    Op::Client(ClientOp::Tick),
    Op::Stale(StaleOp::Opened(Which::Before)),
    Op::Stale(StaleOp::Heard(Which::Before)),
    Op::Stale(StaleOp::Took(Which::Before)),
    Op::Stale(StaleOp::Flushed(Which::Before)),
    Op::Stale(StaleOp::Paused(Which::Before)),
    Op::Stale(StaleOp::Resumed(Which::Before)),
    Op::Stale(StaleOp::Lost(Which::Before)),
];

/// What takes faults back, more often the more of them there are.
const CURES: &[Draw] = &[
    |_| Op::Link(LinkOp::Heal),
    |_| Op::Link(LinkOp::Heal),
    |_| Op::Peer(PeerOp::Behave),
    |_| Op::Peer(PeerOp::Behave),
    |_| Op::Peer(PeerOp::Go),
    |_| Op::Client(ClientOp::Start),
    |_| Op::Client(ClientOp::Retire),
    |_| Op::Client(ClientOp::Resume),
    |_| Op::Clock(ClockOp::Run),
];

/// Draws what a seed makes.
pub struct Dealer {
    pub(crate) rng: ChaCha8Rng,
    /// Messages that were pushed, at most.
    pub(crate) pushed: u64,
    /// The time that matters in this world, roughly.
    scale: u64,
    kinds: Vec<(Draw, f64)>,
    total: f64,
    /// What the scenes must know.
    pub(crate) settings: Settings,
    scenes: Vec<Scene>,
}

impl Dealer {
    /// The trace that a seed makes, for every seed the same.
    pub fn deal(seed: u64) -> Trace {
        let mut dealer = Self::new(seed);
        let mut settings = dealer.settings(seed);
        if dealer.rng.random_bool(0.45) {
            dealer.scenes = scenes::cast(&mut dealer, &mut settings);
        }
        dealer.settings = settings.clone();
        dealer.switch();
        let mut ops = Vec::new();
        dealer.fill(&mut ops);
        Trace { settings, ops }
    }

    /// Such ops for a client whose times are of about this size: its ping interval, say.
    pub fn deal_ops(seed: u64, scale: Duration) -> Vec<Op> {
        let mut dealer = Self::new(seed);
        dealer.scale = u64::try_from(scale.as_micros()).unwrap_or(u64::MAX).clamp(100, 1 << 40);
        dealer.switch();
        let mut ops = Vec::new();
        dealer.fill(&mut ops);
        ops
    }

    fn new(seed: u64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            pushed: 0,
            scale: 1_000,
            kinds: ALWAYS.to_vec(),
            total: 0.0,
            settings: Settings::default(),
            scenes: Vec::new(),
        }
    }

    /// Switches kinds on, each at its rate.
    fn switch(&mut self) {
        let mut faults = 0;
        for kind in KINDS {
            if self.rng.random_bool(0.5) {
                let rate = self.rate();
                self.kinds.push((*kind, rate));
                faults += 1;
            }
        }
        for cure in CURES {
            // So that faults neither pile up for ever nor are over at once.
            self.kinds.push((*cure, 0.004 * f64::from(faults)));
        }
        self.total = self.kinds.iter().map(|(_, rate)| rate).sum();
    }

    fn rate(&mut self) -> f64 {
        // From 0.005 to 0.25, evenly in its logarithm.
        0.005 * 50_f64.powf(self.rng.random_range(0.0..1.0))
    }

    fn fill(&mut self, ops: &mut Vec<Op>) {
        let length = self.log(10, 500);
        // One in four is not started at once: what comes before finds an idle client.
        let mut early = self.rng.clone();
        if early.random_range(0..4) == 0 {
            let count = early.random_range(1..4);
            ops.extend((0..count).map(|_| EARLY[early.random_range(0..EARLY.len())]));
        }
        if !self.scenes.is_empty() {
            if self.chance(8) {
                scenes::deaf(&self.settings, ops);
            } else if self.settings.greets && self.chance(3) {
                scenes::refused_at_first(self, ops);
            }
        }
        ops.push(Op::Client(ClientOp::Start));
        while (ops.len() as u64) < length {
            if !self.scenes.is_empty() && self.chance(12) {
                let scene = self.scenes[self.rng.random_range(0..self.scenes.len())];
                scene(self, ops);
            }
            let mut at = self.rng.random_range(0.0..self.total);
            let drawn = self.kinds.iter().find(|(_, rate)| {
                at -= rate;
                at < 0.0
            });
            let (kind, _) = *drawn.unwrap_or(&self.kinds[0]);
            let op = kind(self);
            ops.push(op);
            // What must be seen while it is fresh.
            if op == Op::Client(ClientOp::Busy) {
                let more = self.rng.random_range(0..3);
                for _ in 0..more {
                    let kind = self.kinds[self.rng.random_range(0..self.kinds.len())].0;
                    ops.push(kind(self));
                }
                ops.push(Op::Pass(self.pause()));
            }
        }
    }

    /// A number from `low` to `high`, evenly in its logarithm.
    pub(crate) fn log(&mut self, low: u64, high: u64) -> u64 {
        let ratio = high as f64 / low as f64;
        let drawn = low as f64 * ratio.powf(self.rng.random_range(0.0..=1.0));
        (drawn as u64).clamp(low, high)
    }

    pub(crate) fn chance(&mut self, one_in: u32) -> bool {
        self.rng.random_range(0..one_in) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.rng.random_range(0..from.len())]
    }

    fn settings(&mut self, seed: u64) -> Settings {
        let defaults = Settings::default();
        let language = self.pick(&[
            Language::Plain,
            Language::Plain,
            Language::Plain,
            Language::Positional,
            Language::Positional,
            Language::Named,
            Language::Named,
            Language::Numbered,
        ]);
        let mut settings = Settings {
            language,
            greets: language.has_a_greeting() && self.chance(2),
            takes_gaps: language.has_a_greeting() && self.chance(4),
            can_ping: !self.chance(10),
            seed,
            chance: match self.rng.random_range(0..10) {
                0 => Chance::Zeros,
                1 => Chance::Ones,
                _ => Chance::Seeded,
            },
            overflow: self.pick(&[Overflow::Reject, Overflow::EvictOldest]),
            level: match language {
                Language::Plain => self.pick(&[Level::Received, Level::Received, Level::Written]),
                Language::Numbered => Level::Acked,
                _ => self.pick(&[Level::Received, Level::Acked, Level::Acked]),
            },
            on_suspected: self.pick(&[OnSuspected::Wait, OnSuspected::Settle]),
            retry_budget: self.pick(&[0, 1, 2, 5]),
            suspect_limit: self.pick(&[1, 2, 5]),
            jitter: self.pick(&[
                Jitter::Full,
                Jitter::Full,
                Jitter::Equal,
                Jitter::Decorrelated,
                Jitter::None,
            ]),
            ..defaults
        };
        if !self.chance(5) {
            settings.queue = self.log(1, 12) as usize;
            settings.window = (self.log(1, 4) as usize).min(settings.queue);
            settings.message_bytes = 64;
            settings.window_bytes = self.log(64, 256) as usize;
            settings.queue_bytes = (self.log(64, 2_000) as usize).max(settings.window_bytes);
            settings.receipt_messages = self.log(1, 8) as usize;
            settings.receipt_bytes = self.log(1, 500) as usize;
        }
        self.scale = settings.ping_interval.0;
        if !self.chance(4) {
            // In this world all limits are of about one size, a hundredfold apart at most.
            // The shortest is longer than a round trip when the faults have ended.
            let scale = self.log(25_000, 2_000_000);
            self.scale = scale;
            let mut limit = || Micros(self.log(scale / 5, scale * 20));
            settings.dial_limit = limit();
            settings.greeting_limit = limit();
            settings.ping_interval = limit();
            settings.pong_limit = limit();
            settings.write_limit = limit();
            settings.close_limit = limit();
            settings.stable_after = limit();
            settings.nudge_floor = limit();
            settings.retry_after_cap = limit();
            settings.ack_limit = limit();
            settings.nack_delay = limit();
            settings.nack_delay_cap = limit().max(settings.nack_delay);
            settings.backoff_base = limit();
            settings.backoff_cap = limit().max(settings.backoff_base);
        }
        if self.chance(4) {
            settings.max_attempts = Some(self.log(1, 10) as u32);
        }
        if self.chance(8) {
            settings.max_elapsed = Some(Micros(self.log(self.scale, self.scale * 100)));
        }
        settings.backoff_factor = self.pick(&[1, 2, 2, 3]);
        if language == Language::Named && self.chance(2) {
            settings.beat = Some(Micros(self.log(self.scale / 5, self.scale * 20)));
        }
        if !settings.can_ping {
            settings.level = language.level_without_pings();
        }
        settings
    }

    fn push(&mut self) -> Op {
        let count = if self.chance(3) { self.rng.random_range(2..6) } else { 1 };
        self.pushed += u64::from(count);
        // Levels that the language has not are refused: rare, but there.
        let level = match self.rng.random_range(0..12) {
            0 => Some(Level::Written),
            1 => Some(Level::Received),
            2 => Some(Level::Acked),
            _ => None,
        };
        let bytes = match self.rng.random_range(0..20) {
            0 => 100,
            1..4 => self.rng.random_range(9..=64),
            _ => 0,
        };
        let ttl = if self.chance(6) { Some(self.pause()) } else { None };
        let key = if self.chance(6) { Some(self.pick(&['a', 'b'])) } else { None };
        Op::Push(Push { count, bytes, level, ttl, key })
    }

    /// A time: mostly that of a round trip or of a limit.
    pub(crate) fn pause(&mut self) -> Micros {
        let scale = self.scale;
        Micros(match self.rng.random_range(0..10) {
            0 => 0,
            1..4 => self.log(1, 5_000),
            4..8 => self.log(1 + scale / 100, scale),
            _ => self.log(scale.max(1), scale * 50),
        })
    }

    fn jump(&mut self) -> Micros {
        if self.chance(10) { Micros::years(100) } else { self.pause() }
    }

    /// How many bytes until something happens: those of a small frame or two.
    fn bytes(&mut self) -> u64 {
        self.log(1, 120) - u64::from(self.chance(4))
    }

    fn frame_end(&mut self) -> FrameEndOp {
        let bytes = self.rng.random_range(-2..=1);
        self.pick(&[
            FrameEndOp::Reset(bytes),
            FrameEndOp::ResetBack(bytes),
            FrameEndOp::Hole(bytes),
            FrameEndOp::HoleBack(bytes),
            FrameEndOp::Eof(bytes),
            FrameEndOp::EofBack(bytes),
        ])
    }

    fn fail(&mut self) -> FailOp {
        let bytes = self.rng.next_u32().to_le_bytes();
        Unstructured::new(&bytes).arbitrary().unwrap_or(FailOp::Io)
    }

    /// The number of a message, mostly a new one.
    pub(crate) fn message(&mut self) -> u64 {
        let back = self.rng.random_range(0..6);
        (self.pushed + 1).saturating_sub(back).max(1)
    }

    fn nack(&mut self) -> NackOp {
        let nack = if self.chance(4) { Nack::Permanent } else { Nack::Transient };
        NackOp { after: self.pick(&[0, 0, 0, 1, 2, 3]), nack }
    }

    fn refusal(&mut self) -> RefuseOp {
        match self.rng.random_range(0..6) {
            0..3 => RefuseOp::Retry,
            3 => RefuseOp::RetryAfter(self.pause()),
            4 => RefuseOp::Renew,
            _ => RefuseOp::Fatal,
        }
    }

    fn status(&mut self) -> HttpStatus {
        let listed =
            self.pick(&[101, 200, 302, 400, 401, 403, 404, 408, 425, 429, 429, 500, 502, 503, 503]);
        let status = if self.chance(10) { self.rng.random_range(100..600) } else { listed };
        let retry_after = match self.rng.random_range(0..6) {
            0..3 => None,
            3 => Some(Micros(u64::MAX)),
            _ => Some(self.pause()),
        };
        HttpStatus { status, retry_after }
    }

    fn code(&mut self) -> u16 {
        if self.chance(10) {
            return (self.rng.next_u32() % 5_000) as u16;
        }
        self.pick(&[
            1000, 1001, 1002, 1003, 1006, 1007, 1008, 1009, 1009, 1010, 1011, 1012, 1013, 3000,
        ])
    }

    fn which(&mut self) -> Which {
        self.pick(&[Which::Before, Which::Newest])
    }

    fn stale(&mut self) -> StaleOp {
        let which = self.which();
        self.pick(&[
            StaleOp::Opened(which),
            StaleOp::OpenedTwice,
            StaleOp::Heard(which),
            StaleOp::Took(which),
            StaleOp::Flushed(which),
            StaleOp::Paused(which),
            StaleOp::Resumed(which),
            StaleOp::Lost(which),
        ])
    }
}
