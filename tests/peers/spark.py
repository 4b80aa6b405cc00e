"""A real Spark in one process: `spark(script, folder)` runs a few lines of Python that have a session `spark`.

    assert spark('print(spark.read.format("avro").load("file:///x/*.avro").count())', tmp_path) == "20000\n"

pyspark lives in an environment of its own, ~/.cache/headrace/spark-VERSION, made at the first use (half a minute and
400 MB; `python -m tests.peers.spark` makes it ahead). Readers' jars come by Maven: tests/peers/spark/pom.xml for Avro,
tests/peers/spark-kafka/pom.xml for Kafka.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.peers import jars
from tests.peers.harness import Server, progress

VERSION = "4.2.0"
PLACE = jars.CACHE / f"spark-{VERSION}"
SESSION = """from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
"""


def python() -> Path:
    """The interpreter that has pyspark; the first call takes half a minute. AssertionError if it can't be had."""
    found = PLACE / "bin" / "python"
    if not (PLACE / "done").exists():
        PLACE.parent.mkdir(parents=True, exist_ok=True)
        with (PLACE.parent / "spark-venv.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (PLACE / "done").exists():
                _make(found)
    return found


def _make(found: Path) -> None:
    shutil.rmtree(PLACE, ignore_errors=True)
    progress(f"installing pyspark {VERSION} in {PLACE}")
    began = time.monotonic()
    jars.run(sys.executable, "-m", "venv", str(PLACE))
    jars.run(str(found), "-m", "pip", "install", "-q", f"pyspark=={VERSION}", timeout=900)
    (PLACE / "done").touch()
    progress(f"pyspark {VERSION}: {time.monotonic() - began:.0f} s")


def spark(script: str, folder: Path, conf: Mapping[str, str] | None = None, timeout: float = 110) -> str:
    """What the script prints. `conf` are Spark's properties, such as spark.hadoop.hive.metastore.uris (then with
    spark.sql.catalogImplementation = hive). AssertionError with the log if it fails. Takes 10 s and 500 MB."""
    done = subprocess.run(
        submit(SESSION + script, folder, conf or {}), cwd=folder, env={**os.environ, **environment()},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"spark ended with {done.returncode}:\n{done.stderr[-6000:]}"
    return done.stdout


def submit(script: str, folder: Path, conf: Mapping[str, str]) -> list[str]:
    """The command that runs a whole script, written to the folder with its properties."""
    settings = {
        "spark.master": "local[1]",
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.memory": "700m",
        "spark.driver.extraJavaOptions": " ".join(jars.LEAN),
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.warehouse.dir": f"file://{folder}/warehouse",
        "spark.jars": ",".join(map(str, jar_files("spark"))),
        **conf,
    }
    properties, file = folder / "spark.conf", folder / "spark-script.py"
    properties.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    file.write_text(script)
    return [str(python().parent / "spark-submit"), "--properties-file", str(properties), str(file)]


def environment() -> dict[str, str]:
    """Of that command."""
    return {"PYSPARK_PYTHON": str(python()), "PYSPARK_DRIVER_PYTHON": str(python())}


class Stream(Server):
    """A whole script that runs until it is killed, with the jars of Kafka; not waited for."""

    def __init__(self, script: str, folder: Path) -> None:
        super().__init__("spark", folder)
        self.script, self.env = script, environment()

    def command(self) -> list[str]:
        more = {"spark.jars": ",".join(map(str, jar_files("spark-kafka"))), "spark.log.level": "ERROR"}
        return submit(self.script, self.folder, more)

    def ready(self) -> bool:
        return True

    def stop(self) -> int:
        """SIGKILL, to Python and Java."""
        self.kill9()
        return 0


def jar_files(name: str) -> list[Path]:
    """Those of a pom: the Avro reader's, or Kafka's."""
    jars.jars(name)
    return sorted((jars.folder(name) / "lib").iterdir())


if __name__ == "__main__":
    python()
