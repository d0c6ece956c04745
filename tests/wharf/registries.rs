//! Registries: pushes, pulls and bases with the right credentials, with wrong ones and with none.

use std::sync::Arc;

use serde_json::Value;

use crate::harness::{
    Image, Registry, Test, Wharf, cases,
    image::{File, tar},
};

cases![
    push_and_pull,
    a_push_needs_credentials,
    several_names_are_pushed,
    a_pushed_image_is_found_by_its_digest,
    a_private_base_needs_credentials,
    a_tag_stays_what_it_was,
    an_operators_tag_survives,
    an_operators_image_is_a_base,
    an_operators_image_survives_a_jobs_push_and_pull,
    an_image_that_a_job_has_pushed_is_not_the_operators,
    a_removed_base_can_be_fetched_again,
];

const USER: &str = "builder";
const PASSWORD: &str = "correct horse";

fn metadata(job: &Wharf) -> Value {
    serde_json::from_slice(&std::fs::read(job.home().join("metadata")).unwrap()).unwrap()
}

/// A context whose image is unique to the test, and needs no base.
fn from_scratch(test: &Test, name: &str) -> std::path::PathBuf {
    let content = test.unique(name);
    test.context(name, &[("Dockerfile", "FROM scratch\nCOPY file /file\n"), ("file", &content)])
}

/// The digest of the config that a registry serves under a tag.
async fn served_config(registry: &Registry, repository: &str, tag: &str) -> String {
    let manifest = registry.manifest(repository, tag).await;
    manifest["config"]["digest"].as_str().unwrap_or_else(|| panic!("no image: {manifest}")).to_owned()
}

async fn push_and_pull(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = from_scratch(&test, "app");
    let (one, two) = (registry.name("team/app:1"), registry.name("team/app:two"));
    // No registry listens at this address.
    let flags = ["-t", &one, "-t", "localhost:1/local:1", "--metadata-file", "metadata", "--iidfile", "id"];
    let half = job.build(&context, &[&flags[..], &["--push"]].concat()).await;
    half.ended(5).says(&["localhost:1", "connection refused"]);

    let flags = ["-t", &one, "--push", "--metadata-file", "metadata", "--iidfile", "id"];
    job.build(&context, &flags).await.ok();
    let digest = registry.digest("team/app", "1").await.unwrap();
    assert_eq!(metadata(&job)["containerimage.digest"], digest.as_str());
    assert_eq!(metadata(&job)["image.name"], one.as_str());
    let config = served_config(&registry, "team/app", "1").await;
    assert_eq!(metadata(&job)["containerimage.config.digest"], config.as_str());
    let id = std::fs::read_to_string(job.home().join("id")).unwrap();

    job.run(["tag", &one, &two]).await.ok();
    job.run(["push", &two, "--metadata-file", "metadata"]).await.ok();
    assert_eq!(registry.digest("team/app", "two").await, Some(digest.clone()));
    assert_eq!(metadata(&job)["containerimage.digest"], digest.as_str());
    assert!(job.run(["push", &two]).await.ok().stdout.contains(&digest));

    let other = job.in_namespace("other#1");
    other.run(["inspect", &one]).await.ended(6);
    let pulled = other.run(["pull", &one]).await.ok().stdout;
    assert!(pulled.contains(&format!("Digest: {digest}")), "{pulled}");
    let listed = other.images().await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0].0, one);
    if test.engine.is_containerd() {
        assert_eq!(listed[0].1, digest);
    } else {
        assert_eq!(listed[0].1, id);
    }
    other.run(["pull", &registry.name("team/none:1")]).await.ended(6).says(&["team/none:1"]);
    assert_eq!(test.engine.names_with_prefix(registry.host()).await, Vec::<String>::new());
}

