"""sql: tables of real servers, read once whatever is killed."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pytest

from agent.config.reading import read
from agent.errors import DeliveryError
from agent.event import Event
from agent.metrics import SourceCounter
from aggregator.sources.sql import SqlConfig, SqlSource
from tests.agent.certificates import Authority
from tests.contracts.source import Door
from tests.needs import need
from tests.peers.harness import Program, wait_until
from tests.peers.mariadb import Mariadb
from tests.peers.postgresql import Postgresql
from tests.peers.shared import shared

ROWS = int(os.environ.get("HEADRACE_ROWS", "100000"))
CONF = """\
a.sources = r
a.channels = c
a.sinks = k
a.sources.r.type = sql
a.sources.r.url = {url}
a.sources.r.table = {table}
a.sources.r.channels = c
{more}
a.channels.c.type = file
a.channels.c.path = {folder}/store
a.channels.c.capacity = 10000000
a.sinks.k.type = file_roll
a.sinks.k.sink.directory = {folder}/out
a.sinks.k.sink.rollInterval = 1
a.sinks.k.sink.batchSize = 1000
a.sinks.k.channel = c
"""


def conf(folder: Path, url: str, table: str, **keys: str) -> str:
    more = "\n".join(f"a.sources.r.{name} = {value}" for name, value in keys.items())
    return CONF.format(url=url, table=table, folder=folder, more=more)


def rows_in(folder: Path) -> list[dict[str, Any]]:
    """What the sink wrote, file by file."""
    found: list[dict[str, Any]] = []
    for path in sorted((folder / "out").glob("[!.]*")):
        found += map(json.loads, path.read_text().splitlines())
    return found


def lines_in(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (folder / "out").glob("[!.]*"))


def mariadb() -> Mariadb:
    need("mariadbd")
    return shared("mariadb", Mariadb)


def postgresql() -> Postgresql:
    need("postgresql")
    return shared("postgresql", Postgresql)


def imported(url: str, table: str, **keys: str) -> list[Event]:
    """Import a table through the source alone; the events."""
    raw = {"channels": "c", "url": url, "table": table} | keys
    reading = read(SqlConfig, raw, "sql")
    assert reading.config, reading.faults
    source, door = SqlSource("r", reading.config), Door()
    source.process, source.bury, source.marks = door.process, door.bury, {}
    source.counter = SourceCounter("r")

    async def steps() -> None:
        async with asyncio.timeout(60), source:
            await source.run()

    asyncio.run(steps())
    assert not door.letters
    return [event for batch in door.batches for event in batch.events]


def datum(event: Event) -> Any:
    """An Avro body, read by the schema that its event names."""
    schema = fastavro.parse_schema(json.loads(event.headers["flume.avro.schema.literal"]))
    return fastavro.schemaless_reader(io.BytesIO(event.body), schema, None)


@pytest.mark.limit(max(120, ROWS // 500))
def test_a_table_of_mariadb_arrives_once_although_the_agent_is_killed(
    tmp_path: Path, program: Callable[..., Program]
) -> None:
    """Of 100,000 rows (HEADRACE_ROWS sets another number) each is written once, with SIGKILL at a fifth and a half."""
    server = mariadb()
    server.run(
        "DROP TABLE IF EXISTS readings",
        "CREATE TABLE readings (id INT PRIMARY KEY, sensor VARCHAR(20), value DECIMAL(10,2), at DATETIME(3))",
        "INSERT INTO readings SELECT seq, CONCAT('boiler-', seq % 50), seq / 100, '2026-01-01' + INTERVAL seq SECOND"
        f" FROM seq_1_to_{ROWS}",
    )
    agent = program("aggregator", conf(tmp_path, server.url, "readings"))
    for part in (0.2, 0.5):
        wait_until(lambda part=part: lines_in(tmp_path) > part * ROWS, 600, "a part of the rows")  # type: ignore[misc]
        agent.kill9()
        assert lines_in(tmp_path) < ROWS
        agent.start()
    agent.wait_log("import finished", max(60, ROWS // 1000))
    wait_until(lambda: lines_in(tmp_path) >= ROWS, 600, "all rows")
    agent.stop()
    assert "going on with readings by id" in agent.log
    found = rows_in(tmp_path)
    assert Counter(row["id"] for row in found) == Counter(range(1, ROWS + 1))
    assert {(row["id"], row["sensor"], row["value"]) for row in found[:100]} == {
        (row["id"], f"boiler-{row['id'] % 50}", row["id"] / 100) for row in found[:100]
    }


def test_rows_of_postgresql_with_equal_times_arrive_once_although_agent_and_server_are_killed(
    tmp_path: Path, program: Callable[..., Program]
) -> None:
    """20,000 rows with 200 times in all, read by (time, key) in pages of 90, SIGKILL to either in the middle."""
    need("postgresql")
    count = 20_000
    with Postgresql(tmp_path / "server") as server:
        server.run(
            "CREATE TABLE readings (id INT PRIMARY KEY, at TIMESTAMPTZ NOT NULL, value FLOAT8)",
            "INSERT INTO readings SELECT n, timestamptz '2026-10-25 00:00+02' + n * 7919 % 200 * interval '1 minute', n"
            f" FROM generate_series(1, {count}) n",
            "CREATE INDEX ON readings (at, id)",
        )
        agent = program("aggregator", conf(tmp_path, server.url, "readings", timeColumn="at", batchSize="90"))
        wait_until(lambda: lines_in(tmp_path) > count // 10, 60, "a part of the rows")
        agent.kill9()
        assert lines_in(tmp_path) < count
        agent.start()
        wait_until(lambda: lines_in(tmp_path) > count // 3, 60, "more rows")
        server.kill9()
        agent.wait_log("tries again")
        assert lines_in(tmp_path) < count
        server.start()
        agent.wait_log("import finished", 60)
        wait_until(lambda: lines_in(tmp_path) >= count, 60, "all rows")
        agent.stop()
    found = rows_in(tmp_path)
    assert Counter(row["id"] for row in found) == Counter(range(1, count + 1))
    keys = [(row["at"], row["id"]) for row in found]
    assert keys == sorted(keys)


def test_a_server_that_is_down_at_the_start_is_waited_for(tmp_path: Path, program: Callable[..., Program]) -> None:
    """One line says so; the import begins when it is there, and rows that are added later follow."""
    need("mariadbd")
    server = Mariadb(tmp_path / "server")
    agent = program("aggregator", conf(tmp_path, server.url, "t", follow="true", pollInterval="50ms"), start=False)
    agent.launch()
    agent.wait_log("Connection refused")
    with server:
        server.run("CREATE TABLE t (id INT PRIMARY KEY)", "INSERT INTO t SELECT seq FROM seq_1_to_10")
        wait_until(lambda: lines_in(tmp_path) == 10, 60, "ten rows")
        server.run("INSERT INTO t VALUES (11), (12)")
        wait_until(lambda: lines_in(tmp_path) == 12, 60, "the rows that were added")
        agent.stop()
    assert agent.log.count("Connection refused") == 1
    assert [row["id"] for row in rows_in(tmp_path)] == list(range(1, 13))


def test_a_table_that_comes_later_is_waited_for(tmp_path: Path, program: Callable[..., Program]) -> None:
    """A missing table is said with its key, and imported once it is there."""
    server = postgresql()
    server.run("DROP TABLE IF EXISTS late")
    agent = program("aggregator", conf(tmp_path, server.url, "late"), start=False)
    agent.launch()
    agent.wait_log("table: postgresql://127.0.0.1")
    agent.wait_log("has no table late in the search path")
    server.run("CREATE TABLE late (id INT PRIMARY KEY)", "INSERT INTO late VALUES (1)")
    wait_until(lambda: lines_in(tmp_path) == 1, 60, "the row")
    agent.stop()


MARIADB_TYPES = """
CREATE TABLE types (
    id BIGINT UNSIGNED PRIMARY KEY, flag TINYINT(1), bits BIT(12), price DECIMAL(12,3), f FLOAT, d DOUBLE,
    name VARCHAR(50) CHARACTER SET latin1, `odd ``%s name` VARCHAR(10), raw VARBINARY(10), day DATE, at DATETIME(6),
    seen TIMESTAMP(3) NULL, span TIME(3), kind ENUM('a','b'), made YEAR, j JSON, zero DATETIME NULL
)"""


def test_each_type_of_mariadb_as_json() -> None:
    """Every digit is kept, bytes are base64, times are ISO 8601, a moment is UTC, what is no date stays text."""
    server = mariadb()
    server.run(
        "DROP TABLE IF EXISTS types", MARIADB_TYPES, "SET sql_mode = ''", "SET time_zone = '+02:00'",
        "INSERT INTO types VALUES (18446744073709551615, 1, b'100000000001', 123456789.120, 0.1, 1e300, '°C', 'x',"
        " x'00ff', '2026-02-28', '2026-11-25 02:00:54.123456', '2026-11-25 02:00:54.500', '-100:00:01.500', 'b', 2026,"
        " '{\"a\": 1.0}', '0000-00-00 00:00:00')",
        "INSERT INTO types (id) VALUES (1)",
    )  # fmt: skip
    first, last = imported(server.url, "types", timeColumn="id", keyColumn="id")
    assert last.body.decode() == (
        '{"id":18446744073709551615,"flag":1,"bits":2049,"price":123456789.120,"f":0.1,"d":1e+300,"name":"°C",'
        '"odd `%s name":"x","raw":"AP8=","day":"2026-02-28","at":"2026-11-25T02:00:54.123456",'
        '"seen":"2026-11-25T00:00:54.500000","span":"-100:00:01.500000","kind":"b","made":2026,"j":"{\\"a\\": 1.0}",'
        '"zero":"0000-00-00 00:00:00"}'
    )
    assert set(json.loads(first.body).values()) == {1, None}
    assert (first.headers["table"], first.headers["key"]) == ("types", "1")


def test_each_type_of_mariadb_as_avro() -> None:
    """A datum by the table's schema: logical types for decimals, dates and times, null where the column is."""
    server = mariadb()
    server.run(
        "DROP TABLE IF EXISTS avro",
        "CREATE TABLE avro (id INT PRIMARY KEY, price DECIMAL(12,3), d DOUBLE, name VARCHAR(9), raw BLOB, day DATE,"
        " at DATETIME(6), seen TIMESTAMP NULL, `odd name` TIME)",
        "INSERT INTO avro VALUES (-7, -1.5, 0.5, 'x', x'00', '1969-12-31', '2026-11-25 02:00:54.123456',"
        " '2026-11-25 02:00:54', '01:02:03'), (8, 123456789.999, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
    )
    first, second = map(datum, imported(server.url, "avro", format="avro"))
    assert [str(value) for value in first.values()] == [
        "-7", "-1.500", "0.5", "x", "b'\\x00'", "1969-12-31", "2026-11-25 02:00:54.123456", "2026-11-25 02:00:54+00:00",
        "01:02:03",
    ]  # fmt: skip
    assert list(first)[-1] == "odd_name"
    assert [str(second["price"]), second["name"], second["id"]] == ["123456789.999", None, 8]


