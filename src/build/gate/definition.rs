//! Adds wharfd's attributes to the sources of a frontend's graph, and a salt to its copies.
//!
//! The source policy also adds the attributes to a URL, but then BuildKit loses the names of the steps after
//! the URL, and a failed step's lines of the Dockerfile: both are stored under the operations' old digests.
//! Up to BuildKit 0.13 (Engine 26) it also loses the flag to ignore the cache. So the graph that is returned
//! already has the attributes, and BuildKit finds nothing to change.
//!
//! BuildKit finds the result of a copy by the checksums of the copied files, whichever job copied them first.
//! A checksum may belong to another file: up to BuildKit 0.33 the checksum is found by one way of following
//! symlinks (`cache/contenthash`, `getFollowLinks`) and the file by another (continuity's `fs.RootPath`), so
//! a job can choose both. So no job may reuse the results of another's copies: each copy also removes a file
//! that never exists, whose name contains the job's salt.

use std::collections::{BTreeMap, BTreeSet};

use bollard_buildkit_proto::pb::{Definition, FileAction, FileActionRm, FileOp, Op, file_action::Action, op};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::names::reference::Digest;

/// Attributes, by the identifier of their source.
pub type Attributes = BTreeMap<String, BTreeMap<String, String>>;

/// The attribute by which BuildKit distinguishes trees of earlier syncs (`source/local`). It is in no cache
/// key.
const HINT: &str = "local.sharedkeyhint";

/// The salts that keep a job's results apart from another's.
#[derive(Clone, Copy, Debug)]
pub struct Salts<'a> {
    /// The attributes of sources fetched by URL.
    pub fetched: &'a Attributes,
    /// The path of a file that never exists; contains the job's salt.
    pub copied: &'a str,
    /// The URL of the build's own tar, if it has one.
    pub uploaded: Option<&'a str>,
    /// The key of the tree with the archives that the build unpacks, if it does.
    pub tree: Option<&'a str>,
}

