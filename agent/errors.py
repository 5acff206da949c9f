"""The agent's own errors; what the host is to know crosses as data (wire.Failure) instead."""

from __future__ import annotations

from agent.wire.base import BenchError, Failure, FailureKind


class Refused(BenchError):
    """A call cannot be carried out; the service answers with the failure."""

    exit_code = 60

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(kind=kind, message=message)


class AgentUnavailable(BenchError):
    """The agent's daemon cannot start or does not answer."""

    exit_code = 61


class HomeUnsafe(AgentUnavailable):
    """The agent's directory belongs to, or is open to, another account."""

    exit_code = 62


class AlreadyServing(AgentUnavailable):
    """Another daemon serves this directory."""

    exit_code = 63


class OtherVersionBusy(AgentUnavailable):
    """A daemon of another version serves this directory, and a run is using it."""

    exit_code = 66
