"""Topics made and unmade, and settings."""

from __future__ import annotations

from aggregator.topics.wire.table import apis

FAMILY = apis("""
  CreateTopics  key=19  serves=2-4  flexible=5
    request
      topics                               []
        name                               string
        num_partitions                     int32
        replication_factor                 int16
        assignments                        []              = ()
          partition_index                  int32
          broker_ids                       []int32
        configs                            []              = ()
          name                             string
          value                            string?
      timeout_ms                           int32           = 60000
      validate_only                        bool            = false
    response
      throttle_time_ms                     int32           = 0
      topics                               []
        name                               string
        error_code                         int16           = 0
        error_message                      string?

  DeleteTopics  key=20  serves=1-3  flexible=4
    request
      topic_names                          []string
      timeout_ms                           int32           = 60000
    response
      throttle_time_ms                     int32           = 0
      responses                            []
        name                               string
        error_code                         int16           = 0

  CreatePartitions  key=37  serves=0-1  flexible=2
    request
      topics                               []
        name                               string
        count                              int32
        assignments                        []?
          broker_ids                       []int32
      timeout_ms                           int32           = 60000
      validate_only                        bool            = false
    response
      throttle_time_ms                     int32           = 0
      results                              []
        name                               string
        error_code                         int16           = 0
        error_message                      string?

  DescribeConfigs  key=32  serves=1-3  flexible=4
    request
      resources                            []
        resource_type                      int8
        resource_name                      string
        configuration_keys                 []string?
      include_synonyms                     bool            = false
      include_documentation                bool       3+   = false
    response
      throttle_time_ms                     int32           = 0
      results                              []
        error_code                         int16           = 0
        error_message                      string?
        resource_type                      int8
        resource_name                      string
        configs                            []              = ()
          name                             string
          value                            string?
          read_only                        bool            = false
          config_source                    int8            = -1
          is_sensitive                     bool            = false
          synonyms                         []              = ()
            name                           string
            value                          string?
            source                         int8
          config_type                      int8       3+   = 0
          documentation                    string?    3+

  AlterConfigs  key=33  serves=0-1  flexible=2
    request
      resources                            []
        resource_type                      int8
        resource_name                      string
        configs                            []
          name                             string
          value                            string?
      validate_only                        bool            = false
    response
      throttle_time_ms                     int32           = 0
      responses                            []
        error_code                         int16           = 0
        error_message                      string?
        resource_type                      int8
        resource_name                      string

  IncrementalAlterConfigs  key=44  serves=0-1  flexible=1
    request
      resources                            []
        resource_type                      int8
        resource_name                      string
        configs                            []
          name                             string
          config_operation                 int8
          value                            string?
      validate_only                        bool            = false
    response
      throttle_time_ms                     int32           = 0
      responses                            []
        error_code                         int16           = 0
        error_message                      string?
        resource_type                      int8
        resource_name                      string

  DescribeLogDirs  key=35  serves=0-1  flexible=2
    request
      topics                               []?
        topic                              string
        partitions                         []int32
    response
      throttle_time_ms                     int32           = 0
      results                              []
        error_code                         int16           = 0
        log_dir                            string
        topics                             []              = ()
          name                             string
          partitions                       []
            partition_index                int32
            partition_size                 int64
            offset_lag                     int64           = 0
            is_future_key                  bool            = false
""")
CREATE_TOPICS, DELETE_TOPICS, CREATE_PARTITIONS, DESCRIBE_CONFIGS, ALTER_CONFIGS = FAMILY[:5]
INCREMENTAL_ALTER_CONFIGS, DESCRIBE_LOG_DIRS = FAMILY[5:]
