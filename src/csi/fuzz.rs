//! The entry point for `fuzz/`: the requests for volumes, whose attributes a pod's author chooses.

use std::path::Path;

use prost::Message as _;

use super::{api::NodePublishVolumeRequest, request};
use crate::names::printable;

/// A request for a volume. One that is granted is for a directory of the pod that the kubelet names in the path.
pub fn volume(data: &[u8]) {
    let Ok(request) = NodePublishVolumeRequest::decode(data) else { return };
    let pods = Path::new("/k/pods");
    match request::judge(pods, &request) {
        Ok(wanted) => {
            let begin = format!("/k/pods/{}/volumes/kubernetes.io~csi/", wanted.volume.pod.uid());
            let volume =
                request.target_path.strip_prefix(&begin).and_then(|rest| rest.strip_suffix("/mount"));
            assert!(volume.is_some_and(|volume| !volume.contains(['/', '\0']) && !volume.starts_with('.')));
            assert!(request.readonly && request.secrets.is_empty());
        }
        Err(why) => assert!(why == printable(&why) && why.len() < 4 << 10, "{why}"),
    }
}
