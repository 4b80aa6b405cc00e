"""Records: written, read, found by time, dropped."""

from __future__ import annotations

from aggregator.topics.wire.table import apis

FAMILY = apis("""
  # Advertised from 0: with a lowest version of 3, librdkafka before 2.11.1 believes that no compression is taken and
  # silently sends gzip, snappy and lz4 uncompressed. (Kafka 4 does the same: apache/kafka#18727.)
  Produce  key=0  serves=3-8  flexible=9  advertises=0-8
    request
      transactional_id                     string?
      acks                                 int16
      timeout_ms                           int32
      topic_data                           []
        name                               string
        partition_data                     []
          index                            int32
          records                          records?
    response
      responses                            []
        name                               string
        partition_responses                []
          index                            int32
          error_code                       int16           = 0
          base_offset                      int64           = -1
          log_append_time_ms               int64           = -1
          log_start_offset                 int64      5+   = -1
          record_errors                    []         8+   = ()
            batch_index                    int32
            batch_index_error_message      string?
          error_message                    string?    8+
      throttle_time_ms                     int32           = 0

  # A response's `records` are bytes or a list of them, never null: librdkafka rejects that.
  Fetch  key=1  serves=4-11  flexible=12
    request
      replica_id                           int32           = -1
      max_wait_ms                          int32
      min_bytes                            int32
      max_bytes                            int32           = 0x7fffffff
      isolation_level                      int8            = 0
      session_id                           int32      7+   = 0
      session_epoch                        int32      7+   = -1
      topics                               []
        topic                              string
        partitions                         []
          partition                        int32
          current_leader_epoch             int32      9+   = -1
          fetch_offset                     int64
          log_start_offset                 int64      5+   = -1
          partition_max_bytes              int32
      forgotten_topics_data                []         7+   = ()
        topic                              string
        partitions                         []int32
      rack_id                              string     11+  = ""
    response
      throttle_time_ms                     int32           = 0
      error_code                           int16      7+   = 0
      session_id                           int32      7+   = 0
      responses                            []
        topic                              string
        partitions                         []
          partition_index                  int32
          error_code                       int16           = 0
          high_watermark                   int64
          last_stable_offset               int64           = -1
          log_start_offset                 int64      5+   = -1
          aborted_transactions             []?
            producer_id                    int64
            first_offset                   int64
          preferred_read_replica           int32      11+  = -1
          records                          records?        = empty

  ListOffsets  key=2  serves=1-5  flexible=6
    request
      replica_id                           int32           = -1
      isolation_level                      int8       2+   = 0
      topics                               []
        name                               string
        partitions                         []
          partition_index                  int32
          current_leader_epoch             int32      4+   = -1
          timestamp                        int64
    response
      throttle_time_ms                     int32      2+   = 0
      topics                               []
        name                               string
        partitions                         []
          partition_index                  int32
          error_code                       int16           = 0
          timestamp                        int64           = -1
          offset                           int64           = -1
          leader_epoch                     int32      4+   = -1

  OffsetForLeaderEpoch  key=23  serves=2-3  flexible=4
    request
      replica_id                           int32      3+   = -2
      topics                               []
        topic                              string
        partitions                         []
          partition                        int32
          current_leader_epoch             int32           = -1
          leader_epoch                     int32
    response
      throttle_time_ms                     int32           = 0
      topics                               []
        topic                              string
        partitions                         []
          error_code                       int16           = 0
          partition                        int32
          leader_epoch                     int32           = -1
          end_offset                       int64           = -1

  DeleteRecords  key=21  serves=0-1  flexible=2
    request
      topics                               []
        name                               string
        partitions                         []
          partition_index                  int32
          offset                           int64
      timeout_ms                           int32           = 60000
    response
      throttle_time_ms                     int32           = 0
      topics                               []
        name                               string
        partitions                         []
          partition_index                  int32
          low_watermark                    int64           = -1
          error_code                       int16           = 0
""")
PRODUCE, FETCH, LIST_OFFSETS, OFFSET_FOR_LEADER_EPOCH, DELETE_RECORDS = FAMILY
