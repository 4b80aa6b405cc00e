"""Users, from a file that only the service reads.

    # one user a line; blank lines and lines that begin with # are skipped
    alice = SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWh...
    bob = a password as it is

**A verifier lets the service check a password and nobody learn it** (RFC 5802, 3; written as in RFC 5803 and in
PostgreSQL's `pg_authid`, from where one may be taken; `:` may be `$`). `verifier(password)` makes one. It serves PLAIN
and its own SCRAM mechanism; a name may have one of each mechanism, in two lines. A password in the open serves every
mechanism; it becomes verifiers while the file is read and isn't kept.

**Names can't be probed.** SCRAM tells anyone the salt of a name before a proof is asked for. A name that isn't there
gets a salt too, made of the name and a secret, with the iterations of one of the users, and fails where a wrong
password does.

As in Kafka, passwords are UTF-8 as they are, without SASLprep. A name holds no `=`; blanks around names and values
don't count (a password with blanks at its ends needs a verifier).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.config.fields import Secret
from agent.errors import ConfigError

MECHANISMS = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}
"""Mechanism: its hash. The first one is preferred where any will do."""
ITERATIONS = (4096, 1_000_000)
"""At least (RFC 7677, Kafka's ScramMechanism) and at most (kafka-python refuses more)."""
MAX_FILE = 1 << 20
"""Bytes of the users' file."""
RESERVED = ("anonymous", "*")
"""Principals of acl.py that are no users."""
FORM = "SCRAM-SHA-256$iterations:salt$stored-key:server-key (or SCRAM-SHA-512), keys and salt in Base64"


@dataclass(frozen=True, slots=True)
class Verifier:
    """What is kept of a password for one mechanism (RFC 5802, 3). Only name and cost of it print."""

    mechanism: str
    iterations: int
    salt: bytes = field(repr=False)
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def keys(self, password: bytes) -> tuple[bytes, bytes]:
        """StoredKey and ServerKey that `password` has with this salt: `iterations` hashes, 1 to 3 ms at 4096."""
        name = MECHANISMS[self.mechanism]
        salted = hashlib.pbkdf2_hmac(name, password, self.salt, self.iterations)
        client = hmac.digest(salted, b"Client Key", name)
        return hashlib.new(name, client).digest(), hmac.digest(salted, b"Server Key", name)

    def accepts(self, password: bytes) -> bool:
        """It is the password; compared in constant time."""
        return hmac.compare_digest(self.keys(password)[0], self.stored_key)


class Users:
    """Verifiers by name. `secret` makes the salts of names that aren't there: one that is kept keeps them, too."""

    def __init__(self, held: Mapping[tuple[str, str], Verifier], secret: bytes = b"") -> None:
        self._held = dict(held)
        self._secret = secret or secrets.token_bytes(32)
        self.names = frozenset(name for name, _ in self._held)
        self._all = list(self._held.values())
        self._like = {name: alike for name in MECHANISMS if (alike := [x for x in self._all if x.mechanism == name])}
        self.mechanisms = list(self._like)

    def __repr__(self) -> str:
        return f"<{len(self.names)} users>"

    def verifier(self, name: str, mechanism: str = "") -> Verifier:
        """The verifier of `name` for one of `mechanisms` (or any of them); one that nothing fits if there is none."""
        nobody = self._nobody(name, mechanism)  # always: that it isn't needed shall not show in the time taken
        found = (self._held.get((name, one)) for one in MECHANISMS if mechanism in ("", one))
        return next((one for one in found if one), nobody)

    def _nobody(self, name: str, mechanism: str) -> Verifier:
        """The mechanism is in it as well: a salt that is the same for both would tell."""
        like = self._like.get(mechanism, self._all)
        source = hashlib.shake_256(self._secret + f"{mechanism}\0{name}".encode())
        one = like[int.from_bytes(source.digest(8)) % len(like)]
        salt, size = len(one.salt), len(one.stored_key)
        made = source.digest(8 + salt + 2 * size)[8:]
        return Verifier(one.mechanism, one.iterations, made[:salt], made[salt:-size], made[-size:])


def verifier(password: str, mechanism: str = "SCRAM-SHA-256", iterations: int = ITERATIONS[0]) -> Secret:
    """The text that stands for a password in the users' file, with a new salt."""
    made = _made(password, mechanism, iterations)
    salt, stored, server = (base64.b64encode(one).decode() for one in (made.salt, made.stored_key, made.server_key))
    return Secret(f"{mechanism}${iterations}:{salt}${stored}:{server}")


def read(path: Path, secret: bytes = b"") -> Users:
    """The users of a file. ConfigError names the file and the line, and nothing that stands in it but a user's name."""
    held: dict[tuple[str, str], Verifier] = {}
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                for name, one in _user(line):
                    if held.setdefault((name, one.mechanism), one) is not one:
                        raise ConfigError(f"user {name} is there twice")
            except ConfigError as error:
                raise ConfigError(f"{path}:{number}: {error}") from None
    if not held:
        raise ConfigError(f"{path} names no user; a line is NAME = PASSWORD, or NAME = {FORM}")
    return Users(held, secret)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"users file {path} can't be read: {error.strerror}") from None
    if mode & 0o027:  # the group may read: root:service 0640 is what packages install
        raise ConfigError(f"users file {path} is open to others (mode {mode & 0o777:04o}): chmod 600 {path}")
    if len(data) > MAX_FILE:
        raise ConfigError(f"users file {path} has more than {MAX_FILE:,} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: it isn't UTF-8") from None


def _user(line: str) -> Iterator[tuple[str, Verifier]]:
    name, _, value = (part.strip() for part in line.partition("="))
    if not name or not value:
        raise ConfigError(f"a line is NAME = PASSWORD, or NAME = {FORM}")
    if name in RESERVED:
        raise ConfigError(f"{name} can't be a user: acl.{name} means others")
    if value.startswith("SCRAM-SHA-"):
        yield name, _parsed(value)
    else:
        yield from ((name, _made(value, mechanism, ITERATIONS[0])) for mechanism in MECHANISMS)


def _parsed(text: str) -> Verifier:
    mechanism, *parts = re.split("[$:]", text)
    try:
        iterations, salt, stored, server = (
            int(parts[0]),
            *(base64.b64decode(part, validate=True) for part in parts[1:]),
        )
        size = hashlib.new(MECHANISMS[mechanism]).digest_size
    except (ValueError, KeyError, IndexError):
        raise ConfigError(f"a verifier is {FORM}") from None
    if not ITERATIONS[0] <= iterations <= ITERATIONS[1]:
        raise ConfigError(f"a verifier has {ITERATIONS[0]:,} to {ITERATIONS[1]:,} iterations")
    if not salt or len(stored) != size or len(server) != size:
        raise ConfigError(f"a verifier is {FORM}; keys of {mechanism} have {size} bytes")
    return Verifier(mechanism, iterations, salt, stored, server)


def _made(password: str, mechanism: str, iterations: int) -> Verifier:
    bare = Verifier(mechanism, iterations, secrets.token_bytes(16), b"", b"")
    return Verifier(mechanism, iterations, bare.salt, *bare.keys(password.encode()))
