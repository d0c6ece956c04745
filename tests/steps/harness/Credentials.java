package harness;

import com.cloudbees.groovy.cps.Outcome;
import hudson.AbortException;
import java.io.IOException;
import java.io.Serializable;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;

/** {@code withCredentials} and its bindings, like those of the Credentials Binding plugin. */
final class Credentials {
    private Credentials() {}

    private record Binding(String kind, String id, Map<String, String> variables) implements Serializable {}

    static void addTo(Map<String, Steps.Now> now, Map<String, Steps.Later> later) {
        now.put("string", binding("variable"));
        now.put("file", binding("variable"));
        now.put("usernamePassword", binding("usernameVariable", "passwordVariable"));
        // Declarative's `X = credentials('id')`: the credential decides the kind of binding.
        now.put("credentials", (call, run) -> new LinkedHashMap<>(Map.of("credentialsId", call.mainText("id"))));
        now.put("declarativeBinding", (call, run) -> declarative(run, call.text("variable", null), call.text("id", null)));
        later.put("withCredentials", Credentials::with);
    }

    private static Steps.Now binding(String... variables) {
        return (call, run) -> {
            Map<String, String> named = new LinkedHashMap<>();
            for (String variable : variables) {
                String name = call.text(variable, null);
                if (name == null) {
                    throw new AbortException(call.name() + ": the argument '" + variable + "' is missing");
                }
                named.put(variable, name);
            }
            return new Binding(call.name(), call.text("credentialsId", null), named);
        };
    }

    private static Binding declarative(Run run, String variable, String id) throws AbortException {
        Credential credential = find(run, id);
        if (credential instanceof Credential.UsernamePassword) {
            return new Binding("usernamePassword", id, new LinkedHashMap<>(Map.of(
                "usernameVariable", variable + "_USR", "passwordVariable", variable + "_PSW", "both", variable)));
        }
        String kind = credential instanceof Credential.SecretFile ? "file" : "string";
        return new Binding(kind, id, new LinkedHashMap<>(Map.of("variable", variable)));
    }

    private static Credential find(Run run, String id) throws AbortException {
        Credential found = id == null ? null : run.job().credential(id);
        if (found == null) {
            throw new AbortException("Could not find credentials entry with ID '" + id + "'");
        }
        return found;
    }

    private static void with(StepCall call, Run run, Program.Strand strand) throws IOException, AbortException {
        Map<String, String> variables = new LinkedHashMap<>();
        List<String> secrets = new ArrayList<>();
        ArrayList<String> files = new ArrayList<>();
        for (Object element : (List<?>) call.main("bindings")) {
            Binding binding = (Binding) element;
            Credential credential = find(run, binding.id());
            if (binding.kind().equals("string") && credential instanceof Credential.SecretText text) {
                variables.put(binding.variables().get("variable"), text.secret());
                secrets.add(text.secret());
            } else if (binding.kind().equals("file") && credential instanceof Credential.SecretFile file) {
                Path path = secretFile(strand.context(), file);
                files.add(path.toString());
                variables.put(binding.variables().get("variable"), path.toString());
                secrets.add(path.toString());
            } else if (binding.kind().equals("usernamePassword") && credential instanceof Credential.UsernamePassword both) {
                variables.put(binding.variables().get("usernameVariable"), both.username());
                variables.put(binding.variables().get("passwordVariable"), both.password());
                if (binding.variables().containsKey("both")) {
                    variables.put(binding.variables().get("both"), both.username() + ":" + both.password());
                }
                secrets.add(both.password());
            } else {
                throw new AbortException("Credentials '" + binding.id() + "' is of type '"
                    + credential.getClass().getSimpleName() + "' where '" + binding.kind() + "' was expected");
            }
        }
        Context inside = strand.context().withVariables(variables).withSecrets(secrets);
        run.log("Masking supported pattern matches of $" + String.join(" or $", variables.keySet()));
        strand.enter(call.requireBody(), new Object[0], inside, new Unbind(files, new ArrayList<>(secrets)));
    }

    private static Path secretFile(Context context, Credential.SecretFile file) throws IOException, AbortException {
        Path directory = context.requireTemporary().resolve("secretFiles").resolve(UUID.randomUUID().toString());
        Files.createDirectories(directory);
        Files.setPosixFilePermissions(directory, PosixFilePermissions.fromString("rwx------"));
        Path path = directory.resolve(file.fileName());
        Files.writeString(path, file.content());
        Files.setPosixFilePermissions(path, PosixFilePermissions.fromString("rw-------"));
        return path;
    }

    /** Removes the files, and masks secrets in an exception. */
    private record Unbind(ArrayList<String> files, ArrayList<String> secrets) implements Program.End {
        @Override
        public Outcome ended(Program program, Program.Strand strand, Outcome body) {
            for (String file : files) {
                try {
                    PlainFiles.deleteTree(Path.of(file).getParent());
                } catch (IOException e) {
                    throw new UncheckedIOException(e);
                }
            }
            Throwable failure = body.getAbnormal();
            if (failure != null && failure.getMessage() != null) {
                String masked = Console.mask(failure.getMessage(), secrets);
                if (!masked.equals(failure.getMessage())) {
                    return new Outcome(null, new AbortException(masked));
                }
            }
            return body;
        }
    }
}
