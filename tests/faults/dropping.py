"""An interceptor for the tests: leaves out the events whose body ends with a given text."""

from __future__ import annotations

from typing import ClassVar

from agent.config.fields import Config as AnyConfig
from agent.config.fields import key
from agent.event import Batch
from agent.interceptor import Interceptor


class DroppingConfig(AnyConfig):
    suffix: str = key("suffix", "0", doc="end of the bodies that are left out")


class DroppingInterceptor(Interceptor):
    """`type = tests.faults.dropping:DroppingInterceptor`."""

    Config: ClassVar[type[AnyConfig]] = DroppingConfig
    config: DroppingConfig

    def intercept(self, batch: Batch) -> Batch:
        keep = [i for i, event in enumerate(batch.events) if not event.body.endswith(self.config.suffix.encode())]
        return batch if len(keep) == batch.count else batch.pick(keep)
