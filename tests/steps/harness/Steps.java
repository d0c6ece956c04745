package harness;

import com.cloudbees.groovy.cps.Continuable;
import com.cloudbees.groovy.cps.Outcome;
import java.util.HashMap;
import java.util.Map;

/** The steps of the harness, and the two ways to call one: at once, or by suspending the program. */
final class Steps {
    private static final Map<String, Now> NOW = new HashMap<>();
    private static final Map<String, Later> LATER = new HashMap<>();

    /** A step that is done when it returns, and also works in {@code @NonCPS} code. */
    interface Now {
        Object call(StepCall call, Run run) throws Exception;
    }

    /** A step that suspends the program. It makes the strand continue, wait, or enter a body. */
    interface Later {
        void start(StepCall call, Run run, Program.Strand strand) throws Exception;
    }

    static {
        PlainSteps.addTo(NOW, LATER);
        BlockSteps.addTo(LATER);
        Parallel.addTo(LATER);
        Shell.addTo(LATER);
        Credentials.addTo(NOW, LATER);
    }

    private Steps() {}

    static boolean isStep(String name) {
        return NOW.containsKey(name) || LATER.containsKey(name);
    }

    static Object invoke(String name, Object[] arguments) {
        StepCall call = StepCall.of(name, arguments);
        Now now = NOW.get(name);
        if (now == null) {
            return Continuable.suspend(name, call);
        }
        try {
            return now.call(call, Run.current());
        } catch (Exception e) {
            throw Steps.<RuntimeException>unchecked(e);
        }
    }

    static void start(StepCall call, Run run, Program.Strand strand) {
        run.log("[Pipeline] " + call.name());
        try {
            LATER.get(call.name()).start(call, run, strand);
        } catch (Exception e) {
            strand.goOn(new Outcome(null, e));
        }
    }

    /** Throws a checked exception unchanged: Groovy has no checked exceptions, and the program must see the original. */
    @SuppressWarnings("unchecked")
    private static <E extends Throwable> E unchecked(Throwable e) throws E {
        throw (E) e;
    }
}
