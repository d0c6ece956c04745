//! A job's manifests with false descriptions of honest layers.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::harness::{
    Image, Test, Wharf, cases,
    image::{self, File, Layer, digest},
    script::{Reply, ScriptedRegistry},
};

cases![
    false_descriptions_of_layers_are_not_used,
    a_config_has_one_name,
    a_layer_is_fetched_only_from_its_registry,
    layers_in_zstandard_reach_no_engine_that_fails_to_unpack_them,
];

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A registry that serves `image` under every tag; `edit` changes the descriptions of its layers.
async fn serve(image: &Image, edit: impl Fn(&mut Value)) -> ScriptedRegistry {
    let config = image.config().to_string();
    let layers: Vec<Value> = image
        .layers
        .iter()
        .map(|layer| {
            let mut described = json!({"mediaType": LAYER, "size": layer.blob.len(), "digest": layer.digest});
            // Every image contains busybox.
            if layer.digest != Layer::busybox().digest {
                edit(&mut described);
            }
            described
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
        "config": {"mediaType": CONFIG, "size": config.len(), "digest": digest(config.as_bytes())},
    })
    .to_string();
    let mut blobs = blobs_of(&image.layers);
    blobs.push((digest(config.as_bytes()), config.into_bytes()));
    serve_manifest(manifest, blobs).await
}

fn blobs_of(layers: &[Layer]) -> Vec<(String, Vec<u8>)> {
    layers.iter().map(|layer| (layer.digest.clone(), layer.blob.to_vec())).collect()
}

/// A registry that serves a manifest under every tag, and blobs by their digests.
async fn serve_manifest(manifest: String, blobs: Vec<(String, Vec<u8>)>) -> ScriptedRegistry {
    ScriptedRegistry::start(move |_, path| {
        let blob = blobs.iter().find(|(digest, _)| path.ends_with(digest.as_str()));
        match (path, blob) {
            ("/v2/", _) => Reply::Whole("200 OK", Vec::new(), b"{}".to_vec()),
            (_, Some((_, blob))) => Reply::Whole("200 OK", Vec::new(), blob.clone()),
            (path, None) if path.contains("/manifests/") => {
                let headers = vec![("content-type", MANIFEST.to_owned())];
                Reply::Whole("200 OK", headers, manifest.clone().into_bytes())
            }
            _ => Reply::Whole("404 Not Found", Vec::new(), Vec::new()),
        }
    })
    .await
}

