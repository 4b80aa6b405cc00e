"""A source's or a service's life: open, run, and again with back-off when it fails.

A peer that is away or a port that is taken is waited out; so is a bug of the component: each try is made anew, so
that nothing of the failed one is left. Only a ChannelError ends the agent.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import NamedTuple

from agent.backoff import Backoff
from agent.component import Component
from agent.errors import AgentError, ChannelError, ChannelFull
from agent.metrics import Counter
from agent.service import Service
from agent.source import Source

PLACE = (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL)
"""What the kernel says of an address that can't be listened on."""


class Made(NamedTuple):
    """A component and what it uses (interceptors, selector), which opens before it."""

    component: Source | Service
    parts: Sequence[Component] = ()


class Runner:
    """Runs what `make` gives until it is done or cancelled. `where` names the key to change when a port is taken."""

    def __init__(
        self, name: str, make: Callable[[], Made], counter: Counter | None, backoff: Backoff, where: str
    ) -> None:
        self.name, self.make, self.counter, self.backoff, self.where = name, make, counter, backoff, where
        self.log = logging.getLogger(f"{__name__}.{name}")
        self.component: Source | Service | None = None
        self.done = False
        self._open = False
        self._said = ""

    @property
    def ready(self) -> bool:
        """Whether it listens, or has come to its end."""
        component = self.component
        listens = self._open and (not isinstance(component, Source) or component.ready)
        return self.done or listens

    async def run(self) -> None:
        """ChannelError if a channel can't keep its promise."""
        try:
            await self._again_and_again()
        finally:
            self._say("done" if self.done else "stopped")

    async def _again_and_again(self) -> None:
        while not self.done:
            began = asyncio.get_running_loop().time()
            try:
                await self._once()
                self.done = True
            except Exception as error:
                if isinstance(error, ChannelError) and not isinstance(error, ChannelFull):
                    raise
                if asyncio.get_running_loop().time() - began > self.backoff.most:
                    self.backoff.reset()
                    self._said = ""
                await self._wait(error)

    async def _once(self) -> None:
        async with AsyncExitStack() as stack:
            made = self.make()
            self.component = made.component
            for part in (*made.parts, made.component):
                stack.push_async_callback(part.close)
                await part.open()
            stack.callback(self._closes)
            self._open = True
            if self.counter:
                self.counter.start()
            self._say("running")
            await made.component.run()

    def _closes(self) -> None:
        self._open = False
        if self.counter:
            self.counter.stop()

    async def _wait(self, error: Exception) -> None:
        seconds = self.backoff.next()
        text = str(error) or type(error).__name__
        cause = error.__cause__ if isinstance(error, AgentError) else error
        if isinstance(cause, OSError) and cause.errno in PLACE:
            text = f"{text}; {self.where}"
        if self._say(f"waiting: {text}"):
            again = f"tries again in {seconds:g} s, then in up to {self.backoff.most:g} s"
            bug = None if isinstance(error, AgentError | OSError) else error
            self.log.error("%s: %s; %s", self.name, text, again, exc_info=bug)
        await asyncio.sleep(seconds)

    def _say(self, state: str) -> bool:
        """True if it changed. A component that runs and fails in turn says so once."""
        new = state != "running" and state != self._said
        if new:
            self._said = state
        if self.counter:
            self.counter.say(state)
        return new
