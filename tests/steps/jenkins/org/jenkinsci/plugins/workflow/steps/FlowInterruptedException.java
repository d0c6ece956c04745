package org.jenkinsci.plugins.workflow.steps;

/** What an interrupted step throws into the program, under the name that Jenkinsfiles know. */
public class FlowInterruptedException extends InterruptedException {
    private static final long serialVersionUID = 1L;

    private final String result;

    /** {@code result} is what the build becomes if nothing catches it: {@code ABORTED} for a person's abort. */
    public FlowInterruptedException(String result, String cause) {
        super(cause);
        this.result = result;
    }

    public String getResult() {
        return result;
    }
}
