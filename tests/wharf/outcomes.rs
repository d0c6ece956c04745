//! The log's lines about calls, at the default level.

use std::{sync::Arc, time::Instant};

use futures_util::future::join_all;
use rustix::process::Signal;
use tonic::Code;
use wharf::wire::v1::{
    BuildSpec, GetInfoRequest, InspectImageRequest, image_service_client::ImageServiceClient,
    node_service_client::NodeServiceClient,
};

use crate::{
    audit::events,
    harness::{Test, Wharf, Wharfd, cases, image::context_tar, rpc, wait_for},
};

cases![
    a_hangup_does_not_end_builds,
    each_call_is_logged_with_its_end,
    every_level_shows_the_caller,
    a_job_does_not_fill_the_log,
    builds_that_fail_do_not_fill_the_log,
    no_line_of_the_log_is_long,
];

/// Waits for a line that contains all of `texts`.
async fn line(wharfd: &Wharfd, texts: &[&str]) -> String {
    let has = |line: &str| texts.iter().all(|text| line.contains(text)).then(|| line.to_owned());
    wharfd.process().says(&format!("a line with {texts:?}"), has).await
}

async fn a_hangup_does_not_end_builds(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    for _ in 0..2 {
        wharfd.process().signal(Signal::HUP);
    }
    line(&wharfd, &[" INFO ", "the configuration is reloaded"]).await;
    Wharf::new(&test, &wharfd, "job#1").run(["info"]).await.ok();
}

async fn each_call_is_logged_with_its_end(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let job = Wharf::new(&test, &wharfd, "job#1");
    let tag = registry.name("app:1");
    job.build(&context, &["-t", &tag]).await.ok();
    job.run(["push", &tag]).await.ok();
    job.run(["pull", &base]).await.ok();
    job.run(["tag", &tag, "app:2"]).await.ok();
    job.run(["inspect", "nothing"]).await;
    let broken = test.context("broken", &[("Dockerfile", &format!("FROM {base}\nRUN exit 3\n"))]);
    job.build(&broken, &[]).await.ended(1);
    job.run(["namespace", "rm"]).await.ok();

    for (method, how) in [
        ("BuildService/Session", "ended"),
        ("BuildService/Attach", "ended"),
        ("BuildService/Build", "ended"),
        ("BuildService/Build", "failed=\"STEP\""),
        ("ImageService/PushImage", "ended"),
        ("ImageService/PullImage", "ended"),
        ("ImageService/TagImage", "ended"),
        ("ImageService/InspectImage", "text=\"no such image"),
        ("ImageService/InspectImage", "reason=ImageNotFound"),
        ("NamespaceService/DeleteNamespace", "ended"),
    ] {
        let call = format!("call{{method=\"{method}\" caller=\"uid 0\" namespace=\"job#1\"}}: ");
        let line = line(&wharfd, &[&call, how]).await;
        assert!(line.contains(" elapsed="), "{line}");
    }
}

async fn every_level_shows_the_caller(test: Arc<Test>) {
    let registry = test.registry().await;
    let wharfd = test.wharfd_with(None, &["--log-level", "warn"]).await;
    registry.end().await;
    Wharf::new(&test, &wharfd, "job#7").run(["pull", &registry.name("app:1")]).await.ended(5);
    let whose = "call{method=\"ImageService/PullImage\" caller=\"uid 0\" namespace=\"job#7\"}: ";
    line(&wharfd, &[" WARN ", whose, "reason=RegistryUnavailable"]).await;
}

/// A connection ends after some thousand calls that are refused before they are read.
const STRANGERS_CALLS: usize = 500;

