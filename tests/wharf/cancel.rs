//! Builds that are stopped before their end: by the client, by the namespace, by the daemon.

use std::{sync::Arc, time::Duration};

use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use wharf::wire::v1::BuildSpec;

use crate::harness::{
    Engine, Image, Test, Wharf, Wharfd, cases,
    image::{File, context_tar, tar},
    process::{Background, shell_status},
    registry::{Broken, BrokenRegistry},
    rpc, wait_for, wait_for_at_most,
};

cases![
    by_sigint,
    by_sigterm,
    by_sigkill,
    by_the_end_of_the_namespace,
    by_a_dropped_call,
    as_its_steps_begin,
    the_daemon_is_killed_during_a_build,
    the_daemon_is_killed_during_a_push,
    the_daemon_drains,
    the_grace_period_ends,
];

/// A cancelled build's step is gone within this time, at the latest.
const GONE: Duration = Duration::from_secs(4);

/// A build whose step runs until it is stopped.
pub(crate) struct Endless {
    context: std::path::PathBuf,
    /// The argument of its `sleep`, unique on the machine.
    seconds: String,
    base: String,
}

impl Endless {
    pub(crate) async fn new(test: &Test) -> Self {
        let registry = test.registry().await;
        let base = test.base(&registry).await;
        // About 30 years, with a unique number.
        let seconds = format!("9{:09}", fresh_digits(test).parse::<u32>().unwrap());
        let dockerfile = format!("FROM {base}\nRUN exec sleep {seconds}\n");
        let context = test.context("endless", &[("Dockerfile", &dockerfile)]);
        Self { context, seconds, base }
    }

    pub(crate) fn start(&self, job: &Wharf) -> Background {
        job.start(["build", "--progress=plain", "-t", "app:1", self.context.to_str().unwrap()])
    }

    pub(crate) async fn runs(&self, build: &Background) {
        let runs = async || (!Engine::processes_with(&self.seconds).is_empty()).then_some(());
        build.while_running("the step to run", runs).await;
    }

    pub(crate) async fn gone(&self) {
        wait_for_at_most(GONE, "the step's end", async || {
            Engine::processes_with(&self.seconds).is_empty().then_some(())
        })
        .await;
    }

    /// Checks that another build of the same job works.
    async fn next_build_works(&self, test: &Test, job: &Wharf) {
        let context =
            test.context("next", &[("Dockerfile", &format!("FROM {}\nRUN echo well\n", self.base))]);
        job.build_id(&context, &["-t", "next:1"]).await;
    }
}

/// Nine digits, unique on the machine.
pub(crate) fn fresh_digits(test: &Test) -> String {
    let unique = test.unique("");
    let digits: String = unique.chars().filter(char::is_ascii_digit).collect();
    digits.chars().rev().skip(2).take(9).collect()
}

async fn by_signal(test: &Test, signal: Signal, status: i32) {
    let (endless, wharfd) = tokio::join!(Endless::new(test), test.wharfd());
    let job = Wharf::new(test, &wharfd, "job#1");
    let build = endless.start(&job);
    endless.runs(&build).await;
    build.signal(signal);
    endless.gone().await;
    let ended = build.wait(GONE).await.unwrap();
    assert_eq!(shell_status(ended), status, "{:?}", build.lines());
    if signal != Signal::KILL {
        let said = build.lines().join("\n");
        assert!(said.contains("cancelled"), "{said}");
    }
    assert_eq!(job.images().await, []);
    endless.next_build_works(test, &job).await;
}

async fn by_sigint(test: Arc<Test>) {
    by_signal(&test, Signal::INT, 130).await;
}

async fn by_sigterm(test: Arc<Test>) {
    by_signal(&test, Signal::TERM, 143).await;
}

async fn by_sigkill(test: Arc<Test>) {
    by_signal(&test, Signal::KILL, 137).await;
}

