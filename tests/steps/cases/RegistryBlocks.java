package cases;

import static cases.Suite.check;
import static cases.Suite.contains;
import static cases.Suite.containsNot;
import static cases.Suite.equal;

import harness.Credential;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Base64;
import java.util.List;
import java.util.stream.Stream;

/** Blocks with logins for two registries that require different passwords, with the real client, wharfd and engine. */
final class RegistryBlocks {
    private static final String USER = System.getenv("REGISTRY_USER");
    private static final String PASSWORD = System.getenv("REGISTRY_PASSWORD");
    private static final String SECOND_PASSWORD = System.getenv("SECOND_PASSWORD");

    private RegistryBlocks() {}

    static void addTo(Suite suite, String on) {
        suite.test(on + "blocks with logins for two registries", RegistryBlocks::twoRegistries);
        suite.test(on + "a block with a wrong password", RegistryBlocks::wrongPassword);
        suite.test(on + "an abort in a block with a login", RegistryBlocks::abort);
    }

    private static void twoRegistries() throws Exception {
        try (Project project = project("registry-block", PASSWORD)) {
            String log = project.log("SUCCESS");
            String first = Registry.ofPassword().digest("registry-block", "7");
            String second = Registry.second().digest("registry-block", "7");
            contains(log, "\nfirst " + System.getenv("PRIVATE_REGISTRY") + "/registry-block@" + first + "\n");
            contains(log, "\nsecond " + System.getenv("SECOND_REGISTRY") + "/registry-block@" + second + "\n");
            contains(log, "\none image true\n");
            contains(log, "\ninspected true\n");
            equal(first, Registry.ofPassword().digest("registry-block", "by-id"), "the digest of the image by its id");
            contains(log, "\nboth 2\n");
            equal(3L, refusals(log), "refused pushes");
            containsNot(log, "must not be");
            gone(project, log);
        }
    }

    private static void wrongPassword() throws Exception {
        try (Project project = project("registry-block", "wr0ng-password")) {
            String log = project.log("FAILURE");
            check(Pipelines.REFUSED.matcher(log).find(), "the registry's refusal must be the error:\n" + log);
            containsNot(log, "wr0ng-password");
        }
    }

    private static void abort() throws Exception {
        try (Project project = project("registry-block-abort", PASSWORD)) {
            String mark = Pipelines.mark();
            project.job().variable("MARK", mark).abortWhenLogged(
                line -> line.contains("step " + mark + " runs"), () -> Pipelines.runsOnTheEngine(mark));
            String log = project.log("ABORTED");
            containsNot(log, "must not go on");
            Pipelines.goneFromTheEngine(mark);
            check(Registry.ofPassword().digest("registry-block-abort", "1") == null, "an aborted build was pushed");
            gone(project, log);
        }
    }

    private static Project project(String name, String password) throws Exception {
        Project project = new Project(name);
        project.job()
            .credential("private-registry", new Credential.UsernamePassword(USER, password))
            .credential("second-registry", new Credential.UsernamePassword(System.getenv("SECOND_USER"), SECOND_PASSWORD));
        return project;
    }

    private static long refusals(String log) {
        return log.lines().filter(line -> line.startsWith("refused: dockerPush ") && line.endsWith(" (exit status 3)")).count();
    }

    /** The passwords are in no line of the log, in no file of the agent, and the last shell had no login. */
    private static void gone(Project project, String log) throws Exception {
        check(log.contains("\n0\n"), "the environment after the block:\n" + log);
        List<String> secrets = List.of(PASSWORD, SECOND_PASSWORD, base64(USER + ":" + PASSWORD));
        secrets.forEach(secret -> containsNot(log, secret));
        try (Stream<Path> files = Files.walk(project.directory())) {
            for (Path file : files.filter(Files::isRegularFile).toList()) {
                String text = Files.readString(file, StandardCharsets.ISO_8859_1);
                check(secrets.stream().noneMatch(text::contains), "a password is left in " + file);
            }
        }
    }

    private static String base64(String text) {
        return Base64.getEncoder().encodeToString(text.getBytes(StandardCharsets.UTF_8));
    }
}
