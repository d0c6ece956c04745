//! Tokens of an issuer of the tests' own.

use std::{path::PathBuf, time::Duration};

use clap::Parser as _;
use serde_json::json;

use super::*;
use crate::config::Flags;
use signer::{Signer, base64};

#[path = "../../../tests/wharf/harness/signer.rs"]
mod signer;

const URL: &str = "https://ci.example/oidc";

/// An issuer with a key.
struct Ci {
    key: Signer,
    file: PathBuf,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Ci {
    fn new(name: &str) -> Self {
        let file = std::env::temp_dir().join(format!("wharf-jobs-{name}-{}.json", std::process::id()));
        let ci = Self { key: Signer::new(), file };
        ci.publish("one");
        ci
    }

    /// Writes the set of keys, with one of a kind that nobody knows, and one that must never check a signature.
    fn publish(&self, id: &str) {
        let shared = json!({"kty": "oct", "kid": "shared", "k": base64("secret")});
        let set = json!({"keys": [{"kty": "new", "kid": "new"}, shared, self.key.jwk(id)]});
        std::fs::write(&self.file, set.to_string()).unwrap();
    }

    fn claims(&self) -> Value {
        json!({
            "iss": URL, "aud": "wharf", "sub": "https://ci.example/job/acme/job/app/", "build_number": 42,
            "iat": now(), "exp": now() + 60,
        })
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        self.key.sign(header, claims)
    }

    fn token(&self, changes: Value) -> String {
        let mut claims = self.claims();
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
                value => claims[name] = value.clone(),
            }
        }
        self.sign(&json!({"alg": "ES256", "kid": "one"}), &claims)
    }

    fn jobs(&self, more: &str) -> Jobs {
        let config = self.config(more);
        Jobs::new(&config, &Policies::of(&config)).unwrap()
    }

    fn config(&self, more: &str) -> Config {
        let file = format!(
            "[issuers.ci]\npreset = \"jenkins\"\nissuer = \"{URL}\"\naudience = \"wharf\"\njwks = \"{}\"\n\
             [[serve]]\nissuer = \"ci\"\nnamespaces = \"acme/*\"\n{more}",
            self.file.display()
        );
        Config::with_file(Flags::try_parse_from(["wharfd"]).unwrap(), &file)
    }
}

