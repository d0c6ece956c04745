//! Dockerfiles that crash the frontend; inside the engine they crash the engine.

use std::sync::Arc;

use serde_json::json;
use tokio::net::UnixStream;
use wharf::wire::v1::BuildSpec;

use crate::{
    cancel::fresh_digits,
    harness::{
        Engine, Image, PATIENCE, Test, Wharf, cases,
        image::{File, context_tar, tar},
        process::Output,
        rpc, wait_for,
    },
};

cases![
    a_dockerfile_cannot_crash_the_engine,
    warnings_do_not_fill_the_engine,
    what_ends_the_engines_own_frontend_is_refused,
    stages_in_a_circle_do_not_end_the_engine,
    triggers_of_any_base_are_judged,
    a_dockerfile_is_judged_in_each_build,
    a_build_holds_the_namespaces_own_images,
    triggers_that_copy_in_a_circle_are_refused,
];

/// Each line doubles the value of the line before.
fn doubling() -> String {
    let doubled = "ARG A=${A}${A}\n".repeat(30);
    format!("FROM scratch\nARG A={}\n{doubled}LABEL x=$A\n", "a".repeat(32))
}

async fn a_dockerfile_cannot_crash_the_engine(test: Arc<Test>) {
    let (_, engine) = test.throw_away_engine().await;
    let wharfd = test.wharfd_with_frontend_on(&engine).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let good =
        test.context("good", &[("Dockerfile", "# syntax=docker/dockerfile:1.7\nFROM scratch\nCOPY . /\n")]);
    let built = job.build(&good, &["-t", "app:1"]).await.ok();
    assert!(!built.stderr.contains("syntax") && !built.stderr.contains("private image"), "{built}");
    let child = test.context("child", &[("Dockerfile", "FROM app:1\nCOPY Dockerfile /child\n")]);
    job.build(&child, &[]).await.ok();

    let no_stage = test.context("no-stage", &[("Dockerfile", "ARG A=1\n")]);
    job.build(&no_stage, &[]).await.ended(1).says(&["no stages"]);
    let doubling = test.context("doubling", &[("Dockerfile", &doubling())]);
    job.build(&doubling, &[]).await.ended(1).says(&["the value of a variable"]);
    job.build(&good, &[]).await.ok();

    // The frontend's own image cannot be a base, and is loaded again if somebody removes it.
    let prefix = format!("{}frontend/", wharfd.prefix());
    // The containerd store also lists its digest.
    let tags = async || {
        let mut names = engine.names_with_prefix(&prefix).await;
        names.retain(|name| !name.contains('@'));
        names
    };
    let image = tags().await.pop().unwrap();
    let thief = test.context("thief", &[("Dockerfile", &format!("FROM {image}\n"))]);
    job.build(&thief, &[]).await.ended(3).says(&["was not admitted"]);
    engine.remove_image(&image).await;
    job.build(&good, &["--no-cache"]).await.ok();
    assert_eq!(tags().await, [image]);

    // The newest engine's own frontend survives this Dockerfile.
    if !engine.is_containerd() && !test.engine.is_containerd() {
        assert_eq!(wharfd.terminate().await, 0);
        std::fs::remove_dir_all(wharfd.state_dir()).unwrap();
        let home = test.new_dir("bare");
        let killed = engine.buildx_build(&home, &no_stage, &[]).await;
        assert_ne!(killed.status, 0, "{killed}");
        wait_for("the engine to end", async || {
            UnixStream::connect(engine.socket()).await.is_err().then_some(())
        })
        .await;
    }
}

