//! Where the files of `wharf build --output` and its like are written, and what is left of them.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    sync::Arc,
};

use rustix::process::Signal;

use crate::{
    harness::{PATIENCE, Test, Wharf, cases, wait_for},
    outputs::{path, small},
};

cases![
    links_of_an_earlier_build_are_not_followed,
    links_of_a_repository_are_not_followed,
    a_signal_leaves_no_half_file,
    shut_directories_of_an_earlier_build_are_written_again,
];

async fn links_of_an_earlier_build_are_not_followed(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let base = test.base(&registry).await;
    let victim = test.new_dir("victim");
    fs::write(victim.join("f"), "keep").unwrap();
    let out = test.dir().join("out");
    let build = async |name: &str, step: &str| {
        let dockerfile = format!(
            "FROM {base} AS made\nRUN mkdir /out && cd /out && {step}\nFROM scratch\nCOPY --from=made /out /\n"
        );
        let context = test.context(name, &[("Dockerfile", &dockerfile)]);
        job.build(&context, &["-o", path(&out)]).await
    };
    let at = path(&victim);
    build("first", &format!("ln -s {at} d && ln -s {at}/f f && ln -s {at}/new g")).await.ok();
    assert_eq!(fs::read(out.join("f")).unwrap(), b"keep", "the first build's links lead out");
    build("second", "mkdir d && echo bad > d/f && echo bad > f && echo bad > g").await.ok();
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
    assert_eq!(fs::read(victim.join("f")).unwrap(), b"keep");
    assert_eq!(fs::read(out.join("d/f")).unwrap(), b"bad\n");
    // A build may not make its own root a link to the next one's.
    build("third", &format!("ln -s {at} reports")).await.ok();
    let context = small(&test, "fourth");
    let below = out.join("reports");
    job.build(&context, &["-o", path(&below)]).await.ended(2).says(&["is a link"]);
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
}

/// A pull request may have `out -> /home/jenkins/.ssh`, and the pipeline `dest=out/image.tar`.
async fn links_of_a_repository_are_not_followed(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    // The workspace is on a disk of its own, and a link leads there: the machine's.
    let (disk, victim) = (test.new_dir("disk"), test.new_dir("victim"));
    let node = test.new_dir("node");
    std::os::unix::fs::symlink(&disk, node.join("work")).unwrap();
    let workspace = node.join("work/job");
    fs::create_dir(&workspace).unwrap();
    fs::write(workspace.join("Dockerfile"), format!("FROM scratch\nCOPY f /\n# {}\n", test.unique("x")))
        .unwrap();
    fs::write(workspace.join("f"), test.unique("f")).unwrap();
    fs::create_dir(workspace.join("own")).unwrap();
    std::os::unix::fs::symlink(&victim, workspace.join("out")).unwrap();
    std::os::unix::fs::symlink("out", workspace.join("own/out")).unwrap();
    fs::write(victim.join("x"), "keep").unwrap();
    let job = Wharf::new(&test, &wharfd, "job#1").with_variable("WORKSPACE", path(&workspace));
    let name = registry.name("app:1");
    job.build(&workspace, &["-t", "app:1", "-t", &name]).await.ok();
    let real = disk.join("job");
    for (base, link) in
        [(&workspace, "out"), (&real, "out"), (&workspace, "own/out"), (&workspace, "own/../out")]
    {
        let file = base.join(link).join("x");
        let at = path(&file);
        for flags in [
            &["build", &format!("--output=type=tar,dest={at}"), path(&workspace)][..],
            &["build", &format!("--output=type=docker,dest={at}"), path(&workspace)],
            &["build", &format!("--output=type=local,dest={at}"), path(&workspace)],
            &["build", "--iidfile", at, path(&workspace)],
            &["build", "--metadata-file", at, path(&workspace)],
            &["push", "--metadata-file", at, &name],
            &["save", "-o", at, "app:1"],
        ] {
            job.run(flags).await.ended(2).says(&["is a link", "name the directory to which it leads"]);
        }
    }
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
    assert_eq!(fs::read(victim.join("x")).unwrap(), b"keep");
    // The machine's links are followed, also that on the way to the workspace.
    std::os::unix::fs::symlink(&victim, node.join("tmp")).unwrap();
    for directory in [workspace.join("own"), real.join("own"), node.join("tmp")] {
        let at = |name: &str| directory.join(name).display().to_string();
        let outputs = [format!("type=tar,dest={}", at("tar")), format!("type=local,dest={}", at("tree"))];
        let [tar, tree] = outputs.each_ref().map(String::as_str);
        let (id, facts) = (at("id"), at("facts"));
        job.build(
            &workspace,
            &["-o", tar, "-o", tree, "--load", "--iidfile", &id, "--metadata-file", &facts],
        )
        .await
        .ok();
        job.run(["save", "-o", &at("saved"), "app:1"]).await.ok();
        for name in ["tar", "tree/f", "id", "facts", "saved"] {
            assert!(directory.join(name).symlink_metadata().unwrap().is_file(), "{name}");
        }
    }
}

