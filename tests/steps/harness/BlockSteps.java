package harness;

import com.cloudbees.groovy.cps.Outcome;
import groovy.lang.Closure;
import hudson.AbortException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException;

/** Steps with a body: they change the body's context, and return its result. */
final class BlockSteps {
    private BlockSteps() {}

    /** Returns the body's result. */
    record PassOn() implements Program.End {
        @Override
        public Outcome ended(Program program, Program.Strand strand, Outcome body) {
            return body;
        }
    }

    static void addTo(Map<String, Steps.Later> later) {
        later.put("node", (call, run, strand) -> {
            Path workspace = run.job().workspace();
            Files.createDirectories(workspace);
            run.log("Running on agent in " + workspace);
            Context inside = strand.context().withWorkspace(workspace).withVariables(Map.of(
                "WORKSPACE", workspace.toString(), "WORKSPACE_TMP", workspace + "@tmp", "NODE_NAME", "agent"));
            enter(call, strand, inside);
        });
        later.put("stage", (call, run, strand) -> {
            String name = call.mainText("name");
            run.log("[Pipeline] { (" + name + ")");
            enter(call, strand, strand.context().withVariables(Map.of("STAGE_NAME", name)));
        });
        later.put("script", (call, run, strand) -> enter(call, strand, strand.context()));
        later.put("dir", (call, run, strand) -> {
            Path directory = strand.context().requireDirectory().resolve(call.mainText("path"));
            run.log("Running in " + directory);
            enter(call, strand, strand.context().withDirectory(directory));
        });
        later.put("withEnv", BlockSteps::withEnv);
        later.put("timeout", BlockSteps::timeout);
        later.put("retry", (call, run, strand) -> {
            int count = ((Number) call.main("count")).intValue();
            strand.enter(call.requireBody(), new Object[0], strand.context(), new Retry(call.requireBody(), count - 1));
        });
        later.put("ws", (call, run, strand) -> {
            Path workspace = strand.context().requireDirectory().resolve(call.mainText("dir"));
            Files.createDirectories(workspace);
            run.log("Running in " + workspace);
            enter(call, strand, strand.context().withWorkspace(workspace).withVariables(Map.of(
                "WORKSPACE", workspace.toString(), "WORKSPACE_TMP", workspace + "@tmp")));
        });
        later.put("catchError", (call, run, strand) -> {
            call.allow("message", "buildResult", "stageResult");
            strand.enter(call.requireBody(), new Object[0], strand.context(),
                new CatchError(call.text("message", null), call.text("buildResult", "FAILURE")));
        });
    }

    private static void enter(StepCall call, Program.Strand strand, Context inside) throws AbortException {
        strand.enter(call.requireBody(), new Object[0], inside, new PassOn());
    }

    /** An empty value unsets, {@code PATH+X} prepends, nothing is expanded. */
    private static void withEnv(StepCall call, Run run, Program.Strand strand) throws AbortException {
        Map<String, String> around = run.environment(strand.context());
        Map<String, String> variables = new LinkedHashMap<>();
        for (Object entry : (List<?>) call.main("overrides")) {
            String[] pair = entry.toString().split("=", 2);
            if (pair.length != 2) {
                throw new AbortException("withEnv: `" + entry + "` is not NAME=VALUE");
            }
            int plus = pair[0].indexOf('+');
            if (plus > 0) {
                String name = pair[0].substring(0, plus);
                String before = variables.getOrDefault(name, around.get(name));
                variables.put(name, before == null ? pair[1] : pair[1] + ":" + before);
            } else {
                variables.put(pair[0], pair[1].isEmpty() ? null : pair[1]);
            }
        }
        enter(call, strand, strand.context().withVariables(variables));
    }

    private static void timeout(StepCall call, Run run, Program.Strand strand) throws AbortException {
        call.allow("time", "unit");
        long ticket = run.newTicket();
        TimeUnit unit = TimeUnit.valueOf(call.text("unit", "MINUTES"));
        CompletableFuture<Void> timer = new CompletableFuture<>();
        timer.completeOnTimeout(null, ((Number) call.main("time")).longValue(), unit)
            .thenRun(() -> run.timedOut(ticket));
        run.underWay(ticket, cause -> timer.cancel(false));
        strand.enter(call.requireBody(), new Object[0], strand.context().withTimeout(ticket), new TimeoutEnd(ticket));
    }

    private record TimeoutEnd(long ticket) implements Program.End {
        @Override
        public Outcome ended(Program program, Program.Strand strand, Outcome body) {
            Run.current().forget(ticket);
            return body;
        }
    }

    /** A failure inside restarts the body, an abort is passed on. */
    private record Retry(Closure<?> body, int left) implements Program.End {
        @Override
        public Outcome ended(Program program, Program.Strand strand, Outcome outcome) {
            Throwable failure = outcome.getAbnormal();
            if (failure == null || left == 0 || failure instanceof FlowInterruptedException) {
                return outcome;
            }
            Run.current().log("ERROR: " + failure.getMessage() + "\nRetrying", strand.context());
            strand.enter(body, new Object[0], strand.context(), new Retry(body, left - 1));
            return null;
        }
    }

    /** A failure inside sets the build's result and is not passed on; an abort is. */
    private record CatchError(String message, String result) implements Program.End {
        @Override
        public Outcome ended(Program program, Program.Strand strand, Outcome body) {
            Throwable failure = body.getAbnormal();
            if (failure == null || failure instanceof FlowInterruptedException) {
                return body;
            }
            Run.current().log("ERROR: " + (message != null ? message : failure.getMessage()), strand.context());
            Run.current().worsen(result);
            return new Outcome(null, null);
        }
    }
}
