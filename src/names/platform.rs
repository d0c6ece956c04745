//! Platforms as images and people name them.

use std::fmt;

/// A platform in containerd's usual words (`platforms.Normalize`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPlatform {
    /// The operating system.
    pub os: String,
    /// The processor.
    pub architecture: String,
    /// Its variant; may be empty.
    pub variant: String,
}

impl NormalPlatform {
    /// Ignores case, knows several names for a system and an architecture, and reads an empty system as Linux.
    pub fn of(os: &str, architecture: &str, variant: &str) -> Self {
        let (architecture, variant) = (architecture.to_ascii_lowercase(), variant.to_ascii_lowercase());
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            same => same,
        };
        let os = match os.to_ascii_lowercase().as_str() {
            "" => "linux".to_owned(),
            "macos" => "darwin".to_owned(),
            same => same.to_owned(),
        };
        Self { os, architecture: architecture.to_owned(), variant: variant.to_owned() }
    }

    /// The place of this platform among those that run on `own`, the best first; `None` if it does not. containerd
    /// would also take an image of an older architecture (`386` on `amd64`), which no build could use here.
    pub fn rank_on(&self, own: &Self) -> Option<u32> {
        if self.os != own.os || self.architecture != own.architecture {
            return None;
        }
        if self.variant == own.variant {
            return Some(0);
        }
        // Of 32-bit ARM each version runs the older ones, down to 5.
        let version = |platform: &Self| match platform.architecture.as_str() {
            "arm" => platform.variant.strip_prefix('v')?.parse::<u32>().ok().filter(|version| *version >= 5),
            _ => None,
        };
        version(own)?.checked_sub(version(self)?)
    }
}

impl fmt::Display for NormalPlatform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_named_as_containerd_names_them() {
        for (platform, normal) in [
            (["linux", "amd64", ""], "linux/amd64"),
            (["Linux", "X86_64", "V1"], "linux/amd64"),
            (["linux", "x86-64", "v3"], "linux/amd64/v3"),
            (["", "i386", "x"], "linux/386"),
            (["linux", "aarch64", "v8"], "linux/arm64"),
            (["linux", "arm64", "v8.0"], "linux/arm64"),
            (["linux", "arm64", "v9"], "linux/arm64/v9"),
            (["linux", "arm", ""], "linux/arm/v7"),
            (["linux", "arm", "6"], "linux/arm/v6"),
            (["linux", "armel", ""], "linux/arm/v6"),
            (["linux", "armhf", "v6"], "linux/arm/v7"),
            (["macOS", "arm64", ""], "darwin/arm64"),
            (["linux", "S390X", "v1"], "linux/s390x/v1"),
        ] {
            let [os, architecture, variant] = platform;
            assert_eq!(NormalPlatform::of(os, architecture, variant).to_string(), normal, "{platform:?}");
        }
    }
}
