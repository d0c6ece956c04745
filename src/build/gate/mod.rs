//! The gate: judges the whole graph of a build before any of its steps has run.
//!
//! The gate is an allow-list of operations, source schemes, attributes and fields; it refuses everything
//! else. A decoder silently drops fields that only a newer BuildKit knows, so the gate encodes the decoded
//! graph again and compares (`buildkit::wire_form`).

mod chain;
mod copies;
pub mod definition;
mod exec;
mod fetches;
mod file;
mod layers;
mod matching;
mod patterns;
mod platform;
mod refusal;
mod source;
mod unpack;
mod width;

pub use fetches::{Needed, Urls};
pub use layers::OWN_LAYER;
pub use matching::Matching;
pub use platform::{PLATFORM_HINT, own_platforms};
pub use refusal::Refusal;
pub use source::git_denied;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bollard_buildkit_proto::{
    moby::buildkit::v1::frontend::{self, result},
    pb::{Definition, DiffOp, MergeOp, Op, WorkerConstraints, op},
};
use prost::Message as _;

use chain::Chains;
use definition::{Fetches, Salts};
use fetches::Fetching;
use patterns::Patterns;
use refusal::refuse;
use unpack::Unpacks;
use width::Width;

use super::{
    archives::{Awaited, TreesOf},
    isolation::{self, JobKeys, Source},
    tar::Findings,
};
use crate::{
    buildkit::{
        solve,
        wire_form::{Field, PLAIN, Shape, is_understood},
    },
    names::Namespace,
    policy::Permit,
};

/// The key of the image's config (OCI image-spec, config.md) in a result's metadata; a platform may follow it.
const IMAGE_CONFIG: &str = "containerimage.config";

/// The maps in an operation.
static OP: Shape = Shape(&[(3, Field::Message(&SOURCE_OP))]);
static SOURCE_OP: Shape = Shape(&[(2, Field::Map(&PLAIN))]);

/// A judged graph: results that may be returned to BuildKit and run. Only [`Gate::judge`] makes one.
#[derive(Debug)]
pub struct Judged {
    result: frontend::Result,
    images: BTreeSet<String>,
    syntax: Option<String>,
    names: Names,
    awaited: Option<Arc<Awaited>>,
    matching: Matching,
}

/// The names of steps, by their digests.
pub type Names = BTreeMap<String, String>;

impl Judged {
    /// The names of the graph's steps.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The archives that the graph unpacks from the context's directory: its sync is to be judged for them.
    pub fn awaited(&self) -> Option<&Arc<Awaited>> {
        self.awaited.as_ref()
    }

    /// What the graph's copies make BuildKit do with the context.
    pub fn matching(&self) -> Matching {
        self.matching
    }

    /// The image in the Dockerfile's `# syntax=`.
    pub fn syntax(&self) -> Option<&str> {
        self.syntax.as_deref()
    }

    /// The names in the engine of the graph's images.
    pub fn images(&self) -> &BTreeSet<String> {
        &self.images
    }
}

impl solve::JudgedResult for Judged {
    /// References to the graphs, which BuildKit keeps. A result that contains a graph has no reference that
    /// BuildKit knows yet.
    fn into_result(self) -> frontend::Result {
        self.result
    }
}

/// The findings in a graph.
#[derive(Default)]
struct Seen {
    /// The digests of its operations: one that appears again is the same for BuildKit.
    operations: BTreeSet<String>,
    images: BTreeSet<String>,
    chains: Chains,
    mounts: exec::Mounts,
    width: Width,
    unpacks: Unpacks,
    patterns: Patterns,
    fetches: Fetching,
    actions: file::Actions,
    names: Names,
}

/// The rules for one build's graph.
#[derive(Debug)]
pub struct Gate<'a> {
    /// The engine's session, the source of local directories.
    session: &'a str,
    /// The permit to act in the build's namespace.
    namespace: &'a Permit<Namespace>,
    /// The job's own keys.
    keys: &'a JobKeys,
    /// The engine's platform.
    platform: &'a str,
    /// The names of admitted images in the engine.
    images: BTreeSet<&'a str>,
    /// Admitted URLs, including the uploaded tar's, and what becomes of each.
    fetched: Fetches,
    /// The URL of the uploaded tar, and the findings in it.
    tar: Option<(String, &'a Findings)>,
    /// Whether the engine may unpack Zstandard.
    zstd: bool,
    /// The trees of the context.
    trees: &'a TreesOf<'a>,
}

