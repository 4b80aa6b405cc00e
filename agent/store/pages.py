"""A SQLite database file read without SQLite: its pages, as far as they are there, and the records in them.

Salvage has to read what SQLite refuses to open, so nothing here trusts a tree: every page that looks like a leaf of a
table is a leaf, whoever points to it. What the file says of itself is only believed where it can't do harm; whether a
record is what was written is for the checksum in it to say (agent/store/schema.py).

    database file   pages of `size` bytes, numbered from 1
    table leaf      0D, first freeblock (2), cells (2), start of content (2), fragments (1), pointers (2 each), cells
    cell            payload length, rowid, payload; what doesn't fit goes on in overflow pages: next page (4), content
    payload         header length, one serial type a column, then the columns
    WAL             header (32), then frames: page number (4), size of the database after a commit or 0 (4), salts (8),
                    checksums (8), the page

(SQLite, "Database File Format", sections 1.3 to 1.6, 2 and 4.) All integers are big-endian. A page may be in the file
and several times in the WAL: the last committed frame counts, but older states may hold a record that the newest one,
damaged, has lost, so they are read too.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from agent.store.schema import PAGE_SIZE

MAGIC = b"SQLite format 3\0"
WAL_MAGIC = 0x377F0682
NO_COMMIT = bytes(4)
LEAF = 0x0D
CHUNK = 1 << 20
HEADER_LIMIT = 39
"""Longest record header (bytes) that always lies in the cell itself; those of our tables have 25 at most."""
_WIDTHS = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)

Value = int | str | bytes | None


class Layout(NamedTuple):
    """What the header of a record says: the serial type and the bytes [start, stop) of each column, and the sum."""

    columns: tuple[tuple[int, int, int], ...]
    size: int

    @property
    def shape(self) -> str:
        """A letter a column: n, i, t or b for NULL, integer, text, blob."""
        return "".join("n" if kind == 0 else "i" if kind < 10 else "bt"[kind & 1] for kind, _, _ in self.columns)


class Cell(NamedTuple):
    """A record as found in a leaf: nothing of it is proven yet. `payload` is the part inside the page."""

    rowid: int
    layout: Layout
    payload: bytes
    overflow: int

    def columns(self, payload: bytes, limit: int = 1000) -> list[Value]:
        """The first `limit` columns; ValueError if text is no UTF-8."""
        out: list[Value] = []
        for kind, start, stop in self.layout.columns[:limit]:
            if kind >= 12:
                raw = payload[start:stop]
                out.append(raw.decode() if kind & 1 else raw)
            elif kind >= 8:
                out.append(kind - 8)
            else:
                out.append(int.from_bytes(payload[start:stop], "big", signed=True) if kind else None)
        return out


class Pages:
    """The file at `path` and the committed frames of its WAL. What can't be read is missing, not an error."""

    def __init__(self, path: Path) -> None:
        self._fds = [os.open(path, os.O_RDONLY | os.O_CLOEXEC)]
        wal = path.with_name(path.name + "-wal")
        if wal.exists():
            self._fds.append(os.open(wal, os.O_RDONLY | os.O_CLOEXEC))
        self.size = self._page_size()
        self.damaged = ""
        """What is wrong with the WAL, beyond a torn end."""
        self._in_file = os.fstat(self._fds[0]).st_size // self.size
        self.frames = self._committed() if len(self._fds) > 1 else []
        self._overlay = dict(self.frames)
        self.count = max([self._in_file, *self._overlay])

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)

    def _page_size(self) -> int:
        """What the file's header says, else what we always write: the header may be what is damaged."""
        head = self._read(0, 0, 20)
        said = int.from_bytes(head[16:18], "big")
        if head.startswith(MAGIC) and said >= 512 and said & (said - 1) == 0:
            return said
        return PAGE_SIZE

    def _read(self, which: int, at: int, length: int) -> bytes:
        try:
            return os.pread(self._fds[which], length, at)
        except OSError:  # a bad sector
            return b""

    def page(self, number: int) -> bytes:
        """A page in its last committed state; empty if it can't be had."""
        at = self._overlay.get(number)
        return self._read(0, (number - 1) * self.size, self.size) if at is None else self._read(1, at, self.size)

    def at(self, place: int) -> bytes:
        """The page at a place that `leaves` gave."""
        return self._read(place & 1, place >> 1, self.size)

    def leaves(self) -> Iterator[tuple[int, bytes, bool]]:
        """(place, bytes, whether this is its page's last state) of every page that may be a leaf of a table.

        All but overflow pages (they begin with the number of a page below 2^24), pointer maps (1 to 5) and page 1.
        """
        for start in range(0, self._in_file * self.size, CHUNK):
            chunk = self._chunk(start)
            for i, first in enumerate(chunk[:: self.size]):
                number = start // self.size + i + 1
                if first >= 5 and 1 < number <= self._in_file:
                    page = chunk[i * self.size : (i + 1) * self.size]
                    yield (start + i * self.size) << 1, page, number not in self._overlay
        for number, at in self.frames:
            page = self._read(1, at, self.size)
            if number > 1 and len(page) == self.size and page[0] >= 5:
                yield at << 1 | 1, page, self._overlay[number] == at

    def _chunk(self, start: int) -> bytes:
        length = min(CHUNK, self._in_file * self.size - start)
        chunk = self._read(0, start, length)
        if len(chunk) == length:
            return chunk
        pages = (self._read(0, at, self.size) for at in range(start, start + length, self.size))
        return b"".join(page.ljust(self.size, b"\0") for page in pages)

    def _committed(self) -> list[tuple[int, int]]:
        """(page number, offset of the page in the WAL) of each committed frame, in order.

        SQLite ends a WAL at the first frame whose checksum doesn't fit. That is right for a torn one, which only the
        last transaction can have, since each is synced before the next begins. So if anything follows the end of that
        transaction, the WAL is `damaged`, and everything up to its last commit is returned, proven or not.
        """
        head = self._read(1, 0, 32)
        size = 24 + self.size
        headers = [self._read(1, at, 24) for at in range(32, os.fstat(self._fds[1]).st_size - size + 1, size)]
        if len(head) < 32 or not headers:
            return []
        proven = self._proven(head, headers)
        if proven < 0:
            self.damaged = "the header of its WAL does not fit"
            generations = Counter(frame[8:16] for frame in headers)
            mine = [i for i, frame in enumerate(headers) if generations[frame[8:16]] > 1]
            mine.sort(key=lambda i: headers[i][8:12])  # the first salt counts how often the WAL began anew
        else:
            mine = [i for i, frame in enumerate(headers) if frame[8:16] == head[16:24]]
            torn = next((i for i in mine if i >= proven and headers[i][4:8] != NO_COMMIT), len(headers))
            if mine and mine[-1] > torn:
                self.damaged = f"the checksum of frame {proven + 1} of its WAL does not fit"
            else:
                mine = mine[:proven]
        while mine and headers[mine[-1]][4:8] == NO_COMMIT:
            del mine[-1]
        return [(number, 56 + i * size) for i in mine if (number := int.from_bytes(headers[i][:4], "big"))]

    def _proven(self, head: bytes, headers: list[bytes]) -> int:
        """How many frames from the first on have fitting checksums; -1 if the WAL's header hasn't."""
        magic, _, size, _, salts, sums = struct.unpack(">4I8s8s", head)
        order = ">" if magic & 1 else "<"
        summed = _checksum(head[:24], order, (0, 0))
        if magic & ~1 != WAL_MAGIC or size != self.size or sums != struct.pack(">2I", *summed):
            return -1
        for i, frame in enumerate(headers):
            page = self._read(1, 32 + i * (24 + self.size) + 24, self.size)
            if frame[8:16] != salts or len(page) < self.size:
                return i
            summed = _checksum(page, order, _checksum(frame[:8], order, summed))
            if frame[16:24] != struct.pack(">2I", *summed):
                return i
        return len(headers)

    def payload(self, cell: Cell) -> bytes | None:
        """A record with what lies in overflow pages; None if the chain breaks."""
        left = cell.layout.size - len(cell.payload)
        if left == 0:
            return cell.payload
        if left > self.count * self.size:
            return None
        parts, number = [cell.payload], cell.overflow
        while left > 0:
            page = self.page(number) if 2 <= number <= self.count else b""
            if len(page) < self.size:
                return None
            parts.append(page[4 : 4 + left])
            left -= self.size - 4
            number = int.from_bytes(page[:4], "big")
        return b"".join(parts)


