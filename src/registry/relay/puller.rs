//! Pulls that give way to pulls of other callers, and begin again later.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use crate::names::CallerId;

/// How long a pull that has given way waits at most before it begins again.
const OUTSIDE_MAX: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(60) };

/// All tries to pull one image for one caller.
#[derive(Debug)]
pub struct Puller {
    caller: CallerId,
    /// How many layers the engine has asked for.
    asked: watch::Sender<u64>,
    way: Mutex<Way>,
}

#[derive(Debug, Default)]
struct Way {
    /// How many tries have given way after they had begun.
    times: u32,
    /// The numbers of layers that the engine has asked for, of the pulls to which the last try has given way.
    to: Vec<watch::Receiver<u64>>,
}

impl Puller {
    /// A pull for `caller` that has not begun.
    pub fn new(caller: CallerId) -> Self {
        Self { caller, asked: watch::Sender::new(0), way: Mutex::default() }
    }

    /// Whether the last try has given way.
    pub fn gives_way(&self) -> bool {
        !self.way().to.is_empty()
    }

    /// Waits until the engine has asked for a further layer of each pull to which the last try has given way, or that
    /// pull has ended; or for a time, since an engine that unpacks asks for nothing.
    pub async fn wait(&self) {
        let to = std::mem::take(&mut self.way().to);
        let asked = async {
            for mut other in to {
                // An error is the other's end.
                let _ = other.changed().await;
            }
        };
        let _ = tokio::time::timeout(OUTSIDE_MAX, asked).await;
    }

    pub(super) fn caller(&self) -> &CallerId {
        &self.caller
    }

    /// How many tries have given way after they had begun.
    pub(super) fn times(&self) -> u32 {
        self.way().times
    }

    /// The engine asks for a further layer.
    pub(super) fn asks(&self) {
        self.asked.send_modify(|asked| *asked += 1);
    }

    /// The current try gives way to `other`.
    pub(super) fn give_way(&self, other: &Self, has_begun: bool) {
        let mut way = self.way();
        way.times = way.times.saturating_add(has_begun.into());
        way.to.push(other.asked.subscribe());
    }

    fn way(&self) -> MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn who_gives_way_waits_for_the_other_to_begin_or_to_end() {
        let [one, two, three] = [1, 2, 3].map(|uid| Puller::new(CallerId::Uid(uid)));
        assert!(!one.gives_way());
        one.give_way(&two, true);
        one.give_way(&three, false);
        assert!(one.gives_way() && one.times() == 1);
        let mut waiting = Box::pin(one.wait());
        two.asks();
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(three);
        waiting.await;
        assert!(!one.gives_way());
    }

    #[tokio::test]
    async fn who_gives_way_to_one_that_asks_for_nothing_begins_again() {
        let [one, two] = [1, 2].map(|uid| Puller::new(CallerId::Uid(uid)));
        one.give_way(&two, true);
        one.wait().await;
        assert!(!one.gives_way());
        drop(two);
    }
}
