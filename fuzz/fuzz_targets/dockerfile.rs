//! A Dockerfile's text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::build::fuzz;

fuzz_target!(|data: &[u8]| fuzz::dockerfile(data));
