"""TensorBoard's event files, read without TensorBoard.

A file is a row of records, each `length (uint64), CRC of it, bytes, CRC of them` (TFRecord, little
endian, CRC-32C masked as in tensorflow/core/lib/hash/crc32c.h). The bytes are an `Event` in
protocol buffers (tensorboard/compat/proto/event.proto): wall_time = 1, step = 2, summary = 5; its
values (summary.proto) hold a tag = 1 and either simple_value = 2 or a tensor = 8.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pytest_gates.errors import EvidenceError
from pytest_gates.readers.rows import Row, Rows

_HEADER, _FOOTER = struct.Struct("<QI"), struct.Struct("<I")
_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), reflected
_MASK = 0xA282EAD8
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FLOAT, _DOUBLE = 1, 2  # types.proto: DT_FLOAT, DT_DOUBLE
_SIZES = {_FIXED64: 8, _FIXED32: 4}
_MORE, _LONGEST = 0x80, 10

Field = tuple[int, int | bytes]


def read_tensorboard(data: bytes, place: str) -> Rows:
    """Read the scalars; `step` and `wall_time` (in s) are told with each.

    Raises:
        EvidenceError: a record is damaged. A last one that is cut off is left out, since a program
            that was ended may have been writing it.
    """
    rows: list[Row] = []
    for number, record in enumerate(_records(data, place)):
        where = f"{place}: event {number}"
        try:
            values = _event(record)
        except (struct.error, IndexError, UnicodeDecodeError, ValueError):
            raise EvidenceError(f"{where} is no event of TensorBoard") from None
        if len(values) > len(("step", "wall_time")):
            rows.append(Row(where, values))
    return Rows(rows)


def _records(data: bytes, place: str) -> Iterator[bytes]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, crc = _HEADER.unpack_from(data, at)
        if _masked_crc(data[at : at + 8]) != crc:
            raise EvidenceError(f"{place}: no record of an event file at byte {at}")
        end = at + _HEADER.size + length
        if end + _FOOTER.size > len(data):
            return
        record = data[at + _HEADER.size : end]
        if _masked_crc(record) != _FOOTER.unpack_from(data, end)[0]:
            raise EvidenceError(f"{place}: the record at byte {at} is damaged")
        yield record
        at = end + _FOOTER.size
    if at == 0:
        raise EvidenceError(f"{place}: no record of an event file")


def _table() -> tuple[int, ...]:
    found = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_POLYNOMIAL if crc & 1 else 0)
        found.append(crc)
    return tuple(found)


_CRC = _table()


def _masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF


def _event(record: bytes) -> dict[str, float | int]:
    values: dict[str, float | int] = {"step": 0}
    for number, value in _fields(record):
        if number == 1:
            values["wall_time"] = struct.unpack("<d", _bytes(value))[0]
        elif number == 2:  # noqa: PLR2004 - the field of the module's docstring
            values["step"] = int(value)
        elif number == 5:  # noqa: PLR2004 - as above
            values |= dict(_scalars(_bytes(value)))
    return values


def _scalars(summary: bytes) -> Iterator[tuple[str, float]]:
    for number, value in _fields(summary):
        if number != 1:
            continue
        inside = dict(_fields(_bytes(value)))
        tag = _bytes(inside.get(1, b"")).decode()
        if 2 in inside:  # noqa: PLR2004 - simple_value
            yield tag, struct.unpack("<f", _bytes(inside[2]))[0]
        elif 8 in inside:  # noqa: PLR2004 - tensor
            scalar = _tensor(_bytes(inside[8]))
            if scalar is not None:
                yield tag, scalar


def _tensor(tensor: bytes) -> float | None:
    """The value of a tensor of one number; None for pictures, texts and histograms."""
    inside = dict(_fields(tensor))
    kind, content = inside.get(1), _bytes(inside.get(4, b""))
    form, packed = ("<f", 5) if kind == _FLOAT else ("<d", 6) if kind == _DOUBLE else ("", 0)
    raw = content or (_bytes(inside.get(packed, b"")) if form else b"")
    if not form or len(raw) != struct.calcsize(form):
        return None
    value: float = struct.unpack(form, raw)[0]
    return value


def _fields(message: bytes) -> Iterator[Field]:
    """Number and value of each field of a message in protocol buffers' encoding."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in _SIZES:
            size = _SIZES[kind]
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(message):
            raise ValueError("a field beyond its message")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(_LONGEST):
        byte = message[at + shift]
        value |= (byte & ~_MORE) << (7 * shift)
        if not byte & _MORE:
            return value, at + shift + 1
    raise ValueError("a varint of more than 64 bits")


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where bytes belong")  # noqa: TRY004 - one error for bad bytes
    return value
