//! `[issuers.NAME]`: issuers of signed job tokens (JSON Web Tokens, RFC 7519).

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::template::Template;
use crate::names::printable;

/// An issuer, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// The tokens' `iss`, exactly.
    pub url: String,
    /// The value that the tokens' `aud` must contain.
    pub audience: String,
    /// The file of the issuer's public keys, a JSON Web Key Set (RFC 7517, 5).
    pub keys: PathBuf,
    /// The signatures that are accepted.
    pub algorithms: Vec<Algorithm>,
    /// How the job's name is made.
    pub job: JobName,
    /// How the run's name is made.
    pub run: Template,
}

/// How a job's name is made from a token's claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobName {
    /// From these claims.
    Claims(Template),
    /// From `sub`, which is the URL of a Jenkins job: its full name, as `JOB_NAME` has it.
    Jenkins(Jenkins),
}

/// The part of a Jenkins that an issuer vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jenkins {
    /// Jenkins' own URL, without a slash at its end.
    pub root: String,
    /// The folder whose credentials make the tokens, as in a job's URL: `acme/job/team`.
    pub folder: Option<String>,
}

impl Jenkins {
    /// The Jenkins of an `iss` as the OpenID Connect Provider plugin makes it: `https://ci.example/oidc`, or
    /// `https://ci.example/oidc/job/acme` for a folder's credentials.
    pub fn of(issuer: &str) -> Option<Self> {
        let issuer = issuer.trim_end_matches('/');
        let (root, folder) = match issuer.split_once("/oidc/job/") {
            Some((root, folder)) => (root, Some(folder.to_owned())),
            None => (issuer.strip_suffix("/oidc")?, None),
        };
        Some(Self { root: root.to_owned(), folder })
    }
}

/// A signature algorithm (RFC 7518, 3.1; RFC 8037). None with a shared secret: a service that checks such a
/// token could make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

/// The claims of the usual issuers.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Preset {
    /// Jenkins with the OpenID Connect Provider plugin, as it is installed.
    Jenkins,
    /// GitLab CI/CD's ID tokens.
    Gitlab,
    /// GitHub Actions.
    Github,
    /// Kubernetes' projected service account tokens.
    Kubernetes,
}

impl Preset {
    fn job(self, issuer: &str) -> Result<JobName, String> {
        let template = match self {
            Self::Jenkins => {
                let jenkins = Jenkins::of(issuer).map(JobName::Jenkins);
                return jenkins.ok_or_else(|| {
                    "issuer: Jenkins' own ends with `/oidc`, or has `/oidc/job/FOLDER`; for another one, set `job`"
                        .to_owned()
                });
            }
            // A tag and a branch of one name are two jobs.
            Self::Gitlab => "{+project_path}/{ref_type}/{ref}",
            Self::Github => "{+repository}/{ref}",
            // A pod template chooses its service account and labels, so they prove nothing.
            Self::Kubernetes => "{/kubernetes.io/namespace}",
        };
        template.to_owned().try_into().map(JobName::Claims)
    }

    fn run(self) -> Result<Template, String> {
        let template = match self {
            Self::Jenkins => "{build_number}",
            Self::Gitlab => "{pipeline_id}",
            Self::Github => "{run_id}",
            Self::Kubernetes => "{/kubernetes.io/pod/uid}",
        };
        template.to_owned().try_into()
    }
}

/// `[issuers.NAME]` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    issuer: String,
    audience: String,
    jwks: Spanned<PathBuf>,
    preset: Option<Preset>,
    algorithms: Option<Vec<Algorithm>>,
    job: Option<Template>,
    run: Option<Template>,
}

impl Written {
    /// Checks it. The error says what is wrong.
    pub(super) fn checked(&self) -> Result<Issuer, String> {
        let Self { issuer, audience, jwks, preset, algorithms, job, run } = self;
        if issuer.is_empty() || audience.is_empty() {
            return Err(
                "issuer and audience cannot be empty: they are the tokens' `iss` and `aud`".to_owned()
            );
        }
        if !jwks.as_ref().is_absolute() {
            let shown = printable(&jwks.as_ref().display().to_string());
            return Err(format!("jwks: `{shown}` is not an absolute path to a file of public keys"));
        }
        let none = || "needs `preset`, or both `job` and `run`, templates of claims".to_owned();
        let job = match (job, preset) {
            (Some(job), _) => JobName::Claims(job.clone()),
            (None, Some(preset)) => preset.job(issuer)?,
            (None, None) => return Err(none()),
        };
        let run = match (run, preset) {
            (Some(run), _) => run.clone(),
            (None, Some(preset)) => preset.run()?,
            (None, None) => return Err(none()),
        };
        let algorithms = algorithms.clone().unwrap_or_else(|| vec![Algorithm::RS256, Algorithm::ES256]);
        if algorithms.is_empty() {
            return Err("algorithms: an empty list accepts no token".to_owned());
        }
        Ok(Issuer {
            url: issuer.clone(),
            audience: audience.clone(),
            keys: jwks.as_ref().clone(),
            algorithms,
            job,
            run,
        })
    }
}
