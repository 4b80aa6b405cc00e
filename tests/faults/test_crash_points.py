"""A program is killed at each step, on the Avro leg: nothing acknowledged is missing, nothing is there twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.crash_agent import watch
from tests.faults.crash_case import Cases
from tests.faults.crash_points import points
from tests.needs import need

pytestmark = [pytest.mark.fault, pytest.mark.peer]
LEG = "avro"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cases]:
    need("mosquitto")
    with Cases(tmp_path_factory.mktemp(f"crash-{LEG}"), LEG) as cases:
        yield cases


@pytest.mark.limit(60)
@pytest.mark.parametrize("point", points(LEG))
def test_killed_at(cases: Cases, point: str) -> None:
    """Killed there and started again, everything acknowledged is in the table and the Avro files once."""
    cases.run(point)


@pytest.mark.parametrize("target", ["agent.store.store:Store.no", "agent.store.store:no.rename", "agent.no:f"])
def test_a_name_that_is_gone(target: str) -> None:
    """A step whose function was renamed is an error, not a kill that never comes."""
    with pytest.raises((LookupError, ImportError)):
        watch(target, lambda: None, lambda: None)
