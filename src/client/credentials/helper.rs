//! Docker's credential helpers: programs that keep credentials elsewhere.

use std::{path::Path, process::Stdio, time::Duration};

use serde::Deserialize;
use tokio::{io::AsyncWriteExt as _, process::Command, time};

use super::Credentials;
use crate::{
    client::exit::{Exit, Failure},
    names::Secret,
};

/// A helper that asks a person or a slow service; wharfd waits longer for the answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Of what a helper says when it fails, what fits a line.
const SAID_CHARS_MAX: usize = 200;
/// The user's name that marks a secret as an identity token.
const TOKEN_USER: &str = "<token>";
/// What helpers say when they have nothing for a server (docker-credential-helpers,
/// `credentials/error.go`).
const NOT_FOUND: &str = "credentials not found in native keychain";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks `docker-credential-NAME` for the credentials of `server`.
pub(super) async fn get(name: &str, server: &str) -> Result<Option<Credentials>, Failure> {
    let program = format!("docker-credential-{name}");
    if name.contains('/') {
        return Err(Failure::usage(format!("the docker config names the credential helper `{name}`"))
            .hint("a helper's name has no `/`: the program `docker-credential-NAME` is looked for in PATH"));
    }
    run(Path::new(&program), &program, server).await
}

pub(super) async fn run(program: &Path, name: &str, server: &str) -> Result<Option<Credentials>, Failure> {
    let failed =
        |what: String| Failure::new(Exit::Failed, format!("credential helper {name}, for {server}: {what}"));
    let asked = async {
        let mut child = Command::new(program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that does not read has its say in its exit status.
            let _ = stdin.write_all(format!("{server}\n").as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = match time::timeout(TIMEOUT, asked).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => {
            return Err(failed(format!("cannot run it: {error}"))
                .hint("install it, or remove it from credHelpers or credsStore of the docker config"));
        }
        Err(_) => return Err(failed(format!("no answer within {} seconds", TIMEOUT.as_secs()))),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        if said.trim() == NOT_FOUND {
            return Ok(None);
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().chain(errors.lines()).map(str::trim).find(|line| !line.is_empty());
        let said = line.unwrap_or("it says nothing").chars().take(SAID_CHARS_MAX).collect::<String>();
        return Err(failed(format!("{}: {said}", output.status)));
    }
    // The answer holds the secret: what is wrong with it is told, what it is never.
    let answer: Answer = serde_json::from_slice(&output.stdout)
        .map_err(|_| failed("its answer is not what docker specifies".to_owned()))?;
    let secret = Secret::new(answer.secret);
    Ok(match answer.username.as_str() {
        _ if secret.expose().is_empty() && answer.username.is_empty() => None,
        TOKEN_USER => Some(Credentials::IdentityToken(secret)),
        _ => Some(Credentials::Password { username: answer.username, password: secret }),
    })
}
