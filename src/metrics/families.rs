//! The names of the metrics, and their series.

use std::{
    borrow::Cow,
    sync::{Arc, atomic::AtomicU64},
};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry, Unit},
};

use super::handles::{EngineMetrics, Handles, Outcome};
use crate::names::EngineName;

/// The labels of one series. The keys are in the order of docs/metrics.md.
pub(super) type Labels = Vec<(&'static str, Cow<'static, str>)>;

/// A bytes' or seconds' gauge may be larger than what `i64` has exactly in a float, and is never negative.
pub(super) type Level = Gauge<u64, AtomicU64>;
/// A gauge of seconds.
pub(super) type Seconds = Gauge<f64, AtomicU64>;

/// From a build that is all in the cache to one of a day's end.
pub(super) const BUILD_SECONDS: [f64; 12] =
    [0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
pub(super) const WAIT_SECONDS: [f64; 10] = [0.1, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1800.0];
/// Up to the time after which an engine counts as one that does not answer.
pub(super) const PING_SECONDS: [f64; 9] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// The metrics that are read at the moment of a scrape.
#[derive(Debug)]
pub(super) struct State {
    pub(super) up: Family<Labels, Level>,
    pub(super) takes_builds: Family<Labels, Level>,
    pub(super) running: Family<Labels, Level>,
    pub(super) waiting: Family<Labels, Level>,
    pub(super) places: Family<Labels, Level>,
    pub(super) oldest: Family<Labels, Seconds>,
    pub(super) namespaces: Family<Labels, Level>,
    pub(super) disk_free: Family<Labels, Level>,
    pub(super) disk_size: Family<Labels, Level>,
    pub(super) disk_low: Family<Labels, Level>,
    pub(super) store: Level,
    /// Without labels; a family, since without TLS there is none.
    pub(super) expires: Family<Labels, Gauge>,
}

type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// A new metric; its name has neither the prefix nor the unit.
pub(super) fn metric<M: Metric + Clone + Default>(
    registry: &mut Registry,
    name: &str,
    unit: Option<Unit>,
    help: &str,
) -> M {
    registered(registry, name, unit, help, M::default())
}

/// A new histogram of seconds.
fn seconds(registry: &mut Registry, name: &str, help: &str, histogram: fn() -> Histogram) -> Histograms {
    registered(registry, name, Some(Unit::Seconds), help, Family::new_with_constructor(histogram))
}

fn registered<M: Metric + Clone>(
    registry: &mut Registry,
    name: &str,
    unit: Option<Unit>,
    help: &str,
    metric: M,
) -> M {
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, metric.clone()),
        None => registry.register(name, help, metric.clone()),
    }
    metric
}

/// The families of the engines' handles.
pub(super) struct Families {
    builds: Family<Labels, Counter>,
    build_seconds: Histograms,
    wait_seconds: Histograms,
    queue_refusals: Family<Labels, Counter>,
    steps: Family<Labels, Counter>,
    pulls: Family<Labels, Counter>,
    pushes: Family<Labels, Counter>,
    context_bytes: Family<Labels, Counter>,
    sent_bytes: Family<Labels, Counter>,
    ping_seconds: Histograms,
}

impl Families {
    pub(super) fn register(to: &mut Registry) -> Self {
        let bytes = || Some(Unit::Bytes);
        let took = "How long builds took that ended by themselves, without the wait for their turn";
        let waited = "How long builds waited for their turn";
        let refused = "Builds that were refused since too many waited for their turn";
        let pulls = "Images that a registry was asked for, by pulls and by builds";
        let context = "Bytes of contexts that clients have sent, by sync or as a tar";
        let sent = "Bytes of builds' outputs and of saved archives that were sent to clients";
        let ping = "How long the engine took to answer wharfd's look at it, every 5 s";
        Self {
            builds: metric(to, "builds", None, "Builds that have ended"),
            build_seconds: seconds(to, "build_duration", took, || Histogram::new(BUILD_SECONDS)),
            wait_seconds: seconds(to, "build_wait", waited, || Histogram::new(WAIT_SECONDS)),
            queue_refusals: metric(to, "queue_refusals", None, refused),
            steps: metric(to, "build_steps", None, "Steps of builds that have ended"),
            pulls: metric(to, "pulls", None, pulls),
            pushes: metric(to, "pushes", None, "Pushes of images, also those of builds"),
            context_bytes: metric(to, "context", bytes(), context),
            sent_bytes: metric(to, "sent", bytes(), sent),
            ping_seconds: seconds(to, "engine_ping", ping, || Histogram::new(PING_SECONDS)),
        }
    }