def _checksum(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    """The WAL's running checksum over a multiple of 8 bytes (section 4.2)."""
    a, b = sums
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for word in words:
        a = (a + word + b) & 0xFFFFFFFF
        b = (b + next(words) + a) & 0xFFFFFFFF
    return a, b


def wal_damage(path: Path) -> str:
    """What is wrong with the WAL of the database at `path`; SQLite would go on without what comes after it."""
    wal = path.with_name(path.name + "-wal")
    if not wal.exists() or not wal.stat().st_size:
        return ""
    pages = Pages(path)
    pages.close()
    return pages.damaged


def cells(page: bytes) -> Iterator[Cell]:
    """What can be read as cells of a leaf.

    Its header may be damaged, so pointers behind those that it counts are followed too, for as long as they make
    sense; where the header makes none, all that may be pointers are.
    """
    size = len(page)
    counted = int.from_bytes(page[3:5], "big")
    sound = page[0] == LEAF and 8 + 2 * counted <= size
    seen: set[int] = set()
    for i in range(size // 16):
        at = int.from_bytes(page[8 + 2 * i : 10 + 2 * i], "big")
        plausible = 10 + 2 * i <= at <= size - 4 and at not in seen
        if 8 + 2 * i >= min(seen, default=size) or (sound and i >= counted and not plausible):
            return
        if plausible:
            seen.add(at)
            cell = _cell(page, at)
            if cell:
                yield cell


def _cell(page: bytes, at: int) -> Cell | None:
    try:
        size, at = _varint(page, at)
        rowid, at = _varint(page, at)
        length = page[at]
        # The key of each of our tables is the rowid itself, which is stored as NULL.
        if not 3 <= length <= HEADER_LIMIT or length > size or page[at + 1] != 0:
            return None
    except IndexError:
        return None
    layout = _layout(page[at : at + length])
    local = _local(size, len(page))
    payload, overflow = page[at : at + local], page[at + local : at + local + 4]
    if layout is None or layout.size != size or len(payload) < local:
        return None
    return Cell(rowid, layout, payload, int.from_bytes(overflow, "big"))


@lru_cache(8192)
def _layout(header: bytes) -> Layout | None:
    """A record header, read (section 2.1); None if it can't be one of ours."""
    columns = []
    pos, at = 1, len(header)
    try:
        while pos < len(header):
            kind, pos = _varint(header, pos)
            if kind in (7, 10, 11):  # a float, or reserved
                return None
            start, at = at, at + (_WIDTHS[kind] if kind < 10 else (kind - 12) // 2)
            columns.append((kind, start, at))
    except IndexError:
        return None
    return Layout(tuple(columns), at)


def _local(size: int, page: int) -> int:
    """How much of a payload a leaf of a table holds itself (section 1.6, "U", "X", "M" and "K")."""
    if size <= page - 35:
        return size
    least = (page - 12) * 32 // 255 - 23
    kept = least + (size - least) % (page - 4)
    return kept if kept <= page - 35 else least


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """SQLite's varint, unsigned: seven bits a byte, most significant first, the ninth byte whole."""
    value = 0
    for pos in range(at, at + 8):
        byte = data[pos]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, pos + 1
    return value << 8 | data[at + 8], at + 9
