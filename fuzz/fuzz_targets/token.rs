//! A token that a stranger shows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::identity::fuzz;

fuzz_target!(|text: &str| fuzz::token(text));
