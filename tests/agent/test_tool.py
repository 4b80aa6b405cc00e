"""The command `headrace`: status of running agents; stores and dead letters."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import show, tool
from agent.errors import Rejected
from agent.event import Batch
from agent.metrics import ChannelCounter, Counter, Metrics, SinkCounter, SourceCounter
from agent.sink import Sink
from agent.source import DeadLetter
from tests.agent.channels.stores import opened, run
from tests.agent.test_metrics_service import service
from tests.peers.harness import Program, free_port, wait_until

FLOW = """\
a1.sources = r1
a1.channels = c1 spare
a1.sinks = k1
a1.sources.r1.type = seq
a1.sources.r1.totalEvents = 9
a1.sources.r1.batchSize = 3
a1.sources.r1.channels = c1 spare
a1.channels.c1.type = file
a1.channels.c1.path = store
a1.channels.spare.type = file
a1.channels.spare.path = store
a1.sinks.k1.type = tests.agent.test_tool:PickySink
a1.sinks.k1.channel = c1
"""


class PickySink(Sink):
    """Rejects the event 4, for good."""

    async def send(self, batch: Batch) -> None:
        if any(event.body == b"4" for event in batch.events):
            raise Rejected("four is unlucky")


def flowing() -> Metrics:
    metrics = Metrics()
    parts: list[Counter] = [
        metrics.counter(SourceCounter, "sensors"), metrics.counter(ChannelCounter, "store"),
        metrics.counter(SinkCounter, "forward"),
    ]  # fmt: skip
    for part in parts:
        part.say("running")
    metrics.counter(ChannelCounter, "store").ChannelSize = 1204
    metrics.counter(ChannelCounter, "store").bytes = 3 << 20
    metrics.counter(ChannelCounter, "store").oldest_seconds = 200.0
    return metrics


def status(metrics: Metrics, *arguments: str, ready: bool = True, meanwhile: Callable[[], None] | None = None) -> int:
    """Exit code of `headrace status` against a service that serves these counters."""

    async def main() -> int:
        async with service(metrics, ready) as made:
            serving = asyncio.create_task(made.run())
            url = f"http://127.0.0.1:{made.port}"
            asking = asyncio.create_task(asyncio.to_thread(tool.main, ["status", "--url", url, *arguments]))
            if meanwhile:
                await asyncio.sleep(0.5)
                meanwhile()
            code = await asking
            serving.cancel()
            return code

    return asyncio.run(main())


def test_status_of_a_healthy_agent(capsys: pytest.CaptureFixture[str]) -> None:
    """All works: exit code 0, a line a component, what waits and how old it is."""
    assert status(flowing()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("http://127.0.0.1:") and lines[0].endswith(", ready")
    assert "1,204 events inside, 3.0 MiB, oldest 3 min" in lines[2]
    assert len(lines) == 4


def test_status_shows_the_rate(capsys: pytest.CaptureFixture[str]) -> None:
    """The rate is what came between two looks."""
    metrics = flowing()

    def come() -> None:
        metrics.counter(SourceCounter, "sensors").EventAcceptedCount += 5000

    status(metrics, meanwhile=come)
    line = capsys.readouterr().out.splitlines()[1]
    rate = float(line.split(" events/s")[0].split()[-1].replace(",", ""))
    assert rate > 0 and "5,000 events in" in line


def test_status_says_what_does_not_flow_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    """A component that waits: exit code 1, and the reason with how long."""
    metrics = flowing()
    metrics.counter(SinkCounter, "forward").say("waiting: connection refused")
    assert status(metrics) == 1
    assert "nothing flows through sink forward: waiting: connection refused (for 1 s)" in capsys.readouterr().out


def test_status_of_an_agent_that_is_not_ready(capsys: pytest.CaptureFixture[str]) -> None:
    """An agent that isn't ready is exit code 1."""
    assert status(flowing(), ready=False) == 1
    assert "NOT READY" in capsys.readouterr().out


def test_status_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints each agent's answer under its address."""
    assert status(flowing(), "--json") == 0
    (answer,) = json.loads(capsys.readouterr().out).values()
    assert answer["components"][1]["ChannelSize"] == 1204


def test_status_of_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody listens it says so and ends with 1."""
    assert tool.main(["status", "--url", f"http://127.0.0.1:{free_port()}"]) == 1
    assert "nobody answers (" in capsys.readouterr().out


def test_status_of_something_else(capsys: pytest.CaptureFixture[str]) -> None:
    """A port that answers but not as Headrace does is named, without a traceback."""

    async def main() -> int:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"SSH-2.0-OpenSSH\r\n")
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await asyncio.to_thread(tool.main, ["status", "--url", f"http://127.0.0.1:{port}"])

    assert asyncio.run(main()) == 1
    assert "no Headrace agent answers there" in capsys.readouterr().out


def test_a_url_of_another_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """--url takes http."""
    assert tool.main(["status", "--url", "file:///etc"]) == 1
    assert "it takes http://HOST:PORT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 20, "3.0 MiB"), (5 << 50, "5120.0 TiB")]
)
def test_sizes(count: int, text: str) -> None:
    """Sizes have a unit in which they are short."""
    assert show.size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(5.9, "5 s"), (200, "3 min"), (7200, "2 h"), (200_000, "2 days")])
def test_ages(seconds: float, text: str) -> None:
    """Ages have one unit, rounded down."""
    assert show.age(seconds) == text


# ---- stores


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["store", "nowhere"], "nowhere: there is no headrace.db"),
        (["store"], "no store in ./headrace-data or ~/.headrace"),
        (["store", "forget"], "headrace store forget CHANNEL"),
        (["dead-letters", "show"], "takes the IDs of letters (see list), or --all"),
        (["dead-letters", "delete", "--all", "3"], "takes the IDs of letters (see list), or --all"),
    ],
)
def test_what_it_lacks_is_said(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing folder, channel or identifier is one line and exit code 1."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    if arguments[0] == "dead-letters":
        (tmp_path / "headrace.db").touch()
    assert tool.main(arguments) == 1
    assert says in capsys.readouterr().err


def test_several_stores_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no folder is named and there are two, both are."""
    monkeypatch.chdir(tmp_path)
    for name in ("collector", "aggregator"):
        (tmp_path / "headrace-data" / name).mkdir(parents=True)
        (tmp_path / "headrace-data" / name / "headrace.db").touch()
    assert tool.main(["store"]) == 1
    assert "name one of headrace-data/aggregator, headrace-data/collector" in capsys.readouterr().err


