//! The frontend that reads a Dockerfile, and the version of BuildKit that it belongs to.

use super::lines::{self, Version};

/// The frontend that reads a build's Dockerfile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Frontend {
    /// The one that wharfd brings, in a container: a text costs the build alone, in whatever way it is read.
    #[default]
    Contained,
    /// BuildKit's own, inside the engine's process. Its version is BuildKit's, major and minor, if that is known.
    Builtin(Option<(u32, u32)>),
}

impl Frontend {
    pub(super) fn is_builtin(self) -> bool {
        self != Self::Contained
    }

    /// Whether it may be BuildKit's own from before 0.`minor`.
    pub(super) fn is_builtin_before(self, minor: u32) -> bool {
        matches!(self, Self::Builtin(version) if version.is_none_or(|version| version < (0, minor)))
    }

    /// The ways in which it may read a text.
    pub(super) fn versions(self) -> impl Iterator<Item = Version> {
        let only = match self {
            Self::Contained => Version::ALL.last().copied(),
            Self::Builtin(version) => version.map(Version::of),
        };
        Version::ALL.into_iter().filter(move |version| only.is_none_or(|only| *version == only))
    }

    /// The same, but only the first of those that read `text` alike.
    pub(super) fn readings(self, text: &[u8]) -> impl Iterator<Item = Version> {
        let mut last = None;
        self.versions().filter(move |version| {
            let differs = last.is_none_or(|last| !lines::read(text, last).eq(lines::read(text, *version)));
            last = if differs { Some(*version) } else { last };
            differs
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{builtin, judge},
        *,
    };
    use crate::build::dockerfile::ReadingRules;

    #[test]
    fn an_engine_of_a_known_version_is_asked_for_that_version_alone() {
        let empty = "FROM x\nCOPY ${PATH#} /\n".to_owned();
        let alone = "ARG a\n".to_owned();
        // In old versions the blank ends the name of the here-document, and its lines are instructions.
        let blank = format!("FROM x\nRUN << E\nENV a=aaaaaaaaaaaaaaaa\n{}E\n", "ENV a=$a$a\n".repeat(25));
        for (text, last, why) in
            [(empty, 13, "may be empty"), (alone, 14, "no `FROM`"), (blank, 21, "the value of a variable")]
        {
            for frontend in [
                Frontend::Builtin(Some((0, 13))),
                Frontend::Builtin(Some((0, last))),
                Frontend::Builtin(None),
            ] {
                let refused =
                    judge(text.as_bytes(), ReadingRules { frontend, ..ReadingRules::default() }).unwrap_err();
                assert!(refused.contains(why), "{frontend:?}: {refused}");
            }
            for version in [(0, last + 1), (0, 33), (1, 0)] {
                assert_eq!(judge(text.as_bytes(), builtin(version)), Ok(()), "{why}: {version:?}");
            }
            assert_eq!(judge(text.as_bytes(), ReadingRules::default()), Ok(()), "{why}");
        }
    }
}
