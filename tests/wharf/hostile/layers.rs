//! Layers that a job has built, found by builds on another's image. An engine names the files of a layer by the hash of
//! its tar, which does not say all that the files are.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::harness::{
    Image, Registry, Test, Wharf, Wharfd, cases,
    image::{context_tar, digest, push_blob, push_manifest},
    tree::tree,
};

cases![a_layer_with_the_hash_of_anothers, own_layers_change_nothing_else];

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A regular file `.wh.NAME` has the same tar as the deletion of NAME: wherever that layer is unpacked, NAME is gone.
/// Where a job has built it, NAME is there.
async fn a_layer_with_the_hash_of_anothers(test: Arc<Test>) {
    let registry = test.registry().await;
    let with = |layers: &str| {
        let config = format!("layers = \"{layers}\"\n");
        let test = Arc::clone(&test);
        async move { test.wharfd_with(Some(&config), &[]).await }
    };
    let (shared, own) = tokio::join!(with("shared"), with("own"));
    let found = seen_on_honest_image(&test, &registry, &shared, "shared").await;
    assert_eq!(found, "there\n", "without layers of each job's own the attack works");
    assert_eq!(seen_on_honest_image(&test, &registry, &own, "own").await, "gone\n");
}

/// What a build finds on an image that deletes `/mark`, after another job has built a layer with the same hash.
async fn seen_on_honest_image(test: &Test, registry: &Registry, wharfd: &Arc<Wharfd>, name: &str) -> String {
    let base = Image::base(&test.unique(name));
    let below = base.layers.len();
    base.push(registry, name, "base").await;
    let (thief, victim) = (Wharf::new(test, wharfd, "thief#1"), Wharf::new(test, wharfd, "victim#1"));
    let from = |context: &str, image: &str, step: &str| {
        test.context(&format!("{name}-{context}"), &[("Dockerfile", &format!("FROM {image}\nRUN {step}\n"))])
    };
    let evil = from("thief", &registry.name(&format!("{name}:base")), ": > /.wh.mark");
    thief
        .run(["build", "--push", "-t", &registry.name(&format!("{name}:evil")), evil.to_str().unwrap()])
        .await
        .ok();

    // The honest image has the base image's layers and the deletion, and was built elsewhere.
    let mut manifest = registry.manifest(name, "evil").await;
    let path = format!("/v2/{name}/blobs/{}", manifest["config"]["digest"].as_str().unwrap());
    let mut config = registry.call(Method::GET, &path).send().await.ok().json();
    for layers in [&mut manifest["layers"], &mut config["rootfs"]["diff_ids"]] {
        let layers = layers.as_array_mut().unwrap();
        layers.drain(below..layers.len() - 1);
        assert_eq!(layers.len(), below + 1);
    }
    config["history"] = json!([]);
    let config = Bytes::from(config.to_string());
    push_blob(registry, name, &config).await;
    manifest["config"]["digest"] = json!(digest(&config));
    manifest["config"]["size"] = json!(config.len());
    let kind = manifest["mediaType"].as_str().unwrap_or(MANIFEST).to_owned();
    let honest = push_manifest(registry, name, "honest", &kind, &manifest).await;

    let step = "if [ -e /mark ]; then echo there; else echo gone; fi > /seen";
    let context = from("victim", &registry.name(&format!("{name}@{honest}")), step);
    test.engine.text(&victim.build_id(&context, &[]).await, "/seen").await
}

/// The files, the log and the lines of the history are those of a build without own layers.
async fn own_layers_change_nothing_else(test: Arc<Test>) {
    let registry = test.registry().await;
    let base = test.base(&registry).await;
    let dockerfile = format!(
        "FROM {base} AS a\nRUN echo one > /one\nCOPY f /f\nENV A=b\n\
         FROM scratch AS b\nCOPY f /g\nCOPY --from=a /one /one\nCOPY --link f /h\n\
         FROM a\nCOPY --from=b / /b/\nWORKDIR /w\nRUN echo two > /two\nCMD [\"x\"]\n"
    );
    let context = test.context("context", &[("Dockerfile", &dockerfile), ("f", "f")]);
    let mut results = Vec::new();
    for layers in ["shared", "own"] {
        let wharfd = test.wharfd_with(Some(&format!("layers = \"{layers}\"\n")), &[]).await;
        let job = Wharf::new(&test, &wharfd, "acme#1");
        let id = job.build_id(&context, &[]).await;
        let image = test.engine.inspect(&id).await.unwrap();
        let count = image["RootFS"]["Layers"].as_array().unwrap().len();
        let history = test.engine.get(&format!("/images/{id}/history")).send().await.ok().json();
        let lines: Vec<Value> =
            history.as_array().unwrap().iter().map(|line| line["CreatedBy"].clone()).collect();

        let to = test.dir().join(format!("out-{layers}"));
        let flags = ["--progress", "plain", "-o", to.to_str().unwrap()];
        let shown = job.build(&context, &flags).await.ok().to_string();
        assert!(!shown.contains("of the job's own") && shown.contains("[a 2/3] RUN echo one"), "{shown}");
        let tar = context_tar(&[("Dockerfile", &dockerfile), ("f", "f")]);
        let of_tar = test.dir().join(format!("tar-{layers}"));
        job.run_with(["build", "-o", of_tar.to_str().unwrap(), "-"], &tar).await.ok();
        assert_eq!(tree(&of_tar), tree(&to));
        results.push((count, lines, tree(&to)));
    }
    let [(shared, lines, files), (own, own_lines, own_files)] = results.try_into().unwrap();
    assert_eq!(own_files, files);
    assert_eq!(own, shared + 2);
    // The newest first: five steps and three other instructions are above the own layers.
    let is_own = |line: &Value| line.as_str().unwrap().starts_with("wharf: ");
    let places: Vec<usize> =
        own_lines.iter().enumerate().filter(|(_, line)| is_own(line)).map(|(at, _)| at).collect();
    let above = lines.iter().position(|line| line == "test").unwrap();
    assert_eq!(places, [above, above + 1]);
    assert_eq!(own_lines.into_iter().filter(|line| !is_own(line)).collect::<Vec<_>>(), lines);
}
