//! `--login` and WHARF_LOGIN: logins for one call, or for the calls of a block, from environment variables. The flag
//! and WHARF_LOGIN contain only the variables' names.

use std::collections::BTreeMap;

use super::{Credentials, config::hostname, hub};
use crate::{
    client::{
        env::{self, Env},
        exit::Failure,
    },
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
    /// Reads the logins of WHARF_LOGIN, and those of the flags, which take precedence. A flag without a registry
    /// applies to the registry in `named`, the hosts of the images that the call names.
    pub(super) fn read(flags: &[LoginFlag], named: &[&str], env: &Env) -> Result<Self, Failure> {
        let mut logins = BTreeMap::new();
        for text in env.get(env::WHARF_LOGIN)?.unwrap_or_default().split_ascii_whitespace() {
            let (host, variables) = text.rsplit_once('=').ok_or_else(|| {
                Failure::usage("WHARF_LOGIN has a login without a registry")
                    .hint("write each login as `HOST=USER_VAR:PASSWORD_VAR`")
            })?;
            let host = hostname(host);
            logins.insert(hub(host).to_owned(), login(env::WHARF_LOGIN.name, host, variables, env)?);
        }
        for LoginFlag(text) in flags {
            let (host, variables) = match text.rsplit_once('=') {
                Some((host, variables)) => (hostname(host), variables),
                None => (only(named)?, text.as_str()),
            };
            logins.insert(hub(host).to_owned(), login("`--login`", host, variables, env)?);
        }
        Ok(Self(logins))
    }

    /// Their registries.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The login for `host`, as in an image reference.
    pub(super) fn of(&self, host: &str) -> Option<&Credentials> {
        self.0.get(hub(host))
    }
}

/// The login for `host` from `variables`, `USER_VAR:PASSWORD_VAR`, which `from` names.
fn login(from: &str, host: &str, variables: &str, env: &Env) -> Result<Credentials, Failure> {
    let names = variables
        .split_once(':')
        .filter(|(user, password)| is_host(host) && is_variable(user) && is_variable(password));
    let Some((user, password)) = names else {
        return Err(Failure::usage(format!("{from} is not `[HOST=]USER_VAR:PASSWORD_VAR`")).hint(
            "name the variables that hold the user's name and the password, not their values: \
             `--login reg.example=REG_USER:REG_PASSWORD`",
        ));
    };
    Ok(Credentials::Password {
        username: value(env, from, host, user, "first")?,
        password: Secret::new(value(env, from, host, password, "second")?),
    })
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

fn value(env: &Env, from: &str, host: &str, name: &str, which: &str) -> Result<String, Failure> {
    env.named(name)?.filter(|value| !value.is_empty()).ok_or_else(|| {
        // A word in lower case may be the password itself.
        let is_shown = !name.bytes().any(|byte| byte.is_ascii_lowercase());
        let variable = if is_shown {
            format!("the environment variable {name}")
        } else {
            format!("the {which} variable")
        };
        Failure::usage(format!("{from} for {host}: {variable} is not set"))
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

    const VARIABLES: [(&str, &str); 3] = [("U", "bob"), ("P", "pass:word="), ("EMPTY", "")];

    fn read(flags: &[&str], named: &[&str]) -> Result<Logins, Failure> {
        let flags: Vec<_> = flags.iter().map(|flag| LoginFlag::from(*flag)).collect();
        Logins::read(&flags, named, &Env::of(&VARIABLES))
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
    fn the_logins_of_a_block_come_after_those_of_the_flags() {
        let read = |around: &str, flags: &[&str]| {
            let env = [&VARIABLES[..], &[("V", "eve"), ("WHARF_LOGIN", around)]].concat();
            let flags: Vec<_> = flags.iter().map(|flag| LoginFlag::from(*flag)).collect();
            Logins::read(&flags, &["flag.example"], &Env::of(&env))
        };
        let user = |logins: &Logins, host: &str| match logins.of(host) {
            Some(Credentials::Password { username, .. }) => username.clone(),
            other => panic!("{host}: {other:?}"),
        };
        let logins = read(
            " a.example:5000=U:P\thttps://index.docker.io/v1/=U:P  b.example=U:P b.example=V:P",
            &["V:P"],
        );
        let logins = logins.unwrap();
        for (host, name) in
            [("a.example:5000", "bob"), ("docker.io", "bob"), ("b.example", "eve"), ("flag.example", "eve")]
        {
            assert_eq!(user(&logins, host), name, "{host}");
        }
        assert_eq!(user(&read("a.example=U:P", &["a.example=V:P"]).unwrap(), "a.example"), "eve");
        assert!(read("", &[]).unwrap().0.is_empty());
        for (around, said) in [
            ("U:P", "WHARF_LOGIN has a login without a registry"),
            ("a.example=bob:hunter2!", "WHARF_LOGIN is not `[HOST=]"),
            ("a.example=U:GONE", "WHARF_LOGIN for a.example: the environment variable GONE is not set"),
        ] {
            let failure = read(around, &[]).unwrap_err();
            assert!(failure.text.contains(said) && !failure.text.contains("hunter2"), "{around}: {failure}");
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
