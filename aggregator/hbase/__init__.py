"""HBase as the hbase sinks need it: cells of events (pure), and a connection to a Thrift gateway (blocking)."""
