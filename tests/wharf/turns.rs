//! Builds that wait for their turn.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use rustix::process::Signal;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;
use wharf::wire::v1::{
    BuildRequest, BuildSpec, GetInfoRequest, build_request::Request, build_response::Response,
    build_service_client::BuildServiceClient, node_service_client::NodeServiceClient,
};

use crate::harness::{
    Issuer, PATIENCE, Test, Wharf, Wharfd, cases, image::context_tar, issuer::seconds, process::shell_status,
    rpc, wait_for,
};

cases![
    turns_are_fair,
    a_full_queue_refuses_one_caller,
    who_waits_can_leave,
    a_build_is_authorized_again_at_its_turn,
    a_job_sees_its_place,
];

/// An event of a build.
#[derive(Debug)]
enum Event {
    /// It waits behind so many others.
    Ahead(u32),
    /// Its turn has come.
    Turn,
    /// It has ended.
    Ended(Result<(), Status>),
}

/// Builds, each of which runs until the test releases it.
pub(crate) struct Builds {
    /// The last known place of each.
    places: BTreeMap<String, u32>,
    operator: Channel,
    events: mpsc::UnboundedReceiver<(String, Event)>,
    sender: mpsc::UnboundedSender<(String, Event)>,
    held: BTreeMap<String, (oneshot::Sender<()>, tokio::task::AbortHandle)>,
    tar: Bytes,
}

/// The bytes of the context that are sent at first.
const FIRST: usize = 700;

impl Builds {
    /// The operator of a wharfd is root, if no entry serves it.
    pub(crate) async fn new(wharfd: &Wharfd) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let tar = context_tar(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]).into();
        let operator = rpc::connect(&wharfd.socket()).await;
        Self { places: BTreeMap::new(), operator, events, sender, held: BTreeMap::new(), tar }
    }

    /// How many builds run on the engine.
    async fn running(&self) -> u32 {
        let info = NodeServiceClient::new(self.operator.clone()).get_info(GetInfoRequest::default()).await;
        info.unwrap().into_inner().engines[0].builds.unwrap().running
    }

    /// Begins a build in a namespace, by which the test knows it.
    fn begin(&mut self, channel: &Channel, namespace: &str) {
        let (release, released) = oneshot::channel();
        let (tar, sender) = (self.tar.clone(), self.sender.clone());
        let following = follow(channel.clone(), namespace.to_owned(), tar, released, sender);
        self.held.insert(namespace.to_owned(), (release, tokio::spawn(following).abort_handle()));
    }

    /// Lets a build go to its end.
    pub(crate) fn release(&mut self, namespace: &str) {
        self.held.remove(namespace).unwrap().0.send(()).unwrap();
    }

    /// The client of a build goes.
    fn abandon(&mut self, namespace: &str) {
        self.held.remove(namespace).unwrap().1.abort();
    }

    async fn event(&mut self) -> (String, Event) {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        let event = event.expect("an event").unwrap();
        if let (name, Event::Ahead(place)) = &event {
            self.places.insert(name.clone(), *place);
        }
        event
    }

    /// The next event, but for places in the queue.
    async fn next(&mut self) -> (String, Event) {
        loop {
            match self.event().await {
                (_, Event::Ahead(_)) => {}
                event => return event,
            }
        }
    }

    /// Begins a build that has to wait behind so many.
    pub(crate) async fn waits(&mut self, channel: &Channel, namespace: &str, ahead: u32) {
        self.begin(channel, namespace);
        self.becomes(namespace, ahead).await;
    }

    /// Waits until a build that waits is behind so many.
    async fn becomes(&mut self, namespace: &str, ahead: u32) {
        while self.places.get(namespace) != Some(&ahead) {
            match self.event().await {
                (_, Event::Ahead(_)) => {}
                other => panic!("{namespace} should wait behind {ahead}: {other:?}"),
            }
        }
    }

    /// Begins a build that runs at once.
    pub(crate) async fn runs(&mut self, channel: &Channel, namespace: &str) {
        let before = self.running().await;
        self.begin(channel, namespace);
        wait_for("the build to run", async || (self.running().await == before + 1).then_some(())).await;
    }

    /// Releases a running build; the next turn must be this one's.
    pub(crate) async fn after(&mut self, released: &str, next: &str) {
        self.release(released);
        let mut events = [self.next().await, self.next().await];
        // The end of the one and the turn of the other come from two streams.
        events.sort_by_key(|(_, event)| matches!(event, Event::Turn));
        let [(ended, end), (name, turn)] = &events;
        assert!(ended == released && matches!(end, Event::Ended(Ok(()))), "{events:?}");
        assert!(name == next && matches!(turn, Event::Turn), "{events:?}");
    }

    /// The end of a build, which must be the next event.
    pub(crate) async fn end(&mut self, namespace: &str) -> Result<(), Status> {
        match self.next().await {
            (name, Event::Ended(end)) if name == namespace => end,
            other => panic!("{namespace} should end: {other:?}"),
        }
    }
}

impl Drop for Builds {
    fn drop(&mut self) {
        self.held.values().for_each(|(_, task)| task.abort());
    }
}

