//! The parts of the rules: chains of rules of matches and a verdict.

use std::ops::RangeInclusive;

use super::Network;

/// A chain at one of the kernel's hooks, with the verdict for what none of its rules decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) hook: Hook,
    pub(super) rules: Vec<Rule>,
    pub(super) otherwise: Otherwise,
}

/// Where packets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// To an address of this network namespace.
    Input,
    /// From one interface to another, also within a bridge, if the kernel's br_netfilter is there.
    Forward,
    /// From a process in this network namespace.
    Output,
    /// From one port of a bridge to another, whatever the frame carries. The others see IP alone, and none with a tag of
    /// a VLAN.
    Bridge,
}

/// What a chain does with a packet that no rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Otherwise {
    Accept,
    Drop,
}

/// All of the matches, then the verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule(pub(super) Vec<Match>, pub(super) Verdict);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// The interface that brings the packet.
    From(String),
    /// The interface through which it leaves.
    Through(String),
    /// The interface through which it leaves is another one.
    NotThrough(String),
    /// The group of the process that sends it.
    Group(u32),
    /// The destination.
    To(Network),
    /// A protocol's destination ports.
    Ports(u8, RangeInclusive<u16>),
    /// The kind of a message of ICMPv6.
    Icmp6(u8),
    /// Its place in a connection.
    State(State),
}

/// A packet's place in a connection, as the kernel tracks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It belongs to none, and begins none.
    Invalid,
    /// It belongs to one.
    Established,
    /// It belongs to one, or is an error of ICMP about one.
    Known,
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
