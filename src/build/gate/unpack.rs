//! The copies of a graph that unpack archives: an `ADD` of the context's files.
//!
//! wharfd compares each entry of a context with the sources that unpack (`archives/sources`), so that few of them have
//! wildcards.

use std::collections::{BTreeMap, BTreeSet};

use bollard_buildkit_proto::pb::{Op, op};

use super::{
    Refusal,
    copies::{copies, has_wildcards},
    refuse,
};
use crate::{
    build::{
        archives::{Unpacked, refused},
        spec::PATH_BYTES_MAX,
        tar::Findings,
    },
    fault::{Fault, Reason},
};

/// The most copies that unpack. BuildKit begins all of them at once.
const COPIES_MAX: usize = 256;

/// The most sources with wildcards, each counted once, and the most names in them.
const WILD_MAX: usize = 32;
const WILD_NAMES_MAX: usize = 256;

/// The input that an operation gives to copies.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// The context's directory.
    Context,
    /// The uploaded tar itself.
    Uploaded,
    /// The context that the frontend has unpacked from it.
    Tar,
}

/// The copies of a graph that unpack.
#[derive(Debug, Default)]
pub(super) struct Unpacks {
    kinds: BTreeMap<String, Kind>,
    /// The sources that are unpacked from the context's directory.
    synced: Vec<String>,
    /// The sources from a context that came as a tar.
    uploaded: Vec<String>,
    /// Those of both with wildcards.
    wild: BTreeSet<String>,
    /// How many names they have.
    wild_names: usize,
}

impl Unpacks {
    /// Adds an operation, whose inputs were added earlier; `uploaded` is the URL of the build's own tar.
    pub(super) fn add(
        &mut self,
        digest: &str,
        op: &Op,
        uploaded: Option<&str>,
        line: &dyn Fn() -> Option<u32>,
    ) -> Result<(), Refusal> {
        match &op.op {
            Some(op::Op::Source(source)) if source.identifier == "local://context" => {
                self.kinds.insert(digest.to_owned(), Kind::Context);
            }
            Some(op::Op::Source(source)) if uploaded == Some(source.identifier.as_str()) => {
                self.kinds.insert(digest.to_owned(), Kind::Uploaded);
            }
            _ => {}
        }
        for (copy, from) in copies(op) {
            // A directory is copied, with the archives in it.
            let is_root = copy.src.split('/').all(|name| matches!(name, "" | "."));
            if !copy.attempt_unpack_docker_compatibility || is_root {
                continue;
            }
            // `*` would be the name of a file.
            if !copy.allow_wildcard && has_wildcards(copy) {
                return Err(refuse("it unpacks a file whose name has wildcards"));
            }
            if copy.src.len() > PATH_BYTES_MAX {
                let why =
                    format!("`ADD` names a file by more than the {PATH_BYTES_MAX} bytes that a path has");
                return Err(refuse(why).at(line()));
            }
            if has_wildcards(copy) && self.wild.insert(copy.src.clone()) {
                self.wild_names += copy.src.split('/').count();
                if self.wild.len() > WILD_MAX || self.wild_names > WILD_NAMES_MAX {
                    let why = format!(
                        "`ADD` names files by more than {WILD_MAX} paths with wildcards, or these have more than \
                         {WILD_NAMES_MAX} names: use `COPY`, which never unpacks, or name the files"
                    );
                    return Err(refuse(why).at(line()));
                }
            }
            match from.and_then(|from| self.kinds.get(from)) {
                Some(Kind::Context) => self.synced.push(copy.src.clone()),
                Some(Kind::Tar) => self.uploaded.push(copy.src.clone()),
                Some(Kind::Uploaded) => {
                    self.kinds.insert(digest.to_owned(), Kind::Tar);
                }
                None => return Err(not_seen().at_line(line()).into()),
            }
            if self.synced.len() + self.uploaded.len() > COPIES_MAX {
                return Err(too_many().at_line(line()).into());
            }
        }
        Ok(())
    }

    /// The archives that the graph unpacks from the context's directory, which are to be judged as they come. Those in
    /// an uploaded tar have been judged: `found` is what was found.
    pub(super) fn judge(&self, found: Option<&Findings>, zstd: bool) -> Result<Option<Unpacked>, Refusal> {
        let of = |sources: &[String]| Unpacked::of(sources.iter().map(String::as_str), zstd);
        if let Some(unpacked) = of(&self.uploaded) {
            let found = found.ok_or_else(|| refuse("it unpacks archives of a tar that was not uploaded"))?;
            if let Some((path, why)) = found.refused(&unpacked) {
                let fault = Fault::new(Reason::GraphDenied, refused(&path, &why).message().to_owned());
                return Err(fault.into());
            }
        }
        Ok(of(&self.synced))
    }
}

fn not_seen() -> Fault {
    let text = "`ADD --unpack` of a URL is not allowed: wharfd does not see what the engine would unpack";
    Fault::new(Reason::GraphDenied, text).hint("`ADD` it without `--unpack`, and unpack it in a `RUN`")
}

