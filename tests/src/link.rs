//! A faulty link, byte by byte, under a virtual clock.
//!
//! A [`Pipe`] is one direction of a TCP connection that carries frames. What is written waits in the
//! sender's own buffer until the socket takes it; what the socket has taken leaves it as fast as the
//! bandwidth allows; what has left arrives after the delay, in chunks; and a frame is there when its
//! last byte is. What the network does to it is [`Weather`], and may change at any time.

use std::collections::VecDeque;

/// Bytes that travel together on a link with a bandwidth.
const PACKET: u64 = 1_500;

/// Bytes that a WebSocket frame from a client has in front of its payload (RFC 6455 §5.2): mask and
/// length.
pub fn header(payload: usize, masked: bool) -> u64 {
    let length = match payload {
        0..=125 => 2,
        126..=65_535 => 4,
        _ => 10,
    };
    length + if masked { 4 } else { 0 }
}

/// What the network does to one direction. Times are in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Weather {
    /// How long a byte travels.
    pub delay: u64,
    /// Bytes a second; 0 is no limit.
    pub bandwidth: u64,
    /// Bytes that arrive together at most; 0 is no limit.
    pub chunk: u64,
    /// Bytes that the sender's socket holds.
    pub buffer: u64,
    /// No byte leaves the socket.
    pub stalled: bool,
    /// What leaves the socket is lost.
    pub silent: bool,
}

impl Default for Weather {
    /// A millisecond, and no trouble.
    fn default() -> Self {
        Self {
            delay: 1_000,
            bandwidth: 0,
            chunk: 0,
            buffer: 64 << 10,
            stalled: false,
            silent: false,
        }
    }
}

/// What happens when so many bytes have arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trap {
    /// The connection is reset.
    Reset,
    /// What comes behind is lost.
    Hole,
    /// The stream ends, and nobody has said Close.
    Eof,
}

/// What arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// So many bytes; perhaps they make frames whole.
    Bytes(u64),
    /// A reset, behind all that came before it.
    Reset,
    /// The end of the stream, behind all that came before it.
    Eof,
}

/// One direction of a connection. Positions are bytes since its beginning, times microseconds.
///
/// ```
/// use bowline_testkit::link::{Arrival, Pipe, Trap, Weather};
///
/// let weather = Weather { delay: 1_000, chunk: 4, ..Weather::default() };
/// let mut pipe = Pipe::default();
/// pipe.trap(8, Trap::Reset);
/// pipe.write(5, "hello");
/// pipe.write(5, "world");
/// assert_eq!(pipe.take(&weather), 10);
/// pipe.depart(0, &weather);
/// assert_eq!(pipe.next_at(&weather), 1_001);
/// assert_eq!((pipe.arrive(1_001), pipe.read()), (Some(Arrival::Bytes(4)), None));
/// assert_eq!((pipe.arrive(1_002), pipe.read()), (Some(Arrival::Bytes(4)), Some("hello")));
/// assert_eq!((pipe.arrive(1_002), pipe.read()), (Some(Arrival::Reset), None));
/// ```
#[derive(Clone, Debug)]
pub struct Pipe<F> {
    /// Each with the position of its end.
    frames: VecDeque<(u64, F)>,
    written: u64,
    taken: u64,
    left: u64,
    arrived: u64,
    /// The end of the last frame that was read.
    read: u64,
    /// Under way: when they arrive, and up to where.
    flights: VecDeque<(u64, u64)>,
    /// When the socket has sent what it is sending.
    free_at: u64,
    trap: Option<(u64, Trap)>,
    /// A trap that awaits the next frame: how far from the end of that.
    next_trap: Option<(i8, Trap)>,
    /// Bytes were lost, so nothing behind them will ever be read.
    broken: bool,
}

impl<F> Default for Pipe<F> {
    fn default() -> Self {
        Self {
            frames: VecDeque::new(),
            written: 0,
            taken: 0,
            left: 0,
            arrived: 0,
            read: 0,
            flights: VecDeque::new(),
            free_at: 0,
            trap: None,
            next_trap: None,
            broken: false,
        }
    }
}

impl<F> Pipe<F> {
    /// Writes a frame of so many bytes.
    pub fn write(&mut self, bytes: u64, frame: F) {
        self.written += bytes;
        self.frames.push_back((self.written, frame));
        if let Some((bytes, trap)) = self.next_trap.take() {
            self.trap_at_frame_end(bytes, trap);
        }
    }

    /// Bytes that the socket has not taken.
    pub fn unwritten(&self) -> u64 {
        self.written - self.taken
    }

    /// The socket takes what it has room for; says how much.
    pub fn take(&mut self, weather: &Weather) -> u64 {
        let room = weather.buffer.saturating_sub(self.taken - self.left);
        let taken = room.min(self.unwritten());
        self.taken += taken;
        taken
    }

