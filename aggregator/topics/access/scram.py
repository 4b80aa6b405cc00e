"""SCRAM, the server's side (RFC 5802, 7677; Kafka's ScramSaslServer), as a state machine of two steps.

    client                                              server
    n,,n=alice,r=CLIENTNONCE                         ->
                                                     <- r=CLIENTNONCE+SERVERNONCE,s=SALT,i=4096
    c=biws,r=CLIENTNONCE+SERVERNONCE,p=PROOF         ->
                                                     <- v=SIGNATURE

    AuthMessage = client-first without n,,  +  ,  +  server-first  +  ,  +  client-final without ,p=PROOF
    ClientKey   = PROOF xor HMAC(StoredKey, AuthMessage): it is the user if H(ClientKey) = StoredKey
    SIGNATURE   = HMAC(ServerKey, AuthMessage): tells the client that the service holds the verifier

No channel binding: `p=...` fails, `y` (the client could, and believes that we can't) is as good as `n`. Extensions
don't count, and so there are no delegation tokens. A name that isn't there fails in the second step, as a wrong proof
does.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from functools import partial

from aggregator.topics.access.exchange import WRONG, Answer, Exchange, failed, same_name
from aggregator.topics.access.users import MECHANISMS, Users, Verifier

NAME = r"(?:[^,=\0]|=2C|=3D)+"
FIRST = re.compile(
    rf"(?P<gs2>[ny],(?:a=(?P<other>{NAME}))?,)"
    rf"(?P<bare>n=(?P<name>{NAME}),r=(?P<nonce>[!-+\--~]+)(?:,[A-Za-z]+=[^,\0]+)*)"
)


class Scram(Exchange):
    """One client's exchange; `mechanism` is one of `users.mechanisms`."""

    def __init__(self, users: Users, mechanism: str) -> None:
        super().__init__()
        self._users, self._mechanism = users, mechanism

    def _first(self, text: str) -> Answer:
        found = FIRST.fullmatch(text)
        if not found:
            raise failed(f"that is no first message of {self._mechanism} without channel binding")
        name = _unescaped(found["name"])
        same_name(name, _unescaped(found["other"] or ""))
        verifier = self._users.verifier(name, self._mechanism)
        nonce = found["nonce"] + secrets.token_urlsafe(24)
        answer = f"r={nonce},s={_base64(verifier.salt)},i={verifier.iterations}"
        begin = [f"c={_base64(found['gs2'].encode())}", f"r={nonce}"]
        self._next = partial(_last, name, verifier, begin, f"{found['bare']},{answer}")
        return answer.encode(), None


def _last(name: str, verifier: Verifier, begin: list[str], before: str, text: str) -> Answer:
    """`begin` is what the message begins with, `before` the AuthMessage up to it."""
    without, _, proof = text.rpartition(",p=")
    if without.split(",")[:2] != begin:
        raise failed("the final message has another nonce or channel binding")
    message, hash_name = f"{before},{without}".encode(), MECHANISMS[verifier.mechanism]
    signature = hmac.digest(verifier.stored_key, message, hash_name)
    key = _xor(_decoded(proof), signature)
    if not hmac.compare_digest(hashlib.new(hash_name, key).digest(), verifier.stored_key):
        raise failed(WRONG)
    return f"v={_base64(hmac.digest(verifier.server_key, message, hash_name))}".encode(), name


def _unescaped(name: str) -> str:
    return name.replace("=2C", ",").replace("=3D", "=")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(proof: str) -> bytes:
    try:
        return base64.b64decode(proof, validate=True)
    except ValueError:
        raise failed("the proof isn't Base64") from None


def _xor(left: bytes, right: bytes) -> bytes:
    if len(left) != len(right):
        raise failed(WRONG)
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
