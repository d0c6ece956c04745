package cases;

import groovy.json.JsonSlurper;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Base64;
import java.util.List;
import java.util.Map;

/** The content of a registry, as the registry itself shows it. */
final class Registry {
    private static final String MANIFESTS = "application/vnd.oci.image.manifest.v1+json, "
        + "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json, "
        + "application/vnd.docker.distribution.manifest.list.v2+json";

    private final HttpClient http = HttpClient.newHttpClient();
    private final String address;
    private final String authorization;

    private Registry(String address, String authorization) {
        this.address = address;
        this.authorization = authorization;
    }

    static Registry open() {
        return new Registry(System.getenv("REGISTRY"), null);
    }

    static Registry ofPassword() {
        return ofPassword("PRIVATE_REGISTRY", "REGISTRY_USER", "REGISTRY_PASSWORD");
    }

    static Registry second() {
        return ofPassword("SECOND_REGISTRY", "SECOND_USER", "SECOND_PASSWORD");
    }

    private static Registry ofPassword(String address, String user, String password) {
        String login = System.getenv(user) + ":" + System.getenv(password);
        return new Registry(System.getenv(address),
            "Basic " + Base64.getEncoder().encodeToString(login.getBytes(StandardCharsets.UTF_8)));
    }

    /** The digest of a tag, null if there is no such tag. */
    String digest(String repository, String tag) throws Exception {
        HttpResponse<byte[]> answer = get("/v2/" + repository + "/manifests/" + tag);
        return answer.statusCode() == 404 ? null : answer.headers().firstValue("Docker-Content-Digest").orElseThrow();
    }

    /** A file of an image, null if no layer has it. */
    String file(String repository, String reference, String path) throws Exception {
        Map<?, ?> manifest = json("/v2/" + repository + "/manifests/" + reference);
        if (manifest.get("manifests") instanceof List<?> all) {
            return file(repository, (String) ((Map<?, ?>) all.get(0)).get("digest"), path);
        }
        List<?> layers = (List<?>) manifest.get("layers");
        for (int i = layers.size() - 1; i >= 0; i--) {
            byte[] layer = get("/v2/" + repository + "/blobs/" + ((Map<?, ?>) layers.get(i)).get("digest")).body();
            String found = inTar(layer, path);
            if (found != null) {
                return found;
            }
        }
        return null;
    }

    /** The image's configuration: its labels, history and so on. */
    Map<?, ?> config(String repository, String reference) throws Exception {
        Map<?, ?> manifest = json("/v2/" + repository + "/manifests/" + reference);
        if (manifest.get("manifests") instanceof List<?> all) {
            return config(repository, (String) ((Map<?, ?>) all.get(0)).get("digest"));
        }
        return json("/v2/" + repository + "/blobs/" + ((Map<?, ?>) manifest.get("config")).get("digest"));
    }

    private Map<?, ?> json(String path) throws Exception {
        HttpResponse<byte[]> answer = get(path);
        Suite.equal(200, answer.statusCode(), "the registry's answer to " + path);
        return (Map<?, ?>) new JsonSlurper().parse(answer.body());
    }

    private HttpResponse<byte[]> get(String path) throws Exception {
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create("http://" + address + path)).header("Accept", MANIFESTS);
        if (authorization != null) {
            request.header("Authorization", authorization);
        }
        return http.send(request.build(), HttpResponse.BodyHandlers.ofByteArray());
    }

    private static String inTar(byte[] layer, String path) throws IOException, InterruptedException {
        Path blob = Files.createTempFile("layer", ".tar.gz");
        try {
            Files.write(blob, layer);
            Process tar = new ProcessBuilder("tar", "-xzOf", blob.toString(), path)
                .redirectError(ProcessBuilder.Redirect.DISCARD).start();
            String content = new String(tar.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
            return tar.waitFor() == 0 ? content : null;
        } finally {
            Files.delete(blob);
        }
    }
}
