"""Runtimes by name; another one is one more file and one more line here.

Their modules import no runtime: each does when it is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agent.errors import Refused
from agent.runtimes.base import Feed, InputSpec, LoadedModel, Runtime
from agent.runtimes.litert_tflite import LiteRt
from agent.runtimes.onnxruntime import OnnxRuntime
from agent.runtimes.torch_eager import TorchEager
from agent.wire import FailureKind

RUNTIMES: Final[dict[str, Callable[[], Runtime]]] = {
    "onnxruntime": OnnxRuntime,
    "torch": TorchEager,
    "litert": LiteRt,
}


def runtime(name: str) -> Runtime:
    """The runtime of that name; raises Refused (bad_request, runtime_missing)."""
    if name not in RUNTIMES:
        known = ", ".join(RUNTIMES)
        raise Refused(FailureKind.BAD_REQUEST, f"no runtime '{name}' (known: {known})")
    return RUNTIMES[name]()


__all__ = ["RUNTIMES", "Feed", "InputSpec", "LoadedModel", "Runtime", "runtime"]
