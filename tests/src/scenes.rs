//! What must happen close together to be seen at all: a nack while the outbox drains, an ack in the
//! moment in which its message expires, a greeting that is refused.
//!
//! Dice that throw one op at a time come upon such conjunctions too rarely to say anything of them.
//! A scene is a few ops in the order and at the distance that matter, with what is not essential left
//! to the dice. Whether it comes off depends on what was before: mostly, the trouble there is ends
//! first. A seed has [some or none](cast) of them.

use core::time::Duration;

use bowline_core::{Level, Nack};
use proptest::prelude::RngExt;

use crate::{
    op::{
        AckOp, ClientOp, DenyOp, HttpStatus, LinkOp, Micros, NackOp, Op, PeerOp, Push, RefuseOp,
        StaleOp, Which,
    },
    settings::{Language, Settings},
    swarm::Dealer,
};

/// Appends a scene to the ops.
pub(crate) type Scene = fn(&mut Dealer, &mut Vec<Op>);

/// Scenes that need no ack, and those that do.
const ANYWHERE: &[Scene] = &[
    echo,
    expiry,
    last_moment,
    nudges,
    closing,
    suspicion,
    late_dial,
    replay,
    half_a_drain,
    flood,
];
const WITH_ACKS: &[Scene] = &[
    nack,
    nack,
    nack,
    levels,
    levels,
    levels,
    levels,
    levels,
    outdated_ping,
    outdated_ping,
    expiry,
    greeting,
    overdue,
    overdue,
    drain,
    probing,
    probing,
    dies_before_it_answers,
    slow,
    slow,
];

/// The scenes of a seed, and the settings that they need.
pub(crate) fn cast(dealer: &mut Dealer, settings: &mut Settings) -> Vec<Scene> {
    let acks = settings.language != Language::Plain;
    let mut scenes: Vec<Scene> = Vec::new();
    for _ in 0..dealer.rng.random_range(1..4) {
        let from = if acks && dealer.chance(2) { WITH_ACKS } else { ANYWHERE };
        scenes.push(dealer.pick(from));
    }
    if settings.greets && !dealer.chance(3) {
        scenes.push(greeting);
    }
    let has = |scene: Scene| scenes.iter().any(|other| core::ptr::fn_addr_eq(*other, scene));
    let (late, levels, full) = (has(overdue), has(levels) || has(outdated_ping), has(slow));
    if late {
        // Between the ping after which the peer is suspect and the end of the attempt.
        settings.ack_limit = Micros(settings.ping_interval.0 + settings.pong_limit.0 / 2);
    }
    let at_least = if full { 4 } else { 3 };
    if levels || full {
        settings.window = settings.window.max(at_least).min(settings.queue.max(at_least));
        settings.queue = settings.queue.max(at_least);
    }
    // Whoever may fail a few times only stops where others wait.
    if dealer.chance(if late { 2 } else { 3 }) {
        settings.max_attempts = Some(dealer.log(1, 4) as u32);
    }
    scenes
}

const fn us(micros: u64) -> Op {
    Op::Pass(Micros(micros))
}

/// A message of this level, and how long it lives.
fn one(dealer: &mut Dealer, level: Option<Level>, ttl: Option<u64>) -> Op {
    dealer.pushed += 1;
    Op::Push(Push { count: 1, bytes: 0, level, ttl: ttl.map(Micros), key: None })
}

const fn refusal(nack: Nack) -> Op {
    Op::Peer(PeerOp::Nack(NackOp { after: 0, nack }))
}

/// Three times in four what trouble there is ends, and there is a link with nothing in flight, if
/// the client is not closed and its backoff is short.
fn calm(dealer: &mut Dealer, ops: &mut Vec<Op>) {
    if dealer.chance(4) {
        return;
    }
    ops.extend([
        Op::Link(LinkOp::Heal),
        Op::Peer(PeerOp::Behave),
        Op::Clock(crate::op::ClockOp::Run),
        Op::Client(ClientOp::Resume),
        // A client that has been closed takes no message: the next one does.
        Op::Client(if dealer.chance(4) { ClientOp::Retire } else { ClientOp::Start }),
        Op::Client(ClientOp::Nudge),
        us(15_000),
    ]);
}

