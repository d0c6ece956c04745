//! Errors: each has a message with the problem, its place and a hint, and the exit status in `wharf --help`.

use std::sync::Arc;

use tonic::Code;
use tonic_types::StatusExt as _;
use wharf::wire::v1::{BuildSpec, ListImagesRequest, image_service_client::ImageServiceClient};

use crate::harness::{
    Test, Wharf, cases,
    process::shell_status,
    registry::{Broken, BrokenRegistry},
    relay::Relay,
    rpc, wait_for,
};

cases![
    no_daemon,
    no_engine,
    an_engine_that_ends,
    the_dockerfile,
    the_context,
    an_invalid_context,
    names_that_the_builder_cannot_ask_for,
    a_copy_over_a_link,
    a_failed_step,
    an_unknown_base,
    a_registry_that_does_not_work,
    an_invalid_reference,
    an_oversized_message,
];

const BROKEN: &str = "FROM scratch\nCOPPY a b\n";

async fn no_daemon(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let nowhere = format!("unix://{}/nobody.sock", test.dir().display());
    for command in [&["build", context.to_str().unwrap()][..], &["images"], &["push", "a:1"], &["info"]] {
        job.at(&nowhere).run(command).await.ended(4).says(&["nobody.sock", "--addr"]);
    }
    job.at("tcp://127.0.0.1:1").run(["images"]).await.ended(4).says(&["nothing is listening"]);
    job.at("http://127.0.0.1:1").run(["images"]).await.ended(2).says(&["unix://", "tcp://"]);
    // A socket whose wharfd has ended.
    wharfd.kill().await;
    job.run(["images"]).await.ended(4).says(&["nothing is listening"]);
}

async fn no_engine(test: Arc<Test>) {
    let nowhere = format!("unix://{}/no-engine.sock", test.dir().display());
    let wharfd = test.wharfd_with(None, &["--engine", &nowhere]).await;
    wharfd.leaves_an_engine_down();
    let job = Wharf::new(&test, &wharfd, "job#1");
    job.run(["images"]).await.ended(5).says(&["no-engine.sock", "try again later"]);
    let log = wharfd.log().join("\n");
    assert!(log.contains("the engine is down") && log.contains("may open the socket"), "{log}");

    let daemon = test.wharfd_unstarted(None, &["--engine", "tcp://10.0.0.1:2375"]);
    let process = daemon.spawn();
    let ended = wait_for("wharfd to give up", async || process.ended().await).await;
    assert_eq!(shell_status(ended), 2, "{:?}", process.lines());

    // Where others than root are served, Dockerfiles are read in the engine only if the configuration says so.
    let config = "# No frontend.\n[[serve]]\nuid = 1000\nnamespaces = \"*\"\n";
    let daemon = test.wharfd_unstarted(Some(config), &[]);
    let process = daemon.spawn();
    let ended = wait_for("wharfd to give up", async || process.ended().await).await;
    assert_eq!(shell_status(ended), 1, "{:?}", process.lines());
    let said = process.lines().join("\n");
    assert!(said.contains("cannot read the Dockerfile frontend") && said.contains("builtin"), "{said}");
}

async fn an_engine_that_ends(test: Arc<Test>) {
    let relay = Relay::start(&test);
    let wharfd = test.wharfd_with(None, &["--engine", &relay.address()]).await;
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let job = Wharf::new(&test, &wharfd, "job#1");
    job.build_id(&context, &["-t", "app:1"]).await;
    relay.stop().await;
    job.build(&context, &["-t", "app:1"]).await.ended(5).says(&["engine"]);
    job.run(["images"]).await.ended(5).says(&["engine"]);
    // The engine comes back, and wharfd needs no restart.
    let _relay = Relay::start(&test);
    job.build_id(&context, &["-t", "app:1"]).await;
    assert_eq!(job.images().await.len(), 1);
    assert_eq!(wharfd.terminate().await, 0);
}

