//! Pulls that wait for other pulls. An engine limits its downloads of layers over all images
//! (`max-concurrent-downloads`), and a registry that sends very slowly could keep a place for as long as it
//! likes.

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

impl Relay {
    /// Breaks off pulls from slow registries while other pulls wait for the engine to begin.
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

/// Reads the meter of each pull, and ends slow pulls if another pull starves. `before` are the readings of
/// the last look.
fn look(transfers: &[(String, Arc<Shared>)], before: &HashMap<String, Reading>) -> HashMap<String, Reading> {
    let (mut now, mut slow, mut starves) = (HashMap::new(), Vec::new(), false);
    for (id, shared) in transfers {
        let Work::Pull(pull) = &shared.work else { continue };
        let reading = pull.repository.meter().read();
        if let Some(then) = before.get(id) {
            starves |= shared.has_come.load(Ordering::Relaxed) && pull.waits_for_the_engine();
            slow.extend(reading.is_slow_since(then).then_some(shared));
        }
        now.insert(id.clone(), reading);
    }
    if starves {
        for shared in slow {
            let text = "it sends less than 100 kB a second, while other pulls wait";
            shared.failure.end(Error::new(Kind::Unavailable, text));
        }
    }
    now
}