/// The link ends, and the next one is dialed as soon as it may be.
fn redial(dealer: &mut Dealer, ops: &mut Vec<Op>) {
    ops.push(Op::Link(dealer.pick(&[LinkOp::Cut, LinkOp::Cut, LinkOp::Eof])));
    ops.extend([us(1_000), Op::Client(ClientOp::Nudge)]);
}

fn some(dealer: &mut Dealer, ops: &mut Vec<Op>, from: &[Op], apart: u64) {
    for _ in 0..dealer.rng.random_range(1..4) {
        let op = dealer.pick(from);
        ops.extend([op, us(dealer.rng.random_range(0..=apart))]);
    }
}

fn any_refusal(dealer: &mut Dealer) -> Op {
    let delay = dealer.pause();
    let refusal = dealer.pick(&[
        RefuseOp::Retry,
        RefuseOp::RetryAfter(delay),
        RefuseOp::Renew,
        RefuseOp::Fatal,
        RefuseOp::Fatal,
    ]);
    Op::Peer(PeerOp::Refuse(refusal))
}

/// A message is refused for the moment, others come behind it, and things happen in the pause.
fn nack(dealer: &mut Dealer, ops: &mut Vec<Op>) {
    calm(dealer, ops);
    ops.push(refusal(Nack::Transient));
    ops.push(one(dealer, Some(Level::Acked), None));
    ops.push(us(1_500));
    ops.push(one(dealer, None, None));
    ops.push(us(dealer.rng.random_range(600..1_200)));
    let close = Op::Client(ClientOp::Close(dealer.pause()));
    let cancel = Op::Client(ClientOp::Cancel(dealer.message()));
    let happens = [
        Op::Client(ClientOp::Pause),
        Op::Client(ClientOp::Resume),
        close,
        cancel,
        Op::Stale(StaleOp::Ack(Which::Before)),
        Op::Stale(StaleOp::Paused(Which::Before)),
        Op::Peer(PeerOp::Deny(DenyOp::Transient)),
        Op::Peer(PeerOp::Ack(AckOp::Twice)),
        Op::Link(LinkOp::Cut),
        Op::Client(ClientOp::Snapshot),
        Op::Client(ClientOp::Crash),
    ];
    let denied = [Op::Peer(PeerOp::Deny(DenyOp::Transient)), us(1_200)];
    match dealer.rng.random_range(0..9) {
        0 => ops.extend([Op::Client(ClientOp::Pause), us(100), Op::Client(ClientOp::Resume)]),
        1 => ops.extend([Op::Client(ClientOp::Snapshot), Op::Client(ClientOp::Crash)]),
        3 => ops.extend([denied, denied].concat()),
        4 => ops.extend([
            Op::Stale(StaleOp::Ack(Which::Before)),
            Op::Stale(StaleOp::Resumed(Which::Before)),
        ]),
        // The next link is there before the pause is over, and something was in flight.
        2 | 5 | 6 | 7 => redial(dealer, ops),
        _ => some(dealer, ops, &happens, 1_500),
    }
    ops.push(us(5_000));
    ops.push(Op::Pass(dealer.pause()));
}

/// A message that awaits an ack is refused while another awaits a pong, which does not come; when the
/// pause is over, the other one is cancelled or expires.
fn levels(dealer: &mut Dealer, ops: &mut Vec<Op>) {
    calm(dealer, ops);
    let pause = dealer.settings.nack_delay.0;
    let nack = if dealer.chance(3) { Nack::Permanent } else { Nack::Transient };
    ops.extend([Op::Peer(PeerOp::NoPongs), refusal(nack)]);
    let ttl = if dealer.chance(3) { None } else { Some(pause + pause / 4 + 5_000) };
    let other_first = dealer.chance(2);
    let mut levels = [(Level::Acked, None), (Level::Received, ttl)];
    if other_first {
        levels.reverse();
    }
    for (level, ttl) in levels {
        ops.push(one(dealer, Some(level), ttl));
    }
    ops.extend([us(3_000), us(pause)]);
    let last = dealer.pushed;
    ops.push(Op::Client(ClientOp::Cancel(last - u64::from(other_first))));
    ops.push(us(pause));
    ops.push(Op::Peer(PeerOp::Behave));
}

