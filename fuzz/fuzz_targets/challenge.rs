//! `WWW-Authenticate` of a registry.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::registry::fuzz;

fuzz_target!(|text: &str| fuzz::challenge(text));
