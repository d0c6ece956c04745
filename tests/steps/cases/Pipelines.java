package cases;

import static cases.Suite.check;
import static cases.Suite.contains;
import static cases.Suite.containsNot;
import static cases.Suite.equal;

import harness.Credential;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.LockSupport;
import java.util.function.BooleanSupplier;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/** The usual kinds of Jenkinsfiles, from Groovy to the registry, with the real client, wharfd, engine and registry. */
final class Pipelines {
    /** How soon a step must be gone from the engine, counted from the build's end. */
    private static final long GONE_SECONDS = 2;
    /** How soon the second of two simultaneous builds must run. Generous: a busy machine must not fail the test. */
    private static final long START_SECONDS = 60;

    /** The end of a build whose registry refuses it. */
    static final Pattern REFUSED =
        Pattern.compile("ERROR: dockerBuild [^ ]+: .*(credentials|log in|unauthorized).* \\(exit status 3\\)");

    private static final Registry REGISTRY = Registry.open();

    private Pipelines() {}

    static void addTo(Suite suite, String engine) {
        String on = "engine " + engine + ": ";
        suite.test(on + "build and push", Pipelines::buildAndPush);
        suite.test(on + "promote", Pipelines::promote);
        suite.test(on + "declarative, with arguments that need quoting", Pipelines::declarative);
        suite.test(on + "a base image, then the app on it", Pipelines::baseThenApp);
        suite.test(on + "the services of one repository in parallel", Pipelines::monorepo);
        suite.test(on + "a failing step, with post", Pipelines::failingStep);
        suite.test(on + "an abort in the middle", Pipelines::abort);
        suite.test(on + "an abort of two builds at once, declarative", Pipelines::abortParallel);
        suite.test(on + "a branch that fails stops the other's build", Pipelines::failFast);
        suite.test(on + "secrets of text and of files", Pipelines::secrets);
        suite.test(on + "a private base image", Pipelines::privateBase);
        suite.test(on + "tagged with the Git commit", Pipelines::gitCommit);
        suite.test(on + "build, test, then push", Pipelines::buildTestPush);
        suite.test(on + "saved and looked at before the push", Pipelines::savedAndPushed);
        suite.test(on + "a link of the repository's in place of a directory", Pipelines::linkedDirectory);
        suite.test(on + "test reports from a stage", Pipelines::testReports);
        suite.test(on + "build and push, with a controller that restarts at every step", Pipelines::restarts);
    }

    private static void buildAndPush() throws Exception {
        try (Project project = new Project("build-and-push")) {
            String log = project.log("SUCCESS");
            String digest = digest(log, "digest ");
            equal(digest, REGISTRY.digest("build-and-push", "1"), "the digest in the registry");
            contains(log, "built " + System.getenv("REGISTRY") + "/build-and-push@" + digest);
            equal("HELLO FROM A PIPELINE\n", REGISTRY.file("build-and-push", digest, "srv/loud.txt"), "the image's file");
            contains(project.wharf("images"), "build-and-push");
        }
    }

    private static void declarative() throws Exception {
        try (Project project = new Project("declarative")) {
            contains(project.log("SUCCESS"), "\nwell done\n");
            equal(REGISTRY.digest("declarative", "1.7"), REGISTRY.digest("declarative", "latest"), "both tags");
            equal("1.7", REGISTRY.file("declarative", "latest", "version"), "a build argument");
            equal("\"it's $5\"", REGISTRY.file("declarative", "latest", "quoted"), "a build argument");
            Map<?, ?> config = (Map<?, ?>) REGISTRY.config("declarative", "latest").get("config");
            equal("two words", ((Map<?, ?>) config.get("Labels")).get("org.example.team"), "the label");
        }
    }

    private static void baseThenApp() throws Exception {
        try (Project project = new Project("base-then-app")) {
            String digest = digest(project.log("SUCCESS"), "digest ");
            equal("from the base\nand the app\n", REGISTRY.file("base-then-app", digest, "app.txt"), "the image's file");
        }
    }

    private static void monorepo() throws Exception {
        try (Project project = new Project("monorepo")) {
            // `-f` is relative to the workspace, as everywhere; each service's context is its own folder.
            String log = project.log("SUCCESS");
            for (String service : List.of("cart", "search", "pay")) {
                String digest = digest(log, "digest " + service + " ");
                equal(digest, REGISTRY.digest("monorepo/" + service, "7"), "the digest of " + service);
                equal("serves " + service + "\n", REGISTRY.file("monorepo/" + service, digest, "says"), "its file");
            }
        }
    }