/// The pong to a ping before a nack comes when what was called back is in flight again.
fn outdated_ping(dealer: &mut Dealer, ops: &mut Vec<Op>) {
    calm(dealer, ops);
    ops.push(refusal(Nack::Transient));
    ops.push(one(dealer, Some(Level::Acked), None));
    ops.push(us(500));
    ops.push(one(dealer, Some(Level::Received), None));
    ops.extend([us(1_700), Op::Link(LinkOp::StallBack)]);
    ops.push(us(dealer.settings.nack_delay.0 + 500));
    ops.extend([Op::Link(LinkOp::Heal), us(4_000)]);
}

/// The pong to the last ping of the link before comes on this one, where its number is good too.
fn echo(dealer: &mut Dealer, ops: &mut Vec<Op>) {
    calm(dealer, ops);
    let level = if dealer.settings.level == Level::Acked { None } else { Some(Level::Received) };
    ops.push(one(dealer, level, None));
    ops.push(us(dealer.rng.random_range(0..1_800)));
    ops.extend([Op::Link(LinkOp::Cut), Op::Client(ClientOp::Nudge)]);
    // A dial, a ping and its pong; then the message is on its way again.
    ops.extend([us(dealer.rng.random_range(3_000..5_000)), Op::Stale(StaleOp::Echo), us(2_000)]);
}

/// A time to live ends where the ack or the pong comes.
fn expiry(dealer: &mut Dealer, ops: &mut Vec<Op>) {
    calm(dealer, ops);
    let acks = dealer.settings.language != Language::Plain;
    let level = if acks && dealer.chance(2) { Some(Level::Acked) } else { None };
    if dealer.chance(2) {
        let ttl = dealer.rng.random_range(1_300..2_300);
        ops.push(one(dealer, level, Some(ttl)));
        ops.extend([us(1_200), Op::Client(ClientOp::Busy), us(1_500)]);
    } else {
        ops.push(one(dealer, level, None));
        ops.push(us(300));
        ops.push(one(dealer, level, Some(1_800)));
        ops.extend([us(1_200), Op::Client(ClientOp::Busy), us(700)]);
    }
    ops.push(us(2_000));
}

/// The peer is heard when the verdict on it is due.
fn last_moment(dealer: &mut Dealer, ops: &mut Vec<Op>) {
    calm(dealer, ops);
    let Settings { ping_interval, pong_limit, .. } = dealer.settings;
    ops.extend([Op::Peer(PeerOp::NoPongs), us(ping_interval.0 + 3_000)]);
    ops.extend([
        Op::Peer(PeerOp::Say),
        Op::Client(ClientOp::Busy),
        us(pong_limit.0 + 5_000),
        Op::Peer(PeerOp::Behave),
    ]);
}

/// Two nudges, or one against what the server has said.
fn nudges(dealer: &mut Dealer, ops: &mut Vec<Op>) {
    calm(dealer, ops);
    if dealer.chance(2) {
        let retry_after = Some(dealer.pause());
        ops.push(Op::Peer(PeerOp::Status(HttpStatus { status: 503, retry_after })));
    } else {
        ops.push(Op::Link(LinkOp::Refuse));
    }
    redial(dealer, ops);
    ops.extend([us(1_500), Op::Client(ClientOp::Nudge)]);
    ops.push(Op::Pass(dealer.pause()));
}