async fn a_push_needs_credentials(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.private_registry(USER, PASSWORD), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = from_scratch(&test, "app");
    let name = registry.name("app:1");
    let id = job.build_id(&context, &["-t", &name]).await;
    for login in [None, Some((USER, "wrong")), Some(("nobody", PASSWORD))] {
        job.login(&registry, login);
        job.run(["push", &name]).await.ended(3).says(&[registry.host()]);
        job.build(&context, &["-t", &name, "--push"]).await.ended(3).says(&[registry.host()]);
        assert_eq!(registry.digest("app", "1").await, None);
    }
    job.login(&registry, Some((USER, PASSWORD)));
    job.run(["push", &name]).await.ok();
    let first = registry.digest("app", "1").await.unwrap();
    job.build(&context, &["-t", &registry.name("app:2"), "--push"]).await.ok();
    assert_eq!(registry.digest("app", "2").await, Some(first));

    // A pull needs the same proof.
    let other = job.in_namespace("other#1");
    other.run(["pull", &name]).await.ok();
    other.login(&registry, Some((USER, "wrong")));
    let third = job.in_namespace("third#1");
    third.run(["pull", &name]).await.ended(3).says(&[registry.host()]);
    assert_eq!(third.images().await, []);
    assert!(!wharfd.log().join("\n").contains(PASSWORD), "the log has the password");
    assert_eq!(test.engine.id(&id).await, id);
}

