"""What is wrong with a configuration, said to the person who edits the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.errors import ConfigError


@dataclass(frozen=True)
class Problem:
    """One error or warning: `place` is file:line, or a file where no line is to blame."""

    place: str
    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.key}: {self.text}" if self.key else f"{self.place}: {self.text}"


class ConfigErrors(ConfigError):
    """All that is wrong with a configuration; prints one line each.

    `tolerable`: Flume would drop what is wrong and go on, and so would `--lenient`.
    """

    def __init__(self, problems: Sequence[Problem], tolerable: bool = False) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = list(problems)
        self.tolerable = tolerable


class Report:
    """Collects errors and warnings. Three weights:

    error     nothing runs.
    dropped   Flume drops the part in silence (or with a line in its log): an error, with `lenient` a warning.
    warning   something the operator may want to know.
    """

    def __init__(self, paths: Sequence[str], lenient: bool = False) -> None:
        self.paths, self.lenient = list(paths), lenient
        self.errors: list[Problem] = []
        self.warnings: list[Problem] = []
        self._fatal = False
        self._settled: set[str] = set()

    def error(self, place: str, key: str, text: str) -> None:
        """Nothing runs, with or without `lenient`."""
        self._fatal = True
        self._add(self.errors, Problem(place, key, text))

    def unreadable(self, place: str, key: str, text: str) -> None:
        """An error of the value itself: nothing else is said of that key."""
        self.error(place, key, text)
        self._settled.add(key)

    def empty(self, place: str, key: str, text: str) -> None:
        """Flume ignores a key without a value: that it is missing need not be said too."""
        self.dropped(place, key, text)
        self._settled.add(key)

    def dropped(self, place: str, key: str, text: str) -> None:
        """Flume drops this."""
        self._add(self.warnings if self.lenient else self.errors, Problem(place, key, text))

    def warning(self, place: str, key: str, text: str) -> None:
        """It runs all the same."""
        self._add(self.warnings, Problem(place, key, text))

    def finish(self) -> list[Problem]:
        """The warnings, in the order of the file. Raises ConfigErrors if there is an error."""
        if self.errors:
            raise ConfigErrors(sorted(self.errors, key=self._line), tolerable=not self._fatal)
        return sorted(self.warnings, key=self._line)

    def _add(self, problems: list[Problem], problem: Problem) -> None:
        if problem not in problems and problem.key not in self._settled:
            problems.append(problem)

    def _line(self, problem: Problem) -> tuple[int, int]:
        """In the order of the files and their lines; what has no line comes first."""
        path, _, line = problem.place.rpartition(":")
        return (self.paths.index(path), int(line)) if path in self.paths and line.isdigit() else (-1, 0)
