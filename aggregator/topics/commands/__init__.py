"""`headrace-aggregator topics ...`: what a person does with topics from a shell.

These are Kafka clients and nothing else: they know of our service what any client knows, so each of them works with a
Kafka cluster, too, and `migrate` carries topics from either to either.

    command.py     the command line       cluster.py  one side, asked      reading.py  records up to an end
    shown.py       values as text         sizes.py    bytes on the disk
    ls.py  tail.py  manage.py (create, delete)  groups.py  reset.py        migrate/
"""

SERVER = "127.0.0.1:9092"
"""Where the service listens, unless it was told otherwise."""
