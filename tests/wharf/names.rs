//! Names: a job's images belong to the job, whatever names others use.

use std::{collections::BTreeSet, sync::Arc};

use wharf::names::Namespace;

use crate::harness::{
    Test, Wharf, cases,
    image::{File, tar},
    process::shell_status,
    relay::Relay,
    wait_for,
};

cases![
    an_earlier_image_is_a_base,
    two_namespaces_never_meet,
    ids_are_owned,
    a_namespace_ends,
    a_base_goes_with_its_last_namespace,
    namespaces_that_end_leave_others_their_base,
    an_image_that_a_container_uses_stays,
    images_are_listed_while_others_disappear,
    callers_stay_in_their_namespaces,
    a_namespace_is_ended_by_the_name_that_is_listed,
];

async fn an_earlier_image_is_a_base(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let first = test.context("first", &[("Dockerfile", &format!("FROM {base}\nRUN echo one > /one\n"))]);
    let mine = registry.name("mine:1");
    let second = format!(
        "ARG NAME=mine\nFROM {}/${{NAME}}:1 AS from\nRUN echo two > /two\n\
         FROM from\nCOPY --from={mine} /one /copied\n\
         RUN --mount=from={mine},target=/m cat /m/one /two /copied > /all\n",
        registry.host()
    );
    let second = test.context("second", &[("Dockerfile", &second)]);
    let job = Wharf::new(&test, &wharfd, "acme/app#1");
    job.build_id(&first, &["-t", &mine]).await;
    let id = job.build_id(&second, &[]).await;
    assert_eq!(test.engine.text(&id, "/all").await, "one\ntwo\none\n");

    // Another run of the job does not have this image.
    job.in_namespace("acme/app#2").build(&second, &[]).await.ended(6).says(&["mine:1"]);
}

async fn two_namespaces_never_meet(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let jobs = ["acme/app#1", "acme/app#2", "other#1"].map(|name| Wharf::new(&test, &wharfd, name));
    let mut ids = Vec::new();
    for (index, job) in jobs.iter().enumerate() {
        let dockerfile = format!("FROM {base}\nRUN echo {index} > /whose\n");
        let context = test.context(&format!("context{index}"), &[("Dockerfile", &dockerfile)]);
        ids.push(job.build_id(&context, &["-t", "app:1"]).await);
    }
    for (index, job) in jobs.iter().enumerate() {
        assert_eq!(job.images().await, [("app:1".to_owned(), ids[index].clone())]);
        let described = job.inspect("app:1").await;
        assert_eq!(described["Id"], ids[index].as_str(), "{described}");
        let text = described.to_string();
        assert!(!text.contains("wharf.invalid"), "a private name leaks: {text}");
        assert_eq!(test.engine.text(&ids[index], "/whose").await, format!("{index}\n"));
    }
    let [one, two, three] = &jobs;

    two.run(["tag", "app:1", "app:2"]).await.ok();
    one.run(["inspect", "app:2"]).await.ended(6).says(&["app:2"]);
    two.run(["inspect", "app:2"]).await.ok();

    let removed = one.run(["rmi", "app:1"]).await.ok().stdout;
    assert!(removed.contains("Untagged: app:1"), "{removed}");
    assert_eq!(one.images().await, []);
    one.run(["rmi", "app:1"]).await.ended(6);
    one.run(["push", &registry.name("app:1")]).await.ended(6);
    let mut left = two.images().await;
    left.sort();
    let both = [("app:1".to_owned(), ids[1].clone()), ("app:2".to_owned(), ids[1].clone())];
    assert_eq!(left, both);
    assert_eq!(three.images().await, [("app:1".to_owned(), ids[2].clone())]);
}

