"""A real PostgreSQL in a folder of its own (Debian: postgresql). It refuses to run as root, who then lends it to the
user `postgres` that its package makes.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from tests.peers.harness import Server, free_port

BINARIES = Path("/usr/lib/postgresql")
"""Where Debian puts the servers, one folder a version."""


def program(name: str) -> str:
    """The path of a program of the newest version that is here; empty if none is."""
    found = sorted(BINARIES.glob(f"*/bin/{name}"), key=lambda path: int(path.parent.parent.name))
    return str(found[-1]) if found else shutil.which(name) or ""


class Postgresql(Server):
    """Listens on `port` of loopback; `postgres` needs no password."""

    def __init__(self, folder: Path, *, name: str = "postgresql", options: Sequence[str] = ()) -> None:
        super().__init__(name, folder)
        self.port, self.options = free_port(), list(options)
        self.as_root = os.geteuid() == 0
        self.data = folder / "data"
        self.env = {"LC_ALL": "C"}

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def lent(self, *command: str) -> list[str]:
        """The command as the user that the server must run as."""
        lend = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
        return [*lend, *command] if self.as_root else list(command)

    def configure(self) -> None:
        """The data folder, at the first start; everybody may pass through the folders above it."""
        if self.data.exists():
            return
        self.data.mkdir(mode=0o700)
        if self.as_root:
            shutil.chown(self.data, "postgres", "postgres")
            for folder in self.data.parents:
                if folder.stat().st_uid == 0 and not folder.stat().st_mode & 1:
                    folder.chmod(folder.stat().st_mode | 0o11)
        command = self.lent(program("initdb"), "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8")
        subprocess.run(
            [*command, "--no-sync"],
            check=True,
            capture_output=True,
            timeout=120,
            cwd="/",
            env={**os.environ, **self.env},
        )

    def command(self) -> Sequence[str]:
        settings = {
            "port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off",
            "shared_buffers": "32MB", "max_connections": 20,
        }  # fmt: skip
        given = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return self.lent(program("postgres"), "-D", str(self.data), *given, *self.options)

    def ready(self) -> bool:
        try:
            self.run("SELECT 1")
        except psycopg.Error:
            return False
        return True

    def stop(self) -> int:
        """SIGINT: it ends without waiting for those who are connected."""
        if self.running:
            self.signal(signal.SIGINT)
        return super().stop() if not self.running else self.wait_exit(self.stop_seconds)

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements; the rows of the last."""
        where = {"host": "127.0.0.1", "port": self.port, "user": "postgres", "dbname": "postgres"}
        with psycopg.connect(**where, autocommit=True, connect_timeout=5) as connection:  # type: ignore[arg-type]
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []
