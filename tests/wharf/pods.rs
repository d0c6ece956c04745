//! Pods: the test plays the kubelet.

use std::{fs, os::unix::fs::symlink, path::PathBuf, sync::Arc, time::Duration};

use tokio::net::UnixStream;
use tonic::{Code, Status};
use wharf::csi::{
    api::{
        NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability,
        node_client::NodeClient,
        volume_capability::{AccessType, MountVolume},
    },
    registration::{InfoRequest, RegistrationStatus, registration_client::RegistrationClient},
};

use crate::harness::{Issuer, Test, Wharf, Wharfd, cases, rpc, wait_for};

cases![
    a_pod_builds_through_its_own_socket_and_leaves_nothing,
    a_pod_is_itself_over_a_restart,
    what_a_pod_may_not_have,
    a_token_decides_at_a_pods_socket,
];

const ONE: &str = "8f6b2c1e-6f0e-4c53-a1c2-0b9f2f3e4d5a";
const OTHER: &str = "0b9f2f3e-6f0e-4c53-a1c2-8f6b2c1e4d5a";
/// The uid of the pods' containers, which proves nothing anywhere.
const AGENT: u32 = 1007;
const SERVE: &str = "[[serve]]\nissuer = \"pods\"\nnamespaces = \"team-*\"\n";

/// The kubelet of a test, and its wharfd.
struct Kubelet {
    dir: PathBuf,
    wharfd: Arc<Wharfd>,
}

impl Kubelet {
    async fn new(test: &Test, more: &str) -> Self {
        let dir = test.new_dir("kubelet");
        for below in ["pods", "plugins_registry"] {
            fs::create_dir_all(dir.join(below)).unwrap();
        }
        let config = format!("[csi]\nkubelet_dir = \"{}\"\n{more}{SERVE}", dir.display());
        let wharfd = test.wharfd_with(Some(&config), &[]).await;
        Self { dir, wharfd }
    }

    fn volume(&self, uid: &str) -> PathBuf {
        self.dir.join(format!("pods/{uid}/volumes/kubernetes.io~csi/wharf/mount"))
    }

    fn request(&self, namespace: &str, uid: &str) -> NodePublishVolumeRequest {
        let context = [
            ("csi.storage.k8s.io/ephemeral", "true"),
            ("csi.storage.k8s.io/pod.namespace", namespace),
            ("csi.storage.k8s.io/pod.uid", uid),
            ("csi.storage.k8s.io/pod.name", "agent"),
            ("csi.storage.k8s.io/serviceAccount.name", "default"),
        ];
        fs::create_dir_all(self.volume(uid).parent().unwrap()).unwrap();
        NodePublishVolumeRequest {
            volume_id: format!("csi-{uid}"),
            target_path: self.volume(uid).display().to_string(),
            volume_capability: Some(VolumeCapability {
                access_type: Some(AccessType::Mount(MountVolume::default())),
            }),
            readonly: true,
            volume_context: context.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..NodePublishVolumeRequest::default()
        }
    }

    async fn driver(&self) -> NodeClient<tonic::transport::Channel> {
        NodeClient::new(rpc::connect(&self.dir.join("plugins/csi.wharf.dev/csi.sock")).await)
    }

    /// What the kubelet does whenever it finds the driver.
    async fn finds_the_driver(&self) {
        let socket = self.dir.join("plugins_registry/csi.wharf.dev-reg.sock");
        let mut registration = RegistrationClient::new(rpc::connect(&socket).await);
        registration.get_info(InfoRequest {}).await.unwrap();
        let status = RegistrationStatus { plugin_registered: true, error: String::new() };
        registration.notify_registration_status(status).await.unwrap();
    }

    async fn publish(&self, request: NodePublishVolumeRequest) -> Result<(), Status> {
        self.driver().await.node_publish_volume(request).await.map(drop)
    }

    async fn unpublish(&self, uid: &str) -> Result<(), Status> {
        let (volume_id, target_path) = (format!("csi-{uid}"), self.volume(uid).display().to_string());
        let request = NodeUnpublishVolumeRequest { volume_id, target_path };
        self.driver().await.node_unpublish_volume(request).await.map(drop)
    }

    /// The volume as the pod sees it.
    fn mounted(&self, test: &Test, uid: &str) -> PathBuf {
        let at = test.new_dir("run").join("w");
        symlink(self.volume(uid), &at).unwrap();
        at
    }

