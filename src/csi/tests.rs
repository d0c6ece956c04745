//! The driver, as the kubelet and a pod see it, without an engine.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tonic::{
    Code, Status,
    body::Body,
    transport::{Channel, Endpoint},
};

use super::{
    api::{
        GetPluginCapabilitiesRequest, GetPluginInfoRequest, NodeGetCapabilitiesRequest, NodeGetInfoRequest,
        NodePublishVolumeRequest, NodeUnpublishVolumeRequest, ProbeRequest, identity_client::IdentityClient,
        node_client::NodeClient,
    },
    registration::{InfoRequest, RegistrationStatus, registration_client::RegistrationClient},
    request::tests::request,
    *,
};
use crate::{
    audit::Trail,
    config::{Config, DRIVER, Flags},
    front::{Front, Queues, Work},
    identity::{Identities, Presented, Served},
    naming::Keys,
    store::Store,
    tasks::{Cause, Group},
    transport::{Http2, Limits, Peer, Server, Who},
};

const ONE: &str = "8f6b2c1e-6f0e-4c53-a1c2-0b9f2f3e4d5a";
const OTHER: &str = "0b9f2f3e-6f0e-4c53-a1c2-8f6b2c1e4d5a";
const PATIENCE: Duration = Duration::from_secs(10);

/// A node's directories; they go with the test.
struct Node {
    dir: PathBuf,
    config: Config,
}

/// A wharfd on it, without doors of its own.
struct Running {
    driver: Arc<Driver>,
    process: Group,
    connections: Group,
    channel: Channel,
}

