//! The host that is reserved for wharfd's own names.

use super::Reference;

/// Everything under this host belongs to wharfd: the names of its images in an engine, and the hosts
/// that keep one job's results apart from another's. RFC 6761 reserves `.invalid`: no resolver answers
/// for it, so an engine can fetch nothing from there.
pub const RESERVED_HOST: &str = "wharf.invalid";

/// Whether a host, with or without a port, is [`RESERVED_HOST`] or lies under it.
pub fn is_reserved_host(host: &str) -> bool {
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let before = name.strip_suffix(RESERVED_HOST);
    before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

impl Reference {
    /// Whether this name belongs to wharfd; jobs may not use such names.
    pub fn is_reserved(&self) -> bool {
        is_reserved_host(self.host())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_and_all_below_it_are_reserved() {
        for host in ["wharf.invalid", "WHARF.Invalid:5000", "x.salt.wharf.invalid", "wharf.invalid."] {
            assert!(is_reserved_host(host), "{host}");
        }
        for host in ["wharf.invalid.example", "awharf.invalid", "docker.io", "invalid", ""] {
            assert!(!is_reserved_host(host), "{host}");
        }
        assert!(Reference::parse("wharf.invalid/i/hold/x:1").unwrap().is_reserved());
        assert!(!Reference::parse("app/wharf.invalid:1").unwrap().is_reserved());
    }
}
