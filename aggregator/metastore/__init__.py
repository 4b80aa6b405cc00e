"""Hive tables as the hive sink needs them: the metastore's client, types and schemas, partition names, rows."""
