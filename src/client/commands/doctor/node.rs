//! The checks that wharfd answers.

use std::time::{Duration, SystemTime};

use tokio::time::timeout;
use tonic::{Status, metadata::MetadataMap};

use super::{check::Check, seconds};
use crate::{
    client::{
        commands::info,
        connect::{Address, Connection, NO_ANSWER},
        exit::{Exit, Failure},
        namespace::{Named, listed_as},
        token::Token,
    },
    wire::v1::{
        CheckPolicyRequest, EngineInfo, EngineState, GetInfoRequest, GetInfoResponse,
        node_service_client::NodeServiceClient, policy_service_client::PolicyServiceClient,
    },
};

const CONNECTION: &str = "connection";
const IDENTITY: &str = "identity";
const NAMESPACE: &str = "namespace";
const POLICY: &str = "policy";
const ENGINE: &str = "engine";
const DISK: &str = "disk";
const CLOCK: &str = "clock";

/// The version of the API that this client speaks.
const API: &str = "wharf.v1";
/// wharfd answers within seconds, also if an engine does not.
const PATIENCE: Duration = Duration::from_secs(20);
/// A signed token may be issued this far in wharfd's future.
const SKEW_SECONDS_MAX: f64 = 10.0;
/// wharfd tells whole seconds, and may tell the last one once more.
const TOLD_SECONDS: f64 = 2.0;

/// The checks of a node that there is no connection to.
pub(super) fn skipped(why: &str) -> Vec<Check> {
    let subjects = [CONNECTION, IDENTITY, NAMESPACE, POLICY, ENGINE, DISK, CLOCK];
    subjects.into_iter().map(|subject| Check::skipped(subject, why)).collect()
}

/// Connects to wharfd, and asks it.
pub(super) async fn examine(address: Address, token: Token, namespace: Result<Named, Failure>) -> Vec<Check> {
    let unreachable = |failure| {
        let mut checks = skipped("there is no connection");
        if let Some(check) = checks.first_mut() {
            *check = Check::failed(CONNECTION, failure).otherwise("wharfd's log may say why");
        }
        checks
    };
    let connection = match address.connect(token).await {
        Ok(connection) => connection,
        Err(failure) => return unreachable(failure),
    };
    let begun = seconds(SystemTime::now());
    let mut nodes = NodeServiceClient::new(connection.clone());
    let asked = timeout(PATIENCE, nodes.get_info(GetInfoRequest { namespace: None })).await;
    let ended = seconds(SystemTime::now());
    let clock = |told: &MetadataMap| clock(told, begun, ended);
    match asked {
        Ok(Ok(response)) => {
            let clock = clock(response.metadata());
            let info = response.into_inner();
            let mut checks = vec![connected(&info), identity(&info)];
            checks.extend(policy(connection, namespace).await);
            checks.extend(engines(&info));
            checks.push(clock);
            checks
        }
        Ok(Err(status)) => {
            let clock = clock(status.metadata());
            let failure = Failure::from(status);
            if failure.exit != Exit::Denied {
                return unreachable(failure);
            }
            let mut checks = vec![Check::ok(CONNECTION, format!("wharfd answers at {address}"))];
            let hint =
                "wharfd's operator decides whom it serves, by which proof: `[[serve]]` in its configuration";
            checks.push(Check::failed(IDENTITY, failure).otherwise(hint));
            let unknown = |subject| Check::skipped(subject, "wharfd does not know you");
            checks.extend([NAMESPACE, POLICY, ENGINE, DISK].map(unknown));
            checks.push(clock);
            checks
        }
        Err(_) => unreachable(
            Failure::new(
                Exit::NoDaemon,
                format!("wharfd at {address} has not answered for {} s", PATIENCE.as_secs()),
            )
            .hint(NO_ANSWER),
        ),
    }
}

fn connected(info: &GetInfoResponse) -> Check {
    let (server, client) = (&info.version, env!("CARGO_PKG_VERSION"));
    if info.api_versions.iter().any(|version| version == API) {
        return Check::ok(CONNECTION, format!("wharfd {server} answers; this client is {client}"));
    }
    let text = format!("wharfd {server} does not speak {API}, but {}", info.api_versions.join(", "));
    Check::failed(CONNECTION, Failure::new(Exit::Failed, text).hint("use a client of wharfd's own version"))
}

fn identity(info: &GetInfoResponse) -> Check {
    Check::ok(IDENTITY, format!("you are {}, and may act in {}", info.caller, info.namespaces))
}

