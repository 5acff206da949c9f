"""Quantizes a TensorFlow Lite file in place, and tells what is in one. Imports LiteRT."""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_quantizer import quantizer, recipe

from agent.wire import ImagePrep
from models.errors import NothingQuantized
from models.spec import CalibrationSpec
from models.steps.calibrate import Feed, Reader
from models.steps.kinds import DECODE
from models.steps.tflite_sections import LEARNED, buffer_bytes
from models.tensors import TensorInfo

_FLOAT = "no_quantize"
_SIGNATURE = "serving_default"
"""What litert-torch calls the only signature."""


@dataclass(frozen=True)
class Operator:
    """One operator of a file, with the names of what it reads and gives."""

    kind: str
    reads: tuple[str, ...]
    gives: tuple[str, ...]

    @property
    def scope(self) -> str:
        """What the quantizer knows an operator by."""
        return "".join(f"{name};" for name in self.gives)


def quantize(path: Path, request: Mapping[str, Any], size: int) -> list[str]:
    """Quantize the file in place; raises NothingQuantized and DataError. What to log comes back.

    Inputs and outputs stay float32: a board feeds prepared images. The decode stays in float for
    the same reason as in ONNX (models/steps/graph.py).
    """
    before = describe(path)
    found = operators(path)
    static = request["quantize"] == "int8"
    rules = list(recipe.static_wi8_ai8() if static else recipe.dynamic_wi8_afp32())
    kept = excluded(found, request["exclude"]) if static else []
    rules += [_float_rule(f"^{re.escape(one.scope)}$", "*") for one in kept]
    rules += [_float_rule(".*", operation) for operation in ("INPUT", "OUTPUT")]
    worker = quantizer.Quantizer(str(path), rules)
    ranges = worker.calibrate({_SIGNATURE: _Feeds(request, size)}) if static else None
    made = worker.quantize(ranges, enable_progress_report=False).quantized_model
    path.write_bytes(made)
    after = describe(path)
    if not after["int8_tensors"] or after["weight_bytes"] >= before["weight_bytes"]:
        raise NothingQuantized(
            f"{after['int8_tensors']} INT8 tensors; weights {before['weight_bytes']} -> "
            f"{after['weight_bytes']} bytes: the result would pass for INT8 and is not"
        )
    return [f"quantized {len(found) - len(kept)} of {len(found)} operators"]


def _float_rule(pattern: str, operation: str) -> dict[str, Any]:
    return {
        "regex": pattern, "operation": operation, "algorithm_key": _FLOAT, "op_config": {},
    }  # fmt: skip


class _Feeds:
    """Calibration inputs, prepared one at a time as the quantizer asks for them."""

    def __init__(self, request: Mapping[str, Any], size: int) -> None:
        prep = request["prep"]
        images = tuple(Path(name) for name in request["images"])
        self._spec = CalibrationSpec(images, ImagePrep(**prep) if prep else None, "")
        self._inputs = {"images": TensorInfo("float32", (1, 3, size, size))}

    def __len__(self) -> int:
        return len(self._spec.images)

    def __iter__(self) -> Iterator[Feed]:
        reader = Reader(self._spec, self._inputs, print)
        while (feed := reader.get_next()) is not None:
            yield {name: np.asarray(feed[name]) for name in self._inputs}


def excluded(found: Sequence[Operator], patterns: Sequence[str]) -> list[Operator]:
    """Operators to keep in float, by patterns of their outputs' names or the word `decode`.

    The decode is everything behind which no learned layer follows. Raises NothingQuantized for a
    pattern that matches nothing, `decode` excepted.
    """
    chosen: set[int] = set()
    for pattern in patterns:
        matched = (
            decode(found)
            if pattern == DECODE
            else {
                index
                for index, one in enumerate(found)
                if any(fnmatch.fnmatchcase(name, pattern) for name in one.gives)
            }
        )
        if not matched and pattern != DECODE:
            raise NothingQuantized(f"exclude: pattern {pattern!r} matches no operator's output")
        chosen |= matched
    return [found[index] for index in sorted(chosen)]


def decode(found: Sequence[Operator]) -> set[int]:
    """Places of the operators behind which no learned layer follows; `found` is in order."""
    readers: dict[str, list[int]] = {}
    for index, one in enumerate(found):
        for name in one.reads:
            readers.setdefault(name, []).append(index)
    leads: dict[int, bool] = {}
    for index in reversed(range(len(found))):
        one = found[index]
        leads[index] = one.kind in LEARNED or any(
            leads[reader] for name in one.gives for reader in readers.get(name, ())
        )
    return {index for index, learned in leads.items() if not learned}


def operators(path: Path) -> list[Operator]:
    """The operators in the order in which they run, delegates left aside."""
    interpreter = _open(path)
    names = {entry["index"]: str(entry["name"]) for entry in interpreter.get_tensor_details()}
    return [
        Operator(
            entry["op_name"],
            tuple(names[index] for index in entry["inputs"] if index in names),
            tuple(names[index] for index in entry["outputs"] if index in names),
        )
        for entry in interpreter._get_ops_details()  # noqa: SLF001 - nothing public lists operators
    ]


def describe(path: Path) -> dict[str, Any]:
    """Inputs, outputs, operators, the size of the constants, and how many tensors are INT8."""
    interpreter = _open(path)
    runner = interpreter.get_signature_runner(_SIGNATURE)
    entries = interpreter._get_ops_details()  # noqa: SLF001 - as above
    tensors = interpreter.get_tensor_details()
    model = schema.Model.GetRootAsModel(path.read_bytes(), 0)
    return {
        "inputs": _io(runner.get_input_details()),
        "outputs": _io(runner.get_output_details()),
        "operators": dict(sorted(Counter(entry["op_name"] for entry in entries).items())),
        "weight_bytes": sum(map(buffer_bytes, map(model.Buffers, range(model.BuffersLength())))),
        "int8_tensors": sum(np.dtype(entry["dtype"]) == np.int8 for entry in tensors),
    }


def _open(path: Path) -> Any:
    """An interpreter without delegates, whose operators are those of the file."""
    interpreter = Interpreter(
        model_path=str(path),
        num_threads=1,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    return interpreter


def _io(details: Mapping[str, Any]) -> dict[str, tuple[str, list[int]]]:
    return {
        name: (np.dtype(entry["dtype"]).name, [int(n) for n in entry["shape"]])
        for name, entry in details.items()
    }
