"""A consumer group of the demo: any Kafka client, here confluent-kafka, that reads the aggregator's topic.

It is stopped when the collector is killed, and goes on with a consumer made anew where its committed offsets are.
"""

from __future__ import annotations

import threading
from collections import Counter

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka.admin import AdminClient, NewTopic

Reading = tuple[str, bytes]
"""(topic of MQTT, payload)."""
TOPIC = "readings"


class Group:
    """`start`, `pause` and `resume`, `close`; `found` is what was read and committed."""

    def __init__(self, port: int) -> None:
        self.servers = f"127.0.0.1:{port}"
        self.found: Counter[Reading] = Counter()
        self.failed = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Make the topic, unless the sink has, and read it."""
        client = AdminClient({"bootstrap.servers": self.servers})
        try:
            client.create_topics([NewTopic(TOPIC)])[TOPIC].result(20)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
        self.resume()

    def resume(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Commit, and leave the group."""
        self._stop.set()
        if self._thread:
            self._thread.join(20)

    def _read(self) -> None:
        settings = {
            "bootstrap.servers": self.servers, "group.id": "demo", "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }  # fmt: skip
        consumer = Consumer(settings)
        consumer.subscribe([TOPIC])
        try:
            while not self._stop.is_set():
                messages = consumer.consume(1000, 0.1)
                found = Counter(_reading(message) for message in messages if not self._error(message.error()))
                if found:
                    consumer.commit(asynchronous=False)
                    self.found += found
        finally:
            consumer.close()

    def _error(self, error: KafkaError | None) -> bool:
        if error:
            self.failed = error.str()
        return error is not None


def _reading(message: Message) -> Reading:
    topic, payload = message.key(), message.value()
    assert isinstance(topic, bytes)
    assert isinstance(payload, bytes)
    return topic.decode(), payload
