//! The kubelet's request for a pod's volume.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::csi::fuzz;

fuzz_target!(|data: &[u8]| fuzz::volume(data));
