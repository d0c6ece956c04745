//! Replaces the engine's names by the Dockerfile's in everything that a client sees.

use std::collections::{BTreeMap, BTreeSet};

use bollard_buildkit_proto::moby::buildkit::v1 as control;

use super::{
    add::SESSION_HOST,
    gate::{Names, OWN_LAYER},
    paths,
};
use crate::{
    buildkit::failure,
    names::{RESERVED_HOST, Reference, printable_url, reference::Digest},
    naming::{ImageName, NamespaceNames, Owner},
};

/// Replaces the engine's names by the job's.
#[derive(Clone, Debug)]
pub(super) struct Renaming {
    names: NamespaceNames,
    root: String,
    admitted: BTreeMap<String, String>,
    /// The digests of admitted images at their registries: the engine knows only the platform's manifest.
    digests: BTreeMap<String, Digest>,
    /// The URLs that the Dockerfile has, by those that BuildKit gets the files from.
    urls: BTreeMap<String, String>,
    /// The image of the frontend: BuildKit's work with it does not concern the job.
    frontend: Option<ImageName>,
}

impl Renaming {
    /// The names of a namespace, in an engine whose files are under `root`.
    pub(super) fn new(names: NamespaceNames, root: &str) -> Self {
        Self {
            names,
            root: root.to_owned(),
            admitted: BTreeMap::new(),
            digests: BTreeMap::new(),
            urls: BTreeMap::new(),
            frontend: None,
        }
    }

    /// Hides steps that use the frontend's image.
    pub(super) fn hide_frontend(&mut self, image: &ImageName) {
        self.frontend = Some(image.clone());
    }

    /// Shows `target`, a name in the engine, as `named`, with its registry's `digest` where the engine shows one.
    pub(super) fn admit(&mut self, target: &ImageName, named: &str, digest: Option<&Digest>) {
        let shown =
            Reference::parse(named).map_or_else(|_| named.to_owned(), |reference| reference.to_string());
        self.admitted.insert(target.to_string(), shown);
        self.digests.extend(digest.map(|digest| (target.to_string(), digest.clone())));
    }

    /// Shows `target`, a name in the engine, as this text.
    pub(super) fn show(&mut self, target: &ImageName, shown: &str) {
        self.admitted.insert(target.to_string(), shown.to_owned());
    }

    /// Shows a URL of the session as the Dockerfile's.
    pub(super) fn show_url(&mut self, url: &str, named: &str) {
        self.urls.insert(url.to_owned(), printable_url(named));
    }

    /// `text` without any of the engine's own names.
    pub(super) fn text(&self, text: &str) -> String {
        if !text.contains(SESSION_HOST) {
            return self.without_names(text);
        }
        let text = self.urls.iter().fold(text.to_owned(), |text, (url, named)| text.replace(url, named));
        self.without_names(&text)
    }

