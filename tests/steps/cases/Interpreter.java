package cases;

import static cases.Suite.check;
import static cases.Suite.contains;
import static cases.Suite.containsNot;
import static cases.Suite.equal;

import harness.Credential;
import harness.Run;
import java.nio.file.Files;
import java.util.List;

/** Checks that the harness behaves like Jenkins where the other tests rely on it, including Jenkins' failures. */
final class Interpreter {
    private Interpreter() {}

    static void addTo(Suite suite) {
        saving(suite);
        steps(suite);
        declarative(suite);
    }

    private static void saving(Suite suite) {
        suite.test("harness: what can be saved goes on after every step", () -> logs("""
            def list = [1, 2]
            def sum = 0
            list.each { n -> sh 'true'; sum += n }
            for (e in [a: 3].entrySet()) { sh 'true'; sum += e.value }
            for (n in list) { sh 'true'; sum += n }
            for (int i = 0; i < 2; i++) { sleep(time: 1, unit: 'MILLISECONDS'); sum += i }
            echo "sum ${sum} ${list.collect { n -> sh(script: "echo $n", returnStdout: true).trim() }}"
            """, "sum 10 [1, 2]"));
        for (String local : List.of("def m = 'abc' =~ 'b'; m.find()", "def o = new Object()")) {
            suite.test("harness: cannot be saved across a step: " + local, () ->
                fails(local + "\nsh 'echo under way'\necho \"on ${m}\"", "NotSerializableException"));
        }
        for (String loop : List.of("for (e in [a: 1])", "for (i in 0..2)")) {
            suite.test("harness: cannot be saved across a step: " + loop, () ->
                fails(loop + " { sh 'echo under way' }", "NotSerializableException"));
        }
        suite.test("harness: a step in @NonCPS code abandons the method", () -> {
            try (Fake fake = new Fake("""
                @NonCPS def bad() { sh 'true'; return 'not reached' }
                node { echo "got ${bad()}" }
                """)) {
                containsNot(fake.run().log(), "not reached");
            }
        });
        suite.test("harness: a restart compiles everything anew", () -> {
            try (Fake fake = Fake.onNode("def o = [a: { n -> n + 1 }]\nsh 'true'\necho \"is ${o.a(1)}\"")) {
                fake.job().restartingAtEveryStep();
                contains(fake.run("SUCCESS").log(), "is 2");
            }
        });
    }

