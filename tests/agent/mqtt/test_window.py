"""The redelivery window."""

from __future__ import annotations

import random
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.mqtt.session import Session
from agent.mqtt.window import ENTRY, MOST, SOON, Window, digest


def entry(number: int, payload: bytes = b"same") -> bytes:
    return number.to_bytes(2, "big") + digest(b"t", b"", payload)


def resumed(mark: bytes) -> Window:
    window = Window(mark)
    window.connected(session_present=True)
    return window


def test_a_stored_message_is_a_repeat_once() -> None:
    """Identifier and digest of a kept message are recognised after the break, each once."""
    window = resumed(Window().mark(entry(1) + entry(2)))
    assert window.repeated(b"\0\1", digest(b"t", b"", b"same"))
    assert not window.repeated(b"\0\1", digest(b"t", b"", b"same"))


def test_another_payload_is_no_repeat() -> None:
    """An identifier alone says nothing."""
    assert not resumed(entry(1)).repeated(b"\0\1", digest(b"t", b"", b"other"))


def test_another_identifier_is_no_repeat() -> None:
    """A sensor that always sends the same payload is not taken for a repeat."""
    assert not resumed(entry(1)).repeated(b"\0\2", digest(b"t", b"", b"same"))


def test_a_new_session_has_no_repeats() -> None:
    """Without session_present nothing comes again."""
    window = Window(entry(1))
    window.connected(session_present=False)
    assert not window.open and not window.repeated(b"\0\1", digest(b"t", b"", b"same"))


def test_the_first_new_message_closes_it() -> None:
    """After a message without DUP nothing is a repeat any more, nor is it in the next mark."""
    window = resumed(entry(1))
    window.close()
    assert not window.repeated(b"\0\1", digest(b"t", b"", b"same"))
    assert window.mark(entry(2)) == entry(2)


def test_an_answered_ping_lets_entries_go() -> None:
    """Once the broker has read PUBACKs, their messages can't come again and leave the mark."""
    window = Window()
    window.acknowledged(entry(1), ping=1)
    window.acknowledged(entry(2), ping=3)
    assert window.mark(entry(3)) == entry(1) + entry(2) + entry(3)
    window.answered(2)
    assert window.mark(b"") == entry(2)


def test_a_repeat_is_known_over_two_breaks() -> None:
    """A repeat that was acknowledged again just before the next break is still a repeat."""
    first = resumed(entry(1) + entry(2))
    assert first.repeated(b"\0\1", digest(b"t", b"", b"same"))
    first.acknowledged(entry(1), ping=1)
    first.connected(session_present=True)
    assert first.repeated(b"\0\1", digest(b"t", b"", b"same"))
    assert first.repeated(b"\0\2", digest(b"t", b"", b"same"))


def test_quick_reuse_switches_it_off() -> None:
    """A broker that gives an identifier again within SOON messages switches the window off, for good, in the mark."""
    window = Window()
    assert not window.reused([b"\0\1", b"\0\2"])
    assert window.reused([b"\0\1"])
    assert window.off and window.mark(entry(1)) == b""
    session = Session(3, ["a"], window)
    assert Session.read(session.mark(b"")["session"]).window.off


def test_late_reuse_is_no_quick_reuse() -> None:
    """Identifiers that go round through all 65,535 are fine."""
    window = Window()
    numbers = [number.to_bytes(2, "big") for number in range(1, 65_536)]
    assert not any(window.reused(numbers[at : at + 100]) for _ in range(2) for at in range(0, 65_500, 100))
    assert 2 * SOON < 65_535


def test_the_mark_is_bounded() -> None:
    """However many messages are unconfirmed, the mark holds the latest MOST."""
    window = Window()
    for number in range(1, 101):
        window.acknowledged(entry(number) * 100, ping=number)
    assert len(window.mark(entry(200))) == MOST * ENTRY


@given(st.lists(st.text(min_size=1).filter(lambda t: "\n" not in t), max_size=3), st.booleans())
def test_session_marks_come_back(filters: list[str], old: bool) -> None:
    """Version, filters and window survive a restart."""
    session = Session(3 if old else 5, filters)
    back = Session.read(session.mark(entry(5))["session"])
    assert (back.version, back.filters) == (session.version, filters)
    assert back.window.mark(b"") == entry(5)


def test_digest_tells_parts_apart() -> None:
    """Topic and payload don't flow into each other."""
    assert digest(b"a", b"", b"bc") != digest(b"ab", b"", b"c")


class Broker:
    """A broker's half of QoS 1: messages in flight as (identifier, payload, number, sent before)."""

    def __init__(self, window: int) -> None:
        self.window, self.number, self.identifier = window, 0, 0
        self.flying: deque[tuple[int, bytes, int, bool]] = deque()

    def sends(self, constant: bool) -> tuple[int, bytes, int, bool]:
        self.number += 1
        self.identifier = self.identifier % 60_000 + 1
        message = (self.identifier, b"same" if constant else b"%d" % self.number, self.number, False)
        self.flying.append(message)
        return message


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_walks_store_each_message_once(seed: int) -> None:
    """Random breaks, kills, lost PUBACKs and messages that were sent and never read: all stored, none twice."""
    dice = random.Random(seed)
    broker, stored, mark, window = Broker(10), [], b"", Window()
    inbox: list[tuple[int, bytes, int, bool]] = []
    acks: list[tuple[list[int], int]] = []
    pings = 0

    for _ in range(60):
        step = dice.choice("ssskkbar")
        if step == "s" and len(broker.flying) < broker.window:
            message = broker.sends(dice.random() < 0.7)
            if dice.random() < 0.8:
                inbox.append(message)
            else:
                step = "b"  # sent and never read
        if step == "k" and inbox:
            count = dice.randint(1, len(inbox))
            batch, inbox = inbox[:count], inbox[count:]
            entries = b""
            for identifier, payload, number, dup in batch:
                key = identifier.to_bytes(2, "big")
                repeat = False
                if window.open:
                    if not dup:
                        window.close()
                    else:
                        repeat = window.repeated(key, digest(b"t", b"", payload))
                if not repeat:
                    stored.append(number)
                entries += key + digest(b"t", b"", payload)
            mark = window.mark(entries)
            pings += 1
            acks.append(([message[0] for message in batch], pings))
            window.acknowledged(entries, pings)
        if step == "a" and acks:
            done, ping = acks.pop(0)
            broker.flying = deque(m for m in broker.flying if m[0] not in done)
            if dice.random() < 0.7:
                window.answered(ping)
        if step in "br":
            for done, _ping in acks[: dice.randint(0, len(acks))]:
                broker.flying = deque(m for m in broker.flying if m[0] not in done)
            acks, inbox, pings = [], [], 0
            if step == "r":
                window = Window(mark)
            window.connected(session_present=True)
            broker.flying = deque((i, p, n, True) for i, p, n, _ in broker.flying)
            inbox = list(broker.flying)
    assert len(stored) == len(set(stored)), seed
    left = {message[2] for message in broker.flying}
    assert set(stored) | left == set(range(1, broker.number + 1)), seed
