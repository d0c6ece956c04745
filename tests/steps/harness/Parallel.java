package harness;

import com.cloudbees.groovy.cps.Outcome;
import groovy.lang.Closure;
import hudson.AbortException;
import java.io.Serializable;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.Map;
import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException;

/**
 * {@code parallel a: { … }, b: { … }}: a strand for each branch; the step ends when all have ended. With {@code
 * failFast: true}, the first branch that fails stops the others.
 */
final class Parallel {
    private Parallel() {}

    static void addTo(Map<String, Steps.Later> later) {
        later.put("parallel", Parallel::start);
    }

    private static void start(StepCall call, Run run, Program.Strand strand) throws AbortException {
        Map<String, Closure<?>> branches = new LinkedHashMap<>();
        boolean failFast = false;
        for (Map.Entry<String, Object> branch : call.named().entrySet()) {
            if (branch.getKey().equals("failFast") && branch.getValue() instanceof Boolean wanted) {
                failFast = wanted;
            } else if (!(branch.getValue() instanceof Closure<?> body)) {
                throw new AbortException("parallel: the branch `" + branch.getKey() + "` is not a closure");
            } else {
                branches.put(branch.getKey(), body);
            }
        }
        if (branches.isEmpty()) {
            strand.goOn(new Outcome(new LinkedHashMap<>(), null));
            return;
        }
        Together together = new Together(run.newTicket(), branches.size(), failFast);
        strand.await(together.ticket);
        branches.forEach((name, body) -> {
            run.log("[Pipeline] { (Branch: " + name + ")");
            together.strands.add(run.program().start(body, strand.context(), new BranchEnd(together, name)).id);
        });
    }

    /** The branches' shared state. It is saved with them, so the restored branches share the restored state. */
    private static final class Together implements Serializable {
        private static final long serialVersionUID = 1L;

        private final long ticket;
        private final boolean failFast;
        private final Map<String, Object> answers = new LinkedHashMap<>();
        private final ArrayList<Integer> strands = new ArrayList<>();
        private int running;
        private Throwable firstFailure;

        private Together(long ticket, int branches, boolean failFast) {
            this.ticket = ticket;
            this.failFast = failFast;
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
                    if (together.failFast) {
                        together.strands.remove((Object) strand.id);
                        Run.current().stop(together.strands,
                            new FlowInterruptedException("ABORTED", "Failed in branch " + name));
                    }
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
