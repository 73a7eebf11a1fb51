"""MariaDB through real clients: recorded from a real server, played with none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from real_servers import PASSWORD, mariadb, program
from service_lab import Service

pytestmark = pytest.mark.live

HOST = "db.example.com"

CODE = """
import subprocess, threading
import pymysql, pytest, sqlalchemy as sa

pytestmark = pytest.mark.cassette

@pytest.fixture
def db():
    with pymysql.connect(host=HOST, user="app", password=PASSWORD, database="shop") as connection:
        yield connection

def test_statements(db, netcapture):
    with db.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS orders")
        cursor.execute("CREATE TABLE orders (id int auto_increment primary key, item text, price double)")
        cursor.executemany("INSERT INTO orders (item, price) VALUES (%s, %s)", [(ITEM, 1.5), (None, None)])
        assert cursor.lastrowid == 1
        cursor.execute("SELECT * FROM orders ORDER BY id")
        assert cursor.fetchall() == ((1, ITEM, 1.5), (2, None, None))
        with pytest.raises(pymysql.err.ProgrammingError, match="nonesuch"):
            cursor.execute("SELECT * FROM nonesuch")
    db.commit()
    flow = netcapture.sql.one(statement__contains="ORDER BY id")
    assert (flow.columns, flow.rows) == (["id", "item", "price"], [[1, ITEM, 1.5], [2, None, None]])
    assert (flow.user, flow.database, flow.command) == ("app", "shop", "2 rows")
    assert netcapture.sql.one(sqlstate="42S02").message.endswith("doesn't exist")
    assert netcapture.sql.one(statement__contains="INSERT").command == "2 affected"

def test_prepared(netcapture):
    lines = "PREPARE s FROM 'SELECT ? + 1'; SET @n = 41; EXECUTE s USING @n;"
    command = ["mariadb", "--no-defaults", "-h", HOST, "-uapp", "-p" + PASSWORD, "shop", "-N", "-e", lines]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.stdout.split() == ["42"], done.stderr

def test_the_binary_protocol(netcapture):
    connector = pytest.importorskip("mysql.connector")
    options = {"ssl_disabled": True, "use_pure": True, "collation": "utf8mb4_general_ci"}
    db = connector.connect(host=HOST, user="app", password=PASSWORD, database="shop", **options)
    for statement in ("SELECT ? + 1, ?", "SELECT ?, ? + 2"):
        with db.cursor(prepared=True) as cursor:
            for number in range(3):
                cursor.execute(statement, (number, 7.5) if statement.endswith("?") else (None, number))
                cursor.fetchall()
    db.close()
    flow = netcapture.sql.one(statement="SELECT ? + 1, ?", parameters=[2, 7.5])
    assert (flow.step, flow.rows[0][1]) == ("execute", 7.5)

def test_a_refused_login():
    with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
        pymysql.connect(host=HOST, user="app", password="wrong-pass-word", database="shop")

def test_threads_share_a_pool():
    engine = sa.create_engine(f"mysql+pymysql://app:{PASSWORD}@{HOST}/shop", pool_size=POOL, max_overflow=0)
    with engine.begin() as db:
        db.execute(sa.text("CREATE TABLE IF NOT EXISTS pooled (n int)"))
    def work(number):
        for turn in range(4):
            with engine.begin() as db:
                db.execute(sa.text("INSERT INTO pooled VALUES (:n)"), {"n": number * 10 + turn})
                found = db.execute(sa.text("SELECT n FROM pooled WHERE n = :n"), {"n": number * 10 + turn})
                assert found.scalar() == number * 10 + turn
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    engine.dispose()
"""


def test_it(service: Callable[..., Service]) -> None:
    pytest.importorskip("pymysql")
    program("mariadb")
    shop = service(HOST, 3306)

    def write(item: str = "apple", pool: int = 3) -> None:
        names = {"HOST": HOST, "ITEM": item, "PASSWORD": PASSWORD, "POOL": pool}
        head = "".join(f"{name} = {one!r}\n" for name, one in names.items())
        shop.project.write("test_it.py", head + CODE)

    write()
    with mariadb() as server:
        shop.record(server, passed=5)
    shop.play(passed=5)
    assert PASSWORD.encode() not in shop.cassettes()
    assert b"wrong-pass-word" not in shop.cassettes()
    assert "  < 1 | apple | 1.5\n" in shop.text()
    write("pear", pool=1)
    failed = shop.play("-k", "statements or threads", passed=1, failed=1).stdout.str()
    assert "unmatched: mysql INSERT INTO orders" in failed


TLS_CODE = """
import ssl, subprocess
import pymysql, pytest

