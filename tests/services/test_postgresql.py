"""PostgreSQL through real drivers: recorded from a real server, played with none."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from building import Builder
from real_servers import PASSWORD, Running, postgresql, program
from service_lab import Service

pytestmark = pytest.mark.live

HOST = "db.example.com"
PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture
def server() -> Iterator[Running]:
    with postgresql() as running:
        yield running


@pytest.fixture
def shop(
    service: Callable[..., Service], server: Running, monkeypatch: pytest.MonkeyPatch
) -> Service:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert server.port
    return service(HOST, 5432)


def write(shop: Service, code: str, **names: object) -> None:
    """Write a test module that knows HOST and `names`."""
    known = {"HOST": HOST, **names}
    head = "".join(f"{name} = {value!r}\n" for name, value in known.items())
    shop.project.write("test_it.py", head + code)


PSYCOPG = """
import threading
import psycopg, pytest

pytestmark = pytest.mark.cassette
DSN = f"host={HOST} user=app dbname=shop connect_timeout=20"

def test_statements(netcapture):
    with psycopg.connect(DSN) as db:
        db.execute("CREATE TABLE IF NOT EXISTS orders (id serial primary key, item text, n int)")
        db.execute("DELETE FROM orders")
        for number in range(8):  # from the sixth on psycopg prepares it
            db.execute("INSERT INTO orders (item, n) VALUES (%s, %s)", (ITEM, number))
        rows = db.execute("SELECT item, n FROM orders ORDER BY n").fetchall()
        assert rows == [(ITEM, number) for number in range(8)]
    inserted = netcapture.sql.one(statement__contains="INSERT INTO orders", parameters=[ITEM, 7])
    assert (inserted.command, inserted.database, inserted.user) == ("INSERT 0 1", "shop", "app")
    asked = netcapture.sql.one(statement__contains="ORDER BY")
    assert asked.columns == ["item", "n"]
    assert asked.rows[0] == [ITEM, 0]

def test_copy():
    with psycopg.connect(DSN) as db, db.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE copied (item text, n int)")
        with cursor.copy("COPY copied FROM STDIN") as copy:
            copy.write_row((ITEM, 1))
            copy.write_row(("other", 2))
        with cursor.copy("COPY copied TO STDOUT") as copy:
            assert list(copy.rows()) == [(ITEM, "1"), ("other", "2")]

def test_errors_and_notices(netcapture):
    notices = []
    with psycopg.connect(DSN, autocommit=True) as db:
        db.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        with pytest.raises(psycopg.errors.UndefinedTable, match="nonesuch"):
            db.execute("SELECT * FROM nonesuch WHERE item = %s", (ITEM,))
        db.execute("DROP TABLE IF EXISTS nonesuch")
        with pytest.raises(psycopg.errors.DivisionByZero), db.transaction():
            db.execute("SELECT 1 / 0")
        assert db.execute("SELECT 2").fetchone() == (2,)
    assert notices == ['table "nonesuch" does not exist, skipping']
    assert netcapture.sql.one(sqlstate="42P01").parameters == [ITEM]

def test_pipeline_and_server_side_cursor():
    with psycopg.connect(DSN) as db:
        with db.pipeline():
            cursors = [db.execute("SELECT %s::text", (f"{ITEM} {n}",)) for n in range(3)]
        assert [c.fetchone()[0] for c in cursors] == [f"{ITEM} {n}" for n in range(3)]
        with db.cursor(name="few") as cursor:
            cursor.itersize = 2
            cursor.execute("SELECT generate_series(1, 5)")
            assert [row[0] for row in cursor] == [1, 2, 3, 4, 5]

def test_notifications():
    with psycopg.connect(DSN, autocommit=True) as one, psycopg.connect(DSN, autocommit=True) as two:
        one.execute("LISTEN orders")
        two.execute("SELECT pg_notify('orders', %s)", (ITEM,))
        (note,) = one.notifies(timeout=20, stop_after=1)
        assert (note.channel, note.payload) == ("orders", ITEM)

def test_cancel():
    with psycopg.connect(DSN) as db:
        timer = threading.Timer(0.2, db.cancel_safe)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            db.execute("SELECT pg_sleep(60)")
        timer.join()

def test_a_refused_login():
    with pytest.raises(psycopg.OperationalError, match="nobody"):
        psycopg.connect(DSN, user="nobody", password="wrong-pass-word")
"""


def test_psycopg(shop: Service, server: Running) -> None:
    write(shop, PSYCOPG, ITEM="apple")
    recorded = shop.record(server, passed=7)
    assert recorded["recorded"] > 40
    shop.play(passed=7)
    text = shop.text()
    assert "INSERT INTO orders (item, n) VALUES ($1, $2)\n  $1 = apple\n  $2 = 3\n" in text
    assert "  > apple\t1" in text
    assert PASSWORD.encode() not in shop.cassettes()
    assert b"wrong-pass-word" not in shop.cassettes()
    write(shop, PSYCOPG, ITEM="pear")
    failed = shop.play("-k", "statements or copy", passed=0, failed=2).stdout.str()
    assert "unmatched: postgresql INSERT INTO orders" in failed
    assert "- 'apple'" in failed
    assert "+ 'pear'" in failed
    assert "what was sent is not what was recorded" in failed


SQLALCHEMY = """
import threading
import pytest, sqlalchemy as sa

