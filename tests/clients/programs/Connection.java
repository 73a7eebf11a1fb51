import java.io.InputStream;
import java.net.URL;

class Connection {
    public static void main(String[] args) throws Exception {
        try (InputStream body = new URL(args[0]).openConnection().getInputStream()) {
            System.out.write(body.readAllBytes());
            System.out.flush();
        }
    }
}
