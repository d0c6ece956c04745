//! The whole files of docs/policy.md: each allows what it is for, and refuses the rest.

use std::sync::Arc;

use crate::harness::{Image, Issuer, Registry, Test, Wharf, Wharfd, cases};

cases![
    one_team_on_a_machine,
    pull_requests_from_strangers,
    strangers_on_an_engine_of_their_own,
    a_cluster_of_many_teams
];

/// A user that the files serve, or whose jobs show tokens.
const AGENT: u32 = 1000;

/// The file under a heading of the page, with the test's own registry and issuer in the places of the examples'.
fn file(heading: &str, registry: &Registry, issuer: &Issuer) -> String {
    let page = include_str!("../../docs/policy.md");
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).expect("a section");
    let (_, block) = section.split_once("```toml\n").expect("a file");
    let (text, _) = block.split_once("```").expect("its end");
    let keys = issuer.keys().display().to_string();
    text.replace("registry.example.com", registry.host()).replace("/etc/wharf/ci-keys.json", &keys)
}

/// A registry, an issuer, and a wharfd with the file.
async fn with_file(test: &Test, heading: &str) -> (Arc<Registry>, Issuer, Arc<Wharfd>) {
    let (registry, issuer) = (test.registry().await, Issuer::new(test, "ci"));
    let wharfd = test.wharfd_with(Some(&file(heading, &registry, &issuer)), &[]).await;
    (registry, issuer, wharfd)
}

/// A context on a base image of the registry.
async fn on(test: &Test, registry: &Registry, repository: &str, step: &str) -> std::path::PathBuf {
    Image::base(&test.unique(repository)).push(registry, repository, "1").await;
    let text = format!("FROM {}\n{step}\nCOPY Dockerfile /\n", registry.name(&format!("{repository}:1")));
    test.context(&format!("on-{}", repository.replace('/', "-")), &[("Dockerfile", &text)])
}

async fn one_team_on_a_machine(test: Arc<Test>) {
    let (registry, _, wharfd) = with_file(&test, "One team on a machine").await;
    let job = Wharf::new(&test, &wharfd, "app#1").as_uid(AGENT);
    let context = on(&test, &registry, "anybody/base", "RUN cat /mark").await;
    job.build(&context, &["-t", &registry.name("team/app:1"), "--push"]).await.ok();
    let refused = job.build(&context, &["-t", &registry.name("other/app:1"), "--push"]).await;
    refused.ended(3).says(&["policy `team` does not let the job push to", "other/app:1"]);
    job.run(["namespace", "rm"]).await.ok();
}

async fn pull_requests_from_strangers(test: Arc<Test>) {
    let heading = "A multibranch project with pull requests from strangers";
    let (registry, issuer, wharfd) = with_file(&test, heading).await;
    let agent = Wharf::new(&test, &wharfd, "acme/app/main#1").as_uid(1003);
    let [request, branch] =
        ["acme/app/PR-1", "acme/app/main"].map(|job| agent.with_token(&issuer.token(job, 1)));
    let (public, private) = (
        on(&test, &registry, "base/os", "RUN cat /mark").await,
        on(&test, &registry, "acme/internal", "RUN cat /mark").await,
    );
    let [tested, released] = ["requests/app:pr-1", "acme/app:1"].map(|name| registry.name(name));
    request.build(&public, &["-t", &tested, "--push"]).await.ok();
    branch.build(&private, &["-t", &released, "--push"]).await.ok();
    let says = |what| ["policy `requests` does not let the job", what];
    request.build(&private, &[]).await.ended(3).says(&says("acme/internal"));
    request.build(&public, &["-t", &released, "--push"]).await.ended(3).says(&says("acme/app:1"));
    let url = test.context("url", &[("Dockerfile", "FROM scratch\nADD https://downloads.example.com/a /\n")]);
    request.build(&url, &[]).await.ended(3).says(&says("downloads.example.com"));
    let main = registry.name("requests/app:main");
    request.build(&public, &["-t", &main, "--push"]).await.ended(3).says(&says("requests/app:main"));
    branch.build(&public, &["-t", &tested, "--push"]).await.ended(3).says(&["policy `branches`"]);
    for job in [&request, &branch] {
        job.run(["namespace", "rm"]).await.ok();
    }
}

