"""What packed tables unpack to, read from their own headers before anything is unpacked.

pyarrow unpacks a page of parquet or a record batch of Arrow at whatever size its header claims. The
headers are small and plain: a thrift structure in front of each page (parquet-format, `PageHeader`),
a flatbuffer in front of each batch (Arrow, `Message`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from interp.core.errors import StorageError

_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
"""Arrow's kinds of message."""
_NESTED = 8
"""Deeper than any header of parquet lies."""
_STEPS = 400_000
"""Fields and bytes of numbers read of a file's headers: less than a second, 20,000 pages of 20,000 rows."""
_MESSAGES = 500_000
"""Batches of an Arrow file: `datasets` writes a thousand rows in each."""
_FIXED = {1: 0, 2: 0, 3: 1, 7: 8}
"""Thrift's truth values (in their head), bytes and doubles: how long they are."""
_WHOLE, _BINARY, _STRUCT = (4, 5, 6), 8, 12
"""Thrift's other kinds, of which a header of a page is made."""


def unpacked_size(path: Path, chunks: Iterable[Any]) -> int:
    """Bytes that columns of a parquet file unpack to: what its footer says, or its pages if more.

    Args:
        path: The file.
        chunks: pyarrow's description of each column chunk.

    Raises:
        StorageError: Headers that lead out of their chunk, or are none.
    """
    total = 0
    with (
        path.open("rb") as opened,
        mmap(opened.fileno(), 0, access=ACCESS_READ) as held,
        memoryview(held) as data,
    ):
        headers = _Headers(data)
        for chunk in chunks:
            begin = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
            unpacked = sum(_pages(headers, begin, chunk.total_compressed_size))
            total += max(unpacked, chunk.total_uncompressed_size)
    return total


def _pages(headers: _Headers, at: int, size: int) -> Iterator[int]:
    """Unpacked bytes of each page of the column chunk that lies at `at`."""
    end = at + size
    if at < 0 or size < 0 or end > len(headers.data):
        raise StorageError("a column of this parquet file lies outside of it", got=f"{size} bytes at {at}")
    while at < end:
        try:
            found, at = headers.read(at)
            unpacked, packed = found[2], found[3]
        except (IndexError, KeyError) as error:
            raise StorageError("a page of this parquet file has no header", got=f"byte {at}") from error
        if unpacked < 0 or packed < 0 or at + packed > end:
            raise StorageError("a page leads out of its column", got=f"{packed} bytes at byte {at}")
        yield unpacked
        at += packed


class _Headers:
    """Headers of pages, thrift's compact protocol, within a bound on all that is read of them.

    Attributes:
        data: The file.
        left: Fields and bytes of numbers that may yet be read: honest files have some twenty a page.
    """

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.left: int = _STEPS

    def read(self, at: int) -> tuple[dict[int, int], int]:
        """(field -> whole number, where the structure ends)."""
        found: dict[int, int] = {}
        field = 0
        while (head := self._byte(at)) != 0:
            at += 1
            if head >> 4:
                field += head >> 4
            else:
                number, at = self._varint(at)
                field = (number >> 1) ^ -(number & 1)
            if head & 15 in _WHOLE:
                number, at = self._varint(at)
                found[field] = (number >> 1) ^ -(number & 1)
            else:
                at = self._behind(at, head & 15, 0)
        return found, at + 1

    def _byte(self, at: int) -> int:
        self.left -= 1
        if self.left < 0:
            raise StorageError(
                "this parquet file has too many pages, or too much in their headers",
                got=f"more than {_STEPS:,} fields",
                fix="write it again with larger pages, or as .jsonl",
            )
        return self.data[at]

    def _behind(self, at: int, kind: int, depth: int) -> int:
        """Where a value of a thrift kind ends."""
        if kind in _FIXED:
            return at + _FIXED[kind]
        if kind in _WHOLE:
            return self._varint(at)[1]
        if kind == _BINARY:
            length, at = self._varint(at)
            return at + length
        if kind != _STRUCT or depth > _NESTED:
            raise IndexError(kind)  # headers of pages hold no lists and no maps
        while (head := self._byte(at)) != 0:
            at += 1
            if not head >> 4:
                at = self._varint(at)[1]
            at = self._behind(at, head & 15, depth + 1)
        return at + 1

    def _varint(self, at: int) -> tuple[int, int]:
        number = shift = 0
        while shift < 64:
            byte = self._byte(at)
            number |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return number, at
        raise IndexError(at)


def refuse_packed_batches(source: Any, where: str) -> None:
    """Refuse an Arrow stream of which a batch is compressed: nobody knows what it unpacks to.

    Args:
        source: The stream, from its beginning.
        where: Its file, for the error.

    Raises:
        StorageError: A compressed batch, or a message that is neither schema nor batch.
    """
    from pyarrow import ipc

    for number, message in enumerate(ipc.MessageReader.open_stream(source)):
        if number >= _MESSAGES:
            raise StorageError(f"{where} has too many batches", got=f"more than {_MESSAGES:,}")
        try:
            packed = _is_packed(message.metadata.to_pybytes())
        except struct.error as error:
            raise StorageError(f"{where}: a message leads out of itself") from error
        if packed:
            raise StorageError(
                f"{where} holds compressed batches",
                got="what they unpack to is nowhere said",
                fix="save it again with datasets' save_to_disk, which writes plain ones",
            )


def _is_packed(metadata: bytes) -> bool:
    message = _offset(metadata, 0)
    kind_at, header = _field(metadata, message, 1), _field(metadata, message, 2)
    kind = metadata[kind_at] if kind_at is not None and kind_at < len(metadata) else 0
    if kind == _SCHEMA:
        return False
    if header is None or kind not in (_BATCH, _DICTIONARY):
        raise struct.error("neither schema nor batch")
    batch = _offset(metadata, header)
    if kind == _DICTIONARY:
        data = _field(metadata, batch, 1)
        if data is None:
            return False
        batch = _offset(metadata, data)
    return _field(metadata, batch, 3) is not None


def _offset(data: bytes, at: int) -> int:
    """Where the table lies that a flatbuffer's offset at `at` points to."""
    return at + struct.unpack_from("<I", data, at)[0]


def _field(data: bytes, table: int, number: int) -> int | None:
    """Where a table's field lies; None where it has none."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if vtable < 0:
        raise struct.error("a table before its buffer")
    (size,) = struct.unpack_from("<H", data, vtable)
    place = 4 + 2 * number
    if place + 2 > size:
        return None
    (offset,) = struct.unpack_from("<H", data, vtable + place)
    return table + offset if offset else None