async fn a_job_does_not_fill_the_log(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let ours = rpc::connect(&wharfd.socket()).await;
    let stranger = rpc::connect_as(&wharfd.socket(), 1001).await;
    let (mut images, mut node) = (ImageServiceClient::new(ours), NodeServiceClient::new(stranger));
    let begun = Instant::now();
    let counted = |line: &String| line.contains("InspectImage") && line.contains(" unlogged=");
    let mut calls = 0;
    while !wharfd.log().iter().any(counted) {
        // The request names no namespace, and is refused at no cost.
        let refused = images.inspect_image(InspectImageRequest::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        if calls < STRANGERS_CALLS {
            let refused = node.get_info(GetInfoRequest::default()).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated);
        }
        calls += 1;
    }
    let (log, seconds) = (wharfd.log(), usize::try_from(begun.elapsed().as_secs()).unwrap());
    let inspects = log.iter().filter(|line| line.contains("InspectImage")).count();
    assert!(calls > 3 * (seconds + 2), "{calls} calls in {seconds} s are no attack");
    assert!(inspects <= seconds + 2, "{calls} calls, {inspects} lines in {seconds} s");
    let strangers = log.iter().filter(|line| line.contains("uid 1001 is not served")).count();
    assert_eq!(strangers, 1 + seconds / 60, "{calls} calls in {seconds} s");
}

async fn builds_that_fail_do_not_fill_the_log(test: Arc<Test>) {
    let path = test.dir().join("audit.jsonl");
    let wharfd = test.wharfd_with(Some(&format!("audit_log = {path:?}\n")), &[]).await;
    let channel = rpc::connect(&wharfd.socket()).await;
    let context = context_tar(&[("Dockerfile", "FROM scratch\nNOTHING\n")]);
    let begun = Instant::now();
    for _ in 0..10 {
        let start = || rpc::start("job#1", BuildSpec::default());
        for built in join_all((0..20).map(|_| rpc::build_tar(&channel, start(), context.clone()))).await {
            assert!(built.failure.is_some(), "{built:?}");
        }
    }
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
    let of_a_build = |line: &&String| line.contains("BuildService/Build") && line.contains("failed=");
    let log = wharfd.log();
    let lines: Vec<_> = log.iter().filter(of_a_build).collect();
    assert!((10..=11 + seconds).contains(&lines.len()), "{} lines in {seconds} s", lines.len());
    let unlogged = lines.iter().filter_map(|line| {
        let (_, number) = line.split_once(" unlogged=")?;
        number.split(' ').next()?.parse::<usize>().ok()
    });
    assert!(lines.len() + unlogged.sum::<usize>() <= 200, "{lines:?}");
    // The audit log has them all.
    let ended = |event: &serde_json::Value| event["event"] == "ended" && event["result"] == "failed";
    let all = async || (events(&path).into_iter().filter(ended).count() == 200).then_some(());
    wait_for("an event of each build", all).await;
}

/// Errors repeat the names that a job has chosen, and a control character is shown by six or more.
async fn no_line_of_the_log_is_long(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let channel = rpc::connect(&wharfd.socket()).await;
    let control = |bytes| "\u{1}".repeat(bytes);
    let spec = BuildSpec { dockerfile: control(1_000_000), ..BuildSpec::default() };
    let built = rpc::build_tar(&channel, rpc::start("job#1", spec), Vec::new()).await;
    assert_eq!(built.status.unwrap().code(), Code::InvalidArgument);
    let mut images = ImageServiceClient::new(channel);
    for reference in [control(60_000), "a".repeat(60_000), format!("reg.example/{}", "b/".repeat(30_000))] {
        let request = InspectImageRequest { namespace: Some(rpc::namespace("job#1")), reference };
        let refused = images.inspect_image(request).await.unwrap_err();
        assert!(matches!(refused.code(), Code::InvalidArgument | Code::NotFound), "{refused:?}");
    }
    line(&wharfd, &["BuildService/Build", "reason=InvalidInput"]).await;
    line(&wharfd, &["ImageService/InspectImage"]).await;
    let longest = wharfd.log().iter().map(String::len).max().unwrap();
    assert!(longest < 64 << 10, "a line of {longest} bytes");
}
