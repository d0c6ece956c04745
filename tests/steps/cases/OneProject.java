package cases;

import harness.Credential;
import harness.Run;

/**
 * The entry point for trying a Jenkinsfile: {@code OneProject DIRECTORY} runs the Jenkinsfile in the directory, as the
 * tests run those of {@code pipelines/}, and shows its log.
 */
public final class OneProject {
    private OneProject() {}

    public static void main(String[] arguments) throws Exception {
        Run.Finished finished;
        try (Project project = new Project(arguments[0])) {
            project.job()
                .credential("private-registry", new Credential.UsernamePassword(
                    System.getenv("REGISTRY_USER"), System.getenv("REGISTRY_PASSWORD")))
                .credential("second-registry", new Credential.UsernamePassword(
                    System.getenv("SECOND_USER"), System.getenv("SECOND_PASSWORD")))
                .credential("api-token", new Credential.SecretText("a secret text"))
                .credential("settings-file", new Credential.SecretFile("settings.ini", "a secret file\n"));
            finished = Run.of(project.job());
            System.out.print(finished.log());
            System.out.print(project.wharf("images") + "\n");
        }
        System.exit(finished.result().equals("SUCCESS") ? 0 : 1);
    }
}
