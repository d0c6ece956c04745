//! The state of a directory. It differs whenever a file may have other content with the same size and time.
//!
//! BuildKit's receiver does not request a file with the size and the time of the file that it has. The kernel
//! sets a file's change time whenever something sets its modification time (`touch -d`, `tar -x`, `cp -p`),
//! so a file whose two times are the same has the time at which it was written. The other files could have
//! any content: their paths, inodes and change times are the state, and a sync is compared only with syncs of
//! the same state.

use std::{
    collections::HashMap,
    fs::{self, DirEntry, FileType, Metadata},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    panic::resume_unwind,
    path::Path,
    thread::{self, ScopedJoinHandle},
    time::Instant,
};

use sha2::{Digest as _, Sha256};

use super::{
    Filter,
    listing::{Child, Listings, Room},
    patterns::Matched,
};
use crate::{names::reference::Digest, wire::v1::FileSync};

/// How far the two times of a file may be apart: a linker sets the mode of the file that it has just written.
/// In less time nobody builds from a file and writes it again.
const APART_NS: i128 = 100_000_000;

/// How many threads look at a directory. The kernel's part of it is most of the time.
const THREADS: usize = 4;
/// A thread for fewer directories costs more than it saves.
const DIRECTORIES_MIN: usize = 8;

/// The state of the directory `root`, unique to that directory, without the files that the ignore file
/// `rules` excludes; and the listings read for it.
pub(super) fn of_directory(root: &Path, rules: &[u8]) -> (String, Listings) {
    let (begun, room) = (Instant::now(), Room::new());
    let request = FileSync { exclude_patterns: patterns(rules), ..FileSync::default() };
    // A pattern that cannot be used ends the build.
    let filter = Filter::new(&request, None).unwrap_or_default();
    let (mut claimed, mut listed) = (Vec::new(), HashMap::new());
    let mut level = vec![(String::new(), Matched::default())];
    while !level.is_empty() {
        let part = level.len().div_ceil(THREADS).max(DIRECTORIES_MIN);
        let seen = thread::scope(|scope| {
            let mut parts = level.chunks(part);
            let own = parts.next().unwrap_or_default();
            let others: Vec<_> = parts.map(|part| scope.spawn(|| look(root, &filter, &room, part))).collect();
            let mut seen = vec![look(root, &filter, &room, own)];
            let join = |other: ScopedJoinHandle<_>| other.join().unwrap_or_else(|panic| resume_unwind(panic));
            seen.extend(others.into_iter().map(join));
            seen
        });
        level.clear();
        for Seen { files, directories, listings } in seen {
            claimed.extend(files);
            level.extend(directories);
            listed.extend(listings);
        }
    }
    claimed.sort_unstable();
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(root.as_os_str().as_bytes());
    for (path, inode, seconds, nanoseconds) in claimed {
        part(path.as_bytes());
        part(&inode.to_be_bytes());
        part(&seconds.to_be_bytes());
        part(&nanoseconds.to_be_bytes());
    }
    let digest = Digest::from_sha256(hash.finalize().into());
    (digest.as_str().trim_start_matches("sha256:").to_owned(), Listings::new(begun, listed))
}

/// The entries of some directories.
#[derive(Default)]
struct Seen {
    /// The files whose time is claimed: path, inode, change time in seconds and nanoseconds.
    files: Vec<(String, u64, i64, i64)>,
    /// The directories, each with the patterns that match above it.
    directories: Vec<(String, Matched)>,
    /// The listings for which there is room.
    listings: Vec<(String, Vec<Child>)>,
}

/// Looks at the entries of some directories.
fn look(root: &Path, filter: &Filter, room: &Room, directories: &[(String, Matched)]) -> Seen {
    let mut seen = Seen::default();
    for (directory, above) in directories {
        // The sync says what cannot be read, where it matters.
        let Ok(children) = fs::read_dir(root.join(directory)) else { continue };
        let (mut listing, mut is_whole) = (Vec::new(), true);
        for child in children {
            let Some((kind, child)) = child.ok().and_then(|child| Some((child.file_type().ok()?, child)))
            else {
                is_whole = false;
                continue;
            };
            let metadata = seen.entry(filter, (directory, above), &child, kind);
            listing.push(Child { name: child.file_name(), is_dir: kind.is_dir(), metadata });
        }
        if is_whole && room.take(listing.len()) {
            seen.listings.push((directory.clone(), listing));
        }
    }
    seen
}

