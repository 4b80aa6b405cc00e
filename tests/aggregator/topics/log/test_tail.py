"""The newest batches in memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aggregator.topics.log.tail import Cache, Tail


@given(
    st.integers(1, 200),
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40), st.integers(1, 3)), max_size=300),
    st.integers(0, 100),
    st.integers(1, 300),
)
def test_what_a_cache_holds_is_the_newest_that_fits(
    limit: int, added: list[tuple[int, int, int]], back: int, most: int
) -> None:
    """Of all partitions together, without a gap up to each one's end; reading is as from the whole list."""
    cache, tails = Cache(limit), [Tail(0), Tail(0), Tail(0)]
    all_: list[tuple[int, int, bytes]] = []
    ends = [0, 0, 0]
    for which, size, count in added:
        ends[which] += count
        batch = bytes([which]) * size
        cache.add(tails[which], ends[which] - 1, batch)
        all_.append((which, ends[which] - 1, batch))
    kept = all_[:]
    while sum(len(batch) for _, _, batch in kept) > limit:
        kept.pop(0)
    assert cache.size == sum(len(batch) for _, _, batch in kept)
    for which, tail in enumerate(tails):
        mine = [(last, batch) for w, last, batch in kept if w == which]
        upto = max(tail.first, ends[which] - back % 3)
        offset = max(tail.first, upto - back)
        wanted: list[bytes] = []
        for last, batch in mine:
            if offset <= last < upto:
                if wanted and sum(map(len, wanted)) + len(batch) > most:
                    break
                wanted.append(batch)
        assert tail.read(offset, most, upto) == wanted
        gone = [last for w, last, _ in all_[: len(all_) - len(kept)] if w == which]
        assert tail.first == (gone[-1] + 1 if gone else 0)
