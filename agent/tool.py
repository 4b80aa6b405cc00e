"""The command `headrace`: looks at running agents and at stores.

`status` asks an agent's metrics service. The others ask the store of a folder: through its agent where one holds it,
else directly (agent/store/control.py); they never disturb an agent that runs.

Exit codes: 0 all is well; 1 something isn't (status), or it could not be done; 2 wrong command line.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from agent import show
from agent.errors import AgentError, ConfigError
from agent.ports import reason
from agent.version import VERSION

OURS = ("http://127.0.0.1:41415", "http://127.0.0.1:41416")
"""Where the built-in configurations of aggregator and collector serve their metrics."""
DATABASE = "headrace.db"
LIMIT = 16 << 20
"""Bytes of an answer that are read."""
EPILOG = """\
examples:
  headrace status                               the aggregator and the collector on this machine
  headrace status --url http://10.0.0.7:41415   another one
  headrace store headrace-data/collector        what a store holds, and who holds it
  headrace store forget old-channel             drop what a channel that is gone left behind
  headrace dead-letters list                    what could never be delivered, and why
  headrace dead-letters show 17                 one of them whole
  headrace dead-letters replay 17 18            put them back into their channel (--all: every one)
  headrace dead-letters delete --all

A folder may be left out where only one store is found: in ./headrace-data or in ~/.headrace.
"""

Act = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run with these arguments, or those of the process; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = _top().parse_args(words[:1]).command
    parser, act = COMMANDS[command]()
    try:
        return act(parser.parse_intermixed_args(words[1:]))
    except AgentError as error:
        print(f"headrace: {error}", file=sys.stderr)
    except BrokenPipeError:
        sys.stderr.close()
    return 1


def _top() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headrace", description="Looks at running agents and at stores.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"Headrace {VERSION}")
    parser.add_argument("command", choices=COMMANDS, help="status: what flows; store: what is held; dead-letters: "
                        "what could never be delivered. `headrace COMMAND --help` for more")  # fmt: skip
    return parser


def _parser(command: str, text: str, usage: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"headrace {command}", description=text, usage=usage, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _status_parser() -> tuple[argparse.ArgumentParser, Act]:
    parser = _parser("status", "What flows, what doesn't and why.", "headrace status [--url URL ...] [--json]")
    parser.add_argument("--url", action="append", help="of a metrics service; default: both programs' on this machine")
    return parser, _status


def _store_parser() -> tuple[argparse.ArgumentParser, Act]:
    parser = _parser("store", "What a store holds, and who holds it; `forget` drops what a channel left behind.",
                     "headrace store [FOLDER] [--json]\n       headrace store forget CHANNEL [FOLDER]")  # fmt: skip
    parser.add_argument("words", nargs="*", metavar="FOLDER", help="the store's folder, or its file")
    return parser, _store


def _letters_parser() -> tuple[argparse.ArgumentParser, Act]:
    parser = _parser("dead-letters", "What could never be delivered, and why.",
                     "headrace dead-letters list|show|replay|delete [ID ...] [--all] [--store FOLDER]")  # fmt: skip
    parser.add_argument("act", choices=("list", "show", "replay", "delete"))
    parser.add_argument("ids", nargs="*", type=int, metavar="ID", help="number of a letter, see list")
    parser.add_argument("--all", action="store_true", help="every one")
    parser.add_argument("--store", metavar="FOLDER", help="the store's folder")
    return parser, _letters


COMMANDS = {"status": _status_parser, "store": _store_parser, "dead-letters": _letters_parser}


# ---- status


def _status(given: argparse.Namespace) -> int:
    urls = given.url or OURS
    answers = {url: _fetch(url) for url in urls}
    if not given.url and any(isinstance(answer, dict) for answer in answers.values()):
        answers = {url: answer for url, answer in answers.items() if isinstance(answer, dict)}
    if given.json:
        print(json.dumps(answers, indent=2))
    else:
        _print_status(answers)
    return 0 if all(_well(answer) for answer in answers.values()) else 1


def _print_status(answers: dict[str, dict[str, Any] | str]) -> None:
    if any(isinstance(answer, dict) for answer in answers.values()):
        time.sleep(1.0)
    for url, before in answers.items():
        if isinstance(before, str):
            print(f"{url}: {before}")
            continue
        now = _fetch(url)
        print(f"{url}: ", end="")
        print("\n".join(show.status(now, before) if isinstance(now, dict) else [now]))


def _well(answer: dict[str, Any] | str) -> bool:
    return isinstance(answer, dict) and answer["ready"] and all(part["works"] for part in answer["components"])


def _fetch(url: str) -> dict[str, Any] | str:
    """An agent's `/status`, or why there is none."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError(f"--url {url}: it takes http://HOST:PORT")
    try:
        with build_opener(ProxyHandler({})).open(url.rstrip("/") + "/status", timeout=5) as response:
            found = json.loads(response.read(LIMIT))
        return found if isinstance(found, dict) and "components" in found else "no Headrace agent answers there"
    except HTTPError as error:
        return f"no Headrace agent answers there (status {error.code})"
    except URLError as error:
        why = reason(error.reason) if isinstance(error.reason, OSError) else error.reason
        return f"nobody answers ({why})"
    except (OSError, HTTPException, ValueError) as error:
        return f"no Headrace agent answers there ({error})"