impl Seen {
    /// Looks at an entry of a directory, with the patterns that match above it. Returns what it reads of a file.
    fn entry(
        &mut self,
        filter: &Filter,
        (directory, above): (&str, &Matched),
        child: &DirEntry,
        kind: FileType,
    ) -> Option<Metadata> {
        if !(kind.is_dir() || kind.is_file()) {
            return None;
        }
        let name = child.file_name();
        let name = name.to_string_lossy();
        let path = if directory.is_empty() { name.into_owned() } else { format!("{directory}/{name}") };
        let verdict = filter.judge(&path, kind.is_dir(), &Matched::default(), above).ok()??;
        if kind.is_dir() {
            self.directories.push((path, verdict.exclude));
            return None;
        }
        let metadata = verdict.wanted.then(|| child.metadata().ok())??;
        if is_claimed(&metadata) {
            self.files.push((path, metadata.ino(), metadata.ctime(), metadata.ctime_nsec()));
        }
        Some(metadata)
    }
}

/// Whether a file's time need not be the one at which it was written.
fn is_claimed(metadata: &Metadata) -> bool {
    let time = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    let changed = time(metadata.ctime(), metadata.ctime_nsec());
    (changed - time(metadata.mtime(), metadata.mtime_nsec())).abs() > APART_NS
}

/// The patterns of an ignore file, as BuildKit reads it (patternmatcher, `ignorefile.ReadAll`).
fn patterns(rules: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(rules);
    let lines = text.strip_prefix('\u{feff}').unwrap_or(&text).lines();
    let patterns = lines.filter(|line| !line.starts_with('#')).map(str::trim).filter(|line| !line.is_empty());
    let rooted = patterns.map(|pattern| match pattern.strip_prefix('!') {
        Some(rest) => format!("!{}", unrooted(rest.trim())),
        None => unrooted(pattern).to_owned(),
    });
    rooted.filter(|pattern| !pattern.is_empty() && pattern != "!").collect()
}

fn unrooted(pattern: &str) -> &str {
    if pattern.len() > 1 { pattern.trim_start_matches('/') } else { pattern }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        path::PathBuf,
        time::{Duration, SystemTime},
    };

    use super::*;
    use crate::client::sync::tests::Scratch;

    /// A directory with `d/ignored` in it.
    struct Context(Scratch);

    impl Context {
        fn new() -> Self {
            let scratch = Scratch::new();
            fs::create_dir_all(scratch.path().join("d/ignored")).unwrap();
            Self(scratch)
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        /// Writes a file, with a time long ago if it is `old`.
        fn write(&self, name: &str, content: &str, old: bool) {
            fs::write(self.at(name), content).unwrap();
            if old {
                let file = File::options().write(true).open(self.at(name)).unwrap();
                file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)).unwrap();
            }
        }

        fn state(&self) -> String {
            of_directory(self.0.path(), b"\xef\xbb\xbf# a word\n /d/ignored/ \n*.log\n! /d/kept.log\n").0
        }
    }

    #[test]
    fn it_changes_with_files_whose_time_is_claimed() {
        let context = Context::new();
        let mut states = vec![context.state()];
        let mut becomes_another = |what: &str| {
            // The kernel's clock is coarse: as two builds are, two states are some milliseconds apart.
            std::thread::sleep(Duration::from_millis(20));
            let state = context.state();
            assert_eq!(context.state(), state, "it is read twice");
            assert!(!states.contains(&state), "{what}");
            states.push(state);
        };
        context.write("d/old", "one", true);
        becomes_another("a file with a time of long ago");
        context.write("d/old", "two", true);
        becomes_another("rewritten in place");
        fs::remove_file(context.at("d/old")).unwrap();
        context.write("d/old", "six", true);
        becomes_another("made anew");
        fs::rename(context.at("d/old"), context.at("other")).unwrap();
        becomes_another("renamed");
        context.write("d/kept.log", "", true);
        becomes_another("not ignored");
        assert_ne!(Context::new().state(), Context::new().state(), "two directories");
    }

    #[test]
    fn it_stays_with_files_that_were_just_written_or_are_ignored() {
        let context = Context::new();
        let state = context.state();
        for (name, old) in [("new", false), ("d/new", false), ("d/ignored/x", true), ("a.log", true)] {
            context.write(name, "one", old);
            assert_eq!(context.state(), state, "{name}");
            context.write(name, "two", old);
            assert_eq!(context.state(), state, "{name}");
        }
        std::os::unix::fs::symlink("/", context.at("link")).unwrap();
        assert_eq!(context.state(), state, "a link has no content");
    }
}
