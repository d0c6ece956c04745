//! The second look at what has ended: what an engine did after nobody waited for it any more.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::{
    engines::{Handle, State},
    fault::causes,
    images::Images,
    tasks::Group,
};

/// How often it looks. What it finds is rare and takes disk, no more.
const INTERVAL: Duration = Duration::from_secs(30);

/// Looks after one engine until `tasks` are cancelled.
pub fn look_after(engine: Handle, tasks: &Group) {
    let cancelled = tasks.clone();
    drop(tasks.spawn("janitor", async move {
        let looking = async {
            let mut ticks = interval(INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                // One that is down is looked after when it is taken up again.
                let state = engine.states().borrow().clone();
                if let State::Up(images) = state {
                    look(&images).await;
                }
            }
        };
        let _ = cancelled.unless_cancelled(looking).await;
    }));
}

async fn look(images: &Images) {
    for looked in [images.remove_late_exports().await] {
        if let Err(fault) = looked {
            let engine = images.engine().name();
            tracing::warn!(engine, cause = causes(&fault), "what has ended could not be looked at");
        }
    }
}
