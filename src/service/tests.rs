//! The front door through a real socket, without an engine.

use std::collections::BTreeMap;

use hyper_util::rt::TokioIo;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_types::StatusExt as _;

use super::*;
use crate::{
    audit::Trail,
    config::{Config, Flags},
    front::{Queues, Work},
    identity::{Identities, Served},
    metrics::Metrics,
    names::{ListenAddress, SocketPath},
    naming::Keys,
    store::Store,
    tasks::Group,
    transport::{ConnectionLimits, Http2, Listener, Server, StandingOf},
    wire::v1::{namespace_service_client::NamespaceServiceClient, node_service_client::NodeServiceClient},
};

struct Door {
    socket: SocketPath,
    channel: Channel,
    health: Health,
}

impl Door {
    async fn new(name: &str) -> Self {
        Self::with(name, ConnectionLimits::default()).await
    }

    async fn with(name: &str, limits: ConnectionLimits) -> Self {
        let directory = std::env::temp_dir().join(format!("wharf-service-{}-{name}", std::process::id()));
        let socket: SocketPath = format!("unix://{}/w.sock", directory.display()).parse().unwrap();
        let listener = Listener::bind(&ListenAddress::Unix(socket.clone()), 0o600, None, None).await.unwrap();
        let process = Group::root();
        let work = Work::new(process.child("work"), Keys::load(&directory).unwrap());
        let config = Config::with_file(Flags::default(), "");
        let served = Served::new(Identities::new(&config).unwrap());
        let asked = Arc::clone(&served);
        let who: StandingOf = Arc::new(move |peer| asked.now().standing(peer));
        let store = Store::open(&directory).unwrap();
        let (metrics, trail, calls) = (Metrics::default(), Trail::off(), limits.calls_per_caller);
        let queues = Queues::new(&config, &metrics);
        let front = Front::new(served, BTreeMap::new(), work, store, queues, calls, trail, metrics);
        let (services, health) = services(front, &EngineName::default(), &process).await.unwrap();
        let connections = process.child("connections");
        let protocol = Http2::new(services, limits);
        let serving = Server::new(who, limits, protocol).serve(vec![listener], connections);
        drop(process.spawn("serve", serving));
        let path = socket.as_path().to_owned();
        let connect = tower::service_fn(move |_| {
            let path = path.clone();
            async { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel =
            Endpoint::from_static("http://localhost").connect_with_connector(connect).await.unwrap();
        Self { socket, channel, health }
    }

    fn channel(&self) -> Channel {
        self.channel.clone()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.socket.as_path().parent().unwrap());
    }
}

#[tokio::test]
async fn every_service_is_healthy_and_describes_itself() {
    let door = Door::new("health").await;
    let mut described = Vec::new();
    let asked = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(door.channel())
        .server_reflection_info(futures_util::stream::iter([asked]))
        .await
        .unwrap()
        .into_inner();
    while let Some(answer) = answers.message().await.unwrap() {
        let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
            panic!("{answer:?}")
        };
        described.extend(list.service.into_iter().map(|service| service.name));
    }
    let mut health = HealthClient::new(door.channel());
    let own: Vec<_> = described.iter().filter(|name| name.starts_with("wharf.")).cloned().collect();
    assert_eq!(own.len(), 5, "{described:?}");
    for service in own.into_iter().chain([String::new()]) {
        let answer = health.check(HealthCheckRequest { service: service.clone() }).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service}");
    }
    door.health.draining().await;
    let answer = health.check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(answer.into_inner().status(), ServingStatus::NotServing);
}

