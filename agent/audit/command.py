"""`headrace-aggregator audit`: what has become of every number that was received, at each destination."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from agent import logs
from agent.config.blocks import Text
from agent.config.flow import Flow, judge
from agent.config.problems import Report
from agent.config.reading import listed, nearest
from agent.errors import ConfigError
from agent.options import FATAL, OK, WRONG, Program

DESCRIPTION = """\
Tells for each origin (an opening of the store that kept a reading first) and each sink which numbers have arrived, were
left out on purpose, still wait, are missing, or can't be known. It asks the stores of the channels, through the agent
where one runs, and then the destinations themselves; nothing is changed and no agent is disturbed.
"""
EPILOG = """\
Several --conf-file are several agents: give those of every receiver that collectors send to, and the collectors' own
where they are at hand, so that what went elsewhere is known by its place.

exit codes: 0 nothing is missing; 1 something is; 2 wrong configuration or command line.
"""


def main(program: Program, arguments: Sequence[str]) -> int:
    """Run with these arguments; returns the exit code."""
    given = _parser(program).parse_args(list(arguments))
    logs.set_up(logs.level_of("ERROR"), "text")
    from agent.audit import asking, report

    try:
        flows = _flows(program, given)
        asking.check_stores(flows)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return WRONG
    progress = Progress(sys.stderr.isatty())
    try:
        verdicts = asking.audit(flows, progress.say)
    finally:
        progress.clear()
    found = report.plain(verdicts)
    print(json.dumps(found, indent=2) if given.json else "\n".join(report.lines(verdicts)))
    return FATAL if found["missing"] else OK


def _parser(program: Program) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{program.command} audit", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("-f", "--conf-file", metavar="FILE", action="append", required=True, dest="files",
        help="properties file of an agent; again for further agents")  # fmt: skip
    add("-n", "--name", metavar="AGENT", action="append", default=[], dest="names",
        help="the agents, where files hold more than one; again for further ones")  # fmt: skip
    add("-D", metavar="KEY=VALUE", action="append", default=[], dest="define", help="system property")
    add("--json", action="store_true", help="print JSON, with every range")
    return parser


def _flows(program: Program, given: argparse.Namespace) -> list[tuple[str, Flow]]:
    """(label, flow) of every agent; an agent's name, with its file where two have one name."""
    system = dict(item.partition("=")[::2] for item in given.define)
    contents = {file: _content(file) for file in dict.fromkeys(given.files)}
    held = {file: Text([(file, content)], system, Report([file])).agents() for file, content in contents.items()}
    names = dict.fromkeys(given.names)
    _check_names(names, held)
    flows = [
        (file, judge([(file, contents[file])], name, system=system, packages=program.packages))
        for file in contents
        for name in [name for name in names if name in held[file]] or [next(iter(names), None)]
    ]
    every = [flow.agent for _, flow in flows]
    return [(flow.agent if every.count(flow.agent) == 1 else f"{flow.agent} of {file}", flow) for file, flow in flows]


def _content(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: the configuration can't be read: {error.strerror}") from None


def _check_names(names: Iterable[str], held: Mapping[str, Sequence[str]]) -> None:
    """ConfigError for each name that no file has."""
    every = [agent for agents in held.values() for agent in agents]
    wrong = [name for name in names if name not in every]
    if wrong:
        close = {name: nearest(name, every) for name in wrong}
        hints = {name: f"the nearest is {close[name]}" if close[name] else listed(every, "there are") for name in wrong}
        raise ConfigError("\n".join(f"-n {name}: no file holds such an agent; {hints[name]}" for name in wrong))


class Progress:
    """One line that is written over, where somebody looks."""

    def __init__(self, shown: bool) -> None:
        self.shown = shown

    def say(self, text: str) -> None:
        if self.shown:
            print(f"\r\033[K{text[:110]}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        self.say("")
