"""Runs one of our programs with another page size for new stores, the WAL as long in bytes as before:

python -m tests.bench.paged 4096 python -m edge -f x.conf
"""

from __future__ import annotations

import runpy
import sys

from agent.store import connection, schema, space


def main() -> None:
    size, _, _, package, *rest = sys.argv[1:]
    pages = connection.WAL_PAGES * schema.PAGE_SIZE // int(size)
    schema.PAGE_SIZE = int(size)
    for module in (connection, space):
        module.__dict__["WAL_PAGES"] = pages
    sys.argv = [package, *rest]
    runpy.run_module(package, run_name="__main__")


if __name__ == "__main__":
    main()
