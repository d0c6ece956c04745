//! Docker's `config.json`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::client::fuzz;

fuzz_target!(|data: &[u8]| fuzz::docker_config(data));
