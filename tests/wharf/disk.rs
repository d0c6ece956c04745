//! An engine whose disk is small: what goes when it is low, and what happens to builds.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::Connection;
use serde_json::Value;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};
use tonic_types::StatusExt as _;
use wharf::wire::v1::BuildSpec;

use crate::{
    audit::{events, is_documented},
    caches::{prefix, records},
    harness::{
        Engine, Test, Wharf, Wharfd, cases, engine::tool, image::context_tar, rpc, wait_for, wait_for_at_most,
    },
};

cases![a_low_disk_is_cleaned_first, a_low_disk_takes_no_new_builds, a_full_disk_ends_builds];

/// The size of the engine's disk. The containerd store has a layer twice: as the build's, and as the image's.
const SIZE: &str = "1000m";

/// A wharfd on an engine with a small disk, which is low and full below these marks.
async fn small(test: &Test, low: &str, full: &str) -> (Arc<Wharfd>, Arc<Engine>, PathBuf) {
    let (_, engine) = test.small_engine(SIZE).await;
    let audit = test.dir().join("audit.jsonl");
    let disk = format!("/proc/{}/root/var/lib/docker", engine.pid());
    let config = format!(
        "audit_log = {audit:?}\n[disk]\nlow = \"{low}\"\nfull = \"{full}\"\n\
         [engines.default]\nsocket = \"{}\"\ndisk = \"{disk}\"\n",
        engine.address()
    );
    // Root is the operator.
    let wharfd = test.wharfd_as_it_ships(Some(&config)).await;
    (wharfd, engine, audit)
}

/// A context with busybox and these steps, which it runs.
fn context(test: &Test, name: &str, steps: &[&str]) -> PathBuf {
    let steps: Vec<_> = steps.iter().map(|step| format!("RUN {step}\n")).collect();
    let context = test.context(
        name,
        &[("Dockerfile", &format!("FROM scratch\nCOPY busybox /bin/busybox\n{}", steps.concat()))],
    );
    fs::copy(tool("WHARF_BUSYBOX"), context.join("busybox")).unwrap();
    context
}

/// A step that writes so many MiB into a file.
fn writes(mount: &str, file: &str, mebibytes: u32) -> String {
    format!(
        r#"{mount} ["/bin/busybox", "dd", "if=/dev/zero", "of={file}", "bs=1048576", "count={mebibytes}"]"#
    )
}

/// Waits for the disk to be at this level. It is `ample` again only when build cache of the last minute may go, and wharfd
/// looks at growing intervals.
async fn event(audit: &Path, level: &str) -> Value {
    let found = async || {
        let is_wanted = |event: &Value| event["event"] == "disk" && event["level"] == level;
        events(audit).into_iter().find(is_wanted)
    };
    let what = format!("the event that the disk is {level}");
    let event = wait_for_at_most(Duration::from_secs(240), &what, found).await;
    is_documented(&event);
    event
}

async fn info(job: &Wharf) -> Value {
    let info = job.run(["info", "--format=json"]).await.ok().stdout;
    serde_json::from_str::<Value>(&info).unwrap()["Engine"].clone()
}

async fn a_low_disk_is_cleaned_first(test: Arc<Test>) {
    let (wharfd, engine, audit) = small(&test, "700MiB", "100MiB").await;
    let [old, new] = ["old#1", "new#1"].map(|name| Wharf::new(&test, &wharfd, name));
    let cache = "--mount=type=cache,target=/cache";
    old.build_id(&context(&test, "old", &[&writes(cache, "/cache/x", 250)]), &[]).await;
    let store = Connection::open(wharfd.state_dir().join("wharf.sqlite")).unwrap();
    store.execute("UPDATE jobs SET used = used - 8 * 24 * 3600", []).unwrap();
    assert_eq!(records(&engine, &prefix(&wharfd, "old")).await, 1, "there is space");

    let steps = [writes(cache, "/cache/x", 1), writes("", "/x", 100)];
    let steps: Vec<_> = steps.iter().map(String::as_str).collect();
    new.build_id(&context(&test, "new", &steps), &["-t", "app:1"]).await;
    let low = event(&audit, "low").await;
    assert!(low["free"].as_u64().unwrap() < 700 << 20, "{low}");
    event(&audit, "ample").await;
    assert_eq!(
        records(&engine, &prefix(&wharfd, "old")).await,
        0,
        "what was not used for longest goes first"
    );
    assert_eq!(records(&engine, &prefix(&wharfd, "new")).await, 1, "and nothing else");
    assert_eq!(new.images().await.len(), 1);
    let retired = events(&audit).into_iter().find(|event| event["event"] == "job_retired").unwrap();
    assert_eq!((&retired["job"], &retired["rule"]), (&"old".into(), &"disk.low".into()));
    let info = info(&new).await;
    assert_eq!(
        (&info["Disk"]["Low"], &info["Disk"]["Full"]),
        (&(700_u64 << 20).into(), &(100_u64 << 20).into())
    );
    assert_eq!(
        (&info["Disk"]["Total"], &info["RefusesBuilds"]),
        (&(1000_u64 << 20).into(), &"".into()),
        "{info}"
    );
    new.run(["namespace", "rm"]).await.ok();
}

