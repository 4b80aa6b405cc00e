"""A real Flume 1.11 with its kafka sink, tests/peers/flume-kafka/pom.xml."""

from __future__ import annotations

import os
from pathlib import Path

from tests.peers import jars
from tests.peers.flume import HERE, Flume
from tests.peers.harness import http_get


class FlumeKafka(Flume):
    """Ready when it counts what its sink does. Its client is Kafka's 2.7, which a broker of version 4 answers."""

    def __init__(self, conf: str, folder: Path, *, heap: str = "512m") -> None:
        super().__init__(conf, folder, heap=heap, name="flume-kafka")
        self.classpath = os.pathsep.join([str(HERE), jars.jars("flume-kafka")])

    def ready(self) -> bool:
        try:
            return b"SINK." in http_get(self.monitoring)[1]
        except OSError:
            return False
