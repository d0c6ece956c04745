//! The checks that need no connection: the address, the token, and docker's config.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::Path,
    time::SystemTime,
};

use rustix::fs::{Access, access};

use super::{Call, check::Check, seconds};
use crate::{
    client::{
        connect::{Address, whoami},
        credentials::{Helper, Look, of_blocks, of_docker_variable},
        env::{self, Env},
        exit::{Exit, Failure},
        token::{Expiry, Token},
    },
    names::shortened,
};

const ADDRESS: &str = "address";
const SOCKET: &str = "socket";
const TOKEN: &str = "token";
const CONFIG: &str = "docker config";
const HELPER: &str = "helper";
const LOGIN: &str = "login";

/// How much of a list of registries is shown.
const LIST_BYTES_MAX: usize = 200;

/// The address, and its socket; the address, if it is worth a connection.
pub(super) fn address(call: &Call) -> (Vec<Check>, Option<Address>) {
    let from = match (&call.global.addr, call.env.get(env::WHARF_ADDR)) {
        (Some(_), _) => "of --addr",
        (None, Ok(Some(_))) => "of WHARF_ADDR",
        (None, _) => "the default",
    };
    let address = match call.address() {
        Ok(address) => address,
        Err(failure) => {
            let hint = "correct --addr or WHARF_ADDR, or the file that is named";
            return (vec![Check::failed(ADDRESS, failure).otherwise(hint)], None);
        }
    };
    match &address {
        Address::Socket(socket) => {
            let check = Check::ok(ADDRESS, format!("{address}, {from}"));
            match look(socket.path()) {
                Ok(text) => (vec![check, Check::ok(SOCKET, text)], Some(address)),
                Err(failure) => (vec![check, Check::failed(SOCKET, failure)], None),
            }
        }
        Address::Remote(remote) if remote.is_plain() => {
            let text = format!("{address}, {from}, without TLS");
            let hint = "anyone on the network path can read and change everything, the token included: have wharfd's \
                        operator set up TLS, and leave out --dangerous-plain-tcp";
            (vec![Check::warning(ADDRESS, text, hint.to_owned())], Some(address))
        }
        Address::Remote(remote) => {
            let with = if remote.shows_certificate() { "with" } else { "without" };
            let text = format!("{address}, {from}, TLS {with} a client certificate");
            (vec![Check::ok(ADDRESS, text)], Some(address))
        }
    }
}

/// What is at the socket's path, and whether this user may connect to it.
fn look(path: &Path) -> Result<String, Failure> {
    let failed = |text: String, hint: &str| Failure::new(Exit::NoDaemon, text).hint(hint);
    let shown = path.display();
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => failed(
            match missing(path) {
                Some(directory) => format!("there is no directory `{}`", directory.display()),
                None => format!("there is nothing at `{shown}`"),
            },
            "start wharfd, mount the directory of its socket into this container, or name the socket with --addr or \
             WHARF_ADDR",
        ),
        _ => failed(
            format!("`{shown}` cannot be looked at by {}: {error}", whoami()),
            "the directories above the socket must let this user through",
        ),
    })?;
    let kind = metadata.file_type();
    if !kind.is_socket() {
        let kind = if kind.is_dir() { "a directory" } else { "a file" };
        return Err(failed(
            format!("`{shown}` is {kind}, not a socket"),
            "name wharfd's socket with --addr or WHARF_ADDR; a mount of a socket that was not there makes a directory: \
             mount the socket's own directory",
        ));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    let whose = format!("mode {mode:04o}, owner {}, group {}", metadata.uid(), metadata.gid());
    // A connection needs the right to write (unix(7)).
    match access(path, Access::WRITE_OK) {
        Ok(()) => Ok(format!("{whose}: {} may connect", whoami())),
        Err(_) => Err(failed(
            format!("{whose}: {} may not connect", whoami()),
            "wharfd's --listen-mode and --listen-group decide who may; run the container as a user or with a group that \
             may (in a pod: runAsUser, supplementalGroups)",
        )),
    }
}

/// The first directory above `path` that is not there.
fn missing(path: &Path) -> Option<&Path> {
    let above = path.parent()?;
    above.ancestors().filter(|directory| !directory.is_dir()).last()
}

/// The token, if it can be read, or if there is none; and its check.
pub(super) fn token(call: &Call) -> (Option<Token>, Option<Check>) {
    let from = if call.global.token_file.is_some() { "of --token-file" } else { "of WHARF_TOKEN" };
    match (call.has_token(), call.token()) {
        (Ok(false), _) => (Some(Token::default()), None),
        (Ok(true), Ok(token)) => {
            let check = expiry(token.expiry(), from);
            (Some(token), Some(check))
        }
        (_, Err(failure)) | (Err(failure), _) => {
            let hint = "bind the credential again, or correct --token-file";
            (None, Some(Check::failed(TOKEN, failure).otherwise(hint)))
        }
    }
}

