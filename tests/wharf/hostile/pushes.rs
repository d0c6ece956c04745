//! Registries that answer pushes in unusual ways.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{io::AsyncWriteExt as _, net::UnixStream};

use crate::harness::{
    Engine, Test, Wharf, cases,
    engine::registry_auth,
    lock,
    process::shell_status,
    script::{Reply, ScriptedRegistry},
    wait_for,
};

cases![
    an_upload_that_is_complete_at_once,
    a_layer_that_another_push_uploads,
    uploads_that_never_end_delay_no_other_push,
];

/// Answers that an upload is already complete, although the push has named no other repository: the classic
/// store looks up that repository through a nil pointer.
fn registry_that_has_it(engine: &Engine) -> ScriptedRegistry {
    ScriptedRegistry::start_in(engine, |method, path| match (method, path) {
        (_, "/v2/") => Reply::Whole("200 OK", Vec::new(), b"{}".to_vec()),
        ("POST", _) => {
            let location = ("location", "/v2/app/blobs/uploads/1".to_owned());
            Reply::Whole("201 Created", vec![location], Vec::new())
        }
        ("HEAD", _) => Reply::Whole("404 Not Found", Vec::new(), Vec::new()),
        _ => Reply::Whole("403 Forbidden", Vec::new(), Vec::new()),
    })
}

async fn an_upload_that_is_complete_at_once(test: Arc<Test>) {
    let (_, engine) = test.throw_away_engine().await;
    let wharfd = test.wharfd_beside(&engine).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let evil = registry_that_has_it(&engine);
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let name = format!("{}/app:1", evil.host());
    job.build(&context, &["-t", &name, "--push"]).await.ended(3).says(&["refuses app:1"]);
    let asked = evil.requests();
    assert!(asked.iter().any(|request| request.starts_with("POST ")), "{asked:?}");
    // The engine still runs.
    job.build(&context, &["-t", "app:2"]).await.ok();

    if !engine.is_containerd() {
        let evil = registry_that_has_it(&engine);
        let id = job.build_id(&context, &["-t", "app:3"]).await;
        assert_eq!(wharfd.terminate().await, 0);
        std::fs::remove_dir_all(wharfd.state_dir()).unwrap();
        let repository = format!("{}/app", evil.host());
        engine.post(&format!("/images/{id}/tag?repo={repository}&tag=1")).send().await.ok();
        let mut stream = UnixStream::connect(engine.socket()).await.unwrap();
        let push = format!(
            "POST /images/{repository}/push?tag=1 HTTP/1.1\r\nhost: engine\r\nx-registry-auth: {}\r\n\
             content-length: 0\r\n\r\n",
            registry_auth("user", "secret")
        );
        stream.write_all(push.as_bytes()).await.unwrap();
        wait_for("the engine to end", async || {
            UnixStream::connect(engine.socket()).await.is_err().then_some(())
        })
        .await;
    }
}

/// Two pushes of one layer to one repository: the classic store uploads the layer only once for both, so the
/// second would wait for the first, and fail with it.
async fn a_layer_that_another_push_uploads(test: Arc<Test>) {
    let (hangs, stored) = (AtomicBool::new(true), Mutex::new(HashSet::new()));
    let registry = ScriptedRegistry::start(move |method, path| {
        let digest = |path: &str| path[path.find("sha256").unwrap()..].replace("%3A", ":");
        match method {
            "GET" => Reply::Whole("200 OK", Vec::new(), b"{}".to_vec()),
            "POST" => {
                let location = ("location", "/v2/app/blobs/uploads/1".to_owned());
                Reply::Whole("202 Accepted", vec![location], Vec::new())
            }
            "PATCH" | "PUT" if path.contains("/uploads/") && hangs.swap(false, Ordering::Relaxed) => {
                Reply::Never
            }
            "PATCH" | "PUT" => {
                if path.contains("digest=") {
                    lock(&stored).insert(digest(path));
                }
                Reply::Taken
            }
            "HEAD" if path.contains("/blobs/") && lock(&stored).contains(&digest(path)) => {
                Reply::Whole("200 OK", Vec::new(), b"layer".to_vec())
            }
            _ => Reply::Whole("404 Not Found", Vec::new(), Vec::new()),
        }
    })
    .await;
    let wharfd = test.wharfd().await;
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let (first, second) = (Wharf::new(&test, &wharfd, "first#1"), Wharf::new(&test, &wharfd, "second#1"));
    let name = format!("{}/app:1", registry.host());
    for job in [&first, &second] {
        job.build(&context, &["-t", &name]).await.ok();
    }
    let _hanging = first.start(["push", &name]);
    let is_upload = |request: &String| !request.starts_with("POST") && request.contains("/uploads/");
    wait_for("the first upload", async || registry.requests().iter().any(is_upload).then_some(())).await;
    second.run(["push", &name]).await.ok();
}

/// The classic store uploads five layers at once, of all pushes. Without the relay's look at them, those of one
/// registry keep the others waiting for as long as it likes.
async fn uploads_that_never_end_delay_no_other_push(test: Arc<Test>) {
    let mute = ScriptedRegistry::start(|method, path| match (method, path) {
        (_, "/v2/") => Reply::Whole("200 OK", Vec::new(), b"{}".to_vec()),
        ("POST", _) => {
            let location = ("location", "/v2/app/blobs/uploads/1".to_owned());
            Reply::Whole("202 Accepted", vec![location], Vec::new())
        }
        ("HEAD", _) => Reply::Whole("404 Not Found", Vec::new(), Vec::new()),
        // It takes all of the layer, and says nothing.
        _ => Reply::Never,
    })
    .await;
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let (thief, victim) = (Wharf::new(&test, &wharfd, "thief#1"), Wharf::new(&test, &wharfd, "victim#1"));
    let layers = ["a", "b", "c", "d", "e"].map(|name| (name, test.unique(name)));
    let copies: String = layers.iter().map(|(name, _)| format!("COPY {name} /\n")).collect();
    let dockerfile = format!("FROM scratch\n{copies}");
    let files: Vec<_> = layers.iter().map(|(name, content)| (*name, content.as_str())).collect();
    let context = test.context("context", &[&[("Dockerfile", dockerfile.as_str())], &*files].concat());
    let context = context.to_str().unwrap();
    let pushing = thief.start(["build", "--push", "-t", &format!("{}/app:1", mute.host()), context]);
    // The containerd store sends a layer in one piece, and each push as many at once as it likes.
    let (method, enough) = if test.engine.is_containerd() { ("PUT", 1) } else { ("PATCH", 5) };
    let uploads = || mute.requests().iter().filter(|request| request.starts_with(method)).count();
    pushing.while_running("the uploads", async || (uploads() >= enough).then_some(())).await;
    victim.build(context, &["--push", "-t", &format!("{}/app:1", registry.host())]).await.ok();
    if !test.engine.is_containerd() {
        let status = wait_for("the end of the slow push", async || pushing.ended().await).await;
        assert_eq!(shell_status(status), 5, "{:?}", pushing.lines());
        let why = "while other pushes wait";
        assert!(pushing.lines().iter().any(|line| line.contains(why)), "{:?}", pushing.lines());
    }
}