    private static void steps(Suite suite) {
        suite.test("harness: sh is a real shell with -x and -e", () -> {
            try (Fake fake = Fake.onNode("sh 'echo $((6 * 7))\\nfalse\\necho on'")) {
                String log = fake.run("FAILURE").log();
                contains(log, "+ echo 42\n42\n+ false");
                contains(log, "script returned exit code 1");
                containsNot(log, "+ echo on");
            }
        });
        suite.test("harness: sh returns its status or its output", () -> logs("""
            echo "status ${sh(script: 'exit 3', returnStatus: true)}"
            echo "output ${sh(script: 'echo a; echo b >&2', returnStdout: true)}."
            """, "status 3", "output a\n.", "\nb\n"));
        suite.test("harness: withEnv unsets, prepends and does not expand", () -> {
            try (Fake fake = Fake.onNode("""
                withEnv(['A=', 'B=$HOME', 'PATH+X=/first']) { sh 'echo "[${A-unset}] $B ${PATH%%:*}"' }
                sh 'echo "[$A]"'
                """)) {
                fake.job().agent("A", "before");
                String log = fake.run("SUCCESS").log();
                contains(log, "\n[unset] $HOME /first\n");
                contains(log, "\n[before]\n");
            }
        });
        suite.test("harness: an abort reaches a grandchild, then the program", () -> {
            try (Fake fake = Fake.onNode("""
                try { sh 'sh -c "trap \\\\"echo got TERM; exit 0\\\\" TERM; echo ready; sleep infinity & wait"; echo after' }
                catch (e) { echo "caught ${e.getClass().simpleName} ${currentBuild.result}"; throw e }
                finally { sh 'echo cleaning' }
                """)) {
                fake.job().abortWhenLogged(line -> line.equals("ready"));
                String log = fake.run("ABORTED").log();
                contains(log, "got TERM");
                contains(log, "caught FlowInterruptedException ABORTED");
                contains(log, "\ncleaning\n");
            }
        });
        suite.test("harness: with failFast, a failing branch stops the others", () -> {
            try (Fake fake = Fake.onNode("""
                sh 'mkfifo ready'
                parallel(
                    a: { sh 'read line < ready; exit 7' },
                    b: { sh 'trap "echo b got TERM; exit 1" TERM; echo > ready; cat ready'; echo 'b went on' },
                    failFast: true)
                """)) {
                String log = fake.run("FAILURE").log();
                contains(log, "\nb got TERM\n");
                containsNot(log, "b went on");
                contains(log, "script returned exit code 7");
            }
        });
        suite.test("harness: a failing branch lets the others end", () -> {
            try (Fake fake = Fake.onNode("parallel a: { sh 'exit 7' }, b: { sh 'echo b1'; sh 'echo b2' }")) {
                String log = fake.run("FAILURE").log();
                contains(log, "\nb2\n");
                contains(log, "script returned exit code 7");
            }
        });
        suite.test("harness: secrets are masked, and gone afterwards", () -> {
            try (Fake fake = Fake.onNode("""
                withCredentials([string(credentialsId: 's', variable: 'S'), file(credentialsId: 'f', variable: 'F')]) {
                    sh 'echo "is $S"; stat -c %a "$F"; echo "$F" > where'
                    echo "groovy ${env.S}"
                }
                sh 'echo "[${S-unset}]"; test ! -e "$(cat where)"'
                try { withCredentials([string(credentialsId: 's', variable: 'S')]) { error "holds ${S}" } }
                catch (e) { echo "told ${e.message}" }
                """)) {
                fake.job().credential("s", new Credential.SecretText("hidden")).credential("f", new Credential.SecretFile("n", "x"));
                String log = fake.run("SUCCESS").log();
                contains(log, "\nis ****\n");
                contains(log, "\n600\n");
                contains(log, "\ngroovy ****\n");
                contains(log, "\n[unset]\n");
                contains(log, "told holds ****");
                containsNot(log, "hidden");
            }
        });
        suite.test("harness: an argument that a step does not have is an error", () ->
            fails("sh(script: 'true', returnsStdout: true)", "No such DSL argument 'returnsStdout'"));
        suite.test("harness: archived files are kept", () -> {
            try (Fake fake = Fake.onNode("writeFile file: 'out/a.json', text: '{}'\narchiveArtifacts artifacts: 'out/*.json'")) {
                fake.run("SUCCESS");
                check(Files.exists(fake.directory().resolve("archive/out/a.json")), "not archived");
            }
        });
    }

    private static void declarative(Suite suite) {
        suite.test("harness: declarative: stages, environment, post", () -> {
            try (Fake fake = new Fake("""
                pipeline {
                    agent any
                    environment {
                        A = 'one'
                        B = "${A}-two"
                    }
                    stages {
                        stage('first') {
                            steps {
                                sh 'echo $B'
                                script {
                                    def x = 1
                                    echo "x is ${x}"
                                }
                            }
                            post { success { echo 'first is well' } }
                        }
                        stage('second') {
                            when { expression { env.A == 'other' } }
                            steps { echo 'must be skipped' }
                        }
                        stage('third') {
                            steps { sh 'exit 5' }
                            post { failure { echo "third is ${currentBuild.result}" } }
                        }
                        stage('fourth') {
                            steps { echo 'must be skipped' }
                        }
                    }
                    post {
                        always { echo 'always' }
                        success { echo 'must be skipped' }
                        unsuccessful { echo 'unsuccessful' }
                    }
                }
                """)) {
                String log = fake.run("FAILURE").log();
                for (String line : List.of("one-two", "x is 1", "first is well", "third is FAILURE", "always", "unsuccessful")) {
                    contains(log, "\n" + line + "\n");
                }
                containsNot(log, "must be skipped");
            }
        });
        suite.test("harness: declarative: steps hold steps only", () -> {
            try (Fake fake = new Fake("pipeline {\nagent any\nstages {\nstage('a') {\nsteps {\ndef x = 1\n}\n}\n}\n}\n")) {
                Run.Finished finished = fake.run();
                throw new Suite.Failed("must not compile:\n" + finished.log());
            } catch (org.codehaus.groovy.control.MultipleCompilationErrorsException e) {
                contains(e.getMessage(), "Expected a step");
                equal(1, e.getErrorCollector().getErrorCount(), "errors");
            }
        });
    }

    private static void logs(String body, String... expected) throws Exception {
        try (Fake fake = Fake.onNode(body)) {
            String log = fake.run("SUCCESS").log();
            for (String line : expected) {
                contains(log, line);
            }
        }
    }

    private static void fails(String body, String message) throws Exception {
        try (Fake fake = Fake.onNode(body)) {
            contains(fake.run("FAILURE").log(), message);
        }
    }
}
