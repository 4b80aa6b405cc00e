"""`headrace-aggregator topics`: the command line, before any server is asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent.errors import ConfigError
from aggregator.__main__ import AGGREGATOR
from aggregator.topics.commands import command
from aggregator.topics.commands.cluster import Cluster
from aggregator.topics.commands.reset import target
from tests.peers.harness import ROOT

COMMANDS = ("ls", "tail", "create", "delete", "groups", "reset-offsets", "migrate")
NOBODY = ("--server", "127.0.0.1:1")


def run(*arguments: str, without: str = "") -> subprocess.CompletedProcess[str]:
    """`python -m aggregator topics ...` in a fresh interpreter, `without` a library."""
    block = f"import sys; sys.modules[{without!r}] = None\n" if without else "import sys\n"
    code = f"{block}from aggregator.__main__ import main\nsys.argv[1:] = {['topics', *arguments]!r}\nsys.exit(main())"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_names_every_command() -> None:
    """Without a Kafka client being installed."""
    done = run("--help", without="confluent_kafka")
    assert done.returncode == 0 and all(f"    {word}" in done.stdout for word in COMMANDS)


@pytest.mark.parametrize("word", COMMANDS)
def test_help_of_each_command(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Names the options that all of them have."""
    with pytest.raises(SystemExit) as ended:
        command.main(AGGREGATOR, [word, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and "--server HOST:PORT" in shown and "127.0.0.1:9092" in shown


def test_a_missing_client_is_named() -> None:
    """With what installs it, and exit code 2."""
    done = run("ls", without="confluent_kafka")
    assert (done.returncode, done.stderr) == (
        2,
        "topics needs the package confluent-kafka: pip install 'headrace[kafka]'\n",
    )


@pytest.mark.parametrize(
    "line",
    [[], ["nonsense"], ["tail"], ["create", "t", "-p", "0"], ["create", "t", "-p", "x"], ["reset-offsets", "g"],
     ["migrate"]],
    ids=" ".join,
)  # fmt: skip
def test_a_wrong_line_ends_with_2(line: list[str]) -> None:
    """Before anybody is asked."""
    with pytest.raises(SystemExit) as ended:
        command.main(AGGREGATOR, line)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["create", "t", "-c", "retention.ms", *NOBODY], "-c retention.ms: it takes KEY=VALUE"),
        (["reset-offsets", "g", "--to", "noon", *NOBODY], "--to noon: it takes earliest, latest, an offset or a time"),
        (["migrate", "--to", "x:1", "--topics", "(", *NOBODY], "--topics (: it is no regular expression"),
        (["ls", "--config", "nowhere.properties"], "nowhere.properties: the settings can't be read: No such file"),
    ],
    ids=["setting", "to", "regex", "file"],
)
def test_a_wrong_value_ends_with_2(line: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And is said in one line."""
    assert command.main(AGGREGATOR, line) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(words) and shown.count("\n") == 1


def test_nobody_there_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    """With the address."""
    assert command.main(AGGREGATOR, ["ls", *NOBODY]) == 1
    assert capsys.readouterr().err.startswith("127.0.0.1:1: it can't be reached")


def test_a_client_file_names_the_server(tmp_path: Path) -> None:
    """Unless the command line does; what is a group's or is not known to Java's clients is passed on or left out."""
    file = tmp_path / "client.properties"
    file.write_text("bootstrap.servers=k1:9092\ngroup.id=x\nsecurity.protocol=SASL_SSL\n")
    found = Cluster.named(None, str(file))
    assert (found.servers, found.given) == ("k1:9092", {"security.protocol": "SASL_SSL"})
    assert Cluster.named("k2:9092", str(file)).servers == "k2:9092"
    assert Cluster.named(None, None).servers == "127.0.0.1:9092"


def test_a_wrong_setting_is_named_with_its_file(tmp_path: Path) -> None:
    """As the rest of the program names it."""
    file = tmp_path / "client.properties"
    file.write_text("sasl.mechanism=KERBEROS_5\n")
    with pytest.raises(ConfigError, match=rf"^{file}: sasl.mechanism: KERBEROS_5 needs a library"):
        Cluster.named(None, str(file))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("earliest", "earliest"),
        ("latest", "latest"),
        ("0", 0),
        ("4711", 4711),
        ("2025-11-27T06:00", (1_764_223_200_000,)),
    ],
)
def test_where_a_group_may_go(text: str, meant: object) -> None:
    """A word, an offset, or a time."""
    assert target(text) == meant
