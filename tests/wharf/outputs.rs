//! `wharf build --output`: the same files as from buildx, written nowhere else, and nothing left in the engine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use futures_util::stream;
use rustix::{
    fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, mknodat},
    process::Signal,
};
use tokio::io::AsyncReadExt as _;
use wharf::wire::v1::{BuildSpec, ImageOutput, LocalOutput, Output, TarOutput, output};

use crate::harness::{
    PATIENCE, Test, Wharf, cases,
    process::command,
    rpc,
    tree::{same, tar, tree},
};

cases![
    files_are_those_that_buildx_writes,
    a_tar_goes_to_a_file_or_to_standard_output,
    several_outputs_come_from_one_build,
    flags_that_do_not_go_together,
    what_cannot_be_written_is_said,
    an_output_is_there_whole_or_not_at_all,
    a_reader_that_stops_stops_no_other_build,
    outputs_of_the_api,
];

/// A tree with one of everything; the times in it do not depend on the build.
const TREE: &str = r#"mkdir -p /tree/dir/deep /tree/empty /tree/shut && cd /tree && \
    echo text > file && echo run > dir/run && chmod 4755 dir/run && echo group > dir/group && chmod 2711 dir/group && \
    : > nothing && chmod 400 nothing && ln file dir/deep/hard && ln -s ../file dir/link && ln -s /etc/passwd absolute && \
    ln -s missing/../.. dangling && mkfifo -m 620 pipe && mknod -m 666 null c 1 3 && mknod -m 640 disk b 7 99 && \
    echo owned > owned && chown 12:34 owned && chmod 1777 empty && echo in > shut/in && chmod 555 shut && \
    dd if=/dev/urandom of=/dev/null count=1 2>/dev/null && echo ü > "ümläut x" && \
    dd if=/dev/zero of=sparse bs=1 count=0 seek=3000000 2>/dev/null && \
    find /tree -depth -exec touch -h -d '2001-02-03 04:05:06' {} +"#;

/// A context whose stage has one of everything, also something that is copied.
async fn everything(test: &Test) -> PathBuf {
    let registry = test.registry().await;
    let base = test.base(&registry).await;
    let dockerfile = format!("FROM {base}\nRUN {TREE}\nCOPY marked /marked\n");
    let context = test.context("context", &[("Dockerfile", &dockerfile), ("marked", "marked")]);
    lsetxattr(context.join("marked"), "user.mark", b"value", XattrFlags::empty()).unwrap();
    context
}

pub(super) fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn files_are_those_that_buildx_writes(test: Arc<Test>) {
    let (context, wharfd) = tokio::join!(everything(&test), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let [bare, ours] = ["bare", "ours"].map(|name| test.new_dir(name));
    let both = |at: &Path| {
        [
            format!("type=local,dest={}", path(&at.join("tree"))),
            format!("type=tar,dest={}", path(&at.join("tar"))),
        ]
    };
    for output in both(&bare) {
        test.engine.buildx_build(&test.dir().join("home"), &context, &["-o", &output]).await.ok();
    }
    for output in both(&ours) {
        job.build(&context, &["-o", &output]).await.ok();
    }
    let (expected, written) = (tree(&bare.join("tree")), tree(&ours.join("tree")));
    assert!(expected.len() > 100, "{}", expected.len());
    same(&expected, &written);
    assert_eq!(written[Path::new("marked")].xattrs["user.mark"], b"value");
    assert_eq!(written[Path::new("tree/dir/run")].mode, 0o4755);
    let [expected, written] = [&bare, &ours].map(|at| tar(&fs::read(at.join("tar")).unwrap()));
    assert_eq!(written[Path::new("tree/owned")].owner, (12, 34));
    same(&expected, &written);
    // Once more, over what is there.
    let output = format!("type=local,dest={}", path(&ours.join("tree")));
    job.build(&context, &["-o", &output]).await.ok();
    same(&tree(&bare.join("tree")), &tree(&ours.join("tree")));
    assert!(job.images().await.is_empty());
    assert!(test.engine.names_with_prefix(&wharfd.prefix()).await.iter().all(|name| !name.contains("job")));
}

/// A context with small files, without a base image.
pub(super) fn small(test: &Test, name: &str) -> PathBuf {
    let mark = test.unique(name);
    test.context(name, &[("Dockerfile", "FROM scratch\nCOPY f /d/f\n"), ("f", &mark)])
}

async fn a_tar_goes_to_a_file_or_to_standard_output(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = small(&test, "context");
    let file = test.dir().join("out.tar");
    fs::write(&file, "an earlier one").unwrap();
    job.build(&context, &["-o", &format!("type=tar,dest={}", path(&file))]).await.ok();
    let written = fs::read(&file).unwrap();
    assert_eq!(tar(&written)[Path::new("d/f")].content, fs::read(context.join("f")).unwrap());
    for short in ["-", "type=tar", "type=tar,dest=-"] {
        // Even an id would be a part of the tar.
        for quiet in [&[][..], &["-q"]] {
            let mut command = job.command(["build", "-o", short]);
            command.args(quiet).arg(&context).stdout(Stdio::piped()).stderr(Stdio::piped());
            let output = command.spawn().unwrap().wait_with_output().await.unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(output.stdout == written, "{short} {quiet:?}");
        }
    }
    // A reader that has enough breaks off the build, with its other outputs.
    let mut command = job.command(["build", "-o", "-"]);
    let large = test.context(
        "large",
        &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", &"x".repeat(8 << 20)), ("g", &test.unique("g"))],
    );
    command.arg(&large).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 512]).await.unwrap();
    drop(out);
    let ended = child.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("\nERROR: standard output was closed before the output was complete"), "{said}");
    let mut full = job.command(["build", "-o", "-"]);
    full.arg(&large).stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    full.stderr(Stdio::piped());
    let full = full.spawn().unwrap().wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&full.stderr);
    assert_eq!(full.status.code(), Some(1), "{said}");
    assert!(said.contains("ERROR: cannot write to standard output: No space left on device"), "{said}");
}

