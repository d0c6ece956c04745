package cases;

import static cases.Suite.contains;
import static cases.Suite.containsNot;
import static cases.Suite.equal;

import java.nio.file.Files;

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
        suite.test("a failed build fails the step and says which", () -> failure(1,
            "ERROR: dockerBuild app:1: it failed; see the message of wharf above (exit status 1)"));
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
        suite.test("a status that the step does not know is told", () -> failure(77, "(exit status 77)"));
        suite.test("an agent without the client says what is missing", () -> {
            try (Fake fake = Fake.onNode("dockerBuild(tag: 'app:1')")) {
                fake.job().agent("PATH", "/usr/bin:/bin");
                contains(fake.run("FAILURE").log(), "the wharf client is not on the PATH of this agent");
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

    private static void failure(int status, String message) throws Exception {
        try (Fake fake = Fake.onNode("dockerBuild(tag: 'app:1')\necho 'went on'")) {
            fake.job().agent("FAKE_STATUS", Integer.toString(status));
            String log = fake.run("FAILURE").log();
            contains(log, message);
            containsNot(log, "went on");
            fake.nothingLeft();
        }
    }
}
