package harness;

import com.cloudbees.groovy.cps.Outcome;
import hudson.AbortException;
import java.io.IOException;
import java.nio.file.FileSystems;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.PathMatcher;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException;

/** Steps without a body: text, files, the checkout, sleep. */
final class PlainSteps {
    private PlainSteps() {}

    static void addTo(Map<String, Steps.Now> now, Map<String, Steps.Later> later) {
        now.put("echo", (call, run) -> {
            run.log(call.mainText("message"));
            return null;
        });
        now.put("error", (call, run) -> {
            throw new AbortException(call.mainText("message"));
        });
        now.put("unstable", (call, run) -> {
            run.log("WARNING: " + call.mainText("message"));
            run.worsen("UNSTABLE");
            return null;
        });
        now.put("pwd", (call, run) -> {
            call.allow("tmp");
            Context context = run.context();
            return (call.flag("tmp") ? context.requireTemporary() : context.requireDirectory()).toString();
        });
        now.put("isUnix", (call, run) -> true);
        later.put("sleep", PlainSteps::sleep);
        later.put("readFile", atOnce((call, run, directory) -> {
            call.allow("file", "encoding");
            Path file = directory.resolve(call.mainText("file"));
            try {
                return Files.readString(file);
            } catch (NoSuchFileException e) {
                throw new NoSuchFileException(file.toString());
            }
        }));
        later.put("writeFile", atOnce((call, run, directory) -> {
            call.allow("file", "text", "encoding");
            Path file = directory.resolve(call.mainText("file"));
            Files.createDirectories(file.getParent());
            Files.writeString(file, call.text("text", ""));
            return null;
        }));
        later.put("fileExists", atOnce((call, run, directory) -> Files.exists(directory.resolve(call.mainText("file")))));
        later.put("deleteDir", atOnce((call, run, directory) -> {
            PlainFiles.deleteTree(directory);
            return null;
        }));
        later.put("archiveArtifacts", atOnce(PlainSteps::archive));
        later.put("junit", atOnce(PlainSteps::junit));
        later.put("checkout", atOnce(PlainSteps::checkout));
    }

    private interface InDirectory {
        Object call(StepCall call, Run run, Path directory) throws Exception;
    }

    /** A step that suspends the program, although its work is short. */
    private static Steps.Later atOnce(InDirectory step) {
        return (call, run, strand) ->
            strand.goOn(new Outcome(step.call(call, run, strand.context().requireDirectory()), null));
    }

    private static void sleep(StepCall call, Run run, Program.Strand strand) throws AbortException {
        call.allow("time", "unit");
        long ticket = run.newTicket();
        TimeUnit unit = TimeUnit.valueOf(call.text("unit", "SECONDS"));
        CompletableFuture<Void> timer = new CompletableFuture<>();
        timer.completeOnTimeout(null, ((Number) call.main("time")).longValue(), unit)
            .whenComplete((done, cause) -> run.answer(ticket, new Outcome(null, cause)));
        run.underWay(ticket, cause -> timer.completeExceptionally(
            cause != null ? cause : new FlowInterruptedException("ABORTED", "gone")));
        strand.await(ticket);
    }

    private static Object archive(StepCall call, Run run, Path directory) throws IOException, AbortException {
        call.allow("artifacts", "allowEmptyArchive", "fingerprint");
        String pattern = call.mainText("artifacts");
        PathMatcher matcher = FileSystems.getDefault().getPathMatcher("glob:" + pattern);
        Path archive = run.job().workspace().resolveSibling("archive");
        boolean found = false;
        try (Stream<Path> tree = Files.walk(directory)) {
            for (Path file : tree.filter(Files::isRegularFile).toList()) {
                Path relative = directory.relativize(file);
                if (matcher.matches(relative)) {
                    found = true;
                    Path kept = archive.resolve(relative);
                    Files.createDirectories(kept.getParent());
                    Files.copy(file, kept);
                }
            }
        }
        if (!found && !call.flag("allowEmptyArchive")) {
            throw new AbortException("No artifacts found that match the file pattern \"" + pattern + "\"");
        }
        return null;
    }

    /** Counts the tests in reports. Jenkins' own step makes the run unstable if one failed. */
    private static Object junit(StepCall call, Run run, Path directory) throws IOException, AbortException {
        call.allow("testResults", "allowEmptyResults");
        PathMatcher matcher = FileSystems.getDefault().getPathMatcher("glob:" + call.mainText("testResults"));
        StringBuilder reports = new StringBuilder();
        try (Stream<Path> tree = Files.walk(directory)) {
            for (Path file : tree.filter(Files::isRegularFile).toList()) {
                if (matcher.matches(directory.relativize(file))) {
                    reports.append(Files.readString(file));
                }
            }
        }
        if (reports.isEmpty() && !call.flag("allowEmptyResults")) {
            throw new AbortException("No test report files were found. Configuration error?");
        }
        Map<String, Integer> summary = new LinkedHashMap<>();
        summary.put("totalCount", reports.toString().split("<testcase", -1).length - 1);
        summary.put("failCount", reports.toString().split("<failure", -1).length - 1);
        return summary;
    }

    /** {@code checkout scm}: a clone of the job's repository, with the variables that the Git plugin returns. */
    private static Object checkout(StepCall call, Run run, Path directory) throws Exception {
        if (run.job().scm() == null) {
            throw new AbortException("'checkout scm' is only available when using \"Pipeline script from SCM\"");
        }
        String repository = run.job().scm().toString();
        Files.createDirectories(directory);
        git(directory, "init", "-q");
        git(directory, "fetch", "-q", repository, "HEAD");
        git(directory, "checkout", "-q", "-f", "FETCH_HEAD");
        Map<String, String> variables = new LinkedHashMap<>();
        variables.put("GIT_COMMIT", git(directory, "rev-parse", "HEAD"));
        variables.put("GIT_URL", repository);
        return variables;
    }

    private static String git(Path directory, String... arguments)
            throws IOException, InterruptedException, AbortException {
        List<String> command = new java.util.ArrayList<>(List.of("git", "-C", directory.toString()));
        command.addAll(List.of(arguments));
        Process git = new ProcessBuilder(command).redirectErrorStream(true).start();
        String output = new String(git.getInputStream().readAllBytes()).trim();
        if (git.waitFor() != 0) {
            throw new AbortException(String.join(" ", command) + ": " + output);
        }
        return output;
    }
}
