package harness;

import com.cloudbees.groovy.cps.Continuable;
import com.cloudbees.groovy.cps.Outcome;
import hudson.AbortException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException;

/**
 * One build of a Jenkinsfile: drives the program, and owns everything that cannot be saved (processes,
 * timers, the log). After every slice of the program, the whole program is saved, and the restored
 * one continues.
 */
public final class Run {
    private static final ThreadLocal<Run> CURRENT = new ThreadLocal<>();
    /** Longer than any build of the tests: a build that hangs must fail, with its log. */
    private static final long EVENT_MINUTES_MAX = 10;

    /** The differences of the interpreter's Groovy: loops in CPS, and iterators that can be saved. */
    @SuppressWarnings("rawtypes")
    private static final List<Class> CATEGORIES = categories();

    private final Job job;
    private final Console console = new Console();
    private final BlockingQueue<Event> events = new LinkedBlockingQueue<>();
    private final Map<Long, Live> live = new ConcurrentHashMap<>();
    private final AtomicLong tickets = new AtomicLong();

    private Library library;
    private Program program;
    private Program.Strand strand;

    /** A running step outside of the program: a process, a timer. */
    interface Live {
        /** Ends it early; its ticket is then answered with this cause. May be called several times. */
        void stop(Throwable cause);
    }

    private sealed interface Event {
        record Answer(long ticket, Outcome outcome) implements Event {}

        record Interrupt(Throwable cause, Long timeout, String result) implements Event {}
    }

    /** The result of a build, for a test. */
    public record Finished(String result, String log, Throwable failure, String description, Path workspace) {}

    private Run(Job job) {
        this.job = job;
    }

    /** Runs a job's Jenkinsfile once, to its end. */
    public static Finished of(Job job) {
        Run run = new Run(job);
        CURRENT.set(run);
        try {
            return run.toTheEnd();
        } catch (IOException e) {
            throw new IllegalStateException("the harness failed; the log so far:\n" + run.console.text(), e);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new IllegalStateException("the harness was interrupted", e);
        } finally {
            CURRENT.remove();
        }
    }

    @SuppressWarnings("rawtypes")
    private static List<Class> categories() {
        List<Class> all = new ArrayList<>(Continuable.categories);
        all.add(SavableIterators.class);
        return all;
    }

    static Run current() {
        Run run = CURRENT.get();
        if (run == null) {
            throw new IllegalStateException("no build runs in this thread");
        }
        return run;
    }

    private Finished toTheEnd() throws IOException, InterruptedException {
        Files.createDirectories(job.workspace());
        library = new Library(job.vars(), job.jenkinsfile());
        program = new Program();
        job.abortWhen().ifPresent(when -> console.when(when.line(), () -> {
            when.await().run();
            abort();
        }));
        program.start(new Continuable(library.newJenkinsfile()), Context.empty(), new MainEnd());
        while (true) {
            strand = program.runnable();
            if (strand != null) {
                runSlice();
                saveAndRestore();
            } else if (program.strands().isEmpty()) {
                return finished();
            } else {
                handle(nextEvent());
            }
        }
    }

    /** The Jenkinsfile itself has ended. */
    private record MainEnd() implements Program.End {
        @Override
        public Outcome ended(Program program, Program.Strand strand, Outcome body) {
            program.ended = body;
            return null;
        }
    }

    /** Runs the strand until it suspends in a step or its top frame ends. */
    private void runSlice() {
        Program.Frame frame = strand.frames.getFirst();
        Outcome outcome = frame.code().run0(strand.next(), CATEGORIES);
        if (frame.code().isResumable()) {
            Steps.start((StepCall) outcome.getNormal(), this, strand);
            return;
        }
        strand.frames.pop();
        strand.await(0);
        Outcome answer = frame.end().ended(program, strand, outcome);
        if (strand.frames.isEmpty()) {
            program.remove(strand);
        } else if (answer != null) {
            strand.goOn(answer);
        }
    }

    /**
     * A local that cannot be saved throws at the program's current position, as in Jenkins. The program
     * may still hold the local, so the build ends there.
     */
    private void saveAndRestore() throws IOException {
        Library before = library;
        if (job.restarts()) {
            library = new Library(job.vars(), job.jenkinsfile());
        }
        try {
            program = Snapshot.roundTrip(program, before.loader(), library.loader());
        } catch (java.io.NotSerializableException e) {
            live.values().forEach(step -> step.stop(e));
            program = new Program();
            program.ended = new Outcome(null, e);
        }
    }