impl Node {
    fn new(name: &str, more: &str) -> Self {
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

    async fn start(&self) -> Running {
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
        let queues = Queues::new(&self.config);
        let front =
            Front::new(Arc::clone(&served), BTreeMap::new(), work, store.clone(), queues, 9, Trail::off());
        let asked = Arc::clone(&served);
        let who: Who = Arc::new(move |peer| asked.now().standing(peer));
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
        let (connections, limits) = (process.child("connections"), Limits::default());
        let server = Server::new(who, limits, Http2::new(service, limits));
        let means = Means {
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
        Running { driver, process, connections, channel }
    }

    fn pods(&self) -> PathBuf {
        self.config.csi.as_ref().unwrap().pods_dir()
    }

    /// What the kubelet does before it asks for a pod's volume.
    fn pod(&self, namespace: &str, uid: &str) -> NodePublishVolumeRequest {
        fs::create_dir_all(self.volume(uid).parent().unwrap()).unwrap();
        request(&self.pods(), namespace, uid)
    }

    fn volume(&self, uid: &str) -> PathBuf {
        self.pods().join(format!("{uid}/volumes/kubernetes.io~csi/wharf/mount"))
    }

    /// The socket of a pod, by a path that is short enough.
    fn socket(&self, uid: &str) -> PathBuf {
        let link = self.dir.join(format!("link-{}", &uid[..4]));
        let _ = std::os::unix::fs::symlink(self.volume(uid), &link);
        link.join("wharf.sock")
    }

    /// Who one is at the socket of a pod.
    async fn whoami(&self, uid: &str) -> String {
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
    async fn publish(&self, request: &NodePublishVolumeRequest) -> Result<(), Status> {
        let mut node = NodeClient::new(self.channel.clone());
        node.node_publish_volume(request.clone()).await.map(drop)
    }

    async fn unpublish(&self, request: &NodePublishVolumeRequest) -> Result<(), Status> {
        let (volume_id, target_path) = (request.volume_id.clone(), request.target_path.clone());
        let mut node = NodeClient::new(self.channel.clone());
        node.node_unpublish_volume(NodeUnpublishVolumeRequest { volume_id, target_path }).await.map(drop)
    }

    /// Ends it, as a kill would: nothing is put in order.
    async fn end(self) {
        let Self { driver, process, connections, channel } = self;
        drop(channel);
        connections.cancel(Cause::ShuttingDown);
        process.cancel(Cause::ShuttingDown);
        tokio::time::timeout(PATIENCE, process.close_and_wait()).await.unwrap();
        drop(driver);
    }
}

async fn connect(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connect).await.unwrap()
}

/// Waits until the other end closes the connection.
async fn closed(stream: UnixStream) {
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

#[tokio::test]
async fn the_kubelet_finds_the_driver() {
    let node = Node::new("found", "");
    let running = node.start().await;
    let csi = node.config.csi.as_ref().unwrap();
    for socket in [&csi.socket, &csi.registration] {
        assert_eq!(fs::metadata(socket.as_path()).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let mut registration = RegistrationClient::new(connect(csi.registration.as_path()).await);
    let info = registration.get_info(InfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.r#type.as_str(), info.name.as_str()), ("CSIPlugin", DRIVER));
    assert_eq!(Path::new(&info.endpoint), csi.socket.as_path());
    let status = RegistrationStatus { plugin_registered: true, error: String::new() };
    registration.notify_registration_status(status).await.unwrap();
    let mut identity = IdentityClient::new(running.channel.clone());
    let plugin = identity.get_plugin_info(GetPluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(plugin.name, DRIVER);
    identity.get_plugin_capabilities(GetPluginCapabilitiesRequest {}).await.unwrap();
    assert_eq!(identity.probe(ProbeRequest {}).await.unwrap().into_inner().ready, Some(true));
    let mut service = NodeClient::new(running.channel.clone());
    service.node_get_capabilities(NodeGetCapabilitiesRequest {}).await.unwrap();
    let info = service.node_get_info(NodeGetInfoRequest {}).await.unwrap().into_inner();
    assert!(!info.node_id.is_empty(), "the kubelet takes no driver without");
    running.end().await;
}

#[tokio::test]
async fn whoever_connects_to_a_pods_socket_is_the_pod() {
    let node = Node::new("publish", "");
    let running = node.start().await;
    let (one, other) = (node.pod("team-a", ONE), node.pod("team-b", OTHER));
    for request in [&one, &other, &one] {
        running.publish(request).await.unwrap();
    }
    assert_eq!(node.whoami(ONE).await, format!("pod team-a/{ONE} in pods:team-a#{ONE}"));
    assert_eq!(node.whoami(OTHER).await, format!("pod team-b/{OTHER} in pods:team-b#{OTHER}"));
    let volume = node.volume(ONE);
    let mode = |name: &str| fs::symlink_metadata(volume.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        [mode("wharf.sock"), mode("wharf"), mode("namespace"), mode(".")],
        [0o666, 0o755, 0o644, 0o755]
    );
    assert_eq!(fs::read_to_string(volume.join("namespace")).unwrap(), format!("pods:team-a#{ONE}\n"));
    assert_eq!(fs::read_to_string(volume.join("wharf")).unwrap(), "the client");
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 3);
    assert!(fs::symlink_metadata(volume.join("wharf.sock")).unwrap().file_type().is_socket());
    // If something has removed it, the kubelet's next request brings it back.
    fs::remove_file(volume.join("wharf.sock")).unwrap();
    running.publish(&one).await.unwrap();
    assert!(node.whoami(ONE).await.starts_with("pod team-a/"));
    running.end().await;
}

#[tokio::test]
async fn who_may_not_have_a_socket_gets_none() {
    let node = Node::new("refused", "");
    let running = node.start().await;
    let code = async |request: &NodePublishVolumeRequest| running.publish(request).await.unwrap_err().code();
    let unserved = node.pod("other", ONE);
    assert_eq!(code(&unserved).await, Code::PermissionDenied);
    let mut writable = node.pod("team-a", ONE);
    writable.readonly = false;
    assert_eq!(code(&writable).await, Code::InvalidArgument);
    let mut borrowed = node.pod("team-a", OTHER);
    borrowed.target_path = node.pod("team-a", ONE).target_path;
    assert_eq!(code(&borrowed).await, Code::InvalidArgument);
    assert!(!node.volume(ONE).exists() && !node.volume(OTHER).exists());

    let first = node.pod("team-a", ONE);
    running.publish(&first).await.unwrap();
    // The same volume elsewhere, another one at its place, and the pod of another Kubernetes namespace.
    let at = |volume: &str| first.target_path.replace("/wharf/", &format!("/{volume}/"));
    let elsewhere = NodePublishVolumeRequest { target_path: at("second"), ..first.clone() };
    assert_eq!(code(&elsewhere).await, Code::AlreadyExists);
    let another = NodePublishVolumeRequest { volume_id: "csi-2".to_owned(), ..first.clone() };
    assert_eq!(code(&another).await, Code::AlreadyExists);
    let moved = node.pod("team-b", ONE);
    assert_eq!(code(&moved).await, Code::Unavailable);
    for number in 2..=4 {
        let target_path = at(&format!("w{number}"));
        fs::create_dir_all(Path::new(&target_path).parent().unwrap()).unwrap();
        let more =
            NodePublishVolumeRequest { volume_id: format!("csi-{number}"), target_path, ..first.clone() };
        running.publish(&more).await.unwrap();
    }
    let fifth = NodePublishVolumeRequest { volume_id: "csi-5".to_owned(), target_path: at("w5"), ..first };
    assert_eq!(code(&fifth).await, Code::InvalidArgument);
    running.end().await;
}

#[tokio::test]
async fn the_end_of_a_volume_closes_its_socket_and_its_connections() {
    let node = Node::new("unpublish", "");
    let running = node.start().await;
    let (one, other) = (node.pod("team-a", ONE), node.pod("team-a", OTHER));
    let mut second = one.clone();
    second.volume_id = "csi-second".to_owned();
    second.target_path = one.target_path.replace("/wharf/", "/second/");
    fs::create_dir_all(Path::new(&second.target_path).parent().unwrap()).unwrap();
    for request in [&one, &second, &other] {
        running.publish(request).await.unwrap();
    }
    let held = UnixStream::connect(node.socket(ONE)).await.unwrap();
    // Neither an unknown volume nor another one's path takes it away.
    let mut wrong = one.clone();
    wrong.volume_id = "csi-unknown".to_owned();
    assert_eq!(running.unpublish(&wrong).await.unwrap_err().code(), Code::InvalidArgument);
    wrong = NodePublishVolumeRequest { target_path: other.target_path.clone(), ..one.clone() };
    assert_eq!(running.unpublish(&wrong).await.unwrap_err().code(), Code::InvalidArgument);
    wrong.target_path = node.dir.display().to_string();
    assert_eq!(running.unpublish(&wrong).await.unwrap_err().code(), Code::InvalidArgument);
    assert!(node.whoami(ONE).await.starts_with("pod"));

    running.unpublish(&one).await.unwrap();
    closed(held).await;
    assert!(!node.volume(ONE).exists() && node.volume(ONE).parent().unwrap().exists());
    running.unpublish(&one).await.unwrap();
    // The pod lives as long as its last volume; the other pod does not notice.
    let link = node.dir.join("second");
    std::os::unix::fs::symlink(&second.target_path, &link).unwrap();
    UnixStream::connect(link.join("wharf.sock")).await.unwrap();
    running.unpublish(&second).await.unwrap();
    assert!(node.whoami(OTHER).await.contains(OTHER));
    // Its uid does not come back; if it does, it is a pod anew.
    running.publish(&one).await.unwrap();
    assert!(node.whoami(ONE).await.contains(ONE));
    running.end().await;
}

#[tokio::test]
async fn sockets_outlive_wharfd_and_pods_that_vanish_meanwhile_end() {
    let node = Node::new("restart", "");
    let running = node.start().await;
    let (one, other) = (node.pod("team-a", ONE), node.pod("team-a", OTHER));
    for request in [&one, &other] {
        running.publish(request).await.unwrap();
    }
    let held = UnixStream::connect(node.socket(ONE)).await.unwrap();
    running.end().await;
    closed(held).await;
    assert!(UnixStream::connect(node.socket(ONE)).await.is_err());
    fs::remove_dir_all(node.pods().join(OTHER)).unwrap();
    fs::write(node.dir.join("wharf"), "another client").unwrap();

    let running = node.start().await;
    assert_eq!(node.whoami(ONE).await, format!("pod team-a/{ONE} in pods:team-a#{ONE}"));
    assert_eq!(fs::read_to_string(node.volume(ONE).join("wharf")).unwrap(), "another client");
    running.publish(&one).await.unwrap();
    // The first look is at once.
    let is_known = || format!("{:?}", running.driver).contains("volumes: 2");
    let forgotten = async {
        while is_known() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, forgotten).await.unwrap();
    running.unpublish(&other).await.unwrap();
    running.unpublish(&one).await.unwrap();
    running.end().await;

    let running = node.start().await;
    assert!(format!("{:?}", running.driver).contains("volumes: 0"), "{:?}", running.driver);
    running.end().await;
}

#[tokio::test]
async fn where_only_tokens_count_a_socket_alone_proves_nothing() {
    let more = "tokens_only = [\"team-b\"]\n[[serve]]\ntoken = \"t\"\nsha256 = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e\
                4649b934ca495991b7852b855\"\nnamespaces = \"x\"\n";
    let node = Node::new("tokens", more);
    let running = node.start().await;
    running.publish(&node.pod("team-b", ONE)).await.unwrap();
    let refused = node.whoami(ONE).await;
    assert!(refused.contains("`team-b` have to present a job's token"), "{refused}");
    running.publish(&node.pod("team-a", OTHER)).await.unwrap();
    assert!(node.whoami(OTHER).await.starts_with("pod team-a/"));
    running.end().await;
}
