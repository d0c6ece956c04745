//! BuildKit's cache: the records of cache mounts, and their removal.

use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::{DiskUsageRequest, PruneRequest, UsageRecord};
use tonic::Status;

use super::connection::Connection;

/// The type of the record of a cache mount.
const CACHE_MOUNT: &str = "exec.cachemount";
/// How many records one call removes: BuildKit compares each record with each filter.
const AT_ONCE: usize = 64;

/// The record of a cache mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheMount {
    /// The record's id.
    pub record: String,
    /// The mount's id, as the graph had it.
    pub id: String,
    /// Its size in bytes; 0 while a step uses it.
    pub size: i64,
    /// When a step used it last, in seconds since 1970; 0 if that is not known.
    pub used: i64,
    /// Whether a step uses it.
    pub is_in_use: bool,
}

impl CacheMount {
    fn new(record: UsageRecord) -> Option<Self> {
        let used = record.last_used_at.or(record.created_at).map_or(0, |time| time.seconds);
        Some(Self {
            id: mount_id(&record.description)?,
            record: record.id,
            size: record.size,
            used,
            is_in_use: record.in_use,
        })
    }
}

/// Every cache mount of BuildKit's. It finds out the sizes of those that were used, which may take a while.
pub async fn cache_mounts(connection: &Connection) -> Result<Vec<CacheMount>, Status> {
    let request =
        DiskUsageRequest { filter: vec![format!("type=={CACHE_MOUNT}")], ..DiskUsageRequest::default() };
    // Each record has the text of a step, and a node has thousands.
    let mut control = connection.control().max_decoding_message_size(usize::MAX);
    let records = control.disk_usage(request).await?.into_inner().record;
    Ok(records.into_iter().filter_map(CacheMount::new).collect())
}

/// Removes cache mounts by the ids of their records, as far as no step uses them. Returns the ids of those that are gone.
pub async fn remove_cache_mounts(connection: &Connection, records: &[String]) -> Result<Vec<String>, Status> {
    let mut gone = Vec::new();
    for records in records.chunks(AT_ONCE) {
        // BuildKit's ids are letters and digits, which need no quotes in a filter.
        let is_id = |record: &&String| record.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let filter = |record: &String| format!("id=={record},type=={CACHE_MOUNT}");
        let filter: Vec<_> =
            records.iter().filter(|record| !record.is_empty()).filter(is_id).map(filter).collect();
        if filter.is_empty() {
            // Without a filter it would remove everything.
            continue;
        }
        let mut control = connection.control();
        let request = PruneRequest { filter, all: true, ..PruneRequest::default() };
        let mut removed = control.prune(request).await?.into_inner();
        while let Some(record) = removed.message().await? {
            gone.push(record.id);
        }
    }
    Ok(gone)
}

/// Removes what is in BuildKit's cache, but cache mounts, and was not used for `age`, as far as no build has it and no image
/// needs it. `gone` gets the bytes of each record that is gone.
pub async fn remove_unused(
    connection: &Connection,
    age: Duration,
    mut gone: impl FnMut(i64),
) -> Result<(), Status> {
    let request = PruneRequest {
        filter: vec![format!("type!={CACHE_MOUNT}")],
        keep_duration: i64::try_from(age.as_nanos()).unwrap_or(i64::MAX),
        ..PruneRequest::default()
    };
    let mut control = connection.control();
    let mut removed = control.prune(request).await?.into_inner();
    while let Some(record) = removed.message().await? {
        gone(record.size);
    }
    Ok(())
}

/// The id in the description of a cache mount's record, `cached mount TARGET from exec COMMAND with id "ID"`
/// (`getRefCacheDir`, BuildKit 0.13 and 0.33). A job chooses the texts before it, but no quote in the id stands without
/// a backslash, so the last such phrase is BuildKit's own. It is missing if the id is the target, which an id of wharfd's
/// never is.
fn mount_id(description: &str) -> Option<String> {
    let (_, quoted) = description.rsplit_once(" with id \"")?;
    Some(unquoted(quoted.strip_suffix('"')?))
}

/// A text as it was before Go quoted it (`strconv.Quote`). What is no such escape stays as it is.
fn unquoted(quoted: &str) -> String {
    let mut text = String::with_capacity(quoted.len());
    let mut rest = quoted;
    while let Some((before, escape)) = rest.split_once('\\') {
        text.push_str(before);
        let mut chars = escape.chars();
        let digits = match chars.next() {
            Some(plain @ ('\\' | '"')) => {
                text.push(plain);
                rest = chars.as_str();
                continue;
            }
            Some('n') => Ok('\n'),
            Some('t') => Ok('\t'),
            Some('r') => Ok('\r'),
            Some('a') => Ok('\u{7}'),
            Some('b') => Ok('\u{8}'),
            Some('f') => Ok('\u{c}'),
            Some('v') => Ok('\u{b}'),
            Some('u') => Err(4),
            Some('U') => Err(8),
            Some('x') => Err(2),
            _ => Err(0),
        };
        let after = chars.as_str();
        let escaped = match digits {
            Ok(control) => Some((control, after)),
            Err(0) => None,
            Err(digits) => after.split_at_checked(digits).and_then(|(digits, after)| {
                let code = u32::from_str_radix(digits, 16).ok();
                // A byte that is no UTF-8.
                let code = code.filter(|code| digits.len() > 2 || *code < 0x80);
                Some((code.and_then(char::from_u32)?, after))
            }),
        };
        match escaped {
            Some((c, after)) => {
                text.push(c);
                rest = after;
            }
            None => {
                text.push('\\');
                rest = escape;
            }
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_last_one_that_buildkit_wrote() {
        for (description, id) in [
            (r#"cached mount /c from exec /bin/sh -c make with id "i.h/npm""#, Some("i.h/npm")),
            (
                r#"cached mount /c from exec /bin/sh -c : with id "other/x" with id "i.h/npm""#,
                Some("i.h/npm"),
            ),
            (
                r#"cached mount /c from exec sh with id "i.h/a\" with id \"other/x""#,
                Some(r#"i.h/a" with id "other/x"#),
            ),
            (r#"cached mount /c from exec sh with id "i.h/\\""#, Some(r"i.h/\")),
            (
                r#"cached mount /c from exec sh with id "i.h/a\tb\u200bc\U0001f600""#,
                Some("i.h/a\tb\u{200b}c😀"),
            ),
            (r#"cached mount /c from exec sh with id "i.h/\xff\x1f\q\u12""#, Some("i.h/\\xff\u{1f}\\q\\u12")),
            ("cached mount /c from exec /bin/sh -c make", None),
            (r#"with id "unended"#, None),
            ("", None),
        ] {
            assert_eq!(mount_id(description).as_deref(), id, "{description}");
        }
    }
}
