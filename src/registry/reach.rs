//! How an engine reaches registries and which certificates it accepts, from its `/info`.

use std::net::{IpAddr, Ipv6Addr};

use bollard::models::SystemInfo;

use super::{error::Error, proxy::Proxies};
use crate::policy::is_within;

/// Docker Hub's name in references, and the host that serves it.
const HUB: &str = "docker.io";
const HUB_SERVER: &str = "registry-1.docker.io";

/// The registries, as one engine reaches them.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    mirrors: Vec<Endpoint>,
    /// The hosts in `insecure-registries`, with their ports.
    insecure: Vec<String>,
    networks: Vec<Network>,
    pub(super) proxies: Proxies,
}

/// A scheme, host and port: a login is sent only to one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) secure: bool,
    /// An IPv6 address is without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

/// A server of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) origin: Origin,
    /// The path before `/v2/`; mirrors may have one.
    pub(super) prefix: String,
    /// The name of its certificates' directory; contains the port only if the configuration does.
    pub(super) name: String,
    /// Whether it is a mirror, which must not see a login.
    pub(super) is_mirror: bool,
}

/// `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

impl Reach {
    /// The settings in the engine's `/info`. The proxies in wharfd's own environment take precedence.
    pub fn of(info: &SystemInfo) -> Self {
        let config = info.registry_config.clone().unwrap_or_default();
        let indexes = config.index_configs.unwrap_or_default();
        let hub = indexes.get(HUB).and_then(|hub| hub.mirrors.clone()).unwrap_or_default();
        let named = config.mirrors.unwrap_or_default();
        let mirrors = if named.is_empty() { hub } else { named };
        Self {
            mirrors: mirrors.iter().filter_map(|url| Endpoint::mirror(url)).collect(),
            insecure: indexes
                .iter()
                .filter(|(_, index)| index.secure == Some(false))
                .map(|(host, _)| host.to_ascii_lowercase())
                .collect(),
            networks: config
                .insecure_registry_cidrs
                .unwrap_or_default()
                .iter()
                .filter_map(|text| Network::parse(text))
                .collect(),
            proxies: Proxies::of_environment().or(Proxies::of(
                info.http_proxy.as_deref(),
                info.https_proxy.as_deref(),
                info.no_proxy.as_deref(),
            )),
        }
    }

    /// The servers for the images of `host`, as in a reference, in the order of use.
    pub(super) fn endpoints(&self, host: &str) -> Result<Vec<Endpoint>, Error> {
        let (mirrors, server) = if host == HUB { (&*self.mirrors, HUB_SERVER) } else { (&[][..], host) };
        let origin = Origin::parse("https", server).ok_or_else(|| Error::bad_address(server))?;
        let own =
            Endpoint { origin, prefix: String::new(), name: server.to_ascii_lowercase(), is_mirror: false };
        Ok(mirrors.iter().cloned().chain([own]).collect())
    }

    /// Whether the engine accepts this server without TLS or with an untrusted certificate. `addresses` are
    /// the addresses of its name.
    pub(super) fn is_insecure(&self, name: &str, addresses: &[IpAddr]) -> bool {
        self.insecure.iter().any(|host| host == name) || self.is_insecure_network(addresses)
    }

    fn is_insecure_network(&self, addresses: &[IpAddr]) -> bool {
        // The engine needs only one insecure address. wharfd requires all, since the login goes to any of
        // them.
        !addresses.is_empty()
            && addresses.iter().all(|address| self.networks.iter().any(|network| network.contains(*address)))
    }
}

