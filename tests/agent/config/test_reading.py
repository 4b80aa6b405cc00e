"""Raw keys to typed values: units, bounds, prefixes, secrets, and everything that is wrong at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.config.reading import read
from tests.agent.config.parts import Broken, EveryKind


def every(**given: Any) -> EveryKind:
    return EveryKind(**{"port": 1, **given})


def value(name: str, text: str) -> Any:
    """The field `name` after reading the key that belongs to it."""
    keys = {"tls": "ssl"}
    reading = read(EveryKind, {"port": "1", keys.get(name, name): text}, "every")
    assert reading.config is not None, reading.faults
    return getattr(reading.config, name)


def faults(raw: dict[str, str]) -> list[str]:
    """`key: text` of what is wrong."""
    return [f"{fault.key}: {fault.text}" for fault in read(EveryKind, {"port": "1", **raw}, "every").faults]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("port", "65535", 65535),
        ("ratio", "0.25", 0.25),
        ("wait", "1500", 1.5),
        ("wait", "250ms", 0.25),
        ("wait", "1m", 60.0),
        ("wait", "1.5 s", 1.5),
        ("room", "10", 10),
        ("room", "64MiB", 64 << 20),
        ("room", "64kB", 64000),
        ("room", "1.5KiB", 1536),
        ("tls", "TRUE", True),
        ("mode", "normal", "NORMAL"),
        ("folder", "~/x", Path.home() / "x"),
        ("names", "a  b\tc", ["a", "b", "c"]),
        ("dirs", "a b, c ,,d", ["a b", "c", "d"]),
        ("ports", "1 2", [1, 2]),
        ("password", "secret", "secret"),
    ],
)
def test_each_type_is_read_in_its_unit(name: str, text: str, expected: Any) -> None:
    """A bare number counts in the key's unit, a suffix says another; lists, choices and paths are what they say."""
    assert value(name, text) == expected


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"port": "0"}, "port: takes a whole number from 1 to 65535 (required), not '0'"),
        ({"port": "1.5"}, "port: takes a whole number from 1 to 65535 (required), not '1.5'"),
        ({"port": "9" * 5000}, f"port: takes a whole number from 1 to 65535 (required), not '{'9' * 80}'..."),
        ({"ratio": "2"}, "ratio: takes a number from 0 to 1 (default 0.5), not '2'"),
        ({"ratio": "nan"}, "ratio: takes a number from 0 to 1 (default 0.5), not 'nan'"),
        ({"wait": "5 days"},
         "wait: takes a duration such as 500ms or 2m up to 1m; a bare number counts in ms (default 3s), not '5 days'"),
        ({"room": "-1"},
         "room: takes a size such as 64MiB or 10kB; a bare number counts in B (default 1MiB), not '-1'"),
        ({"room": "64M"},
         "room: takes a size such as 64MiB or 10kB; a bare number counts in B (default 1MiB), not '64M'"),
        ({"ssl": "yes"}, "ssl: takes true or false (default false), not 'yes'"),
        ({"mode": "HALF"}, "mode: takes FULL or NORMAL (default FULL), not 'HALF'"),
        ({"ports": "1 x"},
         "ports: takes a list separated by blanks, each a whole number from 1 to 65535 (no default), not '1 x'"),
        ({"limit.a": "x"}, "limit.a: takes a whole number of at least 0 (no default), not 'x'"),
        ({"prot": "1"},
         "prot: every has no such key; the nearest is port, which takes a whole number from 1 to 65535 (required): "
         "port to listen on"),
        ({"nick": "a", "nickname": "b"}, "nickname: is another spelling of nick, which is given too: remove one"),
        ({"codec": "lzo"}, "codec: is refused: lzo isn't free: use gzip"),
    ],
)  # fmt: skip
def test_each_fault_says_what_the_key_takes(raw: dict[str, str], message: str) -> None:
    """The message names the key, what it takes, its default, and what stood there."""
    assert faults(raw) == [message]


def test_every_fault_is_found_at_once() -> None:
    """A missing key, a wrong value and an unknown key come together."""
    reading = read(EveryKind, {"ratio": "x", "zzz": "1"}, "every")
    assert reading.config is None
    assert [fault.key for fault in reading.faults] == ["port", "ratio", "zzz"]
    assert reading.faults[0].text == "is missing; it takes a whole number from 1 to 65535: port to listen on"


def test_an_unknown_key_without_a_near_one_is_told_the_keys() -> None:
    """When nothing is near the message lists what there is."""
    assert faults({"zzz": "1"})[0].startswith("zzz: every has no such key; it has port, ratio, wait,")


def test_a_prefix_collects_every_key_below_it() -> None:
    """`name.*` gives a table of what follows the prefix, dots included."""
    reading = read(EveryKind, {"port": "1", "kafka.producer.a.b": "1", "kafka.producer.acks": "all"}, "every")
    assert reading.config is not None and reading.config.producer == {"a.b": "1", "acks": "all"}


def test_an_old_spelling_is_the_same_key() -> None:
    """`also` names are read into the same field."""
    assert read(EveryKind, {"port": "1", "nick-name": "x"}, "every").config == every(nick="x")


def test_keys_without_effect_are_named_once_each() -> None:
    """What Flume knows and has no meaning here is a note, by name or prefix; the rest is read."""
    reading = read(EveryKind, {"port": "1", "threads": "4", "old.a": "x"}, "every")
    assert reading.config == every()
    assert reading.notes == [("threads", "has no effect: there is one loop"), ("old.a", "has no effect: it is gone")]


def test_lenient_reads_a_boolean_as_flume_does() -> None:
    """Boolean.parseBoolean: whatever isn't `true` is false; a note says so."""
    reading = read(EveryKind, {"port": "1", "ssl": "yes"}, "every", lenient=True)
    assert reading.config == every() and reading.notes[0][0] == "ssl"


def test_keys_that_don_t_go_together_are_said_by_the_config() -> None:
    """`Config.problems` is asked when each key alone is right."""
    reading = read(Broken.Config, {"channel": "c", "low": "5", "high": "3"}, "broken")
    assert reading.config is None and [tuple(f[:2]) for f in reading.faults] == [("high", "is below low")]


def test_a_secret_comes_from_a_file_and_never_prints(tmp_path: Path) -> None:
    """`file:/path` gives the stripped content; neither the config nor a message shows it."""
    (tmp_path / "pw").write_text("s3cret\n")
    reading = read(EveryKind, {"port": "1", "password": f"file:{tmp_path}/pw"}, "every")
    assert reading.config is not None and reading.config.password == "s3cret"
    assert "s3cret" not in repr(reading)


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), (b"", "1 to 65,536"), (b"\xff", "UTF-8")])
def test_a_secret_that_can_t_be_read_names_the_file(tmp_path: Path, content: bytes | None, why: str) -> None:
    """A missing, empty or binary file is a fault that names it."""
    path = tmp_path / "pw"
    if content is not None:
        path.write_bytes(content)
    (fault,) = faults({"password": f"file:{path}"})
    assert fault.startswith(f"password: can't be read from {path}: ") and why in fault
