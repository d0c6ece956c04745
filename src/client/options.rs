//! The values of flags, read as docker reads them.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::{
    names::{Reference, reference::are_hex_digits},
    wire::v1::Ulimit,
};

/// The limits that `docker build --ulimit` knows.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `--build-arg KEY[=VALUE]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BuildArg {
    /// The ARG's name.
    pub(crate) key: String,
    /// Its value; `None` takes the environment's, if there is one.
    pub(crate) value: Option<String>,
}

/// `--label KEY[=VALUE]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    /// The label's name.
    pub(crate) key: String,
    /// Its value.
    pub(crate) value: String,
}

/// `--add-host HOST:IP`, as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AddHost(pub(crate) String);

/// `--secret id=ID[,src=PATH|,env=VAR]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecretSource {
    /// The id that the Dockerfile names.
    pub(crate) id: String,
    /// The place of its value; `None` means the environment variable named `id`, else the file named `id`.
    pub(crate) from: Option<SecretFrom>,
}

/// The place of a secret's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SecretFrom {
    /// In a file.
    File(PathBuf),
    /// In an environment variable.
    Env(String),
}

/// A new name for an image: no digest, and the tag `latest` if none is given.
pub(crate) fn tag(text: &str) -> Result<Reference, String> {
    let reference = Reference::parse(text).map_err(|error| error.to_string())?;
    if reference.digest().is_some() {
        return Err("a new name cannot have a digest; leave out `@` and everything after it".to_owned());
    }
    Ok(reference.tagged())
}

/// A name at a registry, with a tag or a digest.
pub(crate) fn reference(text: &str) -> Result<Reference, String> {
    repository(text).map(Reference::tagged)
}

/// A repository's name, optionally with a tag.
pub(crate) fn repository(text: &str) -> Result<Reference, String> {
    Reference::parse(text).map_err(|error| error.to_string())
}

/// An image of the namespace: a name, or an id that may be shortened.
pub(crate) fn image(text: &str) -> Result<String, String> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let id = (4..=64).contains(&hex.len()) && are_hex_digits(hex);
    if id { Ok(text.to_owned()) } else { repository(text).map(|_| text.to_owned()) }
}

/// The value of a switch, as Go's `strconv.ParseBool` reads it.
pub(crate) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("write `true` or `false`".to_owned()),
    }
}

/// A path that may be empty, as pflag takes it: `-f "$DOCKERFILE"` where the variable is not set.
pub(crate) fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// The path of a flag; an empty one means that the flag is not given, as for docker.
pub(crate) fn given(path: Option<&Path>) -> Option<&Path> {
    path.filter(|path| !path.as_os_str().is_empty())
}

/// The value of `--provenance` or `--sbom`: scripts turn off what buildx adds unless told otherwise.
pub(crate) fn no_attestation(text: &str) -> Result<(), String> {
    match switch(text) {
        Ok(false) => Ok(()),
        _ => Err("images carry no attestations: leave it out, or write `false`".to_owned()),
    }
}

/// `KEY[=VALUE]` of `--build-arg`.
pub(crate) fn build_arg(text: &str) -> Result<BuildArg, String> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (text, None),
    };
    if key.is_empty() {
        return Err("the name before `=` is empty".to_owned());
    }
    Ok(BuildArg { key: key.to_owned(), value })
}

/// `KEY[=VALUE]` of `--label`.
pub(crate) fn label(text: &str) -> Result<Label, String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err("the name before `=` is empty".to_owned());
    }
    Ok(Label { key: key.to_owned(), value: value.to_owned() })
}

/// `HOST:IP` or `HOST=IP`; the IP may stand in brackets, or be `host-gateway`.
pub(crate) fn add_host(text: &str) -> Result<AddHost, String> {
    let (host, ip) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .filter(|(host, _)| !host.is_empty())
        .ok_or("write it as `HOST:IP` or `HOST=IP`")?;
    let address = ip.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(ip);
    if address != "host-gateway" && address.parse::<IpAddr>().is_err() {
        return Err(format!("`{ip}` is not an IP address, for the host `{host}`"));
    }
    Ok(AddHost(text.to_owned()))
}

/// `NAME=SOFT[:HARD]`; -1 means no limit.
pub(crate) fn ulimit(text: &str) -> Result<Ulimit, String> {
    let (name, limits) = text.split_once('=').ok_or("write it as `NAME=SOFT[:HARD]`")?;
    if !ULIMITS.contains(&name) {
        return Err(format!("there is no limit `{name}`; the limits are {}", ULIMITS.join(", ")));
    }
    let number = |limit: &str| match limit.parse::<i64>() {
        Ok(number) if number >= -1 => Ok(number),
        Ok(_) | Err(_) => Err(format!("`{limit}` is not a limit: write a number, or -1 for none")),
    };
    let (soft, hard) = match limits.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(limits)?, number(limits)?),
    };
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(format!("the soft limit {soft} is above the hard limit {hard}"));
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

