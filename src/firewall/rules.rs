//! The rules: which packets pass.

use std::{
    cmp::Reverse,
    net::{Ipv4Addr, Ipv6Addr},
};

use super::{
    Grant, Network,
    nftables::{Chain, Hook, Match, Rule, Verdict},
    place::Place,
};

/// The networks whose addresses are not public: those of `policy::is_public`.
const PRIVATE_V4: [([u8; 4], u8); 16] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    // The Services of clusters on GKE.
    ([34, 118, 224, 0], 20),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    // Azure's metadata service.
    ([168, 63, 129, 16], 32),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([224, 0, 0, 0], 3),
];

/// Likewise: the first two segments, and the length. The first three are all but 2000::/3.
const PRIVATE_V6: [([u16; 2], u8); 7] = [
    ([0, 0], 3),
    ([0x4000, 0], 2),
    ([0x8000, 0], 1),
    ([0x2001, 0], 23),
    ([0x2001, 0xdb8], 32),
    ([0x2002, 0], 16),
    ([0x3fff, 0], 20),
];

/// The port of name servers.
const DNS: u16 = 53;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Neighbour solicitations and advertisements, without which nothing is sent on a link with IPv6.
const NEIGHBOURS: [u8; 2] = [135, 136];

fn private() -> impl Iterator<Item = Network> {
    let v4 = PRIVATE_V4.map(|(address, length)| Network::new(Ipv4Addr::from(address).into(), length));
    let v6 =
        PRIVATE_V6.map(|([a, b], length)| Network::new(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0).into(), length));
    v4.into_iter().chain(v6)
}

