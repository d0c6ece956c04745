//! Puts layers of the job's own below everything that its steps make.
//!
//! An engine names the files of a layer by the chain of the layers' hashes (`ChainID`, OCI image-spec, config.md),
//! for layers that steps have made as for those that it has pulled. The hash is that of the layer's tar, and a
//! tar does not contain all that the files have: ACLs, `user.*` attributes, fractions of a second; a regular file
//! `.wh.NAME` in it is the deletion of NAME. So a job could make a layer with the hash of a layer of another's image, and
//! with other files, and whoever built on that image afterwards would get these files.
//!
//! Here each chain that a build makes begins, above its base image, with two layers that no other job's chains have:
//! one with an empty file, whose name is a keyed hash of the job's, and one that removes the file. The image's files are
//! the same.

use std::collections::{BTreeMap, BTreeSet};

use bollard_buildkit_proto::pb::{
    Definition, FileAction, FileActionMkFile, FileActionRm, FileOp, Input, Mount, Op, OpMetadata,
    file_action::Action, op,
};
use prost::Message as _;
use serde_json::value::RawValue;

use super::definition::{NAME, digest, encoding_of, unpacks};

/// The name of the operations that make the layers. No step of a Dockerfile can have it.
pub const OWN_LAYER: &str = "[internal] layer of the job's own";
/// How the layers appear in an image's history.
const CREATED_BY: &str = "wharf: layer of the job's own";
/// Engines take some 120 layers.
const LAYERS_MAX: usize = 1024;

/// The places at which a graph's chains of layers begin: sources, and nothing (`FROM scratch`).
#[derive(Debug)]
pub(super) struct Beginnings<'a> {
    /// The path of the file.
    path: &'a str,
    sources: BTreeSet<String>,
    scratch: bool,
    /// The digests of the upper own layers, by those of the sources below them; `None` is nothing.
    upper: BTreeMap<Option<String>, String>,
}

impl<'a> Beginnings<'a> {
    /// Finds them in a graph that has been judged; `uploaded` is the URL of the build's own tar.
    pub(super) fn of(graph: &Definition, path: &'a str, uploaded: Option<&str>) -> Self {
        let (mut sources, mut used, mut scratch) = (BTreeSet::new(), BTreeSet::new(), false);
        let mut tars = BTreeSet::new();
        for bytes in &graph.def {
            let Ok(op) = Op::decode(bytes.as_slice()) else { continue };
            if let Some(op::Op::Source(source)) = &op.op {
                let digest = digest(bytes);
                if uploaded == Some(source.identifier.as_str()) {
                    tars.insert(digest.clone());
                }
                sources.insert(digest);
            }
            if unpacks(&op, &tars) {
                continue;
            }
            for root in roots(&op) {
                match root.and_then(|index| op.inputs.get(index)) {
                    Some(input) => drop(used.insert(input.digest.clone())),
                    None => scratch = true,
                }
            }
        }
        sources.retain(|source| used.contains(source));
        Self { path, sources, scratch, upper: BTreeMap::new() }
    }

    /// The operations that make the own layers on `source` (its old digest, and its encoding now), or on nothing.
    pub(super) fn layers_on(&mut self, source: Option<(&str, &[u8])>) -> Vec<Vec<u8>> {
        let begins = source.map_or(self.scratch, |(digest, _)| self.sources.contains(digest));
        if !begins {
            return Vec::new();
        }
        let below = source.and_then(|(_, bytes)| Op::decode(bytes).ok()).unwrap_or_default();
        let encode = encoding_of(&below, source.map_or(&[], |(_, bytes)| bytes));
        let on = |input: Option<String>, action| {
            let action = FileAction {
                input: if input.is_some() { 0 } else { -1 },
                secondary_input: -1,
                output: 0,
                action: Some(action),
            };
            encode(&Op {
                inputs: input.into_iter().map(|digest| Input { digest, index: 0 }).collect(),
                platform: below.platform.clone(),
                constraints: below.constraints.clone(),
                op: Some(op::Op::File(FileOp { actions: vec![action] })),
            })
        };
        let file =
            FileActionMkFile { path: self.path.to_owned(), mode: 0o400, ..FileActionMkFile::default() };
        let lower = on(source.map(|(_, bytes)| digest(bytes)), Action::Mkfile(file));
        let removal = FileActionRm { path: self.path.to_owned(), ..FileActionRm::default() };
        let upper = on(Some(digest(&lower)), Action::Rm(removal));
        self.upper.insert(source.map(|(old, _)| old.to_owned()), digest(&upper));
        vec![lower, upper]
    }

    /// Puts an operation on the own layers, if a chain begins below it. Its inputs have their old digests.
    pub(super) fn put_under(&self, op: &mut Op) -> bool {
        let mut changes = false;
        for index in roots(op).into_iter().flatten() {
            let Some(input) = op.inputs.get_mut(index) else { continue };
            if let Some(upper) = self.upper.get(&Some(input.digest.clone())) {
                // If the operation copies from the image, too: the files are the same.
                *input = Input { digest: upper.clone(), index: 0 };
                changes = true;
            }
        }
        if let Some(upper) = self.upper.get(&None)
            && roots(op).contains(&None)
        {
            put_on_new_input(op, upper);
            changes = true;
        }
        changes
    }
}

/// The metadata of the own layers' operations.
pub(super) fn metadata(operations: &[Vec<u8>]) -> impl Iterator<Item = (String, OpMetadata)> {
    operations.iter().map(|bytes| {
        let description = [(NAME.to_owned(), OWN_LAYER.to_owned())].into();
        (digest(bytes), OpMetadata { description, ..OpMetadata::default() })
    })
}

