"""The error tree of all four packages, and how a board's failure becomes one of its classes.

Every class has one exit code, which never changes; the process ends with the code of the error
that stopped it. Wrong use of the command line ends with 2, as in every click program.

    BenchError 1                        something unexpected
    ├── WireError 33                    a message that cannot be decoded (agent.wire)
    ├── ImageError 28                   an image that cannot be read (agent.vision)
    ├── OutputError 29                  a model's outputs do not fit its head (agent.vision)
    ├── Refused 60                      on the board only: crosses as data (agent.errors)
    ├── AgentUnavailable 61             exit codes of the agent's own processes (agent.errors)
    │   ├── HomeUnsafe 62
    │   ├── AlreadyServing 63
    │   └── OtherVersionBusy 66
    ├── InventoryError 10               inventory.yaml is missing or wrong
    ├── ExperimentError 11              an experiment is wrong
    ├── UnknownName 12                  no board, label, experiment ... of that name
    ├── BoardFailure 48                 a board failed in a way that has no class of its own
    │   ├── BoardUnreachable 30
    │   ├── HostKeyRejected 31
    │   ├── PackagesMissing 32
    │   ├── ProtocolMismatch 34
    │   ├── AgentDied 35
    │   ├── LeaseHeld 36
    │   ├── BoardDiskFull 37
    │   ├── ModelTooLarge 38
    │   ├── ModelRefused 39
    │   ├── OutOfMemory 45
    │   ├── TrialDeadline 46
    │   ├── TransferFailed 47
    │   ├── LeaseLost 49
    │   ├── BoardBusy 51
    │   ├── WorkerKilled 52
    │   └── BoardUnfit 53
    ├── WheelsMissing 54                packages for a board cannot be had
    ├── LabError 70                     virtual boards (orchestrator.lab.errors)
    │   ├── HostToolsMissing 71
    │   ├── ImageBuildFailed 72
    │   └── VirtualBoardFailed 73
    ├── RunIncomplete 50                several boards failed, for different reasons
    ├── Interrupted 130                 Ctrl-C
    ├── ModelsError 20                  (models.errors)
    │   ├── ModelNotFound 21
    │   ├── ModelUnreadable 22
    │   ├── BuildFailed 23
    │   │   └── NothingQuantized 24
    │   ├── DataError 25
    │   ├── ExtraMissing 26
    │   ├── RecipeError 27
    │   ├── ShapeNeeded 64
    │   ├── ArtifactLost 65
    │   ├── BuilderLost 68              builds elsewhere (models.remote)
    │   └── BuilderUnfit 69
    └── ResultsError 40                 (results.errors)
        ├── DatabaseTooNew 41
        ├── QueryError 42
        ├── UnknownRun 43
        └── RecordRefused 44
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Final

from agent.wire import BenchError, Failure, FailureKind


class InventoryError(BenchError):
    """The inventory is missing or malformed; the message has file, line and field."""

    exit_code = 10


class ExperimentError(BenchError):
    """An experiment is malformed or contradicts itself; the message has file, line and field."""

    exit_code = 11


class UnknownName(BenchError):
    """No board, label, experiment or profile of that name; the message has the nearest one."""

    exit_code = 12


class BoardFailure(BenchError):
    """A board failed in a way that has no class of its own; `board` is its name."""

    exit_code = 48

    def __init__(self, message: str, board: str | None = None) -> None:
        super().__init__(message if board is None else f"{board}: {message}")
        self.board = board


class BoardUnreachable(BoardFailure):
    """ssh could not connect or log in, or the connection broke and could not be renewed."""

    exit_code = 30


class HostKeyRejected(BoardFailure):
    """The board's host key is unknown or has changed."""

    exit_code = 31


class PackagesMissing(BoardFailure):
    """The board's Python lacks packages that the agent needs; the message lists them."""

    exit_code = 32


class ProtocolMismatch(BoardFailure):
    """The agent on the board speaks another version of the protocol."""

    exit_code = 34


class AgentDied(BoardFailure):
    """The agent process on the board ended in the middle of the work."""

    exit_code = 35


class LeaseHeld(BoardFailure):
    """Another run measures on the board; the message says whose."""

    exit_code = 36


class BoardDiskFull(BoardFailure):
    """The board has no room for an artifact or a journal."""

    exit_code = 37


class ModelTooLarge(BoardFailure):
    """The model does not fit into the board's free memory and was not started."""

    exit_code = 38


class ModelRefused(BoardFailure):
    """The runtime on the board cannot load or run the model."""

    exit_code = 39


