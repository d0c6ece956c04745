//! Where a registry sends wharfd.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::registry::fuzz;

fuzz_target!(|text: &str| fuzz::origin(text));
