//! `wharf.v1.RegistryCredentials`, checked.

use crate::{
    fault::Fault,
    names::{Login, Logins, Secret},
    wire::v1,
};

/// No real build uses more registries.
pub(super) const LOGINS_MAX: usize = 64;

/// Checks the credentials of a call; `field` is their field in the request.
pub(super) fn logins(
    field: &'static str,
    credentials: impl IntoIterator<Item = v1::RegistryCredentials>,
) -> Result<Logins, Fault> {
    let mut logins = Vec::new();
    for v1::RegistryCredentials { host, username, password, identity_token } in credentials {
        if host.is_empty() {
            return Err(Fault::invalid(field, "credentials name no registry").hint("set their host"));
        }
        if logins.len() == LOGINS_MAX {
            return Err(Fault::invalid(field, format!("more than {LOGINS_MAX} registries")));
        }
        let (password, identity_token) = (Secret::new(password), Secret::new(identity_token));
        logins.push((host, Login { username, password, identity_token }));
    }
    Ok(Logins::new(logins))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_for_its_own_registry_and_is_not_shown() {
        let credentials = v1::RegistryCredentials {
            host: "a.example".into(),
            username: "u".into(),
            password: "hunter2".into(),
            identity_token: String::new(),
        };
        let logins = super::logins("credentials", [credentials]).unwrap();
        assert_eq!(logins.of("a.example").unwrap().password.expose(), "hunter2");
        assert!(logins.of("b.example").is_none());
        assert!(!format!("{logins:?}").contains("hunter2"));
        let nameless = super::logins("credentials", [v1::RegistryCredentials::default()]);
        assert_eq!(nameless.unwrap_err().field(), Some("credentials"));
    }
}
