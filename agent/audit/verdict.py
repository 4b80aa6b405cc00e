"""What has become of every number, for each destination. Pure.

What can be *expected* at a destination is what its store has received, and what any other output of that store holds.
Of that, in this order:

    arrived     the destination holds it now
    waiting     the channel still holds it
    missing     it lay in a file that is gone or cut short (named)
    left out    a dead letter, with its reason

For the rest the numbers alone don't tell: a stream that was received has holes, because a sender's selector, its sink
group or its dead letters sent events elsewhere, and a channel that was added later never had the first ones. But a
channel counts what was put into it in its life. If that many are accounted for, nothing is missing, and the rest was
never here: left out. If fewer are, the difference is missing: among the numbers for which no other reason is known.
That holds only of origins that the stores count. Of others (they came from Kafka, or their opening is forgotten) rows
may have come after the stores were asked, or from elsewhere, and stand for lost ones: what is left is not known then.

Destinations that several configurations share (one table, one topic, one folder of a file system) are judged as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from agent.audit.numbers import Numbers
from agent.sink import Held

ARRIVED, REPEATED, WAITING, LEFT_OUT, MISSING, UNKNOWN = KINDS = (
    "arrived", "repeated", "waiting", "left out", "missing", "not known",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """What has become of these numbers, and why. `some`: of so many of them only, nobody knows which."""

    kind: str
    numbers: Numbers
    why: str = ""
    some: int = 0

    @property
    def count(self) -> int:
        return self.some or self.numbers.count


@dataclass
class Channel:
    """`put` events in its life, of which it still holds `inside`; `letters` by reason."""

    put: int
    inside: Numbers
    letters: dict[str, Numbers] = field(default_factory=dict)


@dataclass(eq=False)
class Store:
    """What a store's account says (agent/store/commands.py). `lost`: events that a salvage could not read."""

    name: str
    channels: dict[str, Channel]
    received: Numbers
    own: Numbers
    lost: int = 0


@dataclass(eq=False)
class Outlet:
    """A channel and its place in a store; None where there is no store to ask, `trouble` says why.

    `branch`: a selector sends to it only a part of what is put into its store.
    """

    agent: str
    channel: str
    store: Store | None
    trouble: str = ""
    branch: bool = False

    @property
    def name(self) -> str:
        """Agent and channel."""
        return f"{self.agent}/{self.channel}"


@dataclass(eq=False)
class Destination:
    """One or more sinks that deliver to one place, and what that holds. `trouble`: why what isn't found isn't known.

    `relays`: it is another agent; it holds what the outputs of other stores do.
    """

    name: str
    type: str
    outlets: list[Outlet]
    arrived: Numbers = field(default_factory=Numbers)
    repeated: Numbers = field(default_factory=Numbers)
    files: list[Held] = field(default_factory=list)
    trouble: str = ""
    relays: bool = False

    @property
    def gone(self) -> list[Held]:
        return [held for held in self.files if held.gone]

    @property
    def had(self) -> Numbers:
        """What was ever known to be there."""
        return self.arrived.plus(*(Numbers.of(held.runs) for held in self.gone))


@dataclass
class Verdict:
    destination: Destination
    findings: list[Finding]
    notes: list[str]

    @property
    def is_blind(self) -> bool:
        """Whether something may be missing that it can't know of."""
        return bool(self.count(UNKNOWN) or any(outlet.trouble for outlet in self.destination.outlets))

    def count(self, kind: str) -> int:
        return sum(found.count for found in self.findings if found.kind == kind)


def judge(destinations: Sequence[Destination], outlets: Iterable[Outlet]) -> list[Verdict]:
    """A verdict a destination; `outlets` are all channels, those without a sink too."""
    everything = list(outlets)
    beyond = [_beyond(one, destinations, everything) if one.relays else one.arrived for one in destinations]
    for one, arrived in zip(destinations, beyond, strict=True):
        one.arrived = arrived
    return [_Judgement(one, destinations, everything).verdict() for one in destinations]


