"""What is said of a number, from what stores and destinations say. Pure: no store and no destination is asked."""

from __future__ import annotations

from agent.audit.numbers import Numbers
from agent.audit.report import lines
from agent.audit.verdict import Channel, Destination, Outlet, Store, judge
from agent.sink import Held
from agent.store.streams import Identity

A, B = b"a" * 16, b"b" * 16
Found = list[tuple[str, list[tuple[int, int]], int]]


def nums(*spans: tuple[int, int], origin: bytes = A) -> Numbers:
    return Numbers.of(Identity(origin, first, last - first + 1) for first, last in spans)


def store(put: int, received: Numbers, name: str = "s", **more: Channel) -> Store:
    return Store(name, {"c": Channel(put, Numbers()), **more}, received, Numbers())


def place(store: Store, arrived: Numbers, name: str = "k", channel: str = "c", branch: bool = False) -> Destination:
    return Destination(name, "sqlite", [Outlet("a", channel, store, branch=branch)], arrived)


def said(*destinations: Destination, more: tuple[Outlet, ...] = ()) -> Found:
    """(kind, spans, count) of the first one's findings."""
    outlets = [outlet for one in destinations for outlet in one.outlets]
    verdict = judge(destinations, [*outlets, *more])[0]
    return [(found.kind, found.numbers.get(A, []), found.count) for found in verdict.findings]


def test_a_hole_of_what_was_put_is_missing() -> None:
    """As many went in as were received, fewer arrived: the difference is missing, with its numbers."""
    assert said(place(store(10, nums((1, 10))), nums((1, 4), (7, 10)))) == [
        ("arrived", [(1, 4), (7, 10)], 8), ("missing", [(5, 6)], 2),
    ]  # fmt: skip


def test_a_hole_that_was_never_put_is_left_out() -> None:
    """A stream's holes (other receivers, other channels of the sender) are not missing: as many arrived as went in."""
    assert said(place(store(8, nums((1, 10))), nums((1, 4), (7, 10)))) == [
        ("arrived", [(1, 4), (7, 10)], 8), ("left out", [(5, 6)], 2),
    ]  # fmt: skip


def test_some_of_the_holes_are_missing() -> None:
    """Where fewer are missing than there are holes the count is right, and the holes are named."""
    assert said(place(store(9, nums((1, 10))), nums((1, 4), (7, 10)))) == [
        ("arrived", [(1, 4), (7, 10)], 8), ("missing", [(5, 6)], 1),
    ]  # fmt: skip


def test_a_hole_that_is_at_another_receiver() -> None:
    """What another receiver's destination holds was settled there; what is nowhere is missing."""
    mine = place(store(8, nums((1, 10))), nums((1, 4), (8, 10)))
    other = place(store(2, nums((5, 6)), "t"), nums((5, 6)), "other")
    assert said(mine, other) == [
        ("arrived", [(1, 4), (8, 10)], 7), ("missing", [(7, 7)], 1), ("left out", [(5, 6)], 2),
    ]  # fmt: skip


def test_both_outputs_of_a_store_should_hold_all() -> None:
    """With a replicating selector, what one output holds is missing at the other."""
    both = store(5, Numbers(), d=Channel(5, Numbers()))
    assert said(place(both, nums((1, 3))), place(both, nums((1, 5)), "other", "d")) == [
        ("arrived", [(1, 3)], 3), ("missing", [(4, 5)], 2),
    ]  # fmt: skip


def test_another_branch_of_a_selector() -> None:
    """With a multiplexing selector, what another branch's output holds is left out."""
    both = store(3, nums((1, 5)), d=Channel(2, Numbers()))
    assert said(place(both, nums((1, 3)), branch=True), place(both, nums((4, 5)), "other", "d", True)) == [
        ("arrived", [(1, 3)], 3), ("left out", [(4, 5)], 2),
    ]  # fmt: skip


def test_what_two_branches_were_given_and_one_lost() -> None:
    """A number that went to both branches and is at one alone is missing at the other."""
    both = store(3, nums((1, 5)), d=Channel(3, Numbers()))
    assert said(place(both, nums((1, 2)), branch=True), place(both, nums((3, 5)), "other", "d", True)) == [
        ("arrived", [(1, 2)], 2), ("missing", [(3, 5)], 1),
    ]  # fmt: skip


def test_two_sinks_of_a_channel() -> None:
    """What another sink drained from the same channel is left out."""
    one = store(5, nums((1, 5)))
    other = Destination("other", "hdfs", [Outlet("a", "c", one)], nums((4, 5)))
    mine = place(one, nums((1, 3)))
    mine.outlets = other.outlets
    assert said(mine, other) == [("arrived", [(1, 3)], 3), ("left out", [(4, 5)], 2)]


def test_what_came_after_the_store_was_asked_hides_nothing() -> None:
    """While events flow the destination is read later than the store: what it has more doesn't stand for a hole."""
    assert said(place(store(10, nums((1, 10))), nums((1, 4), (7, 14)))) == [
        ("arrived", [(1, 4), (7, 14)], 12), ("missing", [(5, 6)], 2),
    ]  # fmt: skip


def test_rows_of_others_hide_nothing() -> None:
    """Where a store counts no origins (its source is kafka), rows from elsewhere stand for no hole: it isn't known."""
    both = store(10, Numbers(), d=Channel(10, Numbers()))
    mine, other = place(both, nums((1, 8)).plus(nums((1, 2), origin=B))), place(both, nums((1, 10)), "other", "d")
    assert said(mine, other) == [("arrived", [(1, 8)], 10), ("not known", [(9, 10)], 2)]
    found = judge([mine, other], [*mine.outlets, *other.outlets])[0].findings[-1]
    assert found.why == "the destination holds 10 events these stores have no count of"


