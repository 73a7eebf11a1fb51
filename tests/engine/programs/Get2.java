import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;

/** Ask for each URL; print the version, the status and the length of each answer. */
class Get2 {
    public static void main(String[] args) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (String url : args) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(url)).build();
            var response = client.send(request, BodyHandlers.ofByteArray());
            System.out.println(response.version() + " " + response.statusCode() + " " + response.body().length);
        }
    }
}
