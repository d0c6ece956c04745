package hudson;

/** A step's failure, under the name that Jenkinsfiles know: its message is shown without a stack. */
public class AbortException extends Exception {
    private static final long serialVersionUID = 1L;

    public AbortException(String message) {
        super(message);
    }
}
