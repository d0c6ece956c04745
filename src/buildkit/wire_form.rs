//! Detects fields of a message that its decoder dropped.
//!
//! A decoder silently drops unknown fields, and those of a newer BuildKit may mean anything. So the decoded
//! message is encoded again and compared with the original, field by field. Lengths alone prove nothing,
//! since a number may be sent in fewer bytes than its encoding here.

/// The map fields of a message and its inner messages. Encoders differ in maps: entries come in any order,
/// and a default key or value may be sent or omitted.
#[derive(Debug)]
pub struct Shape(pub &'static [(u64, Field)]);

/// A field that has maps.
#[derive(Debug)]
pub enum Field {
    /// A map with values of this shape.
    Map(&'static Shape),
    /// A message, or several.
    Message(&'static Shape),
}

/// A message without maps.
pub static PLAIN: Shape = Shape(&[]);

/// The deepest nesting that is compared; prost's own limit is 100.
const DEPTH_MAX: usize = 100;

/// Protobuf's wire types (protobuf.dev, "Message Structure").
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FIXED32: u64 = 5;

/// Whether `sent` contains no more than `understood`, which is `sent` decoded and encoded again.
pub fn is_understood(sent: &[u8], understood: &[u8], shape: &'static Shape) -> bool {
    are_equal(sent, understood, shape, DEPTH_MAX)
}

fn are_equal(left: &[u8], right: &[u8], shape: &'static Shape, depth: usize) -> bool {
    // Texts are encoded again unchanged, so a difference must be in a message.
    if left == right {
        return true;
    }
    let Some(depth) = depth.checked_sub(1) else { return false };
    let (Some(left), Some(right)) = (values(left, shape), values(right, shape)) else { return false };
    left.len() == right.len()
        && left.iter().zip(&right).all(|(left, right)| {
            (left.number, left.wire_type, left.key) == (right.number, right.wire_type, right.key)
                && match field(shape, left.number) {
                    Some(Field::Map(shape)) => are_equal_entries(left.bytes, right.bytes, shape, depth),
                    Some(Field::Message(shape)) => are_equal_values(left, right, shape, depth),
                    None => are_equal_values(left, right, &PLAIN, depth),
                }
        })
}

fn are_equal_values(left: &Value<'_>, right: &Value<'_>, shape: &'static Shape, depth: usize) -> bool {
    if left.wire_type == LENGTH_DELIMITED {
        are_equal(left.bytes, right.bytes, shape, depth)
    } else {
        left.bytes == right.bytes
    }
}

/// Whether two map entries with the same key are equal.
fn are_equal_entries(left: &[u8], right: &[u8], shape: &'static Shape, depth: usize) -> bool {
    let (Some(left), Some(right)) = (entry(left), entry(right)) else { return false };
    match (left.value, right.value) {
        (None, None) => true,
        (Some(value), None) | (None, Some(value)) => {
            matches!((value.wire_type, value.bytes), (LENGTH_DELIMITED, []) | (VARINT, [0]))
        }
        (Some(left), Some(right)) => {
            left.wire_type == right.wire_type && are_equal_values(&left, &right, shape, depth)
        }
    }
}

/// A field's value as it was sent.
#[derive(Clone, Copy)]
struct Value<'a> {
    number: u64,
    wire_type: u64,
    /// The key, if the value is a map's entry.
    key: &'a [u8],
    bytes: &'a [u8],
}

struct Entry<'a> {
    key: &'a [u8],
    value: Option<Value<'a>>,
}

/// A map's entry: a message of a key, 1, and a value, 2.
fn entry(bytes: &[u8]) -> Option<Entry<'_>> {
    let (mut key, mut value) = (None, None);
    for field in fields(bytes) {
        let field = field?;
        let place = match field.number {
            1 => &mut key,
            2 => &mut value,
            _ => return None,
        };
        if place.replace(field).is_some() {
            return None;
        }
    }
    Some(Entry { key: key.map_or(&[], |key| key.bytes), value })
}

