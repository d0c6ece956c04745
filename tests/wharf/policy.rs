//! Policies: what an entry allows, and what it refuses however it is asked for.

use std::{path::PathBuf, sync::Arc};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{
    Image, PATIENCE, Registry, Test, Wharf, Wharfd, cases,
    image::{File, tar},
    process::shell_status,
    wait_for,
};

cases![
    a_base_that_is_not_named_is_refused_however_it_is_used,
    what_is_remembered_of_an_image_opens_it_to_nobody,
    a_push_that_is_not_named_is_refused_before_the_build,
    an_image_on_the_node_is_for_the_jobs_that_name_it,
    a_url_is_fetched_only_from_a_host_that_is_named,
    a_step_has_only_a_network_that_is_named,
    a_job_without_a_policy_reaches_nothing,
    a_hangup_reads_the_policies_again,
];

/// A policy for the jobs that match `jobs`.
pub(crate) fn policy(name: &str, jobs: &str, keys: &str) -> String {
    format!("[[policy]]\nname = \"{name}\"\njobs = [\"{jobs}\"]\n{keys}\n")
}

pub(crate) fn dockerfile(test: &Test, name: &str, text: &str) -> PathBuf {
    test.context(name, &[("Dockerfile", text)])
}

/// The requests for a repository.
pub(crate) fn about(requests: &[String], repository: &str) -> Vec<String> {
    requests.iter().filter(|request| request.contains(&format!("/v2/{repository}/"))).cloned().collect()
}

/// Dockerfiles that use `denied/base`, each in its own way, and the way.
async fn ways(test: &Test, registry: &Registry) -> Vec<(&'static str, PathBuf)> {
    let digest = Image::base(&test.unique("denied")).push(registry, "denied/base", "1").await;
    let image = Image::base(&test.unique("allowed"));
    image.push(registry, "allowed/base", "1").await;
    let (allowed, denied) = (registry.name("allowed/base:1"), registry.name("denied/base:1"));
    let mut config = image.config();
    config["config"]["OnBuild"] = json!([format!("COPY --from={denied} /mark /copy")]);
    image.push_with_config(registry, "allowed/trigger", "1", config.to_string()).await;
    let host = registry.host();
    let texts = [
        ("from", format!("FROM {denied}\nRUN cat /mark\n")),
        ("args", format!("ARG A={host}/den\nARG B=ied/base\nFROM ${{A}}${{B}}:1\nRUN cat /mark\n")),
        ("digest", format!("FROM {host}/denied/base@{digest}\nRUN cat /mark\n")),
        ("tag-and-digest", format!("FROM {denied}@{digest}\nRUN cat /mark\n")),
        ("copy", format!("FROM {allowed}\nCOPY --from={denied} /mark /copy\n")),
        ("mount", format!("FROM {allowed}\nRUN --mount=from={denied},target=/m cat /m/mark\n")),
        ("stage", format!("FROM {denied} AS a\nFROM scratch\nCOPY --from=a /mark /copy\n")),
        ("trigger", format!("FROM {}\n", registry.name("allowed/trigger:1"))),
    ];
    // BuildKit 0.13 reads no `--from` of an image in a trigger.
    let texts = texts.into_iter().filter(|(name, _)| *name != "trigger" || test.engine.is_containerd());
    texts.map(|(name, text)| (name, dockerfile(test, name, &text))).collect()
}

