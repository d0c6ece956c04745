//! The variables of a Dockerfile, and the largest text that they can make of another.

use std::collections::HashMap;

use super::patterns;
use crate::images::inherited::Size;

/// The assumed size of a variable that is not set here: BuildKit sets some, such as a platform.
pub(super) const UNKNOWN: Size = Size { bytes: 256, dashes: 0 };
/// The number of ports in the largest range.
const RANGE_PORTS: u64 = 1 << 16;

/// The variables that a text may see, wherever they are set.
#[derive(Clone, Debug)]
pub(super) struct Variables {
    /// The largest possible value of each.
    sizes: HashMap<Vec<u8>, Size>,
    /// The largest value of a variable whose name is not known: it may be any.
    any: Option<Size>,
    /// The largest of all.
    largest: Size,
}

impl Default for Variables {
    fn default() -> Self {
        Self { sizes: HashMap::new(), any: None, largest: UNKNOWN }
    }
}

impl Variables {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.sizes.len()
    }

    /// Whether there may be one of this name.
    pub(super) fn may_have(&self, name: &[u8]) -> bool {
        self.any.is_some() || !name.is_ascii() || self.sizes.contains_key(name)
    }

    /// Adds one whose name is `name`, if that is known, and whose value is at most so large.
    pub(super) fn set(&mut self, name: Option<&[u8]>, size: Size) {
        self.largest = self.largest.or(size);
        match name {
            Some(name) => {
                let largest = self.sizes.entry(name.to_vec()).or_default();
                *largest = largest.or(size);
            }
            None => self.any = Some(self.any.unwrap_or_default().or(size)),
        }
    }

    /// The most ports that a word of an `EXPOSE` may name. A variable may hold several ranges, or a part of one.
    pub(super) fn ports(&self, word: &[u8]) -> u64 {
        // BuildKit splits and trims words at other characters than here, too: at spaces outside of ASCII and byte order
        // marks.
        let is_plain = |byte: &u8| byte.is_ascii_graphic() && !b"$'\"\\`".contains(byte);
        if !word.iter().all(is_plain) {
            return self.size(word).dashes.saturating_mul(RANGE_PORTS).saturating_add(1);
        }
        let parts = word.split(|byte| *byte == b':').map(|part| {
            let ports = String::from_utf8_lossy(part.split(|byte| *byte == b'/').next().unwrap_or_default());
            // Other ranges are refused, but what follows a second dash is ignored before BuildKit parses ports itself.
            let mut ends = ports.split('-').map(|end| end.parse::<u16>().ok());
            let (first, last) = (ends.next().flatten(), ends.next().flatten());
            let range = first.zip(last).and_then(|(first, last)| last.checked_sub(first));
            range.map_or(1, |more| u64::from(more) + 1)
        });
        parts.max().unwrap_or_default()
    }

    /// The longest possible text once the variables in `text` are replaced.
    pub(super) fn length(&self, text: &[u8]) -> u64 {
        self.size(text).bytes
    }

    /// The largest possible text once the variables in `text` are replaced: wherever they stand, since an escape or
    /// a quote has another meaning in other places.
    pub(super) fn size(&self, text: &[u8]) -> Size {
        // From the last name to the first, so that nested names come before the names that contain them.
        let own = Size::of(text);
        let mut sum = own;
        let end = text.iter().rposition(|byte| *byte == b'}').unwrap_or_default();
        // The text from here to the last brace; counted once, since a text can have many names.
        let (mut inside, mut counted) = (Size::default(), end);
        for (at, _) in text.iter().enumerate().rev().filter(|(_, byte)| **byte == b'$') {
            inside.bytes = end.saturating_sub(at) as u64;
            inside.dashes += text.get(at..counted).map_or(0, |more| Size::of(more).dashes);
            counted = counted.min(at);
            let rest = text.get(at + 1..).unwrap_or_default();
            let named = rest.strip_prefix(b"{").unwrap_or(rest);
            let is_braced = named.len() < rest.len();
            let (name, after) = named.split_at_checked(patterns::name(named)).unwrap_or_default();
            if name.is_empty() && !is_braced {
                continue;
            }
            let is_known = !name.is_empty() && name.is_ascii();
            let set = if !is_known {
                Some(self.largest)
            } else {
                let own = self.sizes.get(name).copied();
                own.map(|own| own.or(self.any.unwrap_or_default())).or(self.any)
            };
            let value = set.unwrap_or(UNKNOWN);
            sum.bytes = sum.bytes.saturating_add(value.bytes);
            sum.dashes = sum.dashes.saturating_add(value.dashes);
            // `${NAME//PATTERN/TEXT}` can replace every byte by the text, which has been added only once.
            if is_braced && after.starts_with(b"//") {
                let times = set.unwrap_or_default().bytes;
                let grown = sum.bytes.saturating_sub(own.bytes).saturating_add(inside.bytes);
                sum.bytes = sum.bytes.saturating_add(times.saturating_mul(grown));
                let grown = sum.dashes.saturating_sub(own.dashes).saturating_add(inside.dashes);
                sum.dashes = sum.dashes.saturating_add(times.saturating_mul(grown));
            }
            // The dash of `${NAME-TEXT}` makes no range.
            if is_braced && after.strip_prefix(b":").unwrap_or(after).starts_with(b"-") {
                sum.dashes = sum.dashes.saturating_sub(1);
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{
        super::{
            Judge, ReadingRules,
            tests::{bytes, judge},
        },
        *,
    };
    use crate::images::inherited::Inherited;

    #[test]
    fn the_ports_of_an_expose_are_counted() {
        let rules = || {
            let arguments = [("port", "8080"), ("ranges", "1-65535 1-65535")];
            let arguments = arguments.map(|(name, value)| (name.to_owned(), Size::of(value)));
            ReadingRules { arguments: HashMap::from(arguments), ..ReadingRules::default() }
        };
        for line in [
            "EXPOSE 8080 8443/tcp",
            "EXPOSE 8000-8010/udp 127.0.0.1:7000-7010:9000-9010",
            "EXPOSE $port ${port:-8080} $unset ${unset-80}",
            "EXPOSE 90-80 x-y",
        ] {
            let text = format!("FROM x\nARG port\n{}", format!("{line}\n").repeat(1000));
            assert_eq!(judge(text.as_bytes(), rules()), Ok(()), "{line}");
        }
        let ranges = "1-65535 ".repeat(70);
        for text in [
            format!("EXPOSE {ranges}"),
            "EXPOSE 1-65535/udp\n".repeat(70),
            format!("ENV r=\"{ranges}\"\nEXPOSE $r"),
            format!("ENV r=\"{ranges}\"\nENV s=$r\nEXPOSE ${{s}}"),
            format!("ENV r=1- s=65535\n{}", "EXPOSE $r$s\n".repeat(70)),
            format!("ENV r={} s=\"1-65535 \"\nEXPOSE ${{r//x/$s}}", "x".repeat(70)),
            format!("ARG ranges\n{}", "EXPOSE $ranges\n".repeat(35)),
            format!("EXPOSE {}", "1\\-65535 ".repeat(70)),
            format!("EXPOSE {}", "\"1-65535\" ".repeat(70)),
            format!("EXPOSE {}", "1-65535- ".repeat(70)),
            format!("EXPOSE {}", "1-65535/tcp-1 ".repeat(70)),
            format!("EXPOSE {}", "1-65535\u{2003}".repeat(70)),
            format!("EXPOSE {}", "1-65535\u{85}".repeat(70)),
            format!("EXPOSE {}", "\u{feff}1-65535 ".repeat(70)),
            format!("EXPOSE ${{unset:-{ranges}}}"),
        ] {
            let refused = judge(format!("FROM x\n{text}\n").as_bytes(), rules()).unwrap_err();
            assert!(refused.contains("with its variables replaced"), "{text}: {refused}");
        }
        let judge = Judge::new(rules());
        let environment = vec![("r".to_owned(), Size::of(&ranges))];
        judge.admit(&Inherited { environment, ..Inherited::default() }).unwrap();
        assert!(judge.read("", b"FROM x\nEXPOSE $r\n".to_vec()).is_err());
    }

    #[test]
    fn the_history_of_an_image_counts_for_each_stage() {
        let judge = Judge::new(ReadingRules::default());
        judge.admit(&Inherited { history: 1 << 20, ..Inherited::default() }).unwrap();
        judge.read("", "FROM x\nRUN true\n".repeat(50).into_bytes()).unwrap();
        let refused = judge.read("", "FROM x\nRUN true\n".repeat(100).into_bytes()).unwrap_err();
        assert!(refused.contains("with its variables replaced"), "{refused}");
    }

    #[test]
    fn the_variables_of_images_are_few() {
        let image = |from: u32| {
            let environment = (from..from + 12_000).map(|n| (format!("a{n}"), bytes(1))).collect();
            Inherited { environment, ..Inherited::default() }
        };
        let judge = Judge::new(ReadingRules::default());
        judge.admit(&image(0)).unwrap();
        judge.admit(&image(0)).unwrap();
        let refused = judge.admit(&image(12_000)).unwrap_err();
        assert!(refused.contains("more than 20000 variables"), "{refused}");
        judge.read("", b"FROM x\nRUN true\n".to_vec()).unwrap();
    }
}