/// The table's chains. A packet that an uplink brings is not a step's.
pub(super) fn chains(place: &Place, allow: &[Grant], refuse: &[Network]) -> [Chain; 2] {
    let from = |uplink: &String| Match::From(uplink.clone());
    let mut forward = Vec::new();
    for uplink in &place.uplinks {
        // Nobody outside begins to speak with a step.
        forward.push(Rule(vec![from(uplink), Match::New], Verdict::Drop));
        forward.push(Rule(vec![from(uplink)], Verdict::Accept));
    }
    // From one engine's step to another's, or within a bridge, whatever addresses they have.
    let through_none = place.uplinks.iter().cloned().map(Match::NotThrough).collect();
    forward.push(Rule(through_none, Verdict::Reject));
    // The narrower of two networks decides, and the grant of two equal ones: who grants a site's whole network does not
    // grant the nodes in it.
    let dns =
        place.resolvers.iter().map(|address| Grant { network: (*address).into(), ports: Some(DNS..=DNS) });
    let mut entries: Vec<_> =
        dns.chain(allow.iter().cloned()).map(|grant| (grant, Verdict::Accept)).collect();
    let refused = private().chain(place.networks.iter().copied()).chain(refuse.iter().copied());
    entries.extend(refused.map(|network| (Grant { network, ports: None }, Verdict::Reject)));
    // Stable: grants stay before refusals.
    entries.sort_by_key(|(entry, _)| Reverse(entry.network.length()));
    for (Grant { network, ports }, verdict) in entries {
        let to = Match::To(network);
        match ports {
            None => forward.push(Rule(vec![to], verdict)),
            Some(ports) => forward.extend(
                [TCP, UDP]
                    .map(|protocol| Rule(vec![to.clone(), Match::Ports(protocol, ports.clone())], verdict)),
            ),
        }
    }

    let mut input = vec![Rule(vec![from(&"lo".to_owned())], Verdict::Accept)];
    input.extend(place.uplinks.iter().map(|uplink| Rule(vec![from(uplink)], Verdict::Accept)));
    input.extend(NEIGHBOURS.map(|kind| Rule(vec![Match::Icmp6(kind)], Verdict::Accept)));
    input.push(Rule(Vec::new(), Verdict::Reject));
    [Chain { hook: Hook::Forward, rules: forward }, Chain { hook: Hook::Input, rules: input }]
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::policy;

    fn is_private(address: IpAddr) -> bool {
        private().any(|network| network.contains(address))
    }

    proptest! {
        #[test]
        fn what_is_refused_is_what_is_not_public(
            v4: [u8; 4],
            v6: u128,
            network in 0..PRIVATE_V4.len() + PRIVATE_V6.len(),
            inside: u128,
        ) {
            prop_assert_eq!(is_private(v4.into()), !policy::is_public(v4.into()));
            for v6 in [v6, v6 & (u128::MAX >> 3) | 0x2000 << 112] {
                let v6 = Ipv6Addr::from(v6).into();
                prop_assert_eq!(is_private(v6), !policy::is_public(v6));
            }
            let network = private().nth(network).unwrap();
            let inside = match network.address() {
                IpAddr::V4(v4) => {
                    let mask = u32::from_be_bytes(network.mask().try_into().unwrap());
                    IpAddr::V4((v4.to_bits() | inside as u32 & !mask).into())
                }
                IpAddr::V6(v6) => {
                    let mask = u128::from_be_bytes(network.mask().try_into().unwrap());
                    IpAddr::V6((v6.to_bits() | inside & !mask).into())
                }
            };
            prop_assert!(is_private(inside) && !policy::is_public(inside), "{}", inside);
        }
    }

    #[test]
    fn the_narrower_entry_decides_and_the_grant_of_two_equal_ones() {
        let place = Place {
            uplinks: ["eth0".to_owned()].into(),
            networks: ["10.214.0.0/24".parse().unwrap()].into(),
            resolvers: ["10.96.0.10".parse().unwrap()].into(),
        };
        let allow = ["10.1.2.3:5000", "10.0.0.0/8", "10.0.0.7:80"].map(|text| text.parse().unwrap());
        let refuse = ["10.0.0.7", "8.8.8.0/24"].map(|text| text.parse().unwrap());
        let [forward, input] = chains(&place, &allow, &refuse);
        // The verdict for a packet of TCP that a step sends.
        let verdict = |to: &str, port: u16| {
            let to = to.parse().unwrap();
            let fits = |part: &Match| match part {
                Match::To(network) => network.contains(to),
                Match::Ports(protocol, ports) => *protocol == TCP && ports.contains(&port),
                Match::From(_) | Match::NotThrough(_) | Match::Icmp6(_) | Match::New => false,
            };
            let first = forward.rules.iter().find(|Rule(matches, _)| matches.iter().all(fits));
            first.map_or(Verdict::Accept, |Rule(_, verdict)| *verdict)
        };
        for (to, port, expected) in [
            ("1.1.1.1", 443, Verdict::Accept),
            ("2606:4700::1111", 443, Verdict::Accept),
            ("fd00::1", 443, Verdict::Reject),
            ("169.254.169.254", 80, Verdict::Reject),
            ("192.168.1.1", 443, Verdict::Reject),
            // Of the network that is granted, but for what is refused by a narrower entry.
            ("10.5.5.5", 22, Verdict::Accept),
            ("10.1.2.3", 22, Verdict::Accept),
            ("10.214.0.9", 443, Verdict::Reject),
            ("10.0.0.7", 10250, Verdict::Reject),
            ("10.0.0.7", 80, Verdict::Accept),
            ("10.96.0.10", 53, Verdict::Accept),
            ("8.8.8.8", 443, Verdict::Reject),
        ] {
            assert_eq!(verdict(to, port), expected, "{to} {port}");
        }
        assert_eq!(forward.rules[0], Rule(vec![Match::From("eth0".to_owned()), Match::New], Verdict::Drop));
        // Steps send through the pod's own interface, or not at all.
        assert_eq!(forward.rules[2], Rule(vec![Match::NotThrough("eth0".to_owned())], Verdict::Reject));
        // Whatever is left at the end did not come from the pod's own interfaces.
        assert_eq!(*input.rules.last().unwrap(), Rule(Vec::new(), Verdict::Reject));
    }
}