    /// The handles of one engine.
    pub(super) fn of(&self, name: &EngineName) -> EngineMetrics {
        let of = |more: Option<(&'static str, &'static str)>| -> Labels {
            let own = ("engine", name.to_string().into());
            std::iter::once(own).chain(more.map(|(key, value)| (key, value.into()))).collect()
        };
        let by_result = |family: &Family<Labels, Counter>| {
            Outcome::ALL.map(|outcome| family.get_or_create_owned(&of(Some(("result", outcome.as_str())))))
        };
        let by = |family: &Family<Labels, Counter>, key, values: [&'static str; 2]| {
            values.map(|value| family.get_or_create_owned(&of(Some((key, value)))))
        };
        let [built, failed] = [Outcome::Done, Outcome::Failed]
            .map(|outcome| self.build_seconds.get_or_create_owned(&of(Some(("result", outcome.as_str())))));
        let [cached, ran] = by(&self.steps, "result", ["cached", "ran"]);
        let [outputs, saved] = by(&self.sent_bytes, "kind", ["output", "save"]);
        EngineMetrics(Arc::new(Handles {
            builds: by_result(&self.builds),
            built,
            failed,
            waits: self.wait_seconds.get_or_create_owned(&of(None)),
            queue_refusals: self.queue_refusals.get_or_create_owned(&of(None)),
            cached,
            ran,
            pulls: by_result(&self.pulls),
            pushes: by_result(&self.pushes),
            context: self.context_bytes.get_or_create_owned(&of(None)),
            outputs,
            saved,
            pings: self.ping_seconds.get_or_create_owned(&of(None)),
        }))
    }
}

impl State {
    pub(super) fn register(to: &mut Registry) -> Self {
        let (seconds, bytes) = (|| Some(Unit::Seconds), || Some(Unit::Bytes));
        let takes_builds = "Whether the engine is usable and its disk has space for builds";
        let places = "How many builds may run at once, once the first has come";
        let oldest = "How long the first of the waiting builds has waited";
        let namespaces = "Namespaces that may own something in the engine";
        let disk_free = "Free space on the engine's disk, if it is watched";
        let disk_size = "Size of the engine's disk, if it is watched";
        let disk_low = "Free space below which the engine's disk is low, if it is watched";
        let expires = "When the first of the certificates expires that wharfd shows, in seconds since 1970";
        Self {
            up: metric(to, "engine_up", None, "Whether the engine is usable"),
            takes_builds: metric(to, "engine_takes_builds", None, takes_builds),
            running: metric(to, "builds_running", None, "Builds that run"),
            waiting: metric(to, "builds_waiting", None, "Builds that wait for their turn"),
            places: metric(to, "build_places", None, places),
            oldest: metric(to, "queue_oldest", seconds(), oldest),
            namespaces: metric(to, "namespaces", None, namespaces),
            disk_free: metric(to, "engine_disk_free", bytes(), disk_free),
            disk_size: metric(to, "engine_disk_size", bytes(), disk_size),
            disk_low: metric(to, "engine_disk_low", bytes(), disk_low),
            store: metric(to, "store_size", bytes(), "Size of wharfd's own store"),
            expires: metric(to, "certificate_expiry_timestamp", seconds(), expires),
        }
    }
}
