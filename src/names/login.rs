//! Credentials for a registry.

use super::Secret;

/// A user's name and password, or an identity token, for one registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The user's name; empty with an identity token.
    pub username: String,
    /// The password; empty with an identity token.
    pub password: Secret<String>,
    /// An OAuth2 refresh token in place of name and password; empty: none.
    pub identity_token: Secret<String>,
}