pytestmark = pytest.mark.cassette
URL = f"postgresql+psycopg://app:{PASSWORD}@{HOST}/shop"
meta = sa.MetaData()
items = sa.Table("items_psycopg", meta, sa.Column("id", sa.Integer, primary_key=True),
                 sa.Column("name", sa.String(40)))

def work(engine, number, seen):
    for turn in range(4):
        with engine.begin() as db:
            name = f"{number}-{turn}"
            db.execute(items.insert().values(id=number * 10 + turn, name=name))
            seen.append(db.execute(sa.select(items.c.name).where(items.c.id == number * 10 + turn)).scalar())

@pytest.mark.parametrize("pool", [1, 3])
def test_threads_share_a_pool(netcapture, pool):
    engine = sa.create_engine(URL, pool_size=pool, max_overflow=0)
    meta.drop_all(engine)
    meta.create_all(engine)
    seen = []
    threads = [threading.Thread(target=work, args=(engine, n, seen)) for n in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    engine.dispose()
    assert sorted(seen) == sorted(f"{n}-{t}" for n in range(4) for t in range(4))
    assert len(netcapture.sql.filter(statement__contains="INSERT INTO items")) == 16
"""


def test_sqlalchemy_with_a_pool(shop: Service, server: Running) -> None:
    """Which connection a thread gets, and so what is prepared where, differs from run to run."""
    pytest.importorskip("sqlalchemy")
    write(shop, SQLALCHEMY, PASSWORD=PASSWORD)
    shop.record(server, passed=2)
    for _ in range(3):
        shop.play(passed=2)
    write(shop, SQLALCHEMY.replace("pool_size=pool", "pool_size=2"), PASSWORD=PASSWORD)
    shop.play(passed=2)


ASYNCPG = """
import asyncio
import asyncpg, pytest

pytestmark = pytest.mark.cassette

async def steps():
    pool = await asyncpg.create_pool(host=HOST, user="app", database="shop", min_size=2, max_size=3)
    async with pool.acquire() as db:
        await db.execute("CREATE TABLE IF NOT EXISTS a (id int, v text, t timestamptz)")
        await db.execute("DELETE FROM a")
        await db.executemany("INSERT INTO a VALUES ($1, $2)", [(1, "x"), (2, "y")])
    found = await asyncio.gather(*(pool.fetchval("SELECT v FROM a WHERE id = $1", i) for i in (1, 2, 1, 2)))
    assert found == ["x", "y", "x", "y"]
    async with pool.acquire() as db, db.transaction():
        assert [r["id"] async for r in db.cursor("SELECT id FROM a ORDER BY id", prefetch=1)] == [1, 2]
        await db.copy_records_to_table("a", records=[(3, "z", None)])
    with pytest.raises(asyncpg.UndefinedTableError):
        await pool.fetch("SELECT * FROM nope")
    await pool.close()

def test_it(netcapture):
    asyncio.run(steps())
    assert netcapture.sql.filter(statement__contains="WHERE id =").first.parameters in ([1], [2])
"""


def test_asyncpg(shop: Service, server: Running) -> None:
    pytest.importorskip("asyncpg")
    write(shop, ASYNCPG)
    shop.record(server, passed=1)
    for _ in range(2):
        shop.play(passed=1)


JDBC = """
import os, subprocess, pytest

@pytest.mark.cassette
def test_it(netcapture):
    url = f"jdbc:postgresql://{HOST}/shop?sslmode=disable"
    command = ["java", "-cp", PATH, "Shop", url, os.environ["PGPASSWORD"]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.stdout.split("\\n") == ["item 3", "item 4", "item 5", "item 6", "42P01", ""], done.stderr
    assert [f.parameters[1] for f in netcapture.sql.filter(statement__contains="INSERT")] == [
        f"item {n}" for n in range(7)]

@pytest.mark.cassette
def test_psql(netcapture):
    command = ["psql", "-h", HOST, "-U", "app", "-d", "shop", "-Atc", "SELECT 6 * 7"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "42\\n"
    assert netcapture.sql.one().process.name == "psql"
"""


def test_jdbc_and_psql(shop: Service, server: Running, tmp_path: Path) -> None:
    jar = Path("/usr/share/java/postgresql.jar")
    if not jar.exists():
        pytest.skip("JDBC's driver (libpostgresql-jdbc-java) is not installed")
    program("psql")
    subprocess.run([program("javac"), "-d", tmp_path, PROGRAMS / "Shop.java"], check=True)
    write(shop, JDBC, PATH=f"{jar}:{tmp_path}")
    shop.record(server, passed=2)
    shop.play(passed=2)


PGX = """
import subprocess, pytest

@pytest.mark.cassette
def test_it(netcapture):
    url = f"postgres://app:{PASSWORD}@{HOST}/shop?sslmode=disable&pool_max_conns={CONNECTIONS}"
    done = subprocess.run([SHOP, url], capture_output=True, text=True, timeout=50)
    lines = ["item 0", "item 1", "item 2", "2 copied", "5 rows", "42P01", ""]
    assert done.stdout.split("\\n") == lines, done.stderr
    inserted = netcapture.sql.filter(statement__contains="INSERT")
    assert sorted(f.parameters for f in inserted) == [[n, f"item {n}", n / 2] for n in range(6)]
"""


def test_pgx(shop: Service, server: Running, builder: Builder) -> None:
    """Go's driver prepares, pipelines and copies by a protocol of its own making."""
    names = {"SHOP": str(builder.go_module(PROGRAMS / "pgxgo")), "PASSWORD": PASSWORD}
    write(shop, PGX, CONNECTIONS=4, **names)
    shop.record(server, passed=1)
    write(shop, PGX, CONNECTIONS=2, **names | {"PASSWORD": "any-other-word"})
    shop.play(passed=1)


SHARED = """
import psycopg, pytest

pytestmark = pytest.mark.cassette(*NAMES)

@pytest.fixture(scope="session")
def db():
    with psycopg.connect(f"host={HOST} user=app dbname=shop", autocommit=True) as connection:
        connection.execute("CREATE TABLE shared (n int)")
        yield connection

@pytest.mark.parametrize("number", range(4))
def test_it(db, number):
    assert db.execute("SELECT %s::int", (number,)).fetchone() == (number,)
"""


def test_a_connection_of_a_wider_fixture_is_found_on_a_cassette_that_its_tests_share(
    shop: Service, server: Running
) -> None:
    write(shop, SHARED, NAMES=("shop",))
    shop.record(server, passed=4)
    shop.play(passed=4)
    shop.play("-k", "2", passed=1)


def test_else_only_the_first_test_can_play_it(shop: Service, server: Running) -> None:
    write(shop, SHARED, NAMES=())
    shop.record(server, passed=4)
    shop.play("-k", "0", passed=1)
    lone = shop.play("-k", "2", errors=1).stdout.str()
    assert 'one cassette: @pytest.mark.cassette("name")' in lone


ONE = """
import psycopg, pytest

@pytest.mark.cassette
def test_it():
    with psycopg.connect(f"host={HOST} user=app dbname=shop {OPTIONS}", autocommit=True) as db:
        for number in NUMBERS:
            assert db.execute("SELECT %s::int", (number,)).fetchone() == (number,)
        if TWICE:
            assert db.execute("SELECT 'once'").fetchone() == ("once",)
        db.execute("SELECT 'once'").fetchone()
"""


def test_one_more_one_fewer_another_order(shop: Service, server: Running) -> None:
    def asks(*numbers: int, twice: bool = False) -> None:
        write(shop, ONE, NUMBERS=numbers, TWICE=twice, OPTIONS="")

    asks(1, 2, 3)
    shop.record(server, passed=1)
    asks(3, 1, 2)
    shop.play(passed=1)
    asks(1, 3)
    shop.play(passed=1)
    strict = shop.play("--netcapture-strict", passed=1, errors=1).stdout.str()
    assert "SELECT $1::int" in strict
    asks(1, 2, 3, twice=True)
    more = shop.play(passed=0, failed=1).stdout.str()
    assert "used up: 1 of 1 recordings were played" in more
    assert "netcapture: no recording answers this" in more
    asks(1, 2, 4)
    other = shop.play(passed=0, failed=1).stdout.str()
    assert "parameter 1" in other


@pytest.mark.parametrize("auth", ["md5", "password", "trust"])
def test_ways_to_log_in(
    service: Callable[..., Service], auth: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    shop = service(HOST, 5432)
    write(shop, ONE, NUMBERS=(1,), TWICE=False, OPTIONS="")
    with postgresql(auth=auth) as server:
        shop.record(server, passed=1)
    monkeypatch.delenv("PGPASSWORD")
    shop.play(passed=1)
    assert PASSWORD.encode() not in shop.cassettes()


@pytest.mark.parametrize("mode", ["prefer", "verify-full"])
def test_tls(
    service: Callable[..., Service], mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's question comes before its ClientHello; the certificate is one that we know."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    pem = tmp_path / "server.pem"
    ca.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(pem))
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    root = "sslrootcert=/etc/ssl/certs/ca-certificates.crt" if mode == "verify-full" else ""
    shop = service(HOST, 5432, f"--netcapture-upstream-ca={tmp_path / 'ca.pem'}")
    write(shop, ONE, NUMBERS=(1,), TWICE=False, OPTIONS=f"sslmode={mode} {root}")
    with postgresql(certificate=str(pem)) as server:
        shop.record(server, passed=1)
    shop.play(passed=1)
