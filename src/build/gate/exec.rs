//! The rules for a step: a sandbox on a network that policy allows, with mounts of its own job.

use bollard_buildkit_proto::pb::{
    CacheOpt, CacheSharingOpt, ExecOp, HostIp, Meta, Mount, MountContentCache, MountType, NetMode, SecretEnv,
    SecretOpt, SecurityMode, SshOpt, TmpfsOpt,
};

use super::{Gate, Refusal, refuse};
use crate::{
    build::isolation::SALT_ADDRESS,
    config::StepNetwork,
    fault::{Fault, Reason},
};

/// The most mounts of a step, and of a graph. BuildKit makes two mounts of the engine's own for each, for all steps of the
/// node: tens of thousands of them keep the kernel busy for many minutes, also after a cancel, and no step can begin.
const OF_STEP_MAX: usize = 64;
const MOUNTS_MAX: usize = 512;
/// The limit on the id of a cache mount or a secret.
const ID_BYTES_MAX: usize = 1024;
/// BuildKit keeps the step's whole text with each of its cache mounts, and shows it to every client that
/// lists them, in at most 16 MiB.
const CACHE_TEXT_BYTES_MAX: usize = 8 << 20;

/// The mounts of a graph. A secret in a variable counts as one: BuildKit asks for it as for a file, and holds it several
/// times while the step begins.
#[derive(Default)]
pub(super) struct Mounts {
    count: usize,
    /// The bytes of the texts that BuildKit keeps with cache mounts.
    text: usize,
}

impl Mounts {
    /// Counts the mounts of a step.
    fn add(&mut self, exec: &ExecOp, line: &dyn Fn() -> Option<u32>) -> Result<(), Refusal> {
        let has_root = exec.mounts.iter().any(|mount| mount.dest == "/");
        let count = exec.mounts.len() - usize::from(has_root) + exec.secretenv.len();
        self.count += count;
        for (count, max, of) in [(count, OF_STEP_MAX, "a step"), (self.count, MOUNTS_MAX, "a build")] {
            if count > max {
                let text =
                    format!("the build graph is refused: {of} may have at most {max} mounts (`RUN --mount`)");
                let hint = "mount a directory instead of single files";
                return Err(Fault::new(Reason::GraphDenied, text).hint(hint).at_line(line()).into());
            }
        }
        let command = exec.meta.iter().flat_map(|meta| &meta.args).map(|arg| arg.len() + 1).sum::<usize>();
        for mount in exec.mounts.iter().filter(|mount| mount.mount_type == i32::from(MountType::Cache)) {
            let id = mount.cache_opt.as_ref().map_or(0, |cache| cache.id.len());
            self.text += command + id + mount.dest.len();
            if self.text > CACHE_TEXT_BYTES_MAX {
                let mib = CACHE_TEXT_BYTES_MAX >> 20;
                return Err(refuse(format!(
                    "the texts of steps with cache mounts, once for each mount, have more than {mib} MiB: move long \
                     commands into files"
                )));
            }
        }
        Ok(())
    }
}

