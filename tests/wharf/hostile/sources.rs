//! Sources that a build may not fetch: the node's own network, and Git repositories.

use std::sync::Arc;

use crate::harness::{
    Test, Wharf, cases,
    registry::{Broken, BrokenRegistry},
};

cases![urls_of_the_node, urls_without_number, git_repositories];

async fn urls_of_the_node(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let port = registry.host().rsplit_once(':').unwrap().1.to_owned();
    let add = |url: &str| format!("FROM scratch\nADD {url} /stolen\n");
    let hostile = test.context("bare", &[("Dockerfile", &add(&format!("http://{}/v2/", registry.host())))]);
    let home = test.new_dir("bare");
    let before = registry.mark().await;
    test.engine.buildx_build(&home, &hostile, &["--no-cache", "--network=none"]).await.ok();
    assert!(!registry.requests_since(&before).await.is_empty());

    let job = Wharf::new(&test, &wharfd, "job#1");
    let before = registry.mark().await;
    for (index, dockerfile) in [
        add(&format!("http://127.0.0.1:{port}/v2/")),
        add(&format!("http://localhost:{port}/v2/")),
        add(&format!("http://127.1:{port}/v2/")),
        add(&format!("http://2130706433:{port}/v2/")),
        add(&format!("http://0x7f000001:{port}/v2/")),
        add(&format!("http://0.0.0.0:{port}/v2/")),
        add(&format!("http://[::1]:{port}/v2/")),
        add(&format!("http://[::ffff:127.0.0.1]:{port}/v2/")),
        add(&format!("http://user:password@127.0.0.1:{port}/v2/")),
        add("http://169.254.169.254/latest/meta-data/"),
        add("http://10.0.0.1/"),
        add("http://[64:ff9b::169.254.169.254]/latest/meta-data/"),
        add("http://[fd00:ec2::23]/"),
        // The session of the build, by which an uploaded tar comes.
        add("http://buildkit-session/tar"),
        add("https://user@BuildKit-Session/tar"),
        format!("FROM scratch\nARG H=127.0.0.\nADD http://${{H}}1:{port}/v2/ /stolen\n"),
        format!("FROM scratch AS a\nADD http://127.0.0.1:{port}/v2/ /stolen\nFROM scratch\nCOPY --from=a /stolen /\n"),
        format!("FROM scratch\nADD --checksum=sha256:{} http://127.0.0.1:{port}/v2/ /stolen\n", "0".repeat(64)),
    ]
    .iter()
    .enumerate()
    {
        let hostile = test.context(&format!("hostile{index}"), &[("Dockerfile", dockerfile)]);
        let refused = job.build(&hostile, &[]).await.ended(3);
        assert!(!refused.stderr.contains("password"), "{refused}");
    }
    assert_eq!(registry.requests_since(&before).await, Vec::<String>::new());
}

async fn git_repositories(test: Arc<Test>) {
    let (server, wharfd) = tokio::join!(BrokenRegistry::start(Broken::Unavailable), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let home = test.new_dir("bare");
    for (index, url) in [
        format!("http://{}/x.git", server.host()),
        format!("http://{}/x.git#{}", server.host(), "a".repeat(40)),
        format!("git://{}/x.git#{}", server.host(), "a".repeat(40)),
    ]
    .iter()
    .enumerate()
    {
        let dockerfile = format!("FROM scratch\nADD {url} /stolen\n");
        let hostile = test.context(&format!("hostile{index}"), &[("Dockerfile", &dockerfile)]);
        let connections = server.connections();
        test.engine.buildx_build(&home, &hostile, &[]).await;
        assert!(server.connections() > connections, "the bare engine asks the server: {url}");
        let connections = server.connections();
        job.build(&hostile, &[]).await.ended(3).says(&["ADD"]);
        assert_eq!(server.connections(), connections, "{url}");
    }
}

/// BuildKit fetches all files at once, each on a connection of its own, and compares each with each rule of the policy: 14,000
/// URLs took 76 s of the engine's processors.
async fn urls_without_number(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let url = |number: usize| format!("http://{}/v2/?{number}", registry.host());
    let urls: Vec<_> = (0..65).map(url).collect();
    let dockerfile = format!("FROM scratch\nADD {} /fetched/\n", urls.join(" "));
    let hostile = test.context("hostile", &[("Dockerfile", &dockerfile)]);
    let home = test.new_dir("bare");
    let before = registry.mark().await;
    test.engine.buildx_build(&home, &hostile, &["--no-cache", "--network=none"]).await.ok();
    assert!(registry.requests_since(&before).await.len() >= 65);

    let before = registry.mark().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    job.build(&hostile, &[]).await.ended(3).says(&["more than 64 files by `ADD` of a URL"]);
    assert_eq!(registry.requests_since(&before).await, Vec::<String>::new());
}
