"""The command line's options, Flume's and ours: what they mean, and the flow that they ask for.

Flume 1.11's `flume-ng agent` lines are taken as they are. An option that would promise what isn't there is refused with
what to do instead; one that has no meaning without a JVM is accepted with one warning.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from agent import logs
from agent.errors import ConfigError
from agent.version import VERSION

if TYPE_CHECKING:
    from agent.config.flow import Flow, Spec

OK, FATAL, WRONG = 0, 1, 2
"""Exit codes: a clean end; the agent can't keep its promise (its store, a port); the configuration is wrong."""
POLL_SECONDS = 2.0
log = logging.getLogger("agent")


@dataclass(frozen=True)
class Program:
    """What differs between the two programs."""

    command: str
    package: str
    title: str
    next_step: str
    hints: tuple[str, ...] = ()
    """Command lines that read what the built-in configuration makes."""
    commands: Mapping[str, str] = field(default_factory=dict)
    """Words for a first argument that are commands of this program alone: the module whose `main` they call."""

    @property
    def packages(self) -> tuple[str, ...]:
        """Where types are looked for: its own package first, the shared one, then the other (by name only)."""
        return self.package, "agent", *({"edge", "aggregator"} - {self.package})

    def default(self) -> tuple[str, bytes]:
        """The configuration for a run without an argument."""
        path = Path(__file__).parent.parent / self.package / "default.conf"
        return f"{self.package}/default.conf", path.read_bytes()


REFUSED: dict[tuple[str, ...], str] = {
    ("--conf-uri", "-u"): "a configuration comes from files: fetch it first, then -f FILE",
    ("--zkConnString", "-z"): "a configuration from ZooKeeper isn't supported: write it to a file, then -f FILE",
    ("--zkBasePath", "-p"): "a configuration from ZooKeeper isn't supported: write it to a file, then -f FILE",
    ("--conf-provider", "-prov"): "configuration providers are Java classes: use -f FILE",
}
IGNORED: dict[tuple[str, ...], str] = {
    ("--classpath", "-C"): "there is no Java classpath; a component of your own is `type = package.module:Class`",
    ("--plugins-path",): "there are no Java plugins; a component of your own is `type = package.module:Class`",
    ("--auth-provider", "-a"): "it belongs to --conf-uri",
    ("--conf-user", "-user"): "it belongs to --conf-uri",
    ("--conf-password", "-pwd"): "it belongs to --conf-uri",
    ("--backup-directory", "-b"): "a bad new file never replaces the configuration that runs, so no backup is needed",
    ("-X",): "there is no JVM",
}
WORDS = {
    "avro-client": "send with mosquitto_pub, nc or an Avro client to a source of your file",
    "tool": "the command `headrace` looks at stores",
}
"""Commands of `flume-ng` that aren't here."""
EPILOG = """\
examples:
  {0}                                     run the built-in configuration
  {0} --write-config my.conf              write it, commented, to start from
  {0} -n a1 -f my.conf                    run agent a1 of a file (a Flume command line works as it is)
  {0} -f my.conf --check                  judge a file: every error with file and line
  {0} audit -f my.conf                    what arrived where, what is missing: {0} audit --help

  -Dflume.monitoring.type=http -Dflume.monitoring.port=P   Flume's metrics on port P (loopback; other addresses:
                                          -Dflume.monitoring.bind=ADDRESS)
  -Dflume.root.logger=LEVEL,console       log level
  -Dkey=value                             value of ${{sys:key}} in the files

signals: TERM, INT drain and end, a second one skips the drain; HUP reloads the files.
exit codes: 0 clean end; 1 the store or a port can't be had; 2 wrong configuration or command line.
"""


class _Refuse(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object,
                 option_string: str | None = None) -> NoReturn:  # fmt: skip
        parser.error(f"{option_string}: {self.metavar}")


class _Ignore(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object,
                 option_string: str | None = None) -> None:  # fmt: skip
        namespace.warnings = [*namespace.warnings, f"{option_string} is ignored: {self.metavar}"]


def _parser(program: Program) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program.command,
        description=f"Headrace, {program.title}.",
        epilog=EPILOG.format(program.command),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=f"%(prog)s [{' | '.join(['agent', 'audit', *program.commands, 'version', 'help'])}] [options]",
        allow_abbrev=False,
    )
    parser.set_defaults(warnings=[])
    add = parser.add_argument
    add("-n", "--name", metavar="AGENT", help="the agent to run; may be left out if the files hold one")
    add("-f", "--conf-file", metavar="FILE", action="append", default=[], dest="files",
        help="properties file; again for more, later ones replace keys of earlier ones")  # fmt: skip
    add("-c", "--conf", metavar="DIR", help="accepted for Flume's sake")
    add("-D", metavar="KEY=VALUE", action="append", default=[], dest="define", help="system property")
    add("--no-reload-conf", action="store_true", help="don't watch the files")
    add("-i", "--poll-interval", metavar="SECONDS", type=_seconds, default=POLL_SECONDS,
        help=f"how often the files are looked at (default {POLL_SECONDS:g}); two looks must agree")  # fmt: skip
    add("--check", action="store_true", help="judge the configuration and exit")
    add("--lenient", action="store_true", help="drop what is wrong with a warning and run the rest, as Flume does")
    add("--log-level", metavar="LEVEL", type=_level, help="debug, info (default), warn, error")
    add("--log-format", choices=logs.FORMATS, default="text", help="text (default) or json, on stderr")
    add("--write-config", metavar="FILE", help="write the configuration in use, commented, and exit; - prints it")
    add("-d", "--dryrun", action=_Refuse, nargs=0, metavar="use --check", help=argparse.SUPPRESS)
    for names, why in REFUSED.items():
        add(*names, action=_Refuse, metavar=why, help=argparse.SUPPRESS)
    for names, why in IGNORED.items():
        add(*names, action=_Ignore, dest="ignored", metavar=why, help=argparse.SUPPRESS)
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.05 <= seconds <= 86400:
        raise argparse.ArgumentTypeError("it takes 0.05 to 86400 seconds")
    return seconds


