"""An interceptor for the tests: a header says whether the number at the end of the body is even or odd."""

from __future__ import annotations

from agent.event import Batch, Event
from agent.interceptor import Interceptor


class DealingInterceptor(Interceptor):
    """`type = tests.faults.dealing:DealingInterceptor`; header `parity`."""

    def intercept(self, batch: Batch) -> Batch:
        return batch.with_events([_dealt(event) for event in batch.events])


def _dealt(event: Event) -> Event:
    parity = "odd" if int(event.body.rpartition(b"-")[2]) % 2 else "even"
    return Event({**event.headers, "parity": parity}, event.body)
