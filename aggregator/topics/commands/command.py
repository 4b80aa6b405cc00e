"""`headrace-aggregator topics`: the command line. `--help` needs no Kafka client; everything else does."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

from agent import logs
from agent.errors import AgentError, ConfigError
from agent.options import FATAL, OK, WRONG, Program
from aggregator.topics.commands import SERVER

DESCRIPTION = """\
Looks at topics and consumer groups and changes them, in the topics service of an aggregator or in a Kafka cluster.
"""
EPILOG = """\
examples:
  {0} ls
  {0} tail readings -f
  {0} create orders -p 3 -c retention.ms=-1
  {0} reset-offsets dashboards --to 2026-11-27T06:00
  {0} migrate --to kafka1:9092 --follow

exit codes: 0 done; 1 the server refused, can't be reached, or what was compared differs; 2 wrong command line or
settings. {0} COMMAND --help tells more.
"""
MIGRATE = """\
Copies topics with keys, headers, times and partitions to another cluster and translates what its consumer groups have
committed, so that a group goes on there exactly where it stopped here. It may be killed and run again: nothing is lost
or copied twice. What was copied is remembered at the target, in the topic headrace-migrate-CLUSTER.

Topics that the target lacks are created with the same partitions and settings. At the end the records of both sides are
read and compared. --follow copies on until Ctrl-C, then does a last pass: the move is

  1. start it with --follow and wait until little is left
  2. stop the producers and consumers of the old cluster, then press Ctrl-C
  3. when it says so, start them with the new address
"""


def main(program: Program, arguments: Sequence[str]) -> int:
    """Run with these arguments; returns the exit code."""
    given = _parser(program).parse_args(list(arguments))
    logs.set_up(logs.level_of("ERROR"), "text")
    try:
        code = _loaded(given.command)(given)
        sys.stdout.flush()
        return code
    except AgentError as error:
        print(error, file=sys.stderr)
        return WRONG if isinstance(error, ConfigError) else FATAL
    except KeyboardInterrupt:
        return FATAL
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _loaded(command: str) -> Callable[[argparse.Namespace], int]:
    """What runs a command. ConfigError if the Kafka client isn't installed."""
    try:
        from aggregator.topics.commands import groups, ls, manage, reset, tail
        from aggregator.topics.commands.migrate import move
    except ModuleNotFoundError as error:
        if error.name != "confluent_kafka":
            raise
        raise ConfigError("topics needs the package confluent-kafka: pip install 'headrace[kafka]'") from None
    return {
        "ls": ls.run,
        "tail": tail.run,
        "create": manage.create,
        "delete": manage.delete,
        "groups": groups.run,
        "reset-offsets": reset.run,
        "migrate": move.run,
    }[command]


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _parser(program: Program) -> argparse.ArgumentParser:
    name = f"{program.command} topics"
    parser = argparse.ArgumentParser(
        prog=name, description=DESCRIPTION, epilog=EPILOG.format(name), allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _reading(commands)
    _changing(commands)
    _migrating(commands)
    return parser


def _command(commands: Commands, word: str, text: str, description: str = "") -> Callable[..., object]:
    """`add_argument` of a new command that has the options of all of them."""
    parser = commands.add_parser(
        word, help=text, description=description or f"{text[0].upper()}{text[1:]}.", allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add: Callable[..., object] = parser.add_argument
    add("--server", metavar="HOST:PORT", help=f"where the topics are (default {SERVER})")
    add("--config", metavar="FILE", help="settings of a Kafka client, as Java's tools take them: security.protocol, "
        "sasl.mechanism, sasl.jaas.config, ssl.truststore.location ...")  # fmt: skip
    return add


def _reading(commands: Commands) -> None:
    _command(commands, "ls", "list topics with partitions, records, bytes and times")
    add = _command(commands, "tail", "print a topic's last records: key, time, value")
    add("topic", metavar="TOPIC")
    add("-n", type=_count, metavar="N", dest="count", help="so many records (default 10; with --group all there are)")
    add("-f", "--follow", action="store_true", help="go on as records come, until Ctrl-C")
    add("--group", help="read as a member of this consumer group, from where it is, and commit what was printed")
    add = _command(commands, "groups", "list consumer groups with state, members and lag; of one, each partition")
    add("group", metavar="NAME", nargs="?")


def _changing(commands: Commands) -> None:
    add = _command(commands, "create", "create a topic")
    add("topic", metavar="NAME")
    add("-p", "--partitions", type=_count, metavar="N", default=-1, help="default: as the server has it")
    add("-c", "--set", metavar="KEY=VALUE", action="append", default=[], dest="settings",
        help="a setting by Kafka's name, such as retention.ms=-1; again for more")  # fmt: skip
    add("--replication-factor", type=_count, metavar="N", default=-1, help="default: as the server has it")
    add = _command(commands, "delete", "delete a topic and all that is in it")
    add("topic", metavar="NAME")
    add("--yes", action="store_true", help="don't ask")
    add = _command(commands, "reset-offsets", "move a consumer group that has no members; without --execute only show")
    add("group", metavar="GROUP")
    add(
        "--topic", metavar="TOPIC", help="only there, in all its partitions (default: wherever the group has an offset)"
    )
    add("--to", required=True, metavar="earliest|latest|OFFSET|TIME",
        help="TIME is ISO 8601, UTC unless it says otherwise: 2026-11-27T06:00, 2026-11-27T07:00+01:00")  # fmt: skip
    add("--execute", action="store_true", help="do it")


def _migrating(commands: Commands) -> None:
    add = _command(commands, "migrate", "copy topics and groups' offsets to another cluster", MIGRATE)
    add("--to", required=True, metavar="HOST:PORT", help="the cluster that they go to")
    add(
        "--to-config", metavar="FILE", help="as --config, for that cluster; also a producer's, such as compression.type"
    )
    add("--topics", metavar="RE", default=".*", help="those whose whole name matches (default: all)")
    add("--groups", metavar="RE", default=".*", help="those whose whole name matches (default: all)")
    add("--replication-factor", type=_count, metavar="N", default=-1,
        help="of topics that are created (default: as that cluster has it)")  # fmt: skip
    add("--follow", action="store_true", help="copy on until Ctrl-C, then do a last pass")
    add("--no-check", action="store_false", dest="check", help="don't read everything again to compare it")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 31):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)
