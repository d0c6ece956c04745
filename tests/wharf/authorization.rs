//! Makes every call of the API as a caller who may not make it.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::stream;
use prost_types::FileDescriptorSet;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;
use wharf::wire::v1::{
    self, AttachRequest, BuildRequest, BuildSpec, CheckPolicyRequest, DeleteNamespaceRequest,
    FILE_DESCRIPTOR_SET, GetInfoRequest, InspectImageRequest, ListImagesRequest, ListNamespacesRequest,
    PullImageRequest, PushImageRequest, RemoveImageRequest, SaveImagesRequest, SessionOpen, SessionRequest,
    TagImageRequest, attach_request, build_request, build_service_client::BuildServiceClient,
    image_service_client::ImageServiceClient, namespace_service_client::NamespaceServiceClient,
    node_service_client::NodeServiceClient, policy_service_client::PolicyServiceClient, session_request,
};

use crate::harness::{Test, Wharf, cases, rpc};

cases![every_call_is_judged, root_serves_every_job_only_if_configured];

/// A namespace that the caller does not own.
const VICTIM: &str = "victim#1";
const CONFIG: &str = "[[serve]]\nuid = 1000\nnamespaces = \"own/*\"\n";
/// Serves the victim as an agent; has no entry for root.
const AGENTS: &str = "[[serve]]\nuid = 1000\nnamespaces = \"victim\"\n";

/// Makes a call of the API about the victim's namespace, and returns its refusal.
async fn refusal(method: &str, channel: &Channel, id: &str) -> Option<Status> {
    let namespace = Some(rpc::namespace(VICTIM));
    let (reference, source, target) = ("app:1".to_owned(), id.to_owned(), "stolen:1".to_owned());
    let mut builds = BuildServiceClient::new(channel.clone());
    let mut images = ImageServiceClient::new(channel.clone());
    match method {
        "BuildService/Session" => {
            let open = SessionOpen { namespace, ..SessionOpen::default() };
            let open = SessionRequest { request: Some(session_request::Request::Open(open)) };
            match builds.session(stream::iter([open])).await {
                Ok(answers) => answers.into_inner().message().await.err(),
                Err(status) => Some(status),
            }
        }
        "BuildService/Attach" => {
            let request = AttachRequest { request: Some(attach_request::Request::StreamId("0".repeat(32))) };
            match builds.attach(stream::iter([request])).await {
                Ok(answers) => answers.into_inner().message().await.err(),
                Err(status) => Some(status),
            }
        }
        "BuildService/Build" => {
            let start = rpc::start(VICTIM, BuildSpec::default());
            let start = BuildRequest { request: Some(build_request::Request::Start(start)) };
            match builds.build(stream::iter([start])).await {
                Ok(answers) => answers.into_inner().message().await.err(),
                Err(status) => Some(status),
            }
        }
        "ImageService/PushImage" => {
            let request = PushImageRequest { namespace, reference, credentials: None };
            match images.push_image(request).await {
                Ok(answers) => answers.into_inner().message().await.err(),
                Err(status) => Some(status),
            }
        }
        "ImageService/PullImage" => {
            let request = PullImageRequest { namespace, reference, credentials: None };
            match images.pull_image(request).await {
                Ok(answers) => answers.into_inner().message().await.err(),
                Err(status) => Some(status),
            }
        }
        "ImageService/SaveImages" => {
            match images.save_images(SaveImagesRequest { namespace, images: vec![reference] }).await {
                Ok(answers) => answers.into_inner().message().await.err(),
                Err(status) => Some(status),
            }
        }
        "ImageService/TagImage" => {
            images.tag_image(TagImageRequest { namespace, source, target }).await.err()
        }
        "ImageService/ListImages" => {
            images.list_images(ListImagesRequest { namespace, ..Default::default() }).await.err()
        }
        "ImageService/InspectImage" => {
            images.inspect_image(InspectImageRequest { namespace, reference }).await.err()
        }
        "ImageService/RemoveImage" => {
            images.remove_image(RemoveImageRequest { namespace, reference, force: true }).await.err()
        }
        "NamespaceService/DeleteNamespace" => {
            let mut namespaces = NamespaceServiceClient::new(channel.clone());
            namespaces.delete_namespace(DeleteNamespaceRequest { namespace, job: true }).await.err()
        }
        "NamespaceService/ListNamespaces" => {
            let mut namespaces = NamespaceServiceClient::new(channel.clone());
            let request = ListNamespacesRequest { namespace, cache_mounts: true };
            let listed = namespaces.list_namespaces(request).await;
            let listed = listed.map(|listed| listed.into_inner().namespaces);
            // Others' are left out.
            if let Ok(listed) = &listed {
                assert!(listed.is_empty(), "{listed:?}");
            }
            listed.err()
        }
        "NodeService/GetInfo" => {
            let info = NodeServiceClient::new(channel.clone()).get_info(GetInfoRequest { namespace }).await;
            // Whoever may not act in the namespace is not told its policy.
            if let Ok(info) = &info {
                assert_eq!(info.get_ref().policy, "");
            }
            info.err()
        }
        "PolicyService/CheckPolicy" => {
            let mut policies = PolicyServiceClient::new(channel.clone());
            let request = CheckPolicyRequest { namespace, ..CheckPolicyRequest::default() };
            policies.check_policy(request).await.err()
        }
        // A call that is missing in this table is not tested.
        unknown => panic!("{unknown} is not tried: add it here"),
    }
}

