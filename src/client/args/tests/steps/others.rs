//! The steps around a build and its push.

use super::{ADDR, NAMESPACE, PROGRESS, Step, TOKEN, argument, operand};

pub(super) const OTHERS: [Step; 5] = [
    Step {
        name: "wharfPull",
        command: "pull",
        does: "brings an image from a registry into the namespace of this run, as docker pull does.",
        example: &["wharfPull(image: 'registry.example.com/app:1', credentials: 'registry')"],
        needs: "All arguments are named.",
        groups: &[(
            "",
            &[
                operand("image", "text", "the image's name; required").with("required: true"),
                argument(
                    "credentials",
                    "credentials",
                    "--login",
                    "the id of a username and password for the image's registry, or a map of registry to id: \
                     `['registry.example.com': 'CREDENTIAL']`",
                ),
                PROGRESS,
                argument("quiet", "boolean", "--quiet", "print only the image's name"),
                ADDR,
                NAMESPACE,
                TOKEN,
            ],
        )],
        end: "From then on the run's steps find the image by this name. The step has no result.

A failed pull fails the step. An abort of the run stops the pull.
",
    },
    Step {
        name: "wharfTag",
        command: "tag",
        does: "gives an image of this run another name, as docker tag does.",
        example: &["wharfTag(image: image.id, tag: 'registry.example.com/app:stable')"],
        needs: "All arguments are named.",
        groups: &[(
            "",
            &[
                operand("image", "text", "the image: a name, or the `id` of a build or a push; required")
                    .with("required: true"),
                operand("tag", "text", "the new name; required").with("required: true"),
                ADDR,
                NAMESPACE,
                TOKEN,
            ],
        )],
        end: "The name is the run's own until it is pushed. The step has no result.

If the run has no such image, the step fails.
",
    },
    Step {
        name: "wharfInspect",
        command: "inspect",
        does: "describes images of this run, as docker inspect does.",
        example: &[
            "def about = wharfInspect(image: 'registry.example.com/app:1')",
            "echo about.Config.Labels.toString()",
        ],
        needs: "All arguments are named.",
        groups: &[(
            "",
            &[
                operand("image", "list", "the image: a name, or the `id` of a build or a push; or several; required")
                    .with("required: true"),
                ADDR,
                NAMESPACE,
                TOKEN,
            ],
        )],
        end: "The result is a map with docker's keys, such as Id, RepoTags, Config and RootFS; for a list of images,
a list of maps.

If the run has no such image, the step fails.
",
    },
    Step {
        name: "wharfNamespace",
        command: "namespace rm",
        does: "runs a block, and then removes everything that the namespace of this run owns.",
        example: &["wharfNamespace {", "    wharfBuild(tag: 'registry.example.com/app:1', push: true)", "}"],
        needs: "All arguments are named; none is required.",
        groups: &[(
            "",
            &[
                argument("job", "boolean", "--job", "remove the job's cache mounts, too, which all of its runs share"),
                ADDR,
                NAMESPACE,
                TOKEN,
            ],
        )],
        end: "The namespace ends with the block, also if the block fails or the run is aborted. The images that the block
has pushed stay in the registry. Steps in the block act in namespace and at addr, if these are given. The result is
the block's.

A block that fails fails the step with its own error; an end that fails is then only a warning.
",
    },
    Step {
        name: "wharfRegistry",
        command: "",
        does: "runs a block in which every step uses a login for a registry.",
        example: &[
            "wharfRegistry(credentialsId: 'registry', url: 'https://registry.example.com') {",
            "    wharfBuild(tag: 'registry.example.com/app:1', push: true)",
            "}",
        ],
        needs: "All arguments are named.",
        groups: &[(
            "",
            &[
                operand("credentialsId", "login", "the id of a username and password; required").with("required: true"),
                operand(
                    "url",
                    "registry",
                    "the registry: `'https://registry.example.com'` or `'registry.example.com:5000'`; Docker Hub by default",
                )
                .with("otherwise: 'docker.io'"),
            ],
        )],
        end: "The login is added to those of the agent's own docker configuration, and to those of the blocks around this one;
credentials of a step go before it. Commands such as sh 'wharf push ...' in the block have it, too. It is in variables
while the block runs, and in no file. The result is the block's.
",
    },
];
