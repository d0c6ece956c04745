//! A connection's bytes, before anyone is identified.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::transport::fuzz;

fuzz_target!(|data: &[u8]| fuzz::authority(data));
