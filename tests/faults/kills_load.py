"""A steady load for as long as others kill: MQTT readings, Avro batches of a Headrace collector, lines of netcat.

The sender of the Avro batches is a collector of its own that isn't killed: it has lines in, a file channel, and an avro
sink with several batches in flight.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.faults.crash_road import CONSTANT, Call, Road, lines
from tests.peers.harness import Program, free_port

FEEDER = """\
f.sources = lines
f.channels = kept
f.sinks = forward
f.sources.lines.type = netcat
f.sources.lines.bind = 127.0.0.1
f.sources.lines.port = {lines}
f.sources.lines.channels = kept
f.channels.kept.type = file
f.channels.kept.path = {folder}/store
f.channels.kept.minimumRequiredSpace = 1048576
f.sinks.forward.type = avro
f.sinks.forward.channel = kept
f.sinks.forward.hostname = 127.0.0.1
f.sinks.forward.port = {frames}
f.sinks.forward.batch-size = 10
f.sinks.forward.backoff = 50
f.sinks.forward.maxBackoff = 200
"""
PAUSE = 0.02
"""Seconds between two rounds; each round is a reading of each sensor."""
SENSORS = 4


class Load:
    """`with Load(road, folder)`: it comes in until `stop`."""

    def __init__(self, road: Road, folder: Path) -> None:
        self.road, self.port = road, free_port()
        text = FEEDER.format(lines=self.port, folder=folder, frames=road.keys["frames"])
        self.feeder = Program("edge", text, folder, name="feeder")
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self.feeder.start()
        self.calls = [Call(self._readings), Call(self._frames), Call(self._lines)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self.feeder.kill9()

    def stop(self) -> None:
        """Nothing more comes in; what the feeder holds goes out."""
        self._over.set()
        for call in self.calls:
            call.result()
        end = time.monotonic() + 60
        while self.feeder.count("CHANNEL.kept", "ChannelSize") and time.monotonic() < end:
            time.sleep(0.05)

    def _readings(self) -> None:
        number = 0
        while not self._over.wait(PAUSE):
            for sensor in range(SENSORS):
                self.road.sensors.publish(f"s/{sensor}", f"{sensor} {number}")
            self.road.sensors.publish("s/stuck", CONSTANT)
            number += 1

    def _frames(self) -> None:
        """Lines to the feeder: what it answered OK is in the outputs in the end."""
        number = 0
        while not self._over.wait(0.1):
            lines(self.port, self.road.sent, [f"frame {at}" for at in range(number, number + 20)])
            number += 20

    def _lines(self) -> None:
        """Lines to the collector itself."""
        number = 0
        while not self._over.wait(0.1):
            lines(self.road.keys["lines"], self.road.sent, [f"line {at}" for at in range(number, number + 5)])
            number += 5
