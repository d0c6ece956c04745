//! Patterns of the URLs that builds fetch.

use std::fmt;

use super::printable;

/// A pattern of URLs: a host, `files.example.com` or `files.example.com:8080`, or all URLs of a host below a path,
/// `https://files.example.com/team/*`; `*` alone is every URL of a public host.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct UrlPattern(Urls);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Urls {
    Any,
    Host { host: String, port: Option<u16> },
    Below { scheme: Scheme, host: String, port: u16, path: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

/// A URL in the only form in which a pattern takes it: every reader finds the same host, port and path.
struct Plain<'a> {
    scheme: Scheme,
    host: String,
    port: u16,
    path: &'a str,
}

/// How a pattern allows a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Whatever public host it is.
    Public,
    /// As the host that the pattern names, which may be a private one.
    Named,
}

impl UrlPattern {
    /// The pattern that matches every URL of a public host.
    pub fn any() -> Self {
        Self(Urls::Any)
    }

    /// How the pattern allows `url`; `None` if it does not match. Only `*` matches a URL that another program could
    /// read in another way: with user information, `%`, `\`, or `..` in its path.
    pub fn allows(&self, url: &str) -> Option<Allowed> {
        let matches = match (&self.0, Plain::of(url)) {
            (Urls::Any, _) => return Some(Allowed::Public),
            (_, None) => false,
            (Urls::Host { host, port }, Some(plain)) => {
                plain.host == *host && plain.port == port.unwrap_or(plain.scheme.port())
            }
            (Urls::Below { scheme, host, port, path }, Some(plain)) => {
                (plain.scheme, &plain.host, plain.port) == (*scheme, host, *port)
                    && plain.is_direct()
                    && plain.path.starts_with(path)
            }
        };
        matches.then_some(Allowed::Named)
    }
}

impl Scheme {
    fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl<'a> Plain<'a> {
    fn of(url: &'a str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (host, port) = host_and_port(authority)?;
        let path = rest.split(['?', '#']).next().unwrap_or_default();
        Some(Self { scheme, host, port: port.unwrap_or(scheme.port()), path })
    }

    /// Whether the path leads nowhere but down, for any server.
    fn is_direct(&self) -> bool {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@/".contains(&byte);
        self.path.bytes().all(plain)
            && self.path.split('/').skip(1).all(|segment| !matches!(segment, "." | ".."))
            && !self.path.contains("//")
    }
}

/// A host in lower case, and a port. No user information, and no other way of writing a host.
fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
            (host, Some(port.parse().ok().filter(|_| digits)?))
        }
        _ => (authority, None),
    };
    let is_name = |host: &str| {
        let part = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        host.split('.').all(part)
    };
    let is_address = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    (is_address || is_name(host)).then(|| (host.to_ascii_lowercase(), port))
}

impl TryFrom<String> for UrlPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = || {
            format!(
                "`{}` is neither a host, as in `files.example.com`, nor a URL with a path, as in \
                 `https://files.example.com/team/*`, nor `*`",
                printable(&text)
            )
        };
        if text == "*" {
            return Ok(Self::any());
        }
        if !text.contains("://") {
            let (host, port) = host_and_port(&text).ok_or_else(wrong)?;
            return Ok(Self(Urls::Host { host, port }));
        }
        let above = text.strip_suffix('*').filter(|above| above.ends_with('/')).ok_or_else(wrong)?;
        let plain = Plain::of(above).filter(|plain| plain.is_direct() && !above.contains(['?', '#']));
        let Plain { scheme, host, port, path } =
            plain.filter(|plain| !plain.path.contains('*')).ok_or_else(wrong)?;
        Ok(Self(Urls::Below { scheme, host, port, path: path.to_owned() }))
    }
}

impl fmt::Display for UrlPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Urls::Any => f.write_str("*"),
            Urls::Host { host, port: None } => f.write_str(host),
            Urls::Host { host, port: Some(port) } => write!(f, "{host}:{port}"),
            Urls::Below { scheme, host, port, path } if *port == scheme.port() => {
                write!(f, "{}://{host}{path}*", scheme.as_str())
            }
            Urls::Below { scheme, host, port, path } => {
                write!(f, "{}://{host}:{port}{path}*", scheme.as_str())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(pattern: &str, url: &str) -> bool {
        UrlPattern::try_from(pattern.to_owned()).unwrap().allows(url).is_some()
    }

    #[test]
    fn a_host_is_that_host_on_its_port() {
        for url in [
            "https://files.example/a",
            "http://FILES.example",
            "https://files.example:443/",
            "http://files.example?x",
        ] {
            assert!(allows("files.example", url), "{url}");
            assert!(!allows("files.example:8080", url), "{url}");
        }
        for url in [
            "https://files.example:8443/a",
            "https://files.example.evil/",
            "https://evil/files.example",
            "https://files.example@evil/",
            "https://evil@files.example/",
            "https://files.example\\@evil/",
            "https://evil#@files.example/",
            "https://files.example./",
            "https://files.example:/",
            "https://files.example:+443/",
            "https://files%2eexample/",
            "https://xfiles.example/",
            "HTTPS://files.example/",
            "ftp://files.example/",
            "//files.example/",
            "files.example",
        ] {
            assert!(!allows("files.example", url), "{url}");
            assert!(allows("*", url));
        }
        assert!(allows("127.0.0.1:80", "http://127.0.0.1/") && allows("[::1]", "https://[::1]/x"));
        assert!(!allows("127.0.0.1", "http://127.1/") && !allows("127.0.0.1", "http://2130706433/"));
    }

    #[test]
    fn a_path_is_not_left() {
        let team = "https://files.example/team/*";
        for url in [
            "https://files.example/team/a",
            "https://Files.example:443/team/a/b?x=../y",
            "https://files.example/team/",
        ] {
            assert!(allows(team, url), "{url}");
        }
        for url in [
            "http://files.example/team/a",
            "https://files.example/teams/a",
            "https://files.example/team",
            "https://files.example/team/../other",
            "https://files.example/team/%2e%2e/other",
            "https://files.example/team/..%2fother",
            "https://files.example/team/..\\other",
            "https://files.example/team/..;/other",
            "https://files.example/team//../other",
            "https://files.example/other?/team/",
            "https://files.example/./team/a",
        ] {
            assert!(!allows(team, url), "{url}");
        }
    }

    #[test]
    fn what_is_not_a_pattern_says_so() {
        for text in [
            "",
            "**",
            "*.example.com",
            "files.example/team",
            "https://files.example",
            "https://files.example/team",
            "https://files.example/team*",
            "https://files.example/*/a/*",
            "https://a@files.example/*",
            "https://files.example/../*",
            "https://files.example/?/*",
            "ftp://files.example/*",
            "a b",
        ] {
            assert!(UrlPattern::try_from(text.to_owned()).is_err(), "{text}");
        }
        for text in
            ["files.example", "files.example:8080", "https://files.example/team/*", "http://a:81/*", "*"]
        {
            assert_eq!(UrlPattern::try_from(text.to_owned()).unwrap().to_string(), text);
        }
    }
}
