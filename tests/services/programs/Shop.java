// PostgreSQL by JDBC, which speaks the protocol by itself: prints what it sees.
import java.sql.*;

public class Shop {
    public static void main(String[] args) throws Exception {
        try (Connection c = DriverManager.getConnection(args[0], "app", args[1])) {
            try (Statement s = c.createStatement()) {
                s.execute("CREATE TABLE IF NOT EXISTS jorders (id int, item text)");
                s.execute("DELETE FROM jorders");
            }
            c.setAutoCommit(false);
            try (PreparedStatement s = c.prepareStatement("INSERT INTO jorders VALUES (?, ?)")) {
                for (int i = 0; i < 7; i++) { // from the fifth on the server prepares it
                    s.setInt(1, i);
                    s.setString(2, "item " + i);
                    s.executeUpdate();
                }
            }
            c.commit();
            try (PreparedStatement s = c.prepareStatement("SELECT item FROM jorders WHERE id > ? ORDER BY id")) {
                s.setFetchSize(2); // a portal that is suspended
                s.setInt(1, 2);
                ResultSet rows = s.executeQuery();
                while (rows.next()) System.out.println(rows.getString(1));
            }
            try (Statement s = c.createStatement()) {
                s.execute("SELECT * FROM nonesuch");
            } catch (SQLException e) {
                System.out.println(e.getSQLState());
            }
            c.rollback();
        }
    }
}
