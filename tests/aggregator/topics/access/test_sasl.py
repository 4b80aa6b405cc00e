"""SASL as clients speak it: the RFC's messages, two clients from PyPI, and messages that nobody should send."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka.conn import ScramAuthenticator
from hypothesis import assume, example, given
from hypothesis import strategies as st
from kafka.net.sasl.scram import ScramClient

from aggregator.topics.access.exchange import MAX_MESSAGE, Exchange
from aggregator.topics.access.sasl import Plain, exchange, mechanisms
from aggregator.topics.access.scram import Scram
from aggregator.topics.access.users import MECHANISMS, Users, Verifier, verifier
from aggregator.topics.errors import Code, TopicsError
from tests.aggregator.topics.access.test_users import PENCIL, users

RFC_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
CLIENT = "rOprNGfwEbeRWgbNEkqO"
FIRST = f"n,,n=user,r={CLIENT}".encode()
BARE = Verifier("SCRAM-SHA-256", 4096, b"salt-of-16-bytes", b"", b"")
PEOPLE = Users({("user", BARE.mechanism): Verifier(BARE.mechanism, 4096, BARE.salt, *BARE.keys(b"pencil"))})
"""user with the password pencil, for examples by the hundred."""
Client = Callable[[str, str, str], Any]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Users:
    """user with the verifier of RFC 7677; two with passwords in the open, one of them with a comma in the name."""
    text = f"user = SCRAM-SHA-256${PENCIL}\nanna = höher\na,b = c\nlong = {verifier('x', 'SCRAM-SHA-512', 10_000)}\n"
    return users(tmp_path_factory.mktemp("users"), text)


def refused(one: Exchange, *messages: bytes) -> str:
    """The text of the failure that the last of the messages meets."""
    for message in messages[:-1]:
        assert one.step(message)[1] is None
    with pytest.raises(TopicsError) as caught:
        one.step(messages[-1])
    assert caught.value.code == Code.SASL_AUTHENTICATION_FAILED
    return caught.value.text


def proved(server_first: bytes, password: bytes, first: bytes = FIRST, binding: str = "biws", more: str = "") -> bytes:
    """A client's final message, reckoned as in RFC 5802, 3."""
    fields = dict(part.split("=", 1) for part in server_first.decode().split(","))
    without = f"c={binding},r={fields['r']}{more}"
    salted = hashlib.pbkdf2_hmac("sha256", password, base64.b64decode(fields["s"]), int(fields["i"]))
    key = hmac.digest(salted, b"Client Key", "sha256")
    bare = first.decode().split(",", 2)[2]
    message = f"{bare},{server_first.decode()},{without}".encode()
    signature = hmac.digest(hashlib.sha256(key).digest(), message, "sha256")
    proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
    return f"{without},p={base64.b64encode(proof).decode()}".encode()


def kafka_python(name: str, password: str, mechanism: str) -> Any:
    """Messages of kafka-python: a generator that is sent the server's."""
    client = ScramClient(name.replace("=", "=3D").replace(",", "=2C"), password, mechanism)
    client.process_server_first_message((yield client.first_message()))
    client.process_server_final_message((yield client.final_message()))


def aiokafka(name: str, password: str, mechanism: str) -> Any:
    """Messages of aiokafka."""
    client = ScramAuthenticator(
        loop=None, sasl_plain_password=password, sasl_plain_username=name, sasl_mechanism=mechanism
    )
    messages = client.authenticator_scram()
    message, _ = next(messages)
    message, _ = messages.send((yield message))
    with pytest.raises(StopIteration):
        messages.send((yield message))


def test_the_exchange_of_rfc_7677(people: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    """Section 3, message for message."""
    monkeypatch.setattr(secrets, "token_urlsafe", lambda size: RFC_NONCE)
    one = Scram(people, "SCRAM-SHA-256")
    first = f"r={CLIENT}{RFC_NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    assert one.step(b"n,,n=user,r=" + CLIENT.encode()) == (first.encode(), None)
    final = f"c=biws,r={CLIENT}{RFC_NONCE},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    assert one.step(final.encode()) == (b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", "user")


