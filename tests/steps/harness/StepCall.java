package harness;

import groovy.lang.Closure;
import groovy.lang.GString;
import hudson.AbortException;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * A call of a step: {@code name(single) { body }} or {@code name(a: 1, b: 2) { body }}.
 * GStrings are already Strings, as in Jenkins.
 */
record StepCall(String name, Object single, Map<String, Object> named, Closure<?> body) {

    static StepCall of(String name, Object[] arguments) {
        List<Object> rest = new ArrayList<>(List.of(arguments));
        Closure<?> body = null;
        if (!rest.isEmpty() && rest.get(rest.size() - 1) instanceof Closure<?> last) {
            body = last;
            rest.remove(rest.size() - 1);
        }
        if (rest.size() > 1) {
            throw new IllegalArgumentException("Expected named arguments but got " + rest);
        }
        Object single = rest.isEmpty() ? null : flat(rest.get(0));
        Map<String, Object> named = new LinkedHashMap<>();
        if (single instanceof Map<?, ?> map) {
            map.forEach((key, value) -> named.put(String.valueOf(key), value));
            single = null;
        }
        return new StepCall(name, single, named, body);
    }

    private static Object flat(Object value) {
        if (value instanceof GString) {
            return value.toString();
        }
        if (value instanceof List<?> list) {
            return new ArrayList<>(list.stream().map(StepCall::flat).toList());
        }
        if (value instanceof Map<?, ?> map) {
            Map<Object, Object> flattened = new LinkedHashMap<>();
            map.forEach((key, element) -> flattened.put(flat(key), flat(element)));
            return flattened;
        }
        return value;
    }

    /** Refuses arguments that the step does not have; Jenkins only warns, but a test must fail. */
    void allow(String... names) throws AbortException {
        for (String given : named.keySet()) {
            if (!Set.of(names).contains(given)) {
                throw new AbortException("No such DSL argument '" + given + "' of step " + name);
            }
        }
    }

    /** An argument whose name may be omitted, as in {@code sh 'true'}. */
    Object main(String argument) throws AbortException {
        Object value = single != null ? single : named.get(argument);
        if (value == null) {
            throw new AbortException(name + ": the argument '" + argument + "' is missing");
        }
        return value;
    }

    String mainText(String argument) throws AbortException {
        Object value = main(argument);
        if (value instanceof String text) {
            return text;
        }
        throw new AbortException(name + ": '" + argument + "' must be a String, not a " + value.getClass().getName());
    }

    String text(String argument, String otherwise) {
        Object value = named.get(argument);
        return value == null ? otherwise : value.toString();
    }

    boolean flag(String argument) {
        return Boolean.TRUE.equals(named.get(argument));
    }

    Closure<?> requireBody() throws AbortException {
        if (body == null) {
            throw new AbortException("There is no body for step " + name);
        }
        return body;
    }
}
