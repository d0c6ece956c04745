//! Tests of the client against a fake wharfd, for behaviour that a real wharfd cannot be made to show at the
//! right moment. `tests/wharf` has the tests against the real one.

use std::io;

use bollard_buildkit_proto::moby::{
    buildkit::secrets::v1::GetSecretResponse, filesync::v1::CredentialsResponse,
};
use futures_util::{FutureExt as _, stream::BoxStream};
use prost::Message as _;
use rustix::process::{Signal, getpid, kill_process};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Mutex, oneshot},
    task::JoinSet,
};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::io::StreamReader;
use tonic::{Request, Response as Answer, Status, Streaming, transport::Server};

use super::*;
use crate::{
    client::{args::Global, options, output::Sinks, remote::TlsArgs, signals::Signals},
    wire::v1::{
        AttachRequest, AttachResponse, BuildResponse, CredentialsQuery, SecretQuery, SessionOpened,
        SessionRequest, SessionResponse, StreamOpened, attach_request,
        build_service_server::{BuildService, BuildServiceServer},
        session_response, stream_opened,
    },
};

type Responses<T> = BoxStream<'static, Result<T, Status>>;

#[test]
fn a_large_dockerfile_is_built_without_its_warnings() {
    let checks = |head: &str, bytes: usize, args: &[(&str, &str)]| {
        let text = format!("{head}FROM scratch\n{}", "#".repeat(bytes));
        let mut args = args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        leave_checks_out(text.as_bytes(), &mut args);
        args.remove(CHECK)
    };
    assert_eq!(checks("", CHECKED_BYTES_MAX, &[]).as_deref(), Some("skip=all"));
    assert_eq!(checks("# syntax=docker/dockerfile:1\n", CHECKED_BYTES_MAX, &[]).as_deref(), Some("skip=all"));
    assert_eq!(checks("", 1000, &[]), None);
    assert_eq!(checks("# syntax=x\n# Check = error=true\n", CHECKED_BYTES_MAX, &[]), None);
    assert_eq!(checks("", CHECKED_BYTES_MAX, &[(CHECK, "")]).as_deref(), Some(""));
}

/// A request to the fake wharfd.
enum Asked {
    /// A session was opened. Announcements go to the sender; dropping the sender ends the session.
    Session(Streaming<SessionRequest>, mpsc::Sender<Result<SessionResponse, Status>>),
    /// The client attached to a stream.
    Attach(Streaming<AttachRequest>),
    /// A build was started; responses go to the sender.
    Build(Streaming<BuildRequest>, mpsc::Sender<Result<BuildResponse, Status>>),
}

/// A wharfd whose answers a test decides.
struct Fake(mpsc::Sender<Asked>);

impl Fake {
    async fn ask<T: Send + 'static>(
        &self,
        asked: impl FnOnce(mpsc::Sender<Result<T, Status>>) -> Asked,
    ) -> Result<Answer<Responses<T>>, Status> {
        let (sender, receiver) = mpsc::channel(4);
        self.0.send(asked(sender)).await.map_err(|_| Status::internal("the test is over"))?;
        Ok(Answer::new(ReceiverStream::new(receiver).boxed()))
    }
}

#[tonic::async_trait]
impl BuildService for Fake {
    type SessionStream = Responses<SessionResponse>;
    type AttachStream = Responses<AttachResponse>;
    type BuildStream = Responses<BuildResponse>;

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Answer<Self::SessionStream>, Status> {
        self.ask(|responses| Asked::Session(request.into_inner(), responses)).await
    }

    async fn attach(
        &self,
        request: Request<Streaming<AttachRequest>>,
    ) -> Result<Answer<Self::AttachStream>, Status> {
        self.ask(|_| Asked::Attach(request.into_inner())).await
    }

    async fn build(
        &self,
        request: Request<Streaming<BuildRequest>>,
    ) -> Result<Answer<Self::BuildStream>, Status> {
        self.ask(|responses| Asked::Build(request.into_inner(), responses)).await
    }
}

/// A build that runs against a fake wharfd.
struct Trial {
    asked: mpsc::Receiver<Asked>,
    ended: oneshot::Receiver<Result<Ended, Stop>>,
    server: JoinSet<()>,
    _client: JoinSet<()>,
}

/// Signals go to the whole process, so only one trial at a time may send them.
static SIGNALS: Mutex<()> = Mutex::const_new(());