/// BuildKit's own frontend sends all of the text with each warning: here 300 MB, which the engine keeps.
async fn warnings_do_not_fill_the_engine(test: Arc<Test>) {
    let padding = format!("#{}\n", "x".repeat(998)).repeat(1000);
    let text = |lines: &str| format!("{padding}FROM scratch\n{lines}");
    let checked = text(&"ENV a b\n".repeat(300));
    let empty_lines = text(&"ENV a=b\\\n\n c=d\n".repeat(300));

    let wharfd = test.wharfd_with_frontend_on(&test.engine).await;
    let channel = rpc::connect(&wharfd.socket()).await;
    for dockerfile in [&checked, &empty_lines] {
        let start = rpc::start("job#1", BuildSpec::default());
        let built = rpc::build_tar(&channel, start, context_tar(&[("Dockerfile", dockerfile)])).await;
        built.ok();
        let warnings: Vec<_> = built.progress.iter().flat_map(|progress| &progress.warnings).collect();
        let (last, shown) = warnings.split_last().unwrap();
        assert_eq!(last.short, "200 more warnings about the Dockerfile are not shown");
        assert_eq!(shown.len(), 100);
        // Each has its own lines, and their numbers.
        for warning in shown {
            let source = warning.source.as_ref().unwrap();
            assert!(warning.short.ends_with(&format!(" (line {})", source.start)), "{warning:?}");
            let lines = (source.first_text_line..).zip(&source.text);
            let about: Vec<_> = lines.filter(|(number, _)| *number == source.start).collect();
            let line = dockerfile.lines().nth(source.start as usize - 1).unwrap();
            assert_eq!(about, [(source.start, &line.to_owned())], "{warning:?}");
            assert!(source.text.len() > 8, "there are lines around it: {warning:?}");
        }
    }

    // The engine's own frontend gets no text about which there may be so many. That of the oldest has no checks.
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let checked = test.context("checked", &[("Dockerfile", &checked)]);
    let empty_lines = test.context("empty-lines", &[("Dockerfile", &empty_lines)]);
    let checks = ["--build-arg=BUILDKIT_DOCKERFILE_CHECK=skip=none"];
    let (checked, empty_lines) = (job.build(&checked, &checks).await, job.build(&empty_lines, &[]).await);
    if test.engine.is_containerd() {
        checked.ended(1).says(&["301 warnings", "only without its checks"]);
        empty_lines.ok();
    } else {
        checked.ok();
        empty_lines.ended(1).says(&["300 instructions have empty lines"]);
    }
}

/// BuildKit 0.13 follows stages from one to the next, however often it has been there.
async fn stages_in_a_circle_do_not_end_the_engine(test: Arc<Test>) {
    // It looks for the first stage from the last one, and does not find it.
    const CIRCLE: &str = "FROM scratch AS apart\nFROM scratch AS one\nCOPY --from=two / /\nFROM one AS two\nCOPY Dockerfile /\n";
    let (_, engine) = test.throw_away_engine().await;
    let wharfd = test.wharfd_on(&engine).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = |name: &str, text: &str| test.context(name, &[("Dockerfile", text)]);
    // Each stage doubles the ways: BuildKit would follow 2^60 of them.
    let ways: String =
        (1..60).map(|one| format!("FROM s{0} AS s{one}\nCOPY --from=s{0} / /\n", one - 1)).collect();
    let ways = format!("FROM scratch AS s0\nCOPY Dockerfile /\n{ways}");
    let (circle, ways) = (context("circle", CIRCLE), context("ways", &ways));
    let (circled, doubled) = (job.build(&circle, &[]).await, job.build(&ways, &[]).await);
    if !engine.is_containerd() {
        circled.ended(1).says(&["line 4: circular dependency"]);
        doubled.ended(1).says(&["in more ways than"]);
    } else {
        doubled.ok();
    }
    let good =
        context("good", "FROM scratch AS one\nCOPY --from=two / /\nFROM scratch AS two\nCOPY Dockerfile /\n");
    job.build(&good, &[]).await.ok();
    if !engine.is_containerd() {
        assert_eq!(wharfd.terminate().await, 0);
        std::fs::remove_dir_all(wharfd.state_dir()).unwrap();
        let killed = engine.buildx_build(&test.new_dir("bare"), &circle, &[]).await;
        assert_ne!(killed.status, 0, "{killed}");
        wait_for("the engine to end", async || {
            UnixStream::connect(engine.socket()).await.is_err().then_some(())
        })
        .await;
    }
}

/// Where BuildKit itself reads Dockerfiles, the texts that are known to end it do not reach it.
async fn what_ends_the_engines_own_frontend_is_refused(test: Arc<Test>) {
    let (_, engine) = test.throw_away_engine().await;
    let wharfd = test.wharfd_on(&engine).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    // Each ends Engine 26.1. The newest reads them, and goes on.
    for (index, (dockerfile, why)) in [
        ("ARG A=1\n", "no `FROM`"),
        ("ARG A=1\rFROM busybox\r", "no `FROM`"),
        ("ARG A \\\n\nFROM busybox\n", "no `FROM`"),
        ("ARG\\\n A\\\n\u{a0}\nFROM busybox\n", "no `FROM`"),
        (EMPTY_PATTERN, "may be empty"),
        ("FROM scratch\nENV e=\nCOPY <<E /\n${PATH%$e}\nE\n", "may be empty"),
    ]
    .iter()
    .enumerate()
    {
        let context = test.context(&format!("ends-{index}"), &[("Dockerfile", dockerfile)]);
        let tar = context_tar(&[("Dockerfile", dockerfile)]);
        let synced = job.build(&context, &[]).await;
        let sent = Output::of(job.command(["build", "-"]), &tar, PATIENCE).await;
        for built in [synced, sent] {
            if engine.is_containerd() {
                assert!(!built.stderr.contains(why), "{built}");
            } else {
                built.ended(1).says(&[why]);
            }
        }
    }

    // BuildKit 0.33 has a fault at the second. The operator has loaded both.
    let context = |name: &str, base: &str| {
        test.context(name, &[("Dockerfile", &format!("FROM {base}\nRUN cat /triggered\n"))])
    };
    load(&engine, "usual:1", "RUN echo yes >/triggered").await;
    load(&engine, "hostile:1", "\n# check=skip=all\nRUN true").await;
    job.build(&context("usual", "usual:1"), &[]).await.ok();
    for _ in 0..2 {
        let refused = job.build(&context("hostile", "hostile:1"), &[]).await.ended(1);
        refused.says(&["hostile:1", "begin with a comment"]);
    }
    job.build(&context("usual", "usual:1"), &["--no-cache"]).await.ok();

    assert_eq!(wharfd.terminate().await, 0);
    std::fs::remove_dir_all(wharfd.state_dir()).unwrap();
    let home = test.new_dir("bare");
    let fatal = match engine.is_containerd() {
        true => context("hostile", "hostile:1"),
        false => test.context("pattern", &[("Dockerfile", EMPTY_PATTERN)]),
    };
    let killed = engine.buildx_build(&home, &fatal, &[]).await;
    assert_ne!(killed.status, 0, "{killed}");
    wait_for("the engine to end", async || UnixStream::connect(engine.socket()).await.is_err().then_some(()))
        .await;
}

