//! Leftovers of one job's builds that another job might get: cache mounts, results made with secrets,
//! contexts.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use wharf::{names::Namespace, wire::v1::BuildSpec};

use rustix::process::Signal;

use crate::{
    cancel::fresh_digits,
    harness::{
        Engine, Test, Wharf, cases,
        files::{Answer, FileServer},
        image::{context_tar, digest},
        process::{Background, Output},
        rpc,
        session::Client,
        wait_for,
    },
    urls::may_add,
};

cases![
    cache_mounts,
    results_made_with_secrets,
    contexts,
    fetched_by_digest,
    files_behind_links,
    names_of_steps,
];

async fn cache_mounts(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let (id, secret) = (test.unique("id"), test.unique("secret"));
    let context = |name: &str, id: &str, step: &str| {
        let dockerfile = format!(
            "FROM {base}\nARG BUILDKIT_CACHE_MOUNT_NS\nRUN --mount=type=cache,id={id},target=/c {step}\n"
        );
        test.context(name, &[("Dockerfile", &dockerfile)])
    };
    let leave = context("leave", &id, &format!("echo {secret} > /c/secret"));
    let look = context("look", &id, "cat /c/* > /seen 2>/dev/null; true");

    let home = test.new_dir("bare");
    test.engine.buildx_build(&home, &leave, &[]).await.ok();
    let found = seen_on_bare_engine(&test.engine, &home, &look).await;
    assert_eq!(found, format!("{secret}\n"), "on the bare engine it is one directory for all");

    let (victim, thief) = (Wharf::new(&test, &wharfd, "acme#1"), Wharf::new(&test, &wharfd, "acme/app#1"));
    victim.build_id(&leave, &[]).await;
    let seen = async |job: &Wharf, context: &Path, flags: &[&str]| {
        let id = job.build_id(context, flags).await;
        test.engine.text(&id, "/seen").await
    };
    // The job's own next run gets it: cache mounts exist for that.
    assert_eq!(seen(&victim.in_namespace("acme#2"), &look, &[]).await, format!("{secret}\n"));

    let hash = wharfd.keys().cache_mounts(Namespace::new("acme", "1").unwrap().job(), None);
    let argument = format!("BUILDKIT_CACHE_MOUNT_NS={hash}");
    assert_eq!(seen(&thief, &look, &[]).await, "");
    assert_eq!(seen(&thief, &look, &["--build-arg", &argument]).await, "");
    assert_eq!(seen(&thief, &look, &["--build-arg", "BUILDKIT_CACHE_MOUNT_NS="]).await, "");
    for (index, id) in
        [format!("{hash}/{id}"), format!("../{hash}/{id}"), format!("app/{id}")].iter().enumerate()
    {
        let look = context(&format!("look{index}"), id, "cat /c/* > /seen 2>/dev/null; true");
        assert_eq!(seen(&thief, &look, &[]).await, "", "{id}");
    }
}

/// Builds a context without Wharf and returns its `/seen`.
async fn seen_on_bare_engine(engine: &Engine, home: &Path, context: &Path) -> String {
    built_on_bare_engine(engine, home, context, &[], "/seen").await
}

async fn built_on_bare_engine(
    engine: &Engine,
    home: &Path,
    context: &Path,
    flags: &[&str],
    path: &str,
) -> String {
    let id = home.join("iid");
    let mut all = vec!["--load", "--iidfile", id.to_str().unwrap()];
    all.extend(flags);
    engine.buildx_build(home, context, &all).await.ok();
    engine.text(&fs::read_to_string(id).unwrap(), path).await
}

async fn results_made_with_secrets(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let dockerfile = format!("FROM {base}\nRUN --mount=type=secret,id=s cp /run/secrets/s /seen\n");
    let context = test.context("context", &[("Dockerfile", &dockerfile)]);
    let secrets: Vec<(String, String)> = ["one", "two"]
        .map(|name| {
            let (file, secret) = (test.dir().join(name), test.unique(name));
            fs::write(&file, &secret).unwrap();
            (format!("id=s,src={}", file.display()), secret)
        })
        .into();
    let home = test.new_dir("bare");
    for (flag, _) in &secrets {
        let seen = built_on_bare_engine(&test.engine, &home, &context, &["--secret", flag], "/seen").await;
        assert_eq!(seen, secrets[0].1, "on the bare engine the second gets what the first made");
    }
    for (job, (flag, secret)) in ["one#1", "two#1"].into_iter().zip(&secrets) {
        let job = Wharf::new(&test, &wharfd, job);
        let id = job.build_id(&context, &["--secret", flag]).await;
        assert_eq!(test.engine.text(&id, "/seen").await, *secret);
        // Neither the secret nor the salt is in the image. The image's names are not part of it.
        let mut image = test.engine.inspect(&id).await.unwrap();
        image.as_object_mut().unwrap().retain(|key, _| !key.starts_with("Repo"));
        let image = image.to_string();
        assert!(!image.contains("wharf.invalid") && !image.contains(secret), "{image}");
        let hosts = test.engine.file(&id, "/etc/hosts").await;
        assert!(hosts.is_none_or(|hosts| hosts.is_empty()), "the salt is in the image");
    }
    let log = wharfd.log().join("\n");
    assert!(secrets.iter().all(|(_, secret)| !log.contains(secret)), "a secret is in the log");

    // A job cannot use another job's salt: the suffix is reserved.
    let salt =
        format!("{}.salt.wharf.invalid", wharfd.keys().salt(Namespace::new("one", "1").unwrap().job()));
    let thief = Wharf::new(&test, &wharfd, "thief#1");
    let (flag, secret) = (&secrets[1].0, &secrets[1].1);
    let add = format!("{salt}:127.0.0.1");
    let refused = thief.build(&context, &["--secret", flag, "--add-host", &add]).await;
    assert!(matches!(refused.status, 2 | 3), "{refused}");
    let id = thief.build_id(&context, &["--secret", flag]).await;
    assert_eq!(test.engine.text(&id, "/seen").await, *secret);
}

