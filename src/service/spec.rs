//! `wharf.v1.BuildSpec`, checked.

use std::{collections::BTreeMap, iter, net::IpAddr};

use crate::{
    build::spec::{BuildSpec, Output, PATH_BYTES_MAX},
    buildkit::solve::{Form, Layout},
    config::StepNetwork,
    fault::{Fault, Reason},
    names::{RESERVED_HOST, Reference, is_reserved_host, printable},
    wire::v1::{self, output},
};

pub(super) const TAGS_MAX: usize = 128;
const MORE_PLATFORMS_MAX: usize = 15;
/// Linux has 16 limits (setrlimit(2)).
pub(super) const ULIMITS_MAX: usize = 64;
/// Each costs a stream of the session, and BuildKit's pass over the files.
pub(super) const OUTPUTS_MAX: usize = 16;
/// Limits that let a step before everything else on the node.
const NOT_OF_STEPS: [&str; 2] = ["nice", "rtprio"];
const NAME_BYTES_MAX: usize = 255;
/// The total size of all arguments and labels; execve(2) allows a step even less.
pub(super) const VALUES_BYTES_MAX: usize = 1 << 20;

/// Checks the parameters of a call.
pub(super) fn spec(spec: v1::BuildSpec) -> Result<BuildSpec, Fault> {
    let total: usize =
        spec.build_args.iter().chain(&spec.labels).map(|(key, value)| key.len() + value.len()).sum();
    if total > VALUES_BYTES_MAX {
        return Err(Fault::invalid(
            "spec.build_args",
            format!("build arguments and labels exceed {} MiB together", VALUES_BYTES_MAX >> 20),
        ));
    }
    let outputs = outputs(&spec.outputs)?;
    let tags = tags("spec.tags", &spec.tags)?;
    if !outputs.contains(&Output::Image) && !tags.is_empty() {
        return Err(Fault::invalid("spec.tags", "there is nothing to name: no output is an image"));
    }
    if spec.push && tags.is_empty() {
        let text = "there is nothing to push: the image has no tag";
        return Err(Fault::invalid("spec.push", text).hint("give the image a tag"));
    }
    Ok(BuildSpec {
        tags,
        dockerfile: dockerfile(spec.dockerfile)?,
        target: name("spec.target", spec.target)?,
        build_args: values("spec.build_args", spec.build_args)?,
        labels: values("spec.labels", spec.labels)?,
        no_cache: spec.no_cache,
        pull: spec.pull,
        push: spec.push,
        add_hosts: spec.add_hosts.iter().map(|entry| add_host(entry)).collect::<Result<_, _>>()?,
        network: network(&spec.network)?,
        shm_size: u64::try_from(spec.shm_size)
            .map_err(|_| Fault::invalid("spec.shm_size", "the size of /dev/shm cannot be negative"))?,
        ulimits: ulimits(spec.ulimits)?,
        platforms: platforms(spec.platform, spec.more_platforms)?,
        outputs,
    })
}

fn outputs(outputs: &[v1::Output]) -> Result<Vec<Output>, Fault> {
    if outputs.len() > OUTPUTS_MAX {
        let text = format!("{} outputs; at most {OUTPUTS_MAX} are allowed", outputs.len());
        return Err(Fault::invalid("spec.outputs", text));
    }
    if outputs.is_empty() {
        return Ok(vec![Output::Image]);
    }
    let mut checked = Vec::with_capacity(outputs.len());
    for (index, output) in outputs.iter().enumerate() {
        let invalid = |text: &str| Fault::invalid(format!("spec.outputs[{index}]"), text.to_owned());
        let output = match &output.output {
            Some(output::Output::Image(v1::ImageOutput {})) if checked.contains(&Output::Image) => {
                return Err(invalid("a build makes one image").hint("give it several tags"));
            }
            Some(output::Output::Image(v1::ImageOutput {})) => Output::Image,
            Some(output::Output::Local(v1::LocalOutput {})) => Output::Files(Form::Tree),
            Some(output::Output::Tar(v1::TarOutput {})) => Output::Files(Form::File),
            Some(output::Output::CacheOnly(v1::CacheOnlyOutput {})) => Output::CacheOnly,
            Some(output::Output::Oci(v1::OciOutput { names })) => {
                Output::Archive(Layout::Oci, tags(&format!("spec.outputs[{index}].oci.names"), names)?)
            }
            Some(output::Output::Docker(v1::DockerOutput { names })) => {
                Output::Archive(Layout::Docker, tags(&format!("spec.outputs[{index}].docker.names"), names)?)
            }
            None => return Err(invalid("it is of a kind that this wharfd does not know")),
        };
        checked.push(output);
    }
    Ok(checked)
}

