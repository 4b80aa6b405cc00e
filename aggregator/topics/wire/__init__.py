"""The Kafka protocol as tables and a codec: bytes in, dicts out, and back. No I/O."""
