package hudson;

/** A step's failure, with the class name that Jenkinsfiles use. Its message is shown without a stack trace. */
public class AbortException extends Exception {
    private static final long serialVersionUID = 1L;

    public AbortException(String message) {
        super(message);
    }
}
