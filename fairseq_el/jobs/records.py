"""The lines of a journal: one for each result, as JSON with a checksum."""

from __future__ import annotations

import json
import re
import zlib
from typing import Optional, Tuple

from fairseq_el.jobs.result import Result

_LINE = re.compile(rb'\{"crc32":"([0-9a-f]{8})","result":(.*)\}\n', re.DOTALL)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_ENCODING = ("utf-8", "surrogatepass")  # text may hold half a surrogate pair


def record_of(result: Result, line_digest: str = "") -> bytes:
    """The record of a result, without its checksum. Equal results have equal records.

    Args:
        line_digest: of the line of input, where the input is a pipe; else empty.
    """
    return _ENCODER.encode([*result.to_json(), line_digest]).encode(*_ENCODING)


def line_of(record: bytes) -> bytes:
    """The line of a part, with its end."""
    return b'{"crc32":"%08x","result":%b}\n' % (zlib.crc32(record), record)


def record_in(line: bytes) -> Optional[bytes]:
    """The record in a line; None if the line is not whole, or a byte of it was changed."""
    match = _LINE.fullmatch(line)
    if match is None or int(match[1], 16) != zlib.crc32(match[2]):
        return None
    return match[2]


def number_in(record: bytes) -> int:
    """The number of the line of input, from 0."""
    return int(record[1 : record.index(b",")])


def read_record(record: bytes) -> Tuple[Result, str]:
    """The result, and the digest of its line of input."""
    *values, line_digest = json.loads(record.decode(*_ENCODING))
    return Result.from_json(values), line_digest