impl Trial {
    async fn begin(name: &str, tar: Option<Tar>) -> Self {
        let socket = std::env::temp_dir().join(format!("wharf-build-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let (sender, asked) = mpsc::channel(1);
        let mut server = JoinSet::new();
        server.spawn(async move {
            let router = Server::builder().add_service(BuildServiceServer::new(Fake(sender)));
            let incoming = UnixListenerStream::new(listener);
            router.serve_with_incoming(incoming.map(|socket: io::Result<UnixStream>| socket)).await.unwrap();
        });
        let env = Env::of(&[("WHARF_ADDR", &format!("unix://{}", socket.display())), ("S", "hidden")]);
        let namespace = Some("job#1".to_owned());
        let global = Global { addr: None, namespace, token_file: None, tls: TlsArgs::default() };
        let mut call = Call { env, global, signals: Signals::take().unwrap() };
        let channel = call.connect().await.unwrap();
        std::fs::remove_file(&socket).unwrap();
        let (sender, ended) = oneshot::channel();
        let mut client = JoinSet::new();
        client.spawn(async move {
            let docker = DockerConfig::read(&Env::of(&[("DOCKER_CONFIG", "/nonexistent")])).unwrap();
            let sources = [options::secret("id=s,env=S").unwrap()];
            let secrets = Secrets::find(&sources, &call.env, &Areas::default()).unwrap();
            let context = std::env::temp_dir();
            let source =
                BuildFiles::open(&context, Some(std::path::Path::new("-")), None, &b"FROM scratch"[..]);
            let answers = Arc::new(Answers::new(docker, secrets, &source.await.unwrap(), Sinks::default()));
            let mut display = Display::new(Env::of(&[]).console(), Mode::Quiet, "Building");
            let (client, namespace) = (answers::client(channel), call.namespace().unwrap());
            let ended =
                build(&mut call, client, &namespace, BuildSpec::default(), tar, &answers, &mut display).await;
            let _ = sender.send(ended);
        });
        Self { asked, ended, server, _client: client }
    }

    /// The client's next request. A faulty client may never send one.
    async fn asked(&mut self) -> Option<Asked> {
        time::timeout(Duration::from_secs(30), self.asked.recv()).await.ok().flatten()
    }

    /// Opens the session that the client asks for.
    async fn session(
        &mut self,
    ) -> (Streaming<SessionRequest>, mpsc::Sender<Result<SessionResponse, Status>>) {
        let Some(Asked::Session(mut requests, responses)) = self.asked().await else {
            panic!("not a session")
        };
        requests.message().await.unwrap().unwrap();
        let opened = SessionOpened { session_id: "one".to_owned() };
        let opened = SessionResponse { response: Some(session_response::Response::Opened(opened)) };
        responses.send(Ok(opened)).await.unwrap();
        (requests, responses)
    }

    /// Accepts the build that the client starts.
    async fn build(&mut self) -> (Streaming<BuildRequest>, mpsc::Sender<Result<BuildResponse, Status>>) {
        let Some(Asked::Build(mut requests, responses)) = self.asked().await else { panic!("not a build") };
        let start = requests.message().await.unwrap().unwrap().request;
        let Some(build_request::Request::Start(start)) = start else { panic!("not a start") };
        assert_eq!(start.session_id, "one");
        (requests, responses)
    }

    /// Requests something from the client, and returns its answer.
    async fn answer(
        &mut self,
        session: &mpsc::Sender<Result<SessionResponse, Status>>,
        subject: stream_opened::Subject,
    ) -> attach_request::Request {
        let stream = StreamOpened { stream_id: "two".to_owned(), subject: Some(subject) };
        let stream = SessionResponse { response: Some(session_response::Response::Stream(stream)) };
        session.send(Ok(stream)).await.unwrap();
        let Some(Asked::Attach(mut requests)) = self.asked().await else { panic!("not an attach") };
        let first = requests.message().await.unwrap().unwrap().request;
        assert_eq!(first, Some(attach_request::Request::StreamId("two".to_owned())));
        requests.message().await.unwrap().unwrap().request.unwrap()
    }
}

fn piece(request: BuildRequest) -> bytes::Bytes {
    match request.request {
        Some(build_request::Request::Tar(piece)) => piece,
        other => panic!("not a piece of a tar: {other:?}"),
    }
}

fn finished(result: BuildResult) -> BuildResponse {
    BuildResponse { response: Some(Response::Result(result)) }
}

#[tokio::test]
async fn the_session_answers_while_the_build_runs() {
    let _signals = SIGNALS.lock().await;
    let mut trial = Trial::begin("answers", None).await;
    let (_requests, session) = trial.session().await;
    let (_build, responses) = trial.build().await;

    let query = stream_opened::Subject::Secret(SecretQuery { id: "s".to_owned() });
    let attach_request::Request::Message(message) = trial.answer(&session, query).await else {
        panic!("no message")
    };
    assert_eq!(GetSecretResponse::decode(message).unwrap().data, b"hidden");

    let query = stream_opened::Subject::Secret(SecretQuery { id: "absent".to_owned() });
    let attach_request::Request::Error(error) = trial.answer(&session, query).await else {
        panic!("no error")
    };
    assert_eq!(error.code, 5);
    assert!(error.message.contains("absent"));

    let query = stream_opened::Subject::Credentials(CredentialsQuery { host: "reg.example".to_owned() });
    let attach_request::Request::Message(message) = trial.answer(&session, query).await else {
        panic!("no message")
    };
    assert_eq!(CredentialsResponse::decode(message).unwrap(), CredentialsResponse::default());

    let result = BuildResult { image_id: "sha256:1".to_owned(), ..BuildResult::default() };
    responses.send(Ok(finished(result))).await.unwrap();
    let Ok(Ended::Built(result)) = trial.ended.await.unwrap() else { panic!("not built") };
    assert_eq!(result.image_id, "sha256:1");
}

#[tokio::test]
async fn a_tar_goes_in_pieces_and_ends() {
    let _signals = SIGNALS.lock().await;
    let content: Vec<u8> = (0..1_000_003_u32).map(|at| at.to_le_bytes()[0]).collect();
    let mut trial = Trial::begin("tar", Some(Box::new(io::Cursor::new(content.clone())))).await;
    let (_requests, _session) = trial.session().await;
    let (mut build, responses) = trial.build().await;
    let mut sent = Vec::new();
    while let Some(request) = build.message().await.unwrap() {
        let piece = piece(request);
        assert!(piece.len() <= PIECE_BYTES);
        sent.extend_from_slice(&piece);
    }
    assert!(sent == content);
    responses.send(Ok(finished(BuildResult::default()))).await.unwrap();
    assert!(matches!(trial.ended.await.unwrap(), Ok(Ended::Built(_))));
}

#[tokio::test]
async fn a_tar_that_cannot_be_read_never_seems_whole() {
    let _signals = SIGNALS.lock().await;
    let (tear, torn) = oneshot::channel();
    let half = stream::iter([Ok(&b"half"[..])]);
    let error = stream::once(async {
        let _ = torn.await;
        Err(io::Error::other("torn"))
    });
    let tar = StreamReader::new(half.chain(error).boxed());
    let mut trial = Trial::begin("torn", Some(Box::new(tar))).await;
    let (_requests, _session) = trial.session().await;
    let (mut build, _responses) = trial.build().await;
    assert_eq!(piece(build.message().await.unwrap().unwrap()), "half");
    tear.send(()).unwrap();
    let Err(Stop::Failed(failure)) = trial.ended.await.unwrap() else { panic!("did not fail") };
    assert!(failure.text.contains("torn"), "{failure}");
    assert!(!matches!(build.message().now_or_never(), Some(Ok(_))), "the stream ended, or went on");
}

#[tokio::test]
async fn requests_end_where_they_are_said_to_be_whole() {
    let (sender, receiver) = mpsc::channel(2);
    sender.send(Some(BuildRequest::default())).await.unwrap();
    sender.send(None).await.unwrap();
    assert_eq!(until_whole(receiver).count().await, 1);

    let (sender, receiver) = mpsc::channel(1);
    sender.send(Some(BuildRequest::default())).await.unwrap();
    drop(sender);
    let mut cut = pin!(until_whole(receiver));
    assert!(cut.next().await.is_some());
    assert!(cut.next().now_or_never().is_none());
}

#[tokio::test]
async fn a_signal_ends_the_session_and_waits_for_the_build() {
    let _signals = SIGNALS.lock().await;
    let mut trial = Trial::begin("signal", None).await;
    let (mut requests, _session) = trial.session().await;
    let (_build, responses) = trial.build().await;
    kill_process(getpid(), Signal::TERM).unwrap();
    assert!(requests.message().await.unwrap().is_none());
    // The client waits for this answer, and stops at once when it comes.
    assert!(trial.ended.try_recv().is_err());
    responses.send(Err(Status::cancelled("cancelled"))).await.unwrap();
    assert!(matches!(trial.ended.await.unwrap(), Err(Stop::Cancelled(Exit::Terminated))));
}

#[tokio::test]
async fn a_second_signal_does_not_wait() {
    let _signals = SIGNALS.lock().await;
    let mut trial = Trial::begin("twice", None).await;
    let (mut requests, _session) = trial.session().await;
    let (_build, _responses) = trial.build().await;
    kill_process(getpid(), Signal::INT).unwrap();
    assert!(requests.message().await.unwrap().is_none());
    kill_process(getpid(), Signal::TERM).unwrap();
    assert!(matches!(trial.ended.await.unwrap(), Err(Stop::Cancelled(Exit::Interrupted))));
}

#[tokio::test]
async fn the_builds_reason_is_better_than_the_sessions_end() {
    let _signals = SIGNALS.lock().await;
    let mut trial = Trial::begin("reason", None).await;
    let (_requests, session) = trial.session().await;
    let (_build, responses) = trial.build().await;
    drop(session);
    responses.send(Err(Status::permission_denied("the reason"))).await.unwrap();
    let Err(Stop::Failed(failure)) = trial.ended.await.unwrap() else { panic!("did not fail") };
    assert!(failure.text.contains("the reason"), "{failure}");
}

#[tokio::test]
async fn a_wharfd_that_dies_is_a_lost_connection() {
    let _signals = SIGNALS.lock().await;
    let mut trial = Trial::begin("dies", None).await;
    let (_requests, session) = trial.session().await;
    let (_build, responses) = trial.build().await;
    drop((session, responses));
    trial.server.shutdown().await;
    let Err(Stop::Failed(failure)) = trial.ended.await.unwrap() else { panic!("did not fail") };
    assert_eq!(failure.exit, Exit::NoDaemon);
}
