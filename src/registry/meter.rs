//! How fast a repository's blobs come, and which are slow.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// How long blobs are looked at before they are called slow.
pub const LOOK: Duration = Duration::from_secs(10);
/// Who sent less than this in that time is slow.
pub const SLOW_BYTES: u64 = 1 << 20;
/// If it was waited for for most of it: an engine that unpacks takes nothing meanwhile.
const SLOW_WAIT: Duration = Duration::from_secs(8);

/// What has come of a repository's blobs, and how long it was waited for.
#[derive(Debug, Default)]
pub struct Meter {
    bytes: AtomicU64,
    waited_millis: AtomicU64,
}

/// What a meter says at one time.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    bytes: u64,
    /// Of several blobs at once, the time that each was waited for.
    waited: Duration,
}

impl Meter {
    pub(super) fn add(&self, bytes: usize, waited: Duration) {
        let waited = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        self.waited_millis.fetch_add(waited, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What it says now.
    pub fn read(&self) -> Reading {
        Reading {
            bytes: self.bytes.load(Ordering::Relaxed),
            waited: Duration::from_millis(self.waited_millis.load(Ordering::Relaxed)),
        }
    }
}

impl Reading {
    /// Whether a repository is slow by what has come since `before`, a [`LOOK`] ago.
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
