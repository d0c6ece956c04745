//! Names in the engine: what of a caller's names goes there, and as what.
//!
//! Everything of wharfd's is called `wharf.invalid/<instance>/…`, see `names/reserved.rs`.

mod keys;
mod private;

pub use keys::{KeyError, Keys};
pub use private::{NamespaceNames, Owner, PrivateName};

use crate::names::RESERVED_HOST;

const HOLD_ROOM: &str = "hold";
const NODE_ROOM: &str = "node";
const KEPT_ROOM: &str = "kept";
const FRONTEND_ROOM: &str = "frontend";

/// What a name of a wharfd's is for. Namespaces' rooms are hashes, longer than these words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It holds an image that came from a registry.
    Hold,
    /// It holds an image that the operator has put on the node.
    Node,
    /// It keeps what an operator had under a public name.
    Kept,
    /// It is the image of the Dockerfile frontend, which no build may use.
    Frontend,
    /// It is an image of a namespace.
    Namespace,
}

/// The instance and the room of a name of any wharfd's; none for other names.
pub fn room(name: &str) -> Option<(&str, Room)> {
    let (instance, rest) = name.strip_prefix(RESERVED_HOST)?.strip_prefix('/')?.split_once('/')?;
    let room = match rest.split_once('/')?.0 {
        HOLD_ROOM => Room::Hold,
        NODE_ROOM => Room::Node,
        KEPT_ROOM => Room::Kept,
        FRONTEND_ROOM => Room::Frontend,
        _ => Room::Namespace,
    };
    Some((instance, room))
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
            (keys.hold(&digest, "linux/amd64").as_str(), Room::Hold),
            (keys.node_hold(&digest).as_str(), Room::Node),
            (keys.kept("reg/app:1").as_str(), Room::Kept),
            (keys.frontend(&digest).as_str(), Room::Frontend),
            (own.as_str(), Room::Namespace),
        ] {
            assert_eq!(room(name), Some((keys.instance(), expected)), "{name}");
            assert!(Reference::parse(name).is_ok(), "{name}");
        }
        assert_eq!(room("docker.io/library/app:1"), None);
        assert_eq!(room("wharf.invalid.example/a/hold/x:1"), None);
    }
}
