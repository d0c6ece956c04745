//! A registry's refusal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::registry::fuzz;

fuzz_target!(|data: &[u8]| fuzz::refusal(data));
