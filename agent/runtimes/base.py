"""What every runtime offers: one small protocol, so that another runtime is one more file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from agent.errors import Refused
from agent.wire import FailureKind, ModelFormat, RuntimeName, RuntimeOptions

Feed = Mapping[str, NDArray[Any]]
"""One inference's inputs by name."""


@dataclass(frozen=True)
class InputSpec:
    """One input of a model: numpy's name of its type, None for a dynamic dimension.

    `dtype` is None for what is not a tensor of numbers; `declared` is the model's own word.
    """

    name: str
    dtype: str | None
    shape: tuple[int | None, ...]
    declared: str


class LoadedModel(Protocol):
    """A model ready to run."""

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """Its inputs in order."""

    @property
    def runtime_version(self) -> str:
        """Version of the runtime's package."""

    @property
    def settings(self) -> Mapping[str, str]:
        """The settings really applied, by the runtime's own names."""

    def bind(self, feeds: Sequence[Feed]) -> Callable[[], None]:
        """A callable that runs one inference and drops its result; it cycles through `feeds`.

        It stands in the timed loop, so it translates no errors: `explain` does that afterwards.
        """

    def explain(self, error: Exception) -> Refused:
        """What an exception of a bound callable means (model_run, out_of_memory)."""

    def infer(self, feed: Feed) -> list[NDArray[Any]]:
        """The outputs for one feed; raises Refused (model_run, out_of_memory)."""


class Runtime(Protocol):
    """A way to run models; making one raises Refused with kind runtime_missing."""

    def load(self, path: Path, model_format: ModelFormat, options: RuntimeOptions) -> LoadedModel:
        """Load a model file; raises Refused (model_load, out_of_memory)."""


def require_format(name: RuntimeName, given: ModelFormat, runs: tuple[ModelFormat, ...]) -> None:
    """Pass when a runtime runs files of this format; raises Refused (bad_request)."""
    if given not in runs:
        raise Refused(
            FailureKind.BAD_REQUEST, f"runtime {name} runs {' and '.join(runs)} files, not {given}"
        )


def missing(name: RuntimeName, package: str, error: Exception) -> Refused:
    """The failure where an optional runtime's package cannot be imported."""
    return Refused(
        FailureKind.RUNTIME_MISSING,
        f"{package} cannot be imported ({type(error).__name__}: {error}); put it on the board "
        f"with `orchestrator boards provision NAME --runtime {name}`, or install it for the "
        f"python of a local board",
    )


def refused(
    kind: FailureKind, what: str, error: Exception, no_memory: Sequence[str] = ()
) -> Refused:
    """The failure for an exception of a runtime; running out of memory has a kind of its own."""
    text = f"{what}: {type(error).__name__}: {error}".strip()
    if isinstance(error, MemoryError) or any(mark in text for mark in no_memory):
        return Refused(FailureKind.OUT_OF_MEMORY, text)
    return Refused(kind, text)
