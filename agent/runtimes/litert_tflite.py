"""LiteRT, TensorFlow Lite's successor, on the CPU with its XNNPACK delegate.

Optional on a board: the package is imported only when a trial asks for it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.errors import Refused
from agent.runtimes.base import Feed, InputSpec, missing, refused, require_format
from agent.wire import FailureKind, ModelFormat, RuntimeOptions

PACKAGE: Final = "ai-edge-litert"
_MAGIC: Final = b"TFL3"
_NO_MEMORY: Final = ("bad_alloc", "out of memory", "Failed to allocate")


class LiteRt:
    """The runtime named `litert`; a file is a TensorFlow Lite model."""

    def __init__(self) -> None:
        """Import the package; raises Refused with kind runtime_missing."""
        try:
            self._package = importlib.import_module("ai_edge_litert.interpreter")
            self._version = importlib.metadata.version(PACKAGE)
        except (ImportError, AttributeError, OSError) as exc:  # OSError: a native library of it
            raise missing("litert", PACKAGE, exc) from exc

    def load(self, path: Path, model_format: ModelFormat, options: RuntimeOptions) -> LiteRtModel:
        """Load a model; raises Refused (bad_request, model_load, out_of_memory)."""
        require_format("litert", model_format, ("tflite",))
        try:
            with path.open("rb") as file:
                head = file.read(8)
            if head[4:] != _MAGIC:
                raise ValueError(f"no TensorFlow Lite model: it begins with {head!r}")
            interpreter = self._package.Interpreter(
                model_path=str(path), num_threads=options.intra_op_num_threads
            )
            interpreter.allocate_tensors()
            return LiteRtModel(self._version, interpreter, options.intra_op_num_threads)
        except Exception as exc:  # its errors share no base class but Exception
            raise _refused(FailureKind.MODEL_LOAD, "cannot load the model", exc) from exc


class LiteRtModel:
    """An interpreter, its inputs and the settings it was made with."""

    def __init__(self, version: str, interpreter: Any, threads: int) -> None:
        self.runtime_version = version
        details = interpreter.get_input_details()
        self._names = _argument_names(interpreter, details)
        self.inputs: tuple[InputSpec, ...] = tuple(
            _input_spec(self._names[entry["index"]], entry) for entry in details
        )
        self.settings: Mapping[str, str] = _read_back(interpreter, threads)
        self._interpreter = interpreter
        self._index = {self._names[entry["index"]]: entry["index"] for entry in details}
        self._outputs = [entry["index"] for entry in interpreter.get_output_details()]
        self._shapes = {self._names[e["index"]]: tuple(e["shape"].tolist()) for e in details}

    def bind(self, feeds: Sequence[Feed]) -> Callable[[], None]:
        """A callable that runs one inference; it cycles through `feeds`.

        The input is copied into the interpreter each time, as an application has to.
        """
        self._resize(feeds[0])
        put, invoke = self._interpreter.set_tensor, self._interpreter.invoke
        indexed = [[(self._index[name], array) for name, array in feed.items()] for feed in feeds]
        following = itertools.cycle(indexed).__next__

        def call() -> None:
            for index, array in following():
                put(index, array)
            invoke()

        return call

    def infer(self, feed: Feed) -> list[NDArray[Any]]:
        """The outputs for one feed; raises Refused (model_run, out_of_memory)."""
        try:
            self._resize(feed)
            for name, array in feed.items():
                self._interpreter.set_tensor(self._index[name], array)
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(index) for index in self._outputs]
        except Exception as exc:  # as above
            raise self.explain(exc) from exc

    def explain(self, error: Exception) -> Refused:
        """What an exception of a bound callable means."""
        return _refused(FailureKind.MODEL_RUN, "cannot run the model", error)

    def _resize(self, feed: Feed) -> None:
        """Give dynamic inputs the feed's shapes; they are planned once, not in the timed loop."""
        changed = False
        for spec in self.inputs:
            shape = tuple(feed[spec.name].shape)
            if None in spec.shape and shape != self._shapes[spec.name]:
                self._interpreter.resize_tensor_input(self._index[spec.name], shape)
                self._shapes[spec.name] = shape
                changed = True
        if changed:
            self._interpreter.allocate_tensors()


def _argument_names(interpreter: Any, details: Sequence[Any]) -> dict[int, str]:
    """Names of the inputs by tensor: those of the only signature, else the tensors' own.

    A converter names a tensor `serving_default_images:0` where the model's input is `images`.
    """
    names = {entry["index"]: str(entry["name"]) for entry in details}
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        return names
    (key,) = signatures
    arguments = interpreter.get_signature_runner(key).get_input_details()
    by_tensor = {entry["index"]: str(name) for name, entry in arguments.items()}
    return by_tensor if by_tensor.keys() == names.keys() else names


def _input_spec(name: str, entry: Any) -> InputSpec:
    """One input; -1 in the signature's shape is a dynamic dimension."""
    declared = np.dtype(entry["dtype"])
    wanted = entry["shape_signature"] if len(entry["shape_signature"]) else entry["shape"]
    shape = tuple(int(n) if n > 0 else None for n in wanted)
    return InputSpec(name, declared.name if declared.kind in "fiub" else None, shape, declared.name)


def _read_back(interpreter: Any, threads: int) -> dict[str, str]:
    """By LiteRT's own names; what it does not offer (arenas, graph levels) is not claimed.

    `delegated_nodes` counts what a delegate has taken: XNNPACK is applied by default.
    """
    settings = {"num_threads": str(threads), "op_resolver": "BUILTIN with default delegates"}
    look = getattr(interpreter, "_get_ops_details", None)  # private, so it may be gone one day
    if look is not None:
        taken = sum(str(entry.get("op_name", "")).upper() == "DELEGATE" for entry in look())
        settings["delegated_nodes"] = str(taken)
    return settings


def _refused(kind: FailureKind, what: str, error: Exception) -> Refused:
    return refused(kind, what, error, _NO_MEMORY)
