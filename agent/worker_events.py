"""What the worker process tells its supervisor: one JSON object a line on its standard output.

Order of a trial that goes well: PhaseStarted("load"), Loaded, PhaseStarted("cold"),
PhaseStarted("warmup"), PhaseStarted("sample"), and where images are to be scored
PhaseStarted("evaluate") and Evaluated after each image, then Ended. A trial that cannot go on
ends with Failed instead, whatever was recorded before stays. Exit code 0 follows both; any
other end is a crash.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from agent.wire import Failure, Phase, WireError


class _Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event"):
    """Base of the events; the field `event` says which one a line is."""


class PhaseStarted(_Event, frozen=True, tag="phase_started"):
    """A phase begins.

    `monotonic_ns` is CLOCK_MONOTONIC, the clock of the readings. That of "cold" is read directly
    before the first call (within a millisecond), so with it, the latencies and the gaps every
    sample has its place among the readings: call i starts at
    cold + sum(latency_ns[:i]) + sum(gap_ns[: i + 1]).
    """

    phase: Phase
    monotonic_ns: int


class Loaded(_Event, frozen=True, tag="loaded"):
    """The model is ready; `settings` are those really applied, by the runtime's own names."""

    load_ns: int
    runtime_version: str
    settings: dict[str, str]
    inputs_kind: Literal["images", "synthetic"]


class Evaluated(_Event, frozen=True, tag="evaluated"):
    """Progress of the evaluation, after each image; the last one is its outcome."""

    images_done: int
    images_total: int
    capped: bool
    """True when the time cap ended it before the last image."""


class Ended(_Event, frozen=True, tag="ended"):
    """The trial is complete.

    `short`: the cap ended sampling before both minimums held. `calls`: how many were timed, so
    that fewer on the disk after a power cut are noticed. `peak_rss_bytes`: up to the last sample;
    decoding images to score is not in it. None where /proc does not say.
    """

    short: bool
    calls: int
    peak_rss_bytes: int | None


class Failed(_Event, frozen=True, tag="failed"):
    """The trial cannot go on."""

    failure: Failure


WorkerEvent = PhaseStarted | Loaded | Evaluated | Ended | Failed
Emit = Callable[[WorkerEvent], None]

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(WorkerEvent, strict=True)


def event_line(event: WorkerEvent) -> bytes:
    """The event as one line with its newline."""
    return _encoder.encode(event) + b"\n"


def decode_event(line: str | bytes) -> WorkerEvent:
    """Decode one line strictly; raises WireError."""
    try:
        event: WorkerEvent = _decoder.decode(line)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as exc:
        raise WireError(f"worker event: {exc}") from exc
    return event