impl Origin {
    /// Reads `host[:port]`.
    pub(super) fn parse(scheme: &str, authority: &str) -> Option<Self> {
        let secure = match scheme {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority: http::uri::Authority = authority.parse().ok()?;
        if authority.as_str().contains('@') {
            return None;
        }
        // `http` finds a host and a port in any text; require that they are all of the text.
        let written = authority.host();
        let port = match authority.as_str().strip_prefix(written)? {
            "" if secure => 443,
            "" => 80,
            rest => rest.strip_prefix(':')?.parse().ok()?,
        };
        let host = match written.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(bare) => bare.parse::<Ipv6Addr>().ok().map(|_| bare)?,
            None => Some(written).filter(|host| host.chars().all(is_of_a_name))?,
        };
        // A host that ends with a number is an address, and some resolvers accept more forms than `IpAddr`
        // does: `127.1`, `0x7f.1`.
        let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
        let is_number = last.starts_with("0x")
            || last.starts_with("0X")
            || last.bytes().all(|byte| byte.is_ascii_digit());
        let sound = !host.is_empty() && (!is_number || host.parse::<IpAddr>().is_ok());
        sound.then(|| Self { secure, host: host.to_ascii_lowercase(), port })
    }

    /// The same host and port without TLS; the default port becomes HTTP's.
    pub(super) fn plain(&self) -> Self {
        let port = if self.port == 443 { 80 } else { self.port };
        Self { secure: false, port, ..self.clone() }
    }

    /// In the form of a URL and the `Host` header.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.secure, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// Whether a host name may contain the character. Docker also allows an underscore.
fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

impl Endpoint {
    fn mirror(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = path.trim_end_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        let origin = Origin::parse(scheme, authority)?;
        Some(Self { origin, prefix, name: authority.to_ascii_lowercase(), is_mirror: true })
    }
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let bits = bits.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        (bits <= most).then_some(Self { address, bits })
    }

    fn contains(self, address: IpAddr) -> bool {
        is_within(address, self.address, self.bits)
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    fn reach() -> Reach {
        let info = serde_json::json!({"RegistryConfig": {
            "InsecureRegistryCIDRs": ["127.0.0.0/8", "::1/128", "10.9.0.0/16"],
            "IndexConfigs": {
                "docker.io": {"Name": "docker.io", "Mirrors": ["https://mirror.example/"], "Secure": true},
                "Old.example:5000": {"Name": "old.example:5000", "Secure": false},
            },
            "Mirrors": ["https://mirror.example/", "http://10.9.0.1:5000/hub/"],
        }});
        Reach::of(&serde_json::from_value(info).unwrap())
    }

    #[test]
    fn docker_hubs_mirrors_come_before_its_server_and_no_other_registry_has_them() {
        let names = |host: &str| -> Vec<(String, bool)> {
            let endpoints = reach().endpoints(host).unwrap();
            let shown = |endpoint: Endpoint| {
                let origin = endpoint.origin;
                let scheme = if origin.secure { "https" } else { "http" };
                let url = format!("{scheme}://{}{}", origin.authority(), endpoint.prefix);
                (url, endpoint.is_mirror)
            };
            endpoints.into_iter().map(shown).collect()
        };
        let hub = [
            ("https://mirror.example".to_owned(), true),
            ("http://10.9.0.1:5000/hub".to_owned(), true),
            ("https://registry-1.docker.io".to_owned(), false),
        ];
        assert_eq!(names("docker.io"), hub);
        assert_eq!(names("old.example:5000"), [("https://old.example:5000".to_owned(), false)]);
        assert_eq!(names("[::1]:5000"), [("https://[::1]:5000".to_owned(), false)]);
    }

    #[test]
    fn a_registry_is_insecure_by_its_name_or_by_all_its_addresses() {
        let is = |name: &str, addresses: &[&str]| {
            let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
            reach().is_insecure(name, &addresses)
        };
        assert!(is("old.example:5000", &["192.0.2.1"]));
        assert!(!is("old.example", &["192.0.2.1"]));
        assert!(is("new.example", &["10.9.3.4"]) && is("new.example", &["127.0.0.1", "::1"]));
        assert!(!is("new.example", &["10.10.3.4"]));
        assert!(!is("new.example", &["127.0.0.1", "192.0.2.1"]));
        assert!(!is("new.example", &[]));
    }
}