/// Things happen while the greeting is not over.
fn greeting(dealer: &mut Dealer, ops: &mut Vec<Op>) {
    if !dealer.settings.greets && dealer.chance(2) {
        return;
    }
    calm(dealer, ops);
    ops.push(one(dealer, None, None));
    ops.extend([us(2_500), Op::Peer(PeerOp::Hold)]);
    redial(dealer, ops);
    ops.push(us(1_500));
    let refusal = any_refusal(dealer);
    let happens = [
        Op::Client(ClientOp::Pause),
        Op::Client(ClientOp::Resume),
        Op::Client(ClientOp::Nudge),
        Op::Client(ClientOp::Stop),
        Op::Stale(StaleOp::OpenedTwice),
        Op::Stale(StaleOp::OpenedTwice),
        Op::Stale(StaleOp::Paused(Which::Before)),
        Op::Peer(PeerOp::PongAhead),
        Op::Peer(PeerOp::PongAhead),
        Op::Peer(PeerOp::Deny(DenyOp::Transient)),
        Op::Peer(PeerOp::Deny(DenyOp::Transient)),
        Op::Peer(PeerOp::Deny(DenyOp::Permanent)),
        Op::Peer(PeerOp::Ack(AckOp::Twice)),
        Op::Peer(PeerOp::Greet),
        refusal,
        refusal,
        Op::Link(LinkOp::Cut),
    ];
    if dealer.chance(4) {
        ops.extend([Op::Client(ClientOp::Pause), us(50), Op::Client(ClientOp::Resume)]);
    }
    some(dealer, ops, &happens, 1_200);
    ops.extend([us(1_500), Op::Client(ClientOp::Resume)]);
    // Welcome, and once more.
    ops.extend([Op::Peer(PeerOp::Go), us(1_000), Op::Peer(PeerOp::Greet), us(1_500)]);
    if dealer.chance(2) {
        ops.extend([any_refusal(dealer), us(1_500)]);
    }
}

/// Things happen while a Close is not answered.
fn closing(dealer: &mut Dealer, ops: &mut Vec<Op>) {
    calm(dealer, ops);
    ops.push(Op::Peer(PeerOp::IgnoreClose));
    if dealer.chance(2) {
        ops.extend([Op::Link(LinkOp::Stall), Op::Link(LinkOp::Buffer(4))]);
        ops.push(one(dealer, None, None));
        ops.extend([Op::Client(ClientOp::Stop), Op::Link(LinkOp::Heal)]);
    } else {
        ops.push(Op::Client(ClientOp::Stop));
    }
    let happens = [
        Op::Client(ClientOp::Pause),
        Op::Client(ClientOp::Resume),
        Op::Client(ClientOp::Nudge),
        Op::Client(ClientOp::Start),
        Op::Stale(StaleOp::OpenedTwice),
        Op::Stale(StaleOp::Lost(Which::Before)),
        Op::Peer(PeerOp::Say),
    ];
    some(dealer, ops, &happens, 1_500);
    ops.push(Op::Pass(dealer.pause()));
    ops.extend([Op::Peer(PeerOp::Behave), Op::Client(ClientOp::Start)]);
}

/// Things happen while the peer is suspect.
fn suspicion(dealer: &mut Dealer, ops: &mut Vec<Op>) {
    calm(dealer, ops);
    let Settings { ping_interval, write_limit, .. } = dealer.settings;
    if dealer.chance(2) {
        ops.extend([Op::Link(LinkOp::Stall), Op::Link(LinkOp::Buffer(1))]);
    } else {
        ops.push(Op::Peer(PeerOp::NoPongs));
    }
    ops.push(us(ping_interval.0 + 2_000));
    let happens = [
        Op::Stale(StaleOp::OpenedTwice),
        Op::Client(ClientOp::Pause),
        Op::Client(ClientOp::Resume),
        Op::Client(ClientOp::Nudge),
        Op::Client(ClientOp::Tick),
        Op::Peer(PeerOp::Say),
        Op::Link(LinkOp::Cut),
        Op::Link(LinkOp::Eof),
    ];
    match dealer.rng.random_range(0..3) {
        0 => ops.extend([Op::Client(ClientOp::Pause), us(50), Op::Client(ClientOp::Resume)]),
        1 => some(dealer, ops, &happens, 1_500),
        _ => {}
    }
    ops.push(us(write_limit.0 + 1_000));
}

/// A dial succeeds when its limit is over, before the clock is looked at.
fn late_dial(dealer: &mut Dealer, ops: &mut Vec<Op>) {
    calm(dealer, ops);
    redial(dealer, ops);
    ops.extend([Op::Client(ClientOp::Busy), us(dealer.settings.dial_limit.0 + 1_000), us(0)]);
}

