"""One server for a whole test run, whichever worker asks first: `shared("kafka", Kafka)`.

The first that asks starts it, under a lock; everybody else, in every worker, gets an object with the same ports and
folder. Whoever wants to stop or kill a server starts one of his own. When the run ends its first process kills what
was started; what a killed run left behind goes at the start of the next.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.peers.harness import LIVE, Server

RUN = "HEADRACE_TEST_RUN"
"""The environment variable that tells the workers where the run keeps its servers."""
One = TypeVar("One", bound=Server)


def begin() -> None:
    """In the first process of a run, before it has workers."""
    if RUN in os.environ:
        return
    base = Path(tempfile.gettempdir()) / f"headrace-servers-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    for old in base.iterdir():
        if not _is_alive(int(old.name)):
            _end(old)
    mine = base / str(os.getpid())
    mine.mkdir(exist_ok=True)
    os.environ[RUN] = str(mine)


def end() -> None:
    """In the first process of a run, when all is done."""
    mine = Path(os.environ.get(RUN, "/nowhere"))
    if mine.name == str(os.getpid()):
        _end(mine)
        del os.environ[RUN]


def shared(name: str, make: Callable[[Path], One]) -> One:
    """The run's server of this name, started if it isn't yet; `make` gives one that lives in a folder."""
    run = Path(os.environ[RUN])
    known = run / f"{name}.pickle"
    with (run / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not known.exists():
            server = make(run / name)
            try:
                server.start()
            finally:
                _note(run, server)
            server.let_go()
            known.write_bytes(pickle.dumps(server))
    found: One = pickle.loads(known.read_bytes())
    if all(known.folder != found.folder for known in LIVE):
        LIVE.append(found)
    return found


def _note(run: Path, server: Server) -> None:
    """Its process groups, to be ended with the run."""
    with (run / "pids").open("a") as file:
        file.writelines(f"{pid}\n" for pid in server.pids())


def _end(run: Path) -> None:
    pids = run / "pids"
    for pid in pids.read_text().split() if pids.exists() else ():
        try:
            os.killpg(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            pass
    shutil.rmtree(run, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
