//! What extended headers say of the entry that follows them.

use crate::{build::tar::entry, names::printable};

/// Values from extensions for the entry that follows them.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    /// The number of PAX's records.
    pub(super) records: usize,
    /// Of PAX.
    pub(super) path: Option<Vec<u8>>,
    pub(super) target: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    /// GNU's, which takes precedence over PAX.
    pub(super) long_path: Option<Vec<u8>>,
    pub(super) long_target: Option<Vec<u8>>,
}

impl Extensions {
    /// Reads PAX's records. The last record with a key counts, and a record without a value
    /// does not.
    pub(super) fn read(&mut self, mut body: &[u8]) -> Result<(), String> {
        while !body.is_empty() {
            self.records += 1;
            let (key, value) =
                entry::record(&mut body).ok_or("has an extended header that cannot be read")?;
            let set = (!value.is_empty()).then(|| value.to_vec());
            match key {
                "path" => self.path = set,
                "linkpath" => self.target = set,
                "size" => {
                    let size = |value: Vec<u8>| {
                        let size = std::str::from_utf8(&value).ok()?.parse().ok()?;
                        i64::try_from(size).is_ok().then_some(size)
                    };
                    self.size = match set {
                        Some(value) => Some(size(value).ok_or("has a size that cannot be read")?),
                        None => None,
                    };
                }
                _ if key.starts_with("GNU.sparse.") => return Err(sparse()),
                // With those of overlayfs a directory would show another one of its mount.
                _ if ["trusted.", "user.overlay."].iter().any(|space| {
                    key.strip_prefix("SCHILY.xattr.").is_some_and(|name| name.starts_with(space))
                }) =>
                {
                    let attribute = printable(key.trim_start_matches("SCHILY.xattr."));
                    return Err(format!(
                        "has the attribute `{attribute}`, which belongs to the node's file systems: make it without \
                         such attributes"
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

pub(super) fn sparse() -> String {
    "has a file with holes: make it without `--sparse`".to_owned()
}
