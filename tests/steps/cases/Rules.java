package cases;

import static cases.Suite.check;
import static cases.Suite.equal;

import harness.Library;
import harness.StepRules;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** The steps obey the rules of the sandbox and of the interpreter; a violation is found. */
final class Rules {
    private Rules() {}

    /** A line of a step, and the expected finding. */
    private record Bad(String code, String finding) {}

    /** In CPS code. */
    private static final List<Bad> CPS = List.of(
        new Bad("new File('/etc/passwd').text", "the sandbox refuses new java.io.File"),
        new Bad("def m = new LinkedHashMap()", "the sandbox refuses new java.util.LinkedHashMap"),
        new Bad("throw new IllegalArgumentException('x')", "the sandbox refuses new java.lang.IllegalArgumentException"),
        new Bad("new groovy.json.JsonSlurperClassic().parseText('{}')", "the sandbox refuses new groovy.json.JsonSlurperClassic"),
        new Bad("System.getenv('HOME')", "the sandbox refuses java.lang.System.getenv"),
        new Bad("Long.parseLong('1')", "the sandbox refuses java.lang.Long.parseLong"),
        new Bad("def o = Objects.requireNonNull(1)", "the sandbox refuses java.util.Objects.requireNonNull"),
        new Bad("List.of(1)", "the sandbox refuses java.util.List.of"),
        new Bad("java.security.MessageDigest.getInstance('MD5')", "the sandbox refuses java.security.MessageDigest.getInstance"),
        new Bad("def x = Integer.MAX_VALUE", "the sandbox refuses java.lang.Integer.MAX_VALUE"),
        new Bad("def x = args.class", "the sandbox refuses the property `class`"),
        new Bad("args.a.getBytes().encodeBase64()", "`encodeBase64` is not known to be allowed"),
        new Bad("['a'].withIndex()", "`withIndex` is not known to be allowed"),
        new Bad("'ls'.execute()", "`execute` is not known to be allowed"),
        new Bad("[1].stream()", "`stream` is not known to be allowed"),
        new Bad("def m = 'x'; args.\"$m\"()", "a method whose name is worked out"),
        new Bad("echo env['HOME']", "the sandbox refuses env[…]"),
        new Bad("powershell 'dir'", "there is no step or method `powershell`"),
        new Bad("readJSON(text: '{}')", "there is no step or method `readJSON`"),
        new Bad("[2, 1].sort { a, b -> a <=> b }", "`sort` with a closure gives wrong values"),
        new Bad("[2, 1].unique { it }", "`unique` with a closure gives wrong values"),
        new Bad("[2, 1].toSorted { it }", "`toSorted` with a closure gives wrong values"),
        new Bad("args.with { put('a', 1) }", "`with` with a closure gives wrong values"),
        new Bad("'a b'.replaceAll('(a) (b)') { all, a, b -> b }", "`replaceAll` with a closure gives wrong values"),
        new Bad("['a']*.size()", "`*.` is broken"),
        new Bad("echo \"${-> 1}\"", "\"${-> }\" is broken"),
        new Bad("def c = { x = 1 -> x }", "default arguments of closures"),
        new Bad("def m = 'abc' =~ 'b'", "a Matcher cannot be saved"),
        new Bad("def j = new groovy.json.JsonSlurper().parseText('{}')", "JsonSlurper's maps cannot be saved"),
        new Bad("for (e in args) { echo e.key }", "a loop over `args` may not be savable"),
        new Bad("for (i in 0..2) { echo 'x' }", "may not be savable"),
        new Bad("def m = [(\"a${1}\"): 1]", "a GString as a key"),
        new Bad("echo args[\"a${1}\"]", "a GString is not found"),
        new Bad("def l = []; l << 1", "`<<` is refused"));

    /** In a {@code @NonCPS} method. */
    private static final List<Bad> NON_CPS = List.of(
        new Bad("echo 'x'", "the step `echo` in @NonCPS code"),
        new Bad("cps()", "@NonCPS code calls `cps`, which is CPS code"),
        new Bad("other.cps()", "@NonCPS code calls `other.cps`, which is CPS code"),
        new Bad("other.gone()", "there is no method `gone` in other.groovy"),
        new Bad("new File('x')", "the sandbox refuses new java.io.File"));

    static void addTo(Suite suite) {
        suite.test("rules: the library keeps them", () -> equal(List.of(), StepRules.findings(library()), "findings"));
        for (Bad bad : CPS) {
            suite.test("rules: caught in CPS code: " + bad.code(), () -> caught(bad, "def call(Map args) {\n" + bad.code() + "\n}\n"));
        }
        for (Bad bad : NON_CPS) {
            suite.test("rules: caught in @NonCPS code: " + bad.code(), () -> caught(bad,
                "def call(Map args) { }\ndef cps() { }\n@NonCPS def nonCps() {\n" + bad.code() + "\n}\n"));
        }
        suite.test("rules: caught: a second step that calls sh", () -> {
            Map<String, String> library = library();
            library.compute("dockerPush", (name, text) -> text + "\nvoid login() {\n    sh 'docker login'\n}\n");
            hasFinding(library, "only one step may call `sh`, these do: [dockerPush, wharfCli]");
        });
        suite.test("rules: caught: a name that is taken", () -> {
            for (String taken : List.of("docker", "sh", "withDockerRegistry", "dockerNode")) {
                hasFinding(Map.of(taken, "def call() { }"), "`" + taken + "` is taken");
            }
        });
        suite.test("rules: caught: a signature that refuses a block", () ->
            hasFinding(Map.of("bad", "def call(Map args = [:], Closure body = null) { }"), "does not accept `step { }`"));
        suite.test("rules: caught: CPS code that Java calls", () ->
            hasFinding(Map.of("bad", "class A { String toString() { 'a' } }\ndef call() { }"), "`toString` is called by Java"));
    }

    private static Map<String, String> library() {
        Map<String, String> sources = new LinkedHashMap<>();
        for (Path file : Library.groovyFiles(Path.of(System.getProperty("harness.vars")))) {
            sources.put(Library.nameOf(file), Library.read(file));
        }
        check(sources.size() >= 3, "the library is not there: " + sources.keySet());
        return sources;
    }

    private static void caught(Bad bad, String source) {
        hasFinding(Map.of("bad", source, "other", "def call() { }\ndef cps() { }\n"), bad.finding());
    }

    private static void hasFinding(Map<String, String> sources, String finding) {
        List<String> findings = StepRules.findings(sources);
        check(findings.stream().anyMatch(f -> f.contains(finding)), "`" + finding + "` is not among " + findings);
    }
}
