//! Limits how many files a graph fetches by URL.
//!
//! BuildKit fetches all of them at once, each on a connection of its own and for as long as the server likes
//! (`source/http`), and compares each source with each rule of the source policy, whatever becomes of the build: 14,000
//! took 76 s of Engine 29's processors, and 3000 at a silent server as many of its sockets.

use std::collections::BTreeSet;

use bollard_buildkit_proto::pb::{Op, op};

use super::{Refusal, refuse};
use crate::build::add::is_http;

/// No real Dockerfile fetches more.
const FETCHES_MAX: usize = 64;

/// The operations of a graph that fetch. There may be several for a URL, each with another checksum.
#[derive(Debug, Default)]
pub(super) struct Fetches(BTreeSet<String>);

impl Fetches {
    /// Adds an operation; `uploaded` is the URL of the build's own tar.
    pub(super) fn add(&mut self, digest: &str, op: &Op, uploaded: Option<&str>) -> Result<(), Refusal> {
        let Some(op::Op::Source(source)) = &op.op else { return Ok(()) };
        let identifier = source.identifier.as_str();
        if !is_http(identifier) || uploaded == Some(identifier) {
            return Ok(());
        }
        self.0.insert(digest.to_owned());
        if self.0.len() > FETCHES_MAX { Err(too_many()) } else { Ok(()) }
    }
}

/// Refuses a build whose passes need too many URLs: `admitted` are those of the earlier ones. A client may send another
/// Dockerfile for each pass, and each URL is two rules of the policy.
pub(super) fn judge(admitted: usize, new: usize) -> Result<(), Refusal> {
    if new > 0 && admitted.saturating_add(new) > FETCHES_MAX { Err(too_many()) } else { Ok(()) }
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
        let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
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
}
