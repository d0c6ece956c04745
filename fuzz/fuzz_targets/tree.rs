//! A directory tree that an output brings to the client.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::client::fuzz;

fuzz_target!(|data: &[u8]| fuzz::tree(data));
