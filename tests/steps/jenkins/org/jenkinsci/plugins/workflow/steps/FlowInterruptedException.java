package org.jenkinsci.plugins.workflow.steps;

/** The exception of an interrupted step, with the class name that Jenkinsfiles use. */
public class FlowInterruptedException extends InterruptedException {
    private static final long serialVersionUID = 1L;

    private final String result;

    /** {@code result} is the build's result if nothing catches it: {@code ABORTED} for a person's abort. */
    public FlowInterruptedException(String result, String cause) {
        super(cause);
        this.result = result;
    }

    public String getResult() {
        return result;
    }
}
