//! `wharf doctor`.

mod agent;
mod check;
mod node;

use std::time::{SystemTime, UNIX_EPOCH};

use super::Call;
use crate::client::{
    args::{DoctorArgs, TableFormat},
    exit::{Exit, Failure, Stop},
    print,
};
use check::{Check, State};

pub(super) async fn run(mut call: Call, args: DoctorArgs) -> Result<(), Stop> {
    let (mut checks, address) = agent::address(&call);
    let (token, check) = agent::token(&call);
    checks.extend(check);
    match (address, token) {
        (Some(address), Some(token)) => {
            let examining = node::examine(address, token, call.namespace());
            let examining = Box::pin(async { Ok(examining.await) });
            checks.extend(call.signals.guard(examining).await?);
        }
        (None, _) => checks.extend(node::skipped("there is no socket or address to connect to")),
        (_, None) => checks.extend(node::skipped("the token cannot be read")),
    }
    checks.extend(agent::registries(&call.env));
    match args.format {
        TableFormat::Table => print::text(&checks.iter().map(Check::line).collect::<String>())?,
        TableFormat::Json => checks.iter().try_for_each(|check| print::line(check.json()))?,
    }
    let failed: Vec<_> =
        checks.iter().filter(|check| check.state == State::Failed).map(|check| check.subject).collect();
    match failed.as_slice() {
        [] => Ok(()),
        [one] => Err(Failure::new(Exit::Failed, format!("a check has failed: {one}")).into()),
        several => {
            let text = format!("{} checks have failed: {}", several.len(), several.join(", "));
            Err(Failure::new(Exit::Failed, text).into())
        }
    }
}

/// Seconds since 1970, as tokens and HTTP tell times.
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