POSTGRESQL_TYPES = """
CREATE TABLE types (
    id UUID PRIMARY KEY, flag BOOL, price NUMERIC(12,3), any_number NUMERIC, f REAL, d DOUBLE PRECISION, name TEXT,
    "odd ""%s name" CHAR(3), raw BYTEA, day DATE, at TIMESTAMP, seen TIMESTAMPTZ, clock TIME, span INTERVAL, j JSON,
    jb JSONB, list INT[], words TEXT[], ip INET, forever TIMESTAMPTZ, span_of INT4RANGE
)"""


def test_each_type_of_postgresql_as_json() -> None:
    """Every digit is kept, JSON stays JSON on one line, arrays are arrays, what Python has no value for is text."""
    server = postgresql()
    server.run(
        "DROP TABLE IF EXISTS types", POSTGRESQL_TYPES,
        "INSERT INTO types VALUES ('00000000-0000-0000-0000-00000000000a', true, 1.5, 1e-20, 0.1, 'NaN', 'a\"b', 'x',"
        " '\\x00ff', '2026-02-28', '2026-11-25 02:00:54.123', '2026-11-25 02:00:54+02', '01:02:03', '2 mons 1 day',"
        " '{\"a\":\n 1.10}', '{\"b\": 1e2}', '{1,null}', '{x}', '10.0.0.1', 'infinity', '[1,5)')",
    )  # fmt: skip
    [event] = imported(server.url, "types", timeColumn="seen")
    assert event.body.decode() == (
        '{"id":"00000000-0000-0000-0000-00000000000a","flag":true,"price":1.500,"any_number":1E-20,"f":0.1,"d":"NaN",'
        '"name":"a\\"b","odd \\"%s name":"x  ","raw":"AP8=","day":"2026-02-28","at":"2026-11-25T02:00:54.123000",'
        '"seen":"2026-11-25T00:00:54Z","clock":"01:02:03","span":"2 mons 1 day","j":{"a":  1.10},"jb":{"b": 100},'
        '"list":[1,null],"words":["x"],"ip":"10.0.0.1","forever":"infinity","span_of":"[1, 5)"}'
    )
    assert event.headers == {
        "table": "types",
        "key": "00000000-0000-0000-0000-00000000000a",
        "timestamp": "1795564854000",
    }


