"""The conversion to TensorFlow Lite, run as a program: `python -m models.steps.tflite_child FILE`.

FILE has the request as JSON; `result.json` in the working folder has the answer: inputs, outputs,
operators, the size of the weights, the network's parameters, multiply-accumulates and sections, or
`failed` (import, data, nothing) and `error`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from models.errors import DataError, NothingQuantized
from models.orphan import end_with_parent


def main(file: str) -> None:
    """Convert; foreign output goes where the parent collects it."""
    request: dict[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
    end_with_parent(request["parent_pid"])
    try:
        answer = _convert(request)
    except ImportError as exc:
        answer = {"failed": "import", "error": f"{type(exc).__name__}: {exc}"}
    except DataError as exc:
        answer = {"failed": "data", "error": str(exc)}
    except NothingQuantized as exc:
        answer = {"failed": "nothing", "error": str(exc)}
    Path("result.json").write_text(json.dumps(answer), encoding="utf-8")


def _convert(request: dict[str, Any]) -> dict[str, Any]:
    import litert_torch  # noqa: PLC0415 - a missing package is reported, not raised
    import torch  # noqa: PLC0415 - as above

    from models.nets import parts  # noqa: PLC0415 - needs torch
    from models.nets.net import load_net  # noqa: PLC0415 - needs torch
    from models.nets.work import macs_by_module  # noqa: PLC0415 - needs torch
    from models.steps import tflite_quantize, tflite_sections  # noqa: PLC0415 - need LiteRT
    from models.steps.export_pt2 import for_inference  # noqa: PLC0415 - needs torch

    net = load_net(Path(request["source"]))
    size, sections = net.arch.imgsz_px, parts.prefixes(net.arch)
    with torch.no_grad():
        example = {"images": torch.zeros(1, 3, size, size)}
        made = litert_torch.convert(for_inference(net), sample_kwargs=example)
    target = Path(request["target"])
    made.export(str(target))
    log = []
    if request["quantize"] != "none":
        log = tflite_quantize.quantize(target, request, size)
    parameters = {name: value.numel() for name, value in net.module.named_parameters()}
    macs = macs_by_module(net.module, size)
    found = parts.shares(
        sections,
        parts.by_section(parameters, sections),
        tflite_sections.weight_bytes(target, net.module, sections),
        parts.by_section(macs, sections),
    )
    return tflite_quantize.describe(target) | {
        "log": log,
        "parameters": sum(parameters.values()),
        "macs": sum(macs.values()),
        "sections": msgspec.to_builtins(found),
    }


if __name__ == "__main__":
    main(sys.argv[1])
