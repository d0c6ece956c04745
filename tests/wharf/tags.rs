//! The end of work while the engine gives an image a name: by its client, by its namespace, by the daemon. At none of
//! its names does a namespace lose an image, or the engine keep a name for longer than the namespace.

use std::{sync::Arc, time::Duration};

use rustix::process::Signal;

use crate::{
    cancel::transfers,
    harness::{
        PATIENCE, Test, Wharf, cases,
        image::{File, tar},
        process::{Background, shell_status},
        relay::Relay,
        wait_for, within,
    },
    transfers::{ENDS, End},
};

cases![
    a_build_that_replaces_images,
    a_build_on_images_of_each_kind,
    a_pull,
    a_push,
    a_build_whose_image_does_not_get_its_names,
];

/// How long the removal of a namespace is watched: it must not end before the engine has answered.
const HASTE: Duration = Duration::from_millis(300);

/// Each end at each of the `least` names, or more, that the engine gives images in the work that `start` begins. The
/// images with the ids that `before` returns belong to the job's namespace before, and to its end.
async fn at_each_name(
    test: &Test,
    least: usize,
    before: impl AsyncFn(&Wharf) -> Vec<String>,
    start: impl AsyncFn(&Wharf) -> Background,
) {
    let relay = Relay::start(test);
    let wharfd = test.wharfd_with(None, &["--engine", &relay.address()]).await;
    let mut number = usize::MAX;
    for end in ENDS {
        for earlier in (0..).take_while(|earlier| *earlier < number) {
            let job = Wharf::new(test, &wharfd, &format!("{end:?}-{earlier}#1"));
            let own = before(&job).await;
            relay.hold(&["POST ", "/tag?"], earlier);
            let work = start(&job).await;
            let held = async || (relay.holds() || work.ended().await.is_some()).then_some(());
            wait_for("a name, or the end of the work", held).await;
            if !relay.holds() {
                number = earlier;
                assert!(number >= least, "{number} names: {:?}", work.lines());
                relay.let_go();
                job.run(["namespace", "rm"]).await.ok();
                break;
            }
            if matches!(end, End::Client) {
                work.signal(Signal::INT);
                let status = wait_for("the client's end", async || work.ended().await).await;
                assert_eq!(shell_status(status), 130, "{:?}", work.lines());
            }
            if matches!(end, End::Daemon) {
                wharfd.kill().await;
                work.wait(PATIENCE).await.unwrap();
                // The engine never gets the request.
                relay.hold(&["nothing more"], 0);
                wharfd.start().await;
            }
            if !matches!(end, End::Namespace) {
                let left = job.images().await;
                let lost = own.iter().find(|id| left.iter().all(|(_, left)| left != *id));
                assert_eq!(lost, None, "{end:?} at name {earlier}: the namespace has {left:?}");
            }
            let removal = job.start(["namespace", "rm"]);
            if !matches!(end, End::Daemon) {
                let early = within(HASTE, async || removal.ended().await).await;
                relay.let_go();
                assert_eq!(early, None, "{end:?} at name {earlier}: nobody waits for the engine");
            }
            let status = removal.wait(PATIENCE).await.unwrap();
            assert_eq!(shell_status(status), 0, "{end:?} at name {earlier}: {:?}", removal.lines());
            let mut left = test.engine.names_with_prefix(&wharfd.prefix()).await;
            left.extend(transfers(test, &wharfd).await);
            assert_eq!(left, Vec::<String>::new(), "{end:?} at name {earlier}");
            for id in &own {
                assert!(
                    test.engine.inspect(id).await.is_none(),
                    "{end:?} at name {earlier}: {id} stays for ever"
                );
            }
            work.wait(PATIENCE).await.unwrap();
        }
    }
}

/// A job's own image of one file.
async fn image(test: &Test, job: &Wharf, name: &str) -> String {
    let content = test.unique("image");
    let context =
        test.context(&content, &[("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", &content)]);
    job.build_id(&context, &["-t", name]).await
}

