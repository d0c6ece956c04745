//! JSON objects that Go reads exactly as wharfd does. The engine (`encoding/json`) matches names in any case, and
//! takes the last of equal names. A document that the engine would read differently is refused.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{
        self, DeserializeSeed, MapAccess, Visitor,
        value::{MapAccessDeserializer, StringDeserializer},
    },
};

/// The names that wharfd reads in an image's documents, at any level.
const READ: [&str; 11] = [
    "config",
    "data",
    "diff_ids",
    "digest",
    "layers",
    "manifests",
    "mediaType",
    "rootfs",
    "size",
    "type",
    "urls",
];

/// An object in which no name is one of [`READ`] in another case. `T`'s derived implementation refuses equal
/// names.
pub(in crate::images) struct Strict<T>(pub(in crate::images) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Strict<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(Checked(map)))
            }
        }

        deserializer.deserialize_map(Object(PhantomData)).map(Strict)
    }
}

/// Passes an object through and checks its names.
struct Checked<A>(A);

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Checked<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let Some(name) = self.0.next_key::<String>()? else { return Ok(None) };
        let folded = folded(&name);
        if READ.iter().any(|read| folded == self::folded(read) && name != *read) {
            return Err(de::Error::custom("a name is in another case"));
        }
        seed.deserialize(StringDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.0.next_value_seed(seed)
    }
}

/// A name in the form in which `encoding/json` compares it. The long s and the Kelvin sign are the only letters
/// outside ASCII that fold into it.
fn folded(name: &str) -> String {
    name.replace('\u{17f}', "s").replace('\u{212a}', "k").to_ascii_lowercase()
}
