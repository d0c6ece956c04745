//! Incremental sync: only changed files are sent, and every build gets the files of its own context.

use std::{
    fs::{self, File},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use wharf::wire::v1::BuildSpec;

use crate::harness::{
    Test, Wharf, cases,
    process::Output,
    rpc,
    session::{self, Client, of_context},
};

cases![
    twenty_thousand_files,
    equal_contexts_of_one_job,
    other_content_of_the_same_size_and_time,
    equal_dockerfiles_from_standard_input,
    ignored_files,
    hundreds_of_patterns,
    a_dockerfile_outside_of_the_context,
    a_dockerfile_of_four_megabytes,
    a_here_document_of_three_megabytes,
    a_tar_from_standard_input,
];

const FILES: usize = 20_000;
const BYTES: usize = 237 << 20;

async fn twenty_thousand_files(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let caches = test.engine.large_caches().await;
    let dockerfile = format!(
        "FROM {base}\nRUN --mount=type=bind,target=/c find /c/d* -type f | wc -l > /count && cp /c/d123/f12345 /one\n"
    );
    let context = test.context("context", &[("Dockerfile", &dockerfile)]);
    let written = {
        let context = context.clone();
        tokio::task::spawn_blocking(move || session::write_files(&context, FILES, BYTES)).await.unwrap()
    };
    let channel = rpc::connect(&wharfd.socket()).await;
    let client = Client::of(&channel, "job#1", &context);

    let (build, syncs) = client.build(BuildSpec::default()).await;
    let id = build.ok().image_id.clone();
    assert_eq!(test.engine.text(&id, "/count").await, format!("{FILES}\n"));
    let cold = of_context(&syncs);
    assert_eq!(cold.asked.len(), FILES + 1, "the files, and the Dockerfile");
    assert_eq!(cold.data, BYTES + dockerfile.len());

    let (build, syncs) = client.build(BuildSpec::default()).await;
    assert_eq!(build.ok().image_id, id);
    let untouched = of_context(&syncs);
    assert!(untouched.announced.len() > FILES, "{}", untouched.announced.len());
    assert_eq!((untouched.asked, untouched.data), (Vec::<String>::new(), 0));

    let (path, size) = ("d123/f12345", written["d123/f12345"]);
    fs::write(context.join(path), vec![b'x'; size]).unwrap();
    // Another run of the job reuses the files that this one has sent.
    let client = Client { namespace: "job#2".to_owned(), ..client };
    let (build, syncs) = client.build(BuildSpec::default()).await;
    let changed = of_context(&syncs);
    assert_eq!((changed.asked, changed.data), (vec![path.to_owned()], size));
    let file = test.engine.file(&build.ok().image_id, "/one").await.unwrap();
    assert!(file == vec![b'x'; size], "the changed file is not in the image");

    // Another job has not sent anything yet, whatever path it claims.
    let client = Client { namespace: "other#1".to_owned(), ..client };
    let (build, syncs) = client.build(BuildSpec::default()).await;
    build.ok();
    assert_eq!(of_context(&syncs).asked.len(), FILES + 1);
    test.engine.forget_large_caches(&caches).await;
}

/// Sets a file's time, so that only its content distinguishes it from another.
fn set_time(path: &Path) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

fn twin(test: &Test, path: &str, content: &str) -> std::path::PathBuf {
    let context = test.context(path, &[("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", content)]);
    for file in ["Dockerfile", "file"] {
        set_time(&context.join(file));
    }
    context
}

async fn equal_contexts_of_one_job(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let build = async |path: &str, content: &str| {
        let context = twin(&test, path, content);
        let id = job.build_id(&context, &[]).await;
        assert_eq!(test.engine.text(&id, "/file").await, content, "{path}");
    };
    // One after the other: even the paths' last components are equal.
    build("one/app", "content 1").await;
    build("two/app", "content 2").await;
    build("one/app", "content 1").await;
    // At the same time.
    tokio::join!(
        build("three/app", "content 3"),
        build("four/app", "content 4"),
        build("five/app", "content 5"),
        build("six/app", "content 6"),
    );
    // The same path in another job's workspace.
    let other = Wharf::new(&test, &wharfd, "other#1");
    let id = other.build_id(twin(&test, "one/app", "content 7"), &[]).await;
    assert_eq!(test.engine.text(&id, "/file").await, "content 7");
}

/// Something has set the file's time back, as `tar -x` does: BuildKit's receiver keeps the file that it has.
async fn other_content_of_the_same_size_and_time(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let write = |path: &Path, content: &str| {
        fs::write(path, content).unwrap();
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    };
    let large = "x".repeat(4 << 20);
    let [context, second] = ["ws/app", "ws@2/app"].map(|name| {
        let dockerfile = "FROM scratch\nCOPY . /\n";
        test.context(name, &[("Dockerfile", dockerfile), ("large", &large), (".dockerignore", "ignored")])
    });
    let built = async |run: &str, context: &Path| {
        let job = Wharf::new(&test, &wharfd, run);
        let mut build = job.command(["build", "--progress=plain", "--iidfile=id", context.to_str().unwrap()]);
        build.env("WORKSPACE", context.parent().unwrap());
        let log = Output::of(build, b"", Duration::from_secs(120)).await.ok().to_string();
        let id = fs::read_to_string(job.home().join("id")).unwrap();
        (test.engine.text(&id, "/file").await, log.contains("MB"))
    };
    let file = context.join("file");
    write(&file, "mode=blue");
    assert_eq!(built("job#1", &context).await, ("mode=blue".to_owned(), true));
    write(&file, "mode=grey");
    assert_eq!(built("job#2", &context).await, ("mode=grey".to_owned(), true), "rewritten in place");
    fs::remove_file(&file).unwrap();
    write(&file, "mode=pink");
    assert_eq!(built("job#3", &context).await, ("mode=pink".to_owned(), true), "made anew");
    // Nothing is sent again for what cannot be in the image, for what is as it was, or for what is new.
    write(&context.join("ignored"), "");
    fs::write(context.join("new"), "").unwrap();
    assert_eq!(built("job#4", &context).await, ("mode=pink".to_owned(), false), "as it was");
    write(&second.join("file"), "mode=gold");
    assert_eq!(built("job#5", &second).await, ("mode=gold".to_owned(), true), "a second workspace");
    assert_eq!(built("job#6", &context).await, ("mode=pink".to_owned(), false), "the first one again");
}

async fn equal_dockerfiles_from_standard_input(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = test.context("context", &[("one", "1"), ("two", "2"), ("six", "6")]);
    let build = async |name: &str, content: &str| {
        let dockerfile = format!("FROM scratch\nCOPY {name} /file\n");
        let args = ["build", "-q", "-f", "-", context.to_str().unwrap()];
        let id = job.run_with(args, dockerfile.as_bytes()).await.ok().stdout;
        assert_eq!(test.engine.text(id.trim(), "/file").await, content);
    };
    build("one", "1").await;
    build("two", "2").await;
    build("one", "1").await;
    tokio::join!(build("one", "1"), build("two", "2"), build("six", "6"));
    // A build without a context.
    let id = job.run_with(["build", "-q", "-"], b"FROM scratch\nENV A=1\n").await.ok().stdout;
    let image = test.engine.inspect(id.trim()).await.unwrap();
    assert!(image["Config"]["Env"].to_string().contains("A=1"), "{image}");
}

async fn ignored_files(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let dockerfile = format!("FROM {base}\nCOPY . /c\nRUN cd /c && find . -type f | sort > /list\n");
    let context = test.context(
        "context",
        &[
            ("Dockerfile", &dockerfile),
            ("other.Dockerfile", &dockerfile),
            (".dockerignore", "# comment\n*.log\n!keep.log\nnode_modules\n**/deep/*.tmp\nDockerfile\n"),
            ("other.Dockerfile.dockerignore", "*\n!src\n"),
            ("a.log", ""),
            ("keep.log", ""),
            ("src/b.log", ""),
            ("src/main", ""),
            ("src/deep/x.tmp", ""),
            ("node_modules/m/index.js", ""),
        ],
    );
    let job = Wharf::new(&test, &wharfd, "job#1");
    let id = job.build_id(&context, &[]).await;
    assert_eq!(
        test.engine.text(&id, "/list").await,
        "./.dockerignore\n./keep.log\n./other.Dockerfile\n./other.Dockerfile.dockerignore\n./src/b.log\n./src/main\n"
    );
    let file = context.join("other.Dockerfile");
    let id = job.build_id(&context, &["-f", file.to_str().unwrap()]).await;
    assert_eq!(test.engine.text(&id, "/list").await, "./src/b.log\n./src/deep/x.tmp\n./src/main\n");
}

/// BuildKit requests a directory with all patterns of `.dockerignore` and all paths that the Dockerfile
/// copies, in the call's headers.
async fn hundreds_of_patterns(test: Arc<Test>) {
    const PATTERNS: usize = 500;
    let wharfd = test.wharfd().await;
    let paths: Vec<String> = (0..PATTERNS).map(|index| format!("services/of/the/monorepo/{index}")).collect();
    let ignored: String = paths.iter().map(|path| format!("{path}/target\n")).collect();
    let copied: Vec<String> = paths.iter().map(|path| format!("{path}/file")).collect();
    let dockerfile = format!("FROM scratch\nCOPY {} /files/\nCOPY . /all/\n", copied.join(" "));
    let context = test.context("context", &[("Dockerfile", &dockerfile), (".dockerignore", &ignored)]);
    for (path, file) in paths.iter().zip(&copied) {
        fs::create_dir_all(context.join(path)).unwrap();
        fs::write(context.join(file), path).unwrap();
    }
    let last = context.join(&paths[PATTERNS - 1]);
    fs::write(last.join("target"), "not sent").unwrap();
    let job = Wharf::new(&test, &wharfd, "job#1");
    let id = job.build_id(&context, &[]).await;
    assert_eq!(test.engine.text(&id, "/files/file").await, paths[PATTERNS - 1]);
    let all = format!("/all/{}", paths[PATTERNS - 1]);
    assert!(test.engine.file(&id, &format!("{all}/file")).await.is_some());
    assert!(test.engine.file(&id, &format!("{all}/target")).await.is_none());
}

async fn a_dockerfile_outside_of_the_context(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context =
        test.context("context", &[("file", "inside"), ("Dockerfile", "FROM scratch\nCOPY wrong /\n")]);
    let outside =
        test.context("outside", &[("My.Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", "outside")]);
    let file = outside.join("My.Dockerfile");
    let id = job.build_id(&context, &["-f", file.to_str().unwrap()]).await;
    assert_eq!(test.engine.text(&id, "/file").await, "inside");
    fs::write(&file, "FROM scratch\nCOPY file /other\n").unwrap();
    let id = job.build_id(&context, &["-f", file.to_str().unwrap()]).await;
    assert_eq!(test.engine.text(&id, "/other").await, "inside");
}

/// A generated one: many stages, of which one is built.
async fn a_dockerfile_of_four_megabytes(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let label = |stage: usize, n: usize| {
        format!("LABEL generated.{stage}.{n}=\"some text that makes the line as long as lines are\"\n")
    };
    let stage = |stage: usize| {
        let labels: String = (0..120).map(|n| label(stage, n)).collect();
        format!("FROM scratch AS stage{stage}\n{labels}COPY file /\n")
    };
    let stages: String = (0..440).map(stage).collect();
    assert!(stages.len() > 7 << 19, "{}", stages.len());
    let context = test.context("stages", &[("Dockerfile", &stages), ("file", "x")]);
    job.build(&context, &["--target", "stage7", "-t", "app:1"]).await.ok();
    // The checks that `wharf` leaves out would make a message of hundreds of MiB. The oldest engine has none.
    let with_checks = ["--target", "stage7", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=none"];
    let built = job.build(&context, &with_checks).await;
    match test.engine.is_containerd() {
        true => built.ended(1).says(&["only without its checks"]),
        false => built.ok(),
    };
}

/// BuildKit 0.13 reads messages of at most 4 MiB, and the graph of such a Dockerfile holds the here-document twice.
async fn a_here_document_of_three_megabytes(test: Arc<Test>) {
    let document = format!("{}EOF\n", format!("{:01000}\n", 0).repeat(3000));
    let built = test.context(
        "built",
        &[("Dockerfile", &format!("# syntax=example/frontend\nFROM scratch\nCOPY <<EOF /large\n{document}"))],
    );
    // A failure shows its lines, if they are among the first of the text.
    let failing = |lines: [&str; 2]| lines.join(&format!("COPY <<EOF /large\n{document}"));
    let early = test.context("early", &[("Dockerfile", &failing(["FROM scratch\nCOPY none /early\n", ""]))]);
    let late = test.context("late", &[("Dockerfile", &failing(["FROM scratch\n", "COPY none /late\n"]))]);
    // Each step carries the variable, so that the graph is large without the text.
    let steps: String = (0..300).map(|n| format!("RUN true {n}\n")).collect();
    let steps = format!("FROM scratch\nCOPY Dockerfile /\nENV A={}\n{steps}", "a".repeat(20_000));
    let steps = test.context("steps", &[("Dockerfile", &steps)]);
    for wharfd in [test.wharfd().await, test.wharfd_with_frontend_on(&test.engine).await] {
        let job = Wharf::new(&test, &wharfd, "job#1");
        job.build(&built, &[]).await.ok().says(&["`# syntax=example/frontend` is ignored"]);
        let id = job.build_id(&built, &[]).await;
        assert_eq!(test.engine.file(&id, "/large").await.unwrap().len(), 3000 * 1001);
        job.build(&early, &[]).await.ended(1).says(&["Dockerfile:2", ">>> COPY none /early"]);
        job.build(&late, &[]).await.ended(1).says(&["Dockerfile:3004", "/none"]);
        if !test.engine.is_containerd() {
            job.build(&steps, &[]).await.ended(1).says(&["a build graph of 6 MiB", "at most 4 MiB"]);
        }
    }
}

async fn a_tar_from_standard_input(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let content = test.unique("tar");
    let tar = crate::harness::image::context_tar(&[
        ("d/Dockerfile.x", "FROM scratch\nCOPY file /\n"),
        ("file", &content),
    ]);
    let id = job.run_with(["build", "-q", "-f", "d/Dockerfile.x", "-"], &tar).await.ok().stdout;
    assert_eq!(test.engine.text(id.trim(), "/file").await, content);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut gzip, &tar).unwrap();
    let again =
        job.run_with(["build", "-q", "-f", "d/Dockerfile.x", "-"], &gzip.finish().unwrap()).await.ok();
    assert_eq!(test.engine.text(again.stdout.trim(), "/file").await, content);
}
