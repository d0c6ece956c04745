package cases;

import static cases.Suite.check;
import static cases.Suite.contains;
import static cases.Suite.containsNot;
import static cases.Suite.equal;

import harness.Credential;
import java.util.List;
import java.util.Map;

/** The login of a block reaches the client of each step in it, and is gone with the block. */
final class Logins {
    private static final String SECRET = "s3cr3t-'\"$x,y";
    private static final String OTHER = "0ther-s3cr3t";

    /** Everything of a login that a later command could find in its environment. */
    private static final String LEFT = "sh 'env | grep -c -e WHARF_LOGIN -e s3cr3t || true'\n";

    private Logins() {}

    static void addTo(Suite suite) {
        for (String name : List.of("dockerRegistry", "wharfRegistry")) {
            suite.test("a block with a login: " + name, () -> {
                try (Fake fake = logged(name + """
                    (credentialsId: 'reg', url: "https://r.example:${5000}") {
                        dockerPush(tag: 'r.example:5000/a')
                    }
                    """ + LEFT)) {
                    fake.job().restartingAtEveryStep();
                    String log = fake.run("SUCCESS").log();
                    hasLogin(fake.call(), "https://r.example:5000=WHARF_LOGIN_USER_0:WHARF_LOGIN_PASSWORD_0");
                    equal("bob", fake.call().variables().get("WHARF_LOGIN_USER_0"), "the user");
                    equal(SECRET, fake.call().variables().get("WHARF_LOGIN_PASSWORD_0"), "the password");
                    equal(false, fake.call().variables().containsKey("DOCKER_CONFIG"), "DOCKER_CONFIG is set");
                    gone(fake, log);
                }
            });
        }
        suite.test("a block for Docker Hub, in a directory, with a result", () -> {
            try (Fake fake = logged("dir('a b') { echo dockerRegistry(credentialsId: 'reg') { dockerBuild(context: '..').ref } }\n" + LEFT)) {
                String log = fake.run("SUCCESS").log();
                contains(log, "\nref-of-the-client\n");
                hasLogin(fake.call(), "docker.io=WHARF_LOGIN_USER_0:WHARF_LOGIN_PASSWORD_0");
                containsNot(fake.call().file("workspace"), "@tmp");
                gone(fake, log);
            }
        });
        suite.test("blocks inside each other, beside a step's own login and docker's configuration", () -> {
            try (Fake fake = logged("""
                withEnv(['DOCKER_CONFIG=/of/withDockerRegistry']) {
                    dockerRegistry(credentialsId: 'reg', url: 'r.example') {
                        dockerRegistry(credentialsId: 'other', url: 'o.example') {
                            dockerBuild(tag: 's.example/a', credentials: 'step')
                        }
                        sh 'env | grep -c o.example || true'
                    }
                }
                """ + LEFT)) {
                fake.job().credential("step", new Credential.UsernamePassword("step", SECRET));
                String log = fake.run("SUCCESS").log();
                Fake.Call call = fake.call();
                hasLogin(call, "r.example=WHARF_LOGIN_USER_0:WHARF_LOGIN_PASSWORD_0 o.example=WHARF_LOGIN_USER_1:WHARF_LOGIN_PASSWORD_1");
                contains(call.arguments().toString(), "--login=WHARF_REGISTRY_USER_0:WHARF_REGISTRY_PASSWORD_0");
                Map<String, String> variables = call.variables();
                equal("/of/withDockerRegistry", variables.get("DOCKER_CONFIG"), "DOCKER_CONFIG");
                equal(List.of("bob", "alice", "step"), List.of(variables.get("WHARF_LOGIN_USER_0"),
                    variables.get("WHARF_LOGIN_USER_1"), variables.get("WHARF_REGISTRY_USER_0")), "the users");
                equal(OTHER, variables.get("WHARF_LOGIN_PASSWORD_1"), "the inner password");
                gone(fake, log);
            }
        });
        suite.test("blocks side by side keep apart", () -> {
            try (Fake fake = logged("""
                parallel a: { dockerRegistry(credentialsId: 'reg', url: 'r.example') { sh 'true'; dockerPush(tag: 'r.example/a') } },
                    b: { dockerRegistry(credentialsId: 'other', url: 'o.example') { sh 'true'; dockerPush(tag: 'o.example/b') } }
                """ + LEFT)) {
                String log = fake.run("SUCCESS").log();
                for (Fake.Call call : fake.calls()) {
                    boolean isFirst = call.arguments().contains("r.example/a");
                    hasLogin(call, (isFirst ? "r" : "o") + ".example=WHARF_LOGIN_USER_0:WHARF_LOGIN_PASSWORD_0");
                    equal(isFirst ? "bob" : "alice", call.variables().get("WHARF_LOGIN_USER_0"), "the user");
                }
                equal(2, fake.calls().size(), "calls");
                gone(fake, log);
            }
        });
        suite.test("a block with a login fails as its step does, and its login is gone", () -> {
            try (Fake fake = logged("""
                try {
                    dockerRegistry(credentialsId: 'reg', url: 'r.example') { dockerPush(tag: 'r.example/a') }
                } catch (error) {
                    echo "mail: ${error.message}"
                }
                """ + LEFT)) {
                fake.job().agent("FAKE_STATUS", "3").agent("FAKE_ERROR", "not allowed to push");
                String log = fake.run("SUCCESS").log();
                contains(log, "\nmail: dockerPush r.example/a: not allowed to push (exit status 3)\n");
                gone(fake, log);
            }
        });
        suite.test("a block with a login that is aborted has none afterwards", () -> {
            try (Fake fake = logged("""
                try {
                    dockerRegistry(credentialsId: 'reg', url: 'r.example') { dockerPush(tag: 'r.example/a') }
                } finally {
                """ + LEFT + "}")) {
                fake.job().agent("FAKE_HANGS", "1").abortWhenLogged(line -> line.equals("fake: waiting"));
                String log = fake.run("ABORTED").log();
                contains(fake.call().file("stopped"), "stopped");
                gone(fake, log);
            }
        });
        suite.test("a login that is not there fails before the block runs", () -> {
            try (Fake fake = Fake.onNode("dockerRegistry(credentialsId: 'gone') { echo 'went on' }")) {
                String log = fake.run("FAILURE").log();
                contains(log, "Could not find credentials entry with ID 'gone'");
                containsNot(log, "went on");
            }
        });
        suite.test("a password in the address is not repeated", () -> {
            try (Fake fake = logged("dockerRegistry(credentialsId: 'reg', url: 'https://me:hunter2@r.example') { }")) {
                String log = fake.run("FAILURE").log();
                contains(log, "`url` must be a registry's address, such as 'https://registry.example.com'");
                containsNot(log, "hunter2");
            }
        });
    }

    private static Fake logged(String body) throws Exception {
        Fake fake = Fake.onNode(body);
        fake.job().credential("reg", new Credential.UsernamePassword("bob", SECRET))
            .credential("other", new Credential.UsernamePassword("alice", OTHER));
        return fake;
    }

    private static void hasLogin(Fake.Call call, String login) {
        equal(login, call.variables().get("WHARF_LOGIN"), "WHARF_LOGIN");
        containsNot(call.arguments().toString(), SECRET);
        containsNot(call.arguments().toString(), OTHER);
    }

    /** The login is in no file, in no line of the log, and in no variable after the block. */
    private static void gone(Fake fake, String log) throws Exception {
        containsNot(log, SECRET);
        containsNot(log, OTHER);
        check(log.contains("\n0\n") && !log.contains("\n1\n"), "the environment after the block: " + log);
        fake.nothingLeft();
    }
}
