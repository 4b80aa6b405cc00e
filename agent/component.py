"""Component: a name, a typed Config, and a lifetime.

*The name is the place*: `type = file_roll` under `sinks` is class `FileRollSink` in `sinks/file_roll.py` of the
first package that has it. No registry: only what a configuration names is imported, so an idle library costs nothing.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import logging
import pkgutil
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import ClassVar, Self

from agent.config import flume_names
from agent.config.fields import Config as AnyConfig
from agent.errors import ConfigError

KINDS = {
    "sources": "Source",
    "channels": "Channel",
    "sinks": "Sink",
    "interceptors": "Interceptor",
    "selectors": "Selector",
    "processors": "Processor",
    "serializers": "Serializer",
    "services": "Service",
}
EXTRAS = {
    "paho": "mqtt",
    "fastavro": "avro",
    "sqlite_utils": "sqlite",
    "hdfs_native": "hdfs",
    "cramjam": "hdfs",
    "backports": "hdfs",
    "happybase": "hbase",
    "thriftpy2": "hbase",
    "pymetastore": "hive",
    "thrift": "hive",
    "confluent_kafka": "kafka",
    "pymysql": "sql",
    "psycopg": "sql",
    "google_crc32c": "topics",
}


def _no_services() -> Mapping[str, Component]:
    return {}


class Component:
    """Made by the agent from its Config; `async with` opens and closes it. Nothing is opened in __init__."""

    Config: ClassVar[type[AnyConfig]] = AnyConfig
    agent: str = "agent"
    """The name of the agent it belongs to; set by the agent before `open`."""
    services: Callable[[], Mapping[str, Component]] = staticmethod(_no_services)
    """The agent's services by name, as they are now, open or not; set by the agent before `open`."""

    def __init__(self, name: str, config: AnyConfig) -> None:
        self.name, self.config = name, config
        self.log = logging.getLogger(f"{type(self).__module__}.{name}")

    async def open(self) -> None:
        """Acquire what the component needs. Called once, before any other method."""

    async def close(self) -> None:
        """Release it. Called once, whatever happened before; must not raise for a peer's sake."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def load(kind: str, type_name: str, packages: tuple[str, ...] = ("agent", "aggregator", "edge")) -> type[Component]:
    """The class for `type = type_name` of a kind ("sources", "sinks" ...), from the first package that has it.

    Flume's aliases (any case) and Java class names mean the component that stands for them here;
    `my_package.my_module:MySink` loads a user's own. ConfigError if there is none or a needed library is missing.
    """
    if ":" in type_name:
        module_name, _, class_name = type_name.partition(":")
        return _import(module_name, class_name, type_name)
    name = flume_names.ours(kind, type_name)
    for package in packages if name.isidentifier() else ():
        module_name = f"{package}.{kind}.{name}"
        try:
            found = importlib.util.find_spec(module_name)
        except ModuleNotFoundError:
            found = None
        if found:
            return _import(module_name, class_name_of(kind, name), type_name)
    raise ConfigError(_no_such_type(kind, type_name, packages))


def class_name_of(kind: str, module_name: str) -> str:
    """`file_roll` of sinks -> `FileRollSink`."""
    return "".join(part.capitalize() for part in module_name.split("_")) + KINDS[kind]


def types_of(kind: str, packages: tuple[str, ...] = ("agent", "aggregator", "edge")) -> list[str]:
    """The types that there are, by the names of the modules; nothing is imported but the packages."""
    found: dict[str, None] = {}
    for package in packages:
        try:
            folder = importlib.import_module(f"{package}.{kind}")
        except ModuleNotFoundError:
            continue
        found.update((module.name, None) for module in pkgutil.iter_modules(folder.__path__))
    return sorted(name for name in found if not name.startswith("_"))


def _no_such_type(kind: str, type_name: str, packages: tuple[str, ...]) -> str:
    one, known = kind.removesuffix("s"), types_of(kind, packages)
    name = flume_names.ours(kind, type_name)
    there_are = f"there are {', '.join(known)}" if known else f"there is no {one} at all"
    if flume_names.is_flumes(kind, name):
        called = name if type_name.lower() == name else f"{type_name} ({name})"
        return f"Flume's {one} {called} is not in this version; {there_are}"
    close = difflib.get_close_matches(type_name.removesuffix("$Builder"), flume_names.classes(kind), n=1, cutoff=0.85)
    if close:
        return f"Flume has no class {type_name}; the nearest is {close[0]}"
    if flume_names.is_java(type_name):
        return f"the Java class {type_name} can't run here; your own class is type = my_package.my_module:MyClass"
    close = difflib.get_close_matches(name, [*known, *flume_names.ALIASES[kind]], n=1)
    if close and close[0] in known:
        return f"there is no {one} of type {type_name!r}; the nearest is {close[0]}"
    return f"there is no {one} of type {type_name!r}; {there_are}"


def _import(module_name: str, class_name: str, type_name: str) -> type[Component]:
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as error:
        raise ConfigError(_missing(error.name or "", module_name, type_name)) from None
    except AttributeError:
        raise ConfigError(f"module {module_name} has no class {class_name}") from None
    except Exception as error:
        if ":" not in type_name:
            raise
        raise ConfigError(f"module {module_name} can't be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Component)):
        raise ConfigError(f"{module_name}:{class_name} is not a component")
    return found


def _missing(missing: str, module_name: str, type_name: str) -> str:
    """What to install, or where the user's own module must lie."""
    if module_name == missing or module_name.startswith(f"{missing}."):
        return f"there is no module {missing}; it must lie on PYTHONPATH"
    package = missing.split(".")[0]
    extra = EXTRAS.get(package)
    way_out = f"pip install 'headrace[{extra}]'" if extra else f"pip install {package}"
    return f"type {type_name} needs the package {package}: {way_out}"