/// A thread that writes a tree does not see the signal.
async fn a_signal_leaves_no_half_file(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let base = test.base(&registry).await;
    let step = "RUN dd if=/dev/zero of=/large bs=1M count=1 seek=400 2>/dev/null";
    let context = test.context("context", &[("Dockerfile", &format!("FROM {base}\n{step}\n"))]);
    let out = test.new_dir("out");
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let build = job.start(["build", "--progress=plain", "-o", path(&out), path(&context)]);
        let halves = || {
            let names = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter(|name| name.as_encoded_bytes().starts_with(b".wharf-")).count()
        };
        wait_for("a file that is being written", async || (halves() > 0).then_some(())).await;
        build.signal(signal);
        let _ = build.wait(PATIENCE).await;
        assert_eq!(halves(), 0, "{signal:?} {:?}", build.lines());
    }
}

/// As a user who is not root: a directory's mode shuts root out of nothing.
async fn shut_directories_of_an_earlier_build_are_written_again(test: Arc<Test>) {
    let serve = "[[serve]]\nuid = 1234\nnamespaces = \"*\"\n[[serve]]\nuid = 0\nnamespaces = \"*\"\n";
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd_with(Some(serve), &[]));
    let base = test.base(&registry).await;
    let out = test.new_dir("out");
    chown(&out, Some(1234), Some(1234)).unwrap();
    let job = Wharf::new(&test, &wharfd, "job#1").as_uid(1234);
    let build = async |name: &str, step: &str| {
        let dockerfile = format!(
            "FROM {base} AS made\nRUN mkdir /out && cd /out && {step}\nFROM scratch\nCOPY --from=made /out /\n"
        );
        let context = test.context(name, &[("Dockerfile", &dockerfile)]);
        job.build(&context, &["-o", path(&out)]).await.ok();
    };
    let shut = "mkdir -p none/d read gone/d/e && echo a > none/d/f && echo a > read/f && echo a > gone/d/e/f && \
                chmod 0 none/d none gone/d/e gone/d gone && chmod 555 read";
    build("first", shut).await;
    assert_eq!(fs::metadata(out.join("none")).unwrap().permissions().mode() & 0o7777, 0);
    build("again", &format!("{shut} && : again")).await;
    // A file takes the place of a directory that nobody can enter.
    build("second", "mkdir -p none/d read && echo b > none/d/g && echo b > read/f && echo b > gone").await;
    for (file, content) in [("none/d/f", "a\n"), ("none/d/g", "b\n"), ("read/f", "b\n"), ("gone", "b\n")] {
        assert_eq!(fs::read_to_string(out.join(file)).unwrap(), content, "{file}");
    }
    assert_eq!(fs::metadata(out.join("none")).unwrap().permissions().mode() & 0o7777, 0o755);
}
