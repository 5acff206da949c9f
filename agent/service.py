"""What the host can call: check the arguments' types, ask a part of the agent, encode.

Arguments and answers are text, bytes and whole numbers and nothing else; failures are data.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import rpyc

from agent import wire
from agent.artifacts import Artifacts
from agent.connection import Connection, Foreign
from agent.errors import Refused
from agent.lease import Lease
from agent.sampler import Telemetry
from agent.supervisor import Supervisor
from agent.wire import Diagnosis, Failure, FailureKind, Fingerprint, Reply

AGENT_VERSION: Final = "0.1.0"

_TYPE_NAMES: Final[dict[type[Any], str]] = {str: "text", int: "a whole number", bytes: "bytes"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Agent:
    """The parts of an agent that its service asks."""

    digest: str
    fingerprint: Callable[[], Fingerprint]
    telemetry: Telemetry
    artifacts: Artifacts
    lease: Lease
    supervisor: Supervisor
    doctor: Callable[[], Diagnosis]


class AgentService(rpyc.Service):  # type: ignore[misc] # rpyc ships no types
    """One agent as its peers see it. Each method's docstring has its arguments and its answer."""

    _protocol = Connection

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def exposed_hello(self, *args: object) -> str:
        """(HelloRequest) -> Hello."""
        return _answer(_decoding(wire.HelloRequest, self._hello), args, str)

    def _hello(self, request: wire.HelloRequest) -> wire.Hello:
        if request.protocol != wire.PROTOCOL:
            raise Refused(
                FailureKind.PROTOCOL,
                f"this agent speaks protocol {wire.PROTOCOL}, the host {request.protocol}; "
                f"use the same version on both sides",
            )
        agent = self._agent
        return wire.Hello(
            protocol=wire.PROTOCOL,
            agent_version=AGENT_VERSION,
            agent_digest=agent.digest,
            pid=os.getpid(),
            monotonic_ns=time.monotonic_ns(),
            fingerprint=agent.fingerprint(),
            sources=agent.telemetry.sources,
            reading=agent.telemetry.read(None),
            lease=agent.lease.current(),
            unacknowledged=tuple(agent.supervisor.trials()),
        )

    def exposed_has(self, *args: object) -> str:
        """(list of sha256) -> Has."""
        return _answer(_decoding(list[str], self._agent.artifacts.has), args, str)

    def exposed_put_chunk(self, *args: object) -> str:
        """(sha256, offset, total_bytes, data) -> Put."""
        return _answer(self._agent.artifacts.put, args, str, int, int, bytes)

    def exposed_lease(self, *args: object) -> str:
        """(LeaseRequest) -> LeaseInfo."""
        return _answer(_decoding(wire.LeaseRequest, self._agent.lease.take), args, str)

    def exposed_renew(self, *args: object) -> str:
        """(run_id) -> LeaseInfo."""
        return _answer(self._agent.lease.renew, args, str)

    def exposed_release(self, *args: object) -> str:
        """(run_id) -> true, also when that run held nothing."""
        return _answer(self._agent.lease.release, args, str)

    def exposed_start(self, *args: object) -> str:
        """(TrialSpec) -> true."""
        return _answer(_decoding(wire.TrialSpec, self._agent.supervisor.start), args, str)

    def exposed_poll(self, *args: object) -> str:
        """(trial_id, cursor) -> Poll."""
        return _answer(self._agent.supervisor.poll, args, str, int)

    def exposed_cancel(self, *args: object) -> str:
        """(trial_id) -> true."""
        return _answer(self._agent.supervisor.cancel, args, str)

    def exposed_outcome(self, *args: object) -> str:
        """(trial_id) -> Outcome."""
        return _answer(self._agent.supervisor.outcome, args, str)

    def exposed_read(self, *args: object) -> bytes:
        """(trial_id, part, offset, length) -> bytes; empty for whatever is not there."""
        try:
            _check(args, str, str, int, int)
            data: bytes = self._agent.supervisor.read(*args)  # type: ignore[arg-type] # checked
        except Refused:
            return b""
        return data

    def exposed_ack(self, *args: object) -> str:
        """(trial_id) -> true; the trial is forgotten."""
        return _answer(self._agent.supervisor.acknowledge, args, str)

    def exposed_telemetry(self, *args: object) -> str:
        """() -> Reading."""
        return _answer(lambda: self._agent.telemetry.read(None), args)

    def exposed_doctor(self, *args: object) -> str:
        """() -> Diagnosis; the first call begins it, and it is complete some calls later."""
        return _answer(self._agent.doctor, args)

    def exposed_trials(self, *args: object) -> str:
        """() -> ids of the trials whose journals are on the board."""
        return _answer(self._agent.supervisor.trials, args)

    METHODS = frozenset(
        name.removeprefix("exposed_") for name in tuple(locals()) if name.startswith("exposed_")
    )


def _answer(call: Callable[..., object], args: tuple[object, ...], *types: type[Any]) -> str:
    """The reply as text: what `call` returns (true for nothing), or why it could not.

    An exception would reach the host as a class that it cannot know.
    """
    reply: Reply[Any]
    try:
        _check(args, *types)
        result = call(*args)
        reply = Reply(ok=True if result is None else result)
    except Refused as exc:
        reply = Reply(failure=exc.failure)
    except wire.WireError as exc:
        reply = Reply(failure=Failure(kind=FailureKind.BAD_REQUEST, message=str(exc)))
    except Exception as exc:  # noqa: BLE001 - the agent lives on; the log has the traceback
        _log.exception("a call failed")
        message = f"the agent failed: {type(exc).__name__}: {exc}; its log.txt has more"
        reply = Reply(failure=Failure(kind=FailureKind.INTERNAL, message=message))
    return wire.encode(reply)


def _check(args: tuple[object, ...], *types: type[Any]) -> None:
    """Raise Refused unless the arguments are of exactly these types."""
    if len(args) != len(types):
        raise Refused(FailureKind.BAD_REQUEST, f"expected {len(types)} arguments, got {len(args)}")
    for number, (value, expected) in enumerate(zip(args, types, strict=True), start=1):
        if type(value) is not expected:
            got = "a remote object" if isinstance(value, Foreign) else type(value).__name__
            raise Refused(
                FailureKind.BAD_REQUEST,
                f"argument {number}: expected {_TYPE_NAMES[expected]}, got {got}",
            )


def _decoding(kind: Any, call: Callable[[Any], object]) -> Callable[[str], object]:
    return lambda text: call(wire.decode(text, kind))
