//! BuildKit's cache: the records of cache mounts, and their removal.

use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::{DiskUsageRequest, PruneRequest, UsageRecord};
use tonic::Status;

use super::connection::Connection;

/// The type of the record of a cache mount.
const CACHE_MOUNT: &str = "exec.cachemount";
/// The first characters of the ids of records (`identity.NewID`): pages of about the same size.
pub const PAGES: &str = "0123456789abcdefghijklmnopqrstuvwxyz";

/// How many records one call removes: BuildKit compares each record with each filter, under its lock.
const AT_ONCE: usize = 10;

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
    /// Whether BuildKit is measuring the mount right now, for any client. Meanwhile a stand-in record
    /// replaces the mount's own, and the mount cannot be removed.
    pub is_measured: bool,
}

/// A cache mount that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// The record's id.
    pub record: String,
    /// Its size in bytes; 0 if BuildKit does not know it.
    pub size: i64,
}

impl CacheMount {
    fn new(record: UsageRecord) -> Option<Self> {
        let is_measured = record.record_type != CACHE_MOUNT;
        // The other record is made for the measuring.
        let used = record.last_used_at.or(record.created_at).filter(|_| !is_measured);
        Some(Self {
            id: mount_id(&record.description)?,
            record: record.id,
            size: record.size.max(0),
            used: used.map_or(0, |time| time.seconds),
            is_in_use: record.in_use && !is_measured,
            is_measured,
        })
    }
}

/// The cache mounts whose ids begin with `prefix` and a `.` or `/`; with a `page`, those whose records' ids
/// begin with that character. BuildKit measures the mounts that a step has used since, and no others. That
/// may take a while, also for a mount that somebody else is measuring ([`CacheMount::is_measured`]). One
/// mount that it cannot measure fails the whole answer, as a path that is too long does.
pub async fn cache_mounts(
    connection: &Connection,
    prefix: &str,
    page: Option<char>,
) -> Result<Vec<CacheMount>, Status> {
    let page = page.map(|page| format!(",id~={}", quoted(&format!("^{}", escaped(page)))));
    let filter = [filter(prefix), measured_filter(prefix)];
    let filter = filter.map(|filter| format!("{filter}{}", page.as_deref().unwrap_or_default()));
    let request = DiskUsageRequest { filter: filter.into(), ..DiskUsageRequest::default() };
    let records = connection.control().disk_usage(request).await?.into_inner().record;
    Ok(records.into_iter().filter_map(CacheMount::new).collect())
}

/// BuildKit's ids are letters and digits, which need no quotes in a filter.
fn is_id(record: &str) -> bool {
    !record.is_empty() && record.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Removes the first few of these cache mounts, by the ids of their records, as far as no step uses them. Returns the others;
/// `gone` gets the records of those that are gone, whatever happens afterwards.
pub async fn remove_cache_mounts<'a>(
    connection: &Connection,
    records: &'a [String],
    gone: &mut Vec<Gone>,
) -> Result<&'a [String], Status> {
    let (now, later) = records.split_at(records.len().min(AT_ONCE));
    let filter = |record: &String| format!("id=={record},type=={CACHE_MOUNT}");
    let filter: Vec<_> = now.iter().filter(|record| is_id(record)).map(filter).collect();
    // Without a filter it would remove everything.
    if !filter.is_empty() {
        prune(connection, filter, gone).await?;
    }
    Ok(later)
}

/// Removes the cache mounts whose ids begin with `prefix` and a `.` or `/`, as far as no step uses them,
/// without a list of them: BuildKit counts a size that it cannot measure as 0. BuildKit 0.13 removes none,
/// since it shows no description to the filter. Each ten cost a look at all records under BuildKit's lock:
/// use it for those that cannot be listed.
pub async fn remove_unlisted(
    connection: &Connection,
    prefix: &str,
    gone: &mut Vec<Gone>,
) -> Result<(), Status> {
    prune(connection, vec![filter(prefix)], gone).await
}

async fn prune(connection: &Connection, filter: Vec<String>, gone: &mut Vec<Gone>) -> Result<(), Status> {
    let request = PruneRequest { filter, all: true, ..PruneRequest::default() };
    let mut removed = connection.control().prune(request).await?.into_inner();
    while let Some(record) = removed.message().await? {
        gone.push(Gone { record: record.id, size: record.size.max(0) });
    }
    Ok(())
}

/// BuildKit's filter for the cache mounts whose ids begin with `prefix` and a `.` or `/`.
///
/// The description of a cache mount's record is `cached mount TARGET from exec COMMAND with id "ID"` (`getRefCacheDir`,
/// BuildKit 0.13 and 0.33). A job chooses the texts before the id, but no quote in the id stands without a backslash, so
/// only BuildKit's own phrase is followed by one quoted text and the end. BuildKit compiles the expression for each cache
/// mount (containerd's `filters`): it is short, and its literal beginning fails fast.
fn filter(prefix: &str) -> String {
    format!("type=={CACHE_MOUNT},description~={}", quoted(&described(prefix)))
}

/// BuildKit's filter for the records that replace these cache mounts while it measures them (`DiskUsage`,
/// BuildKit 0.13 and 0.33). Such a record is of no type, in use, and a copy of its mount, description and
/// all; no other record's description begins so.
fn measured_filter(prefix: &str) -> String {
    let expression = format!("(?s)^cached mount .*{}", described(prefix));
    format!("type==regular,inuse,immutable,description~={}", quoted(&expression))
}

/// The end of a cache mount's description, as a regular expression.
fn described(prefix: &str) -> String {
    let prefix: String = prefix.chars().map(escaped).collect();
    format!(r#" with id "{prefix}[./]([^"\\]|\\.)*"$"#)
}

/// A character as a regular expression.
fn escaped(c: char) -> String {
    if c.is_ascii_alphanumeric() { c.to_string() } else { format!(r"\x{{{:x}}}", u32::from(c)) }
}

/// A value in a filter.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', r"\\").replace('"', r#"\""#))
}

/// Removes everything in BuildKit's cache except cache mounts that was not used for `age`, if no build has it
/// and no image needs it. `gone` gets the bytes of each record that is gone.
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

/// Undoes Go's quoting (`strconv.Quote`); unknown escapes are kept.
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
                // A byte that is not UTF-8.
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
