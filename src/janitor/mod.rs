//! The janitor: removes exports that an engine finished after their build had ended, ends namespaces that nobody uses
//! any more, removes the cache mounts of jobs that nobody builds any more, and tidies the store.

mod disk;
mod gauge;
mod jobs;
mod leases;
mod waits;

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};
use waits::Waits;

use crate::{
    audit::Trail,
    config::Config,
    engines::{Handle, State},
    fault::{Fault, causes},
    front::Work,
    images::Images,
    names::EngineName,
    store::{Forgotten, Store},
    tasks::Group,
};

/// How often it looks for late exports. They are rare and cost only disk space.
const INTERVAL: Duration = Duration::from_secs(30);
/// How often the store is tidied.
const TIDY_INTERVAL: Duration = Duration::from_secs(3600);

/// Looks after one engine until `tasks` are cancelled.
pub fn look_after(engine: Handle, tasks: &Group) {
    every_while_up("janitor", INTERVAL, engine, tasks, look);
}

/// Ends namespaces and retires jobs that nobody uses in `engine` for as long as `config` says, sooner if its disk is low,
/// until `tasks` are cancelled. Each end is an event of `trail`.
pub fn end_unused(engine: &Handle, work: &Arc<Work>, config: &Config, trail: &Trail, tasks: &Group) {
    leases::end_unused(engine.clone(), Arc::clone(work), config.namespace_ttl, trail.clone(), tasks);
    let waits = Arc::new(Waits::default());
    let after = config.job_retire_after;
    jobs::retire(engine.clone(), Arc::clone(work), after, Arc::clone(&waits), trail.clone(), tasks);
    disk::guard(engine, work, config, waits, trail, tasks);
}

/// A time in the store's unit.
fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// Removes unused rows from the store every hour until `tasks` are cancelled.
pub fn tidy(store: &Store, engines: Vec<EngineName>, tasks: &Group) {
    let (store, mut engines) = (store.own(), Some(engines));
    every("tidy", TIDY_INTERVAL, tasks, move || {
        // The configuration does not change.
        let (store, engines) = (store.clone(), engines.take());
        async move {
            if let Some(engines) = engines {
                let engines = engines.iter().map(ToString::to_string).collect();
                forgotten(store.forget_engines_but(engines).await);
            }
            forgotten(store.forget_unused().await);
        }
    });
}

/// Does `work` at once, and then every `period` until `tasks` are cancelled.
fn every<F>(name: &'static str, period: Duration, tasks: &Group, mut work: impl FnMut() -> F + Send + 'static)
where
    F: Future<Output = ()> + Send,
{
    let cancelled = tasks.clone();
    drop(tasks.spawn(name, async move {
        let working = async {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                work().await;
            }
        };
        let _ = cancelled.unless_cancelled(working).await;
    }));
}

/// The same for an engine's images. An engine that is down is looked at when it is usable again.
fn every_while_up<F>(
    name: &'static str,
    period: Duration,
    engine: Handle,
    tasks: &Group,
    look: impl Fn(Images) -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send,
{
    every(name, period, tasks, move || {
        let looking = match &*engine.states().borrow() {
            State::Up(images) => Some(look(images.clone())),
            State::Starting | State::Down(_) => None,
        };
        async move {
            if let Some(looking) = looking {
                looking.await;
            }
        }
    });
}

fn forgotten(forgotten: Result<Forgotten, Fault>) {
    match forgotten {
        Ok(forgotten) if forgotten == Forgotten::default() => {}
        Ok(Forgotten { unused, of_engines }) => {
            tracing::info!(unused, of_engines, "removed unused rows from the store");
        }
        Err(fault) => tracing::warn!(cause = causes(&fault), "cannot tidy the store"),
    }
}

async fn look(images: Images) {
    if let Err(fault) = images.remove_late_exports().await {
        let engine = images.engine().name();
        tracing::warn!(%engine, cause = causes(&fault), "cannot look for late exports");
    }
}
