//! An image reference, as a command line or a Dockerfile has it. What is read is written as it reads again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::names::Reference;

fuzz_target!(|text: &str| {
    if let Ok(reference) = Reference::parse(text) {
        let again = Reference::parse(&reference.to_string());
        assert_eq!(again.map(|again| again.to_string()), Ok(reference.to_string()));
    }
});
