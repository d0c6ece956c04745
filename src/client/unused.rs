//! Flags that have no effect.

use clap::Args;

use super::options;

/// Flags of the builder before BuildKit, which buildx accepts and ignores too, and flags that turn off things
/// that wharf never does.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct UnusedArgs {
    #[arg(long, hide = true)]
    rm: bool,
    #[arg(long, hide = true)]
    force_rm: bool,
    #[arg(long, hide = true)]
    compress: bool,
    #[arg(long, hide = true)]
    squash: bool,
    #[arg(long, hide = true)]
    isolation: Option<String>,
    #[arg(long, hide = true)]
    security_opt: Vec<String>,
    #[arg(long, short, hide = true)]
    memory: Option<String>,
    #[arg(long, hide = true)]
    memory_swap: Option<String>,
    #[arg(long, short, hide = true, allow_negative_numbers = true)]
    cpu_shares: Option<i64>,
    #[arg(long, hide = true, allow_negative_numbers = true)]
    cpu_period: Option<i64>,
    #[arg(long, hide = true, allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    #[arg(long, hide = true)]
    cpuset_cpus: Option<String>,
    #[arg(long, hide = true)]
    cpuset_mems: Option<String>,
    #[arg(long, hide = true, value_parser = options::no_attestation)]
    provenance: Option<()>,
    #[arg(long, hide = true, value_parser = options::no_attestation)]
    sbom: Option<()>,
}

impl UnusedArgs {
    /// The given flags whose effect a user may miss, each with the reason why it has no effect.
    pub(crate) fn missed(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        const LIMITS: &str = "BuildKit does not limit a single build";
        let flags = [
            (self.squash, "--squash", "BuildKit does not squash; copy the result into a last stage instead"),
            (self.isolation.is_some(), "--isolation", "it is for Windows containers"),
            (!self.security_opt.is_empty(), "--security-opt", "steps have the engine's own confinement"),
            (self.memory.is_some(), "--memory", LIMITS),
            (self.memory_swap.is_some(), "--memory-swap", LIMITS),
            (self.cpu_shares.is_some(), "--cpu-shares", LIMITS),
            (self.cpu_period.is_some(), "--cpu-period", LIMITS),
            (self.cpu_quota.is_some(), "--cpu-quota", LIMITS),
            (self.cpuset_cpus.is_some(), "--cpuset-cpus", LIMITS),
            (self.cpuset_mems.is_some(), "--cpuset-mems", LIMITS),
        ];
        flags.into_iter().filter_map(|(given, flag, why)| given.then_some((flag, why)))
    }
}
