"""Runs one of our programs with another page size for new stores, the WAL as long in bytes as before:

python -m tests.bench.paged 4096 python -m edge -f x.conf
"""

from __future__ import annotations

import runpy
import sys

from agent.store import connection, creation, schema


def main() -> None:
    size, _, _, package, *rest = sys.argv[1:]
    form = schema.STORE._replace(page_size=int(size))
    for function in (creation.create, connection.Connection.__init__):
        function.__defaults__ = (form,)
    sys.argv = [package, *rest]
    runpy.run_module(package, run_name="__main__")


if __name__ == "__main__":
    main()
