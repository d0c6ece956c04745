//! The command line: every flag of a build has its effect, standard input is recognised, and each command
//! prints the output that scripts expect from docker.

use std::{fs, os::unix::fs::PermissionsExt as _, sync::Arc};

use serde_json::Value;

use crate::harness::{
    Image, Test, Wharf, cases,
    image::context_tar,
    process::{Output, install, shell_status},
};

cases![
    flags_of_a_build,
    secrets,
    missing_secrets,
    standard_input,
    credential_helpers,
    a_docker_config_of_another_user,
    image_commands,
    versions,
    files_of_a_build,
];

const DOCKERFILE: &str = "\
ARG BASE
FROM $BASE AS first
ARG GIVEN
ARG TAKEN
ARG UNSET=default
RUN echo $GIVEN $TAKEN $UNSET > /args
RUN grep -e one -e two /etc/hosts > /hosts
RUN ls /sys/class/net > /net
RUN df -k /dev/shm | tail -n 1 > /shm
RUN ulimit -n > /nofile
FROM first AS last
RUN echo last > /last
";

async fn flags_of_a_build(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = test.context("context", &[("Dockerfile", DOCKERFILE)]);
    let base = format!("BASE={base}");
    let flags = [
        "build",
        "--quiet",
        "--target",
        "first",
        "--build-arg",
        &base,
        "--build-arg",
        "GIVEN=a b",
        "--build-arg",
        "TAKEN",
        "--build-arg",
        "UNSET",
        "--label",
        "one=1=2",
        "--label",
        "bare",
        "--add-host",
        "one:10.1.2.3",
        "--add-host=two=::1",
        "--network",
        "none",
        "--shm-size",
        "32m",
        "--ulimit",
        "nofile=123:456",
        "--load",
    ];
    let mut command = job.command(flags.iter().chain(&[context.to_str().unwrap()]));
    command.env("TAKEN", "of the environment");
    let id = Output::of(command, b"", crate::harness::PATIENCE).await.ok().stdout;
    let id = id.strip_suffix('\n').unwrap();

    let text = async |path| test.engine.text(id, path).await;
    assert_eq!(text("/args").await, "a b of the environment default\n");
    let hosts = text("/hosts").await;
    let hosts: Vec<Vec<&str>> = hosts.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(hosts, [["10.1.2.3", "one"], ["::1", "two"]]);
    assert_eq!(text("/net").await, "lo\n");
    assert_eq!(text("/shm").await.split_whitespace().nth(1), Some("32768"));
    assert_eq!(text("/nofile").await, "123\n");
    assert!(test.engine.file(id, "/last").await.is_none(), "the target was passed by");
    let described = job.inspect(id).await;
    let labels = &described["Config"]["Labels"];
    assert_eq!((&labels["one"], &labels["bare"]), (&"1=2".into(), &"".into()));

    // `--no-cache` runs steps whose results are known.
    let dockerfile = format!("FROM {}\nRUN cat /proc/sys/kernel/random/uuid > /uuid\n", &base[5..]);
    let context = test.context("uuid", &[("Dockerfile", &dockerfile)]);
    let first = job.build_id(&context, &[]).await;
    assert_eq!(job.build_id(&context, &[]).await, first);
    assert_ne!(job.build_id(&context, &["--no-cache"]).await, first);
}

async fn secrets(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let (file, env) = (test.unique("file"), test.unique("env"));
    let dockerfile = format!(
        "FROM {base}\n\
         RUN --mount=type=secret,id=f --mount=type=secret,id=e --mount=type=secret,id=implied \
         sha256sum /run/secrets/f /run/secrets/e /run/secrets/implied | cut -c 1-64 > /sums\n\
         RUN --mount=type=secret,id=absent test ! -e /run/secrets/absent\n"
    );
    let context = test.context("context", &[("Dockerfile", &dockerfile)]);
    fs::write(job.home().join("a,b"), &file).unwrap();
    let flags = ["--secret", "id=f,\"src=a,b\"", "--secret", "id=e,env=E", "--secret", "id=implied"];
    let mut command = job.command(["build", "--progress=plain", "--iidfile=id"].iter().chain(&flags));
    command.arg(&context).env("E", &env).env("implied", "x");
    let built = Output::of(command, b"", crate::harness::PATIENCE).await.ok();
    for secret in [&file, &env] {
        assert!(!built.stderr.contains(secret.as_str()), "{built}");
    }
    let id = fs::read_to_string(job.home().join("id")).unwrap();
    let sum = |text: &str| crate::harness::image::digest(text.as_bytes())["sha256:".len()..].to_owned();
    assert_eq!(
        test.engine.text(&id, "/sums").await,
        [sum(&file), sum(&env), sum("x"), String::new()].join("\n")
    );
}

