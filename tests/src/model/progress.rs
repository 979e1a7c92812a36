//! Runs in which nothing goes wrong any more, and a message is never settled all the same.
//!
//! stateright's `eventually` gives up on cycles, so this is a search of its own. It walks through
//! all states that a scope can reach, faults included, and keeps of the steps between them those
//! that happen by themselves where nothing is at fault ([`World::healthy`]). What has an outcome
//! keeps it, so along a cycle of such steps no outcome is found: each state on one, and each state
//! without a step, must have nothing left to settle.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use petgraph::{algo::tarjan_scc, csr::Csr};

use super::{Action, Scope, World};

/// What a search has seen.
#[derive(Clone, Debug)]
pub struct Progress {
    /// States.
    pub states: usize,
    /// Steps between them where nothing is at fault.
    pub steps: usize,
    /// Components of states that lead to each other by such steps.
    pub cycles: usize,
    /// Whether all states were visited.
    pub complete: bool,
    /// The way into a state out of which a message is never settled.
    pub stuck: Option<Vec<Action>>,
}

/// The state that these actions lead to.
///
/// # Panics
/// One of them cannot be taken.
pub fn replay(scope: &Scope, actions: &[Action]) -> World {
    actions.iter().fold(World::new(scope), |world, &action| {
        world.next(scope, action).expect("the action can be taken")
    })
}

/// Visits the states of a scope, at most so many, and looks for one that no message gets out of.
pub fn search(scope: &Scope, at_most: usize) -> Progress {
    let mut graph = Graph { places: HashMap::new(), came_from: Vec::new(), done: Vec::new() };
    let mut steps: Vec<(u32, u32)> = Vec::new();
    let mut pending = Vec::new();
    let first = World::new(scope);
    pending.push((graph.place(&first, None).0, first));
    let mut complete = true;
    let (mut actions, mut healthy) = (Vec::new(), Vec::new());
    while let Some((place, world)) = pending.pop() {
        actions.clear();
        healthy.clear();
        world.actions(scope, &mut actions);
        world.healthy(scope, &mut healthy);
        for &action in &actions {
            let Some(next) = world.next(scope, action) else { continue };
            let (to, is_new) = graph.place(&next, Some((place, action)));
            if healthy.contains(&action) {
                steps.push((place, to));
            }
            if is_new && graph.came_from.len() < at_most {
                pending.push((to, next));
            } else if is_new {
                complete = false;
            }
        }
    }
    let found = steps.len();
    let (cycles, stuck) = stuck(&graph.done, steps, complete);
    Progress {
        states: graph.came_from.len(),
        steps: found,
        cycles,
        complete,
        stuck: stuck.map(|place| graph.path(place)),
    }
}

/// How many cycles there are, and a state that is on one or at an end, and not done.
fn stuck(done: &[bool], mut steps: Vec<(u32, u32)>, complete: bool) -> (usize, Option<u32>) {
    steps.sort_unstable();
    steps.dedup();
    let mut leads_on = vec![false; done.len()];
    let mut loops = Vec::new();
    for &(from, to) in &steps {
        leads_on[from as usize] = true;
        if from == to {
            loops.push(from);
        }
    }
    let places = || 0..u32::try_from(done.len()).unwrap_or(u32::MAX);
    // Where a search was cut short, a state without a step may be one that was not visited.
    let end = places().find(|&at| complete && !leads_on[at as usize] && !done[at as usize]);

    let last = places().last().unwrap_or(0);
    let mut graph: Csr<(), (), petgraph::Directed, u32> =
        Csr::from_sorted_edges(&steps).expect("they were sorted");
    drop(steps);
    while graph.node_count() <= last as usize {
        graph.add_node(());
    }
    let mut cycles = loops.len();
    let mut caught = loops.into_iter().find(|&at| !done[at as usize]);
    for component in tarjan_scc(&graph) {
        if component.len() > 1 {
            cycles += 1;
            caught = caught.or(component.into_iter().find(|&at| !done[at as usize]));
        }
    }
    (cycles, end.or(caught))
}

struct Graph {
    places: HashMap<u64, u32>,
    came_from: Vec<Option<(u32, Action)>>,
    done: Vec<bool>,
}

impl Graph {
    /// The number of a state, and whether it is new.
    fn place(&mut self, world: &World, from: Option<(u32, Action)>) -> (u32, bool) {
        let mut hasher = DefaultHasher::new();
        world.hash(&mut hasher);
        let next = u32::try_from(self.came_from.len()).expect("fewer states than a u32 counts");
        let place = *self.places.entry(hasher.finish()).or_insert(next);
        if place == next {
            self.came_from.push(from);
            self.done.push(world.is_done());
        }
        (place, place == next)
    }

    fn path(&self, place: u32) -> Vec<Action> {
        let mut path = Vec::new();
        let mut at = place;
        while let Some((from, action)) = self.came_from[at as usize] {
            path.push(action);
            at = from;
        }
        path.reverse();
        path
    }
}

/// What a client can come to in a scope: digests of [`World::known`].
pub fn clients(scope: &Scope) -> BTreeSet<u64> {
    fn digest(of: &impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        of.hash(&mut hasher);
        hasher.finish()
    }
    let first = World::new(scope);
    let mut seen = HashSet::from([digest(&first)]);
    let mut known = BTreeSet::from([digest(&first.known())]);
    let (mut pending, mut actions) = (vec![first], Vec::new());
    while let Some(world) = pending.pop() {
        actions.clear();
        world.actions(scope, &mut actions);
        for next in actions.iter().filter_map(|action| world.next(scope, *action)) {
            if seen.insert(digest(&next)) {
                known.insert(digest(&next.known()));
                pending.push(next);
            }
        }
    }
    known
}

/// Two ways into one state, by its hash, after which an action leads to two.
#[derive(Clone, Debug)]
pub struct Twins {
    /// The state, come to in one way and in another.
    pub states: Box<[World; 2]>,
    /// The action.
    pub action: Action,
}

/// Checks that states which count as one behave as one: each state that is come to a second time
/// is led on by every action, and must come to where the first one came.
///
/// # Errors
/// Two that do not.
pub fn twins(scope: &Scope, at_most: usize) -> Result<usize, Twins> {
    let digest = |world: &World| {
        let mut hasher = DefaultHasher::new();
        world.hash(&mut hasher);
        hasher.finish()
    };
    let first = World::new(scope);
    let mut seen = HashMap::from([(digest(&first), first.clone())]);
    let mut pending = vec![first];
    let mut compared = 0;
    while let Some(world) = pending.pop() {
        let mut actions = Vec::new();
        world.actions(scope, &mut actions);
        for &action in &actions {
            let Some(next) = world.next(scope, action) else { continue };
            let Some(twin) = seen.get(&digest(&next)) else {
                if seen.len() < at_most {
                    seen.insert(digest(&next), next.clone());
                    pending.push(next);
                }
                continue;
            };
            let mut choices = Vec::new();
            twin.actions(scope, &mut choices);
            for action in choices {
                compared += 1;
                let after = |world: &World| world.next(scope, action).map(|world| digest(&world));
                if after(twin) != after(&next) {
                    return Err(Twins { states: Box::new([twin.clone(), next]), action });
                }
            }
        }
    }
    Ok(compared)
}
