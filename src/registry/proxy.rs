//! Selects the proxy of a request, as Go's `net/http` does for the engine.

use std::net::IpAddr;

use super::reach::Origin;
use crate::config::env;
use crate::policy::is_within;

/// The proxies for each scheme.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Proxies {
    plain: Option<Proxy>,
    secure: Option<Proxy>,
    never: Vec<String>,
}

/// One proxy.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) origin: Origin,
    /// The `Proxy-Authorization` from the user and password in the URL.
    pub(super) authorization: Option<http::HeaderValue>,
}

impl Proxies {
    /// The proxies in `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`.
    pub(super) fn of_environment() -> Self {
        let value = |name: &str| env::value(name).or_else(|| env::value(&name.to_ascii_lowercase()));
        Self::of(
            value(env::HTTP_PROXY).as_deref(),
            value(env::HTTPS_PROXY).as_deref(),
            value(env::NO_PROXY).as_deref(),
        )
    }

    pub(super) fn of(plain: Option<&str>, secure: Option<&str>, never: Option<&str>) -> Self {
        Self {
            plain: plain.and_then(Proxy::parse),
            secure: secure.and_then(Proxy::parse),
            never: never
                .unwrap_or_default()
                .split(',')
                .map(|entry| entry.trim().to_ascii_lowercase())
                .filter(|entry| !entry.is_empty())
                .collect(),
        }
    }

    /// These proxies, or `others` if there are none.
    pub(super) fn or(self, others: Self) -> Self {
        if self.plain.is_none() && self.secure.is_none() { others } else { self }
    }

    /// The proxy for `origin`.
    pub(super) fn for_origin(&self, origin: &Origin) -> Option<&Proxy> {
        let proxy = if origin.secure { self.secure.as_ref() } else { self.plain.as_ref() };
        proxy.filter(|_| !self.is_direct(origin))
    }

    fn is_direct(&self, origin: &Origin) -> bool {
        let host = origin.host.trim_end_matches('.');
        let address: Option<IpAddr> = host.parse().ok();
        if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return true;
        }
        self.never.iter().any(|entry| {
            if entry == "*" {
                return true;
            }
            if let Some((network, bits)) = entry.split_once('/')
                && let (Some(address), Ok(network), Ok(bits)) = (address, network.parse(), bits.parse())
            {
                return is_within(address, network, bits);
            }
            let (name, port) = match entry.rsplit_once(':') {
                Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, port.parse().ok()),
                _ => (entry.as_str(), None),
            };
            if port.is_some_and(|port: u16| port != origin.port) {
                return false;
            }
            let name = name.trim_start_matches('[').trim_end_matches(']');
            if address.is_some() {
                return name == host;
            }
            match name.strip_prefix("*.").or_else(|| name.strip_prefix('.')) {
                Some(domain) => host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')),
                None => host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')),
            }
        })
    }
}

impl Proxy {
    /// Reads a proxy's URL; Go reads a URL without a scheme as HTTP.
    fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.trim().split_once("://").unwrap_or(("http", url.trim()));
        let authority = rest.split(['/', '?', '#']).next()?;
        let (login, authority) = match authority.rsplit_once('@') {
            Some((login, authority)) => (Some(login), authority),
            None => (None, authority),
        };
        let origin = Origin::parse(scheme, authority)?;
        let authorization = match login {
            // The engine hides its proxy's password like this.
            Some("xxxxx:xxxxx") | None => None,
            Some(login) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                super::auth::basic(&unescaped(user), &unescaped(password))
            }
        };
        Some(Self { origin, authorization })
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// Decodes `%41` and the like in a URL.
pub(super) fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.bytes();
    while let Some(byte) = left.next() {
        let mut ahead = left.clone();
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (byte, digit(ahead.next()), digit(ahead.next())) {
            (b'%', Some(high), Some(low)) => {
                bytes.extend(u8::try_from(high * 16 + low));
                left = ahead;
            }
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn what_no_proxy_names_is_asked_directly() {
        let never = "internal.example, .corp.example,10.0.0.0/8,192.0.2.7,other.example:5000";
        let proxies =
            Proxies::of(Some("proxy.example:3128"), Some("http://a%40b:c@proxy.example:3128"), Some(never));
        let through = |scheme: &str, authority: &str| {
            proxies.for_origin(&Origin::parse(scheme, authority).unwrap()).is_some()
        };
        for direct in [
            "localhost:5000",
            "127.0.0.1",
            "[::1]:1",
            "internal.example",
            "a.internal.example:5000",
            "a.corp.example",
            "10.1.2.3:5000",
            "192.0.2.7",
            "other.example:5000",
        ] {
            assert!(!through("https", direct), "{direct}");
        }
        for far in ["corp.example", "notinternal.example", "192.0.2.8", "other.example", "quay.io"] {
            assert!(through("https", far) && through("http", far), "{far}");
        }
        let authorization = proxies.secure.unwrap().authorization.unwrap();
        assert_eq!(authorization.to_str().unwrap(), "Basic YUBiOmM=");
        assert!(authorization.is_sensitive());
        let all = Proxies::of(Some("http://proxy:1"), None, Some("*"));
        assert_eq!(all.for_origin(&Origin::parse("http", "x.example").unwrap()), None);
    }
}
