//! An image's manifests and configs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::images::fuzz;

fuzz_target!(|data: &[u8]| fuzz::documents(data));
