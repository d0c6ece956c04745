//! The entry points for `fuzz/`: tokens, before and after they prove a job.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a fuzzer ends at what must not be")]

use std::{sync::LazyLock, time::UNIX_EPOCH};

use super::{Answer, Issuer, JobName, Jobs, Keyring, Rules, config, validation, verify};
use crate::{
    config::Jenkins,
    names::{IssuerName, Pattern, printable},
};

/// A P-256 key without an owner (RFC 7515, A.3): nobody signs anything with it any more.
const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"one","alg":"ES256",
    "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

static JOBS: LazyLock<Jobs> = LazyLock::new(|| {
    verify::install();
    let template = |text: &str| config::Template::try_from(text.to_owned()).unwrap();
    let issuer = |name: &str, url: &str, job: JobName| {
        let name = IssuerName::try_from(name.to_owned()).unwrap();
        let config = config::Issuer {
            url: url.to_owned(),
            audience: "wharf".to_owned(),
            keys: std::path::PathBuf::new(),
            algorithms: vec![config::Algorithm::RS256, config::Algorithm::ES256],
            job,
            run: template("{build_number}"),
        };
        let rules = Rules::built_in("fuzz", Pattern::try_from("acme/*".to_owned()).unwrap());
        Issuer {
            validation: validation(&config),
            keys: Keyring::of(&name, KEYS.as_bytes()).unwrap(),
            served: vec![(rules.into(), "default".to_owned().try_into().unwrap())],
            name,
            config,
        }
    };
    let jenkins = "https://ci.example/oidc/job/acme";
    let of_jenkins = JobName::Jenkins(Jenkins::of(jenkins).unwrap());
    let of_claims = JobName::Claims(template("{+project_path}/{ref}"));
    Jobs { issuers: vec![issuer("ci", jenkins, of_jenkins), issuer("git", "https://git.example", of_claims)] }
});

/// A token that a stranger shows. Nothing proves it, and the refusal is a printable line.
pub fn token(text: &str) {
    match JOBS.identify(text, UNIX_EPOCH) {
        Answer::NotPresented => {}
        Answer::Failed(fault) => {
            let text = fault.text();
            assert!(text == printable(text) && text.len() < 2 << 10, "{text}");
        }
        Answer::Proven(caller) => panic!("nothing proves {caller:?}"),
    }
}

/// Claims that an issuer has signed. Each issuer proves jobs of its own alone, below the pattern that is served.
pub fn claims(data: &[u8]) {
    let Ok(claims) = serde_json::from_slice(data) else { return };
    for issuer in &JOBS.issuers {
        match issuer.caller(&claims, 0) {
            Ok(caller) => {
                let permit = caller.namespace(None).unwrap();
                let job = permit.subject().job();
                assert_eq!(job.issuer(), Some(&issuer.name));
                assert!(job.name().starts_with("acme/"), "{job}");
            }
            Err(why) => assert!(why == printable(&why) && why.len() < 2 << 10, "{why}"),
        }
    }
}

/// An issuer's keys.
pub fn keys(data: &[u8]) {
    let _ = Keyring::of(&IssuerName::try_from("ci".to_owned()).unwrap(), data);
}
