"""Small components of a user's own, named `tests.agent.config.parts:Name` in the tests' configurations."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from agent.component import Component
from agent.config.fields import Bytes, Config, Seconds, Secret, key
from agent.sink import Sink, SinkConfig
from agent.source import Source, SourceConfig


class EveryKind(Config):
    """A key of each kind."""

    IGNORED: ClassVar[dict[str, str]] = {"threads": "there is one loop", "old.*": "it is gone"}
    REFUSED: ClassVar[dict[str, str]] = {"codec": "lzo isn't free: use gzip"}

    port: int = key("port", low=1, high=65535, doc="port to listen on")
    ratio: float = key("ratio", 0.5, low=0, high=1)
    wait: Seconds = key("wait", Seconds(3.0), unit="ms", high=60)
    room: Bytes = key("room", Bytes(1 << 20), unit="B")
    tls: bool = key("ssl", False)
    mode: str = key("mode", "FULL", choices=("FULL", "NORMAL"))
    folder: Path = key("folder", Path("data"))
    names: list[str] = key("names", [])
    dirs: list[str] = key("dirs", ["a"], split=",")
    ports: list[int] = key("ports", [], low=1, high=65535)
    password: Secret | None = key("password", None)
    nick: str = key("nick", "", also=("nickname", "nick-name"))
    producer: dict[str, str] = key("kafka.producer.*", {})
    limits: dict[str, int] = key("limit.*", {}, low=0)


class ListenConfig(SourceConfig):
    bind: str = key("bind", "127.0.0.1", doc="address to listen on")
    port: int = key("port", low=0, high=65535, doc="port to listen on")
    batch: int = key("batch-size", 10, low=1)


class Listen(Source):
    Config = ListenConfig


class KeepConfig(SinkConfig):
    password: Secret = key("password", doc="to log in with")
    token: Secret = key("token", Secret(""))
    pattern: str = key("pattern", "")
    columns: dict[str, str] = key("column.*", {})
    timeout: Seconds = key("timeout", Seconds(20.0), unit="ms", low=1.0)
    size: Bytes = key("size", Bytes(0))
    folder: Path = key("folder", Path("x"))


class Keep(Sink):
    Config = KeepConfig


class NotAComponent:
    """Loading it is an error."""


class Broken(Component):
    """Its Config says what is wrong with several keys together."""

    class Config(SinkConfig):
        low: int = key("low", 1)
        high: int = key("high", 2)

        def problems(self) -> list[tuple[str, str]]:
            return [("high", "is below low")] if self.high < self.low else []