/// BuildKit 0.13 looks at the first byte of the pattern.
const EMPTY_PATTERN: &str = "FROM scratch\nCOPY ${PATH#} /\n";

/// An image with a trigger, as `docker load` brings it.
async fn load(engine: &Engine, name: &str, trigger: &str) {
    let image = Image::base(name);
    let mut config = image.config();
    config["config"]["OnBuild"] = json!([trigger]);
    let config = config.to_string();
    let layers: Vec<String> =
        image.layers.iter().map(|layer| format!("{}.tar", &layer.digest[7..])).collect();
    let manifest = json!([{ "Config": "config.json", "RepoTags": [name], "Layers": layers }]).to_string();
    let files = image
        .layers
        .iter()
        .zip(&layers)
        .map(|(layer, name)| (name.as_str(), File::Content(&layer.blob, 0o644)));
    let documents = [("config.json", &config), ("manifest.json", &manifest)];
    let documents = documents.map(|(name, text)| (name, File::Content(text.as_bytes(), 0o644)));
    engine.post("/images/load").body("application/x-tar", tar(files.chain(documents))).send().await.ok();
}

/// From a registry, from the node and in the namespace: wherever a base comes from.
async fn triggers_of_any_base_are_judged(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let pushed = async |tag: &str, trigger: &str| {
        let image = Image::base(&test.unique(tag));
        let mut config = image.config();
        config["config"]["OnBuild"] = json!([trigger]);
        image.push_with_config(&registry, "triggers", tag, config.to_string()).await;
        registry.name(&format!("triggers:{tag}"))
    };
    let context = |name: &str, base: &str| {
        test.context(name, &[("Dockerfile", &format!("FROM {base}\nRUN cat /triggered\n"))])
    };
    let usual = pushed("usual", "RUN echo yes >/triggered").await;
    job.build(&context("usual", &usual), &[]).await.ok();
    let comment = pushed("comment", " \n # a word\nRUN true").await;
    let doubling = format!("ENV a=aaaaaaaaaaaaaaaa\n{}", "ENV a=$a$a\n".repeat(25));
    let doubling = pushed("doubling", &doubling).await;
    for (base, why) in [(&comment, "begin with a comment"), (&doubling, "the value of a variable")] {
        let name = base.rsplit(':').next().unwrap();
        for _ in 0..2 {
            job.build(&context(name, base), &[]).await.ended(1).says(&[base, why]);
        }
        job.run(["pull", base]).await.ok();
        job.run(["tag", base, "own:1"]).await.ok();
        job.build(&context("own", "own:1"), &[]).await.ended(1).says(&["own:1", why]);
    }
}

/// BuildKit has the file from the first build, and yet it is judged by what the second one knows.
async fn a_dockerfile_is_judged_in_each_build(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let named = test.context(
        "arguments",
        &[("Dockerfile", &format!("FROM scratch\nARG A\nCOPY Dockerfile /\nLABEL {}", "x=$A ".repeat(1000)))],
    );
    job.build(&named, &["--build-arg=A=1"]).await.ok();
    let long = format!("--build-arg=A={}", "a".repeat(100_000));
    job.build(&named, &[&long]).await.ended(1).says(&["line 4: with its variables replaced"]);
    job.build(&named, &["--build-arg=A=2"]).await.ok();

    // The variables of a base count as well. The second build has the base before it has the Dockerfile.
    let image = Image::base(&test.unique("long"));
    let mut config = image.config();
    config["config"]["Env"] = json!([format!("LONG={}", "a".repeat(100_000))]);
    image.push_with_config(&registry, "long", "1", config.to_string()).await;
    let base = registry.name("long:1");
    let context =
        test.context("base", &[("Dockerfile", &format!("FROM {base}\nLABEL {}", "x=$LONG ".repeat(1000)))]);
    for _ in 0..2 {
        job.build(&context, &[]).await.ended(1).says(&["line 2: with its variables replaced"]);
    }
    let context = test.context("base", &[("Dockerfile", &format!("FROM {base}\nLABEL x=1\n"))]);
    job.build(&context, &[]).await.ok();
}

