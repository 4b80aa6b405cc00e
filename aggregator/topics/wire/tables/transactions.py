"""Producers with an identity, and their transactions."""

from __future__ import annotations

from aggregator.topics.wire.table import apis

FAMILY = apis("""
  # Version 3 and up carry the producer's epoch: a transactional client goes on after an error instead of giving up.
  InitProducerId  key=22  serves=0-4  flexible=2
    request
      transactional_id                     string?
      transaction_timeout_ms               int32
      producer_id                          int64      3+   = -1
      producer_epoch                       int16      3+   = -1
    response
      throttle_time_ms                     int32           = 0
      error_code                           int16           = 0
      producer_id                          int64           = -1
      producer_epoch                       int16           = -1

  AddPartitionsToTxn  key=24  serves=0-2  flexible=3
    request
      transactional_id                     string
      producer_id                          int64
      producer_epoch                       int16
      topics                               []
        name                               string
        partitions                         []int32
    response
      throttle_time_ms                     int32           = 0
      results                              []
        name                               string
        results                            []
          partition_index                  int32
          error_code                       int16           = 0

  AddOffsetsToTxn  key=25  serves=0-2  flexible=3
    request
      transactional_id                     string
      producer_id                          int64
      producer_epoch                       int16
      group_id                             string
    response
      throttle_time_ms                     int32           = 0
      error_code                           int16           = 0

  EndTxn  key=26  serves=0-2  flexible=3
    request
      transactional_id                     string
      producer_id                          int64
      producer_epoch                       int16
      committed                            bool
    response
      throttle_time_ms                     int32           = 0
      error_code                           int16           = 0

  # Version 3 carries the group's member and generation: Java refuses to send them lower.
  TxnOffsetCommit  key=28  serves=0-3  flexible=3
    request
      transactional_id                     string
      group_id                             string
      producer_id                          int64
      producer_epoch                       int16
      generation_id                        int32      3+   = -1
      member_id                            string     3+   = ""
      group_instance_id                    string?    3+
      topics                               []
        name                               string
        partitions                         []
          partition_index                  int32
          committed_offset                 int64
          committed_leader_epoch           int32      2+   = -1
          committed_metadata               string?
    response
      throttle_time_ms                     int32           = 0
      topics                               []
        name                               string
        partitions                         []
          partition_index                  int32
          error_code                       int16           = 0

  DescribeTransactions  key=65  serves=0  flexible=0
    request
      transactional_ids                    []string
    response
      throttle_time_ms                     int32           = 0
      transaction_states                   []
        error_code                         int16           = 0
        transactional_id                   string
        transaction_state                  string          = ""
        transaction_timeout_ms             int32           = 0
        transaction_start_time_ms          int64           = -1
        producer_id                        int64           = -1
        producer_epoch                     int16           = -1
        topics                             []              = ()
          topic                            string
          partitions                       []int32

  ListTransactions  key=66  serves=0  flexible=0
    request
      state_filters                        []string        = ()
      producer_id_filters                  []int64         = ()
    response
      throttle_time_ms                     int32           = 0
      error_code                           int16           = 0
      unknown_state_filters                []string        = ()
      transaction_states                   []
        transactional_id                   string
        producer_id                        int64
        transaction_state                  string
""")
INIT_PRODUCER_ID, ADD_PARTITIONS_TO_TXN, ADD_OFFSETS_TO_TXN, END_TXN, TXN_OFFSET_COMMIT = FAMILY[:5]
DESCRIBE_TRANSACTIONS, LIST_TRANSACTIONS = FAMILY[5:]