async fn ids_are_owned(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let context =
        test.context("context", &[("Dockerfile", &format!("FROM {base}\nRUN echo mine > /mine\n"))]);
    let (owner, other) = (Wharf::new(&test, &wharfd, "a#1"), Wharf::new(&test, &wharfd, "b#1"));
    let id = owner.build_id(&context, &["-t", "app:1"]).await;
    owner.run(["inspect", &id]).await.ok();
    owner.run(["tag", &id, "app:2"]).await.ok();
    for command in [&["inspect", &id][..], &["rmi", &id], &["rmi", "--force", &id], &["tag", &id, "stolen:1"]]
    {
        other.run(command).await.ended(6);
    }
    let base_id = test.engine.id(&id).await;
    assert_eq!(base_id, id);
    assert_eq!(other.images().await, []);
    // The image has two names: as in docker, this needs --force.
    owner.run(["rmi", &id]).await.ended(2).says(&["--force"]);
    owner.run(["rmi", "--force", &id]).await.ok();
    assert_eq!(owner.images().await, []);
}

async fn a_namespace_ends(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let context = test.context("context", &[("Dockerfile", &format!("FROM {base}\nRUN echo x > /x\n"))]);
    let (one, two) = (Wharf::new(&test, &wharfd, "job#1"), Wharf::new(&test, &wharfd, "job#2"));
    one.build_id(&context, &["-t", "app:1", "-t", "app:latest"]).await;
    one.build_id(&context, &[]).await;
    let kept = two.build_id(&context, &["-t", "app:1"]).await;

    let ended = one.run(["namespace", "rm"]).await.ok().stdout;
    assert!(ended.contains("Untagged: app:1") && ended.contains("Untagged: app:latest"), "{ended}");
    assert!(!ended.contains("wharf.invalid"), "{ended}");
    assert_eq!(one.images().await, []);
    let keys = wharfd.keys();
    let left = |run: &str| {
        let names = keys.names(&Namespace::new("job", run).unwrap());
        let (engine, prefix) = (Arc::clone(&test.engine), names.prefix().to_owned());
        async move { engine.names_with_prefix(&prefix).await }
    };
    assert_eq!(left("1").await, Vec::<String>::new());
    assert!(!left("2").await.is_empty());
    assert_eq!(two.images().await, [("app:1".to_owned(), kept)]);

    // The call can be repeated, even for a namespace that never existed.
    one.run(["namespace", "rm"]).await.ok();
    one.run(["namespace", "rm", "never#1"]).await.ok();
    one.build_id(&context, &["-t", "app:1"]).await;
}

async fn a_base_goes_with_its_last_namespace(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let loaded = registry.name("loaded:1");
    let image = tar([("mark", File::Content(test.unique("loaded").as_bytes(), 0o644))]);
    test.engine.import(loaded.strip_suffix(":1").unwrap(), "1", image).await;
    let dockerfile = format!("FROM {base} AS base\nFROM {loaded}\nCOPY --from=base /mark /copy\n");
    let context = test.context("context", &[("Dockerfile", &dockerfile)]);
    let rooms = async || {
        let names = test.engine.names_with_prefix(&wharfd.prefix()).await;
        let room = |name: &String| name.split('/').nth(2).unwrap().to_owned();
        names.iter().filter(|name| !name.contains('@')).map(room).collect::<BTreeSet<_>>()
    };
    let both = BTreeSet::from(["hold".to_owned(), "node".to_owned()]);
    let (one, two) = (Wharf::new(&test, &wharfd, "job#1"), Wharf::new(&test, &wharfd, "job#2"));
    one.build_id(&context, &["-t", "app:1"]).await;
    two.build_id(&context, &["-t", "app:1"]).await;
    one.run(["namespace", "rm"]).await.ok();
    assert!(rooms().await.is_superset(&both), "the other run's bases have gone");
    two.run(["namespace", "rm"]).await.ok();
    assert_eq!(rooms().await, BTreeSet::new());
    assert!(test.engine.inspect(&loaded).await.is_some(), "the operator's image has gone");

    // A hold that belongs to no known namespace is removed at the next start.
    one.build_id(&context, &[]).await;
    wharfd.terminate().await;
    std::fs::remove_file(wharfd.state_dir().join("wharf.sqlite")).unwrap();
    wharfd.start().await;
    assert!(rooms().await.is_disjoint(&both), "{:?}", rooms().await);
    one.build_id(&context, &[]).await;
    // A known hold stays.
    wharfd.terminate().await;
    wharfd.start().await;
    assert!(rooms().await.is_superset(&both));
    test.engine.remove_image(&loaded).await;
}

