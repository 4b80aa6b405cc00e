"""What a request may ask for. A misspelt word is refused: an answer to something else would look like one to it."""

from __future__ import annotations

from collections.abc import Sequence

from agent.http import Page, Request, text
from aggregator.topics.log.log import Partition, Topic


class Refused(Exception):
    """Answered with this status and text."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status

    @property
    def page(self) -> Page:
        return text(self.status, str(self))


def only(request: Request, *names: str) -> None:
    """Refused: the query has another word than these."""
    for name in request.query.keys() - {*names, "service"}:
        raise Refused(400, f"there is no {name[:40]!a} here; it takes {', '.join([*names, 'service'])}")


def number(request: Request, name: str, default: int, low: int, high: int) -> int:
    """A whole number of the query."""
    given = request.query.get(name)
    if given is None:
        return default
    found = digits(given)
    if found is None or not low <= found <= high:
        raise Refused(400, f"{name} is a number from {low} to {high}, not {given[:40]!a}")
    return found


def digits(given: str) -> int | None:
    """What stands there in decimal digits, up to 18 of them."""
    return int(given) if given.isascii() and given.isdigit() and len(given) <= 18 else None


def partitions(request: Request, topic: Topic) -> Sequence[Partition]:
    """The one that is asked for, or all."""
    if "partition" not in request.query:
        return topic.partitions
    return [topic.partitions[number(request, "partition", 0, 0, len(topic.partitions) - 1)]]
