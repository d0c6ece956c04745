//! The details of one call: they gather while it works, so that an event also has those of a call that has failed.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};

use super::event::{Event, bounded};
use crate::names::{Reference, printable_json, reference::Digest};

/// The limit on the entries of each list. A Dockerfile names a few images; a build has 64 passes at most.
const ENTRIES_MAX: usize = 64;
/// The limit on the bytes of each list in its line. With three of them a line is shorter than the 48 KiB at which
/// journald cuts it (`LineMax`).
const LIST_BYTES_MAX: usize = 8 << 10;

/// The way by which an image was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// It belongs to the namespace.
    Own,
    /// The operator has put it on the node.
    Node,
    /// A registry has shown it to the caller.
    Registry,
}

impl By {
    fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Node => "node",
            Self::Registry => "registry",
        }
    }
}

/// The details of a call. It is cheap to clone; all clones are of the same call.
#[derive(Clone, Debug, Default)]
pub struct Details(Arc<Mutex<Contents>>);

impl Details {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reference that the call asks for: the image's to pull, push, tag, inspect or remove, or a build's tag.
    pub fn reference(&self, reference: impl fmt::Display) {
        self.contents().references.add(json!(bounded(reference)));
    }

    /// The caller that the call asks about, as the request names it.
    pub fn asked_about(&self, caller: &str) {
        self.contents().asked_about = Some(bounded(caller));
    }

    /// The image that gets a new reference.
    pub fn source(&self, source: &str) {
        self.contents().source = Some(bounded(source));
    }

    /// The stage of the Dockerfile that is built, if it is not the last.
    pub fn target(&self, target: &str) {
        if !target.is_empty() {
            self.contents().target = Some(bounded(target));
        }
    }

    /// An image that the call may use.
    pub fn admitted(&self, reference: &Reference, digest: Option<&Digest>, by: By) {
        let mut entry = json!({"reference": bounded(reference), "by": by.as_str()});
        if let (Some(entry), Some(digest)) = (entry.as_object_mut(), digest) {
            entry.insert("digest".to_owned(), json!(digest.to_string()));
        }
        self.contents().admitted.add(entry);
    }

    /// The call's image: its id, and the digest of its manifest if that is known.
    pub fn image(&self, id: impl fmt::Display, digest: Option<impl fmt::Display>) {
        let mut contents = self.contents();
        contents.image = Some(bounded(id));
        contents.digest = digest.map(bounded);
    }

    /// A registry has the call's image now, with this manifest.
    pub fn pushed(&self, reference: &Reference, digest: &Digest) {
        let entry = json!({"reference": bounded(reference), "digest": digest.to_string()});
        let mut contents = self.contents();
        contents.pushed.add(entry);
        contents.digest = Some(digest.to_string());
    }

    /// An image that the client gets as an archive.
    pub fn saved(&self, id: &Digest) {
        self.contents().saved.add(json!(id.to_string()));
    }

    /// A reference that an image has no more.
    pub fn untagged(&self, reference: &Reference) {
        self.contents().untagged.add(json!(bounded(reference)));
    }

    /// An image that the engine has no more.
    pub fn deleted(&self, id: &Digest) {
        self.contents().deleted.add(json!(id.to_string()));
    }

    /// A namespace has ended, with these numbers of images and of cancelled builds.
    pub fn ended(&self, images: usize, builds: u32) {
        self.contents().ended = Some((images as u64, builds));
    }

    /// So many cache mounts of a job that has ended are removed, of this size.
    pub fn retired(&self, mounts: usize, size: i64) {
        self.contents().retired = Some((mounts as u64, u64::try_from(size).unwrap_or_default()));
    }

    /// Adds the details that are known so far.
    pub fn add_to(&self, event: Event) -> Event {
        event.contents(&self.contents())
    }
}

/// A list of bounded length, which counts the entries that it has no room for.
#[derive(Debug, Default)]
struct List {
    entries: Vec<Value>,
    bytes: usize,
    more: usize,
}

impl List {
    fn add(&mut self, entry: Value) {
        if self.entries.contains(&entry) {
            return;
        }
        // As in the line, with a comma.
        let bytes = printable_json(&entry.to_string()).len() + 1;
        // Once one is left out, so are all that follow: the list is the beginning of what happened.
        if self.more == 0 && self.entries.len() < ENTRIES_MAX && self.bytes + bytes <= LIST_BYTES_MAX {
            self.bytes += bytes;
            self.entries.push(entry);
        } else {
            self.more += 1;
        }
    }

    fn value(&self) -> Option<Value> {
        let mut entries = self.entries.clone();
        if self.more > 0 {
            entries.push(json!({"more": self.more}));
        }
        (!entries.is_empty()).then_some(Value::Array(entries))
    }
}

/// The details in the order of their fields.
#[derive(Debug, Default)]
pub(super) struct Contents {
    asked_about: Option<String>,
    source: Option<String>,
    references: List,
    target: Option<String>,
    admitted: List,
    image: Option<String>,
    digest: Option<String>,
    pushed: List,
    saved: List,
    untagged: List,
    deleted: List,
    ended: Option<(u64, u32)>,
    retired: Option<(u64, u64)>,
}

impl Contents {
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'static str, Value)> {
        let text = |text: &Option<String>| text.as_ref().map(|text| json!(text));
        let fields = [
            ("asked_about", text(&self.asked_about)),
            ("source", text(&self.source)),
            ("references", self.references.value()),
            ("target", text(&self.target)),
            ("admitted", self.admitted.value()),
            ("image", text(&self.image)),
            ("digest", text(&self.digest)),
            ("pushed", self.pushed.value()),
            ("saved", self.saved.value()),
            ("untagged", self.untagged.value()),
            ("deleted", self.deleted.value()),
            ("images", self.ended.map(|(images, _)| json!(images))),
            ("cancelled_builds", self.ended.map(|(_, builds)| json!(builds))),
            ("cache_mounts", self.retired.map(|(mounts, _)| json!(mounts))),
            ("cache_mounts_size", self.retired.map(|(_, size)| json!(size))),
        ];
        fields.into_iter().filter_map(|(key, value)| Some((key, value?)))
    }
}
