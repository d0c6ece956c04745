//! The rules: which packets pass.

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

use super::{
    Grant, Network,
    chain::{Chain, Hook, Match, Otherwise, Rule, State, Verdict},
    place::Place,
};
use crate::policy;

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

/// A grant of a network of private addresses that is larger than these may hold anything of a cluster.
const SITE_V4: u8 = 24;
const SITE_V6: u8 = 64;

/// The port of name servers.
const DNS: u16 = 53;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Neighbour solicitations and advertisements, without which nothing is sent on a link with IPv6.
const NEIGHBOURS: [u8; 2] = [135, 136];
/// With these, reports of multicast groups and solicitations of routers.
const LINK: [u8; 6] = [131, 132, 133, 135, 136, 143];

fn private() -> impl Iterator<Item = Network> {
    let v4 = PRIVATE_V4.map(|(address, length)| Network::new(Ipv4Addr::from(address).into(), length));
    let v6 =
        PRIVATE_V6.map(|([a, b], length)| Network::new(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0).into(), length));
    v4.into_iter().chain(v6)
}

fn metadata() -> impl Iterator<Item = Network> {
    policy::metadata().map(|(address, length)| Network::new(address, length))
}

/// Whether a grant opens so many private addresses that the cluster's may be among them. Of a network that is not within
/// a private one it opens none of these: the narrower decides.
pub(super) fn is_wide(Grant { network, .. }: &Grant) -> bool {
    let most = if network.address().is_ipv4() { SITE_V4 } else { SITE_V6 };
    network.length() < most && is_private(network)
}

/// Whether steps reach no address of a network, whatever the operator says of it.
pub(super) fn is_private(network: &Network) -> bool {
    private().any(|private| private.holds(network))
}

/// What the operator says.
#[derive(Debug)]
pub(super) struct Words<'a> {
    /// What everybody reaches.
    pub(super) allow: &'a [Grant],
    /// What nobody reaches.
    pub(super) refuse: &'a [Network],
    /// What steps and engines do not reach.
    pub(super) cluster: &'a [Network],
    /// wharfd's group.
    pub(super) group: Option<u32>,
}

/// The chains. A packet that an uplink brings is not a step's.
pub(super) fn chains(place: &Place, words: &Words<'_>) -> [Chain; 4] {
    let from = |uplink: &String| Match::From(uplink.clone());
    let icmp6 = |kind: &u8| Rule(vec![Match::Icmp6(*kind)], Verdict::Accept);
    let refused = || words.refuse.iter().copied();
    let networks = place.networks.iter().chain(words.cluster).copied();
    let of_steps =
        destinations(place, words.allow, private().chain(metadata()).chain(networks).chain(refused()));

    let mut forward = Vec::new();
    for uplink in &place.uplinks {
        // Nobody outside begins to speak with a step.
        forward.push(Rule(vec![from(uplink), Match::State(State::Known)], Verdict::Accept));
        forward.push(Rule(vec![from(uplink)], Verdict::Drop));
    }
    // From one engine's step to another's, or within a bridge, whatever addresses they have.
    let through_none = place.uplinks.iter().cloned().map(Match::NotThrough).collect();
    forward.push(Rule(through_none, Verdict::Reject));
    forward.push(Rule(vec![Match::State(State::Established)], Verdict::Accept));
    // It would leave with the step's own address.
    forward.push(Rule(vec![Match::State(State::Invalid)], Verdict::Drop));
    forward.extend(of_steps.iter().cloned());

    let mut input = vec![Rule(vec![from(&"lo".to_owned())], Verdict::Accept)];
    input.extend(place.uplinks.iter().map(|uplink| Rule(vec![from(uplink)], Verdict::Accept)));
    input.extend(NEIGHBOURS.iter().map(icmp6));
    input.push(Rule(Vec::new(), Verdict::Reject));

    // An engine follows a redirect of an `ADD` wherever it leads, and a step reads what comes back: the engine reaches
    // what its steps do. wharfd alone asks registries, which may be anywhere but where clouds tell secrets.
    let mut output = vec![
        Rule(vec![Match::State(State::Known)], Verdict::Accept),
        Rule(vec![Match::Through("lo".to_owned())], Verdict::Accept),
    ];
    output.extend(LINK.iter().map(icmp6));
    if let Some(group) = words.group.map(Match::Group) {
        let of_wharfd = destinations(place, words.allow, metadata().chain(refused()));
        let only = |Rule(matches, verdict)| Rule([vec![group.clone()], matches].concat(), verdict);
        output.extend(of_wharfd.into_iter().map(only));
        output.push(Rule(vec![group], Verdict::Accept));
    }
    output.extend(of_steps);

    let chain = |hook, rules| Chain { hook, rules, otherwise: Otherwise::Accept };
    [
        chain(Hook::Forward, forward),
        chain(Hook::Input, input),
        chain(Hook::Output, output),
        Chain { hook: Hook::Bridge, rules: Vec::new(), otherwise: Otherwise::Drop },
    ]
}

