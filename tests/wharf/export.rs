//! Builds that end during an export. The classic store ignores a cancel then, and names the image seconds
//! later.

use std::{path::PathBuf, sync::Arc, time::Duration};

use rusqlite::Connection;
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use wharf::wire::v1::BuildSpec;

use crate::harness::{
    Test, Wharf, Wharfd, cases,
    image::context_tar,
    process::{Background, shell_status},
    relay::Relay,
    rpc, wait_for,
};

cases![
    the_client_is_interrupted,
    the_namespace_ends,
    the_daemon_is_killed,
    builds_of_one_tag_keep_their_images,
    the_janitor_leaves_an_image_that_is_just_finished,
];

/// A build of an image whose export takes seconds.
struct Large {
    context: PathBuf,
    base: String,
}

impl Large {
    async fn new(test: &Test) -> Self {
        let registry = test.registry().await;
        let base = test.base(&registry).await;
        let context = Self::context(test, &base, "large");
        Self { context, base }
    }

    fn context(test: &Test, base: &str, name: &str) -> PathBuf {
        let mark = test.unique(name);
        // The log shows an export that takes more than a second.
        let step = format!("dd if=/dev/zero of=/large bs=1M count=1200 && echo {mark} > /mark");
        test.context(name, &[("Dockerfile", &format!("FROM {base}\nRUN {step}\n"))])
    }

    fn start(&self, job: &Wharf) -> Background {
        job.start(["build", "--progress=plain", "-t", "app:1", self.context.to_str().unwrap()])
    }

    /// An earlier image of the job with the same name.
    async fn small(&self, test: &Test, job: &Wharf) -> String {
        let dockerfile = format!("FROM {}\nRUN echo {} > /mark\n", self.base, test.unique("small"));
        let context = test.context("small", &[("Dockerfile", &dockerfile)]);
        job.build_id(&context, &["-t", "app:1"]).await
    }
}

/// Waits until a build exports its image.
async fn exports(build: &Background) {
    let exports = async || build.lines().iter().any(|line| line.contains("exporting layers")).then_some(());
    build.while_running("the export", exports).await;
}

/// Shows that the bare engine names an image after its build was cancelled. This takes as long as any export
/// of this size.
async fn bare_engine_names_late(test: &Test, base: &str) {
    // The containerd store's export ends with the cancel.
    if test.engine.is_containerd() {
        return;
    }
    let context = Large::context(test, base, "bare");
    let name = format!("{}:1", test.unique("late"));
    let mut buildx = test.engine.buildx(&test.new_dir("bare-home"));
    buildx.args(["-t", &name]).arg(&context);
    let build = Background::start(buildx);
    exports(&build).await;
    build.signal(Signal::KILL);
    build.wait(Duration::from_secs(10)).await.unwrap();
    wait_for("the image of a build that was cancelled", async || test.engine.inspect(&name).await).await;
    test.engine.remove_image(&name).await;
}

