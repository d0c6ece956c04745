package cases;

import static cases.Suite.contains;
import static cases.Suite.containsNot;
import static cases.Suite.equal;

import harness.Credential;
import java.nio.file.Path;
import java.util.List;

/** Credentials reach the client, and do not appear anywhere else that anyone reads. */
final class Secrets {
    private static final String SECRET = "s3cr3t-'\"$x,y";

    private Secrets() {}

    static void addTo(Suite suite) {
        suite.test("a secret text goes by the environment", () -> {
            try (Fake fake = Fake.onNode("dockerBuild(tag: 'a', secrets: [npm: 'npm-token'])")) {
                fake.job().credential("npm-token", new Credential.SecretText(SECRET));
                String log = fake.run("SUCCESS").log();
                Fake.Call call = fake.call();
                contains(call.arguments().toString(), "--secret=id=npm,env=WHARF_SECRET_0");
                equal(SECRET, call.variables().get("WHARF_SECRET_0"), "the secret");
                nowhere(fake, log, call, SECRET);
            }
        });
        for (String call : List.of(
                "dockerBuild(tag: 'a', token: 'id-token')", "wharfPush(tag: 'a', token: 'id-token')")) {
            suite.test("a token goes by the environment: " + call, () -> {
                try (Fake fake = Fake.onNode(call)) {
                    fake.job().credential("id-token", new Credential.SecretText(SECRET));
                    String log = fake.run("SUCCESS").log();
                    equal(SECRET, fake.call().variables().get("WHARF_TOKEN"), "the token");
                    containsNot(fake.call().arguments().toString(), "token");
                    nowhere(fake, log, fake.call(), SECRET);
                }
            });
        }
        suite.test("a secret file goes by its path", () -> {
            try (Fake fake = Fake.onNode("dockerBuild(tag: 'a', secrets: [npmrc: [file: 'npmrc-file'], t: [text: 'npm-token']])")) {
                fake.job().credential("npmrc-file", new Credential.SecretFile(".npmrc", SECRET))
                    .credential("npm-token", new Credential.SecretText("other"));
                String log = fake.run("SUCCESS").log();
                Fake.Call call = fake.call();
                equal(SECRET, call.file("secret"), "the secret's file");
                contains(call.arguments().toString(), "--secret=id=t,env=WHARF_SECRET_1");
                nowhere(fake, log, call, SECRET);
            }
        });
        for (String call : List.of(
                "dockerBuild(tag: 'r.example/a', context: '../..', secrets: [f: [file: 'f']])",
                "dockerBuild(tag: 'r.example/a', context: '../..', secrets: [t: 't'], credentials: 'reg')",
                "dockerPush(tag: 'r.example/a', credentials: 'reg')",
                "dockerBuild(context: '../..')")) {
            suite.test("nothing of Jenkins' own is in the workspace, where a context can be: " + call, () -> {
                try (Fake fake = Fake.onNode("dir('services/new cart') { " + call + " }")) {
                    login(fake, "reg");
                    fake.job().credential("f", new Credential.SecretFile("f", SECRET))
                        .credential("t", new Credential.SecretText(SECRET));
                    fake.run("SUCCESS");
                    Path workspace = fake.job().workspace();
                    containsNot(fake.call().file("workspace").replace(workspace.toString(), ""), "@tmp");
                    equal(workspace.resolve("services/new cart") + "\n", fake.call().file("directory"), "the directory");
                    fake.nothingLeft();
                }
            });
        }
        suite.test("a secret file's path may need quotes", () -> {
            try (Fake fake = Fake.onNode("ws('a, \"b\" c') { dockerBuild(secrets: [f: [file: 'f']]) }")) {
                fake.job().credential("f", new Credential.SecretFile("f", SECRET));
                fake.run("SUCCESS");
                equal(SECRET, fake.call().file("secret"), "the secret's file");
            }
        });
        suite.test("a login goes by the environment, and adds to the agent's own docker configuration", () -> {
            try (Fake fake = Fake.onNode("dockerBuild(tag: 'reg.example.com:5000/a', push: true, credentials: 'reg', secrets: [t: 't'])")) {
                login(fake, "reg");
                fake.job().credential("t", new Credential.SecretText("other"));
                String log = fake.run("SUCCESS").log();
                Fake.Call call = fake.call();
                contains(call.arguments().toString(), "--login=WHARF_REGISTRY_USER_1:WHARF_REGISTRY_PASSWORD_1");
                equal("bob", call.variables().get("WHARF_REGISTRY_USER_1"), "the user");
                equal(SECRET, call.variables().get("WHARF_REGISTRY_PASSWORD_1"), "the password");
                equal(false, call.variables().containsKey("DOCKER_CONFIG"), "DOCKER_CONFIG is set");
                nowhere(fake, log, call, SECRET);
            }
        });
        suite.test("registry credentials for several registries", () -> {
            try (Fake fake = Fake.onNode("dockerPush(tag: 'a:1', credentials: ['docker.io': 'hub', 'reg.example.com': 'long', 'x.y': null])")) {
                login(fake, "hub");
                fake.job().credential("long", new Credential.UsernamePassword("alice", "p".repeat(300)));
                fake.run("SUCCESS");
                contains(fake.call().arguments().toString(), "--login=docker.io=WHARF_REGISTRY_USER_0:WHARF_REGISTRY_PASSWORD_0, "
                    + "--login=reg.example.com=WHARF_REGISTRY_USER_1:WHARF_REGISTRY_PASSWORD_1, --metadata-file");
                equal("alice", fake.call().variables().get("WHARF_REGISTRY_USER_1"), "the second user");
            }
        });
        suite.test("a credential that is not there fails before the client runs", () -> {
            try (Fake fake = Fake.onNode("dockerBuild(tag: 'a', secrets: [npm: 'gone'])")) {
                contains(fake.run("FAILURE").log(), "Could not find credentials entry with ID 'gone'");
                equal(0, fake.calls().size(), "calls of the client");
            }
        });
        suite.test("an abort leaves no password behind", () -> {
            try (Fake fake = Fake.onNode("dockerBuild(tag: 'r.example/a', credentials: 'reg', secrets: [f: [file: 'f']])")) {
                login(fake, "reg");
                fake.job().credential("f", new Credential.SecretFile("f", "x"))
                    .agent("FAKE_HANGS", "1").abortWhenLogged(line -> line.equals("fake: waiting"));
                String log = fake.run("ABORTED").log();
                nowhere(fake, log, fake.call(), SECRET);
            }
        });
        suite.test("credentials with a restart at every step", () -> {
            try (Fake fake = Fake.onNode("dockerBuild(tag: 'r.example/a', credentials: 'reg', secrets: [t: 't'])")) {
                login(fake, "reg");
                fake.job().credential("t", new Credential.SecretText("tt")).restartingAtEveryStep();
                fake.run("SUCCESS");
                equal(SECRET, fake.call().variables().get("WHARF_REGISTRY_PASSWORD_1"), "the password");
                equal("tt", fake.call().variables().get("WHARF_SECRET_0"), "the secret");
            }
        });
    }

    private static void login(Fake fake, String id) {
        fake.job().credential(id, new Credential.UsernamePassword("bob", SECRET));
    }

    private static void nowhere(Fake fake, String log, Fake.Call call, String secret) throws Exception {
        containsNot(log, secret);
        containsNot(call.arguments().toString(), secret);
        fake.nothingLeft();
    }
}
