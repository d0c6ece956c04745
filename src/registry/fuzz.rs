//! Entry points for `fuzz/`: the answers of registries.
#![expect(clippy::unwrap_used, reason = "a fuzzer ends at what must not be")]

use http::StatusCode;

use super::{Error, challenge::challenges, reach::Origin};
use crate::names::{Reference, printable};

/// A registry's challenges: `WWW-Authenticate`.
pub fn challenge(text: &str) {
    let _ = challenges(text.split('\n'));
}

/// Why a registry refuses. Its sentence is one printable line, and short.
pub fn refusal(body: &[u8]) {
    let reference = Reference::parse("reg.example/app:1").unwrap();
    for status in [400, 401, 403, 404, 429, 500] {
        let status = StatusCode::from_u16(status).unwrap();
        let fault = Error::of_status(status, body, &[]).fault(&reference, true);
        assert!(fault.text() == printable(fault.text()) && fault.text().len() < 1 << 10, "{fault}");
    }
}

/// Where a registry sends wharfd. An address that is read and written reads the same again.
pub fn origin(text: &str) {
    if let Some(origin) = Origin::parse("https", text) {
        assert_eq!(Origin::parse("https", &origin.authority()).unwrap(), origin);
    }
}