async fn a_base_that_is_not_named_is_refused_however_it_is_used(test: Arc<Test>) {
    let (registry, built_in) = tokio::join!(test.registry(), test.wharfd());
    let (ways, host) = (ways(&test, &registry).await, registry.host());
    let denied = registry.name("denied/base:1");
    let free = Wharf::new(&test, &built_in, "acme/app#1");
    for (_, context) in &ways {
        free.build(context, &[]).await.ok();
    }
    free.run(["pull", &denied]).await.ok();
    let log = built_in.log().join("\n");
    assert!(log.contains("no `[[policy]]`: every job may"), "{log}");

    let config = policy("acme", "acme/*", &format!("pull = [\"{host}/allowed/*\"]"));
    let wharfd = test.wharfd_with(Some(&config), &[]).await;
    let log = wharfd.log().join("\n");
    assert!(log.contains(&format!("policy=acme jobs=acme/* keys=\"pull: {host}/allowed/*;")), "{log}");
    let job = Wharf::new(&test, &wharfd, "acme/app#1");
    let allowed =
        dockerfile(&test, "allowed", &format!("FROM {}\nRUN cat /mark\n", registry.name("allowed/base:1")));
    job.build(&allowed, &[]).await.ok();
    let before = registry.mark().await;
    let says = ["policy `acme` does not let the job pull `", "denied/base", "`pull` of the policy `acme`"];
    for (way, context) in &ways {
        let refused = job.build(context, &[]).await.ended(3).says(&says);
        // BuildKit tells no line for an image that only a `COPY --from` or a mount names.
        let line = match *way {
            "args" => Some(3),
            "copy" | "mount" | "trigger" => None,
            _ => Some(1),
        };
        let says = line.is_none_or(|line| refused.stderr.contains(&format!("Dockerfile:{line}: ")));
        assert!(says, "{way}: {refused}");
    }
    job.run(["pull", &denied]).await.ended(3).says(&says);
    // The same registry by another name is another one.
    let port = host.rsplit_once(':').unwrap().1;
    for name in [format!("localhost:{port}/allowed/base:1"), format!("127.1:{port}/allowed/base:1")] {
        job.run(["pull", &name]).await.ended(3).says(&["does not let the job pull"]);
    }
    let requests = registry.requests_since(&before).await;
    assert_eq!(about(&requests, "denied/base"), Vec::<String>::new(), "asked before it was refused");
}

/// Admissions of other jobs, and earlier ones of the job itself, under rules that were wider.
async fn what_is_remembered_of_an_image_opens_it_to_nobody(test: Arc<Test>) {
    let registry = test.registry().await;
    let (ways, host) = (ways(&test, &registry).await, registry.host());
    let allowed = policy("acme", "acme/*", &format!("pull = [\"{host}/allowed/*\"]"));
    let free = policy("free", "free/*", "pull = [\"*\"]");
    let wharfd = test.wharfd_with(Some(&format!("{}{free}", allowed.replace("allowed/*", "*"))), &[]).await;
    let (ours, theirs) = (Wharf::new(&test, &wharfd, "acme/app#1"), Wharf::new(&test, &wharfd, "free/app#1"));
    for (_, context) in &ways {
        ours.build(context, &[]).await.ok();
        theirs.build(context, &[]).await.ok();
    }
    theirs.run(["pull", &registry.name("denied/base:1")]).await.ok();

    // The engine has the images and holds them, and the store remembers the namespace's digests and the job's bases.
    assert_eq!(wharfd.terminate().await, 0);
    wharfd.configure(&format!("{allowed}{free}"));
    wharfd.start().await;
    let before = registry.mark().await;
    for namespace in ["acme/app#1", "acme/app#2", "acme/other#1"] {
        for (_, context) in &ways {
            let refused = ours.in_namespace(namespace).build(context, &[]).await;
            refused.ended(3).says(&["policy `acme` does not let the job pull `"]);
        }
    }
    assert_eq!(about(&registry.requests_since(&before).await, "denied/base"), Vec::<String>::new());
    for (_, context) in &ways {
        theirs.build(context, &[]).await.ok();
    }
}

