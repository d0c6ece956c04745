//! Callers that a token proves, and those that it does not.

use std::{fs, sync::Arc};

use serde_json::json;
use sha2::{Digest as _, Sha256};
use tonic::{Code, Request};
use tonic_types::StatusExt as _;
use wharf::wire::v1::{
    BuildRequest, DeleteNamespaceRequest, GetInfoRequest, ListImagesRequest,
    build_service_client::BuildServiceClient, image_service_client::ImageServiceClient,
    namespace_service_client::NamespaceServiceClient, node_service_client::NodeServiceClient,
};

use crate::harness::{Issuer, Test, Wharf, cases, issuer::seconds, rpc};

cases![
    a_job_token_is_one_run_of_one_job,
    two_controllers_may_share_a_name,
    who_proves_nothing_is_not_read,
    a_static_token_is_its_entry,
    a_build_outlives_its_token,
    a_token_does_not_outlive_its_namespace,
    a_job_leaves_connections_to_others,
];

/// A user that has no entry of its own.
const AGENT: u32 = 1003;

fn dockerfile(text: &str) -> String {
    format!("FROM scratch\nCOPY Dockerfile /{text}\n")
}

async fn a_job_token_is_one_run_of_one_job(test: Arc<Test>) {
    let issuer = Issuer::new(&test, "ci");
    let wharfd = test.wharfd_with(Some(&issuer.config("acme/*")), &["--log-level", "trace"]).await;
    let context = test.context("context", &[("Dockerfile", &dockerfile("a"))]);
    let agent = Wharf::new(&test, &wharfd, "acme/app#1").as_uid(AGENT);
    agent.build(&context, &[]).await.ended(3).says(&[&format!("uid {AGENT} is not served here")]);

    let token = issuer.token("acme/app", 1);
    let job = agent.with_token(&token);
    let id = job.build_id(&context, &["-t", "app:1"]).await;
    assert_eq!(job.images().await, [("app:1".to_owned(), id.clone())]);
    let info = job.run(["info"]).await.ok().stdout;
    assert!(info.contains("job ci:acme/app") && info.contains("ci:acme/app#1"), "{info}");
    // The token decides: another name is refused, its own may be said.
    let named = |name: &'static str| ["--namespace", name, "images", "-q"];
    job.run(named("acme/app#1")).await.ok();
    for other in ["acme/app#2", "acme/other#1", "ci:acme/app#1"] {
        job.run(named(other)).await.ended(3).says(&["is not yours", "ci:acme/app#1"]);
    }

    // Another run, another job, and the user whose uid is named like the job have none of it.
    for (name, run) in [("acme/app", 2), ("acme/other", 1)] {
        let other = agent.with_token(&issuer.token(name, run));
        assert!(other.images().await.is_empty());
        other.run(["inspect", &id]).await.ended(6);
    }
    let root = Wharf::new(&test, &wharfd, "acme/app#1");
    assert!(root.images().await.is_empty(), "a claimed name is another job");

    // In a file, as an agent may have it.
    let file = test.new_dir("token").join("token");
    fs::write(&file, format!("{token}\n")).unwrap();
    let in_file = ["--token-file", file.to_str().unwrap(), "images", "-q"];
    let images = Wharf::new(&test, &wharfd, "acme/app#1").run(in_file).await.ok();
    assert!(id.contains(images.stdout.trim()), "{id} {images:?}");

    // A token that proves nothing is nobody, even where the uid is served.
    let foreign = Issuer::new(&test, "ci");
    let now = seconds();
    for (bad, why) in [
        (foreign.token("acme/app", 1), "not signed by a key of issuers.ci"),
        (issuer.token_with("acme/app", 1, json!({"exp": now - 60})), "has expired"),
        (issuer.token_with("acme/app", 1, json!({"aud": "other"})), "not for this service"),
        (issuer.token("evil/app", 1), "no `[[serve]]`"),
        (issuer.sign(&json!({"alg": "none"}), &json!({})), "cannot be read"),
        (
            issuer.sign(&json!({"alg": "HS256", "kid": "1"}), &json!({"iss": "https://ci.example/oidc"})),
            "signed with HS256",
        ),
        ("nobody-has-this-token-0123456789".to_owned(), "not known here"),
    ] {
        for caller in [&agent, &root] {
            caller.with_token(&bad).run(["images"]).await.ended(3).says(&[why]);
        }
    }
    job.run(["namespace", "rm"]).await.ok();
    let log = wharfd.log().join("\n");
    for secret in [&token, token.rsplit_once('.').unwrap().1] {
        assert!(!log.contains(secret), "the log has a token");
    }
}

