"""Step `sparsify`: unstructured pruning by magnitude, without training.

The smallest weights become zero in place. The file keeps its size and its operators, and no
kernel of ONNX Runtime skips zeros; what is gained is a smaller file once it is compressed.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from models.errors import BuildFailed
from models.onnxfile import load
from models.steps.base import StepInput, StepResult
from models.steps.graph import LEARNED_OPS, name_nodes
from models.steps.selection import left_out

_FLOATS = ("float32", "float16")


def run(given: StepInput) -> StepResult:
    """Prune the source; raises RecipeError, BuildFailed where no weights were chosen."""
    if given.source is None:
        raise ValueError("a model file is needed")
    model = load(given.source)
    name_nodes(model.graph)
    spared = set(left_out(model, given.params.only, given.params.exclude))
    names = prunable(node for node in model.graph.node if node.name not in spared)
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in names]
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}
    values = {name: array for name, array in values.items() if array.dtype.name in _FLOATS}
    if not values:
        raise BuildFailed(
            "no convolution or product with float weights was chosen; sparsify before quantizing, "
            "and see `only` and `exclude`"
        )
    pruned = prune(values, given.params.ratio, whole=given.params.scope == "network")
    for tensor in tensors:
        if tensor.name in pruned:
            tensor.CopyFrom(numpy_helper.from_array(pruned[tensor.name], tensor.name))
    zeros = sum(int((array == 0).sum()) for array in pruned.values())
    total = sum(array.size for array in pruned.values())
    given.log(f"{zeros:,} of {total:,} weights in {len(pruned)} layers are zero")
    target = given.work / "model.onnx"
    target.write_bytes(model.SerializeToString(deterministic=True))
    return StepResult(target)


def prunable(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Names of the tensors that learned layers multiply by: the second input, never a bias."""
    return {node.input[1] for node in nodes if node.op_type in LEARNED_OPS}


def prune(
    values: dict[str, NDArray[np.floating]], ratio: float, *, whole: bool
) -> dict[str, NDArray[np.floating]]:
    """Copies with the share `ratio` of their smallest magnitudes at zero.

    The share is of each tensor or, with `whole`, of all together.
    """
    if not whole:
        return {name: _without_smallest(array, ratio) for name, array in values.items()}
    joined = np.concatenate([array.ravel() for array in values.values()])
    flat = _without_smallest(joined, ratio)
    ends = np.cumsum([array.size for array in values.values()])[:-1]
    parts = np.split(flat, ends)
    return {
        name: part.reshape(array.shape).astype(array.dtype)
        for (name, array), part in zip(values.items(), parts, strict=True)
    }


def _without_smallest(array: NDArray[np.floating], ratio: float) -> NDArray[np.floating]:
    flat = array.ravel().copy()
    count = round(ratio * flat.size)
    flat[np.argpartition(np.abs(flat), max(count - 1, 0))[:count]] = 0
    return flat.reshape(array.shape)