/// The platforms of a build; an older client names only one.
fn platforms(first: String, more: Vec<String>) -> Result<Vec<String>, Fault> {
    if more.len() > MORE_PLATFORMS_MAX {
        let text = format!("{} more platforms; at most {MORE_PLATFORMS_MAX} are allowed", more.len());
        return Err(Fault::invalid("spec.more_platforms", text));
    }
    let more = more.into_iter().map(|more| name("spec.more_platforms", more));
    iter::once(name("spec.platform", first)).chain(more).collect()
}

fn tags(list: &str, tags: &[String]) -> Result<Vec<Reference>, Fault> {
    if tags.len() > TAGS_MAX {
        return Err(Fault::invalid(
            list.to_owned(),
            format!("{} tags; at most {TAGS_MAX} are allowed", tags.len()),
        ));
    }
    let mut checked = Vec::with_capacity(tags.len());
    for (index, tag) in tags.iter().enumerate() {
        let field = || format!("{list}[{index}]");
        let reference = Reference::parse(tag).map_err(|error| Fault::invalid(field(), error.to_string()))?;
        if reference.digest().is_some() {
            let text = format!("`{}`: a built image cannot be given a digest", printable(tag));
            return Err(Fault::invalid(field(), text).hint("leave out `@sha256:…`"));
        }
        let reference = reference.tagged();
        if !checked.contains(&reference) {
            checked.push(reference);
        }
    }
    Ok(checked)
}

fn dockerfile(path: String) -> Result<String, Fault> {
    if path.is_empty() {
        return Ok("Dockerfile".to_owned());
    }
    let leaves = path.split('/').any(|component| component == "..");
    if path.chars().any(char::is_control) {
        let text = format!("the Dockerfile's name `{}` contains a control character", printable(&path));
        return Err(Fault::invalid("spec.dockerfile", text).hint("rename the file"));
    }
    if path.len() > PATH_BYTES_MAX || path.starts_with('/') || leaves {
        let text = format!("`{}` is not a path inside the Dockerfile's directory", printable(&path));
        return Err(Fault::invalid("spec.dockerfile", text));
    }
    Ok(path)
}

fn name(field: &'static str, name: String) -> Result<String, Fault> {
    if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(Fault::invalid(field, format!("`{}` is not a name", printable(&name))));
    }
    Ok(name)
}

fn values(
    field: &'static str,
    values: std::collections::HashMap<String, String>,
) -> Result<BTreeMap<String, String>, Fault> {
    if values.keys().any(|key| key.is_empty() || key.contains(['=', '\0'])) {
        return Err(Fault::invalid(field, "a name is empty or contains `=` or a NUL"));
    }
    Ok(values.into_iter().collect())
}

