"""A real Spark in one process: `spark(script, folder)` runs a few lines of Python that have a session `spark`.

    assert spark('print(spark.read.format("avro").load("file:///x/*.avro").count())', tmp_path) == "20000\n"

pyspark lives in an environment of its own, ~/.cache/headrace/spark-VERSION, made at the first use (half a minute and
400 MB; `python -m tests.peers.spark` makes it ahead). The Avro reader's jar comes by Maven, tests/peers/spark/pom.xml.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.peers import jars
from tests.peers.harness import progress

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


def spark(script: str, folder: Path, conf: dict[str, str] | None = None, timeout: float = 110) -> str:
    """What the script prints. `conf` are Spark's properties, such as spark.hadoop.hive.metastore.uris (then with
    spark.sql.catalogImplementation = hive). AssertionError with the log if it fails. Takes 10 s and 500 MB."""
    settings = {
        "spark.master": "local[1]",
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.memory": "700m",
        "spark.driver.extraJavaOptions": " ".join(jars.LEAN),
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.warehouse.dir": f"file://{folder}/warehouse",
        "spark.jars": ",".join(map(str, jar_files())),
        **(conf or {}),
    }
    properties, file = folder / "spark.conf", folder / "spark-script.py"
    properties.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    file.write_text(SESSION + script)
    own = python()
    environment = {**os.environ, "PYSPARK_PYTHON": str(own), "PYSPARK_DRIVER_PYTHON": str(own)}
    done = subprocess.run(
        [str(own.parent / "spark-submit"), "--properties-file", str(properties), str(file)],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"spark ended with {done.returncode}:\n{done.stderr[-6000:]}"
    return done.stdout


def jar_files() -> list[Path]:
    """The Avro reader's."""
    jars.jars("spark")
    return sorted((jars.folder("spark") / "lib").iterdir())


if __name__ == "__main__":
    python()
