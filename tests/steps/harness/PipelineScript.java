package harness;

import com.cloudbees.groovy.cps.SerializableScript;
import groovy.lang.Closure;
import groovy.lang.GroovyObject;
import groovy.lang.MissingMethodException;
import groovy.lang.MissingPropertyException;
import org.codehaus.groovy.runtime.InvokerHelper;

/**
 * The base class of a Jenkinsfile and of every file in {@code vars/}. Looks names up in
 * Jenkins' order: the script's own binding, global variables (the library's and Jenkins'), steps.
 */
public abstract class PipelineScript extends SerializableScript {
    private static final long serialVersionUID = 1L;

    @Override
    public Object invokeMethod(String name, Object args) {
        Object[] arguments = InvokerHelper.asArray(args);
        if (getBinding().hasVariable(name) && getBinding().getVariable(name) instanceof Closure<?> closure) {
            return closure.call(arguments);
        }
        Object global = global(name);
        if (global != null) {
            return InvokerHelper.getMetaClass(global).invokeMethod(global, "call", arguments);
        }
        if (Steps.isStep(name)) {
            return Steps.invoke(name, arguments);
        }
        throw new MissingMethodException(name, getClass(), arguments);
    }

    @Override
    public Object getProperty(String name) {
        try {
            return super.getProperty(name);
        } catch (MissingPropertyException missing) {
            Object found = global(name);
            if (found == null) {
                found = Run.current().variable(name);
            }
            if (found == null) {
                throw missing;
            }
            return found;
        }
    }

    /** Groovy's own method would print to the controller's console; in Jenkins this is the step {@code echo}. */
    @Override
    public void println(Object value) {
        Steps.invoke("echo", new Object[] {String.valueOf(value)});
    }

    @Override
    public Object evaluate(String expression) {
        throw new UnsupportedOperationException("evaluate: a step must not make code at run time");
    }

    /** A variable of the library is created once for each script that uses it, so its state is not shared. */
    private Object global(String name) {
        if (getBinding().hasVariable(name)) {
            return getBinding().getVariable(name);
        }
        Run run = Run.current();
        if (run.library().hasVar(name)) {
            GroovyObject script = run.library().newVar(name);
            getBinding().setVariable(name, script);
            return script;
        }
        return switch (name) {
            case "env" -> new EnvironmentVariable();
            case "currentBuild" -> new CurrentBuild();
            case "scm" -> run.hasScm() ? "scm" : null;
            default -> null;
        };
    }
}