class OutOfMemory(BoardFailure):
    """The board's kernel killed the worker for want of memory."""

    exit_code = 45


class TrialDeadline(BoardFailure):
    """A trial took longer than its deadline and was stopped."""

    exit_code = 46


class TransferFailed(BoardFailure):
    """A file did not arrive on the board whole."""

    exit_code = 47


class LeaseLost(BoardFailure):
    """The run's lease on the board ran out and was not renewed in time."""

    exit_code = 49


class BoardBusy(BoardFailure):
    """The board is in the middle of another trial."""

    exit_code = 51


class WorkerKilled(BoardFailure):
    """A signal ended the worker process; the message names it."""

    exit_code = 52


class BoardUnfit(BoardFailure):
    """The board cannot measure as it is; the message has the reason and the way out."""

    exit_code = 53


class WheelsMissing(BenchError):
    """The packages that a board needs cannot be had for its Python, or not from here."""

    exit_code = 54


class RunIncomplete(BenchError):
    """Several boards failed, for different reasons; what was measured is stored."""

    exit_code = 50


class Interrupted(BenchError):
    """Ctrl-C: finished trials are stored and the boards are idle."""

    exit_code = 130


_PACKAGES: Final = ("agent.vision", "agent.wire", "models.", "orchestrator.", "results.")

_BY_KIND: Final[dict[FailureKind, type[BoardFailure]]] = {
    FailureKind.BAD_REQUEST: BoardFailure,
    FailureKind.PROTOCOL: ProtocolMismatch,
    FailureKind.UNKNOWN_TRIAL: BoardFailure,
    FailureKind.LEASE_HELD: LeaseHeld,
    FailureKind.LEASE_LOST: LeaseLost,
    FailureKind.BUSY: BoardBusy,
    FailureKind.DISK_FULL: BoardDiskFull,
    FailureKind.DIGEST_MISMATCH: TransferFailed,
    FailureKind.MISSING_ARTIFACT: TransferFailed,
    FailureKind.TOO_LARGE: ModelTooLarge,
    FailureKind.RUNTIME_MISSING: PackagesMissing,
    FailureKind.MODEL_LOAD: ModelRefused,
    FailureKind.MODEL_RUN: ModelRefused,
    FailureKind.BAD_IMAGE: BoardFailure,
    FailureKind.OUT_OF_MEMORY: OutOfMemory,
    FailureKind.WORKER_KILLED: WorkerKilled,
    FailureKind.DEADLINE: TrialDeadline,
    FailureKind.CANCELLED: BoardFailure,
    FailureKind.INTERRUPTED: AgentDied,
    FailureKind.INTERNAL: BoardFailure,
}


def from_failure(failure: Failure, board: str) -> BenchError:
    """The error of a failure that `board` reported.

    Its message is the board's, after the board's name. A cancelled trial is Ctrl-C's doing.
    """
    if failure.kind is FailureKind.CANCELLED:
        return Interrupted(f"{board}: {failure.message}")
    return _BY_KIND[failure.kind](failure.message, board)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like `name`, or None where none is."""
    lowered = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return lowered[matches[0]] if matches else None


def unknown_name(what: str, name: str, known: Iterable[str]) -> UnknownName:
    """The error for a `what` (board, label, experiment ...) that nobody knows.

    Its message has the nearest known name and lists all of them.
    """
    names = sorted(known)
    match = nearest(name, names)
    guess = f"; did you mean '{match}'?" if match else ""
    return UnknownName(f"no {what} '{name}'{guess} (known: {', '.join(names) or 'none'})")


def exit_codes() -> list[tuple[int, str, str]]:
    """(exit code, class name, first line of its docstring) by exit code.

    These are the classes that can end this program; the agent's own never do.
    """
    # Imported here: only the README's table and the tests need the classes of every package.
    import agent.vision  # noqa: F401, PLC0415
    import models.errors  # noqa: F401, PLC0415
    import orchestrator.lab.errors  # noqa: F401, PLC0415
    import results.errors  # noqa: F401, PLC0415

    classes: tuple[type[BenchError], ...] = (BenchError, *_subclasses(BenchError))
    return sorted(
        (cls.exit_code, cls.__name__, _first_line(cls))
        for cls in classes
        if cls.__module__.startswith(_PACKAGES)
    )


def _first_line(cls: type[BenchError]) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0]


def _subclasses(root: type[BenchError]) -> Iterator[type[BenchError]]:
    for cls in root.__subclasses__():
        yield cls
        yield from _subclasses(cls)
