"""Component: a name, a typed Config, and a lifetime.

*The name is the place*: `type = file_roll` under `sinks` is class `FileRollSink` in `sinks/file_roll.py` of the
first package that has it. No registry: only what a configuration names is imported, so an idle library costs nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from types import TracebackType
from typing import ClassVar, Self

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
EXTRAS = {"paho": "mqtt", "fastavro": "avro", "sqlite_utils": "sqlite"}


class Component:
    """Made by the agent from its Config; `async with` opens and closes it. Nothing is opened in __init__."""

    Config: ClassVar[type[AnyConfig]] = AnyConfig

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

    `my_package.my_module:MySink` loads a user's own. ConfigError if there is none or a needed library is missing.
    """
    if ":" in type_name:
        module_name, _, class_name = type_name.partition(":")
        return _import(module_name, class_name, type_name)
    if not type_name.isidentifier():
        raise ConfigError(f"{type_name!r} is not the name of a type")
    class_name = "".join(part.capitalize() for part in type_name.split("_")) + KINDS[kind]
    for package in packages:
        module_name = f"{package}.{kind}.{type_name}"
        try:
            found = importlib.util.find_spec(module_name)
        except ModuleNotFoundError:
            found = None
        if found:
            return _import(module_name, class_name, type_name)
    raise ConfigError(f"there is no {kind[:-1]} of type {type_name!r}")


def _import(module_name: str, class_name: str, type_name: str) -> type[Component]:
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        extra = EXTRAS.get(missing)
        way_out = f"pip install 'headrace[{extra}]'" if extra else f"install {missing}"
        raise ConfigError(f"type {type_name!r} needs the package {missing}: {way_out}") from None
    except AttributeError:
        raise ConfigError(f"module {module_name} has no class {class_name}") from None
    if not (isinstance(found, type) and issubclass(found, Component)):
        raise ConfigError(f"{module_name}:{class_name} is not a component")
    return found
