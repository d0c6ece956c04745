//! The tests that touch an engine: the real binaries, two real engines, a real registry.
//!
//! The process that cargo starts lists the tests of each engine and starts itself once for each engine, in
//! that engine's network namespace, where the tests' registries listen on loopback. It passes on their
//! output, and ends with one line of counts.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unreachable,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and says so"
)]

mod archives;
mod audit;
mod authorization;
mod caches;
mod cancel;
mod commands;
mod concurrency;
mod configs;
mod disk;
mod doctor;
mod empty;
mod engines;
mod errors;
mod export;
mod first_light;
mod harness;
mod hostile;
mod identity;
mod indexes;
mod leases;
mod logs;
mod memory;
mod messages;
mod metrics;
mod names;
mod network;
mod outcomes;
mod output_places;
mod outputs;
mod pasted;
mod pods;
mod policy;
mod policy_check;
mod policy_files;
mod policy_limits;
mod registries;
mod reported;
mod save;
mod shapes;
mod soak;
mod store;
mod suspects;
mod sync;
mod tags;
mod transfers;
mod turns;
mod urls;

use std::process::ExitCode;

use libtest_mimic::Arguments;

use harness::{Case, run};

/// Every test, with a file for each subject.
fn cases() -> Vec<Case> {
    [
        first_light::CASES,
        names::CASES,
        registries::CASES,
        save::CASES,
        indexes::CASES,
        sync::CASES,
        cancel::CASES,
        tags::CASES,
        transfers::CASES,
        errors::CASES,
        messages::CASES,
        engines::CASES,
        suspects::CASES,
        store::CASES,
        leases::CASES,
        soak::CASES,
        caches::CASES,
        disk::CASES,
        doctor::CASES,
        export::CASES,
        empty::CASES,
        configs::CASES,
        memory::CASES,
        concurrency::CASES,
        turns::CASES,
        urls::CASES,
        authorization::CASES,
        identity::CASES,
        pods::CASES,
        policy::CASES,
        policy_check::CASES,
        policy_files::CASES,
        policy_limits::CASES,
        network::CASES,
        commands::CASES,
        pasted::CASES,
        reported::CASES,
        logs::CASES,
        metrics::CASES,
        outcomes::CASES,
        output_places::CASES,
        outputs::CASES,
        archives::CASES,
        audit::CASES,
        hostile::graph::CASES,
        hostile::sources::CASES,
        hostile::archives::CASES,
        hostile::unpacked::CASES,
        hostile::cache::CASES,
        hostile::streams::CASES,
        hostile::forged::CASES,
        hostile::layers::CASES,
        hostile::descriptors::CASES,
        hostile::slow::CASES,
        hostile::metadata::CASES,
        hostile::proof::CASES,
        hostile::pushes::CASES,
        hostile::files::CASES,
        hostile::frontend::CASES,
        hostile::receiver::CASES,
        hostile::repository::CASES,
        hostile::tar::CASES,
        hostile::quotas::CASES,
        hostile::listings::CASES,
        hostile::users::CASES,
    ]
    .concat()
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    match std::env::var(run::CHILD) {
        Ok(engine) => run::tests_of(&engine, cases(), &arguments),
        Err(_) => run::all(&cases(), &arguments),
    }
}
