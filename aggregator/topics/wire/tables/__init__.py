"""The APIs that are served, a file a family. Windows end where compact types begin, but where a client needs more.

Every current client goes down to these versions (KIP-896 is the floor); what flexible versions would add, no client
misses. Exceptions say why beside them. Where Kafka 4 has renamed a field for the sake of versions that aren't served,
the older name stands.
"""

from __future__ import annotations

from aggregator.topics.wire.table import Api
from aggregator.topics.wire.tables import admin, connection, groups, offsets, records, transactions

FAMILIES = connection, records, groups, offsets, transactions, admin

APIS: dict[int, Api] = {api.key: api for family in FAMILIES for api in family.FAMILY}
"""By API key."""
