//! Inputs of public bug reports about docker, BuildKit, kaniko and registries.

use std::{fmt::Write as _, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::harness::{
    Image, PATIENCE, Test, Wharf, cases,
    image::{File, Layer},
    process::{Output, command},
};

cases![
    dockers_variables,
    hard_links_on_two_file_systems,
    a_proxy_that_ends_long_answers,
    images_of_many_layers,
];

/// docker/cli#6008: logins in DOCKER_AUTH_CONFIG precede the file's. docker/compose#9889: DOCKER_DEFAULT_PLATFORM.
async fn dockers_variables(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.private_registry("user", "password"), test.wharfd());
    Image::base(&test.unique("base")).push(&registry, "base", "1").await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let base = registry.name("base:1");
    let context = test.context("context", &[("Dockerfile", &format!("FROM {base}\nLABEL a=b\n"))]);
    job.build(&context, &[]).await.ended(3).says(&["without credentials"]);
    job.login(&registry, Some(("user", "wrong")));
    job.build(&context, &[]).await.ended(3).says(&["refused your credentials"]);
    let auths = json!({"auths": {registry.host(): {"auth": STANDARD.encode("user:password")}}});
    let job = job.with_variable("DOCKER_AUTH_CONFIG", &auths.to_string());
    job.build(&context, &[]).await.ok();

    // An image for another platform than the one that was asked for would be a wrong one.
    let other = job.with_variable("DOCKER_DEFAULT_PLATFORM", "linux/s390x");
    other.build(&context, &[]).await.ended(3).says(&["`linux/s390x` is not the engine's"]);
    other.run(["pull", &base]).await.ended(3).says(&["DOCKER_DEFAULT_PLATFORM asks for `linux/s390x`"]);
    other.build(&context, &["--platform=local"]).await.ok();
    let own = job.with_variable("DOCKER_DEFAULT_PLATFORM", std::env::consts::ARCH);
    own.build(&context, &[]).await.ok();
    own.run(["pull", &base]).await.ok();
}

/// osscontainertools/kaniko#978: an inode's number is a file's only together with the device. buildx gives both files the
/// content of the first.
async fn hard_links_on_two_file_systems(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let files = [("Dockerfile", "FROM scratch\nCOPY . /\n"), ("a/x", ""), ("b/x", "")];
    let context = test.context("context", &files);
    let script = "mount -t tmpfs none a && mount -t tmpfs none b && echo one > a/first && echo two > b/first \
                  && ln a/first a/second && ln b/first b/second && stat -c %i a/first b/first >&2 && exec \"$@\"";
    let build = job.command(["build", "-q", "."]);
    let mut mounted = command("unshare");
    mounted.args(["--mount", "sh", "-c", script, "sh"]).arg(build.as_std().get_program());
    mounted.args(build.as_std().get_args()).current_dir(&context).env_clear();
    mounted.envs(build.as_std().get_envs().filter_map(|(name, value)| Some((name, value?))));
    let built = Output::of(mounted, b"", PATIENCE).await.ok();
    let mut inodes = built.stderr.lines().filter(|line| line.parse::<u64>().is_ok());
    assert!(inodes.next().is_some_and(|first| inodes.next() == Some(first)), "{built}");
    for (path, content) in
        [("/a/first", "one\n"), ("/a/second", "one\n"), ("/b/first", "two\n"), ("/b/second", "two\n")]
    {
        assert_eq!(test.engine.text(built.stdout.trim(), path).await, content, "{path}");
    }
}

/// containers/image#1145: Nexus, and proxies, end an answer after a time. Docker continues where it broke.
async fn a_proxy_that_ends_long_answers(test: Arc<Test>) {
    const ANSWER_MAX: u64 = 2 << 20;
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    Image::of(vec![Layer::noise(&test.unique("noise"), 5 << 20)]).push(&registry, "large", "1").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let host = registry.host().to_owned();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            let host = host.clone();
            connections.spawn(async move {
                let registry = TcpStream::connect(host).await.unwrap();
                let (mut asked, mut answers) = client.into_split();
                let (from, mut to) = registry.into_split();
                let answering = async {
                    let _ = tokio::io::copy(&mut from.take(ANSWER_MAX), &mut answers).await;
                    let _ = answers.shutdown().await;
                };
                tokio::select! {
                    () = answering => {}
                    _ = tokio::io::copy(&mut asked, &mut to) => {}
                }
            });
        }
    });
    let job = Wharf::new(&test, &wharfd, "job#1");
    job.run(["pull", &format!("{proxy}/large:1")]).await.ok();
    let resumed = registry.all_requests().iter().filter(|request| request.ends_with(" 206")).count();
    assert!(resumed >= 2, "{:?}", registry.all_requests());
}

/// moby/buildkit#3067: the classic store takes no more than some 125, and BuildKit's reason names only its own ids.
async fn images_of_many_layers(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let mark = test.unique("layers");
    let layer = |at: usize| Layer::of([("mark", File::Content(format!("{mark} {at}").as_bytes(), 0o644))]);
    let layers: Vec<_> = (0..130).map(layer).collect();
    Image::of(layers[..120].to_vec()).push(&registry, "deep", "120").await;
    Image::of(layers).push(&registry, "deep", "130").await;
    let mut dockerfile = format!("FROM {}\n", registry.name("deep:120"));
    for at in 0..12 {
        writeln!(dockerfile, "COPY Dockerfile /{at}").unwrap();
    }
    let job = Wharf::new(&test, &wharfd, "job#1");
    let pulled = job.run(["pull", &registry.name("deep:130")]).await;
    let built = job.build(test.context("deep", &[("Dockerfile", &dockerfile)]), &[]).await;
    if test.engine.is_containerd() {
        pulled.ok();
        built.ok();
    } else {
        pulled.ended(1).says(&["deep:130 has more layers than the engine's storage takes", "hint: "]);
        built.ended(1).says(&["the image has more layers than the engine's storage takes"]);
    }
}
