//! The files that a graph's copies may unpack.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use sha2::{Digest as _, Sha256};

use super::{ArchiveLimits, clean};
use crate::names::reference::Digest;

/// The sources of a build's copies that unpack, in its context, and what these archives may do. It is asked about each
/// entry of a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// The sources without wildcards, and how many copies have each.
    files: BTreeMap<String, usize>,
    /// Those with wildcards, which the gate lets be few (`gate/unpack`), and how many copies have each.
    wild: BTreeMap<Pattern, usize>,
    /// The beginning of each source, up to its first name with wildcards.
    ways: BTreeSet<String>,
    copies: usize,
    limits: ArchiveLimits,
}

impl Unpacked {
    /// The sources of copies that unpack, on an engine that may unpack Zstandard; `None` if none of them can be a file.
    pub fn of<'a>(sources: impl IntoIterator<Item = &'a str>, zstd: bool) -> Option<Self> {
        let (mut files, mut wild, mut ways) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let mut copies = 0;
        for pattern in sources.into_iter().map(Pattern::of).filter(|pattern| !pattern.names.is_empty()) {
            copies += 1;
            let way = pattern.names.get(..pattern.literal).unwrap_or_default().join("/");
            match pattern.literal < pattern.names.len() {
                true => *wild.entry(pattern).or_default() += 1,
                false => *files.entry(way.clone()).or_default() += 1,
            }
            if !way.is_empty() {
                ways.insert(way);
            }
        }
        (copies > 0).then(|| Self { files, wild, ways, copies, limits: ArchiveLimits::of(copies, zstd) })
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
        let files = self.files.iter().map(|(path, copies)| (path.clone(), copies));
        let wild = self.wild.iter().map(|(pattern, copies)| (pattern.names.join("/"), copies));
        for (source, copies) in files.chain(wild) {
            hash.update(format!("{copies} {} {source}\n", source.len()));
        }
        Digest::from_sha256(hash.finalize().into()).to_string()
    }

    /// The number of copies.
    pub fn all(&self) -> usize {
        self.copies
    }

    /// How many copies may unpack the file at this path.
    pub fn copies(&self, path: &str) -> usize {
        let files = self.files.get(path).copied().unwrap_or_default();
        if self.wild.is_empty() {
            return files;
        }
        let path: Vec<&str> = path.split('/').collect();
        let fitting = self.wild.iter().filter(|(pattern, _)| pattern.unpacks(&path));
        files + fitting.map(|(_, copies)| copies).sum::<usize>()
    }

    /// Whether a copy may unpack the file at this path.
    pub fn contains(&self, path: &str) -> bool {
        self.copies(path) > 0
    }

    /// Whether a copy may find its file by way of a link at this path.
    pub fn leads(&self, path: &str) -> bool {
        self.is_way(path) || self.contains(path)
    }

    /// Whether a link at this path would be followed on the way to the files.
    fn is_way(&self, path: &str) -> bool {
        let inside = format!("{path}/");
        let mut behind = self.ways.range::<str, _>((Bound::Included(inside.as_str()), Bound::Unbounded));
        self.ways.contains(path) || behind.next().is_some_and(|way| way.starts_with(&inside))
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
        // The last name is most often another.
        path.len() == names.len() && names.iter().zip(path).rev().all(|(name, of)| fits(name, of))
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
