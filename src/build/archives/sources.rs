//! The files that a graph's copies may unpack.

use sha2::{Digest as _, Sha256};

use super::{ArchiveLimits, clean};
use crate::names::reference::Digest;

/// The sources of a build's copies that unpack, in its context, and what these archives may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// In order. Several copies may have the same.
    patterns: Vec<Pattern>,
    limits: ArchiveLimits,
}

impl Unpacked {
    /// The sources of copies that unpack, on an engine that may unpack Zstandard; `None` if none of them can be a file.
    pub fn of<'a>(sources: impl IntoIterator<Item = &'a str>, zstd: bool) -> Option<Self> {
        let patterns = sources.into_iter().map(Pattern::of).filter(|pattern| !pattern.names.is_empty());
        let mut patterns: Vec<_> = patterns.collect();
        patterns.sort_unstable();
        let limits = ArchiveLimits::of(patterns.len(), zstd);
        (!patterns.is_empty()).then_some(Self { patterns, limits })
    }

    /// The limits on each archive.
    pub fn limits(&self) -> ArchiveLimits {
        self.limits
    }

    /// Distinguishes trees that were judged for other sources, or by other limits. BuildKit asks only for
    /// files that it does not have from an earlier sync: only those of a sync that was judged in the same way
    /// count as judged.
    pub fn key(&self) -> String {
        let mut hash = Sha256::new();
        let ArchiveLimits { window, blocks, headers, steps, zstd } = self.limits;
        hash.update(format!("{window} {blocks} {headers} {steps} {zstd}\n"));
        for pattern in &self.patterns {
            hash.update(pattern.names.join("/"));
            hash.update([0]);
        }
        Digest::from_sha256(hash.finalize().into()).to_string()
    }

    /// The number of copies.
    pub fn all(&self) -> usize {
        self.patterns.len()
    }

    /// How many copies may unpack the file at this path.
    pub fn copies(&self, path: &str) -> usize {
        let path: Vec<&str> = path.split('/').collect();
        self.patterns.iter().filter(|pattern| pattern.unpacks(&path)).count()
    }

    /// Whether a copy may unpack the file at this path.
    pub fn contains(&self, path: &str) -> bool {
        let path: Vec<&str> = path.split('/').collect();
        self.patterns.iter().any(|pattern| pattern.unpacks(&path))
    }

    /// Whether a copy may find its file by way of a link at this path.
    pub fn leads(&self, path: &str) -> bool {
        let path: Vec<&str> = path.split('/').collect();
        self.patterns.iter().any(|pattern| pattern.unpacks(&path) || pattern.is_way(&path))
    }
}

/// The source of a copy that unpacks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pattern {
    names: Vec<String>,
    /// How many of the first names have no wildcards. BuildKit follows links in these, and in what it has found; between
    /// them it looks into directories alone (fsutil, `ResolveWildcards`).
    literal: usize,
    /// Whether it has classes, whose match may contain a `/` (`filepath.Match`), or escapes.
    is_wild: bool,
}

impl Pattern {
    fn of(source: &str) -> Self {
        let names: Vec<_> = clean(source.split('/')).into_iter().map(joined).collect();
        let has = |wild: &[char]| names.iter().position(|name| name.contains(wild));
        let literal = has(&['*', '[', '\\']).unwrap_or(names.len());
        let is_wild = has(&WILD).is_some();
        Self { names, literal, is_wild }
    }

    /// Whether a copy with it may unpack the file at this path.
    fn unpacks(&self, path: &[&str]) -> bool {
        let (names, literal) = (&self.names, self.literal);
        if self.is_wild {
            return path.len() > literal && names.iter().zip(path).take(literal).all(|(name, of)| name == of);
        }
        path.len() == names.len() && names.iter().zip(path).all(|(name, of)| fits(name, of))
    }

    /// Whether a link at this path would be followed on the way to the files.
    fn is_way(&self, path: &[&str]) -> bool {
        path.len() <= self.literal && self.names.iter().zip(path).all(|(name, of)| name == of)
    }
}

/// The beginnings of classes and of escapes.
const WILD: [char; 2] = ['[', '\\'];

/// How many parts a name of a pattern has at most.
const PARTS_MAX: usize = 8;

/// A name of a pattern, with a single `*` for each run of `*` and `?`: a pattern may have thousands of them, and is compared
/// with each file of a context.
fn joined(name: &str) -> String {
    let mut joined = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '*' | '?' if joined.ends_with('*') => {}
            '*' | '?' => joined.push('*'),
            c => joined.push(c),
        }
    }
    // What is left out must not hide a class.
    if !joined.contains(WILD)
        && joined.split('*').count() > PARTS_MAX
        && let Some((first, rest)) = joined.split_once('*')
        && let Some((_, last)) = rest.rsplit_once('*')
    {
        // What fits the pattern fits this, too.
        return format!("{first}*{last}");
    }
    joined
}

/// Whether a name fits one of a pattern.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}
