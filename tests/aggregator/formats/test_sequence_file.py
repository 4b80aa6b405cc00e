"""SequenceFile: keys, values, syncs and blocks. Java and Spark read them in tests/peers/test_formats.py."""

from __future__ import annotations

import itertools
from unittest.mock import patch

import pytest

from agent import clock
from agent.errors import Rejected
from agent.event import Batch, Event
from aggregator.formats import codecs
from aggregator.formats.format import make_format
from aggregator.formats.sequence_file import vint
from tests.aggregator.formats.reading import EVENTS, Sequence6, write

RECORDS = [(int(event.headers["timestamp"]), event.body) for event in EVENTS]


@pytest.mark.parametrize("codec", ["none", *codecs.NAMES])
@pytest.mark.parametrize("write_format", ["Writable", "text"])
@pytest.mark.parametrize("compression", ["BLOCK", "record"])
def test_what_went_in(codec: str, write_format: str, compression: str) -> None:
    """Keys are the timestamps and values the bodies, whatever the codec, its level and the type of the values."""
    form = make_format("sequencefile", codec, write_format, compression=compression)()
    assert Sequence6(write(form, EVENTS[:90], EVENTS[90:])).records == RECORDS


def test_its_header() -> None:
    """It names the classes of Java that read it, as Flume's does."""
    found = Sequence6(write(make_format(codec="gzip")(), EVENTS))
    assert (found.key, found.value) == ("org.apache.hadoop.io.LongWritable", "org.apache.hadoop.io.BytesWritable")
    assert (found.codec, found.blocks) == ("org.apache.hadoop.io.compress.GzipCodec", True)
    assert not Sequence6(write(make_format()(), EVENTS)).compressed


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_a_file_cut_after_a_batch_is_whole(codec: str) -> None:
    """Each unit stands alone, and ends or starts with a sync at which a reader of a part begins."""
    form = make_format(codec=codec)()
    first = write(form, EVENTS[:10])
    whole = first + b"".join(form.encode(Batch(EVENTS[10:20])))
    assert Sequence6(whole[: len(first)]).records == RECORDS[:10]
    assert Sequence6(whole).records == RECORDS[:20]
    assert whole.count(Sequence6(whole).sync) == 3


def test_each_file_has_a_sync_mark_of_its_own() -> None:
    """Two files' marks differ, or one inside another's record would end it."""
    make = make_format()
    assert Sequence6(write(make(), EVENTS)).sync != Sequence6(write(make(), EVENTS)).sync


def test_an_event_without_a_timestamp_has_the_time_of_writing() -> None:
    """As in Flume."""
    with patch.object(clock, "wall_ms", return_value=77):
        assert Sequence6(write(make_format()(), [Event({}, b"x")])).records == [(77, b"x")]


@pytest.mark.parametrize("stamp", ["", "noon", "1.5", str(1 << 63)])
def test_a_timestamp_that_is_none_is_the_events_fault(stamp: str) -> None:
    """It can never be a key."""
    with pytest.raises(Rejected, match="timestamp"):
        make_format()().encode(Batch([Event({"timestamp": stamp}, b"x")]))


def test_a_negative_timestamp_is_one() -> None:
    """Readings from before 1970 have keys below 0."""
    assert Sequence6(write(make_format()(), [Event({"timestamp": "-5"}, b"")])).records == [(-5, b"")]


def test_hadoops_variable_int() -> None:
    """Sizes at its bounds, as WritableUtils.writeVInt gives them."""
    known = {0: "00", 127: "7f", 128: "8f80", 255: "8fff", 256: "8e0100", 65535: "8effff", 1 << 16: "8d010000"}
    assert {number: vint(number).hex() for number in known} == known


def test_large_values() -> None:
    """Bodies beyond the blocks of snappy come back."""
    events = [Event({"timestamp": "1"}, bytes(range(256)) * size) for size in (0, 1, 600, 2000)]
    for codec, write_format in itertools.product(("none", "snappy", "lz4"), ("Writable", "Text")):
        found = Sequence6(write(make_format(codec=codec, write_format=write_format)(), events)).records
        assert [body for _, body in found] == [event.body for event in events]