    /// A job in a pod, which says nothing about itself.
    fn job(&self, test: &Test, uid: &str) -> Wharf {
        let address = format!("unix://{}/wharf.sock", self.mounted(test, uid).display());
        let job = Wharf::new(test, &self.wharfd, "victim#1").without_namespace().at(&address).as_uid(AGENT);
        // As in a pod of Jenkins: it decides nothing.
        job.with_variable("JOB_NAME", "victim").with_variable("BUILD_NUMBER", "1")
    }
}

fn dockerfile(test: &Test, text: &str) -> PathBuf {
    test.context("context", &[("Dockerfile", &format!("FROM scratch\nCOPY Dockerfile /{text}\n"))])
}

async fn a_pod_builds_through_its_own_socket_and_leaves_nothing(test: Arc<Test>) {
    let kubelet = Kubelet::new(&test, "").await;
    for (namespace, uid) in [("team-a", ONE), ("team-a", OTHER)] {
        kubelet.publish(kubelet.request(namespace, uid)).await.unwrap();
    }
    let (one, other) = (kubelet.job(&test, ONE), kubelet.job(&test, OTHER));
    let registry = test.registry().await;
    let pushed = format!("{}/pods/app:1", registry.host());
    let context = dockerfile(&test, "a");
    let id = one.build_id(&context, &["-t", "app:1", "-t", &pushed]).await;
    one.run(["push", &pushed]).await.ok();
    assert_eq!(one.images().await.len(), 2);
    let info = one.run(["info"]).await.ok().stdout;
    assert!(info.contains(&format!("pods:team-a#{ONE}")), "{info}");

    // Another pod of the same Kubernetes namespace sees nothing of it, and can name nothing of it.
    assert!(other.images().await.is_empty());
    other.run(["inspect", &id]).await.ended(6);
    for named in [format!("team-a#{ONE}"), "victim#1".to_owned()] {
        let images = other.run(["--namespace", &named, "images"]).await;
        images.ended(3).says(&["is not yours", &format!("your socket is for `pods:team-a#{OTHER}`")]);
    }
    // Neither does a user of the node who claims its name, nor the pod's uid at the node's own socket.
    let claims = Wharf::new(&test, &kubelet.wharfd, &format!("team-a#{ONE}"));
    assert!(claims.images().await.is_empty(), "a claimed name is another job");
    let outside = Wharf::new(&test, &kubelet.wharfd, "team-a#1").as_uid(AGENT);
    outside.run(["images"]).await.ended(3).says(&["is not served here"]);

    // A running build ends with its pod, and so does a connection that only waits.
    let base = test.base(&registry).await;
    let slow = test.context("slow", &[("Dockerfile", &format!("FROM {base}\nRUN echo begun; sleep 600\n"))]);
    let running = one.start(["build", "--progress=plain", slow.to_str().unwrap()]);
    wait_for("the step to run", async || {
        running.lines().iter().any(|line| line.ends_with("begun")).then_some(())
    })
    .await;
    let held = UnixStream::connect(kubelet.mounted(&test, ONE).join("wharf.sock")).await.unwrap();
    kubelet.unpublish(ONE).await.unwrap();
    running.wait(Duration::from_secs(30)).await.unwrap();
    held.readable().await.unwrap();
    assert!(!kubelet.volume(ONE).exists());
    let names = kubelet.wharfd.own_names().await;
    assert_eq!(names, Vec::<String>::new(), "nothing of the pod is left in the engine");
    kubelet.unpublish(ONE).await.unwrap();

    // The other one goes on.
    other.build_id(&context, &["-t", "app:1"]).await;
    kubelet.unpublish(OTHER).await.unwrap();
    assert_eq!(kubelet.wharfd.own_names().await, Vec::<String>::new());
}

async fn a_pod_is_itself_over_a_restart(test: Arc<Test>) {
    let kubelet = Kubelet::new(&test, "").await;
    for uid in [ONE, OTHER] {
        kubelet.publish(kubelet.request("team-a", uid)).await.unwrap();
    }
    let (one, other) = (kubelet.job(&test, ONE), kubelet.job(&test, OTHER));
    let context = dockerfile(&test, "a");
    let id = one.build_id(&context, &["-t", "app:1"]).await;
    other.build_id(&context, &["-t", "theirs:1"]).await;
    kubelet.wharfd.kill().await;
    // One pod goes while nobody looks.
    fs::remove_dir_all(kubelet.dir.join(format!("pods/{OTHER}"))).unwrap();
    kubelet.wharfd.start().await;
    assert_eq!(one.images().await, [("app:1".to_owned(), id)]);
    one.build_id(&context, &["-t", "app:2"]).await;
    kubelet.publish(kubelet.request("team-a", ONE)).await.unwrap();
    kubelet.finds_the_driver().await;
    let log = async || {
        let ended = |line: &String| line.contains("a pod's namespace has ended") && line.contains(OTHER);
        kubelet.wharfd.log().iter().any(ended).then_some(())
    };
    wait_for("the namespace of the pod that is gone to end", log).await;
    // A kill in the midst of it: the kubelet asks again.
    kubelet.wharfd.terminate().await;
    kubelet.wharfd.start().await;
    kubelet.unpublish(ONE).await.unwrap();
    assert_eq!(kubelet.wharfd.own_names().await, Vec::<String>::new());
}

