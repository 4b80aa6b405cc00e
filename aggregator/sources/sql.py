"""Imports a table of MySQL, MariaDB, PostgreSQL or SQLite, one event a row, and with `follow` what is added to it.

    a1.sources.r1.type = sql
    a1.sources.r1.url = mysql://reader@db.plant.example/history
    a1.sources.r1.password = file:/etc/headrace/history.password
    a1.sources.r1.table = readings
    a1.sources.r1.timeColumn = at

Rows come in the order of a unique key, or of a time and then that key (aggregator/sql/order.py). How far it came is
kept in the transaction that keeps the events, so an import that was killed goes on behind the last row that is kept:
none is missing, none there twice. A database that is away is waited for. Where the channels keep no place, this source
does, as long as it runs. docs/sql.md has the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, TypeVar

from agent.backoff import Backoff
from agent.config.fields import Bytes, Seconds, Secret, key
from agent.config.fields import Config as AnyConfig
from agent.errors import ChannelFull, ConfigError, DeliveryError
from agent.event import Batch
from agent.source import Source, SourceConfig
from agent.tls import PemTlsConfig, pem_context
from aggregator.sql import events, order, plan, reader
from aggregator.sql.body import text_of
from aggregator.sql.database import Access, Address, Database, Tls, address_of, make
from aggregator.sql.order import Order, Place
from aggregator.sql.progress import Progress
from aggregator.sql.table import Table

MARK = "place"
EXACT = 1_000_000
"""Rows up to which they are counted at the start; beyond, the database's estimate does."""
GRACE = 5.0
"""Seconds that a connection has to end by itself."""
ELSE = "the place that was kept is of {}; to import this one from its start give the source {} another name"
Answer = TypeVar("Answer")


class SqlConfig(SourceConfig, PemTlsConfig):
    url: str = key("url", doc="mysql://[user@]host[:3306]/database, postgresql:// alike, or sqlite:///path")
    username: str = key("username", "", doc="name to log in with, if the url has none")
    password: Secret = key("password", Secret(""), doc="its password; better from a file or the environment")
    tls: bool = key("ssl", False, doc="TLS, with the server's certificate verified")
    table: str = key("table", doc="table or view, [schema.]name")
    columns: list[str] = key("columns", [], doc="columns of the body; default: all")
    keyColumn: list[str] = key("keyColumn", [], doc="unique column (or several) to read by; default: the primary key")
    timeColumn: str = key("timeColumn", "", doc="column to read by before the key; gives the timestamp header")
    where: str = key("where", "", doc="condition in SQL on the rows that are wanted")
    batchSize: int = key("batchSize", 1000, low=1, high=100_000, doc="most rows put at once")
    batchBytes: Bytes = key("batchBytes", Bytes(4 << 20), low=1024, doc="most bytes of bodies put at once")
    maxEventBytes: Bytes = key("maxEventBytes", Bytes(8 << 20), low=1, doc="longest body; longer: dead letter")
    format: str = key("format", "json", choices=("json", "avro"), doc="body: a JSON object, or an Avro datum")
    follow: bool = key("follow", False, doc="go on with rows that are added later")
    pollInterval: Seconds = key("pollInterval", Seconds(5.0), unit="s", low=0.01, doc="wait between looks for new rows")
    connectTimeout: Seconds = key("connectTimeout", Seconds(10.0), unit="ms", low=0.01, doc="wait for the database")
    queryTimeout: Seconds = key("queryTimeout", Seconds(300.0), unit="s", low=0.01, doc="wait for the rows of a batch")

    def problems(self) -> list[tuple[str, str]]:
        found = super().problems()
        try:
            address = self.address()
        except ConfigError as error:
            return [*found, ("url", str(error))]
        if self.username and address_of(self.url).user:
            found.append(("username", "is in the url already: remove one"))
        if address.kind == "sqlite" and (self.tls or self.username or self.password):
            found.append(("url", "sqlite:// is a file: it takes no username, password or ssl"))
        if (self.pem_truststore or self.pem_keystore) and not self.tls:
            found.append(("ssl", "ssl.truststore and ssl.keystore need ssl = true"))
        if len(set(self.keyColumn)) < len(self.keyColumn):
            found.append(("keyColumn", "names a column twice"))
        return found

    def address(self) -> Address:
        """ConfigError if the url is none."""
        at = address_of(self.url)
        return Address(at.kind, at.database, at.host, at.port, at.user or self.username)

    def access(self) -> Access:
        """ConfigError if a file of ssl.* can't be read."""
        tls = None
        if self.tls:
            tls = Tls(pem_context(self), self.pem_truststore, self.pem_keystore, str(self.pem_password))
        return Access(self.address(), str(self.password), tls, self.connectTimeout, self.queryTimeout, self.batchBytes)


