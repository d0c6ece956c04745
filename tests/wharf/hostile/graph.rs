//! Steps that are not allowed, and frontends that may not make the graph.

use std::sync::Arc;

use wharf::{
    names::{Namespace, Reference},
    wire::v1::BuildSpec,
};

use crate::harness::{Test, Wharf, cases, engine::tool, image::context_tar, rpc, session::Client};

cases![
    host_networking,
    insecure_steps,
    a_frontend_of_the_jobs_own,
    names_of_other_namespaces,
    an_empty_result_for_a_list_of_platforms,
    wildcards_over_the_files_of_an_image,
    mounts_without_number,
    secrets_without_number,
    sources_without_number,
];

async fn host_networking(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let dockerfile = |network: &str| {
        format!("FROM {base}\nRUN {network} wget -q -O /got http://{}/v2/_catalog\n", registry.host())
    };
    let hostile = test.context("hostile", &[("Dockerfile", &dockerfile("--network=host"))]);
    let home = test.new_dir("bare");
    test.engine.buildx_build(&home, &hostile, &["--allow", "network.host"]).await.ok();

    let job = Wharf::new(&test, &wharfd, "job#1");
    let before = registry.mark().await;
    job.build(&hostile, &[]).await.ended(3).says(&["--network=host"]);
    job.build(&hostile, &["--no-cache"]).await.ended(3);
    let plain = test.context("plain", &[("Dockerfile", &dockerfile(""))]);
    job.build(&plain, &["--network", "host"]).await.ended(3).says(&["network `host`"]);
    // The step's own loopback has no registry.
    job.build(&plain, &[]).await.ended(1);
    let fetched = registry.requests_since(&before).await;
    assert!(!fetched.iter().any(|request| request.contains("_catalog")), "{fetched:?}");

    // Through the API, without the command line.
    let channel = rpc::connect(&wharfd.socket()).await;
    let spec = BuildSpec { network: "host".to_owned(), ..BuildSpec::default() };
    let tar = context_tar(&[("Dockerfile", &dockerfile(""))]);
    let status = rpc::build_tar(&channel, rpc::start("job#1", spec), tar).await.status.unwrap();
    assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status:?}");
}

/// The engines' bare sockets allow this if they are configured so.
async fn insecure_steps(test: Arc<Test>) {
    let (_, engine) = test.throw_away_engine().await;
    let wharfd = test.wharfd_on(&engine).await;
    let dockerfile = |flag: &str| {
        format!(
            "FROM scratch\nCOPY busybox /\nRUN {flag} [\"/busybox\", \"mount\", \"-t\", \"tmpfs\", \"none\", \"/proc\"]\n"
        )
    };
    let context = |name: &str, flag: &str| {
        let context = test.context(name, &[("Dockerfile", &dockerfile(flag))]);
        std::fs::copy(tool("WHARF_BUSYBOX"), context.join("busybox")).unwrap();
        context
    };
    let hostile = context("hostile", "--security=insecure");
    let job = Wharf::new(&test, &wharfd, "job#1");
    if test.engine.is_containerd() {
        let home = test.new_dir("bare");
        engine.buildx_build(&home, &hostile, &["--allow", "security.insecure"]).await.ok();
        job.build(&hostile, &[]).await.ended(3).says(&["--security=insecure"]);
        job.build(&hostile, &["--no-cache"]).await.ended(3);
    } else {
        // The engine's own frontend does not know the flag.
        job.build(&hostile, &[]).await.ended(1).says(&["security"]);
    }
    // Other steps may not be insecure either.
    job.build(context("plain", ""), &[]).await.ended(1);
}

