"""`headrace-aggregator audit`: what has become of every number that was received, at each destination."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from agent import logs
from agent.config.flow import Flow, judge
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
    flows = []
    for file in given.files:
        try:
            content = Path(file).read_bytes()
        except OSError as error:
            raise ConfigError(f"{file}: the configuration can't be read: {error.strerror}") from None
        flows += [(file, flow) for flow in _of_file(program, file, content, given.names, system)]
    names = [flow.agent for _, flow in flows]
    return [(flow.agent if names.count(flow.agent) == 1 else f"{flow.agent} of {file}", flow) for file, flow in flows]


def _of_file(program: Program, file: str, content: bytes, names: Sequence[str], system: dict[str, str]) -> list[Flow]:
    """The named agents of a file, else the only one."""
    found, refused = [], None
    for name in names or (None,):
        try:
            found.append(judge([(file, content)], name, system=system, packages=program.packages))
        except ConfigError as error:
            refused = error
    if refused and not found:
        raise refused
    return found


class Progress:
    """One line that is written over, where somebody looks."""

    def __init__(self, shown: bool) -> None:
        self.shown = shown

    def say(self, text: str) -> None:
        if self.shown:
            print(f"\r\033[K{text[:110]}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        self.say("")
