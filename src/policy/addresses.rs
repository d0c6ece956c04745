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

/// Cloud metadata services that are not at a link-local address: Azure's, Alibaba's, Oracle's, and
/// Amazon's and Google's over IPv6.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Whether a job may never reach a server at this address: metadata services are link-local, and
/// `0.0.0.0` is another name of the node.
pub(crate) fn is_no_server(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let odd = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets().starts_with(&[0]),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_unspecified(),
    };
    odd || address.is_multicast() || METADATA.contains(&address)
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
        for address in
            ["169.254.169.254", "::ffff:169.254.169.254", "0.0.0.0", "::", "fe80::1", "168.63.129.16"]
        {
            assert!(is_no_server(address.parse().unwrap()), "{address}");
        }
        for address in ["127.0.0.1", "::1", "10.1.2.3", "fd00::1", "192.168.1.1", "8.8.8.8"] {
            assert!(!is_no_server(address.parse().unwrap()), "{address}");
        }
        for address in ["8.8.8.8", "2606:4700::1111", "2001:4860:4860::8888", "172.32.0.1", "100.128.0.1"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }
}
