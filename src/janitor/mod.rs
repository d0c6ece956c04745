//! The janitor: removes exports that an engine finished after their build had ended, ends namespaces that nobody uses
//! any more, and tidies the store.

mod leases;

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::{
    engines::{Handle, State},
    fault::{Fault, causes},
    images::Images,
    names::EngineName,
    store::{Forgotten, Store},
    tasks::Group,
};
pub use leases::end_unused;

/// How often it looks for late exports. They are rare and cost only disk space.
const INTERVAL: Duration = Duration::from_secs(30);
/// How often the store is tidied.
const TIDY_INTERVAL: Duration = Duration::from_secs(3600);

/// Looks after one engine until `tasks` are cancelled.
pub fn look_after(engine: Handle, tasks: &Group) {
    let cancelled = tasks.clone();
    drop(tasks.spawn("janitor", async move {
        let looking = async {
            let mut ticks = interval(INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                // An engine that is down is looked after when it is usable again.
                let state = engine.states().borrow().clone();
                if let State::Up(images) = state {
                    look(&images).await;
                }
            }
        };
        let _ = cancelled.unless_cancelled(looking).await;
    }));
}

/// Removes unused rows from the store every hour until `tasks` are cancelled.
pub fn tidy(store: Store, engines: Vec<EngineName>, tasks: &Group) {
    let cancelled = tasks.clone();
    drop(tasks.spawn("tidy", async move {
        let tidying = async {
            let store = store.own();
            let engines = engines.iter().map(ToString::to_string).collect();
            forgotten(store.forget_engines_but(engines).await);
            let mut ticks = interval(TIDY_INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                forgotten(store.forget_unused().await);
            }
        };
        let _ = cancelled.unless_cancelled(tidying).await;
    }));
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

async fn look(images: &Images) {
    if let Err(fault) = images.remove_late_exports().await {
        let engine = images.engine().name();
        tracing::warn!(engine, cause = causes(&fault), "cannot look for late exports");
    }
}