/// Follows a build to its end.
async fn follow(
    channel: Channel,
    name: String,
    tar: Bytes,
    released: oneshot::Receiver<()>,
    events: mpsc::UnboundedSender<(String, Event)>,
) {
    let tell = |event| drop(events.send((name.clone(), event)));
    let start = rpc::start(&name, BuildSpec::default());
    let pieces = stream::iter([Request::Start(start), Request::Tar(tar.slice(..FIRST))])
        .chain(stream::once(async move {
            let _ = released.await;
            Request::Tar(tar.slice(FIRST..))
        }))
        .map(|request| BuildRequest { request: Some(request) });
    let mut client = BuildServiceClient::new(channel);
    let ended = async {
        let mut responses = client.build(pieces).await?.into_inner();
        while let Some(message) = responses.message().await? {
            let Some(Response::Progress(progress)) = message.response else { return Ok(()) };
            let mut waits = progress.vertexes.iter().filter(|vertex| vertex.name == "wait for a turn");
            if waits.any(|vertex| vertex.completed.is_some()) {
                tell(Event::Turn);
            } else if let Some(queue) = progress.queue {
                tell(Event::Ahead(queue.ahead));
            }
        }
        Err(Status::internal("no result"))
    };
    let ended = ended.await;
    tell(Event::Ended(ended));
}

fn serve(uids: &[u32]) -> String {
    uids.iter().map(|uid| format!("[[serve]]\nuid = {uid}\nnamespaces = \"*\"\n")).collect()
}

async fn turns_are_fair(test: Arc<Test>) {
    let config = "max_builds = 4\nmax_builds_per_job = 2\n".to_owned() + &serve(&[1000, 1001, 1002]);
    let wharfd = test.wharfd_as_it_ships(Some(&config)).await;
    let socket = wharfd.socket();
    let [flood, one, other] = [1000, 1001, 1002].map(|uid| rpc::connect_as(&socket, uid));
    let (flood, one, other) = tokio::join!(flood, one, other);
    let mut builds = Builds::new(&wharfd).await;
    // A job at its limit stops no other job of its caller.
    builds.runs(&flood, "same#1").await;
    builds.runs(&flood, "same#2").await;
    builds.waits(&flood, "same#3", 0).await;
    builds.waits(&flood, "same#4", 1).await;
    builds.runs(&flood, "more0#1").await;
    // Nor has a caller with many jobs all places.
    for job in 1..=20 {
        builds.waits(&flood, &format!("more{job}#1"), job - 1).await;
    }
    builds.becomes("same#3", 20).await;
    builds.runs(&one, "one#1").await;
    // Who runs nothing is next, and then who runs least and has waited longest.
    builds.waits(&other, "other#1", 0).await;
    builds.waits(&one, "one#2", 1).await;
    builds.becomes("more1#1", 2).await;
    builds.after("same#1", "other#1").await;
    builds.after("more0#1", "more1#1").await;
    builds.after("one#1", "one#2").await;
    builds.after("same#2", "same#3").await;
    builds.after("one#2", "more2#1").await;
    // The last place is for others, though twenty builds wait.
    builds.release("other#1");
    builds.end("other#1").await.unwrap();
    builds.runs(&one, "one#3").await;
}

async fn a_full_queue_refuses_one_caller(test: Arc<Test>) {
    const ROOM: u32 = 256;
    let wharfd = test.wharfd_as_it_ships(Some(&("max_builds = 1\n".to_owned() + &serve(&[1000])))).await;
    let mut builds = Builds::new(&wharfd).await;
    let mut channel = rpc::connect(&wharfd.socket()).await;
    builds.runs(&channel, "held#1").await;
    for job in 0..ROOM {
        if job % 32 == 0 {
            channel = rpc::connect(&wharfd.socket()).await;
        }
        builds.waits(&channel, &format!("job{job}#1"), job).await;
    }
    let tar = builds.tar.clone();
    let refused =
        rpc::build_tar(&channel, rpc::start("new#1", BuildSpec::default()), tar).await.status.unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let details = refused.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "LIMIT_REACHED", "{refused:?}");
    assert!(details.retry_info().unwrap().retry_delay.is_some(), "{refused:?}");
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let job = Wharf::new(&test, &wharfd, "new#1");
    job.build(&context, &[]).await.ended(5).says(&["too many builds wait", "256 of them yours"]);
    // Another caller has a place, and waits for one turn of all these.
    let other = rpc::connect_as(&wharfd.socket(), 1000).await;
    builds.waits(&other, "other#1", 0).await;
    builds.becomes("job1#1", 2).await;
    builds.abandon("job0#1");
    builds.becomes("job1#1", 1).await;
    builds.after("held#1", "job1#1").await;
    builds.after("job1#1", "other#1").await;
}

