//! The part of the network that a connection comes from.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

/// The bits of an IPv6 address that its owner cannot choose: a network of one host has 64 bits for hosts.
const OWNED: u128 = !(u64::MAX as u128);

/// The part of an address that distinguishes one owner from another: an IPv4 address, or the first 64 bits of
/// an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressBlock(IpAddr);

impl AddressBlock {
    /// The block that `address` belongs to. An IPv4 address within IPv6 is one of IPv4.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & OWNED).into(),
        })
    }
}

impl fmt::Display for AddressBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(address) => write!(f, "{address}/64"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_one_network_are_one_block() {
        let shown = |address: &str| AddressBlock::of(address.parse().unwrap()).to_string();
        assert_eq!(shown("10.0.0.1"), "10.0.0.1");
        assert_eq!(shown("::ffff:10.0.0.1"), "10.0.0.1");
        for host in ["2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"] {
            assert_eq!(shown(host), "2001:db8:1:2::/64");
        }
        assert_ne!(shown("10.0.0.2"), shown("10.0.0.1"));
    }
}