/// All values of a message in a canonical order: fields by number, map entries by key. `None` if it is not
/// a message.
fn values<'a>(bytes: &'a [u8], shape: &'static Shape) -> Option<Vec<Value<'a>>> {
    let mut values = fields(bytes).collect::<Option<Vec<_>>>()?;
    for value in &mut values {
        if let Some(Field::Map(_)) = field(shape, value.number) {
            value.key = entry(value.bytes)?.key;
        }
    }
    // The sort is stable: the order of repeated fields matters.
    values.sort_by_key(|value| (value.number, value.key));
    Some(values)
}

fn field(shape: &'static Shape, number: u64) -> Option<&'static Field> {
    shape.0.iter().find(|(own, _)| *own == number).map(|(_, field)| field)
}

/// The values of a message in the order in which they were sent; `None` where they cannot be read.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = Option<Value<'_>>> {
    std::iter::from_fn(move || {
        (!bytes.is_empty()).then(|| {
            let value = next_field(&mut bytes);
            if value.is_none() {
                bytes = &[];
            }
            value
        })
    })
}

fn next_field<'a>(bytes: &mut &'a [u8]) -> Option<Value<'a>> {
    let tag = varint(bytes)?;
    let (number, wire_type) = (tag >> 3, tag & 7);
    let length = match wire_type {
        VARINT => {
            let mut rest = *bytes;
            varint(&mut rest)?;
            bytes.len() - rest.len()
        }
        FIXED64 => 8,
        LENGTH_DELIMITED => usize::try_from(varint(bytes)?).ok()?,
        FIXED32 => 4,
        // Groups, which are obsolete.
        _ => return None,
    };
    let (value, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(Value { number, wire_type, key: &[], bytes: value })
}

