//! nftables, as far as the rules need it: one table, in the kernel's own messages (`linux/netfilter/nf_tables.h`). The
//! engine's image may lack the program `nft`, and wharfd's has nothing but wharfd.

use std::{io, net::IpAddr, ops::RangeInclusive, time::Duration};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

use super::{
    Network,
    attributes::{Attributes, padded},
};

const TABLE: &str = "wharf";
/// Before the chains of engines, which have 0.
const PRIORITY: i32 = -10;

/// A chain at one of the kernel's hooks. What no rule decides passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) hook: Hook,
    pub(super) rules: Vec<Rule>,
}

/// Where packets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// To an address of this network namespace.
    Input,
    /// From one interface to another, also within a bridge, if the kernel's br_netfilter is there.
    Forward,
}

/// All of the matches, then the verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule(pub(super) Vec<Match>, pub(super) Verdict);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// The interface that brings the packet.
    From(String),
    /// The interface to which it is forwarded is another one.
    NotThrough(String),
    /// The destination.
    To(Network),
    /// A protocol's destination ports.
    Ports(u8, RangeInclusive<u16>),
    /// The kind of a message of ICMPv6.
    Icmp6(u8),
    /// The packet belongs to no connection that is known.
    New,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It passes this table.
    Accept,
    /// It is dropped, and the sender hears nothing.
    Drop,
    /// It is dropped, and the sender hears at once that this is forbidden.
    Reject,
}

