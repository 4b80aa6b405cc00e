"""What a store says of itself to an audit, and what becomes of that by commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.channels.file import FileChannel
from agent.store import commands, control
from tests.agent.channels.stores import as_killed, batch, drained, opened, run


async def account(folder: Path) -> tuple[int, int, dict[str, list[list[Any]]]]:
    """Of the channel c1: how many were put, how many are inside, and the numbers of letters by reason."""
    said = await control.ask(folder, "account")
    letters = {one["reason"]: [run[1:] for run in one["runs"]] for one in said["letters"]}
    about = said["channels"]["c1"]
    return about["put"], sum(run[2] for run in about["inside"]), letters


async def buried(channel: FileChannel, reason: str) -> None:
    await (await channel.take(1)).bury(reason)


def test_a_replayed_letter_was_put_once(tmp_path: Path) -> None:
    """However often a dead letter is put again, an audit counts it once, with an agent and without, killed or not."""

    async def test() -> None:
        async with opened(tmp_path / "a") as (channel,):
            await channel.put(batch("bad", "good"))
            await buried(channel, "unlucky")
            assert await drained(channel) == ["good"]
            assert await account(tmp_path / "a") == (2, 0, {"unlucky": [[1, 1]]})
            await control.ask(tmp_path / "a", "replay", ids=None)
            assert await account(tmp_path / "a") == (2, 1, {})
            await buried(channel, "unlucky")
            left = as_killed(tmp_path / "a", tmp_path / "b")
        await control.ask(left, "replay", ids=None)
        assert await account(left) == (2, 1, {})
        async with opened(left) as (channel,):
            assert await drained(channel) == ["bad"]
            await channel.put(batch("more"))
            assert await account(left) == (3, 1, {})

    run(test)


def test_a_deleted_letter_keeps_its_number_and_reason(tmp_path: Path) -> None:
    """What was deleted on purpose is told to an audit with its reason, joined with what was deleted before."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.put(batch("one", "two", "three", "four"))
            for reason in ("long", "long", "odd", "long"):
                await buried(channel, reason)
            ids = [one["id"] for one in (await control.ask(tmp_path, "letters"))["letters"]]
            assert await control.ask(tmp_path, "delete", ids=ids[:1]) == {"count": 1}
        assert await control.ask(tmp_path, "delete", ids=ids[1:3]) == {"count": 2}
        assert await account(tmp_path) == (
            4, 0, {"long": [[4, 1]], "long (deleted)": [[1, 2]], "odd (deleted)": [[3, 1]]},
        )  # fmt: skip
        assert (await control.ask(tmp_path, "inspect"))["marks"] == {}

    run(test)


def test_a_channel_that_is_forgotten_takes_its_letters_along(tmp_path: Path) -> None:
    """A new channel of the same name begins with an empty account."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.put(batch("bad"))
            await buried(channel, "odd")
            await control.ask(tmp_path, "replay", ids=None)
            await buried(channel, "odd")
        await control.ask(tmp_path, "delete", ids=None)
        await control.ask(tmp_path, "forget", channel="c1")
        async with opened(tmp_path):
            assert await account(tmp_path) == (0, 0, {})

    run(test)


def test_reasons_are_bounded(tmp_path: Path) -> None:
    """Deleted letters of many reasons don't grow the account without end."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.put(batch(*map(str, range(103))))
            for number in range(103):
                await buried(channel, f"reason {number}")
            await control.ask(tmp_path, "delete", ids=None)
            _, _, letters = await account(tmp_path)
        assert len(letters) == commands.REASONS + 1
        assert letters["other reasons (deleted)"] == [[101, 3]]

    run(test)


def test_rows_that_follow_each_other_are_one_run(tmp_path: Path) -> None:
    """What waits is told in ranges and not row by row: a channel may hold millions of rows."""

    async def test() -> None:
        async with opened(tmp_path) as (channel,):
            for _ in range(20):
                await channel.put(batch("x", "y"))
            for first in (1, 5, 3):
                await channel.put(batch("x", "y", first=first))
            said = await control.ask(tmp_path, "account")
            assert sorted(run[1:] for run in said["channels"]["c1"]["inside"]) == [[1, 6], [1, 40]]

    run(test)
