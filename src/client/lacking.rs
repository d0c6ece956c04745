//! Words of docker's and buildx's command lines that wharf does not support, each with a remedy; clap would
//! only suggest a similar word.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::exit::Failure;

const PLATFORM: &str = "leave it out: an image has one platform, the node's";
const TRUST: &str =
    "leave it out: Wharf checks no signatures; a name with a digest means one image and no other";
const WARNINGS: &str = "leave it out: warnings about the Dockerfile are shown with every build";
const DEBUGGER: &str = "leave it out: it belongs to experiments of buildx";

/// Words, and what to do without them.
type Hint = (&'static [&'static str], &'static str);

/// The flags of each command.
const FLAGS: &[(&str, &[Hint])] = &[
    (
        "build",
        &[
            (
                &["--cache-from", "--cache-to"],
                "leave it out: builds always use the node's own cache, and only that",
            ),
            (
                &["--ssh"],
                "fetch the files into the context before the build, or give a step a key with `--secret`",
            ),
            (&["--build-context"], "copy it into the context, or build it first and name it in FROM"),
            (&["--attest"], "leave it out: images carry no attestations"),
            (&["--annotation"], "use `--label`, which sets labels in the image's config"),
            (&["--builder"], "leave it out: wharfd's engine builds; `--addr` selects another wharfd"),
            (&["--allow"], "leave it out: no step may be privileged or use the node's network"),
            (
                &["--no-cache-filter"],
                "use `--no-cache`, or change an ARG that stands before the steps to run again",
            ),
            (&["--call", "--check", "--print"], WARNINGS),
            (&["--cgroup-parent"], "leave it out: the node's operator sets it for all builds of the engine"),
            (
                &["--resource"],
                "leave it out: a build has no limits of its own but `--ulimit` and `--shm-size`",
            ),
            (&["--policy"], "leave it out: wharfd's policy decides which sources a build may use"),
            (&["--disable-content-trust"], TRUST),
            (&["--stream"], "leave it out: only what has changed in the context is sent"),
            (&["--detach", "--invoke", "--root", "--server-config"], DEBUGGER),
        ],
    ),
    (
        "push",
        &[
            (&["--all-tags", "-a"], "push each tag by its name"),
            (&["--platform"], PLATFORM),
            (&["--disable-content-trust"], TRUST),
        ],
    ),
    (
        "pull",
        &[
            (&["--all-tags", "-a"], "pull each tag by its name"),
            (&["--platform"], PLATFORM),
            (&["--disable-content-trust"], TRUST),
        ],
    ),
    (
        "images",
        &[
            (&["--all", "-a"], "leave it out: all images of the namespace are listed"),
            (&["--digests", "--tree"], "leave it out: `wharf inspect` shows an image's digests"),
            (&["--filter", "-f"], "name a repository: `wharf images NAME`"),
        ],
    ),
    (
        "inspect",
        &[
            (&["--format", "-f"], "leave it out, and pick the value from the JSON, for example with jq"),
            (&["--size", "-s", "--type"], "leave it out: images alone are described, with their sizes"),
        ],
    ),
    ("rmi", &[(&["--no-prune"], "leave it out"), (&["--platform"], PLATFORM)]),
    ("login", &[(&["--password", "-p"], "use `--password-stdin`: others can read a command line")]),
];

/// docker's flags for every command.
const EVERYWHERE: &[Hint] = &[
    (&["--debug", "-D"], "leave it out: `--progress=plain` of a build shows the output of every step"),
    (&["--log-level", "-l"], "leave it out: wharfd's log says more, and the node's operator reads it"),
    (&["--config"], "set DOCKER_CONFIG to the directory"),
    (&["--host", "-H", "--context", "-c"], "use `--addr` or WHARF_ADDR, which name wharfd's address"),
    (&["--tls", "--tlsverify"], "leave it out: wharfd's certificate at `tcp://` is always verified"),
];

