//! Rules in the kernel's own expressions (`linux/netfilter/nf_tables.h`).

use std::net::IpAddr;

use super::{
    attributes::Attributes,
    chain::{Match, Rule, State, Verdict},
};

pub(super) const DROP: u32 = 0;
pub(super) const ACCEPT: u32 = 1;
/// A register of 16 bytes.
const REGISTER: u32 = 1;

#[derive(Clone, Copy)]
enum Compare {
    Equal = 0,
    Unequal = 1,
    AtMost = 3,
    AtLeast = 5,
}

/// Where a part of the packet begins.
#[derive(Clone, Copy)]
enum Base {
    Network = 1,
    Transport = 2,
}

/// A name as the kernel compares it, with zeros behind it.
fn interface_name(interface: &str) -> [u8; 16] {
    let mut name = [0; 16];
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from;
    }
    name
}

/// A rule's expressions.
pub(super) fn expressions(Rule(matches, verdict): &Rule) -> Attributes {
    let mut expressions = Expressions::default();
    for part in matches {
        expressions.add_match(part);
    }
    expressions.add_verdict(*verdict);
    expressions.0
}

#[derive(Default)]
struct Expressions(Attributes);

impl Expressions {
    fn add(&mut self, name: &str, data: Attributes) {
        let element = Attributes::default().text(1, name).list(2, data);
        self.0 = std::mem::take(&mut self.0).list(1, element);
    }

    /// Loads a fact about the packet.
    fn meta(&mut self, key: u32) {
        self.add("meta", Attributes::default().number(1, REGISTER).number(2, key));
    }

    fn payload(&mut self, base: Base, offset: u32, length: u32) {
        let place = Attributes::default().number(1, REGISTER).number(2, base as u32).number(3, offset);
        self.add("payload", place.number(4, length));
    }

    fn mask(&mut self, mask: &[u8]) {
        let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
        let value = |bytes: &[u8]| Attributes::default().bytes(1, bytes);
        let registers = Attributes::default().number(1, REGISTER).number(2, REGISTER).number(3, length);
        self.add("bitwise", registers.list(4, value(mask)).list(5, value(&vec![0; mask.len()])));
    }

    fn compare(&mut self, how: Compare, with: &[u8]) {
        let value = Attributes::default().bytes(1, with);
        self.add("cmp", Attributes::default().number(1, REGISTER).number(2, how as u32).list(3, value));
    }

    fn add_match(&mut self, part: &Match) {
        const FROM: u32 = 6;
        const THROUGH: u32 = 7;
        const GROUP: u32 = 11;
        const FAMILY: u32 = 15;
        const PROTOCOL: u32 = 16;
        const IPV4: u8 = 2;
        const IPV6: u8 = 10;
        const ICMP6: u8 = 58;
        const STATE: u32 = 0;
        match part {
            Match::From(interface) => {
                self.meta(FROM);
                self.compare(Compare::Equal, &interface_name(interface));
            }
            Match::Through(interface) => {
                self.meta(THROUGH);
                self.compare(Compare::Equal, &interface_name(interface));
            }
            Match::Group(group) => {
                self.meta(GROUP);
                self.compare(Compare::Equal, &group.to_ne_bytes());
            }
            Match::NotThrough(interface) => {
                self.meta(THROUGH);
                self.compare(Compare::Unequal, &interface_name(interface));
            }
            Match::To(network) => {
                let (family, offset, address) = match network.address() {
                    IpAddr::V4(v4) => (IPV4, 16, v4.octets().to_vec()),
                    IpAddr::V6(v6) => (IPV6, 24, v6.octets().to_vec()),
                };
                self.meta(FAMILY);
                self.compare(Compare::Equal, &[family]);
                self.payload(Base::Network, offset, u32::try_from(address.len()).unwrap_or(u32::MAX));
                if !network.is_single() {
                    self.mask(&network.mask());
                }
                self.compare(Compare::Equal, &address);
            }
            Match::Ports(protocol, ports) => {
                self.meta(PROTOCOL);
                self.compare(Compare::Equal, &[*protocol]);
                self.payload(Base::Transport, 2, 2);
                self.compare(Compare::AtLeast, &ports.start().to_be_bytes());
                self.compare(Compare::AtMost, &ports.end().to_be_bytes());
            }
            Match::Icmp6(kind) => {
                self.meta(PROTOCOL);
                self.compare(Compare::Equal, &[ICMP6]);
                self.payload(Base::Transport, 0, 1);
                self.compare(Compare::Equal, &[*kind]);
            }
            Match::State(state) => {
                // The bits of enum ip_conntrack_info, behind NF_CT_STATE_INVALID_BIT.
                let bits: u32 = match state {
                    State::Invalid => 1,
                    State::Established => 2,
                    State::Known => 2 | 4,
                };
                self.add("ct", Attributes::default().number(1, REGISTER).number(2, STATE));
                self.mask(&bits.to_ne_bytes());
                self.compare(Compare::Unequal, &[0; 4]);
            }
        }
    }

    fn add_verdict(&mut self, verdict: Verdict) {
        const ICMPX: u32 = 2;
        const PROHIBITED: u8 = 3;
        const VERDICT_REGISTER: u32 = 0;
        let code = match verdict {
            Verdict::Reject => {
                self.add("reject", Attributes::default().number(1, ICMPX).bytes(2, &[PROHIBITED]));
                return;
            }
            Verdict::Accept => ACCEPT,
            Verdict::Drop => DROP,
        };
        let data = Attributes::default().list(2, Attributes::default().number(1, code));
        self.add("immediate", Attributes::default().number(1, VERDICT_REGISTER).list(2, data));
    }
}
