package harness;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Predicate;

/** The build's log, in which secrets are masked before they are stored. Many strands write to it, and a test may wait for a line. */
public final class Console {
    private final ReentrantLock lock = new ReentrantLock();
    private final List<String> lines = new ArrayList<>();
    private final List<Watch> watches = new ArrayList<>();

    private record Watch(Predicate<String> line, Runnable action) {}

    /** Writes a text of one or more lines, masked by the secrets around the step that writes it. */
    void println(String text, List<String> secrets) {
        String masked = mask(text, secrets);
        List<Runnable> due = new ArrayList<>();
        lock.lock();
        try {
            for (String line : masked.split("\n", -1)) {
                lines.add(line);
                watches.removeIf(watch -> watch.line().test(line) && due.add(watch.action()));
            }
        } finally {
            lock.unlock();
        }
        due.forEach(Runnable::run);
    }

    /** Runs an action once, when a line appears. */
    void when(Predicate<String> line, Runnable action) {
        lock.lock();
        try {
            watches.add(new Watch(line, action));
        } finally {
            lock.unlock();
        }
    }

    public String text() {
        lock.lock();
        try {
            return String.join("\n", lines) + "\n";
        } finally {
            lock.unlock();
        }
    }

    /** Like the Credentials Binding plugin for secrets of one line: masks the text, also as the shell's trace quotes it. */
    static String mask(String text, List<String> secrets) {
        String masked = text;
        List<String> longestFirst = new ArrayList<>(secrets);
        longestFirst.sort((a, b) -> Integer.compare(b.length(), a.length()));
        for (String secret : longestFirst) {
            for (String form : List.of(secret, secret.replace("'", "'\\''"), secret.replace("'", "'\"'\"'"))) {
                if (!form.isBlank()) {
                    masked = masked.replace(form, "****");
                }
            }
        }
        return masked;
    }
}
