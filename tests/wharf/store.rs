//! The facts that wharfd remembers, and forgets when they are no longer needed.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use http::Method;
use rusqlite::Connection;
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::Signal,
};
use wharf::names::Namespace;

use crate::harness::{
    Image, Test, Wharf, Wharfd, cases,
    image::MANIFEST,
    script::{Reply, ScriptedRegistry},
    wait_for,
};

cases![
    forgotten_facts_are_learnt_again,
    a_long_reference_is_forgotten_with_its_image,
    the_store_does_not_grow_with_tags_and_removals,
    an_image_that_is_not_fetched_leaves_no_row,
    a_removed_engine_is_forgotten,
    a_store_that_opens_slowly_delays_no_signal
];

fn store(wharfd: &Wharfd) -> Connection {
    Connection::open(wharfd.state_dir().join("wharf.sqlite")).unwrap()
}

fn rows(wharfd: &Wharfd, of: &str) -> u32 {
    store(wharfd).query_row(&format!("SELECT count(*) FROM {of}"), [], |row| row.get(0)).unwrap()
}

/// Facts about layers may be lost while the claims about them remain. The engine already has the image, and
/// fetches none of it again.
async fn forgotten_facts_are_learnt_again(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let context = test.context("context", &[("Dockerfile", &format!("FROM {base}\nCOPY Dockerfile /\n"))]);
    let job = Wharf::new(&test, &wharfd, "job#1");
    job.build_id(&context, &[]).await;
    let known = rows(&wharfd, "layer_facts");
    assert_eq!(known > 0, test.engine.is_containerd(), "{known}");
    assert_eq!(wharfd.terminate().await, 0);
    store(&wharfd).execute("DELETE FROM layer_facts", []).unwrap();
    wharfd.start().await;
    // In another namespace: in the first one, references keep their first meaning.
    job.in_namespace("job#2").build_id(&context, &[]).await;
    assert_eq!(rows(&wharfd, "layer_facts") > 0, known > 0);
}

async fn a_long_reference_is_forgotten_with_its_image(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let long = |digit: &str| format!("registry.example.com/{}:1", digit.repeat(220));
    let (ours, theirs) = (Wharf::new(&test, &wharfd, "ours#1"), Wharf::new(&test, &wharfd, "theirs#1"));
    ours.build_id(&context, &["-t", &long("1"), "-t", &long("2")]).await;
    theirs.build_id(&context, &["-t", &long("1")]).await;
    assert_eq!(rows(&wharfd, "long_names"), 3);
    ours.run(["namespace", "rm"]).await.ok();
    assert_eq!(rows(&wharfd, "long_names"), 1);
    let names: Vec<String> = theirs.images().await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [long("1")]);
    // The image is removed on the engine; its namespace continues.
    ours.build_id(&context, &["-t", &long("2")]).await;
    let names = wharfd.keys().names(&Namespace::new("theirs", "1").unwrap());
    for name in test.engine.names_with_prefix(names.prefix()).await {
        test.engine.remove_image(&name).await;
    }
    assert_eq!(wharfd.terminate().await, 0);
    wharfd.start().await;
    assert_eq!(rows(&wharfd, "long_names"), 1);
    let names: Vec<String> = ours.images().await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [long("2")]);
}

/// Nothing in the store grows for ever by what a job chooses.
async fn the_store_does_not_grow_with_tags_and_removals(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let job = Wharf::new(&test, &wharfd, "job#1");
    job.build_id(&context, &["-t", "app:1"]).await;
    let tables =
        ["bases", "exports", "holds", "layer_claims", "layer_facts", "long_names", "pins", "suspects"];
    let before = tables.map(|table| rows(&wharfd, table));
    for round in 0..3 {
        let long = format!("registry.example.com/{}:{round}", "a".repeat(220));
        job.run(["tag", "app:1", &long]).await.ok();
        assert_eq!(rows(&wharfd, "long_names"), 1);
        job.run(["rmi", &long]).await.ok();
        assert_eq!(tables.map(|table| rows(&wharfd, table)), before, "{round}");
    }
}

