//! `wharfd firewall`: the rules of a pod's network in which engines run steps. They are a table of nftables of their
//! own, which no engine touches. Set before there is an engine, in one transaction: there is no engine without them.
//!
//! Steps reach the internet, the pod's resolver on port 53, and what the operator grants. They reach neither the
//! addresses of private networks and of this node's, nor the pod itself, nor one another.

mod attributes;
mod network;
mod nftables;
mod place;
mod rules;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser;

pub use network::{Grant, Network, Parse};
use nftables::SetError;
use place::{Place, PlaceError};

use crate::{fault::causes, names::print_usage};

/// The word after `wharfd` that asks for it.
pub const COMMAND: &str = "firewall";

/// Lets the steps of builds reach the internet alone. For a pod's network, before an engine runs there.
#[derive(Debug, Parser)]
#[command(name = "wharfd firewall", version, max_term_width = 100)]
struct Flags {
    /// Address or network that steps reach though it is refused otherwise, with a port or without:
    /// 10.0.0.5:5000, 10.0.0.0/8, [fd00::5]:443; repeatable
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    allow: Vec<Grant>,

    /// Address or network that they do not reach, besides all that are not public; repeatable. Of two networks the
    /// narrower decides
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    refuse: Vec<Network>,
}

/// Why the rules are not set.
#[derive(Debug, thiserror::Error)]
enum Failed {
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
        Err(error) => {
            said(&format!("the rules are not set: {}", causes(&error)));
            ExitCode::FAILURE
        }
    }
}

fn set(flags: &Flags) -> Result<String, Failed> {
    let place = Place::look()?;
    nftables::set(&rules::chains(&place, &flags.allow, &flags.refuse))?;
    let list = |items: Vec<String>| if items.is_empty() { "-".to_owned() } else { items.join(" ") };
    Ok(format!(
        "set; uplinks: {}; resolvers: {}; allowed: {}; refused besides: {}",
        list(place.uplinks.iter().cloned().collect()),
        list(place.resolvers.iter().map(ToString::to_string).collect()),
        list(flags.allow.iter().map(ToString::to_string).collect()),
        list(place.networks.iter().chain(&flags.refuse).map(ToString::to_string).collect()),
    ))
}
