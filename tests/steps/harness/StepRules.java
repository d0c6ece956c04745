package harness;

import com.cloudbees.groovy.cps.NonCPS;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.codehaus.groovy.ast.ClassNode;
import org.codehaus.groovy.ast.MethodNode;
import org.codehaus.groovy.ast.Parameter;
import org.codehaus.groovy.control.CompilationUnit;
import org.codehaus.groovy.control.CompilerConfiguration;
import org.codehaus.groovy.control.Phases;
import org.codehaus.groovy.control.customizers.ImportCustomizer;

/**
 * The rules for the sources of {@code vars/}: the script sandbox's rules, since a folder's library
 * runs in it, and bans on code that the CPS interpreter silently gets wrong. Has the lists; {@link
 * StepRulesVisitor} walks the code.
 *
 * <p>The sandbox's own lists are not available here, so these are allow-lists: anything that is on none of
 * them is refused, and an addition must first be looked up in Jenkins.
 */
public final class StepRules {
    /** Global variables and steps of Jenkins and of the Docker Pipeline plugin. */
    private static final Set<String> TAKEN = Set.of(
        "docker", "sh", "bat", "powershell", "env", "params", "currentBuild", "scm", "steps", "pipeline",
        "dockerNode", "dockerFingerprintFrom", "dockerFingerprintRun",
        "withDockerRegistry", "withDockerContainer", "withDockerServer");

    static final Set<String> STEPS = Set.of(
        "sh", "echo", "error", "pwd", "dir", "deleteDir", "readFile", "writeFile", "fileExists", "isUnix",
        "withEnv", "withCredentials", "string", "file", "usernamePassword");

    static final Set<String> CONSTRUCTORS = Set.of("java.lang.Exception", "java.util.HashMap", "groovy.json.JsonSlurper");

    static final Set<String> STATIC_METHODS = Set.of(
        "java.util.UUID.randomUUID", "groovy.json.JsonOutput.toJson", "java.net.URLEncoder.encode",
        "java.util.Base64.getEncoder", "java.util.Base64.getDecoder");

    static final Set<String> METHODS = Set.of(
        // texts
        "toString", "contains", "startsWith", "endsWith", "indexOf", "lastIndexOf", "substring", "replace", "matches",
        "tokenize", "trim", "isEmpty", "length", "toLowerCase", "toUpperCase", "join", "encodeToString", "decode",
        // lists and maps
        "size", "get", "put", "add", "addAll", "containsKey", "keySet", "values", "entrySet", "toList",
        "each", "collect", "collectEntries", "find", "findAll", "any", "every", "times",
        // JSON
        "parseText",
        // closures
        "call");

    /** Methods that, with a closure, silently give wrong values in CPS code. */
    static final Set<String> WRONG_IN_CPS = Set.of(
        "sort", "toSorted", "unique", "toUnique", "dropWhile", "takeWhile", "eachLine", "splitEachLine", "with",
        "replaceAll");

    private final List<String> findings = new ArrayList<>();
    private final Map<String, ClassNode> scripts = new LinkedHashMap<>();
    private final Set<String> callSh = new HashSet<>();

    private StepRules() {}

    /** The violations in a library's files (name of the step, its source), each as {@code file:line: why}. */
    public static List<String> findings(Map<String, String> sources) {
        StepRules rules = new StepRules();
        sources.forEach((name, text) -> rules.scripts.put(name, parse(name, text)));
        rules.scripts.forEach(rules::check);
        if (rules.callSh.size() > 1) {
            rules.findings.add("only one step may call `sh`, these do: " + rules.callSh.stream().sorted().toList());
        }
        return rules.findings;
    }

    private static ClassNode parse(String name, String text) {
        CompilerConfiguration config = new CompilerConfiguration();
        config.addCompilationCustomizers(new ImportCustomizer().addImports(NonCPS.class.getName()));
        CompilationUnit unit = new CompilationUnit(config);
        unit.addSource(name + ".groovy", text);
        unit.compile(Phases.SEMANTIC_ANALYSIS);
        return unit.getClassNode(name);
    }

    private void check(String name, ClassNode script) {
        if (TAKEN.contains(name)) {
            report(name, 1, "the name `" + name + "` is taken by Jenkins or the Docker Pipeline plugin");
        }
        for (ClassNode type : script.getModule().getClasses()) {
            for (MethodNode method : type.getMethods()) {
                if (!method.isSynthetic() && !method.getName().equals("main")) {
                    signature(name, method);
                    new StepRulesVisitor(this, name, type, isNonCps(method)).visitMethod(method);
                }
            }
            type.getDeclaredConstructors().forEach(constructor ->
                new StepRulesVisitor(this, name, type, true).visitConstructor(constructor));
        }
    }

    private void signature(String file, MethodNode method) {
        Parameter[] parameters = method.getParameters();
        if (method.getName().equals("call") && parameters.length == 2
                && parameters[1].getType().getName().equals("groovy.lang.Closure") && parameters[0].hasInitialExpression()) {
            report(file, method.getLineNumber(),
                "call(Map = [:], Closure = null) does not accept `step { }`: add call(Closure)");
        }
        if (!isNonCps(method) && Set.of("toString", "compareTo", "equals", "hashCode").contains(method.getName())) {
            report(file, method.getLineNumber(),
                "`" + method.getName() + "` is called by Java, which cannot run CPS code: @NonCPS");
        }
    }

    static boolean isNonCps(MethodNode method) {
        return method.getAnnotations().stream().anyMatch(a -> a.getClassNode().getName().equals(NonCPS.class.getName()));
    }

    /** A method of another step's script, null if there is no such step or method. */
    List<MethodNode> methodsOf(String script, String method) {
        ClassNode node = scripts.get(script);
        return node == null ? List.of() : node.getMethods(method);
    }

    boolean isScript(String name) {
        return scripts.containsKey(name);
    }

    void callsSh(String file) {
        callSh.add(file);
    }

    void report(String file, int line, String why) {
        findings.add(file + ".groovy:" + line + ": " + why);
    }
}
