//! One caller's streams and sessions, used by another caller.

use std::{sync::Arc, time::Duration};

use futures_util::stream;
use tonic::{Code, transport::Channel};
use tonic_types::StatusExt as _;
use wharf::wire::v1::{
    AttachRequest, BuildSpec, BuildStart, SessionOpen, SessionRequest, StreamError, attach_request,
    build_service_client::BuildServiceClient, session_request, session_response,
};

use crate::harness::{
    Test, cases,
    image::context_tar,
    rpc,
    session::{Client, Session},
    wait_for,
};

cases![
    sessions_and_streams_of_others,
    a_stream_is_attached_once,
    a_stalled_stream_stops_no_other,
    silent_clients_are_not_waited_for,
    an_answer_that_forges_a_line_of_the_log,
];

const CONFIG: &str = "[[serve]]\nuid = 1000\nnamespaces = \"*\"\n";

async fn attach(channel: &Channel, id: &str) -> tonic::Status {
    let first = AttachRequest { request: Some(attach_request::Request::StreamId(id.to_owned())) };
    let mut client = BuildServiceClient::new(channel.clone());
    let requests = stream::iter([first]);
    match client.attach(requests).await {
        Err(status) => status,
        Ok(responses) => responses.into_inner().message().await.expect_err("the stream is refused"),
    }
}

fn assert_not_found(status: &tonic::Status) {
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    assert_eq!(status.get_error_details().error_info().unwrap().reason, "SESSION_NOT_FOUND");
}

/// Starts a build in a session and waits for its first stream, which stays unanswered.
async fn first_stream(
    client: &Client,
    session: &mut Session,
) -> (tokio::task::JoinHandle<rpc::Build>, String) {
    let (channel, start) = (client.channel.clone(), client.start(session, BuildSpec::default()));
    let build = tokio::spawn(async move { rpc::build(&channel, start, stream::empty()).await });
    let message = tokio::time::timeout(Duration::from_secs(60), session.announced.message()).await;
    let message = message.expect("a stream is announced").unwrap().unwrap();
    let Some(session_response::Response::Stream(opened)) = message.response else {
        panic!("no stream: {message:?}")
    };
    (build, opened.stream_id)
}

async fn sessions_and_streams_of_others(test: Arc<Test>) {
    let wharfd = test.wharfd_with(Some(CONFIG), &[]).await;
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let victim = Client::of(&rpc::connect(&wharfd.socket()).await, "victim#1", &context);
    let thief = rpc::connect_as(&wharfd.socket(), 1000).await;
    let mut session = victim.open().await;

    // A build in the victim's session, in the namespace of either.
    for namespace in ["victim#1", "thief#1"] {
        let start = wharf::wire::v1::BuildStart {
            session_id: session.id.clone(),
            ..rpc::start(namespace, BuildSpec::default())
        };
        let status = rpc::build(&thief, start, stream::empty()).await.status.unwrap();
        assert_not_found(&status);
    }
    let (build, stream) = first_stream(&victim, &mut session).await;
    let taken = attach(&thief, &stream).await;
    assert_not_found(&taken);
    // The same message as for a missing stream.
    let guessed = attach(&thief, &"0".repeat(32)).await;
    assert_eq!(taken.message(), guessed.message());
    drop(session);
    let ended = build.await.unwrap();
    assert!(ended.result.is_none() && ended.status.is_some(), "{ended:?}");

    // A session cannot be used for another namespace.
    let session = victim.open().await;
    let start = wharf::wire::v1::BuildStart {
        session_id: session.id.clone(),
        ..rpc::start("victim#2", BuildSpec::default())
    };
    let status = rpc::build(&victim.channel, start, stream::empty()).await.status.unwrap();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");

    // The id of an ended session is not valid.
    let id = session.id.clone();
    drop(session);
    crate::harness::wait_for("the session's end", async || {
        let start = wharf::wire::v1::BuildStart {
            session_id: id.clone(),
            ..rpc::start("victim#1", BuildSpec::default())
        };
        let status = rpc::build(&victim.channel, start, stream::empty()).await.status?;
        (status.code() == Code::NotFound).then_some(())
    })
    .await;
}

async fn a_stream_is_attached_once(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let client = Client::of(&rpc::connect(&wharfd.socket()).await, "job#1", &context);
    let mut session = client.open().await;
    let (build, id) = first_stream(&client, &mut session).await;
    let first = AttachRequest { request: Some(attach_request::Request::StreamId(id.clone())) };
    let (hold, requests) = tokio::sync::mpsc::channel(1);
    hold.send(first).await.unwrap();
    let mut attached = BuildServiceClient::new(client.channel.clone());
    let attached = attached.attach(tokio_stream::wrappers::ReceiverStream::new(requests)).await.unwrap();
    assert_not_found(&attach(&client.channel, &id).await);
    drop((attached, hold));
    let ended = build.await.unwrap();
    assert!(ended.result.is_none(), "a stream that broke off fails the build: {ended:?}");
}