/// BuildKit does not request a file if it has one with the same path, size and time.
async fn contexts(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let twin = |path: &str, content: &str| {
        let context =
            test.context(path, &[("Dockerfile", "FROM scratch\nCOPY file /seen\n"), ("file", content)]);
        for file in ["Dockerfile", "file"] {
            let file = fs::File::options().write(true).open(context.join(file)).unwrap();
            file.set_modified(time).unwrap();
        }
        context
    };
    let (secret, guess) = (test.unique("secret"), test.unique("guess!"));
    assert_eq!(secret.len(), guess.len());
    let name = test.unique("app");
    let (victims, thiefs) = (twin(&format!("one/{name}"), &secret), twin(&format!("two/{name}"), &guess));
    let home = test.new_dir("bare");
    let seen = seen_on_bare_engine(&test.engine, &home, &victims).await;
    assert_eq!(seen, secret);
    let seen = seen_on_bare_engine(&test.engine, &home, &thiefs).await;
    assert_eq!(seen, secret, "on the bare engine the second gets the first's file");

    // Both jobs say that it is the same path of their workspaces, in the same state.
    let channel = rpc::connect(&wharfd.socket()).await;
    for (job, context, content) in [("victim#1", &victims, &secret), ("thief#1", &thiefs, &guess)] {
        let (build, _) = Client::of(&channel, job, context).build(BuildSpec::default()).await;
        assert_eq!(test.engine.text(&build.ok().image_id, "/seen").await, *content);
    }
    // Their claims count only within their own job.
    let (build, _) = Client::of(&channel, "victim#2", &thiefs).build(BuildSpec::default()).await;
    assert_eq!(test.engine.text(&build.ok().image_id, "/seen").await, secret);
}

/// BuildKit identifies a source that it has fetched by URL by its name and digest, whatever the URL. A
/// context that came as a tar has the name `context`, and its digest need not be secret.
async fn fetched_by_digest(test: Arc<Test>) {
    let registry = test.registry().await;
    let base = test.base(&registry).await;
    let server = FileServer::start(|_, _| Answer::status("404 Not Found")).await;
    let url = server.url("/context");
    let wharfd = test.wharfd_with(Some(&may_add(&[server.host()])), &[]).await;
    let tar =
        |secret: &str| context_tar(&[("Dockerfile", "FROM scratch\nCOPY secret /\n"), ("secret", secret)]);
    let thief = |name: &str, tar: &[u8]| {
        let dockerfile =
            format!("FROM {base}\nADD --checksum={} {url} /t\nRUN tr -d '\\0' </t >/seen\n", digest(tar));
        test.context(name, &[("Dockerfile", &dockerfile)])
    };

    let (home, secret) = (test.new_dir("bare"), test.unique("secret"));
    let mut build = test.engine.buildx(&home);
    build.arg("-");
    Output::of(build, &tar(&secret), Duration::from_secs(120)).await.ok();
    let seen = seen_on_bare_engine(&test.engine, &home, &thief("bare-thief", &tar(&secret))).await;
    assert!(seen.contains(&secret), "on the bare engine whoever knows the digest has the context: {seen}");

    let secret = test.unique("secret");
    let channel = rpc::connect(&wharfd.socket()).await;
    let victim =
        async |job: &str| rpc::build_tar(&channel, rpc::start(job, BuildSpec::default()), tar(&secret)).await;
    victim("victim#1").await.ok();
    let job = Wharf::new(&test, &wharfd, "thief#1");
    let refused = job.build(&thief("thief", &tar(&secret)), &[]).await.ended(1);
    refused.says(&[&format!("cannot fetch `{url}`: it answers 404 Not Found")]);
    // The victim's own next run gets it.
    assert!(victim("victim#2").await.cached().iter().any(|name| name.contains("secret")));
}

