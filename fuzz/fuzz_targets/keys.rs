//! An issuer's public keys (JWKS).
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::identity::fuzz;

fuzz_target!(|data: &[u8]| fuzz::keys(data));
