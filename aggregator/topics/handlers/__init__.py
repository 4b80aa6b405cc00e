"""Requests to answers, a file a family of APIs. Each has its `HANDLERS`: API key to handler (see broker.py).

A handler's first step is taken in the order in which a client's requests came; requests of one connection overlap only
where all of them are Produce (server.py). So what a handler does before it first waits is done in the client's order.
"""

from __future__ import annotations

from aggregator.topics.broker import Handler
from aggregator.topics.handlers import (
    admin,
    configs,
    coordinator,
    fetch,
    groups,
    list_offsets,
    metadata,
    offsets,
    produce,
    sasl,
    transactions,
    versions,
)

_FAMILIES = (sasl, metadata, coordinator, produce, fetch, list_offsets, groups, offsets, admin, configs, transactions)
_SERVED: dict[int, Handler] = {key: handler for family in _FAMILIES for key, handler in family.HANDLERS.items()}
HANDLERS: dict[int, Handler] = {**versions.handlers(_SERVED), **_SERVED}
"""By API key."""
BEFORE_AUTHENTICATION = {*versions.handlers(()), *sasl.HANDLERS}
"""Keys of what a client may ask before it has said who it is."""