/// The inputs of an operation above which it makes layers; `None` is nothing.
fn roots(op: &Op) -> Vec<Option<usize>> {
    let known = |input: i64| usize::try_from(input).ok();
    match &op.op {
        Some(op::Op::Exec(exec)) => {
            exec.mounts.iter().filter(|mount| makes_layer(mount)).map(|mount| known(mount.input)).collect()
        }
        Some(op::Op::File(file)) => {
            let inputs = file.actions.iter().map(|action| known(action.input));
            // Higher numbers are the operation's own actions.
            inputs.filter(|input| input.is_none_or(|index| index < op.inputs.len())).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether the files of a mount become a result: those of the root do.
fn makes_layer(mount: &Mount) -> bool {
    mount.output >= 0
}

/// Replaces nothing as the root by a new input.
fn put_on_new_input(op: &mut Op, digest: &str) {
    let new = i64::try_from(op.inputs.len()).unwrap_or(-1);
    match &mut op.op {
        Some(op::Op::Exec(exec)) => {
            for mount in exec.mounts.iter_mut().filter(|mount| makes_layer(mount) && mount.input < 0) {
                mount.input = new;
            }
        }
        Some(op::Op::File(file)) => {
            for action in &mut file.actions {
                // The numbers of the operation's own actions follow those of its inputs.
                for input in [&mut action.input, &mut action.secondary_input] {
                    if *input >= new {
                        *input += 1;
                    }
                }
                if action.input < 0 {
                    action.input = new;
                }
            }
        }
        _ => return,
    }
    op.inputs.push(Input { digest: digest.to_owned(), index: 0 });
}

/// A layer of a result, from the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    /// All layers of a base image.
    Base,
    /// The two own layers.
    Own,
    /// That of a step.
    Step,
}

/// The layers of a graph's result, before it is put on own layers; `None` if they are too many.
fn layers(graph: &Definition) -> Option<Vec<Layer>> {
    let ops = graph.def.iter().filter_map(|bytes| Some((digest(bytes), Op::decode(bytes.as_slice()).ok()?)));
    let ops: BTreeMap<String, Op> = ops.collect();
    let last = Op::decode(graph.def.last()?.as_slice()).ok()?;
    let mut layers = Vec::new();
    // From the topmost; `None` is nothing.
    let mut rest = vec![Some(last.inputs.first()?.digest.clone())];
    while let Some(next) = rest.pop() {
        if layers.len() > LAYERS_MAX || rest.len() > LAYERS_MAX {
            return None;
        }
        let Some(next) = next else {
            layers.push(Layer::Own);
            continue;
        };
        let op = ops.get(&next)?;
        match &op.op {
            Some(op::Op::Merge(_)) => rest.extend(op.inputs.iter().map(|input| Some(input.digest.clone()))),
            Some(op::Op::Source(_)) => layers.push(Layer::Base),
            _ => {
                layers.push(Layer::Step);
                let below = roots(op).first().copied()?;
                let below = match below {
                    Some(index) => Some(op.inputs.get(index)?.digest.clone()),
                    None => None,
                };
                let on_source = below.as_ref().and_then(|below| ops.get(below));
                if on_source.is_some_and(|op| matches!(op.op, Some(op::Op::Source(_)))) {
                    layers.push(Layer::Own);
                }
                rest.push(below);
            }
        }
    }
    layers.reverse();
    Some(layers)
}

/// An image's config with the own layers in its history, so that each of the other layers keeps its line there: BuildKit
/// adds missing lines at the end. `None` if it stays as it is.
pub(super) fn with_history(config: &[u8], graph: &Definition) -> Option<Vec<u8>> {
    /// The fields of an image's config (OCI image-spec, config.md); all others stay as they are.
    type Fields<'a> = BTreeMap<String, &'a RawValue>;
    #[derive(serde::Deserialize)]
    struct Rootfs {
        #[serde(default)]
        diff_ids: Option<Vec<String>>,
    }
    #[derive(serde::Deserialize)]
    struct Line {
        #[serde(default)]
        empty_layer: bool,
    }

    let layers = layers(graph)?;
    if !layers.contains(&Layer::Own) {
        return None;
    }
    let mut fields: Fields<'_> = serde_json::from_slice(config).ok()?;
    let rootfs: Option<Rootfs> = fields.get("rootfs").and_then(|json| serde_json::from_str(json.get()).ok());
    let of_base = rootfs.and_then(|rootfs| rootfs.diff_ids).unwrap_or_default().len();
    let lines = fields.get("history").and_then(|json| serde_json::from_str(json.get()).ok());
    let lines: Vec<&RawValue> = lines.unwrap_or_default();

    let own = serde_json::value::to_raw_value(&BTreeMap::from([("created_by", CREATED_BY)])).ok()?;
    let mut now: Vec<&RawValue> = Vec::with_capacity(lines.len() + 2);
    let mut lines = lines.into_iter();
    for layer in layers {
        let mut left = match layer {
            Layer::Own => {
                now.extend([&*own, &*own]);
                continue;
            }
            Layer::Base => of_base,
            Layer::Step => 1,
        };
        while left > 0 {
            let line = lines.next()?;
            left -= usize::from(!serde_json::from_str::<Line>(line.get()).ok()?.empty_layer);
            now.push(line);
        }
    }
    now.extend(lines);
    let now = serde_json::value::to_raw_value(&now).ok()?;
    fields.insert("history".to_owned(), &now);
    serde_json::to_vec(&fields).ok()
}

#[cfg(test)]
mod tests;