/// Why the rules are not set.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetError {
    #[error("this process lacks the capability NET_ADMIN")]
    Forbidden,
    #[error("the kernel does not take the rules: it may lack nf_tables, nft_reject_inet or nft_ct")]
    Kernel(#[source] io::Error),
    #[error("cannot speak with the kernel's nf_tables")]
    Socket(#[from] rustix::io::Errno),
    #[error("the kernel's answer is cut off")]
    Answer,
}

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Sets the table in this process's network namespace in place of one that is there: all of it, or nothing.
pub(super) fn set(chains: &[Chain]) -> Result<(), SetError> {
    let (batch, awaited) = batch(chains);
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    let sent = sendto(&socket, &batch, SendFlags::empty(), &netlink::SocketAddrNetlink::new(0, 0))?;
    if sent != batch.len() {
        return Err(SetError::Answer);
    }
    let mut answered = 0;
    let mut buffer = vec![0; 65536];
    while answered < awaited {
        let (length, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut left = buffer.get(..length).unwrap_or_default();
        if left.is_empty() {
            return Err(SetError::Answer);
        }
        while !left.is_empty() {
            let (code, rest) = acknowledgement(left).ok_or(SetError::Answer)?;
            match code {
                None => {}
                Some(0) => answered += 1,
                Some(code) => {
                    let error = io::Error::from_raw_os_error(code.saturating_neg());
                    return Err(match error.kind() {
                        io::ErrorKind::PermissionDenied => SetError::Forbidden,
                        _ => SetError::Kernel(error),
                    });
                }
            }
            left = rest;
        }
    }
    Ok(())
}

/// The code of the first message, if it is an acknowledgement or an error, and the messages behind it.
fn acknowledgement(bytes: &[u8]) -> Option<(Option<i32>, &[u8])> {
    const NLMSG_ERROR: u16 = 2;
    let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let message = bytes.get(..length).filter(|message| message.len() >= HEADER)?;
    let code = match kind {
        NLMSG_ERROR => Some(i32::from_ne_bytes(message.get(HEADER..HEADER + 4)?.try_into().ok()?)),
        _ => None,
    };
    Some((code, bytes.get(padded(length)..).unwrap_or_default()))
}

// --- messages --------------------------------------------------------------------------

const HEADER: usize = 16;

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// The messages of one transaction, and the number of its acknowledgements.
fn batch(chains: &[Chain]) -> (Vec<u8>, u32) {
    const NETFILTER: u16 = 10;
    const BEGIN: u16 = 16;
    const END: u16 = 17;
    const REQUEST: u16 = 1;
    const ACKNOWLEDGE: u16 = 4;
    const INET: u8 = 1;
    let (mut all, mut number) = (Vec::new(), 0_u32);
    let mut message = |kind: u16, flags: u16, family: u8, resource: u16, attributes: &Attributes| {
        let length = u32::try_from(HEADER + 4 + attributes.0.len()).unwrap_or(u32::MAX);
        all.extend(length.to_ne_bytes());
        all.extend(kind.to_ne_bytes());
        all.extend((flags | REQUEST).to_ne_bytes());
        all.extend(number.to_ne_bytes());
        all.extend(0_u32.to_ne_bytes());
        all.extend([family, 0]);
        all.extend(resource.to_be_bytes());
        all.extend(&attributes.0);
        number += 1;
    };
    let none = Attributes::default();
    message(BEGIN, 0, 0, NETFILTER, &none);
    let mut command = |kind: u16, flags: u16, attributes: Attributes| {
        message(NETFILTER << 8 | kind, flags | ACKNOWLEDGE, INET, 0, &attributes);
    };
    let table = || Attributes::default().text(1, TABLE);
    // A table can be deleted if there is one.
    command(NEW_TABLE, CREATE, table());
    command(DELETE_TABLE, 0, table());
    command(NEW_TABLE, CREATE, table());
    for Chain { hook, rules } in chains {
        let (name, place) = match hook {
            Hook::Input => ("input", 1),
            Hook::Forward => ("forward", 2),
        };
        let hook = Attributes::default().number(1, place).bytes(2, &PRIORITY.to_be_bytes());
        command(NEW_CHAIN, CREATE, table().text(3, name).list(4, hook).number(5, ACCEPT).text(7, "filter"));
        for rule in rules {
            command(NEW_RULE, CREATE | APPEND, table().text(2, name).list(4, expressions(rule)));
        }
    }
    message(END, 0, 0, NETFILTER, &none);
    // The first and the last message have none.
    (all, number.saturating_sub(2))
}

// --- expressions ---------------------------------------------------------------------------

const ACCEPT: u32 = 1;
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

fn expressions(Rule(matches, verdict): &Rule) -> Attributes {
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
        const FAMILY: u32 = 15;
        const PROTOCOL: u32 = 16;
        const IPV4: u8 = 2;
        const IPV6: u8 = 10;
        const ICMP6: u8 = 58;
        const STATE: u32 = 0;
        const STATE_NEW: u32 = 8;
        match part {
            Match::From(interface) => {
                self.meta(FROM);
                self.compare(Compare::Equal, &interface_name(interface));
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
            Match::New => {
                self.add("ct", Attributes::default().number(1, REGISTER).number(2, STATE));
                self.mask(&STATE_NEW.to_ne_bytes());
                self.compare(Compare::Unequal, &[0; 4]);
            }
        }
    }

    fn add_verdict(&mut self, verdict: Verdict) {
        const DROP: u32 = 0;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_whole_messages() {
        let rule = |matches| Rule(matches, Verdict::Reject);
        let chains = [Chain {
            hook: Hook::Forward,
            rules: vec![
                rule(vec![Match::From("eth0".to_owned()), Match::NotThrough("eth1".to_owned()), Match::New]),
                rule(vec![Match::To("10.0.0.0/8".parse().unwrap()), Match::Ports(6, 53..=53)]),
                rule(vec![Match::To("fd00::5".parse().unwrap()), Match::Icmp6(135)]),
            ],
        }];
        let (batch, awaited) = batch(&chains);
        let (mut left, mut kinds) = (batch.as_slice(), Vec::new());
        while !left.is_empty() {
            let length = u32::from_ne_bytes(left[..4].try_into().unwrap()) as usize;
            assert_eq!(length % 4, 0);
            kinds.push(u16::from_ne_bytes(left[4..6].try_into().unwrap()));
            left = &left[length..];
        }
        let ours = 10 << 8;
        assert_eq!(kinds, [16, ours, ours + 2, ours, ours + 3, ours + 6, ours + 6, ours + 6, 17]);
        assert_eq!(awaited as usize, kinds.len() - 2);
    }

    #[test]
    fn the_kernel_s_answers_are_read() {
        let message = |kind: u16, code: i32| {
            [&36_u32.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], &code.to_ne_bytes(), &[0; 16]].concat()
        };
        let both = [message(2, 0), message(2, -1)].concat();
        let (code, rest) = acknowledgement(&both).unwrap();
        assert_eq!((code, rest.len()), (Some(0), 36));
        assert_eq!(acknowledgement(rest).unwrap(), (Some(-1), &[][..]));
        assert_eq!(acknowledgement(&message(3, 0)).unwrap().0, None);
        for cut in [&both[..3], &both[..20], &[4, 0, 0, 0, 2, 0][..]] {
            assert!(acknowledgement(cut).is_none());
        }
    }
}
