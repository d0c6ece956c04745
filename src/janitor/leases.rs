//! Ends namespaces that nobody has used for some time: a pipeline that is killed cannot end its own.

use std::{sync::Arc, time::Duration};

use super::{every_while_up, gauge::Need, seconds};
use crate::{
    audit::{Event, EventKind, Trail},
    engines::Handle,
    fault::{Fault, causes},
    front::Work,
    images::{Images, leases::Possessions},
    names::{EngineName, Namespace},
    naming::NamespaceKey,
    tasks::Group,
    telemetry::each_second,
};

/// How often it looks at the store, which is cheap.
const INTERVAL: Duration = Duration::from_secs(10);

/// Ends the namespaces in `engine` that nobody has used for `ttl`, until `tasks` are cancelled. Each end is an event of
/// `trail`.
pub(super) fn end_unused(engine: Handle, work: Arc<Work>, ttl: Duration, trail: Trail, tasks: &Group) {
    let name = engine.name().clone();
    every_while_up("leases", INTERVAL, engine, tasks, move |images| {
        let look = Look {
            engine: name.clone(),
            images,
            work: Arc::clone(&work),
            ttl,
            rule: "namespace_ttl",
            need: None,
            trail: trail.clone(),
        };
        async move {
            if let Err(fault) = look.look().await {
                tracing::warn!(engine = %look.engine, cause = causes(&fault), "cannot look for unused namespaces");
            }
        }
    });
}

/// A look at one engine.
pub(super) struct Look {
    pub(super) engine: EngineName,
    pub(super) images: Images,
    pub(super) work: Arc<Work>,
    pub(super) ttl: Duration,
    /// The setting that says so.
    pub(super) rule: &'static str,
    /// With a goal, the look ends once it is met, and leaves namespaces with an image that a container uses.
    pub(super) need: Option<Arc<Need>>,
    pub(super) trail: Trail,
}

impl Look {
    pub(super) async fn look(&self) -> Result<(), Fault> {
        let (engine, store) = (&self.engine, self.images.store().own());
        // A namespace is used for as long as something runs there.
        let running = self.work.namespaces_of(engine);
        if !running.is_empty() {
            store.touch_namespaces(engine, running).await?;
        }
        let unused = store.unused_namespaces(engine, seconds(self.ttl)).await?;
        if unused.is_empty() {
            return Ok(());
        }
        let mut owned = self.images.possessions().await?;
        let containers = match self.need {
            Some(_) => self.images.engine().image_store().containers().await?,
            None => Vec::new(),
        };
        for opaque in unused {
            if let Some(need) = &self.need
                && need.is_met().await
            {
                break;
            }
            let owned = owned.remove(&opaque).unwrap_or_default();
            if owned.are_used_by(&containers) {
                // It would lose its other images, and is not gone even so.
                continue;
            }
            if let Err(fault) = self.end(&opaque, owned).await {
                // A namespace that fails again and again does not keep others from their end.
                let cause = causes(&fault);
                each_second!(warn, engine = %self.engine, cause, "an unused namespace cannot be ended");
                self.images.engine().check().await?;
            }
        }
        Ok(())
    }

    /// Ends a namespace, unless it has been used since.
    async fn end(&self, opaque: &NamespaceKey, owned: Possessions) -> Result<(), Fault> {
        let (engine, store) = (&self.engine, self.images.store().own());
        let Some(_end) = self.work.end_idle(engine, opaque) else { return Ok(()) };
        // Nothing can begin there now.
        let unused = store.unused_namespace(engine, opaque, seconds(self.ttl)).await?;
        let Some(lease) = unused else { return Ok(()) };
        let name = lease.namespace.as_ref().map(Namespace::to_string);
        let removed = self.images.remove_namespace(opaque, &owned).await?;
        if let Some(need) = &self.need
            && removed.images > 0
        {
            need.removed(owned.size());
        }
        if removed.is_gone || removed.images > 0 {
            let event = Event::new(EventKind::NamespaceEnded).text("engine", engine).text("rule", self.rule);
            let event = event.namespace(lease.namespace.as_ref()).number("images", removed.images as u64);
            self.trail.record(event);
        }
        if removed.is_gone {
            tracing::info!(%engine, namespace = name, images = removed.images, "a namespace that nobody uses has ended");
        } else {
            tracing::warn!(
                %engine,
                namespace = name,
                images = removed.images,
                "a namespace that nobody uses has an image that a container uses: it ends later"
            );
            store.touch_namespaces(engine, vec![opaque.clone()]).await?;
        }
        Ok(())
    }
}
