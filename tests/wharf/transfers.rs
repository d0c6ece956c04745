//! The end of a push or a pull before its end: by its client, by its namespace, by the daemon. Nothing of it is
//! left, however late the engine is.

use std::sync::Arc;

use rustix::process::Signal;

use crate::{
    cancel::{begun, transfers},
    harness::{
        Image, Test, Wharf, Wharfd, cases,
        image::{CONFIG, File, Layer, MANIFEST, digest},
        process::{Background, shell_status},
        registry::{Broken, BrokenRegistry},
        relay::Relay,
        script::{Reply, ScriptedRegistry},
        wait_for,
    },
};

cases![a_push, a_push_after_a_build, a_push_needs_no_builder, a_pull];

/// The way in which work ends before its end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Client,
    Namespace,
    Daemon,
}

pub(crate) const ENDS: [End; 3] = [End::Client, End::Namespace, End::Daemon];

/// Ends the work, and looks at what is left: of the namespace's own images, as many as `kept`, unless it ended too.
async fn ends(test: &Test, wharfd: &Wharfd, job: &Wharf, work: Background, end: End, kept: usize) {
    match end {
        End::Client => {
            work.signal(Signal::INT);
            let status = wait_for("the client's end", async || work.ended().await).await;
            assert_eq!(shell_status(status), 130, "{:?}", work.lines());
            let gone = async || transfers(test, wharfd).await.is_empty().then_some(());
            wait_for("the end of the transfer", gone).await;
            assert_eq!(job.images().await.len(), kept);
        }
        End::Namespace => {
            job.run(["namespace", "rm"]).await.ok();
            // It waits for what runs in it.
            assert_eq!(transfers(test, wharfd).await, Vec::<String>::new());
            let status = wait_for("the client's end", async || work.ended().await).await;
            assert_eq!(shell_status(status), 1, "{:?}", work.lines());
            assert_eq!(work.lines().last().unwrap(), "ERROR: cancelled: the namespace was deleted");
            assert_eq!(job.images().await, []);
        }
        End::Daemon => {
            wharfd.kill().await;
            let status = wait_for("the client's end", async || work.ended().await).await;
            assert_eq!(shell_status(status), 4, "{:?}", work.lines());
            wharfd.start().await;
            assert_eq!(transfers(test, wharfd).await, Vec::<String>::new());
            assert_eq!(job.images().await.len(), kept);
        }
    }
    job.run(["namespace", "rm"]).await.ok();
    let left = test.engine.names_with_prefix(&wharfd.prefix()).await;
    assert_eq!(left, Vec::<String>::new(), "{end:?}");
}

async fn a_push(test: Arc<Test>) {
    pushes(&test, async |job, context, name| {
        job.build_id(context, &["-t", name]).await;
        job.start(["push", name])
    })
    .await;
}

/// A build's image is there, and can be pushed again.
async fn a_push_after_a_build(test: Arc<Test>) {
    pushes(&test, async |job, context, name| job.start(["build", "--push", "-t", name, context])).await;
}

/// Each end of what `start` begins with a job, a context and a name at a registry that does not answer.
async fn pushes(test: &Test, start: impl AsyncFn(&Wharf, &str, &str) -> Background) {
    let (mute, wharfd) = tokio::join!(BrokenRegistry::start(Broken::Greeting), test.wharfd());
    let name = format!("{}/app:1", mute.host());
    for end in ENDS {
        let content = test.unique("app");
        let files = [("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", content.as_str())];
        let context = test.context(&format!("{end:?}"), &files);
        let job = Wharf::new(test, &wharfd, &format!("{end:?}#1"));
        let push = start(&job, context.to_str().unwrap(), &name).await;
        begun(test, &wharfd, &push).await;
        ends(test, &wharfd, &job, push, end, 1).await;
    }
}

/// A push may last long after its build, and keeps no connection to BuildKit.
async fn a_push_needs_no_builder(test: Arc<Test>) {
    let relay = Relay::start(&test);
    let wharfd = test.wharfd_with(None, &["--engine", &relay.address()]).await;
    let mute = BrokenRegistry::start(Broken::Greeting).await;
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let job = Wharf::new(&test, &wharfd, "job#1");
    let (_, before) = relay.builders();
    let name = format!("{}/app:1", mute.host());
    let push = job.start(["build", "--push", "-t", &name, context.to_str().unwrap()]);
    begun(&test, &wharfd, &push).await;
    push.while_running("the connection to end", async || (relay.builders().0 == 0).then_some(())).await;
    assert!(relay.builders().1 > before);
    ends(&test, &wharfd, &job, push, End::Client, 1).await;
}

/// Its layer never comes.
async fn a_pull(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    for end in ENDS {
        let content = test.unique("app");
        let image = Image::of(vec![Layer::of([("file", File::Content(content.as_bytes(), 0o644))])]);
        let config = image.config().to_string();
        let layer = &image.layers[0];
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "size": config.len(), "digest": digest(config.as_bytes())},
            "layers": [{
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "size": layer.blob.len(),
                "digest": layer.digest,
            }],
        })
        .to_string();
        let blob = layer.digest.clone();
        let registry = ScriptedRegistry::start(move |_, path| {
            let whole = |kind: &str, body: &str| {
                let headers = vec![("content-type", kind.to_owned())];
                Reply::Whole("200 OK", headers, body.as_bytes().to_vec())
            };
            match path {
                _ if path.contains("/manifests/") => whole(MANIFEST, &manifest),
                _ if path.ends_with(&blob) => Reply::Never,
                _ if path.contains("/blobs/") => whole("application/octet-stream", &config),
                _ => whole("application/json", "{}"),
            }
        })
        .await;
        let job = Wharf::new(&test, &wharfd, &format!("{end:?}#1"));
        let pull = job.start(["pull", &format!("{}/app:1", registry.host())]);
        let asked =
            async || registry.requests().iter().any(|request| request.contains(&layer.digest)).then_some(());
        pull.while_running("the engine to ask for the layer", asked).await;
        ends(&test, &wharfd, &job, pull, end, 0).await;
    }
}
