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
        for chunk in chunks:
            begin = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
            unpacked = sum(_pages(data, begin, chunk.total_compressed_size))
            total += max(unpacked, chunk.total_uncompressed_size)
    return total


def _pages(data: memoryview, at: int, size: int) -> Iterator[int]:
    """Unpacked bytes of each page of the column chunk that lies at `at`."""
    end = at + size
    if at < 0 or size < 0 or end > len(data):
        raise StorageError("a column of this parquet file lies outside of it", got=f"{size} bytes at {at}")
    while at < end:
        try:
            found, at = _page_header(data, at)
            unpacked, packed = found[2], found[3]
        except (IndexError, KeyError, RecursionError) as error:
            raise StorageError("a page of this parquet file has no header", got=f"byte {at}") from error
        if unpacked < 0 or packed < 0 or at + packed > end:
            raise StorageError("a page leads out of its column", got=f"{packed} bytes at byte {at}")
        yield unpacked
        at += packed


def _page_header(data: memoryview, at: int) -> tuple[dict[int, int], int]:
    """(field -> whole number, where the structure ends), thrift's compact protocol."""
    found: dict[int, int] = {}
    field = 0
    while (head := data[at]) != 0:
        at += 1
        if head >> 4:
            field += head >> 4
        else:
            number, at = _varint(data, at)
            field = (number >> 1) ^ -(number & 1)
        kind = head & 15
        if kind in (4, 5, 6):
            number, at = _varint(data, at)
            found[field] = (number >> 1) ^ -(number & 1)
        else:
            at = _behind(data, at, kind, 0)
    return found, at + 1


def _behind(data: memoryview, at: int, kind: int, depth: int) -> int:
    """Where a value of a thrift kind ends."""
    if depth > _NESTED:
        raise IndexError(depth)
    if kind in (1, 2):
        return at
    if kind in (3, 7):
        return at + (1 if kind == 3 else 8)
    if kind in (4, 5, 6):
        return _varint(data, at)[1]
    if kind == 8:
        length, at = _varint(data, at)
        return at + length
    if kind == 12:
        while (head := data[at]) != 0:
            at += 1
            if not head >> 4:
                at = _varint(data, at)[1]
            at = _behind(data, at, head & 15, depth + 1)
        return at + 1
    raise IndexError(kind)  # headers of pages hold no lists and no maps


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
        if shift > 63:
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

    for message in ipc.MessageReader.open_stream(source):
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
