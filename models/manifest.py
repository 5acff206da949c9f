"""Writes down what a step made: its Manifest."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

from models.chain import Link, VariantRequest
from models.errors import BuildFailed
from models.onnxfile import OnnxInfo, describe
from models.spec import file_digest
from models.steps import StepResult
from models.steps.graph import fused, optimized_nodes, unfused_qdq
from models.steps.isa import family, host_isa
from models.store import Artifact, Manifest, StepRecord


def describe_result(
    request: VariantRequest, link: Link, parent: Artifact | None, result: StepResult, work: Path
) -> Manifest:
    """The manifest of a step's new file; raises ModelUnreadable where it is not what it should be.

    `work` is a scratch folder. An ORT-format file cannot be inspected: it keeps its parent's
    inputs, outputs, metadata and parameter count.
    """
    before = parent.manifest if parent else None
    info = _info(link, before, result)
    kernels, left, note = _fused(request.isa, link, result, info.nodes, work)
    calibrated = request.calibration if link.step.needs_calibration else None
    return Manifest(
        sha256=file_digest(result.path),
        size_bytes=result.path.stat().st_size,
        format=link.step.makes,
        parent_sha256=parent.sha256 if parent else None,
        model=request.model.name,
        recipe=request.recipe.name,
        isa=request.isa,
        steps=(
            *(before.steps if before else ()),
            StepRecord(link.step.name, link.params, link.choices),
        ),
        tool_versions=link.tools(),
        calibration_digest=calibrated.digest if calibrated else None,
        calibration_items=len(calibrated.images) if calibrated else None,
        inputs=info.inputs,
        outputs=info.outputs,
        metadata=info.metadata,
        opset=info.opset,
        parameters=info.parameters,
        weight_bytes=info.weight_bytes,
        node_counts=info.nodes,
        fused_kernels=kernels,
        unfused_qdq=left,
        fused_note=note,
        created_utc=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _info(link: Link, before: Manifest | None, result: StepResult) -> OnnxInfo:
    if link.step.makes == "onnx":
        info = describe(result.path)
        if before is None or not link.step.keeps_parameters:
            return info
        return dataclasses.replace(info, parameters=before.parameters)
    if before is None or result.node_counts is None:
        raise BuildFailed("a file that is not ONNX has to come with a parent and its node counts")
    return OnnxInfo(
        inputs=before.inputs,
        outputs=before.outputs,
        metadata=before.metadata,
        opset=before.opset,
        nodes=result.node_counts,
        parameters=before.parameters,
        weight_bytes=before.weight_bytes,
        external_files=(),
    )


def _fused(
    isa: str, link: Link, result: StepResult, nodes: dict[str, int], work: Path
) -> tuple[dict[str, int] | None, int | None, str | None]:
    """Quantized kernels, Q/DQ nodes that stay, and why they could not be counted.

    An ORT-format file holds the optimized graph itself, so it is counted for any target. What
    ONNX Runtime makes of an ONNX file depends on the CPU it runs on.
    """
    if link.step.makes == "ort":
        return fused(nodes), unfused_qdq(nodes), None
    if not nodes.get("QuantizeLinear"):
        return {}, 0, None
    host = family(host_isa())
    if family(isa) != host:
        return None, None, f"not counted: host is {host}"
    optimized = optimized_nodes(result.path, work)
    return fused(optimized), unfused_qdq(optimized), None
