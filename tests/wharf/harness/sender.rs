//! A sender of directories that sends scripted packets, to wharfd or to BuildKit itself.

use std::{
    collections::HashMap,
    future::ready,
    sync::{Arc, Mutex},
};

use bollard_buildkit_proto::{
    fsutil::types::{Packet, Stat, packet::PacketType},
    moby::{
        buildkit::v1::{Exporter, SolveRequest},
        filesync::v1::CredentialsResponse,
    },
};
use bytes::Bytes;
use futures_util::{StreamExt as _, future::BoxFuture, stream, stream::BoxStream};
use prost::Message as _;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, transport::Channel};
use wharf::{
    buildkit::{
        connection::{Connection, Dialling},
        filesync::DirectoryRequest,
        session::{Messages, Session, SessionClient},
    },
    names::Secret,
    tasks::Group,
    wire::v1::{
        AttachRequest, BuildSpec, StreamOpened, attach_request, build_service_client::BuildServiceClient,
        session_response, stream_opened::Subject,
    },
};

use super::{Engine, Test, lock, rpc, session::Client};

/// The packets about the context, whatever is requested, and the Dockerfile.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    pub(crate) dockerfile: Stat,
    pub(crate) text: &'static str,
    pub(crate) context: Vec<Packet>,
    /// The bytes of each packet that answers a request for a file of the context.
    pub(crate) bytes: &'static [&'static [u8]],
    /// The bytes of single files instead, by their paths.
    pub(crate) contents: HashMap<String, Vec<u8>>,
    /// Whether it stays when the receiver has failed, which then waits for it.
    pub(crate) stays: bool,
    /// The packets received about the context.
    pub(crate) heard: Arc<Mutex<Vec<Packet>>>,
}

/// An empty file.
pub(crate) const NO_BYTES: &[&[u8]] = &[b""];

/// The parameters of a build on the engine's bare socket.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bare {
    /// The key that decides with which earlier syncs the directories are compared.
    pub(crate) key: String,
    /// The name that the image gets, if any.
    pub(crate) name: Option<String>,
}

