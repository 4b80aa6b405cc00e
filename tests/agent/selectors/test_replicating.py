"""replicating: every channel gets every event."""

from __future__ import annotations

from agent.event import Batch
from agent.selectors.replicating import ReplicatingConfig, ReplicatingSelector


def test_the_batch_goes_on_as_it_is() -> None:
    """One route with the same object, which is not decoded; optional channels apart."""
    selector = ReplicatingSelector("s", ReplicatingConfig(optional=["b"]), ["a", "b", "c"])
    batch = Batch(None, b"no avro", 3)
    [route] = selector.select(batch)
    assert (route.required, route.optional) == (("a", "c"), ("b",))
    assert route.batch is batch


def test_a_channel_of_another_source_is_a_fault() -> None:
    """selector.optional names only channels of its source."""
    assert ReplicatingSelector("s", ReplicatingConfig(optional=["x"]), ["a"]).problems() == [
        ("optional", "'x' is not a channel of this source")
    ]
