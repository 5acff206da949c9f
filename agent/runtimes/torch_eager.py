"""PyTorch's eager mode on the CPU: a torch.export archive, run operator by operator.

A baseline, and optional on a board: torch is imported only when a trial asks for it. Nothing is
compiled or fused while it runs; what the archive may hold is in `torch_archive`.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.errors import Refused
from agent.runtimes.base import Feed, InputSpec, missing, refused, require_format
from agent.runtimes.torch_archive import require_plain
from agent.wire import FailureKind, ModelFormat, RuntimeOptions

_LOADER: Final = ("torch.export.pt2_archive._package", "torch._export.serde.serialize")
"""What torch.export.load imports late; the names are torch's own affair, so they may be absent."""
_NO_MEMORY: Final = ("can't allocate memory", "not enough memory", "bad_alloc")


class TorchEager:
    """The runtime named `torch`; a file is a torch.export archive (.pt2)."""

    def __init__(self) -> None:
        """Import the package; raises Refused with kind runtime_missing."""
        try:
            self._torch = importlib.import_module("torch")
            importlib.import_module("torch.export")
            for name in _LOADER:  # now, because loading a model is timed
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)
        except (ImportError, AttributeError, OSError) as exc:  # OSError: a native library of it
            raise missing("torch", "torch", exc) from exc

    def load(self, path: Path, model_format: ModelFormat, options: RuntimeOptions) -> TorchModel:
        """Load a model; raises Refused (bad_request, model_load, out_of_memory).

        Nothing of the archive is unpickled or evaluated: it is looked through before.
        """
        require_format("torch", model_format, ("pt2",))
        torch = self._torch
        logging.getLogger("torch").setLevel(logging.ERROR)  # it warns of names without .pt2
        try:
            _set_threads(torch, options)
            require_plain(path, torch)
            program = torch.export.load(str(path))
            return TorchModel(torch, program)
        except Refused:
            raise
        except Exception as exc:  # torch's errors share no base class but Exception
            raise _refused(FailureKind.MODEL_LOAD, "cannot load the model", exc) from exc


class TorchModel:
    """A program's module, its inputs and the settings that hold for this process."""

    def __init__(self, torch: Any, program: Any) -> None:
        self.runtime_version: str = str(torch.__version__)
        self.inputs: tuple[InputSpec, ...] = _inputs(program)
        self.settings: Mapping[str, str] = _read_back(torch)
        self._from_numpy = torch.from_numpy
        self._without_grad = torch.inference_mode
        self._module = program.module()

    def bind(self, feeds: Sequence[Feed]) -> Callable[[], None]:
        """A callable that runs one inference and drops its result; it cycles through `feeds`."""
        run, without_grad = self._module, self._without_grad
        following = itertools.cycle([self._tensors(feed) for feed in feeds]).__next__

        def call() -> None:
            with without_grad():
                run(*following())

        return call

    def infer(self, feed: Feed) -> list[NDArray[Any]]:
        """The outputs for one feed; raises Refused (model_run, out_of_memory)."""
        try:
            with self._without_grad():
                return [tensor.numpy() for tensor in _flat(self._module(*self._tensors(feed)))]
        except Exception as exc:  # as above
            raise self.explain(exc) from exc

    def explain(self, error: Exception) -> Refused:
        """What an exception of a bound callable means."""
        return _refused(FailureKind.MODEL_RUN, "cannot run the model", error)

    def _tensors(self, feed: Feed) -> tuple[Any, ...]:
        """The feed's arrays in the order of the inputs; their memory is shared, not copied."""
        return tuple(
            self._from_numpy(np.require(feed[spec.name], requirements=["C", "W"]))
            for spec in self.inputs
        )


def _set_threads(torch: Any, options: RuntimeOptions) -> None:
    """Threads within an operator and between operators; the latter can be set once a process."""
    torch.set_num_threads(options.intra_op_num_threads)
    if torch.get_num_interop_threads() != options.inter_op_num_threads:
        torch.set_num_interop_threads(options.inter_op_num_threads)


def _read_back(torch: Any) -> dict[str, str]:
    """What holds in this process, by torch's own names; options it has not are not claimed."""
    return {
        "num_threads": str(torch.get_num_threads()),
        "num_interop_threads": str(torch.get_num_interop_threads()),
        "inference_mode": "True",
        "backends.mkldnn.enabled": str(torch.backends.mkldnn.enabled),
        "backends.cpu.capability": str(torch.backends.cpu.get_cpu_capability()),
    }


def _inputs(program: Any) -> tuple[InputSpec, ...]:
    """The inputs that are not weights, in order."""
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    found = []
    for name in program.graph_signature.user_inputs:
        value = values[name]
        declared = str(value.dtype).removeprefix("torch.")
        shape = tuple(n if isinstance(n, int) else None for n in value.shape)
        found.append(InputSpec(name, _numpy_name(declared), shape, declared))
    return tuple(found)


def _numpy_name(declared: str) -> str | None:
    """The type by numpy's name, which is mostly torch's own; None for those that numpy lacks."""
    try:
        return np.dtype(declared).name
    except TypeError:
        return None


def _flat(output: Any) -> list[Any]:
    """The tensors of an output, which may be nested in tuples, lists and dicts."""
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return [tensor for part in output for tensor in _flat(part)]
    return [output]


def _refused(kind: FailureKind, what: str, error: Exception) -> Refused:
    return refused(kind, what, error, _NO_MEMORY)
