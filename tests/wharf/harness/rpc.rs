//! A client of the API itself, like any other program.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use wharf::wire::v1::{
    BuildFailure, BuildRequest, BuildResult, BuildSpec, BuildStart, Namespace, Progress, Vertex,
    build_request::Request, build_response::Response, build_service_client::BuildServiceClient,
};

/// The collected messages of a build.
#[derive(Debug, Default)]
pub(crate) struct Build {
    pub(crate) progress: Vec<Progress>,
    pub(crate) result: Option<BuildResult>,
    pub(crate) failure: Option<BuildFailure>,
    pub(crate) status: Option<Status>,
}

/// Connects to a wharfd.
pub(crate) async fn connect(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

/// Connects to a wharfd as another user: the kernel records the user who connects.
pub(crate) async fn connect_as(socket: &Path, uid: u32) -> Channel {
    let socket = socket.to_owned();
    let stream = std::thread::spawn(move || {
        // This changes only this thread, which ends here.
        let id = rustix::process::Uid::from_raw(uid);
        rustix::thread::set_thread_res_uid(id, id, id).unwrap();
        std::os::unix::net::UnixStream::connect(socket).unwrap()
    })
    .join()
    .unwrap();
    stream.set_nonblocking(true).unwrap();
    let once = std::sync::Mutex::new(Some(UnixStream::from_std(stream).unwrap()));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = super::lock(&once).take();
        async move { stream.map(TokioIo::new).ok_or(std::io::Error::from(std::io::ErrorKind::NotConnected)) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

/// The health check's answer for a service.
pub(crate) async fn health(channel: &Channel, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.to_owned() };
    HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner().status()
}

/// Waits until the health check reports `status` for a service.
pub(crate) async fn becomes(channel: &Channel, service: &str, status: ServingStatus) {
    let what = format!("{service} to be {status:?}");
    super::wait_for(&what, async || (health(channel, service).await == status).then_some(())).await;
}

/// A namespace, from `JOB#RUN`.
pub(crate) fn namespace(name: &str) -> Namespace {
    let (job, run) = name.rsplit_once('#').unwrap();
    Namespace { job: job.to_owned(), run: run.to_owned(), issuer: String::new() }
}

/// The message that starts a build.
pub(crate) fn start(at: &str, spec: BuildSpec) -> BuildStart {
    BuildStart { namespace: Some(namespace(at)), spec: Some(spec), ..BuildStart::default() }
}

/// Builds from a tar, to the end.
pub(crate) async fn build_tar(channel: &Channel, start: BuildStart, tar: impl Into<Bytes>) -> Build {
    let tar: Bytes = tar.into();
    let pieces: Vec<_> =
        (0..tar.len()).step_by(1 << 20).map(|at| tar.slice(at..tar.len().min(at + (1 << 20)))).collect();
    build(channel, start, stream::iter(pieces)).await
}

/// Builds from a tar, to the end; `seen` sees the progress as it comes.
pub(crate) async fn build_tar_seen(
    channel: &Channel,
    start: BuildStart,
    tar: Vec<u8>,
    seen: impl FnMut(&Progress),
) -> Build {
    build_seen(channel, start, stream::iter([Bytes::from(tar)]), seen).await
}

/// Builds from pieces of a tar, to the end.
pub(crate) async fn build(
    channel: &Channel,
    start: BuildStart,
    pieces: impl Stream<Item = Bytes> + Send + 'static,
) -> Build {
    build_seen(channel, start, pieces, |_| ()).await
}

async fn build_seen(
    channel: &Channel,
    start: BuildStart,
    pieces: impl Stream<Item = Bytes> + Send + 'static,
    mut seen: impl FnMut(&Progress),
) -> Build {
    let first = BuildRequest { request: Some(Request::Start(start)) };
    let pieces = pieces.map(|piece| BuildRequest { request: Some(Request::Tar(piece)) });
    let mut client = BuildServiceClient::new(channel.clone()).max_decoding_message_size(16 << 20);
    let mut build = Build::default();
    let requests = stream::iter([first]).chain(pieces);
    let mut responses = match client.build(requests).await {
        Ok(responses) => responses.into_inner(),
        Err(status) => return Build { status: Some(status), ..build },
    };
    loop {
        let message = tokio::time::timeout(Duration::from_secs(240), responses.message()).await;
        match message.expect("the build says something") {
            Ok(Some(response)) => match response.response.expect("a response") {
                Response::Progress(progress) => {
                    seen(&progress);
                    build.progress.push(progress);
                }
                Response::Result(result) => build.result = Some(result),
                Response::Failure(failure) => build.failure = Some(failure),
            },
            Ok(None) => return build,
            Err(status) => {
                build.status = Some(status);
                return build;
            }
        }
    }
}

impl Build {
    /// The result, if there is one.
    #[track_caller]
    pub(crate) fn ok(&self) -> &BuildResult {
        self.result.as_ref().unwrap_or_else(|| {
            panic!("the build failed: {:?} {:?}\n{}", self.failure, self.status, self.logs())
        })
    }

    /// Everything that its steps wrote.
    pub(crate) fn logs(&self) -> String {
        let logs = self.progress.iter().flat_map(|progress| &progress.logs);
        logs.map(|log| String::from_utf8_lossy(&log.data).into_owned()).collect()
    }

    /// The step of this name.
    #[track_caller]
    pub(crate) fn vertex(&self, name: &str) -> &Vertex {
        let mut vertexes = self.progress.iter().flat_map(|progress| &progress.vertexes);
        vertexes.find(|vertex| vertex.name == name).unwrap_or_else(|| panic!("no step `{name}` in {self:?}"))
    }

    /// The names of the steps that came from the cache.
    pub(crate) fn cached(&self) -> Vec<&str> {
        let vertexes = self.progress.iter().flat_map(|progress| &progress.vertexes);
        vertexes.filter(|vertex| vertex.cached).map(|vertex| vertex.name.as_str()).collect()
    }
}
