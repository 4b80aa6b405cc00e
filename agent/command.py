"""The command that both programs share.

A run has three steps: the options are read (options.py), the files are judged whole (every error at once, nothing
opened), and the agent runs (run.py) until a signal or a fault of its store ends it. What costs time to import is
imported where it is needed: `--help` and `version` load neither asyncio nor a component.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent import logs
from agent.errors import ConfigError
from agent.options import FATAL, OK, WRONG, Options, Program, listeners, parse, summary
from agent.version import VERSION

if TYPE_CHECKING:
    from agent.config.flow import Flow, Spec

__all__ = ["Program", "run"]
log = logging.getLogger("agent")
LAST_SECONDS = 2.0
"""For threads to come to their end, when all is closed."""


def run(program: Program, arguments: Sequence[str]) -> int:
    """The whole program; returns the exit code."""
    if arguments[:1] == ["audit"]:
        from agent.audit import command

        return command.main(program, arguments[1:])
    if arguments and arguments[0] in program.commands:
        code: int = importlib.import_module(program.commands[arguments[0]]).main(program, arguments[1:])
        return code
    options = parse(program, arguments)
    given = options.given
    logs.set_up(given.log_level, given.log_format)
    for warning in given.warnings:
        log.warning("%s", warning)
    try:
        files = options.read()
        flow = options.judge(files)
        for problem in flow.warnings:
            log.warning("%s", problem)
        if given.check:
            print(f"{summary(flow)}: the configuration is right")
            return OK
        if given.write_config:
            return _write(options, flow, given.write_config)
    except ConfigError as error:
        return _wrong(error, options)
    return _run(options, files, flow)


def _wrong(error: ConfigError, options: Options) -> int:
    lines = str(error).splitlines()
    for line in lines:
        log.error("%s", line)
    many = f"{len(lines)} errors" if len(lines) > 1 else "1 error"
    tolerable = getattr(error, "tolerable", False)  # of ConfigErrors
    hint = "; --lenient drops what is wrong and runs the rest, as Flume does" if tolerable else ""
    log.error("%s in the configuration, nothing was started%s", many, hint)
    return WRONG


def _write(options: Options, flow: Flow, target: str) -> int:
    """Write the configuration in use; never over a file that is there."""
    if options.given.files:
        from agent.config.render import render

        text = render(flow)
    else:
        text = options.program.default()[1].decode()
    if target == "-":
        sys.stdout.write(text)
        return OK
    try:
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"--write-config {target}: {error.strerror}") from None
    print(f"wrote {target}; edit it, then: {options.program.command} -f {target}")
    return OK


PLACES = ("url", "hostname", "bind", "sink.directory", "database", "path", "dataDirs", "checkpointDir", "directory")
"""Keys that say where a component listens, sends to or keeps; the first that is set is shown."""


def banner(options: Options, flow: Flow) -> list[str]:
    """What comes in, where it is kept, where it goes; at the end what to change for the next step."""
    program = options.program
    files = ", ".join(options.given.files) or "the built-in configuration"
    lines = [f"{program.command} {VERSION}: agent {flow.agent} of {files}"]
    rows = (("in", flow.sources), ("keep", flow.channels), ("out", flow.sinks), ("serve", flow.services))
    specs = [(verb, spec) for verb, named in rows for spec in named.values()]
    name, kind = (max(len(getattr(spec, field)) for _, spec in specs) for field in ("name", "type"))
    lines += [f"  {verb:5}  {s.name:{name}}  {s.type:{kind}}  {place(s, flow.agent)}".rstrip() for verb, s in specs]
    if not options.given.files:
        lines += [f"  read   {hint}" for hint in program.hints]
        lines.append(f"  next  {program.next_step}: {program.command} --write-config my.conf, edit, -f my.conf")
    return lines


def place(spec: Spec, agent: str) -> str:
    """Where a component of this agent listens, sends to or keeps; empty if none of its keys says so."""
    from agent.config.reading import fields_of
    from agent.ports import spelled

    values = {field.about.name: getattr(spec.config, field.name) for field in fields_of(type(spec.config))}
    name = next((name for name in PLACES if values.get(name)), None)
    if name is None:
        return f"~/.headrace/{agent}" if (spec.kind, spec.type) == ("channels", "file") else ""
    text = str(values[name])
    if name in ("bind", "hostname"):
        text = spelled(text, values.get("port", ""))
    if spec.type == "metrics":
        text = f"http://{text}/"
    topics = values.get("topics") or values.get("topic") or ""
    return f"{text}  {' '.join(topics) if isinstance(topics, list) else topics}".rstrip()


def _run(options: Options, files: Sequence[tuple[str, bytes]], flow: Flow) -> int:
    from agent import ports

    for bind, port, spec in listeners(flow):
        who = ports.taken(bind, port)
        if who:
            log.error("%s: %s.%s.%s.port: %s is taken by %s; stop that one or choose another port",
                      spec.place, flow.agent, spec.kind, spec.name, ports.spelled(bind, port), who)  # fmt: skip
            return FATAL
    for line in banner(options, flow):
        options.say(line)
    import asyncio

    from agent.run import Running

    code = asyncio.run(Running(options, files, flow).run())
    _leave(code)
    return code


def _leave(code: int) -> None:
    """Python waits for every thread before it ends; one that a client library has never come back from, and that its
    sink has given up, would hold the process for good."""
    end = time.monotonic() + LAST_SECONDS
    others = [one for one in threading.enumerate() if one is not threading.current_thread() and not one.daemon]
    for thread in others:
        thread.join(max(0.0, end - time.monotonic()))
    left = ", ".join(thread.name for thread in others if thread.is_alive())
    if left:
        log.debug("leaving threads that don't come back: %s", left)
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
