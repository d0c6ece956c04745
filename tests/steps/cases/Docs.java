package cases;

import static cases.Suite.check;
import static cases.Suite.equal;

import harness.Credential;
import harness.Library;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** The pages and the steps say the same. */
final class Docs {
    private static final Path ROOT = Path.of(System.getProperty("cases.root"));

    private Docs() {}

    static void addTo(Suite suite) {
        for (String step : List.of("dockerBuild", "dockerPush")) {
            suite.test("docs/steps.md has the arguments of " + step, () -> equal(inCode(step), inPage(step), "arguments"));
            suite.test("the help of " + step + " has its arguments", () -> {
                String help = Library.read(ROOT.resolve("vars/" + step + ".txt"));
                Map<String, String> told = new TreeMap<>();
                Matcher lines = Pattern.compile("(?m)^    (\\w+) +(text|boolean|list|map|secrets|credentials)\\b").matcher(help);
                while (lines.find()) {
                    told.put(lines.group(1), lines.group(2));
                }
                Map<String, String> kinds = new TreeMap<>();
                arguments(step).forEach(a -> kinds.put((String) a.get("name"), (String) a.get("takes")));
                equal(kinds, told, "arguments");
                String other = Library.read(ROOT.resolve("vars/" + step.replace("docker", "wharf") + ".txt"));
                equal(help.replace(step, step.replace("docker", "wharf")), other, "the help by the step's second name");
                check(!help.contains("<") && !help.contains("&"), "Jenkins shows the page with HTML escaped: no < or &");
            });
        }
        suite.test("every flag of the client is an argument, and the other way round", Docs::flags);
        for (String page : List.of("README.md", "docs/jenkins.md")) {
            suite.test("the first Jenkinsfile of " + page + " runs", () -> firstJenkinsfile(page));
        }
        suite.test("the Groovy of docs/jenkins.md and docs/steps.md compiles", () -> {
            for (String page : List.of("jenkins.md", "steps.md")) {
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
    private static void firstJenkinsfile(String page) throws Exception {
        Matcher block = Pattern.compile("(?s)```groovy\n(.*?)```").matcher(Library.read(ROOT.resolve(page)));
        check(block.find(), page + " has no Jenkinsfile");
        try (Fake fake = new Fake(block.group(1))) {
            fake.job().credential("registry", new Credential.UsernamePassword("jenkins", "secret"));
            fake.run("SUCCESS");
            List<String> arguments = fake.call().arguments();
            check(arguments.contains("--push") && arguments.contains("--tag=registry.example.com/shop/app:42"),
                "the client was called with " + arguments);
        }
    }

    /** The client is asked where there is one: its help is what users read. */
    private static void flags() throws Exception {
        String client = System.getProperty("cases.client");
        check(Files.isExecutable(Path.of(client)), "there is no " + client + ": build it, or set WHARF_BIN_DIR");
        for (Map.Entry<String, String> step : Map.of("dockerBuild", "build", "dockerPush", "push").entrySet()) {
            Process help = new ProcessBuilder(client, step.getValue(), "--help").redirectErrorStream(true).start();
            String text = new String(help.getInputStream().readAllBytes());
            check(help.waitFor() == 0, text);
            List<String> has = Pattern.compile("(?m)^ +(?:-\\w, )?(--[a-z-]+)").matcher(text).results()
                .map(m -> m.group(1)).filter(flag -> !List.of("--help", "--version").contains(flag)).sorted().toList();
            List<String> takes = arguments(step.getKey()).stream().map(a -> (String) a.get("flag"))
                .filter(flag -> flag != null).sorted().toList();
            equal(has, takes, "flags of wharf " + step.getValue());
        }
    }

    private static Map<String, String> inCode(String step) {
        Map<String, String> rows = new TreeMap<>();
        for (Map<String, Object> argument : arguments(step)) {
            rows.put((String) argument.get("name"), argument.get("takes") + " " + argument.get("flag"));
        }
        return rows;
    }

    private static Map<String, String> inPage(String step) throws Exception {
        String page = Files.readString(ROOT.resolve("docs/steps.md"));
        int start = page.indexOf("\n## " + step + "\n");
        check(start >= 0, "docs/steps.md has no section " + step);
        String section = page.substring(start, page.indexOf("\n## ", start + 1));
        Map<String, String> rows = new TreeMap<>();
        Matcher lines = Pattern.compile("(?m)^\\| `(\\w+)` \\| (\\w+) \\| (?:`(--[a-z-]+)` )?\\| \\S").matcher(section);
        while (lines.find()) {
            rows.put(lines.group(1), lines.group(2) + " " + lines.group(3));
        }
        return rows;
    }

    private static List<Map<String, Object>> arguments(String step) {
        return Library.argumentsOf(ROOT.resolve("vars"), step.replace("docker", "wharf"));
    }
}
