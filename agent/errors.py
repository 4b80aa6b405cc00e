"""Errors, named for who must act.

    AgentError
    |- ConfigError        the operator edits a file: file:line, key, what it takes
    |- ChannelError       the agent cannot keep its promise: it stops, the supervisor restarts it
    |  `- ChannelFull     the source holds its peer back
    |- DeliveryError      the runner puts the batch back and waits
    |  `- Rejected        the far side will never take this: bisect, dead letter
    `- ProtocolError      close this one connection (Local: our bug; Remote: the peer's)
       |- LocalProtocolError
       `- RemoteProtocolError

A library's error is translated where it crosses our border, by `translated`; whatever is not in this
tree is a bug of ours and is treated as one (the component restarts with back-off).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class AgentError(Exception):
    """The root: everything that Headrace raises on purpose."""


class ConfigError(AgentError):
    """The operator edits a file. The text names the place and what it takes."""


class ChannelError(AgentError):
    """The agent cannot keep its promise."""


class ChannelFull(ChannelError):
    """No room (or a batch over a limit): the source says so to its peer in the peer's own protocol."""


class DeliveryError(AgentError):
    """The far side did not accept, for a cause outside the events: the batch waits and is sent again."""


class Rejected(DeliveryError):
    """The far side will never take this, for a cause in an event itself."""


class ProtocolError(AgentError):
    """Close this one connection; everything else goes on."""


class LocalProtocolError(ProtocolError):
    """We were about to break the protocol: our bug."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol."""


@contextmanager
def translated(mapping: dict[type[BaseException], type[AgentError]], doing: str) -> Iterator[None]:
    """Raise a library's error as ours: `mapping` is tried in order, `doing` opens the text."""
    try:
        yield
    except AgentError:
        raise
    except tuple(mapping) as error:
        for foreign, ours in mapping.items():
            if isinstance(error, foreign):
                raise ours(f"{doing}: {error or type(error).__name__}") from error
        raise
