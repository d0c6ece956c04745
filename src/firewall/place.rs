//! The network in which the rules are set, as the kernel and the resolver's file show it.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::Network;

/// The addresses, routes and interfaces that the rules need.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The interfaces with a default route: everything else is an engine's, or a step's.
    pub(super) uplinks: BTreeSet<String>,
    /// The networks that the uplinks reach by other routes than the default one, and the gateways.
    pub(super) networks: BTreeSet<Network>,
    /// The name servers. An engine gives them to its steps.
    pub(super) resolvers: BTreeSet<IpAddr>,
}

/// Why the network could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError {
    #[error("cannot read {0}")]
    Read(&'static str, #[source] io::Error),
    #[error("{0} has a line that is not a route")]
    Route(&'static str),
    #[error("this network has no default route, so that its uplink is unknown")]
    NoUplink,
}

const V4: &str = "/proc/net/route";
const V6: &str = "/proc/net/ipv6_route";
const RESOLVERS: &str = "/etc/resolv.conf";

/// A route of either kind.
struct Route {
    interface: String,
    to: Network,
    gateway: Option<IpAddr>,
}

impl Place {
    /// The network of this process.
    pub(super) fn look() -> Result<Self, PlaceError> {
        let read = |path| fs::read_to_string(path).map_err(|error| PlaceError::Read(path, error));
        let v6 = match fs::read_to_string(V6) {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read.map_err(|error| PlaceError::Read(V6, error))?,
        };
        Self::read(&read(V4)?, &v6, &read(RESOLVERS)?)
    }

    fn read(v4: &str, v6: &str, resolvers: &str) -> Result<Self, PlaceError> {
        let mut routes = Vec::new();
        // The first line is the table's head.
        for line in v4.lines().skip(1) {
            routes.push(route_v4(line).ok_or(PlaceError::Route(V4))?);
        }
        for line in v6.lines() {
            routes.extend(route_v6(line).ok_or(PlaceError::Route(V6))?);
        }
        let is_default = |route: &Route| route.to.mask().iter().all(|byte| *byte == 0);
        let uplinks: BTreeSet<_> =
            routes.iter().filter(|route| is_default(route)).map(|route| route.interface.clone()).collect();
        if uplinks.is_empty() {
            return Err(PlaceError::NoUplink);
        }
        let mut networks = BTreeSet::new();
        for route in routes.iter().filter(|route| uplinks.contains(&route.interface)) {
            networks.extend(route.gateway.map(Network::from));
            if !is_default(route) {
                networks.insert(route.to);
            }
        }
        // An engine gives its steps no resolver on loopback.
        let resolvers =
            resolvers.lines().filter_map(resolver).filter(|address| !address.is_loopback()).collect();
        Ok(Self { uplinks, networks, resolvers })
    }
}

/// `eth0 00000000 0100D60A 0003 0 0 0 00000000 0 0 0`: the interface, destination, gateway, …, mask. The numbers have the
/// processor's order of bytes.
fn route_v4(line: &str) -> Option<Route> {
    let mut fields = line.split_ascii_whitespace();
    let interface = fields.next()?.to_owned();
    let address = |text: &str| Some(Ipv4Addr::from(u32::from_str_radix(text, 16).ok()?.to_ne_bytes()));
    let to = address(fields.next()?)?;
    let gateway = address(fields.next()?)?;
    let mask = address(fields.nth(4)?)?;
    let length = u8::try_from(mask.to_bits().leading_ones()).ok()?;
    let gateway = (!gateway.is_unspecified()).then_some(gateway.into());
    Some(Route { interface, to: Network::new(to.into(), length), gateway })
}

/// `DESTINATION LENGTH SOURCE LENGTH GATEWAY METRIC REFERENCES USES FLAGS INTERFACE`. Nothing for a route that leads
/// nowhere, such as the kernel's own to the loopback, and the one for multicasts.
fn route_v6(line: &str) -> Option<Option<Route>> {
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let [to, length, _, _, gateway, _, _, _, _, interface] = fields.as_slice() else { return None };
    let address = |text: &str| Some(Ipv6Addr::from(u128::from_str_radix(text, 16).ok()?));
    let (to, gateway) = (address(to)?, address(gateway)?);
    let length = u8::from_str_radix(length, 16).ok()?;
    if *interface == "lo" || to.is_multicast() {
        return Some(None);
    }
    let gateway = (!gateway.is_unspecified()).then_some(gateway.into());
    Some(Some(Route { interface: (*interface).to_owned(), to: Network::new(to.into(), length), gateway }))
}

/// The address of a line `nameserver ADDRESS`, without an IPv6 address' zone.
fn resolver(line: &str) -> Option<IpAddr> {
    let mut words = line.split_ascii_whitespace();
    let is_resolver = words.next() == Some("nameserver");
    words.next().filter(|_| is_resolver)?.split('%').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    #[test]
    fn a_pod_is_read_as_the_kernel_shows_it() {
        let v4 = format!(
            "{HEAD}eth0\t00000000\t0100D60A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
             eth0\t0000D60A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
             wharf0\t000012C6\t00000000\t0001\t0\t0\t0\t00FCFFFF\t0\t0\t0\n"
        );
        let v6 = "fd0000000000000000000000000000a0 40 00000000000000000000000000000000 00 \
                  00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n\
                  00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                  fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n\
                  ff000000000000000000000000000000 08 00000000000000000000000000000000 00 \
                  00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n\
                  00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                  00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";
        let place = Place::read(
            &v4,
            v6,
            "search x\nnameserver 10.96.0.10\nnameserver ::1\nnameserver fe80::1%eth0\n",
        )
        .unwrap();
        assert_eq!(place.uplinks, ["eth0".to_owned()].into());
        let networks = ["10.214.0.1", "10.214.0.0/24", "fd00::/64", "fe80::1"];
        assert_eq!(place.networks, networks.map(|text| text.parse().unwrap()).into());
        assert_eq!(place.resolvers, ["10.96.0.10", "fe80::1"].map(|text| text.parse().unwrap()).into());
    }

    #[test]
    fn without_a_default_route_there_is_no_place() {
        let v4 = format!("{HEAD}eth0\t0000D60A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n");
        assert!(matches!(Place::read(&v4, "", ""), Err(PlaceError::NoUplink)));
        assert!(matches!(Place::read(&format!("{HEAD}eth0 1\n"), "", ""), Err(PlaceError::Route(V4))));
        assert!(matches!(Place::read(HEAD, "0 0\n", ""), Err(PlaceError::Route(V6))));
    }
}