// No pattern here ends in `..`: a field that a newer BuildKit adds has to be judged before this compiles.
impl Gate<'_> {
    pub(super) fn exec(
        &self,
        exec: &ExecOp,
        line: &dyn Fn() -> Option<u32>,
        counted: &mut Mounts,
    ) -> Result<(), Refusal> {
        let ExecOp { meta, mounts, network, security, secretenv, cdi_devices } = exec;
        let network = match NetMode::try_from(*network) {
            Ok(NetMode::Unset) => StepNetwork::Default,
            Ok(NetMode::None) => StepNetwork::None,
            Ok(NetMode::Host) => {
                let text = "`RUN --network=host` is not allowed: the step would use the node's network";
                let hint = "omit `--network=host`";
                return Err(Fault::new(Reason::GraphDenied, text).hint(hint).into());
            }
            Err(_) => return Err(refuse("a step asks for a network mode that this wharfd does not know")),
        };
        self.namespace.network(network).map_err(|fault| fault.at_line(line()))?;
        match SecurityMode::try_from(*security) {
            Ok(SecurityMode::Sandbox) => {}
            Ok(SecurityMode::Insecure) | Err(_) => {
                let text = "`RUN --security=insecure` is not allowed: the step would be root on the node";
                let hint = "omit `--security=insecure`";
                return Err(Fault::new(Reason::GraphDenied, text).hint(hint).into());
            }
        }
        if !cdi_devices.is_empty() {
            return Err(refuse("`RUN --device` is not allowed: devices belong to the node"));
        }
        self.meta(meta.as_ref().ok_or_else(|| refuse("a step has no command"))?)?;
        mounts.iter().try_for_each(|mount| self.mount(mount))?;
        for SecretEnv { id, name: _, optional: _ } in secretenv {
            short("a secret", id)?;
        }
        counted.add(exec, line)
    }

    /// Judges a step's process.
    fn meta(&self, meta: &Meta) -> Result<(), Refusal> {
        let Meta {
            // The step's own, in its sandbox. The texts are limited with the graph (`dockerfile`).
            args: _,
            env: _,
            cwd: _,
            proxy_env: _,
            // Looked up in the step's own files: `width` counts such steps.
            user: _,
            extra_hosts,
            hostname,
            // Those of the call, which `service/spec` has judged.
            ulimit: _,
            cgroup_parent,
            // Empty directories that mounts have left in the step's own files.
            remove_mount_stubs_recursive: _,
            valid_exit_codes,
        } = meta;
        let salt = self.keys.salt_host();
        if !extra_hosts.iter().any(|HostIp { host, ip }| *host == salt && ip == SALT_ADDRESS) {
            return Err(refuse("a step's result would not be kept apart from other jobs'"));
        }
        if !cgroup_parent.is_empty() {
            return Err(refuse("a step may not choose its control group"));
        }
        if !hostname.is_empty() || !valid_exit_codes.is_empty() {
            return Err(refuse("a step asks for something that no Dockerfile can ask for"));
        }
        Ok(())
    }

    fn mount(&self, mount: &Mount) -> Result<(), Refusal> {
        let Mount {
            // A result of the graph, and where the step sees it.
            input,
            selector: _,
            dest: _,
            output: _,
            readonly: _,
            mount_type,
            tmpfs_opt,
            cache_opt,
            secret_opt,
            ssh_opt,
            result_id,
            content_cache,
        } = mount;
        // BuildKit takes any other negative number as a place in a list, and panics.
        if *input < -1 {
            return Err(refuse("a mount has an input that does not exist"));
        }
        // For containers of frontends.
        if !result_id.is_empty() || *content_cache != i32::from(MountContentCache::Default) {
            return Err(refuse("a mount asks for something that no Dockerfile can ask for"));
        }
        match MountType::try_from(*mount_type) {
            Ok(MountType::Bind) => Ok(()),
            Ok(MountType::Tmpfs) => match tmpfs_opt {
                // Its files count as the step's memory.
                Some(TmpfsOpt { size: _ }) | None => Ok(()),
            },
            Ok(MountType::Secret) => match secret_opt {
                Some(SecretOpt { id, uid: _, gid: _, mode: _, optional: _ }) => short("a secret", id),
                None => Ok(()),
            },
            Ok(MountType::Cache) => {
                let Some(CacheOpt { id, sharing }) = cache_opt else {
                    return Err(refuse("a cache mount does not belong to the job"));
                };
                let own = id.strip_prefix(&self.keys.cache_mounts).is_some_and(|rest| rest.starts_with('/'));
                if !own {
                    return Err(refuse("a cache mount does not belong to the job"));
                }
                if CacheSharingOpt::try_from(*sharing).is_err() {
                    return Err(refuse("a cache mount is shared in a way that this wharfd does not know"));
                }
                short("a cache mount", id)
            }
            // The session has no SSH agent: BuildKit omits an optional mount.
            Ok(MountType::Ssh) => match ssh_opt {
                Some(SshOpt { id: _, uid: _, gid: _, mode: _, optional: true }) => Ok(()),
                Some(SshOpt { .. }) | None => {
                    let text = "a step needs an SSH agent (`RUN --mount=type=ssh,required=true`), and none is forwarded";
                    let hint = "give the step a deploy key as a secret, or leave out `required=true` if it can do without";
                    Err(Fault::new(Reason::GraphDenied, text).hint(hint).into())
                }
            },
            Err(_) => Err(refuse("a mount has a type that this wharfd does not know")),
        }
    }
}

