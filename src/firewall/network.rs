//! Networks and grants, as the operator writes them.

use std::{fmt, net::IpAddr, ops::RangeInclusive, str::FromStr};

use crate::names::printable;

/// An address with the length of its network; the bits behind it are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    address: IpAddr,
    length: u8,
}

/// A bridge's own address, in its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridge {
    address: IpAddr,
    pub(super) network: Network,
}

/// A network, and the ports that are reached there: all, or some of TCP and UDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub(super) network: Network,
    pub(super) ports: Option<RangeInclusive<u16>>,
}

/// Why a text is not a network.
#[derive(Debug, thiserror::Error)]
pub enum Parse {
    /// It is something else.
    #[error("`{}` is neither an address nor a network; write 10.0.0.5, 10.0.0.0/8, fd00::5 or fd00::/8", printable(.0))]
    Shape(String),
    /// Its address belongs to a smaller network.
    #[error("`{0}` has an address behind its length; write {1}")]
    Bits(String, Network),
    /// The text after the colon is not a port.
    #[error("`{}` is not a port; write 443 or 8000-8080", printable(.0))]
    Port(String),
    /// The address of a bridge is not one that a host can have.
    #[error(
        "`{}` is not a bridge's address; write the address and the prefix length of its network, such as 198.18.0.1/22",
        printable(.0)
    )]
    Bridge(String),
}

const fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

impl Network {
    /// The network with this address; the bits behind its length become zero.
    pub(super) fn new(address: IpAddr, length: u8) -> Self {
        let length = length.min(bits(address));
        let address = match address {
            IpAddr::V4(v4) => {
                let kept = u32::MAX.checked_shl(u32::from(32 - length)).unwrap_or(0);
                IpAddr::V4((v4.to_bits() & kept).into())
            }
            IpAddr::V6(v6) => {
                let kept = u128::MAX.checked_shl(u32::from(128 - length)).unwrap_or(0);
                IpAddr::V6((v6.to_bits() & kept).into())
            }
        };
        Self { address, length }
    }

    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    pub(super) fn length(&self) -> u8 {
        self.length
    }

    /// The mask in the order of the network, as long as the address.
    pub(super) fn mask(&self) -> Vec<u8> {
        let byte = |at: u8| {
            let ones = self.length.saturating_sub(at.saturating_mul(8)).min(8);
            0xff_u8.checked_shl(u32::from(8 - ones)).unwrap_or(0)
        };
        (0..bits(self.address) / 8).map(byte).collect()
    }

    /// Whether it is one address.
    pub(super) fn is_single(&self) -> bool {
        self.length == bits(self.address)
    }

    /// Whether all of the other one lies in this one.
    pub(super) fn holds(&self, other: &Self) -> bool {
        bits(other.address) == bits(self.address)
            && other.length >= self.length
            && Self::new(other.address, self.length) == *self
    }

    /// Whether they have an address in common.
    pub(super) fn meets(&self, other: &Self) -> bool {
        self.holds(other) || other.holds(self)
    }

    #[cfg(test)]
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.holds(&address.into())
    }
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self { address, length: bits(address) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() { self.address.fmt(f) } else { write!(f, "{}/{}", self.address, self.length) }
    }
}

/// An address, and the network of the length behind it.
fn parse_address(text: &str) -> Option<(IpAddr, Network)> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let Some(length) = length else { return Some((address, address.into())) };
    let is_number = length.bytes().all(|byte| byte.is_ascii_digit());
    let length = length.parse().ok().filter(|length| is_number && *length <= bits(address))?;
    Some((address, Network::new(address, length)))
}

impl FromStr for Network {
    type Err = Parse;

    fn from_str(text: &str) -> Result<Self, Parse> {
        let (address, network) = parse_address(text).ok_or_else(|| Parse::Shape(text.to_owned()))?;
        if network.address == address { Ok(network) } else { Err(Parse::Bits(text.to_owned(), network)) }
    }
}

impl fmt::Display for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.network.length)
    }
}

impl FromStr for Bridge {
    type Err = Parse;

