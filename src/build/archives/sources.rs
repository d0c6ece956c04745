//! The files that a graph's copies may unpack.

use sha2::{Digest as _, Sha256};

use super::{Limits, clean};
use crate::names::reference::Digest;

/// Counts up with each change of what an archive may do: the files of an older wharfd were judged by older rules.
const RULES: u32 = 2;

/// The sources of a build's copies that unpack, in its context, and what these archives may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Patterns, by their names, in order. Several copies may have the same.
    patterns: Vec<Vec<String>>,
    limits: Limits,
}

impl Unpacked {
    /// The sources of copies that unpack, on an engine that may unpack Zstandard; `None` if none of them can be a file.
    pub fn of<'a>(sources: impl IntoIterator<Item = &'a str>, zstd: bool) -> Option<Self> {
        let names = |path: &str| clean(path.split('/')).into_iter().map(joined).collect();
        let mut patterns: Vec<Vec<_>> =
            sources.into_iter().map(names).filter(|names: &Vec<_>| !names.is_empty()).collect();
        patterns.sort_unstable();
        let limits = Limits::of(patterns.len(), zstd);
        (!patterns.is_empty()).then_some(Self { patterns, limits })
    }

    /// The limits on each archive.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Distinguishes trees that were judged for other sources, or by other limits. BuildKit asks only for
    /// files that it does not have from an earlier sync: only those of a sync that was judged in the same way
    /// count as judged.
    pub fn key(&self) -> String {
        let mut hash = Sha256::new();
        let Limits { window, blocks, headers, steps, zstd } = self.limits;
        hash.update(format!("{RULES} {window} {blocks} {headers} {steps} {zstd}\n"));
        for pattern in &self.patterns {
            hash.update(pattern.join("/"));
            hash.update([0]);
        }
        Digest::from_sha256(hash.finalize().into()).as_str().replace(':', "-")
    }

    /// The number of copies.
    pub fn all(&self) -> usize {
        self.patterns.len()
    }

    /// How many copies may unpack the file at this path.
    pub fn copies(&self, path: &str) -> usize {
        let path: Vec<&str> = path.split('/').collect();
        self.patterns.iter().filter(|pattern| unpacks(pattern, &path)).count()
    }

    /// Whether a copy may unpack the file at this path.
    pub fn contains(&self, path: &str) -> bool {
        let path: Vec<&str> = path.split('/').collect();
        self.patterns.iter().any(|pattern| unpacks(pattern, &path))
    }

    /// Whether a copy may find its file by way of this path.
    pub fn leads(&self, path: &str) -> bool {
        let path: Vec<&str> = path.split('/').collect();
        self.patterns.iter().any(|pattern| is_wild(pattern) || fits(pattern, &path))
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

/// Whether the pattern has classes, whose match may contain a `/` (`filepath.Match`), or escapes.
fn is_wild(pattern: &[String]) -> bool {
    pattern.iter().any(|name| name.contains(WILD))
}

/// Whether a copy with this pattern may unpack the file at this path.
fn unpacks(pattern: &[String], path: &[&str]) -> bool {
    is_wild(pattern) || fits(pattern, path) && pattern.len() == path.len()
}

/// Whether the path's names fit the pattern's first ones.
fn fits(pattern: &[String], path: &[&str]) -> bool {
    path.len() <= pattern.len() && pattern.iter().zip(path).all(|(pattern, name)| fits_name(pattern, name))
}

/// Whether a name fits.
fn fits_name(pattern: &str, name: &str) -> bool {
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
