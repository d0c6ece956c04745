//! The outcome of each call: one record, one line of the log, one event of the audit log. This is the place to keep
//! the history of calls.

#![deny(clippy::wildcard_enum_match_arm, reason = "a new reason must be given its level")]

use std::{
    error::Error,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::Span;

use super::{
    WorkKind,
    events::{CallEvents, Events},
};
use crate::{
    audit::Details,
    fault::{Fault, Reason, causes},
    identity::Caller,
    metrics::{EngineMetrics, Metrics, Outcome},
    names::{CallerId, Namespace, printable, shortened},
    policy::Permit,
    telemetry::{Budgets, LeftOut, Repeats},
};

/// How often a line that a caller can cause at will is logged.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// How many lines of work that was carried out a caller has for each method after a pause; then it has one in
/// `LINE_EVERY`. No job builds so much in ten seconds, unless it repeats what fails, or is done, at once.
const LINES_OF_WORK: u32 = 10;
/// How often such a line is logged for one user, or one source in the network, that proves nothing.
const STRANGERS_LINE_EVERY: Duration = Duration::from_secs(60);
/// Longer methods are not the API's.
const METHOD_BYTES_MAX: usize = 80;

/// How a call ended.
#[derive(Debug)]
pub enum End<'a> {
    /// It did what the caller asked for.
    Done,
    /// It was carried out, but the build failed for a reason of the job's own, of this kind.
    Failed(&'static str),
    /// It could not be carried out.
    Fault(&'a Fault),
    /// Its client disconnected before it was over.
    ClientGone,
}

impl End<'_> {
    fn reason(&self) -> Option<Reason> {
        match self {
            Self::Done | Self::Failed(_) => None,
            Self::Fault(fault) => Some(fault.reason()),
            Self::ClientGone => Some(Reason::Cancelled),
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Failed(_) => Outcome::Failed,
            Self::Done | Self::Fault(_) | Self::ClientGone => Outcome::of(self.reason()),
        }
    }
}

/// The limits that keep the log readable: how often the ends of similar calls are logged. All are counted.
#[derive(Debug)]
pub(super) struct Lines {
    metrics: Metrics,
    work: Budgets<(CallerId, &'static str)>,
    callers: Repeats<(CallerId, &'static str, Option<Reason>)>,
    limited: Repeats<CallerId>,
    strangers: Repeats<CallerId>,
    unseen: Repeats<Reason>,
    events: Arc<Events>,
}

impl Lines {
    pub(super) fn new(events: Events, metrics: Metrics) -> Self {
        Self {
            metrics,
            work: Budgets::new(LINES_OF_WORK, LINE_EVERY),
            callers: Repeats::every(LINE_EVERY),
            limited: Repeats::every(LINE_EVERY),
            // One person can be many users.
            strangers: Repeats::every(STRANGERS_LINE_EVERY).and_all_every(LINE_EVERY),
            unseen: Repeats::every(LINE_EVERY),
            events: Arc::new(events),
        }
    }

    /// Logs a call of `stranger` that proves nothing; `path` is the method, as the stranger wrote it.
    pub(super) fn stranger(&self, fault: &Fault, stranger: CallerId, path: &str) {
        self.metrics.fault(fault.reason());
        if let Some(left_out) = self.strangers.may_say(stranger.clone()) {
            self.refused(fault, &stranger, path, left_out);
        }
    }

    /// Logs a call that `caller` has too many of.
    pub(super) fn limited(&self, fault: &Fault, caller: &CallerId, path: &str) {
        self.metrics.fault(fault.reason());
        if let Some(left_out) = self.limited.may_say(caller.clone()) {
            self.refused(fault, caller, path, left_out);
        }
    }

    fn refused(&self, fault: &Fault, caller: &CallerId, path: &str, left_out: LeftOut) {
        let method = printable(&shortened(path.trim_start_matches('/').to_owned(), METHOD_BYTES_MAX));
        self.events.refused(fault, Some(caller), Some(&method), left_out);
        tracing::error_span!("call", method).in_scope(|| log_fault(fault, None, left_out));
    }

    /// Logs a call that was refused before its caller was identified.
    pub(super) fn unseen(&self, fault: &Fault) {
        self.metrics.fault(fault.reason());
        if let Some(left_out) = self.unseen.may_say(fault.reason()) {
            self.events.refused(fault, None, None, left_out);
            log_fault(fault, None, left_out);
        }
    }
}

/// A call, from its beginning to its end.
#[derive(Debug)]
pub(super) struct Record {
    method: &'static str,
    span: Span,
    begun: Instant,
    /// How long it waited for its turn, if it did.
    waited: OnceLock<Duration>,
    caller: CallerId,
    /// Whether it did work of the engine.
    worked: AtomicBool,
    ended: AtomicBool,
    lines: Arc<Lines>,
    events: CallEvents,
    engine: EngineMetrics,
}

impl Record {
    pub(super) fn begin(caller: &Caller, method: &'static str, lines: &Arc<Lines>) -> Self {
        let events = CallEvents::new(caller, method, &lines.events);
        let engine = lines.metrics.of(caller.engine());
        let caller = caller.id().clone();
        // The error level keeps the span under every filter, so that every line names its caller and
        // namespace.
        let span = tracing::error_span!(
            "call",
            method,
            caller = caller.to_string(),
            namespace = tracing::field::Empty
        );
        Self {
            method,
            span,
            begun: Instant::now(),
            waited: OnceLock::new(),
            caller,
            worked: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            lines: Arc::clone(lines),
            events,
            engine,
        }
    }

    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    pub(super) fn details(&self) -> &Details {
        self.events.details()
    }

    /// The call asks for this namespace.
    pub(super) fn asks_for(&self, namespace: &Namespace) {
        self.span.record("namespace", namespace.to_string());
        self.events.asks_for(namespace);
    }

    /// The call may act in this namespace.
    pub(super) fn acts_in(&self, permit: &Permit<Namespace>) {
        self.span.record("namespace", permit.subject().to_string());
        self.events.acts_in(permit);
    }

    /// The call may still act in its namespace, by these rules.
    pub(super) fn acts_by(&self, permit: &Permit<Namespace>) {
        self.events.acts_in(permit);
    }

    /// The call begins its work; `None` is the end of a namespace.
    pub(super) fn works(&self, kind: Option<WorkKind>) {
        let worked = match kind {
            Some(WorkKind::Build | WorkKind::Push | WorkKind::Pull | WorkKind::Save) => true,
            Some(WorkKind::Session | WorkKind::Change) | None => false,
        };
        self.worked.fetch_or(worked, Ordering::Relaxed);
        self.events.works(kind);
    }

    pub(super) fn waited(&self, time: Duration) {
        let _ = self.waited.set(whole_milliseconds(time));
    }

    /// Logs and records how the call ended. Only the first end counts.
    pub(super) fn end(&self, end: &End<'_>) {
        if self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        let reason = end.reason();
        // A job can make as many calls as it likes that are refused, or quick: a build that fails at once, a pull of an
        // image that is there.
        let left_out = if reason.is_none() && self.worked.load(Ordering::Relaxed) {
            self.lines.work.take(&(self.caller.clone(), self.method))
        } else {
            self.lines.callers.may_say((self.caller.clone(), self.method, reason))
        };
        let elapsed = whole_milliseconds(self.begun.elapsed());
        let worked = elapsed.saturating_sub(self.waited.get().copied().unwrap_or_default()).as_secs_f64();
        self.lines.metrics.call(&self.engine, self.method, end.outcome(), reason, worked);
        self.events.end(end, elapsed, left_out);
        let Some(left_out) = left_out else { return };
        let waited = self.waited.get().map(tracing::field::debug);
        let (unlogged, unlogged_of_others) = (left_out.own(), left_out.of_others());
        self.span.in_scope(|| match end {
            End::Done => tracing::info!(?elapsed, waited, unlogged, unlogged_of_others, "ended"),
            End::Failed(failed) => tracing::info!(?elapsed, waited, unlogged, unlogged_of_others, failed, "ended"),
            End::ClientGone => {
                tracing::info!(?elapsed, waited, unlogged, unlogged_of_others, reason = ?Reason::Cancelled, "ended: the client disconnected");
            }
            End::Fault(fault) => log_fault(fault, Some(elapsed), left_out),
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.end(&End::ClientGone);
    }
}

fn whole_milliseconds(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// Logs a fault with its cause, for the operator.
fn log_fault(fault: &Fault, elapsed: Option<Duration>, left_out: LeftOut) {
    let elapsed = elapsed.map(tracing::field::debug);
    let cause = fault.source().map(causes);
    let (reason, text) = (fault.reason(), fault.text());
    let (unlogged, unlogged_of_others) = (left_out.own(), left_out.of_others());
    match reason {
        Reason::Internal | Reason::EngineFailed => {
            tracing::error!(elapsed, unlogged, unlogged_of_others, ?reason, text, cause, "ended");
        }
        Reason::EngineUnavailable
        | Reason::EngineLacks
        | Reason::BuildStopsEngine
        | Reason::RegistryUnavailable
        | Reason::ImageForged
        | Reason::UnknownCaller
        | Reason::LimitReached => {
            tracing::warn!(elapsed, unlogged, unlogged_of_others, ?reason, text, cause, "ended")
        }
        Reason::InvalidInput
        | Reason::NamespaceDenied
        | Reason::SourceDenied
        | Reason::GraphDenied
        | Reason::PolicyDenied
        | Reason::ImageNotFound
        | Reason::BaseImageNotFound
        | Reason::ImageUnsupported
        | Reason::RegistryDenied
        | Reason::SessionNotFound
        | Reason::StreamBroken
        | Reason::SourceUnavailable
        | Reason::Cancelled
        | Reason::ShuttingDown => {
            tracing::info!(elapsed, unlogged, unlogged_of_others, ?reason, text, cause, "ended")
        }
    }
}
