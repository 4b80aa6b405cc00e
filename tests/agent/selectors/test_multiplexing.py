"""multiplexing: a header's value decides (flume.apache.org, User Guide, 'Multiplexing Channel Selector')."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.event import Batch, Event
from agent.selector import Route
from agent.selectors.multiplexing import MultiplexingConfig, MultiplexingSelector
from agent.store.streams import Transit

CHANNELS = ["a", "b", "c", "d"]


def make(**keys: object) -> MultiplexingSelector:
    config = MultiplexingConfig(**{"header": "state", **keys})  # type: ignore[arg-type]
    return MultiplexingSelector("s", config, CHANNELS)


def batch(*values: str | None) -> Batch:
    return Batch([Event({} if value is None else {"state": value}, str(i).encode()) for i, value in enumerate(values)])


def told(routes: list[Route]) -> list[tuple[tuple[str, ...], tuple[str, ...], list[str]]]:
    return [(r.required, r.optional, [event.body.decode() for event in r.batch.events]) for r in routes]


def test_values() -> None:
    """Mapped values, case and all; other, missing and blank ones go to the default."""
    selector = make(mapping={"CZ": "a b", "US": "c", " ": "a"}, default=["d"])
    assert told(selector.select(batch("CZ", "US", "cz", None, "", " "))) == [
        (("a", "b"), (), ["0"]),
        (("c",), (), ["1"]),
        (("d",), (), ["2", "3", "4", "5"]),
    ]


def test_optional() -> None:
    """Required wins over optional; a value with optional channels alone has the default ones required."""
    selector = make(mapping={"1": "a"}, optional={"1": "a b", "2": "c d"}, default=["d"])
    assert told(selector.select(batch("1", "2", "3"))) == [
        (("a",), ("b",), ["0"]),
        (("d",), ("c",), ["1"]),
        (("d",), (), ["2"]),
    ]


def test_nowhere() -> None:
    """Without a default, an event with no mapping is in no route."""
    assert told(make(mapping={"1": "a"}).select(batch("2", "1", None))) == [(("a",), (), ["1"])]
    assert make(mapping={"1": "a"}).select(batch("2")) == []


def test_one_way_for_all_is_the_same_object() -> None:
    """A batch whose events all go the same way is handed on as it is."""
    whole = batch("x", "y")
    [route] = make(default=["a"]).select(whole)
    assert route.batch is whole


def test_a_part_keeps_its_numbers() -> None:
    """A route's batch carries the numbers of its events."""
    whole = Batch(batch("1", "2", "1").events, transit=Transit(b"o" * 16, "c", 4, ((5, 3),), 4))
    first, second = make(mapping={"1": "a", "2": "b"}).select(whole)
    assert first.batch.transit and first.batch.transit.numbers == ((5, 1), (7, 1))
    assert second.batch.transit and second.batch.transit.numbers == ((6, 1),)


@given(st.lists(st.sampled_from(["1", "2", "3", "4", None]), max_size=30))
def test_order(values: list[str | None]) -> None:
    """Route after route, each channel sees its events in the batch's order, and each event is in one route."""
    selector = make(mapping={"1": "a b", "2": "b", "3": "c"}, optional={"2": "c"}, default=["d"])
    routes = told(selector.select(batch(*values)))
    assert sorted(int(body) for _, _, bodies in routes for body in bodies) == list(range(len(values)))
    for channel in CHANNELS:
        seen = [int(body) for required, optional, bodies in routes if channel in required + optional for body in bodies]
        assert seen == sorted(seen)


def test_faults() -> None:
    """A channel of another source, and a value without channels, are named by key."""
    selector = make(mapping={"1": "a x", "2": ""}, optional={"3": "y"}, default=["z"])
    assert sorted(selector.problems()) == [
        ("default", "'z' is not a channel of this source"),
        ("mapping.1", "'x' is not a channel of this source"),
        ("mapping.2", "names no channel"),
        ("optional.3", "'y' is not a channel of this source"),
    ]