async fn missing_secrets(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let step = "RUN --mount=type=secret,id=token,required=true cat /run/secrets/token";
    let context = test.context("context", &[("Dockerfile", &format!("FROM {base}\n{step}\n"))]);
    job.build(&context, &[]).await.ended(1).says(&["token", "hint: ", "--secret id=token"]);
    job.build(&context, &["--secret", "id=token,src=absent"]).await.ended(2).says(&["`token`", "absent"]);
    job.build(&context, &["--secret", "id=token,env=ABSENT"]).await.ended(2).says(&["`token`", "`ABSENT`"]);
    fs::write(job.home().join("big"), vec![b'x'; 512_001]).unwrap();
    job.build(&context, &["--secret", "id=token,src=big"]).await.ended(2).says(&["`token`", "500 KiB"]);
}

async fn standard_input(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let copies = format!("FROM {base}\nCOPY file /file\n");
    let content = test.unique("content");
    let tar = context_tar(&[("Dockerfile", &copies), ("other", &copies), ("file", &content)]);
    let gzip = {
        use std::io::Write as _;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar).unwrap();
        gzip.finish().unwrap()
    };
    for (input, flags) in [(&tar, &[][..]), (&gzip, &[]), (&tar, &["-f", "other"])] {
        let id = job.run_with(["build", "-q", "-"].iter().chain(flags), input).await.ok().stdout;
        assert_eq!(test.engine.text(id.trim(), "/file").await, content);
    }
    // A private base: a build from a tar also asks for credentials.
    let private = test.private_registry("u", "p").await;
    Image::base(&test.unique("private")).push(&private, "base", "1").await;
    let context = context_tar(&[("Dockerfile", &format!("FROM {}\n", private.name("base:1")))]);
    job.run_with(["build", "-q", "-"], &context).await.ended(3);
    job.login(&private, Some(("u", "p")));
    job.run_with(["build", "-q", "-"], &context).await.ok();

    let alone = format!("FROM {base}\nRUN echo {content} > /alone\n");
    let id = job.run_with(["build", "-q", "-"], alone.as_bytes()).await.ok().stdout;
    assert_eq!(test.engine.text(id.trim(), "/alone").await, format!("{content}\n"));
    job.run_with(["build", "-q", "-"], copies.as_bytes()).await.ended(1).says(&["file"]);
    job.run_with(["build", "-q", "-"], b"").await.ended(2).says(&["standard input is empty"]);
    job.run_with(["build", "-q", "-f", "-", "-"], b"").await.ended(2);
    // Half a tar is not a context.
    let half = tar.get(..700).unwrap();
    job.run_with(["build", "-q", "-"], half).await.ended(1).says(&["tar"]);
}

/// An agent's `HOME` may belong to root while the agent runs as another user.
async fn a_docker_config_of_another_user(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1").as_uid(1000);
    let config = job.home().join(".docker/config.json");
    fs::create_dir(config.parent().unwrap()).unwrap();
    fs::write(&config, "{}").unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let pull = async |named: Option<&std::path::Path>| {
        let mut pull = job.command(["pull", "app:1"]);
        pull.env_remove("DOCKER_CONFIG").envs(named.map(|path| ("DOCKER_CONFIG", path)));
        Output::of(pull, b"", crate::harness::PATIENCE).await
    };
    // The exit status comes from wharfd's answer: this user is not served.
    pull(None).await.ended(3).says(&["WARNING: no credentials", config.to_str().unwrap()]);
    pull(config.parent()).await.ended(2).says(&["cannot read the docker config"]);
}

