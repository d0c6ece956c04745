//! The arguments of the Jenkins steps, in one place. The tables that the steps check calls against
//! (`vars/*.groovy`), the steps' help in Jenkins (`vars/*.txt`) and the tables of `docs/steps.md` are
//! generated from it. `WHARF_DOCS=write cargo test the_steps` regenerates them.

mod others;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use super::{Cli, is_up_to_date};
use others::OTHERS;

/// A step, which runs one of the client's commands, or a block.
struct Step {
    /// The step's name that no other library uses: `wharfBuild` for `dockerBuild`.
    name: &'static str,
    /// The client's command; empty if it only changes what the steps of its block do.
    command: &'static str,
    /// Its purpose, to follow its name and a colon.
    does: &'static str,
    example: &'static [&'static str],
    needs: &'static str,
    groups: &'static [(&'static str, &'static [Argument])],
    /// Its result, and its behaviour on failure.
    end: &'static str,
}

/// An argument of a step. `means` is Markdown; the help in Jenkins omits the backticks.
struct Argument {
    name: &'static str,
    takes: &'static str,
    /// `None` for the operand.
    flag: Option<&'static str>,
    means: &'static str,
    /// Further fields of its row in the Groovy table.
    more: &'static str,
}

const fn argument(
    name: &'static str,
    takes: &'static str,
    flag: &'static str,
    means: &'static str,
) -> Argument {
    Argument { name, takes, flag: Some(flag), means, more: "" }
}

impl Argument {
    const fn with(self, more: &'static str) -> Self {
        Self { more, ..self }
    }
}

/// The argument that becomes the client's operand.
const fn operand(name: &'static str, takes: &'static str, means: &'static str) -> Argument {
    Argument { flag: None, ..argument(name, takes, "", means) }
}

const ADDR: Argument =
    argument("addr", "text", "--addr", "wharfd's address; by default the agent's `WHARF_ADDR`")
        .with("global: true");
const NAMESPACE: Argument = argument(
    "namespace",
    "text",
    "--namespace",
    "`JOB#RUN`; by default Jenkins' `JOB_NAME` and `BUILD_NUMBER`",
)
.with("global: true");
const TOKEN: Argument = argument(
    "token",
    "token",
    "--token-file",
    "the id of a secret text that proves to wharfd which job calls, such as an id token of Jenkins; by default the \
     agent's `WHARF_TOKEN`",
);
const PROGRESS: Argument = argument(
    "progress",
    "text",
    "--progress",
    "`'auto'` (plain in Jenkins), `'plain'`, `'tty'` or `'quiet'`",
);

