"""What a client asks first: which versions, who are you, where is what."""

from __future__ import annotations

from aggregator.topics.wire.table import apis

FAMILY = apis("""
  ApiVersions  key=18  serves=0-2  flexible=3
    request
    response
      error_code                           int16           = 0
      api_keys                             []
        api_key                            int16
        min_version                        int16
        max_version                        int16
      throttle_time_ms                     int32      1+   = 0

  SaslHandshake  key=17  serves=0-1  flexible=99
    request
      mechanism                            string
    response
      error_code                           int16           = 0
      mechanisms                           []string

  SaslAuthenticate  key=36  serves=0-1  flexible=2
    request
      auth_bytes                           bytes
    response
      error_code                           int16           = 0
      error_message                        string?
      auth_bytes                           bytes           = empty
      session_lifetime_ms                  int64      1+   = 0

  Metadata  key=3  serves=0-8  flexible=9
    request
      topics                               []?1+
        name                               string
      allow_auto_topic_creation            bool       4+   = true
      include_cluster_authorized_operations bool       8+   = false
      include_topic_authorized_operations  bool       8+   = false
    response
      throttle_time_ms                     int32      3+   = 0
      brokers                              []
        node_id                            int32
        host                               string
        port                               int32
        rack                               string?    1+
      cluster_id                           string?    2+
      controller_id                        int32      1+   = -1
      topics                               []
        error_code                         int16           = 0
        name                               string
        is_internal                        bool       1+   = false
        partitions                         []
          error_code                       int16           = 0
          partition_index                  int32
          leader_id                        int32
          leader_epoch                     int32      7+   = -1
          replica_nodes                    []int32
          isr_nodes                        []int32
          offline_replicas                 []int32    5+
        topic_authorized_operations        int32      8+   = -2147483648
      cluster_authorized_operations        int32      8+   = -2147483648

  FindCoordinator  key=10  serves=0-2  flexible=3
    request
      key                                  string
      key_type                             int8       1+   = 0
    response
      throttle_time_ms                     int32      1+   = 0
      error_code                           int16           = 0
      error_message                        string?    1+
      node_id                              int32
      host                                 string
      port                                 int32
""")
API_VERSIONS, SASL_HANDSHAKE, SASL_AUTHENTICATE, METADATA, FIND_COORDINATOR = FAMILY
