"""Hadoop's compression codecs, by the names that Flume's codeC takes: `gzip`, `GzipCodec`, or the Java class.

A unit is what Hadoop's compressor makes from `finish()` to `resetState()`, which is what Flume does at each flush; its
readers take any number of them one after another:

    default, deflate   a zlib stream (RFC 1950)          gzip, bzip2, zstandard   a member or frame
    snappy, lz4        (u32 raw size, u32 size, raw snappy or lz4 block), big-endian, as often as needed
                       (BlockCompressorStream); a reader's buffer holds 256 KiB of raw bytes
"""

from __future__ import annotations

import bz2
import importlib
import struct
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from agent.component import EXTRAS
from agent.errors import ConfigError

PACKAGE = "org.apache.hadoop.io.compress."
CHUNK = 1 << 17
"""Raw bytes of one block of snappy or lz4."""
NO_LZO = "LZO has no kept Python library; take snappy, as quick to write, or gzip"


class Codec(NamedTuple):
    """`compress` makes one unit."""

    java: str
    extension: str
    compress: Callable[[bytes], bytes]


def library(name: str, what: str) -> Any:
    """A library that only some codecs need. ConfigError names the extra to install."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        package = name.partition(".")[0]
        raise ConfigError(f"{what} needs the package {name}: pip install 'headrace[{EXTRAS[package]}]'") from None


def find(name: str) -> Codec | None:
    """The codec of this name, or None for `none`. ConfigError if there is none or its library is missing."""
    short = name.removeprefix(PACKAGE).lower().removesuffix("codec")
    if short == "none":
        return None
    if short.rpartition(".")[2] in ("lzo", "lzop"):
        raise ConfigError(f"codeC = {name}: {NO_LZO}")
    if short not in _MAKE:
        raise ConfigError(f"codeC = {name}: takes {', '.join(NAMES)}")
    java, extension, make = _MAKE[short]
    return Codec(PACKAGE + java, extension, make())


def _zlib() -> Callable[[bytes], bytes]:
    return zlib.compress


def _gzip() -> Callable[[bytes], bytes]:
    def compress(data: bytes) -> bytes:
        squeeze = zlib.compressobj(wbits=31)
        return squeeze.compress(data) + squeeze.flush()

    return compress


def _bzip2() -> Callable[[bytes], bytes]:
    return bz2.compress


def _zstandard() -> Callable[[bytes], bytes]:
    compress: Callable[[bytes], bytes] = zstd("codeC = zstandard").compress
    return compress


def zstd(what: str) -> Any:
    """The zstd module: of Python itself from 3.14 on."""
    try:
        return importlib.import_module("compression.zstd")
    except ModuleNotFoundError:
        return library("backports.zstd", what)


def _snappy() -> Callable[[bytes], bytes]:
    raw = library("cramjam", "codeC = snappy").snappy.compress_raw
    return lambda data: _blocks(data, raw)


def _lz4() -> Callable[[bytes], bytes]:
    block = library("cramjam", "codeC = lz4").lz4.compress_block
    return lambda data: _blocks(data, lambda chunk: block(chunk, store_size=False))


def _blocks(data: bytes, compress: Callable[[memoryview], Any]) -> bytes:
    out: list[bytes] = []
    view = memoryview(data)
    for start in range(0, len(data), CHUNK):
        chunk = view[start : start + CHUNK]
        squeezed = bytes(compress(chunk))
        out += (struct.pack(">II", len(chunk), len(squeezed)), squeezed)
    return b"".join(out)


_MAKE: dict[str, tuple[str, str, Callable[[], Callable[[bytes], bytes]]]] = {
    "gzip": ("GzipCodec", ".gz", _gzip),
    "bzip2": ("BZip2Codec", ".bz2", _bzip2),
    "snappy": ("SnappyCodec", ".snappy", _snappy),
    "lz4": ("Lz4Codec", ".lz4", _lz4),
    "zstandard": ("ZStandardCodec", ".zst", _zstandard),
    "default": ("DefaultCodec", ".deflate", _zlib),
    "deflate": ("DeflateCodec", ".deflate", _zlib),
}
NAMES = tuple(_MAKE)
