//! A job's own registry that claims to have another's image, or never ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::harness::{
    Image, PATIENCE, Registry, Test, Wharf, cases,
    image::{File, Layer, digest},
    process::{Background, shell_status},
    relay::Relay,
    script::{Reply, ScriptedRegistry},
    wait_for,
};

cases![
    a_claimed_digest_is_no_proof,
    an_index_with_anothers_image_is_no_proof,
    an_endless_manifest,
    a_slow_registry_delays_nobody,
    a_slow_registry_delays_nobody_by_a_layer,
    a_registry_that_is_hardly_slow_delays_nobody_for_long,
    a_slow_registry_delays_no_end_of_a_namespace,
    a_registry_that_only_wharfd_or_the_engine_reaches,
    a_login_that_breaks_a_registry_gives_no_access,
];

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const USER: &str = "victim";
const PASSWORD: &str = "correct horse";

fn manifest(kind: &str, digest: &str, body: &str) -> Reply {
    let headers = vec![("content-type", kind.to_owned()), ("docker-content-digest", digest.to_owned())];
    Reply::Whole("200 OK", headers, body.as_bytes().to_vec())
}

fn absent() -> Reply {
    Reply::Whole("404 Not Found", Vec::new(), Vec::new())
}

/// A private image that the victim's build has brought to the node; returns its digest there.
async fn private_image(test: &Test, victim: &Wharf, content: &str) -> String {
    let registry = test.private_registry(USER, PASSWORD).await;
    let digest = Image::base(content).push(&registry, "private", "1").await;
    victim.login(&registry, Some((USER, PASSWORD)));
    victim.run(["pull", &registry.name("private:1")]).await.ok();
    digest
}

async fn a_claimed_digest_is_no_proof(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let (victim, thief) = (Wharf::new(&test, &wharfd, "victim#1"), Wharf::new(&test, &wharfd, "thief#1"));
    let content = test.unique("private");
    let stolen = private_image(&test, &victim, &content).await;
    let claimed = stolen.clone();
    let empty = digest(b"{}");
    let other = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 2, "digest": empty},
    })
    .to_string();
    let evil = ScriptedRegistry::start(move |_, path| match path {
        "/v2/" => Reply::Whole("200 OK", Vec::new(), b"{}".to_vec()),
        path if path.ends_with(&empty) => Reply::Whole("200 OK", Vec::new(), b"{}".to_vec()),
        path if path.contains("/manifests/") => manifest(MANIFEST, &claimed, &other),
        _ => absent(),
    })
    .await;
    // The engine passes on the registry's claim.
    let path = format!("/distribution/{}/x:1/json", evil.host());
    let claim = test.engine.get(&path).send().await.ok().json();
    assert_eq!(claim["Descriptor"]["digest"], stolen.as_str());

    let name = format!("{}/x:1", evil.host());
    let dockerfile = format!("FROM {name}\nRUN cat /mark\n");
    let context = test.context("thief", &[("Dockerfile", &dockerfile)]);
    // The classic store refuses the registry's manifest itself.
    let refused = match test.engine.is_containerd() {
        true => (3, "x:1 is refused: its config does not match its layers"),
        false => (1, "the engine failed on"),
    };
    let by_digest = thief.run(["pull", &format!("{}/x@{stolen}", evil.host())]).await;
    for (shown, (status, text)) in [
        (thief.build(&context, &["--no-cache"]).await, refused),
        (thief.run(["pull", &name]).await, refused),
        (by_digest, (5, "the bytes of its manifest do not match the digest")),
        (thief.run(["inspect", &name]).await, (6, "no such image in the namespace thief#1")),
    ] {
        let shown = shown.ended(status).says(&[text]);
        assert!(!shown.to_string().contains(&content), "{shown}");
    }
    assert_eq!(thief.images().await, []);
}

