"""What the programs write to stderr: a line a change of state, as text or as JSON.

Text:   2026-11-25 02:00:54,123 INFO  agent.sources.netcat.r1: listening on 127.0.0.1:44444
JSON:   {"time": "2026-11-25T02:00:54.123Z", "level": "INFO", "logger": ..., "message": ..., "exception": ...}
"""

from __future__ import annotations

import json
import logging
import sys
import time

FORMATS = ("text", "json")
LEVELS = {
    "ALL": logging.DEBUG,
    "TRACE": logging.DEBUG,
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
    "FATAL": logging.CRITICAL,
    "OFF": logging.CRITICAL + 1,
}
"""log4j's names as well as Python's, because `-Dflume.root.logger` speaks log4j."""


class TextFormatter(logging.Formatter):
    """Local time with milliseconds, level, logger, message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-5s %(name)s: %(message)s")


class JsonFormatter(logging.Formatter):
    """One JSON object a line, time in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def level_of(text: str) -> int:
    """The number of a level's name. ValueError that lists the names if there is none."""
    try:
        return LEVELS[text.strip().upper()]
    except KeyError:
        raise ValueError(f"{text!r} is no log level; it takes one of {', '.join(LEVELS)}") from None


def set_up(level: int, form: str = "text") -> None:
    """Send the root logger to stderr; replaces what was set up before."""
    logging.addLevelName(logging.WARNING, "WARN")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=level, force=True)