async fn strangers_on_an_engine_of_their_own(test: Arc<Test>) {
    let (registry, issuer) = (test.registry().await, Issuer::new(&test, "ci"));
    let (_, strangers) = test.throw_away_engine_of(test.engine.kind().other()).await;
    let file = file("Strangers on an engine of their own", &registry, &issuer)
        .replace("unix:///var/run/docker.sock", &test.engine.address())
        .replace("unix:///run/strangers/docker.sock", &strangers.address());
    let wharfd = test.wharfd_with(Some(&file), &[]).await;
    let agent = Wharf::new(&test, &wharfd, "acme/app/main#1").as_uid(1003);
    let [request, branch] =
        ["acme/app/PR-1", "acme/app/main"].map(|job| agent.with_token(&issuer.token(job, 1)));
    let files = [("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", &*test.unique("file"))];
    let context = test.context("own", &files);
    // Both at once.
    let (theirs, ours) = tokio::join!(
        request.build_id(&context, &["-t", "app:1"]),
        branch.build_id(&context, &["-t", "app:1"])
    );
    let [of_request, of_branch] = [("acme/app/PR-1", 1), ("acme/app/main", 1)].map(|(job, run)| {
        let namespace = wharf::names::Namespace::new(job, run.to_string()).unwrap();
        wharfd.keys().names(&namespace.issued_by("ci".to_owned().try_into().unwrap())).prefix().to_owned()
    });
    for (engine, id, there, elsewhere) in
        [(&strangers, &theirs, &of_request, &of_branch), (&test.engine, &ours, &of_branch, &of_request)]
    {
        let names = engine.names_with_prefix(there).await;
        assert_eq!(names.iter().filter(|name| name.ends_with("/app:1")).count(), 1, "{names:?}");
        assert_eq!(engine.names_with_prefix(elsewhere).await, Vec::<String>::new());
        assert!(engine.inspect(id).await.is_some());
    }
    let step = test.context("step", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\nRUN [\"/x\"]\n")]);
    let refused = request.build(&step, &[]).await;
    refused.ended(3).says(&["policy `requests` does not let the job run a step with a network"]);
    for job in [&request, &branch] {
        job.run(["namespace", "rm"]).await.ok();
    }
    assert_eq!(strangers.names_with_prefix(&of_request).await, Vec::<String>::new());
}

async fn a_cluster_of_many_teams(test: Arc<Test>) {
    let (registry, issuer, wharfd) = with_file(&test, "A cluster of many teams").await;
    let agent = Wharf::new(&test, &wharfd, "web/app#1").as_uid(1003);
    let [web, data, lab] =
        ["web/app", "data/app", "lab/app"].map(|job| agent.with_token(&issuer.token(job, 1)));
    let shared = on(&test, &registry, "shared/os", "RUN cat /mark").await;
    let theirs = on(&test, &registry, "data/base", "RUN cat /mark").await;
    web.build(&shared, &["-t", &registry.name("web/app:1"), "--push"]).await.ok();
    data.build(&theirs, &["-t", &registry.name("data/app:1"), "--push"]).await.ok();
    web.build(&theirs, &[]).await.ended(3).says(&["policy `web` does not let the job pull", "data/base"]);
    let refused = web.build(&shared, &["-t", &registry.name("data/app:2"), "--push"]).await;
    refused.ended(3).says(&["policy `web` does not let the job push to", "data/app:2"]);
    lab.build(&shared, &["--network=none"]).await.ok();
    lab.build(&shared, &[])
        .await
        .ended(3)
        .says(&["policy `others` does not let the job run a step with a network"]);
    lab.run(["pull", "alpine"]).await.ended(3).says(&["policy `others` does not let the job pull `alpine"]);
    for job in [&web, &data, &lab] {
        job.run(["namespace", "rm"]).await.ok();
    }
}
