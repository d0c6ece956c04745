//! Patterns of image references.

use std::fmt;

use super::{Pattern, Reference, printable};

/// A pattern of image references. A repository, `docker.io/library/alpine`, or all below a host or a path,
/// `registry.example.com/team/*`; `*` alone is every image. `:TAG` after it, or `:PREFIX*`, also limits the tag.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct ImagePattern {
    repositories: Repositories,
    /// `None` is any tag, and any digest.
    tags: Option<Pattern>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Repositories {
    Any,
    One(String),
    /// All repositories whose names begin with this text; it ends in `/`.
    Below(String),
}

impl ImagePattern {
    /// The pattern that matches every image.
    pub fn any() -> Self {
        Self { repositories: Repositories::Any, tags: None }
    }

    /// Whether the pattern matches `reference`. Hosts are compared as they are written: `reg.example` and
    /// `reg.example:443` are two. A pattern with a tag matches no digest, whose content may have any tag.
    pub fn matches(&self, reference: &Reference) -> bool {
        let repository = reference.repository();
        let is_below = match &self.repositories {
            Repositories::Any => true,
            Repositories::One(name) => repository == *name,
            Repositories::Below(prefix) => repository.starts_with(prefix),
        };
        is_below
            && self.tags.as_ref().is_none_or(|tags| {
                let tag = reference.digest().is_none().then(|| reference.tag().unwrap_or("latest"));
                tag.is_some_and(|tag| tags.matches(tag))
            })
    }
}

impl TryFrom<String> for ImagePattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = |why: String| format!("`{}` is not a pattern of images: {why}", printable(&text));
        // A colon after the last slash begins a tag, a colon before it a port.
        let last = text.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tags) = match text.get(last..).and_then(|tail| tail.split_once(':')) {
            Some((tail, tags)) => (text.get(..last + tail.len()).unwrap_or_default(), Some(tags)),
            None => (text.as_str(), None),
        };
        let tags = tags.map(|tags| {
            let shown = tags.strip_suffix('*').unwrap_or(tags);
            // Only the beginning of a tag is given.
            let is_tag = shown.is_empty() || Reference::parse(&format!("x:{shown}")).is_ok();
            let pattern = tags.parse().ok().filter(|_| is_tag);
            pattern
                .ok_or_else(|| wrong("its tag is neither a tag nor the beginning of one and `*`".to_owned()))
        });
        let tags = tags.transpose()?;
        let repository = |name: &str| {
            let reference = Reference::parse(name).map_err(|error| wrong(error.to_string()))?;
            match reference.digest() {
                None => Ok(reference.repository()),
                Some(_) => Err(wrong("it has a digest".to_owned())),
            }
        };
        let repositories = match name.strip_suffix('*') {
            Some("") => Repositories::Any,
            Some(above) => {
                let above =
                    above.strip_suffix('/').filter(|above| !above.contains('*')).ok_or_else(|| {
                        wrong(
                            "`*` stands for everything below a `/`, as in `registry.example.com/team/*`"
                                .to_owned(),
                        )
                    })?;
                // A path of any repository, to have the rest read as in a reference.
                let below = |path: &str| {
                    let repository = repository(&format!("{above}/{path}"))?;
                    Ok::<_, String>(repository.strip_suffix(path).unwrap_or_default().to_owned())
                };
                // `docker.io/x` is `docker.io/library/x`, but `docker.io/*` is more than `docker.io/library/*`.
                let prefix = if above.contains('/') { below("x") } else { below("x/x") }?;
                Repositories::Below(prefix)
            }
            None if name.contains('*') => {
                return Err(wrong("`*` can only be its last component".to_owned()));
            }
            None => Repositories::One(repository(name)?),
        };
        Ok(Self { repositories, tags })
    }
}

