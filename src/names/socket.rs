//! The path of a Unix socket, as `unix:///PATH`.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use super::printable;

/// `sun_path` has 108 bytes, the last of them a NUL (unix(7)).
const PATH_BYTES_MAX: usize = 107;

/// The absolute path of a Unix socket, written `unix:///PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct SocketPath(PathBuf);

/// The reason for refusing a socket's address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum SocketPathError {
    #[error("`{0}` is not a Unix socket's address; write it as `unix:///PATH`")]
    Shape(String),
    #[error("`{0}`: `{1}://` is not supported, only `unix:///PATH`")]
    Scheme(String, String),
    #[error("`{0}` is relative; write the whole path: `unix:///PATH`")]
    Relative(String),
    #[error("`{0}` has {1} bytes; the path of a Unix socket has at most 107")]
    TooLong(String, usize),
    #[error("`{0}` names a directory")]
    Directory(String),
    #[error("`{0}` has a control character")]
    Control(String),
}

impl SocketPath {
    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for SocketPath {
    type Err = SocketPathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || printable(text);
        let path = match text.split_once("://") {
            Some(("unix", path)) => path,
            Some((scheme, _)) => return Err(SocketPathError::Scheme(shown(), printable(scheme))),
            None => return Err(SocketPathError::Shape(shown())),
        };
        if path.len() > PATH_BYTES_MAX {
            Err(SocketPathError::TooLong(shown(), path.len()))
        } else if path.chars().any(char::is_control) {
            Err(SocketPathError::Control(shown()))
        } else if path.is_empty() {
            Err(SocketPathError::Shape(shown()))
        } else if !path.starts_with('/') {
            Err(SocketPathError::Relative(shown()))
        } else if path.ends_with('/') || path.ends_with("/.") || path.ends_with("/..") {
            Err(SocketPathError::Directory(shown()))
        } else {
            Ok(Self(PathBuf::from(path)))
        }
    }
}

impl TryFrom<String> for SocketPath {
    type Error = SocketPathError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for SocketPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_unix_and_an_absolute_path() {
        let socket: SocketPath = "unix:///run/wharf/wharf.sock".parse().unwrap();
        assert_eq!(socket.as_path(), Path::new("/run/wharf/wharf.sock"));
        assert_eq!(socket.to_string(), "unix:///run/wharf/wharf.sock");
    }

    #[test]
    fn what_is_not_says_why() {
        let error = |text: &str| text.parse::<SocketPath>().unwrap_err();
        assert!(matches!(error("tcp://1.2.3.4:2375"), SocketPathError::Scheme(_, scheme) if scheme == "tcp"));
        assert!(matches!(error("/run/x.sock"), SocketPathError::Shape(_)));
        assert!(matches!(error("unix://"), SocketPathError::Shape(_)));
        assert!(matches!(error("unix://run/x.sock"), SocketPathError::Relative(_)));
        assert!(matches!(error("unix:///run/"), SocketPathError::Directory(_)));
        assert!(matches!(error("unix:///a\0b"), SocketPathError::Control(_)));
        assert!(matches!(error(&format!("unix:///{}", "a".repeat(107))), SocketPathError::TooLong(_, 108)));
    }
}
