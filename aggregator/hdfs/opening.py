"""Where files are written: a local disk, or HDFS with whatever a Hadoop configuration folder says of it."""

from __future__ import annotations

import os

from agent.errors import DeliveryError
from aggregator.hdfs.filesystem import FileSystem
from aggregator.hdfs.local import LocalFileSystem


def file_system(
    url: str, config_dir: str = "", principal: str = "", keytab: str = "", patience: float = 30.0
) -> FileSystem:
    """`url`: `file://`, `hdfs://authority`, or empty for fs.defaultFS of `config_dir` (default: HADOOP_CONF_DIR), which
    also names the NameNodes of an HA name service; without a folder that is the local disk. `patience`: seconds for a
    lease. Doesn't connect. DeliveryError: the extra isn't installed."""
    folder = config_dir or os.environ.get("HADOOP_CONF_DIR", "")
    if url == "file://" or not (url or folder):
        return LocalFileSystem()
    try:
        from aggregator.hdfs.native import HdfsFileSystem
    except ModuleNotFoundError as error:
        raise DeliveryError(f"hdfs:// needs the package {error.name}: pip install 'headrace[hdfs]'") from None
    return HdfsFileSystem(url, folder, principal, keytab, patience)
