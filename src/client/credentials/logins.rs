//! `--login`: logins for one call, from environment variables. The command line contains only the variables'
//! names.

use std::collections::BTreeMap;

use super::{Credentials, config::hostname, hub};
use crate::{
    client::{env::Env, exit::Failure},
    names::Secret,
};

/// `[HOST=]USER_VAR:PASSWORD_VAR`, as typed. It does not print in `Debug`, since a user may type a password.
#[derive(Clone)]
pub(crate) struct LoginFlag(String);

impl std::fmt::Debug for LoginFlag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<login>")
    }
}

/// Accepts any text: an error of clap's would repeat the text.
impl From<&str> for LoginFlag {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Logins by registry.
#[derive(Clone, Debug, Default)]
pub(super) struct Logins(BTreeMap<String, Credentials>);

impl Logins {
    /// Reads the variables. A flag without a registry applies to the registry in `named`, the hosts of the
    /// images that the call names.
    pub(super) fn read(flags: &[LoginFlag], named: &[&str], env: &Env) -> Result<Self, Failure> {
        let mut logins = BTreeMap::new();
        for LoginFlag(flag) in flags {
            let (host, variables) = match flag.rsplit_once('=') {
                Some((host, variables)) => (hostname(host), variables),
                None => (only(named)?, flag.as_str()),
            };
            let names = variables
                .split_once(':')
                .filter(|(user, password)| is_host(host) && is_variable(user) && is_variable(password));
            let Some((user, password)) = names else {
                return Err(Failure::usage("`--login` is not `[HOST=]USER_VAR:PASSWORD_VAR`").hint(
                    "name the variables that hold the user's name and the password, not their values: \
                     `--login reg.example=REG_USER:REG_PASSWORD`",
                ));
            };
            let credentials = Credentials::Password {
                username: value(env, host, user)?,
                password: Secret::new(value(env, host, password)?),
            };
            logins.insert(hub(host).to_owned(), credentials);
        }
        Ok(Self(logins))
    }

    /// The login for `host`, as in an image reference.
    pub(super) fn of(&self, host: &str) -> Option<&Credentials> {
        self.0.get(hub(host))
    }
}

fn only<'a>(named: &[&'a str]) -> Result<&'a str, Failure> {
    match named {
        [first, others @ ..] if others.iter().all(|other| other == first) => Ok(first),
        _ => {
            let they =
                if named.is_empty() { "no image is named" } else { "the images have several registries" };
            Err(Failure::usage(format!("`--login` does not name a registry, and {they}"))
                .hint("write it as `--login HOST=USER_VAR:PASSWORD_VAR`"))
        }
    }
}

fn value(env: &Env, host: &str, name: &str) -> Result<String, Failure> {
    env.named(name)?.filter(|value| !value.is_empty()).ok_or_else(|| {
        Failure::usage(format!("`--login` for {host}: the environment variable {name} is not set"))
            .hint("set and export it, or name another variable")
    })
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_host(host: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    !host.is_empty() && host.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> Env {
        Env::of(&[("U", "bob"), ("P", "pass:word="), ("EMPTY", "")])
    }

    fn read(flags: &[&str], named: &[&str]) -> Result<Logins, Failure> {
        let flags: Vec<_> = flags.iter().map(|flag| LoginFlag::from(*flag)).collect();
        Logins::read(&flags, named, &env())
    }

    #[test]
    fn a_login_is_for_its_registry_alone() {
        let bob =
            Credentials::Password { username: "bob".into(), password: Secret::new("pass:word=".into()) };
        for (flag, named, host) in [
            ("reg.example:5000=U:P", &[][..], "reg.example:5000"),
            ("[::1]:5000=U:P", &[], "[::1]:5000"),
            ("https://reg.example/v2/=U:P", &["other.example"], "reg.example"),
            ("https://index.docker.io/v1/=U:P", &[], "docker.io"),
            ("docker.io=U:P", &[], "index.docker.io"),
            ("U:P", &["reg.example", "reg.example"], "reg.example"),
        ] {
            let logins = read(&[flag], named).unwrap();
            assert_eq!(logins.of(host), Some(&bob), "{flag}");
            assert_eq!(logins.of("elsewhere.example"), None, "{flag}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_a_password() {
        for (flag, named, said) in [
            ("U:P", &[][..], "no image is named"),
            ("U:P", &["a.example", "b.example"], "several registries"),
            ("reg.example=bob:hunter2!", &[], "not `[HOST=]USER_VAR:PASSWORD_VAR`"),
            ("reg.example=U", &[], "not `[HOST=]"),
            ("=U:P", &[], "not `[HOST=]"),
            ("a b=U:P", &[], "not `[HOST=]"),
            ("reg.example=U:GONE", &[], "GONE is not set"),
            ("reg.example=EMPTY:P", &[], "EMPTY is not set"),
        ] {
            let failure = read(&[flag], named).unwrap_err();
            assert!(failure.text.contains(said) && !failure.text.contains("hunter2"), "{flag}: {failure}");
        }
        assert!(!format!("{:?}", LoginFlag::from("a:hunter2")).contains("hunter2"));
    }
}
