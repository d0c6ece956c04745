package harness;

import hudson.AbortException;
import java.io.Serializable;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * The context that the blocks around a step provide: variables, the directory, secrets to mask, timeouts. A value:
 * each block derives its own from the surrounding one.
 *
 * @param variables the variables of {@code node}, {@code withEnv} and {@code withCredentials}; null unsets a variable
 * @param workspace the node's workspace, null outside of {@code node}
 * @param directory the working directory of steps: the workspace, or the directory of {@code dir}
 * @param secrets   texts that no log line may show
 * @param timeouts  tickets of the surrounding {@code timeout} blocks
 */
record Context(
        LinkedHashMap<String, String> variables,
        String workspace,
        String directory,
        ArrayList<String> secrets,
        ArrayList<Long> timeouts)
        implements Serializable {

    static Context empty() {
        return new Context(new LinkedHashMap<>(), null, null, new ArrayList<>(), new ArrayList<>());
    }

    Context withVariables(Map<String, String> more) {
        LinkedHashMap<String, String> all = new LinkedHashMap<>(variables);
        all.putAll(more);
        return new Context(all, workspace, directory, secrets, timeouts);
    }

    Context withWorkspace(Path path) {
        return new Context(variables, path.toString(), path.toString(), secrets, timeouts);
    }

    Context withDirectory(Path path) {
        return new Context(variables, workspace, path.toString(), secrets, timeouts);
    }

    Context withSecrets(List<String> more) {
        ArrayList<String> all = new ArrayList<>(secrets);
        all.addAll(more);
        return new Context(variables, workspace, directory, all, timeouts);
    }

    Context withTimeout(long ticket) {
        ArrayList<Long> all = new ArrayList<>(timeouts);
        all.add(ticket);
        return new Context(variables, workspace, directory, secrets, all);
    }

    /** The step's directory; a step that needs one fails outside of {@code node} as it does in Jenkins. */
    Path requireDirectory() throws AbortException {
        if (directory == null) {
            throw new AbortException("Required context class hudson.FilePath is missing\n"
                + "Perhaps you forgot to surround the step with a step that provides this, such as: node");
        }
        return Path.of(directory);
    }

    /** The directory for temporary files, which Jenkins puts beside a directory. */
    Path requireTemporary() throws AbortException {
        Path directory = requireDirectory();
        return directory.resolveSibling(directory.getFileName() + "@tmp");
    }
}
