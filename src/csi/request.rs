//! The kubelet's statements about a volume that prove its pod.

use std::path::Path;

use super::{
    api::{NodePublishVolumeRequest, volume_capability::AccessType},
    place::Place,
};
use crate::{
    names::{Pod, printable, shortened},
    store::Volume,
};

/// The kubelet's own names have 68 bytes.
const VOLUME_BYTES_MAX: usize = 128;
const SHOWN_BYTES_MAX: usize = 200;

/// The prefix of the attributes that are the kubelet's.
const KUBELETS: &str = "csi.storage.k8s.io/";
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const POD_UID: &str = "csi.storage.k8s.io/pod.uid";
const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
const SERVICE_ACCOUNT: &str = "csi.storage.k8s.io/serviceAccount.name";

/// A volume that may be made.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) volume: Volume,
    pub(super) place: Place,
    /// The pod's name, for people.
    pub(super) name: String,
}

/// A volume's name; it comes from the kubelet.
pub(super) fn volume_id(id: &str) -> Result<&str, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=VOLUME_BYTES_MAX).contains(&id.len()) && id.bytes().all(is_plain) {
        Ok(id)
    } else {
        Err(format!("volume_id: `{}` is not a volume's id", shortened(printable(id), SHOWN_BYTES_MAX)))
    }
}

