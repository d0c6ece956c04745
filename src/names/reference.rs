//! Image references, by the grammar of `distribution/reference`.

use std::fmt;

/// The reference grammar's limit on a repository's name, including the host.
pub const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;
const DEFAULT_HOST: &str = "docker.io";

/// A full reference: `docker.io/library/busybox:latest`, optionally with a digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A sha256 digest: `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

/// The reason for refusing a reference.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ReferenceError {
    #[error("the image reference is empty")]
    Empty,
    #[error("`{0}` is not an image reference: repository names are lower case; try `{1}`")]
    UpperCase(String, String),
    #[error(
        "`{0}` is not an image reference: `{1}` is not a valid tag (letters, digits, `_`, `.`, `-`; at most \
         {max})",
        max = TAG_BYTES_MAX
    )]
    Tag(String, String),
    #[error("`{0}` is not an image reference: a tag has no `/`; try `{1}`")]
    SlashInTag(String, String),
    #[error("`{0}` is not an image reference: its digest must be `sha256:` and 64 hexadecimal digits")]
    Digest(String),
    #[error("`{0}` is not an image reference: 64 hexadecimal digits are an image's id")]
    Id(String),
    #[error("`{0}` is not an image reference: a repository's name has at most {max} bytes", max = NAME_BYTES_MAX)]
    TooLong(String),
    #[error("`{0}` is not an image reference: write it as `[host[:port]/]name[:tag]`")]
    Shape(String),
}

impl Reference {
    /// Reads a reference as `docker` does: `app` is `docker.io/library/app`. It adds neither a tag nor a
    /// digest; see [`Reference::tagged`].
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let shown = || crate::names::printable(text);
        // Docker refuses it, too: who means the image with this id would get the one of this name.
        if text.len() == 64 && are_hex_digits(text) {
            return Err(ReferenceError::Id(shown()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(Digest::parse(digest).ok_or_else(|| ReferenceError::Digest(shown()))?))
            }
            None => (text, None),
        };
        // A colon after the last slash begins a tag; a colon before it begins a port.
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest.get(last..).and_then(|tail| tail.find(':')) {
            Some(colon) => {
                let (name, tag) = rest.split_at(last + colon);
                (name, tag.strip_prefix(':'))
            }
            None => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(ReferenceError::Tag(shown(), crate::names::printable(tag)));
        }
        let (host, path) = match name.split_once('/') {
            Some((first, path)) if is_host_like(first) => (first, path.to_owned()),
            _ if name.contains('/') => (DEFAULT_HOST, name.to_owned()),
            _ => (DEFAULT_HOST, format!("library/{name}")),
        };
        let host = if host == "index.docker.io" { DEFAULT_HOST } else { host };
        let path = if host == DEFAULT_HOST && !path.contains('/') { format!("library/{path}") } else { path };
        if !is_host(host) {
            return Err(slash_in_tag(text).unwrap_or_else(|| ReferenceError::Shape(shown())));
        }
        if !is_path(&path) {
            let lower = path.to_lowercase();
            return Err(if lower != path && is_path(&lower) {
                ReferenceError::UpperCase(shown(), text.replace(name, &name.to_lowercase()))
            } else {
                slash_in_tag(text).unwrap_or_else(|| ReferenceError::Shape(shown()))
            });
        }
        if host.len() + 1 + path.len() > NAME_BYTES_MAX {
            return Err(ReferenceError::TooLong(shown()));
        }
        Ok(Self { host: host.to_owned(), path, tag: tag.map(str::to_owned), digest })
    }

    /// Adds the tag `latest` if the reference has neither a tag nor a digest.
    #[must_use]
    pub fn tagged(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// Replaces the tag with `digest`.
    #[must_use]
    pub fn at(&self, digest: &Digest) -> Self {
        Self { tag: None, digest: Some(digest.clone()), ..self.clone() }
    }

    /// The registry's host: `docker.io`, `registry.example:5000`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository's path at its registry: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The full repository: `docker.io/library/busybox`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The reference as `docker images` shows it: without `docker.io/library/` or `docker.io/`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let short = full.strip_prefix("docker.io/library/").or_else(|| full.strip_prefix("docker.io/"));
        short.unwrap_or(&full).to_owned()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether a text is one or more lower-case hexadecimal digits, as a digest and the beginning of an id are.
pub fn are_hex_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl Digest {
    /// Reads `sha256:` and 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:")?;
        let valid = hex.len() == 64 && are_hex_digits(hex);
        valid.then(|| Self(text.to_owned()))
    }

    /// Makes a digest from its 32 bytes.
    pub fn from_sha256(bytes: [u8; 32]) -> Self {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Self(format!("sha256:{hex}"))
    }

    /// `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the part before the first slash is a host and not the first component of a path.
fn is_host_like(first: &str) -> bool {
    first.contains(['.', ':', '['])
        || first == "localhost"
        || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    let port_valid =
        port.is_none_or(|port| port.parse::<u16>().is_ok() && port.bytes().all(|byte| byte.is_ascii_digit()));
    let name_valid = match name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(|part| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !part.starts_with('-')
                && !part.ends_with('-')
        }),
    };
    port_valid && name_valid
}

