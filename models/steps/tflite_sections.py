"""Whose the weights of a TensorFlow Lite file are. Imports LiteRT and torch.

litert-torch names an operator's result after the modules that made it, from the outermost:
`...OneImage/...UNet_net/...Encoder_encoder/.../torch.nn.modules.conv.Conv2d_0;...`, each by its
class and the last part of its name. Lists of modules are left out, for nobody calls them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema
from torch import nn

from models.figures import OTHER
from models.nets.parts import Prefixes

LEARNED = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "CONV_3D")
_BELOW_THE_NETWORK = 2
"""Behind the wrapper and the network itself."""


def weight_bytes(path: Path, module: nn.Module, sections: Prefixes) -> dict[str, int] | None:
    """Bytes of the file's constants by section of `module`; None where its names do not tell.

    A constant belongs to the first operator that reads it; equal ones share their bytes. An
    operator that no module names (padding, the decode) belongs to the latest section that it reads
    from, as in ONNX (models/sections.py).
    """
    model = schema.Model.GetRootAsModel(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    names = _names(module, sections)
    order = {section: place for place, section in enumerate(sections)}
    made: dict[int, str] = {}  # tensor -> the section that it comes from
    owners: dict[int, str] = {}  # buffer -> the section that reads it first
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        reads = [operator.Inputs(place) for place in range(operator.InputsLength())]
        reads = [tensor for tensor in reads if tensor >= 0]  # -1: an input that is left out
        gives = [operator.Outputs(place) for place in range(operator.OutputsLength())]
        section = _named(graph.Tensors(gives[0]).Name().decode(), names)
        if section is None and _learned(model, operator):
            return None
        if section is None:
            before = [made[tensor] for tensor in reads if tensor in made]
            section = max(before, key=lambda name: order[name], default=None)
        if section is not None:
            made.update(dict.fromkeys(gives, section))
        for tensor in reads:
            owners.setdefault(graph.Tensors(tensor).Buffer(), section or OTHER)
    sums: dict[str, int] = defaultdict(int)
    for buffer, section in owners.items():
        sums[section] += buffer_bytes(model.Buffers(buffer))
    return sums


def buffer_bytes(buffer: Any) -> int:
    """Bytes of a buffer, which may lie within the table or behind it."""
    return int(buffer.DataLength() or buffer.Size())


def _names(module: nn.Module, sections: Prefixes) -> Mapping[str, str]:
    """What the converter calls a section's outermost modules; one of two sections is left out."""
    found: dict[str, set[str]] = defaultdict(set)
    for section, beginnings in sections.items():
        for begin in beginnings:
            for name in _called(begin, module.get_submodule(begin)):
                found[name].add(section)
    return {name: of.pop() for name, of in found.items() if len(of) == 1}


def _called(name: str, module: nn.Module) -> Iterator[str]:
    """A module as the converter calls it; of a list its members."""
    if isinstance(module, nn.ModuleList):
        for place, member in enumerate(module):
            yield from _called(str(place), member)
        return
    kind = type(module)
    yield f"{kind.__module__}.{kind.__qualname__}_{name.rpartition('.')[2]}"


def _named(result: str, names: Mapping[str, str]) -> str | None:
    parts = result.partition(";")[0].split("/")
    return names.get(parts[_BELOW_THE_NETWORK]) if len(parts) > _BELOW_THE_NETWORK else None


def _learned(model: Any, operator: Any) -> bool:
    """True for a layer with weights; older files have its code in a field of their own."""
    code = model.OperatorCodes(operator.OpcodeIndex())
    known = {getattr(schema.BuiltinOperator, kind) for kind in LEARNED}
    return max(code.BuiltinCode(), code.DeprecatedBuiltinCode()) in known
