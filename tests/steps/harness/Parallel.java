package harness;

import com.cloudbees.groovy.cps.Outcome;
import groovy.lang.Closure;
import hudson.AbortException;
import java.io.Serializable;
import java.util.LinkedHashMap;
import java.util.Map;

/** {@code parallel a: { … }, b: { … }}: a strand for each branch; the step answers when all have ended. */
final class Parallel {
    private Parallel() {}

    static void addTo(Map<String, Steps.Later> later) {
        later.put("parallel", Parallel::start);
    }

    private static void start(StepCall call, Run run, Program.Strand strand) throws AbortException {
        Map<String, Closure<?>> branches = new LinkedHashMap<>();
        for (Map.Entry<String, Object> branch : call.named().entrySet()) {
            if (!(branch.getValue() instanceof Closure<?> body)) {
                throw new AbortException("parallel: the branch `" + branch.getKey() + "` is not a closure");
            }
            branches.put(branch.getKey(), body);
        }
        if (branches.isEmpty()) {
            strand.goOn(new Outcome(new LinkedHashMap<>(), null));
            return;
        }
        Together together = new Together(run.newTicket(), branches.size());
        strand.await(together.ticket);
        branches.forEach((name, body) -> {
            run.log("[Pipeline] { (Branch: " + name + ")");
            run.program().start(body, strand.context(), new BranchEnd(together, name));
        });
    }

    /** What the branches share. It is saved with them, so the restored branches share the restored one. */
    private static final class Together implements Serializable {
        private static final long serialVersionUID = 1L;

        private final long ticket;
        private final Map<String, Object> answers = new LinkedHashMap<>();
        private int running;
        private Throwable firstFailure;

        private Together(long ticket, int branches) {
            this.ticket = ticket;
            running = branches;
        }
    }

    private record BranchEnd(Together together, String name) implements Program.End {
        @Override
        public Outcome ended(Program program, Program.Strand strand, Outcome body) {
            together.running--;
            together.answers.put(name, body.getNormal());
            if (body.isFailure()) {
                Run.current().log("Failed in branch " + name);
                if (together.firstFailure == null) {
                    together.firstFailure = body.getAbnormal();
                } else if (together.firstFailure != body.getAbnormal()) {
                    together.firstFailure.addSuppressed(body.getAbnormal());
                }
            }
            if (together.running == 0) {
                program.waitingFor(together.ticket).goOn(together.firstFailure == null
                    ? new Outcome(together.answers, null) : new Outcome(null, together.firstFailure));
            }
            return null;
        }
    }
}
