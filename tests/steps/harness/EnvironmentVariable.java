package harness;

import groovy.lang.GroovyObjectSupport;
import java.io.Serializable;
import java.util.LinkedHashMap;
import java.util.Map;

/** The global variable {@code env}: reads the variables of a step, and sets variables of the whole build. */
public final class EnvironmentVariable extends GroovyObjectSupport implements Serializable {
    private static final long serialVersionUID = 1L;

    @Override
    public Object getProperty(String name) {
        return Run.current().variable(name);
    }

    @Override
    public void setProperty(String name, Object value) {
        Run.current().program().variables.put(name, String.valueOf(value));
    }

    public Map<String, String> getEnvironment() {
        Run run = Run.current();
        return new LinkedHashMap<>(run.environment(run.context()));
    }
}
