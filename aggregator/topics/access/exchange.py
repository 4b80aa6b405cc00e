"""What SASL mechanisms have in common: a client's message in, the server's out, until the client has a name.

One failure ends an exchange, and so does its success: whoever wants another try shakes hands anew. All that fails does
so as SASL_AUTHENTICATION_FAILED; a name that isn't there and a wrong password have one text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from aggregator.topics.errors import Code, TopicsError

MAX_MESSAGE = 8192
"""Bytes of a client's message."""
WRONG = "wrong user name or password"

Answer = tuple[bytes, str | None]
"""The server's message, and the principal once the client has proved who it is."""


class Exchange(ABC):
    """One client's authentication."""

    def __init__(self) -> None:
        self._next: Callable[[str], Answer] = self._first

    def step(self, client: bytes | memoryview) -> Answer:
        """Called with each SaslAuthenticate's bytes. TopicsError: SASL_AUTHENTICATION_FAILED.

        PLAIN hashes a password here (1 ms at 4096 iterations, more at more), with the GIL released.
        """
        now, self._next = self._next, _over
        if len(client) > MAX_MESSAGE:
            raise failed(f"a SASL message has at most {MAX_MESSAGE} bytes")
        try:
            text = str(client, "utf-8")
        except UnicodeDecodeError:
            raise failed("the SASL message isn't UTF-8") from None
        return now(text)

    @abstractmethod
    def _first(self, text: str) -> Answer:
        """The answer to the client's first message; sets `_next` if there are more."""


def failed(text: str) -> TopicsError:
    """The client isn't let in."""
    return TopicsError(Code.SASL_AUTHENTICATION_FAILED, f"authentication failed: {text}")


def same_name(name: str, other: str) -> None:
    """`other`, the name to act for (authzid), may only be the client's own or none, as in Kafka."""
    if other not in ("", name):
        raise failed("a user can't act for another: leave the authorization id out")


def _over(text: str) -> Answer:
    raise failed("the exchange is over")