async fn a_push_that_is_not_named_is_refused_before_the_build(test: Arc<Test>) {
    let (registry, built_in) = tokio::join!(test.registry(), test.wharfd());
    let mark = test.unique("push");
    let context = test.context("app", &[("Dockerfile", "FROM scratch\nCOPY file /file\n"), ("file", &mark)]);
    let [team, request, main, other] =
        ["team/app:1", "app:pr-1", "app:main", "other/app:1"].map(|name| registry.name(name));
    let free = Wharf::new(&test, &built_in, "acme/app#1");
    free.build(&context, &["-t", &other, "--push"]).await.ok();
    free.run(["push", &other]).await.ok();

    let keys = format!("push = [\"{host}/team/*\", \"{host}/app:pr-*\"]", host = registry.host());
    let wharfd = test.wharfd_with(Some(&policy("acme", "acme/*", &keys)), &[]).await;
    let job = Wharf::new(&test, &wharfd, "acme/app#1");
    let before = registry.mark().await;
    let says = ["policy `acme` does not let the job push to `", "`push` of the policy `acme`"];
    let untagged = registry.name("app");
    for tags in [&[&other][..], &[&main], &[&untagged], &[&team, &other], &[&other, &team]] {
        let tags = tags.iter().flat_map(|tag| ["-t", tag.as_str()]);
        let refused = job.build(&context, &[&tags.collect::<Vec<_>>()[..], &["--push"]].concat()).await;
        let refused = refused.ended(3).says(&says);
        assert!(!refused.stderr.contains("COPY"), "the build has run: {refused}");
    }
    assert_eq!(job.images().await, []);
    job.build(&context, &["-t", &team, "-t", &other]).await.ok();
    // The same image by a further name, and the same repository by another host's.
    let port = registry.host().rsplit_once(':').unwrap().1;
    let alias = format!("localhost:{port}/team/app:1");
    for name in [&other, &main, &alias] {
        job.run(["tag", &team, name]).await.ok();
        job.run(["push", name]).await.ended(3).says(&says);
    }
    assert_eq!(registry.requests_since(&before).await, Vec::<String>::new());
    job.run(["push", &team]).await.ok();
    job.build(&context, &["-t", &request, "--push"]).await.ok();
    assert_eq!(registry.digest("app", "main").await, None);
    assert!(registry.digest("app", "pr-1").await.is_some());
}

async fn an_image_on_the_node_is_for_the_jobs_that_name_it(test: Arc<Test>) {
    let (registry, built_in) = tokio::join!(test.registry(), test.wharfd());
    let repository = registry.name("loaded");
    let loaded = tar([("operators", File::Content(test.unique("operators").as_bytes(), 0o644))]);
    test.engine.import(&repository, "1", loaded).await;
    let context = dockerfile(&test, "context", &format!("FROM {repository}:1\nCOPY Dockerfile /\n"));
    Wharf::new(&test, &built_in, "acme/app#1").build(&context, &[]).await.ok();

    let config = policy("acme", "acme/*", &format!("node_images = [\"{repository}:1\"]"))
        + &policy("puller", "puller", &format!("pull = [\"{repository}\"]"))
        + &policy("other", "other", "");
    let wharfd = test.wharfd_with(Some(&config), &[]).await;
    let before = registry.mark().await;
    let job = Wharf::new(&test, &wharfd, "acme/app#1");
    job.build(&context, &[]).await.ok();
    // It has been admitted, and is held.
    let [other, puller] = ["other#1", "puller#1"].map(|name| Wharf::new(&test, &wharfd, name));
    other.build(&context, &[]).await.ended(3).says(&["Dockerfile:1: policy `other` does not let"]);
    let another = dockerfile(&test, "another", &format!("FROM {repository}:2\n"));
    job.build(&another, &[]).await.ended(3).says(&["does not let the job pull"]);
    assert_eq!(registry.requests_since(&before).await, Vec::<String>::new());
    // That of the registry is another image, which is not there.
    puller.build(&context, &[]).await.ended(6);
    test.engine.remove_image(&format!("{repository}:1")).await;
}

