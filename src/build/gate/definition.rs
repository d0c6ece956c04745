//! A frontend's graph with attributes of ours in its sources.
//!
//! The source policy gives a URL its attributes too, but then BuildKit finds neither the names of the
//! steps behind it nor the Dockerfile's lines of one that fails: they stand under the digests that
//! the operations had before. Nor, up to BuildKit 0.13 (Engine 26), whether the cache is ignored. So
//! the graph that is returned has the attributes already, and BuildKit finds nothing to change.

use std::collections::BTreeMap;

use bollard_buildkit_proto::pb::{Definition, Op, op};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::names::reference::Digest;

/// Attributes by the identifier of the source that gets them.
pub type Attributes = BTreeMap<String, BTreeMap<String, String>>;

/// The graph with `attributes` in its sources; none where that is what it has already.
///
/// An operation names its inputs by their digests, so that all that comes of a changed source
/// changes too. The graph is one that was judged: what cannot be read stays as it is.
pub fn with_attributes(definition: &Definition, attributes: &Attributes) -> Option<Definition> {
    if attributes.is_empty() {
        return None;
    }
    // Digests, by those that the operations had.
    let mut changed = BTreeMap::new();
    let mut graph = Definition::default();
    // Inputs come before what is made of them (`client/llb` in BuildKit, `marshal`).
    for bytes in &definition.def {
        match with_attributes_in(bytes, attributes, &changed) {
            Some(bytes_now) => {
                changed.insert(digest(bytes), digest(&bytes_now));
                graph.def.push(bytes_now);
            }
            None => graph.def.push(bytes.clone()),
        }
    }
    if changed.is_empty() {
        return None;
    }
    let now = |digest: &String| changed.get(digest).unwrap_or(digest).clone();
    graph.metadata =
        definition.metadata.iter().map(|(digest, metadata)| (now(digest), metadata.clone())).collect();
    graph.source = definition.source.clone().map(|mut source| {
        let locations = std::mem::take(&mut source.locations);
        // An empty entry is encoded without its value, of which Go makes a null pointer: BuildKit 0.13
        // looks through it when the step fails, and the engine is gone.
        let locations = locations.into_iter().filter(|(_, locations)| !locations.locations.is_empty());
        source.locations = locations.map(|(digest, locations)| (now(&digest), locations)).collect();
        source
    });
    Some(graph)
}

/// One operation, if it changes.
fn with_attributes_in(
    bytes: &[u8],
    attributes: &Attributes,
    changed: &BTreeMap<String, String>,
) -> Option<Vec<u8>> {
    let mut op = Op::decode(bytes).ok()?;
    let mut changes = false;
    if let Some(op::Op::Source(source)) = &mut op.op
        && let Some(own) = attributes.get(&source.identifier)
    {
        for (key, value) in own {
            changes |= source.attrs.insert(key.clone(), value.clone()).as_ref() != Some(value);
        }
    }
    for input in &mut op.inputs {
        if let Some(now) = changed.get(&input.digest) {
            input.digest.clone_from(now);
            changes = true;
        }
    }
    changes.then(|| encode_as(bytes, &op))
}

/// Encodes what has become of an operation as BuildKit encodes it, which is seen in what it has sent.
/// It tells by an operation's digest what it has done already in a build, the upload of the tar among
/// it, and a newer one takes the digest of its own encoding.
fn encode_as(sent: &[u8], op: &Op) -> Vec<u8> {
    let is_by_number = Op::decode(sent).is_ok_and(|before| by_number(&before) == sent);
    if is_by_number { by_number(op) } else { kind_last(op) }
}

/// As Gogo's protobuf (BuildKit 0.13) has it.
fn by_number(op: &Op) -> Vec<u8> {
    op.encode_to_vec()
}

/// As Go's protobuf has it: a `oneof` comes last, whatever its numbers.
fn kind_last(op: &Op) -> Vec<u8> {
    let mut op = op.clone();
    let kind = Op { op: op.op.take(), ..Op::default() };
    [op.encode_to_vec(), kind.encode_to_vec()].concat()
}

/// The digest that an operation goes by in a graph.
pub(super) fn digest(bytes: &[u8]) -> String {
    Digest::from_sha256(Sha256::digest(bytes).into()).to_string()
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::pb::{
        ExecOp, Input, Location, Locations, Meta, OpMetadata, Platform, Source, SourceOp, WorkerConstraints,
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

    /// A graph whose operations are called by their place in it.
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

    fn attributes(own: &[(&str, &str)]) -> Attributes {
        let own = own.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        [(URL.to_owned(), own)].into()
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
        assert_eq!(with_attributes(&before, &attributes(&[("http.perm", "1")])), Some(after));
    }

    #[test]
    fn a_graph_that_has_them_is_left_alone() {
        let url = source(URL, &[("http.filename", "f"), ("http.perm", "1")]);
        let other = source("https://example.com/other", &[]);
        let graph = graph(&[&url, &other, &run("true", &[&url, &other])]);
        assert_eq!(with_attributes(&graph, &attributes(&[("http.perm", "1")])), None);
        assert_eq!(with_attributes(&graph, &Attributes::new()), None);
        assert!(with_attributes(&graph, &attributes(&[("http.perm", "2")])).is_some());
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
            let now = with_attributes_in(&encode(&op(&[])), &own, &BTreeMap::new()).unwrap();
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
        let now = with_attributes(&graph, &attributes(&[("http.perm", "1")])).unwrap();
        assert!(now.source.unwrap().locations.is_empty());
    }
}
