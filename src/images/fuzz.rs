//! Entry points for `fuzz/`: the documents of an image.

use super::index::Document;
use crate::engine::Platform;

/// A manifest or index behind its length in two bytes, and a config.
pub fn documents(data: &[u8]) {
    let Some((length, rest)) = data.split_first_chunk() else { return };
    let (manifest, config) =
        rest.split_at_checked(usize::from(u16::from_le_bytes(*length))).unwrap_or((rest, &[]));
    let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
    if let Ok(Document::Image(image)) = Document::read(manifest, &platform) {
        let _ = image.parts();
        let _ = image.claims(config);
    }
}
