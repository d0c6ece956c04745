//! Signed job tokens: JSON Web Tokens (RFC 7519) of issuers that the configuration names. A token proves one run of
//! one job.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, Validation, decode, decode_header, errors::ErrorKind};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Answer, Caller, Proof, Proven, jenkins,
    keys::{IssuerError, Keyring, NoKey},
    rules_of, verify,
};
use crate::{
    config::{self, Config, JobName, Who},
    fault::{Fault, Reason},
    names::{CallerId, EngineName, IssuerName, Job, Namespace, printable, shortened},
    policy::{Policies, Rules},
};

/// How far an issuer's clock may be from ours, in seconds.
const LEEWAY: f64 = 10.0;
/// Real tokens have one to three KiB.
const TOKEN_BYTES_MAX: usize = 8 << 10;
/// Longer parts of a token are cut in messages.
const SHOWN_BYTES_MAX: usize = 200;

/// All issuers.
#[derive(Debug)]
pub(super) struct Jobs {
    issuers: Vec<Issuer>,
}

#[derive(Debug)]
struct Issuer {
    name: IssuerName,
    config: config::Issuer,
    validation: Validation,
    keys: Keyring,
    /// The entries of `[[serve]]`, in the file's order: the first whose pattern matches the job applies.
    served: Vec<(Arc<Rules>, EngineName)>,
}

/// The claim by which the issuer is found, before anything of the token is proven.
#[derive(Deserialize)]
struct Claimed {
    iss: String,
}

impl Jobs {
    pub(super) fn new(config: &Config, policies: &Arc<Policies>) -> Result<Self, IssuerError> {
        verify::install();
        let issuer = |(name, issuer): (&IssuerName, &config::Issuer)| {
            let served = config.serve.iter().filter(|serve| serve.who == Who::Issuer(name.clone()));
            Ok(Issuer {
                name: name.clone(),
                config: issuer.clone(),
                validation: validation(issuer),
                keys: Keyring::new(name, &issuer.keys)?,
                served: served.map(|serve| (rules_of(serve, policies), serve.engine.clone())).collect(),
            })
        };
        Ok(Self { issuers: config.issuers.iter().map(issuer).collect::<Result<_, _>>()? })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.issuers.is_empty()
    }

    pub(super) fn served(&self) -> impl Iterator<Item = (String, &Arc<Rules>, &EngineName)> {
        self.issuers.iter().flat_map(|issuer| {
            let served = issuer.served.iter();
            served.map(|(rules, engine)| (format!("jobs of issuer {}", issuer.name), rules, engine))
        })
    }

    /// The rules of a job whose issuer has proven its name.
    pub(super) fn rules(&self, job: &Job) -> Option<&Arc<Rules>> {
        let issuer = self.issuers.iter().find(|issuer| Some(&issuer.name) == job.issuer())?;
        issuer.served(job).map(|(rules, _)| rules)
    }

    /// The caller of `token`, if it looks like a signed token.
    pub(super) fn identify(&self, token: &str, now: SystemTime) -> Answer {
        let is_signed = token.bytes().filter(|byte| *byte == b'.').count() == 2;
        if !is_signed || self.is_empty() {
            return Answer::NotPresented;
        }
        self.prove(token, now).map_or_else(|text| Answer::Failed(refused(text)), Answer::Proven)
    }

    /// The error says what is wrong with the token, and nothing of it that is secret.
    fn prove(&self, token: &str, now: SystemTime) -> Result<Caller, String> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(format!("has more than {} KiB", TOKEN_BYTES_MAX >> 10));
        }
        let header = decode_header(token).map_err(|error| unread(&error))?;
        if header.crit.is_some() {
            return Err(
                "requires an extension of JSON Web Signatures (`crit`), and wharfd supports none".to_owned()
            );
        }
        let claimed: Claimed = jsonwebtoken::dangerous::insecure_decode_claims(token)
            .map_err(|_| "has no claim `iss`".to_owned())?;
        let issuer = self.issuers.iter().find(|issuer| issuer.config.url == claimed.iss);
        let issuer =
            issuer.ok_or_else(|| format!("is from an unknown issuer, `{}` (`iss`)", shown(&claimed.iss)))?;
        issuer.prove(token, header.alg, header.kid.as_deref(), now)
    }
}

