//! `[[serve]]`: who is served, and with which rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    path::Path,
};

use super::{AT_ONCE, ConfigError, Engines, engines::no_engine, file::File, issuers::Issuer, place};
use crate::names::{CertificateName, EngineName, IssuerName, Pattern};

/// An entry of `[[serve]]`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serve {
    /// The callers that it serves.
    pub who: Who,
    /// The jobs whose namespaces they may act in.
    pub namespaces: Pattern,
    /// The engine that builds for them; the configuration has one of that name.
    pub engine: EngineName,
    /// How many builds of one caller may run at once, and how many pushes, pulls and saves.
    pub at_once: u32,
}

impl Serve {
    /// The name in messages: `serve uid 1000`. No other entry has it.
    pub fn name(&self) -> String {
        match &self.who {
            Who::Uid(uid) => format!("serve uid {uid}"),
            Who::Token { name, .. } => format!("serve token {name}"),
            Who::Certificate(name) => format!("serve certificate {name}"),
            Who::Issuer(name) => format!("serve issuer {name}, {}", self.namespaces),
        }
    }
}

/// The callers that an entry serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// A user of the node.
    Uid(u32),
    /// The callers that present the token with this hash.
    Token {
        /// The token's name in logs.
        name: IssuerName,
        /// Its hash.
        hash: TokenHash,
    },
    /// The holder of the key of a certificate with this name.
    Certificate(CertificateName),
    /// The jobs that an issuer's tokens name, or the pods that the kubelet proves, if they match the entry's
    /// `namespaces`.
    Issuer(IssuerName),
}

/// The SHA-256 of a static token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    fn parse(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        if text.len() != 2 * hash.len() || !text.is_ascii() {
            return None;
        }
        for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
            let digits = text.get(at..at + 2)?;
            *byte = u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?;
        }
        Some(Self(hash))
    }
}

/// The issuers of the file.
pub(super) fn issuers(
    written: &File,
    (path, text): (&Path, &str),
) -> Result<BTreeMap<IssuerName, Issuer>, ConfigError> {
    let mut urls = BTreeSet::new();
    let mut issuers = BTreeMap::new();
    for (name, entry) in &written.issuers {
        let error = |message| ConfigError::File {
            place: place(path, text, Some(entry.span())),
            message: format!("issuers.{name}: {message}"),
        };
        let issuer = entry.as_ref().checked().map_err(error)?;
        if !urls.insert(issuer.url.clone()) {
            return Err(error(
                "another entry has the same `issuer`: a token would have two names".to_owned(),
            ));
        }
        issuers.insert(name.clone(), issuer);
    }
    Ok(issuers)
}

/// The entries of the file.
pub(super) fn entries(
    written: &File,
    engines: &Engines,
    issuers: &BTreeMap<IssuerName, Issuer>,
    (path, text): (&Path, &str),
) -> Result<Vec<Serve>, ConfigError> {
    let has_client_ca = written.tls.as_ref().is_some_and(|tls| tls.as_ref().client_ca.is_some());
    let mut served: Vec<Serve> = Vec::new();
    for entry in &written.serve {
        let error = |span, message| ConfigError::File { place: place(path, text, Some(span)), message };
        let said = entry.as_ref();
        let engine = match &said.engine {
            Some(name) if !engines.sockets.contains_key(name.as_ref()) => {
                return Err(error(name.span(), no_engine("serve.engine", name.as_ref(), &engines.sockets)));
            }
            name => name.as_ref().map_or(&engines.default, |name| name.as_ref()).clone(),
        };
        let who = match (said.uid, &said.token, &said.sha256, &said.certificate, &said.issuer) {
            (Some(uid), None, None, None, None) => Who::Uid(uid),
            (None, Some(name), Some(hash), None, None) => {
                let hash = TokenHash::parse(hash).ok_or_else(|| {
                    let text = "serve.sha256: expected the token's SHA-256, 64 hexadecimal digits, as \
                                `printf %s TOKEN | sha256sum` prints it";
                    error(entry.span(), text.to_owned())
                })?;
                Who::Token { name: name.clone(), hash }
            }
            (None, None, None, Some(name), None) if has_client_ca => Who::Certificate(name.clone()),
            (None, None, None, Some(_), None) => {
                let text =
                    "serve.certificate: clients are asked for a certificate only if [tls] has `client_ca`";
                return Err(error(entry.span(), text.to_owned()));
            }
            (None, None, None, None, Some(name))
                if issuers.contains_key(name.as_ref())
                    || written.csi.is_some() && *name.as_ref() == IssuerName::of_pods() =>
            {
                Who::Issuer(name.as_ref().clone())
            }
            (None, None, None, None, Some(name)) => {
                let text = if *name.as_ref() == IssuerName::of_pods() {
                    "serve.issuer: there is no [csi], which proves pods, and no [issuers.pods]".to_owned()
                } else {
                    format!("serve.issuer: there is no [issuers.{}]", name.as_ref())
                };
                return Err(error(name.span(), text));
            }
            _ => {
                let text = "serve: an entry needs one of `uid`, `certificate`, `issuer`, or `token` with its `sha256`";
                return Err(error(entry.span(), text.to_owned()));
            }
        };
        if let Some(twice) = served.iter().find_map(|earlier| is_taken(&earlier.who, &who)) {
            return Err(error(entry.span(), format!("serve: an earlier entry already serves {twice}")));
        }
        let covering =
            served.iter().find(|earlier| earlier.who == who && earlier.namespaces.covers(&said.namespaces));
        if let Some(earlier) = covering {
            let text = format!(
                "serve: never used, since an earlier entry of the issuer has `{}`",
                earlier.namespaces
            );
            return Err(error(entry.span(), text));
        }
        let at_once = said.at_once.map_or(AT_ONCE, NonZeroU32::get);
        served.push(Serve { who, namespaces: said.namespaces.clone(), engine, at_once });
    }
    for (name, issuer) in &written.issuers {
        if !served.iter().any(|serve| serve.who == Who::Issuer(name.clone())) {
            let message = format!("issuers.{name}: no [[serve]] entry serves its jobs");
            return Err(ConfigError::File { place: place(path, text, Some(issuer.span())), message });
        }
    }
    Ok(served)
}

/// The callers that two entries would serve. An issuer may have several, for different jobs.
fn is_taken(earlier: &Who, who: &Who) -> Option<String> {
    match (earlier, who) {
        (Who::Uid(one), Who::Uid(two)) if one == two => Some(format!("uid {one}")),
        (Who::Certificate(one), Who::Certificate(two)) if one == two => Some(format!("certificate {one}")),
        (Who::Token { name: one, hash }, Who::Token { name: two, hash: other })
            if one == two || hash == other =>
        {
            Some(format!("token {one}"))
        }
        _ => None,
    }
}