    /// Bytes leave the socket.
    pub fn depart(&mut self, now: u64, weather: &Weather) {
        if weather.stalled {
            return;
        }
        while self.left < self.taken {
            let chunk = if weather.chunk == 0 { u64::MAX } else { weather.chunk };
            let bytes = chunk.min(self.taken - self.left);
            let (bytes, takes) = match weather.bandwidth {
                // Chunks arrive one after the other.
                0 => (bytes, u64::from(weather.chunk != 0)),
                bandwidth => {
                    let bytes = bytes.min(PACKET);
                    (bytes, (bytes * 1_000_000 / bandwidth).max(1))
                }
            };
            if weather.bandwidth != 0 && self.free_at > now {
                return;
            }
            let sent_at = self.free_at.max(now) + takes;
            self.free_at = sent_at;
            self.left += bytes;
            self.broken |= weather.silent;
            if self.broken {
                continue;
            }
            let before = self.flights.back().map_or(0, |(at, _)| *at);
            self.flights.push_back((sent_at.saturating_add(weather.delay).max(before), self.left));
        }
    }

    /// When something happens next, if nothing is written.
    pub fn next_at(&self, weather: &Weather) -> u64 {
        let arrives = self.flights.front().map_or(u64::MAX, |(at, _)| *at);
        let departs = self.left < self.taken && !weather.stalled;
        arrives.min(if departs { self.free_at } else { u64::MAX })
    }

    /// What has arrived by now and was not looked at.
    pub fn arrive(&mut self, now: u64) -> Option<Arrival> {
        let (at, upto) = *self.flights.front()?;
        if at > now {
            return None;
        }
        if let Some((end, trap)) = self.trap.filter(|(end, _)| *end <= upto) {
            if self.arrived < end {
                let bytes = end - self.arrived;
                self.arrived = end;
                return Some(Arrival::Bytes(bytes));
            }
            self.trap = None;
            self.flights.clear();
            self.broken = true;
            return match trap {
                Trap::Reset => Some(Arrival::Reset),
                Trap::Hole => None,
                Trap::Eof => Some(Arrival::Eof),
            };
        }
        self.flights.pop_front();
        let bytes = upto - self.arrived;
        self.arrived = upto;
        Some(Arrival::Bytes(bytes))
    }

    /// The next frame that is whole.
    pub fn read(&mut self) -> Option<F> {
        let (end, _) = self.frames.front()?;
        if *end > self.arrived {
            return None;
        }
        let (end, frame) = self.frames.pop_front()?;
        self.read = end;
        Some(frame)
    }

    /// Frames that were written and not read.
    pub fn frames(&self) -> impl Iterator<Item = &F> {
        self.frames.iter().map(|(_, frame)| frame)
    }

    /// Whether a part of a frame has arrived.
    pub fn is_in_a_frame(&self) -> bool {
        self.arrived > self.read
    }

    /// Sets a trap so many bytes behind what has arrived.
    pub fn trap(&mut self, bytes: u64, trap: Trap) {
        self.trap = Some((self.arrived.saturating_add(bytes), trap));
    }

    /// Sets a trap so many bytes from the end of the next frame, which may be yet to come.
    pub fn trap_at_frame_end(&mut self, bytes: i8, trap: Trap) {
        match self.frames.front() {
            Some((end, _)) => {
                let at = end.saturating_add_signed(bytes.into()).max(self.arrived);
                self.trap = Some((at, trap));
            }
            None => self.next_trap = Some((bytes, trap)),
        }
    }

    /// Whether everything that is written arrives if the weather is fair: no byte was lost, and none
    /// is going to be.
    pub fn is_whole(&self) -> bool {
        !self.broken && self.trap.is_none() && self.next_trap.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends frames of ten bytes, byte by byte; says which came, and what came of the trap.
    fn arrivals(pipe: &mut Pipe<u64>) -> (Vec<u64>, Option<Arrival>) {
        let weather = Weather { chunk: 1, ..Weather::default() };
        (1..=3).for_each(|frame| pipe.write(10, frame));
        pipe.take(&weather);
        pipe.depart(0, &weather);
        let mut frames = Vec::new();
        while let Some(arrival) = pipe.arrive(u64::MAX) {
            if !matches!(arrival, Arrival::Bytes(_)) {
                return (frames, Some(arrival));
            }
            frames.extend(core::iter::from_fn(|| pipe.read()));
        }
        (frames, None)
    }

    #[test]
    fn a_trap_is_as_far_from_the_end_of_the_next_frame_as_was_said() {
        for (bytes, whole) in [(-1, 0), (0, 1), (9, 1), (10, 2)] {
            for (trap, end) in [
                (Trap::Eof, Some(Arrival::Eof)),
                (Trap::Reset, Some(Arrival::Reset)),
                (Trap::Hole, None),
            ] {
                let mut pipe = Pipe::default();
                pipe.trap_at_frame_end(bytes, trap);
                assert!(!pipe.is_whole());
                assert_eq!(arrivals(&mut pipe), ((1..=whole).collect(), end), "{bytes} {trap:?}");
                assert!(!pipe.is_whole());
            }
        }
    }

    #[test]
    fn the_next_frame_may_be_on_its_way_already() {
        let mut pipe = Pipe::default();
        pipe.write(10, 0);
        pipe.trap_at_frame_end(1, Trap::Eof);
        assert_eq!(arrivals(&mut pipe), (vec![0], Some(Arrival::Eof)));
    }
}
