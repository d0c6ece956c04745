//! Files that a build fetches by URL: wharfd fetches them, and BuildKit never speaks with their servers.

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    harness::{
        Test, Wharf, cases,
        files::{Answer, FileServer},
        image::{context_tar, digest},
        process::shell_status,
        wait_for,
    },
    policy::{dockerfile, policy},
};

cases![
    a_server_leads_nobody_astray,
    a_file_is_as_dockers,
    an_unchanged_file_does_not_come_again,
    a_checksum_counts,
    a_file_that_does_not_come_fails_the_build,
    a_large_head_is_refused,
    a_cancelled_build_leaves_the_server,
    a_server_that_does_not_wait_is_asked_again,
    a_url_beside_an_uploaded_tar,
];

/// A cancelled build has ended within this time, at the latest.
const ENDED: Duration = Duration::from_secs(30);

const MODIFIED: &str = "last-modified: Wed, 01 May 2024 10:00:00 GMT\r\n";

/// A policy for every job, which may fetch from these hosts.
pub(crate) fn may_add(hosts: &[&str]) -> String {
    policy(
        "p",
        "*",
        &format!("pull = [\"*\"]\nnode_images = [\"*\"]\nnetworks = [\"default\"]\nadd = {hosts:?}"),
    )
}

async fn a_server_leads_nobody_astray(test: Arc<Test>) {
    let secret = FileServer::start(|_, _| Answer::file("", "secret")).await;
    let to = secret.url("/secret");
    let server = FileServer::start(move |path, _| match path {
        "/host" => Answer::redirect(&to),
        "/metadata" => Answer::redirect("http://169.254.169.254/latest/meta-data?key=hidden"),
        _ => Answer::redirect(path),
    })
    .await;
    let add = |path: &str| format!("FROM scratch\n\nADD {} /stolen\n", server.url(path));
    let bare = dockerfile(&test, "bare", &add("/host"));
    test.engine.buildx_build(&test.new_dir("home"), &bare, &["--no-cache"]).await.ok();
    let before = secret.heard().len();
    assert!(before > 0, "the bare engine follows the redirect");

    let wharfd = test.wharfd_with(Some(&may_add(&[server.host()])), &[]).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    for (path, status, says) in [
        ("/host", 3, "is redirected: policy `p` does not let the job fetch"),
        ("/metadata", 3, "does not let the job fetch `http://169.254.169.254/latest/meta-data`"),
        ("/loop", 1, "it redirects 10 times and more"),
    ] {
        let refused = job.build(dockerfile(&test, &path[1..], &add(path)), &[]).await.ended(status);
        let refused = refused.says(&["Dockerfile:3: ", &server.url(path), says]);
        assert!(!refused.stderr.contains("hidden"), "{refused}");
    }
    assert_eq!(secret.heard().len(), before);
}

/// With content that the server packs, a name of its own, and no time.
async fn a_file_is_as_dockers(test: Arc<Test>) {
    let registry = test.registry().await;
    let base = test.base(&registry).await;
    let server = FileServer::start(|path, _| match path {
        "/plain.txt?x=y" => {
            Answer::file(&format!("{MODIFIED}content-disposition: attachment; filename=other\r\n"), "plain")
        }
        "/packed" => {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            packed.write_all(b"packed").unwrap();
            Answer::file("content-encoding: gzip\r\n", packed.finish().unwrap())
        }
        "/a.tar.gz" => Answer::file(MODIFIED, "an archive"),
        "/go" => Answer::redirect("there"),
        _ => Answer::file("etag: \"1\"\r\n", path.to_owned()),
    })
    .await;
    let text = format!(
        "FROM {base}\n\
         ADD {} /d/\n\
         ADD --chmod=755 --chown=7:8 {} {} /d/\n\
         ADD --link {} /link\n\
         ADD {} /d/%41\n\
         ADD {} /e/\n\
         RUN stat -c '%n %a %u %g %Y %s' /d/* /link /e/* > /all && cat /d/* /link /e/* >> /all\n",
        server.url("/plain.txt?x=y"),
        server.url("/packed"),
        server.url("/a.tar.gz"),
        server.url("/go"),
        server.url("/%41"),
        server.url("/"),
    );
    let context = dockerfile(&test, "all", &text);
    let name = test.unique("bare");
    test.engine.buildx_build(&test.new_dir("home"), &context, &["--no-cache", "-t", &name]).await.ok();
    let bare = test.engine.text(&name, "/all").await;
    test.engine.remove_image(&name).await;

    let wharfd = test.wharfd_with(Some(&may_add(&[server.host()])), &[]).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let id = job.build_id(&context, &["--no-cache"]).await;
    let ours = test.engine.text(&id, "/all").await;
    assert_eq!(ours, bare);
    assert!(ours.contains("/d/plain.txt 600 0 0 1714557600 5\n"), "{ours}");
    assert!(ours.contains("packed") && ours.contains("/link 600 0 0 0 6\n"), "{ours}");
    let agents: Vec<_> = server.heard().into_iter().filter(|head| head.contains("wharfd/")).collect();
    assert_eq!(agents.len(), 7, "each URL was asked for once, and one of them redirects: {agents:?}");
}

