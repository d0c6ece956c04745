//! Tests of command lines, and the page that is generated from them.

mod steps;

use std::{env, fmt::Write as _, fs, path::Path};

use super::*;

fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
    Cli::read(std::iter::once("wharf").chain(words.iter().copied()))
}

#[test]
fn the_definition_is_sound() {
    Cli::definition().debug_assert();
}

#[test]
fn global_flags_stand_before_and_after_the_command() {
    for words in [
        &["--namespace", "a#1", "build", "."][..],
        &["build", ".", "--namespace=a#1"],
        &["namespace", "rm", "--namespace", "a#1"],
    ] {
        assert_eq!(parse(words).unwrap().global.namespace.as_deref(), Some("a#1"));
    }
}

#[test]
fn a_build_has_dockers_flags() {
    let words = [
        "build",
        "-t",
        "app:1",
        "--tag=b",
        "-f",
        "d/Dockerfile",
        "--build-arg",
        "A=1",
        "--build-arg",
        "B",
        "--label",
        "l=v",
        "--no-cache",
        "--pull",
        "--push",
        "--load",
        "-q",
        "--iidfile",
        "i",
        "--metadata-file",
        "m",
        "--progress=plain",
        "--add-host",
        "h:1.2.3.4",
        "--network=none",
        "--shm-size",
        "64m",
        "--ulimit",
        "nofile=1:2",
        "--secret",
        "id=s,env=S",
        "--target",
        "t",
        "--platform",
        "linux/amd64",
        "--",
        "-dir",
    ];
    let Command::Build(args) = parse(&words).unwrap().command else { panic!("not a build") };
    assert_eq!(args.context, PathBuf::from("-dir"));
    assert_eq!(args.tags.len(), 2);
    assert_eq!(args.shm_size, Some(64 << 20));
    assert!(args.push && args.quiet && args.no_cache);
}

fn build_of(words: &[&str]) -> BuildArgs {
    let words: Vec<&str> = [&["build", "."], words].concat();
    let Command::Build(args) = parse(&words).unwrap_or_else(|error| panic!("{words:?}: {error}")).command
    else {
        panic!("not a build")
    };
    *args
}

#[test]
fn flags_are_read_as_pflag_reads_them() {
    for (words, no_cache) in [
        (&[][..], false),
        (&["--no-cache"], true),
        (&["--no-cache=true"], true),
        (&["--no-cache=T"], true),
        (&["--no-cache=1"], true),
        (&["--no-cache=false"], false),
        (&["--no-cache", "--no-cache"], true),
        (&["--no-cache", "--no-cache=FALSE"], false),
    ] {
        assert_eq!(build_of(words).no_cache, no_cache, "{words:?}");
    }
    assert!(build_of(&["-q=true", "--push=false", "--pull=true"]).quiet);
    let args = build_of(&["-qf", "x"]);
    assert_eq!((args.quiet, args.file), (true, Some("x".into())));
    assert_eq!(build_of(&["--target", "a", "--target=b"]).target.as_deref(), Some("b"));
    assert_eq!(build_of(&["--progress=plain", "--progress=auto"]).progress.progress, Some(Mode::Auto));
    let hosts = build_of(&["--add-host", "a:1.2.3.4,b=::1", "--add-host=c:1.2.3.4"]).add_hosts;
    assert_eq!(
        hosts.iter().map(|host| host.0.as_str()).collect::<Vec<_>>(),
        ["a:1.2.3.4", "b=::1", "c:1.2.3.4"]
    );
    // Values with commas of their own stay whole.
    let args =
        build_of(&["--build-arg", "A=1,2", "--build-arg", "A=3", "--label", "l=1,2", "-t", "a", "-t=b"]);
    assert_eq!((args.build_args.len(), args.labels.len(), args.tags.len()), (2, 1, 2));
    assert_eq!(args.labels[0].value, "1,2");
    assert_eq!(build_of(&["--platform", "linux/amd64,Linux/x86_64", "--platform=local"]).platforms.len(), 3);
}

#[test]
fn an_empty_path_is_none() {
    let args = build_of(&["-f", "", "--iidfile=", "--metadata-file", "", "--target="]);
    for path in [args.file, args.iidfile, args.metadata_file] {
        assert_eq!((path.as_deref(), options::given(path.as_deref())), (Some(Path::new("")), None));
    }
}

