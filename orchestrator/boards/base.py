"""The one interface to a board: a typed session over a transport that carries text and bytes.

A `Transport` is the only thing that differs between a real agent and the fake one, so the
fake goes through the same encoding, the same checks and the same errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from agent import wire
from orchestrator.errors import ProtocolMismatch, from_failure

Argument = str | int | bytes
Pending = Callable[[], str | bytes]


class Transport(Protocol):
    """Carries one call to an agent and its answer back."""

    def begin(self, method: str, *args: Argument) -> Pending:
        """Send a call; what is returned waits for its answer, once.

        Either raises BoardUnreachable when no answer came in time, AgentDied when the agent is
        gone. Calls are served in the order in which they were begun.
        """

    def close(self) -> None:
        """Let go of the board; never raises and never waits long."""


class Board(Protocol):
    """A board of the inventory that can be connected to."""

    @property
    def name(self) -> str:
        """The name in the inventory."""

    def connect(self) -> Session:
        """Deploy the agent if needed, start it if needed, and shake hands."""


class Session:
    """A connected agent, typed. Expected failures arrive as errors of the tree."""

    def __init__(self, board: str, transport: Transport) -> None:
        self.board = board
        self._transport = transport

    def _ask(self, kind: Any, method: str, *args: Argument) -> Any:
        return self._decoded(kind, method, self._transport.begin(method, *args)())

    def _decoded(self, kind: Any, method: str, answer: str | bytes) -> Any:
        if not isinstance(answer, str):
            raise wire.WireError(f"{self.board}: {method} answered {type(answer).__name__}")
        try:
            reply = wire.decode_reply(answer, kind)
        except wire.WireError as exc:
            raise wire.WireError(f"{self.board}: the answer to {method}: {exc}") from exc
        if reply.failure is not None:
            raise from_failure(reply.failure, self.board)
        if reply.ok is None:
            raise wire.WireError(f"{self.board}: {method} answered neither ok nor failure")
        return reply.ok

    def hello(self, host: str) -> wire.Hello:
        """Shake hands; raises ProtocolMismatch when the agent speaks another protocol."""
        request = wire.HelloRequest(protocol=wire.PROTOCOL, host=host)
        answer = self._transport.begin("hello", wire.encode(request))()
        theirs = _protocol_of(answer)
        if theirs is not None and theirs != wire.PROTOCOL:
            raise ProtocolMismatch(
                f"{self.board}: the agent speaks protocol {theirs}, this host {wire.PROTOCOL}; "
                f"stop the agent on the board, or use the same version on both sides"
            )
        hello: wire.Hello = self._decoded(wire.Hello, "hello", answer)
        return hello

    def has(self, digests: Sequence[str]) -> wire.Has:
        """Which artifacts are on the board, complete or in part."""
        found: wire.Has = self._ask(wire.Has, "has", wire.encode(list(digests)))
        return found

    def put_chunk(self, sha256: str, offset: int, total_bytes: int, data: bytes) -> wire.Put:
        """Append one chunk to an artifact; raises BoardDiskFull, TransferFailed."""
        return self.begin_put_chunk(sha256, offset, total_bytes, data)()

    def begin_put_chunk(
        self, sha256: str, offset: int, total_bytes: int, data: bytes
    ) -> Callable[[], wire.Put]:
        """As `put_chunk`, but sent only; call what is returned to wait for the answer."""
        pending = self._transport.begin("put_chunk", sha256, offset, total_bytes, data)

        def wait() -> wire.Put:
            put: wire.Put = self._decoded(wire.Put, "put_chunk", pending())
            return put

        return wait

    def lease(self, request: wire.LeaseRequest) -> wire.LeaseInfo:
        """Take the board for one run; raises LeaseHeld naming the holder."""
        info: wire.LeaseInfo = self._ask(wire.LeaseInfo, "lease", wire.encode(request))
        return info

    def renew(self, run_id: str) -> wire.LeaseInfo:
        """Keep the board; raises LeaseHeld when it was lost."""
        info: wire.LeaseInfo = self._ask(wire.LeaseInfo, "renew", run_id)
        return info

    def release(self, run_id: str) -> None:
        """Give the board back."""
        self._ask(bool, "release", run_id)

    def start(self, spec: wire.TrialSpec) -> None:
        """Start a trial; starting the same trial again does nothing."""
        self._ask(bool, "start", wire.encode(spec))

    def poll(self, trial_id: str, cursor: int) -> wire.Poll:
        """Progress of a trial and the readings after `cursor`."""
        progress: wire.Poll = self._ask(wire.Poll, "poll", trial_id, cursor)
        return progress

    def cancel(self, trial_id: str) -> None:
        """Ask the board to end a trial now; what it measured is kept."""
        self._ask(bool, "cancel", trial_id)

    def outcome(self, trial_id: str) -> wire.Outcome:
        """How an ended trial ended."""
        outcome: wire.Outcome = self._ask(wire.Outcome, "outcome", trial_id)
        return outcome

    def read(self, trial_id: str, part: str, offset: int, length: int) -> bytes:
        """Bytes of a part of an ended trial's journal; empty past its end."""
        data = self._transport.begin("read", trial_id, part, offset, length)()
        if not isinstance(data, bytes):
            raise wire.WireError(f"{self.board}: read of {part} answered {type(data).__name__}")
        if len(data) > length:
            raise wire.WireError(
                f"{self.board}: read of {part} answered {len(data)} bytes instead of {length}"
            )
        return data

    def ack(self, trial_id: str) -> None:
        """Say that the trial is stored, so that the board may forget it."""
        self._ask(bool, "ack", trial_id)

    def telemetry(self) -> wire.Reading:
        """One reading now."""
        reading: wire.Reading = self._ask(wire.Reading, "telemetry")
        return reading

    def doctor(self) -> wire.Diagnosis:
        """The board's diagnosis, which it begins now unless it is at it; see `complete`."""
        diagnosis: wire.Diagnosis = self._ask(wire.Diagnosis, "doctor")
        return diagnosis

    def trials(self) -> list[str]:
        """Ids of the trials whose journals are on the board."""
        ids: list[str] = self._ask(list[str], "trials")
        return ids

    def close(self) -> None:
        """Let go of the board."""
        self._transport.close()


class _AnyHello(msgspec.Struct):
    """Only the number, so that an agent of any age can be told from a broken one."""

    protocol: int | None = None


class _AnyReply(msgspec.Struct):
    ok: _AnyHello | None = None


_any_reply = msgspec.json.Decoder(_AnyReply)  # made before there are threads: see agent.wire


def _protocol_of(answer: str | bytes) -> int | None:
    try:
        reply = _any_reply.decode(answer)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None
    return None if reply.ok is None else reply.ok.protocol
