"""topics ls, where something changes while it looks."""

from __future__ import annotations

import argparse

import pytest
from confluent_kafka import KafkaError, KafkaException

from agent.errors import DeliveryError
from aggregator.topics.commands import ls

GIVEN = argparse.Namespace(server="127.0.0.1:1", config=None)


def failing(times: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [times]

    def rows(_: object) -> list[tuple[str, ...]]:
        if left[0]:
            left[0] -= 1
            raise DeliveryError("no") from KafkaException(KafkaError(code))
        return [ls.HEAD, ("t", "1", "2", "3", "", "")]

    monkeypatch.setattr(ls, "_rows", rows)


def test_a_topic_that_goes_meanwhile(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is left is listed."""
    failing(2, KafkaError.UNKNOWN_TOPIC_OR_PART, monkeypatch)
    assert ls.run(GIVEN) == 0
    assert "t" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("times", "code"), [(99, KafkaError.UNKNOWN_TOPIC_OR_PART), (1, KafkaError.TOPIC_AUTHORIZATION_FAILED)]
)
def test_it_gives_up(times: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On any other error at once, and on this one after a few tries."""
    failing(times, code, monkeypatch)
    with pytest.raises(DeliveryError):
        ls.run(GIVEN)
