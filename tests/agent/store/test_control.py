"""A store that nobody holds, asked from where its agent isn't."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.errors import ChannelError
from agent.store import control
from tests.agent.channels.stores import opened


@pytest.fixture
def store(tmp_path: Path) -> Path:
    async def make() -> None:
        async with opened(tmp_path / "a store"):
            pass

    asyncio.run(make())
    return tmp_path / "a store"


def ask(folder: Path) -> int:
    """How many channels it has."""
    return len(asyncio.run(control.ask(folder, "account"))["channels"])


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_a_store_of_another_machine_is_not_opened(kind: str, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock says nothing of an agent that runs there: the way out is said, and a disk below it is one of ours."""
    name = str(store).replace(" ", "\\040")
    lines = ["22 1 254:0 / / rw - ext4 /dev/vda rw", f"23 22 0:31 / {name} rw shared:1 - {kind} far:/a rw"]
    monkeypatch.setattr(control, "MOUNTS", store.parent / "mountinfo")
    control.MOUNTS.write_text("\n".join(lines))
    with pytest.raises(ChannelError, match=f"lies on {kind}, .* stop it and copy the folder"):
        ask(store)
    control.MOUNTS.write_text("\n".join([*lines, f"24 23 8:1 / {name} rw - xfs /dev/sdb1 rw"]))
    assert ask(store) == 1


def test_a_folder_that_can_not_be_written_to(store: Path) -> None:
    """Where the lock can't be had the store says so (a mount that is read-only); it is no bug of ours."""
    (store / "headrace.lock").unlink()
    (store / "headrace.lock").mkdir()
    with pytest.raises(ChannelError, match="Is a directory"):
        ask(store)
