//! The passwords of transfers: keyed hashes of their ids. So the relay knows one that it has given although it remembers
//! nothing of a transfer that has ended.

use std::io;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, header};
use sha2::Sha256;

use crate::names::{Secret, random_id};

/// The key of all passwords; each wharfd has another one.
pub(super) struct Passwords(Secret<String>);

impl Passwords {
    pub(super) fn new() -> io::Result<Self> {
        random_id().map(|key| Self(Secret::new(key))).map_err(io::Error::other)
    }

    /// The password of the transfer `id`.
    pub(super) fn of(&self, id: &str) -> io::Result<Secret<String>> {
        let mac = self.mac(id).ok_or_else(|| io::Error::other("no key"))?;
        Ok(Secret::new(STANDARD.encode(mac.finalize().into_bytes())))
    }

    /// The id of the transfer, which may have ended, whose password a request shows.
    pub(super) fn shown_in(&self, headers: &HeaderMap) -> Option<String> {
        let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, encoded) = value.split_once(' ')?;
        let decoded =
            STANDARD.decode(encoded.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (id, password) = decoded.split_once(':')?;
        // In constant time: whoever asks chooses the id.
        self.mac(id)?.verify_slice(&STANDARD.decode(password).ok()?).ok()?;
        Some(id.to_owned())
    }

    fn mac(&self, id: &str) -> Option<Hmac<Sha256>> {
        // An HMAC takes a key of any length.
        let mac = Hmac::<Sha256>::new_from_slice(self.0.expose().as_bytes()).ok()?;
        Some(mac.chain_update(id))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn shown(scheme: &str, id: &str, password: &str) -> HeaderMap {
        let value = format!("{scheme} {}", STANDARD.encode(format!("{id}:{password}")));
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(&value).unwrap())])
    }

    #[test]
    fn a_password_is_that_of_one_id_and_of_one_wharfd() {
        let (passwords, others) = (Passwords::new().unwrap(), Passwords::new().unwrap());
        let password = passwords.of("a").unwrap();
        let password = password.expose();
        assert_eq!(passwords.shown_in(&shown("Basic", "a", password)).as_deref(), Some("a"));
        assert_eq!(passwords.shown_in(&shown("basic", "a", password)).as_deref(), Some("a"));
        for (scheme, id, shows) in
            [("Bearer", "a", password.as_str()), ("Basic", "b", password), ("Basic", "a", "")]
        {
            assert_eq!(passwords.shown_in(&shown(scheme, id, shows)), None, "{scheme} {id}");
        }
        assert_eq!(passwords.shown_in(&HeaderMap::new()), None);
        assert_eq!(others.shown_in(&shown("Basic", "a", password)), None);
    }
}