/// Refuses an id that is too long: BuildKit keeps it with a cache mount, and repeats a secret's in messages.
fn short(of: &str, id: &str) -> Result<(), Refusal> {
    if id.len() > ID_BYTES_MAX {
        let why = format!("the id of {of} has more than {ID_BYTES_MAX} bytes: give it a short `id`");
        return Err(refuse(why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::pb;

    use super::{
        super::tests::{exec, judge, op, run},
        *,
    };

    #[test]
    fn a_step_without_salt_or_with_more_than_a_sandbox_is_refused() {
        assert!(run(|exec| exec.meta.as_mut().unwrap().extra_hosts.clear()).is_err());
        assert!(run(|exec| exec.meta.as_mut().unwrap().extra_hosts[0].ip = "1.2.3.4".into()).is_err());
        assert!(run(|exec| exec.meta.as_mut().unwrap().cgroup_parent = "/x".into()).is_err());
        assert!(run(|exec| exec.network = NetMode::Host.into()).is_err());
        assert!(run(|exec| exec.network = 9).is_err());
        assert!(run(|exec| exec.security = SecurityMode::Insecure.into()).is_err());
        assert!(run(|exec| exec.cdi_devices = vec![pb::CdiDevice::default()]).is_err());
        assert!(run(|exec| exec.meta = None).is_err());
        assert!(run(|exec| exec.meta.as_mut().unwrap().hostname = "x".into()).is_err());
        assert!(run(|exec| exec.meta.as_mut().unwrap().valid_exit_codes = vec![1]).is_err());
    }

    #[test]
    fn a_mount_is_one_that_a_dockerfile_can_have() {
        let mounted = |mount: Mount| run(|exec| exec.mounts = vec![mount]);
        let long = || "a".repeat(ID_BYTES_MAX + 1);
        assert!(mounted(Mount { input: -1, ..Mount::default() }).is_ok());
        for bad in [
            Mount { input: -2, ..Mount::default() },
            Mount { result_id: "1".into(), ..Mount::default() },
            Mount { content_cache: MountContentCache::Off.into(), ..Mount::default() },
            Mount {
                mount_type: MountType::Secret.into(),
                secret_opt: Some(SecretOpt { id: long(), ..SecretOpt::default() }),
                ..Mount::default()
            },
            Mount {
                mount_type: MountType::Cache.into(),
                cache_opt: Some(CacheOpt { id: "cafe/a".into(), sharing: 3 }),
                ..Mount::default()
            },
            Mount { mount_type: MountType::Cache.into(), ..Mount::default() },
            Mount { mount_type: 9, ..Mount::default() },
        ] {
            assert!(mounted(bad.clone()).is_err(), "{bad:?}");
        }
        let secret = |id: String| SecretEnv { id, ..SecretEnv::default() };
        assert!(run(|exec| exec.secretenv = vec![secret("a".into())]).is_ok());
        assert!(run(|exec| exec.secretenv = vec![secret(long())]).is_err());
    }

    /// Otherwise a Dockerfile of 5 kB takes more than a GB of the engine's memory.
    #[test]
    fn secrets_in_variables_count_as_mounts() {
        let step = |name: &str, variables: usize, mounts: usize| {
            let mut exec = exec();
            exec.meta.as_mut().unwrap().args = vec![name.to_owned()];
            exec.secretenv = vec![SecretEnv::default(); variables];
            exec.mounts = vec![Mount { mount_type: MountType::Secret.into(), ..Mount::default() }; mounts];
            op(pb::op::Op::Exec(exec))
        };
        assert!(judge(&[step("a", 64, 0)]).is_ok());
        assert!(judge(&[step("a", 65, 0)]).is_err());
        assert!(judge(&[step("a", 32, 33)]).is_err());
        let mut steps: Vec<_> = (0..8).map(|name| step(&name.to_string(), 40, 24)).collect();
        assert!(judge(&steps).is_ok());
        steps.push(step("last", 1, 0));
        assert!(judge(&steps).is_err());
    }

    #[test]
    fn an_ssh_agent_is_nothing_that_a_step_may_need() {
        let mounted = |ssh_opt| {
            let mount = Mount { mount_type: MountType::Ssh.into(), ssh_opt, ..Mount::default() };
            run(|exec| exec.mounts = vec![mount])
        };
        assert!(mounted(Some(pb::SshOpt { optional: true, ..pb::SshOpt::default() })).is_ok());
        assert!(mounted(Some(pb::SshOpt::default())).is_err());
        // BuildKit would panic.
        assert!(mounted(None).is_err());
    }

    #[test]
    fn the_records_of_cache_mounts_stay_small() {
        let step = |number: usize, id: &str, text: usize| {
            let mut exec = exec();
            exec.meta.as_mut().unwrap().args = vec!["x".repeat(text)];
            let cache_opt = Some(CacheOpt { id: format!("cafe/{id}"), sharing: 0 });
            let mount = Mount { mount_type: MountType::Cache.into(), cache_opt, ..Mount::default() };
            exec.mounts = vec![mount; number];
            op(pb::op::Op::Exec(exec))
        };
        let of =
            |steps: usize, text| (0..steps).map(|id| step(64, &id.to_string(), text)).collect::<Vec<_>>();
        assert!(judge(&of(8, 8000)).is_ok());
        assert!(judge(&[step(1, &"a".repeat(1024 - 5), 1)]).is_ok());
        assert!(judge(&[step(1, &"a".repeat(1025 - 5), 1)]).is_err());
        assert!(judge(&of(8, 20_000)).is_err(), "those of all steps count");
        assert!(judge(&[step(20, "a", 1 << 20)]).is_err(), "BuildKit would write 20 MiB");
    }

    #[test]
    fn mounts_are_few() {
        for kind in [MountType::Bind, MountType::Secret, MountType::Tmpfs] {
            let step = |number: usize, name: &str| {
                let mut exec = exec();
                exec.meta.as_mut().unwrap().args = vec![name.to_owned()];
                let mount = Mount { mount_type: kind.into(), dest: "/m".to_owned(), ..Mount::default() };
                exec.mounts = vec![mount; number];
                exec.mounts.push(Mount { dest: "/".to_owned(), ..Mount::default() });
                op(pb::op::Op::Exec(exec))
            };
            assert!(judge(&[step(64, "a")]).is_ok());
            assert!(judge(&[step(65, "a")]).is_err(), "{kind:?}");
            let mut steps: Vec<_> = (0..8).map(|name| step(64, &name.to_string())).collect();
            assert!(judge(&steps).is_ok());
            steps.push(step(1, "last"));
            assert!(judge(&steps).is_err(), "{kind:?}");
        }
    }

    #[test]
    fn cache_mounts_are_the_jobs_own() {
        let cache = |id: &str| {
            let cache_opt = Some(CacheOpt { id: id.to_owned(), sharing: 0 });
            let mount = Mount { mount_type: MountType::Cache.into(), cache_opt, ..Mount::default() };
            run(|exec| exec.mounts = vec![mount])
        };
        assert!(cache("cafe/app").is_ok());
        for foreign in ["app", "cafeb/app", "caf/app", "/cafe/app", ""] {
            assert!(cache(foreign).is_err(), "{foreign}");
        }
    }
}
