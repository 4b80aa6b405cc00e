"""The classic consumer group: members, and what admins ask of groups."""

from __future__ import annotations

from aggregator.topics.wire.table import apis

FAMILY = apis("""
  JoinGroup  key=11  serves=0-5  flexible=6
    request
      group_id                             string
      session_timeout_ms                   int32
      rebalance_timeout_ms                 int32      1+   = -1
      member_id                            string
      group_instance_id                    string?    5+
      protocol_type                        string
      protocols                            []
        name                               string
        metadata                           bytes
    response
      throttle_time_ms                     int32      2+   = 0
      error_code                           int16           = 0
      generation_id                        int32           = -1
      protocol_name                        string          = ""
      leader                               string          = ""
      member_id                            string          = ""
      members                              []              = ()
        member_id                          string
        group_instance_id                  string?    5+
        metadata                           bytes

  SyncGroup  key=14  serves=0-3  flexible=4
    request
      group_id                             string
      generation_id                        int32
      member_id                            string
      group_instance_id                    string?    3+
      assignments                          []              = ()
        member_id                          string
        assignment                         bytes
    response
      throttle_time_ms                     int32      1+   = 0
      error_code                           int16           = 0
      assignment                           bytes           = empty

  Heartbeat  key=12  serves=0-3  flexible=4
    request
      group_id                             string
      generation_id                        int32
      member_id                            string
      group_instance_id                    string?    3+
    response
      throttle_time_ms                     int32      1+   = 0
      error_code                           int16           = 0

  LeaveGroup  key=13  serves=0-3  flexible=4
    request
      group_id                             string
      member_id                            string     0-2
      members                              []         3+
        member_id                          string
        group_instance_id                  string?
    response
      throttle_time_ms                     int32      1+   = 0
      error_code                           int16           = 0
      members                              []         3+   = ()
        member_id                          string
        group_instance_id                  string?
        error_code                         int16           = 0

  DescribeGroups  key=15  serves=0-4  flexible=5
    request
      groups                               []string
      include_authorized_operations        bool       3+   = false
    response
      throttle_time_ms                     int32      1+   = 0
      groups                               []
        error_code                         int16           = 0
        group_id                           string
        group_state                        string          = ""
        protocol_type                      string          = ""
        protocol_data                      string          = ""
        members                            []              = ()
          member_id                        string
          group_instance_id                string?    4+
          client_id                        string
          client_host                      string
          member_metadata                  bytes           = empty
          member_assignment                bytes           = empty
        authorized_operations              int32      3+   = -2147483648

  # Flexible versions, for the state: tools and UIs show it.
  ListGroups  key=16  serves=0-4  flexible=3
    request
      states_filter                        []string   4+   = ()
    response
      throttle_time_ms                     int32      1+   = 0
      error_code                           int16           = 0
      groups                               []
        group_id                           string
        protocol_type                      string
        group_state                        string     4+   = ""

  DeleteGroups  key=42  serves=0-1  flexible=2
    request
      groups_names                         []string
    response
      throttle_time_ms                     int32           = 0
      results                              []
        group_id                           string
        error_code                         int16           = 0
""")
JOIN_GROUP, SYNC_GROUP, HEARTBEAT, LEAVE_GROUP, DESCRIBE_GROUPS, LIST_GROUPS, DELETE_GROUPS = FAMILY
