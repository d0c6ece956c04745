//! `[disk]`: how much of an engine's disk stays free.

use std::{fmt, path::Path};

use serde::{Deserialize, Deserializer, de::Error as _};
use toml::Spanned;

use super::{ConfigError, place, policy::parse_size};
use crate::names::printable;

/// The marks of every engine's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskMarks {
    /// With less free space wharfd removes unused data, and takes no new builds if that does not help.
    pub low: Mark,
    /// With less free space it ends running builds.
    pub full: Mark,
}

impl Default for DiskMarks {
    fn default() -> Self {
        Self { low: Mark::Percent(10), full: Mark::Percent(5) }
    }
}

/// An amount of free space: `"10%"` of the disk, or `"20GiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Of the whole disk.
    Percent(u8),
    /// Bytes.
    Bytes(u64),
}

impl Mark {
    /// The mark in bytes on a disk with `total` bytes.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Percent(percent) => (total / 100).saturating_mul(percent.into()),
            Self::Bytes(bytes) => bytes,
        }
    }

    fn half(self) -> Self {
        match self {
            Self::Percent(percent) => Self::Percent(percent.div_ceil(2)),
            Self::Bytes(bytes) => Self::Bytes(bytes / 2),
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(bytes) => write!(f, "{} MiB", bytes >> 20),
        }
    }
}

impl<'de> Deserialize<'de> for Mark {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
        let mark = match percent.filter(|percent| *percent <= 90) {
            Some(percent) => Some(Self::Percent(percent)),
            None => parse_size(&text).map(Self::Bytes),
        };
        mark.ok_or_else(|| {
            let text = printable(&text);
            D::Error::custom(format!(
                "`{text}` is not an amount of free space; write 10%, at most 90%, or 20GiB"
            ))
        })
    }
}

/// `[disk]` as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    low: Option<Mark>,
    full: Option<Mark>,
}

/// The marks; the second is the lower one as far as this is known without a disk.
pub(super) fn marks(
    written: Option<&Spanned<Written>>,
    (path, text): (&Path, &str),
) -> Result<DiskMarks, ConfigError> {
    let Some(spanned) = written else { return Ok(DiskMarks::default()) };
    let written = spanned.as_ref();
    let low = written.low.unwrap_or(DiskMarks::default().low);
    let marks = DiskMarks { low, full: written.full.unwrap_or(low.half()) };
    let is_higher = match (marks.low, marks.full) {
        (Mark::Percent(low), Mark::Percent(full)) => full > low,
        (Mark::Bytes(low), Mark::Bytes(full)) => full > low,
        // Only the disk's size decides. The lower one counts there.
        (Mark::Percent(_), Mark::Bytes(_)) | (Mark::Bytes(_), Mark::Percent(_)) => false,
    };
    if is_higher {
        let DiskMarks { low, full } = marks;
        return Err(ConfigError::File {
            place: place(path, text, Some(spanned.span())),
            message: format!(
                "disk.full, {full}, is more than disk.low, {low}: running builds would end before new ones are \
                 refused; give a lower one"
            ),
        });
    }
    Ok(marks)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::tests::{error, load},
        *,
    };

    #[test]
    fn marks_of_disks_and_times_of_jobs_are_checked() {
        let config = load(&[], "[disk]\nlow = \"20GiB\"\n[job]\nretire_after = \"2h\"\n").unwrap();
        assert_eq!((config.disk.low, config.disk.full), (Mark::Bytes(20 << 30), Mark::Bytes(10 << 30)));
        assert_eq!((config.disk.low.of(1), Mark::Percent(5).of(1000)), (20 << 30, 50));
        assert_eq!(config.job_retire_after, Duration::from_secs(7200));
        // Without `full` it is half of `low`, which may be off.
        for (low, full) in [("0%", Mark::Percent(0)), ("3%", Mark::Percent(2)), ("10%", Mark::Percent(5))] {
            let config = load(&[], &format!("[disk]\nlow = \"{low}\"\n")).unwrap();
            assert_eq!(config.disk.full, full, "{low}");
        }
        assert_eq!(load(&[], "[disk]\nfull = \"0%\"\n").unwrap().disk.low, DiskMarks::default().low);
        assert_eq!(load(&[], "").unwrap().disk, DiskMarks::default());
        let engine =
            "[engines.a]\nsocket = \"unix:///run/a.sock\"\ndisk = \"/mnt/a\"\nfirewall = \"/run/set\"\n";
        let config = load(&[], engine).unwrap();
        assert_eq!(config.engines.firewall(config.engines.default_name()), Some(Path::new("/run/set")));
        assert_eq!(config.engines.disk(config.engines.default_name()), Some(Path::new("/mnt/a")));
        for (file, why) in [
            ("[disk]\nlow = \"91%\"\n", "`91%` is not an amount of free space"),
            ("[disk]\nlow = \"-1%\"\n", "`-1%` is not an amount"),
            ("[disk]\nfull = \"5\"\n", "`5` is not an amount"),
            ("[disk]\nfull = \"11%\"\n", "disk.full, 11%, is more than disk.low, 10%"),
            (
                "[disk]\nlow = \"1GiB\"\nfull = \"2GiB\"\n",
                "disk.full, 2048 MiB, is more than disk.low, 1024 MiB",
            ),
            ("[disk]\nlow = \"0%\"\nfull = \"5%\"\n", "disk.full, 5%, is more than disk.low, 0%"),
            ("[disk]\nlows = \"1GiB\"\n", "unknown field `lows`"),
            (
                "[engines.a]\nsocket = \"unix:///run/a.sock\"\ndisk = \"a\"\n",
                "engines.a.disk is not an absolute path",
            ),
            (
                "[engines.a]\nsocket = \"unix:///run/a.sock\"\nfirewall = \"a\"\n",
                "engines.a.firewall is not an absolute path",
            ),
            ("[job]\nretire_after = \"59m\"\n", "job.retire_after: "),
        ] {
            let wrong = error(file);
            assert!(wrong.contains(why) && wrong.starts_with("w.toml:"), "{file}: {wrong}");
        }
    }
}
