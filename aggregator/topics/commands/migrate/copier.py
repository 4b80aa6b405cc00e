"""Records from one cluster to the other, a transaction at a time.

A transaction holds what came within a second, or as much as a batch takes (batch.py). When the target has acknowledged
it all, the offsets at both sides go into the journal, and then it commits. Whatever fails ends the copy: the next one
fences this producer off, undoes what it left open, and reads from the journal how far it came.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from agent.errors import DeliveryError
from aggregator.topics.commands.cluster import Cluster, Place
from aggregator.topics.commands.migrate.batch import Batch, Ends, left
from aggregator.topics.commands.migrate.journal import Journal, begins, copied
from aggregator.topics.commands.migrate.runs import Runs, runs_of
from aggregator.topics.commands.reading import MANY, WAIT, headers_of, key_of, offset_of, parted, place_of, value_of

LINGER = 1.0
"""Seconds that a transaction waits for more records."""
PATIENCE = 300.0
"""Seconds in which either side may be away. The target undoes a transaction that is open for longer."""
MOST_BYTES = 64 << 20
"""Of a record; what the topic's max.message.bytes is, the target judges."""
GLANCE, CALM = 2.0, 0.1
"""Seconds in one call of the library, so that Ctrl-C is heard; between two."""
REMEDY = {
    KafkaError.MSG_SIZE_TOO_LARGE: "raise max.message.bytes of the topic there, or compression.type in --to-config",
    KafkaError.INVALID_RECORD: "a record without a key doesn't go into a compacted topic",
    KafkaError._FENCED: "another migrate of the same source has taken over",
    KafkaError.PRODUCER_FENCED: "another migrate of the same source has taken over",
}


