//! Slow images that take an engine's places for downloads, or layers of other images.

use std::{sync::Arc, time::Duration};

use serde_json::json;

use crate::harness::{
    Image, Test, Wharf, cases,
    image::{CONFIG, File, LAYER, Layer, MANIFEST, digest},
    process::{Background, shell_status},
    script::{Reply, ScriptedRegistry},
    wait_for,
};

cases![
    a_slow_image_delays_no_other,
    images_that_are_hardly_slow_delay_no_other_for_long,
    an_image_that_is_hardly_slow_delays_no_other_by_a_layer,
];

/// Two callers beside root.
const SERVE: &str = "[[serve]]\nuid = 1000\nnamespaces = \"*\"\n[[serve]]\nuid = 1001\nnamespaces = \"*\"\n";
const PULL_TIME: Duration = Duration::from_secs(120);
/// How long the other tests here, with a wharfd each, may take all of the engine's places for downloads.
const SLOT_TIME: Duration = Duration::from_secs(300);

/// A registry that serves `image`, each of its layers that `drips` in pieces of `kib` KiB, ten a second.
async fn dripping(
    image: &Image,
    kib: usize,
    drips: impl Fn(&Layer) -> bool + Send + Sync + 'static,
) -> ScriptedRegistry {
    let (config, layers) = (image.config().to_string(), image.layers.clone());
    let described =
        |layer: &Layer| json!({"mediaType": LAYER, "size": layer.blob.len(), "digest": layer.digest});
    let document = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "layers": layers.iter().map(described).collect::<Vec<_>>(),
        "config": {"mediaType": CONFIG, "size": config.len(), "digest": digest(config.as_bytes())},
    })
    .to_string();
    ScriptedRegistry::start(move |_, path| match path {
        "/v2/" => Reply::Whole("200 OK", Vec::new(), b"{}".to_vec()),
        path if path.contains("/manifests/") => {
            let headers = vec![("content-type", MANIFEST.to_owned())];
            Reply::Whole("200 OK", headers, document.clone().into_bytes())
        }
        path => match layers.iter().find(|layer| path.ends_with(&layer.digest)) {
            Some(layer) if drips(layer) => Reply::Drip(kib, layer.blob.to_vec()),
            Some(layer) => Reply::Whole("200 OK", Vec::new(), layer.blob.to_vec()),
            None => Reply::Whole("200 OK", Vec::new(), config.clone().into_bytes()),
        },
    })
    .await
}

/// An image of three layers of so many MiB each.
fn large_image(test: &Test, mark: &str, mib: usize) -> Image {
    let layer = |number| Layer::noise(&test.unique(&format!("{mark}-{number}")), mib << 20);
    Image::of((0..3).map(layer).collect())
}

fn pull(job: &Wharf, registry: &ScriptedRegistry) -> Background {
    job.start(["pull", &format!("{}/x:1", registry.host())])
}

/// An engine downloads three layers at once, whichever images they belong to.
async fn a_slow_image_delays_no_other(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let drip = dripping(&large_image(&test, "slow", 4), 1, |_| true).await;
    let (thief, victim) = (Wharf::new(&test, &wharfd, "thief#1"), Wharf::new(&test, &wharfd, "victim#1"));
    let dripping = pull(&thief, &drip);
    wait_for("the layers to drip", async || (drip.sent() > 32 << 10).then_some(())).await;
    let base = test.base(&registry).await;
    victim.run(["pull", &base]).await.ok();
    // At 30 KiB a second the pull is not finished yet.
    assert!(drip.sent() < 3 << 20, "{} bytes came drop by drop", drip.sent());
    if !test.engine.is_containerd() {
        let status = dripping.wait(Duration::from_secs(10)).await.unwrap();
        assert_eq!(shell_status(status), 5, "{:?}", dripping.lines());
        assert!(
            dripping.lines().iter().any(|line| line.contains("while other pulls wait")),
            "{:?}",
            dripping.lines()
        );
    }
}

/// The registries of two callers send just enough for not being slow: the third would have to wait for all their
/// layers.
async fn images_that_are_hardly_slow_delay_no_other_for_long(test: Arc<Test>) {
    const MIB: usize = 4;
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd_with(Some(SERVE), &[]));
    let mut drips = Vec::new();
    for number in 0..4 {
        drips.push(dripping(&large_image(&test, &number.to_string(), MIB), 12, |_| true).await);
    }
    let thieves = [1000, 1001].map(|uid| Wharf::new(&test, &wharfd, &format!("thief-{uid}#1")).as_uid(uid));
    let pulls: Vec<_> =
        drips.iter().zip(thieves.iter().cycle()).map(|(drip, thief)| pull(thief, drip)).collect();
    let sent = || drips.iter().map(ScriptedRegistry::sent).sum::<usize>();
    let begun = async || (sent() > 256 << 10).then_some(());
    pulls[0].while_running_at_most(SLOT_TIME, "the layers to drip", begun).await;
    let base = test.base(&registry).await;
    let victim = Wharf::new(&test, &wharfd, "victim#1").start(["pull", &base]);
    assert!(victim.wait(PULL_TIME).await.unwrap().success(), "{:?}", victim.lines());
    if !test.engine.is_containerd() {
        assert!(sent() < (6 * MIB) << 20, "{} bytes came", sent());
    }
    for pull in &pulls {
        assert!(pull.ended().await.is_none(), "it begins again: {:?}", pull.lines());
    }
    for thief in &thieves {
        thief.run(["namespace", "rm"]).await.ok();
    }
}

/// An engine fetches a layer once for all images that have it, from the first.
async fn an_image_that_is_hardly_slow_delays_no_other_by_a_layer(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd_with(Some(SERVE), &[]));
    let shared = Layer::noise(&test.unique("shared"), 16 << 20);
    let own = |mark| Layer::of([(mark, File::Content(test.unique(mark).as_bytes(), 0o644))]);
    Image::of(vec![shared.clone(), own("victim")]).push(&registry, "victims", "1").await;
    let digest = shared.digest.clone();
    let drips = move |layer: &Layer| layer.digest == digest;
    let drip = dripping(&Image::of(vec![shared, own("thief")]), 16, drips).await;
    let thief = Wharf::new(&test, &wharfd, "thief#1").as_uid(1000);
    let slow = pull(&thief, &drip);
    let drips = async || (drip.sent() > 256 << 10).then_some(());
    slow.while_running_at_most(SLOT_TIME, "the layer to drip", drips).await;
    let victim = Wharf::new(&test, &wharfd, "victim#1").start(["pull", &registry.name("victims:1")]);
    assert!(victim.wait(PULL_TIME).await.unwrap().success(), "{:?}", victim.lines());
    assert!(drip.sent() < 12 << 20, "{} bytes came", drip.sent());
    // It begins again, and the engine has the layer now.
    assert!(slow.wait(PULL_TIME).await.unwrap().success(), "{:?}", slow.lines());
}
