//! Measures how fast a registry sends or takes blobs, to find slow registries.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long a repository is observed before it may be called slow.
pub const LOOK: Duration = Duration::from_secs(10);
/// A repository that sends or takes less than this during `LOOK` is slow,
pub const SLOW_BYTES: u64 = 1 << 20;
/// if wharfd waited for it for most of that time: an engine that unpacks or packs moves nothing meanwhile.
const SLOW_WAIT: Duration = Duration::from_secs(8);
/// The steps in which more is demanded during `LOOK` of a repository for which others wait: 1 MiB a second.
pub const FASTER_BYTES: u64 = 10 << 20;

/// The bytes moved of a repository's blobs, and the time spent waiting for its registry.
#[derive(Debug, Default)]
pub struct Meter(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    bytes: u64,
    /// The waits that are over.
    waited: Duration,
    /// The waits that go on, and when the first of them began.
    waits: usize,
    since: Option<Instant>,
}

/// A meter's values at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    bytes: u64,
    /// The time during which at least one wait went on.
    waited: Duration,
}

/// A wait for the registry, until it is dropped.
#[derive(Debug)]
pub(super) struct Wait(Arc<Meter>);

impl Meter {
    /// Counts bytes that have come, or were taken.
    pub(super) fn moved(&self, bytes: usize) {
        self.state().bytes += bytes as u64;
    }

    /// Begins a wait for the registry.
    pub(super) fn wait(self: &Arc<Self>) -> Wait {
        let mut state = self.state();
        state.waits += 1;
        state.since.get_or_insert_with(Instant::now);
        drop(state);
        Wait(Arc::clone(self))
    }

    /// The current values.
    pub fn read(&self) -> Reading {
        let state = self.state();
        let running = state.since.map_or(Duration::ZERO, |since| since.elapsed());
        Reading { bytes: state.bytes, waited: state.waited + running }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.waits = state.waits.saturating_sub(1);
        if state.waits == 0
            && let Some(since) = state.since.take()
        {
            state.waited += since.elapsed();
        }
    }
}

impl Reading {
    /// Whether the repository has been slow since `before`, a [`LOOK`] ago.
    pub fn is_slow_since(&self, before: &Self) -> bool {
        self.is_slower_since(before, SLOW_BYTES)
    }

    /// Whether less than `bytes` have moved since `before`, a [`LOOK`] ago, because of the registry.
    pub fn is_slower_since(&self, before: &Self, bytes: u64) -> bool {
        self.moved_since(before) < bytes && self.waited.saturating_sub(before.waited) > SLOW_WAIT
    }

    /// The bytes that have moved since `before`.
    pub fn moved_since(&self, before: &Self) -> u64 {
        self.bytes.saturating_sub(before.bytes)
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn who_was_not_waited_for_is_not_slow() {
        let reading = |bytes, seconds| Reading { bytes, waited: Duration::from_secs(seconds) };
        let before = reading(5 << 20, 100);
        let since =
            |bytes: u64, seconds: u64| reading((5 << 20) + bytes, 100 + seconds).is_slow_since(&before);
        assert!(since(100 << 10, 9));
        assert!(!since(100 << 10, 8) && !since(1 << 20, 9));
    }

    #[test]
    fn waits_at_one_time_count_once_and_at_once() {
        let meter = Arc::new(Meter::default());
        let waits = [meter.wait(), meter.wait()];
        let begun = Instant::now();
        while meter.read().waited < Duration::from_millis(2) {}
        let running = meter.read().waited;
        drop(waits);
        let over = meter.read().waited;
        assert!(running <= over && over < Duration::from_millis(2) + 2 * begun.elapsed());
        assert_eq!(meter.read().waited, over, "nobody waits any more");
    }
}
