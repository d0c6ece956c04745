//! How BuildKit reads the sources of an `ADD`.

use crate::names::percent_bytes;

/// Whether the Dockerfile frontend takes `source` for a Git repository (`ParseGitRef` of BuildKit 0.13 to 0.34).
pub fn is_git(source: &str) -> bool {
    let is_of = |text: &str, also: &[u8]| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || also.contains(&byte))
    };
    if let Some((scheme, rest)) = source.split_once("://").filter(|(scheme, _)| is_of(scheme, b"")) {
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let path = rest.split_once('/').map_or("", |(_, path)| path);
        return match scheme.to_ascii_lowercase().as_str() {
            "git" | "ssh" => true,
            // Go decodes the path, which need not be UTF-8.
            "http" | "https" => percent_bytes(path).is_some_and(|path| path.ends_with(b".git")),
            _ => false,
        };
    }
    // `git@host:path`
    let host = source.split_once('@').filter(|(user, _)| is_of(user, b"-_"));
    host.and_then(|(_, rest)| rest.split_once(':')).is_some_and(|(host, _)| is_of(host, b"-."))
}

/// The host that means the session of a build, in any URL (`source/http` in BuildKit).
pub const SESSION_HOST: &str = "buildkit-session";

/// Whether a URL has one of the schemes that BuildKit fetches.
pub fn is_http(url: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme))
}

/// The host of a URL that `ADD` fetches, an IPv6 address without its brackets; `None` if it is not such a
/// URL.
pub fn host(url: &str) -> Option<String> {
    let uri = url.parse::<http::Uri>().ok().filter(|_| is_http(url))?;
    let host = uri.host().filter(|host| !host.is_empty())?;
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    Some(bare.unwrap_or(host).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_buildkit_takes_for_a_repository_is_git() {
        for git in [
            "git://a/b",
            "GIT://a/b",
            "ssh://a/b",
            "git@a:b",
            "deploy@a.example:b",
            "d-e_p@a:b#main:dir",
            "git@a://b",
            "https://a/b.git",
            "Https://a/b.git",
            "https://user:p@a:1/b.git",
            "http://a/b.git#main:dir",
            "https://a/b.git?ref=x",
            "https://a/.git",
            "https://a/b%2Egit",
            "https://a/b.%67i%74",
            "https://a/%ff.git",
        ] {
            assert!(is_git(git), "{git}");
        }
        for other in [
            "",
            "a:b",
            "file",
            "./git@a:b",
            "@a:b",
            "git@:b",
            "git@a/b:c",
            "g.t@a:b",
            "ftp://a/b.git",
            "https://a.git",
            "https://a.git?x",
            "https://a/b.git/archive.tar",
            "https://a/?x=b.git",
            "https://a/#b.git",
            "https://a?/b.git",
            "https://git@a/b",
            "https://a/b%252Egit",
            "https://a/%zz.git",
        ] {
            assert!(!is_git(other), "{other}");
        }
    }

    #[test]
    fn a_url_has_a_host() {
        for (url, expected) in [
            ("https://[::1]:8080/x", "::1"),
            ("http://user:p@files.example/x", "files.example"),
            ("https://127.1?x", "127.1"),
        ] {
            assert_eq!(host(url).as_deref(), Some(expected), "{url}");
        }
        for wrong in
            ["", "a.example", "ftp://a/b", "HTTPS://a/b", "https://", "/file", "https:///x", "http://:1/"]
        {
            assert_eq!(host(wrong), None, "{wrong}");
        }
    }
}
