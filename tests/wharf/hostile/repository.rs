//! A pull request's files, against the agent that builds them: the agent's own files must not leak, and files
//! that the repository excludes from its images must stay excluded.

use std::{fs, os::unix::fs::symlink, sync::Arc};

use bollard_buildkit_proto::fsutil::types::{Packet, Stat, packet::PacketType};

use crate::harness::{
    PATIENCE, Test, Wharf, cases,
    process::Output,
    rpc,
    sender::{Sender, announced, end_of_list, file, sender},
};

cases![
    links_out_of_a_repository,
    a_link_in_place_of_the_current_directory,
    ignore_files_that_cannot_be_used,
    ignore_files_that_builds_go_on_without,
];

const SYMLINK: u32 = 1 << 27;

async fn links_out_of_a_repository(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let secret = test.unique("secret");
    let home = job.home().join("agent");
    fs::create_dir(&home).unwrap();
    // If a file is read as a Dockerfile, the error shows its lines.
    fs::write(home.join("config.json"), format!("{{\"auth\": \"{secret}\"}}\n")).unwrap();
    let context = test.context("context", &[("good", "FROM scratch\nENV A=1\n")]);
    let typed = home.join("config.json");
    job.build(&context, &["-f", typed.to_str().unwrap()]).await.ended(1).says(&[&secret]);

    symlink(&typed, context.join("Dockerfile")).unwrap();
    symlink(&home, context.join("docker")).unwrap();
    symlink("/proc/self/environ", context.join("environ")).unwrap();
    symlink(&typed, context.join("good.dockerignore")).unwrap();
    let cases = [
        ("Dockerfile", "Dockerfile"),
        ("docker/config.json", "docker"),
        ("environ", "environ"),
        ("good", "good.dockerignore"),
    ];
    for (file, link) in cases {
        let file = context.join(file);
        let refused = job.build(&context, &["-f", file.to_str().unwrap()]).await.ended(2);
        let refused = refused.says(&[context.join(link).to_str().unwrap(), "is a link that leads out of"]);
        assert!(!format!("{refused}").contains(&secret), "{refused}");
    }
    job.build(&context, &[]).await.ended(2).says(&["/Dockerfile", "is a link that leads out of"]);
    fs::remove_file(context.join("good.dockerignore")).unwrap();
    let file = context.join("good");
    job.build(&context, &["-f", file.to_str().unwrap()]).await.ok();
}

/// `cd cart`, or `dir('cart')` in a Jenkinsfile, has followed the link before `wharf` begins.
async fn a_link_in_place_of_the_current_directory(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let secret = test.unique("secret");
    let dockerfile = format!("FROM {base}\nCOPY . /c\nRUN cat /c/config.json\n");
    let files = [("Dockerfile", dockerfile.as_str()), ("services/pay/config.json", "the repository's own\n")];
    let workspace = test.context("workspace", &files);
    let job = Wharf::new(&test, &wharfd, "job#1").with_variable("WORKSPACE", workspace.to_str().unwrap());
    let home = job.home().join("agent");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("config.json"), format!("{secret}\n")).unwrap();
    symlink(&home, workspace.join("cart")).unwrap();
    symlink("services/pay", workspace.join("pay")).unwrap();
    let run = async |link: &str, told: bool, args: &[&str]| {
        let mut run = job.command(args);
        run.current_dir(workspace.join(link));
        if told {
            // As a shell does.
            run.env("PWD", workspace.join(link));
        }
        Output::of(run, b"", PATIENCE).await
    };
    let file = format!("--file={}", workspace.join("Dockerfile").display());
    let build = ["build", "--progress=plain", "--no-cache", &file, "."];
    // The attack works if nobody says how the directory was reached.
    run("cart", false, &build).await.ok().says(&[&secret]);

    let (link, all) = (workspace.join("cart"), workspace.to_str().unwrap());
    for args in [
        &build[..],
        &["build", "--iidfile=id", all],
        &["build", "--metadata-file=metadata", all],
        &["build", "--output=out", all],
        &["save", "--output=app.tar", "app:1"],
    ] {
        let refused = run("cart", true, args).await.ended(2);
        let refused = refused.says(&[link.to_str().unwrap(), "is a link that leads out of the workspace"]);
        assert!(!format!("{refused}").contains(&secret), "{refused}");
    }
    assert_eq!(fs::read_dir(&home).unwrap().count(), 1, "nothing was written there");
    run("pay", true, &build).await.ok().says(&["the repository's own"]);
}

async fn ignore_files_that_cannot_be_used(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let dockerfile = format!("FROM {base}\nCOPY . /c\nRUN ls -a /c > /list\n");
    let context =
        test.context("context", &[("Dockerfile", &dockerfile), ("key", ""), ("rules/all", "key\n")]);
    let shared = job.home().join("shared");
    fs::write(&shared, "key\n").unwrap();
    let ignore = context.join(".dockerignore");
    let listed = async |id: &str| test.engine.text(id, "/list").await;
    assert!(listed(&job.build_id(&context, &[]).await).await.contains("key"));

    // Nobody else can read the file, not even this job, which is not root.
    fs::write(&ignore, "key\n").unwrap();
    fs::set_permissions(&ignore, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let other = job.as_uid(1001);
    other.build(&context, &[]).await.ended(2).says(&[ignore.to_str().unwrap(), "Permission denied"]);
    fs::remove_file(&ignore).unwrap();
    for target in [shared.to_str().unwrap(), "absent", "rules"] {
        symlink(target, &ignore).unwrap();
        job.build(&context, &[]).await.ended(2).says(&[ignore.to_str().unwrap()]);
        fs::remove_file(&ignore).unwrap();
    }
    // A link that stays inside the context is followed, even if BuildKit would not find its target.
    for target in ["rules/all", context.join("rules/all").to_str().unwrap()] {
        symlink(target, &ignore).unwrap();
        assert!(!listed(&job.build_id(&context, &[]).await).await.contains("key"), "{target}");
        fs::remove_file(&ignore).unwrap();
    }
}

/// Other clients may send such files; BuildKit would go on without the ignore file.
async fn ignore_files_that_builds_go_on_without(test: Arc<Test>) {
    let link = Stat { mode: SYMLINK | 0o777, linkname: "../shared".to_owned(), ..file(".dockerignore") };
    let failed = Packet {
        r#type: PacketType::PacketErr.into(),
        data: b"open .dockerignore: permission denied".into(),
        ..Packet::default()
    };
    let copying = |context| Sender { text: "FROM scratch\nCOPY key /\n", ..sender(context) };
    let wharfd = test.wharfd().await;
    let channel = rpc::connect(&wharfd.socket()).await;
    let cases = [
        (
            vec![announced(link), announced(file("key")), end_of_list()],
            "`.dockerignore` exists but cannot be read",
        ),
        (vec![failed], "open .dockerignore: permission denied"),
    ];
    let with_link = copying(cases[0].0.clone());
    with_link.build_on_bare_engine(&test, &test.engine).await.unwrap();
    for (context, reason) in cases {
        let sender = copying(context);
        // BuildKit ends such a build in one of several ways, and sometimes with an image.
        for _ in 0..10 {
            let refused = sender.build(&test, &channel, "job#1").await;
            let failure = refused.failure.as_ref().unwrap_or_else(|| panic!("{refused:?}"));
            assert!(failure.message.contains(reason), "{failure:?}");
        }
    }
}
