"""Frames on a byte stream: a JSON header, and bytes that a file is copied from or to."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from models.errors import BuilderLost

READY: Final = b"orchestrator-builder 1\n"
"""What a builder says first; whatever a login script printed comes before it."""
MAX_HEADER_BYTES: Final = 64 << 20
MAX_BODY_BYTES: Final = 4 << 30
_MAX_GREETING_BYTES: Final = 1 << 20
_PREFIX: Final = struct.Struct(">4sIQ")
_MAGIC: Final = b"EOB1"
_CHUNK_BYTES: Final = 1 << 20


def send(stream: IO[bytes], header: object, body: bytes | Path = b"") -> None:
    """Write one frame; raises OSError."""
    data = msgspec.json.encode(header)
    size_bytes = body.stat().st_size if isinstance(body, Path) else len(body)
    stream.write(_PREFIX.pack(_MAGIC, len(data), size_bytes) + data)
    if isinstance(body, bytes):
        stream.write(body)
    else:
        with body.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                stream.write(chunk)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], int]:
    """The next frame's header and the size of its body, which is read next with `body`.

    Raises BuilderLost where the stream ends or holds something else.
    """
    magic, header_bytes, body_bytes = _PREFIX.unpack(_exactly(stream, _PREFIX.size))
    if magic != _MAGIC or header_bytes > MAX_HEADER_BYTES or body_bytes > MAX_BODY_BYTES:
        raise BuilderLost("something else than the builder's answer came from there")
    try:
        header = msgspec.json.decode(_exactly(stream, header_bytes), type=dict[str, Any])
    except msgspec.MsgspecError as exc:
        raise BuilderLost(f"the builder's answer cannot be read: {exc}") from exc
    return header, body_bytes


def body(stream: IO[bytes], size_bytes: int) -> Iterator[bytes]:
    """A frame's body in pieces; all of them have to be taken before the next frame."""
    while size_bytes:
        piece = _exactly(stream, min(size_bytes, _CHUNK_BYTES))
        size_bytes -= len(piece)
        yield piece


def await_ready(stream: IO[bytes]) -> None:
    """Skip what a login script printed; raises BuilderLost where no builder speaks."""
    skipped = 0
    while skipped < _MAX_GREETING_BYTES:
        line = stream.readline(_MAX_GREETING_BYTES)
        if line == READY:
            return
        if not line:
            break
        skipped += len(line)
    raise BuilderLost("the builder did not start")


def _exactly(stream: IO[bytes], size_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < size_bytes:
        piece = stream.read(size_bytes - len(data))
        if not piece:
            raise BuilderLost("the connection to the builder ended before its work did")
        data += piece
    return bytes(data)
