package cases;

import harness.Job;
import harness.PlainFiles;
import harness.Run;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;

/** A project of {@code pipelines/}: a Git repository with a Jenkinsfile, and a job that runs it for real. */
final class Project implements AutoCloseable {
    private final Path directory;
    private final Job job;
    private final String name;
    private final String commit;

    /** A project of {@code pipelines/} by its name, or another by its directory. */
    Project(String where) throws Exception {
        Path source = Path.of(System.getProperty("cases.pipelines")).resolve(where);
        name = source.getFileName().toString();
        directory = Files.createTempDirectory("project");
        Path repository = directory.resolve("repository");
        copy(source, repository);
        run(repository, "git", "init", "-q");
        run(repository, "git", "add", "-A");
        run(repository, "git", "-c", "user.name=Test", "-c", "user.email=test@example.com", "commit", "-qm", name);
        commit = run(repository, "git", "rev-parse", "HEAD");
        job = new Job(jobName(), 7, Files.readString(repository.resolve("Jenkinsfile")), directory.resolve("workspace"))
            .scm(repository)
            .agent("PATH", Path.of(System.getProperty("cases.client")).getParent() + ":" + System.getenv("PATH"))
            .agent("HOME", directory.toString())
            .agent("WHARF_ADDR", System.getenv("WHARF_ADDR"))
            .variable("REGISTRY", System.getenv("REGISTRY"))
            .variable("PRIVATE_REGISTRY", System.getenv("PRIVATE_REGISTRY"))
            .variable("SECOND_REGISTRY", System.getenv("SECOND_REGISTRY"))
            .variable("BRANCH_NAME", "main");
    }

    private String jobName() {
        return "acme/" + name + "/main";
    }

    Job job() {
        return job;
    }

    String commit() {
        return commit;
    }

    Path directory() {
        return directory;
    }

    /** Runs it, and fails the test unless it ends with this result. */
    String log(String result) {
        Run.Finished finished = Run.of(job);
        Suite.check(finished.result().equals(result), "the build must be " + result + ":\n" + finished.log());
        return finished.log();
    }

    /** Runs the client as the job's agent would. */
    String wharf(String... arguments) throws Exception {
        Stream<String> start = Stream.of(System.getProperty("cases.client"), "--namespace", jobName() + "#7");
        return run(directory, Stream.concat(start, Stream.of(arguments)).toArray(String[]::new));
    }

    private static void copy(Path from, Path to) throws IOException {
        try (Stream<Path> tree = Files.walk(from)) {
            // If the directory is already a repository, its own history is not used.
            for (Path path : tree.filter(path -> !from.relativize(path).startsWith(".git")).toList()) {
                Files.copy(path, to.resolve(from.relativize(path).toString()), LinkOption.NOFOLLOW_LINKS);
            }
        }
    }

    private static String run(Path directory, String... command) throws Exception {
        ProcessBuilder builder = new ProcessBuilder(command).directory(directory.toFile()).redirectErrorStream(true);
        builder.environment().keySet().removeAll(List.of("JOB_NAME", "BUILD_NUMBER"));
        builder.environment().putAll(Map.of("WHARF_ADDR", System.getenv("WHARF_ADDR")));
        Process process = builder.start();
        String output = new String(process.getInputStream().readAllBytes()).trim();
        Suite.check(process.waitFor() == 0, String.join(" ", command) + ":\n" + output);
        return output;
    }

    /** Removes everything of the run from the engine. */
    @Override
    public void close() throws Exception {
        wharf("namespace", "rm");
        PlainFiles.deleteTree(directory);
    }
}
