//! wharfd's metrics (docs/metrics.md): their names, and the handles by which the other modules count. Counting costs an
//! atomic addition, whether anybody asks for the metrics or not.
//!
//! No label has a value that a job chooses: an engine is one of the configuration's, and every other label is one of a
//! fixed set.

mod families;
mod handles;

use std::{collections::BTreeMap, fmt, sync::Arc};

use prometheus_client::{
    encoding::{prometheus_text, text},
    metrics::{counter::Counter, family::Family, info::Info},
    registry::Registry,
};

use families::{Families, Labels, Level, State, metric};
pub use handles::{Connections, EngineMetrics, Open, Outcome, Refused, Socket};

use crate::{fault::Reason, names::EngineName};

/// The call that is a build, as its door names it.
const BUILD: &str = "BuildService/Build";

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
        let calls = metric(&mut registry, "calls", None, "Calls of the API that have ended, by method");
        let text = "Calls that could not be carried out, those included that were refused before their method was read";
        let faults = metric(&mut registry, "call_faults", None, text);
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