/// `id=ID[,src=PATH|,env=VAR][,type=file|env]`, comma-separated as in RFC 4180.
pub(crate) fn secret(text: &str) -> Result<SecretSource, String> {
    let (mut id, mut source, mut env, mut kind) = (None, None, None, None);
    for field in csv(text)? {
        let (key, value) =
            field.split_once('=').ok_or_else(|| format!("`{field}` is not a `key=value` pair"))?;
        match key.to_ascii_lowercase().as_str() {
            "id" => id = Some(value.to_owned()),
            "src" | "source" => source = Some(value.to_owned()),
            "env" => env = Some(value.to_owned()),
            "type" => kind = Some(value.to_owned()),
            _ => return Err(format!("there is no key `{key}`; the keys are id, src, source, env and type")),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or("the id is missing: write `id=ID`")?;
    let from = match (kind.as_deref(), source, env) {
        (_, Some(_), Some(_)) => return Err("write either src=PATH or env=VAR, not both".to_owned()),
        (None | Some("file"), Some(path), None) => Some(SecretFrom::File(path.into())),
        (None | Some("env"), None, Some(name)) | (Some("env"), Some(name), None) => {
            Some(SecretFrom::Env(name))
        }
        (Some("file"), None, None) => Some(SecretFrom::File(id.clone().into())),
        (Some("env"), None, None) => Some(SecretFrom::Env(id.clone())),
        (None, None, None) => None,
        (Some("file"), None, Some(_)) => return Err("type=file goes with src=PATH, not with env".to_owned()),
        (Some(kind), _, _) => return Err(format!("there is no type `{kind}`; the types are file and env")),
    };
    Ok(SecretSource { id, from })
}

/// The fields of one line of comma-separated values.
pub(crate) fn csv(line: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = line.chars().peekable();
    loop {
        let mut field = String::new();
        if rest.next_if_eq(&'"').is_some() {
            loop {
                match rest.next() {
                    Some('"') if rest.next_if_eq(&'"').is_some() => field.push('"'),
                    Some('"') => break,
                    Some(c) => field.push(c),
                    None => return Err("a quote is not closed".to_owned()),
                }
            }
        } else {
            while let Some(c) = rest.next_if(|c| *c != ',') {
                if c == '"' {
                    return Err("a quote is inside a field: quote the whole `\"key=value\"`".to_owned());
                }
                field.push(c);
            }
        }
        fields.push(field);
        match rest.next() {
            Some(',') => {}
            Some(c) => return Err(format!("`{c}` follows a closed quote")),
            None => return Ok(fields),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_completed_and_has_no_digest() {
        assert_eq!(tag("app").unwrap().to_string(), "docker.io/library/app:latest");
        assert!(tag(&format!("app@sha256:{}", "a".repeat(64))).unwrap_err().contains("digest"));
        assert!(tag("Foo/Bar").unwrap_err().contains("foo/bar"));
    }

    #[test]
    fn an_image_is_a_name_or_an_id() {
        for valid in ["app:1", "0123456789ab", "sha256:0123", "deadbeef"] {
            assert_eq!(image(valid).as_deref(), Ok(valid));
        }
        assert!(image("App").is_err());
        assert!(image("").is_err());
    }

    #[test]
    fn build_args_and_labels() {
        assert_eq!(build_arg("A=b=c").unwrap(), BuildArg { key: "A".into(), value: Some("b=c".into()) });
        assert_eq!(build_arg("A").unwrap().value, None);
        assert_eq!(build_arg("A=").unwrap().value.as_deref(), Some(""));
        assert_eq!(label("k").unwrap(), Label { key: "k".into(), value: String::new() });
        assert!(build_arg("=x").is_err());
        assert!(label("=x").is_err());
    }

    #[test]
    fn hosts_have_an_address() {
        for valid in ["a:1.2.3.4", "a=::1", "a:::1", "a=[::1]", "a:host-gateway"] {
            assert_eq!(add_host(valid).unwrap().0, valid);
        }
        for wrong in ["a", ":1.2.3.4", "a:b", "a=", "a:1.2.3"] {
            assert!(add_host(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits_are_ordered() {
        let limit = |name: &str, soft, hard| Ulimit { name: name.into(), soft, hard };
        assert_eq!(ulimit("nofile=1024").unwrap(), limit("nofile", 1024, 1024));
        assert_eq!(ulimit("nproc=1:-1").unwrap(), limit("nproc", 1, -1));
        for wrong in
            ["nofile", "nofile=", "nofile=2:1", "nofile=-1:1", "files=1", "nofile=-2", "nofile=1:2:3"]
        {
            assert!(ulimit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn secrets_are_read_as_buildx_reads_them() {
        let from = |text: &str| secret(text).unwrap().from;
        assert_eq!(from("id=a"), None);
        assert_eq!(from("id=a,src=x/y"), Some(SecretFrom::File("x/y".into())));
        assert_eq!(from("type=file,id=a,source=x"), Some(SecretFrom::File("x".into())));
        assert_eq!(from("id=a,env=V"), Some(SecretFrom::Env("V".into())));
        assert_eq!(from("type=env,id=a,src=V"), Some(SecretFrom::Env("V".into())));
        assert_eq!(from("type=env,id=a"), Some(SecretFrom::Env("a".into())));
        assert_eq!(from("id=a,\"src=x,y\"\"z\""), Some(SecretFrom::File("x,y\"z".into())));
        for wrong in
            ["", "a", "src=x", "id=", "id=a,src=x,env=V", "id=a,type=ssh", "id=a,x=y", "\"id=a", "id=\"a\""]
        {
            assert!(secret(wrong).is_err(), "{wrong}");
        }
    }
}