/// The calls of the API: `ImageService/PushImage`.
pub(crate) fn methods() -> BTreeSet<String> {
    let described = <FileDescriptorSet as prost::Message>::decode(FILE_DESCRIPTOR_SET).unwrap();
    let files = described.file.iter().filter(|file| file.package() == "wharf.v1");
    files
        .flat_map(|file| &file.service)
        .flat_map(|service| {
            service.method.iter().map(move |method| format!("{}/{}", service.name(), method.name()))
        })
        .collect()
}

#[track_caller]
fn assert_refused(method: &str, status: Option<Status>, code: Code, reason: &str) {
    let status = status.unwrap_or_else(|| panic!("{method} is not refused"));
    assert_eq!(status.code(), code, "{method}: {status:?}");
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("{method}: no details: {status:?}"));
    assert_eq!((info.domain.as_str(), info.reason.as_str()), ("wharf", reason), "{method}");
}

async fn every_call_is_judged(test: Arc<Test>) {
    let wharfd = test.wharfd_with(Some(CONFIG), &[]).await;
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let victim = Wharf::new(&test, &wharfd, VICTIM);
    let id = victim.build_id(&context, &["-t", "app:1"]).await;

    let stranger = rpc::connect_as(&wharfd.socket(), 1001).await;
    let other = rpc::connect_as(&wharfd.socket(), 1000).await;
    let methods = methods();
    assert!(methods.len() >= 11, "{methods:?}");
    for method in &methods {
        let refused = refusal(method, &stranger, &id).await;
        assert_refused(method, refused, Code::Unauthenticated, "UNKNOWN_CALLER");

        let refused = refusal(method, &other, &id).await;
        match method.as_str() {
            // This call names no namespace: another caller's stream is treated as missing.
            "BuildService/Attach" => assert_refused(method, refused, Code::NotFound, "SESSION_NOT_FOUND"),
            // Everyone who is served may make these calls.
            "NodeService/GetInfo" | "NamespaceService/ListNamespaces" => assert!(refused.is_none()),
            _ => assert_refused(method, refused, Code::PermissionDenied, "NAMESPACE_DENIED"),
        }
    }
    assert_eq!(victim.images().await, [("app:1".to_owned(), id)]);

    // Invalid namespaces.
    let (long, channel) = ("j".repeat(1025), rpc::connect(&wharfd.socket()).await);
    for (job, run) in [("", "1"), ("job", ""), ("a\nb", "1"), (long.as_str(), "1")] {
        let namespace =
            Some(v1::Namespace { job: job.to_owned(), run: run.to_owned(), issuer: String::new() });
        let mut images = ImageServiceClient::new(channel.clone());
        let status = images.list_images(ListImagesRequest { namespace, ..Default::default() }).await.err();
        assert_refused("ImageService/ListImages", status, Code::InvalidArgument, "INVALID_INPUT");
    }
    let mut images = ImageServiceClient::new(channel);
    let status = images.list_images(ListImagesRequest::default()).await.err();
    assert_refused("ImageService/ListImages", status, Code::InvalidArgument, "INVALID_INPUT");
}

