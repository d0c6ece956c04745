//! Transfers that wait for other transfers. An engine limits its downloads and its uploads of layers over all
//! images (`max-concurrent-downloads`, `max-concurrent-uploads`), and fetches a layer once for all images that have it.
//! A registry that moves very slowly could keep a place or a layer for as long as it likes, and so could many registries
//! that are a little faster.
//!
//! - A transfer that is slow ends while another waits for it.
//! - A pull gives way to a pull of another caller, the sooner the slower it is: the longer the other has waited, the more
//!   is demanded. Then the pull begins again, in the engine's line behind the other. Each time it gets twice as long, so
//!   that it finishes at last.
//! - If one of a caller's pulls has begun, those that have not begun give way to a caller without one that has.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use tokio::time::{MissedTickBehavior, interval};

use super::{
    super::{
        error::{Error, Kind},
        meter::{FASTER_BYTES, LOOK, Reading},
    },
    Relay, Shared, Work,
    pull::Pull,
};
use crate::names::CallerId;

/// A transfer at one look.
#[derive(Clone, Copy)]
struct Seen {
    reading: Reading,
    /// How many requests the engine has sent.
    requests: u64,
    /// How many looks in a row have found it waiting for others.
    stuck: u32,
}

/// The looks of a minute.
const MINUTE: u32 = 6;

type Transfers = [(String, Arc<Shared>)];

impl Relay {
    /// Breaks off transfers while other transfers wait for them.
    pub(super) async fn feed_the_starving(self) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = HashMap::new();
        loop {
            ticks.tick().await;
            let transfers: Vec<_> = self
                .transfers()
                .iter()
                .filter(|(_, shared)| !shared.failure.is_over())
                .map(|(id, shared)| (id.clone(), Arc::clone(shared)))
                .collect();
            let (pushes, pulls): (Vec<_>, Vec<_>) =
                transfers.into_iter().partition(|(_, shared)| matches!(shared.work, Work::Push(_)));
            let now = Seen::all(&pulls, &seen).chain(Seen::all(&pushes, &seen)).collect();
            look(&pulls, &seen, &now, "it sends less than 100 kB a second, while other pulls wait");
            look(&pushes, &seen, &now, "it takes less than 100 kB a second, while other pushes wait");
            seen = now;
        }
    }
}

/// Ends slow transfers for which others wait, and lets pulls give way. `before` is the last look.
fn look(
    transfers: &Transfers,
    before: &HashMap<String, Seen>,
    now: &HashMap<String, Seen>,
    why: &'static str,
) {
    let stuck: Vec<_> = transfers
        .iter()
        .filter_map(|(id, shared)| Some((id, shared, now.get(id)?.stuck)).filter(|(_, _, stuck)| *stuck > 0))
        .collect();
    let begun: HashSet<_> = transfers.iter().filter_map(|(_, shared)| shared.begun()).collect();
    // Two pulls must not wait for each other outside the engine: in one look, a pull to which another gives way does not
    // itself give way.
    let (mut given, mut favoured) = (HashSet::new(), HashSet::new());
    for (id, shared) in transfers {
        let (Some(then), Some(seen)) = (before.get(id), now.get(id)) else { continue };
        let mut waiting = stuck.iter().filter(|(other, waits, _)| *other != id && waits.waits_for(shared));
        if seen.reading.is_slow_since(&then.reading) {
            if waiting.next().is_some() {
                shared.failure.end(Error::new(Kind::Unavailable, why));
            }
            continue;
        }
        let Work::Pull(pull) = &shared.work else { continue };
        let mut waiting: Vec<_> = waiting.collect();
        waiting.sort_by_key(|(.., since)| std::cmp::Reverse(*since));
        for (other, waits, since) in waiting {
            let Work::Pull(waits) = &waits.work else { continue };
            let is_anothers = pull.puller.caller() != waits.puller.caller();
            if !is_anothers || given.contains(other) || favoured.contains(id) {
                continue;
            }
            let has_begun = !pull.waits_for_the_engine();
            let gives_way = if has_begun {
                seen.reading.is_slower_since(&then.reading, demanded(*since, pull.puller.times()))
            } else {
                let is_second = begun.contains(pull.puller.caller());
                is_second && !begun.contains(waits.puller.caller()) && seen.stuck >= *since
            };
            if gives_way {
                give_way(shared, pull, waits, has_begun);
                favoured.insert(*other);
                given.insert(id);
                // To one at a time: a caller may have many that wait.
                break;
            }
        }
    }
}

