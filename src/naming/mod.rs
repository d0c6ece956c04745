//! The names of images in an engine, and how they hide the callers' names.
//!
//! All of wharfd's names begin with `wharf.invalid/<instance>/` (see `names/reserved.rs`), except those of
//! transfers at the relay, which begin with its address. An engine takes only an [`ImageName`], and only this
//! module makes one.

mod hashes;
mod image_name;
mod keys;
mod private;

pub use hashes::{BuildKey, InputKey, JobKey, LongName, MountsKey, NamespaceKey};
pub use image_name::ImageName;
#[cfg(test)]
pub(crate) use keys::tests::keys as keys_of;
pub use keys::{KeyError, Keys};
pub use private::{NamespaceNames, Owner, PrivateName, long_name, namespace};

use crate::names::RESERVED_HOST;

const HOLD_ROOM: &str = "hold";
const NODE_ROOM: &str = "node";
const FRONTEND_ROOM: &str = "frontend";

/// The purpose of a wharfd's name. The rooms of namespaces are hashes, which are longer than these words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It holds an image from a registry.
    Hold,
    /// It holds an image that the operator has put on the node.
    Node,
    /// It is the image of the Dockerfile frontend, which no build may use.
    Frontend,
    /// It is an image of a namespace.
    Namespace,
}

/// The instance and the room of any wharfd's name; `None` for other names.
pub fn room(name: &str) -> Option<(&str, Room)> {
    let (instance, rest) = name.strip_prefix(RESERVED_HOST)?.strip_prefix('/')?.split_once('/')?;
    let room = match rest.split_once('/')?.0 {
        HOLD_ROOM => Room::Hold,
        NODE_ROOM => Room::Node,
        FRONTEND_ROOM => Room::Frontend,
        _ => Room::Namespace,
    };
    Some((instance, room))
}

/// The prefix of the relay's repositories.
const RELAY_PATH: &str = "wharf";

/// The instance of any wharfd's name at the relay, `127.0.0.1:<port>/wharf/<instance>/…`; `None` for other
/// names. In the containerd store's record of an image's origin the port is missing.
pub fn relay_instance(name: &str) -> Option<&str> {
    let (port, path) = name.strip_prefix("127.0.0.1")?.split_once('/')?;
    let (instance, rest) = path.strip_prefix(RELAY_PATH)?.strip_prefix('/')?.split_once('/')?;
    let is_port = |port: &str| port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    ((port.is_empty() || is_port(port)) && !rest.is_empty()).then_some(instance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{Namespace, Reference, reference::Digest};

    #[test]
    fn names_of_wharfds_tell_what_they_are_for() {
        let keys = keys::tests::keys(1);
        let digest = Digest::from_sha256([7; 32]);
        let own = keys.names(&Namespace::new("a", "1").unwrap()).name(&Reference::parse("app").unwrap());
        for (name, expected) in [
            (&keys.hold(&digest), Room::Hold),
            (&keys.node_hold(&digest), Room::Node),
            (&keys.passing_hold("1"), Room::Node),
            (&keys.frontend(&digest), Room::Frontend),
            (own.name(), Room::Namespace),
        ] {
            let text = name.as_str();
            assert_eq!(room(text), Some((keys.instance(), expected)), "{name}");
            assert!(Reference::parse(text).is_ok(), "{name}");
            assert_eq!(keys.own(text), Some((name.clone(), expected)));
            assert_eq!(keys::tests::keys(2).own(text), None);
            let owner =
                (expected == Room::Namespace).then(|| keys.namespace(&Namespace::new("a", "1").unwrap()));
            assert_eq!(namespace(keys.instance(), text), owner);
            assert_eq!(namespace(keys::tests::keys(2).instance(), text), None);
        }
        assert_eq!(keys.own("docker.io/library/app:1"), None);
        assert_eq!(room("docker.io/library/app:1"), None);
        assert_eq!(room("wharf.invalid.example/a/hold/x:1"), None);

        let relayed = format!("127.0.0.1:40000/{}", keys.relay("docker.io/library/app"));
        assert!(Reference::parse(&relayed).is_ok(), "{relayed}");
        let origin = relayed.replace(":40000", "");
        for name in [&relayed, &format!("{relayed}:1"), &format!("{relayed}@{digest}"), &origin] {
            assert_eq!(relay_instance(name), Some(keys.instance()), "{name}");
            assert_eq!(keys.own_transfer(name).unwrap().as_str(), name);
            assert_eq!(keys::tests::keys(2).own_transfer(name), None);
        }
        for other in [
            "127.0.0.1:5000/app:1",
            "127.0.0.1:x/wharf/a/b",
            "127.0.0.10/wharf/a/b",
            "10.0.0.1:1/wharf/a/b",
            "wharf/a/b",
        ] {
            assert_eq!(relay_instance(other), None, "{other}");
        }
    }
}
