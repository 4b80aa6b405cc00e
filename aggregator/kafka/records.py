"""A record's parts as confluent-kafka gives them, in one type each."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from confluent_kafka import Message


def headers_of(message: Message) -> list[tuple[str, bytes]]:
    """Record headers with their values; a name may be there twice."""
    found = cast("list[tuple[str, str | bytes | None]]", message.headers() or [])
    return [(name, to_bytes(value)) for name, value in found]


def to_bytes(value: str | bytes | None) -> bytes:
    """A record without a value (Kafka's tombstone) has an empty body, as in Flume."""
    return value.encode() if isinstance(value, str) else value or b""


def to_text(value: str | bytes | None) -> str:
    """Bytes that are no UTF-8 are replaced."""
    return to_bytes(value).decode("utf-8", "replace")