async fn a_low_disk_takes_no_new_builds(test: Arc<Test>) {
    let (wharfd, engine, audit) = small(&test, "850MiB", "100MiB").await;
    let [gone, big, other] = ["gone#1", "big#1", "other#1"].map(|name| Wharf::new(&test, &wharfd, name));
    let channel = rpc::connect(&wharfd.socket()).await;
    for service in ["engine/default/builds", "wharf.v1.BuildService"] {
        assert_eq!(rpc::health(&channel, service).await, Serving, "{service}");
    }
    // Their namespaces are in use: nothing can be removed.
    let small = context(&test, "small", &[]);
    gone.build_id(&small, &["-t", "app:1"]).await;
    big.build_id(&small, &["-t", "app:1"]).await;
    let image = big.build_id(&context(&test, "big", &[&writes("", "/x", 200)]), &["-t", "app:2"]).await;
    event(&audit, "spent").await;
    let refused = other.run(["build".as_ref(), small.as_os_str()]).await.ended(5);
    let text =
        ["the disk of the engine `default` is low", "builds and pulls begin with 887 MiB (`disk.low` and"];
    refused.says(&text);
    other.run(["pull", "reg.example/team/app:1"]).await.ended(5).says(&text);
    let saved = big.run(["save", "-o", "saved.tar", "app:1"]).await;
    if engine.is_containerd() {
        saved.ok();
    } else {
        saved.ended(5).says(&text);
    }
    let start = rpc::start("other#1", BuildSpec::default());
    let tar = context_tar(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let status = rpc::build_tar(&channel, start, tar).await.status.unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(
        status.get_error_details().retry_info().is_some_and(|info| info.retry_delay.is_some()),
        "{status:?}"
    );
    for (service, status) in [
        ("engine/default/builds", NotServing),
        ("wharf.v1.BuildService", NotServing),
        ("engine/default", Serving),
        ("wharf.v1.ImageService", Serving),
        ("", Serving),
    ] {
        assert_eq!(rpc::health(&channel, service).await, status, "{service}");
    }
    let told = info(&other).await["RefusesBuilds"].as_str().unwrap().to_owned();
    assert!(told.contains("is low"), "{told}");
    let text = other.run(["info"]).await.ok().stdout;
    assert!(text.contains("Refuses builds: the disk of") && text.contains("free; low below"), "{text}");

    // A namespace of which a container uses an image keeps the others, too.
    let container = engine.create_container(&image).await;
    let store = Connection::open(wharfd.state_dir().join("wharf.sqlite")).unwrap();
    let age = |job, hours: u32| {
        let update = "UPDATE namespaces SET used = used - ? * 3600 WHERE job = ?";
        assert_eq!(store.execute(update, (hours, job)).unwrap(), 1, "{job}");
    };
    age("big", 4);
    age("gone", 2);
    let ended = async || events(&audit).into_iter().find(|event| event["event"] == "namespace_ended");
    let ended = wait_for("the end of the younger namespace", ended).await;
    is_documented(&ended);
    assert_eq!((&ended["namespace"]["job"], &ended["rule"]), (&"gone".into(), &"disk.low".into()));
    assert_eq!((gone.images().await.len(), big.images().await.len()), (0, 2));
    let named = |line: &String| line.contains("have the largest images") && line.contains("big#1\\\": ");
    assert!(wharfd.log().iter().any(named), "the operator sees whose images fill the disk");

    engine.remove_container(&container).await;
    big.run(["namespace", "rm"]).await.ok();
    event(&audit, "ample").await;
    other.build_id(&small, &[]).await;
    other.run(["namespace", "rm"]).await.ok();
}

async fn a_full_disk_ends_builds(test: Arc<Test>) {
    let (wharfd, engine, audit) = small(&test, "850MiB", "700MiB").await;
    let job = Wharf::new(&test, &wharfd, "hog#1");
    // 10 MiB four times a second.
    let step = r#"["/bin/busybox", "sh", "-c", "i=0; while [ $i -lt 80 ]; do i=$((i+1)); /bin/busybox dd if=/dev/zero of=/x$i bs=1048576 count=10 || exit 9; /bin/busybox sleep 0.25; done; /bin/busybox sleep 600"]"#;
    let ended = job.run(["build".as_ref(), context(&test, "hog", &[step]).as_os_str()]).await.ended(5);
    ended.says(&[
        "the disk of the engine `default` is full",
        "builds and pulls end below 700 MiB (`disk.full`)",
    ]);
    event(&audit, "full").await;
    // BuildKit 0.33 keeps the mount of a step that was cancelled (`mount / from exec …`, in use), for more than five minutes
    // (seen): an engine of that version may stay full.
    if !engine.is_containerd() {
        // The step's files go with it.
        event(&audit, "ample").await;
        job.build_id(&context(&test, "small", &[]), &[]).await;
    }
    job.run(["namespace", "rm"]).await.ok();
}
