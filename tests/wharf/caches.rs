//! The cache mounts of jobs: who has which, and when they go.

use std::{path::PathBuf, sync::Arc};

use bollard_buildkit_proto::moby::buildkit::v1::DiskUsageRequest;
use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::Value;
use tokio::task::JoinHandle;
use wharf::{
    buildkit::cache::{CacheMount, cache_mounts},
    names::{EngineName, Namespace},
    tasks::Group,
};

use crate::{
    audit::{events, is_documented},
    cancel::fresh_digits,
    harness::{Engine, Test, Wharf, Wharfd, cases, engine::tool, wait_for},
};

cases![
    cache_mounts_of_a_job_that_nobody_builds_go,
    cache_mounts_of_a_job_go_when_it_is_ended,
    the_end_of_a_job_waits_for_its_builds,
    the_end_of_a_job_outlives_wharfd,
    a_job_spoils_the_cache_mounts_of_no_other,
    a_mount_goes_whoever_finds_out_its_size,
];

/// A user with an entry of its own.
const TEAM: u32 = 1001;

/// A context with a step that writes into two cache mounts; the names of the jobs are unlike in each test, but the ids
/// are the same for all jobs.
async fn context(test: &Test) -> PathBuf {
    let registry = test.registry().await;
    let base = test.base(&registry).await;
    let step = "dd if=/dev/zero of=/a/blob bs=1024 count=64; echo x > /b/x";
    let dockerfile = format!(
        "FROM {base}\nRUN --mount=type=cache,target=/a --mount=type=cache,id=the/b,target=/b,sharing=private \
         {step}\n"
    );
    test.context("context", &[("Dockerfile", &dockerfile)])
}

/// Makes all jobs look as if nobody had built them for half a year.
fn age(wharfd: &Wharfd) {
    let store = Connection::open(wharfd.state_dir().join("wharf.sqlite")).unwrap();
    store.execute("UPDATE jobs SET used = used - 180 * 24 * 3600", []).unwrap();
}

/// How many rows about jobs the store has.
fn rows(wharfd: &Wharfd) -> u32 {
    let store = Connection::open(wharfd.state_dir().join("wharf.sqlite")).unwrap();
    store.query_row("SELECT count(*) FROM jobs", [], |row| row.get(0)).unwrap()
}

/// Waits until wharfd has looked once more for the mounts of jobs, five minutes after it has removed them, and knows only so
/// many jobs.
async fn forgotten(wharfd: &Wharfd, left: u32) {
    let forgotten = async || {
        let store = Connection::open(wharfd.state_dir().join("wharf.sqlite")).unwrap();
        store.execute("UPDATE jobs SET ended = ended - 3600 WHERE ended > 1", []).unwrap();
        (rows(wharfd) == left).then_some(())
    };
    wait_for("the rows to go", forgotten).await;
}

/// How many cache mounts in the engine have an id that begins so, up to a `.` or `/`. Of others BuildKit finds out no size
/// for this: while it does, it neither lists nor removes them.
pub(crate) async fn records(engine: &Engine, prefix: &str) -> usize {
    let tasks = Group::root();
    let connected =
        wharf::engine::Engine::connect(&EngineName::default(), engine.socket(), &tasks).await.unwrap();
    let connection = connected.dial(&tasks).await.unwrap();
    cache_mounts(&connection, prefix, None).await.unwrap().len()
}

/// The prefix of a job's cache mounts.
pub(crate) fn prefix(wharfd: &Wharfd, job: &str) -> String {
    wharfd.keys().cache_mounts(Namespace::new(job, "1").unwrap().job(), None)
}

async fn gone(test: &Test, prefix: &str) {
    let gone = async || (records(&test.engine, prefix).await == 0).then_some(());
    wait_for("the end of the cache mounts", gone).await;
}

async fn inspected(job: &Wharf) -> Value {
    let inspected = job.run(["namespace", "inspect"]).await.ok().stdout;
    serde_json::from_str::<Value>(&inspected).unwrap()[0]["CacheMounts"].clone()
}

