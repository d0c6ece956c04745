//! `wharf completion` and `wharf man`, generated from the definition of the command line.

use clap_complete::Shell;

use crate::client::{
    args::{Cli, CompletionArgs, ManArgs},
    exit::{Exit, Failure, Stop},
    print,
};

pub(super) fn completion(args: &CompletionArgs) -> Result<(), Stop> {
    print::text(&completions(args.shell))
}

fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::definition(), "wharf", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

pub(super) fn man(args: &ManArgs) -> Result<(), Stop> {
    clap_mangen::generate_to(Cli::definition(), &args.directory).map_err(|error| {
        let text = format!("cannot write man pages to {}: {error}", args.directory.display());
        Failure::new(Exit::Failed, text).hint("name an existing, writable directory").into()
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::ValueEnum as _;

    use super::*;
    use crate::client::sync::tests::Scratch;

    #[test]
    fn every_shell_completes_every_command() {
        for shell in Shell::value_variants() {
            let script = completions(*shell);
            for word in ["build", "namespace", "build-arg", "no-cache"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }

    #[test]
    fn every_command_has_a_page() {
        let dir = Scratch::new();
        man(&ManArgs { directory: dir.path().to_owned() }).unwrap();
        let mut pages: Vec<String> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        pages.sort_unstable();
        assert!(pages.contains(&"wharf-namespace-rm.1".to_owned()), "{pages:?}");
        let text = |page: &str| fs::read_to_string(dir.path().join(page)).unwrap();
        assert!(text("wharf.1").contains("WHARF_ADDR") && text("wharf.1").contains("Exit status"));
        assert!(text("wharf-build.1").contains("\\-\\-build\\-arg"));
        assert!(pages.contains(&"wharf-login.1".to_owned()), "{pages:?}");
        assert!(!pages.iter().any(|page| page.contains("help")), "{pages:?}");
        let absent = ManArgs { directory: dir.path().join("absent") };
        assert!(matches!(man(&absent), Err(Stop::Failed(failure)) if failure.text.contains("/absent")));
    }
}
