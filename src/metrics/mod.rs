//! wharfd's metrics (docs/metrics.md): their names, and the handles by which the other modules count. Counting costs an
//! atomic addition, whether anybody asks for the metrics or not.
//!
//! No label has a value that a job chooses: an engine is one of the configuration's, and every other label is one of a
//! fixed set.

mod handles;

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

use prometheus_client::{
    encoding::{prometheus_text, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use handles::Handles;
pub use handles::{Connections, EngineMetrics, Open, Outcome, Refused, Socket};

use crate::{fault::Reason, names::EngineName};

/// The labels of one series. The keys are in the order of docs/metrics.md.
type Labels = Vec<(&'static str, Cow<'static, str>)>;

/// A bytes' or seconds' gauge may be larger than what `i64` has exactly in a float, and is never negative.
type Level = Gauge<u64, std::sync::atomic::AtomicU64>;
/// A gauge of seconds.
type Seconds = Gauge<f64, std::sync::atomic::AtomicU64>;

/// The call that is a build, as its door names it.
const BUILD: &str = "BuildService/Build";

/// From a build that is all in the cache to one of a day's end.
const BUILD_SECONDS: [f64; 12] = [0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
const WAIT_SECONDS: [f64; 10] = [0.1, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1800.0];
/// Up to the time after which an engine counts as one that does not answer.
const PING_SECONDS: [f64; 9] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// All metrics. It is cheap to clone; all clones are of the same wharfd.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    engines: BTreeMap<EngineName, EngineMetrics>,
    connections: Connections,
    calls: Family<Labels, Counter>,
    faults: Family<Labels, Counter>,
    state: State,
}

/// The metrics that are read at the moment of a scrape.
#[derive(Debug, Default)]
struct State {
    up: Family<Labels, Level>,
    takes_builds: Family<Labels, Level>,
    running: Family<Labels, Level>,
    waiting: Family<Labels, Level>,
    places: Family<Labels, Level>,
    oldest: Family<Labels, Seconds>,
    namespaces: Family<Labels, Level>,
    disk_free: Family<Labels, Level>,
    disk_size: Family<Labels, Level>,
    disk_low: Family<Labels, Level>,
    store: Level,
    /// Without labels; a family, since without TLS there is none.
    expires: Family<Labels, Gauge>,
}

/// The state of an engine at the moment of a scrape. `None` is what is not known: its series is left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineState {
    /// Whether it is usable.
    pub up: bool,
    /// Whether it is usable, and its disk has space for builds.
    pub takes_builds: bool,
    /// The running builds.
    pub running: usize,
    /// The builds that wait for their turn.
    pub waiting: usize,
    /// How many may run at once.
    pub places: Option<usize>,
    /// How long the first of the waiting builds waits, in seconds.
    pub oldest: f64,
    /// Its disk in bytes: the free space, all of it, and the mark below which it is low.
    pub disk: Option<(u64, u64, u64)>,
}

/// A form in which the metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text, 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Metrics {
    /// The metrics of a wharfd with these engines. Every series whose labels are known in advance begins at zero: the
    /// first increase of a series that appears with it is lost to `rate`.
    pub fn new<'a>(engines: impl IntoIterator<Item = &'a EngineName>) -> Self {
        let mut registry = Registry::with_prefix("wharf");
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("version", "The version of wharfd", version);

        let own = Families::register(&mut registry);
        let engines = engines.into_iter().map(|name| (name.clone(), own.of(name))).collect();
        let (calls, faults) = (Family::default(), Family::default());
        let text = "Calls of the API that have ended, by method";
        registry.register("calls", text, Family::clone(&calls));
        let text = "Calls that could not be carried out, those included that were refused before their method was read";
        registry.register("call_faults", text, Family::clone(&faults));
        let connections = Connections::register(&mut registry);
        let state = State::register(&mut registry);
        Self(Arc::new(Inner { registry, engines, connections, calls, faults, state }))
    }

    /// The handles of an engine. Those of an engine that is not the configuration's are counted nowhere.
    pub fn of(&self, engine: &EngineName) -> EngineMetrics {
        self.0.engines.get(engine).cloned().unwrap_or_default()
    }

    /// The handles of the sockets that callers connect to.
    pub fn connections(&self) -> &Connections {
        &self.0.connections
    }

    /// Counts a call that has ended, or was refused before its `method` was known. `seconds` is how long it worked.
    pub fn call(
        &self,
        engine: &EngineMetrics,
        method: &'static str,
        outcome: Outcome,
        reason: Option<Reason>,
        seconds: f64,
    ) {
        let labels = vec![("method", method.into()), ("result", outcome.as_str().into())];
        self.0.calls.get_or_create(&labels).inc();
        reason.into_iter().for_each(|reason| self.fault(reason));
        if method == BUILD {
            engine.build(outcome, seconds);
        }
    }

    /// Counts a call that was refused before it was accepted, or the fault of one that has ended.
    pub fn fault(&self, reason: Reason) {
        self.0.faults.get_or_create(&vec![("reason", format!("{reason:?}").into())]).inc();
    }

    /// Sets the state of an engine.
    pub fn set_engine(&self, name: &EngineName, now: &EngineState) {
        let (state, labels) = (&self.0.state, vec![("engine", name.to_string().into())]);
        let set = |family: &Family<Labels, Level>, value: Option<u64>| match value {
            Some(value) => {
                family.get_or_create(&labels).set(value);
            }
            None => {
                family.remove(&labels);
            }
        };
        set(&state.up, Some(now.up.into()));
        set(&state.takes_builds, Some(now.takes_builds.into()));
        set(&state.running, Some(now.running as u64));
        set(&state.waiting, Some(now.waiting as u64));
        set(&state.places, now.places.map(|places| places as u64));
        state.oldest.get_or_create(&labels).set(now.oldest);
        set(&state.disk_free, now.disk.map(|(free, _, _)| free));
        set(&state.disk_size, now.disk.map(|(_, size, _)| size));
        set(&state.disk_low, now.disk.map(|(_, _, low)| low));
    }

    /// Sets the number of an engine's namespaces.
    pub fn set_namespaces(&self, engine: &EngineName, number: u64) {
        let labels = vec![("engine", engine.to_string().into())];
        self.0.state.namespaces.get_or_create(&labels).set(number);
    }

    /// Sets the size of the store's file in bytes.
    pub fn set_store(&self, bytes: u64) {
        self.0.state.store.set(bytes);
    }

    /// Sets when the certificates of TLS expire, in seconds since 1970.
    pub fn set_expires(&self, expires: Option<i64>) {
        let (family, none) = (&self.0.state.expires, Labels::new());
        match expires {
            Some(expires) => {
                family.get_or_create(&none).set(expires);
            }
            None => {
                family.remove(&none);
            }
        }
    }

    /// All metrics in this form.
    pub fn write(&self, format: Format) -> Result<String, fmt::Error> {
        let mut written = String::new();
        match format {
            Format::Text => prometheus_text::encode(&mut written, &self.0.registry)?,
            Format::OpenMetrics => text::encode(&mut written, &self.0.registry)?,
        }
        Ok(written)
    }
}

