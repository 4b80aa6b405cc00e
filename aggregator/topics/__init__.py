"""Topics: an embedded log that any Kafka client reads and writes.

**Batches are opaque.** A producer's record batch (v2) is kept as it came, compressed or not: of its bytes only the base
offset is written anew, which its CRC doesn't cover. A fetch hands the same bytes on.

**One writer, one commit.** All that is kept (batches, committed offsets, transactions, what the sink has received)
lies in one SQLite file; what comes together is checked and stored in one transaction, and answered after it. As there
is one node, the end of a Kafka transaction (markers in every partition, offsets, state) is one commit too.

    wire/            the protocol's tables and codec; no I/O        record_batch.py  names.py   pure, too
    log/             what is kept
    groups/          the classic group protocol
    transactions/    the state of each transactional.id
    access/          users, SASL, rights
    handlers/        requests to answers, a file a family of APIs
    broker.py        what handlers work with: the parts, and the client that asks
    server.py        connections and their bounds           frames.py   their bytes, cut and made; pure
"""
