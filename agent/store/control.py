"""Commands to a store: `ask(folder, command, ...)`.

The agent that holds a store answers on a Unix socket in its folder (mode 0600): one line of JSON to it, one back. Where
nobody holds it the command takes the lock and opens the file itself; only a replay begins an opening. Not on a file
system of another machine: a lock there is this machine's own, and the agent that runs there would not be seen.

| command | arguments | answer |
|---|---|---|
| inspect | | what `describe` says (agent/store/commands.py) |
| account | | what `account` says there, for an audit |
| letters | ids or null | letters: id, channel, source, origin, number, wall_ms, reason, headers, body (hexadecimal) |
| replay, delete | ids or null for all | count |
| forget | channel | count: events that it still held |
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.avro import record
from agent.errors import AgentError, ChannelError, translated
from agent.store import commands
from agent.store.connection import Damaged
from agent.store.database import Database
from agent.store.lock import StoreLock

if TYPE_CHECKING:
    from agent.store.store import Store

SOCKET = "headrace.sock"
LINE = 1 << 20
"""Bytes of a request at most."""
PATIENCE = 60.0
"""Seconds that a command waits for its answer."""
MOUNTS = Path("/proc/self/mountinfo")
FAR = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "9p", "virtiofs", "vboxsf", "fuse")
"""File systems whose locks another machine, or the machine around this one, doesn't see."""
Answer = dict[str, Any]


async def ask(folder: Path, command: str, **arguments: Any) -> Answer:
    """Run a command on the store of a folder. ChannelError: it says why it can't be done."""
    socket = folder / SOCKET
    try:
        with _short(socket) as name:
            reader, writer = await asyncio.open_unix_connection(name, limit=1 << 30)
    except (FileNotFoundError, ConnectionRefusedError):
        return await asyncio.to_thread(_alone, folder, command, arguments)
    except OSError as error:
        raise ChannelError(f"can't ask the agent that holds {folder}: {error}") from None
    try:
        writer.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
        async with asyncio.timeout(PATIENCE):
            line = await reader.readline()
    except (OSError, TimeoutError) as error:
        raise ChannelError(f"the agent that holds {folder} doesn't answer: {error or 'time is over'}") from None
    finally:
        writer.close()
    return _checked(folder, line)


def _checked(folder: Path, line: bytes) -> Answer:
    try:
        answer: Answer = json.loads(line)
    except ValueError:
        raise ChannelError(f"the agent that holds {folder} was stopped before it answered") from None
    if "error" in answer:
        raise ChannelError(str(answer["error"]))
    return answer


@contextmanager
def _short(socket: Path) -> Iterator[str]:
    """A name for the socket that fits into sun_path (108 bytes) however deep its folder lies."""
    if len(os.fsencode(socket)) < 100:
        yield str(socket)
        return
    fd = os.open(socket.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}/{socket.name}"
    finally:
        os.close(fd)


# ---- the holder's side


async def serve(store: Store) -> asyncio.Server:
    """Answer commands for a store that this process holds, until the server is closed."""
    socket = store.folder / SOCKET
    socket.unlink(missing_ok=True)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                line = await reader.readline()
                writer.write(json.dumps(await _answer(line, lambda c, a: _held(store, c, a))).encode() + b"\n")
                await writer.drain()
        except (OSError, TimeoutError, ValueError):
            pass  # whoever asked has gone, or sent more than a line
        finally:
            writer.close()

    mask = os.umask(0o177)
    try:
        with _short(socket) as name:
            return await asyncio.start_unix_server(talk, name, limit=LINE)
    finally:
        os.umask(mask)


async def _answer(line: bytes, act: Callable[[str, Answer], Awaitable[Answer]]) -> Answer:
    try:
        request = json.loads(line)
        command = request.pop("command")
    except (ValueError, AttributeError, KeyError, TypeError):
        return {"error": "a request is one line of JSON with a `command`"}
    try:
        return await act(command, request)
    except AgentError as error:
        return {"error": str(error)}


async def _held(store: Store, command: str, arguments: Answer) -> Answer:
    if command == "inspect":
        return await store.inspect()
    if command == "forget":
        return {"count": await store.forget(str(arguments.get("channel")))}
    if command == "replay":
        return {"count": await store.replay(arguments.get("ids"))}
    return await store.call(lambda db: _with(db, command, arguments))


# ---- nobody holds it


def _alone(folder: Path, command: str, arguments: Answer) -> Answer:
    path = folder / "headrace.db"
    with translated({sqlite3.Error: ChannelError, OSError: ChannelError}, f"the store {path}"):
        leftovers = any(folder.glob(f"{path.name}.salvage*"))
        if not path.exists() and not leftovers:
            raise ChannelError(f"{folder} holds no store (no headrace.db)")
        if kind := _far(folder.resolve()):
            raise ChannelError(
                f"the store {folder} lies on {kind}, where nobody can tell whether its agent runs: ask on the machine "
                "of the agent, or stop it and copy the folder to a disk of this one"
            )
        lock = StoreLock(folder / "headrace.lock")
        try:
            if leftovers:
                _resume(path)
            try:
                with closing(Database(path)) as db:
                    return _with(db, command, arguments)
            except Damaged as error:
                why = f"{path} is damaged ({error}): start its agent, which saves what is readable"
                raise ChannelError(why) from None
        finally:
            lock.release()


def _far(folder: Path) -> str:
    """The type of the file system, if it is another machine's or a program's (proc(5), mountinfo); else empty."""
    found, most = "", 0
    for line in MOUNTS.read_text("utf-8", "surrogateescape").splitlines() if MOUNTS.exists() else ():
        mount, _, about = line.partition(" - ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), mount.split()[4]))
        if folder.is_relative_to(point) and len(point.parts) >= most:
            found, most = about.split()[0], len(point.parts)
    return found if found in FAR or found.startswith("fuse.") else ""


def _resume(path: Path) -> None:
    from agent.store.salvage import resume  # only after a crash in a salvage

    resume(path)


def _with(db: Database, command: str, arguments: Answer) -> Answer:
    ids = arguments.get("ids")
    if command == "inspect":
        return commands.describe(db)
    if command == "account":
        return commands.account(db)
    if command == "letters":
        return {"letters": [_letter(row) for row in db.letters.all() if ids is None or row[0] in ids]}
    if command == "replay":
        return {"count": len(commands.replay(db, ids))}
    if command == "delete":
        return {"count": commands.delete_letters(db, ids)}
    if command == "forget":
        return {"count": commands.forget(db, str(arguments.get("channel")))}
    raise ChannelError(f"a store knows no command {command!r}")


def _letter(row: tuple[Any, ...]) -> Answer:
    ((headers, body),) = record.decode(row[7], 1)
    names = ("id", "channel", "source", "origin", "number", "wall_ms", "reason")
    origin = row[3].hex() if row[3] else ""
    return dict(zip(names, row[:7], strict=True)) | {"origin": origin, "headers": headers, "body": body.hex()}
