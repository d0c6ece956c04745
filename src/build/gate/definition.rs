//! Adds wharfd's attributes to the sources of a frontend's graph, a salt to its file operations, and layers of the job's own;
//! and lets BuildKit fetch what an `ADD` names by URL from the build's session, since no server of a job's choice may
//! speak with it.
//!
//! The source policy could convert a URL, too, but then BuildKit loses the names of the steps after the URL, and a failed
//! step's lines of the Dockerfile: both are stored under the operations' old digests. Up to BuildKit 0.13 (Engine 26) it
//! also loses the flag to ignore the cache. So the graph that is returned is already converted, and the policy allows no
//! URL but the session's.
//!
//! BuildKit finds the result of a copy by the checksums of the copied files, whichever job copied them first.
//! A checksum may belong to another file: up to BuildKit 0.33 the checksum is found by one way of following
//! symlinks (`cache/contenthash`, `getFollowLinks`) and the file by another (continuity's `fs.RootPath`), so
//! a job can choose both. And a file that a Dockerfile contains (`COPY <<EOF`), or a directory that it makes (`WORKDIR`),
//! would be found by everyone who guesses it; all jobs would wait for one another where they copy from it. So no job may
//! reuse the results of another's file operations: each also removes a file that never exists, whose name contains the
//! job's salt.

use std::collections::{BTreeMap, BTreeSet};

use bollard_buildkit_proto::pb::{
    Definition, FileAction, FileActionRm, FileOp, Op, SourceOp, file_action::Action, op,
};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::{
    copies::input,
    layers::{self, Beginnings},
};
use crate::{
    build::{add::is_http, isolation::CHECKSUM},
    names::reference::Digest,
};

/// What becomes of the sources that are fetched by URL, by the identifiers that the frontend gives them.
pub type Fetches = BTreeMap<String, Fetched>;

/// What becomes of a source that is fetched by URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The URL that BuildKit fetches: of the build's own session.
    pub url: String,
    /// wharfd's attributes for it.
    pub attributes: BTreeMap<String, String>,
    /// When the file was modified, in nanoseconds. The session cannot tell BuildKit, so the copies of the file say it.
    pub modified: Option<i64>,
}

/// The time of a copy that keeps the file's own (`marshalTime` in `client/llb`).
const OWN_TIME: i64 = -1;

/// The attribute by which BuildKit distinguishes trees of earlier syncs (`source/local`). It is in no cache
/// key.
const HINT: &str = "local.sharedkeyhint";

/// The salts that keep a job's results apart from another's.
#[derive(Clone, Copy, Debug)]
pub struct Salts<'a> {
    /// The sources fetched by URL.
    pub fetched: &'a Fetches,
    /// The path of a file that never exists; contains the job's salt.
    pub copied: &'a str,
    /// The URL of the build's own tar, if it has one.
    pub uploaded: Option<&'a str>,
    /// The key of the tree with the archives that the build unpacks, if it does.
    pub tree: Option<&'a str>,
    /// The path of the file in the layers of the job's own, if its images have such layers.
    pub layers: Option<&'a str>,
}

/// The graph with the salts in its operations; `None` if no operation needs one.
///
/// An operation names its inputs by their digests, so everything that depends on a changed operation changes
/// too. The graph must have been judged: operations that cannot be read stay unchanged.
pub fn with_salts(definition: &Definition, salts: Salts<'_>) -> Option<Definition> {
    let mut seen = Seen {
        layers: salts.layers.map(|path| Beginnings::of(definition, path, salts.uploaded)),
        ..Seen::default()
    };
    let mut graph = Definition::default();
    seen.begin(None, &mut graph);
    // Inputs come before the operations that use them (`client/llb` in BuildKit, `marshal`).
    for bytes in &definition.def {
        let now = seen.salted(bytes, salts);
        graph.def.push(now.unwrap_or_else(|| bytes.clone()));
        seen.begin(Some(bytes), &mut graph);
    }
    let changed = seen.changed;
    if changed.is_empty() {
        return None;
    }
    let now = |digest: &String| changed.get(digest).unwrap_or(digest).clone();
    graph
        .metadata
        .extend(definition.metadata.iter().map(|(digest, metadata)| (now(digest), metadata.clone())));
    graph.source = definition.source.clone().map(|mut source| {
        let locations = std::mem::take(&mut source.locations);
        // An empty entry would be encoded without its value, and Go reads that as a nil pointer. BuildKit
        // 0.13 dereferences the pointer when the step fails, which crashes the engine.
        let locations = locations.into_iter().filter(|(_, locations)| !locations.locations.is_empty());
        source.locations = locations.map(|(digest, locations)| (now(&digest), locations)).collect();
        source
    });
    Some(graph)
}

