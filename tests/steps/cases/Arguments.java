package cases;

import static cases.Suite.check;
import static cases.Suite.contains;
import static cases.Suite.equal;

import harness.Run;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** The client's command line for a call of a step, and the calls that are refused. */
final class Arguments {
    private Arguments() {}

    /** Texts that a shell, a CSV reader or an option parser would interpret. */
    private static final List<String> HOSTILE = List.of(
        "it's", "''", "\"quoted\"", "$HOME", "${HOME}", "$(touch pwned)", "`touch pwned`", "two\nlines", "ends\n",
        "\n", " spaces  inside ", "-leading", "--push", "back\\slash", "\\", "*", "a;b&c|d>e", "#no", "~", "!x",
        "ü€😀", "\t", "a,b=c", "%s", "");

    private static final String NAMED =
        "dockerBuild takes only named arguments, for example dockerBuild(tag: 'app:1', push: true)";

    static void addTo(Suite suite) {
        suite.test("dockerBuild: the shortest useful call", () -> {
            argumentsAre("dockerBuild(tag: 'app:1', push: true)", "build", "--push", "--tag=app:1", "--", ".");
        });
        suite.test("dockerBuild: no argument at all", () -> argumentsAre("dockerBuild()", "build", "--", "."));
        suite.test("dockerBuild: every argument becomes its flag", () -> {
            argumentsAre("""
                dockerBuild(
                    tag: ['app:1', "app:${1 + 1}"], context: 'src', file: 'src/Dockerfile.dev', target: 'test',
                    buildArgs: [VERSION: 1.5, DEBUG: true, FROM_ENVIRONMENT: null], labels: ['org.example.team': 'a b'],
                    noCache: true, pull: true, push: true, quiet: true, load: true, platform: 'linux/amd64', progress: 'plain', network: 'none',
                    iidfile: 'image.id', addHosts: [db: '10.0.0.5', web: ['10.0.0.6', '10.0.0.7']], shmSize: '64m',
                    ulimits: [nofile: '1024:2048', nproc: 64], namespace: 'acme/app#1', addr: 'unix:///w.sock',
                    secrets: [one: [env: 'TOKEN'], two: [src: 'a,b.txt']])
                """,
                "--addr=unix:///w.sock", "--namespace=acme/app#1", "build",
                "--add-host=db:10.0.0.5", "--add-host=web:10.0.0.6", "--add-host=web:10.0.0.7",
                "--build-arg=VERSION=1.5", "--build-arg=DEBUG=true", "--build-arg=FROM_ENVIRONMENT",
                "--file=src/Dockerfile.dev", "--iidfile=image.id", "--label=org.example.team=a b", "--load", "--network=none",
                "--no-cache", "--platform=linux/amd64", "--progress=plain", "--pull", "--push", "--quiet",
                "--secret=id=one,env=TOKEN", "--secret=id=two,\"src=a,b.txt\"", "--shm-size=64m",
                "--tag=app:1", "--tag=app:2", "--target=test",
                "--ulimit=nofile=1024:2048", "--ulimit=nproc=64", "--", "src");
        });
        suite.test("dockerBuild: false leaves a flag out", () ->
            argumentsAre("dockerBuild(noCache: false, push: false)", "build", "--", "."));
        suite.test("dockerBuild: a list may be a set, or an array as split makes it", () -> {
            argumentsAre("dockerBuild(tag: ['a:1', 'a:2'] as Set)", "build", "--tag=a:1", "--tag=a:2", "--", ".");
            argumentsAre("dockerBuild(tag: 'a:1 a:2'.split(' '), addHosts: [db: '10.0.0.5 10.0.0.6'.split()])",
                "build", "--add-host=db:10.0.0.5", "--add-host=db:10.0.0.6", "--tag=a:1", "--tag=a:2", "--", ".");
        });
        suite.test("dockerPush: its arguments", () -> {
            argumentsAre("dockerPush(tag: 'reg.example.com/app:1')", "push", "--", "reg.example.com/app:1");
            argumentsAre("dockerPush(tag: ['a', 'b'])", "push", "--", "a", "b");
            argumentsAre("dockerPush(tag: 'a', quiet: true, progress: 'plain', namespace: 'n', addr: 'unix:///w')",
                "--addr=unix:///w", "--namespace=n", "push", "--progress=plain", "--quiet", "--", "a");
        });
        suite.test("dockerSave: its arguments", () -> {
            saves("dockerSave(image: 'app:1', output: 'a b.tar')", "save", "--output=a b.tar", "--", "app:1");
            saves("dockerSave(image: ['app:1', \"app:${2}\", null], output: 'x', quiet: true, addr: 'unix:///w')",
                "--addr=unix:///w", "save", "--output=x", "--quiet", "--", "app:1", "app:2");
            saves("echo \"${dockerSave(image: 'a', output: 'x')}\"", "save", "--output=x", "--", "a");
        });
        suite.test("dockerPull, dockerTag, dockerNamespace: their arguments", () -> {
            saves("dockerPull(image: 'reg.example.com/app:1', quiet: true)", "pull", "--quiet", "--", "reg.example.com/app:1");
            saves("wharfPull(image: 'a', namespace: 'n')", "--namespace=n", "pull", "--", "a");
            saves("dockerTag(tag: 'b:2', image: \"a:${1}\")", "tag", "--", "a:1", "b:2");
            saves("wharfTag(image: 'a', tag: 'b')", "tag", "--", "a", "b");
            saves("dockerNamespace { echo 'x' }", "namespace", "rm", "--");
            saves("wharfNamespace(job: true, namespace: 'n', addr: 'unix:///w') { }",
                "--addr=unix:///w", "--namespace=n", "namespace", "rm", "--job", "--");
        });
        suite.test("the steps by their second names", () -> {
            saves("wharfSave(image: 'a', output: 'x')", "save", "--output=x", "--", "a");
            argumentsAre("wharfBuild(tag: 'a', push: true)", "build", "--push", "--tag=a", "--", ".");
            argumentsAre("wharfBuild()", "build", "--", ".");
            argumentsAre("wharfPush(tag: 'a')", "push", "--", "a");
        });
        suite.test("null is not given, but for build arguments and the only tag", () ->
            argumentsAre("""
                dockerBuild(tag: ['a', null], target: null, push: null, context: null, credentials: null, labels: [a: null],
                    secrets: [s: null], buildArgs: [A: null], addHosts: null)
                """, "build", "--build-arg=A", "--tag=a", "--", "."));
        suite.test("no tags are no name", () -> argumentsAre("dockerBuild(tag: [])", "build", "--", "."));
        suite.test("a tag that ends in null is warned of", () -> {
            try (Fake fake = Fake.onNode("dockerBuild(tag: [\"app:${env.NOPE}\", 'null:1'])")) {
                String log = fake.run("SUCCESS").log();
                contains(log, "WARNING: dockerBuild: `tag` is `app:null`: a variable in it may not be set");
                equal(1, log.split("WARNING", -1).length - 1, "warnings");
            }
        });
        suite.test("arguments arrive as they were written", Arguments::fidelity);
        suite.test("arguments arrive as they were written, with a restart at every step", () -> {
            try (Fake fake = Fake.onNode("dockerBuild(tag: \"it's \\$HOME\", buildArgs: [A: 'x\\ny'])")) {
                fake.job().restartingAtEveryStep();
                fake.run("SUCCESS");
                equal(List.of("build", "--build-arg=A=x\ny", "--tag=it's $HOME"), own(fake.call()).subList(0, 3), "arguments");
            }
        });
        suite.test("the job's name and number reach the client", () -> {
            try (Fake fake = Fake.onNode("dockerBuild(tag: 'a')")) {
                fake.run("SUCCESS");
                Map<String, String> variables = fake.call().variables();
                equal("acme/app/main", variables.get("JOB_NAME"), "JOB_NAME");
                equal("42", variables.get("BUILD_NUMBER"), "BUILD_NUMBER");
            }
        });
        refusals(suite);
    }