/// The process dies, or the link, in the middle of a replay.
fn replay(dealer: &mut Dealer, ops: &mut Vec<Op>) {
    calm(dealer, ops);
    for _ in 0..3 {
        ops.push(one(dealer, None, None));
    }
    ops.push(Op::Client(ClientOp::Snapshot));
    ops.extend([Op::Link(LinkOp::Cut), Op::Client(ClientOp::Nudge)]);
    ops.push(us(dealer.rng.random_range(1_000..6_000)));
    ops.push(dealer.pick(&[Op::Client(ClientOp::Crash), Op::Link(LinkOp::Cut)]));
}

/// Things happen in the middle of a drain, with messages left to hand over.
fn half_a_drain(dealer: &mut Dealer, ops: &mut Vec<Op>) {
    calm(dealer, ops);
    ops.push(Op::Client(ClientOp::HalfDrain(dealer.rng.random_range(1..4))));
    dealer.pushed += 4;
    ops.push(Op::Push(Push { count: 4, bytes: 0, level: None, ttl: None, key: None }));
    let last = dealer.pushed;
    let close = Op::Client(ClientOp::Close(dealer.pause()));
    ops.push(dealer.pick(&[
        Op::Client(ClientOp::Stop),
        close,
        Op::Client(ClientOp::Cancel(last)),
        Op::Client(ClientOp::Crash),
        Op::Link(LinkOp::Cut),
    ]));
    ops.push(us(2_000));
}

/// The ack of what the peer has is withheld, and then the peer is silent.
fn overdue(dealer: &mut Dealer, ops: &mut Vec<Op>) {
    calm(dealer, ops);
    let Settings { ping_interval, pong_limit, .. } = dealer.settings;
    ops.push(Op::Peer(PeerOp::Ack(AckOp::Late)));
    ops.push(one(dealer, Some(Level::Acked), None));
    ops.push(us(ping_interval.0 + 4_000));
    if dealer.chance(2) {
        ops.push(Op::Peer(PeerOp::NoPongs));
    }
    ops.extend([us(ping_interval.0 + pong_limit.0), Op::Peer(PeerOp::Behave)]);
}

/// The peer has a message and dies before it answers; when that comes again, it does.
fn dies_before_it_answers(dealer: &mut Dealer, ops: &mut Vec<Op>) {
    calm(dealer, ops);
    ops.push(Op::Peer(PeerOp::Hold));
    ops.push(one(dealer, Some(Level::Acked), None));
    ops.extend([us(1_500), Op::Peer(PeerOp::Crash), Op::Peer(PeerOp::Behave)]);
    ops.extend([Op::Client(ClientOp::Nudge), us(8_000)]);
}

/// The peer's application has more messages before it than it can hold, refuses one of them, and comes
/// to what it had of a connection before.
fn slow(dealer: &mut Dealer, ops: &mut Vec<Op>) {
    calm(dealer, ops);
    let late = dealer.chance(3);
    ops.push(Op::Peer(if late { PeerOp::Hold } else { PeerOp::Slow }));
    let level = Some(Level::Acked);
    for _ in 0..dealer.rng.random_range(3..6) {
        ops.push(one(dealer, level, None));
    }
    ops.push(us(3_000));
    let after = dealer.rng.random_range(0..3);
    let nack = if dealer.chance(4) { Nack::Permanent } else { Nack::Transient };
    ops.push(Op::Peer(PeerOp::Nack(NackOp { after, nack })));
    if late || dealer.chance(4) {
        redial(dealer, ops);
    }
    ops.extend([Op::Peer(PeerOp::Go), us(3_000), Op::Pass(dealer.pause())]);
}