/// Commands.
const COMMANDS: &[Hint] = &[
    (
        &["buildx", "builder", "image"],
        "leave the word out: the commands are `wharf build`, `wharf push`, `wharf images` and the like",
    ),
    (&["b"], "write `wharf build`"),
    (&["ls"], "write `wharf images`"),
    (&["rm"], "`wharf rmi` removes images, `wharf namespace rm` everything of a run"),
    (&["bake", "compose"], "call `wharf build` for each image"),
    (
        &["run", "create", "exec", "start", "ps", "logs", "cp"],
        "Wharf runs no containers: a RUN step of a build can",
    ),
    (
        &["load", "export", "import", "commit"],
        "push the image where it is made, and pull it where it is needed",
    ),
    (
        &["manifest", "imagetools"],
        "an image has one platform: a tool that speaks to the registry joins several in an index",
    ),
    (
        &["system", "prune"],
        "`wharf namespace rm` removes all images of the run; the node's operator cleans its cache",
    ),
];

fn hint(table: &[Hint], word: &str) -> Option<String> {
    table.iter().find(|(words, _)| words.contains(&word)).map(|(_, hint)| (*hint).to_owned())
}

/// The advice for a flag or command that Wharf lacks, if the parser's error is about one.
pub(super) fn explained(error: &clap::Error, words: impl IntoIterator<Item = OsString>) -> Option<Failure> {
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    let (text, hint) = match error.kind() {
        ErrorKind::UnknownArgument => {
            let flag = word(ContextKind::InvalidArg)?;
            let command =
                words.into_iter().find_map(|word| FLAGS.iter().find(|(command, _)| word == *command));
            let of_command = command.and_then(|(command, flags)| Some((*command, hint(flags, flag)?)));
            match of_command {
                Some((command, hint)) => (format!("`wharf {command}` has no `{flag}`"), hint),
                None => (format!("wharf has no `{flag}`"), hint(EVERYWHERE, flag)?),
            }
        }
        ErrorKind::InvalidSubcommand => {
            let command = word(ContextKind::InvalidSubcommand)?;
            (format!("there is no `wharf {command}`"), hint(COMMANDS, command)?)
        }
        _ => return None,
    };
    Some(Failure::usage(text).hint(hint))
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
        for (command, flags) in FLAGS {
            for flag in flags.iter().flat_map(|(flags, _)| *flags) {
                for words in [
                    &[command, flag, "x", "."][..],
                    &[command, &format!("{flag}=x"), "."],
                    &[command, "a", flag],
                ] {
                    let failure = explain(words).unwrap_or_else(|| panic!("{words:?}"));
                    assert_eq!(failure.text, format!("`wharf {command}` has no `{flag}`"));
                }
            }
        }
        for flag in EVERYWHERE.iter().flat_map(|(flags, _)| *flags) {
            for words in
                [&[flag, "build", "."][..], &[&format!("{flag}=x"), "push", "a"], &["tag", flag, "a"]]
            {
                let failure = explain(words).unwrap_or_else(|| panic!("{words:?}"));
                assert_eq!(failure.text, format!("wharf has no `{flag}`"));
            }
        }
        let failure = explain(&["--builder", "x", "build", "."]).unwrap();
        assert_eq!(failure.text, "`wharf build` has no `--builder`");
    }

    #[test]
    fn commands_of_dockers_are_explained() {
        for command in COMMANDS.iter().flat_map(|(commands, _)| *commands) {
            for words in [&[*command][..], &[command, "build", "-t", "a", "."]] {
                let failure = explain(words).unwrap_or_else(|| panic!("{words:?}"));
                assert_eq!(failure.text, format!("there is no `wharf {command}`"));
            }
        }
    }

    #[test]
    fn other_mistakes_are_the_parsers() {
        for words in [
            &["build", "--cpus", "2", "."][..],
            &["images", "-o"],
            &["build"],
            &["build", ".", "-t", "A"],
            &["x"],
        ] {
            assert_eq!(explain(words), None, "{words:?}");
        }
    }
}
