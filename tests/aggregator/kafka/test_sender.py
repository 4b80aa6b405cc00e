"""What becomes of a client of the kafka sink that has failed for good."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from agent.errors import DeliveryError
from aggregator.kafka.sender import Records, Sender


class Dead:
    """A producer with a fatal error: whatever is called raises it."""

    def purge(self) -> None:
        pass

    def poll(self, *_: Any, **__: Any) -> None:
        raise KafkaException(KafkaError(KafkaError._FATAL, "invalid transaction state", fatal=True))

    flush = produce_batch = poll


def test_a_fatal_error_is_the_destinations() -> None:
    """A client whose close raises the fatal error once more fails its batch as any other: it is sent again."""
    sender = Sender({}, 1.0, logging.getLogger("test"))
    sender._producer = cast(Producer, Dead())
    with pytest.raises(DeliveryError, match="invalid transaction state"):
        sender.send([Records("t", [{"value": b"x"}], plain=True)], None)
    assert sender._producer is None