/// The engine checks that an index is genuine, and already has the images in it.
async fn an_index_with_anothers_image_is_no_proof(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let (victim, thief) = (Wharf::new(&test, &wharfd, "victim#1"), Wharf::new(&test, &wharfd, "thief#1"));
    let content = test.unique("private");
    let stolen = private_image(&test, &victim, &content).await;
    let platform = || {
        let config = Image::base("").config();
        json!({"os": config["os"], "architecture": config["architecture"]})
    };
    let index = |child: &str, kind: &str, platform: Value| {
        let size = 1000;
        let child = json!({"mediaType": kind, "size": size, "digest": child, "platform": platform});
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]}).to_string()
    };
    let plain = index(&stolen, MANIFEST, platform());
    let odd = index(&stolen, MANIFEST, json!({"os": "", "architecture": "X86_64", "variant": "v4"}));
    let nested = index(&digest(plain.as_bytes()), INDEX, platform());
    let documents = [("plain", plain), ("odd", odd), ("nested", nested)];
    let served = documents.clone();
    let evil = ScriptedRegistry::start(move |_, path| {
        let at = path.rsplit('/').next().unwrap();
        let found = served.iter().find(|(tag, body)| *tag == at || digest(body.as_bytes()) == at);
        match (path, found) {
            ("/v2/", _) => Reply::Whole("200 OK", Vec::new(), b"{}".to_vec()),
            (_, Some((_, body))) => manifest(INDEX, &digest(body.as_bytes()), body),
            _ => absent(),
        }
    })
    .await;
    if test.engine.is_containerd() {
        let name = format!("{}/x:plain", evil.host());
        test.engine.pull(&name, None).await;
        assert!(test.engine.inspect(&name).await.is_some(), "the bare engine takes what it has");
        test.engine.remove_image(&name).await;
    }
    for (tag, _) in documents {
        let name = format!("{}/x:{tag}", evil.host());
        let dockerfile = format!("FROM {name}\nRUN cat /mark\n");
        let context = test.context(tag, &[("Dockerfile", &dockerfile)]);
        let listed = format!("lists {stolen} in x:{tag} but does not serve it");
        let text = if tag == "odd" { "has no image for" } else { &listed };
        let shown = thief.build(&context, &["--no-cache"]).await.ended(6).says(&[text]);
        assert!(!shown.to_string().contains(&content), "{shown}");
        thief.run(["pull", &name]).await.ended(6).says(&[text]);
    }
    assert_eq!(thief.images().await, []);
}

async fn an_endless_manifest(test: Arc<Test>) {
    /// Enough to be noticed, but harmless to the engine.
    const END: usize = 64 << 20;
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let endless = async || {
        ScriptedRegistry::start(|_, path| match path {
            "/v2/" => Reply::Whole("200 OK", Vec::new(), b"{}".to_vec()),
            _ => Reply::Endless(END),
        })
        .await
    };
    let evil = endless().await;
    let name = format!("{}/x:1", evil.host());
    test.engine.pull(&name, None).await;
    assert!(evil.sent() >= END, "the bare engine reads {} bytes", evil.sent());

    let evil = endless().await;
    let name = format!("{}/x:1", evil.host());
    job.run(["pull", &name]).await.ended(1).says(&[evil.host(), "4 MiB"]);
    assert!(evil.sent() < END / 2, "{} bytes were read", evil.sent());
    assert_eq!(evil.requests(), ["GET /v2/x/manifests/1"], "the engine hears of it");
}

/// Pushes an image of a large layer as `honest:1`.
async fn honest_image(test: &Test, registry: &Registry, bytes: usize) -> Image {
    let image = Image::of(vec![Layer::noise(&test.unique("noise"), bytes)]);
    image.push(registry, "honest", "1").await;
    assert!(image.layers[0].blob.len() >= bytes);
    image
}

/// A registry that shows `image`, which is in `registry` as `name:1`, and sends its first layer by `drip`.
async fn slow_copy(
    registry: &Registry,
    name: &str,
    image: &Image,
    drip: impl Fn(&Layer) -> Reply + Send + Sync + 'static,
) -> ScriptedRegistry {
    let path = format!("/v2/{name}/manifests/1");
    let document = registry.call(http::Method::GET, &path).header("accept", MANIFEST).send().await.ok().body;
    let (config, layers) = (image.config().to_string(), image.layers.clone());
    ScriptedRegistry::start(move |_, path| match path {
        "/v2/" => Reply::Whole("200 OK", Vec::new(), b"{}".to_vec()),
        path if path.contains("/manifests/") => {
            manifest(MANIFEST, &digest(&document), std::str::from_utf8(&document).unwrap())
        }
        path if path.ends_with(&layers[0].digest) => drip(&layers[0]),
        path => {
            let layer = layers.iter().find(|layer| path.ends_with(&layer.digest));
            let blob = layer.map_or_else(|| config.clone().into_bytes(), |layer| layer.blob.to_vec());
            Reply::Whole("200 OK", Vec::new(), blob)
        }
    })
    .await
}

