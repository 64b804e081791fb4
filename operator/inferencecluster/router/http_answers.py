"""HTTP/1.1 answers, parsed as they arrive (RFC 9112): by length, in chunks, or until the connection ends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import Final

LARGEST_HEAD_BYTES: Final = 64 * 1024
"""uvicorn and aiohttp send some hundred bytes; whoever sends more is no engine."""

_HEAD_END: Final = b"\r\n\r\n"
_LINE_END: Final = b"\r\n"
_VERSIONS: Final = (b"HTTP/1.1", b"HTTP/1.0")
_OK: Final = HTTPStatus.OK.value
"""Read once: in Python 3.11 each access to a member of `HTTPStatus` is a call."""
_NO_BODY: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class BrokenAnswer(ConnectionError):  # noqa: N818 - a ConnectionError, named like its siblings
    """What came is no HTTP answer, or not all of one."""


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of an answer."""

    status: int
    content_type: str
    """Without parameters, in small letters."""
    keeps_alive: bool
    """The server may take another request on the connection."""


class _Part(Enum):
    HEAD = auto()
    LENGTH = auto()
    CHUNK_SIZE = auto()
    CHUNK = auto()
    CHUNK_END = auto()
    TRAILER = auto()
    UNTIL_CLOSE = auto()
    COMPLETE = auto()


class AnswerParser:
    """Takes the bytes of one answer. `head` is there once it has arrived, `complete` is true at the end."""

    __slots__ = ("_left", "_part", "_rest", "head")

    def __init__(self) -> None:
        self.head: Head | None = None
        self._part = _Part.HEAD
        self._rest = b""
        self._left = 0

    @property
    def complete(self) -> bool:
        """The whole answer has come."""
        return self._part is _Part.COMPLETE

    def feed(self, data: bytes) -> bytes:
        """The piece of the body that `data` brings, possibly empty. Raises `BrokenAnswer`."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        if self._part is _Part.HEAD:
            data = self._read_head(data)
        if self._part is _Part.UNTIL_CLOSE:
            return data
        if self._part is _Part.LENGTH:
            return self._read_length(data)
        if self._part is _Part.HEAD:
            return b""
        return self._read_chunks(data)

    def end(self) -> None:
        """The connection has ended. Raises `BrokenAnswer` in the middle of an answer."""
        if self._part is _Part.UNTIL_CLOSE:
            self._part = _Part.COMPLETE
        if self._part is not _Part.COMPLETE:
            raise BrokenAnswer("the connection ended in the middle of an answer")

    def _read_head(self, data: bytes) -> bytes:
        """Whatever follows the head; interim answers (1xx) are passed over."""
        while True:
            end = data.find(_HEAD_END)
            if end < 0:
                if len(data) > LARGEST_HEAD_BYTES:
                    raise BrokenAnswer(f"the head of an answer is larger than {LARGEST_HEAD_BYTES} bytes")
                self._rest = data
                return b""
            status, version, fields = _fields(data[:end])
            data = data[end + len(_HEAD_END) :]
            if status >= _OK:
                break
        self._begin_body(status, version, fields)
        return data

    def _begin_body(self, status: int, version: bytes, fields: dict[bytes, bytes]) -> None:
        coding = fields.get(b"transfer-encoding", b"")
        length = fields.get(b"content-length", b"")
        options = fields.get(b"connection", b"")
        delimited = True
        if status in _NO_BODY:
            self._part = _Part.COMPLETE
        elif coding == b"chunked":
            self._part = _Part.CHUNK_SIZE
        elif coding:
            raise BrokenAnswer(f"the transfer encoding {coding[:40]!r} is none that was asked for")
        elif length:
            self._left = _decimal(length)
            self._part = _Part.LENGTH if self._left else _Part.COMPLETE
        else:
            self._part, delimited = _Part.UNTIL_CLOSE, False
        content_type = fields.get(b"content-type", b"").partition(b";")[0].strip()
        keeps_alive = delimited and (
            b"close" not in options if version == b"HTTP/1.1" else b"keep-alive" in options
        )
        self.head = Head(status, content_type.decode("latin-1"), keeps_alive)

    def _read_length(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise BrokenAnswer("more came than the length of the answer")
        if self._left == 0:
            self._part = _Part.COMPLETE
        return data

    def _read_chunks(self, data: bytes) -> bytes:
        pieces = []
        position = 0
        while position < len(data) or self._part is _Part.CHUNK_END:
            if self._part is _Part.CHUNK:
                piece = data[position : position + self._left]
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
                self._part = _Part.CHUNK_END
                continue
            if self._part is _Part.COMPLETE:
                raise BrokenAnswer("more came than the last chunk of the answer")
            end = data.find(_LINE_END, position)
            if self._part is _Part.CHUNK_SIZE and end >= 0:
                # Most chunks come whole.
                left = _chunk_size(data[position:end])
                begin, stop = end + len(_LINE_END), end + len(_LINE_END) + left
                if left and data[stop : stop + len(_LINE_END)] == _LINE_END:
                    pieces.append(data[begin:stop])
                    position = stop + len(_LINE_END)
                    continue
            if end < 0:
                self._rest = data[position:]
                if len(self._rest) > LARGEST_HEAD_BYTES:
                    raise BrokenAnswer("a line between two chunks is too long")
                break
            self._read_line(data[position:end])
            position = end + len(_LINE_END)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_line(self, line: bytes) -> None:
        """One line between chunks: a size, the end of a chunk, or a trailer."""
        if self._part is _Part.CHUNK_SIZE:
            self._left = _chunk_size(line)
            self._part = _Part.CHUNK if self._left else _Part.TRAILER
        elif self._part is _Part.CHUNK_END:
            if line:
                raise BrokenAnswer("a chunk is longer than its size")
            self._part = _Part.CHUNK_SIZE
        elif not line:
            self._part = _Part.COMPLETE


def _fields(head: bytes) -> tuple[int, bytes, dict[bytes, bytes]]:
    """Status, version, and header fields in small letters."""
    first, _, rest = head.partition(_LINE_END)
    version = first[: len(b"HTTP/1.1")]
    if version not in _VERSIONS or first[len(version) : len(version) + 1] != b" ":
        raise BrokenAnswer(f"an answer begins with {first[:40]!r}")
    fields = {}
    for line in rest.lower().split(_LINE_END) if rest else ():
        name, colon, value = line.partition(b":")
        if not colon:
            raise BrokenAnswer(f"a header field is {line[:40]!r}")
        fields[name.strip()] = value.strip()
    return _decimal(first[len(version) + 1 : len(version) + 4]), version, fields


# int() takes signs, blanks and underscores, which HTTP does not.


def _decimal(text: bytes) -> int:
    if not text.isdigit():
        raise BrokenAnswer(f"{text[:40]!r} is no number")
    return int(text)


def _chunk_size(line: bytes) -> int:
    text = line.partition(b";")[0].strip()
    if not text or text.strip(b"0123456789abcdefABCDEF"):
        raise BrokenAnswer(f"{text[:40]!r} is no number")
    return int(text, 16)
