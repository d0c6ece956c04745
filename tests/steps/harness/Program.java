package harness;

import com.cloudbees.groovy.cps.Block;
import com.cloudbees.groovy.cps.Continuable;
import com.cloudbees.groovy.cps.Outcome;
import com.cloudbees.groovy.cps.impl.ConstantBlock;
import com.cloudbees.groovy.cps.impl.CpsCallableInvocation;
import groovy.lang.Closure;
import java.io.Serializable;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * The running program as Jenkins saves it: its strands (Jenkins: CPS threads), the step that each waits for, and
 * the build's state so far. Everything here survives a save; nothing here refers to a live process.
 */
final class Program implements Serializable {
    private static final long serialVersionUID = 1L;

    private final List<Strand> strands = new ArrayList<>();
    private int nextStrand;

    /** The variables set by {@code env.X = …}. */
    final Map<String, String> variables = new LinkedHashMap<>();
    /** The build's result, null while nothing has set it. */
    String result;
    String description;
    String displayName;
    /** How the main strand ended. */
    Outcome ended;

    /** A frame's end: turns the body's outcome into the outcome of the step that ran the body. */
    interface End extends Serializable {
        /** Null if the step's result comes later. */
        Outcome ended(Program program, Strand strand, Outcome body);
    }

    /** A piece of the program, its context, and the action at its end. */
    record Frame(Continuable code, Context context, End end) implements Serializable {}

    /** One line of execution: a stack of frames. It runs, or waits for one step's ticket. */
    static final class Strand implements Serializable {
        private static final long serialVersionUID = 1L;

        final int id;
        final ArrayDeque<Frame> frames = new ArrayDeque<>();
        /** The outcome with which the top frame continues; null while the strand waits. */
        private Outcome next;
        /** The ticket of the step that it waits for, 0 if there is none. */
        private long ticket;

        private Strand(int id) {
            this.id = id;
        }

        Context context() {
            return frames.getFirst().context();
        }

        Outcome next() {
            return next;
        }

        void goOn(Outcome outcome) {
            next = outcome;
            ticket = 0;
        }

        void await(long stepTicket) {
            next = null;
            ticket = stepTicket;
        }

        long ticket() {
            return ticket;
        }

        /** Runs a block's body next, in its own context. */
        void enter(Closure<?> body, Object[] arguments, Context context, End end) {
            frames.push(new Frame(continuable(body, arguments), context, end));
            goOn(new Outcome(null, null));
        }
    }

    Strand start(Continuable code, Context context, End end) {
        Strand strand = new Strand(nextStrand++);
        strand.frames.push(new Frame(code, context, end));
        strand.goOn(new Outcome(null, null));
        strands.add(strand);
        return strand;
    }

    Strand start(Closure<?> body, Context context, End end) {
        return start(continuable(body, new Object[0]), context, end);
    }

    void remove(Strand strand) {
        strands.remove(strand);
    }

    List<Strand> strands() {
        return strands;
    }

    Strand runnable() {
        for (Strand strand : strands) {
            if (strand.next != null) {
                return strand;
            }
        }
        return null;
    }

    Strand waitingFor(long ticket) {
        for (Strand strand : strands) {
            if (strand.ticket == ticket) {
                return strand;
            }
        }
        return null;
    }

    /** Calling a CPS closure throws the code that the interpreter has to run; any other closure runs at once. */
    private static Continuable continuable(Closure<?> body, Object[] arguments) {
        Block block;
        try {
            block = new ConstantBlock(body.call(arguments));
        } catch (CpsCallableInvocation invocation) {
            block = invocation.asBlock();
        }
        return new Continuable(block);
    }
}
