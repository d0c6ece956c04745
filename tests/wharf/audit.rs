//! The audit log: docs/audit.md describes every event, and nothing that a job does breaks or fills it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Instant,
};

use futures_util::{future::join_all, stream};
use serde_json::{Value, json};
use tonic::{Code, transport::Channel};
use wharf::wire::v1::{
    GetInfoRequest, ListImagesRequest, Namespace, SessionOpen, SessionRequest, TagImageRequest,
    build_service_client::BuildServiceClient, image_service_client::ImageServiceClient,
    node_service_client::NodeServiceClient, session_request,
};

use crate::{
    authorization::methods,
    harness::{
        Test, Wharf, Wharfd, cases,
        image::{self, File},
        rpc, wait_for,
    },
    policy::reload,
};

cases![
    every_call_is_an_event,
    hostile_names_break_no_line,
    a_job_does_not_fill_the_disk,
    a_full_disk_ends_no_build,
];

const PAGE: &str = include_str!("../../docs/audit.md");

/// The events in a file; each complete line must be one.
pub(crate) fn events(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let (complete, _) = text.rsplit_once('\n').unwrap_or_default();
    let event = |line: &str| {
        assert!(line.len() < 128 << 10, "{} bytes", line.len());
        assert!(!line.contains(|c: char| c.is_control() || "\u{202e}\u{2028}".contains(c)), "{line:?}");
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    };
    complete.lines().map(event).collect()
}

fn text<'a>(event: &'a Value, key: &str) -> &'a str {
    event[key].as_str().unwrap_or_default()
}

fn keys(event: &Value) -> BTreeSet<String> {
    event.as_object().unwrap().keys().cloned().collect()
}

/// A table of the page: the name in the first column of each row, and the fields in the second.
fn table(heading: &str) -> BTreeMap<String, BTreeSet<String>> {
    let (_, section) = PAGE.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let first = section.split("\n\n").find(|part| part.contains("\n| --- |")).unwrap();
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let rows = first.lines().skip(2).map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        (quoted(cells[1]).remove(0), quoted(cells[2]).into_iter().collect())
    });
    rows.collect()
}

/// Fails if an event has a field that the page does not give it.
pub(crate) fn is_documented(event: &Value) {
    let mut known: BTreeSet<String> = ["time", "number", "event"].map(str::to_owned).into();
    let of_event = table("Events").remove(text(event, "event"));
    known.extend(of_event.unwrap_or_else(|| panic!("the page has no such event: {event}")));
    if known.contains("call") {
        let of_method = table("Methods").remove(text(event, "method"));
        known.extend(of_method.unwrap_or_else(|| panic!("the page has no such method: {event}")));
    }
    let unknown: Vec<_> = keys(event).difference(&known).cloned().collect();
    assert!(unknown.is_empty(), "the page does not have {unknown:?}: {event}");
}

fn config(path: &Path) -> String {
    format!("audit_log = {path:?}\n[[serve]]\nuid = 1000\nnamespaces = \"own/*\"\n")
}

/// A policy that allows all, under this name.
fn policy(name: &str) -> String {
    let all = "pull = [\"*\"]\npush = [\"*\"]\nnode_images = [\"*\"]\nadd = [\"*\"]\n";
    format!("[[policy]]\nname = \"{name}\"\njobs = [\"{name}\"]\n{all}")
}

const USER: &str = "user";
/// Secrets of a job, each of which reaches wharfd.
const SECRETS: [&str; 5] = [
    "password-of-a-registry",
    "secret-of-a-mount",
    "secret-of-an-argument",
    "secret-of-a-url",
    "secret-that-is-a-token-0123456789",
];

