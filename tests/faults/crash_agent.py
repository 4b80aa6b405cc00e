"""Runs one of our programs and kills it with SIGKILL, from inside, at a step of tests/faults/crash_points.py.

    python -m tests.faults.crash_agent edge "put commit:before" -f flow.conf

The product knows nothing of it: what a step names is wrapped before the program starts. A target that isn't there ends
the run with code 70 and its name.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from tests.faults.crash_points import POINTS

HIT = "crash point reached: "
NOT_THERE = 70
Hook = Callable[[], None]


class Seen:
    """What one module sees of another: everything as it is, except what is set here."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


class Watched(sqlite3.Connection):
    """Calls hooks before and after statements that start with a text."""

    hooks: list[tuple[str, Hook, Hook]] = []

    def _around(self, call: Callable[..., Any], sql: str, *rest: Any) -> Any:
        found = [(before, after) for start, before, after in self.hooks if sql.lstrip().startswith(start)]
        for before, _ in found:
            before()
        result = call(sql, *rest)
        for _, after in found:
            after()
        return result

    def execute(self, sql: str, *rest: Any) -> Any:
        return self._around(super().execute, sql, *rest)

    def executemany(self, sql: str, *rest: Any) -> Any:
        return self._around(super().executemany, sql, *rest)

    def executescript(self, sql: str) -> Any:
        return self._around(super().executescript, sql)


def watch(target: str, before: Hook, after: Hook) -> None:
    """Have hooks called around each call of a target. LookupError if the product has no such thing."""
    place, _, what = target.partition(":")
    path, statement, sql = what.partition("~")
    module = importlib.import_module(place)
    holder, name = _holder(module, f"{path}.connect" if statement else path)
    call = inspect.getattr_static(holder if not isinstance(holder, Seen) else holder.module, name, None)
    if not callable(call):
        raise LookupError(f"{target}: {name} is no function of {place}")
    if statement:
        holder.hooks = [*vars(holder).get("hooks", ()), (sql, before, after)]
        holder.connect = functools.partial(
            holder.module.connect, factory=type("W", (Watched,), {"hooks": holder.hooks})
        )
    else:
        setattr(holder, name, _wrapped(getattr(holder, name), before, after))


def _holder(module: ModuleType, path: str) -> tuple[Any, str]:
    """Who has the last name of a path. A foreign module is replaced by its `Seen` in this one."""
    *outer, name = path.split(".")
    holder: Any = module
    for part in outer:
        if not hasattr(holder, part):
            raise LookupError(f"{module.__name__} has no {path}")
        inner = getattr(holder, part)
        if isinstance(inner, ModuleType):
            inner = Seen(inner)
            setattr(holder, part, inner)
        holder = inner
    return holder, name


def _wrapped(call: Any, before: Hook, after: Hook) -> Any:
    if inspect.iscoroutinefunction(call):

        @functools.wraps(call)
        async def wait(*args: Any, **keys: Any) -> Any:
            before()
            result = await call(*args, **keys)
            after()
            return result

        return wait

    @functools.wraps(call, updated=())
    def run(*args: Any, **keys: Any) -> Any:
        before()
        result = call(*args, **keys)
        after()
        return result

    return run


def _die(name: str) -> NoReturn:
    os.write(2, f"{HIT}{name}\n".encode())
    while True:
        os.kill(os.getpid(), signal.SIGKILL)


def arm(name: str) -> None:
    """Wrap what the point needs."""
    step, when = POINTS[name]
    seen = {"armed": not step.since, "hits": 0}

    def start() -> None:
        seen["armed"] = True

    def count() -> None:
        seen["hits"] += bool(seen["armed"])
        if seen["armed"] and seen["hits"] == step.hit:
            _die(name)

    def nothing() -> None:
        pass

    if step.since:
        watch(step.since, start, nothing)
    watch(step.target, count if when == "before" else nothing, count if when == "after" else nothing)


def main() -> int:
    package, name, *arguments = sys.argv[1:]
    program = importlib.import_module(f"{package}.__main__")
    try:
        arm(name)
    except (LookupError, ImportError) as error:
        print(f"crash point {name!r}: {error}", file=sys.stderr)
        return NOT_THERE
    sys.argv = [package, *arguments]
    code: int = program.main()
    return code


if __name__ == "__main__":
    sys.exit(main())