/// The pattern with the host in full: `docker.io/library/alpine`.
impl fmt::Display for ImagePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.repositories {
            Repositories::Any => f.write_str("*")?,
            Repositories::One(name) => f.write_str(name)?,
            Repositories::Below(prefix) => write!(f, "{prefix}*")?,
        }
        match &self.tags {
            Some(tags) => write!(f, ":{tags}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> ImagePattern {
        ImagePattern::try_from(text.to_owned()).unwrap()
    }

    fn matches(text: &str, reference: &str) -> bool {
        pattern(text).matches(&Reference::parse(reference).unwrap())
    }

    #[test]
    fn a_pattern_is_read_as_a_reference_is() {
        for (text, full) in [
            ("alpine", "docker.io/library/alpine"),
            ("acme/app", "docker.io/acme/app"),
            ("acme/*", "docker.io/acme/*"),
            ("docker.io/*", "docker.io/*"),
            ("index.docker.io/*", "docker.io/*"),
            ("docker.io/library/*", "docker.io/library/*"),
            ("docker.io/alpine/*", "docker.io/alpine/*"),
            ("reg.example:5000/*", "reg.example:5000/*"),
            ("localhost/*", "localhost/*"),
            ("[::1]:5000/a/*:v*", "[::1]:5000/a/*:v*"),
            ("reg.example/app:main", "reg.example/app:main"),
            ("reg.example/*:*", "reg.example/*:*"),
            ("*", "*"),
        ] {
            assert_eq!(pattern(text).to_string(), full);
            assert_eq!(pattern(full), pattern(text));
        }
    }

    #[test]
    fn a_pattern_ends_at_a_component() {
        let team = "reg.example/team/*";
        for below in ["reg.example/team/app", "reg.example/team/a/b:1"] {
            assert!(matches(team, below), "{below}");
        }
        for other in [
            "reg.example/team",
            "reg.example/teams/app",
            "reg.example:443/team/app",
            "REG.example/team/app",
            "reg.example.evil/team/app",
            "evil/reg.example/team/app",
            "team/app",
        ] {
            assert!(!matches(team, other), "{other}");
        }
        assert!(matches("reg.example/app", "reg.example/app:1"));
        assert!(
            !matches("reg.example/app", "reg.example/app/x") && !matches("reg.example/app", "reg.example/ap")
        );
        assert!(matches("docker.io/*", "alpine") && matches("docker.io/*", "acme/app"));
        assert!(matches("alpine", "index.docker.io/library/alpine") && !matches("alpine", "acme/alpine"));
        assert!(matches("*", "reg.example/a") && !matches("reg.example/*", "reg.example.evil/a"));
    }

    #[test]
    fn a_tag_limits_and_a_digest_has_none() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let requests = "reg.example/app:pr-*";
        assert!(matches(requests, "reg.example/app:pr-1"));
        for other in ["reg.example/app:main", "reg.example/app", "reg.example/x:pr-1"] {
            assert!(!matches(requests, other), "{other}");
        }
        for pinned in ["reg.example/app@", "reg.example/app:pr-1@"] {
            assert!(!matches(requests, &format!("{pinned}{digest}")), "{pinned}");
            assert!(matches("reg.example/app", &format!("{pinned}{digest}")), "{pinned}");
        }
        assert!(matches("app:latest", "app") && !matches("app:1", "app"));
    }

    #[test]
    fn what_is_not_a_pattern_says_why() {
        for text in [
            "",
            "/",
            "/*",
            "**",
            "*/app",
            "a*",
            "reg.example/team*",
            "reg.example/*/app",
            "reg.example//*",
            "a/B",
            "reg.example/app:",
            "reg.example/app:a*b",
            "reg.example/app:-x",
            "a/*:x/y",
            "*/*",
            "https://reg.example/*",
        ] {
            let refused = ImagePattern::try_from(text.to_owned()).unwrap_err();
            assert!(refused.contains("is not a pattern of images: "), "{text:?}: {refused}");
        }
        let pinned = format!("app@sha256:{}", "a".repeat(64));
        assert!(ImagePattern::try_from(pinned).is_err());
    }
}
