"""A run of the agent under its operator: signals, reload, readiness, watchdog; the exit code at the end.

Reload. The files are read again every `--poll-interval` seconds, and new content is taken up when two looks in a row
agree on it: an editor's half-written file isn't judged. A file that is wrong is refused with all its errors, once, and
the configuration that runs goes on.

systemd. READY goes out when every source listens, or after `PATIENCE` seconds: a collector whose broker is away must
not be killed at start, it has a store to drain. The watchdog is fed while the event loop turns and no store stalls.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from agent import exposition, notify
from agent.agent import Agent
from agent.errors import ChannelError, ConfigError
from agent.options import FATAL, OK, WRONG, summary

if TYPE_CHECKING:
    from agent.config.flow import Flow
    from agent.options import Options

PATIENCE = 10.0
READY_POLL = 0.02
log = logging.getLogger("agent")
Files = Sequence[tuple[str, bytes]]


class Running:
    """One agent, from open to closed."""

    def __init__(self, options: Options, files: Files, flow: Flow) -> None:
        self.options, self.flow = options, flow
        self.agent = Agent(flow)
        self.seen = list(files)
        """Content that was judged last, good or bad."""
        self.asked = asyncio.Event()

    async def run(self) -> int:
        """Run until a signal or a fault; returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop, number.name)
        loop.add_signal_handler(signal.SIGHUP, self.asked.set)
        try:
            async with asyncio.TaskGroup() as group:
                helpers = [
                    group.create_task(self._announce(), name="announce"),
                    group.create_task(self._watch(), name="watch files"),
                    group.create_task(self._feed_watchdog(), name="watchdog"),
                ]
                try:
                    await self.agent.run()
                finally:
                    for helper in helpers:
                        helper.cancel()
        except Exception as error:
            return _verdict(error)
        log.info("stopped")
        return OK

    def stop(self, why: str) -> None:
        """First call: drain and end; second: end now."""
        log.info("%s: stopping", why)
        notify.stopping()
        self.agent.stop()

    async def _announce(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._ready()
        except TimeoutError:
            reasons = "; ".join(exposition.complaints(self.agent.metrics))
            log.warning("not ready yet: %s", reasons)
            notify.ready(f"waiting: {reasons}")
            await self._ready()
        self.options.say(f"ready, {summary(self.flow)}")
        notify.ready("running")

    async def _ready(self) -> None:
        while not self.agent.ready:  # noqa: ASYNC110 - only a flag is known of the agent
            await asyncio.sleep(READY_POLL)

    async def _watch(self) -> None:
        """Reload on SIGHUP, and when two looks in a row agree on new content."""
        watches = bool(self.options.given.files) and not self.options.given.no_reload_conf
        candidate: Files | None = None
        while True:
            try:
                async with asyncio.timeout(self.options.given.poll_interval if watches else None):
                    await self.asked.wait()
            except TimeoutError:
                pass
            hang_up = self.asked.is_set()
            self.asked.clear()
            found = self._look()
            if found is not None and (hang_up or (found != self.seen and found == candidate)):
                self.seen = found
                await self._reload(found)
            candidate = found

    def _look(self) -> list[tuple[str, bytes]] | None:
        """What the files hold now; None while one can't be read (it may be in the middle of being replaced)."""
        try:
            return self.options.read()
        except ConfigError as error:
            log.debug("%s", error)
            return None

    async def _reload(self, files: Files) -> None:
        notify.reloading()
        flow = self._judge(files)
        if flow:
            try:
                await self.agent.reload(flow)
            except ChannelError:
                return  # the agent ends with it
            self.flow = flow
            log.info("configuration taken up: %s", summary(flow))
        notify.ready("running")

    def _judge(self, files: Files) -> Flow | None:
        """The new flow; None, with its errors said, if it is wrong (or if judging it shows a bug of ours)."""
        try:
            flow = self.options.judge(files)
        except ConfigError as error:
            for line in str(error).splitlines():
                log.error("%s", line)
        except Exception:
            log.exception("the new configuration could not be judged")
        else:
            for problem in flow.warnings:
                log.warning("%s", problem)
            return flow
        log.error("the new configuration is refused; the one that runs goes on")
        return None

    async def _feed_watchdog(self) -> None:
        limit = notify.watchdog_seconds()
        while limit:
            stalls = exposition.stalls(self.agent.metrics)
            if stalls:
                log.error("no progress: %s", "; ".join(stalls))
            else:
                notify.alive()
            await asyncio.sleep(limit / 3)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _verdict(error: BaseException) -> int:
    """Log why the run ended; the exit code."""
    code = WRONG
    for leaf in _leaves(error):
        if isinstance(leaf, ConfigError):
            log.error("%s", leaf)
            continue
        code = FATAL
        if isinstance(leaf, ChannelError):
            log.critical("the agent can't keep its promise and ends: %s", leaf)
        else:
            log.critical("the agent ends on a fault of its own", exc_info=leaf)
    return code
