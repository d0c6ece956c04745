//! A policy's limits on one build. The first that the build exceeds ends it.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use crate::{
    config::PolicyLimits,
    engines::{Disk, full},
    fault::Fault,
    metrics::EngineMetrics,
    names::Namespace,
    policy::Permit,
};

/// The used part of a build's limits.
#[derive(Debug)]
pub struct Used {
    namespace: Permit<Namespace>,
    limits: PolicyLimits,
    begun: Instant,
    context: AtomicU64,
    log: AtomicU64,
    exceeded: Mutex<Option<&'static str>>,
    changed: Notify,
    /// The disk of the build's engine.
    disk: watch::Receiver<Disk>,
    metrics: EngineMetrics,
}

impl Used {
    /// Nothing yet, of the limits of the namespace's policy. The build's time begins now.
    pub fn nothing(namespace: &Permit<Namespace>) -> Self {
        Self {
            namespace: namespace.clone(),
            limits: namespace.limits(),
            begun: Instant::now(),
            context: AtomicU64::new(0),
            log: AtomicU64::new(0),
            exceeded: Mutex::default(),
            changed: Notify::new(),
            disk: watch::Sender::default().subscribe(),
            metrics: EngineMetrics::default(),
        }
    }

    /// The same for a build on an engine with this disk, whose `metrics` count what the build uses.
    pub fn on(self, disk: watch::Receiver<Disk>, metrics: EngineMetrics) -> Self {
        Self { disk, metrics, ..self }
    }

    /// The metrics of the build's engine.
    pub fn metrics(&self) -> &EngineMetrics {
        &self.metrics
    }

    /// Counts bytes that the client has sent of its directories or its tar; false if they are too many.
    pub fn context(&self, bytes: usize) -> bool {
        self.metrics.context(bytes);
        self.fetched(bytes)
    }

    /// Counts bytes that have come from URLs, together with those of the context; false if they are too many.
    pub fn fetched(&self, bytes: usize) -> bool {
        self.count(&self.context, bytes, self.limits.context_size, "context_size")
    }

    /// Counts bytes that the steps have written.
    pub fn log(&self, bytes: usize) {
        self.count(&self.log, bytes, Some(self.limits.log_size), "log_size");
    }

    fn count(&self, sum: &AtomicU64, bytes: usize, max: Option<u64>, key: &'static str) -> bool {
        let bytes = bytes as u64;
        let sum = sum.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let fits = max.is_none_or(|max| sum <= max);
        if !fits {
            self.exceed(key);
        }
        fits
    }

    fn exceed(&self, key: &'static str) {
        self.exceeded().get_or_insert(key);
        self.changed.notify_one();
    }

    fn exceeded(&self) -> MutexGuard<'_, Option<&'static str>> {
        self.exceeded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The refusal, if the build has exceeded a limit. A full disk is not a limit: it may be full after the
    /// build has ended by itself.
    pub fn refused(&self) -> Option<Fault> {
        let key = *self.exceeded();
        key.map(|key| self.namespace.over(key))
    }

    /// Waits until the build exceeds a limit, or its engine's disk is full.
    pub async fn watch(&self) -> Fault {
        let time = async {
            match self.limits.build_time {
                Some(time) => sleep(time.saturating_sub(self.begun.elapsed())).await,
                None => std::future::pending::<()>().await,
            }
            self.exceed("build_time");
        };
        let mut disk = self.disk.clone();
        tokio::select! {
            () = time => {}
            () = self.changed.notified() => {}
            fault = full(&mut disk) => return fault,
        }
        self.refused()
            .unwrap_or_else(|| Fault::internal("the build was ended by a limit, but none is recorded"))
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        config::{DiskMarks, Mark},
        engine::disk::Space,
        engines::Level,
        names::{CallerId, EngineName, Pattern},
        policy::Rules,
    };

    /// Each part of a build waits anew, and all of them have the one time.
    #[tokio::test]
    async fn a_build_has_one_time() {
        let rules = Arc::new(Rules::built_in("test", Pattern::any()));
        let namespace = rules.namespace(&CallerId::Uid(1), Namespace::new("a", "1").unwrap()).unwrap();
        let mut used = Used::nothing(&namespace);
        used.limits.build_time = Some(Duration::from_secs(3600));
        let waits = async |used: &Used, time| tokio::time::timeout(time, used.watch()).await.is_err();
        assert!(waits(&used, Duration::from_millis(10)).await);
        used.begun = Instant::now().checked_sub(Duration::from_secs(3601)).unwrap();
        for part in 0..3 {
            assert!(!waits(&used, Duration::from_secs(60)).await, "{part}");
        }
        assert!(used.refused().is_some_and(|fault| fault.text().contains("build_time")));
    }

    #[tokio::test]
    async fn a_full_disk_ends_a_build_and_is_no_limit_of_it() {
        let rules = Arc::new(Rules::built_in("test", Pattern::any()));
        let namespace = rules.namespace(&CallerId::Uid(1), Namespace::new("a", "1").unwrap()).unwrap();
        let disks = watch::Sender::default();
        let used = Used::nothing(&namespace).on(disks.subscribe(), EngineMetrics::default());
        let marks = DiskMarks { low: Mark::Percent(10), full: Mark::Percent(5) };
        let space = Space { free: 4, total: 100 };
        disks.send_replace(Disk::new(EngineName::default(), space, marks, Level::Ample, false));
        let fault = used.watch().await;
        assert!(fault.text().contains("is full"), "{fault}");
        assert!(used.refused().is_none(), "a build that has ended by itself keeps its own end");
    }
}
