//! The handles by which the other modules count.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::families::{BUILD_SECONDS, Labels, PING_SECONDS, WAIT_SECONDS, metric};
use crate::fault::{Class, Fault, Reason};

/// How something ended, as a label's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what was asked for.
    Done,
    /// The Dockerfile or a step of it failed.
    Failed,
    /// It could not be carried out, for a reason of this class.
    Fault(Class),
}

impl Outcome {
    /// Each of them.
    pub const ALL: [Self; 8] = [
        Self::Done,
        Self::Failed,
        Self::Fault(Class::Refused),
        Self::Fault(Class::Cancelled),
        Self::Fault(Class::Client),
        Self::Fault(Class::Registry),
        Self::Fault(Class::Engine),
        Self::Fault(Class::Internal),
    ];

    /// Of something that has failed for this reason, if it has.
    pub fn of(reason: Option<Reason>) -> Self {
        reason.map_or(Self::Done, |reason| Self::Fault(reason.class()))
    }

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Fault(Class::Refused) => "refused",
            Self::Fault(Class::Cancelled) => "cancelled",
            Self::Fault(Class::Client) => "client_error",
            Self::Fault(Class::Registry) => "registry_error",
            Self::Fault(Class::Engine) => "engine_error",
            Self::Fault(Class::Internal) => "internal_error",
        }
    }
}

/// A counter for each outcome, in their order.
pub(super) type ByResult = [Counter; Outcome::ALL.len()];

fn count(counters: &ByResult, outcome: Outcome) {
    let counter = counters.iter().zip(Outcome::ALL).find(|(_, other)| *other == outcome);
    if let Some((counter, _)) = counter {
        counter.inc();
    }
}

/// The handles of one engine. Cheap to clone; by default they are counted nowhere.
#[derive(Clone, Debug, Default)]
pub struct EngineMetrics(pub(super) Arc<Handles>);

#[derive(Debug)]
pub(super) struct Handles {
    pub(super) builds: ByResult,
    pub(super) built: Histogram,
    pub(super) failed: Histogram,
    pub(super) waits: Histogram,
    pub(super) queue_refusals: Counter,
    pub(super) cached: Counter,
    pub(super) ran: Counter,
    pub(super) pulls: ByResult,
    pub(super) pushes: ByResult,
    pub(super) context: Counter,
    pub(super) outputs: Counter,
    pub(super) saved: Counter,
    pub(super) pings: Histogram,
}

impl EngineMetrics {
    /// Counts a build that has ended; `seconds` is its time without the wait for its turn.
    pub(super) fn build(&self, outcome: Outcome, seconds: f64) {
        count(&self.0.builds, outcome);
        match outcome {
            Outcome::Done => self.0.built.observe(seconds),
            Outcome::Failed => self.0.failed.observe(seconds),
            Outcome::Fault(_) => {}
        }
    }

    /// Counts a build that has its turn after this time.
    pub fn waited(&self, time: Duration) {
        self.0.waits.observe(time.as_secs_f64());
    }

    /// Counts a build that finds the queue full.
    pub fn queue_is_full(&self) {
        self.0.queue_refusals.inc();
    }

    /// Counts steps of a build that have ended: those whose result was in the cache, and those that ran.
    pub fn steps(&self, cached: u64, ran: u64) {
        self.0.cached.inc_by(cached);
        self.0.ran.inc_by(ran);
    }

    /// Counts an image that a registry was asked for.
    pub fn pulled<T>(&self, pulled: &Result<T, Fault>) {
        count(&self.0.pulls, Outcome::of(pulled.as_ref().err().map(Fault::reason)));
    }

    /// Counts a push.
    pub fn pushed<T>(&self, pushed: &Result<T, Fault>) {
        count(&self.0.pushes, Outcome::of(pushed.as_ref().err().map(Fault::reason)));
    }

    /// Counts bytes of a context.
    pub fn context(&self, bytes: usize) {
        self.0.context.inc_by(bytes as u64);
    }

    /// Counts bytes of a build's output that its client has taken.
    pub fn output(&self, bytes: usize) {
        self.0.outputs.inc_by(bytes as u64);
    }

    /// Counts bytes of a saved archive that its client has taken.
    pub fn saved(&self, bytes: usize) {
        self.0.saved.inc_by(bytes as u64);
    }

    /// Counts an answer of the engine after this time, or that it has given none.
    pub fn answered(&self, time: Duration) {
        self.0.pings.observe(time.as_secs_f64());
    }
}

impl Default for Handles {
    fn default() -> Self {
        Self {
            builds: Default::default(),
            built: Histogram::new(BUILD_SECONDS),
            failed: Histogram::new(BUILD_SECONDS),
            waits: Histogram::new(WAIT_SECONDS),
            queue_refusals: Counter::default(),
            cached: Counter::default(),
            ran: Counter::default(),
            pulls: Default::default(),
            pushes: Default::default(),
            context: Counter::default(),
            outputs: Counter::default(),
            saved: Counter::default(),
            pings: Histogram::new(PING_SECONDS),
        }
    }
}

/// A kind of sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// wharfd's own.
    Unix,
    /// A pod's.
    Pod,
    /// A port.
    Tcp,
}

/// Why a connection was closed before it was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its owner has too many, or another needed its place.
    TooMany,
    /// TLS failed, or took too long.
    Tls,
}

/// The handles of the sockets that callers connect to; by default they are counted nowhere.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    unix: OfSocket,
    pod: OfSocket,
    tcp: OfSocket,
}

#[derive(Clone, Debug, Default)]
struct OfSocket {
    open: Gauge,
    accepted: Counter,
    too_many: Counter,
    tls: Counter,
}

/// An open connection; dropping it counts its end.
#[derive(Debug)]
pub struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Connections {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let open: Family<Labels, Gauge> =
            metric(registry, "connections_open", None, "Open connections of callers");
        let accepted: Family<Labels, Counter> =
            metric(registry, "connections", None, "Connections that were accepted");
        let text = "Connections that were closed before they proved a caller";
        let refused: Family<Labels, Counter> = metric(registry, "connections_refused", None, text);
        let of = |socket: &'static str| {
            let labels = || vec![("socket", socket.into())];
            let why = |reason: &'static str| {
                let labels = vec![("socket", socket.into()), ("reason", reason.into())];
                refused.get_or_create_owned(&labels)
            };
            OfSocket {
                open: open.get_or_create_owned(&labels()),
                accepted: accepted.get_or_create_owned(&labels()),
                too_many: why("too_many"),
                tls: why("tls"),
            }
        };
        Self { unix: of("unix"), pod: of("pod"), tcp: of("tcp") }
    }

    fn of(&self, socket: Socket) -> &OfSocket {
        match socket {
            Socket::Unix => &self.unix,
            Socket::Pod => &self.pod,
            Socket::Tcp => &self.tcp,
        }
    }

    /// Counts a connection that was accepted, for as long as the value lives.
    pub fn open(&self, socket: Socket) -> Open {
        let own = self.of(socket);
        own.accepted.inc();
        own.open.inc();
        Open(own.open.clone())
    }

    /// Counts a connection that was refused.
    pub fn refused(&self, socket: Socket, why: Refused) {
        let own = self.of(socket);
        match why {
            Refused::TooMany => own.too_many.inc(),
            Refused::Tls => own.tls.inc(),
        };
    }
}
