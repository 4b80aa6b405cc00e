"""Rights by principal."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ConfigError
from aggregator.topics.access.acl import Operation, Rights, problems

USERS = ("alice", "reader", "operator", "bob")
PAGE = {
    "alice": "read:plant.*, write:plant.*, create:plant.*",
    "reader": "read:plant.line1.temp, group:dashboard-*",
    "operator": "admin",
    "*": "read:public.*",
}


@pytest.mark.parametrize(
    ("principal", "operation", "name", "allowed"),
    [
        ("alice", "read", "plant.line1", True),
        ("alice", "read", "plant.", True),
        ("alice", "read", "plant", False),
        ("alice", "read", "other.plant.x", False),
        ("alice", "write", "plant.line1", True),
        ("alice", "create", "plant.line1", True),
        ("alice", "admin", "plant.line1", False),
        ("alice", "read", "public.x", True),
        ("alice", "write", "public.x", False),
        ("reader", "read", "plant.line1.temp", True),
        ("reader", "read", "plant.line1.temp2", False),
        ("reader", "write", "plant.line1.temp", False),
        ("bob", "read", "public.x", True),
        ("bob", "read", "plant.x", False),
        ("anonymous", "read", "public.x", False),
    ],
)
def test_names_and_prefixes(principal: str, operation: Operation, name: str, allowed: bool) -> None:
    """A name is itself, a prefix what begins so; rights of * add to one's own, but not for who isn't let in."""
    assert Rights(PAGE, USERS).may(principal, operation, name) is allowed


@pytest.mark.parametrize(
    ("principal", "group", "allowed"),
    [("reader", "dashboard-1", True), ("reader", "etl", False), ("alice", "etl", True), ("operator", "etl", True)],
)
def test_groups(principal: str, group: str, allowed: bool) -> None:
    """Any read allows every group, unless there is a right to groups."""
    assert Rights(PAGE, USERS).may(principal, "group", group) is allowed


def test_without_read_there_is_no_group() -> None:
    """Who only writes has no group; who has a right to a group needs no topic for it."""
    rights = Rights({"alice": "write:x", "bob": "group:g"}, USERS)
    assert not rights.may("alice", "group", "g")
    assert rights.may("bob", "group", "g") and not rights.may("bob", "group", "h")


def test_transactions_need_a_write() -> None:
    """Any write allows every transactional id, unless there is a right to transactional ids."""
    rights = Rights(PAGE, USERS)
    assert [user for user in USERS if rights.may(user, "transaction", "t-1")] == ["alice", "operator"]
    rights = Rights({"alice": "write:x, transaction:a-*", "bob": "transaction:b"}, USERS)
    assert rights.may("alice", "transaction", "a-1") and not rights.may("alice", "transaction", "b")
    assert rights.may("bob", "transaction", "b") and not rights.may("bob", "transaction", "a-1")


def test_idempotent_producers_need_a_write() -> None:
    """Without a transactional id it is any write that counts, whatever ids are given."""
    rights = Rights({"alice": "write:x, transaction:a-*", "bob": "transaction:b"}, USERS)
    assert rights.may("alice", "transaction") and not rights.may("bob", "transaction")


def test_a_topic_shows_to_who_has_a_right_to_it() -> None:
    """describe follows from read, write and create of that topic, and from nothing else."""
    rights = Rights({"alice": "write:a", "bob": "read:a, group:b", "reader": "create:b*"}, USERS)
    assert [user for user in USERS if rights.may(user, "describe", "a")] == ["alice", "bob"]
    assert [user for user in USERS if rights.may(user, "describe", "b")] == ["reader"]


@given(st.sampled_from(get_args(Operation)), st.text(max_size=5))
def test_an_admin_may_everything(operation: Operation, name: str) -> None:
    """Every operation, on every name."""
    assert Rights(PAGE, USERS).may("operator", operation, name)


@given(st.sampled_from(get_args(Operation)), st.text(max_size=5))
def test_without_acl_whoever_is_let_in_may_everything(operation: Operation, name: str) -> None:
    """Without users that is anonymous; with users it is they, and not anonymous."""
    assert Rights({}).may("anonymous", operation, name)
    assert Rights({}, USERS).may("bob", operation, name)
    assert not Rights({}, USERS).may("anonymous", operation, name)


@pytest.mark.parametrize(
    ("acl", "users", "let_in", "reads"),
    [
        ({}, (), True, True),
        ({}, USERS, False, False),
        ({"*": "read:x"}, (), True, True),
        ({"*": "read:x"}, USERS, False, False),
        ({"anonymous": "read:x"}, USERS, True, True),
        ({"*": "read:x", "anonymous": "write:y"}, USERS, True, True),
        ({"anonymous": "read:y"}, (), True, False),
        ({"bob": "read:x"}, USERS, False, False),
    ],
)
def test_who_comes_without_sasl(acl: dict[str, str], users: tuple[str, ...], let_in: bool, reads: bool) -> None:
    """anonymous is let in where there are no users or where it is named, and then has the rights of *, too."""
    rights = Rights(acl, users)
    assert (rights.lets_anonymous_in, rights.may("anonymous", "read", "x")) == (let_in, reads)


def test_a_user_with_no_rights_has_none() -> None:
    """With any acl, nothing is allowed but what is given."""
    rights = Rights({"alice": "admin"}, USERS)
    assert not any(rights.may("bob", operation, "x") for operation in get_args(Operation))


@pytest.mark.parametrize(
    "text",
    ["", " , ", "read", "read:", "reed:x", "READ:x", "read:*x", "read:a*b", "read:a/b", "read:**", "admin:x", "group:",
     "group:a*b", "transaction:", "transaction:a*b", "describe:x", "read:x write:x", "x"],
)  # fmt: skip
def test_a_wrong_right_is_named(text: str) -> None:
    """The error has the key, the word that is wrong, and what the key takes; one for each key."""
    key, says = problems({"bob": "read:x", "alice": f"read:y, {text}" if text.strip(" ,") else text})[0]
    assert key == "acl.alice" and "it takes read:TOPIC, write:TOPIC" in says
    assert repr(text) in says or "is empty" in says
    with pytest.raises(ConfigError, match=r"^acl\.alice: .* and admin, .*; acl\.bob: "):
        Rights({"alice": "nothing", "bob": "nothing"}, USERS)


def test_a_principal_that_is_no_user() -> None:
    """Where the users are known, a name that isn't one of them is an error: nobody would have that right."""
    acl = {"alcie": "read:x", "*": "read:y", "anonymous": "read:z"}
    assert problems(acl) == []
    assert problems(acl, USERS) == [("acl.alcie", "is no user of the users file, nor * or anonymous")]
    with pytest.raises(ConfigError, match=r"acl\.alcie"):
        Rights(acl)