fn by_drops(layer: &Layer) -> Reply {
    Reply::Drip(1, layer.blob.to_vec())
}

/// Whoever knows an image's digest can begin to fetch it, and never finish.
async fn a_slow_registry_delays_nobody(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let image = honest_image(&test, &registry, 4 << 20).await;
    let drip = slow_copy(&registry, "honest", &image, by_drops).await;
    let (thief, victim) = (Wharf::new(&test, &wharfd, "thief#1"), Wharf::new(&test, &wharfd, "victim#1"));
    let dripping = thief.start(["pull", &format!("{}/x:1", drip.host())]);
    wait_for("the layer to drip", async || (drip.sent() > 8 << 10).then_some(())).await;
    victim.run(["pull", &registry.name("honest:1")]).await.ok();
    assert!(drip.sent() < 2 << 20, "{} bytes came drop by drop", drip.sent());
    // The slow build succeeds too: its registry showed the same manifest.
    assert!(dripping.wait(Duration::from_secs(30)).await.unwrap().success(), "{:?}", dripping.lines());
}

/// It sends just enough for not being slow, and would take two minutes.
async fn a_registry_that_is_hardly_slow_delays_nobody_for_long(test: Arc<Test>) {
    const KIB: usize = 16;
    let serve = Some("[[serve]]\nuid = 1000\nnamespaces = \"*\"\n");
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd_with(serve, &[]));
    let image = honest_image(&test, &registry, 20 << 20).await;
    let hardly = |layer: &Layer| Reply::Drip(KIB, layer.blob.to_vec());
    let drip = slow_copy(&registry, "honest", &image, hardly).await;
    let thief = Wharf::new(&test, &wharfd, "thief#1").as_uid(1000);
    let victim = Wharf::new(&test, &wharfd, "victim#1");
    let dripping = thief.start(["pull", &format!("{}/x:1", drip.host())]);
    dripping.while_running("the layer to drip", async || (drip.sent() > KIB << 10).then_some(())).await;
    let pull = victim.start(["pull", &registry.name("honest:1")]);
    assert!(pull.wait(3 * PATIENCE).await.unwrap().success(), "{:?}", pull.lines());
    assert!(drip.sent() < 18 << 20, "{} bytes came", drip.sent());
    assert!(dripping.wait(PATIENCE).await.unwrap().success(), "{:?}", dripping.lines());
}

/// An engine fetches a layer once for all images that have it, from the first.
async fn a_slow_registry_delays_nobody_by_a_layer(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let honest = honest_image(&test, &registry, 4 << 20).await;
    let own = Layer::of([("own", File::Content(test.unique("own").as_bytes(), 0o644))]);
    let evil = Image::of(vec![honest.layers[0].clone(), own.clone()]);
    evil.push(&registry, "evil", "1").await;
    // The victim's image has another layer above it, which comes at once.
    let other = Layer::of([("other", File::Content(test.unique("other").as_bytes(), 0o644))]);
    let victims = Image::of(vec![honest.layers[0].clone(), other]);
    victims.push(&registry, "victims", "1").await;
    let drip = slow_copy(&registry, "evil", &evil, by_drops).await;
    let (thief, victim) = (Wharf::new(&test, &wharfd, "thief#1"), Wharf::new(&test, &wharfd, "victim#1"));
    let dripping = thief.start(["pull", &format!("{}/x:1", drip.host())]);
    wait_for("the layer to drip", async || (drip.sent() > 8 << 10).then_some(())).await;
    victim.run(["pull", &registry.name("victims:1")]).await.ok();
    assert!(drip.sent() < 2 << 20, "{} bytes came drop by drop", drip.sent());
    // Nobody else has its image.
    assert_eq!(shell_status(dripping.wait(PATIENCE).await.unwrap()), 5, "{:?}", dripping.lines());
}

/// The end of a namespace takes nothing over from a slow registry, and need not wait for it.
async fn a_slow_registry_delays_no_end_of_a_namespace(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let image = honest_image(&test, &registry, 4 << 20).await;
    let drip = slow_copy(&registry, "honest", &image, by_drops).await;
    let (thief, victim) = (Wharf::new(&test, &wharfd, "thief#1"), Wharf::new(&test, &wharfd, "victim#1"));
    let dripping = thief.start(["pull", &format!("{}/x:1", drip.host())]);
    wait_for("the layer to drip", async || (drip.sent() > 8 << 10).then_some(())).await;
    let waiting = victim.start(["pull", &registry.name("honest:1")]);
    waiting.while_running("the pull to be shown", async || (!waiting.lines().is_empty()).then_some(())).await;
    victim.run(["namespace", "rm"]).await.ok();
    assert!(dripping.ended().await.is_none() && drip.sent() < 2 << 20, "{} bytes", drip.sent());
    is_cancelled(&waiting).await;
    thief.run(["namespace", "rm"]).await.ok();
    is_cancelled(&dripping).await;
}