async fn by_the_end_of_the_namespace(test: Arc<Test>) {
    let (endless, wharfd) = tokio::join!(Endless::new(&test), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let build = endless.start(&job);
    endless.runs(&build).await;
    let ended = job.run(["namespace", "rm"]).await.ok();
    assert!(ended.stdout.contains("Cancelled builds: 1"), "{ended}");
    endless.gone().await;
    let status = build.wait(GONE).await.unwrap();
    assert_eq!(shell_status(status), 1, "{:?}", build.lines());
    endless.next_build_works(&test, &job).await;
}

/// A client in another language has no session: it can only end its call.
async fn by_a_dropped_call(test: Arc<Test>) {
    let (endless, wharfd) = tokio::join!(Endless::new(&test), test.wharfd());
    let dockerfile = std::fs::read_to_string(endless.context.join("Dockerfile")).unwrap();
    let socket = wharfd.socket();
    let build = tokio::spawn(async move {
        let channel = rpc::connect(&socket).await;
        let start = rpc::start("job#1", BuildSpec::default());
        rpc::build_tar(&channel, start, context_tar(&[("Dockerfile", &dockerfile)])).await
    });
    wait_for("the step to run", async || {
        assert!(!build.is_finished(), "the build ended");
        (!Engine::processes_with(&endless.seconds).is_empty()).then_some(())
    })
    .await;
    build.abort();
    endless.gone().await;
}

/// Engine 26.1 does not kill a step whose build is cancelled before the step's process exists.
async fn as_its_steps_begin(test: Arc<Test>) {
    const STAGES: usize = 16;
    let (endless, wharfd) = tokio::join!(Endless::new(&test), test.wharfd());
    let Endless { base, seconds, .. } = &endless;
    let stages = (0..STAGES).map(|n| format!("FROM {base} AS s{n}\nRUN : {n}; exec sleep {seconds}\n"));
    let copies = (0..STAGES).map(|n| format!("COPY --from=s{n} /mark /{n}\n"));
    let dockerfile = format!("{}FROM {base}\n{}", stages.collect::<String>(), copies.collect::<String>());
    let tar = context_tar(&[("Dockerfile", &dockerfile)]);
    let channel = rpc::connect(&wharfd.socket()).await;
    for cancelled_at in [1, STAGES / 2, STAGES] {
        let (begun, mut begins) = mpsc::unbounded_channel();
        let (channel, tar) = (channel.clone(), tar.clone());
        let build = tokio::spawn(async move {
            let start = rpc::start("job#1", BuildSpec::default());
            rpc::build_tar_seen(&channel, start, tar, move |progress| {
                let steps = progress.vertexes.iter();
                let steps = steps.filter(|step| step.name.contains("RUN") && step.completed.is_none());
                steps.filter(|step| step.started.is_some()).for_each(|_| begun.send(()).unwrap_or_default());
            })
            .await
        });
        for _ in 0..cancelled_at {
            begins.recv().await.unwrap();
        }
        build.abort();
        // It waits for the end of the build. A step that is left behind would outlast that.
        Wharf::new(&test, &wharfd, "job#1").run(["namespace", "rm"]).await.ok();
        let left = Engine::processes_with(&endless.seconds);
        assert!(left.is_empty(), "cancelled at {cancelled_at}: {left:?}");
    }
}

async fn the_daemon_is_killed_during_a_build(test: Arc<Test>) {
    let (endless, wharfd) = tokio::join!(Endless::new(&test), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let build = endless.start(&job);
    endless.runs(&build).await;
    wharfd.kill().await;
    endless.gone().await;
    let status = build.wait(GONE).await.unwrap();
    assert_eq!(shell_status(status), 4, "{:?}", build.lines());
    wharfd.start().await;
    assert_eq!(job.images().await, []);
    endless.next_build_works(&test, &job).await;
}

/// The names by which the engine currently pulls and pushes for this wharfd.
pub(crate) async fn transfers(test: &Test, wharfd: &Wharfd) -> Vec<String> {
    let prefix = wharfd.prefix();
    let instance = prefix.trim_end_matches('/').rsplit('/').next().unwrap();
    let mut names = test.engine.names_with_prefix("127.0.0.1:").await;
    names.retain(|name| name.contains(&format!("/wharf/{instance}/")));
    names
}

/// Waits until the engine has a name at the relay, by which it pushes.
pub(crate) async fn begun(test: &Test, wharfd: &Wharfd, push: &Background) {
    let begun = async || (transfers(test, wharfd).await.len() == 1).then_some(());
    push.while_running("the engine to push", begun).await;
}

async fn the_daemon_is_killed_during_a_push(test: Arc<Test>) {
    let (mute, wharfd) = tokio::join!(BrokenRegistry::start(Broken::Greeting), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let content = test.unique("app");
    let context =
        test.context("context", &[("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", &content)]);
    let (repository, name) = (format!("{}/app", mute.host()), format!("{}/app:1", mute.host()));
    let free = format!("{}/free:1", mute.host());
    job.build_id(&context, &["-t", &name, "-t", &free]).await;
    let operators = tar([("operators", File::Content(content.as_bytes(), 0o644))]);
    let operators = test.engine.import(&repository, "1", operators).await;

    for pushed in [&name, &free] {
        let push = job.start(["push", pushed]);
        begun(&test, &wharfd, &push).await;
        // A container of that name still gets the operator's image, or the registry's.
        assert_eq!(test.engine.id(&name).await, operators);
        assert!(test.engine.inspect(&free).await.is_none());
        // Nobody else has to wait for the end of the push.
        let from = test.context("from", &[("Dockerfile", &format!("FROM {name}\nCOPY Dockerfile /own\n"))]);
        let other = Wharf::new(&test, &wharfd, "other#1");
        other.build(&from, &["--iidfile", "id"]).await.ok();
        let built = std::fs::read_to_string(other.home().join("id")).unwrap();
        assert_eq!(test.engine.text(&built, "/operators").await, content);
        assert!(push.ended().await.is_none());
        wharfd.kill().await;
        push.wait(GONE).await.unwrap();
        wharfd.start().await;
        assert_eq!(transfers(&test, &wharfd).await, Vec::<String>::new());
    }
    assert_eq!(test.engine.id(&name).await, operators);
    assert!(test.engine.inspect(&free).await.is_none());
    assert_eq!(job.images().await.len(), 2);
    job.build_id(&context, &["-t", &name]).await;
    test.engine.remove_image(&name).await;
    let left = test.engine.names_with_prefix(mute.host()).await;
    assert_eq!(left, Vec::<String>::new());
}

/// A build that waits for its context, so that the test decides when it continues.
async fn held_back(
    wharfd: &Wharfd,
    base: &str,
) -> (mpsc::Sender<bytes::Bytes>, tokio::task::JoinHandle<rpc::Build>, Vec<u8>) {
    let channel = rpc::connect(&wharfd.socket()).await;
    let (pieces, sent) = mpsc::channel(1);
    let start = rpc::start("job#1", BuildSpec { tags: vec!["held:1".to_owned()], ..BuildSpec::default() });
    let build = tokio::spawn(async move { rpc::build(&channel, start, ReceiverStream::new(sent)).await });
    let tar = context_tar(&[("Dockerfile", &format!("FROM {base}\nRUN echo done > /done\n"))]);
    pieces.send(tar[..700].to_vec().into()).await.unwrap();
    let begun = |line: &str| (line.contains("BuildService/Build") && line.contains("begun")).then_some(());
    wharfd.process().says("that the build has begun", begun).await;
    (pieces, build, tar[700..].to_vec())
}

async fn the_daemon_drains(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd_in_detail());
    Image::base(&test.unique("base")).push(&registry, "base", "1").await;
    let (pieces, build, rest) = held_back(&wharfd, &registry.name("base:1")).await;
    let process = wharfd.process();
    process.signal(Signal::TERM);
    process.says("that it waits", |line| line.contains("shutting down").then_some(())).await;
    // A new call is refused: the client should try another wharfd, or later.
    let late = test.context("late", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    Wharf::new(&test, &wharfd, "job#2").build(&late, &[]).await.ended(4);
    assert!(process.ended().await.is_none());
    pieces.send(rest.into()).await.unwrap();
    drop(pieces);
    build.await.unwrap().ok();
    let ended = process.wait(Duration::from_secs(10)).await.unwrap();
    assert_eq!(shell_status(ended), 0);
    assert!(!wharfd.socket().exists());
}

async fn the_grace_period_ends(test: Arc<Test>) {
    let endless = Endless::new(&test).await;
    let wharfd = test.wharfd_with(None, &["--grace-period", "1"]).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let build = endless.start(&job);
    endless.runs(&build).await;
    assert_eq!(wharfd.terminate().await, 0);
    endless.gone().await;
    let status = build.wait(GONE).await.unwrap();
    assert_eq!(shell_status(status), 4, "{:?}", build.lines());
}