    private static void refusals(Suite suite) {
        String known = "addHosts (map), addr (text), buildArgs (map), context (text), credentials (credentials), file (text), ";
        Map<String, String> wrong = Map.ofEntries(
            Map.entry("dockerBuild(image: 'a')", "dockerBuild: there is no argument `image`. Its arguments are: " + known),
            Map.entry("dockerBuild(tags: 'a')", "there is no argument `tags`; is `tag` meant? Its arguments are: " + known),
            Map.entry("dockerBuild(dockerfile: 'a')", "there is no argument `dockerfile`; is `file` meant?"),
            Map.entry("dockerBuild('build-arg': 'A=1')", "there is no argument `build-arg`; is `buildArgs` meant?"),
            Map.entry("dockerPush(tag: 'a', credentialsId: 'c')", "no argument `credentialsId`; is `credentials` meant?"),
            Map.entry("dockerBuild(tag: 'a', push: 'true')", "`push` must be true or false, not text"),
            Map.entry("dockerBuild(tag: true)", "`tag` must be text, not a boolean"),
            Map.entry("dockerBuild(tag: null)", "dockerBuild: `tag` is null: a variable in it is not set. Omit `tag` to build an image without a name. "),
            Map.entry("dockerBuild(tag: [null, env.NOPE])", "dockerBuild: `tag` is null: "),
            Map.entry("dockerPush(tag: null)", "dockerPush: `tag` is missing"),
            Map.entry("dockerBuild(tag: [a: 1])", "`tag` must be text, not a map"),
            Map.entry("dockerBuild(target: ['a'])", "`target` must be text, not a list"),
            Map.entry("dockerBuild(buildArgs: ['A=1'])", "`buildArgs` must be a map, not a list"),
            Map.entry("dockerBuild(buildArgs: [A: [:]])", "`buildArgs.A` must be text, not a map"),
            Map.entry("dockerBuild(buildArgs: ['A=B': 1])", "the name `A=B` must not be empty or hold `=`"),
            Map.entry("dockerBuild(secrets: 'npm')", "`secrets` must be a map, not text"),
            Map.entry("dockerBuild(secrets: [npm: [path: 'x']])", "`secrets.npm` must be a credential's id, or one of"),
            Map.entry("dockerBuild(tag: 'a\\u0000b')", "`tag` contains a NUL character"),
            Map.entry("dockerBuild(context: '-')", "`context` is `-`, but a step has no standard input to read"),
            Map.entry("dockerBuild(file: '-')", "`file` is `-`"),
            Map.entry("dockerBuild(tag: 'a', credentials: ['c'])", "`credentials` must be a credential's id, or a map from registry to id, not a list"),
            Map.entry("dockerBuild('a')", NAMED),
            Map.entry("dockerBuild(null)", NAMED),
            Map.entry("dockerBuild('a', '--pull .')", NAMED),
            Map.entry("dockerBuild('a', 'b', 'c')", NAMED),
            Map.entry("dockerBuild('a', tag: 'b')", NAMED),
            Map.entry("dockerBuild(tag: 'b') { echo 'x' }", NAMED),
            Map.entry("dockerPush()", "dockerPush: `tag` is missing. Its arguments are: addr (text), credentials (credentials), "),
            Map.entry("dockerPush(tag: [])", "dockerPush: `tag` is missing. "),
            Map.entry("dockerPush(tag: [null, env.NOPE])", "dockerPush: `tag` is missing. "),
            Map.entry("dockerSave(image: [], output: 'a')", "dockerSave: `image` is missing. "),
            Map.entry("dockerRegistry { }", "dockerRegistry: `credentialsId` is missing. Its arguments are: credentialsId (login), url (registry)"),
            Map.entry("dockerRegistry(credentialsId: env.NOPE) { }", "dockerRegistry: `credentialsId` is missing"),
            Map.entry("dockerRegistry(credentialsId: 'reg')", "dockerRegistry takes a block, and before it named arguments"),
            Map.entry("wharfRegistry('https://r.example', 'reg') { }", "wharfRegistry takes a block, and before it named arguments"),
            Map.entry("dockerRegistry(credentials: 'reg') { }", "there is no argument `credentials`; is `credentialsId` meant?"),
            Map.entry("dockerRegistry(credentialsId: 'reg', url: 'a b') { }", "`url` must be a registry's address, such as"),
            Map.entry("dockerRegistry(credentialsId: 'reg', url: '') { }", "`url` must be a registry's address, such as"),
            Map.entry("dockerRegistry(credentialsId: 'reg', url: 'tcp://r.example') { }", "`url` must be a registry's address, such as"),
            Map.entry("dockerRegistry(credentialsId: 'reg', url: 'https://r.example/a\\n=B:C') { }", "`url` must be a registry's address, such as"),
            Map.entry("dockerSave(image: 'a')", "dockerSave: `output` is missing. Its arguments are: addr (text), image (list), "),
            Map.entry("dockerSave(tag: 'a', output: 'b')", "dockerSave: there is no argument `tag`"),
            Map.entry("dockerPull()", "dockerPull: `image` is missing"),
            Map.entry("dockerPull('a')", "dockerPull takes only named arguments, for example dockerPull(image: 'registry.example.com/app:1')"),
            Map.entry("dockerTag('a', 'b')", "dockerTag takes only named arguments, for example dockerTag(image: 'app:1', tag: 'app:stable')"),
            Map.entry("dockerTag(image: 'a')", "dockerTag: `tag` is missing"),
            Map.entry("dockerInspect('a')", "dockerInspect takes only named arguments, for example dockerInspect(image: 'app:1')"),
            Map.entry("dockerNamespace()", "dockerNamespace takes a block, and before it named arguments"),
            Map.entry("dockerNamespace('a') { }", "dockerNamespace takes a block, and before it named arguments"),
            Map.entry("wharfSave('a', 'b')", "wharfSave takes only named arguments, for example wharfSave(image: 'app:1', output: 'app.tar')"),
            Map.entry("wharfBuild('a')", "wharfBuild takes only named arguments, for example wharfBuild(tag: 'app:1', push: true)"),
            Map.entry("wharfPush()", "wharfPush: `tag` is missing"),
            Map.entry("dockerPush('a')", "dockerPush takes only named arguments"),
            Map.entry("dockerPush('a', 'b')", "dockerPush takes only named arguments"));
        wrong.forEach((call, message) -> suite.test("refused: " + call, () -> {
            try (Fake fake = Fake.onNode(call)) {
                Run.Finished finished = fake.run("FAILURE");
                contains(finished.log(), "ERROR: ");
                contains(finished.log(), message);
                equal(0, fake.calls().size(), "calls of the client");
            }
        }));
    }