/// Makes each call of the API, and calls that fail and are refused. Returns the digests of the base and the push.
async fn all_calls(test: &Test, wharfd: &Wharfd, rotate: impl FnOnce()) -> (String, String) {
    let [password, mount, argument, url, token] = SECRETS;
    let registry = test.private_registry(USER, password).await;
    let base = test.base(&registry).await;
    let node = registry.name("node");
    test.engine.import(&node, "1", image::tar([("operators", File::Content(b"x", 0o644))])).await;
    let job = Wharf::new(test, wharfd, "job#1").with_variable("MOUNT", mount);
    job.login(&registry, Some((USER, password)));
    let plain = test.context("plain", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    job.build_id(&plain, &["-t", "own:1"]).await;
    let dockerfile = format!(
        "FROM own:1 AS own\nFROM {node}:1 AS node\nFROM {base} AS last\nARG SECRET\nCOPY --from=own /Dockerfile /own\n\
         COPY --from=node /operators /node\nRUN --mount=type=secret,id=s cat /run/secrets/s && echo $SECRET\n"
    );
    let context = test.context("context", &[("Dockerfile", &dockerfile)]);
    let (tag, argument) = (registry.name("app:1"), format!("SECRET={argument}"));
    let flags = ["-t", &tag, "--push", "--target=last", "--secret=id=s,env=MOUNT", "--build-arg", &argument];
    job.build(&context, &flags).await.ok();
    let failing = format!("FROM {base}\nARG SECRET\nRUN echo $SECRET; exit 3\n");
    let failing = test.context("failing", &[("Dockerfile", &failing)]);
    job.build(&failing, &["--build-arg", &argument]).await.ended(1);
    let denied = format!("FROM scratch\nADD http://{USER}:{url}@127.0.0.1:1/x /\n");
    let denied = test.context("denied", &[("Dockerfile", &denied)]);
    job.build(&denied, &[]).await.ended(3);
    rotate();
    for command in [
        &["pull", &base][..],
        &["push", &tag],
        &["tag", &tag, "app:2"],
        &["images"],
        &["inspect", "app:2"],
        &["save", "-o", "saved.tar", "app:2"],
        &["rmi", "app:2"],
        &["rmi", "own:1"],
        &["namespace", "ls"],
        &["info"],
        &["policy", "check"],
    ] {
        job.run(command).await.ok();
    }
    job.as_uid(1000).run(["images"]).await.ended(3).says(&["is not yours"]);
    job.run(["policy", "check", "--as", "uid 1000"]).await.ended(3).says(&["only the node's operator"]);
    job.with_token(token).run(["info"]).await.ended(3);
    let stranger = rpc::connect_as(&wharfd.socket(), 1001).await;
    let refused = NodeServiceClient::new(stranger).get_info(GetInfoRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    job.run(["namespace", "rm", "--job"]).await.ok();
    test.engine.remove_image(&format!("{node}:1")).await;
    (registry.digest("base", "1").await.unwrap(), registry.digest("app", "1").await.unwrap())
}

async fn every_call_is_an_event(test: Arc<Test>) {
    let (path, rotated) = (test.dir().join("audit.jsonl"), test.dir().join("audit.jsonl.1"));
    let own = format!("{}{}", config(&path), policy("job"));
    let wharfd = test.wharfd_with(Some(&own), &[]).await;
    let (base, pushed) = all_calls(&test, &wharfd, || fs::rename(&path, &rotated).unwrap()).await;
    reload(&wharfd, &format!("pulls = []\n{own}"), "the old one stays in use").await;
    let changed = format!("namespace_ttl = \"1h\"\n{}{}", config(&path), policy("other") + &policy("job"));
    reload(&wharfd, &changed.replace("add = [\"*\"]\n", ""), "the configuration is reloaded").await;
    assert_eq!(wharfd.terminate().await, 0);

    let mut all = events(&rotated);
    assert!(!all.is_empty());
    all.extend(events(&path));
    for file in [&path, &rotated] {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        let written = fs::read_to_string(file).unwrap();
        for secret in SECRETS {
            assert!(!written.contains(secret), "{secret}: {written}");
        }
    }
    // Nothing is lost by the rotation.
    let numbers: Vec<_> = all.iter().map(|event| event["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    assert_eq!((text(&all[0], "event"), text(all.last().unwrap(), "event")), ("started", "stopped"));

    the_page_is_true(&all);
    each_configuration_is_an_event(&all);
    let ended = |method: &str, result: &str| {
        let is_it = |event: &&Value| {
            (text(event, "event"), text(event, "method"), text(event, "result")) == ("ended", method, result)
        };
        all.iter().find(is_it).unwrap_or_else(|| panic!("no {method} is {result}: {all:#?}"))
    };
    let built = all.iter().find(|event| event["target"] == "last" && event["event"] == "ended").unwrap();
    let of = |event: &Value| ["caller", "engine", "rule"].map(|key| text(event, key).to_owned()).join(", ");
    assert_eq!(of(built), "uid 0, default, serve uid 0");
    let is_done = |event: &&Value| event["namespace"].is_object() && event["result"] != "refused";
    assert!(all.iter().filter(is_done).count() > 10);
    assert!(all.iter().filter(is_done).all(|event| event["policy"] == "job"), "{all:#?}");
    assert_eq!(built["namespace"], json!({"job": "job", "run": "1"}));
    let mut admitted: Vec<_> = built["admitted"].as_array().unwrap().clone();
    admitted.sort_by_key(|entry| text(entry, "by").to_owned());
    let by: Vec<_> = admitted.iter().map(|entry| text(entry, "by")).collect();
    assert_eq!(by, ["node", "own", "registry"], "{built}");
    assert!(admitted.iter().all(|entry| text(entry, "digest").starts_with("sha256:")), "{built}");
    assert_eq!(text(&admitted[2], "digest"), base);
    assert_eq!((text(built, "digest"), text(&built["pushed"][0], "digest")), (&*pushed, &*pushed));
    let begun = |event: &&Value| event["event"] == "begun" && event["call"] == built["call"];
    assert!(all.iter().take_while(|event| *event != built).any(|event| begun(&event)), "{built}");

    assert_eq!(ended("BuildService/Build", "failed")["failure"], "STEP");
    let denied = ended("BuildService/Build", "refused");
    assert_eq!(denied["reason"], "SourceDenied");
    assert!(text(denied, "message").contains("xxxxx@127.0.0.1"), "{denied}");
    assert_eq!(ended("ImageService/PullImage", "done")["admitted"][0]["digest"], *base);
    assert_eq!(ended("ImageService/PushImage", "done")["pushed"][0]["digest"], *pushed);
    let refused = ended("ImageService/ListImages", "refused");
    assert_eq!((text(refused, "rule"), refused.get("policy")), ("serve uid 1000", None));
    assert_eq!(ended("PolicyService/CheckPolicy", "refused")["asked_about"], "uid 1000");
    assert_eq!(ended("NamespaceService/DeleteNamespace", "done")["cancelled_builds"], 0);
    let refused: Vec<_> = all.iter().filter(|event| event["event"] == "refused").collect();
    // The token is refused for the user that shows it; both users have proven nothing.
    assert!(refused.iter().any(|event| event["caller"] == "uid 0"), "{refused:?}");
    assert!(refused.iter().all(|event| event["reason"] == "UnknownCaller"), "{refused:?}");
}

/// At the start, after a mistake in the file, and after a good one that moves and changes a policy.
fn each_configuration_is_an_event(all: &[Value]) {
    let configured: Vec<_> = all.iter().filter(|event| event["event"] == "configured").collect();
    let [start, refused, reloaded] = configured[..] else { panic!("{configured:?}") };
    let entries = |entries: u64| json!({"entries": entries});
    assert_eq!((&start["serve"], &start["policies"]), (&entries(2), &entries(1)));
    assert_eq!((text(start, "result"), text(refused, "result")), ("done", "refused"));
    let message = text(refused, "message");
    assert!(message.contains("wharfd.toml:") && message.contains("unknown field `pulls`"), "{message}");
    let changed = json!({"entries": 2, "added": 1, "changed": 1, "removed": 0});
    assert_eq!(reloaded["policies"], changed);
    assert_eq!(reloaded["serve"], json!({"entries": 2, "added": 0, "changed": 0, "removed": 0}));
    assert_eq!((text(reloaded, "result"), text(reloaded, "needs_restart")), ("done", "namespace_ttl"));
}

/// Compares the events with the page: it names all of the API's methods, and the fields are those that it gives.
fn the_page_is_true(all: &[Value]) {
    all.iter().for_each(is_documented);
    let documented = table("Methods");
    assert_eq!(documented.keys().cloned().collect::<BTreeSet<_>>(), methods(), "every method is an event");
    let mut seen = BTreeMap::<&str, BTreeSet<String>>::new();
    for event in all {
        seen.entry(text(event, "event")).or_default().extend(keys(event));
        if event["event"] == "ended" {
            seen.entry(text(event, "method")).or_default().extend(keys(event));
        }
    }
    // Other tests show these.
    let elsewhere = ["namespace_ended", "job_retired", "disk", "lost", "unrecorded", "unrecorded_of_others"];
    for (name, fields) in table("Events").into_iter().chain(documented) {
        if !elsewhere.contains(&name.as_str()) {
            let seen = seen.get(name.as_str()).unwrap_or_else(|| panic!("no event is `{name}`"));
            let missing = fields.iter().filter(|field| !seen.contains(*field));
            let missing: Vec<_> = missing.filter(|field| !elsewhere.contains(&field.as_str())).collect();
            assert!(missing.is_empty(), "{name} never has {missing:?}");
        }
    }
    let examples: Vec<Value> = PAGE
        .lines()
        .filter(|line| line.starts_with("{\"time\":"))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    examples.iter().for_each(is_documented);
    let shown: BTreeSet<_> = examples.iter().map(|event| text(event, "event").to_owned()).collect();
    assert_eq!(shown, table("Events").into_keys().collect(), "each event has an example");
}

async fn hostile_names_break_no_line(test: Arc<Test>) {
    let path = test.dir().join("audit.jsonl");
    let wharfd = test.wharfd_with(Some(&config(&path)), &[]).await;
    let mut images = ImageServiceClient::new(rpc::connect(&wharfd.socket()).await);
    let job = "',{event:started}\\".to_owned() + &"\u{1f600}".repeat(200);
    let namespace = Some(Namespace { job: job.clone(), run: "1".to_owned(), issuer: String::new() });
    let request = ListImagesRequest { namespace: namespace.clone(), ..ListImagesRequest::default() };
    images.list_images(request).await.unwrap();
    let source = format!("\u{202e}\u{2028}x\n{{\"event\":\"stopped\"}}\n\u{1b}[2J{}", "y".repeat(60_000));
    let request = TagImageRequest { namespace, source: source.clone(), target: "app:1".to_owned() };
    images.tag_image(request).await.unwrap_err();
    let tagged = async || events(&path).into_iter().find(|event| text(event, "method").contains("Tag"));
    let tagged = wait_for("the event of the tag", tagged).await;
    is_documented(&tagged);
    // A machine reads the names as they are.
    assert_eq!(text(&tagged["namespace"], "job"), job);
    let shown = text(&tagged, "source").strip_suffix('…').unwrap();
    assert!(source.starts_with(shown) && shown.len() > 1000, "{shown}");
    let forged = |event: &Value| ["started", "stopped"].contains(&text(event, "event"));
    assert_eq!(events(&path).iter().filter(|event| forged(event)).count(), 1);
}

/// Opens a session, and leaves it.
async fn session(channel: &Channel) {
    let open = SessionOpen { namespace: Some(rpc::namespace("job#1")), ..SessionOpen::default() };
    let open = SessionRequest { request: Some(session_request::Request::Open(open)) };
    let answers = BuildServiceClient::new(channel.clone()).session(stream::iter([open])).await;
    let mut answers = answers.unwrap().into_inner();
    while let Ok(Some(_)) = answers.message().await {}
}

async fn sessions(channel: &Channel, number: usize) {
    join_all((0..number).map(|_| session(channel))).await;
}

async fn a_job_does_not_fill_the_disk(test: Arc<Test>) {
    let path = test.dir().join("audit.jsonl");
    let wharfd = test.wharfd_with(Some(&config(&path)), &[]).await;
    let channel = rpc::connect(&wharfd.socket()).await;
    let begun = Instant::now();
    let mut opened = 0;
    while !wharfd.log().iter().any(|line| line.contains("too many events for the audit log")) {
        sessions(&channel, 50).await;
        opened += 50;
    }
    // The next event after a pause has the count.
    let counted = async || {
        session(&channel).await;
        opened += 1;
        events(&path).into_iter().find(|event| event["event"] == "begun" && event["unrecorded"].is_u64())
    };
    is_documented(&wait_for("an event with the number of those that were left out", counted).await);
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
    let recorded = events(&path).iter().filter(|event| text(event, "method").ends_with("Session")).count();
    assert!(
        recorded <= 2 * (1000 + 5 * (seconds + 1)),
        "{recorded} events of {opened} sessions in {seconds} s"
    );
    assert!(recorded / 2 < opened, "{recorded} events of {opened} sessions are no attack");
}

/// A file system of a few pages; it goes with this value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(at: PathBuf) -> Self {
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", "size=32k,mode=0755", "none"]).arg(&at).status();
        assert!(mounted.unwrap().success());
        Self(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

async fn a_full_disk_ends_no_build(test: Arc<Test>) {
    let disk = SmallDisk::new(test.new_dir("disk"));
    let (path, filler) = (disk.0.join("audit.jsonl"), disk.0.join("filler"));
    fs::write(&filler, [0; 16 << 10]).unwrap();
    let wharfd = test.wharfd_with(Some(&config(&path)), &[]).await;
    let channel = rpc::connect(&wharfd.socket()).await;
    while !wharfd.log().iter().any(|line| line.contains("events of the audit log are lost")) {
        sessions(&channel, 10).await;
    }
    let lost = wharfd.log().into_iter().find(|line| line.contains("are lost")).unwrap();
    assert!(lost.contains(" ERROR ") && lost.contains("No space left"), "{lost}");
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    Wharf::new(&test, &wharfd, "job#1").build_id(&context, &["-t", "app:1"]).await;
    assert!(fs::metadata(&path).unwrap().len() > 15 << 10, "the disk is not full");

    fs::remove_file(filler).unwrap();
    let told = async || {
        session(&channel).await;
        events(&path).into_iter().find(|event| event["event"] == "lost")
    };
    is_documented(&wait_for("the lost events to be told", told).await);
    assert_eq!(wharfd.terminate().await, 0);
    // Each line is whole, and each event is there or counted.
    let all = events(&path);
    assert_eq!(text(all.last().unwrap(), "event"), "stopped");
    let lost: u64 = all.iter().filter_map(|event| event["events"].as_u64()).sum();
    let numbered = all.iter().filter(|event| event["number"].is_u64()).count() as u64;
    assert!(lost > 0);
    assert_eq!(all.last().unwrap()["number"].as_u64(), Some(numbered + lost));
}