def test_each_type_of_postgresql_as_avro() -> None:
    """A datum by the table's schema."""
    server = postgresql()
    server.run(
        "DROP TABLE IF EXISTS avro",
        "CREATE TABLE avro (id BIGINT PRIMARY KEY, flag BOOL, price NUMERIC(12,3), n NUMERIC, name TEXT NOT NULL,"
        " at TIMESTAMP, seen TIMESTAMPTZ, j JSONB)",
        "INSERT INTO avro VALUES (1, true, 2.25, 0.1, 'x', '2026-11-25 02:00', '2026-11-25 02:00+02', '[1]')",
    )
    [event] = imported(server.url, "avro", format="avro")
    assert [str(value) for value in datum(event).values()] == [
        "1", "True", "2.250", "0.1", "x", "2026-11-25 02:00:00", "2026-11-25 00:00:00+00:00", "[1]"
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
@pytest.mark.parametrize(
    "key", ["BIGINT", "DECIMAL(30,10)", "DOUBLE PRECISION", "VARCHAR(20)", "DATE", "TIMESTAMP", "TIME"]
)
def test_pages_meet_without_a_gap(kind: str, key: str) -> None:
    """By a key of each kind: every row once and in the database's own order, in pages of three."""
    server: Any = mariadb() if kind == "mariadb" else postgresql()
    values = {
        "BIGINT": ["-5", "0", "1", "2", "9000000000000000000"],
        "DECIMAL(30,10)": ["-0.1", "0.0000000001", "0.1", "1", "99999999999999999999.9999999999"],
        "DOUBLE PRECISION": ["-1e300", "0.1", "0.1000000000000001", "0.3", "1e22"],
        "VARCHAR(20)": ["'B'", "'a'", "'Ä'", "'z'", "'''%s'"],
        "DATE": ["'1999-12-31'", "'2000-02-29'", "'2026-01-01'", "'2026-01-02'", "'2027-01-01'"],
        "TIMESTAMP": [
            "'2026-10-25 00:30:00'",
            "'2026-10-25 01:30:00'",
            "'2026-10-25 02:30:00'",
            "'2026-11-01 00:00:00'",
        ],
        "TIME": ["'00:00:00'", "'01:00:00'", "'12:30:00'", "'23:59:59'"],
    }[key]
    rows = ", ".join(f"({value})" for value in values)
    server.run(
        "DROP TABLE IF EXISTS pages", f"CREATE TABLE pages (k {key} PRIMARY KEY)", f"INSERT INTO pages VALUES {rows}"
    )
    expected = [row[0] for row in server.run("SELECT k FROM pages ORDER BY k")]
    events = imported(server.url, "pages", batchSize="3")
    assert len(events) == len(expected)
    if key in ("BIGINT", "VARCHAR(20)"):
        assert [json.loads(event.body)["k"] for event in events] == expected


@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
def test_a_condition_and_columns(kind: str) -> None:
    """`where` is taken as it is, with its percent sign and its comment; `columns` says what the body has."""
    server: Any = mariadb() if kind == "mariadb" else postgresql()
    server.run(
        "DROP TABLE IF EXISTS wanted", "CREATE TABLE wanted (id INT PRIMARY KEY, name VARCHAR(9), v INT)",
        "INSERT INTO wanted VALUES (1, 'ab', 7), (2, 'b', 8), (3, 'ac', 9)",
    )  # fmt: skip
    found = imported(server.url, "wanted", where="name LIKE 'a%' -- only those", columns="v name")
    assert [event.body for event in found] == [b'{"v":7,"name":"ab"}', b'{"v":9,"name":"ac"}']


@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
def test_tls_verifies_the_server(kind: str, tmp_path: Path) -> None:
    """With the CA that signed the server's certificate rows come; with another it is refused."""
    need("mariadbd" if kind == "mariadb" else "postgresql")
    (tmp_path / "other").mkdir()
    ca, other = Authority(tmp_path), Authority(tmp_path / "other", "other")
    pem, _ = ca.leaf("server", "127.0.0.1")
    server: Any
    if kind == "mariadb":
        server = Mariadb(tmp_path / "server", options=[f"--ssl-cert={pem}", f"--ssl-key={pem}"])
    else:
        server = Postgresql(
            tmp_path / "server", options=["-c", "ssl=on", "-c", "ssl_cert_file=own.pem", "-c", "ssl_key_file=own.pem"]
        )
        server.configure()
        own = server.data / "own.pem"
        own.write_bytes(pem.read_bytes())
        own.chmod(0o600)
        if server.as_root:
            shutil.chown(own, "postgres", "postgres")
    with server:
        server.run("CREATE TABLE t (id INT PRIMARY KEY)", "INSERT INTO t VALUES (1)")
        keys = {"ssl": "true", "connectTimeout": "5s"}
        assert len(imported(server.url, "t", **keys, **{"ssl.truststore": str(ca.pem)})) == 1
        with pytest.raises(DeliveryError, match="certificate"):
            imported(server.url, "t", **keys, **{"ssl.truststore": str(other.pem)})


@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
def test_a_server_without_tls_is_refused(kind: str, tmp_path: Path) -> None:
    """With ssl = true nothing goes over the line in clear."""
    server: Any = mariadb() if kind == "mariadb" else postgresql()
    with pytest.raises(DeliveryError, match=r"SSL"):
        imported(server.url, "t", ssl="true", **{"ssl.truststore": str(Authority(tmp_path).pem)})


@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
def test_a_server_that_hangs_is_left_after_a_time(kind: str, tmp_path: Path, program: Callable[..., Program]) -> None:
    """queryTimeout ends the wait in the middle of the table; the import goes on when the server answers again."""
    need("mariadbd" if kind == "mariadb" else "postgresql")
    server: Any = (Mariadb if kind == "mariadb" else Postgresql)(tmp_path / "server")
    with server:
        server.run("CREATE TABLE t (id INT PRIMARY KEY)", "INSERT INTO t VALUES (1)")
        keys = {"follow": "true", "pollInterval": "50ms", "queryTimeout": "500ms", "connectTimeout": "500ms"}
        agent = program("aggregator", conf(tmp_path, server.url, "t", **keys))
        wait_until(lambda: lines_in(tmp_path) == 1, 60, "the first row")
        freeze(server, signal.SIGSTOP)
        agent.wait_log("no answer within 0.5 s (queryTimeout)")
        freeze(server, signal.SIGCONT)
        server.run("INSERT INTO t VALUES (2)")
        wait_until(lambda: lines_in(tmp_path) == 2, 60, "the second row")
        freeze(server, signal.SIGSTOP)
        assert agent.stop() == 0
        freeze(server, signal.SIGCONT)
    assert [row["id"] for row in rows_in(tmp_path)] == [1, 2]


def freeze(server: Mariadb | Postgresql, number: int) -> None:
    """Every process of the server: PostgreSQL has one a connection."""
    os.killpg(os.getpgid(server.pid), number)
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), number)


def test_a_wrong_password_is_said_without_it(caplog: pytest.LogCaptureFixture) -> None:
    """DeliveryError, with the server's own words and without the password."""
    server = mariadb()
    server.run("CREATE OR REPLACE USER reader@'127.0.0.1' IDENTIFIED BY 'right'")
    with caplog.at_level(logging.DEBUG), pytest.raises(DeliveryError, match="Access denied") as caught:
        imported(server.url.replace("root", "reader"), "t", password="hunter2-wrong")
    assert "hunter2" not in str(caught.value) + caplog.text
