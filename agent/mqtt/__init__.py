"""MQTT 5 and 3.1.1 for the source and the sink: codec of the hot packets, connection, redelivery window, batch leg."""