class Copier:
    """`open`, `begin`, `copy` ..., `close`. Its methods raise DeliveryError."""

    def __init__(
        self, source: Cluster, target: Cluster, journal: Journal, progress: Callable[[int, int], None]
    ) -> None:
        self.source, self.target, self.journal, self.progress = source, target, journal, progress
        self.runs: dict[Place, Runs] = {}
        """What was copied."""
        self.reached: dict[Place, int] = {}
        """Source offsets before which nothing is left to copy."""
        self._consumer: Consumer | None = None
        self._producer: Producer = target.producer(
            transactional_id=journal.topic, transaction_timeout_ms=int(PATIENCE * 1000), message_max_bytes=MOST_BYTES,
            compression_type="lz4",
        )  # fmt: skip
        self._targets: defaultdict[Place, list[int]] = defaultdict(list)
        """Of the open transaction: offsets as they are acknowledged, which is in order."""
        self._failed: KafkaError | None = None
        self._open = False

    def open(self) -> None:
        """Become the only one who copies from this source; what an earlier one left open is undone."""
        self._calmly(lambda: self._producer.init_transactions(GLANCE))

    def begin(self, fresh: Iterable[str], runs: Mapping[Place, Runs], starts: Ends) -> None:
        """Go on from these runs, in topics that are `fresh` from the first record on."""
        values = [begins(topic) for topic in fresh]
        if values:
            self._begin()
            self.journal.write(self._producer, values, self._told)
            self._commit()
        self.runs = dict(runs)
        self.reached = {place: max(starts[place], its.reached) for place, its in runs.items()}
        self._consumer = self.source.reader()
        with self.source.asked():
            self._consumer.assign([TopicPartition(*place, offset) for place, offset in self.reached.items()])

    def copy(self, ends: Ends) -> None:
        """Until nothing before these offsets is left."""
        late = time.monotonic() + PATIENCE
        while self.left(ends):
            if self._transact(ends):
                late = time.monotonic() + PATIENCE
            elif time.monotonic() > late:
                raise DeliveryError(f"{self.source.servers}: no record in {PATIENCE:g} s, {self.left(ends)} are left")

    def follow(self) -> None:
        """What comes in a second."""
        self._transact({})

    def left(self, ends: Ends) -> int:
        """Offsets that are to be copied."""
        return left(self.reached, ends)

    def close(self) -> None:
        """What isn't committed is undone."""
        if self._consumer:
            self._consumer.close()
        if self._open:
            try:
                self._producer.purge()
                self._producer.abort_transaction(10)
            except (KafkaException, SystemError):
                pass  # the next one does it

    # -- a transaction

    def _transact(self, ends: Ends) -> bool:
        """Whether anything came; without `ends` it takes all that does. It is then in `runs` and `reached`."""
        batch = Batch(self.reached)
        self._targets.clear()
        until = time.monotonic() + LINGER
        while not batch.is_full and time.monotonic() < until and (left(batch.reached, ends) or not ends):
            self._take(batch)
        if batch.count:
            self._finish(batch.sources)
        came = batch.reached != self.reached
        self.reached = batch.reached
        self.progress(batch.count, self.left(ends))
        return came

    def _take(self, batch: Batch) -> None:
        """Some records, sent on."""
        assert self._consumer
        with self.source.asked():
            records, ended = parted(self._consumer.consume(MANY, WAIT))
        if records and not self._open:
            self._begin()
        for message in records:
            self._send(*place_of(message), message)
            batch.add(message)
        for message in ended:
            batch.end(message)
        self._serve()

    def _finish(self, sources: Mapping[Place, list[int]]) -> None:
        self._flush()
        added = {place: self._paired(place, offsets) for place, offsets in sources.items()}
        for place, runs in added.items():
            self.journal.write(self._producer, copied(place, runs), self._told)
        self._commit()
        for place, runs in added.items():
            for run in runs:
                self.runs[place].add(*run)

    def _paired(self, place: Place, sources: list[int]) -> Runs:
        """DeliveryError if an acknowledgement didn't say where the record is (it was sent twice, and the target had
        forgotten the first one's place)."""
        try:
            runs = runs_of(sources, self._targets[place])
            if min(self._targets[place]) >= 0:
                return runs
        except ValueError:
            pass
        raise DeliveryError(f"{self.target.servers}: offsets in {place[0]}-{place[1]} are not known; run it again")

    def _send(self, topic: str, partition: int, message: Message) -> None:
        while True:
            try:
                return self._producer.produce(
                    topic, value_of(message), key_of(message), partition, headers=list(headers_of(message)),
                    timestamp=time_of(message), on_delivery=self._delivered,
                )  # fmt: skip
            except BufferError:
                self._serve(CALM)
            except KafkaException as error:
                raise self._words(error) from error

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error:
            self._told(error, message)
        else:
            self._targets[place_of(message)].append(offset_of(message))

    def _told(self, error: KafkaError | None, message: Message) -> None:
        if error and (self._failed is None or error.code() in REMEDY):
            self._failed = error

    # -- the library

    def _begin(self) -> None:
        with self.target.asked():
            self._producer.begin_transaction()
        self._open = True

    def _commit(self) -> None:
        self._flush()
        self._calmly(lambda: self._producer.commit_transaction(GLANCE))
        self._open = False

    def _serve(self, seconds: float = 0) -> None:
        """Take acknowledgements."""
        try:
            self._producer.poll(seconds)
        except (KafkaException, SystemError) as error:
            raise self._words(error) from error
        self._check()

    def _flush(self) -> None:
        end = time.monotonic() + PATIENCE
        while len(self._producer):
            self._serve(GLANCE)
            if time.monotonic() > end:
                raise DeliveryError(f"{self.target.servers}: no answer in {PATIENCE:g} s; run it again")

    def _check(self) -> None:
        if self._failed:
            raise self._words(KafkaException(self._failed))

    def _calmly(self, ask: Callable[[], Any]) -> None:
        """Again, as long as the answer may be another one."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                ask()
                return
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > end:
                    raise self._words(error) from error
                time.sleep(CALM)

    def _words(self, error: BaseException) -> DeliveryError:
        """An error that is fatal comes as the cause of a SystemError, out of whatever call was next."""
        found = error if isinstance(error, KafkaException) else error.__cause__
        if not isinstance(found, KafkaException):
            raise error
        first: KafkaError = found.args[0]
        remedy = REMEDY.get(first.code(), "run it again: it goes on where it stopped")
        return DeliveryError(f"{self.target.servers}: {first.str()}: {remedy}")


def time_of(message: Message) -> int:
    """Milliseconds, -1 for none. 0 means `now` to librdkafka: the first millisecond of 1970 becomes the second."""
    return int(message.timestamp()[1]) or 1