async fn cache_mounts_of_a_job_that_nobody_builds_go(test: Arc<Test>) {
    let path = test.dir().join("audit.jsonl");
    let config = format!("audit_log = {path:?}\n[job]\nretire_after = \"720h\"\n");
    let (context, wharfd) = tokio::join!(context(&test), test.wharfd_with(Some(&config), &[]));
    let [old, new] = ["old#1", "new#1"].map(|name| Wharf::new(&test, &wharfd, name));
    old.build_id(&context, &[]).await;
    old.build_id(&context, &["--no-cache", "--build-arg", "BUILDKIT_CACHE_MOUNT_NS=part"]).await;
    let [of_old, of_new] = ["old", "new"].map(|job| prefix(&wharfd, job));
    assert_eq!(records(&test.engine, &of_old).await, 4);
    // The operator's own build has mounts whose ids and steps look like the job's.
    let home = test.new_dir("bare");
    let dockerfile = std::fs::read_to_string(context.join("Dockerfile")).unwrap();
    let base = dockerfile.lines().next().unwrap();
    let bare = test.unique("bare");
    let lookalike = format!(
        "{base}\nRUN --mount=type=cache,id=x{of_old}/{bare},target=/c true with id \"{of_old}/{bare}\"\n"
    );
    let lookalike = test.context("lookalike", &[("Dockerfile", &lookalike)]);
    test.engine.buildx_build(&home, &lookalike, &[]).await.ok();
    let of_bare = format!("/x{of_old}");
    assert_eq!(records(&test.engine, &of_bare).await, 1);

    age(&wharfd);
    new.build_id(&context, &[]).await;
    gone(&test, &of_old).await;
    let recorded = async || events(&path).into_iter().find(|event| event["event"] == "job_retired");
    let recorded = wait_for("the event", recorded).await;
    is_documented(&recorded);
    assert_eq!((&recorded["job"], &recorded["cache_mounts"]), (&"old".into(), &4.into()), "{recorded}");
    assert!(recorded["cache_mounts_size"].as_u64().unwrap() >= 2 * 65536, "{recorded}");
    assert_eq!(records(&test.engine, &of_new).await, 2);
    assert_eq!(records(&test.engine, &of_bare).await, 1, "it is the operator's");
    assert_eq!(rows(&wharfd), 2, "they are looked for once more");
    forgotten(&wharfd, 1).await;
    // Its next build begins with empty ones.
    old.build_id(&context, &["--no-cache"]).await;
    assert_eq!(records(&test.engine, &of_old).await, 2);

    // Without its store wharfd finds the mounts by their ids.
    assert_eq!(wharfd.terminate().await, 0);
    std::fs::remove_file(wharfd.state_dir().join("wharf.sqlite")).unwrap();
    wharfd.start().await;
    wait_for("the jobs to be found", async || (rows(&wharfd) == 2).then_some(())).await;
    age(&wharfd);
    forgotten(&wharfd, 0).await;
    assert_eq!((records(&test.engine, &of_old).await, records(&test.engine, &of_new).await), (0, 0));
    assert_eq!(records(&test.engine, &of_bare).await, 1, "it is the operator's");
}

