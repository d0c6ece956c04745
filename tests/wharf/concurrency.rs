//! Simultaneous work: pushes of one reference, builds on one engine, several engines in one configuration.

use std::{collections::BTreeSet, env, sync::Arc};

use serde_json::Value;
use tokio::task::JoinSet;
use wharf::wire::v1::{
    BuildSpec, PushImageRequest, image_service_client::ImageServiceClient, push_image_response::Response,
};

use crate::harness::{Image, Test, Wharf, cases, image::context_tar, rpc, wait_for};

cases![
    two_jobs_push_one_reference,
    a_hundred_and_fifty_builds,
    ten_bases,
    one_pass_for_a_rebuild,
    two_engines,
];

const PUSHES: usize = 50;

/// The digest that a job's push of `reference` reports.
async fn push(channel: &tonic::transport::Channel, namespace: &str, reference: &str) -> String {
    let request = PushImageRequest {
        namespace: Some(rpc::namespace(namespace)),
        reference: reference.to_owned(),
        credentials: None,
    };
    let mut responses =
        ImageServiceClient::new(channel.clone()).push_image(request).await.unwrap().into_inner();
    while let Some(message) = responses.message().await.unwrap() {
        if let Some(Response::Result(result)) = message.response {
            return result.digest;
        }
    }
    panic!("the push of {reference} has no result")
}

async fn two_jobs_push_one_reference(test: Arc<Test>) {
    // Two daemons on one engine, and two jobs of one daemon.
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let name = registry.name("app:1");
    let channel = rpc::connect(&wharfd.socket()).await;
    let mut reported = BTreeSet::new();
    let jobs = ["one#1", "two#1"];
    for round in 0..PUSHES {
        // Each job's image, and its content.
        let mut built = Vec::new();
        for job in jobs {
            let content = format!("{job} {round} {}", test.unique("round"));
            let tar = context_tar(&[("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", &content)]);
            let spec = BuildSpec { tags: vec![name.clone()], ..BuildSpec::default() };
            built.push(rpc::build_tar(&channel, rpc::start(job, spec), tar).await.ok().clone());
        }
        let (one, two) = tokio::join!(push(&channel, jobs[0], &name), push(&channel, jobs[1], &name));
        for (digest, built) in [(&one, &built[0]), (&two, &built[1])] {
            let manifest = registry.manifest("app", digest).await;
            assert_eq!(
                manifest["config"]["digest"],
                built.config_digest.as_str(),
                "round {round}: {manifest}"
            );
            reported.insert(digest.clone());
        }
        let now = registry.digest("app", "1").await.unwrap();
        assert!(now == one || now == two, "round {round}: the registry has {now}, which nobody reported");
    }
    // All manifests that the registry was ever given.
    let begun = registry.all_requests();
    let put = begun.iter().filter(|request| request.starts_with("PUT /v2/app/manifests/")).count();
    assert!(put >= PUSHES, "{put}");
    for digest in registry.stored_manifests("app") {
        assert!(reported.contains(&digest), "{digest} was pushed, and nobody reported it");
    }
}

async fn a_hundred_and_fifty_builds(test: Arc<Test>) {
    const BUILDS: usize = 150;
    let (registry, wharfd) = (test.registry().await, test.wharfd_with(None, &["--max-builds", "150"]).await);
    let base = test.base(&registry).await;
    // Each build waits until all have begun, which would be impossible on one connection of BuildKit's.
    let gate = Arc::new(tokio::sync::Barrier::new(BUILDS));
    let mut builds = JoinSet::new();
    for index in 0..BUILDS {
        let (socket, base, gate) = (wharfd.socket(), base.clone(), Arc::clone(&gate));
        builds.spawn(async move {
            let channel = rpc::connect(&socket).await;
            let dockerfile = format!("FROM {base}\nCOPY file /\n");
            let content = index.to_string();
            let tar = context_tar(&[("Dockerfile", &dockerfile), ("file", &content)]);
            let (start, rest) =
                (bytes::Bytes::from(tar[..600].to_vec()), bytes::Bytes::from(tar[600..].to_vec()));
            let pieces = futures_util::stream::unfold(0, move |step| {
                let (start, rest, gate) = (start.clone(), rest.clone(), Arc::clone(&gate));
                async move {
                    match step {
                        0 => Some((start, 1)),
                        1 => {
                            gate.wait().await;
                            Some((rest, 2))
                        }
                        _ => None,
                    }
                }
            });
            let namespace = format!("job{}#{index}", index % 7);
            let build = rpc::build(&channel, rpc::start(&namespace, BuildSpec::default()), pieces).await;
            (index, build.ok().image_id.clone())
        });
    }
    let mut ids = BTreeSet::new();
    while let Some(built) = builds.join_next().await {
        ids.insert(built.unwrap().1);
    }
    assert_eq!(ids.len(), BUILDS);
}

