"""SaslHandshake and SaslAuthenticate: which mechanism, then its messages, until the session has a principal.

As in Kafka a failure is answered, and then the connection ends.
"""

from __future__ import annotations

import asyncio

from aggregator.topics.access import sasl
from aggregator.topics.access.acl import ANONYMOUS
from aggregator.topics.broker import Handler, Session
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.wire.api import Body, Request
from aggregator.topics.wire.tables.connection import SASL_AUTHENTICATE, SASL_HANDSHAKE


async def handshake(request: Request, session: Session) -> Body:
    """SaslHandshake 1: the client's messages come as SaslAuthenticate. In version 0 they would come bare."""
    users, tls, loopback = session.broker.users, session.tls, session.loopback
    offered = sasl.mechanisms(users, tls, loopback)
    if request.version < 1 or session.principal not in (None, ANONYMOUS):
        session.over = "SaslHandshake out of turn, or in version 0"
        return {"error_code": Code.ILLEGAL_SASL_STATE, "mechanisms": offered}
    try:
        session.exchange = sasl.exchange(request.body["mechanism"], users, tls, loopback)
    except TopicsError as error:
        return {"error_code": error.code, "mechanisms": offered}
    return {"error_code": Code.NONE, "mechanisms": offered}


async def authenticate(request: Request, session: Session) -> Body:
    """SaslAuthenticate: one message of the exchange. Hashing a password takes a thread's time, not the loop's; who
    guesses many at once gets no more of the machine."""
    exchange = session.exchange
    if exchange is None:
        session.over = "SaslHandshake comes first"
        return {"error_code": Code.ILLEGAL_SASL_STATE, "error_message": session.over}
    try:
        async with session.broker.hashing:
            answer, principal = await asyncio.to_thread(exchange.step, bytes(request.body["auth_bytes"]))
    except TopicsError as error:
        session.over, session.exchange = error.text, None
        return {"error_code": error.code, "error_message": error.text}
    if principal is not None:
        session.principal, session.exchange = principal, None
    return {"auth_bytes": answer}


HANDLERS: dict[int, Handler] = {SASL_HANDSHAKE.key: handshake, SASL_AUTHENTICATE.key: authenticate}