/// BuildKit finds a copy's result by the checksum of the file. It resolves the links on the way to the file
/// differently for the checksum and for the copy, so a job can choose each of the two.
async fn files_behind_links(test: Arc<Test>) {
    let wharfd = test.wharfd_with(Some("layers = \"shared\"\n"), &[]).await;
    let home = test.new_dir("bare");
    let honest = |name: &str, file: &str| {
        test.context(name, &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", file)])
    };
    let content = test.unique("content");
    for hostile in hostile_links(&test, "bare-thief", &content) {
        test.engine.buildx_build(&home, &hostile, &[]).await.ok();
    }
    let seen = built_on_bare_engine(&test.engine, &home, &honest("bare-victim", &content), &[], "/f").await;
    assert_eq!(seen, "evil", "on the bare engine another's file has come by the honest one's checksum");

    let content = test.unique("content");
    let (victim, thief) = (Wharf::new(&test, &wharfd, "victim#1"), Wharf::new(&test, &wharfd, "thief#1"));
    for hostile in hostile_links(&test, "thief", &content) {
        thief.build(&hostile, &[]).await.ok();
    }
    let context = honest("victim", &content);
    let id = victim.build_id(&context, &[]).await;
    assert_eq!(test.engine.text(&id, "/f").await, content);
    // The job's own next run has it from the cache.
    let again = victim.in_namespace("victim#2").build(&context, &["--progress=plain"]).await.ok();
    assert!(again.stderr.contains("CACHED"), "{again}");
    // The salt leaves nothing in the image.
    let file = home.join("iid");
    let flags = ["--load", "--iidfile", file.to_str().unwrap()];
    test.engine.buildx_build(&home, &context, &flags).await.ok();
    let bare = test.engine.inspect(&fs::read_to_string(file).unwrap()).await.unwrap();
    let image = test.engine.inspect(&id).await.unwrap();
    assert_eq!(image["RootFS"]["Layers"], bare["RootFS"]["Layers"]);
}

/// BuildKit makes a step once for all builds that have it at the same time, and shows it to all of them under the name
/// that the first has given it. The name contains the stage's.
async fn names_of_steps(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let (directory, stage, digits) = (test.unique("shared"), test.unique("secret"), fresh_digits(&test));
    let context = |seconds: &str| {
        let first = format!("FROM scratch AS {stage}\nWORKDIR /{directory}\n");
        let then = format!("FROM {base}\nCOPY --from={stage} /{directory} /x\nRUN exec sleep {seconds}\n");
        test.context(seconds, &[("Dockerfile", &[first, then].concat())])
    };
    let looks = format!("FROM scratch\nWORKDIR /{directory}\nWORKDIR /own\n");
    let looks = test.context("looks", &[("Dockerfile", &looks)]);
    let runs = async |build: &Background, seconds: &str| {
        let runs = async || (!Engine::processes_with(seconds).is_empty()).then_some(());
        build.while_running("the step to run", runs).await;
    };
    let stop = async |build: &Background, seconds: &str| {
        build.signal(Signal::INT);
        wait_for("the step's end", async || Engine::processes_with(seconds).is_empty().then_some(())).await;
    };

    let (home, seconds) = (test.new_dir("bare"), format!("8{digits}"));
    let mut building = test.engine.buildx(&home);
    building.arg(context(&seconds));
    let victim = Background::start(building);
    runs(&victim, &seconds).await;
    let seen = test.engine.buildx_build(&home, &looks, &[]).await.ok();
    assert!(seen.stderr.contains(&stage), "on the bare engine the other's name is shown: {seen}");
    stop(&victim, &seconds).await;

    let (victim, thief) = (Wharf::new(&test, &wharfd, "one#1"), Wharf::new(&test, &wharfd, "two#1"));
    let seconds = format!("9{digits}");
    let building = victim.start(["build", "--progress=plain", context(&seconds).to_str().unwrap()]);
    runs(&building, &seconds).await;
    let seen = thief.build(&looks, &["--progress=plain"]).await.ok();
    assert!(seen.stderr.contains(&format!("[1/2] WORKDIR /{directory}")), "{seen}");
    assert!(!seen.stderr.contains(&stage), "{seen}");
    stop(&building, &seconds).await;
}

/// Contexts that copy `evil` for the checksum of a file with `content`: as BuildKit 0.13 reads links, and
/// as the newest does.
fn hostile_links(test: &Test, name: &str, content: &str) -> [PathBuf; 2] {
    let context = |name: &str, copied: &str, files: &[(&str, &str)], links: &[(&str, &str)]| {
        let dockerfile = format!("FROM scratch\nCOPY {copied} /\nCOPY . /all/\n");
        let context =
            test.context(name, &[&[("Dockerfile", dockerfile.as_str()), ("d/e/g", "")], files].concat());
        for (target, link) in links {
            symlink(target, context.join(link)).unwrap();
        }
        context
    };
    [
        context(
            &format!("{name}-1"),
            "l/f",
            &[("x", content), ("d/x", "evil")],
            &[("d/e", "l"), ("../x", "d/e/f")],
        ),
        context(
            &format!("{name}-2"),
            "f",
            &[("x", "evil"), ("d/x", content)],
            &[("d/e", "l"), ("l/../x", "f")],
        ),
    ]
}