/// The limit on a graph: BuildKit 0.13 reads messages of at most 4 MiB (newer ones read 16 MiB), and a little of it is
/// for the rest of the request.
const GRAPH_BYTES_MAX: usize = (4 << 20) - (4 << 10);
/// The part of a Dockerfile's text that is kept.
const TEXT_BYTES_KEPT: usize = 128 << 10;

/// Makes a large graph fit into a message. It contains the Dockerfile's text, only to show the lines of a failed
/// step, and the text of each here-document again: if both are too large, the first is cut. The frontend in a
/// container does the same (`scripts/lib/frontend`).
pub fn cut_text(graph: &mut Definition) {
    if graph.encoded_len() <= GRAPH_BYTES_MAX {
        return;
    }
    for file in graph.source.iter_mut().flat_map(|source| &mut source.infos) {
        if let Some((head, _)) = file.data.split_at_checked(TEXT_BYTES_KEPT) {
            let end = head.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            file.data.truncate(end);
        }
    }
}

/// The key of a step's name in its metadata (`WithCustomName` in `client/llb`).
pub(super) const NAME: &str = "llb.customname";

/// The names of a graph's steps, by their digests.
pub fn names(definition: &Definition) -> impl Iterator<Item = (String, String)> {
    definition
        .metadata
        .iter()
        .filter_map(|(digest, metadata)| Some((digest.clone(), metadata.description.get(NAME)?.clone())))
}

/// The first line of the Dockerfile from which the operation with this digest comes, if the graph says it.
pub fn line(definition: &Definition, digest: &str) -> Option<u32> {
    let locations = definition.source.as_ref()?.locations.get(digest)?;
    let line = locations.locations.first()?.ranges.first()?.start?.line;
    u32::try_from(line).ok()
}

/// The image in the `# syntax=` of the Dockerfile that accompanies a graph.
pub fn syntax(definition: &Definition) -> Option<String> {
    let text = String::from_utf8_lossy(&definition.source.as_ref()?.infos.first()?.data).into_owned();
    // Directives come before everything else, one on each line.
    text.lines().map_while(|line| line.trim().strip_prefix('#')).find_map(|line| {
        let (key, value) = line.split_once('=')?;
        key.trim().eq_ignore_ascii_case("syntax").then(|| value.trim().to_owned())
    })
}

/// The operations of a graph, by their old digests.
#[derive(Default)]
struct Seen<'a> {
    /// The new digests, by the old ones.
    changed: BTreeMap<String, String>,
    /// The operations that fetch the uploaded tar.
    uploaded: BTreeSet<String>,
    /// Those that fetch another file, and when that was modified.
    modified: BTreeMap<String, i64>,
    /// The layers of the job's own, if there are any.
    layers: Option<Beginnings<'a>>,
}

impl Seen<'_> {
    /// Adds the layers of the job's own on the graph's last operation, which was `source` before, or on nothing, if a
    /// chain begins there.
    fn begin(&mut self, source: Option<&[u8]>, graph: &mut Definition) {
        let Some(layers) = &mut self.layers else { return };
        let source = source.map(digest).zip(graph.def.last().map(Vec::as_slice));
        let own = layers.layers_on(source.as_ref().map(|(digest, now)| (digest.as_str(), *now)));
        graph.metadata.extend(layers::metadata(&own));
        graph.def.extend(own);
    }

    /// The new form of one operation, if it changes.
    fn salted(&mut self, bytes: &[u8], salts: Salts<'_>) -> Option<Vec<u8>> {
        let mut op = Op::decode(bytes).ok()?;
        let encode = encoding_of(&op, bytes);
        // The frontend has already unpacked the tar under this digest: a change would unpack it again. The tar is a single
        // file and not a link, so its checksum is its own, and its files are in no image.
        let unpacks = unpacks(&op, &self.uploaded);
        let mut changes = !unpacks && self.layers.as_ref().is_some_and(|layers| layers.put_under(&mut op));
        match &mut op.op {
            Some(op::Op::Source(source)) => {
                if salts.uploaded == Some(source.identifier.as_str()) {
                    self.uploaded.insert(digest(bytes));
                }
                if let Some(key) = salts.tree.filter(|_| source.identifier == "local://context") {
                    source.attrs.entry(HINT.to_owned()).or_default().push_str(&format!(" {key}"));
                    changes = true;
                }
                if let Some(fetched) = salts.fetched.get(&source.identifier) {
                    self.modified.extend(fetched.modified.map(|modified| (digest(bytes), modified)));
                    changes |= fetch(source, fetched);
                }
            }
            Some(op::Op::File(file)) if !unpacks => {
                let modified = |input: i64| {
                    let input = op.inputs.get(usize::try_from(input).ok()?)?;
                    self.modified.get(&input.digest).copied()
                };
                for FileAction { secondary_input, action, .. } in &mut file.actions {
                    if let Some(Action::Copy(copy)) = action
                        && copy.timestamp == OWN_TIME
                        && let Some(modified) = modified(*secondary_input)
                    {
                        copy.timestamp = modified;
                    }
                }
                salt(file, op.inputs.len(), salts.copied);
                changes = true;
            }
            _ => {}
        }
        for input in &mut op.inputs {
            if let Some(now) = self.changed.get(&input.digest) {
                input.digest.clone_from(now);
                changes = true;
            }
        }
        let now = changes.then(|| encode(&op))?;
        self.changed.insert(digest(bytes), digest(&now));
        Some(now)
    }
}

