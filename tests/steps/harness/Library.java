package harness;

import com.cloudbees.groovy.cps.CpsTransformer;
import com.cloudbees.groovy.cps.NonCPS;
import groovy.lang.GroovyClassLoader;
import groovy.lang.GroovyCodeSource;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.codehaus.groovy.control.CompilerConfiguration;
import org.codehaus.groovy.control.customizers.ImportCustomizer;

/**
 * Compiles a Jenkinsfile and the files of {@code vars/} with Jenkins' CPS transformer, in a class
 * loader of its own. A restarted controller is a new Library of the same sources.
 */
public final class Library {
    /** The class of every Jenkinsfile, as Jenkins names it. */
    static final String JENKINSFILE = "WorkflowScript";

    private final GroovyClassLoader loader;
    private final Map<String, Class<?>> vars = new LinkedHashMap<>();
    private final Class<?> jenkinsfile;

    /** If several folders have a file of the same name, the last folder wins. */
    Library(Iterable<Path> folders, String jenkinsfileText) {
        CompilerConfiguration config = new CompilerConfiguration();
        config.setScriptBaseClass(PipelineScript.class.getName());
        config.addCompilationCustomizers(
            new ImportCustomizer()
                .addImports(NonCPS.class.getName(), LibraryImport.class.getName())
                .addImport("Library", LibraryImport.class.getName()),
            new Declarative(),
            new CpsTransformer());
        loader = new GroovyClassLoader(Library.class.getClassLoader(), config);
        for (Path folder : folders) {
            for (Path file : groovyFiles(folder)) {
                String name = nameOf(file);
                vars.put(name, compile(name, read(file)));
            }
        }
        jenkinsfile = compile(JENKINSFILE, jenkinsfileText);
    }

    /** The files of a {@code vars/} folder that Jenkins turns into steps, sorted by name. */
    public static Iterable<Path> groovyFiles(Path folder) {
        try (Stream<Path> files = Files.list(folder)) {
            return files.filter(f -> f.toString().endsWith(".groovy")).sorted().toList();
        } catch (IOException e) {
            throw new IllegalStateException("cannot list " + folder, e);
        }
    }

    /** The step's name: the name of its file. */
    public static String nameOf(Path file) {
        return file.getFileName().toString().replaceFirst("\\.groovy$", "");
    }

    public static String read(Path file) {
        try {
            return Files.readString(file);
        } catch (IOException e) {
            throw new IllegalStateException("cannot read " + file, e);
        }
    }

    /** Fails unless Jenkins would compile the text as a Jenkinsfile. */
    public static void compiles(String jenkinsfile) {
        new Library(List.of(), jenkinsfile);
    }

    private Class<?> compile(String name, String text) {
        return loader.parseClass(new GroovyCodeSource(text, name + ".groovy", "/groovy/script"), false);
    }

    ClassLoader loader() {
        return loader;
    }

    boolean hasVar(String name) {
        return vars.containsKey(name);
    }

    PipelineScript newVar(String name) {
        return instance(vars.get(name));
    }

    PipelineScript newJenkinsfile() {
        return instance(jenkinsfile);
    }

    private static PipelineScript instance(Class<?> type) {
        try {
            return (PipelineScript) type.getDeclaredConstructor().newInstance();
        } catch (ReflectiveOperationException e) {
            throw new IllegalStateException("cannot create " + type.getName(), e);
        }
    }
}