fn expiry(expiry: Option<Expiry>, from: &str) -> Check {
    let Some(Expiry { issued, expires }) = expiry else {
        return Check::ok(TOKEN, format!("{from}; it does not tell when it expires"));
    };
    let now = seconds(SystemTime::now());
    let ago = |seconds: f64| format!("{} s", seconds.round());
    if expires <= now {
        let text = format!("{from}; it has expired {} ago, by the clock of this machine", ago(now - expires));
        return Check::failed(
            TOKEN,
            Failure::new(Exit::Denied, text)
                .hint("have a new one issued; if the run takes longer than a token lives, use --token-file with a file that is renewed"),
        );
    }
    match issued.filter(|issued| *issued > now) {
        Some(issued) => Check::warning(
            TOKEN,
            format!("{from}; it is issued {} from now, by the clock of this machine", ago(issued - now)),
            "the clock of this machine, or of the token's issuer, is wrong".to_owned(),
        ),
        None => Check::ok(TOKEN, format!("{from}; it expires in {}", ago(expires - now))),
    }
}

/// Docker's config, its credential helpers, and the logins of WHARF_LOGIN.
pub(super) fn registries(env: &Env) -> Vec<Check> {
    let mut checks = match Look::at(env) {
        Ok(Look::Absent { path, is_named: false }) => {
            vec![Check::ok(CONFIG, format!("there is none at `{}`: no logins", path.display()))]
        }
        Ok(Look::Absent { path, is_named: true }) => vec![Check::warning(
            CONFIG,
            format!("DOCKER_CONFIG is set, but there is no `{}`: no logins", path.display()),
            "`wharf login` makes it; if it should be there, correct DOCKER_CONFIG".to_owned(),
        )],
        Ok(Look::Homeless) => vec![Check::warning(
            CONFIG,
            "it has no place: there is no home directory",
            "set DOCKER_CONFIG to a directory".to_owned(),
        )],
        Ok(Look::Closed { path, why }) => vec![Check::warning(
            CONFIG,
            format!("`{}` cannot be read: {why}; its logins are not used", path.display()),
            "make it readable, or set DOCKER_CONFIG to another directory".to_owned(),
        )],
        Ok(Look::Read { path, hosts, broken, helpers }) => {
            let logins = if hosts.is_empty() {
                "no logins".to_owned()
            } else {
                format!("logins for {}", list(&hosts))
            };
            let mut checks = vec![Check::ok(CONFIG, format!("`{}`: {logins}", path.display()))];
            checks.extend(broken.into_iter().map(|failure| Check::failed(CONFIG, failure)));
            checks.extend(helpers.into_iter().map(|helper| of_helper(helper, env)));
            checks
        }
        Err(failure) => vec![Check::failed(CONFIG, failure).otherwise("correct it")],
    };
    match of_docker_variable(env) {
        Ok(hosts) if hosts.is_empty() => {}
        Ok(hosts) => {
            checks.push(Check::ok(CONFIG, format!("DOCKER_AUTH_CONFIG has logins for {}", list(&hosts))));
        }
        Err(failure) => {
            let text = format!("DOCKER_AUTH_CONFIG is not used: {}", failure.text);
            checks.push(Check::warning(CONFIG, text, "correct it, or unset it".to_owned()));
        }
    }
    match of_blocks(env) {
        Ok(hosts) if hosts.is_empty() => {}
        Ok(hosts) => checks.push(Check::ok(LOGIN, format!("WHARF_LOGIN has logins for {}", list(&hosts)))),
        Err(failure) => checks.push(Check::failed(LOGIN, failure).otherwise("correct WHARF_LOGIN")),
    }
    checks
}

/// A helper that is not there fails each call for its registries.
fn of_helper(helper: Helper, env: &Env) -> Check {
    let whose = match helper.hosts.as_slice() {
        [] => "every registry".to_owned(),
        hosts => list(hosts),
    };
    match helper.program.map(|program| (env.program(&program), program)) {
        Ok((Some(path), _)) => Check::ok(HELPER, format!("`{}`, for {whose}", path.display())),
        Ok((None, program)) => Check::failed(
            HELPER,
            Failure::usage(format!("`{program}` is not on PATH; docker's config names it for {whose}"))
                .hint("install it, or remove it from credHelpers or credsStore of the docker config"),
        ),
        Err(failure) => Check::failed(HELPER, failure),
    }
}

fn list(hosts: &[String]) -> String {
    shortened(hosts.join(", "), LIST_BYTES_MAX).to_string()
}
