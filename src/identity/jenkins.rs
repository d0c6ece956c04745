//! The tokens of Jenkins' OpenID Connect Provider plugin, as it makes them without further configuration: `sub` is the
//! job's URL, `https://ci.example/job/acme/job/app/`.

use serde_json::Value;

use crate::names::{printable, shortened};

/// The full name of the job in `sub`, as Jenkins' `JOB_NAME`: `acme/app`. `issuer` is the tokens' `iss`, as the
/// plugin makes it: `https://ci.example/oidc`, or of a folder's credentials `https://ci.example/oidc/job/acme`. A
/// folder vouches for its own jobs alone.
pub(super) fn full_name(issuer: &str, claims: &Value) -> Result<String, String> {
    let subject = claims.get("sub").and_then(Value::as_str).ok_or("has no claim `sub`")?;
    let wrong = || {
        let shown = shortened(printable(subject), 200);
        format!("has a `sub` that is not the URL of a job below its issuer: `{shown}`")
    };
    let issuer = issuer.trim_end_matches('/');
    let (root, folder) = match issuer.split_once("/oidc/job/") {
        Some((root, folder)) => (root, Some(format!("job/{folder}/"))),
        None => (issuer.strip_suffix("/oidc").ok_or_else(wrong)?, None),
    };
    let path = subject.strip_prefix(root).and_then(|path| path.strip_prefix('/')).ok_or_else(wrong)?;
    if folder.is_some_and(|folder| !path.starts_with(&folder)) {
        return Err(wrong());
    }
    let mut segments = path.trim_end_matches('/').split('/');
    let mut names = Vec::new();
    while let Some(kind) = segments.next() {
        let name = segments.next().filter(|_| kind == "job").and_then(decoded).ok_or_else(wrong)?;
        names.push(name);
    }
    Ok(names.join("/"))
}

/// A segment of a URL's path. The name of a branch is encoded twice: `feature%252Fx` is Jenkins' `feature%2Fx`.
fn decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    let name = String::from_utf8(bytes).ok()?;
    // Jenkins allows no name with a slash: one would be another job's.
    let is_name = !name.is_empty() && name != "." && name != ".." && !name.contains('/');
    is_name.then_some(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_jobs_url_is_its_full_name() {
        let name = |issuer: &str, subject: &str| full_name(issuer, &json!({ "sub": subject }));
        for issuer in ["https://ci.example/oidc", "https://ci.example/oidc/"] {
            for (subject, full) in [
                ("https://ci.example/job/acme/job/app/", "acme/app"),
                ("https://ci.example/job/app", "app"),
                ("https://ci.example/job/acme/job/feature%252Fx/", "acme/feature%2Fx"),
                ("https://ci.example/job/a%20b/", "a b"),
                ("https://ci.example/job/job/", "job"),
            ] {
                assert_eq!(name(issuer, subject).unwrap(), full, "{issuer} {subject}");
            }
        }
        assert_eq!(name("https://x.example/jenkins/oidc", "https://x.example/jenkins/job/a/").unwrap(), "a");
        let folder = "https://ci.example/oidc/job/acme";
        assert_eq!(name(folder, "https://ci.example/job/acme/job/app/").unwrap(), "acme/app");
        for other in ["https://ci.example/job/other/", "https://ci.example/job/acmes/job/app/"] {
            assert!(name(folder, other).is_err(), "{other}");
        }
    }

    #[test]
    fn another_url_is_no_job() {
        for subject in [
            "https://other.example/job/acme/",
            "https://ci.example.evil/job/acme/",
            "https://ci.example/",
            "https://ci.example/job/",
            "https://ci.example/job/a%2Fb/",
            "https://ci.example/job/a/b/",
            "https://ci.example/view/all/job/a/",
            "https://ci.example/job/%zz/",
            "https://ci.example/job/../",
            "acme/app",
        ] {
            assert!(full_name("https://ci.example/oidc", &json!({ "sub": subject })).is_err(), "{subject}");
        }
        assert!(full_name("https://ci.example/oidc", &json!({})).is_err());
    }
}