async fn root_serves_every_job_only_if_configured(test: Arc<Test>) {
    let warns = |line: &String| line.contains(" WARN ") && line.contains("root is served in every namespace");
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let confined = format!("{AGENTS}[[serve]]\nuid = 0\nnamespaces = \"user/root\"\n");
    let (open, shipped, confined) = tokio::join!(
        test.wharfd_with(Some(AGENTS), &[]),
        test.wharfd_as_it_ships(Some(AGENTS)),
        test.wharfd_as_it_ships(Some(&confined))
    );

    // Root in any container that contains the socket.
    let root = Wharf::new(&test, &open, VICTIM).in_container();
    let victim = root.as_uid(1000);
    victim.build_id(&context, &["-t", "app:1"]).await;
    root.run(["inspect", "app:1"]).await.ok();
    root.run(["rmi", "app:1"]).await.ok();
    assert_eq!(victim.images().await, [], "who is served with `*` has what the victim had");
    assert!(open.log().iter().any(warns), "{:?}", open.log());

    let node = Wharf::new(&test, &shipped, VICTIM);
    let (root, victim) = (node.in_container(), node.as_uid(1000));
    let id = victim.build_id(&context, &["-t", "app:1"]).await;
    assert_eq!(
        root.run(["namespace", "ls", "-q"]).await.ok().stdout,
        "",
        "a container's root is nobody's operator"
    );
    for refused in [
        root.run(["images"]).await,
        root.run(["rmi", "app:1"]).await,
        root.run(["namespace", "rm"]).await,
        root.build(&context, &["-t", "app:1"]).await,
    ] {
        refused.ended(3).says(&[VICTIM, "`user/root`"]);
    }
    root.run(["info"]).await.ok();
    assert_eq!(victim.images().await, [("app:1".to_owned(), id.clone())]);
    assert!(!shipped.log().iter().any(warns), "{:?}", shipped.log());
    // The default namespace of a root shell; nobody else may use it.
    let own = root.in_namespace("user/root#local");
    let owned = own.build_id(&context, &["-t", "app:1"]).await;
    assert_eq!(own.images().await, [("app:1".to_owned(), owned)]);
    own.as_uid(1000).run(["images"]).await.ended(3).says(&["user/root#local"]);
    // Root outside any container can use the engine's socket anyway.
    assert!(node.run(["namespace", "ls", "-q"]).await.ok().stdout.contains(VICTIM));
    assert_eq!(node.images().await, [("app:1".to_owned(), id)]);

    // An entry replaces both defaults.
    let channel = rpc::connect(&confined.socket()).await;
    let victim = Wharf::new(&test, &confined, VICTIM).as_uid(1000);
    let id = victim.build_id(&context, &["-t", "app:1"]).await;
    for method in &methods() {
        let refused = refusal(method, &channel, &id).await;
        match method.as_str() {
            "BuildService/Attach" => assert_refused(method, refused, Code::NotFound, "SESSION_NOT_FOUND"),
            // Probes make the first of these calls.
            "NodeService/GetInfo" | "NamespaceService/ListNamespaces" => assert!(refused.is_none()),
            _ => assert_refused(method, refused, Code::PermissionDenied, "NAMESPACE_DENIED"),
        }
    }
}