#[tokio::test]
async fn a_message_that_is_too_large_is_a_limit_with_a_reason() {
    let door = Door::new("large").await;
    let namespace = v1::Namespace { job: "j".repeat(5 << 20), run: "1".into(), issuer: String::new() };
    let request = v1::DeleteNamespaceRequest { namespace: Some(namespace), job: true };
    let status = NamespaceServiceClient::new(door.channel()).delete_namespace(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(status.get_details_error_info().unwrap().reason, "LIMIT_REACHED");
}

#[tokio::test]
async fn a_call_too_many_is_a_limit_with_a_reason() {
    let door =
        Door::with("many", ConnectionLimits { calls_per_caller: 0, ..ConnectionLimits::default() }).await;
    let status =
        NodeServiceClient::new(door.channel()).get_info(v1::GetInfoRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(status.get_details_error_info().unwrap().reason, "LIMIT_REACHED");
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented() {
    let door = Door::new("unknown").await;
    let mut client = tonic::client::Grpc::new(door.channel());
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<v1::GetInfoRequest, v1::GetInfoResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/wharf.v1.NodeService/Nothing");
    let answer = client.unary(tonic::Request::new(v1::GetInfoRequest::default()), path, codec).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn what_wharfd_itself_gets_wrong_is_internal_and_says_no_more() {
    let door = Door::new("internal").await;
    let status =
        NodeServiceClient::new(door.channel()).get_info(v1::GetInfoRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(status.get_details_error_info().unwrap().reason, "INTERNAL");
    assert!(!status.message().contains("engine"), "{status:?}");
}

/// The authors of other clients have the limits from the API's comments alone.
#[test]
fn the_api_tells_its_limits() {
    use crate::build::{client::ANSWER_TIMEOUT, session::ATTACH_TIMEOUT, spec::PATH_BYTES_MAX};
    let lines = [
        include_str!("../../proto/wharf/v1/build.proto"),
        include_str!("../../proto/wharf/v1/error.proto"),
        include_str!("../../proto/wharf/v1/policy.proto"),
    ];
    let words = lines
        .iter()
        .flat_map(|text| text.lines())
        .flat_map(|line| line.trim_start().trim_start_matches("//").split_whitespace().collect::<Vec<_>>());
    let text = words.collect::<Vec<_>>().join(" ");
    let (attach, answer) = (ATTACH_TIMEOUT.as_secs(), ANSWER_TIMEOUT.as_secs() / 60);
    for sentence in [
        format!("must not have the same path. At most {PATH_BYTES_MAX} bytes."),
        format!("never builds from old content. At most {} bytes.", attach::STATE_BYTES_MAX),
        format!(
            "does not attach within {attach} seconds, or does not answer a request within {answer} minutes"
        ),
        format!("at most {} MiB. Only without a session", build::TAR_PIECE_BYTES_MAX >> 20),
        format!("pulls from and pushes to, at most {}.", credentials::LOGINS_MAX),
        format!("The references of the image in the namespace. At most {}.", spec::TAGS_MAX),
        format!("With the labels, at most {} MiB.", spec::VALUES_BYTES_MAX >> 20),
        format!("at most one for each name, and {} in all.", spec::ULIMITS_MAX),
        format!("was silent in a call for {} seconds.", build::FIRST_MESSAGE.as_secs()),
        format!(
            "at most {}, each of at most {} KiB.",
            policy::QUESTIONS_MAX,
            policy::QUESTION_BYTES_MAX >> 10
        ),
    ] {
        assert!(text.contains(&sentence), "no comment of the API says: {sentence}");
    }
}

/// A client need not read its answer: how many wait for it is limited by the caller's shares of work, or of looks.
#[test]
fn no_answer_is_unlimited() {
    let sources = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/service")).unwrap();
    let mut handlers = 0;
    for source in sources.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        let text = std::fs::read_to_string(&source).unwrap();
        for handler in text.split("= accept(&self.front,").skip(1) {
            let limits =
                [" look(&self.front,", " begin(&call,", "self.front.begin(", "self.front.begin_end("];
            let head = handler.lines().next().unwrap();
            assert!(limits.iter().any(|limit| handler.contains(limit)), "{}: {head}", source.display());
            handlers += 1;
        }
    }
    assert!(handlers > 10, "{handlers}");
}
