//! The names that the configuration gives: to engines, to issuers of tokens, and to policies.

use std::fmt;

use super::printable;

/// As for a part of a host's name.
const BYTES_MAX: usize = 63;

/// An engine's name in the configuration: letters, digits, `_`, `-`, `.`; 1 to 63 of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct EngineName(String);

impl EngineName {
    /// The name as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of the engine if the configuration names no engine.
impl Default for EngineName {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl TryFrom<String> for EngineName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        checked("an engine's name", name).map(Self)
    }
}

/// The name of an issuer of tokens, or of one static token: as an engine's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct IssuerName(String);

impl IssuerName {
    /// The name as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name under which the kubelet proves pods.
    pub fn of_pods() -> Self {
        Self("pods".to_owned())
    }
}

impl TryFrom<String> for IssuerName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        checked("an issuer's name", name).map(Self)
    }
}

/// The name of an entry of `[[policy]]`: as an engine's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct PolicyName(String);

impl PolicyName {
    /// Stands for the built-in rules.
    pub const BUILT_IN: &str = "built-in";
    /// Stands for the entry that a job does not have.
    pub const MISSING: &str = "none";
}

impl TryFrom<String> for PolicyName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        if [Self::BUILT_IN, Self::MISSING].contains(&name.as_str()) {
            return Err(format!(
                "`{name}` is reserved: `built-in` stands for the built-in rules, and `none` for a job \
                 without a policy"
            ));
        }
        checked("a policy's name", name).map(Self)
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for IssuerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn checked(what: &str, name: String) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if (1..=BYTES_MAX).contains(&name.len()) && name.bytes().all(plain) {
        Ok(name)
    } else {
        Err(format!(
            "`{}` is not {what}: 1 to {BYTES_MAX} letters, digits, `_`, `-` or `.`",
            printable(&name)
        ))
    }
}

impl fmt::Display for EngineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
