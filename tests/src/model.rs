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
pub use world::{Action, Answer, Budget, Last, World};

use crate::statement::Statement;

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
    /// The peer takes frames no sooner than something depends on it: the client hears an answer, or
    /// the connection ends and what was not taken is lost. Everything that the client can come to is
    /// come to all the same, through fewer states: in between nobody can tell what the peer has taken.
    /// Only for a peer that answers each frame in one way: without nacks, rejects, mutes, accusations
    /// and poison.
    pub late: bool,
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
            late: false,
            unasked: false,
            poison: None,
            waits: false,
            lies: false,
            window_of_client: None,
            budget: Budget::default(),
        }
    }
}

/// What is checked in each state, and how far. The names of the properties.
const CHECKED: [(Statement, &str); 23] = [
    (Statement::S1, "S1 accepted = queued + in flight + settled, bodies intact"),
    (Statement::S2, "S2 each accepted message settles once, and is not sent afterwards"),
    (Statement::S3, "S3 delivered implies that the peer had it"),
    (Statement::S4, "S4 first deliveries are in push order"),
    (Statement::S5, "S5 on one attempt messages go in order, the replay first"),
    (Statement::S6, "S6 nothing is transmitted twice on one attempt, except after a nack"),
    (Statement::S7, "S7 only what the peer refused is rejected"),
    (Statement::S8, "S8 what was handed over fails only as maybe delivered"),
    (Statement::S9, "S9 a push that fits is taken and has the next number"),
    (Statement::S10, "S10 nothing is sent unless the link is up and greeted"),
    (Statement::S12, "S12 orders name the newest attempt"),
    (Statement::S13, "S13 a stopped client does nothing and waits for nothing"),
    (Statement::S14, "S14 messages keep their names over a restore, new ones have fresh ones"),
    (Statement::S15, "S15 a cancelled queued message is never sent"),
    (Statement::X1, "X1 only nacks, withheld acks and accusations are charged"),
    (Statement::X4, "X4 only the poison message is suspected"),
    (Statement::X5, "X5 no failure of a message stops the connection"),
    (Statement::L3, "L3 not stopped implies a deadline"),
    (Statement::L4, "L4 a half-open peer is found in time"),
    (Statement::L5, "L5 stop and close end by their deadlines"),
    (Statement::L6, "L6 drained implies that the deadline is later than now"),
    (Statement::L7, "L7 whoever waits for a sign of life has asked for it"),
    (Statement::R1, "R1 messages, window and dead slots are within their limits"),
];

const fn bit(statement: Statement) -> u64 {
    1 << statement as u32
}

/// The statements whose bits are set.
fn named(bits: u64) -> Vec<Statement> {
    Statement::ALL.into_iter().filter(|statement| bits & bit(*statement) != 0).collect()
}

/// Whether the statement with this place was kept on the way to a state.
fn kept<const PLACE: usize>(_: &Scope, world: &World) -> bool {
    world.broken() & bit(CHECKED[PLACE].0) == 0
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
                vec![$(Property::always(CHECKED[$place].1, kept::<$place>)),*]
            };
        }
        let mut properties = kept!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22);
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
