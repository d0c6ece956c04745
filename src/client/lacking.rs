//! Flags of `docker buildx build` that wharf does not support, each with what to do instead; clap would
//! only suggest a similar flag.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::exit::Failure;

/// The flags, and what to do without them.
const FLAGS: &[(&[&str], &str)] = &[
    (&["--cache-from", "--cache-to"], "leave it out: the node's own cache is always used, and no other"),
    (&["--output", "-o"], "leave it out: the image stays on the node, and `--push` pushes it"),
    (&["--ssh"], "fetch the files into the context before the build, or give a step a key with `--secret`"),
    (&["--build-context"], "copy it into the context, or build it first and name it in FROM"),
    (&["--attest"], "leave it out: images carry no attestations"),
    (&["--annotation"], "use `--label`, which sets labels in the image's config"),
    (&["--builder"], "leave it out: wharfd's engine builds; `--addr` selects another wharfd"),
    (&["--allow"], "leave it out: no step may be privileged or use the node's network"),
    (&["--no-cache-filter"], "use `--no-cache`, or change an ARG that stands before the steps to run again"),
    (&["--call", "--check"], "leave it out: warnings about the Dockerfile are shown with every build"),
];

/// What to do without the flag, if the parser's error is about one of these.
pub(super) fn explained(error: &clap::Error, words: impl IntoIterator<Item = OsString>) -> Option<Failure> {
    if error.kind() != ErrorKind::UnknownArgument || !words.into_iter().any(|word| word == "build") {
        return None;
    }
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
    let (_, hint) = FLAGS.iter().find(|(flags, _)| flags.contains(&flag.as_str()))?;
    Some(Failure::usage(format!("`wharf build` has no `{flag}`")).hint(*hint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::args::Cli;

    fn explain(words: &[&str]) -> Option<Failure> {
        let words = ["wharf"].iter().chain(words).map(OsString::from);
        explained(&Cli::read(words.clone()).unwrap_err(), words)
    }

    #[test]
    fn every_flag_is_explained_however_it_is_written() {
        for flag in FLAGS.iter().flat_map(|(flags, _)| *flags) {
            for words in
                [&["build", flag, "x", "."][..], &["build", &format!("{flag}=x"), "."], &["build", ".", flag]]
            {
                let failure = explain(words).unwrap_or_else(|| panic!("{words:?}"));
                assert_eq!(failure.text, format!("`wharf build` has no `{flag}`"));
            }
        }
    }

    #[test]
    fn other_mistakes_are_the_parsers() {
        for words in
            [&["build", "--cpus", "2", "."][..], &["images", "-o"], &["build"], &["build", ".", "-t", "A"]]
        {
            assert_eq!(explain(words), None, "{words:?}");
        }
    }
}
