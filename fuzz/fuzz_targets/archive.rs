//! An archive that the engine unpacks.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::build::fuzz;

fuzz_target!(|data: &[u8]| fuzz::archive(data));
