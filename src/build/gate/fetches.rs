//! The files that a graph fetches by URL, and how many they may be.
//!
//! wharfd fetches all of them at once, and BuildKit compares each source with each rule of the source policy, whatever
//! becomes of the build: 14,000 took 76 s of Engine 29's processors.

use std::collections::{BTreeMap, BTreeSet};

use bollard_buildkit_proto::pb::{Op, op};

use super::{Refusal, copies::copies, definition, refuse};
use crate::build::{add::is_http, isolation::CHECKSUM};

/// No real Dockerfile fetches more.
const FETCHES_MAX: usize = 64;

/// The URLs that a graph needs.
pub type Urls = BTreeMap<String, Needed>;

/// What a graph says of a URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needed {
    /// The first line of the Dockerfile that names it, if it is known.
    pub line: Option<u32>,
    /// The checksums that the Dockerfile gives.
    pub checksums: BTreeSet<String>,
    /// Whether it is also fetched without a checksum.
    pub free: bool,
}

impl Needed {
    /// Whether no content but that of this digest is needed.
    pub fn is_only(&self, digest: &str) -> bool {
        !self.free && self.checksums.iter().all(|checksum| checksum == digest)
    }

    /// Whether content of this digest is of no use.
    pub fn is_none_of(&self, digest: &str) -> bool {
        !self.free && !self.checksums.is_empty() && !self.checksums.contains(digest)
    }
}

/// The operations of a graph that fetch, by their digests. There may be several for a URL, each with another checksum.
#[derive(Debug, Default)]
pub(super) struct Fetching {
    operations: BTreeMap<String, String>,
    urls: Urls,
}

impl Fetching {
    /// Adds an operation, whose inputs were added earlier; `uploaded` is the URL of the build's own tar. `line` returns
    /// the operation's line of the Dockerfile: that of a copy, since BuildKit gives a source none.
    pub(super) fn add(
        &mut self,
        digest: &str,
        op: &Op,
        uploaded: Option<&str>,
        line: &dyn Fn() -> Option<u32>,
    ) -> Result<(), Refusal> {
        for (_, from) in copies(op) {
            if let Some(url) = from.and_then(|from| self.operations.get(from))
                && let Some(needed) = self.urls.get_mut(url)
                && needed.line.is_none()
            {
                needed.line = line();
            }
        }
        let Some(op::Op::Source(source)) = &op.op else { return Ok(()) };
        let identifier = source.identifier.as_str();
        if !is_http(identifier) || uploaded == Some(identifier) {
            return Ok(());
        }
        let needed = self.urls.entry(identifier.to_owned()).or_default();
        match source.attrs.get(CHECKSUM) {
            Some(checksum) => drop(needed.checksums.insert(checksum.clone())),
            None => needed.free = true,
        }
        self.operations.insert(digest.to_owned(), identifier.to_owned());
        if self.operations.len() > FETCHES_MAX { Err(too_many()) } else { Ok(()) }
    }

    /// The URLs that have not been admitted; `admitted` are those of the earlier passes. Refuses a build whose passes need
    /// too many: a client may send another Dockerfile for each pass, and each URL is a rule of the policy.
    pub(super) fn new_urls(
        self,
        admitted: &definition::Fetches,
        uploaded: Option<&str>,
    ) -> Result<Urls, Refusal> {
        let mut new = self.urls;
        new.retain(|url, _| !admitted.contains_key(url));
        let earlier = admitted.keys().filter(|url| uploaded != Some(url.as_str())).count();
        let too_many_now = !new.is_empty() && earlier.saturating_add(new.len()) > FETCHES_MAX;
        if too_many_now { Err(too_many()) } else { Ok(new) }
    }
}

/// BuildKit gives the operation no line of the Dockerfile.
fn too_many() -> Refusal {
    refuse(format!("it fetches more than {FETCHES_MAX} files by `ADD` of a URL: fetch them in a `RUN`"))
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::pb::SourceOp;

    use super::{
        super::tests::{judge, op},
        *,
    };

    fn fetch(url: &str, attrs: &[(&str, String)]) -> Op {
        let mut attrs: BTreeMap<String, String> =
            attrs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        attrs.entry("http.filename".to_owned()).or_insert("f".to_owned());
        let attrs = attrs.into_iter().collect();
        op(op::Op::Source(SourceOp { identifier: url.to_owned(), attrs }))
    }

    #[test]
    fn a_graph_fetches_few_files() {
        // Of one admitted URL, each with another checksum or name.
        for attribute in ["http.checksum", "http.filename"] {
            let of = |number: usize| fetch("https://admitted.example/f", &[(attribute, number.to_string())]);
            let mut ops: Vec<_> = (0..FETCHES_MAX).map(of).collect();
            // The tar is the client's, and an operation that appears twice counts once.
            ops.extend([of(0), fetch("http://buildkit-session/t", &[])]);
            assert!(judge(&ops).is_ok());
            ops.push(of(FETCHES_MAX));
            assert!(matches!(judge(&ops), Err(Refusal::Refused(_))), "{attribute}");
        }
    }

    #[test]
    fn too_many_urls_are_refused_before_any_is_looked_up() {
        let of = |number: usize| fetch(&format!("https://other.example/{number}"), &[]);
        // One is admitted.
        let some: Vec<_> = (1..FETCHES_MAX).map(of).collect();
        assert!(matches!(judge(&some), Err(Refusal::NeedsUrls(urls)) if urls.len() == FETCHES_MAX - 1));
        let many: Vec<_> = (1..=FETCHES_MAX).map(of).collect();
        let Err(Refusal::Refused(why)) = judge(&many) else { panic!("they are looked up") };
        assert!(why.text().contains("fetches more than 64 files"), "{why}");
    }

    #[test]
    fn what_a_graph_says_of_a_url_is_told_with_it() {
        let url = "https://other.example/f";
        let free = fetch(url, &[]);
        let pinned = |checksum: &str| fetch(url, &[("http.checksum", checksum.to_owned())]);
        let needed = |ops: &[Op]| match judge(ops) {
            Err(Refusal::NeedsUrls(mut urls)) => urls.remove(url).unwrap(),
            other => panic!("{other:?}"),
        };
        let one = needed(&[pinned("sha256:a")]);
        assert!(one.is_only("sha256:a") && !one.is_only("sha256:b"));
        assert!(one.is_none_of("sha256:b") && !one.is_none_of("sha256:a"));
        let two = needed(&[pinned("sha256:a"), pinned("sha256:b")]);
        assert!(!two.is_only("sha256:a") && !two.is_none_of("sha256:b") && two.is_none_of("sha256:c"));
        let any = needed(&[pinned("sha256:a"), free]);
        assert!(!any.is_only("sha256:a") && !any.is_none_of("sha256:c"));
    }
}
