//! Measures how fast a repository's blobs come, to find slow registries.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// How long a repository is observed before it may be called slow.
pub const LOOK: Duration = Duration::from_secs(10);
/// A repository that sends less than this during `LOOK` is slow,
pub const SLOW_BYTES: u64 = 1 << 20;
/// if wharfd waited for it for most of that time: an engine that unpacks accepts nothing meanwhile.
const SLOW_WAIT: Duration = Duration::from_secs(8);

/// The bytes received of a repository's blobs, and the time spent waiting for them.
#[derive(Debug, Default)]
pub struct Meter {
    bytes: AtomicU64,
    waited_millis: AtomicU64,
}

/// A meter's values at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    bytes: u64,
    /// The sum of the waiting times of all blobs, which may wait at once.
    waited: Duration,
}

impl Meter {
    pub(super) fn add(&self, bytes: usize, waited: Duration) {
        let waited = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        self.waited_millis.fetch_add(waited, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The current values.
    pub fn read(&self) -> Reading {
        Reading {
            bytes: self.bytes.load(Ordering::Relaxed),
            waited: Duration::from_millis(self.waited_millis.load(Ordering::Relaxed)),
        }
    }
}

impl Reading {
    /// Whether the repository has been slow since `before`, a [`LOOK`] ago.
    pub fn is_slow_since(&self, before: &Self) -> bool {
        self.bytes.saturating_sub(before.bytes) < SLOW_BYTES
            && self.waited.saturating_sub(before.waited) > SLOW_WAIT
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn who_was_not_waited_for_is_not_slow() {
        let since = |bytes: usize, seconds: u64| {
            let meter = Meter::default();
            meter.add(5 << 20, Duration::from_secs(100));
            let before = meter.read();
            meter.add(bytes, Duration::from_secs(seconds));
            meter.read().is_slow_since(&before)
        };
        assert!(since(100 << 10, 9));
        assert!(!since(100 << 10, 8) && !since(1 << 20, 9));
    }
}