async fn an_unchanged_file_does_not_come_again(test: Arc<Test>) {
    let registry = test.registry().await;
    let base = test.base(&registry).await;
    let version = Arc::new(AtomicUsize::new(1));
    let current = Arc::clone(&version);
    let server = FileServer::start(move |path, head| {
        let version = current.load(Ordering::Relaxed);
        if path == "/none" {
            return Answer::file("", "always the same");
        }
        match head.contains(&format!("if-none-match: \"{version}\"\r\n")) {
            true => Answer::status("304 Not Modified"),
            false => {
                Answer::file(&format!("etag: \"{version}\"\r\n{MODIFIED}"), format!("version {version}"))
            }
        }
    })
    .await;
    let wharfd = test.wharfd_with(Some(&may_add(&[server.host()])), &[]).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let text = format!(
        "FROM {base}\nADD {} /f\nADD {} /n\nRUN head -c 9 /dev/urandom | od -tx1 > /made\n",
        server.url("/f"),
        server.url("/none")
    );
    let context = dockerfile(&test, "f", &text);
    // The result of the last step says whether the ones before it were cached.
    let build = async || {
        let id = job.build_id(&context, &[]).await;
        (test.engine.text(&id, "/f").await, test.engine.text(&id, "/made").await)
    };
    let first = build().await;
    assert_eq!(first.0, "version 1");
    let before = server.heard().len();
    assert_eq!(build().await, first);
    let since = server.heard_since(before);
    assert_eq!(since.len(), 2, "{since:?}");
    assert!(since.iter().any(|head| head.starts_with("get /f ") && head.contains("if-none-match: \"1\"")));

    // What another job has is not asked for.
    let before = server.heard().len();
    Wharf::new(&test, &wharfd, "other#1").build(&context, &[]).await.ok();
    assert!(server.heard_since(before).iter().all(|head| !head.contains("if-none-match")));

    version.store(2, Ordering::Relaxed);
    let changed = build().await;
    assert!(changed.0 == "version 2" && changed.1 != first.1, "{changed:?}");

    // A wharfd that has forgotten gets the file again, which BuildKit has.
    wharfd.terminate().await;
    wharfd.start().await;
    assert_eq!(build().await, changed);
}

async fn a_checksum_counts(test: Arc<Test>) {
    let content = test.unique("content");
    let served = content.clone();
    let server = FileServer::start(move |_, _| Answer::file("etag: \"1\"\r\n", served.clone())).await;
    let wharfd = test.wharfd_with(Some(&may_add(&[server.host()])), &[]).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let (right, wrong) = (digest(content.as_bytes()), digest(b"other"));
    let add = |checksum: &str| {
        let text = format!("FROM scratch\nADD --checksum={checksum} {} /f\n", server.url("/f"));
        dockerfile(&test, &checksum[8..], &text)
    };
    for _ in 0..2 {
        let failed = job.build(add(&wrong), &["--no-cache"]).await.ended(1);
        failed.says(&["Dockerfile:2: cannot fetch", &server.url("/f"), &right, &wrong]);
    }
    let id = job.build_id(add(&right), &[]).await;
    assert_eq!(test.engine.text(&id, "/f").await, content);
    let before = server.heard().len();
    job.build(add(&right), &[]).await.ok();
    assert_eq!(server.heard_since(before), Vec::<String>::new(), "the content is known");
    // A job that knows the checksum alone gets nothing of it.
    let other = Wharf::new(&test, &wharfd, "other#1");
    other.build(add(&right), &[]).await.ok();
    assert_eq!(server.heard_since(before).len(), 1);
}

