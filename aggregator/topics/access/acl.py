"""What a principal may do, from the configuration.

    acl.alice     = read:plant.*, write:plant.*, create:plant.*
    acl.reader    = read:plant.line1.temp, group:dashboard-*
    acl.line1     = write:plant.line1.*, transaction:line1-*
    acl.operator  = admin
    acl.*         = read:public.*
    acl.anonymous = read:public.*

A right is an operation and a name, or the beginning of names with `*` at its end.

| right         | allows                                                                                       |
|---------------|----------------------------------------------------------------------------------------------|
| `read`        | fetch, offsets                                                                               |
| `write`       | produce; with any `write`, idempotent producers                                              |
| `create`      | create the topic, also by using it                                                           |
| `group`       | groups with this name; without any `group`, a principal with any `read` may use every group  |
| `transaction` | this transactional id; without any `transaction`, with any `write` every transactional id    |
| `admin`       | all of it on everything, and deletion, settings and partitions of topics, deletion of groups |

Any right to a topic shows it in lists; others aren't there for this principal.

- **Without any `acl` everything is allowed** to whoever is let in. With one, nothing is but what is given.
- `*` is everyone who is let in; its rights add to a principal's own.
- `anonymous` is whoever comes without SASL. It is let in where there are no users, or where `acl.anonymous` is given.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from agent.errors import ConfigError

ANONYMOUS = "anonymous"
"""The principal without SASL."""
Operation = Literal["read", "write", "create", "admin", "group", "transaction", "describe"]
"""The rights, and a question that follows from them: whether a topic is shown."""
OF_TOPICS = ("read", "write", "create")
FROM: dict[Operation, Operation] = {"group": "read", "transaction": "write"}
"""Who has no right of the first kind has it to every name with any of the second."""
TAKES = (
    "it takes read:TOPIC, write:TOPIC, create:TOPIC, group:GROUP, transaction:ID and admin, with commas; "
    "plant.* is all that begins so"
)
TOPIC = re.compile(r"[A-Za-z0-9._-]*\*?")


@dataclass(frozen=True, slots=True)
class Names:
    """The names that a right is for."""

    exact: frozenset[str]
    prefixes: tuple[str, ...]

    def __contains__(self, name: str) -> bool:
        return name in self.exact or name.startswith(self.prefixes)


class Rights:
    """Rights by principal. ConfigError names each `acl` key that is wrong, and what it takes."""

    def __init__(self, acl: Mapping[str, str], users: Collection[str] = ()) -> None:
        if found := problems(acl, users):
            raise ConfigError("; ".join(f"{key}: {text}" for key, text in found))
        everyone = acl.get("*", "")
        self._rights = {principal: _rights(f"{text},{everyone}") for principal, text in acl.items()}
        self._others = _rights(everyone) if acl else {"admin": _names(["*"])}
        self.lets_anonymous_in = not users or ANONYMOUS in acl

    def may(self, principal: str, operation: Operation, name: str = "") -> bool:
        """Whether `principal` may do `operation` to the topic (or group, or transactional id) `name`.

        A transaction without an id is an idempotent producer."""
        if principal == ANONYMOUS and not self.lets_anonymous_in:
            return False
        rights = self._rights.get(principal, self._others)
        if "admin" in rights:
            return True
        if operation in FROM and (operation not in rights or (operation == "transaction" and not name)):
            return FROM[operation] in rights
        asked = OF_TOPICS if operation == "describe" else (operation,)
        return any(name in rights[one] for one in asked if one in rights)


def problems(acl: Mapping[str, str], users: Collection[str] | None = None) -> list[tuple[str, str]]:
    """(key, what is wrong) of each `acl.PRINCIPAL`; without `users` any name may be a user's."""
    found = []
    for principal, text in acl.items():
        if users is not None and principal not in (*users, ANONYMOUS, "*"):
            found.append((f"acl.{principal}", "is no user of the users file, nor * or anonymous"))
        wrong = [word for word in _words(text) if not _right(word)]
        if wrong or not _words(text):
            found.append((f"acl.{principal}", f"{wrong[0]!r} is no right; {TAKES}" if wrong else f"is empty; {TAKES}"))
    return found


def _words(text: str) -> list[str]:
    return [word for word in (part.strip() for part in text.split(",")) if word]


def _right(word: str) -> bool:
    operation, _, name = word.partition(":")
    if operation in FROM:
        return bool(name) and "*" not in name[:-1]
    return word == "admin" or (operation in OF_TOPICS and bool(name) and bool(TOPIC.fullmatch(name)))


def _rights(text: str) -> dict[str, Names]:
    """Operation: the names it is allowed on."""
    given: dict[str, list[str]] = {}
    for word in _words(text):
        operation, _, name = word.partition(":")
        given.setdefault(operation, []).append(name or "*")
    return {operation: _names(names) for operation, names in given.items()}


def _names(given: list[str]) -> Names:
    exact = frozenset(name for name in given if not name.endswith("*"))
    return Names(exact, tuple(name[:-1] for name in given if name.endswith("*")))