/// The graph with the salts in its operations; `None` if no operation needs one.
///
/// An operation names its inputs by their digests, so everything that depends on a changed operation changes
/// too. The graph must have been judged: operations that cannot be read stay unchanged.
pub fn with_salts(definition: &Definition, salts: Salts<'_>) -> Option<Definition> {
    let mut seen = Seen::default();
    let mut graph = Definition::default();
    // Inputs come before the operations that use them (`client/llb` in BuildKit, `marshal`).
    for bytes in &definition.def {
        let now = seen.salted(bytes, salts);
        graph.def.push(now.unwrap_or_else(|| bytes.clone()));
    }
    let changed = seen.changed;
    if changed.is_empty() {
        return None;
    }
    let now = |digest: &String| changed.get(digest).unwrap_or(digest).clone();
    graph.metadata =
        definition.metadata.iter().map(|(digest, metadata)| (now(digest), metadata.clone())).collect();
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

/// The names of a graph's steps, by their digests.
pub fn names(definition: &Definition) -> impl Iterator<Item = (String, String)> {
    definition.metadata.iter().filter_map(|(digest, metadata)| {
        // `WithCustomName` in `client/llb`.
        Some((digest.clone(), metadata.description.get("llb.customname")?.clone()))
    })
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
struct Seen {
    /// The new digests, by the old ones.
    changed: BTreeMap<String, String>,
    /// The operations that fetch the uploaded tar.
    uploaded: BTreeSet<String>,
}

impl Seen {
    /// The new form of one operation, if it changes.
    fn salted(&mut self, bytes: &[u8], salts: Salts<'_>) -> Option<Vec<u8>> {
        let mut op = Op::decode(bytes).ok()?;
        // A changed operation is encoded in the same way as BuildKit encoded it. BuildKit recognises finished work
        // of a build, such as the tar's upload, by an operation's digest, and a newer BuildKit computes the digest
        // from its own encoding.
        let encode = if by_number(&op) == bytes { by_number } else { kind_last };
        let mut changes = false;
        match &mut op.op {
            Some(op::Op::Source(source)) => {
                if salts.uploaded == Some(source.identifier.as_str()) {
                    self.uploaded.insert(digest(bytes));
                }
                if let Some(key) = salts.tree.filter(|_| source.identifier == "local://context") {
                    source.attrs.entry(HINT.to_owned()).or_default().push_str(&format!(" {key}"));
                    changes = true;
                }
                for (key, value) in salts.fetched.get(&source.identifier).into_iter().flatten() {
                    changes |= source.attrs.insert(key.clone(), value.clone()).as_ref() != Some(value);
                }
            }
            Some(op::Op::File(file)) => {
                let uploaded = |input: i64| {
                    let input = usize::try_from(input).ok().and_then(|input| op.inputs.get(input));
                    input.is_some_and(|input| self.uploaded.contains(&input.digest))
                };
                // The frontend has already unpacked the tar under this digest: a salt would unpack it again. The tar
                // is a single file and not a link, so its checksum is its own.
                let copies = file.actions.iter().any(|action| {
                    matches!(action.action, Some(Action::Copy(_))) && !uploaded(action.secondary_input)
                });
                if copies {
                    salt(file, op.inputs.len(), salts.copied);
                    changes = true;
                }
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

/// Adds to each result the removal of the file that never exists. An action's result is named by the action's
/// position after the operation's inputs.
fn salt(file: &mut FileOp, inputs: usize, path: &str) {
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
mod tests {
    use bollard_buildkit_proto::pb::{
        ExecOp, FileActionCopy, FileActionMkDir, Input, Location, Locations, Meta, OpMetadata, Platform,
        Source, SourceInfo, SourceOp, WorkerConstraints,
    };

    use super::*;

    const URL: &str = "https://example.com/f";

    fn source(identifier: &str, attrs: &[(&str, &str)]) -> Op {
        let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let source = SourceOp { identifier: identifier.to_owned(), attrs };
        Op { op: Some(op::Op::Source(source)), ..Op::default() }
    }

    fn run(command: &str, inputs: &[&Op]) -> Op {
        let meta = Some(Meta { args: vec![command.to_owned()], ..Meta::default() });
        let inputs = inputs.iter().map(|op| Input { digest: digest_of(op), index: 0 }).collect();
        Op { inputs, op: Some(op::Op::Exec(ExecOp { meta, ..ExecOp::default() })), ..Op::default() }
    }

    fn digest_of(op: &Op) -> String {
        digest(&op.encode_to_vec())
    }

    /// A graph whose operations are named by their positions.
    fn graph(ops: &[&Op]) -> Definition {
        let named = |index: usize| OpMetadata {
            ignore_cache: true,
            description: [("llb.customname".to_owned(), index.to_string())].into(),
            ..OpMetadata::default()
        };
        let places = || ops.iter().enumerate().map(|(index, op)| (index, digest_of(op)));
        let line = Locations { locations: vec![Location::default()] };
        Definition {
            def: ops.iter().map(|op| op.encode_to_vec()).collect(),
            metadata: places().map(|(index, digest)| (digest, named(index))).collect(),
            source: Some(Source {
                locations: places().map(|(_, digest)| (digest, line.clone())).collect(),
                ..Source::default()
            }),
        }
    }

    #[test]
    fn the_text_of_a_large_graph_is_cut_and_nothing_else() {
        let text = |lines: usize| "COPY a b\n".repeat(lines).into_bytes();
        let with = |data: Vec<u8>| {
            let mut graph = graph(&[&run("true", &[])]);
            if let Some(source) = &mut graph.source {
                source.infos = vec![SourceInfo { data, ..SourceInfo::default() }];
            }
            graph
        };
        let (small, large) = (with(text(1000)), with(text(1 << 19)));
        for graph in [&small, &large] {
            let mut cut = graph.clone();
            cut_text(&mut cut);
            let lines = if graph == &small { 1000 } else { TEXT_BYTES_KEPT / 9 };
            assert_eq!(cut, with(text(lines)));
        }
        // A single line is longer than the part that is kept.
        let mut line = with(vec![b'x'; GRAPH_BYTES_MAX]);
        cut_text(&mut line);
        assert_eq!(line, with(Vec::new()));
    }

    fn attributes(own: &[(&str, &str)]) -> Attributes {
        let own = own.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        [(URL.to_owned(), own)].into()
    }

    const NO_FILE: &str = "/5a17.salt.wharf.invalid";

    fn salts(fetched: &Attributes) -> Salts<'_> {
        Salts { fetched, copied: NO_FILE, uploaded: Some("http://buildkit-session/t"), tree: None }
    }

    fn salted(graph: &Definition, own: &[(&str, &str)]) -> Option<Definition> {
        with_salts(graph, salts(&attributes(own)))
    }

    fn action(input: i64, secondary_input: i64, output: i64, action: Action) -> FileAction {
        FileAction { input, secondary_input, output, action: Some(action) }
    }

    fn copy(source: &str) -> Action {
        Action::Copy(FileActionCopy { src: source.to_owned(), ..FileActionCopy::default() })
    }

    fn no_file() -> Action {
        Action::Rm(FileActionRm { path: NO_FILE.into(), allow_not_found: true, ..FileActionRm::default() })
    }

    fn file(inputs: &[&Op], actions: Vec<FileAction>) -> Op {
        let inputs = inputs.iter().map(|op| Input { digest: digest_of(op), index: 0 }).collect();
        Op { inputs, op: Some(op::Op::File(FileOp { actions })), ..Op::default() }
    }

    #[test]
    fn what_comes_of_a_changed_source_keeps_its_name_and_its_lines() {
        let url = source(URL, &[("http.filename", "f")]);
        let other = source("local://context", &[]);
        let aside = run("aside", &[&other]);
        let last = run("last", &[&aside, &run("first", &[&url])]);
        let before = graph(&[&url, &run("first", &[&url]), &other, &aside, &last]);

        let url = source(URL, &[("http.filename", "f"), ("http.perm", "1")]);
        let first = run("first", &[&url]);
        let last = run("last", &[&aside, &first]);
        let after = graph(&[&url, &first, &other, &aside, &last]);
        assert_ne!(before, after);
        assert_eq!(salted(&before, &[("http.perm", "1")]), Some(after));
    }

    #[test]
    fn a_graph_that_has_them_is_left_alone() {
        let url = source(URL, &[("http.filename", "f"), ("http.perm", "1")]);
        let other = source("https://example.com/other", &[]);
        let graph = graph(&[&url, &other, &run("true", &[&url, &other])]);
        assert_eq!(salted(&graph, &[("http.perm", "1")]), None);
        assert_eq!(with_salts(&graph, salts(&Attributes::new())), None);
        assert!(salted(&graph, &[("http.perm", "2")]).is_some());
    }

    #[test]
    fn what_is_copied_is_the_jobs_own() {
        let (base, context) = (source("docker-image://x", &[]), source("local://context", &[]));
        let copies = |last: i64| vec![action(0, 1, -1, copy("a")), action(2, 1, last, copy("b"))];
        let before = file(&[&base, &context], copies(0));
        let after = file(&[&base, &context], [copies(-1), vec![action(3, -1, 0, no_file())]].concat());
        let now = salted(&graph(&[&base, &context, &before, &run("true", &[&before])]), &[]);
        assert_eq!(now, Some(graph(&[&base, &context, &after, &run("true", &[&after])])));

        // Each result has it.
        let results = [action(0, 1, 1, copy("a")), action(0, 1, 0, copy("b"))];
        let now = salted(&graph(&[&base, &context, &file(&[&base, &context], results.into())]), &[]).unwrap();
        let results = [action(0, 1, -1, copy("a")), action(0, 1, -1, copy("b"))];
        let salt = [action(2, -1, 1, no_file()), action(3, -1, 0, no_file())];
        let expected = file(&[&base, &context], [results, salt].concat());
        assert_eq!(now.def.last(), Some(&expected.encode_to_vec()));
    }

    #[test]
    fn what_copies_no_files_of_a_job_has_no_salt() {
        let base = source("docker-image://x", &[]);
        let (url, tar) = (source(URL, &[("http.perm", "1")]), source("http://buildkit-session/t", &[]));
        let made = action(0, -1, 0, Action::Mkdir(FileActionMkDir::default()));
        let copied = vec![action(0, 1, 0, copy("f"))];
        for op in [file(&[&base], vec![made]), file(&[&base, &tar], copied.clone())] {
            assert_eq!(salted(&graph(&[&base, &tar, &op]), &[("http.perm", "1")]), None);
        }
        let other = source("http://buildkit-session/other", &[]);
        let of_other = graph(&[&base, &other, &file(&[&base, &other], copied.clone())]);
        assert!(salted(&of_other, &[]).is_some());
        let fetched = graph(&[&base, &url, &file(&[&base, &url], copied)]);
        assert!(salted(&fetched, &[("http.perm", "1")]).is_some());
    }

    #[test]
    fn an_operation_is_encoded_as_it_came() {
        let op = |attrs: &[(&str, &str)]| Op {
            platform: Some(Platform { os: "linux".into(), ..Platform::default() }),
            constraints: Some(WorkerConstraints::default()),
            ..source(URL, attrs)
        };
        let own = attributes(&[("http.perm", "1")]);
        for encode in [by_number, kind_last] {
            let now = Seen::default().salted(&encode(&op(&[])), salts(&own)).unwrap();
            assert_eq!(now, encode(&op(&[("http.perm", "1")])));
        }
        assert_eq!(kind_last(&Op { ..op(&[]) }).get(..11), Some(&b"\x52\x07\x12\x05linux\x5a\x00"[..]));
    }

    #[test]
    fn a_step_without_lines_has_no_entry_for_them() {
        let url = source(URL, &[]);
        let mut graph = graph(&[&url, &run("true", &[&url])]);
        for locations in graph.source.as_mut().unwrap().locations.values_mut() {
            locations.locations.clear();
        }
        let now = salted(&graph, &[("http.perm", "1")]).unwrap();
        assert!(now.source.unwrap().locations.is_empty());
    }
}
