package harness;

import java.io.Serializable;

/** The global variable {@code currentBuild}. */
public final class CurrentBuild implements Serializable {
    private static final long serialVersionUID = 1L;

    public String getResult() {
        return Run.current().program().result;
    }

    public void setResult(String result) {
        Run.current().worsen(result);
    }

    public String getCurrentResult() {
        String result = getResult();
        return result == null ? "SUCCESS" : result;
    }

    public int getNumber() {
        return Integer.parseInt(Run.current().variable("BUILD_NUMBER"));
    }

    public String getDisplayName() {
        String name = Run.current().program().displayName;
        return name == null ? "#" + getNumber() : name;
    }

    public void setDisplayName(String name) {
        Run.current().program().displayName = name;
    }

    public String getDescription() {
        return Run.current().program().description;
    }

    public void setDescription(String description) {
        Run.current().program().description = description;
    }
}
