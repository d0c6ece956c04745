//! Images whose name is that of an index: the engine reads the manifest of its platform, and nothing else of the index.

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};

use crate::harness::{
    Image, Registry, Test, Wharf, cases,
    image::{MANIFEST, push_index, push_texts},
};

cases![
    a_base_with_attestations,
    an_index_changes_and_its_image_does_not,
    an_index_within_an_index,
    an_index_of_hundreds_of_images,
];

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The platform of the engine.
fn platform(image: &Image) -> Value {
    let config = image.config();
    json!({"os": config["os"], "architecture": config["architecture"]})
}

/// A platform that is no engine's here.
fn another(variant: usize) -> Value {
    json!({"os": "linux", "architecture": "s390x", "variant": variant.to_string()})
}

/// Pushes an index of an image and its attestation, as BuildKit does. The digests of the three.
async fn push_attested(registry: &Registry, image: &Image) -> [String; 3] {
    let own = image.push(registry, "base", "own").await;
    let config = r#"{"architecture":"unknown","os":"unknown","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let kinds = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.config.v1+json");
    let layers = r#""layers":[],"#;
    let statement = push_texts(registry, ("base", "statement"), kinds, config.to_owned(), layers).await;
    let size = async |tag: &str| {
        let call = registry.call(Method::GET, &format!("/v2/base/manifests/{tag}"));
        call.header("accept", format!("{MANIFEST}, {}", kinds.0)).send().await.ok().body.len()
    };
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [
            {"mediaType": MANIFEST, "digest": own, "size": size("own").await, "platform": platform(image)},
            {
                "mediaType": kinds.0, "digest": statement, "size": size("statement").await,
                "platform": {"os": "unknown", "architecture": "unknown"},
                "annotations": {
                    "vnd.docker.reference.digest": own, "vnd.docker.reference.type": "attestation-manifest",
                },
            },
        ],
    });
    let put = registry.call(Method::PUT, "/v2/base/manifests/attested").body(INDEX, index.to_string());
    let index = put.send().await.ok().header("docker-content-digest").unwrap();
    [own, statement, index]
}

/// The containerd store would fetch the attestations of an image with it, and not take the image without: many a
/// mirror leaves them out.
async fn a_base_with_attestations(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let image = Image::base(&test.unique("own"));
    let [own, statement, index] = push_attested(&registry, &image).await;
    let attested = registry.name("base:attested");
    let context = |name: &str, base: &str| {
        test.context(name, &[("Dockerfile", &format!("FROM {base}\nRUN cat /mark > /copy\n"))])
    };
    let job = Wharf::new(&test, &wharfd, "job#1");
    for gone in [false, true] {
        if gone {
            let path = format!("/v2/base/manifests/{statement}");
            registry.call(Method::DELETE, &path).send().await.ok();
            test.engine.pull(&attested, None).await;
            let bare = test.engine.inspect(&attested).await;
            assert_eq!(bare.is_none(), test.engine.is_containerd(), "{bare:?}");
            test.engine.remove_image(&attested).await;
        }
        let job = job.in_namespace(&format!("job#{gone}"));
        let before = registry.mark().await;
        let app = registry.name(&format!("app:{gone}"));
        job.build(context("by-tag", &attested), &["-t", &app, "--push"]).await.ok();
        let by_digest = registry.name(&format!("base@{index}"));
        job.build(context("by-digest", &by_digest), &[]).await.ok();
        // The registry's digest is the one that it has under the name.
        let pulled = job.run(["pull", &attested]).await.ok().stdout;
        assert!(pulled.contains(&format!("Digest: {index}")), "{pulled}");
        let asked = registry.requests_since(&before).await;
        assert!(!asked.iter().any(|request| request.contains(&statement)), "{asked:?}");
        // The image is the manifest, and is pushed as that.
        let copy = registry.name(&format!("copy:{gone}"));
        job.run(["tag", &attested, &copy]).await.ok();
        job.run(["push", &copy]).await.ok();
        if test.engine.is_containerd() {
            let images = job.images().await;
            assert!(images.contains(&(attested.clone(), own.clone())), "{images:?}");
            assert_eq!(registry.digest("copy", &gone.to_string()).await, Some(own.clone()));
        }
        job.run(["namespace", "rm"]).await.ok();
    }
}

/// An index changes with the image of any platform.
async fn an_index_changes_and_its_image_does_not(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let image = Image::base(&test.unique("base"));
    image.push(&registry, "base", "image").await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let name = registry.name("base:1");
    push_index(&registry, "base", "1", &[("image", another(1)), ("image", platform(&image))]).await;
    job.run(["pull", &name]).await.ok();
    let first = registry.digest("base", "1").await;
    push_index(&registry, "base", "1", &[("image", platform(&image)), ("image", another(2))]).await;
    let second = registry.digest("base", "1").await.unwrap();
    assert_ne!(first.as_ref(), Some(&second));
    let before = registry.mark().await;
    let pulled = job.run(["pull", &name]).await.ok().stdout;
    assert!(pulled.contains(&second), "{pulled}");
    let asked = registry.requests_since(&before).await;
    assert!(!asked.iter().any(|request| request.contains("/blobs/")), "{asked:?}");

    push_index(&registry, "base", "other", &[("image", another(1)), ("image", another(2))]).await;
    job.run(["pull", &registry.name("base:other")]).await.ended(6).says(&["base:other", "has no image for"]);
}

async fn an_index_within_an_index(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let image = Image::base(&test.unique("base"));
    image.push(&registry, "base", "0").await;
    for depth in 1..=5 {
        let inner = (depth - 1).to_string();
        push_index(&registry, "base", &depth.to_string(), &[(&inner, platform(&image))]).await;
    }
    let job = Wharf::new(&test, &wharfd, "job#1");
    for depth in 1..=4 {
        job.run(["pull", &registry.name(&format!("base:{depth}"))]).await.ok();
    }
    job.run(["pull", &registry.name("base:5")]).await.ended(1).says(&["base:5", "index within an index"]);
}

/// An engine with the containerd store looks at each manifest of an index whenever it lists its images. Of this one
/// it has only the image.
async fn an_index_of_hundreds_of_images(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let image = Image::base(&test.unique("base"));
    let own = image.push(&registry, "base", "image").await;
    let of: Vec<_> = (1..500).map(another).chain([platform(&image)]).map(|of| ("image", of)).collect();
    push_index(&registry, "base", "many", &of).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let name = registry.name("base:many");
    job.run(["pull", &name]).await.ok();
    if test.engine.is_containerd() {
        assert_eq!(job.images().await, [(name, own)]);
    }
}
