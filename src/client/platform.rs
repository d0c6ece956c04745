//! Parses platforms as people paste them, like containerd (`platforms.Parse` and its normalization):
//! `Linux/x86_64`, `arm64`, `local`.

use std::{env::consts, fmt};

const SYSTEMS: [&str; 9] =
    ["linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "dragonfly", "solaris", "illumos"];

const ARCHITECTURES: [&str; 13] = [
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64le", "riscv64",
    "s390x", "wasm",
];

/// A platform; `local` means the node's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Platform {
    Local,
    Named(Named),
}

/// A platform in containerd's spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    system: String,
    architecture: String,
    variant: String,
}

/// Reads `OS`, `ARCH`, `OS/ARCH` or `OS/ARCH/VARIANT`.
pub(crate) fn platform(text: &str) -> Result<Platform, String> {
    let wrong = || "write it as `OS/ARCH`, for example `linux/amd64`".to_owned();
    let named = |system: String, (architecture, variant): (String, String)| {
        // `arm` without a variant means v7.
        let variant = if architecture == "arm" && variant.is_empty() { "v7".to_owned() } else { variant };
        Platform::Named(Named { system, architecture, variant })
    };
    let is_plain =
        |part: &&str| part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    let parts: Vec<&str> = text.trim().split('/').collect();
    if parts.iter().any(|part| part.is_empty()) || !parts.iter().all(is_plain) {
        return Err(wrong());
    }
    match *parts.as_slice() {
        ["local"] => Ok(Platform::Local),
        [one] => {
            let (system, architecture) = (system(one), architecture(one, ""));
            if SYSTEMS.contains(&system.as_str()) {
                Ok(named(system, self::architecture(consts::ARCH, "")))
            } else if ARCHITECTURES.contains(&architecture.0.as_str()) {
                Ok(named("linux".to_owned(), architecture))
            } else {
                Err(format!("`{one}` is not a known operating system or architecture; {}", wrong()))
            }
        }
        [os, arch] => Ok(named(system(os), architecture(arch, ""))),
        [os, arch, variant] => Ok(named(system(os), architecture(arch, variant))),
        _ => Err(wrong()),
    }
}

fn system(text: &str) -> String {
    match text.to_ascii_lowercase().as_str() {
        "macos" => "darwin".to_owned(),
        other => other.to_owned(),
    }
}

/// The architecture and its variant.
fn architecture(text: &str, variant: &str) -> (String, String) {
    let variant = variant.to_ascii_lowercase();
    let numbered = |number: &str| format!("v{}", number.strip_prefix('v').unwrap_or(number));
    let (name, variant) = match (text.to_ascii_lowercase().as_str(), variant.as_str()) {
        ("i386" | "x86", _) => ("386", String::new()),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", String::new()),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant.to_owned()),
        ("aarch64" | "arm64", "8" | "v8") => ("arm64", String::new()),
        ("aarch64" | "arm64", variant) => ("arm64", variant.to_owned()),
        ("armhf", _) => ("arm", "v7".to_owned()),
        ("armel", _) => ("arm", "v6".to_owned()),
        ("arm", "") => ("arm", String::new()),
        ("arm", variant) => ("arm", numbered(variant)),
        (other, variant) => return (other.to_owned(), variant.to_owned()),
    };
    (name.to_owned(), variant)
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.system, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_as_containerd_reads_them() {
        for (text, normal) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("LINUX/X86-64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("x86_64", "linux/amd64"),
            ("aarch64", "linux/arm64"),
            ("linux/aarch64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("armel", "linux/arm/v6"),
            ("linux/i386", "linux/386"),
            ("macos/arm64", "darwin/arm64"),
            ("windows/amd64", "windows/amd64"),
        ] {
            let Ok(Platform::Named(named)) = platform(text) else { panic!("{text}") };
            assert_eq!(named.to_string(), normal, "{text}");
        }
        assert_eq!(platform("local"), Ok(Platform::Local));
        let Ok(Platform::Named(own)) = platform("linux") else { panic!("linux") };
        assert_eq!(Ok(Platform::Named(own)), platform(consts::ARCH));
        for wrong in ["", "/", "linux/", "linux//amd64", "a/b/c/d", "lin ux/amd64", "pdp11", "linux/amd64;x"]
        {
            assert!(platform(wrong).is_err(), "{wrong}");
        }
    }
}
