"""Writes down what a step made: its Manifest."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

import msgspec

from models.chain import Link, VariantRequest
from models.errors import BuildFailed
from models.explain import compressed_bytes, explain
from models.figures import Figures
from models.nets.arch import metadata_of, read_header
from models.nets.registry import FAMILIES
from models.onnxfile import OnnxInfo, describe
from models.spec import file_digest
from models.steps import StepResult
from models.steps.base import FileInfo
from models.steps.graph import INTEGER_OPS, fused, optimized_nodes, unfused_qdq
from models.steps.isa import family, host_isa
from models.store import Artifact, Manifest, StepRecord
from models.tensors import TensorInfo


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
    calibrated = _calibrated(request, link, before)
    trained = request.training if link.step.needs_training else None
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
        calibration_digest=calibrated[0],
        calibration_items=calibrated[1],
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
        training_digest=trained.digest if trained else (before.training_digest if before else None),
        curves=(*(before.curves if before else ()), *result.curves),
        figures=_figures(request, link, before, result),
        created_utc=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _calibrated(
    request: VariantRequest, link: Link, before: Manifest | None
) -> tuple[str | None, int | None]:
    """Digest and number of the last calibration files on the way here."""
    if link.step.needs_calibration and request.calibration is not None:
        return request.calibration.digest, len(request.calibration.images)
    return (before.calibration_digest, before.calibration_items) if before else (None, None)


def _figures(
    request: VariantRequest, link: Link, before: Manifest | None, result: StepResult
) -> Figures | None:
    """What can be counted; files that cannot be inspected keep what is known of their parent."""
    if link.step.makes == "onnx":
        return explain(result.path, request.model.shapes)
    if link.step.makes == "net":
        return None
    size_bytes = compressed_bytes(result.path)
    known = before.figures if before is not None else None
    if known is None:
        macs = result.info.macs if result.info is not None else None
        sections = result.info.sections if result.info is not None else ()
        note = "parameters and multiply-accumulates: of the network that it was made from"
        if macs is None:
            note = f"multiply-accumulates not counted: {link.step.makes} is not ONNX"
        elif any(part.weight_bytes is None for part in sections):
            note += "; the file does not tell whose its weights are"
        return Figures(
            macs=macs,
            compressed_bytes=size_bytes,
            sparsity=None,
            sections=sections,
            note=note,
        )
    return msgspec.structs.replace(known, compressed_bytes=size_bytes)


def _info(link: Link, before: Manifest | None, result: StepResult) -> OnnxInfo:
    """What is in the file, in the words of ONNX whatever its format is."""
    if link.step.makes == "onnx":
        info = describe(result.path)
        if before is None or not link.step.keeps_parameters:
            return info
        return dataclasses.replace(info, parameters=before.parameters)
    if link.step.makes == "ort":
        return _ort_info(before, result)
    told = result.info if result.info is not None else _net_info(result.path)
    return OnnxInfo(
        inputs=told.inputs,
        outputs=told.outputs,
        metadata=told.metadata,
        opset=0,
        nodes=result.node_counts or {},
        parameters=told.parameters,
        weight_bytes=told.weight_bytes,
        external_files=(),
    )


def _ort_info(before: Manifest | None, result: StepResult) -> OnnxInfo:
    if before is None or result.node_counts is None:
        raise BuildFailed("a file of ORT format has to come with a parent and its node counts")
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


def _net_info(path: Path) -> FileInfo:
    """A network: its outputs depend on what it is exported for."""
    header = read_header(path)
    size = header.arch.imgsz_px
    return FileInfo(
        inputs={"images": TensorInfo("float32", (1, 3, size, size))},
        outputs={},
        metadata=metadata_of(header.arch, FAMILIES[header.arch.family].task),
        parameters=header.parameters,
        weight_bytes=header.weight_bytes,
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
    if link.step.makes != "onnx":
        return None, None, f"not counted: {link.step.makes} is not ONNX"
    if not any(nodes.get(op) for op in ("QuantizeLinear", *INTEGER_OPS)):
        return {}, 0, None
    host = family(host_isa())
    if family(isa) != host:
        return None, None, f"not counted: host is {host}"
    optimized = optimized_nodes(result.path, work)
    return fused(optimized), unfused_qdq(optimized), None
