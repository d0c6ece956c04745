//! Inputs that are in an engine's BuildKit, and the memory of those that were there when the engine crashed.
//!
//! A build that crashes the engine ends the builds of all jobs, and its retry does so again. wharfd cannot
//! know which part of a build crashed the engine, so it remembers the build's input and refuses it to the
//! same version of the engine: after one crash if no other build can have caused the crash, otherwise after
//! the second for which it alone is the likely cause.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::timeout};

use super::Images;
use crate::{
    fault::{Fault, Reason, causes},
    names::CallerId,
    naming::InputKey,
    store::{Access, Blame, Suspect},
    telemetry::each_second,
};

/// An input that crashes an engine does so soon after BuildKit has it: a Dockerfile when it is read, a graph when it
/// begins to run.
const YOUNG: Duration = Duration::from_secs(30);
/// How long a suspect waits at most until no other suspect is young, so that the next crash has one cause. Short,
/// since a hostile job can make any number of suspects.
const TURN: Duration = Duration::from_secs(60);
/// How long a build that lost its connection to BuildKit counts as being there: the engine's end may be noticed
/// after the build's.
const LEFT: Duration = Duration::from_secs(60);
/// From this weight on an input is refused.
const REFUSED: u32 = 2;

/// The inputs that are in an engine's BuildKit.
#[derive(Debug, Default)]
pub(super) struct Inside {
    state: Mutex<State>,
    /// An input has left.
    left: Notify,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    entries: BTreeMap<u64, Entry>,
}

/// An input in BuildKit.
#[derive(Clone, Debug)]
struct Entry {
    input: InputKey,
    caller: CallerId,
    /// When BuildKit got it, or the graph that came of it.
    handed: Instant,
    is_suspect: bool,
    /// When its build ended without an answer of BuildKit.
    left: Option<Instant>,
}

impl Inside {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters the input, unless it is a suspect and another one is young.
    fn enter(&self, entry: &Entry) -> Option<u64> {
        let mut state = self.state();
        state.entries.retain(|_, other| other.left.is_none_or(|left| left.elapsed() < LEFT));
        let is_young = |other: &Entry| other.left.is_none() && other.handed.elapsed() < YOUNG;
        if entry.is_suspect && state.entries.values().any(|other| other.is_suspect && is_young(other)) {
            return None;
        }
        Some(state.add(entry))
    }

    /// Enters a suspect in its turn, or when it has waited long enough.
    async fn enter_in_turn(&self, entry: &Entry, patience: Duration) -> u64 {
        let turn = async {
            loop {
                let left = self.left.notified();
                if let Some(id) = self.enter(entry) {
                    return id;
                }
                // The other suspect grows old without a notice.
                let _ = timeout(Duration::from_secs(1), left).await;
            }
        };
        match timeout(patience, turn).await {
            Ok(id) => id,
            Err(_) => self.state().add(&Entry { handed: Instant::now(), ..entry.clone() }),
        }
    }
}

impl State {
    fn add(&mut self, entry: &Entry) -> u64 {
        self.last += 1;
        self.entries.insert(self.last, Entry { handed: Instant::now(), ..entry.clone() });
        self.last
    }
}

/// An input in BuildKit. Dropping this means that BuildKit has not answered, which may be the engine's end.
pub(crate) struct Entered {
    images: Images,
    /// The store, for the input's caller.
    store: Access,
    id: u64,
    input: InputKey,
    is_suspect: bool,
}

impl Entered {
    /// BuildKit now gets the graph that came of the input.
    pub(crate) fn handed(&self) {
        if let Some(entry) = self.images.inner.inside.state().entries.get_mut(&self.id) {
            entry.handed = Instant::now();
        }
    }

    /// BuildKit is done with the input.
    pub(crate) fn leave(self) {
        self.images.inner.inside.state().entries.remove(&self.id);
    }

