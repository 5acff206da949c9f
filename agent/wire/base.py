"""Protocol constants, the root of the error tree, replies, and strict JSON coding."""

from __future__ import annotations

import enum
import threading
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec

PROTOCOL: Final = 3
"""Raised by one whenever a message changes; both sides refuse any other number."""

MAGIC: Final = f"orchestrator-agent protocol {PROTOCOL}\n".encode()
"""First line that `agent dial` prints: what a login script printed before it is skipped."""

CHUNK_BYTES: Final = 1 << 20
"""Size of one piece of a pushed artifact or of a part read back."""

MAX_FRAME_BYTES: Final = 4 << 20
"""Largest frame that either side accepts; checked before memory is allocated."""


LONGEST_MESSAGE: Final = 4000
"""Characters of a failure's message; the rest is cut off where it is made and where it arrives."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A number, size or time that a board reports; it fits the databases."""

Moment = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""Nanoseconds of a wall clock since 1970, which a clock that was never set may put before it."""

Text = Annotated[str, msgspec.Meta(max_length=4000)]
"""A name, a path or a sentence that a board reports."""

Celsius = Annotated[float, msgspec.Meta(ge=-273.15, le=1000.0)]
Watts = Annotated[float, msgspec.Meta(ge=-1e3, le=1e6)]
Pixels = Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)]

MAX_MASK_PIXELS: Final = 1 << 22
"""Largest mask, 2048 x 2048; checked before memory is allocated."""

MAX_CLASSES: Final = 254
"""A pixel of a mask is one byte: 0 for no class, and the truth keeps 255 for 'ignore'."""


class BenchError(Exception):
    """Root of the error tree of all four packages; `exit_code` is stable for each class."""

    exit_code: int = 1


class WireError(BenchError):
    """A message could not be decoded: it names the field and what was expected."""

    exit_code = 33


class Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every message: immutable, and strict about unknown fields."""


class FailureKind(enum.StrEnum):
    """Why a call or a trial failed; the host maps each kind to one error class."""

    BAD_REQUEST = "bad_request"
    PROTOCOL = "protocol"
    UNKNOWN_TRIAL = "unknown_trial"
    LEASE_HELD = "lease_held"
    LEASE_LOST = "lease_lost"
    BUSY = "busy"
    DISK_FULL = "disk_full"
    DIGEST_MISMATCH = "digest_mismatch"
    MISSING_ARTIFACT = "missing_artifact"
    TOO_LARGE = "too_large"
    RUNTIME_MISSING = "runtime_missing"
    MODEL_LOAD = "model_load"
    MODEL_RUN = "model_run"
    BAD_IMAGE = "bad_image"
    OUT_OF_MEMORY = "out_of_memory"
    WORKER_KILLED = "worker_killed"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    INTERNAL = "internal"


class Failure(Wire, frozen=True):
    """An expected failure: what happened, with the values and what to do next."""

    kind: FailureKind
    message: str

    def __post_init__(self) -> None:
        """Cut an endless message short."""
        if len(self.message) > LONGEST_MESSAGE:
            msgspec.structs.force_setattr(self, "message", f"{self.message[:LONGEST_MESSAGE]} ...")


T = TypeVar("T")


class Reply(Wire, Generic[T], frozen=True):
    """What every exposed method returns; exactly one of the two fields is set."""

    ok: T | None = None
    failure: Failure | None = None


_encoder = msgspec.json.Encoder()
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
_first_use = threading.Lock()


def encode(message: object) -> str:
    """JSON text of a message."""
    return _encoder.encode(message).decode()


def decode(text: str | bytes, kind: type[T]) -> T:
    """Decode JSON strictly into `kind`; raises WireError with the path of a bad field."""
    try:
        decoded: T = _decoder(kind).decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as exc:
        raise WireError(f"{getattr(kind, '__name__', kind)}: {exc}") from exc
    return decoded


def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    """The decoder of a type, made once.

    msgspec 0.22 ends the process with a segmentation fault where two threads are the first to use
    a type at the same time.
    """
    found = _decoders.get(kind)
    if found is None:
        with _first_use:
            found = _decoders.setdefault(kind, msgspec.json.Decoder(kind, strict=True))
    return found


def decode_reply(text: str | bytes, kind: Any) -> Any:
    """Decode a reply whose `ok` is of `kind`; the caller looks at `failure` first."""
    return decode(text, Reply[kind])