/// Judges a request. The author of a pod chooses `volumeAttributes`. With `podInfoOnMount` in the CSIDriver object the
/// kubelet replaces those of its own keys; without it the author chooses all of them. But an author cannot know the uid
/// that the API server will give to the pod, and the kubelet states the uid in the path, too.
pub(super) fn judge(pods: &Path, request: &NodePublishVolumeRequest) -> Result<Wanted, String> {
    let said = &request.volume_context;
    let id = volume_id(&request.volume_id)?;
    let place = Place::read(pods, &request.target_path)?;
    if said.get(EPHEMERAL).map(String::as_str) != Some("true") {
        return Err(
            "the volume is not an inline one of a pod: name the driver in the pod's `volumes`, under `csi`, \
                    and no PersistentVolume"
                .to_owned(),
        );
    }
    if !request.readonly {
        return Err("the volume has to be read-only: add `readOnly: true` beside `driver`".to_owned());
    }
    if !request.secrets.is_empty() {
        return Err("the volume takes no secrets: remove `nodePublishSecretRef`".to_owned());
    }
    match request.volume_capability.as_ref().and_then(|capability| capability.access_type.as_ref()) {
        Some(AccessType::Mount(mount)) => {
            if !mount.mount_flags.is_empty() || !mount.volume_mount_group.is_empty() {
                return Err("the volume takes no mount options and no group".to_owned());
            }
            if !mount.fs_type.is_empty() {
                return Err("the volume has no file system: remove `fsType`".to_owned());
            }
        }
        Some(AccessType::Block(_)) | None => {
            return Err("the volume is a directory, not a block device".to_owned());
        }
    }
    if !request.publish_context.is_empty() || !request.staging_target_path.is_empty() {
        return Err("the volume is neither attached nor staged".to_owned());
    }
    let known = [EPHEMERAL, POD_NAMESPACE, POD_UID, POD_NAME, SERVICE_ACCOUNT];
    if let Some(key) = said.keys().find(|key| !known.contains(&key.as_str())) {
        let (shown, reason) = (shortened(printable(key), SHOWN_BYTES_MAX), "remove `volumeAttributes`");
        let whose =
            if key.starts_with(KUBELETS) { "which only the kubelet may set" } else { "and takes none" };
        return Err(format!("the volume has the attribute `{shown}`, {whose}: {reason}"));
    }
    let required = |key: &str| {
        let value = said.get(key).filter(|value| !value.is_empty());
        value.ok_or_else(|| {
            format!("the kubelet does not say `{key}`: the CSIDriver object needs `podInfoOnMount: true`")
        })
    };
    let (namespace, uid, name) = (required(POD_NAMESPACE)?, required(POD_UID)?, required(POD_NAME)?);
    required(SERVICE_ACCOUNT)?;
    let pod = Pod::new(namespace, uid)?;
    if pod.uid() != place.uid() {
        return Err(format!(
            "the volume is for the pod `{}` and says `{}`: the pod's author has written `{POD_UID}`",
            place.uid(),
            pod.uid()
        ));
    }
    let volume = Volume { id: id.to_owned(), target: request.target_path.clone(), pod };
    Ok(Wanted { volume, place, name: shortened(printable(name), SHOWN_BYTES_MAX) })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::csi::api::{
        VolumeCapability,
        volume_capability::{BlockVolume, MountVolume},
    };

    /// A request as a kubelet of 1.34 makes it.
    pub(in crate::csi) fn request(pods: &Path, namespace: &str, uid: &str) -> NodePublishVolumeRequest {
        let context = [
            (EPHEMERAL, "true"),
            (POD_NAMESPACE, namespace),
            (POD_UID, uid),
            (POD_NAME, "agent-1"),
            (SERVICE_ACCOUNT, "default"),
        ];
        let access_type = Some(AccessType::Mount(MountVolume::default()));
        NodePublishVolumeRequest {
            volume_id: format!("csi-{uid}"),
            target_path: format!("{}/{uid}/volumes/kubernetes.io~csi/wharf/mount", pods.display()),
            volume_capability: Some(VolumeCapability { access_type }),
            readonly: true,
            volume_context: context.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..NodePublishVolumeRequest::default()
        }
    }

    fn refusal(change: impl FnOnce(&mut NodePublishVolumeRequest)) -> String {
        let mut request = request(Path::new("/k/pods"), "team-a", "1-a");
        change(&mut request);
        judge(Path::new("/k/pods"), &request).unwrap_err()
    }

    fn says(request: &mut NodePublishVolumeRequest, key: &str, value: &str) {
        request.volume_context.insert(key.to_owned(), value.to_owned());
    }

    #[test]
    fn a_pods_own_volume_is_wanted() {
        let wanted = judge(Path::new("/k/pods"), &request(Path::new("/k/pods"), "team-a", "1-a")).unwrap();
        assert_eq!(
            (wanted.volume.pod.to_string(), wanted.name),
            ("team-a/1-a".to_owned(), "agent-1".to_owned())
        );
    }

    #[test]
    fn whatever_could_be_the_authors_word_is_refused() {
        let mount = |mount| Some(VolumeCapability { access_type: Some(AccessType::Mount(mount)) });
        assert!(refusal(|request| request.readonly = false).contains("`readOnly: true`"));
        assert!(refusal(|request| says(request, EPHEMERAL, "false")).contains("inline"));
        assert!(refusal(|request| drop(request.volume_context.remove(EPHEMERAL))).contains("inline"));
        assert!(
            refusal(|request| drop(request.secrets.insert("a".to_owned(), "b".to_owned())))
                .contains("secrets")
        );
        let block = VolumeCapability { access_type: Some(AccessType::Block(BlockVolume {})) };
        assert!(refusal(|request| request.volume_capability = Some(block)).contains("block"));
        assert!(refusal(|request| request.volume_capability = None).contains("block"));
        let flags = MountVolume { mount_flags: vec!["suid".to_owned()], ..MountVolume::default() };
        assert!(refusal(|request| request.volume_capability = mount(flags)).contains("options"));
        let group = MountVolume { volume_mount_group: "0".to_owned(), ..MountVolume::default() };
        assert!(refusal(|request| request.volume_capability = mount(group)).contains("group"));
        let fs_type = MountVolume { fs_type: "ext4".to_owned(), ..MountVolume::default() };
        assert!(refusal(|request| request.volume_capability = mount(fs_type)).contains("fsType"));
        assert!(refusal(|request| request.staging_target_path = "/x".to_owned()).contains("staged"));
        assert!(refusal(|request| request.volume_id = "../x".to_owned()).contains("volume_id"));
        assert!(refusal(|request| request.volume_id = String::new()).contains("volume_id"));
    }

    #[test]
    fn the_uid_of_the_path_counts() {
        let text = refusal(|request| says(request, POD_UID, "2-b"));
        assert!(text.contains("`1-a`") && text.contains("`2-b`"), "{text}");
        assert!(refusal(|request| says(request, POD_UID, "../1-a")).contains("uid"));
        assert!(refusal(|request| says(request, POD_NAMESPACE, "a/b")).contains("Kubernetes namespace"));
        let elsewhere = "/k/pods/1-a/../2-b/volumes/kubernetes.io~csi/wharf/mount";
        assert!(refusal(|request| request.target_path = elsewhere.to_owned()).contains("target_path"));
    }

    #[test]
    fn attributes_that_look_like_the_kubelets_are_refused() {
        let keys = [
            "csi.storage.k8s.io/pod.uid2",
            "csi.storage.k8s.io/serviceAccount.tokens",
            "csi.storage.k8s.io/",
        ];
        for key in keys {
            assert!(refusal(|request| says(request, key, "x")).contains("only the kubelet"), "{key}");
        }
        assert!(refusal(|request| says(request, "size", "1Gi")).contains("takes none"));
        for key in [POD_UID, POD_NAMESPACE, POD_NAME, SERVICE_ACCOUNT] {
            let text = refusal(|request| drop(request.volume_context.remove(key)));
            assert!(text.contains("podInfoOnMount"), "{key}: {text}");
        }
    }
}
