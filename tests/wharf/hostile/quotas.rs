//! A caller that tries to use all of an engine.

use std::{fs, sync::Arc, time::Duration};

use rustix::process::Signal;
use tonic::Code;
use wharf::wire::v1::{DeleteNamespaceRequest, namespace_service_client::NamespaceServiceClient};

use crate::{
    harness::{
        Test, Wharf, cases,
        registry::{Broken, BrokenRegistry},
        relay::Relay,
        rpc, wait_for,
    },
    turns::Builds,
};

cases![
    a_caller_at_its_limit_stops_no_other,
    a_reload_leaves_places_to_new_callers,
    removals_of_namespaces_are_limited,
];

const BOUND: usize = 2;
const CONFIG: &str = "[[serve]]\nuid = 1000\nnamespaces = \"*\"\nat_once = 2\n";

async fn a_caller_at_its_limit_stops_no_other(test: Arc<Test>) {
    let (mute, wharfd) =
        tokio::join!(BrokenRegistry::start(Broken::Greeting), test.wharfd_as_it_ships(Some(CONFIG)));
    let greedy = rpc::connect_as(&wharfd.socket(), 1000).await;
    let other = rpc::connect(&wharfd.socket()).await;
    let mut builds = Builds::new(&wharfd).await;
    // A caller without a limit of its own can start more builds.
    for number in 0..=BOUND {
        builds.runs(&other, &format!("other#{number}")).await;
    }
    // Another namespace does not raise the limit.
    for number in 0..BOUND {
        builds.runs(&greedy, &format!("greedy{number}#1")).await;
    }
    builds.waits(&greedy, "new#1", 0).await;
    // Pulls and pushes do not wait: they are refused.
    let job = Wharf::new(&test, &wharfd, "greedy#0").as_uid(1000);
    let held: Vec<_> = (0..BOUND).map(|_| job.start(["pull", &format!("{}/app:1", mute.host())])).collect();
    wait_for("a refusal", async || {
        let refused = job.run(["pull", "localhost:1/x:1"]).await.ended(5);
        refused
            .stderr
            .contains("uid 1000 has 2 running pushes, pulls and saves")
            .then(|| refused.says(&["at_once"]))
    })
    .await;
    // Calls that cost the engine nothing are not limited.
    assert_eq!(job.images().await, []);
    job.run(["tag", "x:1", "y:1"]).await.ended(6).says(&["x:1"]);
    held.iter().for_each(|pull| pull.signal(Signal::KILL));

    builds.runs(&other, "another#1").await;
    builds.after("greedy0#1", "new#1").await;
}

/// The last quarter of an engine's places is left to others, as soon as there may be others.
async fn a_reload_leaves_places_to_new_callers(test: Arc<Test>) {
    let serve = |uid: u32| format!("[[serve]]\nuid = {uid}\nnamespaces = \"*\"\n");
    let one = format!("max_builds = 4\n{}", serve(1000));
    let wharfd = test.wharfd_as_it_ships(Some(&one)).await;
    let greedy = rpc::connect_as(&wharfd.socket(), 1000).await;
    let mut builds = Builds::new(&wharfd).await;
    builds.runs(&greedy, "greedy0#1").await;
    // Root is not served: it is the operator, who sees the engine's builds.
    let file = wharfd.socket().with_file_name("wharfd.toml");
    fs::write(file, format!("frontend = \"builtin\"\n{one}{}", serve(1001))).unwrap();
    wharfd.process().signal(Signal::HUP);
    let reloaded = |line: &str| line.contains("the configuration is reloaded").then_some(());
    wharfd.process().says("a reload", reloaded).await;
    for number in 1..3 {
        builds.runs(&greedy, &format!("greedy{number}#1")).await;
    }
    builds.waits(&greedy, "greedy3#1", 0).await;
    let new = rpc::connect_as(&wharfd.socket(), 1001).await;
    builds.runs(&new, "new#1").await;
}

/// The removal of a namespace runs to its end without its client, who could begin any number of them.
async fn removals_of_namespaces_are_limited(test: Arc<Test>) {
    let relay = Relay::start(&test);
    let wharfd = test.wharfd_with(Some(CONFIG), &["--engine", &relay.address()]).await;
    let greedy = rpc::connect_as(&wharfd.socket(), 1000).await;
    let remove = async |number: usize| {
        let namespace = Some(rpc::namespace(&format!("greedy#{number}")));
        NamespaceServiceClient::new(greedy.clone())
            .delete_namespace(DeleteNamespaceRequest { namespace, job: false })
            .await
    };
    remove(0).await.unwrap();
    relay.pause();
    let mut number = 0;
    let refused = wait_for("a refusal", async || {
        number += 1;
        tokio::time::timeout(Duration::from_millis(300), remove(number)).await.ok()?.err()
    })
    .await;
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("uid 1000 has 2 running removals of namespaces"), "{refused:?}");
    assert_eq!(number, BOUND + 1);
    relay.resume();
    wait_for("the removals to end", async || remove(0).await.ok()).await;
}
