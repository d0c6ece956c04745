//! A token's claims, behind the issuer's signature.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::identity::fuzz;

fuzz_target!(|data: &[u8]| fuzz::claims(data));