def test_rows_that_come_while_it_looks_hide_nothing() -> None:
    """Where a store counts no origins, rows that came after it was asked stand for no hole, told or between."""
    both = store(10, Numbers(), d=Channel(10, Numbers()))
    mine = place(both, nums((1, 4), (7, 12)))
    assert said(mine, place(both, nums((1, 10)), "other", "d")) == [
        ("arrived", [(1, 4), (7, 12)], 10), ("not known", [(5, 6)], 2),
    ]  # fmt: skip
    alone = place(store(9, Numbers()), nums((1, 4), (7, 12)))
    assert said(alone) == [("arrived", [(1, 4), (7, 12)], 10), ("not known", [(5, 6)], 2)]


def test_a_branch_whose_count_is_right() -> None:
    """Where a store counts no origins, what another branch holds is left out as long as the count is exact."""
    both = store(3, Numbers(), d=Channel(2, Numbers()))
    mine, other = place(both, nums((1, 3)), branch=True), place(both, nums((4, 5)), "other", "d", True)
    assert said(mine, other) == [("arrived", [(1, 3)], 3), ("left out", [(4, 5)], 2)]
    mine.arrived = mine.arrived.plus(nums((1, 1), origin=B))
    assert said(mine, other) == [("arrived", [(1, 3)], 4), ("not known", [(4, 5)], 2)]


def test_a_file_that_is_gone_and_whose_events_are_elsewhere() -> None:
    """What a file held that is gone is missing only as far as nothing else holds it."""
    one = place(store(5, nums((1, 5))), nums((3, 5)))
    one.files = [Held((Identity(A, 1, 3),), "f", "is not there")]
    assert said(one) == [("arrived", [(3, 5)], 3), ("missing", [(1, 2)], 2)]


def test_holes_of_an_origin_that_its_store_has_forgotten() -> None:
    """A store forgets an opening whose events have left: what it lacks is then found between what has arrived."""
    one = place(store(10, Numbers()), nums((1, 4), (7, 10)))
    assert said(one) == [("arrived", [(1, 4), (7, 10)], 8), ("missing", [(5, 6)], 2)]


def test_what_a_takeover_repeated() -> None:
    """What two receivers were given and both wrote is repeated; nothing is missing though more went in than arrived."""
    one, other = store(6, Numbers()), store(6, Numbers(), "t")
    mine = place(one, nums((1, 4), (6, 10)))
    mine.outlets = [Outlet("a", "c", one), Outlet("b", "c", other)]
    mine.files = [Held((Identity(A, 1, 4),), "f"), Held((Identity(A, 3, 2), Identity(A, 6, 5)), "g")]
    mine.repeated = nums((3, 4))
    assert said(mine) == [
        ("arrived", [(1, 4), (6, 10)], 9), ("repeated", [(3, 4)], 2), ("repeated", [(3, 4)], 2), ("not known", [], 1),
    ]  # fmt: skip


def test_a_repeat_hides_nothing() -> None:
    """What one sink wrote twice doesn't stand for what it lost."""
    mine = place(store(10, nums((1, 10))), nums((1, 8)))
    mine.repeated = nums((1, 2))
    assert said(mine) == [("arrived", [(1, 8)], 8), ("repeated", [(1, 2)], 2), ("missing", [(9, 10)], 2)]


def test_what_a_sender_knows_hides_nothing() -> None:
    """With the sender's configuration too, what is at one output alone is missing at the other."""
    far = store(5, nums((1, 5)), d=Channel(5, Numbers()))
    near = Store("sender", {"c": Channel(5, Numbers())}, Numbers(), nums((1, 5)))
    relay = Destination("relay", "avro", [Outlet("a", "c", near)], trouble="ask them", relays=True)
    mine, other = place(far, nums((1, 3))), place(far, nums((1, 5)), "other", "d")
    assert said(mine, other, relay) == [("arrived", [(1, 3)], 3), ("missing", [(4, 5)], 2)]
    assert said(relay, mine, other) == [("arrived", [(1, 5)], 5)]


def test_a_file_that_is_gone_and_whose_events_wait() -> None:
    """What the channel will deliver again is waiting, though a file that held it is gone."""
    one = store(5, nums((1, 5)))
    one.channels["c"].inside = nums((1, 3))
    mine = place(one, nums((4, 5)))
    mine.files = [Held((Identity(A, 1, 3),), "f", "is not there")]
    assert said(mine) == [("arrived", [(4, 5)], 2), ("waiting", [(1, 3)], 3)]


def test_events_without_a_known_number_are_counted() -> None:
    """More went in than is accounted for, and no number is open: they are told by their count."""
    assert said(place(store(7, nums((1, 5))), nums((1, 5)))) == [("arrived", [(1, 5)], 5), ("not known", [], 2)]


def test_a_destination_that_cannot_say() -> None:
    """What isn't found where not everything can be read is not known, and never missing."""
    one = place(store(5, nums((1, 5))), nums((1, 2)))
    one.trouble = "no answer"
    assert said(one) == [("arrived", [(1, 2)], 2), ("not known", [(3, 5)], 3)]


def test_the_table_names_what_is_missing() -> None:
    """The lines for people have the counts, the ranges by origin, and at the end what is missing."""
    one = place(store(10, nums((1, 10))), nums((1, 4), (7, 10)))
    text = list(lines(judge([one], one.outlets)))
    assert text[1].split() == ["k", "(sqlite)", "8", "0", "0", "0", "2", "0"]
    assert f"  MISSING   {A.hex()}  5-6: it is nowhere" in text
    assert text[-1] == "MISSING: 2 at k"
