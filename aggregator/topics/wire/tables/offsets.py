"""What groups remember."""

from __future__ import annotations

from aggregator.topics.wire.table import apis

FAMILY = apis("""
  OffsetCommit  key=8  serves=2-7  flexible=8
    request
      group_id                             string
      generation_id                        int32           = -1
      member_id                            string          = ""
      group_instance_id                    string?    7+
      retention_time_ms                    int64      2-4  = -1
      topics                               []
        name                               string
        partitions                         []
          partition_index                  int32
          committed_offset                 int64
          committed_leader_epoch           int32      6+   = -1
          committed_metadata               string?
    response
      throttle_time_ms                     int32      3+   = 0
      topics                               []
        name                               string
        partitions                         []
          partition_index                  int32
          error_code                       int16           = 0

  # Version 7 for require_stable: exactly once consumers wait for the offsets of open transactions.
  OffsetFetch  key=9  serves=1-7  flexible=6
    request
      group_id                             string
      topics                               []?2+
        name                               string
        partition_indexes                  []int32
      require_stable                       bool       7+   = false
    response
      throttle_time_ms                     int32      3+   = 0
      topics                               []
        name                               string
        partitions                         []
          partition_index                  int32
          committed_offset                 int64
          committed_leader_epoch           int32      5+   = -1
          metadata                         string?         = ""
          error_code                       int16           = 0
      error_code                           int16      2+   = 0

  OffsetDelete  key=47  serves=0  flexible=99
    request
      group_id                             string
      topics                               []
        name                               string
        partitions                         []
          partition_index                  int32
    response
      error_code                           int16           = 0
      throttle_time_ms                     int32           = 0
      topics                               []              = ()
        name                               string
        partitions                         []
          partition_index                  int32
          error_code                       int16           = 0
""")
OFFSET_COMMIT, OFFSET_FETCH, OFFSET_DELETE = FAMILY