#[test]
fn flags_of_the_old_builder_do_nothing() {
    let quiet = [
        "--rm",
        "--rm=false",
        "--force-rm",
        "--compress",
        "--provenance=false",
        "--sbom",
        "false",
        "--sbom=0",
    ];
    assert_eq!(build_of(&quiet).unused.missed().count(), 0);
    let missed = [
        "--squash",
        "--isolation=default",
        "--security-opt=a=b",
        "-m",
        "1g",
        "--memory-swap=-1",
        "-c",
        "2",
        "--cpu-period=1",
        "--cpu-quota",
        "-1",
        "--cpuset-cpus=0",
        "--cpuset-mems=0",
    ];
    assert_eq!(build_of(&missed).unused.missed().count(), 10);
}

#[test]
fn what_is_wrong_is_bad_usage() {
    for words in [
        &[][..],
        &["build"],
        &["build", ".", ".."],
        &["build", ".", "-t", "Foo/Bar"],
        &["build", ".", "--no-cache=yes"],
        &["build", ".", "--platform", "pdp11"],
        &["build", ".", "--cpu-quota=much"],
        &["build", ".", "--shm-size", "big"],
        &["build", ".", "--cache-from", "x"],
        &["build", ".", "--provenance"],
        &["build", ".", "--provenance=mode=max"],
        &["build", ".", "--sbom=true"],
        &["push", "Foo"],
        &["rmi"],
        &["frobnicate"],
    ] {
        assert_eq!(parse(words).unwrap_err().exit_code(), 2, "{words:?}");
    }
}

/// `docs/cli.md` contains all help texts. `WHARF_DOCS=write` regenerates it.
#[test]
fn the_reference_is_up_to_date() {
    let mut text = String::from(
        "# The command line\n\nThe help texts of `wharf` and its commands, generated from the code: \
         `WHARF_DOCS=write cargo test the_reference` regenerates this page.\n",
    );
    describe(&mut text, &mut Cli::definition().term_width(100), "");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    is_up_to_date(&path, &text, "the_reference");
}

/// The commands in a page: lines of its shell blocks, which may have several with space between them, and texts in
/// backquotes of the page about other ways to build.
fn commands(page: &Path) -> Vec<String> {
    let text = fs::read_to_string(page).unwrap();
    let blocks = text.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    let lines = blocks.flat_map(str::lines).flat_map(|line| line.split(" #").next().unwrap().split("  "));
    let spans = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|span| page.ends_with("migration.md") && !span.contains('…'));
    let commands = lines.chain(spans).map(str::trim).filter(|command| command.starts_with("wharf "));
    commands.map(|command| command.split(['|', '>', '\\']).next().unwrap().to_owned()).collect()
}

/// The words of a command; what is quoted is one.
fn words(command: &str) -> Vec<String> {
    let pieces = command.split(['"', '\'']).enumerate();
    let joined: String = pieces
        .map(|(index, piece)| if index % 2 == 0 { piece.into() } else { piece.replace(' ', "_") })
        .collect();
    joined.split_whitespace().skip(1).map(str::to_owned).collect()
}

#[test]
fn the_commands_of_the_pages_are_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = fs::read_dir(root.join("docs")).unwrap().map(|page| page.unwrap().path());
    let pages = pages.filter(|page| page.extension().is_some_and(|kind| kind == "md"));
    let mut count = 0;
    for page in pages.chain([root.join("README.md")]) {
        for command in commands(&page) {
            let words = words(&command);
            parse(&words.iter().map(String::as_str).collect::<Vec<_>>())
                .unwrap_or_else(|error| panic!("{}: `{command}`: {error}", page.display()));
            count += 1;
        }
    }
    assert!(count > 30, "{count} commands");
}

/// Compares a file that is generated by `test` with the text that it should have. `WHARF_DOCS=write` writes it.
fn is_up_to_date(path: &Path, text: &str, test: &str) {
    if env::var_os("WHARF_DOCS").is_some_and(|what| what == "write") {
        fs::write(path, text).unwrap();
    }
    let path_name = path.display();
    let written = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path_name}: {error}"));
    assert!(text == written, "{path_name} is out of date: run `WHARF_DOCS=write cargo test {test}`");
}

fn describe(text: &mut String, command: &mut clap::Command, above: &str) {
    let name = format!("{above}{}", command.get_name());
    let help = command.clone().bin_name(&name).render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    write!(text, "\n## `{name}`\n\n```text\n{}\n```\n", help.join("\n").trim_end()).unwrap();
    let mut built = command.clone();
    built.build();
    // `help` would repeat every command.
    for sub in built.get_subcommands_mut().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        describe(text, sub, &format!("{name} "));
    }
}