impl<'a> Gate<'a> {
    /// The rules for a graph that may use `sources`, and nothing else. The gate accepts images and URLs only as
    /// admission and policy have made them, never as names: `session` is the engine's session, `namespace` is the build's, `keys` are the job's
    /// own, `platform` is the engine's (`linux/amd64`, with a variant if it has one), which may unpack Zstandard or not;
    /// `trees` are the context's.
    pub fn new(
        session: &'a str,
        namespace: &'a Permit<Namespace>,
        keys: &'a JobKeys,
        platform: &'a str,
        zstd: bool,
        trees: &'a TreesOf<'a>,
        sources: &[Source<'a>],
    ) -> Self {
        let images = sources.iter().filter_map(|source| match source {
            Source::Image { image, .. } => Some(image.target().as_str()),
            Source::Url(_) | Source::Tar(_) => None,
        });
        let fetched = isolation::fetched(sources, keys);
        let tar = sources.iter().find_map(|source| match source {
            Source::Tar(tar) => Some((tar.url(), tar.found())),
            Source::Image { .. } | Source::Url(_) => None,
        });
        Self { session, namespace, keys, platform, images: images.collect(), fetched, tar, zstd, trees }
    }
}

impl Gate<'_> {
    /// The URLs that the graph may use, and what becomes of each.
    pub fn fetched(&self) -> &Fetches {
        &self.fetched
    }

    /// Judges a frontend's answer.
    pub fn judge(&self, answer: solve::Answer) -> Result<Judged, Refusal> {
        let result = answer.understood();
        self.result(result.ok_or_else(|| refuse("it has fields that this wharfd does not know"))?)
    }

    /// Judges every graph of a frontend's result.
    fn result(&self, result: frontend::Result) -> Result<Judged, Refusal> {
        let mut seen = Seen::default();
        let syntax = syntax_directive(&result);
        if !result.attestations.is_empty() {
            return Err(refuse("attestations are not allowed"));
        }
        for (key, value) in &result.metadata {
            if key.starts_with(IMAGE_CONFIG) {
                self.config(value)?;
            }
        }
        let mut judged = match result.result {
            None => None,
            Some(result::Result::Ref(reference)) => {
                Some(result::Result::Ref(self.reference(reference, &mut seen)?))
            }
            Some(result::Result::Refs(map)) => {
                let mut refs = std::collections::HashMap::new();
                for (name, reference) in map.refs {
                    // An empty entry would be encoded without its value, and Go reads that as a nil pointer,
                    // which BuildKit 0.13 dereferences: this crashes the engine.
                    if reference == frontend::Ref::default() {
                        return Err(refuse(
                            "an empty image cannot be built for a list of platforms: omit \
                             BUILDKIT_MULTI_PLATFORM",
                        ));
                    }
                    refs.insert(name, self.reference(reference, &mut seen)?);
                }
                Some(result::Result::Refs(frontend::RefMap { refs }))
            }
            // Older forms do not contain the graph, so it cannot be judged.
            Some(result::Result::RefDeprecated(_) | result::Result::RefsDeprecated(_)) => {
                return Err(refuse("the builder gave no graph to judge"));
            }
        };
        seen.width.judge()?;
        let urls = std::mem::take(&mut seen.fetches).new_urls(&self.fetched, self.uploaded())?;
        if !urls.is_empty() {
            return Err(Refusal::NeedsUrls(urls));
        }
        if let Some((_, found)) = &self.tar
            && let Some(why) = found.too_many_for(seen.patterns.own)
        {
            return Err(refuse(why));
        }
        // All graphs of a result share a sync.
        let unpacked = seen.unpacks.judge(self.tar.as_ref().map(|(_, found)| *found), self.zstd)?;
        let awaited = unpacked.map(|unpacked| self.trees.await_these(unpacked)).transpose()?.map(Arc::new);
        let tree = awaited.as_ref().map(|awaited| awaited.tree.key());
        let mut metadata = result.metadata;
        match &mut judged {
            Some(result::Result::Ref(reference)) => {
                self.salt(reference, metadata.get_mut(IMAGE_CONFIG), tree, &mut seen)?;
            }
            Some(result::Result::Refs(map)) => {
                for (platform, reference) in &mut map.refs {
                    let config = metadata.get_mut(&format!("{IMAGE_CONFIG}/{platform}"));
                    self.salt(reference, config, tree, &mut seen)?;
                }
            }
            _ => {}
        }
        let result = frontend::Result { result: judged, metadata, ..result };
        let matching = seen.patterns.own;
        Ok(Judged { result, images: seen.images, syntax, names: seen.names, awaited, matching })
    }