async fn the_dockerfile(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = test.context("context", &[("other", "x")]);
    job.build(&context, &[]).await.ended(2).says(&["Dockerfile"]);
    job.build(&context, &["-f", "nope/Dockerfile.x"]).await.ended(2).says(&["nope/Dockerfile.x"]);

    let context = test.context("broken", &[("Dockerfile", BROKEN)]);
    let shown = job.build(&context, &[]).await.ended(1).says(&["Dockerfile:2", "COPPY", ">>>"]);
    for leaked in ["goroutine", "github.com/", "type.googleapis.com"] {
        assert!(!shown.stderr.contains(leaked), "{shown}");
    }
    let context = test.context("stage", &[("Dockerfile", "FROM scratch AS one\nCOPY Dockerfile /\n")]);
    job.build(&context, &["--target", "two"]).await.ended(1).says(&["two"]);
    let context = test.context("copy", &[("Dockerfile", "FROM scratch\nCOPY missing /\n")]);
    job.build(&context, &[]).await.ended(1).says(&["missing", "Dockerfile:2"]);
    let context = test.context("empty", &[("Dockerfile", "")]);
    job.build(&context, &[]).await.ended(1);
    let registry = test.registry().await;
    let base = test.base(&registry).await;
    let dockerfile = format!("FROM --platform=linux/s390x {base}\nCOPY Dockerfile /\n");
    let context = test.context("platform", &[("Dockerfile", &dockerfile)]);
    job.build(&context, &[]).await.ended(3).says(&["platform"]);
    let fine = test.context("fine", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    job.build(&fine, &["--platform", "linux/s390x"]).await.ended(3).says(&["s390x"]);
}

async fn the_context(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    job.build("no/such/directory", &[]).await.ended(2).says(&["no/such/directory"]);
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY . /\n")]);
    let file = context.join("Dockerfile");
    job.build(&file, &[]).await.ended(2).says(&["Dockerfile"]);
    job.build("https://example.com/x.git", &[]).await.ended(2).says(&["https://example.com/x.git"]);
}

/// Neither an archive nor text: BuildKit would not even report that.
async fn an_invalid_context(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let junk = [0xff, 0].repeat(2000);
    let channel = rpc::connect(&wharfd.socket()).await;
    let built = rpc::build_tar(&channel, rpc::start("job#1", BuildSpec::default()), junk.clone()).await;
    let failure = built.failure.unwrap_or_else(|| panic!("{:?}", built.status));
    assert!(failure.message.contains("neither a tar archive nor a Dockerfile"), "{failure:?}");

    let job = Wharf::new(&test, &wharfd, "job#1");
    job.run_with(["build", "-"], &junk).await.ended(2).says(&["neither a tar archive nor a Dockerfile"]);
    let context = test.context("context", &[("file", "x")]);
    std::fs::write(context.join("Dockerfile"), &junk).unwrap();
    job.build(&context, &[]).await.ended(1).says(&["the Dockerfile contains NUL bytes: it must be UTF-8"]);
    std::fs::write(context.join("Dockerfile"), b"FROM scratch\nCOPY file /\nRUN echo caf\xe9\n").unwrap();
    job.build(&context, &[]).await.ended(1).says(&["the Dockerfile is not UTF-8 text"]);
}

/// BuildKit asks for a context's files in headers, without control characters.
async fn names_that_the_builder_cannot_ask_for(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    for (at, pattern) in ["a\tb\n", "*.log\rkept\n", "x\u{7f}y\n"].into_iter().enumerate() {
        let files = [("Dockerfile", "FROM scratch\nCOPY . /\n"), ("file", "x"), (".dockerignore", pattern)];
        let context = test.context(&format!("ignore-{at}"), &files);
        let shown = job.build(&context, &[]).await.ended(1);
        let shown = shown.says(&["a pattern of the ignore file contains a control character"]);
        assert!(!shown.stderr.contains("rpc error"), "{shown}");
    }
    // At the end of a line, in a comment, and beside what is not ASCII, they do no harm.
    let ignored = "\tfile \r\n# a\tb\n\u{e9}\tx\n";
    let files = [("Dockerfile", "FROM scratch\nCOPY . /\n"), ("file", "x"), (".dockerignore", ignored)];
    job.build(test.context("ignored", &files), &[]).await.ok();

    let named = |copy: &str| {
        let dockerfile = format!("FROM scratch\nCOPY {copy} /x\n");
        test.context("named", &[("Dockerfile", &dockerfile), ("a\nb", "x"), ("a\u{1}b", "x")])
    };
    for copy in [r#"["a\nb","#, r#"["a\u0001b","#] {
        let context = named("?");
        let dockerfile = format!("FROM scratch\nCOPY {copy} \"/x\"]\n");
        std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
        let shown = job.build(&context, &[]).await.ended(1);
        shown.says(&["a path that the Dockerfile copies contains a control character", "`?`"]);
    }
    job.build(named("a?b"), &[]).await.ok();
    let context = test.context("dockerfile", &[("Docker\tfile", "FROM scratch\nCOPY . /\n")]);
    let file = context.join("Docker\tfile");
    let shown = job.build(&context, &["-f", file.to_str().unwrap()]).await.ended(2);
    shown.says(&["`Docker\\tfile` contains a control character", "rename the file"]);
}

/// A copy to where the base has a link fails, and the job sees at which of its own paths.
async fn a_copy_over_a_link(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let dockerfile = format!("FROM {base}\nRUN mkdir /usr && ln -s usr /linked\nCOPY tree /\n");
    let context = test.context("context", &[("Dockerfile", &dockerfile), ("tree/linked/file", "x")]);
    let shown = job.build(&context, &[]).await.ended(1);
    shown.says(&["Dockerfile:3", "cannot copy to non-directory: /linked\n"]);
}

async fn a_failed_step(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let dockerfile =
        format!("FROM {base}\nRUN echo before\nRUN echo the reason >&2; exit 42\nRUN echo after\n");
    let context = test.context("context", &[("Dockerfile", &dockerfile)]);
    let shown = job.build(&context, &["-t", "app:1", "--iidfile", "id"]).await.ended(1);
    let shown = shown.says(&["42", "Dockerfile:3", ">>> RUN echo the reason"]);
    // Once in the step's output, once in the summary.
    assert!(shown.stderr.matches("the reason").count() >= 3, "{shown}");
    assert!(!job.home().join("id").exists());
    assert_eq!(job.images().await, []);
    job.run(["inspect", "app:1"]).await.ended(6);

    // BuildKit's error for a failed step contains the whole Dockerfile, in a header.
    let dockerfile = format!("FROM {base}\n{}RUN exit 43\n", "# what the next step does\n".repeat(5000));
    let context = test.context("long", &[("Dockerfile", &dockerfile)]);
    job.build(&context, &[]).await.ended(1).says(&["43", "Dockerfile:5002", ">>> RUN exit 43"]);

    // Escape sequences do not reach a terminal.
    let dockerfile = format!("FROM {base}\nRUN printf '\\033]0;owned\\007\\033[2J\\n'; false\n");
    let context = test.context("hostile", &[("Dockerfile", &dockerfile)]);
    let shown = job.build(&context, &[]).await.ended(1);
    assert!(!shown.stderr.contains('\u{1b}') && !shown.stderr.contains('\u{7}'), "{shown}");
}

async fn an_unknown_base(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    for base in [registry.name("none:1"), registry.name(&format!("none@sha256:{}", "a".repeat(64)))] {
        let context =
            test.context("context", &[("Dockerfile", &format!("FROM {base}\nCOPY Dockerfile /\n"))]);
        let shown = job.build(&context, &[]).await.ended(6).says(&[&base]);
        assert!(!shown.stderr.contains("wharf.invalid"), "{shown}");
    }
    let copy = registry.name("none:1");
    let context =
        test.context("copy", &[("Dockerfile", &format!("FROM scratch\nCOPY --from={copy} /a /a\n"))]);
    job.build(&context, &[]).await.ended(6).says(&[&copy]);
}

async fn a_registry_that_does_not_work(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let down = registry.host().to_owned();
    registry.end().await;
    let unavailable = BrokenRegistry::start(Broken::Unavailable).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let fine = test.context("fine", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    for host in [&down, unavailable.host()] {
        let context = test.context("context", &[("Dockerfile", &format!("FROM {host}/app:1\n"))]);
        job.build(&context, &[]).await.ended(5).says(&[host]);
        let name = format!("{host}/app:1");
        job.run(["pull", &name]).await.ended(5).says(&[host]);
        job.build(&fine, &["-t", &name, "--push"]).await.ended(5).says(&[host]);
        // The image exists nevertheless: the push can be repeated.
        job.run(["push", &name]).await.ended(5).says(&[host]);
    }
    // A name without a registry: neither engine can reach Docker Hub.
    let context = test.context("hub", &[("Dockerfile", "FROM alpine\n")]);
    let says = ["docker.io/library/alpine:latest", "registry.example.com/alpine:latest"];
    job.build(&context, &[]).await.ended(5).says(&says);
    job.run(["pull", "alpine"]).await.ended(5).says(&says);
}

async fn an_invalid_reference(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    job.build(&context, &["-t", "foo/Bar"]).await.ended(2).says(&["foo/Bar", "foo/bar"]);
    job.build(&context, &["-t", "wharf.invalid/x"]).await.ended(2).says(&["wharf.invalid"]);
    for command in [["push", "a b"], ["pull", "a:b:c"], ["images", "a/UP"]] {
        job.run(command).await.ended(2).says(&[command[1]]);
    }
    let context = test.context("from", &[("Dockerfile", "FROM scratch\nCOPY --from=foo/Bar /a /a\n")]);
    job.build(&context, &[]).await.ended(1).says(&["foo/Bar"]);

    let channel = rpc::connect(&wharfd.socket()).await;
    let spec = BuildSpec { tags: vec!["foo/Bar".to_owned()], ..BuildSpec::default() };
    let status = rpc::build_tar(&channel, rpc::start("job#1", spec), Vec::new()).await.status.unwrap();
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "INVALID_INPUT");
    assert!(details.bad_request().unwrap().field_violations[0].field.contains("tags"), "{details:?}");
}

async fn an_oversized_message(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let channel = rpc::connect(&wharfd.socket()).await;
    let request =
        ListImagesRequest { namespace: Some(rpc::namespace("job#1")), reference: "a".repeat(5 << 20) };
    let status = ImageServiceClient::new(channel.clone()).list_images(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(status.get_error_details().error_info().unwrap().reason, "LIMIT_REACHED");

    let label = [("l".to_owned(), "a".repeat(5 << 20))].into();
    let spec = BuildSpec { labels: label, ..BuildSpec::default() };
    let status = rpc::build_tar(&channel, rpc::start("job#1", spec), Vec::new()).await.status.unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");

    // The daemon still works.
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    job.build_id(&context, &[]).await;
}