async fn several_outputs_come_from_one_build(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = small(&test, "context");
    let out = test.new_dir("out");
    let name = registry.name("app:1");
    let (a, b, file) = (out.join("a"), out.join("b,c"), out.join("all.tar"));
    let outputs = [
        path(&a).to_owned(),
        format!("type=local,\"dest={}\"", path(&b)),
        format!("type=tar,dest={}", path(&file)),
        format!("type=registry,name={name}"),
        "type=cacheonly".to_owned(),
        String::new(),
    ];
    let mut flags = vec!["--iidfile", "id", "--metadata-file", "facts.json"];
    for output in &outputs {
        flags.extend(["--output", output.as_str()]);
    }
    let built = job.build(&context, &flags).await.ok();
    assert!(built.stderr.contains(&format!("pushed {name}@sha256:")), "{built}");
    assert!(built.stderr.contains("exporting to client directory"), "{built}");
    assert!(built.stderr.contains("exporting to client tarball"), "{built}");
    let content = fs::read(context.join("f")).unwrap();
    assert_eq!(fs::read(a.join("d/f")).unwrap(), content);
    assert_eq!(fs::read(b.join("d/f")).unwrap(), content);
    assert_eq!(tar(&fs::read(&file).unwrap())[Path::new("d/f")].content, content);
    assert_eq!(registry.stored_manifests("app").len(), 1);
    let images = job.images().await;
    assert_eq!(images.len(), 1, "{images:?}");
    assert_eq!(images[0].1, fs::read_to_string(job.home().join("id")).unwrap());
    let facts: serde_json::Value =
        serde_json::from_slice(&fs::read(job.home().join("facts.json")).unwrap()).unwrap();
    assert!(facts["image.name"].as_str().unwrap().contains(&name), "{facts}");
    // `--push` and `--load` add an image to other outputs, and `--tag` names it.
    let other = registry.name("other:1");
    job.build(&context, &["-o", path(&a), "--push", "-t", &other]).await.ok();
    assert_eq!(registry.stored_manifests("other").len(), 1);
    let id = job.build_id(&context, &["-o", path(&a), "--load", "-t", "loaded:1"]).await;
    assert!(job.images().await.contains(&("loaded:1".to_owned(), id)));
    // Without an image there is none, and no facts about it.
    let nothing = ["build", "-q", "--output=type=cacheonly", "--metadata-file", "facts.json", path(&context)];
    assert_eq!(job.run(nothing).await.ok().stdout, "");
    assert_eq!(fs::read_to_string(job.home().join("facts.json")).unwrap().trim(), "{}");
    let left = job.build(&context, &["-o", path(&a), "-t", "left:1"]).await.ok();
    left.says(&["WARN: `--tag` has no effect: no output is an image"]);
    assert!(job.images().await.iter().all(|(name, _)| name != "left:1"));
}

async fn flags_that_do_not_go_together(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = small(&test, "context");
    fs::write(job.home().join("file"), "").unwrap();
    std::os::unix::fs::symlink("/nowhere", job.home().join("link")).unwrap();
    for (flags, why) in [
        (&["-o", "out", "--iidfile", "id"][..], "`--iidfile` needs an image"),
        (&["-o", "out", "--push"], "`--push` needs a name to push"),
        (&["-o", "type=registry"], "an output pushes the image, but the image has no name"),
        (&["-o", "-", "-o", "type=tar"], "several outputs go to standard output"),
        (&["-o", "type=image,name=a", "-o", "type=registry,name=b"], "push single names with `wharf push`"),
        (&["-o", "type=local"], "the directory is missing"),
        (&["-o", "type=oci,tar=false,dest=x"], "tar -xf"),
        (&["-o", "file"], "`file` is not a directory"),
        (&["-o", "link"], "`link` is a link"),
        (&["-o", "link/below"], "`link` is a link"),
        (&["-o", "type=tar,dest=."], "is a directory"),
        (&["-o", "type=tar,dest=absent/x.tar"], "absent"),
    ] {
        let refused = job.build(&context, flags).await.ended(2);
        assert!(refused.stderr.contains(why), "{refused}\nwanted: {why}");
    }
    assert!(!job.home().join("out").exists());
}