/// The packet that announces an entry.
pub(crate) fn announced(stat: Stat) -> Packet {
    Packet { r#type: PacketType::PacketStat.into(), stat: Some(stat), ..Packet::default() }
}

/// The packet that ends the announcements.
pub(crate) fn end_of_list() -> Packet {
    Packet { r#type: PacketType::PacketStat.into(), ..Packet::default() }
}

/// A regular file.
pub(crate) fn file(path: &str) -> Stat {
    Stat { path: path.to_owned(), mode: 0o644, ..Stat::default() }
}

/// A sender of this context with a Dockerfile that copies all of it; its files are empty.
pub(crate) fn sender(context: Vec<Packet>) -> Sender {
    Sender {
        dockerfile: file("Dockerfile"),
        text: "FROM scratch\nCOPY . /\n",
        context,
        bytes: NO_BYTES,
        contents: HashMap::new(),
        stays: false,
        heard: Arc::default(),
    }
}

impl Sender {
    /// Answers the packets `heard` about a directory, of which BuildKit has asked for these paths, or all.
    fn speak(
        &self,
        directory: &str,
        paths: &[String],
        heard: BoxStream<'static, Bytes>,
    ) -> BoxStream<'static, Bytes> {
        let (packets, bytes) = if directory == "dockerfile" {
            let size = self.text.len().try_into().unwrap();
            let entry = Stat { size, ..self.dockerfile.clone() };
            let text: Vec<&[u8]> = [self.text.as_bytes(), b""].into();
            (vec![announced(entry), end_of_list()], text)
        } else {
            // Of an ignore file that fails, a build ends before it asks for the rest.
            let asked = |packet: &Packet| {
                packet.stat.as_ref().is_none_or(|stat| paths.is_empty() || paths.contains(&stat.path))
            };
            (self.context.iter().filter(|packet| asked(packet)).cloned().collect(), self.bytes.to_vec())
        };
        let content = |packet: &Packet| self.contents.get(&packet.stat.as_ref()?.path).cloned();
        let contents: Vec<_> = packets.iter().map(content).collect();
        let log = (directory != "dockerfile").then(|| Arc::clone(&self.heard));
        let stays = self.stays;
        let answers = heard.flat_map(move |message| {
            let heard = Packet::decode(message).unwrap();
            if let Some(log) = &log {
                lock(log).push(heard.clone());
            }
            let data = |data: &[u8]| Packet {
                r#type: PacketType::PacketData.into(),
                id: heard.id,
                data: data.to_vec(),
                ..Packet::default()
            };
            stream::iter(match heard.r#type() {
                PacketType::PacketReq => match contents.get(heard.id as usize) {
                    Some(Some(content)) => [&content[..], b""].map(|bytes| Some(data(bytes))).into(),
                    _ => bytes.iter().map(|bytes| Some(data(bytes))).collect(),
                },
                // BuildKit waits for the end of the stream.
                PacketType::PacketFin => vec![Some(heard), None],
                PacketType::PacketErr if !stays => vec![None],
                _ => Vec::new(),
            })
        });
        let said =
            stream::iter(packets).map(Some).chain(answers).take_while(|packet| ready(packet.is_some()));
        said.map(|packet| packet.unwrap().encode_to_vec().into()).boxed()
    }

    /// Builds through wharfd.
    pub(crate) async fn build(&self, test: &Test, channel: &Channel, namespace: &str) -> rpc::Build {
        let client = Client::of(channel, namespace, test.dir());
        let mut session = client.open().await;
        let building = rpc::build(channel, client.start(&session, BuildSpec::default()), stream::empty());
        tokio::pin!(building);
        let mut streams = JoinSet::new();
        loop {
            tokio::select! {
                build = &mut building => return build,
                message = session.announced.message() => {
                    let Ok(Some(message)) = message else { continue };
                    let Some(session_response::Response::Stream(opened)) = message.response else { continue };
                    streams.spawn(self.clone().attach(channel.clone(), opened));
                }
            }
        }
    }

    async fn attach(self, channel: Channel, opened: StreamOpened) {
        let Some(Subject::FileSync(request)) = opened.subject else { panic!("only directories are offered") };
        let (sender, heard) = mpsc::unbounded_channel();
        let said = self.speak(
            &request.directory,
            &request.follow_paths,
            UnboundedReceiverStream::new(heard).boxed(),
        );
        let (requests, sent) = mpsc::unbounded_channel();
        let request = |request| AttachRequest { request: Some(request) };
        requests.send(request(attach_request::Request::StreamId(opened.stream_id))).unwrap();
        let say = said.for_each(move |message| {
            // wharfd may have stopped reading.
            let _ = requests.send(request(attach_request::Request::Message(message)));
            ready(())
        });
        let hear = async {
            let mut client = BuildServiceClient::new(channel);
            let attached = client.attach(UnboundedReceiverStream::new(sent)).await;
            let mut responses = attached.unwrap().into_inner();
            while let Ok(Some(response)) = responses.message().await {
                let _ = sender.send(response.message);
            }
            drop(sender);
        };
        tokio::join!(say, hear);
    }

    /// Builds on the engine's bare socket.
    pub(crate) async fn build_on_bare_engine(&self, test: &Test, engine: &Engine) -> Result<(), String> {
        self.build_bare(test, engine, &Bare { key: test.unique("key"), name: None }).await
    }

    /// Builds on the engine's bare socket with the parameters `bare`.
    pub(crate) async fn build_bare(&self, test: &Test, engine: &Engine, bare: &Bare) -> Result<(), String> {
        let tasks = Group::root();
        let dialling = if engine.is_containerd() { Dialling::PriorKnowledge } else { Dialling::Upgrade };
        let connection =
            Connection::dial(engine.socket(), dialling, &tasks).await.map_err(|fault| fault.to_string())?;
        let session = Session::new(test.unique("session"));
        let mut control = connection.control();
        let solve = control.solve(SolveRequest {
            r#ref: test.unique("build"),
            session: session.id().to_owned(),
            frontend: "dockerfile.v0".to_owned(),
            internal: true,
            exporters: bare.name.iter().map(|name| exported(name)).collect(),
            ..SolveRequest::default()
        });
        let ended = tokio::select! {
            ended = session.serve(&connection, &bare.key, Arc::new(self.clone()), &tasks) =>
                ended.map(drop).map_err(|fault| fault.to_string()),
            ended = solve => ended.map(drop).map_err(|status| status.to_string()),
        };
        drop(connection);
        ended
    }
}

fn exported(name: &str) -> Exporter {
    let attrs = HashMap::from([("name".to_owned(), name.to_owned())]);
    Exporter { r#type: "moby".to_owned(), attrs }
}

impl SessionClient for Sender {
    fn sync(&self, request: DirectoryRequest, packets: Messages) -> BoxFuture<'_, Result<Messages, Status>> {
        let heard = packets.filter_map(|message| ready(message.ok())).boxed();
        let said: Messages = self.speak(&request.name, &request.follow_paths, heard).map(Ok).boxed();
        Box::pin(ready(Ok(said)))
    }

    fn credentials<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<CredentialsResponse, Status>> {
        Box::pin(ready(Ok(CredentialsResponse::default())))
    }

    fn secret<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Secret<Vec<u8>>, Status>> {
        Box::pin(ready(Err(Status::not_found("no secret"))))
    }

    fn upload(&self, _: &str) -> Result<Messages, Status> {
        Err(Status::not_found("no upload"))
    }
}
