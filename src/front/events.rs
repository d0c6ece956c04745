//! The events of calls, for the audit log.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{End, WorkKind};
use crate::{
    audit::{self, Details, Event, Trail},
    fault::{Class, Fault},
    identity::Caller,
    names::{CallerId, EngineName, Namespace},
    policy::Permit,
    telemetry::{Budgets, LeftOut, each_second},
};

/// How many events of a kind a caller may have at once. No node begins so much work in a minute.
const AT_ONCE: u32 = 1000;
/// How often one more may follow: this is five a second, for as long as the caller likes.
const EVERY: Duration = Duration::from_millis(200);

/// The events of all calls.
#[derive(Debug)]
pub(super) struct Events {
    trail: Trail,
    /// `None` is the end of a namespace.
    budgets: Budgets<(CallerId, Option<WorkKind>)>,
    /// The number of calls so far.
    calls: AtomicU64,
}

impl Events {
    pub(super) fn new(trail: Trail) -> Self {
        Self { trail, budgets: Budgets::new(AT_ONCE, EVERY), calls: AtomicU64::new(0) }
    }

    /// Records a call that was refused before it was accepted.
    pub(super) fn refused(
        &self,
        fault: &Fault,
        caller: Option<&CallerId>,
        method: Option<&str>,
        left_out: LeftOut,
    ) {
        if self.trail.is_on() {
            let event = Event::new(audit::EventKind::Refused).some_text("method", method);
            let event = failed(event.some_text("caller", caller), fault);
            self.trail.record(counted(event, left_out));
        }
    }
}

/// The events of one call.
#[derive(Debug)]
pub(super) struct CallEvents {
    events: Arc<Events>,
    number: u64,
    method: &'static str,
    caller: CallerId,
    engine: EngineName,
    scope: Mutex<Scope>,
    details: Details,
    /// Set once the call has begun its work: the number of events left out before it; `None` if its own are
    /// left out, too.
    work: OnceLock<Option<Mutex<LeftOut>>>,
}

/// The namespace of a call, and the rule and the policy by which it acts there.
#[derive(Debug)]
struct Scope {
    rule: String,
    policy: Option<String>,
    namespace: Option<Namespace>,
}

impl CallEvents {
    pub(super) fn new(caller: &Caller, method: &'static str, events: &Arc<Events>) -> Self {
        Self {
            events: Arc::clone(events),
            number: events.calls.fetch_add(1, Ordering::Relaxed) + 1,
            method,
            caller: caller.id().clone(),
            engine: caller.engine().clone(),
            scope: Mutex::new(Scope {
                rule: caller.rules().name().to_owned(),
                policy: None,
                namespace: None,
            }),
            details: Details::default(),
            work: OnceLock::new(),
        }
    }

    pub(super) fn details(&self) -> &Details {
        &self.details
    }

    /// The call asks for this namespace.
    pub(super) fn asks_for(&self, namespace: &Namespace) {
        self.scope().namespace = Some(namespace.clone());
    }

    /// The call may act in this namespace. If it is permitted again, under other rules, these count.
    pub(super) fn acts_in(&self, permit: &Permit<Namespace>) {
        *self.scope() = Scope {
            rule: permit.rules().name().to_owned(),
            policy: Some(permit.policy()),
            namespace: Some(permit.subject().clone()),
        };
    }

    /// The call begins its work, of `kind`, or the end of a namespace. From now on it is not a call that a
    /// job can make at no cost, but one that may change something.
    pub(super) fn works(&self, kind: Option<WorkKind>) {
        if !self.events.trail.is_on() || self.work.get().is_some() {
            return;
        }
        let left_out = self.events.budgets.take(&(self.caller.clone(), kind));
        if left_out.is_none() {
            let caller = &self.caller;
            each_second!(
                warn,
                caller = caller.to_string(),
                "a caller has too many events for the audit log: some are left out"
            );
        }
        let work = self.work.get_or_init(|| left_out.map(Mutex::new));
        let is_long = match kind {
            Some(WorkKind::Session | WorkKind::Build | WorkKind::Push | WorkKind::Pull | WorkKind::Save) => {
                true
            }
            // Its end follows at once.
            Some(WorkKind::Change) | None => false,
        };
        if let Some(left_out) = work.as_ref().filter(|_| is_long) {
            self.events.trail.record(counted_once(self.event(audit::EventKind::Begun), left_out));
        }
    }

    /// Records the end. `similar` is `None` if the line of a call that has done no work is left out, else those that were
    /// left out before it.
    pub(super) fn end(&self, end: &End<'_>, elapsed: Duration, similar: Option<LeftOut>) {
        if !self.events.trail.is_on() {
            return;
        }
        let event = self.event(audit::EventKind::Ended);
        let event = match end {
            End::Done => event.text("result", "done"),
            End::Failed(kind) => event.text("result", "failed").text("failure", kind),
            End::Fault(fault) => failed(event, fault),
            End::ClientGone => event.text("result", "cancelled").text("reason", "ClientGone"),
        };
        let event = event.number("milliseconds", u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        let event = match (self.work.get(), similar) {
            (Some(Some(left_out)), _) => counted_once(event, left_out),
            (None, Some(similar)) => counted(event, similar),
            (Some(None), _) | (None, None) => return,
        };
        self.events.trail.record(event);
    }

    /// An event of the call, with all that is known of it.
    fn event(&self, kind: audit::EventKind) -> Event {
        let scope = self.scope();
        let event = Event::new(kind).number("call", self.number).text("method", self.method);
        let event = event.by(&self.caller, &self.engine).text("rule", &scope.rule);
        let event = event.some_text("policy", scope.policy.as_ref());
        self.details.add_to(event.namespace(scope.namespace.as_ref()))
    }

    fn scope(&self) -> MutexGuard<'_, Scope> {
        self.scope.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds the numbers of the events that were left out, the first time.
fn counted_once(event: Event, left_out: &Mutex<LeftOut>) -> Event {
    counted(event, std::mem::take(&mut *left_out.lock().unwrap_or_else(PoisonError::into_inner)))
}

fn counted(event: Event, left_out: LeftOut) -> Event {
    event.number("unrecorded", left_out.own()).number("unrecorded_of_others", left_out.of_others())
}

/// The result of a call that could not be carried out. The text is the caller's, which contains no secret.
fn failed(event: Event, fault: &Fault) -> Event {
    let result = match fault.reason().class() {
        Class::Refused => "refused",
        Class::Cancelled => "cancelled",
        Class::Client | Class::Registry | Class::Engine | Class::Internal => "error",
    };
    event
        .text("result", result)
        .text("reason", format_args!("{:?}", fault.reason()))
        .text("message", fault.text())
}
