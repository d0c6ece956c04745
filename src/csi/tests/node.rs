//! A node with the kubelet's directories, for the driver's tests.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tonic::{
    Status,
    body::Body,
    transport::{Channel, Endpoint},
};

use super::super::{
    api::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, node_client::NodeClient},
    registration::{InfoRequest, PluginInfo, RegistrationStatus, registration_client::RegistrationClient},
    request::tests::request,
    *,
};
use crate::{
    audit::Trail,
    config::{Config, Flags},
    front::{Front, Queues, Work},
    identity::{Identities, Presented, Served},
    metrics::Metrics,
    naming::Keys,
    store::Store,
    tasks::{Cause, Group},
    transport::{ConnectionLimits, Http2, Peer, Server, StandingOf},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// A node's directories; they go with the test.
pub(super) struct Node {
    pub(super) dir: PathBuf,
    pub(super) config: Config,
}

/// A wharfd on it, without doors of its own.
pub(super) struct Running {
    pub(super) driver: Arc<Driver>,
    process: Group,
    connections: Group,
    pub(super) channel: Channel,
    registration: PathBuf,
}

impl Node {
    pub(super) fn new(name: &str, more: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("wharf-csi-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        for below in ["kubelet/pods", "kubelet/plugins_registry", "state"] {
            fs::create_dir_all(dir.join(below)).unwrap();
        }
        fs::write(dir.join("wharf"), "the client").unwrap();
        let serve = "[[serve]]\nissuer = \"pods\"\nnamespaces = \"team-*\"\n";
        let csi = format!("[csi]\nkubelet_dir = \"{}/kubelet\"\n", dir.display());
        let config = Config::with_file(Flags::default(), &format!("{csi}{more}{serve}"));
        Self { dir, config }
    }

    pub(super) async fn start(&self) -> Running {
        let process = Group::root();
        let state = self.dir.join("state");
        let served = Served::new(Identities::new(&self.config).unwrap());
        // The file of a wharfd that has just ended may still be locked.
        let mut opened = Store::open(&state);
        for _ in 0..500 {
            if opened.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            opened = Store::open(&state);
        }
        let store = opened.unwrap();
        let work = Work::new(process.child("work"), Keys::load(&state).unwrap());
        let (metrics, trail) = (Metrics::default(), Trail::off());
        let queues = Queues::new(&self.config, &metrics);
        let (asked, none, kept) = (Arc::clone(&served), BTreeMap::new(), store.clone());
        let front = Front::new(asked, none, work, kept, queues, 9, trail, metrics);
        let asked = Arc::clone(&served);
        let who: StandingOf = Arc::new(move |peer| asked.now().standing(peer));
        let identities = Arc::clone(&served);
        // Answers who calls, and in which namespace.
        let service = tower::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let identities = identities.now();
            async move {
                let peer = request.extensions().get::<Peer>().unwrap();
                let presented = Presented { peer, authorization: None, is_alone: true };
                let text = match identities.identify(&presented) {
                    Ok(caller) => format!("{caller} in {}", caller.namespace(None).unwrap().subject()),
                    Err(fault) => fault.to_string(),
                };
                Ok(http::Response::new(Body::new(text)))
            }
        });
        let (connections, limits) = (process.child("connections"), ConnectionLimits::default());
        let server = Server::new(who, limits, Http2::new(service, limits));
        let means = Resources {
            pods_dir: self.pods(),
            client: self.dir.join("wharf"),
            served,
            front,
            store,
            trail: Trail::off(),
            open: Arc::new(move |listener, group: Group| {
                let (server, owner) = (server.clone(), group.clone());
                drop(group.spawn("accept", server.serve(vec![listener], owner)));
            }),
            connections: connections.clone(),
            tasks: process.child("csi"),
        };
        let driver = Driver::start(means).await.unwrap();
        let csi = self.config.csi.as_ref().unwrap();
        serve(Arc::clone(&driver), csi, limits, &connections).await.unwrap();
        let channel = connect(csi.socket.as_path()).await;
        let registration = csi.registration.as_path().to_owned();
        Running { driver, process, connections, channel, registration }
    }

    pub(super) fn pods(&self) -> PathBuf {
        self.config.csi.as_ref().unwrap().pods_dir()
    }

    /// What the kubelet does before it asks for a pod's volume.
    pub(super) fn pod(&self, namespace: &str, uid: &str) -> NodePublishVolumeRequest {
        fs::create_dir_all(self.volume(uid).parent().unwrap()).unwrap();
        request(&self.pods(), namespace, uid)
    }

    pub(super) fn volume(&self, uid: &str) -> PathBuf {
        self.pods().join(format!("{uid}/volumes/kubernetes.io~csi/wharf/mount"))
    }

    /// The socket of a pod, by a path that is short enough.
    pub(super) fn socket(&self, uid: &str) -> PathBuf {
        let link = self.dir.join(format!("link-{}", &uid[..4]));
        let _ = std::os::unix::fs::symlink(self.volume(uid), &link);
        link.join("wharf.sock")
    }

    /// Who one is at the socket of a pod.
    pub(super) async fn whoami(&self, uid: &str) -> String {
        let stream = UnixStream::connect(self.socket(uid)).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        drop(Group::root().spawn("client", connection));
        let asked = http::Request::get("http://localhost/").body(Body::empty()).unwrap();
        let answer = sender.send_request(asked).await.unwrap();
        String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Running {
    pub(super) async fn publish(&self, request: &NodePublishVolumeRequest) -> Result<(), Status> {
        let mut node = NodeClient::new(self.channel.clone());
        node.node_publish_volume(request.clone()).await.map(drop)
    }

    pub(super) async fn unpublish(&self, request: &NodePublishVolumeRequest) -> Result<(), Status> {
        let (volume_id, target_path) = (request.volume_id.clone(), request.target_path.clone());
        let mut node = NodeClient::new(self.channel.clone());
        node.node_unpublish_volume(NodeUnpublishVolumeRequest { volume_id, target_path }).await.map(drop)
    }

    /// What the kubelet does when it finds the driver.
    pub(super) async fn is_found(&self) -> PluginInfo {
        let mut registration = RegistrationClient::new(connect(&self.registration).await);
        let info = registration.get_info(InfoRequest {}).await.unwrap().into_inner();
        let status = RegistrationStatus { plugin_registered: true, error: String::new() };
        registration.notify_registration_status(status).await.unwrap();
        info
    }

    /// Ends it, as a kill would: nothing is put in order.
    pub(super) async fn end(self) {
        let Self { driver, process, connections, channel, .. } = self;
        drop(channel);
        connections.cancel(Cause::ShuttingDown);
        process.cancel(Cause::ShuttingDown);
        tokio::time::timeout(PATIENCE, process.close_and_wait()).await.unwrap();
        drop(driver);
    }
}

pub(super) async fn connect(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connect).await.unwrap()
}

pub(super) async fn until(is_so: impl AsyncFn() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
}

/// Waits until the other end closes the connection.
pub(super) async fn closed(stream: UnixStream) {
    let wait = async {
        loop {
            stream.readable().await.unwrap();
            match stream.try_read(&mut [0; 4096]) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
}