/// Waits for the end of a command whose namespace is gone.
async fn is_cancelled(work: &Background) {
    assert_eq!(shell_status(work.wait(PATIENCE).await.unwrap()), 1, "{:?}", work.lines());
    assert_eq!(work.lines().last().unwrap(), "ERROR: cancelled: the namespace was deleted");
}

async fn a_registry_that_only_wharfd_or_the_engine_reaches(test: Arc<Test>) {
    let (registry, (name, engine)) = tokio::join!(test.registry(), test.throw_away_engine());
    Image::base(&test.unique("base")).push(&registry, "base", "1").await;
    let there = test.registry_beside(&registry, &name).await;
    let wharfd = test.wharfd_on(&engine).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    // The engine could reach the registry, and would read without limit from it.
    let says =
        ["the registry", there.host(), "is not available", "wharfd, not the engine, contacts registries"];
    job.run(["pull", &there.name("base:1")]).await.ended(5).says(&says);
    assert_eq!(there.all_requests(), Vec::<String>::new());
    // And the engine, in another network than wharfd, does not reach what wharfd brings it.
    let says = ["the engine did not reach wharfd at 127.0.0.1:", "in the engine's network"];
    job.run(["pull", &registry.name("base:1")]).await.ended(5).says(&says);
}

/// If an engine cannot tell where an image comes from, the image may be used while its registry serves
/// nobody. A caller must not be able to bring that about.
async fn a_login_that_breaks_a_registry_gives_no_access(test: Arc<Test>) {
    let relay = Relay::start_with_an_older_api(&test).await;
    let wharfd = test.wharfd_with(None, &["--engine", &relay.address()]).await;
    let thief = Wharf::new(&test, &wharfd, "thief#1");
    let registry = test.private_registry(USER, PASSWORD).await;
    let content = test.unique("private");
    Image::base(&content).push(&registry, "private", "1").await;
    let name = registry.name("private:1");
    test.engine.pull(&name, registry.login()).await.ok();
    registry.end().await;
    let dockerfile = format!("FROM {name}\nRUN cat /mark\n");
    let context = test.context("thief", &[("Dockerfile", &dockerfile)]);

    thief.login(&registry, Some(("odd", "login")));
    // The registry fails for this login, and requires credentials without one; or it serves others, and
    // limits this caller.
    let counts = Arc::new(AtomicBool::new(false));
    let counting = Arc::clone(&counts);
    let evil = ScriptedRegistry::start_at(registry.host(), move |_, _| {
        let whole = |status| {
            let challenge = ("www-authenticate", "Basic realm=\"x\"".to_owned());
            Reply::Whole(status, vec![challenge], Vec::new())
        };
        match counting.load(Ordering::Relaxed) {
            true => whole("429 Too Many Requests"),
            false => Reply::ByLogin(
                Box::new(whole("500 Internal Server Error")),
                Box::new(whole("401 Unauthorized")),
            ),
        }
    })
    .await;
    for counted in [false, true] {
        counts.store(counted, Ordering::Relaxed);
        let text = if counted { "it serves no more requests for now (429)" } else { "an error (500)" };
        let shown = thief.build(&context, &["--no-cache"]).await.ended(5).says(&[text]);
        assert!(!shown.to_string().contains(&content), "{counted}: {shown}");
        thief.run(["pull", &name]).await.ended(5).says(&[text]);
    }
    assert!(evil.requests().iter().any(|request| request.contains(" Basic ")), "{:?}", evil.requests());
    drop(evil);
    wait_for("the registry's end", async || TcpStream::connect(registry.host()).await.is_err().then_some(()))
        .await;
    assert_eq!(thief.images().await, []);

    // The registry does not answer.
    let shown = thief.build(&context, &["--no-cache"]).await;
    if test.engine.is_containerd() {
        shown.ok().says(&[&content]);
    } else {
        shown.ended(5);
    }
    test.engine.remove_image(&name).await;
}