async fn a_file_that_does_not_come_fails_the_build(test: Arc<Test>) {
    let server = FileServer::start(|path, _| match path {
        "/404" => Answer::status("404 Not Found"),
        "/503" => Answer::status("503 Service Unavailable"),
        "/large" => Answer::file("", vec![b'x'; 2 << 20]),
        _ => Answer::Whole("200 OK", "content-encoding: gzip\r\n".to_owned(), b"broken".to_vec()),
    })
    .await;
    let nobody = {
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        gone.local_addr().unwrap().to_string()
    };
    let config = format!("{}context_size = \"1MiB\"\n", may_add(&[server.host(), &nobody]));
    let wharfd = test.wharfd_with(Some(&config), &[]).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    for (name, url, status, says) in [
        ("404", server.url("/404"), 1, "it answers 404 Not Found"),
        ("503", server.url("/503"), 5, "it answers 503 Service Unavailable"),
        ("broken", server.url("/broken"), 1, "it has packed with gzip cannot be unpacked"),
        ("refused", format!("http://{nobody}/f"), 5, "connection refused"),
        ("tls", format!("https://{}/f", server.host()), 5, "it does not speak HTTPS"),
    ] {
        let context = dockerfile(&test, name, &format!("FROM scratch\nADD {url} /f\n"));
        job.build(&context, &[]).await.ended(status).says(&["Dockerfile:2: cannot fetch", &url, says]);
    }
    let context = dockerfile(&test, "large", &format!("FROM scratch\nADD {} /f\n", server.url("/large")));
    job.build(&context, &[]).await.ended(3).says(&["policy `p`", "`context_size`"]);
}

/// BuildKit keeps the whole tag for good, in the engine's memory and on its disk.
async fn a_large_head_is_refused(test: Arc<Test>) {
    let tag = "x".repeat(9 << 20);
    let server = FileServer::start(move |_, _| Answer::file(&format!("etag: \"{tag}\"\r\n"), "small")).await;
    let context = dockerfile(&test, "f", &format!("FROM scratch\nADD {} /f\n", server.url("/f")));
    let wharfd = test.wharfd_with(Some(&may_add(&[server.host()])), &[]).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let refused = job.build(&context, &[]).await.ended(1);
    refused.says(&["Dockerfile:2: ", &server.url("/f"), "the head of its answer is larger than 64 KiB"]);
}

async fn a_cancelled_build_leaves_the_server(test: Arc<Test>) {
    let server = FileServer::start(|path, _| match path {
        "/never" => Answer::Never,
        _ => Answer::Part(String::new(), vec![b'x'; 1 << 20], 1 << 10),
    })
    .await;
    let wharfd = test.wharfd_with(Some(&may_add(&[server.host()])), &[]).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    for (number, path) in ["/never", "/part"].into_iter().enumerate() {
        let text = format!("FROM scratch\nADD {} /f\n", server.url(path));
        let context = dockerfile(&test, &path[1..], &text);
        let build = job.start(["build", "--progress=plain", context.to_str().unwrap()]);
        let asked = async || (server.heard().len() > number).then_some(());
        build.while_running("the server to be asked", asked).await;
        if path == "/part" {
            // BuildKit reads it.
            build.says("the step", |line| line.contains("ADD http").then_some(())).await;
        }
        build.signal(Signal::INT);
        assert_eq!(shell_status(build.wait(ENDED).await.unwrap()), 130);
        wait_for("the server to be left", async || (server.left() > number).then_some(())).await;
    }
}

/// It closes the connection that waits for BuildKit: the content comes by another one.
async fn a_server_that_does_not_wait_is_asked_again(test: Arc<Test>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let server = FileServer::start(move |_, _| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Answer::Cut(String::new(), b"all of it".to_vec(), 0),
        _ => Answer::file("", "all of it"),
    })
    .await;
    let wharfd = test.wharfd_with(Some(&may_add(&[server.host()])), &[]).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = dockerfile(&test, "f", &format!("FROM scratch\nADD {} /f\n", server.url("/f")));
    let id = job.build_id(&context, &[]).await;
    assert_eq!(test.engine.text(&id, "/f").await, "all of it");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

async fn a_url_beside_an_uploaded_tar(test: Arc<Test>) {
    let server = FileServer::start(|_, _| Answer::file(MODIFIED, "fetched")).await;
    let wharfd = test.wharfd_with(Some(&may_add(&[server.host()])), &[]).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let text = format!("FROM scratch\nCOPY sent /\nADD {} /f\n", server.url("/f"));
    let tar = context_tar(&[("Dockerfile", &text), ("sent", "sent")]);
    for _ in 0..2 {
        let built = job.run_with(["build", "-t", "app", "-"], &tar).await.ok();
        let id = job.inspect("app").await["Id"].as_str().unwrap().to_owned();
        assert_eq!(test.engine.text(&id, "/f").await, "fetched", "{built}");
        assert_eq!(test.engine.text(&id, "/sent").await, "sent");
    }
}
