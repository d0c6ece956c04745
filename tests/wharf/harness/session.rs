//! A client with a session, built from the client library's own walk and sync. It counts requests and
//! sent bytes.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use bollard_buildkit_proto::{
    fsutil::types::{Packet, packet::PacketType},
    moby::buildkit::secrets::v1::GetSecretResponse,
};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use prost::Message as _;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use wharf::{
    client::{context::Tree, sync},
    wire::v1::{
        AttachRequest, BuildSpec, BuildStart, FileSync, LocalDirectory, SessionOpen, SessionRequest,
        StreamOpened, attach_request, build_service_client::BuildServiceClient, session_request,
        session_response, stream_opened::Subject,
    },
};

use super::{lock, rpc};

/// A client that syncs directories.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) channel: Channel,
    pub(crate) namespace: String,
    /// Name, path in the workspace, content.
    pub(crate) directories: Vec<(String, String, Arc<Tree>)>,
    /// The answer for each secret, if it offers any.
    pub(crate) secret: Option<Vec<u8>>,
}

/// The record of one sync of a directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Synced {
    pub(crate) directory: String,
    /// The entries' paths.
    pub(crate) announced: Vec<String>,
    /// The paths of the requested files.
    pub(crate) asked: Vec<String>,
    /// The number of file bytes sent.
    pub(crate) data: usize,
}

/// An open session; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) announced: tonic::Streaming<wharf::wire::v1::SessionResponse>,
    _open: mpsc::Sender<SessionRequest>,
}

impl Client {
    /// A client with one directory, which also contains the Dockerfile.
    pub(crate) fn of(channel: &Channel, namespace: &str, directory: &Path) -> Self {
        let tree = Arc::new(Tree::directory(directory));
        let named = |name: &str| (name.to_owned(), "workspace".to_owned(), Arc::clone(&tree));
        Self {
            channel: channel.clone(),
            namespace: namespace.to_owned(),
            directories: vec![named("context"), named("dockerfile")],
            secret: None,
        }
    }

    /// Opens a session.
    pub(crate) async fn open(&self) -> Session {
        let open = SessionOpen {
            namespace: Some(rpc::namespace(&self.namespace)),
            directories: self
                .directories
                .iter()
                .map(|(name, path, _)| LocalDirectory {
                    name: name.clone(),
                    path: path.clone(),
                    state: "the same".to_owned(),
                })
                .collect(),
            secrets: self.secret.is_some(),
            ..SessionOpen::default()
        };
        let (requests, sent) = mpsc::channel(1);
        requests.send(SessionRequest { request: Some(session_request::Request::Open(open)) }).await.unwrap();
        let mut client = BuildServiceClient::new(self.channel.clone());
        let mut announced = client.session(ReceiverStream::new(sent)).await.unwrap().into_inner();
        match announced.message().await.unwrap().and_then(|message| message.response) {
            Some(session_response::Response::Opened(opened)) => {
                Session { id: opened.session_id, announced, _open: requests }
            }
            other => panic!("the session is not open: {other:?}"),
        }
    }

    /// The message that starts a build in a session.
    pub(crate) fn start(&self, session: &Session, spec: BuildSpec) -> BuildStart {
        BuildStart { session_id: session.id.clone(), ..rpc::start(&self.namespace, spec) }
    }

    /// Builds in a session of its own; returns the build and its syncs.
    pub(crate) async fn build(&self, spec: BuildSpec) -> (rpc::Build, Vec<Synced>) {
        let mut session = self.open().await;
        let start = self.start(&session, spec);
        let syncs = Arc::<Mutex<Vec<Synced>>>::default();
        let mut answers = JoinSet::new();
        let building = rpc::build(&self.channel, start, stream::empty());
        tokio::pin!(building);
        let build = loop {
            tokio::select! {
                build = &mut building => break build,
                message = session.announced.message() => {
                    let Ok(Some(message)) = message else { continue };
                    let Some(session_response::Response::Stream(opened)) = message.response else { continue };
                    answers.spawn(self.answer(opened, Arc::clone(&syncs)));
                }
            }
        };
        drop(session);
        let syncs = lock(&syncs).clone();
        (build, syncs)
    }