async fn a_url_is_fetched_only_from_a_host_that_is_named(test: Arc<Test>) {
    let (registry, elsewhere) = tokio::join!(test.registry(), test.registry());
    let add = |name: &str, url: &str| dockerfile(&test, name, &format!("FROM scratch\nADD {url} /file\n"));
    let (ours, theirs) = (
        add("ours", &format!("http://{}/v2/", registry.host())),
        add("theirs", &format!("http://{}/v2/", elsewhere.host())),
    );
    let built_in = test.wharfd().await;
    let any = Wharf::new(&test, &built_in, "acme/app#1");
    any.build(&ours, &[]).await.ended(3).says(&["an address of this node"]);

    let host = registry.host();
    let config = policy("acme", "acme/*", &format!("add = [\"{host}\"]"))
        + &policy("below", "below", &format!("add = [\"http://{host}/v2/team/*\"]"))
        + &policy("public", "public", "add = [\"*\"]");
    let wharfd = test.wharfd_with(Some(&config), &[]).await;
    let [job, below, public] =
        ["acme/app#1", "below#1", "public#1"].map(|name| Wharf::new(&test, &wharfd, name));
    let before = registry.mark().await;
    job.build(&ours, &[]).await.ok();
    assert!(!registry.requests_since(&before).await.is_empty());
    let (before, also) = (registry.mark().await, elsewhere.mark().await);
    let says = ["policy `acme` does not let the job fetch `http"];
    job.build(&theirs, &[]).await.ended(3).says(&says);
    let port = host.rsplit_once(':').unwrap().1;
    for (index, url) in [
        format!("http://localhost:{port}/v2/"),
        format!("http://127.1:{port}/v2/"),
        format!("http://{host}@{}/v2/", elsewhere.host()),
        format!("http://user@{host}/v2/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "https://files.example/".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        job.build(add(&format!("other{index}"), url), &[]).await.ended(3).says(&says);
    }
    for (index, path) in ["v2/", "v2/team/../", "v2/team/%2e%2e/", "v2/team//"].iter().enumerate() {
        let url = format!("http://{host}/{path}");
        let refused = below.build(add(&format!("below{index}"), &url), &[]).await;
        refused.ended(3).says(&["policy `below` does not let the job fetch"]);
    }
    public.build(&ours, &[]).await.ended(3).says(&["an address of this node"]);
    assert_eq!(registry.requests_since(&before).await, Vec::<String>::new());
    assert_eq!(elsewhere.requests_since(&also).await, Vec::<String>::new());
}

async fn a_step_has_only_a_network_that_is_named(test: Arc<Test>) {
    let registry = test.registry().await;
    let base = test.base(&registry).await;
    let run = |name: &str, flag: &str| {
        let text = format!("FROM {base}\nRUN {flag} echo $((40 + 2)) > /made\n");
        dockerfile(&test, name, &text)
    };
    let (with, without) = (run("with", ""), run("without", "--network=none"));
    let pull = format!("pull = [\"{}/*\"]", registry.host());
    let config = policy("acme", "acme/*", &pull)
        + &policy("closed", "closed", &format!("{pull}\nnetworks = [\"none\"]"));
    let wharfd = test.wharfd_with(Some(&config), &[]).await;
    let [job, closed] = ["acme/app#1", "closed#1"].map(|name| Wharf::new(&test, &wharfd, name));
    for context in [&with, &without] {
        job.build(context, &[]).await.ok();
    }
    let says = ["Dockerfile:2: policy `closed` does not let the job run a step with a network"];
    closed.build(&with, &[]).await.ended(3).says(&says);
    closed.build(&run("default", "--network=default"), &[]).await.ended(3).says(&says);
    closed.build(&without, &[]).await.ok();
    closed.build(&with, &["--network=none"]).await.ok();
    job.build(run("host", "--network=host"), &[]).await.ended(3).says(&["host"]);
}

async fn a_job_without_a_policy_reaches_nothing(test: Arc<Test>) {
    let registry = test.registry().await;
    let base = test.base(&registry).await;
    let wharfd =
        test.wharfd_with(Some(&policy("acme", "acme/*", "pull = [\"*\"]\npush = [\"*\"]")), &[]).await;
    let plain = dockerfile(&test, "plain", "FROM scratch\nCOPY Dockerfile /\n");
    let [ours, job] = ["acme/app#1", "acmes/app#1"].map(|name| Wharf::new(&test, &wharfd, name));
    let name = registry.name("app:1");
    for contained in [&ours, &ours.in_container()] {
        contained.build(&plain, &["-t", &name, "--push"]).await.ok();
    }
    let before = registry.mark().await;
    let says = ["no policy is for the job `acmes/app`, so it may not ", "`[[policy]]`"];
    let from = dockerfile(&test, "from", &format!("FROM {base}\n"));
    job.build(&from, &[]).await.ended(3).says(&says);
    job.build(&plain, &["-t", &name, "--push"]).await.ended(3).says(&says);
    job.run(["pull", &base]).await.ended(3).says(&says);
    let url = dockerfile(&test, "url", "FROM scratch\nADD https://files.example/ /\n");
    job.build(&url, &[]).await.ended(3).says(&says);
    // Its own files are its own.
    job.build(&plain, &["-t", &name]).await.ok();
    job.run(["push", &name]).await.ended(3).says(&says);
    assert_eq!(registry.requests_since(&before).await, Vec::<String>::new());
}

/// Writes a configuration, sends the signal, and waits until the log says what became of it.
pub(crate) async fn reload(wharfd: &Wharfd, config: &str, said: &'static str) {
    let count = || wharfd.log().iter().filter(|line| line.contains(said)).count();
    let before = count();
    wharfd.configure(config);
    wharfd.process().signal(Signal::HUP);
    wait_for(said, async || (count() > before).then_some(())).await;
}

async fn a_hangup_reads_the_policies_again(test: Arc<Test>) {
    let registry = test.registry().await;
    let base = test.base(&registry).await;
    let wide = policy("acme", "acme/*", "pull = [\"*\"]\npush = [\"*\"]");
    let narrow = policy("narrow", "acme/*", "pull = [\"*\"]");
    let wharfd = test.wharfd_with(Some(&wide), &[]).await;
    let job = Wharf::new(&test, &wharfd, "acme/app#1");
    let cache = "RUN --mount=type=cache,target=/c ";
    let waits = dockerfile(
        &test,
        "waits",
        &format!("FROM {base}\n{cache}echo it-$((1))-runs; until [ -e /c/go ]; do sleep 0.1; done\n"),
    );
    let goes = dockerfile(&test, "goes", &format!("FROM {base}\n{cache}touch /c/go\n"));
    let (name, waits) = (registry.name("app:1"), waits.display().to_string());
    let running = job.start(["build", "--progress=plain", "-t", &name, "--push", &waits]);
    running.says("the step to run", |line| line.ends_with("it-1-runs").then_some(())).await;

    reload(&wharfd, &narrow, "the configuration is reloaded").await;
    let refused = job.build(&goes, &["-t", &registry.name("app:2"), "--push"]).await;
    refused.ended(3).says(&["policy `narrow` does not let the job push"]);
    // A file that is wrong, and keys that only a start reads.
    let kept = "the old one stays in use";
    reload(&wharfd, &format!("{wide}pulls = []\n"), kept).await;
    let log = wharfd.log().join("\n");
    assert!(log.contains("wharfd.toml:") && log.contains("unknown field `pulls`"), "{log}");
    reload(&wharfd, &format!("frontend = \"container\"\n{wide}"), kept).await;
    job.build(&goes, &["-t", &registry.name("app:2"), "--push"]).await.ended(3).says(&["policy `narrow`"]);
    reload(&wharfd, &format!("namespace_ttl = \"1h\"\n{narrow}"), "only a restart").await;

    // The first build goes on as it has begun.
    job.build(&goes, &[]).await.ok();
    let ended = running.wait(PATIENCE).await.unwrap();
    assert_eq!(shell_status(ended), 0, "{:?}", running.lines());
    assert!(registry.digest("app", "1").await.is_some());
    assert_eq!(registry.digest("app", "2").await, None);
    // Whom it serves is read again, too.
    let agent = Wharf::new(&test, &wharfd, "acme/app#1").as_uid(1000);
    agent.run(["images"]).await.ended(3).says(&["uid 1000 is not served"]);
    let served = format!("frontend = \"builtin\"\n{wide}[[serve]]\nuid = 1000\nnamespaces = \"acme/*\"\n");
    reload(&wharfd, &served, "serving a caller caller=\"uid 1000\"").await;
    agent.run(["images"]).await.ok();
    agent.build(&goes, &["-t", &registry.name("app:2"), "--push"]).await.ok();
}
