"""hdfs-native's traps, without a server."""

from __future__ import annotations

import hdfs_native
import pytest

from agent.errors import DeliveryError
from aggregator.hdfs.native import HdfsWriter


class Inner:
    """The library's compiled half."""

    closed = 0

    def write(self, data: bytes) -> int:
        raise RuntimeError("no DataNode")

    def close(self) -> None:
        self.closed += 1


def test_a_writer_that_is_garbage_leaves_its_file_alone() -> None:
    """To close a file that failed takes seconds, and garbage is collected on the event loop."""
    inner = Inner()
    writer = HdfsWriter(hdfs_native.FileWriter(inner), "/a")  # type: ignore[arg-type]
    with pytest.raises(DeliveryError, match="/a: no DataNode"):
        writer.write(b"x")
    del writer
    assert not inner.closed


def test_a_writer_is_closed_once() -> None:
    """By whoever writes, in its thread; not again when it is garbage."""
    inner = Inner()
    writer = HdfsWriter(hdfs_native.FileWriter(inner), "/a")  # type: ignore[arg-type]
    writer.close()
    del writer
    assert inner.closed == 1
