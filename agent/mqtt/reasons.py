"""Why a broker says no: return codes of a 3.1.1 CONNACK, reason codes of MQTT 5, in words."""

from __future__ import annotations

TAKEN_OVER = 0x8E
BAD_VERSION = 0x84
REFUSED_311 = {
    1: "it does not speak this version",
    2: "it does not like the clientId",
    3: "it is not available",
    4: "wrong username or password",
    5: "not authorised (username, password or access list)",
}
_REASONS = {
    0x80: "unspecified error",
    0x81: "malformed packet",
    0x82: "protocol error",
    BAD_VERSION: "it does not speak this version",
    0x85: "it does not like the clientId",
    0x86: "wrong username or password",
    0x87: "not authorised (username, password or access list)",
    0x88: "it is not available",
    0x89: "it is busy",
    0x8A: "this client is banned",
    0x8B: "it is shutting down",
    0x8D: "it heard nothing within the keep-alive",
    TAKEN_OVER: "session taken over: another client with the same clientId has connected",
    0x93: "more messages in flight than it takes",
    0x95: "a packet larger than it takes",
    0x97: "a quota is used up",
    0x98: "an administrator closed it",
    0x9F: "too many connections at once",
}


def reason(code: int) -> str:
    """What a reason code of MQTT 5 means (section 2.4)."""
    return _REASONS.get(code, f"reason {code:#04x}")
