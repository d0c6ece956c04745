//! The entry point for `fuzz/`: a connection's first bytes, before anyone is identified.

use super::authority::Authorities;

/// The preface of HTTP/2 (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;

/// The bytes of a connection, behind the size of the pieces in which they come. In any pieces the same comes out; no byte
/// comes or goes; and what changes is a `%`, or one bit in Huffman code.
pub fn authority(data: &[u8]) {
    let Some((size, data)) = data.split_first() else { return };
    let made_good = |bytes: &[u8], size: usize| {
        let mut bytes = bytes.to_vec();
        let mut authorities = Authorities::new(PREFACE_BYTES);
        bytes.chunks_mut(size).for_each(|piece| authorities.fix(piece));
        bytes
    };
    let whole = made_good(data, data.len().max(1));
    assert_eq!(made_good(data, usize::from(*size) + 1), whole, "in pieces and whole");
    assert_eq!(made_good(&whole, data.len().max(1)), whole, "a second time");
    for (before, after) in data.iter().zip(&whole) {
        let is_coded = before & after == *before && (before ^ after).count_ones() <= 2;
        assert!((*before, *after) == (b'%', b'-') || is_coded, "{before:02x} became {after:02x}");
    }
    assert!(data.iter().zip(&whole).take(PREFACE_BYTES).all(|(before, after)| before == after));
}