async fn two_controllers_may_share_a_name(test: Arc<Test>) {
    let issuers = ["one", "two"].map(|name| Issuer::new(&test, name));
    let config = issuers.each_ref().map(|issuer| issuer.config("*")).concat();
    let wharfd = test.wharfd_as_it_ships(Some(&config)).await;
    let agent = Wharf::new(&test, &wharfd, "app#1").as_uid(AGENT);
    let [one, two] = issuers.each_ref().map(|issuer| agent.with_token(&issuer.token("app", 1)));
    let registry = test.registry().await;
    let base = test.base(&registry).await;
    let step = "RUN --mount=type=cache,id=shared,target=/c cat /c/mark 2>/dev/null; echo $MARK | tee /c/mark";
    let text = format!("FROM {base}\nARG MARK\n{step}\n");
    let context = test.context("context", &[("Dockerfile", &text)]);
    let args = |mark: &str| ["-t".to_owned(), "app:1".to_owned(), format!("--build-arg=MARK={mark}")];
    let build = async |job: &Wharf, mark: &str| {
        let args = args(mark);
        job.build(&context, &args.each_ref().map(String::as_str)).await.ok()
    };
    build(&one, "first-mark").await;
    let seen = build(&two, "second-mark").await;
    assert!(!seen.stderr.contains("first-mark"), "a cache mount of another controller's job: {seen:?}");
    // The same step with the same argument runs: the other's result is not this job's.
    let again = build(&two, "first-mark").await;
    let ran = |line: &str| line.ends_with(" first-mark") && !line.contains("RUN");
    assert!(again.stderr.lines().any(ran), "{again:?}");
    let (ours, theirs) = (one.images().await, listed(&two).await);
    assert!(ours.len() == 1 && !theirs.is_empty() && !theirs.contains(&ours[0]), "{ours:?} {theirs:?}");
    one.run(["namespace", "rm"]).await.ok();
    assert_eq!(listed(&two).await, theirs);
    // The node's operator can end a namespace whose tokens are gone; nobody else can, not even by its name.
    let other = agent.with_token(&issuers[0].token("app", 2));
    for (who, status) in [(&one, 3), (&other, 3)] {
        who.run(["namespace", "rm", "--issuer", "two", "app#1"]).await.ended(status).says(&["is not yours"]);
    }
    assert_eq!(listed(&two).await, theirs);
    let operator = Wharf::new(&test, &wharfd, "app#1");
    operator.run(["namespace", "rm"]).await.ok();
    assert_eq!(listed(&two).await, theirs, "the claimed name is another job's");
    let names = operator.run(["namespace", "ls", "-q"]).await.ok().stdout;
    assert!(names.lines().eq(["two:app#1"]), "{names}");
    operator.run(["namespace", "rm", names.trim_end()]).await.ok();
    two.run(["images"]).await.ended(3).says(&["has ended"]);
    let later = agent.with_token(&issuers[1].token_with("app", 1, json!({"iat": seconds() + 5})));
    assert!(later.images().await.is_empty());
}

