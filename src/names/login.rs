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