/// `host:ip`, `host=ip`, also with an IPv6 address, in brackets or not.
fn add_host(entry: &str) -> Result<(String, IpAddr), Fault> {
    let field = "spec.add_hosts";
    let invalid = |why: &str| Fault::invalid(field, format!("`{}`: {why}", printable(entry)));
    let (host, address) = entry
        .split_once('=')
        .or_else(|| entry.split_once(':'))
        .ok_or_else(|| invalid("write it as `host:ip`"))?;
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if host.is_empty() || host.len() > NAME_BYTES_MAX || !host.bytes().all(valid) {
        return Err(invalid("its host is not a host's name"));
    }
    if is_reserved_host(host) {
        return Err(invalid(&format!("names under `{RESERVED_HOST}` are reserved")));
    }
    if address == "host-gateway" {
        let text = "`host-gateway` is the node, which builds may not reach by name";
        return Err(Fault::new(Reason::GraphDenied, text).hint("use an IP address"));
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let address = bare.parse().map_err(|_| invalid("its address is not an IP address"))?;
    Ok((host.to_owned(), address))
}

pub(super) fn network(network: &str) -> Result<StepNetwork, Fault> {
    match network {
        "" | "default" => Ok(StepNetwork::Default),
        "none" => Ok(StepNetwork::None),
        "host" => Err(Fault::new(
            Reason::GraphDenied,
            "the network `host` is not allowed: steps must not use the node's network",
        )
        .hint("use `default` or `none`")),
        other => {
            Err(Fault::invalid("spec.network", format!("`{}` is not a network for builds", printable(other)))
                .hint("use `default` or `none`"))
        }
    }
}

fn ulimits(ulimits: Vec<v1::Ulimit>) -> Result<Vec<(String, i64, i64)>, Fault> {
    if ulimits.len() > ULIMITS_MAX {
        let text = format!("{} limits; at most {ULIMITS_MAX} are allowed", ulimits.len());
        return Err(Fault::invalid("spec.ulimits", text));
    }
    let mut checked: Vec<(String, i64, i64)> = Vec::with_capacity(ulimits.len());
    for v1::Ulimit { name, soft, hard } in ulimits {
        let invalid = |why: &str| Fault::invalid("spec.ulimits", format!("`{}`: {why}", printable(&name)));
        if name.is_empty()
            || !name.bytes().all(|byte| byte.is_ascii_lowercase())
            || name.len() > NAME_BYTES_MAX
        {
            return Err(invalid("is not a limit's name"));
        }
        if NOT_OF_STEPS.contains(&name.as_str()) {
            return Err(invalid("the engine decides a step's share of the processors"));
        }
        if soft < -1 || hard < -1 || (hard != -1 && (soft == -1 || soft > hard)) {
            return Err(invalid("the soft limit exceeds the hard one"));
        }
        if checked.iter().any(|(other, ..)| *other == name) {
            return Err(invalid("is given twice"));
        }
        checked.push((name, soft, hard));
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut v1::BuildSpec)) -> Result<BuildSpec, Fault> {
        let mut spec = v1::BuildSpec::default();
        change(&mut spec);
        super::spec(spec)
    }

    #[test]
    fn an_empty_spec_is_a_build() {
        let spec = check(|_| {}).unwrap();
        assert_eq!(spec.dockerfile, "Dockerfile");
        assert_eq!(spec.network, StepNetwork::Default);
    }

    #[test]
    fn hosts_are_written_in_four_ways() {
        let spec = check(|spec| {
            spec.add_hosts = ["a:1.2.3.4", "b=::1", "c:[::1]", "d:::1"].map(str::to_owned).to_vec();
        });
        let hosts: Vec<_> =
            spec.unwrap().add_hosts.into_iter().map(|(host, ip)| format!("{host} {ip}")).collect();
        assert_eq!(hosts, ["a 1.2.3.4", "b ::1", "c ::1", "d ::1"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let field = |change: fn(&mut v1::BuildSpec)| check(change).unwrap_err().field().map(str::to_owned);
        assert_eq!(
            field(|spec| spec.tags = vec!["ok".into(), "Bad:".into()]).as_deref(),
            Some("spec.tags[1]")
        );
        assert_eq!(field(|spec| spec.dockerfile = "a/../../b".into()).as_deref(), Some("spec.dockerfile"));
        assert_eq!(field(|spec| spec.push = true).as_deref(), Some("spec.push"));
        assert_eq!(field(|spec| spec.shm_size = -1).as_deref(), Some("spec.shm_size"));
        assert_eq!(field(|spec| spec.add_hosts = vec!["a".into()]).as_deref(), Some("spec.add_hosts"));
        let limit = |name: usize| v1::Ulimit { name: "a".repeat(name), soft: 1, hard: 1 };
        let limits = |count: usize| check(|spec| spec.ulimits = (1..=count).map(limit).collect());
        assert!(limits(64).is_ok());
        assert_eq!(limits(65).unwrap_err().field(), Some("spec.ulimits"));
        let salted = |spec: &mut v1::BuildSpec| spec.add_hosts = vec!["x.Salt.WHARF.invalid:1.2.3.4".into()];
        assert_eq!(field(salted).as_deref(), Some("spec.add_hosts"));
        let host = check(|spec| spec.network = "host".into()).unwrap_err();
        assert_eq!(host.reason(), Reason::GraphDenied);
    }
}
