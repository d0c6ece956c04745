//! Entrances for `fuzz/`: the documents of an image.

use std::collections::HashMap;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::layers::claims::{children, claims_of};
use crate::{engine::Platform, names::reference::Digest};

/// Documents, each behind its length in two bytes: the first is the image's manifest or index, and may name
/// the later ones by `@1` for the last, `@2` for the one before it, and so on.
pub fn documents(mut data: &[u8]) {
    let mut documents = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk() {
        let (document, rest) =
            rest.split_at_checked(usize::from(u16::from_le_bytes(*length))).unwrap_or((rest, &[]));
        documents.push(String::from_utf8_lossy(document).into_owned());
        data = rest;
    }
    let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
    // The last one first: who names a digest has it.
    let mut known: Vec<(Digest, Bytes)> = Vec::new();
    for mut document in documents.into_iter().rev() {
        for (number, (digest, _)) in known.iter().enumerate() {
            document = document.replace(&format!("@{}", number + 1), digest.as_str());
        }
        known.push((Digest::from_sha256(Sha256::digest(&document).into()), document.into()));
    }
    let Some((top, document)) = known.last().cloned() else { return };
    let _ = children(&document, &platform);
    let _ = claims_of(&top, &HashMap::from_iter(known), &platform);
}
