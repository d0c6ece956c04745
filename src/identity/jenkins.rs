//! The tokens of Jenkins' OpenID Connect Provider plugin, as it makes them without further configuration: `sub` is the
//! job's URL, `https://ci.example/job/acme/job/app/`.

use serde_json::Value;

use crate::{
    config::Jenkins,
    names::{percent_decoded, printable, shortened},
};

/// The full name of the job in `sub`, as Jenkins' `JOB_NAME`: `acme/app`. A folder vouches for its own jobs alone.
pub(super) fn full_name(jenkins: &Jenkins, claims: &Value) -> Result<String, String> {
    let subject = claims.get("sub").and_then(Value::as_str).ok_or("has no claim `sub`")?;
    name_below(jenkins, subject).ok_or_else(|| {
        let shown = shortened(printable(subject), 200);
        format!("has a `sub` that is not the URL of a job below its issuer: `{shown}`")
    })
}

fn name_below(Jenkins { root, folder }: &Jenkins, subject: &str) -> Option<String> {
    let path = subject.strip_prefix(root)?.strip_prefix('/')?;
    if let Some(folder) = folder {
        path.strip_prefix("job/")?.strip_prefix(folder)?.strip_prefix('/')?;
    }
    let mut segments = path.trim_end_matches('/').split('/');
    let mut names = Vec::new();
    while let Some(kind) = segments.next() {
        names.push(segments.next().filter(|_| kind == "job").and_then(segment_name)?);
    }
    Some(names.join("/"))
}

/// A segment of a URL's path. The name of a branch is encoded twice: `feature%252Fx` is Jenkins' `feature%2Fx`.
fn segment_name(segment: &str) -> Option<String> {
    let name = percent_decoded(segment)?;
    // Jenkins allows no name with a slash: one would be another job's.
    let is_name = !name.is_empty() && name != "." && name != ".." && !name.contains('/');
    is_name.then_some(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name(issuer: &str, subject: &str) -> Result<String, String> {
        full_name(&Jenkins::of(issuer).unwrap(), &json!({ "sub": subject }))
    }

    #[test]
    fn a_jobs_url_is_its_full_name() {
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
            assert!(name("https://ci.example/oidc", subject).is_err(), "{subject}");
        }
        assert!(full_name(&Jenkins::of("https://ci.example/oidc").unwrap(), &json!({})).is_err());
    }
}