/// A listing fails if one of the images disappears during it. It is retried, but not for ever.
async fn images_are_listed_while_others_disappear(test: Arc<Test>) {
    let registry = test.registry().await;
    let base = test.base(&registry).await;
    let context = test.context("context", &[("Dockerfile", &format!("FROM {base}\n"))]);
    let pushed = registry.name("pushed:1");
    for (losses, status) in [(10, 0), (1000, 1)] {
        let relay = Relay::start(&test);
        let wharfd = test.wharfd_with(None, &["--engine", &relay.address()]).await;
        let job = Wharf::new(&test, &wharfd, "job#1");
        let id = job.build_id(&context, &["-t", "app:1"]).await;
        relay.lose_listings(losses);
        let listed = job.run(["images"]).await.ended(status);
        assert_eq!(listed.stdout.contains("app"), status == 0, "{}", listed.stdout);
        // A look-up by name, or by a whole id, lists nothing.
        let short = id.strip_prefix("sha256:").unwrap().split_at(12).0;
        for command in [
            &["inspect", "app:1"][..],
            &["inspect", &id],
            &["inspect", short],
            &["tag", "app:1", &pushed],
            &["push", &pushed],
        ] {
            job.run(command).await.ok();
        }
        // Nor does one by what may be the beginning of an id.
        for wrong in ["c", "caf", "sha256:caf", "cafe", "0123456789ab"] {
            job.run(["inspect", wrong]).await.ended(6).says(&["no such image", "4 digits or more"]);
        }
        job.in_namespace("job#2").run(["inspect", short]).await.ended(6).says(&["no such image"]);
        job.build_id(&context, &["--push", "-t", &pushed]).await;
        job.run(["rmi", &pushed]).await.ok();
        relay.lose_listings(0);
        assert_eq!(job.images().await, [("app:1".to_owned(), id)]);
        job.run(["namespace", "rm"]).await.ok();
        assert_eq!(wharfd.terminate().await, 0);
        relay.stop().await;
    }
}

/// One run ends while another begins with the same base: the second waits until the first one's hold is gone,
/// and then has its own.
async fn namespaces_that_end_leave_others_their_base(test: Arc<Test>) {
    let relay = Relay::start(&test);
    let registry = test.registry().await;
    let wharfd = test.wharfd_with(None, &["--engine", &relay.address()]).await;
    let base = test.base(&registry).await;
    let context =
        test.context("context", &[("Dockerfile", &format!("FROM {base}\nRUN cat /mark > /copy\n"))]);
    let [one, two] = ["one#1", "two#1"].map(|name| Wharf::new(&test, &wharfd, name));
    one.build_id(&context, &["-t", "app:1"]).await;
    relay.hold(&["DELETE ", "hold"], 0);
    let ending = one.start(["namespace", "rm"]);
    ending.while_running("the hold to be removed", async || relay.holds().then_some(())).await;
    let before = registry.mark().await;
    let building = two.start(["build", "-q", context.to_str().unwrap()]);
    building
        .while_running("the base to be asked for", async || {
            let asked = registry.requests_since(&before).await;
            asked.iter().any(|request| request.contains("/manifests/")).then_some(())
        })
        .await;
    // A build that did not wait would have seen the first one's hold by the time of so many answers.
    for _ in 0..10 {
        assert_eq!(two.images().await, []);
    }
    relay.let_go();
    for (what, process) in [("the end", ending), ("the build", building)] {
        let ended = wait_for(what, async || process.ended().await).await;
        assert_eq!(shell_status(ended), 0, "{:?}", process.lines());
    }
    let holds = test.engine.names_with_prefix(&format!("{}hold/", wharfd.prefix())).await;
    assert!(!holds.is_empty(), "the second run has lost its base");
    two.run(["namespace", "rm"]).await.ok();
    assert_eq!(test.engine.names_with_prefix(&wharfd.prefix()).await, Vec::<String>::new());
}