    private static void fidelity() throws Exception {
        StringBuilder pairs = new StringBuilder();
        List<String> expected = new ArrayList<>();
        for (int i = 0; i < HOSTILE.size(); i++) {
            pairs.append("A").append(i).append(": ").append(literal(HOSTILE.get(i))).append(", ");
            expected.add("--build-arg=A" + i + "=" + HOSTILE.get(i));
        }
        for (String operand : List.of("-leading", "it's $x\ny")) {
            try (Fake fake = Fake.onNode("dockerBuild(buildArgs: [" + pairs + "], context: " + literal(operand) + ")")) {
                fake.run("SUCCESS");
                List<String> all = new ArrayList<>(List.of("build"));
                all.addAll(expected);
                all.addAll(List.of("--", operand));
                equal(all, own(fake.call()), "arguments");
                check(!java.nio.file.Files.exists(fake.job().workspace().resolve("pwned")), "a text was run by the shell");
            }
        }
    }

    /** The text as a Groovy literal with exactly this value. */
    private static String literal(String text) {
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\t", "\\t") + "'";
    }

    private static void argumentsAre(String call, String... expected) throws Exception {
        try (Fake fake = Fake.onNode(call)) {
            fake.run("SUCCESS");
            equal(List.of(expected), own(fake.call()), "arguments of " + call);
            fake.nothingLeft();
        }
    }

    /** The same for a step without a result, whose arguments are all the caller's. */
    private static void saves(String call, String... expected) throws Exception {
        try (Fake fake = Fake.onNode(call)) {
            fake.run("SUCCESS");
            equal(List.of(expected), fake.call().arguments(), "arguments of " + call);
            fake.nothingLeft();
        }
    }

    /** The arguments without the metadata file, which every call has and whose name is random. */
    private static List<String> own(Fake.Call call) {
        List<String> own = new ArrayList<>(call.arguments());
        check(own.removeIf(a -> a.startsWith("--metadata-file=")), "no --metadata-file in " + call.arguments());
        return own;
    }
}