const STEPS: [Step; 3] = [
    Step {
        name: "wharfBuild",
        command: "build",
        does: "builds an image with Wharf in the namespace of this run, and pushes it if asked.",
        example: &["def image = wharfBuild(tag: 'registry.example.com/app:1', push: true)", "echo image.digest"],
        needs: "All arguments are named; none is required.",
        groups: &[
            (
                "The input",
                &[
                    operand("context", "text", "the directory to send to the node; `'.'` by default")
                        .with("otherwise: '.'"),
                    argument("file", "text", "--file", "the Dockerfile; `'Dockerfile'` in the context by default"),
                    argument("target", "text", "--target", "the stage to build; the last by default"),
                    argument(
                        "buildArgs",
                        "map",
                        "--build-arg",
                        "values for `ARG`: `[VERSION: '1.2']`; `null` takes the value from the environment",
                    )
                    .with("between: '=', fromEnvironment: true"),
                    argument(
                        "secrets",
                        "secrets",
                        "--secret",
                        "for `RUN --mount=type=secret`: `[npm: 'CREDENTIAL']` for a secret text, \
                         `[npmrc: [file: 'CREDENTIAL']]` for a secret file, `[env: 'NAME']` and `[src: 'PATH']` \
                         for a variable and a file of the agent",
                    ),
                ],
            ),
            (
                "The image",
                &[
                    argument("tag", "list", "--tag", "the image's names: `'app:1'` or `['app:1', 'app:latest']`"),
                    argument("labels", "map", "--label", "the image's labels: `[team: 'shop']`").with("between: '='"),
                    argument("push", "boolean", "--push", "push every tag once the image is built"),
                    argument(
                        "load",
                        "boolean",
                        "--load",
                        "keep an image on the node beside other outputs; without `output` the image is always kept",
                    ),
                    argument(
                        "credentials",
                        "credentials",
                        "--login",
                        "the id of a username and password for the tags' registry, or a map of registry to id: \
                         `['registry.example.com': 'CREDENTIAL']`",
                    ),
                ],
            ),
            (
                "The build",
                &[
                    argument("noCache", "boolean", "--no-cache", "run every step again"),
                    argument("pull", "boolean", "--pull", "ask the registries for newer base images"),
                    argument("network", "text", "--network", "the network of `RUN` steps: `'default'` or `'none'`"),
                    argument("platform", "text", "--platform", "only the node's own platform is accepted"),
                    argument("addHosts", "map", "--add-host", "names that `RUN` steps know: `[db: '10.0.0.5']`")
                        .with("between: ':'"),
                    argument("shmSize", "text", "--shm-size", "the size of `/dev/shm` in `RUN` steps: `'64m'`"),
                    argument("ulimits", "map", "--ulimit", "limits of `RUN` steps: `[nofile: '1024:2048']`")
                        .with("between: '='"),
                ],
            ),
            (
                "The output",
                &[
                    argument(
                        "output",
                        "list",
                        "--output",
                        "where the result goes instead of an image: `'reports'`, a directory for the stage's files, \
                         `'type=tar,dest=out.tar'`, `'type=docker,dest=app.tar'` for `docker load`, `'type=registry'`, or several",
                    ),
                    PROGRESS,
                    argument("quiet", "boolean", "--quiet", "print only the image's id"),
                    argument("iidfile", "text", "--iidfile", "write the image's id to this file"),
                    argument(
                        "metadataFile",
                        "text",
                        "--metadata-file",
                        "write the image's metadata to this file, as JSON with buildx's keys",
                    ),
                ],
            ),
            ("The node", &[ADDR, NAMESPACE, TOKEN]),
        ],
        end: "The result is a map of texts: ref (the image's name for deployments; with its digest if it was pushed),
id (which other steps take), digest (null if it was not pushed) and tags (a list). Without an image all of them are null, and tags is empty.

A failed build fails the step. An abort of the run stops the build on the node.
",
    },
    Step {
        name: "wharfPush",
        command: "push",
        does: "pushes images that this run has built, pulled or tagged.",
        example: &["wharfPush(tag: 'registry.example.com/app:1', credentials: 'registry')"],
        needs: "All arguments are named.",
        groups: &[(
            "",
            &[
                operand(
                    "tag",
                    "list",
                    "the name of the image, under which it is pushed: `'registry.example.com/app:1'`, or several; required",
                )
                .with("required: true"),
                argument(
                    "credentials",
                    "credentials",
                    "--login",
                    "the id of a username and password for the tag's registry, or a map of registry to id: \
                     `['registry.example.com': 'CREDENTIAL']`",
                ),
                PROGRESS,
                argument("quiet", "boolean", "--quiet", "print only the image's name"),
                argument(
                    "metadataFile",
                    "text",
                    "--metadata-file",
                    "write the pushed image's metadata to this file, as JSON with buildx's keys; of several, a list",
                ),
                ADDR,
                NAMESPACE,
                TOKEN,
            ],
        )],
        end: "The result is a map of texts: ref (the name with its digest), id, digest and tags (a list). For a list of names
it is a list of maps, in the same order.

A failed push fails the step; the names before it stay pushed. An abort of the run stops the push.
",
    },
    Step {
        name: "wharfSave",
        command: "save",
        does: "saves images of this run to a tar, as docker save does.",
        example: &["wharfSave(image: 'registry.example.com/app:1', output: 'app.tar')"],
        needs: "All arguments are named.",
        groups: &[(
            "",
            &[
                operand(
                    "image",
                    "list",
                    "the images: `'app:1'`, an `id`, or several; an image that is given by its id has no name in the tar; \
                     required",
                )
                .with("required: true"),
                argument("output", "text", "--output", "the file to write; required").with("required: true"),
                PROGRESS,
                argument("quiet", "boolean", "--quiet", "print nothing"),
                ADDR,
                NAMESPACE,
                TOKEN,
            ],
        )],
        end: "The file is complete when the step ends, or not there at all. The step has no result.

A failed save fails the step. An abort of the run stops the save.
",
    },
];

/// All steps.
fn steps() -> impl Iterator<Item = &'static Step> {
    STEPS.iter().chain(&OTHERS)
}

impl Step {
    fn arguments(&self) -> impl Iterator<Item = &Argument> {
        self.groups.iter().flat_map(|(_, arguments)| *arguments)
    }

    /// Its unique name, and the name that users expect.
    fn names(&self) -> [String; 2] {
        [self.name.to_owned(), self.name.replace("wharf", "docker")]
    }