/// Go takes the last of two names that differ in their case, and wharfd's limit on a config would hold for the other one.
async fn a_config_has_one_name(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let small = Image::of(vec![Layer::busybox()]);
    let large = Image { label: "x".repeat(2 << 20), ..small.clone() };
    let [small, large] = [small, large].map(|image| (image.config().to_string(), image.layers));
    let config = digest(small.0.as_bytes());
    let other = digest(large.0.as_bytes());
    let layer = Layer::busybox();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "layers": [{"mediaType": LAYER, "size": layer.blob.len(), "digest": layer.digest}],
        "config": {"mediaType": CONFIG, "size": large.0.len(), "digest": config},
    });
    let named = format!(r#""digest":"{config}""#);
    let twice = manifest.to_string().replace(&named, &format!(r#"{named},"Digest":"{other}""#));
    let mut blobs = blobs_of(&large.1);
    blobs.extend([(config, small.0.into_bytes()), (other, large.0.into_bytes())]);
    let registry = serve_manifest(twice, blobs).await;
    let name = format!("{}/x:1", registry.host());
    test.engine.pull(&name, None).await.ok();
    let listed = test.engine.inspect(&name).await.unwrap().to_string();
    assert!(listed.len() > 2 << 20, "the bare engine takes the other config");
    test.engine.remove_image(&name).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    job.run(["pull", &name]).await.ended(3).says(&["is refused: its config does not match its layers"]);
}

/// BuildKit remembers the first description of a layer, and uses it in everything that it pushes.
async fn false_descriptions_of_layers_are_not_used(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    type Edit = fn(&mut Value);
    let edits: [(&str, Edit); 5] = [
        ("tar", |layer| layer["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar")),
        ("zstd", |layer| layer["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+zstd")),
        ("odd", |layer| layer["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip+odd")),
        ("size", |layer| layer["size"] = json!(layer["size"].as_u64().unwrap() + 1)),
        ("case", |layer| layer["Size"] = json!(7)),
    ];
    for (name, edit) in edits {
        let content = test.unique(name);
        let own = Layer::of([("data", File::Content(content.as_bytes(), 0o644))]);
        let good = Image::of(vec![Layer::busybox(), own.clone()]);
        good.push(&registry, name, "1").await;
        let honest = registry.name(&format!("{name}:1"));
        let evil = serve(&Image { label: "evil".to_owned(), ..good }, edit).await;
        let thief = Wharf::new(&test, &wharfd, &format!("thief-{name}#1"));
        let victim = Wharf::new(&test, &wharfd, &format!("victim-{name}#1"));
        let build = async |job: &Wharf, base: &str, flags: &[&str]| {
            let dockerfile = format!("FROM {base}\nRUN cp /data /seen\n");
            let context = test.context(&base.replace(['/', ':'], "-"), &[("Dockerfile", &dockerfile)]);
            job.build(&context, flags).await
        };
        // The engine already has the layers, and does not fetch them for the other image.
        thief.run(["pull", &honest]).await.ok();
        let shown = build(&thief, &format!("{}/x:1", evil.host()), &[]).await;
        if test.engine.is_containerd() {
            let (status, text) = match name {
                "odd" => (1, "/x:1 has layers of an unknown media type"),
                _ => (3, "/x:1 is refused: its config does not match its layers"),
            };
            shown.ended(status).says(&[text]);
        }
        let pushed = registry.name(&format!("pushed-{name}:1"));
        build(&victim, &honest, &["-t", &pushed, "--push"]).await.ok();
        let manifest = registry.manifest(&format!("pushed-{name}"), "1").await;
        let layers = manifest["layers"].as_array().unwrap();
        let told = layers.iter().find(|layer| layer["digest"] == own.digest.as_str());
        // The classic store compresses layers again.
        if let Some(told) = told {
            assert_eq!(told["size"], own.blob.len(), "{name}: {told}");
            assert!(told["mediaType"].as_str().unwrap().ends_with("gzip"), "{name}: {told}");
        }
        assert!(told.is_some() || !test.engine.is_containerd(), "{name}: {manifest}");
    }
}

/// The classic store's decoder goes on with what the next one reads, which ends the engine if many break off at once.
async fn layers_in_zstandard_reach_no_engine_that_fails_to_unpack_them(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let content = test.unique("zstd");
    let plain = image::tar([("data", File::Content(content.as_bytes(), 0o644))]);
    let zstd = zstd::encode_all(&plain[..], 3).unwrap();
    let skipped = [&b"\x50\x2a\x4d\x18\x01\0\0\0x"[..], &zstd].concat();
    for (name, blob) in [("zstd", zstd), ("skipped", skipped)] {
        let layer = Layer {
            digest: digest(&blob),
            blob: blob.into(),
            ..Layer::of([("data", File::Content(content.as_bytes(), 0o644))])
        };
        let image = Image::of(vec![Layer::busybox(), layer]);
        // The type need not be true.
        for (kind, media_type) in
            [("honest", format!("{}zstd", LAYER.trim_end_matches("gzip"))), ("false", LAYER.to_owned())]
        {
            let registry = serve(&image, |layer| layer["mediaType"] = json!(media_type)).await;
            let name = format!("{}/{name}-{kind}:1", registry.host());
            let pulled = job.run(["pull", &name]).await;
            if !test.engine.is_containerd() {
                pulled.ended(1).says(&["a layer is compressed with zstd", "containerd image store"]);
                // The engine itself takes it.
                test.engine.pull(&name, None).await.ok();
                test.engine.remove_image(&name).await;
            } else if kind == "honest" && name.contains("/zstd") {
                pulled.ok();
            }
        }
    }
}

/// An engine with the containerd store fetches a layer with `urls` from there, on the node's own network.
async fn a_layer_is_fetched_only_from_its_registry(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let inside = ScriptedRegistry::start(|_, _| Reply::Whole("200 OK", Vec::new(), b"x".to_vec())).await;
    let content = test.unique("urls");
    let image = Image::of(vec![Layer::of([("data", File::Content(content.as_bytes(), 0o644))])]);
    let url = format!("http://{}/inside", inside.host());
    let evil = serve(&image, move |layer| layer["urls"] = json!([url])).await;
    let name = format!("{}/x:1", evil.host());
    let shown = Wharf::new(&test, &wharfd, "thief#1").run(["pull", &name]).await;
    assert_eq!(inside.requests(), Vec::<String>::new(), "{shown}");
    if test.engine.is_containerd() {
        shown.ended(1).says(&["x:1", "urls"]);
        test.engine.pull(&name, None).await;
        assert_eq!(inside.requests(), ["GET /inside"], "a bare engine does not go there");
    }
}
