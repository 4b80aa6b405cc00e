"""The same as tables, for browsers: no script, no style, and each text from outside escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from urllib.parse import quote

from aggregator.topics.web.listing import Listed
from aggregator.topics.web.shown import Members

MOST_CHARS = 2000
"""Of one cell; the JSON has the rest."""
OF_RECORDS = ("partition", "offset", "time", "key", "headers", "body")


def of_topics(listed: Sequence[Listed], query: str) -> str:
    """A row for each partition."""
    head = ("topic", "partition", "start", "end", "bytes", "groups, and how far behind")
    rows = [
        [_link(topic, query), *_numbers(one), _behind(topic, one)] for topic in listed for one in topic["partitions"]
    ]
    return _document("Topics", f"<p>{len(listed)} topics</p>" + _table(head, rows))


def _link(topic: Listed, query: str) -> str:
    return f'<a href="{_path(topic["name"], query)}">{escape(topic["name"])}</a>'


def _numbers(partition: Listed) -> list[str]:
    return [str(partition[name]) for name in ("partition", "start", "end", "bytes")]


def _behind(topic: Listed, partition: Listed) -> str:
    index = str(partition["partition"])
    groups = [one for one in topic["groups"] if index in one["partitions"]]
    return _cell(", ".join(f"{one['group']}: {one['partitions'][index]['lag']}" for one in groups))


def of_records(name: str, records: Iterable[Members], query: str) -> str:
    """The newest first."""
    rows = [[_cell(one.get(column, "")) for column in OF_RECORDS[:-1]] + [_body(one)] for one in records]
    links = f'<p><a href="{_path("", query)}">topics</a> <a href="{_path(name, query, "/stream")}">stream</a></p>'
    return _document(f"Topic {name}", links + _table(OF_RECORDS, rows[::-1]))


def _body(record: Members) -> str:
    """The body, or why there is none."""
    return _cell(next((record[name] for name in ("body", "left_out", "error") if name in record), ""))


def _cell(text: str) -> str:
    cut = text if len(text) <= MOST_CHARS else f"{text[:MOST_CHARS]} ... ({len(text)} characters)"
    return escape(cut)


def _path(name: str, query: str, more: str = "") -> str:
    topic = f"/{quote(name, safe='')}" if name else ""
    return escape(f"/topics{topic}{more}{query}")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n" for row in rows)
    return f'<table border="1" cellpadding="4"><tr>{titles}</tr>\n{lines}</table>'


def _document(title: str, body: str) -> str:
    return f'<!doctype html><meta charset="utf-8"><title>{escape(title)}</title><h1>{escape(title)}</h1>{body}\n'