pytestmark = pytest.mark.cassette

LOGIN = {"host": HOST, "user": "app", "password": PASSWORD, "database": "shop"}

def test_a_statement(netcapture):
    with pymysql.connect(**LOGIN, ssl=ssl.create_default_context()) as db, db.cursor() as cursor:
        assert db._sock.version().startswith("TLS")
        cursor.execute("SELECT %s + 1", (41,))
        assert cursor.fetchall() == ((42,),)
    assert netcapture.sql.one(statement="SELECT 41 + 1").rows == [[42]]

def test_one_without_tls(netcapture):
    with pymysql.connect(**LOGIN, ssl_disabled=True) as db, db.cursor() as cursor:
        cursor.execute("SELECT 7")
        assert cursor.fetchall() == ((7,),)
    assert netcapture.sql.one(statement="SELECT 7")

def test_a_connector_that_encrypts_by_itself(netcapture):
    connector = pytest.importorskip("mysql.connector")
    db = connector.connect(**LOGIN, use_pure=True, collation="utf8mb4_general_ci")
    with db.cursor(prepared=True) as cursor:
        cursor.execute("SELECT ? + 2", (5,))
        assert cursor.fetchall() == [(7,)]
    db.close()
    assert netcapture.sql.one(statement="SELECT ? + 2", parameters=[5])

def test_the_command_line(netcapture):
    command = ["mariadb", "--no-defaults", "-h", HOST, "-uapp", "-p" + PASSWORD, "shop", "-N"]
    command += ["--ssl-verify-server-cert", "--ssl-ca=/etc/ssl/certs/ca-certificates.crt"]
    done = subprocess.run([*command, "-e", "SELECT 6 * 7"], capture_output=True, text=True, timeout=50)
    assert done.stdout.split() == ["42"], done.stderr
    assert netcapture.sql.one(statement="SELECT 6 * 7")

def test_a_refused_login():
    with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
        pymysql.connect(**{**LOGIN, "password": "wrong-pass-word"}, ssl=ssl.create_default_context())
"""


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A folder with `ca.pem`, and with `leaf.pem`: chain and key of the server."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    ca.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "leaf.pem"))
    return tmp_path


def test_over_tls(service: Callable[..., Service], certificates: Path) -> None:
    pytest.importorskip("pymysql")
    program("mariadb")
    shop = service(HOST, 3306, f"--netcapture-upstream-ca={certificates / 'ca.pem'}")
    shop.project.write("test_it.py", f"HOST, PASSWORD = {HOST!r}, {PASSWORD!r}\n{TLS_CODE}")
    with mariadb(certificate=str(certificates / "leaf.pem")) as server:
        shop.record(server, passed=5)
    shop.play(passed=5)
    for secret in (PASSWORD.encode(), b"wrong-pass-word"):
        assert secret not in shop.cassettes()


UNTRUSTED_CODE = """
import ssl, pymysql

def test_a_statement(netcapture):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for _ in range(2):
        with pymysql.connect(host=HOST, user="app", password=PASSWORD, ssl=context) as db:
            with db.cursor() as cursor:
                cursor.execute("SELECT 1")
                assert cursor.fetchall() == ((1,),)
    assert not netcapture.sql
    assert len(netcapture.tcp.filter(host=HOST)) == 2
"""


def test_tls_of_an_unknown_issuer_is_relayed_from_the_first_connection(
    service: Callable[..., Service], certificates: Path
) -> None:
    pytest.importorskip("pymysql")
    shop = service(HOST, 3306)
    shop.project.write("test_it.py", f"HOST, PASSWORD = {HOST!r}, {PASSWORD!r}\n{UNTRUSTED_CODE}")
    with mariadb(certificate=str(certificates / "leaf.pem")) as server:
        shop.record(server, passed=1)