async fn who_waits_can_leave(test: Arc<Test>) {
    let wharfd = test.wharfd_as_it_ships(Some("max_builds = 1\n")).await;
    let channel = rpc::connect(&wharfd.socket()).await;
    let mut builds = Builds::new(&wharfd).await;
    builds.runs(&channel, "held#1").await;
    for (name, ahead) in [("gone#1", 0), ("removed#1", 1), ("drained#1", 2)] {
        builds.waits(&channel, name, ahead).await;
    }
    builds.abandon("gone#1");
    builds.becomes("drained#1", 1).await;
    let removed = Wharf::new(&test, &wharfd, "removed#1").run(["namespace", "rm"]).await.ok();
    assert!(removed.stdout.contains("Cancelled builds: 1"), "{removed}");
    let status = builds.end("removed#1").await.unwrap_err();
    assert_eq!(status.code(), Code::Cancelled, "{status:?}");
    builds.becomes("drained#1", 0).await;
    // The client may try again at once, at the next wharfd; the running build goes on.
    wharfd.process().signal(Signal::TERM);
    let status = builds.end("drained#1").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(status.get_details_error_info().unwrap().reason, "SHUTTING_DOWN");
    builds.release("held#1");
    builds.end("held#1").await.unwrap();
    assert_eq!(shell_status(wharfd.process().wait(PATIENCE).await.unwrap()), 0);
    wharfd.start().await;
}

async fn a_build_is_authorized_again_at_its_turn(test: Arc<Test>) {
    let issuer = Issuer::new(&test, "ci");
    let config = "max_builds = 1\n".to_owned() + &issuer.config("*");
    let wharfd = test.wharfd_as_it_ships(Some(&config)).await;
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let agent = Wharf::new(&test, &wharfd, "app#1").as_uid(1003);
    // Clocks may differ by ten seconds.
    let short = agent.with_token(&issuer.token_with("app", 1, json!({"exp": seconds() + 5})));
    let root = rpc::connect(&wharfd.socket()).await;
    let mut builds = Builds::new(&wharfd).await;
    builds.runs(&root, "held#1").await;
    let build = short.start(["build", "--progress=plain", context.to_str().unwrap()]);
    build.says("to wait", |line| line.contains("no build is ahead").then_some(())).await;
    wait_for("the token to expire", async || (short.run(["images"]).await.status == 3).then_some(())).await;
    assert!(build.ended().await.is_none(), "{:?}", build.lines());
    builds.release("held#1");
    builds.end("held#1").await.unwrap();
    let ended = build.wait(PATIENCE).await.unwrap();
    let said = build.lines().join("\n");
    assert_eq!(shell_status(ended), 3, "{said}");
    assert!(said.contains("has expired") && said.contains("not at its turn"), "{said}");
    // With a token that is good at the turn, the same build runs.
    let long = agent.with_token(&issuer.token("app", 1));
    builds.runs(&root, "held#2").await;
    let build = long.start(["build", "--progress=plain", context.to_str().unwrap()]);
    build.says("to wait", |line| line.contains("no build is ahead").then_some(())).await;
    builds.release("held#2");
    builds.end("held#2").await.unwrap();
    let ended = build.wait(PATIENCE).await.unwrap();
    assert_eq!(shell_status(ended), 0, "{:?}", build.lines());
    long.run(["namespace", "rm"]).await.ok();
}

/// The line of the log about a build in a namespace that says this.
async fn logged(wharfd: &Wharfd, namespace: &str, text: &str) -> String {
    let namespace = format!("namespace=\"{namespace}\"");
    let says = |line: &String| {
        line.contains("BuildService/Build") && line.contains(&namespace) && line.contains(text)
    };
    wait_for(text, async || wharfd.log().into_iter().find(says)).await
}

async fn a_job_sees_its_place(test: Arc<Test>) {
    let config = "max_builds = 1\nlog_level = \"info,wharf=debug\"\n";
    let wharfd = test.wharfd_as_it_ships(Some(config)).await;
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let root = rpc::connect(&wharfd.socket()).await;
    let mut builds = Builds::new(&wharfd).await;
    builds.runs(&root, "held#1").await;
    let job = Wharf::new(&test, &wharfd, "plain#1");
    let plain = job.start(["build", "--progress=plain", context.to_str().unwrap()]);
    plain.says("to wait", |line| line.contains("#1 no build is ahead").then_some(())).await;
    let quiet = job.in_namespace("quiet#1");
    let quiet = tokio::spawn(async move { quiet.run(["build", "-q", context.to_str().unwrap()]).await });
    logged(&wharfd, "quiet#1", ": begun").await;
    let info = job.run(["info"]).await.ok().stdout;
    assert!(info.contains(" Builds: 1 running, 2 waiting"), "{info}");
    builds.release("held#1");
    let ended = plain.wait(PATIENCE).await.unwrap();
    let lines = plain.lines();
    assert_eq!(shell_status(ended), 0, "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("#1 wait for a turn")).count(), 1, "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("#1 DONE")), "{lines:?}");
    let quiet = quiet.await.unwrap().ok();
    assert!(quiet.stdout.starts_with("sha256:") && quiet.stdout.lines().count() == 1, "{quiet}");
    assert_eq!(quiet.stderr, "");
    for waited in ["plain#1", "quiet#1"] {
        assert!(logged(&wharfd, waited, ": ended").await.contains(" waited="));
    }
    assert!(!logged(&wharfd, "held#1", ": ended").await.contains(" waited="));
}