/// The image gets its two names, and each earlier image another one first.
async fn a_build_that_replaces_images(test: Arc<Test>) {
    let before = async |job: &Wharf| vec![image(&test, job, "app:1").await, image(&test, job, "app:2").await];
    at_each_name(&test, 4, before, async |job| {
        let content = test.unique("both");
        let files = [("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", content.as_str())];
        let context = test.context(&content, &files);
        job.start(["build", "-q", "-t", "app:1", "-t", "app:2", context.to_str().unwrap()])
    })
    .await;
}

/// A build holds an image of the registry, one of the operator's and one of its own namespace, and names its own.
async fn a_build_on_images_of_each_kind(test: Arc<Test>) {
    let registry = test.registry().await;
    let base = test.base(&registry).await;
    let node = registry.name("node");
    let content = test.unique("node");
    let operators = tar([("operators", File::Content(content.as_bytes(), 0o644))]);
    test.engine.import(&node, "1", operators).await;
    let dockerfile = format!("FROM {base}\nCOPY --from={node}:1 /operators /\nCOPY --from=own:1 /file /\n");
    let context = test.context("context", &[("Dockerfile", &dockerfile)]);
    at_each_name(
        &test,
        4,
        async |job| vec![image(&test, job, "own:1").await],
        async |job| job.start(["build", "-q", "-t", "app:1", context.to_str().unwrap()]),
    )
    .await;
    test.engine.remove_image(&format!("{node}:1")).await;
}

/// The image that was pulled gets its hold, and its name in the namespace.
async fn a_pull(test: Arc<Test>) {
    let registry = test.registry().await;
    let base = test.base(&registry).await;
    at_each_name(&test, 2, async |_| Vec::new(), async |job| job.start(["pull", &base])).await;
}

/// The image gets the name by which the engine pushes it.
async fn a_push(test: Arc<Test>) {
    let registry = test.registry().await;
    let name = registry.name("app:1");
    let before = async |job: &Wharf| vec![image(&test, job, &name).await];
    at_each_name(&test, 1, before, async |job| job.start(["push", &name])).await;
}

/// A build that fails while its image gets its names leaves the names that the image has got, and nothing else.
async fn a_build_whose_image_does_not_get_its_names(test: Arc<Test>) {
    let relay = Relay::start(&test);
    let wharfd = test.wharfd_with(None, &["--engine", &relay.address()]).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let build = async |names: &[&str]| {
        let content = test.unique("image");
        let files = [("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", content.as_str())];
        let context = test.context(&content, &files);
        let tags = names.iter().flat_map(|name| ["-t", name]);
        let args: Vec<_> = ["build"].into_iter().chain(tags).chain([context.to_str().unwrap()]).collect();
        job.run(args).await
    };
    let is_left = async |names: &[&str]| {
        let images = job.images().await;
        assert_eq!(images.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), names);
        let mut left = test.engine.names_with_prefix(&wharfd.prefix()).await;
        // The containerd store shows each name's digest, too.
        left.retain(|name| !name.contains('@'));
        assert_eq!(left.len(), names.len(), "{left:?}");
    };

    relay.lose_tag(0);
    build(&["app:1"]).await.ended(1).says(&["disappeared"]);
    is_left(&[]).await;

    relay.lose_tag(1);
    build(&["app:1", "app:2"]).await.ended(1).says(&["disappeared"]);
    is_left(&["app:1"]).await;

    // What the name meant before has another name meanwhile, and the name again.
    let before = job.images().await;
    relay.lose_tag(1);
    build(&["app:1"]).await.ended(1).says(&["disappeared"]);
    assert_eq!(job.images().await, before);
    is_left(&["app:1"]).await;
    job.run(["rmi", "app:1"]).await.ok();
    is_left(&[]).await;
}
