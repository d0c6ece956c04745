//! Limits the wildcards and patterns of copies, and the names that they copy.
//!
//! To find out whether a copy is cached, BuildKit walks all paths of its source once for each wildcard, and matches each
//! path with each pattern of `--exclude` and `--parents`. Meanwhile it holds a lock of the source, and no cancel ends it
//! (`cache/contenthash`, BuildKit 0.13 and 0.33). An image is one source for all jobs, so that everyone else who copies
//! from it waits. The first time that BuildKit hears of a name in an image, it also writes all of the image's index again
//! (`save`), with the same lock, into a database that has one writer.

use std::collections::BTreeSet;

use bollard_buildkit_proto::pb::{FileActionCopy, Op, op};

use super::{
    Refusal,
    copies::{ANY_DIRECTORIES, copies, cost, input, patterns},
    matching::Matching,
};
use crate::fault::{Fault, Reason};

/// The most names in images that copies and mounts may have as their sources.
const NAMES_OF_IMAGES_MAX: usize = 256;
/// The most wildcards and patterns for the files of images. Each takes some microseconds for each file of the image.
const OF_IMAGES_MAX: usize = 32;
/// The most of a graph.
const ALL_MAX: usize = 512;
/// The most that those for the files of images may cost together; see [`cost`]. At most some 0.3 ms for each file.
const OF_IMAGES_COST_MAX: usize = 512;
/// The same of a graph.
const ALL_COST_MAX: usize = 16 * 1024;
/// The wildcards and patterns in a graph.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    /// The operations that bring an image. Several may bring the same one.
    images: BTreeSet<String>,
    of_images: Sum,
    all: Sum,
    /// How many sources of copies and mounts are in images.
    names_of_images: usize,
    /// The copies that are not from images.
    pub(super) own: Matching,
}

/// Wildcards and patterns together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    count: usize,
    cost: usize,
}

impl Patterns {
    /// Adds an operation, whose inputs were added earlier.
    pub(super) fn add(
        &mut self,
        digest: &str,
        op: &Op,
        line: &dyn Fn() -> Option<u32>,
    ) -> Result<(), Refusal> {
        if let Some(op::Op::Source(source)) = &op.op
            && source.identifier.starts_with("docker-image://")
        {
            self.images.insert(digest.to_owned());
        }
        let in_images = sources(op).flatten().filter(|from| self.images.contains(*from)).count();
        self.names_of_images += in_images;
        if in_images > 0 && self.names_of_images > NAMES_OF_IMAGES_MAX {
            let text = format!(
                "the build graph is refused: its copies and mounts name more than {NAMES_OF_IMAGES_MAX} files and \
                 directories in images (`COPY --from`, `RUN --mount=from`)"
            );
            let fault = Fault::new(Reason::GraphDenied, text).hint("copy directories");
            return Err(fault.at_line(line()).into());
        }
        for (copy, from) in copies(op) {
            if from.is_some_and(|from| !self.images.contains(from)) {
                self.own.add(copy);
            }
            let sum = Sum::of(copy);
            if sum == Sum::default() {
                continue;
            }
            self.all.add(sum);
            self.all.judge(ALL_MAX, ALL_COST_MAX, "in all").map_err(|fault| fault.at_line(line()))?;
            if from.is_some_and(|from| self.images.contains(from)) {
                self.of_images.add(sum);
                let judged =
                    self.of_images.judge(OF_IMAGES_MAX, OF_IMAGES_COST_MAX, "for the files of images");
                judged.map_err(|fault| fault.at_line(line()))?;
            }
        }
        Ok(())
    }
}

/// The operation of each file or directory that an operation copies or mounts, unless it is the whole of a source; `None`
/// for the operation itself.
fn sources(op: &Op) -> impl Iterator<Item = Option<&str>> {
    let copied = copies(op).filter(|(copy, _)| copy.src != "/").map(|(_, from)| from);
    let mounts = match &op.op {
        Some(op::Op::Exec(exec)) => exec.mounts.as_slice(),
        _ => &[],
    };
    let mounted = mounts.iter().filter(|mount| !mount.selector.is_empty());
    let mounted = mounted.map(|mount| input(op, mount.input));
    copied.chain(mounted)
}

impl Sum {
    /// The wildcards and patterns of a copy.
    fn of(copy: &FileActionCopy) -> Self {
        let mut sum = Self::default();
        patterns(copy).for_each(|pattern| sum.add(Self { count: 1, cost: cost(pattern) }));
        sum
    }

