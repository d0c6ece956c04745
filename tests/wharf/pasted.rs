//! Builds copied from elsewhere, which rely on docker's implicit behaviour.

use std::sync::Arc;

use crate::{
    harness::{Test, Wharf, cases, process::Output},
    shapes::{IMAGES, LINES, NEWER},
};

cases![
    missing_ssh_agents,
    the_time_of_reproducible_images,
    command_lines_that_people_paste,
    dockerfiles_that_people_write
];

async fn missing_ssh_agents(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let step = "test ! -e \"$SSH_AUTH_SOCK\" && test ! -e /agent && echo ran > /ran";
    let optional = format!(
        "FROM {base}\nRUN --mount=type=ssh {step}\nRUN --mount=type=ssh,id=key,target=/agent {step}\n"
    );
    let id = job.build_id(test.context("optional", &[("Dockerfile", &optional)]), &[]).await;
    assert_eq!(test.engine.text(&id, "/ran").await, "ran\n");
    let required = format!("FROM {base}\nRUN --mount=type=ssh,required=true {step}\n");
    let context = test.context("required", &[("Dockerfile", &required)]);
    job.build(&context, &[]).await.ended(3).says(&["SSH agent", "hint: ", "required=true"]);
}

async fn the_time_of_reproducible_images(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let dockerfile =
        format!("FROM {base}\nARG SOURCE_DATE_EPOCH\nRUN echo \"$SOURCE_DATE_EPOCH\" > /epoch\nLABEL a=b\n");
    let context = test.context("context", &[("Dockerfile", &dockerfile)]);
    let built = async |variable: Option<&str>, flags: &[&str]| {
        let mut command = job.command(["build", "--quiet", "--no-cache"].iter().chain(flags));
        command.arg(&context);
        if let Some(value) = variable {
            command.env("SOURCE_DATE_EPOCH", value);
        }
        let id = Output::of(command, b"", crate::harness::PATIENCE).await.ok().stdout.trim().to_owned();
        let image = test.engine.inspect(&id).await.unwrap();
        let created = image["Created"].as_str().unwrap().split('.').next().unwrap().to_owned();
        (test.engine.text(&id, "/epoch").await.trim().to_owned(), created.trim_end_matches('Z').to_owned())
    };
    let at = |epoch: &str, created: &str| (epoch.to_owned(), created.to_owned());
    let (flag, bare) = ("--build-arg=SOURCE_DATE_EPOCH=1600000000", "--build-arg=SOURCE_DATE_EPOCH");
    assert_eq!(built(Some("1700000000"), &[]).await, at("1700000000", "2023-11-14T22:13:20"));
    assert_eq!(built(Some("1700000000"), &[flag]).await, at("1600000000", "2020-09-13T12:26:40"));
    assert_eq!(built(Some("1700000000"), &[bare]).await, at("1700000000", "2023-11-14T22:13:20"));
    // An empty variable has no effect.
    for variable in [None, Some("")] {
        let (epoch, created) = built(variable, &[]).await;
        assert!(epoch.is_empty() && *created > *"2026", "{epoch} {created}");
    }
}

/// Flags and spellings that buildx accepts, one after the other.
async fn command_lines_that_people_paste(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = test.context("context", &[("Dockerfile", "FROM scratch AS first\nENV A=1\n")]);
    let (here, others) = match std::env::consts::ARCH {
        "x86_64" => (["amd64", "x86_64", "X86-64"], "arm64"),
        _ => (["arm64", "aarch64", "AArch64"], "amd64"),
    };
    let [plain, alias, odd] = here;
    let (linux, upper) = (format!("--platform=linux/{plain}"), format!("--platform=Linux/{odd}"));
    let twice = format!("--platform=linux/{plain},linux/{alias}");
    for flags in [
        &["--rm", "--force-rm=false", "--compress"][..],
        &["--no-cache=true", "--pull=false", "--no-cache"],
        &["--progress=plain", "--progress=auto"],
        &["--target", "second", "--target=first"],
        &["--platform", alias],
        &["--platform=local", "--load=true"],
        &[&linux],
        &[&upper],
        &["--add-host", "one:10.0.0.1,two:10.0.0.2"],
    ] {
        job.build(&context, flags).await.ok();
    }
    let missed = job.build(&context, &["--squash", "-m", "1g"]).await.ok();
    missed.says(&["WARN: `--squash` has no effect", "WARN: `--memory` has no effect"]);
    // The classic store takes no list, even of equal platforms, as buildx says of it.
    let list = job.build(&context, &[&linux, &twice]).await;
    if test.engine.is_containerd() {
        list.ok();
    } else {
        list.ended(3).says(&["a list of platforms", "name the platform once"]);
    }
    job.build(&context, &[&format!("{linux},linux/{others}")]).await.ended(2).says(&["several platforms"]);
    job.build(&context, &["--push"]).await.ended(2).says(&["`--push` needs a name", "`--tag`"]);
    job.build(&context, &["--push=false"]).await.ok();
}

/// The builder reads each to its end before it looks for the stage, and asks for no image.
async fn dockerfiles_that_people_write(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let newer = if test.engine.is_containerd() { NEWER } else { &[] };
    for (shape, dockerfile) in IMAGES.iter().chain(LINES).chain(newer) {
        let context = test.context("context", &[("Dockerfile", dockerfile)]);
        let built = job.build(&context, &["--target", "no-such-stage"]).await;
        assert!(
            built.stderr.contains("target stage \"no-such-stage\" could not be found"),
            "{shape}: {built}"
        );
    }
}