/// One connection, two builds: the first build's stream is attached, and then neither side of it moves.
async fn a_stalled_stream_stops_no_other(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let channel = rpc::connect(&wharfd.socket()).await;
    let stalled = Client::of(&channel, "stalled#1", &context);
    let mut session = stalled.open().await;
    let (build, id) = first_stream(&stalled, &mut session).await;
    let first = AttachRequest { request: Some(attach_request::Request::StreamId(id)) };
    let (hold, requests) = tokio::sync::mpsc::channel(1);
    hold.send(first).await.unwrap();
    let mut attached = BuildServiceClient::new(channel.clone());
    let attached = attached.attach(tokio_stream::wrappers::ReceiverStream::new(requests)).await.unwrap();

    let files = test.context("files", &[("Dockerfile", "FROM scratch\nCOPY . /\n")]);
    crate::harness::session::write_files(&files, 200, 24 << 20);
    let (running, syncs) = Client::of(&channel, "running#1", &files).build(BuildSpec::default()).await;
    running.ok();
    assert!(crate::harness::session::of_context(&syncs).data > 24 << 20);
    let tar = context_tar(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    rpc::build_tar(&channel, rpc::start("tar#1", BuildSpec::default()), tar).await.ok();

    assert!(!build.is_finished());
    drop((session, attached, hold));
    assert!(build.await.unwrap().result.is_none());
}

/// Each is silent where wharfd waits for half a minute. All wait at the same time.
async fn silent_clients_are_not_waited_for(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let channel = rpc::connect(&wharfd.socket()).await;
    let service = BuildServiceClient::new(channel.clone());
    let [mut opens, mut attaches, mut builds] = [service.clone(), service.clone(), service];
    let client = Client::of(&channel, "silent#1", &context);
    let mut session = client.open().await;
    // The client never attaches to this build's stream; its session stays open.
    let (unattended, _) = first_stream(&client, &mut session).await;
    let (opened, attached, built, unattended, ()) = tokio::join!(
        opens.session(stream::pending()),
        attaches.attach(stream::pending()),
        builds.build(stream::pending()),
        unattended,
        async {
            let tar = context_tar(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
            rpc::build_tar(&channel, rpc::start("other#1", BuildSpec::default()), tar).await.ok();
        }
    );
    let refused =
        [opened.map(drop).unwrap_err(), attached.map(drop).unwrap_err(), built.map(drop).unwrap_err()];
    for status in refused {
        let info = status.get_error_details();
        assert_eq!(info.error_info().unwrap().reason, "STREAM_BROKEN", "{status:?}");
        assert_eq!(status.message(), "the client sent no message for 30 seconds");
    }
    let unattended = unattended.unwrap();
    assert!(format!("{unattended:?}").contains("did not attach within 30 seconds"), "{unattended:?}");
    assert!(unattended.result.is_none());
    // The session has not ended with it.
    let (build, _) = first_stream(&client, &mut session).await;
    build.abort();
}

/// The log contains a client's own text on why it has no credentials, which may be anything.
async fn an_answer_that_forges_a_line_of_the_log(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let channel = rpc::connect(&wharfd.socket()).await;
    let mut client = BuildServiceClient::new(channel.clone());
    let open =
        SessionOpen { namespace: Some(rpc::namespace("job#1")), credentials: true, ..SessionOpen::default() };
    let open = SessionRequest { request: Some(session_request::Request::Open(open)) };
    // The session is open until the sender is dropped at the test's end.
    let (requests, sent) = tokio::sync::mpsc::channel(1);
    requests.send(open).await.unwrap();
    let sent = tokio_stream::wrappers::ReceiverStream::new(sent);
    let mut announced = client.session(sent).await.unwrap().into_inner();
    let mut next = async || announced.message().await.unwrap().and_then(|message| message.response).unwrap();
    let session_response::Response::Opened(opened) = next().await else { panic!("the session is not open") };

    let start = BuildStart { session_id: opened.session_id, ..rpc::start("job#1", BuildSpec::default()) };
    let dockerfile = format!("FROM {}\n", registry.name("absent:1"));
    let tar = context_tar(&[("Dockerfile", &dockerfile)]);
    let answering = async {
        let session_response::Response::Stream(asked) = next().await else { panic!("no stream") };
        let forged = "no helper\n2026-01-01T00:00:00.000000Z  INFO forged: nothing happened\r\x1b[2J";
        let error = StreamError { code: Code::Unknown.into(), message: forged.to_owned() };
        let answer =
            [attach_request::Request::StreamId(asked.stream_id), attach_request::Request::Error(error)]
                .map(|request| AttachRequest { request: Some(request) });
        let mut responses = client.attach(stream::iter(answer)).await.unwrap().into_inner();
        while let Ok(Some(_)) = responses.message().await {}
    };
    let (build, ()) = tokio::join!(rpc::build_tar(&channel, start, tar), answering);
    assert!(build.result.is_none(), "{build:?}");
    let log = wait_for("what the client said", async || {
        let log = wharfd.log();
        log.iter().any(|line| line.contains("forged")).then_some(log)
    })
    .await;
    for line in log.iter().filter(|line| line.contains("forged")) {
        assert!(line.contains("\\n2026-01-01T00:00:00.000000Z  INFO forged"), "{line}");
        assert!(!line.contains(['\r', '\u{1b}']), "{line:?}");
    }
}