fn is_path(path: &str) -> bool {
    path.split('/').all(is_path_component)
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().is_some_and(alphanumeric) || !bytes.last().is_some_and(alphanumeric) {
        return false;
    }
    bytes.split(alphanumeric).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-')
    })
}

/// The error for a reference that would be valid without the slashes in its tag, such as `app:feature/x`
/// from a branch name.
fn slash_in_tag(text: &str) -> Option<ReferenceError> {
    let (name, tag) = text.rsplit_once(':')?;
    // It looks like a port, but is not a number.
    if !name.contains('/') && is_host_like(name) {
        return None;
    }
    let tried = format!("{name}:{}", tag.replace('/', "-"));
    let sound = tag.contains('/') && Reference::parse(&tried).is_ok();
    sound.then(|| ReferenceError::SlashInTag(crate::names::printable(text), tried))
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= TAG_BYTES_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(text: &str) -> String {
        Reference::parse(text).unwrap().to_string()
    }

    #[test]
    fn short_names_are_completed_as_docker_does() {
        assert_eq!(full("busybox"), "docker.io/library/busybox");
        assert_eq!(full("acme/app:1"), "docker.io/acme/app:1");
        assert_eq!(full("docker.io/busybox"), "docker.io/library/busybox");
        assert_eq!(full("index.docker.io/busybox"), "docker.io/library/busybox");
        assert_eq!(full("localhost/app"), "localhost/app");
        assert_eq!(full("127.0.0.1:5000/a/b:V_1.x-2"), "127.0.0.1:5000/a/b:V_1.x-2");
        assert_eq!(full("[::1]:5000/app"), "[::1]:5000/app");
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(full(&format!("app:1@{digest}")), format!("docker.io/library/app:1@{digest}"));
        assert_eq!(Reference::parse("app").unwrap().tagged().familiar(), "app:latest");
    }

    #[test]
    fn what_is_not_a_reference_says_why() {
        let error = |text: &str| Reference::parse(text).unwrap_err();
        assert_eq!(error(""), ReferenceError::Empty);
        assert_eq!(error("acme/Bar"), ReferenceError::UpperCase("acme/Bar".into(), "acme/bar".into()));
        assert!(matches!(error("app:"), ReferenceError::Tag(..)));
        assert!(matches!(error("app:-x"), ReferenceError::Tag(..)));
        assert!(matches!(error("app@sha256:1"), ReferenceError::Digest(_)));
        for (branch, tried) in
            [("app:a/b", "app:a-b"), ("x.y:1/app:a/b", "x.y:1/app:a-b"), ("team/app:a/b/c", "team/app:a-b-c")]
        {
            assert_eq!(error(branch), ReferenceError::SlashInTag(branch.into(), tried.into()));
        }
        for shape in ["/app", "a//b", "a/", "-a", "a.-b/c", "a b", "app\n", "x.y:99999/app", "a___b"] {
            assert!(matches!(error(shape), ReferenceError::Shape(_)), "{shape:?}: {:?}", error(shape));
        }
        assert!(matches!(error(&format!("x.y/{}", "a".repeat(255))), ReferenceError::TooLong(_)));
        assert!(matches!(error(&"0a".repeat(32)), ReferenceError::Id(_)));
        for name in [format!("{}:1", "a".repeat(64)), "a".repeat(63), "A".repeat(63).to_lowercase() + "x"] {
            assert!(Reference::parse(&name).is_ok(), "{name}");
        }
    }
}
