package cases;

import static cases.Suite.check;

import harness.Credential;
import harness.Library;
import java.nio.file.Path;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** The Groovy code in the pages runs. Their tables are generated from the client's, and tested there. */
final class Docs {
    private static final Path ROOT = Path.of(System.getProperty("cases.root"));

    private Docs() {}

    static void addTo(Suite suite) {
        for (String page : List.of("README.md", "docs/jenkins.md")) {
            suite.test("the first Jenkinsfile of " + page + " runs", () -> runs(firstJenkinsfile(page)));
        }
        suite.test("the Jenkinsfile of deploy/examples runs", () -> runs(Library.read(ROOT.resolve("deploy/examples/Jenkinsfile"))));
        suite.test("the Groovy of docs/jenkins.md, docs/migration.md and docs/steps.md compiles", () -> {
            for (String page : List.of("jenkins.md", "migration.md", "steps.md")) {
                Matcher blocks = Pattern.compile("(?s)```groovy\n(.*?)```").matcher(Library.read(ROOT.resolve("docs/" + page)));
                int count = 0;
                while (blocks.find()) {
                    Library.compiles(blocks.group(1).startsWith("post {") ? "" : blocks.group(1));
                    count++;
                }
                check(count >= 3, page + " has " + count + " blocks of Groovy");
            }
        });
    }

    /** A newcomer copies the first block. */
    private static String firstJenkinsfile(String page) throws Exception {
        Matcher block = Pattern.compile("(?s)```groovy\n(.*?)```").matcher(Library.read(ROOT.resolve(page)));
        check(block.find(), page + " has no Jenkinsfile");
        return block.group(1);
    }

    private static void runs(String jenkinsfile) throws Exception {
        try (Fake fake = new Fake(jenkinsfile)) {
            fake.job().credential("registry", new Credential.UsernamePassword("jenkins", "secret"));
            fake.run("SUCCESS");
            List<String> arguments = fake.call().arguments();
            check(arguments.contains("--push") && arguments.contains("--tag=registry.example.com/shop/app:42"),
                "the client was called with " + arguments);
        }
    }
}