async fn several_names_are_pushed(test: Arc<Test>) {
    let (open, private, wharfd) =
        tokio::join!(test.registry(), test.private_registry("user", "hunter2"), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = from_scratch(&test, "several");
    let names = [open.name("a:1"), private.name("b:1"), open.name("c:1")];
    let tags: Vec<_> = names.iter().flat_map(|name| ["-t", name]).collect();
    let id = job.build_id(&context, &tags).await;
    let file = job.home().join("metadata");
    let push =
        [&["push", "-q", "--metadata-file", "metadata"], &names.each_ref().map(String::as_str)[..]].concat();
    // A name that is refused ends the push: the name before it stays, and the next one is not pushed.
    let ended = job.run(&push).await.ended(3);
    assert_eq!(ended.stdout.trim(), names[0]);
    assert!(open.digest("a", "1").await.is_some() && open.digest("c", "1").await.is_none());
    assert!(!file.exists());

    // The login of a block is for its registry, and a flag goes before it.
    let block = format!("other.example=NAME:WORD {}=NAME:WORD", private.host());
    let block = job
        .with_variable("WHARF_LOGIN", &block)
        .with_variable("NAME", "user")
        .with_variable("WORD", "hunter2");
    let flag = format!("{}=NAME:HOME", private.host());
    block.run(["push", "--login", &flag, &names[1]]).await.ended(3);
    block.with_variable("WORD", "").run(&push).await.ended(2).says(&["WHARF_LOGIN", "WORD is not set"]);
    let pushed = block.run(&push).await.ok();
    assert_eq!(pushed.stdout.lines().collect::<Vec<_>>(), names);
    let told = metadata(&block);
    for ((told, name), registry) in told.as_array().unwrap().iter().zip(&names).zip([&open, &private, &open])
    {
        let (repository, _) = name.split_once('/').unwrap().1.split_once(':').unwrap();
        let digest = registry.digest(repository, "1").await.unwrap();
        assert_eq!(told["wharf.image.id"], *id);
        assert_eq!(told["image.name"], **name);
        assert_eq!(told["wharf.image.ref"], format!("{}/{repository}@{digest}", registry.host()));
        assert_eq!(told["containerimage.digest"], digest);
    }
    let shown = block.run(["push", &names[0], &names[1]]).await.ok();
    assert!(shown.stdout.lines().all(|line| line.contains(":1: digest: sha256:")), "{shown}");
    for output in [&ended, &pushed, &shown] {
        assert!(![&output.stdout, &output.stderr].iter().any(|text| text.contains("hunter2")), "{output}");
    }
}

async fn a_pushed_image_is_found_by_its_digest(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let (app, by_build) = (registry.name("team/app:1"), registry.name("team/by-build:1"));
    let first = job.build_id(&from_scratch(&test, "first"), &["-t", &app]).await;
    let pushed = job.run(["push", &app, "--metadata-file", "metadata"]).await.ok();
    assert!(pushed.stdout.contains("digest: sha256:"), "{}", pushed.stdout);
    let pinned = metadata(&job)["wharf.image.ref"].as_str().unwrap().to_owned();
    let flags = ["-t", &by_build, "--push", "--metadata-file", "metadata"];
    let other = job.build_id(&from_scratch(&test, "other"), &flags).await;
    let pinned_by_build = metadata(&job)["wharf.image.ref"].as_str().unwrap().to_owned();

    // Later builds take the tags.
    let later = job.build_id(&from_scratch(&test, "later"), &["-t", &app, "-t", &by_build]).await;
    for (pinned, id, promoted) in [(&pinned, &first, "app:good"), (&pinned_by_build, &other, "other:good")] {
        assert_eq!(&job.inspect(pinned).await["Id"], id, "{pinned}");
        assert_eq!(job.inspect(pinned).await["RepoDigests"], serde_json::json!([pinned]));
        let promoted = registry.name(promoted);
        job.run(["tag", pinned, &promoted]).await.ok();
        job.run(["push", &promoted]).await.ok();
        let (_, digest) = pinned.split_once('@').unwrap();
        let (repository, tag) = promoted.strip_prefix(registry.host()).unwrap()[1..].split_once(':').unwrap();
        assert_eq!(registry.digest(repository, tag).await.as_deref(), Some(digest), "{promoted}");
        // It is there already: the push changes nothing, and moves no tag.
        assert!(job.run(["push", pinned]).await.ok().stdout.contains(digest), "{pinned}");
        job.run(["save", "-o", "saved.tar", pinned]).await.ok();
        let dockerfile = format!("FROM {pinned}\nLABEL on=pinned\n");
        let on_it = test.context(&format!("on-{tag}"), &[("Dockerfile", &dockerfile)]);
        job.build_id(&on_it, &["-t", "on:1"]).await;
        assert_eq!(job.inspect("on:1").await["RootFS"], job.inspect(pinned).await["RootFS"]);
    }
    assert_eq!(&job.inspect(&app).await["Id"], &later);
    let stranger = job.in_namespace("other#1");
    stranger.run(["inspect", &pinned]).await.ended(6);

    // As with docker, the digest goes with the last tag of its repository.
    job.run(["push", &app]).await.ok();
    let rows = job.run(["images", &app]).await.ok().stdout;
    assert_eq!(rows.lines().count(), 2, "a digest is no row beside a tag: {rows}");
    let removed = job.run(["rmi", &app]).await.ok().stdout;
    assert!(removed.contains(&format!("Untagged: {app}")) && removed.contains("@sha256:"), "{removed}");
    assert!(!removed.contains("Deleted"), "it has another tag: {removed}");
    let removed = job.run(["rmi", &by_build]).await.ok().stdout;
    assert!(removed.contains(&format!("Deleted: {later}")), "{removed}");
    job.run(["rmi", &first]).await.ended(2).says(&["references"]);
    job.run(["rmi", &pinned]).await.ok();
    job.run(["rmi", &registry.name("app:good")]).await.ok();
    job.run(["inspect", &first]).await.ended(6);
}

async fn a_private_base_needs_credentials(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.private_registry(USER, PASSWORD), test.wharfd());
    let digest = Image::base(&test.unique("private")).push(&registry, "base", "1").await;
    let base = registry.name("base:1");
    let pinned = format!("{}@{digest}", registry.name("base"));
    let builds = [&base, &pinned].map(|base| {
        let name = base.replace(['/', ':', '@'], "-");
        test.context(&name, &[("Dockerfile", &format!("FROM {base}\nRUN cat /mark > /copy\n"))])
    });

    let owner = Wharf::new(&test, &wharfd, "owner#1");
    owner.login(&registry, Some((USER, PASSWORD)));
    for context in &builds {
        owner.build_id(context, &[]).await;
    }
    // The operator has pulled the image, so the engine also has it under its public name.
    test.engine.pull(&base, registry.login()).await.ok();
    assert!(test.engine.inspect(&base).await.is_some());

    let other = Wharf::new(&test, &wharfd, "other#1");
    for login in [None, Some((USER, "wrong"))] {
        other.login(&registry, login);
        for context in &builds {
            for flags in [&[][..], &["--pull"], &["--no-cache"]] {
                other.build(context, flags).await.ended(3).says(&[registry.host()]);
            }
        }
        other.run(["pull", &base]).await.ended(3);
    }
    other.login(&registry, Some((USER, PASSWORD)));
    for context in &builds {
        other.build_id(context, &[]).await;
    }
    // The image belongs to the operator, and stays.
    assert!(test.engine.inspect(&base).await.is_some());
    test.engine.remove_image(&base).await;
    for name in test.engine.names_with_prefix(registry.host()).await {
        test.engine.remove_image(&name).await;
    }
}