async fn what_cannot_be_written_is_said(test: Arc<Test>) {
    let wharfd = test
        .wharfd_with(
            Some("[[serve]]\nuid = 1234\nnamespaces = \"*\"\n[[serve]]\nuid = 0\nnamespaces = \"*\"\n"),
            &[],
        )
        .await;
    let context = small(&test, "context");
    let locked = test.new_dir("locked");
    let other = Wharf::new(&test, &wharfd, "job#1").as_uid(1234);
    let refused = other.build(&context, &["-o", path(&locked)]).await.ended(1);
    refused.says(&["ERROR: cannot write", "/d: Permission denied"]);
    let refused = other.build(&context, &["-o", path(&locked.join("new"))]).await.ended(1);
    refused.says(&["ERROR: cannot write", "/new: Permission denied"]);

    let job = Wharf::new(&test, &wharfd, "job#1");
    let full = test.new_dir("full");
    let mut mount = command("mount");
    mount.args(["-t", "tmpfs", "-o", "size=256k", "none"]).arg(&full);
    assert!(mount.status().await.unwrap().success());
    let large = test.context(
        "large",
        &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", &test.unique("x").repeat(100_000))],
    );
    let tar = format!("type=tar,dest={}", path(&full.join("x.tar")));
    let ends =
        [job.build(&large, &["-o", path(&full.join("tree"))]).await, job.build(&large, &["-o", &tar]).await];
    let left = tree(&full);
    assert!(command("umount").arg("--lazy").arg(&full).status().await.unwrap().success());
    for end in ends {
        end.ended(1).says(&["ERROR: cannot write", "No space left on device"]);
    }
    assert_eq!(left.keys().collect::<Vec<_>>(), [Path::new("tree")], "no half file stays");
}

async fn an_output_is_there_whole_or_not_at_all(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = small(&test, "context");
    let out = test.new_dir("out");
    let file = format!("type=tar,dest={}", path(&out.join("x.tar")));
    fs::write(out.join("x.tar"), "old").unwrap();
    // One of two cannot be written; the other one may be written already.
    job.build(&context, &["-o", &file, "-o", "type=tar,dest=/dev/full"]).await.ended(1).says(&["/dev/full"]);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
    let failing = test.context("failing", &[("Dockerfile", "FROM scratch\nCOPY absent /\n")]);
    job.build(&failing, &["-o", &file, "-o", path(&out.join("tree"))]).await.ended(1);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}

async fn a_reader_that_stops_stops_no_other_build(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let [job, other] = ["job#1", "other#1"].map(|namespace| Wharf::new(&test, &wharfd, namespace));
    let pipe = test.dir().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let noise = test.unique("noise").repeat(1 << 20);
    let large = test.context("large", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", &noise)]);
    let output = format!("type=tar,dest={}", path(&pipe));
    let out = test.new_dir("out");
    let started = async |job: &Wharf| {
        let file = format!("type=tar,dest={}", path(&out.join("x.tar")));
        let build = job.start(["build", "--progress=plain", "-o", &output, "-o", &file, path(&large)]);
        let mut reader = tokio::fs::File::open(&pipe).await.unwrap();
        reader.read_exact(&mut vec![0; 1 << 20]).await.unwrap();
        (build, reader)
    };
    let (build, reader) = started(&job).await;
    let context = small(&test, "context");
    other.build(&context, &["-o", path(&test.dir().join("other"))]).await.ok();
    // A cancel ends it at once, and leaves nothing.
    build.signal(Signal::TERM);
    assert_eq!(build.wait(PATIENCE).await.unwrap().code(), Some(143));
    drop(reader);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
    // So does the end of the namespace.
    let (build, reader) = started(&job).await;
    job.run(["namespace", "rm", "job#1"]).await.ok();
    drop(reader);
    assert_ne!(build.wait(PATIENCE).await.unwrap().code(), Some(0), "{:?}", build.lines());
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}

async fn outputs_of_the_api(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let channel = rpc::connect(&wharfd.socket()).await;
    let image = || Output { output: Some(output::Output::Image(ImageOutput {})) };
    let local = || Output { output: Some(output::Output::Local(LocalOutput {})) };
    let tar = || Output { output: Some(output::Output::Tar(TarOutput {})) };
    for (outputs, tags, push, why) in [
        (vec![local()], &[][..], false, "the build has none"),
        (vec![tar()], &[], false, "the build has none"),
        (vec![image(), image()], &[], false, "one image"),
        (vec![Output { output: None }], &[], false, "of a kind that this wharfd does not know"),
        (vec![local()], &["app:1"], false, "no output is an image"),
        (vec![local()], &[], true, "no tag"),
        (vec![local(); 17], &[], false, "at most 16"),
    ] {
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let spec = BuildSpec { outputs, tags, push, ..BuildSpec::default() };
        let refused = rpc::build(&channel, rpc::start("job#1", spec), stream::empty()).await;
        let status = refused.status.unwrap();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
        assert!(status.message().contains(why), "{status}");
    }
}
