"""Readings, newest first by sensor; a column for each field of a JSON body.

    row   <sensor>|<2^63-1 minus ms since the epoch, 19 digits>|<origin, 32 hex digits>-<number>
    d:headrace = <origin>:<number>      the event's identity, for an audit
    d:t = 21.5   d:unit = C             fields of {"t": 21.5, "unit": "C"}
    d:body                              a body that is no JSON object

A scan from `<sensor>|` gives the latest first. Text stands as UTF-8, a number as it was written, true and false in
words, what is nested as JSON; null has no cell. An event without a timestamp header sorts as the oldest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from agent.config.fields import Config as AnyConfig
from agent.config.fields import key
from agent.event import Event
from aggregator.hbase.cells import CellSerializer, Name, Row, checked, time_ms

LAST_MS = (1 << 63) - 1
NOBODY = "unknown"


class ReadingsConfig(AnyConfig):
    sensorHeader: str = key("sensorHeader", "topic", doc=f"header that names the sensor; {NOBODY} where it is missing")
    timeHeader: str = key("timeHeader", "timestamp", doc="header with ms since the epoch")
    bodyColumn: str = key("bodyColumn", "body", doc="column of a body that is no JSON object")
    identityColumn: str = key("identityColumn", "headrace", doc="column of the event's identity")


class ReadingsSerializer(CellSerializer):
    Config: ClassVar[type[AnyConfig]] = ReadingsConfig
    config: ReadingsConfig

    def __init__(self, config: AnyConfig, family: str) -> None:
        super().__init__(config, family)
        self.body = self.family + self.config.bodyColumn.encode()
        self.identity = self.family + self.config.identityColumn.encode()

    def rows(self, events: Sequence[Event], names: Sequence[Name]) -> list[Row]:
        return [self._row(event, name) for event, name in zip(events, names, strict=True)]

    def _row(self, event: Event, name: Name) -> Row:
        origin, number = name[0].hex(), name[1]
        sensor = event.headers.get(self.config.sensorHeader) or NOBODY
        late = LAST_MS - time_ms(event, self.config.timeHeader)
        cells = self._cells(event.body)
        cells[self.identity] = b"%s:%d" % (origin.encode(), number)
        return checked(f"{sensor}|{late:019d}|{origin}-{number}".encode()), cells

    def _cells(self, body: bytes) -> dict[bytes, bytes]:
        try:
            fields = json.loads(body, parse_float=str, parse_int=str) if body[:1] == b"{" else None
            if isinstance(fields, dict):
                return self._columns(fields, body)
        except (ValueError, RecursionError):  # UnicodeError is a ValueError
            pass
        return {self.body: body}

    def _columns(self, fields: dict[str, Any], body: bytes) -> dict[bytes, bytes]:
        nested: dict[str, Any] | None = None
        cells = {}
        for name, value in fields.items():
            if isinstance(value, dict | list):
                nested = nested or json.loads(body)  # with numbers that are numbers
                value = json.dumps(nested[name], ensure_ascii=False)
            elif isinstance(value, bool):
                value = "true" if value else "false"
            if value is not None:
                cells[self.family + name.encode()] = str(value).encode()
        return cells
