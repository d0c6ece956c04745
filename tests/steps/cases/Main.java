package cases;

/**
 * The entry point: {@code Main [part of a test's name]}. With an engine's name in {@code cases.engine}, it runs the
 * pipelines on that engine; otherwise all tests that need no engine.
 */
public final class Main {
    private Main() {}

    public static void main(String[] arguments) {
        Suite suite = new Suite();
        String engine = System.getProperty("cases.engine", "");
        if (engine.isEmpty()) {
            Interpreter.addTo(suite);
            Arguments.addTo(suite);
            Results.addTo(suite);
            Secrets.addTo(suite);
            Logins.addTo(suite);
            Rules.addTo(suite);
            Docs.addTo(suite);
        } else {
            Pipelines.addTo(suite, engine);
            RegistryBlocks.addTo(suite, "engine " + engine + ": ");
        }
        boolean passed = suite.run(arguments.length > 0 ? arguments[0] : "");
        // A hung shell's thread must not keep the run from ending.
        System.exit(passed ? 0 : 1);
    }
}
