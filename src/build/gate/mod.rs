//! The gate: judges the whole graph of a build before any of its steps has run.
//!
//! The gate is an allow-list of operations, source schemes, attributes and fields; it refuses everything
//! else. A decoder silently drops fields that only a newer BuildKit knows, so the gate encodes the decoded
//! graph again and compares (`buildkit::wire_form`).

mod chain;
pub mod definition;
mod exec;
mod platform;
mod source;
mod users;

pub use platform::{PLATFORM_HINT, own_platforms};
pub use source::git_denied;

use std::collections::{BTreeMap, BTreeSet};

use bollard_buildkit_proto::{
    moby::buildkit::v1::frontend::{self, result},
    pb::{Definition, Op, WorkerConstraints, op},
};
use prost::Message as _;

use chain::Chains;
use definition::{Attributes, Salts};
use users::Lookups;

use super::isolation::{self, JobKeys, Source};
use crate::{
    buildkit::{
        solve,
        wire_form::{Field, PLAIN, Shape, is_understood},
    },
    fault::{Fault, Reason},
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
}

/// The names of steps, by their digests.
pub type Names = BTreeMap<String, String>;

impl Judged {
    /// The names of the graph's steps.
    pub fn names(&self) -> &Names {
        &self.names
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

impl solve::Judged for Judged {
    /// References to the graphs, which BuildKit keeps. A result that contains a graph has no reference that
    /// BuildKit knows yet.
    fn into_result(self) -> frontend::Result {
        self.result
    }
}

/// The reason why a graph does not run, for now or at all.
#[derive(Debug)]
pub enum Refusal {
    /// The graph needs these URLs, which have not been judged yet.
    NeedsUrls(BTreeSet<String>),
    /// The graph is refused.
    Refused(Fault),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Refused(fault)
    }
}

/// The sources and lookups found in a graph.
#[derive(Default)]
struct Seen {
    images: BTreeSet<String>,
    /// URLs that have not been admitted.
    urls: BTreeSet<String>,
    chains: Chains,
    caches: exec::Caches,
    lookups: Lookups,
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
    /// Admitted URLs, including the uploaded tar's, and the attributes that each gets.
    fetched: Attributes,
}

impl<'a> Gate<'a> {
    /// The rules for a graph that may use `sources`, and nothing else. The gate takes no names but only what
    /// admission and policy have made: `session` is the engine's session, `namespace` is the build's, `keys` are the job's
    /// own, `platform` is the engine's (`linux/amd64`, with a variant if it has one).
    pub fn new(
        session: &'a str,
        namespace: &'a Permit<Namespace>,
        keys: &'a JobKeys,
        platform: &'a str,
        sources: &[Source<'a>],
    ) -> Self {
        let images = sources.iter().filter_map(|source| match source {
            Source::Image { image, .. } => Some(image.target().as_str()),
            Source::Url(_) | Source::Tar(_) => None,
        });
        let fetched = isolation::fetched(sources, keys);
        Self { session, namespace, keys, platform, images: images.collect(), fetched }
    }
}

impl Gate<'_> {
    /// The URLs that the graph may use, and the attributes that each gets.
    pub fn fetched(&self) -> &Attributes {
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
        let judged = match result.result {
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
        seen.lookups.judge()?;
        if !seen.urls.is_empty() {
            return Err(Refusal::NeedsUrls(seen.urls));
        }
        let result = frontend::Result { result: judged, ..result };
        Ok(Judged { result, images: seen.images, syntax, names: seen.names })
    }

    fn reference(&self, reference: frontend::Ref, seen: &mut Seen) -> Result<frontend::Ref, Refusal> {
        let def = match &reference.def {
            Some(definition) => {
                self.definition(definition, seen)?;
                let copied = self.keys.copied_path();
                let mut salted =
                    definition::with_salts(definition, Salts { fetched: &self.fetched, copied: &copied });
                seen.names.extend(definition::names(salted.as_ref().unwrap_or(definition)));
                salted.iter_mut().for_each(definition::cut_text);
                salted
            }
            // An empty `FROM scratch` has no graph, and then BuildKit returns no id either.
            None if reference.id.is_empty() => None,
            None => return Err(refuse("the builder gave no graph to judge")),
        };
        Ok(frontend::Ref { id: reference.id, def })
    }

    fn definition(&self, definition: &Definition, seen: &mut Seen) -> Result<(), Refusal> {
        for bytes in &definition.def {
            let op = Op::decode(bytes.as_slice()).map_err(|_| refuse("an operation cannot be read"))?;
            if !is_understood(bytes, &op.encode_to_vec(), &OP) {
                return Err(refuse("an operation has fields that this wharfd does not know"));
            }
            let digest = definition::digest(bytes);
            let line = || definition::line(definition, &digest);
            self.op(&op, &line, seen)?;
            seen.chains.add(&digest, &op)?;
            seen.lookups.add(digest, &op);
        }
        Ok(())
    }

    /// Judges an operation; `line` tells its line of the Dockerfile, if it is known.
    fn op(&self, op: &Op, line: &dyn Fn() -> Option<u32>, seen: &mut Seen) -> Result<(), Refusal> {
        if let Some(WorkerConstraints { filter }) = &op.constraints
            && !filter.is_empty()
        {
            return Err(refuse("an operation may not choose its worker"));
        }
        match &op.op {
            // The last operation of a graph only points at its result.
            None if op.inputs.len() == 1 => Ok(()),
            None => Err(refuse("an operation has no kind")),
            Some(op::Op::Exec(exec)) => {
                self.on_platform(op.platform.as_ref()).and_then(|()| self.exec(exec, line, &mut seen.caches))
            }
            Some(op::Op::Source(source)) => {
                self.source(source, seen)?;
                if source.identifier.starts_with("docker-image://") {
                    self.on_platform(op.platform.as_ref())
                } else {
                    Ok(())
                }
            }
            Some(op::Op::File(_) | op::Op::Merge(_) | op::Op::Diff(_)) => Ok(()),
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

fn refuse(why: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    let why = why.into();
    Fault::new(Reason::GraphDenied, format!("the build graph is refused: {why}")).into()
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::pb::{self, ExecOp, HostIp, Input, Meta, SourceOp};

    use std::sync::Arc;

    use super::{
        super::{isolation::SALT_ADDRESS, tar::Tar},
        *,
    };
    use crate::{images::admission::Admitted, names::Pattern, policy::Rules};

    fn keys() -> JobKeys {
        JobKeys { salt: "5a17".into(), cache_mounts: "cafe".into() }
    }

    pub(super) fn judge(ops: &[Op]) -> Result<Judged, Refusal> {
        judge_bytes(ops.iter().map(prost::Message::encode_to_vec).collect())
    }

    fn judge_bytes(def: Vec<Vec<u8>>) -> Result<Judged, Refusal> {
        let reference =
            frontend::Ref { id: "r1".into(), def: Some(Definition { def, ..Definition::default() }) };
        judge_result(frontend::Result {
            result: Some(result::Result::Ref(reference)),
            ..frontend::Result::default()
        })
    }

    pub(super) fn judge_result(result: frontend::Result) -> Result<Judged, Refusal> {
        let rules = Arc::new(Rules::built_in("test", Pattern::any()));
        let namespace =
            rules.namespace(&crate::names::CallerId::Uid(1), Namespace::new("job", "1").unwrap()).unwrap();
        let url = namespace.fetch_from("https://admitted.example/f").unwrap();
        let url = url.at(&["8.8.8.8".parse().unwrap()]).unwrap();
        let (image, tar) = (Admitted::any("wharf.invalid/h/1:1"), Tar::at("/t"));
        let sources =
            [Source::Image { named: "busybox", image: &image }, Source::Url(&url), Source::Tar(&tar)];
        Gate::new("s1", &namespace, &keys(), "linux/amd64", &sources).result(result)
    }

    pub(super) fn exec() -> ExecOp {
        let host = HostIp { host: keys().salt_host(), ip: SALT_ADDRESS.into() };
        ExecOp { meta: Some(Meta { extra_hosts: vec![host], ..Meta::default() }), ..ExecOp::default() }
    }

    pub(super) fn op(op: op::Op) -> Op {
        Op { op: Some(op), ..Op::default() }
    }

    pub(super) fn run(change: impl FnOnce(&mut ExecOp)) -> Result<Judged, Refusal> {
        let mut exec = exec();
        change(&mut exec);
        judge(&[op(op::Op::Exec(exec))])
    }

    pub(super) fn source(identifier: &str, attrs: &[(&str, &str)]) -> Result<Judged, Refusal> {
        let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        judge(&[op(op::Op::Source(SourceOp { identifier: identifier.to_owned(), attrs }))])
    }

    #[test]
    fn an_ordinary_graph_runs() {
        assert!(run(|_| {}).is_ok());
        assert!(source("local://context", &[("local.session", "s1"), ("local.followpaths", "[]")]).is_ok());
        assert!(source("docker-image://wharf.invalid/h/1:1", &[("image.resolvemode", "local")]).is_ok());
        let digest = "a".repeat(64);
        let with_digest = format!("docker-image://wharf.invalid/h/1:1@sha256:{digest}");
        assert!(source(&with_digest, &[("image.resolvemode", "local")]).is_ok());
        assert!(source("https://admitted.example/f", &[("http.checksum", "sha256:1")]).is_ok());
        assert!(source("http://buildkit-session/t", &[]).is_ok());
        let first = op(op::Op::Exec(exec()));
        let inputs = vec![Input { digest: definition::digest(&first.encode_to_vec()), index: 0 }];
        assert!(judge(&[first, Op { inputs, ..Op::default() }]).is_ok());
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert!(judge(&[op(op::Op::Build(pb::BuildOp::default()))]).is_err());
        assert!(judge(&[Op::default()]).is_err());
        assert!(judge_bytes(vec![vec![0xff]]).is_err());
        let constraints = Some(WorkerConstraints { filter: vec!["x".into()] });
        assert!(judge(&[Op { constraints, ..op(op::Op::Exec(exec())) }]).is_err());
        // Field 99 of an operation, as if from a newer BuildKit.
        let mut newer = op(op::Op::Exec(exec())).encode_to_vec();
        newer.extend([0x98, 0x06, 0x01]);
        assert!(judge_bytes(vec![newer]).is_err());
        // The unknown field takes the space of a number that is encoded in fewer bytes, so that all lengths
        // are unchanged.
        let made = pb::FileActionMkDir { mode: -1, ..pb::FileActionMkDir::default() };
        let action = pb::FileAction {
            action: Some(pb::file_action::Action::Mkdir(made)),
            ..pb::FileAction::default()
        };
        let sent = op(op::Op::File(pb::FileOp { actions: vec![action] })).encode_to_vec();
        let long = [[0xff; 9].as_slice(), &[1]].concat();
        let at = sent.windows(10).position(|bytes| bytes == long).unwrap();
        let mut newer = sent.clone();
        newer[at..at + 10].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0x98, 0x06, 0x80, 0x80, 0x01]);
        assert_eq!(Op::decode(&newer[..]).unwrap(), Op::decode(&sent[..]).unwrap());
        assert!(judge_bytes(vec![sent]).is_ok());
        assert!(judge_bytes(vec![newer]).is_err());
    }

    #[test]
    fn an_entry_that_would_be_a_null_pointer_is_refused() {
        let judge = |id: &str, def: Option<Definition>| {
            let refs = [("linux/amd64".to_owned(), frontend::Ref { id: id.to_owned(), def })].into();
            let result = Some(result::Result::Refs(frontend::RefMap { refs }));
            judge_result(frontend::Result { result, ..frontend::Result::default() })
        };
        assert!(judge("", None).is_err());
        assert!(judge("r1", Some(Definition::default())).is_ok());
    }
}
