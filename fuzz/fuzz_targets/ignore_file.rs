//! A `.dockerignore`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::client::fuzz;

fuzz_target!(|text: &str| fuzz::ignore_file(text));