/// Behind a head that has no answer each of hundreds of messages takes the place of the one before, or
/// is cancelled: what that leaves behind must not pile up.
fn flood(dealer: &mut Dealer, ops: &mut Vec<Op>) {
    calm(dealer, ops);
    let stuck = dealer.pick(&[Op::Peer(PeerOp::NoPongs), Op::Link(LinkOp::Stall)]);
    ops.push(stuck);
    ops.push(one(dealer, None, None));
    ops.push(us(1_500));
    let lives = dealer.chance(2).then(|| dealer.log(1_000_000, 100_000_000));
    let ttl = lives.map(Micros);
    if dealer.chance(3) {
        for _ in 0..100 {
            ops.push(one(dealer, None, lives));
            // Also where the settings evict, a few of these are its own.
            ops.push(Op::Client(ClientOp::Cancel(dealer.pushed)));
        }
    } else {
        for _ in 0..dealer.rng.random_range(1..4) {
            let count = dealer.rng.random_range(50..=200);
            dealer.pushed += u64::from(count);
            ops.push(Op::Push(Push { count, bytes: 0, level: None, ttl, key: Some('a') }));
            ops.push(us(dealer.rng.random_range(0..500)));
        }
    }
    ops.push(if dealer.chance(2) { Op::Link(LinkOp::Heal) } else { Op::Link(LinkOp::Cut) });
}

/// Things happen while the outbox drains.
fn drain(dealer: &mut Dealer, ops: &mut Vec<Op>) {
    calm(dealer, ops);
    ops.push(Op::Peer(PeerOp::Hold));
    ops.push(one(dealer, Some(Level::Acked), None));
    ops.push(one(dealer, None, None));
    let deadline = dealer.log(5_000, 5_000 + dealer.settings.nack_delay.0 * 8);
    ops.extend([us(1_500), Op::Client(ClientOp::Close(Micros(deadline)))]);
    let happens = [Op::Client(ClientOp::Stop), Op::Link(LinkOp::Cut), Op::Client(ClientOp::Pause)];
    match dealer.rng.random_range(0..3) {
        0 => some(dealer, ops, &happens, 1_500),
        1 => ops.extend([refusal(Nack::Transient), Op::Peer(PeerOp::Go), us(1_500)]),
        _ => ops.extend([Op::Peer(PeerOp::Deny(DenyOp::Transient)), us(1_500)]),
    }
    ops.push(Op::Pass(dealer.pause()));
    ops.extend([Op::Peer(PeerOp::Go), Op::Client(ClientOp::Resume), us(2_000)]);
    ops.push(Op::Client(ClientOp::Retire));
}

/// The head is refused when it goes alone.
fn probing(dealer: &mut Dealer, ops: &mut Vec<Op>) {
    calm(dealer, ops);
    ops.push(one(dealer, Some(Level::Acked), None));
    ops.push(us(dealer.rng.random_range(0..900)));
    ops.push(refusal(dealer.pick(&[Nack::Transient, Nack::Permanent, Nack::Permanent])));
    ops.extend([Op::Link(LinkOp::Cut), Op::Client(ClientOp::Nudge), us(4_000)]);
    if dealer.chance(3) {
        ops.extend([Op::Client(ClientOp::Pause), us(50), Op::Client(ClientOp::Resume)]);
    }
    ops.push(us(3_000));
}

/// From the first moment the peer talks and never pongs.
pub(crate) fn deaf(settings: &Settings, ops: &mut Vec<Op>) {
    let silence = Duration::from(settings.ping_interval) + settings.pong_limit.into();
    let apart = u64::try_from(silence.as_micros()).unwrap_or(u64::MAX) / 5 * 3;
    ops.extend([Op::Peer(PeerOp::NoPongs), Op::Client(ClientOp::Start), us(5_000)]);
    for _ in 0..12 {
        ops.extend([Op::Peer(PeerOp::Say), us(apart)]);
    }
    ops.push(Op::Peer(PeerOp::Behave));
}

/// The first greeting of all is refused.
pub(crate) fn refused_at_first(dealer: &mut Dealer, ops: &mut Vec<Op>) {
    ops.extend([Op::Peer(PeerOp::Hold), Op::Client(ClientOp::Start), us(1_500)]);
    for _ in 0..dealer.rng.random_range(1..3) {
        let refusal = any_refusal(dealer);
        ops.extend([refusal, us(1_500), Op::Client(ClientOp::Nudge), us(1_500)]);
    }
    ops.push(Op::Peer(PeerOp::Go));
}