class _Judgement:
    """Takes away from `left`, what is expected, one reason after the other."""

    def __init__(self, about: Destination, all_: Sequence[Destination], outlets: list[Outlet]) -> None:
        self.about = about
        self.others = [other for other in all_ if other is not about]
        self.outlets = outlets
        self.findings: list[Finding] = []
        self.stores = _each(outlet.store for outlet in about.outlets if outlet.store)
        self.channels = [
            o.store.channels[o.channel] for o in about.outlets if o.store and o.channel in o.store.channels
        ]
        self.left = self._expected()
        self.accounted = Numbers()

    def verdict(self) -> Verdict:
        notes = [f"{outlet.name}: {outlet.trouble}" for outlet in self.about.outlets if outlet.trouble]
        self._arrived()
        for channel in self.channels:
            self._take(WAITING, channel.inside, "")
        self._gone()
        for channel in self.channels:
            for why, letters in channel.letters.items():
                self._take(LEFT_OUT, letters, f"dead letter: {why}")
        siblings = [other for other in self.others if _share(other, self.about)]
        for other in siblings:
            self._take(LEFT_OUT, other.had, f"{other.name} has it, of the same channel")
        troubles = [one.trouble for one in (self.about, *siblings) if one.trouble]
        troubles += [outlet.trouble for outlet in self.about.outlets if outlet.trouble]
        if troubles:
            self._take(UNKNOWN, self.left, troubles[0])
        else:
            self._rest()
        return Verdict(self.about, self.findings, notes + ([self.about.trouble] if self.about.trouble else []))

    def _expected(self) -> Numbers:
        mine = [store.received for store in self.stores]
        near = [other.had for other in self.others if self._near(other)]
        inside = [channel.inside for store in self.stores for channel in store.channels.values()]
        found = self.about.had.plus(*near, *inside)
        # A store's own numbers are identities only where nothing comes in with one: else they are for transport alone.
        mine += [s.own for s in self.stores if not s.received and (not found or found.only(s.own))]
        return found.plus(*mine)

    def _near(self, other: Destination) -> bool:
        """Whether it is an output of one of the same stores."""
        return any(outlet.store is store for outlet in other.outlets for store in self.stores)

    def _take(self, kind: str, numbers: Numbers, why: str) -> Numbers:
        """Settle what of these is left, with a reason."""
        taken = numbers.minus(self.accounted)
        self.accounted = self.accounted.plus(taken)
        self.left = self.left.minus(taken)
        if taken:
            self.findings.append(Finding(kind, taken, why))
        return taken

    def _arrived(self) -> None:
        self._take(ARRIVED, self.about.arrived, "")
        twice = self.about.repeated
        for held in self.about.files:
            here = Numbers() if held.gone else Numbers.of(held.runs).both(twice)
            if here:
                self.findings.append(Finding(REPEATED, here, held.place))
        if twice and not self.about.files:
            self.findings.append(Finding(REPEATED, twice))

    def _gone(self) -> None:
        for held in self.about.gone:
            self._take(MISSING, Numbers.of(held.runs), f"{held.place} {held.gone}")

    def _rest(self) -> None:
        """What is left, told by the channels' counts."""
        put, lost = sum(channel.put for channel in self.channels), sum(store.lost for store in self.stores)
        again = self.about.repeated.count if self._is_shared else 0
        over = self._mine().count + again - put - lost
        short = max(0, -over)
        strangers = self._strangers()
        unsure = f"the destination holds {strangers:,} events these stores have no count of"
        elsewhere, plain = self._elsewhere(), self.left
        for other in elsewhere:
            plain = plain.minus(other.numbers)
        short -= self._missing(plain, short, lost)
        for other in elsewhere:
            short -= self._missing(other.numbers.both(self.left), short, lost)
            doubt = strangers and over and other.kind == LEFT_OUT
            self._take(UNKNOWN if doubt else other.kind, other.numbers.both(self.left), unsure if doubt else other.why)
        names = ", ".join(sorted({outlet.channel for outlet in self.about.outlets}))
        never = f"never put into {names}: other channels, other receivers, or before it was there"
        self._take(UNKNOWN if strangers else LEFT_OUT, self.left, unsure if strangers else never)
        if not self._is_shared:
            holes = self.about.had.filled().minus(self.accounted)
            short -= self._missing(holes, short, lost)
            if strangers and over > 0:
                self._take(UNKNOWN, holes, unsure)
        if short:
            why = f"went into {names}, nobody knows under which numbers: given to two receivers, for example"
            self.findings.append(Finding(UNKNOWN, Numbers(), why, short))

    @property
    def _is_shared(self) -> bool:
        """Whether an event may have gone into several of its stores, which counts as several that went in."""
        return len(self.stores) > 1

    def _strangers(self) -> int:
        """How many arrived of origins of which no store knows how many came in before it was asked."""
        counted = {origin for store in self.stores for origin in (*store.received, *store.own)}
        return Numbers({origin: spans for origin, spans in self.about.arrived.items() if origin not in counted}).count

    def _mine(self) -> Numbers:
        """What is accounted for and went into these stores before they were asked."""
        received = _sum(store.received for store in self.stores)
        asked = received.plus(*(store.own for store in self.stores))
        later = self.about.arrived.only(asked).minus(asked)
        others = [outlet.store for outlet in self.outlets if outlet.store and outlet.store not in self.stores]
        return self.accounted.minus(later).minus(_sum(store.received for store in others).minus(received))

    def _missing(self, numbers: Numbers, short: int, lost: int) -> int:
        """Of these numbers `short` at most are missing; how many."""
        count = min(short, numbers.count)
        if not count:
            return 0
        why = next((f"{held.place} {held.gone}" for held in self.about.gone if not held.runs), "it is nowhere")
        if count < numbers.count:
            why = f"{count:,} of these are nowhere; a sender's other receivers or its dead letters have the rest"
        if lost:
            why += f" ({lost:,} events could not be read from a damaged store)"
        if taken := self._take(MISSING, numbers, why):
            self.findings[-1] = Finding(MISSING, taken, why, min(count, taken.count))
        return min(count, taken.count)

    def _elsewhere(self) -> list[Finding]:
        """Where what is left may be instead."""
        out: list[Finding] = []
        branch = any(outlet.branch for outlet in self.about.outlets)
        for other in self.others:
            if not other.relays and (not self._near(other) or branch):
                what = "another branch" if self._near(other) else "another receiver"
                out.append(Finding(LEFT_OUT, other.arrived.both(self.left), f"{what}: arrived at {other.name}"))
        for outlet in self.outlets:
            if outlet.store is None or any(outlet is mine for mine in self.about.outlets):
                continue
            near, channel = outlet.store in self.stores, outlet.store.channels.get(outlet.channel)
            if channel is None or (near and not branch):
                continue
            out.append(Finding(WAITING, channel.inside.both(self.left), f"in {outlet.name}"))
            for why, letters in channel.letters.items():
                out.append(Finding(LEFT_OUT, letters.both(self.left), f"dead letter of {outlet.name}: {why}"))
        return [found for found in out if found.numbers]


def _beyond(one: Destination, all_: Iterable[Destination], outlets: Iterable[Outlet]) -> Numbers:
    """What of a destination's numbers is at, or in, the stores and outputs of others."""
    mine = [outlet.store for outlet in one.outlets if outlet.store]
    far = [outlet for outlet in outlets if outlet.store and outlet.store not in mine]
    channels = [outlet.store.channels[outlet.channel] for outlet in far if outlet.store and not outlet.trouble]
    inside = [numbers for channel in channels for numbers in (channel.inside, *channel.letters.values())]
    held = [other.had for other in all_ if any(outlet in far for outlet in other.outlets)]
    return _sum([*inside, *held]).both(_sum(numbers for store in mine for numbers in (store.own, store.received)))


def _share(one: Destination, other: Destination) -> bool:
    return any(mine is theirs for mine in one.outlets for theirs in other.outlets)


def _sum(parts: Iterable[Numbers]) -> Numbers:
    return Numbers().plus(*parts)


def _each(stores: Iterable[Store]) -> list[Store]:
    out: list[Store] = []
    for store in stores:
        if not any(store is other for other in out):
            out.append(store)
    return out
