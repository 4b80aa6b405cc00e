"""A real MariaDB in a folder of its own (Debian: mariadb-server)."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pymysql

from tests.needs import find
from tests.peers.harness import Server, answers, free_port


class Mariadb(Server):
    """Listens on `port` of loopback; `root` needs no password."""

    def __init__(self, folder: Path, *, name: str = "mariadb", options: Sequence[str] = ()) -> None:
        super().__init__(name, folder)
        self.port, self.options = free_port(), list(options)
        self.data = folder / "data"
        self.env = {"LC_ALL": "C"}

    @property
    def url(self) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/h"

    def configure(self) -> None:
        """The data folder, at the first start."""
        if self.data.exists():
            return
        user = pwd.getpwuid(os.getuid()).pw_name
        command = [
            find("mariadb-install-db") or "mariadb-install-db", "--no-defaults", f"--datadir={self.data}",
            f"--user={user}", "--auth-root-authentication-method=normal", "--skip-test-db",
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)

    def command(self) -> Sequence[str]:
        # A socket's path must be short, and nobody uses it.
        return [
            find("mariadbd") or "mariadbd", "--no-defaults", f"--user={pwd.getpwuid(os.getuid()).pw_name}",
            f"--datadir={self.data}", f"--socket=@headrace-{self.port}", f"--port={self.port}",
            "--bind-address=127.0.0.1", f"--pid-file={self.folder / 'pid'}", "--innodb-buffer-pool-size=64M",
            "--skip-log-bin", *self.options,
        ]  # fmt: skip

    def ready(self) -> bool:
        if not answers(self.port):
            return False
        try:
            self.run("CREATE DATABASE IF NOT EXISTS h", database="")
        except pymysql.Error:
            return False
        return True

    def run(self, *statements: str, database: str = "h") -> list[tuple[Any, ...]]:
        """Run statements; the rows of the last."""
        connection = pymysql.connect(
            host="127.0.0.1", port=self.port, user="root", database=database or None, charset="utf8mb4", autocommit=True
        )
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                return list(cursor.fetchall())
        finally:
            connection.close()
