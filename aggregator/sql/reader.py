"""A table in pieces that fit a batch. One thread iterates; it holds one piece, and what the database gave at once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

from agent.event import Event
from agent.source import DeadLetter
from aggregator.sql import body, datum
from aggregator.sql.database import Database
from aggregator.sql.events import Row
from aggregator.sql.order import Order, Place

LETTER = 64 << 10
"""Bytes of a row that a dead letter keeps."""


class Piece(NamedTuple):
    """Events, or the one row behind them that can't be an event, and the place that both together lead to."""

    events: list[Event]
    letter: DeadLetter | None
    place: Place
    rows: int


class Limits(NamedTuple):
    """Rows and bytes of a piece, and bytes of an event's body."""

    rows: int
    bytes: int
    event: int


Pieces = Generator[Piece | None, None, None]


def pieces(database: Database, order: Order, make: Callable[[Row], Event], place: Place, limits: Limits) -> Pieces:
    """The rows behind a place, piece by piece; None each time there are no more for now."""
    while True:
        rows = 0
        for piece in _page(database, order, make, place, limits):
            place = piece.place
            rows += piece.rows
            yield piece
        if rows < limits.rows:
            yield None


def _page(
    database: Database, order: Order, make: Callable[[Row], Event], place: Place, limits: Limits
) -> Iterator[Piece]:
    """One query's rows. A row that can't be an event is a piece of its own, so that its place is kept with it."""
    events: list[Event] = []
    size = 0
    width = len(order.columns)
    for row in database.rows(*order.page(database, place, limits.rows)):
        event, letter = _event(make, order, row, limits.event)
        if events and (letter or size + len(event.body) > limits.bytes):
            yield Piece(events, None, place, len(events))
            events, size = [], 0
        place = Place(tuple(row[width:]), place.rows + 1)
        if letter:
            yield Piece([], letter, place, 1)
        else:
            events.append(event)
            size += len(event.body)
    if events:
        yield Piece(events, None, place, len(events))


def _event(make: Callable[[Row], Event], order: Order, row: Row, most: int) -> tuple[Event, DeadLetter | None]:
    try:
        event = make(row)
        if len(event.body) <= most:
            return event, None
        why = f"{len(event.body)} bytes are more than maxEventBytes, {most}"
        return event, DeadLetter(event.headers, event.body[:LETTER], why)
    except datum.Unfit as error:
        key = ",".join(map(body.text_of, row[len(order.columns) :]))
        event = Event({"table": order.table, "key": key}, body.encoder(order.columns)(row)[:LETTER])
        return event, DeadLetter(event.headers, event.body, str(error))