    private Event nextEvent() throws IOException, InterruptedException {
        Event event = events.poll(EVENT_MINUTES_MAX, TimeUnit.MINUTES);
        if (event == null) {
            throw new IOException("nothing happened for " + EVENT_MINUTES_MAX + " minutes");
        }
        return event;
    }

    private void handle(Event event) {
        if (event instanceof Event.Answer answer) {
            live.remove(answer.ticket());
            Program.Strand waiting = program.waitingFor(answer.ticket());
            if (waiting != null) {
                waiting.goOn(answer.outcome());
            }
        } else if (event instanceof Event.Interrupt interrupt) {
            if (interrupt.result() != null) {
                program.result = interrupt.result();
            }
            for (Program.Strand waiting : program.strands()) {
                Live step = live.get(waiting.ticket());
                boolean meant = interrupt.timeout() == null
                    || waiting.context().timeouts().contains(interrupt.timeout());
                if (step != null && meant) {
                    step.stop(interrupt.cause());
                }
            }
        }
    }

    private Finished finished() {
        Throwable failure = program.ended.getAbnormal();
        if (failure instanceof FlowInterruptedException interrupted) {
            worsen(interrupted.getResult());
        } else if (failure != null) {
            worsen("FAILURE");
        }
        if (failure != null) {
            console.println(failure instanceof AbortException || failure instanceof FlowInterruptedException
                ? "ERROR: " + failure.getMessage() : stack(failure), List.of());
        }
        String result = program.result == null ? "SUCCESS" : program.result;
        console.println("Finished: " + result, List.of());
        return new Finished(result, console.text(), failure, program.description, job.workspace());
    }

    private static String stack(Throwable failure) {
        java.io.StringWriter text = new java.io.StringWriter();
        failure.printStackTrace(new java.io.PrintWriter(text));
        return text.toString().stripTrailing();
    }

    // For steps.

    Job job() {
        return job;
    }

    Library library() {
        return library;
    }

    Program program() {
        return program;
    }

    /** The context of the code that runs now. */
    Context context() {
        return strand == null || strand.frames.isEmpty() ? Context.empty() : strand.context();
    }

    void log(String text) {
        log(text, context());
    }

    /** Writes to the log; a running step may call it from another thread. */
    void log(String text, Context context) {
        console.println(text, context.secrets());
    }

    long newTicket() {
        return tickets.incrementAndGet();
    }

    void underWay(long ticket, Live step) {
        live.put(ticket, step);
    }

    void forget(long ticket) {
        Live step = live.remove(ticket);
        if (step != null) {
            step.stop(null);
        }
    }

    /** Answers a step; may be called from any thread. */
    void answer(long ticket, Outcome outcome) {
        events.add(new Event.Answer(ticket, outcome));
    }

    /** A {@code timeout} block's time is over: stops the steps inside it. */
    void timedOut(long ticket) {
        events.add(new Event.Interrupt(
            new FlowInterruptedException("ABORTED", "Timeout has been exceeded"), ticket, null));
    }

    /** Stops the steps that some strands wait for. */
    void stop(List<Integer> strands, Throwable cause) {
        for (Program.Strand waiting : program.strands()) {
            Live step = live.get(waiting.ticket());
            if (step != null && strands.contains(waiting.id)) {
                step.stop(cause);
            }
        }
    }

    /** Aborts the build as a person would. Jenkins sets the result before the program is interrupted. */
    void abort() {
        console.println("Aborted by Test", List.of());
        events.add(new Event.Interrupt(
            new FlowInterruptedException("ABORTED", "Aborted by Test"), null, "ABORTED"));
    }

    /** Sets the result, unless it is already worse. */
    void worsen(String result) {
        List<String> order = List.of("SUCCESS", "UNSTABLE", "FAILURE", "NOT_BUILT", "ABORTED");
        if (program.result == null || order.indexOf(result) > order.indexOf(program.result)) {
            program.result = result;
        }
    }

    boolean hasScm() {
        return job.scm() != null;
    }

    /** A variable as {@code env.X} and a bare {@code X} see it, null if there is none. */
    String variable(String name) {
        return environment(context()).get(name);
    }

    /** All variables of a step in a context. An empty value in {@code withEnv} unsets a variable. */
    Map<String, String> environment(Context context) {
        Map<String, String> all = new LinkedHashMap<>();
        if (context.workspace() != null) {
            all.putAll(job.agentVariables());
        }
        all.putAll(job.buildVariables());
        all.putAll(program.variables);
        context.variables().forEach((name, value) -> {
            if (value == null) {
                all.remove(name);
            } else {
                all.put(name, value);
            }
        });
        return all;
    }
}