/// A container that somebody else has made keeps its image.
async fn an_image_that_a_container_uses_stays(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let content = test.unique("used");
    let context =
        test.context("context", &[("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", &content)]);
    let job = Wharf::new(&test, &wharfd, "job#1");
    let other = async |name: &str| {
        let context = test.context(name, &[("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", name)]);
        job.build_id(&context, &["-t", &format!("{name}:1")]).await
    };
    other("older").await;
    let id = job.build_id(&context, &["-t", "app:1"]).await;
    let container = test.engine.create_container(&id).await;
    for command in [&["rmi", "app:1"][..], &["rmi", &id]] {
        job.run(command)
            .await
            .ended(2)
            .says(&["app:1 is in use by a container", "its owner has to remove it"]);
    }
    other("newer").await;
    job.run(["namespace", "rm"]).await.ended(2).says(&[
        "app:1 is in use by a container; everything else of the namespace is removed",
        "its owner has to remove it",
    ]);
    assert_eq!(job.images().await, [("app:1".to_owned(), id)]);
    test.engine.remove_container(&container).await;
    job.run(["namespace", "rm"]).await.ok();
    assert_eq!(job.images().await, []);
}

async fn callers_stay_in_their_namespaces(test: Arc<Test>) {
    let config = "[[serve]]\nuid = 1000\nnamespaces = \"acme/*\"\n";
    let wharfd = test.wharfd_with(Some(config), &[]).await;
    let registry = test.registry().await;
    let base = test.base(&registry).await;
    let context = test.context("context", &[("Dockerfile", &format!("FROM {base}\n"))]);
    let root = Wharf::new(&test, &wharfd, "other/app#1");
    root.build_id(&context, &["-t", "app:1"]).await;

    let served = root.as_uid(1000);
    for command in [
        &["build", context.to_str().unwrap()][..],
        &["images"],
        &["inspect", "app:1"],
        &["rmi", "app:1"],
        &["tag", "app:1", "b:1"],
        &["push", "app:1"],
        &["pull", &base],
        &["namespace", "rm"],
    ] {
        served.run(command).await.ended(3).says(&["other/app#1", "acme/*"]);
    }
    let own = served.in_namespace("acme/app#1");
    own.build_id(&context, &["-t", "app:1"]).await;
    assert_eq!(own.images().await.len(), 1);
    let info = own.run(["info"]).await.ok().stdout;
    assert!(info.contains("uid 1000"), "{info}");

    // A name that only begins like the pattern's.
    served.in_namespace("acmes/app#1").run(["images"]).await.ended(3);
    let stranger = own.as_uid(1001);
    for command in [&["images"][..], &["info"], &["build", context.to_str().unwrap()], &["namespace", "rm"]] {
        stranger.run(command).await.ended(3).says(&["uid 1001"]);
    }
    assert_eq!(root.images().await.len(), 1);
}

/// Names of jobs with characters that nobody sees: as the scripts and emoji of people need them, and as an attacker may.
async fn a_namespace_is_ended_by_the_name_that_is_listed(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let names = [
        "acme/👩\u{200d}💻#1",
        "acme/👩💻#1",
        "می\u{200c}رود#1",
        "میرود#1",
        "a\u{202e}b#1",
        "ab#1",
        "ab#1\u{fe0f}",
        "ab #1",
        "ab\u{a0}#1",
    ];
    let jobs = names.map(|name| Wharf::new(&test, &wharfd, name));
    for job in &jobs {
        job.build_id(&context, &["-t", "app:1"]).await;
    }
    let listed = jobs[0].run(["namespace", "ls", "-q"]).await.ok().stdout;
    let shown: BTreeSet<&str> = listed.lines().collect();
    assert_eq!(shown.len(), names.len(), "{listed}");
    let of_these = |c: char| "\u{200c}\u{200d}\u{202e}\u{a0}\u{fe0f}".contains(c);
    assert!(!listed.contains(of_these), "{listed:?}");
    for (left, name) in shown.iter().enumerate() {
        let described = jobs[0].without_namespace().run(["namespace", "inspect", name]).await.ok();
        assert!(described.stdout.contains("app:1"), "{described}");
        let removed = jobs[0].without_namespace().run(["namespace", "rm", name]).await.ok();
        assert!(removed.stdout.contains(&format!("Deleted: {name}\n")), "{removed}");
        let images = test.engine.names_with_prefix(&wharfd.prefix()).await;
        let tags = images.iter().filter(|name| !name.contains('@'));
        assert_eq!(tags.count(), names.len() - left - 1, "{images:?}");
    }
}