class SqlSource(Source):
    """A thread of its own talks to the database, one piece ahead of what the channels have kept."""

    Config: ClassVar[type[AnyConfig]] = SqlConfig
    config: SqlConfig

    def __init__(self, name: str, config: AnyConfig) -> None:
        super().__init__(name, config)
        self.ready = False
        self.place, self.order = Place(), Order("", (), ())
        self.database: Database | None = None
        self.pieces: reader.Pieces | None = None
        self.ahead: asyncio.Task[reader.Piece | None] | None = None

    async def open(self) -> None:
        """ConfigError if the mark that was kept is of another table or order, or a file of ssl.* can't be read."""
        self.access = self.config.access()
        self.place = self._kept()
        self._begin()

    def _begin(self) -> None:
        self.pool = ThreadPoolExecutor(1, thread_name_prefix=self.name)

    async def close(self) -> None:
        if not hasattr(self, "pool"):
            return
        if self.ahead:
            self.ahead.cancel()
            await asyncio.gather(self.ahead, return_exceptions=True)
        try:
            await self._call(self._let_go, GRACE, "its end")
        except DeliveryError as error:
            self.log.debug("%s", error)
        self.pool.shutdown(wait=False)

    async def run(self) -> None:
        """Returns when the table has been read to its end, unless it is followed. DeliveryError when the database
        fails, ConfigError when it hasn't got what the configuration names: the source is made anew then, later.

        Behind channels that keep no place that one would begin with the first row, so this one waits and goes on.
        """
        wait = Backoff()
        while True:
            begun = self.place
            try:
                await self._import()
                return
            except (DeliveryError, ConfigError) as error:
                self.ready = False
                if not self.place.rows or self.durable:
                    raise
                if self.place != begun:
                    wait.reset()
                seconds = wait.next()
                if self.counter.say(f"waiting: {error}"):
                    self.log.error("%s; tries again in %g s, then in up to %g s", error, seconds, wait.most)
            await self.close()
            self._begin()
            await asyncio.sleep(seconds)

    async def _import(self) -> None:
        """From the place that was reached to the end."""
        keys, loop = self.config, asyncio.get_running_loop()
        await self._call(self._connect, keys.connectTimeout + GRACE, "connectTimeout")
        progress = await self._call(self._prepare, keys.queryTimeout, "queryTimeout")
        self.ready, finished = True, False
        self.counter.say("running")
        self.ahead = self._fetch()
        while True:
            piece = await self.ahead
            if piece is None:
                if not finished:
                    self.log.info("%s", progress.finished(loop.time()))
                if not keys.follow:
                    return
                finished = True
                await asyncio.sleep(keys.pollInterval)
            self.ahead = self._fetch()
            if piece:
                await self._keep(piece)
                line = progress.add(piece.rows, loop.time())
                if line and not finished:
                    self.log.info("%s", line)

    # -- on the loop

    def _kept(self) -> Place:
        mark = self.marks.get(MARK)
        if mark is None:
            return Place()
        place, table, self.kept_by = order.read(mark)
        if table != self.config.table:
            raise ConfigError(f"table = {self.config.table}: {ELSE.format(f'table {table}', self.name)}")
        return place

    def _fetch(self) -> asyncio.Task[reader.Piece | None]:
        return asyncio.create_task(self._call(self._next, self.config.queryTimeout, "queryTimeout"), name=self.name)

    async def _call(self, work: Callable[[], Answer], seconds: float, what: str) -> Answer:
        """Run it on the source's thread. Who no longer waits for it breaks the connection, so that the thread ends."""
        future = asyncio.get_running_loop().run_in_executor(self.pool, work)
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            self._abort()
            raise DeliveryError(f"{self.access.address}: no answer within {seconds:g} s ({what})") from None
        except asyncio.CancelledError:
            self._abort()
            raise

    def _abort(self) -> None:
        if self.database:
            self.database.abort()

    async def _keep(self, piece: reader.Piece) -> None:
        """The events and their place are kept in one transaction."""
        self.counter.EventReceivedCount += piece.rows
        by = [column.name for column in self.order.by]
        marks = {MARK: order.write(piece.place, self.config.table, by)}
        if piece.letter:
            self.counter.EventReadFail += 1
            self.log.error("row %s goes to the dead letters: %s", piece.letter.headers["key"], piece.letter.reason)
            letters = [piece.letter]
            await self._when_room(lambda: self.bury(letters, marks))
        else:
            batch = Batch(piece.events)
            await self._when_room(lambda: self.process(batch, marks))
            self.counter.EventAcceptedCount += piece.rows
        self.place = piece.place

    async def _when_room(self, keep: Callable[[], Awaitable[object]]) -> None:
        wait = Backoff(0.05, 5.0)
        while True:
            try:
                await keep()
                return
            except ChannelFull:  # the way in has said so
                await asyncio.sleep(wait.next())

    # -- on the thread

    def _connect(self) -> None:
        self.database = make(self.access)
        self.database.open()

    def _prepare(self) -> Progress:
        """Learn the table, decide on the order, say what is left out, and how much there is to do."""
        assert self.database is not None
        keys, database, place = self.config, self.database, self.place
        table = database.table(keys.table)
        self.order = plan.order_of(table, keys.columns, keys.keyColumn, keys.timeColumn, keys.where)
        by = ", ".join(column.name for column in self.order.by)
        if place.last and by != ", ".join(self.kept_by):
            raise ConfigError(f"keyColumn: {ELSE.format(f'an order by {chr(44).join(self.kept_by)}', self.name)}")
        self.kept_by = [column.name for column in self.order.by]
        self._complain(database, table)
        total, about = self._total(database, table)
        self.log.info(
            "%s %s by %s, %s%s rows%s", "importing" if not place.rows else "going on with", keys.table, by,
            "about " if about else "", f"{total:,}" if total else "a number that is not known of",
            f", {place.rows:,} are done" if place.rows else "",
        )  # fmt: skip
        row_to_event = events.maker(self.order, table, keys.table, bool(keys.timeColumn), keys.format == "avro")
        limits = reader.Limits(keys.batchSize, keys.batchBytes, keys.maxEventBytes)
        self.pieces = reader.pieces(database, self.order, row_to_event, place, limits)
        return Progress(keys.table, total, about, place.rows, time.monotonic())

    def _complain(self, database: Database, table: Table) -> None:
        """ConfigError if two rows have one place; what else is wrong is a warning."""
        for line in plan.warnings(table, self.order):
            self.log.warning("%s", line)
        if not plan.is_unique(table, self.order) and not self.place.rows:
            self._check_unique(database)
        statement = self.order.unplaced(database)
        found = database.one(*statement) if statement else None
        if found and found[0]:
            by = " or ".join(column.name for column in self.order.by if column.nullable)
            self.log.warning("%s rows are left out: they have no %s, and so no place in the order", f"{found[0]:,}", by)

    def _check_unique(self, database: Database) -> None:
        names = ", ".join(column.name for column in self.order.by)
        found = database.one(*self.order.repeated(database))
        if found:
            values = ", ".join(map(text_of, found))
            raise ConfigError(f"keyColumn: several rows have ({names}) = ({values}): name a key that is unique")
        self.log.warning(
            "nothing in the database keeps (%s) unique: of rows that become equal one may be left out", names
        )

    def _total(self, database: Database, table: Table) -> tuple[int, bool]:
        """(rows, whether that is an estimate); 0 where counting would take too long."""
        if table.estimate < 0 or table.estimate > EXACT:
            return max(0, table.estimate), True
        found = database.one(*self.order.left(database, self.place))
        return self.place.rows + (int(found[0]) if found else 0), False

    def _next(self) -> reader.Piece | None:
        assert self.pieces is not None
        return next(self.pieces)

    def _let_go(self) -> None:
        """The pieces may stand in the middle of a query, which ends first."""
        if self.database:
            database, self.database = self.database, None
            try:
                if self.pieces:
                    self.pieces.close()
            finally:
                database.close()