impl Issuer {
    fn prove(
        &self,
        token: &str,
        algorithm: Algorithm,
        key: Option<&str>,
        now: SystemTime,
    ) -> Result<Caller, String> {
        if !self.validation.algorithms.contains(&algorithm) {
            return Err(format!("is signed with {algorithm:?}, which issuers.{} does not accept", self.name));
        }
        let found = self.keys.find(key, algorithm).map_err(|none| {
            let (name, key) = (&self.name, shown(key.unwrap_or_default()));
            match none {
                NoKey::Unknown => {
                    format!("is signed with a key that issuers.{name} does not have: `{key}` (`kid`)")
                }
                NoKey::Other => format!(
                    "is signed with {algorithm:?}, but the key `{key}` of issuers.{name} is for another \
                     algorithm"
                ),
                NoKey::Unnamed => {
                    format!("names no key (`kid`), and issuers.{name} has none or several for {algorithm:?}")
                }
            }
        })?;
        // The key decides the family of its algorithms, and the library wants no others.
        let validation = Validation { algorithms: vec![algorithm], ..self.validation.clone() };
        let claims = decode::<Value>(token, &found, &validation).map_err(|error| self.unproven(&error))?;
        let claims = claims.claims;
        let issued = claims.get("iat").and_then(Value::as_f64).ok_or("has no claim `iat`, a time")?;
        let now = now.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        if issued > now + LEEWAY {
            let text = "was issued in the future (`iat`): the clock of the issuer or of this node is wrong";
            return Err(text.to_owned());
        }
        #[expect(clippy::cast_possible_truncation, reason = "the end of a namespace has whole seconds, too")]
        self.caller(&claims, issued as i64)
    }

    /// The caller that proven claims name.
    fn caller(&self, claims: &Value, at: i64) -> Result<Caller, String> {
        let job = match &self.config.job {
            JobName::Claims(template) => template.fill(claims).map_err(|error| error.to_string())?,
            JobName::Jenkins(jenkins) => jenkins::full_name(jenkins, claims)?,
        };
        let run = self.config.run.fill(claims).map_err(|error| error.to_string())?;
        let namespace = Namespace::new(job, run).map_err(|error| format!("names no namespace: {error}"))?;
        let namespace = namespace.issued_by(self.name.clone());
        let job = namespace.job();
        let (rules, engine) = self.served(job).ok_or_else(|| {
            let job = shown(&job.to_string());
            format!("proves the job `{job}`, which no `[[serve]]` of wharfd's configuration serves")
        })?;
        let caller = Caller::served(CallerId::Job(job.clone()), rules, engine);
        Ok(Caller { proven: Some(Proven { namespace, by: Proof::Token(at) }), ..caller })
    }

    fn served(&self, job: &Job) -> Option<&(Arc<Rules>, EngineName)> {
        self.served.iter().find(|(rules, _)| rules.namespaces().matches(job.name()))
    }

    fn unproven(&self, error: &jsonwebtoken::errors::Error) -> String {
        #[expect(clippy::wildcard_enum_match_arm, reason = "ErrorKind may grow")]
        match error.kind() {
            ErrorKind::InvalidSignature => format!("is not signed by a key of issuers.{}", self.name),
            ErrorKind::ExpiredSignature => "has expired (`exp`)".to_owned(),
            ErrorKind::ImmatureSignature => "is not valid yet (`nbf`)".to_owned(),
            ErrorKind::InvalidAudience => {
                format!("is not for this service: its `aud` has to be `{}`", shown(&self.config.audience))
            }
            ErrorKind::MissingRequiredClaim(claim) => format!("has no claim `{}`", shown(claim)),
            _ => unread(error),
        }
    }
}

fn validation(issuer: &config::Issuer) -> Validation {
    let algorithms: Vec<Algorithm> =
        issuer.algorithms.iter().map(|algorithm| signature(*algorithm)).collect();
    let defaults = Validation { algorithms, leeway: LEEWAY as u64, ..Validation::default() };
    let mut validation =
        Validation { validate_exp: true, validate_nbf: true, validate_aud: true, ..defaults };
    validation.set_audience(&[&issuer.audience]);
    validation.set_issuer(&[&issuer.url]);
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    validation
}

fn signature(algorithm: config::Algorithm) -> Algorithm {
    match algorithm {
        config::Algorithm::RS256 => Algorithm::RS256,
        config::Algorithm::RS384 => Algorithm::RS384,
        config::Algorithm::RS512 => Algorithm::RS512,
        config::Algorithm::PS256 => Algorithm::PS256,
        config::Algorithm::PS384 => Algorithm::PS384,
        config::Algorithm::PS512 => Algorithm::PS512,
        config::Algorithm::ES256 => Algorithm::ES256,
        config::Algorithm::ES384 => Algorithm::ES384,
        config::Algorithm::EdDsa => Algorithm::EdDSA,
    }
}

fn unread(error: &jsonwebtoken::errors::Error) -> String {
    format!("cannot be read: {}", shown(&error.to_string()))
}

fn shown(text: &str) -> String {
    shortened(printable(text), SHOWN_BYTES_MAX)
}

fn refused(text: String) -> Fault {
    Fault::new(Reason::UnknownCaller, format!("the call's token {text}"))
}

#[cfg(feature = "fuzzing")]
pub mod fuzz;
#[cfg(test)]
mod tests;
