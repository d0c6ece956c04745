//! `wharfd firewall`: the rules of a pod's network in which engines run steps. They are tables of nftables of their
//! own, which no engine touches. Set before there is an engine, in one transaction: there is no engine without them.
//!
//! Steps reach the internet, the pod's resolver on port 53, and what the operator grants. They reach neither the
//! addresses of private networks and of this node's, nor the pod itself, nor one another, whatever a frame carries. An
//! engine that follows a redirect reaches no more than they do, and wharfd neither metadata services nor this node.

mod attributes;
mod chain;
mod expressions;
mod network;
mod nftables;
mod place;
mod rules;

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::Parser;

pub use network::{Bridge, Grant, Network, Parse};
use nftables::SetError;
use place::{Place, PlaceError};
use rules::Words;

use crate::{
    fault::causes,
    names::{print_usage, printable},
};

/// The word after `wharfd` that asks for it.
pub const COMMAND: &str = "firewall";

/// Lets the steps of builds reach the internet alone. For a pod's network, before an engine runs there.
#[derive(Debug, Parser)]
#[command(name = "wharfd firewall", version, max_term_width = 100)]
struct Flags {
    /// Address or network that steps and engines reach though it is refused otherwise, with ports or without:
    /// 10.0.0.5:5000, 10.0.0.0/8, [fd00::5]:443; repeatable
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    allow: Vec<Grant>,

    /// Address or network that neither they nor wharfd reach, such as this node's; repeatable. Of two networks the
    /// narrower decides
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    refuse: Vec<Network>,

    /// Network of the cluster's nodes, pods or Services, which steps do not reach within a network that --allow opens,
    /// unless that is as narrow; repeatable. --allow of many private addresses needs it
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    cluster: Vec<Network>,

    /// Group that wharfd alone runs as. It reaches registries in private networks, too; without this as little as steps
    #[arg(long, value_name = "GID")]
    group: Option<u32>,

    /// Address of an engine's bridge, with the length of its network: refused if that meets another one, a network of
    /// the pod's or a name server; repeatable
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    bridge: Vec<Bridge>,

    /// File that tells wharfd that the rules are set (`firewall` of its [engines.NAME]): removed at first, and made at
    /// the end
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// Why the rules are not set.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(
        "--allow {0} opens private addresses, of which some may be the cluster's: name the networks of its nodes, \
         pods and Services with --cluster (the chart's `firewall.clusterNetworks`), or allow single addresses"
    )]
    Wide(Grant),
    #[error(
        "{0} of the pod's own network has public addresses, as other pods may have, which steps would reach: name the \
         networks of the cluster's nodes, pods and Services with --cluster (the chart's `firewall.clusterNetworks`)"
    )]
    Public(Network),
    #[error("--bridge {0} meets {1}: give the engine another network (the chart's `engine.groups[].bridge`)")]
    Bridge(Bridge, String),
    #[error("cannot change `{}`, which is to tell of the rules", printable(&.0.to_string_lossy()))]
    Record(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Set(#[from] SetError),
}

/// Sets the rules. The arguments begin with the command's name.
pub fn run(arguments: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let flags = match Flags::try_parse_from(arguments) {
        Ok(flags) => flags,
        Err(error) => return ExitCode::from(print_usage(error)),
    };
    let said = |text: &str| {
        let _ = writeln!(io::stderr(), "wharfd firewall: {text}");
    };
    match set(&flags) {
        Ok(text) => {
            said(&text);
            ExitCode::SUCCESS
        }
        // They may be.
        Err(error @ Failed::Record(..)) => {
            said(&causes(&error));
            ExitCode::FAILURE
        }
        Err(error) => {
            said(&format!("the rules are not set: {}", causes(&error)));
            ExitCode::FAILURE
        }
    }
}

/// An engine whose steps cannot tell their own network from another does not start, or reaches nobody.
fn check_bridges(bridges: &[Bridge], place: &Place) -> Result<(), Failed> {
    for (index, bridge) in bridges.iter().enumerate() {
        let meets = |network: &Network| bridge.network.meets(network);
        let other = bridges.iter().take(index).find(|other| meets(&other.network));
        let network = place.networks.iter().find(|network| meets(network));
        let resolver = place.resolvers.iter().find(|resolver| meets(&(**resolver).into()));
        let met = other
            .map(|other| format!("the bridge {other}"))
            .or_else(|| network.map(|network| format!("{network} of the pod's own network")))
            .or_else(|| resolver.map(|resolver| format!("the name server {resolver}")));
        if let Some(met) = met {
            return Err(Failed::Bridge(*bridge, met));
        }
    }
    Ok(())
}

/// Pods with public addresses are reached by steps unless the operator names their network: it cannot be seen from here.
fn check_own(place: &Place, cluster: &[Network]) -> Result<(), Failed> {
    let is_known =
        |network: &&Network| rules::is_private(network) || cluster.iter().any(|known| known.holds(network));
    match place.networks.iter().find(|network| !is_known(network)) {
        Some(public) => Err(Failed::Public(*public)),
        None => Ok(()),
    }
}

fn set(flags: &Flags) -> Result<String, Failed> {
    if let Some(wide) = flags.allow.iter().find(|grant| flags.cluster.is_empty() && rules::is_wide(grant)) {
        return Err(Failed::Wide(wide.clone()));
    }
    if let Some(file) = &flags.record {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Failed::Record(file.clone(), error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    let place = Place::look()?;
    check_bridges(&flags.bridge, &place)?;
    check_own(&place, &flags.cluster)?;
    let words =
        Words { allow: &flags.allow, refuse: &flags.refuse, cluster: &flags.cluster, group: flags.group };
    nftables::set(&rules::chains(&place, &words))?;
    if let Some(file) = &flags.record {
        fs::write(file, "").map_err(|error| Failed::Record(file.clone(), error))?;
    }
    let list = |items: Vec<String>| if items.is_empty() { "-".to_owned() } else { items.join(" ") };
    Ok(format!(
        "set; uplinks: {}; resolvers: {}; allowed: {}; refused besides: {}",
        list(place.uplinks.iter().cloned().collect()),
        list(place.resolvers.iter().map(ToString::to_string).collect()),
        list(flags.allow.iter().map(ToString::to_string).collect()),
        list(
            place
                .networks
                .iter()
                .chain(&flags.refuse)
                .chain(&flags.cluster)
                .map(ToString::to_string)
                .collect()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_of_pods_have_to_be_named() {
        let network = |text: &str| text.parse::<Network>().unwrap();
        let place = |networks: &[&str]| Place {
            networks: networks.iter().map(|text| network(text)).collect(),
            ..Place::default()
        };
        let judged = |networks: &[&str], cluster: &[&str]| {
            let cluster: Vec<_> = cluster.iter().map(|text| network(text)).collect();
            check_own(&place(networks), &cluster).map_err(|error| error.to_string())
        };
        for private in ["10.1.2.0/24", "100.64.0.0/16", "169.254.1.1/32", "fd00::/64", "fe80::1/128"] {
            assert_eq!(judged(&["192.168.0.0/16", private], &[]), Ok(()), "{private}");
        }
        for (public, of_cluster) in
            [("2600:1f14:1::7/128", "2600:1f14:1::/56"), ("34.90.1.0/24", "34.90.0.0/16")]
        {
            let refused = judged(&["10.0.0.0/8", public], &["10.0.0.0/8"]).unwrap_err();
            assert!(refused.contains("--cluster") && refused.contains("public addresses"), "{refused}");
            assert_eq!(judged(&["10.0.0.0/8", public], &[of_cluster]), Ok(()), "{public}");
        }
    }
}
