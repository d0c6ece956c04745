//! The addresses that belong to the node or its network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address belongs neither to this node nor to its network and does not lead to such an
/// address. The exceptions are those of IANA's special-purpose registries (RFC 6890, with later entries).
pub(crate) fn is_public(address: IpAddr) -> bool {
    let address = address.to_canonical();
    if is_no_server(address) {
        return false;
    }
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let protocols = (a, b, c) == (192, 0, 0);
            let relays_v6 = (a, b, c) == (192, 88, 99);
            let benchmark = a == 198 && (18..20).contains(&b);
            let reserved = a >= 240;
            // Google's own, which GKE gives to the Services of clusters.
            let services = (a, b) == (34, 118) && (224..240).contains(&c);
            !(v4.is_loopback()
                || v4.is_private()
                || v4.is_documentation()
                || shared
                || protocols
                || relays_v6
                || benchmark
                || services
                || reserved)
        }
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            // Only 2000::/3 is assigned to networks. Any other prefix, such as NAT64's, may lead to an
            // IPv4 address of this node.
            let global = first & 0xe000 == 0x2000;
            // Teredo and its kin, documentation, 6to4, documentation again.
            let special = (first == 0x2001 && (second < 0x200 || second == 0xdb8))
                || first == 0x2002
                || (first == 0x3fff && second < 0x1000);
            global && !special
        }
    }
}

/// The addresses of the clouds' metadata services, which give a machine's secrets to everyone who asks. Nothing else has
/// these addresses.
const METADATA_V4: [(Ipv4Addr, u8); 4] = [
    // All link-local ones: most clouds'.
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    // Alibaba's, Azure's and Oracle's.
    (Ipv4Addr::new(100, 100, 100, 200), 32),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(192, 0, 0, 192), 32),
];
const METADATA_V6: [(Ipv6Addr, u8); 6] = [
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    // Amazon's: also its name servers, clocks and the credentials of pods.
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32),
    // Google's, Scaleway's, Oracle's and Akamai's.
    (Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128),
    (Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42), 128),
    (Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe), 128),
    (Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1), 128),
];
/// The prefixes behind which translators to IPv4 have its addresses, with their lengths: those of NAT64 (RFC 6052, and
/// 8215 in two forms), of SIIT, of 6to4, and the oldest one.
const TRANSLATED: [(Ipv6Addr, u8); 6] = [
    (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 96),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48),
    (Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::UNSPECIFIED, 96),
];

/// The networks of [`METADATA_V4`] and [`METADATA_V6`], and the former as translators have them: each address with the
/// length of its network.
pub(crate) fn metadata() -> impl Iterator<Item = (IpAddr, u8)> {
    let v4 = METADATA_V4.into_iter().map(|(v4, length)| (v4.into(), length));
    let v6 = METADATA_V6.into_iter().map(|(v6, length)| (v6.into(), length));
    let translated = TRANSLATED.into_iter().flat_map(|(prefix, bits)| {
        METADATA_V4.into_iter().map(move |(v4, length)| {
            let (address, length) = translated(prefix, bits, v4, length);
            (address.into(), length)
        })
    });
    v4.chain(v6).chain(translated)
}

/// The network behind a prefix. One of 48 bits has eight bits of zeros in the middle of an address (RFC 6052, 2.2).
fn translated(prefix: Ipv6Addr, bits: u8, v4: Ipv4Addr, length: u8) -> (Ipv6Addr, u8) {
    let behind = |bits: u8| u128::from(v4.to_bits()) << 96 >> bits;
    let (address, length) = match bits {
        48 if length > 16 => {
            let (high, low) = (u128::from(v4.to_bits() >> 16), u128::from(v4.to_bits() & 0xffff));
            (high << 64 | low << 40, bits + 8 + length)
        }
        _ => (behind(bits), bits + length),
    };
    ((prefix.to_bits() | address).into(), length)
}

/// Whether the first `bits` of `address` and `network` are equal.
pub(crate) fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let shared = match (address.to_canonical(), network.to_canonical()) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        _ => return false,
    };
    shared >= u32::from(bits)
}

/// Whether a job may never reach a server at this address: a metadata service, or an address that is not a host's;
/// `0.0.0.0` is another name of the node.
pub(crate) fn is_no_server(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let odd = match address {
        IpAddr::V4(v4) => v4.is_broadcast() || v4.octets().starts_with(&[0]),
        IpAddr::V6(v6) => v6.is_unspecified(),
    };
    odd || address.is_multicast() || metadata().any(|(network, bits)| is_within(address, network, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_node_and_its_network_are_not_public() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.17.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "34.118.224.1",
            "34.118.239.255",
            "0.0.0.0",
            "::1",
            "fe80::1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "::127.0.0.1",
            "2001:0:7f00:1::",
            "2001:db8::1",
            "3fff::1",
            "ff02::1",
            "192.0.0.1",
            "255.255.255.255",
            "224.0.0.1",
            "168.63.129.16",
            "fd00:ec2::254",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in ["8.8.8.8", "2606:4700::1111", "2001:4860:4860::8888", "172.32.0.1", "100.128.0.1"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn metadata_services_are_no_servers_by_any_of_their_addresses() {
        for address in [
            "0.0.0.0",
            "::",
            "169.254.169.254",
            "169.254.170.23",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "fe80::a9fe:a9fe",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd00:ec2:1::1",
            "fd20:ce::254",
            "fd00:42::42",
            "fd00:c1::a9fe:a9fe",
            "fd00:a9fe:a9fe::1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b::168.63.129.16",
            "64:ff9b::100.100.100.200",
            "64:ff9b:1::192.0.0.192",
            "64:ff9b:1::169.254.169.254",
            // 169.254.169.254 and 168.63.129.16 behind 48 bits.
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1:a83f:81:1000::",
            "2002:a9fe:a9fe::1",
            "2002:a83f:8110:1::1",
        ] {
            assert!(is_no_server(address.parse().unwrap()), "{address}");
        }
        for address in [
            "127.0.0.1",
            "::1",
            "10.1.2.3",
            "fd00::1",
            "fd00:ec3::254",
            "fd20:ce::253",
            "fd00:42::41",
            "192.168.1.1",
            "100.100.100.201",
            "168.63.129.17",
            "8.8.8.8",
            "64:ff9b::8.8.8.8",
            "64:ff9b::168.63.129.17",
            "64:ff9b:1:a83f:81:1100::",
            "2002:808:808::1",
        ] {
            assert!(!is_no_server(address.parse().unwrap()), "{address}");
        }
    }
}
