//! Several engines: a failure of one does not affect the others, and wharfd reconnects when it comes back.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::process::Signal;
use serde_json::Value;
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};
use wharf::names::reference::Digest;

use crate::harness::{Test, Wharf, cases, engine::tool, process::Background, relay::Relay, rpc, wait_for};

cases![
    an_engine_that_is_down_at_the_start,
    an_engine_that_ends_during_a_build,
    an_engine_that_hangs,
    an_engine_with_a_firewall,
    another_engine_at_the_same_socket,
    another_engine_while_the_old_one_runs,
    leftovers_are_removed_before_the_first_answer,
];

/// The first engine serves root, the second serves uid 1000. Root is the operator here, and served without an
/// entry.
fn config(first: &Path, second: &Path) -> String {
    format!(
        "default_engine = \"first\"\n\
         [engines.first]\nsocket = \"unix://{}\"\n\
         [engines.second]\nsocket = \"unix://{}\"\n\
         [[serve]]\nuid = 1000\nnamespaces = \"*\"\nengine = \"second\"\n",
        first.display(),
        second.display()
    )
}

fn plain(test: &Test) -> PathBuf {
    test.context("plain", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")])
}

/// A build whose step runs until it is stopped.
fn endless(test: &Test) -> PathBuf {
    let dockerfile = "FROM scratch\nCOPY busybox /\nRUN [\"/busybox\", \"sh\", \"-c\", \"echo it-$((1))-runs; exec /busybox sleep 100000\"]\n";
    let context = test.context("endless", &[("Dockerfile", dockerfile)]);
    fs::copy(tool("WHARF_BUSYBOX"), context.join("busybox")).unwrap();
    context
}

async fn start_endless(job: &Wharf, context: &Path) -> Background {
    let running = job.start(["build", "--progress=plain", context.to_str().unwrap()]);
    running.says("the step to run", |line| line.ends_with("it-1-runs").then_some(())).await;
    running
}

async fn an_engine_that_is_down_at_the_start(test: Arc<Test>) {
    let second = test.dir().join("second.sock");
    let wharfd = test.wharfd_as_it_ships(Some(&config(test.engine.socket(), &second))).await;
    let (ours, theirs) = (Wharf::new(&test, &wharfd, "user/root#1"), Wharf::new(&test, &wharfd, "theirs#1"));
    let theirs = theirs.as_uid(1000);
    let context = plain(&test);
    ours.build_id(&context, &["-t", "app:1"]).await;
    for command in
        [&["build", context.to_str().unwrap()][..], &["images"], &["pull", "app"], &["namespace", "rm"]]
    {
        theirs.run(command).await.ended(5).says(&["`second`", "second.sock", "try again later"]);
    }

    let info = theirs.run(["info"]).await.ended(5).says(&["`second`", "is down", "second.sock"]).stdout;
    assert!(info.contains("Engine second:\n State: down\n Cause: cannot reach"), "{info}");
    assert!(!info.contains("first"), "{info}");
    let info = ours.run(["info"]).await.ok().stdout;
    assert!(info.contains("Engine first:\n State: up\n Version: "), "{info}");
    assert!(info.contains("Engine second:\n State: down\n Cause: "), "{info}");
    let channel = rpc::connect(&wharfd.socket()).await;
    for (service, status) in [
        ("", Serving),
        ("engine/first", Serving),
        ("engine/second", NotServing),
        ("wharf.v1.BuildService", Serving),
    ] {
        assert_eq!(rpc::health(&channel, service).await, status, "{service}");
    }

    let (_, engine) = test.throw_away_engine().await;
    let _relay = Relay::to(&second, &engine);
    // The call does not wait for wharfd's next attempt to connect.
    theirs.build_id(&context, &["-t", "app:1"]).await;
    assert_eq!(theirs.images().await.len(), 1);
    rpc::becomes(&channel, "engine/second", Serving).await;
    assert!(theirs.run(["info"]).await.ok().stdout.contains("State: up"));
}

async fn an_engine_with_a_firewall(test: Arc<Test>) {
    let second = test.dir().join("second.sock");
    let set = test.dir().join("set");
    let config = config(test.engine.socket(), &second);
    let config = config.replacen("[engines.second]\n", &format!("[engines.second]\nfirewall = {set:?}\n"), 1);
    let wharfd = test.wharfd_as_it_ships(Some(&config)).await;
    let job = Wharf::new(&test, &wharfd, "user/root#1");
    let known = async || {
        let info: Value =
            serde_json::from_str(&job.run(["info", "--format=json"]).await.ok().stdout).unwrap();
        let of = |engine: &Value| (engine["Name"].clone(), engine["Firewall"].clone());
        info["Engines"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    let is = |second: bool| vec![("first".into(), false.into()), ("second".into(), second.into())];
    assert_eq!(known().await, is(false));
    // What `wharfd firewall --record` makes.
    fs::write(&set, "").unwrap();
    assert_eq!(known().await, is(true));
    let text = job.run(["info"]).await.ok().stdout;
    let shown: Vec<_> = text.lines().filter(|line| line.starts_with(" Firewall:")).collect();
    assert_eq!(shown, [" Firewall: none known", " Firewall: of wharfd"], "{text}");
    fs::remove_file(&set).unwrap();
    assert_eq!(known().await, is(false));
}

async fn an_engine_that_ends_during_a_build(test: Arc<Test>) {
    let (name, engine) = test.throw_away_engine().await;
    let wharfd = test.wharfd_as_it_ships(Some(&config(test.engine.socket(), engine.socket()))).await;
    let (ours, theirs) = (Wharf::new(&test, &wharfd, "user/root#1"), Wharf::new(&test, &wharfd, "theirs#1"));
    let theirs = theirs.as_uid(1000);
    let channel = rpc::connect(&wharfd.socket()).await;
    let (plain, endless) = (plain(&test), endless(&test));
    let our_build = start_endless(&ours, &endless).await;
    let their_build = start_endless(&theirs, &endless).await;

    test.stop_engine(&name).await;
    let ended = wait_for("their build to end", async || their_build.ended().await).await;
    assert_eq!(ended.code(), Some(5), "{:?}", their_build.lines());
    rpc::becomes(&channel, "engine/second", NotServing).await;
    assert_eq!(rpc::health(&channel, "").await, Serving);
    assert_eq!(rpc::health(&channel, "wharf.v1.BuildService").await, Serving);
    theirs.build(&plain, &[]).await.ended(5).says(&["`second`"]);
    ours.build_id(&plain, &["-t", "app:1"]).await;
    assert_eq!(our_build.ended().await, None, "{:?}", our_build.lines());

    // The new engine has the same socket and is empty.
    test.start_engine(engine.kind(), &name).await;
    theirs.build_id(&plain, &["-t", "app:1"]).await;
    rpc::becomes(&channel, "engine/second", Serving).await;
    assert_eq!(our_build.ended().await, None, "{:?}", our_build.lines());
    our_build.signal(Signal::INT);
    our_build.wait(crate::harness::PATIENCE).await.unwrap();
}

/// The engine accepts connections and never answers.
async fn an_engine_that_hangs(test: Arc<Test>) {
    let second = test.dir().join("second.sock");
    let relay = Relay::to(&second, &test.engine);
    let wharfd = test.wharfd_as_it_ships(Some(&config(test.engine.socket(), &second))).await;
    let (ours, theirs) = (Wharf::new(&test, &wharfd, "user/root#1"), Wharf::new(&test, &wharfd, "theirs#1"));
    let theirs = theirs.as_uid(1000);
    let channel = rpc::connect(&wharfd.socket()).await;
    let (plain, endless) = (plain(&test), endless(&test));
    theirs.build_id(&plain, &["-t", "app:1"]).await;
    let running = start_endless(&theirs, &endless).await;

    relay.pause();
    rpc::becomes(&channel, "engine/second", NotServing).await;
    theirs.build(&plain, &[]).await.ended(5).says(&["`second`"]);
    theirs.run(["info"]).await.ended(5).says(&["`second`", "is down"]);
    let info = ours.run(["info"]).await.ok().stdout;
    assert!(info.contains("does not answer"), "{info}");
    ours.build_id(&plain, &["-t", "app:1"]).await;

    relay.resume();
    rpc::becomes(&channel, "engine/second", Serving).await;
    theirs.build_id(&plain, &["-t", "app:1"]).await;
    // It is the same engine: its builds still run, and nothing was removed as a leftover.
    let log = wharfd.log().join("\n");
    assert!(log.contains("the engine answers again engine=second"), "{log}");
    assert_eq!(running.ended().await, None, "{:?}", running.lines());
    running.signal(Signal::INT);
    running.wait(crate::harness::PATIENCE).await.unwrap();
}

async fn another_engine_at_the_same_socket(test: Arc<Test>) {
    let relay = Relay::start(&test);
    let wharfd = test.wharfd_with(None, &["--engine", &relay.address()]).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = plain(&test);
    job.build_id(&context, &["-t", "app:1"]).await;
    let store =
        |info: &str| info.lines().find_map(|line| Some(line.strip_prefix(" Image store: ")?.to_owned()));
    let info = job.run(["info"]).await.ok().stdout;
    assert_eq!(store(&info).as_deref(), Some(test.engine.kind().store), "{info}");

    relay.stop().await;
    let (_, other) = test.throw_away_engine_of(test.engine.kind().other()).await;
    let relay = Relay::to(&test.dir().join("engine.sock"), &other);
    job.build_id(&context, &["-t", "app:2"]).await;
    let info = job.run(["info"]).await.ok().stdout;
    assert_eq!(store(&info).as_deref(), Some(other.kind().store), "{info}");
    let names = job.images().await.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names, ["app:2"], "what the first engine has is not on the other");
    let names = other.names_with_prefix(&wharfd.prefix()).await;
    assert!(names.iter().any(|name| name.ends_with("/app:2")), "{names:?}");

    // Back to the first engine.
    job.run(["namespace", "rm"]).await.ok();
    relay.stop().await;
    let _relay = Relay::start(&test);
    job.build_id(&context, &["-t", "app:3"]).await;
    assert_eq!(job.images().await.len(), 2);
}

/// Nothing ends: wharfd's connection to the old engine stays open, and new connections lead to the other
/// engine.
async fn another_engine_while_the_old_one_runs(test: Arc<Test>) {
    let socket = test.dir().join("engine.sock");
    let _old = Relay::to(&socket, &test.engine);
    let address = format!("unix://{}", socket.display());
    let wharfd = test.wharfd_with(None, &["--engine", &address]).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = plain(&test);
    job.build_id(&context, &["-t", "app:1"]).await;

    let (_, other) = test.throw_away_engine_of(test.engine.kind().other()).await;
    fs::rename(&socket, test.dir().join("old.sock")).unwrap();
    let new = Relay::to(&socket, &other);
    // Facts about the old engine are not used for the other one.
    job.build(&context, &["-t", "app:2"]).await.ended(5).says(&["engine"]);
    assert_eq!(other.names_with_prefix(&wharfd.prefix()).await, Vec::<String>::new());
    wait_for("the other engine", async || {
        let info = job.run(["info"]).await;
        (info.status == 0 && info.stdout.contains(other.kind().store)).then_some(())
    })
    .await;
    job.build_id(&context, &["-t", "app:2"]).await;
    assert_eq!(job.images().await.len(), 1);

    // Back to the first engine, which still has the first image.
    job.run(["namespace", "rm"]).await.ok();
    new.stop().await;
    let _first = Relay::to(&socket, &test.engine);
    wait_for("the first engine", async || {
        let images = job.run(["images"]).await;
        (images.status == 0 && images.stdout.contains("app")).then_some(())
    })
    .await;
}

async fn leftovers_are_removed_before_the_first_answer(test: Arc<Test>) {
    let relay = Relay::start(&test);
    let wharfd = test.wharfd_with(None, &["--engine", &relay.address()]).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let id = job.build_id(plain(&test), &["-t", "app:1"]).await;
    relay.stop().await;
    job.run(["images"]).await.ended(5);
    // A hold that the store does not know.
    let digest = Digest::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
    let lost = wharfd.keys().hold(&digest).to_string();
    let (repository, tag) = lost.rsplit_once(':').unwrap();
    test.engine.post(&format!("/images/{id}/tag?repo={repository}&tag={tag}")).send().await.ok();
    assert!(test.engine.inspect(&lost).await.is_some());
    let _relay = Relay::start(&test);
    assert_eq!(job.images().await.len(), 1);
    assert!(test.engine.inspect(&lost).await.is_none(), "the first answer comes after that");
}