/// How much a pull has to send in a [`LOOK`] while another caller's pull has waited for it for `looks` looks:
/// more with each minute. `times` is how often this pull has already given way.
fn demanded(looks: u32, times: u32) -> u64 {
    match looks.checked_shr(times) {
        None | Some(0) => 0,
        Some(looks) => u64::from(1 + looks / MINUTE) * FASTER_BYTES,
    }
}

fn give_way(shared: &Shared, pull: &Pull, waits: &Pull, has_begun: bool) {
    pull.puller.give_way(&waits.puller, has_begun);
    shared.failure.end(Error::new(Kind::Unavailable, "it has given way to another pull"));
}

impl Seen {
    fn all(transfers: &Transfers, before: &HashMap<String, Self>) -> impl Iterator<Item = (String, Self)> {
        transfers.iter().map(|(id, shared)| {
            let (reading, requests) = match &shared.work {
                Work::Pull(pull) => (pull.repository.meter().read(), 0),
                Work::Push(push) => (push.meter.read(), push.requests()),
            };
            let is_stuck = |before: &&Self| {
                shared.waits_for_the_engine(before.requests)
                    || transfers.iter().any(|(_, other)| shared.waits_for_layers_of(other))
            };
            let stuck = before.get(id).filter(is_stuck).map_or(0, |before| before.stuck.saturating_add(1));
            (id.clone(), Self { reading, requests, stuck })
        })
    }
}

impl Shared {
    /// Whether this transfer, which is stuck, may continue if `other` ends.
    fn waits_for(&self, other: &Self) -> bool {
        match &self.work {
            Work::Pull(pull) => pull.waits_for_the_engine() || self.waits_for_layers_of(other),
            Work::Push(_) => true,
        }
    }

    /// Whether the engine fetches a layer of this pull by another one, and has nothing else to fetch for this.
    fn waits_for_layers_of(&self, other: &Self) -> bool {
        match (&self.work, &other.work) {
            (Work::Pull(pull), Work::Pull(other)) => {
                self.has_come.load(Ordering::Relaxed) && pull.waits_for(&other.passing())
            }
            _ => false,
        }
    }

    /// Whether the engine has a place neither for this transfer's layers nor, in a push, for its next one;
    /// `requests` is how many the engine had sent at the last look.
    fn waits_for_the_engine(&self, requests: u64) -> bool {
        match &self.work {
            Work::Pull(pull) => self.has_come.load(Ordering::Relaxed) && pull.waits_for_the_engine(),
            // The classic store gives a place before it sends the first request.
            Work::Push(push) => !push.is_asked() && push.requests() == requests,
        }
    }

    /// The caller of a pull that has begun.
    fn begun(&self) -> Option<&CallerId> {
        match &self.work {
            Work::Pull(pull) if !pull.waits_for_the_engine() => Some(pull.puller.caller()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_given_way_has_twice_as_long() {
        assert_eq!([0, 1, 5, 6, 12].map(|looks| demanded(looks, 0) >> 20), [0, 10, 10, 20, 30]);
        assert_eq!([1, 2, 11, 12, 24].map(|looks| demanded(looks, 1) >> 20), [0, 10, 10, 20, 30]);
        assert_eq!([demanded(u32::MAX, 31) >> 20, demanded(u32::MAX, 32)], [10, 0]);
    }
}
