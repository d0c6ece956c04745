//! An authority in Huffman code (RFC 7541, appendix B), as Go's clients send it, the kubelet among them.
//!
//! The code is canonical: the first bits of a symbol determine its length, so no table is needed to find the
//! symbols. A `%` is `010101`, and a `.` is `010111`: one bit, and the length stays the same. The bit is
//! known to be that of a `%` or of a space, which no authority may have either, as soon as it is read. So no
//! byte has to be held back.

/// For each code length of the shorter symbols: the number of bits, and the first code that is longer.
const LENGTHS: [(u32, u16); 4] = [(5, 0b01010), (6, 0b10_1110), (7, 0b111_1100), (8, 0b1111_1110)];
/// The first five bits of a `%` and of a space, and those of `.` and `-`.
const FORBIDDEN: u16 = 0b01010;
const ALLOWED: u16 = 0b01011;

/// The place in a string: the bits of a symbol so far.
#[derive(Clone, Copy, Default)]
pub(super) struct Coded {
    bits: u16,
    count: u32,
    /// Behind a symbol that no path of a socket has: the rest stays as it is.
    is_lost: bool,
}

impl Coded {
    /// The place after `byte`, in which each `%` becomes a `.`.
    pub(super) fn after(mut self, byte: &mut u8) -> Self {
        for at in (0..u8::BITS).rev() {
            if self.is_lost {
                break;
            }
            self.bits = self.bits << 1 | u16::from(*byte >> at & 1);
            self.count += 1;
            if self.count == 5 && self.bits == FORBIDDEN {
                *byte |= 1 << at;
                self.bits = ALLOWED;
            }
            let is_whole = |(count, end): &(u32, u16)| *count == self.count && self.bits < *end;
            if LENGTHS.iter().any(is_whole) {
                self = Self::default();
            } else if self.count == 8 {
                self.is_lost = true;
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codes of some symbols (RFC 7541, appendix B).
    const CODES: [(char, &str); 16] = [
        ('%', "010101"),
        ('.', "010111"),
        ('-', "010110"),
        ('/', "011000"),
        ('2', "00010"),
        ('F', "1100011"),
        ('a', "00011"),
        ('b', "100011"),
        ('c', "00100"),
        ('k', "1110101"),
        ('o', "00111"),
        ('s', "01000"),
        ('v', "1110111"),
        ('w', "1111000"),
        ('X', "11111100"),
        ('~', "1111111111101"),
    ];

    fn coded(text: &str) -> Vec<u8> {
        let code = |c: char| CODES.iter().find(|(known, _)| *known == c).unwrap().1;
        let mut bits: String = text.chars().map(code).collect();
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        bits.as_bytes()
            .chunks(8)
            .map(|byte| u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap())
            .collect()
    }

    fn fixed(text: &str) -> Vec<u8> {
        let (mut bytes, mut at) = (coded(text), Coded::default());
        for byte in &mut bytes {
            at = at.after(byte);
        }
        bytes
    }

    #[test]
    fn each_percent_becomes_a_point_at_every_place_in_a_byte() {
        for before in ["", "2", "a", "b", "k", "X", "2b", "2k", "kk", "bk", "XX", "2X", "vww", "cows"] {
            for text in ["%2Fv", "%2Fa%2Fb.sock", "%%%%", "a-b.c"] {
                let text = format!("{before}{text}");
                assert_eq!(fixed(&text), coded(&text.replace('%', ".")), "{text}");
            }
        }
    }

    #[test]
    fn behind_a_long_symbol_everything_stays() {
        assert_eq!(fixed("a%2F~%2F"), coded("a.2F~%2F"));
    }
}
