//! Hashes layers as they pass through wharfd.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    super::{Images, fetch::Fetch},
    Claims,
    blobs::{Pieces, layer_of},
};
use crate::{
    engine::docker::fault,
    fault::{Fault, Reason, causes},
    names::{CallerId, reference::Digest},
    progress::Step,
    registry::{LOOK, SLOW_BYTES, Watch, Watcher},
    store::LayerFact,
    tasks::{Group, Task},
    telemetry::each_second,
};

/// How many pieces of a layer may wait for the thread that hashes.
const PIECES: usize = 16;
/// The number of bytes between two progress reports.
const REPORT_BYTES: u64 = 4 << 20;
/// The time limit for one layer, since the namespace's other layers wait for it.
const LAYER_TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// Starts a thread that hashes the received pieces until the sender is gone.
fn hashing(tasks: &Group) -> (mpsc::Sender<Bytes>, Task<Option<LayerFact>>) {
    let (pieces, received) = mpsc::channel(PIECES);
    (pieces, tasks.spawn_blocking("hashing", move || layer_of(Pieces::new(received))))
}

impl Images {
    /// Hashes the layers of a pull as they pass, in `tasks`, and withholds a layer from the engine if it
    /// contradicts `claims`. If too many layers are being hashed, a layer is fetched again later.
    pub(in crate::images) fn hash_passing(&self, caller: &CallerId, claims: &Claims, tasks: &Group) -> Watch {
        let caller = caller.clone();
        let (images, claims, tasks) = (self.clone(), Arc::new(claims.clone()), tasks.clone());
        let store = self.store().of(&caller);
        Arc::new(move |blob| {
            let place = images.inner.passing.try_take(&caller)?;
            let (pieces, hashing) = hashing(&tasks);
            let (whole, is_whole) = oneshot::channel();
            let (verdict, is_sound) = oneshot::channel();
            let (store, claims, blob) = (store.clone(), Arc::clone(&claims), blob.clone());
            drop(tasks.spawn("hash", async move {
                let hashed = hashing.await;
                drop(place);
                // Without a verdict the layer is withheld, and nobody is blamed for it.
                let Ok(hashed) = hashed else { return };
                // The receiver may be gone.
                let _ = verdict.send(!claims.belies(&blob, hashed.as_ref()));
                let (Some(layer), Ok(())) = (hashed, is_whole.await) else { return };
                if let Err(fault) = store.learn_layer(&blob, &layer).await {
                    let cause = causes(&fault);
                    each_second!(warn, %blob, cause, "cannot store the hash of a layer");
                }
            }));
            Some(Watcher { pieces, verdict: is_sound, whole })
        })
    }

    /// Fetches the layer `blob` of the image that `fetch` fetches, only to hash it.
    pub(super) async fn hash_layer(
        &self,
        fetch: &Fetch,
        blob: &Digest,
        step: &Step,
    ) -> Result<LayerFact, Fault> {
        // One layer at a time for each namespace, so that no namespace takes all places.
        let _lock = self.inner.hashes.lock(&fetch.namespace).await;
        let place = self.inner.fetching.take(&fetch.caller).await;
        let hashed = timeout(LAYER_TIMEOUT, self.fetch_and_hash(fetch, blob, step)).await;
        drop(place);
        let layer = hashed.map_err(|_| fault::stalled(&fetch.reference))??;
        self.store().of(&fetch.caller).learn_layer(blob, &layer).await?;
        Ok(layer)
    }

    async fn fetch_and_hash(&self, fetch: &Fetch, blob: &Digest, step: &Step) -> Result<LayerFact, Fault> {
        let failed = |error: crate::registry::Error| error.fault(&fetch.reference, fetch.logged_in);
        let mut fetched = fetch.repository.clone().blob(blob).await.map_err(failed)?;
        let (pieces, hashing) = hashing(&fetch.tasks);
        let (mut done, mut reported) = (0, 0);
        let (mut looked, mut looked_done) = (Instant::now(), 0);
        // The blob's digest is checked at its end: hashes of a partial blob are not trusted.
        while let Some(piece) = fetched.next().await.map_err(failed)? {
            done += piece.len() as u64;
            // The thread has ended because it cannot unpack the layer.
            if pieces.send(piece).await.is_err() {
                break;
            }
            // A slow layer gives up its place if no other place is left.
            if looked.elapsed() >= LOOK {
                let is_slow = done - looked_done < SLOW_BYTES;
                if is_slow && self.inner.fetching.are_taken() {
                    return Err(fault::stalled(&fetch.reference));
                }
                (looked, looked_done) = (Instant::now(), done);
            }
            if done - reported >= REPORT_BYTES {
                reported = done;
                step.moves("verifying layers", done, 0, false);
            }
        }
        drop(pieces);
        step.moves("verifying layers", done, done, true);
        hashing.await?.ok_or_else(|| {
            let text = format!("a layer of {} cannot be unpacked", fetch.reference.familiar());
            Fault::new(Reason::ImageUnsupported, text)
        })
    }
}