    fn reference(&self, reference: frontend::Ref, seen: &mut Seen) -> Result<frontend::Ref, Refusal> {
        match &reference.def {
            Some(definition) => self.definition(definition, seen)?,
            // An empty `FROM scratch` has no graph, and then BuildKit returns no id either.
            None if reference.id.is_empty() => {}
            None => return Err(refuse("the builder gave no graph to judge")),
        }
        Ok(reference)
    }

    /// Keeps the job's results apart from others'. A graph that needs nothing for that is left out: BuildKit has it.
    /// `config` is that of the graph's image.
    fn salt(
        &self,
        reference: &mut frontend::Ref,
        config: Option<&mut Vec<u8>>,
        tree: Option<&str>,
        seen: &mut Seen,
    ) -> Result<(), Refusal> {
        let Some(definition) = reference.def.take() else { return Ok(()) };
        let (copied, layers) = (self.keys.copied_path(), self.keys.layers.as_deref());
        if let Some(config) = config.filter(|_| layers.is_some())
            && let Some(now) = layers::with_history(config, &definition)
        {
            *config = now;
        }
        let salts =
            Salts { fetched: &self.fetched, copied: &copied, uploaded: self.uploaded(), tree, layers };
        let mut salted = definition::with_salts(&definition, salts);
        let runs = salted.as_ref().unwrap_or(&definition);
        if !definition::fetches_only(runs, &self.fetched) {
            return Err(refuse("it fetches from a URL that is not of the build's own session"));
        }
        seen.names.extend(definition::names(runs));
        salted.iter_mut().for_each(definition::cut_text);
        reference.def = salted;
        Ok(())
    }

    /// The URL of the uploaded tar.
    fn uploaded(&self) -> Option<&str> {
        self.tar.as_ref().map(|(url, _)| url.as_str())
    }

    fn definition(&self, definition: &Definition, seen: &mut Seen) -> Result<(), Refusal> {
        for bytes in &definition.def {
            let op = Op::decode(bytes.as_slice()).map_err(|_| refuse("an operation cannot be read"))?;
            if !is_understood(bytes, &op.encode_to_vec(), &OP) {
                return Err(refuse("an operation has fields that this wharfd does not know"));
            }
            let digest = definition::digest(bytes);
            if !seen.operations.insert(digest.clone()) {
                continue;
            }
            let line = || definition::line(definition, &digest);
            self.op(&op, &line, seen)?;
            seen.chains.add(&digest, &op)?;
            seen.fetches.add(&digest, &op, self.uploaded(), &line)?;
            seen.unpacks.add(&digest, &op, self.uploaded(), &line)?;
            seen.patterns.add(&digest, &op, &line)?;
            seen.width.add(digest, &op);
        }
        Ok(())
    }

    /// Judges an operation; `line` returns its line of the Dockerfile, if it is known.
    fn op(&self, op: &Op, line: &dyn Fn() -> Option<u32>, seen: &mut Seen) -> Result<(), Refusal> {
        let Op { inputs, platform, constraints, op: kind } = op;
        if let Some(WorkerConstraints { filter }) = constraints
            && !filter.is_empty()
        {
            return Err(refuse("an operation may not choose its worker"));
        }
        match kind {
            // The last operation of a graph only points at its result.
            None if inputs.len() == 1 => Ok(()),
            None => Err(refuse("an operation has no kind")),
            Some(op::Op::Exec(exec)) => {
                self.on_platform(platform.as_ref()).and_then(|()| self.exec(exec, line, &mut seen.mounts))
            }
            Some(op::Op::Source(source)) => {
                self.source(source, seen)?;
                if source.identifier.starts_with("docker-image://") {
                    self.on_platform(platform.as_ref())
                } else {
                    Ok(())
                }
            }
            Some(op::Op::File(file)) => {
                seen.actions.judge(file, inputs.len()).map_err(|refusal| refusal.at(line()))
            }
            // Of `COPY --link`: the graph's own results, one above the other.
            Some(op::Op::Merge(MergeOp { inputs: _ })) => Ok(()),
            Some(op::Op::Diff(DiffOp { lower: _, upper: _ })) => {
                Err(refuse("it takes the difference of two results, which no Dockerfile can ask for"))
            }
            Some(op::Op::Build(_)) => Err(refuse("a nested build hides what it would run")),
        }
    }
}

/// The image in a Dockerfile's `# syntax=`, from the sources that accompany its graph.
fn syntax_directive(result: &frontend::Result) -> Option<String> {
    let reference = match result.result.as_ref()? {
        result::Result::Ref(reference) => reference,
        result::Result::Refs(map) => map.refs.values().next()?,
        result::Result::RefDeprecated(_) | result::Result::RefsDeprecated(_) => return None,
    };
    definition::syntax(reference.def.as_ref()?)
}

#[cfg(test)]
mod tests;
