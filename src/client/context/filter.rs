//! Decides for each entry of a directory whether it is sent to the build, by the patterns of one request.

use std::path::Path;

use super::{
    Error, links,
    patterns::{Matched, Patterns},
};
use crate::wire::v1::FileSync;

/// The filter of one request.
#[derive(Debug, Default)]
pub struct Filter {
    include: Option<Patterns>,
    exclude: Option<Patterns>,
}

/// The decision on an entry that is not skipped together with its content.
pub(crate) struct Verdict {
    /// Whether to send the entry. An unwanted directory may contain wanted entries.
    pub(crate) wanted: bool,
    pub(crate) include: Matched,
    pub(crate) exclude: Matched,
}

impl Filter {
    /// Reads the patterns of `request`, and resolves its follow paths under `root`, if there is one.
    ///
    /// # Errors
    /// When a pattern is malformed or a directory on the way to a path cannot be read.
    pub fn new(request: &FileSync, root: Option<&Path>) -> Result<Self, Error> {
        let mut include = request.include_patterns.clone();
        if !request.follow_paths.is_empty() {
            let targets = match root {
                Some(root) => links::follow(root, &request.follow_paths)?,
                None => request.follow_paths.clone(),
            };
            if !targets.is_empty() {
                include.extend(targets);
                include = links::outermost(include);
            }
        }
        let read = |lines: &[String]| {
            let patterns = (!lines.is_empty()).then(|| Patterns::new(lines)).transpose();
            patterns.map_err(Error::Pattern)
        };
        Ok(Self { include: read(&include)?, exclude: read(&request.exclude_patterns)? })
    }

    /// Judges an entry; `None` skips it and everything in it.
    pub(crate) fn judge(
        &self,
        path: &str,
        is_dir: bool,
        include: &Matched,
        exclude: &Matched,
    ) -> Result<Option<Verdict>, Error> {
        let mut verdict = Verdict { wanted: true, include: Matched::default(), exclude: Matched::default() };
        if let Some(patterns) = &self.include {
            let (matched, below) = patterns.matches(path, include).map_err(Error::Pattern)?;
            if !matched {
                if is_dir && !patterns.may_match_inside(path, false) {
                    return Ok(None);
                }
                verdict.wanted = false;
            }
            verdict.include = below;
        }
        // Match even an unwanted file: an invalid pattern is an error regardless of the order.
        if let Some(patterns) = &self.exclude {
            let (matched, below) = patterns.matches(path, exclude).map_err(Error::Pattern)?;
            if matched {
                if is_dir && !patterns.may_match_inside(path, true) {
                    return Ok(None);
                }
                verdict.wanted = false;
            }
            verdict.exclude = below;
        }
        Ok((verdict.wanted || is_dir).then_some(verdict))
    }
}
