//! Pulls that wait for others: an engine downloads so many layers at once, whichever images they are of
//! (`max-concurrent-downloads`), and a registry that drips keeps a place for as long as it likes.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

use super::{
    super::error::{Error, Kind},
    Relay, Shared, Work,
};

/// How long a pull may wait for its first layer, and is watched by those that wait.
const LOOK: Duration = Duration::from_secs(10);
/// A registry that was waited for for most of that time and sent less than this is slow.
const SLOW_WAIT: Duration = Duration::from_secs(8);
const SLOW_BYTES: u64 = 1 << 20;

/// How far a pull was when it was looked at last.
struct Seen {
    asked: u64,
    bytes: u64,
    waited: Duration,
}

impl Relay {
    /// Breaks off the pulls from slow registries while others wait for the engine to begin.
    pub(super) async fn feed_the_starving(self) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = HashMap::new();
        loop {
            ticks.tick().await;
            let transfers: Vec<_> =
                self.transfers().iter().map(|(id, shared)| (id.clone(), Arc::clone(shared))).collect();
            seen = look(&transfers, &seen);
        }
    }
}

fn look(transfers: &[(String, Arc<Shared>)], before: &HashMap<String, Seen>) -> HashMap<String, Seen> {
    let (mut now, mut slow, mut starves) = (HashMap::new(), Vec::new(), false);
    for (id, shared) in transfers {
        let Work::Pull(pull) = &shared.work else { continue };
        let meter = pull.repository.meter();
        let seen = Seen {
            asked: pull.layers_asked.load(Ordering::Relaxed),
            bytes: meter.bytes(),
            waited: meter.waited(),
        };
        if let Some(then) = before.get(id) {
            starves |= then.asked == 0 && seen.asked == 0 && shared.has_come.load(Ordering::Relaxed);
            let is_slow = seen.bytes.saturating_sub(then.bytes) < SLOW_BYTES
                && seen.waited.saturating_sub(then.waited) > SLOW_WAIT;
            slow.extend(is_slow.then_some(shared));
        }
        now.insert(id.clone(), seen);
    }
    if starves {
        for shared in slow {
            let text = "it sends less than 100 kB a second, while other pulls wait";
            shared.failure.end(Error::new(Kind::Unavailable, text));
        }
    }
    now
}