/// A job that is made anew counts its runs from one again: tokens of its predecessor may be about still.
async fn a_token_does_not_outlive_its_namespace(test: Arc<Test>) {
    let issuer = Issuer::new(&test, "ci");
    let config = issuer.config("*");
    let wharfd = test.wharfd_with(Some(&config), &[]).await;
    let context = test.context("context", &[("Dockerfile", &dockerfile("a"))]);
    let agent = Wharf::new(&test, &wharfd, "app#1").as_uid(AGENT);
    let now = seconds();
    let issued = |at: u64| agent.with_token(&issuer.token_with("app", 1, json!({"iat": at})));
    let (old, young) = (issued(now - 60), issued(now - 1));
    let id = old.build_id(&context, &["-t", "app:1"]).await;
    old.run(["namespace", "rm"]).await.ok();
    let over = ["namespace `ci:app#1` has ended, and your token is older"];
    for job in [&old, &young] {
        job.build(&context, &[]).await.ended(3).says(&over);
        job.run(["images"]).await.ended(3).says(&over);
        job.run(["tag", &id, "app:2"]).await.ended(3).says(&over);
    }

    // Times are whole seconds, and an issuer's clock may be a little ahead.
    let new = issued(seconds() + 5);
    let again = new.build_id(&context, &["-t", "app:1"]).await;
    // Ending a run that is over changes nothing of the new run, however often.
    old.run(["namespace", "rm"]).await.ok();
    assert_eq!(new.images().await, [("app:1".to_owned(), again.clone())]);
    old.run(["inspect", &again]).await.ended(3).says(&over);
    old.run(["namespace", "ls"]).await.ended(3).says(&over);
    assert_eq!(new.run(["namespace", "ls", "-q"]).await.ok().stdout, "ci:app#1\n");
    new.run(["namespace", "rm"]).await.ok();
}

/// A job's images. Those of one second come in any order.
async fn listed(job: &Wharf) -> Vec<(String, String)> {
    let mut images = job.images().await;
    images.sort();
    images
}

/// A call without proof is refused by its head: its message is neither awaited nor read.
async fn who_proves_nothing_is_not_read(test: Arc<Test>) {
    let issuer = Issuer::new(&test, "ci");
    let wharfd = test.wharfd_with(Some(&issuer.config("*")), &[]).await;
    let channel = rpc::connect_as(&wharfd.socket(), AGENT).await;
    let refused = |status: &tonic::Status| {
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
        assert_eq!(status.get_details_error_info().unwrap().reason, "UNKNOWN_CALLER");
    };
    // No message ever comes.
    let silent = futures_util::stream::pending::<BuildRequest>();
    refused(&BuildServiceClient::new(channel.clone()).build(silent).await.unwrap_err());
    // One that is too large to be read, which would be another error.
    let mut namespace = rpc::namespace("job#1");
    namespace.job = "j".repeat(1 << 20);
    let request = DeleteNamespaceRequest { namespace: Some(namespace), job: false };
    refused(
        &NamespaceServiceClient::new(channel.clone()).delete_namespace(request.clone()).await.unwrap_err(),
    );
    let known = rpc::connect(&wharfd.socket()).await;
    let read = NamespaceServiceClient::new(known).delete_namespace(request).await.unwrap_err();
    assert_eq!(read.code(), Code::ResourceExhausted, "whoever is served is told so: {read:?}");

    // Two proofs are none.
    let mut twice = Request::new(GetInfoRequest::default());
    for token in [issuer.token("app", 1), issuer.token("other", 1)] {
        twice.metadata_mut().append("authorization", format!("Bearer {token}").parse().unwrap());
    }
    refused(&NodeServiceClient::new(channel.clone()).get_info(twice).await.unwrap_err());

    // The same connection serves whoever proves something.
    let mut proven = Request::new(ListImagesRequest::default());
    proven
        .metadata_mut()
        .insert("authorization", format!("Bearer {}", issuer.token("app", 1)).parse().unwrap());
    ImageServiceClient::new(channel).list_images(proven).await.unwrap();
}

