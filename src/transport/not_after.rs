//! The end of a certificate's validity, which webpki checks and does not tell (RFC 5280, 4.1; DER: X.690).

use std::str;

use prost_types::Timestamp;

const SEQUENCE: u8 = 0x30;
/// The version, which a certificate of version 1 leaves out.
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The time at which a certificate expires, in seconds since 1970; `None` if it cannot be read.
pub(super) fn not_after(certificate: &[u8]) -> Option<i64> {
    let (signed, _) = element(certificate, SEQUENCE)?;
    let (fields, _) = element(signed, SEQUENCE)?;
    let rest = element(fields, VERSION).map_or(fields, |(_, rest)| rest);
    // The serial number, the algorithm and the issuer.
    let rest = (0..3).try_fold(rest, |rest, _| Some(any(rest)?.2))?;
    let (validity, _) = element(rest, SEQUENCE)?;
    let (_, _, rest) = any(validity)?;
    let (kind, time, _) = any(rest)?;
    let digits = str::from_utf8(time).ok()?.strip_suffix('Z')?;
    let (year, rest) = match kind {
        UTC_TIME => {
            let (year, rest) = number(digits, 2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => number(digits, 4)?,
        _ => return None,
    };
    let mut rest = rest;
    let mut next = || {
        let (value, after) = number(rest, 2)?;
        rest = after;
        u8::try_from(value).ok()
    };
    let (month, day, hour, minute, second) = (next()?, next()?, next()?, next()?, next()?);
    let time = Timestamp::date_time(i64::from(year), month, day, hour, minute, second).ok()?;
    rest.is_empty().then_some(time.seconds)
}

/// The number in so many digits, and the text behind them.
fn number(text: &str, digits: usize) -> Option<(u16, &str)> {
    let (number, rest) = text.split_at_checked(digits)?;
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    Some((number.parse().ok().filter(|_| is_number)?, rest))
}

/// The content of the first element, which has this tag, and the bytes behind it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    any(der).filter(|(own, ..)| *own == tag).map(|(_, content, rest)| (content, rest))
}

/// The tag of the first element, its content, and the bytes behind it.
fn any(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first.checked_sub(0x80) {
        None => (usize::from(*first), rest),
        // The length of the length.
        Some(bytes @ 1..=3) => {
            let (length, rest) = rest.split_at_checked(usize::from(bytes))?;
            (length.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte)), rest)
        }
        Some(_) => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::network::{self, authority::Authority, tests::Dir};

    #[test]
    fn the_end_of_a_certificate_is_read() {
        let dir = Dir::new("not-after");
        let authority = Authority::new(&dir.0);
        let read = |file| network::certificates(&fs::read(file).unwrap()).unwrap().remove(0);
        let expired = read(authority.issue_expired("expired", &["a"]).certificate);
        // 2021-01-01.
        assert_eq!(not_after(&expired), Some(1_609_459_200));
        // rcgen's default, 4096-01-01, has a year of four digits.
        let long = read(authority.issue("long", &["a"]).certificate);
        assert_eq!(not_after(&long), Some(67_090_118_400));
        for end in 0..expired.len() {
            let cut = &expired[..end];
            assert_eq!(not_after(cut), None, "cut at {end}");
        }
        for at in 0..expired.len() {
            let mut changed = expired.to_vec();
            changed[at] ^= 0xff;
            // Any answer but a panic.
            let _ = not_after(&changed);
        }
    }
}
