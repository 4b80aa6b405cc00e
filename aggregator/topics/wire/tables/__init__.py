"""The APIs that are served, a file a family. Windows end where compact types begin, but where a client needs more.

Every current client goes down to these versions (KIP-896 is the floor); what flexible versions would add, strict
parsers' traps apart, no client misses. Exceptions say why beside them.
"""

from __future__ import annotations

from aggregator.topics.wire.table import Api
from aggregator.topics.wire.tables import connection, records

APIS: dict[int, Api] = {api.key: api for family in (connection, records) for api in family.FAMILY}
"""By API key."""