/// The rules for where a packet goes. The narrower of two networks decides, and the grant of two equal ones: who grants
/// a site's whole network does not grant the nodes in it.
fn destinations(place: &Place, allow: &[Grant], refused: impl Iterator<Item = Network>) -> Vec<Rule> {
    let dns =
        place.resolvers.iter().map(|address| Grant { network: (*address).into(), ports: Some(DNS..=DNS) });
    let mut entries: Vec<_> =
        dns.chain(allow.iter().cloned()).map(|grant| (grant, Verdict::Accept)).collect();
    let refused: BTreeSet<_> = refused.collect();
    entries.extend(refused.into_iter().map(|network| (Grant { network, ports: None }, Verdict::Reject)));
    // Stable: grants stay before refusals.
    entries.sort_by_key(|(entry, _)| Reverse(entry.network.length()));
    let mut rules = Vec::new();
    for (Grant { network, ports }, verdict) in entries {
        let to = Match::To(network);
        match ports {
            None => rules.push(Rule(vec![to], verdict)),
            Some(ports) => rules.extend(
                [TCP, UDP]
                    .map(|protocol| Rule(vec![to.clone(), Match::Ports(protocol, ports.clone())], verdict)),
            ),
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

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

    /// The first verdict for a packet of TCP that begins a connection, and that a step sends, or a process of this group.
    fn verdict(chain: &Chain, sender: u32, to: &str, port: u16) -> Verdict {
        let to = to.parse().unwrap();
        let fits = |part: &Match| match part {
            Match::To(network) => network.contains(to),
            Match::Ports(protocol, ports) => *protocol == TCP && ports.contains(&port),
            Match::Group(group) => *group == sender,
            Match::From(_) | Match::Through(_) | Match::NotThrough(_) | Match::Icmp6(_) | Match::State(_) => {
                false
            }
        };
        let first = chain.rules.iter().find(|Rule(matches, _)| matches.iter().all(fits));
        first.map_or(Verdict::Accept, |Rule(_, verdict)| *verdict)
    }

    #[test]
    fn the_narrower_entry_decides_and_the_grant_of_two_equal_ones() {
        let place = Place {
            uplinks: ["eth0".to_owned()].into(),
            networks: ["10.214.0.0/24".parse().unwrap()].into(),
            resolvers: ["10.96.0.10", "169.254.20.10"].map(|text| text.parse().unwrap()).into(),
        };
        let allow =
            ["10.1.2.3:5000", "10.0.0.0/8", "10.0.0.7:80", "10.96.0.77:443", "fd00::/16", "100.64.0.0/10"];
        let allow = allow.map(|text| text.parse().unwrap());
        let refuse = ["10.0.0.7", "8.8.8.0/24"].map(|text| text.parse().unwrap());
        let cluster = ["10.96.0.0/12".parse().unwrap()];
        let [forward, input, output, bridge] =
            chains(&place, &Words { allow: &allow, refuse: &refuse, cluster: &cluster, group: Some(7) });
        let (yes, no) = (Verdict::Accept, Verdict::Reject);
        for (to, port, of_steps, of_wharfd) in [
            ("1.1.1.1", 443, yes, yes),
            ("2606:4700::1111", 443, yes, yes),
            ("fd01::1", 443, no, yes),
            ("fd00:ec2::254", 80, no, no),
            ("fe80::1", 80, no, no),
            ("64:ff9b::a9fe:a9fe", 80, no, no),
            ("fd00:42::42", 80, no, no),
            // In a network that is granted.
            ("fd00:1::1", 443, yes, yes),
            ("100.64.0.1", 443, yes, yes),
            ("100.100.100.200", 80, no, no),
            ("169.254.169.254", 80, no, no),
            ("169.254.20.10", 80, no, no),
            ("169.254.20.10", 53, yes, yes),
            ("168.63.129.16", 80, no, no),
            ("192.168.1.1", 443, no, yes),
            // Of the network that is granted, but for what is refused by a narrower entry.
            ("10.5.5.5", 22, yes, yes),
            ("10.1.2.3", 22, yes, yes),
            ("10.96.0.1", 443, no, yes),
            ("10.96.0.77", 443, yes, yes),
            ("10.96.0.77", 80, no, yes),
            ("10.214.0.9", 443, no, yes),
            ("10.0.0.7", 10250, no, no),
            ("10.0.0.7", 80, yes, yes),
            ("10.96.0.10", 53, yes, yes),
            ("8.8.8.8", 443, no, no),
        ] {
            assert_eq!(verdict(&forward, 0, to, port), of_steps, "{to} {port}");
            assert_eq!(verdict(&output, 0, to, port), of_steps, "{to} {port}");
            assert_eq!(verdict(&output, 7, to, port), of_wharfd, "{to} {port}");
        }
        let eth0 = Match::From("eth0".to_owned());
        // Nothing from outside but what belongs to a connection.
        assert_eq!(forward.rules[0], Rule(vec![eth0.clone(), Match::State(State::Known)], Verdict::Accept));
        assert_eq!(forward.rules[1], Rule(vec![eth0], Verdict::Drop));
        // Steps send through the pod's own interface, or not at all.
        assert_eq!(forward.rules[2], Rule(vec![Match::NotThrough("eth0".to_owned())], Verdict::Reject));
        // Whatever is left at the end did not come from the pod's own interfaces.
        assert_eq!(*input.rules.last().unwrap(), Rule(Vec::new(), Verdict::Reject));
        assert_eq!((bridge.rules, bridge.otherwise), (Vec::new(), Otherwise::Drop));
    }

    #[test]
    fn a_grant_is_wide_if_it_opens_many_private_addresses() {
        for (text, expected) in [
            ("10.0.0.0/8", true),
            ("10.20.0.0/16:443", true),
            ("192.168.0.0/23", true),
            ("fd00::/48", true),
            ("fc00::/7", true),
            ("10.20.1.0/24", false),
            ("fd00::/64", false),
            ("10.20.0.5:5000", false),
            // They open what is public, which is open without them.
            ("0.0.0.0/0", false),
            ("::/0", false),
            ("8.0.0.0/7", false),
        ] {
            assert_eq!(is_wide(&text.parse().unwrap()), expected, "{text}");
        }
    }
}
