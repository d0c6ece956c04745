//! Flags of `docker buildx build` that wharf has not: who types one is told what to do instead, where the
//! parser could only guess at a flag of ours.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::exit::Failure;

/// Flags, and what to do without them.
const FLAGS: &[(&[&str], &str)] = &[
    (&["--cache-from", "--cache-to"], "leave it away: the node's own cache is always used, and no other"),
    (&["--output", "-o"], "leave it away: the image stays on the node, and `--push` pushes it"),
    (&["--ssh"], "fetch what the build needs into its context, or give a step its key by `--secret`"),
    (&["--build-context"], "put it into the context, or build it first and name it in FROM"),
    (&["--provenance", "--sbom", "--attest"], "leave it away: images carry no attestations"),
    (&["--annotation"], "use `--label`, whose labels are in the image's config"),
    (&["--builder"], "leave it away: wharfd's engine builds, and --addr names another wharfd"),
    (&["--allow"], "leave it away: no step is privileged, or has the node's network"),
    (
        &["--no-cache-filter"],
        "use `--no-cache`, or an ARG that changes, before the steps that are to run again",
    ),
    (&["--call", "--check"], "leave it away: warnings about the Dockerfile are shown with every build"),
    (
        &["--rm", "--force-rm", "--compress", "--squash", "--isolation", "--security-opt", "--memory", "-m"],
        "leave it away: the builder that had it is gone, and BuildKit has not",
    ),
];

/// What is said about a flag of buildx's, if that is what the parser has stumbled over.
pub(super) fn explained(error: &clap::Error, words: impl IntoIterator<Item = String>) -> Option<Failure> {
    if error.kind() != ErrorKind::UnknownArgument || !words.into_iter().any(|word| word == "build") {
        return None;
    }
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
    let (_, hint) = FLAGS.iter().find(|(flags, _)| flags.contains(&flag.as_str()))?;
    Some(Failure::usage(format!("`wharf build` has no `{flag}`")).hint(*hint))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::client::args::Cli;

    fn explain(words: &[&str]) -> Option<Failure> {
        let words = ["wharf"].iter().chain(words).map(|word| (*word).to_owned());
        explained(&Cli::try_parse_from(words.clone()).unwrap_err(), words)
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
