//! nftables, as far as the rules need it: tables, in the kernel's own messages (`linux/netfilter/nf_tables.h`). The
//! engine's image may lack the program `nft`, and wharfd's has nothing but wharfd.

use std::{io, time::Duration};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto, socket_with,
    sockopt::{
        Timeout, set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force, set_socket_timeout,
    },
};

use super::{
    attributes::{Attributes, padded},
    chain::{Chain, Hook, Otherwise},
    expressions::{ACCEPT, DROP, expressions},
};

const TABLE: &str = "wharf";
/// Before the chains of engines, which have 0.
const PRIORITY: i32 = -10;
/// Behind br_netfilter, by which a refused packet of IP meets the chain `forward` first: that one tells its sender.
const BRIDGE_PRIORITY: i32 = 10;

/// Why the rules are not set.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetError {
    #[error("this process lacks the capability NET_ADMIN")]
    Forbidden,
    #[error(
        "the kernel does not take the rules: it may lack nf_tables, its family `bridge`, nft_reject_inet or nft_ct"
    )]
    Kernel(#[source] io::Error),
    #[error("cannot talk to the kernel's nf_tables")]
    Socket(#[from] Errno),
    #[error("the kernel's answer is cut off")]
    Answer,
}

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Sets the tables in this process's network namespace in place of those that are there: all of it, or nothing.
pub(super) fn set(chains: &[Chain]) -> Result<(), SetError> {
    let batch = batch(chains);
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    // A transaction is one message, and an error repeats the command that it is about: far more than fits otherwise.
    for force in [set_socket_send_buffer_size_force, set_socket_recv_buffer_size_force] {
        match force(&socket, batch.len().saturating_mul(2)) {
            // Without the capability the kernel refuses the first command, too.
            Ok(()) | Err(Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let sent = sendto(&socket, &batch, SendFlags::empty(), &netlink::SocketAddrNetlink::new(0, 0))?;
    if sent != batch.len() {
        return Err(SetError::Answer);
    }
    let mut buffer = vec![0; 65536];
    loop {
        let (length, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut left = buffer.get(..length).unwrap_or_default();
        if left.is_empty() {
            return Err(SetError::Answer);
        }
        while !left.is_empty() {
            let (code, rest) = acknowledgement(left).ok_or(SetError::Answer)?;
            match code {
                None => {}
                // Errors come first, that of the transaction as a whole before all others.
                Some(0) => return Ok(()),
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

/// The families: IPv4 with IPv6, and frames within a bridge.
const INET: u8 = 1;
const BRIDGE: u8 = 7;

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// The messages of one transaction. Only its last command asks for an acknowledgement: the kernel tells every error, and
/// a thousand acknowledgements would not fit into the socket.
fn batch(chains: &[Chain]) -> Vec<u8> {
    const NETFILTER: u16 = 10;
    const BEGIN: u16 = 16;
    const END: u16 = 17;
    const REQUEST: u16 = 1;
    const ACKNOWLEDGE: u16 = 4;
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
    let mut command = |kind: u16, flags: u16, family: u8, attributes: Attributes| {
        message(NETFILTER << 8 | kind, flags, family, 0, &attributes);
    };
    let table = || Attributes::default().text(1, TABLE);
    for family in [INET, BRIDGE] {
        // A table can be deleted if there is one.
        command(NEW_TABLE, CREATE, family, table());
        command(DELETE_TABLE, 0, family, table());
        command(NEW_TABLE, CREATE, family, table());
    }
    for Chain { hook, rules, otherwise } in chains {
        let (family, name, place, priority) = match hook {
            Hook::Input => (INET, "input", 1, PRIORITY),
            Hook::Forward => (INET, "forward", 2, PRIORITY),
            Hook::Output => (INET, "output", 3, PRIORITY),
            Hook::Bridge => (BRIDGE, "forward", 2, BRIDGE_PRIORITY),
        };
        let policy = match otherwise {
            Otherwise::Accept => ACCEPT,
            Otherwise::Drop => DROP,
        };
        let hook = Attributes::default().number(1, place).bytes(2, &priority.to_be_bytes());
        let chain = table().text(3, name).list(4, hook).number(5, policy).text(7, "filter");
        command(NEW_CHAIN, CREATE, family, chain);
        for rule in rules {
            command(NEW_RULE, CREATE | APPEND, family, table().text(2, name).list(4, expressions(rule)));
        }
    }
    // It changes nothing.
    command(NEW_TABLE, CREATE | ACKNOWLEDGE, INET, table());
    message(END, 0, 0, NETFILTER, &none);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::chain::{Match, Rule, State, Verdict};

    #[test]
    fn a_batch_has_whole_messages() {
        let rule = |matches| Rule(matches, Verdict::Reject);
        let chains = [Chain {
            hook: Hook::Forward,
            rules: vec![
                rule(vec![
                    Match::From("eth0".to_owned()),
                    Match::NotThrough("eth1".to_owned()),
                    Match::State(State::Known),
                ]),
                rule(vec![Match::To("10.0.0.0/8".parse().unwrap()), Match::Ports(6, 53..=53)]),
                rule(vec![Match::To("fd00::5".parse().unwrap()), Match::Icmp6(135)]),
            ],
            otherwise: Otherwise::Drop,
        }];
        let batch = batch(&chains);
        let (mut left, mut kinds, mut flags) = (batch.as_slice(), Vec::new(), Vec::new());
        while !left.is_empty() {
            let length = u32::from_ne_bytes(left[..4].try_into().unwrap()) as usize;
            assert_eq!(length % 4, 0);
            kinds.push(u16::from_ne_bytes(left[4..6].try_into().unwrap()));
            flags.push(u16::from_ne_bytes(left[6..8].try_into().unwrap()));
            left = &left[length..];
        }
        let ours = 10 << 8;
        let tables = [ours, ours + 2, ours].repeat(2);
        let rest = [ours + 3, ours + 6, ours + 6, ours + 6, ours, 17];
        assert_eq!(kinds, [&[16], &tables[..], &rest].concat());
        // The last command alone is answered.
        let answered: Vec<_> = flags.iter().map(|flags| flags & 4 != 0).collect();
        assert_eq!(answered.iter().position(|answered| *answered), Some(kinds.len() - 2));
        assert_eq!(answered.iter().filter(|answered| **answered).count(), 1);
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
