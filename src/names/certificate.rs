//! The name of a client's certificate.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use rustls::pki_types::DnsName;

use super::{printable, shortened};

/// SPIFFE's limit for its URIs; a DNS name has at most 253 bytes.
const BYTES_MAX: usize = 2048;
/// A longer name is cut in messages.
const SHOWN_BYTES_MAX: usize = 100;

/// A DNS name or a URI of a certificate's SAN, as it is written there: 1 to 2048 bytes of visible ASCII. A URI has a
/// `:`, a DNS name has none, so that neither is ever equal to the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct CertificateName(String);

impl CertificateName {
    /// The name of a SAN's entry of the kind DNS; `None` if it is not one host's.
    pub fn of_dns(name: &str) -> Option<Self> {
        name.parse().ok().filter(|Self(name)| !name.contains(':'))
    }

    /// The name of a SAN's entry of the kind URI; `None` if it is not a URI.
    pub fn of_uri(uri: &str) -> Option<Self> {
        uri.parse().ok().filter(|Self(name)| name.contains(':'))
    }
}

impl FromStr for CertificateName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let is_plain = name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*');
        // An IP address in a SAN is of another kind, which does not count.
        let is_host = name.parse::<Ipv4Addr>().is_err() && DnsName::try_from(name).is_ok();
        if (1..=BYTES_MAX).contains(&name.len()) && is_plain && (name.contains(':') || is_host) {
            return Ok(Self(name.to_owned()));
        }
        let shown = printable(&shortened(name.to_owned(), SHOWN_BYTES_MAX));
        Err(format!(
            "`{shown}` is not a certificate's name: a DNS name or a URI of its SAN is expected, of 1 to {BYTES_MAX} \
             visible ASCII characters without `*`"
        ))
    }
}

impl TryFrom<String> for CertificateName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_of_one_host_or_a_uri() {
        for name in ["agent.ci.example", "spiffe://ci.example/agent", "urn:agent"] {
            assert_eq!(name.parse::<CertificateName>().unwrap().to_string(), name);
        }
        for wrong in
            ["", "*.ci.example", "a b", "a\n", "é", "192.0.2.1", "a@b", "CN=agent", &"a".repeat(2049)]
        {
            let error = wrong.parse::<CertificateName>().unwrap_err();
            assert!(error.contains("is not a certificate's name") && error.len() < 300, "{error}");
        }
    }

    #[test]
    fn a_name_of_one_kind_is_none_of_the_other() {
        assert!(CertificateName::of_dns("agent").is_some() && CertificateName::of_uri("agent").is_none());
        assert!(CertificateName::of_uri("urn:a").is_some() && CertificateName::of_dns("urn:a").is_none());
        assert!(CertificateName::of_dns("*.example").is_none());
    }
}