    /// BuildKit has made an image of it: it does not crash the engine.
    pub(crate) async fn made(self) {
        let (images, store) = (self.images.clone(), self.store.clone());
        let (input, is_suspect) = (self.input.clone(), self.is_suspect);
        self.leave();
        if is_suspect {
            let engine = images.engine();
            if let Err(fault) = store.acquit(engine.name(), engine.version(), &input).await {
                each_second!(
                    warn,
                    cause = causes(&fault),
                    "cannot clear a suspect although its build has succeeded"
                );
            }
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let inside = &self.images.inner.inside;
        if let Some(entry) = inside.state().entries.get_mut(&self.id) {
            entry.left = Some(Instant::now());
        }
        inside.left.notify_waiters();
    }
}

impl Images {
    /// Lets an input into BuildKit; `caller` brings it. Fails if the input is refused. A suspect may
    /// have to wait a while.
    pub(crate) async fn enter(&self, caller: &CallerId, input: InputKey) -> Result<Entered, Fault> {
        let engine = self.engine();
        let store = self.store().of(caller);
        let suspect = store.suspect(engine.name(), engine.version(), &input).await?;
        if let Some(suspect) = suspect.filter(|suspect| suspect.weight >= REFUSED) {
            return Err(refused(suspect));
        }
        let is_suspect = suspect.is_some();
        let caller = caller.clone();
        let entry = Entry { input: input.clone(), caller, handed: Instant::now(), is_suspect, left: None };
        let id = self.inner.inside.enter_in_turn(&entry, TURN).await;
        let entered = Entered { images: self.clone(), store, id, input, is_suspect };
        match engine.ensure_there() {
            Ok(()) => Ok(entered),
            // It is in no engine.
            Err(fault) => {
                entered.leave();
                Err(fault)
            }
        }
    }

    /// Remembers the inputs that were in the engine when it ended, if it crashed. Called before the engine is
    /// used again.
    pub(crate) async fn remember_crash(&self) {
        let engine = self.engine();
        let entries = std::mem::take(&mut self.inner.inside.state().entries);
        let Some(crashed) = engine.crashed() else { return };
        let inside: Vec<Entry> = entries.into_values().filter(|entry| entry.was_there(crashed)).collect();
        if inside.is_empty() {
            return;
        }
        let blames = blames(&inside, crashed);
        each_second!(
            warn,
            engine = %engine.name(),
            builds = inside.len(),
            suspects = blames.len(),
            refused = blames.iter().any(|blame| blame.weight >= REFUSED),
            "the engine crashed during builds"
        );
        if let Err(fault) = self.store().own().blame(engine.name(), engine.version(), blames).await {
            each_second!(
                warn,
                cause = causes(&fault),
                "wharfd cannot remember the builds that were in a crash"
            );
        }
    }
}

impl Entry {
    /// Whether it may have been in the engine then.
    fn was_there(&self, crashed: Instant) -> bool {
        self.left.is_none_or(|left| crashed.saturating_duration_since(left) < LEFT)
    }

