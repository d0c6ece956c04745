//! JSON as Go's `encoding/json` reads it into a struct: docker's config, the answers of credential
//! helpers, the documents of images and BuildKit's messages are written by Go, or for that reader.
//!
//! Go writes an empty list as `null`, and reads `null` as nothing: [`zero`]. Documents that no attacker writes are
//! read by all of Go's rules ([`first_value`]): names match in any case, the last of several members with one
//! name counts, bytes that are not UTF-8 are replaced, and nothing after the first value is read. Image
//! documents are read more strictly (`images/layers/strict`).

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

/// Reads `null` as the zero value. Goes with `#[serde(default)]`, which does the same for a missing member.
pub(crate) fn zero<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A struct as Go declares it.
pub(crate) trait Fields: Default {
    /// Takes the value of the member `name`, which is in lower case; `None` if there is no such field.
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<Option<()>, A::Error>;
}

/// Reads the first value of `text`; the default if there is none.
pub(crate) fn first_value<T: Fields>(text: &[u8]) -> Result<T, serde_json::Error> {
    let text = String::from_utf8_lossy(text);
    let first = serde_json::Deserializer::from_str(&text).into_iter::<Option<Object<T>>>().next();
    Ok(first.transpose()?.flatten().map(|object| object.0).unwrap_or_default())
}

/// Reads a member's text into `field`; `null` leaves the field as it is.
pub(crate) fn text<'de, A: MapAccess<'de>>(map: &mut A, field: &mut String) -> Result<Option<()>, A::Error> {
    if let Some(value) = map.next_value()? {
        *field = value;
    }
    Ok(Some(()))
}

/// Adds a member's texts, by name, to `field`; `null` empties it.
pub(crate) fn texts<'de, A: MapAccess<'de>>(
    map: &mut A,
    field: &mut BTreeMap<String, String>,
) -> Result<Option<()>, A::Error> {
    extend(field, map.next_value::<Option<BTreeMap<String, Option<String>>>>()?, |value| value);
    Ok(Some(()))
}

/// Adds a member's structs, by name, to `field`; `null` empties it.
pub(crate) fn structs<'de, A: MapAccess<'de>, T: Fields>(
    map: &mut A,
    field: &mut BTreeMap<String, T>,
) -> Result<Option<()>, A::Error> {
    extend(field, map.next_value::<Option<BTreeMap<String, Option<Object<T>>>>>()?, |object| object.0);
    Ok(Some(()))
}

fn extend<T, V: Default>(
    field: &mut BTreeMap<String, V>,
    more: Option<BTreeMap<String, Option<T>>>,
    inner: impl Fn(T) -> V,
) {
    match more {
        Some(more) => {
            field.extend(more.into_iter().map(|(name, value)| (name, value.map(&inner).unwrap_or_default())));
        }
        None => field.clear(),
    }
}

struct Object<T>(T);

impl<'de, T: Fields> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Fields> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut value = T::default();
        while let Some(name) = map.next_key::<String>()? {
            if value.member(&name.to_lowercase(), &mut map)?.is_none() {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Object(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Thing {
        name: String,
        parts: BTreeMap<String, Thing>,
        words: BTreeMap<String, String>,
    }

    impl Fields for Thing {
        fn member<'de, A: MapAccess<'de>>(
            &mut self,
            name: &str,
            map: &mut A,
        ) -> Result<Option<()>, A::Error> {
            match name {
                "name" => text(map, &mut self.name),
                "parts" => structs(map, &mut self.parts),
                "words" => texts(map, &mut self.words),
                _ => Ok(None),
            }
        }
    }

    fn read(text: &str) -> Thing {
        first_value(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_struct_is_read_as_in_go() {
        let named = |name: &str| Thing { name: name.into(), ..Thing::default() };
        for nothing in ["", " \n", "null", "{}", r#"{"name": null, "parts": null, "other": [{"name": 1}]}"#] {
            assert_eq!(read(nothing), Thing::default(), "{nothing}");
        }
        for a in [r#"{"NAME": "a"}"#, r#"{"name": "b", "Name": "a"}"#, r#"{"name": "a"} }} and more"#] {
            assert_eq!(read(a), named("a"), "{a}");
        }
        assert_eq!(read(r#"{"name": "a", "name": null}"#), named("a"));
        let parts = read(r#"{"parts": {"x": null, "y": {"nAmE": "b"}}, "Parts": {"z": {}}}"#).parts;
        assert_eq!(parts.keys().collect::<Vec<_>>(), ["x", "y", "z"]);
        assert_eq!(parts.get("y"), Some(&named("b")));
        assert_eq!(read(r#"{"words": {"x": null, "X": "b"}}"#).words.len(), 2);
        assert_eq!(first_value::<Thing>(b"{\"name\": \"\xff\"}").unwrap(), named("\u{fffd}"));
    }

    #[test]
    fn a_value_of_another_type_is_an_error() {
        for wrong in ["[]", "1", r#"{"name": 1}"#, r#"{"parts": []}"#, r#"{"parts": {"x": "y"}}"#, "{"] {
            assert!(first_value::<Thing>(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