    fn without_names(&self, text: &str) -> String {
        let mut shown = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(RESERVED_HOST) {
            let (before, from) = rest.split_at(at);
            shown.push_str(before);
            let in_name =
                |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | ':' | '@' | '-');
            let end = from.find(|c| !in_name(c)).unwrap_or(from.len());
            // No name contains another: a second host begins a name of its own.
            let inside = from.get(RESERVED_HOST.len()..end).and_then(|inside| inside.find(RESERVED_HOST));
            let end = inside.map_or(end, |at| RESERVED_HOST.len() + at);
            let (name, after) = from.split_at(end);
            // A name may be followed by a sentence's punctuation.
            let bare = name.trim_end_matches([':', '.', '/', '@', '-']);
            shown.push_str(&self.name(bare));
            shown.push_str(name.strip_prefix(bare).unwrap_or_default());
            rest = after;
        }
        shown.push_str(rest);
        shown
    }

    /// An error of the engine's, without its own names and paths.
    pub(super) fn error(&self, text: &str) -> String {
        self.text(&paths::without(text, &self.root))
    }

    fn name(&self, name: &str) -> String {
        let (bare, digest) = name.split_once('@').map_or((name, None), |(bare, digest)| (bare, Some(digest)));
        if let Some(named) = self.admitted.get(bare) {
            return match digest {
                Some(digest) if !named.contains('@') => {
                    format!("{named}@{}", self.digests.get(bare).map_or(digest, Digest::as_str))
                }
                _ => named.clone(),
            };
        }
        match self.names.read(bare) {
            Some(Owner::Reference(reference)) => reference.to_string(),
            Some(Owner::Untagged) => "(untagged)".to_owned(),
            Some(Owner::Long(_)) | None => "(private image)".to_owned(),
        }
    }

    /// BuildKit's status with the job's names. A step that other builds have too has the name that the first of them
    /// gave it, so the names of this build's `steps` come from its own graph. `hidden` collects the digests of this
    /// pass's hidden steps.
    pub(super) fn status(
        &self,
        mut status: control::StatusResponse,
        steps: Option<&Names>,
        hidden: &mut BTreeSet<String>,
    ) -> control::StatusResponse {
        if let Some(frontend) = &self.frontend {
            let of_frontend =
                status.vertexes.extract_if(.., |vertex| vertex.name.contains(frontend.as_str()));
            hidden.extend(of_frontend.map(|vertex| vertex.digest));
            status.statuses.retain(|part| !part.id.contains(frontend.as_str()));
        }
        let is_own_layer =
            |digest: &str| steps.and_then(|steps| steps.get(digest)).is_some_and(|name| name == OWN_LAYER);
        let of_own_layers = status.vertexes.extract_if(.., |vertex| is_own_layer(&vertex.digest));
        hidden.extend(of_own_layers.map(|vertex| vertex.digest));
        status.statuses.retain(|part| !hidden.contains(&part.vertex));
        for vertex in &mut status.vertexes {
            let own = steps.and_then(|steps| steps.get(&vertex.digest));
            vertex.name = self.vertex_name(own.unwrap_or(&vertex.name));
            vertex.error = self.error(&failure::sentence(&vertex.error));
        }
        for part in &mut status.statuses {
            part.id = self.text(&part.id);
        }
        for warning in &mut status.warnings {
            for text in std::iter::once(&mut warning.short).chain(&mut warning.detail) {
                *text = self.text(&String::from_utf8_lossy(text)).into();
            }
        }
        status
    }

    fn vertex_name(&self, name: &str) -> String {
        if let Some(named) = self.urls.get(name) {
            return named.clone();
        }
        // BuildKit fetches a client's tar from such a URL.
        let path = name.strip_prefix("http://").and_then(|rest| rest.strip_prefix(SESSION_HOST));
        if path.is_some_and(|path| path.starts_with('/')) {
            "[internal] load remote build context".to_owned()
        } else {
            self.text(name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        names::{Namespace, reference::Digest},
        naming::Keys,
    };

    #[test]
    fn names_of_the_engine_become_the_jobs() {
        let directory = std::env::temp_dir().join(format!("wharf-shown-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let keys = Keys::load(&directory).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        let own = keys.names(&Namespace::new("acme", "1").unwrap());
        let other = keys.names(&Namespace::new("other", "1").unwrap());
        let app = Reference::parse("app:1").unwrap();
        let mut shown = Renaming::new(own.clone(), "/var/lib/docker");
        let name = ImageName::any;
        shown.admit(&name("wharf.invalid/i/hold/h:1"), "docker.io/library/busybox:1", None);
        let index = Digest::from_sha256([7; 32]);
        shown.admit(&name("wharf.invalid/i/hold/i:1"), "docker.io/library/alpine:3", Some(&index));
        let text = |text: &str| shown.text(text);
        assert_eq!(text("[1/2] FROM wharf.invalid/i/hold/h:1"), "[1/2] FROM docker.io/library/busybox:1");
        assert_eq!(
            text("resolve wharf.invalid/i/hold/h:1@sha256:ab: not found"),
            "resolve docker.io/library/busybox:1@sha256:ab: not found"
        );
        // The engine has pulled one manifest of an index.
        assert_eq!(
            text("FROM wharf.invalid/i/hold/i:1@sha256:ab"),
            format!("FROM docker.io/library/alpine:3@{index}")
        );
        assert_eq!(
            text(&format!("naming to {}", own.name(&app).name())),
            "naming to docker.io/library/app:1"
        );
        assert_eq!(
            text(&format!("naming to {}", own.untagged(&Digest::from_sha256([0; 32])))),
            "naming to (untagged)"
        );
        let foreign = text(&format!("{} and wharf.invalid", other.name(&app).name()));
        assert_eq!(foreign, "(private image) and (private image)");
        assert_eq!(text("nothing of ours"), "nothing of ours");
        shown.show_url("http://buildkit-session/5a17", "https://user:secret@files.example/f");
        let text = |text: &str| shown.text(text);
        assert_eq!(
            text("digest mismatch for http://buildkit-session/5a17: x"),
            "digest mismatch for https://xxxxx:xxxxx@files.example/f: x"
        );
        let behind = |name: &str| text(&format!("wharf.invalid/i/hold/h:1@{name}/wharf.invalid"));
        assert_eq!(behind("wharf.invalid/x"), "docker.io/library/busybox:1@(private image)/(private image)");
        let prefix = own.prefix();
        assert!(!text(&format!("{prefix}wharf.invalid/h:1")).contains("wharf.invalid"), "{prefix}");

        shown.hide_frontend(&ImageName::any("wharf.invalid/i/frontend/f:1"));
        let vertex = |digest: &str, name: &str| control::Vertex {
            digest: digest.to_owned(),
            name: name.to_owned(),
            ..control::Vertex::default()
        };
        let status = |vertex: &str, id: &str| control::VertexStatus {
            vertex: vertex.to_owned(),
            id: id.to_owned(),
            ..control::VertexStatus::default()
        };
        let mut hidden = BTreeSet::new();
        let renamed = shown.status(
            control::StatusResponse {
                vertexes: vec![
                    vertex("a", "docker-image://wharf.invalid/i/frontend/f:1"),
                    vertex("b", "[1/1] RUN x"),
                ],
                statuses: vec![status("a", "extracting"), status("b", "x")],
                ..control::StatusResponse::default()
            },
            None,
            &mut hidden,
        );
        assert_eq!(renamed.vertexes.len(), 1);
        assert_eq!(renamed.statuses.len(), 1);
        let later = control::StatusResponse {
            statuses: vec![status("a", "extracted")],
            ..control::StatusResponse::default()
        };
        assert!(shown.status(later, None, &mut hidden).statuses.is_empty());

        // Another build has named the step.
        let steps = [("c".to_owned(), "[mine 1/2] FROM wharf.invalid/i/hold/h:1".to_owned())].into();
        let vertexes = vec![vertex("c", "[secret 1/3] FROM wharf.invalid/i/hold/h:1"), vertex("d", "other")];
        let shared = control::StatusResponse { vertexes, ..control::StatusResponse::default() };
        let names = shown.status(shared, Some(&steps), &mut hidden).vertexes;
        let names: Vec<&str> = names.iter().map(|vertex| vertex.name.as_str()).collect();
        assert_eq!(names, ["[mine 1/2] FROM docker.io/library/busybox:1", "other"]);
    }
}
