//! Limits the work of BuildKit's with a context's entries: it matches each path with each wildcard and pattern of the copies,
//! and writes the index of all entries again for each directory that they name (`cache/contenthash`, `save`). Both go on
//! after a cancel, on the processors of the engine.

use bollard_buildkit_proto::pb::FileActionCopy;

use super::copies::{WILDCARDS, cost, patterns};

/// The most names times entries: a minute of a processor, and some gigabytes of writes.
const NAMED_MAX: usize = 1 << 25;
/// The most bytes of wildcards times bytes of paths: a minute of a processor.
const MATCHED_MAX: usize = 1 << 34;
/// The copies of a graph from the build's own context and stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Matching {
    /// How many files and directories they name.
    names: usize,
    /// The bytes of their wildcards and patterns that are compared with a path.
    bytes: usize,
}

impl Matching {
    /// Adds the source of a copy.
    pub(super) fn add(&mut self, copy: &FileActionCopy) {
        self.names = self.names.saturating_add(usize::from(copy.src != "/"));
        self.bytes = patterns(copy).map(compared).fold(self.bytes, usize::saturating_add);
    }

    /// Whether a context of so many entries, with so many bytes in their paths, is too much for the copies; the reason.
    pub fn refuses(self, entries: usize, paths: usize) -> Option<&'static str> {
        if entries.saturating_mul(self.names) > NAMED_MAX {
            return Some(
                "the context has too many files for a Dockerfile that copies so many by name: copy directories, or leave \
                 files out with .dockerignore",
            );
        }
        (paths.saturating_mul(self.bytes) > MATCHED_MAX).then_some(
            "the context has too many files for the wildcards and patterns of the Dockerfile's copies (`COPY *.txt`, \
             `--exclude`, `--parents`): copy directories, or leave files out with .dockerignore",
        )
    }
}

/// The cost of a pattern for each byte of a path: a plain beginning is compared once.
fn compared(pattern: &str) -> usize {
    pattern.find(WILDCARDS).and_then(|at| pattern.get(at..)).map_or(0, cost)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sources: &[String]) -> Matching {
        let mut matching = Matching::default();
        for src in sources {
            let copy = FileActionCopy { src: src.clone(), allow_wildcard: true, ..FileActionCopy::default() };
            matching.add(&copy);
        }
        matching
    }

    #[test]
    fn the_work_counts_not_the_pieces() {
        let classes = of(&vec![format!("c/*[{}]", "~".repeat(490)); 32]);
        assert_eq!(classes.refuses(1000, 204_000), None);
        assert!(classes.refuses(6000, 6000 * 204).is_some_and(|why| why.contains("wildcards")));
        let names = of(&(0..300).map(|name| format!("d{name}")).collect::<Vec<_>>());
        assert_eq!(names.refuses(39_000, 39_000 * 10), None);
        assert!(names.refuses(200_000, 200_000 * 10).is_some_and(|why| why.contains("by name")));
        let excluded =
            FileActionCopy { exclude_patterns: vec!["**/".repeat(1000)], ..FileActionCopy::default() };
        let mut deep = Matching::default();
        deep.add(&excluded);
        assert!(deep.refuses(20_000, 20_000 * 100).is_some());
    }

    /// Packages of a large repository, each with a copy of its own.
    #[test]
    fn real_contexts_are_not_refused() {
        let packages =
            of(&(0..60).map(|name| format!("packages/package-{name}/package*.json")).collect::<Vec<_>>());
        assert_eq!(packages.refuses(400_000, 400_000 * 60), None);
        let all = of(&["/".to_owned()]);
        assert_eq!(all.refuses(2 << 20, 256 << 20), None);
    }
}
