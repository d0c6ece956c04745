//! The archives in a sync.

use std::{collections::HashMap, sync::Arc};

use bollard_buildkit_proto::fsutil::types::{Packet, Stat, packet::PacketType};
use bytes::Bytes;
use prost::Message as _;
use tonic::Status;

use super::{Archive, Costs, Spent, Unpacked, spent::ARCHIVES_MAX};
use crate::{go_mode as mode, names::printable};

/// How many files may come at once, as `wharf` sends them: each may need the memory of its decoder.
const AT_ONCE: usize = 4;

/// How many files of a context may be unpacked: a cancel does not stop the engine while it unpacks.
const FILES_MAX: usize = ARCHIVES_MAX;

/// Judges the archives of one sync, by the packets that have passed.
#[derive(Debug)]
pub(in crate::build) struct Synced {
    unpacked: Arc<Unpacked>,
    spent: Arc<Spent>,
    announced: u32,
    /// The files to judge that have not come yet.
    files: HashMap<u32, File>,
    open: HashMap<u32, (File, Archive)>,
    /// How many of them have come.
    judged: usize,
    /// What these take of the engine.
    costs: Costs,
}

#[derive(Debug)]
struct File {
    path: String,
    left: u64,
}

impl Synced {
    pub(in crate::build) fn new(unpacked: Arc<Unpacked>) -> Self {
        Self {
            unpacked,
            spent: Arc::default(),
            announced: 0,
            files: HashMap::new(),
            open: HashMap::new(),
            judged: 0,
            costs: Costs::default(),
        }
    }

    /// The bytes of a packet that may take long to judge, with the id of their file; of other packets it takes note.
    pub(in crate::build) fn note(&mut self, message: &Bytes) -> Result<Option<(u32, Vec<u8>)>, Status> {
        let packet = Packet::decode(message.clone())
            .map_err(|_| Status::invalid_argument("a packet of the sync cannot be read"))?;
        match (packet.r#type(), packet.stat) {
            (PacketType::PacketStat, Some(stat)) => self.announce(&stat).map(|()| None),
            (PacketType::PacketData, _) => {
                let is_judged = self.files.contains_key(&packet.id) || self.open.contains_key(&packet.id);
                Ok(is_judged.then_some((packet.id, packet.data)))
            }
            _ => Ok(None),
        }
    }

    fn announce(&mut self, stat: &Stat) -> Result<(), Status> {
        let id = self.announced;
        self.announced = self.announced.saturating_add(1);
        let kind = stat.mode & mode::TYPE;
        // The file that a link leads to may have come in an earlier sync, when nothing unpacked it.
        let is_link = kind == mode::SYMLINK && self.unpacked.leads(&stat.path);
        let is_name = kind == 0
            && !stat.linkname.is_empty()
            && self.unpacked.contains(&stat.path)
            && !self.unpacked.contains(&stat.linkname);
        if is_link || is_name {
            let (path, target) = (printable(&stat.path), printable(&stat.linkname));
            return Err(Status::invalid_argument(format!(
                "`{path}` is a link to `{target}`, and `ADD` would unpack an archive behind it: name the file itself, \
                 or use `COPY`, which never unpacks"
            )));
        }
        if kind == 0 && stat.linkname.is_empty() && self.unpacked.contains(&stat.path) {
            if self.files.len() + self.open.len() + self.judged >= FILES_MAX {
                return Err(Status::invalid_argument(format!(
                    "`ADD` names more than {FILES_MAX} files, and would unpack each: use `COPY`, which never unpacks"
                )));
            }
            let left = u64::try_from(stat.size).unwrap_or_default();
            self.files.insert(id, File { path: stat.path.clone(), left });
        }
        Ok(())
    }

    /// Judges the bytes of a file. The last bytes are judged with the file's end, before they are passed on.
    pub(in crate::build) fn pass(&mut self, id: u32, bytes: &[u8]) -> Result<(), Status> {
        if let Some(file) = self.files.remove(&id) {
            if self.open.len() >= AT_ONCE {
                return Err(Status::invalid_argument(format!(
                    "more than {AT_ONCE} archives are sent at once"
                )));
            }
            self.open.insert(id, (file, Archive::new(self.unpacked.limits(), Arc::clone(&self.spent))));
        }
        let Some((file, archive)) = self.open.get_mut(&id) else { return Ok(()) };
        file.left = file.left.saturating_sub(bytes.len() as u64);
        let is_whole = file.left == 0;
        let judged = archive.pass(bytes).and_then(|()| if is_whole { archive.end() } else { Ok(()) });
        let judged = judged.and_then(|()| match is_whole {
            true => self.costs.add(archive.costs(), self.unpacked.copies(&file.path)),
            false => Ok(()),
        });
        let judged = judged.map_err(|why| refused(&file.path, &why));
        if is_whole || judged.is_err() {
            self.open.remove(&id);
            self.judged += 1;
        }
        judged
    }
}

/// The refusal of an archive.
pub(in crate::build) fn refused(path: &str, why: &str) -> Status {
    let hint = "`COPY` copies it as it is";
    Status::invalid_argument(format!(
        "`ADD` would unpack the archive `{}`, which {why}; {hint}",
        printable(path)
    ))
}

#[cfg(test)]
mod tests;
