//! Model checking: every interleaving of a small world, run on the real client.
//!
//! A [`World`] is one `bowline_core::Client`, not a model of it, with a link and a peer that fail as
//! often as a [`Scope`] lets them. [`Scope`] is a [`Model`] for stateright, which walks through
//! everything that can happen in every order and looks at each state: the statements of
//! [`Statement`] must hold in all of them. Two states are the same if
//! [`Client::view`](bowline_core::Client::view) and the rest of the world are.
//!
//! To keep the states finite, time moves only to the client's next deadline, the random numbers are
//! constant, and every duration is one second or two, so that deadlines meet. What is never spent
//! is checked in each state instead of in some: that stale events, illegal acks, refused pushes and
//! spurious ticks change nothing, and that cancel and stop work. So any number of them is covered.
//!
//! [`progress`] is the other half: stateright finds states in which something bad has happened,
//! [`progress::search`] the runs in which something good never does.

pub mod progress;
mod world;

use bowline_core::Level;
use stateright::{Model, Property};
pub use world::{Action, Answer, Budget, World};

/// How the peer's application acknowledges.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Acks {
    /// The next one in order.
    #[default]
    Positional,
    /// Each by its name.
    Single,
    /// All up to a name.
    Cumulative,
}

/// How large the world is, and what may go wrong in it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Scope {
    /// How many messages are pushed; 1 to 16.
    pub messages: usize,
    /// How many may be in flight.
    pub window: usize,
    /// The levels of the messages, in turn.
    pub levels: Vec<Level>,
    /// How messages of level `Acked` are acknowledged.
    pub acks: Acks,
    /// Whether a greeting has to be answered before messages go.
    pub greets: bool,
    /// Whether each frame is written and flushed in a step of its own; else all that there is goes
    /// out at once.
    pub stepwise: bool,
    /// The client is told the time as soon as it passes; else it may hear of other things in the
    /// same moment before.
    pub prompt: bool,
    /// Leaves out what is asked of each state: whether stale events, illegal acks, refused pushes
    /// and spurious ticks change nothing, and cancel and stop work. Four times as fast.
    pub unasked: bool,
    /// The message that kills each connection on which it arrives.
    pub poison: Option<usize>,
    /// The poison message is tried for ever; else it fails once it is suspected. Then it is never
    /// settled, and a search for runs without progress must find that.
    pub waits: bool,
    /// The peer answers pings and forgets the messages in front of them, which breaks S3: the
    /// checker must find it.
    pub lies: bool,
    /// The window that the client is given, if not `window`; a larger one breaks R1: the checker
    /// must find it.
    pub window_of_client: Option<usize>,
    /// How often what may go wrong.
    pub budget: Budget,
}

impl Default for Scope {
    /// One message, one place in flight, and nothing goes wrong.
    fn default() -> Self {
        Self {
            messages: 1,
            window: 1,
            levels: vec![Level::Received],
            acks: Acks::default(),
            greets: false,
            stepwise: false,
            prompt: false,
            unasked: false,
            poison: None,
            waits: false,
            lies: false,
            window_of_client: None,
            budget: Budget::default(),
        }
    }
}

/// The statements of the invariants that are checked in each state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[expect(missing_docs, reason = "`sentence` says what each one states")]
pub enum Statement {
    S1,
    S2,
    S3,
    S4,
    S5,
    S6,
    S7,
    S8,
    S9,
    S10,
    S12,
    S13,
    S14,
    S15,
    X1,
    X4,
    X5,
    L3,
    L4,
    L5,
    L6,
    R1,
}

impl Statement {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::S1,
        Self::S2,
        Self::S3,
        Self::S4,
        Self::S5,
        Self::S6,
        Self::S7,
        Self::S8,
        Self::S9,
        Self::S10,
        Self::S12,
        Self::S13,
        Self::S14,
        Self::S15,
        Self::X1,
        Self::X4,
        Self::X5,
        Self::L3,
        Self::L4,
        Self::L5,
        Self::L6,
        Self::R1,
    ];

    /// What it states, with its number in front.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::S1 => "S1 accepted = queued + in flight + settled, bodies intact",
            Self::S2 => "S2 each accepted message settles once, and is not sent afterwards",
            Self::S3 => "S3 delivered implies that the peer had it",
            Self::S4 => "S4 first deliveries are in push order",
            Self::S5 => "S5 on one attempt messages go in order, the replay first",
            Self::S6 => "S6 nothing is transmitted twice on one attempt, except after a nack",
            Self::S7 => "S7 only what the peer refused is rejected",
            Self::S8 => "S8 what was handed over fails only as maybe delivered",
            Self::S9 => "S9 a push that fits is taken and has the next number",
            Self::S10 => "S10 nothing is sent unless the link is up and greeted",
            Self::S12 => "S12 orders name the newest attempt",
            Self::S13 => "S13 a stopped client does nothing and waits for nothing",
            Self::S14 => "S14 messages keep their names over a restore, new ones have fresh ones",
            Self::S15 => "S15 a cancelled queued message is never sent",
            Self::X1 => "X1 only nacks, withheld acks and accusations are charged",
            Self::X4 => "X4 only the poison message is suspected",
            Self::X5 => "X5 no failure of a message stops the connection",
            Self::L3 => "L3 not stopped implies a deadline",
            Self::L4 => "L4 a half-open peer is found in time",
            Self::L5 => "L5 stop and close end by their deadlines",
            Self::L6 => "L6 drained implies that the deadline is later than now",
            Self::R1 => "R1 messages, window and dead slots are within their limits",
        }
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// The statements whose bits are set.
    pub fn named(bits: u32) -> Vec<Self> {
        Self::ALL.into_iter().filter(|statement| bits & statement.bit() != 0).collect()
    }
}

/// Whether the statement with this place was kept on the way to a state.
fn kept<const PLACE: usize>(_: &Scope, world: &World) -> bool {
    world.broken() & Statement::ALL[PLACE].bit() == 0
}

impl Model for Scope {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(self, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        world.next(self, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        macro_rules! kept {
            ($($place:literal)*) => {
                vec![$(Property::always(Statement::ALL[$place].sentence(), kept::<$place>)),*]
            };
        }
        let mut properties = kept!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21);
        if self.unasked {
            return properties;
        }
        properties.extend([
            Property::always("S7 illegal acks change nothing", |_, world: &World| {
                world.illegal_acks_change_nothing()
            }),
            Property::always("S9 a refused push changes nothing", |_, world: &World| {
                world.a_refused_push_changes_nothing()
            }),
            Property::always("S11 stale events change nothing", |_, world: &World| {
                world.stale_events_change_nothing()
            }),
            Property::always("D5 spurious ticks change nothing", |_, world: &World| {
                world.a_spurious_tick_changes_nothing()
            }),
            Property::always("X5 cancel works in every state", |_, world: &World| {
                world.a_message_can_be_cancelled_in_every_state()
            }),
            Property::always("L5 stop works in every state", |_, world: &World| {
                world.a_stop_ends_it_in_every_state()
            }),
        ]);
        properties
    }
}