    fn from_str(text: &str) -> Result<Self, Parse> {
        let shape = || Parse::Bridge(text.to_owned());
        let (address, network) = parse_address(text).ok_or_else(shape)?;
        let last = match (network.address, address) {
            (IpAddr::V4(first), IpAddr::V4(_)) => {
                let rest = u32::MAX.checked_shr(network.length.into()).unwrap_or(0);
                IpAddr::V4((first.to_bits() | rest).into())
            }
            // There is no broadcast.
            _ => network.address,
        };
        let is_host = address != network.address && address != last;
        if is_host { Ok(Self { address, network }) } else { Err(shape()) }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(ports) = &self.ports else { return self.network.fmt(f) };
        match self.network.address {
            IpAddr::V4(_) => write!(f, "{}:", self.network)?,
            IpAddr::V6(_) => write!(f, "[{}]:", self.network)?,
        }
        let (first, last) = (ports.start(), ports.end());
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

impl FromStr for Grant {
    type Err = Parse;

    fn from_str(text: &str) -> Result<Self, Parse> {
        let (network, ports) = if let Some(inner) = text.strip_prefix('[') {
            let (network, behind) = inner.split_once(']').ok_or_else(|| Parse::Shape(text.to_owned()))?;
            let ports = behind.strip_prefix(':').ok_or_else(|| Parse::Port(behind.to_owned()))?;
            (network, Some(ports))
        } else {
            match text.split_once(':') {
                // More of them: an IPv6 address.
                Some((network, ports)) if !ports.contains(':') => (network, Some(ports)),
                _ => (text, None),
            }
        };
        let ports =
            ports.map(|text| parse_ports(text).ok_or_else(|| Parse::Port(text.to_owned()))).transpose()?;
        Ok(Self { network: network.parse()?, ports })
    }
}

fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let port = |text: &str| {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| is_number && *port > 0)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let ports = port(first)?..=port(last)?;
    (!ports.is_empty()).then_some(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_grants_are_read_as_they_are_written() {
        for text in ["10.0.0.5", "10.0.0.0/8", "0.0.0.0/0", "fd00::5", "fd00::/8", "::/0"] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
            assert_eq!(text.parse::<Grant>().unwrap().to_string(), text);
        }
        for text in ["10.0.0.5:443", "10.0.0.0/8:8000-8080", "[fd00::5]:443", "[fd00::/8]:1-65535"] {
            assert_eq!(text.parse::<Grant>().unwrap().to_string(), text);
        }
        assert_eq!("10.0.0.5/32".parse::<Network>().unwrap(), "10.0.0.5".parse().unwrap());
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "10.0.0", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/", "fd00::/129", "host", "$(NODE)"]
        {
            assert!(matches!(text.parse::<Network>(), Err(Parse::Shape(_))), "{text}");
            assert!(text.parse::<Grant>().is_err(), "{text}");
        }
        let said = "10.0.0.5/8".parse::<Network>().unwrap_err().to_string();
        assert_eq!(said, "`10.0.0.5/8` has an address behind its length; write 10.0.0.0/8");
        for text in
            ["10.0.0.5:", "10.0.0.5:0", "10.0.0.5:65536", "10.0.0.5:2-1", "10.0.0.5:+1", "[fd00::5]443"]
        {
            assert!(matches!(text.parse::<Grant>(), Err(Parse::Port(_))), "{text}");
        }
    }

    #[test]
    fn a_bridge_has_an_address_within_its_network() {
        for (text, network) in
            [("198.18.0.1/22", "198.18.0.0/22"), ("10.1.2.3/8", "10.0.0.0/8"), ("fd00::1/64", "fd00::/64")]
        {
            let bridge: Bridge = text.parse().unwrap();
            assert_eq!(
                (bridge.to_string(), bridge.network.to_string()),
                (text.to_owned(), network.to_owned())
            );
        }
        for text in
            ["198.18.0.0/22", "198.18.3.255/22", "198.18.0.1", "198.18.0.1/33", "999.18.0.1/22", "fd00::/64"]
        {
            assert!(matches!(text.parse::<Bridge>(), Err(Parse::Bridge(_))), "{text}");
        }
    }

    #[test]
    fn networks_meet_if_one_holds_the_other() {
        let network = |text: &str| text.parse::<Network>().unwrap();
        for (one, other, expected) in [
            ("10.0.0.0/8", "10.2.0.0/16", true),
            ("10.2.0.0/16", "10.0.0.0/8", true),
            ("10.2.0.0/16", "10.3.0.0/16", false),
            ("0.0.0.0/0", "::/0", false),
        ] {
            assert_eq!(network(one).meets(&network(other)), expected, "{one} {other}");
        }
        assert!(network("10.0.0.0/8").holds(&network("10.2.0.0/16")));
        assert!(!network("10.2.0.0/16").holds(&network("10.0.0.0/8")));
    }

    #[test]
    fn masks_are_as_long_as_networks() {
        for (text, mask) in [
            ("10.0.0.0/8", vec![255, 0, 0, 0]),
            ("100.64.0.0/10", vec![255, 192, 0, 0]),
            ("10.0.0.5", vec![255; 4]),
            ("0.0.0.0/0", vec![0; 4]),
        ] {
            assert_eq!(text.parse::<Network>().unwrap().mask(), mask, "{text}");
        }
        let mask = "4000::/2".parse::<Network>().unwrap().mask();
        assert_eq!((mask.len(), mask[0], mask[1]), (16, 192, 0));
    }
}
