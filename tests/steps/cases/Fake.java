package cases;

import harness.Job;
import harness.PlainFiles;
import harness.Run;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;

/** A job on an agent whose {@code wharf} only records its call. The workspace has an awkward name. */
final class Fake implements AutoCloseable {
    private final Path directory;
    private final Job job;

    Fake(String jenkinsfile) throws IOException {
        directory = Files.createTempDirectory("wharf-steps");
        job = new Job("acme/app/main", 42, jenkinsfile, directory.resolve("a job's workspace"))
            .agent("PATH", System.getProperty("cases.fake") + ":" + System.getenv("PATH"))
            .agent("FAKE_RECORD", directory.resolve("record").toString());
    }

    /** A Jenkinsfile whose body runs on a node. */
    static Fake onNode(String body) throws IOException {
        return new Fake("node {\n" + body + "\n}\n");
    }

    Job job() {
        return job;
    }

    Path directory() {
        return directory;
    }

    Run.Finished run() {
        return Run.of(job);
    }

    /** Runs it, and fails the test unless it ends with this result. */
    Run.Finished run(String result) {
        Run.Finished finished = run();
        Suite.check(finished.result().equals(result), "the build must be " + result + ":\n" + finished.log());
        return finished;
    }

    /** The recorded input of one call of the client. */
    record Call(List<String> arguments, Map<String, String> variables, Path files) {
        String file(String name) throws IOException {
            return Files.readString(files.resolve(name));
        }
    }

    List<Call> calls() throws IOException {
        List<Call> calls = new ArrayList<>();
        Path record = directory.resolve("record");
        if (!Files.exists(record)) {
            return calls;
        }
        try (Stream<Path> all = Files.list(record)) {
            for (Path call : all.sorted().toList()) {
                Map<String, String> variables = new LinkedHashMap<>();
                for (String pair : texts(call.resolve("variables"))) {
                    int equals = pair.indexOf('=');
                    variables.put(pair.substring(0, equals), pair.substring(equals + 1));
                }
                calls.add(new Call(texts(call.resolve("arguments")), variables, call));
            }
        }
        return calls;
    }

    /** The only call. */
    Call call() throws IOException {
        List<Call> calls = calls();
        Suite.equal(1, calls.size(), "calls of the client");
        return calls.get(0);
    }

    private static List<String> texts(Path file) throws IOException {
        String all = Files.readString(file, StandardCharsets.UTF_8);
        List<String> texts = new ArrayList<>();
        int start = 0;
        for (int end = all.indexOf('\0'); end >= 0; end = all.indexOf('\0', start)) {
            texts.add(all.substring(start, end));
            start = end + 1;
        }
        return texts;
    }

    /** Checks that the calls' own files are removed from the agent. */
    void nothingLeft() throws IOException {
        Path temporary = directory.resolve(job.workspace().getFileName() + "@tmp");
        if (!Files.exists(temporary)) {
            return;
        }
        try (Stream<Path> tree = Files.walk(temporary)) {
            List<Path> left = tree.map(temporary::relativize)
                .filter(path -> path.startsWith("secretFiles") && path.getNameCount() > 1 || path.toString().startsWith("wharf-"))
                .toList();
            Suite.check(left.isEmpty(), "left on the agent: " + left);
        }
    }

    @Override
    public void close() throws IOException {
        PlainFiles.deleteTree(directory);
    }
}
