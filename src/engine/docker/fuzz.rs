//! The entry point for `fuzz/`: lists of the engine, in which jobs have chosen names, labels and histories.
#![expect(clippy::unwrap_used, reason = "a fuzzer ends at what must not be")]

use serde_json::{Map, Value};

use super::{
    history::bytes_of,
    listing::{Elements, Listed, ListedContainer},
};

/// A list, behind the size of the pieces in which it comes. In any pieces it reads alike, and as any reader of JSON
/// reads it.
pub fn listing(data: &[u8]) {
    let Some((size, data)) = data.split_first() else { return };
    let size = usize::from(*size) + 1;
    let images = read::<Listed>(data, size);
    assert_eq!(images, read(data, usize::MAX), "in pieces and whole");
    let objects: Option<Vec<Map<String, Value>>> = serde_json::from_slice(data).ok();
    if objects.is_some()
        && let Ok(all) = serde_json::from_slice::<Vec<Listed>>(data)
    {
        assert_eq!(images.unwrap(), all, "in pieces and by another reader");
    }
    let _ = read::<ListedContainer>(data, size);
    let _ = bytes_of(data.chunks(size));
}

fn read<T: serde::de::DeserializeOwned>(data: &[u8], size: usize) -> Option<Vec<T>> {
    let (mut elements, mut listed) = (Elements::default(), Vec::new());
    data.chunks(size).try_for_each(|piece| elements.read(piece, &mut listed)).ok()?;
    Some(listed)
}
