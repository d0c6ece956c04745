//! An engine's lists of images and containers, and histories.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::engine::fuzz;

fuzz_target!(|data: &[u8]| fuzz::listing(data));