/// A number of up to 64 bits, in groups of seven.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use bollard_buildkit_proto::{
        fsutil::types::Stat,
        pb::{Location, Position, Range, SourceOp},
    };
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    static SOURCE_OP: Shape = Shape(&[(2, Field::Map(&PLAIN))]);
    /// `Stat` has a map with text values in field 10.
    static STAT: Shape = Shape(&[(10, Field::Map(&PLAIN))]);

    fn tag(number: u32, wire_type: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        prost::encoding::encode_varint(u64::from(number << 3 | wire_type), &mut bytes);
        bytes
    }

    fn delimited(number: u32, bytes: &[u8]) -> Vec<u8> {
        let mut field = tag(number, 2);
        prost::encoding::encode_varint(bytes.len() as u64, &mut field);
        [field, bytes.to_vec()].concat()
    }

    fn understood<M: Message + Default>(sent: &[u8], shape: &'static Shape) -> bool {
        let message = M::decode(sent).expect("a message that a decoder reads");
        is_understood(sent, &message.encode_to_vec(), shape)
    }

    fn source(attrs: &[(&str, &str)]) -> SourceOp {
        let attrs: BTreeMap<_, _> =
            attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        SourceOp { identifier: "local://context".into(), attrs: attrs.into_iter().collect() }
    }

    #[test]
    fn a_number_in_few_bytes_pays_for_no_field_that_is_hidden() {
        // -1 in five bytes: no encoder sends an int32 like this, and it is encoded again in ten.
        let short = [0x08, 0xff, 0xff, 0xff, 0xff, 0x0f];
        // Five bytes of an unknown field.
        let hidden = delimited(99, b"xy");
        assert_eq!(hidden.len(), 5);
        let sent = [&short[..], &hidden].concat();
        let line = Position::decode(&sent[..]).unwrap();
        assert_eq!(line.line, -1);
        assert_eq!(line.encoded_len(), sent.len(), "the lengths are equal");
        assert!(!understood::<Position>(&sent, &PLAIN));
        assert!(!understood::<Position>(&short, &PLAIN));
        assert!(understood::<Position>(&line.encode_to_vec(), &PLAIN));
        // The same inside other messages.
        let sent = delimited(2, &delimited(1, &sent));
        assert_eq!(Location::decode(&sent[..]).unwrap().encoded_len(), sent.len());
        assert!(!understood::<Location>(&sent, &PLAIN));
    }

    #[test]
    fn a_field_that_is_sent_twice_is_not_understood() {
        let twice = [delimited(1, b"a"), delimited(1, b"b")].concat();
        assert!(!understood::<SourceOp>(&twice, &SOURCE_OP));
        let entry = [delimited(1, b"key"), delimited(2, b"value")].concat();
        assert!(understood::<SourceOp>(&delimited(2, &entry), &SOURCE_OP));
        let twice = [delimited(2, &entry), delimited(2, &entry)].concat();
        assert!(!understood::<SourceOp>(&twice, &SOURCE_OP));
        let three = [entry, delimited(3, b"more")].concat();
        assert!(!understood::<SourceOp>(&delimited(2, &three), &SOURCE_OP));
    }

    #[test]
    fn maps_come_in_any_order_with_what_is_empty_or_without() {
        let go = |entries: &[(&str, &str)]| {
            let entries = entries.iter().flat_map(|(key, value)| {
                delimited(2, &[delimited(1, key.as_bytes()), delimited(2, value.as_bytes())].concat())
            });
            entries.collect::<Vec<u8>>()
        };
        for entries in [&[("b", "2"), ("a", ""), ("", "1")][..], &[("", "")], &[("c", "3"), ("b", "c")]] {
            let sent = go(entries);
            assert!(understood::<SourceOp>(&sent, &SOURCE_OP), "{entries:?}");
            // Repeated fields are not maps.
            assert!(entries.len() == 1 || !is_understood(&sent, &go(&reversed(entries)), &PLAIN));
        }
        assert!(!is_understood(&go(&[("a", "1")]), &go(&[("a", "2")]), &SOURCE_OP));
        assert!(!is_understood(&go(&[("a", "1")]), &go(&[("b", "1")]), &SOURCE_OP));
        assert!(!is_understood(&go(&[("a", "1")]), &go(&[("a", "")]), &SOURCE_OP));
    }

    fn reversed<T: Clone>(entries: &[T]) -> Vec<T> {
        entries.iter().rev().cloned().collect()
    }

    #[test]
    fn what_is_no_message_is_not_understood() {
        let good = source(&[]).encode_to_vec();
        for bad in [&[0xff][..], &[0x0a], &[0x0a, 9, 1], &[0x0b], &[0x80; 11], &[0x09, 1]] {
            assert!(!is_understood(bad, &good, &SOURCE_OP), "{bad:?}");
        }
    }

    /// A field that no message here has.
    fn hidden() -> impl Strategy<Value = Vec<u8>> {
        let number = 20_u32..1 << 20;
        prop_oneof![
            (number.clone(), proptest::collection::vec(any::<u8>(), 0..40))
                .prop_map(|(number, bytes)| delimited(number, &bytes)),
            (number.clone(), any::<u64>()).prop_map(|(number, value)| {
                let mut field = tag(number, 0);
                prost::encoding::encode_varint(value, &mut field);
                field
            }),
            (number.clone(), any::<[u8; 8]>())
                .prop_map(|(number, value)| [tag(number, 1), value.to_vec()].concat()),
            (number, any::<[u8; 4]>()).prop_map(|(number, value)| [tag(number, 5), value.to_vec()].concat()),
        ]
    }

    proptest! {
        #[test]
        fn a_hidden_field_of_any_size_is_seen(
            hidden in hidden(), first: bool, depth in 0..3_usize, line in -3..3_i32
        ) {
            let position = Position { line, character: 0 };
            let range = Range { start: Some(position), end: None };
            let parts = [position.encode_to_vec(), hidden];
            let sent = if first { reversed(&parts).concat() } else { parts.concat() };
            prop_assert!(!understood::<Position>(&sent, &PLAIN));
            let in_range = delimited(1, &sent);
            match depth {
                0 => {}
                1 => prop_assert!(!understood::<Range>(&in_range, &PLAIN)),
                _ => prop_assert!(!understood::<Location>(&delimited(2, &in_range), &PLAIN)),
            }
            prop_assert!(understood::<Range>(&range.encode_to_vec(), &PLAIN));
        }

        #[test]
        fn what_is_known_is_understood(
            attrs in proptest::collection::hash_map(".{0,4}", proptest::collection::vec(any::<u8>(), 0..4), 0..5),
            path in ".{0,9}", size: i64, mode: u32
        ) {
            let attrs: HashMap<_, _> = attrs;
            let stat = Stat { path, size, mode, xattrs: attrs, ..Stat::default() };
            // A decoded map has another order.
            prop_assert!(understood::<Stat>(&stat.encode_to_vec(), &STAT));
        }
    }
}