fn too_many() -> Fault {
    let text = format!("`ADD` names more than {COPIES_MAX} files, and would unpack each");
    Fault::new(Reason::GraphDenied, text).hint("use `COPY`, which never unpacks")
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::pb::{
        FileAction, FileActionCopy, FileOp, Input, SourceOp, file_action::Action,
    };
    use prost::Message as _;

    use super::{
        super::{
            Judged, definition,
            tests::{judge, op},
        },
        *,
    };

    fn source(identifier: &str) -> Op {
        let (name, value) = match identifier.starts_with("local://") {
            true => ("local.session", "s1"),
            false => ("http.filename", "f"),
        };
        let attrs = [(name.to_owned(), value.to_owned())].into();
        op(op::Op::Source(SourceOp { identifier: identifier.to_owned(), attrs }))
    }

    fn add(of: &Op, sources: &[&str], unpacks: bool) -> Op {
        let copy = |src: &&str| FileAction {
            input: -1,
            secondary_input: 0,
            output: 0,
            action: Some(Action::Copy(FileActionCopy {
                src: (*src).to_owned(),
                attempt_unpack_docker_compatibility: unpacks,
                allow_wildcard: true,
                ..FileActionCopy::default()
            })),
        };
        let actions = sources.iter().map(copy).collect();
        let inputs = vec![Input { digest: definition::digest(&of.encode_to_vec()), index: 0 }];
        Op { inputs, ..op(op::Op::File(FileOp { actions })) }
    }

    fn hints(judged: &Judged) -> Vec<Option<String>> {
        let ops = judged.ops();
        let sources = ops.into_iter().filter_map(|op| match op.op {
            Some(op::Op::Source(source)) => Some(source.attrs.get("local.sharedkeyhint").cloned()),
            _ => None,
        });
        sources.collect()
    }

    #[test]
    fn the_context_of_an_add_is_a_tree_of_its_own() {
        let context = source("local://context");
        let judged =
            |sources: &[&str], unpacks| judge(&[context.clone(), add(&context, sources, unpacks)]).unwrap();
        for (sources, unpacks) in [(&["/a.tar"][..], false), (&["/"], true), (&["/./"], true)] {
            let judged = judged(sources, unpacks);
            assert!(judged.awaited().is_none(), "{sources:?}");
            assert_eq!(hints(&judged), [None], "{sources:?}");
        }
        let one = judged(&["/a.tar"], true);
        assert!(one.awaited().unwrap().unpacked.contains("a.tar"));
        let hint = hints(&one).remove(0).unwrap();
        assert_eq!(hints(&judged(&["/a.tar"], true)), [Some(hint.clone())]);
        // A file that only an `ADD` of the other graph unpacks was not judged for this one.
        assert_ne!(hints(&judged(&["/a.tar", "/b.tar"], true)), [Some(hint)]);
    }

    #[test]
    fn only_what_has_been_judged_is_unpacked() {
        for identifier in ["https://admitted.example/f", "local://dockerfile"] {
            let source = source(identifier);
            assert!(judge(&[source.clone(), add(&source, &["/f"], false)]).is_ok(), "{identifier}");
            let Err(Refusal::Refused(why)) = judge(&[source.clone(), add(&source, &["/f"], true)]) else {
                panic!("{identifier} is let through")
            };
            assert!(why.text().contains("`ADD --unpack` of a URL"), "{why}");
        }
        let context = source("local://context");
        let many: Vec<&str> = vec!["/f"; COPIES_MAX + 1];
        assert!(judge(&[context.clone(), add(&context, &many[1..], true)]).is_ok());
        assert!(judge(&[context.clone(), add(&context, &many, true)]).is_err());
    }

    /// Otherwise wharfd compares each entry of a context with all of them for milliseconds.
    #[test]
    fn what_an_entry_is_compared_with_is_little() {
        let context = source("local://context");
        let adds = |sources: &[String], unpacks| {
            let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
            judge(&[context.clone(), add(&context, &sources, unpacks)]).is_ok()
        };
        let wild = |count: usize, names: usize| -> Vec<String> {
            (0..count).map(|number| format!("{}{number}*", "a*/".repeat(names - 1))).collect()
        };
        assert!(adds(&wild(WILD_MAX, WILD_NAMES_MAX / WILD_MAX), true));
        assert!(!adds(&wild(WILD_MAX + 1, 1), true));
        assert!(!adds(&wild(2, WILD_NAMES_MAX / 2 + 1), true));
        assert!(adds(&wild(WILD_MAX + 1, 1), false), "a `COPY` unpacks nothing");
        let same = vec!["*.tar".to_owned(); COPIES_MAX];
        assert!(adds(&same, true), "the same counts once");
        let long = |bytes| vec!["a".repeat(bytes)];
        assert!(adds(&long(PATH_BYTES_MAX), true));
        assert!(!adds(&long(PATH_BYTES_MAX + 1), true));
    }

    #[test]
    fn a_tar_is_unpacked_as_it_was_judged() {
        let tar = source("http://buildkit-session/t");
        let context = add(&tar, &["/context"], true);
        let graph = |src| judge(&[tar.clone(), context.clone(), add(&context, &[src], true)]);
        assert!(graph("/good.tar").unwrap().awaited().is_none(), "it is in no sync");
        assert!(graph("/").is_ok());
        for bad in ["/bad.tar", "/b*"] {
            let Err(Refusal::Refused(why)) = graph(bad) else { panic!("it is let through") };
            assert!(why.text().contains("`bad.tar`, which is bad"), "{why}");
        }
    }
}
