//! Transfers that wait for other transfers. An engine limits its downloads and its uploads of layers over all
//! images (`max-concurrent-downloads`, `max-concurrent-uploads`), and a registry that moves very slowly could
//! keep a place for as long as it likes.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use tokio::time::{MissedTickBehavior, interval};

use super::{
    super::{
        error::{Error, Kind},
        meter::{LOOK, Reading},
    },
    Relay, Shared, Work,
};

/// A transfer at one look.
#[derive(Clone, Copy)]
struct Seen {
    reading: Reading,
    /// How many requests the engine has sent.
    requests: u64,
}

impl Relay {
    /// Breaks off transfers with slow registries while other transfers wait for the engine to begin.
    pub(super) async fn feed_the_starving(self) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = HashMap::new();
        loop {
            ticks.tick().await;
            let transfers: Vec<_> =
                self.transfers().iter().map(|(id, shared)| (id.clone(), Arc::clone(shared))).collect();
            let now = transfers.iter().map(|(id, shared)| (id.clone(), Seen::now(shared))).collect();
            let (pushes, pulls): (Vec<_>, Vec<_>) =
                transfers.into_iter().partition(|(_, shared)| matches!(shared.work, Work::Push(_)));
            look(&pulls, &seen, &now, "it sends less than 100 kB a second, while other pulls wait");
            look(&pushes, &seen, &now, "it takes less than 100 kB a second, while other pushes wait");
            seen = now;
        }
    }
}

/// Ends slow transfers if another one starves, and those from which another one waits for a layer. `before` is
/// the last look.
fn look(
    transfers: &[(String, Arc<Shared>)],
    before: &HashMap<String, Seen>,
    now: &HashMap<String, Seen>,
    why: &'static str,
) {
    let (mut slow, mut starves) = (Vec::new(), false);
    for (id, shared) in transfers {
        let (Some(then), Some(now)) = (before.get(id), now.get(id)) else { continue };
        starves |= shared.waits_for_the_engine(then.requests);
        slow.extend(now.reading.is_slow_since(&then.reading).then_some(shared));
    }
    for shared in slow {
        if starves || transfers.iter().any(|(_, other)| other.waits_for_layers_of(shared)) {
            shared.failure.end(Error::new(Kind::Unavailable, why));
        }
    }
}

impl Seen {
    fn now(shared: &Shared) -> Self {
        let (reading, requests) = match &shared.work {
            Work::Pull(pull) => (pull.repository.meter().read(), 0),
            Work::Push(push) => (push.meter.read(), push.requests()),
        };
        Self { reading, requests }
    }
}

impl Shared {
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
}
