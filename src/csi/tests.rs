//! The driver, as the kubelet and a pod see it, without an engine.

mod node;

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
};

use tokio::net::UnixStream;
use tonic::Code;

use super::api::{
    GetPluginCapabilitiesRequest, GetPluginInfoRequest, NodeGetCapabilitiesRequest, NodeGetInfoRequest,
    NodePublishVolumeRequest, ProbeRequest, identity_client::IdentityClient, node_client::NodeClient,
};
use crate::config::DRIVER;
use node::{Node, closed, until};

const ONE: &str = "8f6b2c1e-6f0e-4c53-a1c2-0b9f2f3e4d5a";
const OTHER: &str = "0b9f2f3e-6f0e-4c53-a1c2-8f6b2c1e4d5a";

#[tokio::test]
async fn the_kubelet_finds_the_driver() {
    let node = Node::new("found", "");
    let running = node.start().await;
    let csi = node.config.csi.as_ref().unwrap();
    for socket in [&csi.socket, &csi.registration] {
        assert_eq!(fs::metadata(socket.as_path()).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let info = running.is_found().await;
    assert_eq!((info.r#type.as_str(), info.name.as_str()), ("CSIPlugin", DRIVER));
    assert_eq!(Path::new(&info.endpoint), csi.socket.as_path());
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
    assert_eq!(node.whoami(ONE).await, format!("job pods:team-a in pods:team-a#{ONE}"));
    assert_eq!(node.whoami(OTHER).await, format!("job pods:team-b in pods:team-b#{OTHER}"));
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
    assert!(node.whoami(ONE).await.starts_with("job pods:team-a "));
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
    assert!(node.whoami(ONE).await.starts_with("job "));

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
    assert_eq!(node.whoami(ONE).await, format!("job pods:team-a in pods:team-a#{ONE}"));
    assert_eq!(fs::read_to_string(node.volume(ONE).join("wharf")).unwrap(), "another client");
    running.publish(&one).await.unwrap();
    // Until the kubelet has found the driver, this need not be the kubelet's directory. Then the first look is at once.
    let has = |volumes| format!("{:?}", running.driver).contains(&format!("volumes: {volumes}"));
    assert!(has(2));
    running.is_found().await;
    until(async || has(1)).await;
    running.unpublish(&other).await.unwrap();
    running.unpublish(&one).await.unwrap();
    running.end().await;

    let running = node.start().await;
    assert!(format!("{:?}", running.driver).contains("volumes: 0"), "{:?}", running.driver);
    running.end().await;
}

#[tokio::test]
async fn a_socket_that_cannot_be_opened_is_opened_later() {
    let node = Node::new("later", "");
    let running = node.start().await;
    running.publish(&node.pod("team-a", ONE)).await.unwrap();
    running.end().await;
    fs::remove_file(node.dir.join("wharf")).unwrap();
    let running = node.start().await;
    assert!(UnixStream::connect(node.socket(ONE)).await.is_err());
    let unserved = running.publish(&node.pod("team-a", OTHER)).await.unwrap_err();
    assert_eq!(unserved.code(), Code::Unavailable, "the kubelet has to remove what there is of it");
    fs::write(node.dir.join("wharf"), "the client").unwrap();
    running.is_found().await;
    until(async || UnixStream::connect(node.socket(ONE)).await.is_ok()).await;
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
    assert!(node.whoami(OTHER).await.starts_with("job pods:team-a "));
    running.end().await;
}