async fn the_client_is_interrupted(test: Arc<Test>) {
    let (large, wharfd) = tokio::join!(Large::new(&test), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let before = large.small(&test, &job).await;
    let build = large.start(&job);
    exports(&build).await;
    build.signal(Signal::INT);
    let ended = build.wait(Duration::from_secs(10)).await.unwrap();
    assert_eq!(shell_status(ended), 130, "{:?}", build.lines());
    bare_engine_names_late(&test, &large.base).await;
    // The name still has the earlier image, and the new image is gone.
    wait_for("the end of the build", async || {
        (job.images().await == [("app:1".to_owned(), before.clone())]).then_some(())
    })
    .await;
    nothing_is_left(&test, &wharfd, &job).await;
}

/// Ends the namespace, and checks that the engine has nothing of it.
async fn nothing_is_left(test: &Test, wharfd: &Wharfd, job: &Wharf) {
    job.run(["namespace", "rm"]).await.ok();
    assert_eq!(test.engine.names_with_prefix(&wharfd.prefix()).await, Vec::<String>::new());
}

async fn the_namespace_ends(test: Arc<Test>) {
    let (large, wharfd) = tokio::join!(Large::new(&test), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    large.small(&test, &job).await;
    let build = large.start(&job);
    exports(&build).await;
    let ended = job.run(["namespace", "rm"]).await.ok();
    assert!(ended.stdout.contains("Cancelled builds: 1"), "{ended}");
    // Without waiting: a namespace's builds end before it does.
    let left = test.engine.names_with_prefix(&wharfd.prefix()).await;
    assert_eq!(left, Vec::<String>::new());
    build.wait(Duration::from_secs(10)).await.unwrap();
    bare_engine_names_late(&test, &large.base).await;
    assert_eq!(test.engine.names_with_prefix(&wharfd.prefix()).await, Vec::<String>::new());
}

async fn the_daemon_is_killed(test: Arc<Test>) {
    let (large, wharfd) = tokio::join!(Large::new(&test), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let before = large.small(&test, &job).await;
    let build = large.start(&job);
    exports(&build).await;
    wharfd.kill().await;
    build.wait(Duration::from_secs(10)).await.unwrap();
    wharfd.start().await;
    // The engine has to end the build, and the next wharfd has to remove the image.
    bare_engine_names_late(&test, &large.base).await;
    wait_for("the image of the build to go", async || {
        (job.images().await == [("app:1".to_owned(), before.clone())]).then_some(())
    })
    .await;
    nothing_is_left(&test, &wharfd, &job).await;
}

/// Parallel builds of one tag: each pushes and reports its own image.
async fn builds_of_one_tag_keep_their_images(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let tag = registry.name("app:1");
    let builds = (0..6).map(|number| {
        let mark = test.unique(&format!("mark{number}"));
        let context = test.context(
            &format!("one-of-many{number}"),
            &[("Dockerfile", "FROM scratch\nCOPY mark /\n"), ("mark", &mark)],
        );
        let (job, tag, iid) = (&job, &tag, test.dir().join(format!("iid{number}")));
        async move {
            let flags = ["-t", tag, "--push", "--iidfile", iid.to_str().unwrap()];
            job.build(&context, &flags).await.ok();
            (std::fs::read_to_string(&iid).unwrap().trim().to_owned(), mark)
        }
    });
    for (id, mark) in futures_util::future::join_all(builds).await {
        assert_eq!(test.engine.text(&id, "/mark").await, mark);
    }
    // One image has the name; the others still belong to the namespace, and are removed with it.
    let images = job.images().await;
    assert_eq!((images.len(), images.iter().filter(|(name, _)| *name == tag).count()), (6, 1), "{images:?}");
    nothing_is_left(&test, &wharfd, &job).await;
}

/// An image without a reference has only the name under which it was exported. The janitor, which removes such names if
/// their builds have been cut off, looks at another one while the build runs, and at this one when it has ended.
async fn the_janitor_leaves_an_image_that_is_just_finished(test: Arc<Test>) {
    let relay = Relay::start(&test);
    let wharfd = test.wharfd_with(None, &["--engine", &relay.address()]).await;
    let (pieces, sent) = mpsc::channel(1);
    let channel = rpc::connect(&wharfd.socket()).await;
    let start = rpc::start("job#1", BuildSpec::default());
    let build = tokio::spawn(async move { rpc::build(&channel, start, ReceiverStream::new(sent)).await });
    let tar = context_tar(&[("Dockerfile", "FROM scratch\nCOPY . /\n"), ("mark", &test.unique("mark"))]);
    let (first, rest) = tar.split_at(700);
    pieces.send(first.to_vec().into()).await.unwrap();

    // Before and behind the build's own name, from so long ago that the janitor forgets them.
    let store = Connection::open(wharfd.state_dir().join("wharf.sqlite")).unwrap();
    let count = |like: &str| {
        let select = "SELECT count(*) FROM exports WHERE name LIKE ?";
        store.query_row(select, [like], |row| row.get::<_, u32>(0)).unwrap()
    };
    wait_for("the build's own name", async || (count("%") == 1).then_some(())).await;
    relay.hold(&["/images/", "0-first"], 0);
    for name in ["0-first/untagged/0-first:1", "z-last/untagged/z-last:1"] {
        let name = format!("{}{name}", wharfd.prefix());
        store.execute("INSERT INTO exports SELECT engine, ?, 0 FROM exports LIMIT 1", [name]).unwrap();
    }
    wait_for("the janitor's look", async || relay.holds().then_some(())).await;
    pieces.send(rest.to_vec().into()).await.unwrap();
    drop(pieces);
    let built = build.await.unwrap();
    let id = &built.ok().image_id;
    relay.let_go();
    wait_for("the end of the look", async || (count("%z-last%") == 0).then_some(())).await;
    assert!(test.engine.inspect(id).await.is_some(), "{id} is gone");
}
