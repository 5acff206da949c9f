"""A board that lies, as a process of its own: `python hostile.py LIE` speaks rpyc on its stdin."""

from __future__ import annotations

import base64
import socket
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import rpyc
from rpyc.core.stream import SocketStream

from agent import wire
from agent.wire.channel import CappedChannel
from orchestrator.boards.base import Session
from orchestrator.boards.fake import FakeAgent
from orchestrator.boards.link import ProcessLink
from orchestrator.clock import SystemClock

NASTY = "\x1b[2J\x1b]0;owned\x07\x1b]8;;http://evil\x07\u202egnp.exe\r\n\x9b31m\u200b"
"""Clears the screen, sets its title, makes a link, turns the direction of writing, colours."""

HUGE = 10**18


def raw_characters(text: str) -> set[str]:
    """Characters in `text`, line feeds apart, that a terminal obeys or shows as nothing."""
    categories = {"Cc", "Cf", "Zl", "Zp"}
    return {char for char in text if unicodedata.category(char) in categories} - {"\n"}


class HostileBoard:
    """The host's end: a board whose agent is this file."""

    def __init__(self, lie: str) -> None:
        self.name = lie

    def connect(self) -> Session:
        """Dial it as any board is dialled."""
        argv = [sys.executable, str(Path(__file__)), self.name]
        return Session(self.name, ProcessLink.dial(argv, self.name, 30, 5))


class Liar(FakeAgent):
    """Answers as the fake agent does, but for one lie."""

    def __init__(self, lie: str) -> None:
        super().__init__(SystemClock())
        self.lie = lie

    def answer(self, method: str, *args: Any) -> Any:
        """What goes over the wire; LIES say it, or the truth where they have nothing to say."""
        told = LIES[self.lie](self, method)
        return self._serve(method, *args) if told is None else told

    def _hello(self, text: str) -> wire.Hello:
        true = super()._hello(text)
        change = HELLOS.get(self.lie)
        return true if change is None else change(true)

    def _outcome(self, trial_id: str) -> wire.Outcome:
        true = super()._outcome(trial_id)
        change = OUTCOMES.get(self.lie)
        return true if change is None else msgspec.structs.replace(true, **change)

    def _parts(self, trial: Any) -> dict[str, bytes]:
        large = LARGE_PARTS[self.lie]() if self.lie in LARGE_PARTS else {}
        return super()._parts(trial) | PARTS.get(self.lie, {}) | large

    def _has(self, text: str) -> wire.Has:
        """The files are here already: what is pushed is none of these tests' matter."""
        return wire.Has(tuple(wire.decode(text, list[str])), {})

    def _start(self, text: str) -> bool:
        spec = wire.decode(text, wire.TrialSpec)
        self.files[spec.artifact.sha256] = b""
        return super()._start(text)


def _fingerprint(**changes: Any) -> Callable[[wire.Hello], wire.Hello]:
    return lambda hello: msgspec.structs.replace(
        hello, fingerprint=msgspec.structs.replace(hello.fingerprint, **changes)
    )


def _samples(counts: tuple[int, int, int], latencies: list[int]) -> bytes:
    head = wire.samples_header(len(latencies), counts)
    column = b"".join(value.to_bytes(8, "little") for value in latencies)
    return head + column + bytes(8 * len(latencies))


def _mask(height: int, width: int, packed: bytes) -> bytes:
    body = base64.b64encode(packed).decode()
    return f'{{"image_id":"i","height":{height},"width":{width},"packed":"{body}"}}\n'.encode()


def _once(method: str, answer: Any) -> Callable[[Liar, str], Any]:
    return lambda _liar, asked: answer if asked == method else None


def _honest(_liar: Liar, _method: str) -> None:
    return None


READING = (
    '{"t_ns":1,"temp_c":%s,"clock_hz":null,"throttled_bits":null,'
    '"memory_available_bytes":null,"worker_rss_bytes":null,"power_w":null}'
)
POLL = (
    '{"ok":{"phase":"sample","samples_done":%s,"images_done":0,"recent_p50_ns":%s,'
    '"elapsed_ns":1,"readings":[],"next_cursor":0}}'
)
FAILURE = wire.Failure(wire.FailureKind.MODEL_RUN, NASTY * 10_000)