    /** {@code dir} and {@code cd} follow a link before the client begins. */
    private static void linkedDirectory() throws Exception {
        try (Project project = new Project("linked-directory")) {
            String log = project.log("SUCCESS");
            check(!Pattern.compile("(?m)^#\\d+ .*of the agent's").matcher(log).find(), "the agent's file was sent:\n" + log);
            check(Pattern.compile("(?m)^#\\d+ .*of the repository's").matcher(log).find(), "its own file must be:\n" + log);
            containsNot(log, "must be refused");
            for (String link : List.of("cart", "my cart")) {
                check(Pattern.compile("refused: dockerBuild.*/workspace/" + link + "\" is a link that leads out of the "
                    + "workspace.* \\(exit status 2\\)").matcher(log).find(), link + " must be refused:\n" + log);
            }
            check(Pattern.compile("refused: dockerSave.* \\(exit status 2\\)").matcher(log).find(), "save:\n" + log);
            contains(log, "\nstatus 2\n");
            contains(log, "\nbuilt in pay\n");
            try (Stream<Path> files = Files.list(project.directory().resolve("agent"))) {
                equal(1L, files.count(), "the agent's files");
            }
        }
    }

    private static void refused(String log) {
        check(REFUSED.matcher(log).find(), "the registry's refusal must be the error:\n" + log);
    }

    private static void failingStep() throws Exception {
        try (Project project = new Project("failing-step")) {
            String log = project.log("FAILURE");
            for (String line : List.of("no such header", "exit code: 3", "the stage says why", "always: FAILURE",
                    "told the team", "Stage \"Deploy\" skipped due to earlier failure(s)", "ERROR: dockerBuild ", "did not complete successfully: exit code: 3 (exit status 1)")) {
                contains(log, line);
            }
            containsNot(log, "must not be");
            check(REGISTRY.digest("failing-step", "1") == null, "a failed build was pushed");
        }
    }

    private static void promote() throws Exception {
        try (Project project = new Project("promote")) {
            String log = project.log("SUCCESS");
            String digest = digest(log, "built ");
            equal(digest, digest(log, "released "), "the digest that was released");
            equal(digest, REGISTRY.digest("promote/release", "7"), "the digest in the registry");
            contains(log, "\nrevision abc123\n");
            contains(log, "\nmail: dockerInspect " + System.getenv("REGISTRY") + "/promote/staging:7: ");
            contains(log, "(exit status 6)\n");
        }
    }

    private static void abort() throws Exception {
        try (Project project = new Project("abort")) {
            String mark = mark();
            project.job().variable("MARK", mark).abortWhenLogged(
                line -> line.contains("step " + mark + " runs"), () -> runsOnTheEngine(mark));
            String log = project.log("ABORTED");
            contains(log, "stopped by FlowInterruptedException");
            contains(log, "\ncleaned up\n");
            containsNot(log, "must not go on");
            goneFromTheEngine(mark);
            check(REGISTRY.digest("abort", "1") == null, "an aborted build was pushed");
        }
    }

    private static void abortParallel() throws Exception {
        try (Project project = new Project("abort-parallel")) {
            String mark = mark();
            project.job().variable("MARK", mark).abortWhenLogged(line -> line.contains("step " + mark), () -> {
                runsOnTheEngine(mark + "1");
                runsOnTheEngine(mark + "2");
            });
            String log = project.log("ABORTED");
            contains(log, "\nsomebody stopped it\n");
            containsNot(log, "must not be");
            goneFromTheEngine(mark + "1");
            goneFromTheEngine(mark + "2");
        }
    }

    private static void failFast() throws Exception {
        try (Project project = new Project("fail-fast")) {
            String mark = mark();
            project.job().variable("MARK", mark);
            String log = project.log("FAILURE");
            contains(log, "script returned exit code 7");
            containsNot(log, "exit status");
            goneFromTheEngine(mark);
        }
    }

    private static void secrets() throws Exception {
        try (Project project = new Project("secrets")) {
            String token = "t0ken-'$\"-" + mark();
            String settings = "user = x\npassword = " + mark() + "\n";
            project.job().credential("api-token", new Credential.SecretText(token))
                .credential("settings-file", new Credential.SecretFile("settings.ini", settings));
            String log = project.log("SUCCESS");
            String digest = digest(log, "digest ");
            equal(sha256(token) + "  -\n", REGISTRY.file("secrets", digest, "token.sum"), "what the step read");
            equal(sha256(settings) + "  -\n", REGISTRY.file("secrets", digest, "settings.sum"), "what the step read");
            containsNot(log, token);
            containsNot(REGISTRY.config("secrets", digest).toString(), token);
            check(Files.notExists(project.directory().resolve("workspace@tmp/secretFiles"))
                || isEmpty(project.directory().resolve("workspace@tmp/secretFiles")), "a secret file was left");
        }
    }