# ---- store


def _ask(folder: Path, command: str, **arguments: Any) -> dict[str, Any]:
    import asyncio

    from agent.store import control

    return asyncio.run(control.ask(folder, command, **arguments))


def _folder(named: str | None) -> Path:
    """The folder of a store: the one named (or the file in it), else the only one in the usual places."""
    if named is not None:
        path = Path(named)
        folder = path.parent if path.is_file() else path
        if not (folder / DATABASE).exists():
            raise ConfigError(f"{named}: there is no {DATABASE}; it takes the `path` of a file channel")
        return folder
    places = (Path("."), Path("headrace-data"), Path.home() / ".headrace")
    found = [path.parent for place in places for path in (*place.glob(DATABASE), *sorted(place.glob(f"*/{DATABASE}")))]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"several stores: name one of {', '.join(map(str, found))}")
    raise ConfigError("no store in ./headrace-data or ~/.headrace: name the folder (a file channel's `path`)")


def _store(given: argparse.Namespace) -> int:
    words = list(given.words)
    if words[:1] == ["forget"]:
        if not 2 <= len(words) <= 3:
            raise ConfigError("it takes: headrace store forget CHANNEL [FOLDER]")
        answer = _ask(_folder(words[2] if len(words) == 3 else None), "forget", channel=words[1])
        _print(given, answer, [f"channel {words[1]} is forgotten, with {show.many(answer['count'], 'event')}"])
        return 0
    if len(words) > 1:
        raise ConfigError("it takes one folder")
    answer = _ask(_folder(words[0] if words else None), "inspect")
    _print(given, answer, show.store(answer))
    return 0


def _print(given: argparse.Namespace, answer: Any, lines: Any) -> None:
    print(json.dumps(answer, indent=2) if given.json else "\n".join(lines))


# ---- dead letters


def _letters(given: argparse.Namespace) -> int:
    folder = _folder(given.store)
    if given.act == "list":
        answer = _ask(folder, "letters")
        _print(given, answer, show.letters(answer["letters"]))
        return 0
    if bool(given.ids) == given.all:
        raise ConfigError(f"dead-letters {given.act} takes the IDs of letters (see list), or --all")
    ids = None if given.all else given.ids
    if ids:
        _there(folder, ids)
    if given.act == "show":
        answer = _ask(folder, "letters", ids=ids)
        _print(given, answer, (line for letter in answer["letters"] for line in show.letter(letter)))
        return 0
    answer = _ask(folder, given.act, ids=ids)
    lines = [f"{given.act}: {show.many(answer['count'], 'letter')}"]
    short = len(set(ids or ())) - answer["count"]
    if short > 0:
        lines.append(f"{short} can't be replayed: put aside by a source before it was an event, or its channel is gone")
    _print(given, answer, lines)
    return 1 if short > 0 else 0


def _there(folder: Path, ids: list[int]) -> None:
    """ConfigError if one of these letters isn't in the store."""
    found = {one["id"] for one in _ask(folder, "letters", ids=ids)["letters"]}
    if missing := sorted(set(ids) - found):
        raise ConfigError(f"there is no dead letter {', '.join(map(str, missing))}: see headrace dead-letters list")


if __name__ == "__main__":
    sys.exit(main())
