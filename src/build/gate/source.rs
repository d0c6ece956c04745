//! The sources of a graph: directories of the client, and admitted images and URLs.

use bollard_buildkit_proto::pb::SourceOp;

use super::{Gate, Refusal, Seen, refuse};
use crate::{
    build::isolation::{CHECKSUM, HTTP_PERM},
    fault::{Fault, Reason},
    names::{printable, printable_url},
};

impl Gate<'_> {
    pub(super) fn source(&self, source: &SourceOp, seen: &mut Seen) -> Result<(), Refusal> {
        let identifier = source.identifier.as_str();
        let (scheme, rest) = identifier.split_once("://").unwrap_or_default();
        match scheme {
            "local" => {
                if !matches!(rest, "context" | "dockerfile") {
                    return Err(refuse(format!(
                        "the directory `{}` does not belong to the build",
                        printable(rest)
                    )));
                }
                if source.attrs.get("local.session").is_none_or(|session| session != self.session) {
                    return Err(refuse("a directory comes from another session"));
                }
                attributes(
                    source,
                    &[
                        "local.session",
                        "local.unique",
                        "local.includepattern",
                        "local.followpaths",
                        "local.excludepatterns",
                        "local.sharedkeyhint",
                        "local.differ",
                        "local.metadatatransfer",
                        "local.metadatatransferexclude",
                    ],
                )
            }
            "docker-image" => {
                let bare = rest.split_once("@sha256:").map_or(rest, |(name, _)| name);
                let name = [rest, bare].into_iter().find(|name| self.images.contains(*name));
                let name = name.ok_or_else(|| refuse("an image of the graph was not admitted"))?;
                seen.images.insert(name.to_owned());
                if source.attrs.get("image.resolvemode").is_none_or(|mode| mode != "local") {
                    return Err(refuse("an image of the graph would be looked up at a registry"));
                }
                attributes(source, &["image.resolvemode", "image.recordtype"])
            }
            "http" | "https" => {
                if source.attrs.get(HTTP_PERM).is_some_and(|perm| *perm != self.keys.http_perm()) {
                    return Err(refuse("the content of a URL would not be kept apart from other jobs'"));
                }
                // Else BuildKit makes it of the URL, which is then the session's.
                if self.uploaded() != Some(identifier) && !source.attrs.contains_key("http.filename") {
                    return Err(refuse("the content of a URL would have no name"));
                }
                attributes(source, &[CHECKSUM, "http.filename", HTTP_PERM])
            }
            "git" => Err(git_denied(identifier).into()),
            _ => Err(refuse(format!(
                "the source `{}` has a kind that is not allowed",
                printable_url(identifier)
            ))),
        }
    }
}

/// The fault of a Git source: BuildKit fetches these without asking its source policy.
pub fn git_denied(identifier: &str) -> Fault {
    let text = format!(
        "`ADD {}` is not allowed: BuildKit fetches Git sources without any check",
        printable_url(identifier)
    );
    Fault::new(Reason::SourceDenied, text).hint("check the repository out in the job and COPY it")
}

fn attributes(source: &SourceOp, known: &[&str]) -> Result<(), Refusal> {
    match source.attrs.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => {
            Err(refuse(format!("a source has the attribute `{}`, which is not allowed", printable(key))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::source, *};

    #[test]
    fn sources_that_were_not_admitted_are_refused_or_learnt() {
        for (identifier, attrs) in [
            ("local://other", vec![]),
            ("local://context", vec![("local.session", "s2")]),
            ("local://context", vec![("local.unknown", "1")]),
            ("docker-image://docker.io/library/busybox:latest", vec![("image.resolvemode", "local")]),
            ("docker-image://wharf.invalid/h/1:10", vec![("image.resolvemode", "local")]),
            ("docker-image://wharf.invalid/h/1:1", vec![("image.resolvemode", "default")]),
            ("docker-image://wharf.invalid/h/1:1", vec![]),
            ("git://example.com/x.git", vec![]),
            ("oci-layout://x", vec![]),
            ("docker-image+blob://x", vec![]),
            ("https://admitted.example/f", vec![("http.filename", "f"), ("http.header.authorization", "x")]),
            ("https://admitted.example/f", vec![("http.filename", "f"), ("http.perm", "384")]),
            ("https://admitted.example/f", vec![("http.filename", "f"), ("http.uid", "1")]),
            ("https://admitted.example/f", vec![]),
            ("nonsense", vec![]),
        ] {
            assert!(matches!(source(identifier, &attrs), Err(Refusal::Refused(_))), "{identifier} {attrs:?}");
        }
        let learnt = |url| matches!(source(url, &[("http.filename", "f")]), Err(Refusal::NeedsUrls(urls)) if urls.contains_key(url));
        assert!(learnt("https://other.example/f"));
        // Even the URL in the session that stands for an admitted one, or a tar of another build.
        assert!(learnt("http://buildkit-session/u") && learnt("http://buildkit-session/other"));
    }
}