/// Of no engine, as a test needs it.
impl Default for Metrics {
    fn default() -> Self {
        Self::new([])
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// The families of the engines' handles.
struct Families {
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
    fn register(registry: &mut Registry) -> Self {
        let own = Self {
            builds: Family::default(),
            build_seconds: Family::new_with_constructor(|| Histogram::new(BUILD_SECONDS)),
            wait_seconds: Family::new_with_constructor(|| Histogram::new(WAIT_SECONDS)),
            queue_refusals: Family::default(),
            steps: Family::default(),
            pulls: Family::default(),
            pushes: Family::default(),
            context_bytes: Family::default(),
            sent_bytes: Family::default(),
            ping_seconds: Family::new_with_constructor(|| Histogram::new(PING_SECONDS)),
        };
        registry.register("builds", "Builds that have ended", own.builds.clone());
        let text = "How long builds took that ended by themselves, without the wait for their turn";
        registry.register_with_unit("build_duration", text, Unit::Seconds, own.build_seconds.clone());
        let text = "How long builds waited for their turn";
        registry.register_with_unit("build_wait", text, Unit::Seconds, own.wait_seconds.clone());
        let text = "Builds that were refused since too many waited for their turn";
        registry.register("queue_refusals", text, own.queue_refusals.clone());
        registry.register("build_steps", "Steps of builds that have ended", own.steps.clone());
        let text = "Images that a registry was asked for, by pulls and by builds";
        registry.register("pulls", text, own.pulls.clone());
        registry.register("pushes", "Pushes of images, also those of builds", own.pushes.clone());
        let text = "Bytes of contexts that clients have sent, by sync or as a tar";
        registry.register_with_unit("context", text, Unit::Bytes, own.context_bytes.clone());
        let text = "Bytes of builds' outputs and of saved archives that were sent to clients";
        registry.register_with_unit("sent", text, Unit::Bytes, own.sent_bytes.clone());
        let text = "How long the engine took to answer wharfd's look at it, every 5 s";
        registry.register_with_unit("engine_ping", text, Unit::Seconds, own.ping_seconds.clone());
        own
    }

    /// The handles of one engine.
    fn of(&self, name: &EngineName) -> EngineMetrics {
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
    fn register(registry: &mut Registry) -> Self {
        let own = Self::default();
        registry.register("engine_up", "Whether the engine is usable", own.up.clone());
        let text = "Whether the engine is usable and its disk has space for builds";
        registry.register("engine_takes_builds", text, own.takes_builds.clone());
        registry.register("builds_running", "Builds that run", own.running.clone());
        registry.register("builds_waiting", "Builds that wait for their turn", own.waiting.clone());
        let text = "How many builds may run at once, once the first has come";
        registry.register("build_places", text, own.places.clone());
        let text = "How long the first of the waiting builds has waited";
        registry.register_with_unit("queue_oldest", text, Unit::Seconds, own.oldest.clone());
        let text = "Namespaces that may own something in the engine";
        registry.register("namespaces", text, own.namespaces.clone());
        let text = "Free space on the engine's disk, if it is watched";
        registry.register_with_unit("engine_disk_free", text, Unit::Bytes, own.disk_free.clone());
        let text = "Size of the engine's disk, if it is watched";
        registry.register_with_unit("engine_disk_size", text, Unit::Bytes, own.disk_size.clone());
        let text = "Free space below which the engine's disk is low, if it is watched";
        registry.register_with_unit("engine_disk_low", text, Unit::Bytes, own.disk_low.clone());
        let text = "Size of wharfd's own store";
        registry.register_with_unit("store_size", text, Unit::Bytes, own.store.clone());
        let text = "When the first of the certificates expires that wharfd shows, in seconds since 1970";
        registry.register_with_unit("certificate_expiry_timestamp", text, Unit::Seconds, own.expires.clone());
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(metrics: &Metrics, series: &str) -> Option<f64> {
        let text = metrics.write(Format::Text).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }

    #[test]
    fn a_build_is_counted_by_its_result() {
        let engine = EngineName::default();
        let metrics = Metrics::new([&engine]);
        let builds = |result: &str| {
            value(&metrics, &format!("wharf_builds_total{{engine=\"default\",result=\"{result}\"}}"))
        };
        for outcome in Outcome::ALL {
            assert_eq!(builds(outcome.as_str()), Some(0.0), "it begins at zero");
        }
        let handles = metrics.of(&engine);
        metrics.call(&handles, BUILD, Outcome::Done, None, 7.0);
        metrics.call(
            &handles,
            BUILD,
            Outcome::of(Some(Reason::PolicyDenied)),
            Some(Reason::PolicyDenied),
            0.1,
        );
        metrics.call(&handles, "NodeService/GetInfo", Outcome::Done, None, 0.1);
        assert_eq!((builds("done"), builds("refused"), builds("failed")), (Some(1.0), Some(1.0), Some(0.0)));
        let took = "wharf_build_duration_seconds_sum{engine=\"default\",result=\"done\"}";
        assert_eq!(value(&metrics, took), Some(7.0));
        assert_eq!(value(&metrics, "wharf_call_faults_total{reason=\"PolicyDenied\"}"), Some(1.0));
        // An engine that nobody knows of is counted nowhere.
        let other = metrics.of(&"other".to_owned().try_into().unwrap());
        metrics.call(&other, BUILD, Outcome::Done, None, 1.0);
        assert!(!metrics.write(Format::Text).unwrap().contains("other"));
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let engine = EngineName::default();
        let metrics = Metrics::new([&engine]);
        let free = || value(&metrics, "wharf_engine_disk_free_bytes{engine=\"default\"}");
        metrics.set_engine(&engine, &EngineState { disk: Some((1, 2, 3)), ..EngineState::default() });
        assert_eq!(free(), Some(1.0));
        metrics.set_engine(&engine, &EngineState::default());
        assert_eq!(free(), None);
    }

    #[test]
    fn both_forms_are_whole() {
        let metrics = Metrics::new([&EngineName::default()]);
        let open = metrics.write(Format::OpenMetrics).unwrap();
        assert!(open.ends_with("# EOF\n") && open.contains("# TYPE wharf_builds counter\n"), "{open}");
        let text = metrics.write(Format::Text).unwrap();
        assert!(!text.contains("# EOF") && text.contains("# TYPE wharf_builds_total counter\n"), "{text}");
    }
}
