"""Consumer groups: Kafka's classic group protocol, in memory, without I/O."""