    fn add(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.cost = self.cost.saturating_add(other.cost);
    }

    fn judge(self, count_max: usize, cost_max: usize, of: &str) -> Result<(), Fault> {
        if self.count > count_max || self.cost > cost_max {
            let text = format!(
                "the build graph is refused: its copies have more than {count_max} wildcards and patterns {of}, or \
                 {cost_max} bytes of these (`COPY *.txt`, `--exclude`, `--parents`; a `**` counts as \
                 {ANY_DIRECTORIES} bytes more)"
            );
            return Err(Fault::new(Reason::GraphDenied, text).hint("copy the directory, or name the files"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::pb::{
        ExecOp, FileAction, FileOp, Input, Mount, SourceOp, file_action::Action,
    };

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
    fn long_ones_count_by_their_bytes() {
        let long = |bytes: usize| FileActionCopy {
            exclude_patterns: vec!["~".repeat(bytes)],
            ..FileActionCopy::default()
        };
        let class = |bytes: usize| wild(&format!("/*[{}]", "~".repeat(bytes - 4)));
        let deep = |times: usize| FileActionCopy {
            include_patterns: vec!["**/".repeat(times)],
            ..FileActionCopy::default()
        };
        for (fits, does_not) in [(long(512), long(513)), (class(512), class(513)), (deep(46), deep(47))] {
            let judged = |copy: &FileActionCopy, from: &str| {
                let mut patterns = Patterns::default();
                patterns.add("image", &source("docker-image://wharf.invalid/h/1:1"), &|| None).unwrap();
                copies(&mut patterns, "1", from, vec![copy.clone()])
            };
            assert!(judged(&fits, "image").is_ok());
            assert!(judged(&does_not, "image").is_err(), "{does_not:?}");
            assert!(judged(&does_not, "context").is_ok());
        }
        let mut patterns = Patterns::default();
        assert!(copies(&mut patterns, "1", "context", vec![long(4096); 4]).is_ok());
        assert!(copies(&mut patterns, "2", "context", vec![long(1)]).is_err());
    }

    #[test]
    fn copies_name_few_files_of_images() {
        let graph = || {
            let mut patterns = Patterns::default();
            patterns.add("image", &source("docker-image://wharf.invalid/h/1:1"), &|| None).unwrap();
            patterns
        };
        let plain = |src: &str| FileActionCopy { allow_wildcard: false, ..wild(src) };
        let mut patterns = graph();
        assert!(copies(&mut patterns, "1", "image", vec![plain("/f"); 256]).is_ok());
        assert!(copies(&mut patterns, "2", "image", vec![plain("/"); 1000]).is_ok(), "the whole image");
        assert!(copies(&mut patterns, "3", "context", vec![plain("/f"); 1000]).is_ok());
        assert!(copies(&mut patterns, "4", "image", vec![plain("/f")]).is_err());
        let mount = |selector: &str| Mount { selector: selector.to_owned(), ..Mount::default() };
        let exec = |mounts: Vec<Mount>| Op {
            op: Some(op::Op::Exec(ExecOp { mounts, ..ExecOp::default() })),
            inputs: vec![Input { digest: "image".to_owned(), index: 0 }],
            ..Op::default()
        };
        let mut patterns = graph();
        assert!(copies(&mut patterns, "1", "image", vec![plain("/f"); 255]).is_ok());
        assert!(patterns.add("2", &exec(vec![mount("/d"), mount("")]), &|| None).is_ok());
        assert!(patterns.add("3", &exec(vec![mount("/d")]), &|| None).is_err());
    }

    #[test]
    fn an_image_has_no_more_under_several_names() {
        let mut patterns = Patterns::default();
        for name in ["one", "two"] {
            let brought = format!("docker-image://wharf.invalid/{name}/1:1");
            patterns.add(name, &source(&brought), &|| None).unwrap();
        }
        assert!(copies(&mut patterns, "1", "one", vec![wild("/*"); 20]).is_ok());
        assert!(copies(&mut patterns, "2", "two", vec![wild("/*"); 20]).is_err());
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
            assert!(copies(&mut of_image, "2", "image", vec![wild(src); 12]).is_ok());
            assert!(copies(&mut of_image, "3", "image", vec![wild(src)]).is_err(), "{src}");
            assert!(copies(&mut of_image, "4", "image", vec![wild("/plain"); 200]).is_ok());
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
