//! Parses platforms as people paste them, like containerd (`platforms.Parse` and its normalization):
//! `Linux/x86_64`, `arm64`, `local`.

use std::env::consts;

use super::{
    env::{DOCKER_DEFAULT_PLATFORM, Env},
    exit::Failure,
};
use crate::names::{NormalPlatform, printable};

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
    Named(NormalPlatform),
}

/// Reads `OS`, `ARCH`, `OS/ARCH` or `OS/ARCH/VARIANT`.
pub(crate) fn platform(text: &str) -> Result<Platform, String> {
    let wrong = || "write it as `OS/ARCH`, for example `linux/amd64`".to_owned();
    let is_plain =
        |part: &&str| part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    let parts: Vec<&str> = text.trim().split('/').collect();
    if parts.iter().any(|part| part.is_empty()) || !parts.iter().all(is_plain) {
        return Err(wrong());
    }
    match *parts.as_slice() {
        ["local"] => Ok(Platform::Local),
        [one] => {
            let own = normal(one, consts::ARCH, "");
            let of_linux = normal("linux", one, "");
            if SYSTEMS.contains(&own.os.as_str()) {
                Ok(Platform::Named(own))
            } else if ARCHITECTURES.contains(&of_linux.architecture.as_str()) {
                Ok(Platform::Named(of_linux))
            } else {
                Err(format!("`{one}` is not a known operating system or architecture; {}", wrong()))
            }
        }
        [os, architecture] => Ok(Platform::Named(normal(os, architecture, ""))),
        [os, architecture, variant] => Ok(Platform::Named(normal(os, architecture, variant))),
        _ => Err(wrong()),
    }
}

/// The platforms in DOCKER_DEFAULT_PLATFORM, by which docker's own commands choose.
pub(crate) fn of_environment(env: &Env) -> Result<Vec<Platform>, Failure> {
    let Some(text) = env.get(DOCKER_DEFAULT_PLATFORM)? else { return Ok(Vec::new()) };
    let read: Result<Vec<_>, _> = text.split(',').map(platform).collect();
    read.map_err(|wrong| {
        let text = format!("DOCKER_DEFAULT_PLATFORM is `{}`, which is not a platform", printable(&text));
        Failure::usage(text).hint(format!("{wrong}; or leave it out: the node's own platform is built"))
    })
}

/// `uname` and people also say `x86`.
fn normal(os: &str, architecture: &str, variant: &str) -> NormalPlatform {
    let architecture = if architecture.eq_ignore_ascii_case("x86") { "386" } else { architecture };
    NormalPlatform::of(os, architecture, variant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_variable_is_a_list_of_platforms() {
        let of = |text| of_environment(&Env::of(&[("DOCKER_DEFAULT_PLATFORM", text)]));
        assert_eq!(of("").unwrap(), []);
        assert_eq!(of("Linux/x86_64, local").unwrap(), [platform("amd64").unwrap(), Platform::Local]);
        let failure = of("linux/amd64,pdp11").unwrap_err();
        assert!(failure.text.contains("DOCKER_DEFAULT_PLATFORM is `linux/amd64,pdp11`"), "{failure}");
    }

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
            ("X86", "linux/386"),
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
