//! Limits the wildcards and patterns of copies.
//!
//! To find out whether a copy is cached, BuildKit walks all paths of its source once for each wildcard, and matches each
//! path with each pattern of `--exclude` and `--parents`. Meanwhile it holds a lock of the source, and no cancel ends it
//! (`cache/contenthash`, BuildKit 0.13 and 0.33). An image is one source for all jobs, so that everyone else who copies
//! from it waits.

use std::collections::{BTreeMap, BTreeSet};

use bollard_buildkit_proto::pb::{FileActionCopy, Op, op};

use super::{
    Refusal,
    copies::{copies, has_wildcards},
};
use crate::fault::{Fault, Reason};

/// The most of one image. Each takes some microseconds for each file of the image.
const OF_IMAGE_MAX: usize = 32;
/// The most of a graph.
const ALL_MAX: usize = 512;

/// The wildcards and patterns in a graph.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    /// The operations so far.
    seen: BTreeSet<String>,
    /// How many there are for each image, by the digest of its operation.
    images: BTreeMap<String, usize>,
    all: usize,
}

impl Patterns {
    /// Adds an operation, whose inputs were added earlier.
    pub(super) fn add(
        &mut self,
        digest: &str,
        op: &Op,
        line: &dyn Fn() -> Option<u32>,
    ) -> Result<(), Refusal> {
        if !self.seen.insert(digest.to_owned()) {
            return Ok(());
        }
        if let Some(op::Op::Source(source)) = &op.op
            && source.identifier.starts_with("docker-image://")
        {
            self.images.insert(digest.to_owned(), 0);
        }
        for (copy, from) in copies(op) {
            let count = count(copy);
            if count == 0 {
                continue;
            }
            self.all += count;
            if self.all > ALL_MAX {
                return Err(too_many(ALL_MAX, "in all").at_line(line()).into());
            }
            if let Some(of_image) = from.and_then(|from| self.images.get_mut(from)) {
                *of_image += count;
                if *of_image > OF_IMAGE_MAX {
                    return Err(too_many(OF_IMAGE_MAX, "for the files of one image").at_line(line()).into());
                }
            }
        }
        Ok(())
    }
}

fn count(copy: &FileActionCopy) -> usize {
    // BuildKit looks up a plain path without a walk.
    let is_wild = copy.allow_wildcard && has_wildcards(copy);
    usize::from(is_wild) + copy.include_patterns.len() + copy.exclude_patterns.len()
}

fn too_many(max: usize, of: &str) -> Fault {
    let text = format!(
        "the build graph is refused: its copies have more than {max} wildcards and patterns {of} (`COPY *.txt`, \
         `--exclude`, `--parents`)"
    );
    Fault::new(Reason::GraphDenied, text).hint("copy the directory, or name the files")
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::pb::{FileAction, FileOp, Input, SourceOp, file_action::Action};

    use super::*;

    fn source(identifier: &str) -> Op {
        let source = SourceOp { identifier: identifier.to_owned(), ..SourceOp::default() };
        Op { op: Some(op::Op::Source(source)), ..Op::default() }
    }

    /// Adds a copy of these sources from an operation.
    fn copies(
        patterns: &mut Patterns,
        name: &str,
        from: &str,
        copies: Vec<FileActionCopy>,
    ) -> Result<(), Refusal> {
        let action = |copy| FileAction {
            input: -1,
            secondary_input: 0,
            action: Some(Action::Copy(copy)),
            ..FileAction::default()
        };
        let file = FileOp { actions: copies.into_iter().map(action).collect() };
        let inputs = vec![Input { digest: from.to_owned(), index: 0 }];
        patterns.add(name, &Op { op: Some(op::Op::File(file)), inputs, ..Op::default() }, &|| None)
    }

    fn wild(src: &str) -> FileActionCopy {
        FileActionCopy { src: src.to_owned(), allow_wildcard: true, ..FileActionCopy::default() }
    }

    #[test]
    fn an_image_has_few() {
        let patterns = || {
            let mut patterns = Patterns::default();
            patterns.add("image", &source("docker-image://wharf.invalid/h/1:1"), &|| None).unwrap();
            patterns.add("context", &source("local://context"), &|| None).unwrap();
            patterns
        };
        for src in ["/*", "/a?", "/[a]", "/a\\b"] {
            let mut of_image = patterns();
            assert!(copies(&mut of_image, "1", "image", vec![wild(src); 20]).is_ok());
            assert!(copies(&mut of_image, "1", "image", vec![wild(src); 20]).is_ok(), "the same once more");
            assert!(copies(&mut of_image, "2", "image", vec![wild(src); 12]).is_ok());
            assert!(copies(&mut of_image, "3", "image", vec![wild(src)]).is_err(), "{src}");
            assert!(copies(&mut of_image, "4", "image", vec![wild("/plain"); 1000]).is_ok());
            assert!(copies(&mut of_image, "5", "context", vec![wild(src); 400]).is_ok());
            assert!(copies(&mut of_image, "6", "context", vec![wild(src); 400]).is_err(), "{src}");
        }
        for many in [
            FileActionCopy { exclude_patterns: vec!["a".to_owned(); 33], ..FileActionCopy::default() },
            FileActionCopy { include_patterns: vec!["a".to_owned(); 33], ..FileActionCopy::default() },
        ] {
            assert!(copies(&mut patterns(), "1", "image", vec![many.clone()]).is_err(), "{many:?}");
            assert!(copies(&mut patterns(), "1", "context", vec![many]).is_ok());
        }
    }
}