async fn a_static_token_is_its_entry(test: Arc<Test>) {
    const TOKEN: &str = "5f2b0c3c4d5e6f708192a3b4c5d6e7f8";
    let hash: String = Sha256::digest(TOKEN).iter().map(|byte| format!("{byte:02x}")).collect();
    let config = format!("[[serve]]\ntoken = \"nightly\"\nsha256 = \"{hash}\"\nnamespaces = \"nightly/*\"\n");
    let wharfd = test.wharfd_with(Some(&config), &["--log-level", "trace"]).await;
    let agent = Wharf::new(&test, &wharfd, "nightly/app#1").as_uid(AGENT);
    let context = test.context("context", &[("Dockerfile", &dockerfile("a"))]);
    let job = agent.with_token(TOKEN).in_namespace("nightly/app#1");
    let id = job.build_id(&context, &["-t", "app:1"]).await;
    let info = job.run(["info"]).await.ok().stdout;
    assert!(info.contains("token nightly") && info.contains("nightly/*"), "{info}");
    assert_eq!(job.images().await, [("app:1".to_owned(), id)]);
    job.in_namespace("other#1").run(["images"]).await.ended(3).says(&["is not yours"]);
    agent.with_token(TOKEN).run(["images"]).await.ended(2).says(&["names no namespace"]);
    assert!(!wharfd.log().join("\n").contains(TOKEN), "the log has the token");
}

/// The token ends while the build runs; the push afterwards asks the client for its login.
async fn a_build_outlives_its_token(test: Arc<Test>) {
    let issuer = Issuer::new(&test, "ci");
    let (registry, wharfd) = (test.registry().await, test.wharfd_with(Some(&issuer.config("*")), &[]).await);
    let base = test.base(&registry).await;
    let agent = Wharf::new(&test, &wharfd, "app#1").as_uid(AGENT);
    let seconds = seconds();
    // Clocks may differ by ten seconds.
    let short = agent.with_token(&issuer.token_with("app", 1, json!({"exp": seconds - 4})));
    let dockerfile = format!("FROM {base}\nRUN sleep 8\n");
    let context = test.context("context", &[("Dockerfile", &dockerfile)]);
    let tag = format!("{}/app:1", registry.host());
    short.build(&context, &["-t", &tag, "--push"]).await.ok();
    short.run(["images"]).await.ended(3).says(&["has expired"]);
    agent.with_token(&issuer.token("app", 1)).run(["namespace", "rm"]).await.ok();
}

/// All agents have one uid. A job that opens as many connections as it can, with its token or with none, takes
/// nobody else's.
async fn a_job_leaves_connections_to_others(test: Arc<Test>) {
    let issuer = Issuer::new(&test, "ci");
    let wharfd = test.wharfd_with(Some(&issuer.config("*")), &[]).await;
    let agent = Wharf::new(&test, &wharfd, "b#1").as_uid(AGENT);
    let mut held = Vec::new();
    let mut refused = None;
    for _ in 0..=512 {
        let channel = rpc::connect_as(&wharfd.socket(), AGENT).await;
        let mut request = Request::new(ListImagesRequest::default());
        request
            .metadata_mut()
            .insert("authorization", format!("Bearer {}", issuer.token("a", 1)).parse().unwrap());
        refused = ImageServiceClient::new(channel.clone()).list_images(request).await.err();
        held.push(channel);
    }
    let refused = refused.expect("the last connection is one too many");
    assert!(refused.message().contains("too many connections"), "{refused:?}");
    assert!(agent.with_token(&issuer.token("b", 1)).images().await.is_empty(), "another job connects");
    let silent: Vec<_> =
        (0..300).map(|_| std::os::unix::net::UnixStream::connect(wharfd.socket()).unwrap()).collect();
    assert!(
        agent.with_token(&issuer.token("b", 1)).images().await.is_empty(),
        "beside those that prove nothing"
    );
    drop((held, silent));
}