/// A job may give the name of a base to another image while a build uses the base: its triggers have been judged.
async fn a_build_holds_the_namespaces_own_images(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let base = test.base(&registry).await;
    job.run(["pull", &base]).await.ok();
    let own = registry.name("own:1");
    job.run(["tag", &base, &own]).await.ok();
    let prefix = format!("{}node/", wharfd.prefix());
    let holds = async |number| {
        let holds = test.engine.names_with_prefix(&prefix).await;
        // The containerd store also lists digests.
        (holds.iter().filter(|name| !name.contains('@')).count() == number).then_some(())
    };
    let seconds = format!("8{}", fresh_digits(&test));
    let context = test.context("own", &[("Dockerfile", &format!("FROM {own}\nRUN exec sleep {seconds}\n"))]);
    let build = job.start(["build", context.to_str().unwrap()]);
    build.while_running("the hold", async || holds(1).await).await;
    job.run(["rmi", &own]).await.ok();
    // BuildKit 0.13 never ends a step that is cancelled while its process begins.
    let runs = async || (!Engine::processes_with(&seconds).is_empty()).then_some(());
    build.while_running("the step to run", runs).await;
    rustix::process::kill_process(build.pid(), rustix::process::Signal::INT).unwrap();
    wait_for("the end of the hold", async || holds(0).await).await;
    let context = test.context("own", &[("Dockerfile", &format!("FROM {own}\n"))]);
    // The registry has none.
    job.build(&context, &[]).await.ended(6);
}

/// BuildKit 0.33 resolves the images that triggers copy from again and again. By whatever name the image comes, and
/// also in a circle of two. BuildKit 0.13 copies from no image in a trigger, but the frontend beside it does.
async fn triggers_that_copy_in_a_circle_are_refused(test: Arc<Test>) {
    let registry = test.registry().await;
    let wharfd = match test.engine.is_containerd() {
        true => test.wharfd().await,
        false => test.wharfd_with_frontend_on(&test.engine).await,
    };
    let job = Wharf::new(&test, &wharfd, "job#1");
    let pushed = async |tag: &str, trigger: &str| {
        let image = Image::base(&test.unique(tag));
        let mut config = image.config();
        config["config"]["OnBuild"] = json!([trigger]);
        image.push_with_config(&registry, "circle", tag, config.to_string()).await;
    };
    let name = |tag: &str| registry.name(&format!("circle:{tag}"));
    let tool = test.base(&registry).await;
    pushed("usual", &format!("COPY --from={tool} /bin/busybox /copied")).await;
    pushed("self", &format!("COPY --from={} /bin/busybox /copied", name("self"))).await;
    pushed("mount", &format!("RUN --mount=from={},target=/m true", name("mount"))).await;
    pushed("one", &format!("COPY --from={} /bin/busybox /copied", name("two"))).await;
    pushed("two", &format!("COPY --from={} /bin/busybox /copied", name("one"))).await;
    pushed("variable", "COPY --from=$ANY /bin/busybox /copied").await;
    let context =
        |name: &str, base: &str| test.context(name, &[("Dockerfile", &format!("FROM {base}\nRUN true\n"))]);
    job.build(&context("usual", &name("usual")), &[]).await.ok();
    for tag in ["self", "mount", "one", "two", "variable"] {
        for _ in 0..2 {
            let refused = job.build(&context(tag, &name(tag)), &[]).await.ended(1);
            refused.says(&["circle:", "copy from images with such triggers without end"]);
        }
    }
    // In the namespace, the name is the job's own.
    job.run(["pull", &tool]).await.ok();
    job.run(["tag", &tool, "own:1"]).await.ok();
    let dockerfile = "FROM own:1\nONBUILD COPY --from=own:1 /bin/busybox /copied\n";
    job.build(&test.context("own", &[("Dockerfile", dockerfile)]), &["-t", "own:1"]).await.ok();
    let refused = job.build(&context("again", "own:1"), &[]).await.ended(1);
    refused.says(&["own:1", "copy from images with such triggers without end"]);
}
