"""Topics go to another cluster, and their consumer groups go on there exactly where they stopped.

**One transaction of the target holds all.** The records of a batch and which offsets they had at the source are
committed together, so after a kill at any moment the target itself says how far the copy came. Nothing is kept on the
disk of whoever runs this; it may be run again from another machine.

**The map is a topic.** Ends of transactions, aborted records and compaction make holes in either cluster, so offsets
can't be computed from each other. While records are copied, both offsets of each are known (the target's from its
acknowledgement); runs of them, `[source, target, count]`, are written to the topic `headrace-migrate-CLUSTER` at the
target, in the transaction of the records themselves. A committed offset of a group is metadata of at most 4,096 bytes
and holds no map; a header would change the records; a file would be another thing to lose, and would have to be brought
into step with transactions whose outcome a kill left open. How far the copy came is where the last run of a partition
ends, so it is not committed a second time as the offset of a group.

    move.py     the whole course          copier.py  records, a transaction at a time    runs.py     the map (pure)
    targets.py  the topics over there     offsets.py groups                              journal.py  the map's topic
    check.py    both sides compared       progress.py
"""
