"""Partition folders as Hive makes them."""

from __future__ import annotations

import pytest

from agent.errors import Rejected
from aggregator.metastore.partition import folder_of, values_for
from aggregator.metastore.types import columns_of

KEYS = columns_of("dt, hour int")


@pytest.mark.parametrize(
    ("values", "kept", "folder"),
    [
        (("2026-11-25", "07"), ("2026-11-25", "7"), "dt=2026-11-25/hour=7"),
        (("a/b:c d°", "1"), ("a/b:c d°", "1"), "dt=a%2Fb%3Ac d°/hour=1"),
        (("..", "1"), ("..", "1"), "dt=../hour=1"),
        (
            ("", ""),
            ("__HIVE_DEFAULT_PARTITION__",) * 2,
            "dt=__HIVE_DEFAULT_PARTITION__/hour=__HIVE_DEFAULT_PARTITION__",
        ),
        (("\x01\"#%'*?\\\x7f{[]^=", "1"), None, "dt=%01%22%23%25%27%2A%3F%5C%7F%7B%5B%5D%5E%3D/hour=1"),
    ],
)
def test_a_folder(values: tuple[str, str], kept: tuple[str, str] | None, folder: str) -> None:
    """Special characters are escaped, whole numbers are plain, nothing is Hive's default partition."""
    found = values_for(KEYS, values)
    assert found == (kept or values)
    assert folder_of(KEYS, found) == folder


@pytest.mark.parametrize(
    "values",
    [
        ("x", "noon"),
        ("x" * 257, "1"),
        ("°" * 130, "1"),
        ("/" * 90, "1"),
        ("x", "2147483648"),
        ("x", "5.0"),
        ("x", "1e3"),
    ],
)
def test_a_value_that_can_not_be(values: tuple[str, str]) -> None:
    """It is the event's fault: of another type than the column, or too long for the metastore or a folder."""
    with pytest.raises(Rejected, match="partition column"):
        values_for(KEYS, values)


def test_a_table_without_partitions() -> None:
    """Its files lie in its own folder."""
    assert folder_of([], values_for([], [])) == ""
