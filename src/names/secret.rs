//! A value that is never printed and is wiped from memory when dropped.

use std::{fmt, hint::black_box};

use zeroize::Zeroize;

/// The limit on a secret for a build: BuildKit's own (`session/secrets/secretsprovider`).
pub const SECRET_BYTES_MAX: usize = 500 * 1024;

/// A secret. Its `Debug` shows nothing, and it has no `Display`. Dropping it wipes its memory. The caller
/// must wipe copies made before or after wrapping.
#[derive(Clone)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Wraps `value`.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value, for the one place that needs it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Compares in constant time, so that timing does not reveal how much of a guess is right. The length
/// is not secret.
impl<T: Zeroize + AsRef<[u8]>> PartialEq for Secret<T> {
    fn eq(&self, other: &Self) -> bool {
        let (own, other) = (self.0.as_ref(), other.0.as_ref());
        let different = own.iter().zip(other).fold(0, |different, (a, b)| black_box(different | (a ^ b)));
        own.len() == other.len() && different == 0
    }
}

impl<T: Zeroize + AsRef<[u8]>> Eq for Secret<T> {}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    #[test]
    fn equal_is_every_byte() {
        let secret = |text: &str| Secret::new(text.to_owned());
        assert_eq!(secret("hunter2"), secret("hunter2"));
        for other in ["hunter1", "gunter2", "hunter", "hunter22", ""] {
            assert_ne!(secret("hunter2"), secret(other), "{other}");
        }
    }

    #[test]
    fn it_is_wiped_when_it_goes() {
        struct Told(Rc<Cell<bool>>);
        impl Zeroize for Told {
            fn zeroize(&mut self) {
                self.0.set(true);
            }
        }
        let wiped = Rc::new(Cell::new(false));
        drop(Secret::new(Told(Rc::clone(&wiped))));
        assert!(wiped.get());
    }
}