/// Whether an operation only unpacks the build's own tar, to nothing; one of these operations fetches it.
pub(super) fn unpacks(op: &Op, uploaded: &BTreeSet<String>) -> bool {
    let of_tar = |action: &FileAction| {
        matches!(action.action, Some(Action::Copy(_)))
            && action.input < 0
            && input(op, action.secondary_input).is_some_and(|from| uploaded.contains(from))
    };
    matches!(&op.op, Some(op::Op::File(file)) if file.actions.iter().all(of_tar))
}

/// Has a file fetched from the session. Whether anything changes.
fn fetch(source: &mut SourceOp, fetched: &Fetched) -> bool {
    let mut changes = source.identifier != fetched.url;
    source.identifier.clone_from(&fetched.url);
    for (key, value) in &fetched.attributes {
        // The Dockerfile's own checksum counts.
        if key == CHECKSUM && source.attrs.contains_key(key) {
            continue;
        }
        changes |= source.attrs.insert(key.clone(), value.clone()).as_ref() != Some(value);
    }
    changes
}

/// Whether a graph fetches from nothing but these URLs, which are the session's.
pub fn fetches_only(definition: &Definition, fetched: &Fetches) -> bool {
    definition.def.iter().all(|bytes| match Op::decode(bytes.as_slice()).map(|op| op.op) {
        Ok(Some(op::Op::Source(source))) => {
            let is_own = || fetched.values().any(|fetched| fetched.url == source.identifier);
            !is_http(&source.identifier) || is_own()
        }
        Ok(_) => true,
        Err(_) => false,
    })
}

/// Adds to each result the removal of the file that never exists. An action's result is named by the action's
/// position after the operation's inputs.
pub(super) fn salt(file: &mut FileOp, inputs: usize, path: &str) {
    for index in 0..file.actions.len() {
        let Some(action) = file.actions.get_mut(index) else { return };
        if action.output < 0 {
            continue;
        }
        let output = std::mem::replace(&mut action.output, -1);
        let remove = FileActionRm { path: path.to_owned(), allow_not_found: true, ..FileActionRm::default() };
        file.actions.push(FileAction {
            input: i64::try_from(inputs + index).unwrap_or(-1),
            secondary_input: -1,
            output,
            action: Some(Action::Rm(remove)),
        });
    }
}

/// The encoding of an operation that came as `bytes`. A changed operation, and a new one beside it, are encoded in the
/// same way. BuildKit recognises finished work of a build, such as the tar's upload, by an operation's digest, and a
/// newer BuildKit computes the digest from its own encoding.
pub(super) fn encoding_of(op: &Op, bytes: &[u8]) -> fn(&Op) -> Vec<u8> {
    if by_number(op) == bytes { by_number } else { kind_last }
}

/// The encoding of Gogo's protobuf (BuildKit 0.13).
fn by_number(op: &Op) -> Vec<u8> {
    op.encode_to_vec()
}

/// The encoding of Go's protobuf: a `oneof` comes last, whatever its numbers are.
fn kind_last(op: &Op) -> Vec<u8> {
    let mut op = op.clone();
    let kind = Op { op: op.op.take(), ..Op::default() };
    [op.encode_to_vec(), kind.encode_to_vec()].concat()
}

/// The digest that identifies an operation in a graph.
pub(super) fn digest(bytes: &[u8]) -> String {
    Digest::from_sha256(Sha256::digest(bytes).into()).to_string()
}

#[cfg(test)]
pub(super) mod tests;
