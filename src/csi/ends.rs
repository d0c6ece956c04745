//! The end of a pod's namespace, in every engine.

use crate::{
    audit::{Event, EventKind, Trail},
    fault::Fault,
    front::Front,
    names::Pod,
    store::Access,
};

/// Ends the namespace of a pod that proves nothing any more: cancels all that runs there, waits for it, and removes all
/// that the namespace owns. Only an engine that may have something of it has to be usable.
pub(super) async fn end(front: &Front, store: &Access, trail: &Trail, pod: &Pod) -> Result<(), Fault> {
    let namespace = pod.own_namespace();
    let opaque = front.work().opaque(&namespace);
    let name = namespace.to_string();
    for engine in front.engines() {
        // Nothing begins there until this is dropped, and then nobody is left who could begin.
        let end = front.work().end_abandoned(engine.name(), &namespace).await;
        if store.lease(engine.name(), &opaque).await?.is_none() {
            continue;
        }
        let images = engine.images().await?;
        let owned = images.possessions().await?.remove(&opaque).unwrap_or_default();
        let engine = engine.name();
        let removed = images.remove_namespace(&opaque, &owned).await?;
        if removed.is_gone || removed.images > 0 {
            let event = Event::new(EventKind::NamespaceEnded).text("engine", engine).text("rule", "pod");
            trail.record(event.namespace(Some(&namespace)).number("images", removed.images as u64));
        }
        if removed.is_gone {
            let (images, builds) = (removed.images, end.builds());
            tracing::info!(%engine, namespace = name, images, builds, "a pod's namespace has ended with the pod");
        } else {
            // The pod must not wait for a container of somebody else's.
            tracing::warn!(
                %engine,
                namespace = name,
                "a pod that has ended leaves an image that a container uses: it is removed when nobody has \
                 used it for namespace_ttl"
            );
        }
    }
    Ok(())
}
