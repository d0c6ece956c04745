package cases;

import static cases.Suite.check;
import static cases.Suite.contains;
import static cases.Suite.containsNot;
import static cases.Suite.equal;

import java.nio.file.Files;
import java.util.List;

/** The result of a step, its failures, and the effect of an abort. */
final class Results {
    private static final String ID = "sha256:" + "0".repeat(63) + "1";
    private static final String DIGEST = "sha256:" + "0".repeat(63) + "2";

    private static final String REF = "ref-of-the-client";

    private Results() {}

    static void addTo(Suite suite) {
        suite.test("the answer of a build that pushed", () -> logs("""
            def image = dockerBuild(tag: ['reg.example.com:5000/team/app:1', 'reg.example.com:5000/team/app:latest'], push: true)
            sh 'true'
            echo "ref=${image.ref}"
            echo "id=${image.id} digest=${image.digest} tags=${image.tags}"
            """,
            "ref=" + REF,
            "id=" + ID + " digest=" + DIGEST + " tags=[reg.example.com:5000/team/app:1, reg.example.com:5000/team/app:latest]"));
        suite.test("the answer of a build that stayed on the node", () -> logs("""
            def image = dockerBuild(tag: 'app:1')
            echo "ref=${image.ref} id=${image.id} digest=${image.digest} tags=${image.tags}"
            """, "ref=" + REF + " id=" + ID + " digest=null tags=[app:1]"));
        suite.test("the answer of a build without a tag", () -> logs("""
            def image = dockerBuild()
            echo "ref=${image.ref} tags=${image.tags}"
            """, "ref=" + REF + " tags=[]"));
        suite.test("the answer of a push", () -> logs("""
            def image = dockerPush(tag: 'reg.example.com/app:1')
            echo "ref=${image.ref} digest=${image.digest}"
            """, "ref=" + REF + " digest=" + DIGEST));
        suite.test("the answer of a push of several names", () -> {
            for (String call : List.of("['r/a:1', null, \"r/b:${2}\"]", "'r/a:1 r/b:2'.split(' ')")) {
                logs("def all = dockerPush(tag: " + call + ")\nsh 'true'\n"
                    + "echo \"${all.size()} ${all[0].tags} ${all[1].tags} ${all[1].ref} ${all[1].id} ${all[1].digest}\"",
                    "+ exec wharf push --metadata-file=", "2 [r/a:1] [r/b:2] " + REF + " " + ID + " " + DIGEST);
            }
            logs("def all = wharfPush(tag: ['r/a:1'])\necho \"${all.size()} ${all[0].tags}\"", "1 [r/a:1]");
        });
        suite.test("the answer of an inspect can be kept", () -> {
            try (Fake fake = Fake.onNode("""
                def one = dockerInspect(image: 'app:1')
                sh 'true'
                echo "user=${one.Config.User} layers=${one.RootFS.Layers.size()} size=${one.Size}"
                def both = wharfInspect(image: ['app:1', 'app:2'])
                sh 'true'
                echo "${both.size()} ${both[1].Id}"
                """)) {
                fake.job().restartingAtEveryStep();
                fake.job().agent("FAKE_PRINTS", "[{\"Id\": \"a\", \"Size\": 5000000000, \"Config\": {\"User\": \"app\"}, "
                    + "\"RootFS\": {\"Layers\": [\"x\", \"y\"]}}, {\"Id\": \"b\"}]");
                String log = fake.run("SUCCESS").log();
                contains(log, "\nuser=app layers=2 size=5000000000\n");
                contains(log, "\n2 b\n");
                fake.nothingLeft();
            }
        });
        suite.test("a namespace ends with its block", () -> {
            try (Fake fake = Fake.onNode("""
                String id = dockerNamespace(namespace: 'n#1') { sh 'env | grep ^WHARF_N'; dockerBuild(tag: 'app:1').id }
                echo "id=${id}"
                """)) {
                String log = fake.run("SUCCESS").log();
                contains(log, "\nWHARF_NAMESPACE=n#1\n");
                contains(log, "\nid=" + ID + "\n");
                List<String> commands = fake.calls().stream().map(call -> String.join(" ", call.arguments())).toList();
                check(commands.contains("--namespace=n#1 namespace rm --") && commands.size() == 2, "the calls: " + commands);
            }
        });
        suite.test("a namespace ends with a block that fails, and with one that is aborted", () -> {
            try (Fake fake = Fake.onNode("dockerNamespace { sh 'exit 7' }")) {
                fake.job().agent("FAKE_STATUS", "5").agent("FAKE_ERROR", "the end failed");
                String log = fake.run("FAILURE").log();
                contains(log, "WARNING: dockerNamespace: the end failed (exit status 5)");
                contains(log, "ERROR: script returned exit code 7");
                equal(List.of("namespace", "rm", "--"), fake.call().arguments(), "the call");
            }
            try (Fake fake = Fake.onNode("dockerNamespace { echo 'waits'; sh 'sleep 1000' }")) {
                fake.job().abortWhenLogged(line -> line.equals("waits"));
                fake.run("ABORTED");
                equal(List.of("namespace", "rm", "--"), fake.call().arguments(), "the call");
            }
        });
        suite.test("the answer survives a restart", () -> {
            try (Fake fake = Fake.onNode("""
                def image = dockerBuild(tag: 'app:1')
                sh 'true'
                parallel a: { sh 'true'; echo "a ${image.ref}" }, b: { echo "b ${image.id}" }
                """)) {
                fake.job().restartingAtEveryStep();
                String log = fake.run("SUCCESS").log();
                contains(log, "a " + REF);
                contains(log, "b " + ID);
            }
        });
        suite.test("a metadata file of the author's own is kept", () -> {
            try (Fake fake = Fake.onNode("dir('sub') { echo dockerBuild(tag: 'a', metadataFile: 'meta.json').id }")) {
                contains(fake.run("SUCCESS").log(), ID);
                contains(Files.readString(fake.job().workspace().resolve("sub/meta.json")), ID);
            }
        });
        suite.test("builds side by side in one workspace keep apart", () -> {
            try (Fake fake = Fake.onNode("""
                def tags = [:]
                parallel a: { tags.a = dockerBuild(tag: 'a:1').tags }, b: { tags.b = dockerBuild(tag: 'b:1').tags }
                echo "${tags.a} ${tags.b}"
                """)) {
                contains(fake.run("SUCCESS").log(), "[a:1] [b:1]");
                fake.nothingLeft();
            }
        });
        suite.test("the trace shows one readable line", () -> logs(
            "dockerBuild(tag: 'app:1', buildArgs: [A: 'two words'], push: true)",
            "+ exec wharf build --build-arg=A=two words --push --tag=app:1 --metadata-file="));
        suite.test("the error of a failed build is the client's own", () -> failure(1, "failed to solve: no such <file>",
            "ERROR: dockerBuild app:1: failed to solve: no such <file> (exit status 1)"));
        suite.test("a client that says nothing has a status", () -> failure(2, "",
            "ERROR: dockerBuild app:1: see the log above (exit status 2)"));
        suite.test("the error reaches whoever catches it", () -> {
            try (Fake fake = Fake.onNode("""
                try {
                    dockerPush(tag: 'app:1')
                } catch (error) {
                    echo "mail: ${error.message}"
                }
                """)) {
                fake.job().agent("FAKE_STATUS", "3").agent("FAKE_ERROR", "not allowed to push");
                contains(fake.run("SUCCESS").log(), "\nmail: dockerPush app:1: not allowed to push (exit status 3)\n");
                fake.nothingLeft();
            }
        });
        suite.test("a build that failed may be tried again", () -> {
            try (Fake fake = Fake.onNode("""
                int tries = 0
                retry(3) {
                    tries++
                    withEnv(["FAKE_STATUS=${tries < 3 ? '5' : ''}"]) {
                        echo "ref=${dockerBuild(tag: 'app:1').ref}"
                    }
                }
                """)) {
                contains(fake.run("SUCCESS").log(), "\nref=" + REF + "\n");
                equal(3, fake.calls().size(), "calls of the client");
                fake.nothingLeft();
            }
        });
        suite.test("a status that the step does not know is told", () -> failure(77, "", "(exit status 77)"));
        suite.test("an agent without the client says what is missing", () -> {
            try (Fake fake = Fake.onNode("dockerBuild(tag: 'app:1')")) {
                fake.job().agent("PATH", "/usr/bin:/bin");
                contains(fake.run("FAILURE").log(), "dockerBuild app:1: this agent has no wharf client, on its PATH or below /run/wharf; see docs/jenkins.md (exit status 127)");
            }
        });
        suite.test("outside of a node the step fails as sh does", () -> {
            try (Fake fake = new Fake("dockerBuild(tag: 'app:1')")) {
                contains(fake.run("FAILURE").log(), "surround the step with a step that provides this, such as: node");
            }
        });
        suite.test("an abort stops the client and throws on", () -> {
            try (Fake fake = Fake.onNode("""
                try {
                    dockerBuild(tag: 'app:1')
                    echo 'went on'
                } finally {
                    sh 'echo cleaned up'
                }
                """)) {
                fake.job().agent("FAKE_HANGS", "1").abortWhenLogged(line -> line.equals("fake: waiting"));
                String log = fake.run("ABORTED").log();
                contains(log, "cleaned up");
                containsNot(log, "went on");
                containsNot(log, "it failed");
                contains(fake.call().file("stopped"), "stopped");
                fake.nothingLeft();
            }
        });
        suite.test("a timeout stops the client too", () -> {
            try (Fake fake = Fake.onNode("timeout(time: 1, unit: 'SECONDS') { dockerBuild(tag: 'app:1') }")) {
                fake.job().agent("FAKE_HANGS", "1");
                contains(fake.run("ABORTED").log(), "Timeout has been exceeded");
                contains(fake.call().file("stopped"), "stopped");
            }
        });
    }

    private static void logs(String body, String... expected) throws Exception {
        try (Fake fake = Fake.onNode(body)) {
            String log = fake.run("SUCCESS").log();
            for (String line : expected) {
                // dash quotes nothing in its trace; another shell may.
                contains(log.replace("'", ""), line);
            }
            fake.nothingLeft();
        }
    }

    private static void failure(int status, String said, String message) throws Exception {
        try (Fake fake = Fake.onNode("dockerBuild(tag: 'app:1')\necho 'went on'")) {
            fake.job().agent("FAKE_STATUS", Integer.toString(status)).agent("FAKE_ERROR", said);
            String log = fake.run("FAILURE").log();
            contains(log, message);
            containsNot(log, "went on");
            fake.nothingLeft();
        }
    }
}