async fn what_a_pod_may_not_have(test: Arc<Test>) {
    let kubelet = Kubelet::new(&test, "").await;
    let request = || kubelet.request("team-a", ONE);
    let refused = async |request: NodePublishVolumeRequest, code: Code, text: &str| {
        let status = kubelet.publish(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(text), "{status:?}");
    };
    let mut writable = request();
    writable.readonly = false;
    refused(writable, Code::InvalidArgument, "`readOnly: true`").await;
    refused(kubelet.request("other", ONE), Code::PermissionDenied, "namespace `other` are not served").await;
    let mut forged = request();
    forged.volume_context.insert("csi.storage.k8s.io/pod.uid".to_owned(), OTHER.to_owned());
    refused(forged, Code::InvalidArgument, "is for the pod").await;
    let mut look_alike = request();
    look_alike.volume_context.insert("csi.storage.k8s.io/podUID".to_owned(), OTHER.to_owned());
    refused(look_alike, Code::InvalidArgument, "only the kubelet may set").await;
    let mut secret = request();
    secret.secrets.insert("password".to_owned(), "s3cret-of-a-pod".to_owned());
    refused(secret, Code::InvalidArgument, "takes no secrets").await;
    assert!(!kubelet.wharfd.log().iter().any(|line| line.contains("s3cret-of-a-pod")));
    // Another pod's directory, and one that leads out through a link.
    let mut borrowed = request();
    borrowed.target_path = kubelet.volume(OTHER).display().to_string();
    refused(borrowed, Code::InvalidArgument, "is for the pod").await;
    let outside = test.new_dir("outside");
    symlink(&outside, kubelet.volume(ONE)).unwrap();
    refused(request(), Code::Unavailable, "the directory of the volume").await;
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    fs::remove_file(kubelet.volume(ONE)).unwrap();

    // The driver is the kubelet's alone, whatever the mode of its socket.
    let socket = kubelet.dir.join("plugins/csi.wharf.dev/csi.sock");
    for path in [kubelet.dir.clone(), kubelet.dir.join("plugins"), kubelet.dir.join("plugins/csi.wharf.dev")]
    {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let mut agent = NodeClient::new(rpc::connect_as(&socket, AGENT).await);
    assert_eq!(agent.node_publish_volume(request()).await.unwrap_err().code(), Code::PermissionDenied);
    kubelet.unpublish(ONE).await.unwrap();
}

async fn a_token_decides_at_a_pods_socket(test: Arc<Test>) {
    let issuer = Issuer::new(&test, "ci");
    let more = format!("tokens_only = [\"team-b\"]\n{}", issuer.config("acme/*"));
    let kubelet = Kubelet::new(&test, &more).await;
    for (namespace, uid) in [("team-a", ONE), ("team-b", OTHER)] {
        kubelet.publish(kubelet.request(namespace, uid)).await.unwrap();
    }
    let context = dockerfile(&test, "a");
    let shared = kubelet.job(&test, OTHER);
    shared.run(["images"]).await.ended(3).says(&["`team-b` have to present a job's token"]);
    let token = issuer.token("acme/app", 1);
    let without = |job: Wharf| job.with_variable("JOB_NAME", "").with_token(&token);
    let job = without(shared.clone());
    job.build_id(&context, &["-t", "app:1"]).await;
    // Several pods of one run: each presents it at its own socket.
    let pod = kubelet.job(&test, ONE);
    assert_eq!(without(pod.clone()).images().await.len(), 1);
    assert!(pod.images().await.is_empty(), "without it, the pod is itself");
    // A bad token is nobody, even at a pod's socket.
    let foreign = Issuer::new(&test, "ci").token("acme/app", 1);
    pod.with_variable("JOB_NAME", "").with_token(&foreign).run(["images"]).await.ended(3);
    // The run outlives its pods, and ends as it would anywhere.
    kubelet.unpublish(OTHER).await.unwrap();
    let last = without(pod);
    assert_eq!(last.images().await.len(), 1);
    last.run(["namespace", "rm"]).await.ok();
    kubelet.unpublish(ONE).await.unwrap();
}
