"""Topics for people and browsers, on the port of the metrics service.

    GET /topics                 the topics: partitions, offsets, bytes, groups and their lag
    GET /topics/NAME            the last records: ?last=N, of one partition with ?partition=P
    GET /topics/NAME/stream     records as they come, as server-sent events: ?from=earliest|latest|OFFSET|TIME

JSON, or a table for who asks for text/html. Where an agent has several topics services, ?service=NAME says which.

Only what is committed is shown: everything is read as by a read_committed consumer.
"""