/// A registry can have a job begin any number of fetches that bring nothing.
async fn an_image_that_is_not_fetched_leaves_no_row(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let image = Image::base(&test.unique("base"));
    image.push(&registry, "whole", "1").await;
    let manifest = registry.call(Method::GET, "/v2/whole/manifests/1").header("accept", MANIFEST);
    let (manifest, config) = (manifest.send().await.ok().body, image.config().to_string());
    let (layer, is_silent) = (image.layers[0].digest.clone(), Arc::new(AtomicBool::new(false)));
    let silent = Arc::clone(&is_silent);
    let lacking = ScriptedRegistry::start(move |_, path| {
        let whole = |kind: &str, body: &[u8]| {
            Reply::Whole("200 OK", vec![("content-type", kind.to_owned())], body.to_vec())
        };
        match path {
            "/v2/" => whole("application/json", b"{}"),
            path if path.contains("/manifests/") => whole(MANIFEST, &manifest),
            path if !path.ends_with(&layer) => whole("application/octet-stream", config.as_bytes()),
            _ if silent.load(Ordering::Relaxed) => Reply::Never,
            _ => Reply::Whole("404 Not Found", Vec::new(), Vec::new()),
        }
    })
    .await;
    let (job, name) = (Wharf::new(&test, &wharfd, "job#1"), format!("{}/lacking:1", lacking.host()));
    assert_ne!(job.run(["pull", &name]).await.status, 0);
    assert_eq!(rows(&wharfd, "holds"), 0, "the registry has not the layer");

    is_silent.store(true, Ordering::Relaxed);
    let pull = job.start(["pull", &name]);
    let held = async || (rows(&wharfd, "holds") == 1).then_some(());
    pull.while_running("the row of the fetch", held).await;
    pull.signal(Signal::INT);
    let gone = async || (rows(&wharfd, "holds") == 0).then_some(());
    wait_for("the end of the fetch", gone).await;

    let pull = job.start(["pull", &name]);
    pull.while_running("the row of the fetch", held).await;
    wharfd.kill().await;
    assert_eq!(rows(&wharfd, "holds"), 1);
    wharfd.start().await;
    assert_eq!(rows(&wharfd, "holds"), 0, "wharfd has crashed");

    job.run(["pull", &registry.name("whole:1")]).await.ok();
    assert_eq!(rows(&wharfd, "holds"), 1);
    assert_eq!(wharfd.terminate().await, 0);
    wharfd.start().await;
    assert_eq!(rows(&wharfd, "holds"), 1, "the engine has the image");
}

async fn a_removed_engine_is_forgotten(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    assert_eq!(wharfd.terminate().await, 0);
    let of = |engine: &str| format!("('{engine}', '26.1.5', 'a', 1, 1, strftime('%s', 'now'))");
    let gone = format!("INSERT INTO suspects VALUES {}, {}", of("default"), of("gone"));
    store(&wharfd).execute(&gone, []).unwrap();
    wharfd.start().await;
    let forgotten = async || (rows(&wharfd, "suspects WHERE engine = 'gone'") == 0).then_some(());
    wait_for("the rows to be forgotten", forgotten).await;
    let kept = store(&wharfd).execute("DELETE FROM suspects WHERE engine = 'default'", []).unwrap();
    assert_eq!(kept, 1);
}

/// SQLite reads all of a large file when it opens it. Here that never ends: nobody reads the pipe.
async fn a_store_that_opens_slowly_delays_no_signal(test: Arc<Test>) {
    let wharfd = test.wharfd_unstarted(None, &[]);
    fs::create_dir(wharfd.state_dir()).unwrap();
    let store = wharfd.state_dir().join("wharf.sqlite");
    mknodat(CWD, store, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let process = wharfd.spawn();
    process.says("that it starts", |line| line.contains("wharfd starts").then_some(())).await;
    assert_eq!(wharfd.terminate().await, 0);
}