def _level(text: str) -> int:
    try:
        return logs.level_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


@dataclass
class Options:
    """The command line, read."""

    program: Program
    given: argparse.Namespace
    system: dict[str, str] = field(default_factory=dict)

    def read(self) -> list[tuple[str, bytes]]:
        """(path, content) of the files, or of the built-in configuration. ConfigError if one can't be read."""
        if not self.given.files:
            return [self.program.default()]
        try:
            return [(name, Path(name).read_bytes()) for name in self.given.files]
        except OSError as error:
            raise ConfigError(f"{error.filename}: the configuration can't be read: {error.strerror}") from None

    def say(self, line: str) -> None:
        """Tell the person at the terminal; with --log-format json it is a line of the log."""
        if self.given.log_format != "text":
            log.info("%s", line.strip())
            return
        try:
            print(line, flush=True)
        except OSError:
            pass  # the terminal is gone, the agent goes on

    def judge(self, files: Sequence[tuple[str, bytes]]) -> Flow:
        """The flow of these files. ConfigErrors with all that is wrong."""
        from agent.config.flow import judge

        given = self.given
        flow = judge(files, given.name, lenient=given.lenient, system=self.system, packages=self.program.packages)
        monitoring = _monitoring(self.system)
        if monitoring:
            _clash(flow, monitoring)
            flow.services[monitoring.name] = monitoring
        return flow


def parse(program: Program, arguments: Sequence[str]) -> Options:
    """Read the command line; argparse exits with 2, naming what is wrong."""
    words = list(arguments)
    if words[:1] in (["agent"], ["node"]):
        words.pop(0)
    parser = _parser(program)
    if words and words[0] in WORDS:
        parser.error(f"{words[0]} isn't here: {WORDS[words[0]]}")
    if words[:1] == ["help"]:
        parser.print_help()
        parser.exit()
    if words[:1] == ["version"]:
        print(f"Headrace {VERSION}\nPython {sys.version.split()[0]}, {sys.platform}")
        parser.exit()
    given = parser.parse_args(words)
    options = Options(program, given)
    for item in given.define:
        name, _, value = item.partition("=")
        options.system[name] = value
    if given.conf and Path(given.conf, "flume-env.sh").exists():
        given.warnings.append(f"{given.conf}/flume-env.sh is not read: there is no JVM to set up")
    if given.log_level is None:
        given.log_level = _root_logger(options.system.get("flume.root.logger", "INFO"), parser)
    return options


def _root_logger(text: str, parser: argparse.ArgumentParser) -> int:
    """`LEVEL[,appender ...]` of log4j; whatever the appender, logs go to stderr."""
    try:
        return logs.level_of(text.split(",")[0])
    except ValueError as error:
        parser.error(f"-Dflume.root.logger: {error}")


def _monitoring(system: dict[str, str]) -> Spec | None:
    """The metrics service that -Dflume.monitoring.* asks for. Flume listens on every address; this one on loopback."""
    kind = system.get("flume.monitoring.type")
    if kind is None:
        return None
    if kind.lower() != "http":
        raise ConfigError(f"-Dflume.monitoring.type={kind}: it takes http; other systems read that port's /metrics")
    from agent.config.flow import Spec
    from agent.services.metrics import MetricsConfig, MetricsService

    port, bind = system.get("flume.monitoring.port", "41414"), system.get("flume.monitoring.bind", "127.0.0.1")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ConfigError(f"-Dflume.monitoring.port={port}: it takes a port, 0 to 65535")
    config = MetricsConfig(bind=bind, port=int(port))
    raw = {"type": "metrics", "bind": bind, "port": port}
    return Spec("services", "flume-monitoring", "metrics", MetricsService, config, raw, "-Dflume.monitoring.port")


def listeners(flow: Flow) -> list[tuple[str, int, Spec]]:
    """(address, port, who) of every source and service that listens."""
    specs: list[Spec] = [*flow.sources.values(), *flow.services.values()]
    found = ((getattr(s.config, "bind", None), getattr(s.config, "port", None), s) for s in specs)
    return [(bind, port, s) for bind, port, s in found if isinstance(bind, str) and isinstance(port, int) and port]


def _clash(flow: Flow, monitoring: Spec) -> None:
    """ConfigErrors if a component of the files wants the port that the command line gives away."""
    from agent.config.flow import ConfigErrors, Problem

    port = getattr(monitoring.config, "port", 0)
    for _, taken, spec in listeners(flow):
        if taken == port:
            key = f"{flow.agent}.{spec.kind}.{spec.name}.port"
            raise ConfigErrors([Problem(spec.place, key, f"port {port} is taken by -Dflume.monitoring.port")])


def summary(flow: Flow) -> str:
    """`agent a1: 1 source, 2 channels, 1 sink`."""
    parts = []
    for kind in ("sources", "channels", "sinks", "services"):
        count = len(getattr(flow, kind))
        if count:
            parts.append(f"{count} {kind[:-1] if count == 1 else kind}")
    return f"agent {flow.agent}: {', '.join(parts)}"
