package harness;

import com.cloudbees.groovy.cps.Outcome;
import hudson.AbortException;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;

/**
 * {@code sh}: a real shell, started and stopped as in Jenkins: the script is a file that {@code /bin/sh
 * -xe} runs, its processes are recognised by a cookie in their environment, and an abort sends them SIGTERM.
 */
final class Shell implements Run.Live {
    /** How long Jenkins waits for a process after SIGTERM. */
    private static final int GRACE_SECONDS = 20;
    private static final String COOKIE = "JENKINS_SERVER_COOKIE";

    private final Run run;
    private final Context context;
    private final String cookie;
    private final CompletableFuture<Outcome> outcome = new CompletableFuture<>();
    private volatile Throwable stopped;

    private Shell(Run run, Context context, long ticket, String cookie) {
        this.run = run;
        this.context = context;
        this.cookie = cookie;
        outcome.thenAccept(answer -> run.answer(ticket, answer));
    }

    static void addTo(Map<String, Steps.Later> later) {
        later.put("sh", Shell::start);
    }

    private static void start(StepCall call, Run run, Program.Strand strand) throws IOException, AbortException {
        call.allow("script", "returnStdout", "returnStatus", "label", "encoding");
        Context context = strand.context();
        Path directory = context.requireDirectory();
        Files.createDirectories(directory);
        String cookie = "durable-" + UUID.randomUUID();
        Path script = writeScript(context.requireTemporary().resolve(cookie), call.mainText("script"));

        ProcessBuilder builder = new ProcessBuilder(script.toString()).directory(directory.toFile());
        builder.environment().clear();
        builder.environment().putAll(run.environment(context));
        builder.environment().put(COOKIE, cookie);
        builder.redirectInput(Path.of("/dev/null").toFile());
        boolean capture = call.flag("returnStdout");
        builder.redirectErrorStream(!capture);

        long ticket = run.newTicket();
        Shell shell = new Shell(run, context, ticket, cookie);
        Process process = builder.start();
        run.underWay(ticket, shell);
        strand.await(ticket);
        boolean status = call.flag("returnStatus");
        new Thread(() -> shell.follow(process, capture, status), cookie).start();
    }

    private static Path writeScript(Path control, String text) throws IOException {
        Files.createDirectories(control);
        Path script = control.resolve("script.sh");
        Files.writeString(script, text.startsWith("#!") ? text : "#!/bin/sh -xe\n" + text);
        Files.setPosixFilePermissions(script, PosixFilePermissions.fromString("rwxr-xr-x"));
        return script;
    }

    /** Copies the output to the log as it comes, and answers when the script has ended. */
    private void follow(Process process, boolean capture, boolean returnStatus) {
        try {
            StringBuilder stdout = new StringBuilder();
            if (capture) {
                Thread errors = new Thread(() -> copy(process.getErrorStream()));
                errors.start();
                stdout.append(new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8));
                errors.join();
            } else {
                copy(process.getInputStream());
            }
            int status = process.waitFor();
            if (stopped != null) {
                outcome.complete(new Outcome(null, stopped));
            } else if (returnStatus) {
                outcome.complete(new Outcome(status, null));
            } else if (status != 0) {
                if (capture) {
                    run.log(stdout.toString(), context);
                }
                outcome.complete(new Outcome(null, new AbortException("script returned exit code " + status)));
            } else {
                outcome.complete(new Outcome(capture ? stdout.toString() : null, null));
            }
        } catch (IOException | InterruptedException e) {
            outcome.complete(new Outcome(null, e));
        }
    }

    private void copy(InputStream stream) {
        try (BufferedReader reader = new BufferedReader(new InputStreamReader(stream, StandardCharsets.UTF_8))) {
            for (String line = reader.readLine(); line != null; line = reader.readLine()) {
                run.log(line, context);
            }
        } catch (IOException e) {
            run.log("the output was cut off: " + e.getMessage(), context);
        }
    }

    @Override
    public void stop(Throwable cause) {
        stopped = cause;
        run.log("Sending interrupt signal to process", context);
        for (ProcessHandle process : withCookie(cookie)) {
            process.destroy();
        }
        outcome.completeOnTimeout(new Outcome(null, cause), GRACE_SECONDS, TimeUnit.SECONDS);
    }

    /** All processes of the script, however deep: they inherited its environment. */
    static List<ProcessHandle> withCookie(String cookie) {
        List<ProcessHandle> found = new ArrayList<>();
        String wanted = COOKIE + "=" + cookie;
        try (Stream<ProcessHandle> all = ProcessHandle.allProcesses()) {
            all.forEach(process -> {
                try {
                    String environment = Files.readString(
                        Path.of("/proc", Long.toString(process.pid()), "environ"), StandardCharsets.ISO_8859_1);
                    if (List.of(environment.split("\0")).contains(wanted)) {
                        found.add(process);
                    }
                } catch (IOException e) {
                    // It has ended, or belongs to another user: in both cases it is not the script's.
                }
            });
        }
        return found;
    }
}