    private static void privateBase() throws Exception {
        String user = System.getenv("REGISTRY_USER");
        String password = System.getenv("REGISTRY_PASSWORD");
        try (Project project = new Project("private-base")) {
            project.job().credential("private-registry", new Credential.UsernamePassword(user, password));
            String log = project.log("SUCCESS");
            equal(digest(log, "digest "), Registry.ofPassword().digest("private-base", "1"), "the digest in the registry");
            containsNot(log, password);
        }
        // The engine already has the base: only the missing credentials can cause the refusal.
        try (Project project = new Project("private-base")) {
            project.job().credential("private-registry", new Credential.UsernamePassword(user, "wrong"));
            refused(project.log("FAILURE"));
        }
        try (Project project = new Project("build-and-push")) {
            project.job().variable("REGISTRY", System.getenv("PRIVATE_REGISTRY"));
            refused(project.log("FAILURE"));
        }
    }

    private static void gitCommit() throws Exception {
        try (Project project = new Project("git-commit")) {
            project.log("SUCCESS");
            Map<?, ?> config = (Map<?, ?>) REGISTRY.config("git-commit", project.commit()).get("config");
            equal(project.commit(), ((Map<?, ?>) config.get("Labels")).get("org.opencontainers.image.revision"), "the label");
        }
    }

    private static void savedAndPushed() throws Exception {
        try (Project project = new Project("save")) {
            String log = project.log("SUCCESS");
            String image = System.getenv("REGISTRY") + "/save:7";
            contains(log, "+ exec wharf save --output=app.tar -- " + image);
            contains(log, "\"RepoTags\":[\"" + image + "\"]");
            equal(digest(log, "digest "), REGISTRY.digest("save", "7"), "the digest in the registry");
        }
    }

    private static void testReports() throws Exception {
        try (Project project = new Project("test-reports")) {
            String log = project.log("SUCCESS");
            contains(log, "\nimage null\n");
            contains(log, "\n1 of 2 tests failed\n");
            contains(log, "+ tar -xOf files.tar app\nbuilt\n");
            equal(digest(log, "digest "), REGISTRY.digest("test-reports", "1"), "the digest in the registry");
        }
    }

    private static void buildTestPush() throws Exception {
        try (Project project = new Project("build-test-push")) {
            String log = project.log("SUCCESS");
            equal(digest(log, "digest "), REGISTRY.digest("build-test-push", "7"), "the digest in the registry");
            contains(Files.readString(project.directory().resolve("archive/image.json")), "containerimage.config.digest");
            containsNot(project.wharf("images"), "build-test-push");
        }
    }

    private static void restarts() throws Exception {
        try (Project project = new Project("build-and-push")) {
            project.job().restartingAtEveryStep();
            equal(digest(project.log("SUCCESS"), "digest "), REGISTRY.digest("build-and-push", "1"), "the digest in the registry");
        }
    }

    private static String digest(String log, String before) {
        Matcher line = Pattern.compile("(?m)^" + Pattern.quote(before) + "(sha256:[0-9a-f]{64})$").matcher(log);
        check(line.find(), "no line `" + before + "sha256:…` in:\n" + log);
        return line.group(1);
    }

    /** An argument for sleep that no other process of the machine has. */
    static String mark() {
        return Long.toString(ThreadLocalRandom.current().nextLong(1_000_000_000L, 9_000_000_000L));
    }

    /** Whether the step's process runs on the engine: all processes of the machine are visible here. */
    private static boolean running(String mark) {
        try (Stream<ProcessHandle> all = ProcessHandle.allProcesses()) {
            return all.anyMatch(process -> commandLine(process).equals("sleep\0" + mark + "\0"));
        }
    }

    private static String commandLine(ProcessHandle process) {
        try {
            return Files.readString(Path.of("/proc", Long.toString(process.pid()), "cmdline"), StandardCharsets.ISO_8859_1);
        } catch (java.io.IOException e) {
            return "";
        }
    }

    /** Waits until the step's process runs, so that an abort has something to stop. */
    static void runsOnTheEngine(String mark) {
        await(START_SECONDS, () -> running(mark), "the step `sleep " + mark + "` does not run on the engine");
    }

    /** Waits until the step's process has ended by itself. */
    static void goneFromTheEngine(String mark) {
        await(GONE_SECONDS, () -> !running(mark), "the step `sleep " + mark + "` runs on, on the engine");
    }

    /** Polls, since another program's process sends no event. */
    private static void await(long seconds, BooleanSupplier condition, String otherwise) {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(seconds);
        while (!condition.getAsBoolean()) {
            check(System.nanoTime() < deadline, otherwise);
            LockSupport.parkNanos(TimeUnit.MILLISECONDS.toNanos(20));
        }
    }

    private static boolean isEmpty(Path directory) throws java.io.IOException {
        try (Stream<Path> entries = Files.list(directory)) {
            return entries.findAny().isEmpty();
        }
    }

    private static String sha256(String text) throws Exception {
        return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(text.getBytes(StandardCharsets.UTF_8)));
    }
}