    fn answer(&self, opened: StreamOpened, syncs: Arc<Mutex<Vec<Synced>>>) -> BoxFuture<'static, ()> {
        let (channel, id) = (self.channel.clone(), opened.stream_id);
        match (opened.subject, &self.secret) {
            (Some(Subject::FileSync(request)), _) => {
                let directory = self.directories.iter().find(|(name, ..)| *name == request.directory);
                let tree = Arc::clone(&directory.expect("a directory that was offered").2);
                sync(channel, id, request, tree, syncs).boxed()
            }
            (Some(Subject::Secret(_)), Some(secret)) => give(channel, id, secret.clone()).boxed(),
            (other, _) => panic!("that was not offered: {other:?}"),
        }
    }
}

/// Gives a secret on a stream.
async fn give(channel: Channel, id: String, secret: Vec<u8>) {
    let answer = GetSecretResponse { data: secret }.encode_to_vec();
    let said = [attach_request::Request::StreamId(id), attach_request::Request::Message(answer.into())];
    let requests = said.map(|request| AttachRequest { request: Some(request) });
    if let Ok(responses) = BuildServiceClient::new(channel).attach(stream::iter(requests)).await {
        let mut responses = responses.into_inner();
        while let Ok(Some(_)) = responses.message().await {}
    }
}

/// Syncs a directory on a stream.
async fn sync(
    channel: Channel,
    id: String,
    request: FileSync,
    tree: Arc<Tree>,
    syncs: Arc<Mutex<Vec<Synced>>>,
) {
    let seen = Arc::new(Mutex::new(Synced { directory: request.directory.clone(), ..Synced::default() }));
    let asked = Arc::<Mutex<Vec<u32>>>::default();
    let (out, packets) = sync::channel();
    let counted = Arc::clone(&seen);
    let messages = packets.map(move |bytes| {
        let packet = Packet::decode(bytes.clone()).unwrap();
        let mut seen = lock(&counted);
        match (packet.r#type(), &packet.stat) {
            (PacketType::PacketStat, Some(stat)) => seen.announced.push(stat.path.clone()),
            (PacketType::PacketData, _) => seen.data += packet.data.len(),
            _ => {}
        }
        AttachRequest { request: Some(attach_request::Request::Message(bytes)) }
    });
    let first = AttachRequest { request: Some(attach_request::Request::StreamId(id)) };
    let mut client = BuildServiceClient::new(channel).max_decoding_message_size(16 << 20);
    let requests = stream::iter([first]).chain(messages);
    let mut responses = client.attach(requests).await.unwrap().into_inner();
    let noted = Arc::clone(&asked);
    let requests = responses.by_ref().map(move |response| {
        response.map(|response| {
            let packet = Packet::decode(response.message.clone()).unwrap();
            if packet.r#type() == PacketType::PacketReq {
                lock(&noted).push(packet.id);
            }
            response.message
        })
    });
    let _ = sync::send(tree, request, requests, out).await;
    while let Ok(Some(_)) = responses.message().await {}
    let mut seen = lock(&seen).clone();
    seen.asked = lock(&asked).iter().map(|id| seen.announced[*id as usize].clone()).collect();
    seen.asked.sort();
    lock(&syncs).push(seen);
}

/// The syncs of the build context, merged.
pub(crate) fn of_context(syncs: &[Synced]) -> Synced {
    let mut all = Synced::default();
    for sync in syncs.iter().filter(|sync| sync.directory == "context") {
        all.announced.extend(sync.announced.iter().cloned());
        all.asked.extend(sync.asked.iter().cloned());
        all.data += sync.data;
    }
    all
}

/// Writes files for a context; returns their sizes.
pub(crate) fn write_files(directory: &Path, files: usize, bytes: usize) -> BTreeMap<String, usize> {
    // The content is not compressible, and differs between files.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .take(bytes / files / 4 + 8192)
    .flatten()
    .collect();
    let mut written = BTreeMap::new();
    for index in 0..files {
        let folder = format!("d{:03}", index / 100);
        if index % 100 == 0 {
            std::fs::create_dir_all(directory.join(&folder)).unwrap();
        }
        let size = bytes / files + usize::from(index < bytes % files);
        let path = format!("{folder}/f{index:05}");
        let at = (index * 7) % (noise.len() - size);
        std::fs::write(directory.join(&path), &noise[at..at + size]).unwrap();
        written.insert(path, size);
    }
    written
}
