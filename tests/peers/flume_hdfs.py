"""A real Flume 1.11 with its hdfs sink and Hadoop's client, tests/peers/flume-hdfs/pom.xml."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tests.peers import jars
from tests.peers.flume import HERE, Flume


class FlumeHdfs(Flume):
    """`hadoop` is a client's configuration folder; without it there is file:// alone.

    A serializer with compressionCodec xz takes 100 MB of the heap; without them its sink ends without a word.
    """

    def __init__(self, conf: str, folder: Path, *, hadoop: Path | None = None, heap: str = "512m") -> None:
        super().__init__(conf, folder, heap=heap, name="flume-hdfs")
        places = [str(HERE), jars.jars("flume-hdfs"), *([str(hadoop)] if hadoop else [])]
        self.classpath = os.pathsep.join(places)

    def command(self) -> Sequence[str]:
        java, *rest = super().command()
        return [java, *jars.opened("java.lang"), *rest]
