"""Flume's names for types -> ours: its aliases (any case) and its Java classes (any case, with or without `$Builder`).

Every component of Flume 1.11 stands here, whether we have it or not: a name that is here and has no module is Flume's,
and not yet ours. Sources: the enums *ConfigurationType and *Type of flume-ng-configuration and flume-ng-core.
"""

from __future__ import annotations

_FLUME = "org.apache.flume."

ALIASES: dict[str, tuple[str, ...]] = {
    "sources": (
        "seq", "netcat", "netcatudp", "exec", "avro", "thrift", "syslogtcp", "multiport_syslogtcp", "syslogudp",
        "spooldir", "taildir", "http", "jms",
    ),
    "sinks": (
        "null", "logger", "file_roll", "hdfs", "hive", "irc", "avro", "thrift", "hbase", "hbase2", "asynchbase",
        "morphline_solr", "http", "elasticsearch",
    ),
    "channels": ("memory", "file", "jdbc", "spillablememory"),
    "selectors": ("replicating", "multiplexing", "load_balancing"),
    "processors": ("default", "failover", "load_balance"),
    "interceptors": (
        "timestamp", "host", "static", "regex_filter", "regex_extractor", "remove_header", "search_replace",
    ),
    "serializers": ("text", "header_and_text", "avro_event"),
    "services": (),
}  # fmt: skip
"""Type names that Flume takes and that are spelt the same here."""

JAVA: dict[str, dict[str, str]] = {
    "sources": {
        "source.SequenceGeneratorSource": "seq",
        "source.NetcatSource": "netcat",
        "source.NetcatUdpSource": "netcatudp",
        "source.ExecSource": "exec",
        "source.AvroSource": "avro",
        "source.ThriftSource": "thrift",
        "source.SyslogTcpSource": "syslogtcp",
        "source.MultiportSyslogTCPSource": "multiport_syslogtcp",
        "source.SyslogUDPSource": "syslogudp",
        "source.SpoolDirectorySource": "spooldir",
        "source.taildir.TaildirSource": "taildir",
        "source.http.HTTPSource": "http",
        "source.jms.JMSSource": "jms",
        "source.kafka.KafkaSource": "kafka",
        "source.StressSource": "stress",
        "source.scribe.ScribeSource": "scribe",
        "source.twitter.TwitterSource": "twitter",
    },
    "sinks": {
        "sink.NullSink": "null",
        "sink.LoggerSink": "logger",
        "sink.RollingFileSink": "file_roll",
        "sink.hdfs.HDFSEventSink": "hdfs",
        "sink.hive.HiveSink": "hive",
        "sink.irc.IRCSink": "irc",
        "sink.AvroSink": "avro",
        "sink.ThriftSink": "thrift",
        "sink.hbase.HBaseSink": "hbase",
        "sink.hbase2.HBase2Sink": "hbase2",
        "sink.hbase.AsyncHBaseSink": "asynchbase",
        "sink.solr.morphline.MorphlineSolrSink": "morphline_solr",
        "sink.http.HttpSink": "http",
        "sink.elasticsearch.ElasticSearchSink": "elasticsearch",
        "sink.kafka.KafkaSink": "kafka",
        "sink.kudu.KuduSink": "kudu",
    },
    "channels": {
        "channel.MemoryChannel": "memory",
        "channel.file.FileChannel": "file",
        "channel.jdbc.JdbcChannel": "jdbc",
        "channel.SpillableMemoryChannel": "spillablememory",
        "channel.kafka.KafkaChannel": "kafka",
        "channel.PseudoTxnMemoryChannel": "pseudotxn",
    },
    "selectors": {
        "channel.ReplicatingChannelSelector": "replicating",
        "channel.MultiplexingChannelSelector": "multiplexing",
        "channel.LoadBalancingChannelSelector": "load_balancing",
    },
    "processors": {
        "sink.DefaultSinkProcessor": "default",
        "sink.FailoverSinkProcessor": "failover",
        "sink.LoadBalancingSinkProcessor": "load_balance",
    },
    "interceptors": {
        "interceptor.TimestampInterceptor": "timestamp",
        "interceptor.HostInterceptor": "host",
        "interceptor.StaticInterceptor": "static",
        "interceptor.RegexFilteringInterceptor": "regex_filter",
        "interceptor.RegexExtractorInterceptor": "regex_extractor",
        "interceptor.RemoveHeaderInterceptor": "remove_header",
        "interceptor.SearchAndReplaceInterceptor": "search_replace",
        "sink.solr.morphline.UUIDInterceptor": "uuid",
        "sink.solr.morphline.MorphlineInterceptor": "morphline",
    },
    "serializers": {
        "serialization.BodyTextEventSerializer": "text",
        "serialization.HeaderAndBodyTextEventSerializer": "header_and_text",
        "serialization.FlumeEventAvroEventSerializer": "avro_event",
        "sink.hbase.SimpleHbaseEventSerializer": "hbase_simple",
        "sink.hbase.SimpleAsyncHbaseEventSerializer": "hbase_simple",
        "sink.hbase.RegexHbaseEventSerializer": "hbase_regex",
        "sink.hbase2.SimpleHBase2EventSerializer": "hbase_simple",
        "sink.hbase2.RegexHBase2EventSerializer": "hbase_regex",
        "sink.hdfs.AvroEventSerializer": "avro_datum",
    },
    "services": {},
}

_BY_CLASS = {
    kind: {f"{_FLUME}{name}".lower(): ours for name, ours in classes.items()} for kind, classes in JAVA.items()
}


def ours(kind: str, name: str) -> str:
    """The type's name here, for an alias or Java class of Flume; any other name as it is, a plain one in lower case."""
    java = _BY_CLASS[kind].get(name.lower().removesuffix("$builder"))
    return java or (name if "." in name or ":" in name else name.lower())


def classes(kind: str) -> list[str]:
    """Flume's Java classes of a kind."""
    return [f"{_FLUME}{name}" for name in JAVA[kind]]


def is_flumes(kind: str, type_name: str) -> bool:
    """Whether Flume has a type that would have this name here."""
    return type_name in ALIASES[kind] or type_name in JAVA[kind].values()


def is_java(name: str) -> bool:
    """Whether a name can only be a Java class: dots, and a last part with a capital."""
    return "." in name and ":" not in name and name.rpartition(".")[2][:1].isupper()