async fn credential_helpers(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.private_registry("u", "of the helper"), test.wharfd());
    Image::base(&test.unique("base")).push(&registry, "base", "1").await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = test.context("context", &[("Dockerfile", &format!("FROM {}\n", registry.name("base:1")))]);
    let tag = registry.name("app:1");
    let bin = test.new_dir("bin");
    let helper = bin.join("docker-credential-test");
    let text = format!(
        "#!/bin/sh\nread server\n[ \"$1 $server\" = 'get {}' ] || exit 1\n\
         echo '{{\"ServerURL\":\"x\",\"Username\":\"u\",\"Secret\":\"of the helper\"}}'\n",
        registry.host()
    );
    let written = bin.join("text");
    fs::write(&written, text).unwrap();
    install(&written, &helper);
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let run = async |args: &[&str]| {
        let mut command = job.command(args);
        command.env("PATH", &path);
        Output::of(command, b"", crate::harness::PATIENCE).await
    };
    let build = ["build", "--progress=plain", "-t", &tag, "--push", context.to_str().unwrap()];

    job.login(&registry, None);
    run(&build).await.ended(3).says(&[registry.host()]);
    let config = job.home().join("docker/config.json");
    for helpers in [
        serde_json::json!({"credsStore": "test"}),
        serde_json::json!({"credHelpers": {registry.host(): "test"}, "credsStore": "none"}),
    ] {
        fs::write(&config, helpers.to_string()).unwrap();
        run(&build).await.ok();
        run(&["push", &tag]).await.ok();
        run(&["pull", &tag]).await.ok();
    }
    // The client shows its own error, not only its effect on the build.
    fs::write(&config, serde_json::json!({"credsStore": "none"}).to_string()).unwrap();
    for args in [&build[..], &["push", &tag]] {
        run(args).await.ended(1).says(&["docker-credential-none", registry.host()]);
    }
    fs::write(&config, "{\"auths\": \"hunter2\"}").unwrap();
    let shown = run(&build).await.ended(2).says(&["config.json:1:"]);
    assert!(!shown.stderr.contains("hunter2"), "{shown}");
}

async fn image_commands(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let content = test.unique("content");
    let context =
        test.context("context", &[("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", &content)]);
    assert_eq!(
        job.run(["images"]).await.ok().stdout,
        "REPOSITORY   TAG   IMAGE ID   CREATED   SIZE\n",
        "a new namespace is empty"
    );
    let id = job.build_id(&context, &["-t", "app", "-t", "reg.example:5000/team/app:2"]).await;
    let short = id["sha256:".len()..].get(..12).unwrap();

    let table = job.run(["images"]).await.ok().stdout;
    let rows: Vec<Vec<&str>> = table.lines().skip(1).map(|row| row.split_whitespace().collect()).collect();
    let mut names: Vec<&[&str]> = rows.iter().map(|row| &row[..3]).collect();
    names.sort_unstable();
    assert_eq!(names, [["app", "latest", short], ["reg.example:5000/team/app", "2", short]], "{table}");
    assert_eq!(job.run(["images", "-q"]).await.ok().stdout, format!("{short}\n"));
    let long = job.run(["images", "--quiet", "--no-trunc", "app"]).await.ok().stdout;
    assert_eq!(long, format!("{id}\n"));
    assert_eq!(job.run(["images", "-q", "other"]).await.ok().stdout, "");

    job.run(["tag", short, "app:3"]).await.ok();
    let described = job.run(["inspect", "app:3", &id]).await.ok().stdout;
    let described: Value = serde_json::from_str(&described).unwrap();
    assert_eq!((&described[0]["Id"], &described[1]["Id"]), (&id.as_str().into(), &id.as_str().into()));
    // As in docker: images that exist are shown, and the missing one determines the exit status.
    let shown = job.run(["inspect", "app:3", "absent"]).await.ended(6);
    let shown = shown.says(&["no such image in the namespace job#1: absent", "`wharf images`"]);
    assert_eq!(serde_json::from_str::<Value>(&shown.stdout).unwrap().as_array().unwrap().len(), 1);

    let removed = job.run(["rmi", "app:3", "absent", "app"]).await.ended(6).says(&["absent"]);
    assert_eq!(removed.stdout, "Untagged: app:3\nUntagged: app:latest\n");
    let removed = job.run(["rmi", short]).await.ok().stdout;
    assert_eq!(removed, format!("Untagged: reg.example:5000/team/app:2\nDeleted: {id}\n"));
    assert_eq!(job.run(["images", "-q"]).await.ok().stdout, "");

    job.build_id(&context, &[]).await;
    assert_eq!(job.run(["namespace", "rm"]).await.ok().stdout, "Deleted: job#1\n");
    for args in [&["namespace", "rm"][..], &["namespace", "rm", "never-there#1"]] {
        let shown = job.run(args).await.ok().stdout;
        assert!(shown.starts_with("Nothing to delete: "), "{shown}");
    }
}