/// How many passes of the frontend are in a log.
fn passes(log: &[String]) -> usize {
    log.iter().filter(|line| line.contains("a pass of the frontend")).count()
}

async fn ten_bases(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd_in_detail());
    let mut dockerfile = String::new();
    for index in 0..10 {
        let mark = test.unique(&format!("base{index}"));
        Image::base(&mark).push(&registry, &format!("base{index}"), "1").await;
        dockerfile += &format!("FROM {} AS stage{index}\n", registry.name(&format!("base{index}:1")));
    }
    dockerfile += "FROM scratch\n";
    for index in 0..10 {
        dockerfile += &format!("COPY --from=stage{index} /mark /mark{index}\n");
    }
    let context = test.context("context", &[("Dockerfile", &dockerfile)]);
    let job = Wharf::new(&test, &wharfd, "job#1");
    let id = job.build_id(&context, &[]).await;
    for index in 0..10 {
        let mark = test.engine.text(&id, &format!("/mark{index}")).await;
        assert!(mark.starts_with(&format!("base{index}-")), "{mark}");
    }
    let (before, said) = (registry.mark().await, wharfd.log().len());
    assert_eq!(job.build_id(&context, &[]).await, id);
    assert_eq!(registry.requests_since(&before).await, Vec::<String>::new());
    wait_for("the log of the pass", async || (passes(&wharfd.log()[said..]) > 0).then_some(())).await;
    assert_eq!(passes(&wharfd.log()[said..]), 1);
}

async fn one_pass_for_a_rebuild(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd_in_detail());
    let base = test.base(&registry).await;
    let dockerfile = format!("FROM {base}\nCOPY file /\nRUN cat /file\n");
    let context = test.context("context", &[("Dockerfile", &dockerfile), ("file", "x")]);
    let job = Wharf::new(&test, &wharfd, "job#1");
    let id = job.build_id(&context, &[]).await;
    // The first pass is denied: this is how wharfd learns the base's name.
    wait_for("the log of both passes", async || (passes(&wharfd.log()) >= 2).then_some(())).await;
    let (before, said) = (registry.mark().await, wharfd.log().len());
    assert_eq!(job.build_id(&context, &[]).await, id);
    wait_for("the log of the pass", async || (passes(&wharfd.log()[said..]) > 0).then_some(())).await;
    assert_eq!(passes(&wharfd.log()[said..]), 1);
    assert_eq!(registry.requests_since(&before).await, Vec::<String>::new());

    // The job's next run admits the base again, and still needs only one pass.
    let said = wharfd.log().len();
    job.in_namespace("job#2").build_id(&context, &[]).await;
    wait_for("the log of the pass", async || (passes(&wharfd.log()[said..]) > 0).then_some(())).await;
    assert_eq!(passes(&wharfd.log()[said..]), 1);
}

async fn two_engines(test: Arc<Test>) {
    let other = if test.engine.is_containerd() { "WHARF_ENGINE_26" } else { "WHARF_ENGINE_29" };
    let other = env::var(other).expect("this test wants both engines: run `make engines`");
    let config = format!(
        "default_engine = \"own\"\n[engines.own]\nsocket = \"{}\"\n[engines.other]\nsocket = \"unix://{other}\"\n\
         [[serve]]\nuid = 1000\nnamespaces = \"*\"\nengine = \"other\"\n",
        test.engine.address()
    );
    let wharfd = test.wharfd_with(Some(&config), &[]).await;
    let content = test.unique("app");
    let context =
        test.context("context", &[("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", &content)]);
    let root = Wharf::new(&test, &wharfd, "job#1");
    let served = root.as_uid(1000);
    let mut versions = BTreeSet::new();
    for (job, engine) in [(&root, "own"), (&served, "other")] {
        let info = job.run(["info", "--format=json"]).await.ok().stdout;
        let info: Value = serde_json::from_str(&info).unwrap();
        assert!(info.to_string().contains(engine), "{info}");
        versions.insert(info.to_string());
        job.build_id(&context, &["-t", "app:1"]).await;
        assert_eq!(job.images().await.len(), 1);
    }
    assert_eq!(versions.len(), 2);
    let other = crate::harness::Engine::at(test.engine.kind(), other);
    for engine in [&*test.engine, &other] {
        let names = engine.names_with_prefix(&wharfd.prefix()).await;
        assert_eq!(names.iter().filter(|name| name.contains("/app:1")).count(), 1, "{names:?}");
    }
    // The same namespace on two engines is two separate things.
    root.run(["namespace", "rm"]).await.ok();
    assert_eq!(root.images().await, []);
    assert_eq!(served.images().await.len(), 1);
    served.run(["namespace", "rm"]).await.ok();
    assert_eq!(other.names_with_prefix(&wharfd.prefix()).await, Vec::<String>::new());
}
