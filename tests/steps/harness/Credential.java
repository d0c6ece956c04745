package harness;

/** A credential that a Jenkins administrator has stored under an id. */
public sealed interface Credential {
    record SecretText(String secret) implements Credential {}

    record SecretFile(String fileName, String content) implements Credential {}

    record UsernamePassword(String username, String password) implements Credential {}
}
