package cases;

import java.util.ArrayList;
import java.util.List;

/** The tests of a run, in the order of their registration. The last line counts them. */
public final class Suite {
    /** A failure of the test itself, as opposed to the harness's. */
    public static final class Failed extends RuntimeException {
        private static final long serialVersionUID = 1L;

        Failed(String message) {
            super(message);
        }
    }

    public interface Body {
        void run() throws Exception;
    }

    private record Case(String name, Body body) {}

    private final List<Case> cases = new ArrayList<>();

    public void test(String name, Body body) {
        cases.add(new Case(name, body));
    }

    /** Runs the tests whose names contain {@code filter}; true if there were some and all passed. */
    public boolean run(String filter) {
        int passed = 0;
        int failed = 0;
        for (Case one : cases) {
            if (!one.name().contains(filter)) {
                continue;
            }
            long started = System.nanoTime();
            try {
                one.body().run();
                passed++;
                System.out.printf("ok   %s (%.1f s)%n", one.name(), (System.nanoTime() - started) / 1e9);
            } catch (Failed e) {
                failed++;
                System.out.println("FAIL " + one.name() + "\n" + e.getMessage().indent(5));
            } catch (Throwable e) {
                failed++;
                System.out.println("FAIL " + one.name());
                e.printStackTrace(System.out);
            }
        }
        System.out.println(passed + " passed, " + failed + " failed");
        return failed == 0 && passed > 0;
    }

    public static void check(boolean holds, String otherwise) {
        if (!holds) {
            throw new Failed(otherwise);
        }
    }

    public static void equal(Object expected, Object found, String about) {
        if (!expected.equals(found)) {
            throw new Failed(about + "\nexpected " + expected + "\nfound    " + found);
        }
    }

    public static void contains(String text, String part) {
        check(text.contains(part), "`" + part + "` is not in:\n" + text);
    }

    public static void containsNot(String text, String part) {
        check(!text.contains(part), "`" + part + "` must not be in:\n" + text);
    }
}
