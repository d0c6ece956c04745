//! The rules for a step: a sandbox on a network that policy allows, with mounts of its own job.

use bollard_buildkit_proto::pb::{ExecOp, Mount, MountType, NetMode, SecurityMode};

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
const CACHE_ID_BYTES_MAX: usize = 1024;
/// BuildKit keeps the step's whole text with each of its cache mounts, and shows it to every client that
/// lists them, in at most 16 MiB.
const CACHE_TEXT_BYTES_MAX: usize = 8 << 20;

/// The mounts of a graph.
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
        let count = exec.mounts.len() - usize::from(has_root);
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
            if id > CACHE_ID_BYTES_MAX {
                return Err(refuse(format!(
                    "the id of a cache mount has more than {CACHE_ID_BYTES_MAX} bytes: give it a short `id`"
                )));
            }
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

impl Gate<'_> {
    pub(super) fn exec(
        &self,
        exec: &ExecOp,
        line: &dyn Fn() -> Option<u32>,
        mounts: &mut Mounts,
    ) -> Result<(), Refusal> {
        let network = match NetMode::try_from(exec.network) {
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
        match SecurityMode::try_from(exec.security) {
            Ok(SecurityMode::Sandbox) => {}
            Ok(SecurityMode::Insecure) | Err(_) => {
                let text = "`RUN --security=insecure` is not allowed: the step would be root on the node";
                let hint = "omit `--security=insecure`";
                return Err(Fault::new(Reason::GraphDenied, text).hint(hint).into());
            }
        }
        if !exec.cdi_devices.is_empty() {
            return Err(refuse("`RUN --device` is not allowed: devices belong to the node"));
        }
        let meta = exec.meta.as_ref().ok_or_else(|| refuse("a step has no command"))?;
        let salt = self.keys.salt_host();
        let salted = meta.extra_hosts.iter().any(|host| host.host == salt && host.ip == SALT_ADDRESS);
        if !salted {
            return Err(refuse("a step's result would not be kept apart from other jobs'"));
        }
        if !meta.cgroup_parent.is_empty() {
            return Err(refuse("a step may not choose its control group"));
        }
        exec.mounts.iter().try_for_each(|mount| self.mount(mount))?;
        mounts.add(exec, line)
    }

    fn mount(&self, mount: &Mount) -> Result<(), Refusal> {
        match MountType::try_from(mount.mount_type) {
            Ok(MountType::Bind | MountType::Secret | MountType::Tmpfs) => Ok(()),
            Ok(MountType::Cache) => {
                let id = mount.cache_opt.as_ref().map_or("", |cache| cache.id.as_str());
                let own = id.strip_prefix(&self.keys.cache_mounts).is_some_and(|rest| rest.starts_with('/'));
                if own { Ok(()) } else { Err(refuse("a cache mount does not belong to the job")) }
            }
            // The session has no SSH agent: BuildKit omits an optional mount.
            Ok(MountType::Ssh) if mount.ssh_opt.as_ref().is_some_and(|ssh| ssh.optional) => Ok(()),
            Ok(MountType::Ssh) => {
                let text =
                    "a step needs an SSH agent (`RUN --mount=type=ssh,required=true`), and none is forwarded";
                let hint = "give the step a deploy key as a secret, or leave out `required=true` if it can do without";
                Err(Fault::new(Reason::GraphDenied, text).hint(hint).into())
            }
            Err(_) => Err(refuse("a mount has a type that this wharfd does not know")),
        }
    }
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::pb::{self, CacheOpt};

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