async fn a_frontend_of_the_jobs_own(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let frontend = registry.name("frontend:1");
    let dockerfile = format!("# syntax={frontend}\nFROM scratch\nCOPY Dockerfile /\n");
    let hostile = test.context("hostile", &[("Dockerfile", &dockerfile)]);
    let asked = |requests: Vec<String>| requests.iter().any(|request| request.contains("/frontend/"));
    let home = test.new_dir("bare");
    let before = registry.mark().await;
    test.engine.buildx_build(&home, &hostile, &[]).await;
    assert!(asked(registry.requests_since(&before).await), "the bare engine fetches the frontend");

    let job = Wharf::new(&test, &wharfd, "job#1");
    let before = registry.mark().await;
    job.build(&hostile, &[]).await.ok().says(&[&frontend, "ignored"]);
    let plain = test.context("plain", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    for argument in ["BUILDKIT_SYNTAX", "build-arg:BUILDKIT_SYNTAX", "cmdline", "source"] {
        let argument = format!("{argument}={frontend}");
        job.build(&plain, &["--build-arg", &argument]).await.ok();
    }
    let requests = registry.requests_since(&before).await;
    assert!(!asked(requests.clone()), "{requests:?}");

    // No warning if the engine's own frontend is known to have the syntax; Engine 26.1 may not tell its version.
    let own = "# syntax=docker/dockerfile:1.7\nFROM scratch\nCOPY Dockerfile /\n";
    let built = job.build(&test.context("own", &[("Dockerfile", own)]), &[]).await.ok();
    assert!(!test.engine.is_containerd() || !built.stderr.contains("ignored"), "{built}");
}

async fn names_of_other_namespaces(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let secret = test.unique("secret");
    let dockerfile = format!("FROM {base}\nCOPY secret /secret\n");
    let context = test.context("victim", &[("Dockerfile", &dockerfile), ("secret", &secret)]);
    let victim = Wharf::new(&test, &wharfd, "victim#1");
    let id = victim.build_id(&context, &["-t", "app:1"]).await;

    // The engine's name for the image, which a job cannot guess; the test knows the node's key.
    let names = wharfd.keys().names(&Namespace::new("victim", "1").unwrap());
    let private = names.name(&Reference::parse("app:1").unwrap()).name().to_string();
    assert_eq!(test.engine.id(&private).await, id);
    let rest = private.strip_prefix("wharf.").unwrap();
    let dockerfiles = [
        format!("FROM {private}\nRUN cat /secret\n"),
        format!("ARG A=wharf.\nFROM ${{A}}{rest}\nRUN cat /secret\n"),
        format!("FROM {base}\nCOPY --from={private} /secret /stolen\nRUN cat /stolen\n"),
        format!("FROM {base}\nRUN --mount=from={private},target=/m cat /m/secret\n"),
        format!("FROM {base} AS a\nFROM {private} AS b\nFROM a\nCOPY --from=b /secret /stolen\n"),
    ];
    let (home, job) = (test.new_dir("bare"), Wharf::new(&test, &wharfd, "thief#1"));
    for (index, dockerfile) in dockerfiles.iter().enumerate() {
        let hostile = test.context(&format!("hostile{index}"), &[("Dockerfile", dockerfile)]);
        test.engine.buildx_build(&home, &hostile, &["--no-cache"]).await.ok();
        let refused = job.build(&hostile, &["--no-cache"]).await.ended(6);
        assert!(!refused.stderr.contains(&secret), "{refused}");
        // The image belongs to the victim, but even the victim may not use that name.
        victim.build(&hostile, &[]).await.ended(6);
    }
    // A hold belongs to no job.
    let holds = test.engine.names_with_prefix(&format!("{}hold/", wharfd.prefix())).await;
    assert!(!holds.is_empty());
    for hold in holds.iter().filter(|hold| !hold.contains('@')) {
        let hostile = test.context("hold", &[("Dockerfile", &format!("FROM {hold}\nRUN cat /mark\n"))]);
        job.build(&hostile, &[]).await.ended(6);
        for command in [&["inspect", hold][..], &["rmi", hold], &["pull", hold], &["tag", hold, "mine:1"]] {
            job.run(command).await.ended(6);
        }
    }
    // A job may not give an image such a name.
    victim.run(["tag", "app:1", &private]).await.ended(2).says(&["choose another host"]);
    victim.run(["push", &private]).await.ended(2).says(&["choose another host"]);
    victim.run(["inspect", &private]).await.ended(6);
    assert_eq!(test.engine.id(&private).await, id);
}

/// BuildKit's own clients encode such a result in a way that does not crash the engine, so there is no attack
/// on the bare socket.
async fn an_empty_result_for_a_list_of_platforms(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = test.context(
        "context",
        &[("Dockerfile", "FROM scratch\n"), ("file/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")],
    );
    let platforms = ["--build-arg", "BUILDKIT_MULTI_PLATFORM=1"];
    job.build(&context, &platforms).await.ended(3).says(&["BUILDKIT_MULTI_PLATFORM"]);
    job.build(&context, &[]).await.ok();
    job.build(context.join("file"), &platforms).await.ok();
}

/// BuildKit walks all files of the image for each wildcard, even after a cancel, and everyone else who copies from the image
/// waits: with 4000 wildcards over 16,000 files, two minutes.
async fn wildcards_over_the_files_of_an_image(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let context = |name: &str, count: usize| {
        let wildcards: Vec<_> =
            (0..count).map(|number| format!("/bin/busybo{number}* /bin/busybox*")).collect();
        let dockerfile = format!("FROM scratch\nCOPY --from={base} {} /\n", wildcards.join(" "));
        test.context(name, &[("Dockerfile", &dockerfile)])
    };
    let hostile = context("hostile", 100);
    let walked = test.engine.buildx_build(&test.new_dir("bare"), &hostile, &[]).await;
    assert!(!walked.stderr.contains("wildcards and patterns"), "{walked}");
    let job = Wharf::new(&test, &wharfd, "job#1");
    let refused = job.build(&hostile, &[]).await.ended(3);
    refused.says(&["Dockerfile:2", "more than 32 wildcards and patterns for the files of images"]);
    // One class of 60 kB took as long as 2600 short wildcards.
    let class = format!("FROM scratch\nCOPY --from={base} /bin/*[{}] /\n", "~".repeat(600));
    let refused = job.build(&test.context("class", &[("Dockerfile", &class)]), &[]).await.ended(3);
    refused.says(&["Dockerfile:2", "for the files of images, or 512 bytes of these"]);
    let plain = test.context(
        "plain",
        &[("Dockerfile", &format!("FROM scratch\nCOPY --from={base} /bin/busybo* /bin/\n"))],
    );
    job.build(&plain, &[]).await.ok();
}

/// BuildKit makes two mounts in its own namespace for each mount of a step. With 16,000, no other step of the node began for
/// five minutes after the cancel.
async fn mounts_without_number(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let context = |name: &str, steps: usize, mounts: usize| {
        let mount = |number: usize| format!("--mount=type=tmpfs,target=/m/{number}");
        let mounts = (0..mounts).map(mount).collect::<Vec<_>>().join(" ");
        let steps: String = (0..steps).map(|step| format!("RUN {mounts} : {step}\n")).collect();
        test.context(name, &[("Dockerfile", &format!("FROM {base}\n{steps}"))])
    };
    let hostile = context("hostile", 1, 65);
    test.engine.buildx_build(&test.new_dir("bare"), &hostile, &[]).await.ok();
    let job = Wharf::new(&test, &wharfd, "job#1");
    job.build(&hostile, &[]).await.ended(3).says(&["Dockerfile:2", "a step may have at most 64 mounts"]);
    job.build(&context("many", 9, 60), &[]).await.ended(3).says(&["a build may have at most 512 mounts"]);
    job.build(&context("plain", 1, 64), &[]).await.ok();
}

/// BuildKit holds each secret in the engine's memory, and one for a variable several times: 150 of 2 MB in one step took more
/// than a GB. Docker's own client gives none of more than 500 KiB.
async fn secrets_without_number(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let context = |name: &str, secrets: usize, of: &dyn Fn(usize) -> String| {
        let mounts: Vec<_> =
            (0..secrets).map(|number| format!("--mount=type=secret,id=s,{}", of(number))).collect();
        test.context(name, &[("Dockerfile", &format!("FROM {base}\nRUN {} true\n", mounts.join(" ")))])
    };
    // Engine 26's own frontend does not know these.
    if test.engine.is_containerd() {
        let hostile = context("variables", 65, &|number| format!("env=E{number}"));
        let home = test.new_dir("bare");
        std::fs::write(home.join("s"), "s").unwrap();
        let secret = format!("--secret=id=s,src={}", home.join("s").display());
        test.engine.buildx_build(&home, &hostile, &[&secret]).await.ok();
        let job = Wharf::new(&test, &wharfd, "job#1");
        job.build(&hostile, &[]).await.ended(3).says(&["Dockerfile:2", "a step may have at most 64 mounts"]);
    }
    let channel = rpc::connect(&wharfd.socket()).await;
    let gives = async |name: &str, secrets: usize, bytes: usize| {
        let context = context(name, secrets, &|number| format!("target=/s/{number}"));
        let client = Client { secret: Some(vec![b'x'; bytes]), ..Client::of(&channel, "job#1", &context) };
        client.build(BuildSpec::default()).await.0
    };
    let message = |build: &rpc::Build| build.failure.as_ref().expect("it fails").message.clone();
    gives("largest", 2, 500 << 10).await.ok();
    let large = message(&gives("large", 1, (500 << 10) + 1).await);
    assert!(large.contains("the secret `s` is too large: the limit is 500 KiB"), "{large}");
    let many = message(&gives("many", 40, 500 << 10).await);
    assert!(many.contains("the secrets of the build's steps have more than 16 MiB"), "{many}");
}

/// BuildKit begins the copies of all sources at once, with some goroutines for each.
async fn sources_without_number(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let context = |name: &str, sources: usize| {
        let dockerfile = format!("FROM scratch\nCOPY {} /d/\n", "a ".repeat(sources));
        test.context(name, &[("Dockerfile", &dockerfile), ("a", "")])
    };
    let hostile = context("hostile", 1001);
    test.engine.buildx_build(&test.new_dir("bare"), &hostile, &[]).await.ok();
    let job = Wharf::new(&test, &wharfd, "job#1");
    job.build(&hostile, &[]).await.ended(3).says(&["Dockerfile:2", "at most 1000 sources"]);
    job.build(&context("plain", 20), &[]).await.ok();
}