async fn versions(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "acme/app#7");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(job.run(["--version"]).await.ok().stdout, format!("wharf {version}\n"));
    let shown = job.run(["version", "--format=json"]).await.ok().stdout;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["Client"]["Version"], version);
    assert_eq!(shown["Server"]["Version"], version);
    let info = job.run(["info", "--format=json"]).await.ok().stdout;
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["Namespace"], "acme/app#7");
    assert_eq!(info["Caller"], "uid 0");
    // The client shows its version even without a wharfd.
    let nowhere = job.at("unix:///nonexistent/wharf.sock");
    let shown = nowhere.run(["version"]).await.ended(4);
    assert!(shown.stdout.contains(version), "{shown}");

    // If nothing else names the namespace, Jenkins' variables do.
    let mut command = job.command(["info", "--format=json"]);
    command.env_remove("WHARF_NAMESPACE").env("JOB_NAME", "acme/feature%2Fx").env("BUILD_NUMBER", "42");
    let info = Output::of(command, b"", crate::harness::PATIENCE).await.ok().stdout;
    assert!(info.contains("acme/feature%2Fx#42"), "{info}");
    let info = job.run(["info", "--namespace=foo"]).await.ok().stdout;
    assert!(info.contains(" Namespace: foo#local\n"), "{info}");

    // A password on the command line is refused, and not shown.
    let shown = job.run(["login", "-u", "me", "-phunter2", "reg.example"]).await.ended(2);
    assert!(!shown.stderr.contains("hunter2"), "{shown}");
}

async fn files_of_a_build(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let content = test.unique("content");
    let context =
        test.context("context", &[("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", &content)]);
    let (id, metadata) = (job.home().join("id"), job.home().join("metadata"));
    let flags = ["-t", "app", "--iidfile", "id", "--metadata-file", "metadata"];
    job.build(&context, &flags).await.ok();
    assert_eq!(fs::read_to_string(&id).unwrap(), job.run(["images", "-q", "--no-trunc"]).await.stdout.trim());
    let told: Value = serde_json::from_slice(&fs::read(&metadata).unwrap()).unwrap();
    assert_eq!(told["image.name"], "docker.io/library/app:latest");
    assert!(told["containerimage.config.digest"].as_str().unwrap().starts_with("sha256:"), "{told}");
    // The files of an earlier build are removed first.
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY absent /\n").unwrap();
    job.build(&context, &flags).await.ended(1);
    assert!(!id.exists() && !metadata.exists());
    // An unwritable file is reported before anything is built.
    for flag in ["--iidfile=absent/id", "--metadata-file=."] {
        let shown = job.build(&context, &[flag]).await.ended(2).says(&["cannot write"]);
        assert!(!shown.stderr.contains("load build definition"), "{shown}");
    }
    // A device is written to, and remains a device.
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY file /\n").unwrap();
    let shown = job.run(["build", "-q", "--iidfile", "/dev/stdout", context.to_str().unwrap()]).await;
    assert_eq!(shown.status, 0, "{shown}");
    assert!(shown.stdout.matches("sha256:").count() == 2, "{shown}");

    // Nobody reads the output.
    let mut child = job.command(["images"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ended = child.stdout(writer).spawn().unwrap().wait_with_output().await.unwrap();
    assert_eq!(shell_status(ended.status), 0);
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(!said.contains("panicked"), "{said}");
}