@pytest.mark.parametrize("client", [kafka_python, aiokafka])
@pytest.mark.parametrize(("name", "password"), [("anna", "höher"), ("a,b", "c")])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_clients_and_the_service_believe_each_other(
    people: Users, client: Client, name: str, password: str, mechanism: str
) -> None:
    """kafka-python and aiokafka get in with both mechanisms, and check the service's signature."""
    one, messages = Scram(people, mechanism), client(name, password, mechanism)
    answer, principal = one.step(next(messages))
    assert principal is None
    answer, principal = one.step(messages.send(answer))
    assert principal == name
    with pytest.raises(StopIteration):
        messages.send(answer)


@pytest.mark.parametrize("client", [kafka_python, aiokafka])
@pytest.mark.parametrize("name", ["anna", "nobody", "user"])
def test_a_wrong_password_and_an_unknown_name_end_alike(people: Users, client: Client, name: str) -> None:
    """Both are challenged, then refused with one text; a user of the other mechanism alone is unknown in this one."""
    one, messages = Scram(people, "SCRAM-SHA-512"), client(name, "pencil", "SCRAM-SHA-512")
    answer, _ = one.step(next(messages))
    assert refused(one, messages.send(answer)) == "authentication failed: wrong user name or password"


@pytest.mark.parametrize(
    ("first", "binding", "more"),
    [
        (f"y,,n=user,r={CLIENT}", "eSws", ""),
        (f"n,a=user,n=user,r={CLIENT}", "bixhPXVzZXIs", ""),
        (f"n,,n=user,r={CLIENT},tokenauth=false,x=y", "biws", ",x=ext,p=q"),
    ],
)
def test_what_else_a_client_may_say(first: str, binding: str, more: str) -> None:
    """It could bind channels and thinks that we can't; it names itself twice; it sends extensions."""
    one = Scram(PEOPLE, "SCRAM-SHA-256")
    answer, _ = one.step(first.encode())
    assert one.step(proved(answer, b"pencil", first.encode(), binding, more))[1] == "user"


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"n,,",
        b"n,,n=user",
        b"n,,n=user,r=",
        b"n,,n=,r=abc",
        b"n,,m=x,n=user,r=abc",
        b"n,,n=us=er,r=abc",
        b"n,,n=user=2,r=abc",
        b"n,,n=us\0er,r=abc",
        b"n,,n=user,r=a c",
        b"n,,n=user,r=abc,",
        b"n,,n=user,r=abc\n",
        b"p=tls-unique,,n=user,r=abc",
        b"n,a=admin,n=user,r=abc",
        b"n,,n=\xff,r=abc",
        b"\0user\0pencil",
        b"n,,n=user,r=" + b"r" * MAX_MESSAGE,
    ],
)
def test_a_first_message_that_is_none(message: bytes) -> None:
    """It is refused at once, and the exchange can't be taken up again."""
    one = Scram(PEOPLE, "SCRAM-SHA-256")
    refused(one, message)
    assert "over" in refused(one, FIRST)


def test_another_nonce_or_binding_is_refused() -> None:
    """The right proof for what was said, but it isn't what the first message said."""
    for binding, cut in (("eSws", 0), ("biws", 1)):
        one = Scram(PEOPLE, "SCRAM-SHA-256")
        answer, _ = one.step(FIRST)
        forged = answer[: answer.index(b",s=") - cut] + answer[answer.index(b",s=") :]
        assert "nonce or channel binding" in refused(one, proved(forged, b"pencil", binding=binding))


@given(st.data())
def test_no_message_cut_or_changed_gets_in(data: st.DataObject) -> None:
    """A final message without its end, or with one byte of another value, is refused with the one code there is."""
    one = Scram(PEOPLE, "SCRAM-SHA-256")
    answer, _ = one.step(FIRST)
    final = proved(answer, b"pencil")
    at = data.draw(st.integers(0, len(final) - 1))
    byte = data.draw(st.none() | st.integers(0, 255).filter(lambda value: value != final[at]))
    assume(byte is None or at != len(final) - 2)  # Base64 has two bits there that mean nothing
    refused(one, final[:at] + (b"" if byte is None else bytes([byte]) + final[at + 1 :]))


def test_a_proof_serves_once() -> None:
    """The same message after success is refused, and in another exchange too."""
    one, other = Scram(PEOPLE, "SCRAM-SHA-256"), Scram(PEOPLE, "SCRAM-SHA-256")
    answer, _ = one.step(FIRST)
    final = proved(answer, b"pencil")
    assert one.step(final)[1] == "user"
    assert "over" in refused(one, final)
    refused(other, FIRST, final)


