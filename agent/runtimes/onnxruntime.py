"""ONNX Runtime on the CPU, with every option explicit and read back from the session."""

from __future__ import annotations

import importlib
import importlib.metadata
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from agent.errors import Refused
from agent.fingerprint import cpu_model
from agent.runtimes.base import Feed, InputSpec, refused, require_format
from agent.wire import FailureKind, ModelFormat, RuntimeOptions

PROVIDERS: Final = ("CPUExecutionProvider",)

BROKEN_VERSION: Final = "1.21.0"
BROKEN_CPUS: Final = ("Cortex-A53", "Cortex-A72")
"""That version executes an instruction these cores lack as soon as it is imported
(onnxruntime issue 23957); 1.20.1 and 1.21.1 do not."""

_GRAPH_LEVELS: Final = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_DTYPES: Final = {
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}
_NO_MEMORY: Final = ("bad_alloc", "bad allocation", "Failed to allocate memory")


def refusal(version: str | None, cpu: str | None) -> str | None:
    """Why this version of ONNX Runtime must not be imported on this CPU, or None."""
    if version != BROKEN_VERSION or not any(name in (cpu or "") for name in BROKEN_CPUS):
        return None
    return (
        f"onnxruntime {version} dies of an illegal instruction on {cpu}; "
        "install 1.20.1, or 1.21.1 or newer, on the board"
    )


class OnnxRuntime:
    """The runtime named `onnxruntime`; a file may be ONNX or the ORT format."""

    def __init__(self) -> None:
        """Import the package; raises Refused with kind runtime_missing."""
        self._ort = _import_onnxruntime()

    def load(self, path: Path, model_format: ModelFormat, options: RuntimeOptions) -> OnnxModel:
        """Load a model; raises Refused (bad_request, model_load, out_of_memory)."""
        require_format("onnxruntime", model_format, ("onnx", "ort"))
        ort = self._ort
        session_options = _session_options(ort, model_format, options)
        try:
            session = ort.InferenceSession(str(path), session_options, providers=list(PROVIDERS))
        except Exception as exc:  # ORT's errors share no base class but Exception
            raise _refused(FailureKind.MODEL_LOAD, "cannot load the model", exc) from exc
        return OnnxModel(ort.__version__, session, model_format)


class OnnxModel:
    """A session, its inputs and the settings it really has."""

    def __init__(self, version: str, session: Any, model_format: str) -> None:
        self.runtime_version = version
        self.inputs: tuple[InputSpec, ...] = tuple(map(_input_spec, session.get_inputs()))
        self.settings: Mapping[str, str] = _read_back(session, model_format)
        self._run = session.run

    def bind(self, feeds: Sequence[Feed]) -> Callable[[], None]:
        """A callable that runs one inference and drops its result; it cycles through `feeds`."""
        run = self._run
        if len(feeds) == 1:
            bound: Callable[[], None] = partial(run, None, feeds[0])
            return bound
        following = itertools.cycle(feeds).__next__

        def call() -> None:
            run(None, following())

        return call

    def infer(self, feed: Feed) -> list[NDArray[Any]]:
        """The outputs for one feed; raises Refused (model_run, out_of_memory)."""
        try:
            outputs: list[NDArray[Any]] = self._run(None, feed)
        except Exception as exc:  # as above
            raise self.explain(exc) from exc
        return outputs

    def explain(self, error: Exception) -> Refused:
        """What an exception of a bound callable means."""
        return _refused(FailureKind.MODEL_RUN, "cannot run the model", error)


def _import_onnxruntime() -> Any:
    """The package; raises Refused where it is missing, broken, or deadly on this CPU."""
    try:
        reason = refusal(_installed_version(), cpu_model())
        if reason is not None:
            raise Refused(FailureKind.RUNTIME_MISSING, reason)
        ort = importlib.import_module("onnxruntime")
        quiet = getattr(ort, "disable_telemetry_events", None)  # absent from some builds
        if quiet is not None:
            quiet()
    except (ImportError, AttributeError) as exc:
        raise Refused(
            FailureKind.RUNTIME_MISSING,
            f"onnxruntime cannot be imported ({type(exc).__name__}: {exc}); "
            "install it for the board's python",
        ) from exc
    return ort


def _installed_version() -> str | None:
    """Version of the package without importing it; None for a build of another name."""
    try:
        return importlib.metadata.version("onnxruntime")
    except importlib.metadata.PackageNotFoundError:
        return None


def _session_options(ort: Any, model_format: str, options: RuntimeOptions) -> Any:
    """Every option set, defaults too: they differ between versions and boards."""
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = options.intra_op_num_threads
    chosen.inter_op_num_threads = options.inter_op_num_threads
    chosen.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    level = _GRAPH_LEVELS[options.graph_optimization_level]
    chosen.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    chosen.enable_cpu_mem_arena = options.enable_cpu_mem_arena
    chosen.enable_mem_pattern = options.enable_mem_pattern
    chosen.enable_mem_reuse = True
    chosen.enable_profiling = False
    for name, value in _config_entries(model_format, options).items():
        chosen.add_session_config_entry(name, value)
    return chosen


def _config_entries(model_format: str, options: RuntimeOptions) -> dict[str, str]:
    spinning = str(int(options.allow_spinning))
    return {
        # Files are named by digest, so their format is not to be guessed from a suffix.
        "session.load_model_format": model_format.upper(),
        "session.intra_op.allow_spinning": spinning,
        "session.inter_op.allow_spinning": spinning,
        "session.set_denormal_as_zero": "0",
        "session.disable_prepacking": "0",
    }


def _read_back(session: Any, model_format: str) -> dict[str, str]:
    """The options as the session reports them, by ORT's own names."""
    applied = session.get_session_options()
    names = (
        "intra_op_num_threads",
        "inter_op_num_threads",
        "execution_mode",
        "graph_optimization_level",
        "enable_cpu_mem_arena",
        "enable_mem_pattern",
        "enable_mem_reuse",
    )
    settings = {name: str(getattr(applied, name)).rpartition(".")[2] for name in names}
    config = _config_entries(model_format, RuntimeOptions(intra_op_num_threads=1))
    settings |= {name: str(applied.get_session_config_entry(name)) for name in config}
    settings["providers"] = ",".join(session.get_providers())
    return settings


def _input_spec(declared: Any) -> InputSpec:
    """One input; a dimension that is not a positive whole number is dynamic."""
    shape = tuple(n if isinstance(n, int) and n > 0 else None for n in declared.shape or ())
    return InputSpec(declared.name, _DTYPES.get(declared.type), shape, declared.type)


def _refused(kind: FailureKind, what: str, error: Exception) -> Refused:
    return refused(kind, what, error, _NO_MEMORY)
