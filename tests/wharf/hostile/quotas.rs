//! A caller that tries to use all of an engine.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, transport::Channel};
use tonic_types::StatusExt as _;
use wharf::wire::v1::{BuildSpec, DeleteNamespaceRequest, namespace_service_client::NamespaceServiceClient};

use crate::harness::{Test, Wharf, Wharfd, cases, image::context_tar, relay::Relay, rpc, wait_for};

cases![a_caller_at_its_limit_stops_no_other, removals_of_namespaces_are_limited];

const BOUND: usize = 2;
const CONFIG: &str = "[[serve]]\nuid = 1000\nnamespaces = \"*\"\nat_once = 2\n";

/// A build that waits for the rest of its context.
struct Held {
    pieces: mpsc::Sender<bytes::Bytes>,
    rest: bytes::Bytes,
    build: JoinHandle<rpc::Build>,
}

impl Held {
    /// Begins a build, and returns when it runs.
    async fn begin(wharfd: &Wharfd, channel: &Channel, job: &str) -> Self {
        let begun = || {
            let log = wharfd.log();
            log.iter().filter(|line| line.contains("BuildService/Build") && line.ends_with(": begun")).count()
        };
        let before = begun();
        let tar = bytes::Bytes::from(context_tar(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]));
        let (pieces, sent) = mpsc::channel(1);
        let (channel, start) = (channel.clone(), rpc::start(job, BuildSpec::default()));
        let build = tokio::spawn(async move { rpc::build(&channel, start, ReceiverStream::new(sent)).await });
        pieces.send(tar.slice(..700)).await.unwrap();
        wait_for("the build to begin", async || (begun() > before).then_some(())).await;
        Self { pieces, rest: tar.slice(700..), build }
    }

    async fn end(self) -> rpc::Build {
        self.pieces.send(self.rest).await.unwrap();
        drop(self.pieces);
        self.build.await.unwrap()
    }
}

async fn a_caller_at_its_limit_stops_no_other(test: Arc<Test>) {
    let wharfd = test.wharfd_with(Some(CONFIG), &["--log-level", "info,wharf=debug"]).await;
    let greedy = rpc::connect_as(&wharfd.socket(), 1000).await;
    let other = rpc::connect(&wharfd.socket()).await;
    // A caller without a limit of its own can start more builds.
    let mut unbound = Vec::new();
    for _ in 0..=BOUND {
        unbound.push(Held::begin(&wharfd, &other, "other#1").await);
    }
    let mut held = Vec::new();
    for number in 0..BOUND {
        // Another namespace does not raise the limit.
        held.push(Held::begin(&wharfd, &greedy, &format!("greedy#{number}")).await);
    }
    let tar = context_tar(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let build = async |channel: &Channel, job: &str| {
        rpc::build_tar(channel, rpc::start(job, BuildSpec::default()), tar.clone()).await
    };
    let refused = build(&greedy, "greedy#new").await.status.unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let details = refused.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "LIMIT_REACHED", "{refused:?}");
    assert!(refused.message().contains("uid 1000 has 2 running builds"), "{refused:?}");
    let job = Wharf::new(&test, &wharfd, "greedy#0").as_uid(1000);
    job.run(["pull", "localhost:1/x:1"]).await.ended(5).says(&["uid 1000 has 2", "at_once"]);
    // Calls that cost the engine nothing are not limited.
    assert_eq!(job.images().await, []);
    job.run(["tag", "x:1", "y:1"]).await.ended(6).says(&["x:1"]);

    build(&other, "other#2").await.ok();
    held.pop().unwrap().end().await.ok();
    build(&greedy, "greedy#new").await.ok();
    for held in held.into_iter().chain(unbound) {
        held.end().await.ok();
    }
}

/// The removal of a namespace runs to its end without its client, who could begin any number of them.
async fn removals_of_namespaces_are_limited(test: Arc<Test>) {
    let relay = Relay::start(&test);
    let wharfd = test.wharfd_with(Some(CONFIG), &["--engine", &relay.address()]).await;
    let greedy = rpc::connect_as(&wharfd.socket(), 1000).await;
    let remove = async |number: usize| {
        let namespace = Some(rpc::namespace(&format!("greedy#{number}")));
        NamespaceServiceClient::new(greedy.clone())
            .delete_namespace(DeleteNamespaceRequest { namespace })
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