async fn cache_mounts_of_a_job_go_when_it_is_ended(test: Arc<Test>) {
    let config = format!("[[serve]]\nuid = {TEAM}\nnamespaces = \"team/*\"\n");
    let (context, wharfd) = tokio::join!(context(&test), test.wharfd_with(Some(&config), &[]));
    let [team, other] = ["team/app#1", "acme/app#1"].map(|name| Wharf::new(&test, &wharfd, name));
    let team = team.as_uid(TEAM);
    for job in [&team, &other] {
        job.build_id(&context, &[]).await;
    }
    let [of_team, of_other] = ["team/app", "acme/app"].map(|job| prefix(&wharfd, job));

    let mounts = inspected(&team).await;
    let mounts = mounts.as_array().unwrap();
    let ids: Vec<_> = mounts.iter().map(|mount| mount["Id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["/a", "the/b"], "{mounts:?}");
    assert!(mounts[0]["Size"].as_u64().unwrap() >= 65536, "{mounts:?}");
    assert!(mounts.iter().all(|mount| mount["InUse"] == false), "{mounts:?}");

    // A caller ends no job but its own, whatever run it names.
    for name in ["acme/app", "acme/app#1", "acme/app#9", "team"] {
        team.run(["namespace", "rm", "--job", name]).await.ended(3).says(&["is not yours"]);
    }
    let nothing = team.run(["namespace", "rm", "--job", "team/other"]).await.ok().stdout;
    assert!(nothing.contains("Nothing to delete"), "{nothing}");
    // The end of a run leaves them to the next one.
    team.run(["namespace", "rm"]).await.ok();
    assert_eq!((records(&test.engine, &of_team).await, records(&test.engine, &of_other).await), (2, 2));
    let ended = team.run(["namespace", "rm", "--job", "team/app"]).await.ok().stdout;
    assert!(
        ended.starts_with("Cache mounts of the job: 2 (") && ended.contains("Deleted: team/app"),
        "{ended}"
    );
    assert_eq!((records(&test.engine, &of_team).await, records(&test.engine, &of_other).await), (0, 2));
    team.build_id(&context, &["--no-cache"]).await;
    assert_eq!(records(&test.engine, &of_team).await, 2, "it can be built again");
}

async fn the_end_of_a_job_waits_for_its_builds(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    // About 30 years, with a unique number.
    let seconds = format!("9{:09}", fresh_digits(&test).parse::<u32>().unwrap());
    let dockerfile = format!(
        "FROM {base}\nRUN --mount=type=cache,target=/a echo x > /a/x\nRUN exec sleep {seconds}\n\
         RUN --mount=type=cache,target=/a cat /a/x\n"
    );
    let context = test.context("endless", &[("Dockerfile", &dockerfile)]);
    let [one, two] = ["app#1", "app#2"].map(|name| Wharf::new(&test, &wharfd, name));
    let of_app = prefix(&wharfd, "app");
    let build = one.start(["build", "--progress=plain", context.to_str().unwrap()]);
    let sleeper = async || Engine::processes_with(&seconds).first().copied();
    let sleeper = build.while_running("the step to run", sleeper).await;

    let ended = two.run(["namespace", "rm", "--job"]).await.ok().stdout;
    assert!(ended.contains("when no build of the job runs"), "{ended}");
    age(&wharfd);
    // The janitor notes that the job is used.
    wait_for("a look of the janitor's", async || {
        let store = Connection::open(wharfd.state_dir().join("wharf.sqlite")).unwrap();
        let used = "SELECT count(*) FROM jobs WHERE used > strftime('%s', 'now') - 3600";
        (store.query_row(used, [], |row| row.get::<_, u32>(0)).unwrap() == 1).then_some(())
    })
    .await;
    assert_eq!(records(&test.engine, &of_app).await, 1, "a build needs it, though no step has it now");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(sleeper.try_into().unwrap()).unwrap(),
        Signal::KILL,
    )
    .unwrap();
    build.wait(std::time::Duration::from_secs(60)).await.unwrap();
    gone(&test, &of_app).await;
}

async fn the_end_of_a_job_outlives_wharfd(test: Arc<Test>) {
    let (context, wharfd) = tokio::join!(context(&test), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "app#1");
    job.build_id(&context, &[]).await;
    let of_app = prefix(&wharfd, "app");
    wharfd.kill().await;
    // As it is when wharfd ends before the mounts are gone.
    let store = Connection::open(wharfd.state_dir().join("wharf.sqlite")).unwrap();
    assert_eq!(store.execute("UPDATE jobs SET ended = 1", []).unwrap(), 1);
    drop(store);
    assert_eq!(records(&test.engine, &of_app).await, 2);
    wharfd.start().await;
    gone(&test, &of_app).await;
    forgotten(&wharfd, 0).await;
}

async fn a_job_spoils_the_cache_mounts_of_no_other(test: Arc<Test>) {
    // Nobody else uses this engine.
    let (_, engine) = test.small_engine("1000m").await;
    let config = format!("[engines.default]\nsocket = \"{}\"\n", engine.address());
    let wharfd = test.wharfd_as_it_ships(Some(&config)).await;
    let [evil, good] = ["evil#1", "good#1"].map(|name| Wharf::new(&test, &wharfd, name));
    let context = |name: &str, mounts: &str, step: &str| {
        let dockerfile = format!(
            "FROM scratch\nCOPY busybox /bin/busybox\nRUN {mounts} [\"/bin/busybox\", \"sh\", \"-c\", \"{step}\"]\n"
        );
        let context = test.context(name, &[("Dockerfile", &dockerfile)]);
        std::fs::copy(tool("WHARF_BUSYBOX"), context.join("busybox")).unwrap();
        context
    };
    let cache = "--mount=type=cache,target=/c";
    let ordinary = context("ordinary", cache, "echo x > /c/x");
    good.build_id(&ordinary, &[]).await;

    // Paths that are longer than any system call takes.
    let long = ["d".repeat(200).as_str(); 15].join("/");
    let deep = format!("/bin/busybox mkdir -p /c/a/{long} /c/b/{long} && /bin/busybox mv /c/a /c/b/{long}/");
    evil.build_id(&context("deep", cache, &deep), &[]).await;
    let broken = engine.get("/system/df?type=build-cache").send().await;
    assert_eq!(broken.status, 500, "one job breaks the engine's own listing");
    // And more than BuildKit can answer with, by long steps and ids.
    for part in ["a", "b", "c", "d", "e"] {
        let mount =
            |number| format!("--mount=type=cache,target=/m/{number},id={part}{number}{}", "i".repeat(400));
        let mounts: Vec<_> = (0..60).map(mount).collect();
        // No line may have more than 64 KiB. BuildKit does not tell steps apart by the ids of their mounts.
        let step = format!(": {part} {}", "x \\\n".repeat(30_000));
        evil.build_id(&context(part, &mounts.join(" "), &step), &[]).await;
    }
    let told = async |job: &Wharf| {
        let inspected = job.run(["namespace", "inspect"]).await.ok().stdout;
        let described = serde_json::from_str::<Value>(&inspected).unwrap()[0].clone();
        (described["CacheMounts"].as_array().unwrap().len(), described["MoreCacheMounts"] == true)
    };
    assert_eq!(told(&good).await, (1, false));
    let (mounts, is_partial) = told(&evil).await;
    assert!(is_partial && (250..301).contains(&mounts), "{mounts}: all but a page");
    let ended = good.run(["namespace", "rm", "--job"]).await.ok().stdout;
    assert!(ended.contains("Cache mounts of the job: 1 ("), "{ended}");
    let ended = evil.run(["namespace", "rm", "--job"]).await.ok().stdout;
    if engine.is_containerd() {
        assert!(ended.contains("Cache mounts of the job: 301 ("), "{ended}");
        assert_eq!(records(&engine, &prefix(&wharfd, "evil")).await, 0);
        assert_eq!(records(&engine, &prefix(&wharfd, "good")).await, 0);
    } else {
        // BuildKit 0.13 removes only what it can list: a page stays, and nobody else's.
        assert!(ended.contains(&format!("Cache mounts of the job: {mounts} (")), "{ended}");
        assert!(ended.contains("when no build of the job runs"), "{ended}");
    }
}

/// Builds a job whose only mount has many files, and has the engine find out its size. Returns meanwhile: BuildKit shows
/// another record in its place, to whoever lists cache mounts. Each try is of another job, since BuildKit may know the size
/// of a mount that has been used once.
async fn measured(test: &Test, wharfd: &Wharfd, base: &str) -> (Wharf, String, JoinHandle<Vec<CacheMount>>) {
    let files = "/bin/busybox seq 1 40000 | (cd /c; /bin/busybox xargs /bin/busybox touch)";
    let dockerfile = format!("FROM {base}\nRUN --mount=type=cache,target=/c {files}\n");
    let context = test.context("many", &[("Dockerfile", &dockerfile)]);
    let tasks = Group::root();
    let connected =
        wharf::engine::Engine::connect(&EngineName::default(), test.engine.socket(), &tasks).await.unwrap();
    let (measuring, looking) = tokio::join!(connected.dial(&tasks), connected.dial(&tasks));
    let (measuring, looking) = (Arc::new(measuring.unwrap()), looking.unwrap());
    for _ in 0..10 {
        let name = test.unique("app");
        let of_job = prefix(wharfd, &name);
        let job = Wharf::new(test, wharfd, &format!("{name}#1"));
        job.build_id(&context, &[]).await;
        let (measuring, prefix) = (Arc::clone(&measuring), of_job.clone());
        let measured = tokio::spawn(async move { cache_mounts(&measuring, &prefix, None).await.unwrap() });
        while !measured.is_finished() {
            // If this question is the first, it finds out the size itself, and BuildKit answers it afterwards.
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            let filter = vec![format!("type==exec.cachemount,description~={of_job}")];
            let request = DiskUsageRequest { filter, ..DiskUsageRequest::default() };
            let shown = looking.control().disk_usage(request).await.unwrap().into_inner().record;
            if shown.is_empty() && !measured.is_finished() {
                return (job, of_job, measured);
            }
        }
    }
    panic!("no mount was seen while its size was found out");
}

async fn a_mount_goes_whoever_finds_out_its_size(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;

    let (job, _, measuring) = measured(&test, &wharfd, &base).await;
    let mounts = inspected(&job).await;
    assert_eq!(mounts.as_array().unwrap().len(), 1, "{mounts}");
    assert_eq!((&mounts[0]["Id"], &mounts[0]["InUse"]), (&"/c".into(), &false.into()), "{mounts}");
    assert_eq!(measuring.await.unwrap().len(), 1);

    let (job, of_job, measuring) = measured(&test, &wharfd, &base).await;
    let ended = job.run(["namespace", "rm", "--job"]).await.ok().stdout;
    assert!(ended.contains("Cache mounts of the job: 1 (") && !ended.contains("left"), "{ended}");
    measuring.await.unwrap();
    assert_eq!(records(&test.engine, &of_job).await, 0);
}