def headrace(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command prints; it must end with 0."""
    assert tool.main(arguments) == 0
    return capsys.readouterr().out


@pytest.fixture
def held(program: Callable[..., Program], monkeypatch: pytest.MonkeyPatch) -> Program:
    """An agent that has delivered eight of nine events, buried one, and holds all nine for another channel."""
    one = program("edge", FLOW)
    monkeypatch.chdir(one.folder)
    wait_until(lambda: one.count("SINK.k1", "EventDrainSuccessCount") == 8, what="eight events delivered")
    wait_until(lambda: "four is unlucky" in one.log, what="the ninth buried")
    return one


def test_a_held_store_is_shown(held: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """`headrace store FOLDER` says who holds it, and of each channel what is inside, of the store its origins."""
    shown = headrace(capsys, "store", "store")
    assert f"held by process {held.pid}" in shown.splitlines()[0]
    assert "  spare: 9 events, " in shown and "  c1: 0 events, 0 B" in shown
    assert "1 dead letter, " in shown and "  1 to 9" in shown


def test_a_store_that_nobody_holds_is_shown_too(held: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an agent the same is read from the file, which may be named itself."""
    held.stop()
    shown = headrace(capsys, "store", "store/headrace.db")
    assert "not held by an agent" in shown and "  spare: 9 events, " in shown
    assert json.loads(headrace(capsys, "store", "--json", "store"))["letters"] == 1


def test_dead_letters_are_listed_and_shown(held: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """A dead letter has a number, its channel and its reason; shown whole also its origin and body."""
    line = headrace(capsys, "dead-letters", "list", "--store", "store").strip()
    assert line.endswith("c1: four is unlucky")
    whole = headrace(capsys, "dead-letters", "show", line.split()[0], "--store", "store")
    assert "number 5" in whole and "body, 1 B: 4" in whole


def test_a_dead_letter_is_replayed(held: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """Replayed while the agent runs, the event goes to the sink again under its identity."""
    assert headrace(capsys, "dead-letters", "replay", "--all", "--store", "store") == "replay: 1 letter\n"
    wait_until(lambda: held.log.count("four is unlucky") == 2, what="buried again")
    (letter,) = json.loads(headrace(capsys, "dead-letters", "list", "--json", "--store", "store"))["letters"]
    assert (letter["number"], bytes.fromhex(letter["body"])) == (5, b"4")


def test_a_letter_that_is_not_there_is_said(held: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """A number that no letter has is an error that says so, whatever is to be done with it."""
    for act in ("show", "replay", "delete"):
        assert tool.main(["dead-letters", act, "99", "--store", "store"]) == 1
        assert "there is no dead letter 99" in capsys.readouterr().err


def test_what_a_source_put_aside_is_not_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It was no event yet: replay says so, ends with 1 and leaves it where it is."""

    async def steps() -> None:
        async with opened(tmp_path) as (channel,):
            await channel.bury([DeadLetter({}, b"x", "longer than 1")], ("sensors", {}))

    run(steps)
    store = ["--store", str(tmp_path)]
    assert headrace(capsys, "dead-letters", "list", *store).strip().endswith("sensors: longer than 1")
    assert tool.main(["dead-letters", "replay", "1", *store]) == 1
    assert capsys.readouterr().out.startswith("replay: 0 letters\n1 can't be replayed: put aside by a source")
    assert "  none yet\n" in headrace(capsys, "store", str(tmp_path))
    assert headrace(capsys, "dead-letters", "delete", "1", *store) == "delete: 1 letter\n"


def test_dead_letters_are_deleted(held: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """Deleted ones are gone."""
    assert headrace(capsys, "dead-letters", "delete", "--all", "--store", "store") == "delete: 1 letter\n"
    assert headrace(capsys, "dead-letters", "list", "--store", "store") == "no dead letters\n"


def test_a_channel_is_forgotten(held: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """A channel that left the configuration is shown with the command that drops it, which works; one that is in use
    is kept."""
    assert tool.main(["store", "forget", "spare", "store"]) == 1
    held.stop()
    held.conf = FLOW.replace(" spare", "").replace("a1.channels.spare", "#")
    held.start()
    assert "headrace store forget spare" in headrace(capsys, "store", "store")
    assert "spare is forgotten, with 9 events" in headrace(capsys, "store", "forget", "spare", "store")
    assert "spare" not in headrace(capsys, "store", "store")
