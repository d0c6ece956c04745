//! Sizes and ages in the form that docker's command line uses.

use std::time::Duration;

/// Reads a size in docker's units, each a power of 1024: `64m`, `1.5g`, `512KiB`, `1024`.
pub(crate) fn parse_size(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{text}` is not a size: write a number with b, k, m, g or t, for example `64m`");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim_start().to_ascii_lowercase();
    let prefix = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit);
    let power = match prefix {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(wrong()),
    };
    let bytes = number * 1024f64.powi(power);
    // A double counts whole bytes exactly up to 8 PiB.
    if !(0.0..=9_007_199_254_740_992.0).contains(&bytes) {
        return Err(wrong());
    }
    #[allow(clippy::cast_possible_truncation)]
    Ok(bytes as i64)
}

/// Writes a size as `docker images` does: powers of 1000, three significant digits.
pub(crate) fn human_size(bytes: i64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    #[allow(clippy::cast_precision_loss)]
    let mut size = bytes.max(0) as f64;
    let mut units = UNITS.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    while size >= 1000.0
        && let Some(next) = units.next()
    {
        size /= 1000.0;
        unit = next;
    }
    let decimals = match size {
        _ if unit == "B" || size >= 100.0 => 0,
        _ if size >= 10.0 => 1,
        _ => 2,
    };
    let number = format!("{size:.decimals$}");
    // Go's `%.4g` writes no trailing zeros: `4.5MB`.
    let number =
        if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { &number };
    format!("{number}{unit}")
}

/// Writes an age as docker does: `5 minutes`, `3 weeks`.
pub(crate) fn human_age(age: Duration) -> String {
    let seconds = age.as_secs();
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 14 => format!("{} days", hours / 24),
        () if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

/// `10 minutes ago`, for a time in seconds since 1970.
pub(crate) fn since(then: i64, now: Duration) -> String {
    match u64::try_from(then) {
        Ok(then) if then > 0 => format!("{} ago", human_age(now.saturating_sub(Duration::from_secs(then)))),
        Ok(_) | Err(_) => "N/A".to_owned(),
    }
}

/// Writes a time in RFC 3339, in UTC and whole seconds: `2024-02-29T12:00:00Z`.
pub(crate) fn rfc3339(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 0000-03-01, so that a leap day is the last of its year (Howard Hinnant's
    // `civil_from_days`).
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest % 3600 / 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        assert_eq!(parse_size("64m"), Ok(64 << 20));
        assert_eq!(parse_size("1g"), Ok(1 << 30));
        assert_eq!(parse_size("1.5 GiB"), Ok(3 << 29));
        assert_eq!(parse_size("512KB"), Ok(512 << 10));
        assert_eq!(parse_size("1024"), Ok(1024));
        assert_eq!(parse_size("7b"), Ok(7));
        for wrong in ["", "m", "64x", "-1m", "1.2.3k", "9000000000t", "1kk"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_written_as_docker_writes_them() {
        let written = [0, 999, 1000, 4_500_000, 77_800_000, 123_456_789, 1_230_000_000].map(human_size);
        assert_eq!(written, ["0B", "999B", "1kB", "4.5MB", "77.8MB", "123MB", "1.23GB"]);
    }

    #[test]
    fn ages_are_written_as_docker_writes_them() {
        let written = [0, 1, 59, 60, 600, 3600, 7200, 86_400 * 3, 86_400 * 30, 86_400 * 90, 86_400 * 800]
            .map(|seconds| human_age(Duration::from_secs(seconds)));
        assert_eq!(
            written,
            [
                "Less than a second",
                "1 second",
                "59 seconds",
                "About a minute",
                "10 minutes",
                "About an hour",
                "2 hours",
                "3 days",
                "4 weeks",
                "3 months",
                "2 years"
            ]
        );
    }

    #[test]
    fn moments_are_written_in_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_709_208_000), "2024-02-29T12:00:00Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59Z");
    }
}
