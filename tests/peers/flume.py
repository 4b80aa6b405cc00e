"""A real Flume 1.11: its agent as a server of the harness, and its clients as commands.

Its jars: tests/peers/jars.py.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from agent.avro import record
from agent.avro.container import ContainerReader
from tests.peers import jars as maven
from tests.peers.harness import Server, free_port, http_get

HERE = Path(__file__).parent / "flume"
MAIN = "org.apache.flume.node.Application"
CLI_CLIENT = "org.apache.flume.client.avro.AvroCLIClient"

Read = tuple[dict[str, str], bytes]
"""Headers and body of an event."""


def jars() -> Path:
    """The folder with Flume's jars and our compiled client; made at the first call, which may take half a minute."""
    lib, folder = maven.jars("flume"), maven.folder("flume")
    source = HERE / "Send.java"
    compiled = folder / "Send.class"
    if not compiled.exists() or compiled.stat().st_mtime < source.stat().st_mtime:
        with tempfile.TemporaryDirectory(dir=folder) as made:
            _run("javac", "-cp", lib, "-d", made, str(source))
            (Path(made) / compiled.name).replace(compiled)
    return folder


def _run(*command: str) -> str:
    return maven.run(*command, timeout=300).decode()


def classpath() -> str:
    """Flume's jars, our client and the log configuration."""
    folder = jars()
    return os.pathsep.join((str(HERE), str(folder), f"{folder}/lib/*"))


class Flume(Server):
    """`flume-ng agent` with a configuration; ready when its metrics list a source."""

    def __init__(self, conf: str, folder: Path, *, agent: str = "a1", heap: str = "128m", name: str = "flume") -> None:
        super().__init__(name, folder)
        self.conf, self.agent, self.heap = conf, agent, heap
        self.conf_file = folder / f"{name}.conf"
        self.monitoring = free_port()
        self.classpath = classpath()

    def configure(self) -> None:
        self.conf_file.write_text(self.conf)

    def command(self) -> Sequence[str]:
        return [
            "java", f"-Xmx{self.heap}", "-Dflume.monitoring.type=http", f"-Dflume.monitoring.port={self.monitoring}",
            "-cp", self.classpath, MAIN, "-n", self.agent, "-f", str(self.conf_file), "--no-reload-conf",
        ]  # fmt: skip

    def ready(self) -> bool:
        try:
            return b"SOURCE." in http_get(self.monitoring)[1]
        except OSError:
            return False

    def stop(self) -> int:
        """Its sources take seconds each to close, and nothing that it holds is wanted any more: SIGKILL."""
        self.kill9()
        return 0


def send(properties: dict[str, str], folder: Path, test: str, count: int, batch: int) -> None:
    """Send events with Flume's RpcClient: the first `batch` with append, the others with appendBatch."""
    file = folder / "client.properties"
    file.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
    out = _run("java", "-Xmx64m", "-cp", classpath(), "Send", str(file), test, str(count), str(batch))
    assert out.endswith(f"sent {count}\n"), out


def avro_client(port: int, lines: Path, headers: Path) -> None:
    """`flume-ng avro-client`: each line of a file is an event; `headers` is a properties file."""
    _run(
        "java", "-Xmx64m", "-cp", classpath(), CLI_CLIENT, "-H", "127.0.0.1", "-p", str(port), "-F", str(lines),
        "-R", str(headers),
    )  # fmt: skip


def events_in(folder: Path) -> list[Read]:
    """Events in the Avro containers that an agent writes there, as far as they are written."""
    found: list[Read] = []
    for path in sorted(path for path in folder.rglob("[!.]*") if path.is_file()):
        reader = ContainerReader()
        reader.feed(path.read_bytes())
        while reader.held and (block := reader.next()):
            found += record.decode(block.data, block.count)
    return found


def make_stores(folder: Path) -> tuple[Path, Path]:
    """(keystore, truststore) in PKCS12 by Java's keytool, password "changeit", for 127.0.0.1 and localhost."""
    key, trust, certificate = folder / "key.p12", folder / "trust.p12", folder / "cert.pem"
    common = ["-storepass", "changeit", "-storetype", "PKCS12"]
    _run(
        "keytool", "-genkeypair", "-alias", "agent", "-keyalg", "EC", "-groupname", "secp256r1",
        "-dname", "CN=localhost", "-ext", "san=ip:127.0.0.1,dns:localhost", "-validity", "30",
        "-keystore", str(key), *common,
    )  # fmt: skip
    _run("keytool", "-exportcert", "-rfc", "-alias", "agent", "-keystore", str(key), "-file", str(certificate), *common)
    _run(
        "keytool", "-importcert", "-noprompt", "-alias", "agent", "-file", str(certificate), "-keystore", str(trust),
        *common,
    )  # fmt: skip
    return key, trust
