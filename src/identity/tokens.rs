//! Static bearer tokens (RFC 6750). The configuration has only their hashes.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{Answer, Caller, rules_of};
use crate::{
    config::{Config, TokenHash, Who},
    fault::{Fault, Reason},
    names::CallerId,
    policy::Policies,
};

/// Shorter tokens could be guessed from their hashes. 128 bits in base64.
const TOKEN_BYTES_MIN: usize = 22;

/// The callers of all static tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    callers: Vec<(TokenHash, Caller)>,
}

impl Tokens {
    pub(super) fn new(config: &Config, policies: &Arc<Policies>) -> Self {
        let callers = config.serve.iter().filter_map(|serve| match &serve.who {
            Who::Token { name, hash } => {
                let id = CallerId::Token(name.clone());
                Some((*hash, Caller::served(id, &rules_of(serve, policies), &serve.engine)))
            }
            Who::Uid(_) | Who::Certificate(_) | Who::Issuer(_) => None,
        });
        Self { callers: callers.collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.callers.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Caller> {
        self.callers.iter().map(|(_, caller)| caller)
    }

    /// The caller of `bearer`. A token that is none of these may be another scheme's.
    pub(super) fn identify(&self, bearer: &str) -> Answer {
        let hash = Sha256::digest(bearer.as_bytes());
        let mut found = None;
        // Every hash is compared, in constant time: the time reveals nothing about any of them.
        for (known, caller) in &self.callers {
            if bool::from(known.0.ct_eq(&hash)) {
                found = Some(caller);
            }
        }
        match found {
            None => Answer::NotPresented,
            Some(caller) if bearer.len() < TOKEN_BYTES_MIN => {
                let text =
                    format!("{caller} is too short: it needs at least {TOKEN_BYTES_MIN} random characters");
                let hint =
                    "make one with `openssl rand -hex 32`, and put its hash into wharfd's configuration";
                Answer::Failed(Fault::new(Reason::UnknownCaller, text).hint(hint))
            }
            Some(caller) => Answer::Proven(caller.clone()),
        }
    }
}
