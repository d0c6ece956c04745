//! Tells an archive from a Dockerfile by its first bytes.

/// How many bytes [`is_archive`] looks at: a tar's first header.
pub(crate) const HEAD_BYTES: usize = 512;

/// The first bytes of compressed streams: bzip2, gzip, xz, Zstandard.
const COMPRESSED: [&[u8]; 4] =
    [b"BZh", &[0x1f, 0x8b, 0x08], &[0xfd, b'7', b'z', b'X', b'Z', 0], &[0x28, 0xb5, 0x2f, 0xfd]];

/// The checksum field of a tar header (POSIX pax, ustar interchange format).
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// Whether `head` is the beginning of a tar, or of compressed data, which can only be a tar.
pub(crate) fn is_archive(head: &[u8]) -> bool {
    COMPRESSED.iter().any(|magic| head.starts_with(magic)) || is_tar_header(head)
}

/// Whether the header's checksum is right. The oldest tars have no magic number, and no text has a right
/// checksum by chance.
fn is_tar_header(head: &[u8]) -> bool {
    let (Some(header), Some(field)) = (head.get(..HEAD_BYTES), head.get(CHECKSUM)) else { return false };
    let digits: String = field
        .iter()
        .map(|byte| char::from(*byte))
        .skip_while(|c| *c == ' ')
        .take_while(|c| c.is_digit(8))
        .collect();
    let checksum: u64 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| u64::from(if CHECKSUM.contains(&at) { b' ' } else { *byte }))
        .sum();
    u64::from_str_radix(&digits, 8) == Ok(checksum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tars_are_told_from_text() {
        for mut header in [tar::Header::new_ustar(), tar::Header::new_gnu(), tar::Header::new_old()] {
            header.set_path("Dockerfile").unwrap();
            header.set_size(4);
            header.set_cksum();
            assert!(is_archive(header.as_bytes()));
            assert!(!is_archive(&header.as_bytes()[..511]));
        }
        assert!(is_archive(&[0x1f, 0x8b, 0x08, 0]));
        assert!(is_archive(b"BZh9"));
        assert!(!is_archive(b"FROM scratch\n"));
        assert!(!is_archive(&[b' '; 600]));
        assert!(!is_archive(&[0; 1024]));
        assert!(!is_archive(b""));
    }
}
