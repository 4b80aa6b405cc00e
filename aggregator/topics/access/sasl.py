"""Which SASL mechanisms a listener offers, and PLAIN.

PLAIN (RFC 4616) hands the password over, so it is only offered where nobody else can read it: with TLS, or on a
loopback address. SCRAM is always offered: who listens in sees no password, only what guesses can be tried against.

    [name to act for] NUL name NUL password
"""

from __future__ import annotations

from aggregator.topics.access.exchange import WRONG, Answer, Exchange, failed, same_name
from aggregator.topics.access.scram import Scram
from aggregator.topics.access.users import Users
from aggregator.topics.errors import Code, TopicsError


def mechanisms(users: Users | None, tls: bool, loopback: bool) -> list[str]:
    """What a connection is offered: `tls` says that it has TLS, `loopback` that the listener is bound to loopback."""
    if users is None:
        return []
    return [*users.mechanisms, *(["PLAIN"] if tls or loopback else [])]


def exchange(mechanism: str, users: Users | None, tls: bool, loopback: bool) -> Exchange:
    """A new exchange of the mechanism that SaslHandshake names. TopicsError: UNSUPPORTED_SASL_MECHANISM."""
    offered = mechanisms(users, tls, loopback)
    if users is None or mechanism not in offered:
        what = (
            f"this connection has {', '.join(offered)}" if offered else "there are no users here: connect without SASL"
        )
        raise TopicsError(Code.UNSUPPORTED_SASL_MECHANISM, what)
    return Plain(users) if mechanism == "PLAIN" else Scram(users, mechanism)


class Plain(Exchange):
    """Name and password in one message. As in Kafka's PlainSaslServer the answer is empty."""

    def __init__(self, users: Users) -> None:
        super().__init__()
        self._users = users

    def _first(self, text: str) -> Answer:
        parts = text.split("\0")
        if len(parts) != 3 or not parts[1] or not parts[2]:
            raise failed("a message of PLAIN has a name, a password, and a NUL before each")
        other, name, password = parts
        same_name(name, other)
        if not self._users.verifier(name).accepts(password.encode()):
            raise failed(WRONG)
        return b"", name
