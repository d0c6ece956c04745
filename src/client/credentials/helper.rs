//! Docker's credential helpers: programs that keep credentials elsewhere.

use std::{path::PathBuf, process::Stdio, time::Duration};

use serde::de::MapAccess;
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, process::Command, time};

use super::Credentials;
use crate::{
    client::exit::{Exit, Failure},
    go_json::{self, Fields},
    names::Secret,
};

/// A helper may ask a person or a slow service. wharfd waits longer than this for the client's answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How many characters of a failing helper's output are shown, so that they fit on a line.
const SAID_CHARS_MAX: usize = 200;
/// The username that marks a secret as an identity token.
const TOKEN_USER: &str = "<token>";
/// The helpers' message if they have no credentials for a server (docker-credential-helpers,
/// `credentials/error.go`).
const NOT_FOUND: &str = "credentials not found in native keychain";

#[derive(Default)]
struct Answer {
    username: String,
    secret: String,
}

impl Fields for Answer {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<Option<()>, A::Error> {
        match name {
            "username" => go_json::text(map, &mut self.username),
            "secret" => go_json::text(map, &mut self.secret),
            _ => Ok(None),
        }
    }
}

/// Asks `docker-credential-NAME` for the credentials of `server`.
pub(super) async fn get(name: &str, server: &str) -> Result<Option<Credentials>, Failure> {
    get_by(&Helper::named(name)?, server).await
}

pub(super) async fn get_by(helper: &Helper, server: &str) -> Result<Option<Credentials>, Failure> {
    // Like docker, without a line end: some helpers take all of their input as the server's name.
    let Some(output) = helper.run("get", server, server).await? else {
        return Ok(None);
    };
    // The answer holds the secret, which no message may.
    let answer: Answer = go_json::first_value(&output)
        .map_err(|_| helper.failed(server, "its answer is not what docker specifies"))?;
    let secret = Secret::new(answer.secret);
    Ok(match answer.username.as_str() {
        _ if secret.expose().is_empty() && answer.username.is_empty() => None,
        TOKEN_USER => Some(Credentials::IdentityToken(secret)),
        _ => Some(Credentials::Password { username: answer.username, password: secret }),
    })
}

/// Makes `docker-credential-NAME` save a login for `server`.
pub(super) async fn store(
    name: &str,
    server: &str,
    username: &str,
    password: &Secret<String>,
) -> Result<(), Failure> {
    let login = json!({ "ServerURL": server, "Username": username, "Secret": password.expose() });
    Helper::named(name)?.run("store", server, &login.to_string()).await.map(drop)
}

/// Makes `docker-credential-NAME` remove the login for `server`, if there is one.
pub(super) async fn erase(name: &str, server: &str) -> Result<(), Failure> {
    Helper::named(name)?.run("erase", server, server).await.map(drop)
}

/// A helper's program.
pub(super) struct Helper {
    pub(super) program: PathBuf,
    pub(super) name: String,
}

impl Helper {
    /// `docker-credential-NAME`.
    pub(super) fn named(name: &str) -> Result<Self, Failure> {
        if name.contains('/') {
            return Err(Failure::usage(format!("the docker config names the credential helper `{name}`"))
                .hint(
                    "a helper's name has no `/`: the program `docker-credential-NAME` is looked for in PATH",
                ));
        }
        let name = format!("docker-credential-{name}");
        Ok(Self { program: PathBuf::from(&name), name })
    }

    /// Runs `action` with `input`; returns the output, or `None` if the helper has nothing for `server`.
    async fn run(&self, action: &str, server: &str, input: &str) -> Result<Option<Vec<u8>>, Failure> {
        let asked = async {
            let mut child = Command::new(&self.program)
                .arg(action)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // If a helper does not read its input, its exit status says why.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
            child.wait_with_output().await
        };
        let output = match time::timeout(TIMEOUT, asked).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => {
                return Err(self
                    .failed(server, format_args!("cannot run it: {error}"))
                    .hint("install it, or remove it from credHelpers or credsStore of the docker config"));
            }
            Err(_) => {
                return Err(
                    self.failed(server, format_args!("no answer within {} seconds", TIMEOUT.as_secs()))
                );
            }
        };
        if output.status.success() {
            return Ok(Some(output.stdout));
        }
        let said = String::from_utf8_lossy(&output.stdout);
        if said.trim() == NOT_FOUND {
            return Ok(None);
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().chain(errors.lines()).map(str::trim).find(|line| !line.is_empty());
        let said = line.unwrap_or("no output").chars().take(SAID_CHARS_MAX).collect::<String>();
        Err(self.failed(server, format_args!("{}: {said}", output.status)))
    }

    fn failed(&self, server: &str, what: impl std::fmt::Display) -> Failure {
        Failure::new(Exit::Failed, format!("credential helper {}, for {server}: {what}", self.name))
    }
}