    /// The rows of its table in Groovy, sorted by name. The flags have this order on the command line.
    fn groovy(&self) -> String {
        let mut arguments: Vec<_> = self.arguments().collect();
        arguments.sort_by_key(|argument| argument.name);
        arguments.iter().fold(String::new(), |mut text, Argument { name, takes, flag, more, .. }| {
            let flag = flag.map_or("null".to_owned(), |flag| format!("'{flag}'"));
            let more = if more.is_empty() { String::new() } else { format!(", {more}") };
            writeln!(text, "        [name: '{name}', takes: '{takes}', flag: {flag}{more}],").unwrap();
            text
        })
    }

    /// Its help in Jenkins, under one of its names.
    fn help(&self, name: &str) -> String {
        let Self { does, needs, end, .. } = self;
        let mut text = format!("{name}: {does}\n\n");
        for line in self.example {
            writeln!(text, "    {}", line.replace(self.name, name)).unwrap();
        }
        let who = if self.command.is_empty() { "The steps in the block need" } else { "It needs" };
        write!(text, "\n{who} an agent (node) with the wharf client on its PATH. {needs}\n").unwrap();
        for (title, arguments) in self.groups {
            text.push('\n');
            if !title.is_empty() {
                writeln!(text, "{title}").unwrap();
            }
            for Argument { name, takes, means, .. } in *arguments {
                let mut line = format!("    {name:13} {takes:12}");
                for word in means.replace('`', "").split(' ') {
                    if line.len() + word.len() >= 110 {
                        writeln!(text, "{line}").unwrap();
                        line = format!("    {:13} {:12}", "", "");
                    }
                    write!(line, " {word}").unwrap();
                }
                writeln!(text, "{line}").unwrap();
            }
        }
        format!("{text}\n{end}")
    }

    /// The rows of its table in `docs/steps.md`.
    fn page(&self) -> String {
        self.arguments().fold(String::new(), |mut text, Argument { name, takes, flag, means, .. }| {
            let flag = flag.map_or(String::new(), |flag| format!("`{flag}` "));
            writeln!(text, "| `{name}` | {takes} | {flag}| {means} |").unwrap();
            text
        })
    }
}

/// `text` with the lines between `begin` and `end` replaced by `made`.
fn between(text: &str, begin: &str, made: &str, end: &str) -> String {
    let (before, rest) = text.split_once(begin).unwrap_or_else(|| panic!("there is no {begin:?}"));
    let (_, after) = rest.split_once(end).unwrap_or_else(|| panic!("there is no {end:?} after {begin:?}"));
    format!("{before}{begin}{made}{end}{after}")
}

#[test]
fn the_steps_are_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read =
        |path: &Path| fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut made: Vec<(PathBuf, String)> = Vec::new();
    let page = root.join("docs/steps.md");
    let mut pages = read(&page);
    for step in steps() {
        let groovy = root.join("vars").join(format!("{}.groovy", step.name));
        let table = between(&read(&groovy), "List arguments() {\n    return [\n", &step.groovy(), "    ]\n");
        made.push((groovy, table));
        for name in step.names() {
            let help = step.help(&name);
            assert!(!help.contains(['<', '&']), "Jenkins shows {name}.txt with HTML escaped");
            made.push((root.join("vars").join(format!("{name}.txt")), help));
        }
        let [_, name] = step.names();
        let begin =
            format!("\n## {name}\n\n| Argument | Takes | Flag | Meaning |\n| --- | --- | --- | --- |\n");
        pages = between(&pages, &begin, step.page().trim_end(), "\n\n");
    }
    made.push((page, pages));
    for (path, text) in made {
        is_up_to_date(&path, &text, "the_steps");
    }
}

/// The agent's environment says how it reaches wharfd; no Jenkinsfile does, least of all that it need not be safe. An
/// issuer is for the node's operator.
const OF_THE_AGENT: [&str; 5] = ["tlscacert", "tlscert", "tlskey", "dangerous-plain-tcp", "issuer"];

#[test]
fn the_steps_have_every_flag_of_their_commands() {
    let mut cli = Cli::definition();
    cli.build();
    for step in steps().filter(|step| !step.command.is_empty()) {
        let command = step.command.split(' ').fold(&cli, |cli, word| cli.find_subcommand(word).unwrap());
        let flags: BTreeSet<String> = command
            .get_arguments()
            .filter(|flag| !flag.is_hide_set())
            .filter_map(|flag| flag.get_long())
            .filter(|flag| *flag != "help" && !OF_THE_AGENT.contains(flag))
            .map(|flag| format!("--{flag}"))
            .collect();
        let arguments = step.arguments().filter_map(|argument| argument.flag).map(str::to_owned).collect();
        assert_eq!(flags, arguments, "wharf {}", step.command);
    }
}