async fn a_tag_stays_what_it_was(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let marks = [test.unique("one"), test.unique("two")];
    let base = registry.name("base:1");
    Image::base(&marks[0]).push(&registry, "base", "1").await;
    let context =
        test.context("context", &[("Dockerfile", &format!("FROM {base}\nRUN cat /mark > /copy\n"))]);
    let job = Wharf::new(&test, &wharfd, "job#1");
    let copy = async |job: &Wharf, flags: &[&str]| {
        let id = job.build_id(&context, flags).await;
        test.engine.text(&id, "/copy").await
    };
    assert_eq!(copy(&job, &[]).await, marks[0]);
    Image::base(&marks[1]).push(&registry, "base", "1").await;
    // A run sees the same image under a tag, unless it asks for a new one; the next run sees the new one.
    assert_eq!(copy(&job, &[]).await, marks[0]);
    assert_eq!(copy(&job.in_namespace("job#2"), &[]).await, marks[1]);
    assert_eq!(copy(&job, &["--pull"]).await, marks[1]);
}

async fn an_operators_tag_survives(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = from_scratch(&test, "app");
    let name = registry.name("app:1");
    let operators = tar([("operators", File::Content(test.unique("operator").as_bytes(), 0o644))]);
    let operators = test.engine.import(&registry.name("app"), "1", operators).await;

    job.build(&context, &["-t", &name, "--push", "--metadata-file", "metadata"]).await.ok();
    let pushed = registry.digest("app", "1").await.unwrap();
    assert_eq!(metadata(&job)["containerimage.digest"], pushed.as_str());
    assert_eq!(test.engine.id(&name).await, operators);
    job.run(["push", &name]).await.ok();
    assert_eq!(test.engine.id(&name).await, operators);

    // A failed push leaves it, too.
    registry.end().await;
    job.run(["push", &name]).await.ended(5).says(&[registry.host()]);
    assert_eq!(test.engine.id(&name).await, operators);
    test.engine.remove_image(&name).await;
}

async fn an_operators_image_is_a_base(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let content = test.unique("operator");
    let repository = registry.name("loaded");
    let loaded = tar([("operators", File::Content(content.as_bytes(), 0o644))]);
    let loaded = test.engine.import(&repository, "1", loaded).await;
    let dockerfile = format!("FROM {repository}:1\nCOPY Dockerfile /\n");
    let context = test.context("context", &[("Dockerfile", &dockerfile)]);
    let job = Wharf::new(&test, &wharfd, "job#1");
    let before = registry.mark().await;
    let id = job.build_id(&context, &[]).await;
    assert_eq!(test.engine.text(&id, "/operators").await, content);
    assert_eq!(registry.requests_since(&before).await, Vec::<String>::new());
    assert_eq!(test.engine.id(&format!("{repository}:1")).await, loaded);
    // Also in another run, although the store remembers the name that the first run used.
    job.in_namespace("job#2").build_id(&context, &[]).await;
    // The image has no digest from a registry.
    let pulled = job.run(["pull", &format!("{repository}:1")]).await.ok().stdout;
    assert_eq!(pulled, format!("{repository}:1\n"));
    test.engine.remove_image(&format!("{repository}:1")).await;
}

