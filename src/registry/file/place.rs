//! The places of files: URLs that a job or a server chose.

use http::{HeaderValue, Uri};

use super::super::{auth, proxy::unescaped, reach::Origin};

/// A URL, read as the request that is made for it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) origin: Origin,
    /// Before the host, up to and with the `@`; empty if there is nothing.
    user: String,
    /// The path and the query.
    pub(super) path: String,
}

impl Place {
    /// Reads a URL; `None` if it is not one that `ADD` fetches.
    pub(super) fn read(url: &str) -> Option<Self> {
        let url = url.split('#').next()?;
        let uri: Uri = url.parse().ok()?;
        let authority = uri.authority()?.as_str();
        let at = authority.rfind('@').map_or(0, |at| at + 1);
        let (user, host) = authority.split_at(at);
        let origin = Origin::parse(uri.scheme_str()?, host)?;
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Some(Self { origin, user: user.to_owned(), path })
    }

    /// The place to which a server sends wharfd from here, as Go reads it.
    pub(super) fn to(&self, location: &[u8]) -> Option<Self> {
        let location: String = location.iter().map(escaped).collect();
        let location = location.split('#').next()?;
        let scheme = location.find("://").map(|end| location.split_at(end).0);
        if scheme.is_some_and(|scheme| scheme.bytes().all(|byte| byte.is_ascii_alphabetic())) {
            let place = Self::read(location)?;
            return Some(Self { path: without_dots(&place.path), ..place });
        }
        if location.starts_with("//") {
            let place = Self::read(&format!("{}:{location}", self.scheme()))?;
            return Some(Self { path: without_dots(&place.path), ..place });
        }
        let here = self.path.split('?').next().unwrap_or_default();
        let path = match location.chars().next() {
            None => self.path.clone(),
            Some('/') => without_dots(location),
            Some('?') => format!("{here}{location}"),
            Some(_) => {
                without_dots(&format!("{}/{location}", here.rsplit_once('/').map_or("", |(up, _)| up)))
            }
        };
        Self::read(&format!("{}://{}{}{path}", self.scheme(), self.user, self.origin.authority()))
    }

    fn scheme(&self) -> &'static str {
        if self.origin.secure { "https" } else { "http" }
    }

    /// The whole URL, with what logs in.
    pub(super) fn url(&self) -> String {
        format!("{}://{}{}{}", self.scheme(), self.user, self.origin.authority(), self.path)
    }

    /// The URL without its query.
    pub(super) fn bare(&self) -> String {
        let url = self.url();
        url.split('?').next().unwrap_or_default().to_owned()
    }

    /// The login in the URL, for its own server.
    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        let login = self.user.strip_suffix('@')?;
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        auth::basic(&unescaped(user), &unescaped(password))
    }
}

/// A byte as it stands in a URL.
fn escaped(byte: &u8) -> String {
    match byte {
        b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => format!("%{byte:02X}"),
        byte if byte.is_ascii_graphic() => char::from(*byte).to_string(),
        byte => format!("%{byte:02X}"),
    }
}

/// A path without `.` and `..`.
fn without_dots(path: &str) -> String {
    let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    let mut kept: Vec<&str> = Vec::new();
    let mut names = path.split('/').skip(1).peekable();
    while let Some(name) = names.next() {
        let is_last = names.peek().is_none();
        match name {
            "." => {}
            ".." => drop(kept.pop()),
            name => kept.push(name),
        }
        if is_last && matches!(name, "." | "..") {
            kept.push("");
        }
    }
    format!("/{}{query}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_server_a_path_and_a_login() {
        let read = |url: &str| Place::read(url).map(|place| (place.origin.authority(), place.path));
        for (url, authority, path) in [
            ("https://Files.example", "files.example", "/"),
            ("https://files.example:444/a?b#c", "files.example:444", "/a?b"),
            ("http://user:p%40@files.example/a", "files.example", "/a"),
            ("http://[::1]:8080?x", "[::1]:8080", "/?x"),
        ] {
            assert_eq!(read(url), Some((authority.to_owned(), path.to_owned())), "{url}");
        }
        for bad in ["", "files.example/a", "ftp://a/b", "https://", "http://127.1/", "http://0x7f000001/"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        let login = Place::read("http://user:p%40@files.example/a").unwrap().authorization().unwrap();
        assert_eq!(login.to_str().unwrap(), "Basic dXNlcjpwQA==");
        assert!(login.is_sensitive() && Place::read("http://a/").unwrap().authorization().is_none());
    }

    #[test]
    fn a_server_sends_to_another_place() {
        let from = Place::read("http://u:p@a.example/d/e/f?q").unwrap();
        for (location, url) in [
            ("https://b.example/x/../y", "https://b.example/y"),
            ("//b.example/y", "http://b.example/y"),
            ("HTTPS://v@b.example", "https://v@b.example/"),
            ("/y?z#w", "http://u:p@a.example/y?z"),
            ("g", "http://u:p@a.example/d/e/g"),
            ("../g/./h?i=../j", "http://u:p@a.example/d/g/h?i=../j"),
            ("../../../..", "http://u:p@a.example/"),
            ("?r", "http://u:p@a.example/d/e/f?r"),
            ("", "http://u:p@a.example/d/e/f?q"),
            ("a b\u{e9}", "http://u:p@a.example/d/e/a%20b%C3%A9"),
            ("/go?to=http://b.example/", "http://u:p@a.example/go?to=http://b.example/"),
        ] {
            assert_eq!(
                from.to(location.as_bytes()).map(|place| place.url()).as_deref(),
                Some(url),
                "{location}"
            );
        }
        for bad in ["file:///etc/passwd", "ftp://b.example/", "http:///x", "http://127.1/"] {
            assert!(from.to(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
