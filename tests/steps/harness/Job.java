package harness;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.function.Predicate;

/** A test's configuration of "Jenkins" before it runs a build: the job, its agent and its credentials. */
public final class Job {
    private final List<Path> vars = new ArrayList<>();
    private final String jenkinsfile;
    private final Path workspace;
    private final Map<String, String> agentVariables = new LinkedHashMap<>();
    private final Map<String, String> buildVariables = new LinkedHashMap<>();
    private final Map<String, Credential> credentials = new LinkedHashMap<>();
    private Path scm;
    private boolean restarts;
    private Abort abortWhen;

    public Job(String name, int number, String jenkinsfile, Path workspace) {
        this.jenkinsfile = jenkinsfile;
        this.workspace = workspace;
        buildVariables.put("JOB_NAME", name);
        buildVariables.put("JOB_BASE_NAME", name.substring(name.lastIndexOf('/') + 1));
        buildVariables.put("BUILD_NUMBER", Integer.toString(number));
        buildVariables.put("BUILD_TAG", "jenkins-" + name.replace('/', '-') + "-" + number);
        vars.add(Path.of(System.getProperty("harness.declarative")));
        vars.add(Path.of(System.getProperty("harness.vars")));
    }

    /** A folder with the steps of a library. */
    public Job library(Path folder) {
        vars.add(folder);
        return this;
    }

    /** A variable of the agent's own environment. */
    public Job agent(String name, String value) {
        agentVariables.put(name, value);
        return this;
    }

    /** A variable of the build, such as a multibranch job's {@code BRANCH_NAME}. */
    public Job variable(String name, String value) {
        buildVariables.put(name, value);
        return this;
    }

    public Job credential(String id, Credential credential) {
        credentials.put(id, credential);
        return this;
    }

    /** The Git repository that {@code checkout scm} clones. */
    public Job scm(Path repository) {
        scm = repository;
        return this;
    }

    /** Restarts the controller at every step: all sources are compiled again before the program is restored. */
    public Job restartingAtEveryStep() {
        restarts = true;
        return this;
    }

    /** Aborts the build as a person would, once the log contains such a line. */
    public Job abortWhenLogged(Predicate<String> line) {
        return abortWhenLogged(line, () -> { });
    }

    /** The same, after {@code await} has returned as well. */
    public Job abortWhenLogged(Predicate<String> line, Runnable await) {
        abortWhen = new Abort(line, await);
        return this;
    }

    /** The condition of an abort. */
    record Abort(Predicate<String> line, Runnable await) {}

    List<Path> vars() {
        return vars;
    }

    String jenkinsfile() {
        return jenkinsfile;
    }

    public Path workspace() {
        return workspace;
    }

    Map<String, String> agentVariables() {
        return agentVariables;
    }

    Map<String, String> buildVariables() {
        return buildVariables;
    }

    Credential credential(String id) {
        return credentials.get(id);
    }

    Path scm() {
        return scm;
    }

    boolean restarts() {
        return restarts;
    }

    Optional<Abort> abortWhen() {
        return Optional.ofNullable(abortWhen);
    }
}
