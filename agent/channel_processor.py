"""A source's way in: interceptors in order, the selector's routes, then put.

Routes are grouped by `channel.home`: what goes to one home goes in one `put_all`, one transaction. The home of the
first durable channel also keeps the source's marks, and its turn comes last, so that no mark says 'done' of events
that another home has not got. With required channels in several homes a failure between them leaves a copy that the
source's next try doubles: such a source is at least once (`durable` is False).

An optional channel never holds the source back: it drops and counts when it has no room. An event that the selector
sends nowhere is acknowledged and counted as the source's `dropped`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agent.channel import Channel, Put, SourceMarks
from agent.errors import ChannelError, ChannelFull
from agent.event import Batch
from agent.interceptor import Interceptor
from agent.metrics import SourceCounter
from agent.selector import Route, Selector
from agent.source import DeadLetter, Kept, Marks

NOTHING = Kept(0, 0)


class Share(NamedTuple):
    """What one home gets of a route. `keeper` is the channel whose `put_all` is called."""

    keeper: Channel
    required: tuple[Channel, ...]
    optional: tuple[Channel, ...]


class ChannelProcessor:
    """Is a source's `process` and has its `bury` (agent/source.py)."""

    def __init__(
        self,
        source: str,
        interceptors: Sequence[Interceptor],
        selector: Selector,
        channels: Mapping[str, Channel],
        counter: SourceCounter,
    ) -> None:
        self.source, self.interceptors, self.selector = source, interceptors, selector
        self.channels, self.counter = channels, counter
        self.log = logging.getLogger(f"{__name__}.{source}")
        self.keeper = next((c for c in channels.values() if c.durable), next(iter(channels.values())))
        self._shares: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Share]] = {}
        self._held = ""
        self._dropping: dict[str, str] = {}

    @property
    def required(self) -> list[Channel]:
        """The channels that may hold the source back."""
        optional = getattr(self.selector.config, "optional", ())
        names = set(optional) if isinstance(optional, list | tuple) else set()
        return [channel for name, channel in self.channels.items() if name not in names]

    @property
    def weakness(self) -> str:
        """Why what was acknowledged isn't kept exactly once by one durable home; empty if it is."""
        volatile = [channel.name for channel in self.required if channel.volatile]
        if volatile:
            return f"channel {', '.join(volatile)} is in memory, what it holds is lost when the process ends"
        markless = [channel.name for channel in self.required if not channel.durable]
        if markless:
            return f"channel {', '.join(markless)} keeps no positions of sources, a failure may store a batch twice"
        if len({id(channel.home) for channel in self.required}) > 1:
            names = ", ".join(channel.name for channel in self.required)
            return f"channels {names} lie in different stores, a failure between them may store a batch twice"
        return ""

    @property
    def durable(self) -> bool:
        """Whether an acknowledged event survives a restart, with the source's marks in the same transaction."""
        return not self.weakness

    @property
    def marks(self) -> Marks:
        """What this source's last marks were."""
        return self.keeper.marks(self.source)

    async def __call__(self, batch: Batch, marks: Marks | None = None) -> Kept:
        """Keep the batch in its channels; ChannelFull if a required one has no room, ChannelError if one is broken."""
        for interceptor in self.interceptors:
            batch = interceptor.intercept(batch)
        routes = self.selector.select(batch) if batch.count else []
        named = None if marks is None else (self.source, marks)
        try:
            kept = await (self._put_one(routes[0], named) if len(routes) == 1 else self._put_many(routes, named))
        except ChannelError as error:
            self._hold(error)
            raise
        if self._held:
            self._release()
        if len(routes) != 1 or routes[0].batch.count != batch.count:
            self.counter.dropped += batch.count - sum(route.batch.count for route in routes)
        return kept

    async def bury(self, letters: list[DeadLetter], marks: Marks | None = None) -> None:
        """Into the dead letters of the first durable channel, else the first; with the marks."""
        await self.keeper.bury(letters, None if marks is None else (self.source, marks))

    async def _put_one(self, route: Route, marks: SourceMarks | None) -> Kept:
        """The hot path: all events of a batch go the same way, mostly to one home."""
        shares = self._shares.get(route[:2]) or self._share(route)
        if len(shares) == 1 and not shares[0].optional and (marks is None or shares[0].keeper.home is self.keeper.home):
            keeper, required, _ = shares[0]
            return await keeper.put_all((Put(route.batch, required),), marks)
        return await self._put_many([route], marks)

    async def _put_many(self, routes: Sequence[Route], marks: SourceMarks | None) -> Kept:
        homes: dict[int, tuple[Channel, list[Put]]] = {}
        if marks is not None:
            homes[id(self.keeper.home)] = (self.keeper, [])
        for route in routes:
            for keeper, required, optional in self._shares.get(route[:2]) or self._share(route):
                _, puts = homes.setdefault(id(keeper.home), (keeper, []))
                puts.append(Put(route.batch, required, optional))
        repeats, required_events = 0, sum(route.batch.count for route in routes if route.required)
        for home, (keeper, puts) in sorted(homes.items(), key=self._turn):
            kept = await self._put_home(keeper, puts, marks if home == id(self.keeper.home) else None)
            repeats = max(repeats, kept.repeats)
            if len(homes) == 1:
                return kept
        return Kept(max(0, required_events - repeats), repeats)

    def _turn(self, item: tuple[int, tuple[Channel, list[Put]]]) -> int:
        """Homes that may say no first, then the one that keeps the marks, then those that are only optional."""
        home, (_, puts) = item
        if home == id(self.keeper.home):
            return 1
        return 0 if any(put.channels for put in puts) else 2

    async def _put_home(self, keeper: Channel, puts: list[Put], marks: SourceMarks | None) -> Kept:
        optional = {channel.name: channel for put in puts for channel in put.optional}
        before = {name: channel.counter.dropped for name, channel in optional.items()}
        try:
            kept = await keeper.put_all(puts, marks)
        except ChannelError as error:
            if marks is not None or any(put.channels for put in puts):
                raise
            kept = NOTHING
            for put in puts:
                for channel in put.optional:
                    channel.counter.dropped += put.batch.count
            self._say_dropping(optional, str(error))
        else:
            full = [name for name, channel in optional.items() if channel.counter.dropped > before[name]]
            self._say_dropping(full, "it is full")
            self._say_dropping(optional.keys() - full, "")
        return kept

    def _share(self, route: Route) -> list[Share]:
        """The homes of a route's channels, remembered by its names."""
        found: dict[int, tuple[Channel, list[Channel], list[Channel]]] = {}
        for which, names in ((1, route.required), (2, route.optional)):
            for name in names:
                channel = self.channels[name]
                share = found.setdefault(id(channel.home), (channel, [], []))
                (share[1] if which == 1 else share[2]).append(channel)
        shares = [Share(keeper, tuple(required), tuple(optional)) for keeper, required, optional in found.values()]
        self._shares[route[:2]] = shares
        return shares

    def _hold(self, error: ChannelError) -> None:
        self.counter.ChannelWriteFail += 1
        self._held = str(error)
        full = isinstance(error, ChannelFull)
        if self.counter.say(f"waiting: {error}" if full else f"failed: {error}"):
            self.log.warning("%s is held back: %s", self.source, error)

    def _release(self) -> None:
        self._held = ""
        if self.counter.say("running"):
            self.log.info("%s goes on, its channels take again", self.source)

    def _say_dropping(self, names: Sequence[str] | Mapping[str, Channel] | set[str], why: str) -> None:
        """One line when an optional channel begins or ends to drop."""
        for name in names:
            if bool(self._dropping.get(name)) != bool(why):
                self._dropping[name] = why
                text = (
                    f"drops what {self.source} sends it: {why}" if why else f"takes again what {self.source} sends it"
                )
                self.log.warning("optional channel %s %s", name, text)