    fn was_young(&self, crashed: Instant) -> bool {
        crashed.saturating_duration_since(self.handed) < YOUNG
    }
}

/// The inputs that may have caused a crash: the young ones, or all if none is young. Only a single input gets
/// weight. It is enough for a refusal only where nobody else's build was there: others can crash an engine at
/// a moment of their choice.
fn blames(inside: &[Entry], crashed: Instant) -> Vec<Blame> {
    let has_young = inside.iter().any(|entry| entry.was_young(crashed));
    let mut likely: Vec<&Entry> =
        inside.iter().filter(|entry| !has_young || entry.was_young(crashed)).collect();
    likely.sort_by(|a, b| a.input.cmp(&b.input));
    likely.dedup_by(|a, b| a.input == b.input);
    let callers_own = |entry: &Entry| inside.iter().all(|other| other.caller == entry.caller);
    let weight = match likely.as_slice() {
        [alone] if has_young && callers_own(alone) => REFUSED,
        [_] => 1,
        _ => 0,
    };
    likely.into_iter().map(|entry| Blame { input: entry.input.clone(), weight }).collect()
}

fn refused(suspect: Suspect) -> Fault {
    let times = match suspect.crashes {
        0 | 1 => "once".to_owned(),
        2 => "twice".to_owned(),
        crashes => format!("{crashes} times"),
    };
    let text = format!(
        "this build has stopped the engine {times}, and the engine does not get the same build again"
    );
    Fault::new(Reason::BuildStopsEngine, text).hint(
        "change its Dockerfile, its build arguments or its base images; the refusal as such ends when the node's \
         operator installs another version of the engine",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(input: &str, uid: u32, age: u64, now: Instant) -> Entry {
        let handed = now.checked_sub(Duration::from_secs(age)).unwrap();
        Entry { input: input.into(), caller: CallerId::Uid(uid), handed, is_suspect: false, left: None }
    }

    /// The weight of each input after a crash with these inputs: name, uid and age in seconds.
    fn weights(inside: &[(&str, u32, u64)]) -> Vec<(String, u32)> {
        let now = Instant::now();
        let inside: Vec<Entry> =
            inside.iter().map(|(input, uid, age)| entry(input, *uid, *age, now)).collect();
        blames(&inside, now).into_iter().map(|blame| (blame.input.to_string(), blame.weight)).collect()
    }

    #[track_caller]
    fn blamed(inside: &[(&str, u32, u64)], wanted: &[(&str, u32)]) {
        let wanted: Vec<(String, u32)> =
            wanted.iter().map(|(input, weight)| ((*input).to_owned(), *weight)).collect();
        assert_eq!(weights(inside), wanted, "{inside:?}");
    }

    #[test]
    fn only_one_that_is_alone_has_weight() {
        blamed(&[("a", 1, 2)], &[("a", REFUSED)]);
        // It may have been a neighbour of the engine's, or somebody with a signal.
        blamed(&[("a", 1, 600)], &[("a", 1)]);
        blamed(&[("a", 1, 2), ("b", 1, 2)], &[("a", 0), ("b", 0)]);
        blamed(&[("a", 1, 600), ("b", 1, 600)], &[("a", 0), ("b", 0)]);
        // The same build twice.
        blamed(&[("a", 1, 2), ("a", 1, 3)], &[("a", REFUSED)]);
        blamed(&[("a", 1, 600), ("b", 1, 2)], &[("b", REFUSED)]);
        // The other caller may have chosen the moment.
        blamed(&[("a", 1, 600), ("b", 2, 2)], &[("b", 1)]);
    }

    #[test]
    fn one_that_left_long_before_was_not_there() {
        let now = Instant::now();
        let left = |age| Entry { left: now.checked_sub(Duration::from_secs(age)), ..entry("a", 1, 100, now) };
        assert!(left(1).was_there(now) && !left(61).was_there(now));
        assert!(entry("a", 1, 100, now).was_there(now));
    }

    #[tokio::test]
    async fn suspects_take_turns() {
        let inside = Inside::default();
        let now = Instant::now();
        let suspect = |input: &str| Entry { is_suspect: true, ..entry(input, 1, 0, now) };
        let first = inside.enter(&suspect("a")).unwrap();
        assert!(inside.enter(&suspect("b")).is_none());
        // Others do not wait.
        assert!(inside.enter(&entry("c", 1, 0, now)).is_some());
        let second = suspect("b");
        let entered = tokio::join!(inside.enter_in_turn(&second, TURN), async {
            inside.state().entries.remove(&first);
            inside.left.notify_waiters();
        });
        assert!(inside.state().entries.contains_key(&entered.0));
        // The wait has an end.
        let last = inside.enter_in_turn(&suspect("d"), Duration::from_millis(10)).await;
        assert!(inside.state().entries.contains_key(&last));
    }

    #[test]
    fn the_refusal_is_plain() {
        let text = |crashes| refused(Suspect { crashes, weight: 2 }).text().to_owned();
        assert!(text(1).starts_with("this build has stopped the engine once, and "), "{}", text(1));
        assert!(text(2).contains(" twice, and ") && text(3).contains(" 3 times, and "));
    }
}
