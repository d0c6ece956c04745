//! What a client may say while it sends a directory: `fsutil.types.Packet`s, judged one by one.
//!
//! BuildKit's receiver runs as root on the node and trusts its sender in more points than are safe
//! with a sender that is a job's. So what goes to it is encoded anew from what was understood here,
//! and is what an honest sender says.

use bollard_buildkit_proto::fsutil::types::{Packet, Stat, packet::PacketType};
use bytes::Bytes;
use prost::Message as _;
use tonic::Status;

use crate::{engine::filesync::DirectoryRequest, names::printable, wire::mode};

/// One client's packets on one stream.
#[derive(Debug, Default)]
pub(super) struct Sender {
    /// All entries were announced.
    listed: bool,
    /// BuildKit itself reads of what it is sent.
    is_read: bool,
}

impl Sender {
    /// A sender of what BuildKit asks for. The Dockerfile and `.dockerignore` it reads itself.
    pub(super) fn of(request: &DirectoryRequest) -> Self {
        let mut paths = request.include_patterns.iter().chain(&request.follow_paths);
        let is_read = request.name != "context" || paths.any(|path| path.ends_with(".dockerignore"));
        Self { is_read, ..Self::default() }
    }

    /// A packet as it goes on to BuildKit.
    pub(super) fn pass(&mut self, message: Bytes) -> Result<Bytes, Status> {
        let mut packet =
            Packet::decode(message).map_err(|_| refused("a packet of the sync cannot be read"))?;
        let kind = PacketType::try_from(packet.r#type);
        match (kind, &mut packet.stat) {
            (Ok(PacketType::PacketStat), stat) => {
                // BuildKit closes a channel at the end of the list, and uses it for the next entry: Go
                // ends the whole engine.
                if self.listed {
                    return Err(refused("the list of entries goes on after its end"));
                }
                match stat {
                    Some(stat) => entry(stat, self.is_read)?,
                    None => self.listed = true,
                }
            }
            (Ok(PacketType::PacketData | PacketType::PacketFin | PacketType::PacketErr), None) => {}
            (Ok(_) | Err(_), _) => return Err(refused("a packet is none that a sender of files sends")),
        }
        Ok(packet.encode_to_vec().into())
    }
}

/// Judges an entry, and takes away what it may not have.
fn entry(stat: &mut Stat, is_read: bool) -> Result<(), Status> {
    // Engine 26.1's BuildKit takes `..` for a name, and replaces the directory that it keeps the
    // client's files in.
    let inside = |path: &str| path.split('/').all(|name| !matches!(name, "" | "." | ".."));
    // A file's link is its earlier name, a symlink's whatever it says.
    let is_further_name = stat.mode & mode::TYPE == 0 && !stat.linkname.is_empty();
    for path in [Some(&stat.path), is_further_name.then_some(&stat.linkname)].into_iter().flatten() {
        if !inside(path) {
            return Err(refused(format!("`{}` is not a path inside the directory", printable(path))));
        }
    }
    match stat.mode & mode::TYPE {
        0 | mode::DIR | mode::SYMLINK | mode::SOCKET => {}
        // Whoever opens one waits for ever.
        mode::NAMED_PIPE if !is_read => {}
        // BuildKit would read the node's own device, be it a disk or endless.
        _ => {
            let text = format!("`{}` is a device, or no file that can be built from", printable(&stat.path));
            return Err(refused(format!("{text}: leave it out with .dockerignore")));
        }
    }
    if stat.mode & mode::SYMLINK != 0 {
        // BuildKit sets them on what the link points to, wherever on the node that is (seen on 26.1 and
        // on the newest engine).
        stat.xattrs.clear();
    }
    // `security.selinux` and the like are about the client's machine; `trusted.overlay…` would be read
    // by the kernel of this one.
    stat.xattrs.retain(|name, _| name == "security.capability" || name.starts_with("user."));
    Ok(())
}

fn refused(why: impl Into<String>) -> Status {
    Status::invalid_argument(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(sender: &mut Sender, packet: &Packet) -> Result<Packet, Status> {
        sender.pass(packet.encode_to_vec().into()).map(|bytes| Packet::decode(bytes).unwrap())
    }

    fn announced(stat: Stat) -> Packet {
        Packet { r#type: PacketType::PacketStat.into(), stat: Some(stat), ..Packet::default() }
    }

    fn file(path: &str) -> Stat {
        Stat { path: path.to_owned(), mode: 0o644, ..Stat::default() }
    }

    fn other(kind: PacketType) -> Packet {
        Packet { r#type: kind.into(), ..Packet::default() }
    }

    #[test]
    fn an_honest_sender_is_heard() {
        let mut sender = Sender::default();
        let capability = [("security.capability".to_owned(), vec![1])].into();
        for packet in [
            announced(Stat { mode: mode::DIR | 0o755, ..file("a") }),
            announced(Stat { xattrs: capability, ..file("a/b") }),
            announced(Stat { mode: mode::SYMLINK | 0o777, linkname: "/etc".into(), ..file("c") }),
            announced(Stat { mode: mode::NAMED_PIPE | 0o666, ..file("d") }),
            announced(Stat { linkname: "a/b".into(), ..file("..e") }),
            other(PacketType::PacketStat),
            Packet { id: 1, data: vec![7; 9], ..other(PacketType::PacketData) },
            other(PacketType::PacketFin),
        ] {
            assert_eq!(pass(&mut sender, &packet).unwrap(), packet);
        }
    }

    #[test]
    fn a_list_has_one_end() {
        for after in [other(PacketType::PacketStat), announced(file("a"))] {
            let mut sender = Sender::default();
            pass(&mut sender, &other(PacketType::PacketStat)).unwrap();
            assert!(pass(&mut sender, &after).is_err());
        }
    }

    #[test]
    fn entries_stay_inside() {
        for path in ["", ".", "..", "/", "/etc", "../a", "a/..", "a/../b", "a//b", "a/"] {
            assert!(pass(&mut Sender::default(), &announced(file(path))).is_err(), "{path}");
            if !path.is_empty() {
                let link = Stat { linkname: path.to_owned(), ..file("a") };
                assert!(pass(&mut Sender::default(), &announced(link)).is_err(), "{path}");
            }
        }
    }

    #[test]
    fn an_entry_is_one_thing() {
        for mode in [
            mode::DIR | mode::SYMLINK,
            mode::SYMLINK | mode::NAMED_PIPE,
            mode::DEVICE,
            mode::DEVICE | mode::CHAR_DEVICE,
            mode::CHAR_DEVICE,
            mode::NAMED_PIPE | mode::CHAR_DEVICE,
            mode::IRREGULAR,
        ] {
            let entry = announced(Stat { mode, ..file("a") });
            assert!(pass(&mut Sender::default(), &entry).is_err(), "{mode:o}");
        }
        let pipe = announced(Stat { mode: mode::NAMED_PIPE, ..file("a") });
        let asked = |name: &str, path: &str| {
            let follow_paths = vec![path.to_owned()];
            Sender::of(&DirectoryRequest {
                name: name.to_owned(),
                follow_paths,
                ..DirectoryRequest::default()
            })
        };
        assert!(pass(&mut asked("context", "a"), &pipe).is_ok());
        assert!(pass(&mut asked("context", ".dockerignore"), &pipe).is_err());
        assert!(pass(&mut asked("dockerfile", "Dockerfile"), &pipe).is_err());
    }

    #[test]
    fn attributes_are_the_files_own() {
        let xattrs = ["security.capability", "user.x", "security.selinux", "trusted.overlay.redirect"]
            .map(|name| (name.to_owned(), vec![1]));
        let left = |mode| {
            let entry = announced(Stat { mode, xattrs: xattrs.clone().into(), ..file("a") });
            let passed = pass(&mut Sender::default(), &entry).unwrap().stat.unwrap().xattrs;
            passed.into_keys().collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(left(0o644), ["security.capability", "user.x"].map(str::to_owned).into());
        assert!(left(mode::SYMLINK | 0o777).is_empty());
    }

    #[test]
    fn nothing_else_passes() {
        for packet in [
            other(PacketType::PacketReq),
            Packet { r#type: 9, ..Packet::default() },
            Packet { stat: Some(file("a")), ..other(PacketType::PacketData) },
        ] {
            assert!(pass(&mut Sender::default(), &packet).is_err(), "{packet:?}");
        }
        assert!(Sender::default().pass(Bytes::from_static(b"\xff")).is_err());
        // A field that is not known here does not reach whoever knows it.
        let bytes = [other(PacketType::PacketFin).encode_to_vec(), vec![0x98, 0x06, 0x01]].concat();
        assert_eq!(
            Sender::default().pass(bytes.into()).unwrap(),
            other(PacketType::PacketFin).encode_to_vec()
        );
    }
}
