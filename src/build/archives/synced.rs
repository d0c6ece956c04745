//! The archives in a sync.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bollard_buildkit_proto::fsutil::types::{Packet, Stat, packet::PacketType};
use bytes::Bytes;
use prost::Message as _;
use tonic::Status;

use super::{Archive, Awaited, Costs, Spent, spent::ARCHIVES_MAX};
use crate::{go_mode as mode, names::printable};

/// How many files may come at once, as `wharf` sends them: each may need the memory of its decoder.
const AT_ONCE: usize = 4;

/// How many files of a context may be unpacked: a cancel does not stop the engine while it unpacks.
const FILES_MAX: usize = ARCHIVES_MAX;

/// Judges the archives of one sync, by the packets that have passed.
#[derive(Debug)]
pub(in crate::build) struct Synced {
    awaited: Arc<Awaited>,
    spent: Arc<Spent>,
    announced: u32,
    /// The files to judge that have not come, and need not come if the engine has them.
    files: HashMap<u32, File>,
    open: HashMap<u32, (File, Archive)>,
    /// All files that a copy may unpack, by their paths; of a hard link, the path of its file.
    all: BTreeMap<String, Option<String>>,
    /// Whether files of earlier syncs count.
    is_known: bool,
}

/// How many bytes of an archive are judged at once. Some hundred times as many may come of them.
const PART_BYTES: usize = 64 << 10;

/// What may take long to judge.
#[derive(Debug)]
pub(in crate::build) enum Heavy {
    /// Bytes of the file with this id.
    Bytes(u32, Vec<u8>),
    /// All files together.
    All,
}

/// A part of it that is judged at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::build) enum Part<'a> {
    Bytes(u32, &'a [u8]),
    All,
}

impl Heavy {
    /// Its parts, in order.
    pub(in crate::build) fn parts(&self) -> Vec<Part<'_>> {
        match self {
            // The end of a file.
            Self::Bytes(id, bytes) if bytes.is_empty() => vec![Part::Bytes(*id, &[])],
            Self::Bytes(id, bytes) => bytes.chunks(PART_BYTES).map(|part| Part::Bytes(*id, part)).collect(),
            Self::All => vec![Part::All],
        }
    }
}

#[derive(Debug)]
struct File {
    path: String,
    left: u64,
}

impl Synced {
    pub(in crate::build) fn new(awaited: Arc<Awaited>) -> Self {
        Self {
            is_known: !awaited.tree.is_empty(),
            awaited,
            spent: Arc::default(),
            announced: 0,
            files: HashMap::new(),
            open: HashMap::new(),
            all: BTreeMap::new(),
        }
    }

    /// The part of a packet that may take long to judge; of other packets it takes note, in a time that grows with their
    /// length alone.
    pub(in crate::build) fn note(&mut self, message: &Bytes) -> Result<Option<Heavy>, Status> {
        let packet = Packet::decode(message.clone())
            .map_err(|_| Status::invalid_argument("a packet of the sync cannot be read"))?;
        match (packet.r#type(), packet.stat) {
            (PacketType::PacketStat, Some(stat)) => self.announce(&stat).map(|()| None),
            (PacketType::PacketData, _) => {
                let is_judged = self.files.contains_key(&packet.id) || self.open.contains_key(&packet.id);
                Ok(is_judged.then_some(Heavy::Bytes(packet.id, packet.data)))
            }
            // BuildKit has all that it wants, and unpacks what it has once this has gone on.
            (PacketType::PacketFin, _) => Ok(Some(Heavy::All)),
            _ => Ok(None),
        }
    }

    /// Judges a part that may take long.
    pub(in crate::build) fn judge(&mut self, part: Part<'_>) -> Result<(), Status> {
        match part {
            Part::Bytes(id, bytes) => self.pass(id, bytes),
            Part::All => self.judge_all(),
        }
    }

    fn announce(&mut self, stat: &Stat) -> Result<(), Status> {
        let id = self.announced;
        self.announced = self.announced.saturating_add(1);
        let kind = stat.mode & mode::TYPE;
        let unpacked = &self.awaited.unpacked;
        let is_unpacked = kind == 0 && unpacked.contains(&stat.path);
        let is_name = is_unpacked && !stat.linkname.is_empty();
        // The file that a link leads to may have come in an earlier sync, when nothing unpacked it.
        let is_link = kind == mode::SYMLINK && unpacked.leads(&stat.path);
        if is_link || is_name && !unpacked.contains(&stat.linkname) {
            let (path, target) = (printable(&stat.path), printable(&stat.linkname));
            return Err(Status::invalid_argument(format!(
                "`{path}` is a link to `{target}`, and `ADD` would unpack an archive behind it: name the file itself, \
                 or use `COPY`, which never unpacks"
            )));
        }
        if is_unpacked {
            if self.all.len() >= FILES_MAX {
                return Err(Status::invalid_argument(format!(
                    "`ADD` names more than {FILES_MAX} files, and would unpack each: use `COPY`, which never unpacks"
                )));
            }
            self.all.insert(stat.path.clone(), is_name.then(|| stat.linkname.clone()));
            if !is_name {
                let left = u64::try_from(stat.size).unwrap_or_default();
                self.files.insert(id, File { path: stat.path.clone(), left });
            }
        }
        Ok(())
    }

    /// Judges all files together, those from earlier syncs as well: each sync might bring as much as a build may unpack.
    fn judge_all(&self) -> Result<(), Status> {
        let Awaited { unpacked, tree } = &*self.awaited;
        let mut all = Costs::default();
        for (path, of) in &self.all {
            if let Some(costs) = of.as_ref().and_then(|of| tree.costs(of)) {
                // BuildKit may keep the file that the path had, or has now the other one's, which stays when that is gone.
                tree.remember(path, costs);
            }
            let Some(costs) = tree.costs(path) else {
                // The next build brings it again.
                tree.end();
                return Err(Status::aborted(format!(
                    "`ADD` would unpack `{}`, which the engine has from an earlier build, and wharfd has not judged: \
                     build again",
                    printable(path)
                )));
            };
            if let Err(why) = all.add(costs, unpacked.copies(path)) {
                // The next build brings all of them anew, and those that were there before count no more.
                tree.end();
                let again =
                    "; larger archives that earlier builds had at these paths count as well: build again";
                return Err(refused(path, &if self.is_known { why + again } else { why }));
            }
        }
        Ok(())
    }

    /// Judges the bytes of a file. The last bytes are judged with the file's end, before they are passed on.
    fn pass(&mut self, id: u32, bytes: &[u8]) -> Result<(), Status> {
        if let Some(file) = self.files.remove(&id) {
            if self.open.len() >= AT_ONCE {
                return Err(Status::invalid_argument(format!(
                    "more than {AT_ONCE} archives are sent at once"
                )));
            }
            let limits = self.awaited.unpacked.limits();
            self.open.insert(id, (file, Archive::new(limits, Arc::clone(&self.spent))));
        }
        let Some((file, archive)) = self.open.get_mut(&id) else { return Ok(()) };
        file.left = file.left.saturating_sub(bytes.len() as u64);
        let is_whole = file.left == 0;
        let judged = archive.pass(bytes).and_then(|()| if is_whole { archive.end() } else { Ok(()) });
        if is_whole && judged.is_ok() {
            self.awaited.tree.remember(&file.path, archive.costs());
        }
        let judged = judged.map_err(|why| refused(&file.path, &why));
        if is_whole || judged.is_err() {
            self.open.remove(&id);
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
