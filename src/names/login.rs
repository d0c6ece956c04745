//! Credentials for a registry.

use super::Secret;

/// A username and password, or an identity token, for one registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The username; empty with an identity token.
    pub username: String,
    /// The password; empty with an identity token.
    pub password: Secret<String>,
    /// An OAuth2 refresh token instead of username and password; empty if there is none.
    pub identity_token: Secret<String>,
}

/// The logins that came with a call, each for one registry. They stay in memory only while the call runs.
#[derive(Clone, Debug, Default)]
pub struct Logins(Vec<(String, Login)>);

impl Logins {
    /// Makes logins, each for the registry at a host.
    pub fn new(logins: Vec<(String, Login)>) -> Self {
        Self(logins)
    }

    /// The login for `host`. A password is never used for another registry.
    pub fn of(&self, host: &str) -> Option<&Login> {
        self.0.iter().find(|(own, _)| own == host).map(|(_, login)| login)
    }
}