/// Otherwise a job could take the operator's image from others by pushing it and pulling it back: their builds
/// would ask a registry for its name, which may belong to anyone there.
async fn an_operators_image_survives_a_jobs_push_and_pull(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let content = test.unique("operator");
    let loaded = tar([("operators", File::Content(content.as_bytes(), 0o644))]);
    let repository = registry.name("loaded");
    let loaded = test.engine.import(&repository, "1", loaded).await;
    let name = format!("{repository}:1");
    let (thief, victim) = (Wharf::new(&test, &wharfd, "thief#1"), Wharf::new(&test, &wharfd, "victim#1"));
    let stolen = registry.name("stolen:1");
    thief.run(["pull", &name]).await.ok();
    thief.run(["tag", &name, &stolen]).await.ok();
    thief.run(["push", &stolen]).await.ok();
    thief.run(["pull", &stolen]).await.ok();
    assert!(thief.images().await.contains(&(stolen, loaded)), "it is not the same image");
    let context = test.context("context", &[("Dockerfile", &format!("FROM {name}\nCOPY Dockerfile /\n"))]);
    let id = victim.build_id(&context, &[]).await;
    assert_eq!(test.engine.text(&id, "/operators").await, content);
    test.engine.remove_image(&name).await;
}

/// The engine records the registry of a push as the image's origin. If the image counted as the operator's, all
/// jobs on the node could use it without the registry's consent.
async fn an_image_that_a_job_has_pushed_is_not_the_operators(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.private_registry("user", "secret"), test.wharfd());
    let (owner, other) = (Wharf::new(&test, &wharfd, "owner#1"), Wharf::new(&test, &wharfd, "other#1"));
    owner.login(&registry, Some(("user", "secret")));
    let name = registry.name("app:1");
    let secret = test.unique("secret");
    let context = test.context("app", &[("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", &secret)]);
    owner.build_id(&context, &["-t", &name, "--push"]).await;
    let login = ("user".to_owned(), "secret".to_owned());
    test.engine.pull(&name, Some(&login)).await.ok();
    assert!(test.engine.inspect(&name).await.is_some(), "the operator has pulled it");
    other.login(&registry, None);
    let theft = test.context("theft", &[("Dockerfile", &format!("FROM {name}\n"))]);
    let refused = other.build(&theft, &["-t", "stolen:1"]).await;
    assert_eq!(refused.status, 3, "{refused}");
    assert_eq!(other.images().await, []);
    test.engine.remove_image(&name).await;
}

/// The engine's builder keeps the unpacked layers of a removed base, and a later pull does not fetch them again.
/// The result must be complete nevertheless, even for a wharfd that has never seen the layers.
async fn a_removed_base_can_be_fetched_again(test: Arc<Test>) {
    let (registry, elsewhere, wharfd) = tokio::join!(test.registry(), test.registry(), test.wharfd());
    let mark = test.unique("base");
    Image::base(&mark).push(&registry, "base", "1").await;
    let dockerfile = format!("FROM {}\nRUN cat /mark > /copy\n", registry.name("base:1"));
    let context = test.context("context", &[("Dockerfile", &dockerfile)]);
    let first = Wharf::new(&test, &wharfd, "first#1");
    first.build(&context, &["-t", &registry.name("app:1"), "--push"]).await.ok();
    first.run(["namespace", "rm"]).await.ok();
    assert_eq!(test.engine.names_with_prefix(&wharfd.prefix()).await, Vec::<String>::new());

    let wharfd = test.wharfd().await;
    let second = Wharf::new(&test, &wharfd, "second#1");
    let app = elsewhere.name("app:1");
    let id = second.build_id(&context, &["-t", &app]).await;
    assert_eq!(test.engine.text(&id, "/copy").await, mark);
    second.run(["push", &app]).await.ok();
    second.run(["namespace", "rm"]).await.ok();
    let third = Wharf::new(&test, &wharfd, "third#1");
    third.run(["pull", &app]).await.ok();
}
