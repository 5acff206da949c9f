"""What a step is: an artifact in, a new artifact out."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from models.figures import Section
from models.spec import CalibrationSpec, ModelSpec, TrainingSpec
from models.store import CurvePoint, Format
from models.tensors import TensorInfo

Log = Callable[[str], None]


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of a step's parameters: every field has a default and is part of the step's key."""


@dataclass(frozen=True)
class StepInput:
    """What a step is given.

    `source` is the parent's file, read only. The step writes under `work`, which is removed
    afterwards; `cache` is a folder that stays, for downloads and ranges. `choices` is what the step
    itself chose for the target. `others` are further networks that the step asked for by name,
    such as a teacher, as files of format `net`. `resume` is a folder of this very step on this
    very input, which stays when the step is interrupted and goes when it has succeeded.
    """

    source: Path | None
    model: ModelSpec
    isa: str
    params: Any
    choices: dict[str, str]
    calibration: CalibrationSpec | None
    work: Path
    cache: Path
    log: Log
    training: TrainingSpec | None = None
    others: Mapping[str, Path] = field(default_factory=dict)
    resume: Path | None = None


@dataclass(frozen=True)
class FileInfo:
    """What is known of a file that is not ONNX; `metadata` as in ONNX (models/describe.py).

    `macs` are counted on the network that it was made from; None where nobody did. So are the
    parameters and multiply-accumulates of `sections`; their bytes are the file's.
    """

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    metadata: dict[str, str]
    parameters: int
    weight_bytes: int
    macs: int | None = None
    sections: tuple[Section, ...] = ()


@dataclass(frozen=True)
class StepResult:
    """A step's new file, and what only the step can tell of it.

    `node_counts` is given where the file cannot be inspected as ONNX (ORT format): the
    operators of the very graph that was written. `info` is given where the file is of another
    format and tells what goes in and out. `curves` are given by steps that train.
    """

    path: Path
    node_counts: dict[str, int] | None = None
    info: FileInfo | None = None
    curves: tuple[CurvePoint, ...] = ()


def no_choices(_params: Any, _isa: str) -> dict[str, str]:
    """For steps that make the same file for every board."""
    return {}


def no_others(_params: Any) -> tuple[str, ...]:
    """For steps that need their parent alone."""
    return ()


@dataclass(frozen=True)
class Step:
    """A kind of step, declared without what it needs: `module` has the function `run`.

    `choices` gives what follows from the target's instruction set, and nothing else of it may
    change the result: boards with equal choices share one artifact. `tools` are the packages
    whose versions are part of the step's key. `accepts` is None for steps that start a chain.
    `keeps_parameters` says that the number of weights is the parent's, though constants that
    were computed beforehand may look like weights in the new file. `revision` is raised when the
    step makes something else of the same input, so that its old results are not found.
    """

    name: str
    params: type[Params]
    accepts: Format | None
    makes: Format
    tools: tuple[str, ...]
    module: str
    needs_calibration: bool = False
    choices: Callable[[Any, str], dict[str, str]] = no_choices
    keeps_parameters: bool = True
    needs_training: bool = False
    others: Callable[[Any], tuple[str, ...]] = no_others
    revision: int = 0

    def run(self, given: StepInput) -> StepResult:
        """Import the step's module, with what it needs, and run it."""
        run: Callable[[StepInput], StepResult] = importlib.import_module(self.module).run
        return run(given)


NOT_INSTALLED: Final = "absent"
"""What stands for the version of a package that is not there."""


@functools.cache
def tool_version(package: str) -> str:
    """The installed version of a package, without importing it, or NOT_INSTALLED."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return NOT_INSTALLED