impl Drop for Ci {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

fn proven(jobs: &Jobs, token: &str) -> Result<Caller, String> {
    match jobs.identify(token, SystemTime::now()) {
        Answer::Proven(caller) => Ok(caller),
        Answer::Failed(fault) => {
            assert_eq!(fault.reason(), Reason::UnknownCaller);
            Err(fault.text().to_owned())
        }
        Answer::NotPresented => Err("not presented".to_owned()),
    }
}

#[test]
fn a_token_proves_one_run_of_one_job() {
    let ci = Ci::new("proves");
    let jobs = ci.jobs("");
    let caller = proven(&jobs, &ci.token(json!({}))).unwrap();
    assert_eq!(caller.to_string(), "job ci:acme/app");
    assert_eq!(caller.namespaces(), "ci:acme/app#42");
    let named = |job: &str, run: &str| Some(Namespace::new(job, run).unwrap());
    let own = caller.namespace(None).unwrap();
    assert_eq!(own.subject().to_string(), "ci:acme/app#42");
    assert_eq!(caller.namespace(named("acme/app", "42")).unwrap().subject(), own.subject());
    for (job, run) in [("acme/app", "41"), ("acme/other", "42"), ("ci:acme/app", "42")] {
        let fault = caller.namespace(named(job, run)).unwrap_err();
        assert_eq!(fault.reason(), Reason::NamespaceDenied);
        assert!(fault.text().contains("ci:acme/app#42"), "{fault}");
    }
    // A list of audiences, and the clocks a little apart.
    for changes in [json!({"aud": ["other", "wharf"]}), json!({"iat": now() + 5}), json!({"exp": now() - 5})]
    {
        proven(&jobs, &ci.token(changes)).unwrap();
    }
}

#[test]
fn a_token_that_proves_nothing_says_why() {
    let (ci, other) = (Ci::new("nothing"), Ci::new("other"));
    let jobs = ci.jobs("");
    for (changes, why) in [
        (json!({"iss": null}), "no claim `iss`"),
        (json!({"iss": "https://evil.example"}), "from an unknown issuer"),
        (json!({"aud": "other"}), "`aud` has to be `wharf`"),
        (json!({"aud": null}), "no claim `aud`"),
        (json!({"exp": now() - 60}), "expired"),
        (json!({"exp": null}), "no claim `exp`"),
        (json!({"exp": "never"}), "`exp`"),
        (json!({"nbf": now() + 60}), "not valid yet"),
        (json!({"iat": null}), "no claim `iat`"),
        (json!({"iat": now() + 60}), "future"),
        (json!({"sub": "https://evil.example/job/acme/job/app/"}), "not the URL of a job"),
        (json!({"sub": "https://ci.example/job/evil/"}), "no `[[serve]]`"),
        (json!({"build_number": null}), "no claim `build_number`"),
        (json!({"build_number": ["1"]}), "neither text nor a whole number"),
    ] {
        let error = proven(&jobs, &ci.token(changes.clone())).unwrap_err();
        assert!(error.contains(why), "{changes}: {error}");
    }
    let claims = ci.claims();
    let none = |header: Value| {
        let token = ci.sign(&header, &claims);
        let (unsigned, _) = token.rsplit_once('.').unwrap();
        format!("{unsigned}.")
    };
    let changed = |at: usize| {
        let mut token = ci.token(json!({})).into_bytes();
        token[at] = if token[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(token).unwrap()
    };
    for (token, why) in [
        (none(json!({"alg": "none"})), "cannot be read"),
        (none(json!({"alg": "ES256", "kid": "one"})), "not signed by a key"),
        (ci.sign(&json!({"alg": "HS256", "kid": "shared"}), &claims), "signed with HS256"),
        (
            ci.sign(&json!({"alg": "ES256", "kid": "shared"}), &claims),
            "key that issuers.ci does not have: `shared`",
        ),
        (
            ci.sign(&json!({"alg": "RS256", "kid": "one"}), &claims),
            "but the key `one` of issuers.ci is for another algorithm",
        ),
        (ci.sign(&json!({"alg": "ES384", "kid": "one"}), &claims), "signed with ES384"),
        (ci.sign(&json!({"alg": "ES256", "kid": "one", "crit": ["x"]}), &claims), "`crit`"),
        (ci.sign(&json!({"alg": "ES256", "kid": "../one"}), &claims), "`../one`"),
        (other.token(json!({})), "not signed by a key"),
        (changed(80), "the call's token "),
        (format!("eyJ{}.e.e", "x".repeat(9000)), "8 KiB"),
        ("eyJ.e.e".to_owned(), "cannot be read"),
        ("nothing".to_owned(), "not presented"),
    ] {
        let error = proven(&jobs, &token).unwrap_err();
        assert!(error.contains(why), "{token}: {error}");
        assert!(!error.contains(&token) || token.len() < 10, "{error}");
    }
    // The key of a set cannot be brought along.
    let brought =
        json!({"alg": "ES256", "kid": "one", "jwk": other.key.jwk("one"), "jku": "https://evil.example"});
    assert!(proven(&jobs, &other.sign(&brought, &claims)).is_err());
}

#[test]
fn jobs_of_one_issuer_have_the_rules_of_their_first_entry() {
    let ci = Ci::new("rules");
    let jobs = ci.jobs("[[serve]]\nissuer = \"ci\"\nnamespaces = \"*\"\nat_once = 2\n");
    let at_once = |job: &str| {
        let subject = format!("https://ci.example/job/{job}/");
        proven(&jobs, &ci.token(json!({ "sub": subject }))).unwrap().rules().at_once()
    };
    assert_eq!((at_once("acme/job/app"), at_once("other")), (crate::config::AT_ONCE, 2));
}

#[test]
fn keys_are_read_again_when_they_change_and_stay_when_they_are_broken() {
    let ci = Ci::new("keys");
    let jobs = ci.jobs("");
    let rotated = ci.sign(&json!({"alg": "ES256", "kid": "two"}), &ci.claims());
    let changes = |seconds| {
        let file = std::fs::File::options().write(true).open(&ci.file).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(seconds)).unwrap();
        jobs.issuers.iter().for_each(|issuer| issuer.keys.look());
    };
    assert!(proven(&jobs, &rotated).unwrap_err().contains("`two`"));
    ci.publish("two");
    changes(10);
    proven(&jobs, &rotated).unwrap();
    assert!(proven(&jobs, &ci.token(json!({}))).is_err(), "the old key is gone");
    std::fs::write(&ci.file, "{").unwrap();
    changes(20);
    proven(&jobs, &rotated).unwrap();
}

#[test]
fn a_job_is_explained_as_its_token_would_be_judged() {
    let ci = Ci::new("explained");
    let policies = "[[policy]]\nname = \"requests\"\njobs = [\"ci:acme/app/PR-*\"]\n\
                    [[policy]]\nname = \"claimed\"\njobs = [\"acme/*\"]\n";
    let identities = crate::identity::Identities::new(&ci.config(policies)).unwrap();
    let explained = |job: &str, namespace: Option<&str>| {
        let namespace = namespace.map(|name| Namespace::parse(name).unwrap());
        let explained = identities.explain(job, namespace).map_err(|fault| fault.reason())?;
        Ok::<_, Reason>((explained.entry().name(), explained.rules().name().to_owned()))
    };
    let rule = || "serve issuer ci, acme/*".to_owned();
    assert_eq!(explained("job ci:acme/app/PR-7", None), Ok(("requests".to_owned(), rule())));
    assert_eq!(
        explained("job ci:acme/app/PR-7", Some("acme/app/PR-7#3")),
        Ok(("requests".to_owned(), rule()))
    );
    assert_eq!(explained("job ci:acme/app", None), Ok(("none".to_owned(), rule())));
    for unknown in ["job ci:other", "job cj:acme/app", "job acme/app", "job ", "ci:acme/app"] {
        assert_eq!(explained(unknown, None), Err(Reason::InvalidInput), "{unknown}");
    }
    let other = explained("job ci:acme/app", Some("acme/app/PR-7#1"));
    assert_eq!(other, Err(Reason::NamespaceDenied));
}