HELLOS: dict[str, Callable[[wire.Hello], wire.Hello]] = {
    "negative-memory": _fingerprint(memory_bytes=-1),
    "endless-memory": _fingerprint(memory_bytes=10**40),
    "endless-name": _fingerprint(board_model="x" * 3_000_000),
    "future-clock": lambda hello: msgspec.structs.replace(hello, monotonic_ns=1 << 70),
    "nasty-names": _fingerprint(
        board_model=NASTY, python=NASTY, packages={"onnxruntime": NASTY, "numpy": "1"}
    ),
}
OUTCOMES: dict[str, dict[str, Any]] = {
    "another-trial": {"trial_id": "f" * 32},
    "path-as-trial": {"trial_id": "../../../etc/passwd"},
    "ends-before-it-began": {"ended_monotonic_ns": 0},
    "ends-in-the-future": {"ended_monotonic_ns": HUGE * 5},
    "negative-load": {"load_ns": -5},
    "huge-part": {"parts": {"samples": wire.Part(size_bytes=HUGE, sha256="0" * 64)}},
    "nothing-measured": {"parts": {}},
    "nasty-failure": {"state": "failed", "failure": FAILURE},
    "finished-and-failed": {"failure": FAILURE},
}
PARTS: dict[str, dict[str, bytes]] = {
    "endless-latency": {"samples": _samples((1, 0, 8), [HUGE] * 9)},
    "no-latency": {"samples": _samples((1, 0, 8), [0] * 9)},
    "no-samples": {"samples": _samples((1, 0, 0), [1000])},
    "counts-beyond": {"samples": wire.samples_header(0, (0, 0, HUGE))},
    "nan-temperature": {"readings": (READING % "NaN").encode()},
    "infinite-temperature": {"readings": (READING % "1e999").encode()},
    "sun-temperature": {"readings": (READING % "5500").encode()},
    "deep-reading": {"readings": b"[" * 1_000_000},
    "empty-lines": {"readings": b"\n" * 2_000_000},
    "mask-too-small": {"masks": _mask(1024, 1024, zlib.compress(b"\1"))},
    "endless-mask": {"masks": _mask(HUGE, HUGE, zlib.compress(b"\1"))},
    "no-mask": {"masks": _mask(8, 8, b"runs")},
}
LARGE_PARTS: dict[str, Callable[[], dict[str, bytes]]] = {
    "mask-bomb": lambda: {"masks": _mask(1024, 1024, zlib.compress(bytes(128 << 20), 1))},
    "long-line": lambda: {"masks": b'{"image_id":"' + b"A" * (64 << 20)},
    "many-boxes": lambda: {
        "detections": b'{"image_id":"i","detections":[' + b"[0,0,1,1,1,0]," * (1 << 20)
    },
}
LIES: dict[str, Callable[[Liar, str], Any]] = {
    **dict.fromkeys([*HELLOS, *OUTCOMES, *PARTS, *LARGE_PARTS], _honest),
    "deep-poll": _once("poll", '{"ok":' * 100_000),
    "negative-poll": _once("poll", POLL % (-1, "null")),
    "endless-poll": _once("poll", POLL % (9, "9" * 400)),
    "poll-is-a-number": _once("poll", 7),
    "nasty-refusal": _once("lease", wire.encode(wire.Reply[bool](failure=FAILURE))),
    "chatty-telemetry": _once("telemetry", "x" * (wire.MAX_FRAME_BYTES - 1000)),
}


def methods() -> Iterator[tuple[str, Callable[..., Any]]]:
    """One exposed method for each call of the protocol."""
    for method in (
        "hello", "has", "put_chunk", "lease", "renew", "release", "start", "poll", "cancel",
        "outcome", "read", "ack", "telemetry", "doctor", "trials",
    ):  # fmt: skip

        def call(self: Any, *args: Any, method: str = method) -> Any:
            return self.liar.answer(method, *args)

        yield f"exposed_{method}", call


def main(lie: str) -> None:
    """Speak until the host hangs up."""
    sock = socket.socket(fileno=0)
    sock.sendall(wire.MAGIC)
    service = type("Hostile", (rpyc.Service,), {**dict(methods()), "liar": Liar(lie)})()
    connection = service._connect(CappedChannel(SocketStream(sock)), {})
    connection.serve_all()


if __name__ == "__main__":
    main(sys.argv[1])
