//! BuildKit's failures and reports.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::build::fuzz;

fuzz_target!(|data: &[u8]| fuzz::failure(data));
