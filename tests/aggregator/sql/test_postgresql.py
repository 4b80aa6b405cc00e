"""PostgreSQL's cursor, without a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from aggregator.sql.database import Access, Address

postgresql = pytest.importorskip("aggregator.sql.postgresql", exc_type=ImportError)


class Server:
    """In place of a connection and its cursor: hands the rows over, and counts what it handed over at once."""

    def __init__(self, rows: Sequence[Sequence[Any]]) -> None:
        self.rows, self.handed = list(rows), list[int]()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        yield

    @contextmanager
    def cursor(self, name: str) -> Iterator[Server]:
        yield self

    def execute(self, statement: bytes, values: Sequence[Any]) -> None:
        pass

    def fetchmany(self, size: int) -> list[Sequence[Any]]:
        out, self.rows = self.rows[:size], self.rows[size:]
        self.handed.append(len(out))
        return out


@pytest.mark.parametrize(
    ("rows", "handed"),
    [
        ([(n, "x") for n in range(250)], [1, 100, 100, 49]),
        ([(n, b"x" * 800) for n in range(5)], [1, 2, 2, 0]),
        ([(n, ["x" * 900, ["y" * 900]]) for n in range(3)], [1, 1, 1, 0]),
        ([(1, None), (2, "x" * 1100), (3, "x")], [1, 2]),
        ([], [0]),
    ],
)
def test_rows_come_in_parts_of_so_many_bytes(rows: list[Any], handed: list[int]) -> None:
    """A hundred small rows at once, of large ones as many as `fetch_bytes` has room for, and one for a start."""
    database = postgresql.Postgresql(Access(Address("postgresql", "h", "db"), fetch_bytes=2000))
    database.connection = server = Server(rows)
    assert list(database.rows("SELECT", ())) == rows
    assert server.handed == handed