/// The namespace, and the policy for its job.
async fn policy(connection: Connection, namespace: Result<Named, Failure>) -> [Check; 2] {
    let without = |failure| {
        let hint = "name a namespace that is yours with --namespace or WHARF_NAMESPACE";
        let check = Check::failed(NAMESPACE, failure).otherwise(hint);
        [check, Check::skipped(POLICY, "there is no namespace to ask about")]
    };
    let named = match namespace {
        Ok(named) => named,
        Err(failure) => return without(failure),
    };
    let request = CheckPolicyRequest { namespace: named.to_wire(), ..CheckPolicyRequest::default() };
    let mut policies = PolicyServiceClient::new(connection);
    let asked = timeout(PATIENCE, policies.check_policy(request)).await;
    let answer = match asked.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))) {
        Ok(answer) => answer.into_inner(),
        Err(status) => return without(status.into()),
    };
    let shown = answer.namespace.as_ref().map_or_else(|| named.to_string(), listed_as);
    let namespace = Check::ok(NAMESPACE, format!("{shown}, by the rule `{}`", answer.rule));
    let policy = match answer.policy.as_str() {
        "none" => Check::failed(
            POLICY,
            Failure::new(Exit::Denied, "no `[[policy]]` entry is for the job: it may do nothing")
                .hint("wharfd's operator has to add one, or to widen another"),
        ),
        "built-in" => Check::ok(POLICY, "the built-in rules"),
        name => Check::ok(POLICY, format!("the entry `{name}`; `wharf policy check` shows it")),
    };
    [namespace, policy]
}

/// The caller's engine and its disk, and the others that are down.
fn engines(info: &GetInfoResponse) -> Vec<Check> {
    let Some(own) = info.engines.iter().find(|engine| engine.name == info.engine) else {
        return [ENGINE, DISK].map(|subject| Check::skipped(subject, "wharfd does not say")).into();
    };
    let mut checks = match own.state() {
        EngineState::Up => {
            let EngineInfo { name, version, api_version, platform, image_store, .. } = own;
            let about =
                format!("`{name}`: {version} (API {api_version}), {platform}, {image_store} image store");
            vec![Check::ok(ENGINE, about), disk(own)]
        }
        EngineState::Down | EngineState::Unspecified => {
            vec![Check::failed(ENGINE, info::down(own)), Check::skipped(DISK, "the engine is down")]
        }
    };
    let others = info.engines.iter().filter(|engine| engine.name != own.name);
    checks.extend(others.filter(|engine| engine.state() == EngineState::Down).map(|engine| {
        let text = format!("another engine, `{}`, is down: {}", engine.name, engine.cause);
        Check::warning(ENGINE, text, "its own callers cannot build".to_owned())
    }));
    checks
}

fn disk(engine: &EngineInfo) -> Check {
    if !engine.refuses_builds.is_empty() {
        let failure = Failure::new(Exit::Unavailable, engine.refuses_builds.clone());
        return Check::failed(
            DISK,
            failure.hint("wharfd removes what nobody uses; if that is not enough, the node's operator has to make room"),
        );
    }
    match &engine.disk {
        Some(disk) if !disk.cause.is_empty() => Check::warning(
            DISK,
            info::disk(disk),
            "wharfd cannot keep the engine's disk from filling up: name it with `disk` in `[engines.NAME]`"
                .to_owned(),
        ),
        Some(disk) if disk.total > 0 => Check::ok(DISK, info::disk(disk)),
        _ => Check::ok(DISK, "the engine has space for builds, or nobody watches it"),
    }
}

/// Compares wharfd's clock with this machine's, by the time of an answer.
fn clock(told: &MetadataMap, begun: f64, ended: f64) -> Check {
    let date = told.get("date").and_then(|date| date.to_str().ok()).and_then(http_date);
    let Some(server) = date else { return Check::skipped(CLOCK, "wharfd does not tell its time") };
    let behind = (begun - (server + TOLD_SECONDS)).max(0.0);
    let ahead = (server - ended).max(0.0);
    let (skew, which) = if behind > 0.0 { (behind, "behind") } else { (ahead, "ahead of") };
    if skew <= SKEW_SECONDS_MAX {
        return Check::ok(CLOCK, "wharfd's time is that of this machine");
    }
    Check::warning(
        CLOCK,
        format!("wharfd's clock is {} s {which} this machine's", skew.round()),
        "synchronise both (NTP): tokens and certificates are valid by the clock".to_owned(),
    )
}

/// The seconds since 1970 of an HTTP date (RFC 9110, section 5.6.7).
fn http_date(text: &str) -> Option<f64> {
    httpdate::parse_http_date(text).ok().map(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(date: &str, begun: f64) -> String {
        let mut map = MetadataMap::new();
        if !date.is_empty() {
            map.insert("date", date.parse().unwrap());
        }
        clock(&map, begun, begun + 0.5).line()
    }

    #[test]
    fn a_clock_is_wrong_by_more_than_what_is_told() {
        const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
        const AT: f64 = 784_111_777.0;
        assert_eq!(http_date(DATE), Some(AT));
        for fine in [AT - 10.0, AT, AT + 1.9, AT + 11.0] {
            assert!(told(DATE, fine).starts_with("ok "), "{}", told(DATE, fine));
        }
        assert!(told(DATE, AT + 62.0).contains("60 s behind this machine's"));
        assert!(told(DATE, AT - 60.5).contains("60 s ahead of this machine's"));
        for none in
            ["", "yesterday", "Sun, 06 Abc 1994 08:49:37 GMT", "Sun, 6 Nov", "Sun, 99 Nov 1994 08:49:37 GMT"]
        {
            assert!(told(none, AT).starts_with("skipped "), "{none}");
        }
    }
}
