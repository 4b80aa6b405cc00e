"""The users' file."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from agent.errors import ConfigError
from aggregator.topics.access.users import MECHANISMS, Users, read, verifier

KEYS = "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
PENCIL = f"4096:W22ZaJ0SNY7soEsUEjb6gQ==${KEYS}"


def users_file(folder: Path, text: str | bytes, mode: int = 0o600) -> Path:
    """A file of users with a mode."""
    path = folder / "users"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def users(folder: Path, text: str, secret: bytes = b"") -> Users:
    """The users of a file with `text`."""
    return read(users_file(folder, text), secret)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_verifier_stands_for_its_password(tmp_path: Path, mechanism: str) -> None:
    """What verifier() makes accepts that password and no other, and each one has its own salt."""
    text = verifier("öl und = $", mechanism)
    found = users(tmp_path, f"alice = {text}\n").verifier("alice")
    assert found.accepts("öl und = $".encode()) and not found.accepts(b"other")
    assert found.mechanism == mechanism and verifier("öl und = $", mechanism) != text


@pytest.mark.parametrize("text", [f"SCRAM-SHA-256${PENCIL}", f"SCRAM-SHA-256${PENCIL.replace(':', '$')}"])
def test_verifiers_of_postgresql_are_taken(tmp_path: Path, text: str) -> None:
    """The published verifier of `pencil` (PostgreSQL, with the salt of RFC 7677) accepts it, with `:` and with `$`."""
    assert users(tmp_path, f"user={text}").verifier("user").accepts(b"pencil")


def test_a_password_in_the_open_serves_every_mechanism_and_is_not_kept(tmp_path: Path) -> None:
    """Blanks around it and a carriage return don't count, blanks and = within do."""
    found = users(tmp_path, "\ufeff# people\n\n  bob =  two words = one \r\n")
    assert found.names == {"bob"} and found.mechanisms == [*MECHANISMS]
    assert all(found.verifier("bob", mechanism).accepts(b"two words = one") for mechanism in MECHANISMS)
    assert "two words" not in repr(vars(found))


def test_a_user_may_have_a_verifier_of_each_mechanism(tmp_path: Path) -> None:
    """Two lines of one name, and only the mechanisms that somebody has are there."""
    lines = [f"alice = {verifier('a', mechanism)}\n" for mechanism in MECHANISMS]
    assert users(tmp_path, "".join(lines)).verifier("alice", "SCRAM-SHA-512").accepts(b"a")
    assert users(tmp_path, lines[1]).mechanisms == ["SCRAM-SHA-512"]


def test_a_name_that_is_not_there_looks_like_one_that_is(tmp_path: Path) -> None:
    """Cost and size of salt are a user's; its salt hangs on name, mechanism and secret."""
    text = "".join(f"alice = {verifier('a', mechanism, 5000)}\n" for mechanism in MECHANISMS)
    known, again, other = (users(tmp_path, text, secret) for secret in (b"1", b"1", b"2"))
    real, fake = known.verifier("alice", "SCRAM-SHA-512"), known.verifier("mallory", "SCRAM-SHA-512")
    assert (fake.mechanism, fake.iterations, len(fake.salt)) == (real.mechanism, real.iterations, len(real.salt))
    assert fake.salt == again.verifier("mallory", "SCRAM-SHA-512").salt
    salts = [
        fake.salt,
        other.verifier("mallory", "SCRAM-SHA-512").salt,
        known.verifier("mallory", "SCRAM-SHA-256").salt,
        known.verifier("trudy", "SCRAM-SHA-512").salt,
    ]
    assert len(set(salts)) == 4


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("hunter2", "NAME = PASSWORD"),
        ("= hunter2", "NAME = PASSWORD"),
        ("alice =", "NAME = PASSWORD"),
        ("anonymous = hunter2", "acl.anonymous means others"),
        ("* = hunter2", "acl.* means others"),
        ("bob = hunter2", "user bob is there twice"),
        ("x = SCRAM-SHA-1$4096:c2FsdA==$aHVudGVyMg==:aHVudGVyMg==", "or SCRAM-SHA-512"),
        ("x = SCRAM-SHA-256$4096:c2FsdA==$aHVudGVyMg==:aHVudGVyMg==", "have 32 bytes"),
        ("x = SCRAM-SHA-256$4096:hunter2", "in Base64"),
        ("x = SCRAM-SHA-256$4096", "in Base64"),
        ("x = SCRAM-SHA-256", "in Base64"),
        (f"x = SCRAM-SHA-256${PENCIL}$hunter2", "in Base64"),
        (f"x = SCRAM-SHA-256${PENCIL.replace('4096', '4095')}", "4,096 to 1,000,000 iterations"),
        (f"x = SCRAM-SHA-256${PENCIL.replace('4096', '1000001')}", "4,096 to 1,000,000 iterations"),
        (f"x = SCRAM-SHA-256${PENCIL.replace('4096', '9' * 5000)}", "in Base64"),
        (b"x = hunter2\xff", "isn't UTF-8"),
    ],
)
def test_a_wrong_line_is_named_and_not_shown(tmp_path: Path, line: str | bytes, says: str) -> None:
    """ConfigError names file and line and what it takes; the secret is neither in it nor in the traceback's text."""
    path = users_file(tmp_path, b"\nbob = b\n" + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(ConfigError, match=re.escape(f"{path}:3: ")) as caught:
        read(path)
    assert says in str(caught.value)
    shown = logging.Formatter().formatException((caught.type, caught.value, caught.tb))
    assert not any(secret in shown for secret in ("hunter2", "aHVudGVyMg", "W22Za", "WG5d8"))


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o601])
def test_a_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    """The error says what to type."""
    path = users_file(tmp_path, "alice = a\n", mode)
    with pytest.raises(ConfigError, match=re.escape(f"(mode {mode:04o}): chmod 600 {path}")):
        read(path)


def test_the_group_may_read(tmp_path: Path) -> None:
    """0640, as packages install what a service reads."""
    assert read(users_file(tmp_path, "alice = a\n", 0o640)).names == {"alice"}


@pytest.mark.parametrize("text", ["", "# nobody\n", "#" * (1 << 20) + "\n"])
def test_a_file_without_a_user_is_an_error(tmp_path: Path, text: str) -> None:
    """Nobody could come in; so is a file without end."""
    with pytest.raises(ConfigError, match=r"names no user|has more than"):
        read(users_file(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The error names it and why."""
    with pytest.raises(ConfigError, match=r"nowhere can't be read: No such file"):
        read(tmp_path / "nowhere")


def test_nothing_secret_prints(tmp_path: Path) -> None:
    """Neither Users nor a Verifier nor what verifier() returns shows salt or keys when it is printed for people."""
    found = users(tmp_path, f"user = SCRAM-SHA-256${PENCIL}\n")
    one = found.verifier("user")
    assert str(found) == "<1 users>" and repr(verifier("pencil")) == "'***'"
    assert str(one) == "Verifier(mechanism='SCRAM-SHA-256', iterations=4096)"