hostile = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from(["n,", ",", "a=", "n=", "user", "r=", "abc", "=2C", "=", "\0", "c=biws", "p=", "v", "é"]))
    .map("".join)
    .map(str.encode),
)


@given(st.sampled_from(["PLAIN", "SCRAM-SHA-256"]), st.lists(hostile, max_size=3))
@example("SCRAM-SHA-256", [FIRST, b",p=" * 2000])
def test_hostile_messages_raise_nothing_else(mechanism: str, messages: list[bytes]) -> None:
    """Whatever comes, the answer is a challenge or TopicsError, and never a principal."""
    one = exchange(mechanism, PEOPLE, tls=True, loopback=False)
    for message in messages:
        try:
            assert one.step(memoryview(message))[1] is None
        except TopicsError as error:
            assert error.code == Code.SASL_AUTHENTICATION_FAILED


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (b"\0user\0pencil", "user"),
        (b"user\0user\0pencil", "user"),
        ("\0anna\0höher".encode(), "anna"),
        (b"\0long\0x", "long"),
        (b"\0a,b\0c", "a,b"),
    ],
)
def test_plain_takes_every_kind_of_user(people: Users, message: bytes, name: str) -> None:
    """Verifiers of either mechanism and passwords in the open; the answer is empty."""
    assert Plain(people).step(message) == (b"", name)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (b"\0user\0pencil2", "wrong user name or password"),
        (b"\0nobody\0pencil", "wrong user name or password"),
        (b"\0USER\0pencil", "wrong user name or password"),
        (b"anna\0user\0pencil", "act for another"),
        (b"\0user\0", "has a name"),
        (b"\0\0pencil", "has a name"),
        (b"user\0pencil", "has a name"),
        (b"\0user\0pencil\0", "has a name"),
        (b"", "has a name"),
        (b"\0user\0pencil\xff", "UTF-8"),
        (b"\0user\0" + b"x" * MAX_MESSAGE, "at most"),
    ],
)
def test_plain_refuses(people: Users, message: bytes, says: str) -> None:
    """Each with its own words, an unknown name with those of a wrong password."""
    assert says in refused(Plain(people), message)


def test_no_password_is_in_a_failure(people: Users) -> None:
    """Neither its text nor its traceback nor an exchange shows what the client sent."""
    for message in (b"\0user\0hunter2", b"\0user\0hunter2\xff", b"hunter2"):
        one = Plain(people)
        with pytest.raises(TopicsError) as caught:
            one.step(message)
        shown = logging.Formatter().formatException((caught.type, caught.value, caught.tb))
        assert "hunter2" not in shown + repr(one) + repr(caught.value)


@pytest.mark.parametrize(
    ("tls", "loopback", "plain"), [(True, False, True), (False, True, True), (True, True, True), (False, False, False)]
)
def test_plain_needs_a_wire_that_nobody_reads(people: Users, tls: bool, loopback: bool, plain: bool) -> None:
    """PLAIN with TLS or on loopback only, both SCRAMs always; what isn't offered can't be begun."""
    assert mechanisms(people, tls, loopback) == [*MECHANISMS, *(["PLAIN"] if plain else [])]
    assert isinstance(exchange("SCRAM-SHA-512", people, tls, loopback), Scram)
    if plain:
        assert isinstance(exchange("PLAIN", people, tls, loopback), Plain)
    else:
        with pytest.raises(TopicsError, match="this connection has SCRAM-SHA-256, SCRAM-SHA-512") as caught:
            exchange("PLAIN", people, tls, loopback)
        assert caught.value.code == Code.UNSUPPORTED_SASL_MECHANISM


@pytest.mark.parametrize("name", ["GSSAPI", "", "scram-sha-256", "SCRAM-SHA-512"])
def test_a_mechanism_that_nobody_has(name: str) -> None:
    """Unknown ones, and SCRAM-SHA-512 where all verifiers are of SCRAM-SHA-256; without users there is none at all."""
    for known in (PEOPLE, None):
        with pytest.raises(TopicsError) as caught:
            exchange(name, known, True, True)
        assert caught.value.code == Code.UNSUPPORTED_SASL_MECHANISM
